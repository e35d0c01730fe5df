/* test_kernels_products.c: matrix products, normalisation, softmax, rotary embedding, attention and cross-entropy,
 * under every instruction set the machine has.  References are plain loops in double; backward passes are compared with
 * finite differences of those. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "kernel_fixtures.h"

static const cb_dtype floats[] = {CB_F32, CB_BF16, CB_F16, CB_F64};

/* ---- products ---- */

typedef struct product_case {
    int64_t m, n, k, batch;
    bool transa, transb;
    cb_dtype a, b, c;
    double alpha, beta;
    int bias;    /* -1: none, else a dtype */
    int64_t pad; /* extra columns in every leading dimension */
    bool shared_b;
} product_case;

static void check_product(const product_case *p)
{
    int64_t lda = (p->transa ? p->m : p->k) + p->pad, ldb = (p->transb ? p->k : p->n) + p->pad, ldc = p->n + p->pad;
    int64_t sa = (p->transa ? p->k : p->m) * lda, sb = (p->transb ? p->n : p->k) * ldb, sc = p->m * ldc;
    array a = array_random(p->a, sa * p->batch + 1, -1, 1), b = array_random(p->b, sb * p->batch + 1, -1, 1);
    array c = array_random(p->c, sc * p->batch + 1, -1, 1), bias = array_random(p->bias < 0 ? CB_F32 : (cb_dtype)p->bias, p->n, -1, 1);
    double *expected = cb_alloc((size_t)c.count * sizeof *expected), *scale = cb_alloc((size_t)c.count * sizeof *scale);
    memcpy(expected, c.exact, (size_t)c.count * sizeof *expected);
    for (int64_t e = 0; e < p->batch; e++)
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->n; j++) {
                double s = 0;
                for (int64_t q = 0; q < p->k; q++)
                    s += a.exact[e * sa + (p->transa ? q * lda + i : i * lda + q)] *
                         b.exact[(p->shared_b ? 0 : e * sb) + (p->transb ? j * ldb + q : q * ldb + j)];
                double *to = &expected[e * sc + i * ldc + j];
                *to = p->alpha * s + p->beta * *to + (p->bias >= 0 ? bias.exact[j] : 0);
            }
    cbk_gemm_args g = {.m = p->m,
                       .n = p->n,
                       .k = p->k,
                       .a = a.data,
                       .b = b.data,
                       .c = c.data,
                       .lda = lda,
                       .ldb = ldb,
                       .ldc = ldc,
                       .transa = p->transa,
                       .transb = p->transb,
                       .a_dtype = p->a,
                       .b_dtype = p->b,
                       .c_dtype = p->c,
                       .alpha = p->alpha,
                       .beta = p->beta,
                       .bias = p->bias >= 0 ? bias.data : NULL,
                       .bias_dtype = bias.dtype,
                       .batch = p->batch,
                       .stride_a = sa,
                       .stride_b = p->shared_b ? 0 : sb,
                       .stride_c = sc};
    if (!cbk_gemm(&g))
        fail_msg("gemm: %s", cb_error_message());
    /* a mixed product may round an f32 operand to bf16 first */
    bool rounds = p->a != p->b && (p->a == CB_BF16 || p->b == CB_BF16) && p->c == CB_BF16;
    double absolute = p->a == CB_F64 ? 1e-12 : rounds ? 0x1p-8 * sqrt((double)p->k + 1) : 1e-5 * sqrt((double)p->k + 1);
    absolute *= fabs(p->alpha);
    char what[160];
    snprintf(what, sizeof what, "gemm %lldx%lldx%lld batch %lld %c%c %s %s alpha %g beta %g bias %d pad %lld", (long long)p->m,
             (long long)p->n, (long long)p->k, (long long)p->batch, p->transa ? 'T' : 'N', p->transb ? 'T' : 'N', cb_dtype_name(p->a),
             cb_dtype_name(p->b), p->alpha, p->beta, p->bias, (long long)p->pad);
    array_expect(&c, expected, absolute, 0, what);
    cb_free(expected);
    cb_free(scale);
    array_free(&a);
    array_free(&b);
    array_free(&c);
    array_free(&bias);
}

static void products_of_every_shape_and_kind(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},    {7, 5, 3},     {17, 33, 65},  {64, 64, 64},  {1, 70, 300}, {130, 1, 40},
                                        {3, 257, 16}, {100, 8, 200}, {90, 200, 8},  {8, 90, 129},  {65, 2, 7},   {0, 5, 3},
                                        {4, 0, 3},    {5, 6, 0},     {4, 300, 130}, {200, 16, 333}};
    static const cb_dtype kinds[][3] = {{CB_F32, CB_F32, CB_F32},   {CB_BF16, CB_BF16, CB_BF16}, {CB_BF16, CB_BF16, CB_F32},
                                        {CB_F64, CB_F64, CB_F64},   {CB_F16, CB_F16, CB_F16},    {CB_F32, CB_BF16, CB_F32},
                                        {CB_BF16, CB_F32, CB_BF16}, {CB_F32, CB_F32, CB_BF16},   {CB_F16, CB_BF16, CB_F32}};
    FOR_EACH_ISA
    for (int k = 0; k < 9; k++)
        for (int s = 0; s < 16; s++)
            for (int trans = 0; trans < 4; trans++)
                for (int variant = 0; variant < 4; variant++) {
                    product_case p = {.m = shapes[s][0],
                                      .n = shapes[s][1],
                                      .k = shapes[s][2],
                                      .batch = 1,
                                      .transa = trans & 1,
                                      .transb = trans & 2,
                                      .a = kinds[k][0],
                                      .b = kinds[k][1],
                                      .c = kinds[k][2],
                                      .alpha = 1,
                                      .bias = -1};
                    if (variant == 1) {
                        p.alpha = 0.5;
                        p.beta = 1;
                    } else if (variant == 2) {
                        p.bias = (int)(kinds[k][0] == CB_F64 ? CB_F64 : CB_F32);
                        p.pad = 5;
                    } else if (variant == 3) {
                        p.alpha = -2;
                        p.beta = 0.25;
                        p.bias = (int)kinds[k][2];
                        p.batch = 3;
                        p.shared_b = trans == 2;
                    }
                    check_product(&p);
                }
    cbk_gemm_flush();
}

