/* schedule.c: many texts generated as one batch.
 *
 * A text that is being generated has a slot.  A step takes every token under way through one round of the model: all of its blocks, or, in a
 * recursive model, the shared ones once.  Then a token that has run its rounds, or leaves early, becomes the text's next one.  The three ways
 * of batching differ in nothing but when slots are filled and tokens begin (begin()):
 *
 *     static    texts when all slots are free, tokens when none is under way
 *     sequence  texts when a slot is free, tokens when none is under way (Yu et al. 2022, Orca)
 *     depth     both at any time, so that tokens of one step are in different rounds: each runs with the shared weights and with the modules
 *               (the relaxation) of its own round (Bae et al. 2025, arXiv:2410.20672, section 3.8)
 *
 * A pass is over rows: a token of a slot in a round, or a piece of a prompt.  Where their rounds differ, blocks 0 .. K-1 stand for those of
 * every round, and a blend says which round's modules act on which row; so it does for texts with adapters of their own.
 * Shape letters: N rows of a pass, T tokens of each, C width, V vocabulary. */
#include <string.h>

#include "models/generation.h"

typedef struct slot {
    bool taken; /* by a text: */
    size_t request;
    cb_run run;
    double start;
    bool running;   /* one of its tokens is under way: */
    int64_t round;  /* that it has been through */
    int64_t tokens; /* with the one under way */
} slot;

typedef struct row {
    int64_t slot, round; /* 0, 1, ... */
} row;

typedef struct schedule {
    cb_model *model;
    const cb_tokenizer *tokenizer;
    const cb_prompt_ids *prompts;
    size_t count, next; /* requests, and the first that waits */
    const cb_blend *adapters;
    cb_tensor *weights, *tasks, *conditions; /* of the requests, or NULL */
    const cb_generate_options *options;
    const cb_batch_options *batch;
    cb_generation *out;
    int64_t rounds, each, layers, before; /* blocks of a round; virtual tokens */
    cb_blend *blend;                      /* of the pass under way */
    cb_slots *cache;
    cb_tensor *states; /* (slots, 1, C): of tokens under way */
    slot *slots;
    int64_t slot_count;
    row *rows; /* room for every slot in every round */
} schedule;

/* ---- a pass ---- */

typedef struct row_pass {
    schedule *s;
    const row *rows;
    int64_t count;
    cb_slot_rows at;
    cb_pass pass;
    int64_t base;           /* the block that stands for the first of a round */
    bool mixed;             /* its blend is made of what acts in each round and on each text */
    const cb_blend *source; /* which that is of; NULL: of the layers' lists */
} row_pass;

/* Those of each row's text: weights of the blend, numbers of tasks; x NULL: there are none. */
static bool take_rows(const row_pass *p, cb_tensor *x, cb_tensor **taken)
{
    cb_tensor *index = x ? cb_empty(CB_I64, p->count) : NULL;
    for (int64_t i = 0; index && i < p->count; i++)
        ((int64_t *)index->data)[i] = (int64_t)p->s->slots[p->rows[i].slot].request;
    *taken = index ? cb_index_select(x, 0, index) : NULL;
    return !x || *taken;
}

/* The model's own blend serves rows of one round as it is. */
static bool choose_blend(row_pass *p, bool one_round)
{
    schedule *s = p->s;
    cb_context *ctx = &p->pass.ctx;
    bool own = s->model->blend && !s->adapters;
    p->mixed = s->adapters || !one_round;
    p->source = own ? s->model->blend : s->adapters;
    ctx->blend = p->mixed ? s->blend : p->source;
    if (own && s->model->weigh)
        ctx->blend_weights = s->model->weigh(s->model->weigh_user, s->model, NULL, p->count, ctx);
    return !own || !s->model->weigh || ctx->blend_weights;
}

