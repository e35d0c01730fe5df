/* recipe.c: whole models merged by a file of mergekit's: models, or slices of their layers one on top of the other, with parameters that differ
 * from model to model, from layer to layer (a list is a gradient over the layers of a slice) and by parts of tensors' names.
 *
 * Every tensor of the result is planned: its name, which has the layer's new number, the tensors it is made of, and its parameters.  Then they
 * are made one after another by combine.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/rehearsal.h"
#include "formats/yaml.h"
#include "merge/combine.h"
#include "merge/fold.h"

enum { MOST = CB_MERGE_MOST_MODELS };

typedef struct recipe_model {
    const char *path;
    cb_weights *weights;
    json_t *config;
    int64_t layers;
} recipe_model;

typedef struct recipe_source {
    size_t model;
    int64_t first, count; /* layers */
    const json_t *parameters;
} recipe_source;

typedef struct recipe_slice {
    recipe_source sources[MOST];
    size_t count;
    const json_t *parameters;
    int base; /* which source changes are counted from; -1: none */
} recipe_slice;

typedef struct recipe_tensor {
    const recipe_slice *slice;
    const cb_weight_entry *entries[MOST]; /* of the slice's sources */
    double t;                             /* how far up in the slice: 0 to 1 */
} recipe_tensor;

typedef struct recipe {
    const char *file;
    json_t *root;
    cb_model_merge_options options;
    bool passthrough;
    recipe_model models[MOST];
    size_t model_count;
    size_t pattern; /* the model whose config and files the result has */
    recipe_slice *slices;
    size_t slice_count, slice_capacity;
    recipe_tensor *tensors;
    cb_weight_entry *out; /* names are owned */
    size_t count, capacity, out_capacity;
    int64_t layers; /* of the result */
    int dtype;      /* CB_MERGE_* */
    void *buffer;
    size_t room;
} recipe;

/* ---- reading ---- */

static bool check_keys(const recipe *r, const json_t *object, const char *where, const char *const *known)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: expected a mapping", r->file, where) == CB_OK;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        bool found = false;
        for (int i = 0; !found && known[i]; i++)
            found = strcmp(known[i], key) == 0;
        if (!found)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: %.100s is not supported", r->file, where, key) == CB_OK;
    }
    return true;
}

static bool check_parameters(const recipe *r, const json_t *parameters)
{
    static const char *const known[] = {"weight",   "density", "scale",     "lambda",  "t",     "filter_wise",       "select_topk",
                                        "max_iter", "tol",     "normalize", "rescale", "gamma", "normalize_weights", "epsilon",
                                        "r",        "alpha",   "int8_mask", NULL};
    return !parameters || json_is_null(parameters) || check_keys(r, parameters, "parameters", known);
}

/* "model.layers.3.mlp" has a number of its own between dots, the first of which is the layer's. */
static bool block_of(const char *name, int64_t *block, int *begin, int *end)
{
    for (const char *at = strchr(name, '.'); at; at = strchr(at + 1, '.')) {
        size_t digits = strspn(at + 1, "0123456789");
        if (!digits || digits > 6 || at[1 + digits] != '.')
            continue;
        *block = strtol(at + 1, NULL, 10);
        *begin = (int)(at + 1 - name);
        *end = *begin + (int)digits;
        return true;
    }
    return false;
}

static bool open_model(recipe *r, const char *path)
{
    recipe_model *m = &r->models[r->model_count];
    *m = (recipe_model){.path = path};
    if (!cb_is_directory(path))
        return cb_fail(CB_ERR_IO, "%s: %s: found no such directory%s", r->file, path,
                       strchr(path, '+') ? ", and models with adapters are not supported: fold the adapter in first" : "") == CB_OK;
    r->model_count++;
    char *config = cb_path_join(path, "config.json");
    m->config = config ? cb_json_load(config, 1u << 24) : NULL;
    cb_free(config);
    if (m->config && json_object_get(m->config, "num_shared_layers"))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: its layers share weights, and a recipe counts layers; untie it first (cambium tie --untie)",
                       path) == CB_OK;
    m->weights = m->config ? cb_weights_open(path) : NULL;
    for (size_t i = 0; m->weights && i < cb_weights_count(m->weights); i++) {
        int64_t block;
        int begin, end;
        if (block_of(cb_weights_at(m->weights, i)->name, &block, &begin, &end) && block >= m->layers)
            m->layers = block + 1;
    }
    return m->weights && cb_merge_check_plain(path, m->weights);
}

