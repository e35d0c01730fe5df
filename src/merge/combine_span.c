/* combine_span.c: merging methods whose result is a sum of the versions, each times a number: plain means, and those that turn one version
 * towards another on a sphere.  The numbers depend on nothing but the inner products of the versions, so one pass finds those (in f64) and
 * another one adds up.
 *
 * linear: Wortsman et al. 2022, arXiv:2203.05482.  slerp: Shoemake 1985.  nuslerp, multislerp: as in mergekit.  karcher: the Karcher mean on the
 * sphere, arXiv:2603.04972.  model_stock: Jang et al. 2024, arXiv:2403.19522. */
#include <math.h>
#include <string.h>

#include "merge/combine.h"

enum { MOST = CB_MERGE_MOST_MODELS + 1 };

/* The vectors: the others, then the base. */
typedef struct products {
    size_t n;
    double *sums;           /* pieces x n x n */
    double factors[MOST];   /* of the vectors, in the result */
    double (*by_row)[MOST]; /* of each piece, where rows are on their own */
    bool changes;
    double g[MOST][MOST]; /* of the whole tensor, or a row */
} products;

static const float *vector(const cb_combine_job *job, const cb_combine_piece *piece, size_t i)
{
    return i < job->v->count ? piece->others[i] : piece->base;
}

static double inner(const float *a, const float *b, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void multiply(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    products *p = user;
    double *sums = p->sums + (size_t)piece->index * p->n * p->n;
    for (size_t i = 0; i < p->n - job->base_unused; i++)
        for (size_t k = 0; k <= i; k++)
            sums[i * p->n + k] = inner(vector(job, piece, i), vector(job, piece, k), piece->count);
}

static void add_up(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    const products *p = user;
    const double *factors = p->by_row ? p->by_row[piece->index] : p->factors;
    memset(piece->out, 0, (size_t)piece->count * sizeof *piece->out);
    for (size_t i = 0; i <= job->v->count - job->base_unused; i++) {
        const float *x = vector(job, piece, i), factor = (float)factors[i];
        for (int64_t k = 0; factor != 0 && k < piece->count; k++)
            piece->out[k] += factor * x[k];
    }
}

static double norm(const products *p, size_t i)
{
    return sqrt(p->g[i][i]);
}

/* a' G b, of the first n vectors */
static double form(const products *p, size_t n, const double *a, const double *b)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            sum += a[i] * p->g[i][k] * b[k];
    return sum;
}

static double clamp(double x)
{
    return x > 1 ? 1 : x < -1 ? -1 : x;
}

/* ---- the methods: factors from products ---- */

static bool sum_of_weights(const cb_combine_job *job, double *sum)
{
    *sum = 0;
    for (size_t i = 0; i < job->v->count; i++)
        *sum += job->v->weights[i];
    return fabs(*sum) > 1e-12 || cb_fail(CB_ERR_ARGUMENT, "merge: the weights of the models add up to %g, by which %s cannot divide", *sum,
                                         job->method->name) == CB_OK;
}

static bool normalizes(const cb_combine_job *job)
{
    return job->options->normalize ? job->options->normalize == 1 : job->method->normalize;
}

static bool linear(const cb_combine_job *job, products *p)
{
    double sum = 1;
    if (normalizes(job) && !sum_of_weights(job, &sum))
        return false;
    for (size_t i = 0; i < job->v->count; i++)
        p->factors[i] = job->v->weights[i] / sum;
    return true;
}

/* From x to y along the great circle; along the line where they are nearly parallel (dot beyond `straight`). */
static void turn(double dot, double t, double straight, double *x, double *y)
{
    if (fabs(dot) > straight) {
        *x = 1 - t;
        *y = t;
        return;
    }
    double theta = acos(dot), whole = sin(theta);
    *x = sin((1 - t) * theta) / whole;
    *y = sin(t * theta) / whole;
}

static double cosine(const products *p, size_t i, size_t k, double least)
{
    double a = norm(p, i), b = norm(p, k);
    return clamp(p->g[i][k] / ((a > least ? a : 1) * (b > least ? b : 1)));
}

static bool slerp(const cb_combine_job *job, products *p)
{
    turn(cosine(p, 0, 1, 1e-8), job->options->t, 0.9995, &p->factors[1], &p->factors[0]);
    return true;
}

static bool nuslerp(const cb_combine_job *job, products *p)
{
    double sum = job->v->weights[0] + job->v->weights[1];
    double t = fabs(sum) < 1e-6 ? 0.5 : job->v->weights[1] / sum;
    turn(cosine(p, 0, 1, 0), t, 1 - 1e-14, &p->factors[0], &p->factors[1]);
    return true;
}

/* On the sphere of the mean length, from the mean of the directions; at that mean the step is none, which is what mergekit's rounding
 * errors hide. */
static bool multislerp(const cb_combine_job *job, products *p)
{
    size_t n = job->v->count;
    const double tiny = 1e-8;
    double mean[MOST] = {0}, sum = 1, length = 0;
    if (normalizes(job) && !sum_of_weights(job, &sum))
        return false;
    for (size_t i = 0; i < n; i++) {
        mean[i] = job->v->weights[i] / sum / (norm(p, i) + tiny);
        length += norm(p, i) * job->v->weights[i] / sum;
    }
    double size = sqrt(fmax(form(p, n, mean, mean), 0));
    if (size < tiny && n > 2)
        return cb_fail(CB_ERR_NUMERIC,
                       "merge: %s: the versions cancel each other, so there is no direction between them; expected other weights",
                       job->v->base->name) == CB_OK;
    for (size_t i = 0; i < n; i++)
        p->factors[i] = size < tiny ? job->v->weights[i] / sum : mean[i] / size * length;
    return true;
}

