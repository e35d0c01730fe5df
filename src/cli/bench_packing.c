/* bench_packing.c: `cambium bench packing`: what each way of filling rows does with the user's own data. */
#include "cli/cli.h"

typedef struct packing_settings {
    cb_string_list data;
    cb_data_options text;
} packing_settings;

static const cb_option packing_table[] = {
    CB_OPT_LIST(packing_settings, data, NULL, "FILE,...", "text, JSONL, CSV or TSV files, directories of them, or - for standard input"),
    CB_OPT_END};
static const cli_group packing_groups[] = {
    {"Measuring", packing_table, 0}, {"Data", cb_data_option_table, offsetof(packing_settings, text)}, {0}};

typedef struct way {
    const char *name;
    bool packing;
    cb_packing_strategy strategy;
} way;
/* The first one loses nothing: the others are set against its tokens. */
static const way ways[] = {{"wrapped", true, CB_PACKING_WRAPPED},
                           {"auto", true, CB_PACKING_AUTO},
                           {"bfd", true, CB_PACKING_BFD},
                           {"bfd_split", true, CB_PACKING_BFD_SPLIT},
                           {"no packing", false, CB_PACKING_AUTO}};
enum { WAYS = sizeof ways / sizeof *ways };

typedef struct outcome {
    int64_t rows, positions, padding, kept;
} outcome;

static bool measure(const cb_tokenizer *tokenizer, const cb_data_options *options, const way *w, outcome *out)
{
    cb_data_options o = *options;
    o.packing = w->packing;
    o.packing_strategy = (int)w->strategy;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    if (!data)
        return false;
    out->rows = cb_dataset_rows(data);
    out->positions = out->rows * o.sequence_length;
    out->padding = cb_dataset_padding(data);
    out->kept = out->positions - out->padding;
    cb_dataset_free(data);
    return true;
}

static bool print_json(const outcome *outcomes, int64_t length)
{
    json_t *rows = json_array();
    for (int i = 0; i < WAYS; i++) {
        const outcome *r = &outcomes[i];
        json_array_append_new(rows, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "strategy", ways[i].name, "rows", (json_int_t)r->rows,
                                              "positions", (json_int_t)r->positions, "padding", (json_int_t)r->padding, "tokens",
                                              (json_int_t)r->kept, "lost", (json_int_t)(outcomes->kept - r->kept)));
    }
    return cli_json(json_pack("{s:I, s:o}", "sequence_length", (json_int_t)length, "rows", rows));
}

static bool print_table(const outcome *outcomes, int64_t length)
{
    cli_table table = {.columns = 4, .right = "lrrr"};
    const char *const titles[] = {"strategy", "rows", "empty", "tokens lost"};
    for (int i = 0; i < table.columns; i++)
        cli_table_add(&table, "%s", titles[i]);
    for (int i = 0; i < WAYS; i++) {
        const outcome *r = &outcomes[i];
        cli_table_add(&table, "%s", ways[i].name);
        cli_table_add(&table, "%s", cli_thousands(r->rows));
        cli_table_add(&table, "%.2f %%", r->positions ? 100 * (double)r->padding / (double)r->positions : 0);
        cli_table_add(&table, "%.2f %%", outcomes->kept ? 100 * (double)(outcomes->kept - r->kept) / (double)outcomes->kept : 0);
    }
    printf("%s tokens in rows of %lld; a row costs the same whether its positions are empty or not\n", cli_thousands(outcomes->kept),
           (long long)length);
    cli_table_print(&table);
    return cb_ok();
}

static bool packing_run(cli_call *call, void *settings_)
{
    packing_settings *s = settings_;
    s->text.data = s->data;
    call->common.quiet = true; /* each way of five would warn of what the table says anyway */
    cb_tokenizer *tokenizer = cli_tokenizer(call->arguments[0], NULL);
    outcome outcomes[WAYS];
    bool ok = tokenizer;
    for (int i = 0; ok && i < WAYS; i++)
        ok = measure(tokenizer, &s->text, &ways[i], &outcomes[i]);
    cb_tokenizer_free(tokenizer);
    if (!ok)
        return false;
    return call->common.json ? print_json(outcomes, s->text.sequence_length) : print_table(outcomes, s->text.sequence_length);
}

const cli_command cli_bench_packing = {
    .name = "bench packing",
    .summary = "a table of how well rows are filled with your data",
    .synopsis = "TOKENIZER --data FILE [options]",
    .description =
        "Goes through the ways in which --packing and --packing-strategy of `cambium train` fill rows, and prints how many rows an "
        "epoch has, which share of their positions is empty, and which share of the tokens is in none of them (cut off, or the one "
        "token beyond a row that is still predicted).  TOKENIZER: a tokenizer.json or a model's directory.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(packing_settings),
    .groups = packing_groups,
    .required = (const char *const[]){"data", NULL},
    .examples = (const char *const[]){"cambium bench packing models/base --data train.jsonl --sequence-length 1024", NULL},
    .run = packing_run};
