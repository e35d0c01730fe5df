/* ops_layer.c: gated activations, rotary embedding, cross-entropy.
 *
 * Each is one kernel forward and one backward, made to read and write memory as little as possible; what a backward pass can compute again
 * cheaply is not kept. */
#include "tensor/fused.h"

/* ---- gated activations ---- */

static void gated_backward(cb_backward_pass *pass, cbk_unary_op act)
{
    cb_tensor *dy = cb_contiguous(pass->dy[0]), *gate = pass->saved[0], *up = pass->saved[1];
    cb_tensor *dgate = pass->need[0] ? reused(pass, gate) : NULL, *dup = pass->need[1] ? reused(pass, up) : NULL;
    if (!dy || (pass->need[0] && !dgate) || (pass->need[1] && !dup))
        return;
    if (!cbk_gated_backward(act, gate->dtype, dgate ? dgate->data : NULL, dup ? dup->data : NULL, dy->data, gate->data, up->data,
                            gate->count))
        return;
    pass->dx[0] = dgate;
    pass->dx[1] = dup;
}

static cb_tensor *gated_again(const cb_backward_pass *pass, cbk_unary_op act)
{
    const cb_tensor *gate = pass->saved[0], *up = pass->saved[1];
    cb_tensor *y = cb_empty_like(gate);
    return y && cbk_gated_forward(act, y->dtype, y->data, gate->data, up->data, y->count) ? y : NULL;
}

#define GATED(name_, act)                                                                                                                  \
    static void name_##_backward(cb_backward_pass *pass)                                                                                   \
    {                                                                                                                                      \
        gated_backward(pass, act);                                                                                                         \
    }                                                                                                                                      \
    static cb_tensor *name_##_again(const cb_backward_pass *pass)                                                                          \
    {                                                                                                                                      \
        return gated_again(pass, act);                                                                                                     \
    }                                                                                                                                      \
    const cb_op cb_op_##name_ = {.name = #name_, .backward = name_##_backward, .again = name_##_again};

GATED(silu_mul, CBK_SILU)
GATED(gelu_mul, CBK_GELU)
GATED(gelu_tanh_mul, CBK_GELU_TANH)

static cb_tensor *gated(const cb_op *op, cbk_unary_op act, cb_tensor *gate, cb_tensor *up)
{
    gate = gate ? cb_contiguous(gate) : NULL;
    up = up ? cb_contiguous(up) : NULL;
    if (!gate || !up)
        return NULL;
    if (gate->dtype != up->dtype || !cb_same_shape(gate, up) || !cb_dtype_is_float(gate->dtype)) {
        cb_fail(CB_ERR_SHAPE, "%s: gate %s and up %s, expected the same", op->name, cb_shape_text(gate), cb_shape_text(up));
        return NULL;
    }
    cb_tensor *y = cb_empty_like(gate);
    if (!y || !cbk_gated_forward(act, y->dtype, y->data, gate->data, up->data, y->count))
        return NULL;
    cb_tensor *ins[] = {gate, up}, *saves[] = {gate, up};
    return CB_RECORD(op, y, ins, saves, NULL, 0) ? y : NULL;
}

cb_tensor *cb_silu_mul(cb_tensor *gate, cb_tensor *up)
{
    return gated(&cb_op_silu_mul, CBK_SILU, gate, up);
}

cb_tensor *cb_gelu_mul(cb_tensor *gate, cb_tensor *up)
{
    return gated(&cb_op_gelu_mul, CBK_GELU, gate, up);
}

cb_tensor *cb_gelu_tanh_mul(cb_tensor *gate, cb_tensor *up)
{
    return gated(&cb_op_gelu_tanh_mul, CBK_GELU_TANH, gate, up);
}

/* ---- rotary embedding ---- */

