/* layer.c: the tree of layers: making, naming, finding, weights and the list of modules.
 *
 * A layer owns its children and one reference to each of its tensors.  Modules belong to their adapter; a layer only
 * lists them. */
#include <string.h>

#include "cambium/nn.h"
#include "tensor/op.h"

cb_layer *cb_layer_new(cb_layer *parent, const char *name, cb_layer_kind kind)
{
    cb_layer *layer = cb_calloc(1, sizeof *layer);
    if (!layer)
        return NULL;
    layer->kind = kind;
    layer->parent = parent;
    cb_layer *root = layer;
    while (root->parent)
        root = root->parent;
    layer->index = root->made++;
    layer->name = parent && *parent->name ? cb_format("%s.%s", parent->name, name) : cb_strdup(name);
    if (!layer->name)
        goto failed;
    if (parent) {
        if (!cb_grow(&parent->children, &parent->child_capacity, parent->child_count + 1, sizeof *parent->children))
            goto failed;
        parent->children[parent->child_count++] = layer;
    }
    return layer;
failed:
    cb_free(layer->name);
    cb_free(layer);
    return NULL;
}

/* Takes the layer out of its parent's list, so that a part of a tree can be freed alone. */
static void leave_parent(cb_layer *layer)
{
    cb_layer *parent = layer->parent;
    for (size_t i = 0; parent && i < parent->child_count; i++) {
        if (parent->children[i] != layer)
            continue;
        parent->child_count--;
        memmove(parent->children + i, parent->children + i + 1, (parent->child_count - i) * sizeof *parent->children);
        return;
    }
}

void cb_layer_free(cb_layer *layer)
{
    if (!layer)
        return;
    while (layer->child_count)
        cb_layer_free(layer->children[layer->child_count - 1]);
    leave_parent(layer);
    for (size_t i = 0; i < layer->module_count; i++)
        layer->modules[i]->layer = NULL;
    for (int i = 0; i < layer->weight_count; i++) {
        cb_release(layer->weights[i].tensor);
        cb_release(layer->weights[i].frozen);
    }
    for (int i = 0; i < layer->buffer_count; i++)
        cb_release(layer->buffers[i].tensor);
    cb_free(layer->children);
    cb_free(layer->modules);
    cb_free(layer->name);
    cb_free(layer->module_name);
    cb_free(layer);
}

/* ---- weights ---- */

cb_weight *cb_layer_own_weight(const cb_layer *layer, const char *name)
{
    for (int i = 0; i < layer->weight_count; i++)
        if (!strcmp(layer->weights[i].name, name))
            return (cb_weight *)&layer->weights[i];
    return NULL;
}

/* Where a weight that a layer has not itself is; NULL: nowhere. */
static const cb_layer *shared_at(const cb_layer *layer, const char *name)
{
    return layer->bias_at && strcmp(name, "bias") == 0 ? layer->bias_at : layer->tied;
}

cb_tensor *cb_layer_weight(const cb_layer *layer, const char *name)
{
    for (; layer; layer = shared_at(layer, name)) {
        const cb_weight *weight = cb_layer_own_weight(layer, name);
        if (weight)
            return weight->tensor;
    }
    return NULL;
}

bool cb_layer_add_weight(cb_layer *layer, const char *name, cb_tensor *tensor)
{
    if (!layer || !tensor)
        return false;
    if (cb_layer_own_weight(layer, name) || layer->weight_count == CB_LAYER_WEIGHTS) {
        cb_fail(CB_ERR_ARGUMENT, "layer %s cannot take another weight named %s", layer->name, name);
        return false;
    }
    layer->weights[layer->weight_count++] = (cb_weight){.name = name, .tensor = cb_keep(tensor)};
    return true;
}

bool cb_layer_add_buffer(cb_layer *layer, const char *name, cb_tensor *tensor)
{
    if (!layer || !tensor)
        return false;
    if (cb_layer_buffer(layer, name) || layer->buffer_count == CB_LAYER_BUFFERS)
        return cb_fail(CB_ERR_ARGUMENT, "layer %s cannot take another buffer named %s", layer->name, name) == CB_OK;
    layer->buffers[layer->buffer_count++] = (cb_buffer){.name = name, .tensor = cb_keep(tensor)};
    return true;
}

