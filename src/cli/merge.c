/* merge.c: `cambium merge`: adapters folded into their base, checked against the adapted model; adapters merged into one; or whole models. */
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *output, *config;
    bool dry_run;
    int into;
    cb_string_list adapter, adapter_option, model;
    cb_merge_options options;
    cb_model_merge_options models;
    cb_adapter_merge_options adapters;
} settings;

enum { INTO_MODEL, INTO_ADAPTER };
static const char *const into_choices[] = {"model", "adapter", NULL};

static const cb_option table[] = {
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to fold in, or to merge, each with an optional =weight; may be given again"),
    CLI_ADAPTER_OPTION(settings),
    CB_OPT_LIST(settings, model, NULL, "DIR,...",
                "model to merge with MODEL, each with an optional =weight; may be given again, and be MODEL itself"),
    CB_OPT_STRING(settings, config, NULL, "FILE", "a recipe of mergekit's (YAML) that says what models are merged, and how"),
    CB_OPT_ENUM(settings, into, INTO_MODEL, into_choices, "what adapters become: a model without adapters, or one adapter for all"),
    CB_OPT_STRING(settings, output, NULL, "PATH",
                  "the merged model or adapter: a directory, or a GGUF file where it ends in .gguf; must not exist, or be empty"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP),
    CB_OPT_END};

static const cli_group groups[] = {
    {"Input and output", table, 0},
    {"Result", cb_merge_option_table, offsetof(settings, options)},
    {"Quantising", cb_quantize_option_table, offsetof(settings, options)},
    {"Methods, for whole models and for --into adapter", cb_model_merge_option_table, offsetof(settings, models)},
    {"Merging adapters into one", cb_adapter_merge_option_table, offsetof(settings, adapters)},
    {0}};

