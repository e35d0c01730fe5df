/* reft.c: representation fine-tuning: what a block gives is edited at the first and the last tokens of a sequence, in a subspace.
 * Wu et al. 2024, arXiv:2404.03592.  h (C) a token's state, R (r, C), W (r, C), b (r):
 *     LoReFT   h + R^T (W h + b - R h), R with orthonormal rows          NoReFT   the same with any R
 *     DiReFT   h + R^T (W h + b)
 * Positions count from a sequence's first token.  The last ones are those of what a pass is given at once: of a prompt, not of the tokens
 * generated after it; of a whole example in training, as in AdapterHub's package. */
#include "adapters/reft.h"

#include <math.h>
#include <stdlib.h>

#include "adapters/activation.h"
#include "adapters/internal.h"
#include "adapters/orthogonal.h"

typedef struct unit {
    cb_tensor *source, *bias; /* W, b */
    cb_tensor *projection;    /* R, or what stands for it */
} unit;

typedef struct reft_state {
    const cb_reft_config *config;
    int64_t width;
    unit units[2]; /* of the first positions and, untied, of the last */
    cb_tensor *mask;
} reft_state;

#define T cb_reft_config
static const cb_option reft_options[] = {
    CB_OPT_LIST(T, layers, NULL, "N,...", "numbers of the blocks whose results are edited; all when empty"),
    CB_OPT_INT(T, prefix_positions, 3, 0, INT32_MAX, "how many of the first tokens"),
    CB_OPT_INT(T, suffix_positions, 0, 0, INT32_MAX, "how many of the last tokens"),
    CB_OPT_INT(T, rank, 1, 1, 65536, "dimension of the subspace"),
    CB_OPT_BOOL(T, orthogonality, true, "R has orthonormal rows (LoReFT)"),
    CB_OPT_BOOL(T, tied_weights, false, "the same numbers for the first and the last tokens"),
    CB_OPT_BOOL(T, subtract_projection, true, "what is in the subspace already is taken away; false: DiReFT"),
    CB_OPT_FLOAT(T, dropout, 0.05, 0, 1, "dropout on edited states while training"),
    CB_OPT_ENUM(T, non_linearity, CB_ACTIVATION_LINEAR, cb_activation_names, "activation of W h + b"),
    CB_OPT_END};
#undef T

static const char *const reft_peft_names[] = {"rank", "r", NULL};
static const char reft_peft_fixed[] = "{\"modules_to_save\": null, \"dtype\": null, \"output_reft\": true, \"init_weights_seed\": null}";

/* ---- making ---- */

static bool reft_chooses(const void *config_, const cb_layer *layer)
{
    const cb_reft_config *config = config_;
    int64_t number = cb_block_number(layer);
    for (size_t i = 0; i < config->layers.count; i++)
        if (strtoll(config->layers.items[i], NULL, 10) == number)
            return true;
    return !config->layers.count;
}

static bool reft_check(const void *config_, const cb_layer *layer)
{
    const cb_reft_config *config = config_;
    if (layer || config->prefix_positions + config->suffix_positions > 0)
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "prefix_positions and suffix_positions: found 0 and 0, expected one of them more") == CB_OK;
}

static bool reft_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    reft_state *reft = m->state;
    reft->config = config_;
    reft->width = cb_stream_width(layer);
    return reft->config->rank <= reft->width || cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s of width %lld, expected no more",
                                                        (long long)reft->config->rank, layer->name, (long long)reft->width) == CB_OK;
}

/* ---- parameters ---- */

#define NAMES(n)                                                                                                                           \
    {                                                                                                                                      \
        "units." n ".learned_source.weight", "units." n ".learned_source.bias", "units." n ".projection.weight",                           \
            "units." n "." CB_REFT_ORTHOGONAL                                                                                              \
    }
static const char *const unit_names[2][4] = {NAMES("0"), NAMES("1")};
#undef NAMES

static int unit_count(const cb_reft_config *config)
{
    return config->tied_weights ? 1 : 2;
}

/* A unit without positions is in the file, as AdapterHub's is, and not trained. */
static cb_adapter_role role_of(const cb_reft_config *config, int index)
{
    bool used = config->tied_weights || (index ? config->suffix_positions : config->prefix_positions) > 0;
    return used ? CB_ROLE_TRAINED : CB_ROLE_FROZEN;
}

static int reft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    reft_state *reft = m->state;
    const cb_reft_config *config = reft->config;
    int64_t r = config->rank;
    int count = 0;
    for (int i = 0; i < unit_count(config); i++) {
        unit *u = &reft->units[i];
        cb_adapter_role role = role_of(config, i);
        list[count++] = (cb_adapter_parameter){unit_names[i][0], &u->source, 2, {r, reft->width}, role};
        list[count++] = (cb_adapter_parameter){unit_names[i][1], &u->bias, 1, {r}, role};
        list[count++] = (cb_adapter_parameter){unit_names[i][config->orthogonality ? 3 : 2], &u->projection, 2, {r, reft->width}, role};
    }
    if (config->orthogonality)
        list[count++] = (cb_adapter_parameter){"mask", &reft->mask, 2, {r, reft->width}, CB_ROLE_PRIVATE};
    return count;
}

/* As torch's linear layers start; orthonormal rows are drawn uniformly. */
static bool reft_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const cb_reft_config *config = config_;
    reft_state *reft = m->state;
    bool ok = true;
    for (int i = 0; ok && i < unit_count(config); i++) {
        unit *u = &reft->units[i];
        cb_rng rng = cb_adapter_rng(seed, m, unit_names[i][2]);
        ok = cb_init_kaiming(u->source, cb_adapter_rng(seed, m, unit_names[i][0])) &&
             cb_init_uniform(u->bias, cb_adapter_rng(seed, m, unit_names[i][1]), 1 / sqrt((double)reft->width)) &&
             (config->orthogonality ? cb_orthogonal_draw(u->projection, rng) : cb_init_kaiming(u->projection, rng));
    }
    return ok;
}

