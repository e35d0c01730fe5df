/* gguf_export.c: a model directory (or another GGUF file) as a GGUF file, as it is or with some weights changed.
 *
 * A tensor that stays in its type is copied, in the order that the file wants its rows in.  Another is read as f32, changed in Hugging Face's
 * order, put into GGUF's and rounded.  Of a GGUF file the metadata and whatever does not change are copied as they are. */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "formats/gguf_model.h"
#include "formats/model_parts.h"
#include "formats/rotary_rows.h"

typedef struct output_tensor {
    const cb_weight_entry *from; /* NULL: rotary factors */
    const float *factors;
    int kind;
    bool changes;
    cb_weight_entry hf; /* name (owned) and shape as Hugging Face has them; no name: it has none there */
} output_tensor;

typedef struct export
{
    cb_gguf_job *job;
    cb_model_parts parts;
    const cb_gguf *source; /* NULL: a directory */
    const cb_gguf_architecture *architecture;
    const cb_gguf_target *target;
    cb_gguf_model_sizes sizes;
    cb_gguf_metadata metadata;
    cb_weight_entry *entries; /* as they are written; their names are owned */
    output_tensor *tensors;
    size_t count;
    cb_gguf_factors factors;
    bool quantised;
    float *values; /* of one tensor, and as much again */
    void *bytes;   /* of one tensor, as written */
    size_t values_capacity, bytes_capacity;
}
export;

/* ---- plan ---- */

static const char *stored_type(const cb_weight_entry *e)
{
    return e->type_name ? e->type_name : cb_dtype_name(e->dtype);
}

static bool is_turned(const output_tensor *t)
{
    return t->kind == CB_GGUF_CONV1D && t->hf.ndim == 2;
}

static void swap_sizes(cb_weight_entry *e)
{
    int64_t rows = e->shape[0];
    e->shape[0] = e->shape[1];
    e->shape[1] = rows;
}

/* A tensor to write: from one of the source, under a name that is taken over (also on failure). */
static bool add_tensor(export *x, const cb_weight_entry *from, char *name, char *hf_name, int kind)
{
    cb_weight_entry *e = &x->entries[x->count];
    output_tensor *t = &x->tensors[x->count++];
    *e = (cb_weight_entry){.name = name, .dtype = CB_DTYPE_COUNT, .ndim = from->ndim};
    memcpy(e->shape, from->shape, sizeof e->shape);
    *t = (output_tensor){.from = from, .kind = kind, .hf = *from};
    t->hf.name = hf_name;
    if (!name)
        return false;
    bool known = from->dtype != CB_DTYPE_COUNT;
    if (known ? cb_dtype_size(from->dtype) && !cb_dtype_is_float(from->dtype) : !x->source || !cb_gguf_target_keeps(x->target))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found %s, expected a float type or one of GGUF's that this build reads",
                       x->parts.path, from->name, stored_type(from)) == CB_OK;
    if (is_turned(t))
        swap_sizes(x->source ? &t->hf : e);
    t->changes = hf_name && x->job->change && x->job->change(x->job->user, &t->hf, NULL);
    if (!cb_gguf_target_choose(x->target, &x->sizes, stored_type(from), e))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %s: found %s, which no type for %s holds", x->parts.path, e->name,
                       cb_shape_text_nd(e->ndim, e->shape), x->job->dtype) == CB_OK;
    x->quantised |= cb_gguf_tensor_type_named(e->type_name)->block > 1;
    return cb_ok();
}

static bool add_from_directory(export *x, const cb_weight_entry *from)
{
    int kind = 0;
    char *name = cb_gguf_name_from_hf(x->architecture, from->name, &kind);
    if (!name && cb_ok())
        cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found a name that GGUF's %s models do not have", x->parts.path, from->name,
                x->architecture->name);
    return name && add_tensor(x, from, name, cb_strdup(from->name), kind);
}

static bool add_from_file(export *x, const cb_weight_entry *from)
{
    int kind = 0;
    char *hf_name = cb_gguf_name_to_hf(x->architecture, from->name, &kind);
    return cb_ok() && add_tensor(x, from, cb_strdup(from->name), hf_name, kind);
}

/* A head that is the embedding is not written twice. */
static bool is_repeated_head(const export *x, const cb_weight_entry *e)
{
    if (x->job->untied || strcmp(e->name, "lm_head.weight") != 0 || !json_is_true(json_object_get(x->parts.config, "tie_word_embeddings")))
        return false;
    char *name = cb_gguf_name_to_hf(x->architecture, "token_embd.weight", NULL);
    const cb_weight_entry *embedding = name ? cb_weights_find(x->parts.weights, name) : NULL;
    cb_free(name);
    return embedding && embedding->dtype == e->dtype && embedding->size == e->size && memcmp(embedding->data, e->data, e->size) == 0;
}

