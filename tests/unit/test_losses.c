/* test_losses.c: the losses, asked what the operations are asked (op_cases.h), and their errors. */
#include <math.h>
#include <string.h>

#include "op_cases.h"

static void values_and_gradients_are_pytorchs(void **state)
{
    (void)state;
    compare_every_case(loss_cases, loss_case_count, CB_TEST_DATA "/ops/losses.safetensors");
}

static void gradients_are_derivatives(void **state)
{
    (void)state;
    ask_every_case(loss_cases, loss_case_count, gradient_is_the_derivative);
}

static bool has_a_second_gradient(const op_case *c)
{
    bool *seen = cb_calloc(cb_op_table_count, sizeof *seen);
    assert_non_null(seen);
    bool ok = records_its_op(c, seen);
    for (size_t i = 0; i < cb_op_table_count; i++)
        if (seen[i] && !cb_op_table[i]->twice) {
            print_error("%s: %s has no second derivative\n", c->name, cb_op_table[i]->name);
            ok = false;
        }
    cb_free(seen);
    return ok && second_gradient_is_the_derivative(c);
}

static void every_loss_can_be_differentiated_twice(void **state)
{
    (void)state;
    ask_every_case(loss_cases, loss_case_count, has_a_second_gradient);
}

static void every_dtype_computes_what_f64_does(void **state)
{
    (void)state;
    ask_every_case(loss_cases, loss_case_count, every_dtype_agrees_with_f64);
}

static void a_failed_allocation_is_an_error_and_leaks_nothing(void **state)
{
    (void)state;
    ask_every_case(loss_cases, loss_case_count, survives_failed_allocations);
}

/* ---- edges ---- */

static void assert_near(double got, double expected, double allowed)
{
    if (!(fabs(got - expected) <= allowed))
        fail_msg("%.9g, expected %.9g within %.3g", got, expected, allowed);
}

static double gradient_of(cb_tensor *loss, cb_tensor *x, int64_t index)
{
    cb_tensor *g = NULL;
    assert_true(cb_grad_of(1, &loss, NULL, 1, &x, &g, (cb_grad_options){0}));
    return cb_get(g, index);
}

/* 0 log 0 is 0: F.kl_div([log 0.5, log 0.5], [0, 1], reduction="sum") = log 2. */
static void a_zero_probability_costs_nothing(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    const double p[] = {0, 1}, half[] = {log(0.5), log(0.5)};
    cb_tensor *input = cb_parameter(cb_from(CB_F64, half, 1, 2)), *target = cb_parameter(cb_from(CB_F64, p, 1, 2));
    cb_tensor *loss = cb_kl_div_loss(input, target, false, CB_REDUCE_SUM);
    assert_near(cb_item(loss), log(2), 1e-15);
    assert_true(isfinite(gradient_of(loss, target, 0)));
    loss = cb_kl_div_loss(input, target, false, CB_REDUCE_SUM);
    assert_near(gradient_of(loss, input, 0), 0, 0);
    cb_scope_close(scope);
}

/* A vector of zeros has no direction: the cosine is 0 and its gradient is finite. */
static void zero_vectors_have_finite_gradients(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *a = cb_parameter(cb_zeros(CB_F32, 1, 3)), *b = cb_ones(CB_F32, 1, 3), *target = cb_ones(CB_F32, 1);
    cb_tensor *cosine = cb_cosine_similarity(a, b, -1, 1e-8);
    assert_near(cb_item(cosine), 0, 0);
    assert_true(isfinite(gradient_of(cosine, a, 0)));
    cb_tensor *loss = cb_cosine_embedding_loss(a, b, target, 0, CB_REDUCE_MEAN);
    assert_near(cb_item(loss), 1, 0);
    assert_true(isfinite(gradient_of(loss, a, 0)));
    cb_scope_close(scope);
}

/* f32 logits so large that exp overflows: the loss is |x| where the target is on the other side, 0 where it is not. */
static void large_logits_do_not_overflow(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    const float logits[] = {-1e4f, 1e4f, -1e4f, 1e4f}, target[] = {0, 1, 1, 0}, expected[] = {0, 0, 1e4f, 1e4f};
    cb_tensor *x = cb_from(CB_F32, logits, 4), *t = cb_from(CB_F32, target, 4);
    cb_tensor *loss = cb_bce_with_logits_loss(x, t, 1, CB_REDUCE_NONE);
    for (int i = 0; i < 4; i++)
        assert_near(cb_get(loss, i), expected[i], 0);
    const float rows[] = {0, 1e4f, -1e4f}, onto[] = {0, 1, 0};
    loss = cb_soft_cross_entropy(cb_from(CB_F32, rows, 1, 3), cb_from(CB_F32, onto, 1, 3), 0, CB_REDUCE_MEAN);
    assert_near(cb_item(loss), 0, 0);
    cb_scope_close(scope);
}

