/* tokenizer_added.c: added tokens (<|endoftext|>, [MASK], ...), which are found in the text before the model sees it.  Those
 * with "normalized": false are looked for in the text as it is, the others in the normalised text.  Two tries find, at the
 * leftmost place, the longest token; matches do not overlap. */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

enum { max_content = 8192, max_added = 1 << 20 };

/* ---- Reading ---- */

const cb_added_token *cb_added_get(const cb_added *added, int32_t id)
{
    return id >= 0 && (size_t)id < added->id_limit && added->by_id[id] >= 0 ? &added->items[added->by_id[id]] : NULL;
}

static bool same_token(const cb_added_token *a, const cb_added_token *b)
{
    return a->single_word == b->single_word && a->lstrip == b->lstrip && a->rstrip == b->rstrip && a->normalized == b->normalized &&
           a->special == b->special;
}

static bool set_by_id(cb_added *added, int32_t id, int32_t item)
{
    if ((size_t)id >= added->id_limit) {
        size_t limit = added->id_limit, capacity = added->id_limit;
        if (!cb_grow(&added->by_id, &capacity, (size_t)id + 1, sizeof *added->by_id))
            return false;
        for (size_t i = limit; i < capacity; i++)
            added->by_id[i] = -1;
        added->id_limit = capacity;
    }
    added->by_id[id] = item;
    return true;
}

static bool normalize_content(cb_tokenizer *tokenizer, cb_added_token *token)
{
    if (!token->normalized || !tokenizer->normalizer.kind)
        return true;
    cb_work *work = cb_work_take(tokenizer);
    if (!work)
        return false;
    cb_piece piece = {.text = token->content, .length = (uint32_t)token->length, .original_length = (uint32_t)token->length, .token = -1};
    bool ok = tokenizer->normalizer.kind->normalize(tokenizer->normalizer.state, work, &piece);
    if (ok && (piece.length != token->length || memcmp(piece.text, token->content, token->length) != 0)) {
        token->normalized_content = cb_strndup(piece.text, piece.length);
        token->normalized_length = piece.length;
        ok = token->normalized_content != NULL;
    }
    cb_work_give(work);
    return ok;
}

static bool token_flag(const char *what, const json_t *object, const char *key, bool *out)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_boolean(value))
        return cb_fail(CB_ERR_FORMAT, "%s: added_tokens: \"%s\" must be true or false", what, key), false;
    *out = json_is_true(value);
    return true;
}

/* Reads one token.  As in the package its id is the vocabulary's, or else the next free one; the file's own is not used. */
static bool add_token(cb_tokenizer *tokenizer, const char *what, const json_t *object, int32_t *next_id)
{
    cb_added *added = &tokenizer->added;
    cb_added_token token = {0};
    const json_t *content = json_object_get(object, "content");
    if (!json_is_string(content))
        return cb_fail(CB_ERR_FORMAT, "%s: an added token has no \"content\"", what), false;
    token.length = json_string_length(content);
    if (token.length > max_content)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: an added token has %zu bytes; the most is %d", what, token.length, max_content), false;
    if (!token_flag(what, object, "single_word", &token.single_word) || !token_flag(what, object, "lstrip", &token.lstrip) ||
        !token_flag(what, object, "rstrip", &token.rstrip) || !token_flag(what, object, "normalized", &token.normalized) ||
        !token_flag(what, object, "special", &token.special))
        return false;
    if (token.length == 0)
        return true;
    const char *text = json_string_value(content);
    token.id = cb_vocab_find(&added->vocab, text, token.length);
    const cb_added_token *before = cb_added_get(added, token.id);
    if (before && before->length == token.length && memcmp(before->content, text, token.length) == 0 && same_token(before, &token))
        return true;
    if (token.id < 0)
        token.id = cb_vocab_find(&tokenizer->vocab, text, token.length);
    if (token.id < 0)
        token.id = (*next_id)++;
    if (!cb_grow(&added->items, &added->capacity, added->count + 1, sizeof *added->items))
        return false;
    token.content = cb_strndup(text, token.length);
    if (!token.content)
        return false;
    added->items[added->count++] = token;
    return normalize_content(tokenizer, &added->items[added->count - 1]) && set_by_id(added, token.id, (int32_t)added->count - 1) &&
           cb_vocab_add(&added->vocab, text, token.length, token.id);
}

/* Of the tokens that are looked for before normalising, or after. */
static bool build_trie(cb_added *added, bool normalized)
{
    cb_trie_key *keys = cb_alloc((added->count + 1) * sizeof *keys);
    if (!keys)
        return false;
    size_t count = 0;
    for (size_t i = 0; i < added->count; i++) {
        const cb_added_token *token = &added->items[i];
        if (token->normalized != normalized || added->by_id[token->id] != (int32_t)i) /* a later token may have taken its id */
            continue;
        bool changed = token->normalized_content != NULL;
        keys[count++] = (cb_trie_key){.text = changed ? token->normalized_content : token->content,
                                      .length = (uint32_t)(changed ? token->normalized_length : token->length),
                                      .value = (int32_t)i};
    }
    bool ok = cb_trie_build(normalized ? &added->normalized : &added->raw, keys, count);
    cb_free(keys);
    return ok;
}

