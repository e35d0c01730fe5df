/* tokenizer_pattern.c: what a text is searched for: characters of a class, one character, a string, a regular expression. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "core/regex.h"
#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

/* How far one match may backtrack before the text is refused. */
enum { match_limit = 5000000, jit_stack_least = 1 << 20, jit_stack_most = 1 << 29 };

bool cb_pattern_literal(cb_pattern *pattern, const char *text, size_t length)
{
    pattern->literal = cb_strndup(text, length);
    pattern->literal_length = length;
    return pattern->literal != NULL;
}

bool cb_pattern_regex(cb_pattern *pattern, const char *what, const char *regex, bool scan)
{
    pattern->scanner = scan ? cb_scanner_find(regex) : NULL;
    if (pattern->scanner)
        return true;
    cb_string translated = {0};
    if (!cb_regex_translate(what, regex, &translated)) {
        cb_string_free(&translated);
        return false;
    }
    int error;
    PCRE2_SIZE offset;
    pcre2_general_context *memory = cb_regex_memory();
    pcre2_compile_context *context = memory ? pcre2_compile_context_create(memory) : NULL;
    pcre2_general_context_free(memory);
    if (!context) {
        cb_string_free(&translated);
        return cb_fail(CB_ERR_MEMORY, "out of memory compiling a regular expression"), false;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)translated.data, translated.length, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context);
    pcre2_compile_context_free(context);
    cb_string_free(&translated);
    if (!code) {
        PCRE2_UCHAR message[160] = {0};
        pcre2_get_error_message(error, message, sizeof message);
        return cb_fail(CB_ERR_FORMAT, "%s: regular expression \"%s\": %s", what, regex, (const char *)message), false;
    }
    pattern->regex = code;
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it matching is only slower, but for memory */
    return cb_ok();
}

void cb_pattern_free(cb_pattern *pattern)
{
    cb_free(pattern->literal);
    pcre2_code_free(pattern->regex);
    *pattern = (cb_pattern){0};
}

/* Adds a match and what lies between it and the one before. */
static bool add_match(cb_work *work, uint32_t *last, size_t begin, size_t end)
{
    if (*last != begin && !cb_work_match(work, *last, begin, false))
        return false;
    *last = (uint32_t)end;
    return cb_work_match(work, begin, end, true);
}

static bool no_memory(void)
{
    return cb_fail(CB_ERR_MEMORY, "out of memory preparing a regular expression"), false;
}

/* Gives the compiled expressions a stack of at most `bytes`, which takes memory only as they use it. */
static bool set_stack(cb_work *work, size_t bytes)
{
    pcre2_jit_stack_free(work->jit_stack);
    pcre2_general_context *memory = cb_regex_memory();
    work->jit_stack = memory ? pcre2_jit_stack_create(32768, bytes, memory) : NULL;
    pcre2_general_context_free(memory);
    work->jit_stack_bytes = work->jit_stack ? bytes : 0;
    pcre2_jit_stack_assign(work->match_context, NULL, work->jit_stack);
    return work->jit_stack || no_memory();
}

static bool prepare_matching(cb_work *work)
{
    if (work->jit_stack)
        return true;
    pcre2_general_context *memory = cb_regex_memory();
    if (!work->match_data && memory)
        work->match_data = pcre2_match_data_create(1, memory);
    if (!work->match_context && memory)
        work->match_context = pcre2_match_context_create(memory);
    pcre2_general_context_free(memory);
    if (!work->match_data || !work->match_context)
        return no_memory();
    pcre2_set_match_limit(work->match_context, match_limit);
    return set_stack(work, jit_stack_least);
}

/* A group that repeats once a character keeps its place on the stack for each, so a very long word needs a larger one. */
static bool match_at(const cb_pattern *pattern, cb_work *work, const char *text, uint32_t length, size_t position, int *found)
{
    for (;;) {
        *found = pcre2_match(pattern->regex, (PCRE2_SPTR)text, length, position, PCRE2_NO_UTF_CHECK, work->match_data, work->match_context);
        if (*found != PCRE2_ERROR_JIT_STACKLIMIT || work->jit_stack_bytes >= jit_stack_most)
            return true;
        if (!set_stack(work, work->jit_stack_bytes * 8))
            return false;
    }
}

static bool find_regex(const cb_pattern *pattern, cb_work *work, const char *text, uint32_t length)
{
    if (!prepare_matching(work))
        return false;
    uint32_t last = 0;
    size_t position = 0, last_end = SIZE_MAX;
    while (position <= length) {
        int found;
        if (!match_at(pattern, work, text, length, position, &found))
            return false;
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0) {
            PCRE2_UCHAR message[160] = {0};
            pcre2_get_error_message(found, message, sizeof message);
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: a regular expression failed near byte %zu of the text: %s", work->tokenizer->what,
                           position, (const char *)message),
                   false;
        }
        const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(work->match_data);
        size_t begin = bounds[0], end = bounds[1];
        if (end < begin || begin < position)
            begin = end;                       /* \K in a look-around */
        if (begin == end && end == last_end) { /* no empty match right behind another match */
            unsigned size = 1;
            if (position < length)
                cb_utf8_read(text + position, &size);
            position += size;
            continue;
        }
        position = last_end = end;
        if (!add_match(work, &last, begin, end))
            return false;
    }
    return last == length || cb_work_match(work, last, length, false);
}

static bool find_literal(const cb_pattern *pattern, cb_work *work, const char *text, uint32_t length)
{
    uint32_t last = 0;
    for (const char *at = text; (at = memmem(at, (size_t)(text + length - at), pattern->literal, pattern->literal_length));) {
        size_t begin = (size_t)(at - text);
        if (!add_match(work, &last, begin, begin + pattern->literal_length))
            return false;
        at += pattern->literal_length;
    }
    return last == length || cb_work_match(work, last, length, false);
}

static bool find_characters(const cb_pattern *pattern, cb_work *work, const char *text, uint32_t length)
{
    uint32_t last = 0;
    unsigned size;
    for (uint32_t i = 0; i < length; i += size) {
        uint32_t code = cb_utf8_read(text + i, &size);
        bool matches = pattern->flags ? cb_code_flags[code] & pattern->flags : code == pattern->code;
        if (matches && !add_match(work, &last, i, i + size))
            return false;
    }
    return last == length || cb_work_match(work, last, length, false);
}

bool cb_pattern_find(const cb_pattern *pattern, cb_work *work, const char *text, uint32_t length)
{
    work->match_count = 0;
    if (length == 0)
        return cb_work_match(work, 0, 0, false);
    if (pattern->scanner) {
        for (uint32_t i = 0, end; i < length; i = end) {
            end = pattern->scanner(text, i, length);
            if (!cb_work_match(work, i, end, true))
                return false;
        }
        return true;
    }
    if (pattern->regex)
        return find_regex(pattern, work, text, length);
    if (pattern->literal)
        return find_literal(pattern, work, text, length);
    return find_characters(pattern, work, text, length);
}
