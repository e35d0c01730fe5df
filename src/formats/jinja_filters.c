/* jinja_filters.c: filters of single values, and the global functions. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/jinja.h"

#define FILTER(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

/* ---- through methods of strings ---- */

/* The method `name` of the value's text. */
static bool method(jinja_state *state, const char *name, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    jinja_value text = {.type = JINJA_STRING}, bound;
    jinja_string n = {name, strlen(name), strlen(name), false};
    return jinja_to_string(state, self, &text.s) && jinja_find_method(state, &text, &n, &bound) &&
           jinja_call_value(state, &bound, arguments, out);
}

FILTER(upper)
{
    return method(state, "upper", self, arguments, out);
}
FILTER(lower)
{
    return method(state, "lower", self, arguments, out);
}
FILTER(capitalize)
{
    return method(state, "capitalize", self, arguments, out);
}
FILTER(trim)
{
    return method(state, "strip", self, arguments, out);
}

FILTER(center)
{
    jinja_arguments width = *arguments;
    jinja_value eighty = jinja_int(80);
    if (!arguments->count && !arguments->keyword_count)
        width.items = &eighty, width.count = 1;
    return method(state, "center", self, &width, out);
}

FILTER(replace)
{
    JINJA_TAKE("replace", 2, "old", "new", "count");
    const jinja_string *parts[2];
    if (!jinja_to_string(state, &a[0], &parts[0]) || !jinja_to_string(state, &a[1], &parts[1]))
        return false;
    jinja_value items[3] = {{.type = JINJA_STRING, .s = parts[0]}, {.type = JINJA_STRING, .s = parts[1]}, a[2]};
    jinja_arguments all = {.items = items, .count = jinja_given(&a[2]) && a[2].type != JINJA_NONE ? 3 : 2};
    return method(state, "replace", self, &all, out);
}

/* Words begin behind white space and -({[<. */
FILTER(title)
{
    JINJA_TAKE("title", 0, NULL);
    const jinja_string *s;
    jinja_text text = {0};
    bool begins = true;
    if (!jinja_to_string(state, self, &s))
        return false;
    unsigned n;
    for (size_t i = 0; i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        if (!jinja_put_case(state, &text, c, begins ? JINJA_UPPER : JINJA_LOWER))
            return false;
        begins = cb_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c));
    }
    return jinja_text_value(state, &text, out);
}

FILTER(string)
{
    JINJA_TAKE("string", 0, NULL);
    *out = (jinja_value){.type = JINJA_STRING};
    return jinja_to_string(state, self, &out->s);
}

/* ---- for HTML: the environment does not escape on its own ---- */

static bool mark(jinja_state *state, const jinja_text *text, jinja_value *out)
{
    if (!jinja_text_value(state, text, out))
        return false;
    ((jinja_string *)out->s)->markup = true;
    return true;
}

FILTER(safe)
{
    JINJA_TAKE("safe", 0, NULL);
    jinja_text text = {0};
    return jinja_to_text(state, self, &text) && mark(state, &text, out);
}

FILTER(forceescape)
{
    JINJA_TAKE("forceescape", 0, NULL);
    const jinja_string *s;
    jinja_text text = {0};
    return jinja_to_string(state, self, &s) && jinja_escape(state, s, &text) && mark(state, &text, out);
}

FILTER(escape)
{
    if (self->type != JINJA_STRING || !self->s->markup)
        return forceescape(state, self, arguments, out);
    *out = *self;
    return true;
}

/* In a query a space is "+" and "/" is no exception. */
static bool put_quoted(jinja_state *state, const jinja_value *value, bool query, jinja_text *text)
{
    const jinja_string *s;
    char buffer[4];
    if (!jinja_to_string(state, value, &s))
        return false;
    for (size_t i = 0; i < s->length; i++) {
        unsigned char c = (unsigned char)s->data[i];
        bool plain = isalnum(c) || (c && strchr(query ? "_.-~" : "_.-~/", c));
        snprintf(buffer, sizeof buffer, plain ? "%c" : query && c == ' ' ? "+" : "%%%02X", c);
        if (!jinja_puts(state, text, buffer))
            return false;
    }
    return true;
}

