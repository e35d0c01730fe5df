/* plot.c: pictures of curves: axes with ticks at round numbers, a grid, lines, a legend. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cambium/eval.h"
#include "eval/canvas.h"

enum { WIDTH = 960, HEIGHT = 540, LEAST_SIDE = 160, MOST_SIDE = 16384, MOST_TICKS = 64, LABEL = 32 };

/* Values beyond this are left out, as infinity is: differences of what remains are finite. */
#define LARGEST 1e300

static const cb_color background = {255, 255, 255}, grid = {230, 233, 237}, faint = {243, 245, 247}, frame = {120, 128, 138},
                      ink = {38, 43, 50}, soft_ink = {84, 92, 102};
/* Told apart in print and by colour-blind readers. */
static const cb_color palette[] = {{31, 108, 184}, {224, 110, 10}, {20, 148, 96},  {190, 60, 140}, {130, 95, 50},
                                   {95, 100, 110}, {205, 160, 0},  {90, 180, 220}, {170, 25, 40},  {105, 70, 180}};
enum { COLORS = sizeof palette / sizeof *palette };

typedef struct tick {
    double value;
    char label[LABEL]; /* empty: a faint line only */
} tick;

typedef struct axis {
    double low, high;
    bool logarithmic, whole; /* whole: every value is a whole number */
    tick ticks[MOST_TICKS];
    int count;
} axis;

/* ---- ranges ---- */

static bool is_drawn(const cb_series *s, size_t i)
{
    return fabs(s->y[i]) <= LARGEST && fabs(s->x[i]) <= LARGEST; /* false for NaN */
}

static void include(axis *a, double value, bool first)
{
    a->low = first || value < a->low ? value : a->low;
    a->high = first || value > a->high ? value : a->high;
    a->whole = (first || a->whole) && value == floor(value);
}

/* Makes room around a range of (nearly) one value, so that it can be divided. */
static void open_range(axis *a)
{
    double size = fmax(fabs(a->low), fabs(a->high));
    if (a->high - a->low > 1e-9 * size)
        return;
    double room = size > 0 ? 0.05 * size : 0.5;
    if (a->whole && room < 1)
        room = 1;
    a->low -= room;
    a->high += room;
}

static void pad(axis *a, double share)
{
    if (a->logarithmic) {
        double factor = pow(a->high / a->low, share);
        a->low /= factor;
        a->high *= factor;
        return;
    }
    double room = share * (a->high - a->low);
    a->low -= room;
    a->high += room;
}

/* Ranges of everything drawn; 0 to 1 when that is nothing. */
static bool measure(const cb_series *series, size_t count, bool log_y, axis *x, axis *y)
{
    bool first = true;
    *x = *y = (axis){.high = 1};
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < series[k].count; i++)
            if (is_drawn(&series[k], i)) {
                include(x, series[k].x[i], first);
                include(y, series[k].y[i], first);
                first = false;
            }
    y->logarithmic = log_y && !first && y->low > 0;
    y->whole = false;
    open_range(x);
    if (y->logarithmic && y->high < 1.01 * y->low) {
        y->low /= 2;
        y->high *= 2;
    }
    if (!y->logarithmic)
        open_range(y);
    pad(y, 0.06);
    return !first;
}

/* Where on the axis a value lies: 0 at its beginning, 1 at its end. */
static double place(const axis *a, double value)
{
    if (a->logarithmic)
        return log(value / a->low) / log(a->high / a->low);
    return (value - a->low) / (a->high - a->low);
}

/* ---- ticks ---- */

/* 1, 2 or 5 times a power of ten, the smallest that cuts the range into at most `most` parts. */
static double round_step(double range, double most)
{
    double raw = range / most, power = pow(10, floor(log10(raw))), digit = raw / power;
    return power * (digit <= 1.0001 ? 1 : digit <= 2.0001 ? 2 : digit <= 5.0001 ? 5 : 10);
}

/* `step` is the distance of neighbouring ticks and says how many digits tell them apart. */
static void write_label(char label[LABEL], double value, double step)
{
    if (fabs(value) < 1e-9 * step)
        value = 0;
    if (value == 0) {
        snprintf(label, LABEL, "0");
    } else if (fabs(value) >= 1e12 || step < 0.999e-5) {
        snprintf(label, LABEL, "%.6g", value);
    } else if (step >= 999.9) {
        bool millions = step >= 999999;
        snprintf(label, LABEL, "%.10g%s", value / (millions ? 1e6 : 1e3), millions ? "M" : "k");
    } else {
        int decimals = step >= 0.999 ? 0 : (int)ceil(-log10(step) - 1e-6);
        snprintf(label, LABEL, "%.*f", decimals, value);
    }
}

