/* losses.h: floor 3: losses, made of public operations, so every one can be differentiated again.
 *
 * Element-wise losses want input and target of one shape and dtype; they give a scalar (mean or sum) or the elements
 * themselves.  The definitions and names are PyTorch's. */
#ifndef CAMBIUM_LOSSES_H
#define CAMBIUM_LOSSES_H

#include "cambium/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cb_reduction { CB_REDUCE_MEAN, CB_REDUCE_SUM, CB_REDUCE_NONE } cb_reduction;

CB_API cb_tensor *cb_mse_loss(cb_tensor *input, cb_tensor *target, cb_reduction reduction);
CB_API cb_tensor *cb_l1_loss(cb_tensor *input, cb_tensor *target, cb_reduction reduction);
/* 0.5 d^2 where |d| < delta, else delta (|d| - 0.5 delta).  Huber 1964. */
CB_API cb_tensor *cb_huber_loss(cb_tensor *input, cb_tensor *target, double delta, cb_reduction reduction);
/* Binary cross-entropy of logits against targets in [0, 1], stable for large logits; pos_weight multiplies the positive
 * term (1: none). */
CB_API cb_tensor *cb_bce_with_logits_loss(cb_tensor *logits, cb_tensor *target, double pos_weight, cb_reduction reduction);
/* KL(target || input): input are log-probabilities, target probabilities (log_target: log-probabilities too) over the
 * last dimension.  CB_REDUCE_MEAN divides by the number of distributions ("batchmean"). */
CB_API cb_tensor *cb_kl_div_loss(cb_tensor *input, cb_tensor *target, bool log_target, cb_reduction reduction);
/* Cosine of two arrays along `dim`: <a, b> / (max(|a|, eps) max(|b|, eps)). */
CB_API cb_tensor *cb_cosine_similarity(cb_tensor *a, cb_tensor *b, int dim, double eps);
/* 1 - cosine where target is 1, max(0, cosine - margin) where it is -1; a, b (N, C), target (N) of their dtype. */
CB_API cb_tensor *cb_cosine_embedding_loss(cb_tensor *a, cb_tensor *b, cb_tensor *target, double margin, cb_reduction reduction);
/* Cross-entropy of logits (..., K) against probabilities of the same shape; each target row is first mixed with the
 * uniform distribution by label_smoothing. */
CB_API cb_tensor *cb_soft_cross_entropy(cb_tensor *logits, cb_tensor *probabilities, double label_smoothing, cb_reduction reduction);

/* 1 - mean of 2 sum p g / (sum p + sum g) over the classes that targets have: p the softmax of logits (N, K), g 1 at the target's class and 0
 * elsewhere, sums over the places whose target (N) i32 or i64 is not negative.  Milletari et al. 2016, arXiv:1606.04797, without its squares. */
CB_API cb_tensor *cb_dice_loss(cb_tensor *logits, cb_tensor *targets);

/* ---- numbers of the places of images ---- */

typedef enum cb_dense_loss_kind {
    CB_DENSE_L2, /* mean over K of squares */
    CB_DENSE_L1, /* mean over K of distances */
    CB_DENSE_SILOG, /* K 1, all positive: with d = log x - log target of an image's N places sum d^2 - (sum d)^2 / (2 N), which half forgives a scale
                      * that is wrong everywhere; x below 1e-6 is taken to be that.  Eigen et al. 2014, arXiv:1406.2283 */
    CB_DENSE_COSINE, /* 1 - cosine of the vectors of K numbers */
    CB_DENSE_BCE     /* mean over K of the binary cross-entropy of logits x */
} cb_dense_loss_kind;
extern CB_API const char *const cb_dense_loss_names[]; /* by kind: l2, l1, silog, cosine, bce; then NULL */
/* The sum over places of x against targets, both (B, K, H, W); f32, of f64 f64.  A place of which a target is NaN does not count. */
CB_API cb_tensor *cb_dense_loss(cb_tensor *x, cb_tensor *targets, cb_dense_loss_kind kind);

/* x / max(|x|, 1e-12) along `dim`, as torch.nn.functional.normalize. */
CB_API cb_tensor *cb_normalize(cb_tensor *x, int dim);

/* ---- pairs of vectors ---- */

typedef struct cb_ranking_loss_options {
    double scale;   /* of the cosines, one over the temperature; 0: 20 */
    bool dot;       /* products as they are in the place of cosines */
    bool symmetric; /* the mean with the loss of finding each one's anchor by its positive, among all anchors */
} cb_ranking_loss_options;
/* Multiple negatives ranking, or InfoNCE with the batch's own negatives: the mean over anchors (N, C) of the cross-entropy of choosing
 * candidate i for anchor i among all candidates (M, C), M >= N: the positives of all, then hard negatives.  Henderson et al. 2017,
 * arXiv:1705.00652; van den Oord et al. 2018, arXiv:1807.03748; sentence-transformers' MultipleNegativesRankingLoss. */
