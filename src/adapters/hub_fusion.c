/* hub_fusion.c: AdapterFusion in directories of AdapterHub's package `adapters` (1.x), as a composition.
 *
 *     DIR/adapter_setup.json               {"adapter_setup": {"type": "Fuse", "children": [{"type": "single", "children": ["a"]}, ...]}}
 *     DIR/a, DIR/b, ...                    the adapters (hub.c)
 *     DIR/a,b/adapter_fusion_config.json   what fusion computes, and the names of its adapters
 *     DIR/a,b/model_adapter_fusion.safetensors, or pytorch_model_adapter_fusion.bin:
 *         BLOCK.attention_adapters.adapter_fusion_layer.a,b.query.weight, BLOCK.output_adapters. ... .key.bias, ...
 *
 * The package fuses what comes out of the adapters' upper matrices, so gates and norms behind these are left out there, and what asks is
 * what the last adapter sees: adapters for which that makes a difference are refused.  Blocks that all adapters leave out have a fusion in
 * the file that nothing runs through.  Prediction heads are not read. */
#include <string.h>

#include "adapters/bottleneck.h"
#include "adapters/hub.h"
#include "adapters/mixer.h"
#include "cambium/files.h"

#define WEIGHTS_NAME "model_adapter_fusion.safetensors"
#define PICKLE_NAME  "pytorch_model_adapter_fusion.bin"
#define CONFIG_LIMIT (16u << 20)
enum { MOST_PARTS = 1024, MOST_NAME = 255 };
static const double held = 0.01; /* what the package's "regularization" is */

static bool has(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    bool found = path && cb_is_file(path);
    cb_free(path);
    return found;
}

bool cb_hub_is_fusion(const char *directory)
{
    return has(directory, CB_HUB_SETUP_FILE) || has(directory, CB_HUB_FUSION_FILE);
}

/* ---- which adapters ---- */

/* What the directory holds: the fusion's own directory, its name in the file, and where its adapters are. */
typedef struct fusion {
    char *directory;
    json_t *config;
    const char *name;
    cb_string_list parts;
    char *base;
    cb_weights *file;
} fusion;

static void close_fusion(fusion *f)
{
    cb_weights_close(f->file);
    cb_string_list_free(&f->parts);
    json_decref(f->config);
    cb_free(f->directory);
    cb_free(f->base);
    *f = (fusion){0};
}

static bool add_part(fusion *f, const char *file, const json_t *value)
{
    const char *name = json_string_value(value);
    if (!name || !*name || *name == '.' || strchr(name, '/') || strlen(name) > MOST_NAME || f->parts.count == MOST_PARTS)
        return cb_fail(CB_ERR_FORMAT, "%s: adapter %zu: expected its name, that of a directory, and at most %d of them", file,
                       f->parts.count, MOST_PARTS) == CB_OK;
    for (size_t i = 0; i < f->parts.count; i++)
        if (strcmp(f->parts.items[i], name) == 0)
            return cb_fail(CB_ERR_FORMAT, "%s: found the adapter %.100s twice", file, name) == CB_OK;
    return cb_string_list_add(&f->parts, name);
}

/* The names of a Fuse of single adapters. */
static bool read_setup(fusion *f, const char *file)
{
    json_t *whole = cb_json_load(file, CONFIG_LIMIT);
    const json_t *setup = json_object_get(whole, "adapter_setup"), *children = json_object_get(setup, "children");
    const char *type = json_string_value(json_object_get(setup, "type"));
    bool ok = whole;
    if (ok && (!type || strcmp(type, "Fuse") != 0 || !json_array_size(children)))
        ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: adapter_setup: found the type %.40s, expected Fuse with children", file,
                     type ? type : "(none)") == CB_OK;
    for (size_t i = 0; ok && i < json_array_size(children); i++) {
        const json_t *child = json_array_get(children, i), *own = json_object_get(child, "children"), *name = json_array_get(own, 0);
        const char *kind = json_string_value(json_object_get(child, "type"));
        if (!kind || strcmp(kind, "single") != 0 || json_array_size(own) != 1)
            ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: adapter_setup: child %zu is of type %.40s, expected single", file, i,
                         kind ? kind : "(none)") == CB_OK;
        ok = ok && add_part(f, file, name);
    }
    json_decref(whole);
    return ok;
}

/* The package's own name of a fusion: those of its adapters. */
static char *joined(const cb_string_list *parts)
{
    char *text = cb_strdup("");
    for (size_t i = 0; text && i < parts->count; i++) {
        char *more = cb_format("%s%s%s", text, i ? "," : "", parts->items[i]);
        cb_free(text);
        text = more;
    }
    return text;
}

