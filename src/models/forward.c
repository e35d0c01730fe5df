/* forward.c: a pass through a model: ids or pixels to hidden states, logits or loss.
 *
 * Blocks run one after another, each in its own scope, so a block's intermediate tensors are gone when it ends, unless
 * the tape saved them.  With ctx->checkpoint the tape saves only the inputs of a block's two halves: everything else a
 * half needs travels as tensors beside it, a small struct included, because the caller's context may be gone when the
 * backward pass runs it again.  By halves, because the last product of a half is the one that need not be made again
 * (ctx->unread): a quarter to a third of a block's products. */
#include <string.h>

#include "models/internal.h"
#include "nn/watch.h"
#include "tensor/op.h"

/* Logits of the head's slow path are made for this many values at a time. */
#define CHUNK_VALUES ((int64_t)1 << 23)

cb_tensor *cb_activate(cb_activation activation, cb_tensor *x)
{
    const double slope = 1.702; /* "quick": x sigmoid(1.702 x) */
    switch (activation) {
    case CB_ACT_SILU:
        return cb_silu(x);
    case CB_ACT_GELU:
        return cb_gelu(x);
    case CB_ACT_GELU_TANH:
        return cb_gelu_tanh(x);
    case CB_ACT_QUICK_GELU:
        return cb_scale(cb_silu(cb_scale(x, slope)), 1 / slope);
    case CB_ACT_RELU:
        return cb_relu(x);
    case CB_ACT_RELU6:
        return cb_clamp(x, 0, 6);
    case CB_ACT_TANH:
        return cb_tanh(x);
    case CB_ACT_NONE:
        return x;
    case CB_ACT_OF_CONFIG: /* are others by now */
    case CB_ACT_OF_POOLER:
        break;
    }
    return NULL;
}

cb_tensor *cb_close_branch(const cb_layer *host, const cb_layer *projection, cb_tensor *residual, cb_tensor *x, cb_tensor *inner,
                           const cb_context *ctx)
{
    if (!inner)
        return NULL;
    if (!cb_layer_hosts(host, ctx))
        return cb_linear_forward_add(projection, residual, inner, ctx);
    cb_context beside = *ctx;
    beside.residual = residual;
    return cb_add(residual, cb_layer_after(host, x, cb_linear_forward(projection, inner, ctx), &beside));
}

/* ---- one half of a block ---- */

typedef struct branch_call {
    cb_branch *branch;
    const cb_model *model;
    int64_t index;
    cb_pass pass;
} branch_call;

enum {
    INPUT_X,
    INPUT_POSITIONS,
    INPUT_SEGMENTS,
    INPUT_TASKS,
    INPUT_CONDITIONS,
    INPUT_TIME,
    INPUT_CLASSES,
    INPUT_COS,
    INPUT_SIN,
    INPUT_WEIGHTS,
    INPUT_PREFIX_K,
    INPUT_PREFIX_V,
    INPUT_BIAS,
    INPUT_STATES,
    INPUT_SOURCE_MASK,
    INPUT_CALL,
    INPUT_COUNT
};

static cb_tensor *branch_again(void *user, cb_tensor *const *inputs)
{
    (void)user;
    branch_call call;
    memcpy(&call, inputs[INPUT_CALL]->data, sizeof call);
    call.pass.ctx.positions = inputs[INPUT_POSITIONS];
    call.pass.ctx.segments = inputs[INPUT_SEGMENTS];
    call.pass.ctx.tasks = inputs[INPUT_TASKS];
    call.pass.ctx.conditions = inputs[INPUT_CONDITIONS];
    call.pass.ctx.blend_weights = inputs[INPUT_WEIGHTS];
    call.pass.time = inputs[INPUT_TIME];
    call.pass.classes = inputs[INPUT_CLASSES];
    call.pass.ctx.unread = cb_grad_enabled(); /* the second run: what comes out is there already */
    call.pass.cos = inputs[INPUT_COS];
    call.pass.sin = inputs[INPUT_SIN];
    call.pass.prefix = (cb_keys){inputs[INPUT_PREFIX_K], inputs[INPUT_PREFIX_V]};
    call.pass.bias = inputs[INPUT_BIAS];
    call.pass.states = inputs[INPUT_STATES];
    call.pass.source_mask = inputs[INPUT_SOURCE_MASK];
    cb_keep(inputs[INPUT_X]); /* the tape wants it as it is */
    cb_tensor *y = call.branch(call.model, call.index, inputs[INPUT_X], &call.pass);
    cb_release(inputs[INPUT_X]);
    return y;
}

