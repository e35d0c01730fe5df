/* processor_config.c: preprocessor_config.json: transformers' classes, their defaults, and timm's pretrained_cfg. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/images.h"
#include "core/json.h"

static const double standard[2][3] = {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}}, imagenet[2][3] = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
                    openai[2][3] = {{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};

/* What a class does where its file does not say. */
typedef struct class
{
    const char *name; /* without ImageProcessor, ImageProcessorFast, ImageProcessorPil, FeatureExtractor */
    cb_resample resample;
    const double (*mean_std)[3];
    int64_t size, crop_size;
    bool square; /* a size of one number is of both sides, not of the shorter one */
    bool crops, normalizes, flips;
    double crop_pct;
} class;

static const class classes[] = {
    {"ViT", CB_RESAMPLE_BILINEAR, standard, 224, 224, true, false, true, false, 0},
    {"DeiT", CB_RESAMPLE_BICUBIC, standard, 256, 224, true, true, true, false, 0},
    {"Beit", CB_RESAMPLE_BICUBIC, standard, 224, 224, true, false, true, false, 0},
    {"CLIP", CB_RESAMPLE_BICUBIC, openai, 224, 224, false, true, true, false, 0},
    {"Siglip", CB_RESAMPLE_BICUBIC, standard, 224, 224, true, false, true, false, 0},
    {"ConvNext", CB_RESAMPLE_BICUBIC, standard, 384, 224, false, false, true, false, 224.0 / 256},
    {"Bit", CB_RESAMPLE_BICUBIC, openai, 224, 224, false, true, true, false, 0},
    {"MobileNetV1", CB_RESAMPLE_BILINEAR, standard, 256, 224, false, true, true, false, 0},
    {"MobileNetV2", CB_RESAMPLE_BILINEAR, standard, 256, 224, false, true, true, false, 0},
    {"MobileViT", CB_RESAMPLE_BICUBIC, standard, 224, 256, false, true, false, true, 0},
};

static const class *find_class(const char *type)
{
    static const char *const ends[] = {"ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        size_t n = strlen(classes[i].name);
        for (size_t e = 0; strncmp(type, classes[i].name, n) == 0 && e < sizeof ends / sizeof *ends; e++)
            if (strcmp(type + n, ends[e]) == 0)
                return &classes[i];
    }
    return NULL;
}

static void set_defaults(cb_image_processor *p, const class *c)
{
    *p = (cb_image_processor){.channels = 3,
                              .do_resize = true,
                              .resample = c->resample,
                              .crop_pct = c->crop_pct,
                              .do_center_crop = c->crops,
                              .crop_height = c->crop_size,
                              .crop_width = c->crop_size,
                              .do_rescale = true,
                              .rescale_factor = 1.0 / 255,
                              .do_normalize = c->normalizes,
                              .do_flip_channel_order = c->flips};
    if (c->square)
        p->height = p->width = c->size;
    else
        p->shortest_edge = c->size;
    memcpy(p->image_mean, c->mean_std[0], sizeof p->image_mean);
    memcpy(p->image_std, c->mean_std[1], sizeof p->image_std);
}

void cb_image_processor_init(cb_image_processor *processor)
{
    set_defaults(processor, &classes[0]);
}

/* ---- reading ---- */

