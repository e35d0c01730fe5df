/* model_parts.c: opening a model directory or GGUF file for conversion, and writing a directory. */
#include "formats/model_parts.h"

#include <string.h>

#include "formats/gguf_model.h"
#include "formats/tokenizer_readers.h"

/* ---- opening ---- */

static bool read_beside(const char *directory, const char *name, bool required, json_t **out)
{
    char *path = cb_path_join(directory, name);
    bool there = path && (required || cb_is_file(path));
    if (there)
        *out = cb_json_load(path, 0);
    cb_free(path);
    if (*out && !json_is_object(*out))
        return cb_fail(CB_ERR_FORMAT, "%s/%s: found no JSON object", directory, name) == CB_OK;
    return path && (!there || *out);
}

/* tokenizer.json, or what the tokenizer's other files are turned into; special tokens that only special_tokens_map.json names go into the
 * config. */
static bool read_tokenizer(cb_model_parts *parts, const char *path)
{
    json_t *specials = NULL;
    bool ok = read_beside(path, "tokenizer.json", false, &parts->tokenizer) &&
              read_beside(path, "tokenizer_config.json", false, &parts->tokenizer_config) &&
              read_beside(path, "special_tokens_map.json", false, &specials);
    if (ok && !parts->tokenizer && cb_tokenizer_json_finds(path))
        ok = (parts->tokenizer = cb_tokenizer_json_of_path(path, parts->tokenizer_config, specials)) != NULL;
    if (ok && specials && !parts->tokenizer_config)
        parts->tokenizer_config = json_incref(specials);
    else if (ok && specials)
        ok = json_object_update_missing(parts->tokenizer_config, specials) == 0;
    json_decref(specials);
    return ok;
}

static bool open_directory(cb_model_parts *parts, const char *path)
{
    char *template = cb_path_join(path, "chat_template.jinja");
    bool ok = template && read_beside(path, "config.json", true, &parts->config) &&
              read_beside(path, "generation_config.json", false, &parts->generation_config) && read_tokenizer(parts, path);
    if (ok && cb_is_file(template))
        ok = (parts->chat_template = cb_file_read(template, (size_t)16 << 20, NULL)) != NULL;
    cb_free(template);
    return ok;
}

static bool open_gguf(cb_model_parts *parts, const char *path)
{
    cb_gguf *file = cb_gguf_open(path);
    bool ok = file && (parts->config = cb_gguf_config(file));
    if (ok && cb_gguf_value_find(file, "tokenizer.ggml.tokens"))
        ok = (parts->tokenizer = cb_gguf_tokenizer(file)) && (parts->tokenizer_config = cb_gguf_tokenizer_config(file));
    cb_gguf_close(file);
    return ok;
}

bool cb_model_parts_open(cb_model_parts *parts, const char *path)
{
    *parts = (cb_model_parts){.path = cb_strdup(path)};
    bool ok = parts->path && (cb_is_gguf(path) ? open_gguf(parts, path) : open_directory(parts, path)) &&
              (parts->weights = cb_weights_open(path));
    if (!ok)
        cb_model_parts_close(parts);
    return ok;
}

void cb_model_parts_close(cb_model_parts *parts)
{
    cb_weights_close(parts->weights);
    json_decref(parts->config);
    json_decref(parts->generation_config);
    json_decref(parts->tokenizer);
    json_decref(parts->tokenizer_config);
    cb_free(parts->chat_template);
    cb_free(parts->path);
    *parts = (cb_model_parts){0};
}

/* ---- values ---- */

static bool check_f16(const cb_weight_entry *e, const uint16_t *values, size_t count)
{
    enum { EXPONENT = 0x7c00 };
    for (size_t i = 0; i < count; i++)
        if ((values[i] & EXPONENT) == EXPONENT)
            return cb_fail(CB_ERR_NUMERIC, "%s: element %zu is no number that f16 can hold: choose another dtype", e->name, i) == CB_OK;
    return true;
}

bool cb_entry_read(const cb_weight_entry *e, cb_dtype dtype, void *out)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    size_t unit = cb_dtype_size(e->dtype);
    bool aligned = !unit || (uintptr_t)e->data % unit == 0;
    cb_tensor *t = aligned ? cb_wrap_nd(e->dtype, e->data, e->ndim, e->shape) : cb_from_nd(e->dtype, e->data, e->ndim, e->shape);
    bool ok = t && cb_read(t, dtype, out);
    int64_t count = t ? t->count : 0;
    cb_scope_close(scope);
    return ok && (dtype != CB_F16 || e->dtype == CB_F16 || cb_rehearsing() || check_f16(e, out, (size_t)count));
}