static tick *add_tick(axis *a, double value)
{
    if (a->count == MOST_TICKS || value < a->low || value > a->high)
        return NULL;
    a->ticks[a->count] = (tick){.value = value};
    return &a->ticks[a->count++];
}

static void even_ticks(axis *a, double most)
{
    double step = round_step(a->high - a->low, most);
    if (a->whole && step < 1)
        step = 1;
    double first = ceil(a->low / step - 1e-9), slack = 1e-9 * (a->high - a->low);
    for (int i = 0; i < MOST_TICKS; i++) {
        double value = (first + i) * step;
        if (value > a->high + slack)
            break;
        tick *t = add_tick(a, fmin(fmax(value, a->low), a->high));
        if (t)
            write_label(t->label, value, step);
    }
}

/* Powers of ten with labels; between them 2 and 5 with, the others without, while there are few. */
static void logarithmic_ticks(axis *a)
{
    double decades = log10(a->high / a->low);
    int stride = (int)ceil(decades / 8);
    for (int power = (int)floor(log10(a->low)); power <= (int)ceil(log10(a->high)); power++)
        for (int digit = 1; digit < 10; digit++) {
            if (digit > 1 && decades > 5)
                break;
            double value = digit * pow(10, power);
            tick *t = add_tick(a, value);
            bool labelled = (digit == 1 && power % stride == 0) || (decades < 2.2 && (digit == 2 || digit == 5));
            if (t && labelled && power > -4 && power < 5)
                snprintf(t->label, LABEL, "%.*f", power < 0 ? -power : 0, value);
            else if (t && labelled)
                snprintf(t->label, LABEL, "%de%d", digit, power);
        }
}

static void make_ticks(axis *a, double most)
{
    a->count = 0;
    if (a->logarithmic && a->high / a->low > 6)
        logarithmic_ticks(a);
    else
        even_ticks(a, most);
}

/* ---- the frame ---- */

typedef struct plot {
    const cb_series *series;
    size_t count;
    const cb_plot_options *options;
    cb_canvas canvas;
    double unit; /* pixels that one is in a picture of 960 x 540 */
    axis x, y;
    int left, top, right, bottom; /* of the area with the curves */
    double legend_y;              /* base line of the legend's first row */
    int legend_rows;
} plot;

static cb_text_style style(const plot *p, double size, cb_color color, double align)
{
    return (cb_text_style){.size = size * p->unit, .weight = 0.42, .align = align, .color = color};
}

enum { TEXT = 0, TITLE = 1 };
static const double text_size[] = {1.5, 2.1};

static double x_pixel(const plot *p, double value)
{
    return p->left + place(&p->x, value) * (p->right - p->left);
}

static double y_pixel(const plot *p, double value)
{
    return p->bottom - place(&p->y, value) * (p->bottom - p->top);
}

static bool given(const char *text)
{
    return text && *text;
}

/* In units: the piece of line before a name, the blank after that, the blank before the next piece, and what a row is below another. */
enum { LEGEND_LINE = 26, LEGEND_GAP = 8, LEGEND_SPACE = 22, LEGEND_ROW = 20 };

static double entry_width(const plot *p, size_t k)
{
    if (!given(p->series[k].name))
        return 0;
    return cb_canvas_text_width(p->series[k].name, text_size[TEXT] * p->unit) + (LEGEND_LINE + LEGEND_GAP + LEGEND_SPACE) * p->unit;
}

/* Whether the next name begins another row; *x is where it stands, and moves behind it. */
static bool next_entry(const plot *p, size_t k, double width, double *x)
{
    bool wraps = *x > 0 && *x + entry_width(p, k) > width;
    *x = (wraps ? 0 : *x) + entry_width(p, k);
    return wraps;
}

static int rows_of_legend(const plot *p, double width)
{
    double x = 0;
    int rows = 1;
    for (size_t k = 0; k < p->count; k++)
        rows += next_entry(p, k, width, &x);
    return rows;
}