static cb_tensor *branch_checkpointed(cb_branch *branch, const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    branch_call call = {.branch = branch, .model = model, .index = index, .pass = *pass};
    cb_tensor *inputs[INPUT_COUNT] = {[INPUT_X] = x,
                                      [INPUT_POSITIONS] = pass->ctx.positions,
                                      [INPUT_SEGMENTS] = pass->ctx.segments,
                                      [INPUT_TASKS] = pass->ctx.tasks,
                                      [INPUT_CONDITIONS] = pass->ctx.conditions,
                                      [INPUT_TIME] = pass->time,
                                      [INPUT_CLASSES] = pass->classes,
                                      [INPUT_COS] = pass->cos,
                                      [INPUT_SIN] = pass->sin,
                                      [INPUT_WEIGHTS] = pass->ctx.blend_weights,
                                      [INPUT_PREFIX_K] = pass->prefix.k,
                                      [INPUT_PREFIX_V] = pass->prefix.v,
                                      [INPUT_BIAS] = pass->bias,
                                      [INPUT_STATES] = pass->states,
                                      [INPUT_SOURCE_MASK] = pass->source_mask,
                                      [INPUT_CALL] = cb_from(CB_U8, &call, (int64_t)sizeof call)};
    return inputs[INPUT_CALL] ? cb_checkpoint(branch_again, NULL, INPUT_COUNT, inputs, pass->ctx.rng) : NULL;
}

/* Whether the backward pass has anything to do in a block: otherwise there is no point in running it again. */
static bool takes_gradient(const cb_layer *layer, const cb_context *ctx)
{
    if (cb_layer_hosts(layer, ctx))
        return true;
    for (const cb_layer *own = layer; own; own = own->tied)
        for (int i = 0; i < own->weight_count; i++)
            if (own->weights[i].tensor->requires_grad)
                return true;
    for (size_t i = 0; i < layer->child_count; i++)
        if (takes_gradient(layer->children[i], ctx))
            return true;
    return false;
}

static bool wants_gradient(const cb_tensor *t)
{
    return t && t->requires_grad;
}

cb_tensor *cb_branch_run(cb_branch *branch, const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    cb_scope *scope = x ? cb_scope_open() : NULL;
    if (!scope)
        return NULL;
    bool learns = x->requires_grad || wants_gradient(pass->time) || wants_gradient(pass->prefix.k) || wants_gradient(pass->bias) ||
                  wants_gradient(pass->states) || takes_gradient(model->blocks[index].layer, &pass->ctx);
    bool checkpoint = pass->ctx.checkpoint && cb_grad_enabled() && learns;
    cb_tensor *y = checkpoint ? branch_checkpointed(branch, model, index, x, pass) : branch(model, index, x, pass);
    if (y != x) /* x's memory with something added is the caller's already */
        y = cb_scope_return(scope, y);
    cb_scope_close(scope);
    return y;
}

/* ---- one block ---- */

static cb_tensor *block_with_modules(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_layer *layer = model->blocks[index].layer;
    cb_keep(x); /* its modules see the input again, so the block may not reuse its memory */
    cb_tensor *inner = cb_layer_before(layer, x, &pass->ctx);
    cb_keep(inner);
    cb_tensor *y = inner ? model->architecture->block(model, index, inner, pass) : NULL;
    y = cb_layer_after(layer, inner, y, &pass->ctx);
    cb_release(inner);
    cb_release(x);
    return y;
}

cb_tensor *cb_block_run(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    bool plain = !cb_layer_hosts(model->blocks[index].layer, &pass->ctx);
    cb_tensor *y = plain ? model->architecture->block(model, index, x, pass) : block_with_modules(model, index, x, pass);
    if (y != x)
        y = cb_scope_return(scope, y);
    cb_scope_close(scope);
    return y;
}

/* ---- before the first block ---- */