/* The last `tokens` tokens of each row's slot. */
static bool open_pass(row_pass *p, schedule *s, const row *rows, int64_t count, int64_t tokens)
{
    *p = (row_pass){.s = s, .rows = rows, .count = count};
    cb_tensor *positions = cb_empty(CB_I32, count, tokens), *at = cb_empty(CB_I32, count), *lengths = cb_empty(CB_I32, count);
    if (!positions || !at || !lengths)
        return false;
    int64_t longest = 0;
    bool one_round = true;
    for (int64_t i = 0; i < count; i++) {
        int64_t length = s->slots[rows[i].slot].tokens;
        for (int64_t t = 0; t < tokens; t++)
            ((int32_t *)positions->data)[i * tokens + t] = (int32_t)(s->before + length - tokens + t);
        ((int32_t *)at->data)[i] = (int32_t)(rows[i].slot * s->rounds + rows[i].round);
        ((int32_t *)lengths->data)[i] = (int32_t)length;
        longest = length > longest ? length : longest;
        one_round &= rows[i].round == rows[0].round;
    }
    p->base = one_round ? rows[0].round * s->each : 0;
    p->at = (cb_slot_rows){s->cache, at, lengths};
    p->pass.at = &p->at;
    p->pass.ctx.positions = positions;
    if (!take_rows(p, s->weights, &p->pass.ctx.blend_weights) || !take_rows(p, s->tasks, &p->pass.ctx.tasks) ||
        !take_rows(p, s->conditions, &p->pass.ctx.conditions))
        return false;
    cb_blend_clear(s->blend);
    if (!choose_blend(p, one_round))
        return false;
    if (s->model->position_embedding)
        return cb_slots_reserve(s->cache, longest);
    if (!cb_slots_reserve(s->cache, longest) || !cb_rope_prepare(&s->model->rope, s->before + longest))
        return false;
    p->pass.cos = s->model->rope.cos;
    p->pass.sin = s->model->rope.sin;
    return true;
}

/* Rows of the pass with the requests that they are of. */
typedef struct row_list {
    int64_t *rows, *requests;
    size_t count;
} row_list;

/* Those in a round; -1: all. */
static bool list_rows(row_list *list, const row_pass *p, int64_t round)
{
    *list = (row_list){.rows = cb_alloc((size_t)p->count * sizeof(int64_t)), .requests = cb_alloc((size_t)p->count * sizeof(int64_t))};
    for (int64_t i = 0; list->rows && list->requests && i < p->count; i++)
        if (round < 0 || p->rows[i].round == round) {
            list->rows[list->count] = i;
            list->requests[list->count++] = (int64_t)p->s->slots[p->rows[i].slot].request;
        }
    return list->rows && list->requests;
}

static void free_list(row_list *list)
{
    cb_free(list->rows);
    cb_free(list->requests);
}

/* What acts on `from`, and below it, acts on `to` for these rows. */
static bool stand_for(const row_pass *p, const row_list *list, const cb_layer *to, const cb_layer *from)
{
    bool ok = cb_blend_put_rows(p->s->blend, to, from, p->source, list->rows, list->requests, list->count);
    for (size_t i = 0; ok && i < from->child_count; i++)
        ok = stand_for(p, list, to->children[i], from->children[i]);
    return ok;
}

/* Blocks from..to-1 of each round. */
static bool mix_blocks(const row_pass *p, int64_t from, int64_t to)
{
    const schedule *s = p->s;
    bool ok = true;
    for (int64_t round = 0; ok && p->mixed && round < s->rounds; round++) {
        row_list list;
        const cb_block *stand_ins = s->model->blocks + p->base, *own = s->model->blocks + round * s->each;
        ok = list_rows(&list, p, round);
        for (int64_t i = from; ok && list.count && i < to; i++)
            ok = stand_for(p, &list, stand_ins[i].layer, own[i].layer);
        free_list(&list);
    }
    return ok;
}

