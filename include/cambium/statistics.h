/* statistics.h: floor 3: how sure a result is: intervals, resampling, tests, corrections, and the distributions they need.
 *
 *     cb_bootstrap_result r;
 *     if (cb_bootstrap_difference(ours, theirs, seeds, items, &(cb_bootstrap_options){.how = CB_RESAMPLE_BOTH}, &r))
 *         printf("%.2f, 95 %% interval %.2f to %.2f\n", r.estimate, r.bca.low, r.bca.high);
 *
 * Samples are arrays of n finite numbers: a NaN or an infinity is CB_ERR_NUMERIC, a probability or level outside its range
 * CB_ERR_ARGUMENT, and the result NaN or false.  What a sample is too small for is NaN and no error.  Random draws are those of cb_rng
 * with the seed given, replicate r from stream r, so a result is a function of its arguments. */
#ifndef CAMBIUM_STATISTICS_H
#define CAMBIUM_STATISTICS_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Distributions ---- */

/* Which side of x, or of p, is meant; the upper one is computed on its own, so that small probabilities keep their digits. */
typedef enum cb_tail { CB_LOWER, CB_UPPER } cb_tail;

/* The probability of a value below (above) x.  Relative error about 1e-13.  NaN with CB_ERR_ARGUMENT for a parameter that is not
 * positive and finite, or x NaN. */
CB_API double cb_normal_probability(double x, cb_tail tail);
CB_API double cb_gamma_probability(double x, double shape, cb_tail tail);      /* of scale 1: the regularised incomplete gamma function */
CB_API double cb_beta_probability(double x, double a, double b, cb_tail tail); /* the regularised incomplete beta function */
CB_API double cb_chi2_probability(double x, double freedom, cb_tail tail);
CB_API double cb_t_probability(double x, double freedom, cb_tail tail);
CB_API double cb_f_probability(double x, double freedom1, double freedom2, cb_tail tail);
/* The x with probability p below (above) it; p in [0, 1]. */
CB_API double cb_normal_quantile(double p, cb_tail tail);
CB_API double cb_gamma_quantile(double p, double shape, cb_tail tail);
CB_API double cb_beta_quantile(double p, double a, double b, cb_tail tail);
CB_API double cb_chi2_quantile(double p, double freedom, cb_tail tail);
CB_API double cb_t_quantile(double p, double freedom, cb_tail tail);
CB_API double cb_f_quantile(double p, double freedom1, double freedom2, cb_tail tail);

/* ---- Samples ---- */

typedef struct cb_summary {
    double mean, deviation, standard_error; /* deviation: with n - 1; it and the standard error, deviation / sqrt n, NaN for n < 2 */
    double minimum, median, maximum;
} cb_summary;
CB_API bool cb_summarize(const double *x, size_t n, cb_summary *summary);
/* Linear between order statistics, as numpy's default (type 7 of Hyndman, Fan 1996); p in [0, 1]. */
CB_API double cb_sample_quantile(const double *x, size_t n, double p);

typedef struct cb_interval {
    double low, high;
} cb_interval;
/* mean -+ t(n - 1) standard errors.  level in (0, 1): 0.95. */
CB_API cb_interval cb_t_interval(const double *x, size_t n, double level);
/* Of a share of successes, by Wilson's score (1927), without correction for continuity. */
CB_API cb_interval cb_wilson_interval(int64_t successes, int64_t trials, double level);

/* ---- Bootstrap ---- */

/* What is drawn anew, with replacement, of a table (seeds, items). */
typedef enum cb_resampling {
    CB_RESAMPLE_ITEMS,     /* columns: the same items for all seeds; what further items would give */
    CB_RESAMPLE_SEEDS,     /* rows: what further seeds would give on these items */
    CB_RESAMPLE_BOTH,      /* rows and columns, independently (Owen 2007); the widest */
    CB_RESAMPLE_STRATIFIED /* within each column its seeds, independently of the other columns (Agarwal et al. 2021: columns are tasks) */
} cb_resampling;

typedef struct cb_bootstrap_options {
    size_t resamples; /* 0: 10000 */
    double level;     /* 0: 0.95 */
    cb_resampling how;
    uint64_t seed;
} cb_bootstrap_options;

typedef struct cb_bootstrap_result {
    double estimate, standard_error; /* of the sample; deviation of the replicates */
    cb_interval percentile;
    /* Bias-corrected and accelerated (Efron 1987; the acceleration of several samples as scipy has it).  NaN where every replicate lies on
     * one side of the estimate. */
    cb_interval bca;
} cb_bootstrap_result;

/* The mean of a table (seeds, items).  What is drawn anew must be at least two; else the intervals are NaN.  options may be NULL. */
CB_API bool cb_bootstrap(const double *values, size_t seeds, size_t items, const cb_bootstrap_options *options,
                         cb_bootstrap_result *result);
/* The mean of a - b, item by item and seed by seed. */
CB_API bool cb_bootstrap_difference(const double *a, const double *b, size_t seeds, size_t items, const cb_bootstrap_options *options,
                                    cb_bootstrap_result *result);
/* A measure of a sample that is not a mean (BLEU, an area, a difference of two): of the n items drawn, some of them more than once. */
typedef double cb_statistic(const size_t *items, size_t n, void *user);
/* `how` is not read: items are drawn.  The statistic is also asked for each sample without one item. */
CB_API bool cb_bootstrap_statistic(cb_statistic *statistic, void *user, size_t items, const cb_bootstrap_options *options,
                                   cb_bootstrap_result *result);

/* ---- Tests: p-values are two-sided ---- */

typedef struct cb_test {
    double statistic, p_value;
} cb_test;

/* Is the mean of paired differences 0?  Share of the sign patterns whose mean is as far from 0: of all 2^n when these are no more than
 * `resamples` (0: 10000), else (hits + 1) / (resamples + 1) of random ones (Phipson, Smyth 2010).  statistic: the mean. */
CB_API cb_test cb_permutation_paired(const double *differences, size_t n, size_t resamples, uint64_t seed);
/* Are two samples of one distribution?  The same over divisions of all values into samples of these sizes; statistic: mean a - mean b. */
CB_API cb_test cb_permutation_two(const double *a, size_t a_count, const double *b, size_t b_count, size_t resamples, uint64_t seed);
/* Wilcoxon's signed ranks (1945): zeros are left out; statistic: the smaller sum of ranks.  Up to 50 differences the exact
 * distribution, given the ties; beyond, the normal one with its variance corrected for ties. */
CB_API cb_test cb_wilcoxon(const double *differences, size_t n);
/* McNemar's test (1947) of items that only the first (`only_a`) or only the second got right.  Exact: binomial, statistic: the smaller
 * number.  Else chi-squared with one degree of freedom, (|a - b| - 1)^2 / (a + b) with the correction for continuity (Edwards 1948). */
CB_API cb_test cb_mcnemar_exact(int64_t only_a, int64_t only_b);
CB_API cb_test cb_mcnemar_chi2(int64_t only_a, int64_t only_b, bool correction);

/* p-values adjusted for being n: of the family-wise error (Holm 1979), of the false discovery rate (Benjamini, Hochberg 1995).
 * adjusted (n) may be p. */
CB_API bool cb_adjust_holm(const double *p, size_t n, double *adjusted);
CB_API bool cb_adjust_benjamini_hochberg(const double *p, size_t n, double *adjusted);

#ifdef __cplusplus
}
#endif
#endif
