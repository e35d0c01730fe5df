/* domain_contrast.c: labels by the nearest rows of a memory, and contrast of those of other labels: AdaContrast (Chen et al. 2022, arXiv:2204.10377).
 *
 * A teacher, whose weights are the running mean of the model's, fills two memories: features and predictions of weakly augmented rows, which vote for the label of
 * rows that are near, and features of strongly augmented ones with these labels, which a row is to be unlike unless its label is the same.  The first begins with
 * what the model says of the target before it learns, the second empty.  B rows, C width of features, K labels. */
#include <math.h>
#include <string.h>

#include "training/domains.h"

/* ---- memories ---- */

static bool open_queue(cb_domains *d, domain_queue *q, const char *name, int64_t width)
{
    int64_t all = cb_dataset_rows(d->target), rows = d->options.queue_rows < all ? d->options.queue_rows : all;
    q->features = cb_zeros(CB_F32, rows, d->width);
    q->said = cb_zeros(CB_F32, rows, width);
    q->place = cb_zeros(CB_F32, 2);
    return cb_domains_keep(&d->state, cb_format("domains.%s.features", name), q->features) &&
           cb_domains_keep(&d->state, cb_format("domains.%s.said", name), q->said) &&
           cb_domains_keep(&d->state, cb_format("domains.%s.place", name), q->place);
}

bool cb_contrast_open(cb_domains *d)
{
    return d->seen.features || (open_queue(d, &d->seen, "seen", d->labels) && open_queue(d, &d->keys, "keys", 1));
}

static int64_t filled(const domain_queue *q)
{
    return (int64_t)((const float *)q->place->data)[1];
}

static void put(domain_queue *q, const float *features, const float *said)
{
    float *place = q->place->data, *to = (float *)q->features->data + (int64_t)place[0] * q->features->shape[1];
    int64_t width = q->features->shape[1], rows = q->features->shape[0], each = q->said->shape[1], at = (int64_t)place[0];
    double square = 0;
    for (int64_t c = 0; c < width; c++)
        square += (double)features[c] * (double)features[c];
    for (int64_t c = 0; c < width; c++)
        to[c] = square > 0 ? (float)((double)features[c] / sqrt(square)) : 0;
    memcpy((float *)q->said->data + at * each, said, (size_t)each * sizeof *said);
    place[0] = (float)((at + 1) % rows);
    place[1] = fmaxf(place[1], (float)(at + 1));
}

static bool put_rows(domain_queue *q, cb_tensor *features, cb_tensor *said)
{
    int64_t count = features ? features->shape[0] : 0, width = q->features->shape[1], each = q->said->shape[1];
    float *x = cb_alloc((size_t)(count * width) * sizeof *x), *y = cb_alloc((size_t)(count * each) * sizeof *y);
    bool ok = features && said && x && y && cb_read(features, CB_F32, x) && cb_read(said, CB_F32, y);
    for (int64_t i = 0; ok && i < count; i++)
        put(q, x + i * width, y + i * each);
    cb_free(x);
    cb_free(y);
    return ok;
}

/* Rows that are spread over the target; a resumed run has them from its checkpoint. */
bool cb_contrast_prepare(cb_domains *d)
{
    if (cb_rehearsing() || filled(&d->seen))
        return true;
    cb_judged judged;
    if (!cb_judge_rows(d->model, d->target, d->options.batch_size, 0, &judged))
        return false;
    cb_scope *scope = cb_scope_open();
    cb_tensor *p = scope ? cb_softmax(cb_from(CB_F32, judged.logits, judged.rows, judged.labels), 1) : NULL;
    int64_t most = d->seen.features->shape[0];
    for (int64_t i = 0; p && i < most; i++) {
        int64_t row = i * judged.rows / most;
        put(&d->seen, judged.features + row * judged.width, (const float *)p->data + row * judged.labels);
    }
    if (scope)
        cb_scope_close(scope);
    cb_judged_free(&judged);
    return p;
}

/* ---- labels ---- */

