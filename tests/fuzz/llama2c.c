/* llama2c.c: a llama2.c model.  The first byte of the input says whether the rest is the model or its tokenizer.bin; the
 * other file is a good one. */
#include "cambium/formats.h"
#include "fuzz.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    static const char *model, *tokenizer;
    if (!model) {
        model = fuzz_link("good.bin", "tests/reference/formats/llama2c_tied.bin");
        tokenizer = fuzz_link("good_tokenizer.bin", "tests/reference/formats/llama2c_tokenizer.bin");
    }
    if (!size || (data[0] != 'm' && data[0] != 't'))
        return;
    const char *file = fuzz_file("x.bin", data + 1, size - 1);
    fuzz_expect(cb_llama2c_convert(data[0] == 'm' ? file : model, data[0] == 't' ? file : tokenizer, fuzz_path("model")));
}
