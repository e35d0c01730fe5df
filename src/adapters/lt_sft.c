/* lt_sft.c: sparse fine-tuning by lottery tickets, W + D with D zero but at the K places of all adapted layers that moved furthest.  Ansell et
 * al. 2022, arXiv:2110.07560.
 * A run has two phases.  In the first (full_share) every element of D is trained; then the K = density (numbers in all) with the largest |D|,
 * of all layers together, are chosen, D and what is trained whole go back to where they began, and only they are trained, by an optimiser that
 * begins anew: others get their zero back after each update, so momentum and decay do not move them.  With more than one iteration this is
 * done again from where it led, and each chooses its part of K among what is not chosen yet.  Fewer are chosen where fewer moved, as in the
 * rows of tokens that no text has.  A layer's bias is one more column of its D.  The file holds places and values, so that adapters of one base
 * are composed by adding them up; one that is trained on has its places, and its run is one phase. */
#include <math.h>
#include <string.h>

#include "adapters/dense.h"
#include "adapters/internal.h"

typedef struct sft_config {
    double density, full_share, l1_weight, dropout;
    int64_t iterations, total_step, selection_seed;
    int selection;
    bool biases;
    cb_option_map counts; /* of a file: numbers of each layer, by its whole name */
} sft_config;

typedef struct sft_state {
    const sft_config *config;
    int64_t rows, columns, inputs;      /* of D: out and in, of an embedding tokens and width; a bias is column `inputs` */
    cb_tensor *change, *mask;           /* while it is made: D (rows, columns), and 1 where it is trained */
    cb_tensor *values, *indices, *flat; /* of a file: (K), (2, K) rows and columns, (K) row columns + column */
    double dropout;
    int64_t count; /* K of a file; 0: it is being made */
} sft_state;

enum { SELECT_LARGEST, SELECT_RANDOM };
static const char *const selections[] = {"largest", "random", NULL};

static const cb_option sft_options[] = {
    CB_OPT_FLOAT(sft_config, density, 0.08, 1e-9, 1, "share of all numbers of the adapted layers that are trained in the end"),
    CB_OPT_FLOAT(sft_config, full_share, 0.5, 0, 1, "share of the run in which all are trained, to choose these by how far they go"),
    CB_OPT_INT(sft_config, iterations, 1, 1, 1000, "how often all are trained and some chosen: each time as many more"),
    CB_OPT_ENUM(sft_config, selection, SELECT_LARGEST, selections, "which are chosen; random ones from the start, without full_share"),
    CB_OPT_INT(sft_config, selection_seed, 1, 0, 9e15, "seed of random ones"),
    CB_OPT_BOOL(sft_config, biases, true, "biases of the adapted layers are among the numbers"),
    CB_OPT_FLOAT(sft_config, l1_weight, 0, 0, 1e9, "weight of the mean distance from the base in the loss"),
    CB_OPT_INT(sft_config, total_step, 0, 0, 1e12, "updates of the schedule; 0: those of the run"),
    CB_OPT_FLOAT(sft_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_MAP(sft_config, counts, "numbers of each layer of a trained adapter; a run writes it"),
    CB_OPT_END};

static const char sft_peft_fixed[] = "{\"modules_to_save\": null}";

static const cb_default_target sft_targets[] = {{"*", CB_EVERY_HOST}, {0}};

/* Norms are no host, and what the base has no part of, a head, is not to be composed. */
static bool sft_chooses(const void *config, const cb_layer *layer)
{
    (void)config;
    return !layer->head;
}

/* ---- making ---- */

/* K of a file, 0 where it is being made, -1 where it is none. */
static int64_t count_of(const sft_config *config, const cb_layer *layer)
{
    for (size_t i = 0; i < config->counts.count; i++) {
        double count = config->counts.values[i];
        if (strcmp(config->counts.keys[i], layer->name) == 0)
            return count >= 1 && count <= INT32_MAX && count == floor(count) ? (int64_t)count : -1;
    }
    return config->counts.count ? -1 : 0;
}

static void measure(sft_state *sft, const cb_layer *layer)
{
    bool embedding = layer->kind == CB_LAYER_EMBEDDING;
    sft->rows = embedding ? layer->in_features : layer->out_features;
    sft->inputs = embedding ? layer->out_features : layer->in_features;
    if (layer->kind == CB_LAYER_CONV)
        sft->inputs = cb_layer_weight(layer, "weight")->count / sft->rows;
    sft->columns = sft->inputs + (sft->config->biases && cb_layer_own_weight(layer, "bias"));
}

static bool sft_create(cb_module *m, const void *config, const cb_layer *layer)
{
    sft_state *sft = m->state;
    sft->config = config;
    if (!cb_adapter_module_of(m)->fresh && !sft->config->counts.count)
        return cb_fail(CB_ERR_FORMAT, "counts: found none, expected the numbers of each layer") == CB_OK;
    sft->dropout = layer->kind == CB_LAYER_EMBEDDING ? 0 : sft->config->dropout;
    sft->count = count_of(config, layer);
    measure(sft, layer);
    if (sft->columns > INT32_MAX / sft->rows)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found %lld by %lld numbers, expected less than 2^31", layer->name,
                       (long long)sft->rows, (long long)sft->columns) == CB_OK;
    return (sft->count >= 0 && sft->count <= sft->rows * sft->columns) ||
           cb_fail(CB_ERR_ARGUMENT, "counts: found no number from 1 to %lld for layer %s", (long long)(sft->rows * sft->columns),
                   layer->name) == CB_OK;
}

