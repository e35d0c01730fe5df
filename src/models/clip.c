/* clip.c: CLIP: two transformers, one of images and one of text, whose projected features are close where an image and a text belong together
 * (Radford et al. 2021, arXiv:2103.00020).  Each is a model of its own as well: clip_vision_model and clip_text_model.  The image's is a ViT
 * with a norm before the first block; a text's features are those of its end token, which has seen all others.
 *
 * The layers of both stand in one tree; towers (internal.h) are models without a tree or a file of their own. */
#include <string.h>

#include "models/internal.h"

static const cb_encoder_names names = {.attention = "self_attn",
                                       .q = "q_proj",
                                       .k = "k_proj",
                                       .v = "v_proj",
                                       .o = "out_proj",
                                       .attention_norm = "layer_norm1",
                                       .up = "fc1",
                                       .mlp = "mlp",
                                       .down = "fc2",
                                       .mlp_norm = "layer_norm2"};

/* ---- configuration ---- */

#define FIELD(key, field, otherwise, most)                                                                                                 \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, 1, most                                                                          \
    }

static bool configure_encoder(cb_model *model)
{
    cb_model_config *c = &model->config;
    if (c->width % c->heads)
        return cb_config_error(model, "hidden_size is %lld, expected a multiple of num_attention_heads (%lld)", (long long)c->width,
                               (long long)c->heads);
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    return cb_config_number(model, "layer_norm_eps", 1e-5, 1e-30, 1, &c->eps) && cb_config_activation(model, "hidden_act", "quick_gelu");
}

static bool configure_vision(cb_model *model)
{
    static const cb_config_field fields[] = {
        FIELD("hidden_size", width, 768, 1 << 24),         FIELD("intermediate_size", mlp_width, 3072, 1 << 24),
        FIELD("num_hidden_layers", layers, 12, 1 << 16),   FIELD("num_attention_heads", heads, 12, 1 << 16),
        FIELD("projection_dim", projection, 512, 1 << 24), {0},
    };
    return cb_config_integers(model, fields) && cb_pixels_configure_patches(model, 224, 32) && configure_encoder(model);
}

static bool configure_text(cb_model *model)
{
    static const cb_config_field fields[] = {
        FIELD("vocab_size", vocab_size, 49408, INT32_MAX),    FIELD("hidden_size", width, 512, 1 << 24),
        FIELD("intermediate_size", mlp_width, 2048, 1 << 24), FIELD("num_hidden_layers", layers, 12, 1 << 16),
        FIELD("num_attention_heads", heads, 8, 1 << 16),      FIELD("max_position_embeddings", max_positions, 77, INT32_MAX),
        FIELD("projection_dim", projection, 512, 1 << 24),    {0},
    };
    model->config.end_token = cb_json_int(model->config_path, model->json, "eos_token_id", 49407);
    return cb_ok() && cb_config_integers(model, fields) && configure_encoder(model);
}

/* ---- layers ---- */

static bool build_blocks(cb_model *model, cb_weight_source *source, cb_layer *top)
{
    cb_layer *encoder = cb_ok() ? cb_layer_new(top, "encoder", CB_LAYER_GROUP) : NULL;
    cb_layer *blocks = encoder ? cb_layer_new(encoder, "layers", CB_LAYER_GROUP) : NULL;
    return blocks && cb_encoder_build_all(model, source, blocks, &names, true);
}

static bool build_vision(cb_model *model, cb_weight_source *source)
{
    const cb_model_config *c = &model->config;
    int64_t patches = c->image_size[0] / c->patch_size[0] * (c->image_size[1] / c->patch_size[1]);
    cb_layer *top = cb_layer_new(model->root, "vision_model", CB_LAYER_GROUP);
    cb_layer *e = model->embeddings = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    if (!e || !cb_source_weight(source, e, "class_embedding", CB_INITIAL_NORMAL, 1, &c->width))
        return false;
    cb_conv_options options = {.stride = {c->patch_size[0], c->patch_size[1]}};
    model->patches =
        cb_source_conv_of(source, e, "patch_embedding", c->channels, c->width, c->patch_size, options, false, CB_INITIAL_NORMAL);
    model->position_embedding = model->patches ? cb_source_embedding(source, e, "position_embedding", patches + 1, c->width) : NULL;
    model->embedding_norm = cb_source_norm(source, top, "pre_layrnorm", c->width, c->eps, true);
    return build_blocks(model, source, top);
}

static bool build_text(cb_model *model, cb_weight_source *source)
{
    const cb_model_config *c = &model->config;
    cb_layer *top = cb_layer_new(model->root, "text_model", CB_LAYER_GROUP),
             *e = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    model->embedding = e ? cb_source_embedding(source, e, "token_embedding", c->vocab_size, c->width) : NULL;
    model->position_embedding = model->embedding ? cb_source_embedding(source, e, "position_embedding", c->max_positions, c->width) : NULL;
    if (!model->position_embedding || !build_blocks(model, source, top))
        return false;
    model->norm = cb_source_norm(source, top, "final_layer_norm", c->width, c->eps, true);
    return model->norm;
}

/* ---- forward ---- */

static cb_tensor *embed_pixels(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const cb_context *ctx = &pass->ctx;
    cb_tensor *token = cb_layer_weight(model->embeddings, "class_embedding");
    token = cb_reshape(token->dtype == model->dtype ? token : cb_cast(token, model->dtype), 1, 1, -1);
    cb_tensor *parts[] = {cb_expand(token, pixels->shape[0], 1, -1), cb_pixels_patches(model, model->patches, pixels, ctx)};
    cb_tensor *rows = cb_unsqueeze(cb_arange(CB_I32, 0, 1, model->position_embedding->in_features), 0);
    cb_tensor *positions = cb_embedding_forward(model->position_embedding, rows, model->dtype, ctx);
    cb_tensor *x = parts[1] ? cb_cat(2, parts, 1) : NULL;
    return cb_layer_norm_forward(model->embedding_norm, cb_pixels_add_positions(model, x, positions, 1, pixels, ctx), ctx);
}

