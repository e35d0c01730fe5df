/* jinja.h: what the parts of the template interpreter share: values, nodes, and the state of one rendering.
 *
 * A parsed template is constant.  Everything a rendering makes lies in its arena and goes with it; values are immutable but for
 * namespaces, loops and iterators, as in the sandbox that templates are written for. */
#ifndef CB_FORMATS_JINJA_H
#define CB_FORMATS_JINJA_H

#include <jansson.h>

#include "cambium/jinja.h"
#include "core/unicode.h"

/* ---- values ---- */

typedef enum jinja_type {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_VIEW, /* of a dict: its keys, values or items */
    JINJA_RANGE,
    JINJA_ITERATOR, /* what Python calls a generator: once through */
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION,
    JINJA_METHOD,
    JINJA_CYCLER,
    JINJA_JOINER,
    JINJA_SLICE
} jinja_type;

typedef struct jinja_string {
    const char *data; /* UTF-8, and a NUL after it */
    size_t length, points;
    bool markup; /* `safe`: what is joined to it is escaped */
} jinja_string;

typedef struct jinja_value jinja_value;
typedef struct jinja_state jinja_state;
typedef struct jinja_node jinja_node;
typedef struct jinja_list jinja_list;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_view jinja_view;
typedef struct jinja_range jinja_range;
typedef struct jinja_iterator jinja_iterator;
typedef struct jinja_loop jinja_loop;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_method jinja_method;
typedef struct jinja_function jinja_function;
typedef struct jinja_scope jinja_scope;

struct jinja_value {
    jinja_type type;
    union {
        int64_t i; /* BOOL, INT */
        double f;
        const jinja_string *s; /* STRING; UNDEFINED: what an error about it says */
        jinja_list *list;      /* LIST, TUPLE; SLICE: its three bounds */
        jinja_dict *dict;      /* DICT, NAMESPACE */
        jinja_view *view;
        jinja_range *range;
        jinja_iterator *iterator;
        jinja_loop *loop;
        jinja_macro *macro;
        const jinja_function *function;
        jinja_method *method;
        struct jinja_cycler *cycler;
        struct jinja_joiner *joiner;
    };
};

struct jinja_list {
    jinja_value *items;
    size_t count, capacity;
    bool group; /* of groupby: a tuple with the names grouper and list */
};

struct jinja_dict {
    jinja_value *keys, *values;
    size_t count, capacity;
    uint32_t *index; /* open addressing, 0: free, else one more than the entry; NULL while there are few */
    size_t index_size;
};

enum { JINJA_KEYS, JINJA_VALUES, JINJA_ITEMS };
struct jinja_view {
    jinja_dict *dict;
    int kind;
};

struct jinja_range {
    int64_t start, stop, step;
};

/* Arguments of a call. */
typedef struct jinja_keyword {
    const jinja_string *name;
    jinja_value value;
} jinja_keyword;
typedef struct jinja_arguments {
    jinja_value *items;
    size_t count, capacity;
    jinja_keyword *keywords;
    size_t keyword_count, keyword_capacity;
} jinja_arguments;

/* The next value of an iterator; false at its end and on failure (state->failed). */
typedef bool jinja_next(jinja_state *state, jinja_iterator *iterator, jinja_value *out);
struct jinja_iterator {
    jinja_next *next;
    jinja_value source; /* what it goes through */
    jinja_iterator *inner;
    size_t at;
    int64_t step, stop;
    /* of map, select and the like */
    jinja_arguments arguments;
    const jinja_string *name;
    jinja_value attribute, extra;
    bool by_attribute, wanted, case_sensitive;
    jinja_list *seen;
    /* of a filtered loop */
    const jinja_node *node;
    jinja_scope *scope;
    const char *type_name;
};

typedef bool jinja_call(jinja_state *state, const jinja_value *self, jinja_arguments *arguments, jinja_value *out);
struct jinja_function {
    const char *name;
    jinja_call *call;
};
struct jinja_method {
    jinja_value self;
    const jinja_function *function;
};
struct jinja_cycler {
    jinja_list *items;
    size_t at;
};
struct jinja_joiner {
    const jinja_string *separator;
    bool used;
};

