/* tokenizer_decoders.c: the decoders.  Each maps the list of token texts to another list; the texts joined are the result. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

static const char replacement_character[] = "\xEF\xBF\xBD";

bool cb_texts_close(cb_texts *texts)
{
    if (texts->count == texts->capacity && !cb_grow(&texts->ends, &texts->capacity, texts->count + 1, sizeof *texts->ends))
        return false;
    texts->ends[texts->count++] = texts->data.length;
    return true;
}

void cb_texts_free(cb_texts *texts)
{
    cb_string_free(&texts->data);
    cb_free(texts->ends);
    *texts = (cb_texts){0};
}

typedef struct view {
    const char *text;
    size_t length;
} view;

static view text_at(const cb_texts *texts, size_t i)
{
    size_t begin = i ? texts->ends[i - 1] : 0;
    return (view){texts->data.data ? texts->data.data + begin : "", texts->ends[i] - begin};
}

static bool add_text(cb_texts *texts, const char *text, size_t length)
{
    return cb_string_append(&texts->data, text, length) && cb_texts_close(texts);
}

/* Appends text with `to` before every character and at the end: what replacing the empty string means. */
static bool append_between(cb_string *out, view text, const char *to)
{
    unsigned size;
    for (size_t i = 0; i < text.length; i += size) {
        cb_utf8_read(text.text + i, &size);
        if (!cb_string_puts(out, to) || !cb_string_append(out, text.text + i, size))
            return false;
    }
    return cb_string_puts(out, to);
}

/* Appends text with every `from` turned into `to`. */
static bool append_replaced(cb_string *out, view text, const char *from, size_t from_length, const char *to)
{
    if (from_length == 0)
        return append_between(out, text, to);
    const char *at = text.text, *end = text.text + text.length;
    for (;;) {
        const char *found = memmem(at, (size_t)(end - at), from, from_length);
        if (!found)
            break;
        if (!cb_string_append(out, at, (size_t)(found - at)) || !cb_string_puts(out, to))
            return false;
        at = found + from_length;
    }
    return cb_string_append(out, at, (size_t)(end - at));
}

/* ---- ByteLevel ---- */

/* Appends bytes as UTF-8, each maximal ill-formed part as one U+FFFD. */
static bool append_lossy(cb_string *out, const char *bytes, size_t length)
{
    size_t bad;
    while (!cb_utf8_valid(bytes, length, &bad)) {
        if (!cb_string_append(out, bytes, bad) || !cb_string_puts(out, replacement_character))
            return false;
        const uint8_t *s = (const uint8_t *)bytes + bad;
        size_t left = length - bad, skip = 1;
        size_t want = s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 1;
        uint8_t low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80, high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
        for (; skip < want && skip < left && s[skip] >= low && s[skip] <= high; skip++) {
            low = 0x80;
            high = 0xBF;
        }
        bytes += bad + skip;
        length -= bad + skip;
    }
    return cb_string_append(out, bytes, length);
}

static bool append_bytes(cb_string *out, view text)
{
    size_t start = out->length;
    unsigned size;
    for (size_t i = 0; i < text.length; i += size) {
        int byte = cb_code_to_byte(cb_utf8_read(text.text + i, &size));
        if (byte < 0) { /* not of the alphabet: the token stands for itself */
            out->length = start;
            return cb_string_append(out, text.text, text.length);
        }
        char c = (char)byte;
        if (!cb_string_append(out, &c, 1))
            return false;
    }
    return true;
}

static bool byte_level(const void *state, const cb_texts *in, cb_texts *out)
{
    (void)state;
    cb_string bytes = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < in->count; i++)
        ok = append_bytes(&bytes, text_at(in, i));
    ok = ok && append_lossy(&out->data, bytes.data ? bytes.data : "", bytes.length) && cb_texts_close(out);
    cb_string_free(&bytes);
    return ok;
}

/* ---- Metaspace ---- */