static bool same_layout(const char *what, const cb_tensor *t, const cb_tensor *ids)
{
    if (t->ndim == 2 && t->shape[0] == ids->shape[0] && t->shape[1] == ids->shape[1] && t->dtype == CB_I32)
        return true;
    cb_fail(CB_ERR_SHAPE, "model: %s are %s for ids %s, expected i32 of the same shape", what, cb_shape_text(t), cb_shape_text(ids));
    return false;
}

/* start, start + 1, ... in every row */
static cb_tensor *counted_positions(const cb_tensor *ids, int64_t start)
{
    cb_tensor *positions = cb_empty(CB_I32, ids->shape[0], ids->shape[1]);
    int32_t *p = positions ? positions->data : NULL;
    for (int64_t i = 0; positions && i < ids->count; i++)
        p[i] = (int32_t)(start + i % ids->shape[1]);
    return positions;
}

/* Behind virtual tokens. */
static cb_tensor *shifted_positions(cb_tensor *positions, int64_t by)
{
    positions = cb_contiguous(positions);
    cb_tensor *shifted = by && positions ? cb_empty_like(positions) : positions;
    for (int64_t i = 0; by && shifted && i < shifted->count; i++) {
        int32_t p = ((const int32_t *)positions->data)[i];
        ((int32_t *)shifted->data)[i] = p < 0 ? p : p + (int32_t)by;
    }
    return shifted;
}

/* 0, 1, ... over the tokens of a row that are not padding: an encoder gives a row what it gives it alone, whatever its padding. */
static cb_tensor *positions_of_text(const cb_tensor *ids, const cb_tensor *segments, int64_t start)
{
    cb_tensor *positions = cb_empty(CB_I32, ids->shape[0], ids->shape[1]);
    int32_t *p = positions ? positions->data : NULL, next = 0;
    for (int64_t i = 0; positions && i < ids->count; i++) {
        bool padding = cb_get(segments, i) < 0;
        next = i % ids->shape[1] ? next : (int32_t)start;
        p[i] = padding ? 0 : next;
        next += !padding;
    }
    return positions;
}

/* Fills in pass->ctx.positions, the first of which comes behind `first` virtual tokens, and gives one more than the largest; -1 on
 * failure. */
static int64_t positions_prepare(cb_pass *pass, const cb_model *model, const cb_tensor *ids, int64_t first)
{
    int64_t start = first + cb_cache_length(pass->ctx.cache);
    if (!pass->ctx.positions) {
        bool text = model->architecture->bidirectional && pass->ctx.segments;
        pass->ctx.positions = text ? positions_of_text(ids, pass->ctx.segments, start) : counted_positions(ids, start);
        return pass->ctx.positions ? start + ids->shape[1] : -1;
    }
    if (!same_layout("positions", pass->ctx.positions, ids))
        return -1;
    pass->ctx.positions = shifted_positions(pass->ctx.positions, first);
    if (!pass->ctx.positions)
        return -1;
    const int32_t *p = pass->ctx.positions->data;
    int64_t most = -1;
    for (int64_t i = 0; i < ids->count; i++) {
        if (p[i] < 0) {
            cb_fail(CB_ERR_ARGUMENT, "model: position %d, expected 0 or more", p[i]);
            return -1;
        }
        most = p[i] > most ? p[i] : most;
    }
    return most + 1;
}

static bool tokens_begin(cb_pass *pass, cb_model *model, const cb_tensor *ids)
{
    if (ids->ndim != 2 || !ids->count || (ids->dtype != CB_I32 && ids->dtype != CB_I64)) {
        cb_fail(CB_ERR_SHAPE, "model: ids are %s, expected i32 (batch, time), not empty", cb_shape_text(ids));
        return false;
    }
    cb_cache *cache = pass->ctx.cache;
    const char *type = model->architecture->model_type;
    if (cache && model->architecture->bidirectional)
        return cb_fail(CB_ERR_UNSUPPORTED, "model: %s is an encoder, whose tokens see what comes after them: it generates nothing", type) ==
               CB_OK;
    if ((pass->ctx.segments && !same_layout("segments", pass->ctx.segments, ids)) ||
        (pass->ctx.types && !same_layout("token types", pass->ctx.types, ids)))
        return false;
    if (cache && !cb_cache_begin(cache, model, ids->shape[0], ids->shape[1]))
        return false;
    int64_t first = cb_prompt_tokens(model, &pass->ctx), positions = first < 0 ? -1 : positions_prepare(pass, model, ids, first);
    if (positions < 0)
        return false;
    if (model->position_embedding && positions > model->config.max_positions) {
        cb_fail(CB_ERR_ARGUMENT, "model: position %lld, expected less than %lld (%s has no more learned positions)",
                (long long)positions - 1, (long long)model->config.max_positions, type);
        return false;
    }
    if (!model->position_embedding && model->rope.dims) {
        if (!cb_rope_prepare(&model->rope, positions))
            return false;
        pass->cos = model->rope.cos;
        pass->sin = model->rope.sin;
    }
    return !cache || cb_cache_segments(cache, &pass->ctx.segments);
}

