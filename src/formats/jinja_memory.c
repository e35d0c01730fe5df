/* jinja_memory.c: what templates and renderings are made of: an arena with a limit, texts, lists and dicts in it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "formats/jinja.h"

struct jinja_chunk {
    jinja_chunk *next;
    size_t pad;
};

enum { CHUNK = 32 << 10 };

void *jinja_arena_take(jinja_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > arena->size - arena->used || !arena->chunks) {
        size_t size = bytes > CHUNK / 2 ? bytes : CHUNK;
        if (arena->limit && arena->total + size > arena->limit)
            return NULL;
        jinja_chunk *chunk = cb_alloc(sizeof *chunk + size);
        if (!chunk)
            return NULL;
        arena->total += size;
        if (size == bytes && arena->chunks && arena->size - arena->used > 256) { /* a large piece of its own; go on with the old one */
            chunk->next = arena->chunks->next;
            arena->chunks->next = chunk;
            return chunk + 1;
        }
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->size = size;
        arena->used = 0;
    }
    void *block = (char *)(arena->chunks + 1) + arena->used;
    arena->used += bytes;
    return block;
}

void jinja_arena_free(jinja_arena *arena)
{
    while (arena->chunks) {
        jinja_chunk *next = arena->chunks->next;
        cb_free(arena->chunks);
        arena->chunks = next;
    }
    *arena = (jinja_arena){.limit = arena->limit};
}

CB_COLD bool jinja_fail(jinja_state *state, const char *format, ...)
{
    char message[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    for (char *at = message; *at; at++) /* one line */
        if (*at == '\n')
            *at = ' ';
    size_t bad; /* a text that was cut within a character */
    if (!cb_utf8_valid(message, strlen(message), &bad))
        message[bad] = '\0';
    state->failed = true;
    return cb_fail(CB_ERR_FORMAT, "%s:%d: %s", state->template->what, state->line, message) == CB_OK;
}

enum { MOST_STEPS = 30 << 20 };

bool jinja_spend(jinja_state *state, uint64_t steps)
{
    state->steps += steps;
    return state->steps <= MOST_STEPS || jinja_fail(state, "the template takes more than %d steps", MOST_STEPS);
}

void *jinja_take(jinja_state *state, size_t bytes)
{
    void *block = jinja_arena_take(&state->arena, bytes);
    if (!block && cb_ok())
        jinja_fail(state, "the template takes more than %llu bytes of memory", (unsigned long long)state->arena.limit);
    state->failed |= !block;
    return block;
}

bool jinja_deeper(jinja_state *state)
{
    if (state->depth < JINJA_MOST_DEPTH) {
        state->depth++;
        return true;
    }
    return jinja_fail(state, "found more than %d levels of calls and expressions in one another", JINJA_MOST_DEPTH);
}

/* ---- texts ---- */

bool jinja_put(jinja_state *state, jinja_text *text, const char *bytes, size_t length)
{
    if (length > text->capacity - text->length) {
        size_t capacity = text->capacity < 64 ? 64 : text->capacity * 2;
        while (capacity - text->length < length && capacity < SIZE_MAX / 4)
            capacity *= 2;
        char *data = jinja_take(state, capacity);
        if (!data)
            return false;
        if (text->length)
            memcpy(data, text->data, text->length);
        text->data = data;
        text->capacity = capacity;
    }
    if (length)
        memcpy(text->data + text->length, bytes, length);
    text->length += length;
    return true;
}

bool jinja_puts(jinja_state *state, jinja_text *text, const char *bytes)
{
    return jinja_put(state, text, bytes, strlen(bytes));
}

size_t jinja_count_points(const char *bytes, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += ((unsigned char)bytes[i] & 0xc0) != 0x80;
    return n;
}

bool jinja_string_value(jinja_state *state, const char *bytes, size_t length, jinja_value *out)
{
    jinja_string *s = jinja_take(state, sizeof *s + length + 1);
    if (!s || !jinja_spend(state, length / 256))
        return false;
    char *data = (char *)(s + 1);
    if (length)
        memcpy(data, bytes, length);
    data[length] = '\0';
    *s = (jinja_string){.data = data, .length = length, .points = jinja_count_points(data, length)};
    *out = (jinja_value){.type = JINJA_STRING, .s = s};
    return true;
}

bool jinja_text_value(jinja_state *state, const jinja_text *text, jinja_value *out)
{
    return jinja_string_value(state, text->data, text->length, out);
}

bool jinja_substring(jinja_state *state, const jinja_string *s, size_t begin, size_t end, jinja_value *out)
{
    if (begin == 0 && end == s->length) {
        *out = (jinja_value){.type = JINJA_STRING, .s = s};
        return true;
    }
    if (!jinja_string_value(state, s->data + begin, end - begin, out))
        return false;
    ((jinja_string *)out->s)->markup = s->markup;
    return true;
}

size_t jinja_point_offset(const jinja_string *s, size_t point)
{
    if (point >= s->points)
        return s->length;
    if (s->points == s->length)
        return point;
    size_t at = 0;
    for (; point > 0; point--)
        do
            at++;
        while (((unsigned char)s->data[at] & 0xc0) == 0x80);
    return at;
}

/* ---- lists ---- */

bool jinja_new_list(jinja_state *state, jinja_type type, size_t capacity, jinja_value *out)
{
    jinja_list *list = jinja_take(state, sizeof *list);
    if (!list)
        return false;
    *list = (jinja_list){.capacity = capacity};
    if (capacity && !(list->items = jinja_take(state, capacity * sizeof *list->items)))
        return false;
    *out = (jinja_value){.type = type, .list = list};
    return true;
}

bool jinja_append(jinja_state *state, jinja_list *list, jinja_value value)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity < 4 ? 4 : list->capacity * 2;
        jinja_value *items = jinja_take(state, capacity * sizeof *items);
        if (!items)
            return false;
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = value;
    return true;
}

