/* jinja_methods.c: the methods of strings, lists, dicts and the rest that templates may call.  Those that change what they are called
 * on do not exist here, as in the sandbox.  Methods of strings stand in jinja_search.c and jinja_case.c as well. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <math.h>
#include <string.h>

#include "formats/jinja.h"

#define METHOD(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

bool jinja_marked_text(jinja_state *state, const jinja_value *self, const jinja_text *text, jinja_value *out)
{
    if (!jinja_text_value(state, text, out))
        return false;
    ((jinja_string *)out->s)->markup = self->s->markup;
    return true;
}

/* ---- strip ---- */

static bool is_stripped(uint32_t c, const char *at, size_t n, const jinja_string *characters)
{
    return characters ? memmem(characters->data, characters->length, at, n) != NULL : cb_is_space(c);
}

static bool strip_sides(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool left, bool right,
                        jinja_value *out)
{
    JINJA_TAKE(what, 0, "chars");
    const jinja_string *s = self->s, *characters = NULL;
    size_t begin = 0, end = s->length;
    unsigned n;
    if (!jinja_is_none(&a[0]) && !jinja_want_string(state, what, &a[0], &characters))
        return false;
    while (left && begin < end) {
        uint32_t c = cb_utf8_read(s->data + begin, &n);
        if (!is_stripped(c, s->data + begin, n, characters))
            break;
        begin += n;
    }
    while (right && end > begin) {
        size_t at = end - 1;
        while (((unsigned char)s->data[at] & 0xc0) == 0x80)
            at--;
        uint32_t c = cb_utf8_read(s->data + at, &n);
        if (!is_stripped(c, s->data + at, n, characters))
            break;
        end = at;
    }
    return jinja_spend(state, s->length / 256) && jinja_substring(state, s, begin, end, out);
}

METHOD(strip)
{
    return strip_sides(state, "strip", self, arguments, true, true, out);
}
METHOD(lstrip)
{
    return strip_sides(state, "lstrip", self, arguments, true, false, out);
}
METHOD(rstrip)
{
    return strip_sides(state, "rstrip", self, arguments, false, true, out);
}

/* ---- split ---- */

bool jinja_add_part(jinja_state *state, const jinja_string *s, size_t begin, size_t end, jinja_value *list)
{
    jinja_value part;
    return jinja_substring(state, s, begin, end, &part) && jinja_append(state, list->list, part);
}

const char *jinja_find_last(const char *text, size_t length, const jinja_string *what)
{
    for (size_t at = length - what->length + 1; length >= what->length && at-- > 0;)
        if (memcmp(text + at, what->data, what->length) == 0)
            return text + at;
    return NULL;
}

static bool split_at(jinja_state *state, const jinja_string *s, const jinja_string *separator, int64_t most, bool right, jinja_value *out)
{
    size_t begin = 0, end = s->length;
    for (; most != 0; most--) {
        const char *found =
            right ? jinja_find_last(s->data, end, separator) : memmem(s->data + begin, end - begin, separator->data, separator->length);
        if (!found)
            break;
        size_t at = (size_t)(found - s->data);
        if (right ? !jinja_add_part(state, s, at + separator->length, end, out) : !jinja_add_part(state, s, begin, at, out))
            return false;
        if (right)
            end = at;
        else
            begin = at + separator->length;
    }
    return jinja_add_part(state, s, begin, end, out);
}

/* At runs of white space; the rest, with the white space at its end, is what is left when there have been enough. */
static bool split_spaces(jinja_state *state, const jinja_string *s, int64_t most, jinja_value *out)
{
    size_t at = 0;
    unsigned n;
    for (;;) {
        while (at < s->length && cb_is_space(cb_utf8_read(s->data + at, &n)))
            at += n;
        if (at >= s->length)
            return true;
        size_t end = at;
        if (most == 0)
            return jinja_add_part(state, s, at, s->length, out);
        while (end < s->length && !cb_is_space(cb_utf8_read(s->data + end, &n)))
            end += n;
        if (!jinja_add_part(state, s, at, end, out))
            return false;
        at = end;
        most--;
    }
}

/* From the right: words are found from the left first, and the first ones put together again. */
static bool rsplit_spaces(jinja_state *state, const jinja_string *s, int64_t most, jinja_value *out)
{
    size_t end = s->length;
    unsigned n;
    for (;;) {
        size_t at;
        while (end > 0) {
            for (at = end - 1; ((unsigned char)s->data[at] & 0xc0) == 0x80; at--)
                ;
            if (!cb_is_space(cb_utf8_read(s->data + at, &n)))
                break;
            end = at;
        }
        if (end == 0)
            return true;
        size_t begin = end;
        if (most == 0)
            return jinja_add_part(state, s, 0, end, out);
        while (begin > 0) {
            for (at = begin - 1; ((unsigned char)s->data[at] & 0xc0) == 0x80; at--)
                ;
            if (cb_is_space(cb_utf8_read(s->data + at, &n)))
                break;
            begin = at;
        }
        if (!jinja_add_part(state, s, begin, end, out))
            return false;
        end = begin;
        most--;
    }
}

