/* models.c: whole models merged into one, a tensor in memory at a time: the plan and the writing are those of fold.c, each tensor is made by
 * combine.c. */
#include <string.h>

#include "cambium/tokenizer.h"
#include "core/io.h"
#include "core/json.h"
#include "core/rehearsal.h"
#include "merge/combine.h"
#include "merge/fold.h"

struct cb_merged {
    const cb_model_merge_options *options;
    const char *base_path;
    const char *const *paths;
    size_t count;
    cb_weights *others[CB_MERGE_MOST_MODELS];
    double weights[CB_MERGE_MOST_MODELS], densities[CB_MERGE_MOST_MODELS];
};

/* ---- what is looked at before anything is written ---- */

static bool check_count(const cb_merged *m)
{
    const cb_combine_method *method = cb_combine_method_of(m->options);
    if (m->options->method == CB_MERGE_LEGO)
        return cb_fail(CB_ERR_ARGUMENT, "method: lego merges adapters into one, found models") == CB_OK;
    if (m->count > CB_MERGE_MOST_MODELS)
        return cb_fail(CB_ERR_ARGUMENT, "merge: found %zu models, expected at most %d", m->count, CB_MERGE_MOST_MODELS) == CB_OK;
    if (m->count >= method->fewest && (!method->most || m->count <= method->most))
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "method: %s merges %s%zu model%s besides the first one, found %zu", method->name,
                   method->most ? "" : "at least ", method->fewest, method->fewest == 1 ? "" : "s", m->count) == CB_OK;
}

static bool check_tensor(const cb_merged *m, size_t index, const cb_weight_entry *base)
{
    const cb_weight_entry *other = cb_weights_find(m->others[index], base->name);
    if (!other)
        return cb_fail(CB_ERR_SHAPE, "%s: has no tensor %s, which %s has", m->paths[index], base->name, m->base_path) == CB_OK;
    if (!cb_weight_entry_fits(other, base->ndim, base->shape)) {
        cb_scope *scope = cb_scope_open();
        cb_fail(CB_ERR_SHAPE, "%s: tensor %s: found %s, expected %s as in %s", m->paths[index], base->name,
                cb_shape_text(cb_weight_entry_tensor(other)), cb_shape_text(cb_weight_entry_tensor(base)), m->base_path);
        cb_scope_close(scope);
        return false;
    }
    if (cb_fold_is_float(base->dtype) != cb_fold_is_float(other->dtype))
        return cb_fail(CB_ERR_SHAPE, "%s: tensor %s: found %s, expected floats as in %s", m->paths[index], base->name, other->type_name,
                       m->base_path) == CB_OK;
    return true;
}

bool cb_merge_check_plain(const char *path, const cb_weights *weights)
{
    for (size_t t = 0; t < cb_weights_count(weights); t++) {
        const cb_weight_entry *entry = cb_weights_at(weights, t);
        cb_quantized_format format;
        bool other_float = entry->dtype == CB_F64 || (entry->dtype == CB_DTYPE_COUNT && strncmp(entry->type_name, "F", 1) == 0);
        if (cb_quantized_format_of(weights, entry, &format) || cb_dtype_is_quantized(entry->dtype))
            return cb_fail(CB_ERR_UNSUPPORTED,
                           "%s: tensor %s is quantised, and whole models are merged plain: convert it with --dtype bf16 first", path,
                           entry->name) == CB_OK;
        if (other_float) /* whole numbers stay as they are, but of these the user expects a merge */
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %s: found %s, expected F32, BF16 or F16", path, entry->name, entry->type_name) ==
                   CB_OK;
    }
    return cb_ok();
}

/* The same tensors in all models; quantised ones are others. */
static bool compare_tensors(const cb_merged *m, const cb_weights *base)
{
    if (!cb_merge_check_plain(m->base_path, base))
        return false;
    for (size_t t = 0; t < cb_weights_count(base); t++)
        for (size_t i = 0; i < m->count; i++)
            if (!check_tensor(m, i, cb_weights_at(base, t)))
                return false;
    for (size_t i = 0; i < m->count; i++)
        for (size_t t = 0; t < cb_weights_count(m->others[i]); t++)
            if (!cb_weights_find(base, cb_weights_at(m->others[i], t)->name))
                return cb_fail(CB_ERR_SHAPE, "%s: tensor %s: %s has none of that name", m->paths[i], cb_weights_at(m->others[i], t)->name,
                               m->base_path) == CB_OK;
    return true;
}

static bool check_tensors(const cb_merged *m)
{
    cb_weights *base = cb_weights_open(m->base_path);
    bool ok = base && compare_tensors(m, base);
    cb_weights_close(base);
    return ok;
}

/* Ids must mean the same in all models; one without a tokenizer says nothing. */
static bool same_tokens(const cb_tokenizer *a, const cb_tokenizer *b, const char *path, const char *base)
{
    int32_t limit = cb_tokenizer_id_limit(a) > cb_tokenizer_id_limit(b) ? cb_tokenizer_id_limit(a) : cb_tokenizer_id_limit(b);
    for (int32_t id = 0; id < limit; id++) {
        const char *x = cb_tokenizer_token(a, id), *y = cb_tokenizer_token(b, id);
        if (x != y && (!x || !y || strcmp(x, y) != 0))
            return cb_fail(CB_ERR_ARGUMENT,
                           "%s: token %d is \"%s\", expected \"%s\" as in %s; --ignore-tokenizers merges all the same and keeps the latter",
                           path, (int)id, y ? y : "(none)", x ? x : "(none)", base) == CB_OK;
    }
    return true;
}

