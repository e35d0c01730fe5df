/* jinja_statements.c: the blocks of a template. */
#include <string.h>

#include "formats/jinja.h"

static bool expect(jinja_parser *p, jinja_token_type type, const char *what)
{
    if (p->token->type != type)
        return jinja_unexpected(p, what);
    p->token += p->token < p->end;
    return true;
}

/* Statements and text up to a block named by one of `ends` (NULL: up to the end of the template), whose name is then the current
 * token. */
static bool body(jinja_parser *p, const char *const *ends, jinja_node **list);

/* The rest of a block's opening and what stands in it, up to `end`, which is passed. */
static bool body_to(jinja_parser *p, const char *end, jinja_node **list)
{
    const char *const ends[] = {end, NULL};
    jinja_skip_op(p, ":");
    return expect(p, TOKEN_BLOCK_END, "%}") && body(p, ends, list) && jinja_expect_name(p);
}

static bool body_to_any(jinja_parser *p, const char *const *ends, jinja_node **list)
{
    jinja_skip_op(p, ":");
    return expect(p, TOKEN_BLOCK_END, "%}") && body(p, ends, list);
}

static bool parse_if(jinja_parser *p, jinja_node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    for (;;) {
        if (!(node->a = jinja_parse_tuple(p, false, NULL, false)) || !body_to_any(p, ends, &node->body))
            return false;
        if (jinja_skip_name(p, "else"))
            return body_to(p, "endif", &node->c);
        if (jinja_skip_name(p, "endif"))
            return true;
        jinja_expect_name(p);
        if (!(node->d = jinja_new_node(p, NODE_IF, p->token->line)))
            return false;
        node = node->d;
    }
}

static bool parse_for(jinja_parser *p, jinja_node *node)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    if (!(node->name = jinja_intern(p->template, "loop", 4)))
        return false;
    if (!(node->a = jinja_parse_target(p, false)))
        return false;
    if (!jinja_skip_name(p, "in"))
        return jinja_unexpected(p, "in");
    if (!(node->b = jinja_parse_tuple(p, false, "recursive", false)))
        return false;
    if (jinja_skip_name(p, "if") && !(node->c = jinja_parse_expression(p, true)))
        return false;
    node->recursive = jinja_skip_name(p, "recursive");
    p->loops++;
    bool ok = body_to_any(p, ends, &node->body);
    p->loops--;
    if (!ok)
        return false;
    if (jinja_skip_name(p, "endfor"))
        return true;
    jinja_expect_name(p);
    return body_to(p, "endfor", &node->d);
}

static bool parse_set(jinja_parser *p, jinja_node *node)
{
    if (!(node->a = jinja_parse_target(p, true)))
        return false;
    if (jinja_skip_op(p, "="))
        return (node->b = jinja_parse_tuple(p, true, NULL, false)) != NULL;
    node->kind = NODE_SET_BLOCK;
    if (jinja_is_op(p, "|") && !(node->b = jinja_parse_filters(p, NULL, false)))
        return false;
    return body_to(p, "endset", &node->body);
}

static bool parameters(jinja_parser *p, jinja_node **list)
{
    bool defaults = false;
    if (!jinja_expect_op(p, "("))
        return false;
    for (jinja_node **end = list; !jinja_is_op(p, ")");) {
        if (*list && !jinja_expect_op(p, ","))
            return false;
        jinja_node *parameter = jinja_new_node(p, NODE_PARAMETER, p->token->line);
        if (!parameter || !(parameter->name = jinja_expect_name(p)))
            return false;
        if (jinja_skip_op(p, "=")) {
            defaults = true;
            if (!(parameter->a = jinja_parse_expression(p, true)))
                return false;
        } else if (defaults) {
            return jinja_unexpected(p, "a default, as the parameter before has one");
        }
        *end = parameter;
        end = &parameter->next;
    }
    return jinja_expect_op(p, ")");
}

/* The body of a macro or a call: break and continue do not reach out of it. */
static bool macro_body(jinja_parser *p, jinja_node *node, const char *end)
{
    if (p->macros == sizeof p->macro / sizeof *p->macro)
        return jinja_syntax(p->template, node->line, "found more than %d macros in one another", p->macros);
    int loops = p->loops;
    p->macro[p->macros++] = node;
    p->loops = 0;
    bool ok = body_to(p, end, &node->body);
    p->loops = loops;
    p->macros--;
    return ok;
}

static bool parse_macro(jinja_parser *p, jinja_node *node)
{
    return (node->name = jinja_expect_name(p)) && parameters(p, &node->a) && macro_body(p, node, "endmacro");
}

static bool parse_call(jinja_parser *p, jinja_node *node)
{
    if (jinja_is_op(p, "(") && !parameters(p, &node->a))
        return false;
    if (!(node->b = jinja_parse_expression(p, true)))
        return false;
    if (node->b->kind != NODE_CALL)
        return jinja_syntax(p->template, node->line, "found another expression behind `call`, expected a call");
    return macro_body(p, node, "endcall");
}

