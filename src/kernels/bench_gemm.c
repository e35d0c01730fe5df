/* bench_gemm.c: the rate of matrix products on this machine, the yardstick for everything built on them. */
#include <stdlib.h>

#include "kernels/kernels.h"

enum { MOST_RUNS = 1000 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a call; 0 on failure. */
static double median_time(const cbk_gemm_args *g, double seconds)
{
    double times[MOST_RUNS], begin = cb_now();
    int runs = 0;
    if (!cbk_gemm(g) || !cbk_gemm(g))
        return 0;
    while (runs < MOST_RUNS && (runs < 3 || cb_now() - begin < seconds)) {
        double start = cb_now();
        if (!cbk_gemm(g))
            return 0;
        times[runs++] = cb_now() - start;
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    return times[runs / 2];
}

double cbk_gemm_rate(cb_dtype dtype, bool transa, bool transb, int64_t m, int64_t n, int64_t k, double seconds)
{
    size_t size = cb_dtype_size(dtype), bytes_a, bytes_b, bytes_c;
    if (m <= 0 || n <= 0 || k <= 0 || __builtin_mul_overflow((size_t)m * size, (size_t)k, &bytes_a) ||
        __builtin_mul_overflow((size_t)k * size, (size_t)n, &bytes_b) || __builtin_mul_overflow((size_t)m * size, (size_t)n, &bytes_c)) {
        cb_fail(CB_ERR_ARGUMENT, "bench gemm: sizes %lld, %lld, %lld: expected positive numbers that fit into memory", (long long)m,
                (long long)n, (long long)k);
        return 0;
    }
    void *a = cb_alloc(bytes_a), *b = cb_alloc(bytes_b), *c = cb_alloc(bytes_c);
    double rate = 0;
    if (a && b && c) {
        cbk_uniform(dtype, a, m * k, 1, 0, 0);
        cbk_uniform(dtype, b, k * n, 1, 1, 0);
        cbk_gemm_args g = {.m = m,
                           .n = n,
                           .k = k,
                           .a = a,
                           .b = b,
                           .c = c,
                           .lda = transa ? m : k,
                           .ldb = transb ? k : n,
                           .ldc = n,
                           .transa = transa,
                           .transb = transb,
                           .a_dtype = dtype,
                           .b_dtype = dtype,
                           .c_dtype = dtype,
                           .alpha = 1,
                           .batch = 1};
        double time = median_time(&g, seconds);
        rate = time > 0 ? 2e-9 * (double)m * (double)n * (double)k / time : 0;
    }
    cb_free(a);
    cb_free(b);
    cb_free(c);
    return rate;
}
