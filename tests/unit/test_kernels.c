/* test_kernels.c: conversion, copies, element-wise arithmetic, reductions, indexing, random numbers, norms, optimisers,
 * under every instruction set the machine has.  References are plain loops in double. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernel_fixtures.h"

static const int64_t lengths[] = {0, 1, 3, 7, 16, 17, 31, 64, 100, 1037};
enum { LENGTHS = sizeof lengths / sizeof *lengths };
static const cb_dtype floats[] = {CB_F32, CB_BF16, CB_F16, CB_F64};

/* ---- dtypes and conversion ---- */

static void dtype_names_are_understood(void **state)
{
    (void)state;
    cb_dtype d = CB_U8;
    assert_true(cb_dtype_from_name("BF16", &d) && d == CB_BF16);
    assert_true(cb_dtype_from_name("torch.float16", &d) && d == CB_F16);
    assert_true(cb_dtype_from_name("Float32", &d) && d == CB_F32);
    assert_true(cb_dtype_from_name("bool", &d) && d == CB_BOOL);
    assert_true(cb_dtype_from_name("int64", &d) && d == CB_I64);
    assert_false(cb_dtype_from_name("f8", &d));
    assert_int_equal(d, CB_I64);
    assert_int_equal(cb_dtype_size(CB_F64), 8);
    assert_string_equal(cb_dtype_name(CB_BF16), "bf16");
    assert_int_equal(cb_dtype_size((cb_dtype)99), 0);
}