static bool mix_layer(const row_pass *p, const cb_layer *layer)
{
    if (!layer || !p->mixed)
        return true;
    row_list list;
    bool ok = list_rows(&list, p, -1) && stand_for(p, &list, layer, layer);
    free_list(&list);
    return ok;
}

/* x (N, T, C) through blocks from..to-1 of the rows' rounds. */
static cb_tensor *through_blocks(row_pass *p, cb_tensor *x, int64_t from, int64_t to)
{
    if (!mix_blocks(p, from, to))
        return NULL;
    for (int64_t i = from; x && i < to; i++) {
        if (!p->pass.keys_only && !cb_slots_prefix(&p->at, i, &p->pass.prefix))
            return NULL;
        cb_tensor *y = cb_block_run(p->s->model, p->base + i, x, &p->pass);
        x = y && p->pass.keys_only ? x : y;
    }
    return x;
}

static cb_tensor *embedded(row_pass *p, cb_tensor *ids)
{
    cb_model *model = p->s->model;
    bool ok = mix_layer(p, model->embedding) && mix_layer(p, model->position_embedding);
    return ok && ids ? model->architecture->embed(model, ids, &p->pass) : NULL;
}

/* x (N, 1, C) -> (N, 1, V) */
static cb_tensor *head(row_pass *p, cb_tensor *x)
{
    cb_model *model = p->s->model;
    if (!x || !mix_layer(p, model->norm) || !mix_layer(p, model->head))
        return NULL;
    p->pass.ctx.positions = NULL;
    return cb_model_head(model, model->architecture->norm(model->norm, x, &p->pass.ctx), &p->pass.ctx);
}

static cb_tensor *states_of(const schedule *s, const row *rows, int64_t count)
{
    cb_tensor *index = cb_empty(CB_I64, count);
    for (int64_t i = 0; index && i < count; i++)
        ((int64_t *)index->data)[i] = rows[i].slot;
    return index ? cb_index_select(s->states, 0, index) : NULL;
}

static bool put_states(const schedule *s, const row *rows, int64_t count, cb_tensor *x)
{
    bool ok = x;
    for (int64_t i = 0; ok && i < count; i++)
        ok = cb_copy_into(cb_slice(s->states, 0, rows[i].slot, rows[i].slot + 1, 1), cb_slice(x, 0, i, i + 1, 1));
    return ok;
}

/* Tokens under way through blocks from..to-1 of their rounds; keys_only: these take them as they are. */
static bool run_blocks(schedule *s, const row *rows, int64_t count, int64_t from, int64_t to, bool keys_only)
{
    cb_scope *scope = count && from < to ? cb_scope_open() : NULL;
    if (!scope)
        return cb_ok();
    row_pass p;
    bool ok = open_pass(&p, s, rows, count, 1);
    p.pass.keys_only = keys_only;
    cb_tensor *x = ok ? through_blocks(&p, states_of(s, rows, count), from, to) : NULL;
    ok = x && (keys_only || put_states(s, rows, count, x));
    cb_scope_close(scope);
    return ok;
}

/* The last round of a model may be shorter: how many blocks all rounds have. */
static int64_t common_blocks(const schedule *s)
{
    return s->layers - (s->rounds - 1) * s->each;
}

/* Rows in ascending rounds through the whole of them. */
static bool run_round(schedule *s, const row *rows, int64_t count, bool keys_only)
{
    int64_t longer = count;
    while (longer && rows[longer - 1].round == s->rounds - 1)
        longer--;
    return run_blocks(s, rows, count, 0, common_blocks(s), keys_only) && run_blocks(s, rows, longer, common_blocks(s), s->each, keys_only);
}

/* ---- prompts ---- */

