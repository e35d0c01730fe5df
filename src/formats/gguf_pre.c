/* gguf_pre.c: how text is cut into words: llama.cpp's names for what a tokenizer.json says with regular expressions.
 *
 * llama.cpp has a fixed list of them.  Each line here gives the expressions, applied one after the other, and the names that mean them; the
 * first name is the one that is written.  Expressions are those of the original tokenizers where llama.cpp's are a rewriting of them. */
#include "formats/gguf_pre.h"

#include <string.h>

#define GPT2        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER       "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LLAMA3      CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define QWEN2       CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define TEKKEN                                                                                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define GPT4O                                                                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTION "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" CONTRACTION                    \
    "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES

const cb_gguf_pre cb_gguf_pres[] = {
    {.names = {"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe", "gigachat",
               "mpt", "olmo", "jais", "trillion", "a.x-4.0", "mellum", "modern-bert"},
     .patterns = {GPT2}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .patterns = {LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {.names = {"smaug-bpe", "dbrx", "chatglm-bpe"}, .patterns = {LLAMA3}},
    {.names = {"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"}, .patterns = {QWEN2}},
    {.names = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"}, .patterns = {"\\p{N}", GPT2}},
    {.names = {"tekken"}, .patterns = {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.names = {"gpt-4o"}, .patterns = {GPT4O}},
    {.names = {"falcon"}, .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.names = {"deepseek-coder"}, .patterns = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"}},
    {.names = {"default"}, .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = {NULL}},
};

const cb_gguf_pre *cb_gguf_pre_named(const char *what, const char *name)
{
    for (const cb_gguf_pre *pre = cb_gguf_pres; pre->names[0]; pre++)
        for (int i = 0; i < CB_GGUF_PRE_NAMES && pre->names[i]; i++)
            if (strcmp(pre->names[i], name) == 0)
                return pre;
    cb_fail(CB_ERR_UNSUPPORTED, "%s: tokenizer.ggml.pre: found \"%.100s\", which this build does not know", what, name);
    return NULL;
}

/* ---- from a name to a pre-tokenizer ---- */

static json_t *byte_level(bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", (int)use_regex);
}

json_t *cb_gguf_pre_json(const cb_gguf_pre *pre)
{
    if (pre == cb_gguf_pres) /* GPT-2's is ByteLevel's own */
        return byte_level(true);
    json_t *parts = json_array();
    bool ok = parts;
    for (int i = 0; ok && i < CB_GGUF_PRE_PATTERNS && pre->patterns[i]; i++)
        ok = cb_json_add(parts, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pre->patterns[i], "behavior",
                                          "Isolated", "invert", 0));
    ok = ok && cb_json_add(parts, byte_level(false));
    if (ok)
        return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", parts);
    json_decref(parts);
    return NULL;
}

/* ---- and back ---- */

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? type : "";
}

/* The expressions of a pre-tokenizer in order; false where it is none of splits and ByteLevel. */
static bool list_patterns(const json_t *part, const char *patterns[CB_GGUF_PRE_PATTERNS + 1], int *count)
{
    const char *type = type_of(part), *pattern = NULL;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *parts = json_object_get(part, "pretokenizers");
        for (size_t i = 0; i < json_array_size(parts); i++)
            if (!list_patterns(json_array_get(parts, i), patterns, count))
                return false;
        return true;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        const json_t *use_regex = json_object_get(part, "use_regex");
        if (json_is_true(json_object_get(part, "add_prefix_space")))
            return false;
        if (use_regex && !json_is_true(use_regex))
            return true;
        pattern = GPT2;
    } else if (strcmp(type, "Digits") == 0) {
        pattern = json_is_true(json_object_get(part, "individual_digits")) ? "\\p{N}" : NULL;
    } else if (strcmp(type, "Split") == 0) {
        const char *behavior = json_string_value(json_object_get(part, "behavior"));
        if (behavior && strcmp(behavior, "Isolated") == 0 && !json_is_true(json_object_get(part, "invert")))
            pattern = json_string_value(json_object_get(json_object_get(part, "pattern"), "Regex"));
    }
    if (!pattern || *count >= CB_GGUF_PRE_PATTERNS)
        return false;
    patterns[(*count)++] = pattern;
    return true;
}

const char *cb_gguf_pre_find(const char *what, const json_t *pre_tokenizer, bool ignore_merges)
{
    const char *patterns[CB_GGUF_PRE_PATTERNS + 1] = {0};
    int count = 0;
    bool listed = list_patterns(pre_tokenizer, patterns, &count) && count;
    for (const cb_gguf_pre *pre = cb_gguf_pres; listed && pre->names[0]; pre++) {
        int same = 0;
        while (same < count && pre->patterns[same] && strcmp(pre->patterns[same], patterns[same]) == 0)
            same++;
        if (same == count && (same == CB_GGUF_PRE_PATTERNS || !pre->patterns[same]) && pre->ignore_merges == ignore_merges)
            return pre->names[0];
    }
    cb_fail(CB_ERR_UNSUPPORTED,
            "%s: pre_tokenizer: found one that has no name in GGUF (a ByteLevel one without prefix, or splits as of "
            "GPT-2, Llama 3, Qwen 2 and their kin have)",
            what);
    return NULL;
}
