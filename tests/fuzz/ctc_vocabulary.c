/* ctc_vocabulary.c: vocab.json of models that read characters, and tokenizer_config.json beside a good one: the first byte of the input says
 * which the rest is.  A text goes through it and back. */
#include "cambium/ctc.h"
#include "fuzz.h"

static const char good[] = "{\"<pad>\": 0, \"<unk>\": 1, \"|\": 2, \"a\": 3, \"b\": 4}", plain[] = "{}";

static void use(const cb_ctc_vocabulary *v)
{
    int32_t *ids;
    size_t count, unknown;
    cb_string text = {0};
    if (fuzz_expect(cb_ctc_encode(v, "ab \xc3\xa9", &ids, &count, &unknown))) {
        fuzz_touch(ids, count * sizeof *ids);
        fuzz_expect(cb_ctc_decode(v, ids, count, &text));
        cb_free(ids);
    }
    cb_string_free(&text);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    bool config = size && data[0] == 'c';
    if (!size)
        return;
    fuzz_file("ctc/vocab.json", config ? (const void *)good : data + 1, config ? sizeof good - 1 : size - 1);
    fuzz_file("ctc/tokenizer_config.json", config ? data + 1 : (const void *)plain, config ? size - 1 : sizeof plain - 1);
    cb_ctc_vocabulary *v = cb_ctc_vocabulary_load(fuzz_path("ctc"));
    if (fuzz_expect(v))
        use(v);
    cb_ctc_vocabulary_free(v);
}