static void reverse(jinja_list *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        jinja_value t = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = t;
    }
}

static bool split_any(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool right,
                      jinja_value *out)
{
    JINJA_TAKE(what, 0, "sep", "maxsplit");
    int64_t most = -1;
    const jinja_string *separator = NULL;
    if ((jinja_given(&a[1]) && !jinja_want_int(state, what, &a[1], &most)) ||
        (!jinja_is_none(&a[0]) && !jinja_want_string(state, what, &a[0], &separator)) || !jinja_spend(state, self->s->length / 64) ||
        !jinja_new_list(state, JINJA_LIST, 0, out))
        return false;
    if (separator && !separator->length)
        return jinja_fail(state, "empty separator");
    bool ok = separator ? split_at(state, self->s, separator, most, right, out)
              : right   ? rsplit_spaces(state, self->s, most, out)
                        : split_spaces(state, self->s, most, out);
    if (right)
        reverse(out->list);
    return ok;
}

METHOD(split)
{
    return split_any(state, "split", self, arguments, false, out);
}
METHOD(rsplit)
{
    return split_any(state, "rsplit", self, arguments, true, out);
}

static bool is_line_end(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

METHOD(splitlines)
{
    JINJA_TAKE("splitlines", 0, "keepends");
    bool keep = jinja_given(&a[0]) && jinja_truth(&a[0]);
    const jinja_string *s = self->s;
    size_t begin = 0;
    if (!jinja_new_list(state, JINJA_LIST, 0, out) || !jinja_spend(state, s->length / 64))
        return false;
    unsigned n;
    for (size_t i = 0; i < s->length; i += n) {
        uint32_t c = cb_utf8_read(s->data + i, &n);
        if (!is_line_end(c))
            continue;
        size_t end = i;
        n += c == '\r' && i + 1 < s->length && s->data[i + 1] == '\n';
        if (!jinja_add_part(state, s, begin, keep ? i + n : end, out))
            return false;
        begin = i + n;
    }
    return begin >= s->length || jinja_add_part(state, s, begin, s->length, out);
}

METHOD(join)
{
    JINJA_TAKE("join", 1, "iterable");
    jinja_iterator *it = jinja_iterate(state, &a[0]);
    jinja_text text = {0};
    jinja_value item;
    for (bool first = true; it && it->next(state, it, &item); first = false) {
        const jinja_string *part;
        if (!jinja_want_string(state, "join: an item of the sequence", &item, &part) ||
            (!first && !jinja_put(state, &text, self->s->data, self->s->length)))
            return false;
        if (self->s->markup && !part->markup ? !jinja_escape(state, part, &text) : !jinja_put(state, &text, part->data, part->length))
            return false;
    }
    return it && !state->failed && jinja_marked_text(state, self, &text, out);
}

/* ---- lists ---- */

METHOD(list_index)
{
    JINJA_TAKE("index", 1, "value", "start", "stop");
    int64_t length = (int64_t)self->list->count, from = 0, to = length;
    if ((jinja_given(&a[1]) && !jinja_want_int(state, "index", &a[1], &from)) ||
        (jinja_given(&a[2]) && !jinja_want_int(state, "index", &a[2], &to)))
        return false;
    from += from < 0 ? length : 0;
    to += to < 0 ? length : 0;
    for (int64_t i = from < 0 ? 0 : from; i < to && i < length; i++) {
        bool same;
        if (!jinja_equal(state, &self->list->items[i], &a[0], &same))
            return false;
        *out = jinja_int(i);
        if (same)
            return true;
    }
    return jinja_fail(state, "the value is not in the %s", jinja_type_name(self));
}

METHOD(list_count)
{
    JINJA_TAKE("count", 1, "value");
    *out = jinja_int(0);
    for (size_t i = 0; i < self->list->count; i++) {
        bool same;
        if (!jinja_equal(state, &self->list->items[i], &a[0], &same))
            return false;
        out->i += same;
    }
    return true;
}

static bool nothing(jinja_state *state, const char *what, const jinja_arguments *arguments)
{
    static const char *const names[] = {NULL};
    return jinja_take_arguments(state, what, arguments, names, 0, NULL);
}

METHOD(list_copy)
{
    return nothing(state, "copy", arguments) && jinja_collect(state, self, out);
}

/* ---- dicts ---- */

static bool view(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, int kind, jinja_value *out)
{
    jinja_view *v = nothing(state, what, arguments) ? jinja_take(state, sizeof *v) : NULL;
    if (!v)
        return false;
    *v = (jinja_view){self->dict, kind};
    *out = (jinja_value){.type = JINJA_VIEW, .view = v};
    return true;
}

METHOD(dict_items)
{
    return view(state, "items", self, arguments, JINJA_ITEMS, out);
}
METHOD(dict_keys)
{
    return view(state, "keys", self, arguments, JINJA_KEYS, out);
}
METHOD(dict_values)
{
    return view(state, "values", self, arguments, JINJA_VALUES, out);
}

METHOD(dict_get)
{
    JINJA_TAKE("get", 1, "key", "default");
    if (arguments->keyword_count)
        return jinja_fail(state, "dict.get() takes no keyword arguments");
    const jinja_value *found = jinja_dict_get(state, self->dict, a[0]);
    *out = found ? *found : jinja_given(&a[1]) ? a[1] : jinja_none();
    return !state->failed;
}

METHOD(dict_copy)
{
    if (!nothing(state, "copy", arguments) || !jinja_new_dict(state, out))
        return false;
    for (size_t i = 0; i < self->dict->count; i++)
        if (!jinja_dict_set(state, out->dict, self->dict->keys[i], self->dict->values[i]))
            return false;
    return true;
}

/* ---- the rest ---- */

METHOD(float_is_integer)
{
    *out = jinja_bool(isfinite(self->f) && floor(self->f) == self->f);
    return nothing(state, "is_integer", arguments);
}

METHOD(cycler_next)
{
    struct jinja_cycler *c = self->cycler;
    *out = c->items->items[c->at];
    c->at = (c->at + 1) % c->items->count;
    return nothing(state, "next", arguments);
}

METHOD(cycler_reset)
{
    self->cycler->at = 0;
    *out = jinja_none();
    return nothing(state, "reset", arguments);
}

static const jinja_function string_methods[] = {{"strip", strip},
                                                {"lstrip", lstrip},
                                                {"rstrip", rstrip},
                                                {"split", split},
                                                {"rsplit", rsplit},
                                                {"splitlines", splitlines},
                                                {"join", join},
                                                {"format", jinja_format_braces},
                                                {"format_map", jinja_format_map},
                                                {0}},
                            list_methods[] = {{"index", list_index}, {"count", list_count}, {"copy", list_copy}, {0}},
                            tuple_methods[] = {{"index", list_index}, {"count", list_count}, {0}},
                            dict_methods[] = {{"items", dict_items}, {"keys", dict_keys}, {"values", dict_values},
                                              {"get", dict_get},     {"copy", dict_copy}, {0}},
                            float_methods[] = {{"is_integer", float_is_integer}, {0}},
                            cycler_methods[] = {{"next", cycler_next}, {"reset", cycler_reset}, {0}};

bool jinja_find_method(jinja_state *state, const jinja_value *value, const jinja_string *name, jinja_value *out)
{
    switch (value->type) {
    case JINJA_STRING:
        return jinja_bind(state, value, string_methods, name, out) ||
               (!state->failed && jinja_bind(state, value, jinja_search_methods, name, out)) ||
               (!state->failed && jinja_bind(state, value, jinja_case_methods, name, out));
    case JINJA_LIST:
        return jinja_bind(state, value, list_methods, name, out);
    case JINJA_TUPLE:
        if (value->list->group && (!strcmp(name->data, "grouper") || !strcmp(name->data, "list")))
            return *out = value->list->items[name->data[0] == 'l'], true;
        return jinja_bind(state, value, tuple_methods, name, out);
    case JINJA_DICT:
        return jinja_bind(state, value, dict_methods, name, out);
    case JINJA_FLOAT:
        return jinja_bind(state, value, float_methods, name, out);
    case JINJA_LOOP:
        return jinja_loop_attribute(state, value->loop, name, out);
    case JINJA_NAMESPACE: {
        const jinja_value *found = jinja_dict_find(value->dict, name->data, name->length);
        if (found)
            *out = *found;
        return found;
    }
    case JINJA_RANGE:
        if (strcmp(name->data, "start") == 0 || strcmp(name->data, "stop") == 0 || strcmp(name->data, "step") == 0)
            return *out = jinja_int(name->data[2] == 'a'   ? value->range->start
                                    : name->data[2] == 'o' ? value->range->stop
                                                           : value->range->step),
                   true;
        return false;
    case JINJA_MACRO:
        if (strcmp(name->data, "name") == 0)
            return *out = (jinja_value){.type = JINJA_STRING, .s = value->macro->name}, true;
        return false;
    case JINJA_CYCLER:
        if (strcmp(name->data, "current") == 0)
            return *out = value->cycler->items->items[value->cycler->at], true;
        return jinja_bind(state, value, cycler_methods, name, out);
    default:
        return false;
    }
}
