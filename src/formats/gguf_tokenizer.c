/* gguf_tokenizer.c: the tokenizer in GGUF metadata as a tokenizer.json and tokenizer_config.json.
 *
 * tokenizer.ggml.model is "gpt2" (byte-level BPE: tokens, merges, and the name of a pre-tokenizer) or "llama" (SentencePiece BPE: tokens
 * with scores; see scored_bpe.h).  Token types tell ordinary tokens from control tokens, those that users defined, bytes and fillers. */
#include <math.h>
#include <string.h>

#include "formats/gguf_model.h"
#include "formats/gguf_pre.h"
#include "formats/scored_bpe.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };
#define TOKENS "tokenizer.ggml.tokens"

typedef struct reading {
    const cb_gguf *file;
    const char *what, *model;
    cb_scored_vocabulary v;
    uint8_t *types; /* by id */
} reading;

static const cb_gguf_value *array_of(const reading *r, const char *key, bool strings, uint64_t count)
{
    const cb_gguf_value *v = cb_gguf_value_find(r->file, key);
    if (v && (!v->is_array || (v->type == CB_GGUF_STRING) != strings || (count && v->count != count)))
        cb_fail(CB_ERR_FORMAT, "%s: %s: found another kind or number of values, expected %llu %s", r->what, key, (unsigned long long)count,
                strings ? "strings" : "numbers");
    return v;
}

/* ---- tokens ---- */

static bool read_tokens(reading *r)
{
    const cb_gguf_value *tokens = array_of(r, TOKENS, true, 0);
    if (cb_ok() && (!tokens || !tokens->count || tokens->count > INT32_MAX))
        cb_fail(CB_ERR_FORMAT, "%s: " TOKENS ": %s, expected the vocabulary", r->what, tokens ? "found too few or too many" : "missing");
    if (!cb_ok())
        return false;
    r->v.tokens = cb_calloc((size_t)tokens->count, sizeof *r->v.tokens);
    r->types = cb_calloc((size_t)tokens->count, 1);
    size_t offset = 0, length;
    const char *text;
    for (uint64_t i = 0; r->v.tokens && r->types && i < tokens->count; i++) {
        cb_gguf_next_string(tokens, &offset, &text, &length);
        if (!cb_utf8_valid(text, length, NULL) || memchr(text, 0, length))
            return cb_fail(CB_ERR_FORMAT, "%s: " TOKENS "[%llu]: found bytes that are no text in UTF-8 without NUL", r->what,
                           (unsigned long long)i) == CB_OK;
        cb_scored_token *t = &r->v.tokens[i];
        *t = (cb_scored_token){.text = cb_strndup(text, length), .length = length, .id = (int64_t)i};
        if (!t->text)
            return false;
        r->v.count++;
        r->types[i] = TYPE_NORMAL;
    }
    return r->v.tokens && r->types;
}

static bool read_types_and_scores(reading *r)
{
    const cb_gguf_value *types = array_of(r, "tokenizer.ggml.token_type", false, r->v.count);
    const cb_gguf_value *scores = array_of(r, "tokenizer.ggml.scores", false, r->v.count);
    if (!cb_ok())
        return false;
    for (size_t i = 0; i < r->v.count; i++) {
        double number;
        if (types && cb_gguf_number_at(types, i, &number))
            r->types[i] = number >= TYPE_NORMAL && number <= TYPE_BYTE ? (uint8_t)number : TYPE_NORMAL;
        if (scores && cb_gguf_number_at(scores, i, &number)) {
            if (isnan(number))
                return cb_fail(CB_ERR_FORMAT, "%s: tokenizer.ggml.scores[%zu]: found no number", r->what, i) == CB_OK;
            r->v.tokens[i].score = (float)number;
        }
        r->v.tokens[i].joins = r->v.tokens[i].length && (r->types[i] == TYPE_NORMAL || r->types[i] == TYPE_USER_DEFINED);
    }
    return true;
}

/* The text of a token that the metadata names by id; NULL: none is named. */
static const char *named_token(const reading *r, const char *key, int64_t *id)
{
    *id = cb_gguf_int(r->file, key, -1);
    if (*id < 0 || *id == UINT32_MAX)
        return NULL;
    if ((uint64_t)*id < r->v.count)
        return r->v.tokens[*id].text;
    cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected less than the %zu tokens", r->what, key, (long long)*id, r->v.count);
    return NULL;
}

