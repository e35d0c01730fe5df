/* convert.c: `cambium convert`: models of other formats into Hugging Face directories. */
#include "cli/cli.h"

typedef struct settings {
    char *tokenizer, *output;
} settings;

static const cb_option table[] = {CB_OPT_STRING(settings, tokenizer, NULL, "FILE", "the tokenizer that goes with it (tok512.bin)"),
                                  CB_OPT_STRING(settings, output, NULL, "DIR", "model directory to write"), CB_OPT_END};
static const cli_group groups[] = {{"Input and output", table, 0}, {0}};

static bool run(cli_call *call, void *settings_)
{
    (void)call;
    (void)settings_;
    return false;
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
