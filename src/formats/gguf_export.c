/* gguf_export.c: a model directory (or another GGUF file) as a GGUF file.
 *
 * Vectors and the rotary factors are f32, matrices of the wanted type.  A type of large blocks does not fit every row: then the next one
 * of its list that does is taken, as llama.cpp's quantiser does.  The output head (or the embedding that is one) of 4-bit models is
 * Q6_K. */
#include <string.h>
#include <strings.h>

#include "formats/gguf_model.h"
#include "formats/model_parts.h"
#include "formats/rotary_rows.h"

typedef struct target_type {
    const char *name; /* as an option has it */
    uint32_t file_type;
    const char *types[4]; /* for matrices, the best first; NULL: as stored */
    const char *head;     /* for the output head; NULL: the same */
} target_type;

static const target_type targets[] = {
    {"keep", 0, {NULL}, NULL},
    {"f32", 0, {"F32"}, NULL},
    {"f16", 1, {"F16"}, NULL},
    {"bf16", 32, {"BF16"}, NULL},
    {"q8_0", 7, {"Q8_0", "F16"}, NULL},
    {"q6_k", 18, {"Q6_K", "Q8_0", "F16"}, NULL},
    {"q5_k", 16, {"Q5_K", "Q5_0", "F16"}, "Q6_K"},
    {"q5_0", 8, {"Q5_0", "F16"}, "Q6_K"},
    {"q4_k", 14, {"Q4_K", "Q5_0", "F16"}, "Q6_K"},
    {"q4_0", 2, {"Q4_0", "F16"}, "Q6_K"},
    {NULL, 0, {NULL}, NULL},
};

typedef struct output_tensor {
    size_t index; /* of the source; SIZE_MAX: the rotary factors */
    int kind;
} output_tensor;

typedef struct export
{
    const cb_gguf_job *job;
    cb_model_parts parts;
    const cb_gguf_architecture *architecture;
    const target_type *target;
    int64_t heads, kv_heads;
    cb_gguf_metadata metadata;
    cb_weight_entry *entries;
    output_tensor *tensors;
    size_t count;
    float *factors;
    int64_t factor_count;
    bool quantised;
    float *values; /* of one tensor */
    void *bytes;   /* of one tensor, as written */
    size_t values_capacity, bytes_capacity;
}
export;

/* ---- plan ---- */

static bool is_head(const export *x, const char *name)
{
    bool tied = !cb_weights_find(x->parts.weights, "lm_head.weight");
    return strcmp(name, tied ? "token_embd.weight" : "output.weight") == 0;
}

static const char *stored_type(const cb_weight_entry *e)
{
    return e->type_name ? e->type_name : cb_dtype_name(e->dtype);
}

static bool fits(const char *type, const cb_weight_entry *e, size_t *size)
{
    const cb_gguf_tensor_type *t = cb_gguf_tensor_type_named(type);
    return t && cb_gguf_shape_size(t, e->ndim, e->shape, size);
}

/* llama.cpp multiplies with vectors in f32 only. */
static bool choose_type(const export *x, cb_weight_entry *e, const char *stored)
{
    const target_type *t = x->target;
    const char *choices[6] = {0};
    int n = 0;
    if (e->ndim < 2)
        choices[n++] = "F32";
    else if (!t->types[0])
        choices[n++] = stored;
    else if (t->head && is_head(x, e->name))
        choices[n++] = t->head;
    for (int i = 0; e->ndim >= 2 && i < 4 && t->types[i]; i++)
        choices[n++] = t->types[i];
    for (int i = 0; i < n; i++)
        if (fits(choices[i], e, &e->size)) {
            e->type_name = choices[i];
            return true;
        }
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %s: found %s, which no type for %s holds", x->parts.path, e->name,
                   cb_shape_text_nd(e->ndim, e->shape), t->name) == CB_OK;
}

static bool add_tensor(export *x, size_t index)
{
    const cb_weight_entry *from = cb_weights_at(x->parts.weights, index);
    int kind = 0;
    char *name = from ? cb_gguf_name_from_hf(x->architecture, from->name, &kind) : NULL;
    if (!name)
        return cb_ok() && cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found a name that GGUF's %s models do not have", x->parts.path,
                                  from->name, x->architecture->name) == CB_OK;
    if (from->dtype == CB_DTYPE_COUNT || (cb_dtype_size(from->dtype) && !cb_dtype_is_float(from->dtype))) {
        cb_free(name);
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %.200s: found %s, expected float or GGUF's own types", x->parts.path, from->name,
                       stored_type(from)) == CB_OK;
    }
    cb_weight_entry *e = &x->entries[x->count];
    *e = (cb_weight_entry){.name = name, .dtype = CB_DTYPE_COUNT, .ndim = from->ndim};
    memcpy(e->shape, from->shape, sizeof e->shape);
    bool turn = kind == CB_GGUF_CONV1D && from->ndim == 2;
    if (turn) {
        e->shape[0] = from->shape[1];
        e->shape[1] = from->shape[0];
    }
    x->tensors[x->count++] = (output_tensor){index, kind};
    if (!choose_type(x, e, stored_type(from)))
        return false;
    cb_dtype dtype;
    x->quantised |= !cb_dtype_from_name(e->type_name, &dtype) || !cb_dtype_is_float(dtype);
    return true;
}

