/* vocabulary.c: the files of older tokenizers.  The first byte of the input says which file the rest is; merges.txt stands beside a good
 * vocab.json and the other way about. */
#include "cambium/core.h"
#include "tokenizer_use.h"

#define GPT2 "tests/reference/tokenizers/files/gpt2/"

void fuzz_target(const uint8_t *data, size_t size)
{
    static const struct {
        char byte;
        const char *directory, *file;
    } kinds[] = {{'t', "text", "text/vocab.txt"}, {'v', "vocab", "vocab/vocab.json"}, {'m', "merges", "merges/merges.txt"}};
    static bool linked;
    if (!linked) {
        fuzz_link("vocab/merges.txt", GPT2 "merges.txt");
        fuzz_link("merges/vocab.json", GPT2 "vocab.json");
    }
    linked = true;
    for (int i = 0; size && i < 3; i++) {
        if (data[0] != (uint8_t)kinds[i].byte)
            continue;
        fuzz_file(kinds[i].file, data + 1, size - 1);
        cb_tokenizer *t = cb_tokenizer_load(fuzz_path(kinds[i].directory));
        if (fuzz_expect(t))
            use_tokenizer(t, NULL, 0);
        cb_tokenizer_free(t);
    }
}