static bool print_result(cli_call *call, const settings *s, size_t adapters, double seconds, const cb_difference *d)
{
    if (call->common.json) {
        json_t *result = json_pack("{s:s, s:I}", "output", s->output, "adapters", (json_int_t)adapters);
        cli_difference_json(result, d, s->options.verify);
        json_object_set_new(result, "seconds", cli_real(seconds));
        json_object_set_new(result, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(result);
    }
    cli_field("merged model", "%s", s->output);
    cli_difference_print(d, s->options.verify);
    cli_field("time", "%s", cli_seconds(seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

static bool load_and_fold(cli_call *call, settings *s, cb_difference *difference)
{
    cli_base base = {0};
    bool ok = cli_base_open(&base, call->arguments[0], &s->adapter, &s->adapter_option, CB_F32) &&
              (!base.composition.count ||
               cli_refuse("--adapter %s: its parts are weighed by what they are given, and cannot be merged", s->adapter.items[0])) &&
              cb_merge_fold(base.model, base.adapters, base.adapter_count, s->output, &s->options, difference);
    cli_base_close(&base);
    return ok;
}

/* ---- what is merged ---- */

typedef struct inputs {
    char *paths[CB_MERGE_MOST_MODELS];
    double weights[CB_MERGE_MOST_MODELS];
    size_t count;
} inputs;

static bool inputs_split(inputs *in, const char *option, const cb_string_list *list)
{
    bool ok = true;
    *in = (inputs){0};
    if (list->count > CB_MERGE_MOST_MODELS)
        return cli_refuse("%s: found %zu, expected at most %d", option, list->count, CB_MERGE_MOST_MODELS);
    for (; ok && in->count < list->count; in->count++)
        ok = cli_split_weight(option, list->items[in->count], &in->paths[in->count], &in->weights[in->count]);
    return ok;
}

static void inputs_free(inputs *in)
{
    for (size_t i = 0; i < in->count; i++)
        cb_free(in->paths[i]);
}

/* ---- whole models ---- */

static bool print_merged(cli_call *call, const settings *s, double seconds)
{
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:I, s:o, s:I}", "output", s->output, "models", (json_int_t)s->model.count, "seconds",
                                  cli_real(seconds), "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("merged model", "%s", s->output);
    cli_field("time", "%s", cli_seconds(seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

static bool merge_models(cli_call *call, const settings *s)
{
    inputs in;
    bool ok = inputs_split(&in, "--model", &s->model) &&
              cb_merge_models(call->arguments[0], (const char *const *)in.paths, in.weights, in.count, s->output, &s->models);
    inputs_free(&in);
    return ok;
}

/* An option of the table that was given, and would have no effect. */
static const cb_option *given_of(const cli_call *call, const cb_option *options, const char *const *except)
{
    for (size_t i = 0; i < call->given_count; i++) {
        const cb_option *found = cb_options_find(options, call->given[i]->name);
        for (size_t k = 0; found && except[k]; k++)
            found = strcmp(found->name, except[k]) == 0 ? NULL : found;
        if (found)
            return found;
    }
    return NULL;
}

/* The output is none of the inputs, and in none of them. */
static bool output_apart(const settings *s, const char *model, const char *option, const cb_string_list *list)
{
    inputs in;
    bool ok = inputs_split(&in, option, list) && cli_output_directory(s->output, model);
    for (size_t i = 0; ok && i < in.count; i++)
        ok = cli_output_directory(s->output, in.paths[i]);
    inputs_free(&in);
    return ok;
}

static bool check_models(cli_call *call, const settings *s)
{
    const cb_option *idle = given_of(call, cb_merge_option_table, (const char *const[]){"dtype", "seed", NULL});
    if (!idle)
        idle = given_of(call, cb_adapter_merge_option_table, (const char *const[]){NULL});
    if (s->options.quantize)
        return cli_refuse("--quantize: is for folding adapters; quantise the merged model with convert");
    if (idle)
        return cli_refuse("%s: is for adapters, found --model", idle->name);
    if (cb_ends_with(s->output, ".gguf"))
        return cli_refuse("%s: whole models are merged into a directory, which convert makes a GGUF file of", s->output);
    return output_apart(s, call->arguments[0], "--model", &s->model);
}

static bool run_models(cli_call *call, settings *s)
{
    double begin = cb_now();
    cli_rehearsal rehearsal;
    s->models.dtype = s->options.dtype;
    s->models.seed = s->options.seed;
    if (!check_models(call, s))
        return false;
    if (s->dry_run)
        return cli_plan(call, &rehearsal, cli_rehearsal_begin(&rehearsal, s->output) && merge_models(call, s));
    return merge_models(call, s) && print_merged(call, s, cb_now() - begin);
}

/* ---- adapters into one ---- */

static void adapter_json(json_t *result, const cb_adapter_merge_report *r)
{
    json_object_set_new(result, "layers", json_integer((json_int_t)r->layers));
    json_object_set_new(result, "rank", json_integer((json_int_t)r->rank));
    json_object_set_new(result, "error", cli_real(r->error));
    json_object_set_new(result, "distance_from_sum", cli_real(r->distance));
    json_object_set_new(result, "crosstalk", cli_real(r->crosstalk));
}

static bool print_adapter(cli_call *call, const settings *s, const cb_adapter_merge_report *r, double seconds)
{
    bool measured = r->difference.positions > 0, factors = r->rank > 0;
    if (call->common.json) {
        json_t *result = json_pack("{s:s, s:I}", "output", s->output, "adapters", (json_int_t)s->adapter.count);
        if (result) {
            adapter_json(result, r);
            cli_difference_json(result, &r->difference, measured);
            json_object_set_new(result, "seconds", cli_real(seconds));
        }
        return cli_json(result);
    }
    cli_field("merged adapter", "%s", s->output);
    if (factors) {
        cli_field("rank", "%lld, in %lld layers", (long long)r->rank, (long long)r->layers);
        cli_field("rounding to rank", "%.3g of a layer's change at most (%s)", r->error, r->error_layer);
        cli_field("from the sum", "%.3g of the weighted sum of the changes", r->distance);
    }
    if (factors && s->adapter.count > 1)
        cli_field("cross-talk", "%.3g at most (%s)", r->crosstalk, r->crosstalk_layer);
    if (measured)
        cli_difference_print(&r->difference, true);
    cli_field("time", "%s", cli_seconds(seconds));
    return true;
}

static bool merge_adapters(cli_call *call, settings *s, cb_adapter_merge_report *report)
{
    const char *base = call->argument_count ? call->arguments[0] : NULL;
    inputs in;
    s->adapters.combine = &s->models;
    s->adapters.max_kl = s->options.max_kl;
    s->adapters.min_agreement = s->options.min_agreement;
    bool ok = inputs_split(&in, "--adapter", &s->adapter) &&
              cb_merge_adapters(base, (const char *const *)in.paths, in.weights, in.count, s->output, &s->adapters, report);
    inputs_free(&in);
    return ok;
}

static bool run_adapters(cli_call *call, settings *s)
{
    double begin = cb_now();
    cb_adapter_merge_report report = {0};
    cli_rehearsal rehearsal;
    const char *base = call->argument_count ? call->arguments[0] : NULL;
    const cb_option *idle = given_of(call, cb_quantize_option_table, (const char *const[]){NULL});
    if (s->model.count || !s->adapter.count)
        return cli_refuse("--into adapter: expected --adapter DIR for each adapter to merge%s", s->model.count ? ", found --model" : "");
    if (idle)
        return cli_refuse("%s: is for models, found --into adapter", idle->name);
    if (cli_given(call, "combination_type") && s->adapters.combination_type && cli_given(call, "method"))
        return cli_refuse("found --method and --combination-type, expected one of them");
    if (cb_ends_with(s->output, ".gguf"))
        return cli_refuse("%s: adapters are merged into a directory, which convert makes a GGUF file of", s->output);
    s->models.dtype = s->options.dtype;
    s->models.seed = s->options.seed;
    if (!output_apart(s, base, "--adapter", &s->adapter))
        return false;
    if (s->dry_run)
        return cli_plan(call, &rehearsal, cli_rehearsal_begin(&rehearsal, s->output) && merge_adapters(call, s, &report));
    return merge_adapters(call, s, &report) && print_adapter(call, s, &report, cb_now() - begin);
}

/* ---- by a recipe ---- */

static bool merge_recipe(const settings *s)
{
    return cb_merge_recipe(s->config, s->output, (uint64_t)s->options.seed, s->models.ignore_tokenizers);
}

static bool run_recipe(cli_call *call, const settings *s)
{
    static const char *const allowed[] = {"seed", "ignore_tokenizers", NULL};
    static const cb_option *const tables[] = {cb_merge_option_table, cb_model_merge_option_table, cb_adapter_merge_option_table,
                                              cb_quantize_option_table};
    const cb_option *idle = NULL;
    double begin = cb_now();
    cli_rehearsal rehearsal;
    for (int i = 0; !idle && i < 4; i++)
        idle = given_of(call, tables[i], allowed);
    if (idle || s->model.count || s->adapter.count || call->argument_count)
        return cli_refuse("--config: %s says what is merged, found %s", s->config, idle ? idle->name : "models or adapters too");
    if (!cli_output_directory(s->output, NULL))
        return false;
    if (s->dry_run)
        return cli_plan(call, &rehearsal, cli_rehearsal_begin(&rehearsal, s->output) && merge_recipe(s));
    return merge_recipe(s) && print_merged(call, s, cb_now() - begin);
}

/* ---- all of it ---- */

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    if (s->adapter_option.count && (s->config || s->into == INTO_ADAPTER || s->model.count))
        return cli_refuse("--adapter-option: is for adapters that are folded into a model");
    if (s->config)
        return run_recipe(call, s);
    if (s->into == INTO_ADAPTER)
        return run_adapters(call, s);
    if (!call->argument_count)
        return cli_usage(call, "found no MODEL, which only --into adapter and --config do without");
    if (s->model.count && s->adapter.count)
        return cli_refuse("found --model and --adapter: fold adapters into their models first, then merge those");
    if (!s->model.count && !s->adapter.count)
        return cli_refuse("expected --adapter DIR, to fold it into %s, or --model DIR, to merge both", call->arguments[0]);
    if (s->model.count)
        return run_models(call, s);
    const cb_option *idle = given_of(call, cb_model_merge_option_table, (const char *const[]){NULL});
    if (!idle)
        idle = given_of(call, cb_adapter_merge_option_table, (const char *const[]){NULL});
    if (idle)
        return cli_refuse("%s: is for merging whole models, or adapters --into adapter, found --adapter", idle->name);
    cb_difference difference = {0};
    double begin = cb_now();
    cli_rehearsal rehearsal;
    bool ready = cb_ends_with(s->output, ".gguf") ? cli_output_file(s->output) : cli_output_directory(s->output, call->arguments[0]);
    if (ready && s->dry_run)
        return cli_plan(call, &rehearsal, cli_rehearsal_begin(&rehearsal, s->output) && load_and_fold(call, s, &difference));
    return ready && load_and_fold(call, s, &difference) && print_result(call, s, s->adapter.count, cb_now() - begin, &difference);
}

const cli_command cli_merge = {
    .name = "merge",
    .summary = "fold adapters into their base, merge adapters into one, or merge whole models",
    .synopsis = "[MODEL] {--adapter DIR[=weight]... | --model DIR[=weight]... | --config FILE} --output PATH [options]",
    .description =
        "With --adapter: writes a new model that needs no adapter: a directory, or a GGUF file. Of a GGUF base all metadata are kept as "
        "they are, "
        "and matrices that change are rounded to the type they had, or to --dtype. The merged model is loaded and its logits are "
        "compared with those of the adapted one; a merge beyond --max-kl is not kept.  With --into adapter: merges adapters into one; "
        "without "
        "more it does what all do together, each times its weight.  MODEL may be left out; with it the two are compared.  With --model: "
        "merges model directories of one "
        "architecture by --method into a new one; MODEL is what changes are counted from, and its files are the pattern of the result.",
    .least = 0,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"output", NULL},
    .examples =
        (const char *const[]){
            "cambium merge models/base --adapter out/adapter --output out/merged",
            "cambium merge models/base --adapter a=0.7 --adapter b=0.3 --output out/both --dtype f32",
            "cambium merge --into adapter --adapter a=0.7 --adapter b=0.3 --output out/both",
            "cambium merge models/base --into adapter --adapter a --adapter b --method ties --density 0.3 --rank 16 --output out/ties",
            "cambium merge --into adapter --adapter a --adapter b --combination-type dare_linear --density 0.5 --output out/dare",
            "cambium merge base-q8.gguf --adapter out/adapter --output merged.gguf",
            "cambium merge models/base --model tuned-1=0.6 --model tuned-2=0.6 --method ties --density 0.3 --output out/ties",
            "cambium merge models/a --model models/b --method slerp --t 0.4 --output out/slerp",
            "cambium merge --config recipe.yml --output out/franken",
            "cambium merge models/base-nf4 --adapter out/adapter --output out/merged --max-kl 0.5", NULL},
    .run = run};
