/* jinja_tests.c: x is name, and the tests that select and reject use. */
#include <string.h>

#include "formats/jinja.h"

typedef bool test(jinja_state *state, const jinja_value *value, const jinja_value *other, bool *out);

static bool is_whole(const jinja_value *value)
{
    return value->type == JINJA_INT || value->type == JINJA_BOOL;
}

static bool remainder_is(jinja_state *state, const jinja_value *value, jinja_value divisor, jinja_value rest, bool *out)
{
    jinja_value left;
    return jinja_binary(state, OP_MODULO, value, &divisor, &left) && jinja_equal(state, &left, &rest, out);
}

#define TEST(name) static bool name(jinja_state *state, const jinja_value *value, const jinja_value *other, bool *out)
#define SIMPLE(name, condition)                                                                                                            \
    TEST(name)                                                                                                                             \
    {                                                                                                                                      \
        (void)state, (void)other;                                                                                                          \
        *out = condition;                                                                                                                  \
        return true;                                                                                                                       \
    }

SIMPLE(defined, value->type != JINJA_UNDEFINED)
SIMPLE(undefined, value->type == JINJA_UNDEFINED)
SIMPLE(none, value->type == JINJA_NONE)
SIMPLE(boolean, value->type == JINJA_BOOL)
SIMPLE(true_, value->type == JINJA_BOOL && value->i)
SIMPLE(false_, value->type == JINJA_BOOL && !value->i)
SIMPLE(integer, value->type == JINJA_INT)
SIMPLE(float_, value->type == JINJA_FLOAT)
SIMPLE(string, value->type == JINJA_STRING)
SIMPLE(mapping, value->type == JINJA_DICT)
SIMPLE(number, jinja_is_number(value))
SIMPLE(callable,
       (value->type >= JINJA_LOOP && value->type <= JINJA_METHOD) || value->type == JINJA_JOINER || value->type == JINJA_UNDEFINED)
SIMPLE(escaped, value->type == JINJA_STRING && value->s->markup)
SIMPLE(sequence, value->type == JINJA_STRING || value->type == JINJA_LIST || value->type == JINJA_TUPLE || value->type == JINJA_DICT ||
                     value->type == JINJA_RANGE || value->type == JINJA_UNDEFINED)
SIMPLE(iterable,
       (value->type >= JINJA_STRING && value->type <= JINJA_ITERATOR) || value->type == JINJA_UNDEFINED || value->type == JINJA_LOOP)
SIMPLE(sameas,
       value->type == other->type && (value->type <= JINJA_NONE || (is_whole(value) ? value->i == other->i : value->list == other->list)))

TEST(odd)
{
    (void)other;
    return remainder_is(state, value, jinja_int(2), jinja_int(1), out);
}
TEST(even)
{
    (void)other;
    return remainder_is(state, value, jinja_int(2), jinja_int(0), out);
}
TEST(divisibleby)
{
    return remainder_is(state, value, *other, jinja_int(0), out);
}

static bool string_is(jinja_state *state, const char *method, const jinja_value *value, bool *out)
{
    jinja_value text = {.type = JINJA_STRING}, bound, result;
    jinja_string name = {method, strlen(method), strlen(method), false};
    jinja_arguments none = {0};
    if (!jinja_to_string(state, value, &text.s) || !jinja_find_method(state, &text, &name, &bound) ||
        !jinja_call_value(state, &bound, &none, &result))
        return false;
    *out = result.i;
    return true;
}
TEST(lower)
{
    (void)other;
    return string_is(state, "islower", value, out);
}
TEST(upper)
{
    (void)other;
    return string_is(state, "isupper", value, out);
}

static bool is_key(jinja_state *state, const jinja_value *value)
{
    return jinja_hashable(value) || jinja_fail(state, "unhashable type: '%s'", jinja_type_name(value));
}
TEST(filter)
{
    (void)other;
    *out = value->type == JINJA_STRING && jinja_find_filter(value->s);
    return is_key(state, value);
}
TEST(test_)
{
    (void)other;
    *out = value->type == JINJA_STRING && jinja_has_test(value->s);
    return is_key(state, value);
}

#define COMPARISON(name, op)                                                                                                               \
    TEST(name)                                                                                                                             \
    {                                                                                                                                      \
        return jinja_compare(state, op, value, other, out);                                                                                \
    }
COMPARISON(equal, OP_EQUAL)
COMPARISON(unequal, OP_UNEQUAL)
COMPARISON(less, OP_LESS)
COMPARISON(less_equal, OP_LESS_EQUAL)
COMPARISON(greater, OP_GREATER)
COMPARISON(greater_equal, OP_GREATER_EQUAL)
COMPARISON(in, OP_IN)

static const struct {
    const char *name;
    test *call;
    bool takes_other;
} tests[] = {{"boolean", boolean, false},
             {"callable", callable, false},
             {"defined", defined, false},
             {"divisibleby", divisibleby, true},
             {"eq", equal, true},
             {"equalto", equal, true},
             {"==", equal, true},
             {"escaped", escaped, false},
             {"even", even, false},
             {"false", false_, false},
             {"filter", filter, false},
             {"float", float_, false},
             {"ge", greater_equal, true},
             {">=", greater_equal, true},
             {"gt", greater, true},
             {">", greater, true},
             {"greaterthan", greater, true},
             {"in", in, true},
             {"integer", integer, false},
             {"iterable", iterable, false},
             {"le", less_equal, true},
             {"<=", less_equal, true},
             {"lower", lower, false},
             {"lt", less, true},
             {"<", less, true},
             {"lessthan", less, true},
             {"mapping", mapping, false},
             {"ne", unequal, true},
             {"!=", unequal, true},
             {"none", none, false},
             {"number", number, false},
             {"odd", odd, false},
             {"sameas", sameas, true},
             {"sequence", sequence, false},
             {"string", string, false},
             {"test", test_, false},
             {"true", true_, false},
             {"undefined", undefined, false},
             {"upper", upper, false}};

static size_t find(const jinja_string *name)
{
    size_t i = 0;
    while (i < sizeof tests / sizeof *tests && strcmp(tests[i].name, name->data) != 0)
        i++;
    return i;
}

bool jinja_has_test(const jinja_string *name)
{
    return find(name) < sizeof tests / sizeof *tests;
}

bool jinja_test(jinja_state *state, const jinja_string *name, const jinja_value *value, jinja_arguments *arguments, bool *out)
{
    size_t i = find(name);
    if (i == sizeof tests / sizeof *tests)
        return jinja_fail(state, "there is no test named '%.100s'", name->data);
    size_t given = arguments->count + arguments->keyword_count;
    if (given != tests[i].takes_other)
        return jinja_fail(state, "the test '%s' takes %d argument(s), found %zu", tests[i].name, tests[i].takes_other, given);
    const jinja_value *other = arguments->count ? arguments->items : given ? &arguments->keywords[0].value : NULL;
    return tests[i].call(state, value, other, out);
}
