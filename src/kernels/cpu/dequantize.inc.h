/* dequantize.inc.h: encoded elements (quantised, bf16, f16) to f32, and their dot products with a few rows.  Included once per instruction
 * set (isa_*.c).
 *
 * Blocks are those of GGUF (ggml's block_q8_0 and so on): scales are f16, codes of fewer bits lie in the lower halves of bytes first, then in
 * the upper halves.  Products of a block's scales and codes are exact in f32, so every instruction set gives the same numbers.  Decoding is
 * written once: a vector of decoded elements goes into a sink, which is memory or sums of products. */

enum { MOST_ROWS = 8 }; /* of x that one pass over encoded elements is multiplied with */

/* Where decoded elements go.  `rows` (a constant to the compiler, given beside it): 0, to memory; else into the sums of as many rows of x,
 * which lie interleaved: V elements of each row in turn. */
typedef struct sink {
    float *out;
    const float *x;
    vf sum[MOST_ROWS]; /* MOST_ROWS / rows for each row, to hide the latency of the additions */
} sink;

/* Elements i..i+V-1, counted from where `out` and `x` point; only the first `c` of them matter. */
INLINE void take_part(sink *s, int rows, int64_t i, vf w, int64_t c)
{
    if (!rows) {
        store_f32(s->out + i, w, c);
        return;
    }
    int chains = rows ? MOST_ROWS / rows : 1;
    UNROLL
    for (int r = 0; r < MOST_ROWS; r++)
        if (r < rows) {
            int at = r * chains + (int)(i / V) % chains;
            s->sum[at] = fma_v(w, load_f32(s->x + i * rows + r * V, V), s->sum[at]);
        }
}

INLINE void take(sink *s, int rows, int64_t i, vf w)
{
    take_part(s, rows, i, w, V);
}

INLINE void advance(sink *s, int rows, int64_t n)
{
    if (rows)
        s->x += n * rows;
    else
        s->out += n;
}

INLINE vi load_bytes(const uint8_t *p)
{
#if CBK_LEVEL >= 2
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
#elif CBK_LEVEL == 1
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
#else
    vi x;
    for (int i = 0; i < V; i++)
        x[i] = p[i];
    return x;
#endif
}

INLINE vi load_signed_bytes(const uint8_t *p)
{
#if CBK_LEVEL >= 2
    return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p));
#elif CBK_LEVEL == 1
    return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
#else
    vi x;
    for (int i = 0; i < V; i++)
        x[i] = (p[i] ^ 128) - 128;
    return x;
#endif
}

INLINE vf to_float(vi x)
{
    return __builtin_convertvector(x, vf);
}

INLINE float f16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
#if CBK_LEVEL > 0
    return _cvtsh_ss(h);
#else
    return half_to_float(h);
#endif
}

/* Of a table of 16; of a code the lower four bits count. */
INLINE vf level_at(const float *levels, vi code)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_permutexvar_ps((__m512i)code, _mm512_loadu_ps(levels));
#elif CBK_LEVEL == 1
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(levels), (__m256i)code);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(levels + 8), (__m256i)code);
    return (vf)_mm256_blendv_ps(low, high, (__m256)_mm256_slli_epi32((__m256i)code, 28));
#else
    vf x;
    for (int i = 0; i < V; i++)
        x[i] = levels[code[i] & 15];
    return x;
#endif
}

/* ---- blocks of 32 ---- */

INLINE void q8_0_block(const uint8_t *b, int rows, sink *s)
{
    vf d = splat(f16_at(b));
    UNROLL
    for (int i = 0; i < 32; i += V)
        take(s, rows, i, to_float(load_signed_bytes(b + 2 + i)) * d);
    advance(s, rows, 32);
}

INLINE void q4_0_block(const uint8_t *b, int rows, sink *s)
{
    vf d = splat(f16_at(b));
    UNROLL
    for (int i = 0; i < 16; i += V) {
        vi q = load_bytes(b + 2 + i);
        take(s, rows, i, to_float((q & 15) - 8) * d);
        take(s, rows, 16 + i, to_float((q >> 4) - 8) * d);
    }
    advance(s, rows, 32);
}

