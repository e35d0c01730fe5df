/* sentinel.c: `cambium sentinel convert | encode`: models and text under pseudonyms of a key (SentinelLMs). */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

typedef struct key {
    char *bytes;
    size_t length;
} key;

/* A file's bytes without a line end behind them. */
static bool read_key(const char *path, key *k)
{
    k->bytes = cb_file_read(path, 4096, &k->length);
    while (k->bytes && k->length && (k->bytes[k->length - 1] == '\n' || k->bytes[k->length - 1] == '\r'))
        k->length--;
    return k->bytes && ((k->length >= 1 && k->length <= CB_SENTINEL_MOST_KEY) ||
                        cli_refuse("%s: found %zu bytes, expected a key of 1 to %d", path, k->length, CB_SENTINEL_MOST_KEY));
}

#define KEY_HELP "file with the key, 1 to 64 bytes on one line: who has it can read the pseudonyms"

/* ---- convert ---- */

typedef struct convert_settings {
    char *key_file, *output;
    cb_sentinel_options sentinel;
} convert_settings;

static const cb_option convert_table[] = {
    CB_OPT_STRING(convert_settings, key_file, NULL, "FILE", KEY_HELP),
    CB_OPT_STRING(convert_settings, output, NULL, "DIR", "the model directory to write; must not exist, or be an empty directory"),
    CB_OPT_END};
static const cli_group convert_groups[] = {
    {"Conversion", convert_table, 0}, {"Pseudonyms", cb_sentinel_option_table, offsetof(convert_settings, sentinel)}, {0}};

static bool convert_run(cli_call *call, void *settings_)
{
    const convert_settings *s = settings_;
    const char *model = call->arguments[0];
    key k = {0};
    bool ok = cli_output_directory(s->output, model) && read_key(s->key_file, &k) &&
              cb_sentinel_convert(model, s->output, k.bytes, k.length, &s->sentinel);
    cb_free(k.bytes);
    if (!ok)
        return false;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:s}", "model", model, "output", s->output));
    cli_field("written", "%s", s->output);
    return true;
}

const cli_command cli_sentinel_convert = {
    .name = "sentinel convert",
    .summary = "make an encoder read pseudonyms of tokens in place of text (SentinelLMs)",
    .synopsis = "MODEL_DIR --key-file FILE --output DIR [options]",
    .description =
        "The new model knows tokens by keyed hashes only, at shuffled places of its embedding; it is trained and run like any other, on "
        "text that `sentinel encode` has written with the same key.  This is pseudonymisation, not encryption: how often tokens come, and "
        "the public model's embedding, can give them away (docs/methods/sentinellms.md).",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(convert_settings),
    .groups = convert_groups,
    .required = (const char *const[]){"key_file", "output", NULL},
    .examples = (const char *const[]){"cambium sentinel convert models/bert --key-file key.txt --output out/sentinel", NULL},
    .run = convert_run};

/* ---- encode ---- */

typedef struct encode_settings {
    char *key_file, *data, *output;
    cb_string_list fields;
    bool hash;
} encode_settings;

static const char default_fields[] = "text,text_pair,sentence,sentence1,sentence2,premise,hypothesis,question,prompt,tokens,words";
static const cb_option encode_table[] = {
    CB_OPT_STRING(encode_settings, key_file, NULL, "FILE", KEY_HELP),
    CB_OPT_STRING(encode_settings, data, NULL, "FILE",
                  "lines of text, or a .jsonl file, of which some fields are text; - for standard input"),
    CB_OPT_STRING(encode_settings, output, NULL, "FILE", "the same lines under pseudonyms"),
    CB_OPT_LIST(encode_settings, fields, default_fields, "NAME,...",
                "JSON lines: fields that are text, or lists of words; the others stay"),
    CB_OPT_BOOL(encode_settings, hash, true, "tokens become keyed hashes; as the model was converted"),
    CB_OPT_END};
static const cli_group encode_groups[] = {{"Encoding", encode_table, 0}, {0}};

typedef struct encoder {
    const encode_settings *settings;
    cb_tokenizer *tokenizer;
    key key;
    cb_string text;
} encoder;

static bool encode(encoder *e, const char *text, size_t length)
{
    const cb_sentinel_options options = {.hash = e->settings->hash};
    cb_string_clear(&e->text);
    return cb_string_puts(&e->text, "") && cb_sentinel_encode(e->tokenizer, text, length, e->key.bytes, e->key.length, &options, &e->text);
}

