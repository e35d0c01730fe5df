/* merge.c: `cambium merge`: adapters folded into their base, checked against the adapted model. */
#include "cli/cli.h"

typedef struct settings {
    char *output;
    cb_string_list adapter;
    cb_merge_options options;
} settings;

static const cb_option table[] = {
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to fold in, each with an optional =weight; may be given again"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "the merged model; must not exist, or be empty"), CB_OPT_END};

static const cli_group groups[] = {{"Input and output", table, 0}, {"Merging", cb_merge_option_table, offsetof(settings, options)}, {0}};

static bool print_result(cli_call *call, const settings *s, size_t adapters, double seconds, const cb_difference *d)
{
    bool verified = s->options.verify;
    double relative = d->max_logit > 0 ? d->max_absolute / d->max_logit : 0;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:I, s:b, s:I, s:o, s:o, s:o, s:o, s:o}", "output", s->output, "adapters", (json_int_t)adapters,
                                  "verified", verified, "positions", (json_int_t)d->positions, "max_absolute_difference",
                                  verified ? cli_real(d->max_absolute) : json_null(), "max_relative_difference",
                                  verified ? cli_real(relative) : json_null(), "mean_kl", verified ? cli_real(d->mean_kl) : json_null(),
                                  "agreement", verified ? cli_real(d->agreement) : json_null(), "seconds", cli_real(seconds)));
    cli_field("merged model", "%s", s->output);
    if (verified) {
        cli_field("largest difference", "%.3g of a logit (%.2g of the largest logit), over %lld positions", d->max_absolute, relative,
                  (long long)d->positions);
        cli_field("mean KL divergence", "%.3g nats", d->mean_kl);
        cli_field("same likeliest token", "%.2f %%", 100 * d->agreement);
    } else {
        cli_field("difference", "not measured");
    }
    cli_field("time", "%s", cli_seconds(seconds));
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
    return cli_output_directory(s->output, call->arguments[0]) && load_and_fold(call, s, &difference) &&
           print_result(call, s, s->adapter.count, cb_now() - begin, &difference);
}

const cli_command cli_merge = {
    .name = "merge",
    .summary = "fold adapters into the weights of their base",
    .synopsis = "MODEL_DIR --adapter DIR[=weight]... --output DIR [options]",
    .description = "Writes a new model directory that needs no adapter. The merged model is loaded and its logits are compared with "
                   "those of the adapted one; a merge beyond --max-kl is not kept.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"adapter", "output", NULL},
    .examples = (const char *const[]){"cambium merge models/base --adapter out/adapter --output out/merged",
                                      "cambium merge models/base --adapter a=0.7 --adapter b=0.3 --output out/both --dtype f32", NULL},
    .run = run};
