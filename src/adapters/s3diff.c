/* s3diff.c: low-rank adaptation with a core that each row has of its own, y = W x + s B C A x with s = alpha / R.
 * Zhang et al. 2024, arXiv:2409.17058 (S3Diff).
 * A (R, in), B (out, R); C (R, R) is what a small network makes of the row's conditions (an estimate of how an image is degraded: blur, noise)
 * and of which block the layer is in, and multiplies from the right, (A x)^T C.  With N conditions and F frequencies W of a normal distribution
 *     e = sin and cos of 2 pi c_i W, one condition after another            (2 F N)
 *     C = fuse([relu(D e + d); relu(E b + f)])                             b: what is learned of the block
 * The network is the adapter's, A and B are each layer's.  Convolutions mix the R channels at each point. */
#include <math.h>
#include <stdlib.h>

#include "adapters/dense.h"
#include "adapters/lora_conv.h"
#include "adapters/rows.h"
#include "adapters/thin.h"

typedef struct s3diff_config {
    int64_t rank, conditions, frequencies, hidden_size, block_size;
    double alpha, init_gain, dropout;
    bool identity, use_blocks;
    cb_string_list use_conditions;
} s3diff_config;

typedef struct s3diff_state {
    cb_tensor *a, *b;
    int64_t block; /* its row of the table; the last one is of layers outside of blocks */
} s3diff_state;

typedef struct s3diff_shared {
    cb_tensor *frequencies, *condition, *condition_bias, *table, *block, *block_bias, *fuse, *fuse_bias;
} s3diff_shared;

static const cb_option s3diff_options[] = {
    CB_OPT_INT(s3diff_config, rank, 32, 1, 4096, "inner dimension of the update; the core is its square"),
    CB_OPT_FLOAT(s3diff_config, alpha, 8, 0, 1e9, "the update is scaled by alpha / rank"),
    CB_OPT_INT(s3diff_config, conditions, 2, 1, 65536, "numbers that are known of a row: the first columns of a pass's conditions"),
    CB_OPT_INT(s3diff_config, frequencies, 64, 1, 65536, "random frequencies, at which each of them is looked at"),
    CB_OPT_INT(s3diff_config, hidden_size, 256, 1, 65536, "width of the network that reads them"),
    CB_OPT_BOOL(s3diff_config, use_blocks, true, "cores differ from block to block"),
    CB_OPT_INT(s3diff_config, block_size, 64, 1, 65536, "numbers that are learned of a block"),
    CB_OPT_BOOL(s3diff_config, identity, false,
                "the core is the identity plus what the network gives: wakes at once, where the paper's starts at almost nothing"),
    CB_OPT_FLOAT(s3diff_config, init_gain, 1e-5, 0, 1e9, "the network's matrices start as He et al.'s times this"),
    CB_OPT_LIST(s3diff_config, use_conditions, NULL, "X,...",
                "all rows have these conditions, so that it can be merged; empty: those of the pass, or zeros"),
    CB_OPT_FLOAT(s3diff_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_END};

static const char *const s3diff_peft_names[] = {"rank", "r", "alpha", "lora_alpha", "dropout", "lora_dropout", NULL};
static const char s3diff_peft_fixed[] = "{\"modules_to_save\": null}";

/* ---- making ---- */

static bool s3diff_check(const void *config_, const cb_layer *layer)
{
    const s3diff_config *config = config_;
    const cb_string_list *fixed = &config->use_conditions;
    if (layer)
        return true;
    for (size_t i = 0; i < fixed->count; i++) {
        char *end;
        if (!isfinite(strtod(fixed->items[i], &end)) || end == fixed->items[i] || *end)
            return cb_fail(CB_ERR_ARGUMENT, "use_conditions: found '%.50s', expected a number", fixed->items[i]) == CB_OK;
    }
    return fixed->count == 0 || (int64_t)fixed->count == config->conditions ||
           cb_fail(CB_ERR_ARGUMENT, "use_conditions: found %zu, expected as many as conditions, which is %lld", fixed->count,
                   (long long)config->conditions) == CB_OK;
}

static bool s3diff_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const s3diff_config *config = config_;
    ((s3diff_state *)m->state)->block = cb_block_number(layer);
    return layer->kind != CB_LAYER_CONV || cb_lora_conv_check(layer, config->rank, "gaussian", false);
}

static int s3diff_parameters(cb_module *m, cb_adapter_parameter *list)
{
    s3diff_state *s = m->state;
    int64_t r = ((const s3diff_config *)cb_module_group(m)->config)->rank;
    if (m->layer->kind == CB_LAYER_CONV)
        return cb_lora_conv_parameters(m->layer, r, &s->a, &s->b, list);
    list[0] = (cb_adapter_parameter){"lora_A.weight", &s->a, 2, {r, m->layer->in_features}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"lora_B.weight", &s->b, 2, {m->layer->out_features, r}, CB_ROLE_TRAINED};
    return 2;
}