/* ---- errors ---- */

static void expect_failure(const cb_tensor *result, cb_status status, const char *part)
{
    assert_null(result);
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

static void misfits_are_refused_with_both_shapes(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_zeros(CB_F32, 2, 3), *wide = cb_zeros(CB_F32, 2, 4), *f64 = cb_zeros(CB_F64, 2, 3), *ids = cb_zeros(CB_I64, 2, 3);
    cb_tensor *scalar = cb_scalar(CB_F32, 0), *rows = cb_zeros(CB_F32, 2);
    expect_failure(cb_mse_loss(x, wide, CB_REDUCE_MEAN), CB_ERR_SHAPE, "mse_loss: input f32(2, 3) and target f32(2, 4)");
    expect_failure(cb_l1_loss(x, f64, CB_REDUCE_MEAN), CB_ERR_SHAPE, "l1_loss: input f32(2, 3) and target f64(2, 3)");
    expect_failure(cb_huber_loss(ids, ids, 1, CB_REDUCE_MEAN), CB_ERR_SHAPE, "huber_loss: input i64(2, 3)");
    expect_failure(cb_bce_with_logits_loss(x, rows, 1, CB_REDUCE_SUM), CB_ERR_SHAPE, "bce_with_logits_loss");
    expect_failure(cb_kl_div_loss(scalar, scalar, false, CB_REDUCE_MEAN), CB_ERR_SHAPE, "kl_div_loss: input f32()");
    expect_failure(cb_soft_cross_entropy(x, wide, 0, CB_REDUCE_MEAN), CB_ERR_SHAPE, "soft_cross_entropy");
    expect_failure(cb_cosine_similarity(x, wide, -1, 1e-8), CB_ERR_SHAPE, "cosine_similarity");
    expect_failure(cb_cosine_similarity(x, x, 2, 1e-8), CB_ERR_SHAPE, "dimension 2");
    expect_failure(cb_cosine_embedding_loss(x, x, x, 0, CB_REDUCE_MEAN), CB_ERR_SHAPE, "target f32(2, 3), expected (N, C) and (N)");
    cb_scope_close(scope);
}

static void numbers_out_of_range_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_zeros(CB_F32, 2, 3);
    expect_failure(cb_huber_loss(x, x, 0, CB_REDUCE_MEAN), CB_ERR_ARGUMENT, "delta is 0");
    expect_failure(cb_huber_loss(x, x, NAN, CB_REDUCE_MEAN), CB_ERR_ARGUMENT, "delta is nan");
    expect_failure(cb_soft_cross_entropy(x, x, 1.5, CB_REDUCE_MEAN), CB_ERR_ARGUMENT, "label_smoothing is 1.5");
    expect_failure(cb_cosine_similarity(x, x, -1, 0), CB_ERR_ARGUMENT, "eps is 0");
    expect_failure(cb_mse_loss(x, x, (cb_reduction)7), CB_ERR_ARGUMENT, "mse_loss: reduction 7");
    cb_scope_close(scope);
}

static void nothing_comes_of_nothing(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_zeros(CB_F32, 2, 3);
    assert_null(cb_mse_loss(NULL, x, CB_REDUCE_MEAN));
    assert_null(cb_l1_loss(x, NULL, CB_REDUCE_MEAN));
    assert_null(cb_huber_loss(NULL, x, 1, CB_REDUCE_MEAN));
    assert_null(cb_bce_with_logits_loss(x, NULL, 1, CB_REDUCE_MEAN));
    assert_null(cb_kl_div_loss(NULL, x, true, CB_REDUCE_MEAN));
    assert_null(cb_cosine_similarity(x, NULL, 0, 1));
    assert_null(cb_cosine_embedding_loss(x, x, NULL, 0, CB_REDUCE_MEAN));
    assert_null(cb_soft_cross_entropy(NULL, x, 0, CB_REDUCE_MEAN));
    assert_true(cb_ok());
    cb_scope_close(scope);
}

static int clear_error(void **state)
{
    (void)state;
    cb_error_clear();
    return 0;
}

#define TEST(function) cmocka_unit_test_setup(function, clear_error)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(values_and_gradients_are_pytorchs),
        TEST(gradients_are_derivatives),
        TEST(every_loss_can_be_differentiated_twice),
        TEST(every_dtype_computes_what_f64_does),
        TEST(a_failed_allocation_is_an_error_and_leaks_nothing),
        TEST(a_zero_probability_costs_nothing),
        TEST(zero_vectors_have_finite_gradients),
        TEST(large_logits_do_not_overflow),
        TEST(misfits_are_refused_with_both_shapes),
        TEST(numbers_out_of_range_are_refused),
        TEST(nothing_comes_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
