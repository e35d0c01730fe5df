/* peft.c: a PEFT adapter directory: adapter_config.json and adapter_model.safetensors, or adapter_model.bin where it is older.
 *
 * Reading refuses whatever would be dropped: the file's tensors and the adapter's parameters must be the same set, with the same shapes, and
 * shapes are compared before anything is allocated, so a file cannot ask for more memory than it brings along.  Values that the file has in
 * the dtype they are kept in stay where the map shows them, so loading takes no longer for more of them; training writes to pages of its own.
 * Writing replaces each file atomically, weights first.  A config that does not fit the new weights is removed before them: a crash leaves
 * a directory without config, which nobody takes for an adapter, never a mismatched pair.  So is the blend.json of a composition that was
 * there, which would hide the adapter. */
#include <stdlib.h>
#include <string.h>

#include "adapters/tied.h"
#include "adapters/tokens.h"
#include "formats/safetensors.h"

#define CONFIG_NAME  "adapter_config.json"
#define WEIGHTS_NAME "adapter_model.safetensors"
#define PICKLE_NAME  "adapter_model.bin"
#define CONFIG_LIMIT (16u << 20)

/* ---- reading ---- */

/* The file's tensor for an entry.  Before PEFT wrapped layers, their biases were saved without ".base_layer". */
static const cb_weight_entry *find_entry(const cb_weights *file, const cb_adapter_entry *entry)
{
    const cb_weight_entry *found = cb_weights_find(file, entry->name);
    const char *wrap = strstr(entry->name, ".base_layer.bias");
    if (found || !wrap || entry->suffix)
        return found;
    char *old = cb_format("%.*s.bias", (int)(wrap - entry->name), entry->name);
    found = old ? cb_weights_find(file, old) : NULL;
    cb_free(old);
    return found;
}

/* Config and file may go by different names of a layer. */
static const cb_weight_entry *find_renamed(const cb_adapter *adapter, const cb_weights *file, const cb_adapter_entry *entry)
{
    const cb_layer *layer = entry->module ? entry->module->layer : entry->suffix ? NULL : adapter->trained[entry->trained].layer;
    const char *used = layer ? cb_filed_name(adapter, layer) : "";
    size_t length = strlen(CB_PEFT_PREFIX) + strlen(used);
    if (!layer || !layer->module_name || strlen(entry->name) <= length || entry->name[length] != '.')
        return NULL;
    cb_adapter_entry other = *entry;
    other.name = cb_format(CB_PEFT_PREFIX "%s%s", used == layer->name ? layer->module_name : layer->name, entry->name + length);
    const cb_weight_entry *found = other.name ? find_entry(file, &other) : NULL;
    cb_free(other.name);
    return found;
}

static bool is_i16(const char *type)
{
    return type && strcmp(type, "I16") == 0;
}

static bool check_entry(const char *path, const cb_adapter_entry *entry, const cb_weight_entry *found)
{
    if (!found)
        return cb_fail(CB_ERR_FORMAT, "%s: %s is missing", path, entry->name) == CB_OK;
    if (!cb_weight_entry_fits(found, entry->ndim, entry->shape))
        return cb_fail(CB_ERR_SHAPE, "%s: %s: found shape %s, expected %s", path, entry->name, cb_shape_text_nd(found->ndim, found->shape),
                       cb_shape_text_nd(entry->ndim, entry->shape)) == CB_OK;
    bool whole = found->dtype == CB_I32 || found->dtype == CB_I64 || found->dtype == CB_U8 || found->dtype == CB_F32;
    if (entry->dtype == CB_I32 && !whole && !is_i16(found->type_name))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found %s, expected I32, I64, I16, U8 or F32", path, entry->name, found->type_name) ==
               CB_OK;
    if (entry->dtype != CB_I32 && found->dtype != CB_F32 && found->dtype != CB_BF16 && found->dtype != CB_F16)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found %s, expected f32, bf16 or f16", path, entry->name, cb_dtype_name(found->dtype)) ==
               CB_OK;
    return true;
}

