/* test_tensor.c: scopes and ownership, views, the tape, checkpoints, and what happens when memory runs out at any point.
 * What operations compute is the business of test_ops.c.  Expected numbers are closed forms.  Every test runs inside a
 * scope and must leave as many bytes allocated as it found. */

/* cmocka.h wants these before it */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "cambium/tensor.h"
#include "kernels/kernels.h"

#define assert_ok()                                                                                                                        \
    do {                                                                                                                                   \
        if (!cb_ok())                                                                                                                      \
            fail_msg("%s", cb_error_message());                                                                                            \
    } while (0)

typedef struct surroundings {
    uint64_t live_bytes;
    cb_scope *scope;
} surroundings;

static surroundings around;

static uint64_t live(void)
{
    return cb_memory().live_bytes;
}

static int begin(void **state)
{
    (void)state;
    cb_error_clear();
    cbk_gemm_flush();
    around.live_bytes = live();
    around.scope = cb_scope_open();
    return around.scope ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    cb_memory_fail_after(0);
    cb_error_clear();
    cb_scope_close(around.scope);
    cbk_gemm_flush();
    if (live() == around.live_bytes)
        return 0;
    print_error("%lld bytes more are allocated than before\n", (long long)(live() - around.live_bytes));
    return -1;
}

#define TENSOR_TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

static void assert_failed(cb_status status, const char *words)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), words))
        fail_msg("the message is \"%s\", expected it to contain \"%s\"", cb_error_message(), words);
    cb_error_clear();
}

static void assert_near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-12 * (1 + fabs(expected))))
        fail_msg("%.17g, expected %.17g", value, expected);
}

static void assert_values(const cb_tensor *x, const double *expected, int64_t count)
{
    assert_ok();
    assert_non_null(x);
    assert_int_equal(x->count, count);
    for (int64_t i = 0; i < count; i++)
        assert_near(cb_get(x, i), expected[i]);
}
#define ASSERT_VALUES(x, ...) assert_values(x, (const double[]){__VA_ARGS__}, sizeof((double[]){__VA_ARGS__}) / sizeof(double))

static void assert_same_bits(const cb_tensor *a, const cb_tensor *b)
{
    assert_ok();
    assert_non_null(a);
    assert_non_null(b);
    assert_true(cb_same_shape(a, b) && a->dtype == b->dtype && cb_is_contiguous(a) && cb_is_contiguous(b));
    assert_memory_equal(a->data, b->data, (size_t)a->count * cb_dtype_size(a->dtype));
}

/* An f64 vector; the macro's leaf requires a gradient. */
#define VECTOR(...) cb_from(CB_F64, ((const double[]){__VA_ARGS__}), (int64_t)(sizeof((const double[]){__VA_ARGS__}) / sizeof(double)))
#define LEAF(...)   cb_parameter(VECTOR(__VA_ARGS__))

static cb_tensor *sum(cb_tensor *x)
{
    return cb_sum(x, CB_ALL, false);
}

static cb_tensor *gradient(cb_tensor *y, cb_tensor *dy, cb_tensor *x, cb_grad_options options)
{
    cb_tensor *g = NULL;
    cb_grad_of(1, &y, &dy, 1, &x, &g, options);
    return g;
}

/* ---- scopes and ownership ---- */

static void closing_a_scope_frees_what_was_made_in_it(void **state)
{
    (void)state;
    uint64_t before = live();
    cb_scope *scope = cb_scope_open();
    for (int i = 0; i < 100; i++)
        cb_zeros(CB_F32, 1000);
    assert_true(live() >= before + 400000);
    cb_scope_close(scope);
    assert_int_equal(live(), before);
}

static void a_returned_result_outlives_its_scope(void **state)
{
    (void)state;
    cb_scope *outer = cb_scope_open(), *inner = cb_scope_open();
    cb_tensor *y = cb_scope_return(inner, cb_scale(VECTOR(1, 2, 3), 2));
    cb_scope_close(inner);
    ASSERT_VALUES(y, 2, 4, 6);
    uint64_t with_y = live();
    cb_scope_close(outer);
    assert_true(live() < with_y);
    assert_null(cb_scope_return(around.scope, NULL));
}

static void a_result_climbs_through_nested_scopes(void **state)
{
    (void)state;
    enum { DEPTH = 50 };
    cb_scope *scope[DEPTH];
    for (int i = 0; i < DEPTH; i++)
        scope[i] = cb_scope_open();
    cb_tensor *y = VECTOR(7);
    for (int i = DEPTH - 1; i >= 0; i--) {
        assert_ptr_equal(cb_scope_return(scope[i], y), y);
        cb_scope_close(scope[i]);
    }
    ASSERT_VALUES(y, 7);
}

static void an_inner_scope_left_open_closes_with_the_outer_one(void **state)
{
    (void)state;
    uint64_t before = live();
    cb_scope *outer = cb_scope_open();
    cb_scope_open();
    cb_zeros(CB_F32, 1000);
    cb_scope_open();
    cb_zeros(CB_F32, 1000);
    cb_scope_close(outer);
    assert_int_equal(live(), before);
    assert_ok();
}

static void closing_what_is_not_open_is_an_error(void **state)
{
    (void)state;
    int nothing = 0;
    cb_scope_close((cb_scope *)&nothing);
    assert_failed(CB_ERR_STATE, "not open on this thread");
    ASSERT_VALUES(VECTOR(1), 1); /* and the open one is still open */
}

static void *make_without_a_scope(void *used)
{
    uint64_t before = live();
    for (int i = 0; i < 10; i++)
        cb_add(VECTOR(1, 2), VECTOR(3, 4));
    bool more = live() > before;
    cb_scope_close(NULL);
    *(bool *)used = more && live() == before && cb_ok();
    return NULL;
}

static void a_thread_without_a_scope_has_a_root_that_can_be_emptied(void **state)
{
    (void)state;
    pthread_t thread;
    bool used = false;
    assert_int_equal(pthread_create(&thread, NULL, make_without_a_scope, &used), 0);
    pthread_join(thread, NULL);
    assert_true(used);
}

static void closing_null_leaves_open_scopes_alone(void **state)
{
    (void)state;
    cb_tensor *x = VECTOR(1, 2);
    cb_scope_close(NULL);
    ASSERT_VALUES(x, 1, 2);
}

static void a_kept_tensor_outlives_every_scope(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = cb_keep(VECTOR(1, 2));
    cb_scope_close(scope);
    ASSERT_VALUES(x, 1, 2);
    cb_release(x);
    cb_release(NULL);
    assert_null(cb_keep(NULL));
}

