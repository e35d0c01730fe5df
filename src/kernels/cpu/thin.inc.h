/* thin.inc.h: products with one small dimension (an adapter's rank, a decoded token), which are all about reading the
 * large operand once.  Included once per instruction set (isa_*.c).  `pairs` as in tile.inc.h: words of two bf16, else
 * f32.
 *
 * dots:    C[r, j] = x[r, :] . s[j, :]         both long along the summed dimension, few j
 * columns: C[j, :] = sum over many r of s[r, j] x[r, :]   few j */

enum { THIN = 8 }; /* small-side entries worked on together */

INLINE float blend(float sum, const cbk_thin *t, cb_dtype dtype, int64_t at)
{
    sum *= t->alpha;
    return t->beta == 0 ? sum : sum + t->beta * load(dtype, t->c, at, 1)[0];
}

INLINE void put(const cbk_thin *t, cb_dtype dtype, int64_t at, float sum)
{
    float x = blend(sum, t, dtype, at);
    if (dtype == CB_F32)
        ((float *)t->c)[at] = x;
    else
        store(dtype, t->c, at, splat(x), 1);
}

/* ---- dots ---- */

enum { DOT_ROWS = V >= 16 ? 2 : 1 };

/* Words k.. of a row whose last one may be cut short. */
INLINE vu row_words(bool pairs, const char *row, int64_t k, int64_t length)
{
    int64_t per = pairs ? 2 : 1, size = pairs ? 2 : 4;
    if (__builtin_expect(length - k * per >= V * per, 1))
        return *(const vu_unaligned *)(const void *)(row + k * 4);
    uint32_t part[V] = {0};
    memcpy(part, row + k * 4, (size_t)((length - k * per) * size));
    return *(const vu_unaligned *)part;
}

INLINE vf multiply_add_v(bool pairs, vf sum, vu a, vu b)
{
#if CBK_LEVEL >= 3
    if (pairs)
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    (void)pairs;
#endif
    return fma_v((vf)a, (vf)b, sum);
}

/* sums[i] = sum of the lanes of v[i], for 16 vectors or fewer */
INLINE void sums_of(float *sums, const vf *v, int count)
{
#if CBK_LEVEL >= 2
    if (count == 16) {
        __m512 t[8], u[4];
        UNROLL
        for (int i = 0; i < 8; i++)
            t[i] = _mm512_add_ps(_mm512_unpacklo_ps((__m512)v[2 * i], (__m512)v[2 * i + 1]),
                                 _mm512_unpackhi_ps((__m512)v[2 * i], (__m512)v[2 * i + 1]));
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m512d a = _mm512_castps_pd(t[2 * i]), b = _mm512_castps_pd(t[2 * i + 1]);
            u[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
        }
        __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(u[0], u[1], 0x88), _mm512_shuffle_f32x4(u[0], u[1], 0xdd));
        __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(u[2], u[3], 0x88), _mm512_shuffle_f32x4(u[2], u[3], 0xdd));
        _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd)));
        return;
    }
#endif
    for (int i = 0; i < count; i++)
        sums[i] = sum_of(v[i]);
}

/* `rows` of x (1 or DOT_ROWS) against THIN rows of s; constants: pairs, rows */
INLINE void dots_block(bool pairs, int rows, const char *x, int64_t row_bytes, int64_t k, const uint32_t *s, int64_t s_words, float *sums)
{
    vf sum[DOT_ROWS * THIN];
    UNROLL
    for (int i = 0; i < DOT_ROWS * THIN; i++)
        sum[i] = splat(0);
    int64_t words = (k + (pairs ? 1 : 0)) / (pairs ? 2 : 1);
    for (int64_t p = 0; p < words; p += V) {
        vu a[DOT_ROWS];
        UNROLL
        for (int i = 0; i < DOT_ROWS; i++)
            if (i < rows)
                a[i] = row_words(pairs, x + i * row_bytes, p, k);
        UNROLL
        for (int j = 0; j < THIN; j++) {
            vu b = *(const vu_unaligned *)(s + j * s_words + p);
            UNROLL
            for (int i = 0; i < DOT_ROWS; i++)
                if (i < rows)
                    sum[i * THIN + j] = multiply_add_v(pairs, sum[i * THIN + j], a[i], b);
        }
    }
    sums_of(sums, sum, rows * THIN);
}