static int by_address(const void *a_, const void *b_)
{
    uintptr_t a = (uintptr_t) * (const cb_weight_entry *const *)a_, b = (uintptr_t) * (const cb_weight_entry *const *)b_;
    return (a > b) - (a < b);
}

static bool same_bytes(cb_tensor *a, cb_tensor *b)
{
    b = a ? cb_cast(b, a->dtype) : NULL;
    return b && memcmp(a->data, b->data, (size_t)a->count * cb_dtype_size(a->dtype)) == 0;
}

/* A frozen weight that is saved as well must be the model's, as the file or as the model rounds it. */
static bool check_base_weight(const char *path, const cb_layer *layer, const char *name, const cb_weight_entry *tensor)
{
    cb_tensor *weight = cb_layer_weight(layer, name);
    cb_adapter_entry entry = {.name = (char *)(uintptr_t)tensor->name, .ndim = weight->ndim};
    memcpy(entry.shape, weight->shape, sizeof(entry.shape));
    cb_scope *scope = check_entry(path, &entry, tensor) ? cb_scope_open() : NULL;
    if (!scope)
        return false;
    bool same = false;
    cb_no_grad
    {
        cb_tensor *saved = cb_from_nd(tensor->dtype, tensor->data, entry.ndim, entry.shape);
        weight = cb_contiguous(weight);
        same = same_bytes(saved, weight) || same_bytes(weight, saved);
    }
    cb_scope_close(scope);
    if (!same)
        cb_fail(CB_ERR_FORMAT, "%s: %s: found other values than in the given model, which cannot be the adapter's base", path,
                tensor->name);
    return same;
}

/* The layer we adapt whose own weight a tensor of the file is; NULL: none. */
static const cb_layer *layer_of_base_weight(const cb_adapter *adapter, const char *name)
{
    size_t prefix = strlen(CB_PEFT_PREFIX);
    if (strncmp(name, CB_PEFT_PREFIX, prefix) != 0)
        return NULL;
    for (size_t i = 0; i < adapter->module_count; i++) {
        const cb_layer *layer = adapter->modules[i]->layer;
        const char *filed = cb_filed_name(adapter, layer);
        size_t length = strlen(filed);
        if (strncmp(name + prefix, filed, length) == 0 && strcmp(name + prefix + length, ".base_layer.weight") == 0)
            return layer;
    }
    return NULL;
}

static bool check_twin(const char *path, const cb_weights *file, const cb_weight_entry *tensor, const char *name)
{
    const cb_weight_entry *twin = cb_weights_find(file, name);
    if (twin && twin->dtype == tensor->dtype && twin->size == tensor->size && memcmp(twin->data, tensor->data, tensor->size) == 0)
        return true;
    return cb_fail(CB_ERR_FORMAT, "%s: %s: expected the values of %s", path, tensor->name, name) == CB_OK;
}

/* With bias "all" PEFT saves the biases of layers in modules_to_save twice more: the trained one as X.modules_to_save.bias, and the frozen one
 * as X.original_module.bias.  *other: the tensor is neither. */
static bool check_saved_again(const cb_adapter *adapter, const char *path, const cb_weights *file, const cb_weight_entry *tensor,
                              bool *other)
{
    static const char *const wraps[] = {".modules_to_save.", ".original_module."};
    size_t prefix = strlen(CB_PEFT_PREFIX);
    *other = true;
    for (int i = 0; i < 2; i++) {
        const char *wrap = strncmp(tensor->name, CB_PEFT_PREFIX, prefix) == 0 ? strstr(tensor->name + prefix, wraps[i]) : NULL;
        if (!wrap)
            continue;
        char *name = cb_format("%.*s.%s", (int)(wrap - tensor->name), tensor->name, wrap + strlen(wraps[i]));
        char *last = name ? strrchr(name, '.') : NULL;
        if (!last)
            return false;
        *last = '\0';
        const cb_layer *layer = last > name + prefix ? cb_layer_find(adapter->root, name + prefix) : NULL;
        *last = '.';
        *other = !layer || !cb_layer_own_weight(layer, last + 1);
        bool ok = *other || (i == 0 ? check_twin(path, file, tensor, name) : check_base_weight(path, layer, last + 1, tensor));
        cb_free(name);
        return ok;
    }
    return true;
}

