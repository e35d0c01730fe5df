/* beams.c: beam search: several beginnings of a text go on side by side, and the one with the largest sum of log-probabilities, divided by a power
 * of its length, is the text.  What is kept, what has ended and when no better text can come are those of transformers (its `_beam_search`, which
 * follows Graves 2012 and Wu et al. 2016 in the length's power).
 *
 * One prompt at a time: it goes through once, then the cache has a row for each beam, and rows follow the beams that they belong to.  Texts are paths
 * in a tree of tokens, whose nodes are never moved.  Shape letters: N beams, V vocabulary. */
#include <math.h>
#include <string.h>

#include "cambium/files.h"
#include "core/rehearsal.h"
#include "models/generation.h"

typedef struct node {
    int64_t parent; /* -1: the token is the first */
    int32_t id;
} node;

/* A text that goes on, or one that has ended: the node of its last token. */
typedef struct path {
    int64_t node;
    float score;
} path;

typedef struct candidate {
    size_t beam;
    int32_t id;
    float score;
} candidate;

typedef struct beams {
    cb_run run;
    const cb_prompt_ids *prompt;
    const cb_generate_options *options;
    cb_cache *cache;
    size_t width, kept; /* N, and candidates of a step: enough for N that go on */
    path *running, *ended;
    size_t running_count, ended_count;
    candidate *candidates;
    size_t candidate_count;
    int64_t *rows; /* (N): of the cache, where each running beam comes from */
    bool *seen;    /* (V): by the beam at hand; NULL: nobody asks */
    node *nodes;
    size_t node_count, node_capacity;
    int64_t length; /* tokens so far */
    bool over;
} beams;

static bool check(const cb_model *model, const cb_generate_options *o, size_t kept)
{
    if (o->num_beams > CB_MOST_BEAMS)
        return cb_fail(CB_ERR_ARGUMENT, "generate: num_beams is %lld, expected at most %d", (long long)o->num_beams, CB_MOST_BEAMS) ==
               CB_OK;
    if (o->temperature > 0 || o->stop.count || o->exit_round || o->exit_oracle || (o->exit_confidence > 0 && o->exit_confidence < 1))
        return cb_fail(CB_ERR_ARGUMENT, "generate: num_beams is %lld, expected 1 with a temperature, stop strings or early exits",
                       (long long)o->num_beams) == CB_OK;
    return (int64_t)kept <= model->config.vocab_size ||
           cb_fail(CB_ERR_ARGUMENT, "generate: num_beams is %lld, for which %zu candidates are needed, and the vocabulary has %lld",
                   (long long)o->num_beams, kept, (long long)model->config.vocab_size) == CB_OK;
}

static bool open_beams(beams *b, cb_model *model, const cb_tokenizer *tokenizer, cb_generation *out)
{
    const cb_generate_options *o = b->options;
    size_t ends = o->ignore_eos ? 0 : model->eos_count;
    b->width = (size_t)o->num_beams;
    b->kept = (ends > 1 ? 1 + ends : 2) * b->width;
    if (!check(model, o, b->kept) || !cb_run_open(&b->run, model, tokenizer, *b->prompt, o, out))
        return false;
    b->running = cb_calloc(b->width, sizeof *b->running);
    b->ended = cb_calloc(b->width + 1, sizeof *b->ended);
    b->candidates = cb_calloc(b->kept + 1, sizeof *b->candidates);
    b->rows = cb_calloc(b->width, sizeof *b->rows);
    bool penalised = o->repetition_penalty > 0 && o->repetition_penalty != 1;
    b->seen = penalised ? cb_calloc((size_t)model->config.vocab_size, sizeof *b->seen) : NULL;
    bool decodes = model->towers[CB_TOWER_ENCODER];
    int64_t room = b->run.most < 256 ? b->run.most : 256;
    b->cache = cb_cache_new(model, 1, room + (decodes ? 0 : (int64_t)b->prompt->count));
    if (!b->running || !b->ended || !b->candidates || !b->rows || (penalised && !b->seen) || !b->cache)
        return false;
    b->running[0] = (path){.node = -1};
    b->running_count = 1;
    return true;
}

static void close_beams(beams *b)
{
    cb_run_close(&b->run);
    cb_cache_free(b->cache);
    cb_free(b->running);
    cb_free(b->ended);
    cb_free(b->candidates);
    cb_free(b->rows);
    cb_free(b->seen);
    cb_free(b->nodes);
}

/* ---- passes ---- */

static bool set_context(const beams *b, int64_t rows, cb_context *ctx)
{
    const cb_prompt_ids *p = b->prompt;
    *ctx = (cb_context){.cache = b->cache};
    if (p->task && !(ctx->tasks = cb_full(CB_I32, p->task, rows)))
        return false;
    if (!p->condition_count)
        return true;
    cb_tensor *one = cb_from(CB_F32, p->conditions, 1, (int64_t)p->condition_count);
    ctx->conditions = one ? cb_contiguous(cb_expand(one, rows, -1)) : NULL;
    return ctx->conditions;
}