struct jinja_scope {
    jinja_scope *parent;
    const jinja_string **names; /* of the template, compared as pointers */
    jinja_value *values;
    size_t count, capacity;
};

struct jinja_macro {
    const jinja_node *node; /* MACRO, CALL_BLOCK */
    jinja_scope *scope;     /* where it was defined */
    const jinja_string *name;
};

struct jinja_loop {
    jinja_iterator *iterator;
    jinja_value iterable;
    int64_t index0, depth0, length; /* length -1: not known yet */
    jinja_value current, before, after;
    bool has_after, ended, has_before;
    jinja_list *changed;
    const jinja_node *node; /* of a recursive loop, else NULL */
    jinja_scope *scope;
};

/* ---- nodes ---- */

typedef enum jinja_kind {
    NODE_CONST,
    NODE_NAME,
    NODE_LIST,  /* a: items */
    NODE_TUPLE, /* a: items */
    NODE_DICT,  /* a: PAIR of a and b */
    NODE_PAIR,
    NODE_NOT,
    NODE_NEGATIVE,
    NODE_POSITIVE,
    NODE_AND,
    NODE_OR,
    NODE_CONDITION, /* b if a else c (NULL) */
    NODE_COMPARE,   /* a, then b: OPERAND with op and a */
    NODE_OPERAND,
    NODE_BINARY,
    NODE_CONCAT, /* a: parts */
    NODE_ATTRIBUTE,
    NODE_ITEM,
    NODE_SLICE, /* a, b, c: bounds or NULL */
    NODE_CALL,  /* a, b: arguments */
    NODE_FILTER,
    NODE_TEST,
    NODE_KEYWORD, /* name=a */
    NODE_STAR,
    NODE_STAR_STAR,
    NODE_PIPED,     /* the body of a block that a filter is put on */
    NODE_NAMESPACE, /* name.attribute as the target of set: a: NAME */
    /* statements */
    NODE_TEXT,
    NODE_PRINT,
    NODE_IF,         /* a, body, c: else, d: elif, another IF */
    NODE_FOR,        /* a: target, b: iterable, c: test, body, d: else */
    NODE_SET,        /* a: target, b */
    NODE_SET_BLOCK,  /* a: target, b: filter or NULL, body */
    NODE_MACRO,      /* a: PARAMETER with a: default or NULL, body */
    NODE_CALL_BLOCK, /* a: parameters, b: CALL, body */
    NODE_PARAMETER,
    NODE_FILTER_BLOCK, /* b: filter, body */
    NODE_WITH,         /* a: SET ..., body */
    NODE_BLOCK,
    NODE_GENERATION,
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_REFUSED
} jinja_kind;

typedef enum jinja_op {
    OP_ADD,
    OP_SUBTRACT,
    OP_MULTIPLY,
    OP_DIVIDE,
    OP_FLOOR_DIVIDE,
    OP_MODULO,
    OP_POWER,
    OP_EQUAL,
    OP_UNEQUAL,
    OP_LESS,
    OP_LESS_EQUAL,
    OP_GREATER,
    OP_GREATER_EQUAL,
    OP_IN,
    OP_NOT_IN
} jinja_op;

struct jinja_node {
    jinja_kind kind;
    jinja_op op;
    int line;
    bool recursive;                           /* of a loop */
    bool has_caller, has_kwargs, has_varargs; /* what a macro's body asks for */
    const jinja_string *name;
    jinja_value value;
    jinja_node *a, *b, *c, *d, *body;
    jinja_node *next;  /* in a list */
    const void *found; /* a filter's or test's function; NULL: there is none of that name */
};

/* ---- memory of a template or a rendering ---- */

typedef struct jinja_chunk jinja_chunk;
typedef struct jinja_arena {
    jinja_chunk *chunks;
    size_t used, size; /* of the newest chunk */
    uint64_t total, limit;
} jinja_arena;
void *jinja_arena_take(jinja_arena *arena, size_t bytes); /* NULL: beyond the limit, or no memory (a recorded failure) */
void jinja_arena_free(jinja_arena *arena);

struct cb_jinja {
    char *what;
    jinja_arena arena;
    jinja_node *body;
    const jinja_string **names; /* interned */
    size_t name_count, name_capacity;
    size_t source_length;
};

/* ---- lexing and parsing ---- */