/* A tensor of the file that is no parameter of the adapter. */
static bool check_other(const cb_adapter *adapter, const char *path, const cb_weights *file, const cb_weight_entry *tensor)
{
    const cb_layer *layer = layer_of_base_weight(adapter, tensor->name);
    if (layer) /* of an adapted head */
        return check_base_weight(path, layer, "weight", tensor);
    bool other;
    if (!check_saved_again(adapter, path, file, tensor, &other) || !other)
        return !other && cb_ok();
    return cb_fail(CB_ERR_FORMAT, "%s: %.300s has no place in this %s adapter of the given model (%zu tensors expected, %zu found)", path,
                   tensor->name, adapter->kind->name, adapter->entry_count, cb_weights_count(file)) == CB_OK;
}

/* What the file holds beside the tensors that were found; *twice: one of those was found for two parameters. */
static bool check_others(const cb_adapter *adapter, const char *path, const cb_weights *file, const cb_file_names *names,
                         const cb_weight_entry *const *found, bool *twice)
{
    size_t count = adapter->entry_count;
    const cb_weight_entry **sorted = cb_alloc((count + 1) * sizeof *sorted);
    bool ok = sorted;
    if (ok) {
        memcpy(sorted, found, count * sizeof *sorted);
        qsort(sorted, count, sizeof *sorted, by_address);
    }
    for (size_t i = 1; ok && i < count; i++)
        *twice |= sorted[i] && sorted[i] == sorted[i - 1];
    for (size_t i = 0; ok && i < cb_weights_count(file); i++) {
        const cb_weight_entry *tensor = cb_weights_at(file, i);
        if (!bsearch(&tensor, sorted, count, sizeof *sorted, by_address) && !(names && names->knows(names, file, tensor)))
            ok = check_other(adapter, path, file, tensor);
    }
    cb_free(sorted);
    return ok;
}

/* Fills found[] with the file's tensors in the order of the entries. */
static bool match_file(const cb_adapter *adapter, const char *path, const cb_weights *file, const cb_file_names *names,
                       const cb_weight_entry **found, bool *twice)
{
    for (size_t i = 0; i < adapter->entry_count; i++) {
        if (!adapter->entries[i].filed)
            continue;
        const cb_adapter_entry *entry = &adapter->entries[i];
        found[i] = names ? names->find(names, adapter, file, entry) : find_entry(file, entry);
        if (!found[i] && !names && cb_ok())
            found[i] = find_renamed(adapter, file, entry);
        if (!found[i] && !cb_ok())
            return false;
        if (!check_entry(path, &adapter->entries[i], found[i]))
            return false;
    }
    return check_others(adapter, path, file, names, found, twice);
}

static cb_tensor *entry_value(const cb_adapter_entry *entry, const cb_weight_entry *found)
{
    if (found->dtype != CB_DTYPE_COUNT)
        return cb_reshape_nd(cb_weight_entry_tensor(found), entry->ndim, entry->shape);
    cb_tensor *t = cb_full_nd(CB_I32, 0, entry->ndim, entry->shape);
    for (int64_t i = 0; t && i < t->count; i++) {
        int16_t value;
        memcpy(&value, (const char *)found->data + 2 * i, sizeof value);
        ((int32_t *)t->data)[i] = value;
    }
    return t;
}

