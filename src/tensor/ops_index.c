/* ops_index.c: reading and adding by index; sorting.
 *
 * Reading and adding are each other's gradients.  The kernels see a tensor as (outer, size, inner) around the indexed dimension.  Gradients
 * of half types are summed in f32 and rounded once, whatever the number of times a place was read. */
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/internal.h"

typedef struct blocks {
    int64_t outer, size, inner;
} blocks;

static blocks around(int ndim, const int64_t *shape, int dim)
{
    blocks b = {1, shape[dim], 1};
    for (int i = 0; i < ndim; i++) {
        b.outer *= i < dim ? shape[i] : 1;
        b.inner *= i > dim ? shape[i] : 1;
    }
    return b;
}

/* The dtype gradients are summed in. */
static cb_dtype wide(cb_dtype dtype)
{
    return cb_dtype_is_half(dtype) ? CB_F32 : dtype;
}

static bool is_index(const cb_tensor *t)
{
    return t->dtype == CB_I32 || t->dtype == CB_I64;
}

/* A contiguous copy of x outside its history. */
static cb_tensor *fresh_copy(cb_tensor *x)
{
    cb_tensor *y = cb_empty_like(x);
    return y && cb_copy_into(y, x) ? y : NULL;
}

/* ---- index_select, index_add, embedding ---- */

/* Gradient of reading dimension `dim` of the input at `index`: dy (outer, n, inner) added to zeros. */
static cb_tensor *selected_gradient(cb_backward_pass *pass, int dim, cb_tensor *index, cb_tensor *dy)
{
    const cb_edge *x = &pass->input[0];
    cb_dtype sum = wide(x->dtype);
    cb_tensor *into = pass->into[0];
    if (cb_grad_enabled()) {
        int64_t shape[CB_MAX_DIMS];
        memcpy(shape, x->shape, sizeof shape);
        shape[dim] = index->count;
        cb_tensor *flat = cb_reshape(index, index->count), *source = cb_reshape_nd(cb_cast(dy, sum), x->ndim, shape);
        return cb_cast(cb_index_add(cb_full_nd(sum, 0, x->ndim, x->shape), dim, flat, source), x->dtype);
    }
    bool in_place = into && into->dtype == sum && cb_will_write(pass->op->name, into);
    cb_tensor *dx = in_place ? into : cb_full_nd(sum, 0, x->ndim, x->shape);
    dy = cb_contiguous(dy);
    if (!dx || !dy)
        return NULL;
    blocks b = around(x->ndim, x->shape, dim);
    bool ok = cbk_index_add(dx->data, sum, dy->data, dy->dtype, index->data, index->dtype, b.outer, b.size, index->count, b.inner, 1);
    return ok ? cb_cast(dx, x->dtype) : NULL;
}

static void index_select_backward(cb_backward_pass *pass)
{
    pass->dx[0] = selected_gradient(pass, *(const int *)pass->args, pass->saved[0], pass->dy[0]);
}

const cb_op cb_op_index_select = {.name = "index_select", .twice = true, .backward = index_select_backward};

cb_tensor *cb_index_select(cb_tensor *x, int dim, cb_tensor *index)
{
    int d = x && index ? cb_dim("index_select", x, dim) : -1;
    if (d < 0)
        return NULL;
    if (index->ndim != 1 || !is_index(index)) {
        cb_fail(CB_ERR_SHAPE, "index_select: index %s, expected i32 or i64 (n)", cb_shape_text(index));
        return NULL;
    }
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[d] = index->count;
    index = cb_contiguous(index);
    cb_tensor *dense = cb_contiguous(x), *y = cb_empty_nd(x->dtype, x->ndim, shape);
    if (!index || !dense || !y)
        return NULL;
    blocks b = around(x->ndim, x->shape, d);
    if (!cbk_index_select(y->data, y->dtype, dense->data, x->dtype, index->data, index->dtype, b.outer, b.size, index->count, b.inner))
        return NULL;
    cb_tensor *ins[] = {x}, *saves[] = {index};
    return CB_RECORD(&cb_op_index_select, y, ins, saves, &d, sizeof d) ? y : NULL;
}

static void index_add_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0];
    if (pass->need[0])
        pass->dx[0] = dy;
    if (pass->need[1])
        pass->dx[1] = cb_index_select(dy, *(const int *)pass->args, pass->saved[0]);
}

const cb_op cb_op_index_add = {.name = "index_add", .twice = true, .backward = index_add_backward};

static bool check_index_add(const cb_tensor *x, int d, const cb_tensor *index, const cb_tensor *source)
{
    bool fits = index->ndim == 1 && is_index(index) && source->dtype == x->dtype && source->ndim == x->ndim;
    for (int i = 0; fits && i < x->ndim; i++)
        fits = source->shape[i] == (i == d ? index->count : x->shape[i]);
    if (!fits)
        cb_fail(CB_ERR_SHAPE, "index_add: %s at index %s from %s: expected i32 or i64 (n) and x's shape with n in dimension %d",
                cb_shape_text(x), cb_shape_text(index), cb_shape_text(source), d);
    return fits;
}

