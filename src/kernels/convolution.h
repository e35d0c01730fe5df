/* convolution.h: convolutions of one to three dimensions and their two gradients (convolution.c). */
#ifndef CB_KERNELS_CONVOLUTION_H
#define CB_KERNELS_CONVOLUTION_H

#include "cambium/dtype.h"

/* y[n, p, o] = sum over c, k of x[n, stride p + dilation k - padding, c] w[o, c, k]: x (n, in, c) and y (n, out, o) channels-last, w
 * (o, c / groups, kernel) row-major.  out <= (in + 2 padding - dilation (kernel - 1) - 1) / stride + 1. */
typedef struct cbk_convolution {
    int64_t dims; /* 1 to 3 */
    int64_t n, c, o, groups;
    int64_t in[3], kernel[3], stride[3], padding[3], dilation[3], out[3];
} cbk_convolution;

typedef enum cbk_convolution_part {
    CBK_CONVOLUTION,        /* y from x and w, plus bias (o) or NULL */
    CBK_CONVOLUTION_DATA,   /* its adjoint for given w: x from y and w */
    CBK_CONVOLUTION_WEIGHT, /* its adjoint for given x: w from x and y */
} cbk_convolution_part;

/* A weight in the order that a part of a convolution reads it in, kept from one call to the next: for weights that stay as they are.  One for each
 * part that is not CBK_CONVOLUTION_WEIGHT; begin with NULL, give back with cb_free().  Several threads may share it. */
typedef struct cbk_ordered cbk_ordered;

/* Writes y, x or w.  f32 and f64, and bf16 where cbk_convolve_takes().  The bits of a weight's gradient depend on the number of threads.
 * kept: where that weight is kept, if bringing it into order is much of the work; or NULL. */
bool cbk_convolve(cbk_convolution_part part, cb_dtype dtype, void *x, void *w, const void *bias, void *y, const cbk_convolution *s,
                  cbk_ordered **kept);
bool cbk_convolve_takes(cb_dtype dtype);

#endif
