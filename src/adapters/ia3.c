/* ia3.c: (IA)^3, learned factors of activations.  Liu et al. 2022, arXiv:2205.05638.
 * y = l * (W x + b) with l (out); in feedforward modules y = W (l * x) + b with l (in).  Fresh factors are 1 and change nothing.
 * Of a convolution they are its channels'. */
#include <string.h>

#include "adapters/internal.h"

typedef struct ia3_config {
    cb_string_list feedforward_modules;
    bool init_weights;
} ia3_config;

typedef struct ia3_state {
    cb_tensor *l;
    bool feedforward;
} ia3_state;

#define AUTOMATIC "auto"

static const cb_option ia3_options[] = {
    CB_OPT_LIST(
        ia3_config, feedforward_modules, AUTOMATIC, "LAYER,...",
        "of the adapted layers, those whose inputs are scaled, not their outputs: ends of names or one regular expression; auto: the "
        "last layer of each MLP"),
    CB_OPT_BOOL(ia3_config, init_weights, true, "factors start at 1; false: random"), CB_OPT_END};

static const char *const ia3_peft_names[] = {"init_weights", "init_ia3_weights", NULL};

static const char ia3_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null, \"fan_in_fan_out\": false}";

/* peft/utils/constants.py: TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING */
static const cb_default_target ia3_targets[] = {
    {"t5", "k,v,wo"},
    {"mt5", "k,v,wi_1"},
    {"umt5", "k,v,wi_1"}, /* not in PEFT */
    {"gpt2", "c_attn,mlp.c_proj"},
    {"bloom", "query_key_value,mlp.dense_4h_to_h"},
    {"roberta", "key,value,output.dense"},
    {"opt", "q_proj,k_proj,fc2"},
    {"gptj", "q_proj,v_proj,fc_out"},
    {"gpt_neox", "query_key_value,dense_4h_to_h"},
    {"gpt_neo", "q_proj,v_proj,c_proj"},
    {"bart", "q_proj,v_proj,fc2"},
    {"gpt_bigcode", "c_attn,mlp.c_proj"},
    {"llama", "k_proj,v_proj,down_proj"},
    {"llama4", "q_proj,v_proj,down_proj"},
    {"mistral", "k_proj,v_proj,down_proj"},
    {"mixtral", "k_proj,v_proj,w2"},
    {"bert", "key,value,output.dense"},
    {"deberta-v2", "key_proj,value_proj,output.dense"},
    {"deberta", "in_proj,output.dense"},
    {"RefinedWebModel", "query_key_value,dense_4h_to_h"},
    {"RefinedWeb", "query_key_value,dense_4h_to_h"},
    {"falcon", "query_key_value,dense_4h_to_h"},
    {"phi", "q_proj,v_proj,fc2"},
    {"gemma", "q_proj,v_proj,down_proj"},
    {"gemma2", "q_proj,v_proj,down_proj"},
    {"gemma3_text", "q_proj,v_proj,down_proj"},
    {"qwen2", "q_proj,v_proj,down_proj"},
    {"qwen3", "q_proj,v_proj,down_proj"},
    {0},
};

/* The feedforward modules of all those models: the names do not contradict each other. */
static const char *const ia3_feedforward[] = {"down_proj",     "mlp.c_proj", "fc2", "fc_out", "output.dense",
                                              "dense_4h_to_h", "wo",         "w2",  NULL};

static bool is_automatic(const ia3_config *config)
{
    return config->feedforward_modules.count == 1 && strcmp(config->feedforward_modules.items[0], AUTOMATIC) == 0;
}

/* As in PEFT: the end of a name, with no regard to its dots, or one expression for the whole of it. */
static bool names_layer(const char *item, const char *name, bool *hit)
{
    *hit = cb_ends_with(name, item);
    if (!cb_is_pattern_text(item))
        return true;
    cb_name_pattern *pattern = cb_name_pattern_new("feedforward_modules", item);
    int found = pattern ? cb_name_pattern_test(pattern, name, true) : -1;
    cb_name_pattern_free(pattern);
    *hit = found == 1;
    return found >= 0;
}

static bool is_feedforward(const ia3_config *config, const char *name, bool *hit)
{
    bool ok = true;
    *hit = false;
    if (is_automatic(config))
        for (int i = 0; !*hit && ia3_feedforward[i]; i++)
            *hit = cb_ends_with(name, ia3_feedforward[i]);
    else
        for (size_t i = 0; ok && !*hit && i < config->feedforward_modules.count; i++)
            ok = names_layer(config->feedforward_modules.items[i], name, hit);
    return ok;
}

static bool ia3_create(cb_module *m, const void *config, const cb_layer *layer)
{
    ia3_state *ia3 = m->state;
    return is_feedforward(config, layer->name, &ia3->feedforward);
}

