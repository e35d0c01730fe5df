/* string.c: byte strings, lists of strings, edit distance and UTF-8. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/hash.h"
#include "core/rehearsal.h"

bool cb_grow(void *array_pointer, size_t *capacity, size_t need, size_t size)
{
    void *old, *grown;
    memcpy(&old, array_pointer, sizeof old);
    if (need <= *capacity) {
        if (old && cb_rehearsing())
            cb_memory_reached(old, need * size);
        return true;
    }
    size_t wanted = *capacity + *capacity / 2 + 8, bytes;
    if (wanted < need)
        wanted = need;
    if (__builtin_mul_overflow(wanted, size, &bytes))
        return cb_fail(CB_ERR_MEMORY, "out of memory: an array of %zu elements", wanted) == CB_OK;
    grown = cb_realloc(old, bytes);
    if (!grown)
        return false;
    if (cb_rehearsing()) /* the rest is room for later */
        cb_memory_touched(grown, need * size);
    memcpy(array_pointer, &grown, sizeof grown);
    *capacity = wanted;
    return true;
}

bool cb_string_append(cb_string *s, const void *bytes, size_t length)
{
    size_t need;
    if (__builtin_add_overflow(s->length, length, &need) || __builtin_add_overflow(need, (size_t)1, &need))
        return cb_fail(CB_ERR_MEMORY, "out of memory: a string of %zu bytes", length) == CB_OK;
    if (!cb_grow(&s->data, &s->capacity, need, 1))
        return false;
    if (length)
        memcpy(s->data + s->length, bytes, length);
    s->length += length;
    s->data[s->length] = '\0';
    return true;
}

bool cb_string_puts(cb_string *s, const char *text)
{
    return cb_string_append(s, text, strlen(text));
}

static bool vprintf_to(cb_string *s, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    bool ok = n >= 0 && cb_grow(&s->data, &s->capacity, s->length + (size_t)n + 1, 1);
    if (ok) {
        vsnprintf(s->data + s->length, (size_t)n + 1, format, again);
        s->length += (size_t)n;
    }
    va_end(again);
    return ok;
}

bool cb_string_printf(cb_string *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    bool ok = vprintf_to(s, format, args);
    va_end(args);
    return ok;
}

void cb_string_clear(cb_string *s)
{
    s->length = 0;
    if (s->data)
        s->data[0] = '\0';
}

void cb_string_free(cb_string *s)
{
    cb_free(s->data);
    *s = (cb_string){0};
}

char *cb_strndup(const char *text, size_t length)
{
    char *copy = cb_alloc(length + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *cb_strdup(const char *text)
{
    return text ? cb_strndup(text, strlen(text)) : NULL;
}

char *cb_format(const char *format, ...)
{
    cb_string s = {0};
    va_list args;
    va_start(args, format);
    bool ok = vprintf_to(&s, format, args);
    va_end(args);
    if (!ok)
        cb_string_free(&s);
    return s.data;
}

bool cb_ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && memcmp(text + length - end_length, end, end_length) == 0;
}

uint64_t cb_hash_text(uint64_t hash, const char *text)
{
    return cb_hash_data(hash, text, strlen(text));
}

uint64_t cb_hash_data(uint64_t hash, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* ---- lists ---- */

bool cb_string_list_add(cb_string_list *list, const char *text)
{
    if (!cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items))
        return false;
    char *copy = cb_strdup(text);
    if (!copy)
        return false;
    list->items[list->count++] = copy;
    return true;
}

void cb_string_list_free(cb_string_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        cb_free(list->items[i]);
    cb_free(list->items);
    *list = (cb_string_list){0};
}

/* ---- close names ---- */

enum { NAME_LIMIT = 128 };

/* Levenshtein distance, names cut at NAME_LIMIT bytes. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t la = strnlen(a, NAME_LIMIT), lb = strnlen(b, NAME_LIMIT), row[NAME_LIMIT + 1];
    for (size_t j = 0; j <= lb; j++)
        row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[lb];
}

size_t cb_closest_names(const char *name, const char *const *names, size_t count, size_t n, cb_string *out)
{
    enum { MOST = 8 };
    size_t best[MOST], distance[MOST], found = 0;
    if (n > MOST)
        n = MOST;
    for (size_t i = 0; i < count && n; i++) {
        size_t d = edit_distance(name, names[i]), at = found;
        while (at > 0 && distance[at - 1] > d)
            at--;
        if (at == n)
            continue;
        if (found < n)
            found++;
        for (size_t k = found - 1; k > at; k--) {
            best[k] = best[k - 1];
            distance[k] = distance[k - 1];
        }
        best[at] = i;
        distance[at] = d;
    }
    for (size_t i = 0; i < found; i++)
        if (!cb_string_printf(out, "%s%s", i ? ", " : "", names[best[i]]))
            return i;
    return found;
}

/* ---- UTF-8 ---- */

/* Length of the well-formed sequence at s (at most n bytes), or 0.  Unicode 15, table 3-7. */
static size_t sequence_length(const unsigned char *s, size_t n)
{
    unsigned char c = s[0];
    if (c < 0x80)
        return 1;
    size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    if (c < 0xC2 || c > 0xF4 || length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    bool bad = (c == 0xE0 && s[1] < 0xA0) || (c == 0xED && s[1] > 0x9F) || (c == 0xF0 && s[1] < 0x90) || (c == 0xF4 && s[1] > 0x8F);
    return bad ? 0 : length;
}

bool cb_utf8_valid(const char *bytes, size_t length, size_t *bad)
{
    const unsigned char *s = (const unsigned char *)bytes;
    size_t i = 0;
    while (i < length) {
        uint64_t word;
        if (length - i >= 8 && (memcpy(&word, s + i, 8), (word & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        size_t n = sequence_length(s + i, length - i);
        if (!n) {
            if (bad)
                *bad = i;
            return false;
        }
        i += n;
    }
    return true;
}