/* Shapes of adapters and decoded tokens: one dimension small, the others large enough for the kernels made for that. */
static void thin_products(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{150, 8, 200}, {67, 1, 65},    {100, 17, 131}, {64, 32, 64},  {8, 150, 200},
                                        {1, 300, 129}, {3, 131, 77},   {32, 97, 150},  {150, 200, 8}, {67, 193, 1},
                                        {70, 130, 31}, {129, 300, 16}, {2, 65, 1050},  {5, 70, 64},   {4, 90, 37}};
    static const cb_dtype kinds[][3] = {{CB_F32, CB_F32, CB_F32},  {CB_BF16, CB_BF16, CB_BF16}, {CB_BF16, CB_BF16, CB_F32},
                                        {CB_F32, CB_BF16, CB_F32}, {CB_F32, CB_F16, CB_F32},    {CB_BF16, CB_F32, CB_BF16},
                                        {CB_BF16, CB_F16, CB_BF16}};
    FOR_EACH_ISA
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int trans = 0; trans < 4; trans++)
                for (int variant = 0; variant < 3; variant++)
                    check_product(&(product_case){.m = shapes[s][0],
                                                  .n = shapes[s][1],
                                                  .k = shapes[s][2],
                                                  .batch = 1,
                                                  .transa = trans & 1,
                                                  .transb = trans & 2,
                                                  .a = kinds[k][0],
                                                  .b = kinds[k][1],
                                                  .c = kinds[k][2],
                                                  .alpha = variant ? 0.5 : 1,
                                                  .beta = variant == 1   ? 1
                                                          : variant == 2 ? -0.5
                                                                         : 0,
                                                  .bias = -1,
                                                  .pad = variant == 2 ? 3 : 0});
}

/* ---- low-rank updates ---- */

/* Rows r, r + pairs, ... have pair r; every pair has the same rank. */
static void check_low_rank(cb_dtype dtype, cb_dtype factors, int64_t rank, int64_t pairs, int64_t rows, int64_t in, int64_t out)
{
    array x = array_random(dtype, rows * in, -1, 1), y = array_random(dtype, rows * out, -1, 1);
    array a = array_random(factors, pairs * rank * in, -1, 1), b = array_random(factors, pairs * rank * out, -1, 1);
    double *expected = cb_alloc((size_t)y.count * sizeof *expected);
    cbk_low_rank *pair = cb_alloc((size_t)pairs * sizeof *pair);
    cb_low_rank_rows *segment = cb_alloc((size_t)rows * sizeof *segment);
    int64_t size = (int64_t)cb_dtype_size(factors), segments = 0;
    for (int64_t p = 0; p < pairs; p++) {
        pair[p] =
            (cbk_low_rank){(char *)a.data + p * rank * in * size, (char *)b.data + p * rank * out * size, factors, factors, rank, 0.5};
        for (int64_t r = p; r < rows; r += pairs)
            segment[segments++] = (cb_low_rank_rows){r, r + 1, (int)p};
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++) {
            double sum = 0;
            for (int64_t j = 0; j < rank; j++) {
                double z = 0;
                for (int64_t i = 0; i < in; i++)
                    z += a.exact[(r % pairs * rank + j) * in + i] * x.exact[r * in + i];
                sum += z * b.exact[(r % pairs * out + o) * rank + j];
            }
            expected[r * out + o] = y.exact[r * out + o] + 0.5 * sum;
        }
    assert_true(cbk_low_rank_add(&(cbk_low_rank_args){.dtype = dtype,
                                                      .y = y.data,
                                                      .x = x.data,
                                                      .in = in,
                                                      .out = out,
                                                      .pair = pair,
                                                      .segment = segment,
                                                      .pairs = pairs,
                                                      .segments = segments}));
    /* f32 sums of at most 64 * 70 products below 1 */
    array_expect(&y, expected, 1e-5 * (double)rank, 1e-5, "low-rank update");
    cb_free(expected);
    cb_free(pair);
    cb_free(segment);
    array_free(&x);
    array_free(&y);
    array_free(&a);
    array_free(&b);
}

static void low_rank_updates_of_rows_here_and_there(void **state)
{
    (void)state;
    static const cb_dtype kinds[][2] = {{CB_F32, CB_F32},  {CB_F32, CB_BF16}, {CB_F32, CB_F16}, {CB_BF16, CB_F32},
                                        {CB_BF16, CB_F16}, {CB_F16, CB_F16},  {CB_F16, CB_F32}, {CB_BF16, CB_BF16}};
    static const int64_t ranks[] = {1, 3, 4, 8, 12, 16, 32, 33, 64};
    FOR_EACH_ISA
    {
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
                for (int64_t each = 1; each <= 16; each += each < 6 ? 1 : 5)
                    check_low_rank(kinds[k][0], kinds[k][1], ranks[r], 3, 3 * each - (each > 1), 70, 45);
        check_low_rank(CB_F32, CB_F32, 8, 2, 40, 70, 45); /* many rows, and a rank that is large: other ways */
        check_low_rank(CB_F32, CB_F32, 65, 2, 5, 70, 45);
        check_low_rank(CB_F64, CB_F64, 8, 2, 5, 70, 45);
        check_low_rank(CB_F32, CB_F32, 8, 5, 3, 33, 200); /* pairs without rows */
    }
}

