/* t5.c: T5 (Raffel et al. 2019, arXiv:1910.10683): an encoder of the source text and a decoder of the target, which attends to the encoder's states.
 * Norms are RMS norms in front of each half; no layer has a bias; scores are not scaled, but have a number added that is learned of each head and
 * each bucket of distances, which the first block of a stack has for all.  The tokens' embedding is the decoder's and, where the checkpoint holds no
 * other, the head's: then what the head reads is scaled by 1 / sqrt(C).
 *
 * T5 1.1, FLAN-T5 and mT5 (Xue et al. 2020, arXiv:2010.11934) have a gated MLP and a head of their own; umT5 (Chung et al. 2023, arXiv:2304.09151)
 * has distances of its own in each block.  T5EncoderModel is the encoder alone.  The base model's own dropout is not applied.
 *
 * With a head that judges texts (ForSequenceClassification) the encoder and the decoder read the same, the decoder one token later, and the decoder's last state that
 * is no padding's says what it is; all layers of the two then lie below `transformer`.
 *
 * The decoder is the model, the encoder a tower of it (internal.h, encoded.c).  Shape letters: B batch, T time, Tq queries, Tk keys, Ts source, C
 * width, H heads, D head size. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { MOST_LAYERS = 4096 }; /* of a stack: room is made before the checkpoint is asked */

typedef struct t5_variant {
    const char *feed_forward; /* feed_forward_proj where the config has none */
    bool scales;              /* what a tied head reads */
    bool own_distances;       /* each block has */
    int encoder;              /* where it stands in `encoders` */
    int64_t vocab_size, mlp_width, layers, heads;
} t5_variant;

/* What a block has beside that of other transformers. */
typedef struct t5_block {
    cb_layer *distances; /* (buckets, H); NULL: the first block's are used */
    cb_block cross;      /* attention to the encoder's states */
} t5_block;

typedef struct t5 {
    int64_t buckets, furthest;
    bool gated;
    double factor;    /* of deviations of new weights */
    cb_layer *tokens; /* the stack's own name for the embedding */
    t5_block blocks[];
} t5;

static const cb_architecture encoders[3];
static const cb_head_plan no_head = {.kind = CB_HEAD_NONE, .class_end = "EncoderModel"};

/* ---- configuration ---- */

#define FIELD(key, field, otherwise, most)                                                                                                 \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, 1, most                                                                          \
    }

static bool configure_sizes(cb_model *model, const t5_variant *v)
{
    const cb_config_field fields[] = {
        FIELD("vocab_size", vocab_size, v->vocab_size, INT32_MAX),
        FIELD("d_model", width, 512, 1 << 24),
        FIELD("d_kv", head_dim, 64, 1 << 20),
        FIELD("d_ff", mlp_width, v->mlp_width, 1 << 24),
        FIELD("num_layers", layers, v->layers, MOST_LAYERS),
        FIELD("num_heads", heads, v->heads, 1 << 16),
        {0},
    };
    cb_model_config *c = &model->config;
    if (!cb_config_integers(model, fields))
        return false;
    c->kv_heads = c->heads;
    c->max_positions = INT32_MAX; /* there is no end to distances */
    return true;
}

static bool configure_mlp(cb_model *model, const t5_variant *v, t5 *t)
{
    static const char key[] = "feed_forward_proj", gated[] = "gated-";
    const char *name = cb_json_string(model->config_path, model->json, key, v->feed_forward);
    if (!cb_ok())
        return false;
    t->gated = strncmp(name, gated, strlen(gated)) == 0;
    name += t->gated ? strlen(gated) : 0;
    if (t->gated && strcmp(name, "gelu") == 0)
        name = "gelu_new"; /* as transformers has it, and T5 1.1 was trained */
    return cb_config_activation_named(model, key, name, &model->config.activation);
}

static bool configure_distances(cb_model *model, t5 *t)
{
    static const char buckets[] = "relative_attention_num_buckets", furthest[] = "relative_attention_max_distance";
    t->buckets = cb_json_int(model->config_path, model->json, buckets, 32);
    t->furthest = cb_json_int(model->config_path, model->json, furthest, 128);
    if (cb_ok() && (t->buckets < 4 || t->buckets > 1 << 16 || t->buckets % 4))
        return cb_config_error(model, "%s is %lld, expected a multiple of 4 up to 65536", buckets, (long long)t->buckets);
    if (cb_ok() && (t->furthest <= t->buckets / 2 || t->furthest > INT32_MAX))
        return cb_config_error(model, "%s is %lld, expected more than half of %s (%lld)", furthest, (long long)t->furthest, buckets,
                               (long long)t->buckets);
    return cb_ok();
}

