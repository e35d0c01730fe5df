/* scored_bpe.c: SentencePiece's BPE vocabularies as merges, and the other parts of the tokenizer.json around them. */
#include "formats/scored_bpe.h"

#include <string.h>

#include "formats/tokenizer_blueprint.h"

#define BLANK "\xe2\x96\x81"

void cb_scored_free(cb_scored_vocabulary *v)
{
    for (size_t i = 0; i < v->count; i++)
        cb_free(v->tokens[i].text);
    cb_free(v->tokens);
    *v = (cb_scored_vocabulary){0};
}

json_t *cb_scored_merges(const cb_scored_vocabulary *v)
{
    cb_merge_piece *pieces = cb_calloc(v->count, sizeof *pieces);
    size_t count = 0;
    for (size_t i = 0; pieces && i < v->count; i++) {
        const cb_scored_token *t = &v->tokens[i];
        if (t->joins)
            pieces[count++] = (cb_merge_piece){t->text, t->length, (double)t->score, (int32_t)t->id};
    }
    json_t *merges = pieces ? cb_merges_of_pieces(pieces, count, true) : NULL;
    cb_free(pieces);
    return merges;
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
    if (prefix && !cb_json_add(json_object_get(decoder, "decoders"),
                               json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0))) {
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
    return !id || cb_json_add(array, json_pack("{s:{s:s, s:i}}", kind, "id", id, "type_id", type));
}

static bool add_special(json_t *object, const char *text, int64_t id)
{
    return !text || cb_json_put(object, text, json_pack("{s:s, s:[I], s:[s]}", "id", text, "ids", (json_int_t)id, "tokens", text));
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
