/* deberta.c: DeBERTa-v2 and v3 (He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543): BERT's blocks with disentangled attention.  What a query i
 * gives a key j is, beside q_i k_j, what its content says of their distance, q_i k^r(i - j), and what the key's content does, k_j q^r(i - j), where
 * the vectors of distances, k^r and q^r, are projections of one embedding that all blocks share.  Distances beyond half of position_buckets share
 * vectors, by their logarithm.  Positions of their own (position_biased_input), which v3 leaves out, are BERT's.  The first block of v2-xlarge
 * has a convolution over neighbouring tokens beside it.
 *
 * The base model's own dropout is not applied.  Shape letters: B batch, T time, C width, H heads, D head size, R distances, K the kernel. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/internal.h"

static const cb_encoder_names names = {.attention = "attention",
                                       .heads = "self",
                                       .q = "query_proj",
                                       .k = "key_proj",
                                       .v = "value_proj",
                                       .attention_out = "output",
                                       .o = "dense",
                                       .attention_norm = "LayerNorm",
                                       .up_group = "intermediate",
                                       .up = "dense",
                                       .mlp = "output",
                                       .down = "dense",
                                       .mlp_norm = "LayerNorm",
                                       .norms_in_groups = true};

/* The projections of distances, where they are a block's own. */
typedef struct distance_layers {
    cb_layer *key, *query;
} distance_layers;

typedef struct deberta {
    bool relative, shared, content_first, position_first; /* c2p, p2c */
    bool positions, norms_distances, legacy;
    int64_t buckets, furthest, span; /* the embedding of distances has 2 span rows */
    int64_t kernel;                  /* 0: there is no convolution */
    cb_activation conv_activation;
    cb_layer *distances, *distance_norm, *conv, *conv_norm;
    distance_layers blocks[]; /* of each */
} deberta;

/* ---- configuration ---- */

#define FIELD(key, field, otherwise, least, most)                                                                                          \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, least, most                                                                      \
    }
static const cb_config_field fields[] = {
    FIELD("vocab_size", vocab_size, 128100, 1, INT32_MAX),   FIELD("hidden_size", width, 1536, 1, 1 << 24),
    FIELD("intermediate_size", mlp_width, 6144, 1, 1 << 24), FIELD("num_hidden_layers", layers, 24, 1, 1 << 16),
    FIELD("num_attention_heads", heads, 24, 1, 1 << 16),     FIELD("max_position_embeddings", max_positions, 512, 1, INT32_MAX),
    FIELD("type_vocab_size", token_types, 0, 0, INT32_MAX),  {0},
};

/* Whether `word` is among the parts of "p2c|c2p", or of a list of them. */
static bool names_part(const json_t *value, const char *word)
{
    for (size_t i = 0; i < json_array_size(value); i++)
        if (json_is_string(json_array_get(value, i)) && strcmp(json_string_value(json_array_get(value, i)), word) == 0)
            return true;
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    for (size_t length; *text; text += length) {
        text += strspn(text, "| ");
        length = strcspn(text, "| ");
        if (length == strlen(word) && strncmp(text, word, length) == 0)
            return true;
    }
    return false;
}

/* What would make another model of it. */
static bool check_kind(const cb_model *model)
{
    const cb_model_config *c = &model->config;
    const struct {
        const char *key;
        int64_t expected;
    } sizes[] = {{"embedding_size", c->width}, {"pooler_hidden_size", c->width}, {"attention_head_size", c->head_dim}, {"conv_groups", 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t found = cb_json_int(model->config_path, model->json, sizes[i].key, sizes[i].expected);
        if (cb_ok() && found != sizes[i].expected)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s is %lld, expected %lld", model->config_path, sizes[i].key, (long long)found,
                           (long long)sizes[i].expected) == CB_OK;
    }
    return cb_ok();
}

