/* dequantize.inc.h: quantised elements to f32, and their dot products with a few rows.  Included once per instruction set (isa_*.c).
 *
 * Blocks are those of GGUF (ggml's block_q8_0 and so on): scales are f16, codes of fewer bits lie in the lower halves of bytes first, then in
 * the upper halves.  Products of a block's scales and codes are exact in f32, so every instruction set gives the same numbers. */

typedef uint8_t vb __attribute__((vector_size(V)));
typedef int8_t vc __attribute__((vector_size(V)));
typedef uint8_t vb_half __attribute__((vector_size(V / 2)));
typedef uint64_t vu_pairs __attribute__((vector_size(4 * V)));

INLINE vi load_bytes(const uint8_t *p)
{
    vb b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, vi);
}

INLINE vi load_signed_bytes(const uint8_t *p)
{
    vc b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, vi);
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

/* ---- blocks of 32 ---- */

INLINE void q8_0_block(const uint8_t *b, float *out)
{
    vf d = splat(f16_at(b));
    for (int i = 0; i < 32; i += V)
        store_f32(out + i, to_float(load_signed_bytes(b + 2 + i)) * d, V);
}

INLINE void q4_0_block(const uint8_t *b, float *out)
{
    vf d = splat(f16_at(b));
    for (int i = 0; i < 16; i += V) {
        vi q = load_bytes(b + 2 + i);
        store_f32(out + i, to_float((q & 15) - 8) * d, V);
        store_f32(out + 16 + i, to_float((q >> 4) - 8) * d, V);
    }
}

/* The fifth bit of element i is bit i of a 32-bit word. */
INLINE void q5_0_block(const uint8_t *b, float *out)
{
    vf d = splat(f16_at(b));
    uint32_t fifth;
    memcpy(&fifth, b + 2, sizeof fifth);
    vu lane;
    for (int j = 0; j < V; j++)
        lane[j] = (uint32_t)j;
    for (int i = 0; i < 16; i += V) {
        vi q = load_bytes(b + 6 + i);
        vi low = (vi)(((fifth >> i) >> lane & 1) << 4), high = (vi)(((fifth >> (16 + i)) >> lane & 1) << 4);
        store_f32(out + i, to_float(((q & 15) | low) - 16) * d, V);
        store_f32(out + 16 + i, to_float(((q >> 4) | high) - 16) * d, V);
    }
}

/* ---- blocks of 256 ---- */

/* Scale and minimum j of 8, six bits each, packed into 12 bytes: the first four of each in the lower six bits of bytes 0-3 and 4-7, the
 * others in the halves of bytes 8-11 and the upper two bits of bytes 0-7. */
INLINE void k_scale(const uint8_t *s, int j, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *minimum = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

/* q4_k, and q5_k when `fifth` (32 bytes; bit j of byte i belongs to element i of the j-th 32) is given */
INLINE void q45_k_block(const uint8_t *b, const uint8_t *fifth, const uint8_t *codes, float *out)
{
    float d = f16_at(b), dmin = f16_at(b + 2);
    for (int j = 0; j < 8; j++) {
        int scale, minimum;
        k_scale(b + 4, j, &scale, &minimum);
        vf s = splat(d * (float)scale), m = splat(dmin * (float)minimum);
        for (int i = 0; i < 32; i += V) {
            vi q = load_bytes(codes + j / 2 * 32 + i) >> (j % 2 * 4) & 15;
            if (fifth)
                q |= (load_bytes(fifth + i) >> j & 1) << 4;
            store_f32(out + 32 * j + i, to_float(q) * s - m, V);
        }
    }
}

/* 128 bytes of lower halves, 64 of upper two bits, 16 signed scales of 16 elements each, f16 */
INLINE void q6_k_block(const uint8_t *b, float *out)
{
    const uint8_t *scales = b + 192;
    float d = f16_at(b + 208);
    for (int j = 0; j < 8; j++) { /* 32 elements each */
        int half = j / 4, quarter = j % 4;
        const uint8_t *low = b + 64 * half + 32 * (quarter & 1), *high = b + 128 + 32 * half;
        for (int i = 0; i < 32; i += V) {
            vi q = (load_bytes(low + i) >> (quarter / 2 * 4) & 15) | (load_bytes(high + i) >> (2 * quarter) & 3) << 4;
            float scale = d * (float)(int8_t)scales[2 * j + i / 16];
            store_f32(out + 32 * j + i, to_float(q - 32) * splat(scale), V);
        }
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

INLINE vf nf4_level(vi code)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_permutexvar_ps((__m512i)code, _mm512_loadu_ps(cbk_nf4_levels));
#elif CBK_LEVEL == 1
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(cbk_nf4_levels), (__m256i)code);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(cbk_nf4_levels + 8), (__m256i)code);
    return (vf)_mm256_blendv_ps(low, high, (__m256)((vi)code << 28));
#else
    vf x;
    for (int i = 0; i < V; i++)
        x[i] = cbk_nf4_levels[code[i]];
    return x;
#endif
}

