/* start.c: attaches an adapter whose start is worked out first: batches of training data go through the model while its layers are looked at,
 * or the model is compared with what it was quantised from. */
#include <string.h>

#include "adapters/study.h"
#include "cambium/formats.h"
#include "core/rehearsal.h"
#include "training/parallel.h"

#define FILE_NAME "start.safetensors"

const cb_option cb_start_option_table[] = {
    CB_OPT_INT(cb_start_options, start_batches, 0, 0, 1e12,
               "batches that a start from data looks at, at most (0: eva until its components are found, corda 256 rows)"),
    CB_OPT_STRING(cb_start_options, loftq_model, NULL, "DIR", "loftq: the model that the quantised one was made from"),
    CB_OPT_STRING(cb_start_options, original_model, NULL, "DIR", "residual: the model whose weights the base is to come near to"),
    CB_OPT_END,
};

typedef struct preparation {
    cb_model *model;
    cb_adapter *adapter;
    cb_dataset *data;
    const cb_train_options *options;
    const cb_start_options *start;
    cb_study *study;
    cb_batch batch;
    char *path, *key;
} preparation;

/* What the start depends on, in words. */
static char *describe(const preparation *p)
{
    char *options = cb_study_options(p->adapter);
    char *text = options ? cb_format("adapter options #%016llx, data #%016llx, batches of %lld rows of %lld, at most %lld (0: not said), "
                                     "base #%016llx, seed %llu",
                                     (unsigned long long)cb_hash_text(CB_HASH_START, options),
                                     p->data ? (unsigned long long)cb_dataset_hash(p->data) : 0, (long long)p->options->batch_size,
                                     p->data ? (long long)cb_dataset_row_length(p->data) : 0, (long long)p->start->start_batches,
                                     (unsigned long long)cb_model_hash(p->model), (unsigned long long)p->options->seed)
                         : NULL;
    cb_free(options);
    return text;
}

/* ---- the file ---- */

/* 1 it is of this run, 0 there is none, -1 it is of another or cannot be read */
static int find_file(const preparation *p)
{
    if (!p->options->resume || cb_rehearsing() || !cb_is_file(p->path))
        return 0;
    cb_safetensors *file = cb_safetensors_open(p->path);
    const char *found = file ? cb_safetensors_metadata(file, "fingerprint") : NULL;
    char *what = file ? cb_format("%s: the start is of another run", p->path) : NULL;
    bool same = found && strcmp(found, p->key) == 0;
    if (what && !same)
        cb_train_refuse_other(what, found ? found : "", p->key);
    cb_free(what);
    cb_safetensors_close(file);
    return same ? 1 : -1;
}

/* A run that has a checkpoint began with a start that is no longer there. */
static bool check_checkpoint(const preparation *p)
{
    char *checkpoint = p->options->resume && !cb_rehearsing() ? cb_path_join(p->options->output, "checkpoint.safetensors") : NULL;
    bool there = checkpoint && cb_is_file(checkpoint);
    cb_free(checkpoint);
    return cb_ok() && (!there || cb_fail(CB_ERR_STATE, "%s: is missing, and the checkpoint beside it went on from it", p->path) == CB_OK);
}

static bool write_file(const preparation *p)
{
    const char *const metadata[] = {"format", "pt", "fingerprint", p->key, NULL};
    if (cb_parallel_rank() != 0)
        return true;
    if (cb_rehearsing()) /* the directory is not there */
        return cb_rehearsal_output(p->path, cb_given_bytes(p->adapter), false);
    return cb_directory_make(p->options->output) && cb_given_write(p->adapter, p->path, metadata);
}

/* ---- looking at batches ---- */

static bool forward(void *user)
{
    preparation *p = user;
    cb_scope *scope = cb_scope_open();
    cb_context ctx = cb_train_context(&p->batch);
    cb_tensor *hidden = scope ? cb_model_hidden(p->model, p->batch.ids, &ctx) : NULL;
    bool head = cb_study_looks_at(p->study, cb_model_head_layer(p->model));
    bool ok = hidden && (!head || cb_model_head(p->model, hidden, &ctx));
    cb_scope_close(scope);
    return ok;
}

