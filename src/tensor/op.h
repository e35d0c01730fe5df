/* op.h: how an operation is written.
 *
 * An operation is a public function that computes its result with kernels, then calls cb_record() with its cb_op: a name and
 * a backward rule.  The rule receives the gradients of the outputs and what was saved, and fills in the gradients of the inputs.
 * Rules made of public operations (twice = true) can be differentiated again; a fused rule (twice = false) calls kernels, and the tape
 * says so by name when a second derivative is asked for.  Every op stands in op_list.h, from which the table and its tests are made. */
#ifndef CB_TENSOR_OP_H
#define CB_TENSOR_OP_H

#include "cambium/tensor.h"

struct cb_backward_pass;

typedef struct cb_op {
    const char *name;
    bool twice; /* the rule is made of public operations only */
    void (*backward)(struct cb_backward_pass *pass);
    bool reaches_leaves; /* the rule matters even when no input wants a gradient (checkpoint) */
    /* Makes the (only) output once more, bit for bit, out of args and saved; dy, need, dx and into are not there.  An op has it when that
     * costs little beside the products around it: a later op that saves the output then keeps no memory for it, where the first tensor that
     * this op saved is there and is not the output itself. */
    cb_tensor *(*again)(const struct cb_backward_pass *pass);
} cb_op;

/* What a node remembers of one of its inputs. */
typedef struct cb_edge {
    struct cb_node *node; /* the op that made it, or NULL */
    int output;           /* which of that op's outputs */
    cb_tensor *leaf;      /* the leaf itself when node is NULL and it requires a gradient */
    cb_dtype dtype;
    int ndim;
    int64_t shape[CB_MAX_DIMS];
} cb_edge;

/* The view of one node that a backward rule gets. */
typedef struct cb_backward_pass {
    const cb_op *op;
    const void *args; /* the bytes given to cb_record() */
    int inputs, outputs, saved_count;
    cb_tensor *const *dy;    /* [outputs] gradient of each output; NULL means zero (at least one is not) */
    cb_tensor *const *saved; /* [saved_count] as given to cb_record(), NULLs included */
    const cb_edge *input;    /* [inputs] dtype and shape of each input */
    const bool *need;        /* [inputs] which gradients are wanted */
    cb_tensor **dx;          /* [inputs] to be filled where needed (NULL: zero); dtype and shape of that input */
    bool last;               /* the graph is let go: what was saved may be overwritten where cb_can_overwrite() says so */
    /* [inputs] a gradient of input i that already exists and may be added to in place (contiguous, exclusively ours), or NULL.  A rule
     * that can accumulate does so and sets dx[i] = into[i]; any other rule ignores this. */
    cb_tensor *const *into;
} cb_backward_pass;

/* Records `op` if a gradient is wanted of any input (inputs may contain NULLs).  Saved tensors may be inputs, outputs or temporaries; an
 * operation must not save what its rule does not read.  args are copied. */
bool cb_record(const cb_op *op, int outputs, cb_tensor *const *output, int inputs, cb_tensor *const *input, int saved,
               cb_tensor *const *save, const void *args, size_t args_size);
/* True when cb_record() would record: lets an op skip work that only the backward pass needs. */
bool cb_will_record(int inputs, cb_tensor *const *input);
/* Whether t, as it is now, is what its op can make again: saving it keeps no memory. */
bool cb_can_be_remade(const cb_tensor *t);
/* True in the second run of a checkpoint's function: what an operation leaves beside its result, the first run has left. */
bool cb_runs_again(void);
/* The common case of one output. */
#define CB_RECORD(op, y, ins, saves, args_pointer, args_size)                                                                              \
    cb_record(op, 1, (cb_tensor *[]){y}, (int)(sizeof(ins) / sizeof(cb_tensor *)), ins, (int)(sizeof(saves) / sizeof(cb_tensor *)), saves, \
              args_pointer, args_size)

/* Records an op of one output and one input that saves nothing; y, or NULL on failure. */
static inline cb_tensor *cb_recorded(const cb_op *op, cb_tensor *y, cb_tensor *x, const void *args, size_t args_size)
{
    return y && cb_record(op, 1, &y, 1, &x, 0, NULL, args, args_size) ? y : NULL;
}

/* A tensor on memory of a map (core/io.h) of which it becomes a holder: as any other, it may be written to, which the file does not see. */
struct cb_held_map;
cb_tensor *cb_wrap_held(cb_dtype dtype, void *data, int ndim, const int64_t *shape, struct cb_held_map *map);
/* A view of x's storage with its own shape and strides (offset in elements from x->data). Not recorded. */
cb_tensor *cb_view(cb_tensor *x, int ndim, const int64_t *shape, const int64_t *stride, int64_t offset);

/* Closes the innermost scope, opens another in its place and gives t to that, with everything else of the old one gone that the tape does not
 * keep; NULL, which t may be, without. */
cb_tensor *cb_scope_renew(cb_scope **scope, cb_tensor *t);

/* Nobody writes to t's memory from here on, as where it is mapped read-only: what is made of it may be kept. */
void cb_freeze(cb_tensor *t);
/* What is wanted of t has been copied: pages of a file that it lies in need not stay in memory. */
void cb_let_go_of_file(const cb_tensor *t);

/* Normalises a dimension: -ndim..ndim-1 -> 0..ndim-1; otherwise fails, naming `op`, and gives -1. */
int cb_dim(const char *op, const cb_tensor *x, int dim);
/* NumPy broadcast of two shapes into shape[]; fails naming `op` and both shapes. */
bool cb_broadcast_shape(const char *op, const cb_tensor *a, const cb_tensor *b, int *ndim, int64_t *shape);
/* Checks that an op may write into x's memory (not mapped read-only) and notes the change, so that a tape which saved the old values
 * reports it.  `op` is for the message. */
bool cb_will_write(const char *op, cb_tensor *x);
/* True when x's memory belongs to x alone and nobody saved it: an op may reuse it for its result. */
bool cb_can_overwrite(const cb_tensor *x);
/* A tensor on x's memory without x's history: what an op records that writes into an input (cb_linear_add) or leaves the values alone. */
cb_tensor *cb_alias(cb_tensor *x);

/* The linear recurrence y_t = a_t y_(t-1) + b_t along `dim`, y_(-1) = 0, or from the end, y_t = a_t y_(t+1) + b_t, when `reverse`; a and b of
 * one shape, both f32 or both f64.  What the gradients of running products are made of. */
cb_tensor *cb_linear_scan(cb_tensor *a, cb_tensor *b, int dim, bool reverse);

/* Orders of memory (tensor.h, "Channels-last").  A tensor of x's shape in x's order: channels-last where x is, else row-major. */
cb_tensor *cb_empty_ordered(cb_dtype dtype, const cb_tensor *x);
/* A tensor of this shape (N, C, ...) in channels-last order. */
cb_tensor *cb_empty_channels_last(cb_dtype dtype, int ndim, const int64_t *shape);
bool cb_is_channels_last(const cb_tensor *x); /* and not row-major as well */
/* x itself when it is row-major or channels-last, else a row-major copy, recorded. */
cb_tensor *cb_dense(cb_tensor *x);
/* x in the order of `like`, a dense tensor of its shape: x itself or a copy, recorded. */
cb_tensor *cb_ordered_as(cb_tensor *x, const cb_tensor *like);

/* How many windows fit along one dimension, into *out; false with an error of `op`. */
bool cb_place_windows(const char *op, int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int64_t *out);

/* Every op of the library, for tests and tools. */
extern const cb_op *const cb_op_table[];
extern const size_t cb_op_table_count;

#endif
