/* prompts.h: what the kinds share that have virtual tokens before the text instead of changed layers.  P virtual tokens, C width. */
#ifndef CB_ADAPTERS_PROMPTS_H
#define CB_ADAPTERS_PROMPTS_H

#include "adapters/internal.h"

/* The first member, `prompt`, of their configs.  All but the first are the model's: PEFT writes them, and what a file says must fit. */
typedef struct cb_prompt_config {
    int64_t num_virtual_tokens, token_dim, num_layers, num_attention_heads, num_transformer_submodules;
} cb_prompt_config;

#define CB_PROMPT_INT(T, field, def, min, max, help)                                                                                       \
    CB_OPTION_ROW(#field, CB_OPTION_INT, offsetof(T, prompt) + offsetof(cb_prompt_config, field), def, NULL, min, max, NULL, "N", help)
#define CB_PROMPT_OPTIONS(T)                                                                                                               \
    CB_PROMPT_INT(T, num_virtual_tokens, 20, 1, 65536, "virtual tokens before every text"),                                                \
        CB_PROMPT_INT(T, token_dim, 0, 0, 1 << 24, "numbers of a virtual token, as the model has them (0: whatever it has)"),              \
        CB_PROMPT_INT(T, num_layers, 0, 0, 1 << 16, "blocks of the model (0: whatever it has)"),                                           \
        CB_PROMPT_INT(T, num_attention_heads, 0, 0, 1 << 16, "attention heads of the model (0: whatever it has)"),                         \
        CB_PROMPT_INT(T, num_transformer_submodules, 0, 0, 1, "parts of the model that take virtual tokens: 1, which 0 is too")
#define CB_PROMPT_NULLS "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"

/* What the model has, found from the layer that its tokens are looked up in. */
typedef struct cb_prompt_sizes {
    int64_t width, layers, heads, key_heads, head_dim;
} cb_prompt_sizes;
cb_prompt_sizes cb_prompt_sizes_of(const cb_layer *embedding);

/* Whether what the config says of the model is so; `keys`: virtual tokens are keys, and token_dim and heads those of keys. */
bool cb_prompt_check(const cb_prompt_config *config, const cb_layer *embedding, bool keys);
/* A kind's `stored_config`: says all of it. */
bool cb_prompt_describe(cb_prompt_config *config, const cb_adapter_group *group, bool keys);

int64_t cb_prompt_virtual_tokens(const cb_module *m); /* a kind's `virtual_tokens` */

/* y = x W^T + b as one of torch's Sequential: NAME.weight (out, in) and NAME.bias (out), which no file holds. */
typedef struct cb_prompt_layer {
    cb_tensor *weight, *bias;
} cb_prompt_layer;
int cb_prompt_layer_parameters(cb_prompt_layer *layer, const char *weight, const char *bias, int64_t in, int64_t out,
                               cb_adapter_parameter *list);
bool cb_prompt_layer_initialise(cb_prompt_layer *layer, const cb_module *m, uint64_t seed, const char *name); /* as torch's */
cb_tensor *cb_prompt_layer_forward(const cb_prompt_layer *layer, cb_tensor *x);

#endif
