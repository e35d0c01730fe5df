/* progress.c: training as `train` and `pretrain` show it: the data, the progress line, JSON lines, and the summary. */
#include <math.h>
#include <sys/stat.h>

#include "cli/cli.h"

/* ---- data ---- */

#define CORPUS cli_corpus_settings
const cb_option cli_corpus_table[] = {
    CB_OPT_LIST(CORPUS, data, NULL, "FILE,...", "text, JSONL, CSV or TSV files, directories of them, or - for standard input"),
    CB_OPT_LIST(CORPUS, validation_data, NULL, "FILE,...", "the same for validation"),
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

bool cli_fit_objective(cb_data_options *text, const cb_model *model)
{
    cb_head_kind kind = cb_model_head_kind(model);
    text->masked = kind == CB_HEAD_MASKED_LM;
    return text->masked || kind == CB_HEAD_CAUSAL_LM ||
           cli_refuse("%s: found a model that predicts no words, expected one whose architectures in config.json ends with ForCausalLM or "
                      "ForMaskedLM",
                      cb_model_directory(model) ? cb_model_directory(model) : "--config");
}

void cli_keep_examples_whole(cb_data_options *text)
{
    if (text->packing_strategy == CB_PACKING_AUTO)
        text->packing_strategy = CB_PACKING_BFD;
}

bool cli_corpus_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, const cb_model *model,
                     const cb_tokenizer *tokenizer, int64_t seed)
{
    *corpus = (cli_corpus){0};
    if (settings->validation_data.count && settings->validation_split > 0)
        return cli_usage(call, "--validation-data and --validation-split exclude each other");
    cb_data_options *text = &settings->text;
    if (!cli_fit_objective(text, model))
        return false;
    cli_fit_sequence_length(call, text, model);
    text->seed = (uint64_t)seed;
    text->data = settings->data;
    corpus->train = cb_dataset_open(tokenizer, text);
    if (!corpus->train)
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
    corpus->validation = cb_dataset_open(tokenizer, &held_out);
    return corpus->validation;
}

void cli_corpus_close(cli_corpus *corpus)
{
    cb_dataset_free(corpus->validation);
    cb_dataset_free(corpus->train);
    *corpus = (cli_corpus){0};
}

/* ---- progress ---- */

typedef struct progress {
    const cli_call *call;
    bool terminal;
    double shown;    /* when a line was last written */
    double smoothed; /* loss, for the eye */
    double first_perplexity;
} progress;

static const double terminal_period = 0.1, plain_period = 5;

static void json_report(const cb_train_report *r)
{
    json_t *line = json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "event", "progress", "step", (json_int_t)r->step,
                             "steps", (json_int_t)r->steps, "loss", cli_real(r->loss), "learning_rate", cli_real(r->learning_rate),
                             "grad_norm", cli_real(r->grad_norm), "tokens_per_second", cli_real(r->tokens_per_second), "seconds",
                             cli_real(r->seconds), "seconds_left", cli_real(r->seconds_left), "memory", (json_int_t)r->memory);
    if (line && r->evaluated) {
        json_object_set_new(line, "validation_loss", cli_real(r->eval_loss));
        json_object_set_new(line, "validation_perplexity", cli_real(exp(r->eval_loss)));
    }
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
        fprintf(p->terminal ? stderr : stdout, "step %lld/%lld  validation loss %.4f  perplexity %.3f%s\n", (long long)r->step,
                (long long)r->steps, r->eval_loss, exp(r->eval_loss), r->eval_loss <= r->best_loss ? "  best so far" : "");
    }
    if (!first && !last && now - p->shown < (p->terminal ? terminal_period : plain_period))
        return;
    p->shown = now;
    char text[256];
    snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  %s tokens/s  %s  %s left  lr %.2e", (long long)r->step, (long long)r->steps,
             p->smoothed, cli_thousands((int64_t)r->tokens_per_second), cli_bytes(r->memory), cli_seconds(r->seconds_left),
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
                        double first_perplexity, uint64_t predicted)
{
    bool judged = isfinite(r->best_eval_loss);
    return cli_json(json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o}", "event", "result",
        "output", o->output, "parameters", (json_int_t)r->parameters, "model_parameters", (json_int_t)cb_model_parameter_count(what->model),
        "steps", (json_int_t)r->steps, "stopped_early", (int)r->stopped_early, "first_loss", cli_real(r->first_loss), "last_loss",
        cli_real(r->last_loss), "validation_perplexity_before", cli_real(first_perplexity), "validation_loss",
        judged ? cli_real(r->best_eval_loss) : json_null(), "validation_perplexity",
        judged ? cli_real(exp(r->best_eval_loss)) : json_null(), "best_step", (json_int_t)r->best_step, "tokens", (json_int_t)r->tokens,
        "tokens_per_second", cli_real(r->tokens_per_second), "seconds", cli_real(r->seconds), "peak_memory", (json_int_t)r->peak_memory,
        "predicted_memory", (json_int_t)predicted, "step_allocations", (json_int_t)r->step_allocations, "rows",
        (json_int_t)cb_dataset_rows(data), "padding", (json_int_t)cb_dataset_padding(data), "files", written_files(o->output)));
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