typedef enum jinja_token_type {
    TOKEN_END,
    TOKEN_TEXT,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR
} jinja_token_type;

typedef struct jinja_token {
    jinja_token_type type;
    int line;
    char op[3];                 /* OPERATOR */
    const jinja_string *string; /* TEXT, STRING, NAME (interned) */
    int64_t integer;
    double number;
} jinja_token;

typedef struct jinja_tokens {
    jinja_token *items;
    size_t count, capacity;
} jinja_tokens;

bool jinja_tokenize(cb_jinja *template, const char *text, size_t length, jinja_tokens *tokens);
const jinja_string *jinja_intern(cb_jinja *template, const char *text, size_t length);

typedef struct jinja_parser {
    cb_jinja *template;
    const jinja_token *token, *end; /* the current one; end: the last, of type END */
    jinja_node *macro[32];          /* macros around, the innermost last */
    int macros, depth, loops;
} jinja_parser;
CB_COLD bool jinja_syntax(const cb_jinja *template, int line, const char *format, ...) CB_PRINTF(3, 4);
jinja_node *jinja_new_node(jinja_parser *p, jinja_kind kind, int line);
jinja_node *jinja_make_node(jinja_parser *p, jinja_kind kind, int line, jinja_node *a, jinja_node *b); /* NULL where a is */
jinja_node *jinja_constant(jinja_parser *p, int line, jinja_value value);
void jinja_advance(jinja_parser *p);
bool jinja_is_name(const jinja_parser *p, const char *name);
bool jinja_is_op(const jinja_parser *p, const char *op);
bool jinja_skip_name(jinja_parser *p, const char *name);
bool jinja_skip_op(jinja_parser *p, const char *op);
bool jinja_expect_op(jinja_parser *p, const char *op);
const jinja_string *jinja_expect_name(jinja_parser *p);
CB_COLD void *jinja_unexpected(const jinja_parser *p, const char *expected);
/* NULL on failure.  Each leaves the parser behind what it read. */
jinja_node *jinja_parse_expression(jinja_parser *p, bool with_condition);
jinja_node *jinja_parse_primary(jinja_parser *p, bool with_namespace); /* a literal, a name, or what stands in brackets */
jinja_node *jinja_parse_tuple(jinja_parser *p, bool with_condition, const char *end_name, bool parentheses);
jinja_node *jinja_parse_target(jinja_parser *p, bool with_namespace);
jinja_node *jinja_parse_filters(jinja_parser *p, jinja_node *on, bool inline_start);
bool jinja_parse_body(jinja_parser *p);
bool jinja_enter(jinja_parser *p); /* one level deeper; false: too deep */

/* ---- rendering ---- */

enum {
    JINJA_MOST_DEPTH = 600,      /* of expressions in one another, calls included */
    JINJA_MOST_PARSE_DEPTH = 150 /* the same in the text of a template */
};

typedef struct jinja_text {
    char *data;
    size_t length, capacity;
} jinja_text;

struct jinja_state {
    const cb_jinja *template;
    jinja_arena arena;
    uint64_t steps;
    int line, depth, captures;
    bool failed;
    jinja_dict *variables;
    jinja_scope *scope, *root;
    jinja_value piped;
    jinja_text text; /* the output; what is being captured is its end */
    cb_jinja_output *output;
    int64_t now; /* seconds since 1970 */
};

/* Fails with "NAME:LINE: ..." and gives false. */
CB_COLD bool jinja_fail(jinja_state *state, const char *format, ...) CB_PRINTF(2, 3);
bool jinja_spend(jinja_state *state, uint64_t steps);
void *jinja_take(jinja_state *state, size_t bytes);
bool jinja_deeper(jinja_state *state); /* state->depth-- on the way back */

bool jinja_put(jinja_state *state, jinja_text *text, const char *bytes, size_t length);
bool jinja_puts(jinja_state *state, jinja_text *text, const char *bytes);
bool jinja_text_value(jinja_state *state, const jinja_text *text, jinja_value *out);
bool jinja_string_value(jinja_state *state, const char *bytes, size_t length, jinja_value *out);
bool jinja_substring(jinja_state *state, const jinja_string *s, size_t begin, size_t end, jinja_value *out); /* byte offsets */
size_t jinja_point_offset(const jinja_string *s, size_t point);                                              /* of a code point, in bytes */
size_t jinja_count_points(const char *bytes, size_t length);

