/* hydra.c: a parallel and a sequential low-rank head, y = f + s (P2 P1 x + S2 S1 f) with f = W x + b.  Kim et al. 2024, arXiv:2309.06922.
 * P1 (R, in), P2 (out, R), S1 (Q, out), S2 (out, Q).  Both are linear, so they merge: W + s (P2 P1 + S2 S1 W), b + s S2 S1 b.  The heads are
 * those without biases; f is the layer's result with the modules before this one. */
#include "adapters/internal.h"
#include "adapters/low_rank.h"
#include "adapters/thin.h"

typedef struct hydra_config {
    int64_t rank, sequential_rank;
    double scale, dropout;
} hydra_config;

typedef struct hydra_state {
    const hydra_config *config;
    cb_tensor *parallel_down, *parallel_up, *sequential_down, *sequential_up;
} hydra_state;

static const cb_option hydra_options[] = {
    CB_OPT_INT(hydra_config, rank, 4, 0, 65536, "rank of the parallel head, which sees the input; 0: there is none"),
    CB_OPT_INT(hydra_config, sequential_rank, 8, 0, 65536, "rank of the sequential head, which sees the result; 0: there is none"),
    CB_OPT_FLOAT(hydra_config, scale, 1, -1e9, 1e9, "what both heads add is multiplied by this"),
    CB_OPT_FLOAT(hydra_config, dropout, 0, 0, 1, "dropout between the matrices of a head while training"), CB_OPT_END};

static const char *const hydra_peft_names[] = {"rank", "r", NULL};
static const char hydra_peft_fixed[] = "{\"modules_to_save\": null}";

/* The output projections of attention and MLP, as in the paper. */
static const cb_default_target hydra_targets[] = {{"llama", "o_proj,down_proj"},
                                                  {"mistral", "o_proj,down_proj"},
                                                  {"qwen2", "o_proj,down_proj"},
                                                  {"qwen3", "o_proj,down_proj"},
                                                  {"gpt2", "c_proj"},
                                                  {"*", NULL},
                                                  {0}};

static bool hydra_check(const void *config_, const cb_layer *layer)
{
    const hydra_config *config = config_;
    return layer || config->rank + config->sequential_rank > 0 ||
           cb_fail(CB_ERR_ARGUMENT, "rank and sequential_rank: found 0 and 0, expected one of them more") == CB_OK;
}

static bool hydra_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)layer;
    ((hydra_state *)m->state)->config = config;
    return true;
}

static int hydra_parameters(cb_module *m, cb_adapter_parameter *list)
{
    hydra_state *hydra = m->state;
    int64_t in = m->layer->in_features, out = m->layer->out_features, r = hydra->config->rank, q = hydra->config->sequential_rank;
    int count = 0;
    if (r) {
        list[count++] = (cb_adapter_parameter){"hydra_parallel_A", &hydra->parallel_down, 2, {r, in}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"hydra_parallel_B", &hydra->parallel_up, 2, {out, r}, CB_ROLE_TRAINED};
    }
    if (q) {
        list[count++] = (cb_adapter_parameter){"hydra_sequential_A", &hydra->sequential_down, 2, {q, out}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"hydra_sequential_B", &hydra->sequential_up, 2, {out, q}, CB_ROLE_TRAINED};
    }
    return count;
}

static bool hydra_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    hydra_state *hydra = m->state;
    return (!hydra->parallel_down || cb_init_kaiming(hydra->parallel_down, cb_adapter_rng(seed, m, "hydra_parallel_A"))) &&
           (!hydra->sequential_down || cb_init_kaiming(hydra->sequential_down, cb_adapter_rng(seed, m, "hydra_sequential_A")));
}

static cb_tensor *inner(const hydra_state *hydra, cb_tensor *x, cb_tensor *down, const cb_context *ctx)
{
    cb_tensor *z = cb_linear(x, down, NULL);
    return ctx->training && hydra->config->dropout > 0 ? cb_dropout(z, hydra->config->dropout, ctx->rng) : z;
}

static cb_tensor *hydra_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const hydra_state *hydra = m->state;
    double scale = hydra->config->scale * m->strength;
    if (m->strength == 0)
        return y;
    cb_tensor *sequential = hydra->sequential_down ? inner(hydra, y, hydra->sequential_down, ctx) : NULL; /* before y changes */
    if (hydra->parallel_down)
        y = cb_linear_add(y, inner(hydra, x, hydra->parallel_down, ctx), hydra->parallel_up, scale);
    return hydra->sequential_down ? cb_linear_add(y, sequential, hydra->sequential_up, scale) : y;
}

/* ---- merging ---- */

/* S2 S1 W, in W's order */
static cb_tensor *sequential_change(const cb_module *m, cb_tensor *weight)
{
    const hydra_state *hydra = m->state;
    if (m->layer->transposed) /* (in, out) */
        return cb_linear(cb_linear(weight, hydra->sequential_down, NULL), hydra->sequential_up, NULL);
    return cb_matmul(hydra->sequential_up, cb_matmul(hydra->sequential_down, weight));
}

static cb_tensor *hydra_delta(const cb_module *m, cb_tensor *weight)
{
    const hydra_state *hydra = m->state;
    double scale = hydra->config->scale * m->strength;
    cb_tensor *parallel = hydra->parallel_down ? cb_factors_product(m->layer, hydra->parallel_down, hydra->parallel_up) : NULL;
    cb_tensor *sequential = hydra->sequential_down ? sequential_change(m, cb_cast(weight, CB_F32)) : NULL;
    return cb_scale(!hydra->sequential_down ? parallel : !hydra->parallel_down ? sequential : cb_add(parallel, sequential), scale);
}

static cb_tensor *hydra_delta_bias(const cb_module *m, cb_tensor *bias)
{
    const hydra_state *hydra = m->state;
    if (!bias || !hydra->sequential_down)
        return NULL;
    cb_tensor *row = cb_unsqueeze(bias, 0);
    row = cb_linear(cb_linear(row, hydra->sequential_down, NULL), hydra->sequential_up, NULL);
    return cb_scale(cb_squeeze(row, 0), hydra->config->scale * m->strength);
}

const cb_adapter_kind cb_kind_hydra = {
    .name = "hydra",
    .peft_type = "HYDRA",
    .summary = "two low-rank heads, of the layer's input and of its result: y + s (P2 P1 x + S2 S1 y)",
    .paper = "Kim et al. 2024, arXiv:2309.06922",
    .options = hydra_options,
    .config_size = sizeof(hydra_config),
    .state_size = sizeof(hydra_state),
    .module = {.name = "hydra", .forward = hydra_forward, .delta = hydra_delta, .delta_bias = hydra_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR,
    .check = hydra_check,
    .create = hydra_create,
    .parameters = hydra_parameters,
    .initialise = hydra_initialise,
    .peft_names = hydra_peft_names,
    .peft_fixed = hydra_peft_fixed,
    .default_targets = hydra_targets,
};
