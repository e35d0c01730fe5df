/* randlora.c: full-rank updates from random bases, W + s sum_b B_b diag(l_b) A diag(g_b) with s = alpha / R: one frozen A and N frozen B_b for
 * all layers, each layer's own coefficients trained.  Albert et al. 2025, arXiv:2502.00987.
 * R rank, m and M the smaller and larger of a layer's inputs and outputs, N = ceil(m / R); A (R, 1, largest m), B (largest M, largest N, R),
 * of which a layer takes the beginnings; l (R, N), g (N, m).  A lies along the smaller side: where that are the outputs, the sum is the
 * transposed one.
 * As in PEFT element (i, b) of diag(l_b) A diag(g_b) meets number i N + b of the B_b, whose numbers go by b R + i. */
#include <math.h>
#include <string.h>

#include "adapters/internal.h"
#include "adapters/thin.h"
#include "adapters/torch_random.h"

typedef struct randlora_config {
    int64_t rank, projection_prng_key;
    bool save_projection, sparse, very_sparse, init_weights;
    double dropout, alpha;
    int bias;
} randlora_config;

typedef struct randlora_state {
    cb_tensor *lambda, *gamma;
    int64_t bases; /* N */
} randlora_state;

typedef struct randlora_shared {
    cb_tensor *a, *b;
} randlora_shared;

static const char *const randlora_bias_choices[] = {"none", "all", "randlora_only", NULL};