static bool add_factors(export *x)
{
    for (int i = 0; i < x->factors.count; i++) {
        char *name = cb_strdup(x->factors.names[i]);
        x->entries[x->count] = (cb_weight_entry){.name = name,
                                                 .dtype = CB_F32,
                                                 .type_name = "F32",
                                                 .ndim = 1,
                                                 .shape = {x->factors.length},
                                                 .size = (size_t)x->factors.length * sizeof(float)};
        x->tensors[x->count++] = (output_tensor){.factors = x->factors.lists[i]};
        if (!name)
            return false;
    }
    return true;
}

/* The embedding once more, as the head that it no longer is. */
static bool add_untied_head(export *x)
{
    for (size_t i = 0; i < x->count; i++)
        if (strcmp(x->entries[i].name, "token_embd.weight") == 0)
            return add_tensor(x, x->tensors[i].from, cb_strdup("output.weight"), cb_strdup("lm_head.weight"), 0);
    return cb_fail(CB_ERR_FORMAT, "%s: token_embd.weight: missing", x->parts.path) == CB_OK;
}

static size_t source_count(const export *x)
{
    return x->source ? cb_gguf_count(x->source) : cb_weights_count(x->parts.weights);
}

static bool plan_tensors(export *x)
{
    const cb_weight_entry *head =
        x->source ? cb_gguf_find(x->source, "output.weight") : cb_weights_find(x->parts.weights, "lm_head.weight");
    size_t count = source_count(x);
    bool repeated = head && !x->source && is_repeated_head(x, head), untied = x->job->untied && !head;
    x->sizes.tied = (!head || repeated) && !untied;
    x->entries = cb_calloc(count + 3, sizeof *x->entries);
    x->tensors = cb_calloc(count + 3, sizeof *x->tensors);
    bool ok = x->entries && x->tensors && cb_ok();
    for (size_t i = 0; ok && i < count; i++) {
        const cb_weight_entry *from = x->source ? cb_gguf_at(x->source, i) : cb_weights_at(x->parts.weights, i);
        ok = from && (x->source ? add_from_file(x, from) : (repeated && from == head) || add_from_directory(x, from));
    }
    return ok && (!untied || add_untied_head(x)) && add_factors(x);
}

/* The type of the largest tensor, as a file type. */
static uint32_t file_type(const export *x)
{
    const cb_weight_entry *largest = NULL;
    for (size_t i = 0; i < x->count; i++)
        if (!largest || x->entries[i].size > largest->size)
            largest = &x->entries[i];
    return cb_gguf_target_file_type(x->target, largest ? largest->type_name : "F32");
}

static bool put_general(export *x, const char *name)
{
    return cb_gguf_put_string(&x->metadata, "general.architecture", x->architecture->name) &&
           cb_gguf_put_string(&x->metadata, "general.type", "model") && cb_gguf_put_string(&x->metadata, "general.name", name);
}

/* The name of a model's directory, or of its file without ".gguf". */
static char *model_name(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t begin = length;
    while (begin && path[begin - 1] != '/')
        begin--;
    char *name = cb_strndup(path + begin, length - begin);
    if (name && cb_ends_with(name, ".gguf"))
        name[strlen(name) - 5] = '\0';
    return name;
}

static bool put_quantised(export *x)
{
    return !x->quantised || cb_gguf_put_u32(&x->metadata, "general.quantization_version", 2);
}

/* All that the file has, but for what is no longer so. */
static bool copy_metadata(export *x)
{
    static const char *const whole_file[] = {"split.no", "split.count", "split.tensors.count"};
    bool ok = true, has_version = false, has_type = false, keeps = cb_gguf_target_keeps(x->target);
    for (size_t i = 0; ok && i < cb_gguf_value_count(x->source); i++) {
        const cb_gguf_value *v = cb_gguf_value_at(x->source, i);
        bool type = strcmp(v->key, "general.file_type") == 0, skip = false;
        for (int k = 0; k < 3; k++)
            skip |= strcmp(v->key, whole_file[k]) == 0;
        has_type |= type;
        has_version |= strcmp(v->key, "general.quantization_version") == 0;
        ok = skip || (type && !keeps ? cb_gguf_put_u32(&x->metadata, v->key, file_type(x)) : cb_gguf_put_value(&x->metadata, v->key, v));
    }
    return ok && (has_type || keeps || cb_gguf_put_u32(&x->metadata, "general.file_type", file_type(x))) &&
           (has_version || put_quantised(x));
}