static void a_view_keeps_the_memory_it_looks_at(void **state)
{
    (void)state;
    cb_scope *outer = cb_scope_open(), *inner = cb_scope_open();
    cb_tensor *x = VECTOR(1, 2, 3, 4, 5, 6);
    cb_tensor *y = cb_scope_return(inner, cb_slice(cb_reshape(x, 2, 3), 1, 1, 3, 1));
    cb_scope_close(inner);
    ASSERT_VALUES(y, 2, 3, 5, 6);
    cb_scope_close(outer);
}

static void the_tape_keeps_what_the_backward_pass_needs(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2, 3);
    cb_scope *inner = cb_scope_open();
    cb_tensor *loss = cb_scope_return(inner, sum(cb_exp(cb_square(x))));
    cb_scope_close(inner);
    assert_true(cb_backward(loss));
    ASSERT_VALUES(x->grad, 2 * exp(1), 4 * exp(4), 6 * exp(9));
}

static void a_frozen_pass_keeps_nothing(void **state)
{
    (void)state;
    cb_tensor *x = cb_zeros(CB_F32, 1000);
    uint64_t before = live();
    cb_scope *inner = cb_scope_open();
    cb_tensor *y = cb_scope_return(inner, cb_mean(cb_exp(cb_square(cb_add(x, x))), CB_ALL, false));
    cb_scope_close(inner);
    assert_false(y->requires_grad);
    assert_true(live() < before + 2000); /* y's headers, not 1000 elements of anything */
}

/* ---- making, reading, writing ---- */

static void wrapped_memory_is_used_in_place_and_never_written(void **state)
{
    (void)state;
    static const double data[] = {1, 2, 3};
    cb_tensor *x = cb_wrap(CB_F64, data, 3), *y = VECTOR(4, 5, 6);
    assert_ptr_equal(x->data, data);
    assert_false(cb_write(x, CB_F64, y->data));
    assert_failed(CB_ERR_STATE, "read-only");
    assert_false(cb_copy_into(cb_slice(x, 0, 0, 3, 1), y));
    assert_failed(CB_ERR_STATE, "read-only");
    ASSERT_VALUES(cb_linear_add(cb_reshape(x, 1, 3), cb_reshape(y, 1, 3), cb_reshape(VECTOR(1, 0, 0, 0, 1, 0, 0, 0, 1), 3, 3), 1), 5, 7, 9);
    ASSERT_VALUES(x, 1, 2, 3);
}

static void values_are_read_and_written_through_strides_and_types(void **state)
{
    (void)state;
    cb_tensor *x = cb_reshape(cb_arange(CB_I32, 0, 1, 6), 2, 3), *t = cb_transpose(x, 0, 1);
    ASSERT_VALUES(t, 0, 3, 1, 4, 2, 5);
    float out[6];
    assert_true(cb_read(t, CB_F32, out));
    for (int i = 0; i < 6; i++)
        assert_true(out[i] == (float)cb_get(t, i));
    assert_true(cb_write(t, CB_F32, (const float[]){10, 11, 12, 13, 14, 15}));
    ASSERT_VALUES(x, 10, 12, 14, 11, 13, 15);
    cb_tensor *column = cb_slice(x, 1, 1, 2, 1);
    assert_true(cb_copy_into(column, cb_reshape(VECTOR(-1, -2), 2, 1)));
    ASSERT_VALUES(x, 10, -1, 14, 11, -2, 15);
    assert_false(cb_copy_into(column, x));
    assert_failed(CB_ERR_SHAPE, "i32(2, 3) into i32(2, 1)");
}

static void one_element_is_asked_for_or_it_is_an_error(void **state)
{
    (void)state;
    assert_near(cb_item(cb_scalar(CB_F64, 2.5)), 2.5);
    assert_true(isnan(cb_item(VECTOR(1, 2))));
    assert_failed(CB_ERR_SHAPE, "expected one");
    assert_true(isnan(cb_get(VECTOR(1, 2), 2)));
    assert_failed(CB_ERR_ARGUMENT, "element 2 of f64(2)");
    assert_true(isnan(cb_get(VECTOR(1, 2), -1)));
    assert_failed(CB_ERR_ARGUMENT, "element -1");
}

static void impossible_shapes_are_refused(void **state)
{
    (void)state;
    const int64_t huge = (int64_t)1 << 62;
    assert_null(cb_empty(CB_F32, 2, -1));
    assert_failed(CB_ERR_SHAPE, "-1");
    assert_null(cb_empty(CB_U8, huge, 4));
    assert_failed(CB_ERR_SHAPE, "too large");
    assert_null(cb_empty(CB_F32, huge));
    assert_failed(CB_ERR_SHAPE, "too large");
    assert_null(cb_empty(CB_U8, 0, huge, huge)); /* a 0 does not excuse the strides */
    assert_failed(CB_ERR_SHAPE, "too large");
    assert_null(cb_empty(CB_F32, 1, 1, 1, 1, 1, 1, 1, 1, 1));
    assert_failed(CB_ERR_SHAPE, "9 dimensions");
    assert_null(cb_empty((cb_dtype)CB_DTYPE_COUNT, 1));
    assert_failed(CB_ERR_ARGUMENT, "dtype");
    assert_null(cb_empty(CB_U8, (int64_t)1 << 47));
    assert_failed(CB_ERR_MEMORY, "out of memory");
    assert_string_equal(cb_shape_text(cb_empty(CB_BF16, 2, 0, 3)), "bf16(2, 0, 3)");
    assert_string_equal(cb_shape_text(cb_scalar(CB_I64, 1)), "i64()");
    assert_string_equal(cb_shape_text(NULL), "NULL");
}

/* ---- views ---- */

static bool shares(const cb_tensor *a, const cb_tensor *b)
{
    assert_ok();
    return a->storage == b->storage;
}

static void reshape_copies_only_when_strides_cannot_say_it(void **state)
{
    (void)state;
    cb_tensor *x = cb_reshape(cb_arange(CB_F64, 0, 1, 24), 2, 3, 4);
    assert_true(shares(cb_reshape(x, 4, -1), x));
    cb_tensor *t = cb_permute(x, 2, 0, 1); /* (4, 2, 3), the last two lie together */
    assert_true(shares(cb_reshape(t, 4, 6), x));
    assert_true(shares(cb_reshape(t, 2, 2, 1, 3, 2), x));
    assert_false(shares(cb_reshape(t, 8, 3), x));
    ASSERT_VALUES(cb_slice(cb_reshape(t, 8, 3), 0, 3, 5, 1), 13, 17, 21, 2, 6, 10);
    cb_tensor *rows = cb_slice(x, 2, 0, 2, 1);
    assert_true(shares(cb_reshape(rows, 6, 2), x));
    assert_false(shares(cb_reshape(rows, 3, 4), x));
    assert_true(shares(cb_reshape(cb_expand(VECTOR(1, 2, 3), 4, 5, 3), 20, 3), x) == false);
    cb_tensor *v = VECTOR(1, 2, 3);
    assert_true(shares(cb_reshape(cb_expand(v, 4, 5, 3), 20, 3), v));
    ASSERT_VALUES(cb_reshape_nd(cb_scalar(CB_F64, 3), 2, (const int64_t[]){1, 1}), 3);
    ASSERT_VALUES(cb_reshape_nd(VECTOR(3), 0, NULL), 3);
}

