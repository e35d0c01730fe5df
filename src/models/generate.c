/* generate.c: text from a model: the prompt goes through at once, then one token at a time with the cache.
 *
 * Text is handed on as soon as it is certain: whole code points (the tokenizer's stream sees to that) that cannot be
 * the beginning of a stop string any more. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <string.h>

#include "cambium/files.h"
#include "models/internal.h"

/* A longer prompt goes through in pieces, so that its activations stay small. */
#define PROMPT_PIECE 2048

const cb_option cb_generate_option_table[] = {
    CB_OPT_INT(cb_generate_options, max_new_tokens, 128, 1, 1e9, "most tokens to generate"),
    CB_OPT_FLOAT(cb_generate_options, temperature, 0, 0, 1e3, "sampling temperature; 0 takes the likeliest token"),
    CB_OPT_INT(cb_generate_options, top_k, 0, 0, 1e9, "sample from the k likeliest tokens; 0 turns it off"),
    CB_OPT_FLOAT(cb_generate_options, top_p, 1, 0, 1, "sample from the likeliest tokens that hold this much probability"),
    CB_OPT_FLOAT(cb_generate_options, repetition_penalty, 1, 0, 1e3, "divides the logits of tokens already seen"),
    CB_OPT_INT(cb_generate_options, seed, 0, 0, 9e18, "seed of the random numbers"),
    CB_OPT_LIST(cb_generate_options, stop, NULL, "TEXT,...", "strings before which generation ends"),
    CB_OPT_BOOL(cb_generate_options, ignore_eos, false, "go on after the end-of-sequence token"),
    CB_OPT_INT(cb_generate_options, task_id, 0, 0, CB_MOST_TASKS - 1, "which of its tasks an adapter of several does"),
    CB_OPT_END,
};

void cb_generation_free(cb_generation *g)
{
    if (!g)
        return;
    cb_string_free(&g->text);
    cb_free(g->ids);
    *g = (cb_generation){0};
}

/* ---- text ---- */

typedef struct text_output {
    const cb_string_list *stop;
    cb_generate_callback *callback;
    void *user;
    cb_string *text;
    size_t searched; /* no stop string begins before this byte */
    size_t emitted;
    bool ended; /* by a stop string or the callback */
} text_output;

static bool stop_check(const cb_string_list *stop, bool has_text)
{
    for (size_t i = 0; i < stop->count; i++) {
        size_t length = strlen(stop->items[i]);
        if (length && has_text && cb_utf8_valid(stop->items[i], length, NULL))
            continue;
        cb_fail(CB_ERR_ARGUMENT, !has_text ? "stop strings need a tokenizer" : "a stop string is empty or no UTF-8");
        return false;
    }
    return true;
}

/* Where the first stop string in the text begins, or the text's length. */
static size_t stop_find(const text_output *out)
{
    size_t first = out->text->length;
    for (size_t i = 0; i < out->stop->count && out->text->data; i++) {
        const char *stop = out->stop->items[i];
        const char *found = memmem(out->text->data + out->searched, out->text->length - out->searched, stop, strlen(stop));
        if (found && (size_t)(found - out->text->data) < first)
            first = (size_t)(found - out->text->data);
    }
    return first;
}

/* Where the longest end of the text begins that a stop string could still grow out of, or the text's length. */
static size_t stop_may_begin(const text_output *out)
{
    size_t first = out->text->length;
    for (size_t i = 0; i < out->stop->count; i++) {
        size_t most = strlen(out->stop->items[i]) - 1, length = out->text->length;
        for (size_t n = most < length ? most : length; n > 0; n--)
            if (!memcmp(out->text->data + length - n, out->stop->items[i], n)) {
                first = length - n < first ? length - n : first;
                break;
            }
    }
    return first;
}

static void emit(text_output *out, size_t end)
{
    if (end <= out->emitted)
        return;
    if (out->callback && !out->callback(out->user, out->text->data + out->emitted, end - out->emitted))
        out->ended = true;
    out->emitted = end;
}

/* Looks at text that was added; `last`: nothing will follow. */
static void text_added(text_output *out, bool last)
{
    size_t found = stop_find(out);
    if (found < out->text->length) {
        out->text->length = found;
        out->text->data[found] = 0;
        out->ended = true;
        emit(out, found);
        return;
    }
    size_t certain = last ? out->text->length : stop_may_begin(out);
    out->searched = certain;
    emit(out, certain);
}

