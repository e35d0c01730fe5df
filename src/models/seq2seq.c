/* seq2seq.c: texts out of a model with an encoder and a decoder.
 *
 * The prompts are sources: they go through the encoder once, side by side, and every text begins with the same token.  So texts that run together
 * are always equally long, and one cache of as many rows holds all their keys and values; rows that have ended go on idle until the last has. */
#include <string.h>

#include "core/rehearsal.h"
#include "models/generation.h"

typedef struct texts {
    cb_model *model;
    const cb_prompt_ids *prompts;
    size_t count;
    cb_run *runs;
    size_t opened;
    cb_cache *cache;
    cb_context ctx;
    cb_generation *out;
} texts;

/* The prompts as one batch, those that are shorter with padding behind them. */
static bool set_source(texts *t)
{
    size_t longest = 0;
    bool padded = false;
    for (size_t i = 0; i < t->count; i++)
        longest = t->prompts[i].count > longest ? t->prompts[i].count : longest;
    cb_tensor *ids = cb_zeros(CB_I32, (int64_t)t->count, (int64_t)longest),
              *segments = cb_zeros(CB_I32, (int64_t)t->count, (int64_t)longest);
    for (size_t i = 0; ids && segments && i < t->count; i++) {
        memcpy((int32_t *)ids->data + i * longest, t->prompts[i].ids, t->prompts[i].count * sizeof(int32_t));
        for (size_t k = t->prompts[i].count; k < longest; k++)
            ((int32_t *)segments->data)[i * longest + k] = -1;
        padded |= t->prompts[i].count < longest;
    }
    t->ctx.source = ids;
    t->ctx.source_segments = padded ? segments : NULL;
    return ids && segments;
}

static bool open_texts(texts *t, const cb_tokenizer *tokenizer, const cb_generate_options *options)
{
    int32_t start = t->model->config.decoder_start;
    int64_t most = 1;
    t->runs = cb_calloc(t->count, sizeof *t->runs);
    for (; t->runs && t->opened < t->count; t->opened++) {
        cb_run *r = &t->runs[t->opened];
        if (!cb_run_open(r, t->model, tokenizer, t->prompts[t->opened], options, &t->out[t->opened]) ||
            !cb_sampler_see(r->sampler, &start, 1)) {
            cb_run_close(r);
            return false;
        }
        most = r->most > most ? r->most : most;
    }
    t->cache = t->runs ? cb_cache_new(t->model, (int64_t)t->count, most < 256 ? most : 256) : NULL;
    return t->cache && set_source(t) && cb_prompts_tasks(t->prompts, t->count, &t->ctx.tasks) &&
           cb_prompts_conditions(t->prompts, t->count, &t->ctx.conditions);
}

static void close_texts(texts *t)
{
    for (size_t i = 0; i < t->opened; i++)
        cb_run_close(&t->runs[i]);
    cb_cache_free(t->cache);
    cb_free(t->runs);
}

static bool any_goes_on(const texts *t)
{
    for (size_t i = 0; i < t->count; i++)
        if (cb_run_goes_on(&t->runs[i]))
            return true;
    return false;
}

/* What the last pass gave, or what texts begin with. */
static cb_tensor *last_tokens(const texts *t)
{
    cb_tensor *ids = cb_empty(CB_I32, (int64_t)t->count, 1);
    for (size_t i = 0; ids && i < t->count; i++) {
        const cb_generation *g = &t->out[i];
        ((int32_t *)ids->data)[i] = g->count ? g->ids[g->count - 1] : t->model->config.decoder_start;
    }
    return ids;
}

