/* check.c: checks of what measures are given, and values in order. */
#include "eval/check.h"

#include <math.h>
#include <stdlib.h>

static bool not_finite(const char *what, const char *name, size_t at, double value)
{
    return cb_fail(CB_ERR_NUMERIC, "%s: %s[%zu] is %g, expected a finite number", what, name, at, value) == CB_OK;
}

bool cb_check_finite(const char *what, const char *name, const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return not_finite(what, name, i, x[i]);
    return true;
}

bool cb_check_finite_f32(const char *what, const char *name, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return not_finite(what, name, i, (double)x[i]);
    return true;
}

bool cb_check_shares(const char *what, const char *name, const float *x, size_t n)
{
    if (!cb_check_finite_f32(what, name, x, n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (x[i] < 0 || x[i] > 1)
            return cb_fail(CB_ERR_ARGUMENT, "%s: %s[%zu] is %g, expected 0 to 1", what, name, i, (double)x[i]) == CB_OK;
    return true;
}

bool cb_check_label(const char *what, const char *name, const int32_t *labels, size_t at, size_t classes)
{
    if (labels[at] >= 0 && (size_t)labels[at] < classes)
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "%s: %s[%zu] is %d, expected one of %zu classes, from 0", what, name, at, (int)labels[at], classes) ==
           CB_OK;
}

bool cb_check_labels(const char *what, const char *name, const int32_t *labels, size_t n, size_t classes)
{
    for (size_t i = 0; i < n; i++)
        if (!cb_check_label(what, name, labels, i, classes))
            return false;
    return true;
}

bool cb_check_level(const char *what, double level)
{
    return (level > 0 && level < 1) || cb_fail(CB_ERR_ARGUMENT, "%s: level is %g, expected one between 0 and 1", what, level) == CB_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void cb_sort_values(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_value);
}

double cb_quantile_of_sorted(const double *sorted, size_t n, double p)
{
    if (!n || isnan(p))
        return NAN;
    double place = p * (double)(n - 1), below = floor(place);
    size_t i = (size_t)below, next = i + 1 < n ? i + 1 : i;
    return sorted[i] + (place - below) * (sorted[next] - sorted[i]);
}

static int by_value_and_index(const void *a_, const void *b_)
{
    const cb_ordered *a = a_, *b = b_;
    if (a->value != b->value)
        return a->value < b->value ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

cb_ordered *cb_order(const double *x, size_t n)
{
    cb_ordered *sorted = cb_calloc(n, sizeof *sorted);
    if (!sorted)
        return NULL;
    for (size_t i = 0; i < n; i++)
        sorted[i] = (cb_ordered){x[i], i};
    qsort(sorted, n, sizeof *sorted, by_value_and_index);
    return sorted;
}

size_t cb_order_run(const cb_ordered *sorted, size_t n, size_t at)
{
    size_t end = at + 1;
    while (end < n && sorted[end].value == sorted[at].value)
        end++;
    return end;
}

bool cb_ranks(const double *x, size_t n, double *ranks, double *ties)
{
    cb_ordered *sorted = cb_order(x, n);
    if (!sorted)
        return false;
    if (ties)
        *ties = 0;
    for (size_t i = 0, end; i < n; i = end) {
        end = cb_order_run(sorted, n, i);
        double run = (double)(end - i);
        for (size_t k = i; k < end; k++)
            ranks[sorted[k].index] = ((double)i + 1 + (double)end) / 2;
        if (ties)
            *ties += run * run * run - run;
    }
    cb_free(sorted);
    return true;
}