/* The title with the legend at the end of its line, or below it, in rows, when the line is too short for both. */
static void lay_out_top(plot *p)
{
    const char *title = given(p->options->title) ? p->options->title : "";
    double legend = 0, unit = p->unit, width = p->right - p->left;
    for (size_t k = 0; k < p->count; k++)
        legend += entry_width(p, k);
    bool below = *title && legend > 0 && cb_canvas_text_width(title, text_size[TITLE] * unit) + legend > width;
    p->legend_rows = rows_of_legend(p, width);
    p->legend_y = unit * (below ? 54 : 28);
    p->top = (int)(unit * ((below ? 72 : *title || legend > 0 ? 46 : 18) + LEGEND_ROW * (p->legend_rows - 1)));
}

/* Margins from what is written in them; the ticks need the area's size, and the left margin their labels. */
static void lay_out(plot *p)
{
    double unit = p->unit, size = text_size[TEXT] * unit, label = 0;
    p->left = (int)(unit * 80); /* until the labels are known */
    p->right = p->canvas.width - (int)(unit * 24);
    lay_out_top(p);
    p->bottom = p->canvas.height - (int)(unit * (given(p->options->x_label) ? 54 : 34));
    make_ticks(&p->y, fmax(2, (p->bottom - p->top) / (62 * unit)));
    for (int i = 0; i < p->y.count; i++)
        label = fmax(label, cb_canvas_text_width(p->y.ticks[i].label, size));
    p->left = (int)(unit * (given(p->options->y_label) ? 44 : 20) + label);
    make_ticks(&p->x, fmax(2, (p->right - p->left) / (105 * unit)));
}

static void draw_grid(plot *p)
{
    cb_canvas *c = &p->canvas;
    int thick = (int)fmax(1, round(p->unit));
    for (int i = 0; i < p->x.count; i++) {
        int x = (int)lround(x_pixel(p, p->x.ticks[i].value));
        cb_canvas_fill(c, x, p->top, x + thick, p->bottom, grid);
    }
    for (int labelled = 0; labelled < 2; labelled++)
        for (int i = 0; i < p->y.count; i++) {
            int y = (int)lround(y_pixel(p, p->y.ticks[i].value));
            if (given(p->y.ticks[i].label) == (labelled == 1))
                cb_canvas_fill(c, p->left, y, p->right, y + thick, labelled ? grid : faint);
        }
}

static void draw_axes(plot *p)
{
    cb_canvas *c = &p->canvas;
    double unit = p->unit;
    int thick = (int)fmax(1, round(unit)), length = (int)lround(5 * unit);
    cb_canvas_fill(c, p->left, p->top, p->left + thick, p->bottom, frame);
    cb_canvas_fill(c, p->left, p->bottom, p->right, p->bottom + thick, frame);
    cb_text_style centred = style(p, text_size[TEXT], soft_ink, 0.5), ending = style(p, text_size[TEXT], soft_ink, 1);
    for (int i = 0; i < p->x.count; i++) {
        int x = (int)lround(x_pixel(p, p->x.ticks[i].value));
        cb_canvas_fill(c, x, p->bottom, x + thick, p->bottom + length, frame);
        cb_canvas_text(c, x, p->bottom + 19 * unit, p->x.ticks[i].label, &centred);
    }
    for (int i = 0; i < p->y.count; i++) {
        double y = y_pixel(p, p->y.ticks[i].value);
        if (!given(p->y.ticks[i].label))
            continue;
        cb_canvas_fill(c, p->left - length, (int)lround(y), p->left, (int)lround(y) + thick, frame);
        cb_canvas_text(c, p->left - 9 * unit, y + 4.5 * unit, p->y.ticks[i].label, &ending);
    }
}

static void draw_texts(plot *p)
{
    const cb_plot_options *o = p->options;
    double unit = p->unit;
    cb_text_style title = style(p, text_size[TITLE], ink, 0), label = style(p, text_size[TEXT], ink, 0.5);
    title.weight = 0.5;
    if (given(o->title))
        cb_canvas_text(&p->canvas, p->left, 30 * unit, o->title, &title);
    if (given(o->x_label))
        cb_canvas_text(&p->canvas, (p->left + p->right) / 2.0, p->canvas.height - 14 * unit, o->x_label, &label);
    label.upwards = true;
    if (given(o->y_label))
        cb_canvas_text(&p->canvas, 22 * unit, (p->top + p->bottom) / 2.0, o->y_label, &label);
}

