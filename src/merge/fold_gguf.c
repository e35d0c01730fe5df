/* fold_gguf.c: adapters folded into a GGUF file, or into a model directory that becomes one.
 *
 * A matrix that changes is read as f32, changed, and rounded to its type again, or to the wanted one; everything else of a GGUF file is
 * copied byte for byte.  Rounding to few bits loses some of what an adapter adds: that is why the result is compared before it is kept. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/files.h"
#include "formats/gguf_model.h"
#include "formats/quantized.h"
#include "merge/internal.h"

typedef struct gguf_fold {
    cb_model *model;
    cb_changes changes;
    bool *found; /* one per change: a tensor of the base is it */
} gguf_fold;

static cb_change *change_of(const gguf_fold *f, const char *tensor)
{
    const char *dot = strrchr(tensor, '.');
    char *stem = dot ? cb_format("%.*s", (int)(dot - tensor), tensor) : NULL;
    const cb_layer *layer = stem ? cb_layer_find(cb_model_root(f->model), stem) : NULL;
    cb_free(stem);
    for (size_t i = 0; layer && i < f->changes.count; i++)
        if (f->changes.list[i].layer == layer && strcmp(f->changes.list[i].name, dot + 1) == 0)
            return &f->changes.list[i];
    return NULL;
}

static bool change(void *user, const cb_weight_entry *tensor, float *values)
{
    gguf_fold *f = user;
    cb_change *found = change_of(f, tensor->name);
    if (found)
        f->found[found - f->changes.list] = true;
    if (!found || !values)
        return found != NULL;
    cb_scope *scope = cb_scope_open();
    cb_tensor *value = scope ? cb_change_apply(found, cb_wrap_nd(CB_F32, values, tensor->ndim, tensor->shape)) : NULL;
    bool ok = value && cb_read(value, CB_F32, values);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* Whether a head becomes a tensor of its own: it changes, and is the embedding in the base. */
static bool unties(const gguf_fold *f)
{
    for (size_t i = 0; i < f->changes.count; i++)
        if (f->changes.list[i].layer->tied)
            return true;
    return false;
}

/* A directory's; those of a GGUF file are its own types. */
static bool check_plain(const char *base)
{
    bool quantized = false;
    if (!cb_is_directory(base))
        return true;
    if (!cb_holds_quantized(base, &quantized))
        return false;
    return !quantized || cb_fail(CB_ERR_UNSUPPORTED,
                                 "%s: found quantised weights: merge into a directory with --dtype f16, and convert that", base) == CB_OK;
}

static bool write(gguf_fold *f, cb_gguf_job *job)
{
    job->untied = unties(f);
    if (!check_plain(job->model) || !cb_gguf_export_job(job))
        return false;
    for (size_t i = 0; i < f->changes.count; i++)
        if (!f->found[i])
            return cb_fail(CB_ERR_FORMAT, "%s: no tensor for the %s of layer %s", job->model, f->changes.list[i].name,
                           f->changes.list[i].layer->name) == CB_OK;
    return true;
}

static bool verify(const gguf_fold *f, const cb_gguf_job *job, const char *output, const cb_merge_options *options,
                   cb_difference *difference)
{
    cb_model *merged = cb_model_load(job->output, .dtype = cb_model_dtype(f->model));
    bool ok = merged && cb_merge_difference(f->model, merged, options->probe, (uint64_t)options->seed, difference);
    cb_model_free(merged);
    return ok && cb_difference_within(difference, output, cb_largest_kl(options->max_kl, job->coarse), options->min_agreement);
}

/* The output is no file of the base: of a directory, none inside it. */
static bool check_output(const char *base, const char *output)
{
    char *parent = cb_path_parent(output), real_parent[PATH_MAX], real_base[PATH_MAX];
    bool ok = parent && cb_directory_make(parent) && cb_directory_vacant(output);
    if (ok && cb_is_directory(base) && realpath(parent, real_parent) && realpath(base, real_base)) {
        size_t length = strlen(real_base);
        if (strncmp(real_parent, real_base, length) == 0 && (real_parent[length] == 0 || real_parent[length] == '/'))
            ok = cb_fail(CB_ERR_ARGUMENT, "%s: lies inside the base model's directory %s", output, base) == CB_OK;
    }
    cb_free(parent);
    return ok;
}

bool cb_merge_fold_gguf(cb_model *model, cb_adapter *const *adapters, size_t count, const char *output, const cb_merge_options *options,
                        cb_difference *difference)
{
    const char *base = cb_model_directory(model);
    if (options->quantize != CB_QUANTIZE_NONE)
        return cb_fail(CB_ERR_UNSUPPORTED, "quantize: found a kind for model directories, and %s is a GGUF file: choose a --dtype",
                       output) == CB_OK;
    gguf_fold f = {.model = model};
    bool ok = check_output(base, output) && cb_changes_collect(&f.changes, adapters, count);
    f.found = ok ? cb_calloc(f.changes.count + 1, sizeof *f.found) : NULL;
    char *stage = f.found ? cb_file_stage(output) : NULL;
    cb_gguf_job job = {
        .model = base, .output = stage, .dtype = cb_gguf_dtype_names[options->dtype], .name = base, .change = change, .user = &f};
    ok = stage && write(&f, &job) && (!options->verify || verify(&f, &job, output, options, difference));
    difference->weight_error = job.weight_error;
    if (stage && !ok)
        cb_stage_discard(stage);
    ok = ok && cb_stage_publish(stage, output);
    cb_changes_free(&f.changes);
    cb_free(f.found);
    return ok;
}
