/* train.c: `cambium train`: an adapter for a frozen model, from files to files. */

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *output, *kind, *tokenizer;
    cb_string_list adapter;
    int dtype, mix;
    int64_t seed, mix_tasks, mix_conditions;
    bool dry_run;
    cli_corpus_settings corpus;
    cb_train_options train;
    cb_start_options start;
    cb_mixer_options mixer;
    cb_xlora_options xlora;
    cb_sentence_options learning;
    cb_ranking_options ranking;
    cli_diffusion_settings diffusion;
    cli_sentence_settings sentences;
} settings;

enum { MIX_NONE, MIX_STACK, MIX_GATE, MIX_FUSION, MIX_ROUTER, MIX_XLORA };
static const char *const mix_names[] = {"none", "stack", "gate", "fusion", "router", "xlora", NULL};

static const cb_option table[] = {
    CB_OPT_STRING(settings, output, NULL, "DIR", "the adapter, checkpoints and records of the run"),
    CB_OPT_STRING(settings, kind, CLI_DEFAULT_KIND, "NAME", "adapter kind"),
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...",
                "adapter to go on training, instead of a new one; with --mix one that stays as it is, with an optional NAME= before it and "
                "=weight behind it, and may be given again"),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH",
                  "tokenizer.json or its directory, of text recognition vocab.json; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 0, cli_dtype_names, "how activations are kept and products are computed; what is trained is f32"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of initial values, order of the data and dropout"),
    CLI_DRY_RUN(settings, CLI_PLAN_HELP),
    CB_OPT_END};

static const cb_option mix_table[] = {
    CB_OPT_ENUM(settings, mix, MIX_NONE, mix_names,
                "what is trained over the adapters of --adapter: a new one after them (stack), their weights by a row's task or conditions "
                "(gate), on each layer attention to what they add (fusion) or a router, or a classifier of each token (xlora)"),
    CB_OPT_INT(settings, mix_tasks, 1, 1, 1 << 20, "gate: tasks; which one a row is of is task_ids of the data"),
    CB_OPT_INT(settings, mix_conditions, 0, 0, CB_MOST_CONDITIONS,
               "gate: numbers that are known of a row, conditions of the data, by which it weighs instead"),
    CB_OPT_END};

