/* metrics.h: floor 3: what predictions are judged by, as functions of plain arrays.
 *
 *     int64_t confusion[3 * 3] = {0};
 *     cb_confusion_add(predictions, targets, count, CB_NO_LABEL, 3, confusion);
 *     double accuracy = cb_accuracy(confusion, 3), kappa = cb_cohen_kappa(confusion, 3, CB_KAPPA_PLAIN);
 *
 * Predictions come first, then targets.  N items, K classes; matrices are row-major.  What is added up over batches or processes
 * (counts) is apart from what is computed of it at the end.
 * A measure that the data leave undefined, such as the correlation with a constant, is NaN and no error.  A NaN or an infinity
 * among scores or values is CB_ERR_NUMERIC, a label outside the classes or a text that is not UTF-8 CB_ERR_ARGUMENT; the message
 * names the place, and the result is NaN or false.  Nothing is kept of the arrays. */
#ifndef CAMBIUM_METRICS_H
#define CAMBIUM_METRICS_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Classification: confusion matrices ---- */

#define CB_NO_LABEL INT32_MIN

/* Adds the items to a matrix of counts (K, K): the row is the target, the column the prediction; labels are 0 to K - 1.  Items whose
 * target is `ignore` (-100, 255; CB_NO_LABEL: none) are passed over.  An error leaves the matrix as it was. */
CB_API bool cb_confusion_add(const int32_t *predictions, const int32_t *targets, size_t n, int32_t ignore, size_t classes,
                             int64_t *confusion);
/* The share of the diagonal; of pixels: pixel accuracy. */
CB_API double cb_accuracy(const int64_t *confusion, size_t classes);
/* Mean recall of the classes that have targets.  Brodersen et al. 2010. */
CB_API double cb_balanced_accuracy(const int64_t *confusion, size_t classes);
/* Matthews' correlation coefficient of K classes (R_K, Gorodkin 2004); 0 where its denominator is 0, as in scikit-learn. */
CB_API double cb_matthews(const int64_t *confusion, size_t classes);

typedef enum cb_kappa_weights { CB_KAPPA_PLAIN, CB_KAPPA_LINEAR, CB_KAPPA_QUADRATIC } cb_kappa_weights;
/* 1 - sum(w o) / sum(w e): o the counts, e those expected of independent raters with the same margins, w 0 on the diagonal and elsewhere
 * 1, |i - j| or (i - j)^2.  Cohen 1960, 1968.  NaN where both always say the same. */
CB_API double cb_cohen_kappa(const int64_t *confusion, size_t classes, cb_kappa_weights weights);

/* Normalised mutual information of two labellings, 2 I / (H1 + H2) (Strehl, Ghosh 2002; Vinh et al. 2010), of a table (A, B) of how many
 * items have label a of the one and b of the other; which label means what does not matter.  1 when both have one label only. */
CB_API double cb_mutual_information(const int64_t *table, size_t a_labels, size_t b_labels);

typedef struct cb_class_counts {
    int64_t true_positives, false_positives, false_negatives;
} cb_class_counts;
/* counts (K). */
CB_API void cb_class_counts_of(const int64_t *confusion, size_t classes, cb_class_counts *counts);
/* cb_matthews() of these, which take K numbers instead of K x K. */
CB_API double cb_matthews_of_counts(const cb_class_counts *counts, size_t classes);
/* Adds yes-or-no predictions (N, K), nonzero: yes, to counts (K): labels that are not exclusive; with one class, masks. */
CB_API void cb_class_counts_add(const uint8_t *predictions, const uint8_t *targets, size_t n, size_t classes, cb_class_counts *counts);

/* precision tp / (tp + fp), recall tp / (tp + fn), f1 2 tp / (2 tp + fp + fn), which of masks is Dice's coefficient, and
 * iou tp / (tp + fp + fn), Jaccard's index; each 0 where its denominator is. */
typedef struct cb_class_score {
    double precision, recall, f1, iou;
} cb_class_score;
CB_API cb_class_score cb_class_score_of(cb_class_counts counts);

typedef enum cb_average {
    CB_AVERAGE_MICRO,     /* of the summed counts */
    CB_AVERAGE_MACRO,     /* mean over the classes that a target or a prediction has: scikit-learn's of labels, mean IoU; NaN without any */
    CB_AVERAGE_MACRO_ALL, /* mean over all K, 0 for one that is absent: scikit-learn's of several labels an item */
    CB_AVERAGE_WEIGHTED   /* mean weighted by the number of targets; NaN without any */
} cb_average;
CB_API cb_class_score cb_class_score_average(const cb_class_counts *counts, size_t classes, cb_average average);

