/* ops_reduce.c: reductions over one dimension or all of them.
 *
 * The kernels accumulate in f32 or wider and round once; what takes several steps
 * (variance, logsumexp) is computed in f32 for half types.  Rules are made of public operations, so they can be
 * differentiated again, and divide by no element: products are right where factors are zero. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/span.h"

static bool need_float(const char *op, const cb_tensor *x)
{
    if (cb_dtype_is_float(x->dtype))
        return true;
    return cb_fail(CB_ERR_SHAPE, "%s: %s, expected a floating-point array", op, cb_shape_text(x)) == CB_OK;
}

/* ---- one reduction ---- */

bool cb_span_of(const char *op, const cb_tensor *x, int dim, cb_span *s)
{
    *s = (cb_span){.dim = dim, .outer = 1, .reduce = x->count, .inner = 1};
    if (dim == CB_ALL)
        return true;
    s->dim = cb_dim(op, x, dim);
    if (s->dim < 0)
        return false;
    s->reduce = x->shape[s->dim];
    for (int i = 0; i < s->dim; i++)
        s->outer *= x->shape[i];
    for (int i = s->dim + 1; i < x->ndim; i++)
        s->inner *= x->shape[i];
    return true;
}

/* The shape of a result; returns its dimensions. */
static int reduced_shape(int ndim, const int64_t *shape, int dim, bool keep, int64_t *out)
{
    int n = 0;
    for (int i = 0; i < ndim; i++) {
        bool gone = dim == CB_ALL || dim == i;
        if (!gone || keep)
            out[n++] = gone ? 1 : shape[i];
    }
    return n;
}

/* x is contiguous; the result is not recorded yet. */
static cb_tensor *reduce(const char *op, cbk_reduce_op kernel, const cb_tensor *x, const cb_span *s, bool keep)
{
    if (x->dtype > CB_I64 || (kernel == CBK_MEAN && !cb_dtype_is_float(x->dtype))) {
        cb_fail(CB_ERR_SHAPE, "%s: %s, expected %s", op, cb_shape_text(x), kernel == CBK_MEAN ? "a floating-point array" : "numbers");
        return NULL;
    }
    int64_t shape[CB_MAX_DIMS];
    int ndim = reduced_shape(x->ndim, x->shape, s->dim, keep, shape);
    cb_tensor *y = cb_empty_nd(kernel >= CBK_ARGMAX ? CB_I64 : x->dtype, ndim, shape);
    return y && cbk_reduce(kernel, y->data, y->dtype, x->data, x->dtype, s->outer, s->reduce, s->inner) ? y : NULL;
}

/* There is no largest of no elements. */
static bool need_elements(const char *op, const cb_tensor *x, const cb_span *s)
{
    if (s->reduce > 0)
        return true;
    return cb_fail(CB_ERR_SHAPE, "%s: %s has nothing to choose from", op, cb_shape_text(x)) == CB_OK;
}

/* A gradient or a result with the reduced dimensions back in place, of size one. */
static cb_tensor *kept(cb_tensor *t, const cb_edge *input, int dim)
{
    int64_t shape[CB_MAX_DIMS];
    int ndim = reduced_shape(input->ndim, input->shape, dim, true, shape);
    return cb_reshape_nd(t, ndim, shape);
}

static int64_t reduced_count(const cb_edge *input, int dim)
{
    if (dim != CB_ALL)
        return input->shape[dim];
    int64_t count = 1;
    for (int i = 0; i < input->ndim; i++)
        count *= input->shape[i];
    return count;
}

/* ---- sum, mean ---- */

static void sum_backward(cb_backward_pass *pass)
{
    const cb_edge *input = &pass->input[0];
    pass->dx[0] = cb_expand_nd(kept(pass->dy[0], input, *(const int *)pass->args), input->ndim, input->shape);
}

static void mean_backward(cb_backward_pass *pass)
{
    const cb_edge *input = &pass->input[0];
    int dim = *(const int *)pass->args;
    cb_tensor *share = cb_scale(pass->dy[0], 1 / (double)reduced_count(input, dim));
    pass->dx[0] = cb_expand_nd(kept(share, input, dim), input->ndim, input->shape);
}

const cb_op cb_op_sum = {.name = "sum", .twice = true, .backward = sum_backward};
const cb_op cb_op_mean = {.name = "mean", .twice = true, .backward = mean_backward};

