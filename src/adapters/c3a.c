/* c3a.c: circular convolutions of blocks, W + C / in with C of circulant blocks: block (i, j) of C has k_ij[(q - t) mod B] in row t and
 * column q.  Chen et al. 2024, arXiv:2407.19342.
 * B block size; kernels k (out / B, in / B, B).
 *
 * A circulant product is one of Fourier coefficients: Y_v = X_v conj(K_v) for each of the B frequencies v, summed over the blocks of the
 * inputs.  So x goes through transforms of length B and, for each v, one small product of real and imaginary parts side by side. */
#include <math.h>

#include "adapters/dense.h"
#include "adapters/fourier.h"
#include "adapters/internal.h"

typedef struct c3a_config {
    int64_t block_size;
    cb_option_map block_size_pattern;
    int init_weights, bias;
} c3a_config;

typedef struct c3a_state {
    cb_tensor *kernel;
    cb_fourier own, *plan; /* plan: own, or that of another layer */
    int64_t block;
} c3a_state;

enum { C3A_XAVIER, C3A_ZERO, C3A_RANDOM, C3A_GAUSSIAN, C3A_KAIMING };
static const char *const c3a_starts[] = {"xavier_uniform", "true", "false", "gaussian", "kaiming_uniform", NULL};
static const char *const c3a_bias_choices[] = {"none", "all", "c3a_only", NULL};

static const cb_option c3a_options[] = {
    CB_OPT_INT(c3a_config, block_size, 256, 1, 1e9, "length of the convolutions, which divides the layers' inputs and outputs"),
    CB_OPT_MAP(c3a_config, block_size_pattern, "another length for the layers whose names end with (a match of) KEY"),
    CB_OPT_ENUM(c3a_config, init_weights, C3A_XAVIER, c3a_starts,
                "how the kernels start: true, at zero; gaussian, kaiming_uniform, xavier_uniform (or false), at random, with a change"),
    CB_OPT_ENUM(c3a_config, bias, 0, c3a_bias_choices, "which biases of the model are trained and saved too"), CB_OPT_END};

static const char c3a_peft_fixed[] = "{\"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null}";

/* ---- making ---- */

/* The plan of an earlier layer with blocks of this length. */
static cb_fourier *known_plan(const cb_module *m, int64_t block)
{
    const cb_adapter_group *group = cb_module_group(m);
    for (size_t i = 0; i < group->count; i++) {
        c3a_state *other = group->modules[i]->state;
        if (other->block == block && other->plan == &other->own)
            return other->plan;
    }
    return NULL;
}

static bool c3a_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const c3a_config *config = config_;
    c3a_state *c3a = m->state;
    int64_t block = config->block_size;
    if (!cb_adapter_pattern_whole(&config->block_size_pattern, "block_size_pattern", layer, 1000000000, &block))
        return false;
    if (layer->in_features % block || layer->out_features % block)
        return cb_fail(CB_ERR_ARGUMENT, "block_size: found %lld for layer %s of %lld inputs and %lld outputs, expected a divisor of both",
                       (long long)block, layer->name, (long long)layer->in_features, (long long)layer->out_features) == CB_OK;
    cb_fourier *known = known_plan(m, block);
    c3a->plan = known ? known : &c3a->own;
    c3a->block = block;
    cb_fourier_plan(&c3a->own, block);
    return true;
}

static int c3a_parameters(cb_module *m, cb_adapter_parameter *list)
{
    c3a_state *c3a = m->state;
    int64_t b = c3a->block;
    list[0] =
        (cb_adapter_parameter){"c3a_kernel", &c3a->kernel, 3, {m->layer->out_features / b, m->layer->in_features / b, b}, CB_ROLE_TRAINED};
    return c3a->plan == &c3a->own ? 1 + cb_fourier_parameters(&c3a->own, list + 1) : 1;
}

