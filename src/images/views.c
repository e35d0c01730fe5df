/* views.c: see views.h.  Colours change as torchvision's functions on tensors change them, places by bilinear interpolation. */
#include "images/views.h"

#include <math.h>
#include <string.h>

#include "cambium/tensor.h"
#include "kernels/kernels.h"

enum { TAPS = 5 };

cb_view cb_view_same(void)
{
    return (cb_view){.color = {1, 1, 1, 0, 1}, .order = {0, 1, 2, 3, 4}, .scale = 1};
}

static double between(cb_rng *rng, double low, double high)
{
    return low + (high - low) * cb_rng_uniform(rng);
}

cb_view cb_view_draw(cb_rng *rng, int64_t height, int64_t width)
{
    static const double low[CB_VIEW_COLORS] = {0.6, 0.7, 0.5, -0.06, 0.7}, high[CB_VIEW_COLORS] = {1.4, 1.3, 1.5, 0.06, 1.3};
    cb_view v = cb_view_same();
    for (int i = 0; i < CB_VIEW_COLORS; i++)
        v.color[i] = between(rng, low[i], high[i]);
    for (int i = CB_VIEW_COLORS; i > 1; i--) {
        int k = (int)cb_rng_below(rng, (uint64_t)i), swap = v.order[k];
        v.order[k] = v.order[i - 1];
        v.order[i - 1] = swap;
    }
    v.angle = between(rng, -15, 15);
    v.shift[0] = round(between(rng, -1, 1) * (double)width / 8); /* a sixteenth of an image with a border half as wide as itself */
    v.shift[1] = round(between(rng, -1, 1) * (double)height / 8);
    v.scale = between(rng, 0.9, 1.1);
    v.blur = between(rng, 0.001, 0.5);
    v.mirrored = cb_rng_uniform(rng) < 0.5;
    v.noise = 0.005;
    return v;
}

static float clip(float x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* ---- colours: planes of one image, of `size` places ---- */

static float grey_of(const float *p, int64_t channels, int64_t size)
{
    return channels == 3 ? 0.2989f * p[0] + 0.587f * p[size] + 0.114f * p[2 * size] : p[0];
}

static void brighten(float *p, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = clip(p[i] * factor);
}

static void change_contrast(float *p, int64_t channels, int64_t size, float factor)
{
    double sum = 0;
    for (int64_t i = 0; i < size; i++)
        sum += (double)grey_of(p + i, channels, size);
    float rest = (1 - factor) * (float)(sum / (double)size);
    for (int64_t i = 0; i < channels * size; i++)
        p[i] = clip(factor * p[i] + rest);
}

static void saturate(float *p, int64_t size, float factor)
{
    for (int64_t i = 0; i < size; i++) {
        float rest = (1 - factor) * grey_of(p + i, 3, size);
        for (int64_t c = 0; c < 3; c++)
            p[c * size + i] = clip(factor * p[c * size + i] + rest);
    }
}

static float larger(float a, float b)
{
    return a > b ? a : b;
}

static float smaller(float a, float b)
{
    return a < b ? a : b;
}

/* max(0, min(k, 4 - k, 1)), k = (n + h) mod 6, h in [0, 6] */
static float share(float n, float h)
{
    float k = n + h;
    k = k >= 6 ? k - 6 : k;
    return larger(0, smaller(smaller(k, 4 - k), 1));
}

/* Turns the circle of colours: by hexagons, as conversions to HSV do.  Grey, of range 0, stays. */
static void turn_hue(float *restrict red, float *restrict green, float *restrict blue, int64_t size, float turn)
{
    for (int64_t i = 0; i < size; i++) {
        float r = red[i], g = green[i], b = blue[i];
        float most = larger(r, larger(g, b)), least = smaller(r, smaller(g, b)), range = most - least;
        float part = 1 / (range > 0 ? range : 1);
        float h = (most == r ? (g - b) * part : most == g ? 2 + (b - r) * part : 4 + (r - g) * part) / 6 + turn;
        h = h < 0 ? h + 1 : h; /* it was from -1/6 to 5/6, and the turn is less than a whole one */
        h = h >= 1 ? h - 1 : h;
        h = (h < 0 ? h + 1 : h) * 6;
        red[i] = most - range * share(5, h);
        green[i] = most - range * share(3, h);
        blue[i] = most - range * share(1, h);
    }
}

static void bend(float *p, int64_t n, float gamma)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = larger(p[i], 1e-8f);
    cbk_unary(CBK_LOG, CB_F32, p, p, n, 0, 0);
    for (int64_t i = 0; i < n; i++)
        p[i] *= gamma;
    cbk_unary(CBK_EXP, CB_F32, p, p, n, 0, 0);
    for (int64_t i = 0; i < n; i++)
        p[i] = clip(p[i]);
}

static void change_colors(const cb_view *v, int64_t channels, int64_t size, float *p)
{
    for (int i = 0; i < CB_VIEW_COLORS; i++) {
        float factor = (float)v->color[v->order[i]];
        switch (v->order[i]) {
        case CB_VIEW_BRIGHTNESS:
            brighten(p, channels * size, factor);
            break;
        case CB_VIEW_CONTRAST:
            change_contrast(p, channels, size, factor);
            break;
        case CB_VIEW_SATURATION:
            if (channels == 3)
                saturate(p, size, factor);
            break;
        case CB_VIEW_HUE:
            if (channels == 3 && factor != 0)
                turn_hue(p, p + size, p + 2 * size, size, factor);
            break;
        default:
            if (factor != 1)
                bend(p, channels * size, factor);
        }
    }
}

