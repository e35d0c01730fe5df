/* checkpoint.c: a part of the graph that keeps its inputs only, and is run again in the backward pass. */
#include "tensor/internal.h"

typedef struct checkpoint_args {
    cb_checkpoint_function *fn;
    void *user;
    cb_rng *rng, start; /* start: the generator as it stood before the first run */
} checkpoint_args;

static _Thread_local bool again;

bool cb_runs_again(void)
{
    return again;
}

/* The inputs of the first run as leaves, where their gradients are wanted. */
static bool checkpoint_inputs(const cb_backward_pass *pass, cb_tensor **inputs)
{
    for (int i = 0; i < pass->inputs; i++) {
        inputs[i] = cb_detach(pass->saved[i]);
        if (pass->saved[i] && !inputs[i])
            return false;
        if (pass->need[i])
            cb_parameter(inputs[i]);
    }
    return true;
}

/* Runs fn again, from the state of the generator that the first run had. */
static cb_tensor *checkpoint_again(const checkpoint_args *a, cb_tensor *const *inputs)
{
    cb_rng now = {0};
    if (a->rng) {
        now = *a->rng;
        *a->rng = a->start;
    }
    bool old = cb_set_grad_enabled(true), before = again;
    again = true;
    cb_tensor *y = a->fn(a->user, inputs);
    again = before;
    cb_set_grad_enabled(old);
    if (a->rng)
        *a->rng = now;
    return y;
}

static void checkpoint_backward(cb_backward_pass *pass)
{
    cb_tensor **inputs = cb_calloc((size_t)pass->inputs + 1, sizeof *inputs);
    cb_tensor *y = inputs && checkpoint_inputs(pass, inputs) ? checkpoint_again(pass->args, inputs) : NULL;
    if (y && y->requires_grad) {
        cb_backward_within(y, pass->dy, pass->inputs, inputs, pass->dx);
        for (int i = 0; i < pass->inputs; i++)
            pass->dx[i] = cb_scope_own(pass->dx[i]);
    }
    cb_free(inputs);
}

const cb_op cb_op_checkpoint = {.name = "checkpoint", .backward = checkpoint_backward, .reaches_leaves = true};

cb_tensor *cb_checkpoint(cb_checkpoint_function *fn, void *user, int count, cb_tensor *const *inputs, cb_rng *rng)
{
    if (!cb_grad_enabled())
        return fn(user, inputs);
    checkpoint_args a = {.fn = fn, .user = user, .rng = rng};
    if (rng)
        a.start = *rng;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *y = NULL;
    cb_no_grad
    {
        y = cb_detach(fn(user, inputs));
    }
    y = cb_scope_return(scope, y);
    cb_scope_close(scope);
    /* recorded whatever the inputs need: fn may reach trainable parameters */
    if (y && !cb_record_always(&cb_op_checkpoint, 1, &y, count, inputs, count, inputs, &a, sizeof a))
        return NULL;
    return y;
}
