/* test_statistics.c: distributions against mpmath, intervals and tests against scipy and statsmodels (tests/oracle/metrics.py), which
 * get the same random draws, and what must hold of any: coverage, symmetry, independence of the number of replicates. */
#include "cambium/statistics.h"
#include "metric_fixtures.h"

static json_t *reference;

static int open_reference(void **state)
{
    (void)state;
    reference = load_reference("statistics");
    return 0;
}

static int close_reference(void **state)
{
    (void)state;
    json_decref(reference);
    return 0;
}

/* ---- distributions ---- */

typedef struct distribution {
    const char *name;
    int parameters;
    double (*probability)(double x, const double *p, cb_tail tail), (*quantile)(double q, const double *p, cb_tail tail);
} distribution;

#define ONE(name)                                                                                                                          \
    static double name##_probability(double x, const double *p, cb_tail tail)                                                              \
    {                                                                                                                                      \
        return cb_##name##_probability(x, p[0], tail);                                                                                     \
    }                                                                                                                                      \
    static double name##_quantile(double q, const double *p, cb_tail tail)                                                                 \
    {                                                                                                                                      \
        return cb_##name##_quantile(q, p[0], tail);                                                                                        \
    }
#define TWO(name)                                                                                                                          \
    static double name##_probability(double x, const double *p, cb_tail tail)                                                              \
    {                                                                                                                                      \
        return cb_##name##_probability(x, p[0], p[1], tail);                                                                               \
    }                                                                                                                                      \
    static double name##_quantile(double q, const double *p, cb_tail tail)                                                                 \
    {                                                                                                                                      \
        return cb_##name##_quantile(q, p[0], p[1], tail);                                                                                  \
    }
ONE(gamma)
ONE(chi2)
ONE(t)
TWO(beta)
TWO(f)

static double normal_probability(double x, const double *p, cb_tail tail)
{
    (void)p;
    return cb_normal_probability(x, tail);
}

static double normal_quantile(double q, const double *p, cb_tail tail)
{
    (void)p;
    return cb_normal_quantile(q, tail);
}

static const distribution distributions[] = {
    {"normal", 0, normal_probability, normal_quantile}, {"gamma", 1, gamma_probability, gamma_quantile},
    {"chi2", 1, chi2_probability, chi2_quantile},       {"t", 1, t_probability, t_quantile},
    {"beta", 2, beta_probability, beta_quantile},       {"f", 2, f_probability, f_quantile}};
enum { DISTRIBUTIONS = sizeof distributions / sizeof *distributions };

static const distribution *find_distribution(const char *name)
{
    for (size_t i = 0; i < DISTRIBUTIONS; i++)
        if (strcmp(distributions[i].name, name) == 0)
            return &distributions[i];
    fail_msg("no distribution %s", name);
    return NULL;
}

static bool agrees(double got, double expected, double allowed)
{
    return fabs(got - expected) <= allowed * fabs(expected);
}

/* Relative errors, also of the smallest tails, where those of the logarithm of the density grow with it. */
static void probabilities_have_their_digits(void **state)
{
    (void)state;
    FOR_EACH_CASE(row, array_of(reference, "distributions"))
    {
        const distribution *d = find_distribution(json_string_value(json_array_get(row, 0)));
        double x = number_at(row, 1), p[2] = {0};
        for (int i = 0; i < d->parameters; i++)
            p[i] = number_at(row, (size_t)i + 2);
        for (int tail = CB_LOWER; tail <= CB_UPPER; tail++) {
            double expected = number_at(row, (size_t)(2 + d->parameters + tail)), got = d->probability(x, p, (cb_tail)tail);
            if (!agrees(got, expected, 2e-13))
                fail_msg("%s %d of %g (%g, %g) is %.17g, expected %.17g", d->name, tail, x, p[0], p[1], got, expected);
            if (expected < 1e-290 || expected > 0.9) /* no digits left to find x by */
                continue;
            double found = d->quantile(expected, p, (cb_tail)tail), back = d->probability(found, p, (cb_tail)tail);
            double last_bit = d->probability(nextafter(found, 0), p, (cb_tail)tail) - back;
            if (fabs(back - expected) > 2e-13 * expected + fabs(last_bit))
                fail_msg("%s %d: the quantile of %.17g (%g, %g) has probability %.17g", d->name, tail, expected, p[0], p[1], back);
        }
    }
    assert_true(cb_ok());
}

