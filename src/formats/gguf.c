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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

uint64_t cb_gguf_little_endian(const uint8_t *bytes, size_t size)
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
    *value = cb_gguf_little_endian(bytes, size);
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

static bool read_tensor(cursor *c, cb_gguf_offset *t)
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
        cb_gguf_offset *t = &file->tensors[file->count++];
        file->own_count = file->count;
        *t = (cb_gguf_offset){0};
        if (!read_tensor(c, t))
            return false;
    }
    return true;
}

static int by_offset(const void *a_, const void *b_)
{
    const cb_gguf_offset *a = *(const cb_gguf_offset *const *)a_, *b = *(const cb_gguf_offset *const *)b_;
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
    const cb_gguf_offset **order = cb_calloc(file->count, sizeof *order);
    bool ok = order;
    for (size_t i = 0; ok && i < file->count; i++) {
        cb_gguf_offset *t = &file->tensors[i];
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
    cb_free(file->by_name);
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
    if (file->size < 4 || cb_gguf_little_endian(file->bytes, 4) != CB_GGUF_MAGIC)
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

static cb_gguf *open_one(const char *path)
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

/* ---- models in parts ---- */

enum { MOST_PARTS = 99999 };

/* "NAME-00001-of-00003.gguf": the first part knows all metadata, the others hold tensors only. */
static char *part_path(const char *first, int64_t number, int64_t count)
{
    char end[40];
    snprintf(end, sizeof end, "-00001-of-%05d.gguf", (int)count);
    if (cb_ends_with(first, end))
        return cb_format("%.*s-%05d-of-%05d.gguf", (int)(strlen(first) - strlen(end)), first, (int)number, (int)count);
    cb_fail(CB_ERR_FORMAT, "%s: found the first of %lld parts, expected a name that ends in %s", first, (long long)count, end);
    return NULL;
}

static bool check_part(const cb_gguf *part, int64_t number, int64_t count)
{
    int64_t found = cb_gguf_int(part, "split.no", -1), of = cb_gguf_int(part, "split.count", -1);
    return cb_ok() && ((found == number - 1 && of == count) ||
                       cb_fail(CB_ERR_FORMAT, "%s: split.no, split.count: found %lld and %lld, expected %lld and %lld", part->what,
                               (long long)found, (long long)of, (long long)number - 1, (long long)count) == CB_OK);
}

/* The entries belong to their parts. */
static bool take_tensors(cb_gguf *file, const cb_gguf *part)
{
    if (!cb_grow(&file->tensors, &file->capacity, file->count + part->count, sizeof *file->tensors))
        return false;
    if (part->count)
        memcpy(file->tensors + file->count, part->tensors, part->count * sizeof *file->tensors);
    file->count += part->count;
    return true;
}

static bool join_parts(cb_gguf *file)
{
    int64_t count = cb_gguf_int(file, "split.count", 0), number = cb_gguf_int(file, "split.no", 0);
    int64_t total = cb_gguf_int(file, "split.tensors.count", -1);
    if (!cb_ok() || count <= 1)
        return cb_ok();
    if (number != 0 || count > MOST_PARTS)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found part %lld of %lld, expected the first: the others come with it", file->what,
                       (long long)number + 1, (long long)count) == CB_OK;
    file->parts = cb_calloc((size_t)count - 1, sizeof(cb_gguf *));
    bool ok = file->parts;
    for (int64_t i = 2; ok && i <= count; i++) {
        char *path = part_path(file->what, i, count);
        cb_gguf *part = path ? open_one(path) : NULL;
        cb_free(path);
        if (part)
            file->parts[file->part_count++] = part;
        ok = part && check_part(part, i, count) && take_tensors(file, part);
    }
    if (ok && total >= 0 && (uint64_t)total != file->count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: split.tensors.count: found %lld, and %zu tensors in the parts", file->what, (long long)total,
                     file->count) == CB_OK;
    return ok && index_tensors(file);
}

cb_gguf *cb_gguf_open(const char *path)
{
    cb_gguf *file = open_one(path);
    if (file && join_parts(file))
        return file;
    cb_gguf_close(file);
    return NULL;
}

void cb_gguf_close(cb_gguf *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->value_count; i++) {
        cb_free((void *)(uintptr_t)file->values[i].key);
        cb_free((void *)(uintptr_t)file->values[i].text);
    }
    for (size_t i = 0; i < file->own_count; i++)
        cb_free((void *)(uintptr_t)file->tensors[i].entry.name);
    for (size_t i = 0; i < file->part_count; i++)
        cb_gguf_close(file->parts[i]);
    cb_free(file->parts);
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
    bool same = read(fd, magic, sizeof magic) == sizeof magic && cb_gguf_little_endian(magic, sizeof magic) == CB_GGUF_MAGIC;
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

const cb_gguf_value *cb_gguf_value_find(const cb_gguf *file, const char *key)
{
    cb_gguf_value wanted = {.key = key};
    const cb_gguf_value *pointer = &wanted;
    const cb_gguf_value **found = file->value_count ? bsearch(&pointer, file->by_key, file->value_count, sizeof pointer, by_key) : NULL;
    return found ? *found : NULL;
}
