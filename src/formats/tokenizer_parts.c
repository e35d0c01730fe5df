/* tokenizer_parts.c: reading components out of JSON, and the vocabulary table. */
#include "formats/tokenizer_parts.h"

#include <string.h>

#include "formats/tokenizer_unicode.h"

enum { max_depth = 16, max_longest = 1 << 24, max_vocab = 4 << 20, max_id = (1 << 24) - 1 };

/* ---- Fields ---- */

bool cb_source_fail(const cb_source *source, const char *key, const char *expected)
{
    return cb_fail(CB_ERR_FORMAT, "%s: %s %s: \"%s\" must be %s", source->what, source->role->name, source->type ? source->type : "", key,
                   expected),
           false;
}

bool cb_source_bool(const cb_source *source, const json_t *object, const char *key, bool fallback, bool *out)
{
    const json_t *value = json_object_get(object, key);
    *out = fallback;
    if (!value || json_is_null(value))
        return true;
    if (!json_is_boolean(value))
        return cb_source_fail(source, key, "true or false");
    *out = json_is_true(value);
    return true;
}

bool cb_source_string(const cb_source *source, const json_t *object, const char *key, const char *fallback, char **out, size_t *length)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_string(value)) {
        *length = json_string_length(value);
        *out = cb_strndup(json_string_value(value), *length);
        return *out != NULL;
    }
    if (!fallback || (value && !json_is_null(value)))
        return cb_source_fail(source, key, "a string");
    *length = strlen(fallback);
    *out = cb_strdup(fallback);
    return *out != NULL;
}

bool cb_source_optional(const cb_source *source, const json_t *object, const char *key, char **text, size_t *length)
{
    *length = 0;
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value) || cb_source_string(source, object, key, NULL, text, length);
}

bool cb_source_code(const cb_source *source, const json_t *object, const char *key, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value) || json_string_length(value) == 0)
        return cb_source_fail(source, key, "one character");
    unsigned size;
    *out = cb_utf8_read(json_string_value(value), &size);
    return size == json_string_length(value) || cb_source_fail(source, key, "one character");
}

bool cb_source_count(const cb_source *source, const json_t *object, const char *key, int64_t fallback, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);
    int64_t number = fallback;
    if (value && !json_is_null(value)) {
        if (!json_is_integer(value))
            return cb_source_fail(source, key, "a whole number");
        number = json_integer_value(value);
    }
    if (number < 0 || number > UINT32_MAX)
        return cb_source_fail(source, key, "a whole number from 0 to 4294967295");
    *out = (uint32_t)number;
    return true;
}

bool cb_source_pattern(const cb_source *source, const json_t *object, bool scan, cb_pattern *out)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const json_t *string = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    if (json_is_string(pattern))
        string = pattern;
    if (json_is_string(string)) {
        if (json_string_length(string) == 0) /* an empty string matches between characters */
            return cb_pattern_regex(out, source->what, "", false);
        return cb_pattern_literal(out, json_string_value(string), json_string_length(string));
    }
    if (!json_is_string(regex))
        return cb_source_fail(source, "pattern", "{\"String\": ...} or {\"Regex\": ...}");
    if (strlen(json_string_value(regex)) != json_string_length(regex))
        return cb_source_fail(source, "pattern", "free of NUL characters");
    return cb_pattern_regex(out, source->what, json_string_value(regex), scan);
}

bool cb_replacement_parse(void *state, const cb_source *source, const json_t *object)
{
    cb_replacement *s = state;
    return cb_source_pattern(source, object, false, &s->pattern) &&
           cb_source_string(source, object, "content", NULL, &s->content, &s->length);
}

void cb_replacement_release(void *state)
{
    cb_replacement *s = state;
    cb_pattern_free(&s->pattern);
    cb_free(s->content);
}