static void product_blocks_of_converted_operands_fit_together(void **state)
{
    (void)state;
    FOR_EACH_ISA
    {
        check_product(&(product_case){
            .m = 3, .n = 2500, .k = 1024, .batch = 1, .transb = true, .a = CB_F32, .b = CB_BF16, .c = CB_F32, .alpha = 1, .bias = CB_F32});
        check_product(&(product_case){.m = 2300,
                                      .n = 3,
                                      .k = 1024,
                                      .batch = 1,
                                      .transa = true,
                                      .a = CB_F16,
                                      .b = CB_F32,
                                      .c = CB_F32,
                                      .alpha = 1,
                                      .beta = 1,
                                      .bias = -1});
    }
    cbk_gemm_args bad = {
        .m = 2, .n = 2, .k = 3, .a_dtype = CB_F32, .b_dtype = CB_F32, .c_dtype = CB_F32, .lda = 2, .ldb = 2, .ldc = 2, .alpha = 1};
    assert_false(cbk_gemm(&bad));
    cb_error_clear();
    bad.a_dtype = CB_I32;
    assert_false(cbk_gemm(&bad));
    cb_error_clear();
}

static void repeated_products_allocate_nothing_new(void **state)
{
    (void)state;
    product_case p = {.m = 64, .n = 64, .k = 64, .batch = 1, .a = CB_F32, .b = CB_F32, .c = CB_F32, .alpha = 1, .bias = -1};
    check_product(&p);
    uint64_t before = cb_memory().system_allocations;
    for (int i = 0; i < 20; i++)
        check_product(&p);
#if defined(__SANITIZE_ADDRESS__) /* under which freed memory goes back to the system at once */
    assert_true(cb_memory().system_allocations >= before);
#else
    assert_int_equal(cb_memory().system_allocations, before);
#endif
    for (int i = 1; i < 600; i++) { /* more shapes than the cache holds */
        p.k = i;
        p.m = p.n = 2;
        check_product(&p);
    }
    uint64_t live = cb_memory().live_bytes;
    cbk_gemm_flush();
    assert_true(cb_memory().live_bytes < live);
}

/* ---- norms ---- */

static double norm_value(bool layer, const double *x, const double *w, const double *b, int64_t c, int64_t at, double eps)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < c; i++)
        mean += layer ? x[i] / (double)c : 0;
    for (int64_t i = 0; i < c; i++)
        square += (x[i] - mean) * (x[i] - mean) / (double)c;
    return (x[at] - mean) / sqrt(square + eps) * (w ? w[at] : 1) + (b ? b[at] : 0);
}

/* sum of dy * y for one row */
static double norm_loss(bool layer, const double *x, const double *w, const double *b, const double *dy, int64_t c, double eps)
{
    double loss = 0;
    for (int64_t i = 0; i < c; i++)
        loss += dy[i] * norm_value(layer, x, w, b, c, i, eps);
    return loss;
}

static void check_norm(bool layer, cb_dtype dtype, cb_dtype weight_dtype, bool weighted, int64_t n, int64_t c)
{
    double eps = 1e-3, h = 1e-5;
    cb_dtype stats = dtype == CB_F64 ? CB_F64 : CB_F32;
    array x = array_random(dtype, n * c, -2, 2), dy = array_random(dtype, n * c, -1, 1), w = array_random(weight_dtype, c, 0.5, 1.5),
          b = array_random(weight_dtype, c, -1, 1), y = array_new(dtype, n * c), mean = array_new(stats, n), rstd = array_new(stats, n),
          dx = array_new(dtype, n * c), dw = array_random(stats, c, -1, 1), db = array_random(stats, c, -1, 1);
    void *wp = weighted ? w.data : NULL, *bp = weighted && layer ? b.data : NULL;
    const double *we = weighted ? w.exact : NULL, *be = weighted && layer ? b.exact : NULL;
    double *expected = cb_alloc((size_t)(n * c + 1) * sizeof *expected), *row = cb_alloc((size_t)(c + 1) * sizeof *row);
    for (int64_t i = 0; i < n * c; i++)
        expected[i] = norm_value(layer, x.exact + i / c * c, we, be, c, i % c, eps);
    assert_true(layer ? cbk_layer_norm_forward(dtype, y.data, mean.data, rstd.data, x.data, wp, bp, weight_dtype, n, c, eps)
                      : cbk_rms_norm_forward(dtype, y.data, rstd.data, x.data, wp, weight_dtype, n, c, eps));
    array_expect(&y, expected, 2e-6, 3e-6, "norm");
    double *ew = cb_alloc((size_t)(c + 1) * sizeof *ew), *eb = cb_alloc((size_t)(c + 1) * sizeof *eb);
    memcpy(ew, dw.exact, (size_t)c * sizeof *ew);
    memcpy(eb, db.exact, (size_t)c * sizeof *eb);
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < c; i++) {
            memcpy(row, x.exact + r * c, (size_t)c * sizeof *row);
            row[i] += h;
            double up = norm_loss(layer, row, we, be, dy.exact + r * c, c, eps);
            row[i] -= 2 * h;
            expected[r * c + i] = (up - norm_loss(layer, row, we, be, dy.exact + r * c, c, eps)) / (2 * h);
            ew[i] += dy.exact[r * c + i] * norm_value(layer, x.exact + r * c, NULL, NULL, c, i, eps);
            eb[i] += dy.exact[r * c + i];
        }
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        assert_true(layer ? cbk_layer_norm_backward(dtype, dx.data, accumulate, accumulate ? NULL : dw.data, accumulate ? NULL : db.data,
                                                    dy.data, x.data, wp, weight_dtype, mean.data, rstd.data, n, c)
                          : cbk_rms_norm_backward(dtype, dx.data, accumulate, accumulate ? NULL : dw.data, dy.data, x.data, wp,
                                                  weight_dtype, rstd.data, n, c));
        array_expect(&dx, expected, dtype == CB_F64 ? 1e-7 : 3e-5, dtype == CB_BF16 ? 0.01 : 1e-3,
                     accumulate ? "norm, dx added" : "norm, dx");
        for (int64_t i = 0; i < n * c; i++)
            expected[i] *= 2;
    }
    array_expect(&dw, ew, 2e-5, 1e-5, "norm, dweight");
    if (layer)
        array_expect(&db, eb, 2e-5, 1e-5, "norm, dbias");
    array *all[] = {&x, &dy, &w, &b, &y, &mean, &rstd, &dx, &dw, &db};
    for (int i = 0; i < 10; i++)
        array_free(all[i]);
    cb_free(expected);
    cb_free(row);
    cb_free(ew);
    cb_free(eb);
}

