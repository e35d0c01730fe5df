/* safetensors.c: the reader of safetensors files.
 *
 * A file is a u64 N (little-endian), N bytes of JSON that say where each tensor lies, and the tensors.  The file is
 * mapped, and tensors are used where they lie.  The header has one fixed grammar and is read by a parser of just that:
 * start-up stays quick with thousands of tensors, and what a header makes us allocate is a small multiple of its size.
 * The parser works on a copy of the header, in place: a string is unescaped over itself, a NUL over its closing quote. */
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* ---- element types ---- */

static const cb_safetensors_type types[] = {
    {"BOOL", 8, CB_BOOL},
    {"F4", 4, CB_DTYPE_COUNT},
    {"F6_E2M3", 6, CB_DTYPE_COUNT},
    {"F6_E3M2", 6, CB_DTYPE_COUNT},
    {"U8", 8, CB_U8},
    {"I8", 8, CB_DTYPE_COUNT},
    {"F8_E5M2", 8, CB_DTYPE_COUNT},
    {"F8_E4M3", 8, CB_DTYPE_COUNT},
    {"F8_E8M0", 8, CB_DTYPE_COUNT},
    {"F8_E4M3FNUZ", 8, CB_DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, CB_DTYPE_COUNT},
    {"I16", 16, CB_DTYPE_COUNT},
    {"U16", 16, CB_DTYPE_COUNT},
    {"F16", 16, CB_F16},
    {"BF16", 16, CB_BF16},
    {"I32", 32, CB_I32},
    {"U32", 32, CB_DTYPE_COUNT},
    {"F32", 32, CB_F32},
    {"C64", 64, CB_DTYPE_COUNT},
    {"F64", 64, CB_F64},
    {"I64", 64, CB_I64},
    {"U64", 64, CB_DTYPE_COUNT},
};
enum { TYPES = sizeof types / sizeof *types };

const cb_safetensors_type *cb_safetensors_type_named(const char *name)
{
    for (int i = 0; i < TYPES; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const cb_safetensors_type *cb_safetensors_type_of(cb_dtype dtype)
{
    for (int i = 0; i < TYPES && dtype != CB_DTYPE_COUNT; i++)
        if (types[i].dtype == dtype)
            return &types[i];
    return NULL;
}

bool cb_safetensors_size(const cb_safetensors_type *type, int ndim, const int64_t *shape, size_t *size)
{
    size_t bits = type->bits;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(bits, (size_t)shape[i], &bits))
            return false;
    *size = bits / 8;
    return bits % 8 == 0;
}

/* ---- the file ---- */

typedef struct pair {
    const char *key, *value;
} pair;

struct cb_safetensors {
    cb_file_map map;
    char *header; /* the copy that names, types and metadata point into */
    cb_entry_table table;
    pair *metadata; /* sorted by key */
    size_t metadata_count, metadata_capacity;
};

/* ---- JSON, as far as a header needs it ---- */

/* Where the parser stands.  `end` holds a NUL, which no step passes. */
typedef struct cursor {
    const char *path, *tensor; /* tensor: NULL outside of one */
    char *at, *end;
    const char *start;
} cursor;

static CB_COLD bool expected(const cursor *c, const char *what)
{
    char found[16] = "the end";
    unsigned char next = (unsigned char)*c->at;
    if (c->at < c->end && next > ' ' && next < 127) {
        memcpy(found, (char[]){'\'', (char)next, '\'', '\0'}, 4);
    } else if (c->at < c->end) {
        static const char digits[] = "0123456789abcdef";
        memcpy(found, (char[]){'b', 'y', 't', 'e', ' ', '0', 'x', digits[next >> 4], digits[next & 15], '\0'}, 10);
    }
    return cb_fail(CB_ERR_FORMAT, "%s: header, byte %zu%s%.200s: found %s, expected %s", c->path, (size_t)(c->at - c->start),
                   c->tensor ? ", tensor " : "", c->tensor ? c->tensor : "", found, what) == CB_OK;
}

static void skip_space(cursor *c)
{
    while (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')
        c->at++;
}

/* Passes one character and the space around it; false, and no error, when it is another. */
static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (*c->at != wanted)
        return false;
    c->at++;
    skip_space(c);
    return true;
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The four digits after "\u"; false with an error. */
static bool read_unit(cursor *c, uint32_t *unit)
{
    *unit = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        int digit = hex_value(*c->at);
        if (digit < 0)
            return expected(c, "four hexadecimal digits after \\u");
        *unit = *unit << 4 | (uint32_t)digit;
    }
    return true;
}

static char *put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    *out++ = (char)(lead[more] | code >> (6 * more));
    while (more--)
        *out++ = (char)(0x80 | (code >> (6 * more) & 0x3F));
    return out;
}

