/* tokenizer_sentencepiece.c: a SentencePiece model as a tokenizer.json, the way transformers 5 converts it: by the class that
 * tokenizer_config.json names, or by the model's own settings, so that ids are those of the sentencepiece package. */
#include <stdlib.h>
#include <string.h>

#include "core/base64.h"
#include "core/json.h"
#include "formats/sentencepiece.h"
#include "formats/tokenizer_blueprint.h"
#include "formats/tokenizer_readers.h"

#define BLANK         "\\u2581" /* what stands for a space, in JSON */
#define REPLACE_BLANK "{\"type\": \"Replace\", \"pattern\": {\"String\": \"" BLANK "\"}, \"content\": \" \"}"
#define STRIP_BLANK   "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"

static bool appended(json_t *list, json_t *item)
{
    return cb_json_add(list, item) || (cb_fail(CB_ERR_MEMORY, "out of memory"), false);
}

static bool config_bool(const cb_blueprint *b, const char *key, bool fallback)
{
    const json_t *value = json_object_get(b->config, key);
    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

/* ---- Shared parts ---- */

static json_t *precompiled(const cb_spm *model)
{
    cb_string text = {0};
    json_t *json = NULL;
    if (cb_base64_encode(model->charsmap, model->charsmap_length, &text))
        json = json_pack("{s:s, s:s}", "type", "Precompiled", "precompiled_charsmap", text.data);
    cb_string_free(&text);
    return json;
}

static bool add_piece(cb_blueprint *b, json_t *list, const char *text, size_t length, double score)
{
    int32_t id = (int32_t)json_array_size(list);
    return appended(list, json_pack("[s%, f]", text, length, score)) &&
           (cb_vocab_find(&b->vocab, text, length) >= 0 || cb_vocab_add(&b->vocab, text, length, id));
}

static bool add_pieces(cb_blueprint *b, json_t *list, const cb_spm *model, size_t from)
{
    for (size_t i = from; i < model->count; i++)
        if (!add_piece(b, list, model->pieces[i].text, model->pieces[i].length, (double)model->pieces[i].score))
            return false;
    return true;
}

static bool unigram_model(cb_blueprint *b, json_t *pieces, int32_t unk, bool byte_fallback)
{
    b->model =
        json_pack("{s:s, s:i, s:o, s:b}", "type", "Unigram", "unk_id", (int)unk, "vocab", pieces, "byte_fallback", (int)byte_fallback);
    return b->model != NULL;
}

/* Merges in the order of the pieces' scores (then only normal pieces are merged) or of their ids. */
static json_t *merges_of(const cb_spm *model, bool by_score)
{
    cb_merge_piece *pieces = cb_alloc((model->count + 1) * sizeof *pieces);
    size_t count = 0;
    for (size_t i = 0; pieces && i < model->count; i++) {
        const cb_spm_piece *p = &model->pieces[i];
        if (by_score && p->type != CB_SPM_NORMAL)
            continue;
        pieces[count++] = (cb_merge_piece){p->text, p->length, (double)p->score, (int32_t)i};
    }
    json_t *merges = pieces ? cb_merges_of_pieces(pieces, count, by_score) : NULL;
    cb_free(pieces);
    return merges;
}

static bool bpe_model(cb_blueprint *b, const cb_spm *model, const char *unk, bool by_score, bool byte_fallback, bool ignore_merges)
{
    for (size_t i = 0; i < model->count; i++)
        if (!cb_vocab_add(&b->vocab, model->pieces[i].text, model->pieces[i].length, (int32_t)i))
            return false;
    b->model = json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", unk,
                         "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 1, "byte_fallback", (int)byte_fallback,
                         "ignore_merges", (int)ignore_merges, "vocab", cb_blueprint_vocab(b), "merges", merges_of(model, by_score));
    return b->model || (cb_ok() && cb_fail(CB_ERR_MEMORY, "%s: out of memory", b->what) == CB_OK);
}

