/* metrics_regression.c: measures of predicted numbers. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "cambium/metrics.h"
#include "eval/check.h"

static bool check_pairs(const char *what, const double *x, const double *y, size_t n)
{
    return cb_check_finite(what, "x", x, n) && cb_check_finite(what, "y", y, n);
}

double cb_mean_absolute_error(const double *x, const double *y, size_t n)
{
    if (!check_pairs("mean_absolute_error", x, y, n))
        return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs(x[i] - y[i]);
    return sum / (double)n;
}

double cb_root_mean_square_error(const double *x, const double *y, size_t n)
{
    if (!check_pairs("root_mean_square_error", x, y, n))
        return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (x[i] - y[i]) * (x[i] - y[i]);
    return sqrt(sum / (double)n);
}

double cb_mean_absolute_percentage_error(const double *x, const double *y, size_t n)
{
    if (!check_pairs("mean_absolute_percentage_error", x, y, n))
        return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs(x[i] - y[i]) / fmax(fabs(y[i]), DBL_EPSILON);
    return sum / (double)n;
}

static double mean(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

/* A mean need not be exact, so constants are looked for, not computed. */
static bool is_constant(const double *x, size_t n)
{
    size_t i = 1;
    while (i < n && x[i] == x[0])
        i++;
    return i >= n;
}

double cb_r2(const double *x, const double *y, size_t n)
{
    if (!check_pairs("r2", x, y, n) || is_constant(y, n))
        return NAN;
    double rest = 0, total = 0, middle = mean(y, n);
    for (size_t i = 0; i < n; i++) {
        rest += (x[i] - y[i]) * (x[i] - y[i]);
        total += (y[i] - middle) * (y[i] - middle);
    }
    return 1 - rest / total;
}

static double correlation(const double *x, const double *y, size_t n)
{
    if (is_constant(x, n) || is_constant(y, n))
        return NAN;
    double mx = mean(x, n), my = mean(y, n), xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return fmin(fmax(xy / (sqrt(xx) * sqrt(yy)), -1), 1);
}

double cb_pearson(const double *x, const double *y, size_t n)
{
    return check_pairs("pearson", x, y, n) ? correlation(x, y, n) : NAN;
}

double cb_spearman(const double *x, const double *y, size_t n)
{
    if (!check_pairs("spearman", x, y, n))
        return NAN;
    double *ranks = cb_calloc(n, 2 * sizeof *ranks), result = NAN;
    if (ranks && cb_ranks(x, n, ranks, NULL) && cb_ranks(y, n, ranks + n, NULL))
        result = correlation(ranks, ranks + n, n);
    cb_free(ranks);
    return result;
}

/* ---- Kendall ---- */

/* Sorts x and returns how many pairs stood the wrong way round; `scratch` is as long as x. */
static double count_inversions(double *x, double *scratch, size_t n)
{
    if (n < 2)
        return 0;
    size_t half = n / 2, left = 0, right = half;
    double inversions = count_inversions(x, scratch, half) + count_inversions(x + half, scratch, n - half);
    for (size_t i = 0; i < n; i++) {
        bool take_right = left == half || (right < n && x[right] < x[left]);
        if (take_right)
            inversions += (double)(half - left);
        scratch[i] = x[take_right ? right++ : left++];
    }
    memcpy(x, scratch, n * sizeof *x);
    return inversions;
}

/* Pairs among values that stand together and are equal. */
static double tied_pairs(const double *sorted, size_t n)
{
    double pairs = 0;
    for (size_t i = 1, run = 0; i < n; i++) {
        run = sorted[i] == sorted[i - 1] ? run + 1 : 0;
        pairs += (double)run;
    }
    return pairs;
}

/* In the order of x, equal x in that of y: the pairs in discord are the inversions of y.  sorted: by y. */
static double tau_b(const cb_ordered *sorted, const double *x, double *rows, size_t n)
{
    double *xs = rows, *ys = rows + n, *scratch = rows + 2 * n;
    cb_ordered *by_x = NULL;
    for (size_t i = 0; i < n; i++)
        xs[i] = x[sorted[i].index];
    if (!(by_x = cb_order(xs, n))) /* stable, so equal x keep the order of y */
        return NAN;
    double both = 0;
    for (size_t i = 0, run = 0; i < n; i++) {
        xs[i] = by_x[i].value;
        ys[i] = sorted[by_x[i].index].value;
        run = i && xs[i] == xs[i - 1] && ys[i] == ys[i - 1] ? run + 1 : 0;
        both += (double)run;
    }
    cb_free(by_x);
    double all = (double)n * ((double)n - 1) / 2, in_x = tied_pairs(xs, n);
    double discord = count_inversions(ys, scratch, n), in_y = tied_pairs(ys, n);
    return (all - in_x - in_y + both - 2 * discord) / (sqrt(all - in_x) * sqrt(all - in_y));
}

double cb_kendall(const double *x, const double *y, size_t n)
{
    if (!check_pairs("kendall", x, y, n) || n < 2)
        return NAN;
    double *rows = cb_calloc(n, 3 * sizeof *rows);
    cb_ordered *sorted = rows ? cb_order(y, n) : NULL;
    double result = sorted ? tau_b(sorted, x, rows, n) : NAN;
    cb_free(sorted);
    cb_free(rows);
    return result;
}
