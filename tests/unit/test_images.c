/* test_images.c: what operations on images do beside their values (those are op_cases.inc.h's): the order of memory, empty and smallest
 * images, what cannot be, NaN, running statistics, and that steps in steady state ask the system for nothing. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <string.h>

#include "about.h"
#include "tensor/op.h"

static cb_tensor *random_tensor(uint64_t seed, int ndim, const int64_t *shape)
{
    return cb_randn_nd(CB_F32, &(cb_rng){.seed = seed}, ndim, shape);
}
#define RANDOM(seed, ...) random_tensor(seed, CB_SHAPE(__VA_ARGS__))

static void expect_refusal(cb_tensor *y, cb_status status, const char *text)
{
    assert_null(y);
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), text))
        fail_msg("the error is \"%s\", expected \"%s\" in it", cb_error_message(), text);
    cb_error_clear();
}

static cb_tensor *small_network(cb_tensor *x, cb_tensor *w, cb_tensor *v)
{
    cb_tensor *y = cb_relu(cb_batch_norm(cb_conv(x, w, NULL, .padding = {1, 1}), NULL, NULL));
    cb_tensor *z = cb_add(y, cb_conv(y, v, NULL, .padding = {1, 1}));
    return cb_max_pool(cb_hard_swish(z), .kernel = {2, 2});
}

static void a_network_stays_channels_last(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = RANDOM(1, 2, 3, 6, 8), *w = RANDOM(2, 5, 3, 3, 3), *v = RANDOM(3, 5, 5, 3, 3);
    cb_tensor *y = small_network(x, w, v), *again = small_network(cb_channels_last(x), w, v);
    assert_non_null(y);
    assert_true(cb_is_channels_last(y));
    float a[2 * 5 * 3 * 4], b[2 * 5 * 3 * 4];
    assert_true(cb_read(y, CB_F32, a) && cb_read(again, CB_F32, b));
    assert_memory_equal(a, b, sizeof a);
    assert_true(cb_is_channels_last(cb_cast(y, CB_BF16)) && cb_is_channels_last(cb_avg_pool(y, .kernel = {2, 2})));
    assert_true(cb_is_contiguous(cb_adaptive_avg_pool(y, 1, 1)) && cb_is_contiguous(cb_contiguous(y)));
    cb_scope_close(scope);
}

static void empty_batches_give_empty_results_and_no_gradient(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_parameter(cb_zeros(CB_F32, 0, 3, 6, 8)), *w = cb_parameter(RANDOM(2, 5, 3, 3, 3)), *v = RANDOM(3, 5, 5, 3, 3);
    cb_tensor *y = cb_interpolate(small_network(x, w, v), .size = {7, 7}, .mode = CB_LINEAR);
    y = cb_group_norm(cb_adaptive_avg_pool(cb_conv_transpose(y, cb_zeros(CB_F32, 5, 4, 2, 2), NULL), 1, 1), 2, NULL, NULL, 1e-5);
    assert_non_null(y);
    assert_true(y->shape[0] == 0 && y->shape[1] == 4 && y->ndim == 4);
    assert_true(cb_backward(cb_sum(y, CB_ALL, false)));
    float g[5 * 3 * 3 * 3];
    assert_true(cb_read(w->grad, CB_F32, g));
    for (size_t i = 0; i < sizeof g / sizeof *g; i++)
        assert_true(g[i] == 0);
    cb_zero_grad(w);
    cb_scope_close(scope);
}

static void an_image_of_one_place_is_an_image(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_full(CB_F32, 2, 1, 1, 1, 1), *w = cb_full(CB_F32, 3, 1, 1, 3, 3);
    assert_true(cb_item(cb_conv(x, w, NULL, .padding = {1, 1})) == 6);
    assert_true(cb_item(cb_max_pool(x, .kernel = {3, 3}, .padding = {1, 1})) == 2);
    assert_true(cb_item(cb_avg_pool(x, .kernel = {3, 3}, .padding = {1, 1}, .exclude_padding = true)) == 2);
    assert_true(cb_item(cb_mean(cb_interpolate(x, .size = {4, 5}, .mode = CB_CUBIC), CB_ALL, false)) == 2);
    assert_true(cb_item(cb_batch_norm(x, NULL, cb_full(CB_F32, 7, 1))) == 7);
    cb_scope_close(scope);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = RANDOM(1, 2, 4, 3, 5), *w = RANDOM(2, 6, 4, 4, 1), *mean = cb_zeros(CB_F32, 3);
    expect_refusal(cb_conv(x, w, NULL), CB_ERR_SHAPE, "a kernel of (4, 1) does not fit an input of (3, 5)");
    expect_refusal(cb_conv(x, w, NULL, .groups = 3), CB_ERR_SHAPE, "3 groups");
    expect_refusal(cb_conv(x, w, cb_zeros(CB_F32, 5)), CB_ERR_SHAPE, "expected (6)");
    expect_refusal(cb_conv(x, w, NULL, .padding = {-1, 0}), CB_ERR_SHAPE, "paddings of 0 or more");
    expect_refusal(cb_conv_transpose(x, cb_zeros(CB_F32, 4, 2, 2, 2), NULL, .output_padding = {1, 0}), CB_ERR_SHAPE, "below the stride");
    expect_refusal(cb_conv_transpose(x, w, NULL), CB_ERR_SHAPE, "(C, O / groups, ...)");
    expect_refusal(cb_max_pool(x, .kernel = {4, 1}), CB_ERR_SHAPE, "windows of 4");
    expect_refusal(cb_max_pool(cb_ones(CB_F32, 1, 1, 1), .kernel = {2}, .padding = {1}, .dilation = {2}), CB_ERR_SHAPE,
                   "an element in each");
    expect_refusal(
        cb_max_pool(cb_ones(CB_F32, 1, 1, 3, 3, 3), .kernel = {INT32_MAX, INT32_MAX, 4}, .padding = {INT32_MAX / 2, INT32_MAX / 2, 2}),
        CB_ERR_SHAPE, "fewer than 2^31 places");
    expect_refusal(cb_avg_pool(x, .kernel = {2, 2}, .padding = {2, 0}), CB_ERR_SHAPE, "at most half");
    expect_refusal(cb_adaptive_avg_pool(x, 0, 1), CB_ERR_SHAPE, "all above 0");
    expect_refusal(cb_interpolate(x, .size = {2, 2}, .align_corners = true), CB_ERR_ARGUMENT, "not with nearest");
    expect_refusal(cb_group_norm(x, 3, NULL, NULL, 1e-5), CB_ERR_SHAPE, "3 groups");
    expect_refusal(cb_batch_norm(x, NULL, NULL, .running_weight = 0.5), CB_ERR_SHAPE, "running_mean NULL");
    expect_refusal(cb_batch_norm(x, NULL, NULL, .running_mean = mean, .running_var = mean, .running_weight = 1), CB_ERR_SHAPE,
                   "expected f32 (4)");
    expect_refusal(cb_batch_norm(cb_zeros(CB_F32, 1, 3), NULL, NULL, .running_mean = mean, .running_var = mean, .momentum = 0.1),
                   CB_ERR_SHAPE, "one value for each channel");
    cb_scope_close(scope);
}

/* Empty tensors may have sizes whose products wrap around to something that fits. */
static void products_that_overflow_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    const int64_t quarter = INT64_C(1) << 62, half = INT32_MAX - 1, padding = (INT64_C(1) << 30) + 1; /* half + 2 padding = 2^32 */
    cb_tensor *long_one = cb_zeros(CB_F32, 0, 1, quarter / 4 + 1), *w = cb_zeros(CB_F32, 1, 1, 1);
    expect_refusal(cb_conv_transpose(long_one, w, NULL, .stride = {16}), CB_ERR_SHAPE, "does not fit");
    expect_refusal(cb_conv_transpose(cb_zeros(CB_F32, 0, 0, 3), cb_zeros(CB_F32, 0, 4, 1), NULL, .groups = quarter), CB_ERR_SHAPE,
                   "4611686018427387904 groups");
    expect_refusal(cb_col2im(cb_zeros(CB_F32, 0, 3, 0), half, half, 1, 1, (cb_conv_options){.padding = {padding, padding}}), CB_ERR_SHAPE,
                   "more than can be counted");
    cb_scope_close(scope);
}

