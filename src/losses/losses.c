/* losses.c: losses made of public operations.
 *
 * Each function writes its formula element by element or row by row, then reduces.  Shape letters: N samples, K classes. */
#include "cambium/losses.h"

#include <math.h>

/* ---- shared ---- */

static bool fits(const char *loss, const cb_tensor *input, const cb_tensor *target)
{
    if (cb_dtype_is_float(input->dtype) && input->dtype == target->dtype && cb_same_shape(input, target))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: input %s and target %s, expected one shape and floating-point type", loss, cb_shape_text(input),
            cb_shape_text(target));
    return false;
}

/* As fits(), for losses over the last dimension. */
static bool rows_fit(const char *loss, const cb_tensor *input, const cb_tensor *target)
{
    if (!fits(loss, input, target))
        return false;
    if (input->ndim >= 1)
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: input %s, expected at least one dimension", loss, cb_shape_text(input));
    return false;
}

static cb_tensor *reduced(const char *loss, cb_tensor *elements, cb_reduction reduction)
{
    switch (reduction) {
    case CB_REDUCE_MEAN:
        return cb_mean(elements, CB_ALL, false);
    case CB_REDUCE_SUM:
        return cb_sum(elements, CB_ALL, false);
    case CB_REDUCE_NONE:
        return elements;
    }
    cb_fail(CB_ERR_ARGUMENT, "%s: reduction %d, expected mean, sum or none", loss, (int)reduction);
    return NULL;
}

/* ---- element by element ---- */

cb_tensor *cb_mse_loss(cb_tensor *input, cb_tensor *target, cb_reduction reduction)
{
    if (!input || !target || !fits("mse_loss", input, target))
        return NULL;
    return reduced("mse_loss", cb_square(cb_sub(input, target)), reduction);
}

cb_tensor *cb_l1_loss(cb_tensor *input, cb_tensor *target, cb_reduction reduction)
{
    if (!input || !target || !fits("l1_loss", input, target))
        return NULL;
    return reduced("l1_loss", cb_abs(cb_sub(input, target)), reduction);
}

cb_tensor *cb_huber_loss(cb_tensor *input, cb_tensor *target, double delta, cb_reduction reduction)
{
    if (!input || !target || !fits("huber_loss", input, target))
        return NULL;
    if (!(delta > 0)) {
        cb_fail(CB_ERR_ARGUMENT, "huber_loss: delta is %g, expected more than 0", delta);
        return NULL;
    }
    /* with c = min(|d|, delta) both branches are c (|d| - c / 2), and no branch overflows where the other holds */
    cb_tensor *distance = cb_abs(cb_sub(input, target));
    cb_tensor *near = cb_clamp(distance, 0, delta);
    return reduced("huber_loss", cb_mul(near, cb_sub(distance, cb_scale(near, 0.5))), reduction);
}

cb_tensor *cb_bce_with_logits_loss(cb_tensor *logits, cb_tensor *target, double pos_weight, cb_reduction reduction)
{
    if (!logits || !target || !fits("bce_with_logits_loss", logits, target))
        return NULL;
    /* -p t log s(x) - (1 - t) log(1 - s(x)) = (1 - t) x + (1 + (p - 1) t) softplus(-x), since log s(x) = -softplus(-x) */
    cb_tensor *weight = cb_add_scalar(cb_scale(target, pos_weight - 1), 1);
    cb_tensor *negative = cb_mul(cb_add_scalar(cb_neg(target), 1), logits);
    return reduced("bce_with_logits_loss", cb_add(negative, cb_mul(weight, cb_softplus(cb_neg(logits)))), reduction);
}

/* ---- between distributions ---- */

static int64_t row_count(const cb_tensor *x)
{
    int64_t rows = 1;
    for (int i = 0; i < x->ndim - 1; i++)
        rows *= x->shape[i];
    return rows;
}

/* log t, and 0 where t is 0, so that 0 log 0 = 0 and its gradient is finite. */
static cb_tensor *log_where_positive(cb_tensor *t)
{
    cb_tensor *positive = cb_gt(t, cb_scalar(t->dtype, 0));
    return cb_log(cb_where(positive, t, cb_scalar(t->dtype, 1)));
}

