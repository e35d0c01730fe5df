/* jinja_filters_lists.c: filters of sequences.  map, select and their kin do their work as their values are asked for. */
#include <string.h>

#include "formats/jinja.h"

#define FILTER(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

static bool as_iterator(jinja_iterator *it, jinja_value *out)
{
    *out = (jinja_value){.type = JINJA_ITERATOR, .iterator = it};
    return it;
}

/* ---- attributes by path ---- */

/* The value at a path of names and numbers, "name.0.other"; each part like x[part].  `fallback`, when given, stands for what is not
 * there. */
bool jinja_at_path(jinja_state *state, jinja_value value, const char *path, size_t length, const jinja_value *fallback, jinja_value *out)
{
    for (size_t at = 0; at <= length;) {
        size_t end = at;
        jinja_value key;
        while (end < length && path[end] != '.')
            end++;
        bool number = end > at && end - at < 18 && strspn(path + at, "0123456789") >= end - at;
        if (!jinja_string_value(state, path + at, end - at, &key))
            return false;
        if (number) {
            key = jinja_int(0);
            for (size_t i = at; i < end; i++)
                key.i = key.i * 10 + (path[i] - '0');
        }
        if (!jinja_get_item(state, &value, &key, out))
            return false;
        if (fallback && fallback->type != JINJA_NONE && out->type == JINJA_UNDEFINED)
            *out = *fallback;
        value = *out;
        at = end + 1;
    }
    return true;
}

bool jinja_fold(jinja_state *state, jinja_value *value)
{
    static const jinja_string name = {"lower", 5, 5, false};
    jinja_value bound;
    jinja_arguments none = {0};
    if (value->type != JINJA_STRING)
        return true;
    return jinja_find_method(state, value, &name, &bound) && jinja_call_value(state, &bound, &none, value);
}

/* What a value is judged by: itself, or what is at `attribute`. */
bool jinja_get_key(jinja_state *state, jinja_value value, const jinja_value *attribute, const jinja_value *fallback, bool case_sensitive,
                   jinja_value *out)
{
    *out = value;
    if (!jinja_is_none(attribute)) {
        if (attribute->type == JINJA_STRING) {
            if (!jinja_at_path(state, value, attribute->s->data, attribute->s->length, fallback, out))
                return false;
        } else if (!jinja_get_item(state, &value, attribute, out)) {
            return false;
        } else if (fallback && fallback->type != JINJA_NONE && out->type == JINJA_UNDEFINED) {
            *out = *fallback;
        }
    }
    return case_sensitive || jinja_fold(state, out);
}

/* ---- map, select, reject ---- */

static bool next_mapped(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    jinja_value item;
    if (!it->inner->next(state, it->inner, &item))
        return false;
    if (it->by_attribute)
        return jinja_get_key(state, item, &it->attribute, &it->extra, true, out);
    jinja_arguments copy = it->arguments;
    return jinja_filter(state, it->name, &item, &copy, out);
}

static void drop_first(jinja_arguments *arguments)
{
    arguments->items++;
    arguments->count--;
    arguments->capacity--;
}

/* An iterator that goes through the value; one that is false (empty, none) gives nothing. */
static jinja_iterator *over(jinja_state *state, const jinja_value *self, jinja_next *next)
{
    jinja_iterator *it = jinja_new_iterator(state, next);
    jinja_value empty = {.type = JINJA_UNDEFINED};
    if (!it)
        return NULL;
    it->inner = jinja_iterate(state, jinja_truth(self) ? self : &empty);
    return it->inner ? it : NULL;
}

FILTER(map)
{
    jinja_iterator *it = over(state, self, next_mapped);
    if (!it)
        return false;
    it->extra = jinja_none();
    for (size_t i = 0; !arguments->count && i < arguments->keyword_count; i++) {
        const char *name = arguments->keywords[i].name->data;
        bool attribute = strcmp(name, "attribute") == 0;
        if (attribute)
            it->attribute = arguments->keywords[i].value;
        else if (strcmp(name, "default") == 0)
            it->extra = arguments->keywords[i].value;
        else
            return jinja_fail(state, "map: unexpected keyword argument '%.100s'", name);
        it->by_attribute |= attribute;
    }
    if (it->by_attribute)
        return as_iterator(it, out);
    if (!arguments->count || arguments->items[0].type != JINJA_STRING)
        return jinja_fail(state, "map requires a filter argument");
    it->name = arguments->items[0].s;
    it->arguments = *arguments;
    drop_first(&it->arguments);
    return as_iterator(it, out);
}

