/* sentences_judge.c: a sentence encoder on held-out groups of texts: the loss, how far up each anchor finds its positives, or how the cosines of
 * pairs follow their scores. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "cambium/losses.h"
#include "training/ranks.h"
#include "training/sentences.h"

typedef struct judgement_run {
    const cb_sentence_training *t;
    cb_dataset *data;
    float *vectors; /* (rows, G, D), of length 1 where cosines count */
    int64_t rows, size, dimension;
} judgement_run;

/* Loss of a batch, whose vectors are kept; NaN on failure. */
static double judge_batch(judgement_run *run, const cb_batch *batch, int64_t first)
{
    double value = NAN;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return value;
    const cb_context ctx = cb_train_context(batch);
    cb_no_grad
    {
        cb_tensor *vectors = cb_group_vectors(run->t, batch->ids, batch->targets, &ctx);
        cb_tensor *mean = vectors ? cb_group_loss(run->t, vectors, batch->targets) : NULL;
        value = mean ? cb_item(mean) : NAN;
        if (mean && cb_embedder_similarity(run->t->embedder) == CB_SIMILARITY_COSINE)
            vectors = cb_normalize(vectors, 2);
        if (mean && vectors && !cb_rehearsing())
            cb_read(vectors, CB_F32, run->vectors + first * run->size * run->dimension);
    }
    cb_scope_close(scope);
    if (cb_ok() && cb_file_maps_check() && !isfinite(value) && !cb_rehearsing())
        cb_fail(CB_ERR_NUMERIC, "evaluation: the mean loss of %lld groups is %g", (long long)batch->predicted, value);
    return value;
}

/* A text of the held-out groups, by what it is. */
typedef struct held_text {
    uint64_t hash;
    int64_t row, member;
    size_t number; /* of its text among those that differ */
} held_text;

static int by_hash(const void *a_, const void *b_)
{
    const held_text *a = a_, *b = b_;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    if (a->row != b->row)
        return a->row < b->row ? -1 : 1;
    return (a->member > b->member) - (a->member < b->member);
}

/* Members [first, end) of all groups, sorted by text; *different of them differ. */
static held_text *list_texts(const judgement_run *run, int64_t first, int64_t end, size_t *count, size_t *different)
{
    *count = (size_t)(run->rows * (end - first));
    held_text *list = cb_calloc(*count, sizeof *list);
    size_t n = 0;
    for (int64_t row = 0; list && row < run->rows; row++)
        for (int64_t k = first; k < end; k++)
            list[n++] = (held_text){.hash = cb_dataset_text_hash(run->data, row, k), .row = row, .member = k};
    if (!list)
        return NULL;
    qsort(list, n, sizeof *list, by_hash);
    *different = 0;
    for (size_t i = 0; i < n; i++) {
        *different += i == 0 || list[i].hash != list[i - 1].hash;
        list[i].number = *different - 1;
    }
    return list;
}

/* The vectors of the texts that differ. */
static float *gather(const judgement_run *run, const held_text *list, size_t count, size_t different)
{
    size_t bytes = (size_t)run->dimension * sizeof(float);
    float *out = cb_alloc(different * bytes);
    for (size_t i = 0; out && i < count; i++)
        memcpy(out + list[i].number * (size_t)run->dimension, run->vectors + (list[i].row * run->size + list[i].member) * run->dimension,
               bytes);
    return out;
}

/* The number of each group's positive. */
static size_t *positives_of(const judgement_run *run, const held_text *documents, size_t count)
{
    size_t *numbers = cb_calloc((size_t)run->rows, sizeof *numbers);
    for (size_t i = 0; numbers && i < count; i++)
        if (documents[i].member == 1)
            numbers[documents[i].row] = documents[i].number;
    return numbers;
}

static bool add_query(rank_sums *sums, cb_search *search, const held_text *same, size_t count, const size_t *positives,
                      cb_judgement *judgements)
{
    const cb_hit *hits;
    size_t found = cb_search_hits(search, same->number, &hits), n = 0;
    for (size_t i = 0; i < count; i++) {
        bool known = false;
        for (size_t k = 0; k < n; k++)
            known |= judgements[k].document == positives[same[i].row];
        if (!known)
            judgements[n++] = (cb_judgement){same->number, positives[same[i].row], 1};
    }
    return cb_ranks_add(sums, hits, found, CB_NO_DOCUMENT, judgements, n);
}

