/* strength.h: what kinds share that train a weight or a bias of the layer whole: its value at a strength between off and on. */
#ifndef CB_ADAPTERS_STRENGTH_H
#define CB_ADAPTERS_STRENGTH_H

#include "cambium/tensor.h"

/* base + strength (own - base), own being f32; base or own alone at the ends.  own NULL: base, which may be NULL too. */
static inline cb_tensor *cb_at_strength(cb_tensor *base, cb_tensor *own, double strength)
{
    if (!own || strength == 0)
        return base;
    return strength == 1 ? own : cb_lerp(cb_cast(base, CB_F32), own, strength);
}

/* strength (own - base): what merging adds.  own NULL: NULL, no error. */
static inline cb_tensor *cb_change_at_strength(cb_tensor *base, cb_tensor *own, double strength)
{
    return own ? cb_scale(cb_sub(own, base), strength) : NULL;
}

#endif
