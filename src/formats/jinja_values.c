/* jinja_values.c: what Python does with values: truth, equality, order, membership, length, and how they are written. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/jinja.h"

const char *jinja_type_name(const jinja_value *value)
{
    static const char *const names[] = {
        "Undefined", "NoneType",          "bool",        "int",   "float",    "str",    "list",   "tuple",  "dict", "dict_keys", "range",
        "generator", "TemplateNamespace", "LoopContext", "Macro", "function", "method", "Cycler", "Joiner", "slice"};
    if (value->type == JINJA_ITERATOR && value->iterator->type_name)
        return value->iterator->type_name;
    if (value->type == JINJA_VIEW)
        return value->view->kind == JINJA_KEYS ? "dict_keys" : value->view->kind == JINJA_VALUES ? "dict_values" : "dict_items";
    if (value->type == JINJA_STRING && value->s->markup)
        return "Markup";
    return names[value->type];
}

bool jinja_undefined(jinja_state *state, jinja_value *out, const char *format, ...)
{
    char message[256];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    if (!jinja_string_value(state, message, strlen(message), out))
        return false;
    out->type = JINJA_UNDEFINED;
    return true;
}

/* ---- numbers ---- */

bool jinja_is_number(const jinja_value *value)
{
    return value->type == JINJA_BOOL || value->type == JINJA_INT || value->type == JINJA_FLOAT;
}

double jinja_number(const jinja_value *value)
{
    return value->type == JINJA_FLOAT ? value->f : (double)value->i;
}

