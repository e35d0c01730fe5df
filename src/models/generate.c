/* generate.c: text from a model: the prompt goes through at once, then one token at a time with the cache.
 *
 * Text is handed on as soon as it is certain: whole code points (the tokenizer's stream sees to that) that cannot be
 * the beginning of a stop string any more. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "models/generation.h"

const cb_option cb_generate_option_table[] = {
    CB_OPT_INT(cb_generate_options, max_new_tokens, 128, 1, 1e9, "most tokens to generate"),
    CB_OPT_FLOAT(cb_generate_options, temperature, 0, 0, 1e3, "sampling temperature; 0 takes the likeliest token"),
    CB_OPT_INT(cb_generate_options, top_k, 0, 0, 1e9, "sample from the k likeliest tokens; 0 turns it off"),
    CB_OPT_FLOAT(cb_generate_options, top_p, 1, 0, 1, "sample from the likeliest tokens that hold this much probability"),
    CB_OPT_FLOAT(cb_generate_options, repetition_penalty, 1, 0, 1e3, "divides the logits of tokens already seen"),
    CB_OPT_INT(cb_generate_options, seed, 0, 0, 9e18, "seed of the random numbers"),
    CB_OPT_INT(cb_generate_options, num_beams, 1, 1, CB_MOST_BEAMS,
               "beam search: beginnings of a text that go on side by side; 1 turns it off"),
    CB_OPT_FLOAT(cb_generate_options, length_penalty, 1, -100, 100,
                 "of beam search: the sum of log-probabilities is divided by this power of a text's length"),
    CB_OPT_BOOL(cb_generate_options, early_stopping, false, "of beam search: end as soon as so many texts have ended"),
    CB_OPT_LIST(cb_generate_options, stop, NULL, "TEXT,...", "strings before which generation ends"),
    CB_OPT_BOOL(cb_generate_options, ignore_eos, false, "go on after the end-of-sequence token"),
    CB_OPT_INT(cb_generate_options, task_id, 0, 0, CB_MOST_TASKS - 1, "which of its tasks an adapter of several does"),
    CB_OPT_LIST(cb_generate_options, condition, NULL, "X,...",
                "what is known of the text beside it, for adapters and gates that look at it"),
    CB_OPT_FLOAT(
        cb_generate_options, exit_confidence, 1, 0, 1,
        "recursive models: a token leaves after the first round whose likeliest token leads the next by more than this probability"),
    CB_OPT_INT(cb_generate_options, exit_round, 0, 0, 65536, "and after this round at the latest; 0: the last"),
    CB_OPT_BOOL(cb_generate_options, exit_oracle, false, "run all rounds, and say from which on each token was what the last made of it"),
    CB_OPT_END,
};

void cb_generation_free(cb_generation *g)
{
    if (!g)
        return;
    cb_string_free(&g->text);
    cb_free(g->ids);
    cb_free(g->rounds);
    *g = (cb_generation){0};
}

/* ---- text ---- */

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
static size_t stop_find(const cb_text_output *out)
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
static size_t stop_may_begin(const cb_text_output *out)
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

static void emit(cb_text_output *out, size_t end)
{
    if (end <= out->emitted)
        return;
    if (out->callback && !out->callback(out->user, out->text->data + out->emitted, end - out->emitted))
        out->ended = true;
    out->emitted = end;
}

/* Looks at text that was added; `last`: nothing will follow. */
static void text_added(cb_text_output *out, bool last)
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

bool cb_is_eos(const cb_model *model, int32_t id)
{
    for (size_t i = 0; i < model->eos_count; i++)
        if (model->eos[i] == id)
            return true;
    return false;
}

/* Learned positions end there (room()). */
void cb_run_warn_of_length(const cb_run *r, int64_t length, int64_t count)
{
    int64_t limit = r->model->config.max_positions;
    if (length <= limit && length + count > limit)
        cb_log_message(CB_LOG_WARNING, "generate: the text goes on beyond the %lld positions that the model was made for",
                       (long long)limit);
}

static bool reserve(cb_generation *out, size_t count)
{
    size_t capacity = out->capacity;
    return cb_grow(&out->ids, &capacity, count, sizeof *out->ids) && cb_grow(&out->rounds, &out->capacity, count, sizeof *out->rounds);
}

bool cb_run_skip(cb_run *r, size_t count)
{
    cb_generation *out = r->out;
    if (!reserve(out, out->count + count))
        return false;
    memset(out->ids + out->count, 0, count * sizeof *out->ids);
    memset(out->rounds + out->count, 0, count * sizeof *out->rounds);
    out->count += count;
    return true;
}

