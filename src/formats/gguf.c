/* gguf.c: the reader of GGUF files.
 *
 *     u32 "GGUF", u32 version, u64 tensors, u64 values
 *     values:  string key, u32 type, value           string: u64 length, bytes; array: u32 type, u64 count, items
 *     tensors: string name, u32 dims, u64 sizes (fastest first), u32 type, u64 offset
 *     padding, then data; offsets count from there and are multiples of the alignment
 *
 * A cursor walks the mapped file and never passes its end; what is allocated grows with what was read, so counts that a file
 * merely claims cost nothing.  Little-endian files only. */
#include "formats/gguf.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct offset_entry {
    cb_weight_entry entry;
    uint64_t offset; /* of its data, from where the data begin */
} offset_entry;

struct cb_gguf {
    cb_file_map map; /* not mapped when the bytes are the caller's */
    char *what;
    const uint8_t *bytes;
    size_t size;
    uint32_t version;
    cb_gguf_value *values;
    size_t value_count, value_capacity;
    offset_entry *tensors;
    size_t count, capacity;
    const cb_gguf_value **by_key;
    const cb_weight_entry **by_name;
};

typedef struct cursor {
    cb_gguf *file;
    size_t at;
    const char *field; /* what is being read, for messages */
} cursor;

static bool cut_off(const cursor *c)
{
    return cb_fail(CB_ERR_FORMAT, "%s: %.100s: found the end of the file at byte %zu, expected more: the file is cut off or damaged",
                   c->file->what, c->field, c->file->size) == CB_OK;
}

static bool take(cursor *c, size_t size, const uint8_t **bytes)
{
    if (size > c->file->size - c->at)
        return cut_off(c);
    *bytes = c->file->bytes + c->at;
    c->at += size;
    return true;
}

