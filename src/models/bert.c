/* bert.c: the encoders that BERT began (Devlin et al. 2018, arXiv:1810.04805): learned positions, every token sees every other, a norm
 * after each half of a block, a GELU MLP.  RoBERTa (Liu et al. 2019) counts positions from behind the padding token's id, XLM-R (Conneau et
 * al. 2019) and CamemBERT are RoBERTas, DistilBERT (Sanh et al. 2019) has no token types and other names, MPNet (Song et al. 2020,
 * arXiv:2004.09297) counts positions as RoBERTa does and has distances as T5 has.  MiniLM and most sentence encoders are BERTs.
 * The base model's own dropout is not applied: what is trained has its own.
 *
 * Tensor names are those of the checkpoint; those of a block are in the tables below.  As in transformers, a model without a head has them
 * without the prefix (encoder.layer.0, not bert.encoder.layer.0), so that adapters of sentence encoders fit both. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

static const cb_encoder_names bert_names = {.attention = "attention",
                                            .heads = "self",
                                            .q = "query",
                                            .k = "key",
                                            .v = "value",
                                            .attention_out = "output",
                                            .o = "dense",
                                            .attention_norm = "LayerNorm",
                                            .up_group = "intermediate",
                                            .up = "dense",
                                            .mlp = "output",
                                            .down = "dense",
                                            .mlp_norm = "LayerNorm",
                                            .norms_in_groups = true};
static const cb_encoder_names distilbert_names = {.attention = "attention",
                                                  .q = "q_lin",
                                                  .k = "k_lin",
                                                  .v = "v_lin",
                                                  .o = "out_lin",
                                                  .attention_norm = "sa_layer_norm",
                                                  .mlp = "ffn",
                                                  .up = "lin1",
                                                  .down = "lin2",
                                                  .mlp_norm = "output_layer_norm"};

static const cb_encoder_names mpnet_names = {.attention = "attention",
                                             .heads = "attn",
                                             .q = "q",
                                             .k = "k",
                                             .v = "v",
                                             .o = "o",
                                             .attention_norm = "LayerNorm",
                                             .up_group = "intermediate",
                                             .up = "dense",
                                             .mlp = "output",
                                             .down = "dense",
                                             .mlp_norm = "LayerNorm",
                                             .norms_in_groups = true,
                                             .o_in_heads = true};

typedef struct bert_variant {
    const char *top, *stack; /* names: bert, encoder */
    const cb_encoder_names *names;
    const cb_config_field *fields;
    const char *activation, *eps; /* fields; eps NULL: there is none */
    bool counts_padding;          /* position p is in row pad_token_id + 1 + p */
    bool distances;               /* are added to scores; the padding token is 1, whatever the config says */
} bert_variant;

/* ---- configuration ---- */

#define FIELD(key, field, otherwise, most)                                                                                                 \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, 1, most                                                                          \
    }

static const cb_config_field bert_fields[] = {
    FIELD("vocab_size", vocab_size, 30522, INT32_MAX),    FIELD("hidden_size", width, 768, 1 << 24),
    FIELD("intermediate_size", mlp_width, 3072, 1 << 24), FIELD("num_hidden_layers", layers, 12, 1 << 16),
    FIELD("num_attention_heads", heads, 12, 1 << 16),     FIELD("max_position_embeddings", max_positions, 512, INT32_MAX),
    FIELD("type_vocab_size", token_types, 2, INT32_MAX),  {0},
};
static const cb_config_field distilbert_fields[] = {
    FIELD("vocab_size", vocab_size, 30522, INT32_MAX),
    FIELD("dim", width, 768, 1 << 24),
    FIELD("hidden_dim", mlp_width, 3072, 1 << 24),
    FIELD("n_layers", layers, 6, 1 << 16),
    FIELD("n_heads", heads, 12, 1 << 16),
    FIELD("max_position_embeddings", max_positions, 512, INT32_MAX),
    {0},
};

