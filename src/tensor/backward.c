/* backward.c: the backward pass over the tape.
 *
 * Nodes are numbered in the order they ran, so running them from the largest number down is a valid order without counting dependencies: a
 * heap of pending nodes is all the state a pass needs.  A node's saved tensors are dropped as soon as its rule has run, so memory falls
 * while the pass goes on.  Gradients arriving at one place are summed in place when nobody else can see the memory. */
#include <string.h>

#include "tensor/internal.h"
#include "tensor/watch.h"

/* ---- the backward pass ---- */

/* One running pass.  A checkpointed block starts a pass within a pass; leaves found there belong to the outer one's request. */
typedef struct run {
    cb_node **heap;
    size_t count, capacity;
    int nx;
    cb_tensor *const *xs;
    cb_tensor **grads;
    bool accumulate; /* leaves that nobody asked for by name get ->grad */
    bool create_graph, retain_graph;
    struct run *outer;
} run;

static _Thread_local run *running;

static bool heap_push(run *r, cb_node *node)
{
    if (node->queued)
        return true;
    if (!cb_grow(&r->heap, &r->capacity, r->count + 1, sizeof *r->heap))
        return false;
    node->queued = true;
    cb_node_reference(node);
    size_t i = r->count++;
    while (i > 0 && r->heap[(i - 1) / 2]->sequence < node->sequence) {
        r->heap[i] = r->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    r->heap[i] = node;
    return true;
}

/* The caller owns the reference that the heap held. */
static cb_node *heap_pop(run *r)
{
    cb_node *top = r->heap[0], *last = r->heap[--r->count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= r->count)
            break;
        if (child + 1 < r->count && r->heap[child + 1]->sequence > r->heap[child]->sequence)
            child++;
        if (r->heap[child]->sequence <= last->sequence)
            break;
        r->heap[i] = r->heap[child];
        i = child;
    }
    r->heap[i] = last;
    top->queued = false;
    return top;
}

/* Adds dx to *slot, which owns what it holds: in place when nobody else sees that memory. */
static bool add_gradient(cb_tensor **slot, cb_tensor *dx, bool create_graph)
{
    if (!*slot) {
        *slot = cb_keep(dx);
        return true;
    }
    if (!create_graph && cb_exclusive(*slot) &&
        (cb_is_contiguous(*slot) || cb_is_channels_last(*slot))) /* a broadcast view has fewer elements in memory */
        return cb_accumulate(*slot, dx);
    cb_tensor *sum = cb_add(*slot, dx);
    if (!sum)
        return false;
    cb_release(*slot);
    *slot = cb_keep(sum);
    return true;
}

/* Where the gradient of a leaf goes: a request by name in this pass or an outer one, its ->grad, or nowhere (NULL). */
static cb_tensor **leaf_slot(run *r, cb_tensor *leaf)
{
    for (; r; r = r->outer) {
        for (int i = 0; i < r->nx; i++)
            if (r->xs[i] == leaf)
                return &r->grads[i];
        if (!r->outer)
            return r->accumulate ? &leaf->grad : NULL;
    }
    return NULL;
}

static bool deliver_leaf(run *r, cb_tensor *leaf, cb_tensor *dx)
{
    cb_tensor **slot = leaf_slot(r, leaf);
    if (!slot)
        return true;
    /* dx may be a broadcast view, be another input's gradient as well or a saved tensor of a graph that stays: a leaf's gradient is memory
     * of its own */
    bool own = !r->retain_graph && cb_is_contiguous(dx) && cb_exclusive(dx);
    if (!*slot && !r->create_graph && !own) {
        cb_tensor *copy = cb_empty_like(dx);
        if (!copy || !cb_copy_into(copy, dx))
            return false;
        dx = copy;
    }
    return add_gradient(slot, dx, r->create_graph);
}

static bool deliver(run *r, const cb_op *op, const cb_edge *edge, cb_tensor *dx)
{
    bool same = dx->dtype == edge->dtype && dx->ndim == edge->ndim;
    for (int d = 0; same && d < dx->ndim; d++)
        same = dx->shape[d] == edge->shape[d];
    if (!same) {
        cb_fail(CB_ERR_STATE, "backward of %s: the gradient is %s and does not fit its input", op->name, cb_shape_text(dx));
        return false;
    }
    if (edge->leaf)
        return deliver_leaf(r, edge->leaf, dx);
    /* queued first: whatever happens then, the node's turn comes and its gradient is let go */
    return heap_push(r, edge->node) && add_gradient(&edge->node->gradient[edge->output], dx, r->create_graph);
}

static bool wanted(run *r, const cb_edge *edge)
{
    return edge->node || (edge->leaf && leaf_slot(r, edge->leaf));
}

static cb_tensor *with_history(cb_tensor *t, cb_node *node, int output)
{
    cb_tensor *alias = cb_scope_own(cb_tensor_bare_alias(t));
    if (alias) {
        alias->node = node;
        alias->node_output = output;
        alias->requires_grad = true;
        cb_node_reference(node);
    }
    return alias;
}

