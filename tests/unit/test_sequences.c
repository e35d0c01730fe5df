/* test_sequences.c: recurrent layers, CTC, Fourier transforms and factorisations beside their values (those are op_cases.inc.h's): what cannot
 * be, empty inputs, lengths with large prime factors, infinite losses, points outside of images. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <string.h>

#include "cambium/tensor.h"

static void expect_refusal(bool given, cb_status status, const char *text)
{
    assert_false(given);
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), text))
        fail_msg("the error is \"%s\", expected \"%s\" in it", cb_error_message(), text);
    cb_error_clear();
}

static cb_tensor *lengths(int64_t a, int64_t b)
{
    return cb_from(CB_I64, ((const int64_t[]){a, b}), 2);
}

static void what_does_not_fit_a_recurrence_is_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *y, *hn, *cn, *x = cb_zeros(CB_F32, 3, 2, 4), *h = cb_zeros(CB_F32, 1, 2, 5);
    cb_recurrent_weights w = {cb_zeros(CB_F32, 20, 4), cb_zeros(CB_F32, 20, 5), NULL, cb_zeros(CB_F32, 19)};
    expect_refusal(cb_lstm(x, 1, &w, h, h, &y, &hn, &cn), CB_ERR_SHAPE, "b_hh f32(19), expected (20)");
    w.b_hh = NULL;
    expect_refusal(cb_lstm(x, 2, &w, h, h, &y, &hn, &cn), CB_ERR_SHAPE, "expected (2, 2, H)");
    expect_refusal(cb_gru(x, 1, &w, h, &y, &hn), CB_ERR_SHAPE, "w_ih f32(20, 4), expected (15, 4)");
    expect_refusal(cb_lstm(cb_zeros(CB_F32, 0, 2, 4), 1, &w, h, h, &y, &hn, &cn), CB_ERR_SHAPE, "a time at least");
    cb_tensor *narrow = cb_cast(x, CB_BF16);
    expect_refusal(cb_lstm(narrow, 100000, &w, h, h, &y, &hn, &cn), CB_ERR_SHAPE, "in 100000 layers"); /* before their weights are read */
    expect_refusal(cb_gru(narrow, INT32_MAX, &w, h, &y, &hn, .bidirectional = true), CB_ERR_SHAPE, "in 2147483647 layers");
    assert_true(cb_lstm(x, 1, &w, h, h, &y, &hn, &cn));
    assert_true(y->shape[2] == 5 && hn->ndim == 3 && cn->ndim == 3);
    cb_tensor *none = cb_zeros(CB_F32, 1, 0, 5);
    assert_true(cb_lstm(cb_zeros(CB_F32, 3, 0, 4), 1, &w, none, none, &y, &hn, &cn));
    assert_true(y->shape[1] == 0 && y->shape[2] == 5);
    cb_scope_close(scope);
}

/* Without a gradient, what stays in the caller's scope is the product of the inputs (4 H), h, c and y (3 H) of each time and row; a step's
 * own are 13 H. */
static void steps_leave_their_state_only(void **state)
{
    (void)state;
    enum { T = 32, B = 16, H = 128 };
    cb_scope *scope = cb_scope_open();
    cb_tensor *y, *hn, *cn, *x = cb_zeros(CB_F32, T, B, 4), *h = cb_zeros(CB_F32, 1, B, H);
    cb_recurrent_weights w = {cb_zeros(CB_F32, 4 * H, 4), cb_zeros(CB_F32, 4 * H, H), NULL, NULL};
    uint64_t before = cb_memory().live_bytes;
    assert_true(cb_lstm(x, 1, &w, h, h, &y, &hn, &cn));
    assert_true(cb_memory().live_bytes - before < (uint64_t)9 * T * B * H * sizeof(float));
    cb_scope_close(scope);
}