static void norms_and_their_gradients(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {3, 7}, {40, 16}, {5, 33}, {2, 130}, {0, 8}};
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++)
        for (int s = 0; s < 6; s++)
            for (int variant = 0; variant < 4; variant++)
                check_norm(variant & 1, floats[t],
                           s % 2                 ? floats[t]
                           : floats[t] == CB_F64 ? CB_F64
                                                 : CB_BF16,
                           variant & 2, shapes[s][0], shapes[s][1]);
}

static void parameter_gradients_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { N = 999, C = 257 };
    array x = array_random(CB_F32, N * C, -1, 1), dy = array_random(CB_F32, N * C, -1, 1), rstd = array_new(CB_F32, N),
          y = array_new(CB_F32, N * C);
    float dw[2][C] = {{0}};
    for (int i = 0; i < 2; i++) {
        omp_set_num_threads(1 + 2 * i);
        assert_true(cbk_rms_norm_forward(CB_F32, y.data, rstd.data, x.data, NULL, CB_F32, N, C, 1e-6));
        assert_true(cbk_rms_norm_backward(CB_F32, NULL, false, dw[i], dy.data, x.data, NULL, CB_F32, rstd.data, N, C));
    }
    omp_set_num_threads(2);
    assert_memory_equal(dw[0], dw[1], sizeof dw[0]);
    array *all[] = {&x, &dy, &rstd, &y};
    for (int i = 0; i < 4; i++)
        array_free(all[i]);
}

/* ---- softmax ---- */

static void softmax_both_ways(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 2, 16, 31, 100};
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++)
        for (int s = 0; s < 5; s++)
            for (int log_form = 0; log_form < 2; log_form++) {
                int64_t n = 3, k = widths[s];
                array x = array_random(floats[t], n * k, -20, 20), dy = array_random(floats[t], n * k, -1, 1),
                      y = array_new(floats[t], n * k);
                double expected[300], de[300];
                for (int64_t r = 0; r < n; r++) {
                    double sum = 0;
                    for (int64_t i = 0; i < k; i++)
                        sum += exp(x.exact[r * k + i]);
                    for (int64_t i = 0; i < k; i++)
                        expected[r * k + i] = log_form ? x.exact[r * k + i] - log(sum) : exp(x.exact[r * k + i]) / sum;
                }
                assert_true(cbk_softmax_forward(floats[t], y.data, x.data, n, k, log_form));
                array_expect(&y, expected, 1e-6, 1e-5, "softmax");
                for (int64_t r = 0; r < n; r++) /* the Jacobian, entry by entry, from the rounded y the kernel sees */
                    for (int64_t i = 0; i < k; i++) {
                        double g = 0;
                        for (int64_t j = 0; j < k; j++) {
                            double yi = y.exact[r * k + i], yj = y.exact[r * k + j];
                            g += dy.exact[r * k + j] * (log_form ? (i == j) - exp(yi) : yj * ((i == j) - yi));
                        }
                        de[r * k + i] = g;
                    }
                assert_true(cbk_softmax_backward(floats[t], dy.data, dy.data, y.data, n, k, log_form));
                array_expect(&dy, de, 1e-5, 1e-5, "softmax, dx");
                array_free(&x);
                array_free(&dy);
                array_free(&y);
            }
    float row[3] = {1, NAN, 2};
    FOR_EACH_ISA
    {
        float y[3];
        assert_true(cbk_softmax_forward(CB_F32, y, row, 1, 3, false));
        assert_true(isnan(y[0]) && isnan(y[1]));
    }
}

/* ---- rotary embedding ---- */

static void rotary_embedding_turns_and_turns_back(void **state)
{
    (void)state;
    enum { TOKENS = 6, HEADS = 3, ROWS = 11, D = 42, R = 34, STRIDE = HEADS * D + 10 };
    static float cosines[ROWS * R / 2], sines[ROWS * R / 2];
    int32_t positions[TOKENS] = {0, 1, 2, 10, 3, 3};
    for (int p = 0; p < ROWS; p++)
        for (int i = 0; i < R / 2; i++) {
            cosines[p * R / 2 + i] = cosf((float)p / powf(100, (float)i / 17));
            sines[p * R / 2 + i] = sinf((float)p / powf(100, (float)i / 17));
        }
    FOR_EACH_ISA
    for (int t = 0; t < 4; t++) {
        array x = array_random(floats[t], TOKENS * STRIDE, -1, 1), y = array_new(floats[t], TOKENS * HEADS * D),
              back = array_new(floats[t], TOKENS * HEADS * D);
        double expected[TOKENS * HEADS * D], original[TOKENS * HEADS * D];
        for (int n = 0; n < TOKENS; n++)
            for (int h = 0; h < HEADS; h++)
                for (int i = 0; i < D; i++) {
                    const double *v = x.exact + n * STRIDE + h * D;
                    int pair = i % (R / 2), at = positions[n] * R / 2 + pair;
                    double c = (double)cosines[at], s = (double)sines[at];
                    expected[(n * HEADS + h) * D + i] = i >= R      ? v[i]
                                                        : i < R / 2 ? v[pair] * c - v[pair + R / 2] * s
                                                                    : v[pair + R / 2] * c + v[pair] * s;
                    original[(n * HEADS + h) * D + i] = v[i];
                }
        cbk_rope_args a = {.dtype = floats[t],
                           .y = y.data,
                           .x = x.data,
                           .x_token_stride = STRIDE,
                           .x_head_stride = D,
                           .y_token_stride = HEADS * D,
                           .y_head_stride = D,
                           .cos = cosines,
                           .sin = sines,
                           .table_rows = ROWS,
                           .positions = positions,
                           .tokens = TOKENS,
                           .heads = HEADS,
                           .head_size = D,
                           .rotary = R};
        assert_true(cbk_rope(&a));
        array_expect(&y, expected, 1e-6, 0, "rope");
        memcpy(back.data, y.data, (size_t)y.count * cb_dtype_size(floats[t]));
        a.x = a.y = back.data;
        a.x_token_stride = HEADS * D;
        a.inverse = true;
        assert_true(cbk_rope(&a));
        array_expect(&back, original, floats[t] == CB_F64 ? 1e-6 : floats[t] == CB_F32 ? 1e-6 : 0.01, 0, "rope, back");
        array_free(&x);
        array_free(&y);
        array_free(&back);
    }
    positions[4] = ROWS;
    float v[2] = {0};
    cbk_rope_args bad = {.dtype = CB_F32,
                         .y = v,
                         .x = v,
                         .cos = cosines,
                         .sin = sines,
                         .table_rows = ROWS,
                         .positions = positions + 4,
                         .tokens = 1,
                         .heads = 1,
                         .head_size = 2,
                         .rotary = 2};
    assert_false(cbk_rope(&bad));
    cb_error_clear();
}

