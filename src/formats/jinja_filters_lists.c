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
static bool at_path(jinja_state *state, jinja_value value, const char *path, size_t length, const jinja_value *fallback, jinja_value *out)
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

static bool fold(jinja_state *state, jinja_value *value)
{
    static const jinja_string name = {"lower", 5, 5, false};
    jinja_value bound;
    jinja_arguments none = {0};
    if (value->type != JINJA_STRING)
        return true;
    return jinja_find_method(state, value, &name, &bound) && jinja_call_value(state, &bound, &none, value);
}

/* What a value is judged by: itself, or what is at `attribute`. */
static bool get_key(jinja_state *state, jinja_value value, const jinja_value *attribute, const jinja_value *fallback, bool case_sensitive,
                    jinja_value *out)
{
    *out = value;
    if (!jinja_is_none(attribute)) {
        if (attribute->type == JINJA_STRING) {
            if (!at_path(state, value, attribute->s->data, attribute->s->length, fallback, out))
                return false;
        } else if (!jinja_get_item(state, &value, attribute, out)) {
            return false;
        } else if (fallback && fallback->type != JINJA_NONE && out->type == JINJA_UNDEFINED) {
            *out = *fallback;
        }
    }
    return case_sensitive || fold(state, out);
}

/* ---- map, select, reject ---- */

