/* records.c: training text from files, directories and standard input, one record at a time.
 *
 * A file is mapped and given out piece by piece: a text without being copied, an object or a row after it was parsed.
 * Memory is bounded by the largest record. */
#define _GNU_SOURCE /* memmem */
#include "formats/records.h"

#include <float.h>
#include <math.h>
#include <string.h>
#include <strings.h>

enum { MOST_STREAM = 1 << 30 }; /* bytes of a stream, which is read whole; a file is mapped and may have any size */

/* ---- input ---- */

void cb_input_move(cb_input *input, size_t to)
{
    const char *at = input->bytes + input->at, *end = input->bytes + to;
    while (at < end && (at = memchr(at, '\n', (size_t)(end - at)))) {
        input->line++;
        at++;
    }
    input->at = to;
}

bool cb_input_check(const cb_input *input, size_t end)
{
    size_t bad;
    if (cb_utf8_valid(input->bytes + input->at, end - input->at, &bad))
        return true;
    cb_input where = *input;
    cb_input_move(&where, input->at + bad);
    return cb_fail(CB_ERR_FORMAT, "%s:%lld: byte %zu: found 0x%02x, expected text in UTF-8", input->path, (long long)where.line, where.at,
                   (unsigned char)input->bytes[where.at]) == CB_OK;
}

static void close_input(cb_records *records)
{
    cb_file_map_close(&records->input.map);
    cb_free(records->input.owned);
    records->input = (cb_input){0};
    records->open = false;
}

/* ---- plain text ---- */

static bool is_blank(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!strchr(" \t\r\n", text[i]) || !text[i])
            return false;
    return true;
}

/* Where the text that begins at `at` ends, and where the next one begins. */
static size_t text_end(const cb_records *records, size_t *next)
{
    const cb_input *in = &records->input;
    const char *at = in->bytes + in->at, *found = NULL;
    size_t left = in->size - in->at, skip = 1;
    if (records->options.lines) {
        found = memchr(at, '\n', left);
    } else if (records->separator) {
        skip = strlen(records->separator);
        found = memmem(at, left, records->separator, skip);
    }
    *next = found ? in->at + (size_t)(found - at) + skip : in->size;
    return found ? in->at + (size_t)(found - at) : in->size;
}

static cb_record_step read_text(cb_records *records, cb_record_text *record)
{
    cb_input *in = &records->input;
    while (in->at < in->size) {
        size_t next, end = text_end(records, &next);
        const char *text = in->bytes + in->at;
        size_t length = end - in->at;
        if (!cb_input_check(in, end))
            return CB_RECORD_FAILED;
        if (records->options.lines && length && text[length - 1] == '\r')
            length--;
        *record = (cb_record_text){.text = text, .text_length = length, .path = in->path, .line = in->line};
        cb_input_move(in, next);
        if (!is_blank(text, length))
            return CB_RECORD_FOUND;
    }
    return CB_RECORD_NONE;
}

/* ---- forms of a record ---- */

static const char *const field_names[CB_FIELD_NAMES] = {"text",   "prompt",     "completion", "instruction", "input",  "output",
                                                        "target", "messages",   "task_ids",   "text_pair",   "label",  "tokens",
                                                        "tags",   "conditions", "subject",    "relation",    "object", "language"};

const char *cb_record_field_name(const cb_records *records, int field, int n)
{
    enum { MOST = 2 };
    static const char *const others[CB_FIELD_NAMES][MOST] = {[CB_FIELD_TEXT] = {"sentence", "sentence1"},
                                                             [CB_FIELD_TEXT_PAIR] = {"sentence2"},
                                                             [CB_FIELD_LABEL] = {"labels"},
                                                             [CB_FIELD_TOKENS] = {"words"},
                                                             [CB_FIELD_TAGS] = {"ner_tags", "labels"},
                                                             [CB_FIELD_SUBJECT] = {"head", "start"},
                                                             [CB_FIELD_RELATION] = {"rel", "predicate"},
                                                             [CB_FIELD_OBJECT] = {"tail", "end"},
                                                             [CB_FIELD_LANGUAGE] = {"lang"}};
    if (n == 0)
        return records->names[field];
    return n > MOST || records->options.form == CB_RECORDS_OF_TEXT || records->renamed[field] ? NULL : others[field][n - 1];
}