static bool model_named(recipe *r, const json_t *name, size_t *index)
{
    const char *path = json_string_value(name);
    if (!path)
        return cb_fail(CB_ERR_FORMAT, "%s: model: expected the name of a directory", r->file) == CB_OK;
    for (*index = 0; *index < r->model_count; ++*index)
        if (strcmp(r->models[*index].path, path) == 0)
            return true;
    if (r->model_count == MOST)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found more than %d models", r->file, MOST) == CB_OK;
    return open_model(r, path);
}

static bool add_source(recipe *r, recipe_slice *slice, const json_t *object, bool ranged)
{
    static const char *const of_model[] = {"model", "parameters", NULL}, *const of_slice[] = {"model", "layer_range", "parameters", NULL};
    recipe_source *s = &slice->sources[slice->count];
    if (slice->count == MOST)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found more than %d sources", r->file, MOST) == CB_OK;
    if (!check_keys(r, object, ranged ? "sources" : "models", ranged ? of_slice : of_model) ||
        !model_named(r, json_object_get(object, "model"), &s->model))
        return false;
    s->parameters = json_object_get(object, "parameters");
    s->first = 0;
    s->count = r->models[s->model].layers;
    if (ranged) {
        const json_t *range = json_object_get(object, "layer_range"), *from = json_array_get(range, 0), *to = json_array_get(range, 1);
        s->first = json_integer_value(from);
        int64_t end = json_integer_value(to);
        if (json_array_size(range) != 2 || !json_is_integer(from) || !json_is_integer(to) || s->first < 0 || end <= s->first ||
            end > s->count)
            return cb_fail(CB_ERR_ARGUMENT, "%s: layer_range: expected [FIRST, END] within the %lld layers of %s", r->file,
                           (long long)s->count, r->models[s->model].path) == CB_OK;
        s->count = end - s->first;
    }
    if (slice->count && s->count != slice->sources[0].count)
        return cb_fail(CB_ERR_ARGUMENT, "%s: %s: found %lld layers, expected %lld as of the first source", r->file,
                       r->models[s->model].path, (long long)s->count, (long long)slice->sources[0].count) == CB_OK;
    slice->count++;
    return check_parameters(r, s->parameters);
}

/* The base must be one of a slice's sources; mergekit adds it to a list of models. */
static bool find_base(recipe *r, recipe_slice *slice, const json_t *name, bool add)
{
    size_t base;
    slice->base = -1;
    if (!name || json_is_null(name))
        return true;
    if (!model_named(r, name, &base))
        return false;
    for (size_t i = 0; i < slice->count; i++)
        if (slice->sources[i].model == base)
            slice->base = (int)i;
    if (slice->base >= 0)
        return true;
    if (!add || slice->count == MOST || r->models[base].layers != slice->sources[0].count)
        return cb_fail(CB_ERR_ARGUMENT, "%s: base_model: expected %s among the sources, with as many layers", r->file,
                       r->models[base].path) == CB_OK;
    slice->base = (int)slice->count;
    slice->sources[slice->count++] = (recipe_source){.model = base, .count = r->models[base].layers};
    return true;
}

static bool add_slice(recipe *r, const json_t *sources, const json_t *parameters, const json_t *base, bool ranged)
{
    if (!json_array_size(sources))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: expected a list", r->file, ranged ? "sources" : "models") == CB_OK;
    if (!cb_grow(&r->slices, &r->slice_capacity, r->slice_count + 1, sizeof *r->slices))
        return false;
    recipe_slice *slice = &r->slices[r->slice_count++];
    *slice = (recipe_slice){.parameters = parameters};
    for (size_t i = 0; i < json_array_size(sources); i++)
        if (!add_source(r, slice, json_array_get(sources, i), ranged))
            return false;
    return check_parameters(r, parameters) && find_base(r, slice, base, !ranged);
}

