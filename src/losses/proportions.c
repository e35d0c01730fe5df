/* proportions.c: what the predictions of places say of their image: how sure they are, and which share of it each label has, held against what is
 * known of such shares.  Shape letters: B images, K labels, N places. */
#include "cambium/losses.h"

/* Inside logarithms, as in the authors' code: a share of 0 costs 23 nats, not infinity. */
static const double epsilon = 1e-10;

const char *const cb_class_ratio_names[] = {"mean", "largest", NULL};

static bool are_places(const char *loss, const cb_tensor *logits)
{
    if (logits->ndim >= 3 && logits->count && cb_dtype_is_float(logits->dtype))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: logits %s, expected (B, K, ...) of a floating-point type", loss, cb_shape_text(logits));
    return false;
}

static bool are_ratios(const char *loss, const cb_tensor *ratio, const cb_tensor *prior)
{
    if (ratio->ndim == 2 && ratio->count && cb_same_shape(ratio, prior) && ratio->dtype == prior->dtype && cb_dtype_is_float(ratio->dtype))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: ratio %s and prior %s, expected (B, K) both, of one floating-point type", loss, cb_shape_text(ratio),
            cb_shape_text(prior));
    return false;
}

/* (B, K, N) */
static cb_tensor *probabilities(cb_tensor *logits)
{
    return cb_softmax(cb_reshape(logits, logits->shape[0], logits->shape[1], -1), 1);
}

static cb_tensor *log_of(cb_tensor *p)
{
    return cb_log(cb_add_scalar(p, epsilon));
}

cb_tensor *cb_place_entropy_loss(cb_tensor *logits, cb_tensor *weights)
{
    if (!logits || !are_places("place_entropy_loss", logits))
        return NULL;
    if (weights && (weights->ndim != 1 || weights->shape[0] != logits->shape[1] || weights->dtype != logits->dtype)) {
        cb_fail(CB_ERR_SHAPE, "place_entropy_loss: weights %s of logits %s, expected (K) of the same type", cb_shape_text(weights),
                cb_shape_text(logits));
        return NULL;
    }
    cb_tensor *p = probabilities(logits), *costs = p ? cb_mul(p, log_of(p)) : NULL;
    cb_tensor *of_labels = cb_sum(cb_sum(costs, 2, false), 0, false); /* (K) */
    if (weights)
        of_labels = cb_mul(of_labels, weights);
    return cb_scale(cb_sum(of_labels, CB_ALL, false), -(double)logits->shape[1] / (double)logits->count);
}

cb_tensor *cb_class_ratio(cb_tensor *logits, cb_class_ratio_kind kind)
{
    if (!logits || !are_places("class_ratio", logits))
        return NULL;
    cb_tensor *p = probabilities(logits);
    if (kind == CB_RATIO_MEAN)
        return cb_mean(p, 2, false);
    cb_tensor *sizes = cb_sum(cb_div(p, cb_max(p, 1, true)), 2, false); /* (B, K) */
    return cb_div(sizes, cb_sum(sizes, 1, true));
}

/* (B): sum p log p - p log q */
static cb_tensor *divergences(cb_tensor *p, cb_tensor *q)
{
    return cb_sum(cb_mul(p, cb_sub(log_of(p), log_of(q))), 1, false);
}

cb_tensor *cb_ratio_divergence(cb_tensor *ratio, cb_tensor *prior, bool of_prior)
{
    if (!ratio || !prior || !are_ratios("ratio_divergence", ratio, prior))
        return NULL;
    return cb_mean(of_prior ? divergences(prior, ratio) : divergences(ratio, prior), 0, false);
}

cb_tensor *cb_ratio_penalty(cb_tensor *ratio, cb_tensor *prior, double slack)
{
    if (!ratio || !prior || !are_ratios("ratio_penalty", ratio, prior))
        return NULL;
    if (!(slack >= 0)) {
        cb_fail(CB_ERR_ARGUMENT, "ratio_penalty: slack is %g, expected 0 or more", slack);
        return NULL;
    }
    cb_tensor *below = cb_relu(cb_sub(cb_scale(prior, 1 - slack), ratio)), *above = cb_relu(cb_sub(ratio, cb_scale(prior, 1 + slack)));
    return cb_mean(cb_sum(cb_add(cb_square(below), cb_square(above)), 1, false), 0, false);
}