/* What the context says of rows. */
static bool rows_begin(cb_pass *pass, const cb_model *model, const cb_tensor *input)
{
    pass->ctx.first_row = 0;
    pass->ctx.first_token = cb_cache_length(pass->ctx.cache);
    int64_t tokens = model->architecture->images || model->architecture->series ? 0 : input->shape[1];
    if (!cb_blend_check(pass->ctx.blend, pass->ctx.blend_weights, input->shape[0], tokens))
        return false;
    const cb_tensor *tasks = pass->ctx.tasks;
    if (!tasks || (tasks->ndim == 1 && tasks->dtype == CB_I32 && tasks->shape[0] == input->shape[0]))
        return true;
    return cb_fail(CB_ERR_SHAPE, "model: tasks are %s for an input of %s, expected i32 (B)", cb_shape_text(tasks), cb_shape_text(input)) ==
           CB_OK;
}

static bool pass_begin(cb_pass *pass, cb_model *model, const cb_tensor *input)
{
    const cb_architecture *a = model->architecture;
    bool (*begin)(cb_pass *, cb_model *, const cb_tensor *) = a->images ? cb_pixels_begin : a->series ? cb_series_begin : tokens_begin;
    return begin(pass, model, input) && rows_begin(pass, model, input) && (!a->begin || a->begin(model, input, pass));
}

/* ---- the model's own blend ---- */

void cb_model_set_blend(cb_model *model, cb_blend *blend, cb_weigh_function *weigh, void *user)
{
    cb_blend_free(model->blend);
    model->blend = blend;
    model->weigh = weigh;
    model->weigh_user = user;
}

static bool head_hosts(const cb_model *model, const cb_context *ctx)
{
    const cb_layer *const layers[] = {model->head_dense, model->head_norm, model->head};
    for (int i = 0; i < 3; i++)
        if (layers[i] && cb_layer_hosts(layers[i], ctx))
            return true;
    return false;
}

/* The context of a pass of so many rows, with the model's blend where it has none of its own; ids NULL: of the head alone. */
static bool composed(cb_model *model, cb_tensor *ids, int64_t rows, const cb_context *given, cb_context *ctx)
{
    *ctx = given ? *given : (cb_context){0};
    if (ctx->blend || !model->blend)
        return true;
    ctx->blend = model->blend;
    if (!model->weigh || (!ids && !head_hosts(model, ctx)))
        return true;
    ctx->blend_weights = model->weigh(model->weigh_user, model, ids, rows, ctx);
    return ctx->blend_weights;
}

/* ---- hidden states and logits ---- */

/* Blocks that end with a norm need no other. */
static cb_tensor *last_norm(const cb_model *model, cb_tensor *x, const cb_context *ctx)
{
    const cb_architecture *a = model->architecture;
    if (!x || !model->norm)
        return x;
    return (a->maps_norm && cb_head_judges_places(model) ? a->maps_norm : a->norm)(model->norm, x, ctx);
}

/* What comes out after each round through a recursive model's shared blocks but the last, normalised as the last is. */
static bool keep_exit(cb_model *model, int64_t done, cb_tensor *x, const cb_pass *pass, cb_scope *scope, cb_tensor **exits)
{
    int64_t each = model->config.shared;
    if (!exits || !x || done % each || done == model->config.layers)
        return x;
    cb_tensor **exit = &exits[done / each - 1];
    *exit = cb_scope_return(scope, last_norm(model, x, &pass->ctx));
    return *exit;
}

