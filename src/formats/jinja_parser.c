/* jinja_parser.c: expressions of a template.
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

static jinja_node *make(jinja_parser *p, jinja_kind kind, int line, jinja_node *a, jinja_node *b)
{
    jinja_node *node = a ? jinja_new_node(p, kind, line) : NULL;
    if (!node)
        return NULL;
    node->a = a;
    node->b = b;
    return node;
}

/* ---- tokens ---- */

static void advance(jinja_parser *p)
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
        advance(p);
    return found;
}

bool jinja_skip_op(jinja_parser *p, const char *op)
{
    bool found = jinja_is_op(p, op);
    if (found)
        advance(p);
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
    advance(p);
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

static jinja_node *constant(jinja_parser *p, int line, jinja_value value)
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
    advance(p);
    if (yes || no)
        return constant(p, line, jinja_bool(yes));
    if (!strcmp(s->data, "none") || !strcmp(s->data, "None"))
        return constant(p, line, jinja_none());
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
    node = make(p, NODE_NAMESPACE, line, node, NULL);
    return node && (node->name = jinja_expect_name(p)) ? node : NULL;
}

static jinja_node *strings(jinja_parser *p)
{
    int line = p->token->line;
    const jinja_string *s = p->token->string;
    advance(p);
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
        advance(p);
    }
    return constant(p, line, (jinja_value){.type = JINJA_STRING, .s = s});
}

/* Items up to `close`, separated by commas; pairs with a colon for a dict. */
static jinja_node *collection(jinja_parser *p, jinja_kind kind, const char *close)
{
    jinja_node *node = jinja_new_node(p, kind, p->token->line), **end = node ? &node->a : NULL;
    advance(p);
    while (node && !jinja_is_op(p, close)) {
        if (node->a && !jinja_expect_op(p, ","))
            return NULL;
        if (jinja_is_op(p, close))
            break;
        int line = p->token->line;
        jinja_node *item = jinja_parse_expression(p, true);
        if (item && kind == NODE_DICT) {
            jinja_node *value = jinja_expect_op(p, ":") ? jinja_parse_expression(p, true) : NULL;
            item = value ? make(p, NODE_PAIR, line, item, value) : NULL;
        }
        if (!item)
            return NULL;
        *end = item;
        end = &item->next;
    }
    return node && jinja_expect_op(p, close) ? node : NULL;
}

static jinja_node *primary(jinja_parser *p, bool with_namespace)
{
    const jinja_token *t = p->token;
    if (t->type == TOKEN_NAME)
        return name(p, with_namespace);
    if (t->type == TOKEN_STRING)
        return strings(p);
    if (t->type == TOKEN_INTEGER || t->type == TOKEN_FLOAT) {
        advance(p);
        return constant(p, t->line, t->type == TOKEN_INTEGER ? jinja_int(t->integer) : jinja_float(t->number));
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
        jinja_node *item = simple ? primary(p, with_namespace) : jinja_parse_expression(p, with_condition);
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
            advance(p);
            if ((item = make(p, NODE_KEYWORD, line, jinja_parse_expression(p, true), NULL)))
                item->name = key;
        } else {
            if (one || two)
                advance(p);
            item = jinja_parse_expression(p, true);
            if (one || two)
                item = make(p, one ? NODE_STAR : NODE_STAR_STAR, line, item, NULL);
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
    return arguments(p, &list) ? make(p, NODE_CALL, line, callee, list) : NULL;
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
        advance(p);
        if (t->type == TOKEN_INTEGER)
            return make(p, NODE_ITEM, line, on, constant(p, line, jinja_int(t->integer)));
        if (t->type != TOKEN_NAME)
            return p->token = t, jinja_unexpected(p, "a name or a number");
        jinja_node *node = make(p, NODE_ATTRIBUTE, line, on, NULL);
        if (node)
            node->name = t->string;
        return node;
    }
    advance(p);
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
    advance(p);
    if (!first || first->next) {
        jinja_node *parts = jinja_new_node(p, NODE_TUPLE, line);
        if (!parts)
            return NULL;
        parts->a = first;
        first = parts;
    }
    return make(p, NODE_ITEM, line, on, first);
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
        on = make(p, NODE_FILTER, line, on, list);
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
    advance(p);
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
        if (!(list = postfix(p, primary(p, false))))
            return NULL;
    }
    jinja_node *node = make(p, NODE_TEST, line, on, list);
    if (node)
        node->name = s;
    return negated ? make(p, NODE_NOT, line, node, NULL) : node;
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
        node = make(p, NODE_NEGATIVE, line, unary(p, false), NULL);
    else if (jinja_skip_op(p, "+"))
        node = make(p, NODE_POSITIVE, line, unary(p, false), NULL);
    else
        node = primary(p, false);
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
        left = right ? make(p, NODE_BINARY, line, left, right) : NULL;
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
    return make(p, NODE_CONCAT, line, first, NULL);
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
    advance(p);
    advance(p);
    return true;
}

static jinja_node *compare(jinja_parser *p)
{
    int line = p->token->line;
    jinja_node *left = sum(p), *first = NULL, **end = &first;
    jinja_op op;
    while (left && comparison(p, &op)) {
        jinja_node *operand = make(p, NODE_OPERAND, p->token->line, sum(p), NULL);
        if (!operand)
            return NULL;
        operand->op = op;
        *end = operand;
        end = &operand->next;
    }
    return first ? make(p, NODE_COMPARE, line, left, first) : left;
}

static jinja_node *negation(jinja_parser *p)
{
    int line = p->token->line;
    if (!jinja_skip_name(p, "not"))
        return compare(p);
    if (!jinja_enter(p))
        return NULL;
    jinja_node *node = make(p, NODE_NOT, line, negation(p), NULL);
    p->depth--;
    return node;
}

static jinja_node *conjunction(jinja_parser *p)
{
    jinja_node *left = negation(p);
    for (int line = p->token->line; left && jinja_skip_name(p, "and"); line = p->token->line) {
        jinja_node *right = negation(p);
        left = right ? make(p, NODE_AND, line, left, right) : NULL;
    }
    return left;
}

static jinja_node *disjunction(jinja_parser *p)
{
    jinja_node *left = conjunction(p);
    for (int line = p->token->line; left && jinja_skip_name(p, "or"); line = p->token->line) {
        jinja_node *right = conjunction(p);
        left = right ? make(p, NODE_OR, line, left, right) : NULL;
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
        jinja_node *node = condition ? make(p, NODE_CONDITION, line, condition, value) : NULL;
        if (node && jinja_skip_name(p, "else") && !(node->c = jinja_parse_expression(p, true)))
            return NULL;
        value = node;
    }
    p->depth--;
    return value;
}