/* Adds the entities of a sentence of n words to counts: those found where they are and of their type, those found besides, those not found.  Labels are numbers of
 * `names`: B-TYPE, I-TYPE, E-TYPE, S-TYPE (IOB2, IOBES) or O.  The definitions are conlleval's (Tjong Kim Sang, Buchholz 2000), as in seqeval's default
 * mode. */
CB_API void cb_entity_counts_add(const int32_t *predictions, const int32_t *targets, size_t n, const char *const *names,
                                 cb_class_counts *counts);

/* ---- Classification: scores ---- */

/* Share of items whose target is among the k highest of their scores (N, K); of equal scores the lower class comes first. */
CB_API double cb_top_k_accuracy(const float *scores, const int32_t *targets, size_t n, size_t classes, size_t k);
/* Area under the ROC curve: the share of (positive, negative) pairs that the scores order rightly, ties counting half (Hanley, McNeil
 * 1982).  targets (N): nonzero is positive.  NaN without one of either. */
CB_API double cb_roc_auc(const float *scores, const uint8_t *targets, size_t n);
/* Mean area of each class against the rest, scores (N, K), over the classes that have targets. */
CB_API double cb_roc_auc_ovr(const float *scores, const int32_t *targets, size_t n, size_t classes);
/* The share of negatives above the highest threshold that leaves at least `recall` of the positives (0.95: FPR95) at or above it. */
CB_API double cb_false_positive_rate(const float *scores, const uint8_t *targets, size_t n, double recall);
/* sum_i (R_i - R_i-1) P_i over the thresholds, without interpolation; equal scores are one threshold.  NaN without a positive. */
CB_API double cb_average_precision(const float *scores, const uint8_t *targets, size_t n);
/* Mean of the above over the classes that have positives: scores, targets (N, K). */
CB_API double cb_mean_average_precision(const float *scores, const uint8_t *targets, size_t n, size_t classes);
/* Mean of -log p of the target, p in (N, K) within [0, 1], kept FLT_EPSILON away from 0 and 1 as scikit-learn does. */
CB_API double cb_log_loss(const float *probabilities, const int32_t *targets, size_t n, size_t classes);
/* Mean over items of sum_k (p_k - [k is the target])^2 (Brier 1950), 0 to 2; with one class: (p - target)^2, targets 0 or 1. */
CB_API double cb_brier_score(const float *probabilities, const int32_t *targets, size_t n, size_t classes);

/* A bin of a reliability diagram: means of what it holds, NaN when that is nothing. */
typedef struct cb_calibration_bin {
    size_t count;
    double confidence, accuracy;
} cb_calibration_bin;
typedef struct cb_calibration_error {
    double expected, maximum; /* mean over the items and maximum over the bins of |accuracy - confidence| */
} cb_calibration_error;
/* Calibration of confidences in [0, 1] for predictions that are right where `correct` is nonzero.  The bins are ((m - 1) / M, m / M], the
 * first with 0 (Guo et al. 2017), or, adaptive, M runs of the sorted items of equal number, the first ones longer by one
 * (Nguyen, O'Connor 2015).  table (bins) may be NULL. */
CB_API bool cb_calibration(const float *confidences, const uint8_t *correct, size_t n, size_t bins, bool adaptive,
                           cb_calibration_bin *table, cb_calibration_error *error);

/* ---- Regression: x predicted, y the targets (N) ---- */

CB_API double cb_mean_absolute_error(const double *x, const double *y, size_t n);
CB_API double cb_root_mean_square_error(const double *x, const double *y, size_t n);
/* Mean of |x - y| / max(|y|, DBL_EPSILON), a ratio. */
CB_API double cb_mean_absolute_percentage_error(const double *x, const double *y, size_t n);
/* 1 - sum (x - y)^2 / sum (y - mean y)^2; NaN for constant targets. */
CB_API double cb_r2(const double *x, const double *y, size_t n);
CB_API double cb_pearson(const double *x, const double *y, size_t n);
/* Pearson's of the ranks; equal values share the mean of theirs. */
CB_API double cb_spearman(const double *x, const double *y, size_t n);
/* (C - D) / sqrt((n0 - n1) (n0 - n2)): pairs in concord less those in discord, n0 all pairs, n1 and n2 those tied in x and in y
 * (tau-b, Kendall 1945); in n log n steps after Knight 1966. */
