/* bottleneck.c: bottleneck adapters, f(x) = s U act(D x + b) + c with D (size, in) and U (out, size), in AdapterHub's terms.
 *
 *     series     Houlsby et al. 2019, arXiv:1902.00751 (after attention and MLP), Pfeiffer et al. 2020, arXiv:2005.00247 (after MLP)
 *     parallel   He et al. 2022, arXiv:2110.04366
 *     on any linear layer: LLM-Adapters, Hu et al. 2023, arXiv:2304.01933
 *     with D and U sums of Kronecker products (phm.h): Compacter, Mahabadi et al. 2021, arXiv:2106.04647
 *     with an invertible map behind the embedding and its inverse before the head (invertible.h): MAD-X, arXiv:2005.00052
 *
 * Where a module acts follows from its layer.  y is the layer's result and, of an attention or an MLP, r the stream that y is added to:
 *     attention, MLP   series:   y + f(y), or with original_ln_before y + f(N(y + r));   parallel: y + f(r)
 *     linear           series:   y + f(y), and before those that widen, W (x + f(x));   parallel: y + f(x)
 *     first block      the invertible map of its input
 *     head             the inverse of its input
 * N is the model's own norm where it is behind the sum, as in encoders of BERT's kin, which then runs twice: here, and on the sum of what comes
 * out and r.  Decoders have it before the attention and the MLP; of AdapterHub's options that speak of "original" norms then only the sum is
 * meant, as in the package. */
#include "adapters/bottleneck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/internal.h"

typedef enum place {
    PLACE_STREAM,  /* attention or MLP */
    PLACE_OUTPUT,  /* series, on a linear layer's result */
    PLACE_INPUT,   /* series, on its input */
    PLACE_BESIDE,  /* parallel to it */
    PLACE_MAP,     /* the invertible map */
    PLACE_INVERSE, /* its inverse */
} place;

/* A matrix with a bias, or a sum of Kronecker products. */
typedef struct projection {
    cb_tensor *weight, *bias;
    cb_phm_layer phm;
} projection;

typedef struct bottleneck_state {
    const cb_bottleneck_config *config;
    place place;
    int64_t in, size, out;
    double scale;
    projection down, up;
    cb_tensor *before[2], *after[2], *gate[2]; /* weight and bias of two norms and of the gate */
    cb_tensor *scaling;
    cb_invertible map;
} bottleneck_state;

enum { START_BERT, START_MAM, START_HOULSBY };
static const char *const starts[] = {"bert", "mam_adapter", "houlsby", NULL};
static const char *const residuals[] = {"false", "true", "post_add", NULL};
static const char *const biases[] = {"none", "all", "adapter_only", NULL};

