/* test_metrics.c: measures against what scikit-learn and scipy make of the same data (tests/oracle/metrics.py), and their edges. */
#include "cambium/metrics.h"
#include "metric_fixtures.h"

/* ---- classification ---- */

static void assert_score(cb_class_score got, const json_t *expected)
{
    assert_near(got.precision, number_at(expected, 0), ROUNDING);
    assert_near(got.recall, number_at(expected, 1), ROUNDING);
    assert_near(got.f1, number_at(expected, 2), ROUNDING);
    assert_near(got.iou, number_at(expected, 3), ROUNDING);
}

static void compare_confusion(const json_t *c, size_t classes)
{
    size_t n;
    int32_t *predictions = labels_of(c, "predictions", &n), *targets = labels_of(c, "targets", NULL);
    int64_t *confusion = cb_calloc(classes * classes, sizeof *confusion), *expected = counts_of(c, "confusion", NULL);
    assert_true(cb_confusion_add(predictions, targets, n / 2, CB_NO_LABEL, classes, confusion)); /* in two parts */
    assert_true(cb_confusion_add(predictions + n / 2, targets + n / 2, n - n / 2, CB_NO_LABEL, classes, confusion));
    assert_memory_equal(confusion, expected, classes * classes * sizeof *confusion);
    assert_near(cb_accuracy(confusion, classes), number_of(c, "accuracy"), ROUNDING);
    assert_near(cb_mutual_information(confusion, classes, classes), number_of(c, "mutual_information"), ROUNDING);
    assert_near(cb_balanced_accuracy(confusion, classes), number_of(c, "balanced_accuracy"), ROUNDING);
    assert_near(cb_matthews(confusion, classes), number_of(c, "matthews"), ROUNDING);
    for (int w = 0; w < 3; w++)
        assert_near(cb_cohen_kappa(confusion, classes, (cb_kappa_weights)w), number_at(array_of(c, "kappa"), (size_t)w), ROUNDING);
    cb_class_counts *counts = cb_calloc(classes, sizeof *counts);
    cb_class_counts_of(confusion, classes, counts);
    assert_near(cb_matthews_of_counts(counts, classes), number_of(c, "matthews"), ROUNDING);
    for (size_t k = 0; k < classes; k++)
        assert_score(cb_class_score_of(counts[k]), json_array_get(array_of(c, "per_class"), k));
    assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_MICRO), array_of(c, "micro"));
    assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_MACRO), array_of(c, "macro"));
    assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_MACRO_ALL), array_of(c, "macro_all"));
    assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_WEIGHTED), array_of(c, "weighted"));
    cb_free(predictions);
    cb_free(targets);
    cb_free(confusion);
    cb_free(expected);
    cb_free(counts);
}

static void assert_calibration(const float *confidences, const uint8_t *correct, size_t n, size_t bins, bool adaptive,
                               const json_t *expected)
{
    cb_calibration_bin table[10];
    cb_calibration_error e;
    assert_true(cb_calibration(confidences, correct, n, bins, adaptive, table, &e));
    assert_near(e.expected, number_at(expected, 0), ROUNDING);
    assert_near(e.maximum, number_at(expected, 1), ROUNDING);
    size_t held = 0;
    for (size_t b = 0; b < bins; b++) {
        held += table[b].count;
        assert_int_equal(isnan(table[b].accuracy), table[b].count == 0);
    }
    assert_int_equal(held, n);
}

static void compare_scores(const json_t *c, size_t classes)
{
    size_t n;
    int32_t *targets = labels_of(c, "targets", &n);
    float *scores = floats_of(c, "scores", NULL), *confidences = cb_calloc(n, sizeof *confidences);
    uint8_t *correct = bytes_of(c, "correct", NULL);
    for (size_t k = 1; k <= classes; k++)
        assert_near(cb_top_k_accuracy(scores, targets, n, classes, k), number_at(array_of(c, "top_k"), k - 1), ROUNDING);
    assert_near(cb_roc_auc_ovr(scores, targets, n, classes), number_of(c, "roc_auc_ovr"), ROUNDING);
    assert_near(cb_brier_score(scores, targets, n, classes), number_of(c, "brier"), ROUNDING);
    if (json_object_get(c, "log_loss"))
        assert_near(cb_log_loss(scores, targets, n, classes), number_of(c, "log_loss"), ROUNDING);
    for (size_t i = 0; i < n * classes; i++)
        confidences[i / classes] = fmaxf(confidences[i / classes], scores[i]);
    for (size_t bins = 5; bins <= 10; bins += 5) {
        const json_t *expected = json_object_get(c, bins == 5 ? "calibration_5" : "calibration_10");
        assert_calibration(confidences, correct, n, bins, false, array_of(expected, "width"));
        assert_calibration(confidences, correct, n, bins, true, array_of(expected, "adaptive"));
    }
    cb_free(targets);
    cb_free(scores);
    cb_free(confidences);
    cb_free(correct);
}

