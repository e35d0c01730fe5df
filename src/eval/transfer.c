/* transfer.c: how well a classifier is likely to do on data whose labels nobody knows: Transfer Score (Yang et al. 2024, arXiv:2305.18712) and its
 * parts.  N rows of D features, K labels. */
#include <math.h>
#include <string.h>

#include "cambium/metrics.h"

/* ---- evenness of the classifier ---- */

static double length_of(const float *x, size_t n)
{
    double square = 0;
    for (size_t i = 0; i < n; i++)
        square += (double)x[i] * (double)x[i];
    return sqrt(square);
}

static double angle_between(const float *a, const float *b, size_t n)
{
    double dot = 0;
    for (size_t i = 0; i < n; i++)
        dot += (double)a[i] * (double)b[i];
    double cosine = dot / (length_of(a, n) * length_of(b, n));
    return acos(fmax(-1, fmin(1, cosine))); /* rounding leads beyond 1 where two rows are alike */
}

double cb_classifier_unevenness(const float *weights, size_t classes, size_t width)
{
    double sum = 0, even = classes > 1 ? acos(-1 / ((double)classes - 1)) : NAN;
    for (size_t i = 0; i < classes; i++)
        for (size_t j = i + 1; j < classes; j++) {
            double gap = angle_between(weights + i * width, weights + j * width, width) - even;
            sum += 2 * gap * gap;
        }
    return sum / ((double)classes * ((double)classes - 1));
}

/* ---- clusters ---- */

static double squared_distance(const float *a, const float *b, size_t width)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < width; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return (double)sum;
}

/* From `point` to the nearest row but `self`. */
static double nearest(const float *features, size_t n, size_t width, const float *point, size_t self)
{
    double least = INFINITY;
    for (size_t i = 0; i < n; i++)
        if (i != self)
            least = fmin(least, squared_distance(features + i * width, point, width));
    return sqrt(least);
}

double cb_hopkins_of(const float *features, size_t n, size_t width, const float *points, const size_t *rows, size_t m)
{
    double from_points = 0, from_rows = 0;
#pragma omp parallel for reduction(+ : from_points, from_rows) schedule(static)
    for (size_t i = 0; i < m; i++) {
        from_points += nearest(features, n, width, points + i * width, SIZE_MAX);
        from_rows += nearest(features, n, width, features + rows[i] * width, rows[i]);
    }
    return from_points + from_rows > 0 ? from_points / (from_points + from_rows) : NAN;
}