static bool side(const char *file, const json_t *object, const char *key, int64_t *value)
{
    enum { MOST = 8192 };
    *value = cb_json_int(file, object, key, *value);
    return cb_ok() && ((*value >= 1 && *value <= MOST) ||
                       cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected 1 to %d", file, key, (long long)*value, MOST) == CB_OK);
}

static bool read_size(const char *file, const json_t *json, const class *c, cb_image_processor *p)
{
    const json_t *size = json_object_get(json, "size");
    if (!size || json_is_null(size))
        return true;
    p->height = p->width = p->shortest_edge = 0;
    if (json_is_object(size) && json_object_get(size, "shortest_edge"))
        return side(file, size, "shortest_edge", &p->shortest_edge) &&
               (!json_object_get(size, "longest_edge") || side(file, size, "longest_edge", &p->longest_edge));
    if (json_is_object(size))
        return side(file, size, "height", &p->height) && (!json_object_get(size, "width") || side(file, size, "width", &p->width));
    if (!side(file, json, "size", c->square ? &p->height : &p->shortest_edge))
        return false;
    p->width = p->height;
    return true;
}

static bool read_crop_size(const char *file, const json_t *json, cb_image_processor *p)
{
    const json_t *size = json_object_get(json, "crop_size");
    if (!size || json_is_null(size))
        return true;
    if (json_is_object(size))
        return side(file, size, "height", &p->crop_height) && side(file, size, "width", &p->crop_width);
    if (!side(file, json, "crop_size", &p->crop_height))
        return false;
    p->crop_width = p->crop_height;
    return true;
}

/* One number a channel: three, or one for models of grey images. */
static bool read_numbers(const char *file, const json_t *json, const char *key, double least, double numbers[3], int *count)
{
    const json_t *list = json_object_get(json, key);
    if (!list || json_is_null(list))
        return true;
    size_t n = json_is_array(list) ? json_array_size(list) : 0;
    bool ok = n == 1 || n == 3;
    for (size_t i = 0; ok && i < n; i++) {
        numbers[i] = json_number_value(json_array_get(list, i));
        ok = json_is_number(json_array_get(list, i)) && isfinite(numbers[i]) && numbers[i] > least;
    }
    *count = (int)n;
    return ok ||
           cb_fail(CB_ERR_FORMAT, "%s: %s: expected a list of one or three numbers%s", file, key, least == 0 ? " above 0" : "") == CB_OK;
}

static bool read_normalization(const char *file, const json_t *json, const char *mean, const char *std, cb_image_processor *p)
{
    int means = 3, stds = 3;
    if (!read_numbers(file, json, mean, -HUGE_VAL, p->image_mean, &means) || !read_numbers(file, json, std, 0, p->image_std, &stds))
        return false;
    if (means != stds)
        return cb_fail(CB_ERR_FORMAT, "%s: found %d numbers in %s and %d in %s, expected as many", file, means, mean, stds, std) == CB_OK;
    p->channels = means;
    return true;
}

static bool read_fields(const char *file, const json_t *json, const class *c, cb_image_processor *p)
{
    set_defaults(p, c);
    p->do_resize = cb_json_bool(file, json, "do_resize", p->do_resize);
    p->do_center_crop = cb_json_bool(file, json, "do_center_crop", p->do_center_crop);
    p->do_rescale = cb_json_bool(file, json, "do_rescale", p->do_rescale);
    p->do_normalize = cb_json_bool(file, json, "do_normalize", p->do_normalize);
    p->do_flip_channel_order = cb_json_bool(file, json, "do_flip_channel_order", p->do_flip_channel_order);
    p->round_crop = cb_json_bool(file, json, "round_crop", false);
    p->rescale_factor = cb_json_float(file, json, "rescale_factor", p->rescale_factor);
    int64_t resample = cb_json_int(file, json, "resample", p->resample);
    if (!cb_ok())
        return false;
    if (resample < 0 || resample >= CB_RESAMPLES)
        return cb_fail(CB_ERR_FORMAT, "%s: resample: found %lld, expected 0 to %d", file, (long long)resample, CB_RESAMPLES - 1) == CB_OK;
    p->resample = (cb_resample)resample;
    if (c->crop_pct > 0)
        p->crop_pct = cb_json_float(file, json, "crop_pct", p->crop_pct);
    if (!cb_ok() || !read_size(file, json, c, p) || !read_crop_size(file, json, p) ||
        !read_normalization(file, json, "image_mean", "image_std", p))
        return false;
    if (c->crop_pct > 0 && !(p->crop_pct >= 0.01 && p->crop_pct <= 1 && p->shortest_edge))
        return cb_fail(CB_ERR_FORMAT, "%s: crop_pct: found %g, expected 0.01 to 1, and a size with shortest_edge", file, p->crop_pct) ==
               CB_OK;
    if (!(p->rescale_factor > 0) || !isfinite(p->rescale_factor))
        return cb_fail(CB_ERR_FORMAT, "%s: rescale_factor: found %g, expected a number above 0", file, p->rescale_factor) == CB_OK;
    if (p->do_flip_channel_order && p->do_normalize)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found do_flip_channel_order with do_normalize, expected one of them", file) == CB_OK;
    return true;
}

static bool read_processor(const char *file, const json_t *json, cb_image_processor *p)
{
    const char *type = cb_json_string(file, json, "image_processor_type", NULL);
    if (cb_ok() && !type)
        type = cb_json_string(file, json, "feature_extractor_type", NULL);
    if (!cb_ok())
        return false;
    const class *c = type ? find_class(type) : NULL;
    if (!c)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: image_processor_type: found %.80s, expected that of ViT, DeiT, Beit, CLIP, Siglip, ConvNext, Bit, "
                       "MobileNetV1, MobileNetV2 or MobileViT",
                       file, type ? type : "none") == CB_OK;
    return read_fields(file, json, c, p);
}

