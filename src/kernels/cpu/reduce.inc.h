/* reduce.inc.h: sums and checks over contiguous ranges.  Included once per instruction set (isa_*.c). */

/* Lanes add up 64 numbers each in f32, then everything in f64. */
INLINE double sum_loop(cb_dtype dtype, const void *x, int64_t n, bool squares)
{
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += 256 * V) {
        int64_t end = n - begin < 256 * V ? n : begin + 256 * V;
        vf s[4] = {{0}, {0}, {0}, {0}};
        int64_t i = begin;
        for (; i + 4 * V <= end; i += 4 * V)
            for (int j = 0; j < 4; j++) {
                vf a = load(dtype, x, i + j * V, V);
                s[j] = squares ? s[j] + a * a : s[j] + a;
            }
        FOR_VECTORS(j, c, end - i) {
            vf a = load(dtype, x, i + j, c);
            s[0] = squares ? s[0] + a * a : s[0] + a;
        }
        for (int j = 0; j < 4; j++)
            for (int k = 0; k < V; k++)
                total += (double)s[j][k];
    }
    return total;
}

static double sum(cb_dtype dtype, const void *x, int64_t n, bool squares)
{
    double s = 0;
    if (squares)
        WITH_DTYPE(dtype, s = sum_loop(DT, x, n, true));
    else
        WITH_DTYPE(dtype, s = sum_loop(DT, x, n, false));
    return s;
}

INLINE bool all_finite_loop(cb_dtype dtype, const void *x, int64_t n)
{
    for (int64_t begin = 0; begin < n; begin += 4096) {
        int64_t length = n - begin < 4096 ? n - begin : 4096;
        vf bad = {0};
        FOR_VECTORS(i, c, length) {
            vf a = load(dtype, x, begin + i, c);
            bad = bad + (a - a); /* infinity and NaN give NaN, others 0 */
        }
        if (!(sum_of(bad) == 0))
            return false;
    }
    return true;
}

static bool all_finite(cb_dtype dtype, const void *x, int64_t n)
{
    bool finite = true;
    WITH_DTYPE(dtype, finite = all_finite_loop(DT, x, n));
    return finite;
}

INLINE void add_rows_loop(cb_dtype dtype, float *sums, const void *x, int64_t rows, int64_t n, int64_t ld)
{
    FOR_VECTORS(j, c, n) {
        vf s = load_f32(sums + j, c);
        for (int64_t i = 0; i < rows; i++)
            s = s + load(dtype, x, i * ld + j, c);
        store_f32(sums + j, s, c);
    }
}

static void add_rows(cb_dtype dtype, float *sums, const void *x, int64_t rows, int64_t n, int64_t ld)
{
    WITH_DTYPE(dtype, add_rows_loop(DT, sums, x, rows, n, ld));
}
