/* policy.c: RandAugment (Cubuk et al. 2020, arXiv:1909.13719) and TrivialAugment (Mueller and Hutter 2021, arXiv:2103.10158, its wide space). */
#include "images/policy.h"

#include <math.h>

#include "images/adjust.h"

enum { STRONGEST = 30 }; /* magnitudes are 0 to 30 */

bool cb_policy_apply(cb_policy_operation operation, double m, cb_image *image)
{
    switch (operation) {
    case CB_POLICY_SHEAR_X:
        return cb_adjust_affine(image, (double[6]){1, m, 0, 0, 1, 0});
    case CB_POLICY_SHEAR_Y:
        return cb_adjust_affine(image, (double[6]){1, 0, 0, m, 1, 0});
    case CB_POLICY_TRANSLATE_X:
        return cb_adjust_affine(image, (double[6]){1, 0, -trunc(m), 0, 1, 0});
    case CB_POLICY_TRANSLATE_Y:
        return cb_adjust_affine(image, (double[6]){1, 0, 0, 0, 1, -trunc(m)});
    case CB_POLICY_ROTATE:
        return cb_adjust_rotate(image, m);
    case CB_POLICY_BRIGHTNESS:
        cb_adjust_brightness(image, 1 + m);
        return true;
    case CB_POLICY_COLOR:
        return cb_adjust_saturation(image, 1 + m);
    case CB_POLICY_CONTRAST:
        return cb_adjust_contrast(image, 1 + m);
    case CB_POLICY_SHARPNESS:
        return cb_adjust_sharpness(image, 1 + m);
    case CB_POLICY_POSTERIZE:
        cb_adjust_posterize(image, (int)m);
        return true;
    case CB_POLICY_SOLARIZE:
        cb_adjust_solarize(image, m);
        return true;
    case CB_POLICY_AUTOCONTRAST:
        cb_adjust_autocontrast(image);
        return true;
    case CB_POLICY_EQUALIZE:
        cb_adjust_equalize(image);
        return true;
    case CB_POLICY_IDENTITY:
    case CB_POLICY_OPERATIONS:
        break;
    }
    return true;
}

/* How far the two go at their strongest. */
typedef struct strengths {
    double shear, rotate, factor, bits;
    double translate_x, translate_y; /* pixels */
} strengths;

static double magnitude_of(cb_policy_operation operation, const strengths *s, int64_t magnitude, cb_rng *rng)
{
    double part = (double)magnitude / STRONGEST, value = 0;
    switch (operation) {
    case CB_POLICY_POSTERIZE:
        return 8 - nearbyint(s->bits * part);
    case CB_POLICY_SOLARIZE:
        return 255 * (1 - part);
    case CB_POLICY_SHEAR_X:
    case CB_POLICY_SHEAR_Y:
        value = s->shear * part;
        break;
    case CB_POLICY_TRANSLATE_X:
        value = s->translate_x * part;
        break;
    case CB_POLICY_TRANSLATE_Y:
        value = s->translate_y * part;
        break;
    case CB_POLICY_ROTATE:
        value = s->rotate * part;
        break;
    case CB_POLICY_BRIGHTNESS:
    case CB_POLICY_COLOR:
    case CB_POLICY_CONTRAST:
    case CB_POLICY_SHARPNESS:
        value = s->factor * part;
        break;
    default:
        return 0;
    }
    return cb_rng_u32(rng) & 1 ? value : -value;
}

static bool apply_random(const strengths *s, int64_t magnitude, cb_rng *rng, cb_image *image)
{
    cb_policy_operation operation = (cb_policy_operation)cb_rng_below(rng, CB_POLICY_OPERATIONS);
    return cb_policy_apply(operation, magnitude_of(operation, s, magnitude, rng), image);
}

bool cb_policy_randaugment(int64_t operations, int64_t magnitude, cb_rng *rng, cb_image *image)
{
    const strengths s = {.shear = 0.3,
                         .rotate = 30,
                         .factor = 0.9,
                         .bits = 4,
                         .translate_x = 150.0 / 331 * (double)image->width,
                         .translate_y = 150.0 / 331 * (double)image->height};
    bool ok = true;
    for (int64_t i = 0; ok && i < operations; i++)
        ok = apply_random(&s, magnitude, rng, image);
    return ok;
}

bool cb_policy_trivialaugment(cb_rng *rng, cb_image *image)
{
    static const strengths s = {.shear = 0.99, .rotate = 135, .factor = 0.99, .bits = 6, .translate_x = 32, .translate_y = 32};
    return apply_random(&s, (int64_t)cb_rng_below(rng, STRONGEST + 1), rng, image);
}