CB_API cb_tensor *cb_ranking_loss(cb_tensor *anchors, cb_tensor *candidates, cb_ranking_loss_options options);
/* InfoNCE with others as negatives: the mean over queries (N, C) of the cross-entropy of choosing its key (N, C) among that and the others (M, C) by their
 * cosine over the temperature.  left_out (N, M) bool or NULL: others that are not among them.  MoCo: He et al. 2020, arXiv:1911.05722; without those of
 * the query's own pseudo-label AdaContrast: Chen et al. 2022, arXiv:2204.10377, equation 4. */
CB_API cb_tensor *cb_contrast_loss(cb_tensor *queries, cb_tensor *keys, cb_tensor *others, cb_tensor *left_out, double temperature);
/* CoSENT: log(1 + sum exp(scale (s_i - s_j))) over pairs that should be ordered the other way, t_i < t_j; s the cosines (N) of pairs of texts,
 * t (N) how alike they are.  Su 2022; sentence-transformers' CoSENTLoss.  scale 0: 20. */
CB_API cb_tensor *cb_cosent_loss(cb_tensor *cosines, cb_tensor *targets, double scale);

/* ---- what predictions say of themselves ---- */

/* Entropies, in nats, of the softmax of logits (..., K): how unsure each prediction is.  Grandvalet and Bengio 2004. */
CB_API cb_tensor *cb_entropy_loss(cb_tensor *logits, cb_reduction reduction);
/* The entropy of the mean of the softmax of logits (N, K): log K where all labels are used as often, 0 where one is. */
CB_API cb_tensor *cb_marginal_entropy(cb_tensor *logits);
/* cb_marginal_entropy() less the mean of cb_entropy_loss(): how much a prediction tells of its sample, from 0 to log K.  Information
 * maximisation (Bridle et al. 1991; SHOT: Liang et al. 2020, arXiv:2002.08546, equation 5) is its negative. */
CB_API cb_tensor *cb_prediction_information(cb_tensor *logits);
/* (N) of logits (N, K): 1 + exp(-entropy), divided by their mean, without gradient: sure predictions count more.  CDAN and MCC. */
CB_API cb_tensor *cb_certainty_weights(cb_tensor *logits);
/* Mean over N of the cross-entropy of logits (N, K) with the likeliest label of `judge` (N, K; no gradient), where its probability is
 * `threshold` or more, 0 elsewhere.  Lee 2013 where both are the same; FixMatch (Sohn et al. 2020, arXiv:2001.07685) where judge is of a weakly
 * and logits of a strongly augmented image. */
CB_API cb_tensor *cb_pseudo_label_loss(cb_tensor *logits, cb_tensor *judge, double threshold);
/* Minimum class confusion: of p = softmax(logits / temperature), logits (N, K), the share of each row of p^T W p, W the certainty weights, that is
 * off the diagonal, averaged over K.  Jin et al. 2020, arXiv:1912.03699. */
CB_API cb_tensor *cb_class_confusion_loss(cb_tensor *logits, double temperature);

/* ---- what predictions of places say of their image ---- */

/* Of logits (B, K, ...) of places: -sum w_k p log(p + 1e-10) over all, divided by the number of places of all images: how unsure places are, labels
 * weighed by weights (K); NULL: 1 each.  The epsilon is that of Bateson et al. 2022, arXiv:2108.03152, whose entropy it is. */
CB_API cb_tensor *cb_place_entropy_loss(cb_tensor *logits, cb_tensor *weights);
typedef enum cb_class_ratio_kind {
    CB_RATIO_MEAN, /* the mean of the probabilities of an image's places: the paper's */
    CB_RATIO_LARGEST /* of probabilities divided by the largest of their place, brought to a sum of 1: that of the authors' code; the largest has a
                      * gradient, too, which labels that are equally large share */
} cb_class_ratio_kind;
extern CB_API const char *const cb_class_ratio_names[]; /* by kind: mean, largest; then NULL */
/* Of logits (B, K, ...) the share (B, K) of each image that each label is said to have; it sums to 1. */
CB_API cb_tensor *cb_class_ratio(cb_tensor *logits, cb_class_ratio_kind kind);
/* Mean over images of the Kullback-Leibler divergence of ratio (B, K) from prior (B, K), sum r log(r + 1e-10) - r log(p + 1e-10), whose gradient is 0
 * where they are the same (AdaMI); of_prior: of the prior from the ratio (AdaEnt: Bateson et al. 2020, arXiv:2005.03697). */
