/* tensor.c: headers and storage: making, viewing, reading and writing tensors. */
#include <stdio.h>
#include <string.h>

#include "core/io.h"
#include "kernels/kernels.h"
#include "tensor/internal.h"

/* ---- headers and storage ---- */

void cb_tensor_reference(cb_tensor *t)
{
    __atomic_fetch_add(&t->references, 1, __ATOMIC_RELAXED);
}

static void storage_release(cb_storage *s)
{
    if (!s || __atomic_sub_fetch(&s->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    if (!s->borrowed)
        cb_free(s->bytes);
    cb_held_map_release(s->map);
    for (int i = 0; i < 2; i++)
        cb_free(s->ordered[i]);
    for (int i = 0; i < CB_KEPT; i++)
        cb_release(s->kept[i]);
    cb_free(s);
}

void cb_release(cb_tensor *t)
{
    if (!t || __atomic_sub_fetch(&t->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    storage_release(t->storage);
    cb_node_release(t->node);
    cb_release(t->grad);
    cb_free(t);
}

cb_tensor *cb_tensor_header(cb_dtype dtype, int ndim, const int64_t *shape)
{
    if (ndim < 0 || ndim > CB_MAX_DIMS) {
        cb_fail(CB_ERR_SHAPE, "a tensor of %d dimensions, expected 0 to %d", ndim, CB_MAX_DIMS);
        return NULL;
    }
    /* a size of 0 does not excuse the others: strides, and products of some of the sizes, must be numbers too */
    int64_t count = 1, block = cb_dtype_block(dtype),
            bytes = block > 1 ? 2 : (int64_t)cb_dtype_bytes(dtype, 1); /* no less than an element */
    if (!block) {
        cb_fail(CB_ERR_ARGUMENT, "a tensor of dtype %d, which is none", (int)dtype);
        return NULL;
    }
    if (cb_dtype_is_quantized(dtype) && (ndim != 2 || shape[1] % block)) {
        cb_fail(CB_ERR_SHAPE, "a tensor %s of %s, expected a matrix whose columns are a multiple of %lld", cb_shape_text_nd(ndim, shape),
                cb_dtype_name(dtype), (long long)block);
        return NULL;
    }
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(bytes, shape[i] ? shape[i] : 1, &bytes)) {
            cb_fail(CB_ERR_SHAPE, "a tensor dimension of %lld: negative or too large", (long long)shape[i]);
            return NULL;
        }
        count *= shape[i];
    }
    cb_tensor *t = cb_alloc(sizeof *t);
    if (!t)
        return NULL;
    *t = (cb_tensor){.dtype = dtype, .ndim = ndim, .count = count, .references = 1};
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        t->shape[i] = shape[i];
        t->stride[i] = stride;
        stride *= shape[i] ? shape[i] : 1;
    }
    return t;
}

static cb_tensor *with_storage(cb_tensor *t, void *bytes, size_t size, bool borrowed)
{
    if (!t)
        return NULL;
    cb_storage *s = cb_alloc(sizeof *s);
    if (!s) {
        cb_release(t);
        return NULL;
    }
    *s = (cb_storage){.bytes = bytes, .size = size, .references = 1, .borrowed = borrowed, .read_only = borrowed};
    t->storage = s;
    if (!borrowed) {
        s->bytes = cb_alloc(size);
        if (!s->bytes) {
            cb_release(t);
            return NULL;
        }
    }
    t->data = s->bytes;
    return t;
}

cb_tensor *cb_empty_nd(cb_dtype dtype, int ndim, const int64_t *shape)
{
    if (cb_dtype_is_quantized(dtype)) {
        cb_fail(CB_ERR_UNSUPPORTED, "a result of dtype %s: quantised matrices are read, by products and casts only", cb_dtype_name(dtype));
        return NULL;
    }
    cb_tensor *t = cb_tensor_header(dtype, ndim, shape);
    return cb_scope_own(with_storage(t, NULL, t ? (size_t)t->count * cb_dtype_size(dtype) : 0, false));
}

cb_tensor *cb_wrap_nd(cb_dtype dtype, const void *data, int ndim, const int64_t *shape)
{
    cb_tensor *t = cb_tensor_header(dtype, ndim, shape);
    return cb_scope_own(with_storage(t, (void *)(uintptr_t)data, t ? cb_dtype_bytes(dtype, t->count) : 0, true));
}

cb_tensor *cb_wrap_held(cb_dtype dtype, void *data, int ndim, const int64_t *shape, cb_held_map *map)
{
    cb_tensor *t = cb_wrap_nd(dtype, data, ndim, shape);
    if (t) {
        cb_held_map_keep(map);
        t->storage->map = map;
        t->storage->read_only = false;
    }
    return t;
}

/* ---- quantised matrices ---- */

static cb_tensor *scaled_tensor(cb_dtype dtype, int64_t rows, int64_t columns, size_t extra)
{
    if (dtype != CB_INT8 && dtype != CB_NF4) {
        cb_fail(CB_ERR_ARGUMENT, "%s: has no scales of its own, expected int8 or nf4", cb_dtype_name(dtype));
        return NULL;
    }
    cb_tensor *t = with_storage(cb_tensor_header(dtype, 2, (int64_t[]){rows, columns}), NULL, sizeof(cb_scaled_codes) + extra, false);
    if (t)
        t->storage->read_only = true;
    return t;
}

cb_tensor *cb_wrap_scaled(cb_dtype dtype, const cb_scaled_codes *codes, cb_tensor *const *kept, int64_t rows, int64_t columns)
{
    cb_tensor *t = scaled_tensor(dtype, rows, columns, 0);
    if (!t)
        return NULL;
    *(cb_scaled_codes *)t->data = *codes;
    for (int i = 0; kept && i < CB_KEPT; i++)
        t->storage->kept[i] = kept[i] ? cb_keep(kept[i]) : NULL;
    return cb_scope_own(t);
}

cb_tensor *cb_quantize(cb_tensor *x, cb_dtype dtype, int64_t block)
{
    if (!x)
        return NULL;
    if (x->ndim != 2 || !cb_dtype_is_float(x->dtype) || block < 0) {
        cb_fail(CB_ERR_SHAPE, "quantize: %s in blocks of %lld, expected a floating-point matrix", cb_shape_text(x), (long long)block);
        return NULL;
    }
    bool scaled = dtype == CB_INT8 || dtype == CB_NF4;
    block = block ? block : dtype == CB_NF4 ? 64 : x->shape[1] > 0 ? x->shape[1] : 1;
    size_t bytes = cb_dtype_bytes(dtype, x->count), blocks = (size_t)((x->count + block - 1) / block);
    cb_tensor *plain = x->dtype == CB_F32 ? cb_contiguous(x) : cb_cast(x, CB_F32), *t = NULL;
    if (scaled)
        t = scaled_tensor(dtype, x->shape[0], x->shape[1], blocks * sizeof(float) + bytes);
    else if (cb_dtype_is_quantized(dtype))
        t = with_storage(cb_tensor_header(dtype, 2, x->shape), NULL, bytes, false);
    else
        cb_fail(CB_ERR_ARGUMENT, "quantize: to %s, expected a quantised dtype", cb_dtype_name(dtype));
    bool ok = t && plain;
    if (ok && scaled) { /* the description, the scales, the codes */
        cb_scaled_codes *s = t->data;
        float *scale = (float *)(s + 1);
        *s = (cb_scaled_codes){.codes = scale + blocks, .block = block, .scale = scale};
        ok = cbk_quantize_scaled(dtype, plain->data, x->count, block, scale + blocks, scale);
        if (dtype == CB_INT8)
            cbk_unary(CBK_SCALE, CB_F32, scale, scale, (int64_t)blocks, 1.0 / 127, 0);
    } else if (ok) {
        ok = cbk_quantize(dtype, plain->data, x->count, t->data);
        t->storage->read_only = true;
    }
    if (ok)
        return cb_scope_own(t);
    cb_release(t);
    return NULL;
}

static cb_tensor *share(const cb_tensor *x, int ndim, const int64_t *shape)
{
    cb_tensor *t = cb_tensor_header(x->dtype, ndim, shape);
    if (!t)
        return NULL;
    t->storage = x->storage;
    t->data = x->data;
    __atomic_fetch_add(&t->storage->references, 1, __ATOMIC_RELAXED);
    return t;
}

cb_tensor *cb_tensor_bare_alias(const cb_tensor *x)
{
    cb_tensor *t = share(x, x->ndim, x->shape);
    if (t)
        memcpy(t->stride, x->stride, sizeof t->stride);
    return t;
}

cb_tensor *cb_alias(cb_tensor *x)
{
    return x ? cb_scope_own(cb_tensor_bare_alias(x)) : NULL;
}

cb_tensor *cb_view(cb_tensor *x, int ndim, const int64_t *shape, const int64_t *stride, int64_t offset)
{
    if (cb_dtype_is_quantized(x->dtype)) {
        cb_fail(CB_ERR_UNSUPPORTED, "a view of %s: quantised matrices have none; cast it first", cb_shape_text(x));
        return NULL;
    }
    cb_tensor *t = share(x, ndim, shape);
    if (!t)
        return NULL;
    for (int i = 0; i < ndim; i++)
        t->stride[i] = stride[i];
    t->data = (char *)x->data + offset * (int64_t)cb_dtype_size(x->dtype);
    return cb_scope_own(t);
}

cb_tensor *cb_parameter(cb_tensor *x)
{
    if (!x)
        return NULL;
    if (!cb_dtype_is_float(x->dtype)) {
        cb_fail(CB_ERR_ARGUMENT, "a parameter of dtype %s, expected a floating-point type", cb_dtype_name(x->dtype));
        return NULL;
    }
    cb_node_release(x->node);
    x->node = NULL;
    x->requires_grad = true;
    return x;
}

/* ---- questions ---- */

bool cb_is_contiguous(const cb_tensor *x)
{
    int64_t expected = 1;
    for (int i = x->ndim - 1; i >= 0; i--) {
        if (x->shape[i] != 1 && x->stride[i] != expected)
            return x->count == 0;
        expected *= x->shape[i];
    }
    return true;
}

bool cb_same_shape(const cb_tensor *a, const cb_tensor *b)
{
    if (a->ndim != b->ndim)
        return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i])
            return false;
    return true;
}

