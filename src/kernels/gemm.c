/* gemm.c: matrix products.
 *
 * A product whose dtypes oneDNN takes as they are (f32; bf16 with bf16 or f32 results, given AVX-512) goes to it in
 * place, whatever the transpositions and leading dimensions.  Any other mixture is cut into blocks, whose operands are
 * converted into scratch memory first; so is a quantised matrix.  f64 is a plain loop: only gradient checks use it.  Products with one small
 * dimension have kernels of their own (gemm_thin.c; gemm_rows.c where its rows are decoded on the way); gemm_blocks.c shares a product
 * among threads, gemm_onednn.c keeps the primitives. */
#include "kernels/gemm.h"

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

/* Elements of a converted block: small enough to stay in the last-level cache. */
enum { BLOCK_ELEMENTS = 1 << 21 };

/* B's stored rows are whole, and its blocks begin with them. */
static bool check_quantized(const cbk_gemm_args *g)
{
    bool fits = g->batch <= 1 && g->ldb == (g->transb ? g->k : g->n) && g->ldb % cb_dtype_block(g->b_dtype) == 0;
    return fits || cb_fail(CB_ERR_ARGUMENT, "gemm: %s of k %lld, n %lld in rows of %lld, expected a whole matrix and rows of whole blocks",
                           cb_dtype_name(g->b_dtype), (long long)g->k, (long long)g->n, (long long)g->ldb) == CB_OK;
}

static bool check(const cbk_gemm_args *g)
{
    bool quantized = cb_dtype_is_quantized(g->b_dtype);
    cb_dtype b_dtype = quantized ? g->a_dtype : g->b_dtype;
    bool all_f64 = g->a_dtype == CB_F64 && g->b_dtype == CB_F64 && g->c_dtype == CB_F64;
    bool dtypes = all_f64 || (cbk_is_vector_dtype(g->a_dtype) && cbk_is_vector_dtype(b_dtype) && cbk_is_vector_dtype(g->c_dtype));
    if (!dtypes || (g->bias && g->bias_dtype > CB_F64))
        return cb_fail(CB_ERR_UNSUPPORTED, "gemm: %s times %s into %s is not supported", cb_dtype_name(g->a_dtype),
                       cb_dtype_name(g->b_dtype), cb_dtype_name(g->c_dtype)) == CB_OK;
    bool sizes = g->m >= 0 && g->n >= 0 && g->k >= 0 && g->batch >= 0 && g->lda >= (g->transa ? g->m : g->k) &&
                 g->ldb >= (g->transb ? g->k : g->n) && g->ldc >= g->n;
    if (!sizes)
        return cb_fail(CB_ERR_ARGUMENT, "gemm: m %lld, n %lld, k %lld, leading dimensions %lld, %lld, %lld do not fit together",
                       (long long)g->m, (long long)g->n, (long long)g->k, (long long)g->lda, (long long)g->ldb, (long long)g->ldc) == CB_OK;
    return !quantized || check_quantized(g);
}

static const char *at(const void *p, cb_dtype dtype, int64_t element)
{
    return (const char *)p + element * (int64_t)cb_dtype_size(dtype);
}

/* ---- nothing to multiply ---- */

static double element(const void *p, cb_dtype dtype, int64_t i)
{
    double x;
    cbk_convert(at(p, dtype, i), dtype, &x, CB_F64, 1);
    return x;
}

/* C = beta C + bias */
static void scale_only(const cbk_gemm_args *g)
{
    int64_t batch = g->batch > 1 ? g->batch : 1;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->n; j++) {
                int64_t to = b * g->stride_c + i * g->ldc + j;
                double x = g->beta == 0 ? 0 : g->beta * element(g->c, g->c_dtype, to);
                x += g->bias ? element(g->bias, g->bias_dtype, j) : 0;
                cbk_convert(&x, CB_F64, (char *)g->c + to * (int64_t)cb_dtype_size(g->c_dtype), g->c_dtype, 1);
            }
}

/* ---- f64 ---- */

static void row_f64(const cbk_gemm_args *g, const double *a, const double *b, double *c, int64_t i)
{
    int64_t step_a = g->transa ? g->lda : 1, step_b = g->transb ? 1 : g->ldb, next_b = g->transb ? g->ldb : 1;
    const double *row = a + i * (g->transa ? 1 : g->lda);
    for (int64_t j = 0; j < g->n; j++) {
        double s = 0;
        for (int64_t p = 0; p < g->k; p++)
            s += row[p * step_a] * b[p * step_b + j * next_b];
        double *to = &c[i * g->ldc + j];
        *to = g->alpha * s + (g->beta == 0 ? 0 : g->beta * *to) + (g->bias ? element(g->bias, g->bias_dtype, j) : 0);
    }
}

