/* unet.c: U-Nets (Ronneberger et al. 2015, arXiv:1505.04597): blocks of convolutions over maps that halve, then over maps that double again,
 * each of these beside the map of its size from the way down.  What comes out has the size of the image, whatever that is: odd sizes are
 * rounded down on the way down, and on the way up a map gets the size of the one that it meets.  One that judges whole images has the way down alone,
 * and is asked by the mean of its smallest maps.
 *
 * The configuration is our own: `hidden_sizes` (widths from the image downwards), `layers_per_block`, `kernel_size`, `norm_type` (batch, group of
 * `norm_groups`, instance, none), `hidden_act`, `downsample_type` (max_pool, avg_pool, conv: the block's first convolution with a stride),
 * `upsample_type` (nearest, bilinear), and `residual` (He et al. 2015: a block adds its input, before the last activation).  The blocks are run
 * by embed(), since a map on the way up meets one that is not its neighbour. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"
#include "tensor/op.h"

enum { MOST_LEVELS = 12, MOST_WIDTH = 1 << 20 };

typedef enum unet_norm { NORM_BATCH, NORM_GROUP, NORM_INSTANCE, NORM_NONE } unet_norm;
typedef enum unet_down { DOWN_MAX_POOL, DOWN_AVG_POOL, DOWN_CONV } unet_down;
typedef enum unet_up { UP_NEAREST, UP_BILINEAR } unet_up;

typedef struct unet {
    int64_t levels, widths[MOST_LEVELS], convolutions, kernel, groups;
    int norm, down, up; /* of the above */
    bool residual;
} unet;

/* ---- configuration ---- */

/* One of the names, NULL-terminated; the first where it is missing. */
static bool choose(const cb_model *model, const char *key, const char *const *names, int *out)
{
    const char *found = cb_json_string(model->config_path, model->json, key, names[0]);
    cb_string known = {0};
    if (!cb_ok())
        return false;
    for (*out = 0; names[*out]; ++*out)
        if (strcmp(names[*out], found) == 0)
            return true;
    for (int i = 0; names[i]; i++)
        cb_string_printf(&known, "%s%s", i ? ", " : "", names[i]);
    cb_config_error(model, "%s is \"%.40s\", expected one of %s", key, found, known.data ? known.data : "");
    cb_string_free(&known);
    return false;
}

static bool between(const cb_model *model, const char *key, int64_t otherwise, int64_t min, int64_t max, int64_t *out)
{
    *out = cb_json_int(model->config_path, model->json, key, otherwise);
    return cb_ok() && ((*out >= min && *out <= max) ||
                       cb_config_error(model, "%s is %lld, expected %lld to %lld", key, (long long)*out, (long long)min, (long long)max));
}

static bool check_groups(const cb_model *model, const unet *u)
{
    for (int64_t i = 0; u->norm == NORM_GROUP && i < u->levels; i++)
        if (u->widths[i] % u->groups)
            return cb_config_error(model, "norm_groups is %lld, expected a divisor of hidden_sizes[%lld] (%lld)", (long long)u->groups,
                                   (long long)i, (long long)u->widths[i]);
    return true;
}

static bool configure(cb_model *model)
{
    static const int64_t widths[] = {32, 64, 128, 256};
    static const char *const norms[] = {"batch", "group", "instance", "none", NULL},
                             *const downs[] = {"max_pool", "avg_pool", "conv", NULL}, *const ups[] = {"nearest", "bilinear", NULL};
    cb_model_config *c = &model->config;
    unet *u = model->details = cb_calloc(1, sizeof *u);
    if (!u || !cb_pixels_configure_channels(model) ||
        !(u->levels = cb_config_list(model, "hidden_sizes", widths, 4, MOST_LEVELS, 1, MOST_WIDTH, u->widths)) ||
        !between(model, "layers_per_block", 2, 1, CB_CONV_UNITS, &u->convolutions) ||
        !between(model, "kernel_size", 3, 1, 63, &u->kernel) || !between(model, "norm_groups", 8, 1, MOST_WIDTH, &u->groups) ||
        !choose(model, "norm_type", norms, &u->norm) || !choose(model, "downsample_type", downs, &u->down) ||
        !choose(model, "upsample_type", ups, &u->up) || !cb_config_number(model, "norm_eps", 1e-5, 1e-30, 1, &c->eps))
        return false;
    if (u->kernel % 2 == 0)
        return cb_config_error(model, "kernel_size is %lld, expected an odd number", (long long)u->kernel);
    u->residual = cb_json_bool(model->config_path, model->json, "residual", false);
    return cb_ok() && check_groups(model, u) && cb_config_activation(model, "hidden_act", "relu");
}