static bool configure_stack(cb_model *model)
{
    const t5_variant *v = model->architecture->variant;
    if (!configure_sizes(model, v))
        return false;
    int64_t decoder = cb_json_int(model->config_path, model->json, "num_decoder_layers", model->config.layers);
    if (cb_ok() && (decoder < 1 || decoder > MOST_LAYERS))
        return cb_config_error(model, "num_decoder_layers is %lld, expected 1 to %d", (long long)decoder, MOST_LAYERS);
    if (!model->architecture->bidirectional)
        model->config.layers = decoder;
    t5 *t = model->details = cb_calloc(1, sizeof *t + (size_t)model->config.layers * sizeof *t->blocks);
    return t && cb_ok() && configure_mlp(model, v, t) && configure_distances(model, t) &&
           cb_config_number(model, "layer_norm_epsilon", 1e-6, 1e-300, 1, &model->config.eps) &&
           cb_config_number(model, "initializer_factor", 1, 0, 100, &t->factor);
}

static bool configure_start(cb_model *model)
{
    int64_t padding = cb_json_int(model->config_path, model->json, "pad_token_id", 0);
    int64_t start = cb_json_int(model->config_path, model->json, "decoder_start_token_id", padding);
    if (cb_ok() && (start < 0 || start >= model->config.vocab_size))
        return cb_config_error(model, "decoder_start_token_id is %lld, expected 0 to vocab_size - 1 (%lld)", (long long)start,
                               (long long)model->config.vocab_size - 1);
    model->config.decoder_start = (int32_t)start;
    return cb_ok();
}

/* transformers 4 says by tie_word_embeddings whether what the head reads is scaled, 5 beside it, since there a head is tied unless the checkpoint has
 * another one.  It is written down, so that a head that comes to differ changes nothing of it. */
static bool configure_head(cb_model *model, const t5_variant *v)
{
    static const char key[] = "scale_decoder_outputs";
    cb_model_config *c = &model->config;
    c->tied = cb_json_bool(model->config_path, model->json, "tie_word_embeddings", true);
    bool scaled = cb_json_bool(model->config_path, model->json, key, c->tied);
    if (!v->scales || !cb_ok())
        return cb_ok();
    c->head_scale = scaled ? 1 / sqrt((double)c->width) : 0;
    return cb_json_put(model->json, key, json_boolean(scaled));
}

static bool configure(cb_model *model)
{
    const t5_variant *v = model->architecture->variant;
    if (!configure_stack(model) || !configure_start(model) || !configure_head(model, v))
        return false;
    cb_model *encoder = model->towers[CB_TOWER_ENCODER] = cb_model_tower_new(model, &encoders[v->encoder], NULL);
    if (encoder)
        encoder->head_plan = &no_head;
    return encoder;
}

/* ---- layers ---- */

/* What holds the layers of both stacks. */
static cb_layer *top_of(cb_model *model)
{
    static const char group[] = "transformer";
    if (!cb_head_judges_rows(model->whole ? model->whole : model))
        return model->root;
    cb_layer *top = cb_layer_find(model->root, group);
    return top ? top : cb_layer_new(model->root, group, CB_LAYER_GROUP);
}

/* New weights are drawn from deviations of T5's own. */
static cb_layer *linear(cb_model *model, cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out,
                        double deviation)
{
    const t5 *t = model->details;
    model->config.initializer_range = t->factor * deviation;
    return cb_source_linear(source, parent, name, in, out, false, false, CB_INITIAL_NORMAL);
}

static cb_layer *embedding(cb_model *model, cb_weight_source *source, cb_layer *parent, const char *name, int64_t rows, int64_t width,
                           double deviation)
{
    const t5 *t = model->details;
    model->config.initializer_range = t->factor * deviation;
    return cb_source_embedding(source, parent, name, rows, width);
}

/* One of a block's layers: a group with a norm and `what`. */
static cb_layer *sublayer(cb_model *model, cb_weight_source *source, cb_layer *list, int number, const char *what, cb_layer_kind kind,
                          cb_layer **norm)
{
    char name[16];
    snprintf(name, sizeof name, "%d", number);
    cb_layer *group = list ? cb_layer_new(list, name, CB_LAYER_GROUP) : NULL, *layer = group ? cb_layer_new(group, what, kind) : NULL;
    *norm = layer ? cb_source_norm(source, group, "layer_norm", model->config.width, model->config.eps, false) : NULL;
    return *norm ? layer : NULL;
}

