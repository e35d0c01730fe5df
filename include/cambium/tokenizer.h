/* tokenizer.h: text to token ids and back, for the tokenizer.json files of the Hugging Face ecosystem (version 1.0), for
 * SentencePiece models and for the vocabularies of BERT, GPT-2 and their kin.
 *
 *     cb_tokenizer *t = cb_tokenizer_load("model-directory");
 *     cb_encoding e = {0};
 *     cb_tokenizer_encode(t, "Hello world", 11, true, &e);     // e.ids[0 .. e.count)
 *     cb_string text = {0};
 *     cb_tokenizer_decode(t, e.ids, e.count, true, &text);
 *     cb_encoding_free(&e); cb_string_free(&text); cb_tokenizer_free(t);
 *
 * Ids, offsets and decoded text equal those of the `tokenizers` package 0.2x on every text.  A loaded tokenizer is constant:
 * any number of threads may encode and decode with it at once.  Text is UTF-8 of at most 1 GiB per call; ill-formed text is
 * CB_ERR_FORMAT with the byte offset. */
#ifndef CAMBIUM_TOKENIZER_H
#define CAMBIUM_TOKENIZER_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_tokenizer cb_tokenizer;

/* ---- Loading and saving ---- */

/* Reads a model directory (tokenizer.json and, where present, tokenizer_config.json, special_tokens_map.json and
 * the files of chat templates) or one tokenizer.json.  In a directory without it, the first there is of tokenizer.model, spiece.model,
 * sentencepiece.bpe.model, sentencepiece.model (SentencePiece), vocab.json with merges.txt, vocab.txt (WordPiece); what goes
 * around their vocabulary follows tokenizer_class in tokenizer_config.json, as in transformers 5.  A path may also name one of
 * these files, or a GGUF file.  NULL and an error that names file and field when the file is damaged, or CB_ERR_UNSUPPORTED when it uses a
 * component this build does not have.  Free with cb_tokenizer_free(). */
CB_API cb_tokenizer *cb_tokenizer_load(const char *path);
/* The same from the text of a tokenizer.json; `what` names it in messages. */
CB_API cb_tokenizer *cb_tokenizer_parse(const char *what, const char *json, size_t length);
/* The same from a SentencePiece model in memory, by the model's own settings: ids are those of the sentencepiece package. */
CB_API cb_tokenizer *cb_tokenizer_parse_sentencepiece(const char *what, const void *bytes, size_t length);
CB_API void cb_tokenizer_free(cb_tokenizer *tokenizer); /* NULL is allowed */
/* Writes a tokenizer.json, atomically: the very JSON it was loaded from, or what another file was turned into. */
CB_API bool cb_tokenizer_save(const cb_tokenizer *tokenizer, const char *path);
/* The same as tokenizer.json of directory `to`, with what `from`, where that is a directory, has of tokenizer_config.json,
 * special_tokens_map.json and chat templates.  `tokenizer` may be NULL: only those are copied. */
CB_API bool cb_tokenizer_save_directory(const cb_tokenizer *tokenizer, const char *from, const char *to);

/* ---- Encoding ---- */

/* Where a token stands in the text it came from: bytes [begin, end).  Special tokens that were added have 0, 0. */
typedef struct cb_token_span {
    uint32_t begin, end;
} cb_token_span;

/* The tokens of a text.  Zero-initialise, set want_spans if spans are wanted, reuse for any number of texts. */
typedef struct cb_encoding {
    int32_t *ids;         /* count */
    uint8_t *type_ids;    /* count: 0 for the first text, 1 for the second of a pair, or what the template says */
    uint8_t *special;     /* count: 1 for a token that was added (by the template or as padding) and is not of the text */
    cb_token_span *spans; /* count; NULL unless want_spans */
    size_t count, capacity;
    size_t pad_left, pad_right; /* how many tokens at either end are padding */
    bool want_spans;
} cb_encoding;
CB_API void cb_encoding_free(cb_encoding *encoding);

