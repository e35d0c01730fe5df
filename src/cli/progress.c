/* progress.c: training as `train` and `pretrain` show it: the data, the progress line, JSON lines, and the summary. */
#include <math.h>
#include <sys/stat.h>

#include "cli/cli.h"

/* ---- data ---- */

#define CORPUS cli_corpus_settings
const cb_option cli_corpus_table[] = {
    CB_OPT_LIST(CORPUS, data, NULL, "FILE,...", "text, JSONL, CSV or TSV files, directories of them, or - for standard input"),
    CB_OPT_LIST(CORPUS, validation_data, NULL, "FILE,...", "the same for validation"),
    CB_OPT_LIST(CORPUS, validation_label_maps, NULL, "DIR,...", "of segmentation: label maps of --validation-data, as --label-maps"),
    CB_OPT_FLOAT(CORPUS, validation_split, 0, 0, 0.9, "share of the documents held out for validation"), CB_OPT_END};
#undef CORPUS

void cli_fit_sequence_length(const cli_call *call, cb_data_options *text, const cb_model *model)
{
    int64_t most = cb_model_max_positions(model);
    if (text->sequence_length <= most)
        return;
    if (!cli_given(call, "sequence_length"))
        text->sequence_length = most;
    else
        cb_log_message(CB_LOG_WARNING, "--sequence-length %lld is beyond the %lld positions that the model was made for",
                       (long long)text->sequence_length, (long long)most);
}

void cli_keep_examples_whole(cb_data_options *text)
{
    if (text->packing_strategy == CB_PACKING_AUTO)
        text->packing_strategy = CB_PACKING_BFD;
}

/* Where --task asks for images, a model's own labels are not held to: with others of the data it gets a new head. */
static cb_dataset *open_images(cli_corpus_settings *s, cb_model *model, int64_t seed)
{
    const cb_string_list *known = s->task.labels.count ? &s->task.labels : cb_model_label_names(model);
    s->images.data.objective = s->task.objective;
    s->images.data.labels_may_differ = s->task.asked && !s->task.labels.count;
    cb_dataset *data = cli_images_open(&s->images, &s->data, known, seed, true);
    s->images.data.labels_may_differ = false;
    return data;
}

static bool corpus_to_make(cli_corpus *corpus, cli_corpus_settings *s, cb_model *model, int64_t seed)
{
    corpus->train = cli_images_to_make(&s->images, model, &s->data, &s->task.labels, seed, true);
    if (!corpus->train ||
        (cb_model_labels(model) && !cb_model_set_labels(model, cb_dataset_labels(corpus->train), CB_PROBLEM_SINGLE_LABEL)))
        return false;
    if (s->validation_split > 0)
        corpus->validation = cb_dataset_split(corpus->train, s->validation_split, (uint64_t)seed);
    s->images.data.spread = true;
    if (s->validation_data.count)
        corpus->validation = cli_images_to_make(&s->images, model, &s->validation_data, &s->task.labels, seed, false);
    return cb_ok();
}

static bool image_corpus(cli_corpus *corpus, cli_corpus_settings *s, cb_model *model, int64_t seed)
{
    corpus->train = open_images(s, model, seed);
    if (!corpus->train ||
        !cb_model_set_labels(model, cb_dataset_labels(corpus->train), cb_objective_problem(cb_dataset_objective(corpus->train))))
        return false;
    if (s->validation_split > 0)
        corpus->validation = cb_dataset_split(corpus->train, s->validation_split, (uint64_t)seed);
    else if (s->validation_data.count) {
        cb_string_list maps = s->images.data.label_maps;
        s->images.data.label_maps = s->validation_label_maps;
        s->images.data.spread = true; /* --eval-batches may look at some of them only */
        corpus->validation = cli_images_open(&s->images, &s->validation_data, cb_dataset_labels(corpus->train), seed, false);
        s->images.data.label_maps = maps;
    }
    return cb_ok();
}