static void a_nan_is_the_largest_of_its_window(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    float image[] = {1, NAN, 3, 4, 5, 6, -INFINITY, -INFINITY};
    cb_tensor *y = cb_max_pool(cb_from(CB_F32, image, 1, 1, 2, 4), .kernel = {2, 2});
    assert_true(isnan(cb_get(y, 0)) && cb_get(y, 1) == 4);
    y = cb_max_pool(cb_from(CB_F32, image + 6, 1, 1, 1, 2), .kernel = {1, 2});
    assert_true(cb_item(y) == (double)-INFINITY);
    y = cb_conv(cb_from(CB_F32, image, 1, 1, 2, 4), cb_ones(CB_F32, 1, 1, 1, 1), NULL);
    assert_true(isnan(cb_get(y, 1)) && cb_get(y, 0) == 1);
    cb_scope_close(scope);
}

/* As torch: the mean of (1, 3) is 2, its unbiased variance 2. */
static void running_statistics_follow_the_batch(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_from(CB_F32, ((float[]){1, 3}), 2, 1), *mean = cb_zeros(CB_F32, 1), *var = cb_ones(CB_F32, 1);
    cb_tensor *y = cb_batch_norm(x, NULL, NULL, .running_mean = mean, .running_var = var, .momentum = 0.25);
    assert_about((float)cb_get(y, 1), 1 / sqrtf(1 + 1e-5F), 1e-6F);
    assert_about((float)cb_item(mean), 0.5F, 1e-7F);
    assert_about((float)cb_item(var), 0.75F + 0.5F, 1e-7F);
    y = cb_batch_norm(x, NULL, NULL, .running_mean = mean, .running_var = var, .running_weight = 1);
    assert_about((float)cb_get(y, 1), 2.5F / sqrtf(1.25F + 1e-5F), 1e-6F);
    assert_about((float)cb_item(mean), 0.5F, 1e-7F);
    cb_scope_close(scope);
}