static bool configure_distances(cb_model *model, deberta *d)
{
    const json_t *kinds = json_object_get(model->json, "pos_att_type");
    const int64_t most = 1 << 24;
    d->relative = cb_json_bool(model->config_path, model->json, "relative_attention", false);
    d->shared = cb_json_bool(model->config_path, model->json, "share_att_key", false);
    d->content_first = names_part(kinds, "c2p");
    d->position_first = names_part(kinds, "p2c");
    d->norms_distances = names_part(json_object_get(model->json, "norm_rel_ebd"), "layer_norm");
    d->buckets = cb_json_int(model->config_path, model->json, "position_buckets", -1);
    d->furthest = cb_json_int(model->config_path, model->json, "max_relative_positions", -1);
    d->furthest = d->furthest < 1 ? model->config.max_positions : d->furthest;
    d->span = d->buckets > 0 ? d->buckets : d->furthest;
    if (cb_ok() && (d->span > most || d->furthest > most))
        return cb_config_error(model, "position_buckets and max_relative_positions are %lld and %lld, expected at most %lld",
                               (long long)d->buckets, (long long)d->furthest, (long long)most);
    if (cb_ok() && d->buckets > 0 && (d->buckets < 4 || d->furthest <= d->buckets / 2 + 1))
        return cb_config_error(model, "position_buckets is %lld, expected 4 or more, and less than twice the furthest distance (%lld)",
                               (long long)d->buckets, (long long)d->furthest);
    return cb_ok();
}

static bool configure_convolution(cb_model *model, deberta *d)
{
    const int64_t most = 1 << 10;
    d->kernel = cb_json_int(model->config_path, model->json, "conv_kernel_size", 0);
    if (cb_ok() && d->kernel > 0 && (d->kernel > most || d->kernel % 2 == 0))
        return cb_config_error(model, "conv_kernel_size is %lld, expected an odd number up to %lld", (long long)d->kernel, (long long)most);
    d->kernel = d->kernel > 0 ? d->kernel : 0;
    return cb_ok() && cb_config_activation_of(model, "conv_act", "tanh", &d->conv_activation);
}

static bool configure(cb_model *model)
{
    cb_model_config *c = &model->config;
    if (!cb_config_integers(model, fields))
        return false;
    if (c->width % c->heads)
        return cb_config_error(model, "hidden_size is %lld, expected a multiple of num_attention_heads (%lld)", (long long)c->width,
                               (long long)c->heads);
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    deberta *d = model->details = cb_calloc(1, sizeof *d + (size_t)c->layers * sizeof *d->blocks);
    if (!d || !check_kind(model) || !configure_distances(model, d) || !configure_convolution(model, d) ||
        !cb_config_number(model, "layer_norm_eps", 1e-7, 1e-300, 1, &c->eps))
        return false;
    d->positions = cb_json_bool(model->config_path, model->json, "position_biased_input", true);
    d->legacy = cb_json_bool(model->config_path, model->json, "legacy", true);
    c->tied = cb_json_bool(model->config_path, model->json, "tie_word_embeddings", true);
    return cb_ok() && cb_config_activation(model, "hidden_act", "gelu") &&
           cb_config_activation_of(model, "pooler_hidden_act", "gelu", &c->pooler_activation);
}

/* ---- layers ---- */

static bool build_embeddings(cb_model *model, cb_weight_source *source, cb_layer *top, const deberta *d)
{
    const cb_model_config *c = &model->config;
    cb_layer *e = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    if (!e)
        return false;
    model->embedding = cb_source_embedding(source, e, "word_embeddings", c->vocab_size, c->width);
    if (d->positions)
        model->position_embedding = cb_source_embedding(source, e, "position_embeddings", c->max_positions, c->width);
    if (c->token_types)
        model->type_embedding = cb_source_embedding(source, e, "token_type_embeddings", c->token_types, c->width);
    model->embedding_norm = cb_source_norm(source, e, "LayerNorm", c->width, c->eps, true);
    return cb_ok();
}

/* What the blocks have in common. */
static bool build_stack(cb_model *model, cb_weight_source *source, cb_layer *stack, deberta *d)
{
    const cb_model_config *c = &model->config;
    if (d->relative)
        d->distances = cb_source_embedding(source, stack, "rel_embeddings", 2 * d->span, c->width);
    if (d->norms_distances)
        d->distance_norm = cb_source_norm(source, stack, "LayerNorm", c->width, c->eps, true);
    if (!d->kernel || !cb_ok())
        return cb_ok();
    cb_layer *group = cb_layer_new(stack, "conv", CB_LAYER_GROUP), *conv = group ? cb_layer_new(group, "conv", CB_LAYER_GROUP) : NULL;
    const int64_t shape[] = {c->width, c->width, d->kernel};
    d->conv = conv;
    return conv && cb_source_weight(source, conv, "weight", CB_INITIAL_NORMAL, 3, shape) &&
           cb_source_weight(source, conv, "bias", CB_INITIAL_ZEROS, 1, shape) &&
           (d->conv_norm = cb_source_norm(source, group, "LayerNorm", c->width, c->eps, true));
}

