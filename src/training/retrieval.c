/* retrieval.c: how well a sentence encoder finds documents: all of them are compared with all queries, a block of documents at a time. */
#include "cambium/retrieval.h"

#include "training/ranks.h"

enum { BLOCK = 4096, HITS = 101 }; /* one more than is looked at: a query's own document is left out */

typedef struct evaluation {
    cb_embedder *e;
    const cb_retrieval_data *data;
    const cb_retrieval_options *options;
    bool unit; /* vectors have length 1 */
    size_t done;
} evaluation;

static void on_progress(void *user, size_t done, size_t count)
{
    const evaluation *run = user;
    (void)count;
    if (run->options->progress)
        run->options->progress(run->options->user, run->done + done, run->data->documents.count);
}

static float *embed(evaluation *run, char *const *texts, size_t count, const char *prompt, bool documents)
{
    const cb_embed_options options = {.prompt = prompt,
                                      .batch_size = run->options->batch_size,
                                      .normalize = run->unit,
                                      .progress = documents ? on_progress : NULL,
                                      .user = run};
    float *vectors = cb_calloc(count, (size_t)cb_embedder_dimension(run->e) * sizeof *vectors);
    if (vectors && cb_embed(run->e, (const char *const *)texts, count, &options, vectors))
        return vectors;
    if (documents)
        cb_error_prefix("documents behind the first %zu", run->done);
    else
        cb_error_prefix("queries");
    cb_free(vectors);
    return NULL;
}

static bool add_documents(evaluation *run, cb_search *search)
{
    const cb_string_list *documents = &run->data->documents;
    const char *prompt = run->options->document_prompt ? run->options->document_prompt : cb_embedder_document_prompt(run->e);
    size_t most = cb_rehearsing() && documents->count > BLOCK ? BLOCK : documents->count; /* others are like the first */
    for (; run->done < most; run->done += BLOCK) {
        size_t n = most - run->done < BLOCK ? most - run->done : BLOCK;
        float *vectors = embed(run, documents->items + run->done, n, prompt, true);
        bool ok = vectors && cb_search_add(search, vectors, n);
        cb_free(vectors);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- measures ---- */

static bool measure(const cb_retrieval_data *data, cb_search *search, cb_retrieval_result *result)
{
    rank_sums sums = {0};
    size_t at = 0;
    bool ok = true;
    for (size_t q = 0; ok && q < data->queries.count; q++) {
        const cb_hit *hits;
        size_t first = at, found = cb_search_hits(search, q, &hits);
        while (at < data->judgement_count && data->judgements[at].query == q)
            at++;
        ok = cb_ranks_add(&sums, hits, found, data->own[q], data->judgements + first, at - first);
    }
    cb_ranks_means(&sums, true, &result->metrics);
    result->queries = sums.queries;
    result->documents = data->documents.count;
    cb_ranks_free(&sums);
    return ok;
}

bool cb_evaluate_retrieval(cb_embedder *e, const cb_retrieval_data *data, const cb_retrieval_options *options, cb_retrieval_result *result)
{
    const cb_retrieval_options defaults = {0};
    double begin = cb_now();
    evaluation run = {
        .e = e, .data = data, .options = options ? options : &defaults, .unit = cb_embedder_similarity(e) == CB_SIMILARITY_COSINE};
    const char *prompt = run.options->query_prompt ? run.options->query_prompt : cb_embedder_query_prompt(e);
    *result = (cb_retrieval_result){0};
    float *queries = embed(&run, data->queries.items, data->queries.count, prompt, false);
    cb_search *search = queries ? cb_search_open(queries, data->queries.count, (size_t)cb_embedder_dimension(e), HITS) : NULL;
    bool ok = search && add_documents(&run, search) && (cb_rehearsing() || measure(data, search, result));
    cb_search_free(search);
    cb_free(queries);
    result->seconds = cb_now() - begin;
    return ok;
}