/* From the tables that every textbook has. */
static void customary_quantiles(void **state)
{
    (void)state;
    assert_near(cb_normal_quantile(0.975, CB_LOWER), 1.959963984540054, 1e-15);
    assert_near(cb_normal_quantile(0.025, CB_LOWER), -1.959963984540054, 1e-15);
    assert_near(cb_t_quantile(0.025, 4, CB_UPPER), 2.776445105197793, 1e-14);
    assert_near(cb_chi2_quantile(0.95, 1, CB_LOWER), 3.841458820694124, 1e-14);
    assert_near(cb_f_quantile(0.95, 3, 10, CB_LOWER), 3.7082648190468435, 1e-14);
    assert_near(cb_normal_quantile(0, CB_LOWER), -INFINITY, 0);
    assert_near(cb_normal_quantile(0, CB_UPPER), INFINITY, 0);
    assert_near(cb_t_quantile(0.5, 3, CB_LOWER), 0, 0);
    assert_near(cb_t_quantile(1, 3, CB_LOWER), INFINITY, 0);
    assert_near(cb_beta_quantile(0, 2, 3, CB_LOWER), 0, 0);
    assert_near(cb_beta_quantile(1, 2, 3, CB_LOWER), 1, 0);
    assert_near(cb_gamma_quantile(0, 2, CB_UPPER), INFINITY, 0);
}

/* Where squares overflow: t with few degrees of freedom has long tails; each root of ten degrees is a tenth of the probability. */
static void tails_go_on_where_squares_overflow(void **state)
{
    (void)state;
    for (double x = 1e6; x < 1e290; x *= 1e10)
        assert_near(cb_t_probability(x * 1e10, 0.1, CB_UPPER) / cb_t_probability(x, 0.1, CB_UPPER), 0.1, 1e-11);
    assert_near(cb_t_probability(INFINITY, 0.1, CB_UPPER), 0, 0);
    assert_near(cb_t_probability(-INFINITY, 2, CB_UPPER), 1, 0);
    assert_near(cb_f_probability(INFINITY, 1, 2, CB_LOWER), 1, 0);
    assert_near(cb_gamma_probability(INFINITY, 1, CB_UPPER), 0, 0);
    assert_near(cb_beta_probability(-1, 1, 2, CB_LOWER), 0, 0);
    assert_near(cb_beta_probability(2, 1, 2, CB_LOWER), 1, 0);
}

static void impossible_parameters_are_refused(void **state)
{
    (void)state;
    const double bad[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < DISTRIBUTIONS; i++) {
        const distribution *d = &distributions[i];
        for (int b = 0; b < 4 && d->parameters; b++)
            for (int which = 0; which < d->parameters; which++) {
                double p[2] = {1, 1};
                p[which] = bad[b];
                assert_near(d->probability(0.5, p, CB_LOWER), NAN, 0);
                assert_failure(CB_ERR_ARGUMENT, "expected a positive number");
                assert_near(d->quantile(0.5, p, CB_LOWER), NAN, 0);
                assert_failure(CB_ERR_ARGUMENT, "expected a positive number");
            }
        const double ones[] = {1, 1};
        assert_near(d->probability(NAN, ones, CB_UPPER), NAN, 0);
        assert_failure(CB_ERR_ARGUMENT, "x is nan, expected a number");
        for (int b = 1; b < 4; b++) {
            assert_near(d->quantile(bad[b], ones, CB_UPPER), NAN, 0);
            assert_failure(CB_ERR_ARGUMENT, "expected 0 to 1");
        }
    }
}

/* ---- samples ---- */

static void samples_are_summarised(void **state)
{
    (void)state;
    const double p[] = {0, 0.025, 0.3, 1};
    FOR_EACH_CASE(c, array_of(reference, "summaries"))
    {
        size_t n;
        double *x = doubles_of(c, "x", &n);
        cb_summary s;
        assert_true(cb_summarize(x, n, &s));
        assert_near(s.mean, number_of(c, "mean"), ROUNDING);
        assert_near(s.deviation, number_of(c, "deviation"), ROUNDING);
        assert_near(s.standard_error, number_of(c, "standard_error"), ROUNDING);
        assert_near(s.minimum, number_of(c, "minimum"), 0);
        assert_near(s.median, number_of(c, "median"), ROUNDING);
        assert_near(s.maximum, number_of(c, "maximum"), 0);
        for (size_t i = 0; i < 4; i++)
            assert_near(cb_sample_quantile(x, n, p[i]), number_at(array_of(c, "quantiles"), i), ROUNDING);
        if (s.deviation != 0) { /* of a constant scipy has NaN, and we the point */
            cb_interval interval = cb_t_interval(x, n, 0.9);
            assert_near(interval.low, number_at(array_of(c, "interval"), 0), ROUNDING);
            assert_near(interval.high, number_at(array_of(c, "interval"), 1), ROUNDING);
        }
        cb_free(x);
    }
    assert_near(cb_t_interval((double[]){2, 2, 2}, 3, 0.9).low, 2, 0);
    assert_true(cb_ok());
}