static bool read_values(const cb_adapter *adapter, const cb_weight_entry *const *found)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope != NULL;
    for (size_t i = 0; ok && i < adapter->entry_count; i++) {
        const cb_adapter_entry *entry = &adapter->entries[i];
        cb_tensor *t = cb_adapter_entry_tensor(adapter, entry);
        if (!found[i] || entry->role == CB_ROLE_ECHO || (t && t->data == found[i]->data))
            continue;
        cb_tensor *value = entry_value(entry, found[i]);
        ok = value && cb_copy_into(t, value);
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* Where the vocabulary was resized PEFT also saves whole embeddings and heads, unasked: they count as modules_to_save, but for a head that
 * stays tied. */
static bool add_saved_embeddings(cb_adapter *adapter, cb_layer *root, const cb_weights *file)
{
    const cb_layer *tied = cb_tied_head(adapter, root);
    size_t prefix = strlen(CB_PEFT_PREFIX), suffix = strlen(".weight");
    for (size_t i = 0; i < cb_weights_count(file); i++) {
        const char *key = cb_weights_at(file, i)->name;
        size_t length = strlen(key);
        if (length <= prefix + suffix || strncmp(key, CB_PEFT_PREFIX, prefix) != 0 || !cb_ends_with(key, ".weight"))
            continue;
        char *name = cb_strndup(key + prefix, length - prefix - suffix);
        const cb_layer *layer = name ? cb_layer_find(root, name) : NULL;
        bool whole = layer && layer != tied && (layer->kind == CB_LAYER_EMBEDDING || layer->output);
        for (size_t k = 0; whole && k < adapter->target.modules_to_save.count; k++)
            whole = !cb_ends_with(name, adapter->target.modules_to_save.items[k]);
        bool ok = name && (!whole || cb_string_list_add(&adapter->target.modules_to_save, name));
        cb_free(name);
        if (!ok)
            return false;
    }
    return true;
}

bool cb_adapter_load_weights(cb_adapter *adapter, const char *path, cb_layer *root, const char *model_type, const cb_file_names *names)
{
    cb_weights *file = cb_weights_open_file(path);
    if (!file)
        return false;
    bool ok = add_saved_embeddings(adapter, root, file) && cb_adapter_plan(adapter, root, model_type, false);
    const cb_weight_entry **found = ok ? cb_calloc(adapter->entry_count, sizeof *found) : NULL;
    cb_held_map *held = NULL;
    bool twice = false;
    ok = found && match_file(adapter, path, file, names, found, &twice) && (twice || cb_weights_hold(file, &held)) &&
         cb_adapter_allocate(adapter, found, held) && read_values(adapter, found) && (!names || names->settle(names, adapter, file)) &&
         cb_adapter_connect(adapter, false);
    cb_held_map_release(held);
    cb_free(found);
    cb_weights_close(file);
    return ok;
}

static bool has_required(const cb_adapter_kind *kind, const char *path, const json_t *config)
{
    const char *field = kind->peft_required;
    return !field || json_object_get(config, field) ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: %s is missing: found a file of an older PEFT, whose %s means something else", path, field,
                   kind->peft_type) == CB_OK;
}

static cb_adapter *adapter_from_config(const char *path, const char *name)
{
    json_t *config = cb_json_load(path, CONFIG_LIMIT);
    if (!config)
        return NULL;
    const char *type = cb_json_string(path, config, "peft_type", NULL);
    cb_adapter *adapter = NULL;
    if (!type)
        cb_fail(CB_ERR_FORMAT, "%s: peft_type is missing", path);
    else if ((adapter = cb_adapter_new(type, name)) &&
             !(has_required(adapter->kind, path, config) && cb_adapter_from_json(adapter, path, config))) {
        cb_adapter_free(adapter);
        adapter = NULL;
    }
    json_decref(config);
    return adapter;
}

