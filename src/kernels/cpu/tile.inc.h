/* tile.inc.h: small matrix products on packed words, and the packing.  Included once per instruction set (isa_*.c).
 *
 * A word is an f32 or a pair of bf16 that are neighbours along the summed dimension.  A is (rows, k) words, row by row;
 * B is (k, columns) words, row by row; C is f32.  C gets every row of A times B.  `pairs` (constant) says which kind of
 * word it is. */

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { MICRO_ROWS = V >= 16 ? 6 : 4, MICRO_VECTORS = V >= 16 ? 4 : 2 };

INLINE vf multiply_add(bool pairs, vf sum, const uint32_t *a, vu b)
{
#if CBK_LEVEL >= 3
    if (pairs)
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)*a), (__m512bh)b);
#else
    (void)pairs;
#endif
    float x;
    memcpy(&x, a, sizeof x);
    return fma_v(splat(x), (vf)b, sum);
}

/* `rows` and `vectors` are constants. */
INLINE void micro_product(bool pairs, int rows, int vectors, int64_t k, const uint32_t *a, int64_t lda, const uint32_t *b, int64_t ldb,
                          float *c, int64_t ldc, bool accumulate)
{
    vf sum[MICRO_ROWS][MICRO_VECTORS];
    UNROLL
    for (int i = 0; i < MICRO_ROWS; i++) {
        UNROLL
        for (int j = 0; j < MICRO_VECTORS; j++)
            if (i < rows && j < vectors)
                sum[i][j] = accumulate ? load_f32(c + i * ldc + j * V, V) : splat(0);
    }
    for (int64_t p = 0; p < k; p++) {
        vu bv[MICRO_VECTORS];
        UNROLL
        for (int j = 0; j < MICRO_VECTORS; j++)
            if (j < vectors)
                bv[j] = *(const vu_unaligned *)(b + p * ldb + j * V);
        UNROLL
        for (int i = 0; i < MICRO_ROWS; i++) {
            UNROLL
            for (int j = 0; j < MICRO_VECTORS; j++)
                if (i < rows && j < vectors)
                    sum[i][j] = multiply_add(pairs, sum[i][j], a + i * lda + p, bv[j]);
        }
    }
    UNROLL
    for (int i = 0; i < MICRO_ROWS; i++) {
        UNROLL
        for (int j = 0; j < MICRO_VECTORS; j++)
            if (i < rows && j < vectors)
                store_f32(c + i * ldc + j * V, sum[i][j], V);
    }
}

#define MICRO(r)                                                                                                                           \
    if (left >= MICRO_VECTORS)                                                                                                             \
        micro_product(pairs, r, MICRO_VECTORS, k, ai, lda, b + j, ldb, ci + j, ldc, accumulate);                                           \
    else                                                                                                                                   \
        for (int64_t one = 0; one < left; one++)                                                                                           \
        micro_product(pairs, r, 1, k, ai, lda, b + j + one * V, ldb, ci + j + one * V, ldc, accumulate)

/* C (rows, columns) (+)= A (rows, k words) B (k words, columns); columns is a multiple of V. */
INLINE void tile_product(bool pairs, int64_t rows, int64_t columns, int64_t k, const uint32_t *a, int64_t lda, const uint32_t *b,
                         int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    for (int64_t j = 0; j < columns; j += MICRO_VECTORS * V) {
        int64_t left = (columns - j) / V, i = 0;
        const uint32_t *ai = a;
        float *ci = c;
        for (; i + MICRO_ROWS <= rows; i += MICRO_ROWS, ai += MICRO_ROWS * lda, ci += MICRO_ROWS * ldc) {
            MICRO(MICRO_ROWS);
        }
        for (; i + 2 <= rows; i += 2, ai += 2 * lda, ci += 2 * ldc) {
            MICRO(2);
        }
        if (i < rows) {
            MICRO(1);
        }
    }
}

/* Two kinds of word, two compiled products. */
static __attribute__((noinline)) void tile_product_f32(int64_t rows, int64_t columns, int64_t k, const uint32_t *a, int64_t lda,
                                                       const uint32_t *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    if (accumulate)
        tile_product(false, rows, columns, k, a, lda, b, ldb, c, ldc, true);
    else
        tile_product(false, rows, columns, k, a, lda, b, ldb, c, ldc, false);
}

