/* ops_grid.c: images read at given points, and the points of an affine map (spatial transformers).  Jaderberg et al. 2015,
 * arXiv:1506.02025. */
#include "kernels/grid_sample.h"
#include "tensor/op.h"

static void grid_sample_backward(cb_backward_pass *pass)
{
    const cbk_grid_sample *s = pass->args;
    cb_tensor *x = pass->saved[0], *grid = pass->saved[1], *dy = cb_channels_last(pass->dy[0]);
    cb_tensor *dx = pass->need[0] ? cb_empty_channels_last(x->dtype, 4, x->shape) : NULL,
              *dgrid = pass->need[1] ? cb_empty_like(grid) : NULL;
    if (!dy || (pass->need[0] && !dx) || (pass->need[1] && !dgrid))
        return;
    cbk_grid_sample_backward(x->dtype, dx ? dx->data : NULL, dgrid ? dgrid->data : NULL, dy->data, x->data, grid->data, s);
    pass->dx[0] = dx;
    pass->dx[1] = dgrid;
}

const cb_op cb_op_grid_sample = {.name = "grid_sample", .backward = grid_sample_backward};

static bool check_grid(const cb_tensor *x, const cb_tensor *grid, cb_grid_sample_options o)
{
    if (x->ndim != 4 || grid->ndim != 4 || !cb_dtype_is_float(x->dtype) || grid->dtype != x->dtype || grid->shape[0] != x->shape[0] ||
        grid->shape[3] != 2 || x->shape[2] < 1 || x->shape[3] < 1)
        return cb_fail(CB_ERR_SHAPE, "grid_sample: images %s and grid %s, expected (N, C, H, W) and (N, OH, OW, 2) of one dtype",
                       cb_shape_text(x), cb_shape_text(grid)) == CB_OK;
    if (o.mode != CB_NEAREST && o.mode != CB_LINEAR)
        return cb_fail(CB_ERR_UNSUPPORTED, "grid_sample: mode %d, expected nearest or linear", (int)o.mode) == CB_OK;
    return true;
}

cb_tensor *cb_grid_sample_with(cb_tensor *x, cb_tensor *grid, cb_grid_sample_options options)
{
    if (!x || !grid || !check_grid(x, grid, options))
        return NULL;
    if (cb_dtype_is_half(x->dtype))
        return cb_cast(cb_grid_sample_with(cb_cast(x, CB_F32), cb_cast(grid, CB_F32), options), x->dtype);
    x = cb_channels_last(x);
    grid = cb_contiguous(grid);
    if (!x || !grid)
        return NULL;
    int64_t shape[] = {x->shape[0], x->shape[1], grid->shape[1], grid->shape[2]};
    cbk_grid_sample s = {.n = shape[0],
                         .c = shape[1],
                         .h = x->shape[2],
                         .w = x->shape[3],
                         .places = shape[2] * shape[3],
                         .nearest = options.mode == CB_NEAREST,
                         .border = options.outside == CB_OUTSIDE_BORDER,
                         .reflection = options.outside == CB_OUTSIDE_REFLECTION,
                         .align_corners = options.align_corners};
    cb_tensor *y = cb_empty_channels_last(x->dtype, 4, shape);
    if (!y)
        return NULL;
    cbk_grid_sample_forward(x->dtype, y->data, x->data, grid->data, &s);
    cb_tensor *ins[] = {x, grid}, *saves[] = {x, grid};
    return CB_RECORD(&cb_op_grid_sample, y, ins, saves, &s, sizeof s) ? y : NULL;
}

/* (x, y, 1) of each place, in f64. */
static cb_tensor *base_points(int64_t h, int64_t w, bool align_corners)
{
    cb_tensor *base = cb_empty(CB_F64, h * w, 3);
    double *at = base ? base->data : NULL;
    for (int64_t i = 0; at && i < h * w; i++) {
        int64_t place[] = {i % w, i / w}, size[] = {w, h};
        for (int d = 0; d < 2; d++)
            at[3 * i + d] = !align_corners ? (double)(2 * place[d] + 1) / (double)size[d] - 1
                            : size[d] > 1  ? 2 * (double)place[d] / (double)(size[d] - 1) - 1
                                           : 0;
        at[3 * i + 2] = 1;
    }
    return base;
}

cb_tensor *cb_affine_grid(cb_tensor *theta, int64_t h, int64_t w, bool align_corners)
{
    if (!theta)
        return NULL;
    if (theta->ndim != 3 || theta->shape[1] != 2 || theta->shape[2] != 3 || !cb_dtype_is_float(theta->dtype) || h < 1 || w < 1) {
        cb_fail(CB_ERR_SHAPE, "affine_grid: %s for %lld by %lld places, expected floating-point (N, 2, 3)", cb_shape_text(theta),
                (long long)h, (long long)w);
        return NULL;
    }
    cb_tensor *base = cb_cast(base_points(h, w, align_corners), theta->dtype);
    return cb_reshape(cb_matmul(base, cb_transpose(theta, 1, 2)), theta->shape[0], h, w, 2);
}
