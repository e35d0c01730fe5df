/* metrics_classification.c: measures of the scores and probabilities of classes. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "cambium/metrics.h"
#include "eval/check.h"

double cb_top_k_accuracy(const float *scores, const int32_t *targets, size_t n, size_t classes, size_t k)
{
    if (!cb_check_labels("top_k_accuracy", "targets", targets, n, classes) ||
        !cb_check_finite_f32("top_k_accuracy", "scores", scores, n * classes))
        return NAN;
    double hits = 0;
    for (size_t i = 0; i < n; i++) {
        const float *row = scores + i * classes;
        size_t target = (size_t)targets[i], before = 0;
        for (size_t c = 0; c < classes; c++)
            before += row[c] > row[target] || (row[c] == row[target] && c < target);
        hits += before < k;
    }
    return hits / (double)n;
}

/* ---- curves ---- */

typedef struct scored {
    float score;
    bool positive;
} scored;

static int highest_first(const void *a_, const void *b_)
{
    const scored *a = a_, *b = b_;
    return (a->score < b->score) - (a->score > b->score);
}

/* The area under a curve of sorted items: run by run of equal scores. */
typedef double curve_area(const scored *sorted, size_t n);

static double roc_area(const scored *sorted, size_t n)
{
    double positives = 0, negatives = 0, pairs = 0;
    for (size_t i = 0; i < n;) {
        double run[2] = {0}; /* negatives, positives */
        for (float score = sorted[i].score; i < n && sorted[i].score == score; i++)
            run[sorted[i].positive]++;
        pairs += run[0] * (positives + run[1] / 2);
        negatives += run[0];
        positives += run[1];
    }
    return pairs / (positives * negatives);
}

double cb_false_positive_rate(const float *scores, const uint8_t *targets, size_t n, double recall)
{
    if (!(recall > 0 && recall <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "false_positive_rate: recall is %g, expected more than 0 and at most 1", recall), NAN;
    if (!cb_check_finite_f32("false_positive_rate", "scores", scores, n))
        return NAN;
    scored *sorted = cb_calloc(n, sizeof *sorted);
    if (!sorted)
        return NAN;
    double positives = 0, found[2] = {0}; /* negatives, positives */
    for (size_t i = 0; i < n; i++) {
        sorted[i] = (scored){scores[i], targets[i] != 0};
        positives += sorted[i].positive;
    }
    qsort(sorted, n, sizeof *sorted, highest_first);
    for (size_t i = 0; i < n && found[1] < recall * positives;)
        for (float score = sorted[i].score; i < n && sorted[i].score == score; i++)
            found[sorted[i].positive]++;
    cb_free(sorted);
    return positives > 0 ? found[0] / ((double)n - positives) : NAN;
}

static double precision_area(const scored *sorted, size_t n)
{
    double positives = 0, sum = 0;
    for (size_t i = 0; i < n;) {
        double run = 0;
        for (float score = sorted[i].score; i < n && sorted[i].score == score; i++)
            run += sorted[i].positive;
        positives += run;
        sum += run * positives / (double)i;
    }
    return sum / positives;
}

/* Scores and targets of one of several classes; the targets are either labels or, class by class, yes or no. */
typedef struct class_targets {
    const float *scores;
    const int32_t *labels;
    const uint8_t *marks;
    size_t n, classes;
} class_targets;

static double area_of_class(const class_targets *t, size_t k, curve_area *area, scored *sorted)
{
    for (size_t i = 0; i < t->n; i++)
        sorted[i] = (scored){t->scores[i * t->classes + k], t->labels ? t->labels[i] == (int32_t)k : t->marks[i * t->classes + k] != 0};
    qsort(sorted, t->n, sizeof *sorted, highest_first);
    return area(sorted, t->n);
}

/* Mean over the classes for which the area is defined. */
static double mean_area(const char *what, const class_targets *t, curve_area *area)
{
    if (!cb_check_finite_f32(what, "scores", t->scores, t->n * t->classes))
        return NAN;
    scored *sorted = cb_calloc(t->n, sizeof *sorted);
    if (!sorted)
        return NAN;
    double sum = 0, defined = 0;
    for (size_t k = 0; k < t->classes; k++) {
        double one = area_of_class(t, k, area, sorted);
        if (!isnan(one)) {
            sum += one;
            defined++;
        }
    }
    cb_free(sorted);
    return sum / defined;
}

double cb_roc_auc(const float *scores, const uint8_t *targets, size_t n)
{
    return mean_area("roc_auc", &(class_targets){.scores = scores, .marks = targets, .n = n, .classes = 1}, roc_area);
}

double cb_roc_auc_ovr(const float *scores, const int32_t *targets, size_t n, size_t classes)
{
    if (!cb_check_labels("roc_auc_ovr", "targets", targets, n, classes))
        return NAN;
    return mean_area("roc_auc_ovr", &(class_targets){.scores = scores, .labels = targets, .n = n, .classes = classes}, roc_area);
}

double cb_average_precision(const float *scores, const uint8_t *targets, size_t n)
{
    return mean_area("average_precision", &(class_targets){.scores = scores, .marks = targets, .n = n, .classes = 1}, precision_area);
}

double cb_mean_average_precision(const float *scores, const uint8_t *targets, size_t n, size_t classes)
{
    return mean_area("mean_average_precision", &(class_targets){.scores = scores, .marks = targets, .n = n, .classes = classes},
                     precision_area);
}

/* ---- probabilities ---- */

double cb_log_loss(const float *probabilities, const int32_t *targets, size_t n, size_t classes)
{
    if (!cb_check_labels("log_loss", "targets", targets, n, classes) ||
        !cb_check_shares("log_loss", "probabilities", probabilities, n * classes))
        return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double p = (double)probabilities[i * classes + (size_t)targets[i]];
        sum -= log(fmin(fmax(p, (double)FLT_EPSILON), 1 - (double)FLT_EPSILON));
    }
    return sum / (double)n;
}

