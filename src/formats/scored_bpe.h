/* scored_bpe.h: a BPE vocabulary with scores, as SentencePiece keeps it, in the form of a tokenizer.json.
 *
 * SentencePiece joins the neighbours whose joined text has the best score; a tokenizer.json wants a list of pairs instead, best first.
 * The list is every way to cut a token into two others, by the token's score (cb_merges_of_pieces). */
#ifndef CB_FORMATS_SCORED_BPE_H
#define CB_FORMATS_SCORED_BPE_H

#include "core/json.h"

typedef struct cb_scored_token {
    char *text; /* owned */
    size_t length;
    float score;
    int64_t id;
    bool joins; /* takes part in merges: no control or byte token */
} cb_scored_token;

typedef struct cb_scored_vocabulary {
    cb_scored_token *tokens; /* by id */
    size_t count;
} cb_scored_vocabulary;

void cb_scored_free(cb_scored_vocabulary *v);
/* The "model" of a tokenizer.json: vocabulary and merges, with byte fallback.  Of two tokens with one text the first counts. */
json_t *cb_scored_model(const cb_scored_vocabulary *v, const char *unk_token);
/* The merges alone. */
json_t *cb_scored_merges(const cb_scored_vocabulary *v);
/* The parts around it.  prefix: a blank goes in front of a text and is taken away again. */
json_t *cb_scored_normalizer(bool prefix);
json_t *cb_scored_decoder(bool prefix);

/* One entry of "added_tokens". */
json_t *cb_added_token_json(int64_t id, const char *text, bool special);
/* A post-processor that puts these tokens around a text; either may be NULL.  JSON null when both are. */
json_t *cb_template_json(const char *bos, int64_t bos_id, const char *eos, int64_t eos_id);

#endif