static bool read_slices(recipe *r)
{
    static const char *const known[] = {"sources", "base_model", "parameters", NULL};
    const json_t *slices = json_object_get(r->root, "slices"), *models = json_object_get(r->root, "models"),
                 *base = json_object_get(r->root, "base_model");
    if (!slices == !models)
        return cb_fail(CB_ERR_FORMAT, "%s: expected models or slices", r->file) == CB_OK;
    if (models)
        return add_slice(r, models, NULL, base, false);
    for (size_t i = 0; i < json_array_size(slices); i++) {
        const json_t *s = json_array_get(slices, i), *own = json_object_get(s, "base_model");
        if (!check_keys(r, s, "slices", known) ||
            !add_slice(r, json_object_get(s, "sources"), json_object_get(s, "parameters"), own ? own : base, true))
            return false;
    }
    return r->slice_count || cb_fail(CB_ERR_FORMAT, "%s: slices: expected a list", r->file) == CB_OK;
}

static bool read_dtype(recipe *r)
{
    static const char *const names[] = {"", "float32", "bfloat16", "float16"};
    const char *dtype = cb_json_string(r->file, r->root, "out_dtype", NULL);
    dtype = dtype ? dtype : cb_json_string(r->file, r->root, "dtype", "");
    for (r->dtype = CB_MERGE_KEEP; r->dtype <= CB_MERGE_F16; r->dtype++)
        if (strcmp(names[r->dtype], dtype) == 0)
            return cb_ok();
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: dtype: found %.40s, expected float32, bfloat16 or float16", r->file, dtype) == CB_OK;
}

static bool read_method(recipe *r)
{
    const char *method = cb_json_string(r->file, r->root, "merge_method", "");
    r->passthrough = strcmp(method, "passthrough") == 0;
    return r->passthrough ||
           (cb_options_set(cb_model_merge_option_table, &r->options, "method", method) &&
            (r->options.method != CB_MERGE_LEGO || cb_fail(CB_ERR_ARGUMENT, "%s: merge_method: lego merges adapters", r->file) == CB_OK));
}

/* Ids must mean the same in all models, and the result's are those of the pattern. */
static bool read_tokenizer(const recipe *r)
{
    const json_t *source = json_object_get(r->root, "tokenizer_source");
    const char *name = json_string_value(source);
    if (!source || json_is_null(source) || (name && (strcmp(name, "base") == 0 || strcmp(name, r->models[r->pattern].path) == 0)))
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: tokenizer_source: found %.100s, expected base: vocabularies are not made of several", r->file,
                   name ? name : "no name") == CB_OK;
}

static bool read_recipe(recipe *r)
{
    static const char *const known[] = {"models",    "slices",           "merge_method", "base_model", "dtype",
                                        "out_dtype", "tokenizer_source", "parameters",   NULL};
    r->root = cb_yaml_load(r->file, 1u << 20);
    if (!r->root || !check_keys(r, r->root, "recipe", known) || !read_method(r) || !read_dtype(r) ||
        !check_parameters(r, json_object_get(r->root, "parameters")) || !read_slices(r))
        return false;
    const json_t *base = json_object_get(r->root, "base_model");
    r->pattern = r->slices[0].sources[0].model;
    return (!base || json_is_null(base) || model_named(r, base, &r->pattern)) && read_tokenizer(r);
}

/* ---- parameters ---- */

