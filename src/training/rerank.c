/* rerank.c: how well a cross-encoder orders what a first stage found: each query is read together with each of its candidates. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "training/internal.h"
#include "training/ranks.h"

/* A candidate of the query at hand. */
typedef struct ranked {
    cb_hit hit;
    size_t place; /* in the first stage's order */
    cb_encoding encoding;
} ranked;

typedef struct reranking {
    cb_model *model;
    const cb_tokenizer *tokenizer;
    const cb_retrieval_data *data;
    const cb_reranking_options *options;
    ranked *list;
    cb_hit *hits;
    size_t most; /* room of both */
    rank_sums first, sums;
    size_t pairs;
} reranking;

/* ---- what the model says ---- */

static bool encode(reranking *r, size_t query, ranked *one)
{
    const char *text = r->data->queries.items[query], *document = r->data->documents.items[one->hit.index];
    const cb_encode_options options = {.add_special_tokens = true,
                                       .pair = document,
                                       .pair_length = strlen(document),
                                       .max_length = r->options->max_tokens > 0 ? (size_t)r->options->max_tokens : 0};
    return cb_tokenizer_encode_with(r->tokenizer, text, strlen(text), &options, &one->encoding) &&
           (one->encoding.count || cb_fail(CB_ERR_FORMAT, "query \"%.100s\" and its document \"%.100s\" have no token",
                                           r->data->query_ids.items[query], r->data->document_ids.items[one->hit.index]) == CB_OK);
}

static bool put_pairs(cb_batch *batch, const ranked *list, int64_t count)
{
    int64_t length = 1;
    for (int64_t i = 0; i < count; i++)
        length = (int64_t)list[i].encoding.count > length ? (int64_t)list[i].encoding.count : length;
    batch->ids = cb_zeros(CB_I32, count, length);
    batch->segments = cb_zeros(CB_I32, count, length);
    batch->positions = cb_zeros(CB_I32, count, length);
    batch->types = cb_zeros(CB_I32, count, length);
    bool typed = false;
    for (int64_t i = 0; cb_ok() && i < count * length; i++) {
        const cb_encoding *e = &list[i / length].encoding;
        size_t at = (size_t)(i % length);
        bool text = at < e->count;
        ((int32_t *)batch->ids->data)[i] = text ? e->ids[at] : 0;
        ((int32_t *)batch->segments->data)[i] = text ? 0 : -1;
        ((int32_t *)batch->positions->data)[i] = text ? (int32_t)at : 0;
        ((int32_t *)batch->types->data)[i] = text ? e->type_ids[at] : 0;
        typed |= text && e->type_ids[at];
    }
    batch->types = typed ? batch->types : NULL;
    return cb_ok();
}

