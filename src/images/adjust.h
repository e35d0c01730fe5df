/* adjust.h: what augmentation does to the levels and places of an image of 8 bits, in place, as Pillow's ImageEnhance and ImageOps (which is
 * what torchvision calls) do it. */
#ifndef CB_IMAGES_ADJUST_H
#define CB_IMAGES_ADJUST_H

#include "cambium/images.h"

/* Factors as torchvision's: 1 leaves the image as it is. */
void cb_adjust_brightness(cb_image *image, double factor); /* towards black */
bool cb_adjust_contrast(cb_image *image, double factor);   /* towards the mean grey level */
bool cb_adjust_saturation(cb_image *image, double factor); /* towards its grey levels */
bool cb_adjust_sharpness(cb_image *image, double factor);  /* towards the image smoothed over 3 x 3 */
void cb_adjust_hue(cb_image *image, double turn);          /* -0.5 to 0.5: a part of the circle of colours */

void cb_adjust_posterize(cb_image *image, int bits);          /* keeps the upper bits */
void cb_adjust_solarize(cb_image *image, double threshold);   /* turns levels from here on into their negatives */
void cb_adjust_autocontrast(cb_image *image);                 /* each channel from 0 to 255 */
void cb_adjust_equalize(cb_image *image);                     /* each channel's levels as even as they come */
void cb_adjust_flip(cb_image *image, bool across, bool down); /* left to right, top to bottom; of any number of bits */

/* The pixel (x, y) becomes the one nearest to (m0 x + m1 y + m2, m3 x + m4 y + m5), measured between pixel centres at halves; black where that
 * is outside. */
bool cb_adjust_affine(cb_image *image, const double m[6]);
bool cb_adjust_rotate(cb_image *image, double degrees); /* counterclockwise about the middle */

#endif