CB_API cb_tensor *cb_ratio_divergence(cb_tensor *ratio, cb_tensor *prior, bool of_prior);
/* Mean over images of the sum over labels of the squared distance of ratio (B, K) from the interval of (1 - slack) to (1 + slack) times prior (B, K).
 * Constrained domain adaptation: Bateson et al. 2019, arXiv:1908.02996. */
CB_API cb_tensor *cb_ratio_penalty(cb_tensor *ratio, cb_tensor *prior, double slack);

/* ---- vectors and remembered ones ---- */

/* Mean over vectors (N, C) of the entropy of the softmax of their cosines with anchors (M, C), which carry no gradient: small where each is like few of
 * them.  There is no temperature, so that it is near log M.  LFTL: Lyu et al. 2024, arXiv:2407.18899. */
CB_API cb_tensor *cb_anchor_attention_loss(cb_tensor *vectors, cb_tensor *anchors);

/* ---- two domains ---- */

/* |cov(source) - cov(target)|^2 / (4 C^2) of (S, C) and (T, C), covariances over S - 1 and T - 1.  Sun and Saenko 2016, arXiv:1607.01719. */
CB_API cb_tensor *cb_coral_loss(cb_tensor *source, cb_tensor *target);
/* A sum of `count` Gaussians exp(-|x - y|^2 / b) of bandwidths b that double from one to the next. */
typedef struct cb_mmd_kernel {
    int count;        /* 0: 5 */
    double bandwidth; /* the middle one; 0: the mean of |x - y|^2 over all pairs at hand, without gradient */
} cb_mmd_kernel;
/* The squared maximum mean discrepancy of source[i] (S, C_i) and target[i] (T, C_i), the kernel being the product of those of `layers` layers: of one,
 * deep adaptation networks (Long et al. 2015, arXiv:1502.02791); of several, joint ones (Long et al. 2017, arXiv:1605.06636).  The unbiased
 * quadratic estimate, without a sample's own pair; `linear`: mean of k(s, s') + k(t, t') - k(s, t') - k(s', t) over neighbouring rows, the
 * first after the last, S = T, in time linear in S.  Either may be below 0. */
CB_API cb_tensor *cb_mmd_loss_with(int layers, cb_tensor *const *source, cb_tensor *const *target, const cb_mmd_kernel *kernels,
                                   bool linear);
#define cb_mmd_loss(source, target, ...)                                                                                                   \
    cb_mmd_loss_with(1, (cb_tensor *[]){source}, (cb_tensor *[]){target}, &(cb_mmd_kernel){__VA_ARGS__}, false)
/* Mean over classes k < K of the squared MMD, unbiased, of the rows of x (S, C) with label k and the rows of y (T, C) for which chosen[k T + j] is not 0; a
 * class of which there are fewer than two of either counts 0.  labels (S); all with one bandwidth, of the distances of all rows from each other. */
CB_API cb_tensor *cb_class_mmd_loss(cb_tensor *x, cb_tensor *y, const int32_t *labels, const uint8_t *chosen, int64_t classes,
                                    cb_mmd_kernel kernel);
/* Binary cross-entropy of telling the domains apart: logits (S) are to be above 0, those of the target (T) below, half of it each; weights (S)
 * and (T), or NULL.  With cb_reverse_gradient() before the discriminator: Ganin et al. 2016, arXiv:1505.07818. */
CB_API cb_tensor *cb_domain_loss(cb_tensor *source, cb_tensor *target, cb_tensor *source_weights, cb_tensor *target_weights);
/* All products of features (N, C) with predictions (N, K), as (N, K C); or, given matrices (C, D) and (K, D) of standard normal numbers, their
 * estimate (N, D): (f F) * (p P) / sqrt(D).  CDAN: Long et al. 2018, arXiv:1705.10667, section 3.2. */
CB_API cb_tensor *cb_multilinear_map(cb_tensor *features, cb_tensor *predictions, cb_tensor *of_features, cb_tensor *of_predictions);
/* Mean over samples and labels of |softmax(a) - softmax(b)|.  MCD: Saito et al. 2018, arXiv:1712.02560, equation 9. */
CB_API cb_tensor *cb_classifier_discrepancy(cb_tensor *a, cb_tensor *b);
/* What the adversary minimises, and features maximise: margin times its cross-entropy with the classifier's label of the source (S, K), less
 * the mean of log(1 - its probability of the classifier's label) of the target (T, K).  Labels carry no gradient.  MDD: Zhang et al. 2019,
 * arXiv:1904.05801, equations 28 to 30. */
CB_API cb_tensor *cb_margin_disparity_loss(cb_tensor *source, cb_tensor *source_adversary, cb_tensor *target, cb_tensor *target_adversary,
                                           double margin);

#ifdef __cplusplus
}
#endif
#endif