cb_tensor *cb_layer_buffer(const cb_layer *layer, const char *name)
{
    for (int i = 0; i < layer->buffer_count; i++)
        if (!strcmp(layer->buffers[i].name, name))
            return layer->buffers[i].tensor;
    return NULL;
}

/* "rnn.bias_ih_l0" of the layer "rnn.weight_ih_l0". */
static char *recurrent_bias_name(const char *layer)
{
    static const char weight[] = "weight";
    const char *dot = strrchr(layer, '.'), *last = dot ? dot + 1 : layer;
    return cb_format("%.*sbias%s", (int)(last - layer), layer, last + sizeof weight - 1);
}

char *cb_layer_weight_name(const cb_layer *layer, const char *name)
{
    if (layer->recurrent)
        return strcmp(name, "bias") == 0 ? recurrent_bias_name(layer->name) : cb_strdup(layer->name);
    return *layer->name ? cb_format("%s.%s", layer->name, name) : cb_strdup(name);
}

static bool missing(const cb_layer *layer, const char *name)
{
    cb_fail(CB_ERR_ARGUMENT, "layer %s has no weight named %s", layer->name, name);
    return false;
}

bool cb_layer_set_weight(cb_layer *layer, const char *name, cb_tensor *tensor)
{
    if (!layer || !tensor)
        return false;
    cb_weight *weight = cb_layer_own_weight(layer, name);
    if (!weight)
        return missing(layer, name);
    if (!cb_same_shape(weight->tensor, tensor)) {
        cb_fail(CB_ERR_SHAPE, "layer %s: %s is %s, found %s", layer->name, name, cb_shape_text(weight->tensor), cb_shape_text(tensor));
        return false;
    }
    cb_keep(tensor);
    cb_release(weight->tensor);
    weight->tensor = tensor;
    return true;
}

/* Its own or that of the layer it is tied to, as it is without adapters. */
static cb_tensor *base_weight(const cb_layer *layer, const char *name)
{
    for (; layer; layer = shared_at(layer, name)) {
        const cb_weight *weight = cb_layer_own_weight(layer, name);
        if (weight)
            return weight->frozen ? weight->frozen : weight->tensor;
    }
    return NULL;
}

