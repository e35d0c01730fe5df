/* convert.c: `cambium convert`: models of other formats into Hugging Face directories. */
#include "cli/cli.h"

typedef struct settings {
    char *tokenizer, *output;
} settings;

static const cb_option table[] = {CB_OPT_STRING(settings, tokenizer, NULL, "FILE", "the tokenizer that goes with it (tok512.bin)"),
                                  CB_OPT_STRING(settings, output, NULL, "DIR", "model directory to write"), CB_OPT_END};
static const cli_group groups[] = {{"Input and output", table, 0}, {0}};

static bool print_result(cli_call *call, const settings *s, double seconds)
{
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:s, s:o}", "model", call->arguments[0], "tokenizer", s->tokenizer, "output", s->output,
                                  "seconds", cli_real(seconds)));
    cli_field("model directory", "%s", s->output);
    return true;
}

static bool run(cli_call *call, void *settings_)
{
    const settings *s = settings_;
    double begin = cb_now();
    return cli_output_directory(s->output, NULL) && cb_llama2c_convert(call->arguments[0], s->tokenizer, s->output) &&
           print_result(call, s, cb_now() - begin);
}

const cli_command cli_convert = {
    .name = "convert",
    .summary = "turn a llama2.c model into a model directory",
    .synopsis = "MODEL_BIN --tokenizer TOKENIZER_BIN --output DIR [options]",
    .description = "Reads llama2.c's .bin models and tokenizers and writes config.json, model.safetensors and tokenizer.json.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"tokenizer", "output", NULL},
    .examples = (const char *const[]){"cambium convert stories260K.bin --tokenizer tok512.bin --output models/stories260k", NULL},
    .run = run};
