/* attach.c: an adapter's modules on their layers: made, filled, switched, taken off again.
 *
 * Attaching goes in steps that loading shares: plan (match layers, make modules without tensors, list what a file holds), allocate, set
 * values (fresh, or from a file), connect.  Until the last step forward passes do not notice; a failure anywhere detaches. */
#include <string.h>

#include "adapters/study.h"
#include "adapters/tied.h"
#include "adapters/tokens.h"
#include "tensor/op.h"

/* ---- plan ---- */

bool cb_adapter_plan_module(cb_adapter *adapter, const cb_adapter_kind *kind, const void *config, cb_layer *layer, bool fresh)
{
    if (fresh && kind->check && !kind->check(config, layer))
        return false;
    if (!cb_grow(&adapter->modules, &adapter->module_capacity, adapter->module_count + 1, sizeof *adapter->modules))
        return false;
    size_t header = (sizeof(cb_adapter_module) + 15) / 16 * 16;
    cb_adapter_module *m = cb_calloc(1, header + kind->state_size);
    if (!m)
        return false;
    *m = (cb_adapter_module){
        .module = {.kind = &kind->module, .layer = layer, .state = (char *)m + header, .strength = adapter->strength},
        .kind = kind,
        .config = config,
        .group = &adapter->group,
        .fresh = fresh,
        .given = fresh ? cb_given_of(adapter, layer) : NULL,
    };
    adapter->modules[adapter->module_count++] = &m->module;
    if (kind == adapter->kind)
        adapter->group.count = adapter->module_count; /* companions come after them */
    adapter->group.modules = adapter->modules;
    return !kind->create || kind->create(&m->module, config, layer);
}

static bool plan_weight(cb_adapter *adapter, cb_layer *layer, const char *name, bool pinned)
{
    for (size_t i = 0; i < adapter->trained_count; i++)
        if (adapter->trained[i].layer == layer && strcmp(adapter->trained[i].name, name) == 0)
            return true;
    const cb_weight *weight = cb_layer_own_weight(layer, name);
    if (weight && weight->frozen)
        return cb_fail(CB_ERR_STATE, "layer %s: another adapter already trains its %s", layer->name, name) == CB_OK;
    if (!cb_grow(&adapter->trained, &adapter->trained_capacity, adapter->trained_count + 1, sizeof *adapter->trained))
        return false;
    adapter->trained[adapter->trained_count++] = (cb_trained_weight){.layer = layer, .name = name, .pinned = pinned};
    return true;
}

static bool plan_saved_layer(void *user, cb_layer *layer)
{
    cb_adapter *adapter = user;
    for (int i = 0; i < layer->weight_count; i++)
        if (!plan_weight(adapter, layer, layer->weights[i].name, false))
            return false;
    if (layer->tied && !cb_layer_own_weight(layer, "weight") && cb_layer_weight(layer->tied, "weight"))
        return plan_weight(adapter, layer, "weight", false);
    return true;
}

static bool plan_bias_of_layer(void *user, cb_layer *layer)
{
    return !cb_layer_own_weight(layer, "bias") || plan_weight(user, layer, "bias", false);
}

static bool plan_biases(cb_adapter *adapter, cb_layer *root)
{
    const cb_option *option = cb_options_find(adapter->kind->options, "bias");
    if (!option || option->type != CB_OPTION_ENUM)
        return true;
    int chosen;
    memcpy(&chosen, (const char *)adapter->config + option->offset, sizeof chosen);
    const char *bias = option->choices[chosen];
    if (strcmp(bias, "none") == 0)
        return true;
    if (strcmp(bias, "all") == 0)
        return cb_layer_visit(root, plan_bias_of_layer, adapter);
    for (size_t i = 0; i < adapter->module_count; i++)
        if (!plan_bias_of_layer(adapter, adapter->modules[i]->layer))
            return false;
    return true;
}

/* A head tied to an embedding that is trained whole keeps the original weight. */
static bool plan_pin(void *user, cb_layer *layer)
{
    cb_adapter *adapter = user;
    if (!layer->tied || cb_layer_own_weight(layer, "weight") || layer == adapter->follower)
        return true;
    for (size_t i = 0; i < adapter->trained_count; i++)
        if (adapter->trained[i].layer == layer->tied && strcmp(adapter->trained[i].name, "weight") == 0)
            return plan_weight(adapter, layer, "weight", true);
    return true;
}

