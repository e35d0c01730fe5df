/* records_labelled.c: texts with labels, and words with tags, out of JSON, tables and CoNLL files.
 *
 * Labels are text whatever they were written as: what a number means, an index or a value, is for whoever knows the labels. */
#include <string.h>

#include "formats/records.h"

static CB_COLD cb_record_step refuse(const cb_records *records, int64_t line, const char *field, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: %s", records->input.path, (long long)line, field, problem);
    return CB_RECORD_FAILED;
}

static void begin(cb_records *records)
{
    cb_string_list_free(&records->words);
    cb_string_list_free(&records->labels);
    records->words = records->labels = (cb_string_list){0};
}

static bool is_blank(const char *text)
{
    return !text[strspn(text, " \t\r\n")];
}

/* The labels are there. */
static cb_record_step fill_text(cb_records *records, int64_t line, const char *text, const char *pair, cb_record_text *record)
{
    if (is_blank(text))
        return refuse(records, line, records->names[CB_FIELD_TEXT], "found an empty text, expected something to judge");
    *record = (cb_record_text){
        .text = text, .text_length = strlen(text), .pair = pair, .labels = &records->labels, .path = records->input.path, .line = line};
    return CB_RECORD_FOUND;
}

/* Words and labels are there. */
static cb_record_step fill_words(cb_records *records, int64_t line, cb_record_text *record)
{
    const cb_string_list *words = &records->words, *labels = &records->labels;
    if (!words->count)
        return refuse(records, line, records->names[CB_FIELD_TOKENS], "found no words, expected one at least");
    if (words->count != labels->count) {
        cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: found %zu for %zu %s, expected one each", records->input.path, (long long)line,
                records->names[CB_FIELD_TAGS], labels->count, words->count, records->names[CB_FIELD_TOKENS]);
        return CB_RECORD_FAILED;
    }
    for (size_t i = 0; i < words->count; i++)
        if (is_blank(words->items[i]))
            return refuse(records, line, records->names[CB_FIELD_TOKENS], "found an empty word, expected text");
    *record = (cb_record_text){.words = words, .labels = labels, .path = records->input.path, .line = line};
    return CB_RECORD_FOUND;
}

/* ---- JSON ---- */

/* The field's value, under any of its names, and that name; NULL: it is not there, or null. */
static const json_t *member(const cb_records *records, int field, const char **name)
{
    for (int n = 0; (*name = cb_record_field_name(records, field, n)); n++) {
        const json_t *value = json_object_get(records->value, *name);
        if (value && !json_is_null(value))
            return value;
    }
    *name = records->names[field];
    return NULL;
}

static const char *text_of(const cb_records *records, int64_t line, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text)
        refuse(records, line, name, value ? "found no string, expected one" : "found none, expected text");
    else if (strlen(text) != json_string_length(value))
        refuse(records, line, name, "found a NUL character, expected text without");
    else
        return text;
    return NULL;
}

/* A name, a number or a truth value as text. */
static bool add_scalar(const cb_records *records, int64_t line, const char *name, const json_t *value, cb_string_list *list)
{
    if (json_is_string(value)) {
        const char *text = text_of(records, line, name, value);
        return text && cb_string_list_add(list, text);
    }
    char number[40];
    if (json_is_integer(value))
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(number, sizeof number, "%.17g", json_real_value(value));
    else if (json_is_boolean(value))
        snprintf(number, sizeof number, "%s", json_is_true(value) ? "true" : "false");
    else
        return refuse(records, line, name, "found neither text nor a number, expected one of them") != CB_RECORD_FAILED;
    return cb_string_list_add(list, number);
}

static bool add_values(const cb_records *records, int64_t line, const char *name, const json_t *array, cb_string_list *list)
{
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(array); i++)
        ok = add_scalar(records, line, name, json_array_get(array, i), list);
    return ok;
}

static bool read_array(cb_records *records, int64_t line, int field, cb_string_list *list)
{
    const char *name;
    const json_t *value = member(records, field, &name);
    if (!json_is_array(value))
        return refuse(records, line, name, value ? "found no array, expected one" : "found none, expected an array") != CB_RECORD_FAILED;
    return add_values(records, line, name, value, list);
}