CB_API double cb_kendall(const double *x, const double *y, size_t n);

/* ---- Text: strings are UTF-8, one segment each ---- */

/* exp of the loss per token, and the loss in bits per byte, from sums of a cross-entropy in nats. */
CB_API double cb_perplexity(double nats, double tokens);
CB_API double cb_bits_per_byte(double nats, double bytes);

/* sacrebleu's tokenizers, by their names; white space separates what they leave. */
typedef enum cb_bleu_tokenizer { CB_BLEU_13A, CB_BLEU_INTL, CB_BLEU_CHAR, CB_BLEU_NONE } cb_bleu_tokenizer;
/* Of precisions without a match (Chen, Cherry 2014): halved again and again; a floor; k added to all but the first order; 0. */
typedef enum cb_bleu_smoothing { CB_BLEU_EXP, CB_BLEU_FLOOR, CB_BLEU_ADD_K, CB_BLEU_UNSMOOTHED } cb_bleu_smoothing;

enum { CB_MOST_ORDER = 8 }; /* of n-grams */

/* Zeros are sacrebleu's defaults. */
typedef struct cb_bleu_options {
    cb_bleu_tokenizer tokenizer;
    cb_bleu_smoothing smoothing;
    double smoothing_value; /* 0: the floor 0.1, or k 1 */
    int max_order;          /* 0: 4; at most CB_MOST_ORDER */
    bool lowercase;
    bool effective_order; /* only orders that the hypothesis has n-grams of: for single sentences */
} cb_bleu_options;

typedef struct cb_bleu_counts {
    int64_t hypothesis_length, reference_length; /* in words; of several references the nearest */
    int64_t matches[CB_MOST_ORDER], totals[CB_MOST_ORDER];
} cb_bleu_counts;

/* score = brevity_penalty exp(mean log precisions), all but the penalty 0 to 100. */
typedef struct cb_bleu_result {
    double score, brevity_penalty, precisions[CB_MOST_ORDER];
} cb_bleu_result;

/* BLEU of a corpus (Papineni et al. 2002; sacrebleu, Post 2018): add its segments, each with one or more references, to counts that
 * were zero; options may be NULL. */
CB_API bool cb_bleu_add(const char *hypothesis, const char *const *references, size_t reference_count, const cb_bleu_options *options,
                        cb_bleu_counts *counts);
CB_API bool cb_bleu_of(const cb_bleu_counts *counts, const cb_bleu_options *options, cb_bleu_result *result);

typedef struct cb_chrf_options {
    int char_order; /* 0: 6; at most CB_MOST_ORDER */
    int word_order; /* 2: chrF++; at most CB_MOST_ORDER */
    double beta;    /* 0: 2; recall counts beta times as much as precision */
    bool lowercase;
    bool whitespace;    /* is part of the character n-grams */
    bool eps_smoothing; /* mean of the F-scores of all orders, as chrF++.py has it, instead of the F-score of the means of those in use */
} cb_chrf_options;

typedef struct cb_chrf_counts {
    int64_t hypothesis[2 * CB_MOST_ORDER], reference[2 * CB_MOST_ORDER], matches[2 * CB_MOST_ORDER]; /* characters' orders, then words' */
} cb_chrf_counts;

/* chrF and chrF++ of a corpus (Popović 2015, 2017; sacrebleu), 0 to 100; of several references each segment counts its best. */
CB_API bool cb_chrf_add(const char *hypothesis, const char *const *references, size_t reference_count, const cb_chrf_options *options,
                        cb_chrf_counts *counts);
CB_API double cb_chrf_of(const cb_chrf_counts *counts, const cb_chrf_options *options);

typedef struct cb_edit_counts {
    int64_t edits, length; /* of the references */
} cb_edit_counts;
/* Word and character errors: the fewest insertions, deletions and substitutions between words, which white space separates, or between
 * code points, white space at both ends left out.  Texts are compared as they are. */
CB_API bool cb_word_errors_add(const char *hypothesis, const char *reference, cb_edit_counts *counts);
CB_API bool cb_character_errors_add(const char *hypothesis, const char *reference, cb_edit_counts *counts);
/* edits / length, which may exceed 1; of empty references the number of edits, as jiwer has it. */
CB_API double cb_error_rate(cb_edit_counts counts);