void cb_freeze(cb_tensor *t)
{
    t->storage->read_only = t->storage->frozen = true;
}

void cb_let_go_of_file(const cb_tensor *t)
{
    if (t->storage->read_only && cb_is_contiguous(t))
        cb_file_map_let_go(t->data, (size_t)t->count * cb_dtype_size(t->dtype));
}

bool cb_exclusive(const cb_tensor *t)
{
    return t->references == 1 && t->storage->references == 1 && !t->storage->read_only;
}

bool cb_can_overwrite(const cb_tensor *x)
{
    return cb_exclusive(x) && !(x->requires_grad && !x->node);
}

bool cb_will_write(const char *op, cb_tensor *x)
{
    if (x->storage->read_only) {
        cb_fail(CB_ERR_STATE, "%s: the memory of %s is mapped read-only", op, cb_shape_text(x));
        return false;
    }
    x->storage->version++;
    return true;
}

static const char *shape_text(const char *before, int ndim, const int64_t *shape)
{
    enum { SIZE = 192 };
    static _Thread_local char ring[4][SIZE];
    static _Thread_local unsigned turn;
    char *text = ring[turn++ % 4];
    size_t n = (size_t)snprintf(text, SIZE, "%s(", before);
    for (int i = 0; i < ndim && n < SIZE; i++)
        n += (size_t)snprintf(text + n, SIZE - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < SIZE)
        snprintf(text + n, SIZE - n, ")");
    return text;
}

