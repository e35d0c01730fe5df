/* vera.c: vector-based random matrix adaptation, W + diag(b) B diag(d) A: one pair of frozen random matrices for all layers, two trained
 * vectors a layer.  Kopiczko et al. 2024, arXiv:2310.11454.
 * R rank; A (R, largest in), B (largest out, R), of which a layer takes its first columns and rows; d (R), b (out).
 *
 * diag(b) B diag(d) is made first, so the backward pass keeps A x (..., R) and no (..., out). */
#include <math.h>

#include "adapters/internal.h"
#include "adapters/thin.h"
#include "adapters/torch_random.h"

typedef struct vera_config {
    int64_t rank, projection_prng_key;
    bool save_projection, init_weights;
    double dropout, d_initial;
    int bias;
} vera_config;

typedef struct vera_state {
    cb_tensor *b, *d;
    double dropout;
} vera_state;

typedef struct vera_shared {
    cb_tensor *a, *b;
} vera_shared;

static const char *const vera_bias_choices[] = {"none", "all", "vera_only", NULL};

static const cb_option vera_options[] = {
    CB_OPT_INT(vera_config, rank, 256, 1, 65536, "inner dimension of the random matrices"),
    CB_OPT_INT(vera_config, projection_prng_key, 0, 0, 9e15, "seed of the random matrices"),
    CB_OPT_BOOL(vera_config, save_projection, true,
                "write the random matrices into the adapter's file; without them it is smaller, and "
                "whoever reads it draws them again from the seed"),
    CB_OPT_FLOAT(vera_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_FLOAT(vera_config, d_initial, 0.1, -1e9, 1e9, "first value of the inner vector"),
    CB_OPT_ENUM(vera_config, bias, 0, vera_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(vera_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_END};

static const char *const vera_peft_names[] = {"rank", "r", "dropout", "vera_dropout", NULL};

static const char vera_peft_fixed[] =
    "{\"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null, \"fan_in_fan_out\": false}";

/* ---- what all layers share ---- */

static int vera_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    const vera_config *config = group->config;
    vera_shared *shared = group->state;
    cb_adapter_role role = config->save_projection ? CB_ROLE_FROZEN : CB_ROLE_PRIVATE;
    int64_t in = 0, out = 0;
    for (size_t i = 0; i < group->count; i++) {
        const cb_layer *layer = group->modules[i]->layer;
        in = layer->in_features > in ? layer->in_features : in;
        out = layer->out_features > out ? layer->out_features : out;
    }
    list[0] = (cb_adapter_parameter){"vera_A", &shared->a, 2, {config->rank, in}, role};
    list[1] = (cb_adapter_parameter){"vera_B", &shared->b, 2, {out, config->rank}, role};
    return 2;
}

/* torch's kaiming uniform */
static void draw(cb_tensor *t, cb_torch_rng *rng)
{
    double bound = sqrt(3.0) * (sqrt(2.0) / sqrt((double)t->shape[1]));
    cb_torch_uniform(t, rng, -bound, bound);
}

static bool vera_group_ready(const cb_adapter_group *group, bool fresh)
{
    const vera_config *config = group->config;
    vera_shared *shared = group->state;
    if (!fresh && config->save_projection)
        return true;
    cb_torch_rng rng = cb_torch_seed((uint64_t)config->projection_prng_key);
    draw(shared->a, &rng);
    draw(shared->b, &rng);
    return true;
}

/* ---- one layer ---- */

static bool vera_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)layer;
    ((vera_state *)m->state)->dropout = ((const vera_config *)config)->dropout;
    return true;
}

static int vera_parameters(cb_module *m, cb_adapter_parameter *list)
{
    vera_state *vera = m->state;
    int64_t rank = ((const vera_config *)cb_module_group(m)->config)->rank;
    list[0] = (cb_adapter_parameter){"vera_lambda_b", &vera->b, 1, {m->layer->out_features}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"vera_lambda_d", &vera->d, 1, {rank}, CB_ROLE_TRAINED};
    return 2;
}

static bool vera_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const vera_config *config = config_;
    vera_state *vera = m->state;
    if (config->init_weights)
        return cb_copy_into(vera->d, cb_full(CB_F32, config->d_initial, config->rank));
    return cb_copy_into(vera->b, cb_ones(CB_F32, vera->b->count)) && cb_init_normal(vera->d, cb_adapter_rng(seed, m, "vera_lambda_d"), 1);
}

static cb_tensor *inner(const cb_module *m)
{
    const vera_shared *shared = cb_module_group(m)->state;
    return cb_slice(shared->a, 1, 0, m->layer->in_features, 1);
}

/* diag(b) B diag(d) */
static cb_tensor *outer(const cb_module *m)
{
    const vera_shared *shared = cb_module_group(m)->state;
    const vera_state *vera = m->state;
    return cb_mul(cb_mul(cb_slice(shared->b, 0, 0, m->layer->out_features, 1), cb_unsqueeze(vera->b, 1)), vera->d);
}

static cb_tensor *vera_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    return m->strength == 0 ? y : cb_thin_add(m, x, y, inner(m), outer(m), 1, ((const vera_state *)m->state)->dropout, ctx);
}

static bool vera_low_rank(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    return cb_thin_pair(m, inner(m), outer(m), 1, ((const vera_state *)m->state)->dropout, ctx, pair);
}

static cb_tensor *vera_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_thin_delta(m, inner(m), outer(m), 1);
}

const cb_adapter_kind cb_kind_vera = {
    .name = "vera",
    .peft_type = "VERA",
    .summary = "two vectors a layer around random matrices that all layers share: W x + b * (B (d * (A x)))",
    .paper = "Kopiczko et al. 2024, arXiv:2310.11454",
    .options = vera_options,
    .config_size = sizeof(vera_config),
    .state_size = sizeof(vera_state),
    .group_size = sizeof(vera_shared),
    .module = {.name = "vera", .forward = vera_forward, .adds = cb_adds_always, .low_rank = vera_low_rank, .delta = vera_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = vera_create,
    .parameters = vera_parameters,
    .initialise = vera_initialise,
    .group_parameters = vera_group_parameters,
    .group_ready = vera_group_ready,
    .peft_names = vera_peft_names,
    .peft_fixed = vera_peft_fixed,
    .default_targets = cb_qv_default_targets,
};