bool jinja_new_list(jinja_state *state, jinja_type type, size_t capacity, jinja_value *out);
bool jinja_append(jinja_state *state, jinja_list *list, jinja_value value);
bool jinja_pair(jinja_state *state, jinja_value a, jinja_value b, jinja_value *out);
bool jinja_new_dict(jinja_state *state, jinja_value *out);
bool jinja_dict_set(jinja_state *state, jinja_dict *dict, jinja_value key, jinja_value value);
/* NULL: not there, or the key has no hash (state->failed). */
jinja_value *jinja_dict_get(jinja_state *state, const jinja_dict *dict, jinja_value key);
jinja_value *jinja_dict_find(const jinja_dict *dict, const char *key, size_t length);
bool jinja_hashable(const jinja_value *value);

const char *jinja_type_name(const jinja_value *value); /* as Python calls it */
bool jinja_truth(const jinja_value *value);
bool jinja_is_number(const jinja_value *value); /* a bool, int or float */
double jinja_number(const jinja_value *value);
bool jinja_equal(jinja_state *state, const jinja_value *a, const jinja_value *b, bool *equal);
bool jinja_less(jinja_state *state, const jinja_value *a, const jinja_value *b, const char *op, bool or_equal, bool *less);
bool jinja_contains(jinja_state *state, const jinja_value *container, const jinja_value *value, bool *contains);
bool jinja_length(const jinja_value *value, int64_t *length);                       /* false: it has none */
bool jinja_to_text(jinja_state *state, const jinja_value *value, jinja_text *text); /* str() */
bool jinja_repr(jinja_state *state, const jinja_value *value, jinja_text *text);
bool jinja_to_string(jinja_state *state, const jinja_value *value, const jinja_string **out);
void jinja_float_text(double value, char out[40]); /* repr() */
bool jinja_undefined(jinja_state *state, jinja_value *out, const char *format, ...) CB_PRINTF(3, 4);

jinja_iterator *jinja_iterate(jinja_state *state, const jinja_value *value); /* NULL: fails */
jinja_iterator *jinja_new_iterator(jinja_state *state, jinja_next *next);
bool jinja_collect(jinja_state *state, const jinja_value *value, jinja_value *list); /* a new list of what it gives */
int64_t jinja_range_length(const jinja_range *range);

bool jinja_get_attribute(jinja_state *state, const jinja_value *value, const jinja_string *name, jinja_value *out);
bool jinja_get_item(jinja_state *state, const jinja_value *value, const jinja_value *key, jinja_value *out);
bool jinja_get_slice(jinja_state *state, const jinja_value *value, const jinja_value bounds[3], jinja_value *out);
/* A method or property; false (not failed): there is none. */
bool jinja_find_method(jinja_state *state, const jinja_value *value, const jinja_string *name, jinja_value *out);
bool jinja_find_string_method(jinja_state *state, const jinja_value *value, const jinja_string *name, jinja_value *out);
bool jinja_bind(jinja_state *state, const jinja_value *value, const jinja_function *table, const jinja_string *name, jinja_value *out);
bool jinja_loop_attribute(jinja_state *state, jinja_loop *loop, const jinja_string *name, jinja_value *out);

bool jinja_binary(jinja_state *state, jinja_op op, const jinja_value *a, const jinja_value *b, jinja_value *out);
bool jinja_compare(jinja_state *state, jinja_op op, const jinja_value *a, const jinja_value *b, bool *out);
bool jinja_format_percent(jinja_state *state, const jinja_string *format, const jinja_value *values, jinja_value *out);
jinja_call jinja_format_braces; /* str.format */
jinja_call jinja_format_map;
bool jinja_escape(jinja_state *state, const jinja_string *s, jinja_text *text);