/* timm's evaluation transform: the shorter side to size / crop_pct, then torchvision's centre. */
static bool read_timm(const char *file, const json_t *timm, cb_image_processor *p)
{
    static const char *const names[CB_RESAMPLES] = {"nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"};
    const json_t *size = json_object_get(timm, "input_size");
    int64_t height = json_integer_value(json_array_get(size, 1)), width = json_integer_value(json_array_get(size, 2));
    double crop_pct = cb_json_float(file, timm, "crop_pct", 0.875);
    const char *interpolation = cb_json_string(file, timm, "interpolation", "bilinear"),
               *mode = cb_json_string(file, timm, "crop_mode", "center");
    if (!cb_ok())
        return false;
    set_defaults(p, &classes[0]);
    memcpy(p->image_mean, imagenet[0], sizeof p->image_mean);
    memcpy(p->image_std, imagenet[1], sizeof p->image_std);
    if (height < 1 || width != height || height > 8192 || !(crop_pct >= 0.01 && crop_pct <= 1) || strcmp(mode, "center") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: pretrained_cfg: expected input_size of equal sides, crop_pct of 0.01 to 1 and crop_mode center", file) == CB_OK;
    int how = 0;
    while (how < CB_RESAMPLES && strcmp(names[how], interpolation) != 0)
        how++;
    if (how == CB_RESAMPLES)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: pretrained_cfg: interpolation: found %.40s, expected one of Pillow's filters", file,
                       interpolation) == CB_OK;
    p->resample = (cb_resample)how;
    p->height = p->width = 0;
    p->shortest_edge = (int64_t)floor((double)height / crop_pct);
    p->do_center_crop = p->round_crop = true;
    p->crop_height = height;
    p->crop_width = width;
    return read_normalization(file, timm, "mean", "std", p);
}

bool cb_image_processor_parse(const char *name, const char *text, size_t length, cb_image_processor *processor)
{
    json_t *json = cb_json_parse(name, text, length);
    bool ok = json && (json_is_object(json) || cb_fail(CB_ERR_FORMAT, "%s: expected an object", name) == CB_OK);
    ok =
        ok && (json_is_object(json_object_get(json, "pretrained_cfg")) ? read_timm(name, json_object_get(json, "pretrained_cfg"), processor)
                                                                       : read_processor(name, json, processor));
    json_decref(json);
    return ok;
}

static bool load_file(const char *path, cb_image_processor *processor)
{
    size_t length;
    char *text = cb_file_read(path, 1 << 20, &length);
    bool ok = text && cb_image_processor_parse(path, text, length, processor);
    cb_free(text);
    return ok;
}

