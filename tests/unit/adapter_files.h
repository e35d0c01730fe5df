/* adapter_files.h: comparisons of the files that are written with those of PEFT. */
#ifndef ADAPTER_FILES_H
#define ADAPTER_FILES_H

#include "adapter_fixtures.h"

static inline int by_text(const void *a, const void *b)
{
    return strcmp(json_string_value(*(json_t *const *)a), json_string_value(*(json_t *const *)b));
}

/* PEFT's lists of names come from sets. */
static inline void sort_names(json_t *config, const char *key)
{
    json_t *list = json_object_get(config, key);
    if (!json_is_array(list))
        return;
    json_t *items[64];
    size_t count = json_array_size(list);
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++)
        items[i] = json_incref(json_array_get(list, i));
    qsort(items, count, sizeof(*items), by_text);
    json_array_clear(list);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, items[i]);
}

static inline void check_config(const char *name, const char *written)
{
    json_t *theirs = load_json(CB_TEST_DATA "/adapters/%s/adapter_config.json", name);
    json_t *ours = load_json("%s/adapter_config.json", written);
    static const char *const sets[] = {"target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"};
    for (int i = 0; i < 4; i++) {
        sort_names(theirs, sets[i]);
        sort_names(ours, sets[i]);
    }
    const char *key;
    json_t *value;
    json_object_foreach(theirs, key, value)
    {
        json_t *found = json_object_get(ours, key);
        bool same = json_is_number(value) ? json_number_value(value) == json_number_value(found) : json_equal(value, found);
        if (!same)
            fail_msg("%s: %s is %s, PEFT wrote %s", name, key, found ? json_dumps(found, JSON_ENCODE_ANY) : "missing",
                     json_dumps(value, JSON_ENCODE_ANY));
    }
    if (json_object_get(theirs, "peft_version")) /* by PEFT, and whole */
        assert_int_equal(json_object_size(ours), json_object_size(theirs));
    json_decref(theirs);
    json_decref(ours);
}

static inline void check_same_tensors(const char *name, const char *written)
{
    char a[600], b[600];
    snprintf(a, sizeof(a), "%s/adapter_model.safetensors", reference_path(name));
    snprintf(b, sizeof(b), "%s/adapter_model.safetensors", written);
    cb_safetensors *theirs = cb_safetensors_open(a), *ours = cb_safetensors_open(b);
    assert_ok(theirs && ours);
    for (size_t i = 0; i < cb_safetensors_count(theirs); i++) {
        const cb_weight_entry *t = cb_safetensors_at(theirs, i), *o = cb_safetensors_find(ours, t->name);
        if (!o)
            fail_msg("%s: %s was not written", name, t->name);
        if (strstr(t->name, ".base_layer.weight")) { /* an adapted embedding's or head's own, here in the dtype of the model's file */
            cb_scope *scope = cb_scope_open();
            assert_true(distance(entry_tensor(o), entry_tensor(t)) == 0);
            cb_scope_close(scope);
            continue;
        }
        assert_int_equal(o->dtype, t->dtype);
        assert_int_equal(o->size, t->size);
        assert_memory_equal(o->data, t->data, t->size);
    }
    for (size_t i = 0; i < cb_safetensors_count(ours); i++)
        if (!cb_safetensors_find(theirs, cb_safetensors_at(ours, i)->name))
            fail_msg("%s: %s is not in PEFT's file", name, cb_safetensors_at(ours, i)->name);
    assert_string_equal(cb_safetensors_metadata(ours, "format"), "pt");
    cb_safetensors_close(theirs);
    cb_safetensors_close(ours);
}

#endif