static bool build_attention(cb_model *model, cb_weight_source *source, cb_layer *list, int number, const char *what, cb_block *b)
{
    const cb_model_config *c = &model->config;
    int64_t inner = c->heads * c->head_dim;
    double width = (double)c->width;
    b->attention = sublayer(model, source, list, number, what, CB_LAYER_ATTENTION, &b->attention_norm);
    if (!b->attention)
        return false;
    b->attention->in_features = b->attention->out_features = c->heads;
    b->q = linear(model, source, b->attention, "q", c->width, inner, 1 / sqrt(width * (double)c->head_dim));
    b->k = linear(model, source, b->attention, "k", c->width, inner, 1 / sqrt(width));
    b->v = linear(model, source, b->attention, "v", c->width, inner, 1 / sqrt(width));
    b->o = linear(model, source, b->attention, "o", inner, c->width, 1 / sqrt((double)inner));
    return b->o;
}

static bool build_mlp(cb_model *model, cb_weight_source *source, cb_layer *list, int number, cb_block *b)
{
    const cb_model_config *c = &model->config;
    const t5 *t = model->details;
    double in = 1 / sqrt((double)c->width);
    b->mlp = sublayer(model, source, list, number, "DenseReluDense", CB_LAYER_MLP, &b->mlp_norm);
    if (!b->mlp)
        return false;
    if (t->gated)
        b->gate = linear(model, source, b->mlp, "wi_0", c->width, c->mlp_width, in);
    b->up = linear(model, source, b->mlp, t->gated ? "wi_1" : "wi", c->width, c->mlp_width, in);
    b->down = linear(model, source, b->mlp, "wo", c->mlp_width, c->width, 1 / sqrt((double)c->mlp_width));
    return b->down;
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index)
{
    const t5_variant *v = model->architecture->variant;
    t5 *t = model->details;
    t5_block *own = &t->blocks[index];
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    cb_layer *list = b && (b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK)) ? cb_layer_new(b->layer, "layer", CB_LAYER_GROUP) : NULL;
    int number = 0;
    if (!list || !build_attention(model, source, list, number++, "SelfAttention", b))
        return false;
    if ((index == 0 || v->own_distances) && !(own->distances = embedding(model, source, b->attention, "relative_attention_bias", t->buckets,
                                                                         model->config.heads, 1 / sqrt((double)model->config.width))))
        return false;
    if (!model->architecture->bidirectional && !build_attention(model, source, list, number++, "EncDecAttention", &own->cross))
        return false;
    return build_mlp(model, source, list, number, b);
}

static bool build_stack(cb_model *model, cb_weight_source *source, const char *name)
{
    const cb_model_config *c = &model->config;
    t5 *t = model->details;
    cb_layer *both = cb_ok() ? top_of(model) : NULL, *top = both ? cb_layer_new(both, name, CB_LAYER_GROUP) : NULL;
    t->tokens = top ? cb_layer_new(top, "embed_tokens", CB_LAYER_EMBEDDING) : NULL;
    cb_layer *blocks = t->tokens ? cb_layer_new(top, "block", CB_LAYER_GROUP) : NULL;
    if (!blocks)
        return false;
    t->tokens->in_features = c->vocab_size;
    t->tokens->out_features = c->width;
    t->tokens->tied = model->embedding;
    for (int64_t i = 0; i < c->layers; i++)
        if (!build_block(model, source, blocks, i))
            return false;
    model->norm = cb_source_norm(source, top, "final_layer_norm", c->width, c->eps, false);
    return model->norm;
}

static bool build_embedding(cb_model *model, cb_weight_source *source)
{
    cb_layer *top = top_of(model);
    model->embedding = top ? embedding(model, source, top, "shared", model->config.vocab_size, model->config.width, 1) : NULL;
    return model->embedding;
}

static bool build_encoder(cb_model *model, cb_weight_source *source)
{
    model->embedding = model->whole ? model->whole->embedding : NULL;
    return (model->embedding || build_embedding(model, source)) && build_stack(model, source, "encoder");
}

