/* series_read.c: series and graphs out of files: NumPy's arrays, and tables of numbers as text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/arrays.h"
#include "data/series.h"

enum { MOST_COLUMNS = 1 << 20 };

/* ---- arrays ---- */

static bool read_array(const char *path, const char *array, series_table *t)
{
    raw_array r;
    char *member = cb_ends_with(path, ".npz") ? cb_format("%s.npy", array ? array : "") : NULL;
    bool ok = cb_ok() && cb_array_read_npy(path, member, &r);
    cb_free(member);
    if (!ok)
        return false;
    int64_t count = 1;
    if (r.ndim < 2 || r.ndim > 3)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found an array of %d dimensions, expected two or three", path, r.ndim) == CB_OK;
    for (int i = 0; ok && i < r.ndim; i++) {
        if (r.shape[i] < 1)
            ok = cb_fail(CB_ERR_FORMAT, "%s: found a shape with %lld in it, expected 1 or more", path, (long long)r.shape[i]) == CB_OK;
        t->shape[i] = r.shape[i];
        count *= r.shape[i];
    }
    t->ndim = r.ndim;
    t->values = ok ? cb_calloc((size_t)count, sizeof *t->values) : NULL;
    for (int64_t i = 0; t->values && i < count; i++)
        t->values[i] = (float)cb_array_number(&r, i);
    cb_free(r.block);
    return t->values;
}

/* ---- text ---- */

typedef struct text_table {
    const char *path;
    char *at, *end;
    int64_t line, columns, kept, empty; /* lines behind the last one that says something */
    bool *is_number;                    /* (columns) by the first line of data */
    float *values;
    size_t count, capacity;
} text_table;

/* The next field, up to a comma; *rest becomes NULL at the end of the line. */
static char *next_field(char **rest)
{
    char *field = *rest;
    char *comma = strchr(field, ',');
    if (comma)
        *comma = 0;
    *rest = comma ? comma + 1 : NULL;
    field += strspn(field, " \t\"");
    return field;
}

/* An empty field, "nan" and "NA" are numbers that are not known. */
static bool parse_number(const char *field, float *value)
{
    char *end;
    size_t length = strcspn(field, " \t\"");
    if (!length || (length == 2 && strncmp(field, "NA", 2) == 0)) {
        *value = NAN;
        return true;
    }
    double number = strtod(field, &end);
    *value = (float)number;
    return end > field && !end[strspn(end, " \t\"")];
}

static char *next_line(text_table *t)
{
    while (t->at < t->end) {
        char *line = t->at, *stop = memchr(line, '\n', (size_t)(t->end - line));
        stop = stop ? stop : t->end;
        t->at = stop + 1;
        t->line++;
        *stop = 0;
        if (stop > line && stop[-1] == '\r')
            stop[-1] = 0;
        if (*line)
            return line;
        t->empty++;
    }
    return NULL;
}

static bool look_at_columns(text_table *t, const char *line)
{
    for (const char *c = line; c; c = strchr(c, ',') ? strchr(c, ',') + 1 : NULL)
        t->columns++;
    if (t->columns > MOST_COLUMNS)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found %lld columns, expected at most %d", t->path, (long long)t->line,
                       (long long)t->columns, MOST_COLUMNS) == CB_OK;
    t->is_number = cb_calloc((size_t)t->columns, sizeof *t->is_number);
    char *copy = t->is_number ? cb_strdup(line) : NULL, *rest = copy;
    for (int64_t i = 0; copy && i < t->columns; i++) {
        float value;
        t->is_number[i] = parse_number(next_field(&rest), &value);
        t->kept += t->is_number[i];
    }
    bool ok = copy;
    cb_free(copy);
    return ok && (t->kept || cb_fail(CB_ERR_FORMAT, "%s:%lld: found no column of numbers", t->path, (long long)t->line) == CB_OK);
}

static bool add_line(text_table *t, char *line)
{
    if (!t->is_number && !look_at_columns(t, line))
        return false;
    int64_t empty = t->columns == 1 ? t->empty : 0; /* the only number of each is not known */
    if (!cb_grow(&t->values, &t->capacity, t->count + (size_t)(empty + t->kept), sizeof *t->values))
        return false;
    for (; empty > 0; empty--)
        t->values[t->count++] = NAN;
    t->empty = 0;
    int64_t column = 0;
    char *rest = line;
    for (; rest && column < t->columns; column++) {
        char *field = next_field(&rest);
        if (t->is_number[column] && !parse_number(field, &t->values[t->count++]))
            return cb_fail(CB_ERR_FORMAT, "%s:%lld: column %lld is \"%.40s\", expected a number", t->path, (long long)t->line,
                           (long long)column + 1, field) == CB_OK;
    }
    if (column == t->columns && !rest)
        return true;
    return cb_fail(CB_ERR_FORMAT, "%s:%lld: found %s than %lld columns, expected as many as in the lines before", t->path,
                   (long long)t->line, rest ? "more" : "fewer", (long long)t->columns) == CB_OK;
}

static bool read_text(const char *path, bool header, series_table *out)
{
    size_t length;
    char *text = cb_archive_read(path, NULL, CB_ARRAY_LIMIT, &length);
    if (!text)
        return false;
    text_table t = {.path = path, .at = text, .end = text + length};
    bool ok = !memchr(text, 0, length) || cb_array_fails(path, "found a byte 0, expected lines of numbers with commas between");
    if (ok && header)
        next_line(&t);
    t.empty = 0;
    for (char *line = ok ? next_line(&t) : NULL; ok && line; line = next_line(&t))
        ok = add_line(&t, line);
    ok = ok && (t.count || cb_array_fails(path, header ? "found no line behind the header" : "found no line of numbers"));
    cb_free(t.is_number);
    cb_free(text);
    if (!ok) {
        cb_free(t.values);
        return false;
    }
    *out = (series_table){.values = t.values, .ndim = 2, .shape = {(int64_t)t.count / (t.kept ? t.kept : 1), t.kept}};
    return true;
}

bool cb_series_table_read(const char *path, const char *array, bool header, series_table *table)
{
    *table = (series_table){0};
    bool numpy = cb_ends_with(path, ".npy") || cb_ends_with(path, ".npz");
    return numpy ? read_array(path, array, table) : read_text(path, header, table);
}

/* ---- graphs ---- */

static bool check_weights(const char *path, const series_table *t, int64_t nodes)
{
    if (t->ndim != 2 || t->shape[0] != nodes || t->shape[1] != nodes)
        return cb_fail(CB_ERR_FORMAT, "%s: found a matrix of %lld by %lld, expected %lld by %lld: a row and a column for each node", path,
                       (long long)t->shape[0], (long long)t->shape[1], (long long)nodes, (long long)nodes) == CB_OK;
    for (int64_t i = 0; i < nodes * nodes; i++)
        if (!(t->values[i] >= 0) || !isfinite(t->values[i]))
            return cb_fail(CB_ERR_FORMAT, "%s: the weight of row %lld, column %lld is %g, expected 0 or more", path,
                           (long long)(i / nodes) + 1, (long long)(i % nodes) + 1, (double)t->values[i]) == CB_OK;
    return true;
}

float *cb_adjacency_read(const char *path, const char *array, int64_t nodes)
{
    series_table t;
    bool read = cb_series_table_read(path, array, false, &t);
    if (read && check_weights(path, &t, nodes))
        return t.values;
    cb_free(t.values);
    return NULL;
}