INLINE void q4_1_block(const uint8_t *b, int rows, sink *s)
{
    vf d = splat(f16_at(b)), m = splat(f16_at(b + 2));
    UNROLL
    for (int i = 0; i < 16; i += V) {
        vi q = load_bytes(b + 4 + i);
        take(s, rows, i, to_float(q & 15) * d + m);
        take(s, rows, 16 + i, to_float(q >> 4) * d + m);
    }
    advance(s, rows, 32);
}

/* The fifth bit of element i is bit i of a 32-bit word at `codes`.  Element = (code - shift) * d + m. */
INLINE void q5_codes(const uint8_t *codes, vf d, int shift, vf m, int rows, sink *s)
{
    uint32_t fifth;
    memcpy(&fifth, codes, sizeof fifth);
    vu bits = fifth - (vu){0}, lane;
    for (int j = 0; j < V; j++)
        lane[j] = (uint32_t)j;
    UNROLL
    for (int i = 0; i < 16; i += V) {
        vi q = load_bytes(codes + 4 + i);
        vi low = (vi)((bits >> (lane + (uint32_t)i) & 1) << 4), high = (vi)((bits >> (lane + (uint32_t)(16 + i)) & 1) << 4);
        take(s, rows, i, to_float(((q & 15) | low) - shift) * d + m);
        take(s, rows, 16 + i, to_float(((q >> 4) | high) - shift) * d + m);
    }
    advance(s, rows, 32);
}

/* Sixteen levels, closer together near zero: 16 bytes of codes, of which the lower halves come first. */
INLINE void iq4_codes(const uint8_t *codes, vf d, int rows, sink *s)
{
    UNROLL
    for (int i = 0; i < 16; i += V) {
        vi q = load_bytes(codes + i);
        take(s, rows, i, level_at(cbk_iq4_levels, q) * d);
        take(s, rows, 16 + i, level_at(cbk_iq4_levels, q >> 4) * d);
    }
    advance(s, rows, 32);
}

/* ---- blocks of 256 ---- */

/* Eight scales and eight minima, six bits each, packed into 12 bytes: the first four of each in the lower six bits of bytes 0-3 and 4-7, the
 * others in the halves of bytes 8-11 and the upper two bits of bytes 0-7. */
INLINE void k_scales(const uint8_t *packed, float *scales, float *minima)
{
    uint32_t w[3], apart[4];
    memcpy(w, packed, sizeof w);
    apart[0] = w[0] & 0x3f3f3f3f;
    apart[1] = (w[2] & 0x0f0f0f0f) | (w[0] >> 6 & 0x03030303) << 4;
    apart[2] = w[1] & 0x3f3f3f3f;
    apart[3] = (w[2] >> 4 & 0x0f0f0f0f) | (w[1] >> 6 & 0x03030303) << 4;
    uint8_t bytes[16];
    float all[16];
    memcpy(bytes, apart, sizeof bytes);
    UNROLL
    for (int i = 0; i < 16; i += V)
        store_f32(all + i, to_float(load_bytes(bytes + i)), V);
    memcpy(scales, all, 8 * sizeof *all);
    memcpy(minima, all + 8, 8 * sizeof *all);
}

/* q4_k, and q5_k when `fifth` (32 bytes; bit j of byte i belongs to element i of the j-th 32) is given */
INLINE void q45_k_block(const uint8_t *b, const uint8_t *fifth, const uint8_t *codes, int rows, sink *s)
{
    float scales[8], minima[8];
    k_scales(b + 4, scales, minima);
    vf d = splat(f16_at(b)), dmin = splat(f16_at(b + 2));
    for (int j = 0; j < 8; j += 2) {
        vf low_scale = splat(scales[j]) * d, low_minimum = splat(minima[j]) * dmin;
        vf high_scale = splat(scales[j + 1]) * d, high_minimum = splat(minima[j + 1]) * dmin;
        UNROLL
        for (int i = 0; i < 32; i += V) {
            vi q = load_bytes(codes + j * 16 + i), low = q & 15, high = q >> 4;
            if (fifth) {
                vi bits = load_bytes(fifth + i) >> j;
                low |= (bits & 1) << 4;
                high |= (bits & 2) << 3;
            }
            take(s, rows, i, to_float(low) * low_scale - low_minimum);
            take(s, rows, 32 + i, to_float(high) * high_scale - high_minimum);
        }
        advance(s, rows, 64);
    }
}

