/* tokenizer_normalizers.c: the normalisers.  Each rewrites one piece and keeps track of where its characters came from.
 * Canonical and compatible normal forms stream characters the way the package's crate does (decompose, order, compose), so
 * that the alignment of every character is the package's too. */
#include <string.h>
#include <utf8proc.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

/* ---- NFC, NFD, NFKC, NFKD ---- */

static unsigned combining_class(uint32_t code)
{
    if (code < 0x300 || (cb_code_flags[code] & CB_CODE_INERT))
        return 0;
    return (unsigned)utf8proc_get_property((utf8proc_int32_t)code)->combining_class;
}

/* Full decomposition of one code point; returns how many it gives (at most 18 by Unicode). */
static size_t decompose(uint32_t code, bool compatible, utf8proc_int32_t out[32])
{
    out[0] = (utf8proc_int32_t)code;
    if (code < 0x80 || (cb_code_flags[code] & CB_CODE_INERT))
        return 1;
    int boundary = 0;
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (compatible)
        options |= UTF8PROC_COMPAT;
    utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)code, out, 32, options, &boundary);
    return count > 0 && count <= 32 ? (size_t)count : 1;
}

static uint32_t compose(uint32_t first, uint32_t second)
{
    if (second < 0x300 || !(cb_code_flags[second] & CB_CODE_COMPOSES))
        return 0;
    if (second == 0x11A7) /* no final consonant: the place before the first, which utf8proc joins to a syllable and loses */
        return 0;
    utf8proc_int32_t pair[3] = {(utf8proc_int32_t)first, (utf8proc_int32_t)second};
    if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE) != 1)
        return 0;
    return cb_code_flags[pair[0]] & CB_CODE_INERT ? 0 : (uint32_t)pair[0];
}

/* Stable sort by combining class of the run since the last starter.  Insertion sort on runs of marks; a run of thousands (only
 * hostile text has them) is sorted by counting instead, so it stays linear. */
static bool order_run(cb_work *work, size_t first)
{
    size_t count = work->change_count - first;
    if (count < 2)
        return true;
    cb_change *run = work->changes + first;
    if (count <= 32) {
        for (size_t i = 1; i < count; i++) {
            cb_change item = run[i];
            unsigned class = combining_class(item.code);
            size_t k = i;
            for (; k > 0 && combining_class(run[k - 1].code) > class; k--)
                run[k] = run[k - 1];
            run[k] = item;
        }
        return true;
    }
    size_t starts[257] = {0};
    cb_change *sorted = cb_alloc(count * sizeof *sorted);
    if (!sorted)
        return false;
    for (size_t i = 0; i < count; i++)
        starts[combining_class(run[i].code) + 1]++;
    for (size_t i = 1; i < 257; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < count; i++)
        sorted[starts[combining_class(run[i].code)]++] = run[i];
    memcpy(run, sorted, count * sizeof *run);
    cb_free(sorted);
    return true;
}

static bool decompose_piece(cb_work *work, const cb_piece *piece, bool compatible)
{
    work->change_count = 0;
    size_t pending = 0; /* start of the run of marks that is not ordered yet */
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        utf8proc_int32_t parts[32];
        size_t count = decompose(cb_utf8_read(piece->text + i, &size), compatible, parts);
        for (size_t k = 0; k < count; k++) {
            if (combining_class((uint32_t)parts[k]) == 0) {
                if (!order_run(work, pending))
                    return false;
                pending = work->change_count;
            }
            if (!cb_work_change(work, (uint32_t)parts[k], k > 0))
                return false;
            if (pending == work->change_count - 1 && combining_class((uint32_t)parts[k]) == 0)
                pending = work->change_count;
        }
    }
    return order_run(work, pending);
}

