/* tokenizer.c: `cambium tokenizer train | encode | decode | convert`. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ---- encode ---- */

typedef struct encode_settings {
    bool special_tokens;
} encode_settings;

static const cb_option encode_table[] = {
    CB_OPT_BOOL(encode_settings, special_tokens, true, "let the tokenizer add its own tokens, such as a beginning of text"), CB_OPT_END};
static const cli_group encode_groups[] = {{"Encoding", encode_table, 0}, {0}};

static bool print_encoding(cli_call *call, const cb_tokenizer *tokenizer, const cb_encoding *e)
{
    if (!call->common.json) {
        for (size_t i = 0; i < e->count; i++)
            printf("%s%d", i ? " " : "", e->ids[i]);
        putchar('\n');
        return true;
    }
    json_t *ids = json_array(), *tokens = json_array(), *spans = json_array();
    for (size_t i = 0; i < e->count; i++) {
        const char *token = cb_tokenizer_token(tokenizer, e->ids[i]);
        json_array_append_new(ids, json_integer(e->ids[i]));
        json_array_append_new(tokens, token ? json_string(token) : json_null());
        json_array_append_new(spans, json_pack("[i, i]", (int)e->spans[i].begin, (int)e->spans[i].end));
    }
    return cli_json(json_pack("{s:o, s:o, s:o}", "ids", ids, "tokens", tokens, "spans", spans));
}

static bool encode_run(cli_call *call, void *settings_)
{
    const encode_settings *s = settings_;
    cb_encoding e = {.want_spans = true};
    size_t length = 0;
    cb_tokenizer *tokenizer = cb_tokenizer_load(call->arguments[0]);
    char *text = tokenizer ? cli_text_argument(call->argument_count > 1 ? call->arguments[1] : "-", &length) : NULL;
    bool ok = text && cb_tokenizer_encode(tokenizer, text, length, s->special_tokens, &e) && print_encoding(call, tokenizer, &e);
    cb_free(text);
    cb_encoding_free(&e);
    cb_tokenizer_free(tokenizer);
    return ok;
}

const cli_command cli_tokenizer_encode = {
    .name = "tokenizer encode",
    .summary = "text to token ids",
    .synopsis = "TOKENIZER [TEXT] [options]",
    .description = "TOKENIZER is a tokenizer.json, another file that `tokenizer convert` reads, or a directory that holds one. Without "
                   "TEXT, or with -, standard input is read. --json "
                   "adds the tokens and where they stand in the text, in bytes.",
    .least = 1,
    .most = 2,
    .settings_size = sizeof(encode_settings),
    .groups = encode_groups,
    .examples = (const char *const[]){"cambium tokenizer encode models/base \"Hello world\"",
                                      "cambium tokenizer encode tokenizer.json --no-special-tokens --json < text.txt", NULL},
    .run = encode_run};

/* ---- decode ---- */

typedef struct decode_settings {
    bool skip_special_tokens;
} decode_settings;

static const cb_option decode_table[] = {CB_OPT_BOOL(decode_settings, skip_special_tokens, false, "leave out special tokens"), CB_OPT_END};
static const cli_group decode_groups[] = {{"Decoding", decode_table, 0}, {0}};

typedef struct id_list {
    int32_t *items;
    size_t count, capacity;
} id_list;

/* Numbers between blanks, commas and brackets. */
static bool parse_ids(const char *text, int32_t limit, id_list *ids)
{
    for (text += strspn(text, " \t\r\n,[]"); *text; text += strspn(text, " \t\r\n,[]")) {
        char *end;
        long id = strtol(text, &end, 10);
        if (end == text || (*end && !strchr(" \t\r\n,[]", *end)) || id < 0 || id >= limit)
            return cli_refuse("found \"%.*s\", expected token ids from 0 to %d", (int)strcspn(text, " \t\r\n,[]"), text, limit - 1);
        if (!cb_grow(&ids->items, &ids->capacity, ids->count + 1, sizeof *ids->items))
            return false;
        ids->items[ids->count++] = (int32_t)id;
        text = end;
    }
    return true;
}