bool cli_corpus_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, cb_model *model, const cb_tokenizer *tokenizer,
                     int64_t seed)
{
    *corpus = (cli_corpus){0};
    if (settings->validation_data.count && settings->validation_split > 0)
        return cli_usage(call, "--validation-data and --validation-split exclude each other");
    if (settings->task.labelled && !cli_labels_check(call))
        return false;
    if (cli_is_denoiser(model))
        return corpus_to_make(corpus, settings, model, seed);
    if (cli_recognises(model))
        return cli_lines_open(corpus, settings, model, seed);
    if (cli_takes_images(model))
        return image_corpus(corpus, settings, model, seed);
    if (cli_takes_series(model))
        return cli_series_corpus(corpus, &settings->series, model, seed);
    cb_data_options *text = &settings->text;
    if (!cli_task_fit(&settings->task, text, model))
        return false;
    if (!cli_pairs_check(call, text->objective))
        return false;
    cli_fit_sequence_length(call, text, model);
    text->seed = (uint64_t)seed;
    text->data = settings->data;
    corpus->train = cb_dataset_open(tokenizer, text);
    if (!corpus->train)
        return false;
    if (settings->task.labelled &&
        !cb_model_set_labels(model, cb_dataset_labels(corpus->train), cb_objective_problem(settings->task.objective)))
        return false;
    if (settings->validation_split > 0) {
        corpus->validation = cb_dataset_split(corpus->train, settings->validation_split, (uint64_t)seed);
        return corpus->validation;
    }
    if (!settings->validation_data.count)
        return true;
    cb_data_options held_out = *text;
    held_out.data = settings->validation_data;
    held_out.shuffle = false;
    cli_keep_examples_whole(&held_out);
    held_out.max_records = 0;
    held_out.labels = cb_dataset_labels(corpus->train);
    corpus->validation = cb_dataset_open(tokenizer, &held_out);
    return corpus->validation;
}

void cli_corpus_close(cli_corpus *corpus)
{
    cb_dataset_free(corpus->validation);
    cb_dataset_free(corpus->train);
    cb_ctc_vocabulary_free(corpus->vocabulary);
    *corpus = (cli_corpus){0};
}

/* ---- progress ---- */

typedef struct progress {
    const cli_call *call;
    bool terminal;
    double shown;         /* when a line was last written */
    double smoothed;      /* loss, for the eye */
    cb_evaluation before; /* the first step */
    cb_evaluation test_before, test;
    const char *unit; /* what rows are counted in */
} progress;

static const double terminal_period = 0.1, plain_period = 5;

cb_metric cli_main_metric(const cb_metrics *metrics, double loss)
{
    return metrics->count ? metrics->items[0] : (cb_metric){"perplexity", exp(loss)};
}

void cli_metrics_json(json_t *object, const char *prefix, const cb_metrics *metrics, double loss)
{
    const cb_metrics words = {.items = {cli_main_metric(metrics, loss)}, .count = 1};
    const cb_metrics *all = metrics->count ? metrics : &words;
    for (int i = 0; i < all->count; i++) {
        char *name = cb_format("%s%s", prefix, all->items[i].name);
        if (name)
            json_object_set_new(object, name, cli_real(all->items[i].value));
        cb_free(name);
    }
}

/* By metrics of its own, not by perplexity. */
static bool is_measured(const cb_dataset *data)
{
    return cb_dataset_objective(data) >= CB_OBJECTIVE_SEQUENCE_CLASSIFICATION;
}

static void json_report(const cb_train_report *r)
{
    json_t *line = json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "event", "progress", "step", (json_int_t)r->step,
                             "steps", (json_int_t)r->steps, "loss", cli_real(r->loss), "learning_rate", cli_real(r->learning_rate),
                             "grad_norm", cli_real(r->grad_norm), "tokens_per_second", cli_real(r->tokens_per_second), "seconds",
                             cli_real(r->seconds), "seconds_left", cli_real(r->seconds_left), "memory", (json_int_t)r->memory);
    if (line && r->evaluated) {
        json_object_set_new(line, "validation_loss", cli_real(r->eval_loss));
        cli_metrics_json(line, "validation_", &r->eval, r->eval_loss);
    }
    for (int i = 0; line && i < r->parts.count; i++)
        json_object_set_new(line, r->parts.items[i].name, cli_real(r->parts.items[i].value));
    if (line && r->saved)
        json_object_set_new(line, "saved", json_true());
    cli_json(line);
}