/* Every bf16 and f16 bit pattern goes to f32 and back unchanged (NaN stays NaN). */
static void half_types_survive_a_round_trip(void **state)
{
    (void)state;
    static uint16_t in[65536], out[65536];
    static float wide[65536];
    for (int i = 0; i < 65536; i++)
        in[i] = (uint16_t)i;
    FOR_EACH_ISA
    for (int t = 0; t < 2; t++) {
        cb_dtype dtype = t ? CB_F16 : CB_BF16;
        cbk_convert(in, dtype, wide, CB_F32, 65536);
        cbk_convert(wide, CB_F32, out, dtype, 65536);
        for (int i = 0; i < 65536; i++)
            if (isnan(wide[i]))
                assert_true((out[i] & (t ? 0x7c00 : 0x7f80)) == (t ? 0x7c00 : 0x7f80) && (out[i] & (t ? 0x3ff : 0x7f)));
            else
                assert_int_equal(out[i], in[i]);
    }
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void rounding_is_to_nearest_even(void **state)
{
    (void)state;
    const float in[] = {from_bits(0x3f808000), from_bits(0x3f818000), from_bits(0x3f808001), from_bits(0x3f80ffff),
                        from_bits(0x7f7fffff), from_bits(0x00008000), from_bits(0x00018000), -INFINITY};
    const uint16_t bf16[] = {0x3f80, 0x3f82, 0x3f81, 0x3f81, 0x7f80, 0x0000, 0x0002, 0xff80};
    const float halves[] = {1.00048828125f, 1.00146484375f, 65519.99f, 65520.0f, 0x1p-25f, 0x1.8p-24f, 0x1.000002p-25f, -0.0f};
    const uint16_t f16[] = {0x3c00, 0x3c02, 0x7bff, 0x7c00, 0x0000, 0x0002, 0x0001, 0x8000};
    uint16_t out[8];
    FOR_EACH_ISA
    {
        cbk_convert(in, CB_F32, out, CB_BF16, 8);
        assert_memory_equal(out, bf16, sizeof out);
        cbk_convert(halves, CB_F32, out, CB_F16, 8);
        assert_memory_equal(out, f16, sizeof out);
        double between = 1 + 0x1p-8 + 0x1p-40; /* by way of f32 this would be a tie */
        cbk_convert(&between, CB_F64, out, CB_BF16, 1);
        assert_int_equal(out[0], 0x3f81);
    }
}

static void conversion_to_integers_truncates_and_saturates(void **state)
{
    (void)state;
    const double in[] = {1.9, -1.9, 1e30, -1e30, NAN, 255.5, -3};
    const int32_t i32[] = {1, -1, INT32_MAX, INT32_MIN, 0, 255, -3};
    const uint8_t u8[] = {1, 0, 255, 0, 0, 255, 0}, boolean[] = {1, 1, 1, 1, 1, 1, 1};
    int32_t out32[7];
    uint8_t out8[7];
    cbk_convert(in, CB_F64, out32, CB_I32, 7);
    assert_memory_equal(out32, i32, sizeof i32);
    cbk_convert(in, CB_F64, out8, CB_U8, 7);
    assert_memory_equal(out8, u8, sizeof u8);
    cbk_convert(in, CB_F64, out8, CB_BOOL, 7);
    assert_memory_equal(out8, boolean, sizeof boolean);
    int64_t big = ((int64_t)1 << 53) + 1, same;
    cbk_convert(&big, CB_I64, &same, CB_I64, 1);
    assert_true(same == big);
    cbk_convert(&big, CB_I64, out32, CB_I32, 1);
    assert_int_equal(out32[0], INT32_MAX);
}

/* ---- copies ---- */

static void strided_copies_put_every_element_in_its_place(void **state)
{
    (void)state;
    enum { A = 5, B = 37, C = 70 };
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const cb_dtype pairs[][2] = {{CB_F32, CB_F32}, {CB_BF16, CB_BF16}, {CB_F64, CB_F64},
                                        {CB_U8, CB_U8},   {CB_F32, CB_BF16},  {CB_BF16, CB_F64}};
    const int64_t size[3] = {A, B, C}, stride[3] = {B * C, C, 1};
    for (int p = 0; p < 6; p++)
        for (int o = 0; o < 6; o++) {
            array from = array_random(pairs[p][0], A * B * C, 0, 200), to = array_new(pairs[p][1], A * B * C);
            int64_t shape[3], from_stride[3], dense[3];
            for (int d = 0; d < 3; d++) {
                shape[d] = size[orders[o][d]];
                from_stride[d] = stride[orders[o][d]];
            }
            dense[2] = 1;
            dense[1] = shape[2];
            dense[0] = shape[1] * shape[2];
            cbk_copy(to.data, to.dtype, dense, from.data, from.dtype, from_stride, 3, shape);
            double *expected = cb_alloc(sizeof(double) * A * B * C), *e = expected;
            for (int64_t i = 0; i < shape[0]; i++)
                for (int64_t j = 0; j < shape[1]; j++)
                    for (int64_t k = 0; k < shape[2]; k++)
                        *e++ = from.exact[i * from_stride[0] + j * from_stride[1] + k * from_stride[2]];
            array_expect(&to, expected, 0, 0, "copy");
            cb_free(expected);
            array_free(&from);
            array_free(&to);
        }
    float source = 7, target[12];
    cbk_copy(target, CB_F32, (int64_t[]){4, 1}, &source, CB_F32, (int64_t[]){0, 0}, 2, (int64_t[]){3, 4}); /* broadcast */
    for (int i = 0; i < 12; i++)
        assert_true(target[i] == 7);
    float up[5] = {0, 1, 2, 3, 4}, down[5];
    cbk_copy(down, CB_F32, (int64_t[]){1}, up + 4, CB_F32, (int64_t[]){-1}, 1, (int64_t[]){5}); /* backwards */
    for (int i = 0; i < 5; i++)
        assert_true(down[i] == (float)(4 - i));
    cbk_copy(NULL, CB_F32, (int64_t[]){0, 1}, NULL, CB_F32, (int64_t[]){0, 1}, 2, (int64_t[]){3, 0}); /* nothing */
    cbk_copy(down, CB_F32, NULL, up + 3, CB_F32, NULL, 0, NULL);                                      /* one element */
    assert_true(down[0] == 3);
}

static void fill_writes_every_dtype(void **state)
{
    (void)state;
    for (cb_dtype t = CB_F32; t <= CB_BOOL; t++) {
        array a = array_new(t, 1000);
        double expected[1000];
        for (int i = 0; i < 1000; i++)
            expected[i] = i < 999;
        cbk_fill(a.data, t, 1, 999);
        array_expect(&a, expected, 0, 0, "fill");
        array_free(&a);
    }
}

/* ---- two operands ---- */

static double binary_reference(cbk_binary_op op, double x, double y, bool integer)
{
    switch (op) {
    case CBK_ADD:
        return x + y;
    case CBK_SUB:
        return x - y;
    case CBK_MUL:
        return x * y;
    case CBK_DIV:
        return integer ? trunc(x / y) : x / y;
    case CBK_MAXIMUM:
        return fmax(x, y);
    case CBK_MINIMUM:
        return fmin(x, y);
    case CBK_POW:
        return pow(x, y);
    case CBK_EQ:
        return x == y;
    case CBK_NE:
        return x != y;
    case CBK_LT:
        return x < y;
    case CBK_LE:
        return x <= y;
    case CBK_GT:
        return x > y;
    default:
        return x >= y;
    }
}

/* (4, 5, 33) with every kind of operand: dense, a row, a column, a number, a transposed view. */
static void binary_operations_broadcast(void **state)
{
    (void)state;
    enum { A = 4, B = 5, C = 33, N = A * B * C };
    static const int64_t strides[][3] = {{B * C, C, 1}, {0, 0, 1}, {B, 1, 0}, {0, 0, 0}, {1, A, A * B}, {2 * B * C, 2 * C, 2}};
    static const cb_dtype dtypes[] = {CB_F32, CB_BF16, CB_F16, CB_F64, CB_I32, CB_I64};
    const int64_t shape[3] = {A, B, C}, dense[3] = {B * C, C, 1};
    double expected[N];
    FOR_EACH_ISA
    for (int t = 0; t < 6; t++) {
        bool integer = dtypes[t] >= CB_I32;
        array a = array_random(dtypes[t], 2 * N, 1, integer ? 9 : 4), b = array_random(dtypes[t], 2 * N, 1, integer ? 9 : 4);
        for (int op = CBK_ADD; op <= CBK_GE; op++)
            for (int u = 0; u < 36; u++) {
                const int64_t *sa = strides[u / 6], *sb = strides[u % 6];
                array out = array_new(op >= CBK_EQ ? CB_BOOL : dtypes[t], N);
                for (int64_t i = 0, n = 0; i < A; i++)
                    for (int64_t j = 0; j < B; j++)
                        for (int64_t k = 0; k < C; k++, n++)
                            expected[n] = binary_reference((cbk_binary_op)op, a.exact[i * sa[0] + j * sa[1] + k * sa[2]],
                                                           b.exact[i * sb[0] + j * sb[1] + k * sb[2]], integer);
                if (op == CBK_POW && dtypes[t] == CB_I32) /* overflows wrap around */
                    for (int n = 0; n < N; n++)
                        expected[n] = (double)(int32_t)(uint32_t)(uint64_t)expected[n];
                assert_true(cbk_binary((cbk_binary_op)op, dtypes[t], out.data, dense, a.data, sa, b.data, sb, 3, shape));
                array_expect(&out, expected, 0, 1e-6, "binary");
                array_free(&out);
            }
        array_free(&a);
        array_free(&b);
    }
    float x[2] = {NAN, 1}, y[2] = {1, NAN}, z[2];
    FOR_EACH_ISA
    for (cbk_binary_op op = CBK_MAXIMUM; op <= CBK_MINIMUM; op++) {
        assert_true(cbk_binary(op, CB_F32, z, (int64_t[]){1}, x, (int64_t[]){1}, y, (int64_t[]){1}, 1, (int64_t[]){2}));
        assert_true(isnan(z[0]) && isnan(z[1]));
    }
}

static void where_chooses(void **state)
{
    (void)state;
    uint8_t condition[3] = {1, 0, 1};
    float a[3] = {1, 2, 3}, b = 9, out[6];
    assert_true(cbk_where(CB_F32, out, (int64_t[]){3, 1}, condition, (int64_t[]){0, 1}, a, (int64_t[]){0, 1}, &b, (int64_t[]){0, 0}, 2,
                          (int64_t[]){2, 3}));
    const float expected[6] = {1, 9, 3, 1, 9, 3};
    assert_memory_equal(out, expected, sizeof out);
}

/* ---- one operand ---- */

/* Independent of the library's own f64 functions: written from other formulas. */
static double unary_reference(cbk_unary_op op, double x, double p, double q)
{
    switch (op) {
    case CBK_NEG:
        return 0 - x;
    case CBK_ABS:
        return x < 0 ? -x : x;
    case CBK_SIGN:
        return (x > 0) - (x < 0);
    case CBK_FLOOR:
        return floor(x);
    case CBK_CEIL:
        return -floor(-x);
    case CBK_ROUND:
        return rint(x);
    case CBK_RECIPROCAL:
        return pow(x, -1);
    case CBK_SQUARE:
        return pow(x, 2);
    case CBK_SQRT:
        return pow(x, 0.5);
    case CBK_RSQRT:
        return pow(x, -0.5);
    case CBK_EXP:
        return pow(M_E, x);
    case CBK_EXPM1:
        return 2 * exp(x / 2) * sinh(x / 2);
    case CBK_LOG:
        return log2(x) * M_LN2;
    case CBK_LOG1P:
        return 2 * atanh(x / (2 + x));
    case CBK_SIN:
        return cos(x - M_PI_2);
    case CBK_COS:
        return sin(x + M_PI_2);
    case CBK_ATAN:
        return atan2(x, 1);
    case CBK_ERF:
        return 1 - erfc(x);
    case CBK_TANH:
        return sinh(x) / cosh(x);
    case CBK_SIGMOID:
        return 0.5 * (1 + tanh(x / 2));
    case CBK_SOFTPLUS:
        return log(1 + exp(x));
    case CBK_RELU:
        return fmax(x, 0);
    case CBK_HARD_SWISH:
        return x * fmin(fmax(x + 3, 0), 6) / 6;
    case CBK_SILU:
        return 0.5 * x * (1 + tanh(x / 2));
    case CBK_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case CBK_GELU_TANH:
        return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * pow(x, 3))));
    case CBK_SCALE:
        return x * p;
    case CBK_ADD_SCALAR:
        return x + p;
    case CBK_AFFINE:
        return x * p + q;
    case CBK_POW_SCALAR:
        return exp(p * log(x));
    default:
        return fmin(fmax(x, p), q);
    }
}

