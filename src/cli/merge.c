/* merge.c: `cambium merge`: adapters folded into their base, checked against the adapted model; or whole models merged into one. */
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *output;
    bool dry_run;
    cb_string_list adapter, model;
    cb_merge_options options;
    cb_model_merge_options models;
} settings;

static const cb_option table[] = {
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to fold in, each with an optional =weight; may be given again"),
    CB_OPT_LIST(settings, model, NULL, "DIR,...",
                "model to merge with MODEL, each with an optional =weight; may be given again, and be MODEL itself"),
    CB_OPT_STRING(settings, output, NULL, "PATH",
                  "the merged model: a directory, or a GGUF file where it ends in .gguf; must not exist, or be empty"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP), CB_OPT_END};

static const cli_group groups[] = {{"Input and output", table, 0},
                                   {"Result", cb_merge_option_table, offsetof(settings, options)},
                                   {"Quantising", cb_quantize_option_table, offsetof(settings, options)},
                                   {"Merging whole models", cb_model_merge_option_table, offsetof(settings, models)},
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
    bool ok = cli_base_open(&base, call->arguments[0], &s->adapter, CB_F32) &&
              cb_merge_fold(base.model, base.adapters, base.adapter_count, s->output, &s->options, difference);
    cli_base_close(&base);
    return ok;
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
    char *paths[CB_MERGE_MOST_MODELS] = {0};
    double weights[CB_MERGE_MOST_MODELS];
    size_t count = s->model.count < CB_MERGE_MOST_MODELS ? s->model.count : CB_MERGE_MOST_MODELS;
    bool ok = s->model.count <= CB_MERGE_MOST_MODELS ||
              cli_refuse("--model: found %zu models, expected at most %d", s->model.count, CB_MERGE_MOST_MODELS);
    for (size_t i = 0; ok && i < count; i++)
        ok = cli_split_weight("--model", s->model.items[i], &paths[i], &weights[i]);
    ok = ok && cb_merge_models(call->arguments[0], (const char *const *)paths, weights, count, s->output, &s->models);
    for (size_t i = 0; i < count; i++)
        cb_free(paths[i]);
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

static bool check_models(cli_call *call, const settings *s)
{
    const cb_option *idle = given_of(call, cb_merge_option_table, (const char *const[]){"dtype", "seed", NULL});
    if (s->options.quantize)
        return cli_refuse("--quantize: is for folding adapters; quantise the merged model with convert");
    if (idle)
        return cli_refuse("%s: is for folding adapters, found --model", idle->name);
    if (cb_ends_with(s->output, ".gguf"))
        return cli_refuse("%s: whole models are merged into a directory, which convert makes a GGUF file of", s->output);
    bool ok = cli_output_directory(s->output, call->arguments[0]);
    for (size_t i = 0; ok && i < s->model.count; i++) {
        char *path = NULL;
        double weight;
        ok = cli_split_weight("--model", s->model.items[i], &path, &weight) && cli_output_directory(s->output, path);
        cb_free(path);
    }
    return ok;
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

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    if (s->model.count && s->adapter.count)
        return cli_refuse("found --model and --adapter: fold adapters into their models first, then merge those");
    if (!s->model.count && !s->adapter.count)
        return cli_refuse("expected --adapter DIR, to fold it into %s, or --model DIR, to merge both", call->arguments[0]);
    if (s->model.count)
        return run_models(call, s);
    const cb_option *idle = given_of(call, cb_model_merge_option_table, (const char *const[]){NULL});
    if (idle)
        return cli_refuse("%s: is for merging whole models, found --adapter", idle->name);
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
    .summary = "fold adapters into their base, or merge whole models",
    .synopsis = "MODEL {--adapter | --model} DIR[=weight]... --output PATH [options]",
    .description =
        "With --adapter: writes a new model that needs no adapter: a directory, or a GGUF file. Of a GGUF base all metadata are kept as "
        "they are, "
        "and matrices that change are rounded to the type they had, or to --dtype. The merged model is loaded and its logits are "
        "compared with those of the adapted one; a merge beyond --max-kl is not kept.  With --model: merges model directories of one "
        "architecture by --method into a new one; MODEL is what changes are counted from, and its files are the pattern of the result.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"output", NULL},
    .examples =
        (const char *const[]){
            "cambium merge models/base --adapter out/adapter --output out/merged",
            "cambium merge models/base --adapter a=0.7 --adapter b=0.3 --output out/both --dtype f32",
            "cambium merge base-q8.gguf --adapter out/adapter --output merged.gguf",
            "cambium merge models/base --model tuned-1=0.6 --model tuned-2=0.6 --method ties --density 0.3 --output out/ties",
            "cambium merge models/a --model models/b --method slerp --t 0.4 --output out/slerp",
            "cambium merge models/base-nf4 --adapter out/adapter --output out/merged --max-kl 0.5", NULL},
    .run = run};
