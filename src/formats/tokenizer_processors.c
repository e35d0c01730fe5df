/* tokenizer_processors.c: the post-processors.  They add the special tokens around one text or a pair and trim the spans of
 * byte-level tokens.  On entry work->sequence[0] (and [1], when work->pair) hold the tokens; what they leave is the tokens'
 * final order in work->sequence[0], with work->pair cleared once the two have become one. */
#include <string.h>

#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

/* `first`: an encoding of its own begins with them. */
static bool add_tokens(cb_tokens *to, const cb_token *tokens, size_t count, bool first)
{
    if (count == 0)
        return true;
    if (!cb_grow(&to->items, &to->capacity, to->count + count, sizeof *to->items))
        return false;
    memcpy(to->items + to->count, tokens, count * sizeof *tokens);
    to->items[to->count].first = first;
    to->count += count;
    return true;
}

static bool add_special_token(cb_tokens *to, int32_t id, uint8_t type)
{
    cb_token token = {.id = id, .type = type, .special = 1}; /* spans nothing, so it does not matter whether it is the first */
    return add_tokens(to, &token, 1, false);
}

static void set_type(cb_tokens *tokens, uint8_t type)
{
    for (size_t i = 0; i < tokens->count; i++)
        tokens->items[i].type = type;
}

/* work->result becomes the one sequence. */
static void finish(cb_work *work)
{
    cb_tokens made = work->result;
    work->result = work->sequence[0];
    work->sequence[0] = made;
    work->pair = false;
}

/* ---- Trimming of spans ---- */

/* Moves by characters, as the Python package's spans count them. */
static uint32_t forward(const char *text, size_t length, uint32_t at, uint32_t limit, uint32_t characters)
{
    for (; characters && at < limit; characters--) {
        at++;
        while (at < limit && at < length && cb_utf8_continues(text[at]))
            at++;
    }
    return at;
}

/* Where less than `characters` stand before `at` it stays where it is, as in the package. */
static uint32_t backward(const char *text, size_t length, uint32_t at, uint32_t limit, uint32_t characters)
{
    uint32_t moved = at;
    for (; characters && moved > 0; characters--) {
        moved--;
        while (moved > 0 && moved < length && cb_utf8_continues(text[moved]))
            moved--;
    }
    if (characters)
        return at;
    return moved > limit ? moved : limit;
}

/* A byte-level token carries the space before its word; its span need not.  The space that add_prefix_space put before the
 * first word is not of the text, so there is nothing to trim. */
static void trim(const cb_work *work, cb_tokens *tokens, bool add_prefix_space)
{
    for (size_t i = 0; i < tokens->count && work->spans; i++) {
        cb_token *token = &tokens->items[i];
        uint32_t lead = token->lead;
        if (lead == 1 && add_prefix_space && (token->first || token->begin == 0))
            lead = 0;
        const char *text = work->originals[token->text].bytes;
        size_t length = work->originals[token->text].length;
        if (lead)
            token->begin = forward(text, length, token->begin, token->end, lead);
        if (token->trail)
            token->end = backward(text, length, token->end, token->begin, token->trail);
    }
}

static void trim_all(cb_work *work, bool add_prefix_space)
{
    trim(work, &work->sequence[0], add_prefix_space);
    if (work->pair)
        trim(work, &work->sequence[1], add_prefix_space);
}

/* ---- ByteLevel ---- */

typedef struct offsets_state {
    bool trim_offsets, add_prefix_space;
} offsets_state;

static bool offsets_parse(void *state, const cb_source *source, const json_t *object)
{
    offsets_state *s = state;
    return cb_source_bool(source, object, "trim_offsets", true, &s->trim_offsets) &&
           cb_source_bool(source, object, "add_prefix_space", true, &s->add_prefix_space);
}

static bool byte_level(const void *state, cb_work *work, bool add_special)
{
    const offsets_state *s = state;
    (void)add_special;
    if (s->trim_offsets)
        trim_all(work, s->add_prefix_space);
    return true;
}

/* ---- RobertaProcessing, BertProcessing ---- */

typedef struct pair_state {
    offsets_state offsets; /* Roberta's */
    int32_t sep, cls;
} pair_state;

static bool token_parse(const cb_source *source, const json_t *object, const char *key, int32_t *id)
{
    const json_t *value = json_object_get(object, key);
    const json_t *number = json_array_get(value, 1);
    if (!json_is_string(json_array_get(value, 0)) || !json_is_integer(number) || json_integer_value(number) < 0 ||
        json_integer_value(number) > INT32_MAX)
        return cb_source_fail(source, key, "[text, id]");
    *id = (int32_t)json_integer_value(number);
    return true;
}

static bool pair_parse(void *state, const cb_source *source, const json_t *object)
{
    pair_state *s = state;
    return token_parse(source, object, "sep", &s->sep) && token_parse(source, object, "cls", &s->cls) &&
           offsets_parse(&s->offsets, source, object);
}