/* Whether the pass goes no further than its state does, after `done` blocks. */
static bool leaves(cb_model *model, int64_t done, cb_tensor *x, const cb_pass *pass, const cb_leaving *leaving)
{
    int64_t each = model->config.shared;
    if (!leaving || !x || pass->keys_only || !each || done % each || done == model->config.layers)
        return pass->keys_only;
    return leaving->leaves(leaving->user, done / each, last_norm(model, x, &pass->ctx));
}

static cb_tensor *run_next(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    cb_tensor *y = cb_block_run(model, index, x, pass);
    return y && pass->keys_only ? x : y;
}

/* Whether a layer's modules do with each token what they would do if it were alone. */
static bool judges_tokens_alone(const cb_layer *layer)
{
    for (size_t i = 0; i < layer->module_count; i++) {
        const cb_module_kind *kind = layer->modules[i]->kind;
        if (kind->before || kind->attend || kind->attended || kind->prompt || (kind->forward && !kind->low_rank))
            return false;
    }
    for (size_t i = 0; i < layer->child_count; i++)
        if (!judges_tokens_alone(layer->children[i]))
            return false;
    return true;
}

/* Whether the last block may give the first tokens alone: all but its keys and values is then made of one token a row. */
static bool can_end_with_first(const cb_model *model, const cb_pass *pass)
{
    const cb_context *ctx = &pass->ctx;
    return model->architecture->ends_with_first && !model->config.shared && !pass->bias && !pass->prefix.k && !ctx->blend && !ctx->cache &&
           !cb_layer_watching && judges_tokens_alone(model->blocks[model->config.layers - 1].layer);
}

/* What a pass is run for, beside its hidden states. */
typedef struct hidden_wish {
    cb_tensor **exits;
    const cb_leaving *leaving;
    bool first_alone; /* only the first token of each row is read: (B, 1, C) is enough */
} hidden_wish;

static cb_tensor *hidden_run(cb_model *model, cb_tensor *ids, const cb_context *ctx, const hidden_wish *wish)
{
    cb_tensor **exits = wish->exits;
    cb_pass pass = {0};
    cb_prompt prompt = {0};
    cb_scope *around = cb_scope_open(); /* positions live as long as the pass */
    cb_scope *scope = around && composed(model, ids, ids->shape[0], ctx, &pass.ctx) && pass_begin(&pass, model, ids) &&
                              cb_encoded_begin(&pass, model, ids) && cb_prompt_begin(&prompt, model, &pass)
                          ? cb_scope_open()
                          : NULL;
    cb_tensor *x = scope ? model->architecture->embed(model, ids, &pass) : NULL;
    for (int64_t i = 0; x && i < model->config.layers; i++) {
        bool ready = cb_prompt_next(&prompt, model, i, &pass);
        pass.first_alone = wish->first_alone && i + 1 == model->config.layers && can_end_with_first(model, &pass);
        x = cb_scope_renew(&scope, ready ? run_next(model, i, x, &pass) : NULL);
        if (!keep_exit(model, i + 1, x, &pass, scope, exits))
            x = NULL;
        pass.keys_only = leaves(model, i + 1, x, &pass, wish->leaving);
    }
    cb_prompt_end(&prompt, &pass);
    bool finishes = x && model->architecture->finish;
    x = finishes ? model->architecture->finish(model, x, &pass) : last_norm(model, x, &pass.ctx);
    if (x && pass.ctx.cache)
        cb_cache_end(pass.ctx.cache);
    if (scope) {
        x = cb_scope_return(scope, x);
        cb_scope_close(scope);
    }
    if (around) {
        x = cb_scope_return(around, x);
        for (int64_t i = 0; exits && x && i + 1 < cb_model_exits(model); i++)
            exits[i] = cb_scope_return(around, exits[i]);
        cb_scope_close(around);
    }
    return x;
}

/* Which of two towers takes this input; the model itself where it has none. */
static cb_model *tower_for(cb_model *model, const cb_tensor *input)
{
    cb_model *images = model->towers[CB_TOWER_IMAGES], *text = model->towers[CB_TOWER_TEXT];
    return text && !cb_dtype_is_float(input->dtype) ? text : images ? images : model;
}

