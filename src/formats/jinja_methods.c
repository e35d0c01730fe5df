/* jinja_methods.c: the methods of strings, lists, dicts and the rest that templates may call.  Those that change what they are called
 * on do not exist here, as in the sandbox. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <math.h>
#include <string.h>

#include "formats/jinja.h"

extern const jinja_function jinja_case_methods[];

#define METHOD(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

static bool result(jinja_state *state, const jinja_value *self, const jinja_text *text, jinja_value *out)
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
    size_t begin = 0, end = s->length, n;
    if (!jinja_is_none(&a[0]) && !jinja_want_string(state, what, &a[0], &characters))
        return false;
    while (left && begin < end) {
        uint32_t c = jinja_decode(s->data + begin, &n);
        if (!is_stripped(c, s->data + begin, n, characters))
            break;
        begin += n;
    }
    while (right && end > begin) {
        size_t at = end - 1;
        while (((unsigned char)s->data[at] & 0xc0) == 0x80)
            at--;
        uint32_t c = jinja_decode(s->data + at, &n);
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

static bool add_part(jinja_state *state, const jinja_string *s, size_t begin, size_t end, jinja_value *list)
{
    jinja_value part;
    return jinja_substring(state, s, begin, end, &part) && jinja_append(state, list->list, part);
}

static const char *find_last(const char *text, size_t length, const jinja_string *what)
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
            right ? find_last(s->data, end, separator) : memmem(s->data + begin, end - begin, separator->data, separator->length);
        if (!found)
            break;
        size_t at = (size_t)(found - s->data);
        if (right ? !add_part(state, s, at + separator->length, end, out) : !add_part(state, s, begin, at, out))
            return false;
        if (right)
            end = at;
        else
            begin = at + separator->length;
    }
    return add_part(state, s, begin, end, out);
}

/* At runs of white space; the rest, with the white space at its end, is what is left when there have been enough. */
static bool split_spaces(jinja_state *state, const jinja_string *s, int64_t most, jinja_value *out)
{
    size_t at = 0, n;
    for (;;) {
        while (at < s->length && cb_is_space(jinja_decode(s->data + at, &n)))
            at += n;
        if (at >= s->length)
            return true;
        size_t end = at;
        if (most == 0)
            return add_part(state, s, at, s->length, out);
        while (end < s->length && !cb_is_space(jinja_decode(s->data + end, &n)))
            end += n;
        if (!add_part(state, s, at, end, out))
            return false;
        at = end;
        most--;
    }
}

