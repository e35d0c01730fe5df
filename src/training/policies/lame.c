/* lame.c: LAME: the network stays as it is; answers are changed so that images that are near each other get like ones.  Boudiaf et al. 2022,
 * arXiv:2201.05718. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "training/policies/policies.h"

typedef struct lame_config {
    int64_t neighbours, iterations;
    double weight;
} lame_config;

#define OPT lame_config
static const cb_option options[] = {CB_OPT_INT(OPT, neighbours, 5, 1, 65536, "images that each one is compared with: those nearest to it"),
                                    CB_OPT_FLOAT(OPT, weight, 1, 0, 1e6, "of the neighbours, against the model's own answer"),
                                    CB_OPT_INT(OPT, iterations, 100, 1, 100000, "at most, until the bound no longer changes"), CB_OPT_END};
#undef OPT

/* ---- who is near whom ---- */

typedef struct distance {
    double squared;
    int64_t to;
} distance;

static int by_distance(const void *a_, const void *b_)
{
    const distance *a = a_, *b = b_;
    return a->squared != b->squared ? (a->squared > b->squared) - (a->squared < b->squared) : (a->to > b->to) - (a->to < b->to);
}

/* w (B, B): (w_ij + w_ji) / 2, where w_ij is 1 for the neighbours j of i; features (B, C) are rows of length 1. */
static bool affinities(const float *features, int64_t rows, int64_t width, int64_t neighbours, double *w)
{
    distance *list = cb_calloc((size_t)rows, sizeof *list);
    for (int64_t i = 0; list && i < rows; i++) {
        int64_t count = 0;
        for (int64_t j = 0; j < rows; j++) {
            double d = 0;
            for (int64_t c = 0; c < width; c++) {
                double x = (double)features[i * width + c] - (double)features[j * width + c];
                d += x * x;
            }
            if (j != i)
                list[count++] = (distance){d, j};
        }
        qsort(list, (size_t)count, sizeof *list, by_distance);
        for (int64_t k = 0; k < count && k < neighbours; k++) {
            w[i * rows + list[k].to] += 0.5;
            w[list[k].to * rows + i] += 0.5;
        }
    }
    cb_free(list);
    return list;
}

/* ---- the bound (section 4) ---- */

/* A row of z = softmax(log p + weight sum_j w_ij z_j), eq. 7; its part of the energy, eq. 6: sum_k z_k (log z_k - log p_k - weight sum_j w_ij z_jk). */
static double solve_row(const double *log_p, const double *pull, int64_t n, double *z)
{
    double most = -INFINITY, sum = 0, energy = 0;
    for (int64_t k = 0; k < n; k++)
        most = fmax(most, log_p[k] + pull[k]);
    for (int64_t k = 0; k < n; k++)
        sum += z[k] = exp(log_p[k] + pull[k] - most);
    for (int64_t k = 0; k < n; k++) {
        z[k] /= sum;
        energy += z[k] * (log(fmax(z[k], 1e-20)) - log_p[k] - pull[k]);
    }
    return energy;
}

static void pull_of(const double *w, const double *z, double weight, int64_t i, int64_t rows, int64_t n, double *pull)
{
    memset(pull, 0, (size_t)n * sizeof *pull);
    for (int64_t j = 0; j < rows; j++)
        for (int64_t k = 0; w[i * rows + j] != 0 && k < n; k++)
            pull[k] += weight * w[i * rows + j] * z[j * n + k];
}

/* z (B, K) begins as the model's probabilities; `next` has room for as many. */
static void solve(const cb_policy *p, const double *w, const double *log_p, int64_t rows, double *z, double *next, double *pull)
{
    const lame_config *c = p->config;
    int64_t n = p->classes;
    double before = INFINITY;
    for (int64_t t = 0; t < c->iterations; t++) {
        double energy = 0;
        for (int64_t i = 0; i < rows; i++) {
            pull_of(w, z, c->weight, i, rows, n, pull);
            energy += solve_row(log_p + i * n, pull, n, next + i * n);
        }
        memcpy(z, next, (size_t)(rows * n) * sizeof *z);
        if (t > 1 && fabs(energy - before) <= 1e-8 * fabs(before))
            return;
        before = energy;
    }
}

static cb_tensor *changed(const cb_policy *p, const float *features, int64_t width, const float *probability, int64_t rows)
{
    const lame_config *c = p->config;
    size_t size = (size_t)(rows * p->classes);
    double *block = cb_calloc(3 * size + (size_t)(rows * rows + p->classes), sizeof *block);
    cb_tensor *scores = cb_empty(CB_F32, rows, p->classes);
    double *z = block, *next = z + size, *log_p = next + size, *w = log_p + size;
    bool ok = block && scores && affinities(features, rows, width, c->neighbours, w);
    for (size_t i = 0; ok && i < size; i++) {
        log_p[i] = log((double)probability[i] + 1e-10);
        z[i] = (double)probability[i];
    }
    if (ok)
        solve(p, w, log_p, rows, z, next, w + rows * rows);
    for (size_t i = 0; ok && i < size; i++)
        ((float *)scores->data)[i] = (float)log(fmax(z[i], 1e-30));
    cb_free(block);
    return ok ? scores : NULL;
}

static bool open(cb_policy *p)
{
    if (!cb_learner_options_of(p->learner)->forward)
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "lame: reads a model's features, expected no forward function of the caller's") == CB_OK;
}

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    cb_tensor *logits = NULL, *features = NULL;
    cb_no_grad logits = cb_learner_logits_features(p->learner, input, &features);
    cb_tensor *rows = features ? cb_normalize(features, 1) : NULL;
    const float *probability = cb_probabilities(logits), *near = cb_floats(rows);
    return probability && near ? changed(p, near, rows->shape[1], probability, input->shape[0]) : NULL;
}

const cb_policy_kind cb_policy_lame = {.name = "lame",
                                       .summary = "images that are near each other get like answers; nothing is learned",
                                       .paper = "Boudiaf et al. 2022, arXiv:2201.05718",
                                       .options = options,
                                       .config_size = sizeof(lame_config),
                                       .defaults = {.trained = CB_TRAINED_NOTHING, .statistics = CB_ADAPT_STATISTICS_RUNNING},
                                       .wants = CB_POLICY_WANTS_RUNS,
                                       .open = open,
                                       .step = step};
