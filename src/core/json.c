/* json.c: bounded JSON files with messages that name the place. */
#include "core/json.h"

#include <stdlib.h>

json_t *cb_json_parse(const char *what, const char *text, size_t length)
{
    json_error_t error;
    json_t *value = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!value)
        cb_fail(CB_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", what, error.line, error.column, error.text);
    return value;
}

json_t *cb_json_load(const char *path, size_t limit)
{
    size_t length;
    char *text = cb_file_read(path, limit ? limit : (size_t)1 << 30, &length);
    if (!text)
        return NULL;
    json_t *value = cb_json_parse(path, text, length);
    cb_free(text);
    return value;
}

bool cb_json_save(const char *path, const json_t *value, bool sort_keys)
{
    char *text = json_dumps(value, JSON_INDENT(2) | (sort_keys ? JSON_SORT_KEYS : 0));
    if (!text)
        return cb_fail(CB_ERR_MEMORY, "%s: cannot write this value as JSON", path) == CB_OK;
    cb_writer *w = cb_writer_open(path);
    bool ok = w && cb_writer_printf(w, "%s\n", text);
    free(text);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
                                        [JSON_INTEGER] = "a whole number", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
                                        [JSON_FALSE] = "false", [JSON_NULL] = "null"};
    return names[json_typeof(value)];
}

/* The field, or NULL when it is missing, null or (with an error) of another type. */
static const json_t *field(const char *file, const json_t *object, const char *key, bool (*fits)(const json_t *), const char *expected)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value))
        return NULL;
    if (fits(value))
        return value;
    cb_fail(CB_ERR_FORMAT, "%s: %s: found %s, expected %s", file, key, type_name(value), expected);
    return NULL;
}

static bool is_integer(const json_t *v)
{
    return json_is_integer(v);
}

static bool is_number(const json_t *v)
{
    return json_is_number(v);
}

static bool is_boolean(const json_t *v)
{
    return json_is_boolean(v);
}

static bool is_string(const json_t *v)
{
    return json_is_string(v);
}

int64_t cb_json_int(const char *file, const json_t *object, const char *key, int64_t def)
{
    const json_t *value = field(file, object, key, is_integer, "a whole number");
    return value ? json_integer_value(value) : def;
}

double cb_json_float(const char *file, const json_t *object, const char *key, double def)
{
    const json_t *value = field(file, object, key, is_number, "a number");
    return value ? json_number_value(value) : def;
}

bool cb_json_bool(const char *file, const json_t *object, const char *key, bool def)
{
    const json_t *value = field(file, object, key, is_boolean, "true or false");
    return value ? json_is_true(value) : def;
}

const char *cb_json_string(const char *file, const json_t *object, const char *key, const char *def)
{
    const json_t *value = field(file, object, key, is_string, "a string");
    return value ? json_string_value(value) : def;
}
