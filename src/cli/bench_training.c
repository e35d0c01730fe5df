/* bench_training.c: `cambium bench training`: one table of what LoRA training costs on this machine: every shape with and without
 * activation checkpointing, with plain and quantised weights.  Each row is a process of its own, `cambium bench lora`, so that its peak of memory is its own. */
#include "cli/cli.h"

typedef struct training_settings {
    int largest;
    int64_t steps, batch_size, sequence_length;
} training_settings;

static const cb_option training_table[] = {
    CB_OPT_ENUM(training_settings, largest, 1, cli_bench_shapes, "the largest model to be measured (1b: 1.1 billion weights, minutes)"),
    CB_OPT_INT(training_settings, steps, 10, 4, 1e6, "optimiser steps of each row"),
    CB_OPT_INT(training_settings, batch_size, 2, 1, 65536, "rows a step"),
    CB_OPT_INT(training_settings, sequence_length, 512, 2, 1 << 20, "tokens a row"), CB_OPT_END};
static const cli_group training_groups[] = {{"Measuring", training_table, 0}, {0}};

/* One way of training; the first of a shape is what the others are compared with. */
typedef struct variant {
    const char *title, *dtype, *quantize;
    bool checkpointing;
} variant;
static const variant variants[] = {{"bf16", "bf16", "none", false}, {"bf16, checkpointing", "bf16", "none", true},
                                   {"int8", "bf16", "int8", false}, {"int8 blocks", "bf16", "int8-block", false},
                                   {"nf4", "bf16", "nf4", false},   {"nf4, checkpointing", "bf16", "nf4", true},
                                   {"q6_k", "bf16", "q6_k", false}, {"q4_k", "bf16", "q4_k", false},
                                   {"f32", "f32", "none", false},   {"f32, checkpointing", "f32", "none", true}};

static json_t *measure(const training_settings *s, const char *shape, const variant *v)
{
    char steps[24], rows[24], length[24], threads[24];
    snprintf(steps, sizeof steps, "%lld", (long long)s->steps);
    snprintf(rows, sizeof rows, "%lld", (long long)s->batch_size);
    snprintf(length, sizeof length, "%lld", (long long)s->sequence_length);
    snprintf(threads, sizeof threads, "%d", cb_threads());
    const char *words[] = {
        CLI_PROGRAM, "bench",        "lora",   "--json",
        "--quiet",   "--shape",      shape,    "--quantize",
        v->quantize, "--dtype",      v->dtype, "--steps",
        steps,       "--batch-size", rows,     "--sequence-length",
        length,      "--threads",    threads,  v->checkpointing ? "--gradient-checkpointing" : "--no-gradient-checkpointing",
        NULL};
    cli_status("%s, %s", shape, v->title);
    return cli_run_self("bench lora", words);
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static bool add_row(cli_table *table, const char *shape, const variant *v, const json_t *row, const json_t *first)
{
    return cli_table_add(table, "%s", shape) && cli_table_add(table, "%s", v->title) &&
           cli_table_add(table, "%.0f", number(row, "tokens_per_second")) &&
           cli_table_add(table, "%.2f", number(first, "tokens_per_second") / number(row, "tokens_per_second")) &&
           cli_table_add(table, "%s", cli_bytes((uint64_t)number(row, "peak_memory"))) &&
           cli_table_add(table, "%.2f", number(row, "peak_memory") / number(first, "peak_memory")) &&
           cli_table_add(table, "%.0f %%", 100 * number(row, "share")) && cli_table_add(table, "%.4f", number(row, "last_loss"));
}

static bool measure_shape(const training_settings *s, const char *shape, cli_table *table, json_t *rows)
{
    json_t *first = NULL;
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof variants / sizeof *variants; i++) {
        json_t *row = measure(s, shape, &variants[i]);
        if (!first)
            first = json_incref(row);
        ok = row && add_row(table, shape, &variants[i], row, first) &&
             json_object_set_new(row, "variant", json_string(variants[i].title)) == 0 && json_array_append(rows, row) == 0;
        json_decref(row);
    }
    json_decref(first);
    return ok;
}

static bool training_run(cli_call *call, void *settings_)
{
    const training_settings *s = settings_;
    cli_table table = {.columns = 8, .right = "llrrrrrr"};
    const char *const titles[] = {"shape", "weights", "tokens/s", "time", "peak memory", "memory", "of product rate", "loss"};
    for (int i = 0; i < table.columns; i++)
        cli_table_add(&table, "%s", titles[i]);
    json_t *rows = json_array();
    bool ok = cb_ok();
    for (int i = 0; ok && i <= s->largest; i++)
        ok = measure_shape(s, cli_bench_shapes[i], &table, rows);
    cli_status_clear();
    if (!ok || call->common.json) {
        cb_string_list_free(&table.cells);
        return ok ? cli_json(json_pack("{s:o}", "rows", rows)) : (json_decref(rows), false);
    }
    json_decref(rows);
    printf("LoRA rank 8 on every linear layer, %lld x %lld tokens a step, %d threads; time and memory against the shape's first row\n",
           (long long)s->batch_size, (long long)s->sequence_length, cb_threads());
    cli_table_print(&table);
    return true;
}

const cli_command cli_bench_training = {
    .name = "bench training",
    .summary = "a table of what LoRA training costs on this machine",
    .synopsis = "[options]",
    .description =
        "Runs `cambium bench lora` for models of several sizes, with and without activation checkpointing, with plain and quantised frozen "
        "weights, and "
        "prints speed and memory side by side.  Models of random weights are made in a temporary directory (TMPDIR; 2.2 GB for 1b).",
    .settings_size = sizeof(training_settings),
    .groups = training_groups,
    .examples = (const char *const[]){"cambium bench training", "cambium bench training --largest 1b --batch-size 1 --steps 4", NULL},
    .run = training_run};
