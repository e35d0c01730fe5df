/* convnext.c: ConvNeXt (Liu et al. 2022, arXiv:2201.03545): a convolutional network made like a transformer: patches of 4, then stages of
 * blocks x + scale pointwise(gelu(pointwise(norm(depthwise 7 by 7 (x))))), with a norm and a convolution of stride 2 between them.  Norms are
 * over the channels of each place, so they and the pointwise convolutions, which are linear layers, work with the channels behind.
 * Stochastic depth is not applied. */
#include <stdio.h>

#include "models/internal.h"

enum { MOST_STAGES = 16, MOST_DEPTH = 1 << 12, MOST_WIDTH = 1 << 20, KERNEL = 7 };
static const double norm_eps = 1e-6; /* of all norms but the head's */

typedef struct convnext {
    int64_t stages, depths[MOST_STAGES], widths[MOST_STAGES];
    bool scaled;
} convnext;

/* ---- configuration ---- */

static bool configure(cb_model *model)
{
    static const int64_t depths[] = {3, 3, 9, 3}, widths[] = {96, 192, 384, 768};
    cb_model_config *c = &model->config;
    convnext *n = model->details = cb_calloc(1, sizeof *n);
    if (!n || !cb_pixels_configure_channels(model) || !cb_config_size(model, "patch_size", 4, 1 << 16, c->patch_size))
        return false;
    n->stages = cb_config_list(model, "depths", depths, 4, MOST_STAGES, 1, MOST_DEPTH, n->depths);
    int64_t count = n->stages ? cb_config_list(model, "hidden_sizes", widths, 4, MOST_STAGES, 1, MOST_WIDTH, n->widths) : 0;
    if (!count)
        return false;
    int64_t stages = cb_json_int(model->config_path, model->json, "num_stages", n->stages);
    if (cb_ok() && (count != n->stages || stages != n->stages))
        return cb_config_error(model, "depths, hidden_sizes and num_stages are %lld, %lld and %lld, expected the same number",
                               (long long)n->stages, (long long)count, (long long)stages);
    for (int64_t i = 0; i < n->stages; i++)
        c->layers += n->depths[i] + (i > 0);
    c->width = n->widths[n->stages - 1];
    if (!cb_ok() || !cb_config_number(model, "layer_scale_init_value", 1e-6, -1e9, 1e9, &c->initial_value) ||
        !cb_config_number(model, "layer_norm_eps", 1e-12, 1e-30, 1, &c->eps))
        return false;
    n->scaled = c->initial_value > 0;
    return cb_config_activation(model, "hidden_act", "gelu");
}

/* ---- layers ---- */

/* Between two stages: a block of its own. */
static bool build_shrinking(cb_model *model, cb_weight_source *source, cb_layer *stage, int64_t in, int64_t out)
{
    cb_block *b = cb_model_add_block(model);
    b = b && (b->layer = cb_layer_new(stage, "downsampling_layer", CB_LAYER_GROUP)) ? b : NULL;
    if (!b)
        return false;
    b->mlp_norm = cb_source_norm(source, b->layer, "0", in, norm_eps, true);
    b->units[0].conv = cb_source_conv(source, b->layer, "1", in, out, 2, (cb_conv_options){.stride = {2, 2}}, true, CB_INITIAL_NORMAL);
    return b->units[0].conv;
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index, int64_t width)
{
    const convnext *n = model->details;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    b = b && (b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK)) ? b : NULL;
    if (!b || (n->scaled && !cb_source_weight(source, b->layer, "layer_scale_parameter", CB_INITIAL_VALUE, 1, &width)))
        return false;
    cb_conv_options depthwise = {.padding = {KERNEL / 2, KERNEL / 2}, .groups = width};
    b->units[0].conv = cb_source_conv(source, b->layer, "dwconv", width, width, KERNEL, depthwise, true, CB_INITIAL_NORMAL);
    b->mlp_norm = cb_source_norm(source, b->layer, "layernorm", width, norm_eps, true);
    b->up = cb_source_linear(source, b->layer, "pwconv1", width, 4 * width, false, true, CB_INITIAL_NORMAL);
    b->down = cb_source_linear(source, b->layer, "pwconv2", 4 * width, width, false, true, CB_INITIAL_NORMAL);
    return b->down;
}