static bool has_tokenizer(const char *directory)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "vocab.json", "vocab.txt", NULL};
    bool found = false;
    for (int i = 0; !found && names[i]; i++) {
        char *path = cb_path_join(directory, names[i]);
        found = path && cb_is_file(path);
        cb_free(path);
    }
    return found;
}

bool cb_merge_same_tokenizer(const char *base_path, const char *path)
{
    if (!has_tokenizer(base_path) || !has_tokenizer(path))
        return cb_ok();
    cb_tokenizer *base = cb_tokenizer_load(base_path), *other = base ? cb_tokenizer_load(path) : NULL;
    bool ok = other && same_tokens(base, other, path, base_path);
    cb_tokenizer_free(other);
    cb_tokenizer_free(base);
    return ok;
}

static bool check_tokenizers(const cb_merged *m)
{
    bool ok = true;
    for (size_t i = 0; ok && !m->options->ignore_tokenizers && i < m->count; i++)
        ok = cb_merge_same_tokenizer(m->base_path, m->paths[i]);
    return ok;
}

/* Settings that shapes do not show (heads, rotary bases) make other models of the same weights; who merges such ones is told. */
static void compare_configs(const char *path, const char *base_path, const json_t *config, json_t *base)
{
    static const char *const others[] = {
        "_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache", NULL};
    const char *key;
    json_t *value;
    json_object_foreach(base, key, value)
    {
        const json_t *found = json_object_get(config, key);
        bool matters = found && !json_equal(found, value);
        for (int i = 0; matters && others[i]; i++)
            matters = strcmp(others[i], key) != 0;
        if (matters)
            cb_log_message(CB_LOG_WARNING, "%s: config.json: %s is not as in %s, whose the merged model has", path, key, base_path);
    }
}

static json_t *load_config(const char *directory)
{
    char *path = cb_path_join(directory, "config.json");
    json_t *config = path ? cb_json_load(path, 1u << 24) : NULL;
    cb_free(path);
    return config;
}

static bool check_configs(const cb_merged *m)
{
    json_t *base = load_config(m->base_path);
    bool ok = base;
    for (size_t i = 0; ok && i < m->count; i++) {
        json_t *config = cb_is_directory(m->paths[i]) ? load_config(m->paths[i]) : json_incref(base); /* a GGUF file has none */
        ok = config;
        if (ok)
            compare_configs(m->paths[i], m->base_path, config, base);
        json_decref(config);
    }
    json_decref(base);
    return ok;
}

/* ---- making a tensor ---- */

/* Writes what was made; f16 ends at 65504, what is beyond became infinite. */
typedef struct result {
    cb_writer *w;
    const char *name;
    bool f16;
} result;

static bool write_result(void *user, const void *data, size_t bytes)
{
    const result *r = user;
    if (r->f16 && !cb_rehearsing() && !cb_fold_check_f16(r->name, data, bytes / 2))
        return false;
    return cb_writer_values(r->w, data, bytes);
}

bool cb_merged_tensor(const cb_merged *m, const cb_weight_entry *base, cb_dtype dtype, cb_writer *w)
{
    const cb_weight_entry *others[CB_MERGE_MOST_MODELS];
    cb_versions v = {
        .base = base, .others = others, .weights = m->weights, .densities = m->densities, .count = m->count, .rows = 1, .columns = 1};
    for (int i = 0; i < base->ndim; i++)
        *(i + 1 < base->ndim ? &v.rows : &v.columns) *= base->shape[i];
    for (size_t i = 0; i < m->count; i++)
        others[i] = cb_weights_find(m->others[i], base->name);
    bool ok = cb_combine(m->options, &v, dtype, write_result, &(result){w, base->name, dtype == CB_F16});
    cb_file_map_let_go(base->data, base->size);
    for (size_t i = 0; i < m->count; i++)
        cb_file_map_let_go(others[i]->data, others[i]->size);
    return ok;
}

bool cb_merge_models(const char *base, const char *const *models, const double *weights, size_t count, const char *output,
                     const cb_model_merge_options *options)
{
    cb_merge_options fold = {0};
    if (!cb_ok() || !cb_options_init(cb_merge_option_table, &fold))
        return false;
    fold.dtype = options->dtype;
    fold.verify = false;
    cb_merged m = {.options = options, .base_path = base, .paths = models, .count = count};
    fold_plan plan = {.options = &fold, .input = base, .output = output, .merged = &m};
    bool ok = check_count(&m) && cb_combine_densities(options, count, m.densities) && check_tokenizers(&m);
    for (size_t i = 0; ok && i < count; i++) {
        m.weights[i] = weights[i];
        ok = (m.others[i] = cb_weights_open(models[i]));
    }
    ok = ok && check_tensors(&m) && check_configs(&m) && cb_fold_plan_make(&plan, NULL, 0) && cb_fold_carry_out(&plan, NULL);
    cb_fold_plan_free(&plan);
    for (size_t i = 0; i < count && i < CB_MERGE_MOST_MODELS; i++)
        cb_weights_close(m.others[i]);
    cb_options_free(cb_merge_option_table, &fold);
    return ok;
}
