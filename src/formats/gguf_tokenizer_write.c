/* gguf_tokenizer_write.c: a tokenizer.json as GGUF metadata.
 *
 * Byte-level BPE becomes model "gpt2" with the name of its pre-tokenizer; BPE with byte fallback over U+2581 blanks becomes "llama", whose
 * scores are minus the rank of the first merge that gives a token.  Scores say less than merges do, so the merges that follow from them are
 * compared with those that were there.  A model without tokenizer is "no_vocab". */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_model.h"
#include "formats/gguf_pre.h"
#include "formats/scored_bpe.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };
#define BLANK "\xe2\x96\x81"

typedef struct writing {
    cb_gguf_metadata *m;
    const char *what;
    const json_t *tokenizer, *model;
    const char **texts; /* by id; NULL: no token has it */
    int32_t *types;
    float *scores;
    size_t count;
    cb_string_list fillers; /* texts that are ours */
} writing;

static bool refuse(const writing *w, const char *field, const char *problem)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: %s", w->what, field, problem) == CB_OK;
}

/* ---- tokens by id ---- */

static bool place(writing *w, const char *text, json_int_t id, int type)
{
    if (!text || id < 0 || (uint64_t)id >= w->count)
        return cb_fail(CB_ERR_FORMAT, "%s: token \"%.50s\": found id %lld, expected less than the model's vocab_size %zu", w->what,
                       text ? text : "", (long long)id, w->count) == CB_OK;
    w->texts[id] = text;
    w->types[id] = type;
    return true;
}

static bool place_vocabulary(writing *w)
{
    const char *text;
    json_t *id;
    json_object_foreach(json_object_get(w->model, "vocab"), text, id)
    {
        bool byte = strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && json_is_true(json_object_get(w->model, "byte_fallback"));
        if (!place(w, text, json_integer_value(id), byte ? TYPE_BYTE : TYPE_NORMAL))
            return false;
    }
    return true;
}

static bool place_added(writing *w)
{
    const char *unk = json_string_value(json_object_get(w->model, "unk_token"));
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    const json_t *added = json_object_get(w->tokenizer, "added_tokens"), *token;
    size_t i;
    json_array_foreach(added, i, token)
    {
        const char *text = json_string_value(json_object_get(token, "content"));
        for (int k = 0; text && k < 3; k++)
            if (json_is_true(json_object_get(token, flags[k])))
                cb_log_message(CB_LOG_WARNING, "%s: added_tokens: %s of \"%.50s\" is left out, GGUF has no such thing", w->what, flags[k],
                               text);
        bool special = json_is_true(json_object_get(token, "special")), unknown = unk && text && strcmp(unk, text) == 0;
        if (!place(w, text, json_integer_value(json_object_get(token, "id")),
                   unknown   ? TYPE_UNKNOWN
                   : special ? TYPE_CONTROL
                             : TYPE_USER_DEFINED))
            return false;
    }
    return true;
}

/* Ids without a token, as where a vocabulary was padded. */
static bool fill_gaps(writing *w)
{
    for (size_t i = 0; i < w->count; i++) {
        char name[32];
        if (w->texts[i])
            continue;
        snprintf(name, sizeof name, "[PAD%zu]", i);
        if (!cb_string_list_add(&w->fillers, name))
            return false;
        w->texts[i] = w->fillers.items[w->fillers.count - 1];
        w->types[i] = TYPE_UNUSED;
    }
    return true;
}

static bool put_tokens(const writing *w, const char *model, const char *pre)
{
    return cb_gguf_put_string(w->m, "tokenizer.ggml.model", model) && cb_gguf_put_string(w->m, "tokenizer.ggml.pre", pre) &&
           cb_gguf_put_strings(w->m, "tokenizer.ggml.tokens", w->count, w->texts) &&
           (!w->scores || cb_gguf_put_array(w->m, "tokenizer.ggml.scores", CB_GGUF_F32, w->count, w->scores)) &&
           cb_gguf_put_array(w->m, "tokenizer.ggml.token_type", CB_GGUF_I32, w->count, w->types);
}

/* ---- merges ---- */

