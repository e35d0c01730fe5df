/* lora.c: low-rank adaptation, y = W x + s B A x with s = alpha / R, or alpha / sqrt(R) (rsLoRA).
 * Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732.
 * R rank; A (R, in), B (out, R).  An embedding's inputs are its rows: E + s (B A)^T.
 * The factors of a convolution are in lora_conv.h.
 *
 * Two things are axes of their own: how A and B start (initial.c), and rows with a length of their own (magnitude.c: DoRA).  Starts that
 * are taken from the base leave it as it is: with the first values A0, B0 kept, y = W x + s (B A - B0 A0) x, which is what PEFT's changed
 * base computes.  Side by side they are factors of rank 2 R, [A; A0] and [B, -B0], and a plain LoRA of that rank is what is saved: it loads
 * over the untouched base anywhere.  PEFT converts such adapters the same way when it is asked to. */
#include "adapters/lora.h"

#include <math.h>
#include <string.h>

#include "adapters/internal.h"
#include "adapters/lora_conv.h"
#include "adapters/low_rank.h"
#include "adapters/magnitude.h"

typedef struct lora_state {
    const struct lora_state *leader; /* an embedding's, whose head this one is on: A is its B^T, B its A^T */
    cb_tensor *a, *b, *b_bias;
    cb_tensor *a0, *b0; /* has_origin: A0 and -B0 */
    cb_magnitude magnitude;
    int64_t rank;
    double scale, dropout;
    bool has_bias, has_origin, has_magnitude, padded;
} lora_state;

#define LORA_MAX_RANK 65536

static const char *const lora_bias_choices[] = {"none", "all", "lora_only", NULL};
static const char *const corda_methods[] = {"ipm", "kpm", NULL};

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
                  "how A and B start: true, false, gaussian, orthogonal, pissa, pissa_niter_N, olora, eva, corda, loftq or residual"),
    CB_OPT_LIST(lora_config, trainable_token_indices, NULL, "N,...",
                "ids of tokens whose rows of the embedding are trained too; LAYER:N for the rows of another layer"),
    CB_OPT_BOOL(lora_config, ensure_weight_tying, false,
                "a head that is tied to the embedding stays so where one of them is trained, whole or by factors"),
    CB_OPT_FLOAT(lora_config, eva_rho, 2, 1, 1e9, "eva: no layer gets more than this times its rank (1: ranks stay as they are)"),
    CB_OPT_FLOAT(lora_config, eva_tau, 0.99, 0, 1, "eva: components are found when they turn less than this cosine from batch to batch"),
    CB_OPT_BOOL(lora_config, eva_use_label_mask, true, "eva: look only at tokens that are learned"),
    CB_OPT_INT(lora_config, eva_label_mask_value, -100, -9e15, 9e15, "eva: the label of tokens to pass over; -100: those not learned"),
    CB_OPT_BOOL(lora_config, eva_whiten, false, "eva: divide components by the square root of their singular value"),
    CB_OPT_BOOL(lora_config, eva_adjust_scaling_factors, true, "eva: alpha follows the rank that a layer is given"),
    CB_OPT_ENUM(lora_config, corda_method, CB_CORDA_IPM, corda_methods,
                "corda: train what the data uses most (ipm), or least, so that the rest is kept (kpm)"),
    CB_OPT_STRING(lora_config, corda_cache_file, NULL, "FILE", "corda: the start, read from here if it is there, else written"),
    CB_OPT_STRING(lora_config, corda_covariance_file, NULL, "FILE",
                  "corda: covariances of inputs, read from here if it is there, else written"),
    CB_OPT_INT(lora_config, loftq_bits, 0, 0, 8, "loftq: bits of the base's codes (0: whatever they are)"),
    CB_OPT_INT(lora_config, loftq_iter, 1, 1, 1000, "loftq: iterations; more than one when the base is made (convert --loftq-iter)"),
    CB_OPT_END};

