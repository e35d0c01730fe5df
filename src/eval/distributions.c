/* distributions.c: probabilities and quantiles of the normal, gamma, beta, chi-squared, t and F distributions.
 *
 * All but the normal one are incomplete gamma and beta functions: a density times a series or a continued fraction.  The densities
 * are Loader's ("Fast and accurate computation of binomial probabilities", 2000), whose saddle-point form does not cancel for large
 * parameters.  Quantiles are found by bisection over the bit patterns of positive doubles, which has no bad starting points. */
#include <math.h>
#include <string.h>

#include "cambium/statistics.h"

static CB_COLD double refuse(const char *what, const char *name, double found, const char *expected)
{
    return cb_fail(CB_ERR_ARGUMENT, "%s: %s is %g, expected %s", what, name, found, expected), NAN;
}

static bool is_positive(const char *what, const char *name, double value)
{
    if (value > 0 && isfinite(value))
        return true;
    refuse(what, name, value, "a positive number");
    return false;
}

/* ---- densities ---- */

/* log n! less Stirling's formula sqrt(2 pi n) (n / e)^n, Loader's delta(n). */
static double stirling_error(double n)
{
    if (n < 16)
        return lgamma(n + 1) - (n + 0.5) * log(n) + n - 0.5 * log(2 * M_PI);
    double s = 1 / (n * n);
    return (1.0 / 12 - s * (1.0 / 360 - s * (1.0 / 1260 - s * (1.0 / 1680 - s * (1.0 / 1188 - s * 691.0 / 360360))))) / n;
}

/* x log(x / m) + m - x, Loader's deviance. */
static double deviance(double x, double m)
{
    double d = x - m, v = d / (x + m);
    if (fabs(v) >= 0.1)
        return x * log(x / m) + m - x;
    double sum = d * v, term = 2 * x * v, last; /* log(x / m) = 2 atanh v */
    int k = 3;
    do {
        last = sum;
        term *= v * v;
        sum += term / k;
        k += 2;
    } while (sum != last);
    return sum;
}

/* x^a e^-x / Gamma(a + 1) */
static double poisson_density(double a, double x)
{
    return exp(-stirling_error(a) - deviance(a, x)) / sqrt(2 * M_PI * a);
}

/* x^a y^b Gamma(a + b + 1) / (Gamma(a + 1) Gamma(b + 1)), y = 1 - x */
static double binomial_density(double a, double b, double x, double y)
{
    double n = a + b, errors = stirling_error(n) - stirling_error(a) - stirling_error(b);
    return exp(errors - deviance(a, n * x) - deviance(b, n * y)) * sqrt(n / (2 * M_PI * a * b));
}

/* ---- incomplete functions ---- */

/* b0 + a1 / (b1 + a2 / (b2 + ...)) by Lentz' method as Thompson and Barnett (1986) have it. */
typedef struct fraction {
    double value, c, d;
} fraction;

static fraction fraction_begin(double b0)
{
    double value = b0 == 0 ? 1e-300 : b0;
    return (fraction){value, value, 0};
}

/* Adds a term; true when it changed nothing any more. */
static bool fraction_add(fraction *f, double a, double b)
{
    f->d = b + a * f->d;
    f->c = b + a / f->c;
    f->d = 1 / (f->d == 0 ? 1e-300 : f->d);
    f->c = f->c == 0 ? 1e-300 : f->c;
    f->value *= f->c * f->d;
    return fabs(f->c * f->d - 1) < 1e-16;
}

enum { MOST_TERMS = 1000000 }; /* about the square root of the largest parameter is needed */

/* P(a, x) by its series, Abramowitz and Stegun 6.5.29; x < a + 1. */
static double gamma_lower(double a, double x)
{
    double term = 1, sum = 1;
    for (int k = 1; k < MOST_TERMS && term > 1e-17 * sum; k++)
        sum += term *= x / (a + k);
    return poisson_density(a, x) * sum;
}

/* Q(a, x) by the fraction 6.5.31 in its even form. */
static double gamma_upper(double a, double x)
{
    fraction f = fraction_begin(x + 1 - a);
    for (int k = 1; k < MOST_TERMS && !fraction_add(&f, k * (a - k), x + 2 * k + 1 - a); k++)
        ;
    return poisson_density(a, x) * a / f.value;
}

