/* resize.c: sizes as Pillow changes them (its Resample.c): a filter as wide as the output's pixels are in the input, so that nothing is
 * passed over when an image shrinks; weights in fixed point of 22 bits; one direction, then the other, each rounded to 8 bits. */
#include <math.h>
#include <string.h>

#include "cambium/images.h"

enum { PRECISION = 22 }; /* 32 bits less 8 of the level and 2 for what overshoots */

typedef struct filter {
    double (*weight)(double x);
    double support;
} filter;

static double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1 : 0;
}

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static double hamming(double x)
{
    x = fabs(x);
    if (x == 0)
        return 1;
    return x >= 1 ? 0 : sin(M_PI * x) / (M_PI * x) * (0.54 + 0.46 * cos(M_PI * x));
}

/* Keys 1981 with a = -0.5. */
static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static double sinc(double x)
{
    return x == 0 ? 1 : sin(M_PI * x) / (M_PI * x);
}

static double lanczos(double x)
{
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const filter filters[CB_RESAMPLES] = {
    [CB_RESAMPLE_LANCZOS] = {lanczos, 3}, [CB_RESAMPLE_BILINEAR] = {triangle, 1}, [CB_RESAMPLE_BICUBIC] = {cubic, 2},
    [CB_RESAMPLE_BOX] = {box, 0.5},       [CB_RESAMPLE_HAMMING] = {hamming, 1},
};

/* What each output pixel is made of: `count` inputs from `first` on, with weights of `most` to a pixel. */
typedef struct weights {
    int64_t most, *first, *count;
    int32_t *values;
} weights;

static void weights_free(weights *w)
{
    cb_free(w->first);
    cb_free(w->count);
    cb_free(w->values);
}

static void weigh(const filter *f, double center, double scale, int64_t first, int64_t count, double *k)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        k[i] = f->weight(((double)(i + first) - center + 0.5) * (1 / scale));
        sum += k[i];
    }
    for (int64_t i = 0; i < count && sum != 0; i++)
        k[i] /= sum;
}

static bool weights_make(weights *w, const filter *f, int64_t size, double from, double to, int64_t out)
{
    double scale = (to - from) / (double)out, wide = scale < 1 ? 1 : scale, support = f->support * wide;
    w->most = (int64_t)ceil(support) * 2 + 1;
    w->first = cb_calloc((size_t)out, sizeof *w->first);
    w->count = cb_calloc((size_t)out, sizeof *w->count);
    w->values = w->most <= INT64_MAX / 8 / out ? cb_calloc((size_t)(w->most * out), sizeof *w->values) : NULL;
    double *k = cb_calloc((size_t)w->most, sizeof *k);
    bool ok = w->first && w->count && w->values && k;
    for (int64_t i = 0; ok && i < out; i++) {
        double center = from + ((double)i + 0.5) * scale;
        int64_t first = (int64_t)(center - support + 0.5), end = (int64_t)(center + support + 0.5);
        first = first < 0 ? 0 : first;
        end = end > size ? size : end;
        w->first[i] = first;
        w->count[i] = end - first;
        weigh(f, center, wide, first, end - first, k);
        for (int64_t j = 0; j < end - first; j++)
            w->values[i * w->most + j] = (int32_t)((k[j] < 0 ? -0.5 : 0.5) + k[j] * (1 << PRECISION));
    }
    cb_free(k);
    return ok;
}

