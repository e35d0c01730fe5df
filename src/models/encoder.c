/* encoder.c: what the blocks of BERT's and ViT's kin have in common: three projections and an output, an MLP of two layers, two norms, under
 * names of their own.  Built here for both; what a block with its norms in front computes is here as well (Xiong et al. 2020,
 * arXiv:2002.04745), what BERT's end with, and the MLP of Llama's and T5's. */
#include <stdio.h>

#include "models/internal.h"

/* A group below `parent`, or `parent` where there is none. */
static cb_layer *within(cb_layer *parent, const char *name)
{
    return parent && name ? cb_layer_new(parent, name, CB_LAYER_GROUP) : parent;
}

static cb_layer *linear(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, bool bias)
{
    return cb_source_linear(source, parent, name, in, out, false, bias, CB_INITIAL_NORMAL);
}

bool cb_encoder_build(cb_model *model, cb_weight_source *source, cb_layer *blocks, const char *name, const cb_encoder_names *n,
                      bool qkv_bias)
{
    const cb_model_config *c = &model->config;
    cb_block *b = cb_model_add_block(model);
    if (!b)
        return false;
    b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK);
    b->attention = b->layer ? cb_layer_new(b->layer, n->attention, CB_LAYER_ATTENTION) : NULL;
    cb_layer *heads = within(b->attention, n->heads), *out = n->o_in_heads ? b->attention : within(b->attention, n->attention_out),
             *up = within(b->layer, n->up_group);
    b->mlp = up ? cb_layer_new(b->layer, n->mlp, CB_LAYER_MLP) : NULL;
    if (!heads || !out || !b->mlp)
        return false;
    b->attention->in_features = b->attention->out_features = c->heads;
    b->q = linear(source, heads, n->q, c->width, c->width, qkv_bias);
    b->k = linear(source, heads, n->k, c->width, c->width, qkv_bias);
    b->v = linear(source, heads, n->v, c->width, c->width, qkv_bias);
    b->o = linear(source, n->o_in_heads ? heads : out, n->o, c->width, c->width, true);
    b->attention_norm = cb_source_norm(source, n->norms_in_groups ? out : b->layer, n->attention_norm, c->width, c->eps, true);
    b->up = linear(source, n->up_group ? up : b->mlp, n->up, c->width, c->mlp_width, true);
    b->down = linear(source, b->mlp, n->down, c->mlp_width, c->width, true);
    b->mlp_norm = cb_source_norm(source, n->norms_in_groups ? b->mlp : b->layer, n->mlp_norm, c->width, c->eps, true);
    return cb_ok();
}

bool cb_encoder_build_all(cb_model *model, cb_weight_source *source, cb_layer *blocks, const cb_encoder_names *names, bool qkv_bias)
{
    for (int64_t i = 0; i < model->config.layers; i++) {
        char name[24];
        snprintf(name, sizeof name, "%lld", (long long)i);
        if (!cb_encoder_build(model, source, blocks, name, names, qkv_bias))
            return false;
    }
    return true;
}

cb_tensor *cb_encoder_heads(const cb_layer *projection, cb_tensor *x, int64_t head_dim, const cb_context *ctx)
{
    cb_tensor *y = cb_linear_forward(projection, x, ctx);
    return y ? cb_reshape(y, x->shape[0], x->shape[1], -1, head_dim) : NULL;
}

/* (B, 1, 1, T): 0 where a token is of the document of the row's first, far below every score elsewhere. */
static cb_tensor *seen_by_first(const cb_tensor *segments)
{
    const float hidden = -1e30f;
    int64_t rows = segments->shape[0], length = segments->shape[1];
    cb_tensor *mask = cb_empty(CB_F32, rows, 1, 1, length);
    for (int64_t b = 0; mask && b < rows; b++) {
        double own = cb_get(segments, b * length + cb_token_place(segments, b, length, false));
        for (int64_t t = 0; t < length; t++)
            ((float *)mask->data)[b * length + t] = cb_get(segments, b * length + t) == own ? 0 : hidden;
    }
    return mask;
}

