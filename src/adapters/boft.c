/* boft.c: orthogonal butterflies, diag(s) W (B_F ... B_1)^T: y = s * (W (x B_F ... B_1)) + b, x a row.  Liu et al. 2024, arXiv:2311.06243.
 * F factors B_f = P_f D_f P_f^T with D_f of N orthogonal blocks of size B, N B = inputs, and P_f that brings together what lies 2^(f - 1)
 * blocks apart.  A block is the Cayley map of (R - R^T) / 2 with R (F, N, B, B) trained; s (out) scales the results.
 * PEFT without its CUDA kernel has F = 1 whatever the config says. */
#include "adapters/internal.h"
#include "adapters/rotation.h"

typedef struct boft_config {
    int64_t boft_block_size, boft_block_num, boft_n_butterfly_factor;
    double dropout;
    bool init_weights;
    int bias;
} boft_config;

typedef struct boft_state {
    cb_tensor *r, *s;
    cb_tensor *places;   /* (F, inputs) i32: P_f takes place i from places[i] */
    cb_tensor *inverses; /* and the way back */
    int64_t factors, block, blocks;
    double dropout;
} boft_state;

static const char *const boft_bias_choices[] = {"none", "all", "boft_only", NULL};

static const cb_option boft_options[] = {
    CB_OPT_INT(boft_config, boft_block_size, 4, 0, 1e9, "size of the blocks, which divides a layer's inputs"),
    CB_OPT_INT(boft_config, boft_block_num, 0, 0, 1e9, "number of blocks, instead of their size (boft_block_size 0)"),
    CB_OPT_INT(boft_config, boft_n_butterfly_factor, 1, 1, 30, "factors of the rotation: each joins blocks twice as far apart"),
    CB_OPT_FLOAT(boft_config, dropout, 0, 0, 1, "share of the blocks of one factor that do nothing in a pass while training"),
    CB_OPT_BOOL(boft_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_ENUM(boft_config, bias, 0, boft_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_END};

static const char *const boft_peft_names[] = {"dropout", "boft_dropout", NULL};

static const char boft_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, "
                                      "\"layers_pattern\": null, \"fan_in_fan_out\": false}";

/* ---- making ---- */

static bool boft_check(const void *config_, const cb_layer *layer)
{
    const boft_config *config = config_;
    if (!layer && (config->boft_block_size == 0) == (config->boft_block_num == 0))
        return cb_fail(CB_ERR_ARGUMENT, "boft_block_size: found %lld with boft_block_num %lld, expected one of them 0",
                       (long long)config->boft_block_size, (long long)config->boft_block_num) == CB_OK;
    return true;
}

static bool boft_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const boft_config *config = config_;
    boft_state *boft = m->state;
    int64_t inputs = cb_row_inputs(layer), given = config->boft_block_num ? config->boft_block_num : config->boft_block_size;
    if (layer->kind == CB_LAYER_CONV && layer->conv.groups > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found a convolution of %lld groups, boft expects one", layer->name,
                       (long long)layer->conv.groups) == CB_OK;
    if (inputs % given)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found %lld for layer %s of %lld inputs, expected a divisor",
                       config->boft_block_num ? "boft_block_num" : "boft_block_size", (long long)given, layer->name,
                       (long long)inputs) == CB_OK;
    boft->factors = config->boft_n_butterfly_factor;
    boft->dropout = config->dropout;
    boft->block = config->boft_block_num ? inputs / given : given;
    boft->blocks = inputs / boft->block;
    bool fits = boft->factors == 1 || (boft->block % 2 == 0 && boft->blocks % ((int64_t)1 << (boft->factors - 1)) == 0);
    return fits || cb_fail(CB_ERR_ARGUMENT,
                           "boft_n_butterfly_factor: found %lld for layer %s with %lld blocks of %lld, expected blocks of even size and a "
                           "multiple of 2^%lld of them",
                           (long long)boft->factors, layer->name, (long long)boft->blocks, (long long)boft->block,
                           (long long)boft->factors - 1) == CB_OK;
}

static int boft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    boft_state *boft = m->state;
    int64_t f = boft->factors, n = boft->blocks, b = boft->block, out = m->layer->out_features;
    bool conv = m->layer->kind == CB_LAYER_CONV;
    list[0] = (cb_adapter_parameter){"boft_R", &boft->r, 4, {f, n, b, b}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"boft_s", &boft->s, 2, {conv ? 1 : out, conv ? out : 1}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"places", &boft->places, 2, {f, n * b}, CB_ROLE_PRIVATE | CB_ROLE_I32};
    list[3] = (cb_adapter_parameter){"inverses", &boft->inverses, 2, {f, n * b}, CB_ROLE_PRIVATE | CB_ROLE_I32};
    return 4;
}

static bool boft_initialise(cb_module *m, const void *config, uint64_t seed)
{
    boft_state *boft = m->state;
    bool random = !((const boft_config *)config)->init_weights;
    if (random && !(cb_init_normal(boft->r, cb_adapter_rng(seed, m, "boft_R"), 0.1) &&
                    cb_init_normal(boft->s, cb_adapter_rng(seed, m, "boft_s"), 0.1)))
        return false;
    return cb_copy_into(boft->s, cb_add_scalar(boft->s, 1));
}

