/* safetensors_write.c: the writer of safetensors files, byte for byte that of the reference implementation: tensors by
 * type from high rank to low, then by name; compact JSON; spaces up to a multiple of eight. */
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"

/* A tensor to write, and where the caller has it. */
typedef struct placed {
    const cb_weight_entry *entry;
    const cb_safetensors_type *type;
    size_t index;
} placed;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const placed *)a)->entry->name, ((const placed *)b)->entry->name);
}

static int by_type_and_name(const void *a_, const void *b_)
{
    const placed *a = a_, *b = b_;
    if (a->type != b->type)
        return a->type > b->type ? -1 : 1;
    return by_name(a, b);
}

static bool check_entry(const char *path, const cb_weight_entry *e, const cb_safetensors_type **type)
{
    size_t size, bad;
    if (!e->name || strcmp(e->name, CB_SAFETENSORS_METADATA) == 0 || !cb_utf8_valid(e->name, strlen(e->name), &bad))
        return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: found a name that cannot be written, expected UTF-8 other than %s", path,
                       e->name ? e->name : "(none)", CB_SAFETENSORS_METADATA) == CB_OK;
    *type = e->dtype == CB_DTYPE_COUNT && e->type_name ? cb_safetensors_type_named(e->type_name) : cb_safetensors_type_of(e->dtype);
    if (!*type)
        return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: dtype: found none that the format has", path, e->name) == CB_OK;
    if (e->ndim < 0 || e->ndim > CB_MAX_DIMS || !cb_safetensors_size(*type, e->ndim, e->shape, &size))
        return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: shape: found one that has no size", path, e->name) == CB_OK;
    return size == e->size || cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: size: found %zu bytes, expected %zu for its shape and %s", path,
                                      e->name, e->size, size, (*type)->name) == CB_OK;
}

/* The tensors in the order of the file; NULL on failure. */
static placed *arrange(const char *path, const cb_weight_entry *entries, size_t count)
{
    placed *order = cb_calloc(count + 1, sizeof *order);
    bool ok = order;
    for (size_t i = 0; ok && i < count; i++) {
        order[i] = (placed){.entry = &entries[i], .index = i};
        ok = check_entry(path, &entries[i], &order[i].type);
    }
    if (ok)
        qsort(order, count, sizeof *order, by_name);
    for (size_t i = 1; ok && i < count; i++)
        if (by_name(&order[i - 1], &order[i]) == 0)
            ok = cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: given twice, expected once", path, order[i].entry->name) == CB_OK;
    if (ok)
        qsort(order, count, sizeof *order, by_type_and_name);
    if (ok)
        return order;
    cb_free(order);
    return NULL;
}

/* ---- the header ---- */