/* -1, 0, 1; 2: one of them is no number.  A long double holds every int64 and every double. */
static int order_numbers(const jinja_value *a, const jinja_value *b)
{
    if (a->type != JINJA_FLOAT && b->type != JINJA_FLOAT)
        return (a->i > b->i) - (a->i < b->i);
    long double x = a->type == JINJA_FLOAT ? (long double)a->f : (long double)a->i;
    long double y = b->type == JINJA_FLOAT ? (long double)b->f : (long double)b->i;
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

void jinja_float_text(double value, char out[40])
{
    char digits[40];
    if (!isfinite(value)) {
        strcpy(out, isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, value);
    while (strtod(digits, NULL) != value && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int places = precision - exponent;
        snprintf(out, 40, "%.*f", places > 1 ? places : 1, value);
        return;
    }
    strcpy(out, digits);
}

/* ---- truth, length ---- */

int64_t jinja_range_length(const jinja_range *r)
{
    if (r->step > 0 ? r->start >= r->stop : r->start <= r->stop)
        return 0;
    uint64_t span = r->step > 0 ? (uint64_t)r->stop - (uint64_t)r->start : (uint64_t)r->start - (uint64_t)r->stop;
    uint64_t step = r->step > 0 ? (uint64_t)r->step : 0 - (uint64_t)r->step;
    uint64_t n = (span - 1) / step + 1;
    return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

bool jinja_length(const jinja_value *value, int64_t *length)
{
    switch (value->type) {
    case JINJA_STRING:
        *length = (int64_t)value->s->points;
        return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
        *length = (int64_t)value->list->count;
        return true;
    case JINJA_DICT:
        *length = (int64_t)value->dict->count;
        return true;
    case JINJA_VIEW:
        *length = (int64_t)value->view->dict->count;
        return true;
    case JINJA_RANGE:
        *length = jinja_range_length(value->range);
        return true;
    case JINJA_UNDEFINED:
        *length = 0;
        return true;
    default:
        return false;
    }
}

bool jinja_truth(const jinja_value *value)
{
    int64_t length;
    if (value->type == JINJA_NONE)
        return false;
    if (value->type == JINJA_BOOL || value->type == JINJA_INT)
        return value->i != 0;
    if (value->type == JINJA_FLOAT)
        return value->f != 0;
    return !jinja_length(value, &length) || length > 0;
}

/* ---- equality and order ---- */

static bool equal_lists(jinja_state *state, const jinja_list *a, const jinja_list *b, bool *equal)
{
    *equal = a->count == b->count;
    for (size_t i = 0; *equal && i < a->count; i++)
        if (!jinja_equal(state, &a->items[i], &b->items[i], equal))
            return false;
    return true;
}

static bool equal_dicts(jinja_state *state, const jinja_dict *a, const jinja_dict *b, bool *equal)
{
    *equal = a->count == b->count;
    for (size_t i = 0; *equal && i < a->count; i++) {
        const jinja_value *other = jinja_dict_get(state, b, a->keys[i]);
        if (state->failed)
            return false;
        *equal = other;
        if (other && !jinja_equal(state, &a->values[i], other, equal))
            return false;
    }
    return true;
}

static bool equal_ranges(const jinja_range *a, const jinja_range *b)
{
    int64_t n = jinja_range_length(a);
    return n == jinja_range_length(b) && (n == 0 || (a->start == b->start && (n == 1 || a->step == b->step)));
}

static bool equal_inside(jinja_state *state, const jinja_value *a, const jinja_value *b, bool *equal)
{
    switch (a->type) {
    case JINJA_LIST:
    case JINJA_TUPLE:
        return equal_lists(state, a->list, b->list, equal);
    case JINJA_DICT:
        return equal_dicts(state, a->dict, b->dict, equal);
    case JINJA_RANGE:
        *equal = equal_ranges(a->range, b->range);
        return true;
    case JINJA_METHOD:
        *equal = a->method->function == b->method->function && a->method->self.s == b->method->self.s;
        return true;
    case JINJA_VIEW:
        *equal = a->view->dict == b->view->dict && a->view->kind == b->view->kind && a->view->kind != JINJA_VALUES;
        return true;
    default:
        *equal = a->list == b->list; /* the same object */
        return true;
    }
}

bool jinja_equal(jinja_state *state, const jinja_value *a, const jinja_value *b, bool *equal)
{
    if (!jinja_spend(state, 1))
        return false;
    if (jinja_is_number(a) && jinja_is_number(b)) {
        *equal = order_numbers(a, b) == 0;
        return true;
    }
    *equal = false;
    if (a->type != b->type)
        return true;
    if (a->type == JINJA_UNDEFINED || a->type == JINJA_NONE)
        return *equal = true;
    if (a->type == JINJA_STRING) {
        *equal = a->s->length == b->s->length && memcmp(a->s->data, b->s->data, a->s->length) == 0;
        return jinja_spend(state, *equal ? a->s->length / 1024 : 0);
    }
    if (!jinja_deeper(state))
        return false;
    bool ok = equal_inside(state, a, b, equal);
    state->depth--;
    return ok;
}

static int order_strings(const jinja_string *a, const jinja_string *b)
{
    size_t n = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->data, b->data, n); /* the order of UTF-8 is that of code points */
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

static bool less_lists(jinja_state *state, const jinja_value *a, const jinja_value *b, const char *op, bool or_equal, bool *less)
{
    const jinja_list *x = a->list, *y = b->list;
    for (size_t i = 0; i < x->count && i < y->count; i++) {
        bool same;
        if (!jinja_equal(state, &x->items[i], &y->items[i], &same))
            return false;
        if (!same)
            return jinja_less(state, &x->items[i], &y->items[i], op, or_equal, less);
    }
    *less = x->count < y->count || (or_equal && x->count == y->count);
    return true;
}

bool jinja_less(jinja_state *state, const jinja_value *a, const jinja_value *b, const char *op, bool or_equal, bool *less)
{
    if (!jinja_spend(state, 1))
        return false;
    if (jinja_is_number(a) && jinja_is_number(b)) {
        int order = order_numbers(a, b);
        *less = order == -1 || (or_equal && order == 0);
        return true;
    }
    if (a->type == JINJA_STRING && b->type == JINJA_STRING) {
        int order = order_strings(a->s, b->s);
        *less = order < 0 || (or_equal && order == 0);
        return true;
    }
    if (a->type == b->type && (a->type == JINJA_LIST || a->type == JINJA_TUPLE)) {
        if (!jinja_deeper(state))
            return false;
        bool ok = less_lists(state, a, b, op, or_equal, less);
        state->depth--;
        return ok;
    }
    if (a->type == JINJA_UNDEFINED || b->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", (a->type == JINJA_UNDEFINED ? a : b)->s->data);
    return jinja_fail(state, "'%s' not supported between instances of '%s' and '%s'", op, jinja_type_name(a), jinja_type_name(b));
}

bool jinja_compare(jinja_state *state, jinja_op op, const jinja_value *a, const jinja_value *b, bool *out)
{
    bool ok = true;
    switch (op) {
    case OP_EQUAL:
    case OP_UNEQUAL:
        ok = jinja_equal(state, a, b, out);
        *out = *out == (op == OP_EQUAL);
        return ok;
    case OP_LESS:
        return jinja_less(state, a, b, "<", false, out);
    case OP_LESS_EQUAL:
        return jinja_less(state, a, b, "<=", true, out);
    case OP_GREATER:
        return jinja_less(state, b, a, ">", false, out);
    case OP_GREATER_EQUAL:
        return jinja_less(state, b, a, ">=", true, out);
    default:
        ok = jinja_contains(state, b, a, out);
        *out = *out == (op == OP_IN);
        return ok;
    }
}

bool jinja_contains(jinja_state *state, const jinja_value *container, const jinja_value *value, bool *contains)
{
    *contains = false;
    if (container->type == JINJA_STRING) {
        if (value->type != JINJA_STRING)
            return jinja_fail(state, "'in <string>' requires string as left operand, not %s", jinja_type_name(value));
        *contains = memmem(container->s->data, container->s->length, value->s->data, value->s->length);
        return jinja_spend(state, container->s->length / 128);
    }
    if (container->type == JINJA_DICT || (container->type == JINJA_VIEW && container->view->kind == JINJA_KEYS)) {
        *contains = jinja_dict_get(state, container->type == JINJA_DICT ? container->dict : container->view->dict, *value);
        return !state->failed;
    }
    if (container->type == JINJA_NONE || jinja_is_number(container) || container->type == JINJA_MACRO ||
        container->type == JINJA_FUNCTION || container->type == JINJA_METHOD || container->type == JINJA_NAMESPACE)
        return jinja_fail(state, "argument of type '%s' is not iterable", jinja_type_name(container));
    jinja_iterator *it = jinja_iterate(state, container);
    jinja_value item;
    while (it && !*contains && it->next(state, it, &item))
        if (!jinja_equal(state, &item, value, contains))
            return false;
    return it && !state->failed;
}

/* ---- as text ---- */

static bool repr_string(jinja_state *state, const jinja_string *s, jinja_text *text)
{
    char quote = memchr(s->data, '\'', s->length) && !memchr(s->data, '"', s->length) ? '"' : '\'', escape[16];
    if (s->markup && !jinja_puts(state, text, "Markup("))
        return false;
    bool ok = jinja_put(state, text, &quote, 1);
    unsigned n;
    for (size_t i = 0; ok && i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        static const char named[] = "\n\r\t\\", names[] = "nrt\\";
        const char *at = c && c < 0x80 ? strchr(named, (int)c) : NULL;
        if (at)
            snprintf(escape, sizeof escape, "\\%c", names[at - named]);
        else if (c == (uint32_t)quote)
            snprintf(escape, sizeof escape, "\\%c", quote);
        else if (c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad)
            snprintf(escape, sizeof escape, "\\x%02x", c);
        else if (c >= 0x7f && cb_is_space(c))
            snprintf(escape, sizeof escape, "\\u%04x", c);
        else
            escape[0] = '\0';
        ok = escape[0] ? jinja_puts(state, text, escape) : jinja_put(state, text, s->data + i, n);
    }
    return ok && jinja_put(state, text, &quote, 1) && (!s->markup || jinja_puts(state, text, ")"));
}

static bool repr_list(jinja_state *state, const jinja_value *value, jinja_text *text)
{
    bool tuple = value->type == JINJA_TUPLE;
    bool ok = jinja_puts(state, text, tuple ? "(" : "[");
    for (size_t i = 0; ok && i < value->list->count; i++)
        ok = (!i || jinja_puts(state, text, ", ")) && jinja_repr(state, &value->list->items[i], text);
    return ok && jinja_puts(state, text, tuple ? value->list->count == 1 ? ",)" : ")" : "]");
}

static bool repr_dict(jinja_state *state, const jinja_dict *dict, jinja_text *text)
{
    bool ok = jinja_puts(state, text, "{");
    for (size_t i = 0; ok && i < dict->count; i++)
        ok = (!i || jinja_puts(state, text, ", ")) && jinja_repr(state, &dict->keys[i], text) && jinja_puts(state, text, ": ") &&
             jinja_repr(state, &dict->values[i], text);
    return ok && jinja_puts(state, text, "}");
}

static bool repr_view(jinja_state *state, const jinja_value *value, jinja_text *text)
{
    jinja_value list;
    return jinja_puts(state, text, jinja_type_name(value)) && jinja_puts(state, text, "(") && jinja_collect(state, value, &list) &&
           repr_list(state, &list, text) && jinja_puts(state, text, ")");
}

static bool repr_range(jinja_state *state, const jinja_range *r, jinja_text *text)
{
    char buffer[96];
    int n = snprintf(buffer, sizeof buffer, "range(%lld, %lld", (long long)r->start, (long long)r->stop);
    if (r->step != 1)
        n += snprintf(buffer + n, sizeof buffer - (size_t)n, ", %lld", (long long)r->step);
    return jinja_put(state, text, buffer, (size_t)n) && jinja_puts(state, text, ")");
}

static bool repr_inside(jinja_state *state, const jinja_value *value, jinja_text *text)
{
    switch (value->type) {
    case JINJA_LIST:
    case JINJA_TUPLE:
        return repr_list(state, value, text);
    case JINJA_DICT:
        return repr_dict(state, value->dict, text);
    case JINJA_NAMESPACE:
        return jinja_puts(state, text, "<Namespace ") && repr_dict(state, value->dict, text) && jinja_puts(state, text, ">");
    case JINJA_VIEW:
        return repr_view(state, value, text);
    case JINJA_RANGE:
        return repr_range(state, value->range, text);
    case JINJA_MACRO:
        return jinja_puts(state, text, "<Macro '") && jinja_put(state, text, value->macro->name->data, value->macro->name->length) &&
               jinja_puts(state, text, "'>");
    default:
        return jinja_puts(state, text, "<") && jinja_puts(state, text, jinja_type_name(value)) && jinja_puts(state, text, " object>");
    }
}

bool jinja_repr(jinja_state *state, const jinja_value *value, jinja_text *text)
{
    char buffer[40];
    if (!jinja_spend(state, 1))
        return false;
    switch (value->type) {
    case JINJA_UNDEFINED:
        return jinja_puts(state, text, "Undefined");
    case JINJA_NONE:
        return jinja_puts(state, text, "None");
    case JINJA_BOOL:
        return jinja_puts(state, text, value->i ? "True" : "False");
    case JINJA_INT:
        snprintf(buffer, sizeof buffer, "%lld", (long long)value->i);
        return jinja_puts(state, text, buffer);
    case JINJA_FLOAT:
        jinja_float_text(value->f, buffer);
        return jinja_puts(state, text, buffer);
    case JINJA_STRING:
        return repr_string(state, value->s, text);
    default:
        break;
    }
    if (!jinja_deeper(state))
        return false;
    bool ok = repr_inside(state, value, text);
    state->depth--;
    return ok;
}

bool jinja_to_text(jinja_state *state, const jinja_value *value, jinja_text *text)
{
    if (value->type == JINJA_UNDEFINED)
        return true;
    if (value->type == JINJA_STRING)
        return jinja_put(state, text, value->s->data, value->s->length);
    return jinja_repr(state, value, text);
}

bool jinja_to_string(jinja_state *state, const jinja_value *value, const jinja_string **out)
{
    jinja_text text = {0};
    jinja_value s = *value;
    if (value->type != JINJA_STRING && !(jinja_to_text(state, value, &text) && jinja_text_value(state, &text, &s)))
        return false;
    *out = s.s;
    return true;
}
