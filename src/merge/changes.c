/* changes.c: which weights of a base model its adapters change, and their new values. */
#include <string.h>

#include "merge/internal.h"

static cb_change *change_of(cb_changes *changes, cb_layer *layer, const char *name)
{
    for (size_t i = 0; i < changes->count; i++)
        if (changes->list[i].layer == layer && strcmp(changes->list[i].name, name) == 0)
            return &changes->list[i];
    if (!cb_grow(&changes->list, &changes->capacity, changes->count + 1, sizeof *changes->list))
        return NULL;
    changes->list[changes->count] = (cb_change){.layer = layer, .name = name};
    return &changes->list[changes->count++];
}

static cb_input_change input_of(const cb_module *m)
{
    return m->kind->input ? m->kind->input(m) : CB_INPUT_KEPT;
}

/* A layer runs its modules in their order, whatever that of the adapters, and not every change is a sum.  All of them see the input that
 * `before` made, so W + B A and a rotation R of the input are (W + B A) R: what changes the input comes last, and of several the one that
 * ran first is nearest to x. */
static bool comes_before(const cb_module *a, const cb_module *b)
{
    bool input_a = input_of(a) != CB_INPUT_KEPT, input_b = input_of(b) != CB_INPUT_KEPT;
    if (input_a != input_b)
        return input_b;
    return input_a ? a->order > b->order : a->order < b->order;
}

/* One that changes input and result at once is merged as one change, which is right if nothing acts on its result. */
static bool check_results(const cb_change *change)
{
    for (size_t i = 0; i < change->module_count; i++)
        for (size_t k = 0; k < change->module_count; k++) {
            const cb_module *both = change->modules[i], *later = change->modules[k];
            if (input_of(both) == CB_INPUT_AND_RESULT && input_of(later) != CB_INPUT_ALONE && later->order > both->order)
                return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: %s after %s cannot be merged, expected it before", change->layer->name,
                               later->kind->name, both->kind->name) == CB_OK;
        }
    return true;
}

static bool add_module(cb_changes *changes, cb_module *m, const char *name)
{
    cb_change *change = change_of(changes, m->layer, name);
    if (!change || !cb_grow(&change->modules, &change->module_capacity, change->module_count + 1, sizeof *change->modules))
        return false;
    size_t at = change->module_count++;
    for (; at > 0 && comes_before(m, change->modules[at - 1]); at--)
        change->modules[at] = change->modules[at - 1];
    change->modules[at] = m;
    return check_results(change);
}

/* Whether a module changes the bias is known by asking it. */
static bool changes_bias(const cb_module *m, bool *changes)
{
    *changes = false;
    if (!m->kind->delta_bias)
        return true;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_no_grad *changes = m->kind->delta_bias(m, cb_cast(cb_layer_weight(m->layer, "bias"), CB_F32)) != NULL;
    cb_scope_close(scope);
    return cb_ok();
}

static bool collect_module(cb_changes *changes, cb_module *m)
{
    if (!m->kind->delta && !m->kind->delta_bias)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: a module of kind %s is no change of its weight and cannot be merged", m->layer->name,
                       m->kind->name) == CB_OK;
    bool bias;
    if (!changes_bias(m, &bias) || (m->kind->delta && !add_module(changes, m, "weight")))
        return false;
    if (!bias)
        return true;
    if (!cb_layer_own_weight(m->layer, "bias"))
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: its %s adds a bias, and the layer of the base has none to merge it into",
                       m->layer->name, m->kind->name) == CB_OK;
    return add_module(changes, m, "bias");
}

/* What collect_trained looks for: weights that one adapter trains in place of the frozen ones. */
typedef struct trained_search {
    cb_changes *changes;
    const cb_named_tensor *parameters;
    size_t count;
} trained_search;

static bool trains(const trained_search *search, const cb_tensor *tensor)
{
    for (size_t i = 0; i < search->count; i++)
        if (search->parameters[i].tensor == tensor)
            return true;
    return false;
}

/* An embedding that has another one's weight (T5's two stacks) has no tensor of its own in files. */
static bool check_apart(const cb_layer *layer)
{
    return layer->output ||
           cb_fail(CB_ERR_UNSUPPORTED,
                   "layer %s: has the weight of layer %s, which a file of the model holds once: found an adapter that changes it, "
                   "which can be used and not merged",
                   layer->name, layer->tied->name) == CB_OK;
}