/* One row of x against one of s: a single decoded token. */
INLINE float dot_one(bool pairs, const char *x, int64_t k, const uint32_t *s)
{
    vf sum[4] = {{0}, {0}, {0}, {0}};
    int64_t per = pairs ? 2 : 1, words = (k + per - 1) / per, p = 0;
    for (; p + 4 * V <= k / per; p += 4 * V) {
        UNROLL
        for (int u = 0; u < 4; u++)
            sum[u] = multiply_add_v(pairs, sum[u], *(const vu_unaligned *)(const void *)(x + (p + u * V) * 4),
                                    *(const vu_unaligned *)(s + p + u * V));
    }
    for (; p < words; p += V)
        sum[0] = multiply_add_v(pairs, sum[0], row_words(pairs, x, p, k), *(const vu_unaligned *)(s + p));
    return sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

INLINE void dots(bool pairs, const cbk_thin *t, cb_dtype c_dtype, int64_t first, int64_t last)
{
    int64_t row_bytes = t->ldx * (pairs ? 2 : 4);
    const char *x = (const char *)t->x;
    if (t->small == 1) {
        for (int64_t r = first; r < last; r++)
            put(t, c_dtype, r * t->c_large, dot_one(pairs, x + r * row_bytes, t->k, t->s));
        return;
    }
    float sums[DOT_ROWS * THIN];
    for (int64_t r = first; r < last;) {
        int rows = last - r >= DOT_ROWS ? DOT_ROWS : 1;
        for (int64_t j = 0; j < t->small; j += THIN) {
            const uint32_t *s = t->s + j * t->s_words;
            if (rows == DOT_ROWS)
                dots_block(pairs, DOT_ROWS, x + r * row_bytes, row_bytes, t->k, s, t->s_words, sums);
            else
                dots_block(pairs, 1, x + r * row_bytes, row_bytes, t->k, s, t->s_words, sums);
            for (int i = 0; i < rows; i++)
                for (int64_t l = 0; l < THIN && j + l < t->small; l++)
                    put(t, c_dtype, (r + i) * t->c_large + (j + l) * t->c_small, sums[i * THIN + l]);
        }
        r += rows;
    }
}

/* ---- columns ---- */

/* Two neighbouring bf16 rows as words, 2 V columns; the order of columns is put right at the end by in_order(). */
INLINE void two_rows(bool pairs, const char *x, int64_t row_bytes, bool second, vu *low, vu *high)
{
#if CBK_LEVEL >= 3
    if (pairs) {
        __m512i a = _mm512_loadu_si512(x), b = second ? _mm512_loadu_si512(x + row_bytes) : _mm512_setzero_si512();
        *low = (vu)_mm512_unpacklo_epi16(a, b);
        *high = (vu)_mm512_unpackhi_epi16(a, b);
        return;
    }
#else
    (void)pairs;
    (void)row_bytes;
    (void)second;
#endif
    *low = *(const vu_unaligned *)(const void *)x;
    *high = *(const vu_unaligned *)(const void *)(x + 4 * V);
}

INLINE void in_order(bool pairs, vf *low, vf *high)
{
#if CBK_LEVEL >= 3
    if (pairs) {
        const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        __m512 a = (__m512)*low, b = (__m512)*high;
        *low = (vf)_mm512_permutex2var_ps(a, first, b);
        *high = (vf)_mm512_permutex2var_ps(a, _mm512_add_epi32(first, _mm512_set1_epi32(8)), b);
    }
#else
    (void)pairs;
    (void)low;
    (void)high;
#endif
}

/* Columns column..column+2V-1 for small entries j..j+THIN-1 */
INLINE void columns_block(bool pairs, const cbk_thin *t, cb_dtype c_dtype, int64_t column, int64_t j)
{
    enum { J = V >= 16 ? THIN : THIN / 2 };
    for (int64_t half = 0; half < THIN / J; half++, j += J) {
        vf sum[J][2];
        UNROLL
        for (int l = 0; l < J; l++)
            sum[l][0] = sum[l][1] = splat(0);
        int64_t step = pairs ? 2 : 1, row_bytes = t->ldx * (pairs ? 2 : 4);
        const char *x = (const char *)t->x + column * (pairs ? 2 : 4);
        const uint32_t *s = t->s + j;
        for (int64_t r = 0; r < t->k; r += step, x += step * row_bytes, s += t->s_words) {
            vu low, high;
            two_rows(pairs, x, row_bytes, r + 1 < t->k, &low, &high);
            UNROLL
            for (int l = 0; l < J; l++) {
                sum[l][0] = multiply_add(pairs, sum[l][0], s + l, low);
                sum[l][1] = multiply_add(pairs, sum[l][1], s + l, high);
            }
        }
        for (int64_t l = 0; l < J && j + l < t->small; l++) {
            vf a = sum[l][0], b = sum[l][1];
            in_order(pairs, &a, &b);
            for (int side = 0; side < 2; side++) {
                vf x2 = side ? b : a;
                int64_t at = (j + l) * t->c_small + (column + side * V) * t->c_large;
                if (t->c_large == 1) {
                    x2 = x2 * t->alpha;
                    if (t->beta != 0)
                        x2 = x2 + load(c_dtype, t->c, at, V) * t->beta;
                    store(c_dtype, t->c, at, x2, V);
                } else {
                    for (int lane = 0; lane < V; lane++)
                        put(t, c_dtype, at + lane * t->c_large, x2[lane]);
                }
            }
        }
    }
}

INLINE float element_f32(bool pairs, const void *p, int64_t i)
{
    return pairs ? load(CB_BF16, p, i, 1)[0] : ((const float *)p)[i];
}

/* The last few columns, one by one. */
INLINE void columns_rest(bool pairs, const cbk_thin *t, cb_dtype c_dtype, int64_t first, int64_t last)
{
    for (int64_t j = 0; j < t->small; j++)
        for (int64_t column = first; column < last; column++) {
            float sum = 0;
            for (int64_t r = 0; r < t->k; r++) {
                const uint32_t *s = t->s + (pairs ? r / 2 : r) * t->s_words + j;
                sum += element_f32(pairs, s, pairs ? r % 2 : 0) * element_f32(pairs, t->x, r * t->ldx + column);
            }
            put(t, c_dtype, j * t->c_small + column * t->c_large, sum);
        }
}

INLINE void columns(bool pairs, const cbk_thin *t, cb_dtype c_dtype, int64_t first, int64_t last)
{
    int64_t column = first;
    for (; column + 2 * V <= last; column += 2 * V)
        for (int64_t j = 0; j < t->small; j += THIN)
            columns_block(pairs, t, c_dtype, column, j);
    columns_rest(pairs, t, c_dtype, column, last);
}

/* ---- packing ---- */

/* Words (rows, depth words) of op: element (i, p) at from[i * row + p * step]; rows up to `padded` are zeros. */
INLINE void thin_pack(bool pairs, uint32_t *to, int64_t words, int64_t padded, const void *from, int64_t row, int64_t step, int64_t rows,
                      int64_t k)
{
    memset(to, 0, (size_t)(padded * words) * 4);
    int64_t size = pairs ? 2 : 4;
    for (int64_t i = 0; i < rows; i++) {
        char *target = (char *)(to + i * words);
        if (step == 1) {
            memcpy(target, (const char *)from + i * row * size, (size_t)(k * size));
            continue;
        }
        for (int64_t p = 0; p < k; p++)
            if (pairs)
                ((uint16_t *)(void *)target)[p] = ((const uint16_t *)from)[i * row + p * step];
            else
                ((uint32_t *)(void *)target)[p] = ((const uint32_t *)from)[i * row + p * step];
    }
}

/* Words along the summed dimension p, which comes first: to[p][i], ld words a row; element (p, i) at from[p * step +
 * i * row]. */
INLINE void thin_pack_across(bool pairs, uint32_t *to, int64_t ld, const void *from, int64_t row, int64_t step, int64_t rows, int64_t k)
{
    if (!pairs) {
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < ld; i++)
                to[p * ld + i] = i < rows ? ((const uint32_t *)from)[p * step + i * row] : 0;
        return;
    }
    const uint16_t *f = from;
    for (int64_t p = 0; p < k; p += 2) {
        uint32_t *t = to + p / 2 * ld;
        int64_t i = 0;
        if (row == 1 && p + 1 < k)
            for (; i < rows; i++)
                t[i] = (uint32_t)f[p * step + i] | (uint32_t)f[(p + 1) * step + i] << 16;
        for (; i < rows; i++)
            t[i] = (uint32_t)f[p * step + i * row] | (p + 1 < k ? (uint32_t)f[(p + 1) * step + i * row] << 16 : 0);
        for (; i < ld; i++)
            t[i] = 0;
    }
}

