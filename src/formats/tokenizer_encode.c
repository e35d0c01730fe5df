/* tokenizer_encode.c: the whole way from text to ids and back, and the stream that decodes ids as they come. */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

static const size_t text_limit = (size_t)1 << 30;

/* ---- Encoding ---- */

void cb_encoding_free(cb_encoding *encoding)
{
    cb_free(encoding->ids);
    cb_free(encoding->type_ids);
    cb_free(encoding->special);
    cb_free(encoding->spans);
    *encoding = (cb_encoding){.want_spans = encoding->want_spans};
}

void cb_encodings_free(cb_encodings *encodings)
{
    for (size_t i = 0; i < encodings->capacity; i++)
        cb_encoding_free(&encodings->items[i]);
    cb_free(encodings->items);
    *encodings = (cb_encodings){.want_spans = encodings->want_spans};
}

static bool check_text(const cb_tokenizer *t, const char *utf8, size_t length)
{
    size_t bad;
    if (length > text_limit)
        return cb_fail(CB_ERR_ARGUMENT, "%s: a text of %zu bytes; the most is %zu", t->what, length, text_limit), false;
    if (!cb_utf8_valid(utf8, length, &bad))
        return cb_fail(CB_ERR_FORMAT, "the text to tokenise is not UTF-8 at byte %zu", bad), false;
    return true;
}

static bool encode_pieces(cb_work *work)
{
    for (size_t i = 0; i < work->pieces.count; i++) {
        const cb_piece *piece = &work->pieces.items[i];
        bool ok = piece->token >= 0 ? cb_work_emit(work, piece, piece->token, 0, piece->length) : cb_work_tokenize(work, piece);
        if (!ok)
            return false;
    }
    return true;
}

/* Fills work->sequence[which] with the tokens of one text. */
static bool encode_sequence(const cb_tokenizer *t, cb_work *work, const char *utf8, size_t length, unsigned which)
{
    if (!check_text(t, utf8, length))
        return false;
    cb_work_reset(work);
    work->originals[which].bytes = utf8;
    work->originals[which].length = length;
    work->target = &work->sequence[which];
    work->target->count = 0;
    cb_piece text = {.text = utf8, .length = (uint32_t)length, .original_length = (uint32_t)length, .token = -1};
    if (!cb_work_push(work, &text))
        return false;
    cb_work_swap(work);
    if (!cb_added_split(work, false) || !cb_added_split(work, true))
        return false;
    if (t->pre_tokenizer.kind && !t->pre_tokenizer.kind->pre_tokenize(t->pre_tokenizer.state, work))
        return false;
    if (!encode_pieces(work))
        return false;
    for (size_t i = 0; which && i < work->target->count; i++)
        work->target->items[i].type = work->target->items[i].text = (uint8_t)which;
    if (work->target->count)
        work->target->items[0].first = 1;
    return true;
}

static bool reserve(cb_encoding *out, size_t count)
{
    size_t types = out->capacity, special = out->capacity, spans = out->spans ? out->capacity : 0, ids = out->capacity;
    if (!cb_grow(&out->ids, &ids, count, sizeof *out->ids) || !cb_grow(&out->type_ids, &types, count, 1) ||
        !cb_grow(&out->special, &special, count, 1) || (out->want_spans && !cb_grow(&out->spans, &spans, count, sizeof *out->spans)))
        return false;
    size_t least = ids < types ? ids : types;
    least = special < least ? special : least;
    out->capacity = out->want_spans && spans < least ? spans : least;
    return true;
}

static void put_token(cb_encoding *out, const cb_token *token)
{
    size_t at = out->count++;
    out->ids[at] = token->id;
    out->type_ids[at] = token->type;
    out->special[at] = token->special;
    if (out->want_spans)
        out->spans[at] = (cb_token_span){token->begin, token->end};
}

static bool write_encoding(const cb_work *work, cb_encoding *out)
{
    size_t count = work->sequence[0].count + (work->pair ? work->sequence[1].count : 0);
    out->count = out->pad_left = out->pad_right = 0;
    if (!reserve(out, count ? count : 1))
        return false;
    for (unsigned which = 0; which <= (unsigned)work->pair; which++)
        for (size_t i = 0; i < work->sequence[which].count; i++)
            put_token(out, &work->sequence[which].items[i]);
    return true;
}

/* Makes room for `more` tokens of padding at one end and fills it. */
static bool add_padding(cb_encoding *e, size_t more, const cb_padding *padding)
{
    size_t count = e->count, at = padding->left ? 0 : count;
    cb_token pad = {.id = padding->id, .type = padding->type_id, .special = 1};
    if (!reserve(e, count + more))
        return false;
    if (padding->left) {
        memmove(e->ids + more, e->ids, count * sizeof *e->ids);
        memmove(e->type_ids + more, e->type_ids, count);
        memmove(e->special + more, e->special, count);
        if (e->want_spans)
            memmove(e->spans + more, e->spans, count * sizeof *e->spans);
    }
    for (e->count = at; e->count < at + more;)
        put_token(e, &pad);
    e->count = count + more;
    *(padding->left ? &e->pad_left : &e->pad_right) += more;
    return true;
}

