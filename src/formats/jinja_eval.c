/* jinja_eval.c: the value of an expression. */
#include <string.h>

#include "formats/jinja.h"

/* ---- names ---- */

jinja_scope *jinja_open_scope(jinja_state *state, jinja_scope *parent)
{
    jinja_scope *scope = jinja_take(state, sizeof *scope);
    if (scope)
        *scope = (jinja_scope){.parent = parent};
    return scope;
}

bool jinja_scope_set(jinja_state *state, jinja_scope *scope, const jinja_string *name, jinja_value value)
{
    for (size_t i = 0; i < scope->count; i++)
        if (scope->names[i] == name) {
            scope->values[i] = value;
            return true;
        }
    if (scope->count == scope->capacity) {
        size_t capacity = scope->capacity ? scope->capacity * 2 : 4;
        const jinja_string **names = jinja_take(state, capacity * sizeof *names);
        jinja_value *values = names ? jinja_take(state, capacity * sizeof *values) : NULL;
        if (!values)
            return false;
        if (scope->count) {
            memcpy(names, scope->names, scope->count * sizeof *names);
            memcpy(values, scope->values, scope->count * sizeof *values);
        }
        scope->names = names;
        scope->values = values;
        scope->capacity = capacity;
    }
    scope->names[scope->count] = name;
    scope->values[scope->count++] = value;
    return true;
}

static bool look_up(jinja_state *state, const jinja_string *name, jinja_value *out)
{
    for (const jinja_scope *scope = state->scope; scope; scope = scope->parent)
        for (size_t i = 0; i < scope->count; i++)
            if (scope->names[i] == name) {
                *out = scope->values[i];
                return true;
            }
    const jinja_value *found = jinja_dict_find(state->variables, name->data, name->length);
    if (found) {
        *out = *found;
        return true;
    }
    for (const jinja_function *f = jinja_globals; f->name; f++)
        if (strcmp(f->name, name->data) == 0) {
            *out = (jinja_value){.type = JINJA_FUNCTION, .function = f};
            return true;
        }
    return jinja_undefined(state, out, "'%.200s' is undefined", name->data);
}

static bool assign_tuple(jinja_state *state, const jinja_node *targets, const jinja_value *value)
{
    jinja_iterator *it = jinja_iterate(state, value);
    jinja_value item;
    for (const jinja_node *target = targets; it && target; target = target->next) {
        if (!it->next(state, it, &item))
            return !state->failed && jinja_fail(state, "not enough values to unpack");
        if (!jinja_assign(state, target, item))
            return false;
    }
    if (it && it->next(state, it, &item))
        return jinja_fail(state, "too many values to unpack");
    return it && !state->failed;
}

bool jinja_assign(jinja_state *state, const jinja_node *target, jinja_value value)
{
    if (target->kind == NODE_NAME)
        return jinja_scope_set(state, state->scope, target->name, value);
    if (target->kind == NODE_TUPLE)
        return assign_tuple(state, target->a, &value);
    jinja_value space, key = {.type = JINJA_STRING, .s = target->name};
    if (!look_up(state, target->a->name, &space))
        return false;
    if (space.type != JINJA_NAMESPACE)
        return jinja_fail(state, "cannot assign attribute on non-namespace object");
    if (target->name->data[0] == '_')
        return jinja_fail(state, "namespace: found the attribute %.100s, expected one that does not begin with _", target->name->data);
    return jinja_dict_set(state, space.dict, key, value);
}

/* ---- calls ---- */

static bool add_argument(jinja_state *state, jinja_arguments *arguments, jinja_value value)
{
    jinja_list list = {arguments->items, arguments->count, arguments->capacity, false};
    if (!jinja_append(state, &list, value))
        return false;
    arguments->items = list.items;
    arguments->count = list.count;
    arguments->capacity = list.capacity;
    return true;
}

static bool add_keyword(jinja_state *state, jinja_arguments *arguments, const jinja_string *name, jinja_value value)
{
    for (size_t i = 0; i < arguments->keyword_count; i++)
        if (strcmp(arguments->keywords[i].name->data, name->data) == 0)
            return jinja_fail(state, "got multiple values for keyword argument '%.100s'", name->data);
    if (arguments->keyword_count == arguments->keyword_capacity) {
        size_t capacity = arguments->keyword_capacity ? arguments->keyword_capacity * 2 : 4;
        jinja_keyword *keywords = jinja_take(state, capacity * sizeof *keywords);
        if (!keywords)
            return false;
        if (arguments->keyword_count)
            memcpy(keywords, arguments->keywords, arguments->keyword_count * sizeof *keywords);
        arguments->keywords = keywords;
        arguments->keyword_capacity = capacity;
    }
    arguments->keywords[arguments->keyword_count++] = (jinja_keyword){name, value};
    return true;
}