static void what_does_not_reshape_is_refused(void **state)
{
    (void)state;
    cb_tensor *x = cb_reshape(cb_arange(CB_F64, 0, 1, 6), 2, 3);
    assert_null(cb_reshape(x, 4, -1));
    assert_failed(CB_ERR_SHAPE, "reshape: f64(2, 3) does not fit (4, -1)");
    assert_null(cb_reshape(x, -1, -1));
    assert_failed(CB_ERR_SHAPE, "(-1, -1)");
    assert_null(cb_reshape(x, -2, -3));
    assert_failed(CB_ERR_SHAPE, "(-2, -3)");
    assert_null(cb_reshape(x, (int64_t)1 << 62, (int64_t)1 << 62));
    assert_failed(CB_ERR_SHAPE, "reshape");
    assert_null(cb_reshape(cb_empty(CB_F64, 0, 2), 0, -1)); /* any number would do */
    assert_failed(CB_ERR_SHAPE, "(0, -1)");
    assert_null(cb_squeeze(x, 0));
    assert_failed(CB_ERR_SHAPE, "size 1");
    assert_null(cb_expand(x, -1, 2, 3));
    assert_failed(CB_ERR_SHAPE, "expand");
    assert_null(cb_permute(x, 0, 0));
    assert_failed(CB_ERR_SHAPE, "permute");
    assert_null(cb_slice(x, 2, 0, 1, 1));
    assert_failed(CB_ERR_SHAPE, "dimension 2");
    assert_null(cb_slice(x, 0, 0, 1, 0));
    assert_failed(CB_ERR_ARGUMENT, "step");
    assert_null(cb_pad(x, 0, -1, 0, 0));
    assert_failed(CB_ERR_SHAPE, "pad");
    cb_tensor *parts[2] = {x, x};
    assert_false(cb_split(x, 1, 2, (const int64_t[]){1, 1}, parts));
    assert_failed(CB_ERR_SHAPE, "split");
    assert_null(parts[0]);
    assert_null(parts[1]);
}

static void slices_follow_python(void **state)
{
    (void)state;
    cb_tensor *x = VECTOR(0, 1, 2, 3, 4, 5, 6);
    ASSERT_VALUES(cb_slice(x, 0, -3, INT64_MAX, 1), 4, 5, 6);
    ASSERT_VALUES(cb_slice(x, -1, 1, -1, 2), 1, 3, 5);
    ASSERT_VALUES(cb_slice(x, 0, INT64_MIN, 2, 1), 0, 1);
    ASSERT_VALUES(cb_slice(x, 0, 5, 100, INT64_MAX), 5);
    assert_int_equal(cb_slice(x, 0, 5, 2, 1)->count, 0);
    assert_int_equal(cb_slice(x, 0, 7, 9, 1)->count, 0);
}

static void what_is_already_so_comes_back_itself(void **state)
{
    (void)state;
    cb_tensor *x = cb_reshape(VECTOR(1, 2, 3, 4), 2, 2);
    assert_ptr_equal(cb_contiguous(x), x);
    assert_ptr_equal(cb_cast(x, CB_F64), x);
    cb_tensor *t = cb_contiguous(cb_transpose(x, 0, 1));
    assert_true(cb_is_contiguous(t) && !shares(t, x));
    ASSERT_VALUES(t, 1, 3, 2, 4);
}

static void a_strided_bias_is_read_by_its_stride(void **state)
{
    (void)state;
    cb_tensor *table = cb_parameter(cb_reshape(VECTOR(1, 100, 2, 200), 2, 2)), *w = cb_zeros(CB_F64, 2, 3);
    cb_tensor *bias = cb_squeeze(cb_slice(table, 1, 1, 2, 1), 1); /* its second column */
    cb_tensor *y = cb_linear(cb_ones(CB_F64, 1, 3), w, bias);
    ASSERT_VALUES(y, 100, 200);
    assert_true(cb_backward(sum(y)));
    ASSERT_VALUES(table->grad, 0, 1, 0, 1);
}

/* ---- gradients ---- */

static void gradients_add_up_until_they_are_zeroed(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2, 3);
    assert_null(x->grad);
    assert_true(cb_backward(sum(cb_square(x))));
    ASSERT_VALUES(x->grad, 2, 4, 6);
    assert_true(cb_backward(sum(cb_scale(x, 10))));
    ASSERT_VALUES(x->grad, 12, 14, 16);
    cb_zero_grad(x);
    assert_null(x->grad);
    cb_zero_grad(NULL);
    assert_true(cb_backward(sum(x)));
    ASSERT_VALUES(x->grad, 1, 1, 1);
}

static void a_tensor_used_often_gets_every_gradient(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(2, 3);
    cb_tensor *y = cb_mul(x, x);                                          /* x^2 */
    cb_tensor *loss = sum(cb_add(cb_mul(y, x), cb_add(y, cb_mul(y, y)))); /* x^3 + x^2 + x^4 */
    assert_true(cb_backward(loss));
    ASSERT_VALUES(x->grad, 12 + 4 + 32, 27 + 6 + 108);
}

/* add hands its own gradient on, here to one place twice */
static void a_tensor_added_to_itself_counts_twice(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = cb_scale(x, 3);
    assert_true(cb_backward(sum(cb_square(cb_add(y, y)))));
    ASSERT_VALUES(x->grad, 72, 144);
    cb_zero_grad(x);
    assert_true(cb_backward(sum(cb_add(x, x))));
    ASSERT_VALUES(x->grad, 2, 2);
}

/* sum's gradient is one element seen as many; a second gradient must not be added to it in place */
static void gradients_are_not_added_into_broadcast_views(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2, 3), *y = cb_scale(x, 1);
    cb_tensor *weighted = sum(cb_mul(y, VECTOR(10, 20, 30))), *plain = sum(y);
    assert_true(cb_backward(cb_add(weighted, plain)));
    ASSERT_VALUES(x->grad, 11, 21, 31);
}

