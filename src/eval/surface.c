/* surface.c: distances between the surfaces of masks.
 *
 * The squared distance of every voxel to the nearest one of a surface is found axis by axis: along a line it is the lower envelope
 * of the parabolas that stand on what the axes before have found (Felzenszwalb, Huttenlocher 2012). */
#include <math.h>

#include "cambium/metrics.h"
#include "eval/check.h"

typedef struct grid {
    size_t sizes[3], steps[3]; /* along depth, height, width */
    double spacing[3];
    size_t count;
} grid;

/* Room for one line: what is on it, the places of the parabolas, and where each begins to be the lowest. */
typedef struct line {
    double *values, *begins;
    size_t *places;
} line;

static bool is_surface(const uint8_t *mask, const grid *g, size_t at)
{
    if (!mask[at])
        return false;
    for (int axis = 0; axis < 3; axis++) {
        size_t place = at / g->steps[axis] % g->sizes[axis];
        if (axis == 0 && g->sizes[0] == 1)
            continue; /* an image has no surface above or below */
        if (place == 0 || place + 1 == g->sizes[axis] || !mask[at - g->steps[axis]] || !mask[at + g->steps[axis]])
            return true;
    }
    return false;
}

/* Where the parabola of place q becomes lower than that of p < q. */
static double crossing(const line *l, size_t p, size_t q, double spacing)
{
    double square = spacing * spacing, x = (double)p, y = (double)q;
    return ((l->values[q] - l->values[p]) / square + y * y - x * x) / (2 * (y - x));
}

static void envelope(double *squares, size_t count, size_t step, double spacing, line *l)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        l->values[i] = squares[i * step];
        if (isinf(l->values[i]))
            continue;
        double begin = -INFINITY;
        while (kept > 0 && (begin = crossing(l, l->places[kept - 1], i, spacing)) <= l->begins[kept - 1])
            kept--;
        l->begins[kept] = kept ? begin : -INFINITY;
        l->places[kept++] = i;
    }
    for (size_t i = 0, k = 0; kept > 0 && i < count; i++) {
        while (k + 1 < kept && l->begins[k + 1] < (double)i)
            k++;
        double d = spacing * ((double)i - (double)l->places[k]);
        squares[i * step] = d * d + l->values[l->places[k]];
    }
}

static void spread(double *squares, const grid *g, line *l)
{
    for (int axis = 2; axis >= 0; axis--) {
        size_t step = g->steps[axis], size = g->sizes[axis];
        for (size_t plane = 0; plane < g->count; plane += step * size)
            for (size_t begin = plane; begin < plane + step; begin++)
                envelope(squares + begin, size, step, g->spacing[axis], l);
    }
}

/* Puts the distances from the surface of `a` to that of `b` into `out` and returns how many; squares: scratch. */
static size_t distances(const uint8_t *a, const uint8_t *b, const grid *g, double *squares, line *l, double *out)
{
    size_t found = 0;
    for (size_t i = 0; i < g->count; i++)
        squares[i] = is_surface(b, g, i) ? 0 : INFINITY;
    spread(squares, g, l);
    for (size_t i = 0; i < g->count; i++)
        if (is_surface(a, g, i))
            out[found++] = sqrt(squares[i]);
    return found;
}

bool cb_surface_distance_of(const uint8_t *a, const uint8_t *b, size_t depth, size_t height, size_t width, const double *spacing,
                            cb_surface_distance *distance)
{
    grid g = {{depth, height, width}, {height * width, width, 1}, {1, 1, 1}, depth * height * width};
    *distance = (cb_surface_distance){NAN, NAN, NAN};
    size_t longest = 0;
    for (int axis = 0; axis < 3; axis++) {
        g.spacing[axis] = spacing ? spacing[axis] : 1;
        if (!(g.spacing[axis] > 0 && isfinite(g.spacing[axis])))
            return cb_fail(CB_ERR_ARGUMENT, "surface_distance: spacing[%d] is %g, expected a positive number", axis, g.spacing[axis]) ==
                   CB_OK;
        longest = g.sizes[axis] > longest ? g.sizes[axis] : longest;
    }
    line l = {cb_calloc(longest, sizeof(double)), cb_calloc(longest, sizeof(double)), cb_calloc(longest, sizeof(size_t))};
    double *squares = cb_calloc(g.count, sizeof *squares), *all = cb_calloc(g.count, 2 * sizeof *all), sum = 0;
    bool ok = l.values && l.begins && l.places && squares && all;
    size_t there = ok ? distances(a, b, &g, squares, &l, all) : 0, back = ok ? distances(b, a, &g, squares, &l, all + there) : 0;
    if (there && back) {
        size_t count = there + back;
        cb_sort_values(all, count);
        for (size_t i = 0; i < count; i++)
            sum += all[i];
        *distance = (cb_surface_distance){all[count - 1], cb_quantile_of_sorted(all, count, 0.95), sum / (double)count};
    }
    cb_free(l.values);
    cb_free(l.begins);
    cb_free(l.places);
    cb_free(squares);
    cb_free(all);
    return ok;
}
