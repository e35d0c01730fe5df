/* quantize_blocks.c: f32 to GGUF's block types, with the numbers llama.cpp's reference quantisers give (no importance matrix).
 *
 * Types of 32 elements take the scale from the element largest in magnitude.  Types of 256 search: every 16 or 32 elements try some scales
 * around the plain one, solve for the best scale (and minimum) by weighted least squares with the codes held fixed, and keep what errs least;
 * then the scales of the block become integers times one f16, and the codes are taken once more against those.  Sums run in f32 and in the order
 * of the elements: another order would round otherwise, and now and then choose another code. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { SUPER = 256 };
static const float least_magnitude = 1e-15f; /* of a group that is more than zero */

/* The nearest whole number, half to even, within low..high. */
static int nearest(float x, int low, int high)
{
    float whole = (x + 12582912.0f) - 12582912.0f;
    return whole < (float)low ? low : whole > (float)high ? high : (int)whole;
}

/* Stores x as f16; gives the value stored. */
static float put_f16(uint8_t *to, float x)
{
    uint16_t h;
    float stored;
    cbk_convert(&x, CB_F32, &h, CB_F16, 1);
    memcpy(to, &h, sizeof h);
    cbk_convert(&h, CB_F16, &stored, CB_F32, 1);
    return stored;
}

/* The first element of largest magnitude. */
static float extreme(const float *x, int n)
{
    float most = 0, at = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            at = x[i];
        }
    return at;
}

/* ---- 32 elements ---- */

