/* adapter.c: an adapter's options and lists, and what kinds share to fill their parameters. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/study.h"
#include "core/hash.h"

static const char *const save_embedding_choices[] = {"auto", "true", "false", NULL};

const cb_option cb_target_option_table[] = {
    CB_OPT_LIST(cb_target, target_modules, NULL, "NAME,...",
                "layers to adapt: names or ends of names, one regular expression for the whole name, or all-linear"),
    CB_OPT_LIST(cb_target, exclude_modules, NULL, "NAME,...",
                "layers to leave as they are: names, ends of names, or one regular expression"),
    CB_OPT_LIST(cb_target, layers_to_transform, NULL, "N,...", "numbers of the blocks to adapt; all when empty"),
    CB_OPT_LIST(cb_target, layers_pattern, NULL, "NAME,...", "the name before the block number, where it is not the first number's"),
    CB_OPT_LIST(cb_target, modules_to_save, NULL, "NAME,...", "layers to train and save whole, such as lm_head"),
    CB_OPT_ENUM(
        cb_target, save_embedding_layers, 0, save_embedding_choices,
        "write the frozen weights of adapted embeddings and heads into the adapter's file too; auto: where target_modules names them, "
        "as PEFT does"),
    CB_OPT_END};

/* ---- options ---- */

const char *cb_adapter_option_name(const cb_adapter_kind *kind, const char *name)
{
    for (const char *const *pair = kind->peft_names; pair && pair[0]; pair += 2)
        if (strcmp(pair[1], name) == 0)
            return pair[0];
    return name;
}

const char *cb_adapter_peft_name(const cb_adapter_kind *kind, const char *option)
{
    for (const char *const *pair = kind->peft_names; pair && pair[0]; pair += 2)
        if (strcmp(pair[0], option) == 0)
            return pair[1];
    return option;
}

