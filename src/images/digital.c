/* digital.c: contrast, saturation, elastic deformation, coarse pixels, JPEG. */
#include <math.h>
#include <string.h>

#include "images/corrupt.h"
#include "images/jpeg.h"

bool cb_corrupt_contrast(const cb_corruption_call *call, cb_field *f)
{
    static const double kept[2][5] = {{.4, .3, .2, .1, .05}, {.75, .5, .4, .3, .15}};
    int64_t pixels = f->width * f->height;
    for (int c = 0; c < f->channels; c++) {
        double mean = 0;
        for (int64_t i = 0; i < pixels; i++)
            mean += f->values[i * f->channels + c] / (double)pixels;
        for (int64_t i = 0; i < pixels; i++) {
            double *value = &f->values[i * f->channels + c];
            *value = (*value - mean) * kept[call->small][call->severity] + mean;
        }
    }
    return true;
}

/* ---- saturation ---- */

void cb_field_rgb_to_hsv(double *rgb)
{
    double r = rgb[0], g = rgb[1], b = rgb[2], most = fmax(r, fmax(g, b)), range = most - fmin(r, fmin(g, b)), hue = 0;
    if (range > 0) {
        /* of colours that are equally strong the last decides */
        hue = b == most ? 4 + (r - g) / range : g == most ? 2 + (b - r) / range : (g - b) / range;
        hue /= 6;
        hue -= floor(hue);
    }
    rgb[0] = hue;
    rgb[1] = most > 0 ? range / most : 0;
    rgb[2] = most;
}

