/* tokenizer_regex.c: regular expressions are written for Oniguruma (Ruby syntax) and run by PCRE2.  The translation below
 * rewrites what the two read differently: inline flags, classes and their intersections, \h, \w, \s, \b, properties, stacked
 * quantifiers; and it adds the code points that Oniguruma's newer Unicode tables know.  Everything else passes through. */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { max_depth = 200 };

typedef struct group {
    size_t start;   /* in the output */
    unsigned extra; /* parentheses that an isolated flag group opened: (?i)x reads (?i:x) up to the group's end */
} group;

typedef struct translator {
    const char *what, *regex, *at;
    cb_string *out;
    group groups[max_depth];
    unsigned depth;
    size_t atom;     /* where the last atom starts in the output; SIZE_MAX: nothing to repeat */
    bool quantified; /* the last atom has a quantifier */
} translator;

static bool refuse(const translator *t, const char *why)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: regular expression \"%s\": %s at offset %td", t->what, t->regex, why, t->at - t->regex), false;
}

/* ---- Character sets ---- */

/* A set: what can stand inside [...], and expressions for one character that cannot. */
typedef struct set {
    cb_string items, others; /* others: |-separated */
} set;

static void free_set(set *s)
{
    cb_string_free(&s->items);
    cb_string_free(&s->others);
}

static bool add_other(set *s, const char *expression)
{
    return (s->others.length == 0 || cb_string_puts(&s->others, "|")) && cb_string_puts(&s->others, expression);
}

/* Adds the code points of a general category that are newer than PCRE2's tables. */
static bool add_newer(cb_string *items, const char *category)
{
    for (size_t i = 0; i < cb_code_newer_count; i++) {
        const cb_code_newer *newer = &cb_code_newers[i];
        if (newer->category[0] != category[0] || (category[1] && newer->category[1] != category[1]))
            continue;
        if (!cb_string_printf(items, "\\x{%x}-\\x{%x}", (unsigned)newer->first, (unsigned)newer->last))
            return false;
    }
    return true;
}

static bool add_category(cb_string *items, const char *category)
{
    return cb_string_printf(items, "\\p{%s}", category) && add_newer(items, category);
}

/* What Oniguruma means by its bracket and property names, as general categories and ranges. */
typedef struct named_set {
    const char *name, *categories, *ranges;
} named_set;
/* Alphabetic marks newer than PCRE2's tables */
#define NEWER_ALPHABETIC                                                                                                                   \
    "\\x{363}-\\x{36f}\\x{897}\\x{c04}\\x{cf3}\\x{f82}\\x{f83}\\x{1dd3}-\\x{1de6}\\x{10d69}\\x{10efc}\\x{11080}\\x{11081}"                 \
    "\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}\\x{113cd}\\x{11f00}\\x{11f01}"                     \
    "\\x{11f03}\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f40}\\x{1611e}-\\x{1612e}\\x{1e08f}"
#define CIRCLED_LETTERS "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define NEWER_EMOJI                                                                                                                        \
    "\\x{1f6dc}\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}\\x{1fa8f}\\x{1faad}-\\x{1faaf}\\x{1fabb}-\\x{1fabf}\\x{1fac6}"                   \
    "\\x{1face}\\x{1facf}\\x{1fada}-\\x{1fadc}\\x{1fadf}\\x{1fae8}\\x{1fae9}\\x{1faf7}\\x{1faf8}"
