/* place.c: mirroring, shearing, shifting and turning an image of 8 bits, each pixel from the nearest one, as Pillow does it. */
#include <math.h>
#include <string.h>

#include "images/adjust.h"

static void swap(uint8_t *a, uint8_t *b, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        uint8_t kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

void cb_adjust_flip(cb_image *image, bool across, bool down)
{
    int bytes = image->channels * (image->bits / 8);
    int64_t w = image->width, h = image->height, row = w * bytes;
    for (int64_t y = 0; across && y < h; y++)
        for (int64_t x = 0; x < w / 2; x++)
            swap(image->pixels + y * row + x * bytes, image->pixels + y * row + (w - 1 - x) * bytes, bytes);
    for (int64_t y = 0; down && y < h / 2; y++)
        for (int64_t x = 0; x < row; x++)
            swap(image->pixels + y * row + x, image->pixels + (h - 1 - y) * row + x, 1);
}

/* In 16 bits behind the point. */
static int64_t fixed(double value)
{
    return (int64_t)floor(value * 65536 + 0.5);
}

bool cb_adjust_affine(cb_image *image, const double m[6])
{
    cb_image out = {0};
    if (!cb_image_make(&out, image->width, image->height, image->channels, 8))
        return false;
    int64_t row_x = fixed(m[2] + m[0] * 0.5 + m[1] * 0.5), row_y = fixed(m[5] + m[3] * 0.5 + m[4] * 0.5);
    uint8_t *to = out.pixels;
    for (int64_t y = 0; y < out.height; y++, row_x += fixed(m[1]), row_y += fixed(m[4])) {
        int64_t at_x = row_x, at_y = row_y;
        for (int64_t x = 0; x < out.width; x++, at_x += fixed(m[0]), at_y += fixed(m[3]), to += out.channels) {
            int64_t column = at_x >> 16, row = at_y >> 16;
            if (column >= 0 && column < image->width && row >= 0 && row < image->height)
                memcpy(to, image->pixels + (row * image->width + column) * image->channels, (size_t)image->channels);
            else
                memset(to, 0, (size_t)image->channels);
        }
    }
    cb_image_free(image);
    *image = out;
    return true;
}

bool cb_adjust_rotate(cb_image *image, double degrees)
{
    double angle = -degrees * M_PI / 180, c = cos(angle), s = sin(angle), x = (double)image->width / 2, y = (double)image->height / 2;
    return cb_adjust_affine(image, (double[6]){c, s, x - c * x - s * y, -s, c, y + s * x - c * y});
}