/* One step towards the mean of what is seen from `mean`; false: it is reached. */
static bool karcher_step(const products *p, size_t n, const bool *counts, size_t valid, double tol, double *mean)
{
    double tangent[MOST] = {0}, along = 0;
    for (size_t i = 0; i < n; i++) {
        double dot = 0;
        for (size_t k = 0; k < n; k++)
            dot += p->g[i][k] * mean[k];
        dot = counts[i] ? clamp(dot / norm(p, i)) : 1;
        double theta = acos(dot);
        if (!counts[i] || theta < tol)
            continue;
        double share = theta / sin(theta) / (double)valid;
        tangent[i] += share / norm(p, i);
        along += share * dot;
    }
    for (size_t i = 0; i < n; i++)
        tangent[i] -= along * mean[i];
    double size = sqrt(fmax(form(p, n, tangent, tangent), 0));
    if (!(size >= tol))
        return false;
    for (size_t i = 0; i < n; i++)
        mean[i] = cos(size) * mean[i] + sin(size) * tangent[i] / size;
    double length = sqrt(fmax(form(p, n, mean, mean), 0));
    for (size_t i = 0; i < n && length > tol; i++)
        mean[i] /= length;
    return true;
}

static bool karcher(const cb_combine_job *job, products *p)
{
    size_t n = job->v->count, valid = 0, first = n;
    double mean[MOST] = {0}, scale = 0;
    bool counts[MOST];
    for (size_t i = 0; i < n; i++) {
        counts[i] = norm(p, i) > job->options->tol;
        valid += counts[i];
        scale += norm(p, i) / (double)n;
        first = counts[i] && first == n ? i : first;
    }
    if (!valid)
        return true; /* nothing but zeroes */
    for (size_t i = 0; i < n; i++)
        mean[i] = counts[i] ? 1 / (norm(p, i) * (double)valid) : 0;
    double size = sqrt(fmax(form(p, n, mean, mean), 0));
    for (size_t i = 0; i < n; i++)
        mean[i] = size >= job->options->tol ? mean[i] / size : i == first ? 1 / norm(p, i) : 0;
    for (int64_t step = 0; step < job->options->max_iter && karcher_step(p, n, counts, valid, job->options->tol, mean); step++)
        ;
    for (size_t i = 0; i < n; i++)
        p->factors[i] = scale * mean[i];
    return true;
}

/* From the mean of the models back towards the base, the farther the less their changes point the same way. */
static bool model_stock(const cb_combine_job *job, products *p)
{
    size_t n = job->v->count;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++)
            sum += clamp(p->g[i][k] / fmax(norm(p, i) * norm(p, k), 1e-6));
    double count = (double)n, angle = sum / (count * (count - 1) / 2), divisor = 1 + (count - 1) * angle;
    double t = fabs(divisor) < 1e-6 ? 0 : count * angle / divisor;
    for (size_t i = 0; i < n; i++)
        p->factors[i] = t / count;
    return true;
}

typedef bool factor_finder(const cb_combine_job *job, products *p);

static factor_finder *finder_of(int method)
{
    switch (method) {
    case CB_MERGE_SLERP:
        return slerp;
    case CB_MERGE_NUSLERP:
        return nuslerp;
    case CB_MERGE_MULTISLERP:
        return multislerp;
    case CB_MERGE_KARCHER:
        return karcher;
    case CB_MERGE_MODEL_STOCK:
        return model_stock;
    default:
        return linear;
    }
}

static void take_products(products *p, const double *sums, int64_t pieces)
{
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k <= i; k++) {
            double sum = 0;
            for (int64_t piece = 0; piece < pieces; piece++)
                sum += sums[(size_t)piece * p->n * p->n + i * p->n + k];
            p->g[i][k] = p->g[k][i] = sum;
        }
}

bool cb_combine_span(cb_combine_job *job)
{
    const cb_model_merge_options *o = job->options;
    products p = {.n = job->v->count + 1};
    p.changes = o->method == CB_MERGE_MODEL_STOCK || (o->changes && (o->method == CB_MERGE_NUSLERP || o->method == CB_MERGE_MULTISLERP));
    factor_finder *find = finder_of(o->method);
    p.factors[job->v->count] = p.changes;
    job->base_unused = !p.changes && o->method != CB_MERGE_SLERP;
    if (find == linear)
        return linear(job, &p) && cb_combine_visit(job, false, true, add_up, &p);
    bool by_row = find == model_stock && o->filter_wise;
    p.sums = cb_calloc((size_t)job->pieces * p.n * p.n, sizeof *p.sums);
    p.by_row = by_row ? cb_calloc((size_t)job->pieces, sizeof *p.by_row) : NULL;
    bool ok = p.sums && (p.by_row || !by_row) && cb_combine_visit(job, p.changes, false, multiply, &p);
    for (int64_t piece = 0; ok && by_row && piece < job->pieces; piece++) {
        take_products(&p, p.sums + (size_t)piece * p.n * p.n, 1);
        ok = find(job, &p);
        memcpy(p.by_row[piece], p.factors, sizeof p.factors);
    }
    if (ok && !by_row) {
        take_products(&p, p.sums, job->pieces);
        ok = find(job, &p);
    }
    ok = ok && cb_combine_visit(job, p.changes, true, add_up, &p);
    cb_free(p.sums);
    cb_free(p.by_row);
    return ok;
}
