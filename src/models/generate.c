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

/* Runs ids through the model into the cache; the logits of the last position, (V). */
static cb_tensor *step_logits(cb_model *model, cb_cache *cache, const int32_t *ids, size_t count)
{
    cb_context ctx = {.cache = cache};
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

/* What one run needs beside its arguments. */
typedef struct run {
    cb_model *model;
    cb_cache *cache;
    cb_sampler *sampler;
    cb_token_stream *stream; /* NULL without a tokenizer */
    text_output output;
    bool ignore_eos;
    cb_generation *out;
} run;

/* Once, when the text passes what the model was trained for; learned positions end there (room()). */
static void warn_of_length(const run *r, size_t count)
{
    int64_t limit = r->model->config.max_positions, length = cb_cache_length(r->cache);
    if (length <= limit && length + (int64_t)count > limit)
        cb_log_message(CB_LOG_WARNING, "generate: the text goes on beyond the %lld positions that the model was made for",
                       (long long)limit);
}

/* Samples from the logits after `ids` and takes the token in; false on failure. */
static bool step(run *r, const int32_t *ids, size_t count)
{
    cb_generation *out = r->out;
    warn_of_length(r, count);
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    int32_t id = cb_sampler_next(r->sampler, step_logits(r->model, r->cache, ids, count));
    cb_scope_close(scope);
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
    out->finish_reason = r->output.ended ? "stop" : "length";
    /* held back: the beginning of a code point or of a stop string; not after a stop string or when the callback has
     * had enough */
    bool cut = r->output.ended && !(out->count && !r->ignore_eos && is_eos(r->model, out->ids[out->count - 1]));
    if (r->stream && !cut) {
        if (!cb_token_stream_finish(r->stream, &out->text))
            return false;
        text_added(&r->output, true);
        if (r->output.ended)
            out->finish_reason = "stop";
    }
    out->generate_seconds = cb_now() - start;
    return true;
}

/* How many tokens may follow a prompt of `count`; 0 and an error when there is no room.  Only learned positions have an end: rotary ones
 * go on, where the model has seen nothing like them. */
static int64_t room(const cb_model *model, size_t count, int64_t most)
{
    int64_t limit = model->config.max_positions, left = limit - (int64_t)count;
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

bool cb_generate_ids(cb_model *model, const cb_tokenizer *tokenizer, const int32_t *prompt, size_t count,
                     const cb_generate_options *options, cb_generate_callback *callback, void *user, cb_generation *out)
{
    if (!model || !out || !options || !cb_ok())
        return false;
    cb_string_clear(&out->text);
    out->count = 0;
    out->finish_reason = NULL;
    out->prompt_seconds = out->generate_seconds = 0;
    out->prompt_tokens = (int64_t)count;
    int64_t most = room(model, count, options->max_new_tokens);
    if (!most || !stop_check(&options->stop, tokenizer != NULL))
        return false;
    int64_t capacity = (int64_t)count + (most < 256 ? most : 256);
    bool old = cb_set_grad_enabled(false);
    run r = {.model = model,
             .ignore_eos = options->ignore_eos,
             .out = out,
             .cache = cb_cache_new(model, 1, capacity),
             .sampler = cb_sampler_new(model->config.vocab_size, options),
             .stream = tokenizer ? cb_token_stream_open(tokenizer, true) : NULL,
             .output = {.stop = &options->stop, .callback = callback, .user = user, .text = &out->text}};
    bool ok = r.cache && r.sampler && (r.stream || !tokenizer) && generate(&r, prompt, count, most);
    cb_token_stream_free(r.stream);
    cb_sampler_free(r.sampler);
    cb_cache_free(r.cache);
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