/* m of n numbers, each once. */
static void draw_rows(cb_rng *rng, size_t n, size_t m, size_t *order)
{
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = 0; i < m; i++) {
        size_t j = i + (size_t)cb_rng_below(rng, n - i), swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

static void draw_points(cb_rng *rng, const float *low, const float *high, size_t width, size_t m, float *points)
{
    for (size_t i = 0; i < m; i++)
        for (size_t c = 0; c < width; c++)
            points[i * width + c] = (float)((double)low[c] + ((double)high[c] - (double)low[c]) * cb_rng_uniform(rng));
}

static void box_of(const float *features, size_t n, size_t width, float *low, float *high)
{
    memcpy(low, features, width * sizeof *low);
    memcpy(high, features, width * sizeof *high);
    for (size_t i = 1; i < n; i++)
        for (size_t c = 0; c < width; c++) {
            low[c] = fminf(low[c], features[i * width + c]);
            high[c] = fmaxf(high[c], features[i * width + c]);
        }
}

bool cb_hopkins(const float *features, size_t n, size_t width, size_t draws, uint64_t seed, double *mean, double *deviation)
{
    const double share = 0.05;
    size_t m = (size_t)(share * (double)n);
    *mean = *deviation = NAN;
    if (!m || !draws)
        return cb_fail(CB_ERR_ARGUMENT, "hopkins: %zu rows and %zu draws, expected 20 rows or more, of which one in 20 is drawn", n,
                       draws) == CB_OK;
    float *low = cb_alloc(2 * width * sizeof *low), *points = cb_alloc(m * width * sizeof *points);
    size_t *order = cb_alloc(n * sizeof *order);
    bool ok = low && points && order;
    cb_rng rng = {.seed = seed, .stream = 0x686f706b};
    double sum = 0, squares = 0;
    if (ok)
        box_of(features, n, width, low, low + width);
    for (size_t d = 0; ok && d < draws; d++) {
        draw_points(&rng, low, low + width, width, m, points);
        draw_rows(&rng, n, m, order);
        double h = cb_hopkins_of(features, n, width, points, order, m);
        sum += h;
        squares += h * h;
    }
    if (ok) {
        *mean = sum / (double)draws;
        *deviation = draws > 1 ? sqrt(fmax(0, (squares - sum * *mean) / ((double)draws - 1))) : NAN;
    }
    cb_free(low);
    cb_free(points);
    cb_free(order);
    return ok;
}

/* ---- predictions ---- */

/* Adds the row's probabilities; its entropy. */
static double add_prediction(const float *logits, size_t classes, double *sum)
{
    double most = -INFINITY, total = 0, entropy = 0;
    for (size_t k = 0; k < classes; k++)
        most = fmax(most, (double)logits[k]);
    for (size_t k = 0; k < classes; k++)
        total += exp((double)logits[k] - most);
    for (size_t k = 0; k < classes; k++) {
        double log_p = (double)logits[k] - most - log(total), p = exp(log_p);
        sum[k] += p;
        entropy -= p > 0 ? p * log_p : 0;
    }
    return entropy;
}

bool cb_information_of(const float *logits, size_t n, size_t classes, size_t batch, double *information, double *entropy)
{
    double *sum = cb_calloc(classes + 1, sizeof *sum), all = 0, shared = 0, batches = 0;
    *information = *entropy = NAN;
    batch = batch ? batch : n;
    for (size_t first = 0; sum && first < n; first += batch, batches++) {
        size_t rows = first + batch < n ? batch : n - first;
        double own = 0, marginal = 0;
        memset(sum, 0, classes * sizeof *sum);
        for (size_t i = first; i < first + rows; i++)
            own += add_prediction(logits + i * classes, classes, sum);
        for (size_t k = 0; k < classes; k++)
            marginal -= sum[k] > 0 ? sum[k] / (double)rows * log(sum[k] / (double)rows) : 0;
        all += own;
        shared += marginal - own / (double)rows;
    }
    if (sum && n) {
        *information = shared / batches;
        *entropy = all / (double)n;
    }
    cb_free(sum);
    return sum;
}

/* ---- all of it ---- */

bool cb_transfer_score_of(const float *weights, const float *features, const float *logits, size_t n, size_t width, size_t classes,
                          size_t batch, size_t draws, uint64_t seed, cb_transfer_score *score)
{
    *score = (cb_transfer_score){.rows = n, .classes = classes};
    if (classes < 2)
        return cb_fail(CB_ERR_ARGUMENT, "transfer score: %zu labels, expected two or more", classes) == CB_OK;
    double entropy;
    score->unevenness = cb_classifier_unevenness(weights, classes, width);
    if (!cb_hopkins(features, n, width, draws, seed, &score->hopkins, &score->hopkins_deviation) ||
        !cb_information_of(logits, n, classes, 0, &score->information, &score->entropy) ||
        !cb_information_of(logits, n, classes, batch, &score->batch_information, &entropy))
        return false;
    score->information /= log((double)classes);
    score->batch_information /= log((double)classes);
    score->score = -score->unevenness + score->hopkins + score->information;
    score->batch_score = -score->unevenness + score->hopkins + score->batch_information;
    return isfinite(score->score) || cb_fail(CB_ERR_NUMERIC, "transfer score: unevenness %g, Hopkins statistic %g, information %g",
                                             score->unevenness, score->hopkins, score->information) == CB_OK;
}