/* A piece of the prompt through all rounds; the state of its last token, (1, 1, C). */
static cb_tensor *run_piece(schedule *s, row *at, const int32_t *ids, int64_t tokens)
{
    cb_tensor *x = NULL;
    s->slots[at->slot].tokens += tokens;
    for (at->round = 0; at->round < s->rounds; at->round++) {
        row_pass p;
        if (!open_pass(&p, s, at, 1, tokens) || (!at->round && !(x = embedded(&p, cb_wrap(CB_I32, ids, 1, tokens)))))
            return NULL;
        x = through_blocks(&p, x, 0, at->round == s->rounds - 1 ? common_blocks(s) : s->each);
    }
    return x ? cb_slice(x, 1, tokens - 1, tokens, 1) : NULL;
}

static cb_tensor *run_prompt(schedule *s, row *at, cb_prompt_ids prompt)
{
    cb_tensor *x = NULL;
    for (size_t done = 0; done < prompt.count;) {
        size_t piece = prompt.count - done < CB_PROMPT_PIECE ? prompt.count - done : CB_PROMPT_PIECE;
        cb_scope *scope = cb_scope_open();
        if (!scope)
            return NULL;
        x = run_piece(s, at, prompt.ids + done, (int64_t)piece);
        done += piece;
        x = done == prompt.count && x ? cb_scope_return(scope, cb_contiguous(x)) : x;
        cb_scope_close(scope);
        if (!cb_ok())
            return NULL;
        if (cb_interrupted())
            return cb_fail(CB_ERR_INTERRUPTED, "generation was interrupted"), NULL;
    }
    return x;
}

/* Virtual tokens go through the model once, before the text. */
static bool run_virtual_tokens(schedule *s, int64_t index)
{
    cb_scope *scope = s->before ? cb_scope_open() : NULL;
    if (!scope)
        return cb_ok();
    cb_prompt prompt = {0};
    row_pass p;
    row at = {index, 0};
    s->slots[index].tokens = 1;
    bool ok = open_pass(&p, s, &at, 1, 1);
    s->slots[index].tokens = 0;
    ok = ok && cb_prompt_begin(&prompt, s->model, &p.pass);
    for (int64_t i = 0; ok && i < s->layers; i++)
        ok = cb_prompt_next(&prompt, s->model, i, &p.pass) && cb_slots_put_prefix(s->cache, index, i, p.pass.prefix);
    cb_prompt_end(&prompt, &p.pass);
    cb_scope_close(scope);
    return ok;
}

static bool end_text(schedule *s, slot *own)
{
    own->taken = false;
    own->run.out->generate_seconds = cb_now() - own->start;
    bool ok = cb_run_finish(&own->run);
    cb_run_close(&own->run);
    return ok && (!s->batch->ended || s->batch->ended(s->batch->user, own->request));
}

/* The next request takes a free slot: its prompt runs, and gives the first token. */
static bool admit(schedule *s, int64_t index)
{
    slot *own = &s->slots[index];
    cb_prompt_ids prompt = s->prompts[s->next];
    *own = (slot){.request = s->next, .taken = true, .start = cb_now()};
    if (!cb_run_open(&own->run, s->model, s->tokenizer, prompt, s->options, &s->out[s->next++]))
        return false;
    cb_run_warn_of_length(&own->run, 0, (int64_t)prompt.count);
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    row at = {index, 0};
    row_pass p;
    cb_tensor *x = run_virtual_tokens(s, index) ? run_prompt(s, &at, prompt) : NULL;
    at.round = s->rounds - 1;
    bool ok = x && open_pass(&p, s, &at, 1, 1) && cb_sampler_see(own->run.sampler, prompt.ids, prompt.count) &&
              cb_run_take(&own->run, head(&p, x));
    cb_scope_close(scope);
    own->run.out->prompt_seconds = cb_now() - own->start;
    own->start = cb_now();
    return ok && (cb_run_goes_on(&own->run) || end_text(s, own));
}

/* ---- steps ---- */