static bool spread(jinja_state *state, const jinja_value *value, jinja_arguments *arguments)
{
    jinja_iterator *it = jinja_iterate(state, value);
    jinja_value item;
    while (it && it->next(state, it, &item))
        if (!add_argument(state, arguments, item))
            return false;
    return it && !state->failed;
}

static bool spread_keywords(jinja_state *state, const jinja_value *value, jinja_arguments *arguments)
{
    if (value->type != JINJA_DICT)
        return jinja_fail(state, "argument after ** must be a mapping, not %s", jinja_type_name(value));
    for (size_t i = 0; i < value->dict->count; i++) {
        if (value->dict->keys[i].type != JINJA_STRING)
            return jinja_fail(state, "keywords must be strings");
        if (!add_keyword(state, arguments, value->dict->keys[i].s, value->dict->values[i]))
            return false;
    }
    return true;
}

bool jinja_eval_arguments(jinja_state *state, const jinja_node *list, jinja_arguments *arguments)
{
    *arguments = (jinja_arguments){0};
    for (; list; list = list->next) {
        jinja_value value = jinja_none();
        bool named = list->kind == NODE_KEYWORD || list->kind == NODE_STAR || list->kind == NODE_STAR_STAR;
        if (!jinja_eval(state, named ? list->a : list, &value))
            return false;
        bool ok = list->kind == NODE_KEYWORD     ? add_keyword(state, arguments, list->name, value)
                  : list->kind == NODE_STAR      ? spread(state, &value, arguments)
                  : list->kind == NODE_STAR_STAR ? spread_keywords(state, &value, arguments)
                                                 : add_argument(state, arguments, value);
        if (!ok)
            return false;
    }
    return true;
}

bool jinja_call_value(jinja_state *state, const jinja_value *callee, jinja_arguments *arguments, jinja_value *out)
{
    switch (callee->type) {
    case JINJA_FUNCTION:
        return callee->function->call(state, callee, arguments, out);
    case JINJA_METHOD:
        return callee->method->function->call(state, &callee->method->self, arguments, out);
    case JINJA_MACRO:
        return jinja_call_macro(state, callee->macro, arguments, out);
    case JINJA_LOOP:
        if (arguments->count != 1 || arguments->keyword_count)
            return jinja_fail(state, "loop() takes one argument");
        return jinja_call_loop(state, callee->loop, &arguments->items[0], out);
    case JINJA_JOINER:
        if (!callee->joiner->used)
            return callee->joiner->used = true, jinja_string_value(state, "", 0, out);
        *out = (jinja_value){.type = JINJA_STRING, .s = callee->joiner->separator};
        return true;
    case JINJA_UNDEFINED:
        return jinja_fail(state, "%s", callee->s->data);
    default:
        return jinja_fail(state, "'%s' object is not callable", jinja_type_name(callee));
    }
}

/* ---- kinds of expressions ---- */

static bool eval_items(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value item;
    if (!jinja_new_list(state, node->kind == NODE_TUPLE ? JINJA_TUPLE : JINJA_LIST, 0, out))
        return false;
    for (const jinja_node *at = node->a; at; at = at->next)
        if (!jinja_eval(state, at, &item) || !jinja_append(state, out->list, item))
            return false;
    return true;
}

static bool eval_dict(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value key, value;
    if (!jinja_new_dict(state, out))
        return false;
    for (const jinja_node *pair = node->a; pair; pair = pair->next)
        if (!jinja_eval(state, pair->a, &key) || !jinja_eval(state, pair->b, &value) || !jinja_dict_set(state, out->dict, key, value))
            return false;
    return true;
}

static bool eval_compare(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value left, right;
    bool holds = true;
    if (!jinja_eval(state, node->a, &left))
        return false;
    for (const jinja_node *operand = node->b; operand && holds; operand = operand->next) {
        if (!jinja_eval(state, operand->a, &right) || !jinja_compare(state, operand->op, &left, &right, &holds))
            return false;
        left = right;
    }
    *out = jinja_bool(holds);
    return true;
}

static bool eval_concat(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_text text = {0};
    jinja_value part;
    for (const jinja_node *at = node->a; at; at = at->next)
        if (!jinja_eval(state, at, &part) || !jinja_to_text(state, &part, &text))
            return false;
    return jinja_text_value(state, &text, out);
}

