/* active_query.c: which rows are worth a label.
 *
 * N rows, C width of features, K labels, n rows that may be chosen.  All in f64; a choice among equals is the first row. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "training/active.h"

const char *const cb_query_names[] = {"cas", "random", "entropy", "margin", "coreset", "badge", "clue", NULL};

typedef struct ranked {
    double score;
    int64_t row;
} ranked;

static int by_score(const void *a_, const void *b_)
{
    const ranked *a = a_, *b = b_;
    if (a->score != b->score)
        return a->score < b->score ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static bool is_free(const cb_query_pool *p, int64_t row)
{
    return !p->asked || !p->asked[row];
}

/* Rows that may be chosen, in order; NULL on failure. */
static int64_t *free_rows(const cb_query_pool *p, int64_t *count)
{
    int64_t *list = cb_alloc(((size_t)p->rows + 1) * sizeof *list);
    *count = 0;
    for (int64_t i = 0; list && i < p->rows; i++)
        if (is_free(p, i))
            list[(*count)++] = i;
    return list;
}

/* The rows of the `count` smallest scores. */
static bool smallest(const cb_query_pool *p, const double *scores, int64_t count, int64_t *chosen)
{
    int64_t n;
    int64_t *rows = free_rows(p, &n);
    ranked *list = rows ? cb_alloc((size_t)n * sizeof *list) : NULL;
    for (int64_t i = 0; list && i < n; i++)
        list[i] = (ranked){scores[rows[i]], rows[i]};
    if (list)
        qsort(list, (size_t)n, sizeof *list, by_score);
    for (int64_t i = 0; list && i < count; i++)
        chosen[i] = list[i].row;
    bool ok = list;
    cb_free(rows);
    cb_free(list);
    return ok;
}

/* ---- scores of single rows ---- */

static double entropy_of(const cb_query_pool *p, int64_t row)
{
    double sum = 0;
    for (int64_t k = 0; k < p->labels; k++) {
        double x = (double)p->probabilities[row * p->labels + k];
        sum -= x > 0 ? x * log(x) : 0;
    }
    return sum;
}

static int64_t likeliest(const float *p, int64_t labels)
{
    int64_t best = 0;
    for (int64_t k = 1; k < labels; k++)
        best = p[k] > p[best] ? k : best;
    return best;
}

/* The largest less the second of q = p + contrast (p - before), which is no probability any more. */
static double margin_of(const cb_query_pool *p, double contrast, int64_t row)
{
    double first = -INFINITY, second = -INFINITY;
    for (int64_t k = 0; k < p->labels; k++) {
        double x = (double)p->probabilities[row * p->labels + k];
        if (p->before)
            x += contrast * (x - (double)p->before[row * p->labels + k]);
        second = x > first ? first : fmax(second, x);
        first = fmax(first, x);
    }
    return p->labels > 1 ? first - second : first;
}

/* LFTL: of the surest rows it is counted which labels they get, and rows of labels that are frequent among them count as surer.  Labels are those of p, not
 * of q.  Without a weight scores stay the margins themselves, to the bit. */
static bool balance(const cb_query_pool *p, const cb_query_options *o, double *scores)
{
    int64_t n, *rows = free_rows(p, &n), *counts = cb_calloc((size_t)p->labels, sizeof *counts), most = 0;
    ranked *list = rows && counts ? cb_alloc(((size_t)n + 1) * sizeof *list) : NULL;
    bool ok = list;
    for (int64_t i = 0; ok && i < n; i++)
        list[i] = (ranked){-scores[rows[i]], rows[i]};
    if (ok && n)
        qsort(list, (size_t)n, sizeof *list, by_score);
    for (int64_t i = 0; ok && i < n && i < o->balance_rows; i++) {
        int64_t *c = &counts[likeliest(p->probabilities + list[i].row * p->labels, p->labels)];
        most = ++*c > most ? *c : most;
    }
    double largest = ok && n && -list[0].score > 0 ? -list[0].score : 1;
    for (int64_t i = 0; ok && most && i < n; i++) {
        int64_t label = likeliest(p->probabilities + rows[i] * p->labels, p->labels);
        scores[rows[i]] = scores[rows[i]] / largest + o->balance_weight * (double)counts[label] / (double)most;
    }
    cb_free(rows);
    cb_free(counts);
    cb_free(list);
    return ok;
}

