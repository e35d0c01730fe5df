/* given.c: starts that were worked out before the adapter is attached, and the file that keeps them.
 *
 *     base_model.model.LAYER         (R, in)     rows of A alone: PEFT's eva_state_dict
 *     LAYER.eigens.S_WC, U_WC, V_WC  (R), (out, R), (in, R)     singular triples: PEFT's cache_file of CorDA */
#include <string.h>

#include "adapters/study.h"
#include "cambium/formats.h"

/* ---- in memory ---- */

static cb_tensor *copy_of(const cb_tensor *x)
{
    cb_tensor *copy = x ? cb_empty_like(x) : NULL;
    return copy && cb_copy_into(copy, x) ? cb_keep(copy) : NULL;
}

static void release(cb_given_start *given)
{
    cb_release(given->u);
    cb_release(given->s);
    cb_release(given->vt);
}

bool cb_given_add(cb_adapter *adapter, const cb_layer *layer, cb_tensor *u, cb_tensor *s, cb_tensor *vt)
{
    if (!vt || !cb_grow(&adapter->given, &adapter->given_capacity, adapter->given_count + 1, sizeof *adapter->given))
        return false;
    cb_given_start given = {.layer = layer, .u = copy_of(u), .s = copy_of(s), .vt = copy_of(vt)};
    if (!given.vt || !given.u != !u || !given.s != !s) {
        release(&given);
        return false;
    }
    adapter->given[adapter->given_count++] = given;
    return true;
}

const cb_given_start *cb_given_of(const cb_adapter *adapter, const cb_layer *layer)
{
    for (size_t i = 0; i < adapter->given_count; i++)
        if (adapter->given[i].layer == layer)
            return &adapter->given[i];
    return NULL;
}

void cb_given_free(cb_adapter *adapter)
{
    for (size_t i = 0; i < adapter->given_count; i++)
        release(&adapter->given[i]);
    cb_free(adapter->given);
    adapter->given = NULL;
    adapter->given_count = adapter->given_capacity = 0;
}

uint64_t cb_given_bytes(const cb_adapter *adapter)
{
    uint64_t count = 0;
    for (size_t i = 0; i < adapter->given_count; i++) {
        const cb_given_start *given = &adapter->given[i];
        count += (uint64_t)given->vt->count + (given->u ? (uint64_t)(given->u->count + given->s->count) : 0);
    }
    return count * sizeof(float);
}

/* ---- in a file ---- */

enum { EIGENS = 3 };
static const char *const eigen_names[EIGENS] = {"S_WC", "U_WC", "V_WC"};

static cb_weight_entry entry_of(char *name, cb_tensor *t)
{
    cb_weight_entry e = {.name = name, .dtype = CB_F32, .ndim = t->ndim, .data = t->data, .size = (size_t)t->count * sizeof(float)};
    memcpy(e.shape, t->shape, sizeof e.shape);
    return e;
}

static bool list_entries(const cb_given_start *given, cb_weight_entry *entries, size_t *count)
{
    cb_tensor *const tensors[EIGENS] = {given->s, given->u, given->s ? cb_contiguous(cb_transpose(given->vt, 0, 1)) : NULL};
    if (!given->s) {
        char *name = cb_format(CB_PEFT_PREFIX "%s", given->layer->name);
        if (name)
            entries[(*count)++] = entry_of(name, given->vt);
        return name;
    }
    for (int i = 0; i < EIGENS; i++) {
        char *name = tensors[i] ? cb_format("%s.eigens.%s", given->layer->name, eigen_names[i]) : NULL;
        if (!name)
            return false;
        entries[(*count)++] = entry_of(name, tensors[i]);
    }
    return true;
}

bool cb_given_write(const cb_adapter *adapter, const char *path, const char *const *metadata)
{
    cb_weight_entry *entries = cb_calloc(adapter->given_count * EIGENS, sizeof *entries);
    cb_scope *scope = entries ? cb_scope_open() : NULL;
    size_t count = 0;
    bool ok = scope;
    for (size_t i = 0; ok && i < adapter->given_count; i++)
        ok = list_entries(&adapter->given[i], entries, &count);
    ok = ok && cb_safetensors_write(path, entries, count, metadata, NULL, NULL);
    for (size_t i = 0; i < count; i++)
        cb_free((void *)(uintptr_t)entries[i].name);
    if (scope)
        cb_scope_close(scope);
    cb_free(entries);
    return ok;
}

/* The tensor of the file, f32; NULL without an error: there is none. */
static cb_tensor *read_tensor(const char *path, const cb_weights *file, char *name, int ndim, const int64_t *shape)
{
    const cb_weight_entry *e = name ? cb_weights_find(file, name) : NULL;
    cb_tensor *t = NULL;
    if (e && (e->ndim != ndim || (shape[0] > 0 && e->shape[0] != shape[0]) || (ndim > 1 && shape[1] > 0 && e->shape[1] != shape[1]) ||
              !cb_dtype_is_float(e->dtype)))
        cb_fail(CB_ERR_SHAPE, "%s: %s: found %s of %s, expected %s of floats (0: any)", path, name, cb_shape_text_nd(e->ndim, e->shape),
                e->type_name, cb_shape_text_nd(ndim, shape));
    else if (e)
        t = cb_cast(cb_weight_entry_tensor(e), CB_F32);
    cb_free(name);
    return t;
}

static bool read_layer(cb_adapter *adapter, const char *path, const cb_weights *file, const cb_layer *layer)
{
    int64_t in = layer->in_features, out = layer->out_features;
    cb_tensor *rows = read_tensor(path, file, cb_format(CB_PEFT_PREFIX "%s", layer->name), 2, (int64_t[]){0, in});
    if (rows || !cb_ok())
        return rows && cb_given_add(adapter, layer, NULL, NULL, rows);
    const int64_t shapes[EIGENS][2] = {{0, 0}, {out, 0}, {in, 0}};
    cb_tensor *t[EIGENS];
    for (int i = 0; i < EIGENS; i++)
        t[i] = read_tensor(path, file, cb_format("%s.eigens.%s", layer->name, eigen_names[i]), i ? 2 : 1, shapes[i]);
    if (!cb_ok() || (!t[0] && !t[1] && !t[2]))
        return cb_ok();
    if (!t[0] || !t[1] || !t[2] || t[1]->shape[1] != t[0]->shape[0] || t[2]->shape[1] != t[0]->shape[0])
        return cb_fail(CB_ERR_FORMAT, "%s: %s.eigens: S_WC, U_WC and V_WC do not fit together", path, layer->name) == CB_OK;
    return cb_given_add(adapter, layer, t[1], t[0], cb_transpose(t[2], 0, 1));
}

bool cb_given_read(cb_adapter *adapter, const char *path, cb_layer *const *layers, size_t count)
{
    cb_weights *file = cb_weights_open_file(path);
    cb_scope *scope = file ? cb_scope_open() : NULL;
    bool ok = scope;
    for (size_t i = 0; ok && i < count; i++)
        ok = read_layer(adapter, path, file, layers[i]);
    if (scope)
        cb_scope_close(scope);
    cb_weights_close(file);
    return ok;
}
