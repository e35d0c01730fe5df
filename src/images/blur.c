/* blur.c: defocused lens, frosted glass, motion, zoom, and a Gaussian. */
#include <math.h>

#include "images/corrupt.h"

bool cb_corrupt_gaussian_blur(const cb_corruption_call *call, cb_field *f)
{
    static const double sigma[2][5] = {{1, 2, 3, 4, 6}, {.4, .6, .7, .8, 1}};
    return cb_field_gaussian(f, sigma[call->small][call->severity], 4, CB_EDGE_NEAREST);
}

/* ---- defocus: a disk ---- */

enum { MOST_SIDE = 21 };

/* The points of a grid in a circle, smoothed a little. */
static bool disk(double radius, double smoothing, cb_field *out)
{
    int reach = radius <= 8 ? 8 : (int)radius, side = 2 * reach + 1;
    double kernel[5], sum = 0, points = 0, weights[25];
    int n = radius <= 8 ? 3 : 5;
    if (!cb_field_make(out, side, side, 1))
        return false;
    for (int y = -reach; y <= reach; y++)
        for (int x = -reach; x <= reach; x++)
            points += out->values[(y + reach) * side + x + reach] = x * x + y * y <= radius * radius;
    for (int i = 0; i < side * side; i++)
        out->values[i] /= points;
    for (int i = 0, middle = n / 2; i < n; i++)
        sum += kernel[i] = exp(-(i - middle) * (i - middle) / (2 * smoothing * smoothing));
    for (int i = 0; i < n * n; i++)
        weights[i] = kernel[i / n] * kernel[i % n] / (sum * sum);
    return cb_field_filter(out, weights, n, CB_EDGE_MIRROR);
}

bool cb_corrupt_defocus_blur(const cb_corruption_call *call, cb_field *f)
{
    static const double radius_smoothing[2][5][2] = {{{3, .1}, {4, .5}, {6, .5}, {8, .5}, {10, .5}},
                                                     {{.3, .4}, {.4, .5}, {.5, .6}, {1, .2}, {1.5, .1}}};
    const double *c = radius_smoothing[call->small][call->severity];
    cb_field kernel = {0};
    bool ok = disk(c[0], c[1], &kernel) && cb_field_filter(f, kernel.values, (int)kernel.width, CB_EDGE_MIRROR);
    cb_field_free(&kernel);
    return ok;
}

/* ---- glass: blurred, pixels moved, blurred ---- */

/* Each pixel takes the colour of one close by.  (The published images were made by what looks like an exchange, but one of the two is lost
 * in it: numpy's rows are views.) */
static void scatter(cb_rng *rng, int64_t most, cb_field *f)
{
    for (int64_t y = f->height - most; y > most; y--)
        for (int64_t x = f->width - most; x > most; x--) {
            int64_t dx = (int64_t)cb_rng_below(rng, (uint64_t)(2 * most)) - most,
                    dy = (int64_t)cb_rng_below(rng, (uint64_t)(2 * most)) - most;
            for (int c = 0; c < f->channels; c++)
                f->values[(y * f->width + x) * f->channels + c] = f->values[((y + dy) * f->width + x + dx) * f->channels + c];
        }
}

bool cb_corrupt_glass_blur(const cb_corruption_call *call, cb_field *f)
{
    static const struct {
        double sigma;
        int most, times;
    } settings[2][5] = {{{.7, 1, 2}, {.9, 2, 1}, {1, 2, 3}, {1.1, 3, 2}, {1.5, 4, 2}},
                        {{.05, 1, 1}, {.25, 1, 1}, {.4, 1, 1}, {.25, 1, 2}, {.4, 1, 2}}};
    double sigma = settings[call->small][call->severity].sigma;
    if (!cb_field_gaussian(f, sigma, 4, CB_EDGE_NEAREST))
        return false;
    for (int64_t i = 0; i < f->width * f->height * f->channels; i++)
        f->values[i] = floor(f->values[i] * 255) / 255;
    for (int i = 0; i < settings[call->small][call->severity].times; i++)
        scatter(call->rng, settings[call->small][call->severity].most, f);
    return cb_field_gaussian(f, sigma, 4, CB_EDGE_NEAREST);
}

/* ---- movement ---- */

bool cb_corrupt_motion_blur(const cb_corruption_call *call, cb_field *f)
{
    static const double radius_sigma[2][5][2] = {{{10, 3}, {15, 5}, {15, 8}, {15, 12}, {20, 15}},
                                                 {{6, 1}, {6, 1.5}, {6, 2}, {8, 2}, {9, 2.5}}};
    const double *c = radius_sigma[call->small][call->severity];
    return cb_field_motion(f, c[0], c[1], 90 * cb_rng_uniform(call->rng) - 45);
}

bool cb_corrupt_zoom_blur(const cb_corruption_call *call, cb_field *f)
{
    static const double end_step[2][5][2] = {{{1.11, .01}, {1.16, .01}, {1.21, .02}, {1.26, .02}, {1.31, .03}},
                                             {{1.06, .01}, {1.11, .01}, {1.16, .01}, {1.21, .01}, {1.26, .01}}};
    double end = end_step[call->small][call->severity][0], step = end_step[call->small][call->severity][1];
    /* as numpy's arange() counts, with its roundings */
    int times = (int)ceil((end - 1) / step);
    step = (1 + step) - 1;
    int64_t count = f->width * f->height * f->channels;
    double *sum = cb_calloc((size_t)count, sizeof *sum);
    bool ok = sum;
    for (int i = 0; ok && i < times; i++) {
        cb_field larger = {0};
        ok = cb_field_zoom(f, 1 + i * step, &larger);
        for (int64_t k = 0; ok && k < count; k++)
            sum[k] += larger.values[k];
        cb_field_free(&larger);
    }
    for (int64_t k = 0; ok && k < count; k++)
        f->values[k] = (f->values[k] + sum[k]) / (times + 1);
    cb_free(sum);
    return ok;
}