bool cb_query_margins(const cb_query_pool *p, const cb_query_options *o, double *scores)
{
    for (int64_t i = 0; i < p->rows; i++)
        scores[i] = is_free(p, i) ? margin_of(p, o->contrast, i) : NAN;
    return o->balance_weight == 0 || balance(p, o, scores);
}

static bool by_scores(const cb_query_pool *p, cb_query query, const cb_query_options *o, int64_t count, int64_t *chosen)
{
    static const cb_query_options plain = {0};
    double *scores = cb_alloc(((size_t)p->rows + 1) * sizeof *scores);
    bool ok = scores;
    if (ok && query == CB_QUERY_ENTROPY)
        for (int64_t i = 0; i < p->rows; i++)
            scores[i] = -entropy_of(p, i);
    else
        ok = ok && cb_query_margins(p, query == CB_QUERY_CAS ? o : &plain, scores);
    ok = ok && smallest(p, scores, count, chosen);
    cb_free(scores);
    return ok;
}

static bool at_random(const cb_query_pool *p, const double *draws, int64_t count, int64_t *chosen)
{
    int64_t n, *rows = free_rows(p, &n);
    for (int64_t i = 0; rows && i < count; i++) {
        int64_t j = i + (int64_t)(draws[i] * (double)(n - i));
        chosen[i] = rows[j];
        rows[j] = rows[i];
    }
    bool ok = rows;
    cb_free(rows);
    return ok;
}

/* ---- rows that are far from each other ---- */

static double feature_distance(const cb_query_pool *p, int64_t a, int64_t b)
{
    const float *x = p->features + a * p->width, *y = p->features + b * p->width;
    double sum = 0;
    for (int64_t c = 0; c < p->width; c++)
        sum += ((double)x[c] - (double)y[c]) * ((double)x[c] - (double)y[c]);
    return sum;
}

typedef double row_distance(const cb_query_pool *p, int64_t a, int64_t b);

static void come_near(const cb_query_pool *p, const int64_t *rows, int64_t n, row_distance *distance, int64_t centre, double *nearest)
{
    for (int64_t i = 0; i < n; i++)
        nearest[i] = fmin(nearest[i], distance(p, rows[i], centre));
}

static int64_t furthest(const double *nearest, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = nearest[i] > nearest[best] ? i : best;
    return best;
}

/* Rows asked before are centres; where there are none the first is drawn.  A chosen row's distance is below all others' from then on. */
static bool coreset(const cb_query_pool *p, const double *draws, int64_t count, int64_t *chosen)
{
    int64_t n, *rows = free_rows(p, &n);
    double *nearest = rows ? cb_alloc(((size_t)n + 1) * sizeof *nearest) : NULL;
    bool ok = nearest;
    for (int64_t i = 0; ok && i < n; i++)
        nearest[i] = INFINITY;
    for (int64_t i = 0; ok && i < p->rows; i++)
        if (!is_free(p, i))
            come_near(p, rows, n, feature_distance, i, nearest);
    for (int64_t i = 0; ok && i < count; i++) {
        int64_t at = isinf(nearest[0]) && i == 0 && nearest[0] > 0 ? (int64_t)(draws[0] * (double)n) : furthest(nearest, n);
        chosen[i] = rows[at];
        come_near(p, rows, n, feature_distance, rows[at], nearest);
        nearest[at] = -1;
    }
    cb_free(rows);
    cb_free(nearest);
    return ok;
}

/* The gradient of the last layer's weights is (p - y) f^T, y the likeliest label: distances of such products need K + C terms, not K C. */
static double residual(const cb_query_pool *p, int64_t row, int64_t label, int64_t k)
{
    return (double)p->probabilities[row * p->labels + k] - (k == label);
}

static double gradient_product(const cb_query_pool *p, int64_t a, int64_t b)
{
    int64_t of_a = likeliest(p->probabilities + a * p->labels, p->labels), of_b = likeliest(p->probabilities + b * p->labels, p->labels);
    const float *x = p->features + a * p->width, *y = p->features + b * p->width;
    double residuals = 0, features = 0;
    for (int64_t k = 0; k < p->labels; k++)
        residuals += residual(p, a, of_a, k) * residual(p, b, of_b, k);
    for (int64_t c = 0; c < p->width; c++)
        features += (double)x[c] * (double)y[c];
    return residuals * features;
}

