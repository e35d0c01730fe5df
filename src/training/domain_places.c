/* domain_places.c: terms over what predictions of places say of their images: AdaMI and AdaEnt.  Bateson et al. 2022, arXiv:2108.03152; 2020,
 * arXiv:2005.03697.
 *
 * What is known of the target is which share of an image each label has, roughly; it is held against the shares that predictions come to, image by image.
 * Shape letters: B images, K labels, H, W places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "training/domains.h"

/* ---- what is known ---- */

static bool are_shares(const cb_domains *d)
{
    const double allowed = 0.01;
    for (int64_t i = 0; i < cb_dataset_rows(d->target); i++) {
        double sum = 0, least = 0;
        for (int64_t k = 0; k < d->labels; k++) {
            double share = (double)d->options.priors[i * d->labels + k];
            sum += share;
            least = fmin(least, share);
        }
        if (!(least >= 0 && fabs(sum - 1) <= allowed))
            return cb_fail(CB_ERR_ARGUMENT, "priors: found row %lld with a least share of %g and a sum of %g, expected 0 or more and 1",
                           (long long)i, least, sum) == CB_OK;
    }
    return true;
}

bool cb_prior_open(cb_domains *d)
{
    if (d->prior)
        return true;
    int64_t rows = cb_dataset_rows(d->target);
    const float *shares = d->options.priors;
    if (!shares)
        return cb_fail(CB_ERR_ARGUMENT,
                       "method: found no prior, expected shares of labels: --prior, or --prior-maps with a few label maps") == CB_OK;
    d->prior = are_shares(d) ? cb_keep(cb_empty(CB_F32, rows, d->labels)) : NULL;
    return d->prior && cb_write(d->prior, CB_F32, shares);
}

static bool read_weights(const cb_string_list *given, int64_t labels, float *weights)
{
    if ((int64_t)given->count != labels)
        return cb_fail(CB_ERR_ARGUMENT, "class_weights: found %zu, expected even, or a number for each of %lld labels", given->count,
                       (long long)labels) == CB_OK;
    for (int64_t k = 0; k < labels; k++) {
        char *end;
        double weight = strtod(given->items[k], &end);
        if (end == given->items[k] || *end || !(weight >= 0 && weight <= 1e6))
            return cb_fail(CB_ERR_ARGUMENT, "class_weights: found \"%s\", expected numbers from 0 to 1e6", given->items[k]) == CB_OK;
        weights[k] = (float)weight;
    }
    return true;
}

/* One over the prior's mean share of each label, brought to a sum of 1.  A rehearsal has no values, the caller's priors have. */
static bool weigh_by_rarity(const cb_domains *d, float *weights)
{
    int64_t rows = cb_dataset_rows(d->target);
    double sum = 0;
    if (!are_shares(d))
        return false;
    for (int64_t k = 0; k < d->labels; k++) {
        double share = 0;
        for (int64_t i = 0; i < rows; i++)
            share += (double)d->options.priors[i * d->labels + k] / (double)rows;
        if (!(share > 0))
            return cb_fail(CB_ERR_ARGUMENT,
                           "place_entropy: label %s has a share of 0 in all images by the prior, expected more, or --class-weights",
                           cb_model_label_names(d->model)->items[k]) == CB_OK;
        weights[k] = (float)(1 / share);
        sum += 1 / share;
    }
    for (int64_t k = 0; k < d->labels; k++)
        weights[k] /= (float)sum;
    return true;
}

bool cb_place_entropy_open(cb_domains *d)
{
    const cb_string_list *given = &d->options.class_weights;
    if (given->count == 1 && strcmp(given->items[0], "even") == 0)
        return true;
    if (!given->count && !d->options.priors)
        return cb_fail(CB_ERR_ARGUMENT, "method: place_entropy weighs labels by a prior and found none, expected --prior, --prior-maps or "
                                        "--class-weights") == CB_OK;
    float *weights = cb_calloc((size_t)d->labels, sizeof *weights);
    bool ok = weights && (given->count ? read_weights(given, d->labels, weights) : weigh_by_rarity(d, weights));
    d->label_weights = ok ? cb_keep(cb_empty(CB_F32, d->labels)) : NULL;
    ok = d->label_weights && cb_write(d->label_weights, CB_F32, weights);
    cb_free(weights);
    return ok;
}

/* ---- terms ---- */

cb_tensor *cb_place_entropy_term(cb_domains *d, const domain_pass *p)
{
    return cb_place_entropy_loss(p->maps[PART_TARGET], d->label_weights);
}

/* (B, K) of the batch's images. */
static cb_tensor *expected(const cb_domains *d, const domain_pass *p)
{
    return cb_index_select(d->prior, 0, p->items);
}

static cb_tensor *ratio(const cb_domains *d, const domain_pass *p)
{
    return cb_class_ratio(p->maps[PART_TARGET], (cb_class_ratio_kind)d->options.class_ratio);
}

cb_tensor *cb_ratio_term(cb_domains *d, const domain_pass *p)
{
    return cb_ratio_divergence(ratio(d, p), expected(d, p), false);
}

cb_tensor *cb_reverse_ratio_term(cb_domains *d, const domain_pass *p)
{
    return cb_ratio_divergence(ratio(d, p), expected(d, p), true);
}

/* Of means, as sizes are counted in. */
cb_tensor *cb_size_term(cb_domains *d, const domain_pass *p)
{
    return cb_ratio_penalty(cb_class_ratio(p->maps[PART_TARGET], CB_RATIO_MEAN), expected(d, p), d->options.size_slack);
}