/* A head that is the embedding is not written twice. */
static bool is_repeated_head(const export *x, const cb_weight_entry *e)
{
    if (strcmp(e->name, "lm_head.weight") != 0 || !json_is_true(json_object_get(x->parts.config, "tie_word_embeddings")))
        return false;
    char *name = cb_gguf_name_to_hf(x->architecture, "token_embd.weight", NULL);
    const cb_weight_entry *embedding = name ? cb_weights_find(x->parts.weights, name) : NULL;
    cb_free(name);
    return embedding && embedding->dtype == e->dtype && embedding->size == e->size && memcmp(embedding->data, e->data, e->size) == 0;
}

static bool add_factors(export *x)
{
    if (!x->factors)
        return true;
    char *name = cb_strdup("rope_freqs.weight");
    if (!name)
        return false;
    x->entries[x->count] = (cb_weight_entry){.name = name,
                                             .dtype = CB_F32,
                                             .type_name = "F32",
                                             .ndim = 1,
                                             .shape = {x->factor_count},
                                             .size = (size_t)x->factor_count * sizeof(float)};
    x->tensors[x->count++] = (output_tensor){SIZE_MAX, 0};
    return true;
}

static bool plan_tensors(export *x)
{
    size_t count = cb_weights_count(x->parts.weights);
    x->entries = cb_calloc(count + 1, sizeof *x->entries);
    x->tensors = cb_calloc(count + 1, sizeof *x->tensors);
    if (!x->entries || !x->tensors)
        return false;
    for (size_t i = 0; i < count; i++) {
        const cb_weight_entry *from = cb_weights_at(x->parts.weights, i);
        if (!from || (!is_repeated_head(x, from) && !add_tensor(x, i)))
            return false;
    }
    return add_factors(x);
}

/* The type that most of the file is of: that of its largest tensor. */
static uint32_t file_type(const export *x)
{
    const cb_weight_entry *largest = NULL;
    if (x->target->types[0])
        return x->target->file_type;
    for (size_t i = 0; i < x->count; i++)
        if (!largest || x->entries[i].size > largest->size)
            largest = &x->entries[i];
    for (const target_type *t = targets + 1; largest && t->name; t++)
        if (strcasecmp(t->types[0], largest->type_name) == 0)
            return t->file_type;
    return 0;
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

static bool plan(export *x)
{
    const char *type = cb_json_string(x->parts.path, x->parts.config, "model_type", "");
    x->architecture = cb_ok() ? cb_gguf_architecture_of(x->parts.path, type) : NULL;
    if (!x->architecture)
        return false;
    x->heads = cb_json_int(x->parts.path, x->parts.config, x->architecture->heads, 0);
    x->kv_heads = cb_json_int(x->parts.path, x->parts.config, x->architecture->kv_heads, x->heads);
    char *name = model_name(x->job->name ? x->job->name : x->parts.path);
    bool ok = name && put_general(x, name) &&
              cb_gguf_put_config(&x->metadata, x->parts.path, x->parts.config, &x->factors, &x->factor_count) && plan_tensors(x) &&
              cb_gguf_put_u32(&x->metadata, "general.file_type", file_type(x)) &&
              (!x->quantised || cb_gguf_put_u32(&x->metadata, "general.quantization_version", 2)) &&
              cb_gguf_put_tokenizer(&x->metadata, x->parts.path, x->parts.tokenizer, x->parts.tokenizer_config, x->parts.chat_template,
                                    x->parts.config);
    cb_free(name);
    return ok;
}

/* ---- write ---- */

static bool turn_rows(const export *x, const output_tensor *t, const cb_weight_entry *from, const void *rows, size_t row_bytes, void *out)
{
    int64_t heads = t->kind == CB_GGUF_QUERY ? x->heads : x->kv_heads, count = from->shape[0];
    if (heads < 1 || count % (2 * heads))
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %s: found %lld rows, expected a multiple of twice the %lld heads", x->parts.path,
                       from->name, (long long)count, (long long)heads) == CB_OK;
    cb_rotary_rows_join(out, rows, heads, count / heads, row_bytes);
    return true;
}

