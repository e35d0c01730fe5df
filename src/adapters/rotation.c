/* rotation.c: see rotation.h. */
#include "adapters/rotation.h"

#include "adapters/dense.h"
#include "adapters/low_rank.h"

/* ---- matrices ---- */

/* (I - Q) (I + Q)^-1 - I = (2 I - (I + Q)) (I + Q)^-1 - I = 2 ((I + Q)^-1 - I) */
cb_tensor *cb_cayley_change(cb_tensor *q)
{
    cb_tensor *one = q ? cb_identity(q->shape[q->ndim - 1]) : NULL;
    return cb_scale(cb_sub(cb_inverse(cb_add(q, one)), one), 2);
}

cb_tensor *cb_blocks_product(cb_tensor *x, cb_tensor *blocks)
{
    if (!x || !blocks)
        return NULL;
    int64_t n = blocks->shape[0], b = blocks->shape[1], width = x->shape[1];
    if (n == 1)
        return cb_reshape(cb_matmul(cb_reshape(x, -1, b), cb_reshape(blocks, b, b)), -1, width);
    cb_tensor *turned = cb_matmul(cb_permute(cb_reshape(x, -1, n, b), 1, 0, 2), blocks);
    return cb_reshape(cb_permute(turned, 1, 0, 2), -1, width);
}

cb_tensor *cb_blocks_dropout(cb_tensor *blocks, double p, const cb_context *ctx)
{
    if (!blocks || !ctx || !ctx->training || p <= 0)
        return blocks;
    int64_t factors = blocks->shape[0], n = blocks->shape[1], left = (int64_t)(p * (double)n);
    cb_tensor *kept = cb_ones(CB_F32, factors, n, 1, 1);
    if (!kept)
        return NULL;
    float *chosen = (float *)kept->data + (int64_t)cb_rng_below(ctx->rng, (uint64_t)factors) * n;
    for (int64_t i = 0; i < n; i++) /* each with the probability that exactly so many are chosen */
        if (cb_rng_below(ctx->rng, (uint64_t)(n - i)) < (uint64_t)left) {
            chosen[i] = 0;
            left--;
        }
    return cb_mul(blocks, kept);
}

/* ---- inputs ---- */

int64_t cb_row_inputs(const cb_layer *layer)
{
    const int64_t *shape = cb_layer_weight(layer, "weight")->shape;
    return layer->kind == CB_LAYER_CONV ? shape[1] * shape[2] * shape[3] : layer->in_features;
}

static cb_tensor *rows_change(const cb_module *m, cb_tensor *weight, const cb_context *ctx, cb_row_change *change)
{
    if (!weight)
        return NULL;
    if (m->layer->kind == CB_LAYER_CONV)
        return cb_reshape_nd(change(m, cb_reshape(weight, weight->shape[0], -1), ctx), weight->ndim, weight->shape);
    if (!cb_stores_inputs_first(m->layer))
        return change(m, weight, ctx);
    cb_tensor *turned = change(m, cb_transpose(weight, 0, 1), ctx);
    return turned ? cb_transpose(turned, 0, 1) : NULL;
}

cb_tensor *cb_rows_delta(const cb_module *m, cb_tensor *weight, cb_row_change *change)
{
    return rows_change(m, weight, NULL, change);
}

cb_tensor *cb_rows_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx, cb_row_change *change)
{
    if (m->strength == 0 || m->layer->kind != CB_LAYER_CONV)
        return weight;
    weight = cb_cast(weight, CB_F32);
    return cb_add(weight, rows_change(m, weight, ctx, change));
}

cb_tensor *cb_rows_turned(const cb_module *m, cb_tensor *x, const cb_context *ctx, cb_row_change *change)
{
    if (!x)
        return NULL;
    cb_tensor *rows = cb_cast(cb_reshape(x, -1, x->shape[x->ndim - 1]), CB_F32);
    return cb_cast(cb_reshape_nd(cb_add(rows, change(m, rows, ctx)), x->ndim, x->shape), x->dtype);
}
