/* merge.c: `cambium merge`: adapters folded into their base, checked against the adapted model. */
#include "cli/cli.h"

typedef struct settings {
    char *output;
    bool dry_run;
    cb_string_list adapter;
    cb_merge_options options;
} settings;

static const cb_option table[] = {
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to fold in, each with an optional =weight; may be given again"),
    CB_OPT_STRING(settings, output, NULL, "PATH",
                  "the merged model: a directory, or a GGUF file where it ends in .gguf; must not exist, or be empty"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP), CB_OPT_END};

static const cli_group groups[] = {{"Input and output", table, 0},
                                   {"Merging", cb_merge_option_table, offsetof(settings, options)},
                                   {"Quantising", cb_quantize_option_table, offsetof(settings, options)},
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

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
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
    .summary = "fold adapters into the weights of their base",
    .synopsis = "MODEL --adapter DIR[=weight]... --output PATH [options]",
    .description =
        "Writes a new model that needs no adapter: a directory, or a GGUF file. Of a GGUF base all metadata are kept as they are, "
        "and matrices that change are rounded to the type they had, or to --dtype. The merged model is loaded and its logits are "
        "compared with those of the adapted one; a merge beyond --max-kl is not kept.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"adapter", "output", NULL},
    .examples = (const char *const[]){"cambium merge models/base --adapter out/adapter --output out/merged",
                                      "cambium merge models/base --adapter a=0.7 --adapter b=0.3 --output out/both --dtype f32",
                                      "cambium merge base-q8.gguf --adapter out/adapter --output merged.gguf",
                                      "cambium merge models/base-nf4 --adapter out/adapter --output out/merged --max-kl 0.5", NULL},
    .run = run};
