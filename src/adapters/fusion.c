/* fusion.c: AdapterFusion: on each layer the result attends to what several trained adapters would add to it,
 *
 *     y + V sum_i p_i c_i,    p = softmax over i of (Q q + b) . (K c_i + d)
 *
 * c_i what adapter i adds to y; q the result, with the residual stream that it is added to where there is one, normalised as the model does.  Pfeiffer et al. 2021,
 * arXiv:2005.00247, as AdapterHub's `Fuse` computes it: no scale in the softmax, V near the identity at first and held there by
 * 0.01 |V - I|^2.  Shape letters: C width of the result. */
#include "adapters/mixer.h"

enum { QUERY, QUERY_BIAS, KEY, KEY_BIAS, VALUE };

static int parameters(cb_mixer_layer *layer, cb_adapter_parameter *list)
{
    int64_t c = layer->out;
    cb_tensor **t = layer->tensors;
    list[0] = (cb_adapter_parameter){"query.weight", &t[QUERY], 2, {c, c}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"query.bias", &t[QUERY_BIAS], 1, {c}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"key.weight", &t[KEY], 2, {c, c}, CB_ROLE_TRAINED};
    list[3] = (cb_adapter_parameter){"key.bias", &t[KEY_BIAS], 1, {c}, CB_ROLE_TRAINED};
    list[4] = (cb_adapter_parameter){"value.weight", &t[VALUE], 2, {c, c}, CB_ROLE_TRAINED};
    return layer->options->fusion_value ? 5 : 4;
}

static void set_diagonal(cb_tensor *square, float value)
{
    for (int64_t i = 0; square && i < square->shape[0]; i++)
        ((float *)square->data)[i * (square->shape[1] + 1)] = value;
}

static bool initialise(cb_mixer_layer *layer, uint64_t seed)
{
    const double deviation = 0.02, beside = 1e-6; /* as AdapterHub has them */
    cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, layer->mix.layer->name)};
    cb_rng key = {.seed = seed, .stream = rng.stream + 1};
    cb_tensor **t = layer->tensors;
    if (t[VALUE]) {
        float *v = t[VALUE]->data;
        for (int64_t i = 0; i < t[VALUE]->count; i++)
            v[i] = (float)beside;
        set_diagonal(t[VALUE], 1);
    }
    return cb_init_normal(t[QUERY], rng, deviation) && cb_init_normal(t[KEY], key, deviation);
}

/* ---- forward ---- */

cb_tensor *cb_mix_by_weights(cb_tensor *p, cb_tensor *y, cb_tensor *const *changes, int64_t count)
{
    p = p && y ? cb_cast(p, y->dtype) : NULL;
    for (int64_t i = 0; p && i < count; i++)
        y = cb_add(y, cb_mul(changes[i], cb_slice(p, -1, i, i + 1, 1)));
    return p ? y : NULL;
}

static cb_tensor *wide(cb_tensor *x)
{
    return x && (x->dtype == CB_BF16 || x->dtype == CB_F16) ? cb_cast(x, CB_F32) : x;
}

cb_tensor *cb_fusion_mix(cb_tensor *const *t, cb_tensor *q, cb_tensor *y, cb_tensor *const *changes, int64_t count)
{
    cb_tensor **scores = cb_calloc((size_t)count, sizeof(cb_tensor *)), *query = wide(cb_linear(q, t[QUERY], t[QUERY_BIAS]));
    for (int64_t i = 0; scores && i < count; i++)
        scores[i] = cb_sum(cb_mul(query, wide(cb_linear(changes[i], t[KEY], t[KEY_BIAS]))), -1, true);
    cb_tensor *p = scores && cb_ok() ? cb_softmax(cb_cat((int)count, scores, -1), -1) : NULL;
    cb_free(scores);
    if (!p || !t[VALUE])
        return cb_mix_by_weights(p, y, changes, count);
    cb_tensor *mixed = cb_mix_by_weights(p, cb_zeros_like(y), changes, count);
    return cb_add(y, cb_linear(mixed, t[VALUE], NULL));
}

static cb_tensor *forward(const cb_mix *m, cb_tensor *x, cb_tensor *y, cb_tensor *const *changes, size_t count, const cb_context *ctx)
{
    (void)x;
    const cb_mixer_layer *layer = (const cb_mixer_layer *)(const void *)m;
    bool sees_stream = ctx->residual && layer->options->fusion_residual;
    return cb_fusion_mix(layer->tensors, sees_stream ? cb_joined_stream(y, ctx) : y, y, changes, (int64_t)count);
}

static cb_tensor *regulariser(const cb_mixer_layer *layer)
{
    cb_tensor *value = layer->tensors[VALUE];
    if (!value || layer->options->fusion_regularization == 0)
        return NULL;
    cb_tensor *identity = cb_zeros_like(value);
    set_diagonal(identity, 1);
    return cb_scale(cb_sum(cb_square(cb_sub(value, identity)), CB_ALL, false), layer->options->fusion_regularization);
}

const cb_mixer_form_kind cb_mixer_fusion = {
    .mix = {.name = "fusion", .forward = forward},
    .parameters = parameters,
    .initialise = initialise,
    .regulariser = regulariser,
};