static bool pad_to(cb_encoding *items, size_t count, size_t length, const cb_padding *padding)
{
    if (padding->multiple && length % padding->multiple)
        length += padding->multiple - length % padding->multiple;
    for (size_t i = 0; i < count; i++)
        if (items[i].count < length && !add_padding(&items[i], length - items[i].count, padding))
            return false;
    return true;
}

bool cb_encodings_pad(cb_encoding *items, size_t count, const cb_padding *padding)
{
    size_t length = padding->longest ? 0 : padding->length;
    for (size_t i = 0; padding->longest && i < count; i++)
        length = items[i].count > length ? items[i].count : length;
    return pad_to(items, count, length, padding);
}

static bool pad_parts(const cb_tokenizer *t, const cb_encode_options *options, cb_encoding *items, size_t count)
{
    const cb_padding *padding = options->padding ? options->padding : options->pad && t->pads ? &t->padding : NULL;
    return !padding || pad_to(items, count, padding->longest ? items[0].count : padding->length, padding);
}

static bool encode_texts(const cb_tokenizer *t, cb_work *work, const char *utf8, size_t length, const cb_encode_options *options, bool all)
{
    work->pair = false;
    work->sequence[1].count = 0;
    if ((options->pair && !encode_sequence(t, work, options->pair, options->pair_length, 1)) || !encode_sequence(t, work, utf8, length, 0))
        return false;
    work->pair = options->pair != NULL;
    return cb_work_cut(work, options, all);
}

static bool finish_part(const cb_tokenizer *t, cb_work *work, const cb_encode_options *options, cb_encoding *out)
{
    return (!t->post_processor.kind || t->post_processor.kind->process(t->post_processor.state, work, options->add_special_tokens)) &&
           write_encoding(work, out);
}

bool cb_tokenizer_encode_with(const cb_tokenizer *t, const char *utf8, size_t length, const cb_encode_options *options, cb_encoding *out)
{
    cb_work *work = cb_work_take(t);
    if (!work)
        return false;
    work->spans = out->want_spans;
    bool ok = encode_texts(t, work, utf8, length, options, false) && cb_work_part(work, 0) && finish_part(t, work, options, out) &&
              pad_parts(t, options, out, 1);
    cb_work_give(work);
    return ok;
}

static bool encode_part(const cb_tokenizer *t, cb_work *work, const cb_encode_options *options, cb_encodings *out)
{
    if (out->count == out->capacity) {
        size_t before = out->capacity;
        if (!cb_grow(&out->items, &out->capacity, out->count + 1, sizeof *out->items))
            return false;
        memset(out->items + before, 0, (out->capacity - before) * sizeof *out->items);
    }
    cb_encoding *e = &out->items[out->count];
    e->want_spans = out->want_spans;
    if (!finish_part(t, work, options, e))
        return false;
    out->count++;
    return true;
}

bool cb_tokenizer_encode_parts(const cb_tokenizer *t, const char *utf8, size_t length, const cb_encode_options *options, cb_encodings *out)
{
    cb_work *work = cb_work_take(t);
    if (!work)
        return false;
    work->spans = out->want_spans;
    out->count = 0;
    bool ok = encode_texts(t, work, utf8, length, options, true);
    size_t parts = work->windows[0].count * work->windows[1].count;
    for (size_t part = 0; ok && part < parts; part++) {
        work->pair = options->pair != NULL;
        ok = cb_work_part(work, part) && encode_part(t, work, options, out);
    }
    ok = ok && pad_parts(t, options, out->items, out->count);
    cb_work_give(work);
    return ok;
}

bool cb_tokenizer_encode(const cb_tokenizer *t, const char *utf8, size_t length, bool add_special_tokens, cb_encoding *out)
{
    cb_encode_options options = {.add_special_tokens = add_special_tokens};
    return cb_tokenizer_encode_with(t, utf8, length, &options, out);
}

/* A byte inside a character counts as that character; the end of the text as one past the last.  The bytes of an affix, as
 * fallback tokens, stand nowhere in the text: what the package makes of theirs is what it does here. */
bool cb_encoding_code_point_spans(cb_encoding *encoding, const char *utf8, size_t length)
{
    if (!encoding->spans)
        return cb_fail(CB_ERR_STATE, "the encoding has no spans; set want_spans before encoding"), false;
    if (length > text_limit)
        return cb_fail(CB_ERR_ARGUMENT, "a text of %zu bytes; the most is %zu", length, text_limit), false;
    uint32_t *index = cb_alloc((length + 1) * sizeof *index);
    if (!index)
        return false;
    uint32_t count = 0;
    for (size_t i = 0; i < length; i++) {
        count += !cb_utf8_continues(utf8[i]);
        index[i] = count - 1;
    }
    index[length] = count;
    for (size_t i = 0; i < encoding->count; i++) {
        cb_token_span *span = &encoding->spans[i];
        uint32_t begin = span->begin, end = span->end;
        if (begin < length)
            *span = (cb_token_span){index[begin], end <= length ? index[end] : index[begin] + 2};
        else if (begin == length && end == length)
            *span = (cb_token_span){count, count};
    }
    cb_free(index);
    return true;
}