static void leaves_share_no_gradient_memory(void **state)
{
    (void)state;
    cb_tensor *a = LEAF(1, 2), *b = LEAF(3, 4), *c = LEAF(5, 6);
    assert_true(cb_backward(sum(cb_square(cb_add(cb_add(a, b), cb_straight_through(cb_detach(c), c))))));
    assert_true(a->grad->storage != b->grad->storage && b->grad->storage != c->grad->storage && a->grad->storage != c->grad->storage);
    cb_write(a->grad, CB_F64, (const double[]){0, 0}); /* as clipping does */
    ASSERT_VALUES(b->grad, 18, 24);
    ASSERT_VALUES(c->grad, 18, 24);
}

static void a_graph_is_consumed_unless_it_is_retained(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *loss = sum(cb_exp(x));
    cb_grad_options retain = {.retain_graph = true};
    ASSERT_VALUES(gradient(loss, NULL, x, retain), exp(1), exp(2));
    ASSERT_VALUES(gradient(loss, NULL, x, retain), exp(1), exp(2));
    assert_null(x->grad);
    assert_true(cb_backward(loss));
    ASSERT_VALUES(x->grad, exp(1), exp(2));
    assert_false(cb_backward(loss));
    assert_failed(CB_ERR_STATE, "consumed");
    ASSERT_VALUES(x->grad, exp(1), exp(2));
}

static void a_retained_graph_can_be_run_after_gradients_were_written_to(void **state)
{
    (void)state;
    cb_tensor *logits = cb_parameter(cb_reshape(VECTOR(1, 2, 3, 4), 2, 2)), *targets = cb_from(CB_I64, ((const int64_t[]){0, 1}), 2);
    cb_tensor *loss = cb_cross_entropy_with(logits, targets, (cb_linear_cross_entropy_options){.ignore_index = -100}), *dy = NULL;
    double e = exp(1) / (1 + exp(1)) / 2;
    for (int i = 0; i < 2; i++) { /* its gradient was computed in the forward pass and saved */
        cb_grad_of(1, &loss, &dy, 0, NULL, NULL, (cb_grad_options){.retain_graph = true, .accumulate = true});
        ASSERT_VALUES(logits->grad, -e, e, 0.5 - e, e - 0.5);
        cb_write(logits->grad, CB_F64, (const double[]){0, 0, 0, 0});
    }
}

static void gradients_can_be_differentiated_again(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2, -3);
    cb_grad_options create = {.create_graph = true};
    cb_tensor *first = gradient(sum(cb_mul(x, cb_mul(x, cb_square(x)))), NULL, x, create); /* x^4 */
    ASSERT_VALUES(first, 4, 32, -108);
    cb_tensor *second = gradient(sum(first), NULL, x, create);
    ASSERT_VALUES(second, 12, 48, 108);
    cb_tensor *third = gradient(sum(second), NULL, x, create);
    ASSERT_VALUES(third, 24, 48, -72);
    assert_true(cb_backward(sum(third)));
    ASSERT_VALUES(x->grad, 24, 24, 24);
}

/* softmax saves its own output, which must know where it came from when it is differentiated again */
static void a_saved_output_has_its_history(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 0), *first_only = VECTOR(1, 0);
    cb_tensor *y = sum(cb_mul(cb_softmax(x, 0), first_only)); /* s = 1 / (1 + exp(x1 - x0)) */
    double s = 1 / (1 + exp(-1)), second = s * (1 - s) * (1 - 2 * s);
    cb_tensor *first = gradient(y, NULL, x, (cb_grad_options){.create_graph = true});
    ASSERT_VALUES(first, s * (1 - s), -s * (1 - s));
    ASSERT_VALUES(gradient(sum(cb_mul(first, first_only)), NULL, x, (cb_grad_options){0}), second, -second);
}

static void a_fused_rule_refuses_to_be_differentiated_by_name(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = sum(cb_silu_mul(x, x));
    assert_null(gradient(y, NULL, x, (cb_grad_options){.create_graph = true}));
    assert_failed(CB_ERR_UNSUPPORTED, "silu_mul has no second derivative");
}

static void gradients_of_anything_with_respect_to_anything(void **state)
{
    (void)state;
    cb_tensor *a = LEAF(1, 2), *b = LEAF(3, 4), *unused = LEAF(5);
    cb_tensor *h = cb_mul(a, b), *y = cb_square(h), *z = cb_scale(a, 7);
    cb_tensor *ys[] = {y, z}, *dys[] = {VECTOR(1, 10), VECTOR(100, 0)}, *xs[] = {a, h, unused, b}, *g[4];
    assert_true(cb_grad_of(2, ys, dys, 4, xs, g, (cb_grad_options){0}));
    ASSERT_VALUES(g[0], 2 * 3 * 3 + 700, 10 * 2 * 8 * 4);
    ASSERT_VALUES(g[1], 2 * 3, 10 * 2 * 8);
    assert_null(g[2]);
    ASSERT_VALUES(g[3], 2 * 3 * 1, 10 * 2 * 8 * 2);
    assert_null(a->grad);
    assert_null(b->grad);
    cb_tensor *twice[] = {a, a};
    y = sum(cb_square(a));
    assert_true(cb_grad_of(1, &y, NULL, 2, twice, g, (cb_grad_options){0}));
    ASSERT_VALUES(g[0], 2, 4);
    ASSERT_VALUES(g[1], 2, 4);
}

static void leaves_nobody_named_accumulate_when_asked(void **state)
{
    (void)state;
    cb_tensor *a = LEAF(1, 2), *b = LEAF(3, 4);
    cb_tensor *y = sum(cb_mul(a, b));
    ASSERT_VALUES(gradient(y, NULL, a, (cb_grad_options){.accumulate = true}), 3, 4);
    assert_null(a->grad);
    ASSERT_VALUES(b->grad, 1, 2);
}

static void impossible_requests_for_gradients_are_refused(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *frozen = VECTOR(1, 2);
    assert_false(cb_backward(cb_square(x)));
    assert_failed(CB_ERR_SHAPE, "expected one element");
    assert_false(cb_backward(sum(frozen)));
    assert_failed(CB_ERR_STATE, "requires a gradient");
    assert_false(cb_backward(NULL));
    assert_failed(CB_ERR_ARGUMENT, "NULL");
    assert_null(gradient(sum(x), NULL, frozen, (cb_grad_options){0}));
    assert_failed(CB_ERR_ARGUMENT, "input 0");
    assert_null(cb_parameter(cb_zeros(CB_I32, 2)));
    assert_failed(CB_ERR_ARGUMENT, "i32");
    assert_null(x->grad);
    cb_tensor *ys[] = {sum(x), NULL}, *g = NULL;
    assert_false(cb_grad_of(2, ys, NULL, 0, NULL, NULL, (cb_grad_options){.accumulate = true}));
    assert_failed(CB_ERR_ARGUMENT, "NULL");
    assert_null(x->grad); /* nothing ran */
    cb_tensor *wrong = VECTOR(1, 2, 3);
    assert_null(gradient(cb_square(x), wrong, x, (cb_grad_options){0}));
    assert_failed(CB_ERR_STATE, "does not fit");
    assert_null(g);
}

