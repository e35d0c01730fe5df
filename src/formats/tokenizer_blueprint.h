/* tokenizer_blueprint.h: what the readers of other files than tokenizer.json make: the parts of a tokenizer.json.  The added
 * tokens and the template follow transformers, which builds its tokenizers from the same files.
 *
 *     cb_blueprint b = {.what = path, .config = config, .specials = specials};
 *     cb_vocab_add(&b.vocab, ...); b.model = ...; b.normalizer = ...;
 *     ok = cb_blueprint_add_tokens(&b, defaults) && cb_blueprint_template(&b, single, pair);
 *     json_t *json = cb_blueprint_finish(&b, ok);           // NULL on failure; releases the rest */
#ifndef CB_FORMATS_TOKENIZER_BLUEPRINT_H
#define CB_FORMATS_TOKENIZER_BLUEPRINT_H

#include "formats/tokenizer_parts.h"

typedef struct cb_blueprint {
    const char *what;
    const json_t *config;                                                  /* of tokenizer_config.json; NULL: none */
    const json_t *specials;                                                /* of special_tokens_map.json; NULL: none */
    cb_vocab vocab;                                                        /* texts and ids of the model */
    json_t *model, *normalizer, *pre_tokenizer, *post_processor, *decoder; /* owned; NULL: none */
    json_t *added;                                                         /* tokens, in the order of adding */
    cb_vocab added_ids;
    size_t fixed; /* tokens of added_tokens_decoder */
    int32_t next_id;
    bool mask_lstrip; /* a mask_token of which the files say no more than its text takes the white space in front */
} cb_blueprint;

/* tokenizer_class of the config; NULL: none.  Is it this one, or the Fast one of it? */
const char *cb_blueprint_class(const cb_blueprint *b);
bool cb_blueprint_is(const char *class, const char *name);
/* Refuses classes of transformers that would make other tokens of the same files than what stands for an unknown class. */
bool cb_blueprint_check_class(const cb_blueprint *b, const char *class);

/* The special tokens by name ("bos_token"), as a kind of tokenizer has them unless the files say otherwise; ends with NULL. */
typedef struct cb_special_default {
    const char *name, *content;
} cb_special_default;

/* Text of a special token: of the files, or else the default; NULL: there is none. */
const char *cb_blueprint_special(const cb_blueprint *b, const cb_special_default *defaults, const char *name);
/* Adds one token unless it was added before.  `flags`: an object as in the files, or NULL: of a plain special token. */
bool cb_blueprint_add(cb_blueprint *b, const char *content, const json_t *flags, bool special);
/* The same, but the flags given now count, unless added_tokens_decoder gave some. */
bool cb_blueprint_add_extra(cb_blueprint *b, const char *content, const json_t *flags, bool special);
/* Adds the tokens of added_tokens_decoder, the special tokens and the additional ones. */
bool cb_blueprint_add_tokens(cb_blueprint *b, const cb_special_default *defaults);
int32_t cb_blueprint_id(const cb_blueprint *b, const char *content); /* -1: none */

/* A template such as [CLS] $A [SEP], for one text and for a pair. */
typedef struct cb_template_part {
    const char *text; /* "$A", "$B" or a special token; NULL: nothing */
    int type;
} cb_template_part;
enum { CB_TEMPLATE_PARTS = 8 };
bool cb_blueprint_template(cb_blueprint *b, const cb_template_part single[CB_TEMPLATE_PARTS],
                           const cb_template_part pair[CB_TEMPLATE_PARTS]);

/* The vocabulary as an object of texts and ids. */
json_t *cb_blueprint_vocab(const cb_blueprint *b);
/* JSON of constant text. */
json_t *cb_blueprint_part(const char *text);
json_t *cb_blueprint_finish(cb_blueprint *b, bool ok);

/* The pairs that make up pieces, best first: every way to cut a piece in two others.  by_score: the highest score is best, of equal ones
 * the first id; else the first id is.  Which of one piece's cuts comes first SentencePiece does not say, since it looks for the first place
 * in the text instead; as in transformers it is the longest left part with scores, the shortest without. */
typedef struct cb_merge_piece {
    const char *text;
    size_t length;
    double score;
    int32_t id;
} cb_merge_piece;
json_t *cb_merges_of_pieces(const cb_merge_piece *pieces, size_t count, bool by_score);

#endif