/* Dropout between layers is that of its generator: the same twice, none without. */
static void dropout_stands_between_layers(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 1};
    cb_tensor *y[3], *hn, *x = cb_randn(CB_F32, &rng, 3, 2, 4), *h = cb_zeros(CB_F32, 2, 2, 4);
    cb_recurrent_weights w = {cb_randn(CB_F32, &rng, 12, 4), cb_randn(CB_F32, &rng, 12, 4), NULL, NULL}, two[] = {w, w};
    assert_true(cb_gru(x, 2, two, h, &y[0], &hn, .dropout = 0.5, .rng = &(cb_rng){.seed = 3}));
    assert_true(cb_gru(x, 2, two, h, &y[1], &hn, .dropout = 0.5, .rng = &(cb_rng){.seed = 3}));
    assert_true(cb_gru(x, 2, two, h, &y[2], &hn, .dropout = 0.5));
    assert_memory_equal(y[0]->data, y[1]->data, 24 * sizeof(float));
    assert_memory_not_equal(y[0]->data, y[2]->data, 24 * sizeof(float));
    cb_scope_close(scope);
}

static void targets_that_do_not_fit_cost_infinity_or_nothing(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_parameter(cb_full(CB_F32, -1, 2, 2, 3)), *targets = cb_from(CB_I32, ((const int32_t[]){1, 1, 2, 1}), 2, 2);
    cb_tensor *y = cb_ctc(x, targets, lengths(2, 2), lengths(2, 2)); /* 1, 1 wants a blank between */
    assert_true(isinf(cb_get(y, 0)) && cb_get(y, 1) == 2);
    y = cb_ctc(x, targets, lengths(2, 2), lengths(2, 2), .zero_infinity = true);
    assert_true(cb_get(y, 0) == 0);
    assert_true(cb_backward(cb_sum(y, CB_ALL, false)));
    assert_true(cb_get(x->grad, 1) == 0 && cb_get(x->grad, 5) == -1);
    y = cb_ctc(x, targets, lengths(0, 0), lengths(0, 1));
    assert_true(cb_get(y, 0) == 0 && isinf(cb_get(y, 1)));
    expect_refusal(cb_ctc(x, targets, lengths(2, 3), lengths(1, 1)), CB_ERR_ARGUMENT, "input length 3 of sample 1, expected 0 to 2");
    expect_refusal(cb_ctc(x, targets, lengths(2, INT64_MAX), lengths(1, 1)), CB_ERR_ARGUMENT,
                   "input length 9223372036854775808 of sample 1");
    expect_refusal(cb_ctc(x, targets, lengths(2, 2), lengths(3, 1)), CB_ERR_ARGUMENT, "target length 3 of sample 0");
    expect_refusal(cb_ctc(cb_full(CB_F32, -1, 2, 2, 2), targets, lengths(2, 2), lengths(1, 1)), CB_ERR_ARGUMENT, "target 2 of sample 1");
    expect_refusal(cb_ctc(x, targets, lengths(2, 2), lengths(1, 1), .blank = 3), CB_ERR_ARGUMENT, "blank 3");
    expect_refusal(cb_ctc(x, cb_cast(targets, CB_F32), lengths(2, 2), lengths(1, 1)), CB_ERR_SHAPE, "integers (N, S)");
    cb_scope_close(scope);
}

/* Every length up to 70 and some with a large prime factor: the inverse undoes the transform, and a shifted impulse has the known spectrum. */
static void transforms_of_every_length_invert(void **state)
{
    (void)state;
    const int64_t more[] = {97, 128, 134, 210, 1009, 2018};
    for (int64_t i = 1; i <= 70 + 6; i++) {
        cb_scope *scope = cb_scope_open();
        int64_t n = i <= 70 ? i : more[i - 71];
        cb_tensor *x = cb_randn(CB_F64, &(cb_rng){.seed = 4}, 2, n, 2), *z = cb_fft(cb_fft(x, 1, false), 1, true);
        assert_non_null(z);
        for (int64_t j = 0; j < x->count; j++)
            assert_true(fabs(cb_get(x, j) - cb_get(z, j)) < 1e-12);
        cb_tensor *impulse = cb_pad(cb_ones(CB_F64, 1), 0, n / 3, n - 1 - n / 3, 0), *spectrum = cb_rfft(impulse, 1);
        for (int64_t k = 0; k <= n / 2; k++) {
            double angle = -2 * M_PI * (double)(k * (n / 3) % n) / (double)n;
            assert_true(fabs(cb_get(spectrum, 2 * k) - cos(angle)) < 1e-12 && fabs(cb_get(spectrum, 2 * k + 1) - sin(angle)) < 1e-12);
        }
        cb_scope_close(scope);
    }
    expect_refusal(cb_fft(cb_zeros(CB_F32, 3, 0, 2), 1, false), CB_ERR_SHAPE, "fft: f32(3, 0, 2)");
    expect_refusal(cb_irfft(cb_zeros(CB_F32, 4, 2), 1, 8), CB_ERR_SHAPE, "expected (..., 5, 2)");
    assert_true(cb_fft(cb_zeros(CB_F32, 0, 3, 2), 1, false)->count == 0);
    cb_scope_close(NULL);
}