static uint8_t level(int32_t sum)
{
    sum >>= PRECISION;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void across(const cb_image *in, const weights *w, cb_image *out)
{
    int channels = in->channels;
    for (int64_t y = 0; y < out->height; y++)
        for (int64_t x = 0; x < out->width; x++) {
            const uint8_t *from = in->pixels + (y * in->width + w->first[x]) * channels;
            const int32_t *k = w->values + x * w->most;
            uint8_t *to = out->pixels + (y * out->width + x) * channels;
            for (int c = 0; c < channels; c++) {
                int32_t sum = 1 << (PRECISION - 1);
                for (int64_t i = 0; i < w->count[x]; i++)
                    sum += from[i * channels + c] * k[i];
                to[c] = level(sum);
            }
        }
}

static void down(const cb_image *in, const weights *w, cb_image *out)
{
    int64_t row = in->width * in->channels;
    for (int64_t y = 0; y < out->height; y++) {
        const uint8_t *from = in->pixels + w->first[y] * row;
        const int32_t *k = w->values + y * w->most;
        uint8_t *to = out->pixels + y * row;
        for (int64_t x = 0; x < row; x++) {
            int32_t sum = 1 << (PRECISION - 1);
            for (int64_t i = 0; i < w->count[y]; i++)
                sum += from[i * row + x] * k[i];
            to[x] = level(sum);
        }
    }
}

/* The input pixel under each output pixel's centre; Pillow adds up the steps, and so are its roundings. */
static void pick(const cb_image *in, const double part[4], cb_image *out)
{
    double step_x = (part[2] - part[0]) / (double)out->width, step_y = (part[3] - part[1]) / (double)out->height;
    double from_y = part[1] + step_y * 0.5;
    size_t pixel = (size_t)in->channels * (size_t)(in->bits / 8);
    for (int64_t y = 0; y < out->height; y++, from_y += step_y) {
        int64_t row = (int64_t)from_y < in->height ? (int64_t)from_y : in->height - 1;
        double from_x = part[0] + step_x * 0.5;
        for (int64_t x = 0; x < out->width; x++, from_x += step_x) {
            int64_t column = (int64_t)from_x < in->width ? (int64_t)from_x : in->width - 1;
            memcpy(out->pixels + (size_t)(y * out->width + x) * pixel, in->pixels + (size_t)(row * in->width + column) * pixel, pixel);
        }
    }
}

static bool resize_across(const cb_image *in, int64_t width, const filter *f, const double part[4], cb_image *out)
{
    weights w = {0};
    bool ok = cb_image_make(out, width, in->height, in->channels, 8) && weights_make(&w, f, in->width, part[0], part[2], width);
    if (ok)
        across(in, &w, out);
    weights_free(&w);
    return ok;
}

static bool resize_down(const cb_image *in, int64_t height, const filter *f, const double part[4], cb_image *out)
{
    weights w = {0};
    bool ok = cb_image_make(out, in->width, height, in->channels, 8) && weights_make(&w, f, in->height, part[1], part[3], height);
    if (ok)
        down(in, &w, out);
    weights_free(&w);
    return ok;
}

/* Columns first, where that leaves much less to do: as Pillow 13 does it, found by trying (older releases always began with rows:
 * a level or two apart). */
static bool is_down_first(const cb_image *image, int64_t width, int64_t height)
{
    return height < image->height && image->height - height > 2 * (image->width - width);
}

static bool check(const cb_image *image, int64_t width, int64_t height, cb_resample how, const double part[4])
{
    if ((image->bits != 8 && how != CB_RESAMPLE_NEAREST) || !image->pixels)
        return cb_fail(CB_ERR_ARGUMENT, "resize: found an image of %d bits, expected 8", image->bits) == CB_OK;
    if (width <= 0 || height <= 0 || width > INT32_MAX / height)
        return cb_fail(CB_ERR_ARGUMENT, "resize: found a size of %lld x %lld", (long long)width, (long long)height) == CB_OK;
    if ((int)how < 0 || how >= CB_RESAMPLES)
        return cb_fail(CB_ERR_ARGUMENT, "resize: found filter %d, expected 0 to %d", (int)how, CB_RESAMPLES - 1) == CB_OK;
    if (!(part[0] >= 0 && part[1] >= 0 && part[2] <= (double)image->width && part[3] <= (double)image->height && part[0] < part[2] &&
          part[1] < part[3]))
        return cb_fail(CB_ERR_ARGUMENT, "resize: found the part (%g, %g, %g, %g) of an image of %lld x %lld", part[0], part[1], part[2],
                       part[3], (long long)image->width, (long long)image->height) == CB_OK;
    return true;
}

bool cb_image_resize(const cb_image *image, int64_t width, int64_t height, cb_resample how, const double part[4], cb_image *out)
{
    const double whole[4] = {0, 0, (double)image->width, (double)image->height}, *p = part ? part : whole;
    if (!check(image, width, height, how, p))
        return false;
    if (how == CB_RESAMPLE_NEAREST) {
        if (!cb_image_make(out, width, height, image->channels, image->bits))
            return false;
        pick(image, p, out);
        return true;
    }
    bool by_width = width != image->width || p[0] != 0 || p[2] != (double)width;
    bool by_height = height != image->height || p[1] != 0 || p[3] != (double)height;
    if (!by_width && !by_height)
        return cb_image_copy(image, out);
    if (!by_width)
        return resize_down(image, height, &filters[how], p, out);
    if (!by_height)
        return resize_across(image, width, &filters[how], p, out);
    cb_image half = {0};
    bool ok = is_down_first(image, width, height)
                  ? resize_down(image, height, &filters[how], p, &half) && resize_across(&half, width, &filters[how], p, out)
                  : resize_across(image, width, &filters[how], p, &half) && resize_down(&half, height, &filters[how], p, out);
    cb_image_free(&half);
    return ok;
}
