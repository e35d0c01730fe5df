/* gguf_values.c: questions about the metadata of GGUF files. */
#include <string.h>

#include "formats/gguf.h"

size_t cb_gguf_value_count(const cb_gguf *file)
{
    return file->value_count;
}

const cb_gguf_value *cb_gguf_value_at(const cb_gguf *file, size_t index)
{
    return index < file->value_count ? &file->values[index] : NULL;
}

static bool is_integer(cb_gguf_type type)
{
    return type != CB_GGUF_F32 && type != CB_GGUF_F64 && type != CB_GGUF_STRING && type != CB_GGUF_BOOL && type != CB_GGUF_ARRAY;
}

static int64_t integer_at(const cb_gguf_value *v, uint64_t index)
{
    size_t size = cb_gguf_scalar_size(v->type);
    uint64_t bits = cb_gguf_little_endian(v->data + index * size, size);
    bool is_signed = v->type == CB_GGUF_I8 || v->type == CB_GGUF_I16 || v->type == CB_GGUF_I32;
    if (is_signed && size < 8 && bits >> (8 * size - 1))
        bits |= ~UINT64_C(0) << (8 * size);
    return (int64_t)bits;
}

bool cb_gguf_number_at(const cb_gguf_value *v, uint64_t index, double *number)
{
    if (index >= v->count || v->type == CB_GGUF_STRING)
        return false;
    if (v->type == CB_GGUF_F32) {
        float value;
        memcpy(&value, v->data + index * sizeof value, sizeof value);
        *number = (double)value;
    } else if (v->type == CB_GGUF_F64) {
        memcpy(number, v->data + index * sizeof *number, sizeof *number);
    } else {
        *number = v->type == CB_GGUF_U64 ? (double)(uint64_t)integer_at(v, index) : (double)integer_at(v, index);
    }
    return true;
}

static void wrong_type(const cb_gguf *file, const char *key, const char *expected)
{
    cb_fail(CB_ERR_FORMAT, "%s: %.100s: found another type of value, expected %s", file->what, key, expected);
}

int64_t cb_gguf_int(const cb_gguf *file, const char *key, int64_t otherwise)
{
    const cb_gguf_value *v = cb_gguf_value_find(file, key);
    if (!v)
        return otherwise;
    int64_t value = !v->is_array && is_integer(v->type) ? integer_at(v, 0) : 0;
    if (!v->is_array && is_integer(v->type) && (v->type != CB_GGUF_U64 || value >= 0))
        return value;
    wrong_type(file, key, "an integer below 2^63");
    return otherwise;
}

double cb_gguf_float(const cb_gguf *file, const char *key, double otherwise)
{
    const cb_gguf_value *v = cb_gguf_value_find(file, key);
    if (!v)
        return otherwise;
    if (!v->is_array && v->type != CB_GGUF_BOOL && cb_gguf_number_at(v, 0, &otherwise))
        return otherwise;
    wrong_type(file, key, "a number");
    return otherwise;
}

bool cb_gguf_bool(const cb_gguf *file, const char *key, bool otherwise)
{
    const cb_gguf_value *v = cb_gguf_value_find(file, key);
    if (!v)
        return otherwise;
    if (!v->is_array && v->type == CB_GGUF_BOOL)
        return v->data[0] != 0;
    wrong_type(file, key, "true or false");
    return otherwise;
}

const char *cb_gguf_string(const cb_gguf *file, const char *key, const char *otherwise)
{
    const cb_gguf_value *v = cb_gguf_value_find(file, key);
    if (v && v->text)
        return v->text;
    if (v)
        wrong_type(file, key, "a string");
    return otherwise;
}

bool cb_gguf_next_string(const cb_gguf_value *v, size_t *offset, const char **text, size_t *length)
{
    if (v->type != CB_GGUF_STRING || *offset >= v->size)
        return false;
    const uint8_t *at = v->data + *offset;
    *length = (size_t)cb_gguf_little_endian(at, 8);
    *text = (const char *)at + 8;
    *offset += 8 + *length;
    return true;
}
