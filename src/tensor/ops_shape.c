/* ops_shape.c: the same values in another arrangement: views, joins, copies and casts.
 *
 * A view is a header on the storage of its input and costs no copy, so neither does its gradient: the gradient of a view is a view of
 * the gradient wherever strides can say so.  Views share the storage's version with what they look at; a write through one is seen by
 * a tape that saved the other.  No rule here reads a value, so none saves a tensor.  Every rule is made of public operations. */
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/internal.h"

static cb_tensor *recorded(const cb_op *op, cb_tensor *y, cb_tensor *x, const void *args, size_t args_size)
{
    return y && cb_record(op, 1, &y, 1, &x, 0, NULL, args, args_size) ? y : NULL;
}

static cb_tensor *shape_error(const char *op, const cb_tensor *x, int ndim, const int64_t *shape)
{
    cb_fail(CB_ERR_SHAPE, "%s: %s does not fit %s", op, cb_shape_text(x), cb_shape_text_nd(ndim, shape));
    return NULL;
}

/* Where element i of dimension `dim` begins. */
static void *element(const cb_tensor *x, int dim, int64_t i)
{
    return (char *)x->data + i * x->stride[dim] * (int64_t)cb_dtype_size(x->dtype);
}

/* The elements start.. of dimension `dim` of y become x, which has y's shape in every other dimension. */
static void place(cb_tensor *y, int dim, int64_t start, const cb_tensor *x)
{
    if (x->count)
        cbk_copy(element(y, dim, start), y->dtype, y->stride, x->data, x->dtype, x->stride, x->ndim, x->shape);
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
        return recorded(&cb_op_reshape, cb_view(x, ndim, full, stride, 0), x, NULL, 0);
    cb_tensor *y = cb_empty_nd(x->dtype, ndim, full);
    if (!y)
        return NULL;
    dense_strides(x->ndim, x->shape, stride);
    cbk_copy(y->data, y->dtype, stride, x->data, x->dtype, x->stride, x->ndim, x->shape);
    return recorded(&cb_op_reshape, y, x, NULL, 0);
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
    return recorded(&cb_op_expand, cb_view(x, ndim, full, stride, 0), x, NULL, 0);
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
    return recorded(&cb_op_permute, cb_view(x, x->ndim, shape, stride, 0), x, dims, (size_t)x->ndim * sizeof *dims);
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

/* ---- slice, split, pad ---- */

/* A view of `length` elements of dimension `dim` from `start`, `step` apart; not recorded. */
static cb_tensor *part_of(cb_tensor *x, int dim, int64_t start, int64_t length, int64_t step)
{
    int64_t shape[CB_MAX_DIMS], stride[CB_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    memcpy(stride, x->stride, sizeof stride);
    shape[dim] = length;
    if (length > 1)
        stride[dim] *= step;
    return cb_view(x, x->ndim, shape, stride, length ? start * x->stride[dim] : 0);
}

/* Adds dy to that part of `into`, an existing gradient. */
static bool add_to_part(cb_tensor *into, int dim, int64_t start, int64_t step, const cb_tensor *dy)
{
    cb_tensor *part = part_of(into, dim, start, dy->shape[dim], step);
    return part && cb_accumulate(part, dy);
}

typedef struct slice_args {
    int64_t start, step;
    int dim;
} slice_args;

static void slice_backward(cb_backward_pass *pass)
{
    const slice_args *a = pass->args;
    cb_tensor *dy = pass->dy[0];
    const cb_edge *input = &pass->input[0];
    if (pass->into[0]) {
        pass->dx[0] = add_to_part(pass->into[0], a->dim, a->start, a->step, dy) ? pass->into[0] : NULL;
    } else if (a->step == 1 || dy->shape[a->dim] <= 1) {
        int64_t length = dy->shape[a->dim];
        pass->dx[0] = cb_pad(dy, a->dim, a->start, input->shape[a->dim] - a->start - length, 0);
    } else {
        cb_tensor *at = cb_arange(CB_I64, (double)a->start, (double)a->step, dy->shape[a->dim]);
        pass->dx[0] = cb_index_add(cb_full_nd(input->dtype, 0, input->ndim, input->shape), a->dim, at, dy);
    }
}

const cb_op cb_op_slice = {.name = "slice", .twice = true, .backward = slice_backward};

/* Python's rule for a bound of a slice of n elements. */
static int64_t bound(int64_t i, int64_t n)
{
    if (i < 0)
        i += n;
    return i < 0 ? 0 : i > n ? n : i;
}

cb_tensor *cb_slice(cb_tensor *x, int dim, int64_t start, int64_t stop, int64_t step)
{
    int d = x ? cb_dim("slice", x, dim) : -1;
    if (d < 0)
        return NULL;
    if (step < 1) {
        cb_fail(CB_ERR_ARGUMENT, "slice: a step of %lld, expected at least 1", (long long)step);
        return NULL;
    }
    start = bound(start, x->shape[d]);
    stop = bound(stop, x->shape[d]);
    int64_t length = stop > start ? (stop - start - 1) / step + 1 : 0;
    slice_args a = {.start = start, .step = step, .dim = d};
    return recorded(&cb_op_slice, part_of(x, d, start, length, step), x, &a, sizeof a);
}

/* parts of no gradient count as zeros */
static cb_tensor *joined_gradient(cb_backward_pass *pass, int dim, const int64_t *sizes)
{
    cb_tensor **parts = cb_calloc((size_t)pass->outputs, sizeof *parts);
    bool ok = parts;
    for (int i = 0; ok && i < pass->outputs; i++) {
        int64_t shape[CB_MAX_DIMS];
        memcpy(shape, pass->input[0].shape, sizeof shape);
        shape[dim] = sizes[i];
        parts[i] = pass->dy[i] ? pass->dy[i] : cb_full_nd(pass->input[0].dtype, 0, pass->input[0].ndim, shape);
        ok = parts[i];
    }
    cb_tensor *dx = ok ? cb_cat(pass->outputs, parts, dim) : NULL;
    cb_free(parts);
    return dx;
}

/* args: the dimension, then the sizes */
static void split_backward(cb_backward_pass *pass)
{
    const int64_t *args = pass->args, *sizes = args + 1;
    int dim = (int)args[0];
    if (!pass->into[0]) {
        pass->dx[0] = joined_gradient(pass, dim, sizes);
        return;
    }
    int64_t start = 0;
    for (int i = 0; i < pass->outputs; start += sizes[i++])
        if (pass->dy[i] && !add_to_part(pass->into[0], dim, start, 1, pass->dy[i]))
            return;
    pass->dx[0] = pass->into[0];
}

const cb_op cb_op_split = {.name = "split", .twice = true, .backward = split_backward};

static bool sizes_fill(const cb_tensor *x, int dim, int count, const int64_t *sizes)
{
    int64_t left = x->shape[dim];
    for (int i = 0; i < count; i++) {
        if (sizes[i] < 0 || sizes[i] > left)
            return false;
        left -= sizes[i];
    }
    return left == 0;
}

static bool record_split(cb_tensor *x, int dim, int count, const int64_t *sizes, cb_tensor **parts)
{
    if (!cb_will_record(1, &x))
        return true;
    int64_t few[9], *args = count < 9 ? few : cb_calloc((size_t)count + 1, sizeof *args);
    if (!args)
        return false;
    args[0] = dim;
    memcpy(args + 1, sizes, (size_t)count * sizeof *args);
    bool ok = cb_record(&cb_op_split, count, parts, 1, &x, 0, NULL, args, ((size_t)count + 1) * sizeof *args);
    if (args != few)
        cb_free(args);
    return ok;
}

bool cb_split(cb_tensor *x, int dim, int count, const int64_t *sizes, cb_tensor **parts)
{
    for (int i = 0; i < count; i++)
        parts[i] = NULL;
    int d = x ? cb_dim("split", x, dim) : -1;
    if (d < 0)
        return false;
    if (count < 1 || !sizes_fill(x, d, count, sizes))
        return cb_fail(CB_ERR_SHAPE, "split: %d sizes do not add up to dimension %d of %s", count, dim, cb_shape_text(x)) == CB_OK;
    int64_t start = 0;
    bool ok = true;
    for (int i = 0; ok && i < count; start += sizes[i++]) {
        parts[i] = part_of(x, d, start, sizes[i], 1);
        ok = parts[i];
    }
    if (ok && record_split(x, d, count, sizes, parts))
        return true;
    for (int i = 0; i < count; i++)
        parts[i] = NULL;
    return false;
}

static void pad_backward(cb_backward_pass *pass)
{
    const slice_args *a = pass->args;
    pass->dx[0] = cb_slice(pass->dy[0], a->dim, a->start, a->start + pass->input[0].shape[a->dim], 1);
}

const cb_op cb_op_pad = {.name = "pad", .twice = true, .backward = pad_backward};

/* Sets the elements start..start+length-1 of dimension `dim` of a contiguous y. */
static void fill_part(cb_tensor *y, int dim, int64_t start, int64_t length, double value)
{
    int64_t outer = 1, inner = 1, size = (int64_t)cb_dtype_size(y->dtype);
    for (int i = 0; i < y->ndim; i++) {
        outer *= i < dim ? y->shape[i] : 1;
        inner *= i > dim ? y->shape[i] : 1;
    }
    for (int64_t o = 0; o < outer && length && y->count; o++)
        cbk_fill((char *)y->data + (o * y->shape[dim] + start) * inner * size, y->dtype, value, length * inner);
}

cb_tensor *cb_pad(cb_tensor *x, int dim, int64_t before, int64_t after, double value)
{
    int d = x ? cb_dim("pad", x, dim) : -1;
    if (d < 0)
        return NULL;
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    if (before < 0 || after < 0 || __builtin_add_overflow(shape[d], before, &shape[d]) ||
        __builtin_add_overflow(shape[d], after, &shape[d])) {
        cb_fail(CB_ERR_SHAPE, "pad: %lld before and %lld after dimension %d of %s, expected sizes from 0", (long long)before,
                (long long)after, dim, cb_shape_text(x));
        return NULL;
    }
    cb_tensor *y = cb_empty_nd(x->dtype, x->ndim, shape);
    if (!y)
        return NULL;
    fill_part(y, d, 0, before, value);
    place(y, d, before, x);
    fill_part(y, d, before + x->shape[d], after, value);
    slice_args a = {.start = before, .step = 1, .dim = d};
    return recorded(&cb_op_pad, y, x, &a, sizeof a);
}

/* ---- cat, stack ---- */

/* Each input's gradient is its part of dy, a view. */
static void cat_backward(cb_backward_pass *pass)
{
    int dim = *(const int *)pass->args;
    int64_t start = 0;
    for (int i = 0; i < pass->inputs; i++) {
        int64_t stop = start + pass->input[i].shape[dim];
        if (pass->need[i])
            pass->dx[i] = cb_slice(pass->dy[0], dim, start, stop, 1);
        start = stop;
    }
}

const cb_op cb_op_cat = {.name = "cat", .twice = true, .backward = cat_backward};

static bool all_alike(const char *op, int count, cb_tensor *const *xs, int free_dim)
{
    for (int i = 1; i < count; i++) {
        bool alike = xs[i]->dtype == xs[0]->dtype && xs[i]->ndim == xs[0]->ndim;
        for (int d = 0; alike && d < xs[0]->ndim; d++)
            alike = d == free_dim || xs[i]->shape[d] == xs[0]->shape[d];
        if (!alike)
            return cb_fail(CB_ERR_SHAPE, "%s: %s and %s (number %d) do not go together", op, cb_shape_text(xs[0]), cb_shape_text(xs[i]),
                           i) == CB_OK;
    }
    return true;
}

static bool all_given(const char *op, int count, cb_tensor *const *xs)
{
    if (count < 1)
        return cb_fail(CB_ERR_ARGUMENT, "%s: %d tensors, expected at least one", op, count) == CB_OK;
    for (int i = 0; i < count; i++)
        if (!xs[i])
            return false;
    return true;
}

cb_tensor *cb_cat(int count, cb_tensor *const *xs, int dim)
{
    int d = all_given("cat", count, xs) ? cb_dim("cat", xs[0], dim) : -1;
    if (d < 0 || !all_alike("cat", count, xs, d))
        return NULL;
    int64_t shape[CB_MAX_DIMS], at = 0;
    memcpy(shape, xs[0]->shape, sizeof shape);
    for (int i = 1; i < count; i++)
        if (__builtin_add_overflow(shape[d], xs[i]->shape[d], &shape[d])) {
            cb_fail(CB_ERR_SHAPE, "cat: dimension %d is too large", dim);
            return NULL;
        }
    cb_tensor *y = cb_empty_nd(xs[0]->dtype, xs[0]->ndim, shape);
    if (!y)
        return NULL;
    for (int i = 0; i < count; at += xs[i++]->shape[d])
        place(y, d, at, xs[i]);
    return cb_record(&cb_op_cat, 1, &y, count, xs, 0, NULL, &d, sizeof d) ? y : NULL;
}

static void stack_backward(cb_backward_pass *pass)
{
    int dim = *(const int *)pass->args;
    for (int i = 0; i < pass->inputs; i++)
        if (pass->need[i])
            pass->dx[i] = cb_reshape_nd(cb_slice(pass->dy[0], dim, i, i + 1, 1), pass->input[i].ndim, pass->input[i].shape);
}

const cb_op cb_op_stack = {.name = "stack", .twice = true, .backward = stack_backward};

cb_tensor *cb_stack(int count, cb_tensor *const *xs, int dim)
{
    if (!all_given("stack", count, xs) || !all_alike("stack", count, xs, -1))
        return NULL;
    const cb_tensor *x = xs[0];
    int d = dim < 0 ? dim + x->ndim + 1 : dim;
    if (d < 0 || d > x->ndim || x->ndim == CB_MAX_DIMS) {
        cb_fail(CB_ERR_SHAPE, "stack: %s has no place for a new dimension %d", cb_shape_text(x), dim);
        return NULL;
    }
    int64_t shape[CB_MAX_DIMS], stride[CB_MAX_DIMS];
    for (int i = 0; i <= x->ndim; i++)
        shape[i] = i == d ? count : x->shape[i < d ? i : i - 1];
    cb_tensor *y = cb_empty_nd(x->dtype, x->ndim + 1, shape);
    if (!y)
        return NULL;
    for (int i = 0; i < x->ndim; i++)
        stride[i] = y->stride[i < d ? i : i + 1];
    for (int i = 0; i < count && x->count; i++)
        cbk_copy(element(y, d, i), y->dtype, stride, xs[i]->data, x->dtype, xs[i]->stride, x->ndim, x->shape);
    return cb_record(&cb_op_stack, 1, &y, count, xs, 0, NULL, &d, sizeof d) ? y : NULL;
}

/* ---- roll, flip ---- */

typedef struct roll_args {
    int64_t shift; /* 0..size-1 */
    int dim;
} roll_args;

static void roll_backward(cb_backward_pass *pass)
{
    const roll_args *a = pass->args;
    pass->dx[0] = cb_roll(pass->dy[0], a->dim, -a->shift);
}

const cb_op cb_op_roll = {.name = "roll", .twice = true, .backward = roll_backward};

cb_tensor *cb_roll(cb_tensor *x, int dim, int64_t shift)
{
    int d = x ? cb_dim("roll", x, dim) : -1;
    cb_tensor *y = d >= 0 ? cb_empty_like(x) : NULL;
    if (!y)
        return NULL;
    int64_t n = x->shape[d], shape[CB_MAX_DIMS];
    roll_args a = {.shift = n ? (shift % n + n) % n : 0, .dim = d};
    memcpy(shape, x->shape, sizeof shape);
    for (int piece = 0; piece < 2 && x->count; piece++) { /* the last `shift` elements to the front, then the others */
        shape[d] = piece ? n - a.shift : a.shift;
        if (shape[d])
            cbk_copy(element(y, d, piece ? a.shift : 0), y->dtype, y->stride, element(x, d, piece ? 0 : n - a.shift), x->dtype, x->stride,
                     x->ndim, shape);
    }
    return recorded(&cb_op_roll, y, x, &a, sizeof a);
}

static void flip_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_flip(pass->dy[0], *(const int *)pass->args);
}

const cb_op cb_op_flip = {.name = "flip", .twice = true, .backward = flip_backward};

cb_tensor *cb_flip(cb_tensor *x, int dim)
{
    int d = x ? cb_dim("flip", x, dim) : -1;
    cb_tensor *y = d >= 0 ? cb_empty_like(x) : NULL;
    if (!y)
        return NULL;
    int64_t stride[CB_MAX_DIMS];
    memcpy(stride, x->stride, sizeof stride);
    stride[d] = -stride[d];
    if (x->count)
        cbk_copy(y->data, y->dtype, y->stride, element(x, d, x->shape[d] - 1), x->dtype, stride, x->ndim, x->shape);
    return recorded(&cb_op_flip, y, x, &d, sizeof d);
}

/* ---- contiguous, cast ---- */

static cb_tensor *copied(cb_tensor *x, cb_dtype dtype)
{
    cb_tensor *y = cb_empty_nd(dtype, x->ndim, x->shape);
    if (y)
        cbk_copy(y->data, dtype, y->stride, x->data, x->dtype, x->stride, x->ndim, x->shape);
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
    return recorded(&cb_op_contiguous, copied(x, x->dtype), x, NULL, 0);
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
    cb_tensor *y = copied(x, dtype);
    return cb_dtype_is_float(dtype) ? recorded(&cb_op_cast, y, x, NULL, 0) : y;
}
