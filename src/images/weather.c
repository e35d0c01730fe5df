/* weather.c: snow, frost, fog, and bright light. */
#include <math.h>

#include "images/corrupt.h"

static double luma(const double *rgb)
{
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
}

/* ---- clouds ---- */

typedef struct clouds {
    int64_t size; /* a power of two; the map goes round at its edges */
    double *height;
} clouds;

static double *at(const clouds *c, int64_t y, int64_t x)
{
    return &c->height[(y & (c->size - 1)) * c->size + (x & (c->size - 1))];
}

static double around(const clouds *c, int64_t y, int64_t x, const int64_t places[4][2], double wibble, cb_rng *rng)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += *at(c, y + places[i][0], x + places[i][1]);
    return sum / 4 + wibble * wibble * (2 * cb_rng_uniform(rng) - 1);
}

/* Diamond-square: the middles of squares from their corners, then those of the diamonds that this makes; what is added at random shrinks by
 * `decay` from step to step. */
static void grow(const clouds *c, double decay, cb_rng *rng)
{
    double wibble = 100;
    *at(c, 0, 0) = 0;
    for (int64_t step = c->size; step >= 2; step /= 2, wibble /= decay) {
        int64_t h = step / 2;
        const int64_t corners[4][2] = {{-h, -h}, {-h, h}, {h, -h}, {h, h}}, sides[4][2] = {{-h, 0}, {h, 0}, {0, -h}, {0, h}};
        for (int64_t y = h; y < c->size; y += step)
            for (int64_t x = h; x < c->size; x += step)
                *at(c, y, x) = around(c, y, x, corners, wibble, rng);
        for (int64_t y = 0; y < c->size; y += h)
            for (int64_t x = y % step ? 0 : h; x < c->size; x += step)
                *at(c, y, x) = around(c, y, x, sides, wibble, rng);
    }
}

/* A map of 0 to 1, at least as large as the image and as the benchmark's. */
static bool make_clouds(const cb_corruption_call *call, const cb_field *f, double decay, clouds *c)
{
    c->size = call->small ? 32 : 256;
    while (c->size < f->width || c->size < f->height)
        c->size *= 2;
    c->height = cb_calloc((size_t)(c->size * c->size), sizeof *c->height);
    if (!c->height)
        return false;
    grow(c, decay, call->rng);
    double least = c->height[0], most = least;
    for (int64_t i = 0; i < c->size * c->size; i++) {
        least = fmin(least, c->height[i]);
        most = fmax(most, c->height[i]);
    }
    for (int64_t i = 0; i < c->size * c->size; i++)
        c->height[i] = most > least ? (c->height[i] - least) / (most - least) : 0;
    return true;
}

bool cb_corrupt_fog(const cb_corruption_call *call, cb_field *f)
{
    static const double density_decay[2][5][2] = {{{1.5, 2}, {2, 2}, {2.5, 1.7}, {2.5, 1.5}, {3, 1.4}},
                                                  {{.2, 3}, {.5, 3}, {.75, 2.5}, {1, 2}, {1.5, 1.75}}};
    const double *c = density_decay[call->small][call->severity];
    clouds fog;
    if (!make_clouds(call, f, c[1], &fog))
        return false;
    double most = 0;
    int64_t count = f->width * f->height * f->channels, row = f->width * f->channels;
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, f->values[i]);
    for (int64_t i = 0; i < count; i++)
        f->values[i] = (f->values[i] + c[0] * *at(&fog, i / row, i % row / f->channels)) * most / (most + c[0]);
    cb_free(fog.height);
    return true;
}

/* ---- frost ---- */

/* Crystals: ridges where clouds of three fineness cross their middle height, more towards the edge of the pane than in its middle. */
static bool draw_frost(const cb_corruption_call *call, const cb_field *f, double *frost)
{
    static const double decays[3] = {1.9, 1.6, 1.4}, parts[3] = {0.5, 0.3, 0.2};
    int64_t count = f->width * f->height;
    for (int layer = 0; layer < 3; layer++) {
        clouds c;
        if (!make_clouds(call, f, decays[layer], &c))
            return false;
        for (int64_t i = 0; i < count; i++) {
            double ridge = 1 - fabs(2 * *at(&c, i / f->width, i % f->width) - 1);
            frost[i] += parts[layer] * ridge * ridge;
        }
        cb_free(c.height);
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t column = i % f->width, row = i / f->width;
        double x = 2 * (double)column / (double)f->width - 1, y = 2 * (double)row / (double)f->height - 1;
        frost[i] = cb_field_unit(frost[i] * (0.7 + 0.4 * fmax(fabs(x), fabs(y))));
    }
    return true;
}

