/* domain_refine.c: predictions of the target, refined by discriminators of each label: Pareto domain adaptation (Lv et al. 2021, arXiv:2112.04137).
 *
 * By Bayes p(k | x, target) is as p(k | x) p(target | x, k); the second factor is what a discriminator of label k says.  All K of them are one network of
 * K parts.  Features reach them detached, so they shape no features.  B rows, C width of features, K labels, H width of hidden layers. */
#include <math.h>

#include "training/domains.h"

static cb_tensor *new_weight(cb_domains *d, const char *name, cb_rng *rng, int64_t inputs, int ndim, const int64_t *shape)
{
    cb_tensor *weight = cb_domains_uniform(rng, inputs, ndim, shape);
    return cb_domains_keep(&d->parameters, cb_format("domains.classes.%s", name), weight) ? cb_parameter(weight) : NULL;
}

bool cb_refine_open(cb_domains *d)
{
    int64_t k = d->labels, h = d->options.class_width, c = d->width;
    cb_rng rng = cb_domains_rng(d, "classes");
    d->class_weight[0] = new_weight(d, "0.weight", &rng, c, 2, (int64_t[]){k * h, c});
    d->class_bias[0] = new_weight(d, "0.bias", &rng, c, 1, (int64_t[]){k * h});
    d->class_weight[1] = new_weight(d, "1.weight", &rng, h, 3, (int64_t[]){k, h, h});
    d->class_bias[1] = new_weight(d, "1.bias", &rng, h, 3, (int64_t[]){k, 1, h});
    d->class_weight[2] = new_weight(d, "2.weight", &rng, h, 3, (int64_t[]){k, h, 1});
    d->class_bias[2] = new_weight(d, "2.bias", &rng, h, 3, (int64_t[]){k, 1, 1});
    return cb_ok();
}

/* Logits (B, K) of features being the target's, if their label is k. */
static cb_tensor *says_target(const cb_domains *d, cb_tensor *features)
{
    int64_t rows = features->shape[0];
    cb_tensor *x = cb_relu(cb_linear(cb_detach(features), d->class_weight[0], d->class_bias[0]));
    x = cb_permute(cb_reshape(x, rows, d->labels, -1), 1, 0, 2); /* (K, B, H) */
    for (int i = 1; i < NETWORK_LAYERS; i++) {
        x = cb_add(cb_matmul(x, d->class_weight[i]), d->class_bias[i]);
        x = i + 1 < NETWORK_LAYERS ? cb_relu(x) : x;
    }
    return cb_transpose(cb_squeeze(x, 2), 0, 1);
}

/* Unnormalised logarithms (B, K) of the refined prediction; what the discriminators say carries no gradient. */
static cb_tensor *refined(const cb_domains *d, const domain_pass *p, int part)
{
    cb_tensor *log_target = cb_neg(cb_softplus(cb_neg(cb_detach(says_target(d, p->features[part])))));
    return cb_add(cb_log_softmax(p->logits[part], 1), log_target);
}

cb_tensor *cb_refined_information(const cb_domains *d, const domain_pass *p, int part)
{
    return cb_neg(cb_prediction_information(refined(d, p, part)));
}

/* Of a source's row the discriminator of its label is to say source, of a target's each by as much as the row is likely of that label. */
cb_tensor *cb_class_domain_loss(cb_domains *d, const domain_pass *p)
{
    cb_tensor *label = cb_unsqueeze(cb_cast(p->labels, CB_I64), 1);
    cb_tensor *source = cb_softplus(cb_gather(says_target(d, p->features[PART_SOURCE]), 1, label));
    cb_tensor *share = cb_detach(cb_softmax(refined(d, p, PART_TARGET), 1));
    cb_tensor *target = cb_sum(cb_mul(share, cb_softplus(cb_neg(says_target(d, p->features[PART_TARGET])))), 1, false);
    return cb_scale(cb_add(cb_mean(source, CB_ALL, false), cb_mean(target, 0, false)), 0.5);
}
