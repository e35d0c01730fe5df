/* test_ops_rules.c: what operations promise beyond their formulas: errors that name both shapes, NULL that travels, randomness that
 * repeats, factors that are orthogonal, memory that is shared or left alone, special values. */
#include <math.h>
#include <string.h>

#include "core/rehearsal.h"
#include "op_cases.h"

static cb_scope *scope;

static int begin(void **state)
{
    (void)state;
    cb_error_clear();
    scope = cb_scope_open();
    return scope ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    cb_scope_close(scope);
    return 0;
}

static void expect_failure(bool given, cb_status status, const char *part)
{
    if (given)
        fail_msg("no failure where \"%s\" was expected", part);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    assert_int_equal(cb_error_status(), status);
    cb_error_clear();
}

static void expect_values(const cb_tensor *x, const double *expected, int64_t count, double allowed)
{
    assert_non_null(x);
    assert_int_equal(x->count, count);
    for (int64_t i = 0; i < count; i++) {
        double got = cb_get(x, i);
        if (!(got == expected[i] || (isnan(got) && isnan(expected[i])) || fabs(got - expected[i]) <= allowed))
            fail_msg("element %lld of %s is %.9g, expected %.9g", (long long)i, cb_shape_text(x), got, expected[i]);
    }
}

static void assert_near(double got, double expected, double allowed)
{
    if (!(fabs(got - expected) <= allowed))
        fail_msg("%.9g, expected %.9g within %.3g", got, expected, allowed);
}

static cb_tensor *numbered(cb_dtype dtype, int64_t rows, int64_t columns)
{
    return cb_reshape(cb_arange(dtype, 0, 1, rows * columns), rows, columns);
}

/* ---- NULL and misfits ---- */

static void null_travels_without_a_second_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < op_case_count; i++) {
        const op_case *c = &op_cases[i];
        if (strstr(c->text, "x[0]->")) /* the case itself reads it */
            continue;
        sample s = sample_make(c, CB_F32, (sizes){SMALL, 0}, DENSE);
        cb_tensor *y[OP_OUTPUTS] = {0};
        s.leaf[0] = NULL;
        if (c->run(s.leaf, y) != 0 || !cb_ok())
            fail_msg("%s of NULL: %s", c->name, cb_ok() ? "something" : cb_error_message());
    }
}

static void misfits_are_refused_with_shapes(void **state)
{
    (void)state;
    cb_tensor *a = cb_zeros(CB_F32, 2, 3), *b = cb_zeros(CB_F32, 2, 4), *f64 = cb_zeros(CB_F64, 2, 3), *i64 = cb_zeros(CB_I64, 2, 3);
    cb_tensor *vector = cb_zeros(CB_F32, 5), *scalar = cb_scalar(CB_F32, 1);
    expect_failure(cb_add(a, b), CB_ERR_SHAPE, "add: f32(2, 3) and f32(2, 4)");
    expect_failure(cb_mul(a, f64), CB_ERR_SHAPE, "mul: f32(2, 3) and f64(2, 3)");
    expect_failure(cb_where(a, a, a), CB_ERR_SHAPE, "where: condition f32(2, 3), expected bool");
    expect_failure(cb_exp(i64), CB_ERR_UNSUPPORTED, "exp: unary operation: dtype i64");
    expect_failure(cb_clamp(a, 1, 0), CB_ERR_ARGUMENT, "clamp: bounds 1 and 0");
    expect_failure(cb_sum(a, 2, false), CB_ERR_SHAPE, "sum: dimension 2 of f32(2, 3)");
    expect_failure(cb_softmax(a, -3), CB_ERR_SHAPE, "softmax: dimension -3 of f32(2, 3)");
    expect_failure(cb_sum_to_nd(a, 1, (int64_t[]){2}), CB_ERR_SHAPE, "sum_to: f32(2, 3)");
    expect_failure(cb_reshape(a, 4, 2), CB_ERR_SHAPE, "reshape: f32(2, 3)");
    expect_failure(cb_reshape(a, -1, -1), CB_ERR_SHAPE, "reshape: f32(2, 3)");
    expect_failure(cb_expand(a, 2, 4), CB_ERR_SHAPE, "expand: f32(2, 3)");
    expect_failure(cb_permute(a, 0, 0), CB_ERR_SHAPE, "permute: f32(2, 3)");
    expect_failure(cb_squeeze(a, 0), CB_ERR_SHAPE, "squeeze: dimension 0 of f32(2, 3)");
    expect_failure(cb_slice(a, 0, 0, 1, 0), CB_ERR_ARGUMENT, "slice: a step of 0");
    expect_failure(cb_cat(2, (cb_tensor *[]){a, b}, 0), CB_ERR_SHAPE, "cat: f32(2, 3) and f32(2, 4)");
    expect_failure(cb_stack(2, (cb_tensor *[]){a, f64}, 0), CB_ERR_SHAPE, "stack: f32(2, 3) and f64(2, 3)");
    expect_failure(cb_cat(0, NULL, 0), CB_ERR_ARGUMENT, "cat: 0 tensors");
    cb_tensor *parts[2];
    expect_failure(cb_split(a, 1, 2, (int64_t[]){1, 1}, parts), CB_ERR_SHAPE, "split: 2 sizes do not add up to dimension 1 of f32(2, 3)");
    expect_failure(cb_matmul(a, b), CB_ERR_SHAPE, "matmul: f32(2, 3) and f32(2, 4)");
    expect_failure(cb_matmul(scalar, a), CB_ERR_SHAPE, "matmul: f32() and f32(2, 3)");
    expect_failure(cb_linear(a, b, NULL), CB_ERR_SHAPE, "linear: input f32(2, 3) and weight f32(2, 4)");
    expect_failure(cb_linear(a, a, vector), CB_ERR_SHAPE, "linear: bias f32(5) and weight f32(2, 3)");
    expect_failure(cb_linear_add(a, a, a, 1), CB_ERR_SHAPE, "linear_add: f32(2, 3)");
    expect_failure(cb_rms_norm(a, vector, 1e-5), CB_ERR_SHAPE, "rms_norm: weight f32(5)");
    expect_failure(cb_layer_norm(a, NULL, vector, 1e-5), CB_ERR_SHAPE, "layer_norm: bias f32(5)");
    expect_failure(cb_layer_norm(scalar, NULL, NULL, 1e-5), CB_ERR_SHAPE, "layer_norm: f32()");
    expect_failure(cb_silu_mul(a, b), CB_ERR_SHAPE, "silu_mul: gate f32(2, 3) and up f32(2, 4)");
    expect_failure(cb_straight_through(a, b), CB_ERR_SHAPE, "straight_through: hard f32(2, 3) and soft f32(2, 4)");
    expect_failure(cb_parameter(i64), CB_ERR_ARGUMENT, "dtype i64");
}

