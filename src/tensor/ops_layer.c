/* ops_layer.c: the fused arithmetic of layers: norms, softmax, gated activations, rotary embedding, attention, cross-entropy.
 *
 * Each is one kernel forward and one backward, made to read and write memory as little as possible; what a backward pass can compute again
 * cheaply (probabilities, activations) is not kept.  Softmax has a backward rule of public operations as well, so it can be differentiated twice. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/op.h"

/* f64 arrays keep f64 statistics, all others f32. */
static cb_dtype statistics(cb_dtype dtype)
{
    return dtype == CB_F64 ? CB_F64 : CB_F32;
}

static bool need_float(const char *op, const cb_tensor *x)
{
    if (cb_dtype_is_float(x->dtype) && x->ndim >= 1)
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: %s, expected a floating-point array", op, cb_shape_text(x));
    return false;
}

static bool need_vector(const char *op, const char *what, const cb_tensor *w, int64_t n)
{
    if (!w || (w->ndim == 1 && w->shape[0] == n && cb_dtype_is_float(w->dtype)))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: %s %s, expected (%lld)", op, what, cb_shape_text(w), (long long)n);
    return false;
}

static int64_t rows_of(const cb_tensor *x)
{
    int64_t n = x->shape[x->ndim - 1], rows = 1;
    for (int i = 0; i < x->ndim - 1; i++)
        rows *= x->shape[i];
    return n ? rows : 0;
}

/* Where a rule writes the gradient of input i: into what is already there, or a new tensor. */
static cb_tensor *gradient_buffer(cb_backward_pass *pass, int i, bool *accumulate)
{
    *accumulate = pass->into[i] && cb_will_write(pass->op->name, pass->into[i]);
    return *accumulate ? pass->into[i] : cb_empty_nd(pass->input[i].dtype, pass->input[i].ndim, pass->input[i].shape);
}

/* Memory for the gradient of an input that was saved: its own, when this is the last that is seen of it. */
static cb_tensor *reused(cb_backward_pass *pass, cb_tensor *saved)
{
    bool over = pass->last && cb_can_overwrite(saved) && cb_is_contiguous(saved);
    if (!over)
        return cb_empty_like(saved);
    return cb_will_write(pass->op->name, saved) ? saved : NULL;
}

/* Parameter gradients are summed in statistics precision, then given in the parameter's dtype. */
static cb_tensor *parameter_sum(cb_backward_pass *pass, int i, cb_dtype dtype)
{
    return pass->need[i] ? cb_full_nd(dtype, 0, pass->input[i].ndim, pass->input[i].shape) : NULL;
}

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

const cb_op cb_op_layer_norm = {.name = "layer_norm", .backward = layer_norm_backward};

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
    cb_dtype stats = statistics(x->dtype), weight_dtype = w ? w->dtype : b ? b->dtype : CB_F32;
    cb_tensor *y = cb_empty_like(x), *mean = cb_empty_nd(stats, x->ndim - 1, x->shape), *rstd = cb_empty_nd(stats, x->ndim - 1, x->shape);
    if (!y || !mean || !rstd || (weight && !w) || (bias && !b))
        return NULL;
    if (!cbk_layer_norm_forward(x->dtype, y->data, mean->data, rstd->data, x->data, w ? w->data : NULL, b ? b->data : NULL, weight_dtype,
                                rows_of(x), n, eps))
        return NULL;
    cb_tensor *ins[] = {x, w, b};
    cb_tensor *saves[] = {x, w, mean, rstd};
    return CB_RECORD(&cb_op_layer_norm, y, ins, saves, NULL, 0) ? y : NULL;
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

/* ---- attention ---- */

typedef struct attention_args {
    double scale;
    bool causal;
    int64_t window;
} attention_args;

enum { Q, K, V, MASK, PREFIX_K, PREFIX_V, OUT, LSE, Q_SEGMENTS, K_SEGMENTS, SAVED };

static cbk_attention_strides strides_of(const cb_tensor *t)
{
    return (cbk_attention_strides){t->stride[0], t->stride[1], t->stride[2]};
}