static cb_tensor *add_positions(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    return cb_add(x, cb_embedding_forward(model->position_embedding, pass->ctx.positions, model->dtype, &pass->ctx));
}

static cb_tensor *embed_tokens(cb_model *model, cb_tensor *ids, const cb_pass *pass)
{
    return add_positions(model, cb_embedding_forward(model->embedding, ids, model->dtype, &pass->ctx), pass);
}

/* ---- both together ---- */

static const cb_architecture *const tower_architectures[] = {&cb_clip_family[1], &cb_clip_family[2]};

static bool configure_both(cb_model *model)
{
    static const char *const sections[] = {"vision_config", "text_config"};
    static const cb_config_field fields[] = {FIELD("projection_dim", projection, 512, 1 << 24), {0}};
    for (int i = 0; i < CB_CLIP_TOWERS; i++)
        if (!(model->towers[i] = cb_model_tower_new(model, tower_architectures[i], sections[i])))
            return false;
    const cb_model_config *vision = &model->towers[CB_TOWER_IMAGES]->config, *text = &model->towers[CB_TOWER_TEXT]->config;
    double range = model->config.initializer_range;
    model->config = *vision; /* what is asked of the whole, and what the head of images reads */
    model->config.initializer_range = range;
    model->config.layers += text->layers;
    model->config.vocab_size = text->vocab_size;
    model->config.max_positions = text->max_positions;
    return cb_config_integers(model, fields) &&
           cb_config_number(model, "logit_scale_init_value", 2.6592, -1e9, 1e9, &model->config.initial_value);
}

/* The features of both are projected; where images are classified there are no others, and they are not. */
static bool build_both(cb_model *model, cb_weight_source *source)
{
    bool alone = model->head_plan->kind == CB_HEAD_IMAGE_CLASSIFICATION;
    for (int i = CB_CLIP_TOWERS - 1; i >= 0; i--) { /* the text's first: its tokens are what virtual ones stand before */
        cb_model *tower = model->towers[i];
        if (alone && i == CB_TOWER_TEXT) {
            cb_model_free(tower);
            model->towers[i] = NULL;
            continue;
        }
        tower->head_plan = &tower->architecture->heads[alone ? 0 : 1];
        tower->config.projection = model->config.projection;
        if (!cb_model_build_tower(tower, source))
            return false;
    }
    if (alone)
        return true;
    model->embedding = model->towers[CB_TOWER_TEXT]->embedding;
    return cb_source_weight(source, model->root, "logit_scale", CB_INITIAL_VALUE, 0, NULL);
}

static cb_tensor *of_length_one(cb_tensor *x)
{
    return x ? cb_mul(x, cb_rsqrt(cb_sum(cb_square(x), -1, true))) : NULL;
}

cb_tensor *cb_model_similarity(cb_model *model, cb_tensor *images, cb_tensor *texts)
{
    cb_tensor *scale = model && images && texts ? cb_layer_weight(model->root, "logit_scale") : NULL;
    if (!model || !images || !texts)
        return NULL;
    if (!scale)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: a %s model has no features of images and of texts, which CLIPModel has", model->config_path,
                       model->architecture->model_type),
               NULL;
    if (images->ndim != 2 || texts->ndim != 2 || images->shape[1] != texts->shape[1])
        return cb_fail(CB_ERR_SHAPE, "similarity: features %s of images and %s of texts, expected (B, P) and (N, P)", cb_shape_text(images),
                       cb_shape_text(texts)),
               NULL;
    return cb_mul(cb_linear(of_length_one(images), of_length_one(texts), NULL), cb_exp(scale));
}

/* ---- heads ---- */

static const cb_head_plan vision_heads[] = {
    {.kind = CB_HEAD_NONE, .class_end = "VisionModel", .norm = "vision_model.post_layernorm"},
    {.kind = CB_HEAD_NONE,
     .class_end = "VisionModelWithProjection",
     .norm = "vision_model.post_layernorm",
     .projection = "visual_projection"},
    {0},
};
static const cb_head_plan text_heads[] = {
    {.kind = CB_HEAD_NONE, .class_end = "TextModel", .pooling = CB_POOL_END},
    {.kind = CB_HEAD_NONE, .class_end = "TextModelWithProjection", .pooling = CB_POOL_END, .projection = "text_projection"},
    {0},
};
static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_NONE, .class_end = "Model"},
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION,
     .class_end = "ForImageClassification",
     .pooling = CB_POOL_MEAN_PATCHES,
     .output = "classifier",
     .bias = true},
    {0},
};

const cb_architecture cb_clip_family[] = {
    {.model_type = "clip",
     .class_prefix = "CLIP",
     .prefix = "clip.",
     .heads = heads,
     .bidirectional = true,
     .images = true,
     .configure = configure_both,
     .build = build_both},
    {.model_type = "clip_vision_model",
     .class_prefix = "CLIP",
     .prefix = "vision_model.",
     .heads = vision_heads,
     .bidirectional = true,
     .images = true,
     .configure = configure_vision,
     .build = build_vision,
     .embed = embed_pixels,
     .block = cb_encoder_block},
    {.model_type = "clip_text_model",
     .class_prefix = "CLIP",
     .prefix = "text_model.",
     .heads = text_heads,
     .configure = configure_text,
     .build = build_text,
     .embed = embed_tokens,
     .position = add_positions,
     .block = cb_encoder_block,
     .norm = cb_layer_norm_forward},
    {0},
};
