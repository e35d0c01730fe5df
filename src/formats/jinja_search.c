/* jinja_search.c: methods of strings that look for others in them, and those that bring them to a width. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <string.h>

#include "formats/jinja.h"
#define METHOD(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

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
        found = last ? jinja_find_last(text + begin, end - begin, part) : memmem(text + begin, end - begin, part->data, part->length);
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
            unsigned n;
            if (at >= s->length)
                break;
            cb_utf8_read(s->data + at, &n);
            if (!jinja_put(state, &text, s->data + at, n))
                return false;
            at += n;
        }
    }
    return jinja_put(state, &text, s->data + at, s->length - at) && jinja_marked_text(state, self, &text, out);
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
    const char *found = last ? jinja_find_last(s->data, s->length, part) : memmem(s->data, s->length, part->data, part->length);
    size_t at = found ? (size_t)(found - s->data) : last ? 0 : s->length;
    size_t end = found ? at + part->length : at;
    return jinja_add_part(state, s, 0, at, out) && jinja_add_part(state, s, at, end, out) && jinja_add_part(state, s, end, s->length, out);
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
    return ok && jinja_marked_text(state, self, &text, out);
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
    return ok && jinja_put(state, &text, self->s->data + sign, self->s->length - sign) && jinja_marked_text(state, self, &text, out);
}

METHOD(expandtabs)
{
    JINJA_TAKE("expandtabs", 0, "tabsize");
    int64_t size = 8, column = 0;
    jinja_text text = {0};
    if (jinja_given(&a[0]) && !jinja_want_int(state, "expandtabs", &a[0], &size))
        return false;
    unsigned n;
    for (size_t i = 0; i < self->s->length; i += n) {
        uint32_t c = cb_utf8_read(self->s->data + i, &n);
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
    return jinja_marked_text(state, self, &text, out);
}

const jinja_function jinja_search_methods[] = {{"startswith", startswith},
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
                                               {0}};
