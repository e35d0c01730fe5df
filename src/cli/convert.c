/* convert.c: `cambium convert`: models and adapters from one format into another. */
#include "cambium/convert.h"

#include "cli/cli.h"

typedef struct settings {
    char *output;
    bool dry_run;
    cb_convert_options options;
    cb_merge_options quantize;
} settings;

static const cb_option table[] = {CB_OPT_STRING(settings, output, NULL, "PATH", "what to write; must not exist, or be an empty directory"),
                                  CLI_DRY_RUN(settings, CLI_NEEDS_HELP), CB_OPT_END};
static const cli_group groups[] = {{"Output", table, 0},
                                   {"Conversion", cb_convert_option_table, offsetof(settings, options)},
                                   {"Quantising a model directory", cb_quantize_option_table, offsetof(settings, quantize)},
                                   {0}};

static bool print_result(cli_call *call, const settings *s, const cb_convert_report *r, double seconds)
{
    const char *to = cb_options_find(cb_convert_option_table, "to")->choices[s->options.to];
    if (call->common.json) {
        json_t *result =
            json_pack("{s:s, s:s, s:s, s:s}", "input", call->arguments[0], "input_kind", r->input, "to", to, "output", s->output);
        cli_difference_json(result, &r->difference, r->verified);
        json_object_set_new(result, "seconds", cli_real(seconds));
        json_object_set_new(result, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(result);
    }
    cli_field("input", "%s", r->input);
    cli_field("written", "%s (%s)", s->output, to);
    cli_difference_print(&r->difference, r->verified);
    cli_field("time", "%s", cli_seconds(seconds));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

static bool load_and_quantize(cli_call *call, settings *s, cb_difference *d)
{
    cli_base base = {0};
    const cb_string_list none = {0};
    s->quantize.verify = s->options.verify;
    s->quantize.max_kl = s->options.max_kl >= 0 ? s->options.max_kl : 0.5;
    s->quantize.min_agreement = s->options.min_agreement;
    s->quantize.seed = s->options.seed;
    bool ok =
        cli_base_open(&base, call->arguments[0], &none, NULL, CB_F32) && cb_merge_fold(base.model, NULL, 0, s->output, &s->quantize, d);
    cli_base_close(&base);
    return ok;
}

/* A model directory into a quantised one. */
static bool quantize(cli_call *call, settings *s)
{
    double begin = cb_now();
    cb_difference d = {0};
    cli_rehearsal rehearsal;
    if (!cli_output_directory(s->output, call->arguments[0]))
        return false;
    if (s->dry_run)
        return cli_plan(call, &rehearsal, cli_rehearsal_begin(&rehearsal, s->output) && load_and_quantize(call, s, &d));
    if (!load_and_quantize(call, s, &d))
        return false;
    if (call->common.json) {
        json_t *result = json_pack("{s:s, s:s}", "model", call->arguments[0], "output", s->output);
        cli_difference_json(result, &d, s->quantize.verify);
        json_object_set_new(result, "seconds", cli_real(cb_now() - begin));
        json_object_set_new(result, "peak_memory", json_integer((json_int_t)cb_peak_rss()));
        return cli_json(result);
    }
    cli_field("quantised model", "%s", s->output);
    cli_difference_print(&d, s->quantize.verify);
    cli_field("time", "%s", cli_seconds(cb_now() - begin));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    return true;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    if (s->quantize.quantize != CB_QUANTIZE_NONE)
        return quantize(call, s);
    cb_convert_report report = {0};
    double begin = cb_now();
    cli_rehearsal rehearsal;
    if (s->dry_run)
        return cli_plan(call, &rehearsal,
                        cli_rehearsal_begin(&rehearsal, s->output) && cb_convert(call->arguments[0], s->output, &s->options, &report));
    return cb_convert(call->arguments[0], s->output, &s->options, &report) && print_result(call, s, &report, cb_now() - begin);
}

const cli_command cli_convert = {
    .name = "convert",
    .summary = "turn a model or an adapter into another format",
    .synopsis = "INPUT --output PATH [--to FORMAT] [options]",
    .description = "INPUT is a model directory, a GGUF file, a llama2.c model, or an adapter: LoRA of PEFT, llama.cpp (GGUF), MLX or "
                   "AdapterHub, and of the last also bottleneck adapters and ReFT; which one shows in its content. What was written is "
                   "loaded and its logits are compared with the input's; "
                   "a result beyond --max-kl is not kept, and what a format cannot hold is refused by name. With --quantize a model "
                   "directory becomes one whose linear layers are quantised, as transformers with bitsandbytes (int8, nf4) or "
                   "compressed-tensors (int8-block) loads them.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"output", NULL},
    .examples = (const char *const[]){"cambium convert stories260K.bin --tokenizer tok512.bin --output models/stories260k",
                                      "cambium convert models/base --to gguf --dtype q8_0 --output base.gguf",
                                      "cambium convert base.gguf --output models/from-gguf --dtype bf16",
                                      "cambium convert out/adapter --base models/base --to gguf-lora --output adapter.gguf",
                                      "cambium convert models/base --quantize nf4 --output models/base-nf4", NULL},
    .run = run};
