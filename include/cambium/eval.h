/* eval.h: floor 3: what results are judged and shown by.  So far: pictures of curves. */
#ifndef CAMBIUM_EVAL_H
#define CAMBIUM_EVAL_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One curve of a plot. Points whose y is NaN or infinite are left out. */
typedef struct cb_series {
    const char *name;
    const double *x, *y;
    size_t count;
    bool markers; /* dots at the points besides the line */
} cb_series;

typedef struct cb_plot_options {
    const char *title, *x_label, *y_label;
    int width, height; /* pixels; 0: 960 x 540 */
    bool log_y;        /* only where every y is positive */
} cb_plot_options;

/* A PNG of lines with axes, ticks at round numbers, a legend; written atomically.  Long series are thinned to the
 * picture's width by minimum and maximum, so no spike is lost. */
CB_API bool cb_plot_png(const char *path, const cb_series *series, size_t count, const cb_plot_options *options);

#ifdef __cplusplus
}
#endif
#endif
