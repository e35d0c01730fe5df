/* jinja_filters_order.c: filters that look at all values of a sequence: ends, sums, order. */
#include <string.h>

#include "formats/jinja.h"

#define FILTER(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

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
        if (!jinja_get_key(state, item, &a[1], NULL, true, &value) || !jinja_to_string(state, &value, &s) ||
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
        if (!jinja_get_key(state, item, &a[0], NULL, true, &value) || !jinja_binary(state, OP_ADD, &before, &value, &total))
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
        if (!jinja_get_key(state, item, &a[1], NULL, case_sensitive, &key))
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
        return jinja_get_key(state, value, attribute, NULL, case_sensitive, &one) && jinja_append(state, out->list, one);
    for (const char *at = attribute->s->data;; at++) {
        size_t length = strcspn(at, ",");
        jinja_value key;
        if (!jinja_at_path(state, value, at, length, NULL, &key) || !(case_sensitive || jinja_fold(state, &key)) ||
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
                      : jinja_get_key(state, s->value, attribute, fallback, case_sensitive, &s->key)))
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
        if (!(case_sensitive || jinja_fold(state, &items_[i].key)) || !jinja_pair(state, dict->keys[i], dict->values[i], &items_[i].value))
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
            if (!jinja_get_key(state, s[i].value, &a[0], &fallback, true, &key) || !jinja_new_list(state, JINJA_LIST, 0, &group) ||
                !jinja_pair(state, key, group, &pair) || !jinja_append(state, out->list, pair))
                return false;
            pair.list->group = true;
        }
        if (!jinja_append(state, group.list, s[i].value))
            return false;
    }
    return true;
}

const jinja_function jinja_order_filters[] = {{"count", length},
                                              {"dictsort", dictsort},
                                              {"first", first},
                                              {"groupby", groupby},
                                              {"join", join},
                                              {"last", last},
                                              {"length", length},
                                              {"list", list},
                                              {"max", max},
                                              {"min", min},
                                              {"sort", sort},
                                              {"sum", sum},
                                              {0}};
