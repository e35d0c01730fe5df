/* svg.h: the shapes of a vector canvas (canvas.h). */
#ifndef CB_EVAL_SVG_H
#define CB_EVAL_SVG_H

#include "eval/canvas.h"

bool cb_svg_begin(cb_canvas *canvas);
bool cb_svg_end(cb_canvas *canvas);
void cb_svg_rectangle(cb_canvas *canvas, int left, int top, int right, int bottom, cb_color color);
void cb_svg_line(cb_canvas *canvas, double x0, double y0, double x1, double y1, double radius);
void cb_svg_paint(cb_canvas *canvas, cb_color color);
void cb_svg_text(cb_canvas *canvas, double x, double y, const char *text, const cb_text_style *style);

#endif
