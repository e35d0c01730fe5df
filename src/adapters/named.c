/* named.c: a list of named f32 tensors as a safetensors file; see named.h. */
#include "adapters/named.h"

#include <string.h>

#include "adapters/internal.h"

bool cb_named_write(const char *path, const cb_named_tensor *list, size_t count)
{
    cb_weight_entry *entries = cb_calloc(count, sizeof *entries);
    for (size_t i = 0; entries && i < count; i++)
        entries[i] = cb_entry_to_write(list[i].name, list[i].tensor);
    bool ok = entries && cb_safetensors_write(path, entries, count, NULL, NULL, NULL);
    cb_free(entries);
    return ok;
}

bool cb_named_open(cb_named_file *from, const char *path)
{
    *from = (cb_named_file){.path = path, .file = cb_safetensors_open(path)};
    return from->file;
}

void cb_named_close(cb_named_file *from)
{
    cb_safetensors_close(from->file);
    from->file = NULL;
}

bool cb_named_has(const cb_named_file *from, const char *name, int ndim, const int64_t *shape)
{
    if (!from)
        return true;
    const cb_weight_entry *entry = cb_safetensors_find(from->file, name);
    if (entry && entry->dtype == CB_F32 && cb_weight_entry_fits(entry, ndim, shape))
        return true;
    return cb_fail(CB_ERR_FORMAT, "%s: tensor %s: found %s%s%s, expected F32 %s", from->path, name, entry ? entry->type_name : "none",
                   entry ? " " : "", entry ? cb_shape_text_nd(entry->ndim, entry->shape) : "", cb_shape_text_nd(ndim, shape)) == CB_OK;
}

static bool is_among(const char *name, const cb_named_tensor *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return true;
    return false;
}

bool cb_named_read(const cb_named_file *from, const cb_named_tensor *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cb_tensor *t = list[i].tensor;
        if (!cb_named_has(from, list[i].name, t->ndim, t->shape))
            return false;
        memcpy(t->data, cb_safetensors_find(from->file, list[i].name)->data, (size_t)t->count * sizeof(float));
    }
    for (size_t i = 0; i < cb_safetensors_count(from->file); i++) {
        const char *name = cb_safetensors_at(from->file, i)->name;
        if (!is_among(name, list, count))
            return cb_fail(CB_ERR_FORMAT, "%s: tensor %.300s has no place here (%zu tensors expected, %zu found)", from->path, name, count,
                           cb_safetensors_count(from->file)) == CB_OK;
    }
    return true;
}
