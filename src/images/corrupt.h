/* corrupt.h: corruptions by family.  Each changes a field of three channels in place; `small` says that the constants are CIFAR's. */
#ifndef CB_IMAGES_CORRUPT_H
#define CB_IMAGES_CORRUPT_H

#include "images/field.h"

typedef struct cb_corruption_call {
    int severity; /* 0 to 4 */
    bool small;
    cb_rng *rng;
} cb_corruption_call;

typedef bool cb_corruption_function(const cb_corruption_call *call, cb_field *f);
cb_corruption_function cb_corrupt_gaussian_noise, cb_corrupt_shot_noise, cb_corrupt_impulse_noise, cb_corrupt_speckle_noise; /* noise.c */
cb_corruption_function cb_corrupt_defocus_blur, cb_corrupt_glass_blur, cb_corrupt_motion_blur, cb_corrupt_zoom_blur,
    cb_corrupt_gaussian_blur;                                                                                              /* blur.c */
cb_corruption_function cb_corrupt_snow, cb_corrupt_frost, cb_corrupt_fog, cb_corrupt_brightness;                           /* weather.c */
cb_corruption_function cb_corrupt_contrast, cb_corrupt_elastic, cb_corrupt_pixelate, cb_corrupt_jpeg, cb_corrupt_saturate; /* digital.c */

/* In 0 ... 1; hue is a part of the circle. */
void cb_field_rgb_to_hsv(double *rgb);
void cb_field_hsv_to_rgb(double *hsv);

#endif