static cb_tensor *frozen_square(cb_tensor *x)
{
    cb_tensor *y = NULL;
    cb_no_grad
    {
        y = cb_square(x);
    }
    return y;
}

static void nothing_is_recorded_without_need(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = NULL, *z = NULL;
    assert_true(cb_grad_enabled());
    cb_no_grad
    {
        assert_false(cb_grad_enabled());
        y = cb_square(x);
        z = frozen_square(y);
        assert_false(cb_grad_enabled());
    }
    assert_true(cb_grad_enabled());
    assert_true(!y->requires_grad && !y->node && !z->requires_grad);
    assert_false(cb_add(VECTOR(1), VECTOR(2))->requires_grad);
    assert_false(cb_cast(x, CB_I64)->requires_grad);
    assert_false(cb_gt(x, y)->requires_grad);
    cb_tensor *cut = cb_detach(cb_square(x));
    assert_false(cut->requires_grad);
    assert_true(cb_backward(sum(cb_mul(x, cut))));
    ASSERT_VALUES(x->grad, 1, 4);
}

static void the_gradient_comes_back_in_the_leafs_dtype_and_shape(void **state)
{
    (void)state;
    cb_tensor *x = cb_parameter(cb_transpose(cb_reshape(cb_arange(CB_BF16, 0, 1, 6), 2, 3), 0, 1));
    assert_true(cb_backward(sum(cb_square(cb_cast(x, CB_F32)))));
    assert_int_equal(x->grad->dtype, CB_BF16);
    assert_true(cb_same_shape(x->grad, x) && cb_is_contiguous(x->grad));
    ASSERT_VALUES(x->grad, 0, 6, 2, 8, 4, 10);
}

static void views_of_a_leaf_lead_back_to_it(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2, 3, 4, 5, 6), *parts[2];
    cb_tensor *t = cb_transpose(cb_reshape(x, 2, 3), 0, 1); /* 1 4 | 2 5 | 3 6 */
    assert_true(cb_split(t, 0, 2, (const int64_t[]){1, 2}, parts));
    cb_tensor *middle = cb_slice(t, 0, 1, 2, 1);
    cb_tensor *loss = cb_add(cb_add(cb_scale(sum(parts[1]), 10), sum(cb_square(parts[0]))), cb_scale(sum(middle), 100));
    assert_true(cb_backward(loss));
    ASSERT_VALUES(x->grad, 2, 110, 10, 8, 110, 10);
}

/* ---- writing in place ---- */

static void a_change_of_what_the_tape_saved_is_reported(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = cb_scale(x, 1), *loss = sum(cb_square(y));
    cb_write(y, CB_F64, (const double[]){9, 9});
    assert_false(cb_backward(loss));
    assert_failed(CB_ERR_STATE, "square: a tensor it saved, f64(2), was changed in place");
    assert_null(x->grad);
    y = cb_softmax(x, 0); /* saves its output */
    loss = sum(y);
    cb_write(y, CB_F64, (const double[]){9, 9});
    assert_false(cb_backward(loss));
    assert_failed(CB_ERR_STATE, "softmax");
}

static void a_change_through_a_view_is_reported_as_well(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = cb_scale(x, 1), *loss = sum(cb_square(y));
    cb_copy_into(cb_slice(cb_reshape(y, 2, 1), 0, 0, 1, 1), cb_reshape(VECTOR(5), 1, 1));
    assert_false(cb_backward(loss));
    assert_failed(CB_ERR_STATE, "changed in place");
}

static void a_change_of_what_nobody_saved_is_allowed(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = cb_scale(x, 3), *loss = sum(cb_add(y, y));
    cb_write(y, CB_F64, (const double[]){9, 9});
    assert_true(cb_backward(loss));
    ASSERT_VALUES(x->grad, 6, 6);
}

static void linear_add_uses_the_memory_of_what_nobody_else_needs(void **state)
{
    (void)state;
    cb_tensor *w = cb_parameter(cb_reshape(VECTOR(1, 2, 3, 4), 2, 2)), *x = cb_reshape(LEAF(1, 1), 1, 2);
    cb_tensor *y = cb_scale(x, 5);
    void *memory = y->data;
    cb_tensor *alone = cb_linear_add(y, x, w, 10); /* 5 + 10 (3, 7) */
    assert_ptr_equal(alone->data, memory);
    ASSERT_VALUES(alone, 35, 75);
    cb_tensor *needed = cb_softmax(x, 1), *apart = cb_linear_add(needed, x, w, 10);
    assert_ptr_not_equal(apart->data, needed->data); /* softmax saved its output */
    cb_tensor *itself = cb_scale(x, 2);
    ASSERT_VALUES(cb_linear_add(itself, itself, w, 1), 2 + 6, 2 + 14);
    cb_tensor *leaf = cb_parameter(cb_reshape(VECTOR(1, 1), 1, 2));
    assert_ptr_not_equal(cb_linear_add(leaf, x, w, 1)->data, leaf->data);
    ASSERT_VALUES(leaf, 1, 1);
    assert_true(cb_backward(sum(cb_add(alone, apart))));
    ASSERT_VALUES(w->grad, 20, 20, 20, 20);
}

/* ---- long and wide graphs ---- */

enum { LONG = 100000 };

static void a_long_chain_is_freed_without_recursion(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = LEAF(1), *y = x;
    for (int i = 0; i < LONG; i++) {
        cb_scope *inner = cb_scope_open(); /* so that only the tape holds the chain */
        y = cb_scope_return(inner, cb_neg(y));
        cb_scope_close(inner);
    }
    assert_true(y->requires_grad);
    cb_scope_close(scope);
    assert_ok();
}

static void a_long_chain_runs_backward(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1), *y = x;
    for (int i = 0; i < LONG; i++)
        y = cb_add_scalar(y, 1);
    ASSERT_VALUES(y, LONG + 1);
    assert_true(cb_backward(y));
    ASSERT_VALUES(x->grad, 1);
}

/* each level uses the one before twice: visiting paths instead of nodes would take 2^60 steps */
static void shared_results_are_visited_once(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1), *y = x;
    for (int i = 0; i < 60; i++)
        y = cb_add(y, cb_scale(y, 1));
    assert_true(cb_backward(y));
    ASSERT_VALUES(x->grad, ldexp(1, 60));
}