static cb_tensor *total(const cb_op *op, cbk_reduce_op kernel, cb_tensor *x, int dim, bool keep)
{
    cb_span s;
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !cb_span_of(op->name, x, dim, &s))
        return NULL;
    cb_tensor *y = reduce(op->name, kernel, x, &s, keep), *ins[] = {x};
    return y && cb_record(op, 1, &y, 1, ins, 0, NULL, &s.dim, sizeof s.dim) ? y : NULL;
}

cb_tensor *cb_sum(cb_tensor *x, int dim, bool keep)
{
    return total(&cb_op_sum, CBK_SUM, x, dim, keep);
}

cb_tensor *cb_mean(cb_tensor *x, int dim, bool keep)
{
    return total(&cb_op_mean, CBK_MEAN, x, dim, keep);
}

/* ---- max, min, argmax, argmin ---- */

static void extreme_backward(cb_backward_pass *pass)
{
    int dim = *(const int *)pass->args;
    cb_tensor *x = pass->saved[0], *y = kept(pass->saved[1], &pass->input[0], dim), *dy = kept(pass->dy[0], &pass->input[0], dim);
    cb_tensor *chosen = y ? cb_cast(cb_eq(x, y), y->dtype) : NULL;
    pass->dx[0] = cb_mul(chosen, cb_div(dy, cb_sum(chosen, dim, true)));
}

const cb_op cb_op_max = {.name = "max", .twice = true, .backward = extreme_backward};
const cb_op cb_op_min = {.name = "min", .twice = true, .backward = extreme_backward};

static cb_tensor *extreme(const cb_op *op, cbk_reduce_op kernel, cb_tensor *x, int dim, bool keep)
{
    cb_span s;
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !cb_span_of(op->name, x, dim, &s) || !need_elements(op->name, x, &s))
        return NULL;
    cb_tensor *y = reduce(op->name, kernel, x, &s, keep), *ins[] = {x}, *saves[] = {x, y};
    return y && CB_RECORD(op, y, ins, saves, &s.dim, sizeof s.dim) ? y : NULL;
}

cb_tensor *cb_max(cb_tensor *x, int dim, bool keep)
{
    return extreme(&cb_op_max, CBK_MAX, x, dim, keep);
}

cb_tensor *cb_min(cb_tensor *x, int dim, bool keep)
{
    return extreme(&cb_op_min, CBK_MIN, x, dim, keep);
}

static cb_tensor *index_of_extreme(const char *op, cbk_reduce_op kernel, cb_tensor *x, int dim, bool keep)
{
    cb_span s;
    x = x ? cb_contiguous(cb_detach(x)) : NULL;
    if (!x || !cb_span_of(op, x, dim, &s) || !need_elements(op, x, &s))
        return NULL;
    return reduce(op, kernel, x, &s, keep);
}

cb_tensor *cb_argmax(cb_tensor *x, int dim, bool keep)
{
    return index_of_extreme("argmax", CBK_ARGMAX, x, dim, keep);
}

cb_tensor *cb_argmin(cb_tensor *x, int dim, bool keep)
{
    return index_of_extreme("argmin", CBK_ARGMIN, x, dim, keep);
}

/* ---- products ---- */

cb_tensor *cb_neighbour(cb_tensor *t, int dim, bool later, double fill)
{
    if (!t)
        return NULL;
    int64_t n = t->shape[dim];
    return later ? cb_pad(cb_slice(t, dim, 1, n, 1), dim, 0, 1, fill) : cb_pad(cb_slice(t, dim, 0, n - 1, 1), dim, 1, 0, fill);
}

/* dx_i = dy times the product of the others, which is that of those before i and that of those after */
static void prod_backward(cb_backward_pass *pass)
{
    const cb_edge *input = &pass->input[0];
    int dim = *(const int *)pass->args;
    cb_tensor *x = pass->saved[0], *dy = kept(pass->dy[0], input, dim);
    if (reduced_count(input, dim) == 0) {
        pass->dx[0] = cb_zeros_like(x);
        return;
    }
    int along = dim == CB_ALL ? 0 : dim;
    x = dim == CB_ALL ? cb_reshape(x, x->count) : x;
    cb_tensor *before = cb_neighbour(cb_cumprod(x, along), along, false, 1);
    cb_tensor *after = cb_flip(cb_neighbour(cb_cumprod(cb_flip(x, along), along), along, false, 1), along);
    pass->dx[0] = cb_mul(cb_reshape_nd(cb_mul(before, after), input->ndim, input->shape), dy);
}