/* I_x(a, b) for x < (a + 1) / (a + b + 2) by the fraction 26.5.8. */
static double beta_lower(double x, double y, double a, double b)
{
    fraction f = fraction_begin(1);
    for (int m = 0; m < MOST_TERMS; m++) {
        double even = a + 2 * m;
        bool done = fraction_add(&f, -(a + m) * (a + b + m) * x / (even * (even + 1)), 1);
        double k = m + 1;
        if (fraction_add(&f, k * (b - k) * x / ((even + 1) * (even + 2)), 1) && done)
            break;
    }
    return binomial_density(a, b, x, y) * b / (a + b) / f.value;
}

/* Of x and y = 1 - x, both given: the small one of the two has digits that the other has not. */
static double beta_of(double x, double y, double a, double b, cb_tail tail)
{
    if (x <= 0 || y <= 0)
        return (x <= 0) == (tail == CB_UPPER);
    bool small = x < (a + 1) / (a + b + 2);
    double part = small ? beta_lower(x, y, a, b) : beta_lower(y, x, b, a);
    return fmin(small == (tail == CB_LOWER) ? part : 1 - part, 1);
}

/* ---- probabilities ---- */

double cb_normal_probability(double x, cb_tail tail)
{
    if (isnan(x))
        return refuse("normal_probability", "x", x, "a number");
    return 0.5 * erfc((tail == CB_LOWER ? -x : x) * M_SQRT1_2);
}

double cb_gamma_probability(double x, double shape, cb_tail tail)
{
    if (!is_positive("gamma_probability", "shape", shape))
        return NAN;
    if (isnan(x))
        return refuse("gamma_probability", "x", x, "a number");
    if (x <= 0 || isinf(x))
        return (x <= 0) == (tail == CB_UPPER);
    bool small = x < shape + 1;
    double part = small ? gamma_lower(shape, x) : gamma_upper(shape, x);
    return fmin(small == (tail == CB_LOWER) ? part : 1 - part, 1);
}

double cb_beta_probability(double x, double a, double b, cb_tail tail)
{
    if (!is_positive("beta_probability", "a", a) || !is_positive("beta_probability", "b", b))
        return NAN;
    if (isnan(x))
        return refuse("beta_probability", "x", x, "a number");
    return beta_of(x, 1 - x, a, b, tail);
}

double cb_chi2_probability(double x, double freedom, cb_tail tail)
{
    return cb_gamma_probability(x / 2, freedom / 2, tail);
}

double cb_t_probability(double x, double freedom, cb_tail tail)
{
    if (!is_positive("t_probability", "freedom", freedom))
        return NAN;
    if (isnan(x))
        return refuse("t_probability", "x", x, "a number");
    double ratio = fabs(x) / sqrt(freedom), far; /* beyond |x| on one side */
    if (ratio < 1e8)
        far = beta_of(1 / (1 + ratio * ratio), ratio * ratio / (1 + ratio * ratio), freedom / 2, 0.5, CB_LOWER) / 2;
    else /* the square would overflow long before a tail of few degrees of freedom is small */
        far = exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - freedom * log(ratio)) / (freedom * sqrt(M_PI));
    return (x > 0) == (tail == CB_UPPER) ? far : 1 - far;
}

double cb_f_probability(double x, double freedom1, double freedom2, cb_tail tail)
{
    if (!is_positive("f_probability", "freedom1", freedom1) || !is_positive("f_probability", "freedom2", freedom2))
        return NAN;
    if (isnan(x))
        return refuse("f_probability", "x", x, "a number");
    if (x <= 0 || isinf(x))
        return (x <= 0) == (tail == CB_UPPER);
    double ratio = freedom1 / freedom2 * x;
    return beta_of(ratio / (1 + ratio), 1 / (1 + ratio), freedom1 / 2, freedom2 / 2, tail);
}

/* ---- quantiles ---- */

typedef double tail_probability(double x, const double *parameters, cb_tail tail);

/* The smallest x in [0, most] whose probability reaches p; of positive doubles, greater ones have greater bit patterns. */
static double solve(tail_probability *probability, const double *parameters, double p, cb_tail tail, double most)
{
    if (p == 0 || p == 1)
        return (p == 1) == (tail == CB_LOWER) ? most : 0;
    uint64_t low = 0, high;
    memcpy(&high, &most, sizeof high);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        double x;
        memcpy(&x, &middle, sizeof x);
        double reached = probability(x, parameters, tail);
        if (tail == CB_LOWER ? reached < p : reached > p)
            low = middle + 1;
        else
            high = middle;
    }
    double x;
    memcpy(&x, &low, sizeof x);
    return x;
}

static bool is_probability(const char *what, double p)
{
    if (p >= 0 && p <= 1)
        return true;
    refuse(what, "p", p, "0 to 1");
    return false;
}

