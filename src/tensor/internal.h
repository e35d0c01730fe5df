/* internal.h: what tensors, the tape and the backward pass share and nobody else sees. */
#ifndef CB_TENSOR_INTERNAL_H
#define CB_TENSOR_INTERNAL_H

#include "tensor/op.h"

/* The memory behind one or more tensors. */
typedef struct cb_storage {
    void *bytes; /* from cb_alloc(), or borrowed */
    size_t size;
    int references;
    uint32_t version; /* counts in-place writes */
    bool borrowed;    /* not ours to free */
    bool read_only;
    bool frozen;                    /* and it keeps the values that it has */
    struct cb_held_map *map;        /* where borrowed bytes lie that may be written to, or NULL */
    struct cbk_ordered *ordered[2]; /* of a convolution's frozen weight: CBK_CONVOLUTION, CBK_CONVOLUTION_DATA; or NULLs */
    cb_tensor *kept[CB_KEPT];       /* other tensors that live as long (the scales of codes), or NULLs */
} cb_storage;

typedef struct cb_saved {
    cb_tensor *tensor;
    struct cb_node *source; /* instead of a tensor: the node that makes it again (cb_op.again) */
    int output;             /* the node's own output saved as a bare alias, or -1 */
    uint32_t version;       /* the storage's version when it was saved */
} cb_saved;

typedef struct cb_node {
    const cb_op *op;
    uint64_t sequence; /* later ops have larger numbers: the order of the backward pass */
    int references;
    int inputs, outputs, saved_count;
    bool queued;   /* in the heap of a running backward pass */
    bool released; /* saved tensors are gone: the graph was consumed */
    cb_edge *input;
    cb_saved *saved;
    cb_tensor **gradient; /* [outputs], while a backward pass runs */
    cb_tensor *remade;    /* its output made again, from the first op that reads it until its own turn comes */
    void *args;
    struct cb_node *next; /* in the list of nodes about to be freed */
} cb_node;

/* A tensor header without storage, owned by nobody yet (references 1). */
cb_tensor *cb_tensor_header(cb_dtype dtype, int ndim, const int64_t *shape);
void cb_tensor_reference(cb_tensor *t);
/* Puts a tensor with one reference into the innermost scope, which takes that reference over. */
cb_tensor *cb_scope_own(cb_tensor *t);
/* A header on the same memory, outside every scope, without history; one reference. */
cb_tensor *cb_tensor_bare_alias(const cb_tensor *x);
void cb_node_reference(cb_node *node);
void cb_node_release(cb_node *node);
void cb_node_drop_saved(cb_node *node); /* when its rule has run */
void cb_node_drop_remade(cb_node *node);
/* cb_record() whatever the inputs need. */
bool cb_record_always(const cb_op *op, int outputs, cb_tensor *const *output, int inputs, cb_tensor *const *input, int saved,
                      cb_tensor *const *save, const void *args, size_t args_size);
/* A backward pass within the running one, from y with the gradient dy[0]; what xs get is put into grads, for the caller to release. */
bool cb_backward_within(cb_tensor *y, cb_tensor *const *dy, int nx, cb_tensor *const *xs, cb_tensor **grads);
/* a += b in place, both contiguous or not, same shape and dtype. */
bool cb_accumulate(cb_tensor *a, const cb_tensor *b);
bool cb_exclusive(const cb_tensor *t);

#endif