static bool read_names(fusion *f, const char *file)
{
    const json_t *names = json_object_get(f->config, "adapter_names");
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(names); i++)
        ok = add_part(f, file, json_array_get(names, i));
    if (json_array_size(names))
        return ok;
    char *copy = cb_strdup(f->name), *rest = copy;
    for (char *word = copy ? strsep(&rest, ",") : NULL; ok && word; word = strsep(&rest, ",")) {
        json_t *value = json_string(word);
        ok = add_part(f, file, value);
        json_decref(value);
    }
    cb_free(copy);
    return ok && cb_ok();
}

/* Whether the fusion is of the adapters that the setup names, in its order. */
static bool same_names(const fusion *f, const char *file, const cb_string_list *wanted)
{
    bool same = f->parts.count == wanted->count;
    for (size_t i = 0; same && i < wanted->count; i++)
        same = strcmp(f->parts.items[i], wanted->items[i]) == 0;
    return same || cb_fail(CB_ERR_FORMAT, "%s: adapter_names: expected those of the setup, in its order", file) == CB_OK;
}

static bool read_config(fusion *f)
{
    char *file = cb_path_join(f->directory, CB_HUB_FUSION_FILE);
    cb_string_list wanted = f->parts;
    f->parts = (cb_string_list){0};
    f->config = file ? cb_json_load(file, CONFIG_LIMIT) : NULL;
    f->name = f->config ? cb_json_string(file, f->config, "name", NULL) : NULL;
    bool ok = f->config && cb_ok() &&
              ((f->name && *f->name && strlen(f->name) < (size_t)MOST_PARTS * MOST_NAME) ||
               cb_fail(CB_ERR_FORMAT, "%s: name: expected the fusion's name", file) == CB_OK);
    ok = ok && read_names(f, file) && (!wanted.count || same_names(f, file, &wanted));
    cb_string_list_free(&wanted);
    cb_free(file);
    return ok;
}

static bool open_fusion(fusion *f, const char *directory)
{
    char *setup = has(directory, CB_HUB_SETUP_FILE) ? cb_path_join(directory, CB_HUB_SETUP_FILE) : NULL, *name = NULL;
    bool ok = setup ? read_setup(f, setup) && (name = joined(&f->parts)) : cb_ok();
    f->directory = !ok ? NULL : name ? cb_path_join(directory, name) : cb_strdup(directory);
    cb_free(setup);
    cb_free(name);
    return f->directory && read_config(f);
}

/* ---- reading: the adapters ---- */

/* Whether the package's arithmetic is ours with these adapters; `what` names them in the message. */
static bool check_parts(const char *what, cb_adapter *const *adapters, size_t count)
{
    const char *found = NULL;
    const cb_bottleneck_config *first = adapters[0]->config;
    for (size_t i = 0; i < count && !found; i++) {
        const cb_bottleneck_config *c = adapters[i]->config;
        if (adapters[i]->kind != &cb_kind_bottleneck)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: adapter %s is of kind %s, and AdapterHub's package fuses bottleneck adapters", what,
                           adapters[i]->name, adapters[i]->kind->name) == CB_OK;
        bool adds = c->residual_before_ln == CB_RESIDUAL_BEFORE || (c->residual_before_ln == CB_RESIDUAL_AFTER && !c->original_ln_before);
        found = c->is_parallel                                       ? "is_parallel"
                : c->use_gating                                      ? "use_gating"
                : c->ln_after                                        ? "ln_after"
                : c->inv_adapter != CB_INVERTIBLE_NONE               ? "inv_adapter"
                : !adds || !c->original_ln_after                     ? "that it adds to the sum with the stream"
                : c->original_ln_before != first->original_ln_before ? "another original_ln_before than the first"
                                                                     : NULL;
        if (found)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: adapter %s: found %s, which AdapterHub's package leaves out of a fusion", what,
                           adapters[i]->name, found) == CB_OK;
    }
    return true;
}

/* In the setup's directory, or in or beside that of a fusion alone. */
static char *path_of_part(const fusion *f, const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    if (!path || strcmp(f->directory, directory) != 0 || cb_is_directory(path))
        return path;
    char *parent = cb_path_parent(directory);
    cb_free(path);
    path = parent ? cb_path_join(parent, name) : NULL;
    cb_free(parent);
    return path;
}

