/* test_quantize.c: quantised arrays against the gguf package, ggml and bitsandbytes (tests/oracle/quantize.py), their products against
 * those with the numbers they stand for, and what the tensor floor allows and refuses. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cambium/formats.h"
#include "cambium/tensor.h"
#include "kernel_fixtures.h"

#define REFERENCE CB_TEST_DATA "/quantized/blocks.safetensors"

enum { COUNT = 4 * 512 };

static const cb_dtype block_types[] = {CB_Q8_0, CB_Q5_1, CB_Q5_0, CB_Q4_1,   CB_Q4_0, CB_IQ4_NL,
                                       CB_Q6_K, CB_Q5_K, CB_Q4_K, CB_IQ4_XS, CB_Q3_K, CB_Q2_K};
enum { BLOCK_TYPES = sizeof block_types / sizeof *block_types };

static cb_safetensors *reference;

static int open_reference(void **state)
{
    (void)state;
    reference = cb_safetensors_open(REFERENCE);
    return reference ? 0 : -1;
}

static int close_reference(void **state)
{
    (void)state;
    cb_safetensors_close(reference);
    return 0;
}

static const cb_weight_entry *entry(const char *before, const char *name, const char *after)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s%s", before, name, after);
    const cb_weight_entry *e = cb_safetensors_find(reference, full);
    if (!e)
        print_error("%s is missing\n", full);
    assert_non_null(e);
    return e;
}

/* The file's numbers in memory that is aligned. */
static float *floats_of(const cb_weight_entry *e)
{
    float *x = cb_alloc(e->size);
    memcpy(x, e->data, e->size);
    return x;
}

/* ---- dtypes ---- */

static void dtypes_know_their_blocks(void **state)
{
    (void)state;
    assert_int_equal(cb_dtype_bytes(CB_Q4_K, 512), 288);
    assert_int_equal(cb_dtype_bytes(CB_Q8_0, 64), 68);
    assert_int_equal(cb_dtype_bytes(CB_NF4, 64), 32);
    assert_int_equal(cb_dtype_bytes(CB_F32, 3), 12);
    assert_int_equal(cb_dtype_bytes(CB_F64, INT64_MAX / 4), 0);
    assert_int_equal(cb_dtype_bytes(CB_F32, -1), 0);
    assert_int_equal(cb_dtype_size(CB_NF4), 0);
    for (int t = 0; t < CB_DTYPE_COUNT; t++) {
        cb_dtype found = CB_DTYPE_COUNT;
        assert_true(cb_dtype_from_name(cb_dtype_name((cb_dtype)t), &found));
        assert_int_equal(found, t);
        assert_int_equal(cb_dtype_is_quantized((cb_dtype)t), cb_dtype_size((cb_dtype)t) == 0);
        assert_true(cb_dtype_block((cb_dtype)t) > 0);
    }
}

/* ---- kernels ---- */

static void block_types_are_read_exactly(void **state)
{
    (void)state;
    static float out[COUNT];
    FOR_EACH_ISA
    for (int t = 0; t < BLOCK_TYPES; t++)
        for (int random = 0; random < 2; random++) {
            const char *before = random ? "random." : "", *name = cb_dtype_name(block_types[t]);
            const cb_weight_entry *bytes = entry(before, name, ".bytes"), *values = entry(before, name, ".values");
            int64_t count = (int64_t)(values->size / sizeof(float));
            assert_true(cbk_dequantize(block_types[t], bytes->data, 0, count, CB_F32, out));
            for (int64_t i = 0; i < count; i++) {
                float expected;
                memcpy(&expected, (const char *)values->data + i * 4, 4);
                if (out[i] != expected)
                    print_error("%s%s element %d: %g, expected %g\n", before, name, (int)i, (double)out[i], (double)expected);
                assert_true(out[i] == expected);
            }
        }
    cbk_isa_select(NULL);
}

