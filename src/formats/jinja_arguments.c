/* jinja_arguments.c: the arguments of built-in functions, by position or by name. */
#include <string.h>

#include "formats/jinja.h"

bool jinja_given(const jinja_value *value)
{
    return value->type != JINJA_UNDEFINED || value->s;
}

bool jinja_take_arguments(jinja_state *state, const char *what, const jinja_arguments *arguments, const char *const *names, size_t required,
                          jinja_value *out)
{
    size_t count = 0;
    while (names[count])
        out[count++] = (jinja_value){.type = JINJA_UNDEFINED};
    if (arguments->count > count)
        return jinja_fail(state, "%s takes at most %zu argument(s), found %zu", what, count, arguments->count);
    for (size_t i = 0; i < arguments->count; i++)
        out[i] = arguments->items[i];
    for (size_t k = 0; k < arguments->keyword_count; k++) {
        size_t i = 0;
        while (i < count && strcmp(names[i], arguments->keywords[k].name->data) != 0)
            i++;
        if (i == count)
            return jinja_fail(state, "%s got an unexpected keyword argument '%.100s'", what, arguments->keywords[k].name->data);
        if (jinja_given(&out[i]))
            return jinja_fail(state, "%s got multiple values for argument '%s'", what, names[i]);
        out[i] = arguments->keywords[k].value;
    }
    for (size_t i = 0; i < required; i++)
        if (!jinja_given(&out[i]))
            return jinja_fail(state, "%s misses the argument '%s'", what, names[i]);
    return true;
}

bool jinja_want_int(jinja_state *state, const char *what, const jinja_value *value, int64_t *out)
{
    *out = value->i;
    return value->type == JINJA_INT || value->type == JINJA_BOOL ||
           jinja_fail(state, "%s: found '%s', expected an integer", what, jinja_type_name(value));
}

bool jinja_want_string(jinja_state *state, const char *what, const jinja_value *value, const jinja_string **out)
{
    *out = value->s;
    return value->type == JINJA_STRING || jinja_fail(state, "%s: found '%s', expected a str", what, jinja_type_name(value));
}
