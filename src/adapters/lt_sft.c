/* lt_sft.c: sparse fine-tuning by lottery tickets, W + D with D zero but at the K places of all adapted layers that moved furthest.  Ansell et
 * al. 2022, arXiv:2110.07560.
 * A run has two phases.  In the first (full_share) every element of D is trained; then the K = density (numbers in all) with the largest |D|,
 * of all layers together, are chosen, D and what is trained whole go back to where they began, and only they are trained, by an optimiser that
 * begins anew: others get their zero back after each update, so momentum and decay do not move them.  The file holds places and values, so that adapters of one base are composed by adding them up. */
#include <math.h>
#include <string.h>

#include "adapters/dense.h"
#include "adapters/internal.h"

typedef struct sft_config {
    double density, full_share, l1_weight, dropout;
    int64_t total_step;
    cb_option_map counts; /* of a file: numbers of each layer, by its whole name */
} sft_config;

typedef struct sft_state {
    const sft_config *config;
    cb_tensor *change, *mask;           /* while it is made: D (out, in), and 1 where it is trained */
    cb_tensor *values, *indices, *flat; /* of a file: (K), (2, K) rows and columns, (K) row in + column */
    double dropout;
    int64_t count; /* K of a file; 0: it is being made */
} sft_state;

static const cb_option sft_options[] = {
    CB_OPT_FLOAT(sft_config, density, 0.08, 1e-9, 1, "share of all numbers of the adapted layers that are trained in the end"),
    CB_OPT_FLOAT(sft_config, full_share, 0.5, 0, 1, "share of the run in which all are trained, to choose these by how far they go"),
    CB_OPT_FLOAT(sft_config, l1_weight, 0, 0, 1e9, "weight of the mean distance from the base in the loss"),
    CB_OPT_INT(sft_config, total_step, 0, 0, 1e12, "updates of the schedule; 0: those of the run"),
    CB_OPT_FLOAT(sft_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_MAP(sft_config, counts, "numbers of each layer of a trained adapter; a run writes it"),
    CB_OPT_END};

static const char sft_peft_fixed[] = "{\"modules_to_save\": null}";

/* ---- making ---- */

static int64_t count_of(const sft_config *config, const cb_layer *layer)
{
    for (size_t i = 0; i < config->counts.count; i++)
        if (strcmp(config->counts.keys[i], layer->name) == 0)
            return config->counts.values[i] >= 1 ? (int64_t)config->counts.values[i] : -1;
    return config->counts.count ? -1 : 0;
}

static bool sft_create(cb_module *m, const void *config, const cb_layer *layer)
{
    sft_state *sft = m->state;
    sft->config = config;
    sft->dropout = sft->config->dropout;
    sft->count = count_of(config, layer);
    if (layer->in_features > INT32_MAX / layer->out_features)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found %lld by %lld numbers, expected less than 2^31", layer->name,
                       (long long)layer->out_features, (long long)layer->in_features) == CB_OK;
    return (sft->count >= 0 && sft->count <= layer->in_features * layer->out_features) ||
           cb_fail(CB_ERR_ARGUMENT, "counts: found no number from 1 to %lld for layer %s",
                   (long long)(layer->in_features * layer->out_features), layer->name) == CB_OK;
}

static int sft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    sft_state *sft = m->state;
    int64_t in = m->layer->in_features, out = m->layer->out_features, k = sft->count;
    if (k) {
        list[0] = (cb_adapter_parameter){"sft_values", &sft->values, 1, {k}, CB_ROLE_TRAINED};
        list[1] = (cb_adapter_parameter){"sft_indices", &sft->indices, 2, {2, k}, CB_ROLE_FROZEN | CB_ROLE_I32};
        list[2] = (cb_adapter_parameter){"flat", &sft->flat, 1, {k}, CB_ROLE_PRIVATE | CB_ROLE_I32};
        return 3;
    }
    list[0] = (cb_adapter_parameter){"sft_change", &sft->change, 2, {out, in}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    list[1] = (cb_adapter_parameter){"sft_mask", &sft->mask, 2, {out, in}, CB_ROLE_STATE};
    list[2] = (cb_adapter_parameter){"sft_values", NULL, 1, {1}, CB_ROLE_ECHO};
    list[3] = (cb_adapter_parameter){"sft_indices", NULL, 2, {2, 1}, CB_ROLE_ECHO | CB_ROLE_I32};
    return 4;
}

static bool flatten(const cb_module *m, const sft_state *sft)
{
    const int32_t *at = sft->indices->data;
    int32_t *flat = sft->flat->data;
    int64_t k = sft->count, in = m->layer->in_features, out = m->layer->out_features;
    for (int64_t i = 0; i < k; i++) {
        if (at[i] < 0 || at[i] >= out || at[k + i] < 0 || at[k + i] >= in)
            return cb_fail(CB_ERR_FORMAT, "layer %s: sft_indices: found row %d and column %d, expected less than %lld and %lld",
                           m->layer->name, at[i], at[k + i], (long long)out, (long long)in) == CB_OK;
        flat[i] = (int32_t)(at[i] * in + at[k + i]);
    }
    return true;
}

