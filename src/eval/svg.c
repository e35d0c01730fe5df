/* svg.c: the shapes of a picture as an SVG 1.1 text. */
#include "eval/svg.h"

bool cb_svg_begin(cb_canvas *canvas)
{
    return cb_string_printf(&canvas->svg,
                            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
                            "font-family=\"sans-serif\">\n",
                            canvas->width, canvas->height, canvas->width, canvas->height);
}

bool cb_svg_end(cb_canvas *canvas)
{
    return cb_string_puts(&canvas->svg, "</svg>\n") && cb_ok();
}

void cb_svg_rectangle(cb_canvas *canvas, int left, int top, int right, int bottom, cb_color color)
{
    cb_string_printf(&canvas->svg, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#%02x%02x%02x\"/>\n", left, top, right - left,
                     bottom - top, color.red, color.green, color.blue);
}

/* Lines of one radius are one path; its colour comes when they are painted. */
void cb_svg_line(cb_canvas *canvas, double x0, double y0, double x1, double y1, double radius)
{
    cb_string *lines = &canvas->lines;
    if (lines->length && radius != canvas->radius)
        cb_string_puts(lines, "\"/>\n");
    if (!lines->length || radius != canvas->radius)
        cb_string_printf(lines, "<path stroke-width=\"%.2f\" d=\"", 2 * radius);
    canvas->radius = radius;
    cb_string_printf(lines, "M%.2f %.2fL%.2f %.2f", x0, y0, x1, y1);
}

void cb_svg_paint(cb_canvas *canvas, cb_color color)
{
    if (!canvas->lines.length)
        return;
    cb_string_printf(&canvas->svg, "<g fill=\"none\" stroke-linecap=\"round\" stroke=\"#%02x%02x%02x\">%s\"/></g>\n", color.red,
                     color.green, color.blue, canvas->lines.data);
    cb_string_clear(&canvas->lines);
}

static void put_escaped(cb_string *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<' || *text == '&' || *text == '>')
            cb_string_puts(out, *text == '<' ? "&lt;" : *text == '&' ? "&amp;" : "&gt;");
        else if ((unsigned char)*text >= ' ')
            cb_string_append(out, text, 1);
    }
}

void cb_svg_text(cb_canvas *canvas, double x, double y, const char *text, const cb_text_style *style)
{
    /* The pixel font's capitals are six dots high, those of common fonts 0.72 of their size. */
    double size = 6 * style->size / 0.72;
    const char *anchor = style->align < 0.25 ? "start" : style->align > 0.75 ? "end" : "middle";
    cb_string_printf(&canvas->svg,
                     "<text font-size=\"%.1f\" text-anchor=\"%s\" fill=\"#%02x%02x%02x\" transform=\"translate(%.1f %.1f)%s\">", size,
                     anchor, style->color.red, style->color.green, style->color.blue, x, y, style->upwards ? " rotate(-90)" : "");
    put_escaped(&canvas->svg, text);
    cb_string_puts(&canvas->svg, "</text>\n");
}
