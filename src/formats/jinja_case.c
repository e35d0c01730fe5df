/* jinja_case.c: classes and cases of characters, as Python's str has them. */
#include <string.h>
#include <utf8proc.h>

#include "formats/jinja.h"

/* Characters whose upper case is several (SpecialCasing.txt, the unconditional ones in use). */
static const struct {
    uint32_t point;
    const char *upper, *title;
} several[] = {{0xdf, "SS", "Ss"},
               {0x149, "\xca\xbcN", "\xca\xbcN"},
               {0x1f0, "J\xcc\x8c", "J\xcc\x8c"},
               {0xfb00, "FF", "Ff"},
               {0xfb01, "FI", "Fi"},
               {0xfb02, "FL", "Fl"},
               {0xfb03, "FFI", "Ffi"},
               {0xfb04, "FFL", "Ffl"},
               {0xfb05, "ST", "St"},
               {0xfb06, "ST", "St"},
               {0x390, "\xce\x99\xcc\x88\xcc\x81", "\xce\x99\xcc\x88\xcc\x81"},
               {0x3b0, "\xce\xa5\xcc\x88\xcc\x81", "\xce\xa5\xcc\x88\xcc\x81"},
               {0x587, "\xd4\xb5\xd5\x92", "\xd4\xb5\xd6\x82"}};

bool jinja_put_case(jinja_state *state, jinja_text *text, uint32_t point, int how)
{
    char bytes[4];
    for (size_t i = 0; how != JINJA_LOWER && point >= 0xdf && i < sizeof several / sizeof *several; i++)
        if (several[i].point == point)
            return jinja_puts(state, text, how == JINJA_UPPER ? several[i].upper : several[i].title);
    if (how == JINJA_LOWER && point == 0x130)
        return jinja_puts(state, text, "i\xcc\x87");
    utf8proc_int32_t c = (utf8proc_int32_t)point;
    c = how == JINJA_UPPER ? utf8proc_toupper(c) : how == JINJA_LOWER ? utf8proc_tolower(c) : utf8proc_totitle(c);
    return jinja_put(state, text, bytes, cb_utf8_write((uint32_t)c, bytes));
}

static bool is_cased(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
}

static bool put_lower(jinja_state *state, jinja_text *text, const jinja_string *s, size_t at)
{
    char bytes[4];
    return jinja_put(state, text, bytes, cb_utf8_lower(s->data, s->length, at, bytes));
}

static bool map_case(jinja_state *state, const jinja_string *s, const char *how, jinja_value *out)
{
    jinja_text text = {0};
    bool ok = true, word = false, begun = false;
    unsigned n;
    for (size_t i = 0; ok && i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        bool cased = is_cased(c), upper = utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU;
        if (*how == 'u' || (*how == 's' && cased && !upper))
            ok = jinja_put_case(state, &text, c, JINJA_UPPER);
        else if ((*how == 't' && !word) || (*how == 'c' && !begun))
            ok = jinja_put_case(state, &text, c, JINJA_TITLE);
        else
            ok = put_lower(state, &text, s, i);
        word = cased;
        begun = true;
    }
    if (!ok || !jinja_text_value(state, &text, out))
        return false;
    ((jinja_string *)out->s)->markup = s->markup;
    return true;
}

static bool no_arguments(jinja_state *state, const char *what, const jinja_arguments *arguments)
{
    static const char *const names[] = {NULL};
    return jinja_take_arguments(state, what, arguments, names, 0, NULL);
}