static cbk_attention_args kernel_args(cb_tensor *const *t, const attention_args *a)
{
    const cb_tensor *q = t[Q], *k = t[K], *mask = t[MASK], *prefix = t[PREFIX_K];
    cbk_attention_args g = {.dtype = q->dtype,
                            .batch = q->shape[0],
                            .tq = q->shape[1],
                            .tk = k->shape[1],
                            .heads = q->shape[2],
                            .kv_heads = k->shape[2],
                            .head_size = q->shape[3],
                            .q = q->data,
                            .k = k->data,
                            .v = t[V]->data,
                            .q_stride = strides_of(q),
                            .k_stride = strides_of(k),
                            .v_stride = strides_of(t[V]),
                            .scale = a->scale,
                            .causal = a->causal,
                            .window = a->window,
                            .out = t[OUT]->data,
                            .out_stride = strides_of(t[OUT]),
                            .lse = t[LSE]->data};
    if (t[K_SEGMENTS]) {
        g.q_segments = t[Q_SEGMENTS]->data;
        g.k_segments = t[K_SEGMENTS]->data;
    }
    if (mask) {
        g.mask = mask->data;
        g.mask_batch_stride = mask->stride[0];
        g.mask_head_stride = mask->stride[1];
        g.mask_query_stride = mask->stride[2];
        g.mask_key_stride = mask->stride[3];
    }
    if (prefix) {
        g.prefix = prefix->shape[1];
        g.prefix_k = prefix->data;
        g.prefix_v = t[PREFIX_V]->data;
        g.prefix_batch_stride = prefix->shape[0] != 1 ? prefix->stride[0] : 0;
    }
    return g;
}

static void attention_backward(cb_backward_pass *pass)
{
    cb_tensor *const *t = pass->saved;
    cb_tensor *dout = cb_contiguous(pass->dy[0]);
    cb_tensor *dq = cb_empty_nd(t[Q]->dtype, 4, t[Q]->shape), *dk = cb_empty_nd(t[K]->dtype, 4, t[K]->shape),
              *dv = cb_empty_nd(t[V]->dtype, 4, t[V]->shape);
    cb_tensor *dpk = NULL, *dpv = NULL, *dmask = NULL;
    cb_dtype stats = statistics(t[Q]->dtype);
    if (t[PREFIX_K] && (pass->need[4] || pass->need[5])) {
        dpk = cb_empty_nd(stats, 4, t[PREFIX_K]->shape);
        dpv = cb_empty_nd(stats, 4, t[PREFIX_V]->shape);
    }
    if (t[MASK] && pass->need[3])
        dmask = cb_empty(CB_F32, t[Q]->shape[0], t[Q]->shape[2], t[Q]->shape[1], t[K]->shape[1]);
    if (!dout || !dq || !dk || !dv || !cb_ok())
        return;
    cbk_attention_args a = kernel_args(t, pass->args);
    cbk_attention_gradients g = {.dout = dout->data,
                                 .dout_stride = strides_of(dout),
                                 .dq = dq->data,
                                 .dk = dk->data,
                                 .dv = dv->data,
                                 .dq_stride = strides_of(dq),
                                 .dk_stride = strides_of(dk),
                                 .dv_stride = strides_of(dv),
                                 .dprefix_k = dpk ? dpk->data : NULL,
                                 .dprefix_v = dpv ? dpv->data : NULL,
                                 .dmask = dmask ? dmask->data : NULL};
    if (!cbk_attention_backward(&a, &g))
        return;
    pass->dx[0] = dq;
    pass->dx[1] = dk;
    pass->dx[2] = dv;
    if (dmask)
        pass->dx[3] = cb_cast(cb_sum_to_nd(dmask, pass->input[3].ndim, pass->input[3].shape), pass->input[3].dtype);
    pass->dx[4] = dpk && pass->need[4] ? cb_cast(dpk, pass->input[4].dtype) : NULL;
    pass->dx[5] = dpv && pass->need[5] ? cb_cast(dpv, pass->input[5].dtype) : NULL;
}

const cb_op cb_op_attention = {.name = "attention", .backward = attention_backward};

