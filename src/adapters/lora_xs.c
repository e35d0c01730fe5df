/* lora_xs.c: an R x R core between frozen factors, W + s B C A: only C is trained.  Balazy et al. 2024, arXiv:2405.17604 (LoRA-XS).
 * A (R, in) and B (out, R) are V^T and U S of the weight's first R singular triples, so that few numbers move it along its own directions. */
#include "adapters/internal.h"
#include "adapters/low_rank.h"
#include "adapters/thin.h"

typedef struct lora_xs_config {
    int64_t rank;
    double alpha, dropout, init_deviation;
} lora_xs_config;

typedef struct lora_xs_state {
    cb_tensor *a, *b, *core;
    double scale, dropout;
} lora_xs_state;

static const cb_option lora_xs_options[] = {
    CB_OPT_INT(lora_xs_config, rank, 16, 1, 65536, "singular directions of each weight; its square is what is trained"),
    CB_OPT_FLOAT(lora_xs_config, alpha, 16, 0, 1e9, "the update is scaled by alpha / rank"),
    CB_OPT_FLOAT(lora_xs_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_FLOAT(lora_xs_config, init_deviation, 1e-5, 0, 1e9, "standard deviation of the core's first values; 0: a change of zero"),
    CB_OPT_END};

static const char *const lora_xs_peft_names[] = {"rank", "r", "alpha", "lora_alpha", "dropout", "lora_dropout", NULL};
static const char lora_xs_peft_fixed[] = "{\"modules_to_save\": null}";

static bool lora_xs_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const lora_xs_config *config = config_;
    lora_xs_state *xs = m->state;
    int64_t most = layer->in_features < layer->out_features ? layer->in_features : layer->out_features;
    xs->scale = config->alpha / (double)config->rank;
    xs->dropout = config->dropout;
    return config->rank <= most || cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s, expected at most %lld, its singular values",
                                           (long long)config->rank, layer->name, (long long)most) == CB_OK;
}

static int lora_xs_parameters(cb_module *m, cb_adapter_parameter *list)
{
    lora_xs_state *xs = m->state;
    int64_t r = ((const lora_xs_config *)cb_module_group(m)->config)->rank;
    list[0] = (cb_adapter_parameter){"lora_xs_A", &xs->a, 2, {r, m->layer->in_features}, CB_ROLE_FROZEN};
    list[1] = (cb_adapter_parameter){"lora_xs_B", &xs->b, 2, {m->layer->out_features, r}, CB_ROLE_FROZEN};
    list[2] = (cb_adapter_parameter){"lora_xs_core", &xs->core, 2, {r, r}, CB_ROLE_TRAINED};
    return 3;
}

/* Ten power iterations over ten more directions than are kept, as the paper's code. */
static bool lora_xs_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const lora_xs_config *config = config_;
    lora_xs_state *xs = m->state;
    cb_tensor *u, *s, *vt;
    return cb_svd_first(cb_weight_f32(m->layer), config->rank, 10, 10, cb_adapter_rng(seed, m, "lora_xs_svd"), &u, &s, &vt) &&
           cb_copy_into(xs->a, vt) && cb_copy_into(xs->b, cb_mul(u, s)) &&
           cb_init_normal(xs->core, cb_adapter_rng(seed, m, "lora_xs_core"), config->init_deviation);
}

static cb_tensor *inner(const lora_xs_state *xs)
{
    return cb_matmul(xs->core, xs->a);
}

static cb_tensor *lora_xs_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const lora_xs_state *xs = m->state;
    return m->strength == 0 ? y : cb_thin_add(m, x, y, inner(xs), xs->b, xs->scale, xs->dropout, ctx);
}

static bool lora_xs_pair(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    const lora_xs_state *xs = m->state;
    return cb_thin_pair(m, inner(xs), xs->b, xs->scale, xs->dropout, ctx, pair);
}

static cb_tensor *lora_xs_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const lora_xs_state *xs = m->state;
    return cb_thin_delta(m, inner(xs), xs->b, xs->scale);
}

const cb_adapter_kind cb_kind_lora_xs = {
    .name = "lora_xs",
    .peft_type = "LORA_XS",
    .summary = "a small trained core between the weight's own frozen directions: W x + s B C A x",
    .paper = "Balazy et al. 2024, arXiv:2405.17604",
    .options = lora_xs_options,
    .config_size = sizeof(lora_xs_config),
    .state_size = sizeof(lora_xs_state),
    .module = {.name = "lora_xs", .forward = lora_xs_forward, .adds = cb_adds_always, .low_rank = lora_xs_pair, .delta = lora_xs_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = lora_xs_create,
    .parameters = lora_xs_parameters,
    .initialise = lora_xs_initialise,
    .peft_names = lora_xs_peft_names,
    .peft_fixed = lora_xs_peft_fixed,
};