static bool sft_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    const sft_state *sft = m->state;
    return sft->count ? flatten(m, sft) : cb_copy_into(sft->mask, cb_ones(CB_F32, sft->mask->shape[0], sft->mask->shape[1]));
}

/* ---- forward ---- */

static cb_tensor *sft_change(const cb_module *m)
{
    const sft_state *sft = m->state;
    int64_t in = m->layer->in_features, out = m->layer->out_features;
    if (!sft->count)
        return sft->change;
    return cb_reshape(cb_scatter_add(cb_zeros(CB_F32, out * in), 0, sft->flat, sft->values), out, in);
}

static cb_tensor *sft_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const sft_state *sft = m->state;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    if (ctx->training && sft->dropout > 0)
        x = cb_dropout(x, sft->dropout, ctx->rng);
    return cb_dense_add(m, x, y, sft_change, m->strength);
}

static cb_tensor *sft_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, sft_change, m->strength);
}

/* ---- training ---- */

static bool sft_begin(void *config_, int64_t steps)
{
    sft_config *config = config_;
    int64_t total = config->total_step ? config->total_step : steps;
    if (!config->counts.count && (total < 2 || steps < 2))
        return cb_fail(CB_ERR_ARGUMENT,
                       "lt_sft: found %lld of %lld updates, expected 2 or more: one for all numbers, one for those it chooses",
                       (long long)steps, (long long)total) == CB_OK;
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
        numbers += (double)(group->modules[i]->layer->in_features * group->modules[i]->layer->out_features);
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

/* Marks what moved furthest, of all layers together; at a tie all of them. */
static bool choose(const cb_adapter_group *group, double density)
{
    int64_t n = 0, filled = 0;
    for (size_t i = 0; i < group->count; i++)
        n += ((const sft_state *)group->modules[i]->state)->change->count;
    float *sizes = cb_alloc((size_t)n * sizeof *sizes);
    for (size_t i = 0; sizes && i < group->count; i++) {
        const cb_tensor *change = ((const sft_state *)group->modules[i]->state)->change;
        for (int64_t k = 0; k < change->count; k++) {
            float size = fabsf(((const float *)change->data)[k]);
            sizes[filled++] = size == size ? size : 0; /* NaN has no place in an order */
        }
    }
    if (!sizes)
        return false;
    int64_t kept = (int64_t)(density * (double)n);
    float threshold = kth_largest(sizes, n, kept > 0 ? kept : 1);
    cb_free(sizes);
    for (size_t i = 0; i < group->count; i++) {
        const sft_state *sft = group->modules[i]->state;
        float *change = sft->change->data, *mask = sft->mask->data;
        for (int64_t k = 0; k < sft->change->count; k++) {
            mask[k] = fabsf(change[k]) >= threshold;
            change[k] = 0;
        }
    }
    return true;
}

/* Updates of the first phase: at least one, and one is left. */
static int64_t full_steps(const sft_config *config)
{
    int64_t full = (int64_t)(config->full_share * (double)config->total_step);
    full = full < config->total_step ? full : config->total_step - 1;
    return full > 1 ? full : 1;
}

/* One that is read from a file has its places already. */
static void sft_phase(const void *config_, int64_t step, int64_t *first, int64_t *end)
{
    const sft_config *config = config_;
    int64_t full = config->counts.count ? 0 : full_steps(config);
    *first = step < full ? 0 : full;
    *end = step < full ? full : config->total_step;
}

static bool sft_step(const cb_adapter_group *group, const cb_adapter_step *step)
{
    const sft_config *config = group->config;
    int64_t full = full_steps(config);
    if (config->counts.count)
        return true;
    if (step->step + 1 == full)
        return choose(group, config->density);
    for (size_t i = 0; step->step >= full && i < group->count; i++) {
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
    int64_t count = places(sft), n = 0, in = m->layer->in_features;
    cb_tensor *stored = values ? cb_zeros(CB_F32, count) : cb_zeros(CB_I32, 2, count);
    const float *change = sft->change->data, *mask = sft->mask->data;
    for (int64_t k = 0; stored && k < sft->mask->count; k++) {
        if (mask[k] == 0)
            continue;
        if (values) {
            ((float *)stored->data)[n] = change[k];
        } else {
            ((int32_t *)stored->data)[n] = (int32_t)(k / in);
            ((int32_t *)stored->data)[count + n] = (int32_t)(k % in);
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
    .summary = "sparse differences at the places that moved furthest in a first half of the training: W x + D x",
    .paper = "Ansell et al. 2022, arXiv:2110.07560",
    .options = sft_options,
    .config_size = sizeof(sft_config),
    .state_size = sizeof(sft_state),
    .module = {.name = "lt_sft", .forward = sft_forward, .adds = cb_adds_always, .delta = sft_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = sft_create,
    .parameters = sft_parameters,
    .ready = sft_ready,
    .begin = sft_begin,
    .regulariser = sft_regulariser,
    .step = sft_step,
    .phase = sft_phase,
    .stored = sft_stored,
    .stored_config = sft_stored_config,
    .peft_fixed = sft_peft_fixed,
};