typedef struct metaspace_state {
    uint32_t code;
    bool never;
} metaspace_state;

static bool metaspace_parse(void *state, const cb_source *source, const json_t *object)
{
    metaspace_state *s = state;
    bool add_prefix_space;
    if (!cb_source_code(source, object, "replacement", &s->code) ||
        !cb_source_bool(source, object, "add_prefix_space", true, &add_prefix_space))
        return false;
    const char *scheme = json_string_value(json_object_get(object, "prepend_scheme"));
    s->never = !add_prefix_space || (scheme && strcmp(scheme, "never") == 0);
    return true;
}

static bool metaspace(const void *state, const cb_texts *in, cb_texts *out)
{
    const metaspace_state *s = state;
    for (size_t i = 0; i < in->count; i++) {
        view text = text_at(in, i);
        unsigned size;
        for (size_t k = 0; k < text.length; k += size) {
            bool mark = cb_utf8_read(text.text + k, &size) == s->code;
            if (mark && i == 0 && !s->never)
                continue;
            if (mark ? !cb_string_append(&out->data, " ", 1) : !cb_string_append(&out->data, text.text + k, size))
                return false;
        }
        if (!cb_texts_close(out))
            return false;
    }
    return true;
}

/* ---- Replace, Fuse, Strip ---- */

static bool replace_one(const cb_replacement *s, cb_work *work, view text, cb_texts *out)
{
    if (!cb_pattern_find(&s->pattern, work, text.text, (uint32_t)text.length))
        return false;
    for (size_t k = 0; k < work->match_count; k++) {
        cb_match match = work->matches[k];
        bool ok = match.is_match ? cb_string_append(&out->data, s->content, s->length)
                                 : cb_string_append(&out->data, text.text + match.begin, match.end - match.begin);
        if (!ok)
            return false;
    }
    return cb_texts_close(out);
}

static bool replace(const void *state, const cb_texts *in, cb_texts *out)
{
    const cb_replacement *s = state;
    if (in->data.length > UINT32_MAX / 2)
        return cb_fail(CB_ERR_MEMORY, "too much text to decode at once"), false;
    static const cb_tokenizer nobody = {.what = (char *)"decoder"};
    cb_work work = {.tokenizer = &nobody}; /* for the matches only */
    bool ok = true;
    for (size_t i = 0; ok && i < in->count; i++)
        ok = replace_one(s, &work, text_at(in, i), out);
    cb_work_clear_matching(&work);
    return ok;
}

static bool fuse(const void *state, const cb_texts *in, cb_texts *out)
{
    (void)state;
    return add_text(out, in->data.data ? in->data.data : "", in->data.length);
}

typedef struct strip_state {
    uint32_t code, start, stop;
} strip_state;

static bool strip_parse(void *state, const cb_source *source, const json_t *object)
{
    strip_state *s = state;
    return cb_source_code(source, object, "content", &s->code) && cb_source_count(source, object, "start", 0, &s->start) &&
           cb_source_count(source, object, "stop", 0, &s->stop);
}

static bool strip(const void *state, const cb_texts *in, cb_texts *out)
{
    const strip_state *s = state;
    char content[4];
    size_t size = cb_utf8_write(s->code, content);
    for (size_t i = 0; i < in->count; i++) {
        view text = text_at(in, i);
        size_t begin = 0, end = text.length;
        for (uint32_t k = 0; k < s->start && text.length - begin >= size && !memcmp(text.text + begin, content, size); k++)
            begin += size;
        for (uint32_t k = 0; k < s->stop && end >= size && !memcmp(text.text + end - size, content, size); k++)
            end -= size;
        if (!add_text(out, text.text + begin, end > begin ? end - begin : 0))
            return false;
    }
    return true;
}

