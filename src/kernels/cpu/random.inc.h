/* random.inc.h: Philox4x32-10, V counters at a time, and what is made of its words.  Included once per instruction
 * set (isa_*.c). */

/* Both halves of the 64-bit products a[i] * m. */
INLINE void multiply_wide(vu a, uint32_t m, vu *high, vu *low)
{
#if CBK_LEVEL >= 2
    __m512i wide = _mm512_set1_epi64(m), x = (__m512i)a;
    __m512i even = _mm512_mul_epu32(x, wide), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), wide);
    *low = (vu)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    *high = (vu)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif CBK_LEVEL == 1
    __m256i wide = _mm256_set1_epi64x(m), x = (__m256i)a;
    __m256i even = _mm256_mul_epu32(x, wide), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), wide);
    *low = (vu)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = (vu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
    for (int i = 0; i < V; i++) {
        uint64_t product = (uint64_t)a[i] * m;
        (*low)[i] = (uint32_t)product;
        (*high)[i] = (uint32_t)(product >> 32);
    }
#endif
}

/* Counters first.. as two words each. */
INLINE void counters(uint64_t first, vu *low, vu *high)
{
    uint32_t l[V], h[V];
    for (uint64_t i = 0; i < V; i++) {
        l[i] = (uint32_t)(first + i);
        h[i] = (uint32_t)((first + i) >> 32);
    }
    *low = *(const vu_unaligned *)l;
    *high = *(const vu_unaligned *)h;
}

/* Words of V blocks, block by block. */
INLINE void store_blocks(uint32_t *to, vu c0, vu c1, vu c2, vu c3, int64_t count)
{
    uint32_t word[4 * V];
#if CBK_LEVEL >= 2
    __m512i a = _mm512_unpacklo_epi32((__m512i)c0, (__m512i)c1), b = _mm512_unpackhi_epi32((__m512i)c0, (__m512i)c1);
    __m512i c = _mm512_unpacklo_epi32((__m512i)c2, (__m512i)c3), d = _mm512_unpackhi_epi32((__m512i)c2, (__m512i)c3);
    __m512i u0 = _mm512_unpacklo_epi64(a, c), u1 = _mm512_unpackhi_epi64(a, c); /* lane l of u_j: block 4 l + j */
    __m512i u2 = _mm512_unpacklo_epi64(b, d), u3 = _mm512_unpackhi_epi64(b, d);
    a = _mm512_shuffle_i32x4(u0, u1, 0x88);
    b = _mm512_shuffle_i32x4(u0, u1, 0xdd);
    c = _mm512_shuffle_i32x4(u2, u3, 0x88);
    d = _mm512_shuffle_i32x4(u2, u3, 0xdd);
    uint32_t *at = count >= V ? to : word;
    _mm512_storeu_si512(at, _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_storeu_si512(at + 16, _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_storeu_si512(at + 32, _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_storeu_si512(at + 48, _mm512_shuffle_i32x4(b, d, 0xdd));
    if (count >= V)
        return;
#else
    for (int i = 0; i < V; i++) {
        word[4 * i] = c0[i];
        word[4 * i + 1] = c1[i];
        word[4 * i + 2] = c2[i];
        word[4 * i + 3] = c3[i];
    }
#endif
    memcpy(to, word, (size_t)(count < V ? count : V) * 16);
}

static void philox(uint32_t *words, int64_t blocks, uint64_t seed, uint64_t stream, uint64_t counter)
{
    for (int64_t b = 0; b < blocks; b += V) {
        vu c0, c1, c2 = (vu){0} + (uint32_t)stream, c3 = (vu){0} + (uint32_t)(stream >> 32);
        counters(counter + (uint64_t)b, &c0, &c1);
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            vu h0, l0, h1, l1;
            multiply_wide(c0, 0xD2511F53u, &h0, &l0);
            multiply_wide(c2, 0xCD9E8D57u, &h1, &l1);
            c0 = h1 ^ c1 ^ k0;
            c2 = h0 ^ c3 ^ k1;
            c1 = l1;
            c3 = l0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        store_blocks(words + 4 * b, c0, c1, c2, c3, blocks - b);
    }
}

static void uniform(float *out, const uint32_t *words, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(int32_t)(words[i] >> 8) * 0x1p-24f;
}

/* Pairs: words a, b give sqrt(-2 log u) (cos 2 pi v, sin 2 pi v), u = ((a >> 8) + 1/2) 2^-24, v = (b >> 8) 2^-24. */
static void normal(float *out, const uint32_t *words, int64_t n)
{
    for (int64_t i = 0; i < n; i += 2 * V) {
        float u[V], v[V], pair[2 * V];
        int64_t pairs = (n - i) / 2 < V ? (n - i) / 2 : V;
        for (int64_t j = pairs; j < V; j++) {
            u[j] = 0.5f;
            v[j] = 0;
        }
        for (int64_t j = 0; j < pairs; j++) {
            u[j] = ((float)(int32_t)(words[i + 2 * j] >> 8) + 0.5f) * 0x1p-24f;
            v[j] = (float)(int32_t)(words[i + 2 * j + 1] >> 8) * 0x1p-24f;
        }
        vf sine, cosine, radius = square_root(max2(-2.0f * log_positive(*(const vf_unaligned *)u), splat(0)));
        sin_cos_turns(*(const vf_unaligned *)v, &sine, &cosine);
        sine = sine * radius;
        cosine = cosine * radius;
        for (int j = 0; j < V; j++) {
            pair[2 * j] = cosine[j];
            pair[2 * j + 1] = sine[j];
        }
        memcpy(out + i, pair, (size_t)pairs * 8);
    }
}