static const char *const lora_peft_names[] = {"rank",
                                              "r",
                                              "alpha",
                                              "lora_alpha",
                                              "dropout",
                                              "lora_dropout",
                                              "init_weights",
                                              "init_lora_weights",
                                              "eva_rho",
                                              "eva_config.rho",
                                              "eva_tau",
                                              "eva_config.tau",
                                              "eva_use_label_mask",
                                              "eva_config.use_label_mask",
                                              "eva_label_mask_value",
                                              "eva_config.label_mask_value",
                                              "eva_whiten",
                                              "eva_config.whiten",
                                              "eva_adjust_scaling_factors",
                                              "eva_config.adjust_scaling_factors",
                                              "corda_method",
                                              "corda_config.corda_method",
                                              "corda_cache_file",
                                              "corda_config.cache_file",
                                              "corda_covariance_file",
                                              "corda_config.covariance_file",
                                              "loftq_bits",
                                              "loftq_config.loftq_bits",
                                              "loftq_iter",
                                              "loftq_config.loftq_iter",
                                              NULL};

/* Sub-configurations are written with the start that they are for. */
static bool lora_has_group(const void *config, const char *group)
{
    size_t length = strcspn(group, "_");
    const char *start = ((const lora_config *)config)->init_weights;
    return strlen(start) == length && strncmp(start, group, length) == 0;
}

static const char lora_peft_fixed[] =
    "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null, \"fan_in_fan_out\": "
    "false,"
    " \"alora_invocation_tokens\": null, \"arrow_config\": null, \"corda_config\": null,"
    " \"eva_config\": null, \"kasa_config\": null, \"layer_replication\": null, \"loftq_config\": {}, \"lora_ga_config\": null,"
    " \"megatron_config\": null, \"megatron_core\": \"megatron.core\", \"monteclora_config\": null, \"qalora_group_size\": 16,"
    " \"target_parameters\": null, \"use_bdlora\": null,"
    " \"use_qalora\": false, \"velora_config\": null,"
    " \"corda_config.use_float16_for_covariance\": false, \"corda_config.verbose\": null,"
    " \"corda_config.prune_temporary_fields\": null}";

/* ---- making ---- */

bool cb_lora_sizes(const lora_config *config, const cb_layer *layer, int64_t *rank, double *alpha)
{
    double r = (double)config->rank;
    *alpha = config->alpha;
    if (!cb_adapter_pattern(&config->rank_pattern, "rank_pattern", layer, &r) ||
        !cb_adapter_pattern(&config->alpha_pattern, "alpha_pattern", layer, alpha))
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
    if (!cb_lora_sizes(config, layer, &rank, &alpha))
        return false;
    bool less = layer->in_features < layer->out_features || strcmp(config->init_weights, "eva") == 0; /* which may give as many as inputs */
    int64_t most = less ? layer->in_features : layer->out_features;
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
    if (!cb_lora_sizes(config, layer, &lora->rank, &alpha))
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
    if (lora->leader) {
        list[n++] = (cb_adapter_parameter){"lora_A.weight", NULL, 2, {r, in}, CB_ROLE_ECHO};
        list[n++] = (cb_adapter_parameter){"lora_B.weight", NULL, 2, {out, r}, CB_ROLE_ECHO};
    } else if (m->layer->kind == CB_LAYER_CONV) {
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
    if (lora->leader)
        return true;
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

/* With DoRA the rows of the two have lengths of their own, so the head is merged for itself. */
bool cb_lora_plan_tied(cb_adapter *adapter, cb_layer *head, bool fresh)
{
    const lora_state *leader = NULL;
    for (size_t i = 0; i < adapter->module_count; i++)
        if (adapter->modules[i]->layer == head->tied && cb_adapter_module_of(adapter->modules[i])->kind == &cb_kind_lora)
            leader = adapter->modules[i]->state;
    if (!leader || !cb_adapter_plan_module(adapter, &cb_kind_lora, adapter->config, head, fresh))
        return false;
    cb_module *m = adapter->modules[adapter->module_count - 1];
    lora_state *lora = m->state;
    lora->leader = leader;
    lora->rank = leader->rank;
    lora->scale = leader->scale;
    lora->padded = leader->padded;
    lora->has_origin = false;
    m->follows = !lora->has_magnitude;
    return true;
}

static const cb_string_list *lora_tokens(const void *config)
{
    return &((const lora_config *)config)->trainable_token_indices;
}

/* ---- the factors ---- */

static cb_tensor *factor_a(const lora_state *lora)
{
    return lora->leader ? cb_transpose(lora->leader->b, 0, 1) : lora->a;
}

static cb_tensor *factor_b(const lora_state *lora)
{
    return lora->leader ? cb_transpose(lora->leader->a, 0, 1) : lora->b;
}

/* [A; A0] and [B, -B0]; A and B where nothing was taken from the base. */
static cb_tensor *inner(const lora_state *lora)
{
    return lora->has_origin ? cb_cat(2, (cb_tensor *[]){lora->a, lora->a0}, 0) : factor_a(lora);
}

static cb_tensor *outer(const lora_state *lora)
{
    return lora->has_origin ? cb_cat(2, (cb_tensor *[]){lora->b, lora->b0}, 1) : factor_b(lora);
}

/* Files over a base that is not told by them. */
static bool check_file(const cb_module *m, const lora_config *config)
{
    const char *start = config->init_weights;
    if (strcmp(start, "corda") == 0)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "init_lora_weights: found corda: what it took from the base is not in the file; expected one that PEFT saved with "
                       "path_initial_model_for_weight_conversion") == CB_OK;
    const cb_tensor *weight = cb_layer_weight(m->layer, "weight");
    if (strcmp(start, "loftq") == 0 && m->layer->kind == CB_LAYER_LINEAR && !m->layer->output && !cb_dtype_is_quantized(weight->dtype))
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "init_lora_weights: found loftq over layer %s, which is not quantised; expected the quantised base that the adapter "
                       "was made for",
                       m->layer->name) == CB_OK;
    return true;
}

