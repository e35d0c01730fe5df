/* fold_write.c: writing what a fold has planned, one tensor in memory at a time. */
#include <string.h>

#include "cambium/files.h"
#include "core/json.h"
#include "merge/fold.h"
#include "models/labels.h"

/* One file being written, and the memory its tensors are made in, one after another. */
typedef struct file_writing {
    const fold_plan *plan;
    const planned_file *file;
    void *buffer;
    size_t capacity;
    cb_quantized_weight *quantized; /* the weight whose parts were asked for last */
    const planned *quantized_for;
    double error;
} file_writing;

/* f16 ends at 65504: what is beyond became infinite. */
bool cb_fold_check_f16(const char *name, const uint16_t *values, size_t count)
{
    enum { EXPONENT = 0x7c00 };
    for (size_t i = 0; i < count; i++)
        if ((values[i] & EXPONENT) == EXPONENT)
            return cb_fail(CB_ERR_NUMERIC, "%s: found a number that is more than f16 can hold; merge with another --dtype", name) == CB_OK;
    return true;
}

/* The value of t's weight, changed, as f32 in the layout that is written; in the innermost scope. */
static cb_tensor *new_value(const fold_plan *plan, const planned *t)
{
    cb_quantized_format format;
    bool quantized = cb_quantized_format_of(plan->base, t->from, &format);
    cb_tensor *value = quantized ? cb_quantized_tensor(plan->base, t->from, t->layer->out_features, t->layer->in_features)
                                 : cb_weight_entry_tensor(t->from);
    if (value && t->change)
        value = cb_change_apply(t->change, value);
    bool turn = t->layer && t->out.ndim == 2 && (t->part >= 0 ? t->layer->transposed : quantized && t->layer->turned);
    cb_no_grad
    {
        if (quantized || turn || t->part >= 0)
            value = cb_cast(value, CB_F32);
        if (turn)
            value = cb_contiguous(value ? cb_transpose(value, 0, 1) : NULL);
    }
    return value;
}

static bool read_new(const fold_plan *plan, const planned *t, void *buffer)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *value = scope ? new_value(plan, t) : NULL;
    bool ok = value && cb_read(value, t->out.dtype, buffer);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* Fills the buffer with the tensor's new value. */
static const void *make_plain(file_writing *w, const planned *t)
{
    if (!cb_grow(&w->buffer, &w->capacity, t->out.size, 1))
        return NULL;
    bool ok = read_new(w->plan, t, w->buffer) &&
              (t->out.dtype != CB_F16 || cb_rehearsing() || cb_fold_check_f16(t->out.name, w->buffer, t->out.size / 2));
    return ok ? w->buffer : NULL;
}

/* Parts are asked for one after another, mostly. */
static const void *make_part(file_writing *w, const planned *t)
{
    const planned *first = t - t->part;
    if (w->quantized_for != first) {
        cb_quantized_free(w->quantized);
        w->quantized = NULL;
        cb_quantized_format format = cb_fold_format(w->plan, t);
        cb_scope *scope = cb_scope_open();
        cb_tensor *value = scope ? new_value(w->plan, t) : NULL;
        if (value)
            w->quantized = cb_quantized_make(&format, value->data, t->layer->out_features, t->layer->in_features);
        if (scope)
            cb_scope_close(scope);
        w->quantized_for = w->quantized ? first : NULL;
    }
    if (!w->quantized) {
        cb_error_prefix("%s", t->out.name);
        return NULL;
    }
    double error = cb_quantized_error(w->quantized);
    w->error = error > w->error ? error : w->error;
    return cb_quantized_part(w->quantized, t->part);
}

static bool emit(void *user, size_t index, cb_writer *out)
{
    file_writing *w = user;
    const planned *t = &w->file->tensors[index];
    if (cb_interrupted())
        return cb_fail(CB_ERR_INTERRUPTED, "interrupted while making %s; nothing is kept", t->out.name) == CB_OK;
    if (w->plan->merged && !t->copied)
        return cb_merged_tensor(w->plan->merged, t->from, t->out.dtype, out);
    const void *bytes = t->copied ? t->from->data : t->part >= 0 ? make_part(w, t) : make_plain(w, t);
    return bytes && cb_writer_values(out, bytes, t->out.size);
}

static bool write_file(const fold_plan *plan, const planned_file *file, double *error)
{
    file_writing w = {.plan = plan, .file = file};
    char *path = cb_path_join(plan->stage, file->name);
    cb_weight_entry *entries = cb_calloc(file->count, sizeof *entries);
    bool ok = path && entries;
    for (size_t i = 0; ok && i < file->count; i++)
        entries[i] = file->tensors[i].out;
    ok = ok && cb_safetensors_stream(path, entries, file->count, NULL, emit, &w);
    *error = w.error > *error ? w.error : *error;
    cb_quantized_free(w.quantized);
    cb_free(w.buffer);
    cb_free(entries);
    cb_free(path);
    return ok;
}

static bool write_index(const fold_plan *plan)
{
    json_t *map = json_object(), *index;
    uint64_t total = 0;
    bool ok = map != NULL;
    for (size_t f = 0; f < plan->file_count; f++)
        for (size_t i = 0; ok && i < plan->files[f].count; i++) {
            total += plan->files[f].tensors[i].out.size;
            ok = cb_json_put(map, plan->files[f].tensors[i].out.name, json_string(plan->files[f].name));
        }
    index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *path = cb_path_join(plan->stage, plan->index);
    ok = ok && index && path && cb_json_save(path, index, false);
    if (!ok)
        cb_fail(CB_ERR_MEMORY, "no memory for %s", plan->index);
    json_decref(index);
    cb_free(path);
    return ok;
}