const cb_op cb_op_prod = {.name = "prod", .twice = true, .backward = prod_backward};

cb_tensor *cb_prod(cb_tensor *x, int dim, bool keep)
{
    cb_span s;
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !cb_span_of("prod", x, dim, &s))
        return NULL;
    cb_tensor *y = reduce("prod", CBK_PROD, x, &s, keep), *ins[] = {x}, *saves[] = {x};
    return y && CB_RECORD(&cb_op_prod, y, ins, saves, &s.dim, sizeof s.dim) ? y : NULL;
}

/* ---- logsumexp, var ---- */

/* t, but 0 where it is infinite: inf - inf would be NaN. */
static cb_tensor *finite_part(cb_tensor *t)
{
    if (!t)
        return NULL;
    cb_tensor *infinite = cb_eq(cb_abs(t), cb_scalar(t->dtype, INFINITY));
    return cb_where(infinite, cb_scalar(t->dtype, 0), t);
}

/* dx = dy exp(x - y), the softmax; where all are -inf it is 0 */
static void logsumexp_backward(cb_backward_pass *pass)
{
    const cb_edge *input = &pass->input[0];
    int dim = *(const int *)pass->args;
    cb_tensor *y = kept(pass->saved[1], input, dim), *lowest = y ? cb_scalar(y->dtype, -INFINITY) : NULL;
    cb_tensor *shift = cb_where(cb_eq(y, lowest), y ? cb_scalar(y->dtype, 0) : NULL, y);
    pass->dx[0] = cb_mul(kept(pass->dy[0], input, dim), cb_exp(cb_sub(pass->saved[0], shift)));
}

const cb_op cb_op_logsumexp = {.name = "logsumexp", .twice = true, .backward = logsumexp_backward};

/* log(sum(exp(x - m))) + m with the maximum m, so that nothing overflows; not recorded. */
static cb_tensor *logsumexp_run(cb_tensor *x, const cb_span *s, bool keep)
{
    cb_tensor *largest = reduce("logsumexp", CBK_MAX, x, s, true), *shift = finite_part(largest), *sum = NULL, *y = NULL;
    if (shift)
        sum = cb_sum(cb_exp(cb_sub(x, shift)), s->dim, true);
    if (sum)
        y = cb_add(cb_log(sum), shift);
    int64_t shape[CB_MAX_DIMS];
    int ndim = reduced_shape(x->ndim, x->shape, s->dim, keep, shape);
    return cb_reshape_nd(y, ndim, shape);
}

cb_tensor *cb_logsumexp(cb_tensor *x, int dim, bool keep)
{
    cb_span s;
    if (!x || !need_float("logsumexp", x))
        return NULL;
    if (cb_dtype_is_half(x->dtype))
        return cb_cast(cb_logsumexp(cb_cast(x, CB_F32), dim, keep), x->dtype);
    x = cb_contiguous(x);
    if (!x || !cb_span_of("logsumexp", x, dim, &s))
        return NULL;
    cb_tensor *y = NULL;
    cb_no_grad
    {
        y = logsumexp_run(x, &s, keep);
    }
    cb_tensor *ins[] = {x}, *saves[] = {x, y};
    return y && CB_RECORD(&cb_op_logsumexp, y, ins, saves, &s.dim, sizeof s.dim) ? y : NULL;
}

typedef struct var_args {
    int dim;
    double factor; /* 1 / (n - correction); infinite when nothing is left to divide by, as the variance then is NaN */
} var_args;

static cb_tensor *centered(cb_tensor *x, int dim)
{
    return cb_sub(x, cb_mean(x, dim, true));
}

/* dx = 2 dy (x - mean) / (n - correction) */
static void var_backward(cb_backward_pass *pass)
{
    const var_args *a = pass->args;
    cb_tensor *dy = cb_scale(kept(pass->dy[0], &pass->input[0], a->dim), 2 * a->factor);
    pass->dx[0] = cb_mul(dy, centered(pass->saved[0], a->dim));
}

