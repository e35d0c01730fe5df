/* unicode.h: UTF-8 and what is asked of single characters. */
#ifndef CB_CORE_UNICODE_H
#define CB_CORE_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads the code point at text[0..] of well-formed UTF-8 and its length in bytes. */
static inline uint32_t cb_utf8_read(const char *text, unsigned *length)
{
    const uint8_t *s = (const uint8_t *)text;
    if (s[0] < 0x80) {
        *length = 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *length = 2;
        return (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
    }
    if (s[0] < 0xF0) {
        *length = 3;
        return (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    }
    *length = 4;
    return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
}

static inline bool cb_utf8_continues(char byte)
{
    return ((uint8_t)byte & 0xC0) == 0x80;
}

/* Writes a code point as UTF-8 (at most 4 bytes) and returns its length. */
static inline unsigned cb_utf8_write(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* White space as Python's str.isspace() and str.split() have it. */
bool cb_is_space(uint32_t code);
/* The lower case of the character at text[at] of well-formed UTF-8, as str.lower() has it there: the last sigma of a word has a form of
 * its own.  Writes at most 4 bytes and returns how many. */
unsigned cb_utf8_lower(const char *text, size_t length, size_t at, char out[4]);

#endif