static const cb_config_field mpnet_fields[] = {
    FIELD("vocab_size", vocab_size, 30527, INT32_MAX),
    FIELD("hidden_size", width, 768, 1 << 24),
    FIELD("intermediate_size", mlp_width, 3072, 1 << 24),
    FIELD("num_hidden_layers", layers, 12, 1 << 16),
    FIELD("num_attention_heads", heads, 12, 1 << 16),
    FIELD("max_position_embeddings", max_positions, 512, INT32_MAX),
    {0},
};

static const bert_variant bert = {
    .top = "bert", .stack = "encoder", .names = &bert_names, .fields = bert_fields, .activation = "hidden_act", .eps = "layer_norm_eps"};
static const bert_variant roberta = {.top = "roberta",
                                     .stack = "encoder",
                                     .names = &bert_names,
                                     .fields = bert_fields,
                                     .activation = "hidden_act",
                                     .eps = "layer_norm_eps",
                                     .counts_padding = true};
static const bert_variant mpnet = {.top = "mpnet",
                                   .stack = "encoder",
                                   .names = &mpnet_names,
                                   .fields = mpnet_fields,
                                   .activation = "hidden_act",
                                   .eps = "layer_norm_eps",
                                   .counts_padding = true,
                                   .distances = true};
static const bert_variant distilbert = {
    .top = "distilbert", .stack = "transformer", .names = &distilbert_names, .fields = distilbert_fields, .activation = "activation"};

/* What would make another model of it. */
static bool check_kind(const cb_model *model)
{
    static const char *const flags[] = {"is_decoder", "add_cross_attention"};
    for (size_t i = 0; i < 2; i++)
        if (cb_json_bool(model->config_path, model->json, flags[i], false))
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s is true, expected false", model->config_path, flags[i]) == CB_OK;
    const char *positions = cb_json_string(model->config_path, model->json, "position_embedding_type", "absolute");
    if (positions && strcmp(positions, "absolute") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: position_embedding_type is \"%s\", expected \"absolute\"", model->config_path, positions) ==
               CB_OK;
    return cb_ok();
}

static bool configure_positions(cb_model *model)
{
    cb_model_config *c = &model->config;
    const bert_variant *v = model->architecture->variant;
    int64_t padding = v->distances ? 1 : cb_json_int(model->config_path, model->json, "pad_token_id", 1);
    if (cb_ok() && (padding < 0 || padding + 1 >= c->max_positions))
        return cb_config_error(model, "pad_token_id is %lld, expected 0 to max_position_embeddings - 2 (%lld)", (long long)padding,
                               (long long)c->max_positions - 2);
    c->first_position = padding + 1;
    c->max_positions -= c->first_position;
    return cb_ok();
}

/* The table has these rows; transformers uses 32 of them whatever the config says. */
#define DISTANCE_ROWS "relative_attention_num_buckets"
static int64_t distance_rows(const cb_model *model)
{
    return cb_json_int(model->config_path, model->json, DISTANCE_ROWS, 32);
}

static bool configure_distances(cb_model *model)
{
    cb_distances *d = model->details = cb_calloc(1, sizeof *d);
    if (!d)
        return false;
    *d = (cb_distances){.buckets = 32, .furthest = 128, .both_ways = true};
    int64_t rows = distance_rows(model);
    if (cb_ok() && (rows < d->buckets || rows > 65536))
        return cb_config_error(model, DISTANCE_ROWS " is %lld, expected %lld to 65536", (long long)rows, (long long)d->buckets);
    return cb_ok();
}

static bool configure(cb_model *model)
{
    const bert_variant *v = model->architecture->variant;
    cb_model_config *c = &model->config;
    if (!cb_config_integers(model, v->fields) || !check_kind(model))
        return false;
    if (c->width % c->heads)
        return cb_config_error(model, "%s is %lld, expected a multiple of %s (%lld)", v->fields[1].key, (long long)c->width,
                               v->fields[4].key, (long long)c->heads);
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    c->eps = v->eps ? cb_json_float(model->config_path, model->json, v->eps, 1e-12) : 1e-12;
    c->tied = cb_json_bool(model->config_path, model->json, "tie_word_embeddings", true);
    if (cb_ok() && !(c->eps > 0 && c->eps < 1))
        return cb_config_error(model, "%s is %g, expected over 0 and under 1", v->eps, c->eps);
    return cb_ok() && (!v->counts_padding || configure_positions(model)) && (!v->distances || configure_distances(model)) &&
           cb_config_activation(model, v->activation, "gelu");
}