/* Composes work->changes in place: a starter joins with the marks and letters after it that nothing blocks. */
static void compose_changes(cb_work *work)
{
    cb_change *changes = work->changes;
    size_t count = work->change_count, out = 0;
    size_t starter = SIZE_MAX; /* index in the output */
    unsigned last_class = 0;
    bool blocked_by_mark = false; /* marks stand between the starter and here */
    for (size_t i = 0; i < count; i++) {
        cb_change item = changes[i];
        unsigned class = combining_class(item.code);
        if (starter != SIZE_MAX && !(blocked_by_mark && last_class >= class)) {
            uint32_t joined = compose(changes[starter].code, item.code);
            if (joined) {
                changes[starter].code = joined;
                changes[starter].change += item.change - 1;
                continue;
            }
        }
        if (class == 0) {
            starter = out;
            blocked_by_mark = false;
        } else if (starter != SIZE_MAX) {
            blocked_by_mark = true;
            last_class = class;
        }
        changes[out++] = item;
    }
    work->change_count = out;
}

bool cb_piece_normal_form(cb_work *work, cb_piece *piece, bool compose_too, bool compatible)
{
    unsigned unsafe = compose_too && !compatible ? CB_CODE_COMPOSES : CB_CODE_DECOMPOSES | CB_CODE_COMPOSES;
    if (!piece->alignment) {
        uint32_t i = 0;
        unsigned size;
        while (i < piece->length && !(cb_code_flags[cb_utf8_read(piece->text + i, &size)] & unsafe))
            i += size;
        if (i == piece->length)
            return true;
    }
    if (!decompose_piece(work, piece, compatible))
        return false;
    if (compose_too)
        compose_changes(work);
    return cb_piece_transform(work, piece, 0);
}

static bool nfc(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return cb_piece_normal_form(work, piece, true, false);
}
static bool nfd(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return cb_piece_normal_form(work, piece, false, false);
}
static bool nfkc(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return cb_piece_normal_form(work, piece, true, true);
}
static bool nfkd(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return cb_piece_normal_form(work, piece, false, true);
}

/* ---- Lowercase, StripAccents, Strip ---- */

static bool lowercase(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    work->change_count = 0;
    bool any = piece->alignment != NULL;
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        uint32_t code = cb_utf8_read(piece->text + i, &size), second;
        uint32_t lower = cb_unicode_lower(code, &second);
        any |= lower != code;
        if (!cb_work_change(work, lower, 0) || (second && !cb_work_change(work, second, 1)))
            return false;
    }
    return !any || cb_piece_transform(work, piece, 0);
}

static bool strip_accents(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return cb_piece_filter(work, piece, CB_CODE_COMBINING);
}

typedef struct strip_state {
    bool left, right;
} strip_state;

static bool strip_parse(void *state, const cb_source *source, const json_t *object)
{
    strip_state *s = state;
    return cb_source_bool(source, object, "strip_left", false, &s->left) && cb_source_bool(source, object, "strip_right", false, &s->right);
}

static bool strip(const void *state, cb_work *work, cb_piece *piece)
{
    const strip_state *s = state;
    size_t count = 0, leading = 0, trailing = 0;
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size, count++) {
        bool space = cb_code_flags[cb_utf8_read(piece->text + i, &size)] & CB_CODE_RUST_SPACE;
        if (space && leading == count)
            leading++;
        trailing = space ? trailing + 1 : 0;
    }
    leading = s->left ? leading : 0;
    trailing = s->right ? trailing : 0;
    if (!leading && !trailing)
        return true;
    work->change_count = 0;
    size_t index = 0;
    for (uint32_t i = 0; i < piece->length; i += size, index++) {
        uint32_t code = cb_utf8_read(piece->text + i, &size);
        if (index < leading || index + trailing >= count)
            continue;
        /* The package counts bytes here where characters are meant, so this holds in ASCII only; only spans can tell. */
        int32_t change = index + trailing + 1 == piece->length ? -(int32_t)trailing : 0;
        if (!cb_work_change(work, code, change))
            return false;
    }
    return cb_piece_transform(work, piece, leading);
}

