/* pseudo_perplexity.c: how well a masked language model knows sentences: each token in turn is hidden and predicted from all the others (Wang and
 * Cho 2019, arXiv:1902.04094; Salazar et al. 2020, arXiv:1910.14659).  A sentence of n tokens is n rows, which go through the model in batches
 * beside those of sentences about as long.  Shape letters: B rows, T tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "cambium/formats.h"
#include "cambium/training.h"

/* ---- sentences ---- */

static bool add_sentence(const cb_tokenizer *tokenizer, const cb_record_text *r, size_t most, cb_encodings *out)
{
    if (!r->text)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found a prompt or a conversation, expected a text", r->path, (long long)r->line) == CB_OK;
    size_t before = out->capacity;
    if (!cb_grow(&out->items, &out->capacity, out->count + 1, sizeof *out->items))
        return false;
    memset(out->items + before, 0, (out->capacity - before) * sizeof *out->items);
    return cb_tokenizer_encode_with(tokenizer, r->text, r->text_length,
                                    &(cb_encode_options){.add_special_tokens = true, .max_length = most}, &out->items[out->count++]);
}

bool cb_encode_sentences(const cb_tokenizer *tokenizer, const cb_string_list *files, int64_t max_records, int64_t max_length,
                         cb_encodings *out)
{
    cb_record_text record;
    cb_records *records = cb_records_open(files, &(cb_records_options){.lines = true, .max_records = max_records});
    bool ok = records;
    while (ok && cb_records_next(records, &record))
        ok = add_sentence(tokenizer, &record, (size_t)max_length, out);
    cb_records_close(records);
    return ok && cb_ok();
}

/* ---- rows ---- */

/* A sentence with one of its tokens hidden. */
typedef struct row {
    const cb_encoding *sentence;
    size_t index, place;
} row;

typedef struct measure {
    cb_model *model;
    int32_t mask;
    double *sums; /* of the log-probabilities of each sentence's tokens */
} measure;

static double log_probability(const float *logits, int64_t count, int32_t id)
{
    float most = logits[0];
    for (int64_t i = 1; i < count; i++)
        most = logits[i] > most ? logits[i] : most;
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - (double)most);
    return (double)logits[id] - (double)most - log(sum);
}

static bool add_scores(const measure *m, const row *list, size_t count, const cb_tensor *logits)
{
    for (size_t i = 0; i < count; i++) {
        int64_t vocabulary = logits->shape[1];
        double score =
            log_probability((const float *)logits->data + (int64_t)i * vocabulary, vocabulary, list[i].sentence->ids[list[i].place]);
        if (!isfinite(score))
            return cb_fail(CB_ERR_NUMERIC, "sentence %zu: the model's logits are no finite numbers", list[i].index + 1) == CB_OK;
        m->sums[list[i].index] += score;
    }
    return true;
}

/* Rows of about the same length, padded at their ends. */
static bool score_rows(const measure *m, const row *list, size_t count)
{
    size_t longest = 0;
    bool typed = false;
    for (size_t i = 0; i < count; i++)
        longest = list[i].sentence->count > longest ? list[i].sentence->count : longest;
    int64_t rows = (int64_t)count, length = (int64_t)longest;
    cb_tensor *ids = cb_zeros(CB_I32, rows, length), *types = cb_zeros(CB_I32, rows, length), *segments = cb_zeros(CB_I32, rows, length),
              *places = cb_empty(CB_I32, rows);
    if (!cb_ok())
        return false;
    for (int64_t i = 0; i < rows; i++) {
        const cb_encoding *e = list[i].sentence;
        int32_t *row_ids = (int32_t *)ids->data + i * length, *row_types = (int32_t *)types->data + i * length;
        memcpy(row_ids, e->ids, e->count * sizeof *e->ids);
        row_ids[list[i].place] = m->mask;
        for (size_t t = 0; t < e->count; t++) {
            row_types[t] = e->type_ids ? e->type_ids[t] : 0;
            typed |= row_types[t] != 0;
        }
        for (size_t t = e->count; t < longest; t++)
            ((int32_t *)segments->data)[i * length + (int64_t)t] = -1;
        ((int32_t *)places->data)[i] = (int32_t)(i * length + (int64_t)list[i].place);
    }
    cb_context ctx = {.segments = segments, .types = typed ? types : NULL};
    cb_tensor *hidden = cb_model_hidden(m->model, ids, &ctx);
    hidden = hidden ? cb_reshape(hidden, -1, cb_model_width(m->model)) : NULL;
    cb_tensor *logits = cb_cast(cb_model_head(m->model, cb_index_select(hidden, 0, places), &(cb_context){0}), CB_F32);
    return logits && add_scores(m, list, count, logits);
}

