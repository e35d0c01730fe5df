/* lego.c: LoRA-LEGO: adapters taken apart into their rank-one units, and one put together from clusters of them.  Zhao et al. 2025 (ICLR),
 * arXiv:2409.16167.
 *
 * Unit j of adapter t is m = [A_t[j, :] ; s_t w_t B_t[:, j]], in R^(p + q).  Permuting units changes no adapter, and all units of all adapters
 * side by side are their sum; so per layer
 *   1 the units of all adapters are pooled, n = sum of the ranks,
 *   2 k-means makes k clusters of them,
 *   3 a cluster's mean is a row of A' and a column of B' ...
 *   4 ... made as long as its members are on average, since a mean is shorter (parameter reweighting),
 *   5 and the whole is times sqrt(r / k), r being the adapters' mean rank, since more units make a larger change (output reweighting).
 *
 * (c a, b / c) is the same unit for every c, but another vector: units are compared with both halves at length one, and with
 * lego_align_signs their sign is fixed too, which goes beyond the paper.  Units are sorted by their content first, so that their order in the
 * files does not matter to a bit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/low_rank.h"
#include "core/rehearsal.h"
#include "merge/adapters.h"

typedef struct unit_pool {
    int64_t n, p, q, width; /* units; inputs, outputs, both */
    double mean_rank;
    float *units;    /* n x width */
    float *features; /* n x width: what is clustered */
    const float **order;
} unit_pool;

typedef struct clustering {
    int64_t k;
    int64_t *of;     /* the cluster of each unit */
    int64_t *sizes;  /* of each cluster */
    double *centres; /* k x width */
    double *nearest; /* of each unit: squared distance to its centre */
    double inertia;
} clustering;

/* ---- pooling ---- */

static _Thread_local int64_t compared_width;