bool cb_corrupt_frost(const cb_corruption_call *call, cb_field *f)
{
    static const double image_frost[2][5][2] = {{{1, .4}, {.8, .6}, {.7, .7}, {.65, .7}, {.6, .75}},
                                                {{1, .2}, {1, .3}, {.9, .4}, {.85, .4}, {.75, .45}}};
    static const double tint[3] = {0.88, 0.95, 1}; /* ice is a little blue */
    const double *c = image_frost[call->small][call->severity];
    int64_t count = f->width * f->height;
    double *frost = cb_calloc((size_t)count, sizeof *frost);
    bool ok = frost && draw_frost(call, f, frost);
    for (int64_t i = 0; ok && i < 3 * count; i++)
        f->values[i] = c[0] * f->values[i] + c[1] * tint[i % 3] * frost[i / 3];
    cb_free(frost);
    return ok;
}

/* ---- snow ---- */

typedef struct snowfall {
    double mean, sigma, zoom, threshold, radius, blur, kept;
} snowfall;

/* Flakes: noise, enlarged, all but its peaks left out, drawn down by the wind. */
static bool make_flakes(const cb_corruption_call *call, const snowfall *s, const cb_field *f, cb_field *flakes)
{
    cb_field noise = {0};
    bool ok = cb_field_make(&noise, f->width, f->height, 1);
    int64_t count = f->width * f->height;
    for (int64_t i = 0; ok && i < count; i++)
        noise.values[i] = s->mean + s->sigma * cb_rng_normal(call->rng);
    ok = ok && cb_field_zoom(&noise, s->zoom, flakes);
    for (int64_t i = 0; ok && i < count; i++)
        flakes->values[i] = flakes->values[i] < s->threshold ? 0 : floor(cb_field_unit(flakes->values[i]) * 255) / 255;
    cb_field_free(&noise);
    return ok && cb_field_motion(flakes, s->radius, s->blur, 90 * cb_rng_uniform(call->rng) - 135);
}

bool cb_corrupt_snow(const cb_corruption_call *call, cb_field *f)
{
    static const snowfall settings[2][5] = {{{.1, .3, 3, .5, 10, 4, .8},
                                             {.2, .3, 2, .5, 12, 4, .7},
                                             {.55, .3, 4, .9, 12, 8, .7},
                                             {.55, .3, 4.5, .85, 12, 8, .65},
                                             {.55, .3, 2.5, .85, 12, 12, .55}},
                                            {{.1, .2, 1, .6, 8, 3, .95},
                                             {.1, .2, 1, .5, 10, 4, .9},
                                             {.15, .3, 1.75, .55, 10, 4, .9},
                                             {.25, .3, 2.25, .6, 12, 6, .85},
                                             {.3, .3, 1.25, .65, 14, 12, .8}}};
    const snowfall *s = &settings[call->small][call->severity];
    cb_field flakes = {0};
    bool ok = make_flakes(call, s, f, &flakes);
    int64_t count = f->width * f->height;
    for (int64_t i = 0; ok && i < count; i++) {
        double *rgb = f->values + 3 * i, whitened = 1.5 * luma(rgb) + 0.5;
        double fallen = flakes.values[i] + flakes.values[count - 1 - i]; /* and the same turned by half a circle */
        for (int c = 0; c < 3; c++)
            rgb[c] = s->kept * rgb[c] + (1 - s->kept) * fmax(rgb[c], whitened) + fallen;
    }
    cb_field_free(&flakes);
    return ok;
}

/* ---- light ---- */

bool cb_corrupt_brightness(const cb_corruption_call *call, cb_field *f)
{
    static const double added[2][5] = {{.1, .2, .3, .4, .5}, {.05, .1, .15, .2, .3}};
    for (double *at = f->values, *end = at + 3 * f->width * f->height; at < end; at += 3) {
        cb_field_rgb_to_hsv(at);
        at[2] = cb_field_unit(at[2] + added[call->small][call->severity]);
        cb_field_hsv_to_rgb(at);
    }
    return true;
}