static void print_result(const cb_trainee *what, const cb_dataset *data, const cb_train_options *o, const cb_train_result *r,
                         double first_perplexity, uint64_t predicted)
{
    int64_t all = cb_model_parameter_count(what->model);
    double share = 100 * (double)r->parameters / (double)(all > 0 ? all : 1);
    cli_field("parameters trained", "%s (%.*f %% of the model's %s)", cli_thousands(r->parameters), share < 1 ? 3 : 1, share,
              cli_thousands(all));
    cli_field("steps", "%lld%s", (long long)r->steps, r->stopped_early ? ", stopped early" : "");
    cli_field("loss", "%.4f at the first step, %.4f at the last", r->first_loss, r->last_loss);
    if (isfinite(r->best_eval_loss) && isfinite(first_perplexity))
        cli_field("validation", "perplexity %.3f before, %.3f after (step %lld)", first_perplexity, exp(r->best_eval_loss),
                  (long long)r->best_step);
    else if (isfinite(r->best_eval_loss))
        cli_field("validation", "perplexity %.3f (step %lld)", exp(r->best_eval_loss), (long long)r->best_step);
    int64_t padding = cb_dataset_padding(data), positions = cb_dataset_rows(data) * cb_dataset_row_length(data);
    cli_field("padding", "%.2f %% of the positions in %s rows", 100 * (double)padding / (double)positions,
              cli_thousands(cb_dataset_rows(data)));
    cli_field("speed", "%s tokens/s over %s tokens", cli_thousands((int64_t)r->tokens_per_second), cli_thousands(r->tokens));
    cli_field("time", "%s", cli_seconds(r->seconds));
    cli_field("peak memory", "%s; predicted were %s", cli_bytes(r->peak_memory), cli_bytes(predicted));
    print_files(o->output);
}

bool cli_train_run(cli_call *call, const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *options)
{
    progress p = {.call = call, .terminal = cli_terminal_width(2) > 0, .first_perplexity = NAN};
    cb_train_result result = {0};
    cb_perplexity_result before = {0};
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
        if (!cb_evaluate_perplexity(what->model, corpus->validation, options->batch_size, options->eval_batches, &before))
            return false;
        p.first_perplexity = before.perplexity;
    }
    bool ok = cb_train(what, corpus->train, corpus->validation, options, on_report, &p, &result);
    cli_status_clear();
    if (!ok)
        return false;
    if (call->common.json)
        return json_result(what, corpus->train, options, &result, p.first_perplexity, predicted);
    print_result(what, corpus->train, options, &result, p.first_perplexity, predicted);
    return true;
}
