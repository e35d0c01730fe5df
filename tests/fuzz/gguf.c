/* gguf.c: a GGUF file: its metadata, tensors and tokenizer. */
#include "cambium/gguf.h"

#include <stdlib.h>

#include "tokenizer_use.h"

static void read_value(const cb_gguf *file, const cb_gguf_value *value)
{
    enum { MOST = 100 };
    size_t offset = 0, length;
    const char *text;
    double number;
    if (cb_gguf_value_find(file, value->key) == NULL)
        abort();
    while (value->is_array && cb_gguf_next_string(value, &offset, &text, &length))
        fuzz_touch(text, length);
    for (uint64_t i = 0; value->is_array && i < value->count && i < MOST; i++)
        cb_gguf_number_at(value, i, &number);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    cb_gguf *file = cb_gguf_parse("model.gguf", data, size);
    if (!fuzz_expect(file))
        return;
    for (size_t i = 0; i < cb_gguf_value_count(file); i++)
        read_value(file, cb_gguf_value_at(file, i));
    for (size_t i = 0; i < cb_gguf_count(file); i++)
        fuzz_touch(cb_gguf_at(file, i)->data, cb_gguf_at(file, i)->size);
    cb_gguf_close(file);
    cb_tokenizer *t = cb_tokenizer_load(fuzz_file("model.gguf", data, size));
    if (fuzz_expect(t))
        use_tokenizer(t, NULL, 0);
    cb_tokenizer_free(t);
}
