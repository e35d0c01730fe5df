/* ranking.c: learning and judging a cross-encoder: a model that reads a query together with a document and says how relevant it is.
 *
 * Shape letters: N groups of G documents of one query each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "cambium/losses.h"
#include "training/parallel.h"
#include "training/ranks.h"

static const char *const loss_names[] = {"bce", "listwise", NULL};

#define OPT cb_ranking_options
const cb_option cb_ranking_option_table[] = {
    CB_OPT_ENUM(OPT, ranking_loss, CB_RANKING_BCE, loss_names,
                "each document by itself (bce: binary cross-entropy), or which of a group is the positive one (listwise: softmax "
                "cross-entropy over the group)"),
    CB_OPT_FLOAT(OPT, positive_weight, 1, 1e-6, 1e6, "bce: factor of what relevant documents count"), CB_OPT_END};
#undef OPT

static bool is_relevant(float label)
{
    const float half = 0.5F;
    return label >= half;
}

/* ---- the loss ---- */

/* Logits (N, G) of ids (N G, T), in f32. */
static cb_tensor *group_logits(const cb_ranking_training *t, cb_tensor *ids, const cb_tensor *targets, const cb_context *ctx)
{
    cb_tensor *logits = cb_model_logits(t->model, ids, ctx);
    return logits ? cb_cast(cb_reshape(logits, targets->shape[0], targets->shape[1]), CB_F32) : NULL;
}

/* Mean over the groups; of targets (N, G) the first is listwise's. */
static cb_tensor *group_loss(const cb_ranking_training *t, cb_tensor *logits, cb_tensor *targets)
{
    if (t->options.ranking_loss == CB_RANKING_BCE)
        return cb_bce_with_logits_loss(logits, targets, t->options.positive_weight > 0 ? t->options.positive_weight : 1, CB_REDUCE_MEAN);
    if (targets->shape[1] < 2) {
        cb_fail(CB_ERR_ARGUMENT, "ranking_loss: listwise chooses among documents, and the data has one for each query; expected negatives");
        return NULL;
    }
    return cb_cross_entropy_with(logits, cb_zeros(CB_I32, targets->shape[0]), (cb_linear_cross_entropy_options){.ignore_index = -100});
}

static cb_tensor *loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    const cb_ranking_training *t = what->objective;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *logits = group_logits(t, ids, targets, ctx), *mean = logits ? group_loss(t, logits, targets) : NULL;
    double groups = (double)targets->shape[0];
    mean = cb_scope_return(scope, mean ? cb_scale(mean, groups / (normalizer > 0 ? normalizer : groups)) : NULL);
    cb_scope_close(scope);
    return mean;
}

/* ---- as something to train ---- */

static bool judge(const cb_ranking_training *t, cb_dataset *data, const cb_validation *how, cb_evaluation *result);

static bool evaluate(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    bool ok = judge(what->objective, data, &(cb_validation){.batch_size = batch_size, .max_batches = max_batches}, result);
    cb_predictions_free(&result->predictions);
    return ok;
}

static bool save(const cb_trainee *what, const char *directory)
{
    const cb_ranking_training *t = what->objective;
    const cb_adapter_labels labels = {.objective = CB_OBJECTIVE_RANKING, .names = *cb_model_label_names(t->model)};
    return t->save(what, directory) && cb_adapter_labels_save(&labels, directory);
}

static char *describe(const cb_trainee *what)
{
    const cb_ranking_training *t = what->objective;
    char *adapter = t->describe ? t->describe(what) : NULL;
    char *text = cb_ok() ? cb_format("%s, ranking %s, positives times %.9g", adapter ? adapter : "", loss_names[t->options.ranking_loss],
                                     t->options.positive_weight)
                         : NULL;
    cb_free(adapter);
    return text;
}

bool cb_train_ranking(cb_trainee *what, cb_ranking_training *training)
{
    if (cb_parallel_size() > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "rankings are learned by one process, found %d", cb_parallel_size()) == CB_OK;
    if (cb_model_labels(training->model) != 1)
        return cb_fail(CB_ERR_ARGUMENT, "ranking: the model gives %lld numbers of a text, expected one",
                       (long long)cb_model_labels(training->model)) == CB_OK;
    training->save = what->save;
    training->describe = what->describe;
    what->loss = loss;
    what->evaluate = evaluate;
    what->save = save;
    what->describe = describe;
    what->objective = training;
    return true;
}

/* ---- held-out pairs ---- */

typedef struct held_pair {
    uint64_t query, document;
    float score, label;
} held_pair;

/* By query, then best first, of equal scores the irrelevant ones. */
static int by_rank(const void *a_, const void *b_)
{
    const held_pair *a = a_, *b = b_;
    if (a->query != b->query)
        return a->query < b->query ? -1 : 1;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->label > b->label) - (a->label < b->label);
}

/* Those of one query are in order; of equal documents the first stands before the others. */
static int by_document(const void *x, const void *y)
{
    const held_pair *const *a = x, *const *b = y;
    if ((*a)->document != (*b)->document)
        return (*a)->document < (*b)->document ? -1 : 1;
    return (*a > *b) - (*a < *b);
}

/* first[i]: pair i is the first of its document. */
static bool find_firsts(const held_pair *pairs, size_t count, bool *first)
{
    const held_pair **order = cb_alloc(count * sizeof *order);
    for (size_t i = 0; order && i < count; i++)
        order[i] = &pairs[i];
    if (order)
        qsort(order, count, sizeof *order, by_document);
    for (size_t i = 0; order && i < count; i++)
        first[order[i] - pairs] = !i || order[i]->document != order[i - 1]->document;
    cb_free(order);
    return order;
}