static bool reft_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    const reft_state *reft = m->state;
    return !reft->mask || cb_orthogonal_mask(reft->mask);
}

/* ---- which tokens ---- */

static int64_t whole_number(const cb_tensor *t, int64_t i, int64_t otherwise)
{
    return t ? ((const int32_t *)t->data)[i] : otherwise;
}

/* Marks one sequence, tokens begin to end of row `row` (T tokens each), of which the first has position `start`. */
static void mark_sequence(const reft_state *reft, float *const mask[2], int64_t row, int64_t begin, int64_t end, int64_t start)
{
    const cb_reft_config *config = reft->config;
    int64_t suffix = start == 0 && config->suffix_positions > 0 ? end - config->suffix_positions : end;
    for (int64_t t = begin; t < end; t++) {
        if (t >= suffix)
            mask[1][row + t] = 1;
        else if (start + t - begin < config->prefix_positions)
            mask[0][row + t] = 1;
    }
}

/* The tokens of a batch that a unit edits, (B, T, 1), as 0 and 1.  Sequences in a row are told apart by their segments; padding has none. */
static bool mark_tokens(const reft_state *reft, const cb_tensor *y, const cb_context *ctx, cb_tensor *masks[2])
{
    int64_t batch = y->shape[0], time = y->shape[1];
    /* a cache's are a part of longer rows */
    const cb_tensor *segments = ctx->segments ? cb_contiguous(ctx->segments) : NULL,
                    *positions = ctx->positions ? cb_contiguous(ctx->positions) : NULL;
    float *mask[2];
    for (int i = 0; i < 2; i++) {
        if (!(masks[i] = cb_zeros(CB_F32, batch, time, 1)))
            return false;
        mask[i] = masks[i]->data;
    }
    if (!cb_ok())
        return false;
    /* with a cache, segments are those of all keys: the pass's tokens are the last of them */
    int64_t keys = segments ? segments->shape[1] : time;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t begin = 0, end; begin < time; begin = end) {
            int64_t segment = whole_number(segments, b * keys + keys - time + begin, 0);
            for (end = begin + 1; end < time && whole_number(segments, b * keys + keys - time + end, 0) == segment;)
                end++;
            if (segment >= 0)
                mark_sequence(reft, mask, b * time, begin, end, whole_number(positions, b * time + begin, begin));
        }
    return true;
}

static bool any(const cb_tensor *mask)
{
    const float *x = mask->data;
    for (int64_t i = 0; i < mask->count; i++)
        if (x[i] != 0)
            return true;
    return false;
}

/* ---- forward ---- */

/* What a unit adds where its mask is 1 */
static cb_tensor *edit(const cb_module *m, const unit *u, cb_tensor *y, cb_tensor *mask, const cb_context *ctx)
{
    const reft_state *reft = m->state;
    const cb_reft_config *config = reft->config;
    cb_tensor *projection = config->orthogonality ? cb_orthogonal_rows(u->projection, reft->mask) : u->projection;
    cb_tensor *source = cb_adapter_activate(config->non_linearity, cb_linear(y, u->source, u->bias));
    if (config->subtract_projection)
        source = cb_sub(source, cb_linear(y, projection, NULL));
    cb_tensor *change = cb_linear_t(source, projection, NULL);
    if (ctx->training && config->dropout > 0)
        change = cb_sub(cb_dropout(cb_add(y, change), config->dropout, ctx->rng), y);
    return cb_mul(change, cb_cast(m->strength == 1 ? mask : cb_scale(mask, m->strength), y->dtype));
}

static cb_tensor *reft_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)x;
    const reft_state *reft = m->state;
    cb_tensor *masks[2];
    if (m->strength == 0 || !y)
        return y;
    if (y->ndim != 3) {
        cb_fail(CB_ERR_SHAPE, "layer %s: found states %s for reft, expected (batch, time, width)", m->layer->name, cb_shape_text(y));
        return NULL;
    }
    if (!mark_tokens(reft, y, ctx, masks))
        return NULL;
    if (reft->config->tied_weights)
        return any(masks[0]) || any(masks[1]) ? cb_add(y, edit(m, &reft->units[0], y, cb_add(masks[0], masks[1]), ctx)) : y;
    cb_tensor *result = y;
    for (int i = 0; i < 2; i++)
        if (any(masks[i]))
            result = cb_add(result, edit(m, &reft->units[i], y, masks[i], ctx));
    return result;
}

static const cb_default_target reft_targets[] = {{"*", CB_EVERY_HOST}, {0}};

const cb_adapter_kind cb_kind_reft = {
    .name = "reft",
    .peft_type = "REFT",
    .summary = "edits of the first and last tokens' states, in a subspace: h + R^T (W h + b - R h)",
    .paper = "Wu et al. 2024, arXiv:2404.03592",
    .options = reft_options,
    .config_size = sizeof(cb_reft_config),
    .state_size = sizeof(reft_state),
    .module = {.name = "reft", .forward = reft_forward},
    .hosts = 1u << CB_LAYER_BLOCK,
    .chooses = reft_chooses,
    .check = reft_check,
    .create = reft_create,
    .parameters = reft_parameters,
    .initialise = reft_initialise,
    .ready = reft_ready,
    .peft_names = reft_peft_names,
    .peft_fixed = reft_peft_fixed,
    .default_targets = reft_targets,
};
