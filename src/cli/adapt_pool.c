/* adapt_pool.c: `cambium adapt pool`: a model for data of another domain that have no labels. */
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *output, *kind, *adapter, *tokenizer;
    cb_string_list source, target, test_data, test_label_maps;
    int trained, dtype;
    int64_t seed, strong_magnitude;
    bool dry_run;
    cli_corpus_settings corpus;
    cb_train_options train;
    cb_domain_options domains;
    cb_prior_options prior;
} settings;

enum { TRAINED_ADAPTER, TRAINED_ALL, TRAINED_BASE, TRAINED_HEAD };
static const char *const trained_names[] = {"adapter", "all", "base", "head", NULL};
static const cb_model_part parts[] = {CB_PART_ALL, CB_PART_ALL, CB_PART_BASE, CB_PART_HEAD};

static const cb_option table[] = {
    CB_OPT_LIST(settings, source, NULL, "FILE,...", "labelled data of the domain that is known; none: the model has learned it before"),
    CB_OPT_LIST(settings, target, NULL, "FILE,...", "data of the other domain; labels are not read, should there be any"),
    CB_OPT_LIST(settings, test_data, NULL, "FILE,...",
                "labelled data of the other domain to measure before and after: nothing is chosen by it"),
    CB_OPT_LIST(settings, test_label_maps, NULL, "DIR,...",
                "of segmentation: label maps of --test-data, as --label-maps are those of --source"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "the adapter or model, checkpoints and records of the run"),
    CB_OPT_ENUM(
        settings, trained, TRAINED_ADAPTER, trained_names,
        "what is trained: an adapter, with the head where there is a source; all weights; those of the base model without the head; the "
        "head alone"),
    CB_OPT_STRING(settings, kind, CLI_DEFAULT_KIND, "NAME", "adapter kind"),
    CB_OPT_STRING(settings, adapter, NULL, "DIR", "adapter to go on training, instead of a new one"),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "tokenizer.json or its directory; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed; what is trained is f32"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of initial values, order of the data and dropout"),
    CB_OPT_INT(
        settings, strong_magnitude, 10, 0, 30,
        "of fixmatch, mean-teacher and adacontrast, where images have one label each: RandAugment's magnitude for the second view, beside "
        "the augmentation of the first; of segmentation it has other colours"),
    CLI_DRY_RUN(settings, CLI_PLAN_HELP),
    CB_OPT_END};

static const cli_group groups[] = {{"Run", table, 0},
                                   {"Method", cb_domain_option_table, offsetof(settings, domains)},
                                   {"What is known of images", cb_prior_option_table, offsetof(settings, prior)},
                                   {"Task", cli_task_table, offsetof(settings, corpus.asked)},
                                   {"Rows", cb_data_option_table, offsetof(settings, corpus.text)},
                                   {"Images", cli_image_table, offsetof(settings, corpus.images)},
                                   {"Images as rows", cb_image_data_option_table, offsetof(settings, corpus.images.data)},
                                   {"Augmentation of images", cb_augment_option_table, offsetof(settings, corpus.images.augment)},
                                   {"Training", cb_train_option_table, offsetof(settings, train)},
                                   {0}};

/* ---- data ---- */

cb_dataset *cli_pool_data(cli_call *call, cli_corpus_settings *corpus, int64_t seed, const cb_string_list *files,
                          const cb_string_list *label_maps, const cb_model *model, const cb_tokenizer *tokenizer, bool unlabelled)
{
    if (cli_takes_images(model)) {
        cb_image_data_options *data = &corpus->images.data;
        cb_string_list maps = data->label_maps;
        data->unlabelled = unlabelled;
        data->objective = cb_objective_of(model);
        data->label_maps = *label_maps;
        cb_dataset *images = cli_images_open(&corpus->images, files, cb_model_label_names(model), seed, unlabelled);
        data->unlabelled = false;
        data->label_maps = maps;
        return images;
    }
    cb_data_options text = corpus->text;
    cli_fit_sequence_length(call, &text, model);
    text.seed = (uint64_t)seed;
    text.data = *files;
    text.labels = cb_model_label_names(model);
    text.objective = cb_objective_of(model);
    text.unlabelled = unlabelled;
    text.shuffle = unlabelled && text.shuffle;
    return cb_dataset_open(tokenizer, &text);
}

/* Another view is drawn from the first one's options and RandAugment (Cubuk et al. 2020), with a part blanked.  Places have to stay where they are: of
 * them colours change. */
static cb_augment_options strong_view(const settings *s, const cb_model *model)
{
    const double jitter = 0.4, hue = 0.1;
    cb_augment_options o = s->corpus.images.augment;
    if (cb_objective_is_of_places(cb_objective_of(model))) {
        o.jitter_brightness = o.jitter_contrast = o.jitter_saturation = jitter;
        o.jitter_hue = hue;
        o.random_erasing = 0.5;
        return o;
    }
    o.auto_augment = CB_AUGMENT_RANDAUGMENT;
    o.randaugment_magnitude = s->strong_magnitude;
    o.random_erasing = 0.5;
    return o;
}