static void q8_0_block(const float *x, uint8_t *to)
{
    float d = fabsf(extreme(x, 32)) / 127, inverse = d > 0 ? 1 / d : 0;
    put_f16(to, d);
    for (int i = 0; i < 32; i++)
        to[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

/* q4_0 (half 8) and q5_0 (half 16): codes 0..2 half - 1 stand for -half..half - 1; the extreme element is -half. */
static void centered_codes(const float *x, int half, uint8_t *d_at, uint8_t *codes)
{
    float d = extreme(x, 32) / (float)-half, inverse = d != 0 ? 1 / d : 0;
    put_f16(d_at, d);
    for (int i = 0; i < 32; i++) {
        int code = (int)(x[i] * inverse + ((float)half + 0.5f)); /* >= 0, as |x inverse| <= half */
        codes[i] = (uint8_t)(code < 2 * half ? code : 2 * half - 1);
    }
}

static void pack_halves(const uint8_t *codes, uint8_t *to)
{
    for (int i = 0; i < 16; i++)
        to[i] = (uint8_t)((codes[i] & 15) | (codes[16 + i] & 15) << 4);
}

static void q4_0_block(const float *x, uint8_t *to)
{
    uint8_t codes[32];
    centered_codes(x, 8, to, codes);
    pack_halves(codes, to + 2);
}

static void q5_0_block(const float *x, uint8_t *to)
{
    uint8_t codes[32];
    uint32_t fifth = 0;
    centered_codes(x, 16, to, codes);
    for (int i = 0; i < 32; i++)
        fifth |= (uint32_t)(codes[i] >> 4) << i;
    memcpy(to + 2, &fifth, sizeof fifth);
    pack_halves(codes, to + 6);
}

/* ---- 256 elements: scale and minimum of 32 ---- */

/* How the search of a type runs: codes 0..top; inverse scales (first + 0.1 i + top) / range for i in 0..steps. */
typedef struct range_search {
    int top, steps;
    float first;
} range_search;

/* x = scale * code + minimum, minimum <= 0, with weights w */
typedef struct range_fit {
    float scale, minimum, error;
    uint8_t codes[32];
} range_fit;

static float fit_error(const float *x, const float *w, const uint8_t *codes, float scale, float minimum)
{
    float error = 0;
    for (int i = 0; i < 32; i++) {
        float difference = scale * (float)codes[i] + minimum - x[i];
        error += w[i] * (difference * difference);
    }
    return error;
}

/* Codes for an inverse scale, then scale and minimum by least squares; a minimum above 0 becomes 0.  False when the codes are all one. */
static bool try_range(const float *x, const float *w, float sum_w, float sum_x, float low, float inverse, int top, range_fit *fit)
{
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < 32; i++) {
        int l = nearest(inverse * (x[i] - low), 0, top);
        fit->codes[i] = (uint8_t)l;
        sum_l += w[i] * (float)l;
        sum_l2 += w[i] * (float)l * (float)l;
        sum_xl += w[i] * (float)l * x[i];
    }
    float determinant = sum_w * sum_l2 - sum_l * sum_l;
    if (!(determinant > 0))
        return false;
    fit->scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    fit->minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    if (fit->minimum > 0) {
        fit->minimum = 0;
        fit->scale = sum_xl / sum_l2;
    }
    fit->error = fit_error(x, w, fit->codes, fit->scale, fit->minimum);
    return true;
}

static range_fit search_range(const float *x, const range_search *s)
{
    float w[32], squares = 0, low = x[0], high = x[0], sum_w = 0, sum_x = 0;
    for (int i = 0; i < 32; i++)
        squares += x[i] * x[i];
    float mean = sqrtf(squares / 32);
    for (int i = 0; i < 32; i++) {
        w[i] = mean + fabsf(x[i]);
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    low = low > 0 ? 0 : low;
    if (high == low)
        return (range_fit){.minimum = low};
    float inverse = (float)s->top / (high - low);
    range_fit best = {.scale = 1 / inverse, .minimum = low}, fit;
    for (int i = 0; i < 32; i++)
        best.codes[i] = (uint8_t)nearest(inverse * (x[i] - low), 0, s->top);
    best.error = fit_error(x, w, best.codes, best.scale, low);
    for (int i = 0; i <= s->steps; i++) {
        inverse = (s->first + 0.1f * (float)i + (float)s->top) / (high - low);
        if (try_range(x, w, sum_w, sum_x, low, inverse, s->top, &fit) && fit.error < best.error) {
            best = fit;
            low = fit.minimum; /* the next candidates begin there */
        }
    }
    return best;
}

/* Scale and minimum j, six bits each; the layout is explained in cpu/dequantize.inc.h. */
static void put_scale(uint8_t *to, int j, int scale, int minimum)
{
    if (j < 4) {
        to[j] = (uint8_t)scale;
        to[j + 4] = (uint8_t)minimum;
    } else {
        to[j + 4] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
        to[j - 4] |= (uint8_t)(scale >> 4 << 6);
        to[j] |= (uint8_t)(minimum >> 4 << 6);
    }
}

/* Scales into to[0..15] (two f16, 12 bytes); codes of all 256 elements. */
static void range_codes(const float *x, const range_search *s, uint8_t *to, uint8_t *codes)
{
    range_fit fit[8];
    float most_scale = 0, most_minimum = 0;
    for (int j = 0; j < 8; j++) {
        fit[j] = search_range(x + 32 * j, s);
        most_scale = fit[j].scale > most_scale ? fit[j].scale : most_scale;
        most_minimum = -fit[j].minimum > most_minimum ? -fit[j].minimum : most_minimum;
    }
    float d = put_f16(to, most_scale / 63), dmin = put_f16(to + 2, most_minimum / 63);
    float inverse_scale = most_scale > 0 ? 63 / most_scale : 0, inverse_minimum = most_minimum > 0 ? 63 / most_minimum : 0;
    for (int j = 0; j < 8; j++) {
        int scale = nearest(inverse_scale * fit[j].scale, 0, 63);
        int minimum = nearest(inverse_minimum * -fit[j].minimum, 0, 63);
        put_scale(to + 4, j, scale, minimum);
        float step = d * (float)scale, shift = dmin * (float)minimum;
        memcpy(codes + 32 * j, fit[j].codes, 32); /* they stay where the scale came out as 0 */
        for (int i = 32 * j; step > 0 && i < 32 * j + 32; i++)
            codes[i] = (uint8_t)nearest((x[i] + shift) / step, 0, s->top);
    }
}

/* Elements of the first 32 of every 64 lie in the lower halves. */
static void pack_pairs_of_32(const uint8_t *codes, uint8_t *to)
{
    for (int i = 0; i < SUPER / 2; i++)
        to[i] = (uint8_t)((codes[i / 32 * 64 + i % 32] & 15) | (codes[i / 32 * 64 + 32 + i % 32] & 15) << 4);
}

static void q4_k_block(const float *x, uint8_t *to)
{
    static const range_search search = {15, 20, -1.0f};
    uint8_t codes[SUPER];
    range_codes(x, &search, to, codes);
    pack_pairs_of_32(codes, to + 16);
}

static void q5_k_block(const float *x, uint8_t *to)
{
    static const range_search search = {31, 15, -0.5f};
    uint8_t codes[SUPER];
    range_codes(x, &search, to, codes);
    memset(to + 16, 0, 32);
    for (int i = 0; i < SUPER; i++)
        to[16 + i % 32] |= (uint8_t)(codes[i] >> 4 << (i / 32));
    pack_pairs_of_32(codes, to + 48);
}

/* ---- 256 elements: scale of 16 ---- */

/* Codes -32..31 for an inverse scale: sums of w x l and w l l with w = x^2. */
static void sum_codes(const float *x, float inverse, float *sum_xl, float *sum_l2)
{
    *sum_xl = *sum_l2 = 0;
    for (int i = 0; i < 16; i++) {
        float l = (float)nearest(inverse * x[i], -32, 31), w = x[i] * x[i];
        *sum_xl += w * x[i] * l;
        *sum_l2 += w * l * l;
    }
}

/* The scale that makes sum w (x - scale l)^2 least among 19 sets of codes, which are stored plus 32. */
static float search_scale(const float *x, uint8_t *codes)
{
    float end = extreme(x, 16), sum_xl, sum_l2;
    memset(codes, 0, 16);
    if (fabsf(end) < least_magnitude)
        return 0;
    float chosen = -32 / end;
    sum_codes(x, chosen, &sum_xl, &sum_l2);
    float scale = sum_l2 > 0 ? sum_xl / sum_l2 : 0, best = scale * sum_xl;
    for (int i = -9; i <= 9; i++) {
        if (i == 0)
            continue;
        float inverse = -(32 + 0.1f * (float)i) / end;
        sum_codes(x, inverse, &sum_xl, &sum_l2);
        if (sum_l2 > 0 && sum_xl * sum_xl > best * sum_l2) {
            chosen = inverse;
            scale = sum_xl / sum_l2;
            best = scale * sum_xl;
        }
    }
    for (int i = 0; i < 16; i++)
        codes[i] = (uint8_t)(nearest(chosen * x[i], -32, 31) + 32);
    return scale;
}

static void q6_k_block(const float *x, uint8_t *to)
{
    float scales[16];
    uint8_t codes[SUPER];
    for (int j = 0; j < 16; j++)
        scales[j] = search_scale(x + 16 * j, codes + 16 * j);
    float end = extreme(scales, 16);
    memset(to, 0, 210);
    if (fabsf(end) < least_magnitude)
        return;
    float inverse = -128 / end, d = put_f16(to + 208, 1 / inverse);
    for (int j = 0; j < 16; j++) {
        int scale = nearest(inverse * scales[j], -128, 127);
        to[192 + j] = (uint8_t)(int8_t)scale;
        float step = d * (float)scale;
        for (int i = 16 * j; step != 0 && i < 16 * j + 16; i++) /* where the scale came out as 0, they stay */
            codes[i] = (uint8_t)(nearest(x[i] / step, -32, 31) + 32);
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *c = codes + 128 * half + i;
            to[64 * half + i] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
            to[64 * half + 32 + i] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
            to[128 + 32 * half + i] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
        }
}

/* ---- all ---- */

typedef void block_quantizer(const float *x, uint8_t *to);

static block_quantizer *quantizer_of(cb_dtype dtype)
{
    switch (dtype) {
    case CB_Q8_0:
        return q8_0_block;
    case CB_Q5_0:
        return q5_0_block;
    case CB_Q4_0:
        return q4_0_block;
    case CB_Q6_K:
        return q6_k_block;
    case CB_Q5_K:
        return q5_k_block;
    case CB_Q4_K:
        return q4_k_block;
    default:
        return NULL;
    }
}

bool cbk_quantize(cb_dtype dtype, const float *x, int64_t count, void *to)
{
    block_quantizer *quantize = quantizer_of(dtype);
    int64_t block = cb_dtype_block(dtype);
    if (!quantize || count % block)
        return cb_fail(CB_ERR_ARGUMENT, "quantize: %lld elements to %s, expected a type of GGUF and whole blocks of it", (long long)count,
                       cb_dtype_name(dtype)) == CB_OK;
    if (cb_rehearsing()) {
        cb_rehearsal_read(x, (size_t)count * sizeof *x);
        return true;
    }
    if (!cbk_all_finite(CB_F32, x, count))
        return cb_fail(CB_ERR_NUMERIC, "quantize: found a number that is not finite") == CB_OK;
    int64_t bytes = (int64_t)cb_dtype_bytes(dtype, block);
    int threads = cbk_threads(count * 64);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t b = 0; b < count / block; b++)
        quantize(x + b * block, (uint8_t *)to + b * bytes);
    return true;
}