/* Control pieces are special tokens, those a user defined are added tokens. */
static bool add_control(cb_blueprint *b, const cb_spm *model, bool user_defined)
{
    json_t *raw = json_pack("{s:b}", "normalized", 0);
    bool ok = raw != NULL;
    for (size_t i = 0; ok && i < model->count; i++) {
        cb_spm_type type = model->pieces[i].type;
        if (type == CB_SPM_CONTROL || (user_defined && type == CB_SPM_USER_DEFINED))
            ok = cb_blueprint_add_extra(b, model->pieces[i].text, raw, type == CB_SPM_CONTROL);
    }
    json_decref(raw);
    return ok;
}

/* add_bos_token and add_eos_token of the config. */
static bool begin_and_end(cb_blueprint *b, const cb_special_default *specials)
{
    const char *bos = config_bool(b, "add_bos_token", false) ? cb_blueprint_special(b, specials, "bos_token") : NULL;
    const char *eos = config_bool(b, "add_eos_token", false) ? cb_blueprint_special(b, specials, "eos_token") : NULL;
    if (!bos && !eos)
        return true;
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{bos, 0}, {"$A", 0}, {eos, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{bos, 0}, {"$A", 0}, {eos, 0}, {bos, 1}, {"$B", 1}, {eos, 1}};
    return cb_blueprint_template(b, single, pair);
}

static json_t *metaspace(const char *scheme, bool split)
{
    return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "\xE2\x96\x81", "prepend_scheme", scheme, "split",
                     (int)split);
}

/* ---- The model's own settings ---- */

static bool plain_normalizer(cb_blueprint *b, const cb_spm *model, bool legacy)
{
    json_t *list = json_array();
    b->normalizer = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
    if (!b->normalizer)
        return false;
    bool ok = !model->charsmap || appended(list, precompiled(model));
    if (ok && model->remove_extra_whitespaces) /* spaces only: SentencePiece leaves other white space alone */
        ok = appended(list,
                      cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\A +| +\\\\z\"}, \"content\": \"\"}")) &&
             appended(list, cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \" \"}"));
    if (ok && model->escape_whitespaces)
        ok = appended(list, cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" BLANK "\"}"));
    if (ok && model->add_dummy_prefix && legacy) /* Metaspace does not put a second mark in front, SentencePiece does */
        ok = appended(list, cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\A" BLANK
                                              "\"}, \"content\": \"" BLANK BLANK "\"}"));
    return ok;
}

static int longest_first(const void *a_, const void *b_)
{
    const cb_spm_piece *a = *(const cb_spm_piece *const *)a_, *b = *(const cb_spm_piece *const *)b_;
    return a->length != b->length ? (a->length > b->length ? -1 : 1) : (a > b) - (a < b);
}

/* An expression that finds the pieces which a user defined; *count: of them. */
static bool user_pattern(const cb_spm *model, cb_string *out, size_t *count)
{
    const cb_spm_piece **list = cb_alloc((model->count + 1) * sizeof *list);
    *count = 0;
    for (size_t i = 0; list && i < model->count; i++)
        if (model->pieces[i].type == CB_SPM_USER_DEFINED)
            list[(*count)++] = &model->pieces[i];
    bool ok = list != NULL;
    if (*count)
        qsort(list, *count, sizeof *list, longest_first);
    for (size_t i = 0; ok && i < *count; i++) {
        ok = i == 0 || cb_string_puts(out, "|");
        for (const char *c = list[i]->text; ok && *c; c++)
            ok = (!strchr("()[]{}?*+-|^$\\.&~# \t\n\r\v\f", *c) || cb_string_puts(out, "\\")) && cb_string_append(out, c, 1);
    }
    cb_free(list);
    return ok;
}

/* Pieces that a user defined are cut out whole, behind the space in front. */
static bool plain_pre_tokenizer(cb_blueprint *b, const cb_spm *model, bool legacy, const char *pattern)
{
    if (!model->add_dummy_prefix && !*pattern)
        return true;
    json_t *list = json_array();
    b->pre_tokenizer = json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
    return b->pre_tokenizer && (!model->add_dummy_prefix || appended(list, metaspace(legacy ? "always" : "first", false))) &&
           (!*pattern || appended(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior",
                                                  "Isolated", "invert", 0)));
}