static bool next_selected(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    jinja_value judged;
    while (it->inner->next(state, it->inner, out)) {
        jinja_arguments copy = it->arguments;
        judged = *out;
        bool holds;
        if (it->by_attribute && !jinja_get_key(state, *out, &it->attribute, NULL, true, &judged))
            return false;
        if (!it->name)
            holds = jinja_truth(&judged);
        else if (!jinja_test(state, it->name, &judged, &copy, &holds))
            return false;
        if (holds == it->wanted)
            return true;
    }
    return false;
}

static bool select_any(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool by_attribute,
                       bool wanted, jinja_value *out)
{
    jinja_iterator *it = over(state, self, next_selected);
    if (!it)
        return false;
    it->by_attribute = by_attribute;
    it->wanted = wanted;
    it->arguments = *arguments;
    if (by_attribute) {
        if (!arguments->count)
            return jinja_fail(state, "%s: missing parameter for attribute name", what);
        it->attribute = arguments->items[0];
        drop_first(&it->arguments);
    }
    if (it->arguments.count) {
        if (it->arguments.items[0].type != JINJA_STRING)
            return jinja_fail(state, "%s: found '%s', expected the name of a test", what, jinja_type_name(&it->arguments.items[0]));
        it->name = it->arguments.items[0].s;
        drop_first(&it->arguments);
    }
    return as_iterator(it, out);
}

FILTER(select_)
{
    return select_any(state, "select", self, arguments, false, true, out);
}
FILTER(reject)
{
    return select_any(state, "reject", self, arguments, false, false, out);
}
FILTER(selectattr)
{
    return select_any(state, "selectattr", self, arguments, true, true, out);
}
FILTER(rejectattr)
{
    return select_any(state, "rejectattr", self, arguments, true, false, out);
}

/* ---- other iterators ---- */

static bool next_unique(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    while (it->inner->next(state, it->inner, out)) {
        jinja_value key, seen = it->source;
        if (!jinja_get_key(state, *out, &it->attribute, NULL, it->case_sensitive, &key))
            return false;
        const jinja_value *found = jinja_dict_get(state, seen.dict, key);
        if (state->failed)
            return false;
        if (!found)
            return jinja_dict_set(state, seen.dict, key, jinja_none());
    }
    return false;
}

FILTER(unique)
{
    JINJA_TAKE("unique", 0, "case_sensitive", "attribute");
    jinja_iterator *it = jinja_new_iterator(state, next_unique);
    if (!it || !(it->inner = jinja_iterate(state, self)) || !jinja_new_dict(state, &it->source))
        return false;
    it->case_sensitive = jinja_given(&a[0]) && jinja_truth(&a[0]);
    it->attribute = a[1];
    return as_iterator(it, out);
}

static bool next_batch(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    jinja_value item;
    bool begun = false;
    while (it->stop > 0 && (!begun || (int64_t)out->list->count < it->stop) && it->inner->next(state, it->inner, &item)) {
        if (!begun && !jinja_new_list(state, JINJA_LIST, 0, out))
            return false;
        begun = true;
        if (!jinja_append(state, out->list, item))
            return false;
    }
    while (begun && !state->failed && it->extra.type != JINJA_NONE && (int64_t)out->list->count < it->stop)
        if (!jinja_spend(state, 1) || !jinja_append(state, out->list, it->extra))
            return false;
    return begun && !state->failed;
}

FILTER(batch)
{
    JINJA_TAKE("batch", 1, "linecount", "fill_with");
    jinja_iterator *it = jinja_new_iterator(state, next_batch);
    if (!it || !(it->inner = jinja_iterate(state, self)) || !jinja_want_int(state, "batch: linecount", &a[0], &it->stop))
        return false;
    if (it->stop < 1)
        return jinja_fail(state, "batch: found a linecount of %lld, expected 1 or more", (long long)it->stop);
    it->extra = jinja_is_none(&a[1]) ? jinja_none() : a[1];
    return as_iterator(it, out);
}