static const named_set named_sets[] = {
    {"word", "L M Nd Nl Pc", CIRCLED_LETTERS "\\xb2\\xb3\\xb9\\xbc-\\xbe"},
    {"alpha", "L Nl", "\\p{Alphabetic}" NEWER_ALPHABETIC},
    {"alphabetic", "L Nl", "\\p{Alphabetic}" NEWER_ALPHABETIC},
    {"alnum", "L Nl Nd", "\\p{Alphabetic}" NEWER_ALPHABETIC},
    {"upper", "Lu", "\\p{Uppercase}"},
    {"lower", "Ll", "\\p{Lowercase}\\x{10fc}\\x{a7f2}-\\x{a7f4}\\x{ab69}\\x{1e030}-\\x{1e06d}"},
    {"space", "", "\\p{White_Space}"},
    {"whitespace", "", "\\p{White_Space}"},
    {"digit", "Nd", ""},
    {"xdigit", "", "0-9A-Fa-f"},
    {"blank", "Zs", "\\t"},
    {"cntrl", "Cc", ""},
    {"print", "L M N P S Zs Cf Co", ""},
    {"graph", "L M N P S Cf Co", ""},
    {"any", "", "\\x{0}-\\x{10ffff}"},
    {"ascii", "", "\\x00-\\x7f"},
    {"assigned", "L M N P S Z Cc Cf Co", ""},
    {"notother", "L M N P S Z", ""},
    {"han", "", "\\p{sc:Han}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
    {"hiragana", "", "\\p{sc:Hiragana}\\x{1b132}"},
    {"katakana", "", "\\p{sc:Katakana}\\x{1b155}"},
    {"latin", "", "\\p{sc:Latin}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{1df25}-\\x{1df2a}"},
    {"cyrillic", "", "\\p{sc:Cyrillic}\\x{1c89}\\x{1c8a}\\x{1e030}-\\x{1e06d}\\x{1e08f}"},
    {"arabic", "", "\\p{sc:Arabic}\\x{897}\\x{10ec2}-\\x{10ec4}\\x{10efc}-\\x{10eff}"},
    {"devanagari", "", "\\p{sc:Devanagari}\\x{11b00}-\\x{11b09}"},
    {"balinese", "", "\\p{sc:Balinese}\\x{1b4e}\\x{1b4f}\\x{1b7f}"},
    {"common", "",
     "\\p{sc:Common}\\x{2427}-\\x{2429}\\x{2ffc}-\\x{2fff}\\x{31e4}\\x{31e5}\\x{31ef}\\x{1cc00}-\\x{1ccf9}"
     "\\x{1cd00}-\\x{1ceb3}\\x{1d2c0}-\\x{1d2d3}\\x{1f774}-\\x{1f776}\\x{1f77b}-\\x{1f77f}\\x{1f7d9}"
     "\\x{1f8b2}-\\x{1f8bb}\\x{1f8c0}\\x{1f8c1}\\x{1fbcb}-\\x{1fbef}" NEWER_EMOJI},
    {"emoji", "", "\\p{Emoji}" NEWER_EMOJI},
    {"kannada", "", "\\p{sc:Kannada}\\x{cf3}"},
    {"khojki", "", "\\p{sc:Khojki}\\x{1123f}-\\x{11241}"},
    {"lao", "", "\\p{sc:Lao}\\x{ece}"},
    {"myanmar", "", "\\p{sc:Myanmar}\\x{116d0}-\\x{116e3}"},
    {"letter", "L", ""},
    {"uppercaseletter", "Lu", ""},
    {"lowercaseletter", "Ll", ""},
    {"titlecaseletter", "Lt", ""},
    {"modifierletter", "Lm", ""},
    {"otherletter", "Lo", ""},
    {"mark", "M", ""},
    {"combiningmark", "M", ""},
    {"nonspacingmark", "Mn", ""},
    {"spacingmark", "Mc", ""},
    {"enclosingmark", "Me", ""},
    {"number", "N", ""},
    {"decimalnumber", "Nd", ""},
    {"letternumber", "Nl", ""},
    {"othernumber", "No", ""},
    {"punctuation", "P", ""},
    {"connectorpunctuation", "Pc", ""},
    {"dashpunctuation", "Pd", ""},
    {"openpunctuation", "Ps", ""},
    {"closepunctuation", "Pe", ""},
    {"initialpunctuation", "Pi", ""},
    {"finalpunctuation", "Pf", ""},
    {"otherpunctuation", "Po", ""},
    {"symbol", "S", ""},
    {"mathsymbol", "Sm", ""},
    {"currencysymbol", "Sc", ""},
    {"modifiersymbol", "Sk", ""},
    {"othersymbol", "So", ""},
    {"separator", "Z", ""},
    {"spaceseparator", "Zs", ""},
    {"lineseparator", "Zl", ""},
    {"paragraphseparator", "Zp", ""},
    {"control", "Cc", ""},
    {"format", "Cf", ""},
    {"privateuse", "Co", ""},
};

static bool add_named(cb_string *items, const named_set *named)
{
    for (const char *c = named->categories; *c;) {
        size_t length = strcspn(c, " ");
        char category[4] = {0};
        memcpy(category, c, length < 3 ? length : 3);
        if (!add_category(items, category))
            return false;
        c += length + (c[length] == ' ');
    }
    return cb_string_puts(items, named->ranges);
}

static bool compiles(const char *regex)
{
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/* Appends the items of the set called `name` (a bracket [:name:] or a property \p{name}). */
static bool named_items(translator *t, cb_string *items, const char *name, size_t length, bool bracket)
{
    char folded[64];
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        if (name[i] == ' ' || name[i] == '_' || name[i] == '-')
            continue;
        if (n + 1 >= sizeof folded || !isalnum((unsigned char)name[i]))
            return refuse(t, "unknown property name");
        folded[n++] = (char)tolower((unsigned char)name[i]);
    }
    folded[n] = 0;
    if (strcmp(folded, "word") == 0 && bracket) /* a \w in brackets, too, lacks the superscripts and fractions that a bare one has */
        return add_named(items, &(named_set){"word", "L M Nd Nl Pc", CIRCLED_LETTERS});
    if (strcmp(folded, "punct") == 0)
        return add_category(items, "P") && (!bracket || add_category(items, "S"));
    for (size_t i = 0; i < sizeof named_sets / sizeof *named_sets; i++)
        if (strcmp(named_sets[i].name, folded) == 0)
            return add_named(items, &named_sets[i]);
    if (bracket)
        return refuse(t, "unknown POSIX bracket");
    if (n <= 2 && n > 0 && strchr("lmnpszc", folded[0])) {
        char category[3] = {(char)toupper(folded[0]), folded[1], 0};
        char test[16];
        snprintf(test, sizeof test, "\\p{%s}", category);
        return compiles(test) ? add_category(items, category) : refuse(t, "unknown category");
    }
    char script[96];
    snprintf(script, sizeof script, "\\p{sc:%s}", folded);
    if (!compiles(script))
        snprintf(script, sizeof script, "\\p{%s}", folded);
    if (!compiles(script))
        return refuse(t, "unknown property name");
    return cb_string_puts(items, script);
}

/* Adds items or, negated, everything else. */
static bool add_items(set *s, const cb_string *items, bool negated)
{
    if (!negated)
        return cb_string_append(&s->items, items->data, items->length);
    return (s->others.length == 0 || cb_string_puts(&s->others, "|")) && cb_string_puts(&s->others, "[^") &&
           cb_string_append(&s->others, items->data, items->length) && cb_string_puts(&s->others, "]");
}

/* Properties that say what a character is not: code points newer than PCRE2's tables are not unassigned. */
static bool is_opposite(const char **name, size_t *length)
{
    static const char *const opposites[][2] = {{"cn", "assigned"}, {"unassigned", "assigned"}, {"c", "notother"}, {"other", "notother"}};
    for (size_t i = 0; i < sizeof opposites / sizeof *opposites; i++)
        if (strlen(opposites[i][0]) == *length && strncasecmp(opposites[i][0], *name, *length) == 0) {
            *name = opposites[i][1];
            *length = strlen(*name);
            return true;
        }
    return false;
}

static bool add_name(translator *t, set *s, const char *name, size_t length, bool bracket, bool negated)
{
    cb_string items = {0};
    negated ^= !bracket && is_opposite(&name, &length);
    bool ok = named_items(t, &items, name, length, bracket) && add_items(s, &items, negated);
    cb_string_free(&items);
    return ok;
}

/* At a class escape (\s \w \d \h \p and their negations), adds it and moves on; false without an error: it is not one. */
static bool class_escape(translator *t, set *s, bool in_class, bool *is_class)
{
    char c = t->at[1];
    *is_class = true;
    if (c == 's' || c == 'S' || c == 'h' || c == 'H') {
        t->at += 2;
        const char *item = c == 's' ? "\\p{White_Space}" : c == 'S' ? "\\P{White_Space}" : c == 'h' ? "\\p{AHex}" : "\\P{AHex}";
        return cb_string_puts(&s->items, item);
    }
    if (c == 'w' || c == 'W' || c == 'd' || c == 'D') {
        t->at += 2;
        bool word = c == 'w' || c == 'W';
        return add_name(t, s, word ? "word" : "digit", word ? 4 : 5, in_class, c == 'W' || c == 'D');
    }
    if ((c == 'p' || c == 'P') && t->at[2] == '{') {
        const char *name = t->at + 3, *end = strchr(name, '}');
        if (!end)
            return refuse(t, "unfinished property");
        bool negated = c == 'P';
        if (*name == '^') {
            negated = !negated;
            name++;
        }
        if (!add_name(t, s, name, (size_t)(end - name), false, negated))
            return false;
        t->at = end + 1;
        return true;
    }
    *is_class = false;
    return true;
}

static bool read_hex(translator *t, unsigned least, unsigned most, uint32_t *code)
{
    unsigned n = 0;
    *code = 0;
    for (; n < most && isxdigit((unsigned char)*t->at); n++, t->at++) {
        char c = (char)tolower((unsigned char)*t->at);
        *code = *code * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return n >= least || refuse(t, "malformed hexadecimal escape");
}

/* Reads one literal character (an escape or a plain one); false also for an escape that is no character. */
static bool read_literal(translator *t, bool in_class, uint32_t *code)
{
    unsigned size;
    if (*t->at != '\\') {
        *code = cb_utf8_read(t->at, &size);
        t->at += size;
        return true;
    }
    char c = t->at[1];
    if (!c)
        return refuse(t, "unfinished escape");
    static const char names[] = "tnrfveab", codes[] = "\t\n\r\f\v\033\a\b";
    const char *name = strchr(names, c);
    if (name && (c != 'b' || in_class)) {
        t->at += 2;
        *code = (uint8_t)codes[name - names];
        return true;
    }
    if (c == 'x' && t->at[2] == '{') {
        t->at += 3;
        if (!read_hex(t, 1, 8, code))
            return false;
        if (*t->at != '}' || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000))
            return refuse(t, "malformed \\x{...}");
        t->at++;
        return true;
    }
    if (c == 'x') {
        t->at += 2;
        return read_hex(t, 0, 2, code);
    }
    if (c == 'u') {
        t->at += 2;
        return read_hex(t, 4, 4, code);
    }
    if (c == '0') {
        t->at += 2;
        for (*code = 0; *t->at >= '0' && *t->at <= '7' && *code < 32; t->at++)
            *code = *code * 8 + (uint32_t)(*t->at - '0');
        return true;
    }
    t->at++; /* any other escaped character stands for itself */
    *code = cb_utf8_read(t->at, &size);
    t->at += size;
    return true;
}

static bool put_code(cb_string *out, uint32_t code)
{
    return cb_string_printf(out, "\\x{%x}", (unsigned)code);
}

/* Writes a set as one expression. */
static bool put_set(cb_string *out, const set *s, bool negated)
{
    if (s->others.length == 0 && s->items.length)
        return cb_string_printf(out, "[%s%s]", negated ? "^" : "", s->items.data);
    if (!cb_string_puts(out, negated ? "(?:(?!" : "(?:"))
        return false;
    if (s->items.length && !cb_string_printf(out, "[%s]%s", s->items.data, s->others.length ? "|" : ""))
        return false;
    if (s->others.length && !cb_string_append(out, s->others.data, s->others.length))
        return false;
    if (!s->items.length && !s->others.length && !cb_string_puts(out, "(?!)"))
        return false;
    return cb_string_puts(out, negated ? ")(?s:.))" : ")");
}

static bool translate_class(translator *t, cb_string *out, unsigned depth);

static bool class_member(translator *t, set *s, unsigned depth)
{
    if (t->at[0] == '[' && t->at[1] == ':') {
        const char *end = strstr(t->at, ":]");
        if (end) {
            bool negated = t->at[2] == '^';
            const char *name = t->at + 2 + negated;
            if (name > end || !add_name(t, s, name, (size_t)(end - name), true, negated))
                return false;
            t->at = end + 2;
            return true;
        }
    }
    if (*t->at == '[') {
        cb_string nested = {0};
        bool ok = translate_class(t, &nested, depth + 1);
        if (ok && nested.data[0] == '[' && nested.data[1] != '^') /* no more than items: they join these */
            ok = cb_string_append(&s->items, nested.data + 1, nested.length - 2);
        else
            ok = ok && add_other(s, nested.data);
        cb_string_free(&nested);
        return ok;
    }
    if (*t->at == '\\') {
        bool is_class;
        if (!class_escape(t, s, true, &is_class))
            return false;
        if (is_class)
            return true;
    }
    uint32_t first, last;
    if (!read_literal(t, true, &first) || !put_code(&s->items, first))
        return false;
    if (t->at[0] != '-' || t->at[1] == ']' || t->at[1] == '[' || !t->at[1])
        return true;
    if (t->at[1] == '\\' && strchr("sSwWdDhHpP", t->at[2] ? t->at[2] : '!'))
        return true;
    t->at++;
    return read_literal(t, true, &last) && cb_string_puts(&s->items, "-") && put_code(&s->items, last);
}

/* At '[': writes an expression for one character of the class. */
static bool translate_class(translator *t, cb_string *out, unsigned depth)
{
    if (depth > 20)
        return refuse(t, "classes nested too deep");
    t->at++;
    bool negated = *t->at == '^';
    t->at += negated;
    set s = {0};
    cb_string both = {0}; /* the operands of && before this one, as look-aheads */
    bool ok = true;
    for (bool first = true; ok && (first || *t->at != ']'); first = false) {
        if (!*t->at) {
            ok = refuse(t, "unfinished class");
        } else if (t->at[0] == '&' && t->at[1] == '&') {
            t->at += 2;
            ok = cb_string_puts(&both, "(?=") && put_set(&both, &s, false) && cb_string_puts(&both, ")");
            free_set(&s);
            s = (set){0};
        } else {
            ok = class_member(t, &s, depth);
        }
    }
    t->at += ok;
    if (ok && !both.length)
        ok = put_set(out, &s, negated);
    else if (ok)
        ok = cb_string_puts(out, negated ? "(?:(?!" : "(?:") && cb_string_append(out, both.data, both.length) && put_set(out, &s, false) &&
             cb_string_puts(out, negated ? ")(?s:.))" : ")");
    free_set(&s);
    cb_string_free(&both);
    return ok;
}

/* ---- Groups, escapes, quantifiers ---- */

static bool insert(cb_string *s, size_t at, const char *text)
{
    size_t length = strlen(text), tail = s->length - at;
    if (!cb_string_puts(s, text))
        return false;
    memmove(s->data + at + length, s->data + at, tail);
    memcpy(s->data + at, text, length);
    return true;
}

/* The length of an interval {n}, {n,}, {,m} or {n,m} at `at`; 0: it is none. */
static size_t interval_length(const char *at, bool *no_minimum)
{
    size_t low = strspn(at + 1, "0123456789"), i = 1 + low, high = 0;
    if (at[i] == ',') {
        high = strspn(at + i + 1, "0123456789");
        i += 1 + high;
        if (!low && !high)
            return 0;
    } else if (!low) {
        return 0;
    }
    *no_minimum = !low;
    return at[i] == '}' ? i + 1 : 0;
}

static bool translate_quantifier(translator *t, size_t interval, bool no_minimum)
{
    if (t->atom == SIZE_MAX)
        return refuse(t, "nothing to repeat");
    if (t->quantified && (!insert(t->out, t->atom, "(?:") || !cb_string_puts(t->out, ")")))
        return false;
    t->quantified = true;
    if (!interval) {
        size_t length = t->at[1] == '?' || t->at[1] == '+' ? 2 : 1;
        bool ok = cb_string_append(t->out, t->at, length);
        t->at += length;
        return ok;
    }
    bool range = memchr(t->at, ',', interval) != NULL;
    if (!cb_string_puts(t->out, no_minimum ? "{0" : "{") || !cb_string_append(t->out, t->at + 1, interval - 1))
        return false;
    t->at += interval;
    if (range && *t->at == '?') { /* {n}? is an optional {n}, and {n,m}+ a repeated one: both are read as a second quantifier */
        t->at++;
        return cb_string_puts(t->out, "?");
    }
    return true;
}

static bool open_group(translator *t, size_t start)
{
    if (t->depth >= max_depth)
        return refuse(t, "groups nested too deep");
    t->groups[t->depth++] = (group){.start = start};
    t->atom = SIZE_MAX;
    t->quantified = false;
    return true;
}

/* (?flags) and (?flags:...): Ruby's m is PCRE2's s. */
static bool translate_flags(translator *t)
{
    const char *at = t->at + 2;
    char flags[16];
    size_t n = 0;
    for (; *at && *at != ':' && *at != ')'; at++) {
        if (!strchr("im-", *at) || n + 1 >= sizeof flags)
            return refuse(t, "unsupported group");
        flags[n++] = *at == 'm' ? 's' : *at;
    }
    flags[n] = 0;
    size_t start = t->out->length;
    if (!*at || !cb_string_printf(t->out, "(?%s:", flags))
        return *at ? false : refuse(t, "unfinished group");
    t->at = at + 1;
    if (*at == ':')
        return open_group(t, start);
    t->groups[t->depth - 1].extra++;
    t->atom = SIZE_MAX;
    return true;
}

static bool translate_group(translator *t)
{
    if (t->at[1] == '*')
        return refuse(t, "verbs are not supported");
    if (t->at[1] != '?') {
        t->at++;
        return open_group(t, t->out->length) && cb_string_puts(t->out, "(");
    }
    if (t->at[2] == '#') {
        const char *end = strchr(t->at, ')');
        if (!end)
            return refuse(t, "unfinished comment");
        t->at = end + 1;
        return true;
    }
    size_t length = 0;
    if (t->at[2] && strchr(":=!>", t->at[2])) {
        length = 3;
    } else if (t->at[2] == '<' && (t->at[3] == '=' || t->at[3] == '!')) {
        length = 4;
    } else if (t->at[2] == '<') {
        const char *end = strchr(t->at, '>');
        if (!end)
            return refuse(t, "unfinished group name");
        length = (size_t)(end - t->at) + 1;
    }
    if (!length)
        return translate_flags(t);
    if (!open_group(t, t->out->length) || !cb_string_append(t->out, t->at, length))
        return false;
    t->at += length;
    return true;
}

static bool close_group(translator *t)
{
    if (t->depth <= 1)
        return refuse(t, "unmatched )");
    group g = t->groups[--t->depth];
    for (unsigned i = 0; i < g.extra; i++)
        if (!cb_string_puts(t->out, ")"))
            return false;
    t->at++;
    t->atom = g.start;
    t->quantified = false;
    return cb_string_puts(t->out, ")");
}

static bool word_boundary(translator *t, bool negated)
{
    cb_string word = {0};
    bool ok = cb_string_puts(&word, "[") && named_items(t, &word, "word", 4, false) && cb_string_puts(&word, "]");
    const char *w = ok ? word.data : "";
    ok = ok && (negated ? cb_string_printf(t->out, "(?:(?<=%s)(?=%s)|(?<!%s)(?!%s))", w, w, w, w)
                        : cb_string_printf(t->out, "(?:(?<=%s)(?!%s)|(?<!%s)(?=%s))", w, w, w, w));
    cb_string_free(&word);
    t->at += 2;
    return ok;
}

static bool translate_escape(translator *t)
{
    t->atom = t->out->length;
    t->quantified = false;
    char c = t->at[1];
    set s = {0};
    bool is_class;
    bool ok = class_escape(t, &s, false, &is_class);
    if (ok && is_class)
        ok = put_set(t->out, &s, false);
    free_set(&s);
    if (!ok || is_class)
        return ok;
    if (c == 'b' || c == 'B')
        return word_boundary(t, c == 'B');
    if (c == 'O') {
        t->at += 2;
        return cb_string_puts(t->out, "(?s:.)");
    }
    if (c == 'k' || c == 'g' || c == 'y' || c == 'Y' || c == 'c' || c == 'C' || c == 'M')
        return refuse(t, "unsupported escape");
    if ((c && strchr("AzZGRXKN", c)) || (c >= '1' && c <= '9')) {
        t->at += 2;
        return cb_string_append(t->out, (char[2]){'\\', c}, 2);
    }
    uint32_t code;
    return read_literal(t, false, &code) && put_code(t->out, code);
}

static bool translate_next(translator *t)
{
    bool no_minimum = false;
    switch (*t->at) {
    case '\\':
        return translate_escape(t);
    case '[':
        t->atom = t->out->length;
        t->quantified = false;
        return translate_class(t, t->out, 0);
    case '(':
        return translate_group(t);
    case ')':
        return close_group(t);
    case '|':
        t->atom = SIZE_MAX;
        t->at++;
        return cb_string_puts(t->out, "|");
    case '*':
    case '+':
    case '?':
        return translate_quantifier(t, 0, false);
    case '{': {
        size_t interval = interval_length(t->at, &no_minimum);
        if (interval && t->atom != SIZE_MAX)
            return translate_quantifier(t, interval, no_minimum);
        break;
    }
    case '^':
    case '$':
    case '.':
        t->atom = t->out->length;
        t->quantified = false;
        return cb_string_append(t->out, t->at++, 1);
    default:
        break;
    }
    t->atom = t->out->length;
    t->quantified = false;
    uint32_t code;
    return read_literal(t, false, &code) && put_code(t->out, code);
}

bool cb_regex_translate(const char *what, const char *regex, cb_string *out)
{
    translator t = {.what = what, .regex = regex, .at = regex, .out = out, .depth = 1, .atom = SIZE_MAX};
    while (*t.at)
        if (!translate_next(&t))
            return false;
    if (t.depth > 1)
        return refuse(&t, "unfinished group");
    for (unsigned i = 0; i < t.groups[0].extra; i++)
        if (!cb_string_puts(out, ")"))
            return false;
    return cb_string_puts(out, "");
}