static bool rank_all(const judgement_run *run, const held_text *anchors, size_t anchor_count, const size_t *positives, cb_search *search,
                     cb_metrics *metrics)
{
    rank_sums sums = {0};
    cb_judgement *judgements = cb_calloc((size_t)run->rows, sizeof *judgements);
    bool ok = judgements;
    for (size_t at = 0, end; ok && at < anchor_count; at = end) {
        for (end = at + 1; end < anchor_count && anchors[end].number == anchors[at].number;)
            end++;
        ok = add_query(&sums, search, anchors + at, end - at, positives, judgements);
    }
    cb_ranks_means(&sums, false, metrics);
    cb_ranks_free(&sums);
    cb_free(judgements);
    return ok;
}

/* Each anchor's positives among all positives and hard negatives. */
static bool rank_groups(const judgement_run *run, cb_metrics *metrics)
{
    enum { HITS = 10 };
    size_t anchor_count, document_count, queries = 0, documents = 0, dimension = (size_t)run->dimension;
    held_text *anchors = list_texts(run, 0, 1, &anchor_count, &queries),
              *texts = list_texts(run, 1, run->size, &document_count, &documents);
    float *query_vectors = anchors ? gather(run, anchors, anchor_count, queries) : NULL;
    float *document_vectors = texts ? gather(run, texts, document_count, documents) : NULL;
    size_t *positives = texts ? positives_of(run, texts, document_count) : NULL;
    cb_search *search = query_vectors && document_vectors && positives ? cb_search_open(query_vectors, queries, dimension, HITS) : NULL;
    bool ok =
        search && cb_search_add(search, document_vectors, documents) && rank_all(run, anchors, anchor_count, positives, search, metrics);
    cb_search_free(search);
    cb_free(positives);
    cb_free(document_vectors);
    cb_free(query_vectors);
    cb_free(texts);
    cb_free(anchors);
    return ok;
}

static double product(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* Correlations of the two sentences' cosines with the scores (rows). */
static bool correlate(const judgement_run *run, const double *scores, cb_metrics *metrics)
{
    double *cosines = cb_calloc((size_t)run->rows, sizeof *cosines);
    for (int64_t i = 0; cosines && i < run->rows; i++) {
        const float *a = run->vectors + 2 * i * run->dimension, *b = a + run->dimension;
        double lengths = sqrt(product(a, a, run->dimension) * product(b, b, run->dimension));
        cosines[i] = lengths > 0 ? product(a, b, run->dimension) / lengths : 0;
    }
    if (!cosines)
        return false;
    *metrics = (cb_metrics){.items = {{"spearman", cb_spearman(cosines, scores, (size_t)run->rows)},
                                      {"pearson", cb_pearson(cosines, scores, (size_t)run->rows)}},
                            .count = 2};
    cb_free(cosines);
    return cb_ok();
}

bool cb_evaluate_sentences(const cb_sentence_training *t, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches, .interruptible = true};
    return cb_train_validate_sentences(t, data, &how, result);
}

bool cb_train_validate_sentences(const cb_sentence_training *t, cb_dataset *data, const cb_validation *how, cb_evaluation *result)
{
    int64_t batch_size = how->batch_size, max_batches = how->max_batches;
    judgement_run run = {.t = t, .data = data, .size = cb_dataset_group(data)};
    double begin = cb_now(), sum = 0;
    int64_t batches = (cb_dataset_rows(data) + batch_size - 1) / batch_size;
    batches = max_batches && max_batches < batches ? max_batches : batches;
    run.rows = batches * batch_size < cb_dataset_rows(data) ? batches * batch_size : cb_dataset_rows(data);
    run.dimension = cb_embedder_dimension(run.t->embedder);
    run.vectors = cb_calloc((size_t)(run.rows * run.size), (size_t)run.dimension * sizeof *run.vectors);
    double *scores = cb_calloc((size_t)run.rows, sizeof *scores);
    cb_batch batch = {0};
    bool ok = run.vectors && scores;
    *result = (cb_evaluation){.rows = run.rows, .predicted = run.rows};
    for (int64_t i = 0; ok && i < (cb_rehearsing() ? 1 : batches) && cb_dataset_sequential(data, i, batch_size, &batch); i++) {
        sum += judge_batch(&run, &batch, i * batch_size) * (double)batch.predicted;
        for (int64_t k = 0; k < batch.predicted; k++)
            scores[i * batch_size + k] = cb_get(batch.targets, k * batch.targets->shape[1]);
        ok = cb_train_goes_on(how, i + 1);
    }
    ok = ok && cb_ok(); /* there was a batch */
    result->loss = sum / (double)run.rows;
    if (ok && !cb_rehearsing())
        ok = run.t->scored ? correlate(&run, scores, &result->metrics) : rank_groups(&run, &result->metrics);
    result->seconds = cb_now() - begin;
    cb_batch_free(&batch);
    cb_free(scores);
    cb_free(run.vectors);
    return ok;
}
