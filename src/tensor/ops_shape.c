/* ops_shape.c: the same values in another arrangement: views, copies and casts.
 *
 * A view is a header on the storage of its input and costs no copy, so neither does its gradient: the gradient of a view is a view of
 * the gradient wherever strides can say so.  Views share the storage's version with what they look at; a write through one is seen by
 * a tape that saved the other.  No rule here reads a value, so none saves a tensor.  Every rule is made of public operations. */
#include "kernels/kernels.h"
#include "tensor/internal.h"

static cb_tensor *shape_error(const char *op, const cb_tensor *x, int ndim, const int64_t *shape)
{
    cb_fail(CB_ERR_SHAPE, "%s: %s does not fit %s", op, cb_shape_text(x), cb_shape_text_nd(ndim, shape));
    return NULL;
}

/* ---- reshape ---- */

/* Strides with which `shape` walks x's elements in x's order; false when none do (torch's computeStride).  x's dimensions fall into
 * chunks that lie evenly in memory; each chunk must be made up by whole dimensions of `shape`. */
static bool view_strides(const cb_tensor *x, int ndim, const int64_t *shape, int64_t *stride)
{
    int v = ndim - 1;
    int64_t base = x->ndim ? x->stride[x->ndim - 1] : 1, chunk = 1, covered = 1;
    for (int d = x->ndim - 1; d >= 0; d--) {
        chunk *= x->shape[d];
        if (d > 0 && (x->shape[d - 1] == 1 || x->stride[d - 1] == chunk * base))
            continue;
        for (; v >= 0 && (covered < chunk || shape[v] == 1); v--) {
            stride[v] = covered * base;
            covered *= shape[v];
        }
        if (covered != chunk)
            return false;
        base = d > 0 ? x->stride[d - 1] : 1;
        chunk = covered = 1;
    }
    for (; v >= 0; v--) /* x is a scalar */
        stride[v] = 1;
    return true;
}

/* Row-major strides of a shape whose count is known not to overflow. */
static void dense_strides(int ndim, const int64_t *shape, int64_t *stride)
{
    int64_t step = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        stride[i] = step;
        step *= shape[i] ? shape[i] : 1;
    }
}

/* Copies shape[] to full[] with its -1 replaced; false when x's elements do not fill it, or fill it in more than one way. */
static bool complete_shape(const cb_tensor *x, int ndim, const int64_t *shape, int64_t *full)
{
    if (ndim < 0 || ndim > CB_MAX_DIMS)
        return false;
    int unknown = -1;
    int64_t known = 1;
    for (int i = 0; i < ndim; i++) {
        full[i] = shape[i];
        if (shape[i] == -1 && unknown < 0)
            unknown = i;
        else if (shape[i] < 0 || __builtin_mul_overflow(known, shape[i], &known))
            return false;
    }
    if (unknown < 0)
        return known == x->count;
    if (known == 0 || x->count % known)
        return false;
    full[unknown] = x->count / known;
    return true;
}

static void reshape_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_reshape_nd(pass->dy[0], pass->input[0].ndim, pass->input[0].shape);
}

const cb_op cb_op_reshape = {.name = "reshape", .twice = true, .backward = reshape_backward};

cb_tensor *cb_reshape_nd(cb_tensor *x, int ndim, const int64_t *shape)
{
    if (!x)
        return NULL;
    int64_t full[CB_MAX_DIMS], stride[CB_MAX_DIMS];
    if (!complete_shape(x, ndim, shape, full))
        return shape_error("reshape", x, ndim, shape);
    if (x->count == 0)
        dense_strides(ndim, full, stride);
    if (x->count == 0 || view_strides(x, ndim, full, stride))
        return cb_recorded(&cb_op_reshape, cb_view(x, ndim, full, stride, 0), x, NULL, 0);
    cb_tensor *y = cb_empty_nd(x->dtype, ndim, full);
    if (!y)
        return NULL;
    dense_strides(x->ndim, x->shape, stride);
    cbk_copy(y->data, y->dtype, stride, x->data, x->dtype, x->stride, x->ndim, x->shape);
    return cb_recorded(&cb_op_reshape, y, x, NULL, 0);
}

