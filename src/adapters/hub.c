/* hub.c: directories of AdapterHub's package `adapters` (1.x) that hold bottleneck adapters or ReFT: adapter_config.json and
 * adapter.safetensors or pytorch_adapter.bin.  LoRA's are in lora_adapterhub.c.
 *
 * A tensor is named by where the package keeps the module:
 *     BLOCK.attention_adapters.adapters.NAME.*     after attention       BASE.invertible_adapters.NAME.*    behind the embedding
 *     BLOCK.output_adapters.adapters.NAME.*        after the MLP         BASE.shared_parameters.NAME.*      what modules share
 *     BLOCK.attention.output.adapters.NAME.*, BLOCK.output.adapters.NAME.*     the same two in BERT and RoBERTa
 *     BLOCK.reft_layer.refts.NAME.*                on a block's result
 * What the package keeps and the file does not say: a norm before the bottleneck is there twice; R of LoReFT is a product with a whole
 * (C, C) basis, of which only the result counts; DiReFT's file is NoReFT's, since subtract_projection is not written; whether the head has the
 * inverse of an invertible adapter depends on the model's class. */
#include "adapters/hub.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/bottleneck.h"
#include "adapters/orthogonal.h"
#include "adapters/reft.h"

#define CONFIG_NAME "adapter_config.json"

static json_t *load_config(const char *path)
{
    char *file = cb_path_join(path, CONFIG_NAME);
    json_t *config = file && cb_is_file(file) ? cb_json_load(file, 16u << 20) : NULL;
    cb_free(file);
    return config;
}

/* NULL: of another architecture; the package's own name for bottlenecks is null, or "bottleneck". */
static const cb_adapter_kind *kind_of(const json_t *own)
{
    const json_t *value = json_object_get(own, "architecture");
    const char *architecture = json_string_value(value);
    if (!json_is_object(own) || json_object_get(own, "configs"))
        return NULL;
    if (!architecture)
        return !value && !json_object_get(own, "non_linearity") ? NULL : &cb_kind_bottleneck;
    return strcmp(architecture, "bottleneck") == 0 ? &cb_kind_bottleneck : strcmp(architecture, "reft") == 0 ? &cb_kind_reft : NULL;
}

bool cb_hub_is(const char *path)
{
    json_t *config = load_config(path);
    bool found = kind_of(json_object_get(config, "config"));
    json_decref(config);
    return found;
}

/* ---- names ---- */

/* Blocks of BERT's kin close the MLP by BLOCK.output.dense, and then the package's modules are with that. */
static bool closes_by_output(cb_layer *block)
{
    char *name = cb_format("%s.output.dense", block->name);
    cb_layer *root = block;
    while (root->parent)
        root = root->parent;
    bool there = name && cb_layer_find(root, name);
    cb_free(name);
    return there;
}

char *cb_hub_place(const cb_layer *layer)
{
    cb_layer *block = layer->parent;
    if (!block || (layer->kind != CB_LAYER_ATTENTION && layer->kind != CB_LAYER_MLP))
        return NULL;
    bool attention = layer->kind == CB_LAYER_ATTENTION;
    if (closes_by_output(block))
        return cb_format(attention ? "%s.attention.output." : "%s.output.", block->name);
    return cb_format(attention ? "%s.attention_adapters." : "%s.output_adapters.", block->name);
}

/* What stands in the file for a module of `layer` and in front of its own names; NULL without an error: the package has no such place. */
static char *place_of(const cb_file_names *names, const cb_adapter_kind *kind, const cb_layer *layer)
{
    if (layer->kind == CB_LAYER_BLOCK)
        return kind == &cb_kind_reft ? cb_format("%s.reft_layer.refts.%s.", layer->name, names->name)
                                     : cb_format("%s.invertible_adapters.%s.", names->base, names->name);
    char *place = cb_hub_place(layer), *whole = place ? cb_format("%sadapters.%s.", place, names->name) : NULL;
    cb_free(place);
    return whole;
}

