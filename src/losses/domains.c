/* domains.c: how far two domains are apart: by their means and covariances, by kernels, by what a network can tell of them, and by where
 * two classifiers differ.  S and T samples of the source and of the target, C width, K labels. */
#include <math.h>

#include "cambium/losses.h"

static bool fit(const char *loss, const cb_tensor *source, const cb_tensor *target, int64_t least)
{
    if (source->ndim == 2 && target->ndim == 2 && source->shape[1] == target->shape[1] && source->dtype == target->dtype &&
        cb_dtype_is_float(source->dtype) && source->shape[0] >= least && target->shape[0] >= least && source->shape[1])
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: source %s and target %s, expected (S, C) and (T, C) of one floating-point type, S and T %lld or more", loss,
            cb_shape_text(source), cb_shape_text(target), (long long)least);
    return false;
}

/* ---- covariances ---- */

static cb_tensor *covariance(cb_tensor *x)
{
    cb_tensor *centred = cb_sub(x, cb_mean(x, 0, true));
    return cb_scale(cb_matmul(cb_transpose(centred, 0, 1), centred), 1 / (double)(x->shape[0] - 1));
}

cb_tensor *cb_coral_loss(cb_tensor *source, cb_tensor *target)
{
    if (!source || !target || !fit("coral_loss", source, target, 2))
        return NULL;
    double width = (double)source->shape[1];
    cb_tensor *difference = cb_sub(covariance(source), covariance(target));
    return cb_scale(cb_sum(cb_square(difference), CB_ALL, false), 1 / (4 * width * width));
}

/* ---- kernels ---- */

/* Squared distances of all rows of x (N, C) from each other. */
static cb_tensor *distances(cb_tensor *x)
{
    cb_tensor *squares = cb_sum(cb_square(x), 1, true); /* (N, 1) */
    cb_tensor *products = cb_scale(cb_matmul(x, cb_transpose(x, 0, 1)), -2);
    return cb_clamp(cb_add(cb_add(products, squares), cb_transpose(squares, 0, 1)), 0, INFINITY);
}

/* The middle bandwidth, without gradient; `found`: the mean of all squared distances. */
static cb_tensor *bandwidth(cb_dtype dtype, cb_mmd_kernel kernel, cb_tensor *found)
{
    return kernel.bandwidth > 0 ? cb_scalar(dtype, kernel.bandwidth) : cb_clamp(found, 1e-12, INFINITY); /* all rows alike */
}

/* The sum of Gaussians of squared distances d, of bandwidths 2^i times the middle one. */
static cb_tensor *gaussians(cb_tensor *d, cb_mmd_kernel kernel, cb_tensor *middle)
{
    enum { USUAL = 5 };
    int count = kernel.count ? kernel.count : USUAL, half = count / 2;
    cb_tensor *sum = NULL;
    for (int i = 0; i < count && cb_ok(); i++) {
        cb_tensor *one = cb_exp(cb_neg(cb_div(d, cb_scale(middle, exp2(i - half)))));
        sum = sum ? cb_add(sum, one) : one;
    }
    return sum;
}

static double pairs_of(const cb_tensor *x)
{
    return (double)x->shape[0] * ((double)x->shape[0] - 1);
}

/* (N, N) */
static cb_tensor *kernel_matrix(cb_tensor *x, cb_mmd_kernel kernel)
{
    if (!x)
        return NULL;
    cb_tensor *d = distances(x);
    return gaussians(d, kernel, bandwidth(x->dtype, kernel, cb_scale(cb_sum(cb_detach(d), CB_ALL, false), 1 / pairs_of(x))));
}

/* What each pair (i, j) of S + T rows counts, so that their sum is the statistic. */
static cb_tensor *pair_weights(cb_dtype dtype, int64_t s, int64_t t)
{
    int64_t n = s + t;
    cb_tensor *weights = cb_zeros(CB_F64, n, n);
    double *w = weights ? weights->data : NULL;
    for (int64_t i = 0; w && i < n; i++)
        for (int64_t j = 0; j < n; j++)
            w[i * n + j] = (i < s) != (j < s) ? -1 / ((double)s * (double)t)
                           : i == j           ? 0
                           : i < s            ? 1 / ((double)s * (double)(s - 1))
                                              : 1 / ((double)t * (double)(t - 1));
    return cb_cast(weights, dtype);
}

