/* fft.h: discrete Fourier transforms (fft.c). */
#ifndef CB_KERNELS_FFT_H
#define CB_KERNELS_FFT_H

#include "cambium/dtype.h"

/* Each of `rows` rows of n complex numbers (pairs): y[k] = sum over j of x[j] exp(sign 2 pi i j k / n).  f32 or f64, computed in f64; any n.
 * False: no memory. */
bool cbk_fft(cb_dtype dtype, void *y, const void *x, int64_t rows, int64_t n, int sign);

#endif
