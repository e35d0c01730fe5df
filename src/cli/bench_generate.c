/* bench_generate.c: `cambium bench generate`: one table of how fast this machine generates with weights of each kind: the prompt (many rows a
 * product) and one token after another (one row).  Several kinds are measured one by one in processes of their own. */
#include <string.h>

#include "cli/cli.h"

typedef struct generate_settings {
    int shape, dtype;
    cb_string_list weights;
    int64_t prompt_tokens, new_tokens;
} generate_settings;

static const cb_option generate_table[] = {
    CB_OPT_ENUM(generate_settings, shape, 1, cli_bench_shapes, "size of the model"),
    CB_OPT_LIST(generate_settings, weights, NULL, "NAME,...",
                "kinds of weights: f32, bf16, int8, int8-block, nf4, types of GGUF; without it all"),
    CB_OPT_ENUM(generate_settings, dtype, 1, cli_dtype_names, "dtype of activations"),
    CB_OPT_INT(generate_settings, prompt_tokens, 128, 1, 1 << 20, "tokens of the prompt"),
    CB_OPT_INT(generate_settings, new_tokens, 33, 2, 1e6, "tokens generated; all but the first are timed"),
    CB_OPT_END};
static const cli_group generate_groups[] = {{"Measuring", generate_table, 0}, {0}};

/* A kind of weights is a dtype of the plain model or one to quantise to. */
static bool weights_of(const char *name, cb_dtype *dtype, int *quantize)
{
    *dtype = strcmp(name, "f32") == 0 ? CB_F32 : CB_BF16;
    *quantize = 0;
    if (strcmp(name, "f32") == 0 || strcmp(name, "bf16") == 0)
        return true;
    for (int i = 1; cli_bench_quantize[i]; i++)
        if (strcmp(name, cli_bench_quantize[i]) == 0) {
            *quantize = i;
            return true;
        }
    return cli_refuse("--weights: found \"%.40s\", expected f32, bf16, int8, int8-block, nf4, q8_0, q6_k, q5_k, q5_0, q4_k or q4_0", name);
}

/* The second run counts: the first one reads the file and makes oneDNN's code. */
static bool generate_twice(cb_model *model, const generate_settings *s, cb_generation *out)
{
    int32_t *ids = cb_calloc((size_t)s->prompt_tokens, sizeof *ids);
    cb_rng rng = {.seed = 7};
    for (int64_t i = 0; ids && i < s->prompt_tokens; i++)
        ids[i] = 3 + (int32_t)(31996 * cb_rng_uniform(&rng));
    cb_generate_options options;
    bool ok = ids && cb_options_init(cb_generate_option_table, &options);
    options.ignore_eos = true;
    for (int run = 0; ok && run < 2; run++) {
        options.max_new_tokens = run ? s->new_tokens : 2;
        ok = cb_generate_ids(model, NULL, ids, (size_t)s->prompt_tokens, &options, NULL, NULL, out);
    }
    cb_free(ids);
    return ok;
}

/* One row, in this process. */
static json_t *measure(const generate_settings *s, const char *name)
{
    cb_dtype dtype;
    int quantize;
    cli_bench_model made = {0};
    cb_generation out = {0};
    bool ok = weights_of(name, &dtype, &quantize) && cli_bench_model_make(&made, s->shape, dtype, quantize);
    cb_model *model = ok ? cb_model_load_with(made.path, (cb_model_options){.dtype = cli_dtype(s->dtype)}) : NULL;
    ok = model && generate_twice(model, s, &out);
    json_t *row =
        ok ? json_pack("{s:s, s:s, s:i, s:o, s:o, s:I}", "shape", cli_bench_shapes[s->shape], "weights", name, "threads", cb_threads(),
                       "prompt_tokens_per_second", cli_real((double)s->prompt_tokens / out.prompt_seconds), "tokens_per_second",
                       cli_real((double)(out.count - 1) / out.generate_seconds), "peak_memory", (json_int_t)cb_peak_rss())
           : NULL;
    cb_generation_free(&out);
    cb_model_free(model);
    cli_bench_model_remove(&made);
    return row;
}

