/* vocabulary.c: the files of older tokenizers.  The first byte of the input says which file the rest is; merges.txt stands beside a good
 * vocab.json and the other way about, and the length of the input chooses the class that they are of. */
#include <stdio.h>

#include "tokenizer_use.h"

#define GPT2 "tests/reference/tokenizers/files/gpt2/"

static const char *const classes[] = {"GPT2Tokenizer", "RobertaTokenizer", "CLIPTokenizer", "Qwen2Tokenizer"};
enum { CLASSES = sizeof classes / sizeof *classes };

static void link_partners(const char *own, const char *partner)
{
    for (int i = 0; i < CLASSES; i++) {
        char name[96], source[128];
        snprintf(name, sizeof name, "%s.%s/%s", classes[i], own, partner);
        snprintf(source, sizeof source, GPT2 "%s", partner);
        fuzz_link(name, source);
    }
}

void fuzz_target(const uint8_t *data, size_t size)
{
    static const struct {
        char byte;
        const char *file;
    } kinds[] = {{'t', "vocab.txt"}, {'v', "vocab.json"}, {'m', "merges.txt"}};
    static bool linked;
    if (!linked) {
        link_partners("vocab.json", "merges.txt");
        link_partners("merges.txt", "vocab.json");
    }
    linked = true;
    for (int i = 0; size && i < 3; i++) {
        if (data[0] != (uint8_t)kinds[i].byte)
            continue;
        const char *class = i == 0 ? "BertTokenizer" : classes[size % CLASSES];
        cb_tokenizer *t = cb_tokenizer_load(fuzz_tokenizer_of_class(class, kinds[i].file, data + 1, size - 1));
        if (fuzz_expect(t))
            use_tokenizer(t, NULL, 0);
        cb_tokenizer_free(t);
    }
}
