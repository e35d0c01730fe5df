/* yaml.c: YAML by libyaml's events, built up as JSON values. */
#include "formats/yaml.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "core/json.h"

enum { DEEPEST = 64 };

typedef struct reading {
    yaml_parser_t parser;
    const char *what;
} reading;

static json_t *refuse(const reading *r, const yaml_event_t *event, const char *found)
{
    cb_fail(CB_ERR_FORMAT, "%s:%zu: found %s", r->what, event->start_mark.line + 1, found);
    return NULL;
}

static bool next(reading *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return true;
    memset(event, 0, sizeof *event);
    if (r->parser.error == YAML_MEMORY_ERROR)
        return cb_fail(CB_ERR_MEMORY, "%s: no memory", r->what) == CB_OK;
    return cb_fail(CB_ERR_FORMAT, "%s:%zu: %s", r->what, r->parser.problem_mark.line + 1,
                   r->parser.problem ? r->parser.problem : "is no YAML") == CB_OK;
}

static bool is_one_of(const char *text, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0)
            return true;
    return false;
}

/* Digits and what belongs to decimal numbers: strtod() would take "nan", "infinity" and hexadecimal ones too. */
static bool number_of(const char *text, json_t **value)
{
    char *end;
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text) || !strpbrk(text, "0123456789"))
        return false;
    double real = strtod(text, &end);
    if (*end || !isfinite(real))
        return false;
    bool whole = !strpbrk(text, ".eE") && fabs(real) < 1e15;
    *value = whole ? json_integer((json_int_t)real) : json_real(real);
    return true;
}

static json_t *scalar(const reading *r, const yaml_event_t *event)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", NULL};
    static const char *const no[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", NULL};
    const char *text = (const char *)event->data.scalar.value;
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    json_t *value = NULL;
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return refuse(r, event, "an anchor or a tag, expected plain values");
    if (strlen(text) != event->data.scalar.length)
        return refuse(r, event, "a NUL character");
    if (plain && is_one_of(text, nulls))
        value = json_null();
    else if (plain && is_one_of(text, yes))
        value = json_true();
    else if (plain && is_one_of(text, no))
        value = json_false();
    else if (!plain || !number_of(text, &value))
        value = json_string(text);
    return cb_json_made(value);
}

static json_t *value_of(reading *r, yaml_event_t *event, int depth);

static bool take_item(reading *r, yaml_event_t *event, json_t *list, int depth)
{
    return cb_json_add(list, value_of(r, event, depth));
}

static bool take_pair(reading *r, yaml_event_t *event, json_t *object, int depth)
{
    if (event->type != YAML_SCALAR_EVENT)
        return refuse(r, event, "a key that is no text") != NULL;
    char *key = cb_strdup((const char *)event->data.scalar.value);
    yaml_event_t value;
    if (!key)
        return false;
    bool ok = json_object_get(object, key) ? refuse(r, event, "a key that stands twice") != NULL : next(r, &value);
    if (ok) {
        ok = cb_json_put(object, key, value_of(r, &value, depth));
        yaml_event_delete(&value);
    }
    cb_free(key);
    return ok;
}

/* A list or a mapping, whose first event is read. */
static json_t *collection(reading *r, bool mapping, int depth)
{
    json_t *all = mapping ? json_object() : json_array();
    bool ok = all || cb_fail(CB_ERR_MEMORY, "%s: no memory", r->what) == CB_OK, ended = false;
    while (ok && !ended) {
        yaml_event_t event;
        ok = next(r, &event);
        ended = ok && event.type == (mapping ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT);
        if (ok && !ended)
            ok = mapping ? take_pair(r, &event, all, depth + 1) : take_item(r, &event, all, depth + 1);
        yaml_event_delete(&event);
    }
    if (ok)
        return all;
    json_decref(all);
    return NULL;
}

static json_t *value_of(reading *r, yaml_event_t *event, int depth)
{
    if (depth > DEEPEST)
        return refuse(r, event, "too many levels");
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return scalar(r, event);
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor ? refuse(r, event, "an anchor") : collection(r, false, depth);
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor ? refuse(r, event, "an anchor") : collection(r, true, depth);
    default:
        return refuse(r, event, "an alias, expected plain values");
    }
}

static json_t *document(reading *r)
{
    json_t *value = NULL;
    bool ended = false;
    while (!ended) {
        yaml_event_t event;
        if (!next(r, &event))
            break;
        bool more = event.type == YAML_DOCUMENT_START_EVENT && value;
        ended = event.type == YAML_STREAM_END_EVENT || more;
        if (more)
            refuse(r, &event, "a second document, expected one");
        else if (event.type == YAML_SCALAR_EVENT || event.type == YAML_SEQUENCE_START_EVENT || event.type == YAML_MAPPING_START_EVENT ||
                 event.type == YAML_ALIAS_EVENT)
            ended = !(value = value_of(r, &event, 0));
        yaml_event_delete(&event);
    }
    if (cb_ok() && !value)
        cb_fail(CB_ERR_FORMAT, "%s: is empty", r->what);
    if (cb_ok())
        return value;
    json_decref(value);
    return NULL;
}

json_t *cb_yaml_parse(const char *what, const char *text, size_t length)
{
    reading r = {.what = what};
    if (!yaml_parser_initialize(&r.parser)) {
        cb_fail(CB_ERR_MEMORY, "%s: no memory", what);
        return NULL;
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, length);
    json_t *value = document(&r);
    yaml_parser_delete(&r.parser);
    return value;
}

json_t *cb_yaml_load(const char *path, size_t limit)
{
    size_t length;
    char *text = cb_file_read(path, limit, &length);
    json_t *value = text ? cb_yaml_parse(path, text, length) : NULL;
    cb_free(text);
    return value;
}
