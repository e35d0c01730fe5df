/* ops_parts.c: parts of an array, and arrays made of parts: slice, split, pad, cat, stack, roll, flip.
 *
 * A part is a view (ops_shape.c), whatever joins parts copies.  No rule here reads a value, so none saves a tensor.  Every rule is made of
 * public operations. */
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/internal.h"

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
    return cb_recorded(&cb_op_slice, part_of(x, d, start, length, step), x, &a, sizeof a);
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
    return cb_recorded(&cb_op_pad, y, x, &a, sizeof a);
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
    return cb_recorded(&cb_op_roll, y, x, &a, sizeof a);
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
    return cb_recorded(&cb_op_flip, y, x, &d, sizeof d);
}
