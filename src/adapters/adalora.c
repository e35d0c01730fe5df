/* adalora.c: adaptive budget allocation, W x + s B (E * A) x: a singular value decomposition whose triplets compete for a budget of ranks.
 * Zhang et al. 2023, arXiv:2303.10512.
 * R rank; A (R, in) and B (out, R), which a regulariser keeps near orthogonal, E (R, 1), s = alpha / init_r; in stands for in KH KW in a
 * convolution.
 *
 * After each update of the parameters the importance of every triplet is estimated from gradients (eqs. 8 to 12), and as the budget falls
 * (eq. 13) the E of the least important are set to zero.  The file holds the triplets that are left, its config which they are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/dense.h"
#include "adapters/internal.h"
#include "adapters/thin.h"

typedef struct adalora_config {
    int64_t r, init_r, target_r, tinit, tfinal, delta_t, total_step;
    double beta1, beta2, orth_reg_weight, alpha, dropout;
    bool init_weights;
    int bias;
    cb_string_list rank_pattern;
} adalora_config;

enum { A, E, B, FACTORS };
static const char *const factor_names[FACTORS] = {"lora_A", "lora_E", "lora_B"};

typedef struct adalora_state {
    cb_tensor *factors[FACTORS];
    cb_tensor *importance[FACTORS], *uncertainty[FACTORS]; /* moving averages of |p * dp| and of its changes */
    cb_tensor *kept;                                       /* (R, 1): 1, or 0 for a triplet that is masked */
    int64_t rank;
    double scale, dropout;
    bool settled; /* of a file that says which triplets were left: nothing is allocated any more */
} adalora_state;

typedef struct adalora_shared {
    cb_tensor *scores, *sorted; /* of all triplets */
} adalora_shared;

static const char *const adalora_bias_choices[] = {"none", "all", "lora_only", NULL};