cb_tensor *cb_squeeze(cb_tensor *x, int dim)
{
    int d = x ? cb_dim("squeeze", x, dim) : -1;
    if (d < 0)
        return NULL;
    if (x->shape[d] != 1) {
        cb_fail(CB_ERR_SHAPE, "squeeze: dimension %d of %s, expected one of size 1", dim, cb_shape_text(x));
        return NULL;
    }
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0, to = 0; i < x->ndim; i++)
        if (i != d)
            shape[to++] = x->shape[i];
    return cb_reshape_nd(x, x->ndim - 1, shape);
}

cb_tensor *cb_unsqueeze(cb_tensor *x, int dim)
{
    if (!x)
        return NULL;
    int d = dim < 0 ? dim + x->ndim + 1 : dim;
    if (d < 0 || d > x->ndim || x->ndim == CB_MAX_DIMS) {
        cb_fail(CB_ERR_SHAPE, "unsqueeze: %s has no place for a new dimension %d", cb_shape_text(x), dim);
        return NULL;
    }
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0; i <= x->ndim; i++)
        shape[i] = i == d ? 1 : x->shape[i < d ? i : i - 1];
    return cb_reshape_nd(x, x->ndim + 1, shape);
}

/* ---- expand, repeat ---- */

static void expand_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_sum_to_nd(pass->dy[0], pass->input[0].ndim, pass->input[0].shape);
}

const cb_op cb_op_expand = {.name = "expand", .twice = true, .backward = expand_backward};

cb_tensor *cb_expand_nd(cb_tensor *x, int ndim, const int64_t *shape)
{
    if (!x)
        return NULL;
    int added = ndim - x->ndim;
    bool fits = added >= 0 && ndim <= CB_MAX_DIMS;
    int64_t full[CB_MAX_DIMS], stride[CB_MAX_DIMS];
    for (int i = 0; fits && i < ndim; i++) {
        int64_t old = i >= added ? x->shape[i - added] : 1;
        full[i] = shape[i] == -1 && i >= added ? old : shape[i];
        stride[i] = i >= added && full[i] == old ? x->stride[i - added] : 0;
        fits = full[i] >= 0 && (full[i] == old || old == 1);
    }
    if (!fits)
        return shape_error("expand", x, ndim, shape);
    return cb_recorded(&cb_op_expand, cb_view(x, ndim, full, stride, 0), x, NULL, 0);
}

/* Repeats one dimension of x, seen as (outer, size, inner): (outer, 1, size, inner) expanded to (outer, times, size, inner). */
static cb_tensor *repeat_dimension(cb_tensor *x, int d, int64_t times)
{
    int64_t outer = 1, inner = 1, shape[CB_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++) {
        shape[i] = x->shape[i];
        outer *= i < d ? shape[i] : 1;
        inner *= i > d ? shape[i] : 1;
    }
    if (times < 0 || __builtin_mul_overflow(x->shape[d], times, &shape[d])) {
        cb_fail(CB_ERR_SHAPE, "repeat: %s %lld times", cb_shape_text(x), (long long)times);
        return NULL;
    }
    cb_tensor *tiled = cb_expand(cb_reshape(x, outer, 1, x->shape[d], inner), outer, times, x->shape[d], inner);
    return cb_reshape_nd(tiled, x->ndim, shape);
}

cb_tensor *cb_repeat_nd(cb_tensor *x, int ndim, const int64_t *times)
{
    if (!x)
        return NULL;
    if (ndim < x->ndim || ndim > CB_MAX_DIMS)
        return shape_error("repeat", x, ndim, times);
    int64_t shape[CB_MAX_DIMS];
    int added = ndim - x->ndim;
    for (int i = 0; i < ndim; i++)
        shape[i] = i < added ? 1 : x->shape[i - added];
    x = cb_reshape_nd(x, ndim, shape);
    for (int d = ndim - 1; x && d >= 0; d--)
        if (times[d] != 1)
            x = repeat_dimension(x, d, times[d]);
    return x;
}

/* ---- permute ---- */

