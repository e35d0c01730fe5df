/* lora.c: low-rank adaptation, y = W x + s B A x with s = alpha / R, or alpha / sqrt(R) (rsLoRA).
 * Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732.
 * R rank; A (R, in), B (out, R).  An embedding's inputs are its rows: E + s (B A)^T.
 * The factors of a convolution are in lora_conv.h.
 *
 * Two things are axes of their own: how A and B start (initial.c), and rows with a length of their own (magnitude.c: DoRA).  Starts that
 * are taken from the base leave it as it is: with the first values A0, B0 kept, y = W x + s (B A - B0 A0) x, which is what PEFT's changed
 * base computes.  Side by side they are factors of rank 2 R, [A; A0] and [B, -B0], and a plain LoRA of that rank is what is saved: it loads
 * over the untouched base anywhere.  PEFT converts such adapters the same way when it is asked to. */
#include <math.h>
#include <string.h>

#include "adapters/lora_conv.h"
#include "adapters/low_rank.h"
#include "adapters/magnitude.h"

typedef struct lora_config {
    int64_t rank;
    double alpha, dropout;
    bool use_rslora, use_dora, lora_bias;
    int bias;
    char *init_weights;
    cb_option_map rank_pattern, alpha_pattern;
    cb_string_list trainable_token_indices;
} lora_config;

typedef struct lora_state {
    cb_tensor *a, *b, *b_bias;
    cb_tensor *a0, *b0; /* has_origin: A0 and -B0 */
    cb_magnitude magnitude;
    int64_t rank;
    double scale, dropout;
    bool has_bias, has_origin, has_magnitude, padded;
} lora_state;

#define LORA_MAX_RANK 65536

static const char *const lora_bias_choices[] = {"none", "all", "lora_only", NULL};

