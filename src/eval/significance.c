/* significance.c: tests of differences, and p-values that are several. */
#include <math.h>
#include <string.h>

#include "cambium/statistics.h"
#include "eval/check.h"

enum { DEFAULT_RESAMPLES = 10000 };

static const cb_test undefined = {NAN, NAN};

/* Rounding must not tell apart what is equal: distances this near the one observed count as reaching it. */
static double reach_of(double observed, double largest)
{
    return fabs(observed) - 1e-12 * largest;
}

/* ---- permutations ---- */

/* The mean with the signs of the bits: set is minus. */
static double signed_mean(const double *x, size_t n, const uint32_t *bits)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += bits[i / 32] >> (i % 32) & 1 ? -x[i] : x[i];
    return sum / (double)n;
}

cb_test cb_permutation_paired(const double *differences, size_t n, size_t resamples, uint64_t seed)
{
    if (!cb_check_finite("permutation_paired", "differences", differences, n) || !n)
        return undefined;
    size_t words = (n + 31) / 32;
    uint32_t *bits = cb_calloc(words, sizeof *bits);
    if (!bits)
        return undefined;
    resamples = resamples ? resamples : DEFAULT_RESAMPLES;
    bool exact = n < 32 && (UINT64_C(1) << n) <= resamples;
    size_t patterns = exact ? (size_t)1 << n : resamples, hits = 0;
    double observed = signed_mean(differences, n, bits), largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(differences[i]));
    for (size_t r = 0; r < patterns; r++) {
        cb_rng rng = {.seed = seed, .stream = r};
        for (size_t w = 0; w < words; w++)
            bits[w] = exact ? (uint32_t)r : cb_rng_u32(&rng);
        hits += fabs(signed_mean(differences, n, bits)) >= reach_of(observed, largest);
    }
    cb_free(bits);
    return (cb_test){observed, ((double)hits + !exact) / ((double)patterns + !exact)};
}

typedef struct two_samples {
    double *values; /* of both, the first sample's first */
    size_t *chosen; /* indices of the first sample */
    size_t first, all;
    double total, largest;
} two_samples;

static double difference_of_means(const two_samples *s, double sum)
{
    return sum / (double)s->first - (s->total - sum) / (double)(s->all - s->first);
}

/* The next of the sorted choices in lexicographic order; false after the last. */
static bool next_choice(two_samples *s)
{
    size_t i = s->first;
    while (i > 0 && s->chosen[i - 1] == s->all - s->first + i - 1)
        i--;
    if (!i)
        return false;
    s->chosen[i - 1]++;
    for (; i < s->first; i++)
        s->chosen[i] = s->chosen[i - 1] + 1;
    return true;
}

/* n over k, or anything above `most`. */
static double choices(size_t n, size_t k, double most)
{
    double count = 1;
    for (size_t i = 1; i <= k && count <= most; i++)
        count = count * (double)(n - k + i) / (double)i;
    return round(count);
}

static double share_of_all(two_samples *s, double reach)
{
    double hits = 0, count = 0;
    for (size_t i = 0; i < s->first; i++)
        s->chosen[i] = i;
    do {
        double sum = 0;
        for (size_t i = 0; i < s->first; i++)
            sum += s->values[s->chosen[i]];
        hits += fabs(difference_of_means(s, sum)) >= reach;
        count++;
    } while (next_choice(s));
    return hits / count;
}

/* The first places get random values; that their order is left from the replicate before does not matter. */
static double share_of_random(two_samples *s, double reach, size_t resamples, uint64_t seed)
{
    double hits = 0;
    for (size_t r = 0; r < resamples; r++) {
        cb_rng rng = {.seed = seed, .stream = r};
        double sum = 0;
        for (size_t i = 0; i < s->first; i++) {
            size_t other = i + (size_t)cb_rng_below(&rng, s->all - i);
            double value = s->values[other];
            s->values[other] = s->values[i];
            sum += s->values[i] = value;
        }
        hits += fabs(difference_of_means(s, sum)) >= reach;
    }
    return (hits + 1) / ((double)resamples + 1);
}

cb_test cb_permutation_two(const double *a, size_t a_count, const double *b, size_t b_count, size_t resamples, uint64_t seed)
{
    if (!cb_check_finite("permutation_two", "a", a, a_count) || !cb_check_finite("permutation_two", "b", b, b_count) || !a_count ||
        !b_count)
        return undefined;
    two_samples s = {.first = a_count, .all = a_count + b_count};
    s.values = cb_calloc(s.all, sizeof *s.values);
    s.chosen = cb_calloc(s.first, sizeof *s.chosen);
    cb_test result = undefined;
    if (s.values && s.chosen) {
        memcpy(s.values, a, a_count * sizeof *a);
        memcpy(s.values + a_count, b, b_count * sizeof *b);
        double sum = 0;
        for (size_t i = 0; i < s.all; i++) {
            sum += i < a_count ? s.values[i] : 0;
            s.total += s.values[i];
            s.largest = fmax(s.largest, fabs(s.values[i]));
        }
        resamples = resamples ? resamples : DEFAULT_RESAMPLES;
        result.statistic = difference_of_means(&s, sum);
        double reach = reach_of(result.statistic, s.largest);
        bool exact = choices(s.all, s.first, (double)resamples) <= (double)resamples;
        result.p_value = exact ? share_of_all(&s, reach) : share_of_random(&s, reach, resamples, seed);
    }
    cb_free(s.values);
    cb_free(s.chosen);
    return result;
}