const cb_op cb_op_var = {.name = "var", .twice = true, .backward = var_backward};

cb_tensor *cb_var(cb_tensor *x, int dim, bool keep, int correction)
{
    cb_span s;
    if (!x || !need_float("var", x))
        return NULL;
    if (cb_dtype_is_half(x->dtype))
        return cb_cast(cb_var(cb_cast(x, CB_F32), dim, keep, correction), x->dtype);
    x = cb_contiguous(x);
    if (!x || !cb_span_of("var", x, dim, &s))
        return NULL;
    int64_t divisor = s.reduce - correction;
    var_args a = {.dim = s.dim, .factor = divisor > 0 ? 1 / (double)divisor : INFINITY};
    cb_tensor *y = NULL;
    cb_no_grad
    {
        y = cb_scale(cb_sum(cb_square(centered(x, s.dim)), s.dim, keep), a.factor);
    }
    cb_tensor *ins[] = {x}, *saves[] = {x};
    return y && CB_RECORD(&cb_op_var, y, ins, saves, &a, sizeof a) ? y : NULL;
}

/* ---- sum_to ---- */

static void sum_to_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_expand_nd(pass->dy[0], pass->input[0].ndim, pass->input[0].shape);
}

const cb_op cb_op_sum_to = {.name = "sum_to", .twice = true, .backward = sum_to_backward};

/* Which dimensions of x are to be summed; false when the shape does not broadcast to x's. */
static bool repeated_dimensions(const cb_tensor *x, int ndim, const int64_t *shape, bool *repeated)
{
    int lead = x->ndim - ndim;
    for (int i = 0; i < x->ndim && lead >= 0; i++) {
        repeated[i] = i < lead || shape[i - lead] != x->shape[i];
        if (i >= lead && repeated[i] && shape[i - lead] != 1)
            return false;
    }
    return lead >= 0;
}

/* Sums runs of repeated dimensions, the last run first, each as one (outer, reduce, inner); sums stay in `dtype` between them. */
static const cb_tensor *sum_runs(const cb_tensor *x, const bool *repeated, cb_dtype dtype)
{
    int64_t inner = 1;
    for (int last = x->ndim - 1, first; last >= 0; last = first - 1) {
        for (first = last; first > 0 && repeated[first - 1] == repeated[last]; first--)
            ;
        int64_t run = 1, outer = 1;
        for (int i = first; i <= last; i++)
            run *= x->shape[i];
        if (!repeated[last]) {
            inner *= run;
            continue;
        }
        for (int i = 0; i < first; i++)
            outer *= x->shape[i];
        int64_t shape[CB_MAX_DIMS];
        memcpy(shape, x->shape, sizeof shape);
        for (int i = first; i <= last; i++)
            shape[i] = 1;
        cb_tensor *y = cb_empty_nd(dtype, x->ndim, shape);
        if (!y || !cbk_reduce(CBK_SUM, y->data, dtype, x->data, x->dtype, outer, run, inner))
            return NULL;
        x = y;
    }
    return x;
}

cb_tensor *cb_sum_to_nd(cb_tensor *x, int ndim, const int64_t *shape)
{
    bool repeated[CB_MAX_DIMS] = {0}, any = false;
    if (!x)
        return NULL;
    if (!repeated_dimensions(x, ndim, shape, repeated)) {
        cb_fail(CB_ERR_SHAPE, "sum_to: %s was not broadcast from the shape asked for (%d dimensions)", cb_shape_text(x), ndim);
        return NULL;
    }
    for (int i = 0; i < x->ndim; i++)
        any = any || repeated[i];
    if (!any)
        return x;
    x = cb_contiguous(x);
    const cb_tensor *sum = x ? sum_runs(x, repeated, cb_dtype_is_half(x->dtype) ? CB_F32 : x->dtype) : NULL;
    cb_tensor *y = sum ? cb_empty_nd(x->dtype, ndim, shape) : NULL;
    if (!y)
        return NULL;
    cbk_convert(sum->data, sum->dtype, y->data, y->dtype, y->count);
    cb_tensor *ins[] = {x};
    return cb_record(&cb_op_sum_to, 1, &y, 1, ins, 0, NULL, NULL, 0) ? y : NULL;
}