/* ---- layers ---- */

static bool build_embeddings(cb_model *model, cb_weight_source *source, cb_layer *top)
{
    const cb_model_config *c = &model->config;
    cb_layer *e = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    if (!e)
        return false;
    int64_t positions = c->first_position + c->max_positions;
    model->embedding = cb_source_embedding(source, e, "word_embeddings", c->vocab_size, c->width);
    model->position_embedding = model->embedding ? cb_source_embedding(source, e, "position_embeddings", positions, c->width) : NULL;
    if (c->token_types)
        model->type_embedding = cb_source_embedding(source, e, "token_type_embeddings", c->token_types, c->width);
    model->embedding_norm = cb_source_norm(source, e, "LayerNorm", c->width, c->eps, true);
    return cb_ok();
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const bert_variant *v = model->architecture->variant;
    cb_layer *top = cb_model_top(model, v->top);
    cb_layer *stack = build_embeddings(model, source, top) ? cb_layer_new(top, v->stack, CB_LAYER_GROUP) : NULL;
    cb_layer *blocks = stack ? cb_layer_new(stack, "layer", CB_LAYER_GROUP) : NULL;
    if (!blocks || !cb_encoder_build_all(model, source, blocks, v->names, true))
        return false;
    cb_distances *d = model->details;
    return !v->distances ||
           (d->layer = cb_source_embedding(source, stack, "relative_attention_bias", distance_rows(model), model->config.heads));
}

/* ---- forward ---- */

/* The row of the table that each position is in. */
static cb_tensor *position_rows(const cb_model *model, cb_tensor *positions)
{
    int32_t first = (int32_t)model->config.first_position;
    if (!first)
        return positions;
    cb_tensor *rows = cb_empty_like(positions);
    for (int64_t i = 0; rows && i < positions->count; i++)
        ((int32_t *)rows->data)[i] = (int32_t)cb_get(positions, i) + first;
    return rows;
}

/* Adds positions, and token types (B, T), 0 where there are none, and normalises. */
static cb_tensor *finish(cb_model *model, cb_tensor *x, cb_tensor *types, const cb_pass *pass)
{
    const cb_context *ctx = &pass->ctx;
    if (model->type_embedding) {
        types = types ? types : cb_zeros_like(ctx->positions);
        x = cb_add(x, cb_embedding_forward(model->type_embedding, types, model->dtype, ctx));
    }
    x = cb_add(x, cb_embedding_forward(model->position_embedding, position_rows(model, ctx->positions), model->dtype, ctx));
    return cb_layer_norm_forward(model->embedding_norm, x, ctx);
}

static cb_tensor *position(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    return finish(model, x, NULL, pass);
}

static cb_tensor *embed(cb_model *model, cb_tensor *ids, const cb_pass *pass)
{
    return finish(model, cb_embedding_forward(model->embedding, ids, model->dtype, &pass->ctx), pass->ctx.types, pass);
}

static bool begin(cb_model *model, const cb_tensor *ids, cb_pass *pass)
{
    return (pass->bias = cb_distance_bias(model->details, ids->shape[0], ids->shape[1], ids->shape[1], &pass->ctx));
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t head_dim = model->config.head_dim;
    cb_tensor *x = cb_layer_before(b->attention, residual, ctx);
    if (!x)
        return NULL;
    cb_tensor *k = cb_encoder_heads(b->k, x, head_dim, ctx), *v = cb_encoder_heads(b->v, x, head_dim, ctx);
    cb_attention_options options = {.segments = ctx->segments, .mask = pass->bias, .prefix_k = pass->prefix.k, .prefix_v = pass->prefix.v};
    if (!cb_first_tokens(pass, &residual, &x, &options))
        return NULL;
    cb_tensor *y = cb_attention_forward(b->attention, cb_encoder_heads(b->q, x, head_dim, ctx), k, v, options, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], -1) : NULL;
    return cb_encoder_close_post(b->attention, b->o, b->attention_norm, residual, x, y, ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(cb_encoder_mlp_post, model, index, cb_branch_run(attention, model, index, x, pass), pass);
}