/* "prompt=question" */
static bool rename_field(cb_records *records, const char *column)
{
    const char *equals = strchr(column, '=');
    for (int i = 0; equals && equals[1] && i < CB_FIELD_NAMES; i++)
        if (strlen(field_names[i]) == (size_t)(equals - column) && strncmp(field_names[i], column, (size_t)(equals - column)) == 0) {
            cb_free(records->names[i]);
            records->renamed[i] = true;
            return (records->names[i] = cb_strdup(equals + 1));
        }
    return cb_fail(CB_ERR_ARGUMENT,
                   "columns: found \"%.80s\", expected NAME=COLUMN, where NAME is text, prompt, completion, instruction, input, output, "
                   "target, messages, task_ids, conditions, text_pair, label, tokens, tags, subject, relation, object or language",
                   column) == CB_OK;
}

static bool name_fields(cb_records *records, const cb_string_list *columns)
{
    for (int i = 0; i < CB_FIELD_NAMES; i++)
        if (!(records->names[i] = cb_strdup(field_names[i])))
            return false;
    for (size_t i = 0; columns && i < columns->count; i++)
        if (!rename_field(records, columns->items[i]))
            return false;
    return true;
}

/* The instruction, the input where there is one, and a blank line after each. */
static bool fill_instruction(cb_records *records, const char *instruction, const char *input)
{
    cb_string *s = &records->prompt;
    cb_string_clear(s);
    return cb_string_printf(s, "%s\n\n", instruction) && (!input || !*input || cb_string_printf(s, "%s\n\n", input));
}

static CB_COLD cb_record_step refuse_fields(const cb_records *records, int64_t line, const char *const values[CB_FIELDS])
{
    static const int pairs[][2] = {
        {CB_FIELD_PROMPT, CB_FIELD_COMPLETION}, {CB_FIELD_INSTRUCTION, CB_FIELD_OUTPUT}, {CB_FIELD_INPUT, CB_FIELD_TARGET}};
    const char *path = records->input.path;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 2; k++)
            if (values[pairs[i][k]] && !values[pairs[i][1 - k]])
                cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: found none beside %s, expected both", path, (long long)line,
                        records->names[pairs[i][1 - k]], records->names[pairs[i][k]]);
    cb_fail(CB_ERR_FORMAT,
            "%s:%lld: found none of the fields that are read, expected %s, %s and %s, or %s; --columns prompt=NAME,completion=NAME names "
            "others",
            path, (long long)line, records->names[CB_FIELD_TEXT], records->names[CB_FIELD_PROMPT], records->names[CB_FIELD_COMPLETION],
            records->names[CB_FIELD_MESSAGES]);
    return CB_RECORD_FAILED;
}

cb_record_step cb_record_fill(cb_records *records, int64_t line, const char *const values[CB_FIELDS], cb_record_text *record)
{
    *record = (cb_record_text){.path = records->input.path, .line = line};
    if (values[CB_FIELD_PROMPT] && values[CB_FIELD_COMPLETION]) {
        record->prompt = values[CB_FIELD_PROMPT];
        record->completion = values[CB_FIELD_COMPLETION];
    } else if (values[CB_FIELD_INSTRUCTION] && values[CB_FIELD_OUTPUT]) {
        if (!fill_instruction(records, values[CB_FIELD_INSTRUCTION], values[CB_FIELD_INPUT]))
            return CB_RECORD_FAILED;
        record->prompt = records->prompt.data;
        record->completion = values[CB_FIELD_OUTPUT];
    } else if (values[CB_FIELD_INPUT] && values[CB_FIELD_TARGET]) {
        record->prompt = values[CB_FIELD_INPUT];
        record->completion = values[CB_FIELD_TARGET];
    } else if (values[CB_FIELD_TEXT]) {
        record->text = values[CB_FIELD_TEXT];
        record->text_length = strlen(record->text);
    } else {
        return refuse_fields(records, line, values);
    }
    return CB_RECORD_FOUND;
}