double cb_brier_score(const float *probabilities, const int32_t *targets, size_t n, size_t classes)
{
    if (!cb_check_labels("brier_score", "targets", targets, n, classes > 1 ? classes : 2) ||
        !cb_check_shares("brier_score", "probabilities", probabilities, n * classes))
        return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < classes; k++) {
            double expected = classes > 1 ? (size_t)targets[i] == k : targets[i];
            double d = (double)probabilities[i * classes + k] - expected;
            sum += d * d;
        }
    return sum / (double)n;
}

/* ---- calibration ---- */

static void calibration_add(cb_calibration_bin *bin, double confidence, bool correct)
{
    bin->count++;
    bin->confidence += confidence;
    bin->accuracy += correct;
}

static void fill_equal_widths(const float *confidences, const uint8_t *correct, size_t n, size_t bins, cb_calibration_bin *table)
{
    for (size_t i = 0; i < n; i++) {
        double place = ceil((double)confidences[i] * (double)bins);
        calibration_add(&table[place < 1 ? 0 : (size_t)place - 1], (double)confidences[i], correct[i] != 0);
    }
}

static bool fill_equal_numbers(const float *confidences, const uint8_t *correct, size_t n, size_t bins, cb_calibration_bin *table)
{
    double *values = cb_calloc(n, sizeof *values);
    for (size_t i = 0; values && i < n; i++)
        values[i] = (double)confidences[i];
    cb_ordered *sorted = values ? cb_order(values, n) : NULL;
    size_t longer = n % bins, length = n / bins + 1; /* the first `longer` bins hold one more than the others */
    for (size_t i = 0; sorted && i < n; i++) {
        size_t bin = i < longer * length ? i / length : longer + (i - longer * length) / (length - 1);
        calibration_add(&table[bin], sorted[i].value, correct[sorted[i].index] != 0);
    }
    cb_free(values);
    cb_free(sorted);
    return sorted != NULL;
}

/* Sums become means. */
static cb_calibration_error finish(cb_calibration_bin *table, size_t bins, size_t n)
{
    cb_calibration_error e = {n ? 0 : NAN, n ? 0 : NAN};
    for (size_t b = 0; b < bins; b++) {
        double count = (double)table[b].count;
        table[b].confidence /= count;
        table[b].accuracy /= count;
        if (!table[b].count)
            continue;
        double gap = fabs(table[b].accuracy - table[b].confidence);
        e.expected += count / (double)n * gap;
        e.maximum = fmax(e.maximum, gap);
    }
    return e;
}

bool cb_calibration(const float *confidences, const uint8_t *correct, size_t n, size_t bins, bool adaptive, cb_calibration_bin *table,
                    cb_calibration_error *error)
{
    *error = (cb_calibration_error){NAN, NAN};
    if (!bins)
        return cb_fail(CB_ERR_ARGUMENT, "calibration: bins is 0, expected at least 1") == CB_OK;
    if (!cb_check_shares("calibration", "confidences", confidences, n))
        return false;
    cb_calibration_bin *own = cb_calloc(bins, sizeof *own);
    if (!own)
        return false;
    bool ok = true;
    if (adaptive)
        ok = fill_equal_numbers(confidences, correct, n, bins, own);
    else
        fill_equal_widths(confidences, correct, n, bins, own);
    if (ok)
        *error = finish(own, bins, n);
    for (size_t b = 0; ok && table && b < bins; b++)
        table[b] = own[b];
    cb_free(own);
    return ok;
}
