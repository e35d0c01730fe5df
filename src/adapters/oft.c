/* oft.c: orthogonal fine-tuning, W R^T with R of orthogonal blocks: y = W (x R), x a row.  Qiu et al. 2023, arXiv:2306.07280.
 * N blocks of size B, B N = inputs; what is trained are the entries above the diagonal of skew Q (N, B, B), row by row; N = 1 when the blocks
 * share it.  R is the Cayley map of Q, or (use_cayley_neumann) the beginning of a series: I + 2 Q + 2 Q^2 + ... with a last term of
 * half the weight.  The series is that of the map of -Q, so the two turn in opposite directions, as PEFT has it.
 * Of a convolution the inputs are in KH KW; of an embedding what is turned are its results: E R. */
#include <math.h>
#include <string.h>

#include "adapters/internal.h"
#include "adapters/rotation.h"

typedef struct oft_config {
    int64_t rank, oft_block_size, num_cayley_neumann_terms;
    double module_dropout, eps;
    bool coft, block_share, use_cayley_neumann, init_weights;
    int bias;
} oft_config;

typedef struct oft_state {
    cb_tensor *weight; /* (N or 1, B (B - 1) / 2) */
    cb_tensor *upper;  /* (B (B - 1) / 2) i32: where those lie in a (B, B) */
    const oft_config *config;
    int64_t block, blocks; /* B, N */
} oft_state;

static const char *const oft_bias_choices[] = {"none", "all", "oft_only", NULL};

static const cb_option oft_options[] = {
    CB_OPT_INT(oft_config, rank, 0, 0, 1e9, "number of blocks, instead of their size (oft_block_size 0)"),
    CB_OPT_INT(oft_config, oft_block_size, 32, 0, 1e9, "size of the blocks; the nearest divisor of a layer's inputs is taken"),
    CB_OPT_FLOAT(oft_config, module_dropout, 0, 0, 1, "share of the blocks that do nothing in a pass while training"),
    CB_OPT_BOOL(oft_config, coft, false, "keep every block near the identity (constrained OFT)"),
    CB_OPT_FLOAT(oft_config, eps, 6e-5, 0, 1e9, "coft: how far a block may go, times the square root of their number"),
    CB_OPT_BOOL(oft_config, block_share, false, "the same block for all inputs of a layer"),
    CB_OPT_BOOL(oft_config, use_cayley_neumann, true, "a series in place of the inverse: nearly orthogonal, and turned the other way"),
    CB_OPT_INT(oft_config, num_cayley_neumann_terms, 5, 1, 1000, "terms of the series (3 and 4 are the same)"),
    CB_OPT_BOOL(oft_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_ENUM(oft_config, bias, 0, oft_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_END};

static const char *const oft_peft_names[] = {"rank", "r", NULL};

static const char oft_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, "
                                     "\"layers_pattern\": null, \"fan_in_fan_out\": false}";

/* ---- making ---- */

static bool oft_check(const void *config_, const cb_layer *layer)
{
    const oft_config *config = config_;
    if (!layer && (config->rank == 0) == (config->oft_block_size == 0))
        return cb_fail(CB_ERR_ARGUMENT, "r: found %lld with oft_block_size %lld, expected one of them 0", (long long)config->rank,
                       (long long)config->oft_block_size) == CB_OK;
    return true;
}

/* The divisor of `inputs` nearest to `wanted`, the smaller at a tie. */
static int64_t nearest_divisor(int64_t inputs, int64_t wanted)
{
    int64_t low = wanted < inputs ? wanted : inputs, high = low;
    while (inputs % low)
        low--;
    while (inputs % high)
        high++;
    return wanted - low <= high - wanted ? low : high;
}

static int64_t turned_width(const cb_layer *layer)
{
    return layer->kind == CB_LAYER_EMBEDDING ? layer->out_features : cb_row_inputs(layer);
}

static bool oft_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const oft_config *config = config_;
    oft_state *oft = m->state;
    int64_t inputs = turned_width(layer), wanted = config->rank ? config->rank : config->oft_block_size;
    if (layer->kind == CB_LAYER_CONV && layer->conv.groups > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found a convolution of %lld groups, oft expects one", layer->name,
                       (long long)layer->conv.groups) == CB_OK;
    int64_t given = nearest_divisor(inputs, wanted);
    if (given != wanted)
        cb_log_message(CB_LOG_WARNING, "%s: layer %s of %lld inputs gets %lld, the nearest divisor", config->rank ? "r" : "oft_block_size",
                       layer->name, (long long)inputs, (long long)given);
    oft->config = config;
    oft->block = config->rank ? inputs / given : given;
    oft->blocks = config->block_share ? 1 : inputs / oft->block;
    return oft->block > 1 ||
           cb_fail(CB_ERR_ARGUMENT, "oft_block_size: layer %s of %lld inputs gets blocks of 1, which cannot turn; expected at least 2",
                   layer->name, (long long)inputs) == CB_OK;
}

static int oft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    oft_state *oft = m->state;
    int64_t entries = oft->block * (oft->block - 1) / 2;
    const char *name = m->layer->kind == CB_LAYER_EMBEDDING ? "oft_embedding_R.weight" : "oft_R.weight";
    list[0] = (cb_adapter_parameter){name, &oft->weight, 2, {oft->blocks, entries}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"upper", &oft->upper, 1, {entries}, CB_ROLE_PRIVATE | CB_ROLE_I32};
    return 2;
}

static bool oft_initialise(cb_module *m, const void *config, uint64_t seed)
{
    return ((const oft_config *)config)->init_weights ||
           cb_init_normal(((oft_state *)m->state)->weight, cb_adapter_rng(seed, m, "oft_R.weight"), 0.1);
}