static bool number_of(const recipe *r, const json_t *value, double *number)
{
    char *end;
    if (json_is_boolean(value) || json_is_number(value)) {
        *number = json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    *number = text ? strtod(text, &end) : 0;
    return (text && *text && !*end) ||
           cb_fail(CB_ERR_FORMAT, "%s: parameters: expected a number, found \"%.40s\"", r->file, text ? text : "") == CB_OK;
}

/* Numbers in between are on the line from one to the next; of booleans the nearest below counts. */
static bool gradient(const recipe *r, const json_t *list, double t, double *value)
{
    size_t n = json_array_size(list), low = (size_t)(t * (double)(n - 1)), high = low + 1 < n ? low + 1 : n - 1;
    double a, b, part = t * (double)(n - 1) - (double)low;
    if (!number_of(r, json_array_get(list, low), &a) || !number_of(r, json_array_get(list, high), &b))
        return false;
    *value = json_is_boolean(json_array_get(list, 0)) ? a : (1 - part) * a + part * b;
    return true;
}

static bool evaluate(const recipe *r, const json_t *setting, const char *name, double t, bool *found, double *value)
{
    const json_t *first = json_is_array(setting) ? json_array_get(setting, 0) : setting;
    *found = first;
    if (!first)
        return true;
    if (!json_is_object(first))
        return json_is_array(setting) ? gradient(r, setting, t, value) : number_of(r, setting, value);
    for (size_t i = 0; i < (json_is_array(setting) ? json_array_size(setting) : 1); i++) {
        const json_t *condition = json_is_array(setting) ? json_array_get(setting, i) : setting;
        const json_t *part = json_object_get(condition, "filter"), *inner = json_object_get(condition, "value");
        const char *filter = json_string_value(part);
        if (!inner || (part && !filter && !json_is_null(part)) || json_is_object(inner) || json_is_object(json_array_get(inner, 0)))
            return cb_fail(CB_ERR_FORMAT, "%s: parameters: expected a value, or a list of values with filters", r->file) == CB_OK;
        if (!filter || strcmp(filter, "*") == 0 || strstr(name, filter))
            return evaluate(r, inner, name, t, found, value);
    }
    *found = false;
    return true;
}

/* The nearest that says something: the source's (NULL: none), its slice's, the recipe's. */
static bool parameter(const recipe *r, const recipe_tensor *tensor, const recipe_source *source, const char *key, const char *name,
                      bool *found, double *value)
{
    const json_t *scopes[] = {source ? source->parameters : NULL, tensor->slice->parameters, json_object_get(r->root, "parameters")};
    *found = false;
    for (int i = 0; i < 3 && !*found; i++) {
        const json_t *setting = json_object_get(scopes[i], key);
        if (setting && !json_is_null(setting) && !evaluate(r, setting, name, tensor->t, found, value))
            return false;
    }
    return true;
}

static bool set_option(const recipe *r, cb_model_merge_options *o, const char *option, double value)
{
    const cb_option *row = cb_options_find(cb_model_merge_option_table, option);
    char *field = (char *)o + row->offset;
    if (row->type != CB_OPTION_BOOL && !(value >= row->min && value <= row->max))
        return cb_fail(CB_ERR_ARGUMENT, "%s: parameters: %s: found %g, expected %g to %g", r->file, option, value, row->min, row->max) ==
               CB_OK;
    if (row->type == CB_OPTION_BOOL)
        *(bool *)(void *)field = value != 0;
    else if (row->type == CB_OPTION_INT)
        *(int64_t *)(void *)field = (int64_t)value;
    else
        *(double *)(void *)field = value;
    return true;
}

/* What holds for all sources of a tensor. */
static bool settle_options(const recipe *r, const recipe_tensor *tensor, const char *name, cb_model_merge_options *o)
{
    bool ram = o->method == CB_MERGE_RAM || o->method == CB_MERGE_RAMPLUS, found;
    const struct {
        const char *key, *option;
        bool of_source; /* mergekit has one for each source; here they must be equal */
    } numbers[] = {{"lambda", "lambda", false},
                   {"t", "t", false},
                   {"filter_wise", "filter_wise", false},
                   {"select_topk", "select_topk", false},
                   {"max_iter", "max_iter", false},
                   {"tol", "tol", false},
                   {"gamma", "gamma", true},
                   {"epsilon", ram ? "ram_epsilon" : "epsilon", !ram},
                   {"r", "ram_r", false},
                   {"alpha", "ram_alpha", false}};
    double value = 0, other = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        bool any = false;
        for (size_t s = 0; s < (numbers[i].of_source ? tensor->slice->count : 1); s++) {
            if ((int)s == tensor->slice->base && numbers[i].of_source)
                continue;
            const recipe_source *source = numbers[i].of_source ? &tensor->slice->sources[s] : NULL;
            if (!parameter(r, tensor, source, numbers[i].key, name, &found, &value))
                return false;
            if (found && any && value != other)
                return cb_fail(CB_ERR_UNSUPPORTED, "%s: parameters: %s differs between the models, expected one value", r->file,
                               numbers[i].key) == CB_OK;
            any |= found;
            other = value;
        }
        if (any && !set_option(r, o, numbers[i].option, other))
            return false;
    }
    const cb_combine_method *method = cb_combine_method_of(o);
    o->rescale = method->rescale == CB_RESCALE_DENSITY ? CB_RESCALE_NORM : CB_RESCALE_NONE; /* mergekit's own */
    if (!parameter(r, tensor, NULL, "rescale", name, &found, &value))
        return false;
    o->rescale = !found ? o->rescale : value != 0 ? CB_RESCALE_NORM : CB_RESCALE_NONE;
    for (int i = 0; i < 2; i++) {
        if (!parameter(r, tensor, NULL, i ? "normalize_weights" : "normalize", name, &found, &value))
            return false;
        o->normalize = !found ? o->normalize : value != 0 ? 1 : 2;
    }
    return true;
}

