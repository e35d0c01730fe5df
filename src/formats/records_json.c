/* records_json.c: records as JSON objects: one a line, one after another, or in an array.
 *
 * Objects are parsed one at a time out of the mapped file.  A record's strings are those of the parsed object, which
 * lives until the next one. */
#include <string.h>

#include "formats/records.h"

enum { FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL };

static CB_COLD cb_record_step refuse(const cb_records *records, int64_t line, const char *field, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "%s:%lld: %s%s%s", records->input.path, (long long)line, field, *field ? ": " : "", problem);
    return CB_RECORD_FAILED;
}

/* The text of a value, or NULL with an error. */
static const char *text_of(const cb_records *records, int64_t line, const char *field, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text)
        refuse(records, line, field, "found no string, expected one");
    else if (strlen(text) != json_string_length(value))
        refuse(records, line, field, "found a NUL character, expected text without");
    else
        return text;
    return NULL;
}

/* ---- an object as a record ---- */

static cb_record_step fill_messages(cb_records *records, int64_t line, const json_t *list, cb_record_text *record)
{
    size_t count = json_array_size(list);
    if (!count)
        return refuse(records, line, "messages", "found no messages, expected an array of objects with role and content");
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(list, i);
        if (!text_of(records, line, "messages: role", json_object_get(message, "role")))
            return CB_RECORD_FAILED;
        if (!json_object_get(message, "content") && !json_object_get(message, "tool_calls"))
            return refuse(records, line, "messages: content", "found none beside role, expected one (or tool_calls)");
    }
    *record = (cb_record_text){.conversation = records->value, .path = records->input.path, .line = line};
    return CB_RECORD_FOUND;
}

/* A prompt and a completion of messages: one conversation of both. */
static cb_record_step fill_exchange(cb_records *records, int64_t line, cb_record_text *record)
{
    const char *prompt_name = records->names[CB_FIELD_PROMPT], *completion_name = records->names[CB_FIELD_COMPLETION];
    json_t *prompt = json_object_get(records->value, prompt_name), *completion = json_object_get(records->value, completion_name);
    if (!json_array_size(completion))
        return refuse(records, line, completion_name, "found no messages, expected an array of objects with role and content");
    json_t *whole = json_copy(records->value), *messages = json_array();
    size_t asked = json_array_size(prompt);
    bool ok = whole && json_object_size(whole) == json_object_size(records->value) && messages &&
              json_array_extend(messages, prompt) == 0 && json_array_extend(messages, completion) == 0 &&
              json_object_del(whole, prompt_name) == 0 && json_object_del(whole, completion_name) == 0 &&
              json_object_set(whole, "messages", messages) == 0;
    if (ok) {
        json_decref(records->value);
        records->value = json_incref(whole);
    }
    json_decref(whole);
    json_decref(messages);
    if (!ok) {
        cb_fail(CB_ERR_MEMORY, "%s:%lld: out of memory", records->input.path, (long long)line);
        return CB_RECORD_FAILED;
    }
    cb_record_step step = fill_messages(records, line, json_object_get(records->value, "messages"), record);
    record->asked = step == CB_RECORD_FOUND ? asked : 0;
    return step;
}

static cb_record_step fill_texts(cb_records *records, int64_t line, cb_record_text *record)
{
    const json_t *object = records->value, *messages = json_object_get(object, records->names[CB_FIELD_MESSAGES]);
    if (!json_is_object(object))
        return refuse(records, line, "", "found another value, expected an object");
    if (messages && !json_is_null(messages) && json_object_get(object, "messages") != messages && /* the name that templates know */
        json_object_set(records->value, "messages", (json_t *)(uintptr_t)messages) != 0)
        return refuse(records, line, "messages", "no memory for them");
    if (messages && !json_is_null(messages))
        return fill_messages(records, line, messages, record);
    if (json_is_array(json_object_get(object, records->names[CB_FIELD_PROMPT])) &&
        json_is_array(json_object_get(object, records->names[CB_FIELD_COMPLETION])))
        return fill_exchange(records, line, record);
    const char *values[CB_FIELDS];
    for (int i = 0; i < CB_FIELDS; i++) {
        const json_t *value = json_object_get(object, records->names[i]);
        bool absent = !value || json_is_null(value);
        values[i] = absent ? NULL : text_of(records, line, records->names[i], value);
        if (!absent && !values[i])
            return CB_RECORD_FAILED;
    }
    return cb_record_fill(records, line, values, record);
}

/* A number, or an array of them. */
static cb_record_step fill_conditions(cb_records *records, int64_t line, cb_record_text *record)
{
    const json_t *value = NULL;
    const char *name;
    for (int n = 0; !value && (name = cb_record_field_name(records, CB_FIELD_CONDITIONS, n)); n++)
        value = json_object_get(records->value, name);
    if (!value || json_is_null(value))
        return CB_RECORD_FOUND;
    for (size_t i = 0; i < (json_is_array(value) ? json_array_size(value) : 1); i++) {
        const json_t *number = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_number(number))
            return refuse(records, line, records->names[CB_FIELD_CONDITIONS], "expected a number or an array of numbers");
        if (cb_record_add_condition(records, json_number_value(number), record) != CB_RECORD_FOUND)
            return CB_RECORD_FAILED;
    }
    return CB_RECORD_FOUND;
}