/* The tokens that came last become rows under way. */
static bool embed_last(schedule *s, const row *rows, int64_t count)
{
    cb_scope *scope = count ? cb_scope_open() : NULL;
    if (!scope)
        return cb_ok();
    row_pass p;
    cb_tensor *ids = cb_empty(CB_I32, count, 1);
    for (int64_t i = 0; ids && i < count; i++) {
        slot *own = &s->slots[rows[i].slot];
        const cb_generation *out = own->run.out;
        cb_run_warn_of_length(&own->run, own->tokens++, 1);
        own->running = true;
        own->round = 0;
        ((int32_t *)ids->data)[i] = out->ids[out->count - 1];
    }
    bool ok = ids && open_pass(&p, s, rows, count, 1) && put_states(s, rows, count, embedded(&p, ids));
    cb_scope_close(scope);
    return ok;
}

static bool begin(schedule *s)
{
    bool under_way = false, all_free = true;
    for (int64_t i = 0; i < s->slot_count; i++) {
        under_way |= s->slots[i].running;
        all_free &= !s->slots[i].taken;
    }
    if (under_way && s->batch->batching != CB_BATCHING_DEPTH)
        return true;
    int64_t count = 0;
    for (int64_t i = 0; i < s->slot_count; i++) {
        bool may = s->batch->batching != CB_BATCHING_STATIC || all_free;
        while (may && !s->slots[i].taken && s->next < s->count)
            if (!admit(s, i))
                return false;
        if (s->slots[i].taken && !s->slots[i].running)
            s->rows[count++] = (row){i, 0};
    }
    return embed_last(s, s->rows, count);
}

/* Fills s->rows with the tokens under way, those in earlier rounds first. */
static int64_t rows_under_way(const schedule *s)
{
    int64_t count = 0;
    for (int64_t round = 0; round < s->rounds; round++)
        for (int64_t i = 0; i < s->slot_count; i++)
            if (s->slots[i].running && s->slots[i].round == round)
                s->rows[count++] = (row){i, round};
    return count;
}

/* The tokens under way whose logits somebody wants to see. */
static int64_t rows_to_judge(const schedule *s)
{
    int64_t count = 0;
    for (int64_t i = 0; i < s->slot_count; i++) {
        const slot *own = &s->slots[i];
        if (own->running && (own->round == s->rounds || own->round == s->options->exit_round || cb_exit_reads_logits(&own->run.exit)))
            s->rows[count++] = (row){i, own->round - 1};
    }
    return count;
}

/* Whether the token ends in this round and is taken in; *ok: nothing failed. */
static bool leaves(const schedule *s, slot *own, const cb_tensor *logits, bool *ok)
{
    cb_exit *e = &own->run.exit;
    if (own->round < s->rounds && !cb_exit_leaves(e, own->round, logits))
        return false;
    own->running = false;
    own->run.rounds = e->likeliest ? cb_exit_first_right(e, logits) : own->round;
    *ok = cb_run_take(&own->run, logits);
    return true;
}

/* Keys and values of the rounds that tokens have left out. */
static bool fill_skipped(schedule *s)
{
    int64_t count = 0;
    for (int64_t round = 1; round < s->rounds; round++)
        for (int64_t i = 0; i < s->slot_count; i++) {
            const slot *own = &s->slots[i];
            if (own->taken && !own->running && cb_run_goes_on(&own->run) && own->round && own->round <= round)
                s->rows[count++] = (row){i, round};
        }
    return run_round(s, s->rows, count, true);
}

