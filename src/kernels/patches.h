/* patches.h: images to patches and back (patches.c). */
#ifndef CB_KERNELS_PATCHES_H
#define CB_KERNELS_PATCHES_H

#include "cambium/dtype.h"

typedef struct cbk_patches {
    int64_t n, c, h, w;
    int64_t kernel[2], stride[2], padding[2], dilation[2], places[2]; /* (vertical, horizontal) */
} cbk_patches;
/* columns (n, c * kernel, places) = the patches of x (n, c, h, w), 0 outside of it.  Dtypes of 2, 4 and 8 bytes. */
void cbk_im2col(void *columns, const void *x, cb_dtype dtype, const cbk_patches *p);
/* x (n, c, h, w) = the sum of what columns have for each element, in a fixed order: the adjoint of im2col.  f32 and f64. */
void cbk_col2im(void *x, const void *columns, cb_dtype dtype, const cbk_patches *p);

#endif
