/* active_train.c: what a round of LFTL learns: the labels so far, and the rest of the pool by them.  Lyu et al. 2024, arXiv:2407.18899.
 *
 * B labelled and B unlabelled rows go through the model together.  The loss is
 *
 *     CE(labelled) + w_I (mean entropy - entropy of the mean) + w_P mean H(softmax_j cos(z_i, M_j))
 *
 * z_i features of an unlabelled row, M_j the memory of a labelled one: an average with momentum, which each epoch begins by bringing near to the model as it is, so
 * that no row of it is zeros.  After each epoch of the unlabelled rows as many steps learn mixtures of labelled rows instead. */
#include <math.h>
#include <string.h>

#include "cambium/domains.h"
#include "cambium/formats.h"
#include "cambium/losses.h"
#include "training/active.h"

#define MEMORY "active.memory"
static const char *const term_names[ACTIVE_TERMS] = {"supervised", "information", "persistence", "mixup"};

static cb_active *active_of(const cb_trainee *what)
{
    return (cb_active *)(uintptr_t)what->objective;
}

/* ---- the memory ---- */

/* (1 - m) M + m z. */
static void remember(const cb_active *a, int64_t slot, const float *z)
{
    int64_t width = a->memory->shape[1];
    float m = (float)a->options.memory_momentum, *to = (float *)a->memory->data + slot * width;
    for (int64_t c = 0; c < width; c++)
        to[c] = (1 - m) * to[c] + m * z[c];
}

/* Of all labelled rows, as the model sees them in inference. */
static bool remember_all(const cb_active *a)
{
    cb_judged judged;
    if (!cb_judge_rows(a->inner->model, a->labelled, a->options.batch_size, 0, &judged))
        return false;
    bool fits = judged.width == a->memory->shape[1];
    for (int64_t i = 0; fits && i < judged.rows; i++)
        remember(a, a->slots[i], judged.features + i * judged.width);
    cb_judged_free(&judged);
    return fits || cb_fail(CB_ERR_UNSUPPORTED, "active: features are of another width than the last layer's input") == CB_OK;
}

/* Of those in a batch; of a row that stands there several times the last counts, as in an indexed assignment of torch. */
static bool remember_batch(cb_active *a, const int64_t *items, cb_tensor *features)
{
    int64_t rows = features->shape[0], width = features->shape[1];
    float *z = cb_alloc((size_t)(rows * width) * sizeof *z);
    bool ok = z && cb_read(features, CB_F32, z);
    memset(a->seen, 0, a->count * sizeof *a->seen);
    for (int64_t i = rows - 1; ok && i >= 0; i--) {
        int64_t slot = a->slots[items[i]];
        if (!a->seen[slot])
            remember(a, slot, z + i * width);
        a->seen[slot] = true;
    }
    cb_free(z);
    return ok;
}

/* What the round before remembered, for the rows that it had. */
static bool recall(const cb_active *a)
{
    char *path = a->round > 1 ? cb_active_path(a, a->round - 1, "/checkpoint.safetensors") : NULL;
    cb_safetensors *file = path && cb_is_file(path) ? cb_safetensors_open(path) : NULL;
    const cb_weight_entry *e = file ? cb_safetensors_find(file, "trainee." MEMORY) : NULL;
    if (e && e->dtype == CB_F32 && e->ndim == 2 && e->shape[0] == (int64_t)a->first && e->shape[1] == a->memory->shape[1])
        memcpy(a->memory->data, e->data, e->size);
    cb_safetensors_close(file);
    cb_free(path);
    return cb_ok();
}

/* ---- the loss ---- */

static double value_of(cb_tensor *loss)
{
    return loss && !cb_rehearsing() ? cb_item(loss) : 0;
}

/* Adds a term to a sum, by its weight. */
static cb_tensor *plus(cb_active *a, int term, cb_tensor *sum, cb_tensor *value)
{
    a->sums[term] += value_of(value);
    a->summed[term]++;
    value = cb_scale(value, a->weights[term]);
    return sum ? cb_add(sum, value) : value;
}

static const int64_t *items_of(const cb_context *ctx)
{
    return ctx->items->data;
}

static cb_tensor *labels_of(const cb_active *a, const int64_t *items, int64_t rows)
{
    cb_tensor *labels = cb_empty(CB_I32, rows);
    for (int64_t i = 0; labels && i < rows; i++)
        ((int32_t *)labels->data)[i] = a->targets[items[i]];
    return labels;
}

