/* extract.c: `cambium extract`: what tuning changed in a model, as a LoRA adapter. */
#include "cli/cli.h"

typedef struct settings {
    char *output;
    cb_extract_options options;
} settings;

static const cb_option table[] = {CB_OPT_STRING(settings, output, NULL, "DIR", "the adapter's directory; must not hold another one"),
                                  CB_OPT_END};
static const cli_group groups[] = {{"Output", table, 0}, {"Adapter", cb_extract_option_table, offsetof(settings, options)}, {0}};

static bool print_result(cli_call *call, const settings *s, const cb_extraction *r)
{
    if (call->common.json) {
        json_t *dropped = json_array(), *result;
        for (size_t i = 0; i < r->dropped.count; i++)
            json_array_append_new(dropped, json_string(r->dropped.items[i]));
        result = json_pack("{s:s, s:I, s:I, s:o, s:o, s:s, s:o}", "output", s->output, "rank", (json_int_t)s->options.rank, "layers",
                           (json_int_t)r->layers, "kept", cli_real(r->kept), "least_kept", cli_real(r->least_kept), "least_kept_layer",
                           r->least, "dropped", dropped);
        if (result)
            cli_difference_json(result, &r->difference, true);
        return cli_json(result);
    }
    cli_field("adapter", "%s", s->output);
    cli_field("changes kept", "%.4f of their squares, in %lld layers; %.4f in %s", r->kept, (long long)r->layers, r->least_kept, r->least);
    for (size_t i = 0; i < r->dropped.count; i++)
        cli_field(i ? "" : "left out", "%s", r->dropped.items[i]);
    cli_difference_print(&r->difference, true);
    return true;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    char *config = cb_path_join(s->output, "adapter_config.json");
    cb_extraction report = {0};
    bool ok = config && cli_output_directory(s->output, call->arguments[0]);
    if (ok && cb_is_file(config))
        ok = cli_refuse("%s: found an adapter in it, expected a new or empty directory", s->output);
    cb_free(config);
    cb_model *base = ok ? cb_model_load(call->arguments[0], .dtype = CB_F32) : NULL;
    cb_model *tuned = base ? cb_model_load(call->arguments[1], .dtype = CB_F32) : NULL;
    ok = tuned && cb_merge_extract(base, tuned, s->output, &s->options, &report) && print_result(call, s, &report);
    cb_string_list_free(&report.dropped);
    cb_model_free(tuned);
    cb_model_free(base);
    return ok;
}

const cli_command cli_extract = {
    .name = "extract",
    .summary = "make a LoRA adapter of what tuning changed in a model",
    .synopsis = "BASE TUNED --output DIR [options]",
    .description =
        "Of the change of each layer the adapter holds the nearest of its rank.  How much of the changes that is, and how far the logits "
        "of BASE with the adapter are from those of TUNED, is printed.  What changed and is not in the adapter is refused by name.",
    .least = 2,
    .most = 2,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"output", NULL},
    .examples =
        (const char *const[]){"cambium extract models/base models/tuned --rank 32 --output out/lora",
                              "cambium extract base tuned --rank 64 --modules-to-save embed_tokens,lm_head,norm --output out/lora", NULL},
    .run = run};
