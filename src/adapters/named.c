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

bool cb_named_read(const char *path, const cb_named_tensor *list, size_t count)
{
    cb_safetensors *file = cb_safetensors_open(path);
    bool ok = file;
    for (size_t i = 0; ok && i < count; i++) {
        cb_tensor *t = list[i].tensor;
        const cb_weight_entry *entry = cb_safetensors_find(file, list[i].name);
        ok = entry && entry->dtype == CB_F32 && cb_weight_entry_fits(entry, t->ndim, t->shape);
        if (!ok)
            cb_fail(CB_ERR_FORMAT, "%s: tensor %s: found %s, expected %s", path, list[i].name,
                    entry ? cb_shape_text_nd(entry->ndim, entry->shape) : "none", cb_shape_text(t));
        else
            memcpy(t->data, entry->data, entry->size);
    }
    cb_safetensors_close(file);
    return ok;
}
