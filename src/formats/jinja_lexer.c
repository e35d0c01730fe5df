/* jinja_lexer.c: a template as tokens.
 *
 * Text and tags alternate.  The environment has trim_blocks (the line feed behind a block goes) and lstrip_blocks (white space
 * before a block goes where nothing else stands on the line); "-" at the edge of a tag takes all white space on that side, "+"
 * keeps it.  Line ends are "\n" whatever they were, and one at the end of the template goes. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "formats/jinja.h"

typedef struct lexer {
    cb_jinja *template;
    const char *text;
    size_t length, at;
    int line;
    bool line_start; /* the last tag ended with a line end */
    jinja_tokens *tokens;
} lexer;

CB_COLD bool jinja_syntax(const cb_jinja *template, int line, const char *format, ...)
{
    char message[512];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    return cb_fail(CB_ERR_FORMAT, "%s:%d: %s", template->what, line, message) == CB_OK;
}

/* ---- strings of the template ---- */

static const jinja_string *new_string(cb_jinja *template, const char *text, size_t length)
{
    jinja_string *s = jinja_arena_take(&template->arena, sizeof *s);
    char *data = s ? jinja_arena_take(&template->arena, length + 1) : NULL;
    if (!data)
        return NULL;
    memcpy(data, text, length);
    data[length] = '\0';
    *s = (jinja_string){.data = data, .length = length, .points = jinja_count_points(data, length)};
    return s;
}

const jinja_string *jinja_intern(cb_jinja *template, const char *text, size_t length)
{
    for (size_t i = 0; i < template->name_count; i++)
        if (template->names[i]->length == length && memcmp(template->names[i]->data, text, length) == 0)
            return template->names[i];
    if (!cb_grow(&template->names, &template->name_capacity, template->name_count + 1, sizeof *template->names))
        return NULL;
    const jinja_string *s = new_string(template, text, length);
    if (s)
        template->names[template->name_count++] = s;
    return s;
}

/* ---- tokens ---- */

static jinja_token *add(lexer *l, jinja_token_type type)
{
    jinja_tokens *t = l->tokens;
    if (!cb_grow(&t->items, &t->capacity, t->count + 1, sizeof *t->items))
        return NULL;
    jinja_token *token = &t->items[t->count++];
    *token = (jinja_token){.type = type, .line = l->line};
    return token;
}

static void move(lexer *l, size_t to)
{
    for (; l->at < to; l->at++)
        l->line += l->text[l->at] == '\n';
}

static uint32_t point_at(const lexer *l, size_t at, unsigned *length)
{
    return cb_utf8_read(l->text + at, length);
}

static size_t skip_space(const lexer *l, size_t at)
{
    for (unsigned n; at < l->length && cb_is_space(point_at(l, at, &n)); at += n)
        ;
    return at;
}

static size_t strip_right(const lexer *l, size_t begin, size_t end)
{
    while (end > begin) {
        size_t at = end - 1;
        unsigned n;
        while (at > begin && ((unsigned char)l->text[at] & 0xc0) == 0x80)
            at--;
        if (!cb_is_space(point_at(l, at, &n)))
            break;
        end = at;
    }
    return end;
}

static bool starts(const lexer *l, size_t at, const char *with)
{
    size_t n = strlen(with);
    return l->length - at >= n && memcmp(l->text + at, with, n) == 0;
}

/* Text [begin, end), of which the tag behind it (at `end`, `sign` after its opening) may take the end. */
static bool add_text(lexer *l, size_t begin, size_t end, char sign, bool block)
{
    size_t stop = end;
    if (sign == '-') {
        stop = strip_right(l, begin, end);
    } else if (sign != '+' && block) {
        size_t line = end;
        while (line > begin && l->text[line - 1] != '\n')
            line--;
        if ((line > begin || l->line_start) && strip_right(l, line, end) == line)
            stop = line;
    }
    bool ok = true;
    if (stop > begin) {
        jinja_token *token = add(l, TOKEN_TEXT);
        ok = token && (token->string = new_string(l->template, l->text + begin, stop - begin));
    }
    move(l, end);
    return ok;
}

/* ---- inside a tag ---- */

static bool is_name_start(uint32_t c)
{
    if (c < 0x80)
        return isalpha((int)c) || c == '_';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) || category == UTF8PROC_CATEGORY_NL;
}

