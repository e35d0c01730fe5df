/* torch.c: tensors out of torch.save's files.
 *
 * A zip archive holds NAME/data.pkl (a pickle of everything but the elements), NAME/byteorder and NAME/data/KEY, a storage
 * each.  The older form is five pickles in a row (a magic number, a version, a description of the machine, the objects, the
 * keys of the storages) and then the storages: a 64-bit count of elements and the elements. */
#include "formats/torch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/pickle.h"
#include "formats/zip.h"

enum { DEPTH = 16, COPIES = 8 };

struct cb_torch {
    cb_file_map map;
    cb_entry_table table; /* names are made here */
    void **copies;        /* of tensors that do not lie in row-major order */
    size_t copy_count, copy_capacity;
};

/* What is needed while a file is read. */
typedef struct reading {
    cb_torch *file;
    const char *path;
    cb_pickle pickle;
    size_t visits, name_bytes, copy_bytes; /* left before a file is taken for a bomb */
} reading;

static CB_COLD bool damaged(const reading *r, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "%s: %s", r->path, problem);
    return false;
}

/* ---- storages of a zip archive ---- */

/* The name of the archive: what stands before "data.pkl"; there is one of it. */
static const cb_zip_member *find_program(const reading *r, const cb_zip *zip, size_t *prefix)
{
    static const char name[] = "/data.pkl";
    const cb_zip_member *found = NULL;
    for (size_t i = 0; i < zip->count; i++) {
        const cb_zip_member *m = &zip->members[i];
        if (m->name_length < sizeof name || memcmp(m->name + m->name_length - (sizeof name - 1), name, sizeof name - 1) != 0)
            continue;
        if (found) {
            damaged(r, "zip archive: found several data.pkl, expected one");
            return NULL;
        }
        found = m;
        *prefix = m->name_length - (sizeof name - 1) + 1;
    }
    if (!found)
        damaged(r, "zip archive: found no data.pkl, expected a file that torch.save wrote");
    return found;
}

/* NULL, and no error: no such member.  `prefix` bytes of `archive` come before the name. */
static const cb_zip_member *find_member(const cb_zip *zip, const char *archive, size_t prefix, const char *directory, const char *name,
                                        size_t name_length)
{
    cb_string path = {0};
    const cb_zip_member *found = NULL;
    if (cb_string_append(&path, archive, prefix) && cb_string_puts(&path, directory) && cb_string_append(&path, name, name_length))
        found = cb_zip_find(zip, path.data, path.length);
    cb_string_free(&path);
    return found;
}

static bool find_storages(reading *r, const cb_zip *zip, const char *archive, size_t prefix)
{
    for (size_t i = 0; i < r->pickle.storage_count; i++) {
        cb_pickle_storage *s = &r->pickle.storages[i];
        const cb_zip_member *m = find_member(zip, archive, prefix, "data/", s->key.text, s->key.length);
        if (!m && !cb_ok())
            return false;
        if (!m || m->size < s->size)
            return cb_fail(CB_ERR_FORMAT, "%s: storage %.*s: found %zu bytes, expected %zu", r->path,
                           (int)(s->key.length < 100 ? s->key.length : 100), s->key.text, m ? m->size : 0, s->size) == CB_OK;
        s->data = m->data;
    }
    return true;
}

static bool read_archive(reading *r)
{
    cb_zip zip;
    size_t prefix = 0, used = 0;
    if (!cb_zip_open(&zip, &r->file->map))
        return false;
    const cb_zip_member *program = find_program(r, &zip, &prefix), *order = NULL, *code = NULL;
    bool ok = program;
    if (ok) {
        order = find_member(&zip, program->name, prefix, "", "byteorder", 9);
        code = find_member(&zip, program->name, prefix, "", "constants.pkl", 13);
        ok = cb_ok();
    }
    if (ok && code)
        ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: found a TorchScript program, expected saved tensors", r->path) == CB_OK;
    if (ok && order && (order->size < 6 || memcmp(order->data, "little", 6) != 0))
        ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: byteorder: found numbers of another order than little-endian", r->path) == CB_OK;
    ok = ok && cb_pickle_read(&r->pickle, r->path, program->data, program->size, &used) && find_storages(r, &zip, program->name, prefix);
    cb_zip_close(&zip);
    return ok;
}

