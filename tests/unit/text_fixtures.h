/* text_fixtures.h: what the tests of data and training share: a scratch directory, and a tokenizer that can be done in
 * the head. */
#ifndef TEXT_FIXTURES_H
#define TEXT_FIXTURES_H

#include "cambium/data.h"
#include "model_fixtures.h"

/* Every printable ASCII character is a token, the code less 33; then space, line feed and two special tokens. */
enum { ID_SPACE = 94, ID_NEWLINE = 95, ID_BOS = 96, ID_EOS = 97 };

static char scratch[64];

/* a few at a time */
static inline const char *scratch_path(const char *name)
{
    static char ring[8][256];
    static unsigned turn;
    char *path = ring[turn++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", scratch, name);
    return path;
}

static inline const char *write_file(const char *name, const char *text)
{
    const char *path = scratch_path(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
    return path;
}

static inline int make_scratch(void **state)
{
    (void)state;
    strcpy(scratch, "/tmp/cambium-test-XXXXXX");
    return mkdtemp(scratch) ? 0 : 1;
}

static inline int remove_scratch(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    return system(command);
}

/* The characters' tokenizer, with the merge "a b" (id 98) when asked and bos and eos when asked. */
static inline cb_tokenizer *characters(bool merge, bool special)
{
    char json[8192], *at = json;
    at += sprintf(at, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"normalizer\":null,\"post_processor\":null,"
                      "\"added_tokens\":[");
    static const char *const names[] = {"<s>", "</s>"};
    for (int i = 0; special && i < 2; i++)
        at += sprintf(at,
                      "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                      "\"special\":true}",
                      i ? "," : "", ID_BOS + i, names[i]);
    at += sprintf(at, "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
                      "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                      "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                      "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{");
    for (int c = 33; c < 127; c++)
        at += sprintf(at, "\"%s%c\":%d,", c == '"' || c == '\\' ? "\\" : "", c, c - 33);
    sprintf(at, "\"\\u0120\":%d,\"\\u010a\":%d%s},\"merges\":[%s]}}", ID_SPACE, ID_NEWLINE, merge ? ",\"ab\":98" : "",
            merge ? "\"a b\"" : "");
    const char *directory = scratch_path("tokenizer");
    assert_true(cb_directory_make(directory));
    write_file("tokenizer/tokenizer.json", json);
    write_file("tokenizer/tokenizer_config.json", special ? "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}" : "{}");
    cb_tokenizer *tokenizer = cb_tokenizer_load(directory);
    assert_ok();
    return tokenizer;
}

static inline int32_t id_of(char c)
{
    return c == ' ' ? ID_SPACE : c == '\n' ? ID_NEWLINE : c - 33;
}

/* Options at their defaults, for one file. */
static inline cb_data_options data_options(const char *path)
{
    cb_data_options o = {0};
    assert_true(cb_options_init(cb_data_option_table, &o));
    o.data = (cb_string_list){0};
    o.seed = 0;
    assert_true(cb_string_list_add(&o.data, path));
    return o;
}

static inline void data_options_free(cb_data_options *o)
{
    cb_string_list_free(&o->data);
    cb_options_free(cb_data_option_table, o);
}

#endif