static void a_mix_is_with_the_statistics_as_given(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_from(CB_F32, ((float[]){1, 3}), 2, 1), *mean = cb_zeros(CB_F32, 1), *var = cb_full(CB_F32, 3, 1);
    cb_tensor *y = cb_batch_norm(x, NULL, NULL, .running_mean = mean, .running_var = var, .momentum = 0.25, .running_weight = 0.5);
    assert_about((float)cb_get(y, 1), 2 / sqrtf(2 + 1e-5F), 1e-6F);
    assert_about((float)cb_item(mean), 0.5F, 1e-7F);
    assert_about((float)cb_item(var), 0.75F * 3 + 0.5F, 1e-7F);
    cb_scope_close(scope);
}

static cb_tensor *norm_that_learns(void *user, cb_tensor *const *x)
{
    cb_tensor **running = user;
    return cb_batch_norm(x[0], NULL, NULL, .running_mean = running[0], .running_var = running[1], .momentum = 0.25);
}

static void a_checkpoint_moves_running_statistics_once(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_parameter(cb_from(CB_F32, ((float[]){1, 3}), 2, 1)), *running[] = {cb_zeros(CB_F32, 1), cb_ones(CB_F32, 1)};
    cb_tensor *y = cb_checkpoint(norm_that_learns, running, 1, &x, NULL);
    assert_true(cb_backward(cb_sum(cb_square(y), CB_ALL, false)));
    assert_about((float)cb_item(running[0]), 0.5F, 1e-7F);
    assert_about((float)cb_item(running[1]), 1.25F, 1e-7F);
    norm_that_learns(running, &x); /* and again after it */
    assert_about((float)cb_item(running[0]), 0.875F, 1e-7F);
    cb_zero_grad(x);
    cb_scope_close(scope);
}

/* dx = dy w r has no x in it, whatever else wants a gradient. */
static void infinities_stay_out_of_the_gradient_of_running_statistics(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *mean = cb_zeros(CB_F32, 1), *var = cb_full(CB_F32, 4, 1);
    for (int wanted = 0; wanted < 4; wanted++) {
        cb_tensor *x = cb_parameter(cb_from(CB_F32, ((float[]){INFINITY, 3}), 2, 1)), *w = cb_full(CB_F32, 6, 1), *b = cb_zeros(CB_F32, 1);
        if (wanted & 1)
            cb_parameter(w);
        if (wanted & 2)
            cb_parameter(b);
        cb_tensor *y = cb_batch_norm(x, w, b, .running_mean = mean, .running_var = var, .running_weight = 1);
        assert_true(cb_backward(cb_sum(y, CB_ALL, false)));
        for (int i = 0; i < 2; i++)
            assert_about(cb_get(x->grad, i), 6 / sqrt(4 + 1e-5), 1e-6);
        assert_true(!(wanted & 2) || cb_item(b->grad) == 2);
        cb_zero_grad(x);
        cb_zero_grad(w);
        cb_zero_grad(b);
    }
    cb_scope_close(scope);
}

static void steps_in_steady_state_ask_the_system_for_nothing(void **state)
{
    (void)state;
#ifndef __SANITIZE_ADDRESS__ /* there every block comes from the system */
    cb_scope *outer = cb_scope_open();
    cb_tensor *x = RANDOM(1, 4, 3, 16, 16), *w = cb_parameter(RANDOM(2, 16, 3, 3, 3)), *v = cb_parameter(RANDOM(3, 16, 16, 3, 3));
    uint64_t warm = 0;
    for (int step = 0; step < 6; step++) {
        cb_scope *scope = cb_scope_open();
        assert_true(cb_backward(cb_mean(cb_square(small_network(x, w, v)), CB_ALL, false)));
        cb_zero_grad(w);
        cb_zero_grad(v);
        cb_scope_close(scope);
        if (step == 2)
            warm = cb_memory().system_allocations;
    }
    assert_int_equal(cb_memory().system_allocations, warm);
    cb_scope_close(outer);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_network_stays_channels_last),
        cmocka_unit_test(empty_batches_give_empty_results_and_no_gradient),
        cmocka_unit_test(an_image_of_one_place_is_an_image),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(products_that_overflow_are_refused),
        cmocka_unit_test(a_nan_is_the_largest_of_its_window),
        cmocka_unit_test(running_statistics_follow_the_batch),
        cmocka_unit_test(a_mix_is_with_the_statistics_as_given),
        cmocka_unit_test(a_checkpoint_moves_running_statistics_once),
        cmocka_unit_test(infinities_stay_out_of_the_gradient_of_running_statistics),
        cmocka_unit_test(steps_in_steady_state_ask_the_system_for_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
