/* test_metrics_dense.c: measures of depths, normals and saliency against numpy and scikit-learn (tests/oracle/metrics.py), and their edges. */
#include "cambium/metrics.h"
#include "metric_fixtures.h"

/* What is not known is null in the file. */
static float *numbers(const json_t *image, const char *key, size_t *n)
{
    const json_t *array = array_of(image, key);
    *n = json_array_size(array);
    float *values = cb_alloc((*n + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < *n; i++)
        values[i] = json_is_null(json_array_get(array, i)) ? NAN : (float)json_number_value(json_array_get(array, i));
    return values;
}

static void depths_are_judged_as_by_numpy(void **state)
{
    (void)state;
    json_t *reference = load_reference("dense");
    FOR_EACH_CASE(c, array_of(reference, "depth"))
    {
        cb_depth_errors e = {0};
        for (size_t i = 0; i < json_array_size(array_of(c, "images")); i++) {
            const json_t *image = json_array_get(array_of(c, "images"), i);
            size_t n;
            float *found = numbers(image, "found", &n), *target = numbers(image, "target", &n);
            cb_depth_errors_add(&e, found, target, n);
            cb_free(found);
            cb_free(target);
        }
        assert_near(e.delta1, number_of(c, "delta1"), ROUNDING);
        assert_near(e.abs_rel, number_of(c, "abs_rel"), ROUNDING);
        assert_near(e.rmse, number_of(c, "rmse"), ROUNDING);
        assert_near(e.silog, number_of(c, "silog"), 1e-8); /* the root of a difference */
    }
    json_decref(reference);
}

static void depths_that_are_none_are_wrong(void **state)
{
    (void)state;
    const float bad[] = {0, -1, INFINITY, NAN}, target[2] = {1, 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cb_depth_errors e = {0};
        cb_depth_errors_add(&e, (const float[]){1, bad[i]}, target, 2);
        assert_true(isinf(e.silog) && e.silog > 0);
        assert_near(e.delta1, 0.5, 0);
    }
}

static void normals_are_judged_as_by_numpy(void **state)
{
    (void)state;
    json_t *reference = load_reference("dense");
    FOR_EACH_CASE(c, array_of(reference, "normals"))
    {
        cb_normal_errors e = {0};
        for (size_t i = 0; i < json_array_size(array_of(c, "images")); i++) {
            const json_t *image = json_array_get(array_of(c, "images"), i);
            size_t n;
            float *found = numbers(image, "found", &n), *target = numbers(image, "target", &n);
            cb_normal_errors_add(&e, found, target, n / 3);
            cb_free(found);
            cb_free(target);
        }
        assert_near(e.angle, number_of(c, "angle"), 1e-9); /* arccos loses digits */
        assert_near(e.within_11, number_of(c, "within_11"), 0);
        assert_near(e.within_22, number_of(c, "within_22"), 0);
        assert_near(e.within_30, number_of(c, "within_30"), 0);
    }
    json_decref(reference);
}

static void saliency_is_judged_as_by_scikit_learn(void **state)
{
    (void)state;
    json_t *reference = load_reference("dense");
    FOR_EACH_CASE(c, array_of(reference, "saliency"))
    {
        cb_saliency_errors e = {0};
        for (size_t i = 0; i < json_array_size(array_of(c, "images")); i++) {
            const json_t *image = json_array_get(array_of(c, "images"), i);
            size_t n;
            float *found = numbers(image, "found", &n), *target = numbers(image, "target", &n);
            cb_saliency_errors_add(&e, found, target, n);
            cb_free(found);
            cb_free(target);
        }
        assert_near(e.absolute, number_of(c, "absolute"), ROUNDING);
        assert_near(cb_saliency_max_f(&e), number_of(c, "max_f"), ROUNDING);
        assert_near(e.images - e.judged, 1, 0); /* one has nothing that stands out */
    }
    json_decref(reference);
}

static void images_without_targets_are_passed_over(void **state)
{
    (void)state;
    const float found[3] = {1, 1, 1}, none[3] = {NAN, NAN, NAN};
    cb_depth_errors depth = {0};
    cb_saliency_errors saliency = {0};
    cb_normal_errors normals = {0};
    cb_depth_errors_add(&depth, found, none, 3);
    cb_saliency_errors_add(&saliency, found, none, 3);
    cb_normal_errors_add(&normals, found, none, 1);
    assert_near(depth.images + saliency.images + normals.places, 0, 0);
    assert_near(cb_saliency_max_f(&saliency), NAN, 0);
    const float one[3] = {0, 0, 1}, turned[3] = {0, 1e-4f, 1}, opposite[3] = {0, 0, -2};
    cb_normal_errors_add(&normals, one, turned, 1);
    assert_near(normals.angle, atan(1e-4) * 180 / M_PI, 1e-9); /* where the cosine is 1 - 5e-9 */
    cb_normal_errors_add(&normals, one, opposite, 1);
    assert_near(normals.angle, 180 + atan(1e-4) * 180 / M_PI, 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CORE_TEST(depths_are_judged_as_by_numpy),          CORE_TEST(depths_that_are_none_are_wrong),
        CORE_TEST(normals_are_judged_as_by_numpy),         CORE_TEST(saliency_is_judged_as_by_scikit_learn),
        CORE_TEST(images_without_targets_are_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