static cb_record_step read_text(cb_records *records, int64_t line, cb_record_text *record)
{
    const char *text_name, *pair_name, *label_name;
    const json_t *label = member(records, CB_FIELD_LABEL, &label_name), *second = member(records, CB_FIELD_TEXT_PAIR, &pair_name);
    const json_t *first = member(records, CB_FIELD_TEXT, &text_name);
    const char *text = text_of(records, line, text_name, first), *pair = text && second ? text_of(records, line, pair_name, second) : NULL;
    if (!text || (second && !pair))
        return CB_RECORD_FAILED;
    if (records->options.unlabelled || (!label && records->options.may_lack_label))
        return fill_text(records, line, text, pair, record);
    if (!label)
        return refuse(records, line, label_name, "found none beside the text, expected one; --columns label=NAME names another field");
    if (json_is_array(label) ? !add_values(records, line, label_name, label, &records->labels)
                             : !add_scalar(records, line, label_name, label, &records->labels))
        return CB_RECORD_FAILED;
    return fill_text(records, line, text, pair, record);
}

cb_record_step cb_record_fill_labelled_object(cb_records *records, int64_t line, cb_record_text *record)
{
    begin(records);
    if (records->options.form == CB_RECORDS_LABELLED)
        return read_text(records, line, record);
    if (!read_array(records, line, CB_FIELD_TOKENS, &records->words) || !read_array(records, line, CB_FIELD_TAGS, &records->labels))
        return CB_RECORD_FAILED;
    return fill_words(records, line, record);
}

/* ---- tables ---- */

bool cb_record_check_labelled_header(const cb_records *records, int64_t line)
{
    bool tagged = records->options.form == CB_RECORDS_TAGGED;
    const int needed[] = {tagged ? CB_FIELD_TOKENS : CB_FIELD_TEXT, tagged ? CB_FIELD_TAGS : CB_FIELD_LABEL};
    for (int i = 0; i < (records->options.unlabelled || records->options.may_lack_label ? 1 : 2); i++)
        if (records->csv.column[needed[i]] < 0)
            return cb_fail(CB_ERR_FORMAT,
                           "%s:%lld: found %zu columns, the first named \"%.50s\", and none named %s; --columns %s=NAME names another",
                           records->input.path, (long long)line, records->csv.count, records->csv.row.data, records->names[needed[i]],
                           tagged ? i ? "tags" : "tokens"
                           : i    ? "label"
                                  : "text") == CB_OK;
    return true;
}

static const char *cell(const cb_records *records, int field)
{
    int column = records->csv.column[field];
    return column < 0 ? NULL : records->csv.row.data + records->csv.starts[column];
}

/* The pieces between separators, without blanks around them; empty ones do not count. */
static bool split(const char *text, const char *separators, cb_string_list *list)
{
    bool ok = true;
    while (ok && *text) {
        size_t length = strcspn(text, separators), first = strspn(text, " \t"), last = length;
        while (last > first && strchr(" \t", text[last - 1]))
            last--;
        if (last > first) {
            char *piece = cb_strndup(text + first, last - first);
            ok = piece && cb_string_list_add(list, piece);
            cb_free(piece);
        }
        text += length + (text[length] != 0);
    }
    return ok;
}

cb_record_step cb_record_fill_labelled_row(cb_records *records, int64_t line, cb_record_text *record)
{
    begin(records);
    if (records->options.form == CB_RECORDS_LABELLED) {
        const char *label = records->options.unlabelled ? NULL : cell(records, CB_FIELD_LABEL);
        if (label && !split(label, records->options.several_labels ? "," : "", &records->labels))
            return CB_RECORD_FAILED;
        return fill_text(records, line, cell(records, CB_FIELD_TEXT), cell(records, CB_FIELD_TEXT_PAIR), record);
    }
    if (!split(cell(records, CB_FIELD_TOKENS), " \t", &records->words) || !split(cell(records, CB_FIELD_TAGS), " \t", &records->labels))
        return CB_RECORD_FAILED;
    return fill_words(records, line, record);
}

/* ---- CoNLL ---- */

/* The bytes of the next line, without its end. */
static const char *next_line(const cb_input *in, size_t *length, size_t *next)
{
    const char *at = in->bytes + in->at, *newline = memchr(at, '\n', in->size - in->at);
    size_t n = newline ? (size_t)(newline - at) : in->size - in->at;
    *next = in->at + n + (newline != NULL);
    *length = n && at[n - 1] == '\r' ? n - 1 : n;
    return at;
}

