/* jinja_json.c: values from JSON, and the filter tojson, which writes as Python's json.dumps(ensure_ascii=False) does. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/jinja.h"

static bool from_object(jinja_state *state, const json_t *json, jinja_value *out)
{
    const char *key;
    size_t length;
    json_t *member;
    if (!jinja_new_dict(state, out))
        return false;
    json_object_keylen_foreach((json_t *)json, key, length, member)
    {
        jinja_value k, v;
        if (!jinja_string_value(state, key, length, &k) || !jinja_from_json(state, member, &v) || !jinja_dict_set(state, out->dict, k, v))
            return false;
    }
    return true;
}

static bool from_array(jinja_state *state, const json_t *json, jinja_value *out)
{
    size_t count = json_array_size(json);
    if (!jinja_new_list(state, JINJA_LIST, count, out))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!jinja_from_json(state, json_array_get(json, i), &out->list->items[i]))
            return false;
    out->list->count = count;
    return true;
}

bool jinja_from_json(jinja_state *state, const json_t *json, jinja_value *out)
{
    state->steps = 0; /* no more work than the reading of it was */
    switch (json_typeof(json)) {
    case JSON_STRING:
        return jinja_string_value(state, json_string_value(json), json_string_length(json), out);
    case JSON_INTEGER:
        *out = jinja_int(json_integer_value(json));
        return true;
    case JSON_REAL:
        *out = jinja_float(json_real_value(json));
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = jinja_bool(json_is_true(json));
        return true;
    case JSON_NULL:
        *out = jinja_none();
        return true;
    default:
        break;
    }
    if (!jinja_deeper(state))
        return false;
    bool ok = json_is_object(json) ? from_object(state, json, out) : from_array(state, json, out);
    state->depth--;
    return ok;
}

/* ---- writing ---- */

typedef struct style {
    const jinja_string *indent; /* NULL: all on one line */
    const char *item, *key;     /* separators */
    bool ascii, sort;
} style;

static bool put_unit(jinja_state *state, jinja_text *text, uint32_t unit)
{
    char buffer[8];
    return jinja_put(state, text, buffer, (size_t)snprintf(buffer, sizeof buffer, "\\u%04x", unit));
}

static bool write_string(jinja_state *state, const jinja_string *s, const style *w, jinja_text *text)
{
    static const char special[] = "\"\\\n\r\t\f\b", names[] = "\"\\nrtfb";
    bool ok = jinja_puts(state, text, "\"");
    unsigned n;
    for (size_t i = 0; ok && i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        const char *at = c && c < 0x80 ? strchr(special, (int)c) : NULL;
        if (at)
            ok = jinja_put(state, text, (char[]){'\\', names[at - special]}, 2);
        else if (c < 0x20 || (w->ascii && c > 0x7e && c < 0x10000))
            ok = c == 0x7f ? jinja_put(state, text, s->data + i, n) : put_unit(state, text, c);
        else if (w->ascii && c >= 0x10000)
            ok = put_unit(state, text, 0xd800 + ((c - 0x10000) >> 10)) && put_unit(state, text, 0xdc00 + ((c - 0x10000) & 0x3ff));
        else
            ok = jinja_put(state, text, s->data + i, n);
    }
    return ok && jinja_puts(state, text, "\"");
}

static bool new_line(jinja_state *state, const style *w, int level, jinja_text *text)
{
    if (!w->indent)
        return true;
    bool ok = jinja_puts(state, text, "\n");
    for (int i = 0; ok && i < level; i++)
        ok = jinja_put(state, text, w->indent->data, w->indent->length);
    return ok;
}

static bool write(jinja_state *state, const jinja_value *value, const style *w, int level, jinja_text *text);

static bool write_list(jinja_state *state, const jinja_list *list, const style *w, int level, jinja_text *text)
{
    if (!list->count)
        return jinja_puts(state, text, "[]");
    bool ok = jinja_puts(state, text, "[");
    for (size_t i = 0; ok && i < list->count; i++)
        ok = (!i || jinja_puts(state, text, w->item)) && new_line(state, w, level + 1, text) &&
             write(state, &list->items[i], w, level + 1, text);
    return ok && new_line(state, w, level, text) && jinja_puts(state, text, "]");
}

