/* tokenizer_pretokenizers.c: the pre-tokenisers.  Each takes the pieces of the text and leaves the pieces it made of them;
 * added tokens pass through. */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

/* Calls `cut` for every piece that is text, as characters; it pushes what becomes of the piece. */
static bool for_each_piece(cb_work *work, const void *state, bool (*cut)(const void *state, cb_work *work, cb_piece *piece))
{
    work->next.count = 0;
    for (size_t i = 0; i < work->pieces.count; i++) {
        cb_piece piece = work->pieces.items[i];
        if (piece.token >= 0 ? !cb_work_push(work, &piece) : !cb_piece_materialize(work, &piece) || !cut(state, work, &piece))
            return false;
    }
    cb_work_swap(work);
    return true;
}

static bool split_by(cb_work *work, const cb_piece *piece, const cb_pattern *pattern, cb_split_behavior behavior, bool invert)
{
    if (pattern->scanner && !invert && behavior == CB_SPLIT_ISOLATED) { /* the common case, without a list of matches */
        for (uint32_t i = 0, end; i < piece->length; i = end) {
            end = pattern->scanner(piece->text, i, piece->length);
            cb_piece slice = cb_piece_slice(piece, i, end);
            if (!cb_work_push(work, &slice))
                return false;
        }
        return true;
    }
    return cb_pattern_find(pattern, work, piece->text, piece->length) && cb_piece_split(work, piece, behavior, invert);
}

/* ---- ByteLevel ---- */

typedef struct byte_level_state {
    cb_pattern pattern;
    bool add_prefix_space, use_regex;
} byte_level_state;

static bool byte_level_parse(void *state, const cb_source *source, const json_t *object)
{
    byte_level_state *s = state;
    bool trim;
    return cb_source_bool(source, object, "add_prefix_space", true, &s->add_prefix_space) &&
           cb_source_bool(source, object, "trim_offsets", true, &trim) &&
           cb_source_bool(source, object, "use_regex", true, &s->use_regex) &&
           cb_pattern_regex(&s->pattern, source->what, cb_pattern_gpt2, true);
}

static void byte_level_release(void *state)
{
    cb_pattern_free(&((byte_level_state *)state)->pattern);
}

static bool byte_level_cut(const void *state, cb_work *work, cb_piece *piece)
{
    const byte_level_state *s = state;
    if (s->add_prefix_space && piece->text[0] != ' ' && !cb_piece_prepend(work, piece, " ", 1))
        return false;
    return s->use_regex ? split_by(work, piece, &s->pattern, CB_SPLIT_ISOLATED, false) : cb_work_push(work, piece);
}

static bool byte_level(const void *state, cb_work *work)
{
    const byte_level_state *s = state;
    if ((s->add_prefix_space || s->use_regex) && !for_each_piece(work, state, byte_level_cut))
        return false;
    for (size_t i = 0; i < work->pieces.count; i++) {
        cb_piece *piece = &work->pieces.items[i];
        if (piece->token < 0 && !cb_piece_to_byte_level(work, piece, work->tokenizer->model.raw_bytes))
            return false;
    }
    return true;
}

/* ---- Metaspace ---- */

typedef struct metaspace_state {
    char text[5]; /* the replacement */
    size_t length;
    uint32_t code;
    enum { prepend_first, prepend_never, prepend_always } scheme;
    bool split;
} metaspace_state;

static bool metaspace_parse(void *state, const cb_source *source, const json_t *object)
{
    metaspace_state *s = state;
    if (!cb_source_code(source, object, "replacement", &s->code))
        return false;
    s->length = cb_utf8_write(s->code, s->text);
    const char *scheme = "always";
    const json_t *value = json_object_get(object, "prepend_scheme");
    if (json_is_string(value))
        scheme = json_string_value(value);
    if (strcmp(scheme, "first") == 0)
        s->scheme = prepend_first;
    else if (strcmp(scheme, "never") == 0)
        s->scheme = prepend_never;
    else if (strcmp(scheme, "always") == 0)
        s->scheme = prepend_always;
    else
        return cb_source_fail(source, "prepend_scheme", "first, never or always");
    bool add_prefix_space;
    if (!cb_source_bool(source, object, "add_prefix_space", true, &add_prefix_space) ||
        !cb_source_bool(source, object, "split", true, &s->split))
        return false;
    if (!add_prefix_space)
        s->scheme = prepend_never; /* how files before prepend_scheme said it */
    return true;
}