static bool run_rows(const measure *m, const row *list, size_t count)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope;
    if (ok)
        cb_no_grad ok = score_rows(m, list, count);
    if (scope)
        cb_scope_close(scope);
    if (ok && cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "interrupted in the evaluation of sentences") == CB_OK;
    return ok && cb_file_maps_check();
}

static int by_length(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->sentence->count != y->sentence->count)
        return x->sentence->count < y->sentence->count ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Every token of every sentence, those of short sentences first. */
static bool run_all(const measure *m, const cb_encoding *sentences, size_t n, size_t batch_size)
{
    row *order = cb_alloc((n + 1) * sizeof *order), *batch = cb_alloc(batch_size * sizeof *batch);
    size_t filled = 0;
    bool ok = order && batch;
    for (size_t i = 0; ok && i < n; i++)
        order[i] = (row){&sentences[i], i, 0};
    if (ok)
        qsort(order, n, sizeof *order, by_length);
    for (size_t i = 0; ok && i < n; i++)
        for (size_t t = 0; ok && t < order[i].sentence->count; t++) {
            batch[filled++] = (row){order[i].sentence, order[i].index, t};
            if (filled < batch_size)
                continue;
            ok = run_rows(m, batch, filled);
            filled = 0;
            if (cb_rehearsing()) /* one batch says it all */
                i = n - 1;
        }
    ok = ok && (!filled || run_rows(m, batch, filled));
    cb_free(order);
    cb_free(batch);
    return ok;
}

/* ---- the measure ---- */

static bool check(const cb_model *model, int32_t mask, const cb_encoding *sentences, size_t n, int64_t batch_size)
{
    if (cb_model_head_kind(model) != CB_HEAD_MASKED_LM)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: predicts no masked tokens, expected a model whose architectures ends with ForMaskedLM",
                       cb_model_directory(model)) == CB_OK;
    if (mask < 0 || mask >= cb_model_vocab_size(model))
        return cb_fail(CB_ERR_ARGUMENT, "pseudo-perplexity: found the mask token %d, expected one of the model's vocabulary", (int)mask) ==
               CB_OK;
    if (!n || batch_size < 1)
        return cb_fail(CB_ERR_ARGUMENT, "pseudo-perplexity: found %zu sentences in batches of %lld, expected at least one in each", n,
                       (long long)batch_size) == CB_OK;
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < sentences[i].count || !t; t++)
            if (!sentences[i].count || sentences[i].ids[t] < 0 || sentences[i].ids[t] >= cb_model_vocab_size(model))
                return cb_fail(CB_ERR_ARGUMENT, "sentence %zu: expected tokens of the model's vocabulary, at least one", i + 1) == CB_OK;
    return true;
}

static void summarise(const double *sums, const cb_encoding *sentences, size_t n, double *each, cb_pseudo_perplexity *result)
{
    double total = 0, mean = 0;
    for (size_t i = 0; i < n; i++) {
        double own = exp(-sums[i] / (double)sentences[i].count);
        if (each)
            each[i] = own;
        mean += own / (double)n;
        total += sums[i];
        result->tokens += (int64_t)sentences[i].count;
    }
    result->perplexity = mean;
    result->corpus_perplexity = exp(-total / (double)result->tokens);
    result->sentences = (int64_t)n;
}

bool cb_evaluate_pseudo_perplexity(cb_model *model, int32_t mask, const cb_encoding *sentences, size_t n, int64_t batch_size, double *each,
                                   cb_pseudo_perplexity *result)
{
    *result = (cb_pseudo_perplexity){0};
    if (!check(model, mask, sentences, n, batch_size))
        return false;
    double begin = cb_now();
    measure m = {.model = model, .mask = mask, .sums = cb_calloc(n, sizeof *m.sums)};
    bool ok = m.sums && run_all(&m, sentences, n, (size_t)batch_size);
    if (ok)
        summarise(m.sums, sentences, n, each, result);
    result->seconds = cb_now() - begin;
    cb_free(m.sums);
    return ok;
}