static bool next_mapped(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    jinja_value item;
    if (!it->inner->next(state, it->inner, &item))
        return false;
    if (it->by_attribute)
        return get_key(state, item, &it->attribute, &it->extra, true, out);
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
        if (it->by_attribute && !get_key(state, *out, &it->attribute, NULL, true, &judged))
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
        if (!get_key(state, *out, &it->attribute, NULL, it->case_sensitive, &key))
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

/* ---- ends and sums ---- */

FILTER(first)
{
    JINJA_TAKE("first", 0, NULL);
    jinja_iterator *it = jinja_iterate(state, self);
    if (!it)
        return false;
    return it->next(state, it, out) || (!state->failed && jinja_undefined(state, out, "No first item, sequence was empty."));
}

FILTER(last)
{
    JINJA_TAKE("last", 0, NULL);
    jinja_value list;
    if (self->type == JINJA_ITERATOR)
        return jinja_fail(state, "'%s' object is not reversible", jinja_type_name(self));
    if (!jinja_collect(state, self, &list))
        return false;
    if (!list.list->count)
        return jinja_undefined(state, out, "No last item, sequence was empty.");
    *out = list.list->items[list.list->count - 1];
    return true;
}

FILTER(length)
{
    JINJA_TAKE("length", 0, NULL);
    int64_t n;
    if (self->type == JINJA_LOOP) {
        static const jinja_string name = {"length", 6, 6, false};
        return jinja_loop_attribute(state, self->loop, &name, out);
    }
    if (!jinja_length(self, &n))
        return jinja_fail(state, "object of type '%s' has no len()", jinja_type_name(self));
    *out = jinja_int(n);
    return true;
}

FILTER(list)
{
    JINJA_TAKE("list", 0, NULL);
    return jinja_collect(state, self, out);
}

FILTER(join)
{
    JINJA_TAKE("join", 0, "d", "attribute");
    jinja_iterator *it = jinja_iterate(state, self);
    jinja_value item, separator = {.type = JINJA_STRING}, value;
    jinja_text text = {0};
    if (!it || !jinja_string_value(state, "", 0, &separator))
        return false;
    if (jinja_given(&a[0]) && !jinja_to_string(state, &a[0], &separator.s))
        return false;
    bool markup = separator.s->markup;
    for (bool begun = false; it->next(state, it, &item); begun = true) {
        const jinja_string *s;
        if (begun && !jinja_put(state, &text, separator.s->data, separator.s->length))
            return false;
        if (!get_key(state, item, &a[1], NULL, true, &value) || !jinja_to_string(state, &value, &s) ||
            !(markup && !s->markup ? jinja_escape(state, s, &text) : jinja_put(state, &text, s->data, s->length)))
            return false;
    }
    if (state->failed || !jinja_text_value(state, &text, out))
        return false;
    ((jinja_string *)out->s)->markup = markup;
    return true;
}

FILTER(sum)
{
    JINJA_TAKE("sum", 0, "attribute", "start");
    jinja_iterator *it = jinja_iterate(state, self);
    jinja_value item, value, total = jinja_given(&a[1]) ? a[1] : jinja_int(0);
    if (!it)
        return false;
    if (total.type == JINJA_STRING)
        return jinja_fail(state, "sum() can't sum strings [use ''.join(seq) instead]");
    while (it->next(state, it, &item)) {
        jinja_value before = total;
        if (!get_key(state, item, &a[0], NULL, true, &value) || !jinja_binary(state, OP_ADD, &before, &value, &total))
            return false;
    }
    *out = total;
    return !state->failed;
}

static bool extreme(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool greatest,
                    jinja_value *out)
{
    JINJA_TAKE(what, 0, "case_sensitive", "attribute");
    bool case_sensitive = jinja_given(&a[0]) && jinja_truth(&a[0]), begun = false;
    jinja_iterator *it = jinja_iterate(state, self);
    jinja_value item, key, best;
    while (it && it->next(state, it, &item)) {
        bool better = !begun;
        if (!get_key(state, item, &a[1], NULL, case_sensitive, &key))
            return false;
        if (begun &&
            !(greatest ? jinja_less(state, &best, &key, ">", false, &better) : jinja_less(state, &key, &best, "<", false, &better)))
            return false;
        if (better) {
            best = key;
            *out = item;
        }
        begun = true;
    }
    if (!it || state->failed)
        return false;
    return begun || jinja_undefined(state, out, "No aggregated item, sequence was empty.");
}

FILTER(min)
{
    return extreme(state, "min", self, arguments, false, out);
}
FILTER(max)
{
    return extreme(state, "max", self, arguments, true, out);
}

/* ---- order ---- */

typedef struct sorted {
    jinja_value key, value;
} sorted;

/* Merge sort: stable, also where it is turned around. */
static bool sort_range(jinja_state *state, sorted *items, sorted *spare, size_t n, bool reverse)
{
    size_t half = n / 2, i = 0, k = half;
    if (n < 2)
        return true;
    if (!sort_range(state, items, spare, half, reverse) || !sort_range(state, items + half, spare + half, n - half, reverse))
        return false;
    for (size_t at = 0; at < n; at++) {
        bool second = i == half;
        if (!second && k < n) {
            bool ok = reverse ? jinja_less(state, &items[i].key, &items[k].key, "<", false, &second)
                              : jinja_less(state, &items[k].key, &items[i].key, "<", false, &second);
            if (!ok)
                return false;
        }
        spare[at] = second ? items[k++] : items[i++];
    }
    memcpy(items, spare, n * sizeof *items);
    return true;
}

static bool sort_items(jinja_state *state, sorted *items, size_t n, bool reverse)
{
    sorted *spare = jinja_take(state, (n + 1) * sizeof *spare);
    return spare && sort_range(state, items, spare, n, reverse);
}

/* A list of keys: one for each of the paths, which commas separate. */
static bool several_keys(jinja_state *state, jinja_value value, const jinja_value *attribute, bool case_sensitive, jinja_value *out)
{
    jinja_value one;
    if (!jinja_new_list(state, JINJA_LIST, 0, out))
        return false;
    if (jinja_is_none(attribute) || attribute->type != JINJA_STRING)
        return get_key(state, value, attribute, NULL, case_sensitive, &one) && jinja_append(state, out->list, one);
    for (const char *at = attribute->s->data;; at++) {
        size_t length = strcspn(at, ",");
        jinja_value key;
        if (!at_path(state, value, at, length, NULL, &key) || !(case_sensitive || fold(state, &key)) ||
            !jinja_append(state, out->list, key))
            return false;
        at += length;
        if (!*at)
            return true;
    }
}

static bool sort_by(jinja_state *state, const jinja_value *self, const jinja_value *attribute, const jinja_value *fallback,
                    bool case_sensitive, bool reverse, bool several, sorted **items, size_t *count)
{
    jinja_value list;
    if (!jinja_collect(state, self, &list))
        return false;
    *count = list.list->count;
    *items = jinja_take(state, (*count + 1) * sizeof **items);
    for (size_t i = 0; *items && i < *count; i++) {
        sorted *s = &(*items)[i];
        s->value = list.list->items[i];
        if (!(several ? several_keys(state, s->value, attribute, case_sensitive, &s->key)
                      : get_key(state, s->value, attribute, fallback, case_sensitive, &s->key)))
            return false;
    }
    return *items && sort_items(state, *items, *count, reverse);
}

static bool values_of(jinja_state *state, const sorted *items, size_t count, jinja_value *out)
{
    if (!jinja_new_list(state, JINJA_LIST, count, out))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!jinja_append(state, out->list, items[i].value))
            return false;
    return true;
}