#define CASE(name, how)                                                                                                                    \
    static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)                            \
    {                                                                                                                                      \
        return no_arguments(state, #name, arguments) && map_case(state, self->s, how, out);                                                \
    }
CASE(upper, "u")
CASE(lower, "l")
CASE(title, "t")
CASE(capitalize, "c")
CASE(swapcase, "s")
CASE(casefold, "l")

/* ---- classes ---- */

typedef bool class(uint32_t c, utf8proc_category_t category);

static bool in_alpha(uint32_t c, utf8proc_category_t category)
{
    (void)c;
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
static bool in_decimal(uint32_t c, utf8proc_category_t category)
{
    (void)c;
    return category == UTF8PROC_CATEGORY_ND;
}
static bool in_digit(uint32_t c, utf8proc_category_t category)
{
    return category == UTF8PROC_CATEGORY_ND || c == 0xb2 || c == 0xb3 || c == 0xb9 ||
           (c >= 0x2070 && c <= 0x2089 && category == UTF8PROC_CATEGORY_NO);
}
static bool in_numeric(uint32_t c, utf8proc_category_t category)
{
    (void)c;
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}
static bool in_alnum(uint32_t c, utf8proc_category_t category)
{
    return in_alpha(c, category) || in_numeric(c, category);
}
static bool in_space(uint32_t c, utf8proc_category_t category)
{
    (void)category;
    return cb_is_space(c);
}
static bool in_ascii(uint32_t c, utf8proc_category_t category)
{
    (void)category;
    return c < 0x80;
}
static bool in_printable(uint32_t c, utf8proc_category_t category)
{
    return c == ' ' || !(category < UTF8PROC_CATEGORY_LU || category >= UTF8PROC_CATEGORY_ZS);
}

static bool all(const jinja_string *s, class *is, bool empty)
{
    unsigned n;
    for (size_t i = 0; i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        if (!is(c, utf8proc_category((utf8proc_int32_t)c)))
            return false;
    }
    return s->length || empty;
}

#define CLASS(name, is, empty)                                                                                                             \
    static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)                            \
    {                                                                                                                                      \
        *out = jinja_bool(all(self->s, is, empty));                                                                                        \
        return no_arguments(state, #name, arguments) && jinja_spend(state, self->s->length / 64);                                          \
    }
CLASS(alpha_, in_alpha, false)
CLASS(alnum_, in_alnum, false)
CLASS(decimal_, in_decimal, false)
CLASS(digit_, in_digit, false)
CLASS(numeric_, in_numeric, false)
CLASS(space_, in_space, false)
CLASS(ascii_, in_ascii, true)
CLASS(printable_, in_printable, true)

/* Whether all cased characters are of one case, and there are some. */
static bool one_case(const jinja_string *s, bool upper)
{
    bool some = false;
    unsigned n;
    for (size_t i = 0; i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
        if (!is_cased(c))
            continue;
        if ((category == UTF8PROC_CATEGORY_LU) != upper || category == UTF8PROC_CATEGORY_LT)
            return false;
        some = true;
    }
    return some;
}

static bool only_upper(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    *out = jinja_bool(one_case(self->s, true));
    return no_arguments(state, "isupper", arguments) && jinja_spend(state, self->s->length / 64);
}

static bool only_lower(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    *out = jinja_bool(one_case(self->s, false));
    return no_arguments(state, "islower", arguments) && jinja_spend(state, self->s->length / 64);
}

static bool only_title(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    bool word = false, some = false, ok = true;
    unsigned n;
    for (size_t i = 0; i < self->s->length; i += n) {
        uint32_t c = cb_utf8_read(self->s->data + i, &n);
        bool cased = is_cased(c), lower = utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LL;
        ok = ok && (!cased || lower == word);
        some |= cased;
        word = cased;
    }
    *out = jinja_bool(ok && some);
    return no_arguments(state, "istitle", arguments) && jinja_spend(state, self->s->length / 64);
}

const jinja_function jinja_case_methods[] = {{"upper", upper},        {"lower", lower},
                                             {"title", title},        {"capitalize", capitalize},
                                             {"swapcase", swapcase},  {"casefold", casefold},
                                             {"isalpha", alpha_},     {"isalnum", alnum_},
                                             {"isdecimal", decimal_}, {"isdigit", digit_},
                                             {"isnumeric", numeric_}, {"isspace", space_},
                                             {"isascii", ascii_},     {"isprintable", printable_},
                                             {"isupper", only_upper}, {"islower", only_lower},
                                             {"istitle", only_title}, {0}};
