/* lora_file.c: LoRA adapters between formats: the form in memory, the table of formats, and loading any of them onto a model.
 *
 * What the formats disagree on is names, orders and where the scale is; a scale that a format cannot hold goes into B, which changes
 * nothing but rounding.  Ranks that differ where a format has one are padded with zeros. */
#include "adapters/lora_file.h"

#include <stdlib.h>
#include <string.h>

#include "core/io.h"
#include "core/temporary.h"

static const cb_lora_format *const formats[] = {&cb_lora_peft, &cb_lora_gguf, &cb_lora_mlx, &cb_lora_adapterhub, NULL};

const cb_lora_format *cb_lora_format_named(const char *name)
{
    for (const cb_lora_format *const *f = formats; *f; f++)
        if (strcmp((*f)->name, name) == 0)
            return *f;
    cb_fail(CB_ERR_ARGUMENT, "adapter format: found \"%.50s\", expected peft, gguf-lora, mlx or adapterhub", name);
    return NULL;
}

static json_t *config_of(const char *path)
{
    char *file = cb_is_directory(path) ? cb_path_join(path, "adapter_config.json") : NULL;
    json_t *config = file && cb_is_file(file) ? cb_json_load(file, 16u << 20) : NULL;
    cb_free(file);
    return config;
}

const cb_lora_format *cb_lora_format_of(const char *path)
{
    json_t *config = config_of(path);
    const cb_lora_format *found = NULL;
    for (const cb_lora_format *const *f = formats; *f && !found && cb_ok(); f++)
        if ((config || !(*f)->directory) && (*f)->recognise(path, config))
            found = *f;
    json_decref(config);
    return found;
}

/* ---- pairs ---- */

cb_lora_pair *cb_lora_pair_of(cb_lora_set *set, const char *layer)
{
    for (size_t i = set->count; i-- > 0;) /* A and B of a layer are neighbours mostly */
        if (strcmp(set->pairs[i].layer, layer) == 0)
            return &set->pairs[i];
    const cb_layer *host = cb_layer_find(set->root, layer);
    if (!host || host->kind != CB_LAYER_LINEAR) {
        cb_fail(CB_ERR_FORMAT, "%s: found an adapter of %.200s, and the base has no such linear layer", set->what, layer);
        return NULL;
    }
    if (!cb_grow(&set->pairs, &set->capacity, set->count + 1, sizeof *set->pairs))
        return NULL;
    cb_lora_pair *pair = &set->pairs[set->count];
    *pair = (cb_lora_pair){.layer = cb_strdup(layer), .host = host};
    if (!pair->layer)
        return NULL;
    set->count++;
    return pair;
}

static void transpose(const float *from, int64_t rows, int64_t columns, float *to)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            to[c * rows + r] = from[r * columns + c];
}

static float *read_matrix(const cb_weight_entry *e, bool transposed)
{
    size_t count = (size_t)(e->shape[0] * e->shape[1]);
    float *values = cb_calloc(count, sizeof *values), *out = transposed ? cb_calloc(count, sizeof *out) : NULL;
    cb_scope *scope = values && (!transposed || out) ? cb_scope_open() : NULL;
    cb_tensor *t = scope ? cb_from_nd(e->dtype, e->data, 2, e->shape) : NULL;
    bool ok = t && cb_read(t, CB_F32, values);
    if (scope)
        cb_scope_close(scope);
    if (ok && transposed)
        transpose(values, e->shape[0], e->shape[1], out);
    if (ok && !transposed)
        return values;
    cb_free(values);
    if (ok)
        return out;
    cb_free(out);
    return NULL;
}