/* ---- tokens ---- */

/* What one run needs beside its arguments. */
typedef struct run {
    cb_model *model;
    cb_cache *cache;
    cb_sampler *sampler;
    cb_token_stream *stream; /* NULL without a tokenizer */
    text_output output;
    bool ignore_eos;
    int32_t task;
    cb_generation *out;
} run;

/* Runs ids through the model into the cache; the logits of the last position, (V). */
static cb_tensor *step_logits(const run *r, const int32_t *ids, size_t count)
{
    cb_model *model = r->model;
    cb_context ctx = {.cache = r->cache, .tasks = r->task ? cb_full(CB_I32, r->task, 1) : NULL};
    cb_tensor *hidden = NULL;
    for (size_t done = 0; done < count;) {
        size_t piece = count - done < PROMPT_PIECE ? count - done : PROMPT_PIECE;
        cb_scope *scope = cb_scope_open();
        cb_tensor *batch = scope ? cb_wrap(CB_I32, ids + done, 1, (int64_t)piece) : NULL;
        hidden = cb_model_hidden(model, batch, &ctx);
        hidden = hidden ? cb_slice(hidden, 1, (int64_t)piece - 1, (int64_t)piece, 1) : NULL;
        done += piece;
        if (scope) {
            hidden = done == count ? cb_scope_return(scope, hidden) : hidden;
            cb_scope_close(scope);
        }
        if (!cb_ok())
            return NULL;
        if (cb_interrupted()) {
            cb_fail(CB_ERR_INTERRUPTED, "generation was interrupted");
            return NULL;
        }
    }
    return cb_model_head(model, hidden, &ctx);
}

static bool is_eos(const cb_model *model, int32_t id)
{
    for (size_t i = 0; i < model->eos_count; i++)
        if (model->eos[i] == id)
            return true;
    return false;
}

/* Once, when the text passes what the model was trained for; learned positions end there (room()). */
static void warn_of_length(const run *r, size_t count)
{
    int64_t limit = r->model->config.max_positions, length = cb_cache_length(r->cache);
    if (length <= limit && length + (int64_t)count > limit)
        cb_log_message(CB_LOG_WARNING, "generate: the text goes on beyond the %lld positions that the model was made for",
                       (long long)limit);
}

/* The next token from its logits is taken in; false on failure. */
static bool take_token(run *r, const cb_tensor *logits)
{
    cb_generation *out = r->out;
    int32_t id = cb_sampler_next(r->sampler, logits);
    if (id < 0 || !cb_file_maps_check() || !cb_grow(&out->ids, &out->capacity, out->count + 1, sizeof *out->ids))
        return false;
    out->ids[out->count++] = id;
    if (!r->ignore_eos && !cb_rehearsing() && is_eos(r->model, id)) {
        r->output.ended = true;
        return true;
    }
    if (!r->stream || cb_rehearsing())
        return true;
    if (!cb_token_stream_push(r->stream, id, &out->text))
        return false;
    text_added(&r->output, false);
    return true;
}

