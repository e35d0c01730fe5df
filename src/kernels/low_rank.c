/* low_rank.c: updates of low rank, another one for each segment of rows.
 *
 * A thread takes a piece of a segment through both products, so that the small one in the middle stays in its cache.  Pieces are cut from
 * the sizes alone: no bit depends on the number of threads.
 *
 * Where a pair has a few rows only, wherever they lie, its factors are what there is to read: all its rows go together, and the factors are
 * taken as they are, since converting them would read and write them once more. */
#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { PIECE = 128 }; /* rows */

/* C (m, n) = alpha a b^T + beta C, b (n, k). */
static bool product(const cbk_low_rank_args *g, const void *a, const void *b, void *c, int64_t m, int64_t n, int64_t k, double alpha,
                    double beta)
{
    return cbk_gemm(&(cbk_gemm_args){.m = m,
                                     .n = n,
                                     .k = k,
                                     .a = a,
                                     .lda = k > 0 ? k : 1,
                                     .a_dtype = g->dtype,
                                     .b = b,
                                     .ldb = k > 0 ? k : 1,
                                     .transb = true,
                                     .b_dtype = g->dtype,
                                     .c = c,
                                     .ldc = n > 0 ? n : 1,
                                     .c_dtype = g->dtype,
                                     .alpha = alpha,
                                     .beta = beta,
                                     .batch = 1});
}

static bool run_piece(const cbk_low_rank_args *g, const cbk_low_rank *pair, int64_t begin, int64_t rows)
{
    int64_t size = (int64_t)cb_dtype_size(g->dtype);
    void *z = cb_alloc((size_t)(rows * pair->rank * size));
    bool ok = z && product(g, (const char *)g->x + begin * g->in * size, pair->a, z, rows, pair->rank, g->in, 1, 0) &&
              product(g, z, pair->b, (char *)g->y + begin * g->out * size, rows, g->out, pair->rank, pair->scale, 1);
    cb_free(z);
    return ok;
}

static bool run_segment(const cbk_low_rank_args *g, const cb_low_rank_rows *s)
{
    bool ok = true;
    for (int64_t begin = s->begin; ok && begin < s->end; begin += PIECE)
        ok = run_piece(g, &g->pair[s->pair], begin, s->end - begin < PIECE ? s->end - begin : PIECE);
    return ok;
}

/* ---- pairs of few rows ---- */

enum { FEW = 16 };

bool cbk_low_rank_is_thin(cb_dtype dtype, int64_t rows, int64_t rank)
{
    return rows <= FEW && rank > 0 && rank <= CBK_EXPAND_RANK && cbk_is_vector_dtype(dtype);
}

static bool is_thin(const cbk_low_rank_args *g, int64_t p, int64_t rows)
{
    return cbk_low_rank_is_thin(g->dtype, rows, g->pair[p].rank);
}

static void rehearse(const cbk_low_rank_args *g, const cbk_low_rank *pair, int64_t rows)
{
    cb_rehearsal_read(pair->a, (size_t)(pair->rank * g->in) * cb_dtype_size(pair->a_dtype));
    cb_rehearsal_read(pair->b, (size_t)(pair->rank * g->out) * cb_dtype_size(pair->b_dtype));
    cb_rehearsal_operations(2 * (double)rows * (double)pair->rank * (double)(g->in + g->out));
}