bool cb_lora_take(cb_lora_set *set, cb_lora_pair *pair, bool is_b, const cb_weight_entry *e, bool transposed)
{
    int64_t features = is_b ? pair->host->out_features : pair->host->in_features;
    float **place = is_b ? &pair->b : &pair->a;
    bool flat = e->ndim == 2 && (e->dtype == CB_F32 || e->dtype == CB_BF16 || e->dtype == CB_F16);
    int rank_dim = (is_b ? 1 : 0) ^ (transposed ? 1 : 0);
    int64_t rank = flat ? e->shape[rank_dim] : 0;
    if (!flat || rank < 1 || e->shape[1 - rank_dim] != features || (pair->rank && pair->rank != rank) || *place)
        return cb_fail(CB_ERR_FORMAT, "%s: %.200s: found %s of %s, expected one f32, bf16 or f16 matrix of %lld by the rank", set->what,
                       e->name, e->type_name, cb_shape_text_nd(e->ndim, e->shape), (long long)features) == CB_OK;
    pair->rank = rank;
    *place = read_matrix(e, transposed);
    return *place != NULL;
}

static int by_layer(const void *a_, const void *b_)
{
    const cb_lora_pair *a = a_, *b = b_;
    return strcmp(a->layer, b->layer);
}

bool cb_lora_check(cb_lora_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        if (!set->pairs[i].a || !set->pairs[i].b)
            return cb_fail(CB_ERR_FORMAT, "%s: %.200s: found only one of A and B", set->what, set->pairs[i].layer) == CB_OK;
    if (!set->count)
        return cb_fail(CB_ERR_FORMAT, "%s: found no LoRA matrices", set->what) == CB_OK;
    qsort(set->pairs, set->count, sizeof *set->pairs, by_layer);
    return true;
}

void cb_lora_free(cb_lora_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        cb_free(set->pairs[i].layer);
        cb_free(set->pairs[i].a);
        cb_free(set->pairs[i].b);
    }
    cb_free(set->pairs);
    set->pairs = NULL;
    set->count = set->capacity = 0;
}

const char *cb_lora_in_block(const char *layer, int64_t *block)
{
    for (const char *at = strchr(layer, '.'); at; at = strchr(at + 1, '.')) {
        char *end;
        long n = at[1] >= '0' && at[1] <= '9' ? strtol(at + 1, &end, 10) : -1;
        if (n >= 0 && *end == '.') {
            *block = n;
            return end + 1;
        }
    }
    return NULL;
}

/* ---- writing tensors ---- */

/* A (rank, in) or B (out, rank) padded with zeros to `wide` ranks, scaled, and transposed when wanted. */
static float *written_matrix(const cb_lora_pair *p, bool is_b, int64_t wide, double factor, bool transposed)
{
    int64_t features = is_b ? p->host->out_features : p->host->in_features;
    float *out = cb_calloc((size_t)(features * wide), sizeof *out);
    for (int64_t f = 0; out && f < features; f++)
        for (int64_t r = 0; r < p->rank; r++) {
            double value = is_b ? (double)p->b[f * p->rank + r] * factor : (double)p->a[r * features + f];
            bool features_first = is_b != transposed;
            out[features_first ? f * wide + r : r * features + f] = (float)value;
        }
    return out;
}

bool cb_lora_write_tensors(const cb_lora_set *set, const char *path, cb_lora_namer *name, const void *user, bool transposed, int64_t rank,
                           double scale)
{
    cb_weight_entry *entries = cb_calloc(2 * set->count, sizeof *entries);
    bool ok = entries;
    for (size_t i = 0; ok && i < 2 * set->count; i++) {
        const cb_lora_pair *p = &set->pairs[i / 2];
        bool is_b = i % 2;
        int64_t wide = rank ? rank : p->rank, features = is_b ? p->host->out_features : p->host->in_features;
        cb_weight_entry *e = &entries[i];
        *e = (cb_weight_entry){.name = name(user, p, is_b), .dtype = CB_F32, .ndim = 2};
        e->shape[is_b != transposed ? 0 : 1] = features;
        e->shape[is_b != transposed ? 1 : 0] = wide;
        e->size = (size_t)(features * wide) * sizeof(float);
        e->data = written_matrix(p, is_b, wide, scale != 0 ? p->scale / scale : 1, transposed);
        ok = e->name && e->data;
    }
    ok = ok && cb_safetensors_write(path, entries, 2 * set->count, NULL, NULL, NULL);
    for (size_t i = 0; entries && i < 2 * set->count; i++) {
        cb_free((void *)(uintptr_t)entries[i].name);
        cb_free((void *)(uintptr_t)entries[i].data);
    }
    cb_free(entries);
    return ok;
}

