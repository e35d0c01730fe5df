/* merge.inc.h: what choosing and adding up the changes of several models does with each number.  Included once per instruction set
 * (isa_*.c). */

INLINE vi magnitude_bits(vf x)
{
    return (vi)x & 0x7fffffff;
}

/* Those lanes of `bits` that `mask` names, without gaps; how many. */
INLINE int64_t pack_lanes(uint32_t *to, vi bits, vi mask)
{
#if CBK_LEVEL >= 2
    __mmask16 lanes = _mm512_movepi32_mask((__m512i)mask);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(lanes, (__m512i)bits));
    return __builtin_popcount(lanes);
#else
    int64_t n = 0;
    uint64_t any[V / 2];
    memcpy(any, &mask, sizeof any);
    for (int i = 1; i < V / 2; i++)
        any[0] |= any[i];
    if (!any[0])
        return 0;
    for (int i = 0; i < V; i++) {
        to[n] = (uint32_t)bits[i];
        n -= mask[i];
    }
    return n;
#endif
}

static void split(const float *x, int64_t n, int32_t low, int32_t high, cbk_split *s, uint32_t *between)
{
    int64_t i = 0;
    *s = (cbk_split){0};
    while (i + V <= n) {
        vi above = {0}, at_high = {0}, at_low = {0};
        int64_t end = n - i < 1 << 30 ? n : i + (1 << 30); /* lanes count in 32 bits */
        for (; i + V <= end; i += V) {
            vi bits = magnitude_bits(*(const vf_unaligned *)(x + i));
            above -= bits > high;
            at_high -= bits == high;
            at_low -= bits == low;
            s->between += pack_lanes(between + s->between, bits, (bits > low) & (bits < high));
        }
        for (int k = 0; k < V; k++) {
            s->above += above[k];
            s->at_high += at_high[k];
            s->at_low += at_low[k];
        }
    }
    for (; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        s->above += bits > high;
        s->at_high += bits == high;
        s->at_low += bits == low;
        if (bits > low && bits < high)
            between[s->between++] = (uint32_t)bits;
    }
}

INLINE vf one_where(vi mask)
{
    return (vf)(mask & (vi)splat(1));
}

INLINE vf agreeing(const float *const *x, const float *weights, size_t count, int64_t i, int64_t c, bool frequency, bool normalize)
{
    vf sum = {0}, total = {0}, divisor = {0};
    for (size_t m = 0; m < count; m++) {
        vf y = weights[m] * load_f32(x[m] + i, c);
        sum += frequency ? one_where((vi)(y > 0)) - one_where((vi)(y < 0)) : y;
    }
    vi positive = (vi)(sum >= 0);
    for (size_t m = 0; m < count; m++) {
        vf y = weights[m] * load_f32(x[m] + i, c);
        vi agrees = (positive & (vi)(y > 0)) | (~positive & (vi)(y < 0));
        total += choose(agrees, y, (vf){0});
        divisor += choose(agrees, splat(weights[m]), (vf){0});
    }
    return normalize ? choose((vi)(divisor != 0), total / choose((vi)(divisor != 0), divisor, splat(1)), total) : total;
}

static void add_agreeing(float *out, const float *const *x, const float *weights, size_t count, int64_t n, bool frequency, bool normalize)
{
    if (frequency)
        FOR_VECTORS(i, c, n)
            store_f32(out + i, agreeing(x, weights, count, i, c, true, normalize), c);
    else
        FOR_VECTORS(i, c, n)
            store_f32(out + i, agreeing(x, weights, count, i, c, false, normalize), c);
}
