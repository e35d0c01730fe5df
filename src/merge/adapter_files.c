/* adapter_files.c: the files of adapters that are merged into one.  They are read without a base, by the names of their tensors: what is known of
 * a layer is its name and the shapes of its factors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/internal.h"
#include "merge/adapters.h"
#include "merge/fold.h"

#define CONFIG_NAME  "adapter_config.json"
#define WEIGHTS_NAME "adapter_model.safetensors"

/* ---- configs ---- */

static bool is_set(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return v && !json_is_null(v) && !json_is_false(v) &&
           !((json_is_array(v) || json_is_object(v)) && !json_array_size(v) && !json_object_size(v));
}

/* Of some elements of the weights, which are added up as one kind: LT-SFT, which SHiRA's fixed number of places has room in. */
static bool is_sparse(const char *type)
{
    return strcmp(type, "LT_SFT") == 0 || strcmp(type, "SHIRA") == 0;
}

/* What is more than A, B and a scale cannot be added up, or not without the base. */
static bool check_config(const cb_adapter_source *s)
{
    static const char *const fields[] = {
        "use_dora",   "lora_bias",   "trainable_token_indices", "alora_invocation_tokens", "target_parameters", "use_qalora",
        "use_bdlora", "kasa_config", "layer_replication",       "monteclora_config",       "velora_config",     NULL};
    const char *type = cb_json_string(s->path, s->config, "peft_type", ""), *bias = cb_json_string(s->path, s->config, "bias", "none");
    if (strcmp(type, "LORA") != 0 && strcmp(type, "IA3") != 0 && !is_sparse(type))
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: peft_type: found %.50s, expected LORA, IA3, LT_SFT or SHIRA: fold others into models and merge those", s->path,
                       *type ? type : "none") == CB_OK;
    for (int i = 0; fields[i]; i++)
        if (is_set(s->config, fields[i]))
            return cb_fail(
                       CB_ERR_UNSUPPORTED,
                       "%s: %s: is no sum of A and B, so it cannot be merged into another adapter: fold it into a model, merge models and "
                       "extract an adapter",
                       s->path, fields[i]) == CB_OK;
    return strcmp(bias, "none") == 0 ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: bias: found %.20s, expected none: what becomes of biases depends on the base", s->path, bias) ==
               CB_OK;
}

static bool open_source(cb_adapter_source *s)
{
    const char *format = cb_adapter_format(s->path);
    if (!cb_ok())
        return false;
    if (!format || strcmp(format, "peft") != 0)
        return cb_fail(CB_ERR_FORMAT, "%s: found %s, expected a PEFT adapter's directory%s", s->path, format ? format : "no adapter",
                       format ? ": make one with convert --to peft" : "") == CB_OK;
    char *config = cb_path_join(s->path, CONFIG_NAME), *weights = NULL;
    s->config = config ? cb_json_load(config, 16u << 20) : NULL;
    if (s->config && check_config(s) && cb_ok()) {
        weights = cb_peft_weights_path(s->path);
        s->tensors = weights ? cb_weights_open_file(weights) : NULL;
        if (!weights)
            cb_error_prefix("%s", s->path);
    }
    cb_free(config);
    cb_free(weights);
    return s->tensors != NULL;
}

static bool same_kind_and_base(const cb_adapter_merge *m, const cb_adapter_source *s, bool any_base)
{
    const cb_adapter_source *first = &m->sources[0];
    const char *a = cb_json_string(first->path, first->config, "peft_type", ""), *b = cb_json_string(s->path, s->config, "peft_type", "");
    if (strcmp(a, b) != 0 && !(is_sparse(a) && is_sparse(b)))
        return cb_fail(CB_ERR_ARGUMENT, "%s: peft_type: found %s, expected %s as in %s", s->path, b, a, first->path) == CB_OK;
    a = cb_json_string(first->path, first->config, "base_model_name_or_path", "");
    b = cb_json_string(s->path, s->config, "base_model_name_or_path", "");
    return any_base || !*a || !*b || strcmp(a, b) == 0 ||
           cb_fail(
               CB_ERR_ARGUMENT,
               "%s: base_model_name_or_path: found %.200s, expected %.200s as in %s; should they be one, name a MODEL, which all are then "
               "tried on",
               s->path, b, a, first->path) == CB_OK;
}