cb_adapter *cb_adapter_new(const char *kind_name, const char *name)
{
    const cb_adapter_kind *kind = cb_adapter_kind_find(kind_name);
    cb_adapter *adapter = kind ? cb_calloc(1, sizeof *adapter) : NULL;
    if (!adapter)
        return NULL;
    adapter->kind = kind;
    adapter->strength = 1;
    adapter->name = cb_strdup(name ? name : "default");
    adapter->common = cb_adapter_common_defaults();
    adapter->config = cb_calloc(1, kind->config_size);
    if (adapter->name && adapter->common && adapter->config && cb_options_init(kind->options, adapter->config) &&
        cb_options_init(cb_target_option_table, &adapter->target))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

void cb_adapter_free(cb_adapter *adapter)
{
    if (!adapter)
        return;
    cb_adapter_detach(adapter);
    if (adapter->config)
        cb_options_free(adapter->kind->options, adapter->config);
    cb_options_free(cb_target_option_table, &adapter->target);
    cb_given_free(adapter);
    cb_free(adapter->config);
    cb_free(adapter->name);
    json_decref(adapter->common);
    cb_free(adapter);
}

/* target_modules and exclude_modules: what looks like a regular expression is one, commas and all. */
static bool set_pattern_or_list(cb_target *target, cb_string_list *list, bool *is_pattern, const char *option, const char *value)
{
    *is_pattern = cb_is_pattern_text(value);
    if (!*is_pattern)
        return cb_options_set(cb_target_option_table, target, option, value);
    cb_string_list_free(list);
    *list = (cb_string_list){0};
    return cb_string_list_add(list, value);
}

static bool unknown_option(const cb_adapter *adapter, const char *option)
{
    const char *names[128];
    size_t count = 0;
    for (const cb_option *o = adapter->kind->options; o->type != CB_OPTION_END && count < 100; o++)
        names[count++] = o->name;
    for (const cb_option *o = cb_target_option_table; o->type != CB_OPTION_END && count < 128; o++)
        names[count++] = o->name;
    cb_string close = {0};
    cb_closest_names(option, names, count, 3, &close);
    cb_fail(CB_ERR_ARGUMENT, "%s has no option '%.100s'; close names: %s", adapter->kind->name, option, close.data ? close.data : "none");
    cb_string_free(&close);
    return false;
}

static bool is_live(const cb_adapter_kind *kind, const char *option)
{
    for (const char *const *name = kind->live; name && *name; name++)
        if (strcmp(*name, option) == 0)
            return true;
    return false;
}

/* One number of an attached adapter; stays what it was if the kind refuses the new one. */
static bool set_live(cb_adapter *adapter, const char *option, const char *value)
{
    const cb_adapter_kind *kind = adapter->kind;
    if (!is_live(kind, option))
        return cb_fail(CB_ERR_STATE, "%s: options cannot change while the adapter is attached", option) == CB_OK;
    void *former = cb_alloc(kind->config_size);
    if (!former)
        return false;
    memcpy(former, adapter->config, kind->config_size);
    bool ok = cb_options_set(kind->options, adapter->config, option, value) && (!kind->check || kind->check(adapter->config, NULL));
    if (!ok)
        memcpy(adapter->config, former, kind->config_size);
    cb_free(former);
    return ok;
}

bool cb_adapter_set(cb_adapter *adapter, const char *option, const char *value)
{
    char *name = cb_strdup(option);
    if (!name)
        return false;
    for (char *c = name; *c; c++)
        if (*c == '-')
            *c = '_';
    const char *own = cb_adapter_option_name(adapter->kind, name);
    cb_target *target = &adapter->target;
    bool ok;
    if (adapter->attached)
        ok = set_live(adapter, own, value);
    else if (cb_options_find(adapter->kind->options, own))
        ok = cb_options_set(adapter->kind->options, adapter->config, own, value);
    else if (strcmp(own, "target_modules") == 0)
        ok = set_pattern_or_list(target, &target->target_modules, &target->target_is_pattern, own, value);
    else if (strcmp(own, "exclude_modules") == 0)
        ok = set_pattern_or_list(target, &target->exclude_modules, &target->exclude_is_pattern, own, value);
    else if (cb_options_find(cb_target_option_table, own))
        ok = cb_options_set(cb_target_option_table, target, own, value);
    else
        ok = unknown_option(adapter, option);
    cb_free(name);
    return ok;
}

bool cb_adapter_set_json(cb_adapter *adapter, const char *what, const char *json)
{
    if (adapter->attached)
        return cb_fail(CB_ERR_STATE, "%s: options cannot change while the adapter is attached", what) == CB_OK;
    json_t *object = cb_json_parse(what, json, strlen(json));
    bool ok = object && cb_adapter_from_json(adapter, what, object);
    json_decref(object);
    return ok;
}

void *cb_adapter_config(cb_adapter *adapter)
{
    return adapter->config;
}

cb_target *cb_adapter_target(cb_adapter *adapter)
{
    return &adapter->target;
}

const cb_adapter_kind *cb_adapter_kind_of(const cb_adapter *adapter)
{
    return adapter->kind;
}

const char *cb_adapter_name(const cb_adapter *adapter)
{
    return adapter->name;
}

bool cb_adapter_rename(cb_adapter *adapter, const char *name)
{
    char *copy = cb_strdup(name);
    if (!copy)
        return false;
    cb_free(adapter->name);
    adapter->name = copy;
    return true;
}

uint64_t cb_adapter_hash(const cb_adapter *adapter)
{
    uint64_t hash = CB_HASH_START;
    for (size_t i = 0; i < adapter->entry_count; i++) {
        const cb_tensor *t = cb_adapter_entry_tensor(adapter, &adapter->entries[i]);
        hash = cb_hash_text(hash, adapter->entries[i].name);
        if (t)
            hash = cb_hash_data(hash, t->data, (size_t)t->count * cb_dtype_size(t->dtype));
    }
    return hash;
}

/* ---- lists ---- */

size_t cb_adapter_parameters(const cb_adapter *adapter, const cb_named_tensor **list)
{
    *list = adapter->parameters;
    return adapter->parameter_count;
}

cb_tensor *cb_adapter_parameter_of(const cb_adapter *adapter, const cb_layer *layer, const char *suffix)
{
    for (size_t i = 0; i < adapter->entry_count; i++) {
        const cb_adapter_entry *entry = &adapter->entries[i];
        if (entry->module && entry->module->layer == layer && entry->slot && strcmp(entry->suffix, suffix) == 0)
            return *entry->slot;
    }
    return NULL;
}

int64_t cb_adapter_parameter_count(const cb_adapter *adapter)
{
    int64_t count = 0;
    for (size_t i = 0; i < adapter->parameter_count; i++)
        count += adapter->parameters[i].tensor->count;
    return count;
}

size_t cb_adapter_state(const cb_adapter *adapter, const cb_named_tensor **list)
{
    *list = adapter->state;
    return adapter->state_count;
}

size_t cb_adapter_modules(const cb_adapter *adapter, cb_module *const **list)
{
    *list = adapter->modules;
    return adapter->module_count;
}

size_t cb_adapter_saved_layers(const cb_adapter *adapter, cb_layer *const **list)
{
    *list = adapter->saved;
    return adapter->saved_count;
}

/* ---- training ---- */

bool cb_adapter_begin(cb_adapter *adapter, int64_t steps)
{
    return !adapter->kind->begin || adapter->kind->begin(adapter->config, steps);
}

cb_tensor *cb_adapter_regulariser(const cb_adapter *adapter)
{
    return adapter->kind->regulariser ? adapter->kind->regulariser(&adapter->group) : NULL;
}

bool cb_adapter_phase(const cb_adapter *adapter, int64_t step, int64_t *first, int64_t *end)
{
    if (!adapter->kind->phase)
        return false;
    adapter->kind->phase(adapter->config, step, first, end);
    return true;
}

/* What is trained whole becomes the base's again, on or off. */
static bool rewind_whole(const cb_adapter *adapter)
{
    for (size_t i = 0; i < adapter->trained_count; i++) {
        const cb_trained_weight *t = &adapter->trained[i];
        const cb_weight *weight = t->active && !t->pinned ? cb_layer_own_weight(t->layer, t->name) : NULL;
        if (!weight || (!weight->frozen && !t->hidden))
            continue;
        if (!cb_copy_into(t->hidden ? t->hidden : weight->tensor, weight->frozen ? weight->frozen : weight->tensor))
            return false;
    }
    return true;
}

bool cb_adapter_stepped(const cb_adapter *adapter, const cb_adapter_step *step)
{
    const cb_adapter_kind *kind = adapter->kind;
    if (kind->step && !kind->step(&adapter->group, step))
        return false;
    return !kind->rewinds || !kind->rewinds(adapter->config, step->step + 1) || rewind_whole(adapter);
}

/* ---- for kinds ---- */

const cb_adapter_group *cb_module_group(const cb_module *m)
{
    return cb_adapter_module_of(m)->group;
}

cb_rng cb_adapter_rng(uint64_t seed, const cb_module *m, const char *suffix)
{
    uint64_t hash = cb_hash_text(cb_hash_text(CB_HASH_START, m->layer->name), ".");
    return (cb_rng){.seed = seed, .stream = cb_hash_text(hash, suffix)};
}

bool cb_init_uniform(cb_tensor *t, cb_rng rng, double bound)
{
    if (!t)
        return false;
    float *x = t->data;
    for (int64_t i = 0; i < t->count; i++)
        x[i] = (float)(bound * (2 * cb_rng_uniform(&rng) - 1));
    return true;
}

bool cb_init_normal(cb_tensor *t, cb_rng rng, double standard_deviation)
{
    if (!t)
        return false;
    float *x = t->data;
    for (int64_t i = 0; i < t->count; i++)
        x[i] = (float)(standard_deviation * cb_rng_normal(&rng));
    return true;
}

bool cb_init_kaiming(cb_tensor *t, cb_rng rng)
{
    return t && cb_init_uniform(t, rng, 1 / sqrt((double)t->count / (double)t->shape[0]));
}

bool cb_adds_always(const cb_module *m)
{
    (void)m;
    return true;
}

int64_t cb_block_number(const cb_layer *layer)
{
    while (layer && layer->kind != CB_LAYER_BLOCK)
        layer = layer->parent;
    const char *dot = layer ? strrchr(layer->name, '.') : NULL, *digits = dot ? dot + 1 : layer ? layer->name : "";
    char *end;
    int64_t number = strtoll(digits, &end, 10);
    return end == digits || *end ? -1 : number;
}

bool cb_adapter_pattern_whole(const cb_option_map *map, const char *option, const cb_layer *layer, int64_t most, int64_t *value)
{
    double number = (double)*value;
    if (!cb_adapter_pattern(map, option, layer, &number))
        return false;
    if (!(number >= 1 && number <= (double)most) || number != floor(number))
        return cb_fail(CB_ERR_ARGUMENT, "%s: layer %s gets %g, expected a whole number from 1 to %lld", option, layer->name, number,
                       (long long)most) == CB_OK;
    *value = (int64_t)number;
    return true;
}
