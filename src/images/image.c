/* image.c: images in memory: making, copying, cutting, and between grey and colours. */
#include <string.h>

#include "images/images.h"

bool cb_image_make(cb_image *image, int64_t width, int64_t height, int channels, int bits)
{
    static const int64_t most = INT64_C(1) << 31; /* a side; two of them, three channels and two bytes stay below 2^63 x 6 */
    cb_image_free(image);
    if (width <= 0 || height <= 0 || width >= most || height >= most || (channels != 1 && channels != 3) ||
        (bits != 8 && bits != 16 && bits != 32) || width > INT64_MAX / 8 / height)
        return cb_fail(CB_ERR_ARGUMENT, "image: found %lld x %lld, %d channels of %d bits, expected positive sizes, 1 or 3 of 8, 16 or 32",
                       (long long)width, (long long)height, channels, bits) == CB_OK;
    *image = (cb_image){.width = width, .height = height, .channels = channels, .bits = bits};
    image->pixels = cb_alloc(cb_image_bytes(image));
    if (!image->pixels)
        *image = (cb_image){0};
    return image->pixels;
}

size_t cb_image_bytes(const cb_image *image)
{
    return (size_t)image->width * (size_t)image->height * (size_t)image->channels * (size_t)(image->bits / 8);
}

bool cb_image_copy(const cb_image *image, cb_image *copy)
{
    if (!cb_image_make(copy, image->width, image->height, image->channels, image->bits))
        return false;
    memcpy(copy->pixels, image->pixels, cb_image_bytes(image));
    return true;
}

void cb_image_free(cb_image *image)
{
    cb_free(image->pixels);
    *image = (cb_image){0};
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

bool cb_image_crop(const cb_image *image, int64_t left, int64_t top, int64_t width, int64_t height, cb_image *out)
{
    if (!cb_image_make(out, width, height, image->channels, image->bits))
        return false;
    size_t pixel = (size_t)image->channels * (size_t)(image->bits / 8);
    /* what of the part is inside, in its own coordinates */
    int64_t x0 = clamp(-left, 0, width), x1 = clamp(image->width - left, x0, width);
    int64_t y0 = clamp(-top, 0, height), y1 = clamp(image->height - top, y0, height);
    if (x0 > 0 || y0 > 0 || x1 < width || y1 < height)
        memset(out->pixels, 0, cb_image_bytes(out));
    for (int64_t y = y0; y < y1 && x1 > x0; y++)
        memcpy(out->pixels + (size_t)(y * width + x0) * pixel, image->pixels + (size_t)((y + top) * image->width + x0 + left) * pixel,
               (size_t)(x1 - x0) * pixel);
    return true;
}

/* The weights of ITU-R 601-2 in 16 bits, as Pillow has them. */
static unsigned luma(unsigned r, unsigned g, unsigned b)
{
    return (unsigned)(((uint64_t)r * 19595 + (uint64_t)g * 38470 + (uint64_t)b * 7471 + 0x8000) >> 16);
}

static void convert_8(const uint8_t *from, int channels, size_t pixels, uint8_t *to)
{
    for (size_t i = 0; i < pixels; i++)
        if (channels == 1)
            to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = from[i];
        else
            to[i] = (uint8_t)luma(from[3 * i], from[3 * i + 1], from[3 * i + 2]);
}

static void convert_16(const uint16_t *from, int channels, size_t pixels, uint16_t *to)
{
    for (size_t i = 0; i < pixels; i++)
        if (channels == 1)
            to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = from[i];
        else
            to[i] = (uint16_t)luma(from[3 * i], from[3 * i + 1], from[3 * i + 2]);
}

bool cb_image_convert(cb_image *image, int channels)
{
    if (image->channels == channels)
        return true;
    if (image->bits == 32)
        return cb_fail(CB_ERR_ARGUMENT, "image: found a map of %d numbers a place, expected colours or grey levels", image->channels) ==
               CB_OK;
    cb_image out = {0};
    if (!cb_image_make(&out, image->width, image->height, channels, image->bits))
        return false;
    size_t pixels = (size_t)image->width * (size_t)image->height;
    if (image->bits == 8)
        convert_8(image->pixels, image->channels, pixels, out.pixels);
    else
        convert_16((const uint16_t *)(void *)image->pixels, image->channels, pixels, (uint16_t *)(void *)out.pixels);
    cb_image_free(image);
    *image = out;
    return true;
}