/* Projections of distances that are not those of content. */
static bool build_projections(cb_model *model, cb_weight_source *source, deberta *d)
{
    int64_t width = model->config.width;
    for (int64_t i = 0; d->relative && !d->shared && i < model->config.layers; i++) {
        cb_layer *heads = model->blocks[i].q->parent;
        if (d->content_first &&
            !(d->blocks[i].key = cb_source_linear(source, heads, "pos_key_proj", width, width, false, true, CB_INITIAL_NORMAL)))
            return false;
        if (d->position_first &&
            !(d->blocks[i].query = cb_source_linear(source, heads, "pos_query_proj", width, width, false, true, CB_INITIAL_NORMAL)))
            return false;
    }
    return true;
}

/* The head that DeBERTa was trained with, which transformers has for legacy false, and which uses the embedding whatever is said of it. */
static const cb_head_plan own_words = {.kind = CB_HEAD_MASKED_LM,
                                       .class_end = "ForMaskedLM",
                                       .dense = "lm_predictions.lm_head.dense",
                                       .activation = CB_ACT_OF_CONFIG,
                                       .norm = "lm_predictions.lm_head.LayerNorm",
                                       .output = "lm_predictions.lm_head.decoder",
                                       .group_bias = true};

/* Files of the first releases have the head of their own, and configs that say nothing of it. */
static bool choose_words(cb_model *model, cb_weight_source *source, const deberta *d)
{
    const json_t *said = json_object_get(model->json, "legacy");
    bool silent = (!said || json_is_null(said)) && model->file;
    bool own = !d->legacy || (silent && cb_source_has(source, "lm_predictions.lm_head.dense.weight") &&
                              !cb_source_has(source, "cls.predictions.transform.dense.weight"));
    if (model->head_plan->kind != CB_HEAD_MASKED_LM || !own)
        return true;
    model->head_plan = &own_words;
    model->config.tied = true;
    return cb_json_put(model->json, "legacy", json_false());
}

static bool build(cb_model *model, cb_weight_source *source)
{
    deberta *d = model->details;
    cb_layer *top = choose_words(model, source, d) ? cb_model_top(model, "deberta") : NULL;
    cb_layer *stack = build_embeddings(model, source, top, d) ? cb_layer_new(top, "encoder", CB_LAYER_GROUP) : NULL;
    cb_layer *blocks = stack ? cb_layer_new(stack, "layer", CB_LAYER_GROUP) : NULL;
    return blocks && cb_encoder_build_all(model, source, blocks, &names, true) && build_projections(model, source, d) &&
           build_stack(model, source, stack, d);
}

/* ---- distances ---- */

/* The bucket of a distance; in f32, so that it falls as it does in PyTorch. */
static int64_t bucket_of(const deberta *d, int64_t distance)
{
    int64_t middle = d->buckets / 2, size = llabs(distance);
    if (d->buckets <= 0 || size <= middle)
        return distance;
    float share = logf((float)size / (float)middle) / logf((float)((double)(d->furthest - 1) / (double)middle));
    int64_t bucket = (int64_t)ceilf(share * (float)(middle - 1)) + middle;
    return distance < 0 ? -bucket : bucket;
}

static int64_t row_of(const deberta *d, int64_t distance)
{
    int64_t row = bucket_of(d, distance) + d->span;
    return row < 0 ? 0 : row >= 2 * d->span ? 2 * d->span - 1 : row;
}