bool jinja_pair(jinja_state *state, jinja_value a, jinja_value b, jinja_value *out)
{
    return jinja_new_list(state, JINJA_TUPLE, 2, out) && jinja_append(state, out->list, a) && jinja_append(state, out->list, b);
}

/* ---- dicts ---- */

enum { FEW = 8 }; /* entries that are looked through one by one */

bool jinja_new_dict(jinja_state *state, jinja_value *out)
{
    jinja_dict *dict = jinja_take(state, sizeof *dict);
    if (!dict)
        return false;
    *dict = (jinja_dict){0};
    *out = (jinja_value){.type = JINJA_DICT, .dict = dict};
    return true;
}

bool jinja_hashable(const jinja_value *value)
{
    if (value->type == JINJA_TUPLE) {
        for (size_t i = 0; i < value->list->count; i++)
            if (!jinja_hashable(&value->list->items[i]))
                return false;
        return true;
    }
    return value->type != JINJA_LIST && value->type != JINJA_DICT && value->type != JINJA_VIEW && value->type != JINJA_SLICE;
}

/* Equal values have equal hashes: 1, 1.0 and True are one key. */
static uint64_t hash(const jinja_value *value)
{
    uint64_t h = CB_HASH_START;
    switch (value->type) {
    case JINJA_STRING:
        for (size_t i = 0; i < value->s->length; i++)
            h = (h ^ (unsigned char)value->s->data[i]) * 0x100000001b3u;
        return h ^ h >> 29;
    case JINJA_BOOL:
    case JINJA_INT: {
        double number = (double)value->i;
        memcpy(&h, &number, sizeof number);
        return (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
    }
    case JINJA_FLOAT: {
        double number = value->f == 0 ? 0 : value->f;
        memcpy(&h, &number, sizeof number);
        return (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
    }
    case JINJA_TUPLE:
        for (size_t i = 0; i < value->list->count; i++)
            h = (h ^ hash(&value->list->items[i])) * 0x100000001b3u;
        return h;
    default:
        return value->type;
    }
}

static uint32_t *slot(jinja_state *state, const jinja_dict *dict, const jinja_value *key)
{
    size_t mask = dict->index_size - 1, at = (size_t)hash(key) & mask;
    for (; dict->index[at]; at = (at + 1) & mask) {
        bool same;
        if (!jinja_equal(state, &dict->keys[dict->index[at] - 1], key, &same) || same || !jinja_spend(state, 1))
            break;
    }
    return &dict->index[at];
}

static bool build_index(jinja_state *state, jinja_dict *dict, size_t size)
{
    uint32_t *index = jinja_take(state, size * sizeof *index);
    if (!index)
        return false;
    memset(index, 0, size * sizeof *index);
    dict->index = index;
    dict->index_size = size;
    for (size_t i = 0; i < dict->count; i++) {
        uint32_t *to = slot(state, dict, &dict->keys[i]);
        if (state->failed)
            return false;
        *to = (uint32_t)i + 1;
    }
    return true;
}

jinja_value *jinja_dict_get(jinja_state *state, const jinja_dict *dict, jinja_value key)
{
    if (!jinja_hashable(&key))
        return jinja_fail(state, "unhashable type: '%s'", jinja_type_name(&key)), NULL;
    if (dict->index) {
        uint32_t entry = *slot(state, dict, &key);
        return entry && !state->failed ? &dict->values[entry - 1] : NULL;
    }
    for (size_t i = 0; i < dict->count; i++) {
        bool same;
        if (!jinja_equal(state, &dict->keys[i], &key, &same))
            return NULL;
        if (same)
            return &dict->values[i];
    }
    return NULL;
}

jinja_value *jinja_dict_find(const jinja_dict *dict, const char *key, size_t length)
{
    for (size_t i = 0; i < dict->count; i++) {
        const jinja_value *k = &dict->keys[i];
        if (k->type == JINJA_STRING && k->s->length == length && memcmp(k->s->data, key, length) == 0)
            return &dict->values[i];
    }
    return NULL;
}

bool jinja_dict_set(jinja_state *state, jinja_dict *dict, jinja_value key, jinja_value value)
{
    jinja_value *old = jinja_dict_get(state, dict, key);
    if (state->failed)
        return false;
    if (old) {
        *old = value;
        return true;
    }
    if (dict->count == UINT32_MAX - 1)
        return jinja_fail(state, "found a dict that is too large");
    if (dict->count == dict->capacity) {
        size_t capacity = dict->capacity ? dict->capacity * 2 : FEW;
        jinja_value *keys = jinja_take(state, 2 * capacity * sizeof *keys);
        if (!keys)
            return false;
        if (dict->count) {
            memcpy(keys, dict->keys, dict->count * sizeof *keys);
            memcpy(keys + capacity, dict->values, dict->count * sizeof *keys);
        }
        dict->keys = keys;
        dict->values = keys + capacity;
        dict->capacity = capacity;
        if (capacity > FEW && !build_index(state, dict, capacity * 2))
            return false;
    }
    if (dict->index)
        *slot(state, dict, &key) = (uint32_t)dict->count + 1;
    dict->keys[dict->count] = key;
    dict->values[dict->count++] = value;
    return !state->failed;
}