/* Takes over `name`; NULL when there is no memory. */
static cb_adapter_entry *list_entry(cb_adapter *adapter, char *name, int ndim, const int64_t *shape)
{
    if (!name || !cb_grow(&adapter->entries, &adapter->entry_capacity, adapter->entry_count + 1, sizeof *adapter->entries)) {
        cb_free(name);
        return NULL;
    }
    cb_adapter_entry *entry = &adapter->entries[adapter->entry_count++];
    *entry = (cb_adapter_entry){.name = name, .ndim = ndim, .role = CB_ROLE_TRAINED, .filed = true};
    memcpy(entry->shape, shape, (size_t)ndim * sizeof *shape);
    return entry;
}

static bool hosts_our_module(const cb_adapter *adapter, const cb_layer *layer)
{
    for (size_t i = 0; i < adapter->module_count; i++)
        if (adapter->modules[i]->layer == layer)
            return true;
    return false;
}

/* Those of virtual tokens have no prefix. */
static char *parameter_name(const cb_adapter *adapter, const cb_module *m, const char *suffix)
{
    if (!m)
        return cb_format(CB_PEFT_GROUP_PREFIX "%s", suffix);
    return m->kind->virtual_tokens ? cb_strdup(suffix) : cb_format(CB_PEFT_PREFIX "%s.%s", cb_filed_name(adapter, m->layer), suffix);
}

/* The parameters of a module, or (m NULL) of all together. */
static bool list_parameters(cb_adapter *adapter, cb_module *m, const cb_adapter_parameter *list, int count)
{
    for (int i = 0; i < count; i++) {
        char *name = parameter_name(adapter, m, list[i].suffix);
        cb_adapter_entry *entry = list_entry(adapter, name, list[i].ndim, list[i].shape);
        if (!entry)
            return false;
        entry->role = list[i].role & ~(CB_ROLE_I32 | CB_ROLE_I16 | CB_ROLE_U8 | CB_ROLE_UNFILED);
        entry->filed = entry->role != CB_ROLE_PRIVATE && entry->role != CB_ROLE_STATE && !(list[i].role & CB_ROLE_UNFILED);
        entry->stored_as = list[i].role & CB_ROLE_I16 ? "I16" : list[i].role & CB_ROLE_U8 ? "U8" : NULL;
        entry->dtype = list[i].role & CB_ROLE_I32 ? CB_I32 : CB_F32;
        entry->module = m;
        entry->suffix = list[i].suffix;
        entry->slot = list[i].tensor;
    }
    return true;
}

static bool list_module_entries(cb_adapter *adapter, cb_module *m)
{
    cb_adapter_parameter list[CB_MODULE_PARAMETERS];
    return list_parameters(adapter, m, list, cb_adapter_module_of(m)->kind->parameters(m, list));
}

static bool list_group_entries(cb_adapter *adapter)
{
    cb_adapter_parameter list[CB_MODULE_PARAMETERS];
    int (*parameters)(const cb_adapter_group *, cb_adapter_parameter *) = adapter->kind->group_parameters;
    return !parameters || list_parameters(adapter, NULL, list, parameters(&adapter->group, list));
}

/* PEFT's files hold a tied head's weight as well. */
static bool list_follower(cb_adapter *adapter, size_t trained)
{
    const cb_tensor *base = cb_layer_weight(adapter->follower, "weight");
    cb_adapter_entry *entry =
        list_entry(adapter, cb_format(CB_PEFT_PREFIX "%s.weight", cb_filed_name(adapter, adapter->follower)), base->ndim, base->shape);
    if (!entry)
        return false;
    entry->trained = trained;
    entry->role = CB_ROLE_ECHO;
    return true;
}

static bool list_entries(cb_adapter *adapter)
{
    if (!list_group_entries(adapter))
        return false;
    for (size_t i = 0; i < adapter->module_count; i++)
        if (!list_module_entries(adapter, adapter->modules[i]))
            return false;
    for (size_t i = 0; i < adapter->trained_count; i++) {
        const cb_trained_weight *trained = &adapter->trained[i];
        if (trained->pinned)
            continue;
        const cb_tensor *base = cb_layer_weight(trained->layer, trained->name);
        /* PEFT wraps the layers it adapts, which shows in the names of their own weights */
        const char *wrap = hosts_our_module(adapter, trained->layer) ? ".base_layer" : "";
        cb_adapter_entry *entry =
            list_entry(adapter, cb_format(CB_PEFT_PREFIX "%s%s.%s", cb_filed_name(adapter, trained->layer), wrap, trained->name),
                       base->ndim, base->shape);
        if (!entry)
            return false;
        entry->trained = i;
        if (adapter->follower && trained->layer == adapter->follower->tied && !list_follower(adapter, i))
            return false;
    }
    return true;
}