static bool s3diff_initialise(cb_module *m, const void *config, uint64_t seed)
{
    double deviation = 1 / (double)((const s3diff_config *)config)->rank;
    return cb_init_normal(((s3diff_state *)m->state)->a, cb_adapter_rng(seed, m, "lora_A.weight"), deviation);
}

/* Rows of the table: the blocks up to the last that is adapted, and one more. */
static int64_t block_rows(const cb_adapter_group *group)
{
    int64_t last = -1;
    for (size_t i = 0; i < group->count; i++) {
        int64_t block = ((const s3diff_state *)group->modules[i]->state)->block;
        last = block > last ? block : last;
    }
    return last + 2;
}

static int s3diff_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    const s3diff_config *config = group->config;
    s3diff_shared *n = group->state;
    int64_t f = config->frequencies, h = config->hidden_size, e = config->block_size, r = config->rank;
    int64_t inner = h + (config->use_blocks ? e : 0);
    int count = 0;
    list[count++] = (cb_adapter_parameter){"s3diff_frequencies", &n->frequencies, 1, {f}, CB_ROLE_FROZEN};
    list[count++] = (cb_adapter_parameter){"s3diff_condition.weight", &n->condition, 2, {h, 2 * f * config->conditions}, CB_ROLE_TRAINED};
    list[count++] = (cb_adapter_parameter){"s3diff_condition.bias", &n->condition_bias, 1, {h}, CB_ROLE_TRAINED};
    if (config->use_blocks) {
        list[count++] = (cb_adapter_parameter){"s3diff_blocks", &n->table, 2, {block_rows(group), e}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"s3diff_block.weight", &n->block, 2, {e, e}, CB_ROLE_TRAINED};
        list[count++] = (cb_adapter_parameter){"s3diff_block.bias", &n->block_bias, 1, {e}, CB_ROLE_TRAINED};
    }
    list[count++] = (cb_adapter_parameter){"s3diff_fuse.weight", &n->fuse, 2, {r * r, inner}, CB_ROLE_TRAINED};
    list[count++] = (cb_adapter_parameter){"s3diff_fuse.bias", &n->fuse_bias, 1, {r * r}, CB_ROLE_TRAINED};
    return count;
}

/* Biases stay zero. */
static bool s3diff_group_initialise(const cb_adapter_group *group, uint64_t seed)
{
    const s3diff_config *config = group->config;
    const s3diff_shared *n = group->state;
    const struct {
        const char *name;
        cb_tensor *tensor;
        bool matrix;
    } all[] = {{"s3diff_frequencies", n->frequencies, false},
               {"s3diff_condition.weight", n->condition, true},
               {"s3diff_blocks", n->table, false},
               {"s3diff_block.weight", n->block, true},
               {"s3diff_fuse.weight", n->fuse, true}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, all[i].name)};
        double deviation = all[i].matrix && all[i].tensor ? config->init_gain * sqrt(2 / (double)all[i].tensor->shape[1]) : 1;
        if (all[i].tensor && !cb_init_normal(all[i].tensor, rng, deviation))
            return false;
    }
    return true;
}

/* ---- the core ---- */

/* (rows, N): those of the pass, or those that all rows have */
static cb_tensor *conditions_of(const s3diff_config *config, int64_t rows, const cb_context *ctx)
{
    const cb_string_list *fixed = &config->use_conditions;
    cb_tensor *given = fixed->count ? NULL : cb_row_conditions(ctx, rows, 0, config->conditions);
    if (given || !cb_ok())
        return given;
    cb_tensor *all = cb_zeros(CB_F32, rows, config->conditions);
    for (int64_t i = 0; all && fixed->count && i < all->count; i++)
        ((float *)all->data)[i] = (float)strtod(fixed->items[i % config->conditions], NULL);
    return all;
}

/* (rows, 2 F N) */
static cb_tensor *waves(const s3diff_shared *n, cb_tensor *conditions)
{
    if (!conditions)
        return NULL;
    int64_t rows = conditions->shape[0];
    cb_tensor *angles = cb_mul(cb_unsqueeze(conditions, 2), cb_scale(n->frequencies, 2 * M_PI));
    cb_tensor *both[] = {cb_sin(angles), cb_cos(angles)};
    return both[0] && both[1] ? cb_reshape(cb_cat(2, both, 2), rows, -1) : NULL;
}