/* Scores of some pairs. */
static bool judge(reranking *r, ranked *list, int64_t count)
{
    cb_scope *scope = cb_scope_open();
    cb_batch batch = {0}; /* the scope's */
    float *scores = cb_calloc((size_t)count, sizeof *scores);
    bool ok = scope && scores && put_pairs(&batch, list, count);
    const cb_context ctx = cb_train_context(&batch);
    cb_no_grad
    {
        cb_tensor *logits = ok ? cb_model_logits(r->model, batch.ids, &ctx) : NULL;
        ok = logits && (cb_rehearsing() || cb_read(logits, CB_F32, scores));
    }
    for (int64_t i = 0; ok && i < count; i++) {
        list[i].hit.score = scores[i];
        ok = isfinite(scores[i]) ||
             (cb_file_maps_check() && cb_fail(CB_ERR_NUMERIC, "ranking: the score of a pair is %g", (double)scores[i]) == CB_OK);
    }
    cb_free(scores);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* ---- a query ---- */

static int by_length(const void *a_, const void *b_)
{
    const ranked *a = a_, *b = b_;
    return (a->encoding.count > b->encoding.count) - (a->encoding.count < b->encoding.count);
}

static int best_first(const void *a_, const void *b_)
{
    const ranked *a = a_, *b = b_;
    if (a->hit.score != b->hit.score)
        return a->hit.score > b->hit.score ? -1 : 1;
    return (a->place > b->place) - (a->place < b->place);
}

static bool judge_all(reranking *r, size_t query, size_t count)
{
    int64_t each = r->options->batch_size > 0 ? r->options->batch_size : 32;
    for (size_t i = 0; i < count; i++)
        if (!encode(r, query, &r->list[i]))
            return false;
    qsort(r->list, count, sizeof *r->list, by_length);
    for (int64_t at = 0; at < (int64_t)count; at += each)
        if (!judge(r, r->list + at, (int64_t)count - at < each ? (int64_t)count - at : each))
            return false;
    qsort(r->list, count, sizeof *r->list, best_first);
    return true;
}

static bool rank_query(reranking *r, size_t query, const size_t *documents, size_t count, const cb_judgement *judgements, size_t judged)
{
    for (size_t i = 0; i < count; i++) {
        r->list[i].hit = (cb_hit){documents[i], 0};
        r->list[i].place = i;
        r->hits[i] = r->list[i].hit;
    }
    bool ok = cb_ranks_add(&r->first, r->hits, count, r->data->own[query], judgements, judged) && (!count || judge_all(r, query, count));
    for (size_t i = 0; ok && i < count; i++)
        r->hits[i] = r->list[i].hit;
    r->pairs += count;
    return ok && cb_ranks_add(&r->sums, r->hits, count, r->data->own[query], judgements, judged) &&
           (!r->options->ranked || cb_rehearsing() || r->options->ranked(r->options->user, query, r->hits, count));
}

/* ---- all of them ---- */

static size_t taken(const cb_candidates *c, size_t query, size_t most)
{
    size_t count = c->starts[query + 1] - c->starts[query];
    return most && count > most ? most : count;
}

static bool rank_queries(reranking *r, const cb_candidates *c)
{
    const cb_retrieval_data *d = r->data;
    size_t queries = cb_rehearsing() ? 1 : d->queries.count, at = 0;
    for (size_t q = 0; q < queries; q++) {
        size_t first = at;
        while (at < d->judgement_count && d->judgements[at].query == q)
            at++;
        if (cb_interrupted())
            return cb_fail(CB_ERR_INTERRUPTED, "interrupted after %zu queries", q) == CB_OK;
        if (at > first && /* nobody knows how well the others are ranked */
            !rank_query(r, q, c->documents + c->starts[q], taken(c, q, r->options->most), d->judgements + first, at - first))
            return false;
        if (r->options->progress)
            r->options->progress(r->options->user, q + 1, queries);
    }
    return true;
}

bool cb_evaluate_reranking(cb_model *model, const cb_tokenizer *tokenizer, const cb_retrieval_data *data, const cb_candidates *candidates,
                           const cb_reranking_options *options, cb_reranking_result *result)
{
    reranking r = {.model = model, .tokenizer = tokenizer, .data = data, .options = options};
    double begin = cb_now();
    *result = (cb_reranking_result){0};
    if (cb_model_labels(model) != 1)
        return cb_fail(CB_ERR_ARGUMENT, "ranking: the model gives %lld numbers of a text, expected one",
                       (long long)cb_model_labels(model)) == CB_OK;
    for (size_t q = 0; q < data->queries.count; q++) {
        size_t count = taken(candidates, q, options->most);
        r.most = count > r.most ? count : r.most;
    }
    r.list = cb_calloc(r.most + 1, sizeof *r.list);
    r.hits = cb_calloc(r.most + 1, sizeof *r.hits);
    bool ok = r.list && r.hits && rank_queries(&r, candidates);
    cb_ranks_means(&r.sums, true, &result->metrics);
    cb_ranks_means(&r.first, true, &result->first);
    result->queries = r.sums.queries;
    result->pairs = r.pairs;
    result->seconds = cb_now() - begin;
    for (size_t i = 0; r.list && i < r.most; i++)
        cb_encoding_free(&r.list[i].encoding);
    cb_free(r.list);
    cb_free(r.hits);
    cb_ranks_free(&r.first);
    cb_ranks_free(&r.sums);
    return ok;
}