FILTER(urlencode)
{
    JINJA_TAKE("urlencode", 0, NULL);
    static const jinja_string items = {"items", 5, 5, false};
    jinja_text text = {0};
    jinja_value pairs = *self, bound, item, pair;
    if (self->type == JINJA_STRING || jinja_is_number(self) || self->type == JINJA_NONE)
        return put_quoted(state, self, false, &text) && jinja_text_value(state, &text, out);
    if (self->type == JINJA_DICT && !(jinja_find_method(state, self, &items, &bound) && jinja_call_value(state, &bound, arguments, &pairs)))
        return false;
    jinja_iterator *it = jinja_iterate(state, &pairs);
    while (it && it->next(state, it, &item)) {
        if (!jinja_collect(state, &item, &pair))
            return false;
        if (pair.list->count != 2)
            return jinja_fail(state, "urlencode: found %zu values, expected pairs", pair.list->count);
        if ((text.length && !jinja_puts(state, &text, "&")) || !put_quoted(state, &pair.list->items[0], true, &text) ||
            !jinja_puts(state, &text, "=") || !put_quoted(state, &pair.list->items[1], true, &text))
            return false;
    }
    return it && !state->failed && jinja_text_value(state, &text, out);
}

/* ---- layout ---- */

FILTER(indent)
{
    JINJA_TAKE("indent", 0, "width", "first", "blank");
    const jinja_string *s, *space;
    jinja_value made, lines, count = jinja_int(4), one;
    bool first = jinja_given(&a[1]) && jinja_truth(&a[1]), blank = jinja_given(&a[2]) && jinja_truth(&a[2]);
    if (self->type != JINJA_STRING)
        return jinja_fail(state, "indent: found '%s', expected a str", jinja_type_name(self));
    s = self->s;
    if (jinja_given(&a[0]))
        count = a[0];
    if (count.type != JINJA_STRING) {
        int64_t width;
        if (!jinja_want_int(state, "indent: width", &count, &width) || !jinja_string_value(state, " ", 1, &one) ||
            !jinja_binary(state, OP_MULTIPLY, &one, &count, &made))
            return false;
        space = made.s;
    } else {
        space = count.s;
    }
    jinja_text text = {0};
    jinja_arguments none = {0};
    jinja_value whole;
    if (!jinja_put(state, &text, s->data, s->length) || !jinja_puts(state, &text, "\n") || !jinja_text_value(state, &text, &whole) ||
        !method(state, "splitlines", &whole, &none, &lines))
        return false;
    text = (jinja_text){0};
    for (size_t i = 0; i < lines.list->count; i++) {
        const jinja_string *line = lines.list->items[i].s;
        bool indented = i ? blank || line->length : first;
        if ((i && !jinja_puts(state, &text, "\n")) || (indented && !jinja_put(state, &text, space->data, space->length)) ||
            !jinja_put(state, &text, line->data, line->length))
            return false;
    }
    if (!jinja_text_value(state, &text, out))
        return false;
    ((jinja_string *)out->s)->markup = s->markup;
    return true;
}

FILTER(truncate_)
{
    JINJA_TAKE("truncate", 0, "length", "killwords", "end", "leeway");
    int64_t length = 255, leeway = 5, have;
    jinja_value end;
    if (!jinja_string_value(state, "...", 3, &end) || (jinja_given(&a[0]) && !jinja_want_int(state, "truncate: length", &a[0], &length)) ||
        (jinja_given(&a[3]) && a[3].type != JINJA_NONE && !jinja_want_int(state, "truncate: leeway", &a[3], &leeway)))
        return false;
    if (jinja_given(&a[2]))
        end = a[2];
    if (end.type != JINJA_STRING || length < (int64_t)end.s->points || leeway < 0)
        return jinja_fail(state, "truncate: expected a length of at least that of the end, and a leeway of 0 or more");
    *out = *self;
    if (!jinja_length(self, &have))
        return jinja_fail(state, "object of type '%s' has no len()", jinja_type_name(self));
    if (have - leeway <= length)
        return true;
    if (self->type != JINJA_STRING)
        return jinja_fail(state, "truncate: found '%s', expected a str", jinja_type_name(self));
    const jinja_string *s = self->s;
    size_t cut = jinja_point_offset(s, (size_t)(length - (int64_t)end.s->points));
    if (!jinja_given(&a[1]) || !jinja_truth(&a[1]))
        for (size_t at = cut; at-- > 0;)
            if (s->data[at] == ' ') {
                cut = at;
                break;
            }
    jinja_text text = {0};
    return jinja_put(state, &text, s->data, cut) && jinja_put(state, &text, end.s->data, end.s->length) &&
           jinja_text_value(state, &text, out);
}