static const cb_option adalora_options[] = {
    CB_OPT_INT(adalora_config, init_r, 12, 1, 65536, "rank of each layer at first"),
    CB_OPT_INT(adalora_config, target_r, 8, 0, 65536, "mean rank of the layers in the end"),
    CB_OPT_INT(adalora_config, tinit, 0, 0, 1e12, "steps before ranks begin to fall"),
    CB_OPT_INT(adalora_config, tfinal, 0, 0, 1e12, "steps at the end in which they stay"),
    CB_OPT_INT(adalora_config, delta_t, 1, 1, 1e12, "steps between two allocations"),
    CB_OPT_FLOAT(adalora_config, beta1, 0.85, 0, 1, "decay of the moving average of importances"),
    CB_OPT_FLOAT(adalora_config, beta2, 0.85, 0, 1, "decay of the moving average of their changes"),
    CB_OPT_FLOAT(adalora_config, orth_reg_weight, 0.5, 0, 1e9, "weight of the regulariser that keeps the factors orthogonal"),
    CB_OPT_INT(adalora_config, total_step, 0, 0, 1e12, "steps of the schedule of ranks; 0: those of the run"),
    CB_OPT_FLOAT(adalora_config, alpha, 8, 0, 1e9, "the update is scaled by alpha / init_r"),
    CB_OPT_FLOAT(adalora_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_ENUM(adalora_config, bias, 0, adalora_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(adalora_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_INT(adalora_config, r, 8, 0, 1e9, "not used, as in PEFT: see init_r"),
    CB_OPT_LIST(adalora_config, rank_pattern, NULL, "MASK,...",
                "LAYER.lora_E:1101: the triplets of a layer that are left; a run writes it"),
    CB_OPT_END};

static const char *const adalora_peft_names[] = {
    "delta_t", "deltaT", "alpha", "lora_alpha", "dropout", "lora_dropout", "init_weights", "init_lora_weights", NULL};

static const char *const adalora_peft_null[] = {"total_step", NULL};

static const char adalora_peft_fixed[] =
    "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null, \"fan_in_fan_out\": "
    "false, \"alora_invocation_tokens\": null, \"alpha_pattern\": {}, \"arrow_config\": null, \"corda_config\": null,"
    " \"ensure_weight_tying\": false, \"eva_config\": null, \"kasa_config\": null, \"layer_replication\": null, \"loftq_config\": {},"
    " \"lora_bias\": false, \"lora_ga_config\": null, \"megatron_config\": null, \"megatron_core\": \"megatron.core\","
    " \"monteclora_config\": null, \"qalora_group_size\": 16, \"target_parameters\": null, \"trainable_token_indices\": null,"
    " \"use_bdlora\": null, \"use_dora\": false, \"use_qalora\": false, \"use_rslora\": false, \"velora_config\": null}";

/* peft/utils/constants.py: TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING, where it is not LoRA's */
static const cb_default_target adalora_targets[] = {
    {"t5", "q,k,v,o,wi,wo"},
    {"mt5", "q,k,v,o,wi_0,wi_1,wo"},
    {"umt5", "q,k,v,o,wi_0,wi_1,wo"}, /* not in PEFT */
    {"bart", "q_proj,k_proj,v_proj,out_proj,fc1,fc2"},
    {"opt", "q_proj,k_proj,v_proj,out_proj,fc1,fc2"},
    {"roberta", "query,key,value,dense"},
    {"deberta-v2", "query_proj,key_proj,value_proj,dense"},
    {"*", NULL},
    {0},
};

/* ---- making ---- */

static bool check_schedule(const adalora_config *config)
{
    if (config->target_r > config->init_r)
        return cb_fail(CB_ERR_ARGUMENT, "target_r: found %lld, expected at most init_r, which is %lld", (long long)config->target_r,
                       (long long)config->init_r) == CB_OK;
    if (config->total_step > 0 && config->tinit >= config->total_step - config->tfinal)
        return cb_fail(CB_ERR_ARGUMENT, "tinit: found %lld with tfinal %lld and total_step %lld, which leaves no step for ranks to fall",
                       (long long)config->tinit, (long long)config->tfinal, (long long)config->total_step) == CB_OK;
    return true;
}

static bool adalora_check(const void *config, const cb_layer *layer)
{
    return layer || check_schedule(config);
}

/* The marks of a layer's triplets in rank_pattern; NULL: there are none. */
static const char *marks_of_name(const adalora_config *config, const char *layer)
{
    size_t length = strlen(layer), suffix = strlen(".lora_E:");
    for (size_t i = 0; i < config->rank_pattern.count; i++) {
        const char *item = config->rank_pattern.items[i];
        if (strncmp(item, layer, length) == 0 && strncmp(item + length, ".lora_E:", suffix) == 0)
            return item + length + suffix;
    }
    return NULL;
}

static const char *marks_of(const adalora_config *config, const cb_layer *layer)
{
    const char *marks = marks_of_name(config, layer->name);
    return marks || !layer->module_name ? marks : marks_of_name(config, layer->module_name);
}

static bool count_marks(const adalora_config *config, const char *layer, const char *marks, int64_t *rank)
{
    *rank = 0;
    for (const char *c = marks; *c; c++)
        *rank += *c == '1';
    if (strlen(marks) == (size_t)config->init_r && strspn(marks, "01") == strlen(marks))
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "rank_pattern: found %.100s for layer %s, expected one 0 or 1 for each of init_r, which is %lld", marks,
                   layer, (long long)config->init_r) == CB_OK;
}

static bool adalora_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const adalora_config *config = config_;
    adalora_state *s = m->state;
    if (layer->kind == CB_LAYER_CONV && layer->conv.groups > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found a convolution of %lld groups, adalora expects one", layer->name,
                       (long long)layer->conv.groups) == CB_OK;
    s->settled = config->rank_pattern.count > 0;
    s->rank = config->init_r;
    s->dropout = config->dropout;
    s->scale = (config->alpha > 0 ? config->alpha : (double)config->init_r) / ((double)config->init_r + 1e-5);
    const char *marks = marks_of(config, layer);
    return !marks || count_marks(config, layer->name, marks, &s->rank);
}

static int adalora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    static const char *const importance_names[FACTORS] = {"importance_A", "importance_E", "importance_B"};
    static const char *const uncertainty_names[FACTORS] = {"uncertainty_A", "uncertainty_E", "uncertainty_B"};
    adalora_state *s = m->state;
    const cb_layer *layer = m->layer;
    int64_t in = layer->in_features;
    if (layer->kind == CB_LAYER_CONV) {
        const cb_tensor *weight = cb_layer_weight(layer, "weight");
        in *= weight->shape[2] * weight->shape[3];
    }
    const int64_t shapes[FACTORS][2] = {{s->rank, in}, {s->rank, 1}, {layer->out_features, s->rank}};
    int n = 0;
    for (int i = 0; i < FACTORS; i++)
        list[n++] = (cb_adapter_parameter){factor_names[i], &s->factors[i], 2, {shapes[i][0], shapes[i][1]}, CB_ROLE_TRAINED};
    for (int i = 0; i < FACTORS && !s->settled; i++) {
        list[n++] = (cb_adapter_parameter){importance_names[i], &s->importance[i], 2, {shapes[i][0], shapes[i][1]}, CB_ROLE_STATE};
        list[n++] = (cb_adapter_parameter){uncertainty_names[i], &s->uncertainty[i], 2, {shapes[i][0], shapes[i][1]}, CB_ROLE_STATE};
    }
    if (!s->settled)
        list[n++] = (cb_adapter_parameter){"kept", &s->kept, 2, {s->rank, 1}, CB_ROLE_STATE};
    return n;
}