FILTER(sort)
{
    JINJA_TAKE("sort", 0, "reverse", "case_sensitive", "attribute");
    sorted *items;
    size_t count;
    bool reverse_ = jinja_given(&a[0]) && jinja_truth(&a[0]), case_sensitive = jinja_given(&a[1]) && jinja_truth(&a[1]);
    return sort_by(state, self, &a[2], NULL, case_sensitive, reverse_, true, &items, &count) && values_of(state, items, count, out);
}

FILTER(dictsort)
{
    JINJA_TAKE("dictsort", 0, "case_sensitive", "by", "reverse");
    bool case_sensitive = jinja_given(&a[0]) && jinja_truth(&a[0]), by_value = false;
    if (jinja_given(&a[1])) {
        by_value = a[1].type == JINJA_STRING && strcmp(a[1].s->data, "value") == 0;
        if (!by_value && (a[1].type != JINJA_STRING || strcmp(a[1].s->data, "key") != 0))
            return jinja_fail(state, "dictsort: you can only sort by either \"key\" or \"value\"");
    }
    if (self->type != JINJA_DICT)
        return jinja_fail(state, "dictsort: found '%s', expected a dict", jinja_type_name(self));
    const jinja_dict *dict = self->dict;
    sorted *items_ = jinja_take(state, (dict->count + 1) * sizeof *items_);
    for (size_t i = 0; items_ && i < dict->count; i++) {
        items_[i].key = by_value ? dict->values[i] : dict->keys[i];
        if (!(case_sensitive || fold(state, &items_[i].key)) || !jinja_pair(state, dict->keys[i], dict->values[i], &items_[i].value))
            return false;
    }
    return items_ && sort_items(state, items_, dict->count, jinja_given(&a[2]) && jinja_truth(&a[2])) &&
           values_of(state, items_, dict->count, out);
}

FILTER(groupby)
{
    JINJA_TAKE("groupby", 1, "attribute", "default", "case_sensitive");
    bool case_sensitive = jinja_given(&a[2]) && jinja_truth(&a[2]);
    jinja_value fallback = jinja_is_none(&a[1]) ? jinja_none() : a[1], group = {0}, key;
    sorted *s;
    size_t count;
    if (!sort_by(state, self, &a[0], &fallback, case_sensitive, false, false, &s, &count) || !jinja_new_list(state, JINJA_LIST, 0, out))
        return false;
    for (size_t i = 0; i < count; i++) {
        bool same = false;
        if (i && !jinja_equal(state, &s[i - 1].key, &s[i].key, &same))
            return false;
        if (!same) {
            jinja_value pair;
            if (!get_key(state, s[i].value, &a[0], &fallback, true, &key) || !jinja_new_list(state, JINJA_LIST, 0, &group) ||
                !jinja_pair(state, key, group, &pair) || !jinja_append(state, out->list, pair))
                return false;
            pair.list->group = true;
        }
        if (!jinja_append(state, group.list, s[i].value))
            return false;
    }
    return true;
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

const jinja_function jinja_list_filters[] = {{"attr", attr},
                                             {"batch", batch},
                                             {"count", length},
                                             {"dictsort", dictsort},
                                             {"first", first},
                                             {"groupby", groupby},
                                             {"items", items},
                                             {"join", join},
                                             {"last", last},
                                             {"length", length},
                                             {"list", list},
                                             {"map", map},
                                             {"max", max},
                                             {"min", min},
                                             {"reject", reject},
                                             {"rejectattr", rejectattr},
                                             {"reverse", reverse},
                                             {"select", select_},
                                             {"selectattr", selectattr},
                                             {"slice", slice},
                                             {"sort", sort},
                                             {"sum", sum},
                                             {"unique", unique},
                                             {0}};

jinja_call *jinja_find_filter(const jinja_string *name)
{
    const jinja_function *const tables[] = {jinja_text_filters, jinja_list_filters};
    for (size_t t = 0; t < 2; t++)
        for (const jinja_function *f = tables[t]; f->name; f++)
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