static void block_types_are_made_as_the_references_make_them(void **state)
{
    (void)state;
    float *x = floats_of(entry("", "x", ""));
    static uint8_t out[COUNT * 2];
    for (int t = 0; t < BLOCK_TYPES; t++) {
        const cb_weight_entry *bytes = entry("", cb_dtype_name(block_types[t]), ".bytes");
        assert_true(cbk_quantize(block_types[t], x, COUNT, out));
        size_t same = 0;
        while (same < bytes->size && out[same] == ((const uint8_t *)bytes->data)[same])
            same++;
        if (same < bytes->size)
            print_error("%s: byte %zu is %d, expected %d\n", cb_dtype_name(block_types[t]), same, out[same],
                        ((const uint8_t *)bytes->data)[same]);
        assert_int_equal(same, bytes->size);
    }
    x[300] = NAN;
    assert_false(cbk_quantize(CB_Q4_K, x, COUNT, out));
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    cb_error_clear();
    assert_false(cbk_quantize(CB_Q4_K, x, 128, out));
    cb_error_clear();
    cb_free(x);
}

static void nf4_is_bitsandbytes(void **state)
{
    (void)state;
    float *x = floats_of(entry("", "x", "")), *values = floats_of(entry("nf4", ".values", "")),
          *absmax = floats_of(entry("nf4", ".absmax", ""));
    static uint8_t codes[COUNT / 2];
    static float scale[COUNT / 64], out[COUNT];
    assert_true(cbk_quantize_scaled(CB_NF4, x, COUNT, 64, codes, scale));
    assert_memory_equal(codes, entry("nf4", ".codes", "")->data, sizeof codes);
    assert_memory_equal(scale, absmax, sizeof scale);
    cb_scaled_codes s = {.codes = codes, .block = 64, .scale = scale};
    FOR_EACH_ISA
    {
        assert_true(cbk_dequantize(CB_NF4, &s, 0, COUNT, CB_F32, out));
        assert_memory_equal(out, values, sizeof out);
        assert_true(cbk_dequantize(CB_NF4, &s, 70, 130, CB_F32, out)); /* from within a block */
        assert_memory_equal(out, values + 70, 130 * sizeof *out);
    }
    cbk_isa_select(NULL);
    x[5] = INFINITY;
    assert_false(cbk_quantize_scaled(CB_NF4, x, COUNT, 64, codes, scale));
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    cb_error_clear();
    cb_free(x);
    cb_free(values);
    cb_free(absmax);
}

static void double_quantisation_is_bitsandbytes(void **state)
{
    (void)state;
    enum { SCALES = 700 };
    float *scales = floats_of(entry("nested", ".scales", "")), *values = floats_of(entry("nested", ".values", ""));
    float *absmax = floats_of(entry("nested", ".absmax", "")), *levels = floats_of(entry("nested", ".levels", ""));
    float *offset = floats_of(entry("nested", ".offset", ""));
    assert_memory_equal(cbk_dynamic_levels(), levels, 256 * sizeof *levels);
    uint8_t codes[SCALES];
    float nested[3], mean;
    assert_true(cbk_quantize_scales(scales, SCALES, codes, nested, &mean));
    /* the mean is a sum of 700 f32: torch's order of adding may differ in the last bit, and nothing else does */
    assert_true(fabsf(mean - offset[0]) <= 0x1p-23f * mean);
    for (int i = 0; i < 3; i++)
        assert_true(fabsf(nested[i] - absmax[i]) <= 0x1p-23f * mean);
    assert_memory_equal(codes, entry("nested", ".codes", "")->data, SCALES);
    /* read back: an nf4 array whose codes are all 15 (level 1) shows its scales */
    uint8_t ones[SCALES];
    memset(ones, 0xff, sizeof ones);
    cb_scaled_codes s = {.codes = ones,
                         .block = 2,
                         .scale_codes = entry("nested", ".codes", "")->data,
                         .scale_levels = levels,
                         .nested_scale = absmax,
                         .nested_block = 256,
                         .scale_offset = offset[0]};
    float out[2 * SCALES];
    FOR_EACH_ISA
    {
        assert_true(cbk_dequantize(CB_NF4, &s, 0, 2 * SCALES, CB_F32, out));
        for (int i = 0; i < SCALES; i++)
            assert_true(out[2 * i] == values[i] && out[2 * i + 1] == values[i]);
    }
    cbk_isa_select(NULL);
    cb_free(scales);
    cb_free(values);
    cb_free(absmax);
    cb_free(levels);
    cb_free(offset);
}