static bool plain_decoder(cb_blueprint *b, const cb_spm *model)
{
    json_t *list = json_array();
    b->decoder = json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
    bool fuse = model->add_dummy_prefix || model->byte_fallback;
    return b->decoder && appended(list, cb_blueprint_part(REPLACE_BLANK)) &&
           (!model->byte_fallback || appended(list, cb_blueprint_part("{\"type\": \"ByteFallback\"}"))) &&
           (!fuse || appended(list, cb_blueprint_part("{\"type\": \"Fuse\"}"))) &&
           (!model->add_dummy_prefix || appended(list, cb_blueprint_part(STRIP_BLANK)));
}

static const char *piece_or_null(const cb_spm *model, int32_t id)
{
    return id < 0 ? NULL : model->pieces[id].text;
}

static bool build_plain(cb_blueprint *b, const cb_spm *model)
{
    const char *unk = model->pieces[model->unk_id].text;
    const cb_special_default specials[] = {{"bos_token", piece_or_null(model, model->bos_id)},
                                           {"eos_token", piece_or_null(model, model->eos_id)},
                                           {"unk_token", unk},
                                           {NULL, NULL}};
    bool legacy = config_bool(b, "legacy", true);
    cb_string pattern = {0};
    size_t defined = 0;
    bool ok = cb_string_puts(&pattern, "") && user_pattern(model, &pattern, &defined);
    if (ok && model->model_type == CB_SPM_UNIGRAM) {
        json_t *pieces = json_array();
        ok = add_pieces(b, pieces, model, 0);
        ok = unigram_model(b, pieces, model->unk_id, model->byte_fallback) && ok;
    } else if (ok) {
        ok = bpe_model(b, model, unk, true, model->byte_fallback, defined > 0);
    }
    ok = ok && plain_normalizer(b, model, legacy) && plain_pre_tokenizer(b, model, legacy, pattern.data) && plain_decoder(b, model) &&
         cb_blueprint_add_tokens(b, specials) && add_control(b, model, false) && begin_and_end(b, specials);
    cb_string_free(&pattern);
    return ok;
}

/* ---- Llama, Gemma ---- */

static bool build_llama(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}, {NULL, NULL}};
    bool prefix = config_bool(b, "add_prefix_space", true), legacy = config_bool(b, "legacy", false);
    b->pre_tokenizer = metaspace(!prefix ? "never" : legacy ? "always" : "first", false);
    b->decoder = cb_blueprint_part(prefix ? "{\"type\": \"Sequence\", \"decoders\": [" REPLACE_BLANK
                                            ", {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, " STRIP_BLANK "]}"
                                          : "{\"type\": \"Sequence\", \"decoders\": [" REPLACE_BLANK
                                            ", {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}");
    return b->pre_tokenizer && b->decoder && bpe_model(b, model, NULL, false, true, false) && cb_blueprint_add_tokens(b, specials) &&
           add_control(b, model, true) && begin_and_end(b, specials);
}

static bool build_gemma(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {{"bos_token", "<bos>"}, {"eos_token", "<eos>"},   {"unk_token", "<unk>"},
                                                  {"pad_token", "<pad>"}, {"mask_token", "<mask>"}, {NULL, NULL}};
    b->normalizer = cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" BLANK "\"}");
    b->pre_tokenizer = cb_blueprint_part(
        "{\"type\": \"Split\", \"pattern\": {\"String\": \" \"}, \"behavior\": \"MergedWithPrevious\", \"invert\": false}");
    b->decoder = cb_blueprint_part("{\"type\": \"Sequence\", \"decoders\": [" REPLACE_BLANK
                                   ", {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}");
    return b->normalizer && b->pre_tokenizer && b->decoder &&
           bpe_model(b, model, cb_blueprint_special(b, specials, "unk_token"), false, true, false) &&
           cb_blueprint_add_tokens(b, specials) && add_control(b, model, true) && begin_and_end(b, specials);
}

/* ---- T5, XLM-RoBERTa, CamemBERT ---- */

static bool split_at_blanks(cb_blueprint *b, bool prefix)
{
    const char *scheme = prefix ? "always" : "never";
    b->pre_tokenizer =
        json_pack("{s:s, s:[{s:s}, o]}", "type", "Sequence", "pretokenizers", "type", "WhitespaceSplit", metaspace(scheme, true));
    b->decoder = metaspace(scheme, true);
    return b->pre_tokenizer && b->decoder;
}