/* Six bytes or more become four at most, so the text never overtakes the parser. */
static bool read_code_point(cursor *c, char **out)
{
    uint32_t code, low;
    if (!read_unit(c, &code))
        return false;
    if (code >= 0xD800 && code <= 0xDBFF && c->at[0] == '\\' && c->at[1] == 'u') {
        c->at += 2;
        if (!read_unit(c, &low))
            return false;
        if (low >= 0xDC00 && low <= 0xDFFF)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code == 0 || (code >= 0xD800 && code <= 0xDFFF))
        return expected(c, "an escape of a character other than NUL and of whole surrogate pairs before this");
    *out = put_utf8(*out, code);
    return true;
}

static bool read_escape(cursor *c, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    c->at++;
    const char *known = *c->at ? strchr(from, *c->at) : NULL;
    if (known) {
        *(*out)++ = to[known - from];
        c->at++;
        return true;
    }
    if (*c->at != 'u')
        return expected(c, "an escape of JSON after the backslash");
    c->at++;
    return read_code_point(c, out);
}

static bool read_string(cursor *c, const char **text)
{
    if (*c->at != '"')
        return expected(c, "a string");
    char *out = ++c->at;
    *text = out;
    while (*c->at != '"') {
        if ((unsigned char)*c->at < ' ')
            return expected(c, "the rest of a string");
        if (*c->at != '\\')
            *out++ = *c->at++;
        else if (!read_escape(c, &out))
            return false;
    }
    c->at++;
    *out = '\0';
    return true;
}

/* A whole number that an int64_t holds. */
static bool read_number(cursor *c, int64_t *number)
{
    if (*c->at < '0' || *c->at > '9')
        return expected(c, "a whole number that is not negative");
    if (*c->at == '0' && c->at[1] >= '0' && c->at[1] <= '9')
        return expected(c, "a number without leading zeros");
    for (*number = 0; *c->at >= '0' && *c->at <= '9'; c->at++)
        if (__builtin_mul_overflow(*number, 10, number) || __builtin_add_overflow(*number, *c->at - '0', number))
            return expected(c, "a number below 2^63");
    return true;
}

/* Walks "{ "key": value, ... }": true while there is a key, whose value the caller reads. */
static bool next_key(cursor *c, bool *first, const char **key, bool *ok)
{
    if (take(c, '}'))
        return false;
    *ok = *first || take(c, ',') || expected(c, "',' or '}'");
    *first = false;
    *ok = *ok && read_string(c, key) && (take(c, ':') || expected(c, "':'"));
    return *ok;
}

/* ---- the header ---- */

/* What is said of one tensor.  Offsets count from the end of the header. */
typedef struct description {
    const char *type;
    int64_t shape[CB_MAX_DIMS], offsets[2];
    int ndim;
    bool has_shape, has_offsets;
} description;

/* "[1, 2]" of at most `most` numbers. */
static bool read_numbers(cursor *c, int64_t *numbers, int most, int *count)
{
    if (!take(c, '['))
        return expected(c, "'['");
    for (*count = 0; !take(c, ']'); ++*count) {
        if (*count && !take(c, ','))
            return expected(c, "',' or ']'");
        if (*count == most)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found a list of more than %d numbers, expected at most that many",
                           c->path, c->tensor, most) == CB_OK;
        if (!read_number(c, &numbers[*count]))
            return false;
    }
    return true;
}

static CB_COLD bool refuse(const cursor *c, const char *field, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: %.100s: %s", c->path, c->tensor, field, problem) == CB_OK;
}

static bool read_field(cursor *c, const char *key, description *d)
{
    int two = 0;
    if (strcmp(key, "dtype") == 0 && !d->type)
        return read_string(c, &d->type);
    if (strcmp(key, "shape") == 0 && !d->has_shape) {
        d->has_shape = true;
        return read_numbers(c, d->shape, CB_MAX_DIMS, &d->ndim);
    }
    if (strcmp(key, "data_offsets") == 0 && !d->has_offsets) {
        d->has_offsets = true;
        return read_numbers(c, d->offsets, 2, &two) && (two == 2 || refuse(c, key, "found too few numbers, expected [begin, end]"));
    }
    return refuse(c, key, "found a second time or unknown, expected dtype, shape and data_offsets once each");
}

