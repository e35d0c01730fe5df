/* quantize.c: quantised arrays: to plain ones, and int8 and nf4 from f32.  (GGUF's types from f32: quantize_blocks.c.)
 *
 * nf4 is the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023, arXiv:2305.14314): 16 levels at the quantiles of a normal distribution.  Its
 * scales can be quantised once more, to the dynamic 8-bit type of Dettmers et al. 2022 (arXiv:2110.02861). */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { PIECE = 512, NESTED_BLOCK = 256 };

const float cbk_nf4_levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/* ---- to plain types ---- */

static void dequantize_range(cb_dtype dtype, const void *data, int64_t begin, int64_t count, cb_dtype to_dtype, char *to)
{
    float piece[PIECE];
    int64_t size = (int64_t)cb_dtype_size(to_dtype);
    if (to_dtype == CB_F32) {
        cbk_vector()->dequantize(dtype, data, begin, count, (float *)(void *)to);
        return;
    }
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t c = count - i < PIECE ? count - i : PIECE;
        cbk_vector()->dequantize(dtype, data, begin + i, c, piece);
        if (cb_dtype_is_half(to_dtype))
            cbk_vector()->from_f32(to_dtype, to + i * size, piece, c);
        else
            for (int64_t j = 0; j < c; j++)
                ((double *)(void *)to)[i + j] = (double)piece[j];
    }
}

static bool can_dequantize(cb_dtype dtype, int64_t begin, int64_t count, cb_dtype to_dtype)
{
    if (!cb_dtype_is_quantized(dtype) || !cb_dtype_is_float(to_dtype))
        return cb_fail(CB_ERR_UNSUPPORTED, "dequantize: %s to %s is not supported", cb_dtype_name(dtype), cb_dtype_name(to_dtype)) == CB_OK;
    int64_t block = cb_dtype_block(dtype);
    return (begin % block == 0 && count % block == 0) ||
           cb_fail(CB_ERR_SHAPE, "dequantize: %lld elements from %lld on: %s has blocks of %lld", (long long)count, (long long)begin,
                   cb_dtype_name(dtype), (long long)block) == CB_OK;
}

/* In a rehearsal: the codes and scales of elements begin..begin+count-1 would have been read. */
static bool rehearsed(cb_dtype dtype, const void *data, int64_t begin, int64_t count)
{
    if (!cb_rehearsing())
        return false;
    size_t first = cb_dtype_bytes(dtype, begin), bytes = cb_dtype_bytes(dtype, count);
    if (dtype != CB_INT8 && dtype != CB_NF4) {
        cb_rehearsal_read((const char *)data + first, bytes);
        return true;
    }
    const cb_scaled_codes *c = data;
    size_t block = (size_t)begin / (size_t)c->block, blocks = (size_t)count / (size_t)c->block + 1;
    cb_rehearsal_read((const char *)c->codes + first, bytes);
    if (c->scale)
        cb_rehearsal_read(c->scale + block, blocks * sizeof *c->scale);
    else
        cb_rehearsal_read(c->scale_codes + block, blocks);
    return true;
}

bool cbk_dequantize(cb_dtype dtype, const void *data, int64_t begin, int64_t count, cb_dtype to_dtype, void *to)
{
    if (!can_dequantize(dtype, begin, count, to_dtype))
        return false;
    if (rehearsed(dtype, data, begin, count))
        return true;
    int threads = cbk_threads(count);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, PIECE);
        dequantize_range(dtype, data, begin + r.begin, r.end - r.begin, to_dtype, (char *)to + r.begin * (int64_t)cb_dtype_size(to_dtype));
    }
    return true;
}

bool cbk_dequantize_columns(cb_dtype dtype, const void *data, int64_t k, int64_t row, int64_t rows, int64_t first, int64_t columns,
                            cb_dtype to_dtype, void *to)
{
    if (!can_dequantize(dtype, k, columns, to_dtype) || !can_dequantize(dtype, first, 0, to_dtype))
        return false;
    if (rehearsed(dtype, data, row * k, rows * k)) /* the rows whole: their other columns are read by other calls */
        return true;
    int64_t size = (int64_t)cb_dtype_size(to_dtype);
    int threads = cbk_threads(rows * columns);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < rows; i++)
        dequantize_range(dtype, data, (row + i) * k + first, columns, to_dtype, (char *)to + i * columns * size);
    return true;
}

/* ---- int8 and nf4 ---- */

/* The largest |x|; NaN when one of them is not finite. */
static float largest(const float *x, int64_t n)
{
    float most = 0, bad = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(x[i]));
        bad += x[i] - x[i];
    }
    return most + bad;
}

static void make_midpoints(const float *levels, int count, float *midpoints)
{
    for (int i = 0; i + 1 < count; i++)
        midpoints[i] = (levels[i] + levels[i + 1]) / 2;
}

/* The nearest of `count` (a power of two) rising levels: how many of the midpoints between neighbours lie below x. */
static uint8_t nearest_level(const float *midpoints, int count, float x)
{
    int code = 0;
    for (int step = count / 2; step; step /= 2)
        code += x > midpoints[code + step - 1] ? step : 0;
    return (uint8_t)code;
}

