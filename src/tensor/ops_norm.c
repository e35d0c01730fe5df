/* ops_norm.c: norms, a scale and a shift for each column, softmax.
 *
 * Softmax has a backward rule of public operations as well, so it can be differentiated twice. */
#include "tensor/fused.h"

/* ---- norms ---- */

static void rms_norm_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = cb_contiguous(pass->dy[0]), *x = pass->saved[0], *w = pass->saved[1], *rstd = pass->saved[2];
    bool accumulate = false;
    cb_tensor *dx = pass->need[0] ? gradient_buffer(pass, 0, &accumulate) : NULL;
    cb_tensor *dw = parameter_sum(pass, 1, rstd->dtype);
    if (!dy || (pass->need[0] && !dx) || (pass->need[1] && !dw))
        return;
    if (!cbk_rms_norm_backward(x->dtype, dx ? dx->data : NULL, accumulate, dw ? dw->data : NULL, dy->data, x->data, w ? w->data : NULL,
                               w ? w->dtype : CB_F32, rstd->data, rows_of(x), x->shape[x->ndim - 1]))
        return;
    pass->dx[0] = dx;
    pass->dx[1] = dw ? cb_cast(dw, pass->input[1].dtype) : NULL;
}

static bool rms_norm_run(cb_tensor *y, cb_tensor *rstd, const cb_tensor *x, const cb_tensor *w, double eps)
{
    return cbk_rms_norm_forward(x->dtype, y->data, rstd ? rstd->data : NULL, x->data, w ? w->data : NULL, w ? w->dtype : CB_F32, rows_of(x),
                                x->shape[x->ndim - 1], eps);
}

static cb_tensor *rms_norm_again(const cb_backward_pass *pass)
{
    cb_tensor *y = cb_empty_like(pass->saved[0]);
    return y && rms_norm_run(y, NULL, pass->saved[0], pass->saved[1], *(const double *)pass->args) ? y : NULL;
}

const cb_op cb_op_rms_norm = {.name = "rms_norm", .backward = rms_norm_backward, .again = rms_norm_again};

cb_tensor *cb_rms_norm(cb_tensor *x, cb_tensor *weight, double eps)
{
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !need_float("rms_norm", x) || !need_vector("rms_norm", "weight", weight, x->shape[x->ndim - 1]))
        return NULL;
    cb_tensor *w = weight ? cb_contiguous(weight) : NULL;
    cb_tensor *ins[] = {x, w};
    cb_tensor *y = cb_empty_like(x), *rstd = cb_empty_nd(statistics(x->dtype), x->ndim - 1, x->shape);
    if (!y || !rstd || (weight && !w))
        return NULL;
    if (!rms_norm_run(y, rstd, x, w, eps))
        return NULL;
    cb_tensor *saves[] = {x, w, rstd};
    return CB_RECORD(&cb_op_rms_norm, y, ins, saves, &eps, sizeof eps) ? y : NULL;
}

static void layer_norm_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = cb_contiguous(pass->dy[0]), *x = pass->saved[0], *w = pass->saved[1], *mean = pass->saved[2], *rstd = pass->saved[3];
    bool accumulate = false;
    cb_tensor *dx = pass->need[0] ? gradient_buffer(pass, 0, &accumulate) : NULL;
    cb_tensor *dw = parameter_sum(pass, 1, rstd->dtype), *db = parameter_sum(pass, 2, rstd->dtype);
    if (!dy || (pass->need[0] && !dx) || (pass->need[1] && !dw) || (pass->need[2] && !db))
        return;
    if (!cbk_layer_norm_backward(x->dtype, dx ? dx->data : NULL, accumulate, dw ? dw->data : NULL, db ? db->data : NULL, dy->data, x->data,
                                 w ? w->data : NULL, w ? w->dtype : CB_F32, mean->data, rstd->data, rows_of(x), x->shape[x->ndim - 1]))
        return;
    pass->dx[0] = dx;
    pass->dx[1] = dw ? cb_cast(dw, pass->input[1].dtype) : NULL;
    pass->dx[2] = db ? cb_cast(db, pass->input[2].dtype) : NULL;
}

