/* jinja_operators.c: arithmetic with Python's rules; whole numbers beyond 64 bits are an error. */
#include <math.h>
#include <string.h>

#include "formats/jinja.h"

static bool overflow(jinja_state *state)
{
    return jinja_fail(state, "found a whole number beyond 64 bits");
}

static bool power(jinja_state *state, int64_t base, int64_t exponent, jinja_value *out)
{
    int64_t result = 1;
    if (exponent < 0) {
        if (base == 0)
            return jinja_fail(state, "0.0 cannot be raised to a negative power");
        *out = jinja_float(pow((double)base, (double)exponent));
        return true;
    }
    for (; exponent > 0; exponent >>= 1) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return overflow(state);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base))
            return overflow(state);
    }
    *out = jinja_int(result);
    return true;
}

static bool integers(jinja_state *state, jinja_op op, int64_t a, int64_t b, jinja_value *out)
{
    int64_t result = 0;
    if (op >= OP_DIVIDE && op <= OP_MODULO && b == 0)
        return jinja_fail(state, op == OP_DIVIDE ? "division by zero" : "integer division or modulo by zero");
    switch (op) {
    case OP_ADD:
        if (__builtin_add_overflow(a, b, &result))
            return overflow(state);
        break;
    case OP_SUBTRACT:
        if (__builtin_sub_overflow(a, b, &result))
            return overflow(state);
        break;
    case OP_MULTIPLY:
        if (__builtin_mul_overflow(a, b, &result))
            return overflow(state);
        break;
    case OP_DIVIDE:
        *out = jinja_float((double)((long double)a / (long double)b));
        return true;
    case OP_POWER:
        return power(state, a, b, out);
    default:
        if (a == INT64_MIN && b == -1) {
            if (op == OP_FLOOR_DIVIDE)
                return overflow(state);
            break;
        }
        result = op == OP_MODULO ? a % b : a / b;
        if (a % b && (a < 0) != (b < 0))
            result += op == OP_MODULO ? b : -1;
    }
    *out = jinja_int(result);
    return true;
}

static double modulo(double a, double b)
{
    double rest = fmod(a, b);
    if (rest != 0)
        return (b < 0) != (rest < 0) ? rest + b : rest;
    return copysign(0, b);
}

static double floor_divide(double a, double b)
{
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0 && (b < 0) != (rest < 0))
        quotient -= 1;
    if (quotient == 0)
        return copysign(0, a / b);
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1 : whole;
}

static bool reals(jinja_state *state, jinja_op op, double a, double b, jinja_value *out)
{
    if (op >= OP_DIVIDE && op <= OP_MODULO && b == 0)
        return jinja_fail(state, "float division by zero");
    double result = op == OP_ADD            ? a + b
                    : op == OP_SUBTRACT     ? a - b
                    : op == OP_MULTIPLY     ? a * b
                    : op == OP_DIVIDE       ? a / b
                    : op == OP_FLOOR_DIVIDE ? floor_divide(a, b)
                    : op == OP_MODULO       ? modulo(a, b)
                                            : pow(a, b);
    if (op == OP_POWER && a == 0 && b < 0)
        return jinja_fail(state, "0.0 cannot be raised to a negative power");
    if (op == OP_POWER && isnan(result) && !isnan(a) && !isnan(b))
        return jinja_fail(state, "a negative number to a fractional power is no real number");
    if (op == OP_POWER && isinf(result) && !isinf(a) && !isinf(b))
        return jinja_fail(state, "found a number beyond the range of floating point");
    *out = jinja_float(result);
    return true;
}

bool jinja_escape(jinja_state *state, const jinja_string *s, jinja_text *text)
{
    static const char special[] = "&<>'\"", *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    size_t copied = 0;
    for (size_t i = 0; i < s->length; i++) {
        const char *at = s->data[i] ? strchr(special, s->data[i]) : NULL;
        if (!at)
            continue;
        if (!jinja_put(state, text, s->data + copied, i - copied) || !jinja_puts(state, text, names[at - special]))
            return false;
        copied = i + 1;
    }
    return jinja_put(state, text, s->data + copied, s->length - copied);
}