static int sft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    sft_state *sft = m->state;
    int64_t k = sft->count;
    if (k) {
        list[0] = (cb_adapter_parameter){"sft_values", &sft->values, 1, {k}, CB_ROLE_TRAINED};
        list[1] = (cb_adapter_parameter){"sft_indices", &sft->indices, 2, {2, k}, CB_ROLE_FROZEN | CB_ROLE_I32};
        list[2] = (cb_adapter_parameter){"flat", &sft->flat, 1, {k}, CB_ROLE_PRIVATE | CB_ROLE_I32};
        return 3;
    }
    list[0] = (cb_adapter_parameter){"sft_change", &sft->change, 2, {sft->rows, sft->columns}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    list[1] = (cb_adapter_parameter){"sft_mask", &sft->mask, 2, {sft->rows, sft->columns}, CB_ROLE_STATE};
    list[2] = (cb_adapter_parameter){"sft_values", NULL, 1, {1}, CB_ROLE_ECHO};
    list[3] = (cb_adapter_parameter){"sft_indices", NULL, 2, {2, 1}, CB_ROLE_ECHO | CB_ROLE_I32};
    return 4;
}

static bool flatten(const cb_module *m, const sft_state *sft)
{
    const int32_t *at = sft->indices->data;
    int32_t *flat = sft->flat->data;
    int64_t k = sft->count;
    for (int64_t i = 0; i < k; i++) {
        if (at[i] < 0 || at[i] >= sft->rows || at[k + i] < 0 || at[k + i] >= sft->columns)
            return cb_fail(CB_ERR_FORMAT, "layer %s: sft_indices: found row %d and column %d, expected less than %lld and %lld",
                           m->layer->name, at[i], at[k + i], (long long)sft->rows, (long long)sft->columns) == CB_OK;
        flat[i] = (int32_t)(at[i] * sft->columns + at[k + i]);
    }
    return true;
}

/* ---- forward ---- */

/* D with the bias's column. */
static cb_tensor *sft_numbers(const sft_state *sft)
{
    if (!sft->count)
        return sft->change;
    return cb_reshape(cb_scatter_add(cb_zeros(CB_F32, sft->rows * sft->columns), 0, sft->flat, sft->values), sft->rows, sft->columns);
}