static void int8_is_bitsandbytes(void **state)
{
    (void)state;
    float *x = floats_of(entry("", "x", "")), *values = floats_of(entry("int8", ".values", "")),
          *scb = floats_of(entry("int8", ".scb", ""));
    uint16_t half[COUNT];
    cbk_convert(x, CB_F32, half, CB_F16, COUNT); /* bitsandbytes quantises f16 */
    cbk_convert(half, CB_F16, x, CB_F32, COUNT);
    static int8_t codes[COUNT];
    float absmax[4];
    assert_true(cbk_quantize_scaled(CB_INT8, x, COUNT, 512, codes, absmax));
    assert_memory_equal(codes, entry("int8", ".codes", "")->data, COUNT);
    assert_memory_equal(absmax, scb, sizeof absmax);
    for (int i = 0; i < 4; i++)
        absmax[i] /= 127;
    cb_scaled_codes s = {.codes = codes, .block = 512, .scale = absmax};
    static float out[COUNT];
    FOR_EACH_ISA
    {
        assert_true(cbk_dequantize(CB_INT8, &s, 0, COUNT, CB_F32, out));
        for (int i = 0; i < COUNT; i++) /* they multiply twice: two roundings more */
            assert_true(fabsf(out[i] - values[i]) <= 0x1p-22f * fabsf(values[i]));
    }
    cbk_isa_select(NULL);
    cb_free(x);
    cb_free(values);
    cb_free(scb);
}

/* ---- products ---- */

static const cb_dtype all_types[] = {CB_Q8_0, CB_Q5_1, CB_Q5_0,   CB_Q4_1, CB_Q4_0, CB_IQ4_NL, CB_Q6_K,
                                     CB_Q5_K, CB_Q4_K, CB_IQ4_XS, CB_Q3_K, CB_Q2_K, CB_INT8,   CB_NF4};
enum { ALL_TYPES = sizeof all_types / sizeof *all_types };

/* The same product with the numbers that w stands for, in f64. */
static void expect_product(const cbk_gemm_args *g, const array *a, const double *w, const double *before, const char *what)
{
    array c = {g->c_dtype, g->m * g->n, g->c, cb_alloc((size_t)(g->m * g->n) * sizeof(double))};
    array_read(&c);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, size = 0;
            for (int64_t p = 0; p < g->k; p++) {
                double term = a->exact[i * g->k + p] * (g->transb ? w[j * g->k + p] : w[p * g->n + j]);
                sum += term;
                size += fabs(term);
            }
            double expected = g->alpha * sum + g->beta * before[i * g->n + j];
            /* f32 sums; bf16: the weight is rounded to 8 bits, so is the result */
            double unit = g->a_dtype == CB_F32 ? 0x1p-20 : 0x1p-8, error = fabs(c.exact[i * g->n + j] - expected);
            if (!(error <= unit * (size * g->alpha + fabs(expected)) + 1e-30))
                print_error("%s: (%d, %d) is %g, expected %g\n", what, (int)i, (int)j, c.exact[i * g->n + j], expected);
            assert_true(error <= unit * (size * g->alpha + fabs(expected)) + 1e-30);
        }
    cb_free(c.exact);
}

/* w: 70 rows of `columns` in `type`, quantised in blocks of `block` */
static void check_product(cb_dtype type, int64_t columns, int64_t block, cb_dtype dtype, int64_t m, bool transb)
{
    enum { ROWS = 70 };
    cb_scope *scope = cb_scope_open();
    array values = array_random(CB_F32, ROWS * columns, -1, 1);
    cb_tensor *w = cb_quantize(cb_wrap(CB_F32, values.data, ROWS, columns), type, block);
    assert_non_null(w);
    double *exact = cb_alloc((size_t)(ROWS * columns) * sizeof *exact);
    assert_true(cb_read(w, CB_F64, exact));
    int64_t n = transb ? ROWS : columns, k = transb ? columns : ROWS;
    array a = array_random(dtype, m * k, -1, 1), c = array_random(dtype, m * n, -1, 1);
    cbk_gemm_args g = {.m = m,
                       .n = n,
                       .k = k,
                       .a = a.data,
                       .b = w->data,
                       .c = c.data,
                       .lda = k,
                       .ldb = columns,
                       .ldc = n,
                       .transb = transb,
                       .a_dtype = dtype,
                       .b_dtype = type,
                       .c_dtype = dtype,
                       .alpha = 0.5,
                       .beta = 2,
                       .batch = 1};
    assert_true(cbk_gemm(&g));
    char what[96];
    snprintf(what, sizeof what, "%s of %d in blocks of %d, %s, %d rows%s", cb_dtype_name(type), (int)columns, (int)block,
             cb_dtype_name(dtype), (int)m, transb ? "" : ", backward");
    expect_product(&g, &a, exact, c.exact, what);
    array_free(&values);
    array_free(&a);
    array_free(&c);
    cb_free(exact);
    cb_scope_close(scope);
}

