/* channels.h: sums over, and scales of, the channels of images: what batch, group and instance norm are made of (channels.c). */
#ifndef CB_KERNELS_CHANNELS_H
#define CB_KERNELS_CHANNELS_H

#include "cambium/dtype.h"

/* An array (n, c, l), or (n, l, c) in memory when `last`.  Factors and sums are for each channel, (c), or for each channel of each sample,
 * (n, c), when `each`. */
typedef struct cbk_channels {
    cb_dtype dtype;
    int64_t n, c, l;
    bool last, each;
} cbk_channels;

/* first = sum of b, second = sum of b a, where a = x - shift and b = dy, or a when dy is NULL; in f64.  False: no memory. */
bool cbk_channel_sums(const cbk_channels *s, const void *x, const void *dy, const double *shift, double *first, double *second);
/* out = q x + r, or p dy + q x + r when dy is not NULL; out may be x or dy. */
bool cbk_channel_mix(const cbk_channels *s, void *out, const void *x, const void *dy, const double *p, const double *q, const double *r);

#endif
