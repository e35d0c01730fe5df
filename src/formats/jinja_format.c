/* jinja_format.c: "..." % values and "...".format(values). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/jinja.h"

typedef struct spec {
    char fill[5], align, sign, type, grouping; /* align 0: as the type has it */
    bool alternate, zero;
    int64_t width, precision; /* precision -1: none */
} spec;

enum { MOST_WIDTH = 1 << 20, MOST_PRECISION = 400 };

/* Puts sign and digits in a field. */
static bool put_field(jinja_state *state, const spec *f, const char *sign, const char *body, size_t length, bool number, jinja_text *text)
{
    int64_t have = (int64_t)(strlen(sign) + jinja_count_points(body, length)), room = f->width > have ? f->width - have : 0;
    char align = f->align ? f->align : number ? '>' : '<';
    int64_t left = align == '>' ? room : align == '^' ? room / 2 : 0, middle = align == '=' ? room : 0, right = room - left - middle;
    bool ok = jinja_spend(state, (uint64_t)room / 8);
    for (; ok && left > 0; left--)
        ok = jinja_puts(state, text, f->fill);
    ok = ok && jinja_puts(state, text, sign);
    for (; ok && middle > 0; middle--)
        ok = jinja_puts(state, text, f->fill);
    ok = ok && jinja_put(state, text, body, length);
    for (; ok && right > 0; right--)
        ok = jinja_puts(state, text, f->fill);
    return ok;
}

static const char *sign_of(const spec *f, bool negative)
{
    return negative ? "-" : f->sign == '+' ? "+" : f->sign == ' ' ? " " : "";
}

/* Thousands in the digits before a point. */
static void group(const char *digits, char separator, char *out)
{
    size_t whole = strspn(digits, "0123456789");
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0)
            *out++ = separator;
        *out++ = digits[i];
    }
    strcpy(out, digits + whole);
}

