/* task.c: what a model is trained or measured for.  Words need no more than the model; labels need a head that fits, and names, which come
 * from the command line, an adapter, the model's config.json or the data, in this order. */
#include <string.h>

#include "cli/cli.h"
#include "core/json.h"

const char *const cli_task_names[] = {"auto", CLI_TASKS(CLI_TASK_NAME) NULL};

const cb_option cli_task_table[] = {
    CB_OPT_ENUM(cli_task_settings, task, 0, cli_task_names,
                "what is predicted: one label of a text or a pair, any number of them, a number, a label of each word, one of an image, or "
                "of each place of it one, how far it is, which way it faces, or whether it stands out (docs/dense.md); what is written in "
                "an image (docs/recognition.md); "
                "retrieval, similarity: what a sentence encoder learns from pairs; ranking: how relevant a document is for a query, both "
                "read together; forecasting: the next numbers of series; seq2seq: a target, given a source, of a model with an encoder and "
                "a decoder; "
                "image-generation: what is noise in an image, by networks that make images of it; "
                "auto: what the model, "
                "or the adapter, is for"),
    CB_OPT_LIST(cli_task_settings, labels, NULL, "NAME,...",
                "labels in the order of their numbers, instead of the model's, or, where it has none, of those in the data, sorted"),
    CB_OPT_STRING(cli_task_settings, labels_file, NULL, "FILE", "the same, one a line"),
    CB_OPT_STRING(
        cli_task_settings, dense_loss, NULL, "NAME",
        "of numbers of places: silog (of depths: scale-invariant, of logarithms), cosine (of normals), bce (of saliency), or l1 or l2; "
        "without it the model's, or the one of these three"),
    CB_OPT_END};

static const struct {
    const char *name;
    cb_objective objective;
} tasks[] = {
#define ENTRY(name, objective) {name, objective},
    CLI_TASKS(ENTRY)
#undef ENTRY
};
enum { TASKS = sizeof tasks / sizeof *tasks };

cb_objective cli_task_objective(const char *name)
{
    for (size_t i = 0; i < TASKS; i++)
        if (strcmp(tasks[i].name, name) == 0)
            return tasks[i].objective;
    return CB_OBJECTIVE_CAUSAL_LM;
}

/* ---- what it is ---- */

const char *cli_task_name(cb_objective objective)
{
    for (size_t i = 0; i < TASKS; i++)
        if (tasks[i].objective == objective)
            return tasks[i].name;
    return "words";
}

/* The end of the class name in config.json; "" where there is none. */
static bool read_class(const char *path, char *end, size_t size)
{
    char *inside = cb_is_directory(path) ? cb_path_join(path, "config.json") : cb_strdup(path);
    bool there = inside && cb_ends_with(inside, ".json") && cb_is_file(inside);
    json_t *config = there ? cb_json_load(inside, 1 << 24) : NULL;
    const char *name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    const char *found = name ? strstr(name, "For") : NULL;
    snprintf(end, size, "%s", found ? found : "");
    json_decref(config);
    cb_free(inside);
    return cb_ok();
}

static bool copy_labels(cb_string_list *to, const cb_string_list *from)
{
    bool ok = true;
    for (size_t i = 0; ok && i < from->count; i++)
        ok = cb_string_list_add(to, from->items[i]);
    return ok;
}

/* Which task a model of this class is for; of texts only that they have labels. */
static bool task_of_class(const char *class, cb_objective *objective)
{
    static const struct {
        const char *begin;
        cb_objective objective;
    } classes[] = {{"ForImageClassification", CB_OBJECTIVE_IMAGE_CLASSIFICATION}, /* also ...WithTeacher */
                   {"ForSemanticSegmentation", CB_OBJECTIVE_SEMANTIC_SEGMENTATION},
                   {"ForDepthEstimation", CB_OBJECTIVE_DEPTH_ESTIMATION},
                   {"ForSurfaceNormals", CB_OBJECTIVE_SURFACE_NORMALS},
                   {"ForSaliency", CB_OBJECTIVE_SALIENCY},
                   {"ForTokenClassification", CB_OBJECTIVE_TOKEN_CLASSIFICATION},
                   {"ForSequenceClassification", CB_OBJECTIVE_CAUSAL_LM}};
    *objective = CB_OBJECTIVE_CAUSAL_LM;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strncmp(class, classes[i].begin, strlen(classes[i].begin)) == 0) {
            *objective = classes[i].objective;
            return true;
        }
    return false;
}

/* Adds the lines of a file. */
static bool read_labels(const char *path, cb_string_list *labels)
{
    enum { LIMIT = 1 << 24 };
    size_t length;
    char *text = cb_file_read(path, LIMIT, &length), *rest = NULL;
    bool ok = text && (strlen(text) == length || cli_refuse("%s: found a byte 0, expected lines of text", path));
    for (char *line = ok ? strtok_r(text, "\r\n", &rest) : NULL; ok && line; line = strtok_r(NULL, "\r\n", &rest))
        ok = cb_string_list_add(labels, line);
    cb_free(text);
    return ok && (labels->count || cli_refuse("%s: found no labels, expected one a line", path));
}

