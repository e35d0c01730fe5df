/* ctc_vocabulary.c: vocab.json and tokenizer_config.json of models that read characters: transformers' Wav2Vec2CTCTokenizer. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "cambium/ctc.h"
#include "core/json.h"
#include "core/unicode.h"

enum { PAD, UNKNOWN, DELIMITER, BOS, EOS, SPECIALS, MOST_TOKENS = 1 << 20 };

static const struct {
    const char *key, *otherwise;
} specials[SPECIALS] = {
    {"pad_token", "<pad>"}, {"unk_token", "<unk>"}, {"word_delimiter_token", "|"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};

struct cb_ctc_vocabulary {
    char **tokens; /* by id */
    int32_t *sorted;
    int64_t size;
    char *special[SPECIALS];
    int32_t id[SPECIALS]; /* -1: not in the vocabulary */
    bool capitals;        /* do_lower_case */
};

void cb_ctc_vocabulary_free(cb_ctc_vocabulary *v)
{
    for (int64_t i = 0; v && i < v->size; i++)
        cb_free(v->tokens[i]);
    for (int i = 0; v && i < SPECIALS; i++)
        cb_free(v->special[i]);
    if (v) {
        cb_free(v->tokens);
        cb_free(v->sorted);
    }
    cb_free(v);
}

/* ---- reading ---- */

static bool read_tokens(cb_ctc_vocabulary *v, const char *path, json_t *json)
{
    const char *token;
    json_t *id;
    size_t n = json_is_object(json) ? json_object_size(json) : 0;
    if (n < 2 || n > MOST_TOKENS)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu tokens, expected an object of 2 to %d tokens with their ids", path, n, MOST_TOKENS) ==
               CB_OK;
    v->tokens = cb_calloc(n, sizeof *v->tokens);
    v->size = v->tokens ? (int64_t)n : 0;
    if (!v->tokens)
        return false;
    json_object_foreach(json, token, id)
    {
        json_int_t at = json_is_integer(id) ? json_integer_value(id) : -1;
        if (at < 0 || at >= v->size || v->tokens[at])
            return cb_fail(CB_ERR_FORMAT, "%s: \"%.40s\": expected an id of its own from 0 to %lld", path, token, (long long)v->size - 1) ==
                   CB_OK;
        if (!(v->tokens[at] = cb_strdup(token)))
            return false;
    }
    return true;
}

typedef struct sorting {
    const char *token;
    int32_t id;
} sorting;

static int by_token(const void *a, const void *b)
{
    return strcmp(((const sorting *)a)->token, ((const sorting *)b)->token);
}

static bool sort_tokens(cb_ctc_vocabulary *v)
{
    sorting *list = cb_alloc((size_t)v->size * sizeof *list);
    v->sorted = cb_alloc((size_t)v->size * sizeof *v->sorted);
    bool ok = list && v->sorted;
    for (int32_t i = 0; ok && i < v->size; i++)
        list[i] = (sorting){v->tokens[i], i};
    if (ok)
        qsort(list, (size_t)v->size, sizeof *list, by_token);
    for (int64_t i = 0; ok && i < v->size; i++)
        v->sorted[i] = list[i].id;
    cb_free(list);
    return ok;
}