static bool load_parts(cb_composition *c, const fusion *f, const char *directory, cb_layer *root, const char *model_type)
{
    c->adapters = cb_calloc(f->parts.count, sizeof(cb_adapter *));
    c->weights = cb_calloc(f->parts.count, sizeof *c->weights);
    for (size_t i = 0; c->adapters && c->weights && i < f->parts.count; i++) {
        char *path = path_of_part(f, directory, f->parts.items[i]);
        cb_adapter *adapter = path ? cb_adapter_load(path, root, model_type) : NULL;
        cb_free(path);
        if (!adapter)
            return false;
        cb_adapter_set_strength(adapter, 0);
        c->weights[c->count] = 1;
        c->adapters[c->count++] = adapter;
    }
    return c->count == f->parts.count && check_parts(directory, c->adapters, c->count);
}

/* ---- reading: the fusion ---- */

/* What asks is the result with the stream where the adapters see it so, unless it is taken before. */
static bool read_options(cb_mixer_options *o, const fusion *f, const cb_adapter *last)
{
    char *file = cb_path_join(f->directory, CB_HUB_FUSION_FILE);
    const json_t *own = json_object_get(f->config, "config");
    const cb_bottleneck_config *config = last->config;
    static const struct {
        const char *name;
        bool expected;
    } flags[] = {{"key", true}, {"query", true}, {"residual_before", false}, {"temperature", false}};
    bool ok = file && cb_options_init(cb_mixer_option_table, o) &&
              (json_is_object(own) || cb_fail(CB_ERR_FORMAT, "%s: config: expected an object", file) == CB_OK);
    for (size_t i = 0; ok && i < sizeof flags / sizeof *flags; i++)
        if (cb_json_bool(file, own, flags[i].name, flags[i].expected) != flags[i].expected && cb_ok())
            ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: config.%s: found %s, expected %s", file, flags[i].name,
                         flags[i].expected ? "false" : "true", flags[i].expected ? "true" : "false") == CB_OK;
    if (ok) {
        o->fusion_value = cb_json_bool(file, own, "value", true);
        o->fusion_regularization = cb_json_bool(file, own, "regularization", true) ? held : 0;
        o->fusion_residual = config->original_ln_before && !cb_json_bool(file, own, "query_before_ln", false);
    }
    cb_free(file);
    return ok && cb_ok();
}

static bool open_weights(fusion *f)
{
    char *path = cb_path_join(f->directory, has(f->directory, WEIGHTS_NAME) ? WEIGHTS_NAME : PICKLE_NAME);
    f->file = path ? cb_weights_open_file(path) : NULL;
    cb_free(path);
    return f->file;
}

/* The file's name for a tensor of a layer; NULL without an error: the package has no such place. */
static char *tensor_name(const fusion *f, const cb_layer *layer, const char *suffix)
{
    char *place = cb_hub_place(layer), *name = place ? cb_format("%sadapter_fusion_layer.%s.%s", place, f->name, suffix) : NULL;
    cb_free(place);
    return name;
}

/* A tensor of the file, of the shape that is wanted. */
static const cb_weight_entry *find_tensor(const fusion *f, const cb_layer *layer, const char *suffix, int ndim, const int64_t *shape)
{
    char *name = tensor_name(f, layer, suffix);
    const cb_weight_entry *entry = name ? cb_hub_find(f->file, f->base, name) : NULL;
    bool fits = entry && cb_dtype_is_float(entry->dtype) && cb_weight_entry_fits(entry, ndim, shape);
    if (name && !fits)
        cb_fail(CB_ERR_FORMAT, "%s: %s: found %s %s, expected floats of %s", f->directory, name, entry ? entry->type_name : "none",
                entry ? cb_shape_text_nd(entry->ndim, entry->shape) : "", cb_shape_text_nd(ndim, shape));
    cb_free(name);
    return fits ? entry : NULL;
}

/* Before memory is allocated: the largest tensors of all layers are in the file. */
static bool check_squares(const fusion *f, const cb_composition *c, bool value)
{
    static const char *const squares[] = {"query.weight", "key.weight", "value.weight"};
    bool ok = true;
    for (size_t i = 0; ok && i < c->count; i++)
        for (size_t k = 0; ok && k < c->adapters[i]->module_count; k++) {
            const cb_layer *layer = c->adapters[i]->modules[k]->layer;
            int64_t width = cb_stream_width(layer), shape[] = {width, width};
            for (int s = 0; ok && s < (value ? 3 : 2); s++)
                ok = find_tensor(f, layer, squares[s], 2, shape) != NULL;
        }
    return ok && cb_ok();
}

