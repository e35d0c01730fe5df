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

/* The package cuts into overlapping windows, of which this keeps the first, and needs `stride` below their length. */
static bool cut_tokens(cb_tokens *tokens, size_t count, size_t stride, bool left)
{
    if (count >= tokens->count)
        return true;
    if (count && stride >= count)
        return cb_fail(CB_ERR_ARGUMENT, "truncation to %zu tokens besides the special ones: stride is %zu; it must be less", count, stride),
               false;
    if (left)
        memmove(tokens->items, tokens->items + (tokens->count - count), count * sizeof *tokens->items);
    tokens->count = count;
    if (count)
        tokens->items[0].first = 1;
    return true;
}

/* Shortens the sequences so that both together have at most `limit` tokens. */
static bool truncate_sequences(cb_work *work, size_t limit, const cb_truncation *how)
{
    cb_tokens *first = &work->sequence[0], *second = &work->sequence[1];
    size_t a = first->count, b = work->pair ? second->count : 0;
    if (a + b <= limit)
        return true;
    if (limit == 0)
        return cut_tokens(first, 0, 0, how->left) && cut_tokens(second, 0, 0, how->left);
    size_t excess = a + b - limit;
    if (how->strategy) {
        cb_tokens *target = how->strategy == 1 ? first : second;
        if (how->strategy == 2 && !work->pair)
            return cb_fail(CB_ERR_ARGUMENT, "truncation of the second text: there is only one"), false;
        if (target->count <= excess)
            return cb_fail(CB_ERR_ARGUMENT, "truncation: a text of %zu tokens cannot lose %zu", target->count, excess), false;
        return cut_tokens(target, target->count - excess, how->stride, how->left);
    }
    if (!work->pair)
        return cut_tokens(first, limit, how->stride, how->left);
    size_t shorter = a < b ? a : b, longer;
    longer = shorter > limit || shorter > limit - shorter ? shorter : limit - shorter;
    if (shorter + longer > limit) {
        shorter = limit / 2;
        longer = shorter + limit % 2;
    }
    return cut_tokens(first, a > b ? longer : shorter, how->stride, how->left) &&
           cut_tokens(second, a > b ? shorter : longer, how->stride, how->left);
}

static bool truncate_by_options(const cb_tokenizer *t, cb_work *work, const cb_encode_options *options)
{
    size_t added = 0;
    if (options->add_special_tokens && t->post_processor.kind && t->post_processor.kind->added)
        added = t->post_processor.kind->added(t->post_processor.state, work->pair);
    if (options->truncate && t->truncation.given) {
        size_t limit = t->truncation.max_length > added ? t->truncation.max_length - added : 0;
        if (!truncate_sequences(work, limit, &t->truncation))
            return false;
    }
    if (!options->max_length)
        return true;
    static const cb_truncation longest_first_from_the_right = {.given = true};
    return truncate_sequences(work, options->max_length > added ? options->max_length - added : 0, &longest_first_from_the_right);
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

static bool write_encoding(const cb_tokenizer *t, const cb_work *work, const cb_encode_options *options, cb_encoding *out)
{
    size_t count = work->sequence[0].count + (work->pair ? work->sequence[1].count : 0), total = count;
    if (options->pad && t->padding.given) {
        size_t target = t->padding.is_fixed ? t->padding.fixed : count;
        if (t->padding.multiple && target % t->padding.multiple)
            target += t->padding.multiple - target % t->padding.multiple;
        total = target > count ? target : count;
    }
    out->count = 0;
    if (!reserve(out, total ? total : 1))
        return false;
    cb_token pad = {.id = t->padding.id, .type = (uint8_t)t->padding.type_id, .special = 1};
    for (size_t i = count; i < total && t->padding.left; i++)
        put_token(out, &pad);
    for (unsigned which = 0; which <= (unsigned)work->pair; which++)
        for (size_t i = 0; i < work->sequence[which].count; i++)
            put_token(out, &work->sequence[which].items[i]);
    while (out->count < total)
        put_token(out, &pad);
    return true;
}

bool cb_tokenizer_encode_with(const cb_tokenizer *t, const char *utf8, size_t length, const cb_encode_options *options, cb_encoding *out)
{
    cb_work *work = cb_work_take(t);
    if (!work)
        return false;
    work->spans = out->want_spans;
    work->pair = false;
    work->sequence[1].count = 0;
    bool ok = !options->pair || encode_sequence(t, work, options->pair, options->pair_length, 1);
    ok = ok && encode_sequence(t, work, utf8, length, 0);
    work->pair = options->pair != NULL;
    ok = ok && truncate_by_options(t, work, options);
    if (ok && t->post_processor.kind)
        ok = t->post_processor.kind->process(t->post_processor.state, work, options->add_special_tokens);
    ok = ok && write_encoding(t, work, options, out);
    cb_work_give(work);
    return ok;
}

bool cb_tokenizer_encode(const cb_tokenizer *t, const char *utf8, size_t length, bool add_special_tokens, cb_encoding *out)
{
    cb_encode_options options = {.add_special_tokens = add_special_tokens};
    return cb_tokenizer_encode_with(t, utf8, length, &options, out);
}

/* A byte inside a character counts as that character; the end of the text as one past the last. */
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
        span->begin = index[span->begin < length ? span->begin : length];
        span->end = index[span->end < length ? span->end : length];
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