/* Samples from the logits after `ids`; false on failure. */
static bool step(run *r, const int32_t *ids, size_t count)
{
    warn_of_length(r, count);
    cb_scope *scope = cb_scope_open();
    bool ok = scope && take_token(r, step_logits(r, ids, count));
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* In a rehearsal: leaves steps out, but for one of each size that memory could have (memory.c). */
static bool leave_out(run *r, int64_t most)
{
    enum { SIZES = 8 }; /* of an octave */
    cb_generation *out = r->out;
    int64_t some = cb_cache_length(r->cache) / (2 * SIZES), all = most - (int64_t)out->count - 1;
    size_t n = (size_t)cb_cache_skip(r->cache, some < all ? some : all);
    if (!cb_grow(&out->ids, &out->capacity, out->count + n, sizeof *out->ids))
        return false;
    memset(out->ids + out->count, 0, n * sizeof *out->ids);
    out->count += n;
    return true;
}

/* Says why it ended, and hands on what was held back: the beginning of a code point or of a stop string; not after a stop string or when
 * the callback has had enough. */
static bool finish(run *r)
{
    cb_generation *out = r->out;
    out->finish_reason = r->output.ended ? "stop" : "length";
    bool cut = r->output.ended && !(out->count && !r->ignore_eos && is_eos(r->model, out->ids[out->count - 1]));
    if (!r->stream || cut)
        return true;
    if (!cb_token_stream_finish(r->stream, &out->text))
        return false;
    text_added(&r->output, true);
    if (r->output.ended)
        out->finish_reason = "stop";
    return true;
}

static bool generate(run *r, const int32_t *prompt, size_t count, int64_t most)
{
    cb_generation *out = r->out;
    double start = cb_now();
    if (!cb_sampler_see(r->sampler, prompt, count) || !step(r, prompt, count))
        return false;
    out->prompt_seconds = cb_now() - start;
    start = cb_now();
    while (!r->output.ended && (int64_t)out->count < most)
        if ((cb_rehearsing() && !leave_out(r, most)) || !step(r, &out->ids[out->count - 1], 1))
            return false;
    if (!finish(r))
        return false;
    out->generate_seconds = cb_now() - start;
    return true;
}

/* How many tokens may follow a prompt of `count`; 0 and an error when there is no room.  Only learned positions have an end: rotary ones
 * go on, where the model has seen nothing like them. */
static int64_t room(const cb_model *model, size_t count, int64_t most)
{
    int64_t before = cb_prompt_tokens(model, &(cb_context){0});
    if (before < 0)
        return 0;
    int64_t limit = model->config.max_positions - before, left = limit - (int64_t)count;
    if (!count) {
        cb_fail(CB_ERR_ARGUMENT, "generate: the prompt is empty, expected at least one token");
        return 0;
    }
    if (most < 1) {
        cb_fail(CB_ERR_ARGUMENT, "generate: max_new_tokens is %lld, expected 1 or more", (long long)most);
        return 0;
    }
    if (!model->position_embedding)
        return most;
    if (left < 1) {
        cb_fail(CB_ERR_ARGUMENT, "generate: the prompt has %zu tokens, expected less than the %lld positions of the model", count,
                (long long)limit);
        return 0;
    }
    return most < left ? most : left;
}

/* How many tokens may follow, with `out` emptied and all that a run needs but the cache; 0 on failure.  run_close() in any case. */
static int64_t run_open(run *r, cb_model *model, const cb_tokenizer *tokenizer, cb_prompt_ids prompt, const cb_generate_options *options,
                        cb_generation *out)
{
    *r = (run){.model = model, .ignore_eos = options->ignore_eos, .task = prompt.task, .out = out};
    cb_string_clear(&out->text);
    out->count = 0;
    out->finish_reason = NULL;
    out->prompt_seconds = out->generate_seconds = 0;
    out->prompt_tokens = (int64_t)prompt.count;
    int64_t most = room(model, prompt.count, options->max_new_tokens);
    if (!most || !stop_check(&options->stop, tokenizer != NULL))
        return 0;
    r->sampler = cb_sampler_new(model->config.vocab_size, options);
    r->stream = tokenizer ? cb_token_stream_open(tokenizer, true) : NULL;
    r->output = (text_output){.stop = &options->stop, .text = &out->text};
    return r->sampler && (r->stream || !tokenizer) ? most : 0;
}

static void run_close(run *r)
{
    cb_token_stream_free(r->stream);
    cb_sampler_free(r->sampler);
}

static bool can_generate(const cb_model *model)
{
    return model->head_plan->kind == CB_HEAD_CAUSAL_LM ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: %s%s generates nothing, expected a model that predicts the next token", model->config_path,
                   model->architecture->class_prefix, model->head_plan->class_end) == CB_OK;
}

