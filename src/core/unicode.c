/* unicode.c: white space and lower case as Python's str has them. */
#include "core/unicode.h"

#include <string.h>
#include <utf8proc.h>

bool cb_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_cased(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
}

/* Case_Ignorable: marks and modifiers, and what may stand within a word (Word_Break MidLetter, MidNumLet and Single_Quote). */
static bool is_case_ignorable(uint32_t c)
{
    static const uint32_t within[] = {0x27,   0x2e,   0x3a,   0xb7,   0x387,  0x55f,  0x5f4,  0x2018, 0x2019,
                                      0x2024, 0x2027, 0xfe13, 0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};
    for (size_t i = 0; i < sizeof within / sizeof *within; i++)
        if (c == within[i])
            return true;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return false;
    }
}

/* Final_Sigma of the Unicode standard, table 3-17: a cased letter before, none behind. */
static bool ends_word(const char *text, size_t length, size_t at)
{
    enum { SIGMA = 2 }; /* bytes */
    uint32_t code = 0;
    unsigned n;
    bool found = false;
    for (size_t i = at; i > 0 && !found;) {
        do
            i--;
        while (i > 0 && cb_utf8_continues(text[i]));
        code = cb_utf8_read(text + i, &n);
        found = !is_case_ignorable(code);
    }
    if (!found || !is_cased(code))
        return false;
    for (size_t i = at + SIGMA; i < length; i += n) {
        code = cb_utf8_read(text + i, &n);
        if (!is_case_ignorable(code))
            return !is_cased(code);
    }
    return true;
}

unsigned cb_utf8_lower(const char *text, size_t length, size_t at, char out[4])
{
    unsigned n;
    uint32_t code = cb_utf8_read(text + at, &n);
    if (code == 0x130) { /* the only one whose lower case is two */
        memcpy(out, "i\xcc\x87", 3);
        return 3;
    }
    if (code == 0x3a3)
        return cb_utf8_write(ends_word(text, length, at) ? 0x3c2 : 0x3c3, out);
    return cb_utf8_write((uint32_t)utf8proc_tolower((utf8proc_int32_t)code), out);
}
