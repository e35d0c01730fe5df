/* prompt_tuning.c: prompt tuning: trained embeddings of virtual tokens before the text.  Lester et al. 2021, arXiv:2104.08691. */
#include "adapters/prompts.h"

typedef struct prompt_tuning_config {
    cb_prompt_config prompt; /* first */
    int prompt_tuning_init;
    char *prompt_tuning_init_text, *tokenizer_name_or_path;
} prompt_tuning_config;

typedef struct prompt_tuning_state {
    cb_tensor *table; /* (P, C) */
} prompt_tuning_state;

enum { START_RANDOM, START_VOCABULARY, START_TEXT };
static const char *const prompt_tuning_starts[] = {"RANDOM", "SAMPLE_VOCAB", "TEXT", NULL};

static const cb_option prompt_tuning_options[] = {
    CB_PROMPT_OPTIONS(prompt_tuning_config),
    CB_OPT_ENUM(prompt_tuning_config, prompt_tuning_init, START_RANDOM, prompt_tuning_starts,
                "how they start: RANDOM (normal), SAMPLE_VOCAB (embeddings of random tokens); TEXT is read from files only"),
    CB_OPT_STRING(prompt_tuning_config, prompt_tuning_init_text, NULL, "TEXT", "of files: the text of the start TEXT"),
    CB_OPT_STRING(prompt_tuning_config, tokenizer_name_or_path, NULL, "NAME", "of files: the tokenizer of that text"), CB_OPT_END};

static const char *const prompt_tuning_peft_null[] = {CB_PROMPT_NULLS, NULL};
static const char prompt_tuning_peft_fixed[] = "{\"modules_to_save\": null, \"tokenizer_kwargs\": null}";

static bool prompt_tuning_check(const void *config, const cb_layer *layer)
{
    if (!layer || ((const prompt_tuning_config *)config)->prompt_tuning_init != START_TEXT)
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "prompt_tuning_init: found TEXT, a new prompt starts RANDOM or SAMPLE_VOCAB") == CB_OK;
}

static bool prompt_tuning_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)m;
    return cb_prompt_check(config, layer, false);
}

static int prompt_tuning_parameters(cb_module *m, cb_adapter_parameter *list)
{
    prompt_tuning_state *s = m->state;
    const prompt_tuning_config *config = cb_module_group(m)->config;
    *list = (cb_adapter_parameter){
        "prompt_embeddings", &s->table, 2, {config->prompt.num_virtual_tokens, m->layer->out_features}, CB_ROLE_TRAINED};
    return 1;
}

static bool prompt_tuning_initialise(cb_module *m, const void *config, uint64_t seed)
{
    prompt_tuning_state *s = m->state;
    cb_rng rng = cb_adapter_rng(seed, m, "prompt_embeddings");
    if (((const prompt_tuning_config *)config)->prompt_tuning_init != START_VOCABULARY)
        return cb_init_normal(s->table, rng, 1);
    int64_t tokens = s->table->shape[0], vocabulary = m->layer->in_features;
    cb_tensor *ids = cb_zeros(CB_I32, tokens);
    for (int64_t i = 0; ids && i < tokens; i++)
        ((int32_t *)ids->data)[i] = (int32_t)((double)vocabulary * cb_rng_uniform(&rng));
    cb_tensor *rows = cb_embedding(cb_layer_weight(m->layer, "weight"), ids);
    return rows && cb_copy_into(s->table, rows);
}

static cb_tensor *prompt_tuning_prompt(const cb_module *m, const cb_context *ctx)
{
    (void)ctx;
    return cb_unsqueeze(((const prompt_tuning_state *)m->state)->table, 0);
}

static bool prompt_tuning_stored_config(void *config, const cb_adapter_group *group)
{
    return cb_prompt_describe(config, group, false);
}

const cb_adapter_kind cb_kind_prompt_tuning = {
    .name = "prompt_tuning",
    .peft_type = "PROMPT_TUNING",
    .summary = "trained embeddings of virtual tokens before the text",
    .paper = "Lester et al. 2021, arXiv:2104.08691",
    .options = prompt_tuning_options,
    .config_size = sizeof(prompt_tuning_config),
    .state_size = sizeof(prompt_tuning_state),
    .module = {.name = "prompt_tuning", .virtual_tokens = cb_prompt_virtual_tokens, .prompt = prompt_tuning_prompt},
    .hosts = 1u << CB_LAYER_EMBEDDING,
    .check = prompt_tuning_check,
    .create = prompt_tuning_create,
    .parameters = prompt_tuning_parameters,
    .initialise = prompt_tuning_initialise,
    .stored_config = prompt_tuning_stored_config,
    .peft_null = prompt_tuning_peft_null,
    .peft_fixed = prompt_tuning_peft_fixed,
};
