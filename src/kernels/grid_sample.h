/* grid_sample.h: images read at given points (grid_sample.c). */
#ifndef CB_KERNELS_GRID_SAMPLE_H
#define CB_KERNELS_GRID_SAMPLE_H

#include "cambium/dtype.h"

/* x (n, h, w, c) channels-last; grid (n, places, 2) of (x, y) from -1 to 1. */
typedef struct cbk_grid_sample {
    int64_t n, c, h, w, places;
    bool nearest, border, reflection, align_corners; /* neither border nor reflection: zeros outside */
} cbk_grid_sample;
/* y (n, places, c); f32 or f64, as is the grid. */
void cbk_grid_sample_forward(cb_dtype dtype, void *y, const void *x, const void *grid, const cbk_grid_sample *s);
/* dx and dgrid from dy; either may be NULL. */
void cbk_grid_sample_backward(cb_dtype dtype, void *dx, void *dgrid, const void *dy, const void *x, const void *grid,
                              const cbk_grid_sample *s);

#endif