static int64_t triplets(const cb_adapter_group *group)
{
    return (int64_t)group->count * ((const adalora_config *)group->config)->init_r;
}

static bool is_settled(const cb_adapter_group *group)
{
    return ((const adalora_config *)group->config)->rank_pattern.count > 0;
}

static int adalora_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    adalora_shared *shared = group->state;
    if (is_settled(group))
        return 0;
    list[0] = (cb_adapter_parameter){"scores", &shared->scores, 1, {triplets(group)}, CB_ROLE_PRIVATE};
    list[1] = (cb_adapter_parameter){"sorted", &shared->sorted, 1, {triplets(group)}, CB_ROLE_PRIVATE};
    return 2;
}

static bool adalora_initialise(cb_module *m, const void *config, uint64_t seed)
{
    adalora_state *s = m->state;
    bool ok = true;
    double deviation = ((const adalora_config *)config)->init_weights ? 0.02 : 1;
    for (int i = 0; ok && i < FACTORS; i++)
        ok = (i == E && deviation < 1) || cb_init_normal(s->factors[i], cb_adapter_rng(seed, m, factor_names[i]), deviation);
    return ok;
}

static bool adalora_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    adalora_state *s = m->state;
    return s->settled || cb_copy_into(s->kept, cb_ones(CB_F32, s->rank, 1));
}

/* ---- forward ---- */

/* E * A */
static cb_tensor *inner(const cb_module *m)
{
    const adalora_state *s = m->state;
    return cb_mul(s->factors[A], s->factors[E]);
}

/* A convolution's change, of its weight's shape. */
static cb_tensor *adalora_change(const cb_module *m)
{
    const adalora_state *s = m->state;
    const cb_tensor *weight = cb_layer_weight(m->layer, "weight");
    return cb_reshape_nd(cb_scale(cb_matmul(s->factors[B], inner(m)), s->scale), weight->ndim, weight->shape);
}

static cb_tensor *adalora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const adalora_state *s = m->state;
    if (m->strength == 0 || s->rank == 0)
        return y;
    if (m->layer->kind != CB_LAYER_CONV)
        return cb_thin_add(m, x, y, inner(m), s->factors[B], s->scale, s->dropout, ctx);
    if (x && ctx->training && s->dropout > 0)
        x = cb_dropout(x, s->dropout, ctx->rng);
    return cb_dense_add(m, x, y, adalora_change, m->strength);
}

static cb_tensor *adalora_delta(const cb_module *m, cb_tensor *weight)
{
    const adalora_state *s = m->state;
    if (s->rank == 0)
        return cb_zeros_like(weight);
    if (m->layer->kind == CB_LAYER_CONV)
        return cb_dense_delta(m, adalora_change, m->strength);
    return cb_thin_delta(m, inner(m), s->factors[B], s->scale);
}

/* ---- training ---- */

static bool adalora_begin(void *config_, int64_t steps)
{
    adalora_config *config = config_;
    if (config->total_step == 0)
        config->total_step = steps;
    return check_schedule(config);
}

