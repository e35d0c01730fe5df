/* config.c: an adapter's options as adapter_config.json, in PEFT's names and forms.
 *
 * What a kind's options do not cover is in its `peft_fixed`: fields with the one value that is supported.  That table writes them, and
 * tells a field that must be refused from one that nobody knows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/internal.h"

/* The release of PEFT whose fields are written. */
#define PEFT_VERSION "0.21.2"

static bool no_memory(void)
{
    return cb_fail(CB_ERR_MEMORY, "no memory for an adapter's config") == CB_OK;
}

json_t *cb_adapter_common_defaults(void)
{
    json_t *common = json_pack("{s:n, s:n, s:b, s:s, s:n, s:s}", "auto_mapping", "base_model_name_or_path", "inference_mode", 1,
                               "peft_version", PEFT_VERSION, "revision", "task_type", "CAUSAL_LM");
    if (!common)
        no_memory();
    return common;
}

bool cb_adapter_set_task_type(cb_adapter *adapter, const char *task_type)
{
    return cb_json_put(adapter->common, "task_type", task_type ? json_string(task_type) : json_null()) || no_memory();
}

static json_t *fixed_fields(const cb_adapter_kind *kind)
{
    const char *text = kind->peft_fixed ? kind->peft_fixed : "{}";
    return cb_json_parse(kind->name, text, strlen(text));
}

static bool wrong_type(const char *file, const char *key, const char *expected)
{
    return cb_fail(CB_ERR_FORMAT, "%s: %s: expected %s", file, key, expected) == CB_OK;
}

/* ---- reading ---- */

/* 1 taken, 0 not a target field, -1 an error */
static int read_target(cb_target *target, const char *file, const char *key, json_t *value)
{
    const cb_option *option = cb_options_find(cb_target_option_table, key);
    if (!option || option->type != CB_OPTION_LIST)
        return 0;
    cb_string_list *list = (cb_string_list *)((char *)target + option->offset);
    if (list == &target->target_modules)
        target->target_is_pattern = json_is_string(value);
    if (list == &target->exclude_modules)
        target->exclude_is_pattern = json_is_string(value);
    cb_string_list_free(list);
    if (json_is_string(value) && !*json_string_value(value))
        return 1;
    json_t *field = json_pack("{s:O}", key, value);
    bool ok = field ? cb_options_from_json(cb_target_option_table, target, file, field) : no_memory();
    json_decref(field);
    return ok ? 1 : -1;
}

/* What may be a boolean or a word in PEFT is an enum or a string here. */
static bool is_word(const cb_option *option)
{
    return option->type == CB_OPTION_ENUM || option->type == CB_OPTION_STRING;
}

static void add_numbers(json_t *items, const char *name, const json_t *list)
{
    size_t i;
    const json_t *number;
    json_array_foreach(list, i, number)
    {
        char *text = cb_format("%s:%lld", name, (long long)json_integer_value(number));
        cb_json_add(items, text ? json_string(text) : NULL);
        cb_free(text);
    }
}

static void add_mask(json_t *items, const char *name, const json_t *list)
{
    cb_string text = {0};
    size_t i;
    const json_t *mark;
    cb_string_printf(&text, "%s:", name);
    json_array_foreach(list, i, mark) cb_string_puts(&text, json_is_true(mark) ? "1" : "0");
    cb_json_add(items, text.data && cb_ok() ? json_string(text.data) : NULL);
    cb_string_free(&text);
}

/* {"lm_head": [7]} to ["lm_head:7"], {"x": [true, false]} to ["x:10"]; NULL when there is no memory */
static json_t *items_of(const json_t *named)
{
    json_t *items = json_array();
    const char *name;
    json_t *list;
    json_object_foreach((json_t *)(uintptr_t)named, name, list)
    {
        if (json_is_boolean(json_array_get(list, 0)))
            add_mask(items, name, list);
        else
            add_numbers(items, name, list);
    }
    return cb_json_made(items);
}

