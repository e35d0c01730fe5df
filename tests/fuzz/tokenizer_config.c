/* tokenizer_config.c: what lies beside a tokenizer.json: the first byte of the input says which file the rest is. */
#include "cambium/core.h"
#include "cambium/tokenizer.h"
#include "fuzz.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"model/tokenizer_config.json", "model/special_tokens_map.json", "model/chat_template.jinja"};
    static bool linked;
    if (!linked)
        fuzz_link("model/tokenizer.json", "tests/fuzz/corpus/tokenizer/tiny.json");
    linked = true;
    if (!size)
        return;
    const char *path = fuzz_file(names[data[0] % 3], data + 1, size - 1);
    cb_tokenizer *t = cb_tokenizer_load(fuzz_path("model"));
    if (fuzz_expect(t)) {
        cb_tokenizer_chat_template(t);
        cb_tokenizer_bos(t);
        cb_tokenizer_model_max_length(t);
    }
    cb_tokenizer_free(t);
    cb_file_remove(path);
}