static bool is_name_part(uint32_t c)
{
    if (c < 0x80)
        return isalnum((int)c) || c == '_';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return is_name_start(c) || category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ND ||
           category == UTF8PROC_CATEGORY_PC;
}

static size_t digits(const lexer *l, size_t at, int (*is_digit)(int))
{
    while (at < l->length &&
           (is_digit((unsigned char)l->text[at]) || (l->text[at] == '_' && at + 1 < l->length && is_digit((unsigned char)l->text[at + 1]))))
        at++;
    return at;
}

static int is_binary(int c)
{
    return c == '0' || c == '1';
}
static int is_octal(int c)
{
    return c >= '0' && c <= '7';
}

/* The end of a floating-point number that begins at `at`, or `at` when it is none. */
static size_t float_end(const lexer *l, size_t at)
{
    size_t whole = digits(l, at, isdigit), end = whole;
    if (at && l->text[at - 1] == '.')
        return at;
    if (starts(l, end, ".") && end + 1 < l->length && isdigit((unsigned char)l->text[end + 1]))
        end = digits(l, end + 1, isdigit);
    if (end < l->length && (l->text[end] == 'e' || l->text[end] == 'E')) {
        size_t exponent = end + 1 + (end + 1 < l->length && strchr("+-", l->text[end + 1]));
        if (exponent < l->length && isdigit((unsigned char)l->text[exponent]))
            end = digits(l, exponent, isdigit);
    }
    return end == whole ? at : end;
}

static bool add_number(lexer *l)
{
    static const struct {
        const char *prefix, *capital;
        int base;
        int (*is_digit)(int);
    } bases[] = {{"0b", "0B", 2, is_binary}, {"0o", "0O", 8, is_octal}, {"0x", "0X", 16, isxdigit}};
    char text[512];
    size_t begin = l->at, end = float_end(l, begin), n = 0;
    bool real = end > begin;
    int base = 10;
    for (size_t i = 0; !real && i < sizeof bases / sizeof *bases; i++)
        if (starts(l, begin, bases[i].prefix) || starts(l, begin, bases[i].capital)) {
            size_t to = digits(l, begin + 2, bases[i].is_digit);
            if (to > begin + 2) {
                base = bases[i].base;
                end = to;
                begin += 2;
            }
        }
    if (base == 10 && !real) {
        end = digits(l, begin, isdigit);
        if (l->text[begin] == '0') /* "007" is 0 and 0 and 7 */
            for (end = begin; end < l->length && (l->text[end] == '0' || (l->text[end] == '_' && starts(l, end + 1, "0"))); end++)
                ;
    }
    if (end - begin >= sizeof text)
        return jinja_syntax(l->template, l->line, "found a number of %zu digits", end - begin);
    for (size_t i = begin; i < end; i++)
        if (l->text[i] != '_')
            text[n++] = l->text[i];
    text[n] = '\0';
    jinja_token *token = add(l, real ? TOKEN_FLOAT : TOKEN_INTEGER);
    if (!token)
        return false;
    errno = 0;
    if (real)
        token->number = strtod(text, NULL);
    else
        token->integer = strtoll(text, NULL, base);
    if (!real && errno)
        return jinja_syntax(l->template, l->line, "found the number %s, expected one of 64 bits", text);
    move(l, end);
    return true;
}

/* The character of an escape of `digits` hexadecimal digits; false: it is none. */
static bool hex_escape(const char *at, const char *end, int count, uint32_t *point)
{
    *point = 0;
    for (int i = 0; i < count; i++, at++) {
        if (at >= end || !isxdigit((unsigned char)*at))
            return false;
        *point = *point * 16 + (uint32_t)(isdigit((unsigned char)*at) ? *at - '0' : tolower((unsigned char)*at) - 'a' + 10);
    }
    return true;
}