static const cb_option lora_options[] = {
    CB_OPT_INT(lora_config, rank, 8, 1, LORA_MAX_RANK, "inner dimension of the update"),
    CB_OPT_FLOAT(lora_config, alpha, 8, 0, 1e9, "the update is scaled by alpha / rank"),
    CB_OPT_FLOAT(lora_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_BOOL(lora_config, use_rslora, false, "scale by alpha / sqrt(rank) instead"),
    CB_OPT_BOOL(lora_config, use_dora, false, "train the lengths of the changed weight's rows too (DoRA)"),
    CB_OPT_MAP(lora_config, rank_pattern, "another rank for the layers whose names end with (a match of) KEY"),
    CB_OPT_MAP(lora_config, alpha_pattern, "another alpha for the layers whose names end with (a match of) KEY"),
    CB_OPT_ENUM(lora_config, bias, 0, lora_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(lora_config, lora_bias, false, "give B a bias of its own"),
    CB_OPT_STRING(lora_config, init_weights, "true", "NAME",
                  "how A and B start: true, false, gaussian, orthogonal, pissa, pissa_niter_N or olora"),
    CB_OPT_LIST(lora_config, trainable_token_indices, NULL, "N,...",
                "ids of tokens whose rows of the embedding are trained too; LAYER:N for the rows of another layer"),
    CB_OPT_END};

static const char *const lora_peft_names[] = {
    "rank", "r", "alpha", "lora_alpha", "dropout", "lora_dropout", "init_weights", "init_lora_weights", NULL};

static const char lora_peft_fixed[] =
    "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null, \"fan_in_fan_out\": "
    "false,"
    " \"alora_invocation_tokens\": null, \"arrow_config\": null, \"corda_config\": null, \"ensure_weight_tying\": false,"
    " \"eva_config\": null, \"kasa_config\": null, \"layer_replication\": null, \"loftq_config\": {}, \"lora_ga_config\": null,"
    " \"megatron_config\": null, \"megatron_core\": \"megatron.core\", \"monteclora_config\": null, \"qalora_group_size\": 16,"
    " \"target_parameters\": null, \"use_bdlora\": null,"
    " \"use_qalora\": false, \"velora_config\": null}";

/* ---- making ---- */

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

static bool lora_check_options(const lora_config *config)
{
    bool plain = strcmp(config->init_weights, "true") == 0 || strcmp(config->init_weights, "false") == 0;
    if (!cb_factors_start_check("init_lora_weights", config->init_weights))
        return false;
    if (config->lora_bias && !plain)
        return cb_fail(CB_ERR_ARGUMENT, "lora_bias: found init_lora_weights %s, expected true or false", config->init_weights) == CB_OK;
    if (config->lora_bias && config->use_dora)
        return cb_fail(CB_ERR_ARGUMENT, "lora_bias: found with use_dora, expected one of them") == CB_OK;
    return true;
}

static bool lora_check(const void *config_, const cb_layer *layer)
{
    const lora_config *config = config_;
    if (!layer)
        return lora_check_options(config);
    int64_t rank = 0;
    double alpha;
    if (!lora_sizes(config, layer, &rank, &alpha))
        return false;
    int64_t most = layer->in_features < layer->out_features ? layer->in_features : layer->out_features;
    if (rank > most && layer->kind != CB_LAYER_CONV)
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
    if (layer->kind == CB_LAYER_CONV && !cb_lora_conv_check(layer, lora->rank, config->init_weights, config->use_dora))
        return false;
    bool embedding = layer->kind == CB_LAYER_EMBEDDING, takes = cb_factors_start_takes_from_base(config->init_weights);
    if (embedding && config->lora_bias)
        return cb_fail(CB_ERR_UNSUPPORTED, "lora_bias: layer %s is an embedding, whose B cannot have a bias", layer->name) == CB_OK;
    lora->scale = alpha / (config->use_rslora ? sqrt((double)lora->rank) : (double)lora->rank);
    lora->dropout = embedding ? 0 : config->dropout; /* as in PEFT */
    lora->has_bias = config->lora_bias;
    lora->has_magnitude = config->use_dora;
    lora->has_origin = takes && !embedding;
    lora->padded = takes && embedding; /* its file has the rank of the others' */
    return true;
}

static int lora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    lora_state *lora = m->state;
    bool embedding = m->layer->kind == CB_LAYER_EMBEDDING;
    int64_t r = lora->rank, in = m->layer->in_features, out = m->layer->out_features;
    int n = 0;
    if (m->layer->kind == CB_LAYER_CONV) {
        n = cb_lora_conv_parameters(m->layer, r, &lora->a, &lora->b, list);
    } else {
        list[n++] = (cb_adapter_parameter){embedding ? "lora_embedding_A" : "lora_A.weight", &lora->a, 2, {r, in}, CB_ROLE_TRAINED};
        list[n++] = (cb_adapter_parameter){embedding ? "lora_embedding_B" : "lora_B.weight", &lora->b, 2, {out, r}, CB_ROLE_TRAINED};
    }
    if (lora->has_bias)
        list[n++] = (cb_adapter_parameter){"lora_B.bias", &lora->b_bias, 1, {out}, CB_ROLE_TRAINED};
    if (lora->has_origin) {
        list[n++] = (cb_adapter_parameter){"origin.A", &lora->a0, 2, {r, in}, CB_ROLE_PRIVATE};
        list[n++] = (cb_adapter_parameter){"origin.B", &lora->b0, 2, {out, r}, CB_ROLE_PRIVATE};
    }
    if (lora->has_magnitude)
        n += cb_magnitude_parameters(&lora->magnitude, m->layer, lora->has_origin ? 2 * r : r, list + n);
    return n;
}

static cb_factors_start lora_start(const lora_state *lora, const lora_config *config, uint64_t seed)
{
    return (cb_factors_start){.name = config->init_weights, .rank = lora->rank, .scale = lora->scale, .seed = seed};
}

/* An embedding's A starts at zero and B normal, whatever the others do. */
static bool lora_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const lora_config *config = config_;
    lora_state *lora = m->state;
    if (m->layer->kind == CB_LAYER_EMBEDDING) {
        bool random = strcmp(config->init_weights, "false") == 0;
        return cb_init_normal(lora->b, cb_adapter_rng(seed, m, "lora_embedding_B"), 1) &&
               (!random || cb_init_normal(lora->a, cb_adapter_rng(seed, m, "lora_embedding_A"), 1));
    }
    cb_factors_start start = lora_start(lora, config, seed);
    if (!cb_factors_begin(&start, m, lora->a, lora->b))
        return false;
    bool random = lora->has_bias && strcmp(config->init_weights, "false") == 0;
    return !random || cb_init_uniform(lora->b_bias, cb_adapter_rng(seed, m, "lora_B.bias"), 1 / sqrt((double)lora->rank));
}