static const cli_group groups[] = {
    {"Run", table, 0},
    {"Task", cli_task_table, offsetof(settings, corpus.asked)},
    {"Several adapters", mix_table, 0},
    {"Weights of several adapters", cb_mixer_option_table, offsetof(settings, mixer)},
    {"X-LoRA", cb_xlora_option_table, offsetof(settings, xlora)},
    {"Data", cli_corpus_table, offsetof(settings, corpus)},
    {"Rows", cb_data_option_table, offsetof(settings, corpus.text)},
    {"Images", cli_image_table, offsetof(settings, corpus.images)},
    {"Images as rows", cb_image_data_option_table, offsetof(settings, corpus.images.data)},
    {"Augmentation of images", cb_augment_option_table, offsetof(settings, corpus.images.augment)},
    {"Series of numbers", cb_series_option_table, offsetof(settings, corpus.series.data)},
    {"What is learned of them", cb_forecast_option_table, offsetof(settings, corpus.series.learning)},
    {"Training", cb_train_option_table, offsetof(settings, train)},
    {"Pairs of texts (retrieval, similarity, ranking)", cli_sentence_table, offsetof(settings, sentences)},
    {"What is learned of pairs", cb_sentence_option_table, offsetof(settings, learning)},
    {"What is learned of rankings", cb_ranking_option_table, offsetof(settings, ranking)},
    {"Making images", cb_diffusion_option_table, offsetof(settings, diffusion.training.options)},
    {"Noise, of networks without scheduler_config.json", cb_noise_option_table, offsetof(settings, diffusion.noise)},
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

static cb_adapter *load(const char *directory, cb_model *model)
{
    if (cb_is_composition(directory))
        return cli_refuse("--adapter: %s is several adapters, expected one of the directories in it", directory), NULL;
    return cb_adapter_load(directory, cb_model_root(model), cb_model_type(model));
}

/* A head that the model lacks would be random, trained by nobody and saved nowhere. */
static bool brings_head(const settings *s, const cb_model *model, const cb_adapter *adapter)
{
    char *names = s->corpus.task.labelled ? cb_strdup(cb_model_new_weights(model)) : NULL, *rest = NULL;
    bool ok = cb_ok();
    for (char *name = names ? strtok_r(names, ", ", &rest) : NULL; ok && name; name = strtok_r(NULL, ", ", &rest))
        ok =
            cli_adapter_trains(adapter, name) ||
            cli_refuse("--adapter: %s trains no %s, which %s lacks, so it would stay random; expected an adapter of labels, or none, for a "
                       "new one",
                       s->adapter.items[0], name, cb_model_directory(model));
    cb_free(names);
    return ok;
}

static cb_adapter *go_on(const settings *s, cb_model *model)
{
    cb_adapter *adapter = load(s->adapter.items[0], model);
    if (!adapter || brings_head(s, model, adapter))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

/* Attaches a new adapter, or loads the one to go on with.  One whose start is worked out first waits for the data, and one with a head for
 * the labels that are found there; that its options hit layers is known before. */
static cb_adapter *attach(const settings *s, cb_adapter *fresh, cb_model *model)
{
    cb_layer **layers;
    size_t count;
    if (!fresh)
        return go_on(s, model);
    cb_head_kind head = cb_model_head_kind(model);
    bool untyped = head == CB_HEAD_MASKED_LM || head == CB_HEAD_CTC || cli_takes_series(model);
    if (untyped && !cb_adapter_set_task_type(fresh, NULL)) /* PEFT has no type for it */
        return NULL;
    if (cb_model_head_kind(model) == CB_HEAD_SEQ2SEQ_LM && !cb_adapter_set_task_type(fresh, "SEQ_2_SEQ_LM"))
        return NULL;
    if (s->corpus.task.labelled && !cb_adapter_fit_labels(fresh, model))
        return NULL;
    if (!cb_adapter_needs_study(fresh) && !s->corpus.task.labelled)
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

static bool is_of_ranking(const settings *s)
{
    return s->corpus.task.objective == CB_OBJECTIVE_RANKING;
}

static bool open_corpus(cli_call *call, settings *s, cli_corpus *corpus, cb_model *model, const cb_tokenizer *tokenizer)
{
    return is_of_ranking(s) ? cli_pairs_open(corpus, call, &s->corpus, &s->sentences, model, tokenizer, s->seed)
                            : cli_corpus_open(corpus, call, &s->corpus, model, tokenizer, s->seed);
}

/* Text by a tokenizer, images or series by what is stored with the adapter or the model. */
static bool ready(cli_call *call, settings *s, cb_model *model, const cb_tokenizer *tokenizer, const char *former)
{
    const char *directory = cb_model_directory(model);
    if (cli_takes_images(model))
        return cli_images_ready(&s->corpus.images, model, directory, former);
    return cli_takes_series(model) ? cli_series_ready(call, &s->corpus.series, &s->corpus.data, model, directory) : tokenizer != NULL;
}

static bool train(cli_call *call, settings *s, cb_model *model, cb_adapter *adapter)
{
    bool images = cli_takes_images(model), series = cli_takes_series(model);
    cb_tokenizer *tokenizer = images || series ? NULL : cli_tokenizer(s->tokenizer, model);
    cli_corpus corpus = {0};
    int64_t labels = cb_model_labels(model);
    s->corpus.vocabulary = s->tokenizer;
    const char *former = s->adapter.count ? s->adapter.items[0] : NULL;
    bool ok = ready(call, s, model, tokenizer, former) && open_corpus(call, s, &corpus, model, tokenizer) &&
              prepare(call, s, model, adapter, corpus.train);
    if (ok && s->adapter.count && cb_model_labels(model) != labels) /* other images' labels: a new head, which is not the adapter's */
        ok = cli_refuse("--adapter: %s was trained for %lld labels, and the data have %lld; expected none, for a new one",
                        s->adapter.items[0], (long long)labels, (long long)cb_model_labels(model));
    if (ok) {
        cb_trainee what = cb_train_adapter(model, adapter);
        cb_ranking_training ranking = {.model = model, .options = s->ranking};
        cb_forecast_training forecasting = {.model = model, .processor = &s->corpus.series.processor, .options = s->corpus.series.learning};
        ok = (!is_of_ranking(s) || cb_train_ranking(&what, &ranking)) && (!series || cb_train_forecasting(&what, &forecasting)) &&
             cli_diffusion_train(call, &s->diffusion, &what, cb_model_directory(model), former) &&
             cli_train_run(call, &what, &corpus, &s->train);
        cli_diffusion_close(&s->diffusion);
    }
    ok = ok && (!images || s->dry_run || cli_images_save(&s->corpus.images, s->output));
    cli_corpus_close(&corpus);
    cli_series_close(&s->corpus.series);
    cb_tokenizer_free(tokenizer);
    return ok;
}

/* ---- sentence encoders ---- */

static bool is_of_sentences(const settings *s)
{
    cb_objective objective = cli_task_objective(cli_task_names[s->corpus.asked.task]);
    return objective == CB_OBJECTIVE_RETRIEVAL || objective == CB_OBJECTIVE_SIMILARITY;
}

static bool check_batch(cli_call *call, const settings *s, const cb_dataset *data)
{
    bool alone = s->train.batch_size == 1 && cb_dataset_group(data) < 3;
    return !alone || cli_usage(call, "--batch-size: found 1, expected more: a text is learned against the others of its batch");
}

/* The adapter (NULL: it could not be made) is the caller's to free, before the encoder. */
static bool train_encoder(cli_call *call, settings *s, cb_embedder *e, cb_adapter *adapter)
{
    cb_sentence_training training = {.embedder = e,
                                     .options = s->learning,
                                     .scored = cli_task_objective(cli_task_names[s->corpus.asked.task]) == CB_OBJECTIVE_SIMILARITY};
    cli_corpus corpus = {0};
    bool ok = cli_sentences_open(&corpus, call, &s->corpus, &s->sentences, e, s->seed) && check_batch(call, s, corpus.train) &&
              prepare(call, s, cb_embedder_model(e), adapter, corpus.train);
    if (ok) {
        cb_trainee what = cb_train_adapter(cb_embedder_model(e), adapter);
        ok = cb_train_sentences(&what, &training) && cli_train_run(call, &what, &corpus, &s->train);
    }
    cli_corpus_close(&corpus);
    return ok;
}

static bool train_sentences(cli_call *call, settings *s, cb_adapter *fresh)
{
    cb_embedder *e = cb_embedder_load(call->arguments[0], cli_dtype(s->dtype));
    bool ok = e && (!fresh || cb_adapter_set_task_type(fresh, "FEATURE_EXTRACTION"));
    cb_adapter *adapter = ok ? attach(s, fresh, cb_embedder_model(e)) : NULL;
    ok = adapter && train_encoder(call, s, e, adapter);
    cb_adapter_free(adapter ? adapter : fresh);
    cb_embedder_free(e);
    return ok;
}

/* ---- several adapters ---- */

static bool load_frozen(cb_composition *c, const settings *s, cb_model *model)
{
    size_t most = s->adapter.count + 1; /* and a new one */
    c->adapters = cb_calloc(most, sizeof(cb_adapter *));
    c->weights = cb_calloc(most, sizeof *c->weights);
    bool ok = c->adapters && c->weights;
    for (size_t i = 0; ok && i < s->adapter.count; i++) {
        cli_adapter_argument a;
        ok =
            cli_split_adapter(s->adapter.items[i], &a) && (a.weight != 0 || cli_refuse("--adapter: found a weight of 0, expected another"));
        c->weights[i] = a.weight;
        c->adapters[i] = ok ? load(a.directory, model) : NULL;
        c->count += c->adapters[i] != NULL;
        ok = ok && c->adapters[i] && (!a.name || cb_adapter_rename(c->adapters[i], a.name));
        cb_free(a.text);
        if (ok)
            cb_adapter_set_strength(c->adapters[i], 0);
    }
    return ok;
}

/* Before the data is read, and with the new one, which the composition has not got yet. */
static bool check_names(const cb_composition *c, cb_adapter *fresh)
{
    cb_composition all = *c;
    if (fresh)
        all.adapters[all.count++] = fresh;
    return cb_composition_check(&all);
}

/* What is trained over the adapters.  A new one is the composition's from here on. */
static bool add_trained(cb_composition *c, const settings *s, cb_adapter **fresh)
{
    switch (s->mix) {
    case MIX_STACK:
        cb_adapter_set_strength(*fresh, 0);
        c->weights[c->count] = 1;
        c->adapters[c->count++] = *fresh;
        *fresh = NULL;
        return true;
    case MIX_GATE:
        if (s->mix_conditions)
            c->gate = cb_gate_new(c->count, .input = CB_GATE_FEATURES, .size = s->mix_conditions, .top_k = s->mixer.mix_top_k);
        else
            c->gate = cb_gate_new(c->count, .input = CB_GATE_TASK, .size = s->mix_tasks, .top_k = s->mixer.mix_top_k);
        return c->gate;
    case MIX_XLORA:
        c->xlora = cb_xlora_new(c->adapters, c->count, &s->xlora, (uint64_t)s->seed);
        return c->xlora;
    default:
        c->mixer =
            cb_mixer_new(s->mix == MIX_FUSION ? CB_MIXER_FUSION : CB_MIXER_ROUTER, c->adapters, c->count, &s->mixer, (uint64_t)s->seed);
        return c->mixer;
    }
}

static bool train_mix(cli_call *call, settings *s, cb_model *model, cb_adapter **fresh)
{
    cb_composition c = {0};
    cb_trainee what = {0};
    cli_corpus corpus = {0};
    cb_tokenizer *tokenizer = load_frozen(&c, s, model) && check_names(&c, *fresh) ? cli_tokenizer(s->tokenizer, model) : NULL;
    size_t frozen = c.count;
    bool ok = tokenizer && (!*fresh || attach(s, *fresh, model)) && cli_corpus_open(&corpus, call, &s->corpus, model, tokenizer, s->seed) &&
              (!*fresh || prepare(call, s, model, *fresh, corpus.train)) && add_trained(&c, s, fresh) &&
              cb_train_composition(&what, model, &c, frozen);
    ok = ok && cli_train_run(call, &what, &corpus, &s->train);
    cb_train_composition_free(&what);
    cb_composition_free(&c);
    cli_corpus_close(&corpus);
    cb_tokenizer_free(tokenizer);
    return ok;
}

/* ---- the command ---- */

/* Which of the options above are of which --mix. */
static const struct {
    const char *option;
    unsigned mixes; /* bits */
} mix_options[] = {
    {"mix_tasks", 1u << MIX_GATE},         {"mix_conditions", 1u << MIX_GATE}, {"mix_top_k", 1u << MIX_GATE | 1u << MIX_ROUTER},
    {"mix_temperature", 1u << MIX_ROUTER}, {"fusion_value", 1u << MIX_FUSION}, {"fusion_regularization", 1u << MIX_FUSION},
    {"fusion_residual", 1u << MIX_FUSION}};

static unsigned mixes_of(const char *option)
{
    for (size_t i = 0; i < sizeof mix_options / sizeof *mix_options; i++)
        if (strcmp(mix_options[i].option, option) == 0)
            return mix_options[i].mixes;
    return 1u << MIX_XLORA;
}

static bool refuse_mix_option(cli_call *call, const char *option, unsigned mixes, int mix)
{
    char expected[64] = "";
    for (int i = 0; mix_names[i]; i++)
        if (mixes >> i & 1)
            snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%s", *expected ? " or " : "", mix_names[i]);
    cli_refuse("%s: found --mix %s, expected %s", option, mix_names[mix], expected);
    cli_blame(call, option);
    return false;
}

static bool check_mix(cli_call *call, const settings *s)
{
    static const cb_option *const tables[] = {mix_table + 1, cb_mixer_option_table, cb_xlora_option_table}; /* but --mix itself */
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const cb_option *o = tables[i]; o->name; o++)
            if (cli_given(call, o->name) && !(mixes_of(o->name) >> s->mix & 1))
                return refuse_mix_option(call, o->name, mixes_of(o->name), s->mix);
    if (s->mix_conditions && cli_given(call, "mix_tasks"))
        return cli_usage(call, "--mix-conditions and --mix-tasks are two gates, expected one of them");
    return s->mixer.mix_top_k <= (int64_t)s->adapter.count ||
           cli_usage(call, "--mix-top-k: found %lld, expected no more than the %zu of --adapter", (long long)s->mixer.mix_top_k,
                     s->adapter.count);
}

static bool check_adapters(cli_call *call, const settings *s)
{
    cb_objective asked = cli_task_objective(cli_task_names[s->corpus.asked.task]);
    bool words = !s->corpus.asked.task || asked == CB_OBJECTIVE_SEQ2SEQ_LM;
    if (s->mix && !words && asked > CB_OBJECTIVE_TOKEN_CLASSIFICATION)
        return cli_usage(call, "--mix is of adapters for texts, and --task %s is not of labels of them",
                         cli_task_names[s->corpus.asked.task]);
    if (s->mix && s->mix != MIX_STACK && !words)
        return cli_usage(call, "--mix %s is of adapters for words, and --task is of labels; expected --mix stack", mix_names[s->mix]);
    bool options = call->adapter_count || cli_given(call, "kind"), makes_new = s->mix == MIX_STACK || !s->adapter.count;
    if (s->mix && !s->adapter.count)
        return cli_usage(call, "--mix is of adapters that are trained already: --adapter names them");
    if (!s->mix && s->adapter.count > 1)
        return cli_usage(call, "--adapter is given %zu times, expected --mix, which says what is trained over them", s->adapter.count);
    if (!check_mix(call, s))
        return false;
    return !options || makes_new ||
           cli_usage(call, "--adapter goes on with an adapter as it is, so --%s cannot be given",
                     call->adapter_count ? call->adapter[0].name : "kind");
}

/* Of adapters that stay as they are none has a head; a new one over them may. */
static bool open_task(settings *s, const char *model)
{
    cli_task *task = &s->corpus.task;
    if (!cli_task_open(task, &s->corpus.asked, model, s->adapter.count == 1 && !s->mix ? s->adapter.items[0] : NULL))
        return false;
    if (task->forecasts && s->mix)
        return cli_refuse("--mix is of adapters for texts, and %s takes series", model);
    if (!task->labelled || !s->mix)
        return true;
    if (s->mix != MIX_STACK)
        return cli_refuse("--mix %s is of adapters for words, and %s is a model of labels; expected --mix stack", mix_names[s->mix], model);
    return task->objective <= CB_OBJECTIVE_TOKEN_CLASSIFICATION || cli_refuse("--mix is of adapters for texts, and %s takes images", model);
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    s->train.output = s->output;
    s->train.seed = (uint64_t)s->seed;
    bool known = s->corpus.asked.task || !s->adapter.count; /* else the adapter says what its task is */
    if ((known && !cli_sentences_check(call, cli_task_objective(cli_task_names[s->corpus.asked.task]))) || !check_adapters(call, s))
        return false;
    bool wants_new = !s->adapter.count || s->mix == MIX_STACK;
    cb_adapter *fresh = wants_new ? configure(call, s) : NULL;
    if ((wants_new && !fresh) || !cli_output_directory(s->output, call->arguments[0]) || !cli_output_apart(s->output, &s->corpus) ||
        !cb_train_check_output(&s->train)) {
        cb_adapter_free(fresh);
        return false;
    }
    if (s->dry_run)
        cb_rehearsal_begin();
    if (is_of_sentences(s)) {
        bool trained = train_sentences(call, s, fresh);
        cb_rehearsal_end();
        return trained;
    }
    cli_task *task = &s->corpus.task;
    bool opened = open_task(s, call->arguments[0]) && (known || cli_sentences_check(call, task->objective)) &&
                  cli_series_check(call, task->forecasts);
    cb_model *model = opened ? cli_task_model(task, call->arguments[0], false, (uint64_t)s->seed,
                                              (cb_model_options){.dtype = cli_task_dtype(call, task, s->dtype)})
                             : NULL;
    cb_adapter *adapter = model && !s->mix ? attach(s, fresh, model) : NULL;
    bool ok = s->mix ? model && train_mix(call, s, model, &fresh) : adapter && train(call, s, model, adapter);
    cb_adapter_free(adapter ? adapter : fresh);
    cb_model_free(model);
    cli_task_close(task);
    cb_rehearsal_end();
    return ok;
}

const cli_command cli_train = {
    .name = "train",
    .summary = "fine-tune a model with an adapter",
    .synopsis = "MODEL_DIR --data FILE,... --output DIR [options]",
    .description =
        "The model stays frozen and is used in place; what is trained is written as a PEFT adapter directory. With validation "
        "data the adapter that did best on it is the one kept. The output directory also holds checkpoint.safetensors, "
        "log.jsonl, TensorBoard events and curves.png; --resume goes on from the checkpoint and ends with the same bits as a "
        "run that was never interrupted. With --task the data have labels, and the head that gives them is trained and saved with the "
        "adapter (docs/tasks.md). With --task retrieval or similarity a sentence encoder learns from pairs of texts "
        "(docs/retrieval.md), and the output is a directory of sentence-transformers; with --task ranking a cross-encoder does. A model "
        "with an encoder and a decoder "
        "learns targets from sources (docs/seq2seq.md). With --mix "
        "trained adapters stay as they are and "
        "what composes them is trained; the output then "
        "is one directory with all of them.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .parallel = true,
    .groups = groups,
    .adapter_options = true,
    .required = (const char *const[]){"data", "output", NULL},
    .examples =
        (const char *const[]){"cambium train models/base --data notes.txt --output out/adapter --rank 8 --alpha 16 "
                              "--target-modules all-linear --steps 200 --batch-size 4 --sequence-length 256 "
                              "--learning-rate 1e-3 --seed 1",
                              "cambium train models/all-MiniLM-L6-v2 --task retrieval --data pairs.jsonl --validation-split 0.1 "
                              "--output out/adapter --batch-size 64",
                              "cambium train models/bert --task ranking --data groups.jsonl --ranking-loss listwise --output "
                              "out/ranks --target-modules query,value",
                              "cambium train models/base --data chats.jsonl --validation-split 0.1 --eval-steps 50 --save-steps 50 "
                              "--output out/adapter --resume",
                              "cambium train models/bert --task sequence-classification --data reviews.csv --validation-split 0.1 "
                              "--output out/reviews --target-modules query,value",
                              "cambium train models/t5 --task seq2seq --data pairs.jsonl --source-prefix \"summarize: \" --output "
                              "out/summaries --max-target-length 128",
                              "cambium train models/vit --task image-classification --data birds/ --validation-split 0.1 "
                              "--output out/birds --target-modules query,value --random-resized-crop --horizontal-flip 0.5",
                              "cambium train models/crnn --task text-recognition --data lines/metadata.jsonl --validation-split 0.1 "
                              "--output out/hand --target-modules weight_ih_l0,weight_hh_l0",
                              "cambium train models/base --adapter out/law --adapter out/news --mix fusion --data notes.txt "
                              "--output out/both",
                              NULL},
    .run = run};