static bool fill_layer(const fusion *f, const cb_mixer *mixer, const cb_mixer_layer *layer)
{
    const char *suffixes[CB_MIXER_TENSORS];
    int count = cb_mixer_suffixes(mixer, layer, suffixes);
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        cb_tensor *t = layer->tensors[i];
        const cb_weight_entry *entry = find_tensor(f, layer->mix.layer, suffixes[i], t->ndim, t->shape);
        ok = entry && cb_copy_into(t, cb_cast(cb_weight_entry_tensor(entry), CB_F32));
    }
    return ok;
}

typedef struct place_search {
    const fusion *f;
    const char *name; /* in the file */
    bool found;
} place_search;

/* Whether a tensor of the file is one of a place of the model: it is then of a block that all adapters leave out. */
static bool is_of_place(void *user, cb_layer *layer)
{
    place_search *s = user;
    char *start = tensor_name(s->f, layer, "");
    size_t base = strlen(s->f->base);
    if (start)
        s->found |= strncmp(s->name, start, strlen(start)) == 0 ||
                    (strncmp(start, s->f->base, base) == 0 && strncmp(s->name, start + base + 1, strlen(start + base + 1)) == 0);
    cb_free(start);
    return cb_ok() && !s->found;
}

static bool check_rest(const fusion *f, cb_layer *root)
{
    for (size_t i = 0; i < cb_weights_count(f->file); i++) {
        place_search search = {f, cb_weights_at(f->file, i)->name, false};
        cb_layer_visit(root, is_of_place, &search);
        if (!search.found)
            return cb_ok() && cb_fail(CB_ERR_FORMAT, "%s: tensor %.300s has no place in the fusion %.100s of this model", f->directory,
                                      search.name, f->name) == CB_OK;
    }
    return true;
}

static bool load_fusion(cb_composition *c, fusion *f, cb_layer *root)
{
    cb_mixer_options options;
    if (!read_options(&options, f, c->adapters[c->count - 1]) || !open_weights(f) || !check_squares(f, c, options.fusion_value))
        return false;
    c->mixer = cb_mixer_new(CB_MIXER_FUSION, c->adapters, c->count, &options, 0);
    const cb_mixer_layer *layers;
    size_t count = c->mixer ? cb_mixer_layers(c->mixer, &layers) : 0;
    cb_scope *scope = c->mixer ? cb_scope_open() : NULL;
    bool ok = scope;
    cb_no_grad for (size_t i = 0; ok && i < count; i++) ok = fill_layer(f, c->mixer, &layers[i]);
    if (scope)
        cb_scope_close(scope);
    return ok && check_rest(f, root);
}

bool cb_hub_fusion_load(cb_composition *c, const char *directory, cb_layer *root, const char *model_type)
{
    fusion f = {0};
    bool ok = cb_hub_class_of(model_type) && open_fusion(&f, directory) && (f.base = cb_hub_base(root)) &&
              load_parts(c, &f, directory, root, model_type) && load_fusion(c, &f, root);
    close_fusion(&f);
    if (!ok)
        cb_composition_free(c);
    return ok;
}

/* ---- writing ---- */

static bool check_to_write(const cb_composition *c)
{
    if (!c->mixer || cb_mixer_form_of(c->mixer) != CB_MIXER_FUSION)
        return cb_fail(CB_ERR_UNSUPPORTED, "adapterhub: found a composition that is not fused, expected one of --mix fusion") == CB_OK;
    const cb_mixer_options *o = cb_mixer_options_of(c->mixer);
    if (!check_parts("adapterhub", c->adapters, c->count))
        return false;
    if (o->fusion_residual && !((const cb_bottleneck_config *)c->adapters[0]->config)->original_ln_before)
        return cb_fail(CB_ERR_UNSUPPORTED, "adapterhub: found fusion_residual with adapters whose original_ln_before is false, which the "
                                           "package cannot compute") == CB_OK;
    for (size_t i = 0; i < c->count; i++)
        if (c->weights[i] != 1 || strpbrk(c->adapters[i]->name, ",."))
            return cb_fail(CB_ERR_UNSUPPORTED, "adapterhub: adapter %s: found the weight %g, expected 1, and a name without a dot or comma",
                           c->adapters[i]->name, c->weights[i]) == CB_OK;
    return true;
}

