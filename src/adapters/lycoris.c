/* lycoris.c: see lycoris.h. */
#include "adapters/lycoris.h"

const char *const cb_lycoris_peft_names[] = {"rank", "r", NULL};

bool cb_lycoris_create(cb_lycoris *state, const cb_lycoris_config *config, const cb_layer *layer)
{
    double alpha = config->alpha;
    state->rank = config->rank;
    if (!cb_adapter_pattern_whole(&config->rank_pattern, "rank_pattern", layer, 65536, &state->rank) ||
        !cb_adapter_pattern(&config->alpha_pattern, "alpha_pattern", layer, &alpha))
        return false;
    state->scale = alpha / (double)state->rank;
    state->rank_dropout = config->rank_dropout;
    state->module_dropout = config->module_dropout;
    state->rescale = true;
    state->out = layer->out_features;
    state->in = layer->in_features;
    state->kh = state->kw = 1;
    if (layer->kind == CB_LAYER_CONV) {
        const int64_t *shape = cb_layer_weight(layer, "weight")->shape;
        state->in = shape[1];
        state->kh = shape[2];
        state->kw = shape[3];
    }
    state->tucker = config->use_effective_conv2d && state->kh * state->kw > 1;
    return true;
}

/* (out) ones and zeros; rescaled by their mean. */
static cb_tensor *kept_rows(const cb_lycoris *state, cb_rng *rng)
{
    cb_tensor *kept = cb_empty(CB_F32, state->out);
    float *keep = kept ? kept->data : NULL;
    int64_t count = 0;
    for (int64_t i = 0; kept && i < state->out; i++) {
        keep[i] = cb_rng_uniform(rng) > state->rank_dropout;
        count += keep[i] > 0;
    }
    return state->rescale && count ? cb_scale(kept, (double)state->out / (double)count) : kept;
}

cb_tensor *cb_lycoris_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx,
                              cb_tensor *(*product)(const cb_module *m, cb_tensor *x))
{
    const cb_lycoris *state = m->state;
    if (m->strength == 0 || !x || !y)
        return m->strength == 0 ? y : NULL;
    if (ctx->training && state->module_dropout > 0 && cb_rng_uniform(ctx->rng) <= state->module_dropout)
        return y;
    cb_tensor *change = cb_scale(product(m, x), state->scale * m->strength);
    if (change && ctx->training && state->rank_dropout > 0) {
        cb_tensor *rows = cb_cast(kept_rows(state, ctx->rng), change->dtype);
        change = cb_mul(change, m->layer->kind == CB_LAYER_CONV ? cb_reshape(rows, -1, 1, 1) : rows);
    }
    return cb_add(y, change);
}

cb_tensor *cb_lycoris_tucker(cb_tensor *t, cb_tensor *a, cb_tensor *b)
{
    if (!t || !a || !b)
        return NULL;
    int64_t r = t->shape[0], kh = t->shape[2], kw = t->shape[3];
    cb_tensor *rows = cb_reshape(cb_matmul(cb_transpose(a, 0, 1), cb_reshape(t, r, -1)), a->shape[1], r, kh * kw);
    return cb_reshape(cb_matmul(cb_transpose(b, 0, 1), rows), a->shape[1], b->shape[1], kh, kw);
}
