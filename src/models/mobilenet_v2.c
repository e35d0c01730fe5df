/* mobilenet_v2.c: MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): blocks that widen pointwise, convolve each channel alone, and narrow
 * again without an activation; the narrow ends are added.  Widths are multiples of `depth_multiplier`.  Padding is TensorFlow's unless
 * tf_padding is false: a stride of 2 on an even size pads behind alone.  Dropout before the classifier is not applied.
 *
 * Files with torchvision's names (features.1.conv.0.0, classifier.1) are read too, and, with `batch_norm` false, those whose norms are folded into
 * convolutions with a bias, as networks of 8 bits have them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { BLOCKS = 16, LAST_WIDTH = 1280, STEM_WIDTH = 32 };
static const int64_t widths[BLOCKS + 1] = {16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320};
static const int64_t strides[BLOCKS] = {2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1};

typedef struct mobilenet {
    double multiplier, expand_ratio;
    int64_t divisor, least, output_stride;
    bool first_is_expansion, finegrained, tf_padding, folded;
} mobilenet;

/* ---- configuration ---- */

static int64_t divisible(const mobilenet *m, double width)
{
    double value = nearbyint(width);
    int64_t divided = (int64_t)(value + (double)m->divisor / 2) / m->divisor * m->divisor;
    divided = divided > m->least ? divided : m->least;
    return (double)divided < 0.9 * value ? divided + m->divisor : divided; /* not more than a tenth is lost */
}

static int64_t scaled(const mobilenet *m, int64_t width)
{
    return divisible(m, (double)width * m->multiplier);
}

static bool positive(const cb_model *model, const char *key, int64_t otherwise, int64_t *out)
{
    *out = cb_json_int(model->config_path, model->json, key, otherwise);
    return cb_ok() &&
           ((*out >= 1 && *out <= 1 << 16) || cb_config_error(model, "%s is %lld, expected 1 to %d", key, (long long)*out, 1 << 16));
}

static bool configure(cb_model *model)
{
    mobilenet *m = model->details = cb_calloc(1, sizeof *m);
    const char *file = model->config_path;
    cb_model_config *c = &model->config;
    if (!m || !cb_pixels_configure_channels(model) || !positive(model, "depth_divisible_by", 8, &m->divisor) ||
        !positive(model, "min_depth", 8, &m->least) || !positive(model, "output_stride", 32, &m->output_stride) ||
        !cb_config_number(model, "depth_multiplier", 1, 1e-3, 100, &m->multiplier) ||
        !cb_config_number(model, "expand_ratio", 6, 1e-2, 1000, &m->expand_ratio) ||
        !cb_config_number(model, "layer_norm_eps", 1e-3, 1e-30, 1, &c->eps))
        return false;
    if (m->output_stride != 8 && m->output_stride != 16 && m->output_stride != 32)
        return cb_config_error(model, "output_stride is %lld, expected 8, 16 or 32", (long long)m->output_stride);
    m->first_is_expansion = cb_json_bool(file, model->json, "first_layer_is_expansion", true);
    m->finegrained = cb_json_bool(file, model->json, "finegrained_output", true);
    m->tf_padding = cb_json_bool(file, model->json, "tf_padding", true);
    m->folded = !cb_json_bool(file, model->json, "batch_norm", true);
    c->layers = BLOCKS + 1; /* the last one is a convolution of single points */
    c->width = m->finegrained && m->multiplier < 1 ? LAST_WIDTH : scaled(m, LAST_WIDTH);
    return cb_ok() && cb_config_activation(model, "hidden_act", "relu6");
}

/* ---- layers ---- */

typedef struct maker {
    cb_model *model;
    cb_weight_source *source;
    cb_layer *parent;
    cb_conv_unit *units;
    int *count;
} maker;

/* The next convolution on the way; groups of one channel each where it is depthwise. */
static bool add_unit(maker *m, const char *name, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, bool depthwise,
                     bool activated)
{
    const mobilenet *net = m->model->details;
    int64_t padding = (kernel - 1) / 2 * dilation;
    bool pads = net->tf_padding && stride > 1;
    cb_conv_options o = {.stride = {stride, stride}, .dilation = {dilation, dilation}, .groups = depthwise ? in : 1};
    o.padding[0] = o.padding[1] = pads ? 0 : padding;
    cb_conv_unit *unit = &m->units[*m->count];
    cb_activation activation = activated ? m->model->config.activation : CB_ACT_NONE;
    if (net->folded ? !cb_conv_unit_build_folded(m->source, m->parent, name, in, out, kernel, o, activation, unit)
                    : !cb_conv_unit_build(m->model, m->source, m->parent, name, in, out, kernel, o, activation, unit))
        return false;
    if (unit->norm)
        unit->norm->momentum = 0.997; /* transformers' */
    unit->pads = pads;
    ++*m->count;
    return true;
}