bool cb_fold_copy_file(const fold_plan *plan, const char *name)
{
    char *from = cb_path_join(plan->input, name), *to = cb_path_join(plan->stage, name);
    char *parent = to ? cb_path_parent(to) : NULL; /* of a sentence encoder's module: a directory below */
    bool ok = from && parent && cb_directory_make(parent) && cb_file_copy(from, to);
    cb_free(parent);
    cb_free(from);
    cb_free(to);
    return ok;
}

/* ---- config.json ---- */

/* What transformers reads to load the weights: bitsandbytes' options, or a compressed-tensors scheme. */
static json_t *quantization_config(const fold_plan *plan)
{
    const cb_merge_options *o = plan->options;
    json_t *skipped = json_array();
    for (size_t i = 0; i < plan->skipped.count; i++)
        cb_json_add(skipped, json_string(plan->skipped.items[i]));
    bool nf4 = o->quantize == CB_QUANTIZE_NF4;
    if (o->quantize == CB_QUANTIZE_INT8_BLOCK)
        return json_pack("{s:s, s:s, s:s, s:{s:{s:s, s:[s], s:{s:i, s:s, s:b, s:s, s:I, s:b}, s:n, s:n}}, s:o, s:n}", "quant_method",
                         "compressed-tensors", "format", "int-quantized", "quantization_status", "compressed", "config_groups", "group_0",
                         "format", "int-quantized", "targets", "Linear", "weights", "num_bits", 8, "type", "int", "symmetric", 1,
                         "strategy", "group", "group_size", (json_int_t)(o->block_size ? o->block_size : 128), "dynamic", 0,
                         "input_activations", "output_activations", "ignore", skipped, "kv_cache_scheme");
    return json_pack("{s:s, s:b, s:b, s:o, s:f, s:b, s:b, s:s, s:s, s:s, s:b}", "quant_method", "bitsandbytes", "load_in_4bit", nf4,
                     "load_in_8bit", !nf4, "llm_int8_skip_modules", skipped, "llm_int8_threshold", 6.0, "llm_int8_has_fp16_weight", 0,
                     "llm_int8_enable_fp32_cpu_offload", 0, "bnb_4bit_compute_dtype", nf4 ? "bfloat16" : "float32", "bnb_4bit_quant_type",
                     nf4 ? "nf4" : "fp4", "bnb_4bit_quant_storage", "uint8", "bnb_4bit_use_double_quant", nf4 && o->double_quant);
}

static bool has_labels(const fold_plan *plan)
{
    return plan->model && cb_model_labels(plan->model);
}

/* What is no longer so is changed. */
static bool change_config(const fold_plan *plan, json_t *config, const char *dtype)
{
    bool quantize = plan->options->quantize != CB_QUANTIZE_NONE, ok = true;
    if (plan->untied)
        ok = cb_json_put(config, "tie_word_embeddings", json_false());
    if (has_labels(plan))
        ok = ok && cb_json_put(config, "architectures", cb_model_architectures(plan->model)) &&
             cb_labels_put(config, cb_model_label_names(plan->model), cb_model_problem(plan->model));
    if (ok && has_labels(plan) && json_object_get(config, "num_labels"))
        ok = cb_json_put(config, "num_labels", json_integer((json_int_t)cb_model_labels(plan->model)));
    if (quantize)
        ok = ok && cb_json_put(config, "quantization_config", cb_json_made(quantization_config(plan)));
    else if (dtype)
        json_object_del(config, "quantization_config");
    /* transformers 5 says dtype, 4 says torch_dtype */
    if (ok && dtype && json_object_get(config, "torch_dtype"))
        ok = cb_json_put(config, "torch_dtype", json_string(dtype));
    if (ok && dtype && (json_object_get(config, "dtype") || !json_object_get(config, "torch_dtype")))
        ok = cb_json_put(config, "dtype", json_string(dtype));
    return ok;
}

static bool write_config(const fold_plan *plan)
{
    static const char *const names[] = {NULL, "float32", "bfloat16", "float16"};
    const char *dtype = names[plan->options->dtype];
    if (!plan->untied && !dtype && !has_labels(plan) && plan->options->quantize == CB_QUANTIZE_NONE)
        return cb_fold_copy_file(plan, "config.json");
    char *from = cb_path_join(plan->input, "config.json"), *to = cb_path_join(plan->stage, "config.json");
    json_t *config = from && to ? cb_json_load(from, 1u << 24) : NULL;
    bool ok = config && change_config(plan, config, dtype) && cb_json_save(to, config, false);
    if (!ok)
        cb_fail(CB_ERR_MEMORY, "no memory for config.json");
    json_decref(config);
    cb_free(from);
    cb_free(to);
    return ok;
}

bool cb_fold_write(const fold_plan *plan, double *error)
{
    for (size_t f = 0; f < plan->file_count; f++)
        if (!write_file(plan, &plan->files[f], error))
            return false;
    for (size_t i = 0; i < plan->others.count; i++)
        if (!cb_fold_copy_file(plan, plan->others.items[i]))
            return false;
    return (!plan->sharded || write_index(plan)) && write_config(plan);
}