static bool oft_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    const oft_state *oft = m->state;
    int32_t *upper = oft->upper->data;
    for (int64_t i = 0; i < oft->block; i++)
        for (int64_t k = i + 1; k < oft->block; k++)
            *upper++ = (int32_t)(i * oft->block + k);
    return true;
}

/* ---- the rotation ---- */

/* coft: what has gone too far goes back to the border, in place, before it is used, as in PEFT.  The border is wide by some roundings, so
 * that a second look changes nothing. */
static void constrain(const oft_state *oft)
{
    double most = oft->config->eps / sqrt((double)oft->blocks);
    int64_t entries = oft->weight->shape[1];
    for (int64_t n = 0; n < oft->blocks; n++) {
        float *v = (float *)oft->weight->data + n * entries;
        double squares = 0;
        for (int64_t i = 0; i < entries; i++)
            squares += 2 * (double)v[i] * v[i];
        double norm = sqrt(squares);
        for (int64_t i = 0; i < entries && norm > most * (1 + 1e-6); i++)
            v[i] = (float)(v[i] * (most / norm));
    }
}

static cb_tensor *skew(const oft_state *oft)
{
    int64_t b = oft->block;
    cb_tensor *upper = cb_index_add(cb_zeros(CB_F32, oft->blocks, b * b), 1, oft->upper, oft->weight);
    upper = cb_reshape(upper, oft->blocks, b, b);
    return upper ? cb_sub(upper, cb_transpose(upper, 1, 2)) : NULL;
}

/* R - I (N, B, B) */
static cb_tensor *rotation(const oft_state *oft)
{
    int64_t terms = oft->config->num_cayley_neumann_terms;
    if (oft->config->coft)
        constrain(oft);
    cb_tensor *q = skew(oft), *power = q;
    if (!oft->config->use_cayley_neumann)
        return cb_cayley_change(q);
    cb_tensor *change = cb_scale(q, terms > 1 ? 2 : 0);
    for (int64_t i = 2; terms > 2 && i < (terms > 4 ? terms - 1 : 3); i++) {
        power = cb_matmul(power, q);
        change = cb_add(change, cb_scale(power, 2));
    }
    return terms > 2 ? cb_add(change, cb_matmul(power, q)) : change;
}

/* The same after dropout, in which blocks that share their numbers are blocks of their own. */
static cb_tensor *dropped_rotation(const cb_module *m, const cb_context *ctx)
{
    const oft_state *oft = m->state;
    double dropout = oft->config->module_dropout;
    cb_tensor *change = rotation(oft);
    if (!ctx || !ctx->training || dropout == 0)
        return change;
    int64_t b = oft->block;
    change = cb_expand(cb_unsqueeze(change, 0), 1, turned_width(m->layer) / b, b, b);
    return cb_reshape(cb_blocks_dropout(change, dropout, ctx), -1, b, b);
}

/* x R - x, or x R^T - x */
static cb_tensor *turn(const cb_module *m, cb_tensor *x, const cb_context *ctx, bool transposed)
{
    cb_tensor *blocks = dropped_rotation(m, ctx);
    if (blocks && transposed)
        blocks = cb_transpose(blocks, 1, 2);
    return cb_scale(cb_blocks_product(x, blocks), m->strength);
}

static cb_tensor *weight_change(const cb_module *m, cb_tensor *w, const cb_context *ctx)
{
    return turn(m, w, ctx, true);
}

static cb_tensor *input_change(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    return turn(m, x, ctx, false);
}

static cb_tensor *oft_before(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    return m->strength != 0 && m->layer->kind == CB_LAYER_LINEAR ? cb_rows_turned(m, x, ctx, input_change) : x;
}

static cb_tensor *oft_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx)
{
    return cb_rows_weight(m, weight, ctx, weight_change);
}

static cb_tensor *oft_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)x;
    return m->strength != 0 && m->layer->kind == CB_LAYER_EMBEDDING ? cb_rows_turned(m, y, ctx, input_change) : y;
}

static bool oft_adds(const cb_module *m)
{
    return m->layer->kind != CB_LAYER_EMBEDDING;
}

static cb_tensor *oft_delta(const cb_module *m, cb_tensor *weight)
{
    if (m->layer->kind == CB_LAYER_EMBEDDING)
        return input_change(m, weight, NULL);
    return cb_rows_delta(m, weight, weight_change);
}

static cb_input_change oft_input(const cb_module *m)
{
    return m->layer->kind == CB_LAYER_LINEAR ? CB_INPUT_ALONE : CB_INPUT_KEPT;
}

const cb_adapter_kind cb_kind_oft = {
    .name = "oft",
    .peft_type = "OFT",
    .summary = "blocks of the inputs of the weight turned: W R^T x, R orthogonal",
    .paper = "Qiu et al. 2023, arXiv:2306.07280",
    .options = oft_options,
    .config_size = sizeof(oft_config),
    .state_size = sizeof(oft_state),
    .module = {.name = "oft",
               .before = oft_before,
               .input = oft_input,
               .weight = oft_weight,
               .forward = oft_forward,
               .adds = oft_adds,
               .delta = oft_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV | 1u << CB_LAYER_EMBEDDING,
    .check = oft_check,
    .create = oft_create,
    .parameters = oft_parameters,
    .initialise = oft_initialise,
    .ready = oft_ready,
    .peft_names = oft_peft_names,
    .peft_fixed = oft_peft_fixed,
    .peft_required = "oft_block_size",
};