static json_t *measure_apart(const generate_settings *s, const char *name)
{
    char prompt[24], count[24], threads[24];
    snprintf(prompt, sizeof prompt, "%lld", (long long)s->prompt_tokens);
    snprintf(count, sizeof count, "%lld", (long long)s->new_tokens);
    snprintf(threads, sizeof threads, "%d", cb_threads());
    const char *words[] = {CLI_PROGRAM,
                           "bench",
                           "generate",
                           "--json",
                           "--quiet",
                           "--shape",
                           cli_bench_shapes[s->shape],
                           "--weights",
                           name,
                           "--dtype",
                           cli_dtype_names[s->dtype],
                           "--prompt-tokens",
                           prompt,
                           "--new-tokens",
                           count,
                           "--threads",
                           threads,
                           NULL};
    cli_status("%s, %s", cli_bench_shapes[s->shape], name);
    json_t *result = cli_run_self("bench generate", words), *row = json_incref(json_array_get(json_object_get(result, "rows"), 0));
    json_decref(result);
    return row;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static bool print_table(const generate_settings *s, const json_t *rows)
{
    cli_table table = {.columns = 5, .right = "lrrrr"};
    const char *const titles[] = {"weights", "prompt tokens/s", "tokens/s", "speed", "peak memory"};
    for (int i = 0; i < table.columns; i++)
        cli_table_add(&table, "%s", titles[i]);
    const json_t *first = json_array_get(rows, 0);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        cli_table_add(&table, "%s", json_string_value(json_object_get(row, "weights")));
        cli_table_add(&table, "%.1f", number(row, "prompt_tokens_per_second"));
        cli_table_add(&table, "%.1f", number(row, "tokens_per_second"));
        cli_table_add(&table, "%.2f", number(row, "tokens_per_second") / number(first, "tokens_per_second"));
        cli_table_add(&table, "%s", cli_bytes((uint64_t)number(row, "peak_memory")));
    }
    printf("%s Llama, %s activations, a prompt of %lld tokens and %lld more, %d threads; speed against the first row\n",
           cli_bench_shapes[s->shape], cli_dtype_names[s->dtype], (long long)s->prompt_tokens, (long long)s->new_tokens, cb_threads());
    cli_table_print(&table);
    return cb_ok();
}

static bool generate_run(cli_call *call, void *settings_)
{
    const generate_settings *s = settings_;
    static const char *const all[] = {"bf16", "f32", "int8", "int8-block", "nf4", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0"};
    size_t count = s->weights.count ? s->weights.count : sizeof all / sizeof *all;
    const char *const *names = s->weights.count ? (const char *const *)s->weights.items : all;
    cb_dtype dtype;
    int quantize;
    for (size_t i = 0; i < count; i++)
        if (!weights_of(names[i], &dtype, &quantize))
            return false;
    json_t *rows = json_array();
    for (size_t i = 0; i < count && cb_ok(); i++) {
        json_t *row = count == 1 ? measure(s, names[i]) : measure_apart(s, names[i]);
        if (row)
            json_array_append_new(rows, row);
    }
    cli_status_clear();
    if (cb_ok() && call->common.json)
        return cli_json(json_pack("{s:o}", "rows", rows));
    bool ok = cb_ok() && print_table(s, rows);
    json_decref(rows);
    return ok;
}

const cli_command cli_bench_generate = {
    .name = "bench generate",
    .summary = "a table of how fast this machine generates",
    .synopsis = "[options]",
    .description =
        "Makes a Llama-shaped model of random weights in a temporary directory (TMPDIR; up to 6.6 GB for 1b), once for each kind of "
        "weights, and measures the prompt's pass and one token after another.  Types of GGUF hold the embedding and the head "
        "too; of the others these stay bf16.",
    .settings_size = sizeof(generate_settings),
    .groups = generate_groups,
    .examples =
        (const char *const[]){"cambium bench generate --shape 15m", "cambium bench generate --shape 1b --weights bf16,nf4,q4_k", NULL},
    .run = generate_run};