static bool metaspace_cut(const void *state, cb_work *work, cb_piece *piece)
{
    const metaspace_state *s = state;
    cb_pattern space = {.code = ' '}, replacement = {.code = s->code};
    if (!cb_pattern_find(&space, work, piece->text, piece->length) || !cb_piece_replace(work, piece, s->text, s->length))
        return false;
    bool wanted = s->scheme == prepend_always || (s->scheme == prepend_first && piece->shift == 0);
    bool there = piece->length >= s->length && memcmp(piece->text, s->text, s->length) == 0;
    if (wanted && !there && !cb_piece_prepend(work, piece, s->text, s->length))
        return false;
    return s->split ? split_by(work, piece, &replacement, CB_SPLIT_MERGED_WITH_NEXT, false) : cb_work_push(work, piece);
}

static bool metaspace(const void *state, cb_work *work)
{
    return for_each_piece(work, state, metaspace_cut);
}

/* ---- Whitespace, WhitespaceSplit, CharDelimiterSplit, Digits, Punctuation, BertPreTokenizer, Split ---- */

/* \w+|[^\w\s]+ */
static bool whitespace_cut(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    unsigned size = 0;
    uint32_t start = 0;
    unsigned class = CB_CODE_RUST_SPACE; /* of the run that starts there; 0: neither word nor space */
    for (uint32_t i = 0;; i += size) {
        unsigned now = CB_CODE_RUST_SPACE;
        if (i < piece->length) {
            unsigned flags = cb_code_flags[cb_utf8_read(piece->text + i, &size)];
            now = flags & CB_CODE_RUST_WORD ? CB_CODE_RUST_WORD : flags & CB_CODE_RUST_SPACE;
        }
        if (i < piece->length && now == class)
            continue;
        if (class != CB_CODE_RUST_SPACE) {
            cb_piece slice = cb_piece_slice(piece, start, i);
            if (!cb_work_push(work, &slice))
                return false;
        }
        if (i >= piece->length)
            return true;
        start = i;
        class = now;
    }
}

static bool whitespace(const void *state, cb_work *work)
{
    return for_each_piece(work, state, whitespace_cut);
}

typedef struct split_state {
    cb_pattern pattern;
    cb_split_behavior behavior;
    bool invert;
} split_state;

static bool split_cut(const void *state, cb_work *work, cb_piece *piece)
{
    const split_state *s = state;
    return split_by(work, piece, &s->pattern, s->behavior, s->invert);
}

static bool split(const void *state, cb_work *work)
{
    return for_each_piece(work, state, split_cut);
}

static bool split_parse(void *state, const cb_source *source, const json_t *object)
{
    split_state *s = state;
    return cb_source_pattern(source, object, true, &s->pattern) && cb_source_behavior(source, object, &s->behavior, true) &&
           cb_source_bool(source, object, "invert", false, &s->invert);
}

static void split_release(void *state)
{
    cb_pattern_free(&((split_state *)state)->pattern);
}

static bool whitespace_split_parse(void *state, const cb_source *source, const json_t *object)
{
    (void)source;
    (void)object;
    *(split_state *)state = (split_state){.pattern.flags = CB_CODE_RUST_SPACE, .behavior = CB_SPLIT_REMOVED};
    return true;
}

static bool delimiter_parse(void *state, const cb_source *source, const json_t *object)
{
    split_state *s = state;
    s->behavior = CB_SPLIT_REMOVED;
    return cb_source_code(source, object, "delimiter", &s->pattern.code);
}

static bool digits_parse(void *state, const cb_source *source, const json_t *object)
{
    split_state *s = state;
    bool individual;
    if (!cb_source_bool(source, object, "individual_digits", false, &individual))
        return false;
    s->pattern.flags = CB_CODE_RUST_NUMERIC;
    s->behavior = individual ? CB_SPLIT_ISOLATED : CB_SPLIT_CONTIGUOUS;
    return true;
}

static bool punctuation_parse(void *state, const cb_source *source, const json_t *object)
{
    split_state *s = state;
    s->pattern.flags = CB_CODE_PUNCTUATION;
    s->behavior = CB_SPLIT_ISOLATED;
    return cb_source_behavior(source, object, &s->behavior, false);
}

static bool bert(const void *state, cb_work *work)
{
    (void)state;
    split_state spaces = {.pattern.flags = CB_CODE_RUST_SPACE, .behavior = CB_SPLIT_REMOVED};
    split_state marks = {.pattern.flags = CB_CODE_PUNCTUATION, .behavior = CB_SPLIT_ISOLATED};
    return split(&spaces, work) && split(&marks, work);
}

/* ---- UnicodeScripts ---- */

/* A word ends where the script changes; spaces and unassigned code points belong to any script.  A text that starts with
 * those loses them, as in the package: they come before the first boundary. */
