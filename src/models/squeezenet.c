/* squeezenet.c: SqueezeNet (Iandola et al. 2016, arXiv:1602.07360): blocks that squeeze by a convolution of single points and expand by two side by side,
 * of single points and 3 x 3; no norms.  What it classifies by is a convolution too, whose rectified maps are averaged.
 *
 * `version` is torchvision's, "1_0" or "1_1", and so are the names (features.3.squeeze, classifier.1); a file of the features alone, as perceptual
 * metrics have it (net.slice2.3.squeeze), is read as well.  Dropout before the classifier is not applied. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { FIRES = 8, POOL = 3 };

/* Where a fire stands in `features`, and its widths; all maps are halved before some. */
typedef struct fire {
    int place;
    bool pooled;
    int64_t squeeze, expand;
} fire;

typedef struct version {
    const char *name;
    int64_t stem, kernel;
    fire fires[FIRES];
} version;

static const version versions[] = {{"1_0",
                                    96,
                                    7,
                                    {{3, true, 16, 64},
                                     {4, false, 16, 64},
                                     {5, false, 32, 128},
                                     {7, true, 32, 128},
                                     {8, false, 48, 192},
                                     {9, false, 48, 192},
                                     {10, false, 64, 256},
                                     {12, true, 64, 256}}},
                                   {"1_1",
                                    64,
                                    3,
                                    {{3, true, 16, 64},
                                     {4, false, 16, 64},
                                     {6, true, 32, 128},
                                     {7, false, 32, 128},
                                     {9, true, 48, 192},
                                     {10, false, 48, 192},
                                     {11, false, 64, 256},
                                     {12, false, 64, 256}}}};

typedef struct squeezenet {
    const version *version;
} squeezenet;

static bool configure(cb_model *model)
{
    squeezenet *s = model->details = cb_calloc(1, sizeof *s);
    const char *name = cb_json_string(model->config_path, model->json, "version", "1_0");
    if (!s || !cb_ok() || !cb_pixels_configure_channels(model))
        return false;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        if (strcmp(versions[i].name, name) == 0)
            s->version = &versions[i];
    if (!s->version)
        return cb_config_error(model, "version is \"%.40s\", expected \"1_0\" or \"1_1\"", name);
    model->config.layers = FIRES;
    model->config.width = 2 * s->version->fires[FIRES - 1].expand;
    return true;
}

/* ---- layers ---- */

static bool add_conv(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, int64_t kernel,
                     cb_conv_unit *unit)
{
    cb_conv_options o = {.padding = {kernel / 2, kernel / 2}};
    unit->conv = cb_source_conv(source, parent, name, in, out, kernel, o, true, CB_INITIAL_KAIMING);
    return unit->conv;
}

static bool build_fire(cb_model *model, cb_weight_source *source, cb_layer *features, const fire *f, int64_t in)
{
    char name[8];
    snprintf(name, sizeof name, "%d", f->place);
    cb_block *b = cb_model_add_block(model);
    if (!b || !(b->layer = cb_layer_new(features, name, CB_LAYER_BLOCK)))
        return false;
    b->unit_count = 3;
    return add_conv(source, b->layer, "squeeze", in, f->squeeze, 1, &b->units[0]) &&
           add_conv(source, b->layer, "expand1x1", f->squeeze, f->expand, 1, &b->units[1]) &&
           add_conv(source, b->layer, "expand3x3", f->squeeze, f->expand, 3, &b->units[2]);
}

static bool build(cb_model *model, cb_weight_source *source)
{
    const squeezenet *s = model->details;
    const version *v = s->version;
    cb_layer *features = cb_layer_new(model->root, "features", CB_LAYER_GROUP);
    cb_conv_options strided = {.stride = {2, 2}};
    cb_conv_unit *stem = &model->stem[0];
    if (!features || !(stem->conv = cb_source_conv(source, features, "0", model->config.channels, v->stem, v->kernel, strided, true,
                                                   CB_INITIAL_KAIMING)))
        return false;
    for (int i = 0; i < FIRES; i++)
        if (!build_fire(model, source, features, &v->fires[i], i ? 2 * v->fires[i - 1].expand : v->stem))
            return false;
    return true;
}

/* features.3.squeeze.weight -> net.slice2.3.squeeze.weight; the slices end where maps are compared. */
static char *other_name(const cb_model *model, const char *name)
{
    static const int ends[] = {1, 4, 7, 9, 10, 11, 12};
    int place = 0, used = 0;
    (void)model;
    if (sscanf(name, "features.%d.%n", &place, &used) != 1 || !used)
        return NULL;
    for (int slice = 0; slice < (int)(sizeof ends / sizeof *ends); slice++)
        if (place <= ends[slice])
            return cb_format("net.slice%d.%d.%s", slice + 1, place, name + used);
    return NULL;
}

/* ---- forward ---- */

/* Windows of 3 with a stride of 2, the last of which may reach beyond the end (ceil_mode): what is there is 0, and maps are rectified. */
static cb_tensor *padded_behind(cb_tensor *x, int dim)
{
    int64_t over = x ? (x->shape[dim] - POOL) % 2 : 0;
    return over > 0 ? cb_pad(x, dim, 0, over, 0) : x;
}

static cb_tensor *pooled(cb_tensor *x)
{
    if (x && (x->shape[2] < POOL || x->shape[3] < POOL)) {
        cb_fail(CB_ERR_SHAPE, "model: maps of %lld by %lld, expected %d by %d at least", (long long)x->shape[2], (long long)x->shape[3],
                POOL, POOL);
        return NULL;
    }
    x = cb_pixels_channels_in_front(padded_behind(padded_behind(cb_pixels_channels_behind(x), 1), 2));
    return x ? cb_max_pool(x, .kernel = {POOL, POOL}, .stride = {2, 2}) : NULL;
}

static cb_tensor *embed(cb_model *model, cb_tensor *pixels, const cb_pass *pass)
{
    cb_tensor *x = pixels->dtype == model->dtype ? pixels : cb_cast(pixels, model->dtype);
    return cb_relu(cb_conv2d_forward(model->stem[0].conv, x, &pass->ctx));
}

static cb_tensor *burn(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const cb_block *b = &model->blocks[index];
    const squeezenet *s = model->details;
    x = s->version->fires[index].pooled ? pooled(x) : x;
    cb_tensor *squeezed = cb_relu(cb_conv2d_forward(b->units[0].conv, x, &pass->ctx));
    cb_tensor *parts[] = {cb_pixels_channels_behind(cb_relu(cb_conv2d_forward(b->units[1].conv, squeezed, &pass->ctx))),
                          cb_pixels_channels_behind(cb_relu(cb_conv2d_forward(b->units[2].conv, squeezed, &pass->ctx)))};
    return parts[0] && parts[1] ? cb_pixels_channels_in_front(cb_cat(2, parts, 3)) : NULL;
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(burn, model, index, x, pass);
}

/* ---- heads ---- */

static const cb_head_plan heads[] = {CB_MAP_HEADS("classifier.1", true)};

const cb_architecture cb_squeezenet_family[] = {
    {.model_type = "squeezenet",
     .class_prefix = "SqueezeNet",
     .prefix = "",
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
