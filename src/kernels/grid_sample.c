/* grid_sample.c: images read at given points: Jaderberg et al. 2015, arXiv:1506.02025; conventions are torch's grid_sample. */
#include "kernels/grid_sample.h"

#include <math.h>
#include <string.h>

#include "kernels/parallel.h"

/* One coordinate of a point in elements, and its derivative by the grid's. */
typedef struct coordinate {
    double at, slope;
} coordinate;

/* Mirrored at the borders of low..high, both given twice. */
static coordinate reflected(coordinate p, double twice_low, double twice_high)
{
    if (twice_low == twice_high)
        return (coordinate){0, 0};
    double low = twice_low / 2, span = (twice_high - twice_low) / 2, away = p.at - low;
    if (away < 0) {
        away = -away;
        p.slope = -p.slope;
    }
    double extra = fmod(away, span);
    if (fmod(floor(away / span), 2) == 0)
        return (coordinate){low + extra, p.slope};
    return (coordinate){low + span - extra, -p.slope};
}

static coordinate locate(const cbk_grid_sample *s, double g, int64_t size)
{
    double n = (double)size;
    coordinate p = s->align_corners ? (coordinate){(g + 1) / 2 * (n - 1), (n - 1) / 2} : (coordinate){((g + 1) * n - 1) / 2, n / 2};
    if (s->reflection && isfinite(p.at))
        p = s->align_corners ? reflected(p, 0, 2 * (n - 1)) : reflected(p, -1, 2 * n - 1);
    if (!s->border && !s->reflection)
        return p;
    if (!(p.at > 0)) /* NaN too */
        return (coordinate){0, 0};
    return p.at >= n - 1 ? (coordinate){n - 1, 0} : p;
}

/* The elements a point reads along one dimension: at first and first + 1, by weight. */
typedef struct pair {
    int64_t first;
    double weight[2], slope[2];
} pair;

static pair pair_of(const cbk_grid_sample *s, double g, int64_t size)
{
    coordinate p = locate(s, g, size);
    if (!(p.at > -2 && p.at < (double)size + 1)) /* outside, or NaN */
        return (pair){.first = -2};
    if (s->nearest)
        return (pair){.first = (int64_t)nearbyint(p.at), .weight = {1, 0}};
    double whole = floor(p.at), part = p.at - whole;
    return (pair){(int64_t)whole, {1 - part, part}, {-p.slope, p.slope}};
}

/* Element (y, x) of image n, or -1 outside. */
static int64_t element(const cbk_grid_sample *s, int64_t n, int64_t y, int64_t x)
{
    return y >= 0 && y < s->h && x >= 0 && x < s->w ? ((n * s->h + y) * s->w + x) * s->c : -1;
}

#define GRID_SAMPLE(T)                                                                                                                     \
    static void read_##T(T *y, const T *x, const T *point, const cbk_grid_sample *s, int64_t n)                                            \
    {                                                                                                                                      \
        pair across = pair_of(s, (double)point[0], s->w), down = pair_of(s, (double)point[1], s->h);                                       \
        memset(y, 0, (size_t)s->c * sizeof *y);                                                                                            \
        for (int tap = 0; tap < 4; tap++) {                                                                                                \
            T weight = (T)(across.weight[tap % 2] * down.weight[tap / 2]);                                                                 \
            int64_t from = element(s, n, down.first + tap / 2, across.first + tap % 2);                                                    \
            for (int64_t c = 0; from >= 0 && weight != 0 && c < s->c; c++)                                                                 \
                y[c] += weight * x[from + c];                                                                                              \
        }                                                                                                                                  \
    }                                                                                                                                      \
    static void back_##T(T *dx, T *dpoint, const T *dy, const T *x, const T *point, const cbk_grid_sample *s, int64_t n)                   \
    {                                                                                                                                      \
        pair across = pair_of(s, (double)point[0], s->w), down = pair_of(s, (double)point[1], s->h);                                       \
        double slope[2] = {0, 0};                                                                                                          \
        for (int tap = 0; tap < 4; tap++) {                                                                                                \
            int i = tap % 2, j = tap / 2;                                                                                                  \
            int64_t from = element(s, n, down.first + j, across.first + i);                                                                \
            if (from < 0)                                                                                                                  \
                continue;                                                                                                                  \
            double dot = 0;                                                                                                                \
            for (int64_t c = 0; dpoint && c < s->c; c++)                                                                                   \
                dot += (double)dy[c] * (double)x[from + c];                                                                                \
            T weight = (T)(across.weight[i] * down.weight[j]);                                                                             \
            for (int64_t c = 0; dx && c < s->c; c++)                                                                                       \
                dx[from + c] += weight * dy[c];                                                                                            \
            slope[0] += across.slope[i] * down.weight[j] * dot;                                                                            \
            slope[1] += across.weight[i] * down.slope[j] * dot;                                                                            \
        }                                                                                                                                  \
        for (int i = 0; dpoint && i < 2; i++)                                                                                              \
            dpoint[i] = (T)slope[i];                                                                                                       \
    }
GRID_SAMPLE(float)
GRID_SAMPLE(double)

void cbk_grid_sample_forward(cb_dtype dtype, void *y, const void *x, const void *grid, const cbk_grid_sample *s)
{
    int64_t points = cb_rehearsing() ? 0 : s->n * s->places;
    int threads = cbk_threads(points * s->c * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < points; i++)
        if (dtype == CB_F64)
            read_double((double *)y + i * s->c, x, (const double *)grid + 2 * i, s, i / s->places);
        else
            read_float((float *)y + i * s->c, x, (const float *)grid + 2 * i, s, i / s->places);
}

void cbk_grid_sample_backward(cb_dtype dtype, void *dx, void *dgrid, const void *dy, const void *x, const void *grid,
                              const cbk_grid_sample *s)
{
    if (cb_rehearsing())
        return;
    if (dx)
        memset(dx, 0, (size_t)(s->n * s->h * s->w * s->c) * cb_dtype_size(dtype));
    int threads = cbk_threads(s->n * s->places * s->c * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t n = 0; n < s->n; n++) /* the points of one image may add to the same elements */
        for (int64_t i = n * s->places; i < (n + 1) * s->places; i++)
            if (dtype == CB_F64)
                back_double(dx, dgrid ? (double *)dgrid + 2 * i : NULL, (const double *)dy + i * s->c, x, (const double *)grid + 2 * i, s,
                            n);
            else
                back_float(dx, dgrid ? (float *)dgrid + 2 * i : NULL, (const float *)dy + i * s->c, x, (const float *)grid + 2 * i, s, n);
}