/* Answers to questions, as SQuAD 2.0's evaluation has them (Rajpurkar et al. 2018): in lower case, without ASCII punctuation, the articles
 * a, an, the, and superfluous space.  Of several right answers the best counts; "" stands for none. */
CB_API double cb_exact_match(const char *prediction, const char *const *answers, size_t answer_count);
CB_API double cb_answer_f1(const char *prediction, const char *const *answers, size_t answer_count);

typedef struct cb_overlap {
    double precision, recall, f1;
} cb_overlap;
typedef struct cb_rouge {
    cb_overlap rouge1, rouge2, rouge_l;
} cb_rouge;
/* ROUGE (Lin 2004) as the package rouge-score has it without its stemmer: words are runs of a to z and 0 to 9 of the text in lower case; L is
 * the longest common subsequence. */
CB_API bool cb_rouge_of(const char *prediction, const char *reference, cb_rouge *scores);

/* ---- Retrieval: one query; means over queries are cb_summarize()'s ---- */

/* Grades of relevance above 0 are gains, others none.  Of equal scores the later document comes first, as trec_eval puts the greater
 * document number first. */
typedef struct cb_ranking {
    const float *scores;      /* of the documents retrieved (count) */
    const int32_t *relevance; /* their grades (count) */
    size_t count;
    const int32_t *judged; /* grades of all documents that have one, retrieved or not (judged_count); NULL: there are no others */
    size_t judged_count;
} cb_ranking;
/* trec_eval's measures of the first k; each 0 where no document is relevant. */
typedef struct cb_ranking_score {
    double ndcg;              /* sum of gain / log2(rank + 1), over that of the best order of all judged (Järvelin, Kekäläinen 2002) */
    double reciprocal_rank;   /* 1 / rank of the first relevant one */
    double precision, recall; /* relevant ones over k (0: those retrieved), over all relevant ones */
    double average_precision; /* sum of the precisions at the relevant ones over all relevant ones */
} cb_ranking_score;
/* k 0: all.  exponential: gains 2^grade - 1 (Burges et al. 2005) in the place of the grades. */
CB_API bool cb_ranking_score_of(const cb_ranking *ranking, size_t k, bool exponential, cb_ranking_score *score);

/* ---- Without labels ---- */

/* How far the rows of a classifier's weight (K, D) are from being spread evenly: mean over pairs of (angle - acos(-1 / (K - 1)))^2, 0 for the corners of
 * a regular simplex; NaN with a row of zeros. */
CB_API double cb_classifier_unevenness(const float *weights, size_t classes, size_t width);
/* Hopkins' statistic (Hopkins, Skellam 1954) of features (N, D), by m points (m, D) and m of the rows: sum a / (sum a + sum b), a the distance of a
 * point to the nearest row, b that of a row to the nearest other; about one half where rows lie evenly, near 1 where they lie in clusters. */
CB_API double cb_hopkins_of(const float *features, size_t n, size_t width, const float *points, const size_t *rows, size_t m);
/* Mean and deviation (NaN of one) over draws of N / 20 points, uniform in the box that the rows fill, and as many rows. */
CB_API bool cb_hopkins(const float *features, size_t n, size_t width, size_t draws, uint64_t seed, double *mean, double *deviation);
/* Of logits (N, K): mutual information of rows and predictions, entropy of the mean prediction less mean entropy, over all rows, or (batch > 0) its mean over
 * runs of so many; and the mean entropy.  In nats. */
CB_API bool cb_information_of(const float *logits, size_t n, size_t classes, size_t batch, double *information, double *entropy);

/* Transfer Score: -unevenness + hopkins + information / log K, higher is better.  Yang et al. 2024, arXiv:2305.18712. */
typedef struct cb_transfer_score {
    double score;
    double unevenness, hopkins, hopkins_deviation; /* deviation: between draws */
    double information;                            /* over log K: 0 to 1; of all rows together */
    double batch_score,
        batch_information; /* the same with information as the mean over batches, which depends on their size: the authors' */
    double entropy;        /* mean of predictions, in nats */
    size_t rows, classes;
} cb_transfer_score;
/* weights (K, D), features (N, D), logits (N, K).  Fewer than 20 rows or 2 labels: CB_ERR_ARGUMENT. */
CB_API bool cb_transfer_score_of(const float *weights, const float *features, const float *logits, size_t n, size_t width, size_t classes,
                                 size_t batch, size_t draws, uint64_t seed, cb_transfer_score *score);