static bool build_stem(cb_model *model, cb_weight_source *source, cb_layer *top)
{
    const mobilenet *n = model->details;
    int64_t wide = scaled(n, STEM_WIDTH), out = scaled(n, widths[0]);
    maker m = {model, source, cb_layer_new(top, "conv_stem", CB_LAYER_GROUP), model->stem, &model->stem_count};
    return m.parent && add_unit(&m, "first_conv", model->config.channels, wide, 3, 2, 1, false, true) &&
           (n->first_is_expansion || add_unit(&m, "expand_1x1", wide, wide, 1, 1, 1, false, true)) &&
           add_unit(&m, "conv_3x3", wide, wide, 3, 1, 1, true, true) && add_unit(&m, "reduce_1x1", wide, out, 1, 1, 1, false, false);
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index, int64_t stride, int64_t dilation)
{
    const mobilenet *n = model->details;
    int64_t in = scaled(n, widths[index]), out = scaled(n, widths[index + 1]), wide = divisible(n, (double)in * n->expand_ratio);
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    if (!b || !(b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK)))
        return false;
    b->adds_input = stride == 1 && in == out;
    maker m = {model, source, b->layer, b->units, &b->unit_count};
    return add_unit(&m, "expand_1x1", in, wide, 1, 1, 1, false, true) &&
           add_unit(&m, "conv_3x3", wide, wide, 3, stride, dilation, true, true) &&
           add_unit(&m, "reduce_1x1", wide, out, 1, 1, 1, false, false);
}

/* Where the image would become smaller than output_stride has it, convolutions spread instead. */
static bool build_blocks(cb_model *model, cb_weight_source *source, cb_layer *blocks)
{
    const mobilenet *n = model->details;
    int64_t reached = 2, dilation = 1;
    for (int64_t i = 0; i < BLOCKS; i++) {
        bool spreads = reached == n->output_stride;
        if (!build_block(model, source, blocks, i, spreads ? 1 : strides[i], spreads ? dilation : 1))
            return false;
        dilation *= spreads ? strides[i] : 1;
        reached *= spreads ? 1 : strides[i];
    }
    return true;
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const mobilenet *n = model->details;
    cb_layer *top = cb_model_top(model, "mobilenet_v2");
    cb_layer *blocks = top && build_stem(model, source, top) ? cb_layer_new(top, "layer", CB_LAYER_GROUP) : NULL;
    if (!blocks || !build_blocks(model, source, blocks))
        return false;
    cb_block *last = cb_model_add_block(model);
    maker m = {model, source, top, last ? last->units : NULL, last ? &last->unit_count : NULL};
    if (!last || !add_unit(&m, "conv_1x1", scaled(n, widths[BLOCKS]), model->config.width, 1, 1, 1, false, true))
        return false;
    last->layer = last->units[0].conv->parent;
    return true;
}

/* ---- torchvision's names ---- */

/* `rest` is convolution.weight, normalization.bias, ...: the norm's place is one behind that of the convolution, which is the last number of `start`. */
static char *unit_name(const char *start, const char *rest)
{
    const char *dot = strrchr(start, '.'), *end = strchr(rest, '.');
    int place = 0;
    if (!end || !dot || sscanf(dot + 1, "%d", &place) != 1)
        return NULL;
    bool norm = strncmp(rest, "normalization", (size_t)(end - rest)) == 0;
    return cb_format("%.*s.%d%s", (int)(dot - start), start, place + norm, end);
}

static char *other_name(const cb_model *model, const char *name)
{
    static const char *const units[][2] = {{"conv_stem.first_conv.", "features.0.0"},
                                           {"conv_stem.conv_3x3.", "features.1.conv.0.0"},
                                           {"conv_stem.reduce_1x1.", "features.1.conv.1"},
                                           {"conv_1x1.", "features.18.0"}};
    static const char *const parts[][2] = {{"expand_1x1.", "0.0"}, {"conv_3x3.", "1.0"}, {"reduce_1x1.", "2"}};
    const char *prefix = model->architecture->prefix;
    int index = 0, used = 0;
    name += strncmp(name, prefix, strlen(prefix)) == 0 ? strlen(prefix) : 0;
    if (strncmp(name, "classifier.", 11) == 0)
        return cb_format("classifier.1.%s", name + 11);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strncmp(name, units[i][0], strlen(units[i][0])) == 0)
            return unit_name(units[i][1], name + strlen(units[i][0]));
    if (sscanf(name, "layer.%d.%n", &index, &used) != 1 || !used)
        return NULL;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strncmp(name + used, parts[i][0], strlen(parts[i][0])) == 0) {
            char start[48];
            snprintf(start, sizeof start, "features.%d.conv.%s", index + 2, parts[i][1]);
            return unit_name(start, name + used + strlen(parts[i][0]));
        }
    return NULL;
}

/* ---- forward ---- */

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    cb_tensor *x = pixels->dtype == model->dtype ? pixels : cb_cast(pixels, model->dtype);
    return cb_conv_units_run(model->stem, model->stem_count, x, &pass->ctx);
}

static cb_tensor *inverted(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    cb_tensor *y = cb_conv_units_run(b->units, b->unit_count, x, &pass->ctx);
    return b->adds_input ? cb_add(x, y) : y;
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(inverted, model, index, x, pass);
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {CB_MAP_HEADS("classifier", false)};

const cb_architecture cb_mobilenet_v2_family[] = {
    {.model_type = "mobilenet_v2",
     .class_prefix = "MobileNetV2",
     .prefix = "mobilenet_v2.",
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
