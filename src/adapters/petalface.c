/* petalface.c: two low-rank pairs that each row mixes in its own way, y = W x + s ((1 - a) U1 D1 x + a U2 D2 x).
 * Narayan et al. 2025, arXiv:2412.07771 (PETALface).
 * D (R, in), U (out, R).  a is the row's quality, a column of the pass's conditions: a = 0.5 + (quality - threshold), so that the first pair is
 * for what is worse than the threshold and the second for what is better; without conditions it is 0.5.  No gradient goes to the quality. */
#include "adapters/internal.h"
#include "adapters/rows.h"
#include "adapters/thin.h"

typedef struct petalface_config {
    int64_t rank, condition;
    double scale, threshold, use_weight, dropout;
    bool clamp;
    cb_string_list single_modules;
} petalface_config;

typedef struct petalface_state {
    const petalface_config *config;
    cb_tensor *down[2], *up[2]; /* single: the first alone */
    bool single;
} petalface_state;

static const cb_option petalface_options[] = {
    CB_OPT_INT(petalface_config, rank, 8, 1, 65536, "rank of each of the two"),
    CB_OPT_FLOAT(petalface_config, scale, 1, -1e9, 1e9, "the change is multiplied by this, whatever the rank"),
    CB_OPT_INT(petalface_config, condition, 0, 0, 65535, "the column of a pass's conditions that is a row's quality, higher being better"),
    CB_OPT_FLOAT(petalface_config, threshold, 0.5, -1e9, 1e9, "the quality that mixes both evenly"),
    CB_OPT_BOOL(petalface_config, clamp, true, "keep the weight between 0 and 1; the authors' code does not"),
    CB_OPT_FLOAT(petalface_config, use_weight, -1, -1, 1, "all rows have this weight, so that it can be merged; -1: that of their quality"),
    CB_OPT_LIST(petalface_config, single_modules, NULL, "LAYER,...",
                "layers, of those adapted, with one pair that all rows have: names or ends of names"),
    CB_OPT_FLOAT(petalface_config, dropout, 0.1, 0, 1, "dropout on what a pair adds while training"),
    CB_OPT_END};

static const char *const petalface_peft_names[] = {"rank", "r", NULL};
static const char *const petalface_live[] = {"use_weight", NULL};
static const char petalface_peft_fixed[] = "{\"modules_to_save\": null}";

static const char *const down_names[] = {"petalface_low_D", "petalface_high_D"}, *const up_names[] = {"petalface_low_U",
                                                                                                      "petalface_high_U"};

static bool petalface_check(const void *config_, const cb_layer *layer)
{
    const petalface_config *config = config_;
    return layer || config->use_weight == -1 || config->use_weight >= 0 ||
           cb_fail(CB_ERR_ARGUMENT, "use_weight: found %g, expected -1, or 0 to 1", config->use_weight) == CB_OK;
}

static bool petalface_create(cb_module *m, const void *config, const cb_layer *layer)
{
    petalface_state *s = m->state;
    s->config = config;
    s->single = cb_layer_is_listed(layer, &s->config->single_modules);
    return true;
}

static int pairs_of(const petalface_state *s)
{
    return s->single ? 1 : 2;
}

static int petalface_parameters(cb_module *m, cb_adapter_parameter *list)
{
    petalface_state *s = m->state;
    int64_t r = s->config->rank, in = m->layer->in_features, out = m->layer->out_features;
    for (int i = 0; i < pairs_of(s); i++) {
        *list++ = (cb_adapter_parameter){s->single ? "petalface_D" : down_names[i], &s->down[i], 2, {r, in}, CB_ROLE_TRAINED};
        *list++ = (cb_adapter_parameter){s->single ? "petalface_U" : up_names[i], &s->up[i], 2, {out, r}, CB_ROLE_TRAINED};
    }
    return 2 * pairs_of(s);
}

static bool petalface_initialise(cb_module *m, const void *config, uint64_t seed)
{
    petalface_state *s = m->state;
    double deviation = 1 / (double)((const petalface_config *)config)->rank;
    for (int i = 0; i < pairs_of(s); i++)
        if (!cb_init_normal(s->down[i], cb_adapter_rng(seed, m, down_names[i]), deviation))
            return false;
    return true;
}

/* ---- forward ---- */

/* (B, 1): the weight of the second pair for each of the rows at hand */
static cb_tensor *weights_of(const petalface_config *config, int64_t rows, const cb_context *ctx)
{
    cb_tensor *quality = config->use_weight < 0 ? cb_row_conditions(ctx, rows, config->condition, 1) : NULL;
    if (!quality)
        return cb_ok() ? cb_full(CB_F32, config->use_weight < 0 ? 0.5 : config->use_weight, rows, 1) : NULL;
    cb_tensor *weights = cb_add_scalar(quality, 0.5 - config->threshold);
    return config->clamp ? cb_clamp(weights, 0, 1) : weights;
}

static cb_tensor *petalface_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const petalface_state *s = m->state;
    const petalface_config *config = s->config;
    double scale = config->scale * m->strength;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    cb_tensor *second = s->single ? NULL : weights_of(config, x->shape[0], ctx);
    cb_tensor *weights[] = {second ? cb_add_scalar(cb_neg(second), 1) : NULL, second};
    for (int i = 0; i < pairs_of(s); i++) {
        cb_tensor *z = cb_linear(x, s->down[i], NULL);
        z = s->single ? z : cb_mul(z, cb_row_factor(weights[i], z));
        if (ctx->training && config->dropout > 0)
            y = cb_add(y, cb_scale(cb_dropout(cb_linear(z, s->up[i], NULL), config->dropout, ctx->rng), scale));
        else
            y = cb_linear_add(y, z, s->up[i], scale);
    }
    return y;
}

static cb_tensor *petalface_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const petalface_state *s = m->state;
    double second = s->config->use_weight, scale = s->config->scale;
    if (s->single)
        return cb_thin_delta(m, s->down[0], s->up[0], scale);
    if (second < 0) {
        cb_fail(CB_ERR_UNSUPPORTED,
                "layer %s: changes with the quality of a row, and one weight cannot; expected use_weight to be from 0 to 1",
                m->layer->name);
        return NULL;
    }
    return cb_add(cb_thin_delta(m, s->down[0], s->up[0], scale * (1 - second)), cb_thin_delta(m, s->down[1], s->up[1], scale * second));
}

const cb_adapter_kind cb_kind_petalface = {
    .name = "petalface",
    .peft_type = "PETALFACE",
    .summary = "two low-rank pairs, mixed by a quality of each row: W x + s ((1 - a) U1 D1 + a U2 D2) x",
    .paper = "Narayan et al. 2025, arXiv:2412.07771",
    .options = petalface_options,
    .config_size = sizeof(petalface_config),
    .state_size = sizeof(petalface_state),
    .module = {.name = "petalface", .forward = petalface_forward, .adds = cb_adds_always, .delta = petalface_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .check = petalface_check,
    .create = petalface_create,
    .parameters = petalface_parameters,
    .initialise = petalface_initialise,
    .peft_names = petalface_peft_names,
    .peft_fixed = petalface_peft_fixed,
    .live = petalface_live,
};
