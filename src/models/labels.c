/* labels.c: the labels of a model that classifies: their names, what they are for, and the loss that follows from it, as transformers has it in
 * the fields id2label and problem_type of config.json. */
#include "models/labels.h"

#include <string.h>

#include "cambium/losses.h"
#include "models/internal.h"

static const char *const problem_names[] = {"single_label_classification", "multi_label_classification", "regression"};

/* ---- reading ---- */

static const char *name_in(const json_t *names, int64_t number)
{
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)number);
    return json_string_value(json_object_get(names, key));
}

enum { USUAL = 32 };
static void usual_name(int64_t number, char text[USUAL])
{
    snprintf(text, USUAL, "LABEL_%lld", (long long)number);
}

static bool add_name(cb_string_list *list, const char *name, int64_t number)
{
    char usual[USUAL];
    usual_name(number, usual);
    return cb_string_list_add(list, name ? name : usual);
}

bool cb_labels_generic(const cb_string_list *names)
{
    char usual[USUAL];
    for (size_t i = 0; i < names->count; i++) {
        usual_name((int64_t)i, usual);
        if (strcmp(names->items[i], usual) != 0)
            return false;
    }
    return true;
}

static bool read_problem(cb_model *model)
{
    const char *name = cb_json_string(model->config_path, model->json, "problem_type", NULL);
    cb_head_kind kind = model->head_plan->kind;
    bool number = kind == CB_HEAD_DENSE_REGRESSION || model->dense || (kind == CB_HEAD_SEQUENCE_CLASSIFICATION && model->labels == 1);
    model->problem = number ? CB_PROBLEM_REGRESSION : CB_PROBLEM_SINGLE_LABEL;
    for (int i = 0; name && i < 3; i++)
        if (strcmp(name, problem_names[i]) == 0) {
            model->problem = (cb_problem)i;
            return true;
        }
    return cb_ok() && (!name || cb_config_error(model, "problem_type is \"%.60s\", expected %s, %s or %s", name, problem_names[0],
                                                problem_names[1], problem_names[2]));
}

bool cb_labels_configure(cb_model *model, int64_t count)
{
    const json_t *names = json_object_get(model->json, "id2label");
    bool fit = json_is_object(names) && (int64_t)json_object_size(names) == count && !model->dense, ok = true;
    for (int64_t i = 0; ok && i < count; i++)
        ok = add_name(&model->label_names, model->dense ? model->dense->names[i] : fit ? name_in(names, i) : NULL, i);
    return ok && read_problem(model);
}

/* ---- others ---- */

bool cb_model_is_new(const cb_model *model, const char *weight)
{
    size_t length = strlen(weight);
    for (const char *at = model->head_new; at; at = strstr(at, ", ") ? strstr(at, ", ") + 2 : NULL)
        if (strncmp(at, weight, length) == 0 && (!at[length] || at[length] == ','))
            return true;
    return false;
}

/* Whether the layer's weight is one of those. */
static bool is_new(const cb_model *model, const char *layer)
{
    char *weight = layer ? cb_format("%s.weight", layer) : NULL;
    bool found = weight && cb_model_is_new(model, weight);
    cb_free(weight);
    return found;
}

/* The weights of an output layer for other labels. */
static bool replace_weight(cb_model *model, const cb_layer *head, const char *name, int ndim, const int64_t *shape)
{
    cb_weight *weight = cb_layer_own_weight(head, name);
    if (!weight)
        return true;
    char *full = cb_format("%s.%s", head->name, name);
    cb_scope *scope = full ? cb_scope_open() : NULL;
    cb_initial initial = ndim == 1 ? CB_INITIAL_ZEROS : CB_INITIAL_NORMAL;
    cb_tensor *fresh = scope ? cb_weight_new(model, model->head_seed, full, initial, ndim, shape) : NULL;
    if (fresh) {
        cb_release(weight->tensor);
        weight->tensor = cb_keep(fresh);
    }
    if (scope)
        cb_scope_close(scope);
    cb_free(full);
    return fresh;
}

