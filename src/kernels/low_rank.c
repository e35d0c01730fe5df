/* low_rank.c: updates of low rank, another one for each segment of rows.
 *
 * A thread takes a piece of a segment through both products, so that the small one in the middle stays in its cache.  Pieces are cut from
 * the sizes alone: no bit depends on the number of threads. */
#include "kernels/kernels.h"
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

bool cbk_low_rank_add(const cbk_low_rank_args *g)
{
    int64_t cost = 0;
    bool ok = true;
    for (int64_t i = 0; i < g->segments; i++)
        cost += (g->segment[i].end - g->segment[i].begin) * (g->in + g->out) * g->pair[g->segment[i].pair].rank / 8;
    int threads = g->overlap || g->segments == 1 || cb_rehearsing() ? 1 : cbk_threads(cost);
    if (threads == 1) {
        for (int64_t i = 0; ok && i < g->segments; i++)
            ok = run_segment(g, &g->segment[i]);
        return ok;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(&& : ok)
    for (int64_t i = 0; i < g->segments; i++)
        ok = run_segment(g, &g->segment[i]) && ok;
    /* errors belong to the thread that met them */
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "low_rank_add: a thread could not compute its rows") == CB_OK);
}