bool cli_task_open(cli_task *task, cli_task_settings *settings, const char *model, const char *adapter)
{
    cb_adapter_labels saved = {0};
    char class[64];
    if (settings->labels_file && (settings->labels.count ? !cli_refuse("--labels and --labels-file exclude each other")
                                                         : !read_labels(settings->labels_file, &settings->labels)))
        return false;
    cb_objective objective = cli_task_objective(cli_task_names[settings->task]);
    bool forecasts = objective == CB_OBJECTIVE_FORECASTING, reads = objective == CB_OBJECTIVE_TEXT_RECOGNITION;
    *task = (cli_task){.labelled = settings->task && !forecasts && !reads && objective != CB_OBJECTIVE_SEQ2SEQ_LM,
                       .forecasts = forecasts,
                       .asked = settings->task,
                       .objective = objective};
    task->dense_loss = settings->dense_loss;
    if (task->objective == CB_OBJECTIVE_IMAGE_GENERATION) { /* classes are told, not found: there is no head for them */
        *task = (cli_task){.objective = task->objective};
        return copy_labels(&task->labels, &settings->labels);
    }
    bool trained = adapter && cb_adapter_labels_read(adapter, &saved), ok = cb_ok() && read_class(model, class, sizeof class);
    bool other = saved.named ? saved.objective != task->objective /* else the head is all that is known */
                             : cb_objective_head(saved.objective) != cb_objective_head(task->objective);
    if (ok && trained && task->labelled && other)
        ok = cli_refuse("--task %s: %s was trained for %s", cli_task_name(task->objective), adapter, cli_task_name(saved.objective));
    if (ok && trained) {
        task->labelled = task->follows = true;
        task->objective = saved.named || !task->asked ? saved.objective : task->objective;
        task->held = saved.named ? 0 : (int64_t)saved.names.count;
        task->dense_loss = task->dense_loss ? task->dense_loss : saved.dense_loss;
    } else if (ok && !settings->task && strncmp(class, "ForPrediction", strlen("ForPrediction")) == 0) {
        task->forecasts = true;
        task->objective = CB_OBJECTIVE_FORECASTING;
    } else if (ok && !task->labelled && !task->forecasts && !task->asked) { /* which it is of texts, the model knows when it is loaded */
        task->labelled = task_of_class(class, &task->objective);
    }
    if (ok && settings->labels.count && cb_objective_numbers(task->objective))
        ok = cli_refuse("--labels: %s is of numbers, which have no labels", cli_task_name(task->objective));
    const cb_string_list none = {0}, *known = settings->labels.count ? &settings->labels : saved.named ? &saved.names : &none;
    if (ok && settings->labels.count && trained && settings->labels.count != saved.names.count)
        ok = cli_refuse("--labels: found %zu, expected %zu as %s has", settings->labels.count, saved.names.count, adapter);
    else if (ok && settings->labels.count && !task->labelled)
        ok = cli_refuse("--labels: found no --task that they are for");
    ok = ok && copy_labels(&task->labels, known);
    cb_string_list_free(&saved.names);
    return ok;
}

void cli_task_close(cli_task *task)
{
    cb_string_list_free(&task->labels);
    *task = (cli_task){0};
}

cb_dtype cli_task_dtype(const cli_call *call, const cli_task *task, int index)
{
    return task->forecasts && !cli_given(call, "dtype") ? CB_F32 : cli_dtype(index);
}