static bool make_metadata(export *x)
{
    char *name = model_name(x->job->name ? x->job->name : x->parts.path);
    const cb_model_parts *p = &x->parts;
    bool ok = name && put_general(x, name) && cb_gguf_put_config(&x->metadata, p->path, p->config, &x->factors) && plan_tensors(x) &&
              cb_gguf_put_u32(&x->metadata, "general.file_type", file_type(x)) && put_quantised(x) &&
              cb_gguf_put_tokenizer(&x->metadata, p->path, p->tokenizer, p->tokenizer_config, p->chat_template, p->config);
    cb_free(name);
    return ok;
}

static bool plan(export *x)
{
    const char *what = x->parts.path, *type = cb_json_string(what, x->parts.config, "model_type", "");
    x->source = cb_weights_gguf(x->parts.weights);
    x->architecture = cb_ok() ? cb_gguf_architecture_of(what, type) : NULL;
    if (!x->architecture)
        return false;
    cb_gguf_model_sizes *m = &x->sizes;
    m->heads = cb_json_int(what, x->parts.config, x->architecture->heads, 0);
    m->kv_heads = cb_json_int(what, x->parts.config, x->architecture->kv_heads, m->heads);
    m->blocks = cb_json_int(what, x->parts.config, cb_gguf_setting_name(x->architecture, "block_count"), 0);
    m->shares_values = m->blocks == 80 && (m->heads != m->kv_heads || strcmp(x->architecture->name, "qwen2") == 0);
    return cb_ok() && (x->source ? plan_tensors(x) && copy_metadata(x) : make_metadata(x));
}

/* ---- write ---- */

/* q and k: pairs that turn together are neighbours in GGUF, half a head apart in Hugging Face's files. */
static bool is_rotary(const export *x, const output_tensor *t)
{
    return x->architecture->permuted && (t->kind == CB_GGUF_QUERY || t->kind == CB_GGUF_KEY);
}

static bool turn_rows(const export *x, const output_tensor *t, const void *rows, size_t row_bytes, bool to_hf, void *out)
{
    int64_t heads = t->kind == CB_GGUF_QUERY ? x->sizes.heads : x->sizes.kv_heads, count = t->hf.shape[0];
    if (heads < 1 || count % (2 * heads))
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %s: found %lld rows, expected a multiple of twice the %lld heads", x->parts.path,
                       t->hf.name, (long long)count, (long long)heads) == CB_OK;
    (to_hf ? cb_rotary_rows_split : cb_rotary_rows_join)(out, rows, heads, count / heads, row_bytes);
    return true;
}

/* (rows, columns) -> (columns, rows) */
static void transpose(const float *from, int64_t rows, int64_t columns, float *to)
{
    for (int64_t r = 0; r < rows && !cb_rehearsing(); r++)
        for (int64_t c = 0; c < columns; c++)
            to[c * rows + r] = from[r * columns + c];
}

/* Swaps the two buffers where the order is another one. */
static bool reorder(const export *x, const output_tensor *t, int64_t count, bool to_hf, float **values, float **other)
{
    if (is_rotary(x, t)) {
        if (!turn_rows(x, t, *values, (size_t)(count / t->hf.shape[0]) * sizeof(float), to_hf, *other))
            return false;
    } else if (is_turned(t)) {
        int64_t rows = t->hf.shape[to_hf], columns = t->hf.shape[!to_hf];
        transpose(*values, rows, columns, *other);
    } else {
        return true;
    }
    float *swap = *values;
    *values = *other;
    *other = swap;
    return true;
}

/* Relative root mean square of what rounding changed; `read` has room for the values. */
static bool measure_error(export *x, const cb_weight_entry *to, cb_dtype dtype, const float *values, int64_t count, float *read)
{
    cb_weight_entry written = *to;
    written.dtype = dtype;
    written.data = x->bytes;
    if (!cb_entry_read(&written, CB_F32, read))
        return false;
    double difference = 0, whole = 0;
    for (int64_t i = 0; i < count && !cb_rehearsing(); i++) {
        difference += ((double)read[i] - (double)values[i]) * ((double)read[i] - (double)values[i]);
        whole += (double)values[i] * (double)values[i];
    }
    double error = whole > 0 ? sqrt(difference / whole) : 0;
    x->job->weight_error = fmax(x->job->weight_error, error);
    x->job->coarse |= 2 * cb_dtype_bytes(dtype, 256) * 8 < 13 * 256;
    return true;
}

