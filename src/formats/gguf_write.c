/* gguf_write.c: the writer of GGUF files, version 3: metadata, then tensors at multiples of 32 bytes. */
#include <string.h>

#include "formats/gguf.h"

/* ---- metadata ---- */

static bool append_number(cb_string *out, uint64_t value, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    return cb_string_append(out, bytes, size);
}

static bool append_string(cb_string *out, const char *text)
{
    size_t length = strlen(text);
    return append_number(out, length, 8) && cb_string_append(out, text, length);
}

static bool begin(cb_gguf_metadata *m, const char *key, cb_gguf_type type)
{
    m->count++;
    return append_string(&m->bytes, key) && append_number(&m->bytes, type, 4);
}

static bool begin_array(cb_gguf_metadata *m, const char *key, cb_gguf_type type, uint64_t count)
{
    return begin(m, key, CB_GGUF_ARRAY) && append_number(&m->bytes, type, 4) && append_number(&m->bytes, count, 8);
}

bool cb_gguf_put_u32(cb_gguf_metadata *m, const char *key, uint32_t value)
{
    return begin(m, key, CB_GGUF_U32) && append_number(&m->bytes, value, 4);
}

bool cb_gguf_put_f32(cb_gguf_metadata *m, const char *key, float value)
{
    return begin(m, key, CB_GGUF_F32) && cb_string_append(&m->bytes, &value, sizeof value);
}

bool cb_gguf_put_bool(cb_gguf_metadata *m, const char *key, bool value)
{
    return begin(m, key, CB_GGUF_BOOL) && append_number(&m->bytes, value, 1);
}

bool cb_gguf_put_string(cb_gguf_metadata *m, const char *key, const char *text)
{
    return begin(m, key, CB_GGUF_STRING) && append_string(&m->bytes, text);
}

bool cb_gguf_put_array(cb_gguf_metadata *m, const char *key, cb_gguf_type type, uint64_t count, const void *items)
{
    return begin_array(m, key, type, count) && cb_string_append(&m->bytes, items, (size_t)count * cb_gguf_scalar_size(type));
}

bool cb_gguf_put_strings(cb_gguf_metadata *m, const char *key, uint64_t count, const char *const *texts)
{
    bool ok = begin_array(m, key, CB_GGUF_STRING, count);
    for (uint64_t i = 0; ok && i < count; i++)
        ok = append_string(&m->bytes, texts[i]);
    return ok;
}

bool cb_gguf_put_value(cb_gguf_metadata *m, const char *key, const cb_gguf_value *v)
{
    double number;
    if (strcmp(key, "general.alignment") == 0 && cb_gguf_number_at(v, 0, &number))
        m->alignment = (uint32_t)number;
    return (v->is_array ? begin_array(m, key, v->type, v->count) : begin(m, key, v->type)) && cb_string_append(&m->bytes, v->data, v->size);
}

void cb_gguf_metadata_free(cb_gguf_metadata *m)
{
    cb_string_free(&m->bytes);
    m->count = 0;
}

/* ---- tensors ---- */

static const cb_gguf_tensor_type *type_of(const cb_weight_entry *e)
{
    return cb_gguf_tensor_type_named(e->type_name ? e->type_name : cb_dtype_name(e->dtype));
}

bool cb_gguf_tensor_size(const char *type_name, int ndim, const int64_t *shape, size_t *size)
{
    const cb_gguf_tensor_type *type = cb_gguf_tensor_type_named(type_name);
    if (!type)
        return cb_fail(CB_ERR_ARGUMENT, "type: found \"%.50s\", expected one that GGUF has", type_name) == CB_OK;
    return cb_gguf_shape_size(type, ndim, shape, size) ||
           cb_fail(CB_ERR_ARGUMENT, "shape: found %s, expected rows that are whole blocks of %u elements (%s)",
                   cb_shape_text_nd(ndim, shape), type->block, type->name) == CB_OK;
}

static uint64_t aligned(const cb_gguf_metadata *m, uint64_t n)
{
    uint64_t to = m->alignment ? m->alignment : CB_GGUF_ALIGNMENT;
    return (n + to - 1) / to * to;
}

static bool put_tensor(const char *path, cb_string *out, const cb_weight_entry *e, uint64_t offset)
{
    const cb_gguf_tensor_type *type = type_of(e);
    size_t size = 0;
    if (!type || e->ndim > CB_GGUF_DIMS || !cb_gguf_shape_size(type, e->ndim, e->shape, &size) || size != e->size)
        return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: found %s of type %s with %zu bytes, which GGUF cannot hold", path, e->name,
                       cb_shape_text_nd(e->ndim, e->shape), e->type_name ? e->type_name : cb_dtype_name(e->dtype), e->size) == CB_OK;
    bool ok = append_string(out, e->name) && append_number(out, (uint64_t)e->ndim, 4);
    for (int i = e->ndim - 1; ok && i >= 0; i--)
        ok = append_number(out, (uint64_t)e->shape[i], 8);
    return ok && append_number(out, type->id, 4) && append_number(out, offset, 8);
}

static bool make_header(const char *path, const cb_gguf_metadata *m, const cb_weight_entry *entries, size_t count, cb_string *out)
{
    uint64_t offset = 0;
    bool ok = append_number(out, CB_GGUF_MAGIC, 4) && append_number(out, 3, 4) && append_number(out, count, 8) &&
              append_number(out, m->count, 8) && cb_string_append(out, m->bytes.data ? m->bytes.data : "", m->bytes.length);
    for (size_t i = 0; ok && i < count; i++) {
        ok = put_tensor(path, out, &entries[i], offset);
        offset += aligned(m, entries[i].size);
    }
    return ok;
}

static bool write_padding(cb_writer *w, const cb_gguf_metadata *m, uint64_t length)
{
    static const uint8_t zeros[CB_GGUF_ALIGNMENT];
    uint64_t left = aligned(m, length) - length;
    for (; left > sizeof zeros; left -= sizeof zeros)
        if (!cb_writer_write(w, zeros, sizeof zeros))
            return false;
    return cb_writer_write(w, zeros, (size_t)left);
}

static bool write_tensors(cb_writer *w, const char *path, const cb_gguf_metadata *m, const cb_weight_entry *entries, size_t count,
                          cb_weight_provider *provide, void *user)
{
    for (size_t i = 0; i < count; i++) {
        const void *bytes = provide ? provide(user, i) : entries[i].data;
        if (!bytes)
            return cb_fail(CB_ERR_ARGUMENT, "%s: tensor %.200s: found no data to write", path, entries[i].name) == CB_OK;
        if (!cb_writer_values(w, bytes, entries[i].size) || !write_padding(w, m, entries[i].size))
            return false;
    }
    return true;
}

bool cb_gguf_write(const char *path, const cb_gguf_metadata *metadata, const cb_weight_entry *entries, size_t count,
                   cb_weight_provider *provide, void *user)
{
    cb_string header = {0};
    bool ok = make_header(path, metadata, entries, count, &header);
    cb_writer *w = ok ? cb_writer_open(path) : NULL;
    ok = w && cb_writer_write(w, header.data, header.length) && write_padding(w, metadata, header.length) &&
         write_tensors(w, path, metadata, entries, count, provide, user);
    if (ok)
        ok = cb_writer_commit(w);
    else
        cb_writer_abort(w);
    cb_string_free(&header);
    return ok;
}
