/* resnet.c: residual networks of convolutions (He et al. 2015, arXiv:1512.03385): a stem that shrinks the image fourfold, then stages of
 * blocks, each stage but the first at half the resolution.  A basic block is two convolutions, a bottleneck three, the middle one of which
 * shrinks the image (or the first, as at first: downsample_in_bottleneck).
 *
 * Names are those of transformers; checkpoints with those of torchvision and timm (conv1, bn1, layer1.0.conv1, fc) are read too. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { MOST_STAGES = 16, MOST_DEPTH = 1 << 12, MOST_WIDTH = 1 << 20, REDUCTION = 4 };

typedef struct resnet {
    int64_t stages, depths[MOST_STAGES], widths[MOST_STAGES], stem;
    bool bottleneck, shrinks_first, shrinks_first_stage;
} resnet;

/* ---- configuration ---- */

static bool configure_blocks(cb_model *model, resnet *r)
{
    const char *type = cb_json_string(model->config_path, model->json, "layer_type", "bottleneck");
    if (!cb_ok())
        return false;
    r->bottleneck = strcmp(type, "bottleneck") == 0;
    if (!r->bottleneck && strcmp(type, "basic") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: layer_type is \"%s\", expected \"basic\" or \"bottleneck\"", model->config_path, type) ==
               CB_OK;
    for (int64_t i = 0; r->bottleneck && i < r->stages; i++)
        if (r->widths[i] < REDUCTION)
            return cb_config_error(model, "hidden_sizes[%lld] is %lld, expected %d or more for bottlenecks", (long long)i,
                                   (long long)r->widths[i], REDUCTION);
    r->shrinks_first = cb_json_bool(model->config_path, model->json, "downsample_in_bottleneck", false);
    r->shrinks_first_stage = cb_json_bool(model->config_path, model->json, "downsample_in_first_stage", false);
    return cb_ok();
}

static bool configure(cb_model *model)
{
    static const int64_t depths[] = {3, 4, 6, 3}, widths[] = {256, 512, 1024, 2048};
    cb_model_config *c = &model->config;
    resnet *r = model->details = cb_calloc(1, sizeof *r);
    if (!r || !cb_pixels_configure_channels(model))
        return false;
    r->stages = cb_config_list(model, "depths", depths, 4, MOST_STAGES, 1, MOST_DEPTH, r->depths);
    int64_t count = r->stages ? cb_config_list(model, "hidden_sizes", widths, 4, MOST_STAGES, 1, MOST_WIDTH, r->widths) : 0;
    if (!count)
        return false;
    if (count != r->stages)
        return cb_config_error(model, "hidden_sizes are %lld, expected as many as depths (%lld)", (long long)count, (long long)r->stages);
    r->stem = cb_json_int(model->config_path, model->json, "embedding_size", 64);
    if (cb_ok() && (r->stem < 1 || r->stem > MOST_WIDTH))
        return cb_config_error(model, "embedding_size is %lld, expected 1 to %d", (long long)r->stem, MOST_WIDTH);
    for (int64_t i = 0; i < r->stages; i++)
        c->layers += r->depths[i];
    c->width = r->widths[r->stages - 1];
    c->eps = 1e-5;
    return cb_ok() && configure_blocks(model, r) && cb_config_activation(model, "hidden_act", "relu");
}

/* ---- layers ---- */

static cb_conv_options shrinking(int64_t kernel, int64_t stride)
{
    return (cb_conv_options){.stride = {stride, stride}, .padding = {kernel / 2, kernel / 2}};
}

typedef struct conv_shape {
    int64_t in, out, kernel, stride;
} conv_shape;

/* The convolutions on a block's way, two or three; returns how many. */
static int convolutions(const resnet *r, int64_t in, int64_t out, int64_t stride, conv_shape *list)
{
    if (!r->bottleneck) {
        list[0] = (conv_shape){in, out, 3, stride};
        list[1] = (conv_shape){out, out, 3, 1};
        return 2;
    }
    int64_t inner = out / REDUCTION;
    list[0] = (conv_shape){in, inner, 1, r->shrinks_first ? stride : 1};
    list[1] = (conv_shape){inner, inner, 3, r->shrinks_first ? 1 : stride};
    list[2] = (conv_shape){inner, out, 1, 1};
    return 3;
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index, int64_t in, int64_t out, int64_t stride)
{
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    if (!b)
        return false;
    b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK);
    cb_layer *group = b->layer ? cb_layer_new(b->layer, "layer", CB_LAYER_GROUP) : NULL;
    conv_shape list[CB_CONV_UNITS];
    b->unit_count = convolutions(model->details, in, out, stride, list);
    for (int i = 0; group && i < b->unit_count; i++) {
        const conv_shape *s = &list[i];
        snprintf(name, sizeof name, "%d", i);
        cb_activation activation = i + 1 < b->unit_count ? CB_ACT_RELU : CB_ACT_NONE; /* transformers has hidden_act between blocks alone */
        if (!cb_conv_unit_build(model, source, group, name, s->in, s->out, s->kernel, shrinking(s->kernel, s->stride), activation,
                                &b->units[i]))
            return false;
    }
    if (!group || (in == out && stride == 1))
        return group;
    return cb_conv_unit_build(model, source, b->layer, "shortcut", in, out, 1, shrinking(1, stride), CB_ACT_NONE, &b->shortcut);
}