/* x (B, T, H, D) -> y, contiguous. */
static cb_tensor *rope_run(cb_tensor *x, cb_tensor *cos, cb_tensor *sin, cb_tensor *positions, bool inverse)
{
    x = cb_contiguous(x);
    cb_tensor *y = x ? cb_empty_like(x) : NULL;
    if (!y)
        return NULL;
    int64_t heads = x->shape[2], size = x->shape[3];
    cbk_rope_args a = {.dtype = x->dtype,
                       .y = y->data,
                       .x = x->data,
                       .x_token_stride = heads * size,
                       .x_head_stride = size,
                       .y_token_stride = heads * size,
                       .y_head_stride = size,
                       .cos = cos->data,
                       .sin = sin->data,
                       .table_rows = cos->shape[0],
                       .positions = positions->data,
                       .tokens = x->shape[0] * x->shape[1],
                       .heads = heads,
                       .head_size = size,
                       .rotary = 2 * cos->shape[1],
                       .inverse = inverse};
    return cbk_rope(&a) ? y : NULL;
}

static void rope_backward(cb_backward_pass *pass)
{
    pass->dx[0] = rope_run(pass->dy[0], pass->saved[0], pass->saved[1], pass->saved[2], true);
}

const cb_op cb_op_rope = {.name = "rope", .backward = rope_backward};

cb_tensor *cb_rope(cb_tensor *x, cb_tensor *cos, cb_tensor *sin, cb_tensor *positions)
{
    if (!x || !cos || !sin || !positions)
        return NULL;
    bool fits = x->ndim == 4 && cb_dtype_is_float(x->dtype) && cos->ndim == 2 && cos->dtype == CB_F32 && sin->dtype == CB_F32 &&
                cb_same_shape(cos, sin) && cb_is_contiguous(cos) && cb_is_contiguous(sin) && 2 * cos->shape[1] <= x->shape[3] &&
                positions->dtype == CB_I32 && cb_is_contiguous(positions) && positions->count == x->shape[0] * x->shape[1];
    if (!fits) {
        cb_fail(CB_ERR_SHAPE, "rope: x %s, cos %s, positions %s: expected (B, T, H, D), f32 (P, R/2) with R <= D, i32 (B, T)",
                cb_shape_text(x), cb_shape_text(cos), cb_shape_text(positions));
        return NULL;
    }
    cb_tensor *y = rope_run(x, cos, sin, positions, false);
    if (!y)
        return NULL;
    cb_tensor *ins[] = {x}, *saves[] = {cos, sin, positions};
    return CB_RECORD(&cb_op_rope, y, ins, saves, NULL, 0) ? y : NULL;
}

/* ---- cross-entropy ---- */

static bool check_targets(const char *op, const cb_tensor *x, const cb_tensor *targets)
{
    if ((targets->dtype == CB_I32 || targets->dtype == CB_I64) && targets->count == rows_of(x))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: targets %s for %s: expected one i32 or i64 a row", op, cb_shape_text(targets), cb_shape_text(x));
    return false;
}

/* The gradient was made in the forward pass, for a loss gradient of 1; here it is scaled by the real one. */
static cb_tensor *ready_gradient(cb_backward_pass *pass, int i)
{
    cb_tensor *g = pass->saved[i];
    if (!g || !pass->need[i])
        return NULL;
    double scale = cb_item(pass->dy[0]);
    cb_tensor *d = scale == 1 ? g : cb_scale(g, scale);
    return d ? cb_cast(d, pass->input[i].dtype) : NULL;
}

static void cross_entropy_backward(cb_backward_pass *pass)
{
    for (int i = 0; i < pass->inputs; i++)
        pass->dx[i] = ready_gradient(pass, i);
}

const cb_op cb_op_linear_cross_entropy = {.name = "linear_cross_entropy", .backward = cross_entropy_backward};
const cb_op cb_op_cross_entropy = {.name = "cross_entropy", .backward = cross_entropy_backward};

static cb_tensor *mean_loss(cb_dtype dtype, double sum, int64_t count, double normalizer)
{
    return cb_scalar(statistics(dtype), sum / (normalizer > 0 ? normalizer : (double)count));
}