static char *entry_name(const cb_file_names *names, const cb_adapter *adapter, const cb_adapter_entry *entry)
{
    const char *own = entry->suffix, *inverted = "invertible_adapters.", *shared = "shared_parameters.";
    if (own && !entry->module && strncmp(own, shared, strlen(shared)) == 0)
        return cb_format("%s.%s%s.%s", names->base, shared, names->name, own + strlen(shared));
    char *place = own && entry->module ? place_of(names, adapter->kind, entry->module->layer) : NULL;
    if (!place) {
        if (cb_ok())
            cb_fail(CB_ERR_UNSUPPORTED,
                    "%s: found a tensor that AdapterHub's package has no place for: it has modules on attention, MLP and "
                    "blocks",
                    entry->name);
        return NULL;
    }
    if (strncmp(own, inverted, strlen(inverted)) == 0)
        own += strlen(inverted);
    char *name = cb_format("%s%s", place, own);
    cb_free(place);
    return name;
}

const cb_weight_entry *cb_hub_find(const cb_weights *file, const char *base, const char *name)
{
    const cb_weight_entry *found = cb_weights_find(file, name);
    size_t length = strlen(base);
    if (!found && strncmp(name, base, length) == 0 && name[length] == '.')
        found = cb_weights_find(file, name + length + 1);
    return found;
}

static const cb_weight_entry *find(const cb_file_names *names, const cb_adapter *adapter, const cb_weights *file,
                                   const cb_adapter_entry *entry)
{
    char *name = entry_name(names, adapter, entry);
    const cb_weight_entry *found = name ? cb_hub_find(file, names->base, name) : NULL;
    if (name && !found)
        cb_fail(CB_ERR_FORMAT, "%s is missing", name);
    cb_free(name);
    return found;
}

/* The name's end taken for another: the twin of a norm's tensor, or the basis of LoReFT's R. */
static char *renamed(const char *name, const char *end, const char *other)
{
    return cb_ends_with(name, end) ? cb_format("%.*s%s", (int)(strlen(name) - strlen(end)), name, other) : NULL;
}

static const char *const twins[][2] = {{"adapter_down.0.weight", "adapter_norm_before.weight"},
                                       {"adapter_down.0.bias", "adapter_norm_before.bias"}};
#define ORIGINAL "weight.original"
#define BASIS    "weight.0.base"

static bool knows(const cb_file_names *names, const cb_weights *file, const cb_weight_entry *tensor)
{
    (void)names;
    for (int i = 0; i < 2; i++) {
        char *name = renamed(tensor->name, twins[i][0], twins[i][1]);
        const cb_weight_entry *twin = name ? cb_weights_find(file, name) : NULL;
        cb_free(name);
        if (twin)
            return twin->size == tensor->size && memcmp(twin->data, tensor->data, tensor->size) == 0;
    }
    return cb_ends_with(tensor->name, BASIS);
}

/* ---- LoReFT's R ---- */

/* The rows that P and the basis (n, n) stand for: rows of P times the basis transposed, which P then stands for alone. */
static bool take_basis(const cb_module *m, cb_tensor *p, const cb_weight_entry *basis)
{
    const int64_t n = p->shape[1], square[] = {n, n};
    if (!cb_weight_entry_fits(basis, 2, square) || basis->dtype != CB_F32)
        return cb_fail(CB_ERR_SHAPE, "%s: found %s of %s for layer %s, expected f32 (%lld, %lld)", basis->name, basis->type_name,
                       cb_shape_text_nd(basis->ndim, basis->shape), m->layer->name, (long long)n, (long long)n) == CB_OK;
    cb_tensor *mask = cb_zeros_like(p);
    cb_tensor *rows = mask && cb_orthogonal_mask(mask) ? cb_orthogonal_rows(p, mask) : NULL;
    return rows && cb_orthogonal_set(p, cb_linear(rows, cb_from_nd(CB_F32, basis->data, 2, square), NULL));
}

static bool settle(const cb_file_names *names, cb_adapter *adapter, const cb_weights *file)
{
    bool ok = true;
    for (size_t i = 0; ok && i < adapter->entry_count; i++) {
        const cb_adapter_entry *entry = &adapter->entries[i];
        if (!entry->filed || !cb_ends_with(entry->name, ORIGINAL))
            continue;
        char *name = entry_name(names, adapter, entry), *other = name ? renamed(name, ORIGINAL, BASIS) : NULL;
        const cb_weight_entry *basis = other ? cb_hub_find(file, names->base, other) : NULL;
        cb_scope *scope = other ? cb_scope_open() : NULL;
        ok = scope;
        if (ok && basis)
            cb_no_grad ok = take_basis(entry->module, *entry->slot, basis);
        if (scope)
            cb_scope_close(scope);
        cb_free(name);
        cb_free(other);
    }
    return ok;
}