static int by_content(const void *a_, const void *b_)
{
    const float *a = *(const float *const *)a_, *b = *(const float *const *)b_;
    for (int64_t i = 0; i < compared_width; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* Of a unit's half: the scale is free, and so is the sign, of both halves together. */
static bool points_down(const float *a, int64_t n)
{
    float largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fabsf(a[i]) > fabsf(largest) ? a[i] : largest;
    return largest < 0;
}

static double length_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static void take_units(unit_pool *pool, const cb_factors *f, bool align, float *to)
{
    int64_t rank = f->a->shape[0];
    const float *a = f->a->data, *b = f->b->data;
    double factor = f->weight * f->scale;
    for (int64_t j = 0; j < rank; j++, to += pool->width) {
        memcpy(to, a + j * pool->p, (size_t)pool->p * sizeof *to);
        for (int64_t i = 0; i < pool->q; i++)
            to[pool->p + i] = (float)(factor * (double)b[i * rank + j]);
        bool flip = align && points_down(to, pool->p);
        for (int64_t i = 0; flip && i < pool->width; i++)
            to[i] = -to[i];
    }
}

static void make_features(const unit_pool *pool, bool normalize)
{
    for (int64_t u = 0; u < pool->n; u++) {
        const float *unit = pool->units + u * pool->width;
        float *to = pool->features + u * pool->width;
        double a = normalize ? length_of(unit, pool->p) : 1, b = normalize ? length_of(unit + pool->p, pool->q) : 1;
        for (int64_t i = 0; i < pool->width; i++) {
            double size = i < pool->p ? a : b;
            to[i] = (float)((double)unit[i] / (size > 0 ? size : 1));
        }
    }
}

static bool fill_pool(unit_pool *pool, const cb_adapter_merge *m, const cb_layer_factors *f)
{
    *pool = (unit_pool){.p = f->in, .q = f->out, .width = f->in + f->out};
    for (size_t i = 0; i < f->count; i++)
        pool->n += f->list[i].a->shape[0];
    pool->mean_rank = (double)pool->n / (double)f->count;
    size_t size = (size_t)pool->width * sizeof(float);
    float *unsorted = cb_calloc((size_t)pool->n, size);
    pool->units = cb_calloc((size_t)pool->n, size);
    pool->features = cb_calloc((size_t)pool->n, size);
    pool->order = cb_calloc((size_t)pool->n, sizeof *pool->order);
    bool ok = unsorted && pool->units && pool->features && pool->order;
    float *to = unsorted;
    for (size_t i = 0; ok && i < f->count; i++) {
        take_units(pool, &f->list[i], m->options->lego_align_signs, to);
        to += f->list[i].a->shape[0] * pool->width;
    }
    for (int64_t u = 0; ok && u < pool->n; u++)
        pool->order[u] = unsorted + u * pool->width;
    compared_width = pool->width;
    if (ok)
        qsort(pool->order, (size_t)pool->n, sizeof *pool->order, by_content);
    for (int64_t u = 0; ok && u < pool->n; u++)
        memcpy(pool->units + u * pool->width, pool->order[u], size);
    if (ok)
        make_features(pool, m->options->lego_normalize);
    cb_free(unsorted);
    return ok;
}

static void free_pool(unit_pool *pool)
{
    cb_free(pool->units);
    cb_free(pool->features);
    cb_free(pool->order);
}

/* ---- k-means ---- */

static double distance(const float *x, const double *centre, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += ((double)x[i] - centre[i]) * ((double)x[i] - centre[i]);
    return sum;
}

static void set_centre(const unit_pool *pool, clustering *c, int64_t cluster, int64_t unit)
{
    for (int64_t i = 0; i < pool->width; i++)
        c->centres[cluster * pool->width + i] = (double)pool->features[unit * pool->width + i];
}

/* k-means++: each next centre is a unit, the likelier the farther from those chosen (Arthur and Vassilvitskii 2007). */
static void choose_centres(const unit_pool *pool, clustering *c, cb_rng *rng)
{
    for (int64_t u = 0; u < pool->n; u++)
        c->nearest[u] = INFINITY;
    int64_t next = (int64_t)cb_rng_below(rng, (uint64_t)pool->n);
    for (int64_t k = 0; k < c->k; k++) {
        set_centre(pool, c, k, next);
        double sum = 0;
        for (int64_t u = 0; u < pool->n; u++) {
            double d = distance(pool->features + u * pool->width, c->centres + k * pool->width, pool->width);
            c->nearest[u] = d < c->nearest[u] ? d : c->nearest[u];
            sum += c->nearest[u];
        }
        double mark = cb_rng_uniform(rng) * sum;
        for (next = 0; next < pool->n - 1 && (mark -= c->nearest[next]) >= 0; next++)
            ;
    }
}

/* Returns whether some unit went elsewhere. */
static bool assign(const unit_pool *pool, clustering *c)
{
    bool moved = false;
    c->inertia = 0;
    for (int64_t u = 0; u < pool->n; u++) {
        int64_t best = 0;
        c->nearest[u] = INFINITY;
        for (int64_t k = 0; k < c->k; k++) {
            double d = distance(pool->features + u * pool->width, c->centres + k * pool->width, pool->width);
            if (d < c->nearest[u]) {
                c->nearest[u] = d;
                best = k;
            }
        }
        moved |= c->of[u] != best;
        c->of[u] = best;
        c->inertia += c->nearest[u];
    }
    return moved;
}

static void count_members(const unit_pool *pool, clustering *c)
{
    memset(c->sizes, 0, (size_t)c->k * sizeof *c->sizes);
    for (int64_t u = 0; u < pool->n; u++)
        c->sizes[c->of[u]]++;
}

/* An empty cluster would silently take a rank away: it gets the unit that is farthest from its centre, of a cluster that has several. */
static bool fill_empty(const unit_pool *pool, clustering *c)
{
    bool filled = false;
    count_members(pool, c);
    for (int64_t k = 0; k < c->k; k++) {
        int64_t far = -1;
        for (int64_t u = 0; c->sizes[k] == 0 && u < pool->n; u++)
            if (c->sizes[c->of[u]] > 1 && (far < 0 || c->nearest[u] > c->nearest[far]))
                far = u;
        if (far < 0)
            continue;
        c->sizes[c->of[far]]--;
        c->sizes[k] = 1;
        c->of[far] = k;
        c->inertia -= c->nearest[far];
        c->nearest[far] = 0;
        filled = true;
    }
    return filled;
}

static void move_centres(const unit_pool *pool, clustering *c)
{
    memset(c->centres, 0, (size_t)(c->k * pool->width) * sizeof *c->centres);
    for (int64_t u = 0; u < pool->n; u++) {
        double *centre = c->centres + c->of[u] * pool->width, share = 1 / (double)c->sizes[c->of[u]];
        const float *x = pool->features + u * pool->width;
        for (int64_t i = 0; i < pool->width; i++)
            centre[i] += share * (double)x[i];
    }
}

static void free_clustering(clustering *c)
{
    cb_free(c->of);
    cb_free(c->sizes);
    cb_free(c->centres);
    cb_free(c->nearest);
}

static bool make_clustering(const unit_pool *pool, int64_t k, clustering *c)
{
    *c = (clustering){.k = k, .inertia = INFINITY};
    c->of = cb_calloc((size_t)pool->n, sizeof *c->of);
    c->sizes = cb_calloc((size_t)k, sizeof *c->sizes);
    c->centres = cb_calloc((size_t)(k * pool->width), sizeof *c->centres);
    c->nearest = cb_calloc((size_t)pool->n, sizeof *c->nearest);
    return c->of && c->sizes && c->centres && c->nearest;
}

/* The best of several starts (Lloyd's iterations). */
static bool cluster(const unit_pool *pool, const cb_adapter_merge *m, int64_t k, cb_rng rng, clustering *best)
{
    clustering c;
    bool ok = make_clustering(pool, k, best);
    ok = make_clustering(pool, k, &c) && ok;
    for (int64_t start = 0; ok && start < m->options->lego_restarts; start++) {
        choose_centres(pool, &c, &rng);
        assign(pool, &c);
        fill_empty(pool, &c);
        for (int64_t i = 0; i < m->options->lego_max_iter; i++) {
            move_centres(pool, &c);
            bool moved = assign(pool, &c);
            if (!fill_empty(pool, &c) && !moved)
                break;
        }
        if (c.inertia < best->inertia) {
            clustering swap = *best;
            *best = c;
            c = swap;
        }
    }
    free_clustering(&c);
    return ok;
}

/* ---- how many clusters ---- */

/* Mean over the units of (other - own) / max(other, own), the mean distances to the units of the nearest other cluster and of its own; a unit
 * alone counts 0.  Rousseeuw 1987. */
static double silhouette(const unit_pool *pool, const clustering *c, const double *distances, double *sums)
{
    double total = 0;
    for (int64_t u = 0; u < pool->n; u++) {
        memset(sums, 0, (size_t)c->k * sizeof *sums);
        for (int64_t v = 0; v < pool->n; v++)
            sums[c->of[v]] += distances[u * pool->n + v];
        int64_t own = c->of[u];
        double other = INFINITY, inside = c->sizes[own] > 1 ? sums[own] / (double)(c->sizes[own] - 1) : 0;
        for (int64_t k = 0; k < c->k; k++)
            if (k != own && c->sizes[k])
                other = fmin(other, sums[k] / (double)c->sizes[k]);
        double larger = fmax(other, inside);
        total += c->sizes[own] > 1 && larger > 0 ? (other - inside) / larger : 0;
    }
    return total / (double)pool->n;
}

static bool choose_rank(const unit_pool *pool, const cb_adapter_merge *m, cb_rng rng, int64_t most, int64_t *k)
{
    double *distances = cb_calloc((size_t)(pool->n * pool->n), sizeof *distances), *sums = cb_calloc((size_t)pool->n, sizeof *sums);
    double best = -INFINITY;
    bool ok = distances && sums;
    for (int64_t u = 0; ok && u < pool->n; u++)
        for (int64_t v = 0; v < pool->n; v++) {
            double sum = 0;
            for (int64_t i = 0; i < pool->width; i++) {
                double d = (double)pool->features[u * pool->width + i] - (double)pool->features[v * pool->width + i];
                sum += d * d;
            }
            distances[u * pool->n + v] = sqrt(sum);
        }
    *k = 1;
    for (int64_t tried = 2; ok && tried <= most && tried < pool->n; tried++) {
        clustering c;
        ok = cluster(pool, m, tried, rng, &c);
        double score = ok ? silhouette(pool, &c, distances, sums) : best;
        if (score > best) {
            best = score;
            *k = tried;
        }
        free_clustering(&c);
    }
    cb_free(distances);
    cb_free(sums);
    return ok;
}

/* ---- putting together ---- */

static double unit_size(const cb_adapter_merge *m, const float *unit, int64_t n)
{
    double largest = 0;
    if (m->options->lego_unit_scale == CB_LEGO_SCALE_MEAN)
        return length_of(unit, n);
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)unit[i]));
    return largest;
}