/* ---- cross-entropy ---- */

static void check_cross_entropy(cb_dtype dtype, cb_dtype w_dtype, int64_t n, int64_t c, int64_t v, double smoothing, bool mean, bool ignore)
{
    array x = array_random(dtype, n * c, -1, 1), w = array_random(w_dtype, v * c, -1, 1), bias = array_random(CB_F32, v, -1, 1);
    cb_dtype stats = dtype == CB_F64 ? CB_F64 : CB_F32;
    array dx = array_random(dtype, n * c, -1, 1), dw = array_new(stats, v * c), db = array_new(CB_F32, v), logits = array_new(stats, n * v),
          dl = array_new(stats, n * v), row_loss = array_new(CB_F32, n);
    int64_t *targets = cb_calloc((size_t)n + 1, sizeof *targets), count = 0;
    double *edx = cb_calloc((size_t)(n * c), sizeof *edx), *edw = cb_calloc((size_t)(v * c), sizeof *edw),
           *edb = cb_calloc((size_t)v, sizeof *edb);
    double *edl = cb_calloc((size_t)(n * v), sizeof *edl), *losses = cb_calloc((size_t)n, sizeof *losses), total = 0;
    for (int64_t i = 0; i < n; i++) {
        targets[i] = ignore && i % 3 == 1 ? -100 : (i * 7) % v;
        count += targets[i] >= 0;
    }
    double scale = 0.5 / (mean && count ? (double)count : 1);
    for (int64_t i = 0; i < n; i++) {
        double *l = logits.exact + i * v, sum = 0, average = 0;
        for (int64_t j = 0; j < v; j++) {
            l[j] = bias.exact[j];
            for (int64_t q = 0; q < c; q++)
                l[j] += x.exact[i * c + q] * w.exact[j * c + q];
            sum += exp(l[j]);
            average += l[j] / (double)v;
        }
        if (targets[i] < 0)
            continue;
        losses[i] = log(sum) - (1 - smoothing) * l[targets[i]] - smoothing * average;
        total += losses[i];
        for (int64_t j = 0; j < v; j++) {
            double g = scale * (exp(l[j]) / sum - (j == targets[i] ? 1 - smoothing : 0) - smoothing / (double)v);
            edl[i * v + j] = g;
            edb[j] += g;
            for (int64_t q = 0; q < c; q++) {
                edx[i * c + q] += g * w.exact[j * c + q];
                edw[j * c + q] += g * x.exact[i * c + q];
            }
        }
    }
    cbk_linear_cross_entropy_args a = {.x = x.data,
                                       .x_dtype = dtype,
                                       .w = w.data,
                                       .w_dtype = w_dtype,
                                       .bias = bias.data,
                                       .bias_dtype = CB_F32,
                                       .targets = targets,
                                       .target_dtype = CB_I64,
                                       .n = n,
                                       .c = c,
                                       .v = v,
                                       .ignore_index = -100,
                                       .label_smoothing = smoothing,
                                       .gradient_scale = 0.5,
                                       .mean = mean,
                                       .dx = dx.data,
                                       .dw = dw.data,
                                       .dw_dtype = stats,
                                       .dbias = db.data,
                                       .row_loss = row_loss.data};
    assert_true(cbk_linear_cross_entropy(&a));
    assert_int_equal(a.count, count);
    /* with bf16 the gradient of the logits is rounded before it is multiplied: 2^-9 of each of V terms */
    double loose = dtype == CB_BF16 ? 0.004 : 1e-5, unit = mean ? 1 / (double)(count ? count : 1) : 1;
    assert_true(fabs(a.loss_sum - total) <= (dtype == CB_F16 || w_dtype != dtype ? 1e-3 : 1e-5) * (1 + fabs(total)));
    array_expect(&row_loss, losses, 1e-4, 1e-4, "cross-entropy, rows");
    array_expect(&dx, edx, loose * unit, loose, "cross-entropy, dx");
    array_expect(&dw, edw, loose * unit, loose, "cross-entropy, dw");
    array_expect(&db, edb, loose * unit, loose, "cross-entropy, dbias");
    cbk_convert(logits.exact, CB_F64, logits.data, stats, n * v);
    int32_t *narrow = cb_calloc((size_t)n + 1, sizeof *narrow);
    cbk_convert(targets, CB_I64, narrow, CB_I32, n);
    cbk_cross_entropy_args given = {.dtype = stats,
                                    .logits = logits.data,
                                    .targets = narrow,
                                    .target_dtype = CB_I32,
                                    .n = n,
                                    .v = v,
                                    .ignore_index = -100,
                                    .label_smoothing = smoothing,
                                    .gradient_scale = 0.5,
                                    .mean = mean,
                                    .dlogits = dl.data};
    assert_true(cbk_cross_entropy(&given));
    assert_true(fabs(given.loss_sum - total) <= 1e-5 * (1 + fabs(total)) && given.count == count);
    array_expect(&dl, edl, 1e-6, 1e-5, "cross-entropy, dlogits");
    array *all[] = {&x, &w, &bias, &dx, &dw, &db, &logits, &dl, &row_loss};
    for (int i = 0; i < 9; i++)
        array_free(all[i]);
    void *blocks[] = {targets, edx, edw, edb, edl, losses, narrow};
    for (int i = 0; i < 7; i++)
        cb_free(blocks[i]);
}