static void indices_out_of_range_are_refused(void **state)
{
    (void)state;
    cb_tensor *x = cb_zeros(CB_F32, 2, 3), *high = cb_full(CB_I64, 3, 1), *low = cb_full(CB_I32, -1, 1), *half = cb_zeros(CB_F32, 1);
    cb_tensor *values, *indices;
    expect_failure(cb_embedding(x, high), CB_ERR_ARGUMENT, "index 3");
    expect_failure(cb_index_select(x, 1, low), CB_ERR_ARGUMENT, "index -1");
    expect_failure(cb_index_select(x, 1, half), CB_ERR_SHAPE, "index_select: index f32(1)");
    expect_failure(cb_gather(x, 1, cb_full(CB_I64, 3, 2, 3)), CB_ERR_ARGUMENT, "index 3");
    expect_failure(cb_gather(x, 0, high), CB_ERR_SHAPE, "gather: index i64(1) for f32(2, 3)");
    expect_failure(cb_topk(x, 4, 1, true, &values, &indices), CB_ERR_ARGUMENT, "topk: k is 4 for dimension 1 of f32(2, 3)");
    expect_failure(cb_max(cb_zeros(CB_F32, 2, 0), 1, false), CB_ERR_SHAPE, "max: f32(2, 0)");
    expect_failure(cb_argmax(cb_zeros(CB_F32, 0), 0, false), CB_ERR_SHAPE, "argmax: f32(0)");
    cb_tensor *w = cb_zeros(CB_F32, 4, 3), *targets = cb_full(CB_I64, 4, 2);
    expect_failure(cb_linear_cross_entropy(x, w, targets), CB_ERR_ARGUMENT, "4");
    expect_failure(cb_linear_cross_entropy(x, w, high), CB_ERR_SHAPE, "linear_cross_entropy: targets i64(1) for f32(2, 3)");
    cb_tensor *table = cb_zeros(CB_F32, 4, 1), *head = cb_zeros(CB_F32, 1, 1, 1, 2);
    expect_failure(cb_rope(head, table, table, cb_full(CB_I32, 4, 1, 1)), CB_ERR_ARGUMENT, "4");
    expect_failure(cb_rope(head, table, table, high), CB_ERR_SHAPE, "positions i64(1)");
}

static void attention_refuses_what_does_not_fit(void **state)
{
    (void)state;
    cb_tensor *q = cb_zeros(CB_F32, 1, 3, 4, 2), *k = cb_zeros(CB_F32, 1, 3, 3, 2), *kv = cb_zeros(CB_F32, 1, 3, 2, 2);
    cb_tensor *half = cb_zeros(CB_F16, 1, 3, 4, 2), *segments = cb_zeros(CB_I32, 1, 4);
    expect_failure(cb_attention(q, k, k, .causal = true), CB_ERR_SHAPE, "H a multiple of Hkv");
    expect_failure(cb_attention(q, kv, kv, .segments = segments), CB_ERR_SHAPE, "segments i32(1, 4) for k f32(1, 3, 2, 2)");
    expect_failure(cb_attention(q, cb_slice(kv, 1, 0, 2, 1), cb_slice(kv, 1, 0, 2, 1), .segments = cb_zeros(CB_I32, 1, 2)), CB_ERR_SHAPE,
                   "no more queries than keys");
    expect_failure(cb_attention(q, kv, kv, .prefix_k = kv), CB_ERR_SHAPE, "prefix f32(1, 3, 2, 2) and NULL");
    expect_failure(cb_attention(q, kv, kv, .mask = cb_zeros(CB_F32, 2, 2)), CB_ERR_SHAPE, "f32(2, 2)");
    expect_failure(cb_attention(half, half, half, .causal = true), CB_ERR_UNSUPPORTED, "f16");
    cb_tensor *row = cb_zeros(CB_I32, 1), *three = cb_full(CB_I32, 3, 1), *two = cb_full(CB_I32, 2, 1), *four = cb_full(CB_I32, 4, 1);
    expect_failure(cb_attention(q, kv, kv, .rows = row), CB_ERR_SHAPE, "lengths NULL");
    expect_failure(cb_attention(q, kv, kv, .rows = three, .lengths = three), CB_ERR_SHAPE, "rows of k");
    expect_failure(cb_attention(q, kv, kv, .rows = row, .lengths = two), CB_ERR_SHAPE, "at least Tq");
    expect_failure(cb_attention(q, kv, kv, .rows = row, .lengths = four), CB_ERR_SHAPE, "of their tokens");
    expect_failure(cb_attention(q, kv, kv, .rows = row, .lengths = three, .segments = cb_zeros(CB_I32, 1, 3)), CB_ERR_SHAPE, "segments");
    expect_failure(cb_attention(cb_parameter(q), kv, kv, .rows = row, .lengths = three), CB_ERR_UNSUPPORTED, "gradient");
}

/* ---- randomness ---- */

enum { DRAWS = 40000 };