static void permute_backward(cb_backward_pass *pass)
{
    const int *dims = pass->args;
    int back[CB_MAX_DIMS], ndim = pass->input[0].ndim;
    for (int i = 0; i < ndim; i++)
        back[dims[i]] = i;
    pass->dx[0] = cb_permute_nd(pass->dy[0], ndim, back);
}

const cb_op cb_op_permute = {.name = "permute", .twice = true, .backward = permute_backward};

/* dims: a permutation of 0..ndim-1 */
static cb_tensor *permuted(cb_tensor *x, const int *dims)
{
    int64_t shape[CB_MAX_DIMS], stride[CB_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++) {
        shape[i] = x->shape[dims[i]];
        stride[i] = x->stride[dims[i]];
    }
    return cb_recorded(&cb_op_permute, cb_view(x, x->ndim, shape, stride, 0), x, dims, (size_t)x->ndim * sizeof *dims);
}

cb_tensor *cb_permute_nd(cb_tensor *x, int ndim, const int *dims)
{
    if (!x)
        return NULL;
    int order[CB_MAX_DIMS];
    unsigned seen = 0;
    bool fits = ndim == x->ndim;
    for (int i = 0; fits && i < ndim; i++) {
        order[i] = dims[i] < 0 ? dims[i] + ndim : dims[i];
        fits = order[i] >= 0 && order[i] < ndim && !(seen & 1u << order[i]);
        if (fits)
            seen |= 1u << order[i];
    }
    if (!fits) {
        cb_fail(CB_ERR_SHAPE, "permute: %s with %d dimensions, expected each of its own once", cb_shape_text(x), ndim);
        return NULL;
    }
    return permuted(x, order);
}

cb_tensor *cb_transpose(cb_tensor *x, int dim0, int dim1)
{
    int a = x ? cb_dim("transpose", x, dim0) : -1, b = a >= 0 ? cb_dim("transpose", x, dim1) : -1;
    if (b < 0)
        return NULL;
    int order[CB_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++)
        order[i] = i == a ? b : i == b ? a : i;
    return permuted(x, order);
}

/* ---- contiguous, channels_last, cast ---- */

/* y, filled with x's elements */
static cb_tensor *copied(cb_tensor *y, cb_tensor *x)
{
    if (y)
        cbk_copy(y->data, y->dtype, y->stride, x->data, x->dtype, x->stride, x->ndim, x->shape);
    return y;
}

static void contiguous_backward(cb_backward_pass *pass)
{
    pass->dx[0] = pass->dy[0];
}

const cb_op cb_op_contiguous = {.name = "contiguous", .twice = true, .backward = contiguous_backward};

cb_tensor *cb_contiguous(cb_tensor *x)
{
    if (!x || cb_is_contiguous(x))
        return x;
    return cb_recorded(&cb_op_contiguous, copied(cb_empty_like(x), x), x, NULL, 0);
}

const cb_op cb_op_channels_last = {.name = "channels_last", .twice = true, .backward = contiguous_backward};

cb_tensor *cb_channels_last(cb_tensor *x)
{
    if (!x)
        return NULL;
    if (x->ndim < 3) {
        cb_fail(CB_ERR_SHAPE, "channels_last: %s, expected (N, C, ...)", cb_shape_text(x));
        return NULL;
    }
    if (cb_is_channels_last(x) || (x->shape[1] == 1 && cb_is_contiguous(x)))
        return x;
    cb_tensor *y = cb_empty_channels_last(x->dtype, x->ndim, x->shape);
    return cb_recorded(&cb_op_channels_last, copied(y, x), x, NULL, 0);
}

static void cast_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_cast(pass->dy[0], pass->input[0].dtype);
}

const cb_op cb_op_cast = {.name = "cast", .twice = true, .backward = cast_backward};

cb_tensor *cb_cast(cb_tensor *x, cb_dtype dtype)
{
    if (!x || x->dtype == dtype)
        return x;
    if (!cb_dtype_size(dtype)) {
        cb_fail(CB_ERR_ARGUMENT, "cast: to %s, expected a plain dtype", cb_dtype_name(dtype));
        return NULL;
    }
    cb_tensor *y = copied(cb_empty_ordered(dtype, x), x);
    return cb_dtype_is_float(dtype) ? cb_recorded(&cb_op_cast, y, x, NULL, 0) : y;
}