cb_record_step cb_record_add_condition(cb_records *records, double value, cb_record_text *record)
{
    if (!isfinite(value) || fabs(value) > FLT_MAX || record->condition_count >= CB_MOST_CONDITIONS) {
        cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: expected at most %d numbers, each in f32's range", record->path, (long long)record->line,
                records->names[CB_FIELD_CONDITIONS], CB_MOST_CONDITIONS);
        return CB_RECORD_FAILED;
    }
    if (!cb_grow(&records->conditions, &records->condition_capacity, record->condition_count + 1, sizeof *records->conditions))
        return CB_RECORD_FAILED;
    records->conditions[record->condition_count++] = (float)value;
    record->conditions = records->conditions;
    return CB_RECORD_FOUND;
}

cb_record_step cb_record_set_task(const cb_records *records, int64_t task, cb_record_text *record)
{
    if (task < 0 || task >= CB_MOST_TASKS) {
        cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: found %lld, expected the number of a task, from 0 to %d", record->path,
                (long long)record->line, records->names[CB_FIELD_TASK_IDS], (long long)task, CB_MOST_TASKS - 1);
        return CB_RECORD_FAILED;
    }
    record->task = (int32_t)task;
    return CB_RECORD_FOUND;
}

/* ---- which files, and how each is read ---- */

static bool has_extension(const char *path, const char *extension)
{
    const char *dot = strrchr(cb_path_base(path), '.');
    return dot && strcasecmp(dot + 1, extension) == 0;
}

static bool check_name(const char *path)
{
    static const char *const packed[] = {"gz", "bz2", "xz", "zst", "lz4", "zip", "7z", "tar", "tgz", "parquet", "arrow"};
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        if (has_extension(path, packed[i]))
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: found a packed file (.%s), expected text, JSON, CSV or TSV: unpack it first", path,
                           packed[i]) == CB_OK;
    return true;
}

static bool add_file(cb_records *records, const char *path)
{
    return check_name(path) && cb_string_list_add(&records->files, path);
}

static bool add_directory(cb_records *records, const char *path)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(path, true, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        char *file = cb_path_join(path, names.items[i]);
        ok = file && add_file(records, file);
        cb_free(file);
    }
    cb_string_list_free(&names);
    return ok;
}

/* True for what has to be read from beginning to end: standard input, a pipe, a device. */
static bool is_stream(const char *path)
{
    return strcmp(path, "-") == 0 || !cb_is_file(path);
}

static cb_record_reader *reader_of(const char *path, const cb_input *input, bool stream, cb_record_form form)
{
    static const struct {
        const char *extension;
        cb_record_reader *read;
    } readers[] = {{"jsonl", cb_records_read_lines},
                   {"ndjson", cb_records_read_lines},
                   {"json", cb_records_read_json},
                   {"csv", cb_records_read_csv},
                   {"tsv", cb_records_read_tsv}};
    if (form == CB_RECORDS_TRIPLES && cb_records_are_conceptnet(input->bytes, input->size))
        return cb_records_read_conceptnet;
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (has_extension(path, readers[i].extension))
            return readers[i].read;
    if (stream && input->size && input->bytes[0] == '{')
        return cb_records_read_lines;
    if (form == CB_RECORDS_TAGGED)
        return cb_records_read_conll;
    if (form == CB_RECORDS_OF_TEXT)
        return read_text;
    cb_fail(CB_ERR_FORMAT, "%s: found a file of plain text, expected records %s: .jsonl, .json, .csv or .tsv", input->path,
            form == CB_RECORDS_TRIPLES ? "of triples" : "with labels");
    return NULL;
}

