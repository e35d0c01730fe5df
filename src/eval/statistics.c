/* statistics.c: what a sample says about its mean and its quantiles. */
#include "cambium/statistics.h"

#include <math.h>
#include <string.h>

#include "eval/check.h"

/* A sorted copy; free with cb_free(). */
static double *sort_copy(const double *x, size_t n)
{
    double *sorted = cb_calloc(n, sizeof *sorted);
    if (sorted && n) {
        memcpy(sorted, x, n * sizeof *sorted);
        cb_sort_values(sorted, n);
    }
    return sorted;
}

bool cb_summarize(const double *x, size_t n, cb_summary *summary)
{
    *summary = (cb_summary){NAN, NAN, NAN, NAN, NAN, NAN};
    if (!cb_check_finite("summarize", "x", x, n))
        return false;
    double *sorted = sort_copy(x, n), sum = 0, squares = 0;
    if (!sorted)
        return false;
    for (size_t i = 0; i < n; i++)
        sum += sorted[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (sorted[i] - mean) * (sorted[i] - mean);
    double deviation = n > 1 ? sqrt(squares / (double)(n - 1)) : NAN;
    *summary = (cb_summary){.mean = mean,
                            .deviation = deviation,
                            .standard_error = deviation / sqrt((double)n),
                            .minimum = cb_quantile_of_sorted(sorted, n, 0),
                            .median = cb_quantile_of_sorted(sorted, n, 0.5),
                            .maximum = cb_quantile_of_sorted(sorted, n, 1)};
    cb_free(sorted);
    return true;
}

double cb_sample_quantile(const double *x, size_t n, double p)
{
    if (!(p >= 0 && p <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "sample_quantile: p is %g, expected 0 to 1", p), NAN;
    if (!cb_check_finite("sample_quantile", "x", x, n))
        return NAN;
    double *sorted = sort_copy(x, n), result = sorted ? cb_quantile_of_sorted(sorted, n, p) : NAN;
    cb_free(sorted);
    return result;
}

cb_interval cb_t_interval(const double *x, size_t n, double level)
{
    cb_summary s;
    if (!cb_check_level("t_interval", level) || !cb_summarize(x, n, &s) || n < 2)
        return (cb_interval){NAN, NAN};
    double reach = cb_t_quantile((1 - level) / 2, (double)(n - 1), CB_UPPER) * s.standard_error;
    return (cb_interval){s.mean - reach, s.mean + reach};
}

cb_interval cb_wilson_interval(int64_t successes, int64_t trials, double level)
{
    if (!cb_check_level("wilson_interval", level))
        return (cb_interval){NAN, NAN};
    if (successes < 0 || successes > trials) {
        cb_fail(CB_ERR_ARGUMENT, "wilson_interval: %lld successes of %lld trials", (long long)successes, (long long)trials);
        return (cb_interval){NAN, NAN};
    }
    double n = (double)trials, share = (double)successes / n, z = cb_normal_quantile((1 - level) / 2, CB_UPPER), z2 = z * z / n;
    double middle = (share + z2 / 2) / (1 + z2), reach = sqrt(share * (1 - share) * z2 + z2 * z2 / 4) / (1 + z2);
    return (cb_interval){successes ? middle - reach : n > 0 ? 0 : NAN, successes < trials ? middle + reach : n > 0 ? 1 : NAN};
}
