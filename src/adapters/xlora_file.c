/* xlora_file.c: X-LoRA's directories.
 *
 *     PEFT                                              the authors' package (EricLBuehler/xlora)
 *     DIR/adapter_config.json: peft_type XLORA,         DIR/xlora_config.json
 *         adapters {"0": "DIR/a", "1": "DIR/b"}
 *     DIR/adapter_model.safetensors:                    DIR/xlora_classifier.safetensors:
 *         base_model.internal_xlora_classifier.             inner.0.weight, ..., last.weight
 *             layers.0.weight, layers.0.bias, ...
 *
 * Adapters are directories of PEFT's LoRAs: those in DIR are taken before what the config says of where they were.  PEFT 0.21 calls its
 * adapters "0", "1", ... whatever the config does, and finds none under other names; its save_pretrained() leaves out of the file what has
 * one of these between dots in its name, the classifier's first layer with it.  What is written here is what it loads. */
#include <stdlib.h>
#include <string.h>

#include "adapters/xlora.h"
#include "cambium/files.h"

#define CONFIG_NAME  "adapter_config.json"
#define WEIGHTS_NAME "adapter_model.safetensors"
#define PICKLE_NAME  "adapter_model.bin"
#define OWN_NAME     "xlora_classifier.safetensors"
#define PREFIX       "base_model.internal_xlora_classifier."
#define CONFIG_LIMIT (16u << 20)

static bool has(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    bool found = path && cb_is_file(path);
    cb_free(path);
    return found;
}

static json_t *load_json(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    json_t *value = path ? cb_json_load(path, CONFIG_LIMIT) : NULL;
    cb_free(path);
    return value;
}

/* A config that cannot be read is that of no X-LoRA: who reads it next says what is wrong. */
bool cb_xlora_is(const char *directory)
{
    if (has(directory, CB_XLORA_FILE))
        return true;
    char *path = has(directory, CONFIG_NAME) ? cb_path_join(directory, CONFIG_NAME) : NULL;
    size_t length;
    char *text = path ? cb_file_read(path, CONFIG_LIMIT, &length) : NULL;
    json_t *value = text ? json_loadb(text, length, 0, NULL) : NULL;
    const char *type = json_string_value(json_object_get(value, "peft_type"));
    bool is = type && strcmp(type, "XLORA") == 0;
    json_decref(value);
    cb_free(text);
    cb_free(path);
    return is;
}

/* ---- options ---- */

typedef struct reading {
    const char *directory;
    bool own; /* the authors' layout */
    json_t *config;
    cb_xlora_options options;
    cb_weights *file;
    bool biases;  /* the file has them; else they are 0 */
    size_t taken; /* tensors of it */
} reading;

/* Fields that say nothing about what is computed. */
static const char *const aside[] = {
    "adapters",  "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "task_type", "hidden_size",  "use_trainable_adapters",  "base_model_id",  "device",    "use_bias",     "enable_relu_and_dropout",
    NULL};

/* As of other adapters: a later version's, perhaps. */
static void tell_of_unknown(const char *file, json_t *own)
{
    const char *key;
    json_t *value;
    json_object_foreach(own, key, value)
    {
        bool known = false;
        for (const cb_option *o = cb_xlora_option_table; o->name; o++)
            known |= strcmp(o->name, key) == 0;
        if (!known)
            cb_log_message(CB_LOG_WARNING, "%s: field %.100s is not known and ignored", file, key);
    }
}