static void cross_entropy_and_its_gradients(void **state)
{
    (void)state;
    FOR_EACH_ISA
    for (int t = 0; t < 3; t++) {
        cb_dtype dtype = (cb_dtype[]){CB_F32, CB_BF16, CB_F64}[t];
        check_cross_entropy(dtype, dtype, 1, 3, 2, 0, false, false);
        check_cross_entropy(dtype, dtype, 9, 17, 33, 0.1, true, true);
        check_cross_entropy(dtype, dtype, 40, 8, 101, 0, true, false);
        check_cross_entropy(dtype, dtype, 3, 8, 20000, 0, false, true);
    }
    check_cross_entropy(CB_F32, CB_BF16, 9, 17, 33, 0, true, true);
    check_cross_entropy(CB_F32, CB_F32, 700, 4, 30, 0, true, true); /* several chunks */
    int32_t targets[2] = {0, 5};
    float x[4] = {0}, w[6] = {0};
    cbk_linear_cross_entropy_args bad = {.x = x,
                                         .x_dtype = CB_F32,
                                         .w = w,
                                         .w_dtype = CB_F32,
                                         .targets = targets,
                                         .target_dtype = CB_I32,
                                         .n = 2,
                                         .c = 2,
                                         .v = 3,
                                         .ignore_index = -100};
    assert_false(cbk_linear_cross_entropy(&bad));
    assert_non_null(strstr(cb_error_message(), "5"));
    cb_error_clear();
    targets[0] = targets[1] = -100; /* nothing counts */
    assert_true(cbk_linear_cross_entropy(&bad));
    assert_true(bad.count == 0 && bad.loss_sum == 0);
}

/* ---- attention ---- */

typedef struct attention_case {
    int64_t batch, tq, tk, heads, kv_heads, size, window, prefix;
    bool causal, segments, mask, shared_prefix;
} attention_case;

typedef struct attention_arrays {
    array q, k, v, pk, pv, mask, out, lse, dout;
    int32_t *q_segments, *k_segments;
} attention_arrays;

static attention_arrays attention_inputs(const attention_case *c, cb_dtype dtype)
{
    int64_t prefixes = c->shared_prefix ? 1 : c->batch;
    attention_arrays s = {.q = array_random(dtype, c->batch * c->tq * c->heads * c->size, -2, 2),
                          .k = array_random(dtype, c->batch * c->tk * c->kv_heads * c->size, -2, 2),
                          .v = array_random(dtype, c->batch * c->tk * c->kv_heads * c->size, -1, 1),
                          .pk = array_random(dtype, prefixes * c->prefix * c->kv_heads * c->size, -2, 2),
                          .pv = array_random(dtype, prefixes * c->prefix * c->kv_heads * c->size, -1, 1),
                          .mask = array_random(CB_F32, c->heads * c->tq * c->tk, -1, 1),
                          .out = array_new(dtype, c->batch * c->tq * c->heads * c->size),
                          .dout = array_random(dtype, c->batch * c->tq * c->heads * c->size, -1, 1),
                          .lse = array_new(dtype == CB_F64 ? CB_F64 : CB_F32, c->batch * c->heads * c->tq)};
    s.q_segments = cb_calloc((size_t)(c->batch * c->tq + 1), sizeof(int32_t));
    s.k_segments = cb_calloc((size_t)(c->batch * c->tk + 1), sizeof(int32_t));
    for (int64_t b = 0; b < c->batch; b++)
        for (int64_t i = 0; i < c->tk; i++) { /* three documents and some padding */
            int32_t id = i >= c->tk - 2 && b == 0 ? -1 : (int32_t)(i * 3 / c->tk);
            s.k_segments[b * c->tk + i] = id;
            if (i >= c->tk - c->tq)
                s.q_segments[b * c->tq + i - (c->tk - c->tq)] = id;
        }
    return s;
}

static cbk_attention_args attention_arguments(const attention_case *c, attention_arrays *s, cb_dtype dtype)
{
    int64_t q_time = c->heads * c->size, k_time = c->kv_heads * c->size;
    cbk_attention_args a = {.dtype = dtype,
                            .batch = c->batch,
                            .tq = c->tq,
                            .tk = c->tk,
                            .heads = c->heads,
                            .kv_heads = c->kv_heads,
                            .head_size = c->size,
                            .q = s->q.data,
                            .k = s->k.data,
                            .v = s->v.data,
                            .q_stride = {c->tq * q_time, q_time, c->size},
                            .k_stride = {c->tk * k_time, k_time, c->size},
                            .v_stride = {c->tk * k_time, k_time, c->size},
                            .scale = 1 / sqrt((double)c->size),
                            .causal = c->causal,
                            .window = c->window,
                            .prefix = c->prefix,
                            .out = s->out.data,
                            .out_stride = {c->tq * q_time, q_time, c->size},
                            .lse = s->lse.data};
    if (c->segments) {
        a.q_segments = s->q_segments;
        a.k_segments = s->k_segments;
    }
    if (c->mask) { /* one for all of the batch */
        a.mask = s->mask.data;
        a.mask_head_stride = c->tq * c->tk;
        a.mask_query_stride = c->tk;
        a.mask_key_stride = 1;
    }
    if (c->prefix) {
        a.prefix_k = s->pk.data;
        a.prefix_v = s->pv.data;
        a.prefix_batch_stride = c->shared_prefix ? 0 : c->prefix * k_time;
    }
    return a;
}

