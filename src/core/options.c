/* options.c: configuration structs described by tables: defaults, text and JSON come from the same rows. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

#define FIELD(T, config, option) (*(T *)((char *)(config) + (option)->offset))

/* ---- maps ---- */

bool cb_option_map_set(cb_option_map *map, const char *key, double value)
{
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->keys[i], key) == 0) {
            map->values[i] = value;
            return true;
        }
    size_t capacity = map->capacity;
    if (!cb_grow(&map->keys, &capacity, map->count + 1, sizeof *map->keys) ||
        !cb_grow(&map->values, &map->capacity, map->count + 1, sizeof *map->values))
        return false;
    char *copy = cb_strdup(key);
    if (!copy)
        return false;
    map->keys[map->count] = copy;
    map->values[map->count++] = value;
    return true;
}

static void map_free(cb_option_map *map)
{
    for (size_t i = 0; i < map->count; i++)
        cb_free(map->keys[i]);
    cb_free(map->keys);
    cb_free(map->values);
    *map = (cb_option_map){0};
}

/* ---- one value from text ---- */

static bool wrong(const cb_option *o, const char *value, const char *expected)
{
    cb_fail(CB_ERR_ARGUMENT, "%s: found \"%s\", expected %s", o->name, value, expected);
    return false;
}

static bool in_range(const cb_option *o, double number, const char *value)
{
    if (number >= o->min && number <= o->max)
        return true;
    cb_fail(CB_ERR_ARGUMENT, "%s: found %s, expected %.15g to %.15g", o->name, value, o->min, o->max);
    return false;
}

static bool set_bool(const cb_option *o, void *config, const char *value)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(value, yes[i]) == 0 || strcmp(value, no[i]) == 0) {
            FIELD(bool, config, o) = strcmp(value, yes[i]) == 0;
            return true;
        }
    }
    return wrong(o, value, "true or false");
}

static bool parse_number(const char *text, double *number)
{
    char *end;
    *number = strtod(text, &end);
    return end != text && !*end && isfinite(*number);
}

static bool set_int(const cb_option *o, void *config, const char *value)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    bool exact = end != value && !*end && !errno;
    double number = (double)n;
    if (!exact && (!parse_number(value, &number) || number != floor(number))) /* 1e6 is a whole number too */
        return wrong(o, value, "a whole number");
    if (!in_range(o, number, value))
        return false;
    if (!exact && fabs(number) >= 0x1p63)
        return wrong(o, value, "a whole number of at most 64 bits");
    FIELD(int64_t, config, o) = exact ? n : (int64_t)number;
    return true;
}

static bool set_float(const cb_option *o, void *config, const char *value)
{
    double number;
    if (!parse_number(value, &number))
        return wrong(o, value, "a number");
    if (!in_range(o, number, value))
        return false;
    FIELD(double, config, o) = number;
    return true;
}

static bool set_string(const cb_option *o, void *config, const char *value)
{
    char *copy = cb_strdup(value);
    if (value && !copy)
        return false;
    cb_free(FIELD(char *, config, o));
    FIELD(char *, config, o) = copy;
    return true;
}

static bool not_a_choice(const cb_option *o, const char *found)
{
    cb_string names = {0};
    for (int i = 0; o->choices[i]; i++)
        cb_string_printf(&names, "%s%s", i ? ", " : "", o->choices[i]);
    cb_fail(CB_ERR_ARGUMENT, "%s: found \"%s\", expected one of %s", o->name, found, names.data ? names.data : "");
    cb_string_free(&names);
    return false;
}

static bool set_enum(const cb_option *o, void *config, const char *value)
{
    for (int i = 0; o->choices[i]; i++)
        if (strcmp(o->choices[i], value) == 0) {
            FIELD(int, config, o) = i;
            return true;
        }
    return not_a_choice(o, value);
}

/* Calls `item` on each part of a comma-separated text. Empty parts are skipped. */
static bool for_each_part(const char *value, bool (*item)(const cb_option *, void *, char *), const cb_option *o, void *target)
{
    char *copy = cb_strdup(value), *rest = copy, *part;
    bool ok = copy;
    while (ok && (part = strsep(&rest, ",")))
        if (*part)
            ok = item(o, target, part);
    cb_free(copy);
    return ok;
}

static bool list_item(const cb_option *o, void *list, char *part)
{
    (void)o;
    return cb_string_list_add(list, part);
}

static bool set_list(const cb_option *o, void *config, const char *value)
{
    cb_string_list list = {0};
    if (!for_each_part(value, list_item, o, &list)) {
        cb_string_list_free(&list);
        return false;
    }
    cb_string_list_free(&FIELD(cb_string_list, config, o));
    FIELD(cb_string_list, config, o) = list;
    return true;
}

