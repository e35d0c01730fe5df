/* test_metrics_vision.c: measures of images, masks, poses and rankings against scikit-image, scipy, numpy and trec_eval
 * (tests/oracle/metrics.py), and their edges. */
#include "cambium/metrics.h"
#include "metric_fixtures.h"

/* ---- images ---- */

static double number_or_infinity(const json_t *object, const char *key)
{
    return json_is_string(json_object_get(object, key)) ? INFINITY : number_of(object, key);
}

static void images_are_judged_as_by_scikit_image(void **state)
{
    (void)state;
    json_t *reference = load_reference("vision");
    FOR_EACH_CASE(c, array_of(reference, "images"))
    {
        size_t n, channels = (size_t)number_of(c, "channels"), height = (size_t)number_of(c, "height"),
                  width = (size_t)number_of(c, "width");
        float *a = floats_of(c, "a", &n), *b = floats_of(c, "b", NULL);
        double range = number_of(c, "range");
        assert_near(cb_psnr(a, b, n, range), number_or_infinity(c, "psnr"), ROUNDING);
        assert_near(cb_ssim(a, b, channels, height, width, range), number_of(c, "ssim"), ROUNDING);
        a[n - 1] = NAN;
        assert_near(cb_psnr(a, b, n, range), NAN, 0);
        assert_failure(CB_ERR_NUMERIC, "psnr: a[");
        assert_near(cb_ssim(b, a, channels, height, width, range), NAN, 0);
        assert_failure(CB_ERR_NUMERIC, "ssim: b[");
        cb_free(a);
        cb_free(b);
    }
    json_decref(reference);
}

static void impossible_images_are_refused(void **state)
{
    (void)state;
    const float image[110] = {0};
    assert_near(cb_ssim(image, image, 1, 10, 11, 1), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "ssim: the images are 11 x 10, expected at least 11 x 11");
    assert_near(cb_psnr(image, image, 110, 0), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "psnr: range is 0, expected a positive number");
    assert_near(cb_psnr(image, image, 110, NAN), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "range is nan");
    assert_near(cb_psnr(NULL, NULL, 0, 1), NAN, 0);
    assert_true(cb_ok());
}

/* ---- masks ---- */

static void classes_of_pixels_are_judged(void **state)
{
    (void)state;
    json_t *reference = load_reference("vision");
    FOR_EACH_CASE(c, array_of(reference, "segmentations"))
    {
        size_t n, classes = (size_t)number_of(c, "classes");
        int32_t *predictions = labels_of(c, "predictions", &n), *targets = labels_of(c, "targets", NULL);
        int64_t *confusion = cb_calloc(classes * classes, sizeof *confusion);
        cb_class_counts *counts = cb_calloc(classes, sizeof *counts);
        assert_true(cb_confusion_add(predictions, targets, n, (int32_t)number_of(c, "ignore"), classes, confusion));
        assert_near(cb_accuracy(confusion, classes), number_of(c, "pixel_accuracy"), ROUNDING);
        cb_class_counts_of(confusion, classes, counts);
        for (size_t k = 0; k < classes; k++) {
            assert_near(cb_class_score_of(counts[k]).iou, number_at(array_of(c, "iou"), k), ROUNDING);
            assert_near(cb_class_score_of(counts[k]).f1, number_at(array_of(c, "dice"), k), ROUNDING);
        }
        assert_near(cb_class_score_average(counts, classes, CB_AVERAGE_MACRO).iou, number_of(c, "mean_iou"), ROUNDING);
        cb_free(predictions);
        cb_free(targets);
        cb_free(confusion);
        cb_free(counts);
    }
    json_decref(reference);
}