static bool decode_run(cli_call *call, void *settings_)
{
    const decode_settings *s = settings_;
    cb_tokenizer *tokenizer = cb_tokenizer_load(call->arguments[0]);
    if (!tokenizer)
        return false;
    id_list ids = {0};
    cb_string text = {0};
    size_t length;
    char *input = call->argument_count > 1 ? NULL : cb_file_read("-", (size_t)1 << 30, &length);
    int32_t limit = cb_tokenizer_id_limit(tokenizer);
    bool ok = call->argument_count > 1 || (input && parse_ids(input, limit, &ids));
    for (int i = 1; ok && i < call->argument_count; i++)
        ok = parse_ids(call->arguments[i], limit, &ids);
    ok = ok && cb_tokenizer_decode(tokenizer, ids.items, ids.count, s->skip_special_tokens, &text);
    const char *decoded = text.data ? text.data : "";
    if (ok && call->common.json)
        ok = cli_json(json_pack("{s:s%}", "text", decoded, text.length));
    else if (ok)
        printf("%s\n", decoded);
    cb_free(input);
    cb_free(ids.items);
    cb_string_free(&text);
    cb_tokenizer_free(tokenizer);
    return ok;
}

const cli_command cli_tokenizer_decode = {.name = "tokenizer decode",
                                          .summary = "token ids to text",
                                          .synopsis = "TOKENIZER [ID]... [options]",
                                          .description = "Ids may be separated by blanks or commas; without any, standard input is read.",
                                          .least = 1,
                                          .most = 1 << 20,
                                          .settings_size = sizeof(decode_settings),
                                          .groups = decode_groups,
                                          .examples = (const char *const[]){"cambium tokenizer decode models/base 40 503 79 996", NULL},
                                          .run = decode_run};

/* ---- convert ---- */

/* Of work that depends on values, which is therefore done. */
#define DRY_RUN_HELP "do everything except write the file, and print what memory and disk that takes"

typedef struct convert_settings {
    char *output;
    bool dry_run;
} convert_settings;

static const cb_option convert_table[] = {CB_OPT_STRING(convert_settings, output, NULL, "TOKENIZER_JSON", "file to write"),
                                          CLI_DRY_RUN(convert_settings, DRY_RUN_HELP), CB_OPT_END};
static const cli_group convert_groups[] = {{"Output", convert_table, 0}, {0}};