static void shares_have_wilsons_interval(void **state)
{
    (void)state;
    FOR_EACH_CASE(row, array_of(reference, "wilsons"))
    {
        cb_interval i = cb_wilson_interval((int64_t)number_at(row, 0), (int64_t)number_at(row, 1), number_at(row, 2));
        assert_near(i.low, number_at(row, 3), ROUNDING);
        assert_near(i.high, number_at(row, 4), ROUNDING);
    }
    assert_near(cb_wilson_interval(0, 0, 0.95).low, NAN, 0);
    assert_near(cb_wilson_interval(0, 0, 0.95).high, NAN, 0);
    assert_true(cb_ok());
    cb_wilson_interval(3, 2, 0.95);
    assert_failure(CB_ERR_ARGUMENT, "3 successes of 2 trials");
    cb_wilson_interval(-1, 2, 0.95);
    assert_failure(CB_ERR_ARGUMENT, "-1 successes");
}

/* ---- bootstrap ---- */

static void assert_bootstrap(const cb_bootstrap_result *r, const json_t *c)
{
    assert_near(r->estimate, number_of(c, "estimate"), ROUNDING);
    assert_near(r->standard_error, number_of(c, "standard_error"), ROUNDING);
    assert_near(r->percentile.low, number_at(array_of(c, "percentile"), 0), ROUNDING);
    assert_near(r->percentile.high, number_at(array_of(c, "percentile"), 1), ROUNDING);
    assert_near(r->bca.low, number_at(array_of(c, "bca"), 0), ROUNDING);
    assert_near(r->bca.high, number_at(array_of(c, "bca"), 1), ROUNDING);
}

static cb_bootstrap_options options_of(const json_t *c)
{
    static const char *const names[] = {"items", "seeds", "both", "stratified"};
    cb_bootstrap_options o = {.resamples = (size_t)number_of(c, "resamples"), .seed = (uint64_t)number_of(c, "seed")};
    const char *how = json_string_value(json_object_get(c, "how"));
    while (how && strcmp(how, names[o.how]) != 0)
        o.how++;
    return o;
}

static void intervals_are_scipys_for_the_same_draws(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "bootstraps"))
    {
        size_t n, seeds = (size_t)number_of(c, "seeds"), items = (size_t)number_of(c, "items");
        double *values = doubles_of(c, "values", &n), *b = cb_calloc(n, sizeof *b);
        cb_bootstrap_options o = options_of(c);
        o.level = number_of(c, "level");
        cb_bootstrap_result r;
        assert_true(cb_bootstrap(values, seeds, items, &o, &r));
        assert_bootstrap(&r, c);
        for (size_t i = 0; i < n; i++) { /* numbers whose sums are exact */
            b[i] = (double)(i % 7) * 1024;
            values[i] += b[i];
        }
        assert_true(cb_bootstrap_difference(values, b, seeds, items, &o, &r));
        assert_near(r.bca.low, number_at(array_of(c, "bca"), 0), 1e-10);
        assert_near(r.percentile.high, number_at(array_of(c, "percentile"), 1), 1e-10);
        cb_free(values);
        cb_free(b);
    }
}

typedef struct two_columns {
    double *x, *y;
} two_columns;

static double ratio_of_sums(const size_t *items, size_t n, void *user)
{
    const two_columns *c = user;
    double x = 0, y = 0;
    for (size_t i = 0; i < n; i++) {
        x += c->x[items[i]];
        y += c->y[items[i]];
    }
    return x / y;
}

