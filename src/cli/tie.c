/* tie.c: `cambium tie`: a model whose layers share weights, and back. */
#include "cli/cli.h"

typedef struct settings {
    char *output;
    bool untie;
    cb_tie_options tie;
} settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, output, NULL, "DIR", "the model directory to write; must not exist, or be an empty directory"),
    CB_OPT_BOOL(settings, untie, false, "the other way: a recursive model becomes one in which every layer has its own weights"),
    CB_OPT_END};
static const cli_group groups[] = {{"Output", table, 0}, {"Sharing", cb_tie_option_table, offsetof(settings, tie)}, {0}};

static bool run(cli_call *call, void *settings_)
{
    const settings *s = settings_;
    const char *input = call->arguments[0];
    if (!cli_output_directory(s->output, input) || !cb_directory_vacant(s->output) ||
        !(s->untie ? cb_untie_layers(input, s->output) : cb_tie_layers(input, s->output, &s->tie)))
        return false;
    cb_model *model = cb_model_load(s->output);
    int64_t parameters = model ? cb_model_parameter_count(model) : 0, layers = model ? cb_model_layers(model) : 0;
    int64_t shared = model ? cb_model_shared_layers(model) : 0;
    cb_model_free(model);
    if (!cb_ok())
        return false;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:I, s:I, s:I}", "model", input, "output", s->output, "layers", (json_int_t)layers,
                                  "shared_layers", (json_int_t)shared, "parameters", (json_int_t)parameters));
    cli_field("written", "%s", s->output);
    if (shared)
        cli_field("layers", "%lld, with the weights of %lld", (long long)layers, (long long)shared);
    else
        cli_field("layers", "%lld", (long long)layers);
    cli_field("parameters", "%s", cli_thousands(parameters));
    if (s->tie.rank && !s->untie)
        cli_field("relaxation", "%s/relaxation (LoRA of rank %lld)", s->output, (long long)s->tie.rank);
    return true;
}

const cli_command cli_tie = {
    .name = "tie",
    .summary = "share a model's layers (Relaxed Recursive Transformers), or untie them",
    .synopsis = "MODEL_DIR --output DIR [options]",
    .description =
        "The model's layers become the rounds of a loop through the first few, whose weights all share; with --rank every round gets LoRA "
        "factors of its own, in DIR/relaxation. `cambium pretrain --model DIR --adapter DIR/relaxation` trains both further, with "
        "--distill-model under the original's eyes. --untie makes a plain model of it, which other programs read.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"output", NULL},
    .examples =
        (const char *const[]){"cambium tie models/base --start average --rank 16 --output out/recursive",
                              "cambium pretrain --model out/recursive --adapter out/recursive/relaxation --distill-model models/base "
                              "--data text.txt --output out/uptrained --steps 1000",
                              NULL},
    .run = run};