bool cb_run_take(cb_run *r, const cb_tensor *logits)
{
    int32_t id = cb_sampler_next(r->sampler, logits);
    return id >= 0 && cb_file_maps_glance() && cb_run_put(r, id);
}

bool cb_run_put(cb_run *r, int32_t id)
{
    cb_generation *out = r->out;
    if (!reserve(out, out->count + 1))
        return false;
    out->rounds[out->count] = (int32_t)r->rounds;
    out->ids[out->count++] = id;
    if (!r->ignore_eos && !cb_rehearsing() && cb_is_eos(r->model, id)) {
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

bool cb_run_goes_on(const cb_run *r)
{
    return !r->output.ended && (int64_t)r->out->count < r->most;
}

/* Held back: the beginning of a code point or of a stop string; not after a stop string or when the callback has had enough. */
bool cb_run_finish(cb_run *r)
{
    cb_generation *out = r->out;
    out->finish_reason = r->output.ended ? "stop" : "length";
    bool cut = r->output.ended && !(out->count && !r->ignore_eos && cb_is_eos(r->model, out->ids[out->count - 1]));
    if (!r->stream || cut)
        return true;
    if (!cb_token_stream_finish(r->stream, &out->text))
        return false;
    text_added(&r->output, true);
    if (r->output.ended)
        out->finish_reason = "stop";
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

bool cb_run_open(cb_run *r, cb_model *model, const cb_tokenizer *tokenizer, cb_prompt_ids prompt, const cb_generate_options *options,
                 cb_generation *out)
{
    *r = (cb_run){.model = model,
                  .ignore_eos = options->ignore_eos,
                  .task = prompt.task,
                  .conditions = prompt.conditions,
                  .condition_count = prompt.condition_count,
                  .out = out};
    cb_string_clear(&out->text);
    out->count = 0;
    out->finish_reason = NULL;
    out->prompt_seconds = out->generate_seconds = 0;
    out->prompt_tokens = (int64_t)prompt.count;
    r->most = room(model, prompt.count, prompt.max_new_tokens ? prompt.max_new_tokens : options->max_new_tokens);
    if (!r->most || !stop_check(&options->stop, tokenizer != NULL) || !cb_exit_open(&r->exit, model, options))
        return false;
    r->rounds = r->exit.rounds;
    r->sampler = cb_sampler_new(model->config.vocab_size, options);
    r->stream = tokenizer ? cb_token_stream_open(tokenizer, true) : NULL;
    r->output = (cb_text_output){.stop = &options->stop, .text = &out->text};
    return r->sampler && (r->stream || !tokenizer);
}

void cb_run_close(cb_run *r)
{
    cb_exit_close(&r->exit);
    cb_token_stream_free(r->stream);
    cb_sampler_free(r->sampler);
}

bool cb_can_generate(const cb_model *model)
{
    cb_head_kind kind = model->head_plan->kind;
    return kind == CB_HEAD_CAUSAL_LM || kind == CB_HEAD_SEQ2SEQ_LM ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: %s%s generates nothing, expected a model that predicts the next token", model->config_path,
                   model->architecture->class_prefix, model->head_plan->class_end) == CB_OK;
}

/* ---- a text alone ---- */

typedef struct single {
    cb_run run;
    cb_cache *cache;
    cb_context ctx;    /* of the pass under way */
    cb_tensor *logits; /* those with which a token left early, kept; else NULL */
} single;

static bool leaves(void *user, int64_t round, cb_tensor *hidden)
{
    single *s = user;
    cb_exit *exit = &s->run.exit;
    cb_tensor *logits = cb_exit_reads_logits(exit) ? cb_model_head(s->run.model, hidden, &s->ctx) : NULL;
    if (!cb_ok() || !cb_exit_leaves(exit, round, logits))
        return false;
    s->run.rounds = round;
    s->logits = logits ? cb_keep(logits) : NULL;
    return true;
}

/* Runs ids through the model into the cache; the logits of the last position, (V). */
static cb_tensor *step_logits(single *s, const int32_t *ids, size_t count)
{
    cb_run *r = &s->run;
    cb_model *model = r->model;
    cb_tensor *hidden = NULL;
    s->ctx = (cb_context){.cache = s->cache,
                          .tasks = r->task ? cb_full(CB_I32, r->task, 1) : NULL,
                          .conditions = r->condition_count ? cb_from(CB_F32, r->conditions, 1, (int64_t)r->condition_count) : NULL};
    const cb_leaving leaving = {leaves, s};
    r->rounds = r->exit.rounds;
    for (size_t done = 0; done < count;) {
        size_t piece = count - done < CB_PROMPT_PIECE ? count - done : CB_PROMPT_PIECE;
        cb_scope *scope = cb_scope_open();
        cb_tensor *batch = scope ? cb_wrap(CB_I32, ids + done, 1, (int64_t)piece) : NULL;
        hidden = cb_hidden_leaving(model, batch, &s->ctx, r->out->count ? &leaving : NULL);
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
    cb_tensor *logits = s->logits ? s->logits : cb_model_head(model, hidden, &s->ctx);
    if (logits && r->exit.likeliest && r->out->count && !cb_rehearsing())
        r->rounds = cb_exit_first_right(&r->exit, logits);
    return logits;
}

/* Samples from the logits after `ids`; false on failure. */
static bool step(single *s, const int32_t *ids, size_t count)
{
    cb_run_warn_of_length(&s->run, cb_cache_length(s->cache), (int64_t)count);
    cb_scope *scope = cb_scope_open();
    bool ok = scope && cb_run_take(&s->run, step_logits(s, ids, count));
    cb_release(s->logits);
    s->logits = NULL;
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* In a rehearsal: leaves steps out, but for one of each size that memory could have (memory.c). */
static bool leave_out(single *s)
{
    enum { SIZES = 8 }; /* of an octave */
    cb_generation *out = s->run.out;
    int64_t some = cb_cache_length(s->cache) / (2 * SIZES), all = s->run.most - (int64_t)out->count - 1;
    return cb_run_skip(&s->run, (size_t)cb_cache_skip(s->cache, some < all ? some : all));
}

static bool generate(single *s, const int32_t *prompt, size_t count)
{
    cb_generation *out = s->run.out;
    double start = cb_now();
    if (!cb_sampler_see(s->run.sampler, prompt, count) || !step(s, prompt, count))
        return false;
    out->prompt_seconds = cb_now() - start;
    start = cb_now();
    while (cb_run_goes_on(&s->run))
        if ((cb_rehearsing() && !leave_out(s)) || !step(s, &out->ids[out->count - 1], 1))
            return false;
    if (!cb_run_finish(&s->run))
        return false;
    out->generate_seconds = cb_now() - start;
    return true;
}

/* The numbers of the option; *values to be freed. */
static bool read_conditions(const cb_string_list *texts, float **values)
{
    *values = cb_alloc((texts->count + 1) * sizeof **values);
    for (size_t i = 0; *values && i < texts->count; i++) {
        char *end;
        double value = strtod(texts->items[i], &end);
        if (end == texts->items[i] || *end || !(fabs(value) <= FLT_MAX))
            return cb_fail(CB_ERR_ARGUMENT, "generate: condition: found '%.50s', expected a number", texts->items[i]) == CB_OK;
        (*values)[i] = (float)value;
    }
    return *values;
}

bool cb_generate_ids(cb_model *model, const cb_tokenizer *tokenizer, const int32_t *prompt, size_t count,
                     const cb_generate_options *options, cb_generate_callback *callback, void *user, cb_generation *out)
{
    if (!model || !out || !options || !cb_ok() || !cb_can_generate(model))
        return false;
    if (options->task_id < 0 || options->task_id >= CB_MOST_TASKS)
        return cb_fail(CB_ERR_ARGUMENT, "generate: task_id is %lld, expected 0 to %d", (long long)options->task_id, CB_MOST_TASKS - 1) ==
               CB_OK;
    single s = {0};
    float *conditions = NULL;
    bool ok = read_conditions(&options->condition, &conditions);
    const cb_prompt_ids given = {.ids = prompt,
                                 .count = count,
                                 .task = (int32_t)options->task_id,
                                 .conditions = conditions,
                                 .condition_count = options->condition.count};
    if (ok && (options->num_beams > 1 || model->towers[CB_TOWER_ENCODER])) {
        ok = options->num_beams > 1 ? cb_beams_generate(model, tokenizer, &given, options, callback, user, out)
                                    : cb_seq2seq_generate(model, tokenizer, &given, 1, NULL, NULL, options, callback, user, out);
        cb_free(conditions);
        return ok;
    }
    ok = ok && cb_run_open(&s.run, model, tokenizer, given, options, out);
    s.run.output.callback = callback;
    s.run.output.user = user;
    bool old = cb_set_grad_enabled(false);
    s.cache = ok ? cb_cache_new(model, 1, (int64_t)count + (s.run.most < 256 ? s.run.most : 256)) : NULL;
    ok = s.cache && generate(&s, prompt, count);
    cb_run_close(&s.run);
    cb_free(conditions);
    cb_cache_free(s.cache);
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