static bool convert_run(cli_call *call, void *settings_)
{
    const convert_settings *s = settings_;
    cli_rehearsal rehearsal;
    if (!cli_output_file(s->output) || (s->dry_run && !cli_rehearsal_begin(&rehearsal, s->output)))
        return false;
    cb_tokenizer *tokenizer = cb_tokenizer_load(call->arguments[0]);
    bool ok = tokenizer && cb_tokenizer_save(tokenizer, s->output);
    size_t size = ok ? cb_tokenizer_vocab_size(tokenizer) : 0;
    cb_tokenizer_free(tokenizer);
    if (s->dry_run)
        return cli_plan(call, &rehearsal, ok);
    if (!ok)
        return false;
    if (call->common.json)
        return cli_json(
            json_pack("{s:s, s:I, s:I}", "output", s->output, "vocabulary", (json_int_t)size, "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("tokenizer", "%s", s->output);
    cli_field("vocabulary", "%s tokens", cli_thousands((int64_t)size));
    return true;
}

const cli_command cli_tokenizer_convert = {
    .name = "tokenizer convert",
    .summary = "write any tokenizer as a tokenizer.json",
    .synopsis = "SOURCE --output TOKENIZER_JSON [options]",
    .description = "SOURCE is a model directory or one file: a SentencePiece model (tokenizer.model, spiece.model, spm.model, "
                   "sentencepiece.bpe.model), vocab.json with merges.txt beside it, vocab.txt, or a tokenizer.json, which is copied. In a "
                   "directory, tokenizer_class of tokenizer_config.json says what goes around the vocabulary: Llama, CodeLlama, Gemma, "
                   "T5, XLMRoberta, Camembert, Albert, XLNet, DebertaV2, GPT2, GPTNeoX, Roberta, Bart, Longformer, LED, Mvp, Deberta, "
                   "CLIP, Qwen2, Bert, MPNet (each with Tokenizer behind it); other classes of transformers that would make other tokens "
                   "are refused by name. Without it a SentencePiece model's own settings count. The other commands read these files as "
                   "they are.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(convert_settings),
    .groups = convert_groups,
    .required = (const char *const[]){"output", NULL},
    .examples = (const char *const[]){"cambium tokenizer convert models/llama-2 --output tokenizer.json",
                                      "cambium tokenizer convert spiece.model --output tokenizer.json", NULL},
    .run = convert_run};

/* ---- train ---- */

typedef struct train_settings {
    char *output;
    bool dry_run;
    cb_string_list data;
    cb_tokenizer_train_config config;
} train_settings;

static const cb_option train_table[] = {
    CB_OPT_LIST(train_settings, data, NULL, "FILE,...", "text, JSONL, CSV or TSV files, directories of them, or - for standard input"),
    CB_OPT_STRING(train_settings, output, NULL, "TOKENIZER_JSON", "file to write"), CLI_DRY_RUN(train_settings, DRY_RUN_HELP), CB_OPT_END};
static const cli_group train_groups[] = {
    {"Input and output", train_table, 0}, {"Training", cb_tokenizer_train_options, offsetof(train_settings, config)}, {0}};

/* The texts of the records, one after another: of a pair both, of a conversation each message. */
typedef struct corpus {
    cb_records *records;
    cb_record_text record;
    size_t part;   /* of the record, the next to give */
    int64_t count; /* of records */
} corpus;

/* Text number `part` of a record, or NULL. */
static const char *part_of(const cb_record_text *r, size_t part, size_t *length)
{
    const char *text = NULL;
    if (r->text) {
        *length = r->text_length;
        return part == 0 ? r->text : NULL;
    }
    if (r->conversation) {
        const json_t *message = json_array_get(json_object_get(r->conversation, "messages"), part);
        text = json_string_value(json_object_get(message, "content"));
        text = message && !text ? "" : text;
    } else if (part < 2)
        text = part == 0 ? r->prompt : r->completion;
    *length = text ? strlen(text) : 0;
    return text;
}

static bool next_text(void *user, const char **utf8, size_t *length)
{
    corpus *c = user;
    while (!c->count || !(*utf8 = part_of(&c->record, c->part, length))) {
        if (!cb_records_next(c->records, &c->record))
            return c->count || !cb_ok() ? false : cli_refuse("--data: found no text, expected some to learn from");
        c->count++;
        c->part = 0;
    }
    c->part++;
    return true;
}

static bool print_trained(cli_call *call, const char *output, int64_t records, double seconds)
{
    cb_tokenizer *tokenizer = cb_tokenizer_load(output);
    if (!tokenizer)
        return false;
    size_t size = cb_tokenizer_vocab_size(tokenizer);
    cb_tokenizer_free(tokenizer);
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:I, s:I, s:o, s:I}", "output", output, "vocabulary", (json_int_t)size, "records",
                                  (json_int_t)records, "seconds", cli_real(seconds), "peak_memory", (json_int_t)cb_peak_rss()));
    cli_field("tokenizer", "%s", output);
    cli_field("vocabulary", "%s tokens, from %s records", cli_thousands((int64_t)size), cli_thousands(records));
    cli_field("time", "%s", cli_seconds(seconds));
    return true;
}

static bool train_run(cli_call *call, void *settings_)
{
    train_settings *s = settings_;
    double begin = cb_now();
    cli_rehearsal rehearsal;
    if (!cli_output_file(s->output) || (s->dry_run && !cli_rehearsal_begin(&rehearsal, s->output)))
        return false;
    corpus c = {.records = cb_records_open(&s->data, NULL)};
    bool ok = c.records && cb_tokenizer_train(&s->config, next_text, &c, s->output);
    cb_records_close(c.records);
    if (s->dry_run)
        return cli_plan(call, &rehearsal, ok);
    return ok && print_trained(call, s->output, c.count, cb_now() - begin);
}

const cli_command cli_tokenizer_train = {
    .name = "tokenizer train",
    .summary = "make a byte-level BPE tokenizer from text",
    .synopsis = "--data FILE,... --vocab-size N --output TOKENIZER_JSON [options]",
    .description = "The most frequent pair of neighbours is merged first, until the vocabulary is full. The file is one that the "
                   "tokenizers package reads.",
    .settings_size = sizeof(train_settings),
    .groups = train_groups,
    .required = (const char *const[]){"data", "output", NULL},
    .examples = (const char *const[]){"cambium tokenizer train --data texts/ --vocab-size 8192 --output tokenizer.json", NULL},
    .run = train_run};