static void line_report(progress *p, const cb_train_report *r)
{
    double now = cb_now();
    bool last = r->step >= r->steps, first = p->shown == 0;
    p->smoothed = first ? r->loss : 0.9 * p->smoothed + 0.1 * r->loss;
    if (r->evaluated) {
        cli_status_clear();
        const cb_metric main = cli_main_metric(&r->eval, r->eval_loss);
        fprintf(p->terminal ? stderr : stdout, "step %lld/%lld  validation loss %.4f  %s %.*f%s\n", (long long)r->step, (long long)r->steps,
                r->eval_loss, main.name, r->eval.count ? 4 : 3, main.value, r->eval_loss <= r->best_loss ? "  best so far" : "");
    }
    if (!first && !last && now - p->shown < (p->terminal ? terminal_period : plain_period))
        return;
    p->shown = now;
    char text[256];
    snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  %s %s/s  %s  %s left  lr %.2e", (long long)r->step, (long long)r->steps,
             p->smoothed, cli_thousands((int64_t)r->tokens_per_second), p->unit, cli_bytes(r->memory), cli_seconds(r->seconds_left),
             r->learning_rate);
    if (p->terminal)
        cli_status("%s", text);
    else
        puts(text);
    fflush(stdout);
}

static void on_report(void *user, const cb_train_report *r)
{
    progress *p = user;
    if (p->call->common.json)
        json_report(r);
    else if (!p->call->common.quiet)
        line_report(p, r);
}

/* ---- the summary ---- */

/* Files of the output directory with their sizes. */
static json_t *written_files(const char *directory)
{
    cb_string_list names = {0};
    json_t *files = json_array();
    if (cb_directory_list(directory, false, &names))
        for (size_t i = 0; i < names.count; i++) {
            char *path = cb_path_join(directory, names.items[i]);
            struct stat st;
            if (path && stat(path, &st) == 0)
                json_array_append_new(files, json_pack("{s:s, s:I}", "name", names.items[i], "bytes", (json_int_t)st.st_size));
            cb_free(path);
        }
    cb_string_list_free(&names);
    return files;
}

static bool json_result(const cb_trainee *what, const cb_dataset *data, const cb_train_options *o, const cb_train_result *r,
                        const progress *p, uint64_t predicted)
{
    const cb_evaluation *before = &p->before;
    bool judged = isfinite(r->best_eval_loss), labelled = is_measured(data);
    int64_t padding = cb_dataset_padding(data);
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:I, s:b, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:o}", "event",
                             "result", "output", o->output, "parameters", (json_int_t)r->parameters, "model_parameters",
                             (json_int_t)cb_model_parameter_count(what->model), "steps", (json_int_t)r->steps, "stopped_early",
                             (int)r->stopped_early, "first_loss", cli_real(r->first_loss), "last_loss", cli_real(r->last_loss),
                             "validation_loss", judged ? cli_real(r->best_eval_loss) : json_null(), "best_step", (json_int_t)r->best_step,
                             "tokens", (json_int_t)r->tokens, "tokens_per_second", cli_real(r->tokens_per_second), "seconds",
                             cli_real(r->seconds), "peak_memory", (json_int_t)r->peak_memory, "predicted_memory", (json_int_t)predicted,
                             "step_allocations", (json_int_t)r->step_allocations, "rows", (json_int_t)cb_dataset_rows(data), "padding",
                             padding < 0 ? json_null() : json_integer((json_int_t)padding), "files", written_files(o->output));
    if (line && !labelled) {
        json_object_set_new(line, "validation_perplexity_before", before->rows ? cli_real(exp(before->loss)) : json_null());
        json_object_set_new(line, "validation_perplexity", judged ? cli_real(exp(r->best_eval_loss)) : json_null());
    } else if (line) {
        if (before->rows)
            cli_metrics_json(line, "validation_before_", &before->metrics, before->loss);
        if (r->best_eval.count)
            cli_metrics_json(line, "validation_", &r->best_eval, r->best_eval_loss);
    }
    if (line && p->test_before.rows)
        cli_metrics_json(line, "test_before_", &p->test_before.metrics, p->test_before.loss);
    if (line && p->test.rows)
        cli_metrics_json(line, "test_", &p->test.metrics, p->test.loss);
    return cli_json(line);
}

static void print_files(const char *directory)
{
    json_t *files = written_files(directory), *file;
    size_t i;
    json_array_foreach(files, i, file)
    {
        cli_field(i ? "" : "written", "%s/%s (%s)", directory, json_string_value(json_object_get(file, "name")),
                  cli_bytes((uint64_t)json_integer_value(json_object_get(file, "bytes"))));
    }
    json_decref(files);
}

static void print_validation(const cb_train_result *r, const cb_evaluation *before, bool labelled)
{
    if (!isfinite(r->best_eval_loss))
        return;
    const cb_metric after =
        labelled && !r->best_eval.count ? (cb_metric){"loss", r->best_eval_loss} : cli_main_metric(&r->best_eval, r->best_eval_loss);
    const cb_metric first = cli_main_metric(&before->metrics, before->loss);
    int digits = labelled ? 4 : 3;
    if (before->rows)
        cli_field("validation", "%s %.*f before, %.*f after (step %lld)", after.name, digits, first.value, digits, after.value,
                  (long long)r->best_step);
    else
        cli_field("validation", "%s %.*f (step %lld)", after.name, digits, after.value, (long long)r->best_step);
}