static bool parse_with(jinja_parser *p, jinja_node *node)
{
    for (jinja_node **end = &node->a; p->token->type != TOKEN_BLOCK_END;) {
        if (node->a && !jinja_expect_op(p, ","))
            return false;
        jinja_node *set = jinja_new_node(p, NODE_SET, p->token->line);
        if (!set || !(set->a = jinja_parse_target(p, false)) || !jinja_expect_op(p, "=") || !(set->b = jinja_parse_expression(p, true)))
            return false;
        *end = set;
        end = &set->next;
    }
    return body_to(p, "endwith", &node->body);
}

static bool parse_filter_block(jinja_parser *p, jinja_node *node)
{
    return (node->b = jinja_parse_filters(p, NULL, true)) && body_to(p, "endfilter", &node->body);
}

static bool parse_generation(jinja_parser *p, jinja_node *node)
{
    return macro_body(p, node, "endgeneration");
}

static bool parse_block(jinja_parser *p, jinja_node *node)
{
    if (!(node->name = jinja_expect_name(p)))
        return false;
    jinja_skip_name(p, "scoped");
    jinja_skip_name(p, "required");
    int loops = p->loops;
    p->loops = 0;
    bool ok = body_to(p, "endblock", &node->body);
    p->loops = loops;
    jinja_skip_name(p, node->name->data);
    return ok;
}

static bool parse_print(jinja_parser *p, jinja_node *node)
{
    jinja_node *first = NULL, **end = &first;
    while (p->token->type != TOKEN_BLOCK_END) {
        if (first && !jinja_expect_op(p, ","))
            return false;
        if (!(*end = jinja_parse_expression(p, true)))
            return false;
        end = &(*end)->next;
    }
    node->kind = NODE_PRINT;
    node->a = first;
    return true;
}

static bool parse_jump(jinja_parser *p, jinja_node *node)
{
    if (p->loops)
        return true;
    return jinja_syntax(p->template, node->line, "found %s outside of a loop", node->kind == NODE_BREAK ? "break" : "continue");
}

/* What needs other templates, or an escaping environment: an error where it is rendered. */
static bool parse_refused(jinja_parser *p, jinja_node *node)
{
    while (p->token->type != TOKEN_BLOCK_END && p->token->type != TOKEN_END)
        p->token++;
    if (strcmp(node->name->data, "autoescape") == 0)
        return body_to(p, "endautoescape", &node->body);
    return true;
}

static jinja_node *statement(jinja_parser *p)
{
    static const struct {
        const char *name;
        jinja_kind kind;
        bool (*parse)(jinja_parser *p, jinja_node *node);
    } statements[] = {{"if", NODE_IF, parse_if},
                      {"for", NODE_FOR, parse_for},
                      {"set", NODE_SET, parse_set},
                      {"macro", NODE_MACRO, parse_macro},
                      {"call", NODE_CALL_BLOCK, parse_call},
                      {"filter", NODE_FILTER_BLOCK, parse_filter_block},
                      {"with", NODE_WITH, parse_with},
                      {"generation", NODE_GENERATION, parse_generation},
                      {"break", NODE_BREAK, parse_jump},
                      {"continue", NODE_CONTINUE, parse_jump},
                      {"block", NODE_BLOCK, parse_block},
                      {"print", NODE_PRINT, parse_print},
                      {"include", NODE_REFUSED, parse_refused},
                      {"import", NODE_REFUSED, parse_refused},
                      {"from", NODE_REFUSED, parse_refused},
                      {"extends", NODE_REFUSED, parse_refused},
                      {"autoescape", NODE_REFUSED, parse_refused}};
    int line = p->token->line;
    const jinja_string *name = jinja_expect_name(p);
    for (size_t i = 0; name && i < sizeof statements / sizeof *statements; i++)
        if (strcmp(statements[i].name, name->data) == 0) {
            jinja_node *node = jinja_new_node(p, statements[i].kind, line);
            if (!node || !jinja_enter(p))
                return NULL;
            node->name = name;
            bool ok = statements[i].parse(p, node);
            p->depth--;
            return ok ? node : NULL;
        }
    if (name)
        jinja_syntax(p->template, line, "found the block %.100s, which is not known or does not belong here", name->data);
    return NULL;
}

static bool is_end(const jinja_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (jinja_is_name(p, *ends))
            return true;
    return false;
}

static bool body(jinja_parser *p, const char *const *ends, jinja_node **list)
{
    for (jinja_node **end = list; p->token->type != TOKEN_END;) {
        const jinja_token *t = p->token;
        jinja_node *node = NULL;
        if (t->type == TOKEN_BLOCK_BEGIN) {
            p->token++;
            if (is_end(p, ends))
                return true;
            node = statement(p);
            if (!node || !expect(p, TOKEN_BLOCK_END, "%}"))
                return false;
        } else if (t->type == TOKEN_VARIABLE_BEGIN) {
            p->token++;
            node = jinja_new_node(p, NODE_PRINT, t->line);
            if (!node || !(node->a = jinja_parse_tuple(p, true, NULL, false)) || !expect(p, TOKEN_VARIABLE_END, "}}"))
                return false;
        } else {
            p->token++;
            node = jinja_new_node(p, NODE_TEXT, t->line);
            if (!node)
                return false;
            node->value = (jinja_value){.type = JINJA_STRING, .s = t->string};
        }
        *end = node;
        end = &node->next;
    }
    if (!ends)
        return true;
    return jinja_unexpected(p, *ends);
}

bool jinja_parse_body(jinja_parser *p)
{
    return body(p, NULL, &p->template->body);
}
