/* quantize_blocks.c: f32 to GGUF's block types, with the numbers llama.cpp's reference quantisers give (no importance matrix).
 *
 * Types of 32 elements take the scale from the element largest in magnitude.  Types of 256 search: every 16 or 32 elements try some scales
 * around the plain one, solve for the best scale (and minimum) by weighted least squares with the codes held fixed, and keep what errs least;
 * then the scales of the block become integers times one f16, and the codes are taken once more against those.  Sums run in f32 and in the order
 * of the elements: another order would round otherwise, and now and then choose another code. */
#include "kernels/quantize_blocks.h"

#include "kernels/parallel.h"

/* ---- 32 elements ---- */

static void q8_0_block(const float *x, uint8_t *to)
{
    float d = fabsf(cbk_extreme(x, 32)) / 127, inverse = d > 0 ? 1 / d : 0;
    cbk_put_f16(to, d);
    for (int i = 0; i < 32; i++)
        to[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

/* d and m; codes 0..top stand for d code + m. */
static void shifted_codes(const float *x, int top, uint8_t *to, uint8_t *codes)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float d = (high - low) / (float)top, inverse = d != 0 ? 1 / d : 0;
    cbk_put_f16(to, d);
    cbk_put_f16(to + 2, low);
    for (int i = 0; i < 32; i++) {
        int code = (int)((x[i] - low) * inverse + 0.5f);
        codes[i] = (uint8_t)(code < top ? code : top);
    }
}

/* q4_0 (half 8) and q5_0 (half 16): codes 0..2 half - 1 stand for -half..half - 1; the extreme element is -half. */
static void centered_codes(const float *x, int half, uint8_t *d_at, uint8_t *codes)
{
    float d = cbk_extreme(x, 32) / (float)-half, inverse = d != 0 ? 1 / d : 0;
    cbk_put_f16(d_at, d);
    for (int i = 0; i < 32; i++) {
        int code = (int)(x[i] * inverse + ((float)half + 0.5f)); /* >= 0, as |x inverse| <= half */
        codes[i] = (uint8_t)(code < 2 * half ? code : 2 * half - 1);
    }
}

static void q4_0_block(const float *x, uint8_t *to)
{
    uint8_t codes[32];
    centered_codes(x, 8, to, codes);
    cbk_pack_halves(codes, to + 2);
}

static void q4_1_block(const float *x, uint8_t *to)
{
    uint8_t codes[32];
    shifted_codes(x, 15, to, codes);
    cbk_pack_halves(codes, to + 4);
}

static void pack_fifths(const uint8_t *codes, uint8_t *to)
{
    uint32_t fifth = 0;
    for (int i = 0; i < 32; i++)
        fifth |= (uint32_t)(codes[i] >> 4) << i;
    memcpy(to, &fifth, sizeof fifth);
    cbk_pack_halves(codes, to + 4);
}

static void q5_0_block(const float *x, uint8_t *to)
{
    uint8_t codes[32];
    centered_codes(x, 16, to, codes);
    pack_fifths(codes, to + 2);
}

static void q5_1_block(const float *x, uint8_t *to)
{
    uint8_t codes[32];
    shifted_codes(x, 31, to, codes);
    pack_fifths(codes, to + 4);
}

/* ---- codes of uneven levels ---- */

const float cbk_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* The nearest level; of two equally near the upper one. */
static uint8_t nearest_level(float x)
{
    int low = 0, high = 15;
    if (x <= cbk_iq4_levels[0] || x >= cbk_iq4_levels[15])
        return x <= cbk_iq4_levels[0] ? 0 : 15;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (x < cbk_iq4_levels[middle])
            high = middle;
        else
            low = middle;
    }
    return (uint8_t)(x - cbk_iq4_levels[low] < cbk_iq4_levels[high] - x ? low : high);
}

static void sum_levels(const float *x, float inverse, float *sum_xq, float *sum_q2)
{
    *sum_xq = *sum_q2 = 0;
    for (int i = 0; i < 32; i++) {
        float q = cbk_iq4_levels[nearest_level(inverse * x[i])], w = x[i] * x[i];
        *sum_xq += w * q * x[i];
        *sum_q2 += w * q * q;
    }
}

/* The scale of 32 elements that makes sum w (x - scale q)^2 least among 16 sets of codes. */
static float search_levels(const float *x)
{
    float end = cbk_extreme(x, 32), sum_xq, sum_q2;
    if (fabsf(end) < CBK_LEAST_MAGNITUDE)
        return 0;
    sum_levels(x, 1 / (-end / cbk_iq4_levels[0]), &sum_xq, &sum_q2);
    float scale = sum_q2 > 0 ? sum_xq / sum_q2 : 0, best = scale * sum_xq;
    for (int i = -7; i <= 7; i++) {
        sum_levels(x, ((float)i + cbk_iq4_levels[0]) / end, &sum_xq, &sum_q2);
        if (sum_q2 > 0 && sum_xq * sum_xq > best * sum_q2) {
            scale = sum_xq / sum_q2;
            best = scale * sum_xq;
        }
    }
    return scale;
}

static void level_codes(const float *x, float scale, uint8_t *to)
{
    uint8_t codes[32];
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < 32; i++)
        codes[i] = nearest_level(inverse * x[i]);
    cbk_pack_halves(codes, to);
}

static void iq4_nl_block(const float *x, uint8_t *to)
{
    float scale = search_levels(x);
    cbk_put_f16(to, scale);
    level_codes(x, scale, to + 2);
}

static void iq4_xs_block(const float *x, uint8_t *to)
{
    float scales[8];
    uint16_t high = 0;
    for (int j = 0; j < 8; j++)
        scales[j] = search_levels(x + 32 * j);
    float d = -cbk_extreme(scales, 8) / 32, inverse = d != 0 ? 1 / d : 0;
    cbk_put_f16(to, d);
    memset(to + 4, 0, 4);
    for (int j = 0; j < 8; j++) {
        int scale = cbk_nearest(inverse * scales[j], -32, 31);
        level_codes(x + 32 * j, d * (float)scale, to + 8 + 16 * j);
        to[4 + j / 2] |= (uint8_t)(((scale + 32) & 15) << (j % 2 * 4));
        high |= (uint16_t)((scale + 32) >> 4 << (2 * j));
    }
    memcpy(to + 2, &high, sizeof high);
}

/* ---- all ---- */

typedef void block_quantizer(const float *x, uint8_t *to);

static block_quantizer *quantizer_of(cb_dtype dtype)
{
    switch (dtype) {
    case CB_Q8_0:
        return q8_0_block;
    case CB_Q5_1:
        return q5_1_block;
    case CB_Q5_0:
        return q5_0_block;
    case CB_Q4_1:
        return q4_1_block;
    case CB_Q4_0:
        return q4_0_block;
    case CB_IQ4_NL:
        return iq4_nl_block;
    case CB_Q6_K:
        return cbk_q6_k_block;
    case CB_Q5_K:
        return cbk_q5_k_block;
    case CB_Q4_K:
        return cbk_q4_k_block;
    case CB_IQ4_XS:
        return iq4_xs_block;
    case CB_Q3_K:
        return cbk_q3_k_block;
    case CB_Q2_K:
        return cbk_q2_k_block;
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