static bool put_string(cb_string *out, const char *text)
{
    static const char special[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    bool ok = cb_string_puts(out, "\"");
    for (; ok && *text; text++) {
        const char *found = strchr(special, *text);
        if (found)
            ok = cb_string_printf(out, "\\%c", letters[found - special]);
        else if ((unsigned char)*text < ' ')
            ok = cb_string_printf(out, "\\u%04x", (unsigned)*text);
        else
            ok = cb_string_append(out, text, 1);
    }
    return ok && cb_string_puts(out, "\"");
}

static bool put_metadata(const char *path, cb_string *out, const char *const *metadata)
{
    static const char *const standard[] = {"format", "pt", NULL};
    if (!metadata)
        metadata = standard;
    if (!metadata[0])
        return true;
    bool ok = cb_string_puts(out, "\"" CB_SAFETENSORS_METADATA "\":{");
    for (size_t i = 0; ok && metadata[i]; i += 2) {
        const char *key = metadata[i], *value = metadata[i + 1];
        if (!value || !cb_utf8_valid(key, strlen(key), NULL) || !cb_utf8_valid(value, strlen(value), NULL))
            return cb_fail(CB_ERR_ARGUMENT, "%s: metadata: %.200s: expected pairs of texts in UTF-8", path, key) == CB_OK;
        ok = (!i || cb_string_puts(out, ",")) && put_string(out, key) && cb_string_puts(out, ":") && put_string(out, value);
    }
    return ok && cb_string_puts(out, "}");
}

/* Adds one tensor that begins at *offset, and moves *offset to its end. */
static bool put_tensor(const char *path, cb_string *out, const placed *p, uint64_t *offset)
{
    const cb_weight_entry *e = p->entry;
    uint64_t begin = *offset;
    if (__builtin_add_overflow(begin, e->size, offset) || *offset > INT64_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: the file would be larger than 2^63 bytes", path, e->name) == CB_OK;
    bool ok = put_string(out, e->name) && cb_string_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", p->type->name);
    for (int i = 0; ok && i < e->ndim; i++)
        ok = cb_string_printf(out, "%s%lld", i ? "," : "", (long long)e->shape[i]);
    return ok && cb_string_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin, (unsigned long long)*offset);
}

static bool make_header(const char *path, const placed *order, size_t count, const char *const *metadata, cb_string *out)
{
    uint64_t offset = 0;
    bool ok = cb_string_puts(out, "{") && put_metadata(path, out, metadata);
    bool separate = ok && out->length > 1;
    for (size_t i = 0; ok && i < count; i++, separate = true)
        ok = (!separate || cb_string_puts(out, ",")) && put_tensor(path, out, &order[i], &offset);
    ok = ok && cb_string_puts(out, "}");
    while (ok && out->length % 8)
        ok = cb_string_puts(out, " ");
    if (ok && out->length > CB_SAFETENSORS_LIMIT)
        ok = cb_fail(CB_ERR_ARGUMENT, "%s: header: %zu bytes, more than the %u that the format allows", path, out->length,
                     CB_SAFETENSORS_LIMIT) == CB_OK;
    return ok;
}

/* ---- the file ---- */

/* Where the bytes come from: one of these, or the entries themselves. */
typedef struct source {
    cb_weight_provider *provide;
    cb_weight_emitter *emit;
    void *user;
} source;

static bool write_tensor(cb_writer *w, const char *path, const placed *p, const source *from)
{
    const cb_weight_entry *e = p->entry;
    if (!e->size)
        return true;
    if (from->emit) {
        uint64_t begin = cb_writer_length(w);
        return from->emit(from->user, p->index, w) &&
               (cb_writer_length(w) - begin == e->size ||
                cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: found %llu bytes, expected %zu", path, e->name,
                        (unsigned long long)(cb_writer_length(w) - begin), e->size) == CB_OK);
    }
    const void *bytes = from->provide ? from->provide(from->user, p->index) : e->data;
    if (!bytes)
        return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: found no data to write", path, e->name) == CB_OK;
    return cb_writer_values(w, bytes, e->size);
}

static bool write_file(cb_writer *w, const char *path, const cb_string *header, const placed *order, size_t count, const source *from)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header->length >> (8 * i));
    bool ok = cb_writer_write(w, length, sizeof length) && cb_writer_write(w, header->data, header->length);
    for (size_t i = 0; ok && i < count; i++)
        ok = write_tensor(w, path, &order[i], from);
    return ok;
}

static bool write_all(const char *path, const cb_weight_entry *entries, size_t count, const char *const *metadata, const source *from)
{
    cb_string header = {0};
    placed *order = arrange(path, entries, count);
    bool ok = order && make_header(path, order, count, metadata, &header);
    cb_writer *w = ok ? cb_writer_open(path) : NULL;
    ok = w && write_file(w, path, &header, order, count, from);
    if (ok)
        ok = cb_writer_commit(w);
    else
        cb_writer_abort(w);
    cb_string_free(&header);
    cb_free(order);
    return ok;
}

bool cb_safetensors_write(const char *path, const cb_weight_entry *entries, size_t count, const char *const *metadata,
                          cb_weight_provider *provide, void *user)
{
    return write_all(path, entries, count, metadata, &(source){.provide = provide, .user = user});
}

bool cb_safetensors_stream(const char *path, const cb_weight_entry *entries, size_t count, const char *const *metadata,
                           cb_weight_emitter *emit, void *user)
{
    return write_all(path, entries, count, metadata, &(source){.emit = emit, .user = user});
}