/* ---- tensors ---- */

static cb_source_layer *layer_of(cb_adapter_merge *m, const char *name, size_t length)
{
    for (size_t i = m->layer_count; i-- > 0;) /* A and B are neighbours mostly */
        if (strlen(m->layers[i].name) == length && strncmp(m->layers[i].name, name, length) == 0)
            return &m->layers[i];
    if (!cb_grow(&m->layers, &m->layer_capacity, m->layer_count + 1, sizeof *m->layers))
        return NULL;
    cb_source_layer *layer = &m->layers[m->layer_count];
    *layer = (cb_source_layer){.name = cb_strndup(name, length)};
    m->layer_count += layer->name != NULL;
    return layer->name ? layer : NULL;
}

static bool take_sparse(cb_adapter_merge *m, size_t source, const cb_weight_entry *e, cb_source_layer *l, bool is_places)
{
    bool fits = is_places ? (e->dtype == CB_I32 || e->dtype == CB_I64) && e->ndim == 2 && e->shape[0] == 2 && e->shape[1] > 0
                          : cb_fold_is_float(e->dtype) && e->ndim == 1 && e->shape[0] > 0;
    if (!fits)
        return cb_fail(CB_ERR_SHAPE, "%s: %s: found %s of %s, expected %s", m->sources[source].path, e->name, e->type_name,
                       cb_shape_text_nd(e->ndim, e->shape),
                       is_places ? "i32 or i64 of (2, K) with K from 1" : "f32, bf16 or f16 of (K) with K from 1") == CB_OK;
    const cb_weight_entry **first = is_places ? &l->first_b : &l->first_a;
    *first = *first ? *first : e;
    (is_places ? l->b : l->a)[source] = e;
    return true;
}

static bool take_factor(cb_adapter_merge *m, size_t source, const cb_weight_entry *e, const char *layer, size_t length, bool is_b,
                        bool embedding)
{
    cb_source_layer *l = layer_of(m, layer, length);
    if (!l || m->sparse)
        return l && take_sparse(m, source, e, l, is_b);
    bool seen = l->first_a || l->first_b;
    const cb_weight_entry **first = is_b ? &l->first_b : &l->first_a;
    int width = is_b ? 0 : 1; /* the dimension that is the layer's */
    bool fits = cb_fold_is_float(e->dtype) && (e->ndim == 2 || e->ndim == 4) && e->shape[0] > 0 && e->shape[1] > 0 &&
                (!seen || l->embedding == embedding) &&
                (!*first || ((*first)->ndim == e->ndim && (*first)->shape[width] == e->shape[width]));
    fits = fits && (!m->ia3 || !*first || (*first)->shape[0] == e->shape[0]); /* factors, which are multiplied */
    for (int i = 2; fits && i < e->ndim; i++)
        fits = e->shape[i] > 0 && (is_b ? e->shape[i] == 1 : !*first || (*first)->shape[i] == e->shape[i]);
    if (!fits)
        return cb_fail(CB_ERR_SHAPE, "%s: %s: found %s of %s, expected f32, bf16 or f16 numbers that fit those of the other adapters%s%s",
                       m->sources[source].path, e->name, e->type_name, cb_shape_text_nd(e->ndim, e->shape), *first ? ", " : "",
                       *first ? cb_shape_text_nd((*first)->ndim, (*first)->shape) : "") == CB_OK;
    l->embedding = embedding;
    *first = *first ? *first : e;
    (is_b ? l->b : l->a)[source] = e;
    return true;
}