/* Modules on the layers that the options hit; of a head and an embedding that stay tied the head's follows the embedding's. */
static bool plan_targets(cb_adapter *adapter, cb_layer *root, cb_layer *head, const char *model_type, bool fresh)
{
    cb_layer **layers;
    size_t count;
    bool ok = cb_match_targets(adapter, root, model_type, &layers, &count, &adapter->resolved_targets, &adapter->resolved_is_pattern,
                               &adapter->by_modules);
    adapter->group.by_modules = adapter->by_modules;
    bool tied = ok && cb_tied_replace(head, layers, &count);
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_adapter_plan_module(adapter, adapter->kind, adapter->config, layers[i], fresh);
    cb_free(layers);
    return ok && (!tied || cb_lora_plan_tied(adapter, head, fresh));
}

static bool is_target(const cb_adapter *adapter, const cb_layer *layer)
{
    for (size_t i = 0; i < adapter->module_count; i++)
        if (adapter->modules[i]->layer == layer)
            return true;
    for (size_t i = 0; i < adapter->target.target_modules.count; i++)
        if (cb_ends_with(cb_filed_name(adapter, layer), adapter->target.target_modules.items[i]))
            return true;
    return false;
}

/* Of two that stay tied one cannot be trained whole and the other by factors, nor one be named for both: PEFT has no such thing either. */
static bool check_follower(const cb_adapter *adapter)
{
    const cb_layer *head = adapter->follower;
    if (!head || (!is_target(adapter, head) && !is_target(adapter, head->tied)))
        return true;
    return cb_fail(CB_ERR_ARGUMENT,
                   "ensure_weight_tying: found layer %s or %s, tied to it, in target_modules and in modules_to_save; expected one of these",
                   head->name, head->tied->name) == CB_OK;
}

static bool plan_saved(cb_adapter *adapter, cb_layer *root, cb_layer *head, bool fresh)
{
    bool ok = cb_match_saved(adapter, root, fresh, &adapter->saved, &adapter->saved_count) && cb_resolve_saved(adapter);
    if (ok && cb_tied_replace(head, adapter->saved, &adapter->saved_count))
        adapter->follower = head;
    ok = ok && check_follower(adapter);
    for (size_t i = 0; ok && i < adapter->saved_count; i++)
        ok = cb_layer_visit(adapter->saved[i], plan_saved_layer, adapter);
    return ok;
}

bool cb_adapter_plan(cb_adapter *adapter, cb_layer *root, const char *model_type, bool fresh)
{
    if (adapter->attached)
        return cb_fail(CB_ERR_STATE, "adapter %s is attached already", adapter->name) == CB_OK;
    adapter->attached = true; /* so that detach cleans up */
    adapter->root = root;
    adapter->group = (cb_adapter_group){.config = adapter->config, .state = cb_calloc(1, adapter->kind->group_size)};
    if (!adapter->group.state)
        return false;
    if (adapter->kind->check && !adapter->kind->check(adapter->config, NULL))
        return false;
    cb_layer *head = cb_tied_head(adapter, root);
    const cb_string_list *tokens = adapter->kind->tokens ? adapter->kind->tokens(adapter->config) : NULL;
    return plan_targets(adapter, root, head, model_type, fresh) && plan_saved(adapter, root, head, fresh) &&
           (!tokens || !tokens->count || cb_tokens_plan(adapter, root, tokens, cb_keeps_weights_tied(adapter), fresh)) &&
           cb_tokens_plan_tied(adapter, root, fresh) && plan_biases(adapter, root) && cb_layer_visit(root, plan_pin, adapter) &&
           list_entries(adapter);
}

/* ---- tensors ---- */

static cb_tensor *entry_memory(const cb_adapter_entry *entry, const cb_weight_entry *found, cb_held_map *held)
{
    if (!found)
        return cb_full_nd(entry->dtype, 0, entry->ndim, entry->shape);
    if (held && entry->dtype == CB_F32 && found->dtype == CB_F32 && (uintptr_t)found->data % sizeof(float) == 0)
        return cb_wrap_held(CB_F32, (void *)(uintptr_t)found->data, entry->ndim, entry->shape, held);
    return cb_empty_nd(entry->dtype, entry->ndim, entry->shape);
}

