/* llama2c_tokenizer.c: llama2.c's tokenizer.bin as a tokenizer.json.
 *
 * The file: u32 length of the longest token, then for each token f32 score, i32 length, bytes.  It is a SentencePiece BPE
 * vocabulary whose U+2581 for the blank was written as a blank, and whose <s> and </s> stand between newlines.
 * SentencePiece joins the neighbours whose joined text has the best score; a tokenizer.json wants a list of pairs instead,
 * best first.  The list is every way to cut a token into two others, by the token's score (as transformers converts
 * them): of one token's cuts, the one with the longer left part first. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/llama2c.h"

#define BLANK "\xe2\x96\x81"

enum { LONGEST_TOKEN = 1 << 12 };

typedef struct token {
    char *text;
    size_t length;
    float score;
    int64_t id;
} token;

typedef struct merge {
    const token *whole;
    size_t left; /* bytes of its left part */
} merge;

typedef struct vocabulary {
    token *tokens;  /* by id */
    token *by_text; /* the same, sorted */
    merge *merges;
    size_t count, merge_count, merge_capacity;
} vocabulary;

/* ---- reading ---- */

typedef struct cursor {
    const char *path;
    const uint8_t *at;
    size_t left;
} cursor;

static bool take(cursor *c, void *out, size_t size)
{
    if (size > c->left)
        return false;
    memcpy(out, c->at, size);
    c->at += size;
    c->left -= size;
    return true;
}

/* The token's text as SentencePiece has it: blanks as U+2581, no newlines around <s> and </s>. */
static char *piece_text(int64_t id, const char *bytes, size_t length)
{
    cb_string s = {0};
    bool framed = (id == CB_LLAMA2C_BOS || id == CB_LLAMA2C_EOS) && length > 2 && bytes[0] == '\n' && bytes[length - 1] == '\n';
    bool ok = cb_string_puts(&s, "");
    for (size_t i = framed; ok && i < length - framed; i++)
        ok = bytes[i] == ' ' ? cb_string_puts(&s, BLANK) : cb_string_append(&s, &bytes[i], 1);
    if (!ok)
        cb_string_free(&s);
    return s.data;
}

static bool read_token(cursor *c, token *t)
{
    int32_t length;
    if (!take(c, &t->score, sizeof t->score) || !take(c, &length, sizeof length) || length < 0 || (size_t)length > c->left)
        return cb_fail(CB_ERR_FORMAT,
                       "%s: token %lld: found the end of the file, expected a score, a length and a text: the file is cut off "
                       "or has fewer tokens than the model",
                       c->path, (long long)t->id) == CB_OK;
    const char *bytes = (const char *)c->at;
    if (length == 0 || length > LONGEST_TOKEN || isnan(t->score))
        return cb_fail(CB_ERR_FORMAT, "%s: token %lld: found %d bytes with score %g, expected 1 to %d bytes and a number", c->path,
                       (long long)t->id, length, (double)t->score, LONGEST_TOKEN) == CB_OK;
    if (!cb_utf8_valid(bytes, (size_t)length, NULL) || memchr(bytes, 0, (size_t)length))
        return cb_fail(CB_ERR_FORMAT, "%s: token %lld: found bytes that are no text in UTF-8", c->path, (long long)t->id) == CB_OK;
    t->text = piece_text(t->id, bytes, (size_t)length);
    if (!t->text)
        return false;
    t->length = strlen(t->text);
    c->at += length;
    c->left -= (size_t)length;
    return true;
}

/* <unk>, <s>, </s> and the 256 bytes have fixed ids, which run.c relies on. */
static bool check_fixed(const char *path, const token *t)
{
    static const char *const names[] = {"<unk>", "<s>", "</s>"};
    char expected[8];
    if (t->id >= CB_LLAMA2C_BYTES + 256)
        return true;
    if (t->id < CB_LLAMA2C_BYTES)
        snprintf(expected, sizeof expected, "%s", names[t->id]);
    else
        snprintf(expected, sizeof expected, "<0x%02X>", (unsigned)(t->id - CB_LLAMA2C_BYTES) & 0xFFu);
    return strcmp(t->text, expected) == 0 ||
           cb_fail(CB_ERR_FORMAT, "%s: token %lld: found \"%.50s\", expected \"%s\"", path, (long long)t->id, t->text, expected) == CB_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(((const token *)a)->text, ((const token *)b)->text);
}

static bool read_tokens(vocabulary *v, const cb_file_map *file, int64_t vocab_size)
{
    cursor c = {file->path, file->data, file->size};
    uint32_t longest;
    enum { LEAST = sizeof(float) + sizeof(int32_t) + 1 }; /* bytes of a token */
    if (!take(&c, &longest, sizeof longest) || (uint64_t)vocab_size > c.left / LEAST)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected a tokenizer of the model's %lld tokens", file->path, file->size,
                       (long long)vocab_size) == CB_OK;
    v->tokens = cb_calloc((size_t)vocab_size, sizeof *v->tokens);
    v->by_text = cb_calloc((size_t)vocab_size, sizeof *v->by_text);
    bool ok = v->tokens && v->by_text;
    for (int64_t id = 0; ok && id < vocab_size; id++) {
        token *t = &v->tokens[v->count];
        t->id = id;
        ok = read_token(&c, t);
        v->count += ok;
        ok = ok && check_fixed(file->path, t);
    }
    if (ok && c.left)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes after the model's %lld tokens, expected none: the tokenizer is another model's",
                     file->path, c.left, (long long)vocab_size) == CB_OK;
    if (!ok)
        return false;
    memcpy(v->by_text, v->tokens, v->count * sizeof *v->tokens);
    qsort(v->by_text, v->count, sizeof *v->by_text, by_text);
    for (size_t i = 1; i < v->count; i++)
        if (by_text(&v->by_text[i - 1], &v->by_text[i]) == 0)
            return cb_fail(CB_ERR_FORMAT, "%s: token %lld: found \"%.50s\" again, expected each once", file->path,
                           (long long)v->by_text[i].id, v->by_text[i].text) == CB_OK;
    return true;
}

