/* pretrain.c: `cambium pretrain`: a whole model, from random weights or going on from a model directory. */

#include "cli/cli.h"

typedef struct settings {
    char *config, *model, *adapter, *tokenizer, *output, *distill_model;
    double distill_weight, exit_weight;
    int dtype, save_dtype;
    int64_t seed;
    bool dry_run;
    cli_corpus_settings corpus;
    cb_train_options train;
    cli_diffusion_settings diffusion;
} settings;

static const char *const save_dtype_names[] = {"f32", "bf16", "f16", NULL};
static const cb_dtype save_dtypes[] = {CB_F32, CB_BF16, CB_F16};

static const cb_option table[] = {
    CB_OPT_STRING(settings, config, NULL, "CONFIG_JSON", "config.json of the model to make"),
    CB_OPT_STRING(settings, model, NULL, "DIR", "model to go on training, instead of --config"),
    CB_OPT_STRING(settings, adapter, NULL, "DIR", "adapter that is trained together with --model, and saved in the output under its name"),
    CB_OPT_STRING(settings, tokenizer, NULL, "TOKENIZER_JSON",
                  "tokenizer.json or its directory, of text recognition vocab.json; with --model the model's own"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "the model, checkpoints and records of the run"),
    CB_OPT_ENUM(settings, dtype, 0, cli_dtype_names, "how activations are kept and products are computed; weights are f32 while training"),
    CB_OPT_ENUM(settings, save_dtype, 0, save_dtype_names, "how weights are written to model.safetensors"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of initial values and of the order of the data"),
    CLI_DRY_RUN(settings, CLI_PLAN_HELP),
    CB_OPT_END};

static const cb_option distill_table[] = {
    CB_OPT_STRING(settings, distill_model, NULL, "DIR",
                  "teacher of the same vocabulary, whose next-token probabilities the model is drawn to"),
    CB_OPT_FLOAT(settings, distill_weight, 1, 0, 1e6, "of the divergence from the teacher, beside the cross-entropy"),
    CB_OPT_FLOAT(settings, exit_weight, 0, 0, 1e6,
                 "recursive models: of the divergence of each earlier round from the last, for early exits"),
    CB_OPT_END};

static const cli_group groups[] = {
    {"Run", table, 0},
    {"Task", cli_task_table, offsetof(settings, corpus.asked)},
    {"Distillation", distill_table, 0},
    {"Data", cli_corpus_table, offsetof(settings, corpus)},
    {"Rows", cb_data_option_table, offsetof(settings, corpus.text)},
    {"Images", cli_image_table, offsetof(settings, corpus.images)},
    {"Images as rows", cb_image_data_option_table, offsetof(settings, corpus.images.data)},
    {"Augmentation of images", cb_augment_option_table, offsetof(settings, corpus.images.augment)},
    {"Series of numbers", cb_series_option_table, offsetof(settings, corpus.series.data)},
    {"Their graph", cli_graph_table, offsetof(settings, corpus.series)},
    {"What is learned of them", cb_forecast_option_table, offsetof(settings, corpus.series.learning)},
    {"Training", cb_train_option_table, offsetof(settings, train)},
    {"Making images", cb_diffusion_option_table, offsetof(settings, diffusion.training.options)},
    {"Noise, of networks without scheduler_config.json", cb_noise_option_table, offsetof(settings, diffusion.noise)},
    {0}};

/* ---- the command ---- */

static bool distill(const settings *s, cb_trainee *what, cb_distillation *d)
{
    if (!s->distill_model && s->exit_weight <= 0)
        return true;
    d->weight = s->distill_weight;
    d->exit_weight = s->exit_weight;
    d->teacher = s->distill_model ? cb_model_load(s->distill_model, .dtype = cli_dtype(s->dtype)) : NULL;
    return cb_ok() && cb_train_distill(what, d);
}

/* What is made ready beside the model: text by a tokenizer, images or series by what is stored with it, or found out. */
static bool ready(cli_call *call, settings *s, cb_model *model, const cb_tokenizer *tokenizer)
{
    if (cli_takes_images(model))
        return cli_images_ready(&s->corpus.images, model, s->config ? s->config : s->model, NULL);
    return cli_takes_series(model) ? cli_series_ready(call, &s->corpus.series, &s->corpus.data, model, s->model) : tokenizer != NULL;
}

static bool pretrain(cli_call *call, settings *s, cb_model *model)
{
    const char *path = s->tokenizer ? s->tokenizer : s->model;
    s->corpus.vocabulary = path;
    bool images = cli_takes_images(model), series = cli_takes_series(model);
    cb_tokenizer *tokenizer = images || series ? NULL : cli_tokenizer(path, model);
    cb_forecast_training forecasting = {.model = model, .processor = &s->corpus.series.processor, .options = s->corpus.series.learning};
    cli_corpus corpus = {0};
    cb_trainee what = {0};
    cb_distillation distillation = {0};
    cb_adapter *adapter = s->adapter && cb_ok() ? cb_adapter_load(s->adapter, cb_model_root(model), cb_model_type(model)) : NULL;
    bool ok = cb_ok() && ready(call, s, model, tokenizer) && cb_ok() &&
              cli_corpus_open(&corpus, call, &s->corpus, model, tokenizer, s->seed) &&
              cb_train_whole(&what, model, adapter, tokenizer, cli_recognises(model) ? NULL : path, save_dtypes[s->save_dtype]) &&
              distill(s, &what, &distillation) && (!series || cb_train_forecasting(&what, &forecasting)) &&
              cli_diffusion_train(call, &s->diffusion, &what, s->config ? s->config : s->model, NULL) &&
              cli_train_run(call, &what, &corpus, &s->train);
    ok = ok && (!images || s->dry_run || cli_images_save(&s->corpus.images, s->output));
    ok = ok && (s->dry_run || cli_lines_save(&corpus, s->output));
    cli_diffusion_close(&s->diffusion);
    cb_train_whole_free(&what);
    cb_model_free(distillation.teacher);
    cb_adapter_free(adapter);
    cli_corpus_close(&corpus);
    cli_series_close(&s->corpus.series);
    cb_tokenizer_free(tokenizer);
    return ok;
}

/* Labels may be asked for, or be what the model or the adapter is for. */
static bool check_task(const settings *s)
{
    bool distils = s->distill_model || s->exit_weight > 0;
    return !distils || (!s->corpus.task.labelled && !s->corpus.task.forecasts) ||
           cli_refuse("--%s is for models of words, found another one", s->distill_model ? "distill-model" : "exit-weight");
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    s->train.output = s->output;
    s->train.seed = (uint64_t)s->seed;
    cb_objective asked = cli_task_objective(cli_task_names[s->corpus.asked.task]);
    if (asked >= CB_OBJECTIVE_RETRIEVAL && asked < CB_OBJECTIVE_FORECASTING)
        return cli_usage(call, "--task %s is one of cambium train", cli_task_names[s->corpus.asked.task]);
    if (!s->config == !s->model)
        return cli_usage(call, "expected either --config or --model");
    if (s->adapter && !s->model)
        return cli_usage(call, "--adapter goes with --model");
    if (s->config && !s->tokenizer && !cli_is_of_images(asked) && asked != CB_OBJECTIVE_FORECASTING)
        return cli_usage(call, "--tokenizer is needed with --config");
    if (!cli_output_directory(s->output, s->model) || !cli_output_apart(s->output, &s->corpus) || !cb_train_check_output(&s->train))
        return false;
    if (s->dry_run)
        cb_rehearsal_begin();
    cli_task *task = &s->corpus.task;
    const char *path = s->config ? s->config : s->model;
    bool opened = cli_task_open(task, &s->corpus.asked, path, s->adapter) && check_task(s) && cli_series_check(call, task->forecasts);
    cb_model_options options = {.dtype = cli_task_dtype(call, task, s->dtype), .keep_weights = true};
    cb_model *model = opened ? cli_task_model(task, path, s->config, (uint64_t)s->seed, options) : NULL;
    bool ok = model && pretrain(call, s, model);
    cb_model_free(model);
    cli_task_close(task);
    cb_rehearsal_end();
    return ok;
}

const cli_command cli_pretrain = {
    .name = "pretrain",
    .summary = "train a whole model, from scratch or from a model directory",
    .synopsis = "(--config CONFIG_JSON [--tokenizer TOKENIZER_JSON] | --model DIR) --data FILE,... --output DIR [options]",
    .description = "Every weight is trained. The output is a model directory in the Hugging Face layout, with its tokenizer; "
                   "checkpoints, records and --resume are as for `cambium train`. With --task forecasting series of numbers are learned "
                   "(docs/forecasting.md).",
    .settings_size = sizeof(settings),
    .parallel = true,
    .groups = groups,
    .required = (const char *const[]){"data", "output", NULL},
    .examples =
        (const char *const[]){"cambium pretrain --task forecasting --config gcgru.json --data speeds.csv --adjacency roads.csv --output "
                              "models/speeds --epochs 20 --batch-size 16 --learning-rate 3e-3",
                              "cambium pretrain --config config.json --tokenizer tokenizer.json --data texts/ --output models/new "
                              "--steps 5000 --batch-size 16 --sequence-length 256 --learning-rate 1e-3 --warmup-ratio 0.05",
                              "cambium pretrain --model models/base --data texts/ --output models/further --learning-rate 1e-4", NULL},
    .run = run};
