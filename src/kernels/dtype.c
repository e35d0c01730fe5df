/* dtype.c: sizes and names of element types. */
#include "cambium/dtype.h"

#include <ctype.h>
#include <string.h>

static const struct {
    uint16_t block, bytes; /* elements stored together, and their bytes */
    const char *names[3];  /* ours first */
} types[CB_DTYPE_COUNT] = {
    [CB_F32] = {1, 4, {"f32", "float32", "float"}}, [CB_BF16] = {1, 2, {"bf16", "bfloat16", NULL}},
    [CB_F16] = {1, 2, {"f16", "float16", "half"}},  [CB_F64] = {1, 8, {"f64", "float64", "double"}},
    [CB_I32] = {1, 4, {"i32", "int32", "int"}},     [CB_I64] = {1, 8, {"i64", "int64", "long"}},
    [CB_U8] = {1, 1, {"u8", "uint8", "byte"}},      [CB_BOOL] = {1, 1, {"bool", NULL, NULL}},
    [CB_Q8_0] = {32, 34, {"q8_0", NULL, NULL}},     [CB_Q5_1] = {32, 24, {"q5_1", NULL, NULL}},
    [CB_Q5_0] = {32, 22, {"q5_0", NULL, NULL}},     [CB_Q4_1] = {32, 20, {"q4_1", NULL, NULL}},
    [CB_Q4_0] = {32, 18, {"q4_0", NULL, NULL}},     [CB_IQ4_NL] = {32, 18, {"iq4_nl", NULL, NULL}},
    [CB_Q6_K] = {256, 210, {"q6_k", NULL, NULL}},   [CB_Q5_K] = {256, 176, {"q5_k", NULL, NULL}},
    [CB_Q4_K] = {256, 144, {"q4_k", NULL, NULL}},   [CB_IQ4_XS] = {256, 136, {"iq4_xs", NULL, NULL}},
    [CB_Q3_K] = {256, 110, {"q3_k", NULL, NULL}},   [CB_Q2_K] = {256, 84, {"q2_k", NULL, NULL}},
    [CB_INT8] = {1, 1, {"int8", "i8", NULL}},       [CB_NF4] = {2, 1, {"nf4", NULL, NULL}},
};

static bool known(cb_dtype dtype)
{
    return (unsigned)dtype < CB_DTYPE_COUNT;
}

size_t cb_dtype_size(cb_dtype dtype)
{
    return known(dtype) && !cb_dtype_is_quantized(dtype) ? types[dtype].bytes : 0;
}

bool cb_dtype_is_quantized(cb_dtype dtype)
{
    return dtype >= CB_Q8_0 && dtype <= CB_NF4;
}

int64_t cb_dtype_block(cb_dtype dtype)
{
    return known(dtype) ? types[dtype].block : 0;
}

size_t cb_dtype_bytes(cb_dtype dtype, int64_t count)
{
    int64_t bytes;
    bool fits = known(dtype) && count >= 0 && !__builtin_mul_overflow(count / types[dtype].block, (int64_t)types[dtype].bytes, &bytes);
    return fits ? (size_t)bytes : 0;
}

const char *cb_dtype_name(cb_dtype dtype)
{
    return known(dtype) ? types[dtype].names[0] : "?";
}

bool cb_dtype_is_half(cb_dtype dtype)
{
    return dtype == CB_BF16 || dtype == CB_F16;
}

bool cb_dtype_is_float(cb_dtype dtype)
{
    return dtype == CB_F32 || dtype == CB_F64 || cb_dtype_is_half(dtype);
}

static bool same_word(const char *a, const char *b)
{
    while (*a && tolower((unsigned char)*a) == *b)
        a++, b++;
    return !*a && !*b;
}

bool cb_dtype_from_name(const char *name, cb_dtype *dtype)
{
    if (!name)
        return false;
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (int t = 0; t < CB_DTYPE_COUNT; t++)
        for (int i = 0; i < 3 && types[t].names[i]; i++)
            if (same_word(name, types[t].names[i])) {
                *dtype = (cb_dtype)t;
                return true;
            }
    return false;
}
