/* llama.c: the decoder family that Llama began (Touvron et al. 2023, arXiv:2302.13971): RMS norm before each half of a
 * block, rotary positions, grouped-query attention, a gated MLP, no dropout.  Its members differ in a handful of facts,
 * kept in one table below.
 *
 * Tensor names are those of the checkpoint: model.layers.N.{self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj, ...}. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

typedef enum window_rule {
    WINDOW_NONE,
    WINDOW_ALWAYS, /* Mistral: `sliding_window` holds for every layer unless it is null */
    WINDOW_CHOSEN  /* Qwen: `layer_types`, or from layer `max_window_layers` on if `use_sliding_window` */
} window_rule;

typedef struct llama_variant {
    bool qkv_bias;       /* q, k and v always have a bias, o never */
    bool attention_bias; /* the config's attention_bias is for q, k, v and o */
    bool mlp_bias;       /* the config's mlp_bias counts */
    bool qk_norm;        /* RMS norm over each head of q and k */
    window_rule window;
    int64_t kv_heads;      /* where the config does not say; 0: as many as heads */
    int64_t head_dim;      /* where the config does not say; 0: width / heads */
    int64_t max_positions; /* where the config does not say */
} llama_variant;

static const llama_variant llama = {.attention_bias = true, .mlp_bias = true, .max_positions = 2048};
static const llama_variant mistral = {.window = WINDOW_ALWAYS, .kv_heads = 8, .max_positions = 131072};
static const llama_variant qwen2 = {.qkv_bias = true, .window = WINDOW_CHOSEN, .kv_heads = 32, .max_positions = 32768};
static const llama_variant qwen3 = {
    .attention_bias = true, .qk_norm = true, .window = WINDOW_CHOSEN, .kv_heads = 32, .head_dim = 128, .max_positions = 32768};

/* ---- configuration ---- */

#define FIELD(key, field, otherwise, most)                                                                                                 \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, 1, most                                                                          \
    }

static bool sizes_check(cb_model *model)
{
    const cb_model_config *c = &model->config;
    if (c->heads % c->kv_heads)
        return cb_config_error(model, "num_attention_heads is %lld, expected a multiple of num_key_value_heads (%lld)", (long long)c->heads,
                               (long long)c->kv_heads);
    if (c->head_dim % 2)
        return cb_config_error(model, "head_dim is %lld, expected an even number", (long long)c->head_dim);
    if (!(c->eps > 0 && c->eps < 1))
        return cb_config_error(model, "rms_norm_eps is %g, expected over 0 and under 1", c->eps);
    return true;
}

static bool head_dim_derive(cb_model *model, const llama_variant *v)
{
    cb_model_config *c = &model->config;
    bool is_null = json_is_null(json_object_get(model->json, "num_key_value_heads")); /* as many as heads, whatever the default */
    if (!c->kv_heads)
        c->kv_heads = v->kv_heads && !is_null ? v->kv_heads : c->heads;
    if (!c->head_dim)
        c->head_dim = v->head_dim;
    if (c->head_dim)
        return true;
    if (c->width % c->heads)
        return cb_config_error(model, "hidden_size is %lld, expected a multiple of num_attention_heads (%lld) without head_dim",
                               (long long)c->width, (long long)c->heads);
    c->head_dim = c->width / c->heads;
    return true;
}

static bool configure(cb_model *model)
{
    const llama_variant *v = model->architecture->variant;
    const cb_config_field fields[] = {
        FIELD("vocab_size", vocab_size, CB_REQUIRED, INT32_MAX),
        FIELD("hidden_size", width, CB_REQUIRED, 1 << 24),
        FIELD("intermediate_size", mlp_width, CB_REQUIRED, 1 << 24),
        FIELD("num_hidden_layers", layers, CB_REQUIRED, 1 << 16),
        FIELD("num_attention_heads", heads, CB_REQUIRED, 1 << 16),
        FIELD("num_key_value_heads", kv_heads, 0, 1 << 16),
        FIELD("head_dim", head_dim, 0, 1 << 16),
        FIELD("max_position_embeddings", max_positions, v->max_positions, INT32_MAX),
        {0},
    };
    cb_model_config *c = &model->config;
    if (!cb_config_integers(model, fields) || !head_dim_derive(model, v))
        return false;
    c->eps = cb_json_float(model->config_path, model->json, "rms_norm_eps", 1e-6);
    c->tied = cb_json_bool(model->config_path, model->json, "tie_word_embeddings", false);
    return cb_ok() && sizes_check(model) && cb_config_activation(model, "hidden_act", "silu") &&
           cb_rope_configure(&model->rope, model->config_path, model->json, c->head_dim, c->max_positions);
}

