/* miss.c: matrix shard sharing: one block B (R, out) for all R-wide shards of the inputs, y + (x_1 + x_2 + ...) B, the last shard filled up
 * with zeros.  Kang and Yin 2024, arXiv:2409.15371.
 * mini: the columns of B repeat themselves, out / mini_rank times.
 * bat: the weight goes through the block too: every (R, R) block W_ij of it (i of the outputs, j of the inputs) changes by W_ij B_i + B_i,
 * with B (out / R, R, R). */
#include <string.h>

#include "adapters/dense.h"
#include "adapters/internal.h"
#include "adapters/low_rank.h"

typedef struct miss_config {
    int64_t rank, mini_r;
    double dropout;
    int init_weights, bias;
} miss_config;

typedef struct miss_state {
    cb_tensor *block;
    int64_t rank, repeats; /* repeats of B's columns */
    double dropout;
    bool bat;
} miss_state;

enum { MISS_ZERO, MISS_RANDOM, MISS_BAT, MISS_MINI };
static const char *const miss_forms[] = {"true", "false", "bat", "mini", NULL};
static const char *const miss_bias_choices[] = {"none", "all", "miss_only", NULL};

static const cb_option miss_options[] = {
    CB_OPT_INT(miss_config, rank, 64, 1, 65536, "width of the shards of the inputs"),
    CB_OPT_FLOAT(miss_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_INT(miss_config, mini_r, 1, 1, 65536, "mini: columns of the block, which repeat themselves over the outputs"),
    CB_OPT_ENUM(miss_config, init_weights, MISS_ZERO, miss_forms,
                "form and start: true, a block that starts at zero; false, at random; bat, blocks that the weight goes through too; mini, "
                "a narrow block"),
    CB_OPT_ENUM(miss_config, bias, 0, miss_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_END};

static const char *const miss_peft_names[] = {"rank", "r", "dropout", "miss_dropout", NULL};

static const char miss_peft_fixed[] =
    "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null}";

/* ---- making ---- */

static bool wrong_size(const char *option, int64_t found, const cb_layer *layer, const char *what, int64_t size)
{
    return cb_fail(CB_ERR_ARGUMENT, "%s: found %lld for layer %s of %lld %s, which it must divide", option, (long long)found, layer->name,
                   (long long)size, what) == CB_OK;
}

static bool miss_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const miss_config *config = config_;
    miss_state *miss = m->state;
    int64_t r = config->rank, in = layer->in_features, out = layer->out_features;
    miss->rank = r;
    miss->bat = config->init_weights == MISS_BAT;
    miss->dropout = config->dropout;
    miss->repeats = config->init_weights == MISS_MINI ? out / config->mini_r : 1;
    if (r > in)
        return cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s of %lld inputs, expected at most as many", (long long)r, layer->name,
                       (long long)in) == CB_OK;
    if (miss->bat && in % r)
        return wrong_size("rank", r, layer, "inputs", in);
    if (miss->bat && out % r)
        return wrong_size("rank", r, layer, "outputs", out);
    if (config->init_weights == MISS_MINI && out % config->mini_r)
        return wrong_size("mini_r", config->mini_r, layer, "outputs", out);
    return true;
}

static int miss_parameters(cb_module *m, cb_adapter_parameter *list)
{
    miss_state *miss = m->state;
    int64_t r = miss->rank, out = m->layer->out_features, bat[] = {out / r, r, r};
    list[0] = (cb_adapter_parameter){"miss_block", &miss->block, 2, {r, out / miss->repeats}, CB_ROLE_TRAINED};
    if (miss->bat) {
        list[0].ndim = 3;
        memcpy(list[0].shape, bat, sizeof bat);
    }
    return 1;
}

static bool miss_initialise(cb_module *m, const void *config, uint64_t seed)
{
    return ((const miss_config *)config)->init_weights != MISS_RANDOM ||
           cb_init_kaiming(((miss_state *)m->state)->block, cb_adapter_rng(seed, m, "miss_block"));
}

/* ---- forward ---- */

/* What bat adds to the weight, (out, in). */
static cb_tensor *bat_change(const cb_module *m)
{
    cb_tensor *b = ((const miss_state *)m->state)->block;
    int64_t in = m->layer->in_features, out = m->layer->out_features, r = b->shape[2];
    cb_tensor *rows = cb_matmul(cb_reshape(cb_weight_f32(m->layer), out / r, in, r), b); /* a row of R x in / R shards, each times B_i */
    return cb_reshape(cb_add(cb_reshape(rows, out / r, r, in / r, r), cb_unsqueeze(b, 2)), out, in);
}

/* x (R, in): its shards' sum times B, times the strength */
static cb_tensor *shared_product(const cb_module *m, cb_tensor *x)
{
    const miss_state *miss = m->state;
    int64_t in = m->layer->in_features, shards = (in + miss->rank - 1) / miss->rank;
    if (shards * miss->rank > in)
        x = cb_pad(x, 1, 0, shards * miss->rank - in, 0);
    cb_tensor *sum = cb_scale(cb_sum(cb_reshape(x, -1, shards, miss->rank), 1, false), m->strength);
    cb_tensor *y = cb_matmul(sum, miss->block);
    return miss->repeats > 1 ? cb_repeat(y, 1, miss->repeats) : y;
}

static cb_tensor *shared_change(const cb_module *m)
{
    return cb_dense_of(m, shared_product);
}

static cb_tensor *miss_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const miss_state *miss = m->state;
    if (m->strength == 0)
        return y;
    if (ctx->training && miss->dropout > 0)
        x = cb_dropout(x, miss->dropout, ctx->rng);
    return miss->bat ? cb_dense_add(m, x, y, bat_change, m->strength) : cb_rows_add(m, x, y, shared_product);
}

static cb_tensor *miss_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    bool bat = ((const miss_state *)m->state)->bat;
    return bat ? cb_dense_delta(m, bat_change, m->strength) : cb_dense_delta(m, shared_change, 1);
}

const cb_adapter_kind cb_kind_miss = {
    .name = "miss",
    .peft_type = "MISS",
    .summary = "one block for all shards of the inputs: W x + B^T (x_1 + x_2 + ...)",
    .paper = "Kang and Yin 2024, arXiv:2409.15371",
    .options = miss_options,
    .config_size = sizeof(miss_config),
    .state_size = sizeof(miss_state),
    .module = {.name = "miss", .forward = miss_forward, .adds = cb_adds_always, .delta = miss_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = miss_create,
    .parameters = miss_parameters,
    .initialise = miss_initialise,
    .peft_names = miss_peft_names,
    .peft_fixed = miss_peft_fixed,
};