static json_t *encoded(encoder *e, const json_t *value)
{
    if (json_is_string(value))
        return encode(e, json_string_value(value), json_string_length(value)) ? json_stringn(e->text.data, e->text.length) : NULL;
    json_t *list = json_array(), *item;
    size_t i;
    json_array_foreach(value, i, item)
    {
        json_t *word = json_is_string(item) ? encoded(e, item) : json_incref(item);
        if (!word || json_array_append_new(list, word) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool encode_object(encoder *e, size_t line, const char *text, size_t length, cb_writer *w)
{
    json_t *object = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    bool ok = json_is_object(object) || cli_refuse("%s:%zu: expected a JSON object", e->settings->data, line), found = false;
    for (size_t i = 0; ok && i < e->settings->fields.count; i++) {
        const char *name = e->settings->fields.items[i];
        json_t *value = json_object_get(object, name);
        if (!json_is_string(value) && !json_is_array(value))
            continue;
        found = true;
        json_t *changed = encoded(e, value);
        ok = changed && json_object_set_new(object, name, changed) == 0;
    }
    ok = ok && (found || cli_refuse("%s:%zu: none of the fields is there that --fields names", e->settings->data, line));
    char *dumped = ok ? json_dumps(object, JSON_COMPACT) : NULL;
    ok = dumped && cb_writer_printf(w, "%s\n", dumped);
    free(dumped);
    json_decref(object);
    return ok;
}

static bool encode_lines(encoder *e, const char *text, size_t length, cb_writer *w, int64_t *lines)
{
    bool objects = cb_ends_with(e->settings->data, ".jsonl") || cb_ends_with(e->settings->data, ".ndjson"), ok = true;
    for (const char *at = text, *end, *stop = text + length; ok && at < stop && !cb_interrupted(); at = end + 1) {
        end = memchr(at, '\n', (size_t)(stop - at));
        end = end ? end : stop;
        size_t size = (size_t)(end - at);
        bool blank = size == 0 || (size == 1 && *at == '\r');
        ++*lines;
        if (objects)
            ok = blank || encode_object(e, (size_t)*lines, at, size, w);
        else
            ok = encode(e, at, size) && cb_writer_printf(w, "%s\n", e->text.data);
    }
    return ok && !cb_interrupted();
}

static bool encode_run(cli_call *call, void *settings_)
{
    const encode_settings *s = settings_;
    encoder e = {.settings = s};
    size_t length = 0;
    int64_t lines = 0;
    static const char *const others[] = {".json", ".csv", ".tsv", ".conll", ".conllu"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (cb_ends_with(s->data, others[i]))
            return cli_refuse("--data %s: expected lines of text or a .jsonl file", s->data);
    bool ok = cli_output_file(s->output) && read_key(s->key_file, &e.key) && (e.tokenizer = cb_tokenizer_load(call->arguments[0]));
    char *text = ok ? cb_file_read(s->data, (size_t)1 << 31, &length) : NULL;
    cb_writer *w = text ? cb_writer_open(s->output) : NULL;
    ok = w && encode_lines(&e, text, length, w, &lines);
    if (ok)
        ok = cb_writer_commit(w);
    else
        cb_writer_abort(w);
    cb_free(text);
    cb_free(e.key.bytes);
    cb_string_free(&e.text);
    cb_tokenizer_free(e.tokenizer);
    if (!ok)
        return false;
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:I}", "output", s->output, "lines", (json_int_t)lines));
    cli_field("written", "%s, %s lines", s->output, cli_thousands(lines));
    return true;
}

const cli_command cli_sentinel_encode = {
    .name = "sentinel encode",
    .summary = "write text as pseudonyms of its tokens, for a model that `sentinel convert` made",
    .synopsis = "TOKENIZER --key-file FILE --data FILE --output FILE [options]",
    .description = "TOKENIZER is that of the model before it was converted.  Labels and other fields stay as they are.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(encode_settings),
    .groups = encode_groups,
    .required = (const char *const[]){"key_file", "data", "output", NULL},
    .examples =
        (const char *const[]){"cambium sentinel encode models/bert --key-file key.txt --data reviews.jsonl --output hidden.jsonl", NULL},
    .run = encode_run};