/* The attention window of layer `index`, 0 for none; -1 and an error when the config makes no sense. */
static int64_t window_of(const cb_model *model, int64_t index, window_rule rule)
{
    const char *file = model->config_path;
    const json_t *given = json_object_get(model->json, "sliding_window");
    if (rule == WINDOW_NONE || json_is_null(given))
        return 0;
    int64_t window = cb_json_int(file, model->json, "sliding_window", 4096);
    if (cb_ok() && window < 1) {
        cb_config_error(model, "sliding_window is %lld, expected a positive integer or null", (long long)window);
        return -1;
    }
    if (rule == WINDOW_ALWAYS)
        return cb_ok() ? window : -1;
    if (!cb_json_bool(file, model->json, "use_sliding_window", false))
        return cb_ok() ? 0 : -1;
    const json_t *types = json_object_get(model->json, "layer_types");
    if (!types || json_is_null(types)) {
        int64_t first = cb_json_int(file, model->json, "max_window_layers", 28);
        return !cb_ok() ? -1 : index >= first ? window : 0;
    }
    const char *type = json_string_value(json_array_get(types, (size_t)index));
    if (type && !strcmp(type, "sliding_attention"))
        return window;
    if (type && !strcmp(type, "full_attention"))
        return 0;
    cb_config_error(model, "layer_types[%lld] is %s%s, expected full_attention or sliding_attention", (long long)index,
                    type ? "" : "no string", type ? type : "");
    return -1;
}

/* ---- layers ---- */

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *layers, int64_t index)
{
    const llama_variant *v = model->architecture->variant;
    const cb_model_config *c = &model->config;
    bool bias = v->attention_bias && cb_json_bool(model->config_path, model->json, "attention_bias", false);
    bool mlp_bias = v->mlp_bias && cb_json_bool(model->config_path, model->json, "mlp_bias", false);
    int64_t q_width = c->heads * c->head_dim, kv_width = c->kv_heads * c->head_dim;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    if (!b || !cb_ok())
        return false;
    b->window = window_of(model, index, v->window);
    b->layer = cb_layer_new(layers, name, CB_LAYER_BLOCK);
    b->attention = b->layer ? cb_layer_new(b->layer, "self_attn", CB_LAYER_ATTENTION) : NULL;
    b->mlp = b->layer ? cb_layer_new(b->layer, "mlp", CB_LAYER_MLP) : NULL;
    if (b->window < 0 || !b->attention || !b->mlp)
        return false;
    b->attention->in_features = c->heads;
    b->attention->out_features = c->kv_heads;
    b->attention_norm = cb_source_norm(source, b->layer, "input_layernorm", c->width, c->eps, false);
    b->mlp_norm = cb_source_norm(source, b->layer, "post_attention_layernorm", c->width, c->eps, false);
    bool q_bias = bias || v->qkv_bias;
    b->q = cb_source_linear(source, b->attention, "q_proj", c->width, q_width, false, q_bias, CB_INITIAL_NORMAL);
    b->k = cb_source_linear(source, b->attention, "k_proj", c->width, kv_width, false, q_bias, CB_INITIAL_NORMAL);
    b->v = cb_source_linear(source, b->attention, "v_proj", c->width, kv_width, false, q_bias, CB_INITIAL_NORMAL);
    b->o = cb_source_linear(source, b->attention, "o_proj", q_width, c->width, false, bias, CB_INITIAL_RESIDUAL);
    if (v->qk_norm) {
        b->q_norm = cb_source_norm(source, b->attention, "q_norm", c->head_dim, c->eps, false);
        b->k_norm = cb_source_norm(source, b->attention, "k_norm", c->head_dim, c->eps, false);
    }
    b->gate = cb_source_linear(source, b->mlp, "gate_proj", c->width, c->mlp_width, false, mlp_bias, CB_INITIAL_NORMAL);
    b->up = cb_source_linear(source, b->mlp, "up_proj", c->width, c->mlp_width, false, mlp_bias, CB_INITIAL_NORMAL);
    b->down = cb_source_linear(source, b->mlp, "down_proj", c->mlp_width, c->width, false, mlp_bias, CB_INITIAL_RESIDUAL);
    return cb_ok();
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const cb_model_config *c = &model->config;
    cb_layer *top = cb_layer_new(model->root, "model", CB_LAYER_GROUP);
    if (!top)
        return false;
    model->embedding = cb_source_embedding(source, top, "embed_tokens", c->vocab_size, c->width);
    cb_layer *layers = model->embedding ? cb_layer_new(top, "layers", CB_LAYER_GROUP) : NULL;
    if (!layers)
        return false;
    for (int64_t i = 0; i < c->layers; i++)
        if (!build_block(model, source, layers, i))
            return false;
    model->norm = cb_source_norm(source, top, "norm", c->width, c->eps, false);
    return model->norm != NULL;
}

