/* convert.c: `cambium convert`: models of other formats into Hugging Face directories, and directories into quantised ones. */
#include "cli/cli.h"

typedef struct settings {
    char *tokenizer, *output;
    cb_merge_options quantize;
} settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, tokenizer, NULL, "FILE", "the tokenizer that goes with a llama2.c model (tok512.bin)"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "model directory to write"), CB_OPT_END};

static const cb_option checks[] = {
    CB_OPT_BOOL(cb_merge_options, verify, true, "load what was quantised and compare it with the source"),
    CB_OPT_FLOAT(cb_merge_options, max_kl, 0.5, 0, 1e9, "keep nothing when the mean KL divergence (nats) of the next token is larger"),
    CB_OPT_FLOAT(cb_merge_options, min_agreement, 0, 0, 1, "keep nothing when the most likely token is the same less often"),
    CB_OPT_INT(cb_merge_options, seed, 0, 0, 9e15, "of the random tokens that are compared"), CB_OPT_END};

static const cli_group groups[] = {{"Input and output", table, 0},
                                   {"Quantising", cb_quantize_option_table, offsetof(settings, quantize)},
                                   {"Comparing", checks, offsetof(settings, quantize)},
                                   {0}};

static bool convert_llama2c(cli_call *call, const settings *s)
{
    double begin = cb_now();
    if (!s->tokenizer)
        return cli_usage(call, "--tokenizer is missing: a llama2.c model needs one; --quantize takes a model directory");
    if (!cli_output_directory(s->output, NULL) || !cb_llama2c_convert(call->arguments[0], s->tokenizer, s->output))
        return false;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:s, s:o}", "model", call->arguments[0], "tokenizer", s->tokenizer, "output", s->output,
                                  "seconds", cli_real(cb_now() - begin)));
    cli_field("model directory", "%s", s->output);
    return true;
}

static bool quantize(cli_call *call, const settings *s)
{
    double begin = cb_now();
    cb_difference d = {0};
    cli_base base = {0};
    const cb_string_list none = {0};
    bool ok = cli_output_directory(s->output, call->arguments[0]) && cli_base_open(&base, call->arguments[0], &none, CB_F32) &&
              cb_merge_fold(base.model, NULL, 0, s->output, &s->quantize, &d);
    cli_base_close(&base);
    if (!ok)
        return false;
    if (call->common.json) {
        json_t *result = json_pack("{s:s, s:s}", "model", call->arguments[0], "output", s->output);
        cli_difference_json(result, &d, s->quantize.verify);
        json_object_set_new(result, "seconds", cli_real(cb_now() - begin));
        return cli_json(result);
    }
    cli_field("quantised model", "%s", s->output);
    cli_difference_print(&d, s->quantize.verify);
    cli_field("time", "%s", cli_seconds(cb_now() - begin));
    return true;
}

static bool run(cli_call *call, void *settings_)
{
    const settings *s = settings_;
    return s->quantize.quantize != CB_QUANTIZE_NONE ? quantize(call, s) : convert_llama2c(call, s);
}

const cli_command cli_convert = {
    .name = "convert",
    .summary = "turn a llama2.c model into a model directory, or quantise one",
    .synopsis = "MODEL --output DIR [options]",
    .description =
        "Reads llama2.c's .bin models and tokenizers and writes config.json, model.safetensors and tokenizer.json. With --quantize "
        "it writes a model directory whose linear layers are quantised, as transformers with bitsandbytes (int8, nf4) or "
        "compressed-tensors (int8-block) loads them, and compares its logits with the source's.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"output", NULL},
    .examples = (const char *const[]){"cambium convert stories260K.bin --tokenizer tok512.bin --output models/stories260k",
                                      "cambium convert models/base --quantize nf4 --output models/base-nf4", NULL},
    .run = run};