static bool read_options(reading *r)
{
    const char *name = r->own ? CB_XLORA_FILE : CONFIG_NAME;
    char *file = cb_path_join(r->directory, name);
    json_t *own = r->config ? cb_json_copy(r->config) : NULL;
    for (const char *const *field = aside; own && *field; field++)
        json_object_del(own, *field);
    if (json_is_null(json_object_get(own, "top_k_lora")))
        json_object_del(own, "top_k_lora");
    if (file && own)
        tell_of_unknown(file, own);
    bool ok = file && own && cb_options_init(cb_xlora_option_table, &r->options) &&
              cb_options_from_json(cb_xlora_option_table, &r->options, file, own);
    if (ok && r->own && r->options.xlora_depth > 1 && !cb_json_bool(file, r->config, "enable_relu_and_dropout", false))
        ok = cb_ok() && cb_fail(CB_ERR_UNSUPPORTED, "%s: enable_relu_and_dropout: found false with a depth of %lld, expected true", file,
                                (long long)r->options.xlora_depth) == CB_OK;
    json_decref(own);
    cb_free(file);
    return ok && cb_ok();
}

/* ---- adapters ---- */

/* The last part of a path that may end in slashes; "" where it says nothing. */
static char *last_part(const char *path)
{
    size_t length = strlen(path);
    while (length && path[length - 1] == '/')
        length--;
    char *whole = cb_strndup(path, length), *part = whole ? cb_strdup(cb_path_base(whole)) : NULL;
    cb_free(whole);
    if (part && (strcmp(part, ".") == 0 || strcmp(part, "..") == 0))
        *part = '\0';
    return part;
}

static char *candidate(const reading *r, int which, const char *key, const char *given)
{
    char *last = which == 0 ? last_part(given) : NULL;
    char *first = which == 2 ? cb_path_join(r->directory, "adapters") : NULL, *path = NULL;
    if (which == 0)
        path = last && *last ? cb_path_join(r->directory, last) : NULL;
    else if (which == 1)
        path = cb_path_join(r->directory, key);
    else if (which == 2)
        path = first ? cb_path_join(first, key) : NULL;
    else
        path = cb_strdup(given);
    cb_free(first);
    cb_free(last);
    return path;
}

/* Where an adapter lies: in the directory, by its own name or its key, else where the config says. */
static char *find_adapter(const reading *r, const char *key, const char *given)
{
    bool plain = *key && *key != '.' && !strchr(key, '/');
    for (int which = 0; which < 4; which++) {
        char *path = (which == 1 || which == 2) && !plain ? NULL : candidate(r, which, key, given);
        if (path && has(path, CONFIG_NAME))
            return path;
        cb_free(path);
    }
    cb_fail(CB_ERR_IO, "%s: adapters: %.100s: found no adapter in %.200s, nor in the directory itself", r->directory, key, given);
    return NULL;
}

/* Which of the keys names the i-th adapter: in PEFT's layout it is "i", where all keys are such; the authors' are in order. */
static size_t place_of(const reading *r, const char *const *keys, size_t count, size_t i)
{
    size_t place = i;
    for (size_t number = 0; !r->own && number < count; number++) {
        char text[32];
        size_t at = 0;
        snprintf(text, sizeof text, "%zu", number);
        while (at < count && strcmp(keys[at], text) != 0)
            at++;
        if (at == count)
            return i;
        place = number == i ? at : place;
    }
    return place;
}

static bool load_adapter(cb_composition *c, const reading *r, const char *key, const char *given, cb_layer *root, const char *model_type)
{
    char *path = find_adapter(r, key, given);
    cb_adapter *adapter = path && !cb_is_composition(path) ? cb_adapter_load(path, root, model_type) : NULL;
    if (path && !adapter && cb_ok())
        cb_fail(CB_ERR_FORMAT, "%s: is several adapters, expected one", path);
    cb_free(path);
    if (!adapter)
        return false;
    cb_adapter_set_strength(adapter, 0);
    bool taken = false;
    for (size_t i = 0; i < c->count; i++)
        taken |= strcmp(cb_adapter_name(c->adapters[i]), cb_adapter_name(adapter)) == 0;
    c->weights[c->count] = 1;
    c->adapters[c->count++] = adapter;
    return !taken || cb_adapter_rename(adapter, key);
}

