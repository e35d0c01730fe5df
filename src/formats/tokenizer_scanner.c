/* tokenizer_scanner.c: word scanners for the regular expressions that nearly every byte-level tokenizer uses.  Each function
 * gives the end of the match that the expression has at a position (all three match without gaps); the alternatives are tried
 * in the expression's order, each reduced to what its backtracking comes to.  tests/unit/test_tokenizer.c compares them with
 * the expressions themselves. */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

const char cb_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char cb_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                                 " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char cb_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum { L = CB_CODE_LETTER, N = CB_CODE_NUMBER, S = CB_CODE_SPACE };

/* Class of the character at a position and its length in bytes; 0 bytes at the end of the text. */
static inline unsigned class_at(const char *text, uint32_t position, uint32_t length, unsigned *size)
{
    if (position >= length) {
        *size = 0;
        return 0;
    }
    return cb_code_flags[cb_utf8_read(text + position, size)] & (L | N | S);
}

/* The end of a run of at most `limit` characters of one class (0: neither letter, number nor space). */
static inline uint32_t run_end(const char *text, uint32_t position, uint32_t length, unsigned class, uint32_t limit)
{
    unsigned size;
    for (uint32_t i = 0; i < limit && position < length; i++, position += size)
        if (class_at(text, position, length, &size) != class)
            break;
    return position;
}

/* After ': s t m d, re ve ll; 0 when it is none of these.  U+017F is a lower case s. */
static uint32_t contraction_end(const char *text, uint32_t position, uint32_t length, bool any_case)
{
    const uint8_t *s = (const uint8_t *)text + position + 1;
    uint32_t left = length - position - 1;
    if (left == 0)
        return 0;
    uint8_t a = s[0], b = left > 1 ? s[1] : 0;
    if (any_case) {
        if (a == 0xC5 && b == 0xBF)
            return position + 3;
        a = a >= 'A' && a <= 'Z' ? a + 32 : a;
        b = b >= 'A' && b <= 'Z' ? b + 32 : b;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return position + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return position + 3;
    return 0;
}

/* \s+(?!\S)|\s+ at a run of white space that ends at `end`: all of it at the end of the text, else all but its last
 * character, which may be the first of the next word. */
static uint32_t space_end(const char *text, uint32_t position, uint32_t end, uint32_t length)
{
    if (end == length)
        return end;
    uint32_t last = end - 1;
    while (cb_utf8_continues(text[last]))
        last--;
    return last > position ? last : end;
}

static uint32_t scan_gpt2(const char *text, uint32_t position, uint32_t length)
{
    if (text[position] == '\'') {
        uint32_t end = contraction_end(text, position, length, false);
        if (end)
            return end;
    }
    unsigned size, next_size;
    unsigned class = class_at(text, position, length, &size);
    if (class != S)
        return run_end(text, position + size, length, class, UINT32_MAX);
    if (text[position] == ' ') {
        class = class_at(text, position + 1, length, &next_size);
        if (next_size && class != S)
            return run_end(text, position + 1 + next_size, length, class, UINT32_MAX);
    }
    return space_end(text, position, run_end(text, position, length, S, UINT32_MAX), length);
}

static inline bool is_newline(char byte)
{
    return byte == '\r' || byte == '\n';
}

static inline uint32_t scan_llama(const char *text, uint32_t position, uint32_t length, uint32_t digits)
{
    char byte = text[position];
    if (byte == '\'') {
        uint32_t end = contraction_end(text, position, length, true);
        if (end)
            return end;
    }
    unsigned size, next_size;
    unsigned class = class_at(text, position, length, &size);
    if (class == L)
        return run_end(text, position + size, length, L, UINT32_MAX);
    if (class == N)
        return run_end(text, position + size, length, N, digits - 1);
    unsigned next = class_at(text, position + size, length, &next_size);
    if (next == L && !is_newline(byte))
        return run_end(text, position + size + next_size, length, L, UINT32_MAX);
    if (class == 0 || (byte == ' ' && next_size && next == 0)) {
        uint32_t end = run_end(text, position + size, length, 0, UINT32_MAX);
        while (end < length && is_newline(text[end]))
            end++;
        return end;
    }
    uint32_t end = run_end(text, position, length, S, UINT32_MAX);
    for (uint32_t i = end; i > position; i--) /* \s*[\r\n]+ ends behind the run's last newline */
        if (is_newline(text[i - 1]))
            return i;
    return space_end(text, position, end, length);
}

static uint32_t scan_llama3(const char *text, uint32_t position, uint32_t length)
{
    return scan_llama(text, position, length, 3);
}
static uint32_t scan_qwen2(const char *text, uint32_t position, uint32_t length)
{
    return scan_llama(text, position, length, 1);
}

cb_scanner *cb_scanner_find(const char *regex)
{
    static const struct {
        const char *regex;
        cb_scanner *scanner;
    } known[] = {{cb_pattern_gpt2, scan_gpt2}, {cb_pattern_llama3, scan_llama3}, {cb_pattern_qwen2, scan_qwen2}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].regex, regex) == 0)
            return known[i].scanner;
    return NULL;
}
