/* fused.h: what the operations share that are one kernel forward and one backward. */
#ifndef CB_TENSOR_FUSED_H
#define CB_TENSOR_FUSED_H

#include "kernels/kernels.h"
#include "tensor/op.h"

/* alpha dy^T x, dy (..., out) and x (..., in), in the dtype of `weight` (out, in); added to `into` where that is not NULL (ops_matmul.c). */
cb_tensor *cb_weight_gradient(cb_tensor *dy, cb_tensor *x, const cb_edge *weight, cb_tensor *into, double alpha);

/* f64 arrays keep f64 statistics, all others f32. */
static inline cb_dtype statistics(cb_dtype dtype)
{
    return dtype == CB_F64 ? CB_F64 : CB_F32;
}

static inline bool need_float(const char *op, const cb_tensor *x)
{
    if (cb_dtype_is_float(x->dtype) && x->ndim >= 1)
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: %s, expected a floating-point array", op, cb_shape_text(x));
    return false;
}

static inline bool need_vector(const char *op, const char *what, const cb_tensor *w, int64_t n)
{
    if (!w || (w->ndim == 1 && w->shape[0] == n && cb_dtype_is_float(w->dtype)))
        return true;
    cb_fail(CB_ERR_SHAPE, "%s: %s %s, expected (%lld)", op, what, cb_shape_text(w), (long long)n);
    return false;
}

static inline int64_t rows_of(const cb_tensor *x)
{
    int64_t n = x->shape[x->ndim - 1], rows = 1;
    for (int i = 0; i < x->ndim - 1; i++)
        rows *= x->shape[i];
    return n ? rows : 0;
}

/* Where a rule writes the gradient of input i: into what is already there, or a new tensor. */
static inline cb_tensor *gradient_buffer(cb_backward_pass *pass, int i, bool *accumulate)
{
    *accumulate = pass->into[i] && cb_will_write(pass->op->name, pass->into[i]);
    return *accumulate ? pass->into[i] : cb_empty_nd(pass->input[i].dtype, pass->input[i].ndim, pass->input[i].shape);
}

/* Memory for the gradient of an input that was saved: its own, when this is the last that is seen of it. */
static inline cb_tensor *reused(cb_backward_pass *pass, cb_tensor *saved)
{
    bool over = pass->last && cb_can_overwrite(saved) && cb_is_contiguous(saved);
    if (!over)
        return cb_empty_like(saved);
    return cb_will_write(pass->op->name, saved) ? saved : NULL;
}

/* Parameter gradients are summed in statistics precision, then given in the parameter's dtype. */
static inline cb_tensor *parameter_sum(cb_backward_pass *pass, int i, cb_dtype dtype)
{
    return pass->need[i] ? cb_full_nd(dtype, 0, pass->input[i].ndim, pass->input[i].shape) : NULL;
}

#endif
