/* canvas.c: a picture in memory.
 *
 * Lines and text go into a mask first: each pixel keeps the largest share of it that any one stroke covers.  Then the mask
 * is painted in one color.  So strokes that meet do not darken each other's edges.
 * Text is stroked too: dots of the font that touch are joined by lines, which gives smooth letters at every size.
 * A vector canvas has none of this: each call writes its shape (svg.c). */
#include "eval/canvas.h"

#include <math.h>
#include <png.h>
#include <string.h>

#include "eval/svg.h"

bool cb_canvas_open(cb_canvas *canvas, int width, int height, cb_color background, bool vector)
{
    size_t pixels = (size_t)width * (size_t)height;
    *canvas = (cb_canvas){.width = width, .height = height, .vector = vector};
    if (!vector) {
        canvas->pixels = cb_alloc(3 * pixels);
        canvas->mask = cb_calloc(pixels, 1);
    }
    bool ok = vector ? cb_svg_begin(canvas) : canvas->pixels && canvas->mask;
    if (!ok) {
        cb_canvas_close(canvas);
        return false;
    }
    cb_canvas_unclip(canvas);
    cb_canvas_fill(canvas, 0, 0, width, height, background);
    return true;
}

void cb_canvas_close(cb_canvas *canvas)
{
    cb_free(canvas->pixels);
    cb_free(canvas->mask);
    cb_string_free(&canvas->svg);
    cb_string_free(&canvas->lines);
    *canvas = (cb_canvas){0};
}

bool cb_canvas_save(cb_canvas *canvas, const char *path)
{
    if (canvas->vector)
        return cb_svg_end(canvas) && cb_file_write(path, canvas->svg.data, canvas->svg.length);
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = (unsigned)canvas->width, .height = (unsigned)canvas->height, .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    uint8_t *bytes = cb_alloc(size);
    bool ok = bytes;
    if (ok && !png_image_write_to_memory(&image, bytes, &size, 0, canvas->pixels, 0, NULL))
        ok = cb_fail(CB_ERR_MEMORY, "%s: the picture cannot be made: %s", path, image.message) == CB_OK;
    ok = ok && cb_file_write(path, bytes, size);
    cb_free(bytes);
    return ok;
}

/* ---- shapes ---- */

void cb_canvas_unclip(cb_canvas *canvas)
{
    canvas->clip[0] = canvas->clip[1] = 0;
    canvas->clip[2] = canvas->width;
    canvas->clip[3] = canvas->height;
}

static int clamp(double value, int low, int high)
{
    return value < low ? low : value > high ? high : (int)value;
}

void cb_canvas_fill(cb_canvas *canvas, int left, int top, int right, int bottom, cb_color color)
{
    if (canvas->vector) {
        cb_svg_rectangle(canvas, left, top, right, bottom, color);
        return;
    }
    left = clamp(left, 0, canvas->width);
    right = clamp(right, 0, canvas->width);
    for (int y = clamp(top, 0, canvas->height); y < clamp(bottom, 0, canvas->height); y++)
        for (int x = left; x < right; x++)
            memcpy(canvas->pixels + 3 * ((size_t)y * (size_t)canvas->width + (size_t)x), &color, 3);
}

typedef struct segment {
    double x, y, dx, dy, squared; /* squared length */
    double radius;
} segment;

/* The share of the pixel's surroundings that the line covers, from the distance of its centre. */
static void cover(cb_canvas *canvas, const segment *s, int x, int y)
{
    double px = x + 0.5 - s->x, py = y + 0.5 - s->y;
    double t = s->squared > 0 ? (px * s->dx + py * s->dy) / s->squared : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    double share = s->radius + 0.5 - hypot(px - t * s->dx, py - t * s->dy);
    if (share <= 0)
        return;
    uint8_t level = (uint8_t)lround(255 * (share > 1 ? 1 : share)), *m = canvas->mask + (size_t)y * (size_t)canvas->width + (size_t)x;
    if (level > *m)
        *m = level;
}

static void widen(cb_canvas *c, int left, int top, int right, int bottom)
{
    bool empty = c->left >= c->right;
    c->left = empty || left < c->left ? left : c->left;
    c->top = empty || top < c->top ? top : c->top;
    c->right = empty || right > c->right ? right : c->right;
    c->bottom = empty || bottom > c->bottom ? bottom : c->bottom;
}

void cb_canvas_line(cb_canvas *canvas, double x0, double y0, double x1, double y1, double radius)
{
    if (canvas->vector) {
        cb_svg_line(canvas, x0, y0, x1, y1, radius);
        return;
    }
    segment s = {.x = x0, .y = y0, .dx = x1 - x0, .dy = y1 - y0, .radius = radius};
    s.squared = s.dx * s.dx + s.dy * s.dy;
    const int *clip = canvas->clip;
    double reach = radius + 1;
    int left = clamp(floor(fmin(x0, x1) - reach), clip[0], clip[2]), right = clamp(ceil(fmax(x0, x1) + reach), clip[0], clip[2]);
    int top = clamp(floor(fmin(y0, y1) - reach), clip[1], clip[3]), bottom = clamp(ceil(fmax(y0, y1) + reach), clip[1], clip[3]);
    if (left >= right || top >= bottom)
        return;
    widen(canvas, left, top, right, bottom);
    /* along the longer side, so that each step looks at the line's width only */
    bool steep = fabs(s.dy) > fabs(s.dx);
    double along = steep ? s.dy : s.dx, slope = along != 0 ? (steep ? s.dx : s.dy) / along : 0;
    double half = reach * sqrt(1 + slope * slope);
    for (int i = steep ? top : left; i < (steep ? bottom : right); i++) {
        double offset = i + 0.5 - (steep ? y0 : x0);
        offset = along > 0 ? fmin(fmax(offset, 0), along) : fmax(fmin(offset, 0), along);
        double middle = (steep ? x0 : y0) + slope * offset;
        int from = clamp(floor(middle - half), steep ? left : top, steep ? right : bottom);
        int to = clamp(ceil(middle + half), steep ? left : top, steep ? right : bottom);
        for (int k = from; k < to; k++)
            cover(canvas, &s, steep ? k : i, steep ? i : k);
    }
}

