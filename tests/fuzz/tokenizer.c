/* tokenizer.c: a tokenizer.json, and a text encoded and decoded with it: what follows a NUL byte of the input. */
#include <string.h>

#include "tokenizer_use.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data, *nul = size ? memchr(json, 0, size) : NULL;
    size_t length = nul ? (size_t)(nul - json) : size;
    cb_tokenizer *t = cb_tokenizer_parse("tokenizer.json", json, length);
    if (fuzz_expect(t))
        use_tokenizer(t, nul ? nul + 1 : NULL, nul ? size - length - 1 : 0);
    cb_tokenizer_free(t);
}