/* Wichura's AS 241 (1988), PPND16. */
double cb_normal_quantile(double p, cb_tail tail)
{
    if (!is_probability("normal_quantile", p))
        return NAN;
    double sign = tail == CB_LOWER ? 1 : -1, q = p - 0.5;
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;
        double top =
            (((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r + 45921.953931549871457) * r +
                13731.693765509461125) *
                   r +
               1971.5909503065514427) *
                  r +
              133.14166789178437745) *
                 r +
             3.387132872796366608);
        double bottom =
            (((((((5226.495278852545925 * r + 28729.085735721942674) * r + 39307.89580009271061) * r + 21213.794301586595867) * r +
                5394.1960214247511077) *
                   r +
               687.1870074920579083) *
                  r +
              42.313330701600911252) *
                 r +
             1);
        return sign * q * top / bottom;
    }
    if (p == 0 || p == 1)
        return sign * (p == 0 ? -INFINITY : INFINITY);
    double r = sqrt(-log(q < 0 ? p : 1 - p)), top, bottom;
    if (r <= 5) {
        r -= 1.6;
        top = (((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r + 1.27045825245236838258) *
                      r +
                  3.64784832476320460504) *
                     r +
                 5.7694972214606914055) *
                    r +
                4.6303378461565452959) *
                   r +
               1.42343711074968357734);
        bottom =
            (((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r + 0.14810397642748007459) *
                    r +
                0.68976733498510000455) *
                   r +
               1.6763848301838038494) *
                  r +
              2.05319162663775882187) *
                 r +
             1);
    } else {
        r -= 5;
        top = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 0.0012426609473880784386) * r +
                   0.026532189526576123093) *
                      r +
                  0.29656057182850489123) *
                     r +
                 1.7848265399172913358) *
                    r +
                5.4637849111641143699) *
                   r +
               6.6579046435011037772);
        bottom = (((((((2.04426310338993978564e-15 * r + 1.4215117583164458887e-7) * r + 1.8463183175100546818e-5) * r +
                      7.868691311456132591e-4) *
                         r +
                     0.0148753612908506148525) *
                        r +
                    0.13692988092273580531) *
                       r +
                   0.59983220655588793769) *
                      r +
                  1);
    }
    return sign * (q < 0 ? -top : top) / bottom;
}

static double gamma_tail(double x, const double *parameters, cb_tail tail)
{
    return cb_gamma_probability(x, parameters[0], tail);
}

double cb_gamma_quantile(double p, double shape, cb_tail tail)
{
    if (!is_probability("gamma_quantile", p) || !is_positive("gamma_quantile", "shape", shape))
        return NAN;
    return solve(gamma_tail, &shape, p, tail, INFINITY);
}

static double beta_tail(double x, const double *parameters, cb_tail tail)
{
    return cb_beta_probability(x, parameters[0], parameters[1], tail);
}

double cb_beta_quantile(double p, double a, double b, cb_tail tail)
{
    if (!is_probability("beta_quantile", p) || !is_positive("beta_quantile", "a", a) || !is_positive("beta_quantile", "b", b))
        return NAN;
    return solve(beta_tail, (double[]){a, b}, p, tail, 1);
}

double cb_chi2_quantile(double p, double freedom, cb_tail tail)
{
    return 2 * cb_gamma_quantile(p, freedom / 2, tail);
}

static double t_tail(double x, const double *parameters, cb_tail tail)
{
    return cb_t_probability(x, parameters[0], tail);
}

double cb_t_quantile(double p, double freedom, cb_tail tail)
{
    if (!is_probability("t_quantile", p) || !is_positive("t_quantile", "freedom", freedom))
        return NAN;
    double sign = tail == CB_LOWER ? -1 : 1;
    if (p > 0.5)
        return -sign * solve(t_tail, &freedom, p, CB_LOWER, INFINITY);
    return sign * solve(t_tail, &freedom, p, CB_UPPER, INFINITY);
}

static double f_tail(double x, const double *parameters, cb_tail tail)
{
    return cb_f_probability(x, parameters[0], parameters[1], tail);
}

double cb_f_quantile(double p, double freedom1, double freedom2, cb_tail tail)
{
    if (!is_probability("f_quantile", p) || !is_positive("f_quantile", "freedom1", freedom1) ||
        !is_positive("f_quantile", "freedom2", freedom2))
        return NAN;
    return solve(f_tail, (double[]){freedom1, freedom2}, p, tail, INFINITY);
}
