/* ln_tuning.c: weights and biases of norms, trained whole.  Zhao et al. 2024, arXiv:2312.11420. */
#include "adapters/internal.h"
#include "adapters/strength.h"

typedef struct ln_tuning_state {
    cb_tensor *weight, *bias; /* in place of the layer's; NULL: it has none */
} ln_tuning_state;

static const cb_option ln_tuning_options[] = {CB_OPT_END};

static const char ln_tuning_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null}";

/* peft/utils/constants.py: TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING */
static const cb_default_target ln_tuning_targets[] = {
    {"llama", "input_layernorm,post_attention_layernorm,norm"},
    {"bloom", "input_layernorm,post_attention_layernorm,ln_f"},
    {"t5", "layer_norm,final_layer_norm"},
    {"mt5", "layer_norm,final_layer_norm"},
    {"umt5", "layer_norm,final_layer_norm"}, /* not in PEFT */
    {"bart", "self_attn_layer_norm,encoder_attn_layer_norm,final_layer_norm"},
    {"gpt2", "ln_1,ln_2,ln_f"},
    {"blip-2", "layernorm,LayerNorm,final_layer_norm,self_attn_layer_norm"},
    {"gptj", "ln_1,ln_f"},
    {"falcon", "input_layernorm,post_attention_layernorm,ln_f"},
    {"mistral", "input_layernorm,post_attention_layernorm,norm"},
    {"phi", "input_layernorm,final_layernorm"},
    {"gemma", "input_layernorm,post_attention_layernorm,norm"},
    {"gemma2", "input_layernorm,post_attention_layernorm,pre_feedforward_layernorm,post_feedforward_layernorm,norm"},
    {"gemma3_text", "input_layernorm,post_attention_layernorm,pre_feedforward_layernorm,post_feedforward_layernorm,norm"},
    {"qwen2", "post_attention_layernorm"},
    {"qwen3", "post_attention_layernorm"},
    {0},
};

static int ln_tuning_parameters(cb_module *m, cb_adapter_parameter *list)
{
    ln_tuning_state *own = m->state;
    const cb_tensor *weight = cb_layer_weight(m->layer, "weight"), *bias = cb_layer_weight(m->layer, "bias");
    int n = 0;
    if (weight)
        list[n++] = (cb_adapter_parameter){"ln_tuning_layers.weight", &own->weight, 1, {weight->count}, CB_ROLE_TRAINED};
    if (bias)
        list[n++] = (cb_adapter_parameter){"ln_tuning_layers.bias", &own->bias, 1, {bias->count}, CB_ROLE_TRAINED};
    return n;
}

static bool ln_tuning_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config, (void)seed;
    ln_tuning_state *own = m->state;
    return (!own->weight || cb_copy_into(own->weight, cb_layer_weight(m->layer, "weight"))) &&
           (!own->bias || cb_copy_into(own->bias, cb_layer_weight(m->layer, "bias")));
}

static cb_tensor *ln_tuning_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx)
{
    (void)ctx;
    return cb_at_strength(weight, ((const ln_tuning_state *)m->state)->weight, m->strength);
}

static cb_tensor *ln_tuning_bias(const cb_module *m, cb_tensor *bias, const cb_context *ctx)
{
    (void)ctx;
    return cb_at_strength(bias, ((const ln_tuning_state *)m->state)->bias, m->strength);
}

static cb_tensor *ln_tuning_delta(const cb_module *m, cb_tensor *weight)
{
    return cb_change_at_strength(weight, ((const ln_tuning_state *)m->state)->weight, m->strength);
}

static cb_tensor *ln_tuning_delta_bias(const cb_module *m, cb_tensor *bias)
{
    return cb_change_at_strength(bias, ((const ln_tuning_state *)m->state)->bias, m->strength);
}

const cb_adapter_kind cb_kind_ln_tuning = {
    .name = "ln_tuning",
    .peft_type = "LN_TUNING",
    .summary = "the weights and biases of norms, trained whole",
    .paper = "Zhao et al. 2024, arXiv:2312.11420",
    .options = ln_tuning_options,
    .state_size = sizeof(ln_tuning_state),
    .module = {.name = "ln_tuning",
               .weight = ln_tuning_weight,
               .bias = ln_tuning_bias,
               .delta = ln_tuning_delta,
               .delta_bias = ln_tuning_delta_bias},
    .hosts = 1u << CB_LAYER_NORM,
    .parameters = ln_tuning_parameters,
    .initialise = ln_tuning_initialise,
    .peft_fixed = ln_tuning_peft_fixed,
    .default_targets = ln_tuning_targets,
};
