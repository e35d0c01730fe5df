/* noise.c: noise of sensors and lines: Gaussian, shot (Poisson), impulse (salt and pepper), speckle. */
#include <math.h>

#include "images/corrupt.h"

static int64_t values_of(const cb_field *f)
{
    return f->width * f->height * f->channels;
}

bool cb_corrupt_gaussian_noise(const cb_corruption_call *call, cb_field *f)
{
    static const double sigma[2][5] = {{.08, .12, .18, .26, .38}, {.04, .06, .08, .09, .10}};
    for (int64_t i = 0; i < values_of(f); i++)
        f->values[i] += sigma[call->small][call->severity] * cb_rng_normal(call->rng);
    return true;
}

bool cb_corrupt_speckle_noise(const cb_corruption_call *call, cb_field *f)
{
    static const double sigma[2][5] = {{.15, .2, .35, .45, .6}, {.06, .1, .12, .16, .2}};
    for (int64_t i = 0; i < values_of(f); i++)
        f->values[i] += f->values[i] * sigma[call->small][call->severity] * cb_rng_normal(call->rng);
    return true;
}

/* Small means: as many uniform numbers as their product stays above e^-mean (Knuth). */
static double poisson_small(cb_rng *rng, double mean)
{
    double floor_ = exp(-mean), product = cb_rng_uniform(rng);
    int count = 0;
    for (; product > floor_; count++)
        product *= cb_rng_uniform(rng);
    return count;
}

/* Transformed rejection with squeeze: Hoermann 1993, The transformed rejection method for generating Poisson random variables, PTRS. */
static double poisson_large(cb_rng *rng, double mean)
{
    double b = 0.931 + 2.53 * sqrt(mean), a = -0.059 + 0.02483 * b, inverse = 1.1239 + 1.1328 / (b - 3.4),
           v_most = 0.9277 - 3.6224 / (b - 2);
    for (;;) {
        double u = cb_rng_uniform(rng) - 0.5, v = 1 - cb_rng_uniform(rng), us = 0.5 - fabs(u);
        double k = floor((2 * a / us + b) * u + mean + 0.43);
        if (us >= 0.07 && v <= v_most)
            return k;
        if (k < 0 || (us < 0.013 && v > us))
            continue;
        if (log(v * inverse / (a / (us * us) + b)) <= k * log(mean) - mean - lgamma(k + 1))
            return k;
    }
}

bool cb_corrupt_shot_noise(const cb_corruption_call *call, cb_field *f)
{
    static const double photons[2][5] = {{60, 25, 12, 5, 3}, {500, 250, 100, 75, 50}};
    double c = photons[call->small][call->severity];
    for (int64_t i = 0; i < values_of(f); i++) {
        double mean = f->values[i] * c;
        f->values[i] = (mean < 10 ? poisson_small(call->rng, mean) : poisson_large(call->rng, mean)) / c;
    }
    return true;
}

bool cb_corrupt_impulse_noise(const cb_corruption_call *call, cb_field *f)
{
    static const double share[2][5] = {{.03, .06, .09, .17, .27}, {.01, .02, .03, .05, .07}};
    for (int64_t i = 0; i < values_of(f); i++) {
        double draw = cb_rng_uniform(call->rng), c = share[call->small][call->severity];
        if (draw < c)
            f->values[i] = draw < c / 2; /* half of them white */
    }
    return true;
}