/* Logits (N, 1, V) behind the last of the ids (N, T). */
static cb_tensor *pass(const beams *b, cb_tensor *ids, cb_tensor *source)
{
    cb_model *model = b->run.model;
    cb_context ctx;
    if (!ids || !set_context(b, ids->shape[0], &ctx))
        return NULL;
    ctx.source = source;
    cb_tensor *hidden = cb_model_hidden(model, ids, &ctx);
    ctx.source = NULL;
    return hidden ? cb_model_head(model, cb_contiguous(cb_slice(hidden, 1, hidden->shape[1] - 1, hidden->shape[1], 1)), &ctx) : NULL;
}

/* The prompt of a decoder, in pieces. */
static cb_tensor *pass_prompt(const beams *b)
{
    cb_tensor *logits = NULL;
    for (size_t done = 0; done < b->prompt->count && cb_ok();) {
        size_t left = b->prompt->count - done, piece = left < CB_PROMPT_PIECE ? left : CB_PROMPT_PIECE;
        cb_scope *scope = cb_scope_open();
        logits = scope ? pass(b, cb_wrap(CB_I32, b->prompt->ids + done, 1, (int64_t)piece), NULL) : NULL;
        done += piece;
        if (scope) {
            logits = done == b->prompt->count ? cb_scope_return(scope, logits) : NULL;
            cb_scope_close(scope);
        }
    }
    return cb_ok() ? logits : NULL;
}

static cb_tensor *pass_first(const beams *b)
{
    cb_model *model = b->run.model;
    if (!model->towers[CB_TOWER_ENCODER])
        return pass_prompt(b);
    return pass(b, cb_full(CB_I32, model->config.decoder_start, 1, 1), cb_wrap(CB_I32, b->prompt->ids, 1, (int64_t)b->prompt->count));
}

static cb_tensor *pass_next(const beams *b)
{
    cb_tensor *ids = cb_empty(CB_I32, (int64_t)b->running_count, 1);
    for (size_t i = 0; ids && i < b->running_count; i++)
        ((int32_t *)ids->data)[i] = b->nodes[b->running[i].node].id;
    return pass(b, ids, NULL);
}

/* ---- a step ---- */

static void mark(const beams *b, size_t beam, bool seen)
{
    const cb_model *model = b->run.model;
    if (model->towers[CB_TOWER_ENCODER])
        b->seen[model->config.decoder_start] = seen;
    for (size_t i = 0; !model->towers[CB_TOWER_ENCODER] && i < b->prompt->count; i++)
        if (b->prompt->ids[i] >= 0 && b->prompt->ids[i] < model->config.vocab_size)
            b->seen[b->prompt->ids[i]] = seen;
    for (int64_t at = b->running[beam].node; at >= 0; at = b->nodes[at].parent)
        b->seen[b->nodes[at].id] = seen;
}

/* As on the log-probabilities of transformers' beams. */
static void penalise(const beams *b, size_t beam, float *log_p)
{
    float penalty = (float)b->options->repetition_penalty;
    if (!b->seen)
        return;
    mark(b, beam, true);
    for (int64_t id = 0; id < b->run.model->config.vocab_size; id++)
        if (b->seen[id])
            log_p[id] = log_p[id] < 0 ? log_p[id] * penalty : log_p[id] / penalty;
    mark(b, beam, false);
}

/* Into its place among the best so far; of equals the earlier comes first. */
static void consider(beams *b, candidate c)
{
    size_t at = b->candidate_count < b->kept ? b->candidate_count++ : b->kept;
    for (; at > 0 && b->candidates[at - 1].score < c.score; at--)
        b->candidates[at] = b->candidates[at - 1];
    b->candidates[at] = c;
}

static bool find_candidates(beams *b, cb_tensor *logits)
{
    int64_t vocabulary = b->run.model->config.vocab_size;
    cb_tensor *log_p = logits ? cb_contiguous(cb_log_softmax(cb_cast(logits, CB_F32), logits->ndim - 1)) : NULL;
    b->candidate_count = 0;
    for (size_t beam = 0; log_p && beam < b->running_count; beam++) {
        float *row = (float *)log_p->data + (int64_t)beam * vocabulary, before = b->running[beam].score;
        if (cb_rehearsing()) { /* there are no numbers */
            for (size_t i = 0; i < b->kept; i++)
                consider(b, (candidate){beam, (int32_t)i, 0});
            continue;
        }
        penalise(b, beam, row);
        for (int64_t id = 0; id < vocabulary; id++) {
            float score = before + row[id];
            if (isnan(score))
                return cb_fail(CB_ERR_NUMERIC, "generate: the logits are no finite numbers") == CB_OK;
            if (b->candidate_count < b->kept || score > b->candidates[b->kept - 1].score)
                consider(b, (candidate){beam, (int32_t)id, score});
        }
    }
    return log_p;
}

