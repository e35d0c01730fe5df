/* train.c: `cambium train`: an adapter for a frozen model, from files to files. */

#include "cli/cli.h"

typedef struct settings {
    char *output, *kind, *adapter, *tokenizer;
    int dtype;
    int64_t seed;
    bool dry_run;
    cli_corpus_settings corpus;
    cb_train_options train;
    cb_start_options start;
} settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, output, NULL, "DIR", "the adapter, checkpoints and records of the run"),
    CB_OPT_STRING(settings, kind, CLI_DEFAULT_KIND, "NAME", "adapter kind"),
    CB_OPT_STRING(settings, adapter, NULL, "DIR", "adapter to go on training, instead of a new one"),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "tokenizer.json or its directory; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 0, cli_dtype_names, "how activations are kept and products are computed; what is trained is f32"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of initial values, order of the data and dropout"),
    CLI_DRY_RUN(settings, CLI_PLAN_HELP),
    CB_OPT_END};

static const cli_group groups[] = {{"Run", table, 0},
                                   {"Data", cli_corpus_table, offsetof(settings, corpus)},
                                   {"Rows", cb_data_option_table, offsetof(settings, corpus.text)},
                                   {"Training", cb_train_option_table, offsetof(settings, train)},
                                   {"Starts that are worked out first", cb_start_option_table, offsetof(settings, start)},
                                   {0}};

/* A new adapter with the options of the command line. */
static cb_adapter *configure(cli_call *call, const settings *s)
{
    cb_adapter *adapter = cb_adapter_new(s->kind, "default");
    bool ok = adapter;
    if (!ok)
        cli_blame(call, "kind");
    for (size_t i = 0; ok && i < call->adapter_count; i++) {
        ok = cb_adapter_set(adapter, call->adapter[i].name, call->adapter[i].value);
        if (!ok)
            cli_blame(call, call->adapter[i].name);
    }
    if (ok)
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

/* Attaches a new adapter, or loads the one to go on with.  One whose start is worked out first waits for the data; that its options hit
 * layers is known before. */
static cb_adapter *attach(const settings *s, cb_adapter *fresh, cb_model *model)
{
    cb_layer **layers;
    size_t count;
    if (!fresh)
        return cb_adapter_load(s->adapter, cb_model_root(model), cb_model_type(model));
    if (!cb_adapter_needs_study(fresh))
        return cb_adapter_attach(fresh, cb_model_root(model), cb_model_type(model), (uint64_t)s->seed) ? fresh : NULL;
    if (!cb_adapter_match(fresh, cb_model_root(model), cb_model_type(model), &layers, &count))
        return NULL;
    cb_free(layers);
    return fresh;
}

static void on_start(void *user, int64_t batch, int64_t most)
{
    const cli_call *call = user;
    if (!call->common.json && !call->common.quiet)
        cli_status("looking at the data before the first step: batch %lld, at most %lld", (long long)batch, (long long)most);
}

/* Attaches what waited for the data. */
static bool prepare(cli_call *call, settings *s, cb_model *model, cb_adapter *adapter, cb_dataset *data)
{
    cb_named_tensor const *parameters;
    if (cb_adapter_parameters(adapter, &parameters))
        return true;
    s->start.callback = on_start;
    s->start.user = call;
    bool ok = cb_train_attach(model, adapter, data, &s->train, &s->start);
    cli_status_clear();
    return ok;
}

static bool train(cli_call *call, settings *s, cb_model *model, cb_adapter *adapter)
{
    cb_tokenizer *tokenizer = cli_tokenizer(s->tokenizer, model);
    cli_corpus corpus = {0};
    bool ok = tokenizer && cli_corpus_open(&corpus, call, &s->corpus, model, tokenizer, s->seed) &&
              prepare(call, s, model, adapter, corpus.train);
    if (ok) {
        cb_trainee what = cb_train_adapter(model, adapter);
        ok = cli_train_run(call, &what, &corpus, &s->train);
    }
    cli_corpus_close(&corpus);
    cb_tokenizer_free(tokenizer);
    return ok;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    s->train.output = s->output;
    s->train.seed = (uint64_t)s->seed;
    if (s->adapter && (call->adapter_count || cli_given(call, "kind")))
        return cli_usage(call, "--adapter goes on with an adapter as it is, so --%s cannot be given",
                         call->adapter_count ? call->adapter[0].name : "kind");
    cb_adapter *fresh = s->adapter ? NULL : configure(call, s);
    if ((!fresh && !s->adapter) || !cli_output_directory(s->output, call->arguments[0]) || !cli_output_apart(s->output, &s->corpus) ||
        !cb_train_check_output(&s->train)) {
        cb_adapter_free(fresh);
        return false;
    }
    if (s->dry_run)
        cb_rehearsal_begin();
    cb_model *model = cb_model_load(call->arguments[0], .dtype = cli_dtype(s->dtype));
    cb_adapter *adapter = model ? attach(s, fresh, model) : NULL;
    bool ok = adapter && train(call, s, model, adapter);
    cb_adapter_free(adapter ? adapter : fresh);
    cb_model_free(model);
    cb_rehearsal_end();
    return ok;
}

const cli_command cli_train = {
    .name = "train",
    .summary = "fine-tune a model with an adapter",
    .synopsis = "MODEL_DIR --data FILE,... --output DIR [options]",
    .description = "The model stays frozen and is used in place; what is trained is written as a PEFT adapter directory. With validation "
                   "data the adapter that did best on it is the one kept. The output directory also holds checkpoint.safetensors, "
                   "log.jsonl, TensorBoard events and curves.png; --resume goes on from the checkpoint and ends with the same bits as a "
                   "run that was never interrupted.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .parallel = true,
    .groups = groups,
    .adapter_options = true,
    .required = (const char *const[]){"data", "output", NULL},
    .examples = (const char *const[]){"cambium train models/base --data notes.txt --output out/adapter --rank 8 --alpha 16 "
                                      "--target-modules all-linear --steps 200 --batch-size 4 --sequence-length 256 "
                                      "--learning-rate 1e-3 --seed 1",
                                      "cambium train models/base --data chats.jsonl --validation-split 0.1 --eval-steps 50 --save-steps 50 "
                                      "--output out/adapter --resume",
                                      NULL},
    .run = run};