/* One query's pairs, each document once: where its groups disagree, the one that comes first counts. */
static bool add_query(rank_sums *sums, const held_pair *pairs, size_t count, cb_hit *hits, cb_judgement *judgements)
{
    size_t n = 0, relevant = 0;
    bool *first = cb_alloc(count * sizeof *first);
    if (!first || !find_firsts(pairs, count, first)) {
        cb_free(first);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        if (first[i]) {
            hits[n] = (cb_hit){n, pairs[i].score};
            judgements[n] = (cb_judgement){0, n, is_relevant(pairs[i].label)};
            relevant += is_relevant(pairs[i].label);
            n++;
        }
    cb_free(first);
    return !relevant || relevant == n || cb_ranks_add(sums, hits, n, CB_NO_DOCUMENT, judgements, n);
}

static bool rank_queries(held_pair *pairs, size_t count, cb_metrics *metrics)
{
    rank_sums sums = {0};
    cb_hit *hits = cb_calloc(count, sizeof *hits);
    cb_judgement *judgements = cb_calloc(count, sizeof *judgements);
    bool ok = hits && judgements;
    qsort(pairs, count, sizeof *pairs, by_rank);
    for (size_t at = 0, end; ok && at < count; at = end) {
        for (end = at + 1; end < count && pairs[end].query == pairs[at].query;)
            end++;
        ok = add_query(&sums, pairs + at, end - at, hits, judgements);
    }
    double n = (double)sums.queries;
    if (ok && sums.queries)
        *metrics = (cb_metrics){.items = {{"ndcg_at_10", sums.ndcg10 / n}, {"mrr_at_10", sums.mrr10 / n}, {"map_at_100", sums.map100 / n}},
                                .count = 3};
    cb_ranks_free(&sums);
    cb_free(hits);
    cb_free(judgements);
    return ok;
}

static bool add_precision(const held_pair *pairs, size_t count, cb_metrics *metrics)
{
    float *scores = cb_alloc(count * sizeof *scores);
    uint8_t *relevant = cb_alloc(count);
    for (size_t i = 0; scores && relevant && i < count; i++) {
        scores[i] = pairs[i].score;
        relevant[i] = is_relevant(pairs[i].label);
    }
    if (scores && relevant)
        metrics->items[metrics->count++] = (cb_metric){"average_precision", cb_average_precision(scores, relevant, count)};
    cb_free(scores);
    cb_free(relevant);
    return cb_ok();
}

/* Loss of a batch, whose pairs are kept; NaN on failure. */
static double judge_batch(const cb_ranking_training *t, const cb_dataset *data, const cb_batch *batch, int64_t first, float *scores,
                          held_pair *pairs)
{
    double value = NAN;
    int64_t size = batch->targets->shape[1], count = batch->targets->count;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return value;
    const cb_context ctx = cb_train_context(batch);
    cb_no_grad
    {
        cb_tensor *logits = group_logits(t, batch->ids, batch->targets, &ctx);
        cb_tensor *mean = logits ? group_loss(t, logits, batch->targets) : NULL;
        value = mean ? cb_item(mean) : NAN;
        if (mean && !cb_rehearsing())
            cb_read(logits, CB_F32, scores + first * size);
    }
    for (int64_t i = 0; cb_ok() && i < count; i++)
        pairs[first * size + i] = (held_pair){.query = cb_dataset_query_hash(data, first + i / size),
                                              .document = cb_dataset_text_hash(data, first + i / size, i % size),
                                              .score = scores[first * size + i],
                                              .label = ((const float *)batch->targets->data)[i]};
    cb_scope_close(scope);
    if (cb_ok() && cb_file_maps_check() && !isfinite(value) && !cb_rehearsing())
        cb_fail(CB_ERR_NUMERIC, "evaluation: the mean loss of %lld groups is %g", (long long)batch->predicted, value);
    return value;
}

bool cb_evaluate_ranking(const cb_ranking_training *t, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches, .interruptible = true};
    return judge(t, data, &how, result);
}

/* In training an interruption waits until it is through. */
static bool judge(const cb_ranking_training *t, cb_dataset *data, const cb_validation *how, cb_evaluation *result)
{
    int64_t batch_size = how->batch_size, max_batches = how->max_batches;
    double begin = cb_now(), sum = 0;
    int64_t rows = cb_dataset_rows(data), size = cb_dataset_group(data), batches = (rows + batch_size - 1) / batch_size;
    batches = max_batches && max_batches < batches ? max_batches : batches;
    rows = batches * batch_size < rows ? batches * batch_size : rows;
    *result = (cb_evaluation){.rows = rows, .predicted = rows};
    result->predictions = (cb_predictions){.objective = CB_OBJECTIVE_RANKING, .rows = rows, .labels = size};
    float *scores = result->predictions.scores = cb_calloc((size_t)(rows * size), sizeof *scores);
    held_pair *pairs = cb_calloc((size_t)(rows * size), sizeof *pairs);
    cb_batch batch = {0};
    bool ok = scores && pairs;
    for (int64_t i = 0; ok && i < (cb_rehearsing() ? 1 : batches) && cb_dataset_sequential(data, i, batch_size, &batch); i++) {
        sum += judge_batch(t, data, &batch, i * batch_size, scores, pairs) * (double)batch.predicted;
        ok = cb_train_goes_on(how, i + 1);
    }
    ok = ok && cb_ok(); /* there was a batch */
    result->loss = sum / (double)rows;
    bool labelled = size == 1;
    if (ok && !cb_rehearsing())
        ok = rank_queries(pairs, (size_t)(rows * size), &result->metrics) &&
             ((!labelled && result->metrics.count) || add_precision(pairs, (size_t)(rows * size), &result->metrics));
    result->seconds = cb_now() - begin;
    cb_batch_free(&batch);
    cb_free(pairs);
    return ok;
}
