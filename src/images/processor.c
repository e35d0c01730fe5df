/* processor.c: what is done to an image before a model sees it: transformers' image processors. */

#include <math.h>

#include "cambium/images.h"

static const int64_t most_pixels = INT64_C(64) << 20;

bool cb_image_processor_size(const cb_image_processor *p, int64_t *height, int64_t *width)
{
    if (p->do_resize && p->crop_pct > 0)
        *height = *width = p->shortest_edge;
    if (p->do_center_crop) {
        *height = p->crop_height;
        *width = p->crop_width;
    } else if (p->do_resize && p->crop_pct <= 0 && !p->shortest_edge) {
        *height = p->height;
        *width = p->width;
    }
    return p->do_center_crop || (p->do_resize && (p->crop_pct > 0 || (!p->shortest_edge && p->width)));
}

/* Both sides for the shorter one, rounded down; `most` (0: none) for the longer one. */
static void keep_shape(const cb_image *image, int64_t shorter, int64_t most, int64_t *width, int64_t *height)
{
    bool upright = image->width <= image->height;
    int64_t small = upright ? image->width : image->height, large = upright ? image->height : image->width;
    int64_t longer = shorter > INT64_MAX / large ? INT64_MAX : shorter * large / small;
    if (most && longer > most) {
        shorter = shorter > INT64_MAX / most ? 1 : most * shorter / longer;
        longer = most;
    }
    *width = upright ? shorter : longer;
    *height = upright ? longer : shorter;
}

static bool resize(const cb_image_processor *p, const cb_image *image, int64_t width, int64_t height, cb_image *out)
{
    if (width <= 0 || height <= 0 || width > most_pixels / height)
        return cb_fail(CB_ERR_FORMAT, "found an image of %lld x %lld, which would be resized to %lld x %lld, more than %lld pixels",
                       (long long)image->width, (long long)image->height, (long long)width, (long long)height,
                       (long long)most_pixels) == CB_OK;
    return cb_image_resize(image, width, height, p->resample, NULL, out);
}

/* Where the middle begins; negative where the part is larger than the image. */
static int64_t middle(const cb_image_processor *p, int64_t size, int64_t part)
{
    int64_t rest = size - part;
    if (!p->round_crop)
        return (rest - (rest < 0 && rest % 2)) / 2; /* rounded down */
    return rest < 0 ? -(-rest / 2) : (int64_t)lrint((double)rest / 2);
}

static bool crop(const cb_image_processor *p, const cb_image *image, int64_t width, int64_t height, cb_image *out)
{
    return cb_image_crop(image, middle(p, image->width, width), middle(p, image->height, height), width, height, out);
}

static bool resize_as_told(const cb_image_processor *p, const cb_image *image, cb_image *out)
{
    int64_t width = p->width, height = p->height;
    if (p->crop_pct > 0) {
        /* ConvNeXt: the outer part is cut off below 384 pixels, and above it all of the image is squeezed */
        width = height = p->shortest_edge;
        if (p->shortest_edge >= 384)
            return resize(p, image, width, height, out);
        cb_image larger = {0};
        keep_shape(image, (int64_t)((double)p->shortest_edge / p->crop_pct), 0, &width, &height);
        bool ok = resize(p, image, width, height, &larger) && crop(p, &larger, p->shortest_edge, p->shortest_edge, out);
        cb_image_free(&larger);
        return ok;
    }
    if (p->shortest_edge)
        keep_shape(image, p->shortest_edge, p->longest_edge, &width, &height);
    else if (!width)
        width = lrint(fmax(1, (double)height * (double)image->width / (double)image->height));
    return resize(p, image, width, height, out);
}

bool cb_image_processor_fit(const cb_image_processor *p, const cb_image *image, cb_image *out)
{
    cb_image converted = {0}, resized = {0};
    const cb_image *now = image;
    bool ok = true;
    if (image->bits != 8 && p->resample != CB_RESAMPLE_NEAREST)
        return cb_fail(CB_ERR_ARGUMENT, "found an image of %d bits, expected 8", image->bits) == CB_OK;
    if (image->channels != p->channels) {
        ok = cb_image_copy(image, &converted) && cb_image_convert(&converted, p->channels);
        now = &converted;
    }
    if (ok && p->do_resize) {
        ok = resize_as_told(p, now, &resized);
        now = &resized;
    }
    ok = ok && (p->do_center_crop ? crop(p, now, p->crop_width, p->crop_height, out) : cb_image_copy(now, out));
    cb_image_free(&converted);
    cb_image_free(&resized);
    return ok;
}

bool cb_image_processor_fit_map(const cb_image_processor *processor, const cb_image *map, cb_image *out)
{
    cb_image_processor same_places = *processor;
    same_places.resample = CB_RESAMPLE_NEAREST;
    same_places.channels = map->channels;
    return cb_image_processor_fit(&same_places, map, out);
}

/* In f32, step by step as transformers' numpy does. */
static void tabulate(const cb_image_processor *p, int channel, float numbers[256])
{
    for (int level = 0; level < 256; level++) {
        float value = p->do_rescale ? (float)(level * p->rescale_factor) : (float)level;
        numbers[level] = p->do_normalize ? (value - (float)p->image_mean[channel]) / (float)p->image_std[channel] : value;
    }
}

bool cb_image_processor_normalize(const cb_image_processor *p, const cb_image *image, float *pixels)
{
    if (image->channels != p->channels || image->bits != 8)
        return cb_fail(CB_ERR_SHAPE, "found an image of %d channels of %d bits, expected %d of 8", image->channels, image->bits,
                       p->channels) == CB_OK;
    int channels = image->channels;
    int64_t count = image->width * image->height;
    for (int c = 0; c < channels; c++) {
        float numbers[256];
        tabulate(p, c, numbers);
        const uint8_t *from = image->pixels + (p->do_flip_channel_order ? channels - 1 - c : c);
        float *to = pixels + c * count;
        for (int64_t i = 0; i < count; i++)
            to[i] = numbers[from[i * channels]];
    }
    return true;
}

bool cb_image_process(const cb_image_processor *p, const cb_image *image, float *pixels)
{
    cb_image fitted = {0};
    bool ok = cb_image_processor_fit(p, image, &fitted) && cb_image_processor_normalize(p, &fitted, pixels);
    cb_image_free(&fitted);
    return ok;
}