/* ---- Images, masks, poses.  Of classes of pixels: cb_confusion_add(), cb_accuracy(), cb_class_score (iou, f1: Dice) ---- */

/* 10 log10(range^2 / mean (a - b)^2), range the width of the values (1, 255); infinite for equal images. */
CB_API double cb_psnr(const float *a, const float *b, size_t n, double range);
/* Structural similarity (Wang et al. 2004): images (C, H, W) seen through a Gaussian of 11 x 11 with deviation 1.5 where it lies within
 * them, K 0.01 and 0.03; mean over places and channels.  H and W are at least 11. */
CB_API double cb_ssim(const float *a, const float *b, size_t channels, size_t height, size_t width, double range);

/* Numbers of the places of images, summed up image by image; zero-initialise.  A place whose target (the first of its numbers) is NaN does not
 * count, and an image without others is passed over. */
typedef struct cb_depth_errors { /* all but `images` are sums of means over each image's places (Eigen et al. 2014) */
    double images;
    double abs_rel; /* |found - target| / target */
    double rmse;    /* root of the mean square */
    double delta1;  /* share where found is above 0 and the larger is less than 1.25 of the smaller */
    double silog;   /* root of the variance of log found - log target; infinite where a found one has no logarithm */
} cb_depth_errors;
/* An image of n places: targets above 0; what is found should be, and counts as wrong where it is not. */
CB_API void cb_depth_errors_add(cb_depth_errors *errors, const float *found, const float *target, size_t n);
typedef struct cb_normal_errors { /* sums over all places */
    double places;
    double angle;                           /* between the two, in degrees */
    double within_11, within_22, within_30; /* of at most 11.25, 22.5 and 30 degrees */
} cb_normal_errors;
/* Vectors (3, n) of any length above 0. */
CB_API void cb_normal_errors_add(cb_normal_errors *errors, const float *found, const float *target, size_t n);
enum { CB_SALIENCY_LEVELS = 256 };
typedef struct cb_saliency_errors {
    double images, absolute; /* sum of mean |found - target| */
    double judged;           /* images with a place that stands out (target above 1/2) */
    double precision[CB_SALIENCY_LEVELS],
        recall[CB_SALIENCY_LEVELS]; /* of these, of the places with 255 found, rounded, of the level or more */
} cb_saliency_errors;
/* Probabilities. */
CB_API void cb_saliency_errors_add(cb_saliency_errors *errors, const float *found, const float *target, size_t n);
/* The highest over levels of F, with 0.3 for the square of beta, of the means of precision and recall over images (Achanta et al. 2009). */
CB_API double cb_saliency_max_f(const cb_saliency_errors *errors);

typedef struct cb_surface_distance {
    double maximum, percentile95, mean;
} cb_surface_distance;
/* Distances from the surface of each mask (depth, height, width; depth 1: an image) to that of the other, both ways together: Hausdorff's,
 * its 95th percentile (HD95) and the mean (ASSD).  A surface are the voxels that have one of their 6 neighbours outside the mask or lie at
 * its border.  spacing: size of a voxel along each axis; NULL: 1.  NaN when a mask is empty. */
CB_API bool cb_surface_distance_of(const uint8_t *a, const uint8_t *b, size_t depth, size_t height, size_t width, const double *spacing,
                                   cb_surface_distance *distance);

/* Key points (N, J, D), `visible` (N, J) nonzero where one counts (NULL: all).  Share nearer to the target than alpha times the item's
 * size (N) (NULL: 1), at most (PCK: Yang, Ramanan 2013). */
CB_API double cb_keypoints_correct(const float *predictions, const float *targets, const uint8_t *visible, const double *sizes, size_t n,
                                   size_t joints, size_t dimensions, double alpha);
/* Mean distance (MPJPE). */
CB_API double cb_keypoint_error(const float *predictions, const float *targets, const uint8_t *visible, size_t n, size_t joints,
                                size_t dimensions);
/* The same in three dimensions after the shift, rotation and scale that bring the visible points of each item nearest to the target in least
 * squares (PA-MPJPE; Horn 1987). */
CB_API double cb_keypoint_error_aligned(const float *predictions, const float *targets, const uint8_t *visible, size_t n, size_t joints);

#ifdef __cplusplus
}
#endif
#endif
