/* convert.c: conversion between all dtypes, and filling.  f32 to and from the half types is vectorised; a pair of
 * two other types is a plain loop; a half type beside an integer or f64 goes through f32, a few hundred elements at
 * a time. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { PIECE = 512 };

/* Truncates; out of range saturates; NaN gives 0. */
static inline int32_t to_i32(double x)
{
    return x != x ? 0 : x >= 2147483647.0 ? INT32_MAX : x <= -2147483648.0 ? INT32_MIN : (int32_t)x;
}

static inline int64_t to_i64(double x)
{
    return x != x ? 0 : x >= 0x1p63 ? INT64_MAX : x <= -0x1p63 ? INT64_MIN : (int64_t)x;
}

static inline uint8_t to_u8(double x)
{
    return x != x || x <= 0 ? 0 : x >= 255 ? 255 : (uint8_t)x;
}

static inline int32_t i64_to_i32(int64_t x)
{
    return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (int32_t)x;
}

static inline uint8_t i64_to_u8(int64_t x)
{
    return x < 0 ? 0 : x > 255 ? 255 : (uint8_t)x;
}

#define LOOP(S, D, expression)                                                                                                             \
    {                                                                                                                                      \
        const S *s = from;                                                                                                                 \
        D *t = to;                                                                                                                         \
        for (int64_t i = 0; i < n; i++) {                                                                                                  \
            S x = s[i];                                                                                                                    \
            t[i] = (expression);                                                                                                           \
        }                                                                                                                                  \
        return;                                                                                                                            \
    }

#define FROM_FLOATING(S)                                                                                                                   \
    switch (to_dtype) {                                                                                                                    \
    case CB_F32:                                                                                                                           \
        LOOP(S, float, (float)x)                                                                                                           \
    case CB_F64:                                                                                                                           \
        LOOP(S, double, (double)x)                                                                                                         \
    case CB_I32:                                                                                                                           \
        LOOP(S, int32_t, to_i32((double)x))                                                                                                \
    case CB_I64:                                                                                                                           \
        LOOP(S, int64_t, to_i64((double)x))                                                                                                \
    case CB_U8:                                                                                                                            \
        LOOP(S, uint8_t, to_u8((double)x))                                                                                                 \
    default:                                                                                                                               \
        LOOP(S, uint8_t, x != 0)                                                                                                           \
    }

#define FROM_INTEGER(S)                                                                                                                    \
    switch (to_dtype) {                                                                                                                    \
    case CB_F32:                                                                                                                           \
        LOOP(S, float, (float)x)                                                                                                           \
    case CB_F64:                                                                                                                           \
        LOOP(S, double, (double)x)                                                                                                         \
    case CB_I32:                                                                                                                           \
        LOOP(S, int32_t, i64_to_i32(x))                                                                                                    \
    case CB_I64:                                                                                                                           \
        LOOP(S, int64_t, x)                                                                                                                \
    case CB_U8:                                                                                                                            \
        LOOP(S, uint8_t, i64_to_u8(x))                                                                                                     \
    default:                                                                                                                               \
        LOOP(S, uint8_t, x != 0)                                                                                                           \
    }

/* Neither is a half type. */
static void convert_plain(const void *from, cb_dtype from_dtype, void *to, cb_dtype to_dtype, int64_t n)
{
    switch (from_dtype) {
    case CB_F32:
        FROM_FLOATING(float)
    case CB_F64:
        FROM_FLOATING(double)
    case CB_I32:
        FROM_INTEGER(int32_t)
    case CB_I64:
        FROM_INTEGER(int64_t)
    default:
        FROM_INTEGER(uint8_t)
    }
}

/* f64 to a half type by way of f32 would round twice; rounding to odd first makes the second rounding right. */
static float round_to_odd(double x)
{
    float f = (float)x;
    if ((double)f == x || !isfinite(f))
        return f;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (fabs((double)f) > fabs(x))
        u--; /* towards zero */
    u |= 1;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* i32 and i64 reach the half types through f64 for the same reason. */
static void to_half(const void *from, cb_dtype from_dtype, void *to, cb_dtype to_dtype, int64_t n)
{
    float piece[PIECE];
    double wide[PIECE];
    size_t size = cb_dtype_size(from_dtype);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t c = n - i < PIECE ? n - i : PIECE;
        const char *source = (const char *)from + (size_t)i * size;
        convert_plain(source, from_dtype, wide, CB_F64, c);
        for (int64_t j = 0; j < c; j++)
            piece[j] = round_to_odd(wide[j]);
        cbk_vector()->from_f32(to_dtype, (uint16_t *)to + i, piece, c);
    }
}

