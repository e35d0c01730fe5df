/* augment.c: images made different each time they are seen.  What torchvision's transforms of the same names do, drawn from counters instead
 * of a state: the image of an item in an epoch depends on nothing else. */
#include <math.h>
#include <string.h>

#include "images/adjust.h"
#include "images/policy.h"

static const char *const policies[] = {"none", "randaugment", "trivialaugment", NULL};

#define T cb_augment_options
const cb_option cb_augment_option_table[] = {
    CB_OPT_BOOL(T, random_resized_crop, false, "cut out a part of random size and shape and resize that"),
    CB_OPT_FLOAT(T, crop_scale_min, 0.08, 1e-4, 1, "of random_resized_crop: least share of the image's area"),
    CB_OPT_FLOAT(T, crop_scale_max, 1, 1e-4, 1, "of random_resized_crop: largest share of the image's area"),
    CB_OPT_INT(T, crop_padding, 0, 0, 4096, "pixels of black put around the image before it is cut to its size at a random place"),
    CB_OPT_FLOAT(T, horizontal_flip, 0, 0, 1, "probability of mirroring left to right"),
    CB_OPT_FLOAT(T, vertical_flip, 0, 0, 1, "probability of mirroring top to bottom"),
    CB_OPT_FLOAT(T, jitter_brightness, 0, 0, 10, "colour jitter: brightness by a factor of 1 - X to 1 + X"),
    CB_OPT_FLOAT(T, jitter_contrast, 0, 0, 10, "colour jitter: contrast by a factor of 1 - X to 1 + X"),
    CB_OPT_FLOAT(T, jitter_saturation, 0, 0, 10, "colour jitter: saturation by a factor of 1 - X to 1 + X"),
    CB_OPT_FLOAT(T, jitter_hue, 0, 0, 0.5, "colour jitter: hue by -X to X of the circle of colours"),
    CB_OPT_ENUM(T, auto_augment, 0, policies,
                "random operations: none, randaugment (Cubuk et al. 2020), trivialaugment (Mueller and Hutter 2021)"),
    CB_OPT_INT(T, randaugment_ops, 2, 1, 14, "of randaugment: operations one after another"),
    CB_OPT_INT(T, randaugment_magnitude, 9, 0, 30, "of randaugment: how strong they are"),
    CB_OPT_FLOAT(T, random_erasing, 0, 0, 1, "probability of blanking a rectangle (Zhong et al. 2020)"),
    CB_OPT_FLOAT(T, mixup_alpha, 0, 0, 100,
                 "mix each image of a batch with the one before it, by a share of Beta(X, X) (Zhang et al. 2018)"),
    CB_OPT_FLOAT(T, cutmix_alpha, 0, 0, 100, "put a part of the one before it into each image, by a share of Beta(X, X) (Yun et al. 2019)"),
    CB_OPT_END};
#undef T

cb_rng cb_image_rng(uint64_t seed, int64_t epoch, int64_t item)
{
    static const uint64_t apart = UINT64_C(0x696d6167652d7267); /* from other draws of the same seed */
    return (cb_rng){.seed = seed ^ apart, .stream = (uint64_t)epoch << 40 ^ (uint64_t)item};
}

static double between(cb_rng *rng, double low, double high)
{
    return low + (high - low) * cb_rng_uniform(rng);
}

/* ---- places ---- */

typedef struct rectangle {
    int64_t left, top, width, height;
} rectangle;

/* A part of the asked share of the image and a shape of 3:4 to 4:3; without luck in ten tries the largest in the middle. */
static rectangle random_part(const cb_augment_options *o, cb_rng *rng, int64_t width, int64_t height)
{
    static const double narrow = 3.0 / 4, wide = 4.0 / 3;
    double area = (double)width * (double)height, shape = (double)width / (double)height;
    for (int i = 0; i < 10; i++) {
        double share = area * between(rng, o->crop_scale_min, o->crop_scale_max), ratio = exp(between(rng, log(narrow), log(wide)));
        int64_t w = llrint(sqrt(share * ratio)), h = llrint(sqrt(share / ratio));
        if (w < 1 || h < 1 || w > width || h > height)
            continue;
        int64_t top = (int64_t)cb_rng_below(rng, (uint64_t)(height - h + 1)), left = (int64_t)cb_rng_below(rng, (uint64_t)(width - w + 1));
        return (rectangle){left, top, w, h};
    }
    int64_t w = shape > wide ? llrint((double)height * wide) : width, h = shape < narrow ? llrint((double)width / narrow) : height;
    w = w < 1 ? 1 : w;
    h = h < 1 ? 1 : h;
    return (rectangle){(width - w) / 2, (height - h) / 2, w, h};
}

