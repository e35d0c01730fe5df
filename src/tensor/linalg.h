/* linalg.h: what operations through LAPACK share. */
#ifndef CB_TENSOR_LINALG_H
#define CB_TENSOR_LINALG_H

#include <float.h>
#include <lapacke.h>
#include <limits.h>
#include <math.h>

#include "kernels/kernels.h"
#include "tensor/internal.h"

static inline bool need_matrix(const char *op, const cb_tensor *x)
{
    if (x->ndim != 2 || (x->dtype != CB_F32 && x->dtype != CB_F64) || x->shape[0] > INT_MAX || x->shape[1] > INT_MAX)
        return cb_fail(CB_ERR_SHAPE, "%s: %s, expected an f32 or f64 matrix", op, cb_shape_text(x)) == CB_OK;
    return true;
}

/* A contiguous copy of x that LAPACK may overwrite; fails on NaN and infinity, which it does not survive. */
static inline cb_tensor *working_copy(const char *op, cb_tensor *x)
{
    cb_tensor *a = cb_empty_like(x);
    if (!a || !cb_copy_into(a, x))
        return NULL;
    if (!cbk_all_finite(a->dtype, a->data, a->count)) {
        cb_fail(CB_ERR_NUMERIC, "%s: %s has elements that are not finite", op, cb_shape_text(x));
        return NULL;
    }
    return a;
}

/* What a LAPACK workspace query wrote, as a block of that many elements.  An f32 query may have been rounded down. */
static inline void *workspace(const char *op, cb_dtype dtype, const void *query, lapack_int *length)
{
    double wanted = dtype == CB_F64 ? *(const double *)query : (double)*(const float *)query * (1 + 4 * FLT_EPSILON);
    if (!(wanted >= 0 && wanted < INT_MAX - 1)) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: the matrix is too large for LAPACK's 32-bit sizes", op);
        return NULL;
    }
    *length = (lapack_int)wanted + 1;
    return cb_alloc((size_t)*length * cb_dtype_size(dtype));
}

static inline bool report(const char *op, lapack_int info)
{
    if (info > 0)
        cb_fail(CB_ERR_NUMERIC, "%s: did not converge", op);
    else if (info < 0)
        cb_fail(CB_ERR_STATE, "%s: LAPACK refused argument %d", op, (int)-info);
    return info == 0;
}

/* n by n: `below`, `diagonal` and `above` it */
static inline cb_tensor *triangle(cb_dtype dtype, int64_t n, double below, double diagonal, double above)
{
    cb_tensor *t = cb_empty(dtype, n, n);
    for (int64_t at = 0; t && at < n * n; at++) {
        int64_t i = at / n, j = at % n;
        double value = i > j ? below : i < j ? above : diagonal;
        cbk_convert(&value, CB_F64, (char *)t->data + at * (int64_t)cb_dtype_size(dtype), dtype, 1);
    }
    return t;
}

static inline cb_tensor *turned(cb_tensor *x)
{
    return cb_transpose(x, 0, 1);
}

/* Absent terms are NULL. */
static inline cb_tensor *sum_of(cb_tensor *a, cb_tensor *b)
{
    return a && b ? cb_add(a, b) : a ? a : b;
}

/* The rounding of `largest`, times the count of s. */
static inline double rounding_of(const cb_tensor *s, double largest)
{
    return (s->dtype == CB_F64 ? DBL_EPSILON : (double)FLT_EPSILON) * (double)s->count * largest;
}

/* 1 / x, and 0 where |size| is below the resolution */
static inline cb_tensor *safe_reciprocal(cb_tensor *x, cb_tensor *size, double limit)
{
    cb_tensor *tiny = x && size ? cb_le(cb_abs(size), cb_scalar(x->dtype, limit)) : NULL;
    return tiny ? cb_reciprocal(cb_where(tiny, cb_scalar(x->dtype, INFINITY), x)) : NULL;
}

#endif
