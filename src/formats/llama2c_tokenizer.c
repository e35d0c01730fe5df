/* llama2c_tokenizer.c: llama2.c's tokenizer.bin as a tokenizer.json.
 *
 * The file: u32 length of the longest token, then for each token f32 score, i32 length, bytes.  It is a SentencePiece BPE
 * vocabulary whose U+2581 for the blank was written as a blank, and whose <s> and </s> stand between newlines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/llama2c.h"
#include "formats/scored_bpe.h"

#define BLANK "\xe2\x96\x81"

enum { LONGEST_TOKEN = 1 << 12 };

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

static bool read_token(cursor *c, cb_scored_token *t)
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
static bool check_fixed(const char *path, const cb_scored_token *t)
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
    return strcmp((*(const cb_scored_token *const *)a)->text, (*(const cb_scored_token *const *)b)->text);
}

static bool check_unique(const cb_scored_vocabulary *v, const char *path)
{
    const cb_scored_token **sorted = cb_calloc(v->count, sizeof *sorted);
    if (!sorted)
        return false;
    for (size_t i = 0; i < v->count; i++)
        sorted[i] = &v->tokens[i];
    qsort(sorted, v->count, sizeof *sorted, by_text);
    bool ok = true;
    for (size_t i = 1; ok && i < v->count; i++)
        if (by_text(&sorted[i - 1], &sorted[i]) == 0)
            ok = cb_fail(CB_ERR_FORMAT, "%s: token %lld: found \"%.50s\" again, expected each once", path, (long long)sorted[i]->id,
                         sorted[i]->text) == CB_OK;
    cb_free(sorted);
    return ok;
}

static bool read_tokens(cb_scored_vocabulary *v, const cb_file_map *file, int64_t vocab_size)
{
    cursor c = {file->path, file->data, file->size};
    uint32_t longest;
    enum { LEAST = sizeof(float) + sizeof(int32_t) + 1 }; /* bytes of a token */
    if (!take(&c, &longest, sizeof longest) || (uint64_t)vocab_size > c.left / LEAST)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected a tokenizer of the model's %lld tokens", file->path, file->size,
                       (long long)vocab_size) == CB_OK;
    v->tokens = cb_calloc((size_t)vocab_size, sizeof *v->tokens);
    bool ok = v->tokens;
    for (int64_t id = 0; ok && id < vocab_size; id++) {
        cb_scored_token *t = &v->tokens[v->count];
        t->id = id;
        t->joins = id >= CB_LLAMA2C_BYTES + 256;
        ok = read_token(&c, t);
        v->count += ok;
        ok = ok && check_fixed(file->path, t);
    }
    if (ok && c.left)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes after the model's %lld tokens, expected none: the tokenizer is another model's",
                     file->path, c.left, (long long)vocab_size) == CB_OK;
    return ok && check_unique(v, file->path);
}

/* ---- tokenizer.json ---- */

static json_t *tokenizer_json(const cb_scored_vocabulary *v)
{
    return json_pack("{s:s, s:n, s:n, s:[o, o, o], s:o, s:n, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens",
                     cb_added_token_json(CB_LLAMA2C_UNKNOWN, "<unk>", true), cb_added_token_json(CB_LLAMA2C_BOS, "<s>", true),
                     cb_added_token_json(CB_LLAMA2C_EOS, "</s>", true), "normalizer", cb_scored_normalizer(true), "pre_tokenizer",
                     "post_processor", cb_template_json("<s>", CB_LLAMA2C_BOS, NULL, 0), "decoder", cb_scored_decoder(true), "model",
                     cb_scored_model(v, "<unk>"));
}

json_t *cb_llama2c_tokenizer(const char *path, int64_t vocab_size)
{
    cb_file_map file;
    cb_scored_vocabulary v = {0};
    json_t *result = NULL;
    if (!cb_file_map_open(&file, path))
        return NULL;
    if (read_tokens(&v, &file, vocab_size)) {
        result = tokenizer_json(&v);
        if (!result)
            cb_fail(CB_ERR_MEMORY, "%s: out of memory", path);
    }
    cb_scored_free(&v);
    cb_file_map_close(&file);
    return result;
}