const char *cb_shape_text(const cb_tensor *x)
{
    return x ? shape_text(cb_dtype_name(x->dtype), x->ndim, x->shape) : "NULL";
}

const char *cb_shape_text_nd(int ndim, const int64_t *shape)
{
    return shape_text("", ndim, shape);
}

int cb_dim(const char *op, const cb_tensor *x, int dim)
{
    int d = dim < 0 ? dim + x->ndim : dim;
    if (d < 0 || d >= x->ndim) {
        cb_fail(CB_ERR_SHAPE, "%s: dimension %d of %s does not exist", op, dim, cb_shape_text(x));
        return -1;
    }
    return d;
}

bool cb_broadcast_shape(const char *op, const cb_tensor *a, const cb_tensor *b, int *ndim, int64_t *shape)
{
    int n = a->ndim > b->ndim ? a->ndim : b->ndim;
    for (int i = 0; i < n; i++) {
        int ia = i - (n - a->ndim), ib = i - (n - b->ndim);
        int64_t sa = ia >= 0 ? a->shape[ia] : 1, sb = ib >= 0 ? b->shape[ib] : 1;
        if (sa != sb && sa != 1 && sb != 1) {
            cb_fail(CB_ERR_SHAPE, "%s: %s and %s do not broadcast together", op, cb_shape_text(a), cb_shape_text(b));
            return false;
        }
        shape[i] = sa == 1 ? sb : sa;
    }
    *ndim = n;
    return true;
}
