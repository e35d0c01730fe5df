/* information.c: what predictions say of themselves, without targets: how sure they are, how evenly they use the labels, which of them they
 * confuse.  N samples, K labels; all of logits, in nats, with no epsilon in a logarithm. */
#include <math.h>

#include "cambium/losses.h"

static bool are_rows(const char *loss, const cb_tensor *logits)
{
    if (logits->ndim == 2 && logits->shape[0] && logits->shape[1] && cb_dtype_is_float(logits->dtype))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: logits %s, expected (N, K) of a floating-point type", loss, cb_shape_text(logits));
    return false;
}

static cb_tensor *entropy_of_logs(cb_tensor *log_p, int dim)
{
    return cb_neg(cb_sum(cb_mul(cb_exp(log_p), log_p), dim, false));
}

cb_tensor *cb_entropy_loss(cb_tensor *logits, cb_reduction reduction)
{
    if (!logits)
        return NULL;
    if (!logits->ndim || !cb_dtype_is_float(logits->dtype)) {
        cb_fail(CB_ERR_SHAPE, "entropy_loss: logits %s, expected (..., K) of a floating-point type", cb_shape_text(logits));
        return NULL;
    }
    cb_tensor *entropies = entropy_of_logs(cb_log_softmax(logits, -1), -1);
    return reduction == CB_REDUCE_NONE   ? entropies
           : reduction == CB_REDUCE_MEAN ? cb_mean(entropies, CB_ALL, false)
                                         : cb_sum(entropies, CB_ALL, false);
}

cb_tensor *cb_marginal_entropy(cb_tensor *logits)
{
    if (!logits || !are_rows("marginal_entropy", logits))
        return NULL;
    cb_tensor *log_mean = cb_add_scalar(cb_logsumexp(cb_log_softmax(logits, 1), 0, false), -log((double)logits->shape[0])); /* (K) */
    return entropy_of_logs(log_mean, 0);
}

cb_tensor *cb_prediction_information(cb_tensor *logits)
{
    return cb_sub(cb_marginal_entropy(logits), cb_entropy_loss(logits, CB_REDUCE_MEAN));
}

cb_tensor *cb_certainty_weights(cb_tensor *logits)
{
    if (!logits || !are_rows("certainty_weights", logits))
        return NULL;
    cb_tensor *w = cb_add_scalar(cb_exp(cb_neg(cb_entropy_loss(cb_detach(logits), CB_REDUCE_NONE))), 1);
    return cb_div(w, cb_mean(w, 0, true));
}

cb_tensor *cb_pseudo_label_loss(cb_tensor *logits, cb_tensor *judge, double threshold)
{
    if (!logits || !judge || !are_rows("pseudo_label_loss", logits))
        return NULL;
    if (!cb_same_shape(logits, judge) || logits->dtype != judge->dtype) {
        cb_fail(CB_ERR_SHAPE, "pseudo_label_loss: logits %s and judge %s, expected one shape and type", cb_shape_text(logits),
                cb_shape_text(judge));
        return NULL;
    }
    cb_tensor *said = cb_softmax(cb_detach(judge), 1);
    cb_tensor *label = cb_argmax(said, 1, true), *sure = cb_ge(cb_max(said, 1, false), cb_scalar(judge->dtype, threshold));
    cb_tensor *costs = cb_neg(cb_squeeze(cb_gather(cb_log_softmax(logits, 1), 1, label), 1));
    return cb_mean(cb_mul(costs, cb_cast(sure, logits->dtype)), 0, false);
}

cb_tensor *cb_class_confusion_loss(cb_tensor *logits, double temperature)
{
    if (!logits || !are_rows("class_confusion_loss", logits))
        return NULL;
    if (!(temperature > 0)) {
        cb_fail(CB_ERR_ARGUMENT, "class_confusion_loss: temperature is %g, expected more than 0", temperature);
        return NULL;
    }
    cb_tensor *sharp = cb_scale(logits, 1 / temperature), *p = cb_softmax(sharp, 1);
    cb_tensor *weighed = cb_mul(p, cb_unsqueeze(cb_certainty_weights(sharp), 1));
    cb_tensor *confusion = cb_matmul(cb_transpose(weighed, 0, 1), p); /* (K, K), symmetric */
    cb_tensor *rows = cb_div(confusion, cb_sum(confusion, 1, true));
    cb_tensor *number = cb_arange(CB_I64, 0, 1, logits->shape[1]);
    cb_tensor *other = cb_ne(cb_unsqueeze(number, 1), cb_unsqueeze(number, 0));
    return cb_scale(cb_sum(cb_mul(rows, cb_cast(other, logits->dtype)), CB_ALL, false), 1 / (double)logits->shape[1]);
}

cb_tensor *cb_anchor_attention_loss(cb_tensor *vectors, cb_tensor *anchors)
{
    if (!vectors || !anchors)
        return NULL;
    if (vectors->ndim != 2 || anchors->ndim != 2 || vectors->shape[1] != anchors->shape[1] || !anchors->shape[0] || !vectors->shape[0] ||
        vectors->dtype != anchors->dtype || !cb_dtype_is_float(vectors->dtype)) {
        cb_fail(CB_ERR_SHAPE, "anchor_attention_loss: vectors %s and anchors %s, expected (N, C) and (M, C) of one floating-point type",
                cb_shape_text(vectors), cb_shape_text(anchors));
        return NULL;
    }
    cb_tensor *cosines = cb_matmul(cb_normalize(vectors, 1), cb_transpose(cb_normalize(cb_detach(anchors), 1), 0, 1)); /* (N, M) */
    return cb_entropy_loss(cosines, CB_REDUCE_MEAN);
}
