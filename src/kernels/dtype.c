/* dtype.c: sizes and names of element types. */
#include "cambium/dtype.h"

#include <ctype.h>
#include <string.h>

static const struct {
    size_t size;
    const char *names[3]; /* ours first */
} types[CB_DTYPE_COUNT] = {
    [CB_F32] = {4, {"f32", "float32", "float"}},  [CB_BF16] = {2, {"bf16", "bfloat16", NULL}}, [CB_F16] = {2, {"f16", "float16", "half"}},
    [CB_F64] = {8, {"f64", "float64", "double"}}, [CB_I32] = {4, {"i32", "int32", "int"}},     [CB_I64] = {8, {"i64", "int64", "long"}},
    [CB_U8] = {1, {"u8", "uint8", "byte"}},       [CB_BOOL] = {1, {"bool", NULL, NULL}},
};

static bool known(cb_dtype dtype)
{
    return (unsigned)dtype < CB_DTYPE_COUNT;
}

size_t cb_dtype_size(cb_dtype dtype)
{
    return known(dtype) ? types[dtype].size : 0;
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