static bool put_integer(jinja_state *state, const spec *f, int64_t value, jinja_text *text)
{
    char digits[80], grouped[120], prefix[8];
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    unsigned base = f->type == 'x' || f->type == 'X' ? 16 : f->type == 'o' ? 8 : f->type == 'b' ? 2 : 10;
    char *at = digits + sizeof digits - 1;
    *at = '\0';
    do
        *--at = (f->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[magnitude % base];
    while (magnitude /= base);
    while (f->precision > digits + (sizeof digits - 1) - at && at > digits + 8) /* % alone has one */
        *--at = '0';
    if (f->grouping && base == 10) {
        group(at, f->grouping, grouped);
        at = grouped;
    }
    snprintf(prefix, sizeof prefix, "%s%s%c", sign_of(f, value < 0), f->alternate && base != 10 ? "0" : "",
             f->alternate && base != 10 ? f->type : 0);
    return put_field(state, f, prefix, at, strlen(at), true, text);
}

static bool put_real(jinja_state *state, const spec *f, double value, jinja_text *text)
{
    char digits[MOST_PRECISION + 400], grouped[MOST_PRECISION + 600], pattern[16];
    double magnitude = fabs(value);
    char type = f->type == '%' ? 'f' : f->type ? f->type : 'g';
    int precision = f->precision < 0 ? 6 : (int)f->precision;
    if (f->type == '%')
        magnitude *= 100;
    if (!f->type && f->precision < 0) {
        jinja_float_text(magnitude, digits);
    } else {
        snprintf(pattern, sizeof pattern, "%%%s.*%c", f->alternate ? "#" : "", type);
        snprintf(digits, sizeof digits, pattern, precision, magnitude);
        if (!f->type && !strpbrk(digits, ".en") && isfinite(value)) /* as a float it has a point */
            strcat(digits, ".0");
    }
    if (f->type == '%')
        strcat(digits, "%");
    char *body = digits;
    if (f->grouping) {
        group(digits, f->grouping, grouped);
        body = grouped;
    }
    return put_field(state, f, sign_of(f, signbit(value) && !isnan(value)), body, strlen(body), true, text);
}

static bool put_string(jinja_state *state, const spec *f, const jinja_string *s, jinja_text *text)
{
    size_t end = f->precision >= 0 ? jinja_point_offset(s, (size_t)f->precision) : s->length;
    return put_field(state, f, "", s->data, end, false, text);
}

/* ---- % ---- */

typedef struct percent {
    const jinja_value *values; /* a tuple, a dict or one value */
    size_t next;
    bool single;
} percent;

static bool next_value(jinja_state *state, percent *p, jinja_value *out)
{
    if (p->single && p->next == 0) {
        p->next++;
        return *out = *p->values, true;
    }
    if (p->single || p->next >= p->values->list->count)
        return jinja_fail(state, "not enough arguments for format string");
    *out = p->values->list->items[p->next++];
    return true;
}

static bool read_number(jinja_state *state, const char **at, percent *p, int64_t *out)
{
    if (**at == '*') {
        jinja_value value;
        ++*at;
        return next_value(state, p, &value) && jinja_want_int(state, "*", &value, out);
    }
    for (*out = 0; **at >= '0' && **at <= '9' && *out < MOST_WIDTH; ++*at)
        *out = *out * 10 + (**at - '0');
    return *out < MOST_WIDTH || jinja_fail(state, "found a width that is too large");
}

static bool put_percent(jinja_state *state, const spec *f, const jinja_value *value, jinja_text *text)
{
    const jinja_string *s;
    jinja_text written = {0};
    jinja_value made;
    spec g = *f;
    switch (f->type) {
    case 's':
    case 'r':
    case 'a':
        if (f->type == 's') {
            if (!jinja_to_string(state, value, &s))
                return false;
        } else {
            if (!jinja_repr(state, value, &written) || !jinja_text_value(state, &written, &made))
                return false;
            s = made.s;
        }
        g.align = g.align == '<' ? '<' : '>';
        strcpy(g.fill, " ");
        return put_string(state, &g, s, text);
    case 'c':
        if (value->type == JINJA_STRING && value->s->points == 1)
            return put_string(state, &g, value->s, text);
        if (value->type == JINJA_INT && value->i >= 0 && value->i < 0x110000 && (value->i < 0xd800 || value->i > 0xdfff)) {
            char bytes[4];
            return jinja_string_value(state, bytes, cb_utf8_write((uint32_t)value->i, bytes), &made) && put_string(state, &g, made.s, text);
        }
        return jinja_fail(state, "%%c requires int or char");
    case 'd':
    case 'i':
    case 'u':
        if (value->type == JINJA_FLOAT && isfinite(value->f) && fabs(value->f) < 9e18)
            return put_integer(state, &g, (int64_t)value->f, text);
        /* fall through */
    case 'x':
    case 'X':
    case 'o':
        if (value->type != JINJA_INT && value->type != JINJA_BOOL)
            return jinja_fail(state, "%%%c format: a real number is required, not %s", f->type, jinja_type_name(value));
        return put_integer(state, &g, value->i, text);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (!jinja_is_number(value))
            return jinja_fail(state, "must be real number, not %s", jinja_type_name(value));
        return put_real(state, &g, jinja_number(value), text);
    default:
        return jinja_fail(state, "unsupported format character '%c'", f->type);
    }
}

static bool percent_one(jinja_state *state, const char **at_, const char *end, percent *p, jinja_text *text)
{
    const char *at = *at_;
    spec f = {.fill = " ", .precision = -1};
    jinja_value value = {.type = JINJA_UNDEFINED};
    bool named = *at == '(';
    if (named) {
        const char *name = ++at;
        for (int depth = 1; at < end; at++) {
            depth += (*at == '(') - (*at == ')');
            if (!depth)
                break;
        }
        if (at >= end)
            return jinja_fail(state, "incomplete format key");
        if (p->values->type != JINJA_DICT)
            return jinja_fail(state, "format requires a mapping");
        const jinja_value *found = jinja_dict_find(p->values->dict, name, (size_t)(at - name));
        if (!found)
            return jinja_fail(state, "found no value for the key '%.*s'", (int)(at - name < 100 ? at - name : 100), name);
        value = *found;
        at++;
    }
    for (; at < end && strchr("-+ #0", *at); at++) {
        f.align = *at == '-' ? '<' : f.align;
        f.sign = *at == '+' || (*at == ' ' && f.sign != '+') ? *at : f.sign;
        f.alternate |= *at == '#';
        f.zero |= *at == '0';
    }
    if (!read_number(state, &at, p, &f.width))
        return false;
    if (f.width < 0) {
        f.align = '<';
        f.width = -f.width;
    }
    if (*at == '.' && (at++, !read_number(state, &at, p, &f.precision)))
        return false;
    if (f.precision > MOST_PRECISION || f.width > MOST_WIDTH)
        return jinja_fail(state, "found a width or precision that is too large");
    at += at < end && strchr("hlL", *at) != NULL;
    if (at >= end)
        return jinja_fail(state, "incomplete format");
    f.type = *at++;
    *at_ = at;
    if (f.type == '%')
        return jinja_puts(state, text, "%");
    if (f.zero && f.align != '<') {
        f.align = '=';
        strcpy(f.fill, "0");
    }
    return (named || next_value(state, p, &value)) && put_percent(state, &f, &value, text);
}

bool jinja_format_percent(jinja_state *state, const jinja_string *format, const jinja_value *values, jinja_value *out)
{
    percent p = {.values = values, .single = values->type != JINJA_TUPLE};
    jinja_text text = {0};
    const char *at = format->data, *end = at + format->length;
    while (at < end) {
        const char *sign = memchr(at, '%', (size_t)(end - at));
        if (!jinja_put(state, &text, at, (size_t)((sign ? sign : end) - at)))
            return false;
        at = sign ? sign + 1 : end;
        if (sign && !percent_one(state, &at, end, &p, &text))
            return false;
    }
    bool rest = p.single ? p.next == 0 && values->type != JINJA_DICT && values->type != JINJA_LIST && values->type != JINJA_UNDEFINED
                         : p.next < values->list->count;
    if (rest && !(p.single && values->type == JINJA_RANGE))
        return jinja_fail(state, "not all arguments converted during string formatting");
    if (!jinja_text_value(state, &text, out))
        return false;
    ((jinja_string *)out->s)->markup = format->markup;
    return true;
}

/* ---- str.format ---- */

typedef struct braces {
    const jinja_arguments *arguments;
    const jinja_dict *map; /* of format_map */
    int64_t next;          /* automatic numbers; -1: there are explicit ones */
    int depth;
} braces;

static bool read_spec(jinja_state *state, const char *at, const char *end, spec *f)
{
    unsigned n = 1;
    *f = (spec){.fill = " ", .precision = -1};
    if (at < end)
        cb_utf8_read(at, &n);
    if (at + n < end && strchr("<>=^", at[n])) {
        memcpy(f->fill, at, n);
        f->fill[n] = '\0';
        f->align = at[n];
        at += n + 1;
    } else if (at < end && strchr("<>=^", *at)) {
        f->align = *at++;
    }
    if (at < end && strchr("+- ", *at))
        f->sign = *at++;
    if (at < end && *at == '#')
        f->alternate = at++;
    if (at < end && *at == '0') {
        f->zero = at++;
        if (!f->align) {
            f->align = '=';
            strcpy(f->fill, "0");
        }
    }
    for (; at < end && *at >= '0' && *at <= '9' && f->width < MOST_WIDTH; at++)
        f->width = f->width * 10 + (*at - '0');
    if (at < end && strchr(",_", *at))
        f->grouping = *at++;
    if (at < end && *at == '.') {
        const char *digits = ++at;
        for (f->precision = 0; at < end && *at >= '0' && *at <= '9' && f->precision < MOST_WIDTH; at++)
            f->precision = f->precision * 10 + (*at - '0');
        if (at == digits)
            return jinja_fail(state, "Format specifier missing precision");
    }
    if (at < end)
        f->type = *at++;
    return (at == end && f->width < MOST_WIDTH && f->precision <= MOST_PRECISION) || jinja_fail(state, "Invalid format specifier");
}

static bool format_value(jinja_state *state, const jinja_value *value, const char *at, const char *end, jinja_text *text)
{
    spec f;
    if (at == end)
        return jinja_to_text(state, value, text);
    if (!read_spec(state, at, end, &f))
        return false;
    if (value->type == JINJA_STRING || (value->type == JINJA_BOOL && (!f.type || f.type == 's'))) {
        const jinja_string *s;
        if ((f.type && f.type != 's') || f.sign || f.grouping || f.alternate || (f.align == '=' && !f.zero))
            return jinja_fail(state, "Invalid format specifier for a string");
        if (f.align == '=')
            f.align = '<';
        return jinja_to_string(state, value, &s) && put_string(state, &f, s, text);
    }
    bool whole = value->type == JINJA_INT || value->type == JINJA_BOOL;
    if (whole && (!f.type || strchr("dxXobn", f.type))) {
        if (f.precision >= 0)
            return jinja_fail(state, "Precision not allowed in integer format specifier");
        return put_integer(state, &f, value->i, text);
    }
    if (jinja_is_number(value) && (!f.type || strchr("eEfFgG%", f.type)))
        return put_real(state, &f, jinja_number(value), text);
    return jinja_fail(state, "unsupported format string for %s", jinja_type_name(value));
}

/* The value that a field's name stands for: "0.name[key]". */
static bool find_field(jinja_state *state, braces *b, const char *at, const char *end, jinja_value *out)
{
    const char *first = at;
    while (at < end && *at != '.' && *at != '[')
        at++;
    size_t length = (size_t)(at - first);
    bool digits = length && strspn(first, "0123456789") >= length;
    if (b->map || (length && !digits)) {
        const jinja_value *found = b->map ? jinja_dict_find(b->map, first, length) : NULL;
        for (size_t i = 0; !b->map && !found && i < b->arguments->keyword_count; i++)
            if (b->arguments->keywords[i].name->length == length && memcmp(b->arguments->keywords[i].name->data, first, length) == 0)
                found = &b->arguments->keywords[i].value;
        if (!found)
            return jinja_fail(state, "format: there is no value named '%.*s'", (int)(length < 100 ? length : 100), first);
        *out = *found;
    } else {
        int64_t number = digits ? strtol(first, NULL, 10) : b->next;
        if (digits ? b->next > 0 : b->next < 0)
            return jinja_fail(state, "cannot switch between automatic field numbering and manual field specification");
        b->next = digits ? -1 : b->next + 1;
        if (number < 0 || (size_t)number >= b->arguments->count)
            return jinja_fail(state, "Replacement index %lld out of range for positional args tuple", (long long)number);
        *out = b->arguments->items[number];
    }
    while (at < end) {
        bool item = *at++ == '[';
        const char *name = at;
        while (at < end && (item ? *at != ']' : *at != '.' && *at != '['))
            at++;
        jinja_value key, value = *out;
        if (at == name || (item && at == end) || !jinja_string_value(state, name, (size_t)(at - name), &key))
            return !state->failed && jinja_fail(state, "Empty attribute in format string");
        if (item && strspn(name, "0123456789") >= (size_t)(at - name))
            key = jinja_int(strtol(name, NULL, 10));
        at += item;
        if (item ? !jinja_get_item(state, &value, &key, out) : !jinja_get_attribute(state, &value, key.s, out))
            return false;
    }
    return true;
}

static bool format_text(jinja_state *state, braces *b, const char *at, const char *end, jinja_text *text);

static bool format_field(jinja_state *state, braces *b, const char *at, const char *end, jinja_text *text)
{
    const char *name_end = at;
    char conversion = 0;
    jinja_value value = jinja_none();
    for (int depth = 0; name_end < end && ((*name_end != '!' && *name_end != ':') || depth); name_end++)
        depth += (*name_end == '[') - (*name_end == ']');
    if (!find_field(state, b, at, name_end, &value))
        return false;
    at = name_end;
    if (at < end && *at == '!') {
        conversion = at + 1 < end ? at[1] : 0;
        at += 2;
        if (!conversion || !strchr("sra", conversion) || (at < end && *at != ':'))
            return jinja_fail(state, "Unknown conversion specifier");
    }
    if (conversion) {
        jinja_text written = {0};
        if (!(conversion == 's' ? jinja_to_text : jinja_repr)(state, &value, &written) || !jinja_text_value(state, &written, &value))
            return false;
    }
    at += at < end;
    jinja_text inner = {0};
    if (b->depth > 1)
        return jinja_fail(state, "Max string recursion exceeded");
    b->depth++;
    bool ok = format_text(state, b, at, end, &inner);
    b->depth--;
    return ok && format_value(state, &value, inner.data ? inner.data : "", (inner.data ? inner.data : "") + inner.length, text);
}

static bool format_text(jinja_state *state, braces *b, const char *at, const char *end, jinja_text *text)
{
    while (at < end) {
        const char *to = at;
        while (to < end && *to != '{' && *to != '}')
            to++;
        if (!jinja_put(state, text, at, (size_t)(to - at)))
            return false;
        if (to == end)
            return true;
        if (to + 1 < end && to[1] == *to) {
            if (!jinja_put(state, text, to, 1))
                return false;
            at = to + 2;
            continue;
        }
        if (*to == '}')
            return jinja_fail(state, "Single '}' encountered in format string");
        const char *close = to + 1;
        for (int depth = 1; close < end; close++) {
            depth += (*close == '{') - (*close == '}');
            if (!depth)
                break;
        }
        if (close >= end)
            return jinja_fail(state, "expected '}' before end of string");
        if (!format_field(state, b, to + 1, close, text))
            return false;
        at = close + 1;
    }
    return true;
}

bool jinja_format_braces(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    braces b = {.arguments = arguments};
    jinja_text text = {0};
    return format_text(state, &b, self->s->data, self->s->data + self->s->length, &text) && jinja_text_value(state, &text, out);
}

bool jinja_format_map(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    if (arguments->count != 1 || arguments->keyword_count || arguments->items[0].type != JINJA_DICT)
        return jinja_fail(state, "format_map() takes one mapping");
    braces b = {.map = arguments->items[0].dict};
    jinja_text text = {0};
    return format_text(state, &b, self->s->data, self->s->data + self->s->length, &text) && jinja_text_value(state, &text, out);
}