/* 4.0 to "4.0": a number where a word may stand as well */
static json_t *text_of(const json_t *number)
{
    char *text = json_dumps(number, JSON_ENCODE_ANY);
    json_t *made = text ? json_string(text) : NULL;
    free(text);
    return made;
}

static bool collect_option(const cb_option *option, const json_t *value, json_t *options)
{
    if (json_is_null(value))
        return true; /* the default */
    bool named = option->type == CB_OPTION_LIST && json_is_object(value);
    json_t *taken = is_word(option) && json_is_boolean(value)                   ? json_string(json_is_true(value) ? "true" : "false")
                    : option->type == CB_OPTION_STRING && json_is_number(value) ? text_of(value)
                    : named                                                     ? items_of(value)
                                                                                : cb_json_copy(value);
    if (!taken || !cb_json_put(options, option->name, taken))
        return no_memory();
    return true;
}

static bool is_nothing(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           ((json_is_array(value) || json_is_object(value)) && !json_object_size(value) && !json_array_size(value));
}

static bool same_value(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    return json_equal(a, b) || (is_nothing(a) && is_nothing(b));
}

static bool refuse(const char *file, const cb_adapter_kind *kind, const char *key, const json_t *found, const json_t *expected)
{
    char *f = json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT), *e = json_dumps(expected, JSON_ENCODE_ANY | JSON_COMPACT);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found %.200s, only %s is supported for %s", file, key, f ? f : "?", e ? e : "?", kind->peft_type);
    free(f);
    free(e);
    return false;
}

static bool is_group(const cb_adapter_kind *kind, const char *key)
{
    size_t length = strlen(key);
    for (const cb_option *o = kind->options; o->type != CB_OPTION_END; o++) {
        const char *name = cb_adapter_peft_name(kind, o->name);
        if (strncmp(name, key, length) == 0 && name[length] == '.')
            return true;
    }
    return false;
}

/* One field of an object such as eva_config; `name` is "eva_config.rho".  In peft_fixed null stands for any value there. */
static bool read_group_field(const cb_adapter_kind *kind, const char *file, const char *name, const json_t *value, const json_t *fixed,
                             json_t *options)
{
    const char *own = cb_adapter_option_name(kind, name);
    const json_t *expected = json_object_get(fixed, name);
    if (own != name)
        return collect_option(cb_options_find(kind->options, own), value, options);
    if (expected)
        return json_is_null(expected) || same_value(value, expected) || refuse(file, kind, name, value, expected);
    cb_log_message(CB_LOG_WARNING, "%s: %.100s is not a known field of %s and is ignored", file, name, kind->peft_type);
    return true;
}

static bool read_group(const cb_adapter_kind *kind, const char *file, const char *key, json_t *group, const json_t *fixed, json_t *options)
{
    if (!is_nothing(group) && !json_is_object(group))
        return wrong_type(file, key, "an object or null");
    const char *field;
    json_t *value;
    json_object_foreach(group, field, value)
    {
        char *name = cb_format("%s.%s", key, field);
        bool ok = name && read_group_field(kind, file, name, value, fixed, options);
        cb_free(name);
        if (!ok)
            return false;
    }
    return true;
}

/* Of kinds that sit on whole attentions the field target_modules is the end of their names. */
static bool names_attention(const cb_adapter_kind *kind)
{
    return kind->hosts == 1u << CB_LAYER_ATTENTION;
}