static bool unpack_all(run *r, cb_node *node, cb_tensor **saved);

/* The output of a node whose op can make it again. */
static cb_tensor *remake(run *r, cb_node *node)
{
    enum { MOST = 8 }; /* saved by any such op */
    cb_tensor *saved[MOST] = {0};
    if (node->remade)
        return node->remade;
    if (node->released || node->saved_count > MOST) {
        cb_fail(CB_ERR_STATE, "backward of %s: its graph was consumed by an earlier pass (use retain_graph)", node->op->name);
        return NULL;
    }
    bool old = cb_set_grad_enabled(false);
    cb_scope *scope = cb_scope_open();
    if (scope && unpack_all(r, node, saved)) {
        cb_backward_pass pass = {.op = node->op,
                                 .args = node->args,
                                 .inputs = node->inputs,
                                 .outputs = node->outputs,
                                 .saved_count = node->saved_count,
                                 .saved = saved,
                                 .input = node->input};
        cb_tensor *y = node->op->again(&pass);
        node->remade = y ? cb_keep(y) : NULL;
    }
    if (scope)
        cb_scope_close(scope);
    cb_set_grad_enabled(old);
    return node->remade;
}

/* What a rule sees of saved tensor s: itself, made again if it was not kept; under create_graph a node's output comes as an alias that
 * knows its history. */
static bool unpack(run *r, cb_node *node, const cb_saved *s, cb_tensor **t)
{
    *t = s->source ? remake(r, s->source) : s->tensor;
    if (!*t)
        return !s->source;
    if (s->tensor && s->version != s->tensor->storage->version) {
        cb_fail(CB_ERR_STATE, "backward of %s: a tensor it saved, %s, was changed in place since", node->op->name,
                cb_shape_text(s->tensor));
        return false;
    }
    if (!r->create_graph || (s->output < 0 && !s->source))
        return true;
    *t = s->source ? with_history(*t, s->source, 0) : with_history(*t, node, s->output);
    return *t;
}

static bool unpack_all(run *r, cb_node *node, cb_tensor **saved)
{
    for (int i = 0; i < node->saved_count; i++)
        if (!unpack(r, node, &node->saved[i], &saved[i]))
            return false;
    return true;
}

/* The arrays that a rule is given; of MANY elements or fewer they are here. */
enum { MANY = 8 };
typedef struct view {
    cb_tensor **saved, **dx, **into;
    bool *need;
    cb_tensor *few[3][MANY], **many;
    bool few_need[MANY];
} view;

static bool view_open(view *v, const cb_node *node)
{
    size_t most = (size_t)(node->inputs > node->saved_count ? node->inputs : node->saved_count);
    *v = (view){0};
    if (most <= MANY) {
        v->saved = v->few[0];
        v->dx = v->few[1];
        v->into = v->few[2];
        v->need = v->few_need;
        return true;
    }
    v->many = cb_calloc(most, 3 * sizeof *v->many + sizeof *v->need);
    if (!v->many)
        return false;
    v->saved = v->many;
    v->dx = v->many + most;
    v->into = v->many + 2 * most;
    v->need = (bool *)(v->many + 3 * most);
    return true;
}

/* Which inputs want a gradient, and where one is that may be added to; true when the rule has anything to do. */
static bool find_needs(run *r, const cb_node *node, view *v)
{
    bool any = node->op->reaches_leaves;
    for (int i = 0; i < node->inputs; i++) {
        const cb_edge *edge = &node->input[i];
        v->need[i] = wanted(r, edge);
        any = any || v->need[i];
        if (!v->need[i] || r->create_graph)
            continue;
        cb_tensor **slot = edge->leaf ? leaf_slot(r, edge->leaf) : &edge->node->gradient[edge->output];
        if (*slot && cb_exclusive(*slot) && cb_is_contiguous(*slot))
            v->into[i] = *slot;
    }
    return any;
}

static bool run_rule(run *r, cb_node *node, const view *v)
{
    cb_backward_pass pass = {.op = node->op,
                             .args = node->args,
                             .inputs = node->inputs,
                             .outputs = node->outputs,
                             .saved_count = node->saved_count,
                             .dy = node->gradient,
                             .saved = v->saved,
                             .input = node->input,
                             .need = v->need,
                             .dx = v->dx,
                             .last = !r->retain_graph && !r->create_graph,
                             .into = v->into};
    node->op->backward(&pass);
    bool ok = cb_ok();
    for (int i = 0; cb_tape_watching && ok && i < node->inputs; i++)
        if (v->need[i] && v->dx[i])
            cb_tape_watching->gradient(cb_tape_watching->user, node->sequence, node->op->name, v->dx[i]);
    for (int i = 0; i < node->inputs && ok; i++)
        if (v->need[i] && v->dx[i] && v->dx[i] != v->into[i]) /* what was added in place is there already */
            ok = deliver(r, node->op, &node->input[i], v->dx[i]);
    return ok;
}