#define T cb_bottleneck_config
#define PHM_ROW(field, type, def, min, max, choices, metavar, help)                                                                        \
    CB_OPTION_ROW(#field, type, offsetof(T, phm.field), def, NULL, min, max, choices, metavar, help)
#define PHM_BOOL(field, def, help) PHM_ROW(field, CB_OPTION_BOOL, def, 0, 1, NULL, NULL, help)

static const cb_option bottleneck_options[] = {
    CB_OPT_BOOL(T, mh_adapter, false, "a module after the attention of each block"),
    CB_OPT_BOOL(T, output_adapter, true, "a module after the MLP of each block"),
    CB_OPT_BOOL(T, cross_adapter, false, "a module after cross attention; no model here has one"),
    CB_OPT_FLOAT(T, reduction_factor, 16, 1e-6, 1e6, "the width is divided by this to give the bottleneck's"),
    CB_OPT_MAP(T, reduction_factor_pattern, "other factors for some blocks, by their numbers"),
    CB_OPT_INT(T, bottleneck_size, 0, 0, 1 << 24, "the bottleneck's width itself, instead of a reduction_factor; 0: not given"),
    CB_OPT_ENUM(T, non_linearity, CB_ACTIVATION_RELU, cb_activation_names, "activation inside the bottleneck"),
    CB_OPT_BOOL(T, original_ln_before, true, "series: the module sees the layer's result with the stream added to it"),
    CB_OPT_BOOL(T, original_ln_after, true, "the stream is added after the module; false: before it only"),
    CB_OPT_BOOL(T, ln_before, false, "a new layer norm before the bottleneck"),
    CB_OPT_BOOL(T, ln_after, false, "a new layer norm after it"),
    CB_OPT_ENUM(T, init_weights, START_BERT, starts,
                "how the matrices start: bert (normal, 0.02), mam_adapter (the last one zero), houlsby"),
    CB_OPT_BOOL(T, is_parallel, false, "the module sees what goes into the layer instead of what comes out"),
    CB_OPT_STRING(T, scaling, "1.0", "X|NAME", "a factor of what the module adds: a number, learned, or channel (one learned for each)"),
    CB_OPT_BOOL(T, use_gating, false, "a learned gate for each sequence, from the mean over its tokens"),
    CB_OPT_ENUM(T, residual_before_ln, CB_RESIDUAL_BEFORE, residuals,
                "series with original_ln_before: what the module adds to is the layer's result (true) or that with the stream (false)"),
    CB_OPT_BOOL(T, adapter_residual_before_ln, false, "ln_after: the norm is of the sum, not of what the module adds"),
    CB_OPT_ENUM(T, inv_adapter, CB_INVERTIBLE_NONE, cb_invertible_names, "an invertible map behind the embedding, undone before the head"),
    CB_OPT_FLOAT(T, inv_adapter_reduction_factor, 2, 1e-6, 1e6, "by which the inner width of the map's networks is reduced"),
    CB_OPT_BOOL(T, inverse_at_head, true, "undo the map before the head, as in MAD-X; models with AdapterHub's heads do, others do not"),
    CB_OPT_LIST(T, leave_out, NULL, "N,...", "numbers of the blocks without modules"),
    CB_OPT_FLOAT(T, dropout, 0, 0, 1, "dropout while training: of what the module adds, on linear layers of what it sees"),
    CB_OPT_FLOAT(T, stochastic_depth, 0, 0, 1, "while training, how often a series module is left out for a sequence"),
    PHM_BOOL(phm_layer, false, "both matrices are sums of phm_dim Kronecker products"),
    PHM_ROW(phm_dim, CB_OPTION_INT, 4, 1, 4096, NULL, "N", "phm_layer: how many products, and the size of the small factor of each"),
    PHM_BOOL(factorized_phm_W, true, "phm_layer: the large factors are products of rank phm_rank"),
    PHM_BOOL(shared_W_phm, false, "phm_layer: the large factors are the same in all modules"),
    PHM_BOOL(shared_phm_rule, true, "phm_layer: the small factors are the same in all modules"),
    PHM_BOOL(factorized_phm_rule, false, "phm_layer: the small factors have rank 1"),
    PHM_ROW(phm_c_init, CB_OPTION_ENUM, 0, 0, 0, cb_phm_rule_starts, "NAME", "phm_layer: how the small factors start"),
    PHM_ROW(phm_init_range, CB_OPTION_FLOAT, 0.0001, 0, 1e9, NULL, "X", "phm_layer: standard deviation of normal starts"),
    PHM_BOOL(learn_phm, true, "phm_layer: the small factors are trained"),
    PHM_ROW(hypercomplex_nonlinearity, CB_OPTION_ENUM, 1, 0, 0, cb_phm_weight_starts, "NAME", "phm_layer: how the large factors start"),
    PHM_ROW(phm_rank, CB_OPTION_INT, 1, 1, 4096, NULL, "N", "phm_layer: rank of the large factors"),
    PHM_BOOL(phm_bias, true, "phm_layer: with biases"),
    CB_OPT_ENUM(T, bias, 0, biases, "which biases of the model are trained and saved too"),
    CB_OPT_END};

#undef PHM_BOOL
#undef PHM_ROW
#undef T

/* The names of LLM-Adapters' files, which have this type's name too. */
static const char *const bottleneck_peft_names[] = {"is_parallel", "use_parallel_adapter", "dropout", "adapter_dropout", NULL};

static const char bottleneck_peft_fixed[] = "{\"modules_to_save\": null, \"init_weights_seed\": null}";

/* ---- options ---- */

static bool is_block_number(const cb_string_list *list, int64_t number)
{
    for (size_t i = 0; i < list->count; i++)
        if (strtoll(list->items[i], NULL, 10) == number)
            return true;
    return false;
}

double cb_bottleneck_factor(const cb_bottleneck_config *config, int64_t number)
{
    const cb_option_map *pattern = &config->reduction_factor_pattern;
    for (size_t i = 0; i < pattern->count; i++)
        if (strtoll(pattern->keys[i], NULL, 10) == number)
            return pattern->values[i];
    return config->reduction_factor;
}

/* The number that scaling is; 1 where it is a word. */
static bool scaling_number(const cb_bottleneck_config *config, double *scale)
{
    char *end;
    const char *text = config->scaling ? config->scaling : "1";
    *scale = strtod(text, &end);
    if (end != text && !*end && isfinite(*scale))
        return true;
    *scale = 1;
    return strcmp(text, "learned") == 0 || strcmp(text, "channel") == 0 ||
           cb_fail(CB_ERR_ARGUMENT, "scaling: found '%.50s', expected a number, learned or channel", text) == CB_OK;
}

static bool is_numbers(const char *option, const char *item)
{
    char *end;
    long long number = strtoll(item, &end, 10);
    return (end != item && !*end && number >= 0) ||
           cb_fail(CB_ERR_ARGUMENT, "%s: found '%.50s', expected the number of a block", option, item) == CB_OK;
}

static bool check_numbers(const cb_bottleneck_config *config)
{
    const cb_option_map *pattern = &config->reduction_factor_pattern;
    for (size_t i = 0; i < config->leave_out.count; i++)
        if (!is_numbers("leave_out", config->leave_out.items[i]))
            return false;
    for (size_t i = 0; i < pattern->count; i++)
        if (!is_numbers("reduction_factor_pattern", pattern->keys[i]) ||
            (!(pattern->values[i] > 0) && cb_fail(CB_ERR_ARGUMENT, "reduction_factor_pattern: found %g for block %s, expected more than 0",
                                                  pattern->values[i], pattern->keys[i])))
            return false;
    return true;
}

static bool bottleneck_check(const void *config_, const cb_layer *layer)
{
    const cb_bottleneck_config *config = config_;
    double scale;
    if (layer)
        return true;
    if (config->cross_adapter)
        return cb_fail(CB_ERR_UNSUPPORTED, "cross_adapter: found true, and the model has no cross attention") == CB_OK;
    if (config->residual_before_ln == CB_RESIDUAL_POST_ADD)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "residual_before_ln: found post_add, which is for models with a norm behind the sum; expected true "
                       "or false") == CB_OK;
    bool keeps = !config->is_parallel && config->original_ln_before && config->residual_before_ln == CB_RESIDUAL_AFTER;
    if (!config->original_ln_after && (!keeps || (config->ln_after && config->adapter_residual_before_ln)))
        return cb_fail(CB_ERR_ARGUMENT, "original_ln_after: found false, which loses the stream: expected it with original_ln_before, "
                                        "residual_before_ln false, and neither is_parallel nor adapter_residual_before_ln") == CB_OK;
    return check_numbers(config) && scaling_number(config, &scale);
}