/* What is done to an image is done to its map (NULL: it has none), but that numbers are picked. */
typedef struct picture {
    const cb_image *image, *map;
    cb_image *out, *map_out;
    cb_image_mirrored *mirrored; /* NULL: nobody asks */
} picture;

static bool resize_part(const cb_image_processor *p, const cb_image *image, rectangle part, bool is_map, cb_image *out)
{
    int64_t height, width;
    cb_image cut = {0};
    bool ok = cb_image_processor_size(p, &height, &width) && cb_image_crop(image, part.left, part.top, part.width, part.height, &cut) &&
              (is_map || cb_image_convert(&cut, p->channels)) &&
              cb_image_resize(&cut, width, height, is_map ? CB_RESAMPLE_NEAREST : p->resample, NULL, out);
    cb_image_free(&cut);
    return ok;
}

static bool cut_part(const cb_augment_options *o, const cb_image_processor *p, cb_rng *rng, const picture *x)
{
    int64_t height, width;
    if (!cb_image_processor_size(p, &height, &width))
        return cb_fail(CB_ERR_ARGUMENT, "random_resized_crop: expected an image processor that gives images of one size") == CB_OK;
    rectangle part = random_part(o, rng, x->image->width, x->image->height);
    return resize_part(p, x->image, part, false, x->out) && (!x->map || resize_part(p, x->map, part, true, x->map_out));
}

static bool fit(const cb_image_processor *p, const picture *x)
{
    return cb_image_processor_fit(p, x->image, x->out) && (!x->map || cb_image_processor_fit_map(p, x->map, x->map_out));
}

static bool shift_one(int64_t top, int64_t left, cb_image *image)
{
    cb_image out = {0};
    if (!cb_image_crop(image, left, top, image->width, image->height, &out))
        return false;
    cb_image_free(image);
    *image = out;
    return true;
}

static bool shift(int64_t padding, cb_rng *rng, const picture *x)
{
    uint64_t places = (uint64_t)(2 * padding + 1);
    int64_t top = (int64_t)cb_rng_below(rng, places) - padding, left = (int64_t)cb_rng_below(rng, places) - padding;
    return shift_one(top, left, x->out) && (!x->map || shift_one(top, left, x->map_out));
}

/* Cuts out a part of the size that is wanted, and mirrors it. */
static bool place(const cb_augment_options *o, const cb_image_processor *p, cb_rng *rng, const picture *x)
{
    if (!(o->random_resized_crop ? cut_part(o, p, rng, x) : fit(p, x)) || (o->crop_padding && !shift(o->crop_padding, rng, x)))
        return false;
    bool across = cb_rng_uniform(rng) < o->horizontal_flip, down = cb_rng_uniform(rng) < o->vertical_flip;
    cb_adjust_flip(x->out, across, down);
    if (x->map)
        cb_adjust_flip(x->map_out, across, down);
    if (x->mirrored)
        *x->mirrored = (cb_image_mirrored){across, down};
    return true;
}

/* ---- colours ---- */

static double factor(cb_rng *rng, double most)
{
    return between(rng, most < 1 ? 1 - most : 0, 1 + most);
}

