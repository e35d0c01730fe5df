/* arrays.c: arrays of numbers as NumPy writes them: numpy.lib.format, and .npz of several. */
#include "data/arrays.h"

#include <stdlib.h>
#include <string.h>

#include "cambium/data.h"

bool cb_array_fails(const char *name, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s: %s", name, problem) == CB_OK;
}

bool cb_array_fits(const char *name, const raw_array *r, size_t left)
{
    uint64_t bytes = (uint64_t)r->item;
    for (int i = 0; i < r->ndim; i++) {
        if (r->shape[i] < 0 || (r->shape[i] && bytes > (uint64_t)INT64_MAX / (uint64_t)r->shape[i]))
            return cb_array_fails(name, "found an array of impossible size");
        bytes *= (uint64_t)r->shape[i];
    }
    return bytes <= left ||
           cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected %llu for the array", name, left, (unsigned long long)bytes) == CB_OK;
}

/* The header is a Python dict: {'descr': '|u1', 'fortran_order': False, 'shape': (2, 28, 28), }. */
static bool parse_header(const char *name, const char *header, raw_array *r)
{
    const char *descr = strstr(header, "'descr'"), *order = strstr(header, "'fortran_order'"), *shape = strstr(header, "'shape'");
    descr = descr ? strpbrk(descr + 7, "'\"") : NULL;
    shape = shape ? strchr(shape, '(') : NULL;
    if (!descr || !order || !shape || !descr[1] || !strchr("|<=", descr[1]) || !descr[2] || !strchr("uibf", descr[2]))
        return cb_array_fails(name, "expected an array of numbers, little-endian");
    r->kind = descr[2];
    r->item = (int)strtol(descr + 3, NULL, 10);
    bool real = r->kind == 'f';
    if (r->item != 4 && r->item != 8 && (real || (r->item != 1 && r->item != 2)))
        return cb_array_fails(name, real ? "expected floating-point numbers of 4 or 8 bytes" : "expected items of 1, 2, 4 or 8 bytes");
    const char *value = order + 15 + strspn(order + 15, ": ");
    if (strncmp(value, "False", 5) != 0)
        return cb_array_fails(name, "found an array in Fortran's order, expected C's");
    char *at = (char *)shape + 1;
    for (r->ndim = 0; *at && *at != ')'; r->ndim++) {
        char *end;
        long long size = strtoll(at, &end, 10);
        if (end == at || r->ndim == 4 || size < 0)
            return cb_array_fails(name, "found a shape that is not one of up to four dimensions");
        r->shape[r->ndim] = size;
        at = end + strspn(end, ", ");
    }
    return true;
}

bool cb_array_parse_npy(const char *name, size_t length, raw_array *r)
{
    const uint8_t *b = (const uint8_t *)r->block;
    if (length < 12 || memcmp(b, "\x93NUMPY", 6) != 0 || b[6] < 1 || b[6] > 3)
        return cb_array_fails(name, "found no header of NumPy's");
    size_t start = b[6] == 1 ? 10 : 12, size = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1)
        size |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (size > length - start || size > 1 << 16)
        return cb_array_fails(name, "found a header that is longer than the file");
    char *header = cb_strndup((const char *)b + start, size);
    bool ok = header && parse_header(name, header, r);
    cb_free(header);
    r->data = b + start + size;
    return ok && cb_array_fits(name, r, length - start - size);
}

bool cb_array_read_npy(const char *path, const char *member, raw_array *r)
{
    size_t length;
    char *name = member ? cb_format("%s: %s", path, member) : cb_strdup(path);
    *r = (raw_array){0};
    r->block = name ? cb_archive_read(path, member, CB_ARRAY_LIMIT, &length) : NULL;
    bool ok = r->block && cb_array_parse_npy(name, length, r);
    cb_free(name);
    if (!ok) {
        cb_free(r->block);
        r->block = NULL;
    }
    return ok;
}

static uint64_t bits_at(const raw_array *r, int64_t i)
{
    uint64_t value = 0;
    for (int b = 0; b < r->item; b++)
        value |= (uint64_t)r->data[i * r->item + b] << (8 * b);
    return value;
}

int64_t cb_array_integer(const raw_array *r, int64_t i)
{
    unsigned unused = 64 - 8 * (unsigned)r->item;
    uint64_t value = bits_at(r, i);
    if (r->kind == 'i')
        return (int64_t)(value << unused) >> unused;
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

double cb_array_number(const raw_array *r, int64_t i)
{
    uint64_t bits = bits_at(r, i);
    if (r->kind != 'f')
        return r->kind == 'i' ? (double)cb_array_integer(r, i) : (double)bits;
    double wide;
    float narrow;
    if (r->item == (int)sizeof wide) {
        memcpy(&wide, &bits, sizeof wide);
        return wide;
    }
    uint32_t low = (uint32_t)bits;
    memcpy(&narrow, &low, sizeof narrow);
    return (double)narrow;
}
