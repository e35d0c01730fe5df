/* embed.c: many texts to vectors: in order of their lengths, so that those which go through the model together hardly need padding. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/embedding.h"
#include "cambium/files.h"

typedef struct tokens {
    int32_t *ids;
    size_t count, index; /* index: of the text */
    int32_t skipped;
} tokens;

typedef struct embedding_run {
    cb_embedder *e;
    const cb_embed_options *options;
    tokens *texts; /* longest first */
    size_t count;
    float *vectors;
} embedding_run;

static bool encode_all(embedding_run *run, const char *const *texts, const char *prompt)
{
    cb_encoding encoding = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < run->count; i++) {
        tokens *t = &run->texts[i];
        t->index = i;
        ok = cb_embedder_encode(run->e, prompt, texts[i], &encoding, &t->skipped);
        if (!ok)
            cb_error_prefix("text %zu", i + 1);
        t->count = encoding.count;
        ok = ok && (t->ids = cb_alloc(t->count * sizeof *t->ids));
        if (ok)
            memcpy(t->ids, encoding.ids, t->count * sizeof *t->ids);
    }
    cb_encoding_free(&encoding);
    return ok;
}

static int longest_first(const void *a_, const void *b_)
{
    const tokens *a = a_, *b = b_;
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static bool keep_vector(const embedding_run *run, const float *vector, size_t index)
{
    size_t dimension = (size_t)cb_embedder_dimension(run->e);
    float *out = run->vectors + index * dimension;
    double squares = 0;
    for (size_t i = 0; i < dimension; i++)
        squares += (double)vector[i] * vector[i];
    if (!isfinite(squares) && !cb_rehearsing())
        return cb_fail(CB_ERR_NUMERIC, "text %zu: its vector is not finite", index + 1) == CB_OK;
    double scale = run->options->normalize && squares > 0 ? 1 / sqrt(squares) : 1;
    for (size_t i = 0; i < dimension; i++)
        out[i] = (float)(vector[i] * scale);
    return true;
}

/* The texts from `first` on, the longest of which is the first. */
static bool embed_batch(const embedding_run *run, size_t first, size_t count)
{
    const tokens *texts = run->texts + first;
    int64_t length = (int64_t)texts[0].count, rows = (int64_t)count;
    cb_scope *scope = cb_scope_open();
    cb_tensor *ids = scope ? cb_zeros(CB_I32, rows, length) : NULL, *segments = ids ? cb_full(CB_I32, -1, rows, length) : NULL;
    cb_tensor *skipped = segments ? cb_empty(CB_I32, rows) : NULL, *y = NULL;
    for (int64_t b = 0; skipped && b < rows; b++) {
        memcpy((int32_t *)ids->data + b * length, texts[b].ids, texts[b].count * sizeof(int32_t));
        memset((int32_t *)segments->data + b * length, 0, texts[b].count * sizeof(int32_t));
        ((int32_t *)skipped->data)[b] = texts[b].skipped;
    }
    cb_no_grad
    {
        y = skipped ? cb_contiguous(cb_embedder_forward(run->e, ids, skipped, &(cb_context){.segments = segments})) : NULL;
    }
    bool ok = y;
    for (size_t b = 0; ok && b < count; b++)
        ok = keep_vector(run, (const float *)y->data + b * (size_t)y->shape[1], texts[b].index);
    if (scope)
        cb_scope_close(scope);
    return ok && cb_file_maps_check();
}

bool cb_embed(cb_embedder *e, const char *const *texts, size_t count, const cb_embed_options *options, float *vectors)
{
    const cb_embed_options defaults = {0}, *o = options ? options : &defaults;
    embedding_run run = {.e = e, .options = o, .count = count, .vectors = vectors, .texts = cb_calloc(count, sizeof *run.texts)};
    size_t batch = o->batch_size > 0 ? (size_t)o->batch_size : 32;
    bool ok = run.texts && encode_all(&run, texts, o->prompt ? o->prompt : cb_embedder_default_prompt(e));
    if (ok)
        qsort(run.texts, count, sizeof *run.texts, longest_first);
    size_t some = count; /* those that have tokens */
    for (; ok && some && !run.texts[some - 1].count; some--)
        memset(vectors + run.texts[some - 1].index * (size_t)cb_embedder_dimension(e), 0,
               (size_t)cb_embedder_dimension(e) * sizeof *vectors);
    for (size_t at = 0; ok && at < some; at += batch) {
        ok = embed_batch(&run, at, some - at < batch ? some - at : batch);
        if (ok && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted after %zu of %zu texts", at + batch < count ? at + batch : count, count) == CB_OK;
        if (ok && o->progress)
            o->progress(o->user, at + batch < count ? at + batch : count, count);
    }
    for (size_t i = 0; run.texts && i < count; i++)
        cb_free(run.texts[i].ids);
    cb_free(run.texts);
    return ok;
}
