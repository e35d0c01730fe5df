/* quantize_super.c: f32 to GGUF's K types, whose blocks of 256 hold groups of 32 or 16; see quantize_blocks.c. */
#include "kernels/quantize_blocks.h"

enum { SUPER = 256 };

/* ---- 256 elements: scale and minimum of 32 or 16 ---- */

/* How the search of a type runs: groups of `count`; codes 0..top; inverse scales (first + 0.1 i + top) / range for i in 0..steps. */
typedef struct range_search {
    int count, top, steps;
    float first;
    bool absolute; /* errors and weights are magnitudes, and not squares and what lies above the mean */
    int most;      /* of the scales as integers */
} range_search;

/* x = scale * code + minimum, minimum <= 0, with weights w */
typedef struct range_fit {
    float scale, minimum, error;
    uint8_t codes[32];
} range_fit;

static float fit_error(const range_search *s, const float *x, const float *w, const uint8_t *codes, float scale, float minimum)
{
    float error = 0;
    for (int i = 0; i < s->count; i++) {
        float difference = scale * (float)codes[i] + minimum - x[i];
        error += w[i] * (s->absolute ? fabsf(difference) : difference * difference);
    }
    return error;
}

/* Codes for an inverse scale, then scale and minimum by least squares; a minimum above 0 becomes 0.  False when the codes are all one. */
static bool try_range(const range_search *s, const float *x, const float *w, float sum_w, float sum_x, float low, float inverse,
                      range_fit *fit)
{
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < s->count; i++) {
        int l = cbk_nearest(inverse * (x[i] - low), 0, s->top);
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
    fit->error = fit_error(s, x, w, fit->codes, fit->scale, fit->minimum);
    return true;
}