static bool put_escaped(jinja_state *state, const jinja_string *s, bool escape, jinja_text *text)
{
    return escape && !s->markup ? jinja_escape(state, s, text) : jinja_put(state, text, s->data, s->length);
}

static bool add_strings(jinja_state *state, const jinja_string *a, const jinja_string *b, jinja_value *out)
{
    jinja_text text = {0};
    bool markup = a->markup || b->markup;
    if (!put_escaped(state, a, markup, &text) || !put_escaped(state, b, markup, &text) || !jinja_text_value(state, &text, out))
        return false;
    ((jinja_string *)out->s)->markup = markup;
    return true;
}

static bool add_lists(jinja_state *state, const jinja_value *a, const jinja_value *b, jinja_value *out)
{
    size_t n = a->list->count, m = b->list->count;
    if (!jinja_new_list(state, a->type, n + m, out) || !jinja_spend(state, (n + m) / 16))
        return false;
    if (n)
        memcpy(out->list->items, a->list->items, n * sizeof *a->list->items);
    if (m)
        memcpy(out->list->items + n, b->list->items, m * sizeof *b->list->items);
    out->list->count = n + m;
    return true;
}

static bool repeat(jinja_state *state, const jinja_value *a, int64_t times, jinja_value *out)
{
    times = times < 0 ? 0 : times;
    if (a->type != JINJA_STRING) {
        size_t count;
        if (__builtin_mul_overflow(a->list->count, (size_t)times, &count) || count > SIZE_MAX / 64)
            return jinja_fail(state, "found a list that is too large");
        if (!jinja_new_list(state, a->type, count, out) || !jinja_spend(state, count / 16))
            return false;
        for (size_t i = 0; i < count; i++)
            out->list->items[i] = a->list->items[i % a->list->count];
        out->list->count = count;
        return true;
    }
    size_t length;
    if (__builtin_mul_overflow(a->s->length, (size_t)times, &length) || length > SIZE_MAX / 64)
        return jinja_fail(state, "found a text that is too long");
    jinja_text text = {0};
    text.data = jinja_take(state, length + 1);
    text.capacity = length;
    for (int64_t i = 0; text.data && text.length < length && i < times; i++)
        jinja_put(state, &text, a->s->data, a->s->length);
    if (!text.data || !jinja_text_value(state, &text, out))
        return false;
    ((jinja_string *)out->s)->markup = a->s->markup;
    return true;
}

static bool is_whole(const jinja_value *value)
{
    return value->type == JINJA_INT || value->type == JINJA_BOOL;
}

static bool is_sequence(const jinja_value *value)
{
    return value->type == JINJA_STRING || value->type == JINJA_LIST || value->type == JINJA_TUPLE;
}

bool jinja_binary(jinja_state *state, jinja_op op, const jinja_value *a, const jinja_value *b, jinja_value *out)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
    if (is_whole(a) && is_whole(b))
        return integers(state, op, a->i, b->i, out);
    if (jinja_is_number(a) && jinja_is_number(b))
        return reals(state, op, jinja_number(a), jinja_number(b), out);
    if (op == OP_MODULO && a->type == JINJA_STRING)
        return jinja_format_percent(state, a->s, b, out);
    if (a->type == JINJA_UNDEFINED || b->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", (a->type == JINJA_UNDEFINED ? a : b)->s->data);
    if (op == OP_ADD && a->type == JINJA_STRING && b->type == JINJA_STRING)
        return add_strings(state, a->s, b->s, out);
    if (op == OP_ADD && a->type == b->type && (a->type == JINJA_LIST || a->type == JINJA_TUPLE))
        return add_lists(state, a, b, out);
    if (op == OP_MULTIPLY && is_sequence(a) && is_whole(b))
        return repeat(state, a, b->i, out);
    if (op == OP_MULTIPLY && is_sequence(b) && is_whole(a))
        return repeat(state, b, a->i, out);
    if (op == OP_ADD && a->type == JINJA_STRING)
        return jinja_fail(state, "can only concatenate str (not \"%s\") to str", jinja_type_name(b));
    return jinja_fail(state, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op], jinja_type_name(a), jinja_type_name(b));
}
