/* predictions.c: what a model says of rows with labels, and the metrics of it.
 *
 * Several processes have each the predictions of their own batches and zeros elsewhere, so the sum over processes is everyone's. */
#include <math.h>
#include <string.h>

#include "cambium/metrics.h"
#include "training/parallel.h"

/* ---- predictions ---- */

bool cb_predictions_open(cb_predictions *p, const cb_dataset *data, int64_t rows)
{
    *p = (cb_predictions){.objective = cb_dataset_objective(data), .rows = rows, .labels = (int64_t)cb_dataset_labels(data)->count};
    p->data = data;
    if (p->objective == CB_OBJECTIVE_SEMANTIC_SEGMENTATION)
        return cb_places_open(p);
    if (cb_objective_numbers(p->objective))
        return cb_numbers_open(p);
    if (p->objective == CB_OBJECTIVE_TEXT_RECOGNITION)
        return cb_recognition_open(p);
    if (p->objective != CB_OBJECTIVE_TOKEN_CLASSIFICATION) {
        p->scores = cb_calloc(cb_parallel_room((size_t)(rows * p->labels)), sizeof *p->scores);
        return p->scores;
    }
    p->starts = cb_calloc((size_t)rows + 1, sizeof *p->starts);
    for (int64_t i = 0; p->starts && i < rows; i++) {
        size_t words;
        cb_dataset_row_labels(data, i, &words);
        p->starts[i + 1] = p->starts[i] + (int64_t)words;
    }
    p->words = p->starts ? cb_calloc(cb_parallel_room((size_t)p->starts[rows]), sizeof *p->words) : NULL;
    return p->words;
}

void cb_predictions_free(cb_predictions *p)
{
    cb_free(p->scores);
    cb_free(p->words);
    cb_free(p->starts);
    cb_free(p->counts);
    cb_free(p->errors);
    cb_free(p->shared);
    for (int64_t i = 0; p->texts && i < p->rows; i++)
        cb_free(p->texts[i]);
    cb_free(p->texts);
    cb_free(p->exact);
    *p = (cb_predictions){0};
}

/* Of `labels` scores the first that is highest. */
static int32_t highest(const float *scores, int64_t labels)
{
    int32_t best = 0;
    for (int32_t k = 1; k < labels; k++)
        if (scores[k] > scores[best])
            best = k;
    return best;
}

static void add_words(cb_predictions *p, int64_t first_row, const cb_batch *batch, const float *logits)
{
    int64_t rows = batch->words->shape[0], length = batch->words->shape[1];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < length; t++) {
            int32_t word = ((const int32_t *)batch->words->data)[r * length + t];
            if (word >= 0)
                p->words[p->starts[first_row + r] + word] = (float)(1 + highest(logits + (r * length + t) * p->labels, p->labels));
        }
}

bool cb_predictions_add(cb_predictions *p, int64_t first_row, const cb_batch *batch, cb_tensor *logits)
{
    if (p->counts)
        return cb_places_add(p, first_row, batch, logits);
    if (p->errors)
        return cb_numbers_add(p, first_row, batch, logits);
    float *values = cb_alloc((size_t)logits->count * sizeof *values);
    bool ok = values && cb_read(logits, CB_F32, values);
    if (ok && p->words)
        add_words(p, first_row, batch, values);
    else if (ok)
        memcpy(p->scores + first_row * p->labels, values, (size_t)logits->count * sizeof *values);
    cb_free(values);
    return ok;
}

bool cb_predictions_share(cb_predictions *p)
{
    if (cb_parallel_size() == 1)
        return true;
    if (p->counts)
        return cb_places_share(p);
    if (p->errors)
        return cb_numbers_share(p);
    if (p->exact) /* went along with the losses */
        return true;
    return p->words ? cb_parallel_sum(p->words, (size_t)p->starts[p->rows]) : cb_parallel_sum(p->scores, (size_t)(p->rows * p->labels));
}

/* ---- metrics ---- */

static void add(cb_metrics *m, const char *name, double value)
{
    m->items[m->count++] = (cb_metric){name, value};
}

/* Counts one item of one label; true where it is right.  A matrix of all pairs would be K x K, for tens of thousands of labels too. */
static bool count_label(int32_t found, int32_t target, cb_class_counts *counts)
{
    bool right = found == target;
    counts[target].true_positives += right;
    counts[target].false_negatives += !right;
    counts[found].false_positives += !right;
    return right;
}