/* ---- reading the config ---- */

static bool put_text(json_t *object, const char *key, const char *text)
{
    return cb_json_put(object, key, json_string(text));
}

/* {"1": 8, "default": 16} is a factor for some blocks and one for the others. */
static bool split_factors(json_t *own)
{
    json_t *factors = json_object_get(own, "reduction_factor");
    if (!json_is_object(factors))
        return true;
    json_t *pattern = cb_json_copy(factors), *otherwise = json_object_get(factors, "default");
    if (!pattern)
        return false;
    json_object_del(pattern, "default");
    return cb_json_put(own, "reduction_factor_pattern", pattern) &&
           cb_json_put(own, "reduction_factor", otherwise ? json_incref(otherwise) : json_real(16));
}

/* Files of version 1 hold {"invertible_adapter": {"block_type": "nice", "reduction_factor": 2}}. */
static bool split_invertible(json_t *own)
{
    json_t *old = json_object_get(own, "invertible_adapter"), *type = json_object_get(old, "block_type");
    bool ok = !type || (cb_json_put(own, "inv_adapter", json_incref(type)) &&
                        cb_json_put(own, "inv_adapter_reduction_factor", json_incref(json_object_get(old, "reduction_factor"))));
    json_object_del(own, "invertible_adapter");
    return ok;
}

static bool bottleneck_options(json_t *own, const char *class_name)
{
    bool inverse = class_name && (cb_ends_with(class_name, "AdapterModel") || cb_ends_with(class_name, "ModelWithHeads"));
    bool ok = split_factors(own) && split_invertible(own) && cb_json_put(own, "inverse_at_head", json_boolean(inverse));
    if (ok && !json_object_get(own, "original_ln_before")) /* the package's own default, and not that of its Pfeiffer adapters */
        ok = cb_json_put(own, "original_ln_before", json_false());
    const char *start = json_string_value(json_object_get(own, "hypercomplex_nonlinearity"));
    return ok && (!start || strcmp(start, "phm") != 0 || put_text(own, "hypercomplex_nonlinearity", "glorot-normal"));
}

static bool reft_options(json_t *own)
{
    if (json_is_string(json_object_get(own, "layers"))) /* "all" */
        json_object_del(own, "layers");
    return true;
}

/* The package's fields that say nothing about an adapter that is trained. */
static bool set_options(cb_adapter *adapter, const char *path, const json_t *config)
{
    json_t *own = cb_json_copy(json_object_get(config, "config"));
    if (!own)
        return false;
    json_object_del(own, "architecture");
    json_object_del(own, "init_weights_seed");
    json_object_del(own, "dtype");
    const char *class_name = json_string_value(json_object_get(config, "model_class"));
    bool ok = (adapter->kind == &cb_kind_reft ? reft_options(own) : bottleneck_options(own, class_name)) &&
              cb_adapter_from_json(adapter, path, own);
    json_decref(own);
    return ok;
}

static char *weights_path(const char *path)
{
    char *file = cb_path_join(path, "adapter.safetensors"), *pickle = cb_path_join(path, "pytorch_adapter.bin");
    bool old = file && pickle && !cb_is_file(file) && cb_is_file(pickle);
    cb_free(old ? file : pickle);
    return old ? pickle : file;
}

char *cb_hub_base(const cb_layer *root)
{
    const cb_layer *first = root->child_count ? root->children[0] : NULL;
    return cb_strndup(first ? first->name : "", first ? strcspn(first->name, ".") : 0);
}

static cb_adapter *load_named(const char *path, const json_t *config, const char *name, cb_layer *root, const char *model_type)
{
    cb_adapter *adapter = cb_adapter_new(kind_of(json_object_get(config, "config"))->name, cb_path_base(path));
    char *file = adapter ? weights_path(path) : NULL, *base = file ? cb_hub_base(root) : NULL;
    cb_file_names names = {.find = find, .knows = knows, .settle = settle, .name = name, .base = base};
    bool ok = base && set_options(adapter, path, config) && cb_adapter_load_weights(adapter, file, root, model_type, &names);
    if (adapter && !ok) {
        cb_error_prefix("%s", path);
        cb_adapter_free(adapter);
    }
    cb_free(file);
    cb_free(base);
    return ok ? adapter : NULL;
}