/* What is cut out of a text before anything else: control tokens (special), and those that users defined. */
static json_t *added_tokens(const reading *r)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < r->v.count; i++) {
        uint8_t type = r->types[i];
        if (type != TYPE_CONTROL && type != TYPE_USER_DEFINED && type != TYPE_UNKNOWN)
            continue;
        if (!r->v.tokens[i].length)
            continue;
        if (!cb_json_add(array, cb_added_token_json((int64_t)i, r->v.tokens[i].text, type != TYPE_USER_DEFINED))) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* ---- models ---- */

static json_t *merges_json(const reading *r)
{
    const cb_gguf_value *merges = array_of(r, "tokenizer.ggml.merges", true, 0);
    size_t offset = 0, length;
    const char *text;
    json_t *array = cb_ok() ? json_array() : NULL;
    for (uint64_t i = 0; array && merges && i < merges->count; i++) {
        cb_gguf_next_string(merges, &offset, &text, &length);
        if (!cb_utf8_valid(text, length, NULL) || !cb_json_add(array, json_stringn(text, length))) {
            cb_fail(CB_ERR_FORMAT, "%s: tokenizer.ggml.merges[%llu]: found bytes that are no text in UTF-8", r->what,
                    (unsigned long long)i);
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *byte_level_vocabulary(const reading *r)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < r->v.count; i++) {
        if (json_object_get(object, r->v.tokens[i].text)) /* of two tokens with one text the first counts */
            continue;
        if (json_object_set_new_nocheck(object, r->v.tokens[i].text, json_integer((json_int_t)i)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *byte_level_json(const reading *r)
{
    const cb_gguf_pre *pre = cb_gguf_pre_named(r->what, cb_gguf_string(r->file, "tokenizer.ggml.pre", "default"));
    if (!pre || !cb_ok())
        return NULL;
    int64_t bos_id, eos_id;
    const char *bos = named_token(r, "tokenizer.ggml.bos_token_id", &bos_id), *eos = named_token(r, "tokenizer.ggml.eos_token_id", &eos_id);
    bool add_bos = cb_gguf_bool(r->file, "tokenizer.ggml.add_bos_token", pre->add_bos);
    bool add_eos = cb_gguf_bool(r->file, "tokenizer.ggml.add_eos_token", false);
    bool composed = strcmp(pre->names[0], "qwen2") == 0; /* their tokenizer.json says so; llama.cpp leaves it out */
    json_t *merges = cb_ok() ? merges_json(r) : NULL, *post = NULL;
    if (!merges)
        return NULL;
    post = cb_template_json(add_bos ? bos : NULL, bos_id, add_eos ? eos : NULL, eos_id);
    return json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}}",
                     "version", "1.0", "truncation", "padding", "added_tokens", added_tokens(r), "normalizer",
                     composed ? json_pack("{s:s}", "type", "NFC") : json_null(), "pre_tokenizer", cb_gguf_pre_json(pre), "post_processor",
                     post, "decoder", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE",
                     "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                     "ignore_merges", (int)pre->ignore_merges, "vocab", byte_level_vocabulary(r), "merges", merges);
}

static json_t *sentencepiece_json(const reading *r)
{
    int64_t bos_id, eos_id, unk_id;
    const char *bos = named_token(r, "tokenizer.ggml.bos_token_id", &bos_id), *eos = named_token(r, "tokenizer.ggml.eos_token_id", &eos_id);
    const char *unk = named_token(r, "tokenizer.ggml.unknown_token_id", &unk_id);
    bool add_bos = cb_gguf_bool(r->file, "tokenizer.ggml.add_bos_token", true);
    bool add_eos = cb_gguf_bool(r->file, "tokenizer.ggml.add_eos_token", false);
    bool prefix = cb_gguf_bool(r->file, "tokenizer.ggml.add_space_prefix", true);
    if (!cb_ok())
        return NULL;
    for (size_t i = 0; !unk && i < r->v.count; i++)
        if (r->types[i] == TYPE_UNKNOWN)
            unk = r->v.tokens[i].text;
    return json_pack("{s:s, s:n, s:n, s:o, s:o, s:n, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens",
                     added_tokens(r), "normalizer", cb_scored_normalizer(prefix), "pre_tokenizer", "post_processor",
                     cb_template_json(add_bos ? bos : NULL, bos_id, add_eos ? eos : NULL, eos_id), "decoder", cb_scored_decoder(prefix),
                     "model", cb_scored_model(&r->v, unk));
}

/* ---- the two files ---- */

static bool read_file(reading *r, const cb_gguf *file)
{
    *r = (reading){.file = file, .what = cb_gguf_path(file)};
    r->model = cb_gguf_string(file, "tokenizer.ggml.model", NULL);
    if (cb_ok() && !r->model)
        cb_fail(CB_ERR_FORMAT, "%s: tokenizer.ggml.model: missing: the file has no tokenizer", r->what);
    return cb_ok() && read_tokens(r) && read_types_and_scores(r);
}

static void free_reading(reading *r)
{
    cb_scored_free(&r->v);
    cb_free(r->types);
}

json_t *cb_gguf_tokenizer(const cb_gguf *file)
{
    reading r;
    json_t *result = NULL;
    bool ok = read_file(&r, file), bytes = ok && strcmp(r.model, "gpt2") == 0, pieces = ok && strcmp(r.model, "llama") == 0;
    if (ok && !bytes && !pieces)
        ok = cb_fail(CB_ERR_UNSUPPORTED, "%s: tokenizer.ggml.model: found \"%.50s\", expected gpt2 or llama", r.what, r.model) == CB_OK;
    if (ok) {
        result = bytes ? byte_level_json(&r) : sentencepiece_json(&r);
        if (!result)
            cb_fail(CB_ERR_MEMORY, "%s: no memory for the tokenizer", r.what);
    }
    free_reading(&r);
    return result;
}

static bool put(json_t *object, const char *key, json_t *value)
{
    return cb_json_put(object, key, value) || cb_fail(CB_ERR_MEMORY, "no memory for a tokenizer's config") == CB_OK;
}

static bool put_flag(const reading *r, json_t *config, const char *gguf, const char *hf, bool otherwise)
{
    bool value = cb_gguf_bool(r->file, gguf, otherwise);
    return cb_ok() && put(config, hf, json_boolean(value));
}

static bool put_templates(const reading *r, json_t *config)
{
    const char *main = cb_gguf_string(r->file, "tokenizer.chat_template", NULL);
    const cb_gguf_value *names = array_of(r, "tokenizer.chat_templates", true, 0);
    if (!cb_ok() || !main || !names)
        return cb_ok() && (!main || put(config, "chat_template", json_string(main)));
    json_t *list = json_pack("[{s:s, s:s}]", "name", "default", "template", main);
    size_t offset = 0, length;
    const char *name;
    for (uint64_t i = 0; list && i < names->count && cb_gguf_next_string(names, &offset, &name, &length); i++) {
        char *key = cb_format("tokenizer.chat_template.%.*s", (int)(length < 200 ? length : 200), name);
        const char *text = key && cb_utf8_valid(name, length, NULL) ? cb_gguf_string(r->file, key, NULL) : NULL;
        if (text)
            cb_json_add(list, json_pack("{s:o, s:s}", "name", json_stringn(name, length), "template", text));
        cb_free(key);
    }
    return put(config, "chat_template", cb_json_made(list));
}

json_t *cb_gguf_tokenizer_config(const cb_gguf *file)
{
    static const char *const specials[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                              {"tokenizer.ggml.eos_token_id", "eos_token"},
                                              {"tokenizer.ggml.unknown_token_id", "unk_token"},
                                              {"tokenizer.ggml.padding_token_id", "pad_token"},
                                              {NULL}};
    reading r;
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
    bool ok = read_file(&r, file) && config;
    for (int i = 0; ok && specials[i][0]; i++) {
        int64_t id;
        const char *text = named_token(&r, specials[i][0], &id);
        ok = cb_ok() && (!text || put(config, specials[i][1], json_string(text)));
    }
    bool pieces = ok && strcmp(r.model, "llama") == 0;
    const cb_gguf_pre *pre = ok && !pieces ? cb_gguf_pre_named(r.what, cb_gguf_string(file, "tokenizer.ggml.pre", "default")) : NULL;
    ok = ok && cb_ok() && put_flag(&r, config, "tokenizer.ggml.add_bos_token", "add_bos_token", pieces || (pre && pre->add_bos)) &&
         put_flag(&r, config, "tokenizer.ggml.add_eos_token", "add_eos_token", false) && put_templates(&r, config);
    free_reading(&r);
    if (ok)
        return config;
    json_decref(config);
    return NULL;
}
