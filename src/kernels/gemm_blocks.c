/* gemm_blocks.c: products cut the same way whatever the number of threads.
 *
 * oneDNN divides a product among its threads, and where it cuts decides which of its inner loops a row meets; before AVX-512
 * these do not all sum in one order, so that bits would depend on the number of threads.  There the cuts are made here, from
 * the sizes alone, and each block is one thread's. */
#include "kernels/cpu/vector_table.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

/* How one side is cut. */
typedef struct cut {
    int64_t length, count;
} cut;

/* About `wanted` pieces, none shorter than `least` but the last: multiples of every inner loop's tile. */
static cut cut_of(int64_t side, int64_t wanted, int64_t least, int64_t most)
{
    enum { UNIT = 32 };
    int64_t length = (side / wanted + UNIT - 1) / UNIT * UNIT;
    length = length < least ? least : length > most ? most : length;
    return (cut){length, (side + length - 1) / length};
}

/* oneDNN packs the operands of a block only if 1 / m + 1 / n < 0.0038.  Without, it is half as fast when A is transposed, or when the rows
 * of B lie so that they share cache sets; otherwise it is as fast, and smaller blocks serve more threads. */
static void cuts_of(const cbk_gemm_args *g, cut *m, cut *n)
{
    bool packed = g->transa || (!g->transb && g->ldb % 512 == 0);
    cut *longer = g->m >= g->n ? m : n, *other = g->m >= g->n ? n : m;
    int64_t most = g->m >= g->n ? g->m : g->n, least = g->m >= g->n ? g->n : g->m;
    *longer = packed ? cut_of(most, 4, 544, 1024) : cut_of(most, 4, 64, 512);
    *other = packed ? cut_of(least, 1, 64, 1024) : cut_of(least, 4, 64, 512);
}

static int64_t shorter(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The block of product `entry` of the batch at row m0 and column n0. */
static cbk_gemm_args block_at(const cbk_gemm_args *g, int64_t entry, int64_t m0, int64_t m, int64_t n0, int64_t n)
{
    cbk_gemm_args b = *g;
    int64_t size = (int64_t)cb_dtype_size(g->a_dtype), c_size = (int64_t)cb_dtype_size(g->c_dtype);
    b.batch = 1;
    b.m = shorter(m, g->m - m0);
    b.n = shorter(n, g->n - n0);
    b.a = (const char *)g->a + (entry * g->stride_a + m0 * (g->transa ? 1 : g->lda)) * size;
    b.b = (const char *)g->b + (entry * g->stride_b + n0 * (g->transb ? g->ldb : 1)) * size;
    b.c = (char *)g->c + (entry * g->stride_c + m0 * g->ldc + n0) * c_size;
    if (g->bias)
        b.bias = (const char *)g->bias + n0 * (int64_t)cb_dtype_size(g->bias_dtype);
    return b;
}

/* Every block, shared among the threads of the team that calls it. */
static bool run_blocks(const cbk_gemm_args *g)
{
    cut m, n;
    cuts_of(g, &m, &n);
    int64_t entries = g->batch > 1 ? g->batch : 1;
    bool ok = true;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < entries * m.count * n.count; i++) {
        int64_t row = i / n.count % m.count, column = i % n.count;
        cbk_gemm_args block = block_at(g, i / n.count / m.count, row * m.length, m.length, column * n.length, n.length);
        ok = cbk_gemm_onednn(&block) && ok;
    }
    return ok;
}

bool cbk_gemm_blocks(const cbk_gemm_args *g)
{
    if (cbk_gemm_has_avx512() || cb_rehearsing()) /* which is one thread's */
        return cbk_gemm_onednn(g);
    int threads = cbk_threads((g->batch > 1 ? g->batch : 1) * g->m * g->n * g->k / 8), most = omp_get_max_threads();
    bool ok = true;
    if (threads == 1) { /* oneDNN's as well */
        omp_set_num_threads(1);
        ok = run_blocks(g);
        omp_set_num_threads(most);
        return ok;
    }
#pragma omp parallel num_threads(threads) reduction(&& : ok)
    ok = run_blocks(g);
    /* errors belong to the thread that met them */
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "gemm: a thread could not compute its block of the product") == CB_OK);
}
