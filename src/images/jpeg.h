/* jpeg.h: JPEG in memory, also the other way: the corruption of that name wants both. */
#ifndef CB_IMAGES_JPEG_H
#define CB_IMAGES_JPEG_H

#include "cambium/images.h"

/* Appends the image (8 bits) as a baseline JPEG of `quality` 1 to 100 as Pillow writes it: colours of half the resolution. */
bool cb_jpeg_encode(const cb_image *image, int quality, cb_string *out);

#endif
