/* jinja_render.c: statements, macros and the interface.
 *
 * There is one output.  What a macro or a block captures is the end of it, which is taken off when the capture is over. */
#include <string.h>
#include <time.h>

#include "formats/jinja.h"

typedef enum flow { FLOW_FAILED, FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static flow run(jinja_state *state, const jinja_node *list);

/* Runs a body in a scope of its own inside `parent`. */
static flow run_inside(jinja_state *state, const jinja_node *list, jinja_scope *scope)
{
    jinja_scope *old = state->scope;
    if (!scope)
        return FLOW_FAILED;
    state->scope = scope;
    flow f = run(state, list);
    state->scope = old;
    return f;
}

static bool print(jinja_state *state, const jinja_node *expression)
{
    jinja_value value;
    return jinja_eval(state, expression, &value) && jinja_to_text(state, &value, &state->text);
}

/* The text a body makes, instead of putting it out. */
static bool capture(jinja_state *state, const jinja_node *list, jinja_scope *scope, jinja_value *out)
{
    size_t begin = state->text.length;
    state->captures++;
    flow f = run_inside(state, list, scope);
    state->captures--;
    size_t length = state->text.length - begin;
    bool ok = f != FLOW_FAILED && jinja_string_value(state, length ? state->text.data + begin : "", length, out);
    state->text.length = begin;
    return ok;
}

/* ---- loops ---- */

static bool next_filtered(jinja_state *state, jinja_iterator *it, jinja_value *out)
{
    while (it->inner->next(state, it->inner, out)) {
        jinja_scope *old = state->scope;
        jinja_value test;
        state->scope = jinja_open_scope(state, it->scope);
        bool ok = state->scope && jinja_assign(state, it->node->a, *out) && jinja_eval(state, it->node->c, &test);
        state->scope = old;
        if (!ok || jinja_truth(&test))
            return ok;
    }
    return false;
}

static jinja_iterator *loop_iterator(jinja_state *state, const jinja_node *node, jinja_value *iterable)
{
    jinja_iterator *inner = jinja_iterate(state, iterable);
    if (!inner || !node->c)
        return inner;
    jinja_iterator *it = jinja_new_iterator(state, next_filtered);
    if (!it)
        return NULL;
    it->inner = inner;
    it->node = node;
    it->scope = state->scope;
    *iterable = (jinja_value){.type = JINJA_ITERATOR, .iterator = it};
    return it;
}

static bool next_of_loop(jinja_state *state, jinja_loop *loop)
{
    jinja_value item;
    bool has = loop->has_after;
    if (has)
        item = loop->after;
    else
        has = !loop->ended && loop->iterator->next(state, loop->iterator, &item);
    if (!has)
        return false;
    loop->has_after = false;
    loop->has_before = loop->index0 >= 0;
    loop->before = loop->current;
    loop->current = item;
    loop->index0++;
    return true;
}

static flow run_loop(jinja_state *state, const jinja_node *node, jinja_value iterable, int64_t depth0)
{
    jinja_loop *loop = jinja_take(state, sizeof *loop);
    if (!loop)
        return FLOW_FAILED;
    *loop = (jinja_loop){.index0 = -1, .depth0 = depth0, .length = -1, .node = node->recursive ? node : NULL, .scope = state->scope};
    loop->iterator = loop_iterator(state, node, &iterable);
    loop->iterable = iterable;
    if (!loop->iterator)
        return FLOW_FAILED;
    bool finished = false; /* a body ran to its end: as in jinja2, `else` is for when none has */
    while (next_of_loop(state, loop)) {
        jinja_scope *scope = jinja_open_scope(state, loop->scope), *old = state->scope;
        jinja_value self = {.type = JINJA_LOOP, .loop = loop};
        if (!scope || !jinja_spend(state, 1))
            return FLOW_FAILED;
        state->scope = scope;
        flow f = FLOW_FAILED;
        if (jinja_scope_set(state, scope, node->name, self) && jinja_assign(state, node->a, loop->current))
            f = run(state, node->body);
        state->scope = old;
        if (f == FLOW_FAILED)
            return f;
        if (f == FLOW_BREAK)
            break;
        finished |= f == FLOW_ON;
    }
    if (state->failed)
        return FLOW_FAILED;
    return finished || !node->d ? FLOW_ON : run_inside(state, node->d, jinja_open_scope(state, state->scope));
}

static flow run_for(jinja_state *state, const jinja_node *node)
{
    jinja_value iterable;
    if (!jinja_eval(state, node->b, &iterable))
        return FLOW_FAILED;
    return run_loop(state, node, iterable, 0);
}

bool jinja_call_loop(jinja_state *state, jinja_loop *loop, const jinja_value *iterable, jinja_value *out)
{
    if (!loop->node)
        return jinja_fail(state, "the loop must have the 'recursive' marker to be called recursively");
    if (!jinja_deeper(state))
        return false;
    size_t begin = state->text.length;
    jinja_scope *old = state->scope;
    state->scope = loop->scope;
    state->captures++;
    flow f = run_loop(state, loop->node, *iterable, loop->depth0 + 1);
    state->captures--;
    state->scope = old;
    state->depth--;
    size_t length = state->text.length - begin;
    bool ok = f != FLOW_FAILED && jinja_string_value(state, length ? state->text.data + begin : "", length, out);
    state->text.length = begin;
    return ok;
}

/* ---- macros ---- */

static const jinja_value *keyword(const jinja_arguments *arguments, const char *name)
{
    for (size_t i = 0; i < arguments->keyword_count; i++)
        if (strcmp(arguments->keywords[i].name->data, name) == 0)
            return &arguments->keywords[i].value;
    return NULL;
}

static bool set_named(jinja_state *state, const char *name, jinja_value value)
{
    for (size_t i = 0; i < state->template->name_count; i++) /* a name that no expression has needs no value */
        if (strcmp(state->template->names[i]->data, name) == 0)
            return jinja_scope_set(state, state->scope, state->template->names[i], value);
    return true;
}

/* Keywords that no parameter takes, as a dict; `caller` is not one of them. */
static bool rest_keywords(jinja_state *state, const jinja_node *parameters, const jinja_arguments *arguments, jinja_value *out)
{
    if (!jinja_new_dict(state, out))
        return false;
    for (size_t i = 0; i < arguments->keyword_count; i++) {
        const jinja_string *name = arguments->keywords[i].name;
        const jinja_node *p = parameters;
        while (p && strcmp(p->name->data, name->data) != 0)
            p = p->next;
        jinja_value key = {.type = JINJA_STRING, .s = name};
        if (!p && strcmp(name->data, "caller") != 0 && !jinja_dict_set(state, out->dict, key, arguments->keywords[i].value))
            return false;
    }
    return true;
}

static bool bind_parameters(jinja_state *state, const jinja_macro *macro, const jinja_arguments *arguments)
{
    const jinja_node *node = macro->node;
    size_t i = 0;
    bool explicit_caller = false;
    for (const jinja_node *p = node->a; p; p = p->next, i++) {
        const jinja_value *named = keyword(arguments, p->name->data);
        jinja_value value;
        explicit_caller |= strcmp(p->name->data, "caller") == 0;
        if (i < arguments->count && named)
            return jinja_fail(state, "macro '%.100s' got two values for the argument '%.100s'", macro->name->data, p->name->data);
        if (i < arguments->count)
            value = arguments->items[i];
        else if (named)
            value = *named;
        else if (p->a ? !jinja_eval(state, p->a, &value)
                      : !jinja_undefined(state, &value, "parameter '%.100s' was not provided", p->name->data))
            return false;
        if (!jinja_scope_set(state, state->scope, p->name, value))
            return false;
    }
    const jinja_value *caller = explicit_caller ? NULL : keyword(arguments, "caller");
    jinja_value rest, none;
    if (!rest_keywords(state, node->a, arguments, &rest))
        return false;
    if (node->has_caller && !explicit_caller) {
        if (!caller && !jinja_undefined(state, &none, "No caller defined"))
            return false;
        if (!set_named(state, "caller", caller ? *caller : none))
            return false;
    } else if (caller && !node->has_kwargs) {
        return jinja_fail(state, "macro '%.100s' takes no keyword argument 'caller'", macro->name->data);
    }
    if (node->has_kwargs ? !set_named(state, "kwargs", rest) : rest.dict->count > 0)
        return state->failed
                   ? false
                   : jinja_fail(state, "macro '%.100s' takes no keyword argument '%.100s'", macro->name->data, rest.dict->keys[0].s->data);
    if (node->has_varargs) {
        if (!jinja_new_list(state, JINJA_TUPLE, 0, &rest))
            return false;
        for (; i < arguments->count; i++)
            if (!jinja_append(state, rest.list, arguments->items[i]))
                return false;
        return set_named(state, "varargs", rest);
    }
    return i >= arguments->count || jinja_fail(state, "macro '%.100s' takes not more than %zu argument(s)", macro->name->data, i);
}

bool jinja_call_macro(jinja_state *state, const jinja_macro *macro, jinja_arguments *arguments, jinja_value *out)
{
    if (!jinja_deeper(state))
        return false;
    jinja_scope *old = state->scope;
    int line = state->line;
    state->scope = jinja_open_scope(state, macro->scope);
    bool ok = state->scope && bind_parameters(state, macro, arguments) && capture(state, macro->node->body, state->scope, out);
    state->scope = old;
    state->depth--;
    if (ok)
        state->line = line;
    return ok;
}

static bool new_macro(jinja_state *state, const jinja_node *node, const jinja_string *name, jinja_value *out)
{
    jinja_macro *macro = jinja_take(state, sizeof *macro);
    if (!macro)
        return false;
    *macro = (jinja_macro){node, state->scope, name};
    *out = (jinja_value){.type = JINJA_MACRO, .macro = macro};
    return true;
}

/* {% call f(...) %}: f gets the body as its caller. */
static bool run_call(jinja_state *state, const jinja_node *node)
{
    static const jinja_string name = {"caller", 6, 6, false};
    jinja_value callee, caller, result;
    jinja_arguments arguments;
    if (!jinja_eval(state, node->b->a, &callee) || !jinja_eval_arguments(state, node->b->b, &arguments) ||
        !new_macro(state, node, &name, &caller))
        return false;
    size_t n = arguments.keyword_count;
    jinja_keyword *keywords = jinja_take(state, (n + 1) * sizeof *keywords);
    if (!keywords)
        return false;
    if (n)
        memcpy(keywords, arguments.keywords, n * sizeof *keywords);
    keywords[n] = (jinja_keyword){&name, caller};
    arguments.keywords = keywords;
    arguments.keyword_count = arguments.keyword_capacity = n + 1;
    return jinja_call_value(state, &callee, &arguments, &result) && jinja_to_text(state, &result, &state->text);
}

/* ---- other blocks ---- */

static bool put_filtered(jinja_state *state, const jinja_node *filter, jinja_value body, jinja_value *out)
{
    jinja_value old = state->piped;
    state->piped = body;
    bool ok = jinja_eval(state, filter, out);
    state->piped = old;
    return ok;
}

static bool run_set(jinja_state *state, const jinja_node *node)
{
    jinja_value value;
    if (node->kind == NODE_SET)
        return jinja_eval(state, node->b, &value) && jinja_assign(state, node->a, value);
    return capture(state, node->body, jinja_open_scope(state, state->scope), &value) &&
           (!node->b || put_filtered(state, node->b, value, &value)) && jinja_assign(state, node->a, value);
}

static bool run_filter_block(jinja_state *state, const jinja_node *node)
{
    jinja_value value;
    return capture(state, node->body, jinja_open_scope(state, state->scope), &value) && put_filtered(state, node->b, value, &value) &&
           (value.type == JINJA_STRING || jinja_fail(state, "a filter block made '%s', expected text", jinja_type_name(&value))) &&
           jinja_to_text(state, &value, &state->text);
}

/* Values are those of the scope around, whatever the names before them. */
static bool run_with(jinja_state *state, const jinja_node *node)
{
    jinja_scope *inner = jinja_open_scope(state, state->scope), *old = state->scope;
    for (const jinja_node *set = node->a; inner && set; set = set->next) {
        jinja_value value;
        bool ok = jinja_eval(state, set->b, &value);
        state->scope = inner;
        ok = ok && jinja_assign(state, set->a, value);
        state->scope = old;
        if (!ok)
            return false;
    }
    flow f = run_inside(state, node->body, inner);
    return f != FLOW_FAILED;
}

static bool run_generation(jinja_state *state, const jinja_node *node)
{
    cb_jinja_output *o = state->output;
    size_t begin = state->text.length;
    if (run_inside(state, node->body, jinja_open_scope(state, state->scope)) == FLOW_FAILED)
        return false;
    if (state->captures) {
        o->generation_unplaced = true;
        return true;
    }
    if (!cb_grow(&o->generation, &o->generation_capacity, o->generation_count + 1, sizeof *o->generation)) {
        state->failed = true;
        return false;
    }
    o->generation[o->generation_count++] = (cb_jinja_span){begin, state->text.length};
    return true;
}

static flow run_one(jinja_state *state, const jinja_node *node)
{
    jinja_value value;
    switch (node->kind) {
    case NODE_TEXT:
        return jinja_put(state, &state->text, node->value.s->data, node->value.s->length) ? FLOW_ON : FLOW_FAILED;
    case NODE_PRINT:
        for (const jinja_node *part = node->a; part; part = part->next)
            if (!print(state, part))
                return FLOW_FAILED;
        return FLOW_ON;
    case NODE_IF:
        for (;; node = node->d) {
            if (!jinja_eval(state, node->a, &value))
                return FLOW_FAILED;
            if (jinja_truth(&value))
                return run(state, node->body);
            if (!node->d)
                return run(state, node->c);
        }
    case NODE_FOR:
        return run_for(state, node);
    case NODE_SET:
    case NODE_SET_BLOCK:
        return run_set(state, node) ? FLOW_ON : FLOW_FAILED;
    case NODE_MACRO:
        return new_macro(state, node, node->name, &value) && jinja_scope_set(state, state->scope, node->name, value) ? FLOW_ON
                                                                                                                     : FLOW_FAILED;
    case NODE_CALL_BLOCK:
        return run_call(state, node) ? FLOW_ON : FLOW_FAILED;
    case NODE_FILTER_BLOCK:
        return run_filter_block(state, node) ? FLOW_ON : FLOW_FAILED;
    case NODE_WITH:
        return run_with(state, node) ? FLOW_ON : FLOW_FAILED;
    case NODE_BLOCK:
        return run_inside(state, node->body, jinja_open_scope(state, state->root));
    case NODE_GENERATION:
        return run_generation(state, node) ? FLOW_ON : FLOW_FAILED;
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        return jinja_fail(state, "%.100s is not supported: a chat template stands alone", node->name->data), FLOW_FAILED;
    }
}

static flow run(jinja_state *state, const jinja_node *list)
{
    flow f = FLOW_ON;
    if (!jinja_deeper(state))
        return FLOW_FAILED;
    for (; list && f == FLOW_ON; list = list->next) {
        state->line = list->line;
        f = jinja_spend(state, 1) ? run_one(state, list) : FLOW_FAILED;
    }
    state->depth--;
    return f;
}

/* ---- the interface ---- */

cb_jinja *cb_jinja_parse(const char *what, const char *text, size_t length)
{
    cb_jinja *template = cb_calloc(1, sizeof *template);
    if (!template)
        return NULL;
    jinja_tokens tokens = {0};
    template->source_length = length;
    template->what = cb_strdup(what);
    bool ok = template->what && jinja_tokenize(template, text, length, &tokens);
    if (ok) {
        jinja_parser p = {.template = template, .token = tokens.items, .end = tokens.items + tokens.count - 1};
        ok = jinja_parse_body(&p);
    }
    cb_free(tokens.items);
    if (ok)
        return template;
    cb_jinja_free(template);
    return NULL;
}

void cb_jinja_free(cb_jinja *template)
{
    if (!template)
        return;
    jinja_arena_free(&template->arena);
    cb_free(template->names);
    cb_free(template->what);
    cb_free(template);
}

void cb_jinja_output_free(cb_jinja_output *output)
{
    cb_string_free(&output->text);
    cb_free(output->generation);
    *output = (cb_jinja_output){0};
}

/* What a rendering may take: 64 MiB, and more for a long template. */
static uint64_t memory_limit(const cb_jinja *template)
{
    return ((uint64_t)64 << 20) + 16 * (uint64_t) template->source_length;
}

bool cb_jinja_render_json(const cb_jinja *template, const json_t *variables, cb_jinja_output *out)
{
    jinja_state state = {.template = template, .output = out, .line = 1, .now = (int64_t)time(NULL)};
    jinja_value values;
    cb_string_clear(&out->text);
    out->generation_count = 0;
    out->generation_unplaced = false;
    state.piped = jinja_none();
    /* the values themselves do not count against the limit */
    bool ok = jinja_from_json(&state, variables, &values);
    if (ok && values.type != JINJA_DICT)
        ok = jinja_fail(&state, "found variables that are no object");
    state.steps = 0;
    state.arena.limit = memory_limit(template) + 16 * state.arena.total;
    state.scope = state.root = ok ? jinja_open_scope(&state, NULL) : NULL;
    if (ok)
        state.variables = values.dict;
    ok = ok && state.root && run(&state, template->body) != FLOW_FAILED && cb_string_append(&out->text, state.text.data, state.text.length);
    if (!ok)
        out->generation_count = 0; /* there is no text for them */
    jinja_arena_free(&state.arena);
    return ok;
}

bool cb_jinja_render(const cb_jinja *template, const char *json, size_t length, cb_jinja_output *out)
{
    json_error_t error;
    json_t *values = json_loadb(json, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!values)
        return cb_fail(CB_ERR_FORMAT, "%s: variables: %d:%d: not valid JSON: %s", template->what, error.line, error.column, error.text) ==
               CB_OK;
    bool ok = cb_jinja_render_json(template, values, out);
    json_decref(values);
    return ok;
}