FILTER(wordcount)
{
    JINJA_TAKE("wordcount", 0, NULL);
    const jinja_string *s;
    jinja_value word, is;
    jinja_arguments none = {0};
    bool inside = false;
    *out = jinja_int(0);
    if (!jinja_to_string(state, self, &s))
        return false;
    unsigned n;
    for (size_t i = 0; i < s->length; i += n) {
        cb_utf8_read(s->data + i, &n);
        if (!jinja_substring(state, s, i, i + n, &word) || !method(state, "isalnum", &word, &none, &is))
            return false;
        bool part = is.i || s->data[i] == '_';
        out->i += part && !inside;
        inside = part;
    }
    return true;
}

FILTER(striptags)
{
    JINJA_TAKE("striptags", 0, NULL);
    const jinja_string *s;
    jinja_text text = {0};
    bool gap = false;
    if (!jinja_to_string(state, self, &s))
        return false;
    unsigned n;
    for (size_t i = 0; i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        const char *close = c == '<' ? memchr(s->data + i, '>', s->length - i) : NULL;
        if (close) {
            i = (size_t)(close - s->data) + 1 - n;
            continue;
        }
        if (cb_is_space(c)) {
            gap = true;
            continue;
        }
        if ((gap && text.length && !jinja_puts(state, &text, " ")) || !jinja_put(state, &text, s->data + i, n))
            return false;
        gap = false;
    }
    return jinja_text_value(state, &text, out);
}

FILTER(format)
{
    if (arguments->count && arguments->keyword_count)
        return jinja_fail(state, "format: can't handle positional and keyword arguments at the same time");
    const jinja_string *s;
    jinja_value values;
    if (!jinja_to_string(state, self, &s))
        return false;
    if (arguments->keyword_count) {
        if (!jinja_new_dict(state, &values))
            return false;
        for (size_t i = 0; i < arguments->keyword_count; i++) {
            jinja_value key = {.type = JINJA_STRING, .s = arguments->keywords[i].name};
            if (!jinja_dict_set(state, values.dict, key, arguments->keywords[i].value))
                return false;
        }
    } else {
        jinja_list *list = jinja_take(state, sizeof *list);
        if (!list)
            return false;
        *list = (jinja_list){arguments->items, arguments->count, arguments->count, false};
        values = (jinja_value){.type = JINJA_TUPLE, .list = list};
    }
    return jinja_format_percent(state, s, &values, out);
}

/* ---- numbers ---- */

/* Python's int(text, base): white space, sign, prefix, digits with single underscores.  0: none; -1: beyond 64 bits. */
static int parse_int(const jinja_string *s, int64_t base, int64_t *out)
{
    char digits[80];
    size_t i = 0, end = s->length, n = 0;
    while (i < end && isspace((unsigned char)s->data[i]))
        i++;
    while (end > i && isspace((unsigned char)s->data[end - 1]))
        end--;
    if (i < end && strchr("+-", s->data[i]))
        digits[n++] = s->data[i++];
    if (i + 1 < end && s->data[i] == '0' && strchr("xXoObB", s->data[i + 1])) {
        int64_t prefix = strchr("xX", s->data[i + 1]) ? 16 : strchr("oO", s->data[i + 1]) ? 8 : 2;
        if (base == 0 || base == prefix) {
            base = prefix;
            i += 2;
            i += i < end && s->data[i] == '_';
        }
    }
    base = base ? base : 10;
    size_t first = n;
    for (bool was = false; i < end; i++) {
        if (s->data[i] == '_' && was && i + 1 < end && s->data[i + 1] != '_')
            continue;
        int c = tolower((unsigned char)s->data[i]), value = isdigit(c) ? c - '0' : isalpha(c) ? c - 'a' + 10 : 99;
        if (value >= base)
            return 0;
        was = true;
        if (n < sizeof digits - 1)
            digits[n++] = (char)c;
        else
            return -1;
    }
    digits[n] = '\0';
    if (n == first)
        return 0;
    errno = 0;
    *out = strtoll(digits, NULL, (int)base);
    return errno ? -1 : 1;
}

