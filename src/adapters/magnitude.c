/* magnitude.c: see magnitude.h. */
#include "adapters/magnitude.h"

#include <math.h>
#include <string.h>

#include "adapters/low_rank.h"

int cb_magnitude_parameters(cb_magnitude *magnitude, const cb_layer *layer, int64_t rank, cb_adapter_parameter *list)
{
    int64_t in = layer->in_features, out = layer->out_features;
    int n = 0;
    list[n++] = (cb_adapter_parameter){"lora_magnitude_vector", &magnitude->vector, 1, {out}, CB_ROLE_TRAINED};
    list[n++] = (cb_adapter_parameter){"squares", &magnitude->squares, 1, {out}, CB_ROLE_PRIVATE};
    list[n++] = (cb_adapter_parameter){"norms", &magnitude->norms, 1, {out}, CB_ROLE_PRIVATE};
    list[n++] = (cb_adapter_parameter){"norms.A", &magnitude->a, 2, {rank, in}, CB_ROLE_PRIVATE};
    list[n++] = (cb_adapter_parameter){"norms.B", &magnitude->b, 2, {out, rank}, CB_ROLE_PRIVATE};
    return n;
}

static bool same_values(const cb_tensor *a, const cb_tensor *b)
{
    return memcmp(a->data, b->data, (size_t)a->count * sizeof(float)) == 0;
}

/* The norms for these factors.  What W + s B A cancels exactly to nothing gets a length that can be divided by. */
static bool update_norms(cb_magnitude *magnitude, const cb_layer *layer, cb_tensor *a, cb_tensor *b, double scale)
{
    a = cb_contiguous(a);
    b = cb_contiguous(b);
    if (!a || !b)
        return false;
    if (magnitude->known && same_values(a, magnitude->a) && same_values(b, magnitude->b))
        return true;
    cb_tensor *cross = cb_transpose(cb_through_weight(layer, a), 0, 1), *gram = cb_matmul(a, cb_transpose(a, 0, 1));
    cb_tensor *mixed = cb_add(cb_scale(cross, 2 * scale), cb_scale(cb_matmul(b, gram), scale * scale));
    cb_tensor *squares = cb_add(magnitude->squares, cb_sum(cb_mul(mixed, b), 1, false));
    cb_tensor *norms = cb_sqrt(cb_clamp(squares, 1e-30, INFINITY));
    magnitude->known = norms && cb_copy_into(magnitude->norms, norms) && cb_copy_into(magnitude->a, a) && cb_copy_into(magnitude->b, b);
    return magnitude->known;
}

bool cb_magnitude_ready(cb_magnitude *magnitude, const cb_layer *layer, cb_tensor *a, cb_tensor *b, double scale, bool fresh)
{
    cb_tensor *squares = cb_weight_squares(layer, CB_SQUARES_OF_OUTPUTS);
    if (!squares || !cb_copy_into(magnitude->squares, squares))
        return false;
    return !fresh || (update_norms(magnitude, layer, a, b, scale) && cb_copy_into(magnitude->vector, magnitude->norms));
}

cb_tensor *cb_magnitude_gain(cb_magnitude *magnitude, const cb_layer *layer, cb_tensor *a, cb_tensor *b, double scale)
{
    bool ok = false;
    cb_no_grad
    {
        cb_scope *scope = cb_scope_open();
        ok = scope && update_norms(magnitude, layer, a, b, scale);
        if (scope)
            cb_scope_close(scope);
    }
    return ok ? cb_div(magnitude->vector, magnitude->norms) : NULL;
}