/* ---- ByteFallback ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of a token such as <0xE2>, or -1.  The package parses the two digits as a Rust number, which may have a plus. */
static int fallback_byte(view text)
{
    if (text.length != 6 || memcmp(text.text, "<0x", 3) != 0 || text.text[5] != '>')
        return -1;
    int high = text.text[3] == '+' ? 0 : hex_digit(text.text[3]), low = hex_digit(text.text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static bool flush_bytes(cb_string *bytes, cb_texts *out)
{
    if (!bytes->length)
        return true;
    if (cb_utf8_valid(bytes->data, bytes->length, NULL)) {
        if (!add_text(out, bytes->data, bytes->length))
            return false;
    } else {
        for (size_t i = 0; i < bytes->length; i++)
            if (!add_text(out, replacement_character, 3))
                return false;
    }
    cb_string_clear(bytes);
    return true;
}

static bool byte_fallback(const void *state, const cb_texts *in, cb_texts *out)
{
    (void)state;
    cb_string bytes = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < in->count; i++) {
        view text = text_at(in, i);
        int byte = fallback_byte(text);
        char c = (char)byte;
        ok = byte >= 0 ? cb_string_append(&bytes, &c, 1) : flush_bytes(&bytes, out) && add_text(out, text.text, text.length);
    }
    ok = ok && flush_bytes(&bytes, out);
    cb_string_free(&bytes);
    return ok;
}

/* ---- BPEDecoder, WordPiece, CTC ---- */

typedef struct text_state {
    char *text;
    size_t length;
    char *second;
    size_t second_length;
    bool cleanup;
} text_state;

static void text_release(void *state)
{
    text_state *s = state;
    cb_free(s->text);
    cb_free(s->second);
}

static bool bpe_parse(void *state, const cb_source *source, const json_t *object)
{
    text_state *s = state;
    return cb_source_string(source, object, "suffix", "</w>", &s->text, &s->length);
}

static bool bpe(const void *state, const cb_texts *in, cb_texts *out)
{
    const text_state *s = state;
    for (size_t i = 0; i < in->count; i++)
        if (!append_replaced(&out->data, text_at(in, i), s->text, s->length, i + 1 == in->count ? "" : " ") || !cb_texts_close(out))
            return false;
    return true;
}

/* Takes out the spaces that tokenising English put before marks. */
static bool clean_up(cb_string *text)
{
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        cb_string next = {0};
        bool ok = append_replaced(&next, (view){text->data ? text->data : "", text->length}, rules[i][0], strlen(rules[i][0]), rules[i][1]);
        cb_string_free(text);
        *text = next;
        if (!ok)
            return false;
    }
    return true;
}

static bool word_piece_parse(void *state, const cb_source *source, const json_t *object)
{
    text_state *s = state;
    return cb_source_string(source, object, "prefix", "##", &s->text, &s->length) &&
           cb_source_bool(source, object, "cleanup", true, &s->cleanup);
}

static bool word_piece(const void *state, const cb_texts *in, cb_texts *out)
{
    const text_state *s = state;
    cb_string word = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < in->count; i++) {
        view text = text_at(in, i);
        cb_string_clear(&word);
        bool continues = text.length >= s->length && memcmp(text.text, s->text, s->length) == 0;
        if (i && continues)
            text = (view){text.text + s->length, text.length - s->length};
        else if (i)
            ok = cb_string_puts(&word, " ");
        ok = ok && cb_string_append(&word, text.text, text.length) && (!s->cleanup || clean_up(&word)) &&
             add_text(out, word.data ? word.data : "", word.length);
    }
    cb_string_free(&word);
    return ok;
}

static bool ctc_parse(void *state, const cb_source *source, const json_t *object)
{
    text_state *s = state;
    return cb_source_string(source, object, "pad_token", "<pad>", &s->text, &s->length) &&
           cb_source_string(source, object, "word_delimiter_token", "|", &s->second, &s->second_length) &&
           cb_source_bool(source, object, "cleanup", true, &s->cleanup);
}

