/* vector.h: the vector types the kernels are written in, for the instruction set the including file is compiled for.
 *
 * CBK_LEVEL is 0 (whatever the compiler targets), 1 (AVX2, FMA, F16C), 2 (AVX-512) or 3 (AVX-512 with BF16).  A vf
 * holds V floats.  Arithmetic uses the compiler's vector extension, so the text of a kernel is the same for every
 * level; the few operations it lacks are functions here. bf16 and f16 arrays are read into vf and written back from it:
 * load() and store() take the dtype as a constant that inlining folds away.  The last, shorter vector of a row is
 * loaded with zeros behind it. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if CBK_LEVEL > 0
#include <immintrin.h>
#endif

#include "cambium/dtype.h"

#if CBK_LEVEL >= 2
enum { V = 16 };
#elif CBK_LEVEL == 1
enum { V = 8 };
#else
enum { V = 4 };
#endif

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * V)));
typedef int32_t vi __attribute__((vector_size(4 * V)));
typedef uint32_t vu __attribute__((vector_size(4 * V)));
typedef uint16_t vh __attribute__((vector_size(2 * V)));
typedef vf vf_unaligned __attribute__((aligned(4), may_alias));
typedef vu vu_unaligned __attribute__((aligned(2), may_alias)); /* words may be pairs of bf16 */
typedef vh vh_unaligned __attribute__((aligned(2), may_alias));

/* Walks 0..n-1 a vector at a time: `i` is the first element, `c` how many are left (V or more: a full vector). */
#define FOR_VECTORS(i, c, n) for (int64_t i = 0, c = (n); c > 0; i += V, c -= V)

INLINE vf splat(float x)
{
    return x - (vf){0};
}

INLINE vi splat_int(int32_t x)
{
    return x - (vi){0};
}

INLINE vf choose(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* The larger of two; the second when either is NaN. */
INLINE vf max2(vf a, vf b)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif CBK_LEVEL == 1
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose((vi)(a > b), a, b);
#endif
}

INLINE vf min2(vf a, vf b)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif CBK_LEVEL == 1
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return choose((vi)(a < b), a, b);
#endif
}

/* a b + c, rounded once where the machine can. */
INLINE vf fma_v(vf a, vf b, vf c)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif CBK_LEVEL == 1
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE vf square_root(vf x)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif CBK_LEVEL == 1
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < V; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

INLINE float sum_of(vf x)
{
#if CBK_LEVEL >= 2
    return _mm512_reduce_add_ps((__m512)x);
#else
    float s[V];
    memcpy(s, &x, sizeof s);
    for (int half = V / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            s[i] += s[i + half];
    return s[0];
#endif
}

INLINE float max_of(vf x)
{
#if CBK_LEVEL >= 2
    return _mm512_reduce_max_ps((__m512)x);
#else
    float m = x[0];
    for (int i = 1; i < V; i++)
        m = x[i] > m ? x[i] : m;
    return m;
#endif
}

/* ---- half types ---- */

INLINE vf from_bf16(vh h)
{
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

/* Round to nearest even; NaN stays NaN. */
INLINE vh to_bf16_exact(vf x)
{
    vu u = (vu)x;
    vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    vu quiet = (u >> 16) | 0x40;
    vu is_nan = (vu)(vi)(x != x);
    return __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), vh);
}

INLINE vh to_bf16(vf x)
{
#if CBK_LEVEL >= 3
    return (vh)_mm512_cvtneps_pbh((__m512)x); /* differs in that denormals become zero */
#else
    return to_bf16_exact(x);
#endif
}

#if CBK_LEVEL == 0
INLINE float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff, u;
    float f;
    if (exponent == 31)
        u = sign | 0x7f800000u | fraction << 13;
    else if (exponent)
        u = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        f = (float)fraction * 0x1p-24f;
        memcpy(&u, &f, sizeof u);
        u |= sign;
    }
    memcpy(&f, &u, sizeof f);
    return f;
}

