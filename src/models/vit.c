/* vit.c: vision transformers: an image's patches are tokens behind a class token, with learned positions, and go through blocks with the
 * norms in front.  ViT: Dosovitskiy et al. 2020, arXiv:2010.11929.  DeiT (Touvron et al. 2020, arXiv:2012.12877) has a second token that
 * learned from a teacher.  The base model's own dropout is not applied: what is trained has its own.
 *
 * Names are those of published checkpoints, which transformers 5 writes too; its modules have names of their own. */
#include "models/internal.h"

typedef struct vit_variant {
    const char *top;
    bool distilled; /* has the second token */
} vit_variant;

static const vit_variant vit = {.top = "vit"};
static const vit_variant deit = {.top = "deit", .distilled = true};

static const cb_encoder_names names = {.attention = "attention",
                                       .heads = "attention",
                                       .q = "query",
                                       .k = "key",
                                       .v = "value",
                                       .attention_out = "output",
                                       .o = "dense",
                                       .attention_norm = "layernorm_before",
                                       .up_group = "intermediate",
                                       .up = "dense",
                                       .mlp = "output",
                                       .down = "dense",
                                       .mlp_norm = "layernorm_after"};

/* ---- configuration ---- */

#define FIELD(key, field, otherwise, most)                                                                                                 \
    {                                                                                                                                      \
        key, offsetof(cb_model_config, field), otherwise, 1, most                                                                          \
    }

static bool configure(cb_model *model)
{
    static const cb_config_field fields[] = {
        FIELD("hidden_size", width, 768, 1 << 24),
        FIELD("intermediate_size", mlp_width, 3072, 1 << 24),
        FIELD("num_hidden_layers", layers, 12, 1 << 16),
        FIELD("num_attention_heads", heads, 12, 1 << 16),
        {0},
    };
    cb_model_config *c = &model->config;
    if (!cb_config_integers(model, fields) || !cb_pixels_configure_patches(model, 224, 16))
        return false;
    if (c->width % c->heads)
        return cb_config_error(model, "hidden_size is %lld, expected a multiple of num_attention_heads (%lld)", (long long)c->width,
                               (long long)c->heads);
    c->kv_heads = c->heads;
    c->head_dim = c->width / c->heads;
    return cb_config_number(model, "layer_norm_eps", 1e-12, 1e-30, 1, &c->eps) && cb_config_activation(model, "hidden_act", "gelu");
}

/* ---- layers ---- */

static int64_t tokens_before_patches(const cb_model *model)
{
    return ((const vit_variant *)model->architecture->variant)->distilled ? 2 : 1;
}

static bool build_embeddings(cb_model *model, cb_weight_source *source, cb_layer *top)
{
    const cb_model_config *c = &model->config;
    int64_t extra = tokens_before_patches(model), patches = 1;
    for (int i = 0; i < 2; i++)
        patches *= c->image_size[i] / c->patch_size[i];
    const int64_t token[] = {1, 1, c->width}, positions[] = {1, extra + patches, c->width};
    cb_layer *e = model->embeddings = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    if (!e || !cb_source_weight(source, e, "cls_token", CB_INITIAL_NORMAL, 3, token) ||
        (extra > 1 && !cb_source_weight(source, e, "distillation_token", CB_INITIAL_NORMAL, 3, token)) ||
        !cb_source_weight(source, e, "position_embeddings", CB_INITIAL_NORMAL, 3, positions))
        return false;
    cb_layer *group = cb_layer_new(e, "patch_embeddings", CB_LAYER_GROUP);
    cb_conv_options options = {.stride = {c->patch_size[0], c->patch_size[1]}};
    model->patches =
        group ? cb_source_conv_of(source, group, "projection", c->channels, c->width, c->patch_size, options, true, CB_INITIAL_NORMAL)
              : NULL;
    return model->patches;
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const vit_variant *v = model->architecture->variant;
    bool bias = cb_json_bool(model->config_path, model->json, "qkv_bias", true);
    cb_layer *top = cb_ok() ? cb_model_top(model, v->top) : NULL;
    cb_layer *stack = build_embeddings(model, source, top) ? cb_layer_new(top, "encoder", CB_LAYER_GROUP) : NULL;
    cb_layer *blocks = stack ? cb_layer_new(stack, "layer", CB_LAYER_GROUP) : NULL;
    if (!blocks || !cb_encoder_build_all(model, source, blocks, &names, bias))
        return false;
    model->norm = cb_source_norm(source, top, "layernorm", model->config.width, model->config.eps, true);
    return model->norm;
}

/* ---- timm's names ---- */