/* What is known of the target's images. */
static bool open_priors(settings *s, const cb_dataset *target, const cb_model *model, cb_priors *priors)
{
    const cb_prior_options *o = &s->prior;
    bool given = o->prior.count || o->prior_maps.count || o->true_size_maps.count || o->tags;
    if (given && cb_dataset_objective(target) != CB_OBJECTIVE_SEMANTIC_SEGMENTATION)
        return cli_refuse("--%s is of segmentation, and %s judges rows",
                          o->prior.count        ? "prior"
                          : o->prior_maps.count ? "prior-maps"
                          : o->tags             ? "tags"
                                                : "true-size-maps",
                          cb_model_directory(model));
    return cb_priors_make(target, cb_model_label_names(model), o, &s->corpus.images.data, priors);
}

/* A kind that a method with tasks of the domains is made for has them with others, too. */
static bool tells_domains(const char *kind)
{
    const cb_domain_method *method = NULL;
    for (size_t i = 0; (method = cb_domain_method_at(i)); i++)
        if (method->domain_tasks && method->kind && strcmp(method->kind, kind) == 0)
            return true;
    return false;
}

static cb_domains *open_domains(cli_call *call, settings *s, cb_model *model, const cb_tokenizer *tokenizer)
{
    cb_augment_options strong = strong_view(s, model);
    cli_corpus corpus = {0};
    s->corpus.data = s->source;
    bool ok = !s->source.count || cli_corpus_open(&corpus, call, &s->corpus, model, tokenizer, s->seed);
    s->corpus.data = (cb_string_list){0}; /* the option's own list is freed as `source` */
    cb_dataset *target = ok ? cli_pool_data(call, &s->corpus, s->seed, &s->target, &s->test_label_maps, model, tokenizer, true) : NULL;
    cb_priors priors = {0};
    if (!target || !open_priors(s, target, model, &priors)) {
        cb_dataset_free(corpus.train);
        cb_dataset_free(target);
        return NULL;
    }
    s->domains.priors = priors.shares;
    s->domains.domain_tasks =
        s->domains.domain_tasks || (s->trained == TRAINED_ADAPTER && s->source.count && !s->adapter && tells_domains(s->kind));
    s->domains.batch_size = s->train.batch_size;
    s->domains.seed = (uint64_t)s->seed;
    s->domains.strong = cli_takes_images(model) ? &strong : NULL;
    cb_domains *domains = cb_domains_open(model, corpus.train, target, &s->domains);
    s->domains.priors = NULL;
    cb_priors_free(&priors);
    if (!domains && cb_error_status() == CB_ERR_ARGUMENT && strncmp(cb_error_message(), "method", 6) == 0)
        cli_blame(call, "method");
    return domains;
}

/* ---- what is trained ---- */

static const cb_domain_method *method_of(const settings *s)
{
    const cb_domain_method *method = NULL;
    for (size_t i = 0; (method = cb_domain_method_at(i)) && strcmp(method->name, s->domains.method) != 0;)
        i++;
    return method;
}

cb_adapter *cli_new_adapter(cli_call *call, const char *kind, const cb_domain_method *method, cb_model *model, bool head, int64_t seed)
{
    cb_adapter *adapter = cb_adapter_new(kind, "default");
    if (!adapter)
        cli_blame(call, "kind");
    bool ok = adapter;
    if (ok && method && method->kind && method->option && strcmp(cb_adapter_kind_of(adapter)->name, method->kind) == 0)
        ok = cb_adapter_set(adapter, method->option, method->value);
    for (size_t i = 0; ok && i < call->adapter_count; i++)
        if (!(ok = cb_adapter_set(adapter, call->adapter[i].name, call->adapter[i].value)))
            cli_blame(call, call->adapter[i].name);
    ok = ok && (!head || cb_adapter_fit_labels(adapter, model));
    if (ok && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), (uint64_t)seed))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

/* A new one is of the kind that the method is made for, where none is given. */
static cb_adapter *open_adapter(cli_call *call, const settings *s, cb_model *model)
{
    const cb_domain_method *method = method_of(s);
    const char *kind = method && method->kind && !cli_given(call, "kind") ? method->kind : s->kind;
    return s->adapter ? cb_adapter_load(s->adapter, cb_model_root(model), cb_model_type(model))
                      : cli_new_adapter(call, kind, method, model, s->source.count > 0, s->seed);
}

static bool run_domains(cli_call *call, settings *s, const cb_trainee *inner, cb_domains *domains, cb_dataset *test)
{
    cb_trainee what = {0};
    const cli_corpus corpus = {.train = cb_domains_rows(domains), .test = test};
    return cb_train_domains(&what, inner, domains) && cli_train_run(call, &what, &corpus, &s->train);
}