static bool judge(schedule *s)
{
    int64_t count = rows_to_judge(s);
    cb_scope *scope = count ? cb_scope_open() : NULL;
    if (!scope)
        return cb_ok();
    row_pass p;
    cb_tensor *logits = open_pass(&p, s, s->rows, count, 1) ? head(&p, states_of(s, s->rows, count)) : NULL;
    bool ok = logits, early = false;
    for (int64_t i = 0; ok && i < count; i++) {
        slot *own = &s->slots[s->rows[i].slot];
        early |= leaves(s, own, cb_slice(logits, 0, i, i + 1, 1), &ok) && own->round < s->rounds;
    }
    cb_scope_close(scope);
    ok = ok && (!early || fill_skipped(s));
    for (int64_t i = 0; ok && i < s->slot_count; i++)
        if (s->slots[i].taken && !s->slots[i].running && !cb_run_goes_on(&s->slots[i].run))
            ok = end_text(s, &s->slots[i]);
    for (int64_t i = 0; i < s->slot_count; i++)
        if (!s->slots[i].running)
            s->slots[i].round = 0;
    return ok;
}

static bool step(schedule *s)
{
    if (!begin(s))
        return false;
    int64_t count = rows_under_way(s);
    if (!run_round(s, s->rows, count, false))
        return false;
    for (int64_t i = 0; i < count; i++)
        s->slots[s->rows[i].slot].round++;
    if (cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "generation was interrupted") == CB_OK;
    return judge(s);
}

static bool goes_on(const schedule *s)
{
    bool any = s->next < s->count;
    for (int64_t i = 0; i < s->slot_count; i++)
        any |= s->slots[i].taken;
    return any;
}

/* ---- the whole ---- */

bool cb_prompts_tasks(const cb_prompt_ids *prompts, size_t count, cb_tensor **tasks)
{
    bool any = false;
    for (size_t i = 0; i < count; i++)
        any |= prompts[i].task != 0;
    *tasks = any ? cb_empty(CB_I32, (int64_t)count) : NULL;
    for (size_t i = 0; *tasks && i < count; i++)
        ((int32_t *)(*tasks)->data)[i] = prompts[i].task;
    return !any || *tasks;
}

bool cb_prompts_conditions(const cb_prompt_ids *prompts, size_t count, cb_tensor **conditions)
{
    size_t width = prompts[0].condition_count;
    for (size_t i = 0; i < count; i++)
        if (prompts[i].condition_count != width)
            return cb_fail(CB_ERR_ARGUMENT, "generate: prompt %zu has %zu conditions, expected %zu, as the first has", i,
                           prompts[i].condition_count, width) == CB_OK;
    *conditions = width ? cb_empty(CB_F32, (int64_t)count, (int64_t)width) : NULL;
    for (size_t i = 0; *conditions && i < count; i++)
        memcpy((float *)(*conditions)->data + i * width, prompts[i].conditions, width * sizeof(float));
    return !width || *conditions;
}

/* Rows in different rounds go through one attention. */
static bool check_windows(const schedule *s)
{
    for (int64_t i = s->each; s->batch->batching == CB_BATCHING_DEPTH && i < s->layers; i++)
        if (s->model->blocks[i].window != s->model->blocks[i % s->each].window)
            return cb_fail(CB_ERR_UNSUPPORTED,
                           "generate: batching by depth where layers %lld and %lld share weights and have different attention windows; "
                           "expected another batching",
                           (long long)(i % s->each), (long long)i) == CB_OK;
    return true;
}

static bool check(const schedule *s)
{
    const cb_batch_options *b = s->batch;
    if (b->batch_size < 1)
        return cb_fail(CB_ERR_ARGUMENT, "generate: batch_size is %lld, expected 1 or more", (long long)b->batch_size) == CB_OK;
    if (b->batching == CB_BATCHING_DEPTH && !cb_model_shared_layers(s->model))
        return cb_fail(CB_ERR_ARGUMENT, "generate: batching by depth is for recursive models, found model_type %s, expected %s%s",
                       cb_model_type(s->model), CB_RECURSIVE, cb_model_type(s->model)) == CB_OK;
    return check_windows(s) && cb_blend_check(s->adapters, s->weights, (int64_t)s->count, 1);
}