static bool is_empty(const char *text, size_t length)
{
    while (length && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--;
    return !length;
}

/* Between documents, in the files of CoNLL-2003. */
static bool is_boundary(const char *text, size_t length)
{
    static const char boundary[] = "-DOCSTART-";
    return length >= strlen(boundary) && !strncmp(text, boundary, strlen(boundary));
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static size_t count_columns(const char *text, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += !is_space(text[i]) && (!i || is_space(text[i - 1]));
    return n;
}

static bool has_hash(const char *text, size_t length)
{
    return length && *text == '#' && (length == 1 || is_space(text[1]));
}

/* How many columns the file has: as many as its first line that can be no comment. */
static void find_columns(cb_records *records)
{
    cb_input at = records->input;
    bool certain = false;
    while (!certain && at.at < at.size) {
        size_t length, next;
        const char *text = next_line(&at, &length, &next);
        if (!is_empty(text, length) && !is_boundary(text, length) && (!records->columns || !has_hash(text, length))) {
            records->columns = count_columns(text, length);
            records->columns_line = at.line;
            certain = !has_hash(text, length);
        }
        cb_input_move(&at, next);
    }
}

/* "# sent_id = 3", "# text = ...": # can be a word as well, which has as many columns as the others. */
static bool is_comment(const cb_records *records, const char *text, size_t length)
{
    if (!has_hash(text, length))
        return false;
    size_t word = 1;
    for (int part = 0; part < 2; part++) { /* to the third column */
        while (word < length && is_space(text[word]))
            word++;
        while (!part && word < length && !is_space(text[word]))
            word++;
    }
    bool assigns = word < length && text[word] == '=' && (word + 1 == length || is_space(text[word + 1]));
    return count_columns(text, length) != records->columns || (assigns && !records->words.count);
}

/* CoNLL-U has ten columns, the first a number, and its words in the second. */
static bool check_columns(const cb_records *records, const cb_string_list *columns)
{
    enum { OF_CONLL_U = 10 };
    const char *first = columns->items[0];
    const cb_input *in = &records->input;
    if (columns->count != records->columns)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found %zu columns, expected %zu as in line %lld", in->path, (long long)in->line,
                       columns->count, records->columns, (long long)records->columns_line) == CB_OK;
    return columns->count != OF_CONLL_U || strspn(first, "0123456789-.") != strlen(first) ||
           cb_fail(CB_ERR_FORMAT,
                   "%s:%lld: found CoNLL-U, expected a word in the first column and its tag in the last; a table or JSON can name them",
                   in->path, (long long)in->line) == CB_OK;
}

/* Adds the first and the last column of a line. */
static bool add_word(cb_records *records, const char *text, size_t length)
{
    cb_string_list columns = {0};
    char *line = memchr(text, 0, length) ? NULL : cb_strndup(text, length);
    bool ok = line && split(line, " \t", &columns);
    if (ok && columns.count < 2)
        ok = cb_fail(CB_ERR_FORMAT, "%s:%lld: found \"%.50s\", expected a word and, in the last column, its tag", records->input.path,
                     (long long)records->input.line, line) == CB_OK;
    else if (cb_ok() && !line)
        ok = cb_fail(CB_ERR_FORMAT, "%s:%lld: found a NUL character, expected text", records->input.path, (long long)records->input.line) ==
             CB_OK;
    ok = ok && check_columns(records, &columns) && cb_string_list_add(&records->words, columns.items[0]) &&
         cb_string_list_add(&records->labels, columns.items[columns.count - 1]);
    cb_string_list_free(&columns);
    cb_free(line);
    return ok;
}

cb_record_step cb_records_read_conll(cb_records *records, cb_record_text *record)
{
    cb_input *in = &records->input;
    int64_t line = 0;
    begin(records);
    if (!records->columns)
        find_columns(records);
    while (in->at < in->size) {
        size_t length, next;
        const char *text = next_line(in, &length, &next);
        bool apart = is_empty(text, length) || is_boundary(text, length);
        if (apart && records->words.count)
            break;
        if (!apart && !is_comment(records, text, length)) {
            line = line ? line : in->line;
            if (!cb_input_check(in, in->at + length) || !add_word(records, text, length))
                return CB_RECORD_FAILED;
        }
        cb_input_move(in, next);
    }
    return records->words.count ? fill_words(records, line, record) : CB_RECORD_NONE;
}