static const cb_option randlora_options[] = {
    CB_OPT_INT(randlora_config, rank, 32, 1, 65536, "rank of each random basis: the smaller it is, the more numbers are trained"),
    CB_OPT_INT(randlora_config, projection_prng_key, 0, 0, 9e15, "seed of the random bases"),
    CB_OPT_BOOL(randlora_config, save_projection, true,
                "write the random bases into the adapter's file, once and, as PEFT does, once more for every layer; without them it is "
                "much smaller, and whoever reads it draws them again from the seed"),
    CB_OPT_BOOL(randlora_config, sparse, false, "bases of -1, 0 and 1, two thirds of them 0"),
    CB_OPT_BOOL(randlora_config, very_sparse, false, "the same with 1 in sqrt(smaller side) not 0"),
    CB_OPT_FLOAT(randlora_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_FLOAT(randlora_config, alpha, 640, -1e9, 1e9, "the update is scaled by alpha / rank"),
    CB_OPT_ENUM(randlora_config, bias, 0, randlora_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(randlora_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_END};

static const char *const randlora_peft_names[] = {"rank", "r", "dropout", "randlora_dropout", "alpha", "randlora_alpha", NULL};

static const char randlora_peft_fixed[] =
    "{\"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null, \"fan_in_fan_out\": false}";

static int64_t smaller_side(const cb_layer *layer)
{
    return layer->in_features < layer->out_features ? layer->in_features : layer->out_features;
}

static int64_t larger_side(const cb_layer *layer)
{
    return layer->in_features < layer->out_features ? layer->out_features : layer->in_features;
}

/* ---- what all layers share ---- */

/* The smaller and larger of the largest inputs and outputs. */
static void largest_sides(const cb_adapter_group *group, int64_t *small, int64_t *large)
{
    int64_t in = 0, out = 0;
    for (size_t i = 0; i < group->count; i++) {
        const cb_layer *layer = group->modules[i]->layer;
        in = layer->in_features > in ? layer->in_features : in;
        out = layer->out_features > out ? layer->out_features : out;
    }
    *small = in < out ? in : out;
    *large = in < out ? out : in;
}

/* A (i 0) or B of all layers, or what each layer's file repeats of them. */
static cb_adapter_parameter basis(const cb_adapter_group *group, int i, cb_adapter_role role)
{
    const randlora_config *config = group->config;
    randlora_shared *shared = group->state;
    int64_t r = config->rank, small, large;
    largest_sides(group, &small, &large);
    cb_tensor **tensor = role == CB_ROLE_ECHO ? NULL : i ? &shared->b : &shared->a;
    if (i == 0)
        return (cb_adapter_parameter){"randlora_A", tensor, 3, {r, 1, small}, role};
    return (cb_adapter_parameter){"randlora_B", tensor, 3, {large, (small + r - 1) / r, r}, role};
}

static int randlora_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    cb_adapter_role role = ((const randlora_config *)group->config)->save_projection ? CB_ROLE_FROZEN : CB_ROLE_PRIVATE;
    list[0] = basis(group, 0, role);
    list[1] = basis(group, 1, role);
    return 2;
}

/* torch's std() over all elements */
static double deviation(const cb_tensor *t)
{
    const float *x = t->data;
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < t->count; i++)
        mean += x[i] / (double)t->count;
    for (int64_t i = 0; i < t->count; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    return sqrt(squares / (double)(t->count - 1));
}

static bool round_to_bf16(cb_tensor *t)
{
    return cb_copy_into(t, cb_cast(cb_cast(t, CB_BF16), CB_F32));
}

/* t / std(t), as torch computes it in t's dtype: bf16 or f32 */
static bool normalise(cb_tensor *t, bool half)
{
    cb_tensor *divisor = cb_full(CB_F32, deviation(t), 1);
    return divisor && (!half || round_to_bf16(divisor)) && cb_copy_into(t, cb_div(t, divisor)) && (!half || round_to_bf16(t));
}

/* -1, 0 or 1 with probabilities 1 / (2 sparsity), the rest, 1 / (2 sparsity) */
static bool draw_sparse(cb_tensor *t, cb_torch_rng *rng, double sparsity)
{
    cb_torch_uniform(t, rng, 0, 1);
    float *x = t->data, low = (float)(1 / (2 * sparsity)), high = (float)(1 - 1 / (2 * sparsity));
    for (int64_t i = 0; i < t->count; i++)
        x[i] = x[i] < low ? -1.0f : x[i] > high ? 1.0f : 0.0f;
    return normalise(t, false);
}

/* torch's kaiming uniform with a = sqrt(5) in bf16, of (columns) or base by base of (rows, 1, R) */
static bool draw_dense(cb_tensor *t, cb_torch_rng *rng)
{
    int64_t rows = t->shape[0], bases = t->shape[1], width = t->shape[2];
    double bound = 1 / sqrt((double)width);
    for (int64_t k = 0; k < bases; k++) {
        cb_tensor *part = cb_empty(CB_F32, rows, 1, width);
        if (!part)
            return false;
        cb_torch_uniform(part, rng, -bound, bound);
        if (!cb_copy_into(cb_slice(t, 1, k, k + 1, 1), part))
            return false;
    }
    cb_tensor *limit = cb_cast(cb_cast(cb_full(CB_F32, bound, 1), CB_BF16), CB_F32);
    if (!limit || !round_to_bf16(t))
        return false;
    float *x = t->data, most = (float)cb_get(limit, 0);
    for (int64_t i = 0; i < t->count; i++) /* the interval is open above: what rounds to its end is put at its beginning */
        x[i] = x[i] == most ? -most : x[i];
    return normalise(t, true);
}

static bool randlora_group_ready(const cb_adapter_group *group, bool fresh)
{
    const randlora_config *config = group->config;
    randlora_shared *shared = group->state;
    if (!fresh && config->save_projection)
        return true;
    cb_torch_rng rng = cb_torch_seed((uint64_t)config->projection_prng_key);
    double sparsity = config->very_sparse ? sqrt((double)shared->a->shape[2]) : 3;
    if (config->sparse || config->very_sparse)
        return draw_sparse(shared->a, &rng, sparsity) && draw_sparse(shared->b, &rng, sparsity);
    return draw_dense(shared->a, &rng) && draw_dense(shared->b, &rng);
}

/* ---- one layer ---- */

static bool randlora_create(cb_module *m, const void *config, const cb_layer *layer)
{
    int64_t rank = ((const randlora_config *)config)->rank;
    ((randlora_state *)m->state)->bases = (smaller_side(layer) + rank - 1) / rank;
    return true;
}

static int randlora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    const cb_adapter_group *group = cb_module_group(m);
    const randlora_config *config = group->config;
    randlora_state *own = m->state;
    list[0] = (cb_adapter_parameter){"randlora_lambda", &own->lambda, 2, {config->rank, own->bases}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"randlora_gamma", &own->gamma, 2, {own->bases, smaller_side(m->layer)}, CB_ROLE_TRAINED};
    if (!config->save_projection)
        return 2;
    list[2] = basis(group, 0, CB_ROLE_ECHO);
    list[3] = basis(group, 1, CB_ROLE_ECHO);
    return 4;
}

static cb_tensor *randlora_stored(const cb_module *m, const char *suffix)
{
    const randlora_shared *shared = cb_module_group(m)->state;
    return strcmp(suffix, "randlora_A") == 0 ? shared->a : strcmp(suffix, "randlora_B") == 0 ? shared->b : NULL;
}

static bool randlora_initialise(cb_module *m, const void *config, uint64_t seed)
{
    randlora_state *own = m->state;
    bool zero = ((const randlora_config *)config)->init_weights;
    int64_t n = own->gamma->shape[0], width = own->gamma->shape[1], longest = zero ? (n > width ? n : width) : larger_side(m->layer);
    return cb_copy_into(own->gamma, cb_full(CB_F32, 1 / (double)longest, n, width)) &&
           (zero || cb_init_normal(own->lambda, cb_adapter_rng(seed, m, "randlora_lambda"), 1));
}

/* l_b A g_b (R N, m) */
static cb_tensor *scaled(const cb_module *m)
{
    const randlora_shared *shared = cb_module_group(m)->state;
    const randlora_state *own = m->state;
    int64_t width = smaller_side(m->layer);
    cb_tensor *a = cb_mul(cb_mul(cb_slice(shared->a, 2, 0, width, 1), own->gamma), cb_unsqueeze(own->lambda, 2));
    return cb_reshape(a, -1, width);
}

/* (M, N R) */
static cb_tensor *bases(const cb_module *m)
{
    const randlora_shared *shared = cb_module_group(m)->state;
    int64_t height = larger_side(m->layer);
    return cb_reshape(cb_slice(cb_slice(shared->b, 0, 0, height, 1), 1, 0, ((const randlora_state *)m->state)->bases, 1), height, -1);
}

static bool inputs_are_fewer(const cb_module *m)
{
    return m->layer->in_features <= m->layer->out_features;
}

static cb_tensor *inner(const cb_module *m)
{
    return inputs_are_fewer(m) ? scaled(m) : cb_transpose(bases(m), 0, 1);
}

static cb_tensor *outer(const cb_module *m)
{
    return inputs_are_fewer(m) ? bases(m) : cb_transpose(scaled(m), 0, 1);
}

static double scale_of(const cb_module *m)
{
    const randlora_config *config = cb_module_group(m)->config;
    return config->alpha / (double)config->rank;
}

static cb_tensor *randlora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    double dropout = ((const randlora_config *)cb_module_group(m)->config)->dropout;
    return m->strength == 0 ? y : cb_thin_add(m, x, y, inner(m), outer(m), scale_of(m), dropout, ctx);
}

static bool randlora_low_rank(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    return cb_thin_pair(m, inner(m), outer(m), scale_of(m), ((const randlora_config *)cb_module_group(m)->config)->dropout, ctx, pair);
}

static cb_tensor *randlora_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_thin_delta(m, inner(m), outer(m), scale_of(m));
}

const cb_adapter_kind cb_kind_randlora = {
    .name = "randlora",
    .peft_type = "RANDLORA",
    .summary = "coefficients of random bases that all layers share: W x + (alpha / rank) sum of B l A g x",
    .paper = "Albert et al. 2025, arXiv:2502.00987",
    .options = randlora_options,
    .config_size = sizeof(randlora_config),
    .state_size = sizeof(randlora_state),
    .group_size = sizeof(randlora_shared),
    .module =
        {.name = "randlora", .forward = randlora_forward, .adds = cb_adds_always, .low_rank = randlora_low_rank, .delta = randlora_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = randlora_create,
    .parameters = randlora_parameters,
    .initialise = randlora_initialise,
    .group_parameters = randlora_group_parameters,
    .group_ready = randlora_group_ready,
    .stored = randlora_stored,
    .peft_names = randlora_peft_names,
    .peft_fixed = randlora_peft_fixed,
};
