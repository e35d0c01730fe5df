/* tokenizer_blueprint.c: putting a tokenizer.json together. */
#include "formats/tokenizer_blueprint.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"

static const char *const special_names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
enum { SPECIALS = sizeof special_names / sizeof *special_names };

static bool no_memory(const cb_blueprint *b)
{
    return cb_fail(CB_ERR_MEMORY, "%s: out of memory", b->what), false;
}

/* ---- The class ---- */

const char *cb_blueprint_class(const cb_blueprint *b)
{
    return json_string_value(json_object_get(b->config, "tokenizer_class"));
}

bool cb_blueprint_is(const char *class, const char *name)
{
    size_t n = strlen(name);
    return strncmp(class, name, n) == 0 && (!class[n] || strcmp(class + n, "Fast") == 0);
}

bool cb_blueprint_check_class(const cb_blueprint *b, const char *class)
{
    static const char *const others[] = {
        "BarthezTokenizer",    "BertJapaneseTokenizer", "BertweetTokenizer",    "BigBirdTokenizer", "BlenderbotTokenizer",
        "CohereTokenizer",     "FNetTokenizer",         "FSMTTokenizer",        "FunnelTokenizer",  "HerbertTokenizer",
        "LayoutLMv3Tokenizer", "LayoutXLMTokenizer",    "LukeTokenizer",        "M2M100Tokenizer",  "MarianTokenizer",
        "MBart50Tokenizer",    "MBartTokenizer",        "MLukeTokenizer",       "NllbTokenizer",    "OpenAIGPTTokenizer",
        "PLBartTokenizer",     "PegasusTokenizer",      "PhobertTokenizer",     "Qwen3_5Tokenizer", "ReformerTokenizer",
        "RemBertTokenizer",    "RoFormerTokenizer",     "SeamlessM4TTokenizer", "SiglipTokenizer",  "Speech2TextTokenizer",
        "SplinterTokenizer",   "UdopTokenizer",         "WhisperTokenizer",     "XGLMTokenizer",    "XLMTokenizer"};
    for (size_t i = 0; class && i < sizeof others / sizeof *others; i++)
        if (cb_blueprint_is(class, others[i]))
            return cb_fail(CB_ERR_UNSUPPORTED,
                           "%s: tokenizer_class: found %s, which is read from a tokenizer.json only: save_pretrained() of transformers "
                           "writes one",
                           b->what, class),
                   false;
    return true;
}

/* ---- Added tokens ---- */

static const char *content_of(const json_t *value)
{
    return json_is_object(value) ? json_string_value(json_object_get(value, "content")) : json_string_value(value);
}

/* What the files say about a special token; NULL: nothing. */
static const json_t *find_special(const cb_blueprint *b, const char *name)
{
    const json_t *value = json_object_get(b->config, name);
    return value ? value : json_object_get(b->specials, name);
}

const char *cb_blueprint_special(const cb_blueprint *b, const cb_special_default *defaults, const char *name)
{
    const json_t *value = find_special(b, name);
    if (value)
        return content_of(value);
    for (; defaults->name; defaults++)
        if (strcmp(defaults->name, name) == 0)
            return defaults->content;
    return NULL;
}

int32_t cb_blueprint_id(const cb_blueprint *b, const char *content)
{
    int32_t id = cb_vocab_find(&b->vocab, content, strlen(content));
    return id >= 0 ? id : cb_vocab_find(&b->added_ids, content, strlen(content));
}

static int flag(const json_t *flags, const char *name)
{
    return json_is_true(json_object_get(flags, name));
}

static json_t *token_json(int32_t id, const char *content, const json_t *flags, bool special)
{
    special |= flag(flags, "special") != 0;
    const json_t *normalized = json_object_get(flags, "normalized");
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)id, "content", content, "single_word", flag(flags, "single_word"),
                     "lstrip", flag(flags, "lstrip"), "rstrip", flag(flags, "rstrip"), "normalized",
                     normalized ? json_is_true(normalized) : !special, "special", (int)special);
}