/* (out, 1) or (1, in); of a convolution (1, channels, 1, 1) */
static int ia3_parameters(cb_module *m, cb_adapter_parameter *list)
{
    ia3_state *ia3 = m->state;
    int64_t n = ia3->feedforward ? m->layer->in_features : m->layer->out_features;
    if (m->layer->kind == CB_LAYER_CONV)
        *list = (cb_adapter_parameter){"ia3_l", &ia3->l, 4, {1, n, 1, 1}, CB_ROLE_TRAINED};
    else
        *list = (cb_adapter_parameter){"ia3_l", &ia3->l, 2, {ia3->feedforward ? 1 : n, ia3->feedforward ? n : 1}, CB_ROLE_TRAINED};
    return 1;
}

static bool ia3_initialise(cb_module *m, const void *config, uint64_t seed)
{
    ia3_state *ia3 = m->state;
    if (!((const ia3_config *)config)->init_weights)
        return cb_init_normal(ia3->l, cb_adapter_rng(seed, m, "ia3_l"), 1);
    float *l = ia3->l->data;
    for (int64_t i = 0; i < ia3->l->count; i++)
        l[i] = 1;
    return true;
}

/* The factors at this strength: 1 + strength (l - 1). */
static cb_tensor *factors(const cb_module *m)
{
    const ia3_state *ia3 = m->state;
    return m->strength == 1 ? ia3->l : cb_add_scalar(cb_scale(ia3->l, m->strength), 1 - m->strength);
}

/* x times the factors, which lie along its last dimension, or a convolution's second; f32 inside, as in PEFT */
static cb_tensor *scaled(const cb_module *m, cb_tensor *x)
{
    if (!x || m->strength == 0)
        return x;
    cb_tensor *l = factors(m);
    if (l && m->layer->kind != CB_LAYER_CONV)
        l = cb_reshape(l, l->count);
    cb_tensor *product = cb_mul(x->dtype == CB_F32 ? x : cb_cast(x, CB_F32), l);
    return x->dtype == CB_F32 ? product : cb_cast(product, x->dtype);
}

static cb_tensor *ia3_before(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    (void)ctx;
    return ((const ia3_state *)m->state)->feedforward ? scaled(m, x) : x;
}

static cb_tensor *ia3_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)x, (void)ctx;
    return ((const ia3_state *)m->state)->feedforward ? y : scaled(m, y);
}

/* ---- merging ---- */

/* W (l - 1), with l along the inputs or outputs of the weight as it is stored */
static cb_tensor *ia3_delta(const cb_module *m, cb_tensor *weight)
{
    const ia3_state *ia3 = m->state;
    const cb_layer *layer = m->layer;
    cb_tensor *change = cb_add_scalar(factors(m), -1);
    if (layer->kind == CB_LAYER_CONV && ia3->feedforward) { /* a group of outputs sees a group of the channels */
        int64_t groups = layer->conv.groups ? layer->conv.groups : 1, out = layer->out_features, in = layer->in_features;
        cb_tensor *grouped = cb_reshape(weight, groups, out / groups, in / groups, -1);
        cb_tensor *delta = cb_mul(grouped, cb_reshape(change, groups, 1, in / groups, 1));
        return weight ? cb_reshape_nd(delta, weight->ndim, weight->shape) : NULL;
    }
    if (layer->kind == CB_LAYER_CONV)
        return cb_mul(weight, cb_reshape(change, -1, 1, 1, 1));
    bool last = ia3->feedforward != layer->transposed;
    return cb_mul(weight, last ? cb_reshape(change, 1, -1) : cb_reshape(change, -1, 1));
}

static cb_tensor *ia3_delta_bias(const cb_module *m, cb_tensor *bias)
{
    const ia3_state *ia3 = m->state;
    if (ia3->feedforward || !bias)
        return NULL;
    return cb_mul(bias, cb_reshape(cb_add_scalar(factors(m), -1), -1));
}

static cb_input_change ia3_input(const cb_module *m)
{
    return ((const ia3_state *)m->state)->feedforward ? CB_INPUT_ALONE : CB_INPUT_KEPT;
}

const cb_adapter_kind cb_kind_ia3 = {
    .name = "ia3",
    .peft_type = "IA3",
    .summary = "a factor for each output, or input of feedforward layers: l * (W x)",
    .paper = "Liu et al. 2022, arXiv:2205.05638",
    .options = ia3_options,
    .config_size = sizeof(ia3_config),
    .state_size = sizeof(ia3_state),
    .module =
        {.name = "ia3", .before = ia3_before, .input = ia3_input, .forward = ia3_forward, .delta = ia3_delta, .delta_bias = ia3_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .create = ia3_create,
    .parameters = ia3_parameters,
    .initialise = ia3_initialise,
    .peft_names = ia3_peft_names,
    .peft_fixed = ia3_peft_fixed,
    .default_targets = ia3_targets,
};
