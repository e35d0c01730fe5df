/* json.c: bounded JSON files with messages that name the place.
 *
 * Two things jansson leaves to us: whole numbers beyond 64 bits, which Hugging Face files hold (a tokenizer without a
 * limit says 1000000000000000019884624838656), are read as reals; and reals are written with as few digits as give the
 * same value back, so that 0.1 stays 0.1. */
#include "core/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { READ_FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL };

/* The end of the string literal that begins at `at`, one after its closing quote. */
static size_t skip_string(const char *text, size_t length, size_t at)
{
    for (at++; at < length && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at < length ? at + 1 : length;
}

/* A copy of the text in which every whole number of 19 digits or more is a real: "e0" is put after it. */
static bool widen_integers(const char *text, size_t length, cb_string *out)
{
    enum { LONG = 19 };
    size_t copied = 0;
    for (size_t i = 0; i < length;) {
        if (text[i] == '"') {
            i = skip_string(text, length, i);
            continue;
        }
        size_t begin = i;
        while (i < length && (isalnum((unsigned char)text[i]) || text[i] == '.' || text[i] == '+' || text[i] == '-'))
            i++;
        if (i == begin) {
            i++;
            continue;
        }
        size_t digits = begin + (text[begin] == '-');
        bool whole = i - digits >= LONG;
        for (size_t k = digits; whole && k < i; k++)
            whole = isdigit((unsigned char)text[k]);
        if (!whole)
            continue;
        if (!cb_string_append(out, text + copied, i - copied) || !cb_string_puts(out, "e0"))
            return false;
        copied = i;
    }
    return cb_string_append(out, text + copied, length - copied);
}

static json_t *parse(const char *text, size_t length, json_error_t *error)
{
    json_t *value = json_loadb(text, length, READ_FLAGS, error);
    if (!value && json_error_code(error) == json_error_numeric_overflow) {
        cb_string wide = {0};
        if (widen_integers(text, length, &wide))
            value = json_loadb(wide.data, wide.length, READ_FLAGS, error);
        cb_string_free(&wide);
    }
    return value;
}

/* jansson says nothing when it has no memory, or that a token is invalid. */
static CB_COLD void *not_json(const char *what, const json_error_t *error)
{
    if (!*error->text)
        return cb_fail(CB_ERR_MEMORY, "%s: no memory for its JSON", what), NULL;
    return cb_fail(CB_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", what, error->line, error->column, error->text), NULL;
}

json_t *cb_json_parse(const char *what, const char *text, size_t length)
{
    json_error_t error;
    json_t *value = parse(text, length, &error);
    return value ? value : not_json(what, &error);
}

static unsigned hex_value(char c)
{
    return c >= '0' && c <= '9' ? (unsigned)(c - '0') : isxdigit((unsigned char)c) ? (unsigned)(tolower(c) - 'a' + 10) : 16;
}

/* One of the noncharacters U+FDD0 to U+FDEF that the text has neither as it is nor escaped; false: it has them all. */
static bool unused_character(const char *text, size_t length, char character[4])
{
    bool used[32] = {false};
    for (size_t i = 0; i + 2 < length; i++) {
        const char *at = text + i;
        if (memcmp(at, "\xEF\xB7", 2) == 0 && (uint8_t)at[2] >= 0x90 && (uint8_t)at[2] < 0xB0)
            used[(uint8_t)at[2] - 0x90] = true;
        if (*at != '\\' || i + 6 > length || strncasecmp(at, "\\ufd", 4) != 0)
            continue;
        unsigned high = hex_value(at[4]), low = hex_value(at[5]);
        if ((high == 0xD || high == 0xE) && low < 16)
            used[(high - 0xD) * 16 + low] = true;
    }
    const bool *unused = memchr(used, false, sizeof used);
    if (unused)
        memcpy(character, (char[4]){'\xEF', '\xB7', (char)(0x90 + (unused - used)), 0}, 4);
    return unused != NULL;
}

static bool is_key(const char *text, size_t length, size_t after)
{
    while (after < length && strchr(" \t\r\n", text[after]))
        after++;
    return after < length && text[after] == ':';
}

/* A copy of the text with `nul` for every escaped NUL character of a key. */
static bool replace_nul(const char *text, size_t length, const char *nul, cb_string *out)
{
    size_t copied = 0;
    for (size_t i = 0; i < length;) {
        if (text[i] != '"') {
            i++;
            continue;
        }
        size_t end = skip_string(text, length, i);
        for (bool key = is_key(text, length, end); key && i + 6 < end; i += text[i] == '\\' ? 2 : 1) {
            if (strncmp(text + i, "\\u0000", 6) != 0)
                continue;
            if (!cb_string_append(out, text + copied, i - copied) || !cb_string_puts(out, nul))
                return false;
            copied = i + 6;
        }
        i = end;
    }
    return cb_string_append(out, text + copied, length - copied);
}

json_t *cb_json_parse_nul_keys(const char *what, const char *text, size_t length, char nul[4])
{
    json_error_t error;
    json_t *value = parse(text, length, &error);
    nul[0] = 0;
    if (!value && json_error_code(&error) == json_error_null_byte_in_key && unused_character(text, length, nul)) {
        cb_string replaced = {0};
        if (replace_nul(text, length, nul, &replaced))
            value = parse(replaced.data, replaced.length, &error);
        cb_string_free(&replaced);
    }
    return value ? value : not_json(what, &error);
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

/* The fewest digits, at least `digits`, with which every real of the value reads back as itself. */
static size_t digits_needed(const json_t *value, size_t digits)
{
    if (json_is_real(value)) {
        enum { EXACT = 17 };
        char text[40];
        for (; digits < EXACT; digits++) {
            snprintf(text, sizeof text, "%.*g", (int)digits, json_real_value(value));
            if (strtod(text, NULL) == json_real_value(value))
                break;
        }
        return digits;
    }
    size_t i;
    const char *key;
    json_t *item;
    if (json_is_array(value)) {
        json_array_foreach(value, i, item)
        {
            digits = digits_needed(item, digits);
        }
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)(uintptr_t)value, key, item)
        {
            digits = digits_needed(item, digits);
        }
    }
    return digits;
}

char *cb_json_dump(const json_t *value, bool sort_keys)
{
    size_t flags = JSON_INDENT(2) | JSON_ENCODE_ANY | (sort_keys ? JSON_SORT_KEYS : 0);
    char *text = value ? json_dumps(value, flags | JSON_REAL_PRECISION(digits_needed(value, 15))) : NULL;
    char *copy = text ? cb_strdup(text) : NULL;
    if (!text)
        cb_fail(CB_ERR_ARGUMENT, "cannot write a value as JSON: it does not exist, or a text in it is not UTF-8");
    free(text);
    return copy;
}

bool cb_json_save(const char *path, const json_t *value, bool sort_keys)
{
    char *text = cb_json_dump(value, sort_keys);
    if (!text) {
        cb_error_prefix("%s", path);
        return false;
    }
    cb_writer *w = cb_writer_open(path);
    bool ok = w && cb_writer_write(w, text, strlen(text)) && cb_writer_write(w, "\n", 1);
    cb_free(text);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

bool cb_json_put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0 || cb_fail(CB_ERR_MEMORY, "%s: no memory for this field", key) == CB_OK;
}

bool cb_json_add(json_t *array, json_t *value)
{
    return json_array_append_new(array, value) == 0 || cb_fail(CB_ERR_MEMORY, "no memory for an item of a list") == CB_OK;
}

json_t *cb_json_made(json_t *value)
{
    if (value && cb_ok())
        return value;
    json_decref(value);
    cb_fail(CB_ERR_MEMORY, "no memory for JSON");
    return NULL;
}

json_t *cb_json_copy(const json_t *value)
{
    json_t *copy = json_deep_copy(value);
    if (copy && json_equal(copy, value))
        return copy;
    json_decref(copy);
    return cb_json_made(NULL);
}

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "a whole number",
        [JSON_REAL] = "a number",    [JSON_TRUE] = "true",      [JSON_FALSE] = "false",     [JSON_NULL] = "null"};
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

static bool is_among(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names;
}

static CB_COLD bool refuse_field(const char *file, const char *found, const char *const *names)
{
    cb_string expected = {0};
    bool ok = true;
    for (size_t i = 0; ok && names[i]; i++)
        ok = cb_string_printf(&expected, "%s%s", i ? ", " : "", names[i]);
    if (ok)
        cb_fail(CB_ERR_FORMAT, "%s: found a field \"%.100s\", expected one of %s", file, found, expected.data);
    cb_string_free(&expected);
    return false;
}

bool cb_json_only(const char *file, const json_t *object, const char *const *names)
{
    if (!json_is_object(object))
        return cb_fail(CB_ERR_FORMAT, "%s: expected an object of %s, ...", file, names[0]) == CB_OK;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        if (!is_among(name, names))
            return refuse_field(file, name, names);
    }
    return true;
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
    if (value && strlen(json_string_value(value)) != json_string_length(value)) {
        cb_fail(CB_ERR_FORMAT, "%s: %s: found a NUL byte in a string, expected text", file, key);
        return def;
    }
    return value ? json_string_value(value) : def;
}