/* ---- storages of the older form ---- */

/* 0x1950a86a20f9469cfc6c; before it the protocol (two bytes), since protocol 4 a frame (nine). */
static const uint8_t magic[] = {0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, '.'};

static int compare_texts(const cb_pickle_value *a, const cb_pickle_value *b)
{
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return a->length ? memcmp(a->text, b->text, a->length) : 0;
}

static int by_key(const void *a, const void *b)
{
    return compare_texts(&(*(cb_pickle_storage *const *)a)->key, &(*(cb_pickle_storage *const *)b)->key);
}

/* The first of `count` storages, sorted by key, that has this one. */
static size_t first_with(cb_pickle_storage **sorted, size_t count, const cb_pickle_value *key)
{
    size_t low = 0;
    while (count) {
        size_t half = count / 2;
        bool right = compare_texts(&sorted[low + half]->key, key) < 0;
        low = right ? low + half + 1 : low;
        count = right ? count - half - 1 : half;
    }
    return low;
}

/* Gives the storages that `key` names the elements at `at`; *used gets how many bytes those are. */
static bool place_storage(reading *r, cb_pickle_storage **sorted, const cb_pickle_value *key, const uint8_t *at, size_t left, size_t *used)
{
    size_t count = r->pickle.storage_count, first = key->kind == CB_PICKLE_STRING ? first_with(sorted, count, key) : count;
    uint64_t elements = 0;
    if (first == count || compare_texts(&sorted[first]->key, key) != 0)
        return damaged(r, "found the elements of a storage that no tensor has");
    for (int i = 0; i < 8 && left >= 8; i++)
        elements |= (uint64_t)at[i] << (8 * i);
    size_t size, element = sorted[first]->type->bits / 8;
    if (left < 8 || __builtin_mul_overflow((size_t)elements, element, &size) || size > left - 8)
        return damaged(r, "found the end of the file, expected the elements of a storage");
    for (size_t i = first; i < count && compare_texts(&sorted[i]->key, key) == 0; i++) {
        if (sorted[i]->size > size || sorted[i]->data)
            return damaged(r, "found a storage twice, or with fewer elements than its tensors have");
        sorted[i]->data = at + 8;
    }
    *used = 8 + size;
    return true;
}

static bool place_storages(reading *r, const cb_pickle *keys, const uint8_t *at, size_t left)
{
    size_t count = r->pickle.storage_count, used = 0;
    cb_pickle_storage **sorted = cb_calloc(count + 1, sizeof *sorted);
    bool ok = sorted;
    for (size_t i = 0; ok && i < count; i++)
        sorted[i] = &r->pickle.storages[i];
    if (ok && count)
        qsort(sorted, count, sizeof *sorted, by_key);
    ok = ok && (keys->result.kind == CB_PICKLE_LIST || damaged(r, "found no list of storages"));
    const cb_pickle_list *list = ok ? &keys->lists[keys->result.index] : NULL;
    for (size_t i = 0; ok && i < list->count; i++) {
        ok = place_storage(r, sorted, &list->items[i], at, left, &used);
        at += ok ? used : 0;
        left -= ok ? used : 0;
    }
    for (size_t i = 0; ok && i < count; i++)
        ok = sorted[i]->data || damaged(r, "found a tensor whose storage is not in the file");
    cb_free(sorted);
    return ok;
}

/* Whether the description of the machine says little-endian. */
static bool is_little_endian(const cb_pickle *machine)
{
    const cb_pickle_list *list = machine->result.kind == CB_PICKLE_DICT ? &machine->lists[machine->result.index] : NULL;
    static const char field[] = "little_endian";
    for (size_t i = 0; list && i + 1 < list->count; i += 2) {
        const cb_pickle_value *key = &list->items[i], *value = key + 1;
        if (key->kind == CB_PICKLE_STRING && key->length == sizeof field - 1 && memcmp(key->text, field, key->length) == 0)
            return value->kind == CB_PICKLE_BOOL && value->integer;
    }
    return false;
}