static void a_node_may_have_many_inputs_and_outputs(void **state)
{
    (void)state;
    enum { MANY = 300 };
    cb_tensor *x[MANY], *parts[MANY];
    int64_t sizes[MANY];
    for (int i = 0; i < MANY; i++) {
        x[i] = cb_parameter(cb_full(CB_F64, i, 2));
        sizes[i] = 2;
    }
    cb_tensor *joined = cb_cat(MANY, x, 0), *total = NULL;
    assert_true(cb_split(joined, 0, MANY, sizes, parts));
    for (int i = 0; i < MANY; i += 2)
        total = total ? cb_add(total, cb_square(parts[i])) : cb_square(parts[i]);
    assert_true(cb_backward(sum(total)));
    for (int i = 0; i < MANY; i++)
        ASSERT_VALUES(x[i]->grad, i % 2 ? 0 : 2 * i, i % 2 ? 0 : 2 * i);
}

/* ---- errors travel ---- */

static void null_in_is_null_out_and_no_new_failure(void **state)
{
    (void)state;
    cb_tensor *x = cb_reshape(VECTOR(1, 2, 3, 4), 2, 2), *none = NULL, *a = x, *b = x, *c = x;
    assert_null(cb_add(x, none));
    assert_null(cb_add(none, x));
    assert_null(cb_where(none, x, x));
    assert_null(cb_exp(none));
    assert_null(sum(none));
    assert_null(cb_softmax(none, 0));
    assert_null(cb_matmul(x, none));
    assert_null(cb_linear(none, x, NULL));
    assert_null(cb_linear_add(x, none, x, 1));
    assert_null(cb_layer_norm(none, NULL, NULL, 1e-5));
    assert_null(cb_attention(x, none, x));
    assert_null(cb_dropout(none, 0.5, NULL));
    assert_null(cb_reshape(none, 2));
    assert_null(cb_expand(none, 2));
    assert_null(cb_permute(none, 0));
    assert_null(cb_repeat(none, 2));
    assert_null(cb_transpose(none, 0, 1));
    assert_null(cb_squeeze(none, 0));
    assert_null(cb_unsqueeze(none, 0));
    assert_null(cb_slice(none, 0, 0, 1, 1));
    assert_null(cb_cat(2, ((cb_tensor *[]){x, none}), 0));
    assert_null(cb_stack(2, ((cb_tensor *[]){none, x}), 0));
    assert_false(cb_split(none, 0, 1, (const int64_t[]){1}, &a));
    assert_null(cb_pad(none, 0, 1, 1, 0));
    assert_null(cb_roll(none, 0, 1));
    assert_null(cb_flip(none, 0));
    assert_null(cb_contiguous(none));
    assert_null(cb_cast(none, CB_F32));
    assert_null(cb_embedding(x, none));
    assert_null(cb_gather(none, 0, x));
    assert_null(cb_scatter_add(x, 0, x, none));
    assert_null(cb_index_select(x, 0, none));
    assert_null(cb_index_add(none, 0, x, x));
    assert_false(cb_topk(none, 1, 0, true, &a, &b));
    assert_false(cb_sort(none, 0, true, &a, &b));
    assert_false(cb_svd(none, &a, &b, &c));
    assert_true(!a && !b && !c);
    assert_false(cb_qr(none, &a, &b));
    assert_null(cb_detach(none));
    assert_null(cb_parameter(none));
    assert_false(cb_read(none, CB_F32, NULL));
    assert_false(cb_copy_into(x, none));
    assert_true(isnan(cb_item(none)));
    assert_ok();
}

static void the_first_failure_is_what_a_recipe_reports(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *y = sum(cb_exp(cb_add(x, VECTOR(1, 2, 3))));
    assert_null(y);
    assert_false(cb_backward(sum(x))); /* nothing runs after a failure */
    assert_null(x->grad);
    assert_failed(CB_ERR_SHAPE, "add: f64(2) and f64(3)");
}

/* ---- checkpoints ---- */

enum { WIDTH = 16, ROWS = 8 };

typedef struct small_model {
    cb_tensor *ids, *targets, *embedding, *w1, *w2, *gain;
    cb_rng rng;
    int runs; /* of the block */
    bool checkpointed;
} small_model;

static cb_tensor *random_leaf(cb_rng *rng, int64_t rows, int64_t columns)
{
    return cb_parameter(cb_scale(cb_randn(CB_F32, rng, rows, columns), 0.3));
}

static small_model model_make(bool checkpointed)
{
    cb_rng rng = {.seed = 3};
    small_model m = {.checkpointed = checkpointed, .rng = {.seed = 11}};
    m.ids = cb_from(CB_I32, ((const int32_t[]){3, 1, 4, 1, 5, 9, 2, 6}), 2, ROWS / 2);
    m.targets = cb_from(CB_I64, ((const int64_t[]){1, 4, 1, -100, 9, 2, 6, 5}), ROWS);
    m.embedding = random_leaf(&rng, 10, WIDTH);
    m.w1 = random_leaf(&rng, 2 * WIDTH, WIDTH);
    m.w2 = random_leaf(&rng, WIDTH, WIDTH);
    m.gain = cb_parameter(cb_ones(CB_F32, WIDTH));
    return m;
}

static void model_zero_grad(small_model *m)
{
    cb_zero_grad(m->embedding);
    cb_zero_grad(m->w1);
    cb_zero_grad(m->w2);
    cb_zero_grad(m->gain);
}

/* x -> x + dropout(w2 gated(w1 norm(x))) */
static cb_tensor *block(void *user, cb_tensor *const *inputs)
{
    small_model *m = user;
    m->runs++;
    cb_tensor *parts[2] = {NULL}, *x = inputs[0];
    if (!cb_split(cb_linear(cb_rms_norm(x, m->gain, 1e-5), m->w1, NULL), -1, 2, (const int64_t[]){WIDTH, WIDTH}, parts))
        return NULL;
    cb_tensor *h = cb_dropout(cb_silu_mul(parts[0], parts[1]), 0.3, &m->rng);
    /* nobody reads what a second run ends with */
    bool second = m->checkpointed && cb_grad_enabled();
    return cb_add(x, (second ? cb_linear_unread : cb_linear)(h, m->w2, NULL));
}

static cb_tensor *apply_block(small_model *m, cb_tensor *x)
{
    return m->checkpointed ? cb_checkpoint(block, m, 1, &x, &m->rng) : block(m, &x);
}

static cb_tensor *model_loss(small_model *m)
{
    cb_tensor *x = cb_embedding(m->embedding, m->ids); /* (2, ROWS / 2, WIDTH) */
    x = apply_block(m, apply_block(m, x));
    cb_tensor *shifted = cb_cat(2, ((cb_tensor *[]){cb_slice(x, 1, 1, ROWS / 2, 1), cb_slice(x, 1, 0, 1, 1)}), 1);
    cb_tensor *mixed = cb_reshape(cb_transpose(cb_add(x, shifted), 0, 1), ROWS, WIDTH);
    return cb_linear_cross_entropy(mixed, m->embedding, m->targets);
}