/* From the right: words are found from the left first, and the first ones put together again. */
static bool rsplit_spaces(jinja_state *state, const jinja_string *s, int64_t most, jinja_value *out)
{
    size_t end = s->length, n;
    for (;;) {
        size_t at;
        while (end > 0) {
            for (at = end - 1; ((unsigned char)s->data[at] & 0xc0) == 0x80; at--)
                ;
            if (!cb_is_space(jinja_decode(s->data + at, &n)))
                break;
            end = at;
        }
        if (end == 0)
            return true;
        size_t begin = end;
        if (most == 0)
            return add_part(state, s, 0, end, out);
        while (begin > 0) {
            for (at = begin - 1; ((unsigned char)s->data[at] & 0xc0) == 0x80; at--)
                ;
            if (cb_is_space(jinja_decode(s->data + at, &n)))
                break;
            begin = at;
        }
        if (!add_part(state, s, begin, end, out))
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
    for (size_t i = 0, n; i < s->length; i += n) {
        uint32_t c = jinja_decode(s->data + i, &n);
        if (!is_line_end(c))
            continue;
        size_t end = i;
        n += c == '\r' && i + 1 < s->length && s->data[i + 1] == '\n';
        if (!add_part(state, s, begin, keep ? i + n : end, out))
            return false;
        begin = i + n;
    }
    return begin >= s->length || add_part(state, s, begin, s->length, out);
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
    return it && !state->failed && result(state, self, &text, out);
}

/* ---- searching ---- */

/* The stretch [start, end) that a search looks at, in bytes; *begin is beyond *end when it is none. */
static bool stretch(jinja_state *state, const jinja_string *s, const jinja_value *start, const jinja_value *end, size_t *begin,
                    size_t *stop)
{
    int64_t length = (int64_t)s->points, from = 0, to = length;
    if ((!jinja_is_none(start) && !jinja_want_int(state, "start", start, &from)) ||
        (!jinja_is_none(end) && !jinja_want_int(state, "end", end, &to)))
        return false;
    from += from < 0 ? length : 0;
    to += to < 0 ? length : 0;
    from = from < 0 ? 0 : from;
    to = to < 0 ? 0 : to > length ? length : to;
    *begin = from > length ? SIZE_MAX : jinja_point_offset(s, (size_t)from);
    *stop = jinja_point_offset(s, (size_t)to);
    return jinja_spend(state, 1 + s->length / 64);
}

static bool at_edge(const jinja_string *s, const jinja_string *part, size_t begin, size_t end, bool at_end)
{
    if (begin > end || part->length > end - begin)
        return false;
    return memcmp(s->data + (at_end ? end - part->length : begin), part->data, part->length) == 0;
}

static bool has_edge(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool at_end,
                     jinja_value *out)
{
    JINJA_TAKE(what, 1, "prefix", "start", "end");
    size_t begin, end;
    if (!stretch(state, self->s, &a[1], &a[2], &begin, &end))
        return false;
    *out = jinja_bool(false);
    if (a[0].type == JINJA_TUPLE) {
        for (size_t i = 0; i < a[0].list->count && !out->i; i++) {
            const jinja_string *part;
            if (!jinja_want_string(state, what, &a[0].list->items[i], &part))
                return false;
            out->i = at_edge(self->s, part, begin, end, at_end);
        }
        return true;
    }
    const jinja_string *part;
    if (!jinja_want_string(state, what, &a[0], &part))
        return false;
    out->i = at_edge(self->s, part, begin, end, at_end);
    return true;
}

METHOD(startswith)
{
    return has_edge(state, "startswith", self, arguments, false, out);
}
METHOD(endswith)
{
    return has_edge(state, "endswith", self, arguments, true, out);
}

static bool search(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool last, bool must,
                   jinja_value *out)
{
    JINJA_TAKE(what, 1, "sub", "start", "end");
    const jinja_string *part;
    size_t begin, end;
    if (!jinja_want_string(state, what, &a[0], &part) || !stretch(state, self->s, &a[1], &a[2], &begin, &end))
        return false;
    const char *found = NULL, *text = self->s->data;
    if (begin <= end)
        found = last ? find_last(text + begin, end - begin, part) : memmem(text + begin, end - begin, part->data, part->length);
    if (!found && must)
        return jinja_fail(state, "substring not found");
    *out = jinja_int(found ? (int64_t)jinja_count_points(text, (size_t)(found - text)) : -1);
    return true;
}

METHOD(find)
{
    return search(state, "find", self, arguments, false, false, out);
}
METHOD(rfind)
{
    return search(state, "rfind", self, arguments, true, false, out);
}
METHOD(string_index)
{
    return search(state, "index", self, arguments, false, true, out);
}
METHOD(string_rindex)
{
    return search(state, "rindex", self, arguments, true, true, out);
}

METHOD(string_count)
{
    JINJA_TAKE("count", 1, "sub", "start", "end");
    const jinja_string *part;
    size_t begin, end;
    int64_t n = 0;
    if (!jinja_want_string(state, "count", &a[0], &part) || !stretch(state, self->s, &a[1], &a[2], &begin, &end))
        return false;
    if (begin <= end && !part->length)
        n = (int64_t)jinja_count_points(self->s->data + begin, end - begin) + 1;
    for (const char *at; part->length && begin <= end && (at = memmem(self->s->data + begin, end - begin, part->data, part->length)); n++)
        begin = (size_t)(at - self->s->data) + part->length;
    *out = jinja_int(n);
    return true;
}

METHOD(replace)
{
    JINJA_TAKE("replace", 2, "old", "new", "count");
    const jinja_string *s = self->s, *old, *new;
    int64_t most = -1;
    jinja_text text = {0};
    size_t at = 0;
    if (!jinja_want_string(state, "replace", &a[0], &old) || !jinja_want_string(state, "replace", &a[1], &new) ||
        (jinja_given(&a[2]) && !jinja_want_int(state, "replace: count", &a[2], &most)) || !jinja_spend(state, 1 + s->length / 64))
        return false;
    for (; most != 0; most--) {
        const char *found = old->length ? memmem(s->data + at, s->length - at, old->data, old->length) : s->data + at;
        if (!found)
            break;
        size_t to = (size_t)(found - s->data);
        if (!jinja_put(state, &text, s->data + at, to - at) || !jinja_put(state, &text, new->data, new->length))
            return false;
        at = to + old->length;
        if (!old->length) { /* between all characters, and at both ends */
            size_t n;
            if (at >= s->length)
                break;
            jinja_decode(s->data + at, &n);
            if (!jinja_put(state, &text, s->data + at, n))
                return false;
            at += n;
        }
    }
    return jinja_put(state, &text, s->data + at, s->length - at) && result(state, self, &text, out);
}

static bool partition_at(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool last,
                         jinja_value *out)
{
    JINJA_TAKE(what, 1, "sep");
    const jinja_string *s = self->s, *part;
    if (!jinja_want_string(state, what, &a[0], &part) || !jinja_new_list(state, JINJA_TUPLE, 3, out) || !jinja_spend(state, s->length / 64))
        return false;
    if (!part->length)
        return jinja_fail(state, "empty separator");
    const char *found = last ? find_last(s->data, s->length, part) : memmem(s->data, s->length, part->data, part->length);
    size_t at = found ? (size_t)(found - s->data) : last ? 0 : s->length;
    size_t end = found ? at + part->length : at;
    return add_part(state, s, 0, at, out) && add_part(state, s, at, end, out) && add_part(state, s, end, s->length, out);
}

METHOD(partition)
{
    return partition_at(state, "partition", self, arguments, false, out);
}
METHOD(rpartition)
{
    return partition_at(state, "rpartition", self, arguments, true, out);
}

static bool remove_edge(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, bool at_end,
                        jinja_value *out)
{
    JINJA_TAKE(what, 1, "prefix");
    const jinja_string *s = self->s, *part;
    if (!jinja_want_string(state, what, &a[0], &part))
        return false;
    size_t n = at_edge(s, part, 0, s->length, at_end) ? part->length : 0;
    return jinja_substring(state, s, at_end ? 0 : n, at_end ? s->length - n : s->length, out);
}

METHOD(removeprefix)
{
    return remove_edge(state, "removeprefix", self, arguments, false, out);
}
METHOD(removesuffix)
{
    return remove_edge(state, "removesuffix", self, arguments, true, out);
}

/* ---- width ---- */

static bool pad(jinja_state *state, const char *what, const jinja_value *self, jinja_arguments *arguments, char side, jinja_value *out)
{
    JINJA_TAKE(what, 1, "width", "fillchar");
    int64_t width, points = (int64_t)self->s->points;
    const jinja_string *fill = NULL;
    if (!jinja_want_int(state, what, &a[0], &width) || (jinja_given(&a[1]) && !jinja_want_string(state, what, &a[1], &fill)))
        return false;
    if (fill && fill->points != 1)
        return jinja_fail(state, "The fill character must be exactly one character long");
    int64_t room = width > points ? width - points : 0, left = side == 'l' ? 0 : side == 'r' ? room : room / 2 + (room & width & 1);
    jinja_text text = {0};
    bool ok = jinja_spend(state, (uint64_t)room / 16);
    for (int64_t i = 0; ok && i < room + 1; i++) {
        if (i == left && !jinja_put(state, &text, self->s->data, self->s->length))
            return false;
        ok = i == room || (fill ? jinja_put(state, &text, fill->data, fill->length) : jinja_puts(state, &text, " "));
    }
    return ok && result(state, self, &text, out);
}

METHOD(center)
{
    return pad(state, "center", self, arguments, 'c', out);
}
METHOD(ljust)
{
    return pad(state, "ljust", self, arguments, 'l', out);
}
METHOD(rjust)
{
    return pad(state, "rjust", self, arguments, 'r', out);
}

METHOD(zfill)
{
    JINJA_TAKE("zfill", 1, "width");
    int64_t width, points = (int64_t)self->s->points;
    jinja_text text = {0};
    if (!jinja_want_int(state, "zfill", &a[0], &width))
        return false;
    size_t sign = self->s->length && strchr("+-", self->s->data[0]);
    bool ok = jinja_put(state, &text, self->s->data, sign) && (width <= points || jinja_spend(state, (uint64_t)(width - points) / 16));
    for (int64_t i = points; ok && i < width; i++)
        ok = jinja_puts(state, &text, "0");
    return ok && jinja_put(state, &text, self->s->data + sign, self->s->length - sign) && result(state, self, &text, out);
}

METHOD(expandtabs)
{
    JINJA_TAKE("expandtabs", 0, "tabsize");
    int64_t size = 8, column = 0;
    jinja_text text = {0};
    if (jinja_given(&a[0]) && !jinja_want_int(state, "expandtabs", &a[0], &size))
        return false;
    for (size_t i = 0, n; i < self->s->length; i += n) {
        uint32_t c = jinja_decode(self->s->data + i, &n);
        if (c == '\t') {
            for (int64_t k = size > 0 ? size - column % size : 0; k > 0; k--, column++)
                if (!jinja_puts(state, &text, " "))
                    return false;
            continue;
        }
        column = c == '\n' || c == '\r' ? 0 : column + 1;
        if (!jinja_put(state, &text, self->s->data + i, n))
            return false;
    }
    return result(state, self, &text, out);
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
                                                {"startswith", startswith},
                                                {"endswith", endswith},
                                                {"find", find},
                                                {"rfind", rfind},
                                                {"index", string_index},
                                                {"rindex", string_rindex},
                                                {"count", string_count},
                                                {"replace", replace},
                                                {"partition", partition},
                                                {"rpartition", rpartition},
                                                {"removeprefix", removeprefix},
                                                {"removesuffix", removesuffix},
                                                {"center", center},
                                                {"ljust", ljust},
                                                {"rjust", rjust},
                                                {"zfill", zfill},
                                                {"expandtabs", expandtabs},
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
