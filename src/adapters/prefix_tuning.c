/* prefix_tuning.c: prefix tuning: trained keys and values of virtual tokens, in every block.  Li and Liang 2021, arXiv:2101.00190.
 * L blocks, H key heads, D head size; a virtual token is 2 L H D numbers, of each block its keys and then its values.
 *
 * With prefix_projection they come out of a small network while they are trained.  The file holds what comes out, as PEFT's does: an
 * adapter that is read again has no network, and the keys and values themselves are trained. */
#include <string.h>

#include "adapters/prompts.h"

typedef struct prefix_tuning_config {
    cb_prompt_config prompt; /* first */
    int64_t encoder_hidden_size;
    bool prefix_projection;
    int init_weights;
} prefix_tuning_config;

typedef struct prefix_tuning_state {
    cb_tensor *table; /* (P, 2 L H D), or what goes into the network, (P, H D) */
    cb_prompt_layer layers[2];
    int64_t key_heads, head_dim, blocks;
} prefix_tuning_state;

enum { START_RANDOM, START_ZERO };
static const char *const prefix_tuning_starts[] = {"random", "zero", NULL};

static const cb_option prefix_tuning_options[] = {
    CB_PROMPT_OPTIONS(prefix_tuning_config),
    CB_OPT_INT(prefix_tuning_config, encoder_hidden_size, 0, 0, 1 << 24, "width of the network (0: that of a token)"),
    CB_OPT_BOOL(prefix_tuning_config, prefix_projection, false, "train keys and values through a small network"),
    CB_OPT_ENUM(prefix_tuning_config, init_weights, START_RANDOM, prefix_tuning_starts,
                "how keys and values start: random (normal), or zero"),
    CB_OPT_END};

static const char *const prefix_tuning_peft_null[] = {CB_PROMPT_NULLS, "encoder_hidden_size", "init_weights", NULL};
static const char prefix_tuning_peft_fixed[] = "{\"modules_to_save\": null}";

static bool prefix_tuning_create(cb_module *m, const void *config, const cb_layer *layer)
{
    prefix_tuning_state *s = m->state;
    cb_prompt_sizes sizes = cb_prompt_sizes_of(layer);
    s->key_heads = sizes.key_heads;
    s->head_dim = sizes.head_dim;
    s->blocks = sizes.layers;
    return cb_prompt_check(config, layer, true);
}

static bool has_network(const cb_module *m)
{
    const cb_adapter_module *own = cb_adapter_module_of(m);
    return own->fresh && ((const prefix_tuning_config *)own->config)->prefix_projection;
}

static int prefix_tuning_parameters(cb_module *m, cb_adapter_parameter *list)
{
    prefix_tuning_state *s = m->state;
    const prefix_tuning_config *config = cb_module_group(m)->config;
    int64_t tokens = config->prompt.num_virtual_tokens, token = s->key_heads * s->head_dim, all = 2 * s->blocks * token;
    int64_t hidden = config->encoder_hidden_size ? config->encoder_hidden_size : token;
    int n = 0;
    if (!has_network(m)) {
        list[n++] = (cb_adapter_parameter){"prompt_embeddings", &s->table, 2, {tokens, all}, CB_ROLE_TRAINED};
        return n;
    }
    list[n++] = (cb_adapter_parameter){"embedding.weight", &s->table, 2, {tokens, token}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    n += cb_prompt_layer_parameters(&s->layers[0], "transform.0.weight", "transform.0.bias", token, hidden, list + n);
    n += cb_prompt_layer_parameters(&s->layers[1], "transform.2.weight", "transform.2.bias", hidden, all, list + n);
    list[n++] = (cb_adapter_parameter){"prompt_embeddings", NULL, 2, {tokens, all}, CB_ROLE_ECHO};
    return n;
}

static bool prefix_tuning_initialise(cb_module *m, const void *config, uint64_t seed)
{
    prefix_tuning_state *s = m->state;
    bool zero = ((const prefix_tuning_config *)config)->init_weights == START_ZERO;
    if (!has_network(m))
        return zero || cb_init_normal(s->table, cb_adapter_rng(seed, m, "prompt_embeddings"), 1);
    return cb_init_normal(s->table, cb_adapter_rng(seed, m, "embedding.weight"), 1) &&
           cb_prompt_layer_initialise(&s->layers[0], m, seed, "transform.0") &&
           (zero || cb_prompt_layer_initialise(&s->layers[1], m, seed, "transform.2"));
}

/* (P, 2 L H D) */
static cb_tensor *keys_and_values(const cb_module *m)
{
    const prefix_tuning_state *s = m->state;
    if (!has_network(m))
        return s->table;
    return cb_prompt_layer_forward(&s->layers[1], cb_tanh(cb_prompt_layer_forward(&s->layers[0], s->table)));
}

static cb_tensor *prefix_tuning_prompt(const cb_module *m, const cb_context *ctx)
{
    (void)ctx;
    return keys_and_values(m);
}

static bool prefix_tuning_prefix(const cb_module *m, cb_tensor *prompt, int64_t index, cb_tensor **k, cb_tensor **v)
{
    const prefix_tuning_state *s = m->state;
    int64_t token = s->key_heads * s->head_dim;
    cb_tensor *parts[2];
    for (int i = 0; i < 2; i++) {
        int64_t at = (2 * index + i) * token;
        parts[i] = cb_reshape(cb_slice(prompt, 1, at, at + token, 1), 1, -1, s->key_heads, s->head_dim);
    }
    *k = parts[0];
    *v = parts[1];
    return *k && *v;
}

static cb_tensor *prefix_tuning_stored(const cb_module *m, const char *suffix)
{
    return has_network(m) && strcmp(suffix, "prompt_embeddings") == 0 ? keys_and_values(m) : NULL;
}

static bool prefix_tuning_stored_config(void *config_, const cb_adapter_group *group)
{
    prefix_tuning_config *config = config_;
    if (!cb_prompt_describe(config_, group, true))
        return false;
    config->encoder_hidden_size = config->encoder_hidden_size ? config->encoder_hidden_size : config->prompt.token_dim;
    return true;
}

const cb_adapter_kind cb_kind_prefix_tuning = {
    .name = "prefix_tuning",
    .peft_type = "PREFIX_TUNING",
    .summary = "trained keys and values of virtual tokens before the text, in every block",
    .paper = "Li and Liang 2021, arXiv:2101.00190",
    .options = prefix_tuning_options,
    .config_size = sizeof(prefix_tuning_config),
    .state_size = sizeof(prefix_tuning_state),
    .module = {.name = "prefix_tuning",
               .virtual_tokens = cb_prompt_virtual_tokens,
               .prompt = prefix_tuning_prompt,
               .prefix = prefix_tuning_prefix},
    .hosts = 1u << CB_LAYER_EMBEDDING,
    .create = prefix_tuning_create,
    .parameters = prefix_tuning_parameters,
    .initialise = prefix_tuning_initialise,
    .stored = prefix_tuning_stored,
    .stored_config = prefix_tuning_stored_config,
    .peft_null = prefix_tuning_peft_null,
    .peft_fixed = prefix_tuning_peft_fixed,
};