static bool layer_norm_run(cb_tensor *y, cb_tensor *mean, cb_tensor *rstd, const cb_tensor *x, const cb_tensor *w, const cb_tensor *b,
                           double eps)
{
    cb_dtype dtype = w ? w->dtype : b ? b->dtype : CB_F32;
    return cbk_layer_norm_forward(x->dtype, y->data, mean->data, rstd->data, x->data, w ? w->data : NULL, b ? b->data : NULL, dtype,
                                  rows_of(x), x->shape[x->ndim - 1], eps);
}

static cb_tensor *layer_norm_again(const cb_backward_pass *pass)
{
    cb_tensor *x = pass->saved[0], *y = cb_empty_like(x), *mean = cb_empty_like(pass->saved[2]), *rstd = cb_empty_like(pass->saved[3]);
    bool ok = y && mean && rstd && layer_norm_run(y, mean, rstd, x, pass->saved[1], pass->saved[4], *(const double *)pass->args);
    return ok ? y : NULL;
}

const cb_op cb_op_layer_norm = {.name = "layer_norm", .backward = layer_norm_backward, .again = layer_norm_again};

cb_tensor *cb_layer_norm(cb_tensor *x, cb_tensor *weight, cb_tensor *bias, double eps)
{
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !need_float("layer_norm", x))
        return NULL;
    int64_t n = x->shape[x->ndim - 1];
    if (!need_vector("layer_norm", "weight", weight, n) || !need_vector("layer_norm", "bias", bias, n))
        return NULL;
    if (weight && bias && weight->dtype != bias->dtype) {
        cb_fail(CB_ERR_SHAPE, "layer_norm: weight %s and bias %s, expected one dtype", cb_shape_text(weight), cb_shape_text(bias));
        return NULL;
    }
    cb_tensor *w = weight ? cb_contiguous(weight) : NULL, *b = bias ? cb_contiguous(bias) : NULL;
    cb_dtype stats = statistics(x->dtype);
    cb_tensor *y = cb_empty_like(x), *mean = cb_empty_nd(stats, x->ndim - 1, x->shape), *rstd = cb_empty_nd(stats, x->ndim - 1, x->shape);
    if (!y || !mean || !rstd || (weight && !w) || (bias && !b))
        return NULL;
    if (!layer_norm_run(y, mean, rstd, x, w, b, eps))
        return NULL;
    cb_tensor *ins[] = {x, w, b};
    cb_tensor *saves[] = {x, w, mean, rstd, b};
    return CB_RECORD(&cb_op_layer_norm, y, ins, saves, &eps, sizeof eps) ? y : NULL;
}

/* ---- a scale and a shift for each column ---- */

/* With create_graph: in operations that can be differentiated again. */
static void affine_backward_recorded(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0], *x = pass->saved[0], *scale = pass->saved[1];
    if (pass->need[0])
        pass->dx[0] = cb_mul(dy, cb_cast(scale, dy->dtype));
    if (pass->need[1])
        pass->dx[1] = cb_cast(cb_sum_to_nd(cb_mul(dy, x), 1, pass->input[1].shape), pass->input[1].dtype);
    if (pass->need[2])
        pass->dx[2] = cb_cast(cb_sum_to_nd(dy, 1, pass->input[2].shape), pass->input[2].dtype);
}

static void affine_backward(cb_backward_pass *pass)
{
    if (cb_grad_enabled()) {
        affine_backward_recorded(pass);
        return;
    }
    cb_tensor *dy = cb_contiguous(pass->dy[0]), *x = pass->saved[0], *scale = pass->saved[1];
    cb_dtype stats = statistics(pass->input[0].dtype);
    cb_tensor *factor = scale ? cb_contiguous(cb_cast(scale, stats)) : NULL;
    cb_tensor *dx = pass->need[0] && dy ? cb_empty_like(dy) : NULL;
    cb_tensor *dscale = parameter_sum(pass, 1, stats), *dshift = parameter_sum(pass, 2, stats);
    if (!dy || (scale && !factor) || (pass->need[0] && !dx) || (pass->need[1] && !dscale) || (pass->need[2] && !dshift))
        return;
    if (!cbk_affine_backward(dy->dtype, dx ? dx->data : NULL, dscale ? dscale->data : NULL, dshift ? dshift->data : NULL, dy->data,
                             x ? x->data : NULL, factor ? factor->data : NULL, rows_of(dy), dy->shape[dy->ndim - 1]))
        return;
    pass->dx[0] = dx;
    pass->dx[1] = dscale ? cb_cast(dscale, pass->input[1].dtype) : NULL;
    pass->dx[2] = dshift ? cb_cast(dshift, pass->input[2].dtype) : NULL;
}