static const cb_string_list *lora_tokens(const void *config)
{
    return &((const lora_config *)config)->trainable_token_indices;
}

/* ---- the factors ---- */

/* [A; A0] and [B, -B0]; A and B where nothing was taken from the base. */
static cb_tensor *inner(const lora_state *lora)
{
    return lora->has_origin ? cb_cat(2, (cb_tensor *[]){lora->a, lora->a0}, 0) : lora->a;
}

static cb_tensor *outer(const lora_state *lora)
{
    return lora->has_origin ? cb_cat(2, (cb_tensor *[]){lora->b, lora->b0}, 1) : lora->b;
}

/* A file of PEFT's that was not converted says how its base was changed: the same is worked out anew, as PEFT does. */
static bool lora_ready(cb_module *m, const void *config_, bool fresh)
{
    const lora_config *config = config_;
    lora_state *lora = m->state;
    bool ok = true;
    if (lora->has_origin) {
        cb_factors_start start = lora_start(lora, config, 0);
        ok = fresh ? cb_copy_into(lora->a0, lora->a) && cb_copy_into(lora->b0, lora->b) : cb_factors_begin(&start, m, lora->a0, lora->b0);
        ok = ok && cb_copy_into(lora->b0, cb_neg(lora->b0));
    }
    if (!ok || !lora->has_magnitude)
        return ok;
    return cb_magnitude_ready(&lora->magnitude, m->layer, inner(lora), outer(lora), lora->scale, fresh);
}

static cb_tensor *lora_stored(const cb_module *m, const char *suffix)
{
    const lora_state *lora = m->state;
    bool is_a = strcmp(suffix, "lora_A.weight") == 0 || strcmp(suffix, "lora_embedding_A") == 0;
    bool is_b = strcmp(suffix, "lora_B.weight") == 0 || strcmp(suffix, "lora_embedding_B") == 0;
    cb_tensor *own = is_a ? lora->a : lora->b;
    if ((!is_a && !is_b) || (!lora->has_origin && !lora->padded))
        return NULL;
    if (lora->padded)
        return cb_cat(2, (cb_tensor *[]){own, cb_zeros_like(own)}, is_a ? 0 : 1);
    return is_a ? inner(lora) : outer(lora);
}

/* Twice the rank at the same scale. */
static bool lora_stored_config(void *config_)
{
    lora_config *config = config_;
    if (!cb_factors_start_takes_from_base(config->init_weights))
        return true;
    double alpha = config->use_rslora ? sqrt(2) : 2;
    config->rank *= 2;
    config->alpha *= alpha;
    for (size_t i = 0; i < config->rank_pattern.count; i++)
        config->rank_pattern.values[i] *= 2;
    for (size_t i = 0; i < config->alpha_pattern.count; i++)
        config->alpha_pattern.values[i] *= alpha;
    return cb_options_set(lora_options, config, "init_weights", "true");
}

/* ---- forward ---- */

/* A x (..., R), or A x and A0 x side by side; `dropped` is x after dropout, which the part taken from the base does not see. */
static cb_tensor *project(const cb_module *m, cb_tensor *x, cb_tensor *dropped, cb_dtype dtype)
{
    const lora_state *lora = m->state;
    if (m->layer->kind == CB_LAYER_EMBEDDING)
        return cb_cast(cb_embedding(cb_transpose(lora->a, 0, 1), x), dtype);
    cb_tensor *z = cb_linear(dropped, lora->a, NULL);
    return lora->has_origin ? cb_cat(2, (cb_tensor *[]){z, cb_linear(x, lora->a0, NULL)}, -1) : z;
}

/* m / |W + s B A| (y + s B z - bias) + bias */
static cb_tensor *lengthen(const cb_module *m, cb_tensor *y, cb_tensor *bias)
{
    lora_state *lora = m->state;
    cb_tensor *gain = cb_magnitude_gain(&lora->magnitude, m->layer, inner(lora), outer(lora), lora->scale);
    cb_tensor *shift = bias && gain ? cb_mul(cb_cast(bias, CB_F32), cb_add_scalar(cb_neg(gain), 1)) : NULL;
    return bias && !shift ? NULL : cb_affine(y, gain, shift);
}