static void gemm_f64(const cbk_gemm_args *g)
{
    int64_t batch = g->batch > 1 ? g->batch : 1;
    int threads = cbk_threads(batch * g->m * g->n * g->k * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < batch * g->m; u++) {
        int64_t e = u / g->m;
        row_f64(g, (const double *)g->a + e * g->stride_a, (const double *)g->b + e * g->stride_b, (double *)g->c + e * g->stride_c,
                u % g->m);
    }
}

/* ---- mixed dtypes, block by block ---- */

/* Rows and columns of a stored matrix into scratch, dense, in another dtype. */
static void convert_block(const void *from, cb_dtype from_dtype, int64_t ld, int64_t rows, int64_t columns, void *to, cb_dtype to_dtype)
{
    cbk_copy(to, to_dtype, (int64_t[]){columns, 1}, from, from_dtype, (int64_t[]){ld, 1}, 2, (int64_t[]){rows, columns});
}

/* Operand `which` of a block as the product wants it: its own memory or a converted copy in scratch. */
typedef struct block_operand {
    const void *data;
    int64_t ld;
} block_operand;

static block_operand take(const void *p, cb_dtype dtype, int64_t ld, bool transposed, int64_t first, int64_t count, int64_t k,
                          cb_dtype wanted, void *scratch)
{
    /* op(A) rows first.. of k elements; stored (rows, k), or (k, rows) if transposed.  B is the same seen from its
     * columns. */
    const char *from = at(p, dtype, transposed ? first : first * ld);
    if (dtype == wanted)
        return (block_operand){from, ld};
    int64_t rows = transposed ? k : count, columns = transposed ? count : k;
    if (cb_dtype_is_quantized(dtype)) {
        cbk_dequantize_columns(dtype, p, ld, transposed ? 0 : first, rows, transposed ? first : 0, columns, wanted, scratch);
        return (block_operand){scratch, columns};
    }
    convert_block(from, dtype, ld, rows, columns, scratch, wanted);
    return (block_operand){scratch, columns > 0 ? columns : 1};
}

/* A multiple of `unit`: 64, or of every quantised dtype's block where blocks lie along the side that is cut. */
static int64_t block_length(int64_t length, int64_t k, bool convert, int64_t unit)
{
    int64_t most = BLOCK_ELEMENTS / (k > 0 ? k : 1);
    most = most < unit ? unit : most / unit * unit;
    return convert && length > most ? most : length;
}

static bool gemm_block(const cbk_gemm_args *g, cb_dtype compute, cb_dtype result, int64_t m0, int64_t m, int64_t n0, int64_t n,
                       block_operand a, void *scratch_b, void *scratch_c)
{
    cbk_gemm_args s = *g;
    block_operand b = take(g->b, g->b_dtype, g->ldb, !g->transb, n0, n, g->k, compute, scratch_b);
    char *c = (char *)g->c + (m0 * g->ldc + n0) * (int64_t)cb_dtype_size(g->c_dtype);
    s.m = m;
    s.n = n;
    s.a = a.data;
    s.lda = a.ld;
    s.b = b.data;
    s.ldb = b.ld;
    s.a_dtype = s.b_dtype = compute;
    s.bias = g->bias ? at(g->bias, g->bias_dtype, n0) : NULL;
    s.c = c;
    if (result == g->c_dtype)
        return cbk_gemm_blocks(&s);
    if (g->beta != 0)
        convert_block(c, g->c_dtype, g->ldc, m, n, scratch_c, result);
    s.c = scratch_c;
    s.ldc = n;
    s.c_dtype = result;
    if (!cbk_gemm_blocks(&s))
        return false;
    cbk_copy(c, g->c_dtype, (int64_t[]){g->ldc, 1}, scratch_c, result, (int64_t[]){n, 1}, 2, (int64_t[]){m, n});
    return true;
}