/* ---- layers ---- */

typedef struct conv_shape {
    int64_t in, out, kernel, stride;
} conv_shape;

static bool build_unit(cb_model *model, cb_weight_source *source, cb_layer *parent, const char *name, conv_shape s, cb_conv_unit *unit)
{
    const unet *u = model->details;
    int64_t groups = u->norm == NORM_GROUP ? u->groups : s.out;
    cb_layer *group = cb_layer_new(parent, name, CB_LAYER_GROUP);
    cb_conv_options o = {.stride = {s.stride, s.stride}, .padding = {s.kernel / 2, s.kernel / 2}};
    if (!group)
        return false;
    unit->conv = cb_source_conv(source, group, "convolution", s.in, s.out, s.kernel, o, u->norm == NORM_NONE, CB_INITIAL_KAIMING);
    if (!unit->conv || u->norm == NORM_NONE)
        return unit->conv;
    unit->norm = u->norm == NORM_BATCH ? cb_source_batch_norm(source, group, "normalization", s.out, model->config.eps)
                                       : cb_source_norm(source, group, "normalization", s.out, model->config.eps, true);
    if (unit->norm && u->norm != NORM_BATCH)
        unit->norm->groups = groups;
    return unit->norm;
}

/* The next block; a stride is of its first convolution. */
static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t number, int64_t in, int64_t out,
                        int64_t stride)
{
    const unet *u = model->details;
    cb_block *b = cb_model_add_block(model);
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)number);
    b = b && (b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK)) ? b : NULL;
    cb_layer *layers = b ? cb_layer_new(b->layer, "layers", CB_LAYER_GROUP) : NULL;
    for (int i = 0; layers && i < u->convolutions; i++) {
        snprintf(name, sizeof name, "%d", i);
        if (!build_unit(model, source, layers, name, (conv_shape){i ? out : in, out, u->kernel, i ? 1 : stride}, &b->units[i]))
            return false;
        b->units[i].activation = u->residual && i + 1 == u->convolutions ? CB_ACT_NONE : model->config.activation;
        b->unit_count = i + 1;
    }
    if (!layers || !u->residual || (in == out && stride == 1))
        return layers;
    b->shortcut.activation = CB_ACT_NONE;
    return build_unit(model, source, b->layer, "shortcut", (conv_shape){in, out, 1, stride}, &b->shortcut);
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const unet *u = model->details;
    bool whole = cb_head_judges_rows(model);
    model->config.width = u->widths[whole ? u->levels - 1 : 0];
    cb_layer *top = cb_model_top(model, "unet"), *down = top ? cb_layer_new(top, "down_blocks", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; down && i < u->levels; i++)
        if (!build_block(model, source, down, i, i ? u->widths[i - 1] : model->config.channels, u->widths[i],
                         i && u->down == DOWN_CONV ? 2 : 1))
            return false;
    if (whole)
        return down;
    cb_layer *up = down ? cb_layer_new(top, "up_blocks", CB_LAYER_GROUP) : NULL;
    for (int64_t i = 0; up && i + 1 < u->levels; i++) {
        int64_t level = u->levels - 2 - i;
        if (!build_block(model, source, up, i, u->widths[level] + u->widths[level + 1], u->widths[level], 1))
            return false;
    }
    return up;
}

/* ---- forward ---- */