/* T5EncoderModel is configured by what the whole is, and from then on one of the encoders. */
static bool become_encoder(cb_model *model)
{
    const t5_variant *v = model->architecture->variant;
    cb_model_free(model->towers[CB_TOWER_ENCODER]);
    model->towers[CB_TOWER_ENCODER] = NULL;
    cb_free(model->details);
    model->details = NULL;
    model->config.head_scale = 0;
    model->architecture = &encoders[v->encoder];
    return configure_stack(model);
}

static bool build(cb_model *model, cb_weight_source *source)
{
    if (model->head_plan->kind == CB_HEAD_NONE)
        return become_encoder(model) && build_encoder(model, source);
    if (!build_embedding(model, source) || !cb_model_build_tower(model->towers[CB_TOWER_ENCODER], source) ||
        !build_stack(model, source, "decoder"))
        return false;
    if (cb_head_judges_rows(model))
        model->config.head_scale = 0;
    else if (model->file && !cb_source_has(source, "lm_head.weight"))
        model->config.tied = true;
    model->config.initializer_range = 1 / sqrt((double)model->config.width); /* of a new head: logits of deviation 1 */
    return true;
}

/* ---- distances ---- */

static cb_tensor *bias_of(const t5 *t, const cb_layer *distances, bool both_ways, int64_t rows, int64_t tq, int64_t tk,
                          const cb_context *ctx)
{
    return cb_distance_bias(&(cb_distances){distances, t->buckets, t->furthest, both_ways}, rows, tq, tk, ctx);
}

static bool begin(cb_model *model, const cb_tensor *ids, cb_pass *pass)
{
    const t5_variant *v = model->architecture->variant;
    const t5 *t = model->details;
    int64_t time = ids->shape[1], virtual = cb_prompt_tokens(model, &pass->ctx);
    if (virtual)
        return virtual > 0 &&
               cb_fail(CB_ERR_UNSUPPORTED, "%s: found virtual tokens, which the encoder has no place for; expected another kind",
                       cb_model_type(model)) == CB_OK;
    if (v->own_distances)
        return true;
    pass->bias = bias_of(t, t->blocks[0].distances, model->architecture->bidirectional, ids->shape[0], time,
                         cb_cache_length(pass->ctx.cache) + time, &pass->ctx);
    return pass->bias;
}

/* ---- forward ---- */

/* One token later, behind the token that targets begin with, which also follows padding. */
static cb_tensor *shifted(const cb_model *model, const cb_tensor *ids, const cb_tensor *segments)
{
    cb_tensor *later = cb_empty(CB_I32, ids->shape[0], ids->shape[1]);
    for (int64_t i = 0; later && i < ids->count; i++) {
        bool first = i % ids->shape[1] == 0 || (segments && cb_get(segments, i - 1) < 0);
        ((int32_t *)later->data)[i] = first ? model->config.decoder_start : (int32_t)cb_get(ids, i - 1);
    }
    return later;
}

static cb_tensor *embed(cb_model *model, cb_tensor *ids, const cb_pass *pass)
{
    const t5 *t = model->details;
    if (cb_head_judges_rows(model) && !(ids = shifted(model, ids, pass->ctx.segments)))
        return NULL;
    return cb_embedding_forward(t->tokens, ids, model->dtype, &pass->ctx);
}

/* With what attention looks at given; x is what went into its layer. */
static cb_tensor *attend(const cb_model *model, const cb_block *b, cb_tensor *residual, cb_tensor *x, cb_keys keys,
                         cb_attention_options options, const cb_context *ctx)
{
    options.scale = 1;
    cb_tensor *q = cb_encoder_heads(b->q, x, model->config.head_dim, ctx);
    cb_tensor *y = cb_attention_forward(b->attention, q, keys.k, keys.v, options, ctx);
    y = y ? cb_reshape(y, x->shape[0], x->shape[1], -1) : NULL;
    return cb_close_branch(b->attention, b->o, residual, x, y, ctx);
}

static cb_tensor *input_of(const cb_block *b, cb_tensor *residual, const cb_context *ctx)
{
    return cb_layer_before(b->attention, cb_rms_norm_forward(b->attention_norm, residual, ctx), ctx);
}

static cb_keys keys_of(const cb_model *model, const cb_block *b, cb_tensor *x, const cb_context *ctx)
{
    int64_t head_dim = model->config.head_dim;
    return (cb_keys){cb_encoder_heads(b->k, x, head_dim, ctx), cb_encoder_heads(b->v, x, head_dim, ctx)};
}