static bool build_stage(cb_model *model, cb_weight_source *source, cb_layer *stages, int64_t index)
{
    const convnext *n = model->details;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_layer *stage = cb_layer_new(stages, name, CB_LAYER_GROUP);
    if (!stage || (index && !build_shrinking(model, source, stage, n->widths[index - 1], n->widths[index])))
        return false;
    cb_layer *blocks = cb_layer_new(stage, "layers", CB_LAYER_GROUP);
    for (int64_t i = 0; blocks && i < n->depths[index]; i++)
        if (!build_block(model, source, blocks, i, n->widths[index]))
            return false;
    return blocks;
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const convnext *n = model->details;
    const cb_model_config *c = &model->config;
    cb_layer *top = cb_model_top(model, "convnext"), *e = top ? cb_layer_new(top, "embeddings", CB_LAYER_GROUP) : NULL;
    if (!e)
        return false;
    cb_conv_options options = {.stride = {c->patch_size[0], c->patch_size[1]}};
    model->patches =
        cb_source_conv_of(source, e, "patch_embeddings", c->channels, n->widths[0], c->patch_size, options, true, CB_INITIAL_NORMAL);
    model->embedding_norm = cb_source_norm(source, e, "layernorm", n->widths[0], norm_eps, true);
    cb_layer *encoder = model->embedding_norm ? cb_layer_new(top, "encoder", CB_LAYER_GROUP) : NULL;
    cb_layer *stages = encoder ? cb_layer_new(encoder, "stages", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; stages && i < n->stages; i++)
        if (!build_stage(model, source, stages, i))
            return false;
    return stages;
}

/* ---- timm's names ---- */

static char *other_name(const cb_model *model, const char *name)
{
    static const cb_rename_rule rules[] = {{"embeddings.patch_embeddings", "stem.0", 0, 0},
                                           {"embeddings.layernorm", "stem.1", 0, 0},
                                           {"encoder.stages.%.downsampling_layer", "stages.%.downsample", 0, 0},
                                           {"encoder.stages.%.layers.%.layer_scale_parameter", "stages.%.blocks.%.gamma", 0, 0},
                                           {"encoder.stages.%.layers.%.dwconv", "stages.%.blocks.%.conv_dw", 0, 0},
                                           {"encoder.stages.%.layers.%.layernorm", "stages.%.blocks.%.norm", 0, 0},
                                           {"encoder.stages.%.layers.%.pwconv1", "stages.%.blocks.%.mlp.fc1", 0, 0},
                                           {"encoder.stages.%.layers.%.pwconv2", "stages.%.blocks.%.mlp.fc2", 0, 0},
                                           {"layernorm", "head.norm", 0, 0},
                                           {"classifier", "head.fc", 0, 0},
                                           {0}};
    return cb_rename(cb_bare_name(model, name), rules);
}

/* ---- forward ---- */

/* Over the channels of each place, which come out behind: (N, C, H, W) -> (N, H, W, C). */
static cb_tensor *normalised(const cb_layer *norm, cb_tensor *x, const cb_context *ctx)
{
    return cb_layer_norm_forward(norm, cb_pixels_channels_behind(x), ctx);
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    cb_tensor *x = cb_pixels_conv(model, model->patches, pixels, &pass->ctx);
    return cb_pixels_channels_in_front(normalised(model->embedding_norm, x, &pass->ctx));
}

static cb_tensor *shrink(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    x = cb_pixels_channels_in_front(normalised(b->mlp_norm, x, &pass->ctx));
    return cb_conv2d_forward(b->units[0].conv, x, &pass->ctx);
}

static cb_tensor *residual(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const cb_context *ctx = &pass->ctx;
    cb_tensor *y = normalised(b->mlp_norm, cb_conv2d_forward(b->units[0].conv, x, ctx), ctx);
    y = cb_linear_forward(b->down, cb_activate(model->config.activation, cb_linear_forward(b->up, y, ctx)), ctx);
    cb_tensor *scale = cb_layer_weight(b->layer, "layer_scale_parameter");
    return cb_add(x, cb_pixels_channels_in_front(scale ? cb_affine(y, scale, NULL) : y));
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(model->blocks[index].up ? residual : shrink, model, index, x, pass);
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION,
     .class_end = "ForImageClassification",
     .pooling = CB_POOL_MEAN,
     .norm = "convnext.layernorm",
     .output = "classifier",
     .bias = true},
    CB_PLACE_HEADS("decode_head.classifier"),
    {.kind = CB_HEAD_NONE, .class_end = "Model", .pooling = CB_POOL_MEAN, .norm = "layernorm"},
    {0},
};

const cb_architecture cb_convnext_family[] = {
    {.model_type = "convnext",
     .class_prefix = "ConvNext",
     .prefix = "convnext.",
     .heads = heads,
     .bidirectional = true,
     .images = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .block = block,
     .other_name = other_name},
    {0},
};