static bool open_schedule(schedule *s)
{
    const cb_model_config *c = &s->model->config;
    int64_t longest = 1, most = s->options->max_new_tokens < 64 ? s->options->max_new_tokens : 64;
    s->rounds = cb_model_exits(s->model);
    s->layers = c->layers;
    s->each = c->shared ? c->shared : c->layers;
    s->before = cb_prompt_tokens(s->model, &(cb_context){.blend = s->adapters});
    if (s->before < 0 || !check(s))
        return false;
    for (size_t i = 0; i < s->count; i++)
        longest = (int64_t)s->prompts[i].count > longest ? (int64_t)s->prompts[i].count : longest;
    if (!cb_prompts_tasks(s->prompts, s->count, &s->tasks) || !cb_prompts_conditions(s->prompts, s->count, &s->conditions))
        return false;
    s->slot_count = s->batch->batch_size < (int64_t)s->count ? s->batch->batch_size : (int64_t)s->count;
    s->slots = cb_calloc((size_t)s->slot_count, sizeof *s->slots);
    s->rows = cb_calloc((size_t)(s->slot_count * s->rounds), sizeof *s->rows);
    s->blend = cb_blend_new(cb_model_root(s->model));
    s->cache = cb_slots_new(s->model, s->slot_count, longest + (most > 0 ? most : 1));
    s->states = cb_keep(cb_empty(s->model->dtype, s->slot_count, 1, c->width));
    return s->slots && s->rows && s->blend && s->cache && s->states;
}

static void close_schedule(schedule *s)
{
    for (int64_t i = 0; s->slots && i < s->slot_count; i++)
        if (s->slots[i].taken)
            cb_run_close(&s->slots[i].run);
    cb_release(s->states);
    cb_slots_free(s->cache);
    cb_blend_free(s->blend);
    cb_free(s->rows);
    cb_free(s->slots);
}

/* Beams take the place of other prompts in a batch. */
static bool generate_beams(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count,
                           const cb_blend *blend, const cb_generate_options *options, const cb_batch_options *batch, cb_generation *out)
{
    if (blend)
        return cb_fail(CB_ERR_UNSUPPORTED, "generate: num_beams is %lld, expected 1 where rows have adapters of their own",
                       (long long)options->num_beams) == CB_OK;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_beams_generate(model, tokenizer, &prompts[i], options, NULL, NULL, &out[i]) &&
             (!batch->ended || batch->ended(batch->user, i));
    return ok;
}

bool cb_generate_batch(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                       cb_tensor *blend_weights, const cb_generate_options *options, const cb_batch_options *batch, cb_generation *out)
{
    if (!model || !prompts || !count || !out || !options || !batch || !cb_ok() || !cb_can_generate(model))
        return false;
    if (options->num_beams > 1)
        return generate_beams(model, tokenizer, prompts, count, blend, options, batch, out);
    schedule s = {.model = model,
                  .tokenizer = tokenizer,
                  .prompts = prompts,
                  .count = count,
                  .adapters = blend,
                  .weights = blend_weights,
                  .options = options,
                  .batch = batch,
                  .out = out};
    bool old = cb_set_grad_enabled(false);
    cb_scope *scope = cb_scope_open();
    bool ok = scope && (model->towers[CB_TOWER_ENCODER] ? check(&s) : open_schedule(&s));
    if (ok && model->towers[CB_TOWER_ENCODER])
        ok = cb_seq2seq_batches(model, tokenizer, prompts, count, blend, blend_weights, options, batch, out);
    while (ok && s.slots && goes_on(&s))
        ok = step(&s);
    close_schedule(&s);
    if (scope)
        cb_scope_close(scope);
    cb_set_grad_enabled(old);
    return ok;
}

bool cb_generate_rows(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                      cb_tensor *blend_weights, const cb_generate_options *options, cb_generation *out)
{
    const cb_batch_options together = {.batching = CB_BATCHING_STATIC, .batch_size = (int64_t)count};
    return cb_generate_batch(model, tokenizer, prompts, count, blend, blend_weights, options, &together, out);
}