/* Result and all gradients by the definition: weights p (of one query), then the chain rule. */
typedef struct attention_reference {
    double *out, *dq, *dk, *dv, *dpk, *dpv, *dmask;
} attention_reference;

static void reference_query(const attention_case *c, const attention_arrays *s, attention_reference *r, int64_t b, int64_t h, int64_t t)
{
    int64_t keys = c->prefix + c->tk, g = h / (c->heads / c->kv_heads), d = c->size, q_at = ((b * c->tq + t) * c->heads + h) * d;
    double *p = cb_calloc((size_t)keys + 1, sizeof *p), sum = 0, scale = 1 / sqrt((double)d), delta = 0;
    int64_t *at = cb_calloc((size_t)keys + 1, sizeof *at);
    for (int64_t j = 0; j < keys; j++) {
        bool prefix = j < c->prefix;
        int64_t key = j - c->prefix, now = t + c->tk - c->tq;
        at[j] = prefix ? (((c->shared_prefix ? 0 : b) * c->prefix + j) * c->kv_heads + g) * d : ((b * c->tk + key) * c->kv_heads + g) * d;
        bool seen =
            prefix ||
            ((!c->causal || key <= now) && (c->window == 0 || key > now - c->window) &&
             (!c->segments || (s->q_segments[b * c->tq + t] >= 0 && s->q_segments[b * c->tq + t] == s->k_segments[b * c->tk + key])));
        const double *k = (prefix ? s->pk.exact : s->k.exact) + at[j];
        double x = 0;
        for (int64_t i = 0; i < d; i++)
            x += s->q.exact[q_at + i] * k[i] * scale;
        if (c->mask && !prefix)
            x += s->mask.exact[(h * c->tq + t) * c->tk + key];
        p[j] = seen ? exp(x) : 0;
        sum += p[j];
    }
    for (int64_t j = 0; j < keys; j++) {
        p[j] = sum > 0 ? p[j] / sum : 0;
        const double *v = (j < c->prefix ? s->pv.exact : s->v.exact) + at[j];
        for (int64_t i = 0; i < d; i++) {
            r->out[q_at + i] += p[j] * v[i];
            delta += p[j] * v[i] * s->dout.exact[q_at + i];
        }
    }
    for (int64_t j = 0; j < keys; j++) {
        bool prefix = j < c->prefix;
        const double *v = (prefix ? s->pv.exact : s->v.exact) + at[j], *k = (prefix ? s->pk.exact : s->k.exact) + at[j];
        double dp = 0;
        for (int64_t i = 0; i < d; i++)
            dp += v[i] * s->dout.exact[q_at + i];
        double ds = p[j] * (dp - delta);
        if (!prefix)
            r->dmask[((b * c->heads + h) * c->tq + t) * c->tk + j - c->prefix] = ds;
        for (int64_t i = 0; i < d; i++) {
            r->dq[q_at + i] += ds * scale * k[i];
            (prefix ? r->dpk : r->dk)[at[j] + i] += ds * scale * s->q.exact[q_at + i];
            (prefix ? r->dpv : r->dv)[at[j] + i] += p[j] * s->dout.exact[q_at + i];
        }
    }
    cb_free(p);
    cb_free(at);
}

static void check_attention(const attention_case *c, cb_dtype dtype)
{
    attention_arrays s = attention_inputs(c, dtype);
    cbk_attention_args a = attention_arguments(c, &s, dtype);
    array dq = array_new(dtype, s.q.count), dk = array_new(dtype, s.k.count), dv = array_new(dtype, s.v.count),
          dpk = array_new(s.lse.dtype, s.pk.count), dpv = array_new(s.lse.dtype, s.pv.count),
          dmask = array_random(CB_F32, c->batch * c->heads * c->tq * c->tk, 5, 6);
    attention_reference r = {.out = cb_calloc((size_t)s.q.count + 1, sizeof(double)),
                             .dq = cb_calloc((size_t)s.q.count + 1, sizeof(double)),
                             .dk = cb_calloc((size_t)s.k.count + 1, sizeof(double)),
                             .dv = cb_calloc((size_t)s.v.count + 1, sizeof(double)),
                             .dpk = cb_calloc((size_t)s.pk.count + 1, sizeof(double)),
                             .dpv = cb_calloc((size_t)s.pv.count + 1, sizeof(double)),
                             .dmask = cb_calloc((size_t)dmask.count + 1, sizeof(double))};
    for (int64_t u = 0; u < c->batch * c->heads * c->tq; u++)
        reference_query(c, &s, &r, u / c->tq / c->heads, u / c->tq % c->heads, u % c->tq);
    if (!cbk_attention_forward(&a))
        fail_msg("attention: %s", cb_error_message());
    char what[120];
    snprintf(what, sizeof what, "attention tq %lld tk %lld H %lld/%lld D %lld window %lld prefix %lld causal %d segments %d mask %d",
             (long long)c->tq, (long long)c->tk, (long long)c->heads, (long long)c->kv_heads, (long long)c->size, (long long)c->window,
             (long long)c->prefix, c->causal, c->segments, c->mask);
    /* bf16: weights (relative error 2^-9 each) and results are rounded */
    double absolute = dtype == CB_F64   ? 1e-12
                      : dtype == CB_F32 ? 2e-6
                                        : 4e-3,
           relative = dtype == CB_BF16  ? 4e-3
                      : dtype == CB_F32 ? 2e-5
                                        : 1e-12;
    array_expect(&s.out, r.out, absolute, relative, what);
    cbk_attention_gradients g = {.dout = s.dout.data,
                                 .dout_stride = a.out_stride,
                                 .dq = dq.data,
                                 .dk = dk.data,
                                 .dv = dv.data,
                                 .dq_stride = a.q_stride,
                                 .dk_stride = a.k_stride,
                                 .dv_stride = a.v_stride,
                                 .dprefix_k = c->prefix ? dpk.data : NULL,
                                 .dprefix_v = c->prefix ? dpv.data : NULL,
                                 .dmask = c->mask ? dmask.data : NULL};
    if (!cbk_attention_backward(&a, &g))
        fail_msg("attention: %s", cb_error_message());
    absolute *= dtype == CB_F32 ? 4 : dtype == CB_BF16 ? 6 : 1;
    relative *= 4;
    array_expect(&dq, r.dq, absolute, relative, what);
    array_expect(&dk, r.dk, absolute, relative, what);
    array_expect(&dv, r.dv, absolute, relative, what);
    array_expect(&dpk, r.dpk, absolute, relative, what);
    array_expect(&dpv, r.dpv, absolute, relative, what);
    if (c->mask)
        array_expect(&dmask, r.dmask, dtype == CB_F64 ? 1e-6 : absolute, relative, what);
    array *all[] = {&s.q, &s.k, &s.v, &s.pk, &s.pv, &s.mask, &s.out, &s.lse, &s.dout, &dq, &dk, &dv, &dpk, &dpv, &dmask};
    for (int i = 0; i < 15; i++)
        array_free(all[i]);
    void *blocks[] = {s.q_segments, s.k_segments, r.out, r.dq, r.dk, r.dv, r.dpk, r.dpv, r.dmask};
    for (int i = 0; i < 9; i++)
        cb_free(blocks[i]);
}