/* Python's float(text). */
static bool parse_float(const jinja_string *s, double *out)
{
    char digits[512], *stop;
    size_t i = 0, end = s->length, n = 0;
    while (i < end && isspace((unsigned char)s->data[i]))
        i++;
    while (end > i && isspace((unsigned char)s->data[end - 1]))
        end--;
    for (; i < end && n < sizeof digits - 1; i++) {
        if (s->data[i] == '_' && n && isdigit((unsigned char)digits[n - 1]) && i + 1 < end && isdigit((unsigned char)s->data[i + 1]))
            continue;
        if (!s->data[i] || strchr("xX_(", s->data[i]))
            return false;
        digits[n++] = s->data[i];
    }
    digits[n] = '\0';
    *out = strtod(digits, &stop);
    return n && i == end && !*stop;
}

FILTER(filesizeformat)
{
    JINJA_TAKE("filesizeformat", 0, "binary");
    static const char units[] = "kMGTPEZY";
    bool binary = jinja_given(&a[0]) && jinja_truth(&a[0]);
    double bytes = jinja_is_number(self) ? jinja_number(self) : 0, base = binary ? 1024 : 1000, unit = base * base;
    char text[64];
    if (!jinja_is_number(self) && !(self->type == JINJA_STRING && parse_float(self->s, &bytes)))
        return jinja_fail(state, "filesizeformat: found '%s', expected a number", jinja_type_name(self));
    if (bytes == 1 || bytes < base) {
        snprintf(text, sizeof text, bytes == 1 ? "1 Byte" : "%lld Bytes", (long long)bytes);
    } else {
        size_t i = 0;
        while (bytes >= unit && i + 1 < sizeof units - 1)
            i++, unit *= base;
        snprintf(text, sizeof text, "%.1f %c%s", base * bytes / unit, binary ? toupper((unsigned char)units[i]) : units[i],
                 binary ? "iB" : "B");
    }
    return jinja_string_value(state, text, strlen(text), out);
}

FILTER(int_)
{
    JINJA_TAKE("int", 0, "default", "base");
    int64_t base = 10;
    double number = NAN;
    jinja_value otherwise = jinja_given(&a[0]) ? a[0] : jinja_int(0);
    if (jinja_given(&a[1]) && !jinja_want_int(state, "int: base", &a[1], &base))
        return false;
    *out = jinja_int(self->i);
    if (self->type == JINJA_INT || self->type == JINJA_BOOL)
        return true;
    if (self->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", self->s->data);
    if (self->type == JINJA_STRING) {
        if (base != 0 && (base < 2 || base > 36)) {
            base = 10; /* int() refuses it, float() does not look at it */
        } else {
            int found = parse_int(self->s, base, &out->i);
            if (found)
                return found > 0 || jinja_fail(state, "int: found a whole number beyond 64 bits");
        }
        if (!parse_float(self->s, &number))
            number = NAN;
    } else if (self->type == JINJA_FLOAT) {
        number = self->f;
        if (isinf(number))
            return jinja_fail(state, "cannot convert float infinity to integer");
    }
    if (!isfinite(number)) {
        *out = otherwise;
        return true;
    }
    if (fabs(number) >= 9223372036854775807.0)
        return jinja_fail(state, "int: found a whole number beyond 64 bits");
    *out = jinja_int((int64_t)number);
    return true;
}

FILTER(float_)
{
    JINJA_TAKE("float", 0, "default");
    double number;
    *out = jinja_given(&a[0]) ? a[0] : jinja_float(0);
    if (self->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", self->s->data);
    if (jinja_is_number(self))
        *out = jinja_float(jinja_number(self));
    else if (self->type == JINJA_STRING && parse_float(self->s, &number))
        *out = jinja_float(number);
    return true;
}

FILTER(abs_)
{
    JINJA_TAKE("abs", 0, NULL);
    *out = *self;
    if (!jinja_is_number(self))
        return jinja_fail(state, "bad operand type for abs(): '%s'", jinja_type_name(self));
    if (self->type == JINJA_FLOAT)
        out->f = fabs(self->f);
    else
        *out = jinja_int(self->i < 0 ? -self->i : self->i);
    return out->type == JINJA_FLOAT || out->i >= 0 || jinja_fail(state, "found a whole number beyond 64 bits");
}

/* Half to even, as Python's round(); the digits of printf are correctly rounded. */
static bool round_common(jinja_state *state, const jinja_value *self, int64_t precision, jinja_value *out)
{
    char text[800];
    if (self->type != JINJA_FLOAT) {
        int64_t unit = 1;
        *out = jinja_int(self->i);
        for (; precision < 0 && unit < (int64_t)1e18; precision++)
            unit *= 10;
        if (precision < 0)
            return *out = jinja_int(0), true;
        int64_t rest = self->i % unit;
        rest += rest < 0 ? unit : 0;
        int64_t low = self->i - rest, up = rest > unit - rest || (rest == unit - rest && (low / unit) % 2);
        *out = jinja_int(low + (up ? unit : 0));
        return true;
    }
    *out = *self;
    if (!isfinite(self->f) || precision > 330)
        return true;
    if (precision >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)precision, self->f);
        *out = jinja_float(strtod(text, NULL));
        return true;
    }
    if (precision < -330)
        return *out = jinja_float(copysign(0, self->f)), true;
    double unit = pow(10, (double)-precision), scaled = self->f / unit, whole = nearbyint(scaled);
    *out = jinja_float(whole * unit);
    return isfinite(out->f) || jinja_fail(state, "rounded value too large to represent");
}