static void any_statistic_has_intervals(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "ratios"))
    {
        size_t n;
        two_columns columns = {doubles_of(c, "x", &n), doubles_of(c, "y", NULL)};
        cb_bootstrap_options o = options_of(c);
        cb_bootstrap_result r;
        assert_true(cb_bootstrap_statistic(ratio_of_sums, &columns, n, &o, &r));
        assert_bootstrap(&r, c);
        cb_free(columns.x);
        cb_free(columns.y);
    }
}

/* Of samples of 25 from an exponential distribution, 90 % intervals hold the mean in 0.864 (percentile) and 0.869 (BCa) of 4000 cases drawn
 * with numpy: means of so few are skewed.  Four standard errors. */
static void intervals_cover_what_they_should(void **state)
{
    (void)state;
    cb_rng rng = {.seed = 11};
    int percentile = 0, bca = 0;
    enum { SAMPLES = 1000, N = 25 };
    for (int s = 0; s < SAMPLES; s++) {
        double x[N];
        for (int i = 0; i < N; i++)
            x[i] = -log(1 - cb_rng_uniform(&rng));
        cb_bootstrap_result r;
        assert_true(cb_bootstrap(x, 1, N, &(cb_bootstrap_options){.resamples = 1000, .level = 0.9, .seed = (uint64_t)s}, &r));
        percentile += r.percentile.low <= 1 && 1 <= r.percentile.high;
        bca += r.bca.low <= 1 && 1 <= r.bca.high;
    }
    assert_in_range(percentile, (int)(0.82 * SAMPLES), (int)(0.91 * SAMPLES));
    assert_in_range(bca, (int)(0.82 * SAMPLES), (int)(0.91 * SAMPLES));
}

/* Seeds that differ, items that do not: drawing items says nothing of it. */
static void what_is_drawn_is_what_varies(void **state)
{
    (void)state;
    const double by_seed[] = {1, 1, 1, 2, 2, 2, 4, 4, 4}; /* (3, 3) */
    cb_bootstrap_result r;
    assert_true(cb_bootstrap(by_seed, 3, 3, &(cb_bootstrap_options){.how = CB_RESAMPLE_ITEMS}, &r));
    assert_near(r.percentile.high - r.percentile.low, 0, 1e-14);
    assert_near(r.bca.high - r.bca.low, 0, 1e-14);
    assert_true(cb_bootstrap(by_seed, 3, 3, &(cb_bootstrap_options){.how = CB_RESAMPLE_SEEDS}, &r));
    assert_near(r.percentile.low, 1, 0);
    assert_near(r.percentile.high, 4, 0);
    assert_true(cb_bootstrap(by_seed, 3, 3, &(cb_bootstrap_options){.how = CB_RESAMPLE_STRATIFIED}, &r));
    assert_true(r.percentile.low > 1 && r.percentile.high < 4);
}

static void what_cannot_be_drawn_has_no_interval(void **state)
{
    (void)state;
    const double x[] = {1, 2, 3};
    cb_bootstrap_result r;
    assert_true(cb_bootstrap(x, 1, 1, NULL, &r));
    assert_near(r.estimate, 1, 0);
    assert_near(r.percentile.low, NAN, 0);
    assert_near(r.bca.high, NAN, 0);
    for (int how = CB_RESAMPLE_SEEDS; how <= CB_RESAMPLE_STRATIFIED; how++) {
        assert_true(cb_bootstrap(x, 1, 3, &(cb_bootstrap_options){.how = (cb_resampling)how}, &r));
        assert_near(r.estimate, 2, 0);
        assert_near(r.percentile.low, NAN, 0);
    }
    assert_true(cb_bootstrap(NULL, 0, 0, NULL, &r));
    assert_near(r.estimate, NAN, 0);
    two_columns one = {(double[]){1}, (double[]){2}};
    assert_true(cb_bootstrap_statistic(ratio_of_sums, &one, 1, NULL, &r));
    assert_near(r.estimate, 0.5, 0);
    assert_near(r.bca.low, NAN, 0);
}

static double undefined_without_the_first(const size_t *items, size_t n, void *user)
{
    (void)user;
    for (size_t i = 0; i < n; i++)
        if (items[i] == 0)
            return 1;
    return NAN;
}