/* A name behind a piece of its line. */
static void draw_entry(plot *p, size_t k, double x, double y)
{
    const cb_series *s = &p->series[k];
    double unit = p->unit, middle = y - 4.5 * unit;
    cb_text_style name = style(p, text_size[TEXT], ink, 0);
    if (!given(s->name))
        return;
    cb_canvas_text(&p->canvas, x + (LEGEND_LINE + LEGEND_GAP) * unit, y, s->name, &name);
    cb_canvas_line(&p->canvas, x, middle, x + LEGEND_LINE * unit, middle, unit);
    if (s->markers)
        cb_canvas_line(&p->canvas, x + 0.5 * LEGEND_LINE * unit, middle, x + 0.5 * LEGEND_LINE * unit, middle, 3.6 * unit);
    cb_canvas_paint(&p->canvas, palette[k % COLORS]);
}

/* Above the curves: one row ends at the right, several begin at the left. */
static void draw_legend(plot *p)
{
    double left = p->unit * 80, width = p->right - left, x = 0, y = p->legend_y, whole = 0;
    for (size_t k = 0; k < p->count; k++)
        whole += entry_width(p, k);
    if (p->legend_rows == 1)
        left = p->right - whole + LEGEND_SPACE * p->unit;
    for (size_t k = 0; k < p->count; k++) {
        if (next_entry(p, k, width, &x))
            y += LEGEND_ROW * p->unit;
        draw_entry(p, k, left + x - entry_width(p, k), y);
    }
}

/* ---- curves ---- */

/* The points of one column of pixels, as far as they shape the line. */
typedef struct column {
    double x, first, low, high, last;
    size_t low_at, high_at, count;
} column;

typedef struct curve_pen {
    plot *plot;
    double x, y;
    bool down;
} curve_pen;

static void draw_to(curve_pen *pen, double x, double y)
{
    double radius = 0.95 * pen->plot->unit;
    cb_canvas_line(&pen->plot->canvas, pen->down ? pen->x : x, pen->down ? pen->y : y, x, y, radius);
    *pen = (curve_pen){pen->plot, x, y, true};
}

static void draw_column(curve_pen *pen, const column *c)
{
    if (!c->count)
        return;
    bool low_first = c->low_at < c->high_at;
    draw_to(pen, c->x, c->first);
    if (c->count > 2) {
        draw_to(pen, c->x, low_first ? c->low : c->high);
        draw_to(pen, c->x, low_first ? c->high : c->low);
    }
    if (c->count > 1)
        draw_to(pen, c->x, c->last);
}

static void add_point(column *c, double x, double y, size_t index)
{
    if (!c->count)
        *c = (column){.x = x, .first = y, .low = y, .high = y, .low_at = index, .high_at = index};
    if (y < c->low) {
        c->low = y;
        c->low_at = index;
    }
    if (y > c->high) {
        c->high = y;
        c->high_at = index;
    }
    c->last = y;
    c->count++;
}

/* Neighbouring points within half a pixel of each other become one column. */
static void draw_curve(plot *p, const cb_series *s, cb_color color)
{
    curve_pen pen = {.plot = p};
    column c = {0};
    size_t drawn = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (!is_drawn(s, i))
            continue;
        double x = x_pixel(p, s->x[i]), y = y_pixel(p, s->y[i]);
        if (c.count && fabs(x - c.x) > 0.5) {
            draw_column(&pen, &c);
            c.count = 0;
        }
        add_point(&c, x, y, i);
        drawn++;
    }
    draw_column(&pen, &c);
    for (size_t i = 0; (s->markers || drawn == 1) && i < s->count; i++)
        if (is_drawn(s, i)) {
            double x = x_pixel(p, s->x[i]), y = y_pixel(p, s->y[i]);
            cb_canvas_line(&p->canvas, x, y, x, y, 3.6 * p->unit);
        }
    cb_canvas_paint(&p->canvas, color);
}

static void draw_curves(plot *p)
{
    int room = (int)ceil(4 * p->unit);
    const int area[4] = {p->left, p->top - room, p->right + room, p->bottom + room};
    memcpy(p->canvas.clip, area, sizeof area);
    for (size_t k = 0; k < p->count; k++)
        draw_curve(p, &p->series[k], palette[k % COLORS]);
    cb_canvas_unclip(&p->canvas);
}

/* ---- the picture ---- */

static bool open_picture(plot *p, const char *path)
{
    const cb_plot_options *o = p->options;
    int width = o->width ? o->width : WIDTH, height = o->height ? o->height : HEIGHT;
    if (width < LEAST_SIDE || width > MOST_SIDE || height < LEAST_SIDE || height > MOST_SIDE)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found a size of %d x %d pixels, expected %d to %d", path, width, height, LEAST_SIDE,
                       MOST_SIDE) == CB_OK;
    p->unit = fmax(fmin((double)width / WIDTH, (double)height / HEIGHT), 0.6);
    return cb_canvas_open(&p->canvas, width, height, background, cb_ends_with(path, ".svg"));
}