/* "a b", whichever form the merge has; free with cb_free(). */
static char *merge_text(const json_t *merge)
{
    if (json_is_string(merge))
        return cb_strdup(json_string_value(merge));
    const char *left = json_string_value(json_array_get(merge, 0)), *right = json_string_value(json_array_get(merge, 1));
    return left && right ? cb_format("%s %s", left, right) : NULL;
}

static bool put_merges(const writing *w)
{
    const json_t *merges = json_object_get(w->model, "merges");
    size_t count = json_array_size(merges);
    char **texts = cb_calloc(count, sizeof *texts);
    bool ok = texts;
    for (size_t i = 0; ok && i < count; i++)
        ok = (texts[i] = merge_text(json_array_get(merges, i))) != NULL;
    ok = ok && cb_gguf_put_strings(w->m, "tokenizer.ggml.merges", count, (const char *const *)texts);
    for (size_t i = 0; texts && i < count; i++)
        cb_free(texts[i]);
    cb_free(texts);
    return ok || !cb_ok() || cb_fail(CB_ERR_FORMAT, "%s: merges: expected pairs of tokens", w->what) == CB_OK;
}

/* ---- byte-level BPE ---- */

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? type : "";
}

static bool put_byte_level(const writing *w)
{
    const json_t *normalizer = json_object_get(w->tokenizer, "normalizer");
    bool composed = strcmp(type_of(normalizer), "NFC") == 0;
    if (normalizer && !json_is_null(normalizer) && !composed)
        return refuse(w, "normalizer", "found one, and byte-level tokenizers in GGUF have none");
    if (composed)
        cb_log_message(CB_LOG_WARNING, "%s: the normalizer NFC is left out, as llama.cpp does", w->what);
    const char *pre =
        cb_gguf_pre_find(w->what, json_object_get(w->tokenizer, "pre_tokenizer"), json_is_true(json_object_get(w->model, "ignore_merges")));
    return pre && put_tokens(w, "gpt2", pre) && put_merges(w);
}

/* ---- SentencePiece BPE ---- */

/* The token that a merge gives. */
static char *merged_text(const json_t *merge)
{
    const char *text = json_string_value(merge), *blank = text ? strchr(text, ' ') : NULL;
    if (text)
        return cb_format("%.*s%s", blank ? (int)(blank - text) : 0, text, blank ? blank + 1 : text);
    const char *left = json_string_value(json_array_get(merge, 0)), *right = json_string_value(json_array_get(merge, 1));
    return left && right ? cb_format("%s%s", left, right) : NULL;
}

/* Score of a token: minus the rank of its first merge; of those that no merge gives, below all others. */
static bool score_tokens(writing *w)
{
    const json_t *merges = json_object_get(w->model, "merges"), *vocabulary = json_object_get(w->model, "vocab");
    size_t count = json_array_size(merges);
    w->scores = cb_calloc(w->count, sizeof *w->scores);
    if (!w->scores)
        return false;
    float next = 0; /* tokens in the order of their first merge */
    for (size_t i = 0; i < w->count; i++)
        w->scores[i] = 1;
    for (size_t i = 0; i < count; i++) {
        char *text = merged_text(json_array_get(merges, i));
        const json_t *id = text ? json_object_get(vocabulary, text) : NULL;
        cb_free(text);
        if (!id)
            return cb_fail(CB_ERR_FORMAT, "%s: merges[%zu]: found a pair that gives no token", w->what, i) == CB_OK;
        if (w->scores[json_integer_value(id)] > 0)
            w->scores[json_integer_value(id)] = -next++;
    }
    for (size_t i = 0; i < w->count; i++)
        if (w->scores[i] > 0)
            w->scores[i] = w->types[i] == TYPE_NORMAL ? -next - (float)i : 0;
    return true;
}

/* Whether the scores say what the merges say: every way to cut each token, best token first.  Which cut of one token comes first is no
 * matter: with scores it is the one that stands first in the text. */