/* ---- from any to any ---- */

static bool read_set(cb_lora_set *set, const char *path, cb_layer *root, const char *model_type)
{
    const cb_lora_format *format = cb_lora_format_of(path);
    if (!format)
        return cb_ok() && cb_fail(CB_ERR_FORMAT, "%s: found no adapter of a format that is known", path) == CB_OK;
    json_t *config = config_of(path);
    *set = (cb_lora_set){.what = path, .root = root, .model_type = model_type};
    bool ok = cb_ok() && format->read(set, path, config) && cb_lora_check(set);
    json_decref(config);
    return ok;
}

/* Of another kind only PEFT's and AdapterHub's directories are known. */
static bool holds_lora(const char *path)
{
    const cb_lora_format *format = cb_lora_format_of(path);
    json_t *config = format == &cb_lora_peft ? config_of(path) : NULL;
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    bool lora = config ? !type || strcmp(type, "LORA") == 0 : !cb_ok() || !cb_hub_is(path);
    json_decref(config);
    return lora;
}

static bool rewrite_other(const char *path, cb_layer *root, const char *model_type, const cb_lora_format *format, const char *output)
{
    cb_adapter *adapter = cb_adapter_load(path, root, model_type);
    bool ok = adapter;
    if (ok && format == &cb_lora_peft)
        ok = cb_adapter_save(adapter, output, NULL);
    else if (ok && format == &cb_lora_adapterhub)
        ok = cb_hub_save(adapter, output, model_type);
    else if (ok)
        ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: found an adapter of kind %s, and %s holds LoRA only", path, adapter->kind->name,
                     format->name) == CB_OK;
    cb_adapter_free(adapter);
    return ok;
}

bool cb_adapter_rewrite(const char *path, cb_layer *root, const char *model_type, const char *format_name, const char *output)
{
    const cb_lora_format *format = cb_lora_format_named(format_name);
    cb_lora_set set = {0};
    if (format && !holds_lora(path))
        return rewrite_other(path, root, model_type, format, output);
    bool ok = format && read_set(&set, path, root, model_type) && format->write(&set, output, cb_path_base(path));
    cb_lora_free(&set);
    return ok;
}

const char *cb_adapter_format(const char *path)
{
    const cb_lora_format *format = cb_lora_format_of(path);
    return format ? format->name : NULL;
}

/* An adapter of another format is rewritten as PEFT's in a temporary directory and loaded from there. */
cb_adapter *cb_adapter_load_foreign(const char *path, cb_layer *root, const char *model_type)
{
    if (cb_hub_is(path) || !cb_ok())
        return cb_ok() ? cb_hub_load(path, root, model_type) : NULL;
    const char *temporary = getenv("TMPDIR");
    char *near = cb_path_join(temporary && *temporary ? temporary : "/tmp", "cambium-adapter");
    char *directory = near ? cb_temporary_name(near) : NULL;
    cb_free(near);
    bool made = directory && (cb_io_make_directory(directory) == 0 || cb_io_failed(directory, "cannot make a temporary directory"));
    cb_adapter *adapter = NULL;
    if (made && cb_adapter_rewrite(path, root, model_type, "peft", directory))
        adapter = cb_adapter_load(directory, root, model_type);
    if (made)
        cb_stage_discard(directory);
    else
        cb_free(directory);
    if (!adapter || cb_adapter_rename(adapter, cb_path_base(path)))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}
