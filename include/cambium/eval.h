/* eval.h: floor 3: pictures of results: curves, and estimates with their intervals. */
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

/* A picture of lines with axes, ticks at round numbers, a legend: PNG, or SVG where the path ends with ".svg"; written atomically.  Long
 * series are thinned to the picture's width by minimum and maximum, so no spike is lost. */
CB_API bool cb_plot(const char *path, const cb_series *series, size_t count, const cb_plot_options *options);

/* A value and its interval, one line of a picture.  NaN: not drawn. */
typedef struct cb_estimate {
    const char *name;
    double value, low, high;
} cb_estimate;
/* A picture of estimates one below the other over one axis, y_label being that of the axis; as cb_plot() otherwise (log_y is not read). */
CB_API bool cb_plot_estimates(const char *path, const cb_estimate *estimates, size_t count, const cb_plot_options *options);

#ifdef __cplusplus
}
#endif
#endif