static bool c3a_initialise(cb_module *m, const void *config, uint64_t seed)
{
    c3a_state *c3a = m->state;
    double in = (double)m->layer->in_features, out = (double)m->layer->out_features;
    cb_rng rng = cb_adapter_rng(seed, m, "c3a_kernel");
    switch (((const c3a_config *)config)->init_weights) {
    case C3A_ZERO:
        return true;
    case C3A_GAUSSIAN:
        return cb_init_normal(c3a->kernel, rng, 1);
    case C3A_KAIMING:
        return cb_init_uniform(c3a->kernel, rng, sqrt(1 / in));
    default:
        return cb_init_uniform(c3a->kernel, rng, sqrt(6 / (in + out)));
    }
}

static bool c3a_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    c3a_state *c3a = m->state;
    if (c3a->plan == &c3a->own)
        cb_fourier_fill(&c3a->own);
    return true;
}

/* ---- forward ---- */

/* x (rows, n B), blocks side by side -> (S, F, rows, 2, n): of each frequency the real parts of all blocks, then the imaginary ones */
static cb_tensor *frequencies(const cb_fourier *plan, cb_tensor *x, int64_t n)
{
    cb_tensor *z = cb_reshape(cb_fourier_analyse(plan, cb_reshape(x, -1, plan->n)), -1, n, plan->s, 2, plan->f);
    return cb_permute(z, 2, 4, 0, 3, 1);
}

/* x (R, in) f32 -> (R, out) */
static cb_tensor *convolve(const cb_module *m, cb_tensor *x)
{
    const c3a_state *c3a = m->state;
    const cb_fourier *plan = c3a->plan;
    int64_t n_out = c3a->kernel->shape[0], n_in = c3a->kernel->shape[1], b = c3a->block, s = plan->s, f = plan->f;
    cb_tensor *z = frequencies(plan, x, n_in), *k = frequencies(plan, cb_reshape(c3a->kernel, n_out, n_in * b), n_in), *parts[2];
    if (!z || !k || !cb_split(k, 3, 2, (int64_t[]){1, 1}, parts))
        return NULL;
    /* re Y = re X re K + im X im K, im Y = im X re K - re X im K */
    cb_tensor *crossed = cb_cat(2, (cb_tensor *[]){cb_neg(parts[1]), parts[0]}, 3);
    cb_tensor *products =
        cb_transpose(cb_cat(2, (cb_tensor *[]){cb_reshape(k, s, f, n_out, -1), cb_reshape(crossed, s, f, n_out, -1)}, 2), 2, 3);
    cb_tensor *y = cb_matmul(cb_reshape(z, s, f, -1, 2 * n_in), products); /* (S, F, R, 2 out / B) */
    y = cb_permute(cb_reshape(y, s, f, -1, 2, n_out), 2, 4, 0, 3, 1);
    y = cb_fourier_adjoint(plan, cb_reshape(y, -1, 2 * b));
    return cb_scale(cb_reshape(y, -1, m->layer->out_features), m->strength / (double)(b * m->layer->in_features));
}

static cb_tensor *c3a_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    return m->strength == 0 ? y : cb_rows_add(m, x, y, convolve);
}

static cb_tensor *c3a_change(const cb_module *m)
{
    return cb_dense_of(m, convolve);
}

static cb_tensor *c3a_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, c3a_change, 1);
}

const cb_adapter_kind cb_kind_c3a = {
    .name = "c3a",
    .peft_type = "C3A",
    .summary = "circular convolutions of blocks of the input: W x + C x / inputs, C of circulant blocks",
    .paper = "Chen et al. 2024, arXiv:2407.19342",
    .options = c3a_options,
    .config_size = sizeof(c3a_config),
    .state_size = sizeof(c3a_state),
    .module = {.name = "c3a", .forward = c3a_forward, .adds = cb_adds_always, .delta = c3a_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = c3a_create,
    .parameters = c3a_parameters,
    .initialise = c3a_initialise,
    .ready = c3a_ready,
    .peft_fixed = c3a_peft_fixed,
    .default_targets = cb_mlp_default_targets,
};