static bool node_run(run *r, cb_node *node)
{
    if (node->released) {
        cb_fail(CB_ERR_STATE, "backward of %s: its graph was consumed by an earlier pass (use retain_graph)", node->op->name);
        return false;
    }
    if (r->create_graph && !node->op->twice) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s has no second derivative (its backward rule is fused)", node->op->name);
        return false;
    }
    view v;
    bool ok = view_open(&v, node) && unpack_all(r, node, v.saved) && (!find_needs(r, node, &v) || run_rule(r, node, &v));
    cb_free(v.many);
    return ok;
}

/* Results that were asked for by name and come out of `node` are complete when its turn comes. */
static bool capture(run *r, cb_node *node)
{
    for (int i = 0; i < r->nx; i++) {
        cb_tensor *x = r->xs[i];
        if (x && x->node == node && node->gradient[x->node_output] && !add_gradient(&r->grads[i], node->gradient[x->node_output], true))
            return false;
    }
    return true;
}

/* Runs every waiting node, or only lets go of it when not `ok`. */
static bool run_all(run *r, bool ok)
{
    while (r->count) {
        cb_node *node = heap_pop(r);
        if (ok) {
            cb_scope *scope = cb_scope_open();
            ok = scope && capture(r, node) && node_run(r, node);
            cb_node_drop_remade(node);
            if (ok && !r->retain_graph)
                cb_node_drop_saved(node);
            if (scope)
                cb_scope_close(scope);
        }
        for (int i = 0; i < node->outputs; i++) {
            cb_release(node->gradient[i]);
            node->gradient[i] = NULL;
        }
        cb_node_release(node);
    }
    cb_free(r->heap);
    return ok;
}

static bool seed(run *r, cb_tensor *y, cb_tensor *dy)
{
    if (!y)
        return cb_fail(CB_ERR_ARGUMENT, "backward: NULL result") == CB_OK;
    if (!y->requires_grad)
        return cb_fail(CB_ERR_STATE, "backward: the result %s does not depend on anything that requires a gradient", cb_shape_text(y)) ==
               CB_OK;
    if (!dy) {
        if (y->count != 1)
            return cb_fail(CB_ERR_SHAPE, "backward: the result is %s, expected one element (or give its gradient)", cb_shape_text(y)) ==
                   CB_OK;
        dy = cb_full_nd(y->dtype, 1, y->ndim, y->shape);
        if (!dy)
            return false;
    }
    cb_edge edge = {.node = y->node, .output = y->node_output, .leaf = y->node ? NULL : y, .dtype = y->dtype, .ndim = y->ndim};
    memcpy(edge.shape, y->shape, sizeof edge.shape);
    static const cb_op start = {.name = "the result"};
    return deliver(r, &start, &edge, dy);
}

static bool run_from(run *r, int ny, cb_tensor *const *ys, cb_tensor *const *dys)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    bool old = cb_set_grad_enabled(r->create_graph);
    run *interrupted = running;
    running = r;
    bool ok = true;
    for (int i = 0; i < ny && ok; i++)
        ok = seed(r, ys[i], dys ? dys[i] : NULL);
    ok = run_all(r, ok);
    running = interrupted;
    cb_set_grad_enabled(old);
    cb_scope_close(scope);
    return ok;
}

bool cb_backward_within(cb_tensor *y, cb_tensor *const *dy, int nx, cb_tensor *const *xs, cb_tensor **grads)
{
    run r = {.nx = nx, .xs = xs, .grads = grads, .outer = running};
    return run_from(&r, 1, &y, dy);
}

bool cb_backward(cb_tensor *loss)
{
    if (!cb_ok())
        return false;
    run r = {.accumulate = true};
    return run_from(&r, 1, &loss, NULL);
}

bool cb_grad_of(int ny, cb_tensor *const *ys, cb_tensor *const *dys, int nx, cb_tensor *const *xs, cb_tensor **grads,
                cb_grad_options options)
{
    for (int i = 0; i < nx; i++)
        grads[i] = NULL;
    for (int i = 0; i < nx; i++)
        if (!xs[i] || !xs[i]->requires_grad)
            return cb_fail(CB_ERR_ARGUMENT, "gradient: input %d is %s", i, xs[i] ? "a tensor that requires no gradient" : "NULL") == CB_OK;
    if (!cb_ok())
        return false;
    run r = {.nx = nx,
             .xs = xs,
             .grads = grads,
             .accumulate = options.accumulate,
             .create_graph = options.create_graph,
             .retain_graph = options.retain_graph || options.create_graph};
    bool ok = run_from(&r, ny, ys, dys);
    for (int i = 0; i < nx; i++) {
        cb_tensor *g = grads[i];
        if (g && !ok)
            cb_release(g);
        grads[i] = ok ? cb_scope_own(g) : NULL;
        ok = ok && !g == !grads[i];
        for (int j = 0; !g && j < i; j++) /* asked for twice */
            if (xs[j] == xs[i])
                grads[i] = grads[j];
    }
    return ok;
}

void cb_zero_grad(cb_tensor *x)
{
    if (!x)
        return;
    cb_release(x->grad);
    x->grad = NULL;
}
