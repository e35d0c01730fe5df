/* tape.c: the record of operations: each recorded op is a node with edges to the nodes (or leaves) its inputs came from. */
#include <string.h>

#include "tensor/internal.h"
#include "tensor/watch.h"

static _Thread_local bool grad_enabled = true;
static _Thread_local uint64_t sequence;
_Thread_local const cb_tape_watch *cb_tape_watching;

uint64_t cb_tape_position(void)
{
    return sequence;
}

bool cb_grad_enabled(void)
{
    return grad_enabled;
}

bool cb_set_grad_enabled(bool on)
{
    bool old = grad_enabled;
    grad_enabled = on;
    return old;
}

/* ---- nodes ---- */

void cb_node_reference(cb_node *node)
{
    __atomic_fetch_add(&node->references, 1, __ATOMIC_RELAXED);
}

void cb_node_drop_remade(cb_node *node)
{
    cb_release(node->remade);
    node->remade = NULL;
}

void cb_node_drop_saved(cb_node *node)
{
    for (int i = 0; i < node->saved_count; i++) {
        cb_release(node->saved[i].tensor);
        cb_node_release(node->saved[i].source);
        node->saved[i] = (cb_saved){.output = -1};
    }
    node->released = true;
}

/* A long chain of nodes must not be freed by recursion: whatever falls to zero meanwhile waits in a list. */
static _Thread_local cb_node *doomed;
static _Thread_local bool draining;

void cb_node_release(cb_node *node)
{
    if (!node || __atomic_sub_fetch(&node->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    node->next = doomed;
    doomed = node;
    if (draining)
        return;
    draining = true;
    while (doomed) {
        node = doomed;
        doomed = node->next;
        cb_node_drop_saved(node);
        cb_node_drop_remade(node);
        for (int i = 0; i < node->inputs; i++) {
            cb_node_release(node->input[i].node);
            cb_release(node->input[i].leaf);
        }
        for (int i = 0; i < node->outputs; i++)
            cb_release(node->gradient[i]);
        cb_free(node);
    }
    draining = false;
}

bool cb_will_record(int inputs, cb_tensor *const *input)
{
    if (!grad_enabled)
        return false;
    for (int i = 0; i < inputs; i++)
        if (input[i] && input[i]->requires_grad)
            return true;
    return false;
}

static size_t aligned(size_t bytes)
{
    return (bytes + 15) & ~(size_t)15;
}

static cb_node *node_make(const cb_op *op, int outputs, int inputs, int saved, const void *args, size_t args_size)
{
    size_t head = aligned(sizeof(cb_node)), edges = aligned((size_t)inputs * sizeof(cb_edge));
    size_t saves = aligned((size_t)saved * sizeof(cb_saved)), grads = aligned((size_t)outputs * sizeof(cb_tensor *));
    char *block = cb_alloc(head + edges + saves + grads + args_size);
    if (!block)
        return NULL;
    memset(block, 0, head + edges + saves + grads);
    cb_node *node = (cb_node *)block;
    node->input = (cb_edge *)(block + head);
    node->saved = (cb_saved *)(block + head + edges);
    node->gradient = (cb_tensor **)(block + head + edges + saves);
    node->args = block + head + edges + saves + grads;
    if (args_size)
        memcpy(node->args, args, args_size);
    node->op = op;
    node->sequence = ++sequence;
    node->references = 1;
    node->inputs = inputs;
    node->outputs = outputs;
    node->saved_count = saved;
    return node;
}

static void edge_set(cb_edge *edge, cb_tensor *input)
{
    if (!input)
        return;
    edge->dtype = input->dtype;
    edge->ndim = input->ndim;
    memcpy(edge->shape, input->shape, sizeof edge->shape);
    if (!input->requires_grad)
        return;
    if (input->node) {
        edge->node = input->node;
        edge->output = input->node_output;
        cb_node_reference(edge->node);
    } else {
        edge->leaf = cb_keep(input);
    }
}

bool cb_can_be_remade(const cb_tensor *t)
{
    const cb_node *node = t->node;
    if (!node || !node->op->again || node->released || t->storage->version > 0 || node->saved_count == 0)
        return false;
    const cb_saved *first = &node->saved[0];
    return first->source || (first->tensor && first->output < 0); /* else it is kept itself, or what it is made of is not */
}

/* An output that is saved would keep its own node alive for ever; a bare alias of it does not. */
static bool save_set(cb_saved *slot, cb_tensor *t, int outputs, cb_tensor *const *output)
{
    slot->output = -1;
    if (!t)
        return true;
    for (int i = 0; i < outputs; i++)
        if (output[i] == t)
            slot->output = i;
    if (slot->output < 0 && cb_can_be_remade(t)) {
        slot->source = t->node;
        cb_node_reference(t->node);
        return true;
    }
    slot->tensor = slot->output >= 0 ? cb_tensor_bare_alias(t) : cb_keep(t);
    if (!slot->tensor)
        return false;
    slot->version = t->storage->version;
    return true;
}

bool cb_record_always(const cb_op *op, int outputs, cb_tensor *const *output, int inputs, cb_tensor *const *input, int saved,
                      cb_tensor *const *save, const void *args, size_t args_size)
{
    cb_node *node = node_make(op, outputs, inputs, saved, args, args_size);
    if (!node)
        return false;
    bool ok = true;
    for (int i = 0; i < inputs; i++)
        edge_set(&node->input[i], input[i]);
    for (int i = 0; i < saved; i++)
        ok = ok && save_set(&node->saved[i], save[i], outputs, output);
    for (int i = 0; ok && i < outputs; i++) {
        if (!output[i])
            continue;
        output[i]->node = node;
        output[i]->node_output = i;
        output[i]->requires_grad = true;
        cb_node_reference(node);
    }
    cb_node_release(node);
    return ok;
}

bool cb_record(const cb_op *op, int outputs, cb_tensor *const *output, int inputs, cb_tensor *const *input, int saved,
               cb_tensor *const *save, const void *args, size_t args_size)
{
    if (!cb_will_record(inputs, input))
        return true;
    return cb_record_always(op, outputs, output, inputs, input, saved, save, args, args_size);
}
