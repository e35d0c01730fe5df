/* pareto.c: weights of objectives whose gradients pull apart: Pareto domain adaptation (Lv et al. 2021, arXiv:2112.04137), a linear program for each step,
 * and the point of least norm.
 *
 * n unknowns, one equality and fewer than 2 n + 2 inequalities: for the few objectives that there are, every vertex is looked at, and every face. */
#include <math.h>
#include <string.h>

#include "cambium/optim.h"

enum { MOST = CB_MOST_OBJECTIVES, ROWS = 2 * MOST + 1 };

/* maximise goal x over sum x = 1 and row x >= bound for each of `count` rows */
typedef struct program {
    size_t n, count;
    double goal[MOST], rows[ROWS][MOST], bounds[ROWS];
} program;

static const double slack = 1e-9; /* of numbers that are scaled to about 1 */

static void add_row(program *p, const double *row, double bound)
{
    memcpy(p->rows[p->count], row, p->n * sizeof *row);
    p->bounds[p->count++] = bound;
}

static double product(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Solves a (n, n + 1) by elimination with pivots; false: it is singular. */
static bool solve(double a[MOST][MOST + 1], size_t n, double *x)
{
    for (size_t c = 0; c < n; c++) {
        size_t best = c;
        for (size_t r = c + 1; r < n; r++)
            best = fabs(a[r][c]) > fabs(a[best][c]) ? r : best;
        if (fabs(a[best][c]) < 1e-12)
            return false;
        for (size_t k = 0; k <= n; k++) {
            double swapped = a[c][k];
            a[c][k] = a[best][k];
            a[best][k] = swapped;
        }
        for (size_t r = 0; r < n; r++)
            for (size_t k = n + 1; r != c && k-- > c;)
                a[r][k] -= a[r][c] / a[c][c] * a[c][k];
    }
    for (size_t c = 0; c < n; c++)
        x[c] = a[c][n] / a[c][c];
    return true;
}

static bool is_feasible(const program *p, const double *x)
{
    for (size_t i = 0; i < p->count; i++)
        if (product(p->rows[i], x, p->n) < p->bounds[i] - slack)
            return false;
    return true;
}

/* The point where the chosen rows (n - 1 of them) hold exactly. */
static bool vertex(const program *p, const size_t *chosen, double *x)
{
    double a[MOST][MOST + 1];
    for (size_t c = 0; c < p->n; c++)
        a[0][c] = 1;
    a[0][p->n] = 1;
    for (size_t i = 0; i + 1 < p->n; i++) {
        memcpy(a[i + 1], p->rows[chosen[i]], p->n * sizeof(double));
        a[i + 1][p->n] = p->bounds[chosen[i]];
    }
    return solve(a, p->n, x) && is_feasible(p, x);
}

/* The next combination in order; false: there are no more. */
static bool next(size_t *chosen, size_t k, size_t count)
{
    size_t i = k;
    while (i > 0 && chosen[i - 1] == count - k + i - 1)
        i--;
    if (!i)
        return false;
    chosen[i - 1]++;
    for (; i < k; i++)
        chosen[i] = chosen[i - 1] + 1;
    return true;
}

/* Of equal vertices the first; false: there is none. */
static bool best_vertex(const program *p, double *best)
{
    size_t chosen[MOST] = {0};
    double most = -INFINITY, x[MOST] = {0};
    for (size_t i = 0; i + 1 < p->n; i++)
        chosen[i] = i;
    do {
        if (vertex(p, chosen, x) && product(p->goal, x, p->n) > most + slack) {
            most = product(p->goal, x, p->n);
            memcpy(best, x, p->n * sizeof *x);
        }
    } while (next(chosen, p->n - 1, p->count));
    return isfinite(most);
}

/* The common direction goes along the guide, and hurts no objective more than that does. */
static void guide_by(program *p, const double *gram, const double *guide)
{
    size_t n = p->n, first = 0;
    for (size_t i = 0; i < n; i++)
        first = guide[i] > guide[first] ? i : first;
    bool none = guide[first] <= 0;
    memcpy(p->goal, guide, n * sizeof *guide);
    for (size_t i = 0; i < n; i++)
        if (none || i == first || guide[i] <= 0)
            add_row(p, gram + i * n, none || i == first ? 0 : guide[i]);
}

/* All objectives descend. */
static void descend(program *p, const double *gram)
{
    size_t n = p->n;
    for (size_t i = 0; i < n; i++) {
        add_row(p, gram + i * n, 0);
        for (size_t k = 0; k < n; k++)
            p->goal[k] += gram[i * n + k];
    }
}

/* Equal weights, and the products over their trace; *trace 0: there are no gradients, or nothing to weigh. */
static bool start(const double *gram, const double *guide, size_t n, double *weights, double *scaled, double *scaled_guide, double *trace)
{
    if (n < 1 || n > MOST)
        return cb_fail(CB_ERR_ARGUMENT, "pareto: %zu objectives, expected 1 to %d", n, MOST) == CB_OK;
    *trace = 0;
    for (size_t i = 0; i < n; i++) {
        weights[i] = 1 / (double)n;
        *trace += gram[i * n + i];
    }
    if (!(*trace > 0) || !isfinite(*trace) || n == 1)
        *trace = 0;
    for (size_t i = 0; *trace > 0 && i < n * n; i++)
        scaled[i] = gram[i] / *trace;
    for (size_t i = 0; *trace > 0 && guide && i < n; i++)
        scaled_guide[i] = guide[i] / *trace;
    return true;
}

bool cb_pareto_weights(const double *gram, const double *guide, size_t n, double *weights)
{
    double scaled[MOST * MOST] = {0}, scaled_guide[MOST] = {0}, trace = 0;
    if (!start(gram, guide, n, weights, scaled, scaled_guide, &trace))
        return false;
    if (!(trace > 0))
        return true;
    program p = {.n = n};
    for (size_t i = 0; i < n; i++) {
        double one[MOST] = {0};
        one[i] = 1;
        add_row(&p, one, 0);
    }
    if (guide)
        guide_by(&p, scaled, scaled_guide);
    else
        descend(&p, scaled);
    double best[MOST];
    if (best_vertex(&p, best))
        memcpy(weights, best, n * sizeof *weights);
    return true;
}

/* ---- the point of least norm ---- */

/* Of the affine hull of the objectives in `face` the point that is nearest to nothing; false: they are not independent, or it lies beyond them. */
static bool nearest_of_face(const double *gram, size_t n, unsigned face, double *x)
{
    size_t who[MOST] = {0}, m = 0;
    double a[MOST][MOST + 1], rest[MOST];
    for (size_t i = 0; i < n; i++) {
        x[i] = 0;
        if (face >> i & 1)
            who[m++] = i;
    }
    const double *own = gram + who[0] * n;
    for (size_t r = 0; r + 1 < m; r++) {
        const double *row = gram + who[r + 1] * n;
        for (size_t c = 0; c + 1 < m; c++)
            a[r][c] = row[who[c + 1]] - row[who[0]] - own[who[c + 1]] + own[who[0]];
        a[r][m - 1] = own[who[0]] - row[who[0]];
    }
    if (!solve(a, m - 1, rest))
        return false;
    x[who[0]] = 1;
    for (size_t r = 0; r + 1 < m; r++) {
        x[who[r + 1]] = rest[r];
        x[who[0]] -= rest[r];
    }
    bool inside = true;
    for (size_t r = 0; r < m; r++)
        inside = inside && x[who[r]] >= 0;
    return inside;
}

bool cb_least_norm_weights(const double *gram, size_t n, double *weights)
{
    double scaled[MOST * MOST] = {0}, trace = 0, least = INFINITY, x[MOST];
    if (!start(gram, NULL, n, weights, scaled, NULL, &trace))
        return false;
    for (unsigned face = 1; trace > 0 && face < 1u << n; face++) {
        double square = 0;
        if (!nearest_of_face(scaled, n, face, x))
            continue;
        for (size_t i = 0; i < n; i++)
            square += x[i] * product(scaled + i * n, x, n);
        if (square < least - slack * slack) {
            least = square;
            memcpy(weights, x, n * sizeof *x);
        }
    }
    return true;
}
