/* lora.c: low-rank adaptation, y = W x + s B A x with s = alpha / R, or alpha / sqrt(R) (rsLoRA).
 * Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732.
 * R rank; A (R, in), B (out, R).  A starts random and B at zero, so a fresh adapter changes nothing. */
#include <math.h>

#include "cambium/adapters.h"

enum { LORA_INIT_DEFAULT, LORA_INIT_RANDOM, LORA_INIT_GAUSSIAN };

typedef struct lora_config {
    int64_t rank;
    double alpha, dropout;
    bool use_rslora, lora_bias;
    int bias, init_weights;
    cb_option_map rank_pattern, alpha_pattern;
} lora_config;

typedef struct lora_state {
    cb_tensor *a, *b, *b_bias;
    int64_t rank;
    double scale, dropout;
    bool has_bias;
} lora_state;

#define LORA_MAX_RANK 65536

static const char *const lora_bias_choices[] = {"none", "all", "lora_only", NULL};
static const char *const lora_init_choices[] = {"true", "false", "gaussian", NULL};

static const cb_option lora_options[] = {
    CB_OPT_INT(lora_config, rank, 8, 1, LORA_MAX_RANK, "inner dimension of the update"),
    CB_OPT_FLOAT(lora_config, alpha, 8, 0, 1e9, "the update is scaled by alpha / rank"),
    CB_OPT_FLOAT(lora_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_BOOL(lora_config, use_rslora, false, "scale by alpha / sqrt(rank) instead"),
    CB_OPT_MAP(lora_config, rank_pattern, "another rank for the layers whose names end with (a match of) KEY"),
    CB_OPT_MAP(lora_config, alpha_pattern, "another alpha for the layers whose names end with (a match of) KEY"),
    CB_OPT_ENUM(lora_config, bias, 0, lora_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(lora_config, lora_bias, false, "give B a bias of its own"),
    CB_OPT_ENUM(lora_config, init_weights, LORA_INIT_DEFAULT, lora_init_choices,
                "true: A uniform as a linear layer, B zero; gaussian: A normal with deviation 1 / rank, B zero; false: both random"),
    CB_OPT_END};

static const char *const lora_peft_names[] = {
    "rank", "r", "alpha", "lora_alpha", "dropout", "lora_dropout", "init_weights", "init_lora_weights", NULL};

static const char lora_peft_fixed[] =
    "{\"exclude_modules\": null, \"layers_to_transform\": null, \"layers_pattern\": null, \"fan_in_fan_out\": false,"
    " \"alora_invocation_tokens\": null, \"arrow_config\": null, \"corda_config\": null, \"ensure_weight_tying\": false,"
    " \"eva_config\": null, \"kasa_config\": null, \"layer_replication\": null, \"loftq_config\": {}, \"lora_ga_config\": null,"
    " \"megatron_config\": null, \"megatron_core\": \"megatron.core\", \"monteclora_config\": null, \"qalora_group_size\": 16,"
    " \"target_parameters\": null, \"trainable_token_indices\": null, \"use_bdlora\": null, \"use_dora\": false,"
    " \"use_qalora\": false, \"velora_config\": null}";

/* The rank and alpha of one layer. */
static bool lora_sizes(const lora_config *config, const cb_layer *layer, int64_t *rank, double *alpha)
{
    double r = (double)config->rank;
    *alpha = config->alpha;
    if (!cb_adapter_pattern(&config->rank_pattern, "rank_pattern", layer->name, &r) ||
        !cb_adapter_pattern(&config->alpha_pattern, "alpha_pattern", layer->name, alpha))
        return false;
    if (!(r >= 1 && r <= LORA_MAX_RANK) || r != floor(r))
        return cb_fail(CB_ERR_ARGUMENT, "rank_pattern: layer %s gets rank %g, expected a whole number from 1 to %d", layer->name, r,
                       LORA_MAX_RANK) == CB_OK;
    *rank = (int64_t)r;
    return true;
}

static bool lora_check(const void *config_, const cb_layer *layer)
{
    const lora_config *config = config_;
    if (!layer) {
        if (config->lora_bias && config->init_weights == LORA_INIT_GAUSSIAN)
            return cb_fail(CB_ERR_ARGUMENT, "lora_bias: found init_weights gaussian, expected true or false") == CB_OK;
        return true;
    }
    int64_t rank = 0;
    double alpha;
    if (!lora_sizes(config, layer, &rank, &alpha))
        return false;
    int64_t most = layer->in_features < layer->out_features ? layer->in_features : layer->out_features;
    if (rank > most)
        return cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s of %lld inputs and %lld outputs, expected at most %lld",
                       (long long)rank, layer->name, (long long)layer->in_features, (long long)layer->out_features,
                       (long long)most) == CB_OK;
    return true;
}

static bool lora_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const lora_config *config = config_;
    lora_state *lora = m->state;
    double alpha;
    if (!lora_sizes(config, layer, &lora->rank, &alpha))
        return false;
    lora->scale = alpha / (config->use_rslora ? sqrt((double)lora->rank) : (double)lora->rank);
    lora->dropout = config->dropout;
    lora->has_bias = config->lora_bias;
    return true;
}