/* 128 bytes of lower halves, 64 of upper two bits, 16 signed scales of 16 elements each, f16 */
INLINE void q6_k_block(const uint8_t *b, int rows, sink *s)
{
    float scales[16];
    UNROLL
    for (int i = 0; i < 16; i += V)
        store_f32(scales + i, to_float(load_signed_bytes(b + 192 + i)), V);
    vf d = splat(f16_at(b + 208));
    for (int half = 0; half < 2; half++) {
        UNROLL
        for (int i = 0; i < 32; i += V) {
            vi even = load_bytes(b + 64 * half + i), odd = load_bytes(b + 64 * half + 32 + i), high = load_bytes(b + 128 + 32 * half + i);
            const float *scale = scales + 8 * half + i / 16; /* of the four 32 there */
            take(s, rows, i, to_float(((even & 15) | (high << 4 & 48)) - 32) * (splat(scale[0]) * d));
            take(s, rows, i + 32, to_float(((odd & 15) | (high << 2 & 48)) - 32) * (splat(scale[2]) * d));
            take(s, rows, i + 64, to_float((even >> 4 | (high & 48)) - 32) * (splat(scale[4]) * d));
            take(s, rows, i + 96, to_float((odd >> 4 | (high >> 2 & 48)) - 32) * (splat(scale[6]) * d));
        }
        advance(s, rows, 128);
    }
}

/* A code of two bits: element i of the j-th 32 in bits 2 (j % 4) of byte 32 (j / 4) + i. */
INLINE vi two_bits(const uint8_t *codes, int j, int i)
{
    return load_bytes(codes + j / 4 * 32 + i) >> (j % 4 * 2) & 3;
}

/* 16 bytes, each the scale and minimum of 16 elements; codes; two f16 */
INLINE void q2_k_block(const uint8_t *b, int rows, sink *s)
{
    vf d = splat(f16_at(b + 80)), dmin = splat(f16_at(b + 82));
    for (int j = 0; j < 8; j++) {
        UNROLL
        for (int i = 0; i < 32; i += V) {
            uint8_t packed = b[2 * j + i / 16];
            take(s, rows, i, to_float(two_bits(b + 16, j, i)) * (d * splat((float)(packed & 15))) - dmin * splat((float)(packed >> 4)));
        }
        advance(s, rows, 32);
    }
}

/* 32 bytes with the third bit of the codes, the codes, 12 bytes of scales, f16.  Scale j, six bits: the lower four in the halves of bytes 0-7,
 * the upper two in bits 2 (j / 4) of byte 8 + j % 4. */
INLINE void q3_k_block(const uint8_t *b, int rows, sink *s)
{
    const uint8_t *scales = b + 96;
    vf d = splat(f16_at(b + 108));
    for (int j = 0; j < 8; j++) {
        UNROLL
        for (int i = 0; i < 32; i += V) {
            int k = 2 * j + i / 16;
            int scale = (scales[k % 8] >> (k / 8 * 4) & 15) | (scales[8 + k % 4] >> (k / 4 * 2) & 3) << 4;
            vi q = two_bits(b + 32, j, i) | (load_bytes(b + i) >> j & 1) << 2;
            take(s, rows, i, to_float(q - 4) * (d * splat((float)(scale - 32))));
        }
        advance(s, rows, 32);
    }
}

/* f16, the upper two bits of eight scales, their lower four, and codes as of iq4_nl */
INLINE void iq4_xs_block(const uint8_t *b, int rows, sink *s)
{
    vf d = splat(f16_at(b));
    uint16_t high;
    memcpy(&high, b + 2, sizeof high);
    for (int j = 0; j < 8; j++) {
        int scale = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4;
        iq4_codes(b + 8 + 16 * j, d * splat((float)(scale - 32)), rows, s);
    }
}

/* ---- codes with scales elsewhere ---- */

INLINE float block_scale(const cb_scaled_codes *s, int64_t i)
{
    if (s->scale)
        return s->scale[i];
    float product = s->scale_levels[s->scale_codes[i]] * s->nested_scale[i / s->nested_block]; /* rounded before the sum, as elsewhere */
    return product + s->scale_offset;
}

