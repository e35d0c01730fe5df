/* pretrain.c: `cambium pretrain`: a whole model, from random weights or going on from a model directory. */

#include "cli/cli.h"

typedef struct settings {
    char *config, *model, *tokenizer, *output;
    int dtype, save_dtype;
    int64_t seed;
    bool dry_run;
    cli_corpus_settings corpus;
    cb_train_options train;
} settings;

static const char *const save_dtype_names[] = {"f32", "bf16", "f16", NULL};
static const cb_dtype save_dtypes[] = {CB_F32, CB_BF16, CB_F16};

static const cb_option table[] = {
    CB_OPT_STRING(settings, config, NULL, "CONFIG_JSON", "config.json of the model to make"),
    CB_OPT_STRING(settings, model, NULL, "DIR", "model to go on training, instead of --config"),
    CB_OPT_STRING(settings, tokenizer, NULL, "TOKENIZER_JSON", "tokenizer.json or its directory; with --model the model's own"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "the model, checkpoints and records of the run"),
    CB_OPT_ENUM(settings, dtype, 0, cli_dtype_names, "how activations are kept and products are computed; weights are f32 while training"),
    CB_OPT_ENUM(settings, save_dtype, 0, save_dtype_names, "how weights are written to model.safetensors"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of initial values and of the order of the data"),
    CLI_DRY_RUN(settings, CLI_PLAN_HELP),
    CB_OPT_END};

static const cli_group groups[] = {{"Run", table, 0},
                                   {"Data", cli_corpus_table, offsetof(settings, corpus)},
                                   {"Rows", cb_data_option_table, offsetof(settings, corpus.text)},
                                   {"Training", cb_train_option_table, offsetof(settings, train)},
                                   {0}};

/* ---- every weight as a parameter ---- */

typedef struct parameter_list {
    cb_named_tensor *items;
    size_t count, capacity;
} parameter_list;

/* A layer's own weights, made trainable where they are frozen.  A tied layer has none of its own. */
static bool collect(void *user, cb_layer *layer)
{
    parameter_list *list = user;
    for (int i = 0; i < layer->weight_count; i++) {
        const char *name = layer->weights[i].name;
        if (!layer->weights[i].tensor->requires_grad && !cb_layer_train_copy(layer, name, CB_F32, true))
            return false;
        if (!cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items))
            return false;
        char *whole = cb_format("%s.%s", layer->name, name);
        if (!whole)
            return false;
        list->items[list->count++] = (cb_named_tensor){whole, layer->weights[i].tensor};
    }
    return true;
}

static void parameters_free(parameter_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        cb_free((void *)(uintptr_t)list->items[i].name);
    cb_free(list->items);
}

/* ---- saving ---- */

typedef struct saver {
    const cb_tokenizer *tokenizer;
    const char *tokenizer_path; /* a directory's other tokenizer files are carried over */
    cb_dtype dtype;
} saver;

static bool copy_beside(const char *from, const char *to, const char *name)
{
    char *source = cb_path_join(from, name), *target = cb_path_join(to, name), *bytes = NULL;
    size_t length = 0;
    bool ok = source && target;
    if (ok && cb_is_file(source)) {
        bytes = cb_file_read(source, (size_t)1 << 26, &length);
        ok = bytes && cb_file_write(target, bytes, length);
    }
    cb_free(bytes);
    cb_free(source);
    cb_free(target);
    return ok;
}

/* Templates with names of their own. */
static bool copy_templates(const char *from, const char *to)
{
    static const char folder[] = "additional_chat_templates";
    char *source = cb_path_join(from, folder), *target = cb_path_join(to, folder);
    cb_string_list names = {0};
    bool ok = source && target;
    if (ok && cb_is_directory(source))
        ok = cb_directory_list(source, false, &names) && cb_directory_make(target);
    for (size_t i = 0; ok && i < names.count; i++)
        ok = !cb_ends_with(names.items[i], ".jinja") || copy_beside(source, target, names.items[i]);
    cb_string_list_free(&names);
    cb_free(source);
    cb_free(target);
    return ok;
}

static bool save(const cb_trainee *what, const char *directory)
{
    static const char *const beside[] = {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
                                         "generation_config.json"};
    const saver *s = what->user;
    char *path = cb_path_join(directory, "tokenizer.json");
    bool ok = path && cb_tokenizer_save(s->tokenizer, path);
    cb_free(path);
    for (size_t i = 0; ok && i < sizeof beside / sizeof *beside && cb_is_directory(s->tokenizer_path); i++)
        ok = copy_beside(s->tokenizer_path, directory, beside[i]);
    ok = ok && (!cb_is_directory(s->tokenizer_path) || copy_templates(s->tokenizer_path, directory));
    return ok && cb_model_save(what->model, directory, s->dtype);
}

/* ---- the command ---- */

static bool pretrain(cli_call *call, settings *s, cb_model *model)
{
    const char *path = s->tokenizer ? s->tokenizer : s->model;
    cb_tokenizer *tokenizer = cli_tokenizer(path, model);
    parameter_list list = {0};
    cli_corpus corpus = {0};
    saver saving = {tokenizer, path, save_dtypes[s->save_dtype]};
    cb_trainee what = {.model = model, .save = save, .user = &saving};
    bool ok = tokenizer && cli_corpus_open(&corpus, call, &s->corpus, model, tokenizer, s->seed) &&
              cb_layer_visit(cb_model_root(model), collect, &list);
    what.parameters = list.items;
    what.count = list.count;
    ok = ok && cli_train_run(call, &what, &corpus, &s->train);
    parameters_free(&list);
    cli_corpus_close(&corpus);
    cb_tokenizer_free(tokenizer);
    return ok;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    s->train.output = s->output;
    s->train.seed = (uint64_t)s->seed;
    if (!s->config == !s->model)
        return cli_usage(call, "expected either --config or --model");
    if (s->config && !s->tokenizer)
        return cli_usage(call, "--tokenizer is needed with --config");
    if (!cli_output_directory(s->output, s->model) || !cli_output_apart(s->output, &s->corpus) || !cb_train_check_output(&s->train))
        return false;
    if (s->dry_run)
        cb_rehearsal_begin();
    cb_model_options options = {.dtype = cli_dtype(s->dtype), .keep_weights = true};
    cb_model *model = s->config ? cb_model_create(s->config, (uint64_t)s->seed, options) : cb_model_load_with(s->model, options);
    bool ok = model && pretrain(call, s, model);
    cb_model_free(model);
    cb_rehearsal_end();
    return ok;
}

const cli_command cli_pretrain = {
    .name = "pretrain",
    .summary = "train a whole model, from scratch or from a model directory",
    .synopsis = "(--config CONFIG_JSON --tokenizer TOKENIZER_JSON | --model DIR) --data FILE,... --output DIR [options]",
    .description = "Every weight is trained. The output is a model directory in the Hugging Face layout, with its tokenizer; "
                   "checkpoints, records and --resume are as for `cambium train`.",
    .settings_size = sizeof(settings),
    .parallel = true,
    .groups = groups,
    .required = (const char *const[]){"data", "output", NULL},
    .examples =
        (const char *const[]){"cambium pretrain --config config.json --tokenizer tokenizer.json --data texts/ --output models/new "
                              "--steps 5000 --batch-size 16 --sequence-length 256 --learning-rate 1e-3 --warmup-ratio 0.05",
                              "cambium pretrain --model models/base --data texts/ --output models/further --learning-rate 1e-4", NULL},
    .run = run};