/* x / scale within -1..1, as a product with the inverse */
static float inverse_of(float scale)
{
    return 1 / fmaxf(scale, 1e-38f);
}

static float within_one(float x)
{
    return fminf(1, fmaxf(-1, x));
}

/* A block's codes; a block of an odd length never begins within a byte. */
static void nf4_block(const float *midpoints, const float *x, int64_t n, float scale, uint8_t *to)
{
    float inverse = inverse_of(scale);
    for (int64_t i = 0; i < n; i += 2) {
        uint8_t high = nearest_level(midpoints, 16, within_one(x[i] * inverse));
        uint8_t low = nearest_level(midpoints, 16, within_one(x[i + 1] * inverse));
        to[i / 2] = (uint8_t)(high << 4 | low);
    }
}

static void int8_block(const float *x, int64_t n, float scale, int8_t *to)
{
    float inverse = scale > 0 ? 1 / scale * 127 : 0; /* rounded twice, as 127 / tensor is in PyTorch */
    if (inverse - inverse != 0)                      /* of a denormal scale; its elements count as zeros */
        inverse = 0;
    for (int64_t i = 0; i < n; i++) {
        float code = rintf(x[i] * inverse);
        to[i] = (int8_t)fminf(127, fmaxf(-127, code));
    }
}

bool cbk_quantize_scaled(cb_dtype dtype, const float *x, int64_t count, int64_t block, void *codes, float *absmax)
{
    bool nf4 = dtype == CB_NF4;
    if ((!nf4 && dtype != CB_INT8) || block <= 0 || (nf4 && (count % 2 || block % 2)))
        return cb_fail(CB_ERR_ARGUMENT, "quantize: %lld elements to %s in blocks of %lld", (long long)count, cb_dtype_name(dtype),
                       (long long)block) == CB_OK;
    float midpoints[15];
    make_midpoints(cbk_nf4_levels, 16, midpoints);
    if (cb_rehearsing()) {
        cb_rehearsal_read(x, (size_t)count * sizeof *x);
        return true;
    }
    int64_t blocks = (count + block - 1) / block, bad = 0;
    int threads = cbk_threads(count * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(+ : bad)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t begin = b * block, n = count - begin < block ? count - begin : block;
        float most = largest(x + begin, n);
        bad += most != most;
        absmax[b] = most;
        if (nf4)
            nf4_block(midpoints, x + begin, n, most, (uint8_t *)codes + begin / 2);
        else
            int8_block(x + begin, n, most, (int8_t *)codes + begin);
    }
    return !bad || cb_fail(CB_ERR_NUMERIC, "quantize: found a number that is not finite") == CB_OK;
}

/* ---- double quantisation ---- */

/* The boundary i of `parts` equal parts of 0.1..1: counted from the nearer end and rounded once, as torch.linspace does. */
static float boundary(int i, int parts)
{
    double step = (double)((1.0f - 0.1f) / (float)parts);
    return (float)(i < (parts + 1) / 2 ? (double)0.1f + step * i : 1.0 - step * (parts - i));
}

/* Seven decades; decade i, up to 10^(i - 6), has 2^i levels a side: the middles of as many equal parts of 0.1..1 of it.  0 and 1 beside. */
static float dynamic_levels[256];

static void make_dynamic_levels(void)
{
    enum { ZERO = 127 };
    float *levels = dynamic_levels;
    levels[ZERO] = 0;
    for (int i = 0; i < 7; i++) {
        int parts = 1 << i;
        for (int j = 0; j < parts; j++) {
            float level = (float)pow(10, i - 6) * ((boundary(j, parts) + boundary(j + 1, parts)) / 2);
            levels[ZERO + parts + j] = level;
            levels[ZERO - parts - j] = -level;
        }
    }
    levels[255] = 1;
}

const float *cbk_dynamic_levels(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_dynamic_levels);
    return dynamic_levels;
}

bool cbk_quantize_scales(const float *scale, int64_t count, uint8_t *codes, float *nested_scale, float *offset)
{
    float midpoints[255];
    make_midpoints(cbk_dynamic_levels(), 256, midpoints);
    *offset = 0;
    if (cb_rehearsing())
        return true;
    *offset = count > 0 ? (float)(cbk_sum(CB_F32, scale, count) / (double)count) : 0;
    for (int64_t begin = 0; begin < count; begin += NESTED_BLOCK) {
        int64_t n = count - begin < NESTED_BLOCK ? count - begin : NESTED_BLOCK;
        float most = 0;
        for (int64_t i = 0; i < n; i++)
            most = fmaxf(most, fabsf(scale[begin + i] - *offset));
        nested_scale[begin / NESTED_BLOCK] = most;
        float inverse = inverse_of(most);
        for (int64_t i = 0; i < n; i++)
            codes[begin + i] = nearest_level(midpoints, 256, within_one((scale[begin + i] - *offset) * inverse));
    }
    return true;
}
