/* images.h: what the readers of image files share.  A reader finds the size of an image, asks cb_image_begin() for its memory and fills
 * that with grey levels or colours; the rest (mode, orientation) is done for all of them in decode.c. */
#ifndef CB_IMAGES_IMAGES_H
#define CB_IMAGES_IMAGES_H

#include "cambium/images.h"

typedef struct image_source {
    const char *name; /* for messages */
    const uint8_t *bytes;
    size_t length;
    cb_image_options options; /* max_pixels is set */
    int orientation;          /* 1 to 8, as EXIF has it; readers that find one to be followed set it */
} image_source;

bool cb_png_decode(image_source *s, cb_image *image);
bool cb_jpeg_decode(image_source *s, cb_image *image);
bool cb_tiff_decode(image_source *s, cb_image *image);
int64_t cb_tiff_pages(image_source *s); /* -1 on failure */
bool cb_bmp_decode(image_source *s, cb_image *image);
bool cb_pnm_decode(image_source *s, cb_image *image);

/* Checks sizes against the most that is allowed. */
bool cb_image_fits(const image_source *s, uint64_t width, uint64_t height);
/* The same, and makes the image. */
bool cb_image_begin(const image_source *s, cb_image *image, uint64_t width, uint64_t height, int channels, int bits);
/* Records "NAME: KIND: message" as CB_ERR_FORMAT; gives false. */
CB_COLD bool cb_image_damaged(const image_source *s, const char *kind, const char *format, ...) CB_PRINTF(3, 4);
/* The same as CB_ERR_UNSUPPORTED. */
CB_COLD bool cb_image_unsupported(const image_source *s, const char *kind, const char *format, ...) CB_PRINTF(3, 4);

/* exif.c: the orientation in EXIF data (from its byte order mark on), 1 where there is none. */
int cb_exif_orientation(const uint8_t *data, size_t length);
/* Turns and mirrors an image that lies as EXIF's number says so that it is upright. */
bool cb_image_orient(cb_image *image, int orientation);

/* Pillow's product of two levels as parts of 255, rounded. */
static inline uint8_t cb_level_product(unsigned a, unsigned b)
{
    unsigned t = a * b + 128;
    return (uint8_t)((t + (t >> 8)) >> 8);
}

/* Pillow's CMYK to RGB: each colour is what neither its ink nor black covers. */
static inline void cb_cmyk_to_rgb(const uint8_t cmyk[4], uint8_t *rgb)
{
    unsigned light = 255u - cmyk[3];
    for (int c = 0; c < 3; c++) {
        unsigned ink = cb_level_product(cmyk[c], light);
        rgb[c] = (uint8_t)(light > ink ? light - ink : 0);
    }
}

#endif