static uint64_t little_endian(const uint8_t *bytes, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static bool take_number(cursor *c, size_t size, uint64_t *value)
{
    const uint8_t *bytes = NULL;
    if (!take(c, size, &bytes))
        return false;
    *value = little_endian(bytes, size);
    return true;
}

static bool take_string(cursor *c, const char **text, size_t *length)
{
    uint64_t n;
    const uint8_t *bytes = NULL;
    if (!take_number(c, 8, &n) || (n > c->file->size && !cut_off(c)) || !take(c, (size_t)n, &bytes))
        return false;
    *text = (const char *)bytes;
    *length = (size_t)n;
    return true;
}

/* A copy with a NUL after it, of text that has none within. */
static char *take_name(cursor *c, size_t most)
{
    const char *text;
    size_t length;
    if (!take_string(c, &text, &length))
        return NULL;
    if (length > most || memchr(text, 0, length) || !cb_utf8_valid(text, length, NULL)) {
        cb_fail(CB_ERR_FORMAT, "%s: %.100s: found %zu bytes, expected UTF-8 text of at most %zu bytes without NUL", c->file->what, c->field,
                length, most);
        return NULL;
    }
    return cb_strndup(text, length);
}

/* ---- values ---- */

enum { LONGEST_KEY = 65535 };

static bool skip_strings(cursor *c, uint64_t count)
{
    const char *text;
    size_t length;
    for (uint64_t i = 0; i < count; i++)
        if (!take_string(c, &text, &length))
            return false;
    return true;
}

static bool take_type(cursor *c, cb_gguf_type *type)
{
    uint64_t n;
    if (!take_number(c, 4, &n))
        return false;
    if (n >= CB_GGUF_TYPE_COUNT)
        return cb_fail(CB_ERR_FORMAT, "%s: %.100s: type: found %llu, expected 0 to %d", c->file->what, c->field, (unsigned long long)n,
                       CB_GGUF_TYPE_COUNT - 1) == CB_OK;
    *type = (cb_gguf_type)n;
    return true;
}

static bool take_items(cursor *c, cb_gguf_value *v)
{
    if (v->type == CB_GGUF_ARRAY)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %.100s: found an array of arrays, expected numbers or strings", c->file->what, v->key) ==
               CB_OK;
    v->data = c->file->bytes + c->at;
    if (v->type == CB_GGUF_STRING)
        return skip_strings(c, v->count);
    uint64_t bytes;
    const uint8_t *data = NULL;
    if (__builtin_mul_overflow(v->count, (uint64_t)cb_gguf_scalar_size(v->type), &bytes) || bytes > c->file->size)
        return cut_off(c);
    return take(c, (size_t)bytes, &data);
}

static bool read_value(cursor *c, cb_gguf_value *v)
{
    c->field = "key of the metadata";
    if (!(v->key = take_name(c, LONGEST_KEY)))
        return false;
    c->field = v->key;
    if (!take_type(c, &v->type))
        return false;
    v->count = 1;
    if ((v->is_array = v->type == CB_GGUF_ARRAY))
        return take_type(c, &v->type) && take_number(c, 8, &v->count) && take_items(c, v);
    if (v->type != CB_GGUF_STRING)
        return take_items(c, v);
    v->data = c->file->bytes + c->at;
    return (v->text = take_name(c, SIZE_MAX)) != NULL;
}

static bool read_values(cursor *c, uint64_t count)
{
    cb_gguf *file = c->file;
    for (uint64_t i = 0; i < count; i++) {
        if (!cb_grow(&file->values, &file->value_capacity, file->value_count + 1, sizeof *file->values))
            return false;
        cb_gguf_value *v = &file->values[file->value_count++];
        *v = (cb_gguf_value){0};
        if (!read_value(c, v))
            return false;
        v->size = (size_t)(file->bytes + c->at - v->data);
    }
    return true;
}

/* ---- tensors ---- */

enum { LONGEST_NAME = 1024 };

static bool bad_tensor(const cursor *c, const char *name, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: %s", c->file->what, name, problem) == CB_OK;
}

static bool read_shape(cursor *c, cb_weight_entry *e)
{
    uint64_t dims, size;
    if (!take_number(c, 4, &dims))
        return false;
    if (dims > CB_GGUF_DIMS)
        return bad_tensor(c, e->name, "dimensions: found more than 4, expected at most that many");
    e->ndim = (int)dims;
    for (int i = e->ndim - 1; i >= 0; i--) {
        if (!take_number(c, 8, &size))
            return false;
        if (size < 1 || size > INT64_MAX)
            return bad_tensor(c, e->name, "dimensions: found a size that is not positive");
        e->shape[i] = (int64_t)size;
    }
    return true;
}

static bool read_tensor(cursor *c, offset_entry *t)
{
    uint64_t id;
    cb_weight_entry *e = &t->entry;
    c->field = "name of a tensor";
    if (!(e->name = take_name(c, LONGEST_NAME)))
        return false;
    c->field = e->name;
    if (!read_shape(c, e) || !take_number(c, 4, &id) || !take_number(c, 8, &t->offset))
        return false;
    const cb_gguf_tensor_type *type = cb_gguf_tensor_type_of((uint32_t)id);
    if (!type)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: type: found number %llu, expected one of a known type", c->file->what,
                       e->name, (unsigned long long)id) == CB_OK;
    if (!cb_gguf_shape_size(type, e->ndim, e->shape, &e->size))
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: shape: found %s, expected a size that fits and rows of whole blocks of %u (%s)",
                       c->file->what, e->name, cb_shape_text_nd(e->ndim, e->shape), type->block, type->name) == CB_OK;
    e->type_name = type->name;
    e->dtype = CB_DTYPE_COUNT;
    cb_dtype_from_name(type->name, &e->dtype);
    return true;
}

static bool read_tensors(cursor *c, uint64_t count)
{
    cb_gguf *file = c->file;
    for (uint64_t i = 0; i < count; i++) {
        if (!cb_grow(&file->tensors, &file->capacity, file->count + 1, sizeof *file->tensors))
            return false;
        offset_entry *t = &file->tensors[file->count++];
        *t = (offset_entry){0};
        if (!read_tensor(c, t))
            return false;
    }
    return true;
}