static bool check_scores(const writing *w)
{
    cb_scored_vocabulary v = {.tokens = cb_calloc(w->count, sizeof *v.tokens)};
    bool ok = v.tokens;
    for (; ok && v.count < w->count; v.count++) {
        cb_scored_token *t = &v.tokens[v.count];
        *t = (cb_scored_token){.text = cb_strdup(w->texts[v.count]), .score = w->scores[v.count], .id = (int64_t)v.count};
        t->joins = w->types[v.count] == TYPE_NORMAL || w->types[v.count] == TYPE_USER_DEFINED;
        ok = t->text;
        t->length = ok ? strlen(t->text) : 0;
    }
    json_t *implied = ok ? cb_scored_merges(&v) : NULL;
    const json_t *given = json_object_get(w->model, "merges");
    bool same = implied && json_array_size(implied) == json_array_size(given);
    for (size_t i = 0; same && i < json_array_size(given); i++) {
        char *a = merged_text(json_array_get(given, i)), *b = merged_text(json_array_get(implied, i));
        same = a && b && strcmp(a, b) == 0;
        cb_free(a);
        cb_free(b);
    }
    json_decref(implied);
    cb_scored_free(&v);
    return cb_ok() && (same || refuse(w, "merges", "found an order that scores cannot say, as GGUF's SentencePiece tokenizers need them"));
}

/* Whether a normalizer puts a blank in front; false in *known where it is none of SentencePiece's. */
static bool has_prefix(const json_t *normalizer, bool *known)
{
    json_t *with = cb_scored_normalizer(true), *without = cb_scored_normalizer(false);
    bool prefix = json_equal(normalizer, with);
    *known = prefix || json_equal(normalizer, without);
    json_decref(with);
    json_decref(without);
    return prefix;
}

/* llama.cpp ends the process where it needs one that is not there. */
static bool check_bytes(const writing *w)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        if (!json_object_get(json_object_get(w->model, "vocab"), text))
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: vocab: found no %s, and GGUF's SentencePiece tokenizers need a token for every byte",
                           w->what, text) == CB_OK;
    }
    return true;
}

static bool put_sentencepiece(writing *w)
{
    bool known, prefix = has_prefix(json_object_get(w->tokenizer, "normalizer"), &known);
    const json_t *pre = json_object_get(w->tokenizer, "pre_tokenizer");
    if (!known && strcmp(type_of(pre), "Metaspace") == 0 && json_is_null(json_object_get(w->tokenizer, "normalizer"))) {
        const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
        prefix = !scheme || strcmp(scheme, "never") != 0;
        known = !json_is_true(json_object_get(pre, "split"));
        if (prefix)
            cb_log_message(CB_LOG_WARNING,
                           "%s: pre_tokenizer: llama.cpp, as SentencePiece, puts a blank also in front of a text that begins with one%s",
                           w->what, scheme && strcmp(scheme, "first") == 0 ? ", and after an added token" : "");
    } else if (pre && !json_is_null(pre)) {
        known = false;
    }
    if (!known)
        return refuse(w, "normalizer", "found another than SentencePiece's blanks as U+2581, which GGUF cannot name");
    return check_bytes(w) && score_tokens(w) && check_scores(w) && put_tokens(w, "llama", "default") &&
           cb_gguf_put_bool(w->m, "tokenizer.ggml.add_space_prefix", prefix);
}

/* ---- special tokens ---- */

static const char *content_of(const json_t *value)
{
    return json_is_object(value) ? json_string_value(json_object_get(value, "content")) : json_string_value(value);
}

static int64_t id_of(const writing *w, const char *text)
{
    for (size_t i = 0; text && i < w->count; i++)
        if (strcmp(w->texts[i], text) == 0)
            return (int64_t)i;
    return -1;
}

/* The template of a text alone, or NULL. */
static const json_t *single_template(const writing *w)
{
    const json_t *post = json_object_get(w->tokenizer, "post_processor"), *part;
    size_t i;
    json_array_foreach(json_object_get(post, "processors"), i, part) if (strcmp(type_of(part), "TemplateProcessing") == 0)
    {
        post = part;
        break;
    }
    return json_object_get(post, "single");
}

/* What the template puts in front of a text, or behind it; NULL: nothing. */
static const char *template_token(const writing *w, bool front)
{
    const json_t *single = single_template(w);
    const json_t *part = json_array_get(single, front ? 0 : json_array_size(single) - 1);
    return json_string_value(json_object_get(json_object_get(part, "SpecialToken"), "id"));
}