#if CBK_LEVEL >= 3
static __attribute__((noinline)) void tile_product_bf16(int64_t rows, int64_t columns, int64_t k, const uint32_t *a, int64_t lda,
                                                        const uint32_t *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    if (accumulate)
        tile_product(true, rows, columns, k, a, lda, b, ldb, c, ldc, true);
    else
        tile_product(true, rows, columns, k, a, lda, b, ldb, c, ldc, false);
}
#define TILE_PRODUCT(pairs, ...) ((pairs) ? tile_product_bf16(__VA_ARGS__) : tile_product_f32(__VA_ARGS__))
#else
#define TILE_PRODUCT(pairs, ...) tile_product_f32(__VA_ARGS__)
#endif

/* ---- packing ---- */

/* bf16 arrays stay bf16 where the machine multiplies bf16; all else becomes f32. */
INLINE bool uses_pairs(cb_dtype dtype)
{
    return CBK_LEVEL >= 3 && dtype == CB_BF16;
}

/* rows x depth elements (zeros beyond `size` and beyond `rows`) of a strided array: words along depth, CBK_TILE
 * rows. */
INLINE void pack_rows(cb_dtype dtype, uint32_t *to, const void *from, int64_t stride, int64_t rows, int64_t size, int64_t depth)
{
    int64_t element = dtype == CB_F32 ? 4 : 2, words = uses_pairs(dtype) ? depth / 2 : depth;
    for (int64_t i = 0; i < CBK_TILE; i++) {
        uint32_t *row = to + i * words;
        int64_t length = i < rows ? size : 0;
        const char *source = i < rows ? (const char *)from + i * stride * element : NULL;
        if (uses_pairs(dtype) || dtype == CB_F32) {
            if (length)
                memcpy(row, source, (size_t)(length * element));
            memset((char *)row + length * element, 0, (size_t)(words * 4 - length * element));
        } else {
            for (int64_t j = 0; j < depth; j += V) {
                vf x = length > j ? load(dtype, source, j, length - j) : splat(0);
                store_f32((float *)row + j, x, V);
            }
        }
    }
}

/* Rows of bf16 words along depth (CBK_TILE, depth / 2) to words along rows: (CBK_TILE / 2, depth). */
INLINE void interleave(uint32_t *to, const uint32_t *rows, int64_t depth)
{
    for (int64_t i = 0; i < CBK_TILE; i += 2) {
        const uint16_t *first = (const uint16_t *)(rows + i * (depth / 2)), *second = (const uint16_t *)(rows + (i + 1) * (depth / 2));
        for (int64_t j = 0; j < depth; j += V) {
            vu a = __builtin_convertvector(*(const vh_unaligned *)(first + j), vu);
            vu b = __builtin_convertvector(*(const vh_unaligned *)(second + j), vu);
            *(vu_unaligned *)(to + i / 2 * depth + j) = a | (b << 16);
        }
    }
}

#if CBK_LEVEL >= 2
/* 16 x 16 words */
INLINE void transpose_16(uint32_t *to, int64_t to_stride, const uint32_t *from, int64_t from_stride)
{
    __m512i r[16], t[16];
    UNROLL
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_si512(from + i * from_stride);
    UNROLL
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
    }
}
#endif

/* (rows, columns) words to (columns, rows) */
INLINE void transpose_words(uint32_t *to, const uint32_t *from, int64_t rows, int64_t columns)
{
#if CBK_LEVEL >= 2
    if (rows % 16 == 0 && columns % 16 == 0) {
        for (int64_t i = 0; i < rows; i += 16)
            for (int64_t j = 0; j < columns; j += 16)
                transpose_16(to + j * rows + i, rows, from + i * columns + j, columns);
        return;
    }
#endif
    for (int64_t i = 0; i < rows; i += 8)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t k = i; k < rows && k < i + 8; k++)
                to[j * rows + k] = from[k * columns + j];
}