static bool write_key(jinja_state *state, const jinja_value *key, const style *w, jinja_text *text)
{
    if (key->type == JINJA_STRING)
        return write_string(state, key->s, w, text);
    if (key->type != JINJA_NONE && !jinja_is_number(key))
        return jinja_fail(state, "keys must be str, int, float, bool or None, not %s", jinja_type_name(key));
    return jinja_puts(state, text, "\"") && write(state, key, w, 0, text) && jinja_puts(state, text, "\"");
}

/* The entries of a dict in the order of their keys. */
static bool sorted_entries(jinja_state *state, const jinja_dict *dict, size_t **order)
{
    size_t *o = jinja_take(state, (dict->count + 1) * sizeof *o);
    if (!o)
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (bool less; at > 0; at--) {
            if (!jinja_less(state, &dict->keys[i], &dict->keys[o[at - 1]], "<", false, &less))
                return false;
            if (!less)
                break;
            o[at] = o[at - 1];
        }
        o[at] = i;
    }
    *order = o;
    return true;
}

static bool write_dict(jinja_state *state, const jinja_dict *dict, const style *w, int level, jinja_text *text)
{
    size_t *order = NULL;
    if (!dict->count)
        return jinja_puts(state, text, "{}");
    if (w->sort && !sorted_entries(state, dict, &order))
        return false;
    bool ok = jinja_puts(state, text, "{");
    for (size_t n = 0; ok && n < dict->count; n++) {
        size_t i = order ? order[n] : n;
        ok = (!n || jinja_puts(state, text, w->item)) && new_line(state, w, level + 1, text) && write_key(state, &dict->keys[i], w, text) &&
             jinja_puts(state, text, w->key) && write(state, &dict->values[i], w, level + 1, text);
    }
    return ok && new_line(state, w, level, text) && jinja_puts(state, text, "}");
}

static bool write(jinja_state *state, const jinja_value *value, const style *w, int level, jinja_text *text)
{
    char number[40];
    if (!jinja_spend(state, 1))
        return false;
    switch (value->type) {
    case JINJA_NONE:
        return jinja_puts(state, text, "null");
    case JINJA_BOOL:
        return jinja_puts(state, text, value->i ? "true" : "false");
    case JINJA_INT:
        return jinja_repr(state, value, text);
    case JINJA_FLOAT:
        jinja_float_text(value->f, number);
        return jinja_puts(state, text, isnan(value->f) ? "NaN" : isinf(value->f) ? value->f < 0 ? "-Infinity" : "Infinity" : number);
    case JINJA_STRING:
        return write_string(state, value->s, w, text);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
        break;
    default:
        return jinja_fail(state, "Object of type %s is not JSON serializable", jinja_type_name(value));
    }
    if (!jinja_deeper(state))
        return false;
    bool ok = value->type == JINJA_DICT ? write_dict(state, value->dict, w, level, text) : write_list(state, value->list, w, level, text);
    state->depth--;
    return ok;
}

static bool read_style(jinja_state *state, const jinja_value a[4], style *w)
{
    *w = (style){.item = ", ", .key = ": "};
    if (jinja_given(&a[0]))
        w->ascii = jinja_truth(&a[0]);
    if (jinja_given(&a[3]))
        w->sort = jinja_truth(&a[3]);
    if (jinja_given(&a[1]) && a[1].type != JINJA_NONE) {
        jinja_value indent = a[1], space;
        if (indent.type != JINJA_STRING) {
            int64_t n;
            if (!jinja_want_int(state, "tojson: indent", &indent, &n) || !jinja_string_value(state, " ", 1, &space))
                return false;
            jinja_value count = jinja_int(n);
            if (!jinja_binary(state, OP_MULTIPLY, &space, &count, &indent))
                return false;
        }
        w->indent = indent.s;
        w->item = ",";
    }
    if (jinja_given(&a[2]) && a[2].type != JINJA_NONE) {
        jinja_value pair;
        if (!jinja_collect(state, &a[2], &pair))
            return false;
        if (pair.list->count != 2 || pair.list->items[0].type != JINJA_STRING || pair.list->items[1].type != JINJA_STRING)
            return jinja_fail(state, "tojson: separators: expected two strings");
        w->item = pair.list->items[0].s->data;
        w->key = pair.list->items[1].s->data;
    }
    return true;
}

bool jinja_to_json(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};
    jinja_value a[4];
    style w;
    jinja_text text = {0};
    return jinja_take_arguments(state, "tojson", arguments, names, 0, a) && read_style(state, a, &w) && write(state, self, &w, 0, &text) &&
           jinja_text_value(state, &text, out);
}
