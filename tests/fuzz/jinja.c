/* jinja.c: a chat template, parsed and rendered.  What follows a NUL byte of the input is the JSON of its variables; without
 * one they are those of a conversation. */
#include "cambium/jinja.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \" a\\u00e9 \"},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": \"f\","
    " \"arguments\": {\"x\": 1.5, \"y\": [true, null]}}}]}], \"tools\": [{\"name\": \"f\", \"parameters\": {}}], \"bos_token\": \"<s>\","
    " \"eos_token\": \"</s>\", \"add_generation_prompt\": true, \"n\": -7, \"x\": 2.5, \"s\": \"Hello, World\", \"l\": [3, 1, 2]}";

void fuzz_target(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *nul = size ? memchr(text, 0, size) : NULL;
    size_t length = nul ? (size_t)(nul - text) : size;
    cb_jinja *template = cb_jinja_parse("chat_template.jinja", text, length);
    cb_jinja_output out = {0};
    if (fuzz_expect(template))
        fuzz_expect(cb_jinja_render(template, nul ? nul + 1 : conversation, nul ? size - length - 1 : sizeof conversation - 1, &out));
    for (size_t i = 0; i < out.generation_count; i++)
        if (out.generation[i].begin > out.generation[i].end || out.generation[i].end > out.text.length)
            abort();
    cb_jinja_output_free(&out);
    cb_jinja_free(template);
}