/* The pair on CBK_EXPAND_ROWS rows at most, whose numbers are given. */
static bool run_thin(const cbk_low_rank_args *g, const cbk_low_rank *pair, const int64_t *row, int64_t rows)
{
    int64_t padded = rows <= 2 ? rows : rows <= 4 ? 4 : CBK_EXPAND_ROWS, words = (g->in + 15) / 16 * 16;
    float *x = cb_alloc((size_t)(rows * g->in + padded * words + rows * pair->rank) * sizeof *x);
    if (!x || cb_rehearsing()) {
        if (x)
            rehearse(g, pair, rows);
        cb_free(x);
        return x;
    }
    float *packed = x + rows * g->in, *z = packed + padded * words;
    int64_t size = (int64_t)cb_dtype_size(g->dtype);
    cbk_expand e = {.b_dtype = pair->b_dtype, .y_dtype = g->dtype, .b = pair->b, .out = g->out, .rank = pair->rank, .rows = rows, .z = z};
    for (int64_t i = 0; i < rows; i++) {
        cbk_convert((const char *)g->x + row[i] * g->in * size, g->dtype, x + i * g->in, CB_F32, g->in);
        e.y[i] = (char *)g->y + row[i] * g->out * size;
    }
    cbk_vector()->decoded_dots_pack(packed, x, rows, padded, g->in);
    cbk_vector()->decoded_dots(&(cbk_decoded){pair->a_dtype, pair->a, g->in, pair->rank, g->in, packed, rows, padded, z}, 0, pair->rank);
    for (int64_t i = 0; i < rows * pair->rank; i++)
        z[i] *= (float)pair->scale;
    cbk_vector()->expand(&e);
    cb_free(x);
    return true;
}

/* ---- all of them ---- */

/* Rows by their pairs: those of pair p are row[first[p]..first[p + 1]-1].  first has two places more than there are pairs. */
static void sort_rows(const cbk_low_rank_args *g, int64_t *first, int64_t *row)
{
    for (int64_t i = 0; i < g->segments; i++)
        first[g->segment[i].pair + 2] += g->segment[i].end - g->segment[i].begin;
    for (int64_t p = 0; p < g->pairs; p++)
        first[p + 2] += first[p + 1];
    for (int64_t i = 0; i < g->segments; i++)
        for (int64_t r = g->segment[i].begin; r < g->segment[i].end; r++)
            row[first[g->segment[i].pair + 1]++] = r;
}

/* Part u of the work: a pair, if it is thin, or a segment of one that is not. */
static bool run_part(const cbk_low_rank_args *g, const int64_t *first, const int64_t *row, int64_t u)
{
    int64_t p = u < g->pairs ? u : g->segment[u - g->pairs].pair, count = first[p + 1] - first[p];
    bool thin = is_thin(g, p, count), ok = true;
    if (u >= g->pairs)
        return thin || run_segment(g, &g->segment[u - g->pairs]);
    for (int64_t i = 0; thin && ok && i < count; i += CBK_EXPAND_ROWS)
        ok = run_thin(g, &g->pair[p], row + first[p] + i, count - i < CBK_EXPAND_ROWS ? count - i : CBK_EXPAND_ROWS);
    return ok;
}

static bool run_parts(const cbk_low_rank_args *g, const int64_t *first, const int64_t *row)
{
    int64_t cost = 0, parts = g->pairs + g->segments;
    bool ok = true;
    for (int64_t p = 0; p < g->pairs; p++) {
        int64_t rows = first[p + 1] - first[p];
        cost += (g->in + g->out) * g->pair[p].rank * (is_thin(g, p, rows) ? (rows > 0) * 2 : rows) / 8;
    }
    int threads = g->overlap || g->segments == 1 || cb_rehearsing() ? 1 : cbk_threads(cost);
    if (threads == 1) {
        for (int64_t u = 0; ok && u < parts; u++)
            ok = run_part(g, first, row, u);
        return ok;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(&& : ok)
    for (int64_t u = 0; u < parts; u++)
        ok = run_part(g, first, row, u) && ok;
    /* errors belong to the thread that met them */
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "low_rank_add: a thread could not compute its rows") == CB_OK);
}

bool cbk_low_rank_add(const cbk_low_rank_args *g)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < g->segments; i++)
        rows += g->segment[i].end - g->segment[i].begin;
    int64_t *first = cb_calloc((size_t)(g->pairs + 2 + rows), sizeof *first);
    bool ok = first;
    if (ok) {
        sort_rows(g, first, first + g->pairs + 2);
        ok = run_parts(g, first, first + g->pairs + 2);
    }
    cb_free(first);
    return ok;
}