static bool quantise(export *x, const cb_weight_entry *to, cb_dtype dtype, const float *values, int64_t count, float *read)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *blocks = scope ? cb_quantize(cb_wrap_nd(CB_F32, values, to->ndim, to->shape), dtype, 0) : NULL;
    if (blocks && !cb_rehearsing())
        memcpy(x->bytes, blocks->data, to->size);
    else if (!blocks)
        cb_error_prefix("%s", to->name);
    if (scope)
        cb_scope_close(scope);
    return blocks && measure_error(x, to, dtype, values, count, read);
}

static bool encode(export *x, const cb_weight_entry *to, const float *values, int64_t count, float *room)
{
    cb_dtype dtype;
    if (!cb_dtype_from_name(to->type_name, &dtype))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: this build cannot make %s", to->name, to->type_name) == CB_OK;
    if (cb_dtype_is_quantized(dtype))
        return quantise(x, to, dtype, values, count, room);
    cb_weight_entry f32 = {.name = to->name, .dtype = CB_F32, .ndim = 1, .shape = {count}, .data = values};
    return cb_entry_read(&f32, dtype, x->bytes);
}

/* Values in f32, changed, in the order of the file, then rounded. */
static const void *make_tensor(export *x, const output_tensor *t, const cb_weight_entry *to)
{
    int64_t count = 1;
    for (int d = 0; d < to->ndim; d++)
        count *= to->shape[d];
    cb_dtype dtype;
    bool twice = is_rotary(x, t) || is_turned(t) || (cb_dtype_from_name(to->type_name, &dtype) && cb_dtype_is_quantized(dtype));
    if (!cb_grow(&x->values, &x->values_capacity, (1 + (size_t)twice) * (size_t)count * sizeof(float), 1) ||
        !cb_grow(&x->bytes, &x->bytes_capacity, to->size, 1))
        return NULL;
    float *values = x->values, *other = twice ? values + count : NULL; /* for another order, or what rounding made of them */
    bool in_hf = !x->source;                                           /* the order that they are in */
    if (!cb_entry_read(t->from, CB_F32, values))
        return NULL;
    if (t->changes && !in_hf && !reorder(x, t, count, in_hf = true, &values, &other))
        return NULL;
    if (t->changes && !x->job->change(x->job->user, &t->hf, values))
        return NULL;
    if (in_hf && !reorder(x, t, count, false, &values, &other))
        return NULL;
    return encode(x, to, values, count, other) ? x->bytes : NULL;
}

static const void *provide(void *user, size_t index)
{
    export *x = user;
    const output_tensor *t = &x->tensors[index];
    const cb_weight_entry *to = &x->entries[index], *from = t->from;
    if (!from)
        return t->factors;
    if (cb_interrupted()) {
        cb_fail(CB_ERR_INTERRUPTED, "interrupted while writing %s", to->name);
        return NULL;
    }
    if (strcasecmp(stored_type(from), to->type_name) != 0 || t->changes || (is_turned(t) && !x->source))
        return make_tensor(x, t, to);
    if (x->source || !is_rotary(x, t))
        return from->data;
    if (!cb_grow(&x->bytes, &x->bytes_capacity, to->size, 1))
        return NULL;
    return turn_rows(x, t, from->data, from->size / (size_t)from->shape[0], false, x->bytes) ? x->bytes : NULL;
}

bool cb_gguf_export_job(cb_gguf_job *job)
{
    export x = {.job = job, .target = cb_gguf_target_named(job->dtype)};
    bool ok = x.target && cb_model_parts_open(&x.parts, job->model) && plan(&x) &&
              cb_gguf_write(job->output, &x.metadata, x.entries, x.count, provide, &x);
    for (size_t i = 0; i < x.count; i++) {
        cb_free((void *)(uintptr_t)x.entries[i].name);
        cb_free((void *)(uintptr_t)x.tensors[i].hf.name);
    }
    cb_free(x.entries);
    cb_free(x.tensors);
    cb_gguf_factors_free(&x.factors);
    cb_free(x.values);
    cb_free(x.bytes);
    cb_gguf_metadata_free(&x.metadata);
    cb_model_parts_close(&x.parts);
    return ok;
}

bool cb_gguf_export(const char *model, const char *output, const char *dtype)
{
    return cb_gguf_export_job(&(cb_gguf_job){.model = model, .output = output, .dtype = dtype});
}
