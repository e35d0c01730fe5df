/* jinja_expressions.c: what follows a value (calls, items, filters, tests), and operators. */
#include <string.h>

#include "formats/jinja.h"

/* ---- what follows a value ---- */

/* The arguments of a call, as a list of expressions, KEYWORD, STAR and STAR_STAR; the opening parenthesis is the current token. */
static bool arguments(jinja_parser *p, jinja_node **list)
{
    *list = NULL;
    bool keywords = false, star = false, star_star = false;
    if (!jinja_expect_op(p, "("))
        return false;
    for (jinja_node **end = list; !jinja_is_op(p, ")");) {
        if (*list && !jinja_expect_op(p, ","))
            return false;
        if (jinja_is_op(p, ")"))
            break;
        int line = p->token->line;
        jinja_node *item = NULL;
        bool keyword = p->token->type == TOKEN_NAME && p->token[1].type == TOKEN_OPERATOR && strcmp(p->token[1].op, "=") == 0;
        bool one = jinja_is_op(p, "*"), two = jinja_is_op(p, "**");
        if (star_star || (one && star) || (!one && !two && !keyword && (keywords || star)))
            return jinja_syntax(p->template, line, "found an argument behind those that have to be last");
        if (keyword) {
            const jinja_string *key = jinja_expect_name(p);
            jinja_advance(p);
            if ((item = jinja_make_node(p, NODE_KEYWORD, line, jinja_parse_expression(p, true), NULL)))
                item->name = key;
        } else {
            if (one || two)
                jinja_advance(p);
            item = jinja_parse_expression(p, true);
            if (one || two)
                item = jinja_make_node(p, one ? NODE_STAR : NODE_STAR_STAR, line, item, NULL);
        }
        if (!item)
            return false;
        keywords |= keyword;
        star |= one;
        star_star |= two;
        *end = item;
        end = &item->next;
    }
    return jinja_expect_op(p, ")");
}

static jinja_node *call(jinja_parser *p, jinja_node *callee)
{
    int line = p->token->line;
    jinja_node *list;
    return arguments(p, &list) ? jinja_make_node(p, NODE_CALL, line, callee, list) : NULL;
}

/* One subscript: an expression, or a slice. */
static jinja_node *subscript(jinja_parser *p)
{
    int line = p->token->line;
    jinja_node *bounds[3] = {NULL};
    if (!jinja_is_op(p, ":")) {
        bounds[0] = jinja_parse_expression(p, true);
        if (!bounds[0] || !jinja_is_op(p, ":"))
            return bounds[0];
    }
    for (int i = 1; i < 3 && jinja_skip_op(p, ":"); i++)
        if (!jinja_is_op(p, ":") && !jinja_is_op(p, "]") && !jinja_is_op(p, ",") && !(bounds[i] = jinja_parse_expression(p, true)))
            return NULL;
    jinja_node *node = jinja_new_node(p, NODE_SLICE, line);
    if (!node)
        return NULL;
    node->a = bounds[0];
    node->b = bounds[1];
    node->c = bounds[2];
    return node;
}

static jinja_node *item(jinja_parser *p, jinja_node *on)
{
    int line = p->token->line;
    if (jinja_skip_op(p, ".")) {
        const jinja_token *t = p->token;
        jinja_advance(p);
        if (t->type == TOKEN_INTEGER)
            return jinja_make_node(p, NODE_ITEM, line, on, jinja_constant(p, line, jinja_int(t->integer)));
        if (t->type != TOKEN_NAME)
            return p->token = t, jinja_unexpected(p, "a name or a number");
        jinja_node *node = jinja_make_node(p, NODE_ATTRIBUTE, line, on, NULL);
        if (node)
            node->name = t->string;
        return node;
    }
    jinja_advance(p);
    jinja_node *first = NULL, **end = &first;
    while (!jinja_is_op(p, "]")) {
        if (first && !jinja_expect_op(p, ","))
            return NULL;
        jinja_node *part = subscript(p);
        if (!part)
            return NULL;
        *end = part;
        end = &part->next;
    }
    jinja_advance(p);
    if (!first || first->next) {
        jinja_node *parts = jinja_new_node(p, NODE_TUPLE, line);
        if (!parts)
            return NULL;
        parts->a = first;
        first = parts;
    }
    return jinja_make_node(p, NODE_ITEM, line, on, first);
}

