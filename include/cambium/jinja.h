/* jinja.h: floor 3: Jinja templates, as chat templates use them.
 *
 *     cb_jinja *t = cb_jinja_parse("chat_template.jinja", text, length);
 *     cb_jinja_output out = {0};
 *     cb_jinja_render(t, "{\"messages\": [...]}", n, &out);      // out.text, out.generation
 *
 * The language and its behaviour are those of jinja2 3.1 in the sandbox of transformers' apply_chat_template: trim_blocks and
 * lstrip_blocks, break and continue, {% generation %}, raise_exception, strftime_now, tojson as transformers has it, values that
 * cannot be changed.  Whole numbers have 64 bits, beyond which is an error.  Refused by name: include, import, extends, autoescape,
 * lipsum, the filters random, urlize, wordwrap and pprint.
 *
 * Templates come from strangers: steps, nesting and memory of a rendering are bounded (by the size of what it is given); an error
 * names the template and the line. */
#ifndef CAMBIUM_JINJA_H
#define CAMBIUM_JINJA_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_jinja cb_jinja;

/* `what` names the template in messages; the text is copied.  NULL: CB_ERR_FORMAT. */
CB_API cb_jinja *cb_jinja_parse(const char *what, const char *text, size_t length);
CB_API void cb_jinja_free(cb_jinja *template_); /* NULL is allowed */

/* A stretch of the text, in bytes. */
typedef struct cb_jinja_span {
    size_t begin, end;
} cb_jinja_span;
/* Zero-initialise; reuse for any number of renderings. */
typedef struct cb_jinja_output {
    cb_string text;
    cb_jinja_span *generation; /* what stands in {% generation %} blocks, in order */
    size_t generation_count, generation_capacity;
    bool generation_unplaced; /* such a block was in a macro or a set block: where its text went is not known */
} cb_jinja_output;
CB_API void cb_jinja_output_free(cb_jinja_output *output);

/* Renders with the members of a JSON object as variables.  Any number of threads may render one template at once.  False:
 * CB_ERR_FORMAT for what the template or the values do wrong (raise_exception included), CB_ERR_MEMORY. */
CB_API bool cb_jinja_render(const cb_jinja *template_, const char *json, size_t length, cb_jinja_output *out);

#ifdef __cplusplus
}
#endif
#endif
