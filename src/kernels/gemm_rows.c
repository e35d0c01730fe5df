/* gemm_rows.c: a few rows times a matrix that is read row by row: decoded tokens.
 *
 * Each row of B is read once, taken apart in f32 in registers, and multiplied with every row of A: what it costs is reading B. */
#include "kernels/cpu/vector_table.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

enum { MOST_ROWS = 8 };

bool cbk_gemm_takes_rows(const cbk_gemm_args *g)
{
    /* cbk_gemm_thin() has better products of f32 with wide vectors, and of bf16 where the machine multiplies that */
    bool pairs = cbk_vector_level() >= 3 && g->a_dtype == CB_BF16 && g->b_dtype == CB_BF16;
    bool wide = cbk_vector_level() >= 2 && g->b_dtype == CB_F32;
    return g->transb && g->m <= MOST_ROWS && g->batch <= 1 && !pairs && !wide;
}

/* Row i of C from its products. */
static void finish_row(const cbk_gemm_args *g, int64_t i, float *y, float *scratch)
{
    char *c = (char *)g->c + i * g->ldc * (int64_t)cb_dtype_size(g->c_dtype);
    if (g->beta != 0) {
        cbk_convert(c, g->c_dtype, scratch, CB_F32, g->n);
        cbk_axpby(CB_F32, y, g->beta, scratch, g->alpha, g->n);
    } else if (g->alpha != 1)
        cbk_unary(CBK_SCALE, CB_F32, y, y, g->n, g->alpha, 0);
    if (g->bias) {
        cbk_convert(g->bias, g->bias_dtype, scratch, CB_F32, g->n);
        cbk_axpby(CB_F32, y, 1, scratch, 1, g->n);
    }
    cbk_convert(y, CB_F32, c, g->c_dtype, g->n);
}

static void rehearse(const cbk_gemm_args *g)
{
    if (cb_dtype_is_quantized(g->b_dtype))
        cbk_dequantize(g->b_dtype, g->b, 0, g->n * g->k, CB_F32, NULL);
    else
        cb_rehearsal_read(g->b, (size_t)(g->n * g->ldb) * cb_dtype_size(g->b_dtype));
    cb_rehearsal_operations(2 * (double)g->m * (double)g->n * (double)g->k);
}

bool cbk_gemm_rows(const cbk_gemm_args *g)
{
    int64_t padded = g->m <= 2 ? g->m : g->m <= 4 ? 4 : MOST_ROWS, words = (g->k + 15) / 16 * 16;
    float *x = cb_alloc((size_t)(g->m * g->k) * sizeof *x), *packed = cb_alloc((size_t)(padded * words) * sizeof *packed);
    float *y = cb_alloc((size_t)((g->m + 1) * g->n) * sizeof *y);
    bool ok = x && packed && y;
    if (ok && cb_rehearsing()) {
        rehearse(g);
    } else if (ok) {
        cbk_copy(x, CB_F32, (int64_t[]){g->k, 1}, g->a, g->a_dtype, g->transa ? (int64_t[]){1, g->lda} : (int64_t[]){g->lda, 1}, 2,
                 (int64_t[]){g->m, g->k});
        cbk_vector()->decoded_dots_pack(packed, x, g->m, padded, g->k);
        cbk_decoded d = {g->b_dtype, g->b, g->ldb, g->n, g->k, packed, g->m, padded, y};
        int threads = cbk_threads(g->n * g->k);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            cbk_range r = cbk_share(g->n, 16);
            cbk_vector()->decoded_dots(&d, r.begin, r.end);
        }
        for (int64_t i = 0; i < g->m; i++)
            finish_row(g, i, y + i * g->n, y + g->m * g->n);
    }
    cb_free(x);
    cb_free(packed);
    cb_free(y);
    return ok;
}