/* (rows, columns) -> (columns, rows) */
static void transpose(const float *from, int64_t rows, int64_t columns, float *to)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            to[c * rows + r] = from[r * columns + c];
}

static bool quantise(const cb_weight_entry *to, cb_dtype dtype, const float *values, void *out)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *blocks = scope ? cb_quantize(cb_wrap_nd(CB_F32, values, to->ndim, to->shape), dtype, 0) : NULL;
    if (blocks)
        memcpy(out, blocks->data, to->size);
    else
        cb_error_prefix("%s", to->name);
    if (scope)
        cb_scope_close(scope);
    return blocks != NULL;
}

static bool encode(const cb_weight_entry *to, const float *values, int64_t count, void *out)
{
    cb_dtype dtype;
    if (!cb_dtype_from_name(to->type_name, &dtype))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: this build cannot make %s", to->name, to->type_name) == CB_OK;
    if (cb_dtype_is_quantized(dtype))
        return quantise(to, dtype, values, out);
    cb_weight_entry f32 = {.name = to->name, .dtype = CB_F32, .ndim = 1, .shape = {count}, .data = values};
    return cb_entry_read(&f32, dtype, out);
}

static bool changes(const export *x, const cb_weight_entry *from)
{
    return x->job->change && x->job->change(x->job->user, from, NULL);
}

/* Values in f32, in the order of the file, then rounded. */
static const void *make_tensor(export *x, const output_tensor *t, const cb_weight_entry *from, const cb_weight_entry *to)
{
    int64_t count = 1, rows = from->shape[0];
    for (int d = 0; d < from->ndim; d++)
        count *= from->shape[d];
    bool turned = x->architecture->permuted && (t->kind == CB_GGUF_QUERY || t->kind == CB_GGUF_KEY);
    bool flipped = t->kind == CB_GGUF_CONV1D && from->ndim == 2;
    size_t need = 2 * (size_t)count * sizeof(float);
    if (!cb_grow(&x->values, &x->values_capacity, need, 1) || !cb_grow(&x->bytes, &x->bytes_capacity, to->size, 1))
        return NULL;
    float *values = x->values, *second = values + count;
    if (!cb_entry_read(from, CB_F32, values) || (changes(x, from) && !x->job->change(x->job->user, from, values)))
        return NULL;
    if (turned && !turn_rows(x, t, from, values, (size_t)(count / rows) * sizeof(float), second))
        return NULL;
    if (flipped)
        transpose(values, rows, from->shape[1], second);
    return encode(to, turned || flipped ? second : values, count, x->bytes) ? x->bytes : NULL;
}

static const void *provide(void *user, size_t index)
{
    export *x = user;
    const output_tensor *t = &x->tensors[index];
    const cb_weight_entry *to = &x->entries[index];
    if (t->index == SIZE_MAX)
        return x->factors;
    if (cb_interrupted()) {
        cb_fail(CB_ERR_INTERRUPTED, "interrupted while writing %s", to->name);
        return NULL;
    }
    const cb_weight_entry *from = cb_weights_at(x->parts.weights, t->index);
    if (!from)
        return NULL;
    if (strcasecmp(stored_type(from), to->type_name) != 0 || (t->kind == CB_GGUF_CONV1D && from->ndim == 2) || changes(x, from))
        return make_tensor(x, t, from, to);
    if (!x->architecture->permuted || (t->kind != CB_GGUF_QUERY && t->kind != CB_GGUF_KEY))
        return from->data;
    if (!cb_grow(&x->bytes, &x->bytes_capacity, to->size, 1))
        return NULL;
    return turn_rows(x, t, from, from->data, from->size / (size_t)from->shape[0], x->bytes) ? x->bytes : NULL;
}

static const target_type *find_target(const char *name)
{
    for (const target_type *t = targets; t->name; t++)
        if (strcasecmp(t->name, name) == 0)
            return t;
    cb_fail(CB_ERR_ARGUMENT, "dtype: found \"%.50s\", GGUF files hold keep, f32, bf16, f16, q8_0, q6_k, q5_k, q5_0, q4_k or q4_0", name);
    return NULL;
}

bool cb_gguf_export_job(const cb_gguf_job *job)
{
    export x = {.job = job, .target = find_target(job->dtype)};
    bool ok = x.target && cb_model_parts_open(&x.parts, job->model) && plan(&x) &&
              cb_gguf_write(job->output, &x.metadata, x.entries, x.count, provide, &x);
    for (size_t i = 0; i < x.count; i++)
        cb_free((void *)(uintptr_t)x.entries[i].name);
    cb_free(x.entries);
    cb_free(x.tensors);
    cb_free(x.factors);
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