bool cb_blueprint_add(cb_blueprint *b, const char *content, const json_t *flags, bool special)
{
    if (!content || !*content || cb_vocab_find(&b->added_ids, content, strlen(content)) >= 0)
        return true;
    if (!b->added && !(b->added = json_array()))
        return no_memory(b);
    if (b->next_id == 0)
        b->next_id = (int32_t)b->vocab.count;
    int32_t id = cb_vocab_find(&b->vocab, content, strlen(content));
    id = id >= 0 ? id : b->next_id++;
    return cb_json_add(b->added, token_json(id, content, flags, special)) ? cb_vocab_add(&b->added_ids, content, strlen(content), id)
                                                                          : no_memory(b);
}

bool cb_blueprint_add_extra(cb_blueprint *b, const char *content, const json_t *flags, bool special)
{
    uint32_t entry = content ? cb_vocab_entry(&b->added_ids, content, strlen(content)) : 0;
    if (!entry)
        return cb_blueprint_add(b, content, flags, special);
    if (entry <= b->fixed)
        return true;
    json_t *token = token_json(b->added_ids.ids[entry - 1], content, flags, special);
    return json_array_set_new(b->added, entry - 1, token) == 0 || no_memory(b);
}

typedef struct numbered {
    long id;
    const json_t *token;
} numbered;

static int by_id(const void *a, const void *b)
{
    const numbered *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* added_tokens_decoder: {"0": {"content": "<unk>", ...}, ...} */
static bool add_decoder(cb_blueprint *b)
{
    json_t *object = json_object_get(b->config, "added_tokens_decoder"), *token;
    const char *key;
    size_t count = 0;
    numbered *list = cb_alloc((json_object_size(object) + 1) * sizeof *list);
    if (!list)
        return false;
    json_object_foreach(object, key, token) list[count++] = (numbered){strtol(key, NULL, 10), token};
    qsort(list, count, sizeof *list, by_id);
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_blueprint_add(b, content_of(list[i].token), json_is_object(list[i].token) ? list[i].token : NULL, false);
    cb_free(list);
    return ok;
}

bool cb_blueprint_add_tokens(cb_blueprint *b, const cb_special_default *defaults)
{
    bool ok = add_decoder(b);
    b->fixed = b->added_ids.count;
    json_t *strips = b->mask_lstrip ? json_pack("{s:b}", "lstrip", 1) : NULL;
    for (size_t i = 0; ok && i < SPECIALS; i++) {
        const json_t *value = find_special(b, special_names[i]), *plain = strcmp(special_names[i], "mask_token") == 0 ? strips : NULL;
        ok = cb_blueprint_add(b, cb_blueprint_special(b, defaults, special_names[i]), json_is_object(value) ? value : plain, true);
    }
    json_decref(strips);
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    for (size_t k = 0; ok && k < 2; k++) {
        const json_t *list = find_special(b, lists[k]);
        for (size_t i = 0; ok && i < json_array_size(list); i++) {
            const json_t *value = json_array_get(list, i);
            ok = cb_blueprint_add_extra(b, content_of(value), json_is_object(value) ? value : NULL, true);
        }
    }
    return ok;
}

/* ---- The template ---- */

static json_t *template_parts(const cb_template_part *parts)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < CB_TEMPLATE_PARTS; i++) {
        const char *text = parts[i].text;
        if (!text)
            continue;
        bool sequence = text[0] == '$' && (text[1] == 'A' || text[1] == 'B') && !text[2];
        cb_json_add(list,
                    json_pack("{s:{s:s, s:i}}", sequence ? "Sequence" : "SpecialToken", "id", text + sequence, "type_id", parts[i].type));
    }
    return list;
}

bool cb_blueprint_template(cb_blueprint *b, const cb_template_part single[CB_TEMPLATE_PARTS],
                           const cb_template_part pair[CB_TEMPLATE_PARTS])
{
    json_t *tokens = json_object();
    for (size_t i = 0; tokens && i < CB_TEMPLATE_PARTS; i++) {
        const char *text = single[i].text;
        if (!text || text[0] == '$')
            continue;
        int32_t id = cb_blueprint_id(b, text);
        if (id >= 0)
            cb_json_put(tokens, text, json_pack("{s:s, s:[i], s:[s]}", "id", text, "ids", (int)id, "tokens", text));
    }
    b->post_processor = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", template_parts(single), "pair",
                                  template_parts(pair), "special_tokens", tokens);
    return (b->post_processor && cb_ok()) || no_memory(b);
}

