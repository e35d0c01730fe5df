/* resample.h: weighted sums along one dimension, and maxima of windows: pooling and interpolation (resample.c). */
#ifndef CB_KERNELS_RESAMPLE_H
#define CB_KERNELS_RESAMPLE_H

#include "cambium/dtype.h"

/* A sparse matrix (out, in): row j has the elements start[j] .. start[j + 1] - 1. */
typedef struct cbk_taps {
    int64_t out, in;
    int64_t *start, *index;
    double *weight;
    size_t starts, indices, weights; /* capacities */
} cbk_taps;
bool cbk_taps_begin(cbk_taps *t, int64_t out, int64_t in);
/* Adds an element to the last row that was not ended. */
bool cbk_taps_add(cbk_taps *t, int64_t row, int64_t index, double weight);
bool cbk_taps_transpose(const cbk_taps *t, cbk_taps *to);
void cbk_taps_free(cbk_taps *t);

/* y (outer, out, inner) = the matrix times x (outer, in, inner); f32 or f64. */
void cbk_resample(cb_dtype dtype, void *y, const void *x, int64_t outer, int64_t inner, const cbk_taps *t);

/* Windows over images of channels-last memory; sizes as in cbk_convolution. */
typedef struct cbk_windows {
    int64_t dims, n, c;
    int64_t in[3], kernel[3], stride[3], padding[3], dilation[3], out[3];
} cbk_windows;
/* y (n, out, c) = the largest element of each window of x (n, in, c), a NaN where there is one, the first among equals; index: its place in
 * the image, row by row. */
void cbk_max_pool(cb_dtype dtype, void *y, int32_t *index, const void *x, const cbk_windows *s);
/* dx (n, in, c) = dy (n, out, c) added up where the maxima were. */
void cbk_max_pool_backward(cb_dtype dtype, void *dx, const void *dy, const int32_t *index, const cbk_windows *s);
/* The places as numbers of elements of their windows, of a byte each: what is kept until the backward pass.  false: windows are too large for it. */
bool cbk_max_pool_packs(const cbk_windows *s);
void cbk_max_pool_pack(uint8_t *element, const int32_t *index, const cbk_windows *s);
void cbk_max_pool_unpack(int32_t *index, const uint8_t *element, const cbk_windows *s);
/* f32 and f64; halves where the windows are not huge.  A half's gradients are added up in f32. */
bool cbk_max_pool_takes(cb_dtype dtype, const cbk_windows *s);

#endif