bool cli_labels_check(cli_call *call)
{
    static const char *const words[] = {"separator",     "lines",   "packing", "packing_strategy", "completion_only",
                                        "chat_template", "add_bos", "add_eos", "mlm_probability",  "whole_word_mask"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (cli_given(call, words[i])) {
            cli_refuse("%s: is for words, and has no meaning for labels, or for sources with targets", words[i]);
            cli_blame(call, words[i]);
            return false;
        }
    return true;
}

bool cli_pairs_check(cli_call *call, cb_objective objective)
{
    static const char *const pairs[] = {"source_prefix", "max_target_length"};
    for (size_t i = 0; objective != CB_OBJECTIVE_SEQ2SEQ_LM && i < sizeof pairs / sizeof *pairs; i++)
        if (cli_given(call, pairs[i])) {
            cli_refuse("%s: is of sources and targets, for models with an encoder and a decoder", pairs[i]);
            cli_blame(call, pairs[i]);
            return false;
        }
    return objective != CB_OBJECTIVE_SEQ2SEQ_LM || cli_labels_check(call);
}

/* ---- its model ---- */

/* One number, which needs no name. */
static bool is_number(cb_objective objective)
{
    return objective == CB_OBJECTIVE_REGRESSION || objective == CB_OBJECTIVE_RANKING;
}

/* A head of the model's own, whose labels and problem count where nothing else is asked. */
static bool take_own(cli_task *task, const cb_model *model, bool own)
{
    if (task->objective == CB_OBJECTIVE_CAUSAL_LM || (task->held && !task->asked))
        task->objective = cb_objective_of(model);
    bool replaced = task->asked && cli_is_of_images(task->objective); /* where the data have others */
    return task->labels.count || !own || replaced || copy_labels(&task->labels, cb_model_label_names(model));
}

cb_model *cli_task_model(cli_task *task, const char *path, bool config, uint64_t seed, cb_model_options options)
{
    static const char *const classes[] = {[CB_HEAD_SEQUENCE_CLASSIFICATION] = "ForSequenceClassification",
                                          [CB_HEAD_TOKEN_CLASSIFICATION] = "ForTokenClassification",
                                          [CB_HEAD_IMAGE_CLASSIFICATION] = "ForImageClassification",
                                          [CB_HEAD_SEMANTIC_SEGMENTATION] = "ForSemanticSegmentation",
                                          [CB_HEAD_DEPTH_ESTIMATION] = "ForDepthEstimation",
                                          [CB_HEAD_SURFACE_NORMALS] = "ForSurfaceNormals",
                                          [CB_HEAD_SALIENCY] = "ForSaliency"};
    char class[64] = "";
    if (task->labelled && !read_class(path, class, sizeof class))
        return NULL;
    cb_head_kind kind = task->objective == CB_OBJECTIVE_CAUSAL_LM ? CB_HEAD_SEQUENCE_CLASSIFICATION : cb_objective_head(task->objective);
    bool images = cli_is_of_images(task->objective);
    bool own = task->labelled && strncmp(class, classes[kind], images ? strlen(classes[kind]) : sizeof class) == 0;
    if (task->labelled && (!own || (images && task->asked) || task->labels.count || task->held || is_number(task->objective))) {
        options.head = kind;
        options.labels = is_number(task->objective) ? 1 : task->labels.count ? (int64_t)task->labels.count : task->held;
        options.head_seed = seed;
        options.head_follows = task->follows;
    }
    cb_model *model = config ? cb_model_create(path, seed, options) : cb_model_load_with(path, options);
    if (model && task->objective == CB_OBJECTIVE_IMAGE_GENERATION && !cli_is_denoiser(model)) {
        cli_refuse("--task image-generation: %s is a %s, expected a network that denoises, such as UNet2DModel", path,
                   cb_model_type(model));
        cb_model_free(model);
        return NULL;
    }
    bool ok = model && (!task->labelled || take_own(task, model, own || task->held));
    if (ok && task->forecasts != cli_takes_series(model))
        ok = task->forecasts
                 ? cli_refuse("--task forecasting: a %s model takes no series, expected one of gcgru, dlinear", cb_model_type(model))
                 : cli_refuse("%s: a %s model takes series, expected --task forecasting", path, cb_model_type(model));
    if (ok && task->objective == CB_OBJECTIVE_TEXT_RECOGNITION && !cli_recognises(model))
        ok = cli_refuse("--task text-recognition: %s is a %s, expected a model whose architectures in config.json ends with ForCTC", path,
                        cb_model_type(model));
    if (ok && task->labelled && task->labels.count)
        ok = cb_model_set_labels(model, &task->labels, cb_objective_problem(task->objective));
    if (ok && task->dense_loss && !cb_model_dense_loss(model))
        ok = cli_refuse("--dense-loss: is of numbers of the places of images, found --task %s", cli_task_name(task->objective));
    else if (ok && task->dense_loss)
        ok = cb_model_set_dense_loss(model, task->dense_loss);
    if (ok)
        return model;
    cb_model_free(model);
    return NULL;
}

bool cli_task_fit(const cli_task *task, cb_data_options *text, const cb_model *model)
{
    cb_head_kind kind = cb_model_head_kind(model);
    if (task->asked && task->objective == CB_OBJECTIVE_SEQ2SEQ_LM && kind != CB_HEAD_SEQ2SEQ_LM)
        return cli_refuse(
            "--task seq2seq: found a %s, expected a model with an encoder and a decoder, whose architectures in config.json ends "
            "with ForConditionalGeneration",
            cb_model_type(model));
    text->decoder_start = kind == CB_HEAD_SEQ2SEQ_LM ? cb_model_decoder_start(model) : 0;
    text->objective = task->labelled ? task->objective : cb_objective_of(model);
    text->labels = &task->labels;
    return task->labelled || kind == CB_HEAD_CAUSAL_LM || kind == CB_HEAD_MASKED_LM || kind == CB_HEAD_SEQ2SEQ_LM ||
           cli_refuse("%s: found a model that predicts nothing, expected --task, or one whose architectures in config.json ends with "
                      "ForCausalLM, ForMaskedLM or ForConditionalGeneration",
                      cb_model_directory(model) ? cb_model_directory(model) : "--config");
}