static void what_is_no_number_has_no_interval(void **state)
{
    (void)state;
    cb_bootstrap_result r;
    const double bad[] = {1, NAN, 3}, good[] = {1, 2, 3};
    assert_false(cb_bootstrap(bad, 1, 3, NULL, &r));
    assert_failure(CB_ERR_NUMERIC, "bootstrap: values[1] is nan");
    assert_false(cb_bootstrap_difference(good, bad, 1, 3, NULL, &r));
    assert_failure(CB_ERR_NUMERIC, "bootstrap_difference: b[1] is nan");
    assert_near(r.estimate, NAN, 0);
    assert_false(cb_bootstrap_statistic(undefined_without_the_first, NULL, 3, NULL, &r));
    assert_failure(CB_ERR_NUMERIC, "bootstrap: replicates[");
    assert_false(cb_bootstrap(good, 1, 3, &(cb_bootstrap_options){.level = 1}, &r));
    assert_failure(CB_ERR_ARGUMENT, "level is 1, expected one between 0 and 1");
    cb_summary s;
    assert_false(cb_summarize(bad, 3, &s));
    assert_failure(CB_ERR_NUMERIC, "summarize: x[1]");
    assert_near(cb_sample_quantile(good, 3, 1.5), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "p is 1.5");
    assert_near(cb_t_interval(good, 3, 95).low, NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "level is 95");
}

/* ---- tests ---- */

static void permutations_are_scipys(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "permutations"))
    {
        size_t n, m = 0, resamples = (size_t)number_of(c, "resamples");
        uint64_t seed = (uint64_t)number_of(c, "seed");
        double *a = doubles_of(c, "a", &n), *b = json_object_get(c, "b") ? doubles_of(c, "b", &m) : NULL;
        cb_test t = b ? cb_permutation_two(a, n, b, m, resamples, seed) : cb_permutation_paired(a, n, resamples, seed);
        assert_near(t.statistic, number_of(c, "statistic"), ROUNDING);
        assert_near(t.p_value, number_of(c, "p_value"), ROUNDING);
        cb_free(a);
        cb_free(b);
    }
    assert_near(cb_permutation_paired((double[]){3}, 1, 0, 0).p_value, 1, 0);
    assert_near(cb_permutation_two((double[]){3}, 1, (double[]){5}, 1, 0, 0).p_value, 1, 0);
    assert_near(cb_permutation_paired(NULL, 0, 0, 0).p_value, NAN, 0);
    assert_near(cb_permutation_two(NULL, 0, (double[]){5}, 1, 0, 0).p_value, NAN, 0);
    assert_true(cb_ok());
}

/* Counted and drawn p-values agree: 12 differences, 4096 patterns, within four standard errors. */
static void draws_estimate_the_exact_share(void **state)
{
    (void)state;
    double x[12];
    cb_rng rng = {.seed = 5};
    for (int i = 0; i < 12; i++)
        x[i] = cb_rng_normal(&rng) + 0.3;
    double exact = cb_permutation_paired(x, 12, 4096, 0).p_value, drawn = cb_permutation_paired(x, 12, 4000, 1).p_value;
    assert_true(exact != drawn);
    assert_near(drawn, exact, 4 * sqrt(exact * (1 - exact) / 4000));
    exact = cb_permutation_two(x, 6, x + 6, 6, 924, 0).p_value;
    drawn = cb_permutation_two(x, 6, x + 6, 6, 900, 1).p_value;
    assert_true(exact != drawn);
    assert_near(drawn, exact, 4 * sqrt(exact * (1 - exact) / 900));
}

static void signed_ranks_are_scipys(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "wilcoxons"))
    {
        size_t n;
        double *d = doubles_of(c, "differences", &n);
        cb_test t = cb_wilcoxon(d, n);
        assert_near(t.statistic, number_of(c, "statistic"), 0);
        assert_near(t.p_value, number_of(c, "p_value"), ROUNDING);
        cb_free(d);
    }
    assert_near(cb_wilcoxon((double[]){0, 0}, 2).p_value, 1, 0);
    cb_wilcoxon((double[]){1, NAN}, 2);
    assert_failure(CB_ERR_NUMERIC, "wilcoxon: differences[1]");
}

