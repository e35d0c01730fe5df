/* llama2c.h: the two halves of a llama2.c model's conversion. */
#ifndef CB_FORMATS_LLAMA2C_H
#define CB_FORMATS_LLAMA2C_H

#include "cambium/formats.h"
#include "core/json.h"

enum { CB_LLAMA2C_UNKNOWN = 0, CB_LLAMA2C_BOS = 1, CB_LLAMA2C_EOS = 2, CB_LLAMA2C_BYTES = 3 }; /* first ids of its vocabularies */

/* The tokenizer.json that encodes as llama2.c does with a tokenizer.bin of `vocab_size` tokens.  Free with json_decref(). */
json_t *cb_llama2c_tokenizer(const char *path, int64_t vocab_size);

#endif
