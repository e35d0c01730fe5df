/* values.c: reading, writing and making tensors' values. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/internal.h"

/* ---- values ---- */

static int64_t flat_offset(const cb_tensor *x, int64_t index)
{
    int64_t offset = 0;
    for (int i = x->ndim - 1; i >= 0; i--) {
        offset += index % x->shape[i] * x->stride[i];
        index /= x->shape[i];
    }
    return offset;
}

double cb_get(const cb_tensor *x, int64_t flat_index)
{
    if (!x || flat_index < 0 || flat_index >= x->count) {
        cb_fail(CB_ERR_ARGUMENT, "element %lld of %s does not exist", (long long)flat_index, cb_shape_text(x));
        return NAN;
    }
    double value = NAN;
    if (cb_dtype_is_quantized(x->dtype)) {
        enum { LARGEST_BLOCK = 256 };
        double values[LARGEST_BLOCK];
        int64_t block = cb_dtype_block(x->dtype), begin = flat_index / block * block;
        return cbk_dequantize(x->dtype, x->data, begin, block, CB_F64, values) ? values[flat_index - begin] : NAN;
    }
    const char *element = (const char *)x->data + flat_offset(x, flat_index) * (int64_t)cb_dtype_size(x->dtype);
    cbk_convert(element, x->dtype, &value, CB_F64, 1);
    return value;
}

double cb_item(const cb_tensor *x)
{
    if (!x)
        return NAN;
    if (x->count != 1) {
        cb_fail(CB_ERR_SHAPE, "item: %s has %lld elements, expected one", cb_shape_text(x), (long long)x->count);
        return NAN;
    }
    return cb_get(x, 0);
}

bool cb_copy_into(cb_tensor *to, const cb_tensor *from)
{
    if (!to || !from)
        return false;
    if (!cb_same_shape(to, from)) {
        cb_fail(CB_ERR_SHAPE, "copy: %s into %s", cb_shape_text(from), cb_shape_text(to));
        return false;
    }
    if (cb_dtype_is_quantized(to->dtype) || (cb_dtype_is_quantized(from->dtype) && !cb_is_contiguous(to)))
        return cb_fail(CB_ERR_UNSUPPORTED, "copy: %s into %s%s: quantised matrices are read, into contiguous memory", cb_shape_text(from),
                       cb_shape_text(to), cb_is_contiguous(to) ? "" : " with strides") == CB_OK;
    if (!cb_will_write("copy", to))
        return false;
    cbk_copy(to->data, to->dtype, to->stride, from->data, from->dtype, from->stride, to->ndim, to->shape);
    return true;
}

/* A header over plain memory, for the duration of one call. */
static cb_tensor dense(cb_dtype dtype, const cb_tensor *like, const void *data, cb_storage *storage)
{
    cb_tensor t = {.dtype = dtype, .ndim = like->ndim, .count = like->count, .data = (void *)(uintptr_t)data, .storage = storage};
    int64_t stride = 1;
    for (int i = like->ndim - 1; i >= 0; i--) {
        t.shape[i] = like->shape[i];
        t.stride[i] = stride;
        stride *= like->shape[i];
    }
    return t;
}

bool cb_read(const cb_tensor *x, cb_dtype dtype, void *out)
{
    if (!x)
        return false;
    cb_storage storage = {0};
    cb_tensor to = dense(dtype, x, out, &storage);
    return cb_copy_into(&to, x);
}

bool cb_write(cb_tensor *x, cb_dtype dtype, const void *in)
{
    if (!x)
        return false;
    cb_storage storage = {0};
    cb_tensor from = dense(dtype, x, in, &storage);
    return cb_copy_into(x, &from);
}

bool cb_accumulate(cb_tensor *a, const cb_tensor *b)
{
    if (!cb_will_write("accumulate", a))
        return false;
    return cbk_binary(CBK_ADD, a->dtype, a->data, a->stride, a->data, a->stride, b->data, b->stride, a->ndim, a->shape);
}

/* ---- making ---- */

cb_tensor *cb_full_nd(cb_dtype dtype, double value, int ndim, const int64_t *shape)
{
    cb_tensor *t = cb_empty_nd(dtype, ndim, shape);
    if (t)
        cbk_fill(t->data, dtype, value, t->count);
    return t;
}

cb_tensor *cb_from_nd(cb_dtype dtype, const void *data, int ndim, const int64_t *shape)
{
    cb_tensor *t = cb_empty_nd(dtype, ndim, shape);
    if (t && t->count)
        memcpy(t->data, data, (size_t)t->count * cb_dtype_size(dtype));
    return t;
}

cb_tensor *cb_scalar(cb_dtype dtype, double value)
{
    return cb_full_nd(dtype, value, 0, NULL);
}

cb_tensor *cb_empty_like(const cb_tensor *x)
{
    return x ? cb_empty_nd(x->dtype, x->ndim, x->shape) : NULL;
}

cb_tensor *cb_zeros_like(const cb_tensor *x)
{
    return x ? cb_full_nd(x->dtype, 0, x->ndim, x->shape) : NULL;
}

cb_tensor *cb_arange(cb_dtype dtype, double start, double step, int64_t count)
{
    cb_tensor *t = cb_empty_nd(dtype, 1, &count);
    for (int64_t i = 0; t && i < count; i++) {
        double value = start + step * (double)i;
        cbk_convert(&value, CB_F64, (char *)t->data + i * (int64_t)cb_dtype_size(dtype), dtype, 1);
    }
    return t;
}

/* ---- orders of memory ---- */

cb_tensor *cb_empty_channels_last(cb_dtype dtype, int ndim, const int64_t *shape)
{
    int64_t turned[CB_MAX_DIMS] = {0}, stride[CB_MAX_DIMS] = {0};
    for (int i = 0; i < ndim; i++)
        turned[i] = i == 0 ? shape[0] : i + 1 < ndim ? shape[i + 1] : shape[1];
    cb_tensor *t = cb_empty_nd(dtype, ndim, turned);
    for (int i = 0; t && i < ndim; i++)
        stride[i] = t->stride[i == 0 ? 0 : i == 1 ? ndim - 1 : i - 1];
    for (int i = 0; t && i < ndim; i++) {
        t->shape[i] = shape[i];
        t->stride[i] = stride[i];
    }
    return t;
}

bool cb_is_channels_last(const cb_tensor *x)
{
    if (x->ndim < 3 || cb_is_contiguous(x))
        return false;
    int64_t expected = x->shape[1];
    if (x->shape[1] != 1 && x->stride[1] != 1)
        return false;
    for (int i = x->ndim - 1; i != 1; i = i == 2 ? 0 : i - 1) {
        if (x->shape[i] != 1 && x->stride[i] != expected)
            return false;
        if (i == 0)
            break;
        expected *= x->shape[i];
    }
    return true;
}

cb_tensor *cb_empty_ordered(cb_dtype dtype, const cb_tensor *x)
{
    return cb_is_channels_last(x) ? cb_empty_channels_last(dtype, x->ndim, x->shape) : cb_empty_nd(dtype, x->ndim, x->shape);
}

cb_tensor *cb_dense(cb_tensor *x)
{
    return x && cb_is_channels_last(x) ? x : cb_contiguous(x);
}

cb_tensor *cb_ordered_as(cb_tensor *x, const cb_tensor *like)
{
    return x && like && cb_is_channels_last(like) ? cb_channels_last(x) : cb_contiguous(x);
}