/* A head that was tied to a trained embedding holds the original: it changes in that it must now be written out. */
static bool collect_trained(void *user, cb_layer *layer)
{
    trained_search *search = user;
    for (int i = 0; i < layer->weight_count; i++) {
        const cb_weight *weight = &layer->weights[i];
        bool untied = weight->frozen && layer->tied && trains(search, cb_layer_weight(layer->tied, weight->name));
        if (weight->frozen && layer->tied && (untied || trains(search, weight->tensor)) && !check_apart(layer))
            return false;
        if (weight->frozen && (untied || trains(search, weight->tensor)) && !change_of(search->changes, layer, weight->name))
            return false;
    }
    return true;
}

typedef struct untied_search {
    cb_changes *changes;
    cb_adapter *const *adapters;
    size_t count;
} untied_search;

static size_t modules_that_change(const cb_changes *changes, const cb_layer *layer)
{
    for (size_t i = 0; i < changes->count; i++)
        if (changes->list[i].layer == layer && strcmp(changes->list[i].name, "weight") == 0)
            return changes->list[i].module_count;
    return 0;
}

/* How many of the adapters' modules on a layer follow others; with `add` they become changes of its own weight. */
static bool followers_on(const untied_search *search, const cb_layer *layer, bool add, size_t *found)
{
    *found = 0;
    for (size_t i = 0; i < search->count; i++) {
        cb_module *const *modules;
        size_t count = cb_adapter_modules(search->adapters[i], &modules);
        for (size_t k = 0; k < count; k++) {
            if (modules[k]->layer != layer || !modules[k]->follows || modules[k]->strength == 0)
                continue;
            ++*found;
            if (add && !add_module(search->changes, modules[k], "weight"))
                return false;
        }
    }
    return true;
}

/* So does a head that is tied to an embedding which modules change, unless all of them have followers on the head and nothing else is
 * there: what they add is added to rows that go in, not to those that come out. */
static bool collect_untied(void *user, cb_layer *layer)
{
    untied_search *search = user;
    size_t shared = layer->tied ? modules_that_change(search->changes, layer->tied) : 0, followers;
    if (layer->tied && (shared || modules_that_change(search->changes, layer)) && !check_apart(layer))
        return false;
    if (!shared || !followers_on(search, layer, false, &followers))
        return !shared;
    if (followers == shared && !modules_that_change(search->changes, layer))
        return true;
    return change_of(search->changes, layer, "weight") && followers_on(search, layer, true, &followers);
}

static cb_layer *root_of(cb_layer *layer)
{
    while (layer->parent)
        layer = layer->parent;
    return layer;
}

bool cb_changes_collect(cb_changes *changes, cb_adapter *const *adapters, size_t count)
{
    *changes = (cb_changes){0};
    cb_layer *root = NULL;
    for (size_t i = 0; i < count; i++) {
        cb_module *const *modules;
        size_t module_count = cb_adapter_modules(adapters[i], &modules);
        if (!module_count)
            return cb_fail(CB_ERR_STATE, "adapter %s is not attached", cb_adapter_name(adapters[i])) == CB_OK;
        for (size_t k = 0; k < module_count; k++)
            if (modules[k]->strength != 0 && !modules[k]->follows && !collect_module(changes, modules[k]))
                return false;
        trained_search search = {.changes = changes};
        search.count = cb_adapter_parameters(adapters[i], &search.parameters);
        root = root_of(modules[0]->layer);
        if (!cb_layer_visit(root, collect_trained, &search))
            return false;
    }
    return !root || cb_layer_visit(root, collect_untied, &(untied_search){changes, adapters, count});
}

void cb_changes_free(cb_changes *changes)
{
    for (size_t i = 0; i < changes->count; i++)
        cb_free(changes->list[i].modules);
    cb_free(changes->list);
    *changes = (cb_changes){0};
}

cb_tensor *cb_change_apply(const cb_change *change, cb_tensor *base)
{
    const cb_weight *own = cb_layer_own_weight(change->layer, change->name);
    cb_tensor *value = own && own->frozen ? own->tensor : base;
    bool is_bias = strcmp(change->name, "bias") == 0;
    cb_no_grad
    {
        value = cb_detach(cb_cast(value, CB_F32));
        for (size_t i = 0; value && i < change->module_count; i++) {
            const cb_module *m = change->modules[i];
            cb_tensor *delta = is_bias ? m->kind->delta_bias(m, value) : m->kind->delta(m, value);
            if (delta)
                value = cb_add(value, delta);
            else if (!cb_ok())
                value = NULL;
        }
    }
    return value;
}