/* ---- Wilcoxon ---- */

enum { MOST_EXACT = 50 }; /* 2^50 sign patterns are counted exactly in a double */

/* P(sum of the ranks with a plus <= limit), each sign as likely as the other; all are doubled, which makes ties whole. */
static double rank_sum_share(const double *ranks, size_t n, double limit)
{
    double counts[MOST_EXACT * (MOST_EXACT + 1) + 1] = {1}, share = 0;
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        size_t rank = (size_t)lround(2 * ranks[i]);
        sum += rank;
        for (size_t s = sum; s >= rank; s--)
            counts[s] += counts[s - rank];
    }
    for (size_t s = 0; s <= (size_t)lround(2 * limit); s++)
        share += counts[s];
    return ldexp(share, -(int)n);
}

static cb_test signed_ranks(const double *sizes, const double *signs, double *ranks, size_t n)
{
    double ties, minus = 0, plus = 0, count = (double)n;
    if (!cb_ranks(sizes, n, ranks, &ties))
        return undefined;
    for (size_t i = 0; i < n; i++)
        *(signs[i] < 0 ? &minus : &plus) += ranks[i];
    double smaller = fmin(minus, plus);
    if (n <= MOST_EXACT)
        return (cb_test){smaller, fmin(1, 2 * rank_sum_share(ranks, n, smaller))};
    double variance = count * (count + 1) * (2 * count + 1) / 24 - ties / 48;
    double z = (smaller - count * (count + 1) / 4) / sqrt(variance);
    return (cb_test){smaller, 2 * cb_normal_probability(z, CB_LOWER)};
}

cb_test cb_wilcoxon(const double *differences, size_t n)
{
    if (!cb_check_finite("wilcoxon", "differences", differences, n))
        return undefined;
    double *rows = cb_calloc(n, 3 * sizeof *rows), *sizes = rows, *signs = rows + n;
    if (!rows)
        return undefined;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (differences[i] != 0) {
            sizes[kept] = fabs(differences[i]);
            signs[kept++] = differences[i];
        }
    cb_test result = signed_ranks(sizes, signs, rows + 2 * n, kept);
    cb_free(rows);
    return result;
}

/* ---- McNemar ---- */

static bool are_counts(int64_t a, int64_t b)
{
    return (a >= 0 && b >= 0) ||
           cb_fail(CB_ERR_ARGUMENT, "mcnemar: the counts are %lld and %lld, expected none below 0", (long long)a, (long long)b) == CB_OK;
}

cb_test cb_mcnemar_exact(int64_t only_a, int64_t only_b)
{
    if (!are_counts(only_a, only_b))
        return undefined;
    double smaller = (double)(only_a < only_b ? only_a : only_b), larger = (double)only_a + (double)only_b - smaller;
    if (smaller == larger)
        return (cb_test){smaller, 1};
    return (cb_test){smaller, 2 * cb_beta_probability(0.5, larger, smaller + 1, CB_LOWER)}; /* twice P(X <= smaller), binomial */
}

cb_test cb_mcnemar_chi2(int64_t only_a, int64_t only_b, bool correction)
{
    if (!are_counts(only_a, only_b) || (!only_a && !only_b))
        return undefined;
    double distance = fabs((double)only_a - (double)only_b) - correction;
    double statistic = distance * distance / ((double)only_a + (double)only_b);
    return (cb_test){statistic, cb_chi2_probability(statistic, 1, CB_UPPER)};
}

/* ---- several p-values ---- */

/* The p-values in order, or NULL. */
static cb_ordered *order_p_values(const char *what, const double *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(p[i] >= 0 && p[i] <= 1))
            return cb_fail(CB_ERR_ARGUMENT, "%s: p[%zu] is %g, expected 0 to 1", what, i, p[i]), NULL;
    return cb_order(p, n);
}

bool cb_adjust_holm(const double *p, size_t n, double *adjusted)
{
    cb_ordered *sorted = order_p_values("adjust_holm", p, n);
    double largest = 0;
    for (size_t i = 0; sorted && i < n; i++) {
        largest = fmax(largest, fmin(1, (double)(n - i) * sorted[i].value));
        adjusted[sorted[i].index] = largest;
    }
    cb_free(sorted);
    return sorted != NULL;
}

bool cb_adjust_benjamini_hochberg(const double *p, size_t n, double *adjusted)
{
    cb_ordered *sorted = order_p_values("adjust_benjamini_hochberg", p, n);
    double smallest = 1;
    for (size_t i = n; sorted && i-- > 0;) {
        smallest = fmin(smallest, (double)n / (double)(i + 1) * sorted[i].value);
        adjusted[sorted[i].index] = smallest;
    }
    cb_free(sorted);
    return sorted != NULL;
}