/* Of one that several hold, all must hold the same; on a base they could not be compared, which has room for one. */
static bool take_whole(cb_adapter_merge *m, size_t source, const cb_weight_entry *e, bool on_base)
{
    for (size_t i = 0; i < m->whole_count; i++) {
        const cb_weight_entry *w = m->whole[i];
        if (strcmp(w->name, e->name) != 0)
            continue;
        if (on_base)
            return cb_fail(
                       CB_ERR_UNSUPPORTED,
                       "%s: %s: found in another adapter as well, and of a layer that is held whole a MODEL can have one; leave MODEL out, "
                       "or fold the adapters into models and merge those",
                       m->sources[source].path, e->name) == CB_OK;
        return (w->dtype == e->dtype && w->size == e->size && memcmp(w->data, e->data, e->size) == 0) ||
               cb_fail(
                   CB_ERR_UNSUPPORTED,
                   "%s: %s: found other values than in another adapter, and layers that are held whole cannot be combined without their "
                   "base: fold the adapters into models and merge those",
                   m->sources[source].path, e->name) == CB_OK;
    }
    if (!cb_grow(&m->whole, &m->whole_capacity, m->whole_count + 1, sizeof *m->whole))
        return false;
    m->whole[m->whole_count++] = e;
    return true;
}

static bool take_tensor(cb_adapter_merge *m, size_t source, const cb_weight_entry *e, bool on_base)
{
    static const struct {
        const char *end;
        enum { FACTORS, IA3, SPARSE } of;
        bool is_b, embedding;
    } ends[] = {{".lora_A.weight", FACTORS, false, false},
                {".lora_B.weight", FACTORS, true, false},
                {".lora_embedding_A", FACTORS, false, true},
                {".lora_embedding_B", FACTORS, true, true},
                {".ia3_l", IA3, false, false},
                {".sft_values", SPARSE, false, false},
                {".sft_indices", SPARSE, true, false},
                {".shira_weight", SPARSE, false, false},
                {".shira_indices", SPARSE, true, false}};
    size_t prefix = strlen(CB_PEFT_PREFIX), length = strlen(e->name);
    if (strncmp(e->name, CB_PEFT_PREFIX, prefix) == 0) {
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
            size_t end = strlen(ends[i].end);
            if ((m->ia3      ? IA3
                 : m->sparse ? SPARSE
                             : FACTORS) == ends[i].of &&
                length > prefix + end && strcmp(e->name + length - end, ends[i].end) == 0)
                return take_factor(m, source, e, e->name + prefix, length - prefix - end, ends[i].is_b, ends[i].embedding);
        }
        if (cb_ends_with(e->name, ".base_layer.weight")) /* the base's, saved beside */
            return true;
        if (!strstr(e->name, ".lora_") && !strstr(e->name, ".ia3_") && !strstr(e->name, ".sft_") && !strstr(e->name, ".shira_"))
            return take_whole(m, source, e, on_base);
    }
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: %.200s: found a tensor that cannot be merged, expected A and B of layers, or whole layers",
                   m->sources[source].path, e->name) == CB_OK;
}

/* ---- scales ---- */

static bool read_map(const cb_adapter_source *s, const char *key, cb_option_map *map)
{
    const char *name;
    json_t *value, *object = json_object_get(s->config, key);
    if (object && !json_is_object(object) && !json_is_null(object))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: expected an object of numbers", s->path, key) == CB_OK;
    json_object_foreach(object, name, value)
    {
        if (!json_is_number(value))
            return cb_fail(CB_ERR_FORMAT, "%s: %s: %.100s: expected a number", s->path, key, name) == CB_OK;
        if (!cb_option_map_set(map, name, json_number_value(value)))
            return false;
    }
    return true;
}

static bool set_scales(cb_adapter_merge *m, size_t source)
{
    const cb_adapter_source *s = &m->sources[source];
    cb_option_map alphas = {0};
    double alpha = cb_json_float(s->path, s->config, "lora_alpha", 8);
    bool rslora = cb_json_bool(s->path, s->config, "use_rslora", false), ok = cb_ok() && read_map(s, "alpha_pattern", &alphas);
    for (size_t i = 0; ok && i < m->layer_count; i++) {
        cb_source_layer *l = &m->layers[i];
        const cb_weight_entry *a = l->a[source], *b = l->b[source];
        if (!a && !b)
            continue;
        if (!a || !b || b->shape[1] != a->shape[0])
            return cb_fail(CB_ERR_FORMAT, "%s: layer %s: found %s, expected A and B of one rank", s->path, l->name,
                           !a   ? "no A"
                           : !b ? "no B"
                                : "other ranks") == CB_OK;
        double own = alpha, rank = (double)a->shape[0];
        ok = cb_pattern_of_name(&alphas, "alpha_pattern", l->name, &own);
        l->scales[source] = own / (rslora ? sqrt(rank) : rank);
    }
    for (size_t i = 0; i < alphas.count; i++)
        cb_free(alphas.keys[i]);
    cb_free(alphas.keys);
    cb_free(alphas.values);
    return ok;
}

