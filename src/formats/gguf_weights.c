/* gguf_weights.c: the tensors of a GGUF model as those of a Hugging Face checkpoint.
 *
 * Most are used where they lie in the mapped file, quantised ones too.  Two kinds are not the same bytes: rows of Llama's q and k, which
 * change places, and GPT-2's matrices, which transformers stores transposed; these are made when they are asked for.  A quantised matrix
 * whose rows change places stays quantised; one that is transposed becomes f32. */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_model.h"
#include "formats/rotary_rows.h"

typedef struct gguf_tensor {
    cb_weight_entry entry; /* as Hugging Face has it; data NULL until it is made */
    const cb_weight_entry *stored;
    int kind;
    void *made;
} gguf_tensor;

struct cb_gguf_weights {
    cb_gguf *file;
    const cb_gguf_architecture *architecture;
    int64_t heads, kv_heads, head_dim;
    gguf_tensor *tensors;
    size_t count, capacity;
};

static bool is_rotary(const cb_gguf_weights *w, int kind)
{
    return w->architecture->permuted && (kind == CB_GGUF_QUERY || kind == CB_GGUF_KEY);
}

static bool check_heads(const cb_gguf_weights *w, const gguf_tensor *t)
{
    int64_t rows = (t->kind == CB_GGUF_QUERY ? w->heads : w->kv_heads) * w->head_dim;
    return t->stored->shape[0] == rows ||
           cb_fail(CB_ERR_FORMAT, "%s: tensor %s: found %lld rows, expected %lld from the numbers of heads", cb_gguf_path(w->file),
                   t->stored->name, (long long)t->stored->shape[0], (long long)rows) == CB_OK;
}

/* Before it is known that a matrix must be transposed nothing is allocated for it. */
static void transposed_entry(gguf_tensor *t)
{
    cb_weight_entry *e = &t->entry;
    e->shape[0] = t->stored->shape[1];
    e->shape[1] = t->stored->shape[0];
    if (e->dtype == CB_F32 || e->dtype == CB_F16 || e->dtype == CB_BF16 || e->dtype == CB_DTYPE_COUNT)
        return;
    e->dtype = CB_F32;
    e->type_name = "F32";
    e->size = (size_t)(e->shape[0] * e->shape[1]) * sizeof(float);
}

static bool add_tensor(cb_gguf_weights *w, const cb_weight_entry *stored)
{
    if (cb_gguf_names_factors(stored->name)) /* part of the config */
        return true;
    int kind = 0;
    char *name = cb_gguf_name_to_hf(w->architecture, stored->name, &kind);
    if (!name)
        return cb_ok() && cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found a name that %s models of this build do not have",
                                  cb_gguf_path(w->file), stored->name, w->architecture->model_type) == CB_OK;
    if (!cb_grow(&w->tensors, &w->capacity, w->count + 1, sizeof *w->tensors)) {
        cb_free(name);
        return false;
    }
    gguf_tensor *t = &w->tensors[w->count++];
    *t = (gguf_tensor){.entry = *stored, .stored = stored, .kind = kind};
    t->entry.name = name;
    if (is_rotary(w, kind)) {
        t->entry.data = NULL;
        return stored->ndim >= 1 && check_heads(w, t);
    }
    if (kind == CB_GGUF_CONV1D && stored->ndim == 2) {
        t->entry.data = NULL;
        transposed_entry(t);
    }
    return true;
}

static bool read_heads(cb_gguf_weights *w)
{
    json_t *config = cb_gguf_config(w->file);
    if (!config)
        return false;
    w->heads = json_integer_value(json_object_get(config, w->architecture->heads));
    w->kv_heads = json_integer_value(json_object_get(config, w->architecture->kv_heads));
    w->head_dim = json_integer_value(json_object_get(config, "head_dim"));
    json_decref(config);
    const int64_t most = 1 << 20;
    return !w->architecture->permuted ||
           (w->heads > 0 && w->heads < most && w->kv_heads > 0 && w->kv_heads < most && w->head_dim > 0 && w->head_dim < most &&
            w->head_dim % 2 == 0) ||
           cb_fail(CB_ERR_FORMAT, "%s: found %lld heads, %lld key heads and head size %lld, expected positive numbers and an even size",
                   cb_gguf_path(w->file), (long long)w->heads, (long long)w->kv_heads, (long long)w->head_dim) == CB_OK;
}