static void from_half(const void *from, cb_dtype from_dtype, void *to, cb_dtype to_dtype, int64_t n)
{
    float piece[PIECE];
    size_t size = cb_dtype_size(to_dtype);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t c = n - i < PIECE ? n - i : PIECE;
        cbk_vector()->to_f32(from_dtype, piece, (const uint16_t *)from + i, c);
        char *target = (char *)to + (size_t)i * size;
        if (cb_dtype_is_half(to_dtype))
            cbk_vector()->from_f32(to_dtype, target, piece, c);
        else
            convert_plain(piece, CB_F32, target, to_dtype, c);
    }
}

static void convert_range(const void *from, cb_dtype from_dtype, void *to, cb_dtype to_dtype, int64_t n)
{
    if (from_dtype == to_dtype)
        memmove(to, from, (size_t)n * cb_dtype_size(to_dtype));
    else if (cb_dtype_is_half(from_dtype) && to_dtype == CB_F32)
        cbk_vector()->to_f32(from_dtype, to, from, n);
    else if (cb_dtype_is_half(to_dtype) && from_dtype == CB_F32)
        cbk_vector()->from_f32(to_dtype, to, from, n);
    else if (cb_dtype_is_half(from_dtype))
        from_half(from, from_dtype, to, to_dtype, n);
    else if (cb_dtype_is_half(to_dtype))
        to_half(from, from_dtype, to, to_dtype, n);
    else
        convert_plain(from, from_dtype, to, to_dtype, n);
}

/* Types that are not floats are reached by way of f32. */
static void from_quantized(const void *from, cb_dtype from_dtype, char *to, cb_dtype to_dtype, int64_t count)
{
    float piece[PIECE];
    if (cb_dtype_is_float(to_dtype)) {
        cbk_dequantize(from_dtype, from, 0, count, to_dtype, to);
        return;
    }
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t c = count - i < PIECE ? count - i : PIECE;
        cbk_dequantize(from_dtype, from, i, c, CB_F32, piece);
        convert_plain(piece, CB_F32, to + i * (int64_t)cb_dtype_size(to_dtype), to_dtype, c);
    }
}

void cbk_convert(const void *from, cb_dtype from_dtype, void *to, cb_dtype to_dtype, int64_t count)
{
    if (count <= 0)
        return;
    if (cbk_rehearsed(from_dtype, count) || cbk_rehearsed(to_dtype, count)) {
        cb_rehearsal_read(from, cb_dtype_is_quantized(from_dtype) ? 0 : (size_t)count * cb_dtype_size(from_dtype));
        return;
    }
    if (cb_dtype_is_quantized(from_dtype)) {
        from_quantized(from, from_dtype, to, to_dtype, count);
        return;
    }
    int threads = cbk_threads(count);
    if (threads == 1) {
        convert_range(from, from_dtype, to, to_dtype, count);
        return;
    }
    int64_t from_size = (int64_t)cb_dtype_size(from_dtype), to_size = (int64_t)cb_dtype_size(to_dtype);
#pragma omp parallel num_threads(threads)
    {
        cbk_range r = cbk_share(count, PIECE);
        convert_range((const char *)from + r.begin * from_size, from_dtype, (char *)to + r.begin * to_size, to_dtype, r.end - r.begin);
    }
}

static void fill_range(char *to, int64_t size, const void *element, int64_t n)
{
    static const char zero[8];
    if (memcmp(element, zero, (size_t)size) == 0) {
        memset(to, 0, (size_t)(n * size));
        return;
    }
    for (int64_t i = 0; i < n && i < 64; i++)
        memcpy(to + i * size, element, (size_t)size);
    for (int64_t done = 64; done < n; done += 64)
        memcpy(to + done * size, to, (size_t)((n - done < 64 ? n - done : 64) * size));
}

void cbk_fill(void *to, cb_dtype dtype, double value, int64_t count)
{
    char element[8] = {0};
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cbk_rehearsed(dtype, count))
        return;
    cbk_convert(&value, CB_F64, element, dtype, 1);
    int threads = cbk_threads(count);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, 64);
        fill_range((char *)to + r.begin * size, size, element, r.end - r.begin);
    }
}