static bool next_slice(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    int64_t i = (int64_t)it->at, length = (int64_t)it->source.list->count;
    if (i >= it->stop || !jinja_spend(state, 1))
        return false;
    it->at++;
    int64_t each = length / it->stop, extra = length % it->stop;
    int64_t begin = i * each + (i < extra ? i : extra), end = begin + each + (i < extra);
    if (!jinja_new_list(state, JINJA_LIST, 0, out))
        return false;
    for (int64_t k = begin; k < end; k++)
        if (!jinja_append(state, out->list, it->source.list->items[k]))
            return false;
    return it->extra.type == JINJA_NONE || i < extra || jinja_append(state, out->list, it->extra);
}

FILTER(slice)
{
    JINJA_TAKE("slice", 1, "slices", "fill_with");
    jinja_iterator *it = jinja_new_iterator(state, next_slice);
    if (!it || !jinja_collect(state, self, &it->source) || !jinja_want_int(state, "slice: slices", &a[0], &it->stop))
        return false;
    if (it->stop == 0)
        return jinja_fail(state, "integer division or modulo by zero");
    it->extra = jinja_is_none(&a[1]) ? jinja_none() : a[1];
    return as_iterator(it, out);
}

static bool next_reversed(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    if (!it->at || !jinja_spend(state, 1))
        return false;
    *out = it->source.list->items[--it->at];
    return true;
}

FILTER(reverse)
{
    JINJA_TAKE("reverse", 0, NULL);
    jinja_value list;
    if (self->type == JINJA_STRING) {
        jinja_value bounds[3] = {jinja_none(), jinja_none(), jinja_int(-1)};
        return jinja_get_slice(state, self, bounds, out);
    }
    if (!jinja_collect(state, self, &list))
        return false;
    if (self->type == JINJA_ITERATOR) { /* Python has no reversed() of these: a list */
        for (size_t i = 0, n = list.list->count; i < n / 2; i++) {
            jinja_value t = list.list->items[i];
            list.list->items[i] = list.list->items[n - 1 - i];
            list.list->items[n - 1 - i] = t;
        }
        *out = list;
        return true;
    }
    jinja_iterator *it = jinja_new_iterator(state, next_reversed);
    if (!it)
        return false;
    it->source = list;
    it->at = list.list->count;
    it->type_name = self->type == JINJA_LIST ? "list_reverseiterator" : "reversed";
    return as_iterator(it, out);
}

FILTER(items)
{
    JINJA_TAKE("items", 0, NULL);
    static const jinja_string name = {"items", 5, 5, false};
    jinja_value bound, entries;
    if (self->type != JINJA_DICT && self->type != JINJA_UNDEFINED)
        return jinja_fail(state, "Can only get item pairs from a mapping.");
    entries = *self;
    if (self->type == JINJA_DICT &&
        !(jinja_find_method(state, self, &name, &bound) && jinja_call_value(state, &bound, arguments, &entries)))
        return false;
    return as_iterator(jinja_iterate(state, &entries), out);
}

FILTER(attr)
{
    JINJA_TAKE("attr", 1, "name");
    const jinja_string *s;
    if (!jinja_to_string(state, &a[0], &s))
        return false;
    if (self->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", self->s->data);
    return jinja_find_method(state, self, s, out) ||
           (!state->failed && jinja_undefined(state, out, "'%s object' has no attribute '%.100s'", jinja_type_name(self), s->data));
}

const jinja_function jinja_list_filters[] = {
    {"attr", attr},       {"batch", batch},    {"items", items},           {"map", map},     {"reject", reject}, {"rejectattr", rejectattr},
    {"reverse", reverse}, {"select", select_}, {"selectattr", selectattr}, {"slice", slice}, {"unique", unique}, {0}};

jinja_call *jinja_find_filter(const jinja_string *name)
{
    const jinja_function *const tables[] = {jinja_text_filters, jinja_list_filters, jinja_order_filters, NULL};
    for (const jinja_function *const *table = tables; *table; table++)
        for (const jinja_function *f = *table; f->name; f++)
            if (strcmp(f->name, name->data) == 0)
                return f->call;
    return NULL;
}

bool jinja_filter(jinja_state *state, const jinja_string *name, const jinja_value *value, jinja_arguments *arguments, jinja_value *out)
{
    jinja_call *call = jinja_find_filter(name);
    if (!call)
        return jinja_fail(state, "there is no filter named '%.100s' (or it is not supported)", name->data);
    if (!jinja_deeper(state)) /* map of map of map ... */
        return false;
    bool ok = call(state, value, arguments, out);
    state->depth--;
    return ok;
}
