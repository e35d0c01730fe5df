/* tokenizer_precompiled.c: the normaliser Precompiled, the rules of a SentencePiece model.
 *
 * The rules are a little-endian u32 size in bytes, a double array of that size (darts-clone's format, units of 4 bytes) and
 * a text: the array maps a string to where its replacement starts in the text; a NUL character ends it.  A unit's bit 8 says
 * that a string ends below it, bits 0-7 and 31 are its label, the others how far its children are.
 *
 * As in the `tokenizers` package, a grapheme cluster of less than 6 bytes is replaced as a whole by what its shortest known
 * beginning stands for; otherwise each character by itself. */
#include <string.h>
#include <utf8proc.h>

#include "core/base64.h"
#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

enum { short_cluster = 6 };

typedef struct precompiled {
    uint32_t *units;
    size_t unit_count;
    char *text; /* of the replacements; well-formed */
    size_t length;
} precompiled;

/* ---- Reading ---- */

static uint32_t little_endian(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static bool read_rules(precompiled *p, const cb_source *source, const uint8_t *bytes, size_t length)
{
    size_t size = length < 4 ? SIZE_MAX : little_endian(bytes);
    if (size > length - 4)
        return cb_source_fail(source, "precompiled_charsmap", "a size and as many bytes of rules");
    p->unit_count = size / 4;
    p->length = length - 4 - p->unit_count * 4;
    p->units = cb_alloc((p->unit_count + 1) * sizeof *p->units);
    p->text = cb_strndup((const char *)bytes + 4 + p->unit_count * 4, p->length);
    for (size_t i = 0; p->units && i < p->unit_count; i++)
        p->units[i] = little_endian(bytes + 4 + 4 * i);
    if (!p->units || !p->text)
        return false;
    return cb_utf8_valid(p->text, p->length, NULL) || cb_source_fail(source, "precompiled_charsmap", "rules whose replacements are UTF-8");
}

static bool precompiled_parse(void *state, const cb_source *source, const json_t *object)
{
    const json_t *value = json_object_get(object, "precompiled_charsmap");
    if (!json_is_string(value))
        return cb_source_fail(source, "precompiled_charsmap", "a string");
    cb_string what = {0};
    size_t length;
    uint8_t *bytes = cb_string_printf(&what, "%s: normalizer Precompiled: \"precompiled_charsmap\"", source->what)
                         ? cb_base64_decode(what.data, json_string_value(value), json_string_length(value), &length)
                         : NULL;
    bool ok = bytes && read_rules(state, source, bytes, length);
    cb_free(bytes);
    cb_string_free(&what);
    return ok;
}

static void precompiled_release(void *state)
{
    precompiled *p = state;
    cb_free(p->units);
    cb_free(p->text);
}

/* ---- Rewriting ---- */

static uint32_t unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* What the shortest string of the rules that text[0 .. length] starts with stands for, or NULL. */
static const char *find_rule(const precompiled *p, const char *text, size_t length, size_t *replacement)
{
    if (!p->unit_count)
        return NULL;
    size_t node = unit_offset(p->units[0]);
    for (size_t i = 0; i < length && text[i]; i++) {
        uint8_t byte = (uint8_t)text[i];
        node ^= byte;
        if (node >= p->unit_count || (p->units[node] & (1u << 31 | 0xFF)) != byte)
            return NULL;
        bool ends = p->units[node] >> 8 & 1;
        node ^= unit_offset(p->units[node]);
        if (!ends)
            continue;
        size_t start = node < p->unit_count ? p->units[node] & ~(1u << 31) : SIZE_MAX;
        if (start > p->length || (start < p->length && cb_utf8_continues(p->text[start])))
            return NULL;
        *replacement = strnlen(p->text + start, p->length - start);
        return p->text + start;
    }
    return NULL;
}

/* Adds the changes that turn `characters` characters into the replacement: they are replaced one by one; of a longer
 * replacement the last characters are new, of a shorter one the last takes what is left over along (that of an empty one, the
 * character before). */
static bool add_rule(cb_work *work, const char *text, size_t length, size_t characters)
{
    unsigned size;
    size_t count = 0;
    for (size_t i = 0; i < length; i += size, count++)
        if (!cb_work_change(work, cb_utf8_read(text + i, &size), count >= characters))
            return false;
    if (count < characters && work->change_count)
        work->changes[work->change_count - 1].change -= (int32_t)(characters - count);
    return true;
}

/* Marks that belong to the character before them since Unicode 15.1, 16 and 17: the package's tables are newer than utf8proc's. */
static bool newer_mark(uint32_t code)
{
    static const cb_code_range marks[] = {{0x897, 0x897},     {0x1ACF, 0x1ADD},   {0x1AE0, 0x1AEB},   {0x10D69, 0x10D6D},
                                          {0x10EFA, 0x10EFC}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5},
                                          {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2},
                                          {0x11B60, 0x11B67}, {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F}, {0x1E5EE, 0x1E5EF},
                                          {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}};
    if (code < marks[0].first)
        return false;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (code >= marks[i].first && code <= marks[i].last)
            return true;
    return false;
}

static bool breaks_between(uint32_t code, uint32_t next, utf8proc_int32_t *state)
{
    if (code < 0x80 && next < 0x80)
        return !(code == '\r' && next == '\n');
    bool breaks = utf8proc_grapheme_break_stateful((utf8proc_int32_t)code, (utf8proc_int32_t)next, state);
    bool control = code < 0x20 || code == 0x7F; /* a mark does not join these */
    return breaks && (control || !newer_mark(next));
}

/* The end of the grapheme cluster that starts at `begin`, and its characters. */
static uint32_t cluster_end(const cb_piece *piece, uint32_t begin, size_t *characters)
{
    unsigned size;
    utf8proc_int32_t state = 0;
    uint32_t code = cb_utf8_read(piece->text + begin, &size), end = begin + size;
    *characters = 1;
    while (end < piece->length) {
        uint32_t next = cb_utf8_read(piece->text + end, &size);
        if (breaks_between(code, next, &state))
            break;
        end += size;
        code = next;
        ++*characters;
    }
    return end;
}

static bool precompiled_normalize(const void *state, cb_work *work, cb_piece *piece)
{
    const precompiled *p = state;
    bool changed = false;
    work->change_count = 0;
    for (uint32_t begin = 0, end; begin < piece->length; begin = end) {
        size_t characters, length;
        end = cluster_end(piece, begin, &characters);
        const char *rule = end - begin < short_cluster ? find_rule(p, piece->text + begin, end - begin, &length) : NULL;
        if (rule) {
            changed = true;
            if (!add_rule(work, rule, length, characters))
                return false;
            continue;
        }
        unsigned size;
        for (uint32_t at = begin; at < end; at += size) {
            uint32_t code = cb_utf8_read(piece->text + at, &size);
            rule = find_rule(p, piece->text + at, size, &length);
            changed |= rule != NULL;
            if (rule ? !add_rule(work, rule, length, 1) : !cb_work_change(work, code, 0))
                return false;
        }
    }
    return !changed || cb_piece_transform(work, piece, 0);
}

const cb_component_kind cb_normalizer_precompiled = {.type = "Precompiled",
                                                     .state_size = sizeof(precompiled),
                                                     .parse = precompiled_parse,
                                                     .release = precompiled_release,
                                                     .normalize = precompiled_normalize};