/* Half blocks are dealt out: of each 2^f neighbours first the even ones, then the odd ones. */
static bool boft_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    const boft_state *boft = m->state;
    int64_t inputs = boft->blocks * boft->block, half = boft->block / 2;
    for (int64_t f = 0; f < boft->factors; f++) {
        int32_t *place = (int32_t *)boft->places->data + f * inputs, *inverse = (int32_t *)boft->inverses->data + f * inputs;
        int64_t hands = (int64_t)2 << f; /* half blocks that are dealt together */
        for (int64_t i = 0; i < inputs; i++) {
            int64_t start = boft->factors == 1 ? i : i / (hands * half) * hands * half, card = boft->factors == 1 ? 0 : (i - start) / half;
            int64_t from = card < hands / 2 ? 2 * card : 2 * (card - hands / 2) + 1;
            place[i] = (int32_t)(boft->factors == 1 ? i : start + from * half + i % half);
            inverse[place[i]] = (int32_t)i;
        }
    }
    return true;
}

/* ---- the rotation ---- */

/* D_f - I (F, N, B, B), after dropout */
static cb_tensor *blocks_of(const boft_state *boft, const cb_context *ctx)
{
    cb_tensor *skew = boft->r ? cb_scale(cb_sub(boft->r, cb_transpose(boft->r, 2, 3)), 0.5) : NULL;
    return cb_blocks_dropout(cb_cayley_change(skew), boft->dropout, ctx);
}

/* x (R, inputs) -> x P D P^T */
static cb_tensor *through_factor(const boft_state *boft, cb_tensor *x, cb_tensor *blocks, int64_t f)
{
    if (boft->factors == 1)
        return cb_add(x, cb_blocks_product(x, blocks));
    cb_tensor *dealt = cb_index_select(x, 1, cb_reshape(cb_slice(boft->inverses, 0, f, f + 1, 1), -1));
    dealt = cb_blocks_product(dealt, blocks);
    return cb_add(x, cb_index_select(dealt, 1, cb_reshape(cb_slice(boft->places, 0, f, f + 1, 1), -1)));
}

/* x B_F ... B_1 - x, or for the weight w (B_F ... B_1)^T - w */
static cb_tensor *turn(const cb_module *m, cb_tensor *x, const cb_context *ctx, bool transposed)
{
    const boft_state *boft = m->state;
    cb_tensor *blocks = blocks_of(boft, ctx), *y = x;
    for (int64_t i = 0; blocks && i < boft->factors; i++) {
        int64_t f = transposed ? i : boft->factors - 1 - i;
        cb_tensor *own = cb_reshape(cb_slice(blocks, 0, f, f + 1, 1), boft->blocks, boft->block, boft->block);
        y = through_factor(boft, y, transposed && own ? cb_transpose(own, 1, 2) : own, f);
    }
    return blocks ? cb_scale(cb_sub(y, x), m->strength) : NULL;
}

static cb_tensor *input_change(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    return turn(m, x, ctx, false);
}

/* 1 + strength (s - 1) (out) */
static cb_tensor *scales(const cb_module *m)
{
    return cb_reshape(cb_add_scalar(cb_scale(((const boft_state *)m->state)->s, m->strength), 1 - m->strength), -1);
}

/* w (out, inputs): what the results' scales make of the turned rows is part of it. */
static cb_tensor *weight_change(const cb_module *m, cb_tensor *w, const cb_context *ctx)
{
    cb_tensor *turned = cb_add(w, turn(m, w, ctx, true));
    return cb_sub(cb_mul(turned, cb_unsqueeze(scales(m), 1)), w);
}

static cb_tensor *boft_before(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    return m->strength != 0 && m->layer->kind == CB_LAYER_LINEAR ? cb_rows_turned(m, x, ctx, input_change) : x;
}

static cb_tensor *boft_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx)
{
    return cb_rows_weight(m, weight, ctx, weight_change);
}

/* s (y - b) + b */
static cb_tensor *boft_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)x, (void)ctx;
    if (m->strength == 0 || m->layer->kind == CB_LAYER_CONV || !y)
        return y;
    cb_tensor *gain = scales(m), *bias = cb_layer_weight(m->layer, "bias");
    cb_tensor *shift = bias && gain ? cb_mul(cb_cast(bias, CB_F32), cb_add_scalar(cb_neg(gain), 1)) : NULL;
    return bias && !shift ? NULL : cb_affine(y, gain, shift);
}

static cb_tensor *boft_delta(const cb_module *m, cb_tensor *weight)
{
    return cb_rows_delta(m, weight, weight_change);
}

static cb_input_change boft_input(const cb_module *m)
{
    return m->layer->kind == CB_LAYER_LINEAR ? CB_INPUT_AND_RESULT : CB_INPUT_KEPT;
}

const cb_adapter_kind cb_kind_boft = {
    .name = "boft",
    .peft_type = "BOFT",
    .summary = "inputs of the weight turned by butterflies of blocks, and results scaled: s * (W R^T x)",
    .paper = "Liu et al. 2024, arXiv:2311.06243",
    .options = boft_options,
    .config_size = sizeof(boft_config),
    .state_size = sizeof(boft_state),
    .module =
        {.name = "boft", .before = boft_before, .input = boft_input, .weight = boft_weight, .forward = boft_forward, .delta = boft_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .check = boft_check,
    .create = boft_create,
    .parameters = boft_parameters,
    .initialise = boft_initialise,
    .ready = boft_ready,
    .peft_names = boft_peft_names,
    .peft_fixed = boft_peft_fixed,
};