static double mean_of(const cb_tensor *x)
{
    return cb_item(cb_mean(cb_cast(x ? cb_detach((cb_tensor *)(uintptr_t)x) : NULL, CB_F64), CB_ALL, false));
}

/* A share p of N draws has standard deviation sqrt(p (1 - p) / N); five of them are exceeded once in two million seeds. */
static void dropout_keeps_its_share_and_the_mean(void **state)
{
    (void)state;
    static const cb_dtype dtypes[] = {CB_F32, CB_BF16, CB_F16, CB_F64};
    for (int d = 0; d < 4; d++) {
        const double p = 0.3;
        cb_rng rng = {.seed = 1};
        cb_tensor *y = cb_dropout(cb_ones(dtypes[d], DRAWS), p, &rng);
        double kept = 0;
        for (int64_t i = 0; i < DRAWS; i++) {
            double value = cb_get(y, i);
            if (value != 0)
                assert_near(value, 1 / (1 - p), 0x1p-8);
            kept += value != 0;
        }
        assert_near(kept / DRAWS, 1 - p, 5 * sqrt(p * (1 - p) / DRAWS));
    }
}

static void assert_same(const cb_tensor *a, const cb_tensor *b)
{
    assert_true(a && b && cb_same_shape(a, b));
    for (int64_t i = 0; i < a->count; i++)
        if (cb_get(a, i) != cb_get(b, i))
            fail_msg("element %lld differs", (long long)i);
}

static void the_same_generator_draws_the_same_mask(void **state)
{
    (void)state;
    cb_rng first = {.seed = 5, .stream = 2}, second = first, third = first;
    int threads = cb_threads();
    cb_tensor *x = cb_ones(CB_F32, 10007);
    cb_set_threads(1);
    cb_tensor *a = cb_dropout(x, 0.5, &first);
    cb_set_threads(3);
    cb_tensor *b = cb_dropout(x, 0.5, &second), *narrow = cb_dropout(cb_cast(x, CB_BF16), 0.5, &third);
    cb_set_threads(threads);
    assert_same(a, b);
    assert_same(a, cb_cast(narrow, CB_F32));
    assert_int_equal(first.counter, second.counter);
    assert_true(first.counter > 0);
    /* the generator has moved on: half of the elements differ from the next mask */
    double different = cb_item(cb_sum(cb_cast(cb_ne(a, cb_dropout(x, 0.5, &first)), CB_F32), CB_ALL, false));
    assert_near(different / 10007, 0.5, 5 * 0.5 / sqrt(10007));
}

static void dropout_at_its_ends(void **state)
{
    (void)state;
    cb_rng rng = {.seed = 3};
    cb_tensor *x = cb_parameter(cb_ones(CB_F32, 7));
    assert_ptr_equal(cb_dropout(x, 0, NULL), x);
    cb_tensor *nothing = cb_dropout(x, 1, &rng);
    expect_values(nothing, (double[7]){0}, 7, 0);
    assert_true(cb_backward(cb_sum(nothing, CB_ALL, false)));
    expect_values(x->grad, (double[7]){0}, 7, 0);
    expect_failure(cb_dropout(x, 1.5, &rng), CB_ERR_ARGUMENT, "dropout: probability 1.5");
    expect_failure(cb_dropout(x, NAN, &rng), CB_ERR_ARGUMENT, "dropout: probability nan");
    expect_failure(cb_dropout(x, 0.5, NULL), CB_ERR_ARGUMENT, "no generator");
    expect_failure(cb_dropout(cb_zeros(CB_I32, 2), 0.5, &rng), CB_ERR_ARGUMENT, "i32(2)");
}

/* Uniform: mean 1/2, variance 1/12.  Normal: mean 0, variance 1 (of which the sample's has deviation sqrt(2 / N)). */
static void random_arrays_have_their_moments(void **state)
{
    (void)state;
    static const cb_dtype dtypes[] = {CB_F32, CB_F64};
    for (int d = 0; d < 2; d++) {
        cb_rng rng = {.seed = 9}, again = rng;
        cb_tensor *u = cb_rand(dtypes[d], &rng, DRAWS), *z = cb_randn(dtypes[d], &rng, DRAWS);
        assert_same(u, cb_rand(dtypes[d], &again, DRAWS));
        assert_true(cb_item(cb_min(u, CB_ALL, false)) >= 0 && cb_item(cb_max(u, CB_ALL, false)) < 1);
        assert_near(mean_of(u), 0.5, 5 * sqrt(1.0 / 12 / DRAWS));
        assert_near(cb_item(cb_var(u, CB_ALL, false, 1)), 1.0 / 12, 5 * sqrt(1.0 / 180 / DRAWS));
        assert_near(mean_of(z), 0, 5 / sqrt(DRAWS));
        assert_near(cb_item(cb_var(z, CB_ALL, false, 1)), 1, 5 * sqrt(2.0 / DRAWS));
    }
    expect_failure(cb_rand(CB_F32, NULL, 3), CB_ERR_ARGUMENT, "no generator");
    expect_failure(cb_randn(CB_I64, &(cb_rng){0}, 3), CB_ERR_ARGUMENT, "dtype i64");
}

/* ---- linear algebra ---- */

static double departure_from_identity(cb_tensor *columns)
{
    cb_tensor *gram = cb_matmul(cb_transpose(columns, 0, 1), columns);
    double most = 0;
    for (int64_t i = 0; i < gram->count; i++)
        most = fmax(most, fabs(cb_get(gram, i) - (i / gram->shape[1] == i % gram->shape[1])));
    return most;
}

static double distance(cb_tensor *a, cb_tensor *b)
{
    return a->count ? cb_item(cb_max(cb_abs(cb_sub(a, b)), CB_ALL, false)) : 0;
}

