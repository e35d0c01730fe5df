/* bootstrap.c: intervals by drawing the sample anew (Efron, Tibshirani: An introduction to the bootstrap, 1993, chapters 13, 14).
 *
 * A replicate is the statistic of one new sample.  Percentile intervals are quantiles of the replicates; BCa intervals take them at
 * levels corrected for bias (z0, from how many replicates lie below the estimate) and for acceleration (from the skewness of what each
 * unit of the sample adds to the estimate: its jackknife values, which of a mean are the deviations from it).
 * S seeds, I items. */
#include <math.h>

#include "cambium/statistics.h"
#include "eval/check.h"

/* The acceleration is the sum over samples of sum u^3 / n^3 over 6 times that of sum u^2 / n^2 to the power of 3/2. */
typedef struct skewness {
    double cubes, squares;
} skewness;

static void add_influence(skewness *s, double u, double n)
{
    s->cubes += u * u * u / (n * n * n);
    s->squares += u * u / (n * n);
}

static double acceleration(skewness s)
{
    return s.squares > 0 ? s.cubes / (6 * pow(s.squares, 1.5)) : 0;
}

/* ---- intervals from replicates ---- */

/* The share of replicates below the estimate, those that equal it but for rounding counting half. */
static double share_below(const double *sorted, size_t n, double estimate)
{
    double near = 1e-12 * fmax(fabs(estimate), sorted[n - 1] - sorted[0]), below = 0;
    for (size_t i = 0; i < n; i++)
        below += sorted[i] < estimate - near ? 1 : sorted[i] <= estimate + near ? 0.5 : 0;
    return below / (double)n;
}

static double bca_level(double p, double z0, double a)
{
    double z = z0 + cb_normal_quantile(p, CB_LOWER);
    return cb_normal_probability(z0 + z / (1 - a * z), CB_LOWER);
}

static void finish(double *replicates, size_t n, double level, skewness s, cb_bootstrap_result *result)
{
    double tail = (1 - level) / 2, a = acceleration(s);
    cb_summary summary;
    if (!cb_check_finite("bootstrap", "replicates", replicates, n) || !cb_summarize(replicates, n, &summary))
        return;
    result->standard_error = summary.deviation;
    cb_sort_values(replicates, n);
    result->percentile = (cb_interval){cb_quantile_of_sorted(replicates, n, tail), cb_quantile_of_sorted(replicates, n, 1 - tail)};
    double z0 = cb_normal_quantile(share_below(replicates, n, result->estimate), CB_LOWER);
    if (isfinite(z0))
        result->bca = (cb_interval){cb_quantile_of_sorted(replicates, n, bca_level(tail, z0, a)),
                                    cb_quantile_of_sorted(replicates, n, bca_level(1 - tail, z0, a))};
}

static bool settle(const cb_bootstrap_options *options, cb_bootstrap_options *settled, cb_bootstrap_result *result)
{
    *settled = options ? *options : (cb_bootstrap_options){0};
    *result = (cb_bootstrap_result){NAN, NAN, {NAN, NAN}, {NAN, NAN}};
    if (!settled->resamples)
        settled->resamples = 10000;
    if (settled->level == 0)
        settled->level = 0.95;
    return cb_check_level("bootstrap", settled->level);
}

/* ---- means of a table ---- */

typedef struct table {
    const double *values; /* (S, I) */
    size_t seeds, items;
    double *seed_means, *item_means; /* (S), (I) */
    size_t *seed_draws, *item_draws; /* how often each was drawn */
} table;

static void table_close(table *t)
{
    cb_free(t->seed_means);
    cb_free(t->item_means);
    cb_free(t->seed_draws);
    cb_free(t->item_draws);
}

static bool table_open(table *t, const double *values, size_t seeds, size_t items)
{
    *t = (table){.values = values,
                 .seeds = seeds,
                 .items = items,
                 .seed_means = cb_calloc(seeds, sizeof(double)),
                 .item_means = cb_calloc(items, sizeof(double)),
                 .seed_draws = cb_calloc(seeds, sizeof(size_t)),
                 .item_draws = cb_calloc(items, sizeof(size_t))};
    if (!t->seed_means || !t->item_means || !t->seed_draws || !t->item_draws) {
        table_close(t);
        return false;
    }
    for (size_t s = 0; s < seeds; s++)
        for (size_t i = 0; i < items; i++) {
            t->seed_means[s] += values[s * items + i] / (double)items;
            t->item_means[i] += values[s * items + i] / (double)seeds;
        }
    return true;
}

static double mean_drawn(const double *x, size_t n, cb_rng *rng)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[cb_rng_below(rng, n)];
    return sum / (double)n;
}

static void draw(size_t *draws, size_t n, cb_rng *rng)
{
    for (size_t i = 0; i < n; i++)
        draws[i] = 0;
    for (size_t i = 0; i < n; i++)
        draws[cb_rng_below(rng, n)]++;
}

static double mean_of_both(table *t, cb_rng *rng)
{
    double sum = 0;
    draw(t->seed_draws, t->seeds, rng);
    draw(t->item_draws, t->items, rng);
    for (size_t s = 0; s < t->seeds; s++) {
        double row = 0;
        for (size_t i = 0; t->seed_draws[s] && i < t->items; i++)
            row += (double)t->item_draws[i] * t->values[s * t->items + i];
        sum += (double)t->seed_draws[s] * row;
    }
    return sum / ((double)t->seeds * (double)t->items);
}