static void products_are_those_of_the_numbers(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 2, 3, 4, 7, 8, 33};
    FOR_EACH_ISA
    for (int t = 0; t < ALL_TYPES; t++)
        for (int half = 0; half < 2; half++) {
            cb_dtype type = all_types[t], dtype = half ? CB_BF16 : CB_F32;
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
                check_product(type, 512, type == CB_INT8 ? 128 : 0, dtype, rows[i], true);
            check_product(type, 512, type == CB_INT8 ? 128 : 0, dtype, 33, false);
        }
    cbk_isa_select(NULL);
}

/* Scales of a row, of a part that does not fill vectors, and of one that goes on in the next row; rows that end within a vector. */
static void blocks_of_every_length_fit_rows_of_every_length(void **state)
{
    (void)state;
    static const struct {
        cb_dtype type;
        int64_t columns, block;
    } cases[] = {{CB_INT8, 131, 131}, {CB_INT8, 129, 43}, {CB_INT8, 288, 48}, {CB_INT8, 1500, 20}, {CB_INT8, 300, 600},
                 {CB_NF4, 288, 64},   {CB_NF4, 130, 64},  {CB_NF4, 90, 6},    {CB_NF4, 2050, 2050}};
    FOR_EACH_ISA
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int64_t m = 1; m <= 5; m += 2)
            check_product(cases[i].type, cases[i].columns, cases[i].block, CB_F32, m, true);
    cbk_isa_select(NULL);
}

/* ---- tensors ---- */

static void tensors_are_read_and_nothing_else(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 3};
    cb_tensor *x = cb_randn(CB_F32, &rng, 6, 256), *ids = cb_from(CB_I32, ((int32_t[]){5, 0, 3}), 3);
    for (int t = 0; t < ALL_TYPES; t++) {
        cb_tensor *w = cb_quantize(x, all_types[t], 0), *plain = cb_cast(w, CB_F32), *rows = cb_embedding(w, ids);
        assert_non_null(rows);
        for (int i = 0; i < 3; i++)
            assert_memory_equal((float *)rows->data + i * 256, (float *)plain->data + ((int32_t *)ids->data)[i] * 256, 256 * sizeof(float));
        assert_true(cb_get(w, 700) == cb_get(plain, 700));
        /* every number is within the largest step of its type */
        for (int64_t i = 0; i < x->count; i++)
            assert_true(fabs(cb_get(plain, i) - cb_get(x, i)) < 0.9);
        cb_tensor *refused[] = {cb_add(w, w),
                                cb_transpose(w, 0, 1),
                                cb_zeros_like(w),
                                cb_eq(w, w),
                                cb_parameter(w),
                                cb_cast(x, all_types[t]),
                                cb_sum(w, CB_ALL, false),
                                cb_argmax(w, 1, false),
                                cb_matmul(x, w),
                                cb_linear(w, x, NULL),
                                cb_relu(w),
                                cb_softmax(w, 1),
                                cb_index_select(w, 0, ids),
                                cb_reshape(w, 3, 512),
                                cb_slice(w, 0, 0, 2, 1)};
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
            if (refused[i])
                print_error("%s: %d was not refused\n", cb_dtype_name(all_types[t]), (int)i);
            assert_null(refused[i]);
        }
        assert_false(cb_write(w, CB_F32, x->data));
        cb_error_clear();
    }
    assert_null(cb_quantize(cb_ones(CB_F32, 4, 40), CB_Q4_K, 0));
    assert_non_null(strstr(cb_error_message(), "256"));
    cb_error_clear();
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtypes_know_their_blocks),
        cmocka_unit_test(block_types_are_read_exactly),
        cmocka_unit_test(block_types_are_made_as_the_references_make_them),
        cmocka_unit_test(nf4_is_bitsandbytes),
        cmocka_unit_test(double_quantisation_is_bitsandbytes),
        cmocka_unit_test(int8_is_bitsandbytes),
        cmocka_unit_test(products_are_those_of_the_numbers),
        cmocka_unit_test(blocks_of_every_length_fit_rows_of_every_length),
        cmocka_unit_test(tensors_are_read_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, open_reference, close_reference);
}
