/* distance.c: a number for each head and each bucket of distances, which is added to attention's scores: near distances have buckets of their
 * own, further ones share them by their logarithm.  T5: Raffel et al. 2019, arXiv:1910.10683; MPNet: Song et al. 2020, arXiv:2004.09297. */
#include <math.h>
#include <string.h>

#include "models/internal.h"

/* The bucket of a key that is `distance` tokens behind the query; in f32, so that it falls as it does in PyTorch. */
static int64_t bucket_of(const cb_distances *d, int64_t distance)
{
    int64_t buckets = d->both_ways ? d->buckets / 2 : d->buckets, first = d->both_ways && distance > 0 ? buckets : 0, exact = buckets / 2;
    int64_t size = distance < 0 ? -distance : d->both_ways ? distance : 0;
    if (size < exact)
        return first + size;
    float share = logf((float)size / (float)exact) / (float)log((double)d->furthest / (double)exact);
    int64_t far = exact + (int64_t)(share * (float)(buckets - exact));
    return first + (far < buckets ? far : buckets - 1);
}

cb_tensor *cb_distance_bias(const cb_distances *d, int64_t rows, int64_t tq, int64_t tk, const cb_context *ctx)
{
    rows = cb_layer_hosts(d->layer, ctx) ? rows : 1;
    cb_tensor *places = cb_empty(CB_I32, rows, tq * tk);
    for (int64_t i = 0; places && i < tq * tk; i++)
        ((int32_t *)places->data)[i] = (int32_t)bucket_of(d, i % tk - (i / tk + tk - tq));
    for (int64_t r = 1; places && r < rows; r++)
        memcpy((int32_t *)places->data + r * tq * tk, places->data, (size_t)(tq * tk) * sizeof(int32_t));
    cb_tensor *x = cb_embedding_forward(d->layer, places, CB_F32, ctx);
    return x ? cb_contiguous(cb_permute(cb_reshape(x, rows, tq, tk, -1), 0, 3, 1, 2)) : NULL;
}