/* The mean of cluster k's units as they are, at their mean size, into `unit`. */
static void make_unit(const unit_pool *pool, const cb_adapter_merge *m, const clustering *c, int64_t k, float *unit, double *mean)
{
    double size = 0;
    memset(mean, 0, (size_t)pool->width * sizeof *mean);
    for (int64_t u = 0; u < pool->n; u++) {
        if (c->of[u] != k)
            continue;
        const float *x = pool->units + u * pool->width;
        size += unit_size(m, x, pool->width) / (double)c->sizes[k];
        for (int64_t i = 0; i < pool->width; i++)
            mean[i] += (double)x[i] / (double)c->sizes[k];
    }
    for (int64_t i = 0; i < pool->width; i++)
        unit[i] = (float)mean[i];
    double own = unit_size(m, unit, pool->width);
    for (int64_t i = 0; m->options->lego_unit_scale != CB_LEGO_SCALE_NONE && own > 0 && i < pool->width; i++)
        unit[i] = (float)(mean[i] * (size / own));
}

static bool put_together(const unit_pool *pool, const cb_adapter_merge *m, const clustering *c, cb_tensor *a, cb_tensor *b)
{
    float *unit = cb_alloc((size_t)pool->width * sizeof *unit);
    double *mean = cb_alloc((size_t)pool->width * sizeof *mean);
    bool ok = unit && mean;
    double output = m->options->lego_output_scale ? sqrt(pool->mean_rank / (double)c->k) : 1;
    for (int64_t k = 0; ok && k < c->k; k++) {
        make_unit(pool, m, c, k, unit, mean);
        memcpy((float *)a->data + k * pool->p, unit, (size_t)pool->p * sizeof *unit);
        for (int64_t i = 0; i < pool->q; i++)
            ((float *)b->data)[i * c->k + k] = (float)(output * (double)unit[pool->p + i]);
    }
    cb_free(unit);
    cb_free(mean);
    return ok;
}

bool cb_change_by_lego(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out)
{
    unit_pool pool;
    clustering c = {0};
    const cb_adapter_merge_options *o = m->options;
    cb_rng rng = {.seed = (uint64_t)o->combine->seed, .stream = cb_hash_text(CB_HASH_START, f->layer)};
    bool ok = fill_pool(&pool, m, f);
    int64_t k = o->rank ? o->rank : (int64_t)llround(pool.mean_rank);
    k = k < pool.n ? k : pool.n;
    if (ok && o->lego_choose_rank && !cb_rehearsing())
        ok = choose_rank(&pool, m, rng, o->rank ? k : pool.n, &k);
    out->rank = k;
    out->a = ok ? cb_zeros(CB_F32, k, pool.p) : NULL;
    out->b = ok ? cb_zeros(CB_F32, pool.q, k) : NULL;
    ok = out->a && out->b;
    if (ok && !cb_rehearsing())
        ok = cluster(&pool, m, k, rng, &c) && put_together(&pool, m, &c, out->a, out->b);
    free_clustering(&c);
    free_pool(&pool);
    return ok;
}