static bool wants_positive(int op)
{
    return op == CBK_SQRT || op == CBK_RSQRT || op == CBK_LOG || op == CBK_LOG1P || op == CBK_POW_SCALAR || op == CBK_RECIPROCAL;
}

static void unary_operations_match_their_formulas(void **state)
{
    (void)state;
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++)
        for (int op = CBK_NEG; op <= CBK_CLAMP; op++)
            for (int l = 0; l < LENGTHS; l++) {
                array x = array_random(floats[t], lengths[l], wants_positive(op) ? 0.1 : -6, 6), y = array_new(floats[t], lengths[l]);
                double p = op == CBK_CLAMP ? -1.5 : 1.5, q = 2.25, *expected = cb_alloc((size_t)(lengths[l] + 1) * sizeof *expected);
                for (int64_t i = 0; i < lengths[l]; i++)
                    expected[i] = unary_reference((cbk_unary_op)op, x.exact[i], p, q);
                assert_true(cbk_unary((cbk_unary_op)op, floats[t], y.data, x.data, lengths[l], p, q));
                /* 1 + erf(x) near 0 has lost all but 1e-7 of 1, and gelu multiplies it by x */
                array_expect(&y, expected, floats[t] == CB_F64 ? 1e-12 : 1e-6, floats[t] == CB_F64 ? 1e-12 : 1e-6, "unary");
                cb_free(expected);
                array_free(&x);
                array_free(&y);
            }
}