static double mean_of_strata(const table *t, cb_rng *rng)
{
    double sum = 0;
    for (size_t i = 0; i < t->items; i++)
        for (size_t s = 0; s < t->seeds; s++)
            sum += t->values[cb_rng_below(rng, t->seeds) * t->items + i];
    return sum / ((double)t->seeds * (double)t->items);
}

static double replicate(table *t, cb_resampling how, cb_rng *rng)
{
    switch (how) {
    case CB_RESAMPLE_ITEMS:
        return mean_drawn(t->item_means, t->items, rng);
    case CB_RESAMPLE_SEEDS:
        return mean_drawn(t->seed_means, t->seeds, rng);
    case CB_RESAMPLE_BOTH:
        return mean_of_both(t, rng);
    case CB_RESAMPLE_STRATIFIED:
        break;
    }
    return mean_of_strata(t, rng);
}

static skewness skewness_of(const table *t, cb_resampling how, double estimate)
{
    skewness s = {0};
    for (size_t i = 0; (how == CB_RESAMPLE_ITEMS || how == CB_RESAMPLE_BOTH) && i < t->items; i++)
        add_influence(&s, t->item_means[i] - estimate, (double)t->items);
    for (size_t k = 0; (how == CB_RESAMPLE_SEEDS || how == CB_RESAMPLE_BOTH) && k < t->seeds; k++)
        add_influence(&s, t->seed_means[k] - estimate, (double)t->seeds);
    for (size_t i = 0; how == CB_RESAMPLE_STRATIFIED && i < t->seeds * t->items; i++)
        add_influence(&s, (t->values[i] - t->item_means[i % t->items]) / (double)t->items, (double)t->seeds);
    return s;
}

static bool is_drawable(const table *t, cb_resampling how)
{
    bool seeds = how != CB_RESAMPLE_ITEMS, items = how == CB_RESAMPLE_ITEMS || how == CB_RESAMPLE_BOTH;
    return (!seeds || t->seeds > 1) && (!items || t->items > 1);
}

bool cb_bootstrap(const double *values, size_t seeds, size_t items, const cb_bootstrap_options *options, cb_bootstrap_result *result)
{
    cb_bootstrap_options o;
    if (!settle(options, &o, result) || !cb_check_finite("bootstrap", "values", values, seeds * items))
        return false;
    table t;
    if (!table_open(&t, values, seeds, items))
        return false;
    double *replicates = cb_calloc(o.resamples, sizeof *replicates);
    if (replicates) {
        result->estimate = 0;
        for (size_t i = 0; i < items; i++)
            result->estimate += t.item_means[i] / (double)items;
        if (!seeds || !items)
            result->estimate = NAN;
    }
    if (replicates && seeds && items && is_drawable(&t, o.how)) {
        for (size_t r = 0; r < o.resamples; r++)
            replicates[r] = replicate(&t, o.how, &(cb_rng){.seed = o.seed, .stream = r});
        finish(replicates, o.resamples, o.level, skewness_of(&t, o.how, result->estimate), result);
    }
    table_close(&t);
    cb_free(replicates);
    return cb_ok();
}

bool cb_bootstrap_difference(const double *a, const double *b, size_t seeds, size_t items, const cb_bootstrap_options *options,
                             cb_bootstrap_result *result)
{
    size_t n = seeds * items;
    *result = (cb_bootstrap_result){NAN, NAN, {NAN, NAN}, {NAN, NAN}};
    if (!cb_check_finite("bootstrap_difference", "a", a, n) || !cb_check_finite("bootstrap_difference", "b", b, n))
        return false;
    double *differences = cb_calloc(n, sizeof *differences);
    for (size_t i = 0; differences && i < n; i++)
        differences[i] = a[i] - b[i];
    bool ok = differences && cb_bootstrap(differences, seeds, items, options, result);
    cb_free(differences);
    return ok;
}

/* ---- any statistic ---- */

static skewness jackknife(cb_statistic *statistic, void *user, size_t *items, size_t n, double *values)
{
    skewness s = {0};
    double mean = 0;
    for (size_t left_out = 0; left_out < n; left_out++) {
        for (size_t i = 0; i + 1 < n; i++)
            items[i] = i + (i >= left_out);
        values[left_out] = statistic(items, n - 1, user);
        mean += values[left_out] / (double)n;
    }
    for (size_t i = 0; i < n; i++)
        add_influence(&s, (double)(n - 1) * (mean - values[i]), (double)n);
    return s;
}

bool cb_bootstrap_statistic(cb_statistic *statistic, void *user, size_t n, const cb_bootstrap_options *options, cb_bootstrap_result *result)
{
    cb_bootstrap_options o;
    if (!settle(options, &o, result))
        return false;
    size_t *items = cb_calloc(n, sizeof *items);
    double *replicates = cb_calloc(o.resamples, sizeof *replicates), *left_out = cb_calloc(n, sizeof *left_out);
    if (items && replicates && left_out) {
        for (size_t i = 0; i < n; i++)
            items[i] = i;
        result->estimate = statistic(items, n, user);
        for (size_t r = 0; n > 1 && r < o.resamples; r++) {
            cb_rng rng = {.seed = o.seed, .stream = r};
            for (size_t i = 0; i < n; i++)
                items[i] = cb_rng_below(&rng, n);
            replicates[r] = statistic(items, n, user);
        }
        if (n > 1)
            finish(replicates, o.resamples, o.level, jackknife(statistic, user, items, n, left_out), result);
    }
    cb_free(items);
    cb_free(replicates);
    cb_free(left_out);
    return cb_ok();
}