static bool scripts_cut(const void *state, cb_work *work, cb_piece *piece)
{
    (void)state;
    unsigned size, last = 0;
    bool started = false;
    uint32_t start = 0;
    for (uint32_t i = 0; i < piece->length; i += size) {
        uint32_t code = cb_utf8_read(piece->text + i, &size);
        unsigned script = code == ' ' ? 0 : cb_unicode_script(code);
        if (!script)
            continue;
        if (script != last) {
            cb_piece slice = cb_piece_slice(piece, start, i);
            if (started && !cb_work_push(work, &slice))
                return false;
            started = true;
            start = i;
        }
        last = script;
    }
    cb_piece slice = cb_piece_slice(piece, start, piece->length);
    return !started || cb_work_push(work, &slice);
}

static bool scripts(const void *state, cb_work *work)
{
    return for_each_piece(work, state, scripts_cut);
}

/* ---- FixedLength ---- */

static bool fixed_length_parse(void *state, const cb_source *source, const json_t *object)
{
    uint32_t *length = state;
    return cb_source_count(source, object, "length", 5, length) && (*length > 0 || cb_source_fail(source, "length", "a number over 0"));
}

static bool fixed_length_cut(const void *state, cb_work *work, cb_piece *piece)
{
    uint32_t length = *(const uint32_t *)state, start = 0, count = 0;
    unsigned size;
    for (uint32_t i = 0; i < piece->length; i += size) {
        if (count++ == length) {
            cb_piece slice = cb_piece_slice(piece, start, i);
            if (!cb_work_push(work, &slice))
                return false;
            start = i;
            count = 1;
        }
        cb_utf8_read(piece->text + i, &size);
    }
    cb_piece slice = cb_piece_slice(piece, start, piece->length);
    return cb_work_push(work, &slice);
}

static bool fixed_length(const void *state, cb_work *work)
{
    return for_each_piece(work, state, fixed_length_cut);
}

/* ---- Sequence and the table ---- */

static bool sequence(const void *state, cb_work *work)
{
    const cb_component_list *list = state;
    for (size_t i = 0; i < list->count; i++)
        if (!list->items[i].kind->pre_tokenize(list->items[i].state, work))
            return false;
    return true;
}

static const cb_component_kind kind_byte_level = {.type = "ByteLevel",
                                                  .state_size = sizeof(byte_level_state),
                                                  .parse = byte_level_parse,
                                                  .release = byte_level_release,
                                                  .pre_tokenize = byte_level};
static const cb_component_kind kind_metaspace = {
    .type = "Metaspace", .state_size = sizeof(metaspace_state), .parse = metaspace_parse, .pre_tokenize = metaspace};
static const cb_component_kind kind_whitespace = {.type = "Whitespace", .pre_tokenize = whitespace};
static const cb_component_kind kind_whitespace_split = {
    .type = "WhitespaceSplit", .state_size = sizeof(split_state), .parse = whitespace_split_parse, .pre_tokenize = split};
static const cb_component_kind kind_delimiter = {
    .type = "CharDelimiterSplit", .state_size = sizeof(split_state), .parse = delimiter_parse, .pre_tokenize = split};
static const cb_component_kind kind_digits = {
    .type = "Digits", .state_size = sizeof(split_state), .parse = digits_parse, .pre_tokenize = split};
static const cb_component_kind kind_punctuation = {
    .type = "Punctuation", .state_size = sizeof(split_state), .parse = punctuation_parse, .pre_tokenize = split};
static const cb_component_kind kind_split = {
    .type = "Split", .state_size = sizeof(split_state), .parse = split_parse, .release = split_release, .pre_tokenize = split};
static const cb_component_kind kind_bert = {.type = "BertPreTokenizer", .pre_tokenize = bert};
static const cb_component_kind kind_scripts = {.type = "UnicodeScripts", .pre_tokenize = scripts};
static const cb_component_kind kind_fixed_length = {
    .type = "FixedLength", .state_size = sizeof(uint32_t), .parse = fixed_length_parse, .pre_tokenize = fixed_length};
static const cb_component_kind kind_sequence = {.type = "Sequence",
                                                .state_size = sizeof(cb_component_list),
                                                .parse = cb_component_list_parse,
                                                .release = cb_component_list_free,
                                                .pre_tokenize = sequence};

static const cb_component_kind *const kinds[] = {
    &kind_byte_level, &kind_metaspace, &kind_whitespace, &kind_whitespace_split, &kind_delimiter, &kind_digits, &kind_punctuation,
    &kind_split,      &kind_bert,      &kind_scripts,    &kind_fixed_length,     &kind_sequence,  NULL};
const cb_role cb_pre_tokenizer_role = {"pre_tokenizer", "pretokenizers", kinds};
