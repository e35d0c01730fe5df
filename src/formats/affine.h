/* affine.h: weights of 8 bits with one scale for all of a tensor, as torch's quantised modules have them: NAME.weight is I8, NAME.qweight f32 (2)
 * holds scale and zero point, and the number is scale (stored - zero point). */
#ifndef CB_FORMATS_AFFINE_H
#define CB_FORMATS_AFFINE_H

#include "cambium/formats.h"

/* Whether the entry is such a weight. */
bool cb_affine_of(const cb_weights *weights, const cb_weight_entry *entry);
/* Its numbers, f32. */
cb_tensor *cb_affine_tensor(const cb_weights *weights, const cb_weight_entry *entry);

#endif