static void labels_are_judged_as_by_scikit_learn(void **state)
{
    (void)state;
    json_t *reference = load_reference("classification");
    FOR_EACH_CASE(c, array_of(reference, "multiclass"))
    {
        compare_confusion(c, (size_t)number_of(c, "classes"));
        compare_scores(c, (size_t)number_of(c, "classes"));
    }
    json_decref(reference);
}

static void yes_or_no_is_judged_as_by_scikit_learn(void **state)
{
    (void)state;
    static const double recalls[] = {0.5, 0.95, 1};
    json_t *reference = load_reference("classification");
    FOR_EACH_CASE(c, array_of(reference, "binary"))
    {
        size_t n;
        float *scores = floats_of(c, "scores", &n);
        uint8_t *targets = bytes_of(c, "targets", NULL);
        int32_t *labels = labels_of(c, "targets", NULL);
        assert_near(cb_roc_auc(scores, targets, n), number_of(c, "roc_auc"), ROUNDING);
        assert_near(cb_average_precision(scores, targets, n), number_of(c, "average_precision"), ROUNDING);
        for (size_t i = 0; i < 3; i++)
            assert_near(cb_false_positive_rate(scores, targets, n, recalls[i]), number_at(array_of(c, "fpr"), i), ROUNDING);
        assert_near(cb_brier_score(scores, labels, n, 1), number_of(c, "brier"), ROUNDING);
        cb_free(scores);
        cb_free(targets);
        cb_free(labels);
    }
    json_decref(reference);
}

static void several_labels_are_judged_as_by_scikit_learn(void **state)
{
    (void)state;
    json_t *reference = load_reference("classification");
    FOR_EACH_CASE(c, array_of(reference, "multilabel"))
    {
        size_t n, classes = (size_t)number_of(c, "classes");
        float *scores = floats_of(c, "scores", &n);
        uint8_t *targets = bytes_of(c, "targets", NULL), *predictions = bytes_of(c, "predictions", NULL);
        cb_class_counts *counts = cb_calloc(classes, sizeof *counts);
        cb_class_counts_add(predictions, targets, n / classes, classes, counts);
        assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_MICRO), array_of(c, "micro"));
        assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_MACRO_ALL), array_of(c, "macro_all"));
        assert_score(cb_class_score_average(counts, classes, CB_AVERAGE_WEIGHTED), array_of(c, "weighted"));
        assert_near(cb_mean_average_precision(scores, targets, n / classes, classes), number_of(c, "mean_average_precision"), ROUNDING);
        cb_free(scores);
        cb_free(targets);
        cb_free(predictions);
        cb_free(counts);
    }
    json_decref(reference);
}

static void entities_are_judged_as_by_seqeval(void **state)
{
    (void)state;
    json_t *reference = load_reference("entities"), *tags = array_of(reference, "tags");
    const char *names[16];
    for (size_t i = 0; i < json_array_size(tags); i++)
        names[i] = json_string_value(json_array_get(tags, i));
    FOR_EACH_CASE(c, array_of(reference, "cases"))
    {
        cb_class_counts counts = {0};
        json_t *targets = array_of(c, "targets"), *predictions = array_of(c, "predictions");
        for (size_t i = 0; i < json_array_size(targets); i++) {
            int32_t sides[2][16];
            size_t n = json_array_size(json_array_get(targets, i));
            for (size_t w = 0; w < n; w++) {
                sides[0][w] = (int32_t)number_at(json_array_get(predictions, i), w);
                sides[1][w] = (int32_t)number_at(json_array_get(targets, i), w);
            }
            cb_entity_counts_add(sides[0], sides[1], n, names, &counts);
        }
        cb_class_score score = cb_class_score_of(counts);
        assert_near(score.precision, number_of(c, "precision"), ROUNDING);
        assert_near(score.recall, number_of(c, "recall"), ROUNDING);
        assert_near(score.f1, number_of(c, "f1"), ROUNDING);
    }
    json_decref(reference);
}

static void ignored_targets_do_not_count(void **state)
{
    (void)state;
    const int32_t predictions[] = {0, 7, 1, 1}, targets[] = {0, -100, 1, 0};
    int64_t confusion[4] = {0};
    assert_true(cb_confusion_add(predictions, targets, 4, -100, 2, confusion));
    assert_memory_equal(confusion, ((int64_t[]){1, 1, 0, 1}), sizeof confusion);
}