static cb_tensor *sft_change(const cb_module *m)
{
    const sft_state *sft = m->state;
    cb_tensor *numbers = sft_numbers(sft);
    if (sft->columns > sft->inputs)
        numbers = cb_slice(numbers, 1, 0, sft->inputs, 1);
    const cb_tensor *weight = m->layer->kind == CB_LAYER_CONV ? cb_layer_weight(m->layer, "weight") : NULL;
    return weight ? cb_reshape_nd(numbers, weight->ndim, weight->shape) : numbers;
}

/* (rows), times the strength */
static cb_tensor *sft_bias(const cb_module *m)
{
    const sft_state *sft = m->state;
    return cb_scale(cb_reshape(cb_slice(sft_numbers(sft), 1, sft->inputs, sft->columns, 1), sft->rows), m->strength);
}

static cb_tensor *add_bias(const cb_module *m, cb_tensor *y)
{
    cb_tensor *bias = sft_bias(m);
    bias = m->layer->kind == CB_LAYER_CONV ? cb_reshape(bias, -1, 1, 1) : bias;
    return y && bias ? cb_add(y, cb_cast(bias, y->dtype)) : NULL;
}

static cb_tensor *sft_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const sft_state *sft = m->state;
    if (m->strength == 0 || !x || !y)
        return m->strength == 0 ? y : NULL;
    if (m->layer->kind == CB_LAYER_EMBEDDING)
        return cb_add(y, cb_cast(cb_scale(cb_embedding(sft_change(m), x), m->strength), y->dtype));
    if (ctx->training && sft->dropout > 0)
        x = cb_dropout(x, sft->dropout, ctx->rng);
    y = cb_dense_add(m, x, y, sft_change, m->strength);
    return sft->columns > sft->inputs ? add_bias(m, y) : y;
}

static cb_tensor *sft_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return m->layer->kind == CB_LAYER_EMBEDDING ? cb_scale(sft_change(m), m->strength) : cb_dense_delta(m, sft_change, m->strength);
}

static cb_tensor *sft_delta_bias(const cb_module *m, cb_tensor *bias)
{
    (void)bias;
    const sft_state *sft = m->state;
    return sft->columns > sft->inputs ? sft_bias(m) : NULL;
}

/* ---- training ---- */

/* A part of the run: all numbers are trained from `first`, those that are chosen from `full` to before `end`. */
typedef struct sft_span {
    int64_t iteration, first, full, end;
} sft_span;

static int64_t iterations(const sft_config *config)
{
    return config->selection == SELECT_RANDOM || config->counts.count ? 1 : config->iterations;
}

/* Each kind of update at least once; random ones are chosen before the first. */
static sft_span span_of(const sft_config *config, int64_t step)
{
    int64_t n = iterations(config), total = config->total_step;
    sft_span s = {0};
    while (s.iteration < n - 1 && step >= total * (s.iteration + 1) / n)
        s.iteration++;
    s.first = total * s.iteration / n;
    s.end = total * (s.iteration + 1) / n;
    if (config->selection == SELECT_RANDOM || config->counts.count) {
        s.full = s.first;
        return s;
    }
    int64_t full = (int64_t)(config->full_share * (double)(s.end - s.first)), most = s.end - s.first - 1;
    full = full < most ? full : most;
    s.full = s.first + (full > 1 ? full : 1);
    return s;
}

static bool sft_begin(void *config_, int64_t steps)
{
    sft_config *config = config_;
    int64_t total = config->total_step && !config->counts.count ? config->total_step : steps; /* a file's are those of a former run */
    int64_t least = config->selection == SELECT_RANDOM ? 1 : 2 * config->iterations;
    if (!config->counts.count && (total < least || steps < least))
        return cb_fail(CB_ERR_ARGUMENT,
                       "lt_sft: found %lld of %lld updates, expected %lld or more: one for all numbers, one for those it chooses",
                       (long long)steps, (long long)total, (long long)least) == CB_OK;
    config->total_step = total;
    return true;
}

