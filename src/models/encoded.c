/* encoded.c: what a decoder reads of its source text: the states that the encoder, a tower, makes of it, and which of them are padding.  Once a pass;
 * in generation once a text, since the cache keeps the keys and values that each block makes of them. */
#include "models/internal.h"

cb_context cb_encoded_context(const cb_context *ctx)
{
    cb_context own = *ctx;
    own.positions = own.segments = own.types = own.source = own.source_segments = NULL;
    own.cache = NULL;
    own.first_token = 0;
    return own;
}

static bool check(const cb_model *model, const cb_context *ctx, const cb_tensor *ids)
{
    const char *type = model->architecture->model_type;
    if (!model->towers[CB_TOWER_ENCODER])
        return cb_fail(CB_ERR_ARGUMENT, "model: found a source text, which %s has no encoder for", type) == CB_OK;
    int64_t tokens = cb_prompt_tokens(model, ctx);
    if (tokens)
        return tokens > 0 && cb_fail(CB_ERR_UNSUPPORTED,
                                     "%s: found virtual tokens, which have no distance from others; expected another kind", type) == CB_OK;
    if (ctx->blend_weights && ctx->blend_weights->ndim == 3)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: found weights of a blend for each token, expected one for each row: source and target differ", type) == CB_OK;
    bool begins = !cb_cache_length(ctx->cache);
    if (begins != (ctx->source != NULL))
        return cb_fail(CB_ERR_ARGUMENT,
                       begins ? "model: found no source text, which %s decodes from (cb_context.source)"
                              : "model: found a source text in a later pass of a cache, expected it in the first alone (%s)",
                       type) == CB_OK;
    if (begins && ctx->source->shape[0] != ids->shape[0])
        return cb_fail(CB_ERR_SHAPE, "model: the source is %s for ids %s, expected as many rows", cb_shape_text(ctx->source),
                       cb_shape_text(ids)) == CB_OK;
    return true;
}

/* (B, 1, 1, Ts): far below every score where a token is padding; *mask NULL: none is. */
static bool mask_padding(const cb_tensor *segments, cb_tensor **mask)
{
    const float hidden = -1e30f;
    bool any = false;
    *mask = NULL;
    for (int64_t i = 0; segments && !any && i < segments->count; i++)
        any = cb_get(segments, i) < 0;
    if (!any)
        return true;
    *mask = cb_empty(CB_F32, segments->shape[0], 1, 1, segments->shape[1]);
    for (int64_t i = 0; *mask && i < segments->count; i++)
        ((float *)(*mask)->data)[i] = cb_get(segments, i) < 0 ? hidden : 0;
    return *mask;
}

/* A text that is judged is the source as well. */
static bool read_twice(cb_context *ctx, const cb_tensor *ids)
{
    if (ctx->source)
        return cb_fail(CB_ERR_ARGUMENT, "model: found a source text, expected the text alone that is judged") == CB_OK;
    ctx->source = (cb_tensor *)(uintptr_t)ids; /* is only read */
    ctx->source_segments = ctx->segments;
    return true;
}

bool cb_encoded_begin(cb_pass *pass, cb_model *model, const cb_tensor *ids)
{
    cb_context *ctx = &pass->ctx, own = cb_encoded_context(ctx);
    if (model->towers[CB_TOWER_ENCODER] && cb_head_judges_rows(model) && !read_twice(ctx, ids))
        return false;
    cb_tensor *source = ctx->source;
    if (!source && !model->towers[CB_TOWER_ENCODER])
        return true;
    if (!check(model, ctx, ids))
        return false;
    own.segments = ctx->source_segments;
    ctx->source = ctx->source_segments = NULL;
    if (!source) {
        pass->source_mask = cb_cache_source_mask(ctx->cache);
        return true;
    }
    pass->states = cb_model_hidden(model->towers[CB_TOWER_ENCODER], source, &own);
    if (!pass->states || !mask_padding(own.segments, &pass->source_mask))
        return false;
    if (ctx->cache)
        cb_cache_put_source_mask(ctx->cache, pass->source_mask);
    return true;
}