static bool load_adapters(cb_composition *c, const reading *r, cb_layer *root, const char *model_type)
{
    json_t *map = json_object_get(r->config, "adapters");
    size_t count = json_object_size(map), i = 0;
    if (!count || count > 65536)
        return cb_fail(CB_ERR_FORMAT, "%s: adapters: found %zu, expected an object with 1 to 65536", r->directory, count) == CB_OK;
    const char **keys = cb_calloc(count, sizeof *keys), **values = cb_calloc(count, sizeof *values), *key;
    c->adapters = cb_calloc(count, sizeof(cb_adapter *));
    c->weights = cb_calloc(count, sizeof *c->weights);
    bool ok = keys && values && c->adapters && c->weights;
    json_t *value;
    if (ok) {
        json_object_foreach(map, key, value)
        {
            keys[i] = key;
            values[i++] = json_string_value(value);
        }
    }
    for (i = 0; ok && i < count; i++) {
        size_t at = place_of(r, keys, count, i);
        ok = values[at] ? load_adapter(c, r, keys[at], values[at], root, model_type)
                        : cb_fail(CB_ERR_FORMAT, "%s: adapters: %.100s: expected a path", r->directory, keys[at]) == CB_OK;
    }
    cb_free(keys);
    cb_free(values);
    return ok;
}

/* ---- the classifier ---- */

/* The authors' names for the same tensor: those before the last are in a list of their own. */
static char *own_name(const reading *r, const char *name)
{
    int64_t number = strtoll(name + strlen("layers."), NULL, 10), step = r->options.xlora_dropout_p > 0 ? 3 : 2;
    const char *suffix = strrchr(name, '.');
    return number / step == r->options.xlora_depth - 1 ? cb_format("last%s", suffix)
                                                       : cb_format("inner.%lld%s", (long long)(number / step * 3), suffix);
}

static const cb_weight_entry *find_named(const reading *r, const char *name)
{
    static const char *const prefixes[] = {PREFIX, "base_model.model.internal_xlora_classifier.", "internal_xlora_classifier.", ""};
    char *own = own_name(r, name);
    const cb_weight_entry *found = NULL;
    for (int i = 0; own && !found && i < 8; i++) {
        char *whole = cb_format("%s%s", prefixes[i / 2], i % 2 ? own : name);
        found = whole ? cb_weights_find(r->file, whole) : NULL;
        cb_free(whole);
    }
    cb_free(own);
    return found;
}

static const cb_weight_entry *find(void *user, const char *name, int ndim, const int64_t *shape)
{
    static const cb_weight_entry zeros = {0}; /* a bias that the file has not */
    reading *r = user;
    const cb_weight_entry *found = find_named(r, name);
    if (!found && cb_ok() && !r->biases && cb_ends_with(name, ".bias"))
        return &zeros;
    if (found && cb_dtype_is_float(found->dtype) && cb_weight_entry_fits(found, ndim, shape)) {
        r->taken++;
        return found;
    }
    cb_fail(CB_ERR_FORMAT, "%s: classifier: %s: found %s %s, expected floats of %s%s", r->directory, name,
            found ? found->type_name : "none", found ? cb_shape_text_nd(found->ndim, found->shape) : "", cb_shape_text_nd(ndim, shape),
            found || r->own ? "" : " (PEFT 0.21's save_pretrained leaves some out)");
    return NULL;
}

static bool open_classifier(reading *r)
{
    const char *name = r->own ? OWN_NAME : has(r->directory, WEIGHTS_NAME) ? WEIGHTS_NAME : PICKLE_NAME;
    char *path = cb_path_join(r->directory, name);
    r->file = path ? cb_weights_open_file(path) : NULL;
    r->biases = !r->own || cb_json_bool(path, r->config, "use_bias", true);
    cb_free(path);
    return r->file && cb_ok();
}