/* Rows [first, first + R) of the embedding are those that T tokens need: (rows, R, C), normalised.  Modules that differ by row see it once a row. */
static cb_tensor *distance_vectors(const deberta *d, const cb_model *model, int64_t first, int64_t count, const cb_context *ctx)
{
    cb_tensor *ids = cb_empty(CB_I32, 1, count);
    for (int64_t i = 0; ids && i < count; i++)
        ((int32_t *)ids->data)[i] = (int32_t)(first + i);
    cb_tensor *x = cb_embedding_forward(d->distances, ids, model->dtype, ctx);
    return d->distance_norm ? cb_layer_norm_forward(d->distance_norm, x, ctx) : x;
}

/* A projection of distances, (B or 1, H, D, R). */
static cb_tensor *project(const cb_layer *layer, cb_tensor *distances, int64_t batch, const cb_model *model, const cb_context *ctx)
{
    bool by_row = cb_layer_hosts(layer, ctx) && (ctx->blend_weights || ctx->tasks || ctx->conditions);
    cb_tensor *x = by_row ? cb_repeat(distances, batch, 1, 1) : distances;
    return cb_permute(cb_encoder_heads(layer, x, model->config.head_dim, ctx), 0, 2, 3, 1);
}

/* content (B, T, H, D) times vectors (B or 1, H, D, R), of which each pair of tokens (i, j) takes one: (B H, T T), f32.  The content is that of i,
 * or of j. */
static cb_tensor *take(const deberta *d, cb_tensor *content, cb_tensor *vectors, int64_t first, bool of_key)
{
    if (!content || !vectors)
        return NULL;
    int64_t batch = content->shape[0], time = content->shape[1], heads = content->shape[2], rows = vectors->shape[3];
    cb_tensor *all = cb_matmul(cb_permute(content, 0, 2, 1, 3), vectors), *places = cb_empty(CB_I64, time * time); /* (B, H, T, R) */
    for (int64_t i = 0; places && i < time; i++)
        for (int64_t j = 0; j < time; j++)
            ((int64_t *)places->data)[i * time + j] = (of_key ? j : i) * rows + row_of(d, i - j) - first;
    return all && places ? cb_index_select(cb_cast(cb_reshape(all, batch * heads, time * rows), CB_F32), 1, places) : NULL;
}

/* What distances add to the scores, (B, H, T, T), f32. */
static cb_tensor *distance_scores(const cb_model *model, int64_t index, cb_tensor *q, cb_tensor *k, double scale, const cb_context *ctx)
{
    const deberta *d = model->details;
    const cb_block *b = &model->blocks[index];
    if (!q || !k)
        return NULL;
    int64_t batch = q->shape[0], time = q->shape[1], first = row_of(d, 1 - time), count = row_of(d, time - 1) - first + 1;
    cb_tensor *x = distance_vectors(d, model, first, count, ctx), *sum = NULL;
    const cb_layer *key = d->shared ? b->k : d->blocks[index].key, *query = d->shared ? b->q : d->blocks[index].query;
    if (x && d->content_first && !(sum = take(d, q, project(key, x, batch, model, ctx), first, false)))
        return NULL;
    if (x && d->position_first) {
        cb_tensor *second = take(d, k, project(query, x, batch, model, ctx), first, true);
        sum = sum ? cb_add(sum, second) : second;
    }
    return sum ? cb_reshape(cb_scale(sum, scale), batch, -1, time, time) : NULL;
}

/* ---- forward ---- */

static cb_tensor *embed(cb_model *model, cb_tensor *ids, const cb_pass *pass)
{
    const cb_context *ctx = &pass->ctx;
    cb_tensor *x = cb_embedding_forward(model->embedding, ids, model->dtype, ctx);
    if (model->position_embedding)
        x = cb_add(x, cb_embedding_forward(model->position_embedding, ctx->positions, model->dtype, ctx));
    if (model->type_embedding) {
        cb_tensor *types = ctx->types ? ctx->types : cb_zeros_like(ctx->positions);
        x = cb_add(x, cb_embedding_forward(model->type_embedding, types, model->dtype, ctx));
    }
    return cb_layer_norm_forward(model->embedding_norm, x, ctx);
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const deberta *d = model->details;
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    int64_t head_dim = model->config.head_dim;
    if (pass->prefix.k) {
        cb_fail(CB_ERR_UNSUPPORTED, "deberta-v2: found virtual tokens, which have no distance from others; expected another kind");
        return NULL;
    }
    cb_tensor *x = cb_layer_before(b->attention, residual, ctx);
    if (!x)
        return NULL;
    cb_tensor *q = cb_encoder_heads(b->q, x, head_dim, ctx), *k = cb_encoder_heads(b->k, x, head_dim, ctx),
              *v = cb_encoder_heads(b->v, x, head_dim, ctx);
    double scale = 1 / sqrt((double)head_dim * (1 + d->content_first + d->position_first));
    cb_attention_options options = {.scale = scale, .segments = ctx->segments};
    if (d->relative && (d->content_first || d->position_first) && !(options.mask = distance_scores(model, index, q, k, scale, ctx)))
        return NULL;
    cb_tensor *y = cb_attention_forward(b->attention, q, k, v, options, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], -1) : NULL;
    return cb_encoder_close_post(b->attention, b->o, b->attention_norm, residual, x, y, ctx);
}

