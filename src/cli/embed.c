/* embed.c: `cambium embed`: texts to vectors of a sentence encoder. */
#include <string.h>

#include "cli/cli.h"

typedef struct settings {
    char *output, *prompt, *prompt_name;
    cb_string_list data, columns, adapter, adapter_option;
    int dtype;
    int64_t batch_size, max_seq_length, max_records;
    bool normalize, dry_run;
} settings;

static const cb_option table[] = {
    CB_OPT_LIST(settings, data, NULL, "FILE,...",
                "texts: the lines of plain text but blank ones, or text of JSONL, CSV and TSV files; - is standard input"),
    CB_OPT_STRING(settings, output, NULL, "FILE",
                  "where vectors go: an array of NumPy (.npy), else JSON lines; without it on standard output"),
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...", "adapter to attach, each with an optional =weight; may be given again"),
    CLI_ADAPTER_OPTION(settings),
    CB_OPT_STRING(settings, prompt, NULL, "TEXT", "what is put before every text, instead of the model's default prompt"),
    CB_OPT_STRING(settings, prompt_name, NULL, "NAME", "one of the model's prompts"),
    CB_OPT_LIST(settings, columns, NULL, "text=COLUMN", "what the field of the text is called in these files"),
    CB_OPT_INT(settings, max_records, 0, 0, 9e15, "texts to read at most (0: all)"),
    CB_OPT_INT(settings, max_seq_length, 0, 0, 1 << 24, "tokens of a text, which is cut behind them (0: as the model says)"),
    CB_OPT_BOOL(settings, normalize, 0, "give vectors the length 1, whatever the model's modules say"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed"),
    CB_OPT_INT(settings, batch_size, 32, 1, 65536, "texts per forward pass"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP),
    CB_OPT_END};

static const cli_group groups[] = {{"Texts and vectors", table, 0}, {0}};

/* ---- texts ---- */

static bool add_text(cb_string_list *texts, const cb_record_text *record)
{
    if (!record->text)
        return cli_refuse("%s:%lld: found a prompt or a conversation, expected text", record->path, (long long)record->line);
    if (memchr(record->text, 0, record->text_length))
        return cli_refuse("%s:%lld: found a NUL character, expected text without", record->path, (long long)record->line);
    char *text = cb_strndup(record->text, record->text_length);
    bool ok = text && cb_string_list_add(texts, text);
    cb_free(text);
    return ok;
}

static bool read_texts(const settings *s, cb_string_list *texts)
{
    const cb_records_options options = {.lines = true, .max_records = s->max_records, .columns = &s->columns};
    cb_records *records = cb_records_open(&s->data, &options);
    cb_record_text record;
    bool ok = records;
    while (ok && cb_records_next(records, &record))
        ok = add_text(texts, &record);
    cb_records_close(records);
    ok = ok && cb_ok();
    return ok && (texts->count || cli_refuse("--data: found no text"));
}

/* ---- vectors ---- */

static bool write_lines(cb_writer *w, const float *vectors, size_t count, size_t dimension)
{
    cb_string line = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        cb_string_clear(&line);
        ok = cb_string_printf(&line, "{\"index\":%zu,\"embedding\":[", i);
        for (size_t d = 0; ok && d < dimension; d++)
            ok = cb_string_printf(&line, "%s%.9g", d ? "," : "", (double)vectors[i * dimension + d]);
        ok = ok && cb_string_puts(&line, "]}\n");
        if (ok && w)
            ok = cb_writer_write(w, line.data, line.length);
        else if (ok && fwrite(line.data, 1, line.length, stdout) != line.length)
            ok = cb_fail(CB_ERR_IO, "cannot write to standard output") == CB_OK;
    }
    cb_string_free(&line);
    return ok;
}

