/* labels.c: what an adapter with a head is for: beside PEFT's two files, which have no place for it, labels.json says it in the names that
 * transformers has in config.json. */
#include "models/labels.h"

#include <string.h>

#include "cambium/formats.h"
#include "core/json.h"
#include "training/internal.h"

#define FILE_NAME "labels.json"

static const struct {
    cb_objective objective;
    const char *task;
    cb_head_kind head;
    cb_problem problem;
    const char *peft_type;
} tasks[] = {
    {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "sequence-classification", CB_HEAD_SEQUENCE_CLASSIFICATION, CB_PROBLEM_SINGLE_LABEL, "SEQ_CLS"},
    {CB_OBJECTIVE_MULTI_LABEL, "multi-label", CB_HEAD_SEQUENCE_CLASSIFICATION, CB_PROBLEM_MULTI_LABEL, "SEQ_CLS"},
    {CB_OBJECTIVE_REGRESSION, "regression", CB_HEAD_SEQUENCE_CLASSIFICATION, CB_PROBLEM_REGRESSION, "SEQ_CLS"},
    {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "token-classification", CB_HEAD_TOKEN_CLASSIFICATION, CB_PROBLEM_SINGLE_LABEL, "TOKEN_CLS"},
    {CB_OBJECTIVE_IMAGE_CLASSIFICATION, "image-classification", CB_HEAD_IMAGE_CLASSIFICATION, CB_PROBLEM_SINGLE_LABEL, NULL},
    {CB_OBJECTIVE_SEMANTIC_SEGMENTATION, "semantic-segmentation", CB_HEAD_SEMANTIC_SEGMENTATION, CB_PROBLEM_SINGLE_LABEL, NULL},
    {CB_OBJECTIVE_DEPTH_ESTIMATION, "depth-estimation", CB_HEAD_DEPTH_ESTIMATION, CB_PROBLEM_REGRESSION, NULL},
    {CB_OBJECTIVE_SURFACE_NORMALS, "surface-normals", CB_HEAD_SURFACE_NORMALS, CB_PROBLEM_REGRESSION, NULL},
    {CB_OBJECTIVE_SALIENCY, "saliency", CB_HEAD_SALIENCY, CB_PROBLEM_REGRESSION, NULL},
    {CB_OBJECTIVE_RANKING, "ranking", CB_HEAD_SEQUENCE_CLASSIFICATION, CB_PROBLEM_REGRESSION, "SEQ_CLS"},
    {CB_OBJECTIVE_FORECASTING, "forecasting", CB_HEAD_FORECASTING, CB_PROBLEM_REGRESSION, NULL},
    {CB_OBJECTIVE_TEXT_RECOGNITION, "text-recognition", CB_HEAD_CTC, CB_PROBLEM_SINGLE_LABEL, NULL},
    {CB_OBJECTIVE_CAUSAL_LM, NULL, CB_HEAD_CAUSAL_LM, CB_PROBLEM_SINGLE_LABEL, "CAUSAL_LM"},
    {CB_OBJECTIVE_SEQ2SEQ_LM, NULL, CB_HEAD_SEQ2SEQ_LM, CB_PROBLEM_SINGLE_LABEL, "SEQ_2_SEQ_LM"},
    {CB_OBJECTIVE_MASKED_LM, NULL, CB_HEAD_MASKED_LM, CB_PROBLEM_SINGLE_LABEL, NULL}};
enum { LABELLED = 10, TASKS = sizeof tasks / sizeof *tasks };

static int index_of(cb_objective objective)
{
    int i = 0;
    while (i + 1 < TASKS && tasks[i].objective != objective)
        i++;
    return i;
}

cb_objective cb_objective_of(const cb_model *model)
{
    cb_head_kind head = cb_model_head_kind(model);
    for (int i = 0; i < TASKS; i++)
        if (tasks[i].head == head && (head != CB_HEAD_SEQUENCE_CLASSIFICATION || tasks[i].problem == cb_model_problem(model)))
            return tasks[i].objective;
    return CB_OBJECTIVE_CAUSAL_LM;
}

const char *cb_objective_name(cb_objective objective)
{
    return tasks[index_of(objective)].task;
}

cb_head_kind cb_objective_head(cb_objective objective)
{
    return tasks[index_of(objective)].head;
}

cb_problem cb_objective_problem(cb_objective objective)
{
    return tasks[index_of(objective)].problem;
}

bool cb_adapter_fit_labels(cb_adapter *adapter, const cb_model *model)
{
    if (cb_adapter_kind_of(adapter)->module.virtual_tokens)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: has virtual tokens only, and no place for the head of %s; expected another kind",
                       cb_adapter_kind_of(adapter)->name, cb_objective_name(cb_objective_of(model))) == CB_OK;
    return cb_adapter_set_task_type(adapter, tasks[index_of(cb_objective_of(model))].peft_type) &&
           cb_model_head_modules(model, &cb_adapter_target(adapter)->modules_to_save);
}

/* ---- writing ---- */