static void slopes_match_differences(void **state)
{
    (void)state;
    enum { N = 77 };
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++)
        for (int op = CBK_NEG; op <= CBK_CLAMP; op++) {
            if (op >= CBK_SIGN && op <= CBK_ROUND)
                continue;
            array x = array_random(floats[t], N, wants_positive(op) ? 0.3 : -5, 5), dy = array_random(floats[t], N, -1, 1);
            array dx = array_random(floats[t], N, -1, 1), sum = array_new(floats[t], N);
            memcpy(sum.data, dx.data, N * cb_dtype_size(floats[t]));
            double p = op == CBK_CLAMP ? -1.5012345 : 1.5, q = 2.2512345, expected[N], added[N], h = 1e-5; /* no element lies at a kink */
            for (int i = 0; i < N; i++) {
                double up = unary_reference((cbk_unary_op)op, x.exact[i] + h, p, q),
                       down = unary_reference((cbk_unary_op)op, x.exact[i] - h, p, q);
                expected[i] = dy.exact[i] * (up - down) / (2 * h);
                added[i] = expected[i] + dx.exact[i];
            }
            double absolute = floats[t] == CB_F64 ? 1e-8 : 1e-5;
            assert_true(cbk_unary_backward((cbk_unary_op)op, floats[t], dx.data, dy.data, x.data, N, p, q, false));
            array_expect(&dx, expected, absolute, 1e-5, "slope");
            assert_true(cbk_unary_backward((cbk_unary_op)op, floats[t], sum.data, dy.data, x.data, N, p, q, true));
            array_expect(&sum, added, absolute, 1e-5, "slope, added");
            array_free(&x);
            array_free(&dy);
            array_free(&dx);
            array_free(&sum);
        }
}

static void special_values_go_through(void **state)
{
    (void)state;
    float x[] = {INFINITY, -INFINITY, NAN, 100, -100, 0, -0.0f, 1e-40f}, y[8];
    FOR_EACH_ISA
    {
        assert_true(cbk_unary(CBK_EXP, CB_F32, y, x, 8, 0, 0));
        assert_true(y[0] == INFINITY && y[1] == 0 && isnan(y[2]) && y[3] == INFINITY && y[4] < 1e-37f && y[5] == 1);
        assert_true(cbk_unary(CBK_TANH, CB_F32, y, x, 8, 0, 0));
        assert_true(fabsf(y[0] - 1) < 1e-6f && fabsf(y[1] + 1) < 1e-6f && isnan(y[2]) && y[5] == 0);
        assert_true(cbk_unary(CBK_SIGMOID, CB_F32, y, x, 8, 0, 0));
        assert_true(fabsf(y[0] - 1) < 1e-6f && y[1] < 1e-37f && isnan(y[2]) && y[5] == 0.5f);
        assert_true(cbk_unary(CBK_LOG, CB_F32, y, x, 8, 0, 0));
        assert_true(y[0] == INFINITY && isnan(y[1]) && isnan(y[2]) && y[5] == -INFINITY && fabsf(y[7] + 92.1034f) < 1e-3f);
        assert_true(cbk_unary(CBK_RELU, CB_F32, y, x, 8, 0, 0));
        assert_true(y[0] == INFINITY && y[1] == 0 && isnan(y[2]) && y[4] == 0);
        assert_false(cbk_all_finite(CB_F32, x, 8));
        assert_true(cbk_all_finite(CB_F32, x + 3, 5));
    }
    int32_t integers[3] = {-3, 0, 5}, out[3];
    assert_true(cbk_unary(CBK_AFFINE, CB_I32, out, integers, 3, 2, 1));
    assert_int_equal(out[0], -5);
    assert_int_equal(out[2], 11);
    assert_false(cbk_unary(CBK_EXP, CB_I32, out, integers, 3, 0, 0));
    cb_error_clear();
}