static cb_tensor *attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const t5 *t = model->details;
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    bool both_ways = model->architecture->bidirectional;
    cb_tensor *x = input_of(b, residual, ctx);
    if (!x)
        return NULL;
    cb_keys keys = keys_of(model, b, x, ctx);
    cb_attention_options options = {.causal = !both_ways, .segments = ctx->segments, .mask = pass->bias};
    if (!cb_pass_extend(pass, index, &keys.k, &keys.v, &options) || !keys.k)
        return NULL;
    if (!options.mask &&
        !(options.mask = bias_of(t, t->blocks[index].distances, both_ways, x->shape[0], x->shape[1], keys.k->shape[1], ctx)))
        return NULL;
    return attend(model, b, residual, x, keys, options, ctx);
}

/* To the encoder's states, or what the cache has of them. */
static cb_tensor *cross_attention(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass)
{
    const t5 *t = model->details;
    const cb_block *b = &t->blocks[index].cross;
    const cb_context *ctx = &pass->ctx, beside = cb_encoded_context(ctx);
    cb_tensor *x = input_of(b, residual, ctx);
    if (!x)
        return NULL;
    cb_keys keys = pass->states ? keys_of(model, b, pass->states, &beside) : cb_cache_source(ctx->cache, index);
    if (pass->states && ctx->cache && (!keys.k || !keys.v || !cb_cache_put_source(ctx->cache, index, keys)))
        return NULL;
    return attend(model, b, residual, x, keys, (cb_attention_options){.mask = pass->source_mask}, ctx);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    x = cb_branch_run(attention, model, index, x, pass);
    if (!model->architecture->bidirectional)
        x = cb_branch_run(cross_attention, model, index, x, pass);
    return cb_branch_run(cb_rms_mlp, model, index, x, pass);
}

/* ---- names ---- */

/* Files of an encoder may know the embedding by that name alone. */
static char *other_name(const cb_model *model, const char *name)
{
    return strcmp(cb_bare_name(model, name), "shared.weight") == 0 ? cb_strdup("encoder.embed_tokens.weight") : NULL;
}

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_SEQ2SEQ_LM, .class_end = "ForConditionalGeneration", .output = "lm_head"},
    {.kind = CB_HEAD_SEQUENCE_CLASSIFICATION,
     .class_end = "ForSequenceClassification",
     .dense = "classification_head.dense",
     .activation = CB_ACT_TANH,
     .output = "classification_head.out_proj",
     .bias = true,
     .pooling = CB_POOL_LAST},
    {.kind = CB_HEAD_NONE, .class_end = "EncoderModel"},
    {.kind = CB_HEAD_SEQ2SEQ_LM, .class_end = "WithLMHeadModel"}, /* as the first releases called it */
    {0},
};

static const t5_variant t5_first = {
    .feed_forward = "relu", .scales = true, .encoder = 0, .vocab_size = 32128, .mlp_width = 2048, .layers = 6, .heads = 8};
static const t5_variant mt5 = {
    .feed_forward = "gated-gelu", .encoder = 1, .vocab_size = 250112, .mlp_width = 1024, .layers = 8, .heads = 6};
static const t5_variant umt5 = {.feed_forward = "gated-gelu",
                                .scales = true,
                                .own_distances = true,
                                .encoder = 2,
                                .vocab_size = 250112,
                                .mlp_width = 1024,
                                .layers = 8,
                                .heads = 6};

#define MEMBER(type, class, facts, ...)                                                                                                    \
    {                                                                                                                                      \
        .model_type = type, .class_prefix = class, .prefix = "transformer.", .heads = heads, .variant = facts, .begin = begin,             \
        .embed = embed, .block = block, .norm = cb_rms_norm_forward, .other_name = other_name, __VA_ARGS__                                 \
    }
#define ENCODER(type, class, facts) MEMBER(type, class, facts, .bidirectional = true, .configure = configure_stack, .build = build_encoder)
#define WHOLE(type, class, facts)   MEMBER(type, class, facts, .configure = configure, .build = build)

static const cb_architecture encoders[3] = {ENCODER("t5", "T5", &t5_first), ENCODER("mt5", "MT5", &mt5), ENCODER("umt5", "UMT5", &umt5)};

const cb_architecture cb_t5_family[] = {WHOLE("t5", "T5", &t5_first), WHOLE("mt5", "MT5", &mt5), WHOLE("umt5", "UMT5", &umt5), {0}};