static bool write_file(cb_objective objective, const cb_string_list *names, const char *dense_loss, const char *directory)
{
    json_t *file = json_object();
    char *path = cb_path_join(directory, FILE_NAME);
    bool ok = path && cb_json_put(file, "task", json_string(cb_objective_name(objective))) &&
              cb_json_put(file, "num_labels", json_integer((json_int_t)names->count)) &&
              cb_labels_put(file, names, cb_objective_problem(objective)) &&
              (!dense_loss || cb_json_put(file, "dense_loss", json_string(dense_loss))) && cb_json_save(path, file, false);
    json_decref(file);
    cb_free(path);
    return ok;
}

bool cb_adapter_labels_write(const cb_model *model, const char *directory)
{
    if (cb_objective_is_labelled(cb_objective_of(model)))
        return write_file(cb_objective_of(model), cb_model_label_names(model), cb_model_dense_loss(model), directory);
    char *path = cb_path_join(directory, FILE_NAME);
    bool ok = path && cb_file_remove(path);
    cb_free(path);
    return ok;
}

bool cb_adapter_labels_save(const cb_adapter_labels *labels, const char *directory)
{
    return write_file(labels->objective, &labels->names, labels->dense_loss, directory);
}

/* ---- reading ---- */

static const char *known_loss(const char *name)
{
    const char *const *known = cb_dense_loss_names;
    while (*known && strcmp(name, *known) != 0)
        known++;
    return *known;
}

static bool read_file(const char *path, cb_adapter_labels *labels)
{
    enum { LIMIT = 1 << 26 };
    json_t *file = cb_json_load(path, LIMIT);
    const char *task = file ? cb_json_string(path, file, "task", "") : NULL;
    const json_t *names = json_object_get(file, "id2label");
    size_t count = json_object_size(names);
    int i = 0;
    while (task && i < LABELLED && strcmp(tasks[i].task, task) != 0)
        i++;
    bool ok = task && cb_ok();
    if (ok && (i == LABELLED || !count))
        ok = cb_fail(CB_ERR_FORMAT, "%s: found task \"%.60s\" with %zu labels in id2label, expected one of labels with one at least", path,
                     task, count) == CB_OK;
    for (size_t n = 0; ok && n < count; n++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", n);
        const char *name = json_string_value(json_object_get(names, key));
        ok = name ? cb_string_list_add(&labels->names, name)
                  : cb_fail(CB_ERR_FORMAT, "%s: id2label: found no name of label %zu, expected text", path, n) == CB_OK;
    }
    const char *loss = ok ? cb_json_string(path, file, "dense_loss", NULL) : NULL;
    ok = ok && cb_ok() &&
         (!loss || (labels->dense_loss = known_loss(loss)) ||
          cb_fail(CB_ERR_FORMAT, "%s: dense_loss: found \"%.20s\", expected l2, l1, silog, cosine or bce", path, loss) == CB_OK);
    if (ok)
        labels->objective = tasks[i].objective;
    json_decref(file);
    return ok;
}

/* The rows of the head in an adapter's file; 0: it holds none. */
static int64_t rows_of_head(const char *directory)
{
    static const char *const ends[] = {".classifier.weight", ".score.weight", ".classifier.out_proj.weight"};
    char *safe = cb_path_join(directory, "adapter_model.safetensors"), *pickle = cb_path_join(directory, "adapter_model.bin");
    cb_weights *file = safe && pickle ? cb_weights_open_file(cb_is_file(safe) ? safe : pickle) : NULL;
    int64_t rows = 0;
    for (size_t i = 0; file && i < cb_weights_count(file); i++)
        for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
            const cb_weight_entry *e = cb_weights_at(file, i);
            if (cb_ends_with(e->name, ends[k]) && e->ndim == 2)
                rows = e->shape[0];
        }
    cb_weights_close(file);
    cb_free(safe);
    cb_free(pickle);
    return rows;
}

/* By PEFT's task type. */
static bool read_type(const char *directory, const char *config_path, cb_adapter_labels *labels)
{
    enum { LIMIT = 1 << 24 };
    json_t *config = cb_json_load(config_path, LIMIT);
    const char *type = config ? json_string_value(json_object_get(config, "task_type")) : NULL;
    bool sequence = type && strcmp(type, "SEQ_CLS") == 0, token = type && strcmp(type, "TOKEN_CLS") == 0;
    json_decref(config);
    int64_t rows = sequence || token ? rows_of_head(directory) : 0;
    bool ok = rows > 0;
    for (int64_t i = 0; ok && i < rows; i++) {
        char name[32];
        snprintf(name, sizeof name, "LABEL_%lld", (long long)i);
        ok = cb_string_list_add(&labels->names, name);
    }
    labels->objective = token      ? CB_OBJECTIVE_TOKEN_CLASSIFICATION
                        : rows > 1 ? CB_OBJECTIVE_SEQUENCE_CLASSIFICATION
                                   : CB_OBJECTIVE_REGRESSION;
    return ok;
}

bool cb_adapter_labels_read(const char *directory, cb_adapter_labels *labels)
{
    *labels = (cb_adapter_labels){0};
    char *path = cb_path_join(directory, FILE_NAME), *config = cb_path_join(directory, "adapter_config.json");
    bool found = false;
    if (path && cb_is_file(path))
        found = labels->named = read_file(path, labels);
    else if (path && config && cb_is_file(config))
        found = read_type(directory, config, labels);
    cb_free(path);
    cb_free(config);
    return found;
}