/* ---- where ---- */

static bool is_first_block(const cb_layer *layer)
{
    return layer->kind == CB_LAYER_BLOCK && (!layer->parent || layer->parent->children[0] == layer);
}

static bool bottleneck_chooses(const void *config_, const cb_layer *layer)
{
    const cb_bottleneck_config *config = config_;
    if (layer->kind == CB_LAYER_ATTENTION || layer->kind == CB_LAYER_MLP)
        return (layer->kind == CB_LAYER_MLP ? config->output_adapter : config->mh_adapter) &&
               !is_block_number(&config->leave_out, cb_block_number(layer));
    if (config->inv_adapter == CB_INVERTIBLE_NONE)
        return false;
    return layer->kind == CB_LAYER_BLOCK ? is_first_block(layer) : layer->output && !layer->classifies && config->inverse_at_head;
}

/* LLM-Adapters' series modules sit on the input of what widens, and on the output of the rest. */
static bool widens(const cb_layer *layer)
{
    static const char *const names[] = {"gate_proj", "up_proj", "dense_h_to_4h", "fc_in", "fc1", "c_fc", NULL};
    for (int i = 0; names[i]; i++)
        if (cb_ends_with(layer->name, names[i]))
            return true;
    return false;
}

static place place_of(const cb_bottleneck_config *config, const cb_layer *layer)
{
    if (layer->kind == CB_LAYER_BLOCK)
        return PLACE_MAP;
    if (layer->kind != CB_LAYER_LINEAR)
        return PLACE_STREAM;
    if (layer->output && config->inv_adapter != CB_INVERTIBLE_NONE)
        return PLACE_INVERSE;
    return config->is_parallel ? PLACE_BESIDE : widens(layer) ? PLACE_INPUT : PLACE_OUTPUT;
}

