/* gemm_thin.c: products with one small dimension: those of low-rank adapters and of single decoded tokens.
 *
 * Their cost is reading the large operand once; a general product packs and blocks it first.  Here the small operand is
 * packed (some microseconds at most) and the large one is streamed.  Which form is taken depends on which dimension is
 * small and how the large operand lies. */
#include "kernels/cpu/vector_table.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

enum { MOST_DECODED = 8, LEAST_LARGE = 64 };

/* A stored matrix as op() sees it: element (i, j) at data[i * row + j * column]. */
typedef struct view {
    const void *data;
    int64_t row, column;
} view;

static view view_of(const void *data, int64_t ld, bool transposed)
{
    return transposed ? (view){data, 1, ld} : (view){data, ld, 1};
}

static int64_t words_of(const cbk_thin *t, int64_t k)
{
    return t->pairs ? (k + 1) / 2 : k;
}

static int64_t round_up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* `rows`: of the large operand as it is stored. */
static void rehearse(const cbk_thin *t, int64_t large, int64_t rows)
{
    cb_rehearsal_read(t->x, (size_t)(rows * t->ldx) * (t->pairs ? sizeof(uint16_t) : sizeof(float)));
    cb_rehearsal_operations(2 * (double)large * (double)t->small * (double)t->k);
}

/* C[r, j]: rows of the large operand lie along the summed dimension. */
static bool run_dots(cbk_thin *t, int64_t large, view small)
{
    t->s_words = round_up(words_of(t, t->k), 16);
    int64_t padded = round_up(t->small, 8);
    uint32_t *s = cb_alloc((size_t)(padded * t->s_words) * sizeof *s);
    if (!s)
        return false;
    if (cb_rehearsing()) {
        rehearse(t, large, large);
        cb_free(s);
        return true;
    }
    cbk_vector()->thin_pack_rows(t->pairs, s, t->s_words, padded, small.data, small.row, small.column, t->small, t->k);
    t->s = s;
    int threads = cbk_threads(large * t->k);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(large, 16);
        cbk_vector()->thin_dots(t, r.begin, r.end);
    }
    cb_free(s);
    return true;
}

/* C[j, :]: the summed dimension runs down the rows of the large operand. */
static bool run_columns(cbk_thin *t, int64_t large, view small)
{
    t->s_words = round_up(t->small, 8);
    uint32_t *s = cb_alloc((size_t)(words_of(t, t->k) * t->s_words) * sizeof *s);
    if (!s)
        return false;
    if (cb_rehearsing()) {
        rehearse(t, large, t->k);
        cb_free(s);
        return true;
    }
    cbk_vector()->thin_pack_columns(t->pairs, s, t->s_words, small.data, small.row, small.column, t->small, t->k);
    t->s = s;
    int threads = cbk_threads(large * t->k);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(large, 64);
        cbk_vector()->thin_columns(t, r.begin, r.end);
    }
    cb_free(s);
    return true;
}

/* Up to which size of the small dimension these kernels beat a general product (measured on Zen 5; ties go to the
 * general one). */
static bool small_enough(int64_t small, bool pairs, bool columns)
{
    return small <= (!columns ? 8 : pairs ? 32 : 16);
}

bool cbk_gemm_thin(const cbk_gemm_args *g)
{
    int level = cbk_vector_level();
    bool pairs = g->a_dtype == CB_BF16;
    if (g->bias || g->batch > 1 || level < (pairs ? 3 : 1) || (pairs && g->c_dtype != CB_BF16 && g->c_dtype != CB_F32))
        return false;
    cbk_thin t = {.pairs = pairs, .c_dtype = g->c_dtype, .c = g->c, .alpha = (float)g->alpha, .beta = (float)g->beta, .k = g->k};
    view a = view_of(g->a, g->lda, g->transa), b = view_of(g->b, g->ldb, g->transb);
    if (g->k < LEAST_LARGE)
        return false;
    if (g->m >= LEAST_LARGE && small_enough(g->n, pairs, g->transa)) { /* the large operand is A */
        t.x = g->a;
        t.ldx = g->lda;
        t.small = g->n;
        t.c_large = g->ldc;
        t.c_small = 1;
        view small = {b.data, b.column, b.row};
        return g->transa ? run_columns(&t, g->m, small) : run_dots(&t, g->m, small);
    }
    bool decoded = !g->transa && (g->transb || pairs) && g->m <= MOST_DECODED;
    if (g->n >= LEAST_LARGE && (decoded || (g->transa && small_enough(g->m, pairs, !g->transb)))) { /* it is B */
        t.x = g->b;
        t.ldx = g->ldb;
        t.small = g->m;
        t.c_large = 1;
        t.c_small = g->ldc;
        return g->transb ? run_dots(&t, g->n, a) : run_columns(&t, g->n, a);
    }
    return false;
}
