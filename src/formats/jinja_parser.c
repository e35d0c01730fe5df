/* jinja_parser.c: tokens and values of a template; expressions of them stand in jinja_expressions.c.
 *
 * The grammar and its precedence are jinja2's (its parser.py): a condition, or, and, not, comparisons, + and -, ~, the products, powers,
 * signs; filters and tests bind to what stands before them, tighter than any operator but a sign. */
#include <string.h>

#include "formats/jinja.h"

jinja_node *jinja_new_node(jinja_parser *p, jinja_kind kind, int line)
{
    jinja_node *node = jinja_arena_take(&p->template->arena, sizeof *node);
    if (node)
        *node = (jinja_node){.kind = kind, .line = line};
    return node;
}

jinja_node *jinja_make_node(jinja_parser *p, jinja_kind kind, int line, jinja_node *a, jinja_node *b)
{
    jinja_node *node = a ? jinja_new_node(p, kind, line) : NULL;
    if (!node)
        return NULL;
    node->a = a;
    node->b = b;
    return node;
}

/* ---- tokens ---- */

void jinja_advance(jinja_parser *p)
{
    if (p->token < p->end)
        p->token++;
}

bool jinja_is_name(const jinja_parser *p, const char *name)
{
    return p->token->type == TOKEN_NAME && strcmp(p->token->string->data, name) == 0;
}

bool jinja_is_op(const jinja_parser *p, const char *op)
{
    return p->token->type == TOKEN_OPERATOR && strcmp(p->token->op, op) == 0;
}

bool jinja_skip_name(jinja_parser *p, const char *name)
{
    bool found = jinja_is_name(p, name);
    if (found)
        jinja_advance(p);
    return found;
}

bool jinja_skip_op(jinja_parser *p, const char *op)
{
    bool found = jinja_is_op(p, op);
    if (found)
        jinja_advance(p);
    return found;
}

CB_COLD void *jinja_unexpected(const jinja_parser *p, const char *expected)
{
    const jinja_token *t = p->token;
    static const char *const names[] = {[TOKEN_END] = "the end of the template",
                                        [TOKEN_TEXT] = "text",
                                        [TOKEN_BLOCK_BEGIN] = "{%",
                                        [TOKEN_BLOCK_END] = "%}",
                                        [TOKEN_VARIABLE_BEGIN] = "{{",
                                        [TOKEN_VARIABLE_END] = "}}",
                                        [TOKEN_STRING] = "a string",
                                        [TOKEN_INTEGER] = "a number",
                                        [TOKEN_FLOAT] = "a number"};
    const char *found = t->type == TOKEN_OPERATOR ? t->op : t->type == TOKEN_NAME ? t->string->data : names[t->type];
    return jinja_syntax(p->template, t->line, "found %.100s, expected %s", found, expected), NULL;
}

bool jinja_expect_op(jinja_parser *p, const char *op)
{
    return jinja_skip_op(p, op) || jinja_unexpected(p, op);
}

const jinja_string *jinja_expect_name(jinja_parser *p)
{
    const jinja_string *name = p->token->string;
    if (p->token->type != TOKEN_NAME)
        return jinja_unexpected(p, "a name");
    jinja_advance(p);
    return name;
}

bool jinja_enter(jinja_parser *p)
{
    if (p->depth < JINJA_MOST_PARSE_DEPTH) {
        p->depth++;
        return true;
    }
    return jinja_syntax(p->template, p->token->line, "found more than %d levels in one another", JINJA_MOST_PARSE_DEPTH);
}

/* ---- values ---- */

jinja_node *jinja_constant(jinja_parser *p, int line, jinja_value value)
{
    jinja_node *node = jinja_new_node(p, NODE_CONST, line);
    if (node)
        node->value = value;
    return node;
}

static jinja_node *name(jinja_parser *p, bool with_namespace)
{
    int line = p->token->line;
    const jinja_string *s = p->token->string;
    bool yes = !strcmp(s->data, "true") || !strcmp(s->data, "True"), no = !strcmp(s->data, "false") || !strcmp(s->data, "False");
    jinja_advance(p);
    if (yes || no)
        return jinja_constant(p, line, jinja_bool(yes));
    if (!strcmp(s->data, "none") || !strcmp(s->data, "None"))
        return jinja_constant(p, line, jinja_none());
    jinja_node *node = jinja_new_node(p, NODE_NAME, line);
    if (!node)
        return NULL;
    node->name = s;
    for (int i = 0; i < p->macros; i++) {
        p->macro[i]->has_caller |= !strcmp(s->data, "caller");
        p->macro[i]->has_kwargs |= !strcmp(s->data, "kwargs");
        p->macro[i]->has_varargs |= !strcmp(s->data, "varargs");
    }
    if (!with_namespace || !jinja_skip_op(p, "."))
        return node;
    node = jinja_make_node(p, NODE_NAMESPACE, line, node, NULL);
    return node && (node->name = jinja_expect_name(p)) ? node : NULL;
}