static int by_offset(const void *a_, const void *b_)
{
    const offset_entry *a = *(const offset_entry *const *)a_, *b = *(const offset_entry *const *)b_;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Every tensor within the file, aligned, and none upon another. */
static bool place_tensors(cursor *c)
{
    cb_gguf *file = c->file;
    int64_t alignment = cb_gguf_int(file, "general.alignment", CB_GGUF_ALIGNMENT);
    if (!cb_ok())
        return false;
    if (alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1)))
        return cb_fail(CB_ERR_FORMAT, "%s: general.alignment: found %lld, expected a power of two", file->what, (long long)alignment) ==
               CB_OK;
    size_t start = (c->at + (size_t)alignment - 1) / (size_t)alignment * (size_t)alignment;
    size_t room = start < file->size ? file->size - start : 0;
    const offset_entry **order = cb_calloc(file->count, sizeof *order);
    bool ok = order;
    for (size_t i = 0; ok && i < file->count; i++) {
        offset_entry *t = &file->tensors[i];
        order[i] = t;
        if (t->offset % (uint64_t)alignment)
            ok = bad_tensor(c, t->entry.name, "offset: found one that is no multiple of the alignment");
        else if (t->offset > room || t->entry.size > room - t->offset)
            ok = cb_fail(CB_ERR_FORMAT,
                         "%s: tensor %.200s: found %zu bytes at %llu, expected them within the %zu bytes of data: the file is cut off",
                         file->what, t->entry.name, t->entry.size, (unsigned long long)t->offset, room) == CB_OK;
        else
            t->entry.data = file->bytes + start + t->offset;
    }
    if (ok && file->count)
        qsort(order, file->count, sizeof *order, by_offset);
    for (size_t i = 1; ok && i < file->count; i++)
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->entry.size)
            ok = bad_tensor(c, order[i]->entry.name, "offset: found it within another tensor");
    cb_free(order);
    return ok;
}

/* ---- tables ---- */

static int by_key(const void *a, const void *b)
{
    return strcmp((*(const cb_gguf_value *const *)a)->key, (*(const cb_gguf_value *const *)b)->key);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const cb_weight_entry *const *)a)->name, (*(const cb_weight_entry *const *)b)->name);
}

static bool index_values(cb_gguf *file)
{
    file->by_key = cb_calloc(file->value_count, sizeof *file->by_key);
    if (!file->by_key)
        return false;
    for (size_t i = 0; i < file->value_count; i++)
        file->by_key[i] = &file->values[i];
    if (file->value_count)
        qsort(file->by_key, file->value_count, sizeof *file->by_key, by_key);
    for (size_t i = 1; i < file->value_count; i++)
        if (by_key(&file->by_key[i - 1], &file->by_key[i]) == 0)
            return cb_fail(CB_ERR_FORMAT, "%s: %.100s: found twice, expected once", file->what, file->by_key[i]->key) == CB_OK;
    return true;
}