bool cb_added_parse(cb_tokenizer *tokenizer, const char *what, const json_t *list)
{
    cb_added *added = &tokenizer->added;
    if (!list || json_is_null(list))
        return true;
    if (!json_is_array(list) || json_array_size(list) > max_added)
        return cb_fail(CB_ERR_FORMAT, "%s: added_tokens must be a list of at most %d tokens", what, max_added), false;
    int32_t next_id = (int32_t)tokenizer->vocab.listed;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!add_token(tokenizer, what, json_array_get(list, i), &next_id))
            return false;
    return build_trie(added, false) && build_trie(added, true);
}

void cb_added_free(cb_added *added)
{
    for (size_t i = 0; i < added->count; i++) {
        cb_free(added->items[i].content);
        cb_free(added->items[i].normalized_content);
    }
    cb_free(added->items);
    cb_free(added->by_id);
    cb_vocab_free(&added->vocab);
    cb_trie_free(&added->raw);
    cb_trie_free(&added->normalized);
}

/* ---- Cutting ---- */

static unsigned flags_before(const char *text, size_t end)
{
    unsigned size;
    do
        end--;
    while (end > 0 && cb_utf8_continues(text[end]));
    return cb_code_flags[cb_utf8_read(text + end, &size)];
}

static unsigned flags_after(const char *text, size_t at)
{
    unsigned size;
    return cb_code_flags[cb_utf8_read(text + at, &size)];
}

static size_t strip_left(const char *text, size_t begin)
{
    while (begin > 0 && (flags_before(text, begin) & CB_CODE_RUST_SPACE)) {
        do
            begin--;
        while (cb_utf8_continues(text[begin]));
    }
    return begin;
}

static size_t strip_right(const char *text, size_t end, size_t length)
{
    while (end < length && (flags_after(text, end) & CB_CODE_RUST_SPACE)) {
        do
            end++;
        while (end < length && cb_utf8_continues(text[end]));
    }
    return end;
}

static bool push_slice(cb_work *work, const cb_piece *piece, size_t begin, size_t end, int32_t token)
{
    cb_piece slice = cb_piece_slice(piece, (uint32_t)begin, (uint32_t)end);
    slice.token = token;
    return cb_work_push(work, &slice);
}

static bool split_piece(cb_work *work, const cb_piece *piece, const cb_trie *trie)
{
    const cb_added *added = &work->tokenizer->added;
    const char *text = piece->text;
    size_t length = piece->length, last = 0, found;
    int32_t item = -1;
    for (size_t at = 0; at < length; at += found) {
        found = cb_trie_longest(trie, 0, text + at, length - at, &item);
        if (!found) {
            found = 1;
            continue;
        }
        const cb_added_token *token = &added->items[item];
        size_t begin = at, end = at + found;
        if (token->single_word && ((begin > 0 && (flags_before(text, begin) & CB_CODE_RUST_WORD)) ||
                                   (end < length && (flags_after(text, end) & CB_CODE_RUST_WORD))))
            continue;
        if (token->lstrip) {
            begin = strip_left(text, begin);
            begin = begin > last ? begin : last;
        }
        if (begin >= end) /* within the white space that the one before took; the package panics here */
            continue;
        if (token->rstrip)
            end = strip_right(text, end, length);
        if (last < begin && !push_slice(work, piece, last, begin, -1))
            return false;
        if (!push_slice(work, piece, begin, end, token->id))
            return false;
        last = end;
    }
    return last == length || push_slice(work, piece, last, length, -1);
}

bool cb_added_split(cb_work *work, bool normalize)
{
    const cb_tokenizer *tokenizer = work->tokenizer;
    const cb_trie *trie = normalize ? &tokenizer->added.normalized : &tokenizer->added.raw;
    work->next.count = 0;
    for (size_t i = 0; i < work->pieces.count; i++) {
        cb_piece piece = work->pieces.items[i];
        if (normalize && piece.token < 0 && tokenizer->normalizer.kind &&
            !tokenizer->normalizer.kind->normalize(tokenizer->normalizer.state, work, &piece))
            return false;
        if (piece.token < 0 && piece.alignment) /* what it stands for now begins where its first character came from */
            piece = cb_piece_slice(&piece, 0, piece.length);
        if (piece.token >= 0 || !trie->count ? !cb_work_push(work, &piece) : !split_piece(work, &piece, trie))
            return false;
    }
    cb_work_swap(work);
    return true;
}