static bool words_with_blanks(cb_blueprint *b, const cb_spm *model)
{
    b->normalizer = model->charsmap ? precompiled(model) : NULL;
    return (b->normalizer || !model->charsmap) && split_at_blanks(b, config_bool(b, "add_prefix_space", true));
}

static bool build_t5(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {{"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}, {NULL, NULL}};
    const json_t *extra = json_object_get(b->config, "extra_ids");
    json_int_t extra_ids = json_is_integer(extra) ? json_integer_value(extra) : 100;
    if (extra_ids < 0 || extra_ids > 100000)
        return cb_fail(CB_ERR_FORMAT, "%s: extra_ids: found %lld, expected 0 to 100000", b->what, (long long)extra_ids), false;
    json_t *pieces = json_array();
    char name[32];
    bool ok = add_pieces(b, pieces, model, 0);
    for (json_int_t i = extra_ids; ok && i-- > 0;) {
        snprintf(name, sizeof name, "<extra_id_%lld>", (long long)i);
        ok = add_piece(b, pieces, name, strlen(name), 0);
    }
    ok = unigram_model(b, pieces, 2, false) && ok && words_with_blanks(b, model) && cb_blueprint_add_tokens(b, specials);
    for (json_int_t i = extra_ids; ok && i-- > 0;) {
        snprintf(name, sizeof name, "<extra_id_%lld>", (long long)i);
        ok = cb_blueprint_add_extra(b, name, NULL, true);
    }
    const char *eos = "</s>";
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{"$A", 0}, {eos, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{"$A", 0}, {eos, 0}, {"$B", 0}, {eos, 0}};
    return ok && add_control(b, model, true) && cb_blueprint_template(b, single, pair);
}

/* fairseq's ids: tokens of its own (texts, or names of special tokens) stand in place of the model's first, a <mask> at the end. */
static bool build_fairseq(cb_blueprint *b, const cb_spm *model, const cb_special_default *specials, const char *const first[], size_t count,
                          size_t from)
{
    json_t *pieces = json_array();
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        const char *special = cb_blueprint_special(b, specials, first[i]), *text = special ? special : first[i];
        ok = add_piece(b, pieces, text, strlen(text), i == 4 ? -100 : 0);
    }
    const char *mask = cb_blueprint_special(b, specials, "mask_token"), *bos = cb_blueprint_special(b, specials, "bos_token");
    const char *eos = cb_blueprint_special(b, specials, "eos_token");
    ok = ok && add_pieces(b, pieces, model, from) && (!mask || add_piece(b, pieces, mask, strlen(mask), 0));
    ok = unigram_model(b, pieces, 3, false) && ok && words_with_blanks(b, model) && cb_blueprint_add_tokens(b, specials) &&
         add_control(b, model, true);
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{bos, 0}, {"$A", 0}, {eos, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{bos, 0}, {"$A", 0}, {eos, 0}, {eos, 0}, {"$B", 0}, {eos, 0}};
    return ok && cb_blueprint_template(b, single, pair);
}

static bool build_xlm_roberta(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {
        {"bos_token", "<s>"},   {"eos_token", "</s>"}, {"unk_token", "<unk>"},   {"sep_token", "</s>"},
        {"pad_token", "<pad>"}, {"cls_token", "<s>"},  {"mask_token", "<mask>"}, {NULL, NULL}};
    static const char *const first[] = {"bos_token", "pad_token", "eos_token", "unk_token"};
    return build_fairseq(b, model, specials, first, 4, 3);
}

static bool build_camembert(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {
        {"bos_token", "<s>"},   {"eos_token", "</s>"}, {"unk_token", "<unk>"},   {"sep_token", "</s>"},
        {"pad_token", "<pad>"}, {"cls_token", "<s>"},  {"mask_token", "<mask>"}, {NULL, NULL}};
    b->mask_lstrip = true;
    static const char *const first[] = {"<s>NOTUSED", "pad_token", "</s>NOTUSED", "unk_token", "<unk>NOTUSED"};
    return build_fairseq(b, model, specials, first, 5, 1);
}

/* ---- ALBERT, XLNet, DeBERTa-v2 ---- */

/* Quotation marks of LaTeX as plain ones, accents off, lower case; then the model's own rules. */
static bool plain_letters(cb_blueprint *b, const cb_spm *model, bool keep_accents, bool lowercase)
{
    json_t *list = json_array();
    b->normalizer = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
    return b->normalizer &&
           appended(list, cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"String\": \"``\"}, \"content\": \"\\\"\"}")) &&
           appended(list, cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"String\": \"''\"}, \"content\": \"\\\"\"}")) &&
           (keep_accents || (appended(list, cb_blueprint_part("{\"type\": \"NFKD\"}")) &&
                             appended(list, cb_blueprint_part("{\"type\": \"StripAccents\"}")))) &&
           (!lowercase || appended(list, cb_blueprint_part("{\"type\": \"Lowercase\"}"))) &&
           (!model->charsmap || appended(list, precompiled(model)));
}

