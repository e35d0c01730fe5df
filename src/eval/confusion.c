/* confusion.c: measures of counts: which class was taken for which, and how often each was hit or missed. */
#include <math.h>

#include "cambium/metrics.h"
#include "eval/check.h"

bool cb_confusion_add(const int32_t *predictions, const int32_t *targets, size_t n, int32_t ignore, size_t classes, int64_t *confusion)
{
    for (size_t i = 0; i < n; i++) /* a prediction whose target is ignored may be anything */
        if (targets[i] != ignore && (!cb_check_label("confusion_add", "targets", targets, i, classes) ||
                                     !cb_check_label("confusion_add", "predictions", predictions, i, classes)))
            return false;
    for (size_t i = 0; i < n; i++)
        if (targets[i] != ignore)
            confusion[(size_t)targets[i] * classes + (size_t)predictions[i]]++;
    return true;
}

typedef struct margins {
    double targets, predictions; /* of one class */
} margins;

static margins margins_of(const int64_t *confusion, size_t classes, size_t k)
{
    margins m = {0};
    for (size_t i = 0; i < classes; i++) {
        m.targets += (double)confusion[k * classes + i];
        m.predictions += (double)confusion[i * classes + k];
    }
    return m;
}

static double items_in(const int64_t *confusion, size_t classes)
{
    double sum = 0;
    for (size_t i = 0; i < classes * classes; i++)
        sum += (double)confusion[i];
    return sum;
}

static double hits_in(const int64_t *confusion, size_t classes)
{
    double sum = 0;
    for (size_t k = 0; k < classes; k++)
        sum += (double)confusion[k * classes + k];
    return sum;
}

double cb_accuracy(const int64_t *confusion, size_t classes)
{
    return hits_in(confusion, classes) / items_in(confusion, classes);
}

double cb_balanced_accuracy(const int64_t *confusion, size_t classes)
{
    double sum = 0, present = 0;
    for (size_t k = 0; k < classes; k++) {
        double targets = margins_of(confusion, classes, k).targets;
        if (targets > 0) {
            sum += (double)confusion[k * classes + k] / targets;
            present++;
        }
    }
    return sum / present;
}

double cb_matthews(const int64_t *confusion, size_t classes)
{
    double items = items_in(confusion, classes), both = 0, targets = 0, predictions = 0;
    for (size_t k = 0; k < classes; k++) {
        margins m = margins_of(confusion, classes, k);
        both += m.targets * m.predictions;
        targets += m.targets * m.targets;
        predictions += m.predictions * m.predictions;
    }
    double spread = sqrt(items * items - targets) * sqrt(items * items - predictions);
    if (items == 0)
        return NAN;
    return spread > 0 ? (hits_in(confusion, classes) * items - both) / spread : 0;
}

double cb_cohen_kappa(const int64_t *confusion, size_t classes, cb_kappa_weights weights)
{
    margins *m = cb_calloc(classes, sizeof *m);
    if (!m)
        return NAN;
    double items = items_in(confusion, classes), seen = 0, expected = 0;
    for (size_t k = 0; k < classes; k++)
        m[k] = margins_of(confusion, classes, k);
    for (size_t i = 0; i < classes; i++)
        for (size_t j = 0; j < classes; j++) {
            double distance = fabs((double)i - (double)j);
            double weight = weights == CB_KAPPA_PLAIN ? i != j : weights == CB_KAPPA_LINEAR ? distance : distance * distance;
            seen += weight * (double)confusion[i * classes + j];
            expected += weight * m[i].targets * m[j].predictions / items;
        }
    cb_free(m);
    return 1 - seen / expected;
}

/* -sum p log p of counts. */
static double entropy_part(double count, double all)
{
    return count > 0 ? -count / all * log(count / all) : 0;
}