static double gradient_distance(const cb_query_pool *p, int64_t a, int64_t b)
{
    return fmax(0, gradient_product(p, a, a) + gradient_product(p, b, b) - 2 * gradient_product(p, a, b));
}

/* The first place at which the sum of weights is more than a share of all; where all are 0 the first that is not used. */
static int64_t drawn(const double *weights, const bool *used, int64_t n, double draw)
{
    double total = 0, sum = 0;
    int64_t last = -1;
    for (int64_t i = 0; i < n; i++)
        total += used[i] ? 0 : weights[i];
    for (int64_t i = 0; i < n; i++) {
        if (used[i] || (total > 0 && !(weights[i] > 0)))
            continue;
        last = i;
        sum += weights[i];
        if (sum > draw * total || total <= 0)
            return i;
    }
    return last;
}

/* k-means++ that begins with the longest gradient, as the authors' code does. */
static bool badge(const cb_query_pool *p, const double *draws, int64_t count, int64_t *chosen)
{
    int64_t n, *rows = free_rows(p, &n);
    double *nearest = rows ? cb_alloc(((size_t)n + 1) * sizeof *nearest) : NULL;
    bool *used = nearest ? cb_calloc((size_t)n + 1, sizeof *used) : NULL, ok = used;
    for (int64_t i = 0; ok && i < n; i++)
        nearest[i] = gradient_product(p, rows[i], rows[i]);
    for (int64_t i = 0; ok && i < count; i++) {
        int64_t at = i ? drawn(nearest, used, n, draws[i]) : furthest(nearest, n);
        chosen[i] = rows[at];
        used[at] = true;
        for (int64_t k = 0; i == 0 && k < n; k++)
            nearest[k] = INFINITY;
        come_near(p, rows, n, gradient_distance, rows[at], nearest);
    }
    cb_free(rows);
    cb_free(nearest);
    cb_free(used);
    return ok;
}

/* ---- k-means, weighed by entropy ---- */

typedef struct clusters {
    const cb_query_pool *p;
    int64_t n, k, *rows, *cluster; /* cluster: of each row, -1 at first */
    double *weights, *centres, *mass;
} clusters;

static double to_centre(const clusters *c, int64_t i, int64_t k)
{
    const float *x = c->p->features + c->rows[i] * c->p->width;
    const double *y = c->centres + k * c->p->width;
    double sum = 0;
    for (int64_t d = 0; d < c->p->width; d++)
        sum += ((double)x[d] - y[d]) * ((double)x[d] - y[d]);
    return sum;
}

static void put_centre(const clusters *c, int64_t k, int64_t i)
{
    for (int64_t d = 0; d < c->p->width; d++)
        c->centres[k * c->p->width + d] = (double)c->p->features[c->rows[i] * c->p->width + d];
}

/* k-means++ with weights. */
static bool first_centres(const clusters *c, const double *draws)
{
    double *nearest = cb_alloc((size_t)c->n * sizeof *nearest), *weighed = nearest ? cb_alloc((size_t)c->n * sizeof *weighed) : NULL;
    bool *used = weighed ? cb_calloc((size_t)c->n, sizeof *used) : NULL, ok = used;
    for (int64_t i = 0; ok && i < c->n; i++)
        nearest[i] = 1;
    for (int64_t k = 0; ok && k < c->k; k++) {
        for (int64_t i = 0; i < c->n; i++)
            weighed[i] = nearest[i] * c->weights[i];
        int64_t at = drawn(weighed, used, c->n, draws[k]);
        put_centre(c, k, at);
        used[at] = true;
        for (int64_t i = 0; i < c->n; i++)
            nearest[i] = k ? fmin(nearest[i], to_centre(c, i, k)) : to_centre(c, i, k);
    }
    cb_free(nearest);
    cb_free(weighed);
    cb_free(used);
    return ok;
}

/* Whether a row has changed its cluster. */
static bool assign(const clusters *c)
{
    bool changed = false;
    for (int64_t i = 0; i < c->n; i++) {
        int64_t best = 0;
        double least = INFINITY;
        for (int64_t k = 0; k < c->k; k++) {
            double d = to_centre(c, i, k);
            if (d < least) {
                least = d;
                best = k;
            }
        }
        changed = changed || c->cluster[i] != best;
        c->cluster[i] = best;
    }
    return changed;
}

