/* domain_neighbours.c: predictions of a row that agree with those of its neighbours in the pool: NRC (Yang et al. 2021, arXiv:2110.04202).
 *
 * Two banks hold each row's features, of length 1, and its predictions, as they were when it was last seen; those of a batch are renewed before neighbours are
 * looked for.  N rows of the pool, C width, K labels. */
#include <math.h>
#include <string.h>

#include "training/domains.h"

enum { NEIGHBOURS = 5 };              /* as in the authors' code, and as many of each of these */
static const double far_weight = 0.1; /* of neighbours that are not mutual, and of neighbours' neighbours */

static void consider(domain_neighbours *n, int most, int64_t row, float nearness)
{
    int at = n->count < most ? n->count++ : most;
    if (at == most && nearness <= n->nearness[--at])
        return;
    for (; at > 0 && n->nearness[at - 1] < nearness; at--) {
        n->nearness[at] = n->nearness[at - 1];
        n->rows[at] = n->rows[at - 1];
    }
    n->nearness[at] = nearness;
    n->rows[at] = row;
}

domain_neighbours cb_nearest_rows(const float *features, int64_t n, int64_t width, const float *own, int64_t but, int most)
{
    domain_neighbours found = {.count = 0};
    for (int64_t i = 0; i < n; i++) {
        float dot = 0;
        const float *other = features + i * width;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < width; c++)
            dot += own[c] * other[c];
        if (i != but)
            consider(&found, most, i, dot);
    }
    return found;
}

static domain_neighbours neighbours_of(const float *features, int64_t n, int64_t width, int64_t row)
{
    return cb_nearest_rows(features, n, width, features + row * width, row, NEIGHBOURS);
}

static void add_scores(float *target, const float *scores, int64_t labels, double weight)
{
    for (int64_t k = 0; k < labels; k++)
        target[k] += (float)weight * scores[k];
}

void cb_neighbour_target(const float *features, const float *scores, int64_t n, int64_t width, int64_t labels, int64_t row, float *target)
{
    domain_neighbours near = neighbours_of(features, n, width, row);
    memset(target, 0, (size_t)labels * sizeof *target);
    for (int i = 0; i < near.count; i++) {
        domain_neighbours further = neighbours_of(features, n, width, near.rows[i]);
        bool mutual = false;
        for (int k = 0; k < further.count; k++) {
            mutual = mutual || further.rows[k] == row;
            add_scores(target, scores + further.rows[k] * labels, labels, far_weight);
        }
        add_scores(target, scores + near.rows[i] * labels, labels, mutual ? 1 : far_weight);
    }
}

/* ---- the banks ---- */

bool cb_neighbours_open(cb_domains *d)
{
    int64_t n = cb_dataset_rows(d->target);
    d->feature_bank = cb_zeros(CB_F32, n, d->width);
    d->score_bank = cb_zeros(CB_F32, n, d->labels);
    return cb_domains_keep(&d->state, cb_strdup("domains.feature_bank"), d->feature_bank) &&
           cb_domains_keep(&d->state, cb_strdup("domains.score_bank"), d->score_bank);
}

static void put_row(cb_domains *d, int64_t row, const float *features, const float *probabilities)
{
    float *to = (float *)d->feature_bank->data + row * d->width;
    double square = 0;
    for (int64_t c = 0; c < d->width; c++)
        square += (double)features[c] * (double)features[c];
    for (int64_t c = 0; c < d->width; c++)
        to[c] = square > 0 ? (float)((double)features[c] / sqrt(square)) : 0;
    memcpy((float *)d->score_bank->data + row * d->labels, probabilities, (size_t)d->labels * sizeof *probabilities);
}

/* Before the first step; a resumed run has them from its checkpoint. */
bool cb_neighbours_prepare(cb_domains *d)
{
    if (d->step > 0 || cb_rehearsing())
        return true;
    cb_judged judged;
    if (!cb_judge_rows(d->model, d->target, d->options.batch_size, 0, &judged))
        return false;
    cb_scope *scope = cb_scope_open();
    cb_tensor *p = scope ? cb_softmax(cb_from(CB_F32, judged.logits, judged.rows, judged.labels), 1) : NULL;
    for (int64_t i = 0; p && i < judged.rows; i++)
        put_row(d, i, judged.features + i * judged.width, (const float *)p->data + i * judged.labels);
    if (scope)
        cb_scope_close(scope);
    cb_judged_free(&judged);
    return p;
}

/* ---- the term ---- */

static bool renew(cb_domains *d, const int64_t *rows, int64_t count, cb_tensor *features, cb_tensor *probabilities)
{
    float *x = cb_alloc((size_t)(count * d->width) * sizeof *x), *p = cb_alloc((size_t)(count * d->labels) * sizeof *p);
    bool ok = x && p && cb_read(features, CB_F32, x) && cb_read(probabilities, CB_F32, p);
    for (int64_t i = 0; ok && i < count; i++)
        put_row(d, rows[i], x + i * d->width, p + i * d->labels);
    cb_free(x);
    cb_free(p);
    return ok;
}

/* -mean over rows of <prediction, what the neighbours say>, less the entropy of the mean prediction. */
cb_tensor *cb_neighbours_loss(cb_domains *d, const domain_pass *p)
{
    int64_t count = p->logits[PART_TARGET]->shape[0], *rows = cb_alloc((size_t)count * sizeof *rows);
    cb_tensor *said = cb_softmax(p->logits[PART_TARGET], 1), *targets = cb_zeros(CB_F32, count, d->labels);
    bool ok = rows && said && targets && cb_read(p->items, CB_I64, rows);
    if (ok && !cb_rehearsing()) {
        ok = renew(d, rows, count, p->features[PART_TARGET], said);
        int64_t n = d->feature_bank->shape[0];
#pragma omp parallel for schedule(static) if (ok)
        for (int64_t i = 0; i < (ok ? count : 0); i++)
            cb_neighbour_target(d->feature_bank->data, d->score_bank->data, n, d->width, d->labels, rows[i],
                                (float *)targets->data + i * d->labels);
    }
    cb_free(rows);
    if (!ok)
        return NULL;
    cb_tensor *agreement = cb_mean(cb_sum(cb_mul(said, targets), 1, false), 0, false);
    return cb_neg(cb_add(agreement, cb_marginal_entropy(p->logits[PART_TARGET])));
}