static jinja_node *postfix(jinja_parser *p, jinja_node *node)
{
    while (node) {
        if (jinja_is_op(p, ".") || jinja_is_op(p, "["))
            node = item(p, node);
        else if (jinja_is_op(p, "("))
            node = call(p, node);
        else
            break;
    }
    return node;
}

/* The name of a filter or a test; those with dots do not exist, but are names. */
static const jinja_string *dotted_name(jinja_parser *p)
{
    const jinja_string *s = jinja_expect_name(p);
    while (s && jinja_skip_op(p, "."))
        s = jinja_expect_name(p);
    return s;
}

jinja_node *jinja_parse_filters(jinja_parser *p, jinja_node *on, bool inline_start)
{
    while (inline_start || jinja_skip_op(p, "|")) {
        int line = p->token->line;
        const jinja_string *filter = dotted_name(p);
        jinja_node *list = NULL;
        if (!filter || (jinja_is_op(p, "(") && !arguments(p, &list)))
            return NULL;
        if (!on)
            on = jinja_new_node(p, NODE_PIPED, line);
        on = jinja_make_node(p, NODE_FILTER, line, on, list);
        if (!on)
            return NULL;
        on->name = filter;
        inline_start = false;
    }
    return on;
}

static jinja_node *test(jinja_parser *p, jinja_node *on)
{
    int line = p->token->line;
    jinja_advance(p);
    bool negated = jinja_skip_name(p, "not");
    const jinja_string *s = dotted_name(p);
    jinja_node *list = NULL;
    if (!s)
        return NULL;
    jinja_token_type type = p->token->type;
    bool value = type == TOKEN_NAME || type == TOKEN_STRING || type == TOKEN_INTEGER || type == TOKEN_FLOAT || jinja_is_op(p, "[") ||
                 jinja_is_op(p, "{");
    if (jinja_is_op(p, "(")) {
        if (!arguments(p, &list))
            return NULL;
    } else if (value && !jinja_is_name(p, "else") && !jinja_is_name(p, "or") && !jinja_is_name(p, "and")) {
        if (jinja_is_name(p, "is"))
            return jinja_syntax(p->template, line, "found tests with `is` one behind another"), NULL;
        if (!(list = postfix(p, jinja_parse_primary(p, false))))
            return NULL;
    }
    jinja_node *node = jinja_make_node(p, NODE_TEST, line, on, list);
    if (node)
        node->name = s;
    return negated ? jinja_make_node(p, NODE_NOT, line, node, NULL) : node;
}

static jinja_node *filters_and_tests(jinja_parser *p, jinja_node *node)
{
    while (node) {
        if (jinja_is_op(p, "|"))
            node = jinja_parse_filters(p, node, false);
        else if (jinja_is_name(p, "is"))
            node = test(p, node);
        else if (jinja_is_op(p, "("))
            node = call(p, node);
        else
            break;
    }
    return node;
}

/* ---- operators ---- */

static jinja_node *unary(jinja_parser *p, bool with_filters)
{
    int line = p->token->line;
    jinja_node *node;
    if (!jinja_enter(p))
        return NULL;
    if (jinja_skip_op(p, "-"))
        node = jinja_make_node(p, NODE_NEGATIVE, line, unary(p, false), NULL);
    else if (jinja_skip_op(p, "+"))
        node = jinja_make_node(p, NODE_POSITIVE, line, unary(p, false), NULL);
    else
        node = jinja_parse_primary(p, false);
    node = postfix(p, node);
    p->depth--;
    return with_filters ? filters_and_tests(p, node) : node;
}

typedef struct level {
    const char *ops[5];
    jinja_op values[4];
} level;
static const level sums = {{"+", "-"}, {OP_ADD, OP_SUBTRACT}},
                   products = {{"*", "/", "//", "%"}, {OP_MULTIPLY, OP_DIVIDE, OP_FLOOR_DIVIDE, OP_MODULO}}, powers = {{"**"}, {OP_POWER}};

static jinja_node *power_operand(jinja_parser *p)
{
    return unary(p, true);
}