static void labels_outside_the_classes_are_refused(void **state)
{
    (void)state;
    const int32_t good[] = {0, 1, 2}, high[] = {0, 1, 3}, low[] = {0, -1, 2};
    const float scores[9] = {0};
    int64_t confusion[9] = {0};
    assert_false(cb_confusion_add(good, high, 3, CB_NO_LABEL, 3, confusion));
    assert_failure(CB_ERR_ARGUMENT, "confusion_add: targets[2] is 3, expected one of 3 classes, from 0");
    assert_false(cb_confusion_add(low, good, 3, CB_NO_LABEL, 3, confusion));
    assert_failure(CB_ERR_ARGUMENT, "confusion_add: predictions[1] is -1");
    for (int i = 0; i < 9; i++)
        assert_int_equal(confusion[i], 0);
    assert_near(cb_top_k_accuracy(scores, high, 3, 3, 1), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "top_k_accuracy: targets[2]");
    assert_near(cb_roc_auc_ovr(scores, low, 3, 3), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "roc_auc_ovr: targets[1]");
    assert_near(cb_log_loss(scores, low, 3, 3), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "log_loss: targets[1]");
    assert_near(cb_brier_score(scores, good, 3, 1), NAN, 0); /* yes or no */
    assert_failure(CB_ERR_ARGUMENT, "brier_score: targets[2] is 2, expected one of 2 classes");
}

static void scores_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    const float scores[] = {0.5f, NAN, 0.25f, 0}, outside[] = {0, 0.5f, 1.5f, 0};
    const uint8_t marks[] = {0, 1, 1, 0};
    const int32_t labels[] = {0, 1};
    cb_calibration_error e;
    assert_near(cb_roc_auc(scores, marks, 4), NAN, 0);
    assert_failure(CB_ERR_NUMERIC, "roc_auc: scores[1] is nan, expected a finite number");
    assert_near(cb_false_positive_rate(scores, marks, 4, 0.95), NAN, 0);
    assert_failure(CB_ERR_NUMERIC, "false_positive_rate: scores[1]");
    assert_near(cb_false_positive_rate(outside, marks, 4, 95), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "recall is 95, expected more than 0 and at most 1");
    assert_near(cb_average_precision(scores, marks, 4), NAN, 0);
    assert_failure(CB_ERR_NUMERIC, "average_precision: scores[1]");
    assert_near(cb_mean_average_precision(scores, marks, 2, 2), NAN, 0);
    assert_failure(CB_ERR_NUMERIC, "mean_average_precision: scores[1]");
    assert_near(cb_top_k_accuracy(scores, labels, 2, 2, 1), NAN, 0);
    assert_failure(CB_ERR_NUMERIC, "top_k_accuracy: scores[1]");
    assert_near(cb_log_loss(outside, labels, 2, 2), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "log_loss: probabilities[2] is 1.5, expected 0 to 1");
    assert_false(cb_calibration(outside, marks, 4, 3, false, NULL, &e));
    assert_failure(CB_ERR_ARGUMENT, "calibration: confidences[2] is 1.5");
    assert_near(e.expected, NAN, 0);
    assert_false(cb_calibration(scores, marks, 1, 0, false, NULL, &e));
    assert_failure(CB_ERR_ARGUMENT, "bins is 0");
}

/* A probability of 0 for what happens costs as much as one of FLT_EPSILON, 2^-23. */
static void certain_mistakes_cost_a_finite_loss(void **state)
{
    (void)state;
    const float p[] = {1, 0, 1, 0};
    assert_near(cb_log_loss(p, (int32_t[]){0, 1}, 2, 2), (23 * M_LN2 + 0x1p-23) / 2, 1e-13);
}

/* Confidences on the edges of bins belong to the lower one. */
static void bins_hold_their_upper_edge(void **state)
{
    (void)state;
    const float confidences[] = {0, 0.25f, 0.5f, 0.75f, 1};
    const uint8_t correct[] = {0, 0, 1, 1, 1};
    cb_calibration_bin table[4];
    cb_calibration_error e;
    assert_true(cb_calibration(confidences, correct, 5, 4, false, table, &e));
    assert_int_equal(table[0].count, 2);
    assert_int_equal(table[1].count, 1);
    assert_int_equal(table[3].count, 1);
    assert_near(e.expected, (0.25 + 0.5 + 0.25 + 0) / 5, 1e-15);
    assert_near(e.maximum, 0.5, 0);
}

