/* ops_pool.c: maxima of windows. */
#include "kernels/kernels.h"
#include "kernels/resample.h"
#include "tensor/op.h"

bool cb_place_windows(const char *op, int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int64_t *out)
{
    const int64_t most = INT32_MAX;
    bool sane = kernel > 0 && stride > 0 && dilation > 0 && padding >= 0 && in <= most && kernel <= most && stride <= most &&
                dilation <= most && padding <= kernel / 2;
    sane = sane && (padding == 0 || kernel == 1 || dilation <= in); /* else a window's elements may all be padding */
    int64_t room = sane ? in + 2 * padding - dilation * (kernel - 1) : 0;
    if (room < 1 || in < 1)
        return cb_fail(CB_ERR_SHAPE,
                       "%s: windows of %lld (stride %lld, dilation %lld, padding %lld) in %lld places: expected room for one, a padding "
                       "of at most half of it and an element in each",
                       op, (long long)kernel, (long long)stride, (long long)dilation, (long long)padding, (long long)in) == CB_OK;
    *out = (room - 1) / stride + 1;
    return true;
}

/* Of a byte where windows are small. */
static cb_tensor *packed(cb_tensor *index, const cbk_windows *s)
{
    if (!cbk_max_pool_packs(s))
        return index;
    cb_tensor *element = cb_empty_channels_last(CB_U8, index->ndim, index->shape);
    if (element)
        cbk_max_pool_pack(element->data, index->data, s);
    return element;
}

static cb_tensor *unpacked(cb_tensor *saved, const cbk_windows *s)
{
    if (saved->dtype == CB_I32)
        return saved;
    cb_tensor *index = cb_empty_channels_last(CB_I32, saved->ndim, saved->shape);
    if (index)
        cbk_max_pool_unpack(index->data, saved->data, s);
    return index;
}

static cb_tensor *flattened(cb_tensor *x)
{
    return cb_reshape(x, x->shape[0], x->shape[1], -1);
}

/* With create_graph: the same sum in operations that can be differentiated. */
static cb_tensor *backward_recorded(const cb_backward_pass *pass, cb_tensor *index)
{
    const cb_edge *in = &pass->input[0];
    const cbk_windows *s = pass->args;
    int64_t places = 1;
    for (int d = 0; d < s->dims; d++)
        places *= s->in[d];
    cb_tensor *dy = cb_dtype_is_half(in->dtype) ? cb_cast(pass->dy[0], CB_F32) : pass->dy[0];
    cb_tensor *zeros = dy ? cb_zeros(dy->dtype, s->n, s->c, places) : NULL;
    cb_tensor *dx = zeros ? cb_scatter_add(zeros, 2, flattened(index), flattened(dy)) : NULL;
    return dx ? cb_cast(cb_reshape_nd(dx, in->ndim, in->shape), in->dtype) : NULL;
}

static void max_pool_backward(cb_backward_pass *pass)
{
    const cbk_windows *s = pass->args;
    cb_tensor *index = unpacked(pass->saved[0], s);
    if (index && cb_grad_enabled() && index->count) {
        pass->dx[0] = backward_recorded(pass, index);
        return;
    }
    cb_tensor *dy = cb_channels_last(pass->dy[0]),
              *dx = cb_empty_channels_last(pass->input[0].dtype, pass->input[0].ndim, pass->input[0].shape);
    if (!index || !dy || !dx)
        return;
    cbk_max_pool_backward(dx->dtype, dx->data, dy->data, index->data, s);
    pass->dx[0] = dx;
}

const cb_op cb_op_max_pool = {.name = "max_pool", .twice = true, .backward = max_pool_backward};

cb_tensor *cb_max_pool_with(cb_tensor *x, cb_pool_options options)
{
    if (!x)
        return NULL;
    if (x->ndim < 3 || x->ndim > 5 || !cb_dtype_is_float(x->dtype)) {
        cb_fail(CB_ERR_SHAPE, "max_pool: %s, expected floating-point (N, C, ...) of 1 to 3 spatial dimensions", cb_shape_text(x));
        return NULL;
    }
    cbk_windows s = {.dims = x->ndim - 2, .n = x->shape[0], .c = x->shape[1]};
    int64_t shape[5] = {s.n, s.c}, places = 1, elements = 1;
    bool small = true;
    for (int d = 0; d < s.dims; d++) {
        s.in[d] = x->shape[2 + d];
        s.kernel[d] = options.kernel[d];
        s.stride[d] = options.stride[d] ? options.stride[d] : s.kernel[d];
        s.padding[d] = options.padding[d];
        s.dilation[d] = options.dilation[d] ? options.dilation[d] : 1;
        if (!cb_place_windows("max_pool", s.in[d], s.kernel[d], s.stride[d], s.padding[d], s.dilation[d], &s.out[d]))
            return NULL;
        shape[2 + d] = s.out[d];
        /* each size is below 2^31, so no product overflows before it is refused */
        small = small && (places *= s.in[d]) <= INT32_MAX && (elements *= s.kernel[d]) <= INT32_MAX;
    }
    if (!small) {
        cb_fail(CB_ERR_SHAPE, "max_pool: windows of %s in %s, expected fewer than 2^31 places in each",
                cb_shape_text_nd((int)s.dims, s.kernel), cb_shape_text(x));
        return NULL;
    }
    if (!cbk_max_pool_takes(x->dtype, &s))
        return cb_cast(cb_max_pool_with(cb_cast(x, CB_F32), options), x->dtype);
    x = cb_channels_last(x);
    cb_tensor *y = x ? cb_empty_channels_last(x->dtype, x->ndim, shape) : NULL,
              *index = y ? cb_empty_channels_last(CB_I32, x->ndim, shape) : NULL;
    if (!index)
        return NULL;
    cbk_max_pool(x->dtype, y->data, index->data, x->data, &s);
    if (!cb_will_record(1, &x))
        return y;
    index = packed(index, &s);
    return index && cb_record(&cb_op_max_pool, 1, &y, 1, &x, 1, &index, &s, sizeof s) ? y : NULL;
}
