/* gpt2.c: GPT-2 (Radford et al. 2019): learned positions, layer norm, one product for q, k and v, a GELU MLP, the head
 * tied to the token embedding.  Its linear layers are the checkpoint's Conv1D, stored (in, out) and used so.  The base
 * model's own dropout is not applied: what is trained has its own. */
#include <math.h>
#include <stdio.h>

#include "models/internal.h"

#define FIELD(key, field, otherwise, most)                                                                                                 \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, 1, most                                                                          \
    }

static bool configure(cb_model *model)
{
    static const cb_config_field fields[] = {
        FIELD("vocab_size", vocab_size, CB_REQUIRED, INT32_MAX),
        FIELD("n_embd", width, CB_REQUIRED, 1 << 24),
        FIELD("n_inner", mlp_width, 0, 1 << 24),
        FIELD("n_layer", layers, CB_REQUIRED, 1 << 16),
        FIELD("n_head", heads, CB_REQUIRED, 1 << 16),
        FIELD("n_positions", max_positions, 1024, INT32_MAX),
        {0},
    };
    cb_model_config *c = &model->config;
    const char *file = model->config_path;
    if (!cb_config_integers(model, fields))
        return false;
    if (c->width % c->heads)
        return cb_config_error(model, "n_embd is %lld, expected a multiple of n_head (%lld)", (long long)c->width, (long long)c->heads);
    if (cb_json_bool(file, model->json, "add_cross_attention", false)) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: add_cross_attention is true, expected false", file);
        return false;
    }
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    c->mlp_width = c->mlp_width ? c->mlp_width : 4 * c->width;
    c->eps = cb_json_float(file, model->json, "layer_norm_epsilon", 1e-5);
    c->tied = cb_json_bool(file, model->json, "tie_word_embeddings", true);
    if (cb_ok() && !(c->eps > 0 && c->eps < 1))
        return cb_config_error(model, "layer_norm_epsilon is %g, expected over 0 and under 1", c->eps);
    return cb_ok() && cb_config_activation(model, "activation_function", "gelu_new");
}

/* Where q k^T is scaled otherwise than by 1 / sqrt(D); 0: it is not. */
static double scale_of(const cb_model *model, int64_t index)
{
    bool by_size = cb_json_bool(model->config_path, model->json, "scale_attn_weights", true);
    bool by_layer = cb_json_bool(model->config_path, model->json, "scale_attn_by_inverse_layer_idx", false);
    if (by_size && !by_layer)
        return 0;
    double scale = by_size ? 1 / sqrt((double)model->config.head_dim) : 1;
    return by_layer ? scale / (double)(index + 1) : scale;
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index)
{
    const cb_model_config *c = &model->config;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    if (!b)
        return false;
    b->scale = scale_of(model, index);
    b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK);
    b->attention = b->layer ? cb_layer_new(b->layer, "attn", CB_LAYER_ATTENTION) : NULL;
    b->mlp = b->layer ? cb_layer_new(b->layer, "mlp", CB_LAYER_MLP) : NULL;
    if (!b->attention || !b->mlp)
        return false;
    b->attention->in_features = b->attention->out_features = c->heads;
    b->attention_norm = cb_source_norm(source, b->layer, "ln_1", c->width, c->eps, true);
    b->mlp_norm = cb_source_norm(source, b->layer, "ln_2", c->width, c->eps, true);
    b->q = cb_source_linear(source, b->attention, "c_attn", c->width, 3 * c->width, true, true, CB_INITIAL_NORMAL);
    b->o = cb_source_linear(source, b->attention, "c_proj", c->width, c->width, true, true, CB_INITIAL_RESIDUAL);
    b->up = cb_source_linear(source, b->mlp, "c_fc", c->width, c->mlp_width, true, true, CB_INITIAL_NORMAL);
    b->down = cb_source_linear(source, b->mlp, "c_proj", c->mlp_width, c->width, true, true, CB_INITIAL_RESIDUAL);
    return cb_ok();
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const cb_model_config *c = &model->config;
    cb_layer *top = cb_layer_new(model->root, "transformer", CB_LAYER_GROUP);
    if (!top)
        return false;
    model->embedding = cb_source_embedding(source, top, "wte", c->vocab_size, c->width);
    model->position_embedding = model->embedding ? cb_source_embedding(source, top, "wpe", c->max_positions, c->width) : NULL;
    cb_layer *blocks = model->position_embedding ? cb_layer_new(top, "h", CB_LAYER_GROUP) : NULL;
    if (!blocks)
        return false;
    for (int64_t i = 0; i < c->layers; i++)
        if (!build_block(model, source, blocks, i))
            return false;
    model->norm = cb_source_norm(source, top, "ln_f", c->width, c->eps, true);
    return model->norm != NULL;
}