/* GGUF says no more than whether bos is in front and eos behind. */
static bool check_template(const writing *w)
{
    const char *type = type_of(json_object_get(w->tokenizer, "post_processor"));
    bool known = !*type || strcmp(type, "ByteLevel") == 0 || strcmp(type, "Sequence") == 0 || strcmp(type, "TemplateProcessing") == 0;
    size_t size = json_array_size(single_template(w));
    return (known && size <= 1u + (template_token(w, true) != NULL) + (template_token(w, false) != NULL)) ||
           refuse(w, "post_processor", "found one that adds more than a token in front and one behind, which GGUF cannot hold");
}

/* By the text in a tokenizer's config or in its template, or by the id in the model's config. */
static int64_t find_special(const writing *w, const json_t *config, const char *name, const char *in_template, const json_t *model_config)
{
    char key[32];
    snprintf(key, sizeof key, "%s_id", name);
    const char *text = content_of(json_object_get(config, name));
    int64_t id = id_of(w, text ? text : in_template);
    const json_t *number = json_object_get(model_config, key);
    if (json_is_array(number))
        number = json_array_get(number, 0);
    return id < 0 && json_is_integer(number) ? json_integer_value(number) : id;
}

static bool put_added(const writing *w, const char *key, const char *in_template, int64_t id)
{
    bool same = in_template && id >= 0 && (uint64_t)id < w->count && strcmp(in_template, w->texts[id]) == 0;
    if (in_template && !same)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: post_processor: found \"%.50s\" added to a text, which is not the token of %s", w->what,
                       in_template, key) == CB_OK;
    return cb_gguf_put_bool(w->m, key, same);
}

static bool put_specials(const writing *w, const json_t *config, const json_t *model_config)
{
    static const char *const names[][2] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                           {"eos_token", "tokenizer.ggml.eos_token_id"},
                                           {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                           {"pad_token", "tokenizer.ggml.padding_token_id"}};
    const char *ends[4] = {template_token(w, true), template_token(w, false)};
    int64_t ids[4];
    for (int i = 0; i < 4; i++) {
        ids[i] = find_special(w, config, names[i][0], ends[i], model_config);
        if (ids[i] >= 0 && !cb_gguf_put_u32(w->m, names[i][1], (uint32_t)ids[i]))
            return false;
    }
    return !w->texts || (check_template(w) && put_added(w, "tokenizer.ggml.add_bos_token", ends[0], ids[0]) &&
                         put_added(w, "tokenizer.ggml.add_eos_token", ends[1], ids[1]));
}

static bool put_templates(const writing *w, const json_t *config, const char *chat_template)
{
    const json_t *value = json_object_get(config, "chat_template"), *entry;
    const char *main = chat_template ? chat_template : json_string_value(value);
    size_t i;
    json_array_foreach(value, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name")), *text = json_string_value(json_object_get(entry, "template"));
        if (name && text && strcmp(name, "default") == 0 && !main)
            main = text;
    }
    return !main || cb_gguf_put_string(w->m, "tokenizer.chat_template", main);
}

/* ---- all of it ---- */

static bool put_vocabulary(writing *w)
{
    if (strcmp(type_of(w->model), "BPE") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: model: found a tokenizer of type %.50s, GGUF files of these architectures hold BPE",
                       w->what, type_of(w->model)) == CB_OK;
    w->texts = cb_calloc(w->count, sizeof *w->texts);
    w->types = cb_calloc(w->count, sizeof *w->types);
    return w->texts && w->types && place_vocabulary(w) && place_added(w) && fill_gaps(w) &&
           (json_is_true(json_object_get(w->model, "byte_fallback")) ? put_sentencepiece(w) : put_byte_level(w));
}

bool cb_gguf_put_tokenizer(cb_gguf_metadata *m, const char *what, const json_t *tokenizer, const json_t *config, const char *chat_template,
                           const json_t *model_config)
{
    writing w = {.m = m, .what = what, .tokenizer = tokenizer, .model = json_object_get(tokenizer, "model")};
    w.count = (size_t)json_integer_value(json_object_get(model_config, "vocab_size"));
    bool ok = tokenizer ? put_vocabulary(&w) : cb_gguf_put_string(m, "tokenizer.ggml.model", "no_vocab");
    ok = ok && put_specials(&w, config, model_config) && put_templates(&w, config, chat_template);
    cb_free(w.texts);
    cb_free(w.types);
    cb_free(w.scores);
    cb_string_list_free(&w.fillers);
    return ok;
}