FILTER(round_)
{
    JINJA_TAKE("round", 0, "precision", "method");
    int64_t precision = 0;
    const jinja_string *how = NULL;
    if ((jinja_given(&a[0]) && !jinja_want_int(state, "round: precision", &a[0], &precision)) ||
        (jinja_given(&a[1]) && !jinja_want_string(state, "round: method", &a[1], &how)))
        return false;
    const char *m = how ? how->data : "common";
    if (strcmp(m, "common") != 0 && strcmp(m, "ceil") != 0 && strcmp(m, "floor") != 0)
        return jinja_fail(state, "round: method must be common, ceil or floor");
    if (self->type == JINJA_UNDEFINED || !jinja_is_number(self))
        return jinja_fail(state, "round: found '%s', expected a number", jinja_type_name(self));
    if (m[1] == 'o')
        return round_common(state, self, precision, out);
    double scale = pow(10, (double)precision), number = jinja_number(self) * scale;
    if (!isfinite(number))
        return jinja_fail(state, "round: found no finite number");
    *out = jinja_float((*m == 'c' ? ceil(number) : floor(number)) / scale);
    return true;
}

FILTER(default_)
{
    JINJA_TAKE("default", 0, "default_value", "boolean");
    bool boolean = jinja_given(&a[1]) && jinja_truth(&a[1]);
    *out = *self;
    if (self->type != JINJA_UNDEFINED && !(boolean && !jinja_truth(self)))
        return true;
    *out = a[0];
    return jinja_given(&a[0]) || jinja_string_value(state, "", 0, out);
}

const jinja_function jinja_text_filters[] = {{"abs", abs_},
                                             {"capitalize", capitalize},
                                             {"center", center},
                                             {"d", default_},
                                             {"default", default_},
                                             {"e", escape},
                                             {"escape", escape},
                                             {"filesizeformat", filesizeformat},
                                             {"float", float_},
                                             {"forceescape", forceescape},
                                             {"format", format},
                                             {"indent", indent},
                                             {"int", int_},
                                             {"lower", lower},
                                             {"replace", replace},
                                             {"round", round_},
                                             {"safe", safe},
                                             {"string", string},
                                             {"striptags", striptags},
                                             {"title", title},
                                             {"tojson", jinja_to_json},
                                             {"trim", trim},
                                             {"truncate", truncate_},
                                             {"upper", upper},
                                             {"urlencode", urlencode},
                                             {"wordcount", wordcount},
                                             {0}};
