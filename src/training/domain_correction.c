/* domain_correction.c: the terms of generalised domain conditioned adaptation (Li et al. 2021, arXiv:2103.12339) besides entropy.
 *
 * Features f of the source are judged as they are, and the target's after a correction f' that an adapter on the head makes (kind gdcan); logits
 * likewise.  Which it is, is what the context says a row's task is: without tasks all rows are the target's.  B rows, C width, K labels. */
#include "training/domains.h"

/* The bandwidth of the authors' code for predictions; five kernels of features go by their mean distance. */
static const cb_mmd_kernel of_features = {0, 0}, of_predictions = {1, 1.68};

/* Features (B, C) as the head has them of a row of the target. */
static cb_tensor *corrected(const cb_domains *d, const domain_pass *p, cb_tensor *features)
{
    return cb_squeeze(cb_layer_before(cb_model_head_layer(d->model), cb_unsqueeze(features, 1), p->ctx), 1);
}

static cb_tensor *distance(cb_tensor *source, cb_tensor *target, cb_mmd_kernel kernel)
{
    return cb_mmd_loss_with(1, &source, &target, &kernel, true);
}

/* Equations 8 and 9: the source's features and predictions, and the target's corrected ones. */
cb_tensor *cb_linear_mmd_loss(cb_domains *d, const domain_pass *p)
{
    return cb_add(distance(p->features[PART_SOURCE], corrected(d, p, p->features[PART_TARGET]), of_features),
                  distance(cb_softmax(p->logits[PART_SOURCE], 1), cb_softmax(p->logits[PART_TARGET], 1), of_predictions));
}

bool cb_correction_attach(cb_domains *d)
{
    const cb_layer *head = cb_model_head_layer(d->model);
    bool found = false;
    for (size_t i = 0; head && i < head->module_count; i++)
        found = found || head->modules[i]->kind->before || head->modules[i]->kind->forward;
    return found ||
           cb_fail(CB_ERR_ARGUMENT, "correction: found no adapter on %s that corrects features or logits, expected one (kind gdcan)",
                   head ? head->name : "the head") == CB_OK;
}

/* For each label, rows of the source in the order of the batch: which count, each with this probability.  The authors' code means to draw them, and
 * takes the first ones. */
static uint8_t *draw_rows(const cb_domains *d, cb_rng *rng, int64_t rows)
{
    double share = d->options.correction_share / (double)d->labels;
    uint8_t *chosen = cb_calloc((size_t)(rows * d->labels), 1);
    for (int64_t i = 0; chosen && i < rows * d->labels; i++)
        chosen[i] = cb_rng_uniform(rng) < share;
    return chosen;
}

/* Equation 10: what the correction would make of the source, were it the target, is to stay what the source is: of each label its rows, and rows
 * drawn from all of them.  The sum over labels of distances to one distribution is least where that is the labels' mean, which is meant; but what it
 * asks of the labels is to be alike, against the classifier.  So the term trains the correction alone, and, `correction_through`, the features too, as the
 * authors' code does. */
cb_tensor *cb_correction_loss(cb_domains *d, const domain_pass *p)
{
    bool through = d->options.correction_through;
    cb_tensor *plain = p->features[PART_SOURCE], *logits = cb_softmax(p->logits[PART_SOURCE], 1);
    plain = through ? plain : cb_detach(plain);
    logits = through ? logits : cb_detach(logits);
    cb_tensor *features = corrected(d, p, plain), *judged = cb_cast(cb_model_judge_features(d->model, plain, p->ctx), CB_F32);
    cb_tensor *labels = cb_contiguous(cb_cast(p->labels, CB_I32)), *predictions = cb_softmax(judged, 1);
    cb_rng fixed = cb_domains_rng(d, "correction");
    uint8_t *chosen = labels && features ? draw_rows(d, p->ctx->rng ? p->ctx->rng : &fixed, plain->shape[0]) : NULL;
    cb_tensor *sum = NULL;
    if (chosen)
        sum = cb_add(cb_class_mmd_loss(plain, features, labels->data, chosen, d->labels, of_features),
                     cb_class_mmd_loss(logits, predictions, labels->data, chosen, d->labels, of_predictions));
    cb_free(chosen);
    return sum;
}