static bool is_bottleneck(const bottleneck_state *state)
{
    return state->place != PLACE_MAP && state->place != PLACE_INVERSE;
}

static bool bottleneck_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const cb_bottleneck_config *config = config_;
    bottleneck_state *state = m->state;
    state->config = config;
    state->place = place_of(config, layer);
    int64_t width = cb_stream_width(layer);
    if (state->place == PLACE_MAP && config->inv_adapter == CB_INVERTIBLE_NONE)
        return cb_fail(CB_ERR_ARGUMENT, "inv_adapter: found none for layer %s, expected nice or glow on a block", layer->name) == CB_OK;
    if (width < 2)
        return cb_fail(CB_ERR_SHAPE, "layer %s: found a width of %lld, expected 2 or more", layer->name, (long long)width) == CB_OK;
    state->map = (cb_invertible){.form = config->inv_adapter,
                                 .activation = config->non_linearity,
                                 .width = width,
                                 .reduction = config->inv_adapter_reduction_factor};
    state->in = state->place == PLACE_OUTPUT ? layer->out_features : width;
    state->out = state->place == PLACE_BESIDE ? layer->out_features : state->in;
    int64_t reduced = (int64_t)((double)state->in / cb_bottleneck_factor(config, cb_block_number(layer)));
    state->size = config->bottleneck_size ? config->bottleneck_size : reduced > 0 ? reduced : 1;
    if (!scaling_number(config, &state->scale))
        return false;
    return !is_bottleneck(state) || !config->phm.phm_layer ||
           (cb_phm_check(&config->phm, layer, state->in, state->size) && cb_phm_check(&config->phm, layer, state->size, state->out));
}

/* ---- parameters ---- */

static bool is_scaled_by(const cb_bottleneck_config *config, const char *word)
{
    return config->scaling && strcmp(config->scaling, word) == 0;
}

static int list_projection(const bottleneck_state *state, projection *p, const char *const names[9], int64_t in, int64_t out,
                           cb_adapter_parameter *list, int count)
{
    if (state->config->phm.phm_layer)
        return cb_phm_parameters(&state->config->phm, &p->phm, names + 2, in, out, list, count);
    list[count++] = (cb_adapter_parameter){names[0], &p->weight, 2, {out, in}, CB_ROLE_TRAINED};
    if (state->place == PLACE_STREAM)
        list[count++] = (cb_adapter_parameter){names[1], &p->bias, 1, {out}, CB_ROLE_TRAINED};
    return count;
}