static int64_t add_node(beams *b, const candidate *c)
{
    if (!cb_grow(&b->nodes, &b->node_capacity, b->node_count + 1, sizeof *b->nodes))
        return -1;
    b->nodes[b->node_count] = (node){b->running[c->beam].node, c->id};
    return (int64_t)b->node_count++;
}

static bool ends_here(const beams *b, const candidate *c)
{
    return b->length + 1 >= b->run.most || (!b->options->ignore_eos && !cb_rehearsing() && cb_is_eos(b->run.model, c->id));
}

/* Among the N best that have ended, or not. */
static bool add_ended(beams *b, const candidate *c)
{
    float score = (float)(c->score / pow((double)(b->length + 1), b->options->length_penalty));
    if (b->ended_count == b->width && score <= b->ended[b->width - 1].score)
        return true;
    int64_t last = add_node(b, c);
    size_t at = b->ended_count < b->width ? b->ended_count++ : b->width - 1;
    for (; at > 0 && b->ended[at - 1].score < score; at--)
        b->ended[at] = b->ended[at - 1];
    b->ended[at] = (path){last, score};
    return last >= 0;
}

/* Takes candidates in; what goes on is chosen of all of them, what has ended counts where it is among the N best. */
static bool take_candidates(beams *b, path *next, size_t *count)
{
    bool full = b->ended_count == b->width && b->options->early_stopping;
    for (size_t i = 0; i < b->candidate_count; i++) {
        const candidate *c = &b->candidates[i];
        if (ends_here(b, c)) {
            if (i < b->width && !full && !add_ended(b, c))
                return false;
        } else if (*count < b->width) {
            b->rows[*count] = (int64_t)c->beam;
            next[*count] = (path){add_node(b, c), c->score};
            if (next[(*count)++].node < 0)
                return false;
        }
    }
    return true;
}

/* Whether a text that goes on could still be better than one that has ended, as far as its length now says. */
static bool may_improve(const beams *b)
{
    double best = b->running[0].score / pow((double)b->length, b->options->length_penalty);
    return b->ended_count < b->width || (float)best > b->ended[b->width - 1].score;
}

static bool step(beams *b)
{
    if (cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "generation was interrupted") == CB_OK;
    cb_run_warn_of_length(&b->run, cb_cache_length(b->cache), b->length ? 1 : (int64_t)b->prompt->count);
    cb_scope *scope = cb_scope_open();
    path *next = cb_calloc(b->width, sizeof *next);
    size_t count = 0;
    bool ok = scope && next && cb_file_maps_glance() && find_candidates(b, b->length ? pass_next(b) : pass_first(b)) &&
              take_candidates(b, next, &count);
    if (ok) {
        memcpy(b->running, next, count * sizeof *next);
        b->running_count = count;
        b->length++;
        b->over = !count || !may_improve(b) || (b->options->early_stopping && b->ended_count == b->width);
        ok = b->over || cb_cache_gather(b->cache, b->rows, (int64_t)count);
    }
    cb_free(next);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* ---- the whole ---- */

/* The best text, from its end to its beginning and then the right way round. */
static bool give(beams *b)
{
    size_t count = 0;
    for (int64_t at = b->ended[0].node; at >= 0; at = b->nodes[at].parent)
        count++;
    int32_t *ids = cb_alloc((count + 1) * sizeof *ids);
    size_t i = count;
    for (int64_t at = b->ended[0].node; ids && at >= 0; at = b->nodes[at].parent)
        ids[--i] = b->nodes[at].id;
    bool ok = ids;
    for (i = 0; ok && i < count; i++)
        ok = cb_run_put(&b->run, ids[i]);
    cb_free(ids);
    return ok && cb_run_finish(&b->run);
}

/* In a rehearsal: leaves steps out, but for one of each size that memory could have (memory.c). */
static void leave_out(beams *b)
{
    enum { SIZES = 8 }; /* of an octave */
    int64_t some = cb_cache_length(b->cache) / (2 * SIZES), all = b->run.most - b->length - 1, n = some < all ? some : all;
    b->length += n > 0 ? cb_cache_skip(b->cache, n) : 0;
}

bool cb_beams_generate(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompt, const cb_generate_options *options,
                       cb_generate_callback *callback, void *user, cb_generation *out)
{
    beams b = {.prompt = prompt, .options = options};
    double start = cb_now();
    bool old = cb_set_grad_enabled(false), ok = open_beams(&b, model, tokenizer, out) && step(&b);
    b.run.output.callback = callback;
    b.run.output.user = user;
    double first = cb_now();
    while (ok && !b.over) {
        if (cb_rehearsing())
            leave_out(&b);
        ok = step(&b);
    }
    ok = ok && give(&b);
    out->prompt_seconds = first - start;
    out->generate_seconds = cb_now() - first;
    close_beams(&b);
    cb_set_grad_enabled(old);
    return ok;
}