static bool has_weights(const cb_model_merge_options *o)
{
    return o->method == CB_MERGE_LINEAR || o->method == CB_MERGE_NUSLERP || o->method == CB_MERGE_MULTISLERP ||
           cb_combine_method_of(o)->family == CB_COMBINE_CHANGES;
}

/* ---- planning ---- */

static bool add_tensor(recipe *r, const recipe_slice *slice, const cb_weight_entry *entry, int64_t offset, int64_t layer, double t)
{
    static const cb_dtype dtypes[] = {CB_F32, CB_F32, CB_BF16, CB_F16};
    if (!cb_grow(&r->tensors, &r->capacity, r->count + 1, sizeof *r->tensors) ||
        !cb_grow(&r->out, &r->out_capacity, r->count + 1, sizeof *r->out))
        return false;
    recipe_tensor *tensor = &r->tensors[r->count];
    *tensor = (recipe_tensor){.slice = slice, .t = t};
    int64_t block, count = 1;
    int begin, end;
    bool in_block = block_of(entry->name, &block, &begin, &end);
    for (size_t i = 0; i < slice->count; i++) {
        const recipe_model *m = &r->models[slice->sources[i].model];
        char *name = in_block
                         ? cb_format("%.*s%lld%s", begin, entry->name, (long long)(slice->sources[i].first + offset), entry->name + end)
                         : cb_strdup(entry->name);
        const cb_weight_entry *e = tensor->entries[i] = name ? cb_weights_find(m->weights, name) : NULL;
        if (name &&
            (!e || !cb_weight_entry_fits(e, entry->ndim, entry->shape) || cb_fold_is_float(e->dtype) != cb_fold_is_float(entry->dtype)))
            cb_fail(CB_ERR_SHAPE, "%s: tensor %s: found %s, expected one like %s of the first source", m->path, name,
                    e ? "another" : "none", entry->name);
        cb_free(name);
        if (!cb_ok())
            return false;
    }
    cb_weight_entry out = *entry;
    out.name = in_block ? cb_format("%.*s%lld%s", begin, entry->name, (long long)layer, entry->name + end) : cb_strdup(entry->name);
    out.dtype = r->dtype == CB_MERGE_KEEP || !cb_fold_is_float(entry->dtype) ? entry->dtype : dtypes[r->dtype];
    for (int i = 0; i < entry->ndim; i++)
        count *= entry->shape[i];
    out.size = out.dtype == entry->dtype ? entry->size : cb_dtype_bytes(out.dtype, count);
    r->out[r->count] = out;
    r->count += out.name != NULL;
    return out.name;
}

/* Tensors outside the layers: those that come before them are the first slice's, the others the last one's. */
static bool comes_before(const char *name)
{
    return strstr(name, "embed") || strstr(name, "wte.") || strstr(name, "wpe.");
}