/* How many bytes the magic number takes up; 0: there is none. */
static size_t magic_size(const cb_file_map *map)
{
    size_t before = map->size > 2 && map->data[2] == 0x95 ? 11 : 2;
    bool found = map->size > before + sizeof magic && map->data[0] == 0x80 && memcmp(map->data + before, magic, sizeof magic) == 0;
    return found ? before + sizeof magic : 0;
}

static bool read_pickles(reading *r, size_t skip)
{
    const uint8_t *at = r->file->map.data + skip;
    size_t left = r->file->map.size - skip, used = 0;
    cb_pickle other[3] = {0}; /* version, machine, keys */
    bool ok = true;
    for (int i = 0; ok && i < 4; i++) {
        ok = cb_pickle_read(i == 2 ? &r->pickle : &other[i == 3 ? 2 : i], r->path, at, left, &used);
        at += ok ? used : 0;
        left -= ok ? used : 0;
    }
    ok = ok && ((other[0].result.kind == CB_PICKLE_INT && other[0].result.integer == 1001 && is_little_endian(&other[1])) ||
                damaged(r, "found another version of torch.save's older form than 1001, or big-endian numbers"));
    ok = ok && place_storages(r, &other[2], at, left);
    for (int i = 0; i < 3; i++)
        cb_pickle_free(&other[i]);
    return ok;
}

/* ---- tensors ---- */

/* Strides of dimensions of size 1 do not matter. */
static bool is_row_major(const cb_pickle_tensor *t)
{
    int64_t stride = 1;
    for (int i = t->ndim; i--;) {
        if (t->shape[i] != 1 && t->strides[i] != stride)
            return false;
        stride *= t->shape[i];
    }
    return true;
}

/* Copies element by element in row-major order. */
static void gather(const cb_pickle_tensor *t, const uint8_t *from, uint8_t *to, size_t size)
{
    size_t element = t->type->bits / 8;
    int64_t index[CB_MAX_DIMS] = {0};
    for (size_t done = 0; done < size; done += element) {
        int64_t place = t->offset;
        for (int i = 0; i < t->ndim; i++)
            place += index[i] * t->strides[i];
        memcpy(to + done, from + (size_t)place * element, element);
        for (int i = t->ndim; i-- && ++index[i] == t->shape[i];)
            index[i] = 0;
    }
}

static const void *copy_tensor(reading *r, const cb_pickle_tensor *t, const uint8_t *data, size_t size)
{
    cb_torch *f = r->file;
    if (size > r->copy_bytes) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: tensors whose elements are not in order would need over %d times the size of the file", r->path,
                COPIES);
        return NULL;
    }
    r->copy_bytes -= size;
    if (!cb_grow(&f->copies, &f->copy_capacity, f->copy_count + 1, sizeof *f->copies))
        return NULL;
    void *copy = f->copies[f->copy_count] = cb_alloc(size);
    if (!copy)
        return NULL;
    f->copy_count++;
    gather(t, data, copy, size);
    return copy;
}