static int32_t find(const cb_ctc_vocabulary *v, const char *token)
{
    int64_t low = 0, high = v->size;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (strcmp(v->tokens[v->sorted[middle]], token) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->size && strcmp(v->tokens[v->sorted[low]], token) == 0 ? v->sorted[low] : -1;
}

/* A token is text, or an object with its content. */
static const char *token_text(const json_t *value)
{
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static bool read_specials(cb_ctc_vocabulary *v, const char *path, const json_t *config)
{
    v->capitals = config && cb_json_bool(path, config, "do_lower_case", false);
    for (int i = 0; cb_ok() && i < SPECIALS; i++) {
        const json_t *value = json_object_get(config, specials[i].key);
        const char *text = token_text(value);
        bool none = json_is_null(value); /* it has none, as the config says */
        if (value && !none && !text)
            return cb_fail(CB_ERR_FORMAT, "%s: %s: expected text", path, specials[i].key) == CB_OK;
        text = text ? text : specials[i].otherwise;
        if (i == PAD && !value && find(v, text) < 0)
            text = "[PAD]";
        v->special[i] = cb_strdup(text);
        v->id[i] = none ? -1 : find(v, text);
    }
    return cb_ok() &&
           (v->id[PAD] >= 0 || cb_fail(CB_ERR_FORMAT, "%s: pad_token: found no \"%.40s\" in the vocabulary, expected it: it is the blank",
                                       path, v->special[PAD]) == CB_OK);
}

static bool read_files(cb_ctc_vocabulary *v, const char *vocab, const char *config_path)
{
    enum { LIMIT = 1 << 26 };
    json_t *json = cb_json_load(vocab, LIMIT), *config = json && cb_is_file(config_path) ? cb_json_load(config_path, LIMIT) : NULL;
    bool ok = json && cb_ok() && read_tokens(v, vocab, json) && sort_tokens(v) && read_specials(v, config ? config_path : vocab, config);
    json_decref(json);
    json_decref(config);
    return ok;
}

cb_ctc_vocabulary *cb_ctc_vocabulary_load(const char *path)
{
    bool directory = cb_is_directory(path);
    char *parent = directory ? cb_strdup(path) : cb_path_parent(path),
         *vocab = directory ? cb_path_join(path, "vocab.json") : cb_strdup(path);
    char *config = parent ? cb_path_join(parent, "tokenizer_config.json") : NULL;
    cb_ctc_vocabulary *v = vocab && config ? cb_calloc(1, sizeof *v) : NULL;
    bool ok = v && read_files(v, vocab, config);
    cb_free(parent);
    cb_free(vocab);
    cb_free(config);
    if (ok)
        return v;
    cb_ctc_vocabulary_free(v);
    return NULL;
}

/* ---- writing ---- */

bool cb_ctc_vocabulary_save(const cb_ctc_vocabulary *v, const char *directory)
{
    char *vocab = cb_path_join(directory, "vocab.json"), *path = cb_path_join(directory, "tokenizer_config.json");
    json_t *tokens = json_object(), *config = json_object();
    bool ok = vocab && path && tokens && config && cb_json_put(config, "tokenizer_class", json_string("Wav2Vec2CTCTokenizer"));
    for (int64_t i = 0; ok && i < v->size; i++)
        ok = cb_json_put(tokens, v->tokens[i], json_integer(i));
    for (int i = 0; ok && i < SPECIALS; i++)
        ok = cb_json_put(config, specials[i].key, v->id[i] >= 0 ? json_string(v->special[i]) : json_null());
    ok = ok && cb_json_put(config, "do_lower_case", json_boolean(v->capitals)) && cb_json_save(vocab, tokens, false) &&
         cb_json_save(path, config, false);
    json_decref(tokens);
    json_decref(config);
    cb_free(vocab);
    cb_free(path);
    return ok;
}

/* ---- questions ---- */

int64_t cb_ctc_vocabulary_size(const cb_ctc_vocabulary *v)
{
    return v->size;
}

int64_t cb_ctc_vocabulary_blank(const cb_ctc_vocabulary *v)
{
    return v->id[PAD];
}

const char *cb_ctc_vocabulary_token(const cb_ctc_vocabulary *v, int64_t id)
{
    return id >= 0 && id < v->size ? v->tokens[id] : NULL;
}

/* ---- texts ---- */

/* The first code point of a text as text of its own: how many bytes it has; 0: it is none. */
static size_t character(const char *text, size_t length, char out[8])
{
    utf8proc_int32_t point;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &point);
    if (n < 1)
        return 0;
    memcpy(out, text, (size_t)n);
    out[n] = 0;
    return (size_t)n;
}

static void change_case(char c[8], bool upper)
{
    unsigned length;
    utf8proc_int32_t point = (utf8proc_int32_t)cb_utf8_read(c, &length);
    c[cb_utf8_write((uint32_t)(upper ? utf8proc_toupper(point) : utf8proc_tolower(point)), c)] = 0;
}

static int32_t id_of(const cb_ctc_vocabulary *v, char c[8])
{
    if (v->capitals)
        change_case(c, true);
    if (strcmp(c, " ") == 0 && v->id[DELIMITER] >= 0)
        return v->id[DELIMITER];
    int32_t id = find(v, c);
    bool special = id >= 0 && (id == v->id[PAD] || id == v->id[BOS] || id == v->id[EOS]);
    return id >= 0 && !special ? id : v->id[UNKNOWN];
}

bool cb_ctc_encode(const cb_ctc_vocabulary *v, const char *text, int32_t **ids, size_t *count, size_t *unknown)
{
    size_t length = strlen(text);
    *count = *unknown = 0;
    *ids = cb_alloc((length + 1) * sizeof **ids);
    for (size_t i = 0; *ids && i < length;) {
        char c[8] = "", own[8];
        size_t n = character(text + i, length - i, c);
        memcpy(own, c, sizeof own);
        int32_t id = n ? id_of(v, c) : -1;
        if (id < 0) {
            if (n)
                cb_fail(CB_ERR_FORMAT, "text: found \"%s\", expected characters of the vocabulary, which has no %s either", own,
                        v->special[UNKNOWN]);
            else
                cb_fail(CB_ERR_FORMAT, "text: found what is no UTF-8 at byte %zu", i);
            cb_free(*ids);
            *ids = NULL;
            return false;
        }
        *unknown += id == v->id[UNKNOWN];
        (*ids)[(*count)++] = id;
        i += n;
    }
    return *ids;
}

static bool append_token(const cb_ctc_vocabulary *v, const char *token, cb_string *text)
{
    size_t length = strlen(token);
    char c[8];
    for (size_t i = 0, n = 1; v->capitals && n && i < length; i += n) {
        n = character(token + i, length - i, c);
        if (n)
            change_case(c, false);
        if (n && !cb_string_puts(text, c))
            return false;
    }
    return v->capitals || cb_string_puts(text, token);
}

bool cb_ctc_decode(const cb_ctc_vocabulary *v, const int32_t *ids, size_t count, cb_string *text)
{
    size_t first = text->length;
    bool ok = cb_string_puts(text, "");
    for (size_t i = 0; ok && i < count; i++) {
        bool special = ids[i] == v->id[PAD] || ids[i] == v->id[BOS] || ids[i] == v->id[EOS] || ids[i] == v->id[UNKNOWN];
        if (special || ids[i] < 0 || ids[i] >= v->size)
            continue;
        bool space = ids[i] == v->id[DELIMITER];
        if (space && text->length == first)
            continue;
        ok = space ? cb_string_puts(text, " ") : append_token(v, v->tokens[ids[i]], text);
    }
    while (ok && text->length > first && text->data[text->length - 1] == ' ')
        text->data[--text->length] = 0;
    return ok;
}
