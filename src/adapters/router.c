/* router.c: a router for each layer: y + sum_i p_i c_i, p = softmax((W x + b) / T) for each token, of which the k largest may be kept (not
 * scaled up again); x the layer's input, c_i what adapter i adds to its result y.  A mixture of adapters, as in MoELoRA, arXiv:2310.18339, and
 * LoRAMoE, arXiv:2312.09979.  W starts at zero: all adapters alike.  Shape letters: N adapters. */
#include "adapters/gate.h"
#include "adapters/mixer.h"

enum { WEIGHT, BIAS };

static int parameters(cb_mixer_layer *layer, cb_adapter_parameter *list)
{
    list[0] = (cb_adapter_parameter){"router.weight", &layer->tensors[WEIGHT], 2, {layer->parts, layer->in}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"router.bias", &layer->tensors[BIAS], 1, {layer->parts}, CB_ROLE_TRAINED};
    return 2;
}

static bool initialise(cb_mixer_layer *layer, uint64_t seed)
{
    (void)layer;
    (void)seed;
    return true;
}

static cb_tensor *forward(const cb_mix *m, cb_tensor *x, cb_tensor *y, cb_tensor *const *changes, size_t count, const cb_context *ctx)
{
    (void)ctx;
    const cb_mixer_layer *layer = (const cb_mixer_layer *)(const void *)m;
    cb_tensor *logits = cb_linear(x, layer->tensors[WEIGHT], layer->tensors[BIAS]);
    cb_tensor *p = cb_softmax(cb_scale(cb_cast(logits, CB_F32), 1 / layer->options->mix_temperature), -1);
    if (p && layer->options->mix_top_k && layer->options->mix_top_k < layer->parts)
        p = cb_reshape_nd(cb_keep_largest(cb_reshape(p, -1, layer->parts), layer->options->mix_top_k), p->ndim, p->shape);
    return cb_mix_by_weights(p, y, changes, (int64_t)count);
}

const cb_mixer_form_kind cb_mixer_router = {
    .mix = {.name = "router", .forward = forward}, .parameters = parameters, .initialise = initialise};