bool cb_generate_ids(cb_model *model, const cb_tokenizer *tokenizer, const int32_t *prompt, size_t count,
                     const cb_generate_options *options, cb_generate_callback *callback, void *user, cb_generation *out)
{
    if (!model || !out || !options || !cb_ok() || !can_generate(model))
        return false;
    if (options->task_id < 0 || options->task_id >= CB_MOST_TASKS)
        return cb_fail(CB_ERR_ARGUMENT, "generate: task_id is %lld, expected 0 to %d", (long long)options->task_id, CB_MOST_TASKS - 1) ==
               CB_OK;
    run r;
    int64_t most = run_open(&r, model, tokenizer, (cb_prompt_ids){prompt, count, (int32_t)options->task_id}, options, out);
    r.output.callback = callback;
    r.output.user = user;
    bool old = cb_set_grad_enabled(false);
    r.cache = most ? cb_cache_new(model, 1, (int64_t)count + (most < 256 ? most : 256)) : NULL;
    bool ok = r.cache && generate(&r, prompt, count, most);
    run_close(&r);
    cb_cache_free(r.cache);
    cb_set_grad_enabled(old);
    return ok;
}

/* ---- several prompts as one batch ---- */

/* Rows end together: shorter prompts have padding before them, which no token sees. */
typedef struct rows_run {
    run *rows;
    int64_t *most; /* tokens that may follow each prompt */
    size_t count;
    const cb_prompt_ids *prompts;
    int64_t longest; /* prompt */
    bool padded;
    cb_model *model;
    cb_context ctx;
} rows_run;

static bool row_goes_on(const rows_run *b, size_t i)
{
    return !b->rows[i].output.ended && (int64_t)b->rows[i].out->count < b->most[i];
}

/* Ids of slots begin..end-1 of every row with their positions and segments: of the prompts, or, behind them, what came last. */
static cb_tensor *slots(rows_run *b, int64_t begin, int64_t end)
{
    int64_t n = end - begin;
    cb_tensor *ids = cb_zeros(CB_I32, (int64_t)b->count, n), *positions = cb_zeros_like(ids), *segments = cb_zeros_like(ids);
    if (!ids || !positions || !segments)
        return NULL;
    for (size_t row = 0; row < b->count; row++)
        for (int64_t slot = begin; slot < end; slot++) {
            int64_t at = (int64_t)row * n + slot - begin, position = slot - b->longest + (int64_t)b->prompts[row].count;
            const cb_generation *out = b->rows[row].out;
            ((int32_t *)ids->data)[at] = slot >= b->longest ? out->ids[out->count - 1] : position >= 0 ? b->prompts[row].ids[position] : 0;
            /* a row that has ended stands still, so that learned positions suffice */
            int64_t last = (int64_t)b->prompts[row].count + b->most[row] - 1;
            ((int32_t *)positions->data)[at] = (int32_t)(position < 0 ? 0 : position < last ? position : last);
            ((int32_t *)segments->data)[at] = position < 0 ? -1 : 0;
        }
    b->ctx.positions = positions;
    b->ctx.segments = b->padded ? segments : NULL;
    return ids;
}

/* Slots go through the model, a piece of the prompts at a time; logits (B, 1, V) of the last. */
static cb_tensor *slot_logits(rows_run *b, int64_t begin, int64_t end)
{
    cb_tensor *hidden = NULL;
    for (int64_t next; begin < end; begin = next) {
        next = begin + PROMPT_PIECE < end ? begin + PROMPT_PIECE : end;
        cb_scope *scope = cb_scope_open();
        hidden = scope ? cb_model_hidden(b->model, slots(b, begin, next), &b->ctx) : NULL;
        hidden = hidden ? cb_slice(hidden, 1, next - begin - 1, next - begin, 1) : NULL;
        hidden = next == end && hidden ? cb_scope_return(scope, cb_contiguous(hidden)) : hidden;
        if (scope)
            cb_scope_close(scope);
        if (!cb_ok())
            return NULL;
        if (cb_interrupted())
            return cb_fail(CB_ERR_INTERRUPTED, "generation was interrupted"), NULL;
    }
    b->ctx.first_token = end - 1;
    b->ctx.positions = b->ctx.segments = NULL; /* those of the pieces, which are gone; the head is of every token alone */
    return cb_model_head(b->model, hidden, &b->ctx);
}

static bool rows_step(rows_run *b, int64_t begin, int64_t end)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *logits = scope ? slot_logits(b, begin, end) : NULL;
    bool ok = logits;
    for (size_t i = 0; ok && i < b->count; i++)
        if (row_goes_on(b, i))
            ok = take_token(&b->rows[i], cb_slice(logits, 0, (int64_t)i, (int64_t)i + 1, 1));
    if (scope)
        cb_scope_close(scope);
    return ok;
}