static cb_tensor *convolve(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const unet *u = model->details;
    const cb_block *b = &model->blocks[index];
    cb_tensor *y = cb_conv_units_run(b->units, b->unit_count, x, &pass->ctx);
    if (!u->residual)
        return y;
    cb_tensor *short_cut = b->shortcut.conv ? cb_conv_unit_run(&b->shortcut, x, &pass->ctx) : x;
    return cb_conv_close(model->config.activation, y, short_cut);
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(convolve, model, index, x, pass);
}

static cb_tensor *halved(const unet *u, cb_tensor *x)
{
    if (!x || u->down == DOWN_CONV)
        return x;
    return u->down == DOWN_MAX_POOL ? cb_max_pool(x, .kernel = {2, 2}) : cb_avg_pool(x, .kernel = {2, 2});
}

/* beside (N, C, H, W) with x (N, D, h, w) in its size: (N, C + D, H, W) */
static cb_tensor *joined(const unet *u, cb_tensor *beside, cb_tensor *x)
{
    if (!beside || !x)
        return NULL;
    cb_tensor *larger =
        cb_interpolate(x, .size = {beside->shape[2], beside->shape[3]}, .mode = u->up == UP_NEAREST ? CB_NEAREST : CB_LINEAR);
    cb_tensor *parts[] = {cb_pixels_channels_behind(beside), cb_pixels_channels_behind(larger)};
    return cb_pixels_channels_in_front(cb_cat(2, parts, 3)); /* stays channels-last */
}

/* A block on the way up; what it reads is freed with the scope, where the tape does not hold it. */
static cb_tensor *ascend(cb_model *model, int64_t number, cb_tensor *beside, cb_tensor *x, const cb_pass *pass)
{
    const unet *u = model->details;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *y = joined(u, beside, x);
    y = cb_scope_return(scope, y ? cb_block_run(model, u->levels + number, y, pass) : NULL);
    cb_scope_close(scope);
    return y;
}

static bool check_size(const unet *u, const cb_tensor *pixels)
{
    int64_t least = INT64_C(1) << (u->levels - 1);
    return (pixels->shape[2] >= least && pixels->shape[3] >= least) ||
           cb_fail(CB_ERR_SHAPE, "model: images of %lld by %lld, expected %lld by %lld at least for a unet of %lld sizes",
                   (long long)pixels->shape[2], (long long)pixels->shape[3], (long long)least, (long long)least,
                   (long long)u->levels) == CB_OK;
}

/* The smallest maps, of which alone a whole image is judged: the others are freed where the tape does not hold them. */
static cb_tensor *smallest(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    const unet *u = model->details;
    cb_scope *scope = cb_scope_open();
    for (int64_t i = 0; x && scope && i < u->levels; i++) {
        x = i ? halved(u, x) : x;
        x = cb_scope_renew(&scope, x ? cb_block_run(model, i, x, pass) : NULL);
    }
    if (!scope)
        return NULL;
    x = cb_scope_return(scope, x);
    cb_scope_close(scope);
    return x;
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    const unet *u = model->details;
    cb_tensor *maps[MOST_LEVELS], *x = pixels->dtype == model->dtype ? pixels : cb_cast(pixels, model->dtype);
    if (!check_size(u, pixels))
        return NULL;
    if (cb_head_judges_rows(model))
        return smallest(model, x, pass);
    for (int64_t i = 0; x && i < u->levels; i++) {
        x = i ? halved(u, x) : x;
        maps[i] = x = x ? cb_block_run(model, i, x, pass) : NULL;
    }
    for (int64_t i = 0; x && i + 1 < u->levels; i++)
        x = ascend(model, i, maps[u->levels - 2 - i], x, pass);
    return x;
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {
    CB_PLACE_HEADS("classifier"),
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION,
     .class_end = "ForImageClassification",
     .pooling = CB_POOL_MEAN,
     .output = "classifier",
     .bias = true},
    {.kind = CB_HEAD_NONE, .class_end = "Model", .pooling = CB_POOL_MEAN},
    {0},
};

const cb_architecture cb_unet_family[] = {
    {.model_type = "unet",
     .class_prefix = "UNet",
     .prefix = "unet.",
     .heads = heads,
     .bidirectional = true,
     .images = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .block = block},
    {0},
};