cb_adapter *cb_hub_load(const char *path, cb_layer *root, const char *model_type)
{
    json_t *config = load_config(path);
    const char *name = config ? cb_json_string(path, config, "name", NULL) : NULL;
    cb_adapter *adapter = NULL;
    if (config && cb_ok() && (!name || strlen(name) > 100))
        cb_fail(CB_ERR_FORMAT, "%s: name: expected the adapter's name of at most 100 bytes", path);
    else if (config && cb_ok())
        adapter = load_named(path, config, name, root, model_type);
    json_decref(config);
    return adapter;
}

/* ---- writing the config ---- */

static const cb_hub_class classes[] = {{"llama", "LlamaForCausalLM", "LlamaAdapterModel"},
                                       {"mistral", "MistralForCausalLM", "MistralAdapterModel"},
                                       {"gpt2", "GPT2LMHeadModel", "GPT2AdapterModel"},
                                       {"bert", "BertForMaskedLM", "BertAdapterModel"},
                                       {"roberta", "RobertaForMaskedLM", "RobertaAdapterModel"},
                                       {"xlm-roberta", "XLMRobertaForMaskedLM", "XLMRobertaAdapterModel"},
                                       {"distilbert", "DistilBertForMaskedLM", "DistilBertAdapterModel"}};

const cb_hub_class *cb_hub_class_of(const char *model_type)
{
    for (size_t i = 0; model_type && i < sizeof classes / sizeof *classes; i++)
        if (strcmp(classes[i].model_type, model_type) == 0)
            return &classes[i];
    cb_fail(CB_ERR_UNSUPPORTED,
            "adapterhub: found a model of type %s; of those AdapterHub's package adapts, this build writes llama, mistral, gpt2, bert, "
            "roberta, xlm-roberta and distilbert",
            model_type ? model_type : "(unknown)");
    return NULL;
}

/* The blocks of the model, among which those with a module of some kind of layer are found. */
static const cb_layer *blocks_of(const cb_adapter *adapter)
{
    const cb_layer *layer = adapter->module_count ? adapter->modules[0]->layer : NULL;
    while (layer && layer->kind != CB_LAYER_BLOCK)
        layer = layer->parent;
    return layer ? layer->parent : NULL;
}

static const cb_module *module_in(const cb_adapter *adapter, const cb_layer *block, cb_layer_kind kind)
{
    for (size_t i = 0; i < adapter->module_count; i++) {
        const cb_layer *layer = adapter->modules[i]->layer;
        if (layer->kind == kind && (layer == block || layer->parent == block))
            return adapter->modules[i];
    }
    return NULL;
}

static bool has_any(const cb_adapter *adapter, cb_layer_kind kind)
{
    for (size_t i = 0; i < adapter->module_count; i++)
        if (adapter->modules[i]->layer->kind == kind)
            return true;
    return false;
}

/* In the package every block that is not left out has all places that any has. */
static bool write_places(const cb_adapter *adapter, json_t *own)
{
    const cb_layer *blocks = blocks_of(adapter);
    bool attention = has_any(adapter, CB_LAYER_ATTENTION), mlp = has_any(adapter, CB_LAYER_MLP);
    json_t *left = json_array();
    for (size_t i = 0; left && blocks && i < blocks->child_count; i++) {
        bool a = module_in(adapter, blocks->children[i], CB_LAYER_ATTENTION), b = module_in(adapter, blocks->children[i], CB_LAYER_MLP);
        if (a != b && attention && mlp) {
            json_decref(left);
            return cb_fail(CB_ERR_UNSUPPORTED,
                           "%s: found a module in one of attention and MLP, where other blocks have both: AdapterHub's "
                           "format cannot hold that",
                           blocks->children[i]->name) == CB_OK;
        }
        if (!a && !b)
            cb_json_add(left, json_integer((json_int_t)i));
    }
    return cb_json_put(own, "mh_adapter", json_boolean(attention)) && cb_json_put(own, "output_adapter", json_boolean(mlp)) &&
           cb_json_put(own, "leave_out", left);
}