static bool generate_rows(rows_run *b)
{
    double start = cb_now();
    for (size_t i = 0; i < b->count; i++)
        if (!cb_sampler_see(b->rows[i].sampler, b->prompts[i].ids, b->prompts[i].count))
            return false;
    if (!rows_step(b, 0, b->longest))
        return false;
    double prompt_seconds = cb_now() - start;
    bool more = true;
    for (int64_t slot = b->longest; more; slot++) {
        more = false;
        for (size_t i = 0; i < b->count; i++)
            more |= row_goes_on(b, i);
        if (more && !rows_step(b, slot, slot + 1))
            return false;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < b->count; i++) {
        b->rows[i].out->prompt_seconds = prompt_seconds;
        b->rows[i].out->generate_seconds = cb_now() - start - prompt_seconds;
        ok = finish(&b->rows[i]);
    }
    return ok;
}

static bool rows_open(rows_run *b, const cb_tokenizer *tokenizer, const cb_generate_options *options, cb_generation *out)
{
    bool ok = true;
    for (size_t i = 0; ok && i < b->count; i++) {
        b->most[i] = run_open(&b->rows[i], b->model, tokenizer, b->prompts[i], options, &out[i]);
        ok = b->most[i];
        if ((int64_t)b->prompts[i].count > b->longest)
            b->longest = (int64_t)b->prompts[i].count;
    }
    for (size_t i = 0; i < b->count; i++)
        b->padded |= (int64_t)b->prompts[i].count < b->longest;
    return ok;
}

/* Held until the end; none where all are of task 0. */
static bool rows_tasks(rows_run *b)
{
    bool several = false;
    for (size_t i = 0; i < b->count; i++)
        several |= b->prompts[i].task != 0;
    cb_scope *scope = several ? cb_scope_open() : NULL;
    b->ctx.tasks = scope ? cb_keep(cb_empty(CB_I32, (int64_t)b->count)) : NULL;
    for (size_t i = 0; b->ctx.tasks && i < b->count; i++)
        ((int32_t *)b->ctx.tasks->data)[i] = b->prompts[i].task;
    if (scope)
        cb_scope_close(scope);
    return !several || b->ctx.tasks;
}

bool cb_generate_rows(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                      cb_tensor *blend_weights, const cb_generate_options *options, cb_generation *out)
{
    if (!model || !prompts || !out || !options || !cb_ok() || !can_generate(model))
        return false;
    rows_run b = {.rows = cb_calloc(count, sizeof *b.rows),
                  .most = cb_calloc(count, sizeof *b.most),
                  .count = count,
                  .prompts = prompts,
                  .model = model,
                  .ctx = {.blend = blend, .blend_weights = blend_weights}};
    bool old = cb_set_grad_enabled(false);
    bool ok = count && b.rows && b.most && rows_open(&b, tokenizer, options, out) && rows_tasks(&b);
    b.ctx.cache =
        ok ? cb_cache_new(model, (int64_t)count, b.longest + (options->max_new_tokens < 64 ? options->max_new_tokens : 64)) : NULL;
    ok = b.ctx.cache && generate_rows(&b);
    for (size_t i = 0; b.rows && i < count; i++)
        run_close(&b.rows[i]);
    cb_cache_free(b.ctx.cache);
    cb_release(b.ctx.tasks);
    cb_free(b.rows);
    cb_free(b.most);
    cb_set_grad_enabled(old);
    return ok;
}

bool cb_generate(cb_model *model, const cb_tokenizer *tokenizer, const char *prompt, const cb_generate_options *options,
                 cb_generate_callback *callback, void *user, cb_generation *out)
{
    if (!model || !tokenizer || !prompt)
        return false;
    cb_encoding encoding = {0};
    bool ok = cb_tokenizer_encode(tokenizer, prompt, strlen(prompt), true, &encoding);
    int32_t bos = cb_tokenizer_bos(tokenizer);
    if (ok && !encoding.count && bos >= 0) /* nothing to go on from: as at the start of a text */
        ok = cb_generate_ids(model, tokenizer, &bos, 1, options, callback, user, out);
    else
        ok = ok && cb_generate_ids(model, tokenizer, encoding.ids, encoding.count, options, callback, user, out);
    cb_encoding_free(&encoding);
    return ok;
}