static int lora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    lora_state *lora = m->state;
    int n = 0;
    list[n++] = (cb_adapter_parameter){"lora_A.weight", &lora->a, 2, {lora->rank, m->layer->in_features}, true};
    list[n++] = (cb_adapter_parameter){"lora_B.weight", &lora->b, 2, {m->layer->out_features, lora->rank}, true};
    if (lora->has_bias)
        list[n++] = (cb_adapter_parameter){"lora_B.bias", &lora->b_bias, 1, {m->layer->out_features}, true};
    return n;
}

/* torch's default for a linear layer: kaiming uniform with a = sqrt(5), which is uniform within 1 / sqrt(inputs). */
static bool lora_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const lora_config *config = config_;
    lora_state *lora = m->state;
    cb_rng rng = cb_adapter_rng(seed, m, "lora_A.weight");
    if (config->init_weights == LORA_INIT_GAUSSIAN)
        return cb_init_normal(lora->a, rng, 1 / (double)lora->rank);
    if (!cb_init_uniform(lora->a, rng, 1 / sqrt((double)m->layer->in_features)))
        return false;
    if (config->init_weights == LORA_INIT_DEFAULT)
        return true;
    double bound = 1 / sqrt((double)lora->rank);
    return cb_init_uniform(lora->b, cb_adapter_rng(seed, m, "lora_B.weight"), bound) &&
           (!lora->has_bias || cb_init_uniform(lora->b_bias, cb_adapter_rng(seed, m, "lora_B.bias"), bound));
}

/* x (..., in), y (..., out) */
static cb_tensor *lora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const lora_state *lora = m->state;
    if (m->strength == 0)
        return y;
    double scale = lora->scale * m->strength;
    if (ctx->training && lora->dropout > 0)
        x = cb_dropout(x, lora->dropout, ctx->rng);
    y = cb_linear_add(y, cb_linear(x, lora->a, NULL), lora->b, scale);
    if (lora->has_bias)
        y = cb_add(y, cb_cast(cb_scale(lora->b_bias, scale), x ? x->dtype : CB_F32));
    return y;
}

static cb_tensor *lora_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const lora_state *lora = m->state;
    cb_tensor *product =
        m->layer->transposed ? cb_matmul(cb_transpose(lora->a, 0, 1), cb_transpose(lora->b, 0, 1)) : cb_matmul(lora->b, lora->a);
    return cb_scale(product, lora->scale * m->strength);
}

static cb_tensor *lora_delta_bias(const cb_module *m, cb_tensor *bias)
{
    (void)bias;
    const lora_state *lora = m->state;
    return lora->has_bias ? cb_scale(lora->b_bias, lora->scale * m->strength) : NULL;
}

const cb_adapter_kind cb_kind_lora = {
    .name = "lora",
    .peft_type = "LORA",
    .summary = "low-rank update of the weights: W x + (alpha / rank) B A x",
    .paper = "Hu et al. 2021, arXiv:2106.09685",
    .options = lora_options,
    .config_size = sizeof(lora_config),
    .state_size = sizeof(lora_state),
    .module = {.name = "lora", .forward = lora_forward, .delta = lora_delta, .delta_bias = lora_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR,
    .check = lora_check,
    .create = lora_create,
    .parameters = lora_parameters,
    .initialise = lora_initialise,
    .peft_names = lora_peft_names,
    .peft_fixed = lora_peft_fixed,
};