/* Several encodings; zero-initialise, set want_spans if spans are wanted, reuse. */
typedef struct cb_encodings {
    cb_encoding *items; /* count, all kept for reuse up to capacity */
    size_t count, capacity;
    bool want_spans;
} cb_encodings;
CB_API void cb_encodings_free(cb_encodings *encodings);

/* How texts are shortened. */
typedef enum cb_truncation_strategy { CB_TRUNCATE_LONGEST_FIRST, CB_TRUNCATE_ONLY_FIRST, CB_TRUNCATE_ONLY_SECOND } cb_truncation_strategy;
typedef struct cb_truncation {
    size_t max_length; /* tokens, special ones included */
    size_t stride;     /* tokens that a part shares with the part before it; less than what a part holds of the text */
    cb_truncation_strategy strategy;
    bool left; /* the end is kept */
} cb_truncation;

/* How encodings are made equally long. */
typedef struct cb_padding {
    size_t length;   /* tokens; longer encodings stay as they are */
    bool longest;    /* to the longest of the batch instead */
    size_t multiple; /* rounded up to a multiple of this; 0: as it is */
    int32_t id;
    uint8_t type_id;
    bool left; /* padding comes first */
} cb_padding;

/* Encodes `length` bytes of UTF-8; with add_special_tokens the file's template adds its own (<s>, [CLS], ...).  The file's
 * truncation and padding sections are not applied; see cb_tokenizer_encode_with(). */
CB_API bool cb_tokenizer_encode(const cb_tokenizer *tokenizer, const char *utf8, size_t length, bool add_special_tokens, cb_encoding *out);

typedef struct cb_encode_options {
    bool add_special_tokens;
    const char *pair; /* second text, or NULL */
    size_t pair_length;
    bool truncate;                   /* apply the file's truncation section, if it has one */
    bool pad;                        /* apply the file's padding section, if it has one, as to a batch of this one text */
    size_t max_length;               /* over 0: no more tokens than this; without other truncation longest first, from the right */
    const cb_truncation *truncation; /* instead of the file's; NULL: none */
    const cb_padding *padding;       /* instead of the file's; NULL: none */
} cb_encode_options;
CB_API bool cb_tokenizer_encode_with(const cb_tokenizer *tokenizer, const char *utf8, size_t length, const cb_encode_options *options,
                                     cb_encoding *out);
/* The same with what truncation cuts off: items[0] is the encoding, then come the other parts of the text, each with its special
 * tokens and padding (`overflowing` of the package; of a pair every part of the first with every part of the second). */
CB_API bool cb_tokenizer_encode_parts(const cb_tokenizer *tokenizer, const char *utf8, size_t length, const cb_encode_options *options,
                                      cb_encodings *out);
/* Pads a batch of encodings. */
CB_API bool cb_encodings_pad(cb_encoding *items, size_t count, const cb_padding *padding);

/* The file's own sections; false: it has none. */
CB_API bool cb_tokenizer_truncation(const cb_tokenizer *tokenizer, cb_truncation *out);
CB_API bool cb_tokenizer_padding(const cb_tokenizer *tokenizer, cb_padding *out);

/* Turns byte spans into spans of code points, in place, as the Python package reports them.  `utf8` is the text encoded. */
CB_API bool cb_encoding_code_point_spans(cb_encoding *encoding, const char *utf8, size_t length);

/* ---- Decoding ---- */

/* Appends the text of n ids to out (ids outside the vocabulary are skipped; special tokens too when asked). */
CB_API bool cb_tokenizer_decode(const cb_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special, cb_string *out);

/* Decoding as ids arrive: a push appends whatever has become certain, always whole code points. */
typedef struct cb_token_stream cb_token_stream;
CB_API cb_token_stream *cb_token_stream_open(const cb_tokenizer *tokenizer, bool skip_special);
CB_API bool cb_token_stream_push(cb_token_stream *stream, int32_t id, cb_string *out);
CB_API bool cb_token_stream_finish(cb_token_stream *stream, cb_string *out); /* what was held back, U+FFFD for broken bytes */
CB_API void cb_token_stream_free(cb_token_stream *stream);                   /* NULL is allowed */

/* ---- The vocabulary ---- */

