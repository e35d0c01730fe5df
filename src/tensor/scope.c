/* scope.c: scopes own tensors.
 *
 * A scope is a list of references.  Every new tensor is appended to the innermost scope of its thread; closing the scope gives the
 * references back, latest first.  Outside any scope a thread has a root list, emptied by cb_scope_close(NULL). */
#include "tensor/internal.h"

struct cb_scope {
    cb_tensor **items;
    size_t count, capacity;
    cb_scope *parent;
};

static _Thread_local cb_scope root;
static _Thread_local cb_scope *innermost;

cb_scope *cb_scope_open(void)
{
    cb_scope *scope = cb_calloc(1, sizeof *scope);
    if (!scope)
        return NULL;
    scope->parent = innermost;
    innermost = scope;
    return scope;
}

static void empty(cb_scope *scope)
{
    while (scope->count)
        cb_release(scope->items[--scope->count]);
    cb_free(scope->items);
    scope->items = NULL;
    scope->capacity = 0;
}

static bool is_open(const cb_scope *scope)
{
    for (const cb_scope *s = innermost; s; s = s->parent)
        if (s == scope)
            return true;
    return false;
}

void cb_scope_close(cb_scope *scope)
{
    if (!scope) {
        if (!innermost)
            empty(&root);
        return;
    }
    if (!is_open(scope)) {
        cb_fail(CB_ERR_STATE, "cb_scope_close: this scope is not open on this thread");
        return;
    }
    cb_scope *closing;
    do {
        closing = innermost;
        empty(closing);
        innermost = closing->parent;
        cb_free(closing);
    } while (closing != scope);
}

static bool push(cb_scope *scope, cb_tensor *t)
{
    if (!cb_grow(&scope->items, &scope->capacity, scope->count + 1, sizeof *scope->items))
        return false;
    scope->items[scope->count++] = t;
    return true;
}

cb_tensor *cb_scope_own(cb_tensor *t)
{
    if (!t)
        return NULL;
    if (!push(innermost ? innermost : &root, t)) {
        cb_release(t);
        return NULL;
    }
    return t;
}

cb_tensor *cb_scope_return(cb_scope *scope, cb_tensor *y)
{
    if (!scope || !y)
        return y;
    cb_tensor_reference(y);
    if (!push(scope->parent ? scope->parent : &root, y)) {
        cb_release(y);
        return NULL;
    }
    return y;
}

cb_tensor *cb_scope_renew(cb_scope **scope, cb_tensor *t)
{
    if (!t)
        return NULL;
    cb_tensor_reference(t);
    cb_scope_close(*scope);
    *scope = cb_scope_open();
    if (*scope)
        return cb_scope_own(t);
    cb_release(t);
    return NULL;
}

cb_tensor *cb_keep(cb_tensor *t)
{
    if (t)
        cb_tensor_reference(t);
    return t;
}