/* ---- forward ---- */

static cb_tensor *embed(cb_model *model, cb_tensor *ids, const cb_pass *pass)
{
    return cb_embedding_forward(model->embedding, ids, model->dtype, &pass->ctx);
}

/* x (B, T, C) -> (B, T, heads, D), normalised over D where the model does, and turned. */
static cb_tensor *heads_of(const cb_layer *projection, const cb_layer *norm, cb_tensor *x, int64_t head_dim, const cb_pass *pass)
{
    cb_tensor *y = cb_linear_forward(projection, x, &pass->ctx);
    if (!y)
        return NULL;
    y = cb_reshape(y, x->shape[0], x->shape[1], -1, head_dim);
    if (norm)
        y = cb_rms_norm_forward(norm, y, &pass->ctx);
    return pass->cos ? cb_rope(y, pass->cos, pass->sin, pass->ctx.positions) : y;
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t head_dim = model->config.head_dim;
    cb_pass unturned = {.ctx = *ctx};
    cb_tensor *x = cb_layer_before(b->attention, cb_rms_norm_forward(b->attention_norm, residual, ctx), ctx);
    if (!x)
        return NULL;
    cb_tensor *q = pass->keys_only ? NULL : heads_of(b->q, b->q_norm, x, head_dim, pass);
    cb_tensor *k = heads_of(b->k, b->k_norm, x, head_dim, pass);
    cb_tensor *v = heads_of(b->v, NULL, x, head_dim, &unturned);
    cb_attention_options options = {.causal = true,
                                    .window = b->window,
                                    .scale = b->scale,
                                    .segments = ctx->segments,
                                    .prefix_k = pass->prefix.k,
                                    .prefix_v = pass->prefix.v};
    if (!cb_pass_extend(pass, index, &k, &v, &options))
        return NULL;
    if (pass->keys_only)
        return residual;
    if (pass->taken && k && v)
        *pass->taken = (cb_keys){cb_keep(k), cb_keep(v)};
    cb_tensor *y = cb_attention_forward(b->attention, q, k, v, options, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], -1) : NULL;
    return cb_close_branch(b->attention, b->o, residual, x, y, ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    /* each half frees what it made before the other begins */
    cb_tensor *y = cb_branch_run(attention, model, index, x, pass);
    return pass->keys_only ? y : cb_branch_run(cb_rms_mlp, model, index, y, pass);
}

/* modeling_layers.py: GenericForSequenceClassification and its kin */
static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_CAUSAL_LM, .class_end = "ForCausalLM", .output = "lm_head"},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION, .class_end = "ForSequenceClassification", .output = "score", .pooling = CB_POOL_LAST},
    {.kind = CB_HEAD_TOKEN_CLASSIFICATION, .class_end = "ForTokenClassification", .output = "score", .bias = true},
    {0},
};

#define MEMBER(type, class, facts)                                                                                                         \
    {                                                                                                                                      \
        .model_type = type, .class_prefix = class, .heads = heads, .prefix = "model.", .variant = facts, .configure = configure,           \
        .build = build, .embed = embed, .block = block, .norm = cb_rms_norm_forward                                                        \
    }

const cb_architecture cb_llama_family[] = {
    MEMBER("llama", "Llama", &llama),
    MEMBER("mistral", "Mistral", &mistral),
    MEMBER("qwen2", "Qwen2", &qwen2),
    MEMBER("qwen3", "Qwen3", &qwen3),
    {0},
};
