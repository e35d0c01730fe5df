/* test_jinja.c: templates give what jinja2 gives (tests/oracle/jinja.py), and hostile ones an error. */
#include <jansson.h>
#include <stdio.h>

#include "cambium/jinja.h"
#include "core_fixtures.h"

static void check_case(const json_t *line, int number)
{
    const json_t *template = json_object_get(line, "template"), *text = json_object_get(line, "text"),
                 *spans = json_object_get(line, "spans");
    char *variables = json_dumps(json_object_get(line, "variables"), 0);
    cb_jinja_output out = {0};
    cb_jinja *jinja = cb_jinja_parse("case", json_string_value(template), json_string_length(template));
    bool ok = jinja && cb_jinja_render(jinja, variables, strlen(variables), &out);
    if (ok != (text != NULL))
        fail_msg("case %d: %s: %s", number, text ? "failed" : "rendered", text ? cb_error_message() : out.text.data);
    if (ok) {
        assert_true(cb_ok());
        if (out.text.length != json_string_length(text) ||
            memcmp(out.text.data ? out.text.data : "", json_string_value(text), out.text.length) != 0)
            fail_msg("case %d: \"%s\", expected \"%s\"", number, out.text.data, json_string_value(text));
        for (size_t i = 0; !out.generation_unplaced && i < json_array_size(spans); i++) {
            const json_t *span = json_array_get(spans, i);
            assert_int_equal(json_array_size(spans), out.generation_count);
            assert_int_equal(json_integer_value(json_array_get(span, 0)), out.generation[i].begin);
            assert_int_equal(json_integer_value(json_array_get(span, 1)), out.generation[i].end);
        }
    }
    cb_error_clear();
    cb_jinja_output_free(&out);
    cb_jinja_free(jinja);
    free(variables);
}

static void templates_render_as_in_jinja2(void **state)
{
    (void)state;
    FILE *f = fopen(CB_TEST_DATA "/jinja/cases.jsonl", "r");
    assert_non_null(f);
    char *line = NULL;
    size_t capacity = 0;
    int count = 0;
    while (getline(&line, &capacity, f) > 0) {
        json_t *value = json_loads(line, 0, NULL);
        assert_non_null(value);
        check_case(value, ++count);
        json_decref(value);
    }
    free(line);
    fclose(f);
    assert_true(count > 500);
}

static void expect_error(const char *template, const char *message)
{
    cb_jinja_output out = {0};
    cb_jinja *jinja = cb_jinja_parse("t.jinja", template, strlen(template));
    if (jinja && cb_jinja_render(jinja, "{\"s\":\"x\",\"l\":[1,2]}", strlen("{\"s\":\"x\",\"l\":[1,2]}"), &out))
        fail_msg("%.200s: rendered \"%s\"", template, out.text.data);
    if (!strstr(cb_error_message(), message))
        fail_msg("%.200s: \"%s\", expected \"%s\"", template, cb_error_message(), message);
    assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
    cb_error_clear();
    cb_jinja_output_free(&out);
    cb_jinja_free(jinja);
}

static void errors_name_the_template_and_the_line(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"a\n{% if x %}", "t.jinja:2: found the end of the template, expected elif"},
        {"{{ 'a }}", "t.jinja:1: found a string without an end"},
        {"\n\n{{ s.a.b }}", "t.jinja:3: 'str object' has no attribute 'a'"},
        {"{% raise %}", "found the block raise"},
        {"\n{{ raise_exception('no\\nmore') }}", "t.jinja:2: the template refuses this conversation: no more"},
        {"{% include 'x' %}", "include is not supported"},
        {"{{ 9223372036854775807 + 1 }}", "beyond 64 bits"},
        {"{{ 9223372036854775808 }}", "expected one of 64 bits"},
        {"{{ s|random }}", "there is no filter named 'random'"},
        {"{{ l.append(3) }}", "'list object' has no attribute 'append'"},
        {"{{ 1 + 's' }}", "unsupported operand type(s) for +"},
        {"{{ missing.x }}", "'missing' is undefined"},
        {"{% break %}", "found break outside of a loop"},
        {"{# open", "found a comment without its end"},
        {"{{ ] }}", "closes nothing"},
        {"\xff", "expected text in UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_error(cases[i][0], cases[i][1]);
}

static void hostile_templates_are_stopped(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "takes more than"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "levels"},
        {"{{ 'x' * 9000000000 }}", "memory"},
        {"{{ [1] * 4000000000 }}", "memory"},
        {"{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}", "memory"},
        {"{% for i in range(100000) %}{{ s * 1000 }}{% endfor %}", "memory"},
        {"{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}", "levels"},
        {"{{ '%*d' % (900000000, 1) }}", "too large"},
        {"{{ '{:999999999}'.format(1) }}", "Invalid format"},
        {"{{ s.center(900000000000) }}", ""},
        {"{{ range(100001) }}", "Range too big"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_error(cases[i][0], cases[i][1]);
    cb_string deep = {0};
    for (int i = 0; i < 5000; i++)
        assert_true(cb_string_puts(&deep, i ? "not " : "{{ "));
    assert_true(cb_string_puts(&deep, "1 }}"));
    expect_error(deep.data, "levels");
    cb_string_clear(&deep);
    assert_true(cb_string_puts(&deep, "{{ 1"));
    for (int i = 0; i < 5000; i++)
        assert_true(cb_string_puts(&deep, " + 1"));
    assert_true(cb_string_puts(&deep, " }}"));
    expect_error(deep.data, "levels");
    cb_string_clear(&deep);
    for (int i = 0; i < 5000; i++)
        assert_true(cb_string_puts(&deep, "{% if s %}"));
    expect_error(deep.data, "levels");
    cb_string_free(&deep);
}

static void no_memory_is_lost_when_there_is_none(void **state)
{
    (void)state;
    static const char template[] = "{% macro m(a) %}{{ a|tojson }}{% endmacro %}{% for x in l|map('string') %}{{ m(x) }}{% endfor %}"
                                   "{% generation %}{{ s * 50000 }}{% endgeneration %}";
    static const char values[] = "{\"s\":\"x\",\"l\":[1,2]}";
    uint64_t before = cb_memory().live_bytes;
    for (uint64_t n = 1; n < 200; n++) {
        cb_jinja_output out = {0};
        cb_memory_fail_after(n);
        cb_jinja *jinja = cb_jinja_parse("t", template, strlen(template));
        bool ok = jinja && cb_jinja_render(jinja, values, strlen(values), &out);
        cb_memory_fail_after(0);
        assert_int_equal(ok, cb_ok());
        assert_true(ok || cb_error_status() == CB_ERR_MEMORY);
        cb_error_clear();
        cb_jinja_output_free(&out);
        cb_jinja_free(jinja);
        assert_int_equal(cb_memory().live_bytes, before);
        if (ok)
            return;
    }
    fail_msg("never rendered");
}

int main(void)
{
    const struct CMUnitTest tests[] = {CORE_TEST(templates_render_as_in_jinja2), CORE_TEST(errors_name_the_template_and_the_line),
                                       CORE_TEST(hostile_templates_are_stopped), CORE_TEST(no_memory_is_lost_when_there_is_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