static bool resize_layer(cb_model *model, cb_layer *head, int64_t labels)
{
    const int64_t shape[] = {labels, head->in_features, 1, 1}; /* of a convolution, the kernel's size too */
    if (!model->head_asked || head->module_count)
        return cb_fail(CB_ERR_STATE,
                       labels == model->labels ? "%s: has a head of %lld other labels" : "%s: has a head of %lld labels, expected %lld",
                       model->directory ? model->directory : model->config_path, (long long)model->labels, (long long)labels) == CB_OK;
    for (int i = 0; i < head->weight_count; i++)
        if (head->weights[i].frozen)
            return cb_fail(CB_ERR_STATE, "layer %s: an adapter trains it, so it cannot get other labels", head->name) == CB_OK;
    if (!replace_weight(model, head, "weight", head->kind == CB_LAYER_CONV ? 4 : 2, shape) ||
        !replace_weight(model, head, "bias", 1, &labels))
        return false;
    head->out_features = labels;
    return true;
}

static bool resize(cb_model *model, int64_t labels)
{
    if (!resize_layer(model, model->head, labels) || (model->head_second && !resize_layer(model, model->head_second, labels)))
        return false;
    model->labels = labels;
    return true;
}

bool cb_labels_name(json_t *object, const cb_string_list *names)
{
    json_t *by_number = json_object();
    bool ok = true;
    for (size_t i = 0; ok && i < names->count; i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        ok = cb_json_put(by_number, key, json_string(names->items[i]));
    }
    ok = ok && cb_json_put(object, "id2label", json_incref(by_number));
    json_decref(by_number);
    return ok;
}

bool cb_labels_put(json_t *object, const cb_string_list *names, cb_problem problem)
{
    json_t *by_name = json_object();
    bool ok = cb_labels_name(object, names);
    for (size_t i = 0; ok && i < names->count; i++)
        ok = cb_json_put(by_name, names->items[i], json_integer((json_int_t)i));
    ok = ok && cb_json_put(object, "label2id", json_incref(by_name)) &&
         cb_json_put(object, "problem_type", json_string(problem_names[problem]));
    json_decref(by_name);
    return ok;
}

static bool is_among(const cb_string_list *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->items[i], name) == 0)
            return true;
    return false;
}

static bool are_same(const cb_string_list *a, const cb_string_list *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; same && i < a->count; i++)
        same = strcmp(a->items[i], b->items[i]) == 0;
    return same;
}

/* Whether the head was trained for labels that have names: it says nothing about others. */
static bool is_of_names(const cb_model *model)
{
    bool new = !model->file || is_new(model, model->head_plan->output);
    return !new && !cb_labels_generic(&model->label_names);
}

static void warn_of_new_head(const cb_model *model, const cb_string_list *names)
{
    size_t i = 0;
    while (i < names->count && is_among(&model->label_names, names->items[i]))
        i++;
    if (!model->head_follows)
        cb_log_message(CB_LOG_WARNING, "%s: its head becomes a new one, because %s%s", model->directory,
                       i < names->count ? names->items[i] : "its labels", i < names->count ? " is not among its labels" : " are others");
}

bool cb_model_set_labels(cb_model *model, const cb_string_list *names, cb_problem problem)
{
    if (!model->labels)
        return cb_fail(CB_ERR_STATE, "%s: the model classifies nothing, and has no labels", model->config_path) == CB_OK;
    if (!names->count || names->count > INT32_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found %zu labels, expected 1 or more", model->config_path, names->count) == CB_OK;
    bool denoises = model->head_plan->kind == CB_HEAD_DENOISING;
    bool other = !denoises && is_of_names(model) && !are_same(&model->label_names, names);
    if (denoises && (int64_t)names->count > model->config.class_rows)
        return cb_fail(CB_ERR_STATE, "%s: its table of classes has %lld rows, and the data have %zu classes", model->config_path,
                       (long long)model->config.class_rows, names->count) == CB_OK;
    if (denoises)
        model->labels = (int64_t)names->count;
    if (((int64_t)names->count != model->labels || other) && !resize(model, (int64_t)names->count))
        return false;
    if (other)
        warn_of_new_head(model, names);
    cb_string_list copy = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < names->count; i++)
        ok = cb_string_list_add(&copy, names->items[i]);
    if (!ok) {
        cb_string_list_free(&copy);
        return false;
    }
    cb_string_list_free(&model->label_names);
    model->label_names = copy;
    model->problem = problem;
    ok = denoises ? cb_labels_name(model->json, names) : cb_labels_put(model->json, names, problem);
    if (ok && json_object_get(model->json, "num_labels"))
        ok = cb_json_put(model->json, "num_labels", json_integer((json_int_t)model->labels));
    return ok;
}