/* |G - 1|, Frobenius, with G the products of A's rows, or of B's columns.  The square root has a slope at zero too. */
static cb_tensor *skewness(cb_tensor *factor, int which)
{
    cb_tensor *turned = cb_transpose(factor, 0, 1);
    cb_tensor *products = which == A ? cb_matmul(factor, turned) : cb_matmul(turned, factor);
    cb_tensor *rest = products ? cb_sub(products, cb_identity(products->shape[0])) : NULL;
    return cb_sqrt(cb_add_scalar(cb_sum(cb_square(rest), CB_ALL, false), 1e-30));
}

/* eq. 4, as a mean over all A and B */
static cb_tensor *adalora_regulariser(const cb_adapter_group *group)
{
    const adalora_config *config = group->config;
    cb_tensor *sum = NULL;
    if (config->orth_reg_weight == 0)
        return NULL;
    for (size_t i = 0; i < group->count; i++) {
        const adalora_state *s = group->modules[i]->state;
        for (int which = A; which <= B && s->rank > 0; which += B - A) {
            cb_tensor *one = skewness(s->factors[which], which);
            sum = sum ? cb_add(sum, one) : one;
            if (!sum)
                return NULL;
        }
    }
    return sum ? cb_scale(sum, config->orth_reg_weight / (2 * (double)group->count)) : NULL;
}

/* eqs. 8 to 10; f32 steps as PEFT's */
static void estimate(adalora_state *s, const adalora_config *config, double gradient_scale)
{
    const float b1 = (float)config->beta1, b2 = (float)config->beta2, rest1 = (float)(1 - config->beta1),
                rest2 = (float)(1 - config->beta2);
    for (int i = 0; i < FACTORS; i++) {
        const float *p = s->factors[i]->data, *g = s->factors[i]->grad ? s->factors[i]->grad->data : NULL;
        float *mean = s->importance[i]->data, *changes = s->uncertainty[i]->data;
        for (int64_t k = 0; k < s->factors[i]->count; k++) {
            float now = g ? fabsf(p[k] * (g[k] * (float)gradient_scale)) : 0;
            mean[k] = b1 * mean[k] + rest1 * now;
            changes[k] = b2 * changes[k] + rest2 * fabsf(now - mean[k]);
        }
    }
}

/* The mean over the elements of one factor's part of triplet `at`; these are `stride` apart. */
static double mean_score(const adalora_state *s, int factor, int64_t at, int64_t stride, int64_t count)
{
    const float *mean = s->importance[factor]->data, *changes = s->uncertainty[factor]->data;
    double sum = 0;
    for (int64_t k = 0; k < count; k++)
        sum += (double)(mean[at + k * stride] * changes[at + k * stride]);
    return sum / (double)count;
}