static cb_tensor *hidden_of(cb_model *model, cb_tensor *ids, const cb_context *ctx, const hidden_wish *wish)
{
    if (!model || !ids || !cb_ok())
        return NULL;
    cb_model *tower = tower_for(model, ids);
    cb_context own;
    if (tower != model)
        return composed(model, ids, ids->shape[0], ctx, &own) ? hidden_of(tower, ids, &own, wish) : NULL;
    /* a cache outlives the tape: nothing could flow back through it */
    bool old = cb_set_grad_enabled(cb_grad_enabled() && !(ctx && ctx->cache));
    cb_tensor *hidden = hidden_run(model, ids, ctx, wish);
    cb_set_grad_enabled(old);
    return hidden;
}

cb_tensor *cb_model_hidden(cb_model *model, cb_tensor *ids, const cb_context *ctx)
{
    return hidden_of(model, ids, ctx, &(hidden_wish){0});
}

cb_tensor *cb_hidden_leaving(cb_model *model, cb_tensor *ids, const cb_context *ctx, const cb_leaving *leaving)
{
    return hidden_of(model, ids, ctx, &(hidden_wish){.leaving = leaving});
}

/* All that the head reads of them. */
static cb_tensor *hidden_for_head(cb_model *model, cb_tensor *ids, const cb_context *ctx)
{
    return hidden_of(model, ids, ctx, &(hidden_wish){.first_alone = model && cb_head_reads_first(model)});
}

int64_t cb_model_exits(const cb_model *model)
{
    int64_t each = model->config.shared;
    return each ? (model->config.layers + each - 1) / each : 1;
}

cb_tensor *cb_model_hidden_exits(cb_model *model, cb_tensor *ids, const cb_context *ctx, cb_tensor **exits)
{
    return hidden_of(model, ids, ctx, &(hidden_wish){.exits = model && cb_model_exits(model) > 1 ? exits : NULL});
}

cb_tensor *cb_model_head(cb_model *model, cb_tensor *hidden, const cb_context *ctx)
{
    cb_context own;
    return model && hidden && composed(model, NULL, hidden->shape[0], ctx, &own) ? cb_head_run(model, hidden, &own) : NULL;
}

/* What is read of the last hidden states begins where the pass did. */
static cb_context reading(const cb_context *ctx)
{
    cb_context own = ctx ? *ctx : (cb_context){0};
    own.first_row = 0;
    own.first_token = cb_cache_length(own.cache);
    return own;
}

cb_tensor *cb_model_logits(cb_model *model, cb_tensor *ids, const cb_context *ctx)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_context own = reading(ctx);
    cb_tensor *logits = cb_scope_return(scope, cb_model_head(model, hidden_for_head(model, ids, ctx), &own));
    cb_scope_close(scope);
    return logits;
}

cb_tensor *cb_model_features(cb_model *model, cb_tensor *input, const cb_context *ctx)
{
    cb_scope *scope = model && input ? cb_scope_open() : NULL;
    if (!scope)
        return NULL;
    cb_context given = reading(ctx), own;
    cb_tensor *hidden = hidden_for_head(model, input, ctx);
    cb_model *judge = cb_head_judges_rows(model) ? model : tower_for(model, input);
    bool ok = hidden && composed(model, judge == model ? NULL : input, hidden->shape[0], &given, &own);
    cb_tensor *features = cb_scope_return(scope, ok ? cb_head_features(judge, input, hidden, &own) : NULL);
    cb_scope_close(scope);
    return features;
}

static bool judges_rows(const cb_model *model)
{
    return cb_head_judges_rows(model) ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: found a head that judges no rows, expected one of sequence or image classification",
                   model->config_path) == CB_OK;
}

cb_tensor *cb_model_judge(cb_model *model, cb_tensor *input, const cb_context *ctx, cb_tensor **features)
{
    *features = NULL;
    cb_scope *scope = model && input && judges_rows(model) ? cb_scope_open() : NULL;
    if (!scope)
        return NULL;
    cb_context given = reading(ctx), own;
    cb_tensor *hidden = hidden_for_head(model, input, ctx);
    bool ok = hidden && composed(model, NULL, hidden->shape[0], &given, &own);
    cb_tensor *logits = cb_scope_return(scope, ok ? cb_head_judge(model, hidden, &own, features) : NULL);
    *features = cb_scope_return(scope, *features);
    cb_scope_close(scope);
    return logits;
}