static bool read_field(cb_adapter *adapter, const char *file, const char *key, json_t *value, const json_t *fixed, json_t *options)
{
    const cb_adapter_kind *kind = adapter->kind;
    if (strcmp(key, "peft_type") == 0) {
        if (!json_is_string(value) || strcmp(json_string_value(value), kind->peft_type) != 0)
            return refuse(file, kind, key, value, json_object_get(fixed, key));
        return true;
    }
    if (json_object_get(adapter->common, key)) {
        if (strcmp(key, "inference_mode") != 0 && strcmp(key, "peft_version") != 0 && json_object_set(adapter->common, key, value) != 0)
            return no_memory();
        return true;
    }
    if (strcmp(key, "fan_in_fan_out") == 0) /* the layers know how they store their weights */
        return json_is_boolean(value) || wrong_type(file, key, "true or false");
    int target = read_target(&adapter->target, file, key, value);
    if (names_attention(kind)) /* an end of names, not an expression */
        adapter->target.target_is_pattern = false;
    if (target)
        return target > 0;
    const cb_option *option = cb_options_find(kind->options, cb_adapter_option_name(kind, key));
    if (option)
        return collect_option(option, value, options);
    if (is_group(kind, key))
        return read_group(kind, file, key, value, fixed, options);
    const json_t *expected = json_object_get(fixed, key);
    if (expected)
        return same_value(value, expected) || refuse(file, kind, key, value, expected);
    cb_log_message(CB_LOG_WARNING, "%s: %.100s is not a known field of %s and is ignored", file, key, kind->peft_type);
    return true;
}

bool cb_adapter_from_json(cb_adapter *adapter, const char *file, const json_t *object)
{
    if (!json_is_object(object))
        return cb_fail(CB_ERR_FORMAT, "%s: expected a JSON object", file) == CB_OK;
    json_t *fixed = fixed_fields(adapter->kind), *options = json_object();
    bool ok = (fixed && options && cb_json_put(fixed, "peft_type", json_string(adapter->kind->peft_type))) || no_memory();
    const char *key;
    json_t *value;
    if (ok)
        json_object_foreach((json_t *)object, key, value)
        {
            if (!(ok = read_field(adapter, file, key, value, fixed, options)))
                break;
        }
    ok = ok && cb_options_from_json(adapter->kind->options, adapter->config, file, options);
    json_decref(fixed);
    json_decref(options);
    return ok;
}

/* ---- writing ---- */

/* 16.0 becomes 16, as PEFT writes numbers that were given whole; ranks must be. */
static json_t *whole_numbers(json_t *value)
{
    if (json_is_object(value)) {
        const char *key;
        json_t *item, *object = json_object();
        bool ok = object;
        json_object_foreach(value, key, item) ok = ok && cb_json_put(object, key, whole_numbers(item));
        if (ok)
            return object;
        json_decref(object);
        return NULL;
    }
    double x = json_real_value(value);
    if (json_is_real(value) && x != 0 && x == floor(x) && fabs(x) < 1e15)
        return json_integer((json_int_t)x);
    return json_incref(value);
}

/* A list whose items are numbers, which it shows by its metavar; of items like "lm_head:7" an object of such lists. */
static json_t *numbers_of(const json_t *texts)
{
    json_t *numbers = json_array(), *named = json_object();
    bool ok = numbers && named;
    size_t i;
    const json_t *item;
    json_array_foreach(texts, i, item)
    {
        const char *text = json_string_value(item), *colon = strrchr(text, ':');
        char *name = colon ? cb_strndup(text, (size_t)(colon - text)) : NULL;
        ok = ok && !colon == !name && (!name || json_object_get(named, name) || cb_json_put(named, name, json_array())) &&
             cb_json_add(name ? json_object_get(named, name) : numbers, json_integer(strtoll(colon ? colon + 1 : text, NULL, 10)));
        cb_free(name);
    }
    json_t *result = !ok ? NULL : json_object_size(named) ? named : numbers;
    json_incref(result);
    json_decref(named);
    json_decref(numbers);
    return result;
}

/* ["x:10"] to {"x": [true, false]} */
static json_t *masks_of(const json_t *texts)
{
    json_t *named = json_object();
    bool ok = named;
    size_t i;
    const json_t *item;
    json_array_foreach(texts, i, item)
    {
        const char *text = json_string_value(item), *colon = strrchr(text, ':');
        char *name = cb_strndup(text, colon ? (size_t)(colon - text) : strlen(text));
        json_t *marks = json_array();
        for (const char *c = colon ? colon + 1 : ""; *c; c++)
            cb_json_add(marks, json_boolean(*c == '1'));
        marks = cb_json_made(marks);
        ok = name && marks && cb_json_put(named, name, json_incref(marks)) && ok;
        json_decref(marks);
        cb_free(name);
    }
    if (ok)
        return named;
    json_decref(named);
    return NULL;
}