static bool roberta(const void *state, cb_work *work, bool add_special)
{
    const pair_state *s = state;
    if (s->offsets.trim_offsets)
        trim_all(work, s->offsets.add_prefix_space);
    for (int which = 0; which < 2; which++)
        if (add_special || !work->later[which]) /* as in the package */
            set_type(&work->sequence[which], 0);
    if (!add_special)
        return true;
    cb_tokens *out = &work->result, *first = &work->sequence[0], *second = &work->sequence[1];
    out->count = 0;
    if (!add_special_token(out, s->cls, 0) || !add_tokens(out, first->items, first->count, false) || !add_special_token(out, s->sep, 0))
        return false;
    if (work->pair &&
        (!add_special_token(out, s->sep, 0) || !add_tokens(out, second->items, second->count, false) || !add_special_token(out, s->sep, 0)))
        return false;
    finish(work);
    return true;
}

static bool bert(const void *state, cb_work *work, bool add_special)
{
    const pair_state *s = state;
    if (!add_special)
        return true;
    cb_tokens *out = &work->result, *first = &work->sequence[0], *second = &work->sequence[1];
    out->count = 0;
    if (!add_special_token(out, s->cls, 0) || !add_tokens(out, first->items, first->count, false) || !add_special_token(out, s->sep, 0))
        return false;
    if (work->pair && (!add_tokens(out, second->items, second->count, true) || !add_special_token(out, s->sep, 1)))
        return false;
    finish(work);
    return true;
}

static size_t roberta_added(const void *state, bool pair)
{
    (void)state;
    return pair ? 4 : 2;
}
static size_t bert_added(const void *state, bool pair)
{
    (void)state;
    return pair ? 3 : 2;
}

/* ---- TemplateProcessing ---- */

typedef struct template_piece {
    int sequence; /* 0 or 1; -1: special tokens */
    uint8_t type;
    int32_t *ids;
    size_t count;
} template_piece;

typedef struct template_pieces {
    template_piece *items;
    size_t count;
} template_pieces;

typedef struct template_state {
    template_pieces single, pair;
} template_state;

/* "$A", "$B:1", "$0", "[CLS]:1" of files that wrote templates as text */
static bool piece_from_text(template_piece *piece, const char *text, char *name, size_t name_size)
{
    size_t length = strcspn(text, ":");
    if (length >= name_size)
        return false;
    memcpy(name, text, length);
    name[length] = 0;
    long type = text[length] ? strtol(text + length + 1, NULL, 10) : 0;
    piece->sequence = -1;
    if (name[0] == '$') {
        piece->sequence = name[1] == 'B' || name[1] == 'b' ? 1 : 0;
        if (name[1] >= '0' && name[1] <= '9' && !text[length])
            type = strtol(name + 1, NULL, 10);
    }
    piece->type = (uint8_t)type;
    return type >= 0 && type <= 255;
}

static bool special_ids(template_piece *piece, const cb_source *source, const json_t *specials, const char *name)
{
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    piece->count = json_array_size(ids);
    if (!json_is_array(ids))
        return cb_fail(CB_ERR_FORMAT, "%s: post_processor %s: special_tokens has no ids for \"%s\"", source->what, source->type, name),
               false;
    piece->ids = cb_calloc(piece->count ? piece->count : 1, sizeof *piece->ids);
    if (!piece->ids)
        return false;
    for (size_t i = 0; i < piece->count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return cb_source_fail(source, "special_tokens", "ids over 0");
        piece->ids[i] = (int32_t)json_integer_value(id);
    }
    return true;
}

static bool piece_parse(template_piece *piece, const cb_source *source, const json_t *specials, const json_t *value)
{
    char name[256];
    const json_t *inner = json_object_get(value, "SpecialToken");
    piece->sequence = -1;
    if (json_is_string(value)) {
        if (!piece_from_text(piece, json_string_value(value), name, sizeof name))
            return cb_source_fail(source, "single", "pieces such as $A or [CLS]:0");
    } else {
        if (!inner) {
            inner = json_object_get(value, "Sequence");
            piece->sequence = 0;
        }
        const char *id = json_string_value(json_object_get(inner, "id"));
        json_int_t type = json_integer_value(json_object_get(inner, "type_id"));
        if (!id || type < 0 || type > 255 || strlen(id) >= sizeof name)
            return cb_source_fail(source, "single", "Sequence or SpecialToken pieces with id and type_id");
        memcpy(name, id, strlen(id) + 1);
        if (piece->sequence == 0)
            piece->sequence = strcmp(id, "B") == 0;
        piece->type = (uint8_t)type;
    }
    return piece->sequence >= 0 || special_ids(piece, source, specials, name);
}