static range_fit search_range(const float *x, const range_search *s)
{
    float w[32], squares = 0, low = x[0], high = x[0], sum_w = 0, sum_x = 0;
    for (int i = 0; i < s->count; i++)
        squares += x[i] * x[i];
    float mean = s->absolute ? 0 : sqrtf(squares / (float)s->count);
    for (int i = 0; i < s->count; i++) {
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
    for (int i = 0; i < s->count; i++)
        best.codes[i] = (uint8_t)cbk_nearest(inverse * (x[i] - low), 0, s->top);
    best.error = fit_error(s, x, w, best.codes, best.scale, low);
    for (int i = 0; i <= s->steps; i++) {
        inverse = (s->first + 0.1f * (float)i + (float)s->top) / (high - low);
        if (try_range(s, x, w, sum_w, sum_x, low, inverse, &fit) && fit.error < best.error) {
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

/* Two f16 at d_at; scales and minima of all groups, as integers, and codes of all 256 elements. */
static void range_codes(const float *x, const range_search *s, uint8_t *d_at, uint8_t *scales, uint8_t *minima, uint8_t *codes)
{
    range_fit fit[16];
    float most_scale = 0, most_minimum = 0, most = (float)s->most;
    int groups = SUPER / s->count;
    for (int j = 0; j < groups; j++) {
        fit[j] = search_range(x + s->count * j, s);
        most_scale = fit[j].scale > most_scale ? fit[j].scale : most_scale;
        most_minimum = -fit[j].minimum > most_minimum ? -fit[j].minimum : most_minimum;
    }
    float d = cbk_put_f16(d_at, most_scale / most), dmin = cbk_put_f16(d_at + 2, most_minimum / most);
    float inverse_scale = most_scale > 0 ? most / most_scale : 0, inverse_minimum = most_minimum > 0 ? most / most_minimum : 0;
    for (int j = 0; j < groups; j++) {
        int begin = s->count * j, scale = cbk_nearest(inverse_scale * fit[j].scale, 0, s->most);
        int minimum = cbk_nearest(inverse_minimum * -fit[j].minimum, 0, s->most);
        scales[j] = (uint8_t)scale;
        minima[j] = (uint8_t)minimum;
        float step = d * (float)scale, shift = dmin * (float)minimum;
        memcpy(codes + begin, fit[j].codes, (size_t)s->count); /* they stay where the scale came out as 0 */
        for (int i = begin; step > 0 && i < begin + s->count; i++)
            codes[i] = (uint8_t)cbk_nearest((x[i] + shift) / step, 0, s->top);
    }
}

/* Of q4_k and q5_k: the scales and minima of eight groups packed behind the two f16. */
static void packed_range_codes(const float *x, const range_search *s, uint8_t *to, uint8_t *codes)
{
    uint8_t scales[8], minima[8];
    range_codes(x, s, to, scales, minima, codes);
    for (int j = 0; j < 8; j++)
        put_scale(to + 4, j, scales[j], minima[j]);
}

/* Elements of the first 32 of every 64 lie in the lower halves. */
static void pack_pairs_of_32(const uint8_t *codes, uint8_t *to)
{
    for (int i = 0; i < SUPER / 2; i++)
        to[i] = (uint8_t)((codes[i / 32 * 64 + i % 32] & 15) | (codes[i / 32 * 64 + 32 + i % 32] & 15) << 4);
}

void cbk_q4_k_block(const float *x, uint8_t *to)
{
    static const range_search search = {.count = 32, .top = 15, .steps = 20, .first = -1.0f, .most = 63};
    uint8_t codes[SUPER];
    packed_range_codes(x, &search, to, codes);
    pack_pairs_of_32(codes, to + 16);
}

void cbk_q5_k_block(const float *x, uint8_t *to)
{
    static const range_search search = {.count = 32, .top = 31, .steps = 15, .first = -0.5f, .most = 63};
    uint8_t codes[SUPER];
    packed_range_codes(x, &search, to, codes);
    memset(to + 16, 0, 32);
    for (int i = 0; i < SUPER; i++)
        to[16 + i % 32] |= (uint8_t)(codes[i] >> 4 << (i / 32));
    pack_pairs_of_32(codes, to + 48);
}

/* Codes of two bits: those of four times 32 elements share their bytes. */
static void pack_twos(const uint8_t *codes, uint8_t *to)
{
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *c = codes + 128 * half + i;
            to[32 * half + i] = (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
}

void cbk_q2_k_block(const float *x, uint8_t *to)
{
    static const range_search search = {.count = 16, .top = 3, .steps = 15, .first = -0.5f, .absolute = true, .most = 15};
    uint8_t scales[16], minima[16], codes[SUPER];
    range_codes(x, &search, to + 80, scales, minima, codes);
    for (int j = 0; j < 16; j++)
        to[j] = (uint8_t)(scales[j] | minima[j] << 4);
    pack_twos(codes, to + 16);
}

/* ---- 256 elements: scale of 16 ---- */

/* Codes -32..31 for an inverse scale: sums of w x l and w l l with w = x^2. */
static void sum_codes(const float *x, float inverse, float *sum_xl, float *sum_l2)
{
    *sum_xl = *sum_l2 = 0;
    for (int i = 0; i < 16; i++) {
        float l = (float)cbk_nearest(inverse * x[i], -32, 31), w = x[i] * x[i];
        *sum_xl += w * x[i] * l;
        *sum_l2 += w * l * l;
    }
}

/* The scale that makes sum w (x - scale l)^2 least among 19 sets of codes, which are stored plus 32. */
static float search_scale(const float *x, uint8_t *codes)
{
    float end = cbk_extreme(x, 16), sum_xl, sum_l2;
    memset(codes, 0, 16);
    if (fabsf(end) < CBK_LEAST_MAGNITUDE)
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
        codes[i] = (uint8_t)(cbk_nearest(chosen * x[i], -32, 31) + 32);
    return scale;
}

void cbk_q6_k_block(const float *x, uint8_t *to)
{
    float scales[16];
    uint8_t codes[SUPER];
    for (int j = 0; j < 16; j++)
        scales[j] = search_scale(x + 16 * j, codes + 16 * j);
    float end = cbk_extreme(scales, 16);
    memset(to, 0, 210);
    if (fabsf(end) < CBK_LEAST_MAGNITUDE)
        return;
    float inverse = -128 / end, d = cbk_put_f16(to + 208, 1 / inverse);
    for (int j = 0; j < 16; j++) {
        int scale = cbk_nearest(inverse * scales[j], -128, 127);
        to[192 + j] = (uint8_t)(int8_t)scale;
        float step = d * (float)scale;
        for (int i = 16 * j; step != 0 && i < 16 * j + 16; i++) /* where the scale came out as 0, they stay */
            codes[i] = (uint8_t)(cbk_nearest(x[i] / step, -32, 31) + 32);
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *c = codes + 128 * half + i;
            to[64 * half + i] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
            to[64 * half + 32 + i] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
            to[128 + 32 * half + i] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
        }
}

/* Codes -4..3, stored plus 4: each is tried again with the scale that the others give, until none changes. */
static float refine_scale(const float *x, uint8_t *codes)
{
    float end = cbk_extreme(x, 16), sum_xl = 0, sum_l2 = 0;
    int l[16];
    memset(codes, 4, 16);
    if (fabsf(end) < CBK_LEAST_MAGNITUDE) {
        memset(codes, 0, 16);
        return 0;
    }
    float inverse = -4 / end;
    for (int i = 0; i < 16; i++) {
        float w = x[i] * x[i];
        l[i] = cbk_nearest(inverse * x[i], -4, 3);
        sum_xl += w * x[i] * (float)l[i];
        sum_l2 += w * (float)l[i] * (float)l[i];
    }
    bool changed = true;
    for (int turn = 0; changed && turn < 5; turn++) {
        changed = false;
        for (int i = 0; i < 16; i++) {
            float w = x[i] * x[i], other_xl = sum_xl - w * x[i] * (float)l[i], other_l2 = sum_l2 - w * (float)l[i] * (float)l[i];
            int next = other_xl > 0 ? cbk_nearest(x[i] * other_l2 / other_xl, -4, 3) : l[i];
            if (next == l[i])
                continue;
            other_xl += w * x[i] * (float)next;
            other_l2 += w * (float)next * (float)next;
            if (!(other_l2 > 0 && other_xl * other_xl * sum_l2 > sum_xl * sum_xl * other_l2))
                continue;
            l[i] = next;
            sum_xl = other_xl;
            sum_l2 = other_l2;
            changed = true;
        }
    }
    for (int i = 0; i < 16; i++)
        codes[i] = (uint8_t)(l[i] + 4);
    return sum_l2 > 0 ? sum_xl / sum_l2 : 0;
}

/* Scale j, six bits: see cpu/dequantize.inc.h. */
void cbk_q3_k_block(const float *x, uint8_t *to)
{
    float scales[16];
    uint8_t codes[SUPER];
    for (int j = 0; j < 16; j++)
        scales[j] = refine_scale(x + 16 * j, codes + 16 * j);
    float end = cbk_extreme(scales, 16), inverse = end != 0 ? -32 / end : 0, d = cbk_put_f16(to + 108, end != 0 ? 1 / inverse : 0);
    memset(to, 0, 32);
    memset(to + 96, 0, 12);
    for (int j = 0; j < 16; j++) {
        int scale = end != 0 ? cbk_nearest(inverse * scales[j], -32, 31) : -32, stored = end != 0 ? scale + 32 : 0;
        to[96 + j % 8] |= (uint8_t)((stored & 15) << (j / 8 * 4));
        to[104 + j % 4] |= (uint8_t)(stored >> 4 << (2 * (j / 4)));
        float step = d * (float)scale;
        for (int i = 16 * j; step != 0 && i < 16 * j + 16; i++)
            codes[i] = (uint8_t)(cbk_nearest(x[i] / step, -4, 3) + 4);
    }
    for (int i = 0; i < SUPER; i++)
        to[i % 32] |= (uint8_t)(codes[i] >> 2 << (i / 32));
    pack_twos(codes, to + 32);
}