/* ---- heads ---- */

static const cb_head_plan bert_heads[] = {
    {.kind = CB_HEAD_MASKED_LM,
     .class_end = "ForMaskedLM",
     .dense = "cls.predictions.transform.dense",
     .activation = CB_ACT_OF_CONFIG,
     .norm = "cls.predictions.transform.LayerNorm",
     .output = "cls.predictions.decoder",
     .group_bias = true},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION,
     .class_end = "ForSequenceClassification",
     .dense = "bert.pooler.dense",
     .activation = CB_ACT_TANH,
     .output = "classifier",
     .bias = true},
    {.kind = CB_HEAD_TOKEN_CLASSIFICATION, .class_end = "ForTokenClassification", .output = "classifier", .bias = true},
    {.kind = CB_HEAD_NONE, .class_end = "Model", .dense = "pooler.dense"},
    {.kind = CB_HEAD_MASKED_LM, .class_end = "ForPreTraining"}, /* read as a ForMaskedLM: that of next sentences is left out */
    {0},
};
static const cb_head_plan roberta_heads[] = {
    {.kind = CB_HEAD_MASKED_LM,
     .class_end = "ForMaskedLM",
     .dense = "lm_head.dense",
     .activation = CB_ACT_GELU,
     .norm = "lm_head.layer_norm",
     .output = "lm_head.decoder",
     .group_bias = true},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION,
     .class_end = "ForSequenceClassification",
     .dense = "classifier.dense",
     .activation = CB_ACT_TANH,
     .output = "classifier.out_proj",
     .bias = true},
    {.kind = CB_HEAD_TOKEN_CLASSIFICATION, .class_end = "ForTokenClassification", .output = "classifier", .bias = true},
    {.kind = CB_HEAD_NONE, .class_end = "Model", .dense = "pooler.dense"},
    {0},
};
static const cb_head_plan distilbert_heads[] = {
    {.kind = CB_HEAD_MASKED_LM,
     .class_end = "ForMaskedLM",
     .dense = "vocab_transform",
     .activation = CB_ACT_OF_CONFIG,
     .norm = "vocab_layer_norm",
     .output = "vocab_projector",
     .bias = true},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION,
     .class_end = "ForSequenceClassification",
     .dense = "pre_classifier",
     .activation = CB_ACT_RELU,
     .output = "classifier",
     .bias = true},
    {.kind = CB_HEAD_TOKEN_CLASSIFICATION, .class_end = "ForTokenClassification", .output = "classifier", .bias = true},
    {.kind = CB_HEAD_NONE, .class_end = "Model"},
    {0},
};

#define MEMBER(type, class, start, plans, facts)                                                                                           \
    {                                                                                                                                      \
        .model_type = type, .class_prefix = class, .prefix = start, .heads = plans, .variant = facts, .bidirectional = true,               \
        .ends_with_first = true, .configure = configure, .build = build, .embed = embed, .position = position, .block = block              \
    }

const cb_architecture cb_bert_family[] = {
    MEMBER("bert", "Bert", "bert.", bert_heads, &bert),
    MEMBER("roberta", "Roberta", "roberta.", roberta_heads, &roberta),
    MEMBER("xlm-roberta", "XLMRoberta", "roberta.", roberta_heads, &roberta),
    MEMBER("camembert", "Camembert", "roberta.", roberta_heads, &roberta),
    MEMBER("distilbert", "DistilBert", "distilbert.", distilbert_heads, &distilbert),
    {.model_type = "mpnet",
     .class_prefix = "MPNet",
     .prefix = "mpnet.",
     .heads = roberta_heads,
     .variant = &mpnet,
     .bidirectional = true,
     .configure = configure,
     .build = build,
     .begin = begin,
     .embed = embed,
     .position = position,
     .block = block},
    {0},
};