static bool close_picture(plot *p, const char *path, bool any)
{
    cb_text_style nothing = style(p, text_size[TEXT], soft_ink, 0.5);
    if (!any)
        cb_canvas_text(&p->canvas, (p->left + p->right) / 2.0, (p->top + p->bottom) / 2.0, "no data", &nothing);
    bool ok = cb_ok() && cb_canvas_save(&p->canvas, path);
    cb_canvas_close(&p->canvas);
    return ok;
}

static const cb_plot_options standard = {0};

bool cb_plot(const char *path, const cb_series *series, size_t count, const cb_plot_options *options)
{
    plot p = {.series = series, .count = count, .options = options ? options : &standard};
    if (!open_picture(&p, path))
        return false;
    bool any = measure(series, count, p.options->log_y, &p.x, &p.y);
    lay_out(&p);
    draw_grid(&p);
    draw_axes(&p);
    draw_texts(&p);
    draw_curves(&p);
    draw_legend(&p);
    return close_picture(&p, path, any);
}

/* ---- estimates ---- */

/* The axis of values lies below; names stand on the left. */
static bool lay_out_estimates(plot *p, const cb_estimate *estimates, size_t count)
{
    bool first = true;
    p->x = (axis){.high = 1};
    double label = 0;
    for (size_t i = 0; i < count; i++) {
        const double values[] = {estimates[i].value, estimates[i].low, estimates[i].high};
        for (int k = 0; k < 3; k++)
            if (fabs(values[k]) <= LARGEST) {
                include(&p->x, values[k], first);
                first = false;
            }
        label = fmax(label, cb_canvas_text_width(estimates[i].name, text_size[TEXT] * p->unit));
    }
    p->x.whole = false;
    open_range(&p->x);
    pad(&p->x, 0.05);
    p->left = (int)fmin(label + 34 * p->unit, p->canvas.width * 0.6);
    p->right = p->canvas.width - (int)(p->unit * 24);
    lay_out_top(p);
    p->bottom = p->canvas.height - (int)(p->unit * (given(p->options->y_label) ? 54 : 34));
    make_ticks(&p->x, fmax(2, (p->right - p->left) / (105 * p->unit)));
    return !first;
}

static void draw_estimate(plot *p, const cb_estimate *e, double y)
{
    cb_text_style name = style(p, text_size[TEXT], ink, 1);
    cb_canvas_text(&p->canvas, p->left - 12 * p->unit, y + 4.5 * p->unit, e->name, &name);
    if (!(fabs(e->value) <= LARGEST))
        return;
    double at = x_pixel(p, e->value), low = x_pixel(p, e->low), high = x_pixel(p, e->high), cap = 4 * p->unit;
    if (fabs(e->low) <= LARGEST && fabs(e->high) <= LARGEST) {
        cb_canvas_line(&p->canvas, low, y, high, y, 0.95 * p->unit);
        cb_canvas_line(&p->canvas, low, y - cap, low, y + cap, 0.95 * p->unit);
        cb_canvas_line(&p->canvas, high, y - cap, high, y + cap, 0.95 * p->unit);
    }
    cb_canvas_line(&p->canvas, at, y, at, y, 4 * p->unit);
    cb_canvas_paint(&p->canvas, palette[0]);
}

bool cb_plot_estimates(const char *path, const cb_estimate *estimates, size_t count, const cb_plot_options *options)
{
    cb_plot_options o = options ? *options : standard;
    if (!o.height)
        o.height = (int)fmin(MOST_SIDE, 120 + 34 * (double)(count ? count : 1));
    if (!o.width)
        o.width = WIDTH;
    plot p = {.options = &o};
    if (!open_picture(&p, path))
        return false;
    p.unit = fmax(0.6, (double)o.width / WIDTH);
    bool any = lay_out_estimates(&p, estimates, count);
    draw_grid(&p);
    draw_axes(&p);
    cb_plot_options texts = {.title = o.title, .x_label = o.y_label};
    p.options = &texts;
    draw_texts(&p);
    double step = (double)(p.bottom - p.top) / (double)(count ? count : 1);
    for (size_t i = 0; i < count; i++)
        draw_estimate(&p, &estimates[i], p.top + ((double)i + 0.5) * step);
    return close_picture(&p, path, any);
}