/* ---- the loss ---- */

/* of (N, K) or (N, K, H, W) */
static cb_tensor *loss_of_values(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer)
{
    if (!cb_same_shape(logits, targets)) {
        cb_fail(CB_ERR_SHAPE, "model: targets are %s for logits %s, expected the same shape", cb_shape_text(targets),
                cb_shape_text(logits));
        return NULL;
    }
    logits = cb_cast(logits, CB_F32);
    bool single = model->problem == CB_PROBLEM_SINGLE_LABEL;
    cb_tensor *sum = model->problem == CB_PROBLEM_REGRESSION ? cb_mse_loss(logits, targets, CB_REDUCE_SUM)
                     : single                                ? cb_soft_cross_entropy(logits, targets, 0, CB_REDUCE_SUM)
                                                             : cb_bce_with_logits_loss(logits, targets, 1, CB_REDUCE_SUM);
    return cb_scale(sum, 1 / (normalizer > 0 ? normalizer : (double)(single ? targets->shape[0] : targets->count)));
}

cb_tensor *cb_model_label_loss(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer)
{
    if (!logits || !targets)
        return NULL;
    if (model->dense)
        return cb_places_number_loss(model, logits, targets, normalizer);
    if (logits->ndim == 4)
        logits = cb_labels_in_size(logits, targets->shape[targets->ndim - 2], targets->shape[targets->ndim - 1]);
    if (logits && logits->ndim == 4 && targets->dtype != CB_F32)
        logits = cb_pixels_channels_behind(logits);
    if (!logits)
        return NULL;
    if (targets->dtype == CB_F32)
        return loss_of_values(model, logits, targets, normalizer);
    cb_linear_cross_entropy_options options = {.ignore_index = -100, .normalizer = normalizer};
    int64_t labels = logits->shape[logits->ndim - 1];
    return cb_cross_entropy_with(cb_reshape(logits, -1, labels), cb_reshape(targets, -1), options);
}

/* ---- questions ---- */

const cb_string_list *cb_model_label_names(const cb_model *model)
{
    return &model->label_names;
}

cb_problem cb_model_problem(const cb_model *model)
{
    return model->problem;
}

const char *cb_model_new_weights(const cb_model *model)
{
    return model->head_new;
}

json_t *cb_model_architectures(const cb_model *model)
{
    return json_pack("[s++]", model->config.shared ? "Recursive" : "", model->architecture->class_prefix, model->head_plan->class_end);
}

/* PEFT names a module by the end of its name: "classifier", whose parts dense and out_proj are, or "pooler" of bert.pooler.dense. */
static bool add_module(const cb_model *model, const char *layer, cb_string_list *names)
{
    const char *prefix = model->architecture->prefix;
    const char *own = strncmp(layer, prefix, strlen(prefix)) == 0 ? layer + strlen(prefix) : layer;
    char *name = cb_strndup(own, strcspn(own, "."));
    bool there = false;
    for (size_t i = 0; name && i < names->count; i++)
        there = there || strcmp(names->items[i], name) == 0;
    bool ok = name && (there || cb_string_list_add(names, name));
    cb_free(name);
    return ok;
}

bool cb_model_head_modules(const cb_model *model, cb_string_list *names)
{
    const char *dense = model->head_plan->dense;
    if (!model->labels)
        return true;
    return (!is_new(model, dense) || add_module(model, dense, names)) && add_module(model, model->head_plan->output, names);
}
