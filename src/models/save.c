/* save.c: a model as a directory that transformers reads: its weights, then its config.
 *
 * Weights are converted one at a time while they are written, so saving needs the memory of the largest of them.  A
 * config that does not fit the new weights is removed before them: a crash leaves a directory that is no model, never
 * a mismatched pair. */
#include <string.h>

#include "models/internal.h"
#include "models/labels.h"

#define CONFIG_NAME "config.json"

/* What is written: the weights that layers have of their own, so those that are shared come once. */
typedef struct weight_list {
    cb_dtype dtype;
    cb_weight_entry *entries; /* names are made here */
    const cb_tensor **tensors;
    size_t count, entry_capacity, tensor_capacity;
    void *buffer; /* the one that is being written, converted */
    size_t buffer_size;
} weight_list;

static bool add_tensor(weight_list *list, const cb_layer *layer, const char *weight, const cb_tensor *t, cb_dtype dtype)
{
    if (!cb_grow(&list->entries, &list->entry_capacity, list->count + 1, sizeof *list->entries) ||
        !cb_grow(&list->tensors, &list->tensor_capacity, list->count + 1, sizeof *list->tensors))
        return false;
    char *name = cb_layer_weight_name(layer, weight);
    if (!name)
        return false;
    cb_weight_entry *e = &list->entries[list->count];
    *e = (cb_weight_entry){.name = name, .dtype = dtype, .ndim = t->ndim, .size = (size_t)t->count * cb_dtype_size(dtype)};
    memcpy(e->shape, t->shape, sizeof e->shape);
    list->tensors[list->count++] = t;
    if (e->size > list->buffer_size)
        list->buffer_size = e->size;
    return true;
}

static bool add_layer(void *user, cb_layer *layer)
{
    weight_list *list = user;
    for (int i = 0; i < layer->weight_count; i++)
        if (!add_tensor(list, layer, layer->weights[i].name, layer->weights[i].tensor, list->dtype))
            return false;
    for (int i = 0; i < layer->buffer_count; i++) {
        const cb_buffer *b = &layer->buffers[i];
        if (!add_tensor(list, layer, b->name, b->tensor, b->tensor->ndim ? CB_F32 : CB_I64)) /* a count is a whole number in files */
            return false;
    }
    return true;
}

static const void *provide(void *user, size_t index)
{
    weight_list *list = user;
    const cb_tensor *t = list->tensors[index];
    cb_dtype dtype = list->entries[index].dtype;
    if (t->dtype == dtype && cb_is_contiguous(t))
        return t->data;
    return cb_read(t, dtype, list->buffer) ? list->buffer : NULL;
}

static bool write_weights(const cb_model *model, const char *directory, cb_dtype dtype)
{
    weight_list list = {.dtype = dtype};
    const char *stem = model->architecture->diffusers ? CB_WEIGHTS_OF_DIFFUSERS : CB_WEIGHTS_OF_MODEL;
    bool ok = cb_layer_visit(model->root, add_layer, &list) && (list.buffer = cb_alloc(list.buffer_size)) &&
              cb_weights_write_as(directory, stem, list.entries, list.count, 0, provide, &list);
    for (size_t i = 0; i < list.count; i++)
        cb_free((void *)(uintptr_t)list.entries[i].name);
    cb_free(list.entries);
    cb_free(list.tensors);
    cb_free(list.buffer);
    return ok;
}

/* ---- config.json ---- */

static const char *torch_name(cb_dtype dtype)
{
    return dtype == CB_F32 ? "float32" : dtype == CB_BF16 ? "bfloat16" : "float16";
}

/* The config as read, with what saving decides.  transformers 5 says dtype, 4 says torch_dtype: the names that are there
 * are kept. */
static json_t *new_config(const cb_model *model, cb_dtype dtype)
{
    bool untied = model->config.tied && !model->labels && model->head && cb_layer_own_weight(model->head, "weight");
    const char *name = torch_name(dtype);
    json_t *json = cb_json_copy(model->json);
    if (model->architecture->diffusers) /* whose configurations know none of these */
        return json;
    bool old = json_object_get(json, "torch_dtype"), ok = json;
    ok = ok && cb_json_put(json, "architectures", cb_model_architectures(model));
    ok = ok && (!old || cb_json_put(json, "torch_dtype", json_string(name)));
    if (ok && (!old || json_object_get(json, "dtype")))
        ok = cb_json_put(json, "dtype", json_string(name));
    if (ok && untied)
        ok = cb_json_put(json, "tie_word_embeddings", json_false());
    if (ok)
        return json;
    json_decref(json);
    cb_fail(CB_ERR_MEMORY, "no memory for a model's config");
    return NULL;
}

/* Removes the config of a directory unless it says the same as the new one. */
static bool remove_other(const char *path, const json_t *config)
{
    if (!cb_is_file(path))
        return true;
    json_t *there = json_load_file(path, 0, NULL);
    bool same = json_equal(there, config);
    json_decref(there);
    return same || cb_file_remove(path);
}

bool cb_model_save(const cb_model *model, const char *directory, cb_dtype dtype)
{
    if (!model || !cb_ok())
        return false;
    if (dtype != CB_F32 && dtype != CB_BF16 && dtype != CB_F16)
        return cb_fail(CB_ERR_ARGUMENT, "%s: weights as %s, expected f32, bf16 or f16", directory, cb_dtype_name(dtype)) == CB_OK;
    char *path = cb_path_join(directory, CONFIG_NAME);
    json_t *config = path ? new_config(model, dtype) : NULL;
    bool ok = config && cb_directory_make(directory) && remove_other(path, config) && write_weights(model, directory, dtype) &&
              cb_json_save(path, config, false);
    json_decref(config);
    cb_free(path);
    return ok;
}