static cb_tensor *epoch_loss(cb_active *a, cb_tensor *ids, const cb_context *ctx)
{
    int64_t rows = ids->shape[0] / 2;
    cb_tensor *features, *logits = cb_cast(cb_model_judge(a->inner->model, ids, ctx, &features), CB_F32);
    features = cb_cast(features, CB_F32);
    if (!features || !logits)
        return NULL;
    cb_tensor *known = cb_train_rows(logits, 0, rows), *others = cb_train_rows(logits, rows, rows);
    cb_tensor *sum =
        plus(a, ACTIVE_SUPERVISED, NULL,
             cb_cross_entropy_with(known, labels_of(a, items_of(ctx), rows), (cb_linear_cross_entropy_options){.ignore_index = -100}));
    if (a->weights[ACTIVE_INFORMATION] > 0)
        sum = plus(a, ACTIVE_INFORMATION, sum, cb_neg(cb_prediction_information(others)));
    if (a->weights[ACTIVE_PERSISTENCE] > 0) {
        if (!cb_rehearsing() && !remember_batch(a, items_of(ctx), cb_detach(cb_train_rows(features, 0, rows))))
            return NULL;
        cb_tensor *anchors = cb_index_select(a->memory, 0, a->anchors);
        sum = plus(a, ACTIVE_PERSISTENCE, sum, cb_anchor_attention_loss(cb_train_rows(features, rows, rows), anchors));
    }
    return sum;
}

/* ---- mixtures ---- */

/* The larger share of a mixture, as in MixMatch. */
static double draw_share(cb_rng *rng, double alpha)
{
    double share = cb_image_mix_draw(&(cb_augment_options){.mixup_alpha = alpha}, rng, 1, 1).share;
    return fmax(share, 1 - share);
}

static cb_tensor *permutation(cb_rng *rng, int64_t rows)
{
    cb_tensor *order = cb_empty(CB_I64, rows);
    int64_t *to = order ? order->data : NULL;
    for (int64_t i = 0; to && i < rows; i++) {
        int64_t j = (int64_t)cb_rng_below(rng, (uint64_t)i + 1);
        to[i] = to[j];
        to[j] = i;
    }
    return order;
}

static cb_tensor *mix(cb_tensor *x, cb_tensor *order, double share)
{
    return cb_add(cb_scale(x, share), cb_scale(cb_index_select(x, 0, order), 1 - share));
}

static cb_tensor *one_hot(const cb_active *a, const int64_t *items, int64_t rows)
{
    cb_tensor *y = cb_zeros(CB_F32, rows, (int64_t)a->labels.count);
    for (int64_t i = 0; y && i < rows; i++)
        ((float *)y->data)[i * y->shape[1] + a->targets[items[i]]] = 1;
    return y;
}

/* Images are mixed as they are, texts by what the last layer reads.  Norms go by the mixtures, but their running statistics do not follow them. */
static cb_tensor *mixup_loss(cb_active *a, cb_tensor *ids, const cb_context *ctx)
{
    int64_t rows = ids->shape[0] / 2;
    cb_context own = cb_train_context_rows(ctx, 0, rows);
    own.statistics = a->moves ? CB_STATISTICS_BATCH : ctx->statistics;
    double share = draw_share(ctx->rng, a->options.mixup_alpha);
    cb_tensor *order = permutation(ctx->rng, rows), *x = cb_train_rows(ids, 0, rows), *logits, *features;
    if (ids->ndim == 4) {
        logits = cb_model_judge(a->inner->model, mix(x, order, share), &own, &features);
    } else {
        cb_model_judge(a->inner->model, x, &own, &features);
        logits = cb_model_judge_features(a->inner->model, mix(features, order, share), &own);
    }
    cb_tensor *y = mix(one_hot(a, items_of(ctx), rows), order, share);
    return plus(a, ACTIVE_MIXUP, NULL, cb_soft_cross_entropy(cb_cast(logits, CB_F32), y, 0, CB_REDUCE_MEAN));
}

static bool is_mixing(const cb_active *a)
{
    return a->weights[ACTIVE_MIXUP] > 0 && a->step % (2 * a->pass) >= a->pass;
}

/* `normalizer` is the rows of all batches of a step. */
static cb_tensor *loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    (void)targets; /* of rows without labels */
    cb_active *a = active_of(what);
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *total = (is_mixing(a) ? mixup_loss : epoch_loss)(a, ids, ctx);
    total = cb_ok() ? cb_scope_return(scope, cb_scale(total, (double)ids->shape[0] / normalizer)) : NULL;
    cb_scope_close(scope);
    return total;
}