/* ---- places ---- */

/* What a place of the result is made of: four places and how much of each. */
typedef struct mixture {
    int32_t at[4];
    float weight[4];
} mixture;

static int64_t within(int64_t x, int64_t n)
{
    return x < 0 ? 0 : x >= n ? n - 1 : x;
}

static mixture mixture_at(double x, double y, int64_t height, int64_t width)
{
    double left = floor(x), top = floor(y), dx = x - left, dy = y - top;
    int64_t x0 = within((int64_t)left, width), x1 = within((int64_t)left + 1, width), y0 = within((int64_t)top, height),
            y1 = within((int64_t)top + 1, height);
    return (mixture){{(int32_t)(y0 * width + x0), (int32_t)(y0 * width + x1), (int32_t)(y1 * width + x0), (int32_t)(y1 * width + x1)},
                     {(float)((1 - dx) * (1 - dy)), (float)(dx * (1 - dy)), (float)((1 - dx) * dy), (float)(dx * dy)}};
}

/* The place p comes from c + R(-angle) (p - c - shift) / scale; c is the centre, and mirrored images are so at last. */
static void list_mixtures(const cb_view *v, int64_t height, int64_t width, mixture *m)
{
    double turn = v->angle * M_PI / 180, cosine = cos(turn) / v->scale, sine = sin(turn) / v->scale;
    double cx = (double)(width - 1) / 2, cy = (double)(height - 1) / 2;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            double px = (double)(v->mirrored ? width - 1 - x : x) - cx - v->shift[0], py = (double)y - cy - v->shift[1];
            m[y * width + x] = mixture_at(cx + cosine * px + sine * py, cy - sine * px + cosine * py, height, width);
        }
}

static void move(const mixture *m, int64_t size, const float *from, float *to)
{
    for (int64_t i = 0; i < size; i++, m++)
        to[i] =
            m->weight[0] * from[m->at[0]] + m->weight[1] * from[m->at[1]] + m->weight[2] * from[m->at[2]] + m->weight[3] * from[m->at[3]];
}

/* The mean of five rows, or of five places of a row that has two more at each end. */
static void mix(const float *kernel, const float *const from[TAPS], int64_t n, float *restrict to)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < TAPS; k++)
            sum += kernel[k] * from[k][i];
        to[i] = sum;
    }
}

/* Gaussian, first across and then down; `spare` has room for a plane and a row with TAPS - 1 places more. */
static void blur(const float *kernel, int64_t height, int64_t width, float *plane, float *spare)
{
    const float *from[TAPS];
    float *row = spare + height * width;
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width + TAPS - 1; x++)
            row[x] = plane[y * width + within(x - TAPS / 2, width)];
        for (int k = 0; k < TAPS; k++)
            from[k] = row + k;
        mix(kernel, from, width, spare + y * width);
    }
    for (int64_t y = 0; y < height; y++) {
        for (int k = 0; k < TAPS; k++)
            from[k] = spare + within(y + k - TAPS / 2, height) * width;
        mix(kernel, from, width, plane + y * width);
    }
}

static bool make_kernel(double deviation, float kernel[TAPS])
{
    double sum = 0, weight[TAPS];
    for (int k = 0; k < TAPS; k++) {
        int from_middle = k - TAPS / 2;
        sum += weight[k] = exp(-0.5 * from_middle * from_middle / (deviation * deviation));
    }
    for (int k = 0; k < TAPS; k++)
        kernel[k] = (float)(weight[k] / sum);
    return kernel[TAPS / 2] < 1; /* else it changes nothing */
}

/* ---- all of it ---- */

static bool add_noise(double deviation, cb_rng *rng, int64_t count, float *out)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *draws = scope ? cb_randn(CB_F32, rng, count) : NULL;
    const float *draw = draws ? draws->data : NULL;
    for (int64_t i = 0; draw && i < count; i++)
        out[i] += (float)deviation * draw[i];
    if (scope)
        cb_scope_close(scope);
    return draw;
}

bool cb_view_apply(const cb_view *v, cb_rng *noise, int64_t count, int64_t channels, int64_t height, int64_t width, const float *in,
                   float *out)
{
    int64_t size = height * width, image = channels * size;
    mixture *m = cb_alloc((size_t)size * sizeof *m);
    float *spare = cb_alloc((size_t)(image + width + TAPS) * sizeof *spare), kernel[TAPS];
    bool ok = m && spare, moves = v->angle != 0 || v->shift[0] != 0 || v->shift[1] != 0 || v->scale != 1 || v->mirrored;
    bool blurs = v->blur > 0 && make_kernel(v->blur, kernel);
    if (ok)
        list_mixtures(v, height, width, m);
    for (int64_t n = 0; ok && n < count; n++) {
        float *to = out + n * image;
        for (int64_t i = 0; i < image; i++)
            to[i] = clip(in[n * image + i]);
        change_colors(v, channels, size, to);
        if (moves)
            memcpy(spare, to, (size_t)image * sizeof *spare);
        for (int64_t c = 0; c < channels; c++) {
            if (moves)
                move(m, size, spare + c * size, to + c * size);
            if (blurs)
                blur(kernel, height, width, to + c * size, spare);
        }
    }
    ok = ok && (v->noise == 0 || add_noise(v->noise, noise, count * image, out));
    for (int64_t i = 0; ok && i < count * image; i++)
        out[i] = clip(out[i]);
    cb_free(m);
    cb_free(spare);
    return ok;
}