static bool load_classifier(cb_composition *c, reading *r)
{
    if (!open_classifier(r))
        return false;
    c->xlora = cb_xlora_read(c->adapters, c->count, &r->options, find, r);
    if (!c->xlora)
        return false;
    if (r->taken != cb_weights_count(r->file))
        return cb_fail(CB_ERR_FORMAT, "%s: classifier: found %zu tensors, expected the %zu that it has", r->directory,
                       cb_weights_count(r->file), r->taken) == CB_OK;
    json_t *made = cb_xlora_json(c->xlora);
    json_int_t width = json_integer_value(json_object_get(made, "hidden_size"));
    const json_t *given = json_object_get(r->config, "hidden_size");
    json_decref(made);
    return !given || json_integer_value(given) == width ||
           cb_fail(CB_ERR_FORMAT, "%s: hidden_size: found %lld, expected %lld, which the model has", r->directory,
                   (long long)json_integer_value(given), (long long)width) == CB_OK;
}

bool cb_xlora_load(cb_composition *c, const char *directory, cb_layer *root, const char *model_type)
{
    *c = (cb_composition){0};
    reading r = {.directory = directory, .own = has(directory, CB_XLORA_FILE)};
    r.config = load_json(directory, r.own ? CB_XLORA_FILE : CONFIG_NAME);
    bool ok = r.config && read_options(&r) && load_adapters(c, &r, root, model_type) && load_classifier(c, &r);
    cb_weights_close(r.file);
    json_decref(r.config);
    if (!ok)
        cb_composition_free(c);
    return ok;
}

/* ---- writing ---- */

static bool write_classifier(const cb_xlora *xlora, const char *directory)
{
    const cb_named_tensor *list;
    size_t count = cb_xlora_parameters(xlora, &list);
    cb_weight_entry *entries = cb_calloc(count, sizeof *entries);
    cb_string_list names = {0};
    bool ok = entries;
    for (size_t i = 0; ok && i < count; i++) {
        char *name = cb_format(PREFIX "%s", list[i].name);
        ok = name && cb_string_list_add(&names, name);
        cb_free(name);
        if (ok)
            entries[i] = cb_entry_to_write(names.items[i], list[i].tensor);
    }
    char *path = ok ? cb_path_join(directory, WEIGHTS_NAME) : NULL;
    ok = path && cb_safetensors_write(path, entries, count, NULL, NULL, NULL);
    cb_free(path);
    cb_string_list_free(&names);
    cb_free(entries);
    return ok;
}

static json_t *adapters_json(const cb_composition *c, const char *directory)
{
    json_t *map = json_object();
    bool ok = map;
    for (size_t i = 0; ok && i < c->count; i++) {
        char number[32], *path = cb_path_join(directory, cb_adapter_name(c->adapters[i]));
        snprintf(number, sizeof number, "%zu", i);
        ok = path && cb_json_put(map, number, json_string(path));
        cb_free(path);
    }
    if (ok)
        return map;
    json_decref(map);
    return NULL;
}

bool cb_xlora_save(const cb_composition *c, const char *directory, const char *base_model)
{
    json_t *config = cb_adapter_common_defaults(), *own = cb_xlora_json(c->xlora), *map = adapters_json(c, c->home ? c->home : directory);
    bool ok = config && own && map && json_object_update(config, own) == 0 && cb_json_put(config, "peft_type", json_string("XLORA")) &&
              cb_json_put(config, "inference_mode", json_true()) && cb_json_put(config, "use_trainable_adapters", json_false()) &&
              cb_json_put(config, "base_model_name_or_path", base_model ? json_string(base_model) : json_null()) &&
              cb_json_put(config, "adapters", json_incref(map));
    char *path = ok ? cb_path_join(directory, CONFIG_NAME) : NULL;
    ok = path && write_classifier(c->xlora, directory) && cb_json_save(path, config, false); /* in the adapters' order */
    cb_free(path);
    json_decref(config);
    json_decref(own);
    json_decref(map);
    return ok;
}