/* Each row's place is taken by the next one's, the last one's by the first's. */
static cb_tensor *next_rows(cb_tensor *x)
{
    int64_t n = x->shape[0];
    return cb_cat(2, (cb_tensor *[]){cb_slice(x, 0, 1, n, 1), cb_slice(x, 0, 0, 1, 1)}, 0);
}

/* The mean squared distance of all rows of x (N, C), without gradient, from their deviations: in linear time. */
static cb_tensor *mean_distance(cb_tensor *x)
{
    cb_tensor *plain = cb_detach(x), *centred = cb_sub(plain, cb_mean(plain, 0, true));
    return !x ? NULL : cb_scale(cb_sum(cb_square(centred), CB_ALL, false), 2 / (double)(x->shape[0] - 1));
}

/* (4, N) kernels of neighbouring rows: s and s', t and t', s and t', s' and t. */
static cb_tensor *neighbour_kernels(cb_tensor *source, cb_tensor *target, cb_mmd_kernel kernel)
{
    cb_tensor *next_source = next_rows(source), *next_target = next_rows(target);
    cb_tensor *pairs[4][2] = {{source, next_source}, {target, next_target}, {source, next_target}, {next_source, target}}, *d[4];
    for (int i = 0; i < 4; i++)
        d[i] = cb_sum(cb_square(cb_sub(pairs[i][0], pairs[i][1])), 1, false);
    cb_tensor *middle = bandwidth(source->dtype, kernel, mean_distance(cb_cat(2, (cb_tensor *[]){source, target}, 0)));
    return gaussians(cb_stack(4, d, 0), kernel, middle);
}

static cb_tensor *signed_mean(cb_tensor *kernels)
{
    cb_tensor *signs = cb_from(CB_F32, ((const float[]){1, 1, -1, -1}), 4, 1);
    return kernels ? cb_scale(cb_sum(cb_mul(kernels, cb_cast(signs, kernels->dtype)), CB_ALL, false), 1 / (double)kernels->shape[1]) : NULL;
}

cb_tensor *cb_mmd_loss_with(int layers, cb_tensor *const *source, cb_tensor *const *target, const cb_mmd_kernel *kernels, bool linear)
{
    cb_tensor *product = NULL;
    for (int i = 0; i < layers; i++) {
        if (!source[i] || !target[i] || !fit("mmd_loss", source[i], target[i], 2))
            return NULL;
        if (source[i]->shape[0] != source[0]->shape[0] || target[i]->shape[0] != target[0]->shape[0] ||
            (linear && source[i]->shape[0] != target[i]->shape[0])) {
            cb_fail(CB_ERR_SHAPE, "mmd_loss: layer %d: source %s and target %s, expected %lld rows and %s", i, cb_shape_text(source[i]),
                    cb_shape_text(target[i]), (long long)source[0]->shape[0], linear ? "as many" : "those of the first layer");
            return NULL;
        }
        cb_tensor *kernel = linear ? neighbour_kernels(source[i], target[i], kernels[i])
                                   : kernel_matrix(cb_cat(2, (cb_tensor *[]){source[i], target[i]}, 0), kernels[i]);
        product = product ? cb_mul(product, kernel) : kernel;
    }
    if (!product || linear)
        return signed_mean(product);
    return cb_sum(cb_mul(product, pair_weights(product->dtype, source[0]->shape[0], target[0]->shape[0])), CB_ALL, false);
}

/* What each pair of S + T rows counts in one class. */
static void add_class_weights(double *w, int64_t s, int64_t t, const int32_t *labels, const uint8_t *chosen, int32_t k, double share)
{
    int64_t a = 0, b = 0, n = s + t;
    for (int64_t i = 0; i < n; i++)
        *(i < s ? &a : &b) += i < s ? labels[i] == k : chosen[i - s] != 0;
    for (int64_t i = 0; i < n && a > 1 && b > 1; i++)
        for (int64_t j = 0; j < n; j++) {
            bool both = (i < s ? labels[i] == k : chosen[i - s] != 0) && (j < s ? labels[j] == k : chosen[j - s] != 0);
            if (both && i != j)
                w[i * n + j] += (i < s) != (j < s) ? -share / ((double)a * (double)b)
                                : i < s            ? share / ((double)a * (double)(a - 1))
                                                   : share / ((double)b * (double)(b - 1));
        }
}

