/* tokenizer_words.c: from the pieces of a text to the model's tokens, with a memory of words.  A text is mostly made of words
 * seen before; a table of fixed size, one for each thread that encodes, holds the last word of each hash and its tokens. */
#include <string.h>

#include "formats/tokenizer_parts.h"

enum { word_count = 1 << 14, word_bytes = 54, word_tokens = 14 };

/* A word and its tokens, one behind the other; two cache lines. */
typedef struct cb_cached_word {
    uint8_t length; /* of the word; 0: free */
    uint8_t count, byte_level, spare;
    char text[word_bytes];
    uint8_t lengths[word_tokens]; /* bytes of each token */
    int32_t ids[word_tokens];
} cb_cached_word;

bool cb_word_add(cb_work *work, int32_t id, uint32_t begin, uint32_t end)
{
    cb_word *word = &work->word;
    if (word->count == word->capacity && !cb_grow(&word->items, &word->capacity, word->count + 1, sizeof *word->items))
        return false;
    word->items[word->count++] = (cb_word_token){id, begin, end};
    return true;
}

static void remember(cb_cached_word *entry, const cb_piece *piece, const cb_word *word)
{
    uint32_t at = 0;
    if (word->count > word_tokens)
        return;
    for (size_t i = 0; i < word->count; at = word->items[i++].end)
        if (word->items[i].begin != at || word->items[i].end - at > UINT8_MAX)
            return;
    entry->length = (uint8_t)piece->length;
    entry->count = (uint8_t)word->count;
    entry->byte_level = piece->byte_level;
    memcpy(entry->text, piece->text, piece->length);
    for (size_t i = 0; i < word->count; i++) {
        entry->ids[i] = word->items[i].id;
        entry->lengths[i] = (uint8_t)(word->items[i].end - word->items[i].begin);
    }
}

static bool emit_cached(cb_work *work, const cb_piece *piece, const cb_cached_word *entry)
{
    uint32_t at = 0;
    for (size_t i = 0; i < entry->count; at += entry->lengths[i++])
        if (!cb_work_emit(work, piece, entry->ids[i], at, at + entry->lengths[i]))
            return false;
    return true;
}

bool cb_work_tokenize(cb_work *work, const cb_piece *piece)
{
    const cb_tokenizer *t = work->tokenizer;
    cb_cached_word *entry = NULL;
    if (t->model.cached && piece->length <= word_bytes) {
        if (!work->words && !(work->words = cb_calloc(word_count, sizeof *work->words)))
            return false;
        entry = &work->words[cb_hash_bytes(piece->text, piece->length) & (word_count - 1)];
        if (entry->length == piece->length && entry->byte_level == piece->byte_level &&
            memcmp(entry->text, piece->text, piece->length) == 0)
            return emit_cached(work, piece, entry);
    }
    work->word.count = 0;
    if (!t->model.kind->encode(t->model.state, &t->vocab, work, piece))
        return false;
    for (size_t i = 0; i < work->word.count; i++)
        if (!cb_work_emit(work, piece, work->word.items[i].id, work->word.items[i].begin, work->word.items[i].end))
            return false;
    if (entry)
        remember(entry, piece, &work->word);
    return true;
}
