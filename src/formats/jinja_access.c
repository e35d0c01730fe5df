/* jinja_access.c: x.name, x[key] and x[a:b:c]: what is not there is undefined, and an error only when something is done with it. */
#include <string.h>

#include "formats/jinja.h"

bool jinja_bind(jinja_state *state, const jinja_value *value, const jinja_function *table, const jinja_string *name, jinja_value *out)
{
    for (; table->name; table++)
        if (strcmp(table->name, name->data) == 0) {
            jinja_method *method = jinja_take(state, sizeof *method);
            if (!method)
                return false;
            *method = (jinja_method){*value, table};
            *out = (jinja_value){.type = JINJA_METHOD, .method = method};
            return true;
        }
    return false;
}

static bool missing(jinja_state *state, const jinja_value *value, const jinja_value *key, jinja_value *out)
{
    jinja_text text = {0};
    if (key->type == JINJA_STRING)
        return jinja_undefined(state, out, "'%s object' has no attribute '%.100s'", jinja_type_name(value), key->s->data);
    if (!jinja_repr(state, key, &text) || !jinja_put(state, &text, "", 1))
        return false;
    return jinja_undefined(state, out, "%s object has no element %.100s", jinja_type_name(value), text.data);
}

/* What Python gives for value[key]; false: nothing is there (or, state->failed). */
static bool subscribe(jinja_state *state, const jinja_value *value, const jinja_value *key, jinja_value *out)
{
    if (value->type == JINJA_DICT) {
        if (!jinja_hashable(key))
            return false;
        const jinja_value *found = jinja_dict_get(state, value->dict, *key);
        if (found)
            *out = *found;
        return found;
    }
    int64_t length, i = key->i;
    bool sequence = value->type == JINJA_STRING || value->type == JINJA_LIST || value->type == JINJA_TUPLE || value->type == JINJA_RANGE;
    if (!sequence || (key->type != JINJA_INT && key->type != JINJA_BOOL) || !jinja_length(value, &length))
        return false;
    i += i < 0 ? length : 0;
    if (i < 0 || i >= length)
        return false;
    if (value->type == JINJA_STRING) {
        size_t begin = jinja_point_offset(value->s, (size_t)i);
        unsigned n;
        cb_utf8_read(value->s->data + begin, &n);
        return jinja_spend(state, value->s->points < value->s->length ? begin / 128 : 0) &&
               jinja_substring(state, value->s, begin, begin + n, out);
    }
    *out = value->type == JINJA_RANGE ? jinja_int(value->range->start + i * value->range->step) : value->list->items[i];
    return true;
}

bool jinja_get_attribute(jinja_state *state, const jinja_value *value, const jinja_string *name, jinja_value *out)
{
    jinja_value key = {.type = JINJA_STRING, .s = name};
    if (value->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", value->s->data);
    if (jinja_find_method(state, value, name, out) || (!state->failed && subscribe(state, value, &key, out)))
        return true;
    return !state->failed && missing(state, value, &key, out);
}

bool jinja_get_item(jinja_state *state, const jinja_value *value, const jinja_value *key, jinja_value *out)
{
    if (value->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", value->s->data);
    if (subscribe(state, value, key, out))
        return true;
    if (!state->failed && key->type == JINJA_STRING && jinja_find_method(state, value, key->s, out))
        return true;
    return !state->failed && missing(state, value, key, out);
}

/* ---- slices ---- */

/* Where a slice of `length` items begins and how many it has, as Python's slice.indices() has it. */
static bool slice_bounds(jinja_state *state, const jinja_value bounds[3], int64_t length, int64_t *start, int64_t *step, int64_t *count)
{
    int64_t b[3] = {0, 0, 1};
    for (int i = 0; i < 3; i++) {
        if (bounds[i].type == JINJA_NONE)
            continue;
        if (bounds[i].type != JINJA_INT && bounds[i].type != JINJA_BOOL)
            return jinja_fail(state, "slice indices must be integers or None or have an __index__ method");
        b[i] = bounds[i].i;
    }
    if (b[2] == 0)
        return jinja_fail(state, "slice step cannot be zero");
    bool down = b[2] < 0;
    int64_t low = down ? -1 : 0, high = down ? length - 1 : length;
    for (int i = 0; i < 2; i++) {
        if (bounds[i].type == JINJA_NONE) {
            b[i] = (i == 0) == down ? high : low;
            continue;
        }
        b[i] += b[i] < 0 ? length : 0;
        b[i] = b[i] < low ? low : b[i] > high ? high : b[i];
    }
    jinja_range range = {b[0], b[1], b[2]};
    *start = b[0];
    *step = b[2];
    *count = jinja_range_length(&range);
    return true;
}

bool jinja_get_slice(jinja_state *state, const jinja_value *value, const jinja_value bounds[3], jinja_value *out)
{
    int64_t length = 0, start = 0, step = 1, count = 0;
    bool sequence = value->type == JINJA_STRING || value->type == JINJA_LIST || value->type == JINJA_TUPLE || value->type == JINJA_RANGE;
    if (value->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", value->s->data);
    if (!sequence)
        return jinja_fail(state, "'%s' object cannot be sliced", jinja_type_name(value));
    if (!jinja_length(value, &length) || !slice_bounds(state, bounds, length, &start, &step, &count) ||
        !jinja_spend(state, (uint64_t)count / 16))
        return false;
    if (value->type == JINJA_RANGE) {
        jinja_range *r = jinja_take(state, sizeof *r);
        if (!r)
            return false;
        *r = (jinja_range){value->range->start + start * value->range->step, 0, 0};
        if (__builtin_mul_overflow(value->range->step, step, &r->step))
            return jinja_fail(state, "found a step beyond 64 bits");
        r->stop = r->start + count * r->step;
        *out = (jinja_value){.type = JINJA_RANGE, .range = r};
        return true;
    }
    if (value->type != JINJA_STRING) {
        if (!jinja_new_list(state, value->type, (size_t)count, out))
            return false;
        for (int64_t i = 0; i < count; i++)
            out->list->items[i] = value->list->items[start + i * step];
        out->list->count = (size_t)count;
        return true;
    }
    const jinja_string *s = value->s;
    if (step == 1) {
        size_t begin = count ? jinja_point_offset(s, (size_t)start) : 0;
        size_t end = count ? jinja_point_offset(s, (size_t)(start + count)) : 0;
        return jinja_spend(state, s->points < s->length ? end / 128 : 0) && jinja_substring(state, s, begin, end, out);
    }
    jinja_text text = {0};
    for (int64_t i = 0; i < count; i++) {
        size_t at = jinja_point_offset(s, (size_t)(start + i * step));
        unsigned n;
        cb_utf8_read(s->data + at, &n);
        if (!jinja_put(state, &text, s->data + at, n) || !jinja_spend(state, s->points < s->length ? at / 128 : 0))
            return false;
    }
    return jinja_text_value(state, &text, out);
}