static bool train(cb_layer *layer, const char *name, cb_dtype dtype)
{
    cb_tensor *frozen = base_weight(layer, name);
    if (!frozen)
        return missing(layer, name);
    cb_scope *scope = cb_scope_open();
    cb_tensor *copy = scope ? cb_empty_nd(dtype, frozen->ndim, frozen->shape) : NULL;
    bool ok = copy && cb_copy_into(copy, frozen) && cb_parameter(copy);
    cb_weight *weight = cb_layer_own_weight(layer, name);
    if (ok && !weight) {
        ok = cb_layer_add_weight(layer, name, copy);
        if (ok)
            layer->weights[layer->weight_count - 1].frozen = cb_keep(frozen);
    } else if (ok) {
        weight->frozen = frozen; /* the layer's reference moves along */
        weight->tensor = cb_keep(copy);
    }
    if (ok)
        cb_let_go_of_file(frozen);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

static void take_back(cb_layer *layer, cb_weight *weight)
{
    cb_release(weight->tensor);
    weight->tensor = weight->frozen;
    weight->frozen = NULL;
    if (!cb_layer_weight(shared_at(layer, weight->name), weight->name))
        return;
    cb_release(weight->tensor);
    layer->weight_count--;
    cb_weight *end = layer->weights + layer->weight_count;
    memmove(weight, weight + 1, (size_t)((char *)end - (char *)weight));
}

bool cb_layer_train_copy(cb_layer *layer, const char *name, cb_dtype dtype, bool on)
{
    if (!layer)
        return false;
    cb_weight *weight = cb_layer_own_weight(layer, name);
    bool trained = weight && weight->frozen;
    if (on)
        return trained || train(layer, name, dtype);
    if (trained)
        take_back(layer, weight);
    return true;
}

/* ---- modules ---- */

bool cb_layer_attach(cb_layer *layer, cb_module *module)
{
    if (!layer || !module)
        return false;
    for (size_t i = 0; i < layer->module_count; i++)
        if (layer->modules[i] == module)
            return true;
    if (!cb_grow(&layer->modules, &layer->module_capacity, layer->module_count + 1, sizeof *layer->modules))
        return false;
    module->layer = layer;
    if (!module->order)
        module->order = ++layer->attached;
    size_t at = layer->module_count++;
    for (; at > 0 && layer->modules[at - 1]->order > module->order; at--)
        layer->modules[at] = layer->modules[at - 1];
    layer->modules[at] = module;
    return true;
}

void cb_layer_detach(cb_layer *layer, cb_module *module)
{
    for (size_t i = 0; layer && i < layer->module_count; i++) {
        if (layer->modules[i] != module)
            continue;
        layer->module_count--;
        memmove(layer->modules + i, layer->modules + i + 1, (layer->module_count - i) * sizeof *layer->modules);
        return;
    }
}

/* ---- the tree ---- */

static cb_layer *find_by_name(cb_layer *root, const char *name)
{
    size_t length = strlen(root->name);
    if (strncmp(root->name, name, length) != 0)
        return NULL;
    if (!name[length])
        return root;
    if (length && name[length] != '.')
        return NULL;
    for (size_t i = 0; i < root->child_count; i++) {
        cb_layer *found = find_by_name(root->children[i], name);
        if (found)
            return found;
    }
    return NULL;
}

typedef struct module_search {
    const char *name;
    cb_layer *found;
} module_search;

static bool look_for_module(void *user, cb_layer *layer)
{
    module_search *search = user;
    if (layer->module_name && strcmp(layer->module_name, search->name) == 0)
        search->found = layer;
    return !search->found;
}

cb_layer *cb_layer_find(cb_layer *root, const char *name)
{
    if (!root || !name)
        return NULL;
    module_search search = {.name = name, .found = find_by_name(root, name)};
    if (!search.found)
        cb_layer_visit(root, look_for_module, &search);
    return search.found;
}

const char *cb_layer_module_name(const cb_layer *layer)
{
    return layer->module_name ? layer->module_name : layer->name;
}

/* "rnn.bias_ih_l0" as "rnn.weight_ih_l0"; NULL (no error): it is no name of such a bias. */
static char *weight_for_bias(const char *tensor)
{
    static const char bias[] = "bias_";
    const char *dot = strrchr(tensor, '.'), *last = dot ? dot + 1 : tensor;
    return strncmp(last, bias, sizeof bias - 1) ? NULL : cb_format("%.*sweight%s", (int)(last - tensor), tensor, last + sizeof bias - 2);
}

cb_layer *cb_layer_of_tensor(cb_layer *root, const char *tensor, const char **weight)
{
    const char *dot = strrchr(tensor, '.');
    char *stem = dot ? cb_strndup(tensor, (size_t)(dot - tensor)) : NULL;
    cb_layer *found = stem ? cb_layer_find(root, stem) : NULL;
    *weight = dot ? dot + 1 : tensor;
    cb_free(stem);
    if (found && (cb_layer_own_weight(found, *weight) || cb_layer_buffer(found, *weight)))
        return found;
    char *other = weight_for_bias(tensor);
    cb_layer *whole = cb_layer_find(root, other ? other : tensor);
    if (whole && whole->recurrent) {
        *weight = other ? "bias" : "weight";
        found = whole;
    }
    cb_free(other);
    return found;
}

bool cb_layer_visit(cb_layer *root, cb_layer_visitor *visit, void *user)
{
    if (!root || !visit(user, root))
        return false;
    for (size_t i = 0; i < root->child_count; i++)
        if (!cb_layer_visit(root->children[i], visit, user))
            return false;
    return true;
}