INLINE uint16_t float_to_half(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* a denormal half: let the addition round */
        float shifted;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        memcpy(&magnitude, &shifted, sizeof magnitude);
        return (uint16_t)(sign | (magnitude - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((magnitude - 0x38000000) >> 13));
}
#endif

INLINE vf from_f16(vh h)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_cvtph_ps((__m256i)h);
#elif CBK_LEVEL == 1
    return (vf)_mm256_cvtph_ps((__m128i)h);
#else
    vf x;
    for (int i = 0; i < V; i++)
        x[i] = half_to_float(h[i]);
    return x;
#endif
}

INLINE vh to_f16(vf x)
{
#if CBK_LEVEL >= 2
    return (vh)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif CBK_LEVEL == 1
    return (vh)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
    vh h;
    for (int i = 0; i < V; i++)
        h[i] = float_to_half(x[i]);
    return h;
#endif
}

/* ---- memory ---- */

INLINE vf load_f32(const float *p, int64_t c)
{
    if (__builtin_expect(c >= V, 1))
        return *(const vf_unaligned *)p;
#if CBK_LEVEL >= 2
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << c) - 1), p);
#else
    float part[V] = {0};
    for (int64_t j = 0; j < c; j++)
        part[j] = p[j];
    return *(const vf_unaligned *)part;
#endif
}

INLINE void store_f32(float *p, vf x, int64_t c)
{
    if (__builtin_expect(c >= V, 1)) {
        *(vf_unaligned *)p = x;
        return;
    }
#if CBK_LEVEL >= 2
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << c) - 1), (__m512)x);
#else
    for (int64_t j = 0; j < c; j++)
        p[j] = x[j];
#endif
}

INLINE vh load_half(const uint16_t *p, int64_t c)
{
    if (__builtin_expect(c >= V, 1))
        return *(const vh_unaligned *)p;
#if CBK_LEVEL >= 2
    return (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << c) - 1), p);
#else
    uint16_t part[V] = {0};
    for (int64_t j = 0; j < c; j++)
        part[j] = p[j];
    return *(const vh_unaligned *)part;
#endif
}

INLINE void store_half(uint16_t *p, vh x, int64_t c)
{
    if (__builtin_expect(c >= V, 1)) {
        *(vh_unaligned *)p = x;
        return;
    }
#if CBK_LEVEL >= 2
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << c) - 1), (__m256i)x);
#else
    for (int64_t j = 0; j < c; j++)
        p[j] = x[j];
#endif
}

/* Elements i.. of an f32, bf16 or f16 array; c of them matter. */
INLINE vf load(cb_dtype dtype, const void *p, int64_t i, int64_t c)
{
    if (dtype == CB_F32)
        return load_f32((const float *)p + i, c);
    vh h = load_half((const uint16_t *)p + i, c);
    return dtype == CB_BF16 ? from_bf16(h) : from_f16(h);
}

INLINE void store(cb_dtype dtype, void *p, int64_t i, vf x, int64_t c)
{
    if (dtype == CB_F32)
        store_f32((float *)p + i, x, c);
    else
        store_half((uint16_t *)p + i, dtype == CB_BF16 ? to_bf16(x) : to_f16(x), c);
}

/* x with `fill` in the lanes from c on. */
INLINE vf keep_lanes(vf x, int64_t c, float fill)
{
    if (__builtin_expect(c >= V, 1))
        return x;
    vi lane;
    for (int j = 0; j < V; j++)
        lane[j] = j;
    return choose((vi)(lane < splat_int((int32_t)c)), x, splat(fill));
}

