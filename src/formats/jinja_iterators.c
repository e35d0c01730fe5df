/* jinja_iterators.c: going through values one by one, as late as Python would. */
#include <string.h>

#include "formats/jinja.h"

jinja_iterator *jinja_new_iterator(jinja_state *state, jinja_next *next)
{
    jinja_iterator *it = jinja_take(state, sizeof *it);
    if (it)
        *it = (jinja_iterator){.next = next};
    return it;
}

static bool next_point(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    const jinja_string *s = it->source.s;
    unsigned n;
    if (it->at >= s->length || !jinja_spend(state, 1))
        return false;
    cb_utf8_read(s->data + it->at, &n);
    it->at += n;
    return jinja_substring(state, s, it->at - n, it->at, out);
}

static bool next_item(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    const jinja_list *list = it->source.list;
    if (it->at >= list->count || !jinja_spend(state, 1))
        return false;
    *out = list->items[it->at++];
    return true;
}

static bool next_entry(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    const jinja_view *view = it->source.view;
    if (it->at >= view->dict->count || !jinja_spend(state, 1))
        return false;
    size_t i = it->at++;
    if (view->kind == JINJA_ITEMS)
        return jinja_pair(state, view->dict->keys[i], view->dict->values[i], out);
    *out = view->kind == JINJA_KEYS ? view->dict->keys[i] : view->dict->values[i];
    return true;
}

static bool next_of_range(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    const jinja_range *r = it->source.range;
    if ((int64_t)it->at >= it->stop || !jinja_spend(state, 1))
        return false;
    *out = jinja_int((int64_t)((uint64_t)r->start + (uint64_t)it->at++ * (uint64_t)r->step));
    return true;
}

static bool next_of_none(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    (void)state, (void)it, (void)out;
    return false;
}

/* A LoopContext goes on with its own loop, as its __iter__ does; rarely meant, never needed. */
jinja_iterator *jinja_iterate(jinja_state *state, const jinja_value *value)
{
    jinja_next *next = NULL;
    jinja_value source = *value;
    switch (value->type) {
    case JINJA_ITERATOR:
        return value->iterator;
    case JINJA_STRING:
        next = next_point;
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        next = next_item;
        break;
    case JINJA_DICT: {
        jinja_view *view = jinja_take(state, sizeof *view);
        if (!view)
            return NULL;
        *view = (jinja_view){value->dict, JINJA_KEYS};
        source = (jinja_value){.type = JINJA_VIEW, .view = view};
        next = next_entry;
        break;
    }
    case JINJA_VIEW:
        next = next_entry;
        break;
    case JINJA_RANGE:
        next = next_of_range;
        break;
    case JINJA_UNDEFINED:
        next = next_of_none;
        break;
    default:
        return jinja_fail(state, "'%s' object is not iterable", jinja_type_name(value)), NULL;
    }
    jinja_iterator *it = jinja_new_iterator(state, next);
    if (!it)
        return NULL;
    it->source = source;
    if (value->type == JINJA_RANGE)
        it->stop = jinja_range_length(value->range);
    return it;
}

bool jinja_collect(jinja_state *state, const jinja_value *value, jinja_value *list)
{
    jinja_iterator *it = jinja_iterate(state, value);
    jinja_value item;
    if (!it || !jinja_new_list(state, JINJA_LIST, 0, list))
        return false;
    while (it->next(state, it, &item))
        if (!jinja_append(state, list->list, item))
            return false;
    return !state->failed;
}

/* ---- loops ---- */

static bool peek(jinja_state *state, jinja_loop *loop)
{
    if (!loop->has_after && !loop->ended) {
        loop->has_after = loop->iterator->next(state, loop->iterator, &loop->after);
        loop->ended = !loop->has_after;
    }
    return !state->failed;
}

static bool loop_length(jinja_state *state, jinja_loop *loop)
{
    if (loop->length >= 0)
        return true;
    if (loop->iterable.type != JINJA_ITERATOR && jinja_length(&loop->iterable, &loop->length))
        return true;
    jinja_value rest, source = {.type = JINJA_ITERATOR, .iterator = loop->iterator};
    if (!jinja_collect(state, &source, &rest))
        return false;
    loop->length = (int64_t)rest.list->count + loop->index0 + 1 + loop->has_after;
    return (loop->iterator = jinja_iterate(state, &rest)) != NULL;
}

static bool cycle(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    if (!arguments->count)
        return jinja_fail(state, "no items for cycling given");
    *out = arguments->items[(size_t)self->loop->index0 % arguments->count];
    return true;
}

static bool changed(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out)
{
    jinja_list *before = self->loop->changed;
    jinja_value now;
    bool same = before;
    if (!jinja_new_list(state, JINJA_TUPLE, arguments->count, &now))
        return false;
    for (size_t i = 0; i < arguments->count; i++)
        if (!jinja_append(state, now.list, arguments->items[i]))
            return false;
    if (before) {
        jinja_value old = {.type = JINJA_TUPLE, .list = before};
        if (!jinja_equal(state, &old, &now, &same))
            return false;
    }
    self->loop->changed = now.list;
    *out = jinja_bool(!same);
    return true;
}

bool jinja_loop_attribute(jinja_state *state, jinja_loop *loop, const jinja_string *name, jinja_value *out)
{
    static const jinja_function methods[] = {{"cycle", cycle}, {"changed", changed}, {0}};
    const char *n = name->data;
    if (!strcmp(n, "index") || !strcmp(n, "index0")) {
        *out = jinja_int(loop->index0 + (n[5] == 0));
    } else if (!strcmp(n, "first")) {
        *out = jinja_bool(loop->index0 == 0);
    } else if (!strcmp(n, "last")) {
        if (!peek(state, loop))
            return false;
        *out = jinja_bool(!loop->has_after);
    } else if (!strcmp(n, "length") || !strcmp(n, "revindex") || !strcmp(n, "revindex0")) {
        if (!loop_length(state, loop))
            return false;
        *out = jinja_int(n[0] == 'l' ? loop->length : loop->length - loop->index0 - (n[8] == '0'));
    } else if (!strcmp(n, "depth") || !strcmp(n, "depth0")) {
        *out = jinja_int(loop->depth0 + (n[5] == 0));
    } else if (!strcmp(n, "previtem")) {
        *out = loop->before;
        if (!loop->has_before)
            return jinja_undefined(state, out, "there is no previous item");
    } else if (!strcmp(n, "nextitem")) {
        if (!peek(state, loop))
            return false;
        *out = loop->after;
        if (!loop->has_after)
            return jinja_undefined(state, out, "there is no next item");
    } else {
        jinja_value self = {.type = JINJA_LOOP, .loop = loop};
        return jinja_bind(state, &self, methods, name, out);
    }
    return true;
}