static int by_layer(const void *a, const void *b)
{
    return strcmp(((const cb_source_layer *)a)->name, ((const cb_source_layer *)b)->name);
}

bool cb_adapter_merge_read(cb_adapter_merge *m, bool on_base)
{
    for (size_t i = 0; i < m->count; i++)
        if (!open_source(&m->sources[i]) || !same_kind_and_base(m, &m->sources[i], on_base))
            return false;
    if (!cb_adapter_merge_labels(m))
        return false;
    const char *type = cb_json_string(m->sources[0].path, m->sources[0].config, "peft_type", "");
    m->ia3 = strcmp(type, "IA3") == 0;
    m->sparse = is_sparse(type);
    for (size_t i = 0; i < m->count; i++)
        for (size_t t = 0; t < cb_weights_count(m->sources[i].tensors); t++)
            if (!take_tensor(m, i, cb_weights_at(m->sources[i].tensors, t), on_base))
                return false;
    if (!m->layer_count)
        return cb_fail(CB_ERR_FORMAT, "%s: found no layers that it adapts", m->sources[0].path) == CB_OK;
    for (size_t i = 0; !m->ia3 && !m->sparse && i < m->count; i++)
        if (!set_scales(m, i))
            return false;
    qsort(m->layers, m->layer_count, sizeof *m->layers, by_layer);
    return (m->ranks = cb_calloc(m->layer_count, sizeof *m->ranks));
}

/* ---- the result ---- */

cb_dtype cb_adapter_merge_dtype(const cb_adapter_merge *m, const cb_weight_entry *like)
{
    static const cb_dtype dtypes[] = {CB_F32, CB_F32, CB_BF16, CB_F16};
    int asked = m->options->combine->dtype;
    return asked == CB_MERGE_KEEP ? like->dtype : dtypes[asked];
}

bool cb_adapter_merge_put(cb_adapter_merge *m, const cb_source_layer *layer, const char *suffix, const cb_weight_entry *like, int ndim,
                          const int64_t *shape, cb_tensor *values)
{
    if (!values || !cb_grow(&m->out, &m->out_capacity, m->out_count + 1, sizeof *m->out))
        return false;
    cb_weight_entry e = {.dtype = cb_adapter_merge_dtype(m, like), .ndim = ndim};
    memcpy(e.shape, shape, (size_t)ndim * sizeof *shape);
    e.size = cb_dtype_bytes(e.dtype, values->count);
    char *name = cb_format(CB_PEFT_PREFIX "%s%s", layer->name, suffix);
    void *data = name ? cb_alloc(e.size) : NULL;
    if (!data || !cb_read(values, e.dtype, data)) {
        cb_free(name);
        cb_free(data);
        return false;
    }
    e.name = name;
    e.data = data;
    m->out[m->out_count++] = e;
    return true;
}

bool cb_adapter_merge_put_places(cb_adapter_merge *m, const cb_source_layer *layer, const char *suffix, int64_t count,
                                 const int32_t *places)
{
    if (!cb_grow(&m->out, &m->out_capacity, m->out_count + 1, sizeof *m->out))
        return false;
    cb_weight_entry e = {.dtype = CB_I32, .ndim = 2, .shape = {2, count}, .size = (size_t)(2 * count) * sizeof *places};
    char *name = cb_format(CB_PEFT_PREFIX "%s%s", layer->name, suffix);
    void *data = name ? cb_alloc(e.size) : NULL;
    if (!data) {
        cb_free(name);
        return false;
    }
    memcpy(data, places, e.size);
    e.name = name;
    e.data = data;
    m->out[m->out_count++] = e;
    return true;
}