static void factors_are_orthogonal_and_give_the_matrix_back(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {5, 3}, {3, 5}, {4, 4}, {40, 7}, {7, 40}, {0, 3}, {3, 0}};
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            cb_rng rng = {.seed = i};
            cb_dtype dtype = d ? CB_F64 : CB_F32;
            double allowed = 40 * 10 * (d ? 0x1p-53 : 0x1p-24); /* rounding grows with the larger side at worst */
            int64_t m = shapes[i][0], n = shapes[i][1], k = m < n ? m : n;
            cb_tensor *x = cb_randn(dtype, &rng, m, n), *u, *s, *vt, *q, *r;
            assert_true(cb_svd(x, &u, &s, &vt));
            assert_true(u->shape[1] == k && s->count == k && vt->shape[0] == k);
            assert_true(departure_from_identity(u) <= allowed);
            assert_true(departure_from_identity(cb_transpose(vt, 0, 1)) <= allowed);
            assert_true(distance(cb_matmul(cb_mul(u, s), vt), x) <= allowed);
            for (int64_t j = 0; j < k; j++)
                assert_true(cb_get(s, j) >= (j + 1 < k ? cb_get(s, j + 1) : 0));
            assert_true(cb_qr(x, &q, &r));
            assert_true(departure_from_identity(q) <= allowed);
            assert_true(distance(cb_matmul(q, r), x) <= allowed);
            for (int64_t row = 0; row < k; row++)
                for (int64_t column = 0; column < row; column++)
                    assert_true(cb_get(r, row * n + column) == 0);
        }
}

static void linear_algebra_refuses_what_lapack_cannot_take(void **state)
{
    (void)state;
    cb_tensor *u, *s, *vt, *wide = cb_parameter(cb_ones(CB_F64, 2, 3));
    expect_failure(cb_svd(cb_zeros(CB_BF16, 2, 2), &u, &s, &vt), CB_ERR_SHAPE, "svd: bf16(2, 2)");
    expect_failure(cb_qr(cb_zeros(CB_F32, 2, 2, 2), &u, &s), CB_ERR_SHAPE, "qr: f32(2, 2, 2)");
    expect_failure(cb_svd(cb_full(CB_F32, NAN, 2, 2), &u, &s, &vt), CB_ERR_NUMERIC, "svd: f32(2, 2) has elements that are not finite");
    assert_true(cb_qr(wide, &u, &s));
    expect_failure(cb_backward(cb_sum(s, CB_ALL, false)), CB_ERR_UNSUPPORTED, "expected at least as many rows as columns");
}

/* ---- dtypes that meet ---- */

static void linear_takes_a_weight_of_another_float_type(void **state)
{
    (void)state;
    static const cb_dtype pairs[][2] = {{CB_BF16, CB_F32}, {CB_F32, CB_BF16}, {CB_F16, CB_F32}, {CB_F32, CB_F16}};
    for (int i = 0; i < 4; i++) {
        cb_rng rng = {.seed = 4};
        cb_tensor *x = cb_parameter(cb_randn(pairs[i][0], &rng, 5, 7)), *w = cb_parameter(cb_randn(pairs[i][1], &rng, 3, 7));
        cb_tensor *y = cb_linear(x, w, NULL);
        assert_non_null(y);
        assert_int_equal(y->dtype, x->dtype);
        assert_true(cb_backward(cb_sum(y, CB_ALL, false)));
        assert_int_equal(x->grad->dtype, x->dtype);
        assert_int_equal(w->grad->dtype, w->dtype);
        cb_tensor *a = cb_cast(cb_detach(x), CB_F64), *b = cb_cast(cb_detach(w), CB_F64), *ones = cb_ones(CB_F64, 5, 3);
        /* sums of seven products, each operand rounded to bf16 at worst: 2^-8 of 7 x 3 x 3 */
        assert_true(distance(cb_cast(cb_detach(y), CB_F64), cb_linear(a, b, NULL)) < 0x1p-8 * 63);
        assert_true(distance(cb_cast(x->grad, CB_F64), cb_matmul(ones, b)) < 0x1p-8 * 9);
        assert_true(distance(cb_cast(w->grad, CB_F64), cb_matmul(cb_transpose(ones, 0, 1), a)) < 0x1p-8 * 15);
    }
    expect_failure(cb_linear(cb_zeros(CB_F64, 2, 3), cb_zeros(CB_F32, 2, 3), NULL), CB_ERR_SHAPE, "linear: input f64(2, 3)");
}

static void a_0d_operand_takes_the_others_dtype(void **state)
{
    (void)state;
    cb_tensor *y = cb_mul(cb_full(CB_BF16, 3, 2), cb_scalar(CB_F64, 0.5));
    assert_int_equal(y->dtype, CB_BF16);
    expect_values(y, (double[]){1.5, 1.5}, 2, 0);
    assert_int_equal(cb_sub(cb_scalar(CB_I32, 1), cb_zeros(CB_F32, 3))->dtype, CB_F32);
    /* its fraction would be lost */
    expect_failure(cb_sub(cb_scalar(CB_F32, 1), cb_zeros(CB_I64, 3)), CB_ERR_SHAPE, "sub: f32() and i64(3)");
}

static void casts_round_and_saturate(void **state)
{
    (void)state;
    const float in[] = {-1.5f, 2.7f, 1e30f, NAN, 0};
    cb_tensor *x = cb_from(CB_F32, in, 5);
    expect_values(cb_cast(x, CB_I32), (double[]){-1, 2, INT32_MAX, 0, 0}, 5, 0);
    expect_values(cb_cast(x, CB_BOOL), (double[]){1, 1, 1, 1, 0}, 5, 0);
    expect_values(cb_cast(cb_full(CB_F64, 1 + 0x1p-8 + 0x1p-40, 1), CB_BF16), (double[]){1 + 0x1p-7}, 1, 0);
    assert_ptr_equal(cb_cast(x, CB_F32), x);
    assert_false(cb_cast(cb_parameter(x), CB_I32)->requires_grad);
}