/* Weighed means; a cluster without weight keeps its centre. */
static void move_centres(const clusters *c, double *sums)
{
    int64_t width = c->p->width;
    memset(sums, 0, (size_t)(c->k * width) * sizeof *sums);
    memset(c->mass, 0, (size_t)c->k * sizeof *c->mass);
    for (int64_t i = 0; i < c->n; i++) {
        const float *x = c->p->features + c->rows[i] * width;
        c->mass[c->cluster[i]] += c->weights[i];
        for (int64_t d = 0; d < width; d++)
            sums[c->cluster[i] * width + d] += c->weights[i] * (double)x[d];
    }
    for (int64_t k = 0; k < c->k; k++)
        for (int64_t d = 0; c->mass[k] > 0 && d < width; d++)
            c->centres[k * width + d] = sums[k * width + d] / c->mass[k];
}

/* The nearest row of each centre that no earlier one has. */
static bool nearest_rows(const clusters *c, int64_t *chosen)
{
    bool *used = cb_calloc((size_t)c->n, sizeof *used);
    for (int64_t k = 0; used && k < c->k; k++) {
        int64_t best = -1;
        double least = INFINITY;
        for (int64_t i = 0; i < c->n; i++) {
            double d = used[i] ? INFINITY : to_centre(c, i, k);
            if (d < least || (best < 0 && !used[i])) {
                least = d;
                best = i;
            }
        }
        used[best] = true;
        chosen[k] = c->rows[best];
    }
    bool ok = used;
    cb_free(used);
    return ok;
}

static bool clue(const cb_query_pool *p, const double *draws, int64_t count, int64_t *chosen)
{
    enum { MOST_TURNS = 100 };
    clusters c = {.p = p, .k = count};
    c.rows = free_rows(p, &c.n);
    size_t n = (size_t)c.n, centres = (size_t)(count * p->width);
    double *sums = c.rows ? cb_alloc(centres * sizeof *sums) : NULL;
    bool ok = sums && (c.cluster = cb_alloc(n * sizeof *c.cluster)) && (c.weights = cb_alloc(n * sizeof *c.weights)) &&
              (c.centres = cb_alloc(centres * sizeof *c.centres)) && (c.mass = cb_alloc((size_t)count * sizeof *c.mass));
    for (int64_t i = 0; ok && i < c.n; i++) {
        c.weights[i] = entropy_of(p, c.rows[i]);
        c.cluster[i] = -1;
    }
    ok = ok && first_centres(&c, draws);
    for (int turn = 0; ok && turn < MOST_TURNS && assign(&c); turn++)
        move_centres(&c, sums);
    ok = ok && nearest_rows(&c, chosen);
    cb_free(c.rows);
    cb_free(c.cluster);
    cb_free(c.weights);
    cb_free(c.centres);
    cb_free(c.mass);
    cb_free(sums);
    return ok;
}

/* ---- all of them ---- */

bool cb_query_with(const cb_query_pool *p, cb_query query, const cb_query_options *o, const double *draws, int64_t count, int64_t *chosen)
{
    int64_t left = 0;
    for (int64_t i = 0; i < p->rows; i++)
        left += is_free(p, i);
    if (count < 0 || count > left)
        return cb_fail(CB_ERR_ARGUMENT, "query: found %lld rows that were not asked, expected %lld or more", (long long)left,
                       (long long)count) == CB_OK;
    if (!count)
        return true;
    switch (query) {
    case CB_QUERY_RANDOM:
        return at_random(p, draws, count, chosen);
    case CB_QUERY_CORESET:
        return coreset(p, draws, count, chosen);
    case CB_QUERY_BADGE:
        return badge(p, draws, count, chosen);
    case CB_QUERY_CLUE:
        return clue(p, draws, count, chosen);
    default:
        return by_scores(p, query, o, count, chosen);
    }
}

bool cb_query_rows(const cb_query_pool *pool, cb_query query, const cb_query_options *options, cb_rng *rng, int64_t count, int64_t *chosen)
{
    double *draws = cb_alloc(((size_t)(count > 0 ? count : 0) + 1) * sizeof *draws);
    for (int64_t i = 0; draws && i < count; i++)
        draws[i] = cb_rng_uniform(rng);
    bool ok = draws && cb_query_with(pool, query, options, draws, count, chosen);
    cb_free(draws);
    return ok;
}