/* ---- entry points ---- */

#define THIN_CALL(name, ...)                                                                                                               \
    do {                                                                                                                                   \
        if (!t->pairs)                                                                                                                     \
            name(false, t, CB_F32, __VA_ARGS__);                                                                                           \
        else if (t->c_dtype == CB_BF16)                                                                                                    \
            name(CBK_LEVEL >= 3, t, CB_BF16, __VA_ARGS__);                                                                                 \
        else                                                                                                                               \
            name(CBK_LEVEL >= 3, t, CB_F32, __VA_ARGS__);                                                                                  \
    } while (0)

static void thin_dots(const cbk_thin *t, int64_t first, int64_t last)
{
    THIN_CALL(dots, first, last);
}

static void thin_columns(const cbk_thin *t, int64_t first, int64_t last)
{
    THIN_CALL(columns, first, last);
}

static void thin_pack_rows(bool pairs, uint32_t *to, int64_t words, int64_t padded, const void *from, int64_t row, int64_t step,
                           int64_t rows, int64_t k)
{
    if (pairs)
        thin_pack(true, to, words, padded, from, row, step, rows, k);
    else
        thin_pack(false, to, words, padded, from, row, step, rows, k);
}

static void thin_pack_columns(bool pairs, uint32_t *to, int64_t ld, const void *from, int64_t row, int64_t step, int64_t rows, int64_t k)
{
    if (pairs)
        thin_pack_across(true, to, ld, from, row, step, rows, k);
    else
        thin_pack_across(false, to, ld, from, row, step, rows, k);
}
