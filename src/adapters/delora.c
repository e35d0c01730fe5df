/* delora.c: decoupled low-rank adaptation, W + B D A diag(w) with D_ii = lambda / (R |a_i| |b_i|): directions and strength apart.
 * Bini et al. 2025, arXiv:2503.18225.
 * R rank; A (R, in) with rows a_i, B (out, R) with columns b_i; w (in) the lengths of the weight's columns when the adapter was made. */
#include <math.h>

#include "adapters/internal.h"
#include "adapters/low_rank.h"
#include "adapters/thin.h"

typedef struct delora_config {
    int64_t rank;
    double lambda, module_dropout;
    cb_option_map rank_pattern, lambda_pattern;
    int bias;
    bool init_weights;
} delora_config;

typedef struct delora_state {
    cb_tensor *a, *b, *lambda, *w_norm;
    int64_t rank;
    double dropout;
} delora_state;

static const char *const delora_bias_choices[] = {"none", "all", "delora_only", NULL};

static const cb_option delora_options[] = {
    CB_OPT_INT(delora_config, rank, 8, 1, 65536, "inner dimension of the update"),
    CB_OPT_FLOAT(delora_config, lambda, 15, -1e9, 1e9, "first value of the trained strength, which bounds the update"),
    CB_OPT_FLOAT(delora_config, module_dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_MAP(delora_config, rank_pattern, "another rank for the layers whose names end with (a match of) KEY"),
    CB_OPT_MAP(delora_config, lambda_pattern, "another lambda for the layers whose names end with (a match of) KEY"),
    CB_OPT_ENUM(delora_config, bias, 0, delora_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(delora_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_END};

static const char *const delora_peft_names[] = {"rank", "r", "lambda", "delora_lambda", NULL};

static const char delora_peft_fixed[] =
    "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null}";

/* ---- making ---- */

static bool delora_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const delora_config *config = config_;
    delora_state *delora = m->state;
    delora->rank = config->rank;
    delora->dropout = config->module_dropout;
    return cb_adapter_pattern_whole(&config->rank_pattern, "rank_pattern", layer, 65536, &delora->rank);
}

static int delora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    delora_state *delora = m->state;
    int64_t r = delora->rank, in = m->layer->in_features, out = m->layer->out_features;
    list[0] = (cb_adapter_parameter){"delora_A", &delora->a, 2, {r, in}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"delora_B", &delora->b, 2, {out, r}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"delora_lambda", &delora->lambda, 1, {1}, CB_ROLE_TRAINED};
    list[3] = (cb_adapter_parameter){"delora_w_norm", &delora->w_norm, 1, {in}, CB_ROLE_FROZEN};
    return 4;
}

static bool delora_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const delora_config *config = config_;
    delora_state *delora = m->state;
    double lambda = config->lambda;
    return cb_adapter_pattern(&config->lambda_pattern, "lambda_pattern", m->layer, &lambda) &&
           cb_init_kaiming(delora->a, cb_adapter_rng(seed, m, "delora_A")) &&
           (config->init_weights || cb_init_kaiming(delora->b, cb_adapter_rng(seed, m, "delora_B"))) &&
           cb_copy_into(delora->lambda, cb_full(CB_F32, lambda, 1)) &&
           cb_copy_into(delora->w_norm, cb_sqrt(cb_weight_squares(m->layer, CB_SQUARES_OF_INPUTS)));
}

/* ---- forward ---- */

/* A diag(w) */
static cb_tensor *inner(const cb_module *m)
{
    const delora_state *delora = m->state;
    return cb_mul(delora->a, delora->w_norm);
}

/* Lengths of vectors, at least 1e-4: squares are what is bounded, since a root has no derivative at zero. */
static cb_tensor *lengths(cb_tensor *x, int dim)
{
    return cb_sqrt(cb_clamp(cb_sum(cb_square(x), dim, false), 1e-8, INFINITY));
}

/* B D */
static cb_tensor *outer(const cb_module *m)
{
    const delora_state *delora = m->state;
    cb_tensor *product = cb_mul(lengths(delora->a, 1), lengths(delora->b, 0));
    return cb_mul(delora->b, cb_div(cb_scale(delora->lambda, 1 / (double)delora->rank), product));
}

static cb_tensor *delora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    return m->strength == 0 ? y : cb_thin_add(m, x, y, inner(m), outer(m), 1, ((const delora_state *)m->state)->dropout, ctx);
}

static bool delora_low_rank(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    return cb_thin_pair(m, inner(m), outer(m), 1, ((const delora_state *)m->state)->dropout, ctx, pair);
}

static cb_tensor *delora_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_thin_delta(m, inner(m), outer(m), 1);
}

const cb_adapter_kind cb_kind_delora = {
    .name = "delora",
    .peft_type = "DELORA",
    .summary = "low-rank update of bounded strength: W x + (lambda / rank) B^ A^ x, of unit vectors",
    .paper = "Bini et al. 2025, arXiv:2503.18225",
    .options = delora_options,
    .config_size = sizeof(delora_config),
    .state_size = sizeof(delora_state),
    .module = {.name = "delora", .forward = delora_forward, .adds = cb_adds_always, .low_rank = delora_low_rank, .delta = delora_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = delora_create,
    .parameters = delora_parameters,
    .initialise = delora_initialise,
    .peft_names = delora_peft_names,
    .peft_fixed = delora_peft_fixed,
};