static void surfaces_are_as_far_apart_as_by_scipy(void **state)
{
    (void)state;
    json_t *reference = load_reference("vision");
    FOR_EACH_CASE(c, array_of(reference, "surfaces"))
    {
        uint8_t *a = bytes_of(c, "a", NULL), *b = bytes_of(c, "b", NULL);
        double *spacing = doubles_of(c, "spacing", NULL);
        const json_t *sizes = array_of(c, "sizes");
        cb_surface_distance d;
        assert_true(cb_surface_distance_of(a, b, (size_t)number_at(sizes, 0), (size_t)number_at(sizes, 1), (size_t)number_at(sizes, 2),
                                           spacing, &d));
        assert_near(d.maximum, number_at(array_of(c, "distance"), 0), ROUNDING);
        assert_near(d.percentile95, number_at(array_of(c, "distance"), 1), ROUNDING);
        assert_near(d.mean, number_at(array_of(c, "distance"), 2), ROUNDING);
        spacing[1] = 0;
        assert_false(cb_surface_distance_of(a, b, 1, 1, 1, spacing, &d));
        assert_failure(CB_ERR_ARGUMENT, "spacing[1] is 0, expected a positive number");
        cb_free(a);
        cb_free(b);
        cb_free(spacing);
    }
    json_decref(reference);
    cb_surface_distance d;
    assert_true(cb_surface_distance_of(NULL, NULL, 0, 3, 3, NULL, &d));
    assert_near(d.mean, NAN, 0);
    assert_true(cb_surface_distance_of((uint8_t[]){1}, (uint8_t[]){1}, 1, 1, 1, NULL, &d));
    assert_near(d.maximum, 0, 0);
}

/* ---- poses ---- */

static void poses_are_judged_as_with_numpy(void **state)
{
    (void)state;
    static const double alphas[] = {1, 3, 5};
    json_t *reference = load_reference("vision");
    FOR_EACH_CASE(c, array_of(reference, "poses"))
    {
        size_t n = (size_t)number_of(c, "n"), joints = (size_t)number_of(c, "joints");
        float *predictions = floats_of(c, "predictions", NULL), *targets = floats_of(c, "targets", NULL);
        uint8_t *visible = bytes_of(c, "visible", NULL);
        double *sizes = doubles_of(c, "sizes", NULL);
        assert_near(cb_keypoint_error(predictions, targets, visible, n, joints, 3), number_of(c, "error"), ROUNDING);
        assert_near(cb_keypoint_error(predictions, targets, NULL, n, joints, 3), number_of(c, "error_of_all"), ROUNDING);
        assert_near(cb_keypoint_error_aligned(predictions, targets, visible, n, joints), number_of(c, "aligned"), 1e-10);
        for (size_t i = 0; i < 3; i++)
            assert_near(cb_keypoints_correct(predictions, targets, visible, sizes, n, joints, 3, alphas[i]),
                        number_at(array_of(c, "correct"), i), ROUNDING);
        predictions[0] = INFINITY;
        visible[0] = 1;
        assert_near(cb_keypoint_error_aligned(predictions, targets, visible, n, joints), NAN, 0);
        assert_failure(CB_ERR_NUMERIC, "keypoint_error_aligned: predictions of a point[0] is inf");
        visible[0] = 0;
        assert_true(isfinite(cb_keypoint_error(predictions, targets, visible, n, joints, 3)));
        cb_free(predictions);
        cb_free(targets);
        cb_free(visible);
        cb_free(sizes);
    }
    json_decref(reference);
}

/* Points that coincide have no scale, collinear ones no single rotation, one point neither. */
static void degenerate_poses_are_aligned(void **state)
{
    (void)state;
    const float same[] = {1, 1, 1, 1, 1, 1}, apart[] = {0, 0, 0, 2, 0, 0}, line[] = {0, 0, 0, 0, 3, 4, 0, 6, 8},
                other[] = {1, 0, 0, 2, 0, 0, 3, 0, 0};
    const uint8_t hidden[] = {0, 0};
    assert_near(cb_keypoint_error_aligned(same, apart, NULL, 1, 2), 1, ROUNDING);
    assert_near(cb_keypoint_error_aligned(apart, same, NULL, 1, 2), 0, ROUNDING);
    assert_near(cb_keypoint_error_aligned(line, other, NULL, 1, 3), 0, ROUNDING);
    assert_near(cb_keypoint_error_aligned(apart, line, NULL, 1, 1), 0, ROUNDING);
    assert_near(cb_keypoint_error_aligned(same, apart, hidden, 1, 2), NAN, 0);
    assert_near(cb_keypoints_correct(same, apart, hidden, NULL, 1, 2, 3, 1), NAN, 0);
    assert_true(cb_ok());
}

