/* ops_random.c: random arrays and dropout.
 *
 * Draws are counter-based (core.h): an op takes the generator's state, uses up as many counters as its elements need and leaves the
 * generator behind them.  Dropout keeps no mask: its rule draws the same one again from the state it started at. */
#include "kernels/kernels.h"
#include "tensor/op.h"

typedef uint64_t draw_function(cb_dtype dtype, void *out, int64_t count, uint64_t seed, uint64_t stream, uint64_t counter);

static cb_tensor *draw(const char *op, draw_function *function, cb_dtype dtype, cb_rng *rng, int ndim, const int64_t *shape)
{
    if (!rng || !cb_dtype_is_float(dtype)) {
        cb_fail(CB_ERR_ARGUMENT, "%s: dtype %s and %s generator, expected a floating-point type and a generator", op, cb_dtype_name(dtype),
                rng ? "a" : "no");
        return NULL;
    }
    cb_tensor *y = cb_empty_nd(dtype, ndim, shape);
    if (y)
        rng->counter += function(dtype, y->data, y->count, rng->seed, rng->stream, rng->counter);
    return y;
}

cb_tensor *cb_rand_nd(cb_dtype dtype, cb_rng *rng, int ndim, const int64_t *shape)
{
    return draw("rand", cbk_uniform, dtype, rng, ndim, shape);
}

cb_tensor *cb_randn_nd(cb_dtype dtype, cb_rng *rng, int ndim, const int64_t *shape)
{
    return draw("randn", cbk_normal, dtype, rng, ndim, shape);
}

/* ---- dropout: Srivastava et al. 2014 ---- */

typedef struct dropout_args {
    double p;
    cb_rng start;
} dropout_args;

/* Linear in x, so its rule is the op itself with the same draws. */
static cb_tensor *dropout_run(cb_tensor *x, const dropout_args *a, bool overwrite, uint64_t *used);

static void dropout_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = cb_contiguous(pass->dy[0]);
    uint64_t used;
    if (dy)
        pass->dx[0] = dropout_run(dy, pass->args, !cb_grad_enabled() && cb_can_overwrite(dy), &used);
}

const cb_op cb_op_dropout = {.name = "dropout", .twice = true, .backward = dropout_backward};

static cb_tensor *dropout_run(cb_tensor *x, const dropout_args *a, bool overwrite, uint64_t *used)
{
    if (overwrite && !cb_will_write("dropout", x))
        return NULL;
    cb_tensor *y = overwrite ? x : cb_empty_like(x);
    if (!y)
        return NULL;
    *used = cbk_dropout(x->dtype, y->data, x->data, NULL, x->count, a->p, a->start.seed, a->start.stream, a->start.counter);
    cb_tensor *ins[] = {x};
    return cb_record(&cb_op_dropout, 1, &y, 1, ins, 0, NULL, a, sizeof *a) ? y : NULL;
}

cb_tensor *cb_dropout(cb_tensor *x, double p, cb_rng *rng)
{
    if (!x)
        return NULL;
    if (!(p >= 0 && p <= 1)) {
        cb_fail(CB_ERR_ARGUMENT, "dropout: probability %g, expected 0 to 1", p);
        return NULL;
    }
    if (p == 0)
        return x;
    if (!rng || !cb_dtype_is_float(x->dtype)) {
        cb_fail(CB_ERR_ARGUMENT, "dropout: %s and %s generator, expected a floating-point array and a generator", cb_shape_text(x),
                rng ? "a" : "no");
        return NULL;
    }
    x = cb_contiguous(x);
    uint64_t used = 0;
    cb_tensor *y = x ? dropout_run(x, &(dropout_args){.p = p, .start = *rng}, false, &used) : NULL;
    rng->counter += used;
    return y;
}