cb_tensor *cb_model_judge_features(cb_model *model, cb_tensor *features, const cb_context *ctx)
{
    cb_context own;
    return model && features && judges_rows(model) && composed(model, NULL, features->shape[0], ctx, &own)
               ? cb_head_judge_features(model, features, &own)
               : NULL;
}

/* ---- loss ---- */

typedef struct head_call {
    cb_model *model;
    double normalizer;
    cb_context ctx;
} head_call;

/* What a piece of the loss is made of; the last three may be NULL. */
enum { HEAD_CALL, HEAD_HIDDEN, HEAD_TARGETS, HEAD_WEIGHTS, HEAD_TASKS, HEAD_CONDITIONS, HEAD_COUNT };

static cb_tensor *head_loss(void *user, cb_tensor *const *inputs)
{
    (void)user;
    head_call call;
    memcpy(&call, inputs[HEAD_CALL]->data, sizeof call);
    call.ctx.blend_weights = inputs[HEAD_WEIGHTS];
    call.ctx.tasks = inputs[HEAD_TASKS];
    call.ctx.conditions = inputs[HEAD_CONDITIONS];
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *logits = cb_head_run(call.model, inputs[HEAD_HIDDEN], &call.ctx);
    cb_linear_cross_entropy_options options = {.ignore_index = -100, .normalizer = call.normalizer};
    logits = logits ? cb_reshape(logits, -1, logits->shape[2]) : NULL;
    cb_tensor *loss = cb_scope_return(scope, cb_cross_entropy_with(logits, cb_reshape(inputs[HEAD_TARGETS], -1), options));
    cb_scope_close(scope);
    return loss;
}

static int64_t count_targets(cb_tensor *targets)
{
    int64_t count = 0;
    for (int64_t i = 0; i < targets->count; i++)
        count += cb_get(targets, i) != -100;
    return count;
}

/* Some rows of a batch, and some tokens of those. */
typedef struct loss_piece {
    int64_t row, rows, token, tokens;
} loss_piece;

static cb_tensor *piece_of(cb_tensor *x, const loss_piece *piece, bool has_tokens)
{
    x = x ? cb_slice(x, 0, piece->row, piece->row + piece->rows, 1) : NULL;
    return has_tokens ? cb_slice(x, 1, piece->token, piece->token + piece->tokens, 1) : x;
}

/* The loss of a piece, forgotten and made again in the backward pass. */
static cb_tensor *piece_loss(head_call *call, const loss_piece *piece, cb_tensor *hidden, cb_tensor *targets, const cb_context *ctx)
{
    cb_tensor *weights = ctx->blend_weights;
    call->ctx.first_row = piece->row;
    call->ctx.first_token = piece->token;
    cb_tensor *inputs[HEAD_COUNT] = {
        [HEAD_CALL] = cb_from(CB_U8, call, (int64_t)sizeof *call), [HEAD_HIDDEN] = piece_of(hidden, piece, true),
        [HEAD_TARGETS] = piece_of(targets, piece, true),           [HEAD_WEIGHTS] = piece_of(weights, piece, weights && weights->ndim == 3),
        [HEAD_TASKS] = piece_of(ctx->tasks, piece, false),         [HEAD_CONDITIONS] = piece_of(ctx->conditions, piece, false)};
    return cb_ok() ? cb_checkpoint(head_loss, NULL, HEAD_COUNT, inputs, call->ctx.rng) : NULL;
}

/* The head is more than a product: rows go through it in pieces, and long rows in pieces of themselves. */
static cb_tensor *loss_in_pieces(cb_model *model, cb_tensor *hidden, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    head_call call = {.model = model, .normalizer = normalizer, .ctx = *ctx};
    if (!(normalizer > 0)) {
        int64_t count = count_targets(targets);
        call.normalizer = count ? (double)count : 1;
    }
    const cb_context whole = call.ctx;
    cb_tensor *total = NULL;
    call.ctx.positions = call.ctx.segments = call.ctx.blend_weights = call.ctx.tasks = call.ctx.conditions = NULL;
    call.ctx.cache = NULL;
    int64_t most = CHUNK_VALUES / model->head->out_features + 1, length = hidden->shape[1];
    loss_piece piece = {.rows = most / length > 1 ? most / length : 1, .tokens = most < length ? most : length};
    for (; piece.row < hidden->shape[0]; piece.row += piece.rows)
        for (piece.token = 0; piece.token < length; piece.token += piece.tokens) {
            cb_tensor *part = piece_loss(&call, &piece, hidden, targets, &whole);
            total = total ? cb_add(total, part) : part;
            if (!total)
                return NULL;
        }
    return total;
}