static bool allocate_entry(cb_adapter_entry *entry, const cb_weight_entry *found, cb_held_map *held)
{
    cb_tensor *t = entry_memory(entry, found, held);
    if (!t || (entry->role == CB_ROLE_TRAINED && !cb_parameter(t)))
        return false;
    *entry->slot = cb_keep(t);
    return true;
}

/* Gives a tied layer the shared weight as its own, in a form that cb_layer_train_copy(..., false) takes back. */
static bool pin_weight(cb_layer *layer, const char *name)
{
    cb_tensor *shared = cb_layer_weight(layer, name);
    if (!cb_layer_add_weight(layer, name, shared))
        return false;
    layer->weights[layer->weight_count - 1].frozen = cb_keep(shared);
    return true;
}

bool cb_adapter_allocate(cb_adapter *adapter, const cb_weight_entry *const *found, cb_held_map *held)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope != NULL;
    for (size_t i = 0; ok && i < adapter->entry_count; i++)
        ok = !adapter->entries[i].slot || allocate_entry(&adapter->entries[i], found ? found[i] : NULL, held);
    /* pins first: they keep the weight that the embedding has now */
    for (int pinned = 1; pinned >= 0; pinned--)
        for (size_t i = 0; ok && i < adapter->trained_count; i++) {
            cb_trained_weight *trained = &adapter->trained[i];
            if (trained->pinned != (pinned == 1))
                continue;
            ok = pinned ? pin_weight(trained->layer, trained->name) : cb_layer_train_copy(trained->layer, trained->name, CB_F32, true);
            trained->active = ok;
        }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

cb_tensor *cb_adapter_entry_tensor(const cb_adapter *adapter, const cb_adapter_entry *entry)
{
    if (entry->suffix)
        return entry->slot ? *entry->slot : NULL;
    const cb_trained_weight *trained = &adapter->trained[entry->trained];
    return trained->hidden ? trained->hidden : cb_layer_weight(trained->layer, trained->name);
}

cb_tensor *cb_adapter_entry_stored(const cb_adapter *adapter, const cb_adapter_entry *entry)
{
    const cb_adapter_kind *kind = entry->module ? cb_adapter_module_of(entry->module)->kind : NULL;
    cb_tensor *made = NULL;
    if (kind && kind->stored)
        cb_no_grad made = cb_contiguous(kind->stored(entry->module, entry->suffix));
    return made || !cb_ok() ? made : cb_adapter_entry_tensor(adapter, entry);
}

static bool modules_ready(cb_adapter *adapter, bool fresh)
{
    bool ok = true;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    if (adapter->kind->group_ready)
        cb_no_grad ok = adapter->kind->group_ready(&adapter->group, fresh);
    cb_no_grad for (size_t i = 0; ok && i < adapter->module_count; i++)
    {
        const cb_adapter_module *m = cb_adapter_module_of(adapter->modules[i]);
        ok = !m->kind->ready || m->kind->ready(adapter->modules[i], m->config, fresh);
    }
    cb_scope_close(scope);
    return ok;
}

bool cb_adapter_connect(cb_adapter *adapter, bool fresh)
{
    if (!modules_ready(adapter, fresh))
        return false;
    adapter->parameters = cb_calloc(adapter->entry_count, sizeof *adapter->parameters);
    adapter->state = cb_calloc(adapter->entry_count, sizeof *adapter->state);
    if (!adapter->parameters || !adapter->state)
        return false;
    for (size_t i = 0; i < adapter->entry_count; i++) {
        const cb_adapter_entry *entry = &adapter->entries[i];
        if (entry->role == CB_ROLE_TRAINED)
            adapter->parameters[adapter->parameter_count++] = (cb_named_tensor){entry->name, cb_adapter_entry_tensor(adapter, entry)};
        else if (entry->role == CB_ROLE_STATE)
            adapter->state[adapter->state_count++] = (cb_named_tensor){entry->name, cb_adapter_entry_tensor(adapter, entry)};
    }
    adapter->connected = true;
    for (size_t i = 0; i < adapter->module_count; i++)
        if (adapter->strength != 0 && !cb_layer_attach(adapter->modules[i]->layer, adapter->modules[i]))
            return false;
    return true;
}