/* ---- a run ---- */

static int64_t epoch_steps(const cb_active *a)
{
    return a->weights[ACTIVE_MIXUP] > 0 ? 2 * a->pass : a->pass;
}

static bool begin(const cb_trainee *what, int64_t steps)
{
    cb_active *a = active_of(what);
    if (steps < epoch_steps(a)) /* of less than an epoch, half is mixtures */
        a->pass = a->weights[ACTIVE_MIXUP] > 0 ? (steps + 1) / 2 : steps;
    return !a->inner->begin || a->inner->begin(a->inner, steps);
}

static bool prepare(const cb_trainee *what, int64_t step)
{
    cb_active *a = active_of(what);
    a->step = step;
    return step % epoch_steps(a) || cb_rehearsing() || a->weights[ACTIVE_PERSISTENCE] <= 0 || remember_all(a);
}

static void tell(const cb_trainee *what, cb_metrics *parts)
{
    cb_active *a = active_of(what);
    parts->count = 0;
    for (int i = 0; i < ACTIVE_TERMS; i++)
        if (a->weights[i] > 0) {
            parts->items[parts->count++] = (cb_metric){term_names[i], a->summed[i] ? a->sums[i] / (double)a->summed[i] : 0};
            a->sums[i] = 0;
            a->summed[i] = 0;
        }
}

static char *describe(const cb_trainee *what)
{
    const cb_active *a = what->objective;
    cb_active_options o = a->options;
    o.query = 0; /* and how many are asked: another matter */
    o.budget = o.rounds = 1;
    uint64_t labels = CB_HASH_START;
    for (int64_t i = 0; i < a->labelled_count; i++)
        labels = (labels ^ (uint64_t)a->slots[i] ^ (uint64_t)a->targets[i] << 32) * 0x100000001b3u;
    char *inner = a->inner->describe ? a->inner->describe(a->inner) : cb_strdup(""), *json = cb_options_to_json(cb_active_option_table, &o);
    char *text = inner && json ? cb_format("%s %s, round %lld of %s, answers #%016llx", inner, json, (long long)a->round, a->identity,
                                           (unsigned long long)labels)
                               : NULL;
    cb_free(inner);
    cb_free(json);
    return text;
}

/* ---- opening ---- */

static bool check_model(const cb_active *a, const cb_model *model)
{
    cb_objective objective = cb_objective_of(model), data = cb_dataset_objective(a->pool);
    const cb_layer *head = cb_model_head_layer(model);
    if (objective != data || !head || head->in_features <= 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found %s, expected %s as the pool's",
                       cb_model_directory(model) ? cb_model_directory(model) : "model", cb_objective_name(objective),
                       cb_objective_name(data)) == CB_OK;
    return true;
}

/* Rows with a label, and the others, of which there may be none: then all rows. */
static bool divide_rows(cb_active *a)
{
    int64_t *known = cb_alloc((a->count + 1) * sizeof *known), *others = cb_alloc(((size_t)a->rows + 1) * sizeof *others), rest = 0;
    bool *has_label = cb_calloc((size_t)a->rows + 1, sizeof *has_label);
    a->slots = cb_alloc((a->count + 1) * sizeof *a->slots);
    a->targets = cb_alloc((a->count + 1) * sizeof *a->targets);
    a->seen = cb_calloc(a->count + 1, sizeof *a->seen);
    bool ok = known && others && has_label && a->slots && a->targets && a->seen;
    a->labelled_count = 0;
    for (size_t i = 0; ok && i < a->count; i++)
        if (a->questions[i].label >= 0) {
            has_label[a->questions[i].row] = true;
            known[a->labelled_count] = a->questions[i].row;
            a->slots[a->labelled_count] = (int64_t)i;
            a->targets[a->labelled_count++] = a->questions[i].label;
        }
    if (ok && !a->labelled_count)
        ok = cb_fail(CB_ERR_ARGUMENT, "%s: found no label among %zu answers, expected one at least", a->work, a->count) == CB_OK;
    for (int64_t i = 0; ok && i < a->rows; i++)
        if (!has_label[i] || a->labelled_count == a->rows)
            others[rest++] = i;
    cb_dataset *parts[2] = {ok ? cb_dataset_pick(a->pool, known, a->labelled_count) : NULL,
                            ok ? cb_dataset_pick(a->pool, others, rest) : NULL};
    cb_free(known);
    cb_free(others);
    cb_free(has_label);
    if (!parts[0] || !parts[1]) {
        cb_dataset_free(parts[0]);
        cb_dataset_free(parts[1]);
        return false;
    }
    a->labelled = parts[0];
    a->pass = (rest + a->options.batch_size - 1) / a->options.batch_size;
    a->joined = cb_dataset_join(2, parts);
    return a->joined;
}