cb_tensor *cb_index_add(cb_tensor *x, int dim, cb_tensor *index, cb_tensor *source)
{
    int d = x && index && source ? cb_dim("index_add", x, dim) : -1;
    if (d < 0 || !check_index_add(x, d, index, source))
        return NULL;
    index = cb_contiguous(index);
    cb_tensor *dense = cb_contiguous(source), *y = fresh_copy(x);
    if (!index || !dense || !y)
        return NULL;
    blocks b = around(x->ndim, x->shape, d);
    if (!cbk_index_add(y->data, y->dtype, dense->data, dense->dtype, index->data, index->dtype, b.outer, b.size, index->count, b.inner, 1))
        return NULL;
    cb_tensor *ins[] = {x, source}, *saves[] = {index};
    return CB_RECORD(&cb_op_index_add, y, ins, saves, &d, sizeof d) ? y : NULL;
}

static void embedding_backward(cb_backward_pass *pass)
{
    pass->dx[0] = selected_gradient(pass, 0, pass->saved[0], pass->dy[0]);
}

const cb_op cb_op_embedding = {.name = "embedding", .twice = true, .backward = embedding_backward};

cb_tensor *cb_embedding(cb_tensor *weight, cb_tensor *ids)
{
    if (!weight || !ids)
        return NULL;
    if (weight->ndim != 2 || !is_index(ids) || ids->ndim == CB_MAX_DIMS) {
        cb_fail(CB_ERR_SHAPE, "embedding: weight %s and ids %s: expected (V, C) and i32 or i64", cb_shape_text(weight), cb_shape_text(ids));
        return NULL;
    }
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, ids->shape, sizeof shape);
    shape[ids->ndim] = weight->shape[1];
    ids = cb_contiguous(ids);
    cb_tensor *table = cb_contiguous(weight), *y = NULL;
    if (ids)
        y = cb_empty_nd(cb_dtype_is_quantized(weight->dtype) ? CB_F32 : weight->dtype, ids->ndim + 1, shape);
    if (!table || !y)
        return NULL;
    if (!cbk_index_select(y->data, y->dtype, table->data, table->dtype, ids->data, ids->dtype, 1, weight->shape[0], ids->count,
                          weight->shape[1]))
        return NULL;
    cb_tensor *ins[] = {weight}, *saves[] = {ids};
    return CB_RECORD(&cb_op_embedding, y, ins, saves, NULL, 0) ? y : NULL;
}

/* ---- gather, scatter_add ---- */

/* zeros of the input's shape with dy added at `index` */
static cb_tensor *scattered(const cb_edge *input, int dim, cb_tensor *index, cb_tensor *dy)
{
    cb_dtype sum = wide(input->dtype);
    cb_tensor *zeros = cb_full_nd(sum, 0, input->ndim, input->shape);
    return cb_cast(cb_scatter_add(zeros, dim, index, cb_cast(dy, sum)), input->dtype);
}

static void gather_backward(cb_backward_pass *pass)
{
    pass->dx[0] = scattered(&pass->input[0], *(const int *)pass->args, pass->saved[0], pass->dy[0]);
}

const cb_op cb_op_gather = {.name = "gather", .twice = true, .backward = gather_backward};

/* True when `index` has x's number of dimensions and is no larger in any of them but `free_dim` (-1: in any). */
static bool index_within(const char *op, const cb_tensor *index, const cb_tensor *x, int free_dim)
{
    bool fits = is_index(index) && index->ndim == x->ndim;
    for (int i = 0; fits && i < x->ndim; i++)
        fits = i == free_dim || index->shape[i] <= x->shape[i];
    if (!fits)
        cb_fail(CB_ERR_SHAPE, "%s: index %s for %s: expected i32 or i64, as many dimensions and none larger", op, cb_shape_text(index),
                cb_shape_text(x));
    return fits;
}

/* The first elements of each dimension of x but `free_dim`, as many as `index` has. */
static cb_tensor *trimmed(cb_tensor *x, const cb_tensor *index, int free_dim)
{
    for (int i = 0; x && i < index->ndim; i++)
        if (i != free_dim && x->shape[i] != index->shape[i])
            x = cb_slice(x, i, 0, index->shape[i], 1);
    return x;
}

cb_tensor *cb_gather(cb_tensor *x, int dim, cb_tensor *index)
{
    int d = x && index ? cb_dim("gather", x, dim) : -1;
    if (d < 0 || !index_within("gather", index, x, d))
        return NULL;
    index = cb_contiguous(index);
    x = index ? trimmed(x, index, d) : NULL;
    cb_tensor *dense = cb_contiguous(x), *y = dense ? cb_empty_nd(x->dtype, index->ndim, index->shape) : NULL;
    if (!y)
        return NULL;
    blocks b = around(x->ndim, x->shape, d);
    if (!cbk_gather(y->data, dense->data, x->dtype, index->data, index->dtype, b.outer, b.size, index->shape[d], b.inner))
        return NULL;
    cb_tensor *ins[] = {x}, *saves[] = {index};
    return CB_RECORD(&cb_op_gather, y, ins, saves, &d, sizeof d) ? y : NULL;
}