/* ---- merges ---- */

static bool has_text(const vocabulary *v, const char *text, size_t length)
{
    size_t low = 0, high = v->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const token *t = &v->by_text[middle];
        int order = memcmp(text, t->text, length < t->length ? length : t->length);
        if (order == 0 && length == t->length)
            return true;
        if (order > 0 || (order == 0 && length > t->length))
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

static int best_first(const void *a_, const void *b_)
{
    const merge *a = a_, *b = b_;
    if (a->whole->score != b->whole->score)
        return a->whole->score > b->whole->score ? -1 : 1;
    if (a->whole->id != b->whole->id)
        return a->whole->id < b->whole->id ? -1 : 1;
    return a->left > b->left ? -1 : 1;
}

static bool find_merges(vocabulary *v)
{
    for (size_t id = CB_LLAMA2C_BYTES + 256; id < v->count; id++) {
        const token *t = &v->tokens[id];
        for (size_t left = 1; left < t->length; left++) {
            if (!has_text(v, t->text, left) || !has_text(v, t->text + left, t->length - left))
                continue;
            if (!cb_grow(&v->merges, &v->merge_capacity, v->merge_count + 1, sizeof *v->merges))
                return false;
            v->merges[v->merge_count++] = (merge){t, left};
        }
    }
    if (v->merge_count)
        qsort(v->merges, v->merge_count, sizeof *v->merges, best_first);
    return true;
}

/* ---- tokenizer.json ---- */

static json_t *added_token(int id, const char *text)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, "single_word", 0, "lstrip", 0, "rstrip", 0,
                     "normalized", 0, "special", 1);
}

/* A blank in front, and U+2581 for every blank. */
static json_t *normalizer(void)
{
    return json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}, s:s}]}", "type", "Sequence", "normalizers", "type", "Prepend", "prepend", BLANK,
                     "type", "Replace", "pattern", "String", " ", "content", BLANK);
}

static json_t *decoder(void)
{
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}", "type", "Sequence", "decoders", "type",
                     "Replace", "pattern", "String", BLANK, "content", " ", "type", "ByteFallback", "type", "Fuse", "type", "Strip",
                     "content", " ", "start", 1, "stop", 0);
}

static json_t *template_part(const char *kind, const char *id, int type)
{
    return json_pack("{s:{s:s, s:i}}", kind, "id", id, "type_id", type);
}

static json_t *post_processor(void)
{
    return json_pack("{s:s, s:[o, o], s:[o, o, o, o], s:{s:{s:s, s:[i], s:[s]}}}", "type", "TemplateProcessing", "single",
                     template_part("SpecialToken", "<s>", 0), template_part("Sequence", "A", 0), "pair",
                     template_part("SpecialToken", "<s>", 0), template_part("Sequence", "A", 0), template_part("SpecialToken", "<s>", 1),
                     template_part("Sequence", "B", 1), "special_tokens", "<s>", "id", "<s>", "ids", CB_LLAMA2C_BOS, "tokens", "<s>");
}

static json_t *vocabulary_json(const vocabulary *v)
{
    json_t *object = json_object();
    for (size_t i = 0; i < v->count; i++)
        if (json_object_set_new_nocheck(object, v->tokens[i].text, json_integer((json_int_t)v->tokens[i].id)) != 0) {
            json_decref(object);
            return NULL;
        }
    return object;
}

/* "left right": the form that every release of tokenizers reads.  No token holds a blank. */
static json_t *merges_json(const vocabulary *v)
{
    json_t *array = json_array();
    for (size_t i = 0; i < v->merge_count; i++) {
        const merge *m = &v->merges[i];
        json_t *pair = json_sprintf("%.*s %s", (int)m->left, m->whole->text, m->whole->text + m->left);
        if (json_array_append_new(array, pair) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *model_json(const vocabulary *v)
{
    return json_pack("{s:s, s:n, s:s, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", "<unk>",
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 1, "byte_fallback", 1, "ignore_merges", 0, "vocab",
                     vocabulary_json(v), "merges", merges_json(v));
}

static json_t *tokenizer_json(const vocabulary *v)
{
    return json_pack("{s:s, s:n, s:n, s:[o, o, o], s:o, s:n, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens",
                     added_token(CB_LLAMA2C_UNKNOWN, "<unk>"), added_token(CB_LLAMA2C_BOS, "<s>"), added_token(CB_LLAMA2C_EOS, "</s>"),
                     "normalizer", normalizer(), "pre_tokenizer", "post_processor", post_processor(), "decoder", decoder(), "model",
                     model_json(v));
}

json_t *cb_llama2c_tokenizer(const char *path, int64_t vocab_size)
{
    cb_file_map file;
    vocabulary v = {0};
    json_t *result = NULL;
    if (!cb_file_map_open(&file, path))
        return NULL;
    if (read_tokens(&v, &file, vocab_size) && find_merges(&v)) {
        result = tokenizer_json(&v);
        if (!result)
            cb_fail(CB_ERR_MEMORY, "%s: out of memory", path);
    }
    for (size_t i = 0; i < v.count; i++)
        cb_free(v.tokens[i].text);
    cb_free(v.tokens);
    cb_free(v.by_text);
    cb_free(v.merges);
    cb_file_map_close(&file);
    return result;
}