static void nothing_is_undefined(void **state)
{
    (void)state;
    const int64_t none[4] = {0};
    const cb_class_counts no_counts[2] = {0};
    cb_calibration_error e;
    assert_near(cb_accuracy(none, 2), NAN, 0);
    assert_near(cb_balanced_accuracy(none, 2), NAN, 0);
    assert_near(cb_matthews(none, 2), NAN, 0);
    assert_near(cb_cohen_kappa(none, 2, CB_KAPPA_LINEAR), NAN, 0);
    assert_near(cb_class_score_average(no_counts, 2, CB_AVERAGE_MACRO).f1, NAN, 0);
    assert_near(cb_class_score_average(no_counts, 2, CB_AVERAGE_MACRO_ALL).f1, 0, 0);
    assert_near(cb_top_k_accuracy(NULL, NULL, 0, 2, 1), NAN, 0);
    assert_near(cb_roc_auc(NULL, NULL, 0), NAN, 0);
    assert_near(cb_average_precision(NULL, NULL, 0), NAN, 0);
    assert_near(cb_false_positive_rate(NULL, NULL, 0, 0.95), NAN, 0);
    assert_near(cb_mutual_information(none, 2, 2), NAN, 0);
    assert_near(cb_log_loss(NULL, NULL, 0, 2), NAN, 0);
    assert_near(cb_brier_score(NULL, NULL, 0, 2), NAN, 0);
    assert_true(cb_calibration(NULL, NULL, 0, 2, true, NULL, &e));
    assert_near(e.expected, NAN, 0);
    assert_near(cb_mean_absolute_error(NULL, NULL, 0), NAN, 0);
    assert_near(cb_root_mean_square_error(NULL, NULL, 0), NAN, 0);
    assert_near(cb_r2(NULL, NULL, 0), NAN, 0);
    assert_near(cb_spearman(NULL, NULL, 0), NAN, 0);
    assert_near(cb_kendall(NULL, NULL, 0), NAN, 0);
    assert_true(cb_ok());
}

/* ---- regression ---- */

static void numbers_are_judged_as_by_scipy(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double (*measure)(const double *, const double *, size_t);
    } measures[] = {{"mean_absolute_error", cb_mean_absolute_error},
                    {"root_mean_square_error", cb_root_mean_square_error},
                    {"mean_absolute_percentage_error", cb_mean_absolute_percentage_error},
                    {"r2", cb_r2},
                    {"pearson", cb_pearson},
                    {"spearman", cb_spearman},
                    {"kendall", cb_kendall}};
    json_t *reference = load_reference("regression");
    FOR_EACH_CASE(c, array_of(reference, "cases"))
    {
        size_t n;
        double *x = doubles_of(c, "x", &n), *y = doubles_of(c, "y", NULL);
        for (size_t m = 0; m < sizeof measures / sizeof *measures; m++) {
            double got = measures[m].measure(x, y, n), expected = number_of(c, measures[m].name);
            if (!is_near(got, expected, ROUNDING))
                fail_msg("%s of case %zu is %.17g, expected %.17g", measures[m].name, case_, got, expected);
            assert_true(cb_ok());
            if (n > 1) { /* the last two places, in turn, are no numbers */
                double kept = y[n - 1];
                y[n - 1] = INFINITY;
                assert_near(measures[m].measure(x, y, n), NAN, 0);
                assert_failure(CB_ERR_NUMERIC, "is inf, expected a finite number");
                y[n - 1] = kept;
            }
        }
        cb_free(x);
        cb_free(y);
    }
    json_decref(reference);
}

/* ---- memory ---- */

static void a_failed_allocation_is_an_error(void **state)
{
    (void)state;
    const double x[] = {1, 2, 4, 3}, y[] = {1, 3, 2, 2};
    const float scores[] = {0.1f, 0.2f, 0.3f, 0.4f};
    const uint8_t marks[] = {0, 1, 1, 0};
    cb_calibration_error e;
    for (uint64_t n = 1; n <= 5; n++) {
        uint64_t before = cb_memory().live_bytes;
        for (int measure = 0; measure < 4; measure++) {
            cb_memory_fail_after(n);
            double result = measure == 0   ? cb_kendall(x, y, 4)
                            : measure == 1 ? cb_spearman(x, y, 4)
                            : measure == 2 ? cb_roc_auc(scores, marks, 4)
                                           : (cb_calibration(scores, marks, 4, 2, true, NULL, &e), e.expected);
            cb_memory_fail_after(0);
            assert_int_equal(isnan(result), !cb_ok());
            cb_error_clear();
            assert_int_equal(cb_memory().live_bytes, before);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CORE_TEST(labels_are_judged_as_by_scikit_learn),
        CORE_TEST(yes_or_no_is_judged_as_by_scikit_learn),
        CORE_TEST(several_labels_are_judged_as_by_scikit_learn),
        CORE_TEST(entities_are_judged_as_by_seqeval),
        CORE_TEST(ignored_targets_do_not_count),
        CORE_TEST(labels_outside_the_classes_are_refused),
        CORE_TEST(scores_that_are_no_numbers_are_refused),
        CORE_TEST(certain_mistakes_cost_a_finite_loss),
        CORE_TEST(bins_hold_their_upper_edge),
        CORE_TEST(nothing_is_undefined),
        CORE_TEST(numbers_are_judged_as_by_scipy),
        CORE_TEST(a_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