bool cb_first_tokens(const cb_pass *pass, cb_tensor **residual, cb_tensor **x, cb_attention_options *options)
{
    const cb_tensor *segments = pass->ctx.segments;
    if (!pass->first_alone)
        return true;
    bool same = *x == *residual;
    *residual = cb_unsqueeze(cb_one_token(*residual, segments, false), 1);
    *x = same ? *residual : cb_unsqueeze(cb_one_token(*x, segments, false), 1);
    options->mask = segments ? seen_by_first(segments) : NULL;
    options->segments = NULL;
    return *residual && *x && (!segments || options->mask);
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t head_dim = model->config.head_dim;
    cb_tensor *x = cb_layer_before(b->attention, cb_layer_norm_forward(b->attention_norm, residual, ctx), ctx);
    if (!x)
        return NULL;
    cb_tensor *k = cb_encoder_heads(b->k, x, head_dim, ctx), *v = cb_encoder_heads(b->v, x, head_dim, ctx);
    cb_attention_options options = {
        .causal = !model->architecture->bidirectional, .segments = ctx->segments, .prefix_k = pass->prefix.k, .prefix_v = pass->prefix.v};
    if (!cb_pass_extend(pass, index, &k, &v, &options))
        return NULL;
    if (pass->taken && k && v)
        *pass->taken = (cb_keys){cb_keep(k), cb_keep(v)};
    if (!cb_first_tokens(pass, &residual, &x, &options))
        return NULL;
    cb_tensor *y = cb_attention_forward(b->attention, cb_encoder_heads(b->q, x, head_dim, ctx), k, v, options, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], -1) : NULL;
    return cb_close_branch(b->attention, b->o, residual, x, y, ctx);
}

cb_tensor *cb_encoder_mlp(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_layer_before(b->mlp, cb_layer_norm_forward(b->mlp_norm, residual, ctx), ctx);
    cb_tensor *inner = cb_activate(model->config.activation, cb_linear_forward(b->up, x, ctx));
    return cb_close_branch(b->mlp, b->down, residual, x, inner, ctx);
}

cb_tensor *cb_encoder_block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(cb_encoder_mlp, model, index, cb_branch_run(attention, model, index, x, pass), pass);
}

/* The norm reads what the branch comes to, in a second run too, and modules may run it themselves. */
cb_tensor *cb_encoder_close_post(const cb_layer *host, const cb_layer *projection, const cb_layer *norm, cb_tensor *residual, cb_tensor *x,
                                 cb_tensor *inner, const cb_context *ctx)
{
    cb_context read = *ctx;
    read.unread = false;
    read.residual_norm = norm;
    return cb_layer_norm_forward(norm, cb_close_branch(host, projection, residual, x, inner, &read), ctx);
}

cb_tensor *cb_encoder_mlp_post(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_layer_before(b->mlp, residual, ctx);
    cb_tensor *inner = cb_activate(model->config.activation, cb_linear_forward(b->up, x, ctx));
    return cb_encoder_close_post(b->mlp, b->down, b->mlp_norm, residual, x, inner, ctx);
}

/* ---- with RMS norms ---- */

static cb_tensor *gated(cb_activation activation, cb_tensor *gate, cb_tensor *up)
{
    switch (activation) {
    case CB_ACT_GELU:
        return cb_gelu_mul(gate, up);
    case CB_ACT_GELU_TANH:
        return cb_gelu_tanh_mul(gate, up);
    case CB_ACT_SILU:
        return cb_silu_mul(gate, up);
    default:
        return cb_mul(cb_activate(activation, gate), up);
    }
}

cb_tensor *cb_rms_mlp(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_activation activation = model->config.activation;
    cb_tensor *x = cb_layer_before(b->mlp, cb_rms_norm_forward(b->mlp_norm, residual, ctx), ctx);
    cb_tensor *gate = b->gate ? cb_linear_forward(b->gate, x, ctx) : NULL, *up = cb_linear_forward(b->up, x, ctx);
    return cb_close_branch(b->mlp, b->down, residual, x, b->gate ? gated(activation, gate, up) : cb_activate(activation, up), ctx);
}
