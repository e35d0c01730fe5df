/* affine.c: weights of 8 bits with one scale for all of a tensor. */
#include "formats/affine.h"

#include <math.h>
#include <string.h>

static const cb_weight_entry *scale_of(const cb_weights *weights, const cb_weight_entry *entry)
{
    static const char end[] = "weight";
    if (entry->dtype != CB_DTYPE_COUNT || !entry->type_name || strcmp(entry->type_name, "I8") != 0 || !cb_ends_with(entry->name, end))
        return NULL;
    char *name = cb_format("%.*sq%s", (int)(strlen(entry->name) - strlen(end)), entry->name, end);
    const cb_weight_entry *found = name ? cb_weights_find(weights, name) : NULL;
    cb_free(name);
    return found;
}

bool cb_affine_of(const cb_weights *weights, const cb_weight_entry *entry)
{
    return scale_of(weights, entry);
}

cb_tensor *cb_affine_tensor(const cb_weights *weights, const cb_weight_entry *entry)
{
    const cb_weight_entry *scale = scale_of(weights, entry);
    const int64_t two = 2;
    float by[2];
    if (!scale || scale->dtype != CB_F32 || !cb_weight_entry_fits(scale, 1, &two)) {
        cb_fail(CB_ERR_FORMAT, "tensor %s: found no f32 (2) of scale and zero point beside it", entry->name);
        return NULL;
    }
    memcpy(by, scale->data, sizeof by);
    if (!isfinite(by[0]) || !isfinite(by[1])) {
        cb_fail(CB_ERR_FORMAT, "tensor %s: found scale %g and zero point %g, expected finite numbers", scale->name, (double)by[0],
                (double)by[1]);
        return NULL;
    }
    cb_tensor *t = cb_empty_nd(CB_F32, entry->ndim, entry->shape);
    for (int64_t i = 0; t && i < t->count; i++)
        ((float *)t->data)[i] = by[0] * ((float)((const int8_t *)entry->data)[i] - by[1]);
    return t;
}
