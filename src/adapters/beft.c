/* beft.c: a bias added to the results of layers, whether they have one or not; by default those of value projections.
 * arXiv:2509.15974. */
#include "adapters/internal.h"

typedef struct beft_config {
    bool init_weights;
} beft_config;

typedef struct beft_state {
    cb_tensor *bias; /* (1, out) */
} beft_state;

static const cb_option beft_options[] = {CB_OPT_BOOL(beft_config, init_weights, true, "start with a change of zero; false: random"),
                                         CB_OPT_END};

static const char beft_peft_fixed[] = "{\"modules_to_save\": null}";

/* peft/utils/constants.py: TRANSFORMERS_MODELS_TO_BEFT_TARGET_MODULES_MAPPING */
static const cb_default_target beft_targets[] = {
    {"t5", "v"},
    {"mt5", "v"},
    {"umt5", "v"}, /* not in PEFT */
    {"roberta", "value"},
    {"opt", "v_proj"},
    {"gptj", "v_proj"},
    {"gpt_neo", "v_proj"},
    {"bart", "v_proj"},
    {"llama", "v_proj"},
    {"llama4", "v_proj"},
    {"mistral", "v_proj"},
    {"mixtral", "v_proj"},
    {"bert", "value"},
    {"deberta-v2", "value_proj"},
    {"phi", "v_proj"},
    {"gemma", "v_proj"},
    {"gemma2", "v_proj"},
    {"gemma3_text", "v_proj"},
    {"qwen2", "v_proj"},
    {"qwen3", "v_proj"},
    {0},
};

static int beft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    list[0] = (cb_adapter_parameter){"beft_bias", &((beft_state *)m->state)->bias, 2, {1, m->layer->out_features}, CB_ROLE_TRAINED};
    return 1;
}

static bool beft_initialise(cb_module *m, const void *config, uint64_t seed)
{
    return ((const beft_config *)config)->init_weights ||
           cb_init_normal(((beft_state *)m->state)->bias, cb_adapter_rng(seed, m, "beft_bias"), 1);
}

static cb_tensor *beft_delta_bias(const cb_module *m, cb_tensor *bias)
{
    (void)bias;
    return cb_scale(cb_reshape(((const beft_state *)m->state)->bias, -1), m->strength);
}

static cb_tensor *beft_bias(const cb_module *m, cb_tensor *bias, const cb_context *ctx)
{
    (void)ctx;
    if (m->strength == 0)
        return bias;
    cb_tensor *change = beft_delta_bias(m, bias);
    return bias ? cb_add(cb_cast(bias, CB_F32), change) : change;
}

const cb_adapter_kind cb_kind_beft = {
    .name = "beft",
    .peft_type = "BEFT",
    .summary = "a bias added to the results of layers",
    .paper = "arXiv:2509.15974",
    .options = beft_options,
    .config_size = sizeof(beft_config),
    .state_size = sizeof(beft_state),
    .module = {.name = "beft", .bias = beft_bias, .delta_bias = beft_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR,
    .parameters = beft_parameters,
    .initialise = beft_initialise,
    .peft_fixed = beft_peft_fixed,
    .default_targets = beft_targets,
};