/* ---- The whole ---- */

json_t *cb_blueprint_part(const char *text)
{
    return cb_json_made(json_loads(text, 0, NULL));
}

json_t *cb_blueprint_vocab(const cb_blueprint *b)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < b->vocab.count; i++)
        if (json_object_set_new_nocheck(object, b->vocab.pool + b->vocab.starts[i], json_integer(b->vocab.ids[i])) != 0) {
            json_decref(object);
            return NULL;
        }
    return object;
}

static int by_token_id(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id")), y;
    y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));
    return (x > y) - (x < y);
}

/* Files list the tokens by id. */
static bool sort_added(cb_blueprint *b)
{
    size_t count = json_array_size(b->added);
    json_t **items = cb_alloc((count + 1) * sizeof *items);
    json_t *sorted = items ? json_array() : NULL;
    for (size_t i = 0; items && i < count; i++)
        items[i] = json_array_get(b->added, i);
    if (count && items)
        qsort(items, count, sizeof *items, by_token_id);
    bool ok = sorted;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_json_add(sorted, json_incref(items[i]));
    cb_free(items);
    json_decref(b->added);
    b->added = sorted;
    return ok;
}

static json_t *or_null(json_t *part)
{
    return part ? part : json_null();
}

json_t *cb_blueprint_finish(cb_blueprint *b, bool ok)
{
    json_t *json = NULL;
    if (ok && b->model && sort_added(b)) {
        json = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens",
                         b->added, "normalizer", or_null(b->normalizer), "pre_tokenizer", or_null(b->pre_tokenizer), "post_processor",
                         or_null(b->post_processor), "decoder", or_null(b->decoder), "model", b->model);
    } else {
        json_decref(b->model);
        json_decref(b->normalizer);
        json_decref(b->pre_tokenizer);
        json_decref(b->post_processor);
        json_decref(b->decoder);
        json_decref(b->added);
    }
    if (!json && cb_ok())
        no_memory(b);
    cb_vocab_free(&b->vocab);
    cb_vocab_free(&b->added_ids);
    return json;
}

/* ---- Merges ---- */

typedef struct merge {
    const cb_merge_piece *whole;
    uint32_t left; /* bytes of its left part */
} merge;

static int first_id_first(const void *a_, const void *b_)
{
    const merge *a = a_, *b = b_;
    if (a->whole->id != b->whole->id)
        return a->whole->id < b->whole->id ? -1 : 1;
    return a->left < b->left ? -1 : 1;
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

static bool find_merges(const cb_merge_piece *pieces, size_t count, merge **out, size_t *found)
{
    cb_vocab texts = {0};
    size_t capacity = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_vocab_add(&texts, pieces[i].text, pieces[i].length, 0);
    for (size_t i = 0; ok && i < count; i++) {
        const cb_merge_piece *p = &pieces[i];
        for (size_t left = 1; ok && left < p->length; left++) {
            if (cb_vocab_find(&texts, p->text, left) < 0 || cb_vocab_find(&texts, p->text + left, p->length - left) < 0)
                continue;
            ok = cb_grow(out, &capacity, *found + 1, sizeof **out);
            if (ok)
                (*out)[(*found)++] = (merge){p, (uint32_t)left};
        }
    }
    cb_vocab_free(&texts);
    return ok;
}

/* "left right": the form that every release of tokenizers reads; the other where a piece holds a blank. */
static json_t *merge_json(const merge *m)
{
    const cb_merge_piece *p = m->whole;
    size_t left = m->left;
    if (memchr(p->text, ' ', p->length))
        return json_pack("[s%, s%]", p->text, left, p->text + left, p->length - left);
    return json_sprintf("%.*s %.*s", (int)left, p->text, (int)(p->length - left), p->text + left);
}

json_t *cb_merges_of_pieces(const cb_merge_piece *pieces, size_t count, bool by_score)
{
    merge *merges = NULL;
    size_t found = 0;
    json_t *list = find_merges(pieces, count, &merges, &found) ? json_array() : NULL;
    if (found)
        qsort(merges, found, sizeof *merges, by_score ? best_first : first_id_first);
    for (size_t i = 0; list && i < found; i++)
        cb_json_add(list, merge_json(&merges[i]));
    cb_free(merges);
    return cb_json_made(list);
}