/* eqs. 11 and 12 */
static void score(const adalora_state *s, float *scores)
{
    int64_t in = s->factors[A]->shape[1], out = s->factors[B]->shape[0];
    for (int64_t r = 0; r < s->rank; r++)
        scores[r] = (float)(mean_score(s, E, r, 1, 1) + mean_score(s, A, r * in, 1, in) + mean_score(s, B, r, s->rank, out));
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Marks the `budget` most important triplets of all layers as kept. */
static void allocate(const cb_adapter_group *group, int64_t budget)
{
    const adalora_shared *shared = group->state;
    float *scores = shared->scores->data, *sorted = shared->sorted->data;
    int64_t n = shared->scores->count;
    for (size_t i = 0; i < group->count; i++) {
        const adalora_state *s = group->modules[i]->state;
        score(s, scores + (int64_t)i * s->rank);
    }
    memcpy(sorted, scores, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    float threshold = budget < n ? sorted[n - budget - 1] : -1;
    for (size_t i = 0; i < group->count; i++) {
        const adalora_state *s = group->modules[i]->state;
        for (int64_t r = 0; r < s->rank; r++)
            ((float *)s->kept->data)[r] = scores[(int64_t)i * s->rank + r] > threshold;
    }
}

static void mask(const cb_adapter_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        const adalora_state *s = group->modules[i]->state;
        for (int64_t r = 0; r < s->rank; r++)
            if (((const float *)s->kept->data)[r] == 0)
                ((float *)s->factors[E]->data)[r] = 0;
    }
}

/* eq. 13, cut to a whole number as in PEFT */
static int64_t budget_at(const cb_adapter_group *group, int64_t step)
{
    const adalora_config *config = group->config;
    int64_t first = triplets(group), last = (int64_t)group->count * config->target_r;
    double left = 1 - (double)(step - config->tinit) / (double)(config->total_step - config->tfinal - config->tinit);
    return (int64_t)((double)(first - last) * (left * left * left) + (double)last);
}

static bool adalora_step(const cb_adapter_group *group, const cb_adapter_step *step)
{
    const adalora_config *config = group->config;
    int64_t falls_until = config->total_step - config->tfinal;
    if (is_settled(group))
        return true;
    for (size_t i = 0; step->step < falls_until && i < group->count; i++)
        estimate(group->modules[i]->state, config, step->gradient_scale);
    if (step->step > falls_until) { /* the last masks hold */
        mask(group);
    } else if (step->step == falls_until || (step->step > config->tinit && step->step % config->delta_t == 0)) {
        allocate(group, budget_at(group, step->step));
        mask(group);
    }
    return true;
}

/* ---- files ---- */

static int64_t kept_count(const adalora_state *s)
{
    int64_t count = 0;
    for (int64_t r = 0; r < s->rank; r++)
        count += ((const float *)s->kept->data)[r] != 0;
    return count;
}

/* The triplets that are left. */
static cb_tensor *adalora_stored(const cb_module *m, const char *suffix)
{
    const adalora_state *s = m->state;
    int64_t count = s->settled ? s->rank : kept_count(s), n = 0;
    int which = 0;
    while (which < FACTORS && strcmp(suffix, factor_names[which]) != 0)
        which++;
    if (which == FACTORS || count == s->rank)
        return NULL;
    cb_tensor *index = cb_zeros(CB_I32, count);
    for (int64_t r = 0; index && r < s->rank; r++)
        if (((const float *)s->kept->data)[r] != 0)
            ((int32_t *)index->data)[n++] = (int32_t)r;
    return cb_index_select(s->factors[which], which == B ? 1 : 0, index);
}

static bool add_marks(adalora_config *config, const cb_adapter_group *group, const cb_module *m)
{
    const adalora_state *s = m->state;
    cb_string text = {0};
    cb_string_printf(&text, "%s.lora_E:", group->by_modules ? cb_layer_module_name(m->layer) : m->layer->name);
    for (int64_t r = 0; r < s->rank; r++)
        cb_string_append(&text, ((const float *)s->kept->data)[r] != 0 ? "1" : "0", 1);
    bool ok = text.data && cb_ok() && cb_string_list_add(&config->rank_pattern, text.data);
    cb_string_free(&text);
    return ok;
}

static bool adalora_stored_config(void *config, const cb_adapter_group *group)
{
    bool ok = true, whole = true;
    for (size_t i = 0; !is_settled(group) && i < group->count; i++) {
        const adalora_state *s = group->modules[i]->state;
        whole &= !s->kept || kept_count(s) == s->rank;
    }
    for (size_t i = 0; ok && !whole && i < group->count; i++)
        ok = add_marks(config, group, group->modules[i]);
    return ok;
}

const cb_adapter_kind cb_kind_adalora = {
    .name = "adalora",
    .peft_type = "ADALORA",
    .summary = "low-rank update whose layers share a budget of ranks that falls while training: W x + s B (E * (A x))",
    .paper = "Zhang et al. 2023, arXiv:2303.10512",
    .options = adalora_options,
    .config_size = sizeof(adalora_config),
    .state_size = sizeof(adalora_state),
    .group_size = sizeof(adalora_shared),
    .module = {.name = "adalora", .forward = adalora_forward, .adds = cb_adds_always, .delta = adalora_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .check = adalora_check,
    .create = adalora_create,
    .parameters = adalora_parameters,
    .initialise = adalora_initialise,
    .ready = adalora_ready,
    .group_parameters = adalora_group_parameters,
    .begin = adalora_begin,
    .regulariser = adalora_regulariser,
    .step = adalora_step,
    .stored = adalora_stored,
    .stored_config = adalora_stored_config,
    .peft_names = adalora_peft_names,
    .peft_null = adalora_peft_null,
    .peft_fixed = adalora_peft_fixed,
    .default_targets = adalora_targets,
};