static void scatter_add_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0];
    if (pass->need[0])
        pass->dx[0] = dy;
    if (pass->need[1])
        pass->dx[1] = cb_gather(dy, *(const int *)pass->args, pass->saved[0]);
}

const cb_op cb_op_scatter_add = {.name = "scatter_add", .twice = true, .backward = scatter_add_backward};

/* y[.., index, ..] += source; y is contiguous.  The kernel wants index and y to agree in every dimension but `d`: where y is larger,
 * a copy of the part that is reached goes through it. */
static bool scatter_into(cb_tensor *y, int d, const cb_tensor *index, const cb_tensor *source)
{
    cb_tensor *reached = trimmed(y, index, d);
    cb_tensor *dense = reached == y ? y : cb_contiguous(reached);
    if (!dense)
        return false;
    blocks b = around(dense->ndim, dense->shape, d);
    if (!cbk_scatter_add(dense->data, y->dtype, source->data, index->data, index->dtype, b.outer, b.size, index->shape[d], b.inner))
        return false;
    return dense == reached || cb_copy_into(reached, dense);
}

cb_tensor *cb_scatter_add(cb_tensor *x, int dim, cb_tensor *index, cb_tensor *source)
{
    int d = x && index && source ? cb_dim("scatter_add", x, dim) : -1;
    if (d < 0 || !index_within("scatter_add", index, x, d) || !index_within("scatter_add", index, source, -1))
        return NULL;
    if (x->dtype != source->dtype) {
        cb_fail(CB_ERR_SHAPE, "scatter_add: %s into %s, expected one dtype", cb_shape_text(source), cb_shape_text(x));
        return NULL;
    }
    index = cb_contiguous(index);
    source = index ? trimmed(source, index, -1) : NULL;
    cb_tensor *dense = cb_contiguous(source), *y = fresh_copy(x);
    if (!dense || !y || !scatter_into(y, d, index, dense))
        return NULL;
    cb_tensor *ins[] = {x, source}, *saves[] = {index};
    return CB_RECORD(&cb_op_scatter_add, y, ins, saves, &d, sizeof d) ? y : NULL;
}

/* ---- sort, topk ---- */

/* saved: the indices, which read values out of x along the last dimension */
static void sort_backward(cb_backward_pass *pass)
{
    pass->dx[0] = scattered(&pass->input[0], -1, pass->saved[0], pass->dy[0]);
}

const cb_op cb_op_sort = {.name = "sort", .twice = true, .backward = sort_backward};
const cb_op cb_op_topk = {.name = "topk", .twice = true, .backward = sort_backward};

/* The first k of x along its last dimension, in order. */
static bool ordered(const cb_op *op, cb_tensor *x, int64_t k, bool descending, cb_tensor **values, cb_tensor **indices)
{
    int last = x->ndim - 1;
    int64_t n = x->shape[last], shape[CB_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[last] = k;
    cb_tensor *dense = cb_contiguous(x), *v = cb_empty_nd(x->dtype, x->ndim, shape), *at = cb_empty_nd(CB_I64, x->ndim, shape);
    if (!dense || !v || !at)
        return false;
    int64_t rows = around(x->ndim, x->shape, last).outer;
    if (!(k == n ? cbk_sort(x->dtype, v->data, at->data, dense->data, rows, n, descending)
                 : cbk_topk(x->dtype, v->data, at->data, dense->data, rows, n, k, descending)))
        return false;
    cb_tensor *ins[] = {x}, *saves[] = {at};
    if (!CB_RECORD(op, v, ins, saves, NULL, 0))
        return false;
    *values = v;
    *indices = at;
    return true;
}

static bool ordered_along(const cb_op *op, cb_tensor *x, int64_t k, int dim, bool descending, cb_tensor **values, cb_tensor **indices)
{
    int last = x->ndim - 1;
    if (dim == last)
        return ordered(op, x, k, descending, values, indices);
    cb_tensor *turned = cb_transpose(x, dim, last), *v, *at;
    if (!turned || !ordered(op, turned, k, descending, &v, &at))
        return false;
    v = cb_transpose(v, dim, last);
    at = cb_transpose(at, dim, last);
    if (!v || !at)
        return false;
    *values = v;
    *indices = at;
    return true;
}

bool cb_topk(cb_tensor *x, int64_t k, int dim, bool largest, cb_tensor **values, cb_tensor **indices)
{
    *values = *indices = NULL;
    int d = x ? cb_dim("topk", x, dim) : -1;
    if (d < 0)
        return false;
    if (k < 0 || k > x->shape[d])
        return cb_fail(CB_ERR_ARGUMENT, "topk: k is %lld for dimension %d of %s", (long long)k, dim, cb_shape_text(x)) == CB_OK;
    return ordered_along(&cb_op_topk, x, k, d, largest, values, indices);
}

bool cb_sort(cb_tensor *x, int dim, bool descending, cb_tensor **values, cb_tensor **indices)
{
    *values = *indices = NULL;
    int d = x ? cb_dim("sort", x, dim) : -1;
    return d >= 0 && ordered_along(&cb_op_sort, x, x->shape[d], d, descending, values, indices);
}
