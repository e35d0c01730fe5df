/* low_rank.inc.h: the second product of a low-rank update for a few rows: y[i] += b z[i], b (out, R) with R small.
 *
 * A row of b is shorter than a vector or little longer, so V rows are turned into R vectors of one column each, once for all i.  Where R is a
 * power of two that is log2(R) rounds of parting what stands at even places from what stands at odd ones, after which column j stands where
 * the bits of j lie in reverse; z is laid out to match. */

#if CBK_LEVEL >= 2
#define EVEN_PLACES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_PLACES  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif CBK_LEVEL == 1
#define EVEN_PLACES 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_PLACES  1, 3, 5, 7, 9, 11, 13, 15
#else
#define EVEN_PLACES 0, 2, 4, 6
#define ODD_PLACES  1, 3, 5, 7
#endif

enum { AHEAD = 4096 }; /* bytes: the processor itself looks no further than the end of a page */

INLINE int64_t reversed_bits(int64_t j, int64_t rank)
{
    int64_t r = 0;
    for (; rank > 1; rank /= 2, j /= 2)
        r = 2 * r + j % 2;
    return r;
}

/* V rows of b from element `first` on, as they lie. */
INLINE void load_rows(cb_dtype dtype, const void *b, int64_t first, int64_t rank, vf *t)
{
    int64_t size = dtype == CB_F32 ? 4 : 2;
    const char *ahead = (const char *)b + first * size + AHEAD;
    for (int64_t i = 0; i < rank; i++) {
        t[i] = load(dtype, b, first + i * V, V);
        __builtin_prefetch(ahead + i * V * size);
    }
}

/* Rows as they lie become columns, in the order of reversed_bits(). */
INLINE void part_columns(int rank, vf *t)
{
    vf other[CBK_EXPAND_RANK], *from = t, *to = other;
    UNROLL
    for (int n = rank; n > 1; n /= 2) {
        UNROLL
        for (int i = 0; i < rank; i += 2) {
            int place = i / n * n + i % n / 2;
            to[place] = __builtin_shufflevector(from[i], from[i + 1], EVEN_PLACES);
            to[place + n / 2] = __builtin_shufflevector(from[i], from[i + 1], ODD_PLACES);
        }
        vf *swap = from;
        from = to;
        to = swap;
    }
    for (int i = 0; from != t && i < rank; i++)
        t[i] = from[i];
}

static void part_any(int rank, vf *t)
{
    vf other[CBK_EXPAND_RANK];
    for (int n = rank; n > 1; n /= 2)
        for (int group = 0; group < rank; group += n) {
            for (int i = 0; i < n / 2; i++) {
                other[i] = __builtin_shufflevector(t[group + 2 * i], t[group + 2 * i + 1], EVEN_PLACES);
                other[n / 2 + i] = __builtin_shufflevector(t[group + 2 * i], t[group + 2 * i + 1], ODD_PLACES);
            }
            memcpy(t + group, other, (size_t)n * sizeof *t);
        }
}

/* The columns of `rows` rows, in order. */
INLINE void pick_columns(cb_dtype dtype, const void *b, int64_t first, int64_t rows, int64_t rank, vf *t)
{
    for (int64_t j = 0; j < rank; j++)
        for (int64_t l = 0; l < V; l++)
            t[j][l] = l < rows ? load(dtype, b, first + l * rank + j, 1)[0] : 0;
}

/* y[i] of V outputs from `at` on, of which `left` exist, for `rows` rows from i on */
INLINE void expand_rows(cb_dtype y_dtype, const cbk_expand *e, const float *z, int64_t i, int rows, const vf *t, int64_t at, int64_t left)
{
    vf sum[4];
    UNROLL
    for (int k = 0; k < rows; k++)
        sum[k] = splat(0);
    for (int64_t j = 0; j < e->rank; j++) {
        UNROLL
        for (int k = 0; k < rows; k++)
            sum[k] = fma_v(splat(z[(i + k) * e->rank + j]), t[j], sum[k]);
    }
    UNROLL
    for (int k = 0; k < rows; k++)
        store(y_dtype, e->y[i + k], at, load(y_dtype, e->y[i + k], at, left) + sum[k], left);
}

INLINE void expand_all(cb_dtype y_dtype, const cbk_expand *e, const float *z, const vf *t, int64_t at, int64_t left)
{
    int64_t i = 0;
    for (; i + 4 <= e->rows; i += 4)
        expand_rows(y_dtype, e, z, i, 4, t, at, left);
    for (; i < e->rows; i++)
        expand_rows(y_dtype, e, z, i, 1, t, at, left);
}

static void expand(const cbk_expand *e)
{
    vf t[CBK_EXPAND_RANK];
    float parted[CBK_EXPAND_ROWS * CBK_EXPAND_RANK];
    int64_t rank = e->rank, whole = rank & (rank - 1) ? 0 : e->out / V * V;
    for (int64_t i = 0; whole && i < e->rows; i++)
        for (int64_t j = 0; j < rank; j++)
            parted[i * rank + reversed_bits(j, rank)] = e->z[i * rank + j];
    for (int64_t at = 0; at < whole; at += V) {
        WITH_DTYPE(e->b_dtype, load_rows(DT, e->b, at * rank, rank, t));
        if (rank == 8)
            part_columns(8, t);
        else if (rank == 16)
            part_columns(16, t);
        else
            part_any((int)rank, t);
        WITH_DTYPE(e->y_dtype, expand_all(DT, e, parted, t, at, V));
    }
    for (int64_t at = whole; at < e->out; at += V) {
        int64_t left = e->out - at < V ? e->out - at : V;
        WITH_DTYPE(e->b_dtype, pick_columns(DT, e->b, at * rank, left, rank, t));
        WITH_DTYPE(e->y_dtype, expand_all(DT, e, e->z, t, at, left));
    }
}