static bool plan_ends(recipe *r, bool before)
{
    const recipe_slice *slice = before ? &r->slices[0] : &r->slices[r->slice_count - 1];
    const cb_weights *weights = r->models[slice->sources[0].model].weights;
    for (size_t i = 0; i < cb_weights_count(weights); i++) {
        const cb_weight_entry *e = cb_weights_at(weights, i);
        int64_t block;
        int begin, end;
        if (!block_of(e->name, &block, &begin, &end) && comes_before(e->name) == before && !add_tensor(r, slice, e, 0, 0, 0))
            return false;
    }
    return true;
}

/* The first source's tensors are planned: one that only another has would be left out without a word. */
static bool check_others(const recipe *r, const recipe_slice *slice)
{
    const recipe_source *first = &slice->sources[0];
    const recipe_model *pattern = &r->models[first->model];
    for (size_t i = 1; i < slice->count; i++) {
        const recipe_source *s = &slice->sources[i];
        const recipe_model *m = &r->models[s->model];
        for (size_t t = 0; t < cb_weights_count(m->weights); t++) {
            const char *name = cb_weights_at(m->weights, t)->name;
            int64_t block;
            int begin, end;
            bool in_block = block_of(name, &block, &begin, &end);
            if (in_block && (block < s->first || block >= s->first + s->count))
                continue;
            char *own =
                in_block ? cb_format("%.*s%lld%s", begin, name, (long long)(first->first + block - s->first), name + end) : cb_strdup(name);
            if (own && !cb_weights_find(pattern->weights, own))
                cb_fail(CB_ERR_SHAPE, "%s: tensor %s: %s has none of that name", m->path, name, pattern->path);
            cb_free(own);
            if (!cb_ok())
                return false;
        }
    }
    return true;
}

static bool plan_slice(recipe *r, const recipe_slice *slice)
{
    const recipe_source *s = &slice->sources[0];
    const cb_weights *weights = r->models[s->model].weights;
    for (size_t i = 0; i < cb_weights_count(weights); i++) {
        const cb_weight_entry *e = cb_weights_at(weights, i);
        int64_t block;
        int begin, end;
        if (!block_of(e->name, &block, &begin, &end) || block < s->first || block >= s->first + s->count)
            continue;
        int64_t offset = block - s->first;
        if (!add_tensor(r, slice, e, offset, r->layers + offset, s->count > 1 ? (double)offset / (double)(s->count - 1) : 1))
            return false;
    }
    r->layers += s->count;
    return check_others(r, slice);
}

/* One config is written for all: what it says of sizes must hold for every model that has a part in it. */
static bool check_sizes(const recipe *r)
{
    static const char *const sizes[] = {
        "model_type", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim", "vocab_size", "n_embd",
        "n_head",     NULL};
    const recipe_model *pattern = &r->models[r->pattern];
    for (size_t i = 0; i < r->model_count; i++)
        for (int k = 0; sizes[k]; k++) {
            const json_t *a = json_object_get(pattern->config, sizes[k]), *b = json_object_get(r->models[i].config, sizes[k]);
            if ((a || b) && !(a && b && json_equal(a, b)))
                return cb_fail(CB_ERR_SHAPE, "%s: config.json: %s is not as in %s", r->models[i].path, sizes[k], pattern->path) == CB_OK;
        }
    return true;
}

static bool check_counts(const recipe *r)
{
    const cb_combine_method *method = cb_combine_method_of(&r->options);
    bool based = method->family != CB_COMBINE_SPAN || r->options.method == CB_MERGE_SLERP || r->options.method == CB_MERGE_MODEL_STOCK;
    for (size_t i = 0; i < r->slice_count; i++) {
        const recipe_slice *s = &r->slices[i];
        bool counts = based || r->options.method == CB_MERGE_NUSLERP || r->options.method == CB_MERGE_MULTISLERP;
        size_t others = s->count - (counts && s->base >= 0);
        if (r->passthrough && s->count != 1)
            return cb_fail(CB_ERR_ARGUMENT, "%s: passthrough: found %zu sources of a slice, expected one", r->file, s->count) == CB_OK;
        if (!r->passthrough && based && s->base < 0)
            return cb_fail(CB_ERR_ARGUMENT, "%s: %s: expected a base_model", r->file, method->name) == CB_OK;
        if (!r->passthrough && (others < method->fewest || (method->most && others > method->most)))
            return cb_fail(CB_ERR_ARGUMENT, "%s: %s: found %zu models%s, expected %s%zu", r->file, method->name, others,
                           s->base >= 0 && counts ? " besides the base" : "", method->most ? "" : "at least ", method->fewest) == CB_OK;
    }
    return true;
}