/* Layers in full, which is right whatever else the base has; or the lists of the sources in one, where they say which layers these are. */
static json_t *names_of(const cb_adapter_merge *m, const char *key, bool full)
{
    json_t *list = json_array();
    bool ok = list;
    for (size_t i = 0; ok && full && i < m->layer_count; i++)
        ok = cb_json_add(list, json_string(m->layers[i].name));
    for (size_t i = 0; ok && !full && i < m->count; i++) {
        size_t index;
        json_t *item;
        json_array_foreach(json_object_get(m->sources[i].config, key), index, item)
        {
            bool there = false;
            for (size_t k = 0; k < json_array_size(list); k++)
                there |= json_equal(json_array_get(list, k), item);
            ok = ok && (there || cb_json_add(list, cb_json_copy(item)));
        }
    }
    if (ok)
        return list;
    json_decref(list);
    return NULL;
}

/* Of (IA)^3: the layers whose inputs are scaled, which their factors' shape tells: (1, in). */
static json_t *feedforward_layers(const cb_adapter_merge *m)
{
    json_t *list = json_array();
    bool ok = list;
    for (size_t i = 0; ok && i < m->layer_count; i++)
        if (m->layers[i].first_a->shape[0] == 1)
            ok = cb_json_add(list, json_string(m->layers[i].name));
    if (ok)
        return list;
    json_decref(list);
    return NULL;
}

static bool lists_only(const cb_adapter_merge *m)
{
    for (size_t i = 0; i < m->count; i++) {
        const json_t *c = m->sources[i].config;
        if (!json_array_size(json_object_get(c, "target_modules")) || is_set(c, "exclude_modules") || is_set(c, "layers_to_transform") ||
            (m->ia3 && !json_is_array(json_object_get(c, "feedforward_modules"))))
            return false;
    }
    return true;
}

/* A layer's name as a pattern: its dots could match more, so they are escaped. */
static bool put_exception(json_t *map, const char *layer, int64_t value)
{
    cb_string key = {0};
    bool ok = true;
    for (const char *c = layer; ok && *c; c++)
        ok = *c == '.' ? cb_string_puts(&key, "\\.") : cb_string_append(&key, c, 1);
    ok = ok && cb_json_put(map, key.data, json_integer(value));
    cb_string_free(&key);
    return ok;
}

/* The rank of most layers is the adapter's, and alpha is always the rank: the scale is 1. */
static bool put_ranks(const cb_adapter_merge *m, json_t *config)
{
    int64_t common = 0;
    size_t most = 0;
    for (size_t i = 0; i < m->layer_count; i++) {
        size_t equal = 0;
        for (size_t k = 0; k < m->layer_count; k++)
            equal += m->ranks[k] == m->ranks[i];
        if (equal > most || (equal == most && m->ranks[i] > common)) {
            most = equal;
            common = m->ranks[i];
        }
    }
    json_t *exceptions = cb_json_made(json_object());
    bool ok = exceptions;
    for (size_t i = 0; ok && i < m->layer_count; i++)
        ok = m->ranks[i] == common || put_exception(exceptions, m->layers[i].name, m->ranks[i]);
    ok = ok && cb_json_put(config, "r", json_integer(common)) && cb_json_put(config, "lora_alpha", json_integer(common)) &&
         cb_json_put(config, "alpha_pattern", cb_json_copy(exceptions)) && cb_json_put(config, "rank_pattern", json_incref(exceptions));
    json_decref(exceptions);
    return ok;
}

static json_t *field_or_null(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value ? cb_json_copy(value) : json_null();
}

static json_t *task_type_of(const cb_adapter_merge *m)
{
    return field_or_null(m->sources[m->labels_of].config, "task_type");
}

/* Of an LT-SFT adapter with so many places in each layer. */
static json_t *sparse_config(const cb_adapter_merge *m, const char *base)
{
    const json_t *first = m->sources[0].config;
    json_t *config = cb_json_made(json_object()), *counts = cb_json_made(json_object());
    bool ok = config && counts;
    for (size_t i = 0; ok && i < m->layer_count; i++)
        ok = cb_json_put(counts, m->layers[i].name, json_integer(m->ranks[i]));
    json_t *saved = ok ? names_of(m, "modules_to_save", false) : NULL;
    ok = ok && saved && cb_json_put(config, "peft_type", json_string("LT_SFT")) && cb_json_put(config, "inference_mode", json_true()) &&
         cb_json_put(config, "target_modules", names_of(m, "target_modules", true)) && cb_json_put(config, "counts", json_incref(counts)) &&
         cb_json_put(config, "modules_to_save", json_array_size(saved) ? json_incref(saved) : json_null()) &&
         cb_json_put(config, "base_model_name_or_path", base ? json_string(base) : field_or_null(first, "base_model_name_or_path")) &&
         cb_json_put(config, "task_type", task_type_of(m));
    json_decref(saved);
    json_decref(counts);
    if (ok)
        return config;
    json_decref(config);
    return NULL;
}

