/* ops_attention.c: attention, whose probabilities are not kept: the backward pass computes them again. */
#include <math.h>

#include "tensor/fused.h"

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

static bool is_row_list(const cb_tensor *t, const cb_tensor *q)
{
    return t && t->ndim == 1 && t->dtype == CB_I32 && t->shape[0] == q->shape[0];
}

static bool check_rows(const cb_tensor *q, const cb_tensor *k, const cb_tensor *v, const cb_attention_options *o)
{
    if (!o->rows && !o->lengths)
        return true;
    bool fits = is_row_list(o->rows, q) && is_row_list(o->lengths, q) && !o->segments && !o->mask;
    for (int64_t i = 0; fits && i < q->shape[0]; i++) {
        double row = cb_get(o->rows, i), length = cb_get(o->lengths, i);
        fits = row >= 0 && row < (double)k->shape[0] && length >= (double)q->shape[1] && length <= (double)k->shape[1];
    }
    if (!fits)
        return cb_fail(CB_ERR_SHAPE,
                       "attention: rows %s and lengths %s for q %s, k %s: expected i32 (B) both, rows of k and as many of their tokens, at "
                       "least "
                       "Tq, without segments or mask",
                       cb_shape_text(o->rows), cb_shape_text(o->lengths), cb_shape_text(q), cb_shape_text(k)) == CB_OK;
    const cb_tensor *pk = o->prefix_k, *pv = o->prefix_v;
    bool learns = q->requires_grad || k->requires_grad || v->requires_grad || (pk && (pk->requires_grad || pv->requires_grad));
    return !learns || !cb_grad_enabled() ||
           cb_fail(CB_ERR_UNSUPPORTED, "attention: keys by rows have no gradient; expected a pass without") == CB_OK;
}

static bool check_attention(const cb_tensor *q, const cb_tensor *k, const cb_tensor *v, const cb_attention_options *o)
{
    bool fits = q->ndim == 4 && k->ndim == 4 && v->ndim == 4 && cb_same_shape(k, v) && (q->shape[0] == k->shape[0] || o->rows) &&
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
    bool prefix = !pk == !pv && (!pk || (pk->ndim == 4 && cb_same_shape(pk, pv) && (pk->shape[0] == 1 || pk->shape[0] == q->shape[0]) &&
                                         pk->shape[2] == k->shape[2] && pk->shape[3] == k->shape[3]));
    if (!prefix) {
        cb_fail(CB_ERR_SHAPE, "attention: prefix %s and %s for k %s: expected (B or 1, P, Hkv, D) twice", cb_shape_text(pk),
                cb_shape_text(pv), cb_shape_text(k));
        return false;
    }
    return check_rows(q, k, v, o);
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
    if (o.rows) {
        cb_tensor *rows = cb_contiguous(o.rows), *lengths = cb_contiguous(o.lengths);
        return rows && lengths && cbk_attention_rows(&g, rows->data, lengths->data) ? t[OUT] : NULL;
    }
    if (!cbk_attention_forward(&g))
        return NULL;
    cb_tensor *ins[] = {q, k, v, o.mask, o.prefix_k, o.prefix_v};
    return CB_RECORD(&cb_op_attention, t[OUT], ins, t, &a, sizeof a) ? t[OUT] : NULL;
}
