/* canvas.h: a picture in memory: filled rectangles, smooth lines and text; of pixels, or of shapes for SVG. */
#ifndef CB_EVAL_CANVAS_H
#define CB_EVAL_CANVAS_H

#include "cambium/core.h"

typedef struct cb_color {
    uint8_t red, green, blue;
} cb_color;

/* Pixel (x, y) covers [x, x + 1) by [y, y + 1); y grows downwards. */
typedef struct cb_canvas {
    int width, height;
    uint8_t *pixels;              /* height x width x RGB */
    uint8_t *mask;                /* height x width: how much of each pixel the shapes since the last paint cover, 0 to 255 */
    int left, top, right, bottom; /* the part of the mask that is not all zero; empty when left >= right */
    int clip[4];                  /* left, top, right, bottom: lines stay inside */
    bool vector;                  /* no pixels: the text of an SVG */
    cb_string svg, lines;         /* lines: those since the last paint, without their colour */
    double radius;                /* of the last of them */
} cb_canvas;

bool cb_canvas_open(cb_canvas *canvas, int width, int height, cb_color background, bool vector);
void cb_canvas_close(cb_canvas *canvas);
bool cb_canvas_save(cb_canvas *canvas, const char *path); /* as PNG or SVG, atomically */

void cb_canvas_unclip(cb_canvas *canvas);
/* Fills whole pixels at once, without the mask. */
void cb_canvas_fill(cb_canvas *canvas, int left, int top, int right, int bottom, cb_color color);
/* Adds a line with round ends to the mask; both ends equal: a dot. */
void cb_canvas_line(cb_canvas *canvas, double x0, double y0, double x1, double y1, double radius);
/* Gives what the mask covers a color, and empties it. */
void cb_canvas_paint(cb_canvas *canvas, cb_color color);

/* How text is set: `size` is the distance of the font's dots, six of which make the height of a capital. */
typedef struct cb_text_style {
    double size, weight; /* weight: radius of the strokes in dots */
    double align;        /* 0: begins at x, 0.5: is centred there, 1: ends there */
    bool upwards;        /* turned to read from below to above */
    cb_color color;
} cb_text_style;
double cb_canvas_text_width(const char *text, double size);
/* The base line goes through y (upwards: through x, and y takes the part of x).  What is not ASCII becomes '?'. */
void cb_canvas_text(cb_canvas *canvas, double x, double y, const char *text, const cb_text_style *style);

/* Nine rows of five dots, the first row on top, the highest of five bits on the left; rows 7 and 8 lie below the base
 * line.  `character`: 32 to 126. */
const uint8_t *cb_font_glyph(int character);

#endif