static bool ctc_one(const text_state *s, view text, cb_texts *out)
{
    cb_string word = {0}, spaced = {0};
    bool ok = append_replaced(&word, text, s->text, s->length, "");
    if (ok && s->cleanup) {
        ok = clean_up(&word) && append_replaced(&spaced, (view){word.data ? word.data : "", word.length}, s->second, s->second_length, " ");
        cb_string_free(&word);
        word = spaced;
    }
    ok = ok && (word.length == 0 || add_text(out, word.data, word.length));
    cb_string_free(&word);
    return ok;
}

static bool ctc(const void *state, const cb_texts *in, cb_texts *out)
{
    view last = {0};
    for (size_t i = 0; i < in->count; i++) {
        view text = text_at(in, i);
        bool repeated = i && text.length == last.length && memcmp(text.text, last.text, text.length) == 0;
        last = text;
        if (!repeated && !ctc_one(state, text, out))
            return false;
    }
    return true;
}

/* ---- Sequence and the table ---- */

static bool sequence(const void *state, const cb_texts *in, cb_texts *out)
{
    const cb_component_list *list = state;
    cb_texts held = {0}; /* the texts between two decoders */
    bool ok = true;
    for (size_t i = 0; ok && i < list->count; i++) {
        cb_texts made = {0};
        ok = list->items[i].kind->decode(list->items[i].state, i ? &held : in, &made);
        cb_texts_free(&held);
        held = made;
        if (ok &&
            held.data.length > in->data.length * 256 + (1 << 20)) /* as for the normalisers: rules that double a text again and again */
            ok = (cb_fail(CB_ERR_FORMAT, "the decoders would turn %zu bytes of text into %zu", in->data.length, held.data.length), false);
    }
    if (ok && list->count) {
        cb_texts_free(out);
        *out = held;
        return true;
    }
    cb_texts_free(&held);
    for (size_t i = 0; ok && i < in->count; i++)
        ok = add_text(out, text_at(in, i).text, text_at(in, i).length);
    return ok;
}

static const cb_component_kind kind_byte_level = {.type = "ByteLevel", .decode = byte_level};
static const cb_component_kind kind_metaspace = {
    .type = "Metaspace", .state_size = sizeof(metaspace_state), .parse = metaspace_parse, .decode = metaspace};
static const cb_component_kind kind_replace = {.type = "Replace",
                                               .state_size = sizeof(cb_replacement),
                                               .parse = cb_replacement_parse,
                                               .release = cb_replacement_release,
                                               .decode = replace};
static const cb_component_kind kind_fuse = {.type = "Fuse", .decode = fuse};
static const cb_component_kind kind_strip = {.type = "Strip", .state_size = sizeof(strip_state), .parse = strip_parse, .decode = strip};
static const cb_component_kind kind_byte_fallback = {.type = "ByteFallback", .decode = byte_fallback};
static const cb_component_kind kind_bpe = {
    .type = "BPEDecoder", .state_size = sizeof(text_state), .parse = bpe_parse, .release = text_release, .decode = bpe};
static const cb_component_kind kind_word_piece = {
    .type = "WordPiece", .state_size = sizeof(text_state), .parse = word_piece_parse, .release = text_release, .decode = word_piece};
static const cb_component_kind kind_ctc = {
    .type = "CTC", .state_size = sizeof(text_state), .parse = ctc_parse, .release = text_release, .decode = ctc};
static const cb_component_kind kind_sequence = {.type = "Sequence",
                                                .state_size = sizeof(cb_component_list),
                                                .parse = cb_component_list_parse,
                                                .release = cb_component_list_free,
                                                .decode = sequence};

static const cb_component_kind *const kinds[] = {&kind_byte_level, &kind_metaspace,     &kind_replace, &kind_fuse,
                                                 &kind_strip,      &kind_byte_fallback, &kind_bpe,     &kind_word_piece,
                                                 &kind_ctc,        &kind_sequence,      NULL};
const cb_role cb_decoder_role = {"decoder", "decoders", kinds};