static bool plan(recipe *r)
{
    if (!check_counts(r) || !check_sizes(r) || !plan_ends(r, true))
        return false;
    for (size_t i = 0; i < r->slice_count; i++)
        if (!plan_slice(r, &r->slices[i]))
            return false;
    return r->count ? plan_ends(r, false) : cb_fail(CB_ERR_FORMAT, "%s: found no tensors", r->models[0].path) == CB_OK;
}

/* ---- making ---- */

typedef struct making {
    char *to;
    const char *name;
    bool f16;
} making;

static bool take(void *user, const void *data, size_t bytes)
{
    making *m = user;
    if (!cb_rehearsing())
        memcpy(m->to, data, bytes);
    if (m->f16 && !cb_rehearsing() && !cb_fold_check_f16(m->name, data, bytes / 2))
        return false;
    m->to += bytes;
    return true;
}

/* The tensor's versions, of which the base is apart where the method has one. */
static bool make_versions(const recipe *r, const recipe_tensor *tensor, const char *name, cb_model_merge_options *o,
                          const cb_weight_entry **others, double *weights, double *densities, cb_versions *v)
{
    const recipe_slice *s = tensor->slice;
    bool turn = o->method == CB_MERGE_NUSLERP || o->method == CB_MERGE_MULTISLERP;
    bool apart = s->base >= 0 && (turn || !(o->method == CB_MERGE_LINEAR || o->method == CB_MERGE_KARCHER)), found;
    o->changes = turn && apart;
    for (size_t i = 0; i < s->count; i++) {
        if (apart && (int)i == s->base)
            continue;
        const recipe_source *source = &s->sources[i];
        const cb_weight_entry *e = others[v->count] = tensor->entries[i];
        double *weight = &weights[v->count], *density = &densities[v->count++];
        *weight = *density = 1;
        if (!parameter(r, tensor, source, r->passthrough ? "scale" : "weight", e->name, &found, weight))
            return false;
        if (!found && has_weights(o) && !r->passthrough)
            return cb_fail(CB_ERR_ARGUMENT, "%s: weight: found none for %s of %s", r->file, e->name, r->models[source->model].path) ==
                   CB_OK;
        if (!parameter(r, tensor, source, "density", e->name, &found, density))
            return false;
        double spread = cb_combine_method_of(o)->thinning == CB_THIN_RANKED && *density > 0 && *density < 1 ? o->epsilon : 0;
        if (!(*density >= 0 && *density <= 1) || (spread > 0 && !(*density - spread > 0 && *density + spread < 1)))
            return cb_fail(CB_ERR_ARGUMENT, "%s: density: found %g for %s, expected 0 to 1, and with epsilon too", r->file, *density,
                           name) == CB_OK;
    }
    v->base = tensor->entries[apart ? s->base : 0];
    return true;
}

static bool combine(recipe *r, size_t index, const char *name)
{
    const recipe_tensor *tensor = &r->tensors[index];
    const cb_weight_entry *others[MOST], *e = &r->out[index];
    double weights[MOST], densities[MOST];
    cb_versions v = {.others = others, .weights = weights, .densities = densities, .rows = 1, .columns = 1};
    cb_model_merge_options o = r->options;
    if (!settle_options(r, tensor, name, &o) || !make_versions(r, tensor, name, &o, others, weights, densities, &v))
        return false;
    if (r->passthrough)
        o.normalize = 2;
    for (int i = 0; i < e->ndim; i++)
        *(i + 1 < e->ndim ? &v.rows : &v.columns) *= e->shape[i];
    return cb_combine(&o, &v, e->dtype, take, &(making){r->buffer, name, e->dtype == CB_F16});
}

