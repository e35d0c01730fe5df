/* field.h: images of real numbers, on which corruptions are computed: (height, width, channels), white is 1. */
#ifndef CB_IMAGES_FIELD_H
#define CB_IMAGES_FIELD_H

#include "cambium/images.h"

typedef struct cb_field {
    int64_t width, height;
    int channels;
    double *values; /* owned */
} cb_field;

/* What lies beyond an edge. */
typedef enum cb_edge {
    CB_EDGE_NEAREST, /* aaa|abcd|ddd */
    CB_EDGE_REFLECT, /* cba|abcd|dcb: scipy's reflect */
    CB_EDGE_MIRROR   /* dcb|abcd|cba: OpenCV's BORDER_REFLECT_101 */
} cb_edge;

bool cb_field_make(cb_field *f, int64_t width, int64_t height, int channels); /* zeroes */
void cb_field_free(cb_field *f);
bool cb_field_from(cb_field *f, const cb_image *image); /* levels / 255 */
bool cb_field_to(const cb_field *f, cb_image *image);   /* cut to 0 ... 1, times 255, rounded down as numpy's uint8() */
int64_t cb_field_edge(int64_t at, int64_t size, cb_edge edge);
static inline double cb_field_unit(double value)
{
    return value < 0 ? 0 : value > 1 ? 1 : value;
}

/* Gaussian blur of each channel in place; weights end at `truncate` standard deviations.  0: nothing. */
bool cb_field_gaussian(cb_field *f, double sigma, double truncate, cb_edge edge);
/* Correlation with a kernel of an odd side (rows from the top). */
bool cb_field_filter(cb_field *f, const double *kernel, int side, cb_edge edge);
/* Mean along a line from each pixel on, `degrees` clockwise from the x axis, with weights of half a Gaussian, as ImageMagick's motion blur; values
 * are rounded to 8 bits. */
bool cb_field_motion(cb_field *f, double radius, double sigma, double degrees);
/* The middle, enlarged by a factor of 1 or more to the same size by linear interpolation from corner to corner. */
bool cb_field_zoom(const cb_field *f, double factor, cb_field *out);
/* The value between four pixels at (x, y). */
double cb_field_at(const cb_field *f, double x, double y, int channel, cb_edge edge);

#endif