static cb_tensor *position(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    return cb_add(x, cb_embedding_forward(model->position_embedding, pass->ctx.positions, model->dtype, &pass->ctx));
}

static cb_tensor *embed(cb_model *model, cb_tensor *ids, const cb_pass *pass)
{
    return position(model, cb_embedding_forward(model->embedding, ids, model->dtype, &pass->ctx), pass);
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_model_config *c = &model->config;
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_layer_before(b->attention, cb_layer_norm_forward(b->attention_norm, residual, ctx), ctx);
    cb_tensor *joint = cb_linear_forward(b->q, x, ctx), *part[3]; /* q, k, v: views of joint */
    if (!joint)
        return NULL;
    int64_t batch = x->shape[0], time = x->shape[1];
    joint = cb_reshape(joint, batch, time, 3, c->heads, c->head_dim);
    if (!cb_split(joint, 2, 3, (int64_t[]){1, 1, 1}, part))
        return NULL;
    for (int i = 0; i < 3; i++)
        part[i] = cb_squeeze(part[i], 2);
    cb_attention_options options = {
        .causal = true, .scale = b->scale, .segments = ctx->segments, .prefix_k = pass->prefix.k, .prefix_v = pass->prefix.v};
    if (!cb_pass_extend(pass, index, &part[1], &part[2], &options))
        return NULL;
    if (pass->keys_only)
        return residual;
    if (pass->taken && part[1] && part[2])
        *pass->taken = (cb_keys){cb_keep(part[1]), cb_keep(part[2])};
    cb_tensor *y = cb_attention_forward(b->attention, part[0], part[1], part[2], options, ctx);
    y = y ? cb_reshape(y, batch, time, -1) : NULL;
    return cb_close_branch(b->attention, b->o, residual, x, y, ctx);
}

static cb_tensor *mlp(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_layer_before(b->mlp, cb_layer_norm_forward(b->mlp_norm, residual, ctx), ctx);
    cb_tensor *inner = cb_activate(model->config.activation, cb_linear_forward(b->up, x, ctx));
    return cb_close_branch(b->mlp, b->down, residual, x, inner, ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    cb_tensor *y = cb_branch_run(attention, model, index, x, pass);
    return pass->keys_only ? y : cb_branch_run(mlp, model, index, y, pass);
}

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_CAUSAL_LM, .class_end = "LMHeadModel", .output = "lm_head"},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION, .class_end = "ForSequenceClassification", .output = "score", .pooling = CB_POOL_LAST},
    {.kind = CB_HEAD_TOKEN_CLASSIFICATION, .class_end = "ForTokenClassification", .output = "classifier", .bias = true},
    {0},
};

const cb_architecture cb_gpt2_family[] = {
    {.model_type = "gpt2",
     .class_prefix = "GPT2",
     .heads = heads,
     .prefix = "transformer.",
     .configure = configure,
     .build = build,
     .embed = embed,
     .position = position,
     .block = block,
     .norm = cb_layer_norm_forward},
    {0},
};