static int list_pair(cb_tensor **pair, const char *weight, const char *bias, int ndim, int64_t width, cb_adapter_parameter *list, int count)
{
    list[count] = (cb_adapter_parameter){weight, &pair[0], ndim, {ndim == 2 ? 1 : width, width}, CB_ROLE_TRAINED};
    list[count + 1] = (cb_adapter_parameter){bias, &pair[1], 1, {ndim == 2 ? 1 : width}, CB_ROLE_TRAINED};
    return count + 2;
}

#define P(prefix, phm)                                                                                                                     \
    {                                                                                                                                      \
        prefix "weight", prefix "bias", phm "W", phm "W_left", phm "W_right", phm "phm_rule", phm "phm_rule_left", phm "phm_rule_right",   \
            phm "b"                                                                                                                        \
    }
/* On linear layers, in AdapterHub's sequence, in that with a norm first; and the other matrix. */
static const char *const down_names[3][9] = {P("adapter_down.", "adapter_down."), P("adapter_down.0.", "adapter_down.0."),
                                             P("adapter_down.1.", "adapter_down.1.")};
static const char *const up_names[9] = P("adapter_up.", "adapter_up.");
#undef P

static int bottleneck_parameters(cb_module *m, cb_adapter_parameter *list)
{
    bottleneck_state *state = m->state;
    const cb_bottleneck_config *config = state->config;
    if (state->place == PLACE_MAP)
        return cb_invertible_parameters(&state->map, list);
    if (state->place == PLACE_INVERSE)
        return 0;
    int order = config->ln_before ? 2 : state->place == PLACE_STREAM ? 1 : 0, count = 0;
    if (config->ln_before)
        count = list_pair(state->before, "adapter_norm_before.weight", "adapter_norm_before.bias", 1, state->in, list, count);
    count = list_projection(state, &state->down, down_names[order], state->in, state->size, list, count);
    count = list_projection(state, &state->up, up_names, state->size, state->out, list, count);
    if (is_scaled_by(config, "learned") || is_scaled_by(config, "channel"))
        list[count++] = (cb_adapter_parameter){state->place == PLACE_STREAM ? "scaling" : "adapter_scaling",
                                               &state->scaling,
                                               1,
                                               {is_scaled_by(config, "learned") ? 1 : state->out},
                                               CB_ROLE_TRAINED};
    if (config->ln_after)
        count = list_pair(state->after, "adapter_norm_after.weight", "adapter_norm_after.bias", 1, state->out, list, count);
    return config->use_gating ? list_pair(state->gate, "gate.weight", "gate.bias", 2, state->in, list, count) : count;
}

static const bottleneck_state *first_bottleneck(const cb_adapter_group *group)
{
    for (size_t i = 0; i < group->count; i++)
        if (is_bottleneck(group->modules[i]->state))
            return group->modules[i]->state;
    return NULL;
}

static int bottleneck_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    const cb_bottleneck_config *config = group->config;
    const bottleneck_state *first = first_bottleneck(group);
    if (!config->phm.phm_layer || !first)
        return 0;
    return cb_phm_shared_parameters(&config->phm, group->state, first->in, first->size, first->out, list);
}

/* ---- fresh values ---- */

static bool fill(cb_tensor *t, double value)
{
    float *x = t->data;
    for (int64_t i = 0; i < t->count; i++)
        x[i] = (float)value;
    return true;
}

/* Normal, drawn again where it is off by more than two deviations (torch's trunc_normal_ with such bounds). */
static bool start_truncated(cb_tensor *t, cb_rng rng, double deviation)
{
    float *x = t->data;
    for (int64_t i = 0; i < t->count; i++) {
        double value = cb_rng_normal(&rng);
        while (fabs(value) > 2)
            value = cb_rng_normal(&rng);
        x[i] = (float)(deviation * value);
    }
    return true;
}