/* (rows, R, R) */
static cb_tensor *core_of(const cb_module *m, int64_t rows, const cb_context *ctx)
{
    const s3diff_config *config = cb_module_group(m)->config;
    const s3diff_shared *n = cb_module_group(m)->state;
    const s3diff_state *s = m->state;
    int64_t r = config->rank;
    cb_tensor *h = cb_relu(cb_linear(waves(n, conditions_of(config, rows, ctx)), n->condition, n->condition_bias));
    if (h && config->use_blocks) {
        int64_t row = s->block < 0 ? n->table->shape[0] - 1 : s->block;
        cb_tensor *b = cb_relu(cb_linear(cb_slice(n->table, 0, row, row + 1, 1), n->block, n->block_bias));
        cb_tensor *parts[] = {h, cb_expand(b, rows, config->block_size)};
        h = parts[1] ? cb_cat(2, parts, 1) : NULL;
    }
    cb_tensor *core = cb_reshape(cb_linear(h, n->fuse, n->fuse_bias), rows, r, r);
    return config->identity ? cb_add(core, cb_identity(r)) : core;
}

/* ---- forward ---- */

/* z (B, R, ...) with C_b^T for each row's channels */
static cb_tensor *mix_channels(cb_tensor *z, cb_tensor *core)
{
    if (!z || !core)
        return NULL;
    cb_tensor *mixed = cb_matmul(cb_transpose(core, 1, 2), cb_reshape(z, z->shape[0], z->shape[1], -1));
    return mixed ? cb_reshape_nd(mixed, z->ndim, z->shape) : NULL;
}

/* z (B, ..., R) times C_b */
static cb_tensor *mix(cb_tensor *z, cb_tensor *core)
{
    if (!z || !core)
        return NULL;
    cb_tensor *mixed = cb_matmul(cb_reshape(z, z->shape[0], -1, z->shape[z->ndim - 1]), core);
    return mixed ? cb_reshape_nd(mixed, z->ndim, z->shape) : NULL;
}

static cb_tensor *s3diff_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const s3diff_config *config = cb_module_group(m)->config;
    const s3diff_state *s = m->state;
    double scale = config->alpha / (double)config->rank * m->strength;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    cb_tensor *core = core_of(m, x->shape[0], ctx);
    core = core ? cb_cast(core, x->dtype) : NULL;
    if (ctx->training && config->dropout > 0)
        x = cb_dropout(x, config->dropout, ctx->rng);
    if (m->layer->kind == CB_LAYER_CONV) {
        cb_tensor *z = mix_channels(cb_lora_conv_in(m->layer, x, s->a), core);
        return cb_lora_conv_add(m->layer, y, z, s->b, scale);
    }
    return cb_linear_add(y, mix(cb_linear(x, s->a, NULL), core), s->b, scale);
}

static cb_tensor *s3diff_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const s3diff_config *config = cb_module_group(m)->config;
    const s3diff_state *s = m->state;
    double scale = config->alpha / (double)config->rank;
    if (!config->use_conditions.count) {
        cb_fail(CB_ERR_UNSUPPORTED,
                "layer %s: changes with the conditions of a row, and one weight cannot; expected use_conditions to say which",
                m->layer->name);
        return NULL;
    }
    cb_tensor *core = cb_squeeze(core_of(m, 1, &(cb_context){0}), 0);
    cb_tensor *a = core ? cb_matmul(cb_transpose(core, 0, 1), cb_reshape(s->a, config->rank, -1)) : NULL;
    if (m->layer->kind != CB_LAYER_CONV)
        return cb_thin_delta(m, a, s->b, scale);
    return cb_scale(cb_lora_conv_product(m->layer, a ? cb_reshape_nd(a, 4, s->a->shape) : NULL, s->b), scale * m->strength);
}

const cb_adapter_kind cb_kind_s3diff = {
    .name = "s3diff",
    .peft_type = "S3DIFF",
    .summary = "low-rank update with a core that each row's conditions make: W x + (alpha / rank) B C A x",
    .paper = "Zhang et al. 2024, arXiv:2409.17058",
    .options = s3diff_options,
    .config_size = sizeof(s3diff_config),
    .state_size = sizeof(s3diff_state),
    .group_size = sizeof(s3diff_shared),
    .module = {.name = "s3diff", .forward = s3diff_forward, .adds = cb_adds_always, .delta = s3diff_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .check = s3diff_check,
    .create = s3diff_create,
    .parameters = s3diff_parameters,
    .initialise = s3diff_initialise,
    .group_parameters = s3diff_group_parameters,
    .group_initialise = s3diff_group_initialise,
    .peft_names = s3diff_peft_names,
    .peft_fixed = s3diff_peft_fixed,
};