static void gated_activations_match(void **state)
{
    (void)state;
    static const cbk_unary_op acts[] = {CBK_SILU, CBK_GELU, CBK_GELU_TANH, CBK_RELU, CBK_SIGMOID};
    enum { N = 203 };
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++)
        for (int k = 0; k < 5; k++) {
            array gate = array_random(floats[t], N, -5, 5), up = array_random(floats[t], N, -2, 2), dy = array_random(floats[t], N, -1, 1);
            array y = array_new(floats[t], N), dgate = array_new(floats[t], N), dup = array_new(floats[t], N);
            double ey[N], eg[N], eu[N], h = 1e-5;
            for (int i = 0; i < N; i++) {
                double act = unary_reference(acts[k], gate.exact[i], 0, 0);
                double slope =
                    (unary_reference(acts[k], gate.exact[i] + h, 0, 0) - unary_reference(acts[k], gate.exact[i] - h, 0, 0)) / (2 * h);
                ey[i] = act * up.exact[i];
                eg[i] = dy.exact[i] * up.exact[i] * slope;
                eu[i] = dy.exact[i] * act;
            }
            assert_true(cbk_gated_forward(acts[k], floats[t], y.data, gate.data, up.data, N));
            assert_true(cbk_gated_backward(acts[k], floats[t], dgate.data, dup.data, dy.data, gate.data, up.data, N));
            array_expect(&y, ey, 2e-6, 1e-5, "gated");
            array_expect(&dgate, eg, 2e-5, 1e-5, "gated, gate");
            array_expect(&dup, eu, 2e-6, 1e-5, "gated, up");
            array *all[] = {&gate, &up, &dy, &y, &dgate, &dup};
            for (int i = 0; i < 6; i++)
                array_free(all[i]);
        }
}

static void axpby_scales_and_adds(void **state)
{
    (void)state;
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++)
        for (int l = 0; l < LENGTHS; l++) {
            array x = array_random(floats[t], lengths[l], -2, 2), y = array_random(floats[t], lengths[l], -2, 2);
            double *expected = cb_alloc((size_t)(lengths[l] + 1) * sizeof *expected);
            for (int64_t i = 0; i < lengths[l]; i++)
                expected[i] = 0.25 * x.exact[i] - 3 * y.exact[i];
            cbk_axpby(floats[t], y.data, 0.25, x.data, -3, lengths[l]);
            array_expect(&y, expected, 1e-6, 0, "axpby");
            cb_free(expected);
            array_free(&x);
            array_free(&y);
        }
}

/* ---- reductions ---- */

static double reduce_reference(cbk_reduce_op op, const double *x, int64_t n, int64_t stride)
{
    double total = op == CBK_PROD ? 1 : op == CBK_MAX ? -INFINITY : op == CBK_MIN ? INFINITY : 0, best = x[0];
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = x[i * stride];
        if (op == CBK_ARGMAX ? v > best : v < best) {
            best = v;
            at = i;
        }
        total = op == CBK_PROD ? total * v : op == CBK_MAX ? fmax(total, v) : op == CBK_MIN ? fmin(total, v) : total + v;
    }
    return op >= CBK_ARGMAX ? (double)at : op == CBK_MEAN ? total / (double)n : total;
}

