/* lora_conv.c: LoRA on a convolution: a convolution of R outputs and one of single points after it. */
#include "adapters/lora_conv.h"

#include <string.h>

static int64_t groups_of(const cb_layer *layer)
{
    return layer->conv.groups ? layer->conv.groups : 1;
}

int cb_lora_conv_parameters(const cb_layer *layer, int64_t rank, cb_tensor **a, cb_tensor **b, cb_adapter_parameter *list)
{
    const int64_t *kernel = cb_layer_weight(layer, "weight")->shape + 2;
    list[0] = (cb_adapter_parameter){"lora_A.weight", a, 4, {rank, layer->in_features, kernel[0], kernel[1]}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"lora_B.weight", b, 4, {layer->out_features, rank / groups_of(layer), 1, 1}, CB_ROLE_TRAINED};
    return 2;
}

bool cb_lora_conv_check(const cb_layer *layer, int64_t rank, const char *start, bool magnitude)
{
    static const char *const known[] = {"true", "false", "gaussian"};
    bool plain = false;
    for (int i = 0; i < 3; i++)
        plain |= strcmp(start, known[i]) == 0;
    if (!plain || magnitude)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: layer %s is a convolution, for which only init_lora_weights true, false and gaussian are known",
                       magnitude ? "use_dora" : "init_lora_weights", layer->name) == CB_OK;
    return rank % groups_of(layer) == 0 || cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s, expected a multiple of its %lld groups",
                                                   (long long)rank, layer->name, (long long)groups_of(layer)) == CB_OK;
}

cb_tensor *cb_lora_conv_in(const cb_layer *layer, cb_tensor *x, cb_tensor *a)
{
    cb_conv_options whole = layer->conv;
    whole.groups = 1;
    return cb_conv_with(x, a, NULL, whole);
}

cb_tensor *cb_lora_conv_add(const cb_layer *layer, cb_tensor *y, cb_tensor *z, cb_tensor *b, double scale)
{
    if (groups_of(layer) > 1)
        return cb_add(y, cb_conv(cb_scale(z, scale), b, NULL, .groups = groups_of(layer)));
    if (!y || !z)
        return NULL;
    cb_tensor *rows = cb_linear_add(cb_permute(cb_channels_last(y), 0, 2, 3, 1), cb_permute(z, 0, 2, 3, 1),
                                    cb_reshape(b, b->shape[0], b->shape[1]), scale);
    return rows ? cb_permute(rows, 0, 3, 1, 2) : NULL;
}

cb_tensor *cb_lora_conv_product(const cb_layer *layer, cb_tensor *a, cb_tensor *b)
{
    if (groups_of(layer) > 1) {
        cb_fail(CB_ERR_UNSUPPORTED, "layer %s: LoRA on a convolution with groups sees more channels than its weight, and cannot be merged",
                layer->name);
        return NULL;
    }
    if (!a || !b)
        return NULL;
    cb_tensor *product = cb_matmul(cb_reshape(b, b->shape[0], b->shape[1]), cb_reshape(a, a->shape[0], -1));
    return cb_reshape(product, b->shape[0], a->shape[1], a->shape[2], a->shape[3]);
}