static int64_t most_batches(const preparation *p)
{
    const cb_study_method *method = p->study->method;
    int64_t each = p->options->batch_size, rows = cb_dataset_rows(p->data), most = method->batches;
    rows = method->rows < rows ? method->rows : rows; /* a second look at a row says nothing new */
    if (method->rows)
        most = (rows + each - 1) / each;
    return p->start->start_batches ? p->start->start_batches : most;
}

static bool look_at_data(preparation *p)
{
    bool ok = true;
    if (!p->data)
        return cb_fail(CB_ERR_ARGUMENT, "init_lora_weights: %s looks at training data, found none", p->study->method->name) == CB_OK;
    if (cb_model_decoder_start(p->model) >= 0)
        return cb_fail(
                   CB_ERR_UNSUPPORTED,
                   "init_lora_weights: %s looks at the tokens of one text, and %s reads two, a source and a target; expected another start",
                   p->study->method->name, cb_model_type(p->model)) == CB_OK;
    int64_t most = most_batches(p);
    for (int64_t i = 0; ok && i < most && !cb_study_done(p->study); i++) {
        if (cb_interrupted())
            return cb_fail(CB_ERR_INTERRUPTED, "interrupted after %lld batches that the start looks at", (long long)i) == CB_OK;
        ok = cb_dataset_batch(p->data, i, p->options->batch_size, &p->batch) &&
             cb_study_batch(p->study, &(cb_study_tokens){p->batch.ids, p->batch.targets, p->batch.segments}, forward, p) &&
             cb_file_maps_check();
        if (ok && p->start->callback)
            p->start->callback(p->start->user, i + 1, most);
        if (cb_rehearsing() && i == 1)
            break;
    }
    return ok;
}

static bool look_at_plain_model(preparation *p)
{
    const char *option = p->study->method->plain;
    bool loftq = strcmp(option, "loftq_model") == 0;
    const char *path = loftq ? p->start->loftq_model : p->start->original_model;
    if (!path)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found none, expected the directory of the model %s", option,
                       loftq ? "before it was quantised" : "that the base came from") == CB_OK;
    cb_model *plain = cb_model_load(path, .keep_weights = true);
    p->study->plain = plain ? cb_model_root(plain) : NULL;
    bool ok = plain && cb_study_finish(p->study);
    cb_model_free(plain);
    return ok;
}

static bool work_out(preparation *p)
{
    if (!p->study->method->from_data)
        return look_at_plain_model(p);
    return look_at_data(p) && cb_study_finish(p->study);
}

static bool prepare(preparation *p)
{
    p->path = cb_path_join(p->options->output, FILE_NAME);
    p->key = p->path ? describe(p) : NULL;
    p->study = p->key ? cb_study_begin(p->adapter, cb_model_root(p->model), cb_model_type(p->model), cb_parallel_rank() == 0) : NULL;
    int found = p->study ? find_file(p) : -1;
    if (found < 0)
        return false;
    return found ? cb_study_read(p->study, p->path) : check_checkpoint(p) && work_out(p) && write_file(p);
}

bool cb_train_attach(cb_model *model, cb_adapter *adapter, cb_dataset *data, const cb_train_options *options, const cb_start_options *start)
{
    const cb_start_options none = {0};
    if (!model || !adapter || !cb_ok())
        return false;
    preparation p = {.model = model, .adapter = adapter, .data = data, .options = options, .start = start ? start : &none};
    bool ok = !cb_adapter_needs_study(adapter) || prepare(&p);
    cb_study_free(p.study);
    cb_batch_free(&p.batch);
    cb_free(p.path);
    cb_free(p.key);
    return ok && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), options->seed);
}
