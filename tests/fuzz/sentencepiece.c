/* sentencepiece.c: a tokenizer.model, and a text encoded and decoded with it: by itself, and as that of two classes of tokenizers,
 * one of BPE and one of unigram models, which the length of the input chooses. */
#include "tokenizer_use.h"

static void use(cb_tokenizer *t)
{
    if (fuzz_expect(t))
        use_tokenizer(t, NULL, 0);
    cb_tokenizer_free(t);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    static const char *const classes[][2] = {{"LlamaTokenizer", "T5Tokenizer"}, {"GemmaTokenizer", "XLMRobertaTokenizer"}};
    use(cb_tokenizer_parse_sentencepiece("tokenizer.model", data, size));
    for (int i = 0; i < 2; i++)
        use(cb_tokenizer_load(fuzz_tokenizer_of_class(classes[size % 2][i], "tokenizer.model", data, size)));
}