/* The description as an entry, when it fits itself and lies within the `room` bytes of data. */
static bool make_entry(const cursor *c, const description *d, const uint8_t *data, size_t room, cb_weight_entry *entry)
{
    if (!d->type || !d->has_shape || !d->has_offsets)
        return refuse(c, !d->type ? "dtype" : !d->has_shape ? "shape" : "data_offsets", "missing");
    const cb_safetensors_type *type = cb_safetensors_type_named(d->type);
    if (!type)
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: dtype: found \"%.50s\", expected one of the format's, such as F32 or BF16",
                       c->path, c->tensor, d->type) == CB_OK;
    size_t size;
    if (!cb_safetensors_size(type, d->ndim, d->shape, &size))
        return refuse(c, "shape", "found a size that overflows or ends within a byte");
    int64_t begin = d->offsets[0], end = d->offsets[1];
    if (end < begin || (uint64_t)end > room)
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: data_offsets: found [%lld, %lld], expected a range within the %zu bytes of data",
                       c->path, c->tensor, (long long)begin, (long long)end, room) == CB_OK;
    if ((uint64_t)(end - begin) != size)
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: data_offsets: found %lld bytes, expected %zu for its shape and %s", c->path,
                       c->tensor, (long long)(end - begin), size, type->name) == CB_OK;
    *entry = (cb_weight_entry){
        .name = c->tensor, .dtype = type->dtype, .type_name = type->name, .ndim = d->ndim, .data = data + begin, .size = size};
    memcpy(entry->shape, d->shape, (size_t)d->ndim * sizeof *d->shape);
    return true;
}

static bool read_tensor(cursor *c, cb_safetensors *file, const uint8_t *data, size_t room)
{
    description d = {0};
    bool first = true, ok = true;
    const char *key = NULL;
    if (!take(c, '{'))
        return expected(c, "'{'");
    while (ok && next_key(c, &first, &key, &ok))
        ok = read_field(c, key, &d);
    ok = ok && cb_entry_table_grow(&file->table) && make_entry(c, &d, data, room, &file->table.entries[file->table.count]);
    file->table.count += ok;
    return ok;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const pair *)a)->key, ((const pair *)b)->key);
}

static bool read_metadata(cursor *c, cb_safetensors *file)
{
    if (file->metadata || !take(c, '{'))
        return expected(c, "one __metadata__, an object of strings");
    bool first = true, ok = cb_grow(&file->metadata, &file->metadata_capacity, 1, sizeof *file->metadata);
    pair p;
    while (ok && next_key(c, &first, &p.key, &ok)) {
        ok = read_string(c, &p.value) &&
             cb_grow(&file->metadata, &file->metadata_capacity, file->metadata_count + 1, sizeof *file->metadata);
        if (ok)
            file->metadata[file->metadata_count++] = p;
    }
    if (!ok)
        return false;
    qsort(file->metadata, file->metadata_count, sizeof *file->metadata, by_key);
    for (size_t i = 1; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i - 1].key, file->metadata[i].key) == 0)
            return cb_fail(CB_ERR_FORMAT, "%s: __metadata__: %.200s: found twice, expected once", c->path, file->metadata[i].key) == CB_OK;
    return true;
}

/* Parses the copy of the header; `data` is what follows it in the file. */
static bool read_header(cb_safetensors *file, size_t length, const uint8_t *data, size_t room)
{
    cursor c = {.path = file->map.path, .at = file->header, .end = file->header + length, .start = file->header};
    bool first = true, ok = true;
    const char *key = NULL;
    if (*c.at != '{')
        return expected(&c, "'{'");
    take(&c, '{');
    while (ok && next_key(&c, &first, &key, &ok)) {
        if (strcmp(key, CB_SAFETENSORS_METADATA) == 0) {
            ok = read_metadata(&c, file);
            continue;
        }
        c.tensor = key;
        ok = read_tensor(&c, file, data, room);
        c.tensor = NULL;
    }
    return ok && (c.at == c.end || expected(&c, "nothing but space after the tensors"));
}

/* ---- where the data lies ---- */