/* The next token of every text that goes on; those that end with it are finished. */
static bool step(texts *t)
{
    if (cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "generation was interrupted") == CB_OK;
    cb_scope *scope = cb_scope_open();
    cb_context ctx = t->ctx;
    if (cb_cache_length(t->cache))
        ctx.source = ctx.source_segments = NULL;
    ctx.cache = t->cache;
    cb_tensor *logits = scope ? cb_model_logits(t->model, last_tokens(t), &ctx) : NULL; /* (N, 1, V) */
    bool ok = logits;
    for (size_t i = 0; ok && i < t->count; i++) {
        cb_run *r = &t->runs[i];
        if (!cb_run_goes_on(r))
            continue;
        ok = cb_run_take(r, cb_contiguous(cb_slice(logits, 0, (int64_t)i, (int64_t)i + 1, 1))) && (cb_run_goes_on(r) || cb_run_finish(r));
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* In a rehearsal: leaves steps out, but for one of each size that memory could have (memory.c). */
static bool leave_out(texts *t)
{
    enum { SIZES = 8 }; /* of an octave */
    int64_t n = cb_cache_length(t->cache) / (2 * SIZES);
    for (size_t i = 0; i < t->count; i++) {
        int64_t left = t->runs[i].most - (int64_t)t->out[i].count - 1;
        n = cb_run_goes_on(&t->runs[i]) && left < n ? left : n;
    }
    n = n > 0 ? cb_cache_skip(t->cache, n) : 0;
    for (size_t i = 0; n && i < t->count; i++)
        if (cb_run_goes_on(&t->runs[i]) && !cb_run_skip(&t->runs[i], (size_t)n))
            return false;
    return true;
}

static bool generate(texts *t)
{
    double start = cb_now();
    bool ok = step(t);
    double first = cb_now();
    while (ok && any_goes_on(t))
        ok = (!cb_rehearsing() || leave_out(t)) && step(t);
    for (size_t i = 0; i < t->count; i++) {
        t->out[i].prompt_seconds = first - start;
        t->out[i].generate_seconds = cb_now() - first;
    }
    return ok;
}

bool cb_seq2seq_generate(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                         cb_tensor *weights, const cb_generate_options *options, cb_generate_callback *callback, void *user,
                         cb_generation *out)
{
    texts t = {.model = model, .prompts = prompts, .count = count, .out = out, .ctx = {.blend = blend, .blend_weights = weights}};
    bool old = cb_set_grad_enabled(false);
    cb_scope *scope = cb_scope_open();
    bool ok = scope && open_texts(&t, tokenizer, options);
    if (ok && callback) {
        t.runs[0].output.callback = callback;
        t.runs[0].output.user = user;
    }
    ok = ok && generate(&t);
    close_texts(&t);
    if (scope)
        cb_scope_close(scope);
    cb_set_grad_enabled(old);
    return ok;
}

/* ---- in batches ---- */

/* What acts on rows first, first + 1, ... of the prompts, for a batch of them. */
static bool blend_rows(cb_blend *blend, const cb_layer *layer, const cb_blend *source, const int64_t *rows, const int64_t *stand_for,
                       size_t count)
{
    bool ok = cb_blend_put_rows(blend, layer, layer, source, rows, stand_for, count);
    for (size_t i = 0; ok && i < layer->child_count; i++)
        ok = blend_rows(blend, layer->children[i], source, rows, stand_for, count);
    return ok;
}

static cb_blend *blend_of(const cb_model *model, const cb_blend *source, size_t first, size_t count)
{
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    int64_t *rows = cb_alloc(2 * count * sizeof *rows);
    for (size_t i = 0; rows && i < count; i++) {
        rows[i] = (int64_t)i;
        rows[count + i] = (int64_t)(first + i);
    }
    bool ok = blend && rows && blend_rows(blend, cb_model_root(model), source, rows, rows + count, count);
    cb_free(rows);
    if (ok)
        return blend;
    cb_blend_free(blend);
    return NULL;
}

static bool run_batch(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t first, size_t count,
                      const cb_blend *blend, cb_tensor *weights, const cb_generate_options *options, cb_generation *out)
{
    cb_blend *own = blend ? blend_of(model, blend, first, count) : NULL;
    if (weights)
        weights = cb_slice(weights, 0, (int64_t)first, (int64_t)(first + count), 1);
    bool ok = (own || !blend) && cb_ok() &&
              cb_seq2seq_generate(model, tokenizer, prompts + first, count, own, weights, options, NULL, NULL, out + first);
    cb_blend_free(own);
    return ok;
}

bool cb_seq2seq_batches(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                        cb_tensor *weights, const cb_generate_options *options, const cb_batch_options *batch, cb_generation *out)
{
    size_t most = (size_t)batch->batch_size;
    bool ok = true;
    for (size_t first = 0; ok && first < count; first += most) {
        size_t n = count - first < most ? count - first : most;
        ok = run_batch(model, tokenizer, prompts, first, n, blend, weights, options, out);
        for (size_t i = first; ok && batch->ended && i < first + n; i++)
            ok = batch->ended(batch->user, i);
    }
    return ok;
}