/* Python's escapes in the literal [at, end). */
static bool unescape(const lexer *l, const char *at, const char *end, cb_string *out)
{
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    while (at < end) {
        if (*at != '\\' || at + 1 == end) {
            if (!cb_string_append(out, at++, 1))
                return false;
            continue;
        }
        char c = *++at, bytes[4];
        const char *name = c ? strchr(names, c) : NULL;
        uint32_t point = 0;
        size_t n = 0;
        at++;
        if (c == '\n')
            continue;
        if (name) {
            bytes[n++] = values[name - names];
        } else if (c >= '0' && c <= '7') {
            point = (uint32_t)(c - '0');
            for (int i = 0; i < 2 && at < end && *at >= '0' && *at <= '7'; i++)
                point = point * 8 + (uint32_t)(*at++ - '0');
            n = cb_utf8_write(point, bytes);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            int count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            if (!hex_escape(at, end, count, &point) || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
                return jinja_syntax(l->template, l->line, "found \\%c in a string without the %d hexadecimal digits of a character", c,
                                    count);
            at += count;
            n = cb_utf8_write(point, bytes);
        } else if (c == 'N') {
            return jinja_syntax(l->template, l->line, "\\N in a string is not supported");
        } else {
            bytes[n++] = '\\';
            at--; /* what follows may have several bytes */
        }
        if (!cb_string_append(out, bytes, n))
            return false;
    }
    return true;
}

static bool add_string(lexer *l)
{
    char quote = l->text[l->at];
    size_t begin = l->at + 1, end = begin;
    while (end < l->length && l->text[end] != quote)
        end += l->text[end] == '\\' && end + 1 < l->length ? 2 : 1;
    if (end >= l->length)
        return jinja_syntax(l->template, l->line, "found a string without an end");
    cb_string text = {0};
    jinja_token *token = add(l, TOKEN_STRING);
    bool ok = token && unescape(l, l->text + begin, l->text + end, &text);
    if (ok)
        ok = (token->string = new_string(l->template, text.data ? text.data : "", text.length)) != NULL;
    cb_string_free(&text);
    move(l, end + 1);
    return ok;
}

static bool add_name(lexer *l)
{
    size_t end = l->at;
    unsigned n;
    while (end < l->length && is_name_part(point_at(l, end, &n)))
        end += n;
    jinja_token *token = add(l, TOKEN_NAME);
    bool ok = token && (token->string = jinja_intern(l->template, l->text + l->at, end - l->at));
    move(l, end);
    return ok;
}

static bool add_operator(lexer *l, cb_string *brackets)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char op[3] = {l->text[l->at], 0, 0};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (starts(l, l->at, two[i]))
            op[1] = two[i][1];
    if (!op[1] && (!op[0] || !strchr("+-/*%~[](){}><=.:|,;", op[0]))) {
        unsigned n;
        point_at(l, l->at, &n);
        return jinja_syntax(l->template, l->line, "found '%.*s', expected a name, a value or an operator", (int)n, l->text + l->at);
    }
    const char *closing = strchr(")]}", op[0]), *opening = strchr("([{", op[0]);
    if (opening) {
        char expected = op[0] == '(' ? ')' : op[0] == '[' ? ']' : '}';
        if (!cb_string_append(brackets, &expected, 1))
            return false;
    } else if (closing) {
        if (!brackets->length || brackets->data[brackets->length - 1] != op[0])
            return jinja_syntax(l->template, l->line, "found '%s' that closes nothing", op);
        brackets->length--;
    }
    jinja_token *token = add(l, TOKEN_OPERATOR);
    if (!token)
        return false;
    memcpy(token->op, op, sizeof op);
    move(l, l->at + (op[1] ? 2 : 1));
    return true;
}

/* The end of a tag at `at`: its sign and `close`; 0 when it is none. */
static size_t tag_end(const lexer *l, size_t at, const char *close, bool block, char *sign)
{
    *sign = l->text[at];
    if (*sign == '-' || (block && *sign == '+'))
        return starts(l, at + 1, close) ? at + 3 : 0;
    *sign = 0;
    return starts(l, at, close) ? at + 2 : 0;
}

/* Passes what the end of a tag takes of the text behind it. */
static void pass_end(lexer *l, size_t end, char sign, bool block)
{
    if (sign == '-')
        end = skip_space(l, end);
    else if (sign != '+' && block && starts(l, end, "\n"))
        end++;
    move(l, end);
    l->line_start = end > 0 && l->text[end - 1] == '\n';
}