static void print_test(const cb_evaluation *before, const cb_evaluation *after)
{
    const cb_metric m = cli_main_metric(&after->metrics, after->loss), first = cli_main_metric(&before->metrics, before->loss);
    if (before->rows)
        cli_field("test", "%s %.4f before, %.4f after", m.name, first.value, m.value);
    else if (after->rows)
        cli_field("test", "%s %.4f", m.name, m.value);
}

static const char *unit_of(const cb_dataset *data)
{
    cb_objective objective = cb_dataset_objective(data);
    bool images = cli_is_of_images(objective) || objective == CB_OBJECTIVE_TEXT_RECOGNITION;
    return objective == CB_OBJECTIVE_FORECASTING ? "windows" : images ? "images" : "tokens";
}

static void print_result(const cb_trainee *what, const cb_dataset *data, const cb_train_options *o, const cb_train_result *r,
                         const progress *p, uint64_t predicted)
{
    bool labelled = is_measured(data);
    int64_t all = cb_model_parameter_count(what->model);
    double share = 100 * (double)r->parameters / (double)(all > 0 ? all : 1);
    cli_field("parameters trained", "%s (%.*f %% of the model's %s)", cli_thousands(r->parameters), share < 1 ? 3 : 1, share,
              cli_thousands(all));
    cli_field("steps", "%lld%s", (long long)r->steps, r->stopped_early ? ", stopped early" : "");
    cli_field("loss", "%.4f at the first step, %.4f at the last", r->first_loss, r->last_loss);
    print_validation(r, &p->before, labelled);
    print_test(&p->test_before, &p->test);
    int64_t padding = cb_dataset_padding(data), positions = cb_dataset_rows(data) * cb_dataset_row_length(data);
    if (padding >= 0)
        cli_field("padding", "%.2f %% of the positions in %s rows", 100 * (double)padding / (double)positions,
                  cli_thousands(cb_dataset_rows(data)));
    cli_field("speed", "%s %s/s over %s", cli_thousands((int64_t)r->tokens_per_second), unit_of(data), cli_thousands(r->tokens));
    cli_field("time", "%s", cli_seconds(r->seconds));
    cli_field("peak memory", "%s; predicted were %s", cli_bytes(r->peak_memory), cli_bytes(predicted));
    print_files(o->output);
}

static bool test(const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *o, cb_evaluation *result)
{
    bool ok = !corpus->test || cb_train_evaluate(what, corpus->test, o->batch_size, 0, result);
    cb_predictions_free(&result->predictions);
    return ok;
}

bool cli_train_run(cli_call *call, const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *options)
{
    progress p = {.call = call, .terminal = cli_terminal_width(2) > 0, .unit = unit_of(corpus->train)};
    cb_train_result result = {0};
    bool first = cb_parallel_rank() == 0; /* of several processes the one that writes, and so the one that tries outputs */
    if (cb_rehearsing())
        return !first || cli_train_plan(call, what, corpus, options);
    if (!corpus->validation && (options->eval_steps || options->early_stopping_patience))
        cb_log_message(CB_LOG_WARNING, "--%s has no effect without --validation-data or --validation-split",
                       options->eval_steps ? "eval-steps" : "early-stopping-patience");
    uint64_t predicted = first ? cli_train_predict(what, corpus, options) : 0;
    if (!cb_ok())
        return false;
    if (corpus->validation && !options->resume) {
        if (!call->common.json && !call->common.quiet)
            cli_status("validating before the first step");
        bool judged = cb_train_evaluate(what, corpus->validation, options->batch_size, options->eval_batches, &p.before);
        cb_predictions_free(&p.before.predictions);
        if (!judged)
            return false;
    }
    bool ok = (options->resume || test(what, corpus, options, &p.test_before)) &&
              cb_train(what, corpus->train, corpus->validation, options, on_report, &p, &result) && test(what, corpus, options, &p.test);
    cli_status_clear();
    if (!ok)
        return false;
    if (call->common.json)
        return json_result(what, corpus->train, options, &result, &p, predicted);
    print_result(what, corpus->train, options, &result, &p, predicted);
    return true;
}