static const void *provide(void *user, size_t index)
{
    recipe *r = user;
    const cb_weight_entry *out = &r->out[index], *from = r->tensors[index].entries[0];
    if (!cb_fold_is_float(from->dtype))
        return from->data;
    return cb_grow(&r->buffer, &r->room, out->size, 1) && combine(r, index, out->name) ? r->buffer : NULL;
}

/* Lists of what the layers are, one for each, go with them. */
static bool put_layer_types(const recipe *r, json_t *config)
{
    static const char key[] = "layer_types";
    if (!json_object_get(config, key))
        return true;
    json_t *types = json_array();
    bool ok = types;
    for (size_t i = 0; ok && i < r->slice_count; i++) {
        const recipe_source *s = &r->slices[i].sources[0];
        const json_t *own = json_object_get(r->models[s->model].config, key);
        for (int64_t k = s->first; ok && k < s->first + s->count; k++)
            ok = cb_json_add(types, cb_json_copy(json_array_get(own, (size_t)k)));
    }
    return cb_json_put(config, key, ok ? types : NULL);
}

static bool write_config(const recipe *r, const char *stage)
{
    static const char *const layers[] = {"num_hidden_layers", "n_layer", "num_layers", "n_layers", NULL};
    static const char *const dtypes[] = {NULL, "float32", "bfloat16", "float16"};
    char *path = cb_path_join(stage, "config.json");
    json_t *config = path ? cb_json_copy(r->models[r->pattern].config) : NULL;
    bool ok = config;
    for (int i = 0; ok && layers[i]; i++)
        ok = !json_object_get(config, layers[i]) || cb_json_put(config, layers[i], json_integer(r->layers));
    ok = ok && put_layer_types(r, config);
    if (ok && dtypes[r->dtype])
        ok = cb_json_put(config, json_object_get(config, "torch_dtype") ? "torch_dtype" : "dtype", json_string(dtypes[r->dtype]));
    ok = ok && cb_json_save(path, config, false);
    json_decref(config);
    cb_free(path);
    return ok;
}

static bool write(recipe *r, fold_plan *files)
{
    cb_string_list others = {0};
    files->stage = cb_directory_stage(files->output);
    if (!files->stage)
        return false;
    bool ok = cb_weights_write(files->stage, r->out, r->count, 0, provide, r) && write_config(r, files->stage) &&
              cb_fold_list_others(files->input, &others);
    for (size_t i = 0; ok && i < others.count; i++)
        ok = cb_fold_copy_file(files, others.items[i]);
    cb_string_list_free(&others);
    if (ok)
        return cb_stage_publish(files->stage, files->output);
    cb_stage_discard(files->stage);
    return false;
}

static void recipe_free(recipe *r)
{
    for (size_t i = 0; i < r->model_count; i++) {
        cb_weights_close(r->models[i].weights);
        json_decref(r->models[i].config);
    }
    for (size_t i = 0; i < r->count; i++)
        cb_free((char *)(uintptr_t)r->out[i].name);
    cb_free(r->tensors);
    cb_free(r->out);
    cb_free(r->slices);
    cb_free(r->buffer);
    cb_options_free(cb_model_merge_option_table, &r->options);
    json_decref(r->root);
}

bool cb_merge_recipe(const char *file, const char *output, uint64_t seed, bool ignore_tokenizers)
{
    recipe r = {.file = file};
    if (!cb_ok() || !cb_options_init(cb_model_merge_option_table, &r.options))
        return false;
    r.options.seed = (int64_t)seed;
    bool ok = read_recipe(&r) && plan(&r);
    for (size_t i = 0; ok && !ignore_tokenizers && i < r.model_count; i++)
        ok = cb_merge_same_tokenizer(r.models[r.pattern].path, r.models[i].path);
    fold_plan files = {.input = ok ? r.models[r.pattern].path : NULL, .output = output};
    ok = ok && cb_fold_check_output(&files) && write(&r, &files);
    recipe_free(&r);
    return ok;
}