double cb_mutual_information(const int64_t *table, size_t a_labels, size_t b_labels)
{
    double all = 0, of_a = 0, of_b = 0, of_both = 0; /* entropies */
    for (size_t i = 0; i < a_labels * b_labels; i++)
        all += (double)table[i];
    for (size_t i = 0; i < a_labels; i++) {
        double row = 0;
        for (size_t j = 0; j < b_labels; j++) {
            row += (double)table[i * b_labels + j];
            of_both += entropy_part((double)table[i * b_labels + j], all);
        }
        of_a += entropy_part(row, all);
    }
    for (size_t j = 0; j < b_labels; j++) {
        double column = 0;
        for (size_t i = 0; i < a_labels; i++)
            column += (double)table[i * b_labels + j];
        of_b += entropy_part(column, all);
    }
    if (all == 0)
        return NAN;
    return of_a + of_b > 0 ? fmax(0, 2 * (of_a + of_b - of_both) / (of_a + of_b)) : 1;
}

/* ---- classes ---- */

void cb_class_counts_of(const int64_t *confusion, size_t classes, cb_class_counts *counts)
{
    for (size_t k = 0; k < classes; k++) {
        counts[k] = (cb_class_counts){.true_positives = confusion[k * classes + k]};
        for (size_t i = 0; i < classes; i++)
            if (i != k) {
                counts[k].false_positives += confusion[i * classes + k];
                counts[k].false_negatives += confusion[k * classes + i];
            }
    }
}

double cb_matthews_of_counts(const cb_class_counts *counts, size_t classes)
{
    double items = 0, hits = 0, both = 0, targets = 0, predictions = 0;
    for (size_t k = 0; k < classes; k++) {
        double right = (double)counts[k].true_positives, t = right + (double)counts[k].false_negatives,
               p = right + (double)counts[k].false_positives;
        items += t;
        hits += right;
        both += t * p;
        targets += t * t;
        predictions += p * p;
    }
    double spread = sqrt(items * items - targets) * sqrt(items * items - predictions);
    if (items == 0)
        return NAN;
    return spread > 0 ? (hits * items - both) / spread : 0;
}

void cb_class_counts_add(const uint8_t *predictions, const uint8_t *targets, size_t n, size_t classes, cb_class_counts *counts)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < classes; k++) {
            bool predicted = predictions[i * classes + k] != 0, target = targets[i * classes + k] != 0;
            counts[k].true_positives += predicted && target;
            counts[k].false_positives += predicted && !target;
            counts[k].false_negatives += !predicted && target;
        }
}

static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

cb_class_score cb_class_score_of(cb_class_counts counts)
{
    double tp = (double)counts.true_positives, fp = (double)counts.false_positives, fn = (double)counts.false_negatives;
    return (cb_class_score){ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(2 * tp, 2 * tp + fp + fn), ratio(tp, tp + fp + fn)};
}

cb_class_score cb_class_score_average(const cb_class_counts *counts, size_t classes, cb_average average)
{
    cb_class_counts all = {0};
    cb_class_score sum = {0};
    double weights = 0;
    for (size_t k = 0; k < classes; k++) {
        cb_class_counts c = counts[k];
        all.true_positives += c.true_positives;
        all.false_positives += c.false_positives;
        all.false_negatives += c.false_negatives;
        bool present = c.true_positives || c.false_positives || c.false_negatives;
        double targets = (double)(c.true_positives + c.false_negatives);
        double weight = average == CB_AVERAGE_WEIGHTED ? targets : average == CB_AVERAGE_MACRO ? present : 1;
        cb_class_score s = cb_class_score_of(c);
        sum.precision += weight * s.precision;
        sum.recall += weight * s.recall;
        sum.f1 += weight * s.f1;
        sum.iou += weight * s.iou;
        weights += weight;
    }
    if (average == CB_AVERAGE_MICRO)
        return cb_class_score_of(all);
    return (cb_class_score){sum.precision / weights, sum.recall / weights, sum.f1 / weights, sum.iou / weights};
}
