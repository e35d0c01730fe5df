/* tokenizer_readers.h: other files than tokenizer.json that hold a tokenizer; each reader gives the JSON of one. */
#ifndef CB_FORMATS_TOKENIZER_READERS_H
#define CB_FORMATS_TOKENIZER_READERS_H

#include <jansson.h>

#include "cambium/tokenizer.h"

/* `what` names the file in messages; config: of tokenizer_config.json, specials: of special_tokens_map.json, or NULL.  Free the
 * result with json_decref(); NULL on failure. */
json_t *cb_tokenizer_json_of_sentencepiece(const char *what, const void *bytes, size_t length, const json_t *config,
                                           const json_t *specials);
json_t *cb_tokenizer_json_of_wordpiece(const char *what, const char *vocab_txt, size_t length, const json_t *config,
                                       const json_t *specials);
json_t *cb_tokenizer_json_of_bpe(const char *what, const json_t *vocab, const char *merges_txt, size_t length, const json_t *config,
                                 const json_t *specials);

/* The tokenizer of a directory without tokenizer.json, or of one of these files; CB_ERR_IO when there is none. */
json_t *cb_tokenizer_json_of_path(const char *path, const json_t *config, const json_t *specials);
/* Does the directory hold one of these files? */
bool cb_tokenizer_json_finds(const char *directory);

/* A tokenizer of JSON as it is in memory. */
cb_tokenizer *cb_tokenizer_of_json(const char *what, const json_t *root);

#endif