/* ---- Decoding ---- */

/* The text of an added token is the one the text was searched for. */
static const char *decoding_text(const cb_tokenizer *t, int32_t id, size_t *length)
{
    const cb_added_token *added = cb_added_get(&t->added, id);
    if (!added)
        return cb_vocab_text(&t->vocab, id, length);
    *length = added->normalized_content ? added->normalized_length : added->length;
    return added->normalized_content ? added->normalized_content : added->content;
}

static bool is_skipped(const cb_tokenizer *t, const char *text, size_t length)
{
    return cb_tokenizer_is_special(t, cb_vocab_find(&t->added.vocab, text, length));
}

bool cb_tokenizer_decode(const cb_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, cb_string *out)
{
    cb_texts in = {0}, made = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        size_t length;
        const char *text = decoding_text(t, ids[i], &length);
        if (!text || (skip_special && is_skipped(t, text, length)))
            continue;
        if (!t->decoder.kind && in.count)
            ok = cb_string_append(&in.data, " ", 1);
        ok = ok && cb_string_append(&in.data, text, length) && cb_texts_close(&in);
    }
    if (ok && t->decoder.kind)
        ok = t->decoder.kind->decode(t->decoder.state, &in, &made);
    const cb_string *text = t->decoder.kind ? &made.data : &in.data;
    ok = ok && cb_string_append(out, text->data ? text->data : "", text->length);
    cb_texts_free(&in);
    cb_texts_free(&made);
    return ok;
}

/* ---- Streaming ---- */

/* Tokens decode differently at the start of a text, so a window of the last ids is decoded again with every new id: `prefix`
 * is the text of those already given out, and what the window's text has beyond it is new. */
struct cb_token_stream {
    const cb_tokenizer *tokenizer;
    bool skip_special;
    int32_t *ids;
    size_t count, capacity;
    size_t given; /* ids of the window whose text was given out */
    cb_string prefix, text;
};

cb_token_stream *cb_token_stream_open(const cb_tokenizer *tokenizer, bool skip_special)
{
    cb_token_stream *stream = cb_calloc(1, sizeof *stream);
    if (stream) {
        stream->tokenizer = tokenizer;
        stream->skip_special = skip_special;
    }
    return stream;
}

static bool ends_broken(const cb_string *text)
{
    return text->length >= 3 && memcmp(text->data + text->length - 3, "\xEF\xBF\xBD", 3) == 0;
}

static bool decode_window(cb_token_stream *s, size_t from, cb_string *out)
{
    cb_string_clear(out);
    return cb_tokenizer_decode(s->tokenizer, s->ids + from, s->count - from, s->skip_special, out);
}

/* Appends what the window's text has beyond the prefix; where a decoder rewrote the prefix, beyond what they share. */
static bool give_text(cb_token_stream *s, cb_string *out)
{
    size_t shared = 0;
    while (shared < s->prefix.length && shared < s->text.length && s->prefix.data[shared] == s->text.data[shared])
        shared++;
    while (shared > 0 && shared < s->text.length && cb_utf8_continues(s->text.data[shared]))
        shared--;
    return shared == s->text.length || cb_string_append(out, s->text.data + shared, s->text.length - shared);
}

bool cb_token_stream_push(cb_token_stream *s, int32_t id, cb_string *out)
{
    if (!cb_grow(&s->ids, &s->capacity, s->count + 1, sizeof *s->ids))
        return false;
    if (s->prefix.length == 0 && s->count) { /* ids without text so far: the window may start behind them */
        if (!decode_window(s, 0, &s->prefix))
            return false;
        if (ends_broken(&s->prefix))
            cb_string_clear(&s->prefix);
        else
            s->given = s->count;
    }
    s->ids[s->count++] = id;
    if (!decode_window(s, 0, &s->text))
        return false;
    if (s->text.length <= s->prefix.length || ends_broken(&s->text))
        return true;
    if (!give_text(s, out))
        return false;
    size_t kept = s->count - s->given;
    memmove(s->ids, s->ids + s->given, kept * sizeof *s->ids);
    s->count = s->given = kept;
    return decode_window(s, 0, &s->prefix);
}

bool cb_token_stream_finish(cb_token_stream *s, cb_string *out)
{
    bool ok = decode_window(s, 0, &s->text) && (s->text.length <= s->prefix.length || give_text(s, out));
    s->count = s->given = 0;
    cb_string_clear(&s->prefix);
    return ok;
}

void cb_token_stream_free(cb_token_stream *s)
{
    if (!s)
        return;
    cb_free(s->ids);
    cb_string_free(&s->prefix);
    cb_string_free(&s->text);
    cb_free(s);
}