/* A file of PEFT's that was not converted says how its base was changed: the same is worked out anew, as PEFT does. */
static bool lora_ready(cb_module *m, const void *config_, bool fresh)
{
    const lora_config *config = config_;
    lora_state *lora = m->state;
    bool ok = fresh || check_file(m, config);
    if (!ok)
        return false;
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
    if ((!is_a && !is_b) || (!lora->has_origin && !lora->padded && !lora->leader))
        return NULL;
    cb_tensor *own = is_a ? factor_a(lora) : factor_b(lora);
    if (lora->padded)
        return cb_cat(2, (cb_tensor *[]){own, cb_zeros_like(own)}, is_a ? 0 : 1);
    return is_a ? inner(lora) : outer(lora);
}

/* Twice the rank at the same scale.  PEFT would quantise the base when it reads loftq, and does not know residual. */
static bool lora_stored_config(void *config_, const cb_adapter_group *group)
{
    (void)group;
    lora_config *config = config_;
    if (strcmp(config->init_weights, "loftq") == 0 || strcmp(config->init_weights, "residual") == 0)
        return cb_options_set(lora_options, config, "init_weights", "true");
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
    cb_tensor *z = cb_linear(dropped, factor_a(lora), NULL);
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
    return cb_add(rest, lengthen(m, cb_linear_add(base, cb_linear(dropped, factor_a(lora), NULL), factor_b(lora), lora->scale), NULL));
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
        y = cb_lora_conv_add(m->layer, y, cb_lora_conv_in(m->layer, dropped, lora->a), lora->b, scale);
    else
        y = cb_linear_add(y, project(m, x, dropped, y->dtype), outer(lora), scale);
    return lora->has_bias && y ? cb_add(y, own_bias(m, scale, y->dtype)) : y;
}

static bool lora_adds(const cb_module *m)
{
    return !((const lora_state *)m->state)->has_magnitude;
}

static bool lora_low_rank(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    const lora_state *lora = m->state;
    if (m->layer->kind != CB_LAYER_LINEAR || lora->has_magnitude || lora->has_bias || (ctx->training && lora->dropout > 0))
        return false;
    *pair = (cb_low_rank){inner(lora), outer(lora), lora->scale * m->strength};
    return pair->a && pair->b;
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
    .module = {.name = "lora",
               .forward = lora_forward,
               .adds = lora_adds,
               .low_rank = lora_low_rank,
               .delta = lora_delta,
               .delta_bias = lora_delta_bias},
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
    .has_group = lora_has_group,
    .peft_fixed = lora_peft_fixed,
};