static void reductions_over_any_dimension(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 5000, 1}, {7, 33, 1}, {3, 17, 5}, {2, 40, 300}, {1, 1, 9}, {5, 1, 1}, {1, 70, 129}};
    static const cb_dtype dtypes[] = {CB_F32, CB_BF16, CB_F16, CB_F64, CB_I32, CB_I64};
    FOR_EACH_ISA
    for (int t = 0; t < 6; t++)
        for (int s = 0; s < 7; s++)
            for (int op = CBK_SUM; op <= CBK_ARGMIN; op++) {
                int64_t outer = shapes[s][0], n = shapes[s][1], inner = shapes[s][2];
                bool integer = dtypes[t] >= CB_I32;
                if (op == CBK_MEAN && integer)
                    continue;
                array x = array_random(dtypes[t], outer * n * inner,
                                       integer          ? -9
                                       : op == CBK_PROD ? 0.98
                                                        : -1,
                                       integer          ? 9
                                       : op == CBK_PROD ? 1.02
                                                        : 1);
                if (op == CBK_PROD && integer)
                    cbk_fill(x.data, dtypes[t], -1, x.count);
                array_read(&x);
                array out = array_new(op >= CBK_ARGMAX ? CB_I64 : dtypes[t], outer * inner);
                double *expected = cb_alloc((size_t)(outer * inner) * sizeof *expected);
                for (int64_t o = 0; o < outer; o++)
                    for (int64_t i = 0; i < inner; i++)
                        expected[o * inner + i] = reduce_reference((cbk_reduce_op)op, x.exact + o * n * inner + i, n, inner);
                assert_true(cbk_reduce((cbk_reduce_op)op, out.data, out.dtype, x.data, dtypes[t], outer, n, inner));
                array_expect(&out, expected, dtypes[t] == CB_F32 ? 2e-5 : 1e-5, 1e-5, "reduce");
                cb_free(expected);
                array_free(&x);
                array_free(&out);
            }
    double empty = 5, none = 0;
    assert_true(cbk_reduce(CBK_MEAN, &empty, CB_F64, &none, CB_F64, 1, 0, 1) && isnan(empty));
    assert_true(cbk_reduce(CBK_PROD, &empty, CB_F64, &none, CB_F64, 1, 0, 1) && empty == 1);
    int64_t index;
    assert_false(cbk_reduce(CBK_ARGMAX, &index, CB_I64, &none, CB_F64, 1, 0, 1));
    cb_error_clear();
    double with_nan[] = {1, NAN, 3};
    assert_true(cbk_reduce(CBK_MAX, &empty, CB_F64, with_nan, CB_F64, 1, 3, 1) && isnan(empty));
    assert_true(cbk_reduce(CBK_ARGMAX, &index, CB_I64, with_nan, CB_F64, 1, 3, 1) && index == 1);
}

static void cumulation_runs_both_ways(void **state)
{
    (void)state;
    for (int t = 0; t < 4; t++)
        for (int reverse = 0; reverse < 2; reverse++)
            for (int product = 0; product < 2; product++) {
                enum { O = 3, N = 19, I = 4 };
                array x = array_random(floats[t], O * N * I, 0.7, 1.3);
                double expected[O * N * I];
                for (int o = 0; o < O; o++)
                    for (int i = 0; i < I; i++)
                        for (int n = 0; n < N; n++) {
                            double total = product;
                            for (int m = reverse ? n : 0; m < (reverse ? N : n + 1); m++)
                                total = product ? total * x.exact[(o * N + m) * I + i] : total + x.exact[(o * N + m) * I + i];
                            expected[(o * N + n) * I + i] = total;
                        }
                assert_true(cbk_cumulate(product ? CBK_PROD : CBK_SUM, floats[t], x.data, x.data, O, N, I, reverse));
                array_expect(&x, expected, 0, 1e-6, "cumulate");
                array_free(&x);
            }
}

static void sums_are_the_same_for_any_number_of_threads(void **state)
{
    (void)state;
    int64_t n = 3000001;
    array x = array_random(CB_F32, n, -1, 1);
    double squares = 0;
    for (int64_t i = 0; i < n; i++)
        squares += x.exact[i] * x.exact[i];
    FOR_EACH_ISA
    {
        omp_set_num_threads(1);
        double one = cbk_sum_squares(CB_F32, x.data, n), sum_one = cbk_sum(CB_F32, x.data, n);
        omp_set_num_threads(3);
        assert_true(one == cbk_sum_squares(CB_F32, x.data, n) && sum_one == cbk_sum(CB_F32, x.data, n));
        omp_set_num_threads(2);
        assert_true(fabs(one - squares) < 1e-6 * squares);
    }
    array_free(&x);
}

/* ---- indexing ---- */