/* n elements (even) of one block from the byte p on */
INLINE void nf4_run(const uint8_t *p, float scale, float *out, int64_t n)
{
    int64_t i = 0;
    for (; i + V <= n; i += V) {
        vb_half b;
        memcpy(&b, p + i / 2, sizeof b);
        vu_pairs wide = __builtin_convertvector(b, vu_pairs);
        vi code = (vi)(wide >> 4 | (wide & 15) << 32); /* of each byte the upper half first */
        store_f32(out + i, nf4_level(code) * splat(scale), V);
    }
    for (; i < n; i++)
        out[i] = cbk_nf4_levels[p[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale;
}

INLINE void int8_run(const uint8_t *p, float scale, float *out, int64_t n)
{
    int64_t i = 0;
    for (; i + V <= n; i += V)
        store_f32(out + i, to_float(load_signed_bytes(p + i)) * splat(scale), V);
    for (; i < n; i++)
        out[i] = (float)(int8_t)p[i] * scale;
}

INLINE void scaled_range(bool nf4, const cb_scaled_codes *s, int64_t begin, int64_t count, float *out)
{
    const uint8_t *codes = s->codes;
    for (int64_t done = 0, n; done < count; done += n) {
        int64_t at = begin + done, block = at / s->block, left = (block + 1) * s->block - at;
        n = count - done < left ? count - done : left;
        float scale = block_scale(s, block);
        if (nf4)
            nf4_run(codes + at / 2, scale, out + done, n);
        else
            int8_run(codes + at, scale, out + done, n);
    }
}

/* ---- ranges ---- */

/* begin and count are multiples of the dtype's block */
static void dequantize(cb_dtype dtype, const void *data, int64_t begin, int64_t count, float *out)
{
    if (dtype == CB_INT8) {
        scaled_range(false, data, begin, count, out);
        return;
    }
    if (dtype == CB_NF4) {
        scaled_range(true, data, begin, count, out);
        return;
    }
    int64_t size = cb_dtype_block(dtype);
    const uint8_t *b = (const uint8_t *)data + cb_dtype_bytes(dtype, begin);
    int64_t step = (int64_t)cb_dtype_bytes(dtype, size);
    for (const float *end = out + count; out < end; out += size, b += step)
        switch (dtype) {
        case CB_Q8_0:
            q8_0_block(b, out);
            break;
        case CB_Q5_0:
            q5_0_block(b, out);
            break;
        case CB_Q4_0:
            q4_0_block(b, out);
            break;
        case CB_Q6_K:
            q6_k_block(b, out);
            break;
        case CB_Q5_K:
            q45_k_block(b, b + 16, b + 48, out);
            break;
        default:
            q45_k_block(b, NULL, b + 16, out);
        }
}

/* ---- a few rows times a quantised matrix ---- */

/* Four sums a row hide the latency of the additions. */
INLINE float dot_of(const float *a, const float *b, int64_t n)
{
    vf s[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * V <= n; i += 4 * V)
        for (int j = 0; j < 4; j++)
            s[j] = fma_v(load_f32(a + i + j * V, V), load_f32(b + i + j * V, V), s[j]);
    FOR_VECTORS(j, c, n - i)
        s[0] = fma_v(load_f32(a + i + j, c), load_f32(b + i + j, c), s[0]);
    return sum_of(s[0] + s[1] + (s[2] + s[3]));
}

/* y[i, r] = <x[i], w[r]> for rows r in first..last-1 of w (n, k) and the m rows of x; y has row stride n */
static void quantized_dots(cb_dtype dtype, const void *w, int64_t n, int64_t k, int64_t first, int64_t last, const float *x, int64_t m,
                           float *y)
{
    enum { PIECE = 1024 };
    float piece[PIECE];
    for (int64_t r = first; r < last; r++) {
        for (int64_t i = 0; i < m; i++)
            y[i * n + r] = 0;
        for (int64_t begin = 0; begin < k; begin += PIECE) {
            int64_t c = k - begin < PIECE ? k - begin : PIECE;
            dequantize(dtype, w, r * k + begin, c, piece);
            for (int64_t i = 0; i < m; i++)
                y[i * n + r] += dot_of(piece, x + i * k + begin, c);
        }
    }
}
