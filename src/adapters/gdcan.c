/* gdcan.c: domain conditioned channel attention, and corrections of the target's features and logits.  Li et al. 2021, arXiv:2103.12339 (GDCAN); Li et al.
 * 2020, arXiv:2005.06717 (DCAN).
 *
 * Attention sits on maps: on a convolution, or on a batch or group norm, such as the last of a residual block, where squeeze and excitation have
 * it (before the skip is added).  Corrections sit on a linear layer, the classifier: before it, of features, and behind it, of logits.  Which domain a
 * row is of is its task: 0 the target, 1 the source; without tasks all rows are the target's, so that what is saved is used as it is.
 *
 * In the paper the network has squeeze and excitation already, and both paths start from theirs.  Here any network will do: attention multiplies by
 * `scale` sigmoid(...), with scale 2 by 1 at the start, and corrections add 0, so that a fresh adapter changes nothing. */
#include <string.h>

#include "adapters/domain_attention.h"
#include "adapters/feature_correction.h"

typedef struct gdcan_config {
    int attention, init_weights;
    double eta, scale;
    int64_t reduction, feature_width;
    bool logits;
} gdcan_config;

typedef struct gdcan_state {
    const gdcan_config *config;
    cb_domain_attention attention; /* on maps */
    cb_feature_correction correction;
} gdcan_state;

enum { IDENTITY, PAPER };
static const char *const starts[] = {"identity", "paper", NULL};
static const char *const path_names[] = {"gated", "split", "shared", "none", NULL};

static const cb_option gdcan_options[] = {
    CB_OPT_ENUM(gdcan_config, attention, CB_PATHS_GATED, path_names,
                "squeeze path of the target: its own where the domains are apart (gated: GDCAN), always its own (split: DCAN), always the "
                "source's (shared: "
                "squeeze and excitation); none: no attention"),
    CB_OPT_FLOAT(gdcan_config, eta, 0.2, 0, 2,
                 "of gated: paths are shared where the gap of the domains' statistics, 0 to 1, is less than this"),
    CB_OPT_INT(gdcan_config, reduction, 16, 1, 65536, "channels over inner width of the attention"),
    CB_OPT_FLOAT(gdcan_config, scale, 2, 1e-3, 1e3, "of attention: channels are multiplied by up to this (1: the paper's)"),
    CB_OPT_INT(gdcan_config, feature_width, 128, 0, 65536,
               "inner width of the block that corrects the target's features; 0: there is none"),
    CB_OPT_BOOL(gdcan_config, logits, true, "a block that corrects the target's logits"),
    CB_OPT_ENUM(gdcan_config, init_weights, IDENTITY, starts,
                "what a fresh adapter does: nothing (identity), or what the authors' blocks do (weights normal with deviation 0.005, "
                "biases 0.1, a random excitation)"),
    CB_OPT_END};

static const cb_default_target gdcan_targets[] = {{"*", CB_EVERY_HOST}, {0}};

/* ---- where ---- */

static bool is_map_norm(const cb_layer *layer)
{
    return layer->kind == CB_LAYER_NORM && (layer->groups > 0 || cb_layer_buffer(layer, "running_mean"));
}

/* The last norm of maps below `layer`, in tree order, that is on no short cut. */
static const cb_layer *last_norm(const cb_layer *layer)
{
    const cb_layer *last = is_map_norm(layer) ? layer : NULL;
    for (size_t i = 0; i < layer->child_count; i++) {
        const cb_layer *child = layer->children[i], *found = cb_ends_with(child->name, ".shortcut") ? NULL : last_norm(child);
        last = found ? found : last;
    }
    return last;
}

/* By default: what a residual block ends with, and the classifier. */
static bool gdcan_chooses(const void *config_, const cb_layer *layer)
{
    const gdcan_config *config = config_;
    if (layer->kind == CB_LAYER_LINEAR)
        return layer->classifies && (config->feature_width || config->logits);
    const cb_layer *block = layer->parent;
    while (block && block->kind != CB_LAYER_BLOCK)
        block = block->parent;
    return config->attention != CB_PATHS_NONE && is_map_norm(layer) && block && last_norm(block) == layer;
}