/* DoRA with dropout acting: PEFT's y + (g - 1) W x' + g s B A x', x' after dropout. */
static cb_tensor *dora_dropped(const cb_module *m, cb_tensor *x, cb_tensor *dropped, cb_tensor *y)
{
    const lora_state *lora = m->state;
    cb_tensor *base = cb_through_weight(m->layer, dropped);
    if (lora->has_origin) {
        y = cb_linear_add(y, cb_linear(x, lora->a0, NULL), lora->b0, lora->scale);
        base = cb_linear_add(base, cb_linear(dropped, lora->a0, NULL), lora->b0, lora->scale);
    }
    cb_tensor *rest = cb_sub(y, base);
    return cb_add(rest, lengthen(m, cb_linear_add(base, cb_linear(dropped, lora->a, NULL), lora->b, lora->scale), NULL));
}

static cb_tensor *dora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const lora_state *lora = m->state;
    cb_tensor *dropped = ctx->training && lora->dropout > 0 ? cb_dropout(x, lora->dropout, ctx->rng) : x;
    if (dropped != x)
        return dora_dropped(m, x, dropped, y);
    y = cb_linear_add(y, project(m, x, x, y->dtype), outer(lora), lora->scale);
    return lengthen(m, y, cb_layer_weight(m->layer, "bias"));
}

/* B's own bias as it is added to a result. */
static cb_tensor *own_bias(const cb_module *m, double scale, cb_dtype dtype)
{
    cb_tensor *bias = cb_cast(cb_scale(((const lora_state *)m->state)->b_bias, scale), dtype);
    return m->layer->kind == CB_LAYER_CONV ? cb_reshape(bias, -1, 1, 1) : bias;
}

/* x (..., in), y (..., out) */
static cb_tensor *lora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const lora_state *lora = m->state;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    if (lora->has_magnitude && m->strength == 1)
        return dora_forward(m, x, y, ctx);
    if (lora->has_magnitude) {
        cb_keep(y); /* so that it is not overwritten */
        cb_tensor *mixed = cb_lerp(y, dora_forward(m, x, y, ctx), m->strength);
        cb_release(y);
        return mixed;
    }
    double scale = lora->scale * m->strength;
    cb_tensor *dropped = ctx->training && lora->dropout > 0 ? cb_dropout(x, lora->dropout, ctx->rng) : x;
    if (m->layer->kind == CB_LAYER_CONV)
        y = cb_add(y, cb_scale(cb_lora_conv(m->layer, dropped, lora->a, lora->b), scale));
    else
        y = cb_linear_add(y, project(m, x, dropped, y->dtype), outer(lora), scale);
    return lora->has_bias && y ? cb_add(y, own_bias(m, scale, y->dtype)) : y;
}

static bool lora_adds(const cb_module *m)
{
    return !((const lora_state *)m->state)->has_magnitude;
}

/* ---- merging ---- */

static cb_tensor *lora_delta(const cb_module *m, cb_tensor *weight)
{
    lora_state *lora = m->state;
    if (m->layer->kind == CB_LAYER_CONV)
        return cb_scale(cb_lora_conv_product(m->layer, lora->a, lora->b), lora->scale * m->strength);
    cb_tensor *product = cb_scale(cb_factors_product(m->layer, inner(lora), outer(lora)), lora->scale);
    if (!lora->has_magnitude)
        return cb_scale(product, m->strength);
    cb_tensor *gain = cb_magnitude_gain(&lora->magnitude, m->layer, inner(lora), outer(lora), lora->scale);
    gain = cb_stores_inputs_first(m->layer) ? gain : cb_unsqueeze(gain, 1);
    return cb_scale(cb_sub(cb_mul(cb_add(weight, product), gain), weight), m->strength);
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
    .module = {.name = "lora", .forward = lora_forward, .adds = lora_adds, .delta = lora_delta, .delta_bias = lora_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_EMBEDDING | 1u << CB_LAYER_CONV,
    .check = lora_check,
    .create = lora_create,
    .parameters = lora_parameters,
    .initialise = lora_initialise,
    .ready = lora_ready,
    .stored = lora_stored,
    .stored_config = lora_stored_config,
    .tokens = lora_tokens,
    .peft_names = lora_peft_names,
    .peft_fixed = lora_peft_fixed,
};
