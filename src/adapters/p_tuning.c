/* p_tuning.c: P-tuning: prompt tuning whose embeddings come out of a small network while they are trained.  Liu et al. 2021,
 * arXiv:2103.10385.
 * The file holds what comes out, as PEFT's does: an adapter that is read again has no network, and is trained as prompt tuning. */
#include <string.h>

#include "adapters/prompts.h"

typedef struct p_tuning_config {
    cb_prompt_config prompt; /* first */
    int encoder_reparameterization_type;
    int64_t encoder_hidden_size, encoder_num_layers;
    double encoder_dropout;
} p_tuning_config;

enum { LAYERS = 3 };

typedef struct p_tuning_state {
    cb_tensor *table; /* (P, C): what goes into the network, or of a file what came out */
    cb_prompt_layer layers[LAYERS];
} p_tuning_state;

enum { ENCODER_MLP, ENCODER_LSTM };
static const char *const p_tuning_encoders[] = {"MLP", "LSTM", NULL};

static const cb_option p_tuning_options[] = {
    CB_PROMPT_OPTIONS(p_tuning_config),
    CB_OPT_ENUM(p_tuning_config, encoder_reparameterization_type, ENCODER_MLP, p_tuning_encoders,
                "the network: MLP; LSTM is read from files only"),
    CB_OPT_INT(p_tuning_config, encoder_hidden_size, 0, 0, 1 << 24, "width of the network (0: that of the model)"),
    CB_OPT_INT(p_tuning_config, encoder_num_layers, 2, 1, 1 << 16, "layers of an LSTM; an MLP has three"),
    CB_OPT_FLOAT(p_tuning_config, encoder_dropout, 0, 0, 1, "of an LSTM"),
    CB_OPT_END};

static const char *const p_tuning_peft_null[] = {CB_PROMPT_NULLS, "encoder_hidden_size", NULL};
static const char p_tuning_peft_fixed[] = "{\"modules_to_save\": null}";

static bool p_tuning_check(const void *config, const cb_layer *layer)
{
    if (!layer || ((const p_tuning_config *)config)->encoder_reparameterization_type == ENCODER_MLP)
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "encoder_reparameterization_type: found LSTM, a new prompt is made by an MLP") == CB_OK;
}

static bool p_tuning_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)m;
    return cb_prompt_check(config, layer, false);
}

static bool is_fresh(const cb_module *m)
{
    return cb_adapter_module_of(m)->fresh;
}

static const char *const layer_names[LAYERS] = {"mlp_head.0", "mlp_head.2", "mlp_head.4"};

static int p_tuning_parameters(cb_module *m, cb_adapter_parameter *list)
{
    static const char *const weights[LAYERS] = {"mlp_head.0.weight", "mlp_head.2.weight", "mlp_head.4.weight"};
    static const char *const biases[LAYERS] = {"mlp_head.0.bias", "mlp_head.2.bias", "mlp_head.4.bias"};
    p_tuning_state *s = m->state;
    const p_tuning_config *config = cb_module_group(m)->config;
    int64_t width = m->layer->out_features, hidden = config->encoder_hidden_size ? config->encoder_hidden_size : width;
    const int64_t widths[LAYERS + 1] = {width, hidden, hidden, width};
    int n = 0;
    if (!is_fresh(m)) {
        list[n++] = (cb_adapter_parameter){"prompt_embeddings", &s->table, 2, {config->prompt.num_virtual_tokens, width}, CB_ROLE_TRAINED};
        return n;
    }
    list[n++] = (cb_adapter_parameter){
        "embedding.weight", &s->table, 2, {config->prompt.num_virtual_tokens, width}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    for (int i = 0; i < LAYERS; i++)
        n += cb_prompt_layer_parameters(&s->layers[i], weights[i], biases[i], widths[i], widths[i + 1], list + n);
    list[n++] = (cb_adapter_parameter){"prompt_embeddings", NULL, 2, {config->prompt.num_virtual_tokens, width}, CB_ROLE_ECHO};
    return n;
}

static bool p_tuning_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    p_tuning_state *s = m->state;
    bool ok = cb_init_normal(s->table, cb_adapter_rng(seed, m, "embedding.weight"), 1);
    for (int i = 0; ok && i < LAYERS; i++)
        ok = cb_prompt_layer_initialise(&s->layers[i], m, seed, layer_names[i]);
    return ok;
}

static cb_tensor *embeddings(const cb_module *m)
{
    const p_tuning_state *s = m->state;
    cb_tensor *x = s->table;
    for (int i = 0; is_fresh(m) && i < LAYERS; i++)
        x = cb_prompt_layer_forward(&s->layers[i], i ? cb_relu(x) : x);
    return x;
}

static cb_tensor *p_tuning_prompt(const cb_module *m, const cb_context *ctx)
{
    (void)ctx;
    return cb_unsqueeze(embeddings(m), 0);
}

static cb_tensor *p_tuning_stored(const cb_module *m, const char *suffix)
{
    return is_fresh(m) && strcmp(suffix, "prompt_embeddings") == 0 ? embeddings(m) : NULL;
}

static bool p_tuning_stored_config(void *config_, const cb_adapter_group *group)
{
    p_tuning_config *config = config_;
    if (!cb_prompt_describe(config_, group, false))
        return false;
    config->encoder_hidden_size = config->encoder_hidden_size ? config->encoder_hidden_size : config->prompt.token_dim;
    return true;
}

const cb_adapter_kind cb_kind_p_tuning = {
    .name = "p_tuning",
    .peft_type = "P_TUNING",
    .summary = "embeddings of virtual tokens before the text, trained through a small network",
    .paper = "Liu et al. 2021, arXiv:2103.10385",
    .options = p_tuning_options,
    .config_size = sizeof(p_tuning_config),
    .state_size = sizeof(p_tuning_state),
    .module = {.name = "p_tuning", .virtual_tokens = cb_prompt_virtual_tokens, .prompt = p_tuning_prompt},
    .hosts = 1u << CB_LAYER_EMBEDDING,
    .check = p_tuning_check,
    .create = p_tuning_create,
    .parameters = p_tuning_parameters,
    .initialise = p_tuning_initialise,
    .stored = p_tuning_stored,
    .stored_config = p_tuning_stored_config,
    .peft_null = p_tuning_peft_null,
    .peft_fixed = p_tuning_peft_fixed,
};