static cb_tensor *sft_regulariser(const cb_adapter_group *group)
{
    const sft_config *config = group->config;
    cb_tensor *sum = NULL;
    double numbers = 0;
    for (size_t i = 0; config->l1_weight > 0 && i < group->count && cb_ok(); i++) {
        const sft_state *sft = group->modules[i]->state;
        cb_tensor *term = cb_sum(cb_abs(sft->count ? sft->values : sft->change), CB_ALL, false);
        sum = sum ? cb_add(sum, term) : term;
        numbers += (double)(sft->rows * sft->columns);
    }
    return sum ? cb_scale(sum, config->l1_weight / numbers) : NULL;
}

/* The k-th largest (from 1) of n numbers, whose order changes (Hoare 1961). */
static float kth_largest(float *x, int64_t n, int64_t k)
{
    int64_t low = 0, high = n - 1, wanted = k - 1;
    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                float kept = x[i];
                x[i++] = x[j];
                x[j--] = kept;
            }
        }
        if (wanted <= j)
            high = j;
        else if (wanted >= i)
            low = i;
        else
            break;
    }
    return x[wanted];
}

/* By what a number is chosen: how far it went, or a random key.  NaN has no place in an order; what is chosen already is not again. */
static float rank_of(const sft_config *config, size_t module, const sft_state *sft, int64_t k, bool again)
{
    if (again && ((const float *)sft->mask->data)[k] != 0)
        return -1;
    if (config->selection == SELECT_RANDOM)
        return (float)cb_rng_uniform(&(cb_rng){.seed = (uint64_t)config->selection_seed, .stream = module, .counter = (uint64_t)k});
    float size = fabsf(((const float *)sft->change->data)[k]);
    return size == size ? size : 0;
}

/* Marks those that come first, of all layers together, and at a tie all of them, but none that did not move; then D is zero again. */
static bool choose(const cb_adapter_group *group, int64_t iteration)
{
    const sft_config *config = group->config;
    int64_t n = 0, filled = 0, chosen = 0, marked = 0;
    for (size_t i = 0; i < group->count; i++)
        n += ((const sft_state *)group->modules[i]->state)->change->count;
    float *ranks = cb_alloc((size_t)n * sizeof *ranks);
    if (!ranks)
        return false;
    for (size_t i = 0; i < group->count; i++) {
        const sft_state *sft = group->modules[i]->state;
        for (int64_t k = 0; k < sft->change->count; k++) {
            ranks[filled] = rank_of(config, i, sft, k, iteration > 0);
            chosen += ranks[filled++] < 0;
        }
    }
    int64_t kept = (int64_t)(config->density * (double)n * (double)(iteration + 1) / (double)iterations(config)) - chosen;
    float threshold = kth_largest(ranks, n, kept > 0 ? kept : 1);
    cb_free(ranks);
    for (size_t i = 0; i < group->count; i++) {
        const sft_state *sft = group->modules[i]->state;
        float *change = sft->change->data, *mask = sft->mask->data;
        for (int64_t k = 0; k < sft->change->count; k++) {
            float rank = rank_of(config, i, sft, k, iteration > 0);
            mask[k] = rank < 0 || (rank >= threshold && rank > 0);
            marked += mask[k] != 0;
            change[k] = 0;
        }
    }
    return marked ||
           cb_fail(CB_ERR_STATE, "lt_sft: found no number that moved, so there are none to choose: expected a larger full_share, or "
                                 "a learning rate above 0") == CB_OK;
}

/* Random ones are chosen once all modules are there. */
static bool sft_ready(cb_module *m, const void *config_, bool fresh)
{
    (void)fresh;
    const sft_config *config = config_;
    const sft_state *sft = m->state;
    const cb_adapter_group *group = cb_module_group(m);
    if (sft->count)
        return flatten(m, sft);
    if (config->selection == SELECT_RANDOM)
        return m != group->modules[group->count - 1] || choose(group, 0);
    return cb_copy_into(sft->mask, cb_ones(CB_F32, sft->rows, sft->columns));
}