/* Levels of the V codes in V / 2 bytes, of each byte the upper half first. */
INLINE vf nf4_levels(const uint8_t *p)
{
    vi codes; /* only the lower four bits count */
#if CBK_LEVEL >= 1
    const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
#endif
#if CBK_LEVEL >= 2
    const __m512i place = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    __m512i words = _mm512_permutexvar_epi32(place, _mm512_castsi128_si512(_mm_loadl_epi64((const void *)p)));
    codes = (vi)_mm512_srlv_epi32(words, _mm512_broadcast_i64x4(shifts));
#elif CBK_LEVEL == 1
    int32_t word;
    memcpy(&word, p, sizeof word);
    codes = (vi)_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
#else
    for (int i = 0; i < V; i++)
        codes[i] = p[i / 2] >> (i % 2 ? 0 : 4);
#endif
    return level_at(cbk_nf4_levels, codes);
}

/* V elements from element i of a block's codes p on; c < V: those alone. */
INLINE vf scaled_vector(bool nf4, const uint8_t *p, int64_t i, int64_t c)
{
    const uint8_t *from = p + (nf4 ? i / 2 : i);
    if (c >= V)
        return nf4 ? nf4_levels(from) : to_float(load_signed_bytes(from));
    uint8_t part[V] = {0};
    memcpy(part, from, (size_t)(nf4 ? (c + 1) / 2 : c));
    return nf4 ? nf4_levels(part) : to_float(load_signed_bytes(part));
}

/* n elements of one block */
INLINE void scaled_run(bool nf4, const uint8_t *p, float scale, int64_t n, int rows, sink *s)
{
    enum { STEP = 4 * V };
    vf factor = splat(scale);
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        UNROLL
        for (int j = 0; j < STEP; j += V)
            take(s, rows, j, scaled_vector(nf4, p, i + j, V) * factor);
        advance(s, rows, STEP);
    }
    for (int64_t c; (c = n - i) > 0; i += V) {
        take_part(s, rows, 0, scaled_vector(nf4, p, i, c) * factor, c);
        advance(s, rows, c < V ? c : V);
    }
}

INLINE void scaled_range(bool nf4, const cb_scaled_codes *codes, int64_t begin, int64_t count, int rows, sink *s)
{
    const uint8_t *first = codes->codes;
    for (int64_t done = 0, n; done < count; done += n) {
        int64_t at = begin + done, block = at / codes->block, left = (block + 1) * codes->block - at;
        n = count - done < left ? count - done : left;
        scaled_run(nf4, first + (nf4 ? at / 2 : at), block_scale(codes, block), n, rows, s);
    }
}

/* ---- ranges ---- */

INLINE void plain_range(cb_dtype dtype, const void *data, int64_t begin, int64_t count, int rows, sink *s)
{
    enum { STEP = 4 * V };
    int64_t i = 0;
    for (; i + STEP <= count; i += STEP) {
        UNROLL
        for (int j = 0; j < STEP; j += V)
            take(s, rows, j, load(dtype, data, begin + i + j, V));
        advance(s, rows, STEP);
    }
    FOR_VECTORS(j, c, count - i)
        take_part(s, rows, j, load(dtype, data, begin + i + j, c), c);
}

#define BLOCKS(elements, bytes, call)                                                                                                      \
    for (int64_t i = 0; i < count; i += (elements), b += (bytes))                                                                          \
        call;                                                                                                                              \
    break