cb_tensor *cb_class_mmd_loss(cb_tensor *x, cb_tensor *y, const int32_t *labels, const uint8_t *chosen, int64_t classes,
                             cb_mmd_kernel kernel)
{
    if (!x || !y || !fit("class_mmd_loss", x, y, 1))
        return NULL;
    int64_t s = x->shape[0], t = y->shape[0];
    cb_tensor *weights = cb_zeros(CB_F64, s + t, s + t), *k = kernel_matrix(cb_cat(2, (cb_tensor *[]){x, y}, 0), kernel);
    for (int64_t i = 0; k && weights && i < classes; i++)
        add_class_weights(weights->data, s, t, labels, chosen + i * t, (int32_t)i, 1 / (double)classes);
    return k ? cb_sum(cb_mul(k, cb_cast(weights, k->dtype)), CB_ALL, false) : NULL;
}

/* ---- adversaries ---- */

static cb_tensor *weighed_mean(cb_tensor *costs, cb_tensor *weights)
{
    return cb_mean(weights ? cb_mul(costs, weights) : costs, CB_ALL, false);
}

cb_tensor *cb_domain_loss(cb_tensor *source, cb_tensor *target, cb_tensor *source_weights, cb_tensor *target_weights)
{
    cb_tensor *of_source = weighed_mean(cb_softplus(cb_neg(source)), source_weights);
    return cb_scale(cb_add(of_source, weighed_mean(cb_softplus(target), target_weights)), 0.5);
}

cb_tensor *cb_multilinear_map(cb_tensor *features, cb_tensor *predictions, cb_tensor *of_features, cb_tensor *of_predictions)
{
    if (!features || !predictions)
        return NULL;
    if (features->ndim != 2 || predictions->ndim != 2 || features->shape[0] != predictions->shape[0] || !of_features != !of_predictions) {
        cb_fail(CB_ERR_SHAPE, "multilinear_map: features %s and predictions %s, expected (N, C) and (N, K), both with a matrix or none",
                cb_shape_text(features), cb_shape_text(predictions));
        return NULL;
    }
    if (of_features)
        return cb_scale(cb_mul(cb_matmul(features, of_features), cb_matmul(predictions, of_predictions)),
                        1 / sqrt((double)of_features->shape[1]));
    return cb_reshape(cb_mul(cb_unsqueeze(predictions, 2), cb_unsqueeze(features, 1)), features->shape[0], -1);
}

/* ---- two classifiers ---- */

cb_tensor *cb_classifier_discrepancy(cb_tensor *a, cb_tensor *b)
{
    return cb_mean(cb_abs(cb_sub(cb_softmax(a, -1), cb_softmax(b, -1))), CB_ALL, false);
}

/* Columns of the labels that the logits (N, K) give: one-hot, bool. */
static cb_tensor *chosen(cb_tensor *logits)
{
    cb_tensor *number = cb_arange(CB_I64, 0, 1, logits->shape[1]);
    return cb_eq(cb_unsqueeze(number, 0), cb_argmax(cb_detach(logits), 1, true));
}

cb_tensor *cb_margin_disparity_loss(cb_tensor *source, cb_tensor *source_adversary, cb_tensor *target, cb_tensor *target_adversary,
                                    double margin)
{
    if (!source || !source_adversary || !target || !target_adversary || !fit("margin_disparity_loss", source, target, 1) ||
        !fit("margin_disparity_loss", source_adversary, target_adversary, 1))
        return NULL;
    if (!cb_same_shape(source, source_adversary) || !cb_same_shape(target, target_adversary)) {
        cb_fail(CB_ERR_SHAPE, "margin_disparity_loss: logits %s and the adversary's %s, expected one shape", cb_shape_text(source),
                cb_shape_text(source_adversary));
        return NULL;
    }
    cb_tensor *label = cb_argmax(cb_detach(source), 1, true);
    cb_tensor *agree = cb_neg(cb_mean(cb_gather(cb_log_softmax(source_adversary, 1), 1, label), CB_ALL, false));
    /* log(1 - p) of the label: that of all others together */
    cb_tensor *others = cb_where(chosen(target), cb_scalar(target->dtype, -INFINITY), target_adversary);
    cb_tensor *log_other = cb_sub(cb_logsumexp(others, 1, false), cb_logsumexp(target_adversary, 1, false));
    return cb_sub(cb_scale(agree, margin), cb_mean(log_other, 0, false));
}