static void a_checkpoint_changes_no_bit(void **state)
{
    (void)state;
    small_model plain = model_make(false), again = model_make(true);
    cb_tensor *a = model_loss(&plain), *b = model_loss(&again);
    assert_same_bits(a, b);
    assert_int_equal(again.runs, 2);
    assert_true(cb_backward(a) && cb_backward(b));
    assert_int_equal(again.runs, 4);
    assert_same_bits(plain.embedding->grad, again.embedding->grad);
    assert_same_bits(plain.w1->grad, again.w1->grad);
    assert_same_bits(plain.w2->grad, again.w2->grad);
    assert_same_bits(plain.gain->grad, again.gain->grad);
    assert_memory_equal(&plain.rng, &again.rng, sizeof plain.rng); /* the second run gave its draws back */
}

static cb_tensor *two_blocks(void *user, cb_tensor *const *inputs)
{
    return apply_block(user, apply_block(user, inputs[0]));
}

static void checkpoints_nest(void **state)
{
    (void)state;
    small_model plain = model_make(false), nested = model_make(true);
    cb_tensor *x = cb_embedding(plain.embedding, plain.ids), *u = cb_embedding(nested.embedding, nested.ids);
    cb_tensor *a = sum(two_blocks(&plain, &x)), *b = sum(cb_checkpoint(two_blocks, &nested, 1, &u, &nested.rng));
    assert_same_bits(a, b);
    assert_true(cb_backward(a) && cb_backward(b));
    assert_same_bits(plain.embedding->grad, nested.embedding->grad);
    assert_same_bits(plain.w1->grad, nested.w1->grad);
    assert_same_bits(plain.w2->grad, nested.w2->grad);
}

static cb_tensor *many_squares(void *user, cb_tensor *const *inputs)
{
    cb_tensor *x = inputs[0];
    for (int i = 0; i < *(int *)user; i++)
        x = cb_square(x);
    return x;
}

static void a_checkpoint_keeps_only_its_inputs(void **state)
{
    (void)state;
    int times = 20;
    cb_tensor *x = cb_parameter(cb_ones(CB_F32, 10000));
    uint64_t before = live();
    cb_tensor *y = cb_checkpoint(many_squares, &times, 1, &x, NULL);
    assert_ok();
    assert_true(live() < before + 2 * 40000); /* y alone */
    assert_true(cb_backward(sum(y)));
    assert_near(cb_get(x->grad, 9999), ldexp(1, 20));
}

static cb_tensor *times_leaf(void *leaf, cb_tensor *const *inputs)
{
    return cb_mul(inputs[0], leaf);
}

static void a_checkpoint_reaches_leaves_when_its_inputs_are_frozen(void **state)
{
    (void)state;
    cb_tensor *w = LEAF(2, 3), *x = VECTOR(5, 7), *named = LEAF(1, 1);
    assert_true(cb_backward(sum(cb_checkpoint(times_leaf, w, 1, &x, NULL))));
    ASSERT_VALUES(w->grad, 5, 7);
    cb_zero_grad(w);
    cb_tensor *y = sum(cb_checkpoint(times_leaf, w, 1, &named, NULL)), *xs[] = {w, named}, *g[2];
    assert_true(cb_grad_of(1, &y, NULL, 2, xs, g, (cb_grad_options){0}));
    ASSERT_VALUES(g[0], 1, 1);
    ASSERT_VALUES(g[1], 2, 3);
    assert_null(w->grad);
}

static cb_tensor *scaled_if_given(void *user, cb_tensor *const *inputs)
{
    (void)user;
    return inputs[1] ? cb_mul(inputs[0], inputs[1]) : cb_scale(inputs[0], 2);
}

static void a_checkpoint_may_be_given_null(void **state)
{
    (void)state;
    cb_tensor *x = LEAF(1, 2), *inputs[] = {x, NULL};
    assert_true(cb_backward(sum(cb_square(cb_checkpoint(scaled_if_given, NULL, 2, inputs, NULL)))));
    ASSERT_VALUES(x->grad, 8, 16);
}

static void a_checkpoint_is_not_differentiated_twice(void **state)
{
    (void)state;
    cb_tensor *w = LEAF(2, 3), *x = LEAF(5, 7);
    cb_tensor *y = sum(cb_checkpoint(times_leaf, w, 1, &x, NULL));
    assert_null(gradient(y, NULL, x, (cb_grad_options){.create_graph = true}));
    assert_failed(CB_ERR_UNSUPPORTED, "checkpoint");
}

static cb_tensor *fails_the_second_time(void *user, cb_tensor *const *inputs)
{
    int *runs = user;
    return ++*runs == 1 ? cb_square(inputs[0]) : cb_add(inputs[0], VECTOR(1, 2, 3));
}

static void a_failure_inside_a_checkpoint_is_reported(void **state)
{
    (void)state;
    int runs = 1;
    cb_tensor *x = LEAF(1, 2);
    assert_null(cb_checkpoint(fails_the_second_time, &runs, 1, &x, NULL));
    assert_failed(CB_ERR_SHAPE, "add");
    runs = 0;
    cb_tensor *y = sum(cb_checkpoint(fails_the_second_time, &runs, 1, &x, NULL));
    assert_ok();
    assert_false(cb_backward(y));
    assert_failed(CB_ERR_SHAPE, "add");
    assert_null(x->grad);
}

/* ---- when memory runs out ---- */

static bool train_step(small_model *m)
{
    m->rng = (cb_rng){.seed = 11};
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_tensor *loss = model_loss(m);
    bool ok = loss && cb_backward(loss);
    cb_scope_close(scope);
    return ok;
}

static bool second_derivative(small_model *m)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_tensor *q = NULL, *r = NULL, *u = NULL, *s = NULL, *vt = NULL, *values = NULL, *at = NULL, *g = NULL;
    cb_tensor *x = cb_slice(cb_tanh(m->w1), 0, 0, WIDTH, 2), *w = m->w1;
    bool ok = cb_qr(cb_transpose(x, 0, 1), &q, &r) && cb_svd(x, &u, &s, &vt) && cb_topk(s, 3, 0, true, &values, &at);
    cb_tensor *y = cb_add(sum(cb_square(cb_matmul(q, r))), sum(cb_square(values)));
    ok = ok && y && cb_grad_of(1, &y, NULL, 1, &w, &g, (cb_grad_options){.create_graph = true}) && cb_backward(sum(cb_square(g)));
    cb_scope_close(scope);
    return ok;
}

/* Makes the first, second, ... allocation of a step fail until one goes through.  Each failure must be reported, must leave
 * nothing allocated, and must not change what the next step computes. */