static void indexing_reads_and_adds(void **state)
{
    (void)state;
    enum { O = 2, S = 6, N = 9, I = 70 };
    const int64_t index[N] = {5, 0, 0, 3, 5, 1, 5, 2, 0};
    int32_t narrow[N];
    cbk_convert(index, CB_I64, narrow, CB_I32, N);
    for (int t = 0; t < 4; t++) {
        array x = array_random(floats[t], O * S * I, -1, 1), out = array_new(floats[t], O * N * I),
              source = array_random(floats[t], O * N * I, -1, 1);
        double selected[O * N * I], added[O * S * I];
        memcpy(added, x.exact, sizeof added);
        for (int o = 0; o < O; o++)
            for (int n = 0; n < N; n++)
                for (int i = 0; i < I; i++) {
                    selected[(o * N + n) * I + i] = x.exact[(o * S + index[n]) * I + i];
                    added[(o * S + index[n]) * I + i] += 0.5 * source.exact[(o * N + n) * I + i];
                }
        assert_true(cbk_index_select(out.data, floats[t], x.data, floats[t], narrow, CB_I32, O, S, N, I));
        array_expect(&out, selected, 0, 0, "index_select");
        if (floats[t] == CB_BF16) { /* an embedding's gradient: bf16 into f32 */
            array wide = array_new(CB_F32, O * S * I);
            cbk_convert(x.data, CB_BF16, wide.data, CB_F32, O * S * I);
            assert_true(cbk_index_add(wide.data, CB_F32, source.data, CB_BF16, index, CB_I64, O, S, N, I, 0.5));
            array_expect(&wide, added, 1e-6, 0, "index_add, wider");
            array_free(&wide);
        }
        assert_true(cbk_index_add(x.data, floats[t], source.data, floats[t], index, CB_I64, O, S, N, I, 0.5));
        array_expect(&x, added, floats[t] == CB_F64 || floats[t] == CB_F32 ? 1e-6 : 0.03, 0, "index_add");
        array_free(&x);
        array_free(&out);
        array_free(&source);
    }
    float x[6] = {0, 1, 2, 3, 4, 5}, out[2];
    assert_true(cbk_gather(out, x, CB_F32, (int64_t[]){2, 0}, CB_I64, 1, 3, 1, 2)); /* x (1, 3, 2), index (1, 1, 2) */
    assert_true(out[0] == 4 && out[1] == 1);
    assert_true(cbk_scatter_add(x, CB_F32, (float[]){10, 20, 30, 40}, (int64_t[]){2, 0, 2, 1}, CB_I64, 1, 3, 2, 2));
    const float expected[6] = {0, 21, 2, 43, 44, 5};
    assert_memory_equal(x, expected, sizeof expected);
    assert_false(cbk_gather(out, x, CB_F32, (int64_t[]){3, 0}, CB_I64, 1, 3, 1, 2));
    assert_non_null(strstr(cb_error_message(), "3"));
    cb_error_clear();
    assert_false(cbk_index_add(x, CB_F32, x, CB_F32, (int32_t[]){-1}, CB_I32, 1, 3, 1, 2, 1));
    cb_error_clear();
}

/* ---- random numbers ---- */

static void random_arrays_follow_the_generator(void **state)
{
    (void)state;
    enum { N = 4099 };
    static float x[N], z[N];
    uint64_t counter = (1ull << 32) - 5; /* the counter's upper half changes on the way */
    FOR_EACH_ISA
    {
        assert_int_equal(cbk_uniform(CB_F32, x, N, 42, 7, counter), (N + 3) / 4);
        assert_int_equal(cbk_normal(CB_F32, z, N, 42, 7, counter), (N + 3) / 4);
        for (int i = 0; i < N; i++) {
            uint32_t w[4];
            cb_philox(42, 7, counter + (uint64_t)i / 4, w);
            assert_true(x[i] == (float)(w[i % 4] >> 8) * 0x1p-24f);
            const uint32_t *pair = w + i % 4 / 2 * 2;
            double u = ((double)(pair[0] >> 8) + 0.5) * 0x1p-24, angle = 2 * M_PI * (double)(pair[1] >> 8) * 0x1p-24;
            double expected = sqrt(-2 * log(u)) * (i % 2 ? sin(angle) : cos(angle));
            assert_true(fabs((double)z[i] - expected) < 1e-5);
        }
        uint8_t mask[N];
        static float y[N], ones[N];
        for (int i = 0; i < N; i++)
            ones[i] = 1;
        cbk_dropout(CB_F32, y, ones, mask, N, 0.3, 42, 7, counter);
        int kept = 0;
        for (int i = 0; i < N; i++) {
            uint32_t w[4];
            cb_philox(42, 7, counter + (uint64_t)i / 4, w);
            assert_int_equal(mask[i], (double)w[i % 4] >= 0.3 * 0x1p32);
            assert_true(fabsf(y[i] - (mask[i] ? 1 / 0.7f : 0)) < 1e-6f);
            kept += mask[i];
        }
        assert_true(abs(kept - (int)(0.7 * N)) < 150);
    }
    double d[5], sum = 0, squares = 0;
    assert_int_equal(cbk_uniform(CB_F64, d, 5, 1, 2, 3), 3);
    array many = array_new(CB_F64, 100000);
    cbk_normal(CB_F64, many.data, many.count, 9, 9, 9);
    array_read(&many);
    for (int64_t i = 0; i < many.count; i++) {
        sum += many.exact[i];
        squares += many.exact[i] * many.exact[i];
    }
    assert_true(fabs(sum / 1e5) < 0.02 && fabs(squares / 1e5 - 1) < 0.02);
    array_free(&many);
}