/* Each row, or place of it, has one target. */
static cb_tensor *loss_of_rows(cb_model *model, cb_tensor *hidden, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    return cb_model_label_loss(model, cb_head_run(model, hidden, ctx), targets, normalizer);
}

/* Few tokens of a masked text have a target: no others go through the head. */
static cb_tensor *loss_of_targets(cb_model *model, cb_tensor *hidden, cb_tensor *targets, double normalizer)
{
    const cb_context plain = {0}; /* the head hosts nothing */
    int64_t count = count_targets(targets), n = 0;
    if (!count)
        return loss_in_pieces(model, hidden, targets, normalizer, &plain);
    cb_tensor *places = cb_empty(CB_I64, count);
    for (int64_t i = 0; places && i < targets->count; i++)
        if (cb_get(targets, i) != -100)
            ((int64_t *)places->data)[n++] = i;
    hidden = cb_unsqueeze(cb_index_select(cb_reshape(hidden, targets->count, -1), 0, places), 0);
    targets = cb_unsqueeze(cb_index_select(cb_reshape(targets, targets->count), 0, places), 0);
    return hidden && targets ? loss_in_pieces(model, hidden, targets, normalizer, &plain) : NULL;
}

cb_tensor *cb_model_hidden_loss(cb_model *model, cb_tensor *hidden, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    cb_context own;
    if (!model || !hidden || !targets || !composed(model, NULL, hidden->shape[0], ctx, &own))
        return NULL;
    if (cb_head_judges_rows(model) || (cb_head_judges_places(model) && model->head))
        return loss_of_rows(model, hidden, targets, normalizer, &own);
    if (cb_model_head_kind(model) == CB_HEAD_CTC && model->head)
        return cb_model_ctc_loss(model, cb_head_run(model, hidden, &own), targets, normalizer, &own);
    if (!model->head)
        return cb_head_run(model, hidden, &own); /* says so */
    if (head_hosts(model, &own))
        return loss_in_pieces(model, hidden, targets, normalizer, &own);
    if (model->head_dense || model->head_norm || cb_layer_weight(model->head, "bias"))
        return loss_of_targets(model, hidden, targets, normalizer);
    cb_linear_cross_entropy_options options = {.ignore_index = -100, .normalizer = normalizer};
    if (model->config.head_scale > 0)
        hidden = cb_scale(hidden, model->config.head_scale);
    return cb_linear_cross_entropy_with(hidden, cb_layer_weight(model->head, "weight"), targets, options);
}

cb_tensor *cb_model_loss(cb_model *model, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    if (!model || !ids || !targets)
        return NULL;
    if (model->architecture->series) {
        cb_fail(CB_ERR_UNSUPPORTED, "model: a forecaster's loss is of numbers that are not normalised: cb_train_forecasting()");
        return NULL;
    }
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *hidden = hidden_for_head(model, ids, ctx);
    bool rows = cb_head_judges_rows(model), places = cb_head_judges_places(model), frames = cb_model_head_kind(model) == CB_HEAD_CTC;
    bool fits = frames   ? targets->ndim == 2 && targets->shape[0] == ids->shape[0]
                : rows   ? targets->shape[0] == ids->shape[0] && (targets->ndim == 1 || targets->dtype == CB_F32)
                : places ? targets->shape[0] == ids->shape[0] && targets->ndim == (targets->dtype == CB_F32 ? 4 : 3)
                         : cb_same_shape(ids, targets);
    if (hidden && !fits) {
        cb_fail(CB_ERR_SHAPE, "model: targets are %s for ids %s, expected %s", cb_shape_text(targets), cb_shape_text(ids),
                frames   ? "(B, S)"
                : rows   ? "one a row"
                : places ? "one a place"
                         : "the same shape");
        hidden = NULL;
    }
    cb_tensor *loss = cb_scope_return(scope, cb_model_hidden_loss(model, hidden, targets, normalizer, ctx));
    cb_scope_close(scope);
    return loss;
}