/* Takes over the name. */
static bool add_tensor(reading *r, const cb_pickle_tensor *t, char *name)
{
    const cb_pickle_storage *storage = &r->pickle.storages[t->storage];
    cb_weight_entry entry = {.name = name, .dtype = t->type->dtype, .type_name = t->type->name, .ndim = t->ndim};
    size_t element = t->type->bits / 8;
    bool ok = cb_entry_table_grow(&r->file->table);
    cb_safetensors_size(t->type, t->ndim, t->shape, &entry.size); /* held against the storage by the pickle's reader */
    if (t->ndim)
        memcpy(entry.shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
    if (!entry.size)
        entry.data = storage->data;
    else if (is_row_major(t))
        entry.data = storage->data + (size_t)t->offset * element;
    else
        entry.data = ok ? copy_tensor(r, t, storage->data, entry.size) : NULL;
    ok = ok && entry.data;
    if (ok)
        r->file->table.entries[r->file->table.count++] = entry;
    else
        cb_free(name);
    return ok;
}

/* ---- names ---- */

/* before, a dot and the key; NULL with an error. */
static char *join_key(reading *r, const char *before, const cb_pickle_value *key, size_t index)
{
    char number[24];
    const char *text = number, *dot = *before ? "." : "";
    size_t length =
        (size_t)snprintf(number, sizeof number, "%lld", key && key->kind == CB_PICKLE_INT ? (long long)key->integer : (long long)index);
    if (key && key->kind == CB_PICKLE_STRING) {
        text = key->text;
        length = key->length;
    }
    size_t whole = strlen(before) + 1 + length + 1;
    if (memchr(text, '\0', length) || !cb_utf8_valid(text, length, NULL)) {
        damaged(r, "found the name of a tensor that is not UTF-8 or holds a NUL");
        return NULL;
    }
    if (whole > r->name_bytes) {
        damaged(r, "found names of tensors that are much longer than the file");
        return NULL;
    }
    r->name_bytes -= whole;
    char *name = cb_alloc(whole);
    if (name)
        snprintf(name, whole, "%s%s%.*s", before, dot, (int)length, text);
    return name;
}

/* Takes over the name. */
static bool add_value(reading *r, const cb_pickle_value *value, char *name, int depth)
{
    if (value->kind == CB_PICKLE_TENSOR)
        return add_tensor(r, &r->pickle.tensors[value->index], name);
    bool dict = value->kind == CB_PICKLE_DICT, ok = true;
    const cb_pickle_list *list =
        dict || value->kind == CB_PICKLE_LIST || value->kind == CB_PICKLE_TUPLE ? &r->pickle.lists[value->index] : NULL;
    if (list && depth == DEPTH)
        ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: found dicts or lists nested over %d deep", r->path, DEPTH) == CB_OK;
    for (size_t i = 0; ok && list && i < list->count; i += dict ? 2 : 1) {
        const cb_pickle_value *key = dict ? &list->items[i] : NULL, *item = &list->items[dict ? i + 1 : i];
        if (!r->visits--) {
            r->visits = 0;
            ok = damaged(r, "found lists within lists that give more values than the file has bytes");
            break;
        }
        if (item->kind < CB_PICKLE_TUPLE || (key && key->kind != CB_PICKLE_STRING && key->kind != CB_PICKLE_INT))
            continue;
        char *inner = join_key(r, name, key, i);
        ok = inner && add_value(r, item, inner, depth + 1);
    }
    cb_free(name);
    return ok;
}

/* ---- the interface ---- */

static bool read_file(cb_torch *file)
{
    const cb_file_map *map = &file->map;
    reading r = {
        .file = file, .path = map->path, .visits = map->size, .name_bytes = 4096 + 16 * map->size, .copy_bytes = COPIES * map->size};
    size_t skip = magic_size(map);
    bool ok;
    if (map->size > 4 && memcmp(map->data, "PK\3\4", 4) == 0)
        ok = read_archive(&r);
    else if (skip)
        ok = read_pickles(&r, skip);
    else
        ok = damaged(&r, "found neither a zip archive nor pickles of torch.save");
    char *name = ok ? cb_strdup("") : NULL;
    ok = name && add_value(&r, &r.pickle.result, name, 0) && cb_entry_table_index(&file->table, map->path);
    cb_pickle_free(&r.pickle);
    return ok;
}

cb_torch *cb_torch_open(const char *path)
{
    cb_torch *file = cb_calloc(1, sizeof *file);
    if (!file || (cb_file_map_open(&file->map, path) && read_file(file)))
        return file;
    cb_torch_close(file);
    return NULL;
}

void cb_torch_close(cb_torch *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->table.count; i++)
        cb_free((void *)(uintptr_t)file->table.entries[i].name);
    for (size_t i = 0; i < file->copy_count; i++)
        cb_free(file->copies[i]);
    cb_free(file->copies);
    cb_entry_table_free(&file->table);
    cb_file_map_close(&file->map);
    cb_free(file);
}

const cb_entry_table *cb_torch_table(const cb_torch *file)
{
    return &file->table;
}
