/* scored_bpe.c: SentencePiece's BPE vocabularies as merges, and the other parts of the tokenizer.json around them. */
#include "formats/scored_bpe.h"

#include <stdlib.h>
#include <string.h>

#define BLANK "\xe2\x96\x81"

typedef struct merge {
    const cb_scored_token *whole;
    size_t left; /* bytes of its left part */
} merge;

typedef struct merge_search {
    const cb_scored_token **by_text; /* those that join, sorted */
    size_t count;
    merge *merges;
    size_t merge_count, merge_capacity;
} merge_search;

void cb_scored_free(cb_scored_vocabulary *v)
{
    for (size_t i = 0; i < v->count; i++)
        cb_free(v->tokens[i].text);
    cb_free(v->tokens);
    *v = (cb_scored_vocabulary){0};
}

/* ---- merges ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp((*(const cb_scored_token *const *)a)->text, (*(const cb_scored_token *const *)b)->text);
}

static bool has_text(const merge_search *s, const char *text, size_t length)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const cb_scored_token *t = s->by_text[middle];
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

static bool find_merges(merge_search *s, const cb_scored_vocabulary *v)
{
    s->by_text = cb_calloc(v->count, sizeof *s->by_text);
    if (!s->by_text)
        return false;
    for (size_t i = 0; i < v->count; i++)
        if (v->tokens[i].joins)
            s->by_text[s->count++] = &v->tokens[i];
    if (s->count)
        qsort(s->by_text, s->count, sizeof *s->by_text, by_text);
    for (size_t i = 0; i < v->count; i++) {
        const cb_scored_token *t = &v->tokens[i];
        for (size_t left = 1; t->joins && left < t->length; left++) {
            if (!has_text(s, t->text, left) || !has_text(s, t->text + left, t->length - left))
                continue;
            if (!cb_grow(&s->merges, &s->merge_capacity, s->merge_count + 1, sizeof *s->merges))
                return false;
            s->merges[s->merge_count++] = (merge){t, left};
        }
    }
    if (s->merge_count)
        qsort(s->merges, s->merge_count, sizeof *s->merges, best_first);
    return true;
}

/* "left right": the form that every release of tokenizers reads; the other where a token holds a blank. */
static json_t *merge_json(const merge *m)
{
    const char *text = m->whole->text;
    if (!strchr(text, ' '))
        return json_sprintf("%.*s %s", (int)m->left, text, text + m->left);
    return json_pack("[o, s]", json_stringn(text, m->left), text + m->left);
}

json_t *cb_scored_merges(const cb_scored_vocabulary *v)
{
    merge_search s = {0};
    json_t *array = find_merges(&s, v) ? json_array() : NULL;
    for (size_t i = 0; array && i < s.merge_count; i++)
        if (json_array_append_new(array, merge_json(&s.merges[i])) != 0) {
            json_decref(array);
            array = NULL;
        }
    cb_free(s.by_text);
    cb_free(s.merges);
    return array;
}

/* ---- the model ---- */

static json_t *vocabulary_json(const cb_scored_vocabulary *v)
{
    json_t *object = json_object();
    for (size_t i = 0; i < v->count; i++) {
        const cb_scored_token *t = &v->tokens[i];
        if (json_object_get(object, t->text))
            continue;
        if (json_object_set_new_nocheck(object, t->text, json_integer((json_int_t)t->id)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

json_t *cb_scored_model(const cb_scored_vocabulary *v, const char *unk_token)
{
    return json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", unk_token,
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 1, "byte_fallback", 1, "ignore_merges", 0, "vocab",
                     vocabulary_json(v), "merges", cb_scored_merges(v));
}

/* ---- the parts around it ---- */

static json_t *replace_json(const char *from, const char *to)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content", to);
}

json_t *cb_scored_normalizer(bool prefix)
{
    json_t *blanks = replace_json(" ", BLANK);
    return prefix ? json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type", "Prepend", "prepend", BLANK, blanks)
                  : blanks;
}

json_t *cb_scored_decoder(bool prefix)
{
    json_t *decoder = json_pack("{s:s, s:[o, {s:s}, {s:s}]}", "type", "Sequence", "decoders", replace_json(BLANK, " "), "type",
                                "ByteFallback", "type", "Fuse");
    if (prefix && json_array_append_new(json_object_get(decoder, "decoders"),
                                        json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0)) != 0) {
        json_decref(decoder);
        return NULL;
    }
    return decoder;
}

json_t *cb_added_token_json(int64_t id, const char *text, bool special)
{
    return json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", text, "single_word", 0, "lstrip", 0, "rstrip",
                     0, "normalized", 0, "special", (int)special);
}

static bool add_part(json_t *array, const char *kind, const char *id, int type)
{
    return !id || json_array_append_new(array, json_pack("{s:{s:s, s:i}}", kind, "id", id, "type_id", type)) == 0;
}

static bool add_special(json_t *object, const char *text, int64_t id)
{
    return !text ||
           json_object_set_new(object, text, json_pack("{s:s, s:[I], s:[s]}", "id", text, "ids", (json_int_t)id, "tokens", text)) == 0;
}

json_t *cb_template_json(const char *bos, int64_t bos_id, const char *eos, int64_t eos_id)
{
    if (!bos && !eos)
        return json_null();
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    bool ok = add_part(single, "SpecialToken", bos, 0) && add_part(single, "Sequence", "A", 0) &&
              add_part(single, "SpecialToken", eos, 0) && add_part(pair, "SpecialToken", bos, 0) && add_part(pair, "Sequence", "A", 0) &&
              add_part(pair, "SpecialToken", eos, 0) && add_part(pair, "SpecialToken", bos, 1) && add_part(pair, "Sequence", "B", 1) &&
              add_part(pair, "SpecialToken", eos, 1) && add_special(specials, bos, bos_id) && add_special(specials, eos, eos_id);
    json_t *result =
        json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens", specials);
    if (ok)
        return result;
    json_decref(result);
    return NULL;
}