static bool write_vectors(const char *output, const float *vectors, size_t count, size_t dimension)
{
    if (!output)
        return cb_rehearsing() || write_lines(NULL, vectors, count, dimension);
    if (cb_ends_with(output, ".npy"))
        return cb_npy_write(output, vectors, 2, (const int64_t[]){(int64_t)count, (int64_t)dimension});
    cb_writer *w = cb_writer_open(output);
    if (w && write_lines(w, vectors, count, dimension))
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static void on_progress(void *user, size_t done, size_t count)
{
    const cli_call *call = user;
    if (!call->common.quiet && !call->common.json)
        cli_status("%s of %s texts", cli_thousands((int64_t)done), cli_thousands((int64_t)count));
}

static bool report(const cli_call *call, const settings *s, const cb_embedder *e, size_t count, double seconds)
{
    size_t dimension = (size_t)cb_embedder_dimension(e);
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s, s:I, s:I, s:o, s:I}", "model", cb_embedder_directory(e), "output", s->output, "texts",
                                  (json_int_t)count, "dimension", (json_int_t)dimension, "seconds", cli_real(seconds), "peak_memory",
                                  (json_int_t)cb_peak_rss()));
    char *modules = cb_embedder_describe(e);
    cli_field("vectors", "%s of %zu numbers (%s)", cli_thousands((int64_t)count), dimension, modules ? modules : "");
    cli_field("time", "%s (%s texts/s)", cli_seconds(seconds), cli_thousands((int64_t)((double)count / (seconds > 0 ? seconds : 1))));
    cli_field("peak memory", "%s", cli_bytes(cb_peak_rss()));
    cli_field("written", "%s", s->output);
    cb_free(modules);
    return cb_ok();
}

static bool embed(cli_call *call, const settings *s, cb_embedder *e, const char *prompt)
{
    cb_string_list texts = {0};
    double begin = cb_now();
    bool ok = read_texts(s, &texts);
    size_t dimension = (size_t)cb_embedder_dimension(e);
    float *vectors = ok ? cb_calloc(texts.count, dimension * sizeof *vectors) : NULL;
    const cb_embed_options options = {
        .prompt = prompt, .batch_size = s->batch_size, .normalize = s->normalize, .progress = on_progress, .user = call};
    ok = vectors && cb_embed(e, (const char *const *)texts.items, texts.count, &options, vectors);
    cli_status_clear();
    ok = ok && write_vectors(s->output, vectors, texts.count, dimension);
    if (ok && s->output && !cb_rehearsing())
        ok = report(call, s, e, texts.count, cb_now() - begin);
    cb_free(vectors);
    cb_string_list_free(&texts);
    return ok;
}

/* ---- the command ---- */

static bool find_prompt(cli_call *call, const settings *s, const cb_embedder *e, const char **prompt)
{
    *prompt = s->prompt;
    if (s->prompt && s->prompt_name)
        return cli_usage(call, "--prompt and --prompt-name exclude each other");
    if (!s->prompt_name || (*prompt = cb_embedder_prompt(e, s->prompt_name)))
        return true;
    return cli_refuse("--prompt-name: %s has no prompt \"%.100s\"", cb_embedder_directory(e), s->prompt_name);
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    cli_base base = {0};
    cli_rehearsal rehearsal;
    const char *prompt;
    bool ok = (!s->output || (cli_output_file(s->output) && cli_output_is_no_input(s->output, &s->data))) &&
              (!s->dry_run || cli_rehearsal_begin(&rehearsal, s->output)) &&
              cli_embedder_open(call, &base, call->arguments[0], &s->adapter, &s->adapter_option, cli_dtype(s->dtype), s->max_seq_length) &&
              find_prompt(call, s, base.embedder, &prompt) && embed(call, s, base.embedder, prompt);
    cli_base_close(&base);
    return s->dry_run ? cli_plan(call, &rehearsal, ok) : ok;
}

const cli_command cli_embed = {
    .name = "embed",
    .summary = "turn texts into vectors of a sentence encoder",
    .synopsis = "MODEL_DIR [--adapter DIR[=weight]]... --data FILE,... [--output FILE]",
    .description = "The model is a directory of sentence-transformers (modules.json with Transformer, Pooling, Dense and Normalize), or a "
                   "plain model, the mean of whose tokens is taken.  Each line of output has the index of a text, from 0, and its vector.  "
                   "Texts of like length go through the model together; a text's vector does not depend on the others.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"data", NULL},
    .examples =
        (const char *const[]){"cambium embed models/all-MiniLM-L6-v2 --data sentences.txt",
                              "cambium embed models/all-MiniLM-L6-v2 --adapter out/adapter --data corpus.jsonl --output corpus.npy", NULL},
    .run = run};