/* One product (batch 1) whose operands or result need another dtype. */
static bool gemm_converted(const cbk_gemm_args *g, cb_dtype compute, cb_dtype result)
{
    bool convert_c = result != g->c_dtype;
    int64_t mb = block_length(g->m, convert_c && g->n > g->k ? g->n : g->k, g->a_dtype != compute || convert_c, 64);
    int64_t nb = block_length(g->n, g->k, g->b_dtype != compute, cb_dtype_is_quantized(g->b_dtype) && !g->transb ? 256 : 64);
    size_t size = cb_dtype_size(compute);
    void *scratch_a = g->a_dtype != compute ? cb_alloc((size_t)(mb * g->k) * size) : NULL;
    void *scratch_b = g->b_dtype != compute ? cb_alloc((size_t)(nb * g->k) * size) : NULL;
    void *scratch_c = convert_c ? cb_alloc((size_t)(mb * nb) * cb_dtype_size(result)) : NULL;
    bool ok = (scratch_a || g->a_dtype == compute) && (scratch_b || g->b_dtype == compute) && (scratch_c || !convert_c);
    for (int64_t m0 = 0; ok && m0 < g->m; m0 += mb) {
        int64_t m = g->m - m0 < mb ? g->m - m0 : mb;
        block_operand a = take(g->a, g->a_dtype, g->lda, g->transa, m0, m, g->k, compute, scratch_a);
        for (int64_t n0 = 0; ok && n0 < g->n; n0 += nb)
            ok = gemm_block(g, compute, result, m0, m, n0, g->n - n0 < nb ? g->n - n0 : nb, a, scratch_b, scratch_c);
    }
    cb_free(scratch_a);
    cb_free(scratch_b);
    cb_free(scratch_c);
    return ok;
}

/* A long summed dimension would leave blocks that are narrow and converted many times over, or large: it is cut as well where the sum is kept
 * in f32. */
static bool gemm_converted_long(const cbk_gemm_args *g, cb_dtype compute, cb_dtype result)
{
    enum { LONG = 4096 };
    if (g->k <= 2 * LONG || result != CB_F32 || cb_dtype_is_quantized(g->b_dtype))
        return gemm_converted(g, compute, result);
    cbk_gemm_args piece = *g;
    float *sum = g->c_dtype == CB_F32 ? NULL : cb_alloc((size_t)(g->m * g->n) * sizeof *sum);
    bool ok = sum || g->c_dtype == CB_F32;
    if (sum) {
        piece.c = sum;
        piece.ldc = g->n;
        piece.c_dtype = CB_F32;
        if (g->beta != 0)
            convert_block(g->c, g->c_dtype, g->ldc, g->m, g->n, sum, CB_F32);
    }
    for (int64_t k0 = 0; ok && k0 < g->k; k0 += LONG) {
        piece.k = g->k - k0 < LONG ? g->k - k0 : LONG;
        piece.a = at(g->a, g->a_dtype, g->transa ? k0 * g->lda : k0);
        piece.b = at(g->b, g->b_dtype, g->transb ? k0 : k0 * g->ldb);
        ok = gemm_converted(&piece, compute, result);
        piece.beta = 1;
        piece.bias = NULL;
    }
    if (ok && sum)
        cbk_copy(g->c, g->c_dtype, (int64_t[]){g->ldc, 1}, sum, CB_F32, (int64_t[]){g->n, 1}, 2, (int64_t[]){g->m, g->n});
    cb_free(sum);
    return ok;
}

static bool gemm_converted_batch(const cbk_gemm_args *g, cb_dtype compute, cb_dtype result)
{
    int64_t batch = g->batch > 1 ? g->batch : 1;
    for (int64_t e = 0; e < batch; e++) {
        cbk_gemm_args one = *g;
        one.batch = 1;
        one.a = at(g->a, g->a_dtype, e * g->stride_a);
        one.b = at(g->b, g->b_dtype, e * g->stride_b);
        one.c = (char *)g->c + e * g->stride_c * (int64_t)cb_dtype_size(g->c_dtype);
        if (!gemm_converted_long(&one, compute, result))
            return false;
    }
    return true;
}

bool cbk_gemm(const cbk_gemm_args *g)
{
    if (!check(g))
        return false;
    if (g->m == 0 || g->n == 0)
        return true;
    if (g->k == 0 || g->alpha == 0) {
        scale_only(g);
        return true;
    }
    if (g->a_dtype == CB_F64) {
        gemm_f64(g);
        return true;
    }
    bool quantized = cb_dtype_is_quantized(g->b_dtype);
    if (cbk_gemm_takes_rows(g))
        return cbk_gemm_rows(g);
    bool a_bf16 = g->a_dtype == CB_BF16, b_bf16 = quantized ? a_bf16 : g->b_dtype == CB_BF16;
    bool bf16 = cbk_gemm_has_avx512() && ((a_bf16 && b_bf16) || ((a_bf16 || b_bf16) && g->c_dtype == CB_BF16));
    cb_dtype compute = bf16 ? CB_BF16 : CB_F32;
    cb_dtype result = bf16 && g->c_dtype == CB_BF16 ? CB_BF16 : CB_F32;
    if (g->a_dtype == compute && g->b_dtype == compute && g->c_dtype == result)
        return cbk_gemm_thin(g) || cbk_gemm_blocks(g);
    return gemm_converted_batch(g, compute, result);
}