static bool map_item(const cb_option *o, void *map, char *part)
{
    char *equals = strrchr(part, '=');
    double number;
    if (!equals || equals == part || !parse_number(equals + 1, &number))
        return wrong(o, part, "key=number,key=number");
    *equals = '\0';
    return cb_option_map_set(map, part, number);
}

static bool set_map(const cb_option *o, void *config, const char *value)
{
    cb_option_map map = {0};
    if (!for_each_part(value, map_item, o, &map)) {
        map_free(&map);
        return false;
    }
    map_free(&FIELD(cb_option_map, config, o));
    FIELD(cb_option_map, config, o) = map;
    return true;
}

static bool set_value(const cb_option *o, void *config, const char *value)
{
    if (!value && o->type != CB_OPTION_STRING)
        return wrong(o, "", "a value");
    switch (o->type) {
    case CB_OPTION_BOOL:
        return set_bool(o, config, value);
    case CB_OPTION_INT:
        return set_int(o, config, value);
    case CB_OPTION_FLOAT:
        return set_float(o, config, value);
    case CB_OPTION_STRING:
        return set_string(o, config, value);
    case CB_OPTION_ENUM:
        return set_enum(o, config, value);
    case CB_OPTION_LIST:
        return set_list(o, config, value);
    case CB_OPTION_MAP:
        return set_map(o, config, value);
    case CB_OPTION_END:
        break;
    }
    return false;
}

/* ---- whole structs ---- */

static void clear(const cb_option *o, void *config)
{
    switch (o->type) {
    case CB_OPTION_BOOL:
        FIELD(bool, config, o) = o->number != 0;
        break;
    case CB_OPTION_INT:
        FIELD(int64_t, config, o) = (int64_t)o->number;
        break;
    case CB_OPTION_FLOAT:
        FIELD(double, config, o) = o->number;
        break;
    case CB_OPTION_ENUM:
        FIELD(int, config, o) = (int)o->number;
        break;
    case CB_OPTION_STRING:
        FIELD(char *, config, o) = NULL;
        break;
    case CB_OPTION_LIST:
        FIELD(cb_string_list, config, o) = (cb_string_list){0};
        break;
    case CB_OPTION_MAP:
        FIELD(cb_option_map, config, o) = (cb_option_map){0};
        break;
    case CB_OPTION_END:
        break;
    }
}

bool cb_options_init(const cb_option *table, void *config)
{
    for (const cb_option *o = table; o->type; o++)
        clear(o, config);
    for (const cb_option *o = table; o->type; o++)
        if (o->text && !set_value(o, config, o->text))
            return false;
    return true;
}

void cb_options_free(const cb_option *table, void *config)
{
    for (const cb_option *o = table; o->type; o++) {
        if (o->type == CB_OPTION_STRING)
            cb_free(FIELD(char *, config, o));
        else if (o->type == CB_OPTION_LIST)
            cb_string_list_free(&FIELD(cb_string_list, config, o));
        else if (o->type == CB_OPTION_MAP)
            map_free(&FIELD(cb_option_map, config, o));
        else
            continue;
        clear(o, config);
    }
}

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (*a != *b && !(*a == '-' && *b == '_') && !(*a == '_' && *b == '-'))
            return false;
    return *a == *b;
}

const cb_option *cb_options_find(const cb_option *table, const char *name)
{
    for (const cb_option *o = table; o->type; o++)
        if (same_name(o->name, name))
            return o;
    return NULL;
}

bool cb_options_set(const cb_option *table, void *config, const char *name, const char *value)
{
    const cb_option *o = cb_options_find(table, name);
    if (o)
        return set_value(o, config, value);
    enum { MOST = 128 };
    const char *names[MOST];
    size_t count = 0;
    for (o = table; o->type && count < MOST; o++)
        names[count++] = o->name;
    cb_string close = {0};
    cb_closest_names(name, names, count, 3, &close);
    cb_fail(CB_ERR_ARGUMENT, "unknown option \"%s\"; close names: %s", name, close.data ? close.data : "none");
    cb_string_free(&close);
    return false;
}

/* ---- JSON ---- */

