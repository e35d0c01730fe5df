/* tokenizer_use.h: what the targets of tokenizers do with one that was read. */
#ifndef FUZZ_TOKENIZER_USE_H
#define FUZZ_TOKENIZER_USE_H

#include <stdio.h>
#include <string.h>

#include "cambium/tokenizer.h"
#include "fuzz.h"

/* A directory CLASS.FILE with the bytes as FILE, and a tokenizer_config.json that names the class. */
static inline const char *fuzz_tokenizer_of_class(const char *class, const char *file, const void *data, size_t size)
{
    char name[128], config[128];
    snprintf(config, sizeof config, "{\"tokenizer_class\": \"%s\"}", class);
    snprintf(name, sizeof name, "%s.%s/tokenizer_config.json", class, file);
    fuzz_file(name, config, strlen(config));
    snprintf(name, sizeof name, "%s.%s/%s", class, file, file);
    fuzz_file(name, data, size);
    snprintf(name, sizeof name, "%s.%s", class, file);
    return fuzz_path(name);
}

static inline void encode(const cb_tokenizer *t, const char *text, size_t length)
{
    cb_encoding e = {.want_spans = true};
    cb_string decoded = {0};
    cb_encode_options options = {.add_special_tokens = true, .pair = text, .pair_length = length, .truncate = true, .pad = true};
    if (fuzz_expect(cb_tokenizer_encode(t, text, length, true, &e))) {
        fuzz_expect(cb_tokenizer_decode(t, e.ids, e.count, false, &decoded));
        fuzz_expect(cb_tokenizer_decode(t, e.ids, e.count, true, &decoded));
        fuzz_expect(cb_encoding_code_point_spans(&e, text, length));
        fuzz_expect(cb_tokenizer_encode_with(t, text, length, &options, &e));
    }
    cb_string_free(&decoded);
    cb_encoding_free(&e);
}

static inline void stream(const cb_tokenizer *t)
{
    enum { MOST = 64 };
    int32_t limit = cb_tokenizer_id_limit(t);
    cb_string text = {0};
    cb_token_stream *s = cb_token_stream_open(t, false);
    bool ok = fuzz_expect(s);
    for (int32_t id = 0; ok && id < limit && id < MOST; id++)
        ok = fuzz_expect(cb_token_stream_push(s, id, &text));
    if (ok)
        fuzz_expect(cb_token_stream_finish(s, &text));
    cb_token_stream_free(s);
    cb_string_free(&text);
}

/* Encodes a text, a sentence with a bit of everything when it is NULL, and decodes. */
static inline void use_tokenizer(const cb_tokenizer *t, const char *text, size_t length)
{
    static const char sentence[] = "It's 1234 \t\n <s>Stra\xc3\x9f"
                                   "e [MASK] \xe4\xbd\xa0\xe5\xa5\xbd e\xcc\x81 \xf0\x9f\x99\x82"
                                   "aaab abab</s>";
    encode(t, text ? text : sentence, text ? length : sizeof sentence - 1);
    stream(t);
}

#endif