/* A factor that gives the size: the package rounds width / factor down. */
static bool write_factors(const cb_bottleneck_config *config, json_t *own, int64_t width)
{
    const cb_option_map *pattern = &config->reduction_factor_pattern;
    int64_t size = config->bottleneck_size;
    json_object_del(own, "reduction_factor_pattern");
    json_object_del(own, "bottleneck_size");
    if (size)
        return cb_json_put(own, "reduction_factor", json_real((double)width / ((double)size + (width % size ? 0.5 : 0))));
    if (!pattern->count)
        return true;
    json_t *factors = json_object();
    for (size_t i = 0; factors && i < pattern->count; i++)
        if (!cb_json_put(factors, pattern->keys[i], json_real(pattern->values[i]))) {
            json_decref(factors);
            return false;
        }
    return cb_json_put(own, "reduction_factor", factors) && cb_json_put(factors, "default", json_real(config->reduction_factor));
}

static bool write_bottleneck(const cb_adapter *adapter, json_t *own, int64_t width)
{
    const cb_bottleneck_config *config = adapter->config;
    const char *residual = json_string_value(json_object_get(own, "residual_before_ln"));
    char *end = NULL;
    double scale = config->scaling ? strtod(config->scaling, &end) : 1;
    bool number = !config->scaling || (end != config->scaling && !*end), inverts = config->inv_adapter != CB_INVERTIBLE_NONE;
    json_object_del(own, "bias");
    json_object_del(own, "inverse_at_head");
    return write_places(adapter, own) && write_factors(config, own, width) &&
           cb_json_put(own, "residual_before_ln", json_boolean(residual && strcmp(residual, "true") == 0)) &&
           (!number || cb_json_put(own, "scaling", json_real(scale))) &&
           (inverts || (cb_json_put(own, "inv_adapter", json_null()) && cb_json_put(own, "inv_adapter_reduction_factor", json_null()))) &&
           cb_json_put(own, "architecture", json_null());
}

static bool write_reft(const cb_adapter *adapter, json_t *own)
{
    const cb_layer *blocks = blocks_of(adapter);
    json_t *layers = json_array();
    size_t count = 0;
    for (size_t i = 0; layers && blocks && i < blocks->child_count; i++)
        if (module_in(adapter, blocks->children[i], CB_LAYER_BLOCK)) {
            cb_json_add(layers, json_integer((json_int_t)i));
            count++;
        }
    json_t *rank = json_object_get(own, "rank"), *activation = json_object_get(own, "non_linearity");
    bool all = blocks && count == blocks->child_count, linear = strcmp(json_string_value(activation), "linear") == 0;
    bool ok = cb_json_put(own, "layers", all ? json_string("all") : json_incref(layers)) && cb_json_put(own, "r", json_incref(rank)) &&
              put_text(own, "architecture", "reft") && cb_json_put(own, "output_reft", json_true()) &&
              cb_json_put(own, "dtype", json_null()) && (!linear || cb_json_put(own, "non_linearity", json_null()));
    json_decref(layers);
    json_object_del(own, "rank");
    return ok;
}

static json_t *own_config(const cb_adapter *adapter, int64_t width)
{
    char *text = cb_options_to_json(adapter->kind->options, adapter->config);
    json_t *own = text ? cb_json_parse(adapter->kind->name, text, strlen(text)) : NULL;
    cb_free(text);
    bool ok = own && cb_json_put(own, "init_weights_seed", json_null()) &&
              (adapter->kind == &cb_kind_reft ? write_reft(adapter, own) : write_bottleneck(adapter, own, width));
    if (ok)
        return own;
    json_decref(own);
    return NULL;
}

int64_t cb_hub_width(const cb_layer *root)
{
    const cb_layer *layer = root;
    while (layer && layer->child_count && layer->kind != CB_LAYER_EMBEDDING)
        layer = layer->children[0];
    return layer ? layer->out_features : 0;
}

static bool write_config(const cb_adapter *adapter, const char *path, const char *name, const cb_hub_class *names)
{
    int64_t width = cb_hub_width(adapter->root);
    const cb_bottleneck_config *config = adapter->config;
    bool heads = adapter->kind == &cb_kind_bottleneck && config->inv_adapter != CB_INVERTIBLE_NONE && config->inverse_at_head;
    json_t *own = own_config(adapter, width);
    json_t *whole = own ? json_pack("{s:o, s:s, s:n, s:s, s:I, s:s, s:s}", "config", own, "model_type", names->model_type, "model_name",
                                    "model_class", heads ? names->with_heads : names->class_name, "hidden_size", (json_int_t)width, "name",
                                    name, "version", CB_HUB_VERSION)
                        : NULL;
    char *file = whole ? cb_path_join(path, CONFIG_NAME) : NULL;
    bool ok = file && cb_json_save(file, whole, true);
    if (own && !whole)
        cb_fail(CB_ERR_MEMORY, "no memory for an adapter's config");
    json_decref(whole);
    cb_free(file);
    return ok;
}