static bool open_memory(cb_active *a, int64_t width)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    a->memory = cb_keep(cb_zeros(CB_F32, (int64_t)a->count, width));
    a->anchors = cb_keep(cb_empty(CB_I64, a->labelled_count));
    if (a->anchors)
        memcpy(a->anchors->data, a->slots, (size_t)a->labelled_count * sizeof *a->slots);
    cb_scope_close(scope);
    return a->memory && a->anchors && recall(a);
}

typedef struct head_search {
    const cb_trainee *inner;
    double *rates;
} head_search;

static bool mark_head(void *user, cb_layer *layer)
{
    const head_search *s = user;
    for (int w = 0; layer->head && w < layer->weight_count; w++)
        for (size_t i = 0; i < s->inner->count; i++)
            if (s->inner->parameters[i].tensor == layer->weights[w].tensor)
                s->rates[i] = 1;
    return true;
}

static bool open_rates(cb_active *a)
{
    if (a->options.base_rate == 1)
        return true;
    a->rates = cb_alloc((a->inner->count + 1) * sizeof *a->rates);
    for (size_t i = 0; a->rates && i < a->inner->count; i++)
        a->rates[i] = a->options.base_rate;
    return a->rates && cb_layer_visit(cb_model_root(a->inner->model), mark_head, &(head_search){a->inner, a->rates});
}

static bool open_state(cb_active *a)
{
    size_t own = a->inner->state_count;
    a->state = cb_calloc(own + 1, sizeof *a->state);
    for (size_t i = 0; a->state && i < own; i++)
        a->state[i] = a->inner->state[i];
    if (a->state && a->memory)
        a->state[own] = (cb_named_tensor){MEMORY, a->memory};
    return a->state;
}

static bool stays(void *user, cb_layer *layer)
{
    (void)user;
    return !layer->moves;
}

bool cb_train_active(cb_trainee *what, const cb_trainee *inner, cb_active *a)
{
    if (cb_parallel_size() > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "active adaptation runs in one process, found %d", cb_parallel_size()) == CB_OK;
    if (a->stage != CB_ACTIVE_LEARN || a->inner)
        return cb_fail(CB_ERR_STATE, "active: found a round that is not to be learned now, expected one whose answers were read") == CB_OK;
    if (!check_model(a, inner->model))
        return false;
    a->inner = inner;
    a->moves = !cb_layer_visit(cb_model_root(inner->model), stays, NULL);
    bool remembers = a->weights[ACTIVE_PERSISTENCE] > 0;
    if (!divide_rows(a) || (remembers && !open_memory(a, cb_model_head_layer(inner->model)->in_features)) || !open_rates(a) ||
        !open_state(a) || !cb_active_write_labels(a)) {
        cb_active_forget(a);
        return false;
    }
    *what = *inner;
    what->rates = a->rates;
    what->state = a->state;
    what->state_count = inner->state_count + remembers;
    what->describe = describe;
    what->begin = begin;
    what->prepare = prepare;
    what->tell = tell;
    what->loss = loss;
    what->objective = a;
    return true;
}

cb_dataset *cb_active_rows(const cb_active *a)
{
    return a->joined;
}

int64_t cb_active_steps(const cb_active *a, double epochs)
{
    double passes = epochs > 0 ? ceil(epochs) : 1;
    return (int64_t)passes * epoch_steps(a);
}

void cb_active_forget(cb_active *a)
{
    cb_dataset_free(a->joined);
    cb_free(a->slots);
    cb_free(a->targets);
    cb_free(a->seen);
    cb_free(a->state);
    cb_free(a->rates);
    cb_release(a->memory);
    cb_release(a->anchors);
    a->joined = a->labelled = NULL;
    a->slots = NULL;
    a->targets = NULL;
    a->seen = NULL;
    a->state = NULL;
    a->rates = NULL;
    a->memory = a->anchors = NULL;
    a->inner = NULL;
    a->labelled_count = 0;
}
