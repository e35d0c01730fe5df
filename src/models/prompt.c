/* prompt.c: virtual tokens before the text: those that an adapter has instead of changed layers.
 *
 * Every text sees them and they see nothing of it, since what comes before sees nothing of what comes after.  So they are the same for all
 * documents that are packed into a row, and for all rows unless those have tasks of their own: they go through the model once, beside the batch, and the batch's attention takes
 * their keys and values as extra ones.  Positions of the text begin behind them.  In generation the cache keeps those keys and values.  A
 * kind that makes keys and values itself (prefix tuning) differs in this alone.
 * Attention with a window sees virtual tokens from everywhere. */
#include "models/internal.h"

static bool prompt_find(const cb_model *model, const cb_context *ctx, const cb_module **module, int64_t *tokens)
{
    *module = NULL;
    if (model->embedding && !cb_layer_prompt(model->embedding, ctx, module))
        return false;
    *tokens = *module ? (*module)->kind->virtual_tokens(*module) : 0;
    return true;
}

int64_t cb_prompt_tokens(const cb_model *model, const cb_context *ctx)
{
    const cb_module *module;
    int64_t tokens;
    return prompt_find(model, ctx, &module, &tokens) ? tokens : -1;
}

static bool check_cache(const cb_prompt *prompt, const cb_cache *cache)
{
    cb_keys first = cb_cache_prefix(cache, 0);
    int64_t there = first.k ? first.k->shape[1] : 0;
    return there == prompt->tokens || cb_fail(CB_ERR_ARGUMENT, "cache: begun with %lld virtual tokens, now there are %lld",
                                              (long long)there, (long long)prompt->tokens) == CB_OK;
}

/* Embeddings that are about to go through the model. */
static cb_tensor *embedded(cb_prompt *prompt, cb_model *model, cb_tensor *x)
{
    int64_t rows = prompt->pass.ctx.positions->shape[0];
    if (!x || x->ndim != 3 || (x->shape[0] != 1 && x->shape[0] != rows) || x->shape[1] != prompt->tokens ||
        x->shape[2] != model->config.width) {
        if (x)
            cb_fail(CB_ERR_SHAPE, "virtual tokens: found %s, expected (1 or %lld, %lld, %lld)", cb_shape_text(x), (long long)rows,
                    (long long)prompt->tokens, (long long)model->config.width);
        return NULL;
    }
    cb_context *ctx = &prompt->pass.ctx;
    ctx->cache = NULL;
    prompt->pass.at = NULL;
    ctx->segments = NULL;
    ctx->blend_weights = NULL;
    ctx->checkpoint = false; /* keys and values come out of the middle of a block; and they are few */
    ctx->first_token = 0;
    ctx->positions = cb_unsqueeze(cb_arange(CB_I32, 0, 1, prompt->tokens), 0);
    if (ctx->positions)
        ctx->positions = cb_contiguous(cb_expand(ctx->positions, x->shape[0], prompt->tokens));
    x = x->dtype == model->dtype ? x : cb_cast(x, model->dtype);
    return ctx->positions && model->architecture->position ? model->architecture->position(model, x, &prompt->pass) : x;
}

bool cb_prompt_begin(cb_prompt *prompt, cb_model *model, const cb_pass *pass)
{
    if (!prompt_find(model, &pass->ctx, &prompt->module, &prompt->tokens))
        return false;
    const cb_cache *cache = pass->ctx.cache;
    prompt->cached = cb_cache_length(cache) > 0;
    if (prompt->cached && !check_cache(prompt, cache))
        return false;
    if (prompt->cached || !prompt->module)
        return true;
    if (model->architecture->bidirectional && !prompt->module->kind->prefix)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "virtual tokens: found %s on %s, an encoder, whose tokens they would have to see; expected a decoder, or "
                       "prefix_tuning",
                       prompt->module->kind->name, model->architecture->model_type) == CB_OK;
    prompt->pass = *pass;
    cb_tensor *x = prompt->module->kind->prompt(prompt->module, &pass->ctx);
    if (!prompt->module->kind->prefix)
        x = embedded(prompt, model, x);
    prompt->x = x ? cb_keep(x) : NULL;
    return x;
}

/* Sends the virtual tokens through a block, whose keys and values of them are kept. */
static bool pass_through(cb_prompt *prompt, cb_model *model, int64_t index, cb_keys *keys)
{
    prompt->pass.taken = keys;
    cb_tensor *y = cb_block_run(model, index, prompt->x, &prompt->pass);
    if (!y)
        return false;
    cb_keep(y);
    cb_release(prompt->x);
    prompt->x = y;
    return true;
}

static void forget(cb_keys *keys)
{
    cb_release(keys->k);
    cb_release(keys->v);
    *keys = (cb_keys){0};
}

bool cb_prompt_next(cb_prompt *prompt, cb_model *model, int64_t index, cb_pass *pass)
{
    forget(&pass->prefix);
    cb_cache *cache = pass->ctx.cache;
    if (!prompt->module)
        return true;
    if (prompt->cached) {
        pass->prefix = cb_cache_prefix(cache, index);
        cb_keep(pass->prefix.k);
        cb_keep(pass->prefix.v);
        return true;
    }
    cb_keys made = {0};
    const cb_module_kind *kind = prompt->module->kind;
    bool ok = kind->prefix ? kind->prefix(prompt->module, prompt->x, index, &made.k, &made.v) : pass_through(prompt, model, index, &made);
    if (ok && kind->prefix) {
        cb_keep(made.k);
        cb_keep(made.v);
    } else if (kind->prefix) {
        made = (cb_keys){0};
    }
    pass->prefix = made;
    return ok && (!cache || cb_cache_put_prefix(cache, index, made));
}

void cb_prompt_end(cb_prompt *prompt, cb_pass *pass)
{
    forget(&pass->prefix);
    cb_release(prompt->x);
}