static json_t *to_json(const cb_option *o, const void *config)
{
    json_t *value = NULL;
    switch (o->type) {
    case CB_OPTION_BOOL:
        return json_boolean(FIELD(const bool, config, o));
    case CB_OPTION_INT:
        return json_integer(FIELD(const int64_t, config, o));
    case CB_OPTION_FLOAT:
        return json_real(FIELD(const double, config, o));
    case CB_OPTION_STRING:
        return FIELD(char *const, config, o) ? json_string(FIELD(char *const, config, o)) : json_null();
    case CB_OPTION_ENUM:
        return json_string(o->choices[FIELD(const int, config, o)]);
    case CB_OPTION_LIST: {
        const cb_string_list *list = &FIELD(const cb_string_list, config, o);
        value = json_array();
        for (size_t i = 0; i < list->count; i++)
            if (json_array_append_new(value, json_string(list->items[i])) != 0) {
                json_decref(value);
                return NULL;
            }
        return value;
    }
    case CB_OPTION_MAP: {
        const cb_option_map *map = &FIELD(const cb_option_map, config, o);
        value = json_object();
        for (size_t i = 0; i < map->count; i++) {
            double v = map->values[i];
            bool whole = v == floor(v) && fabs(v) < 9e15;
            if (json_object_set_new(value, map->keys[i], whole ? json_integer((json_int_t)v) : json_real(v)) != 0) {
                json_decref(value);
                return NULL;
            }
        }
        return value;
    }
    case CB_OPTION_END:
        break;
    }
    return NULL;
}

char *cb_options_to_json(const cb_option *table, const void *config)
{
    json_t *object = json_object();
    bool ok = object || cb_fail(CB_ERR_MEMORY, "no memory for options as JSON") == CB_OK;
    for (const cb_option *o = table; ok && o->type; o++)
        if (json_object_set_new(object, o->name, to_json(o, config)) != 0)
            ok = cb_fail(CB_ERR_ARGUMENT, "%s: its value is not UTF-8 text", o->name) == CB_OK;
    char *text = ok ? cb_json_dump(object, false) : NULL;
    json_decref(object);
    return text;
}

/* Our strings end at the first NUL: one in the middle would cut the text silently. */
static bool is_text(const json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

static bool add_item(const cb_option *o, cb_string_list *list, const json_t *item)
{
    if (is_text(item))
        return cb_string_list_add(list, json_string_value(item));
    if (!json_is_integer(item))
        return wrong(o, "another value", "a string, a whole number or an array of them");
    char *number = cb_format("%lld", (long long)json_integer_value(item));
    bool ok = number && cb_string_list_add(list, number);
    cb_free(number);
    return ok;
}

/* One string is one item: it may be a regular expression with commas. */
static bool list_from_json(const cb_option *o, void *config, const json_t *value)
{
    cb_string_list list = {0};
    bool ok = json_is_array(value) || add_item(o, &list, value);
    for (size_t i = 0; ok && i < json_array_size(value); i++)
        ok = add_item(o, &list, json_array_get(value, i));
    if (!ok) {
        cb_string_list_free(&list);
        return false;
    }
    cb_string_list_free(&FIELD(cb_string_list, config, o));
    FIELD(cb_string_list, config, o) = list;
    return true;
}

static bool map_from_json(const cb_option *o, void *config, const json_t *value)
{
    cb_option_map map = {0};
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        bool ok = json_is_number(item) ? cb_option_map_set(&map, key, json_number_value(item)) : wrong(o, key, "a number for each key");
        if (!ok) {
            map_free(&map);
            return false;
        }
    }
    map_free(&FIELD(cb_option_map, config, o));
    FIELD(cb_option_map, config, o) = map;
    return true;
}

static bool from_json(const cb_option *o, void *config, const json_t *value)
{
    if (json_is_null(value))
        return true; /* keeps the default */
    if (o->type == CB_OPTION_LIST)
        return list_from_json(o, config, value);
    if (o->type == CB_OPTION_MAP && json_is_object(value))
        return map_from_json(o, config, value);
    bool text = o->type == CB_OPTION_STRING || o->type == CB_OPTION_ENUM, number = o->type == CB_OPTION_INT || o->type == CB_OPTION_FLOAT;
    bool fits = (text && is_text(value)) || (number && json_is_number(value)) || (o->type == CB_OPTION_BOOL && json_is_boolean(value));
    char *dump = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const char *words = json_is_string(value) ? json_string_value(value) : dump ? dump : "";
    static const char *const expected[] = {[CB_OPTION_BOOL] = "true or false",
                                           [CB_OPTION_INT] = "a whole number",
                                           [CB_OPTION_FLOAT] = "a number",
                                           [CB_OPTION_STRING] = "a string without NUL",
                                           [CB_OPTION_MAP] = "an object"};
    bool ok = fits ? set_value(o, config, words) : o->type == CB_OPTION_ENUM ? not_a_choice(o, words) : wrong(o, words, expected[o->type]);
    free(dump);
    return ok;
}

bool cb_options_from_json(const cb_option *table, void *config, const char *file, const json_t *object)
{
    if (!json_is_object(object))
        return cb_fail(CB_ERR_FORMAT, "%s: expected a JSON object", file) == CB_OK;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        const cb_option *o = cb_options_find(table, key);
        if (o && !from_json(o, config, value)) {
            cb_error_prefix("%s", file);
            return false;
        }
    }
    return true;
}