/* Lines of JSON under another name are read as the text that they are, which is hardly what is wanted. */
static void warn_of_json(cb_records *records)
{
    const cb_input *in = &records->input;
    size_t at = in->size && in->bytes[0] == '{' ? 1 : 0;
    while (at && at < in->size && in->bytes[at] == ' ')
        at++;
    if (!at || at == in->size || in->bytes[at] != '"' || records->read != read_text || records->warned)
        return;
    records->warned = true;
    cb_log_message(CB_LOG_WARNING, "%s: looks like JSON and is read as plain text; its name would have to end in .jsonl or .json",
                   in->path);
}

static bool open_input(cb_records *records, const char *path)
{
    static const char mark[] = "\xef\xbb\xbf";
    cb_input *in = &records->input;
    bool stream = is_stream(path);
    *in = (cb_input){.path = strcmp(path, "-") == 0 ? "standard input" : path, .line = 1};
    if (stream) {
        in->bytes = in->owned = cb_file_read(path, MOST_STREAM, &in->size);
    } else if (cb_file_map_open(&in->map, path)) {
        in->bytes = in->map.data ? (const char *)in->map.data : "";
        in->size = in->map.size;
    }
    if (!in->bytes)
        return false;
    if (in->size >= 3 && memcmp(in->bytes, mark, 3) == 0) {
        in->bytes += 3;
        in->size -= 3;
    }
    records->open = true;
    records->read = reader_of(path, in, stream, records->options.form);
    if (!records->read)
        return false;
    warn_of_json(records);
    records->begun = records->array = false;
    records->csv.columns = records->columns = 0;
    return true;
}

/* ---- the interface ---- */

static bool check_options(const cb_records_options *options)
{
    if (options->separator && !*options->separator)
        return cb_fail(CB_ERR_ARGUMENT, "separator: found an empty text, expected what stands between documents") == CB_OK;
    if (options->separator && options->lines)
        return cb_fail(CB_ERR_ARGUMENT, "separator: found together with lines, expected one of them") == CB_OK;
    return true;
}

cb_records *cb_records_open(const cb_string_list *paths, const cb_records_options *options)
{
    static const cb_records_options none = {0};
    if (!check_options(options ? options : &none))
        return NULL;
    cb_records *records = cb_calloc(1, sizeof *records);
    if (!records)
        return NULL;
    records->options = options ? *options : none;
    records->separator = cb_strdup(records->options.separator);
    bool ok = (records->separator || !records->options.separator) && name_fields(records, records->options.columns);
    records->options.separator = records->separator;
    records->options.columns = NULL;
    for (size_t i = 0; ok && i < paths->count; i++)
        ok = cb_is_directory(paths->items[i]) ? add_directory(records, paths->items[i]) : add_file(records, paths->items[i]);
    if (ok)
        return records;
    cb_records_close(records);
    return NULL;
}

bool cb_records_next(cb_records *records, cb_record_text *record)
{
    if (records->options.max_records > 0 && records->given >= records->options.max_records)
        return false;
    for (;;) {
        if (!records->open) {
            if (records->next_file == records->files.count)
                return false;
            if (!open_input(records, records->files.items[records->next_file++]))
                return false;
        }
        cb_record_step step = records->read(records, record);
        if (step == CB_RECORD_FOUND) {
            records->given++;
            return true;
        }
        close_input(records);
        if (step == CB_RECORD_FAILED) {
            records->next_file = records->files.count;
            return false;
        }
    }
}

void cb_records_close(cb_records *records)
{
    if (!records)
        return;
    close_input(records);
    json_decref(records->value);
    cb_string_free(&records->prompt);
    cb_string_list_free(&records->words);
    cb_string_list_free(&records->labels);
    cb_free(records->conditions);
    cb_string_free(&records->csv.row);
    cb_free(records->csv.starts);
    cb_free(records->separator);
    for (int i = 0; i < CB_FIELD_NAMES; i++)
        cb_free(records->names[i]);
    cb_string_list_free(&records->files);
    cb_free(records);
}