static cb_record_step fill_object(cb_records *records, int64_t line, cb_record_text *record)
{
    cb_record_form form = records->options.form;
    cb_record_step step = form == CB_RECORDS_OF_TEXT   ? fill_texts(records, line, record)
                          : form == CB_RECORDS_TRIPLES ? cb_record_fill_triple_object(records, line, record)
                                                       : cb_record_fill_labelled_object(records, line, record);
    if (step == CB_RECORD_FOUND)
        step = fill_conditions(records, line, record);
    const json_t *task = json_object_get(records->value, records->names[CB_FIELD_TASK_IDS]);
    if (step != CB_RECORD_FOUND || !task || json_is_null(task))
        return step;
    if (!json_is_integer(task))
        return refuse(records, line, records->names[CB_FIELD_TASK_IDS], "found no whole number, expected that of a task");
    return cb_record_set_task(records, json_integer_value(task), record);
}

/* ---- parsing ---- */

/* Parses a value out of the next `length` bytes: all of them, or with *used as many as it takes. */
static bool parse(cb_records *records, size_t length, size_t *used)
{
    const cb_input *in = &records->input;
    json_error_t error;
    json_decref(records->value);
    size_t flags = FLAGS | (used ? JSON_DISABLE_EOF_CHECK : 0);
    records->value = json_loadb(in->bytes + in->at, length, flags, &error);
    if (!records->value && json_error_code(&error) == json_error_numeric_overflow) /* whole numbers beyond 64 bits */
        records->value = json_loadb(in->bytes + in->at, length, flags | JSON_DECODE_INT_AS_REAL, &error);
    if (used)
        *used = (size_t)error.position;
    if (records->value)
        return true;
    if (json_error_code(&error) == json_error_out_of_memory)
        return cb_fail(CB_ERR_MEMORY, "%s:%lld: out of memory", in->path, (long long)in->line) == CB_OK;
    return cb_fail(CB_ERR_FORMAT, "%s:%lld: column %d: not valid JSON: %s", in->path, (long long)(in->line + error.line - 1), error.column,
                   error.text) == CB_OK;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Passes white space; the character after it, or NUL at the end. */
static char next_character(cb_input *in)
{
    size_t to = in->at;
    while (to < in->size && is_space(in->bytes[to]))
        to++;
    cb_input_move(in, to);
    return to < in->size ? in->bytes[to] : '\0';
}

cb_record_step cb_records_read_lines(cb_records *records, cb_record_text *record)
{
    cb_input *in = &records->input;
    next_character(in);
    if (in->at == in->size)
        return CB_RECORD_NONE;
    const char *begin = in->bytes + in->at, *newline = memchr(begin, '\n', in->size - in->at);
    size_t length = newline ? (size_t)(newline - begin) : in->size - in->at;
    int64_t line = in->line;
    if (!cb_input_check(in, in->at + length) || !parse(records, length, NULL))
        return CB_RECORD_FAILED;
    cb_input_move(in, in->at + length);
    return fill_object(records, line, record);
}

/* Passes what stands between two objects. CB_RECORD_FOUND: an object begins here. */
static cb_record_step next_object(cb_records *records)
{
    cb_input *in = &records->input;
    char c = next_character(in);
    if (!records->begun && c == '[') {
        records->array = true;
        cb_input_move(in, in->at + 1);
        c = next_character(in);
    } else if (records->begun && records->array && c == ',') {
        cb_input_move(in, in->at + 1);
        c = next_character(in);
        if (c == ']')
            return refuse(records, in->line, "", "found ']' after ',', expected an object");
    } else if (records->begun && records->array && c != ']') {
        return refuse(records, in->line, "", "found neither ',' nor ']' after an object of the array");
    }
    if (records->array && c == ']') {
        cb_input_move(in, in->at + 1);
        if (next_character(in) || in->at < in->size)
            return refuse(records, in->line, "", "found more after the array, expected the end of the file");
        return CB_RECORD_NONE;
    }
    if (in->at == in->size)
        return records->array ? refuse(records, in->line, "", "found the end of the file within the array, expected ']'") : CB_RECORD_NONE;
    return CB_RECORD_FOUND;
}

cb_record_step cb_records_read_json(cb_records *records, cb_record_text *record)
{
    cb_input *in = &records->input;
    cb_record_step step = next_object(records);
    if (step != CB_RECORD_FOUND)
        return step;
    size_t used;
    int64_t line = in->line;
    records->begun = true;
    if (!parse(records, in->size - in->at, &used))
        return CB_RECORD_FAILED;
    cb_input_move(in, in->at + used);
    return fill_object(records, line, record);
}
