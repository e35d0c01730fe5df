/* eval.c: `cambium eval`: how well a model, with any adapters, does on a task.  A task is a row of the table below. */
#include "cli/cli.h"

typedef struct settings {
    char *tokenizer;
    cb_string_list data, adapter;
    int task, dtype;
    int64_t batch_size, max_batches;
    bool dry_run;
    cb_data_options text;
} settings;

/* ---- tasks ---- */

static bool perplexity(cli_call *call, settings *s, const cli_base *base)
{
    s->text.data = s->data;
    s->text.shuffle = false;
    cli_keep_examples_whole(&s->text);
    cli_fit_sequence_length(call, &s->text, base->model);
    cb_dataset *data = cb_dataset_open(base->tokenizer, &s->text);
    cb_perplexity_result r = {0};
    bool ok = data && cb_evaluate_perplexity(base->model, data, s->batch_size, s->max_batches, &r);
    cb_dataset_free(data);
    if (!ok || cb_rehearsing())
        return ok;
    double rate = r.seconds > 0 ? (double)r.tokens / r.seconds : 0;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:o, s:I}", "task", "perplexity", "model",
                                  cb_model_directory(base->model), "loss", cli_real(r.loss), "perplexity", cli_real(r.perplexity),
                                  "bits_per_byte", cli_real(r.bits_per_byte), "tokens", (json_int_t)r.tokens, "seconds",
                                  cli_real(r.seconds), "tokens_per_second", cli_real(rate), "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("perplexity", "%.4f", r.perplexity);
    cli_field("loss", "%.6f nats per token", r.loss);
    cli_field("bits per byte", "%.4f", r.bits_per_byte);
    cli_field("tokens predicted", "%s", cli_thousands(r.tokens));
    cli_field("time", "%s (%s tokens/s)", cli_seconds(r.seconds), cli_thousands((int64_t)rate));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

/* The names stand in the option table, in this order. */
static const char *const task_names[] = {"perplexity", NULL};
static bool (*const tasks[])(cli_call *call, settings *s, const cli_base *base) = {perplexity};

/* ---- the command ---- */

static const cb_option table[] = {
    CB_OPT_ENUM(settings, task, 0, task_names, "what is measured"),
    CB_OPT_LIST(settings, data, NULL, "FILE,...", "text, JSONL, CSV or TSV files, directories of them, or - for standard input"),
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to attach, each with an optional =weight; may be given again"),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "tokenizer.json or its directory; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed"),
    CB_OPT_INT(settings, batch_size, 4, 1, 65536, "rows per forward pass"),
    CB_OPT_INT(settings, max_batches, 0, 0, 1e12, "forward passes at most; 0: all of the data"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP),
    CB_OPT_END};

static const cli_group groups[] = {{"Task", table, 0}, {"Data", cb_data_option_table, offsetof(settings, text)}, {0}};

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    cli_base base = {0};
    cli_rehearsal rehearsal;
    bool ok = (!s->dry_run || cli_rehearsal_begin(&rehearsal, NULL)) &&
              cli_base_open(&base, call->arguments[0], &s->adapter, cli_dtype(s->dtype)) &&
              (base.tokenizer = cli_tokenizer(s->tokenizer, base.model)) && tasks[s->task](call, s, &base);
    cli_base_close(&base);
    return s->dry_run ? cli_plan(call, &rehearsal, ok) : ok;
}

const cli_command cli_eval = {
    .name = "eval",
    .summary = "measure a model, with any adapters, on a task",
    .synopsis = "MODEL_DIR [--adapter DIR[=weight]]... --task perplexity --data FILE [options]",
    .description = "Perplexity is exp of the mean cross-entropy per predicted token, over rows of --sequence-length tokens that do not "
                   "overlap; a longer row gives the model more to go on. Bits per byte do not depend on the tokenizer.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"data", NULL},
    .examples = (const char *const[]){"cambium eval models/base --task perplexity --data held-out.txt",
                                      "cambium eval models/base --adapter out/adapter --task perplexity --data held-out.txt --json", NULL},
    .run = run};
