/* jinja_globals.c: functions that every template has. */
#include <string.h>
#include <time.h>

#include "formats/jinja.h"

#define FUNCTION(name) static bool name(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)

FUNCTION(range)
{
    (void)self;
    enum { MOST = 100000 }; /* as the sandbox has it */
    int64_t v[3] = {0, 0, 1};
    if (arguments->keyword_count || arguments->count < 1 || arguments->count > 3)
        return jinja_fail(state, "range takes 1 to 3 arguments");
    for (size_t i = 0; i < arguments->count; i++)
        if (!jinja_want_int(state, "range", &arguments->items[i], &v[arguments->count == 1 ? 1 : i]))
            return false;
    if (v[2] == 0)
        return jinja_fail(state, "range() arg 3 must not be zero");
    jinja_range *r = jinja_take(state, sizeof *r);
    if (!r)
        return false;
    *r = (jinja_range){v[0], v[1], v[2]};
    if (jinja_range_length(r) > MOST)
        return jinja_fail(state, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", MOST);
    *out = (jinja_value){.type = JINJA_RANGE, .range = r};
    return true;
}

/* dict(mapping or pairs, name=value, ...) */
static bool make_dict(jinja_state *state, const char *what, const jinja_arguments *arguments, jinja_value *out)
{
    if (arguments->count > 1)
        return jinja_fail(state, "%s expected at most 1 argument, got %zu", what, arguments->count);
    if (!jinja_new_dict(state, out))
        return false;
    const jinja_value *from = arguments->count ? &arguments->items[0] : NULL;
    if (from && (from->type == JINJA_DICT || from->type == JINJA_NAMESPACE)) {
        for (size_t i = 0; i < from->dict->count; i++)
            if (!jinja_dict_set(state, out->dict, from->dict->keys[i], from->dict->values[i]))
                return false;
    } else if (from) {
        jinja_iterator *it = jinja_iterate(state, from);
        jinja_value item, pair;
        while (it && it->next(state, it, &item)) {
            if (!jinja_collect(state, &item, &pair))
                return false;
            if (pair.list->count != 2)
                return jinja_fail(state, "%s: found an element of length %zu, expected pairs", what, pair.list->count);
            if (!jinja_dict_set(state, out->dict, pair.list->items[0], pair.list->items[1]))
                return false;
        }
        if (!it || state->failed)
            return false;
    }
    for (size_t i = 0; i < arguments->keyword_count; i++) {
        jinja_value key = {.type = JINJA_STRING, .s = arguments->keywords[i].name};
        if (!jinja_dict_set(state, out->dict, key, arguments->keywords[i].value))
            return false;
    }
    return true;
}

FUNCTION(dict)
{
    (void)self;
    return make_dict(state, "dict", arguments, out);
}

FUNCTION(namespace)
{
    (void)self;
    if (!make_dict(state, "namespace", arguments, out))
        return false;
    for (size_t i = 0; i < out->dict->count; i++)
        if (out->dict->keys[i].type == JINJA_STRING && out->dict->keys[i].s->data[0] == '_')
            return jinja_fail(state, "namespace: found the attribute %.100s, expected one that does not begin with _",
                              out->dict->keys[i].s->data);
    out->type = JINJA_NAMESPACE;
    return true;
}

FUNCTION(raise_exception)
{
    (void)self, (void)out;
    JINJA_TAKE("raise_exception", 1, "message");
    const jinja_string *s;
    return jinja_to_string(state, &a[0], &s) && jinja_fail(state, "the template refuses this conversation: %s", s->data);
}

FUNCTION(strftime_now)
{
    (void)self;
    JINJA_TAKE("strftime_now", 1, "format");
    const jinja_string *s;
    char text[1024];
    struct tm now;
    time_t seconds = (time_t)state->now;
    if (!jinja_want_string(state, "strftime_now", &a[0], &s))
        return false;
    if (s->length > 256 || !localtime_r(&seconds, &now))
        return jinja_fail(state, "strftime_now: found a format of %zu bytes, expected 256 at most", s->length);
    return jinja_string_value(state, text, s->length ? strftime(text, sizeof text, s->data, &now) : 0, out);
}

FUNCTION(cycler)
{
    (void)self;
    struct jinja_cycler *c = jinja_take(state, sizeof *c);
    jinja_value items;
    if (!c || !jinja_new_list(state, JINJA_LIST, arguments->count, &items))
        return false;
    if (!arguments->count)
        return jinja_fail(state, "cycler: at least one item has to be provided");
    for (size_t i = 0; i < arguments->count; i++)
        if (!jinja_append(state, items.list, arguments->items[i]))
            return false;
    *c = (struct jinja_cycler){items.list, 0};
    *out = (jinja_value){.type = JINJA_CYCLER, .cycler = c};
    return true;
}

FUNCTION(joiner)
{
    (void)self;
    JINJA_TAKE("joiner", 0, "sep");
    struct jinja_joiner *j = jinja_take(state, sizeof *j);
    jinja_value comma;
    if (!j || !jinja_string_value(state, ", ", 2, &comma))
        return false;
    *j = (struct jinja_joiner){comma.s, false};
    if (jinja_given(&a[0]) && !jinja_want_string(state, "joiner", &a[0], &j->separator))
        return false;
    *out = (jinja_value){.type = JINJA_JOINER, .joiner = j};
    return true;
}

FUNCTION(lipsum)
{
    (void)self, (void)arguments, (void)out;
    return jinja_fail(state, "lipsum is not supported");
}

const jinja_function jinja_globals[] = {{"range", range},
                                        {"dict", dict},
                                        {"namespace", namespace},
                                        {"raise_exception", raise_exception},
                                        {"strftime_now", strftime_now},
                                        {"cycler", cycler},
                                        {"joiner", joiner},
                                        {"lipsum", lipsum},
                                        {0}};