static void attention_and_its_gradients(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {.batch = 1, .tq = 1, .tk = 1, .heads = 1, .kv_heads = 1, .size = 8},
        {.batch = 2, .tq = 70, .tk = 70, .heads = 2, .kv_heads = 2, .size = 64, .causal = true},
        {.batch = 1, .tq = 130, .tk = 130, .heads = 4, .kv_heads = 2, .size = 16, .causal = true, .segments = true},
        {.batch = 2, .tq = 65, .tk = 65, .heads = 2, .kv_heads = 1, .size = 40, .segments = true},
        {.batch = 1, .tq = 5, .tk = 200, .heads = 3, .kv_heads = 3, .size = 17, .causal = true},
        {.batch = 1, .tq = 200, .tk = 200, .heads = 1, .kv_heads = 1, .size = 32, .causal = true, .window = 20},
        {.batch = 2, .tq = 33, .tk = 33, .heads = 2, .kv_heads = 1, .size = 24, .causal = true, .prefix = 5},
        {.batch = 3, .tq = 20, .tk = 20, .heads = 2, .kv_heads = 2, .size = 16, .causal = true, .prefix = 66, .shared_prefix = true},
        {.batch = 2, .tq = 40, .tk = 70, .heads = 2, .kv_heads = 2, .size = 128, .mask = true},
        {.batch = 1, .tq = 9, .tk = 9, .heads = 1, .kv_heads = 1, .size = 256, .mask = true, .causal = true, .prefix = 3},
        {.batch = 2, .tq = 64, .tk = 128, .heads = 1, .kv_heads = 1, .size = 80},
        {.batch = 1, .tq = 3, .tk = 0, .heads = 1, .kv_heads = 1, .size = 8},
        {.batch = 1, .tq = 0, .tk = 4, .heads = 1, .kv_heads = 1, .size = 8},
        {.batch = 1, .tq = 6, .tk = 4, .heads = 1, .kv_heads = 1, .size = 8, .causal = true}, /* the first two queries
  see nothing */
    };
    FOR_EACH_ISA
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_attention(&cases[i], CB_F32);
        check_attention(&cases[i], CB_BF16);
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i], CB_F64);
}

static void attention_reads_views_and_lets_nan_through(void **state)
{
    (void)state;
    enum { T = 10, H = 2, D = 16, FUSED = 3 * H * D };
    array fused = array_random(CB_F32, T * FUSED, -1, 1);
    float apart[3][T * H * D], out[2][T * H * D];
    const float *f = fused.data;
    for (int t = 0; t < T; t++)
        for (int part = 0; part < 3; part++)
            memcpy(apart[part] + t * H * D, f + t * FUSED + part * H * D, H * D * sizeof *f);
    cbk_attention_args a = {.dtype = CB_F32,
                            .batch = 1,
                            .tq = T,
                            .tk = T,
                            .heads = H,
                            .kv_heads = H,
                            .head_size = D,
                            .q = f,
                            .k = f + H * D,
                            .v = f + 2 * H * D,
                            .q_stride = {0, FUSED, D},
                            .k_stride = {0, FUSED, D},
                            .v_stride = {0, FUSED, D},
                            .scale = 0.25,
                            .causal = true,
                            .out = out[0],
                            .out_stride = {0, H * D, D}};
    assert_true(cbk_attention_forward(&a));
    a.q = apart[0];
    a.k = apart[1];
    a.v = apart[2];
    a.q_stride = a.k_stride = a.v_stride = a.out_stride;
    a.out = out[1];
    assert_true(cbk_attention_forward(&a));
    assert_memory_equal(out[0], out[1], sizeof out[0]);
    apart[0][3 * H * D] = NAN; /* one query */
    FOR_EACH_ISA
    {
        assert_true(cbk_attention_forward(&a));
        assert_true(isnan(out[1][3 * H * D]) && !isnan(out[1][2 * H * D]) && !isnan(out[1][4 * H * D]));
    }
    array_free(&fused);
    a.dtype = CB_F16;
    assert_false(cbk_attention_forward(&a));
    cb_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_every_shape_and_kind),
        cmocka_unit_test(thin_products),
        cmocka_unit_test(low_rank_updates_of_rows_here_and_there),
        cmocka_unit_test(product_blocks_of_converted_operands_fit_together),
        cmocka_unit_test(repeated_products_allocate_nothing_new),
        cmocka_unit_test(norms_and_their_gradients),
        cmocka_unit_test(parameter_gradients_do_not_depend_on_threads),
        cmocka_unit_test(softmax_both_ways),
        cmocka_unit_test(rotary_embedding_turns_and_turns_back),
        cmocka_unit_test(cross_entropy_and_its_gradients),
        cmocka_unit_test(attention_and_its_gradients),
        cmocka_unit_test(attention_reads_views_and_lets_nan_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