static bool pieces_parse(template_pieces *pieces, const cb_source *source, const json_t *object, const char *key, bool required)
{
    const json_t *list = json_object_get(object, key);
    if (!list && !required)
        return true;
    if (!json_is_array(list))
        return cb_source_fail(source, key, "a list of pieces");
    size_t count = json_array_size(list);
    pieces->items = cb_calloc(count ? count : 1, sizeof *pieces->items);
    if (!pieces->items)
        return false;
    for (size_t i = 0; i < count; i++) {
        pieces->count = i + 1;
        if (!piece_parse(&pieces->items[i], source, json_object_get(object, "special_tokens"), json_array_get(list, i)))
            return false;
    }
    return true;
}

static bool template_parse(void *state, const cb_source *source, const json_t *object)
{
    template_state *s = state;
    if (!pieces_parse(&s->single, source, object, "single", true) || !pieces_parse(&s->pair, source, object, "pair", false))
        return false;
    for (size_t i = 0; i < s->single.count; i++)
        if (s->single.items[i].sequence == 1)
            return cb_source_fail(source, "single", "no second sequence");
    return true;
}

static void template_release(void *state)
{
    template_state *s = state;
    template_pieces *both[2] = {&s->single, &s->pair};
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < both[k]->count; i++)
            cb_free(both[k]->items[i].ids);
        cb_free(both[k]->items);
    }
}

static bool template_process(const void *state, cb_work *work, bool add_special)
{
    const template_state *s = state;
    const template_pieces *pieces = work->pair ? &s->pair : &s->single;
    cb_tokens *out = &work->result;
    out->count = 0;
    for (size_t i = 0; i < pieces->count; i++) {
        const template_piece *piece = &pieces->items[i];
        if (piece->sequence >= 0) {
            cb_tokens *tokens = &work->sequence[piece->sequence];
            if (!work->later[piece->sequence]) /* as in the package */
                set_type(tokens, piece->type);
            if (!add_tokens(out, tokens->items, tokens->count, true))
                return false;
            continue;
        }
        for (size_t k = 0; add_special && k < piece->count; k++)
            if (!add_special_token(out, piece->ids[k], piece->type))
                return false;
    }
    finish(work);
    return true;
}

static size_t template_added(const void *state, bool pair)
{
    const template_state *s = state;
    const template_pieces *pieces = pair ? &s->pair : &s->single;
    size_t count = 0;
    for (size_t i = 0; i < pieces->count; i++)
        count += pieces->items[i].sequence < 0 ? pieces->items[i].count : 0;
    return count;
}

static bool template_second_first(const void *state)
{
    const template_pieces *pieces = &((const template_state *)state)->pair;
    for (size_t i = 0; i < pieces->count; i++)
        if (pieces->items[i].sequence >= 0)
            return pieces->items[i].sequence == 1;
    return false;
}

/* ---- Sequence and the table ---- */

static bool sequence(const void *state, cb_work *work, bool add_special)
{
    const cb_component_list *list = state;
    for (size_t i = 0; i < list->count; i++)
        if (!list->items[i].kind->process(list->items[i].state, work, add_special))
            return false;
    return true;
}

static size_t sequence_added(const void *state, bool pair)
{
    const cb_component_list *list = state;
    size_t count = 0;
    for (size_t i = 0; i < list->count; i++)
        count += list->items[i].kind->added ? list->items[i].kind->added(list->items[i].state, pair) : 0;
    return count;
}

static bool sequence_second_first(const void *state)
{
    const cb_component_list *list = state;
    bool second = false;
    for (size_t i = 0; i < list->count; i++)
        second |= list->items[i].kind->second_first && list->items[i].kind->second_first(list->items[i].state);
    return second;
}

static const cb_component_kind kind_byte_level = {
    .type = "ByteLevel", .state_size = sizeof(offsets_state), .parse = offsets_parse, .process = byte_level};
static const cb_component_kind kind_roberta = {
    .type = "RobertaProcessing", .state_size = sizeof(pair_state), .parse = pair_parse, .process = roberta, .added = roberta_added};
static const cb_component_kind kind_bert = {
    .type = "BertProcessing", .state_size = sizeof(pair_state), .parse = pair_parse, .process = bert, .added = bert_added};
static const cb_component_kind kind_template = {.type = "TemplateProcessing",
                                                .state_size = sizeof(template_state),
                                                .parse = template_parse,
                                                .release = template_release,
                                                .process = template_process,
                                                .added = template_added,
                                                .second_first = template_second_first};
static const cb_component_kind kind_sequence = {.type = "Sequence",
                                                .state_size = sizeof(cb_component_list),
                                                .parse = cb_component_list_parse,
                                                .release = cb_component_list_free,
                                                .process = sequence,
                                                .added = sequence_added,
                                                .second_first = sequence_second_first};

static const cb_component_kind *const kinds[] = {&kind_byte_level, &kind_roberta, &kind_bert, &kind_template, &kind_sequence, NULL};
const cb_role cb_post_processor_role = {"post_processor", "processors", kinds};