static uint8_t blend(uint8_t below, uint8_t above, unsigned level)
{
    return (uint8_t)((below * (255 - level) + above * level + 127) / 255);
}

void cb_canvas_paint(cb_canvas *canvas, cb_color color)
{
    if (canvas->vector) {
        cb_svg_paint(canvas, color);
        return;
    }
    for (int y = canvas->top; y < canvas->bottom; y++)
        for (int x = canvas->left; x < canvas->right; x++) {
            size_t at = (size_t)y * (size_t)canvas->width + (size_t)x;
            uint8_t *p = canvas->pixels + 3 * at;
            p[0] = blend(p[0], color.red, canvas->mask[at]);
            p[1] = blend(p[1], color.green, canvas->mask[at]);
            p[2] = blend(p[2], color.blue, canvas->mask[at]);
            canvas->mask[at] = 0;
        }
    canvas->left = canvas->right = canvas->top = canvas->bottom = 0;
}

/* ---- text ---- */

enum { COLUMNS = 5, ROWS = 9, BASE_LINE = 6 };

static bool dot(const uint8_t *glyph, int column, int row)
{
    return column >= 0 && column < COLUMNS && row >= 0 && row < ROWS && (glyph[row] >> (COLUMNS - 1 - column) & 1);
}

/* The first and last column with a dot; a blank counts as three columns. */
static void extent(const uint8_t *glyph, int *first, int *last)
{
    unsigned used = 0;
    for (int row = 0; row < ROWS; row++)
        used |= glyph[row];
    *first = 0;
    *last = 2;
    if (!used)
        return;
    while (!(used >> (COLUMNS - 1 - *first) & 1))
        ++*first;
    for (*last = COLUMNS - 1; !(used >> (COLUMNS - 1 - *last) & 1);)
        --*last;
}

/* The next character, '?' for one that is not ASCII; 0 at the end. */
static int next_character(const char **text)
{
    unsigned char c = (unsigned char)**text;
    if (!c)
        return 0;
    ++*text;
    if (c < 0x80)
        return c;
    while (((unsigned char)**text & 0xC0) == 0x80)
        ++*text;
    return '?';
}

/* Dots from one letter's first column to the next one's. */
static double advance(const uint8_t *glyph)
{
    int first, last;
    extent(glyph, &first, &last);
    return last - first + 2.1;
}

double cb_canvas_text_width(const char *text, double size)
{
    double width = 0;
    for (int c; (c = next_character(&text));)
        width += advance(cb_font_glyph(c));
    return width > 0 ? (width - 1.1) * size : 0;
}

typedef struct pen {
    cb_canvas *canvas;
    const cb_text_style *style;
    double x, y; /* where the text's base line begins */
} pen;

/* A stroke between two points in dots from the beginning of the base line, y upwards. */
static void stroke(const pen *p, double x0, double y0, double x1, double y1)
{
    double size = p->style->size, radius = size * p->style->weight;
    if (p->style->upwards)
        cb_canvas_line(p->canvas, p->x - size * y0, p->y - size * x0, p->x - size * y1, p->y - size * x1, radius);
    else
        cb_canvas_line(p->canvas, p->x + size * x0, p->y - size * y0, p->x + size * x1, p->y - size * y1, radius);
}

/* Joins each dot to those right of it, below it, and diagonally below where no other dot makes the way. */
static void draw_glyph(const pen *p, const uint8_t *glyph, double at)
{
    int first, last;
    extent(glyph, &first, &last);
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < COLUMNS; column++) {
            if (!dot(glyph, column, row))
                continue;
            double x = at + column - first, y = BASE_LINE - row;
            bool right = dot(glyph, column + 1, row), below = dot(glyph, column, row + 1), left = dot(glyph, column - 1, row);
            stroke(p, x, y, x, y);
            if (right)
                stroke(p, x, y, x + 1, y);
            if (below)
                stroke(p, x, y, x, y - 1);
            if (!right && !below && dot(glyph, column + 1, row + 1))
                stroke(p, x, y, x + 1, y - 1);
            if (!left && !below && dot(glyph, column - 1, row + 1))
                stroke(p, x, y, x - 1, y - 1);
        }
}

void cb_canvas_text(cb_canvas *canvas, double x, double y, const char *text, const cb_text_style *style)
{
    if (canvas->vector) {
        cb_svg_text(canvas, x, y, text, style);
        return;
    }
    double shift = style->align * cb_canvas_text_width(text, style->size), at = 0.5;
    pen p = {canvas, style, style->upwards ? x : x - shift, style->upwards ? y + shift : y};
    for (int c; (c = next_character(&text)); at += advance(cb_font_glyph(c)))
        draw_glyph(&p, cb_font_glyph(c), at);
    cb_canvas_paint(canvas, style->color);
}