char *cb_peft_weights_path(const char *directory)
{
    static const char *const names[] = {WEIGHTS_NAME, PICKLE_NAME};
    for (int i = 0; i < 2; i++) {
        char *path = cb_path_join(directory, names[i]);
        if (!path || cb_is_file(path))
            return path;
        cb_free(path);
    }
    cb_fail(CB_ERR_IO, "found neither " WEIGHTS_NAME " nor " PICKLE_NAME);
    return NULL;
}

cb_adapter *cb_adapter_load(const char *directory, cb_layer *root, const char *model_type)
{
    const char *format = cb_adapter_format(directory);
    if (format && strcmp(format, "peft") != 0)
        return cb_adapter_load_foreign(directory, root, model_type);
    char *config = cb_path_join(directory, CONFIG_NAME), *weights = NULL;
    cb_adapter *adapter = config ? adapter_from_config(config, cb_path_base(directory)) : NULL;
    if (adapter && !((weights = cb_peft_weights_path(directory)) && cb_adapter_load_weights(adapter, weights, root, model_type, NULL))) {
        cb_error_prefix("%s", directory);
        cb_adapter_free(adapter);
        adapter = NULL;
    }
    cb_free(config);
    cb_free(weights);
    return adapter;
}

/* ---- writing ---- */

/* Removes the config of a directory unless it is the very text to be written. */
static bool remove_other(const char *path, const char *text, size_t length)
{
    if (!cb_is_file(path))
        return true;
    cb_file_map there;
    if (!cb_file_map_open(&there, path))
        return false;
    bool same = there.size == length && memcmp(there.data, text, length) == 0;
    cb_file_map_close(&there);
    return same || cb_file_remove(path);
}

cb_weight_entry cb_entry_to_write(const char *name, const cb_tensor *t)
{
    cb_weight_entry entry = {
        .name = name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data, .size = (size_t)t->count * cb_dtype_size(t->dtype)};
    memcpy(entry.shape, t->shape, sizeof entry.shape);
    return entry;
}

/* Whole numbers in fewer bits; what they become lives in the innermost scope. */
static bool narrow_entry(const cb_adapter_entry *entry, cb_tensor *t, cb_weight_entry *out)
{
    if (!is_i16(entry->stored_as)) {
        t = cb_cast(t, CB_U8);
        *out = t ? cb_entry_to_write(entry->name, t) : (cb_weight_entry){0};
        return t;
    }
    cb_tensor *halves = cb_zeros(CB_U8, t->count, 2);
    for (int64_t i = 0; halves && i < t->count; i++) {
        int16_t value = (int16_t)((const int32_t *)t->data)[i];
        memcpy((uint8_t *)halves->data + 2 * i, &value, sizeof value);
    }
    if (!halves)
        return false;
    *out = cb_entry_to_write(entry->name, t);
    out->dtype = CB_DTYPE_COUNT;
    out->type_name = entry->stored_as;
    out->data = halves->data;
    out->size = (size_t)t->count * sizeof(int16_t);
    return true;
}

/* The names that PEFT takes for embeddings when it saves (peft/utils/constants.py: EMBEDDING_LAYER_NAMES). */
static bool is_embedding_name(const char *name)
{
    return cb_ends_with(name, "embed_tokens") || cb_ends_with(name, "lm_head");
}

/* Whether the frozen weight of an adapted layer is written (peft/utils/save_and_load.py: save_embedding_layers). */
static bool saves_base_weight(const cb_adapter *adapter, const cb_module *m)
{
    enum { AUTO, ALWAYS, NEVER };
    const cb_target *target = &adapter->target;
    if (!m->kind->delta || cb_adapter_module_of(m)->kind != adapter->kind || !is_embedding_name(m->layer->name) ||
        target->save_embedding_layers == NEVER)
        return false;
    if (target->save_embedding_layers == AUTO && (adapter->companion || adapter->kind == &cb_kind_trainable_tokens))
        return false;
    bool named = target->target_is_pattern && target->target_modules.count && strcmp(target->target_modules.items[0], "all-linear") != 0;
    for (size_t i = 0; i < target->target_modules.count; i++)
        named |= strcmp(target->target_modules.items[i], "embed_tokens") == 0 || strcmp(target->target_modules.items[i], "lm_head") == 0;
    return named || target->save_embedding_layers == ALWAYS;
}