/* ---- writing the tensors ---- */

typedef struct tensor_list {
    cb_weight_entry *entries;
    size_t count;
    cb_string_list names;
} tensor_list;

/* Takes over `name`. */
static bool add_tensor(tensor_list *list, char *name, cb_tensor *t)
{
    t = name ? cb_contiguous(t) : NULL;
    bool ok = t && cb_string_list_add(&list->names, name);
    cb_free(name);
    if (ok)
        list->entries[list->count++] = cb_entry_to_write(list->names.items[list->names.count - 1], t);
    return ok;
}

/* R as the package has it: a basis whose first rows, transposed, are R, and the reflectors of the identity. */
static bool add_basis(tensor_list *list, const char *name, cb_tensor *p)
{
    cb_tensor *basis = cb_orthogonal_basis(p), *start = cb_zeros_like(p);
    for (int64_t i = 0; start && i < p->shape[0]; i++)
        ((float *)start->data)[i * p->shape[1] + i] = -1;
    return add_tensor(list, cb_strdup(name), start) && add_tensor(list, renamed(name, ORIGINAL, BASIS), basis);
}

static bool add_entry(tensor_list *list, const cb_file_names *names, const cb_adapter *adapter, const cb_adapter_entry *entry)
{
    char *name = entry_name(names, adapter, entry);
    cb_tensor *t = name ? cb_adapter_entry_stored(adapter, entry) : NULL;
    bool ok = t;
    if (ok && cb_ends_with(name, ORIGINAL)) {
        ok = add_basis(list, name, t);
        cb_free(name);
        return ok;
    }
    for (int i = 0; ok && i < 2; i++) {
        char *twin = renamed(name, twins[i][1], twins[i][0]);
        ok = !twin || add_tensor(list, twin, t);
    }
    if (ok)
        return add_tensor(list, name, t);
    cb_free(name);
    return false;
}

static bool write_tensors(const cb_adapter *adapter, const cb_file_names *names, const char *path)
{
    tensor_list list = {.entries = cb_calloc(2 * adapter->entry_count, sizeof *list.entries)};
    char *file = list.entries ? cb_path_join(path, "adapter.safetensors") : NULL;
    cb_scope *scope = file ? cb_scope_open() : NULL;
    bool ok = scope;
    cb_no_grad for (size_t i = 0; ok && i < adapter->entry_count; i++)
    {
        const cb_adapter_entry *entry = &adapter->entries[i];
        ok = !entry->filed || add_entry(&list, names, adapter, entry);
    }
    ok = ok && cb_safetensors_write(file, list.entries, list.count, NULL, NULL, NULL);
    if (scope)
        cb_scope_close(scope);
    cb_string_list_free(&list.names);
    cb_free(list.entries);
    cb_free(file);
    return ok;
}

bool cb_hub_save(const cb_adapter *adapter, const char *path, const char *model_type)
{
    const cb_hub_class *names = cb_hub_class_of(model_type);
    if (!names)
        return false;
    if (adapter->kind != &cb_kind_bottleneck && adapter->kind != &cb_kind_reft)
        return cb_fail(CB_ERR_UNSUPPORTED, "adapterhub: found an adapter of kind %s, expected lora, bottleneck or reft",
                       adapter->kind->name) == CB_OK;
    if (adapter->trained_count)
        return cb_fail(CB_ERR_UNSUPPORTED, "adapterhub: found layers or biases that are trained whole, which the format does not hold") ==
               CB_OK;
    char *base = cb_hub_base(adapter->root), *name = cb_strdup(*adapter->name ? adapter->name : "adapter");
    for (char *c = name; c && *c; c++) /* a dot would cut the tensors' names */
        *c = *c == '.' || *c == '/' ? '_' : *c;
    cb_file_names file = {.name = name, .base = base};
    bool ok = base && name && cb_directory_make(path) && write_tensors(adapter, &file, path) && write_config(adapter, path, name, names);
    cb_free(base);
    cb_free(name);
    return ok;
}
