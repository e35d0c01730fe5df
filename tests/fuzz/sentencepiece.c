/* sentencepiece.c: a tokenizer.model, and a text encoded and decoded with it. */
#include "tokenizer_use.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    cb_tokenizer *t = cb_tokenizer_parse_sentencepiece("tokenizer.model", data, size);
    if (fuzz_expect(t))
        use_tokenizer(t, NULL, 0);
    cb_tokenizer_free(t);
}