/* ---- Prepend, Replace, ByteLevel, Nmt ---- */

typedef struct text_state {
    char *text;
    size_t length;
} text_state;

static bool prepend_parse(void *state, const cb_source *source, const json_t *object)
{
    text_state *s = state;
    return cb_source_string(source, object, "prepend", NULL, &s->text, &s->length);
}
static void prepend_release(void *state)
{
    cb_free(((text_state *)state)->text);
}
static bool prepend(const void *state, cb_work *work, cb_piece *piece)
{
    const text_state *s = state;
    return cb_piece_prepend(work, piece, s->text, s->length);
}

static bool replace(const void *state, cb_work *work, cb_piece *piece)
{
    const cb_replacement *s = state;
    return cb_pattern_find(&s->pattern, work, piece->text, piece->length) && cb_piece_replace(work, piece, s->content, s->length);
}

static bool byte_level(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return piece->length == 0 || cb_piece_to_byte_level(work, piece, false);
}

/* The rules SentencePiece took over from neural machine translation. */
static bool nmt_drops(uint32_t code)
{
    return (code >= 1 && code <= 8) || code == 0x0B || (code >= 0x0E && code <= 0x1F) || code == 0x7F || code == 0x8F || code == 0x9F;
}
static bool nmt_is_space(uint32_t code)
{
    return code == 9 || code == 10 || code == 12 || code == 13 || code == 0x1680 || (code >= 0x200B && code <= 0x200F) || code == 0x2028 ||
           code == 0x2029 || code == 0x2581 || code == 0xFEFF || code == 0xFFFD;
}

/* Drops the characters `drops` names, then turns those `spaces` names into a space. */
static bool clean(cb_work *work, cb_piece *piece, bool (*drops)(uint32_t), bool (*spaces)(uint32_t))
{
    work->change_count = 0;
    size_t removed_first = 0;
    int32_t removed = 0;
    bool changed = piece->alignment != NULL;
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        uint32_t code = cb_utf8_read(piece->text + i, &size);
        if (drops(code)) {
            removed++;
            changed = true;
            continue;
        }
        if (work->change_count)
            work->changes[work->change_count - 1].change = -removed;
        else
            removed_first = (size_t)removed;
        removed = 0;
        changed |= code != ' ' && spaces(code);
        if (!cb_work_change(work, code, 0))
            return false;
    }
    if (!changed)
        return true;
    if (work->change_count)
        work->changes[work->change_count - 1].change = -removed;
    if (!cb_piece_transform(work, piece, removed_first))
        return false;
    work->change_count = 0;
    for (uint32_t i = 0; i < piece->length; i += size) {
        uint32_t code = cb_utf8_read(piece->text + i, &size);
        if (!cb_work_change(work, spaces(code) ? ' ' : code, 0))
            return false;
    }
    return cb_piece_transform(work, piece, 0);
}

static bool nmt(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    return clean(work, piece, nmt_drops, nmt_is_space);
}

/* ---- BertNormalizer ---- */

typedef struct bert_state {
    bool clean_text, handle_chinese_chars, strip_accents, lowercase;
} bert_state;

static bool bert_parse(void *state, const cb_source *source, const json_t *object)
{
    bert_state *s = state;
    return cb_source_bool(source, object, "clean_text", true, &s->clean_text) &&
           cb_source_bool(source, object, "handle_chinese_chars", true, &s->handle_chinese_chars) &&
           cb_source_bool(source, object, "lowercase", true, &s->lowercase) &&
           cb_source_bool(source, object, "strip_accents", s->lowercase, &s->strip_accents);
}

static bool bert_drops(uint32_t code)
{
    return cb_code_flags[code] & CB_CODE_CONTROL;
}
static bool bert_is_space(uint32_t code)
{
    return code == '\t' || code == '\n' || code == '\r' || (cb_code_flags[code] & CB_CODE_RUST_SPACE);
}