const cb_op cb_op_affine = {.name = "affine", .twice = true, .backward = affine_backward};

cb_tensor *cb_affine(cb_tensor *x, cb_tensor *scale, cb_tensor *shift)
{
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !scale || !need_float("affine", x))
        return NULL;
    int64_t n = x->shape[x->ndim - 1];
    if (!need_vector("affine", "scale", scale, n) || !need_vector("affine", "shift", shift, n))
        return NULL;
    cb_dtype stats = statistics(x->dtype);
    cb_tensor *y = cb_empty_like(x), *factor = NULL, *offset = NULL;
    cb_no_grad
    {
        factor = cb_contiguous(cb_cast(scale, stats));
        offset = shift ? cb_contiguous(cb_cast(shift, stats)) : NULL;
    }
    if (!y || !factor || (shift && !offset) ||
        !cbk_affine_forward(x->dtype, y->data, x->data, factor->data, offset ? offset->data : NULL, rows_of(x), n))
        return NULL;
    cb_tensor *ins[] = {x, scale, shift};
    cb_tensor *saves[] = {scale->requires_grad ? x : NULL, x->requires_grad ? scale : NULL};
    return CB_RECORD(&cb_op_affine, y, ins, saves, NULL, 0) ? y : NULL;
}

/* ---- softmax ---- */

static void softmax_backward(cb_backward_pass *pass)
{
    cb_tensor *y = pass->saved[0], *dy = pass->dy[0];
    if (cb_grad_enabled()) {
        cb_tensor *weighted = cb_mul(dy, y);
        pass->dx[0] = cb_sub(weighted, cb_mul(y, cb_sum(weighted, -1, true)));
        return;
    }
    dy = cb_contiguous(dy);
    cb_tensor *dx = cb_empty_like(y);
    if (dy && dx && cbk_softmax_backward(y->dtype, dx->data, dy->data, y->data, rows_of(y), y->shape[y->ndim - 1], false))
        pass->dx[0] = dx;
}

static void log_softmax_backward(cb_backward_pass *pass)
{
    cb_tensor *y = pass->saved[0], *dy = pass->dy[0];
    if (cb_grad_enabled()) {
        pass->dx[0] = cb_sub(dy, cb_mul(cb_exp(y), cb_sum(dy, -1, true)));
        return;
    }
    dy = cb_contiguous(dy);
    cb_tensor *dx = cb_empty_like(y);
    if (dy && dx && cbk_softmax_backward(y->dtype, dx->data, dy->data, y->data, rows_of(y), y->shape[y->ndim - 1], true))
        pass->dx[0] = dx;
}

const cb_op cb_op_softmax = {.name = "softmax", .twice = true, .backward = softmax_backward};
const cb_op cb_op_log_softmax = {.name = "log_softmax", .twice = true, .backward = log_softmax_backward};

static cb_tensor *softmax_of(const cb_op *op, cb_tensor *x, int dim, bool log)
{
    if (!x || !need_float(op->name, x))
        return NULL;
    int d = cb_dim(op->name, x, dim), last = x->ndim - 1;
    if (d < 0)
        return NULL;
    if (d != last) /* the kernel works on the last dimension */
        return cb_transpose(softmax_of(op, cb_transpose(x, d, last), -1, log), d, last);
    cb_tensor *dense = cb_contiguous(x), *y = cb_empty_nd(x->dtype, x->ndim, x->shape);
    if (!dense || !y || !cbk_softmax_forward(x->dtype, y->data, dense->data, rows_of(x), x->shape[last], log))
        return NULL;
    cb_tensor *ins[] = {x}, *saves[] = {y};
    return CB_RECORD(op, y, ins, saves, NULL, 0) ? y : NULL;
}

cb_tensor *cb_softmax(cb_tensor *x, int dim)
{
    return softmax_of(&cb_op_softmax, x, dim, false);
}

cb_tensor *cb_log_softmax(cb_tensor *x, int dim)
{
    return softmax_of(&cb_op_log_softmax, x, dim, true);
}