/* ---- memory ---- */

static void views_share_memory_and_copies_do_not(void **state)
{
    (void)state;
    cb_tensor *x = numbered(CB_F32, 4, 6), *parts[2];
    assert_true(cb_split(x, 1, 2, (int64_t[]){2, 4}, parts));
    cb_tensor *views[] = {cb_reshape(x, 2, 12), cb_transpose(x, 0, 1), cb_expand(x, 3, 4, 6), cb_slice(x, 0, 1, 4, 2), parts[1],
                          cb_unsqueeze(x, 0),   cb_detach(x),          cb_contiguous(x)};
    for (size_t i = 0; i < sizeof views / sizeof *views; i++)
        assert_ptr_equal(views[i]->storage, x->storage);
    cb_tensor *copies[] = {cb_reshape(cb_transpose(x, 0, 1), 24), cb_contiguous(cb_transpose(x, 0, 1)), cb_flip(x, 0), cb_roll(x, 0, 1)};
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++)
        assert_ptr_not_equal(copies[i]->storage, x->storage);
    /* a transposed matrix whose dimensions still lie side by side is reshaped in place */
    cb_tensor *columns = cb_reshape(cb_transpose(cb_reshape(x, 4, 2, 3), 0, 1), 2, 4, 3, 1);
    assert_ptr_equal(columns->storage, x->storage);
}