/* By place; an empty tensor lies before the one that begins where it does. */
static int by_place(const void *a_, const void *b_)
{
    const cb_weight_entry *a = a_, *b = b_;
    if (a->data != b->data)
        return (const uint8_t *)a->data < (const uint8_t *)b->data ? -1 : 1;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Sorts the tensors as they lie; together they must cover the data, without a hole and without sharing. */
static bool check_cover(cb_safetensors *file, const uint8_t *data, size_t room)
{
    cb_weight_entry *entries = file->table.entries;
    bool sorted = true;
    for (size_t i = 1; sorted && i < file->table.count; i++)
        sorted = by_place(&entries[i - 1], &entries[i]) <= 0;
    if (!sorted)
        qsort(entries, file->table.count, sizeof *entries, by_place);
    size_t at = 0;
    for (size_t i = 0; i < file->table.count; i++) {
        const cb_weight_entry *e = &entries[i];
        size_t begin = (size_t)((const uint8_t *)e->data - data);
        if (begin != at)
            return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: data_offsets: found its begin at %zu, expected %zu, where the %s",
                           file->map.path, e->name, begin, at, i ? "tensor before it ends" : "data begin") == CB_OK;
        at += e->size;
    }
    return at == room ||
           cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes of data, expected the %zu of its tensors", file->map.path, room, at) == CB_OK;
}

/* ---- the interface ---- */

bool cb_weight_entry_fits(const cb_weight_entry *entry, int ndim, const int64_t *shape)
{
    return entry->ndim == ndim && (ndim == 0 || memcmp(entry->shape, shape, (size_t)ndim * sizeof *shape) == 0);
}

cb_tensor *cb_weight_entry_tensor(const cb_weight_entry *entry)
{
    size_t size = cb_dtype_size(entry->dtype); /* 0: blocks, which lie anywhere */
    bool aligned = size == 0 || (uintptr_t)entry->data % size == 0;
    return aligned ? cb_wrap_nd(entry->dtype, entry->data, entry->ndim, entry->shape)
                   : cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
}

static bool read_file(cb_safetensors *file)
{
    const uint8_t *bytes = file->map.data;
    const char *path = file->map.path;
    if (file->map.size < 8)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected a safetensors file of 8 at least", path, file->map.size) == CB_OK;
    uint64_t length = 0;
    for (int i = 0; i < 8; i++)
        length |= (uint64_t)bytes[i] << (8 * i);
    if (length > CB_SAFETENSORS_LIMIT)
        return cb_fail(CB_ERR_FORMAT, "%s: header length: found %llu, expected at most %u: not a safetensors file, or a damaged one", path,
                       (unsigned long long)length, CB_SAFETENSORS_LIMIT) == CB_OK;
    if (length > file->map.size - 8)
        return cb_fail(CB_ERR_FORMAT, "%s: header length: found %llu, expected at most the %zu bytes that follow: the file is cut off",
                       path, (unsigned long long)length, file->map.size - 8) == CB_OK;
    file->header = cb_strndup((const char *)bytes + 8, (size_t)length);
    if (!file->header)
        return false;
    size_t bad, room = file->map.size - 8 - (size_t)length;
    if (!cb_utf8_valid(file->header, (size_t)length, &bad))
        return cb_fail(CB_ERR_FORMAT, "%s: header, byte %zu: not UTF-8", path, bad) == CB_OK;
    const uint8_t *data = bytes + 8 + length;
    return read_header(file, (size_t)length, data, room) && check_cover(file, data, room) && cb_entry_table_index(&file->table, path);
}

cb_safetensors *cb_safetensors_open(const char *path)
{
    cb_safetensors *file = cb_calloc(1, sizeof *file);
    if (!file)
        return NULL;
    if (cb_file_map_open(&file->map, path) && read_file(file))
        return file;
    cb_safetensors_close(file);
    return NULL;
}

void cb_safetensors_close(cb_safetensors *file)
{
    if (!file)
        return;
    cb_entry_table_free(&file->table);
    cb_free(file->metadata);
    cb_free(file->header);
    cb_file_map_close(&file->map);
    cb_free(file);
}

size_t cb_safetensors_count(const cb_safetensors *file)
{
    return file->table.count;
}

const cb_weight_entry *cb_safetensors_at(const cb_safetensors *file, size_t index)
{
    return index < file->table.count ? &file->table.entries[index] : NULL;
}

const cb_weight_entry *cb_safetensors_find(const cb_safetensors *file, const char *name)
{
    return cb_entry_table_find(&file->table, name);
}

const cb_entry_table *cb_safetensors_table(const cb_safetensors *file)
{
    return &file->table;
}

bool cb_safetensors_hold(cb_safetensors *file, cb_held_map **held)
{
    return cb_file_map_held(&file->map, held);
}

const char *cb_safetensors_metadata(const cb_safetensors *file, const char *key)
{
    pair wanted = {.key = key};
    const pair *found = file->metadata_count ? bsearch(&wanted, file->metadata, file->metadata_count, sizeof wanted, by_key) : NULL;
    return found ? found->value : NULL;
}