/* ---- rankings ---- */

static void assert_ranking(const cb_ranking *r, const char *cut, const json_t *expected)
{
    cb_ranking_score s;
    assert_true(cb_ranking_score_of(r, (size_t)atoi(cut), false, &s));
    const double got[] = {s.ndcg, s.reciprocal_rank, s.precision, s.recall, s.average_precision};
    for (size_t i = 0; i < 5; i++)
        if (!is_near(got[i], number_at(expected, i), ROUNDING))
            fail_msg("measure %zu at %s is %.17g, expected %.17g", i, cut, got[i], number_at(expected, i));
}

static void rankings_are_judged_as_by_trec_eval(void **state)
{
    (void)state;
    json_t *reference = load_reference("ranking");
    FOR_EACH_CASE(c, array_of(reference, "queries"))
    {
        cb_ranking r = {0};
        float *scores = floats_of(c, "scores", &r.count);
        int32_t *relevance = labels_of(c, "relevance", NULL), *judged = labels_of(c, "judged", &r.judged_count);
        r.scores = scores;
        r.relevance = relevance;
        r.judged = judged;
        const char *cut;
        json_t *expected, *cuts = json_object_get(c, "expected");
        json_object_foreach(cuts, cut, expected)
        {
            assert_ranking(&r, cut, expected);
            if (r.count == r.judged_count) {
                r.judged = NULL;
                assert_ranking(&r, cut, expected);
                r.judged = judged;
            }
        }
        cb_ranking_score s;
        if (json_object_get(c, "exponential")) {
            assert_true(cb_ranking_score_of(&r, 0, true, &s));
            assert_near(s.ndcg, number_of(c, "exponential"), ROUNDING);
        }
        scores[0] = NAN;
        assert_false(cb_ranking_score_of(&r, 0, false, &s));
        assert_failure(CB_ERR_NUMERIC, "ranking_score: scores[0] is nan");
        assert_near(s.ndcg, NAN, 0);
        cb_free(scores);
        cb_free(relevance);
        cb_free(judged);
    }
    json_decref(reference);
    cb_ranking_score s;
    assert_true(cb_ranking_score_of(&(cb_ranking){0}, 5, false, &s));
    assert_near(s.ndcg, 0, 0);
    assert_near(s.precision, 0, 0);
}

/* ---- memory ---- */

static bool judge_everything(void)
{
    static const float image[121] = {0};
    static const uint8_t mask[] = {0, 1, 1, 0};
    cb_surface_distance d;
    cb_ranking_score s;
    return !isnan(cb_ssim(image, image, 1, 11, 11, 1)) && cb_surface_distance_of(mask, mask, 1, 2, 2, NULL, &d) &&
           cb_ranking_score_of(&(cb_ranking){.scores = image, .relevance = (int32_t[]){1, 0}, .count = 2}, 0, false, &s);
}

static void a_failed_allocation_is_an_error(void **state)
{
    (void)state;
    uint64_t before = cb_memory().live_bytes;
    bool ok = false;
    for (uint64_t n = 1; !ok; n++) {
        cb_memory_fail_after(n);
        ok = judge_everything();
        cb_memory_fail_after(0);
        assert_int_equal(ok, cb_ok());
        if (!ok)
            assert_failure(CB_ERR_MEMORY, "memory");
        assert_int_equal(cb_memory().live_bytes, before);
        assert_true(n < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CORE_TEST(images_are_judged_as_by_scikit_image), CORE_TEST(impossible_images_are_refused),
        CORE_TEST(classes_of_pixels_are_judged),         CORE_TEST(surfaces_are_as_far_apart_as_by_scipy),
        CORE_TEST(poses_are_judged_as_with_numpy),       CORE_TEST(degenerate_poses_are_aligned),
        CORE_TEST(rankings_are_judged_as_by_trec_eval),  CORE_TEST(a_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