static void mcnemars_tests_are_statsmodels(void **state)
{
    (void)state;
    FOR_EACH_CASE(row, array_of(reference, "mcnemars"))
    {
        int64_t a = (int64_t)number_at(row, 0), b = (int64_t)number_at(row, 1);
        const cb_test tests[] = {cb_mcnemar_exact(a, b), cb_mcnemar_chi2(a, b, true), cb_mcnemar_chi2(a, b, false)};
        for (size_t i = 0; i < 3; i++) {
            assert_near(tests[i].statistic, number_at(row, 2 + 2 * i), ROUNDING);
            assert_near(tests[i].p_value, number_at(row, 3 + 2 * i), ROUNDING);
        }
    }
    assert_near(cb_mcnemar_exact(0, 0).p_value, 1, 0);
    assert_near(cb_mcnemar_chi2(0, 0, true).p_value, NAN, 0);
    assert_true(cb_ok());
    cb_mcnemar_exact(-1, 2);
    assert_failure(CB_ERR_ARGUMENT, "the counts are -1 and 2");
}

static void several_p_values_are_adjusted_as_by_statsmodels(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "adjustments"))
    {
        size_t n;
        double *p = doubles_of(c, "p", &n), *adjusted = cb_calloc(n, sizeof *adjusted);
        assert_true(cb_adjust_holm(p, n, adjusted));
        for (size_t i = 0; i < n; i++)
            assert_near(adjusted[i], number_at(array_of(c, "holm"), i), ROUNDING);
        assert_true(cb_adjust_benjamini_hochberg(p, n, p)); /* in place */
        for (size_t i = 0; i < n; i++)
            assert_near(p[i], number_at(array_of(c, "bh"), i), ROUNDING);
        cb_free(p);
        cb_free(adjusted);
    }
    double p[] = {0.1, 1.1};
    assert_false(cb_adjust_holm(p, 2, p));
    assert_failure(CB_ERR_ARGUMENT, "adjust_holm: p[1] is 1.1, expected 0 to 1");
    p[1] = NAN;
    assert_false(cb_adjust_benjamini_hochberg(p, 2, p));
    assert_failure(CB_ERR_ARGUMENT, "p[1] is nan");
}

/* ---- memory ---- */

static bool run_everything(void)
{
    const double x[] = {1, 2, 4, 3, 2, 2};
    const cb_bootstrap_options few = {.resamples = 10, .how = CB_RESAMPLE_BOTH};
    two_columns columns = {(double[]){1, 2, 3}, (double[]){2, 1, 2}};
    cb_bootstrap_result r;
    double p[] = {0.5, 0.1};
    return cb_bootstrap_difference(x, x, 2, 3, &few, &r) && cb_bootstrap_statistic(ratio_of_sums, &columns, 3, &few, &r) &&
           !isnan(cb_permutation_paired(x, 6, 10, 0).p_value) && !isnan(cb_permutation_two(x, 3, x + 3, 3, 10, 0).p_value) &&
           !isnan(cb_wilcoxon(x, 6).p_value) && cb_adjust_holm(p, 2, p) && cb_adjust_benjamini_hochberg(p, 2, p) &&
           !isnan(cb_t_interval(x, 6, 0.9).low) && !isnan(cb_sample_quantile(x, 6, 0.1));
}

static void a_failed_allocation_is_an_error(void **state)
{
    (void)state;
    uint64_t before = cb_memory().live_bytes;
    bool ok = false;
    for (uint64_t n = 1; !ok; n++) {
        cb_memory_fail_after(n);
        ok = run_everything();
        cb_memory_fail_after(0);
        assert_int_equal(ok, cb_ok());
        if (!ok)
            assert_failure(CB_ERR_MEMORY, "memory");
        assert_int_equal(cb_memory().live_bytes, before);
        assert_true(n < 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CORE_TEST(probabilities_have_their_digits),
        CORE_TEST(customary_quantiles),
        CORE_TEST(tails_go_on_where_squares_overflow),
        CORE_TEST(impossible_parameters_are_refused),
        CORE_TEST(samples_are_summarised),
        CORE_TEST(shares_have_wilsons_interval),
        CORE_TEST(intervals_are_scipys_for_the_same_draws),
        CORE_TEST(any_statistic_has_intervals),
        CORE_TEST(intervals_cover_what_they_should),
        CORE_TEST(what_is_drawn_is_what_varies),
        CORE_TEST(what_cannot_be_drawn_has_no_interval),
        CORE_TEST(what_is_no_number_has_no_interval),
        CORE_TEST(permutations_are_scipys),
        CORE_TEST(draws_estimate_the_exact_share),
        CORE_TEST(signed_ranks_are_scipys),
        CORE_TEST(mcnemars_tests_are_statsmodels),
        CORE_TEST(several_p_values_are_adjusted_as_by_statsmodels),
        CORE_TEST(a_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_reference, close_reference);
}