bool cb_source_behavior(const cb_source *source, const json_t *object, cb_split_behavior *out, bool required)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(json_object_get(object, "behavior"));
    if (!name && !required)
        return true;
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            *out = (cb_split_behavior)i;
            return true;
        }
    }
    return cb_source_fail(source, "behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

/* ---- Components ---- */

static const cb_component_kind *find_kind(const cb_role *role, const char *type)
{
    for (const cb_component_kind *const *kind = role->kinds; *kind; kind++)
        if (strcmp((*kind)->type, type) == 0)
            return *kind;
    return NULL;
}

static bool unknown_kind(const cb_source *source, const char *type)
{
    cb_string known = {0};
    for (const cb_component_kind *const *kind = source->role->kinds; *kind; kind++)
        if (!cb_string_printf(&known, "%s%s", known.length ? ", " : "", (*kind)->type))
            break;
    cb_fail(CB_ERR_UNSUPPORTED, "%s: %s of type \"%s\" is not supported; known: %s", source->what, source->role->name, type,
            known.data ? known.data : "");
    cb_string_free(&known);
    return false;
}

bool cb_component_parse(cb_component *component, const cb_source *source, const json_t *value)
{
    *component = (cb_component){0};
    if (!value || json_is_null(value))
        return true;
    if (source->depth > max_depth)
        return cb_fail(CB_ERR_FORMAT, "%s: %s: nested more than %d deep", source->what, source->role->name, max_depth), false;
    const char *type = json_string_value(json_object_get(value, "type"));
    if (!type)
        return cb_fail(CB_ERR_FORMAT, "%s: %s has no \"type\"", source->what, source->role->name), false;
    if (strcmp(type, "Bert") == 0 && source->role == &cb_normalizer_role)
        type = "BertNormalizer";
    if (strcmp(type, "Delimiter") == 0 && source->role == &cb_pre_tokenizer_role)
        type = "CharDelimiterSplit";
    component->kind = find_kind(source->role, type);
    if (!component->kind)
        return unknown_kind(source, type);
    component->state = cb_calloc(1, component->kind->state_size + 1);
    if (!component->state)
        return false;
    cb_source inner = *source;
    inner.type = type;
    return !component->kind->parse || component->kind->parse(component->state, &inner, value);
}

void cb_component_free(cb_component *component)
{
    if (component->kind && component->kind->release && component->state)
        component->kind->release(component->state);
    cb_free(component->state);
    *component = (cb_component){0};
}

bool cb_component_list_parse(void *state, const cb_source *source, const json_t *object)
{
    cb_component_list *list = state;
    const json_t *children = json_object_get(object, source->role->children);
    if (!json_is_array(children))
        return cb_source_fail(source, source->role->children, "a list");
    list->items = cb_calloc(json_array_size(children) + 1, sizeof *list->items);
    if (!list->items)
        return false;
    cb_source inner = *source;
    inner.depth++;
    for (size_t i = 0; i < json_array_size(children); i++) {
        const json_t *child = json_array_get(children, i);
        list->count = i + 1;
        if (!json_is_object(child))
            return cb_source_fail(source, source->role->children, "a list of objects");
        if (!cb_component_parse(&list->items[i], &inner, child))
            return false;
    }
    return true;
}

void cb_component_list_free(void *state)
{
    cb_component_list *list = state;
    for (size_t i = 0; i < list->count; i++)
        cb_component_free(&list->items[i]);
    cb_free(list->items);
}

/* ---- Vocabulary ---- */

static size_t vocab_slot(const cb_vocab *vocab, const char *text, size_t length)
{
    size_t mask = vocab->slot_count - 1, slot = (size_t)cb_hash_bytes(text, length) & mask;
    for (; vocab->slots[slot]; slot = (slot + 1) & mask) {
        uint32_t entry = vocab->slots[slot] - 1;
        if (vocab->lengths[entry] == length && memcmp(vocab->pool + vocab->starts[entry], text, length) == 0)
            break;
    }
    return slot;
}

static bool grow_slots(cb_vocab *vocab)
{
    size_t count = vocab->slot_count ? vocab->slot_count * 2 : 1024;
    uint32_t *slots = cb_calloc(count, sizeof *slots);
    if (!slots)
        return false;
    cb_free(vocab->slots);
    vocab->slots = slots;
    vocab->slot_count = count;
    for (size_t i = 0; i < vocab->count; i++)
        slots[vocab_slot(vocab, vocab->pool + vocab->starts[i], vocab->lengths[i])] = (uint32_t)i + 1;
    return true;
}

static bool grow_entries(cb_vocab *vocab)
{
    size_t starts = vocab->capacity, lengths = vocab->capacity, ids = vocab->capacity, need = vocab->count + 1;
    if (!cb_grow(&vocab->starts, &starts, need, sizeof *vocab->starts) ||
        !cb_grow(&vocab->lengths, &lengths, need, sizeof *vocab->lengths) || !cb_grow(&vocab->ids, &ids, need, sizeof *vocab->ids))
        return false;
    vocab->capacity = starts;
    return true;
}

bool cb_vocab_add(cb_vocab *vocab, const char *text, size_t length, int32_t id)
{
    if (length > max_longest || vocab->pool_length + length + 1 > UINT32_MAX)
        return cb_fail(CB_ERR_FORMAT, "a vocabulary entry of %zu bytes is too long", length), false;
    if (vocab->count * 2 >= vocab->slot_count && !grow_slots(vocab))
        return false;
    size_t slot = vocab_slot(vocab, text, length);
    if (vocab->slots[slot]) {
        vocab->ids[vocab->slots[slot] - 1] = id;
        return true;
    }
    if (vocab->count == vocab->capacity && !grow_entries(vocab))
        return false;
    if (!cb_grow(&vocab->pool, &vocab->pool_capacity, vocab->pool_length + length + 1, 1))
        return false;
    vocab->starts[vocab->count] = (uint32_t)vocab->pool_length;
    vocab->lengths[vocab->count] = (uint32_t)length;
    vocab->ids[vocab->count] = id;
    memcpy(vocab->pool + vocab->pool_length, text, length);
    vocab->pool[vocab->pool_length + length] = 0;
    vocab->pool_length += length + 1;
    vocab->slots[slot] = (uint32_t)++vocab->count;
    if (length > vocab->longest)
        vocab->longest = length;
    return true;
}

bool cb_vocab_index(cb_vocab *vocab)
{
    size_t limit = 0;
    for (size_t i = 0; i < vocab->count; i++)
        if ((size_t)vocab->ids[i] + 1 > limit)
            limit = (size_t)vocab->ids[i] + 1;
    cb_free(vocab->by_id);
    vocab->by_id = cb_calloc(limit + 1, sizeof *vocab->by_id);
    vocab->id_limit = vocab->by_id ? limit : 0;
    for (size_t i = 0; vocab->by_id && i < vocab->count; i++)
        vocab->by_id[vocab->ids[i]] = (uint32_t)i + 1;
    return vocab->by_id != NULL;
}

/* Adds an entry whose text has `nul` where a NUL character is meant. */
static bool add_with_nul(cb_vocab *vocab, const char *key, const char *nul, int32_t id)
{
    cb_string text = {0};
    bool ok = true;
    for (const char *found; ok && (found = strstr(key, nul)); key = found + strlen(nul))
        ok = cb_string_append(&text, key, (size_t)(found - key)) && cb_string_append(&text, "", 1);
    ok = ok && cb_string_puts(&text, key) && cb_vocab_add(vocab, text.data, text.length, id);
    cb_string_free(&text);
    return ok;
}

bool cb_vocab_parse(cb_vocab *vocab, const cb_source *source, const json_t *model)
{
    const json_t *object = json_object_get(model, "vocab");
    const char *key;
    json_t *value;
    if (!json_is_object(object) || json_object_size(object) > max_vocab)
        return cb_fail(CB_ERR_FORMAT, "%s: model %s: \"vocab\" must be an object of at most %d entries", source->what, source->type,
                       max_vocab),
               false;
    json_object_foreach((json_t *)object, key, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > max_id)
            return cb_fail(CB_ERR_FORMAT, "%s: model %s: the id of \"%s\" must be a whole number from 0 to %d", source->what, source->type,
                           key, max_id),
                   false;
        if (source->nul ? !add_with_nul(vocab, key, source->nul, (int32_t)id) : !cb_vocab_add(vocab, key, strlen(key), (int32_t)id))
            return false;
    }
    vocab->listed = vocab->count;
    return cb_vocab_index(vocab);
}

