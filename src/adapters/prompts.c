/* prompts.c: see prompts.h. */
#include "adapters/prompts.h"

#include <math.h>
#include <string.h>

static bool measure(void *user, cb_layer *layer)
{
    cb_prompt_sizes *sizes = user;
    sizes->layers += layer->kind == CB_LAYER_BLOCK;
    if (layer->kind == CB_LAYER_ATTENTION && !sizes->heads) {
        sizes->heads = layer->in_features;
        sizes->key_heads = layer->out_features;
        sizes->head_dim = sizes->heads ? sizes->width / sizes->heads : 0;
        for (size_t i = 0; i < layer->child_count; i++)
            if (cb_ends_with(layer->children[i]->name, ".k_proj") && sizes->key_heads)
                sizes->head_dim = layer->children[i]->out_features / sizes->key_heads;
    }
    return true;
}

cb_prompt_sizes cb_prompt_sizes_of(const cb_layer *embedding)
{
    cb_prompt_sizes sizes = {.width = embedding->out_features};
    cb_layer *root = (cb_layer *)(uintptr_t)embedding;
    while (root->parent)
        root = root->parent;
    cb_layer_visit(root, measure, &sizes);
    return sizes;
}

bool cb_prompt_check(const cb_prompt_config *config, const cb_layer *embedding, bool keys)
{
    cb_prompt_sizes sizes = cb_prompt_sizes_of(embedding);
    const struct {
        const char *name;
        int64_t found, expected;
    } facts[] = {{"token_dim", config->token_dim, keys ? sizes.key_heads * sizes.head_dim : sizes.width},
                 {"num_layers", config->num_layers, sizes.layers},
                 {"num_attention_heads", config->num_attention_heads, keys ? sizes.key_heads : sizes.heads}};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (facts[i].found && facts[i].found != facts[i].expected)
            return cb_fail(CB_ERR_ARGUMENT, "%s: found %lld, expected %lld, which this model has", facts[i].name, (long long)facts[i].found,
                           (long long)facts[i].expected) == CB_OK;
    return !keys || sizes.heads ||
           cb_fail(CB_ERR_UNSUPPORTED, "found a model of no attention layer, which virtual tokens as keys and values need") == CB_OK;
}

bool cb_prompt_describe(cb_prompt_config *config, const cb_adapter_group *group, bool keys)
{
    if (!group->count)
        return true;
    cb_prompt_sizes sizes = cb_prompt_sizes_of(group->modules[0]->layer);
    config->token_dim = keys ? sizes.key_heads * sizes.head_dim : sizes.width;
    config->num_layers = sizes.layers;
    config->num_attention_heads = keys ? sizes.key_heads : sizes.heads;
    config->num_transformer_submodules = 1;
    return true;
}

int64_t cb_prompt_virtual_tokens(const cb_module *m)
{
    return m->strength == 0 ? 0 : ((const cb_prompt_config *)cb_adapter_module_of(m)->config)->num_virtual_tokens;
}

int cb_prompt_layer_parameters(cb_prompt_layer *layer, const char *weight, const char *bias, int64_t in, int64_t out,
                               cb_adapter_parameter *list)
{
    list[0] = (cb_adapter_parameter){weight, &layer->weight, 2, {out, in}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    list[1] = (cb_adapter_parameter){bias, &layer->bias, 1, {out}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    return 2;
}

bool cb_prompt_layer_initialise(cb_prompt_layer *layer, const cb_module *m, uint64_t seed, const char *name)
{
    double bound = 1 / sqrt((double)layer->weight->shape[1]);
    char bias[64];
    snprintf(bias, sizeof bias, "%s.bias", name);
    return cb_init_uniform(layer->weight, cb_adapter_rng(seed, m, name), bound) &&
           cb_init_uniform(layer->bias, cb_adapter_rng(seed, m, bias), bound);
}

cb_tensor *cb_prompt_layer_forward(const cb_prompt_layer *layer, cb_tensor *x)
{
    return cb_linear(x, layer->weight, layer->bias);
}