/* Operators of one level, from left to right. */
static jinja_node *binary(jinja_parser *p, const level *l, jinja_node *(*operand)(jinja_parser *))
{
    jinja_node *left = operand(p);
    for (int i = 0; left && l->ops[i];) {
        int line = p->token->line;
        if (!jinja_skip_op(p, l->ops[i])) {
            i++;
            continue;
        }
        jinja_node *right = operand(p);
        left = right ? jinja_make_node(p, NODE_BINARY, line, left, right) : NULL;
        if (left)
            left->op = l->values[i];
        i = 0;
    }
    return left;
}

static jinja_node *power(jinja_parser *p)
{
    return binary(p, &powers, power_operand);
}

static jinja_node *product(jinja_parser *p)
{
    return binary(p, &products, power);
}

static jinja_node *concatenation(jinja_parser *p)
{
    int line = p->token->line;
    jinja_node *first = product(p), **end = first ? &first->next : NULL;
    if (!first || !jinja_is_op(p, "~"))
        return first;
    while (jinja_skip_op(p, "~")) {
        jinja_node *part = product(p);
        if (!part)
            return NULL;
        *end = part;
        end = &part->next;
    }
    return jinja_make_node(p, NODE_CONCAT, line, first, NULL);
}

static jinja_node *sum(jinja_parser *p)
{
    return binary(p, &sums, concatenation);
}

static bool comparison(jinja_parser *p, jinja_op *op)
{
    static const struct {
        const char *text;
        jinja_op op;
    } ops[] = {{"==", OP_EQUAL}, {"!=", OP_UNEQUAL}, {"<", OP_LESS}, {"<=", OP_LESS_EQUAL}, {">", OP_GREATER}, {">=", OP_GREATER_EQUAL}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (jinja_skip_op(p, ops[i].text)) {
            *op = ops[i].op;
            return true;
        }
    *op = OP_IN;
    if (jinja_skip_name(p, "in"))
        return true;
    *op = OP_NOT_IN;
    if (!jinja_is_name(p, "not") || p->token[1].type != TOKEN_NAME || strcmp(p->token[1].string->data, "in") != 0)
        return false;
    jinja_advance(p);
    jinja_advance(p);
    return true;
}

static jinja_node *compare(jinja_parser *p)
{
    int line = p->token->line;
    jinja_node *left = sum(p), *first = NULL, **end = &first;
    jinja_op op;
    while (left && comparison(p, &op)) {
        jinja_node *operand = jinja_make_node(p, NODE_OPERAND, p->token->line, sum(p), NULL);
        if (!operand)
            return NULL;
        operand->op = op;
        *end = operand;
        end = &operand->next;
    }
    return first ? jinja_make_node(p, NODE_COMPARE, line, left, first) : left;
}

static jinja_node *negation(jinja_parser *p)
{
    int line = p->token->line;
    if (!jinja_skip_name(p, "not"))
        return compare(p);
    if (!jinja_enter(p))
        return NULL;
    jinja_node *node = jinja_make_node(p, NODE_NOT, line, negation(p), NULL);
    p->depth--;
    return node;
}

static jinja_node *conjunction(jinja_parser *p)
{
    jinja_node *left = negation(p);
    for (int line = p->token->line; left && jinja_skip_name(p, "and"); line = p->token->line) {
        jinja_node *right = negation(p);
        left = right ? jinja_make_node(p, NODE_AND, line, left, right) : NULL;
    }
    return left;
}

static jinja_node *disjunction(jinja_parser *p)
{
    jinja_node *left = conjunction(p);
    for (int line = p->token->line; left && jinja_skip_name(p, "or"); line = p->token->line) {
        jinja_node *right = conjunction(p);
        left = right ? jinja_make_node(p, NODE_OR, line, left, right) : NULL;
    }
    return left;
}

jinja_node *jinja_parse_expression(jinja_parser *p, bool with_condition)
{
    if (!jinja_enter(p))
        return NULL;
    jinja_node *value = disjunction(p);
    for (int line = p->token->line; with_condition && value && jinja_skip_name(p, "if"); line = p->token->line) {
        jinja_node *condition = disjunction(p);
        jinja_node *node = condition ? jinja_make_node(p, NODE_CONDITION, line, condition, value) : NULL;
        if (node && jinja_skip_name(p, "else") && !(node->c = jinja_parse_expression(p, true)))
            return NULL;
        value = node;
    }
    p->depth--;
    return value;
}