/* null stands for the default: to PEFT [] is something.  One regular expression is a string. */
static json_t *list_option(const cb_option *option, json_t *value)
{
    const char *single = json_array_size(value) == 1 ? json_string_value(json_array_get(value, 0)) : NULL;
    bool is_default = option->text ? single && strcmp(single, option->text) == 0 : !json_array_size(value);
    if (is_default)
        return json_null();
    if (option->metavar && option->metavar[0] == 'N')
        return numbers_of(value);
    if (option->metavar && strncmp(option->metavar, "MASK", 4) == 0)
        return masks_of(value);
    return single && cb_is_pattern_text(single) ? json_string(single) : json_incref(value);
}

static json_t *option_to_json(const cb_option *option, json_t *value)
{
    const char *word = is_word(option) ? json_string_value(value) : NULL;
    if (word && (strcmp(word, "true") == 0 || strcmp(word, "false") == 0))
        return json_boolean(word[0] == 't');
    char *end = NULL;
    double number = word && option->type == CB_OPTION_STRING ? strtod(word, &end) : 0;
    if (end && end != word && !*end && isfinite(number))
        return json_real(number);
    return option->type == CB_OPTION_LIST ? list_option(option, value) : whole_numbers(value);
}

/* "eva_config.rho" goes into the object eva_config, where the kind wants that one to be written. */
static bool write_option(const cb_adapter_kind *kind, const void *config, json_t *out, const char *name, json_t *value)
{
    const char *dot = strchr(name, '.');
    if (!dot)
        return cb_json_put(out, name, value);
    char *group = cb_strndup(name, (size_t)(dot - name));
    bool ok = group;
    if (ok && (!kind->has_group || kind->has_group(config, group)))
        ok = (json_object_size(json_object_get(out, group)) || cb_json_put(out, group, json_object())) &&
             cb_json_put(json_object_get(out, group), dot + 1, json_incref(value));
    cb_free(group);
    json_decref(value);
    return ok;
}

static bool is_null_in_file(const cb_adapter_kind *kind, const char *option, const json_t *value)
{
    const cb_option *o = cb_options_find(kind->options, option);
    for (const char *const *name = kind->peft_null; name && *name; name++)
        if (strcmp(*name, option) == 0)
            return o->type == CB_OPTION_ENUM ? strcmp(json_string_value(value), o->choices[0]) == 0 : json_integer_value(value) == 0;
    return false;
}

static bool write_options(const cb_adapter_kind *kind, const void *config, json_t *out)
{
    char *text = cb_options_to_json(kind->options, config);
    json_t *options = text ? cb_json_parse(kind->name, text, strlen(text)) : NULL;
    cb_free(text);
    bool ok = options;
    const char *key;
    json_t *value;
    json_object_foreach(options, key, value)
    {
        if (!ok)
            break;
        json_t *form = is_null_in_file(kind, key, value) ? json_null() : option_to_json(cb_options_find(kind->options, key), value);
        ok = write_option(kind, config, out, cb_adapter_peft_name(kind, key), form);
    }
    json_decref(options);
    return ok;
}

/* Options as they describe the file, where that is not what is in memory. */
static bool write_stored_options(const cb_adapter *adapter, json_t *out)
{
    const cb_adapter_kind *kind = adapter->kind;
    if (!kind->stored_config)
        return write_options(kind, adapter->config, out);
    char *text = cb_options_to_json(kind->options, adapter->config);
    json_t *options = text ? cb_json_parse(kind->name, text, strlen(text)) : NULL;
    void *copy = options ? cb_calloc(1, kind->config_size) : NULL;
    bool ok = copy && cb_options_init(kind->options, copy);
    if (ok) {
        ok = cb_options_from_json(kind->options, copy, kind->name, options) && kind->stored_config(copy, &adapter->group) &&
             write_options(kind, copy, out);
        cb_options_free(kind->options, copy);
    }
    cb_free(copy);
    cb_free(text);
    json_decref(options);
    return ok;
}