CB_API size_t cb_tokenizer_vocab_size(const cb_tokenizer *tokenizer);             /* with added tokens, each text counted once */
CB_API int32_t cb_tokenizer_id_limit(const cb_tokenizer *tokenizer);              /* one more than the largest id */
CB_API int32_t cb_tokenizer_id(const cb_tokenizer *tokenizer, const char *token); /* -1: no such token */
CB_API const char *cb_tokenizer_token(const cb_tokenizer *tokenizer, int32_t id); /* as in the file; NULL: no such id */
CB_API bool cb_tokenizer_is_special(const cb_tokenizer *tokenizer, int32_t id);

/* From tokenizer_config.json or special_tokens_map.json; -1 when not given. */
CB_API int32_t cb_tokenizer_bos(const cb_tokenizer *tokenizer);
CB_API int32_t cb_tokenizer_eos(const cb_tokenizer *tokenizer);
CB_API int32_t cb_tokenizer_pad(const cb_tokenizer *tokenizer);
CB_API int32_t cb_tokenizer_unk(const cb_tokenizer *tokenizer);
CB_API int32_t cb_tokenizer_mask(const cb_tokenizer *tokenizer); /* where not given, [MASK] or <mask>, if there is such a token */
/* add_bos_token / add_eos_token of tokenizer_config.json: 0, 1, or -1 when not given.  The template of tokenizer.json already
 * says what encoding adds; these are for a prompt that is put together by hand. */
CB_API int cb_tokenizer_add_bos(const cb_tokenizer *tokenizer);
CB_API int cb_tokenizer_add_eos(const cb_tokenizer *tokenizer);
/* The Jinja template of a conversation (the one named "default" of several), or NULL. */
CB_API const char *cb_tokenizer_chat_template(const cb_tokenizer *tokenizer);
/* One of several by its name (of tokenizer_config.json's list, or additional_chat_templates/NAME.jinja), or NULL. */
CB_API const char *cb_tokenizer_chat_template_named(const cb_tokenizer *tokenizer, const char *name);
/* model_max_length; 0 when not given or not a sensible number. */
CB_API int64_t cb_tokenizer_model_max_length(const cb_tokenizer *tokenizer);

/* BPE dropout (a model with "dropout" over 0) draws from this seed and the text; the default seed is 0. */
CB_API void cb_tokenizer_seed(cb_tokenizer *tokenizer, uint64_t seed);

/* ---- Training ---- */

typedef struct cb_tokenizer_train_config {
    int64_t vocab_size;            /* special tokens and the 256 bytes included */
    int64_t min_frequency;         /* a pair seen less often is not merged */
    cb_string_list special_tokens; /* get the first ids, in this order */
    int pattern;                   /* how text is cut into words: CB_PATTERN_GPT2 or CB_PATTERN_LLAMA3 */
    bool add_prefix_space;
    int post_processor; /* what goes around texts: nothing; <s> A </s> and <s> A </s></s> B </s>; or [CLS] A [SEP] and [CLS] A [SEP] B [SEP].
                         * These tokens must be among the special ones */
} cb_tokenizer_train_config;
enum { CB_PATTERN_GPT2, CB_PATTERN_LLAMA3 };
enum { CB_AROUND_NOTHING, CB_AROUND_ROBERTA, CB_AROUND_BERT };
extern CB_API const cb_option cb_tokenizer_train_options[]; /* defaults: 32000, 2, none, gpt2, false, none */

/* Gives the next text (any length; a word never crosses two texts), or false at the end or on failure. */
typedef bool cb_text_iterator(void *user, const char **utf8, size_t *length);

/* Trains byte-level BPE (Sennrich et al. 2016 over GPT-2's byte alphabet) and writes a tokenizer.json that the `tokenizers`
 * package loads.  The merges equal its BpeTrainer's: the most frequent pair first, of equals the one with the smaller ids. */
CB_API bool cb_tokenizer_train(const cb_tokenizer_train_config *config, cb_text_iterator *next, void *user, const char *path);

#ifdef __cplusplus
}
#endif
#endif