static bool all_pieces(cb_blueprint *b, const cb_spm *model, int32_t unk)
{
    json_t *pieces = json_array();
    bool ok = add_pieces(b, pieces, model, 0);
    return unigram_model(b, pieces, unk, false) && ok;
}

/* [CLS] $A [SEP], and of a pair [CLS] $A [SEP] $B [SEP], whose second part is of type 1. */
static bool cls_and_sep(cb_blueprint *b, const cb_special_default *specials)
{
    const char *cls = cb_blueprint_special(b, specials, "cls_token"), *sep = cb_blueprint_special(b, specials, "sep_token");
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{cls, 0}, {"$A", 0}, {sep, 0}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{cls, 0}, {"$A", 0}, {sep, 0}, {"$B", 1}, {sep, 1}};
    return cb_blueprint_template(b, single, pair);
}

static bool build_albert(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {
        {"bos_token", "[CLS]"}, {"eos_token", "[SEP]"}, {"unk_token", "<unk>"},   {"sep_token", "[SEP]"},
        {"pad_token", "<pad>"}, {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"}, {NULL, NULL}};
    return all_pieces(b, model, 1) &&
           plain_letters(b, model, config_bool(b, "keep_accents", false), config_bool(b, "do_lower_case", true)) &&
           split_at_blanks(b, config_bool(b, "add_prefix_space", true)) && cb_blueprint_add_tokens(b, specials) &&
           add_control(b, model, true) && cls_and_sep(b, specials);
}

static bool build_xlnet(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {
        {"bos_token", "<s>"},   {"eos_token", "</s>"},  {"unk_token", "<unk>"},   {"sep_token", "<sep>"},
        {"pad_token", "<pad>"}, {"cls_token", "<cls>"}, {"mask_token", "<mask>"}, {NULL, NULL}};
    b->mask_lstrip = true;
    bool ok = all_pieces(b, model, 0) && plain_letters(b, model, false, config_bool(b, "do_lower_case", false)) &&
              split_at_blanks(b, true) && cb_blueprint_add_tokens(b, specials) && cb_blueprint_add_extra(b, "<eop>", NULL, true) &&
              cb_blueprint_add_extra(b, "<eod>", NULL, true) && add_control(b, model, true);
    const char *cls = cb_blueprint_special(b, specials, "cls_token"), *sep = cb_blueprint_special(b, specials, "sep_token");
    const cb_template_part single[CB_TEMPLATE_PARTS] = {{"$A", 0}, {sep, 0}, {cls, 2}};
    const cb_template_part pair[CB_TEMPLATE_PARTS] = {{"$A", 0}, {sep, 0}, {"$B", 1}, {sep, 1}, {cls, 2}};
    return ok && cb_blueprint_template(b, single, pair);
}

/* The place of the token for what is unknown, where its score is 0. */
static int32_t find_unknown(const cb_blueprint *b, const cb_spm *model, const char *text)
{
    const json_t *place = json_object_get(b->config, "unk_id");
    for (size_t i = 0; text && i < model->count; i++)
        if (model->pieces[i].score == 0 && strcmp(model->pieces[i].text, text) == 0)
            return (int32_t)i;
    return json_is_integer(place) && json_integer_value(place) >= 0 && (size_t)json_integer_value(place) < model->count
               ? (int32_t)json_integer_value(place)
               : 1;
}

static bool build_deberta_v2(cb_blueprint *b, const cb_spm *model)
{
    static const cb_special_default specials[] = {
        {"bos_token", "[CLS]"}, {"eos_token", "[SEP]"}, {"unk_token", "[UNK]"},   {"sep_token", "[SEP]"},
        {"pad_token", "[PAD]"}, {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"}, {NULL, NULL}};
    const char *scheme = config_bool(b, "add_prefix_space", true) ? "always" : "first";
    json_t *rules = json_array(), *splits = json_array();
    b->normalizer = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", rules);
    b->pre_tokenizer = json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", splits);
    b->decoder = metaspace(scheme, true);
    return b->normalizer && b->pre_tokenizer && b->decoder &&
           (!config_bool(b, "do_lower_case", false) || appended(rules, cb_blueprint_part("{\"type\": \"Lowercase\"}"))) &&
           appended(rules, cb_blueprint_part("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\s{2,}|[\\n\\r\\t]\"}, "
                                             "\"content\": \" \"}")) &&
           appended(rules, cb_blueprint_part("{\"type\": \"NFC\"}")) &&
           appended(rules, cb_blueprint_part("{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}")) &&
           (!config_bool(b, "split_by_punct", false) ||
            appended(splits, cb_blueprint_part("{\"type\": \"Punctuation\", \"behavior\": \"Isolated\"}"))) &&
           appended(splits, metaspace(scheme, true)) &&
           all_pieces(b, model, find_unknown(b, model, cb_blueprint_special(b, specials, "unk_token"))) &&
           cb_blueprint_add_tokens(b, specials) && add_control(b, model, true) && cls_and_sep(b, specials);
}

/* ---- Choosing ---- */

static const struct {
    const char *class;
    bool (*build)(cb_blueprint *b, const cb_spm *model);
    cb_spm_model_type model_type;
} styles[] = {{"LlamaTokenizer", build_llama, CB_SPM_BPE},
              {"CodeLlamaTokenizer", build_llama, CB_SPM_BPE},
              {"GemmaTokenizer", build_gemma, CB_SPM_BPE},
              {"T5Tokenizer", build_t5, CB_SPM_UNIGRAM},
              {"XLMRobertaTokenizer", build_xlm_roberta, CB_SPM_UNIGRAM},
              {"CamembertTokenizer", build_camembert, CB_SPM_UNIGRAM},
              {"AlbertTokenizer", build_albert, CB_SPM_UNIGRAM},
              {"XLNetTokenizer", build_xlnet, CB_SPM_UNIGRAM},
              {"DebertaV2Tokenizer", build_deberta_v2, CB_SPM_UNIGRAM}};

json_t *cb_tokenizer_json_of_sentencepiece(const char *what, const void *bytes, size_t length, const json_t *config, const json_t *specials)
{
    cb_spm model;
    if (!cb_spm_parse(&model, what, bytes, length))
        return NULL;
    cb_blueprint b = {.what = what, .config = config, .specials = specials};
    bool (*build)(cb_blueprint *, const cb_spm *) = build_plain;
    const char *class = cb_blueprint_class(&b);
    for (size_t i = 0; class && i < sizeof styles / sizeof *styles; i++)
        if (cb_blueprint_is(class, styles[i].class) && model.model_type == styles[i].model_type && model.count > 3)
            build = styles[i].build;
    bool ok = cb_blueprint_check_class(&b, class);
    if (ok && (model.model_type == CB_SPM_WORD || model.whitespace_as_suffix))
        ok = (cb_fail(CB_ERR_UNSUPPORTED, "%s: a SentencePiece model %s is not supported", what,
                      model.model_type == CB_SPM_WORD ? "of whole words" : "whose words end with white space"),
              false);
    json_t *json = cb_blueprint_finish(&b, ok && build(&b, &model));
    cb_spm_free(&model);
    return json;
}