static bool measure_classes(const cb_predictions *p, const cb_dataset *data, cb_metrics *m)
{
    size_t k = (size_t)p->labels, n = (size_t)p->rows, right = 0, one;
    cb_class_counts *counts = cb_calloc(k, sizeof *counts);
    bool ok = counts;
    for (size_t i = 0; ok && i < n; i++)
        right += count_label(highest(p->scores + i * k, p->labels), *cb_dataset_row_labels(data, (int64_t)i, &one), counts);
    if (ok) {
        add(m, "accuracy", n ? (double)right / (double)n : NAN);
        add(m, "f1_macro", cb_class_score_average(counts, k, CB_AVERAGE_MACRO).f1);
        add(m, "f1_micro", cb_class_score_average(counts, k, CB_AVERAGE_MICRO).f1);
        add(m, "matthews_correlation", cb_matthews_of_counts(counts, k));
    }
    cb_free(counts);
    return ok;
}

/* Mean area over the labels that some rows have and others do not; NaN without any. */
static double mean_area(const cb_predictions *p, const uint8_t *targets, float *scores, uint8_t *column)
{
    double sum = 0, count = 0;
    for (int64_t k = 0; k < p->labels; k++) {
        for (int64_t i = 0; i < p->rows; i++) {
            scores[i] = p->scores[i * p->labels + k];
            column[i] = targets[i * p->labels + k];
        }
        double area = cb_roc_auc(scores, column, (size_t)p->rows);
        sum += isfinite(area) ? area : 0;
        count += isfinite(area);
    }
    return count > 0 ? sum / count : NAN;
}

static bool measure_sets(const cb_predictions *p, const cb_dataset *data, cb_metrics *m)
{
    size_t k = (size_t)p->labels, n = (size_t)p->rows, right = 0;
    uint8_t *targets = cb_calloc(n * k, 1), *found = cb_calloc(n * k, 1), *column = cb_alloc(n);
    float *scores = cb_alloc(n * sizeof *scores);
    cb_class_counts *counts = cb_calloc(k, sizeof *counts);
    bool ok = targets && found && column && scores && counts;
    for (size_t i = 0; ok && i < n; i++) {
        size_t count;
        const int32_t *labels = cb_dataset_row_labels(data, (int64_t)i, &count);
        for (size_t l = 0; l < count; l++)
            targets[i * k + (size_t)labels[l]] = 1;
        for (size_t l = 0; l < k; l++)
            found[i * k + l] = p->scores[i * k + l] > 0; /* a probability over one half */
        right += memcmp(targets + i * k, found + i * k, k) == 0;
    }
    if (ok) {
        cb_class_counts_add(found, targets, n, k, counts);
        add(m, "f1_micro", cb_class_score_average(counts, k, CB_AVERAGE_MICRO).f1);
        add(m, "f1_macro", cb_class_score_average(counts, k, CB_AVERAGE_MACRO_ALL).f1);
        add(m, "roc_auc", mean_area(p, targets, scores, column));
        add(m, "accuracy", (double)right / (double)n);
    }
    cb_free(targets);
    cb_free(found);
    cb_free(column);
    cb_free(scores);
    cb_free(counts);
    return ok && cb_ok();
}

static bool measure_values(const cb_predictions *p, const cb_dataset *data, cb_metrics *m)
{
    size_t n = (size_t)p->rows;
    double *x = cb_alloc(n * sizeof *x), *y = cb_alloc(n * sizeof *y);
    for (size_t i = 0; x && y && i < n; i++) {
        x[i] = (double)p->scores[i];
        y[i] = cb_dataset_row_value(data, (int64_t)i);
    }
    if (x && y) {
        double error = cb_root_mean_square_error(x, y, n);
        add(m, "pearson", cb_pearson(x, y, n));
        add(m, "spearman", cb_spearman(x, y, n));
        add(m, "mse", error * error);
    }
    cb_free(x);
    cb_free(y);
    return cb_ok();
}

/* B-PER, I-PER, E-, S-, O: else words have labels of their own, such as parts of speech, and there are no entities to find. */
static bool names_entities(const cb_string_list *names)
{
    for (size_t i = 0; i < names->count; i++) {
        const char *name = names->items[i];
        if (strcmp(name, "O") == 0 || (*name && strchr("BIES", *name) && (!name[1] || name[1] == '-')))
            return true;
    }
    return false;
}