uint32_t cb_vocab_entry(const cb_vocab *vocab, const char *text, size_t length)
{
    return length > vocab->longest || !vocab->slot_count ? 0 : vocab->slots[vocab_slot(vocab, text, length)];
}

int32_t cb_vocab_find(const cb_vocab *vocab, const char *text, size_t length)
{
    uint32_t entry = cb_vocab_entry(vocab, text, length);
    return entry ? vocab->ids[entry - 1] : -1;
}

bool cb_vocab_trie(const cb_vocab *vocab, cb_trie *trie)
{
    cb_trie_key *keys = cb_alloc((vocab->count + 1) * sizeof *keys);
    if (!keys)
        return false;
    for (size_t i = 0; i < vocab->count; i++)
        keys[i] = (cb_trie_key){vocab->pool + vocab->starts[i], vocab->lengths[i], vocab->ids[i]};
    bool ok = cb_trie_build(trie, keys, vocab->count);
    cb_free(keys);
    return ok;
}

const char *cb_vocab_text(const cb_vocab *vocab, int32_t id, size_t *length)
{
    if (id < 0 || (size_t)id >= vocab->id_limit || !vocab->by_id[id])
        return NULL;
    uint32_t entry = vocab->by_id[id] - 1;
    *length = vocab->lengths[entry];
    return vocab->pool + vocab->starts[entry];
}

void cb_vocab_free(cb_vocab *vocab)
{
    cb_free(vocab->pool);
    cb_free(vocab->starts);
    cb_free(vocab->lengths);
    cb_free(vocab->ids);
    cb_free(vocab->slots);
    cb_free(vocab->by_id);
    *vocab = (cb_vocab){0};
}