/* The kernel wants the D elements of a head side by side. */
static cb_tensor *heads_adjacent(cb_tensor *t)
{
    return t && t->ndim == 4 && t->stride[3] != 1 && t->shape[3] > 1 ? cb_contiguous(t) : t;
}

static bool check_attention(const cb_tensor *q, const cb_tensor *k, const cb_tensor *v, const cb_attention_options *o)
{
    bool fits = q->ndim == 4 && k->ndim == 4 && v->ndim == 4 && cb_same_shape(k, v) && q->shape[0] == k->shape[0] &&
                q->shape[3] == k->shape[3] && k->shape[2] > 0 && q->shape[2] % k->shape[2] == 0 && q->dtype == k->dtype &&
                q->dtype == v->dtype && cb_dtype_is_float(q->dtype);
    if (!fits) {
        cb_fail(CB_ERR_SHAPE, "attention: q %s, k %s, v %s: expected (B, Tq, H, D), (B, Tk, Hkv, D) twice, H a multiple of Hkv",
                cb_shape_text(q), cb_shape_text(k), cb_shape_text(v));
        return false;
    }
    const cb_tensor *s = o->segments, *pk = o->prefix_k, *pv = o->prefix_v;
    if (s &&
        !(s->ndim == 2 && s->dtype == CB_I32 && s->shape[0] == k->shape[0] && s->shape[1] == k->shape[1] && q->shape[1] <= k->shape[1])) {
        cb_fail(CB_ERR_SHAPE, "attention: segments %s for k %s: expected i32 (B, Tk) and no more queries than keys", cb_shape_text(s),
                cb_shape_text(k));
        return false;
    }
    bool prefix = !pk == !pv && (!pk || (pk->ndim == 4 && cb_same_shape(pk, pv) && (pk->shape[0] == 1 || pk->shape[0] == k->shape[0]) &&
                                         pk->shape[2] == k->shape[2] && pk->shape[3] == k->shape[3]));
    if (!prefix) {
        cb_fail(CB_ERR_SHAPE, "attention: prefix %s and %s for k %s: expected (B or 1, P, Hkv, D) twice", cb_shape_text(pk),
                cb_shape_text(pv), cb_shape_text(k));
        return false;
    }
    return true;
}

cb_tensor *cb_attention_with(cb_tensor *q, cb_tensor *k, cb_tensor *v, cb_attention_options o)
{
    if (!q || !k || !v || !check_attention(q, k, v, &o))
        return NULL;
    attention_args a = {
        .scale = o.scale != 0 ? o.scale : 1 / sqrt((double)(q->shape[3] > 0 ? q->shape[3] : 1)), .causal = o.causal, .window = o.window};
    cb_tensor *t[SAVED] = {[Q] = heads_adjacent(q), [K] = heads_adjacent(k), [V] = heads_adjacent(v)};
    if (o.segments) { /* the queries are the last Tq of the Tk tokens */
        t[K_SEGMENTS] = cb_contiguous(o.segments);
        t[Q_SEGMENTS] = cb_contiguous(cb_slice(o.segments, 1, k->shape[1] - q->shape[1], k->shape[1], 1));
    }
    if (o.prefix_k) {
        t[PREFIX_K] = cb_contiguous(cb_cast(o.prefix_k, q->dtype));
        t[PREFIX_V] = cb_contiguous(cb_cast(o.prefix_v, q->dtype));
    }
    if (o.mask)
        t[MASK] = cb_expand(cb_cast(o.mask, CB_F32), q->shape[0], q->shape[2], q->shape[1], k->shape[1]);
    t[OUT] = cb_empty_nd(q->dtype, 4, q->shape);
    t[LSE] = cb_empty(statistics(q->dtype), q->shape[0], q->shape[2], q->shape[1]);
    if (!cb_ok())
        return NULL;
    cbk_attention_args g = kernel_args(t, &a);
    if (!cbk_attention_forward(&g))
        return NULL;
    cb_tensor *ins[] = {q, k, v, o.mask, o.prefix_k, o.prefix_v};
    return CB_RECORD(&cb_op_attention, t[OUT], ins, t, &a, sizeof a) ? t[OUT] : NULL;
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