static bool measure_words(const cb_predictions *p, const cb_dataset *data, cb_metrics *m)
{
    const char *const *names = (const char *const *)cb_dataset_labels(data)->items;
    cb_class_counts counts = {0};
    int64_t right = 0, all = 0;
    int32_t *found = cb_alloc((size_t)p->starts[p->rows] * sizeof *found),
            *targets = cb_alloc((size_t)p->starts[p->rows] * sizeof *targets);
    bool ok = found && targets;
    for (int64_t i = 0; ok && i < p->rows; i++) {
        size_t words, n = 0;
        const int32_t *labels = cb_dataset_row_labels(data, i, &words);
        for (size_t w = 0; w < words; w++) {
            int32_t label = (int32_t)p->words[p->starts[i] + (int64_t)w] - 1;
            if (label < 0) /* cut off: judged by nobody, as in transformers' examples */
                continue;
            found[n] = label;
            targets[n++] = labels[w];
            right += label == labels[w];
        }
        all += (int64_t)n;
        cb_entity_counts_add(found, targets, n, names, &counts);
    }
    cb_class_score score = cb_class_score_of(counts);
    if (names_entities(cb_dataset_labels(data))) {
        add(m, "f1", score.f1);
        add(m, "precision", score.precision);
        add(m, "recall", score.recall);
    }
    add(m, "accuracy", all ? (double)right / (double)all : NAN);
    cb_free(found);
    cb_free(targets);
    return ok;
}

/* The probability of the likeliest label. */
static float confidence(const float *scores, int64_t labels)
{
    float most = scores[highest(scores, labels)];
    double sum = 0;
    for (int64_t k = 0; k < labels; k++)
        sum += exp((double)(scores[k] - most));
    return (float)(1 / sum);
}

static bool measure_images(const cb_predictions *p, const cb_dataset *data, cb_metrics *m)
{
    enum { BINS = 15, TOP = 5 };
    size_t k = (size_t)p->labels, n = (size_t)p->rows, one;
    cb_calibration_error calibration = {0};
    int32_t *targets = cb_alloc(n * sizeof *targets), *found = cb_alloc(n * sizeof *found);
    float *confidences = cb_alloc(n * sizeof *confidences);
    uint8_t *right = cb_alloc(n);
    cb_class_counts *counts = cb_calloc(k, sizeof *counts);
    size_t hits = 0;
    bool ok = targets && found && confidences && right && counts;
    for (size_t i = 0; ok && i < n; i++) {
        targets[i] = *cb_dataset_row_labels(data, (int64_t)i, &one);
        found[i] = highest(p->scores + i * k, p->labels);
        confidences[i] = confidence(p->scores + i * k, p->labels);
        right[i] = count_label(found[i], targets[i], counts);
        hits += right[i];
    }
    ok = ok && cb_calibration(confidences, right, n, BINS, false, NULL, &calibration);
    if (ok) {
        add(m, "accuracy", n ? (double)hits / (double)n : NAN);
        if (k > TOP)
            add(m, "top5_accuracy", cb_top_k_accuracy(p->scores, targets, n, k, TOP));
        add(m, "f1_macro", cb_class_score_average(counts, k, CB_AVERAGE_MACRO).f1);
        add(m, "calibration_error", calibration.expected);
    }
    cb_free(targets);
    cb_free(found);
    cb_free(confidences);
    cb_free(right);
    cb_free(counts);
    return ok;
}

bool cb_metrics_of(const cb_predictions *p, const cb_dataset *data, cb_metrics *m)
{
    *m = (cb_metrics){0};
    switch (p->objective) {
    case CB_OBJECTIVE_SEQUENCE_CLASSIFICATION:
        return measure_classes(p, data, m);
    case CB_OBJECTIVE_MULTI_LABEL:
        return measure_sets(p, data, m);
    case CB_OBJECTIVE_REGRESSION:
        return measure_values(p, data, m);
    case CB_OBJECTIVE_TOKEN_CLASSIFICATION:
        return measure_words(p, data, m);
    case CB_OBJECTIVE_IMAGE_CLASSIFICATION:
        return measure_images(p, data, m);
    case CB_OBJECTIVE_SEMANTIC_SEGMENTATION:
        cb_places_measure(p, m);
        return true;
    case CB_OBJECTIVE_DEPTH_ESTIMATION:
    case CB_OBJECTIVE_SURFACE_NORMALS:
    case CB_OBJECTIVE_SALIENCY:
        cb_numbers_measure(p, m);
        return true;
    case CB_OBJECTIVE_TEXT_RECOGNITION:
        cb_recognition_measure(p, m);
        return true;
    default:
        return cb_fail(CB_ERR_ARGUMENT, "metrics: the rows have no labels") == CB_OK;
    }
}