/* ---- optimisers ---- */

static void adamw_and_sgd_follow_their_papers(void **state)
{
    (void)state;
    enum { N = 133, TENSORS = 3, STEPS = 4 };
    const int64_t size[TENSORS] = {N, 1, 40};
    FOR_EACH_ISA
    for (int kind = 0; kind < 3; kind++) { /* AdamW, SGD, SGD with Nesterov momentum */
        array p[TENSORS], m[TENSORS], v[TENSORS], g[TENSORS];
        float *pp[TENSORS], *pm[TENSORS], *pv[TENSORS];
        const float *pg[TENSORS];
        double rp[TENSORS][N], rm[TENSORS][N] = {{0}}, rv[TENSORS][N] = {{0}}, decay[TENSORS] = {0.1, 0, 0.1};
        for (int t = 0; t < TENSORS; t++) {
            p[t] = array_random(CB_F32, size[t], -1, 1);
            m[t] = array_new(CB_F32, size[t]);
            v[t] = array_new(CB_F32, size[t]);
            g[t] = array_random(CB_F32, size[t], -1, 1);
            memcpy(rp[t], p[t].exact, (size_t)size[t] * sizeof(double));
            pp[t] = p[t].data;
            pm[t] = m[t].data;
            pv[t] = v[t].data;
            pg[t] = g[t].data;
        }
        for (int step = 1; step <= STEPS; step++) {
            cbk_adamw_args a = {.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .step = step, .grad_scale = 0.5};
            cbk_sgd_args s = {
                .learning_rate = 0.01, .momentum = kind == 2 ? 0.9 : 0, .grad_scale = 0.5, .nesterov = kind == 2, .first = step == 1};
            if (kind == 0)
                cbk_adamw(TENSORS, pp, pm, pv, pg, size, decay, &a);
            else
                cbk_sgd(TENSORS, pp, kind == 2 ? pm : NULL, pg, size, decay, &s);
            for (int t = 0; t < TENSORS; t++)
                for (int64_t i = 0; i < size[t]; i++) {
                    double grad = 0.5 * g[t].exact[i];
                    if (kind == 0) {
                        rp[t][i] -= 0.01 * decay[t] * rp[t][i];
                        rm[t][i] = 0.9 * rm[t][i] + 0.1 * grad;
                        rv[t][i] = 0.99 * rv[t][i] + 0.01 * grad * grad;
                        rp[t][i] -= 0.01 * (rm[t][i] / (1 - pow(0.9, step))) / (sqrt(rv[t][i] / (1 - pow(0.99, step))) + 1e-8);
                    } else {
                        grad += decay[t] * rp[t][i];
                        rm[t][i] = step == 1 ? grad : 0.9 * rm[t][i] + grad;
                        rp[t][i] -= 0.01 * (kind == 2 ? grad + 0.9 * rm[t][i] : grad);
                    }
                }
        }
        for (int t = 0; t < TENSORS; t++) {
            array_expect(&p[t], rp[t], 1e-6, 1e-6, "optimizer");
            array_free(&p[t]);
            array_free(&m[t]);
            array_free(&v[t]);
            array_free(&g[t]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtype_names_are_understood),
        cmocka_unit_test(half_types_survive_a_round_trip),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(conversion_to_integers_truncates_and_saturates),
        cmocka_unit_test(strided_copies_put_every_element_in_its_place),
        cmocka_unit_test(fill_writes_every_dtype),
        cmocka_unit_test(binary_operations_broadcast),
        cmocka_unit_test(where_chooses),
        cmocka_unit_test(unary_operations_match_their_formulas),
        cmocka_unit_test(slopes_match_differences),
        cmocka_unit_test(special_values_go_through),
        cmocka_unit_test(gated_activations_match),
        cmocka_unit_test(axpby_scales_and_adds),
        cmocka_unit_test(reductions_over_any_dimension),
        cmocka_unit_test(cumulation_runs_both_ways),
        cmocka_unit_test(sums_are_the_same_for_any_number_of_threads),
        cmocka_unit_test(indexing_reads_and_adds),
        cmocka_unit_test(random_arrays_follow_the_generator),
        cmocka_unit_test(adamw_and_sgd_follow_their_papers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