static bool eval_sign(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    if (!jinja_eval(state, node->a, out))
        return false;
    if (out->type == JINJA_UNDEFINED)
        return jinja_fail(state, "%s", out->s->data);
    if (!jinja_is_number(out))
        return jinja_fail(state, "bad operand type for unary %c: '%s'", node->kind == NODE_NEGATIVE ? '-' : '+', jinja_type_name(out));
    if (out->type == JINJA_FLOAT) {
        out->f = node->kind == NODE_NEGATIVE ? -out->f : out->f;
        return true;
    }
    out->type = JINJA_INT;
    if (node->kind == NODE_NEGATIVE && __builtin_sub_overflow((int64_t)0, out->i, &out->i))
        return jinja_fail(state, "found a whole number beyond 64 bits");
    return true;
}

static bool eval_bounds(jinja_state *state, const jinja_node *node, jinja_value bounds[3])
{
    const jinja_node *parts[3] = {node->a, node->b, node->c};
    for (int i = 0; i < 3; i++) {
        bounds[i] = jinja_none();
        if (parts[i] && !jinja_eval(state, parts[i], &bounds[i]))
            return false;
    }
    return true;
}

static bool eval_item(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value value, key, bounds[3];
    if (!jinja_eval(state, node->a, &value))
        return false;
    if (node->b->kind == NODE_SLICE)
        return eval_bounds(state, node->b, bounds) && jinja_get_slice(state, &value, bounds, out);
    return jinja_eval(state, node->b, &key) && jinja_get_item(state, &value, &key, out);
}

static bool eval_call(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value callee;
    jinja_arguments arguments;
    if (!jinja_eval(state, node->a, &callee) || !jinja_eval_arguments(state, node->b, &arguments))
        return false;
    state->line = node->line;
    return jinja_call_value(state, &callee, &arguments, out);
}

static bool eval_filter(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value value;
    jinja_arguments arguments;
    if (!jinja_eval(state, node->a, &value) || !jinja_eval_arguments(state, node->b, &arguments))
        return false;
    state->line = node->line;
    return jinja_filter(state, node->name, &value, &arguments, out);
}

static bool eval_test(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value value;
    jinja_arguments arguments;
    bool holds;
    if (!jinja_eval(state, node->a, &value) || !jinja_eval_arguments(state, node->b, &arguments))
        return false;
    state->line = node->line;
    if (!jinja_test(state, node->name, &value, &arguments, &holds))
        return false;
    *out = jinja_bool(holds);
    return true;
}

static bool eval_binary(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    jinja_value a, b;
    if (!jinja_eval(state, node->a, &a) || !jinja_eval(state, node->b, &b))
        return false;
    state->line = node->line;
    return jinja_binary(state, node->op, &a, &b, out);
}

static bool eval_inside(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    switch (node->kind) {
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_items(state, node, out);
    case NODE_DICT:
        return eval_dict(state, node, out);
    case NODE_NOT:
        if (!jinja_eval(state, node->a, out))
            return false;
        *out = jinja_bool(!jinja_truth(out));
        return true;
    case NODE_NEGATIVE:
    case NODE_POSITIVE:
        return eval_sign(state, node, out);
    case NODE_AND:
    case NODE_OR:
        if (!jinja_eval(state, node->a, out))
            return false;
        return jinja_truth(out) == (node->kind == NODE_OR) || jinja_eval(state, node->b, out);
    case NODE_CONDITION:
        if (!jinja_eval(state, node->a, out))
            return false;
        if (jinja_truth(out))
            return jinja_eval(state, node->b, out);
        if (node->c)
            return jinja_eval(state, node->c, out);
        return jinja_undefined(state, out, "the inline if-expression evaluated to false and no else section was defined");
    case NODE_COMPARE:
        return eval_compare(state, node, out);
    case NODE_BINARY:
        return eval_binary(state, node, out);
    case NODE_CONCAT:
        return eval_concat(state, node, out);
    case NODE_ITEM:
        return eval_item(state, node, out);
    case NODE_ATTRIBUTE: {
        jinja_value value;
        return jinja_eval(state, node->a, &value) && (state->line = node->line, jinja_get_attribute(state, &value, node->name, out));
    }
    case NODE_CALL:
        return eval_call(state, node, out);
    case NODE_FILTER:
        return eval_filter(state, node, out);
    case NODE_TEST:
        return eval_test(state, node, out);
    default:
        return jinja_fail(state, "found a slice among several subscripts");
    }
}

bool jinja_eval(jinja_state *state, const jinja_node *node, jinja_value *out)
{
    state->line = node->line;
    if (!jinja_spend(state, 1))
        return false;
    switch (node->kind) {
    case NODE_CONST:
        *out = node->value;
        return true;
    case NODE_NAME:
        return look_up(state, node->name, out);
    case NODE_PIPED:
        *out = state->piped;
        return true;
    default:
        break;
    }
    if (!jinja_deeper(state))
        return false;
    bool ok = eval_inside(state, node, out);
    state->depth--;
    return ok;
}