bool jinja_eval(jinja_state *state, const jinja_node *node, jinja_value *out);
bool jinja_call_value(jinja_state *state, const jinja_value *callee, jinja_arguments *arguments, jinja_value *out);
bool jinja_eval_arguments(jinja_state *state, const jinja_node *list, jinja_arguments *arguments);
bool jinja_assign(jinja_state *state, const jinja_node *target, jinja_value value);
bool jinja_call_macro(jinja_state *state, const jinja_macro *macro, jinja_arguments *arguments, jinja_value *out);
bool jinja_call_loop(jinja_state *state, jinja_loop *loop, const jinja_value *iterable, jinja_value *out);
jinja_scope *jinja_open_scope(jinja_state *state, jinja_scope *parent);
bool jinja_scope_set(jinja_state *state, jinja_scope *scope, const jinja_string *name, jinja_value value);

/* Arguments by position or name: "name", in order; those not given stay UNDEFINED with s NULL.  More, or unknown names: fails. */
bool jinja_take_arguments(jinja_state *state, const char *what, const jinja_arguments *arguments, const char *const *names, size_t required,
                          jinja_value *out);
bool jinja_given(const jinja_value *value);
/* Declares a[], the arguments of the names that follow, in a function with `state` and `arguments`; returns false where they do not fit. */
#define JINJA_TAKE(what, required, ...)                                                                                                    \
    static const char *const names[] = {__VA_ARGS__, NULL};                                                                                \
    jinja_value a[sizeof names / sizeof *names];                                                                                           \
    if (!jinja_take_arguments(state, what, arguments, names, required, a))                                                                 \
    return false
bool jinja_want_int(jinja_state *state, const char *what, const jinja_value *value, int64_t *out);
bool jinja_want_string(jinja_state *state, const char *what, const jinja_value *value, const jinja_string **out);
/* x | name(...) and x is name(...). */
bool jinja_filter(jinja_state *state, const jinja_string *name, const jinja_value *value, jinja_arguments *arguments, jinja_value *out);
bool jinja_test(jinja_state *state, const jinja_string *name, const jinja_value *value, jinja_arguments *arguments, bool *out);
jinja_call *jinja_find_filter(const jinja_string *name);
bool jinja_has_test(const jinja_string *name);
extern const jinja_function jinja_search_methods[], jinja_case_methods[]; /* of strings; jinja_methods.c has the others */
/* A text that is markup where `self` is. */
bool jinja_marked_text(jinja_state *state, const jinja_value *self, const jinja_text *text, jinja_value *out);
/* Adds bytes begin to end of a string to a list. */
bool jinja_add_part(jinja_state *state, const jinja_string *s, size_t begin, size_t end, jinja_value *list);
/* Where `what` begins for the last time, or NULL. */
const char *jinja_find_last(const char *text, size_t length, const jinja_string *what);
extern const jinja_function jinja_text_filters[], jinja_list_filters[], jinja_order_filters[], jinja_globals[];
/* jinja_filters_lists.c: the value at a path such as "a.0.b", lower case of a text, and what sorting and the like go by. */
bool jinja_at_path(jinja_state *state, jinja_value value, const char *path, size_t length, const jinja_value *fallback, jinja_value *out);
bool jinja_fold(jinja_state *state, jinja_value *value);
bool jinja_get_key(jinja_state *state, jinja_value value, const jinja_value *attribute, const jinja_value *fallback, bool case_sensitive,
                   jinja_value *out);

/* JSON, both ways. */
bool jinja_from_json(jinja_state *state, const json_t *json, jinja_value *out);
jinja_call jinja_to_json; /* the filter */

/* Case of text, as Python has it. */
enum { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE };
bool jinja_put_case(jinja_state *state, jinja_text *text, uint32_t point, int how);

static inline jinja_value jinja_none(void)
{
    return (jinja_value){.type = JINJA_NONE};
}
static inline bool jinja_is_none(const jinja_value *value) /* or not given */
{
    return !jinja_given(value) || value->type == JINJA_NONE;
}
static inline jinja_value jinja_bool(bool value)
{
    return (jinja_value){.type = JINJA_BOOL, .i = value};
}
static inline jinja_value jinja_int(int64_t value)
{
    return (jinja_value){.type = JINJA_INT, .i = value};
}
static inline jinja_value jinja_float(double value)
{
    return (jinja_value){.type = JINJA_FLOAT, .f = value};
}

/* Renders with values that have been parsed: an object of variables. */
bool cb_jinja_render_json(const cb_jinja *template, const json_t *variables, cb_jinja_output *out);

#endif