static void sft_phase(const void *config, int64_t step, int64_t *first, int64_t *end)
{
    sft_span s = span_of(config, step);
    *first = step < s.full ? s.first : s.full;
    *end = step < s.full ? s.full : s.end;
}

static bool sft_rewinds(const void *config, int64_t step)
{
    return step == span_of(config, step).full;
}

/* One that is read from a file has its places already. */
static bool sft_step(const cb_adapter_group *group, const cb_adapter_step *step)
{
    const sft_config *config = group->config;
    sft_span s = span_of(config, step->step);
    if (config->counts.count)
        return true;
    if (step->step + 1 == s.full)
        return choose(group, s.iteration);
    for (size_t i = 0; step->step >= s.full && i < group->count; i++) {
        const sft_state *sft = group->modules[i]->state;
        float *change = sft->change->data;
        const float *mask = sft->mask->data;
        for (int64_t k = 0; k < sft->change->count; k++)
            change[k] = mask[k] != 0 ? change[k] : 0;
    }
    return true;
}

/* ---- files ---- */

/* Places that are trained; a layer without any has its first, which is zero. */
static int64_t places(const sft_state *sft)
{
    int64_t count = 0;
    for (int64_t k = 0; k < sft->mask->count; k++)
        count += ((const float *)sft->mask->data)[k] != 0;
    return count > 0 ? count : 1;
}

static cb_tensor *sft_stored(const cb_module *m, const char *suffix)
{
    const sft_state *sft = m->state;
    bool values = strcmp(suffix, "sft_values") == 0;
    if (sft->count || (!values && strcmp(suffix, "sft_indices") != 0))
        return NULL;
    int64_t count = places(sft), n = 0, columns = sft->columns;
    cb_tensor *stored = values ? cb_zeros(CB_F32, count) : cb_zeros(CB_I32, 2, count);
    const float *change = sft->change->data, *mask = sft->mask->data;
    for (int64_t k = 0; stored && k < sft->mask->count; k++) {
        if (mask[k] == 0)
            continue;
        if (values) {
            ((float *)stored->data)[n] = change[k];
        } else {
            ((int32_t *)stored->data)[n] = (int32_t)(k / columns);
            ((int32_t *)stored->data)[count + n] = (int32_t)(k % columns);
        }
        n++;
    }
    return stored;
}

static bool sft_stored_config(void *config_, const cb_adapter_group *group)
{
    sft_config *config = config_;
    bool ok = true;
    for (size_t i = 0; ok && !config->counts.count && i < group->count; i++)
        ok = ((const sft_state *)group->modules[i]->state)->count == 0;
    if (!ok || config->counts.count)
        return ok;
    for (size_t i = 0; ok && i < group->count; i++) {
        const sft_state *sft = group->modules[i]->state;
        ok = !sft->mask || cb_option_map_set(&config->counts, group->modules[i]->layer->name, (double)places(sft));
    }
    return ok;
}

const cb_adapter_kind cb_kind_lt_sft = {
    .name = "lt_sft",
    .peft_type = "LT_SFT",
    .summary = "sparse differences at the places that moved furthest in a first half of the training: (W + D) x",
    .paper = "Ansell et al. 2022, arXiv:2110.07560",
    .options = sft_options,
    .config_size = sizeof(sft_config),
    .state_size = sizeof(sft_state),
    .module = {.name = "lt_sft", .forward = sft_forward, .adds = cb_adds_always, .delta = sft_delta, .delta_bias = sft_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV | 1u << CB_LAYER_EMBEDDING,
    .chooses = sft_chooses,
    .create = sft_create,
    .parameters = sft_parameters,
    .ready = sft_ready,
    .begin = sft_begin,
    .regulariser = sft_regulariser,
    .step = sft_step,
    .phase = sft_phase,
    .rewinds = sft_rewinds,
    .stored = sft_stored,
    .stored_config = sft_stored_config,
    .peft_fixed = sft_peft_fixed,
    .default_targets = sft_targets,
};