static bool start_projection(const bottleneck_state *state, projection *p, const cb_module *m, const char *name, uint64_t seed, bool last)
{
    cb_rng rng = cb_adapter_rng(seed, m, name);
    int start = state->config->init_weights;
    if (state->config->phm.phm_layer)
        return cb_phm_initialise(&state->config->phm, &p->phm, rng, last && start == START_MAM);
    if (start == START_MAM)
        return last || cb_init_kaiming(p->weight, rng);
    return start == START_BERT ? cb_init_normal(p->weight, rng, 0.02) : start_truncated(p->weight, rng, 0.01);
}

static bool start_gate(const bottleneck_state *state, const cb_module *m, uint64_t seed)
{
    if (!state->gate[0])
        return true;
    cb_rng rng = cb_adapter_rng(seed, m, "gate.weight");
    if (state->config->init_weights != START_HOULSBY)
        return cb_init_normal(state->gate[0], rng, 0.02);
    return cb_init_kaiming(state->gate[0], rng) &&
           cb_init_uniform(state->gate[1], cb_adapter_rng(seed, m, "gate.bias"), 1 / sqrt((double)state->in));
}

static bool bottleneck_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    bottleneck_state *state = m->state;
    if (state->place == PLACE_MAP)
        return cb_invertible_initialise(&state->map, m, seed);
    if (state->place == PLACE_INVERSE)
        return true;
    return (!state->before[0] || fill(state->before[0], 1)) && (!state->after[0] || fill(state->after[0], 1)) &&
           (!state->scaling || fill(state->scaling, 1)) && start_projection(state, &state->down, m, "adapter_down", seed, false) &&
           start_projection(state, &state->up, m, "adapter_up", seed, true) && start_gate(state, m, seed);
}

static bool bottleneck_group_initialise(const cb_adapter_group *group, uint64_t seed)
{
    const cb_bottleneck_config *config = group->config;
    return cb_phm_shared_initialise(&config->phm, group->state, seed, config->init_weights == START_MAM);
}

/* What is shared has one shape, and what is undone must have been done. */
static bool bottleneck_group_ready(const cb_adapter_group *group, bool fresh)
{
    (void)fresh;
    const cb_bottleneck_config *config = group->config;
    const bottleneck_state *first = first_bottleneck(group);
    bool map = false, inverse = false;
    for (size_t i = 0; i < group->count; i++) {
        const bottleneck_state *state = group->modules[i]->state;
        map |= state->place == PLACE_MAP;
        inverse |= state->place == PLACE_INVERSE;
        if (is_bottleneck(state) && config->phm.phm_layer && config->phm.shared_W_phm &&
            (state->in != first->in || state->size != first->size || state->out != first->out))
            return cb_fail(CB_ERR_ARGUMENT, "shared_W_phm: found layer %s of another size than the first, expected layers of one size",
                           group->modules[i]->layer->name) == CB_OK;
    }
    return !inverse || map ||
           cb_fail(CB_ERR_ARGUMENT, "inv_adapter: found the head among the layers and not the first block, whose map it undoes") == CB_OK;
}

/* ---- forward ---- */

static cb_tensor *project(const cb_module *m, const projection *p, const cb_phm_tensor *shared, cb_tensor *x)
{
    const bottleneck_state *state = m->state;
    if (!state->config->phm.phm_layer)
        return cb_linear(x, p->weight, p->bias);
    const cb_phm_shared *group = cb_module_group(m)->state;
    return cb_phm_forward(&state->config->phm, &p->phm, shared, &group->rule, x);
}

static cb_tensor *norm(cb_tensor *const pair[2], cb_tensor *x)
{
    return pair[0] ? cb_layer_norm(x, pair[0], pair[1], 1e-5) : x;
}

