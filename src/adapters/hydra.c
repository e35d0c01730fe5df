/* hydra.c: a parallel and a sequential low-rank head, y = f + s (P2 P1 x + S2 S1 f) with f = W x + b.  Kim et al. 2024, arXiv:2309.06922.
 * P1 (R, in), P2 (out, R), S1 (Q, out), S2 (out, Q).  Both are linear, so they merge: W + s (P2 P1 + S2 S1 W), b + s S2 S1 b.  f is the layer's result
 * with the modules before this one.
 *
 * The authors' code has three forms of heads: with biases on all four matrices (VTAB-1k, CLIP) and without (GLUE), the inner matrix drawn from
 * Xavier's, a normal or Kaiming's distribution.  A head with biases p1, p2 or s1, s2 is the same with P1 x + p1 and so on; of the merged bias
 * they are s (P2 p1 + p2 + S2 (S1 b + s1) + s2). */
#include <math.h>

#include "adapters/internal.h"
#include "adapters/low_rank.h"
#include "adapters/thin.h"

typedef struct hydra_config {
    int64_t rank, sequential_rank;
    double scale, dropout;
    bool head_bias;
    int init_weights;
} hydra_config;

typedef struct hydra_state {
    const hydra_config *config;
    struct hydra_head {
        cb_tensor *down, *up, *down_bias, *up_bias; /* down NULL: there is no such head; biases NULL: it has none */
    } parallel, sequential;
} hydra_state;
typedef struct hydra_head hydra_head;

enum { KAIMING, XAVIER, NORMAL };
static const char *const hydra_starts[] = {"kaiming", "xavier", "normal", NULL};

static const cb_option hydra_options[] = {
    CB_OPT_INT(hydra_config, rank, 4, 0, 65536, "rank of the parallel head, which sees the input; 0: there is none"),
    CB_OPT_INT(hydra_config, sequential_rank, 8, 0, 65536, "rank of the sequential head, which sees the result; 0: there is none"),
    CB_OPT_FLOAT(hydra_config, scale, 1, -1e9, 1e9, "what both heads add is multiplied by this"),
    CB_OPT_FLOAT(hydra_config, dropout, 0, 0, 1, "dropout between the matrices of a head while training"),
    CB_OPT_BOOL(hydra_config, head_bias, false, "both matrices of a head have biases, which start at zero"),
    CB_OPT_ENUM(
        hydra_config, init_weights, KAIMING, hydra_starts,
        "where a head's first matrix is drawn from: uniform by its inputs, uniform by both its sides, or normal with deviation 0.02; "
        "the second starts at zero"),
    CB_OPT_END};

static const char *const hydra_peft_names[] = {"rank", "r", NULL};
static const char hydra_peft_fixed[] = "{\"modules_to_save\": null}";