cb_tensor *cb_kl_div_loss(cb_tensor *input, cb_tensor *target, bool log_target, cb_reduction reduction)
{
    if (!input || !target || !rows_fit("kl_div_loss", input, target))
        return NULL;
    cb_tensor *probability = log_target ? cb_exp(target) : target;
    cb_tensor *log_probability = log_target ? target : log_where_positive(target);
    cb_tensor *elements = cb_mul(probability, cb_sub(log_probability, input));
    if (reduction != CB_REDUCE_MEAN)
        return reduced("kl_div_loss", elements, reduction);
    return cb_scale(cb_sum(elements, CB_ALL, false), 1 / (double)row_count(input));
}

cb_tensor *cb_soft_cross_entropy(cb_tensor *logits, cb_tensor *probabilities, double label_smoothing, cb_reduction reduction)
{
    if (!logits || !probabilities || !rows_fit("soft_cross_entropy", logits, probabilities))
        return NULL;
    if (!(label_smoothing >= 0 && label_smoothing <= 1)) {
        cb_fail(CB_ERR_ARGUMENT, "soft_cross_entropy: label_smoothing is %g, expected 0 to 1", label_smoothing);
        return NULL;
    }
    cb_tensor *target = probabilities;
    int64_t classes = logits->shape[logits->ndim - 1];
    if (label_smoothing > 0 && classes > 0)
        target = cb_add_scalar(cb_scale(target, 1 - label_smoothing), label_smoothing / (double)classes);
    cb_tensor *rows = cb_neg(cb_sum(cb_mul(target, cb_log_softmax(logits, -1)), -1, false));
    return reduced("soft_cross_entropy", rows, reduction);
}

/* ---- between directions ---- */

/* max(|x|, eps) along dim.  The square is clamped before the root, whose slope at 0 is infinite. */
static cb_tensor *length(cb_tensor *x, int dim, double eps)
{
    return cb_sqrt(cb_clamp(cb_sum(cb_square(x), dim, false), eps * eps, INFINITY));
}

cb_tensor *cb_cosine_similarity(cb_tensor *a, cb_tensor *b, int dim, double eps)
{
    if (!a || !b || !rows_fit("cosine_similarity", a, b))
        return NULL;
    if (!(eps > 0)) {
        cb_fail(CB_ERR_ARGUMENT, "cosine_similarity: eps is %g, expected more than 0", eps);
        return NULL;
    }
    cb_tensor *product = cb_sum(cb_mul(a, b), dim, false);
    return cb_div(product, cb_mul(length(a, dim, eps), length(b, dim, eps)));
}

cb_tensor *cb_cosine_embedding_loss(cb_tensor *a, cb_tensor *b, cb_tensor *target, double margin, cb_reduction reduction)
{
    if (!a || !b || !target || !rows_fit("cosine_embedding_loss", a, b))
        return NULL;
    if (a->ndim != 2 || target->ndim != 1 || target->shape[0] != a->shape[0] || target->dtype != a->dtype) {
        cb_fail(CB_ERR_SHAPE, "cosine_embedding_loss: inputs %s and target %s, expected (N, C) and (N) of one type", cb_shape_text(a),
                cb_shape_text(target));
        return NULL;
    }
    /* PyTorch's guard against zero vectors is added to the squares here */
    const double eps = 1e-12;
    cb_tensor *a2 = cb_add_scalar(cb_sum(cb_square(a), 1, false), eps), *b2 = cb_add_scalar(cb_sum(cb_square(b), 1, false), eps);
    cb_tensor *cosine = cb_div(cb_sum(cb_mul(a, b), 1, false), cb_sqrt(cb_mul(a2, b2)));
    cb_tensor *alike = cb_add_scalar(cb_neg(cosine), 1), *unlike = cb_relu(cb_add_scalar(cosine, -margin));
    cb_tensor *is_alike = cb_gt(target, cb_scalar(target->dtype, 0));
    return reduced("cosine_embedding_loss", cb_where(is_alike, alike, unlike), reduction);
}
