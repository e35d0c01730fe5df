/* policy.h: random operations one after another: RandAugment and TrivialAugment, with torchvision's strengths. */
#ifndef CB_IMAGES_POLICY_H
#define CB_IMAGES_POLICY_H

#include "cambium/images.h"

typedef enum cb_policy_operation {
    CB_POLICY_IDENTITY,
    CB_POLICY_SHEAR_X,
    CB_POLICY_SHEAR_Y,
    CB_POLICY_TRANSLATE_X,
    CB_POLICY_TRANSLATE_Y,
    CB_POLICY_ROTATE,
    CB_POLICY_BRIGHTNESS,
    CB_POLICY_COLOR,
    CB_POLICY_CONTRAST,
    CB_POLICY_SHARPNESS,
    CB_POLICY_POSTERIZE,
    CB_POLICY_SOLARIZE,
    CB_POLICY_AUTOCONTRAST,
    CB_POLICY_EQUALIZE,
    CB_POLICY_OPERATIONS
} cb_policy_operation;

/* One operation: magnitudes are slopes, pixels, degrees, factors less 1, bits, a threshold. */
bool cb_policy_apply(cb_policy_operation operation, double magnitude, cb_image *image);

bool cb_policy_randaugment(int64_t operations, int64_t magnitude, cb_rng *rng, cb_image *image);
bool cb_policy_trivialaugment(cb_rng *rng, cb_image *image);

#endif