/* Runs `call`, which must use the constant DT, for the float dtype a run-time value names. */
#define WITH_DTYPE(dtype, call)                                                                                                            \
    do {                                                                                                                                   \
        if ((dtype) == CB_F32) {                                                                                                           \
            const cb_dtype DT = CB_F32;                                                                                                    \
            call;                                                                                                                          \
        } else if ((dtype) == CB_BF16) {                                                                                                   \
            const cb_dtype DT = CB_BF16;                                                                                                   \
            call;                                                                                                                          \
        } else {                                                                                                                           \
            const cb_dtype DT = CB_F16;                                                                                                    \
            call;                                                                                                                          \
        }                                                                                                                                  \
    } while (0)

/* ---- functions ---- */

/* 2^n for integers n in -126..127, given as floats */
INLINE vf power_of_two(vf n)
{
    return (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

INLINE vf nearest_integer(vf x) /* |x| < 2^22 */
{
    vf magic = splat(12582912.0f);
    return (x + magic) - magic;
}

/* The polynomial of e^x on |x| < (ln 2) / 2 (Cephes), x = r + n ln 2. */
INLINE vf exp_polynomial(vf x, vf *n)
{
    *n = nearest_integer(x * 1.44269504f);
    vf r = fma_v(*n, splat(-0.693359375f), x);
    r = fma_v(*n, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = fma_v(p, r, splat(1.3981999507e-3f));
    p = fma_v(p, r, splat(8.3334519073e-3f));
    p = fma_v(p, r, splat(4.1665795894e-2f));
    p = fma_v(p, r, splat(1.6666665459e-1f));
    p = fma_v(p, r, splat(5.0000001201e-1f));
    return fma_v(p, r * r, r) + 1.0f;
}

/* p 2^n; n a whole number between -300 and 300 */
INLINE vf scale_by_power(vf p, vf n)
{
#if CBK_LEVEL >= 2
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    vf half = nearest_integer(n * 0.5f); /* in two steps, as 2^n may not fit where p 2^n does */
    return p * power_of_two(half) * power_of_two(n - half);
#endif
}

/* e^x; relative error below 2e-7.  Overflows to infinity, NaN stays NaN. */
INLINE vf exp_v(vf x)
{
    vf n, p = exp_polynomial(min2(splat(89.0f), max2(splat(-105.0f), x)), &n);
    return scale_by_power(p, n);
}

/* The same for x <= 0 (softmax); results below 2^-126 are 0. */
INLINE vf exp_negative(vf x)
{
    vf n, p = exp_polynomial(max2(splat(-87.3f), x), &n);
#if CBK_LEVEL >= 2
    return (vf)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ), (__m512)p, (__m512)n);
#else
    return (vf)((vi)(p * power_of_two(n)) & ~(vi)(x < -87.3f));
#endif
}

/* 1 / x for normal x, relative error below 2e-7 */
INLINE vf reciprocal(vf x)
{
#if CBK_LEVEL >= 2
    vf r = (vf)_mm512_rcp14_ps((__m512)x);
    return fma_v(r, fma_v(-x, r, splat(1)), r);
#else
    return 1.0f / x;
#endif
}

INLINE vf sigmoid_v(vf x)
{
    vf n, p = exp_polynomial(min2(splat(87.0f), max2(splat(-87.0f), -x)), &n);
    return reciprocal(1.0f + scale_by_power(p, n));
}

/* Odd rational approximation on |x| < 7.9 (that of the Eigen library). */
INLINE vf tanh_v(vf x)
{
    vf t = min2(splat(7.90531110763549805f), max2(splat(-7.90531110763549805f), x)), s = t * t;
    vf p = splat(-2.76076847742355e-16f);
    p = fma_v(p, s, splat(2.00018790482477e-13f));
    p = fma_v(p, s, splat(-8.60467152213735e-11f));
    p = fma_v(p, s, splat(5.12229709037114e-08f));
    p = fma_v(p, s, splat(1.48572235717979e-05f));
    p = fma_v(p, s, splat(6.37261928875436e-04f));
    p = fma_v(p, s, splat(4.89352455891786e-03f));
    vf q = splat(1.19825839466702e-06f);
    q = fma_v(q, s, splat(1.18534705686654e-04f));
    q = fma_v(q, s, splat(2.26843463243900e-03f));
    q = fma_v(q, s, splat(4.89352518554385e-03f));
    return t * p * reciprocal(q);
}

/* Odd rational approximation on |x| < 4 (that of the Eigen library). */
INLINE vf erf_v(vf x)
{
    vf t = min2(splat(4), max2(splat(-4), x)), s = t * t;
    vf p = splat(-2.72614225801306e-10f);
    p = fma_v(p, s, splat(2.77068142495902e-08f));
    p = fma_v(p, s, splat(-2.10102402082508e-06f));
    p = fma_v(p, s, splat(-5.69250639462346e-05f));
    p = fma_v(p, s, splat(-7.34990630326855e-04f));
    p = fma_v(p, s, splat(-2.95459980854025e-03f));
    p = fma_v(p, s, splat(-1.60960333262415e-02f));
    vf q = splat(-1.45660718464996e-05f);
    q = fma_v(q, s, splat(-2.13374055278905e-04f));
    q = fma_v(q, s, splat(-1.68282697438203e-03f));
    q = fma_v(q, s, splat(-7.37332916720468e-03f));
    q = fma_v(q, s, splat(-1.42647390514189e-02f));
    return t * p * reciprocal(q);
}

/* Natural logarithm of normal positive numbers (Cephes). */
INLINE vf log_positive(vf x)
{
    vi bits = (vi)x;
    vf e = __builtin_convertvector((bits >> 23) - 126, vf);
    vf m = (vf)((bits & 0x7fffff) | 0x3f000000); /* 0.5 .. 1 */
    vi small = (vi)(m < 0.707106781f);
    e = e - (vf)(small & (vi)splat(1));
    m = m + (vf)(small & (vi)m) - 1.0f;
    vf s = m * m, p = splat(7.0376836292e-2f);
    p = fma_v(p, m, splat(-1.1514610310e-1f));
    p = fma_v(p, m, splat(1.1676998740e-1f));
    p = fma_v(p, m, splat(-1.2420140846e-1f));
    p = fma_v(p, m, splat(1.4249322787e-1f));
    p = fma_v(p, m, splat(-1.6668057665e-1f));
    p = fma_v(p, m, splat(2.0000714765e-1f));
    p = fma_v(p, m, splat(-2.4999993993e-1f));
    p = fma_v(p, m, splat(3.3333331174e-1f));
    vf y = m * s * p + e * -2.12194440e-4f - 0.5f * s;
    return m + y + e * 0.693359375f;
}

/* sin and cos of 2 pi v, v in [0, 1] */
INLINE void sin_cos_turns(vf v, vf *sine, vf *cosine)
{
    vf quarter = nearest_integer(v * 4);
    vf r = (v - quarter * 0.25f) * 6.28318531f, s = r * r; /* -pi/4 .. pi/4 */
    vf c = splat(2.443315711809948e-5f);
    c = fma_v(c, s, splat(-1.388731625493765e-3f));
    c = fma_v(c, s, splat(4.166664568298827e-2f));
    c = c * (s * s) - 0.5f * s + 1.0f;
    vf n = splat(-1.9515295891e-4f);
    n = fma_v(n, s, splat(8.3321608736e-3f));
    n = fma_v(n, s, splat(-1.6666654611e-1f));
    n = fma_v(n, s * r, r);
    vi q = __builtin_convertvector(quarter, vi) & 3;
    vi swap = (vi)((q & 1) != 0);
    vi minus_sine = (q & 2) << 30, minus_cosine = ((q + 1) & 2) << 30;
    *sine = (vf)((vi)choose(swap, c, n) ^ minus_sine);
    *cosine = (vf)((vi)choose(swap, n, c) ^ minus_cosine);
}