static bool gdcan_check(const void *config_, const cb_layer *layer)
{
    const gdcan_config *config = config_;
    bool attends = config->attention != CB_PATHS_NONE, corrects = config->feature_width || config->logits;
    if (!layer)
        return attends || corrects ||
               cb_fail(CB_ERR_ARGUMENT, "attention, feature_width and logits: found none, 0 and false, expected one of them more") == CB_OK;
    if (layer->kind == CB_LAYER_LINEAR)
        return corrects || cb_fail(CB_ERR_ARGUMENT, "feature_width and logits: found 0 and false, which leave nothing to do on layer %s",
                                   layer->name) == CB_OK;
    if (!attends)
        return cb_fail(CB_ERR_ARGUMENT, "attention: found none, which leaves nothing to do on layer %s", layer->name) == CB_OK;
    return layer->kind == CB_LAYER_CONV || is_map_norm(layer) ||
           cb_fail(CB_ERR_UNSUPPORTED, "target_modules: hits layer %s, a norm of tokens; expected one of maps (a batch or group norm)",
                   layer->name) == CB_OK;
}

/* ---- a module ---- */

static bool corrects(const cb_module *m)
{
    return m->layer->kind == CB_LAYER_LINEAR;
}

static bool gdcan_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    gdcan_state *s = m->state;
    const gdcan_config *config = s->config = config_;
    (void)layer;
    s->attention.paths = (cb_domain_paths)config->attention;
    s->attention.eta = config->eta;
    s->attention.scale = config->scale;
    return true;
}

static int64_t channels_of(const cb_layer *layer)
{
    return layer->kind == CB_LAYER_CONV ? layer->out_features : cb_layer_weight(layer, "weight")->count;
}

static int gdcan_parameters(cb_module *m, cb_adapter_parameter *list)
{
    gdcan_state *s = m->state;
    const gdcan_config *c = s->config;
    if (corrects(m))
        return cb_feature_correction_parameters(&s->correction, m->layer->in_features, m->layer->out_features, c->feature_width, c->logits,
                                                list);
    return c->attention == CB_PATHS_NONE ? 0 : cb_domain_attention_parameters(&s->attention, channels_of(m->layer), c->reduction, list);
}

static bool gdcan_initialise(cb_module *m, const void *config, uint64_t seed)
{
    gdcan_state *s = m->state;
    bool identity = ((const gdcan_config *)config)->init_weights == IDENTITY;
    return corrects(m) ? cb_feature_correction_initialise(&s->correction, m, seed, identity)
                       : cb_domain_attention_initialise(&s->attention, m, seed, identity);
}

static bool gdcan_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    return cb_domain_attention_ready(&((gdcan_state *)m->state)->attention);
}

static cb_tensor *gdcan_before(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    return cb_residual_block_add(&((const gdcan_state *)m->state)->correction.before, x, m->strength, ctx);
}

static cb_tensor *gdcan_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)x;
    const gdcan_state *s = m->state;
    if (corrects(m))
        return cb_residual_block_add(&s->correction.behind, y, m->strength, ctx);
    return s->attention.squeeze ? cb_domain_attention_run(&s->attention, y, m->strength, ctx) : y;
}

static cb_input_change gdcan_input(const cb_module *m)
{
    const gdcan_state *s = m->state;
    return !s->correction.before.into ? CB_INPUT_KEPT : s->correction.behind.into ? CB_INPUT_AND_RESULT : CB_INPUT_ALONE;
}

static cb_tensor *gdcan_stored(const cb_module *m, const char *suffix)
{
    const cb_tensor *state = ((const gdcan_state *)m->state)->attention.state;
    return state && strcmp(suffix, "gdcan_gate") == 0 ? cb_slice((cb_tensor *)(uintptr_t)state, 0, CB_GATE_SHARED, CB_GATE_SHARED + 1, 1)
                                                      : NULL;
}

const cb_adapter_kind cb_kind_gdcan = {
    .name = "gdcan",
    .peft_type = "GDCAN",
    .summary = "channel attention with a squeeze path for each of two domains, and corrections of one's features and logits",
    .paper = "Li et al. 2021, arXiv:2103.12339",
    .options = gdcan_options,
    .config_size = sizeof(gdcan_config),
    .state_size = sizeof(gdcan_state),
    .module = {.name = "gdcan", .before = gdcan_before, .input = gdcan_input, .forward = gdcan_forward},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV | 1u << CB_LAYER_NORM,
    .chooses = gdcan_chooses,
    .check = gdcan_check,
    .create = gdcan_create,
    .parameters = gdcan_parameters,
    .initialise = gdcan_initialise,
    .ready = gdcan_ready,
    .stored = gdcan_stored,
    .default_targets = gdcan_targets,
};