void cb_field_hsv_to_rgb(double *hsv)
{
    double h = hsv[0] * 6, s = hsv[1], v = hsv[2], f = h - floor(h), p = v * (1 - s), q = v * (1 - f * s), t = v * (1 - (1 - f) * s);
    const double colors[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
    memcpy(hsv, colors[(int)floor(h) % 6], sizeof colors[0]);
}

bool cb_corrupt_saturate(const cb_corruption_call *call, cb_field *f)
{
    static const double factor_added[2][5][2] = {{{.3, 0}, {.1, 0}, {2, 0}, {5, .1}, {20, .2}},
                                                 {{.3, 0}, {.1, 0}, {1.5, 0}, {2, .1}, {2.5, .2}}};
    const double *c = factor_added[call->small][call->severity];
    for (double *at = f->values, *end = at + 3 * f->width * f->height; at < end; at += 3) {
        cb_field_rgb_to_hsv(at);
        at[1] = cb_field_unit(at[1] * c[0] + c[1]);
        cb_field_hsv_to_rgb(at);
    }
    return true;
}

/* ---- through an image of 8 bits ---- */

static bool put_back(cb_field *f, const cb_image *image)
{
    for (size_t i = 0; i < cb_image_bytes(image); i++)
        f->values[i] = image->pixels[i] / 255.0;
    return true;
}

/* The levels that the field was made of. */
static bool levels_of(const cb_field *f, cb_image *image)
{
    if (!cb_image_make(image, f->width, f->height, f->channels, 8))
        return false;
    for (size_t i = 0; i < cb_image_bytes(image); i++)
        image->pixels[i] = (uint8_t)lrint(255 * f->values[i]);
    return true;
}

bool cb_corrupt_pixelate(const cb_corruption_call *call, cb_field *f)
{
    static const double sides[2][5] = {{.6, .5, .4, .3, .25}, {.95, .9, .85, .75, .65}};
    double c = sides[call->small][call->severity];
    int64_t width = (int64_t)((double)f->width * c), height = (int64_t)((double)f->height * c);
    cb_image image = {0}, coarse = {0}, again = {0};
    bool ok = levels_of(f, &image) && cb_image_resize(&image, width ? width : 1, height ? height : 1, CB_RESAMPLE_BOX, NULL, &coarse) &&
              cb_image_resize(&coarse, f->width, f->height, CB_RESAMPLE_BOX, NULL, &again) && put_back(f, &again);
    cb_image_free(&image);
    cb_image_free(&coarse);
    cb_image_free(&again);
    return ok;
}

bool cb_corrupt_jpeg(const cb_corruption_call *call, cb_field *f)
{
    static const int quality[2][5] = {{25, 18, 15, 10, 7}, {80, 65, 58, 50, 40}};
    cb_image image = {0}, again = {0};
    cb_string file = {0};
    bool ok = levels_of(f, &image) && cb_jpeg_encode(&image, quality[call->small][call->severity], &file) &&
              cb_image_decode("jpeg_compression", file.data, file.length, NULL, &again) && put_back(f, &again);
    cb_image_free(&image);
    cb_image_free(&again);
    cb_string_free(&file);
    return ok;
}

/* ---- elastic ---- */

/* The affine map (x, y) -> (m0 x + m1 y + m2, m3 x + m4 y + m5) that takes three points to three others: two systems of three equations by
 * Cramer's rule. */
static void map_points(const double from[3][2], const double to[3][2], double m[6])
{
    double det = (from[1][0] - from[0][0]) * (from[2][1] - from[0][1]) - (from[2][0] - from[0][0]) * (from[1][1] - from[0][1]);
    for (int k = 0; k < 2; k++) {
        double a = to[1][k] - to[0][k], b = to[2][k] - to[0][k];
        m[3 * k] = (a * (from[2][1] - from[0][1]) - b * (from[1][1] - from[0][1])) / det;
        m[3 * k + 1] = (b * (from[1][0] - from[0][0]) - a * (from[2][0] - from[0][0])) / det;
        m[3 * k + 2] = to[0][k] - m[3 * k] * from[0][0] - m[3 * k + 1] * from[0][1];
    }
}

/* Where each pixel of the result comes from under a map that moves three points around the middle at random. */
static void random_affine(cb_rng *rng, double most, int64_t width, int64_t height, double m[6])
{
    int64_t third = (width < height ? width : height) / 3, down = height / 2,
            across = width / 2; /* whole numbers, and x from the height, as published */
    double x = (double)down, y = (double)across, side = (double)third;
    const double from[3][2] = {{x + side, y + side}, {x + side, y - side}, {x - side, y - side}};
    double to[3][2];
    for (int i = 0; i < 6; i++)
        to[i / 2][i % 2] = from[i / 2][i % 2] + most * (2 * cb_rng_uniform(rng) - 1);
    map_points(to, from, m); /* the other way round: from the result to the image */
}

static bool random_field(cb_rng *rng, double sigma, double alpha, int64_t width, int64_t height, cb_field *out)
{
    if (!cb_field_make(out, width, height, 1))
        return false;
    for (int64_t i = 0; i < width * height; i++)
        out->values[i] = 2 * cb_rng_uniform(rng) - 1;
    if (!cb_field_gaussian(out, sigma, 3, CB_EDGE_REFLECT))
        return false;
    for (int64_t i = 0; i < width * height; i++)
        out->values[i] *= alpha;
    return true;
}

/* Reads a field at places moved by (dx, dy), after or without an affine map. */
static bool deform(cb_field *f, const double m[6], const cb_field *dx, const cb_field *dy, cb_edge edge)
{
    cb_field out = {0};
    if (!cb_field_make(&out, f->width, f->height, f->channels))
        return false;
    for (int64_t i = 0; i < f->width * f->height; i++) {
        int64_t column = i % f->width, row = i / f->width;
        double x = (double)column, y = (double)row;
        double at_x = m ? m[0] * x + m[1] * y + m[2] : x + dx->values[i], at_y = m ? m[3] * x + m[4] * y + m[5] : y + dy->values[i];
        for (int c = 0; c < f->channels; c++)
            out.values[i * f->channels + c] = cb_field_at(f, at_x, at_y, c, edge);
    }
    cb_field_free(f);
    *f = out;
    return true;
}

/* Simard et al. 2003; the sizes are those of 244 pixels, as published, and of 32. */
bool cb_corrupt_elastic(const cb_corruption_call *call, cb_field *f)
{
    static const double alpha_sigma_affine[2][5][3] = {{{244 * 2, 244 * .7, 244 * .1},
                                                        {244 * 2, 244 * .08, 244 * .2},
                                                        {244 * .05, 244 * .01, 244 * .02},
                                                        {244 * .07, 244 * .01, 244 * .02},
                                                        {244 * .12, 244 * .01, 244 * .02}},
                                                       {{0, 0, 32 * .08},
                                                        {32 * .05, 32 * .2, 32 * .07},
                                                        {32 * .08, 32 * .06, 32 * .06},
                                                        {32 * .1, 32 * .04, 32 * .05},
                                                        {32 * .1, 32 * .03, 32 * .03}}};
    const double *c = alpha_sigma_affine[call->small][call->severity];
    double m[6];
    cb_field dx = {0}, dy = {0};
    random_affine(call->rng, c[2], f->width, f->height, m);
    bool ok = random_field(call->rng, c[1], c[0], f->width, f->height, &dx) &&
              random_field(call->rng, c[1], c[0], f->width, f->height, &dy) && deform(f, m, NULL, NULL, CB_EDGE_MIRROR) &&
              deform(f, NULL, &dx, &dy, CB_EDGE_REFLECT);
    cb_field_free(&dx);
    cb_field_free(&dy);
    return ok;
}