static bool build_stage(cb_model *model, cb_weight_source *source, cb_layer *stages, int64_t index)
{
    const resnet *r = model->details;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_layer *stage = cb_layer_new(stages, name, CB_LAYER_GROUP), *blocks = stage ? cb_layer_new(stage, "layers", CB_LAYER_GROUP) : NULL;
    int64_t in = index ? r->widths[index - 1] : r->stem, out = r->widths[index], stride = index || r->shrinks_first_stage ? 2 : 1;
    for (int64_t i = 0; blocks && i < r->depths[index]; i++)
        if (!build_block(model, source, blocks, i, i ? out : in, out, i ? 1 : stride))
            return false;
    return blocks;
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const resnet *r = model->details;
    cb_layer *top = cb_model_top(model, "resnet"), *stem = top ? cb_layer_new(top, "embedder", CB_LAYER_GROUP) : NULL;
    if (!stem || !cb_conv_unit_build(model, source, stem, "embedder", model->config.channels, r->stem, 7, shrinking(7, 2),
                                     model->config.activation, &model->stem[0]))
        return false;
    cb_layer *encoder = cb_layer_new(top, "encoder", CB_LAYER_GROUP),
             *stages = encoder ? cb_layer_new(encoder, "stages", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; stages && i < r->stages; i++)
        if (!build_stage(model, source, stages, i))
            return false;
    return stages;
}

/* ---- torchvision's names ---- */

/* What follows `head` in `text`; NULL: it begins otherwise. */
static const char *after(const char *text, const char *head)
{
    size_t length = strlen(head);
    return strncmp(text, head, length) == 0 ? text + length : NULL;
}

/* encoder.stages.S.layers.L.layer.K.convolution.weight -> layer(S + 1).L.conv(K + 1).weight, of its norm bn(K + 1); the shortcut's are
 * layer(S + 1).L.downsample.0 and .1 */
static char *other_name_of_block(const char *rest)
{
    int stage, block, unit, used = 0;
    char kind[16];
    if (sscanf(rest, "%d.layers.%d.layer.%d.%15[a-z]%n", &stage, &block, &unit, kind, &used) == 4 && used)
        return cb_format("layer%d.%d.%s%d%s", stage + 1, block, strcmp(kind, "convolution") ? "bn" : "conv", unit + 1, rest + used);
    if (sscanf(rest, "%d.layers.%d.shortcut.%15[a-z]%n", &stage, &block, kind, &used) == 3 && used)
        return cb_format("layer%d.%d.downsample.%d%s", stage + 1, block, strcmp(kind, "convolution") != 0, rest + used);
    return NULL;
}

static char *other_name(const cb_model *model, const char *name)
{
    static const char *const starts[][2] = {
        {"embedder.embedder.convolution", "conv1"}, {"embedder.embedder.normalization", "bn1"}, {"classifier.1", "fc"}};
    const char *bare = after(name, model->architecture->prefix);
    name = bare ? bare : name;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        const char *rest = after(name, starts[i][0]);
        if (rest)
            return cb_format("%s%s", starts[i][1], rest);
    }
    const char *rest = after(name, "encoder.stages.");
    return rest ? other_name_of_block(rest) : NULL;
}

/* ---- forward ---- */

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    cb_tensor *x = pixels->dtype == model->dtype ? pixels : cb_cast(pixels, model->dtype);
    cb_conv_unit unit = model->stem[0];
    bool late = unit.activation == CB_ACT_RELU; /* it gives the same behind the maxima, of a quarter of the places */
    unit.activation = late ? CB_ACT_NONE : unit.activation;
    x = cb_max_pool(cb_conv_unit_run(&unit, x, &pass->ctx), .kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1});
    return late ? cb_relu(x) : x;
}

static cb_tensor *residual(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    cb_tensor *y = cb_conv_units_run(b->units, b->unit_count, x, &pass->ctx);
    cb_tensor *short_cut = b->shortcut.conv ? cb_conv_unit_run(&b->shortcut, x, &pass->ctx) : x;
    return cb_conv_close(model->config.activation, y, short_cut);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(residual, model, index, x, pass);
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {CB_MAP_HEADS("classifier.1", false)};

const cb_architecture cb_resnet_family[] = {
    {.model_type = "resnet",
     .class_prefix = "ResNet",
     .prefix = "resnet.",
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
