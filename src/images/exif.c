/* exif.c: which way up an image is: the tag Orientation of EXIF data (a TIFF directory: CIPA DC-008), and turning by it. */
#include <string.h>

#include "images/images.h"

enum { ENTRY = 12, ORIENTATION = 0x0112, TYPE_SHORT = 3 };

static uint32_t number(const uint8_t *at, int bytes, bool little)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint32_t)at[i] << (8 * (little ? i : bytes - 1 - i));
    return value;
}

int cb_exif_orientation(const uint8_t *data, size_t length)
{
    if (length < 8 || (memcmp(data, "II*\0", 4) != 0 && memcmp(data, "MM\0*", 4) != 0))
        return 1;
    bool little = data[0] == 'I';
    size_t at = number(data + 4, 4, little);
    if (at > length || length - at < 2)
        return 1;
    uint32_t entries = number(data + at, 2, little);
    at += 2;
    for (; entries && length - at >= ENTRY; entries--, at += ENTRY)
        if (number(data + at, 2, little) == ORIENTATION && number(data + at + 2, 2, little) == TYPE_SHORT) {
            uint32_t value = number(data + at + 8, 2, little);
            return value >= 1 && value <= 8 ? (int)value : 1;
        }
    return 1;
}

bool cb_image_orient(cb_image *image, int orientation)
{
    if (orientation <= 1 || orientation > 8)
        return true;
    int64_t w = image->width, h = image->height;
    bool turned = orientation >= 5;
    bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    cb_image out = {0};
    if (!cb_image_make(&out, turned ? h : w, turned ? w : h, image->channels, image->bits))
        return false;
    size_t pixel = (size_t)image->channels * (size_t)(image->bits / 8);
    uint8_t *to = out.pixels;
    for (int64_t y = 0; y < out.height; y++)
        for (int64_t x = 0; x < out.width; x++, to += pixel) {
            int64_t column = turned ? y : x, row = turned ? x : y;
            column = from_right ? w - 1 - column : column;
            row = from_below ? h - 1 - row : row;
            memcpy(to, image->pixels + (size_t)(row * w + column) * pixel, pixel);
        }
    cb_image_free(image);
    *image = out;
    return true;
}
