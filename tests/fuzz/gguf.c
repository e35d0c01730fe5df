/* gguf.c: a GGUF file: its metadata, tensors and tokenizer, the model that it holds, and it as the first or second part of one in two
 * parts, beside a good other part. */
#define _GNU_SOURCE /* memmem */
#include "cambium/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "cambium/models.h"
#include "tokenizer_use.h"

#define FIRST  "model-00001-of-00002.gguf"
#define SECOND "model-00002-of-00002.gguf"
#define SEEDS  "tests/fuzz/corpus/gguf/"

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

static void use_values_and_tensors(const cb_gguf *file)
{
    for (size_t i = 0; i < cb_gguf_value_count(file); i++)
        read_value(file, cb_gguf_value_at(file, i));
    for (size_t i = 0; i < cb_gguf_count(file); i++)
        fuzz_touch(cb_gguf_at(file, i)->data, cb_gguf_at(file, i)->size);
}

static void use_as_tokenizer(const char *path)
{
    cb_tokenizer *t = cb_tokenizer_load(path);
    if (fuzz_expect(t))
        use_tokenizer(t, NULL, 0);
    cb_tokenizer_free(t);
}

static void use_as_model(const char *path)
{
    cb_model *model = cb_model_load(path, .dtype = CB_F32);
    if (fuzz_expect(model))
        fuzz_expect(fuzz_pass(model));
    cb_model_free(model);
}

static void use_as_part(const uint8_t *data, size_t size)
{
    static bool linked;
    if (!linked) {
        fuzz_link("first/" SECOND, SEEDS "part2");
        fuzz_link("second/" FIRST, SEEDS "part1");
        linked = true;
    }
    use_as_model(fuzz_file("first/" FIRST, data, size));
    fuzz_file("second/" SECOND, data, size);
    use_as_model(fuzz_path("second/" FIRST));
}

static bool holds(const uint8_t *data, size_t size, const char *word)
{
    return memmem(data, size, word, strlen(word));
}

void fuzz_target(const uint8_t *data, size_t size)
{
    cb_gguf *file = cb_gguf_parse("model.gguf", data, size);
    if (!fuzz_expect(file))
        return;
    use_values_and_tensors(file);
    cb_gguf_close(file);
    const char *path = fuzz_file("model.gguf", data, size);
    if (holds(data, size, "tokenizer.ggml."))
        use_as_tokenizer(path);
    if (holds(data, size, "general.architecture"))
        use_as_model(path);
    if (holds(data, size, "split.no"))
        use_as_part(data, size);
}