/* For every token the rows of its K neighbours in x (B T, C); those of another document, of padding and beyond the ends are the row of zeros
 * behind all others. */
static cb_tensor *neighbours(const cb_tensor *x, int64_t kernel, const cb_context *ctx)
{
    int64_t batch = x->shape[0], time = x->shape[1], n = 0;
    cb_tensor *places = cb_empty(CB_I64, batch * time * kernel);
    for (int64_t i = 0; places && i < batch * time; i++)
        for (int64_t k = 0; k < kernel; k++) {
            int64_t at = i % time + k - kernel / 2, row = i - i % time + at;
            bool seen = at >= 0 && at < time;
            if (seen && ctx->segments)
                seen = cb_get(ctx->segments, row) >= 0 && cb_get(ctx->segments, row) == cb_get(ctx->segments, i);
            ((int64_t *)places->data)[n++] = seen ? row : batch * time;
        }
    return places;
}

/* norm(y + activation(convolution of x)) */
static cb_tensor *convolve(const deberta *d, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    int64_t batch = x->shape[0], time = x->shape[1], width = x->shape[2];
    cb_tensor *rows = cb_pad(cb_reshape(x, batch * time, width), 0, 0, 1, 0), *places = neighbours(x, d->kernel, ctx);
    if (!rows || !places)
        return NULL;
    cb_tensor *windows = cb_reshape(cb_index_select(rows, 0, places), batch, time, d->kernel * width);
    cb_tensor *weight = cb_cast(cb_layer_weight(d->conv, "weight"), x->dtype); /* (C, C, K) */
    weight = cb_reshape(cb_contiguous(cb_permute(weight, 0, 2, 1)), width, -1);
    cb_tensor *out = cb_linear(windows, weight, cb_cast(cb_layer_weight(d->conv, "bias"), x->dtype));
    return cb_layer_norm_forward(d->conv_norm, cb_add(y, cb_activate(d->conv_activation, out)), ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const deberta *d = model->details;
    bool convolves = d->conv && index == 0;
    if (convolves)
        cb_keep(x); /* which the block may not use for what it gives */
    cb_tensor *y = cb_branch_run(cb_encoder_mlp_post, model, index, cb_branch_run(attention, model, index, x, pass), pass);
    if (!convolves)
        return y;
    y = y ? convolve(d, x, y, &pass->ctx) : NULL;
    cb_release(x);
    return y;
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_MASKED_LM,
     .class_end = "ForMaskedLM",
     .dense = "cls.predictions.transform.dense",
     .activation = CB_ACT_OF_CONFIG,
     .norm = "cls.predictions.transform.LayerNorm",
     .output = "cls.predictions.decoder",
     .group_bias = true},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION,
     .class_end = "ForSequenceClassification",
     .dense = "pooler.dense",
     .activation = CB_ACT_OF_POOLER,
     .output = "classifier",
     .bias = true},
    {.kind = CB_HEAD_TOKEN_CLASSIFICATION, .class_end = "ForTokenClassification", .output = "classifier", .bias = true},
    {.kind = CB_HEAD_NONE, .class_end = "Model"},
    {0},
};

const cb_architecture cb_deberta_family[] = {
    {.model_type = "deberta-v2",
     .class_prefix = "DebertaV2",
     .prefix = "deberta.",
     .heads = heads,
     .bidirectional = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .block = block},
    {0},
};