bool cb_image_processor_load(const char *path, cb_image_processor *processor)
{
    if (!cb_is_directory(path))
        return load_file(path, processor);
    char *own = cb_path_join(path, "preprocessor_config.json"), *timm = own ? cb_path_join(path, "config.json") : NULL;
    bool ok = timm;
    if (ok && cb_is_file(own))
        ok = load_file(own, processor);
    else if (ok) {
        json_t *json = cb_is_file(timm) ? cb_json_load(timm, 0) : NULL;
        const json_t *cfg = json_object_get(json, "pretrained_cfg");
        ok = cb_ok() && (json_is_object(cfg) ? read_timm(timm, cfg, processor)
                                             : cb_fail(CB_ERR_FORMAT,
                                                       "%s: found no preprocessor_config.json, expected one: it says how images "
                                                       "are to be resized and normalised",
                                                       path) == CB_OK);
        json_decref(json);
    }
    cb_free(own);
    cb_free(timm);
    return ok;
}

/* ---- writing ---- */

static json_t *numbers(const double *values, int count)
{
    json_t *list = json_array();
    for (int i = 0; list && i < count; i++)
        cb_json_add(list, json_real(values[i]));
    return list;
}

static json_t *sides(int64_t height, int64_t width)
{
    return json_pack("{s:I, s:I}", "height", (json_int_t)height, "width", (json_int_t)width);
}

static json_t *size_of(const cb_image_processor *p)
{
    if (!p->shortest_edge)
        return p->width ? sides(p->height, p->width) : json_pack("{s:I}", "height", (json_int_t)p->height);
    json_t *size = json_pack("{s:I}", "shortest_edge", (json_int_t)p->shortest_edge);
    if (size && p->longest_edge)
        cb_json_put(size, "longest_edge", json_integer(p->longest_edge));
    return size;
}

/* The simplest class of transformers that does all of it. */
static const char *type_of(const cb_image_processor *p)
{
    if (p->do_flip_channel_order)
        return "MobileViTImageProcessor";
    return p->crop_pct > 0 ? "ConvNextImageProcessor" : p->shortest_edge || p->do_center_crop ? "CLIPImageProcessor" : "ViTImageProcessor";
}

static json_t *to_json(const cb_image_processor *p)
{
    json_t *json = json_object();
    bool ok =
        json && cb_json_put(json, "image_processor_type", json_string(type_of(p))) &&
        cb_json_put(json, "do_convert_rgb", json_boolean(p->channels == 3)) && cb_json_put(json, "do_resize", json_boolean(p->do_resize)) &&
        cb_json_put(json, "size", size_of(p)) && cb_json_put(json, "resample", json_integer(p->resample)) &&
        cb_json_put(json, "do_center_crop", json_boolean(p->do_center_crop)) &&
        cb_json_put(json, "crop_size", sides(p->crop_height, p->crop_width)) &&
        cb_json_put(json, "do_rescale", json_boolean(p->do_rescale)) && cb_json_put(json, "rescale_factor", json_real(p->rescale_factor)) &&
        cb_json_put(json, "do_normalize", json_boolean(p->do_normalize)) &&
        cb_json_put(json, "image_mean", numbers(p->image_mean, p->channels)) &&
        cb_json_put(json, "image_std", numbers(p->image_std, p->channels));
    ok = ok && (p->crop_pct <= 0 || cb_json_put(json, "crop_pct", json_real(p->crop_pct)));
    ok = ok && (!p->do_flip_channel_order || cb_json_put(json, "do_flip_channel_order", json_true()));
    ok = ok && (!p->round_crop || cb_json_put(json, "round_crop", json_true()));
    if (ok && cb_ok())
        return json;
    json_decref(json);
    cb_fail(CB_ERR_MEMORY, "no memory for an image processor's settings");
    return NULL;
}

bool cb_image_processor_save(const cb_image_processor *processor, const char *directory)
{
    char *path = cb_path_join(directory, "preprocessor_config.json");
    json_t *json = path ? to_json(processor) : NULL;
    bool ok = json && cb_json_save(path, json, false);
    json_decref(json);
    cb_free(path);
    return ok;
}

char *cb_image_processor_describe(const cb_image_processor *processor)
{
    json_t *json = to_json(processor);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL, *copy = text ? cb_strdup(text) : NULL;
    if (json && !text)
        cb_fail(CB_ERR_MEMORY, "no memory for an image processor's settings");
    free(text);
    json_decref(json);
    return copy;
}