/* The first adapter's, but for what is no longer so. */
static json_t *make_config(const cb_adapter_merge *m, const char *base)
{
    static const char *const starts[] = {"eva_config", "corda_config", "lora_ga_config", NULL};
    json_t *config = cb_json_copy(m->sources[0].config);
    bool full = !lists_only(m), ok = config;
    ok = ok && cb_json_put(config, "target_modules", names_of(m, "target_modules", full)) &&
         cb_json_put(config, "exclude_modules", json_null()) && cb_json_put(config, "inference_mode", json_true()) &&
         cb_json_put(config, "task_type", task_type_of(m));
    if (json_object_get(config, "layers_to_transform"))
        ok = ok && cb_json_put(config, "layers_to_transform", json_null()) && cb_json_put(config, "layers_pattern", json_null());
    json_t *saved = ok ? names_of(m, "modules_to_save", false) : NULL;
    ok = ok && cb_json_put(config, "modules_to_save", saved && !json_array_size(saved) ? (json_decref(saved), json_null()) : saved);
    if (base)
        ok = ok && cb_json_put(config, "base_model_name_or_path", json_string(base));
    if (m->ia3)
        ok = ok && cb_json_put(config, "feedforward_modules", full ? feedforward_layers(m) : names_of(m, "feedforward_modules", false));
    else
        ok = ok && put_ranks(m, config) && cb_json_put(config, "use_rslora", json_false()) &&
             cb_json_put(config, "init_lora_weights", json_true());
    for (int i = 0; ok && starts[i]; i++)
        ok = !json_object_get(config, starts[i]) || cb_json_put(config, starts[i], json_null());
    if (ok && json_object_get(config, "loftq_config"))
        ok = cb_json_put(config, "loftq_config", json_object());
    if (ok)
        return config;
    json_decref(config);
    return NULL;
}

bool cb_adapter_merge_write(cb_adapter_merge *m, const char *directory, const char *base)
{
    size_t count = m->out_count + m->whole_count;
    cb_weight_entry *entries = cb_calloc(count + 1, sizeof *entries);
    char *weights = cb_path_join(directory, WEIGHTS_NAME), *path = cb_path_join(directory, CONFIG_NAME);
    json_t *config = !entries || !weights || !path ? NULL : m->sparse ? sparse_config(m, base) : make_config(m, base);
    if (config) {
        memcpy(entries, m->out, m->out_count * sizeof *entries);
        for (size_t i = 0; i < m->whole_count; i++)
            entries[m->out_count + i] = *m->whole[i];
    }
    bool ok = config && cb_safetensors_write(weights, entries, count, NULL, NULL, NULL) && cb_json_save(path, config, true) &&
              (!m->labels.named || cb_adapter_labels_save(&m->labels, directory));
    json_decref(config);
    cb_free(weights);
    cb_free(path);
    cb_free(entries);
    return ok;
}

void cb_adapter_merge_free(cb_adapter_merge *m)
{
    for (size_t i = 0; m->sources && i < m->count; i++) {
        json_decref(m->sources[i].config);
        cb_weights_close(m->sources[i].tensors);
    }
    for (size_t i = 0; i < m->layer_count; i++)
        cb_free(m->layers[i].name);
    for (size_t i = 0; i < m->out_count; i++) {
        cb_free((char *)(uintptr_t)m->out[i].name);
        cb_free((void *)(uintptr_t)m->out[i].data);
    }
    cb_string_list_free(&m->labels.names);
    cb_free(m->sources);
    cb_free(m->layers);
    cb_free(m->whole);
    cb_free(m->out);
    cb_free(m->ranks);
}