/* ---- a directory ---- */

typedef struct directory_writing {
    const cb_model_parts *parts;
    cb_weight_entry *entries;
    void *buffer;
    size_t capacity;
} directory_writing;

static bool is_float(cb_dtype dtype)
{
    return dtype == CB_F32 || dtype == CB_F16 || dtype == CB_BF16;
}

static const void *provide(void *user, size_t index)
{
    directory_writing *w = user;
    const cb_weight_entry *from = cb_weights_at(w->parts->weights, index), *to = &w->entries[index];
    if (!from || cb_interrupted()) {
        cb_fail(CB_ERR_INTERRUPTED, "interrupted while writing %s", to->name);
        return NULL;
    }
    if (from->dtype == to->dtype)
        return from->data;
    return cb_grow(&w->buffer, &w->capacity, to->size, 1) && cb_entry_read(from, to->dtype, w->buffer) ? w->buffer : NULL;
}

/* keep: quantised tensors become f16, others stay. */
static bool list_entries(directory_writing *w, cb_dtype dtype, bool keep)
{
    size_t count = cb_weights_count(w->parts->weights);
    w->entries = cb_calloc(count, sizeof *w->entries);
    for (size_t i = 0; w->entries && i < count; i++) {
        const cb_weight_entry *from = cb_weights_at(w->parts->weights, i);
        cb_weight_entry *to = &w->entries[i];
        if (!from)
            return false;
        *to = *from;
        if (from->dtype == CB_DTYPE_COUNT)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %s: found type %s, which this build cannot turn into numbers", w->parts->path,
                           from->name, from->type_name) == CB_OK;
        to->dtype = !keep ? dtype : is_float(from->dtype) ? from->dtype : CB_F16;
        to->type_name = NULL;
        to->size = cb_dtype_size(to->dtype);
        for (int d = 0; d < to->ndim; d++)
            to->size *= (size_t)to->shape[d];
    }
    return w->entries != NULL;
}

static bool save(const char *directory, const char *name, const json_t *value, bool sort)
{
    char *path = value ? cb_path_join(directory, name) : NULL;
    bool ok = !value || (path && cb_json_save(path, value, sort));
    cb_free(path);
    return ok;
}

static bool save_template(const cb_model_parts *parts, const char *directory)
{
    char *path = parts->chat_template ? cb_path_join(directory, "chat_template.jinja") : NULL;
    bool ok = !parts->chat_template || (path && cb_file_write(path, parts->chat_template, strlen(parts->chat_template)));
    cb_free(path);
    return ok;
}

/* transformers 5 says dtype, 4 says torch_dtype. */
static json_t *config_with_dtype(const json_t *config, cb_dtype dtype)
{
    const char *name = dtype == CB_F32 ? "float32" : dtype == CB_BF16 ? "bfloat16" : "float16";
    json_t *copy = cb_json_copy(config);
    bool ok = copy && cb_json_put(copy, json_object_get(copy, "torch_dtype") ? "torch_dtype" : "dtype", json_string(name));
    if (ok)
        return copy;
    json_decref(copy);
    return NULL;
}

bool cb_model_unpack(const char *model, const char *directory, const char *dtype_name)
{
    cb_model_parts parts;
    cb_dtype dtype = CB_F32;
    bool keep = strcmp(dtype_name, "keep") == 0;
    if (!keep && (!cb_dtype_from_name(dtype_name, &dtype) || !is_float(dtype)))
        return cb_fail(CB_ERR_ARGUMENT, "dtype: found \"%.50s\", a model directory holds keep, f32, bf16 or f16", dtype_name) == CB_OK;
    if (!cb_model_parts_open(&parts, model))
        return false;
    directory_writing w = {.parts = &parts};
    bool ok = list_entries(&w, dtype, keep);
    size_t count = cb_weights_count(parts.weights);
    json_t *config = ok && count ? config_with_dtype(parts.config, keep ? w.entries[0].dtype : dtype) : NULL;
    /* the config comes last: until it is there nobody takes the directory for a model */
    ok = config && cb_directory_make(directory) && cb_weights_write(directory, w.entries, count, 0, provide, &w) &&
         save(directory, "tokenizer.json", parts.tokenizer, false) &&
         save(directory, "tokenizer_config.json", parts.tokenizer_config, true) &&
         save(directory, "generation_config.json", parts.generation_config, true) && save_template(&parts, directory) &&
         save(directory, "config.json", config, true);
    json_decref(config);
    cb_free(w.entries);
    cb_free(w.buffer);
    cb_model_parts_close(&parts);
    return ok;
}