static void linear_add_works_in_place_only_when_nobody_minds(void **state)
{
    (void)state;
    cb_rng rng = {.seed = 8};
    cb_tensor *x = cb_randn(CB_F32, &rng, 3, 4), *w = cb_parameter(cb_randn(CB_F32, &rng, 5, 4)),
              *leaf = cb_parameter(cb_ones(CB_F32, 3, 5));
    cb_tensor *fresh = cb_scale(leaf, 2);
    const void *memory = fresh->data;
    assert_ptr_equal(cb_linear_add(fresh, x, w, 1)->data, memory);
    /* a parameter, a view's base, and what another op saved keep their values */
    assert_ptr_not_equal(cb_linear_add(leaf, x, w, 1)->data, leaf->data);
    expect_values(leaf, (double[15]){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 15, 0);
    cb_tensor *base = cb_scale(leaf, 1), *view = cb_reshape(base, 15);
    assert_ptr_not_equal(cb_linear_add(base, x, w, 1)->data, view->data);
    cb_tensor *result = cb_softmax(leaf, -1), *input = cb_scale(leaf, 2), *square = cb_square(input);
    assert_ptr_not_equal(cb_linear_add(result, x, w, 1)->data, result->data);
    assert_ptr_not_equal(cb_linear_add(input, x, w, 1)->data, input->data);
    assert_true(cb_backward(cb_sum(square, CB_ALL, false)));
    assert_near(cb_get(leaf->grad, 7), 8, 0);
}

static void mapped_memory_is_never_written(void **state)
{
    (void)state;
    const float in[] = {1, 2, 3};
    cb_tensor *x = cb_wrap(CB_F32, in, 3);
    expect_failure(cb_write(x, CB_F32, in), CB_ERR_STATE, "f32(3)");
    cb_tensor *w = cb_ones(CB_F32, 3, 2), *sum = cb_linear_add(cb_wrap(CB_F32, in, 1, 3), cb_ones(CB_F32, 1, 2), w, 1);
    expect_values(sum, (double[]){3, 4, 5}, 3, 0);
    expect_values(x, (double[]){1, 2, 3}, 3, 0);
}

/* What a convolution makes of a frozen weight is kept from one pass to the next, in rehearsals as well, and changes no bit. */
static void frozen_kernels_are_brought_into_order_once(void **state)
{
    (void)state;
    cb_rng rng = {.seed = 21};
    cb_tensor *w = cb_randn(CB_F32, &rng, 48, 32, 3, 3), *x = cb_parameter(cb_randn(CB_F32, &rng, 2, 32, 6, 6));
    cb_tensor *wide = cb_randn(CB_F32, &rng, 2, 32, 5, 40), *y[2], *other[2];
    for (int pass = 0; pass < 4; pass++) {
        if (pass == 1) {
            cb_freeze(w);
            cb_rehearsal_begin();
            cb_conv(x, w, NULL, .padding = {1, 1});
            cb_rehearsal_end();
        }
        y[pass > 0] = cb_conv(x, w, NULL, .padding = {1, 1});
        other[pass > 0] = cb_conv(wide, w, NULL, .padding = {1, 1});
        assert_true(cb_backward(cb_sum(cb_square(y[pass > 0]), CB_ALL, false)));
        assert_same(y[0], y[pass > 0]);
        assert_same(other[0], other[pass > 0]);
        if (pass == 0)
            y[0] = cb_detach(y[0]);
    }
    cb_tensor *four = cb_detach(x->grad);
    cb_zero_grad(x);
    assert_true(cb_backward(cb_sum(cb_square(cb_conv(x, cb_scale(w, 1), NULL, .padding = {1, 1})), CB_ALL, false)));
    assert_same(four, cb_scale(x->grad, 4));
    cb_zero_grad(x);
}

/* ---- what the backward pass makes again ---- */

/* x (4, 6, 5, 5); w and b (6), of a layer norm (5) */
static cb_tensor *layer_normed(cb_tensor *x, cb_tensor *w, cb_tensor *b)
{
    return cb_layer_norm(x, cb_slice(w, 0, 0, 5, 1), cb_slice(b, 0, 0, 5, 1), 1e-5);
}

static cb_tensor *batch_normed(cb_tensor *x, cb_tensor *w, cb_tensor *b)
{
    return cb_batch_norm(x, w, b);
}

static cb_tensor *group_normed(cb_tensor *x, cb_tensor *w, cb_tensor *b)
{
    return cb_group_norm(cb_channels_last(x), 2, w, b, 1e-5);
}

static cb_tensor *normed_relu(cb_tensor *x, cb_tensor *w, cb_tensor *b)
{
    return cb_relu(cb_batch_norm(cb_channels_last(x), w, b));
}

#define ACTIVATED(name, y)                                                                                                                 \
    static cb_tensor *name(cb_tensor *x, cb_tensor *w, cb_tensor *b)                                                                       \
    {                                                                                                                                      \
        (void)w;                                                                                                                           \
        (void)b;                                                                                                                           \
        return y;                                                                                                                          \
    }
ACTIVATED(through_gelu, cb_gelu(x))
ACTIVATED(through_gelu_tanh, cb_gelu_tanh(x))
ACTIVATED(through_silu, cb_silu(x))
ACTIVATED(through_hard_swish, cb_hard_swish(x))
ACTIVATED(through_clamp, cb_clamp(x, -0.5, 1))

/* A later op that saves a cheap op's result keeps no memory for it, and its rule finds the same bits: the gradients of y^2 are those of 2 y
 * times y. */
static void what_is_made_again_has_the_same_bits(void **state)
{
    (void)state;
    static cb_tensor *(*const each[])(cb_tensor *, cb_tensor *, cb_tensor *) = {layer_normed, batch_normed,       group_normed,
                                                                                normed_relu,  through_gelu,       through_gelu_tanh,
                                                                                through_silu, through_hard_swish, through_clamp};
    for (size_t i = 0; i < 2 * (sizeof each / sizeof *each); i++) {
        cb_scope *inner = cb_scope_open();
        cb_dtype dtype = i % 2 ? CB_BF16 : CB_F32;
        cb_tensor *x[2], *w[2], *b[2], *factor = NULL;
        for (int k = 0; k < 2; k++) {
            cb_rng rng = {.seed = 3};
            x[k] = cb_parameter(cb_randn(dtype, &rng, 4, 6, 5, 5));
            w[k] = cb_parameter(cb_randn(CB_F32, &rng, 6));
            b[k] = cb_parameter(cb_randn(CB_F32, &rng, 6));
            cb_scope *step = cb_scope_open();
            cb_tensor *y = each[i / 2](x[k], w[k], b[k]);
            factor = k ? factor : cb_scope_return(step, cb_scale(cb_detach(y), 2));
            cb_tensor *z = k ? cb_mul(factor, y) : cb_square(y);
            assert_true(k || cb_can_be_remade(y));
            assert_true(cb_backward(cb_sum(z, CB_ALL, false)));
            cb_scope_close(step);
        }
        assert_same(x[0]->grad, x[1]->grad);
        for (int k = 0; i < 8 && k < 2; k++) /* those with parameters */
            assert_same((k ? b : w)[0]->grad, (k ? b : w)[1]->grad);
        for (int k = 0; k < 2; k++) {
            cb_zero_grad(x[k]);
            cb_zero_grad(w[k]);
            cb_zero_grad(b[k]);
        }
        cb_scope_close(inner);
    }
}

/* Nothing is made again of an activation that was not kept: of a frozen norm by running statistics. */
static void what_is_not_kept_is_not_made_again(void **state)
{
    (void)state;
    cb_rng rng = {.seed = 4};
    cb_tensor *x = cb_scale(cb_parameter(cb_randn(CB_F32, &rng, 2, 3, 4, 4)), 1), *mean = cb_zeros(CB_F32, 3), *var = cb_ones(CB_F32, 3);
    cb_tensor *y = cb_batch_norm(x, NULL, NULL, .running_weight = 1, .running_mean = mean, .running_var = var);
    assert_false(cb_can_be_remade(y));
    cb_tensor *positive = cb_relu(y);
    assert_false(cb_can_be_remade(positive));
    assert_true(cb_can_be_remade(cb_relu(cb_batch_norm(x, NULL, NULL))));
    assert_true(cb_backward(cb_sum(cb_square(positive), CB_ALL, false)));
}

/* ---- special values ---- */

static void the_first_of_equals_is_chosen(void **state)
{
    (void)state;
    const float in[] = {1, 3, 3, 0, 0, 0};
    cb_tensor *x = cb_from(CB_F32, in, 2, 3), *values, *indices;
    expect_values(cb_argmax(x, 1, false), (double[]){1, 0}, 2, 0);
    expect_values(cb_argmin(x, 1, false), (double[]){0, 0}, 2, 0);
    assert_true(cb_sort(x, 1, true, &values, &indices));
    expect_values(indices, (double[]){1, 2, 0, 0, 1, 2}, 6, 0);
    assert_true(cb_sort(x, 1, false, &values, &indices));
    expect_values(indices, (double[]){0, 1, 2, 0, 1, 2}, 6, 0);
}

/* Maxima of bf16 are those of the same numbers in f32; of their gradients the sums are rounded. */
static void maxima_of_halves_are_those_of_floats(void **state)
{
    (void)state;
    cb_tensor *half = cb_cast(cb_randn(CB_F32, &(cb_rng){.seed = 9}, 2, 19, 7, 6), CB_BF16);
    cb_tensor *x[] = {cb_parameter(half), cb_parameter(cb_cast(half, CB_F32))}, *y[2];
    for (int k = 0; k < 2; k++) {
        y[k] = cb_max_pool(x[k], .kernel = {3, 3}, .stride = {2, 1}, .padding = {1, 1});
        assert_true(cb_backward(cb_sum(y[k], CB_ALL, false)));
    }
    assert_same(cb_cast(y[0], CB_F32), y[1]);
    assert_same(x[0]->grad, cb_cast(x[1]->grad, CB_BF16));
    for (int k = 0; k < 2; k++)
        cb_zero_grad(x[k]);
}

static void nan_and_infinity_pass_as_they_should(void **state)
{
    (void)state;
    const float in[] = {1, NAN, 3, 1, INFINITY, 2, -INFINITY, -INFINITY, -INFINITY};
    cb_tensor *x = cb_from(CB_F32, in, 3, 3);
    expect_values(cb_max(x, 1, false), (double[]){NAN, INFINITY, -INFINITY}, 3, 0);
    expect_values(cb_argmax(x, 1, false), (double[]){1, 1, 0}, 3, 0);
    expect_values(cb_logsumexp(x, 1, false), (double[]){NAN, INFINITY, -INFINITY}, 3, 0);
    cb_tensor *masked = cb_from(CB_F32, ((float[]){0, -INFINITY, 0}), 3);
    expect_values(cb_softmax(masked, 0), (double[]){0.5, 0, 0.5}, 3, 1e-7);
    expect_values(cb_log_softmax(masked, 0), (double[]){-log(2), -INFINITY, -log(2)}, 3, 1e-7);
    expect_values(cb_maximum(x, cb_scalar(CB_F32, 2)), (double[]){2, NAN, 3, 2, INFINITY, 2, 2, 2, 2}, 9, 0);
    expect_values(cb_clamp(x, 0, 2), (double[]){1, NAN, 2, 1, 2, 2, 0, 0, 0}, 9, 0);
    expect_values(cb_mean(cb_zeros(CB_F32, 0), CB_ALL, false), (double[]){NAN}, 1, 0);
}

/* A query that sees nothing gives 0 and passes no gradient. */
static void a_query_that_sees_nothing_gives_zero(void **state)
{
    (void)state;
    static const cb_dtype dtypes[] = {CB_F32, CB_BF16, CB_F64};
    for (int d = 0; d < 3; d++) {
        cb_rng rng = {.seed = 6};
        cb_tensor *q = cb_parameter(cb_randn(dtypes[d], &rng, 1, 2, 1, 4)), *k = cb_parameter(cb_randn(dtypes[d], &rng, 1, 2, 1, 4));
        cb_tensor *segments = cb_from(CB_I32, ((int32_t[]){0, -1}), 1, 2);
        cb_tensor *y = cb_attention(q, k, k, .segments = segments);
        expect_values(cb_slice(y, 1, 1, 2, 1), (double[4]){0}, 4, 0);
        assert_true(cb_backward(cb_sum(y, CB_ALL, false)));
        expect_values(cb_slice(q->grad, 1, 1, 2, 1), (double[4]){0}, 4, 0);
        expect_values(cb_slice(k->grad, 1, 1, 2, 1), (double[4]){0}, 4, 0);
    }
}

/* As when decoding with a cache: the queries are the last of the tokens, and see what they saw among all of them. */
static void last_queries_see_their_own_segments(void **state)
{
    (void)state;
    static const cb_dtype dtypes[] = {CB_F32, CB_F64};
    for (int d = 0; d < 2; d++) {
        cb_rng rng = {.seed = 7};
        cb_tensor *q = cb_randn(dtypes[d], &rng, 2, 6, 2, 4), *k = cb_randn(dtypes[d], &rng, 2, 6, 2, 4);
        cb_tensor *segments = cb_from(CB_I32, ((int32_t[]){-1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, -1}), 2, 6);
        cb_tensor *all = cb_attention(q, k, k, .causal = true, .segments = segments);
        cb_tensor *last = cb_attention(cb_slice(q, 1, 3, 6, 1), k, k, .causal = true, .segments = segments),
                  *expected = cb_slice(all, 1, 3, 6, 1);
        double values[2 * 3 * 2 * 4];
        assert_true(cb_read(expected, CB_F64, values));
        expect_values(last, values, 48, d ? 0 : 1e-6); /* the f32 kernel may add up in another order */
    }
}

/* Each row is what it is alone with those keys, bit for bit. */
static void rows_see_their_own_keys(void **state)
{
    (void)state;
    enum { ROWS = 5, KEYS = 150, TQ = 2 };
    static const cb_dtype dtypes[] = {CB_F32, CB_BF16, CB_F64};
    static const int32_t rows[ROWS] = {2, 0, 0, 3, 2}, lengths[ROWS] = {150, 2, 64, 65, 9};
    for (int d = 0; d < 3; d++)
        for (int prefixed = 0; prefixed < 2; prefixed++) {
            cb_rng rng = {.seed = 8};
            cb_tensor *q = cb_randn(dtypes[d], &rng, ROWS, TQ, 4, 32), *k = cb_randn(dtypes[d], &rng, 4, KEYS, 2, 32),
                      *v = cb_randn(dtypes[d], &rng, 4, KEYS, 2, 32), *pk = prefixed ? cb_randn(dtypes[d], &rng, ROWS, 3, 2, 32) : NULL,
                      *pv = prefixed ? cb_randn(dtypes[d], &rng, ROWS, 3, 2, 32) : NULL;
            cb_tensor *all = cb_attention(q, k, v, .causal = true, .window = 70, .rows = cb_from(CB_I32, rows, ROWS),
                                          .lengths = cb_from(CB_I32, lengths, ROWS), .prefix_k = pk, .prefix_v = pv);
            for (int b = 0; b < ROWS; b++) {
                cb_tensor *own_k = cb_slice(cb_slice(k, 0, rows[b], rows[b] + 1, 1), 1, 0, lengths[b], 1),
                          *own_v = cb_slice(cb_slice(v, 0, rows[b], rows[b] + 1, 1), 1, 0, lengths[b], 1);
                cb_tensor *alone = cb_attention(cb_slice(q, 0, b, b + 1, 1), own_k, own_v, .causal = true, .window = 70,
                                                .prefix_k = pk ? cb_slice(pk, 0, b, b + 1, 1) : NULL,
                                                .prefix_v = pv ? cb_slice(pv, 0, b, b + 1, 1) : NULL);
                double values[TQ * 4 * 32];
                assert_true(cb_read(alone, CB_F64, values));
                expect_values(cb_slice(all, 0, b, b + 1, 1), values, TQ * 4 * 32, 0);
            }
        }
}

static void no_targets_give_no_loss_but_a_zero_gradient(void **state)
{
    (void)state;
    cb_tensor *x = cb_parameter(cb_ones(CB_F32, 2, 3)), *w = cb_ones(CB_F32, 4, 3), *targets = cb_full(CB_I64, -100, 2);
    assert_true(isnan(cb_item(cb_linear_cross_entropy(x, w, targets)))); /* 0 / 0, as in PyTorch */
    cb_tensor *loss = cb_linear_cross_entropy(x, w, targets, .normalizer = 4);
    assert_near(cb_item(loss), 0, 0);
    assert_true(cb_backward(loss));
    expect_values(x->grad, (double[6]){0}, 6, 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

/* ---- threads ---- */

/* Operations whose cases in the table are too small for more than one thread.  x (4, 16, 32, 32) */
static cb_tensor *windows_maxima(cb_tensor *x)
{
    return cb_max_pool(x, .kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1});
}

static cb_tensor *read_at_points(cb_tensor *x)
{
    return cb_grid_sample(x, cb_tanh(cb_reshape(cb_slice(x, 1, 0, 2, 1), 4, 32, 32, 2)), .mode = CB_LINEAR);
}

static cb_tensor *random_weight(uint64_t seed, int64_t rows, int64_t columns)
{
    return cb_scale(cb_randn(CB_F32, &(cb_rng){.seed = seed}, rows, columns), 0.1);
}

static cb_tensor *long_memory(cb_tensor *x)
{
    cb_tensor *y = NULL, *hn, *cn, *zeros = cb_zeros(CB_F32, 1, 32, 64);
    cb_recurrent_weights w = {random_weight(1, 256, 256), random_weight(2, 256, 64), NULL, NULL};
    return cb_lstm(cb_reshape(x, 8, 32, 256), 1, &w, zeros, zeros, &y, &hn, &cn) ? y : NULL;
}

static cb_tensor *gated(cb_tensor *x)
{
    cb_tensor *y = NULL, *hn;
    cb_recurrent_weights w = {random_weight(1, 192, 256), random_weight(2, 192, 64), NULL, NULL};
    return cb_gru(cb_reshape(x, 8, 32, 256), 1, &w, cb_zeros(CB_F32, 1, 32, 64), &y, &hn) ? y : NULL;
}

static cb_tensor *alignments(cb_tensor *x)
{
    cb_tensor *targets = cb_full(CB_I32, 3, 16, 20), *times = cb_full(CB_I64, 64, 16), *words = cb_full(CB_I64, 20, 16);
    return cb_ctc(cb_log_softmax(cb_reshape(x, 64, 16, 64), -1), targets, times, words);
}

static cb_tensor *groups(cb_tensor *x)
{
    return cb_group_norm(x, 4, NULL, NULL, 1e-5);
}

static cb_tensor *groups_channels_last(cb_tensor *x)
{
    return cb_group_norm(cb_channels_last(x), 4, NULL, NULL, 1e-5);
}

static cb_tensor *enlarged(cb_tensor *x)
{
    return cb_interpolate(x, .size = {45, 37}, .mode = CB_CUBIC);
}

static cb_tensor *transformed(cb_tensor *x)
{
    return cb_fft(cb_reshape(x, 64, 16, 32, 2), 2, false);
}

static void threads_change_no_bit_where_cases_are_small(void **state)
{
    (void)state;
    static cb_tensor *(*const each[])(cb_tensor * x) = {windows_maxima, read_at_points,       long_memory, gated,      alignments,
                                                        groups,         groups_channels_last, enlarged,    transformed};
    int threads = cb_threads();
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        cb_scope *inner = cb_scope_open();
        cb_tensor *x[2], *y[2];
        for (int k = 0; k < 2; k++) {
            cb_set_threads(k ? 3 : 1);
            x[k] = cb_parameter(cb_randn(CB_F32, &(cb_rng){.seed = 8}, 4, 16, 32, 32));
            y[k] = each[i](x[k]);
            assert_true(cb_backward(cb_sum(cb_square(y[k]), CB_ALL, false)));
        }
        cb_set_threads(threads);
        assert_same(y[0], y[1]);
        assert_same(x[0]->grad, x[1]->grad);
        cb_zero_grad(x[0]);
        cb_zero_grad(x[1]);
        cb_scope_close(inner);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(null_travels_without_a_second_error),
        TEST(misfits_are_refused_with_shapes),
        TEST(indices_out_of_range_are_refused),
        TEST(attention_refuses_what_does_not_fit),
        TEST(dropout_keeps_its_share_and_the_mean),
        TEST(the_same_generator_draws_the_same_mask),
        TEST(dropout_at_its_ends),
        TEST(random_arrays_have_their_moments),
        TEST(factors_are_orthogonal_and_give_the_matrix_back),
        TEST(linear_algebra_refuses_what_lapack_cannot_take),
        TEST(linear_takes_a_weight_of_another_float_type),
        TEST(a_0d_operand_takes_the_others_dtype),
        TEST(casts_round_and_saturate),
        TEST(views_share_memory_and_copies_do_not),
        TEST(linear_add_works_in_place_only_when_nobody_minds),
        TEST(mapped_memory_is_never_written),
        TEST(frozen_kernels_are_brought_into_order_once),
        TEST(what_is_made_again_has_the_same_bits),
        TEST(what_is_not_kept_is_not_made_again),
        TEST(the_first_of_equals_is_chosen),
        TEST(maxima_of_halves_are_those_of_floats),
        TEST(nan_and_infinity_pass_as_they_should),
        TEST(a_query_that_sees_nothing_gives_zero),
        TEST(last_queries_see_their_own_segments),
        TEST(rows_see_their_own_keys),
        TEST(no_targets_give_no_loss_but_a_zero_gradient),
        TEST(threads_change_no_bit_where_cases_are_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