static bool index_tensors(cb_gguf *file)
{
    file->by_name = cb_calloc(file->count, sizeof *file->by_name);
    if (!file->by_name)
        return false;
    for (size_t i = 0; i < file->count; i++)
        file->by_name[i] = &file->tensors[i].entry;
    if (file->count)
        qsort(file->by_name, file->count, sizeof *file->by_name, by_name);
    for (size_t i = 1; i < file->count; i++)
        if (by_name(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return cb_fail(CB_ERR_FORMAT, "%s: tensor %.200s: found twice, expected once", file->what, file->by_name[i]->name) == CB_OK;
    return true;
}

/* ---- the file ---- */

static bool check_version(const cb_gguf *file)
{
    if (file->version == 2 || file->version == 3)
        return true;
    if (file->version && file->version % 0x1000000 == 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found a big-endian GGUF file, expected a little-endian one", file->what) == CB_OK;
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: version: found %u of GGUF, expected 2 or 3", file->what, file->version) == CB_OK;
}

static bool read_file(cb_gguf *file)
{
    cursor c = {.file = file, .field = "header"};
    uint64_t magic, version, tensors, values;
    if (file->size < 4 || little_endian(file->bytes, 4) != CB_GGUF_MAGIC)
        return cb_fail(CB_ERR_FORMAT, "%s: found no \"GGUF\" at its beginning, expected a GGUF file", file->what) == CB_OK;
    if (!take_number(&c, 4, &magic) || !take_number(&c, 4, &version))
        return false;
    file->version = (uint32_t)version;
    return check_version(file) && take_number(&c, 8, &tensors) && take_number(&c, 8, &values) && read_values(&c, values) &&
           index_values(file) && read_tensors(&c, tensors) && index_tensors(file) && place_tensors(&c);
}

cb_gguf *cb_gguf_parse(const char *what, const void *bytes, size_t length)
{
    cb_gguf *file = cb_calloc(1, sizeof *file);
    if (!file)
        return NULL;
    file->what = cb_strdup(what);
    file->bytes = bytes;
    file->size = length;
    if (file->what && read_file(file))
        return file;
    cb_gguf_close(file);
    return NULL;
}

cb_gguf *cb_gguf_open(const char *path)
{
    cb_file_map map;
    if (!cb_file_map_open(&map, path))
        return NULL;
    cb_gguf *file = cb_gguf_parse(path, map.data, map.size);
    if (file)
        file->map = map;
    else
        cb_file_map_close(&map);
    return file;
}

void cb_gguf_close(cb_gguf *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->value_count; i++) {
        cb_free((void *)(uintptr_t)file->values[i].key);
        cb_free((void *)(uintptr_t)file->values[i].text);
    }
    for (size_t i = 0; i < file->count; i++)
        cb_free((void *)(uintptr_t)file->tensors[i].entry.name);
    cb_free(file->values);
    cb_free(file->tensors);
    cb_free(file->by_key);
    cb_free(file->by_name);
    cb_free(file->what);
    if (file->map.path)
        cb_file_map_close(&file->map);
    cb_free(file);
}

bool cb_is_gguf(const char *path)
{
    uint8_t magic[4];
    int fd = cb_is_file(path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    bool same = read(fd, magic, sizeof magic) == sizeof magic && little_endian(magic, sizeof magic) == CB_GGUF_MAGIC;
    close(fd);
    return same;
}

const char *cb_gguf_path(const cb_gguf *file)
{
    return file->what;
}

uint32_t cb_gguf_version(const cb_gguf *file)
{
    return file->version;
}

size_t cb_gguf_count(const cb_gguf *file)
{
    return file->count;
}

const cb_weight_entry *cb_gguf_at(const cb_gguf *file, size_t index)
{
    return index < file->count ? &file->tensors[index].entry : NULL;
}

const cb_weight_entry *cb_gguf_find(const cb_gguf *file, const char *name)
{
    cb_weight_entry wanted = {.name = name};
    const cb_weight_entry *key = &wanted;
    const cb_weight_entry **found = file->count ? bsearch(&key, file->by_name, file->count, sizeof key, by_name) : NULL;
    return found ? *found : NULL;
}

/* ---- questions about metadata ---- */

size_t cb_gguf_value_count(const cb_gguf *file)
{
    return file->value_count;
}

const cb_gguf_value *cb_gguf_value_at(const cb_gguf *file, size_t index)
{
    return index < file->value_count ? &file->values[index] : NULL;
}

const cb_gguf_value *cb_gguf_value_find(const cb_gguf *file, const char *key)
{
    cb_gguf_value wanted = {.key = key};
    const cb_gguf_value *pointer = &wanted;
    const cb_gguf_value **found = file->value_count ? bsearch(&pointer, file->by_key, file->value_count, sizeof pointer, by_key) : NULL;
    return found ? *found : NULL;
}

static bool is_integer(cb_gguf_type type)
{
    return type != CB_GGUF_F32 && type != CB_GGUF_F64 && type != CB_GGUF_STRING && type != CB_GGUF_BOOL && type != CB_GGUF_ARRAY;
}

static int64_t integer_at(const cb_gguf_value *v, uint64_t index)
{
    size_t size = cb_gguf_scalar_size(v->type);
    uint64_t bits = little_endian(v->data + index * size, size);
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
    *length = (size_t)little_endian(at, 8);
    *text = (const char *)at + 8;
    *offset += 8 + *length;
    return true;
}