static bool initialise_modules(cb_adapter *adapter, uint64_t seed)
{
    bool ok = true;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    if (adapter->kind->group_initialise)
        cb_no_grad ok = adapter->kind->group_initialise(&adapter->group, seed);
    cb_no_grad for (size_t i = 0; ok && i < adapter->module_count; i++)
    {
        const cb_adapter_module *m = cb_adapter_module_of(adapter->modules[i]);
        ok = !m->kind->initialise || m->kind->initialise(adapter->modules[i], m->config, seed);
    }
    cb_scope_close(scope);
    return ok;
}

bool cb_adapter_attach(cb_adapter *adapter, cb_layer *root, const char *model_type, uint64_t seed)
{
    if (adapter->attached)
        return cb_fail(CB_ERR_STATE, "adapter %s is attached already", adapter->name) == CB_OK;
    bool ok = cb_adapter_plan(adapter, root, model_type, true) && cb_adapter_allocate(adapter, NULL, NULL) &&
              initialise_modules(adapter, seed) && cb_adapter_connect(adapter, true);
    for (size_t i = 0; i < adapter->module_count; i++)
        ((cb_adapter_module *)adapter->modules[i])->given = NULL;
    cb_given_free(adapter);
    if (!ok)
        cb_adapter_detach(adapter);
    return ok;
}

/* ---- strength, and the way back ---- */

/* Swaps our copy of a base weight in or out; references move along. */
static void show_weight(cb_trained_weight *trained, bool show)
{
    if (!trained->active || show == !trained->hidden)
        return;
    cb_weight *weight = cb_layer_own_weight(trained->layer, trained->name);
    if (show && weight->frozen) {
        cb_fail(CB_ERR_STATE, "layer %s: another adapter already trains its %s", trained->layer->name, trained->name);
    } else if (show) {
        weight->frozen = weight->tensor;
        weight->tensor = trained->hidden;
        trained->hidden = NULL;
    } else {
        trained->hidden = weight->tensor;
        weight->tensor = weight->frozen;
        weight->frozen = NULL;
    }
}

/* What is off is on no list: forward passes do not meet it, however many adapters are loaded. */
void cb_adapter_set_strength(cb_adapter *adapter, double strength)
{
    adapter->strength = strength;
    for (size_t i = 0; i < adapter->module_count; i++) {
        cb_module *m = adapter->modules[i];
        m->strength = strength;
        if (strength == 0)
            cb_layer_detach(m->layer, m);
        else if (adapter->connected)
            cb_layer_attach(m->layer, m);
    }
    for (size_t i = 0; i < adapter->trained_count; i++)
        show_weight(&adapter->trained[i], strength != 0);
}

double cb_adapter_strength(const cb_adapter *adapter)
{
    return adapter->strength;
}

void cb_adapter_detach(cb_adapter *adapter)
{
    if (!adapter->attached)
        return;
    for (size_t i = 0; i < adapter->trained_count; i++) {
        cb_trained_weight *trained = &adapter->trained[i];
        show_weight(trained, true);
        if (trained->active)
            cb_layer_train_copy(trained->layer, trained->name, CB_F32, false);
    }
    for (size_t i = 0; i < adapter->entry_count; i++) {
        if (adapter->entries[i].slot)
            cb_release(*adapter->entries[i].slot);
        cb_free(adapter->entries[i].name);
    }
    for (size_t i = 0; i < adapter->module_count; i++) {
        cb_layer_detach(adapter->modules[i]->layer, adapter->modules[i]);
        cb_free(adapter->modules[i]);
    }
    cb_free(adapter->group.state);
    cb_free(adapter->modules);
    cb_free(adapter->saved);
    cb_free(adapter->trained);
    cb_free(adapter->entries);
    cb_free(adapter->parameters);
    cb_free(adapter->state);
    cb_free(adapter->companion);
    cb_string_list_free(&adapter->resolved_targets);
    cb_string_list_free(&adapter->resolved_saved);
    cb_adapter kept = {.kind = adapter->kind,
                       .name = adapter->name,
                       .config = adapter->config,
                       .target = adapter->target,
                       .common = adapter->common,
                       .given = adapter->given,
                       .given_count = adapter->given_count,
                       .given_capacity = adapter->given_capacity,
                       .strength = adapter->strength};
    *adapter = kept;
}