static char *other_name(const cb_model *model, const char *name)
{
    static const cb_rename_rule rules[] = {{"embeddings.cls_token", "cls_token", 0, 0},
                                           {"embeddings.distillation_token", "dist_token", 0, 0},
                                           {"embeddings.position_embeddings", "pos_embed", 0, 0},
                                           {"embeddings.patch_embeddings.projection", "patch_embed.proj", 0, 0},
                                           {"encoder.layer.%.attention.attention.query", "blocks.%.attn.qkv", 0, 1},
                                           {"encoder.layer.%.attention.attention.key", "blocks.%.attn.qkv", 0, 2},
                                           {"encoder.layer.%.attention.attention.value", "blocks.%.attn.qkv", 0, 3},
                                           {"encoder.layer.%.attention.output.dense", "blocks.%.attn.proj", 0, 0},
                                           {"encoder.layer.%.intermediate.dense", "blocks.%.mlp.fc1", 0, 0},
                                           {"encoder.layer.%.output.dense", "blocks.%.mlp.fc2", 0, 0},
                                           {"encoder.layer.%.layernorm_before", "blocks.%.norm1", 0, 0},
                                           {"encoder.layer.%.layernorm_after", "blocks.%.norm2", 0, 0},
                                           {"layernorm", "norm", 0, 0},
                                           {"classifier", "head", 0, 0},
                                           {"cls_classifier", "head", 0, 0},
                                           {"distillation_classifier", "head_dist", 0, 0},
                                           {0}};
    return cb_rename(cb_bare_name(model, name), rules);
}

/* ---- transformers' modules ---- */

static const cb_rename_rule modules[] = {{"encoder.layer.%.attention.attention.query", "layers.%.attention.q_proj", 0, 0},
                                         {"encoder.layer.%.attention.attention.key", "layers.%.attention.k_proj", 0, 0},
                                         {"encoder.layer.%.attention.attention.value", "layers.%.attention.v_proj", 0, 0},
                                         {"encoder.layer.%.attention.output.dense", "layers.%.attention.o_proj", 0, 0},
                                         {"encoder.layer.%.intermediate.dense", "layers.%.mlp.fc1", 0, 0},
                                         {"encoder.layer.%.output.dense", "layers.%.mlp.fc2", 0, 0},
                                         {"encoder.layer.%.attention.attention", "", 0, 0},
                                         {"encoder.layer.%.attention.output", "", 0, 0},
                                         {"encoder.layer.%.intermediate", "", 0, 0},
                                         {"encoder.layer.%.output", "layers.%.mlp", 0, 0},
                                         {"encoder.layer.%", "layers.%", 0, 0},
                                         {0}};

/* ---- forward ---- */

/* A token that stands before each image's patches, (B, 1, width). */
static cb_tensor *token(const cb_model *model, const char *name, int64_t rows)
{
    cb_tensor *weight = cb_layer_weight(model->embeddings, name);
    return cb_expand(weight->dtype == model->dtype ? weight : cb_cast(weight, model->dtype), rows, 1, -1);
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    int64_t extra = tokens_before_patches(model), rows = pixels->shape[0];
    cb_tensor *parts[3] = {token(model, "cls_token", rows)};
    if (extra > 1)
        parts[1] = token(model, "distillation_token", rows);
    parts[extra] = cb_pixels_patches(model, model->patches, pixels, &pass->ctx);
    cb_tensor *x = parts[extra] ? cb_cat((int)extra + 1, parts, 1) : NULL;
    return cb_pixels_add_positions(model, x, cb_layer_weight(model->embeddings, "position_embeddings"), extra, pixels, &pass->ctx);
}

/* ---- heads ---- */

static const cb_head_plan vit_heads[] = {
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION, .class_end = "ForImageClassification", .output = "classifier", .bias = true},
    CB_PLACE_HEADS("decode_head.classifier"),
    {.kind = CB_HEAD_NONE, .class_end = "Model", .dense = "pooler.dense"},
    {0},
};
static const cb_head_plan deit_heads[] = {
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION, .class_end = "ForImageClassification", .output = "classifier", .bias = true},
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION,
     .class_end = "ForImageClassificationWithTeacher",
     .output = "cls_classifier",
     .second = "distillation_classifier",
     .bias = true},
    CB_PLACE_HEADS("decode_head.classifier"),
    {.kind = CB_HEAD_NONE, .class_end = "Model", .dense = "pooler.dense"},
    {0},
};

#define MEMBER(type, class, start, plans, facts)                                                                                           \
    {                                                                                                                                      \
        .model_type = type, .class_prefix = class, .prefix = start, .heads = plans, .variant = facts, .bidirectional = true,               \
        .images = true, .ends_with_first = true, .configure = configure, .build = build, .embed = embed, .block = cb_encoder_block,        \
        .norm = cb_layer_norm_forward, .other_name = other_name, .modules = modules                                                        \
    }

const cb_architecture cb_vit_family[] = {
    MEMBER("vit", "ViT", "vit.", vit_heads, &vit),
    MEMBER("deit", "DeiT", "deit.", deit_heads, &deit),
    {0},
};