/* The output projections of attention and MLP, as in the paper; of encoders of text and of CLIP it adapts the MLP's alone. */
#define ENCODER_OUTPUT ".*[.]layer[.][0-9]+[.]output[.]dense"
static const cb_default_target hydra_targets[] = {{"llama", "o_proj,down_proj"},
                                                  {"mistral", "o_proj,down_proj"},
                                                  {"qwen2", "o_proj,down_proj"},
                                                  {"qwen3", "o_proj,down_proj"},
                                                  {"gpt2", "c_proj"},
                                                  {"vit", "output.dense"},
                                                  {"deit", "output.dense"},
                                                  {"bert", ENCODER_OUTPUT},
                                                  {"roberta", ENCODER_OUTPUT},
                                                  {"xlm-roberta", ENCODER_OUTPUT},
                                                  {"clip", "fc2"},
                                                  {"clip_vision_model", "fc2"},
                                                  {"clip_text_model", "fc2"},
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

static int head_parameters(hydra_head *head, const char *const names[4], int64_t rank, int64_t in, int64_t out, bool biases,
                           cb_adapter_parameter *list)
{
    if (rank == 0)
        return 0;
    list[0] = (cb_adapter_parameter){names[0], &head->down, 2, {rank, in}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){names[1], &head->up, 2, {out, rank}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){names[2], &head->down_bias, 1, {rank}, CB_ROLE_TRAINED};
    list[3] = (cb_adapter_parameter){names[3], &head->up_bias, 1, {out}, CB_ROLE_TRAINED};
    return biases ? 4 : 2;
}

static int hydra_parameters(cb_module *m, cb_adapter_parameter *list)
{
    static const char *const parallel[] = {"hydra_parallel_A", "hydra_parallel_B", "hydra_parallel_A_bias", "hydra_parallel_B_bias"};
    static const char *const sequential[] = {"hydra_sequential_A", "hydra_sequential_B", "hydra_sequential_A_bias",
                                             "hydra_sequential_B_bias"};
    hydra_state *hydra = m->state;
    const hydra_config *config = hydra->config;
    int64_t in = m->layer->in_features, out = m->layer->out_features;
    int count = head_parameters(&hydra->parallel, parallel, config->rank, in, out, config->head_bias, list);
    return count + head_parameters(&hydra->sequential, sequential, config->sequential_rank, out, out, config->head_bias, list + count);
}

static bool start(const cb_module *m, const hydra_head *head, const char *name, int way, uint64_t seed)
{
    if (!head->down)
        return true;
    cb_rng rng = cb_adapter_rng(seed, m, name);
    if (way == KAIMING)
        return cb_init_kaiming(head->down, rng);
    return way == NORMAL ? cb_init_normal(head->down, rng, 0.02)
                         : cb_init_uniform(head->down, rng, sqrt(6.0 / (double)(head->down->shape[0] + head->down->shape[1])));
}

static bool hydra_initialise(cb_module *m, const void *config, uint64_t seed)
{
    const hydra_state *hydra = m->state;
    int way = ((const hydra_config *)config)->init_weights;
    return start(m, &hydra->parallel, "hydra_parallel_A", way, seed) && start(m, &hydra->sequential, "hydra_sequential_A", way, seed);
}

static cb_tensor *inner(const hydra_state *hydra, const hydra_head *head, cb_tensor *x, const cb_context *ctx)
{
    cb_tensor *z = cb_linear(x, head->down, head->down_bias);
    return ctx->training && hydra->config->dropout > 0 ? cb_dropout(z, hydra->config->dropout, ctx->rng) : z;
}

static cb_tensor *head_add(const hydra_head *head, cb_tensor *y, cb_tensor *z, double scale)
{
    y = cb_linear_add(y, z, head->up, scale);
    return head->up_bias ? cb_add(y, cb_cast(cb_scale(head->up_bias, scale), y->dtype)) : y;
}

static cb_tensor *hydra_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const hydra_state *hydra = m->state;
    double scale = hydra->config->scale * m->strength;
    if (m->strength == 0)
        return y;
    cb_tensor *sequential = hydra->sequential.down ? inner(hydra, &hydra->sequential, y, ctx) : NULL; /* before y changes */
    if (hydra->parallel.down)
        y = head_add(&hydra->parallel, y, inner(hydra, &hydra->parallel, x, ctx), scale);
    return hydra->sequential.down ? head_add(&hydra->sequential, y, sequential, scale) : y;
}

/* ---- merging ---- */

/* S2 S1 W, in W's order */
static cb_tensor *sequential_change(const cb_module *m, const hydra_head *head, cb_tensor *weight)
{
    if (m->layer->transposed) /* (in, out) */
        return cb_linear(cb_linear(weight, head->down, NULL), head->up, NULL);
    return cb_matmul(head->up, cb_matmul(head->down, weight));
}

static cb_tensor *sum_of(cb_tensor *a, cb_tensor *b)
{
    return !a ? b : !b ? a : cb_add(a, b);
}

static cb_tensor *hydra_delta(const cb_module *m, cb_tensor *weight)
{
    const hydra_state *hydra = m->state;
    const hydra_head *p = &hydra->parallel, *s = &hydra->sequential;
    cb_tensor *parallel = p->down ? cb_factors_product(m->layer, p->down, p->up) : NULL;
    cb_tensor *sequential = s->down ? sequential_change(m, s, cb_cast(weight, CB_F32)) : NULL;
    return cb_ok() ? cb_scale(sum_of(parallel, sequential), hydra->config->scale * m->strength) : NULL;
}

/* What a head gives for an input of nothing but a constant row (NULL: zero); NULL: nothing. */
static cb_tensor *constant_of(const hydra_head *head, cb_tensor *row)
{
    if (!head->down || (!row && !head->up_bias))
        return NULL;
    cb_tensor *z = row ? cb_linear(cb_unsqueeze(row, 0), head->down, head->down_bias) : cb_unsqueeze(head->down_bias, 0);
    return cb_squeeze(cb_linear(z, head->up, head->up_bias), 0);
}

static cb_tensor *hydra_delta_bias(const cb_module *m, cb_tensor *bias)
{
    const hydra_state *hydra = m->state;
    cb_tensor *change = sum_of(constant_of(&hydra->parallel, NULL), constant_of(&hydra->sequential, bias));
    return change ? cb_scale(change, hydra->config->scale * m->strength) : NULL;
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