static bool tag(lexer *l, bool block)
{
    const char *close = block ? "%}" : "}}";
    cb_string brackets = {0};
    bool ok = true, ended = false;
    int line = l->line;
    while (ok && !ended && (move(l, skip_space(l, l->at)), l->at < l->length)) {
        char c = l->text[l->at], sign;
        unsigned n;
        size_t end = brackets.length ? 0 : tag_end(l, l->at, close, block, &sign);
        if (end) {
            ok = add(l, block ? TOKEN_BLOCK_END : TOKEN_VARIABLE_END);
            pass_end(l, end, sign, block);
            ended = true;
        } else if (isdigit((unsigned char)c)) {
            ok = add_number(l);
        } else if (c == '"' || c == '\'') {
            ok = add_string(l);
        } else if (is_name_start(point_at(l, l->at, &n))) {
            ok = add_name(l);
        } else {
            ok = add_operator(l, &brackets);
        }
    }
    cb_string_free(&brackets);
    if (ok && !ended)
        return jinja_syntax(l->template, line, "found a tag without its end, expected %s", close);
    return ok;
}

/* ---- outside of tags ---- */

static bool comment(lexer *l)
{
    for (size_t at = l->at; at < l->length; at++) {
        char sign;
        size_t to = tag_end(l, at, "#}", true, &sign);
        if (!to)
            continue;
        pass_end(l, to, sign, true);
        return true;
    }
    return jinja_syntax(l->template, l->line, "found a comment without its end, expected #}");
}

/* Where a block of that name without arguments ends that opens at `at`; 0: it is another. */
static size_t bare_block(const lexer *l, size_t at, const char *name, char *before, char *after)
{
    if (!starts(l, at, "{%"))
        return 0;
    at += 2;
    *before = at < l->length && strchr("-+", l->text[at]) ? l->text[at] : '\0';
    at = skip_space(l, at + (*before != 0));
    if (!starts(l, at, name))
        return 0;
    at = skip_space(l, at + strlen(name));
    return at < l->length ? tag_end(l, at, "%}", true, after) : 0;
}

/* Behind {% raw %}: everything to {% endraw %} is text. */
static bool raw(lexer *l)
{
    for (size_t at = l->at; at < l->length; at++) {
        char before, after;
        size_t end = l->text[at] == '{' ? bare_block(l, at, "endraw", &before, &after) : 0;
        if (!end)
            continue;
        if (!add_text(l, l->at, at, before, true))
            return false;
        pass_end(l, end, after, true);
        return true;
    }
    return jinja_syntax(l->template, l->line, "found {%% raw %%} without {%% endraw %%}");
}

static bool next_tag(lexer *l)
{
    size_t at = l->at;
    while (at < l->length && !(l->text[at] == '{' && at + 1 < l->length && strchr("%{#", l->text[at + 1])))
        at++;
    if (at >= l->length)
        return add_text(l, l->at, l->length, '+', false);
    char kind = l->text[at + 1], sign = at + 2 < l->length && strchr("-+", l->text[at + 2]) ? l->text[at + 2] : '\0';
    char before, after;
    size_t end = kind == '%' ? bare_block(l, at, "raw", &before, &after) : 0;
    if (!add_text(l, l->at, at, sign, kind != '{'))
        return false;
    if (end && after != '+') {
        move(l, after == '-' ? skip_space(l, end) : end);
        l->line_start = l->text[l->at - 1] == '\n';
        return raw(l);
    }
    move(l, at + 2 + (sign != 0));
    if (kind == '#')
        return comment(l);
    return add(l, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_VARIABLE_BEGIN) && tag(l, kind == '%');
}

/* A copy with "\n" for every line end, less one at the end. */
static char *normal_lines(const char *text, size_t length, size_t *kept)
{
    char *copy = cb_alloc(length + 4); /* what looks ahead finds NUL */
    size_t n = 0;
    for (size_t i = 0; copy && i < length; i++) {
        if (text[i] == '\r' && i + 1 < length && text[i + 1] == '\n')
            continue;
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (!copy)
        return NULL;
    n -= n && copy[n - 1] == '\n';
    memset(copy + n, 0, 4);
    *kept = n;
    return copy;
}

bool jinja_tokenize(cb_jinja *template, const char *text, size_t length, jinja_tokens *tokens)
{
    lexer l = {.template = template, .line = 1, .line_start = true, .tokens = tokens};
    size_t bad;
    if (!cb_utf8_valid(text, length, &bad))
        return cb_fail(CB_ERR_FORMAT, "%s: byte %zu: expected text in UTF-8", template->what, bad) == CB_OK;
    char *copy = normal_lines(text, length, &l.length);
    l.text = copy;
    bool ok = copy;
    while (ok && l.at < l.length)
        ok = next_tag(&l);
    ok = ok && add(&l, TOKEN_END);
    cb_free(copy);
    return ok;
}