static json_t *setup_json(const cb_string_list *parts)
{
    json_t *children = json_array();
    for (size_t i = 0; children && i < parts->count; i++)
        cb_json_add(children, json_pack("{s:s, s:[s]}", "type", "single", "children", parts->items[i]));
    json_t *setup = cb_ok() ? json_pack("{s:{s:s, s:O}, s:n, s:s}", "adapter_setup", "type", "Fuse", "children", children, "head_setup",
                                        "version", CB_HUB_VERSION)
                            : NULL;
    json_decref(children);
    return setup;
}

static json_t *config_json(const cb_composition *c, const fusion *f, cb_layer *root, const cb_hub_class *names)
{
    const cb_mixer_options *o = cb_mixer_options_of(c->mixer);
    bool before = !o->fusion_residual && ((const cb_bottleneck_config *)c->adapters[0]->config)->original_ln_before;
    bool dynamic = o->fusion_value;
    json_t *own = json_pack("{s:n, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "dropout_prob", "key", 1, "query", 1, "query_before_ln",
                            before, "regularization", dynamic && o->fusion_regularization > 0, "residual_before", 0, "temperature", 0,
                            "value", dynamic, "value_before_softmax", 1, "value_initialized", dynamic);
    json_t *parts = json_array();
    for (size_t i = 0; parts && i < f->parts.count; i++)
        cb_json_add(parts, json_string(f->parts.items[i]));
    json_t *whole = own && cb_ok() ? json_pack("{s:O, s:O, s:I, s:s, s:n, s:s, s:s, s:s}", "adapter_names", parts, "config", own,
                                               "hidden_size", (json_int_t)cb_hub_width(root), "model_class", names->class_name,
                                               "model_name", "model_type", names->model_type, "name", f->name, "version", CB_HUB_VERSION)
                                   : NULL;
    json_decref(own);
    json_decref(parts);
    return whole;
}

static bool save_json(const char *directory, const char *name, json_t *value)
{
    char *path = value ? cb_path_join(directory, name) : NULL;
    bool ok = path && cb_json_save(path, value, true);
    if (!value && cb_ok())
        cb_fail(CB_ERR_MEMORY, "adapterhub: no memory for %s", name);
    json_decref(value);
    cb_free(path);
    return ok;
}

static bool write_weights(const cb_composition *c, const fusion *f)
{
    const cb_mixer_layer *layers;
    size_t count = cb_mixer_layers(c->mixer, &layers), n = 0;
    cb_weight_entry *entries = cb_calloc(count * CB_MIXER_TENSORS, sizeof *entries);
    cb_string_list names = {0};
    bool ok = entries;
    for (size_t i = 0; ok && i < count; i++) {
        const char *suffixes[CB_MIXER_TENSORS];
        int most = cb_mixer_suffixes(c->mixer, &layers[i], suffixes);
        for (int k = 0; ok && k < most; k++) {
            char *name = tensor_name(f, layers[i].mix.layer, suffixes[k]);
            ok = name && cb_string_list_add(&names, name);
            cb_free(name);
            if (ok)
                entries[n++] = cb_entry_to_write(names.items[names.count - 1], layers[i].tensors[k]);
        }
    }
    char *path = ok ? cb_path_join(f->directory, WEIGHTS_NAME) : NULL;
    ok = path && cb_safetensors_write(path, entries, n, NULL, NULL, NULL);
    cb_free(path);
    cb_string_list_free(&names);
    cb_free(entries);
    return ok;
}

bool cb_hub_fusion_save(const cb_composition *c, const char *directory, cb_layer *root, const char *model_type)
{
    const cb_hub_class *names = cb_hub_class_of(model_type);
    fusion f = {0};
    bool ok = names && check_to_write(c);
    for (size_t i = 0; ok && i < c->count; i++)
        ok = cb_string_list_add(&f.parts, c->adapters[i]->name);
    char *name = ok ? joined(&f.parts) : NULL;
    f.name = name;
    f.directory = name ? cb_path_join(directory, name) : NULL;
    ok = f.directory && cb_directory_make(f.directory);
    for (size_t i = 0; ok && i < c->count; i++) {
        char *path = cb_path_join(directory, c->adapters[i]->name);
        ok = path && cb_hub_save(c->adapters[i], path, model_type);
        cb_free(path);
    }
    ok = ok && write_weights(c, &f) && save_json(f.directory, CB_HUB_FUSION_FILE, config_json(c, &f, root, names)) &&
         save_json(directory, CB_HUB_SETUP_FILE, setup_json(&f.parts));
    cb_free(name);
    close_fusion(&f);
    return ok;
}