/* Elements begin..begin+count-1, both multiples of the dtype's block. */
INLINE void decode(cb_dtype dtype, const void *data, int64_t begin, int64_t count, int rows, sink *s)
{
    const uint8_t *b = dtype == CB_INT8 || dtype == CB_NF4 ? NULL : (const uint8_t *)data + cb_dtype_bytes(dtype, begin);
    switch (dtype) {
    case CB_INT8:
        scaled_range(false, data, begin, count, rows, s);
        break;
    case CB_NF4:
        scaled_range(true, data, begin, count, rows, s);
        break;
    case CB_Q8_0:
        BLOCKS(32, 34, q8_0_block(b, rows, s));
    case CB_Q5_1:
        BLOCKS(32, 24, q5_codes(b + 4, splat(f16_at(b)), 0, splat(f16_at(b + 2)), rows, s));
    case CB_Q5_0:
        BLOCKS(32, 22, q5_codes(b + 2, splat(f16_at(b)), 16, splat(0), rows, s));
    case CB_Q4_1:
        BLOCKS(32, 20, q4_1_block(b, rows, s));
    case CB_IQ4_NL:
        BLOCKS(32, 18, iq4_codes(b + 2, splat(f16_at(b)), rows, s));
    case CB_IQ4_XS:
        BLOCKS(256, 136, iq4_xs_block(b, rows, s));
    case CB_Q3_K:
        BLOCKS(256, 110, q3_k_block(b, rows, s));
    case CB_Q2_K:
        BLOCKS(256, 84, q2_k_block(b, rows, s));
    case CB_Q4_0:
        BLOCKS(32, 18, q4_0_block(b, rows, s));
    case CB_Q6_K:
        BLOCKS(256, 210, q6_k_block(b, rows, s));
    case CB_Q5_K:
        BLOCKS(256, 176, q45_k_block(b, b + 16, b + 48, rows, s));
    case CB_Q4_K:
        BLOCKS(256, 144, q45_k_block(b, NULL, b + 16, rows, s));
    case CB_BF16:
        plain_range(CB_BF16, data, begin, count, rows, s);
        break;
    case CB_F16:
        plain_range(CB_F16, data, begin, count, rows, s);
        break;
    default:
        plain_range(CB_F32, data, begin, count, rows, s);
    }
}

static void dequantize(cb_dtype dtype, const void *data, int64_t begin, int64_t count, float *out)
{
    sink s = {.out = out};
    decode(dtype, data, begin, count, 0, &s);
}

/* ---- a few rows times a matrix of such elements ---- */

/* Rows of x, `padded` with zeros, as a sink reads them: V elements of each in turn, as many vectors as k needs. */
static void decoded_dots_pack(float *to, const float *x, int64_t rows, int64_t padded, int64_t k)
{
    FOR_VECTORS(i, c, k)
        for (int64_t r = 0; r < padded; r++, to += V)
            store_f32(to, r < rows ? load_f32(x + r * k + i, c) : splat(0), V);
}

/* Whether blocks begin at whole vectors of every row. */
INLINE bool whole_vectors(cb_dtype dtype, const void *w, int64_t k)
{
    const cb_scaled_codes *codes = w;
    return (dtype != CB_INT8 && dtype != CB_NF4) || (codes->block % V == 0 && k % V == 0) || codes->block % k == 0;
}

/* rows: 1, 2, 4 or 8, a constant */
INLINE void decoded_rows(const cbk_decoded *d, int rows, int64_t first, int64_t last)
{
    enum { PIECE = 1024 };
    float piece[PIECE];
    bool whole = whole_vectors(d->dtype, d->w, d->k);
    int chains = MOST_ROWS / rows;
    for (int64_t r = first; r < last; r++) {
        sink s = {.x = d->x};
        UNROLL
        for (int i = 0; i < MOST_ROWS; i++)
            s.sum[i] = splat(0);
        if (whole)
            decode(d->dtype, d->w, r * d->ldw, d->k, rows, &s);
        else
            for (int64_t begin = 0; begin < d->k; begin += PIECE) {
                int64_t c = d->k - begin < PIECE ? d->k - begin : PIECE;
                dequantize(d->dtype, d->w, r * d->ldw + begin, c, piece);
                plain_range(CB_F32, piece, 0, c, rows, &s);
            }
        for (int i = 0; i < rows && i < d->rows; i++) {
            vf sum = s.sum[i * chains];
            for (int j = 1; j < chains; j++)
                sum = sum + s.sum[i * chains + j];
            d->y[i * d->n + r] = sum_of(sum);
        }
    }
}

static void decoded_dots(const cbk_decoded *d, int64_t first, int64_t last)
{
    if (d->padded <= 1)
        decoded_rows(d, 1, first, last);
    else if (d->padded <= 2)
        decoded_rows(d, 2, first, last);
    else if (d->padded <= 4)
        decoded_rows(d, 4, first, last);
    else
        decoded_rows(d, 8, first, last);
}