cb_tensor *cb_linear_cross_entropy_with(cb_tensor *x, cb_tensor *w, cb_tensor *targets, cb_linear_cross_entropy_options o)
{
    x = x ? cb_contiguous(x) : NULL;
    targets = targets ? cb_contiguous(targets) : NULL;
    bool exact = x && w && x->dtype == CB_F64 && cb_dtype_is_quantized(w->dtype); /* a gradient check */
    cb_tensor *dense_w = exact ? cb_cast(w, CB_F64) : w ? cb_contiguous(w) : NULL;
    if (!x || !dense_w || !targets || !need_float("linear_cross_entropy", x) || !check_targets("linear_cross_entropy", x, targets))
        return NULL;
    if (w->ndim != 2 || w->shape[1] != x->shape[x->ndim - 1]) {
        cb_fail(CB_ERR_SHAPE, "linear_cross_entropy: x %s and w %s: expected (..., C) and (V, C)", cb_shape_text(x), cb_shape_text(w));
        return NULL;
    }
    cb_tensor *ins[] = {x, w};
    bool record = cb_will_record(2, ins);
    cb_tensor *dx = record && x->requires_grad ? cb_empty_like(x) : NULL;
    cb_tensor *dw = record && w->requires_grad ? cb_full_nd(statistics(w->dtype), 0, 2, w->shape) : NULL;
    cbk_linear_cross_entropy_args g = {.x = x->data,
                                       .x_dtype = x->dtype,
                                       .w = dense_w->data,
                                       .w_dtype = dense_w->dtype,
                                       .targets = targets->data,
                                       .target_dtype = targets->dtype,
                                       .n = rows_of(x),
                                       .c = w->shape[1],
                                       .v = w->shape[0],
                                       .ignore_index = o.ignore_index,
                                       .label_smoothing = o.label_smoothing,
                                       .gradient_scale = o.normalizer > 0 ? 1 / o.normalizer : 1,
                                       .mean = !(o.normalizer > 0),
                                       .dx = dx ? dx->data : NULL,
                                       .dw = dw ? dw->data : NULL,
                                       .dw_dtype = dw ? dw->dtype : CB_F32};
    if (!cb_ok() || !cbk_linear_cross_entropy(&g))
        return NULL;
    cb_tensor *loss = mean_loss(x->dtype, g.loss_sum, g.count, o.normalizer);
    cb_tensor *saves[] = {dx, dw};
    return loss && CB_RECORD(&cb_op_linear_cross_entropy, loss, ins, saves, NULL, 0) ? loss : NULL;
}

cb_tensor *cb_cross_entropy_with(cb_tensor *logits, cb_tensor *targets, cb_linear_cross_entropy_options o)
{
    cb_tensor *x = logits ? cb_contiguous(logits) : NULL;
    targets = targets ? cb_contiguous(targets) : NULL;
    if (!x || !targets || !need_float("cross_entropy", x) || !check_targets("cross_entropy", x, targets))
        return NULL;
    cb_tensor *ins[] = {logits};
    cb_tensor *d = cb_will_record(1, ins) ? cb_empty_nd(x->dtype, x->ndim, x->shape) : NULL;
    cbk_cross_entropy_args g = {.dtype = x->dtype,
                                .logits = x->data,
                                .targets = targets->data,
                                .target_dtype = targets->dtype,
                                .n = rows_of(x),
                                .v = x->shape[x->ndim - 1],
                                .ignore_index = o.ignore_index,
                                .label_smoothing = o.label_smoothing,
                                .gradient_scale = o.normalizer > 0 ? 1 / o.normalizer : 1,
                                .mean = !(o.normalizer > 0),
                                .dlogits = d ? d->data : NULL};
    if (!cb_ok() || !cbk_cross_entropy(&g))
        return NULL;
    cb_tensor *loss = mean_loss(x->dtype, g.loss_sum, g.count, o.normalizer);
    cb_tensor *saves[] = {d};
    return loss && CB_RECORD(&cb_op_cross_entropy, loss, ins, saves, NULL, 0) ? loss : NULL;
}