/* Appends them to the list of what is written; names are made for `names`. */
static bool list_base_weights(const cb_adapter *adapter, cb_weight_entry *entries, size_t *count, cb_string_list *names)
{
    for (size_t i = 0; i < adapter->module_count; i++) {
        const cb_module *m = adapter->modules[i];
        if (!saves_base_weight(adapter, m))
            continue;
        char *name = cb_format(CB_PEFT_PREFIX "%s.base_layer.weight", cb_filed_name(adapter, m->layer));
        bool ok = name && cb_string_list_add(names, name);
        cb_free(name);
        cb_tensor *weight = ok ? cb_contiguous(cb_layer_weight(m->layer, "weight")) : NULL;
        if (!weight)
            return false;
        entries[(*count)++] = cb_entry_to_write(names->items[names->count - 1], weight);
    }
    return true;
}

static bool write_weights(const cb_adapter *adapter, const char *path)
{
    cb_weight_entry *entries = cb_calloc(adapter->entry_count + adapter->module_count, sizeof *entries);
    cb_string_list names = {0};
    cb_scope *scope = entries ? cb_scope_open() : NULL;
    bool ok = scope;
    size_t count = 0;
    for (size_t i = 0; ok && i < adapter->entry_count; i++) {
        const cb_adapter_entry *entry = &adapter->entries[i];
        if (!entry->filed)
            continue;
        cb_tensor *t = cb_adapter_entry_stored(adapter, entry);
        ok = t;
        if (ok && entry->stored_as)
            ok = narrow_entry(entry, t, &entries[count++]);
        else if (ok)
            entries[count++] = cb_entry_to_write(entry->name, t);
    }
    ok = ok && list_base_weights(adapter, entries, &count, &names) && cb_safetensors_write(path, entries, count, NULL, NULL, NULL);
    if (scope)
        cb_scope_close(scope);
    cb_string_list_free(&names);
    cb_free(entries);
    return ok;
}

/* As PEFT writes it: two spaces, keys sorted; with a newline at the end. */
static char *config_text(const cb_adapter *adapter, const char *base_model)
{
    json_t *object = cb_adapter_to_json(adapter);
    if (object && (!base_model || cb_json_put(object, "base_model_name_or_path", json_string(base_model)))) {
        char *text = cb_json_dump(object, false), *line = text ? cb_format("%s\n", text) : NULL;
        cb_free(text);
        json_decref(object);
        return line;
    }
    json_decref(object);
    cb_fail(CB_ERR_ARGUMENT, "base_model_name_or_path: not UTF-8, or no memory for the adapter's config");
    return NULL;
}

bool cb_adapter_save(const cb_adapter *adapter, const char *directory, const char *base_model)
{
    if (!adapter || !cb_ok())
        return false;
    if (!adapter->attached)
        return cb_fail(CB_ERR_STATE, "adapter %s is not attached, so there is nothing to save", adapter->name) == CB_OK;
    char *config = cb_path_join(directory, CONFIG_NAME), *weights = cb_path_join(directory, WEIGHTS_NAME);
    char *text = config && weights ? config_text(adapter, base_model) : NULL;
    size_t length = text ? strlen(text) : 0;
    bool ok = text && cb_directory_make(directory) && cb_composition_remove(directory) && remove_other(config, text, length) &&
              write_weights(adapter, weights) && cb_file_write(config, text, length);
    cb_free(config);
    cb_free(weights);
    cb_free(text);
    return ok;
}
