/* tokenizer_wordpiece.c: WordPiece (Schuster and Nakajima 2012; as in BERT): a word is its longest beginning in the vocabulary,
 * then the longest continuation ("##ing"), and so on; a word that cannot be made up this way is unknown as a whole.
 * And WordLevel: every word is one token. */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

typedef struct words {
    cb_trie trie;             /* of WordPiece: the whole vocabulary */
    uint32_t continuing;      /* the trie's node behind the prefix; 0 with `continues`: the root */
    bool continues;           /* some entry starts with the prefix */
    uint32_t most_characters; /* of a word that is looked at */
    char *unk_token;
    size_t unk_length;
    int32_t unk; /* -1: not in the vocabulary */
} words;

static void words_release(void *state)
{
    words *w = state;
    cb_trie_free(&w->trie);
    cb_free(w->unk_token);
}

static bool build_trie(words *w, const cb_vocab *vocab, const char *prefix, size_t prefix_length)
{
    bool ok = cb_vocab_trie(vocab, &w->trie);
    w->continues = w->trie.count > 0;
    for (size_t i = 0; ok && w->continues && i < prefix_length; i++) {
        w->continuing = cb_trie_child(&w->trie, w->continuing, (uint8_t)prefix[i]);
        w->continues = w->continuing != 0;
    }
    return ok;
}

static bool read_unknown(words *w, const cb_source *source, const json_t *object, const char *fallback, const cb_vocab *vocab)
{
    if (!cb_source_string(source, object, "unk_token", fallback, &w->unk_token, &w->unk_length))
        return false;
    w->unk = cb_vocab_find(vocab, w->unk_token, w->unk_length);
    return true;
}

static bool add_unknown(const words *w, cb_work *work, const cb_piece *piece)
{
    if (w->unk < 0)
        return cb_fail(CB_ERR_FORMAT, "%s: model %s: found a word that is not in the vocabulary, and neither is unk_token \"%s\"",
                       work->tokenizer->what, work->tokenizer->model.kind->type, w->unk_token),
               false;
    work->word.count = 0;
    return cb_word_add(work, w->unk, 0, piece->length);
}

/* ---- WordPiece ---- */

static bool wordpiece_parse(cb_model *model, const cb_source *source, const json_t *object, cb_vocab *vocab)
{
    words *w = model->state;
    char *prefix = NULL;
    size_t prefix_length;
    bool ok = cb_vocab_parse(vocab, source, object) && read_unknown(w, source, object, "[UNK]", vocab) &&
              cb_source_count(source, object, "max_input_chars_per_word", 100, &w->most_characters) &&
              cb_source_string(source, object, "continuing_subword_prefix", "##", &prefix, &prefix_length) &&
              build_trie(w, vocab, prefix, prefix_length);
    cb_free(prefix);
    model->cached = true;
    return ok;
}

static bool wordpiece_fits(const json_t *object)
{
    return json_is_object(json_object_get(object, "vocab")) && json_is_integer(json_object_get(object, "max_input_chars_per_word")) &&
           json_is_string(json_object_get(object, "continuing_subword_prefix"));
}

static bool too_long(const words *w, const cb_piece *piece)
{
    if (piece->length <= w->most_characters)
        return false;
    size_t characters = 0;
    for (uint32_t i = 0; i < piece->length; i++)
        characters += !cb_utf8_continues(piece->text[i]);
    return characters > w->most_characters;
}

static bool wordpiece_encode(const void *state, const cb_vocab *vocab, cb_work *work, const cb_piece *piece)
{
    (void)vocab;
    const words *w = state;
    if (too_long(w, piece))
        return add_unknown(w, work, piece);
    for (uint32_t at = 0; at < piece->length;) {
        int32_t id = -1;
        size_t length = 0;
        if (at == 0 || w->continues)
            length = cb_trie_longest(&w->trie, at ? w->continuing : 0, piece->text + at, piece->length - at, &id);
        if (!length)
            return add_unknown(w, work, piece);
        if (!cb_word_add(work, id, at, at + (uint32_t)length))
            return false;
        at += (uint32_t)length;
    }
    return true;
}

const cb_model_kind cb_model_wordpiece = {.type = "WordPiece",
                                          .state_size = sizeof(words),
                                          .parse = wordpiece_parse,
                                          .release = words_release,
                                          .fits = wordpiece_fits,
                                          .encode = wordpiece_encode};

/* ---- WordLevel ---- */

static bool wordlevel_parse(cb_model *model, const cb_source *source, const json_t *object, cb_vocab *vocab)
{
    return cb_vocab_parse(vocab, source, object) && read_unknown(model->state, source, object, "<unk>", vocab);
}

static bool wordlevel_fits(const json_t *object)
{
    return json_is_object(json_object_get(object, "vocab")) && json_is_string(json_object_get(object, "unk_token"));
}

static bool wordlevel_encode(const void *state, const cb_vocab *vocab, cb_work *work, const cb_piece *piece)
{
    int32_t id = cb_vocab_find(vocab, piece->text, piece->length);
    return id < 0 ? add_unknown(state, work, piece) : cb_word_add(work, id, 0, piece->length);
}

const cb_model_kind cb_model_wordlevel = {.type = "WordLevel",
                                          .state_size = sizeof(words),
                                          .parse = wordlevel_parse,
                                          .release = words_release,
                                          .fits = wordlevel_fits,
                                          .encode = wordlevel_encode};