/* Whole sequences are left out: x (B, ..., C) times a mask for each of the B. */
static cb_tensor *drop_paths(const bottleneck_state *state, cb_tensor *x, const cb_context *ctx)
{
    if (!x || !ctx->training || state->config->stochastic_depth == 0 || state->config->is_parallel)
        return x;
    int64_t shape[CB_MAX_DIMS] = {x->shape[0], 1, 1, 1};
    cb_tensor *kept = cb_dropout(cb_full_nd(x->dtype, 1, x->ndim, shape), state->config->stochastic_depth, ctx->rng);
    return cb_mul(x, kept);
}

static cb_tensor *scaled(const bottleneck_state *state, cb_tensor *x)
{
    if (state->scaling)
        return x ? cb_mul(x, cb_cast(state->scaling, x->dtype)) : NULL;
    return state->scale == 1 ? x : cb_scale(x, state->scale);
}

/* The mean over a sequence's tokens of a number for each, from 0 to 1: (B, 1, 1), or (B, T, 1) where a row holds several or padding; of x without
 * a dimension of batches, one for all. */
static cb_tensor *gate_of(const bottleneck_state *state, cb_tensor *x, const cb_context *ctx)
{
    cb_tensor *each = x ? cb_sigmoid(cb_linear(x, state->gate[0], state->gate[1])) : NULL;
    if (!each || !ctx->segments || x->ndim != 3)
        return each ? cb_mean(each, x->ndim - 2, true) : NULL;
    int64_t keys = ctx->segments->shape[1]; /* with a cache the pass's tokens are the last of them */
    cb_tensor *own = cb_slice(ctx->segments, 1, keys - x->shape[1], keys, 1);
    cb_tensor *same = own ? cb_cast(cb_eq(cb_unsqueeze(own, 2), cb_unsqueeze(own, 1)), CB_F32) : NULL; /* (B, T, T) */
    cb_tensor *sums = same ? cb_matmul(same, cb_cast(each, CB_F32)) : NULL;
    return sums ? cb_cast(cb_div(sums, cb_sum(same, 2, true)), each->dtype) : NULL;
}

/* f(x), in x's dtype */
static cb_tensor *branch(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    const bottleneck_state *state = m->state;
    const cb_phm_shared *shared = cb_module_group(m)->state;
    double dropout = ctx->training ? state->config->dropout : 0;
    cb_tensor *seen = x;
    if (dropout > 0 && state->place != PLACE_STREAM)
        x = cb_dropout(x, dropout, ctx->rng);
    cb_tensor *inner = cb_adapter_activate(state->config->non_linearity, project(m, &state->down, &shared->down, norm(state->before, x)));
    cb_tensor *y = scaled(state, drop_paths(state, project(m, &state->up, &shared->up, inner), ctx));
    if (dropout > 0 && state->place == PLACE_STREAM)
        y = cb_dropout(y, dropout, ctx->rng);
    return state->gate[0] ? cb_mul(y, gate_of(state, seen, ctx)) : y;
}

/* f(x) and what it is added to, with a norm of the one or of the sum */
static cb_tensor *add_branch(const cb_module *m, cb_tensor *x, cb_tensor *to, const cb_context *ctx)
{
    const bottleneck_state *state = m->state;
    cb_tensor *change = branch(m, x, ctx);
    if (state->config->adapter_residual_before_ln && !state->config->is_parallel)
        return norm(state->after, cb_add(change, to));
    return cb_add(norm(state->after, change), to);
}

/* How far to go from without to with, by the module's strength. */
static cb_tensor *at_strength(const cb_module *m, cb_tensor *without, cb_tensor *with)
{
    return m->strength == 1 ? with : cb_lerp(without, with, m->strength);
}