static jinja_node *strings(jinja_parser *p)
{
    int line = p->token->line;
    const jinja_string *s = p->token->string;
    jinja_advance(p);
    while (p->token->type == TOKEN_STRING) {
        const jinja_string *more = p->token->string;
        jinja_string *both = jinja_arena_take(&p->template->arena, sizeof *both);
        char *data = both ? jinja_arena_take(&p->template->arena, s->length + more->length + 1) : NULL;
        if (!data)
            return NULL;
        memcpy(data, s->data, s->length);
        memcpy(data + s->length, more->data, more->length + 1);
        *both = (jinja_string){.data = data, .length = s->length + more->length, .points = s->points + more->points};
        s = both;
        jinja_advance(p);
    }
    return jinja_constant(p, line, (jinja_value){.type = JINJA_STRING, .s = s});
}

/* Items up to `close`, separated by commas; pairs with a colon for a dict. */
static jinja_node *collection(jinja_parser *p, jinja_kind kind, const char *close)
{
    jinja_node *node = jinja_new_node(p, kind, p->token->line), **end = node ? &node->a : NULL;
    jinja_advance(p);
    while (node && !jinja_is_op(p, close)) {
        if (node->a && !jinja_expect_op(p, ","))
            return NULL;
        if (jinja_is_op(p, close))
            break;
        int line = p->token->line;
        jinja_node *item = jinja_parse_expression(p, true);
        if (item && kind == NODE_DICT) {
            jinja_node *value = jinja_expect_op(p, ":") ? jinja_parse_expression(p, true) : NULL;
            item = value ? jinja_make_node(p, NODE_PAIR, line, item, value) : NULL;
        }
        if (!item)
            return NULL;
        *end = item;
        end = &item->next;
    }
    return node && jinja_expect_op(p, close) ? node : NULL;
}

jinja_node *jinja_parse_primary(jinja_parser *p, bool with_namespace)
{
    const jinja_token *t = p->token;
    if (t->type == TOKEN_NAME)
        return name(p, with_namespace);
    if (t->type == TOKEN_STRING)
        return strings(p);
    if (t->type == TOKEN_INTEGER || t->type == TOKEN_FLOAT) {
        jinja_advance(p);
        return jinja_constant(p, t->line, t->type == TOKEN_INTEGER ? jinja_int(t->integer) : jinja_float(t->number));
    }
    if (jinja_is_op(p, "["))
        return collection(p, NODE_LIST, "]");
    if (jinja_is_op(p, "{"))
        return collection(p, NODE_DICT, "}");
    if (!jinja_skip_op(p, "("))
        return jinja_unexpected(p, "an expression");
    jinja_node *node = jinja_parse_tuple(p, true, NULL, true);
    return node && jinja_expect_op(p, ")") ? node : NULL;
}

static bool ends_tuple(const jinja_parser *p, const char *end_name)
{
    return p->token->type == TOKEN_VARIABLE_END || p->token->type == TOKEN_BLOCK_END || jinja_is_op(p, ")") ||
           (end_name && jinja_is_name(p, end_name));
}

/* `simple`: of names and literals alone, as targets of assignments are. */
static jinja_node *tuple(jinja_parser *p, bool with_condition, const char *end_name, bool parentheses, bool simple, bool with_namespace)
{
    int line = p->token->line;
    jinja_node *first = NULL, **end = &first;
    bool several = false;
    for (;;) {
        if (first && !jinja_expect_op(p, ","))
            return NULL;
        if (ends_tuple(p, end_name))
            break;
        jinja_node *item = simple ? jinja_parse_primary(p, with_namespace) : jinja_parse_expression(p, with_condition);
        if (!item)
            return NULL;
        *end = item;
        end = &item->next;
        if (!jinja_is_op(p, ","))
            break;
        several = true;
    }
    if (!several && first)
        return first;
    if (!several && !parentheses)
        return jinja_unexpected(p, "an expression");
    jinja_node *node = jinja_new_node(p, NODE_TUPLE, line);
    if (node)
        node->a = first;
    return node;
}

jinja_node *jinja_parse_tuple(jinja_parser *p, bool with_condition, const char *end_name, bool parentheses)
{
    return tuple(p, with_condition, end_name, parentheses, false, false);
}

static bool can_assign(const jinja_node *node)
{
    if (node->kind == NODE_TUPLE) {
        for (const jinja_node *item = node->a; item; item = item->next)
            if (!can_assign(item))
                return false;
        return true;
    }
    return node->kind == NODE_NAME || node->kind == NODE_NAMESPACE;
}

jinja_node *jinja_parse_target(jinja_parser *p, bool with_namespace)
{
    int line = p->token->line;
    jinja_node *node = tuple(p, true, "in", false, true, with_namespace);
    if (node && !can_assign(node))
        return jinja_syntax(p->template, line, "found a value that nothing can be assigned to"), NULL;
    return node;
}
