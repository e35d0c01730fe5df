/* jinja_render.c: renders templates for tests/oracle/jinja.py: reads JSON lines {"template", "variables"} on standard input and writes
 * one line each: {"text", "spans"} or {"error"}. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/jinja.h"

static json_t *answer(const json_t *request)
{
    json_t *template = json_object_get(request, "template");
    char *variables = json_dumps(json_object_get(request, "variables"), 0);
    cb_jinja_output out = {0};
    cb_jinja *jinja = cb_jinja_parse("template", json_string_value(template), json_string_length(template));
    json_t *result = NULL;
    if (jinja && cb_jinja_render(jinja, variables, strlen(variables), &out)) {
        json_t *spans = json_array();
        for (size_t i = 0; i < out.generation_count; i++)
            json_array_append_new(spans, json_pack("[I,I]", (json_int_t)out.generation[i].begin, (json_int_t)out.generation[i].end));
        result = json_pack("{s:s%, s:o, s:b}", "text", out.text.data ? out.text.data : "", out.text.length, "spans", spans, "unplaced",
                           out.generation_unplaced);
    } else {
        result = json_pack("{s:s}", "error", cb_error_message());
        cb_error_clear();
    }
    cb_jinja_output_free(&out);
    cb_jinja_free(jinja);
    free(variables);
    return result;
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        json_t *request = json_loads(line, JSON_ALLOW_NUL, NULL),
               *result = request ? answer(request) : json_pack("{s:s}", "error", "bad request");
        char *text = json_dumps(result, JSON_COMPACT);
        puts(text);
        fflush(stdout);
        free(text);
        json_decref(result);
        json_decref(request);
    }
    free(line);
    return 0;
}