/* The four in random order. */
static bool jitter(const cb_augment_options *o, cb_rng *rng, cb_image *image)
{
    int order[4] = {0, 1, 2, 3};
    for (int i = 3; i > 0; i--) {
        int j = (int)cb_rng_below(rng, (uint64_t)i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    bool ok = true;
    for (int i = 0; ok && i < 4; i++)
        if (order[i] == 0 && o->jitter_brightness > 0)
            cb_adjust_brightness(image, factor(rng, o->jitter_brightness));
        else if (order[i] == 1 && o->jitter_contrast > 0)
            ok = cb_adjust_contrast(image, factor(rng, o->jitter_contrast));
        else if (order[i] == 2 && o->jitter_saturation > 0)
            ok = cb_adjust_saturation(image, factor(rng, o->jitter_saturation));
        else if (order[i] == 3 && o->jitter_hue > 0)
            cb_adjust_hue(image, between(rng, -o->jitter_hue, o->jitter_hue));
    return ok;
}

bool cb_image_augment(const cb_augment_options *o, const cb_image_processor *processor, cb_rng *rng, const cb_image *image, cb_image *out)
{
    bool ok = place(o, processor, rng, &(picture){.image = image, .out = out});
    if (ok && o->auto_augment == CB_AUGMENT_RANDAUGMENT)
        ok = cb_policy_randaugment(o->randaugment_ops, o->randaugment_magnitude, rng, out);
    else if (ok && o->auto_augment == CB_AUGMENT_TRIVIALAUGMENT)
        ok = cb_policy_trivialaugment(rng, out);
    return ok && jitter(o, rng, out);
}

bool cb_image_augment_map(const cb_augment_options *o, const cb_image_processor *processor, cb_rng *rng, const cb_image *image,
                          const cb_image *map, cb_image *out, cb_image *map_out, cb_image_mirrored *mirrored)
{
    const char *other = o->auto_augment ? "auto_augment" : o->mixup_alpha > 0 ? "mixup_alpha" : o->cutmix_alpha > 0 ? "cutmix_alpha" : NULL;
    if (other)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: is for images with one label each, found maps of them", other) == CB_OK;
    return place(o, processor, rng, &(picture){image, map, out, map_out, mirrored}) && jitter(o, rng, out);
}

void cb_image_erase(const cb_augment_options *o, cb_rng *rng, int channels, int64_t height, int64_t width, float *pixels)
{
    static const double least = 0.02, most = 0.33, narrow = 0.3, wide = 3.3;
    if (cb_rng_uniform(rng) >= o->random_erasing)
        return;
    for (int i = 0; i < 10; i++) {
        double area = (double)(width * height) * between(rng, least, most), ratio = exp(between(rng, log(narrow), log(wide)));
        int64_t h = llrint(sqrt(area * ratio)), w = llrint(sqrt(area / ratio));
        if (h < 1 || w < 1 || h >= height || w >= width)
            continue;
        int64_t top = (int64_t)cb_rng_below(rng, (uint64_t)(height - h + 1)), left = (int64_t)cb_rng_below(rng, (uint64_t)(width - w + 1));
        for (int c = 0; c < channels; c++)
            for (int64_t y = top; y < top + h; y++)
                memset(pixels + (c * height + y) * width + left, 0, (size_t)w * sizeof *pixels);
        return;
    }
}

/* ---- two images ---- */

/* Gamma(shape, 1): Marsaglia and Tsang 2000, and for shapes below 1 the power of a uniform number beside it. */
static double gamma_draw(cb_rng *rng, double shape)
{
    if (shape < 1)
        return gamma_draw(rng, shape + 1) * pow(1 - cb_rng_uniform(rng), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = cb_rng_normal(rng), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(1 - cb_rng_uniform(rng)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

static double beta_draw(cb_rng *rng, double alpha)
{
    double a = gamma_draw(rng, alpha), b = gamma_draw(rng, alpha);
    return a + b > 0 ? a / (a + b) : 0.5;
}

cb_image_mix cb_image_mix_draw(const cb_augment_options *o, cb_rng *rng, int64_t height, int64_t width)
{
    cb_image_mix mix = {.share = 1};
    bool cut = o->cutmix_alpha > 0 && (o->mixup_alpha <= 0 || cb_rng_uniform(rng) < 0.5);
    if (!cut && o->mixup_alpha > 0)
        mix.share = beta_draw(rng, o->mixup_alpha);
    if (!cut)
        return mix;
    double side = 0.5 * sqrt(1 - beta_draw(rng, o->cutmix_alpha)); /* half of the part's, as a share of the image's */
    int64_t x = (int64_t)cb_rng_below(rng, (uint64_t)width), y = (int64_t)cb_rng_below(rng, (uint64_t)height);
    int64_t half_w = (int64_t)(side * (double)width), half_h = (int64_t)(side * (double)height);
    mix.left = x > half_w ? x - half_w : 0;
    mix.top = y > half_h ? y - half_h : 0;
    mix.right = x + half_w < width ? x + half_w : width;
    mix.bottom = y + half_h < height ? y + half_h : height;
    mix.share = 1 - (double)((mix.right - mix.left) * (mix.bottom - mix.top)) / (double)(width * height);
    return mix;
}

void cb_image_mix_apply(const cb_image_mix *mix, int channels, int64_t height, int64_t width, float *pixels, const float *other)
{
    int64_t count = channels * height * width;
    if (mix->right <= mix->left) {
        for (int64_t i = 0; mix->share < 1 && i < count; i++)
            pixels[i] = (float)(mix->share * pixels[i] + (1 - mix->share) * other[i]);
        return;
    }
    for (int64_t row = 0; row < channels * height; row++)
        if (row % height >= mix->top && row % height < mix->bottom)
            memcpy(pixels + row * width + mix->left, other + row * width + mix->left, (size_t)(mix->right - mix->left) * sizeof *pixels);
}