/* The trainee must outlive the run, and the domains too. */
static bool train(cli_call *call, settings *s, cb_model *model, cb_domains *domains, cb_dataset *test, const cb_tokenizer *tokenizer)
{
    cb_adapter *adapter = s->trained == TRAINED_ADAPTER ? open_adapter(call, s, model) : NULL;
    cb_trainee inner = {0};
    const char *path = tokenizer ? s->tokenizer ? s->tokenizer : cb_model_directory(model) : NULL;
    bool whole = s->trained != TRAINED_ADAPTER;
    if (adapter)
        inner = cb_train_adapter(model, adapter);
    bool ok = cb_ok() && (!whole || cb_train_part(&inner, model, parts[s->trained], tokenizer, path, CB_F32)) &&
              run_domains(call, s, &inner, domains, test);
    if (whole)
        cb_train_whole_free(&inner);
    cb_adapter_free(adapter);
    return ok;
}

static bool adapt(cli_call *call, settings *s, cb_model *model)
{
    bool images = cli_takes_images(model);
    cb_tokenizer *tokenizer = images ? NULL : cli_tokenizer(s->tokenizer, model);
    bool ok = images ? cli_images_ready(&s->corpus.images, model, cb_model_directory(model), s->adapter) : tokenizer != NULL;
    if (ok && !s->source.count && cb_model_new_weights(model) && !s->adapter)
        ok = cli_refuse("--source: found none, and %s has no %s, which unlabelled data cannot teach it", cb_model_directory(model),
                        cb_model_new_weights(model));
    cb_domains *domains = ok ? open_domains(call, s, model, tokenizer) : NULL;
    cb_dataset *test = domains && s->test_data.count
                           ? cli_pool_data(call, &s->corpus, s->seed, &s->test_data, &s->test_label_maps, model, tokenizer, false)
                           : NULL;
    ok = domains && (!s->test_data.count || test) && train(call, s, model, domains, test, tokenizer);
    ok = ok && (!images || s->dry_run || cli_images_save(&s->corpus.images, s->output));
    cb_dataset_free(test);
    cb_domains_free(domains);
    cb_tokenizer_free(tokenizer);
    return ok;
}

/* ---- the command ---- */

static bool check(cli_call *call, const settings *s)
{
    if (s->trained != TRAINED_ADAPTER && (s->adapter || cli_given(call, "kind") || call->adapter_count))
        return cli_usage(call, "--trained %s goes without an adapter, so --%s cannot be given", trained_names[s->trained],
                         s->adapter            ? "adapter"
                         : call->adapter_count ? call->adapter[0].name
                                               : "kind");
    if (s->adapter && (cli_given(call, "kind") || call->adapter_count))
        return cli_usage(call, "--adapter goes on with an adapter as it is, so --%s cannot be given",
                         call->adapter_count ? call->adapter[0].name : "kind");
    if (s->trained == TRAINED_HEAD && !s->source.count)
        return cli_usage(call, "--trained head: a head alone needs labels to learn from, expected --source");
    const cb_string_list *lists[] = {&s->source, &s->target, &s->test_data};
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof lists / sizeof *lists; i++)
        ok = cli_output_apart(s->output, &(cli_corpus_settings){.data = *lists[i]});
    return ok;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    s->train.output = s->output;
    s->train.seed = (uint64_t)s->seed;
    if (!check(call, s) || !cli_output_directory(s->output, call->arguments[0]) || !cb_train_check_output(&s->train))
        return false;
    if (s->dry_run)
        cb_rehearsal_begin();
    cli_task *task = &s->corpus.task;
    cb_model_options options = {.dtype = cli_dtype(s->dtype), .keep_weights = s->trained != TRAINED_ADAPTER};
    cb_model *model = cli_task_open(task, &s->corpus.asked, call->arguments[0], s->adapter)
                          ? cli_task_model(task, call->arguments[0], false, (uint64_t)s->seed, options)
                          : NULL;
    bool ok = model && adapt(call, s, model);
    cb_model_free(model);
    cli_task_close(task);
    cb_rehearsal_end();
    return ok;
}

const cli_command cli_adapt_pool = {
    .name = "adapt pool",
    .summary = "adapt a classifier, or a network that segments, to another domain's unlabelled data",
    .synopsis = "MODEL_DIR [--source DATA] --target DATA --method NAME --output DIR [options]",
    .description =
        "The model learns the labels of the source while what it makes of the target is brought close to it, or, without a source, "
        "what it has learned before is fitted to the target (docs/domains.md).  A method is a sum of terms, each with a weight, and "
        "--terms sets others.  Images or texts with one label of several, or images whose places have one (docs/methods/adami.md).  "
        "--test-data says how well it does on labelled data of the "
        "target, "
        "before and after; nothing is chosen by it.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .adapter_options = true,
    .required = (const char *const[]){"target", "output", NULL},
    .examples =
        (const char *const[]){
            "cambium adapt pool models/net --source amazon/ --target webcam/ --method cdan --output out/webcam --trained all "
            "--steps 1000 --batch-size 32 --learning-rate 3e-4",
            "cambium adapt pool models/vit --target sketches/ --method shot --output out/sketches --target-modules query,value "
            "--test-data sketches-test/ --epochs 10",
            "cambium adapt pool models/net --source photos/ --target paintings/ --method coral --terms coral=10,entropy=0.1 "
            "--output out/paintings",
            "cambium adapt pool models/unet --target scans/ --method adami --prior-maps five-scans/ --trained all --output out/scans "
            "--learning-rate 1e-5 --epochs 20",
            NULL},
    .run = run};