static void matrices_without_a_factor_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *indefinite = cb_from(CB_F64, ((double[]){1, 2, 2, 1}), 2, 2), *w, *v;
    expect_refusal(cb_cholesky(indefinite), CB_ERR_NUMERIC, "not positive definite (its leading minor of order 2)");
    expect_refusal(cb_cholesky(cb_zeros(CB_F64, 2, 3)), CB_ERR_SHAPE, "a square matrix");
    expect_refusal(cb_eigh(cb_full(CB_F32, NAN, 2, 2), &w, &v), CB_ERR_NUMERIC, "not finite");
    expect_refusal(cb_solve_triangular(indefinite, cb_zeros(CB_F64, 2, 2), false), CB_ERR_NUMERIC, "R is 0 at diagonal element 1");
    assert_true(cb_eigh(indefinite, &w, &v));
    assert_true(fabs(cb_get(w, 0) + 1) < 1e-14 && fabs(cb_get(w, 1) - 3) < 1e-14);
    assert_true(cb_eigh(cb_zeros(CB_F32, 0, 0), &w, &v) && v->count == 0);
    assert_true(cb_cholesky(cb_zeros(CB_F32, 0, 0))->count == 0);
    cb_scope_close(scope);
}

static void points_outside_and_no_numbers_read_zero_or_the_border(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_from(CB_F32, ((float[]){1, 2, 3, 4}), 1, 1, 2, 2);
    cb_tensor *grid = cb_from(CB_F32, ((float[]){9, 9, NAN, 0, -1, -1, 1e30F, 0}), 1, 1, 4, 2);
    cb_tensor *y = cb_grid_sample(x, grid, .mode = CB_LINEAR, .align_corners = true);
    assert_true(cb_get(y, 0) == 0 && cb_get(y, 1) == 0 && cb_get(y, 2) == 1 && cb_get(y, 3) == 0);
    y = cb_grid_sample(x, grid, .mode = CB_LINEAR, .outside = CB_OUTSIDE_BORDER, .align_corners = true);
    assert_true(cb_get(y, 0) == 4 && cb_get(y, 2) == 1 && cb_get(y, 3) == 3);
    assert_true(cb_grid_sample(cb_zeros(CB_F32, 0, 1, 2, 2), cb_zeros(CB_F32, 0, 3, 3, 2))->count == 0);
    expect_refusal(cb_grid_sample(x, cb_zeros(CB_F32, 1, 2, 2, 3)), CB_ERR_SHAPE, "(N, OH, OW, 2)");
    expect_refusal(cb_grid_sample(x, grid, .mode = CB_CUBIC), CB_ERR_UNSUPPORTED, "nearest or linear");
    expect_refusal(cb_affine_grid(cb_zeros(CB_F32, 1, 3, 3), 2, 2, false), CB_ERR_SHAPE, "(N, 2, 3)");
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_fit_a_recurrence_is_refused),
        cmocka_unit_test(steps_leave_their_state_only),
        cmocka_unit_test(dropout_stands_between_layers),
        cmocka_unit_test(targets_that_do_not_fit_cost_infinity_or_nothing),
        cmocka_unit_test(transforms_of_every_length_invert),
        cmocka_unit_test(matrices_without_a_factor_are_refused),
        cmocka_unit_test(points_outside_and_no_numbers_read_zero_or_the_border),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
