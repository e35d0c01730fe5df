/* gguf_pre.h: llama.cpp's names of pre-tokenizers. */
#ifndef CB_FORMATS_GGUF_PRE_H
#define CB_FORMATS_GGUF_PRE_H

#include "core/json.h"

enum { CB_GGUF_PRE_NAMES = 18, CB_GGUF_PRE_PATTERNS = 5 };

typedef struct cb_gguf_pre {
    const char *names[CB_GGUF_PRE_NAMES]; /* the first is written */
    const char *patterns[CB_GGUF_PRE_PATTERNS];
    bool ignore_merges; /* a word that is a token is one, whatever the merges say */
    bool add_bos;       /* where the file does not say */
} cb_gguf_pre;

extern const cb_gguf_pre cb_gguf_pres[]; /* ends with a first name NULL */

const cb_gguf_pre *cb_gguf_pre_named(const char *what, const char *name); /* NULL and CB_ERR_UNSUPPORTED: none */
json_t *cb_gguf_pre_json(const cb_gguf_pre *pre);                         /* "pre_tokenizer" of a tokenizer.json */
/* The name of a "pre_tokenizer"; NULL and CB_ERR_UNSUPPORTED: it has none. */
const char *cb_gguf_pre_find(const char *what, const json_t *pre_tokenizer, bool ignore_merges);

#endif