static json_t *list_to_json(const cb_string_list *list, bool single, bool numbers)
{
    if (!list->count)
        return json_null();
    if (single && list->count == 1)
        return json_string(list->items[0]);
    json_t *array = json_array();
    bool ok = array;
    for (size_t i = 0; ok && i < list->count; i++)
        ok = cb_json_add(array, numbers ? json_integer(strtoll(list->items[i], NULL, 10)) : json_string(list->items[i]));
    if (ok)
        return array;
    json_decref(array);
    return NULL;
}

/* Fields that PEFT does not have for this kind, and that hold nothing, are left out. */
static bool write_target(json_t *out, const char *key, json_t *value, bool always)
{
    if (always || json_object_get(out, key) || !json_is_null(value))
        return cb_json_put(out, key, value);
    json_decref(value);
    return true;
}

static bool write_targets(const cb_adapter *adapter, json_t *out)
{
    const cb_target *target = &adapter->target;
    bool resolved = adapter->resolved_targets.count > 0;
    const cb_string_list *modules = resolved ? &adapter->resolved_targets : &target->target_modules;
    const cb_string_list *saved = adapter->resolved_saved.count ? &adapter->resolved_saved : &target->modules_to_save;
    bool is_pattern = resolved ? adapter->resolved_is_pattern : target->target_is_pattern;
    return write_target(out, "target_modules", list_to_json(modules, is_pattern || names_attention(adapter->kind), false),
                        !adapter->kind->module.virtual_tokens) &&
           write_target(out, "exclude_modules", list_to_json(&target->exclude_modules, target->exclude_is_pattern, false), false) &&
           write_target(out, "layers_to_transform", list_to_json(&target->layers_to_transform, false, true), false) &&
           write_target(out, "layers_pattern", list_to_json(&target->layers_pattern, true, false), false) &&
           write_target(out, "modules_to_save", list_to_json(saved, false, false), false);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Keys in order as in PEFT's files, but not those of nested objects: in rank_pattern the first match counts.  Takes the
 * reference; NULL when there is no memory. */
static json_t *sorted(json_t *object)
{
    const char **keys = cb_calloc(json_object_size(object), sizeof *keys);
    json_t *out = keys ? json_object() : NULL;
    size_t count = 0;
    const char *key;
    json_t *value;
    bool ok = out;
    if (out) {
        json_object_foreach(object, key, value) keys[count++] = key;
        qsort(keys, count, sizeof *keys, by_name);
        for (size_t i = 0; ok && i < count; i++)
            ok = cb_json_put(out, keys[i], json_incref(json_object_get(object, keys[i])));
    }
    cb_free(keys);
    json_decref(object);
    if (ok)
        return out;
    json_decref(out);
    no_memory();
    return NULL;
}

json_t *cb_adapter_to_json(const cb_adapter *adapter)
{
    json_t *out = fixed_fields(adapter->kind);
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(out, next, key, value)
    {
        if (strchr(key, '.')) /* one of a group, which is written when there is something to say */
            json_object_del(out, key);
    }
    bool ok = out && json_object_update(out, adapter->common) == 0 && write_stored_options(adapter, out) &&
              cb_json_put(out, "peft_type", json_string(adapter->kind->peft_type)) && write_targets(adapter, out);
    if (ok && json_object_get(out, "fan_in_fan_out")) {
        bool transposed = false;
        for (size_t i = 0; i < adapter->module_count; i++)
            transposed |= adapter->modules[i]->layer->transposed;
        ok = cb_json_put(out, "fan_in_fan_out", json_boolean(transposed));
    }
    if (ok)
        return sorted(out);
    json_decref(out);
    no_memory();
    return NULL;
}

char *cb_adapter_json(const cb_adapter *adapter)
{
    json_t *object = cb_adapter_to_json(adapter);
    char *text = cb_json_dump(object, false);
    json_decref(object);
    return text;
}