cb_gguf_weights *cb_gguf_weights_open(const char *path)
{
    cb_gguf_weights *w = cb_calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->file = cb_gguf_open(path);
    w->architecture = w->file ? cb_gguf_file_architecture(w->file) : NULL;
    bool ok = w->architecture && read_heads(w);
    for (size_t i = 0; ok && i < cb_gguf_count(w->file); i++)
        ok = add_tensor(w, cb_gguf_at(w->file, i));
    if (ok)
        return w;
    cb_gguf_weights_close(w);
    return NULL;
}

void cb_gguf_weights_close(cb_gguf_weights *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->count; i++) {
        cb_free((void *)(uintptr_t)w->tensors[i].entry.name);
        cb_free(w->tensors[i].made);
    }
    cb_free(w->tensors);
    cb_gguf_close(w->file);
    cb_free(w);
}

/* ---- data ---- */

static void *turned_rows(const cb_gguf_weights *w, const gguf_tensor *t)
{
    void *rows = cb_alloc(t->stored->size);
    int64_t heads = t->kind == CB_GGUF_QUERY ? w->heads : w->kv_heads;
    if (rows)
        cb_rotary_rows_split(rows, t->stored->data, heads, w->head_dim, t->stored->size / (size_t)t->stored->shape[0]);
    return rows;
}

static void *transposed(const gguf_tensor *t)
{
    const cb_weight_entry *e = t->stored;
    void *out = cb_alloc(t->entry.size);
    cb_scope *scope = out ? cb_scope_open() : NULL;
    bool ok = false;
    if (scope) {
        cb_tensor *matrix = cb_wrap_nd(e->dtype, e->data, 2, e->shape);
        ok = matrix && cb_read(cb_transpose(matrix->dtype == t->entry.dtype ? matrix : cb_cast(matrix, CB_F32), 0, 1), t->entry.dtype, out);
        cb_scope_close(scope);
    }
    if (ok)
        return out;
    cb_free(out);
    return NULL;
}

static const cb_weight_entry *with_data(const cb_gguf_weights *w, gguf_tensor *t)
{
    if (t->entry.data || t->entry.dtype == CB_DTYPE_COUNT)
        return &t->entry;
    t->made = is_rotary(w, t->kind) ? turned_rows(w, t) : transposed(t);
    t->entry.data = t->made;
    return t->made ? &t->entry : NULL;
}

const cb_gguf *cb_gguf_weights_file(const cb_gguf_weights *w)
{
    return w->file;
}

size_t cb_gguf_weights_count(const cb_gguf_weights *w)
{
    return w->count;
}

const cb_weight_entry *cb_gguf_weights_at(cb_gguf_weights *w, size_t index)
{
    return index < w->count ? with_data(w, &w->tensors[index]) : NULL;
}

static int by_place(const void *a_, const void *b_)
{
    const gguf_tensor *a = a_, *b = b_; /* in the file's order, so their entries ascend */
    return a->stored < b->stored ? -1 : a->stored > b->stored;
}

const cb_weight_entry *cb_gguf_weights_find(cb_gguf_weights *w, const char *name)
{
    char *stored = cb_gguf_name_from_hf(w->architecture, name, NULL);
    gguf_tensor wanted = {.stored = stored ? cb_gguf_find(w->file, stored) : NULL}, *found = NULL;
    if (wanted.stored && w->count)
        found = bsearch(&wanted, w->tensors, w->count, sizeof wanted, by_place);
    cb_free(stored);
    return found ? with_data(w, found) : NULL;
}