int32_t cb_label_by_neighbours(const float *features, const float *scores, int64_t n, int64_t width, int64_t labels, const float *own,
                               int most)
{
    domain_neighbours near = cb_nearest_rows(features, n, width, own, -1, most);
    int32_t best = 0;
    double most_votes = -1;
    for (int64_t k = 0; k < labels; k++) {
        double votes = 0;
        for (int i = 0; i < near.count; i++)
            votes += (double)scores[near.rows[i] * labels + k];
        if (votes > most_votes) {
            most_votes = votes;
            best = (int32_t)k;
        }
    }
    return best;
}

static bool vote(const cb_domains *d, const domain_pass *p, int32_t *labels)
{
    const domain_queue *q = &d->seen;
    int64_t count = p->features[PART_TARGET]->shape[0], n = filled(q);
    float *own = cb_alloc((size_t)(count * d->width) * sizeof *own);
    bool ok = own && cb_read(p->features[PART_TARGET], CB_F32, own);
#pragma omp parallel for schedule(static) if (ok)
    for (int64_t i = 0; i < (ok ? count : 0); i++)
        labels[i] = cb_label_by_neighbours(q->features->data, q->said->data, n, d->width, d->labels, own + i * d->width,
                                           (int)d->options.refining_neighbours);
    cb_free(own);
    return ok;
}

/* Of the pass, once, whichever term asks first; then the teacher's word on these rows is remembered. */
static cb_tensor *labels_of(cb_domains *d, const domain_pass *p)
{
    if (d->refined)
        return d->refined;
    cb_tensor *features, *labels = cb_zeros(CB_I32, p->features[PART_TARGET]->shape[0]);
    bool ok = labels && (cb_rehearsing() || vote(d, p, labels->data));
    cb_tensor *logits = ok ? cb_teacher_judge(d, p->target, &p->target_ctx, &features) : NULL;
    ok = logits && (cb_rehearsing() || put_rows(&d->seen, cb_cast(features, CB_F32), cb_softmax(logits, 1)));
    d->refined = ok ? labels : NULL;
    return d->refined;
}

/* ---- terms ---- */

cb_tensor *cb_refined_label_loss(cb_domains *d, const domain_pass *p)
{
    cb_tensor *labels = labels_of(d, p);
    return labels ? cb_cross_entropy_with(p->logits[PART_STRONG], labels, (cb_linear_cross_entropy_options){.ignore_index = -100}) : NULL;
}

/* (B, M): keys of the row's own label, and those that are not there yet. */
static cb_tensor *not_to_be_unlike(const domain_queue *q, cb_tensor *labels)
{
    cb_tensor *same = cb_eq(cb_unsqueeze(cb_cast(labels, CB_F32), 1), cb_transpose(q->said, 0, 1));
    cb_tensor *number = cb_unsqueeze(cb_arange(CB_F32, 0, 1, q->said->shape[0]), 0);
    cb_tensor *missing = cb_ge(number, cb_slice(q->place, 0, 1, 2, 1));
    return cb_gt(cb_add(cb_cast(same, CB_F32), cb_cast(missing, CB_F32)), cb_scalar(CB_F32, 0));
}

cb_tensor *cb_contrast_term(cb_domains *d, const domain_pass *p)
{
    cb_tensor *labels = labels_of(d, p), *features = NULL;
    cb_tensor *judged = labels ? cb_teacher_judge(d, p->key, &p->key_ctx, &features) : NULL;
    if (!judged)
        return NULL;
    cb_tensor *keys = cb_detach(cb_cast(features, CB_F32)), *others = d->keys.features;
    cb_tensor *loss =
        cb_contrast_loss(p->features[PART_STRONG], keys, others, not_to_be_unlike(&d->keys, labels), d->options.contrast_temperature);
    bool ok = loss && (cb_rehearsing() || put_rows(&d->keys, keys, cb_unsqueeze(cb_cast(labels, CB_F32), 1)));
    return ok ? loss : NULL;
}

cb_tensor *cb_diversity_loss(cb_domains *d, const domain_pass *p)
{
    (void)d;
    return cb_neg(cb_marginal_entropy(p->logits[PART_STRONG]));
}