/* The blocks of CJK ideographs; kana and Hangul are written with spaces or need none here. */
static bool is_ideograph(uint32_t code)
{
    return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) || (code >= 0x20000 && code <= 0x2A6DF) ||
           (code >= 0x2A700 && code <= 0x2B73F) || (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
           (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

static bool space_ideographs(cb_work *work, cb_piece *piece)
{
    work->change_count = 0;
    bool any = piece->alignment != NULL;
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        uint32_t code = cb_utf8_read(piece->text + i, &size);
        bool ideograph = is_ideograph(code);
        any |= ideograph;
        if (ideograph ? !cb_work_change(work, ' ', 0) || !cb_work_change(work, code, 1) || !cb_work_change(work, ' ', 1)
                      : !cb_work_change(work, code, 0))
            return false;
    }
    return !any || cb_piece_transform(work, piece, 0);
}

static bool bert(const void *state, cb_work *work, cb_piece *piece)
{
    const bert_state *s = state;
    if (s->clean_text && !clean(work, piece, bert_drops, bert_is_space))
        return false;
    if (s->handle_chinese_chars && !space_ideographs(work, piece))
        return false;
    if (s->strip_accents && (!cb_piece_normal_form(work, piece, false, false) || !cb_piece_filter(work, piece, CB_CODE_NONSPACING)))
        return false;
    return !s->lowercase || lowercase(NULL, work, piece);
}

/* ---- Sequence and the table ---- */

static bool sequence(const void *state, cb_work *work, cb_piece *piece)
{
    const cb_component_list *list = state;
    for (size_t i = 0; i < list->count; i++)
        if (!list->items[i].kind->normalize(list->items[i].state, work, piece))
            return false;
    return true;
}

static const cb_component_kind kind_nfc = {.type = "NFC", .normalize = nfc};
static const cb_component_kind kind_nfd = {.type = "NFD", .normalize = nfd};
static const cb_component_kind kind_nfkc = {.type = "NFKC", .normalize = nfkc};
static const cb_component_kind kind_nfkd = {.type = "NFKD", .normalize = nfkd};
static const cb_component_kind kind_lowercase = {.type = "Lowercase", .normalize = lowercase};
static const cb_component_kind kind_strip_accents = {.type = "StripAccents", .normalize = strip_accents};
static const cb_component_kind kind_strip = {.type = "Strip", .state_size = sizeof(strip_state), .parse = strip_parse, .normalize = strip};
static const cb_component_kind kind_prepend = {
    .type = "Prepend", .state_size = sizeof(text_state), .parse = prepend_parse, .release = prepend_release, .normalize = prepend};
static const cb_component_kind kind_replace = {.type = "Replace",
                                               .state_size = sizeof(cb_replacement),
                                               .parse = cb_replacement_parse,
                                               .release = cb_replacement_release,
                                               .normalize = replace};
static const cb_component_kind kind_byte_level = {.type = "ByteLevel", .normalize = byte_level};
static const cb_component_kind kind_nmt = {.type = "Nmt", .normalize = nmt};
static const cb_component_kind kind_bert = {
    .type = "BertNormalizer", .state_size = sizeof(bert_state), .parse = bert_parse, .normalize = bert};
static const cb_component_kind kind_sequence = {.type = "Sequence",
                                                .state_size = sizeof(cb_component_list),
                                                .parse = cb_component_list_parse,
                                                .release = cb_component_list_free,
                                                .normalize = sequence};

static const cb_component_kind *const kinds[] = {
    &kind_nfc,     &kind_nfd,     &kind_nfkc,       &kind_nfkd, &kind_lowercase, &kind_strip_accents,        &kind_strip,
    &kind_prepend, &kind_replace, &kind_byte_level, &kind_nmt,  &kind_bert,      &cb_normalizer_precompiled, &kind_sequence,
    NULL};
const cb_role cb_normalizer_role = {"normalizer", "normalizers", kinds};
