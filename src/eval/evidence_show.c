/* evidence_show.c: the result of an experiment as a table and as pictures. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cambium/eval.h"
#include "cambium/evidence.h"
#include "core/json.h"

/* A field of a result; NULL with an error where it is not there. */
static const json_t *field(const char *what, const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        cb_fail(CB_ERR_FORMAT, "%s: %s: missing; expected the result of an experiment", what, key);
    return value;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static int digits_of(const json_t *measure)
{
    double digits = number_of(measure, "digits");
    return digits >= 0 && digits <= 9 ? (int)digits : 2;
}

/* ---- tables ---- */

/* Characters, not bytes: columns are aligned for people. */
static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

typedef struct table {
    size_t columns;
    cb_string_list cells;
} table;

static void add(table *t, const char *text)
{
    cb_string_list_add(&t->cells, text);
}

static void pad(cb_string *out, size_t count, const char *with)
{
    while (count-- > 0)
        cb_string_puts(out, with);
}

static void put_table(cb_string *out, table *t)
{
    size_t widths[64] = {0}, rows = t->cells.count / t->columns;
    for (size_t i = 0; i < rows * t->columns; i++) {
        size_t width = width_of(t->cells.items[i]), *column = &widths[i % t->columns];
        *column = width > *column ? width : *column;
    }
    for (size_t row = 0; row < rows; row++) {
        for (size_t k = 0; k < t->columns; k++) {
            const char *cell = t->cells.items[row * t->columns + k];
            size_t room = widths[k] - width_of(cell);
            cb_string_puts(out, "| ");
            pad(out, k ? room : 0, " ");
            cb_string_puts(out, cell);
            pad(out, k ? 1 : room + 1, " ");
        }
        cb_string_puts(out, "|\n");
        for (size_t k = 0; row == 0 && k < t->columns; k++) {
            cb_string_puts(out, "|");
            pad(out, widths[k] + 1, "-");
            cb_string_puts(out, k ? ":" : "-");
        }
        if (row == 0)
            cb_string_puts(out, "|\n");
    }
    cb_string_list_free(&t->cells);
}

static void add_printf(table *t, const char *format, ...) CB_PRINTF(2, 3);
static void add_printf(table *t, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    add(t, text);
}

static void add_count(table *t, double n)
{
    if (n >= 1e6)
        add_printf(t, "%.2f M", n / 1e6);
    else if (n >= 1e4)
        add_printf(t, "%.1f k", n / 1e3);
    else
        add_printf(t, "%.0f", n);
}

static bool in_table(const json_t *measure)
{
    return !json_is_true(json_object_get(measure, "aside"));
}

static void put_arms(cb_string *out, const json_t *measures, const json_t *arms)
{
    table t = {.columns = 4};
    size_t i, k;
    const json_t *arm, *m;
    add(&t, "arm");
    add(&t, "trained");
    add(&t, "time of a run");
    add(&t, "peak memory");
    json_array_foreach((json_t *)(uintptr_t)measures, k, m) if (in_table(m) && t.columns < 60)
    {
        const char *unit = text_of(m, "unit");
        add_printf(&t, "%s%s%s (95 %%)", text_of(m, "name"), *unit ? ", " : "", unit);
        t.columns++;
    }
    json_array_foreach((json_t *)(uintptr_t)arms, i, arm)
    {
        add(&t, text_of(arm, "name"));
        add_count(&t, number_of(arm, "parameters"));
        add_printf(&t, "%.1f s", number_of(arm, "seconds"));
        add_printf(&t, "%.0f MB", number_of(arm, "peak_memory") / 1e6);
        size_t column = 4;
        json_array_foreach((json_t *)(uintptr_t)measures, k, m) if (in_table(m) && column++ < t.columns)
        {
            const json_t *entry = json_object_get(json_object_get(arm, "measures"), text_of(m, "name"));
            int digits = digits_of(m);
            if (entry && !isfinite(number_of(entry, "low")))
                add_printf(&t, "%.*f", digits, number_of(entry, "mean"));
            else if (entry)
                add_printf(&t, "%.*f [%.*f, %.*f]", digits, number_of(entry, "mean"), digits, number_of(entry, "low"), digits,
                           number_of(entry, "high"));
            else
                add(&t, "-");
        }
    }
    put_table(out, &t);
}

static const json_t *measure_named(const json_t *measures, const char *name)
{
    size_t k;
    const json_t *m;
    json_array_foreach((json_t *)(uintptr_t)measures, k, m) if (strcmp(text_of(m, "name"), name) == 0) return m;
    return NULL;
}

static void put_comparisons(cb_string *out, const json_t *measures, const json_t *comparisons)
{
    table t = {.columns = 5};
    size_t i;
    const json_t *c;
    static const char *const heads[] = {"claim", "better by (95 %)", "asked: more than", "verdict", "the paper"};
    for (int k = 0; k < 5; k++)
        add(&t, heads[k]);
    json_array_foreach((json_t *)(uintptr_t)comparisons, i, c)
    {
        const char *name = text_of(c, "measure");
        const json_t *m = measure_named(measures, name);
        int digits = m ? digits_of(m) : 3;
        add_printf(&t, "%s: %s against %s", text_of(c, "claim"), text_of(c, "arm"), text_of(c, "against"));
        add_printf(&t, "%.*f [%.*f, %.*f] %s %s", digits, number_of(c, "difference"), digits, number_of(c, "low"), digits,
                   number_of(c, "high"), m ? text_of(m, "unit") : "", name);
        add_printf(&t, "%g", number_of(c, "margin"));
        add(&t, text_of(c, "verdict"));
        add(&t, text_of(c, "paper"));
    }
    put_table(out, &t);
}

static void put_ends(cb_string *out, const json_t *arms)
{
    size_t i;
    const json_t *arm;
    json_array_foreach((json_t *)(uintptr_t)arms, i, arm) if (json_is_true(json_object_get(arm, "at_end")))
        cb_string_printf(out, "\n%s: the best value, %g, lies at an end of its grid; a better one may lie beyond.\n", text_of(arm, "name"),
                         number_of(arm, "value"));
}

static json_t *parse(const char *what, const char *text)
{
    json_t *result = cb_json_parse(what, text, strlen(text));
    bool ok = result && field(what, result, "experiment") && field(what, result, "measures") && field(what, result, "arms") &&
              field(what, result, "comparisons");
    if (!ok)
        json_decref(result);
    return ok ? result : NULL;
}

char *cb_evidence_table(const char *what, const char *json)
{
    json_t *r = parse(what, json);
    if (!r)
        return NULL;
    cb_string out = {0};
    const json_t *machine = json_object_get(r, "machine"), *measures = json_object_get(r, "measures");
    cb_string_puts(&out, text_of(r, "title"));
    if (number_of(r, "system") > 0)
        cb_string_printf(&out, " (system %.0f)", number_of(r, "system"));
    cb_string_printf(&out, "\n\nThe claim: %s\n\nHere: %s\n\n", text_of(r, "claim"), text_of(r, "setting"));
    put_arms(&out, measures, json_object_get(r, "arms"));
    if (!json_is_true(json_object_get(r, "quick")))
        put_ends(&out, json_object_get(r, "arms"));
    cb_string_puts(&out, "\n");
    put_comparisons(&out, measures, json_object_get(r, "comparisons"));
    cb_string_printf(&out, "\n%.0f seeds, %s, %s, %.0f threads, cambium %s: `%s`\n", number_of(r, "seeds"), text_of(r, "date"),
                     text_of(machine, "processor"), number_of(machine, "threads"), text_of(machine, "cambium"), text_of(r, "command"));
    if (json_is_true(json_object_get(r, "quick")))
        cb_string_puts(&out, "A quick run: it shows that the experiment works, and its figures mean nothing.\n");
    json_decref(r);
    if (cb_ok())
        return out.data;
    cb_string_free(&out);
    return NULL;
}

/* ---- pictures ---- */

/* Files whose names have no blanks. */
static bool both_formats(const char *directory, const char *name, const char *curve, bool (*draw)(const char *path, void *user), void *user)
{
    bool ok = true;
    for (int vector = 0; ok && vector < 2; vector++) {
        char *file = cb_format("%s%s%s.%s", name, curve ? "-" : "", curve ? curve : "", vector ? "svg" : "png");
        for (char *c = file; c && *c; c++)
            *c = *c == ' ' ? '-' : *c;
        char *path = file ? cb_path_join(directory, file) : NULL;
        ok = path && draw(path, user);
        cb_free(path);
        cb_free(file);
    }
    return ok;
}

typedef struct estimates {
    cb_estimate *list;
    size_t count;
    cb_plot_options options;
} estimates;

static bool draw_estimates(const char *path, void *user)
{
    const estimates *e = user;
    return cb_plot_estimates(path, e->list, e->count, &e->options);
}

static char *axis_label(const json_t *m)
{
    const char *unit = text_of(m, "unit");
    return cb_format("%s%s%s (%s is better)", text_of(m, "name"), *unit ? ", " : "", unit, text_of(m, "better"));
}

static bool plot_arms(const json_t *r, const char *directory)
{
    const json_t *m = json_array_get(json_object_get(r, "measures"), 0), *arms = json_object_get(r, "arms");
    char *label = axis_label(m);
    estimates e = {.list = cb_calloc(json_array_size(arms) + 1, sizeof *e.list),
                   .options = {.title = text_of(r, "experiment"), .y_label = label}};
    for (size_t i = 0; e.list && i < json_array_size(arms); i++) {
        const json_t *arm = json_array_get(arms, i), *entry = json_object_get(json_object_get(arm, "measures"), text_of(m, "name"));
        e.list[e.count++] =
            (cb_estimate){text_of(arm, "name"), number_of(entry, "mean"), number_of(entry, "low"), number_of(entry, "high")};
    }
    bool ok = e.list && label && both_formats(directory, text_of(r, "experiment"), NULL, draw_estimates, &e);
    cb_free(e.list);
    cb_free(label);
    return ok;
}

typedef struct curves {
    cb_series *list;
    size_t count;
    cb_plot_options options;
} curves;

static bool draw_curves(const char *path, void *user)
{
    const curves *c = user;
    return cb_plot(path, c->list, c->count, &c->options);
}

/* The points that an arm has on a curve; x and y have room for all measures. */
static size_t points_of(const json_t *measures, const json_t *arm, const char *curve, double *x, double *y)
{
    size_t k, n = 0;
    const json_t *m;
    json_array_foreach((json_t *)(uintptr_t)measures, k, m)
    {
        const json_t *entry = json_object_get(json_object_get(arm, "measures"), text_of(m, "name"));
        if (entry && strcmp(text_of(m, "curve"), curve) == 0) {
            x[n] = number_of(m, "x");
            y[n++] = number_of(entry, "mean");
        }
    }
    return n;
}

static bool plot_curve(const json_t *r, const char *curve, const char *directory)
{
    const json_t *arms = json_object_get(r, "arms"), *measures = json_object_get(r, "measures");
    size_t count = json_array_size(arms), most = json_array_size(measures);
    curves c = {.list = cb_calloc(count + 1, sizeof *c.list), .options = {.title = text_of(r, "experiment"), .y_label = curve}};
    double *points = cb_calloc(2 * count * most + 1, sizeof *points);
    for (size_t i = 0; c.list && points && i < count; i++) {
        double *x = points + 2 * i * most, *y = x + most;
        size_t n = points_of(measures, json_array_get(arms, i), curve, x, y);
        if (n > 0)
            c.list[c.count++] = (cb_series){text_of(json_array_get(arms, i), "name"), x, y, n, true};
    }
    bool ok = c.list && points && both_formats(directory, text_of(r, "experiment"), curve, draw_curves, &c);
    cb_free(c.list);
    cb_free(points);
    return ok;
}

bool cb_evidence_plots(const char *what, const char *json, const char *directory)
{
    json_t *r = parse(what, json);
    bool ok = r && plot_arms(r, directory);
    const json_t *measures = json_object_get(r, "measures");
    for (size_t k = 0; ok && k < json_array_size(measures); k++) {
        const char *curve = text_of(json_array_get(measures, k), "curve");
        bool first = *curve;
        for (size_t before = 0; before < k; before++)
            first = first && strcmp(curve, text_of(json_array_get(measures, before), "curve")) != 0;
        ok = !first || plot_curve(r, curve, directory);
    }
    json_decref(r);
    return ok;
}