/* A series module sees y or N(y + r) and adds to one of these; the model adds r once more, and original_ln_after false takes that back. */
static cb_tensor *series_result(const cb_module *m, cb_tensor *y, const cb_context *ctx)
{
    const cb_bottleneck_config *config = ((const bottleneck_state *)m->state)->config;
    if (ctx->residual && ctx->residual_norm && !config->original_ln_after) {
        cb_fail(CB_ERR_UNSUPPORTED, "original_ln_after: found false for layer %s, whose norm is behind the sum, expected true",
                m->layer->name);
        return NULL;
    }
    cb_tensor *x = config->original_ln_before ? cb_joined_stream(y, ctx) : y;
    bool of_result = config->residual_before_ln == CB_RESIDUAL_BEFORE || !config->original_ln_after;
    return add_branch(m, x, of_result ? y : x, ctx);
}

static const bottleneck_state *map_of(const cb_module *m)
{
    const cb_adapter_group *group = cb_module_group(m);
    for (size_t i = 0; i < group->count; i++)
        if (((const bottleneck_state *)group->modules[i]->state)->place == PLACE_MAP)
            return group->modules[i]->state;
    return NULL;
}

static cb_tensor *bottleneck_before(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    const bottleneck_state *state = m->state;
    if (m->strength == 0 || !x)
        return x;
    switch (state->place) {
    case PLACE_MAP:
        return cb_invertible_forward(&state->map, x, m->strength);
    case PLACE_INVERSE:
        return cb_invertible_inverse(&map_of(m)->map, x, m->strength);
    case PLACE_INPUT:
        return at_strength(m, x, add_branch(m, x, x, ctx));
    default:
        return x;
    }
}

static cb_input_change bottleneck_input(const cb_module *m)
{
    const bottleneck_state *state = m->state;
    return is_bottleneck(state) && state->place != PLACE_INPUT ? CB_INPUT_KEPT : CB_INPUT_ALONE;
}

static cb_tensor *bottleneck_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const bottleneck_state *state = m->state;
    if (m->strength == 0 || !x || !y)
        return x ? y : NULL;
    switch (state->place) {
    case PLACE_STREAM:
    case PLACE_OUTPUT:
        if (state->config->is_parallel)
            return at_strength(m, y, add_branch(m, ctx->residual ? ctx->residual : x, y, ctx));
        return at_strength(m, y, series_result(m, y, ctx));
    case PLACE_BESIDE:
        return at_strength(m, y, add_branch(m, x, y, ctx));
    default:
        return y;
    }
}

static bool bottleneck_adds(const cb_module *m)
{
    const bottleneck_state *state = m->state;
    return m->strength == 1 && (state->place == PLACE_BESIDE || state->place == PLACE_INPUT || state->place == PLACE_INVERSE);
}

/* "*" alone has every layer of those kinds asked for; PEFT has no such type. */
static const cb_default_target bottleneck_targets[] = {{"*", CB_EVERY_HOST}, {0}};

const cb_adapter_kind cb_kind_bottleneck = {
    .name = "bottleneck",
    .peft_type = "BOTTLENECK",
    .summary = "small networks after or beside attention, MLP or linear layers: y + U act(D y); Compacter, invertible adapters",
    .paper = "Houlsby et al. 2019, arXiv:1902.00751",
    .options = bottleneck_options,
    .config_size = sizeof(cb_bottleneck_config),
    .state_size = sizeof(bottleneck_state),
    .group_size = sizeof(cb_phm_shared),
    .module = {.name = "bottleneck",
               .before = bottleneck_before,
               .input = bottleneck_input,
               .forward = bottleneck_forward,
               .adds = bottleneck_adds},
    .hosts = 1u << CB_LAYER_ATTENTION | 1u << CB_LAYER_MLP | 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_BLOCK,
    .chooses = bottleneck_chooses,
    .check = bottleneck_check,
    .create = bottleneck_create,
    .parameters = bottleneck_parameters,
    .initialise = bottleneck_initialise,
    .group_parameters = bottleneck_group_parameters,
    .group_initialise = bottleneck_group_initialise,
    .group_ready = bottleneck_group_ready,
    .peft_names = bottleneck_peft_names,
    .peft_fixed = bottleneck_peft_fixed,
    .default_targets = bottleneck_targets,
};