static void fail_everywhere(small_model *m, bool (*step)(small_model *), int at_least)
{
    assert_true(step(m)); /* what the products keep is made once */
    cb_tensor *expected = cb_from(CB_F32, m->w1->grad->data, 2 * WIDTH, WIDTH);
    model_zero_grad(m);
    uint64_t before = live();
    int failures = 0;
    for (bool failed = true; failed; failures += failed) {
        cb_memory_fail_after((uint64_t)failures + 1);
        bool ok = step(m);
        cb_memory_fail_after(0);
        failed = !ok;
        if (failed)
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        else
            assert_ok();
        cb_error_clear();
        assert_true(cb_grad_enabled());
        if (!failed)
            assert_same_bits(m->w1->grad, expected);
        model_zero_grad(m);
        if (live() != before)
            fail_msg("%lld bytes left after allocation %d failed", (long long)(live() - before), failures + 1);
    }
    assert_true(failures >= at_least); /* it did go through every allocation */
    assert_true(step(m));
    assert_same_bits(m->w1->grad, expected);
    model_zero_grad(m);
}

static void any_allocation_of_a_training_step_may_fail(void **state)
{
    (void)state;
    small_model m = model_make(false);
    fail_everywhere(&m, train_step, 100);
}

static void any_allocation_of_a_checkpointed_step_may_fail(void **state)
{
    (void)state;
    small_model m = model_make(true);
    fail_everywhere(&m, train_step, 100);
}

static void any_allocation_of_a_second_derivative_may_fail(void **state)
{
    (void)state;
    small_model m = model_make(false);
    fail_everywhere(&m, second_derivative, 200);
}

/* A pass that fails for lack of memory leaves no gradient behind in the graph it did not get to. */
static void a_failed_pass_leaves_no_gradient_in_a_graph_that_stays(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 60; n++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *x = LEAF(1, 2), *y = sum(cb_exp(cb_square(x))), *g;
        cb_grad_options retain = {.retain_graph = true};
        cb_memory_fail_after(n);
        g = gradient(y, NULL, x, retain);
        cb_memory_fail_after(0);
        assert_true(g || cb_error_status() == CB_ERR_MEMORY);
        cb_error_clear();
        ASSERT_VALUES(gradient(y, NULL, x, retain), 2 * exp(1), 4 * exp(4));
        cb_scope_close(scope);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TENSOR_TEST(closing_a_scope_frees_what_was_made_in_it),
        TENSOR_TEST(a_returned_result_outlives_its_scope),
        TENSOR_TEST(a_result_climbs_through_nested_scopes),
        TENSOR_TEST(an_inner_scope_left_open_closes_with_the_outer_one),
        TENSOR_TEST(closing_what_is_not_open_is_an_error),
        TENSOR_TEST(a_thread_without_a_scope_has_a_root_that_can_be_emptied),
        TENSOR_TEST(closing_null_leaves_open_scopes_alone),
        TENSOR_TEST(a_kept_tensor_outlives_every_scope),
        TENSOR_TEST(a_view_keeps_the_memory_it_looks_at),
        TENSOR_TEST(the_tape_keeps_what_the_backward_pass_needs),
        TENSOR_TEST(a_frozen_pass_keeps_nothing),
        TENSOR_TEST(wrapped_memory_is_used_in_place_and_never_written),
        TENSOR_TEST(values_are_read_and_written_through_strides_and_types),
        TENSOR_TEST(one_element_is_asked_for_or_it_is_an_error),
        TENSOR_TEST(impossible_shapes_are_refused),
        TENSOR_TEST(reshape_copies_only_when_strides_cannot_say_it),
        TENSOR_TEST(what_does_not_reshape_is_refused),
        TENSOR_TEST(slices_follow_python),
        TENSOR_TEST(what_is_already_so_comes_back_itself),
        TENSOR_TEST(a_strided_bias_is_read_by_its_stride),
        TENSOR_TEST(gradients_add_up_until_they_are_zeroed),
        TENSOR_TEST(a_tensor_used_often_gets_every_gradient),
        TENSOR_TEST(a_tensor_added_to_itself_counts_twice),
        TENSOR_TEST(gradients_are_not_added_into_broadcast_views),
        TENSOR_TEST(leaves_share_no_gradient_memory),
        TENSOR_TEST(a_graph_is_consumed_unless_it_is_retained),
        TENSOR_TEST(a_retained_graph_can_be_run_after_gradients_were_written_to),
        TENSOR_TEST(gradients_can_be_differentiated_again),
        TENSOR_TEST(a_saved_output_has_its_history),
        TENSOR_TEST(a_fused_rule_refuses_to_be_differentiated_by_name),
        TENSOR_TEST(gradients_of_anything_with_respect_to_anything),
        TENSOR_TEST(leaves_nobody_named_accumulate_when_asked),
        TENSOR_TEST(impossible_requests_for_gradients_are_refused),
        TENSOR_TEST(nothing_is_recorded_without_need),
        TENSOR_TEST(the_gradient_comes_back_in_the_leafs_dtype_and_shape),
        TENSOR_TEST(views_of_a_leaf_lead_back_to_it),
        TENSOR_TEST(a_change_of_what_the_tape_saved_is_reported),
        TENSOR_TEST(a_change_through_a_view_is_reported_as_well),
        TENSOR_TEST(a_change_of_what_nobody_saved_is_allowed),
        TENSOR_TEST(linear_add_uses_the_memory_of_what_nobody_else_needs),
        TENSOR_TEST(a_long_chain_is_freed_without_recursion),
        TENSOR_TEST(a_long_chain_runs_backward),
        TENSOR_TEST(shared_results_are_visited_once),
        TENSOR_TEST(a_node_may_have_many_inputs_and_outputs),
        TENSOR_TEST(null_in_is_null_out_and_no_new_failure),
        TENSOR_TEST(the_first_failure_is_what_a_recipe_reports),
        TENSOR_TEST(a_checkpoint_changes_no_bit),
        TENSOR_TEST(checkpoints_nest),
        TENSOR_TEST(a_checkpoint_keeps_only_its_inputs),
        TENSOR_TEST(a_checkpoint_reaches_leaves_when_its_inputs_are_frozen),
        TENSOR_TEST(a_checkpoint_may_be_given_null),
        TENSOR_TEST(a_checkpoint_is_not_differentiated_twice),
        TENSOR_TEST(a_failure_inside_a_checkpoint_is_reported),
        TENSOR_TEST(any_allocation_of_a_training_step_may_fail),
        TENSOR_TEST(any_allocation_of_a_checkpointed_step_may_fail),
        TENSOR_TEST(any_allocation_of_a_second_derivative_may_fail),
        TENSOR_TEST(a_failed_pass_leaves_no_gradient_in_a_graph_that_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
