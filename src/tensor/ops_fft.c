/* ops_fft.c: discrete Fourier transforms of complex numbers as pairs (re, im) in the last dimension, and of real ones.
 *
 * The operation is the sum without a factor; its adjoint is the same sum with the other sign, so all of it can be differentiated again. */
#include "kernels/fft.h"
#include "tensor/op.h"

/* x (..., n, 2) */
static cb_tensor *sums(cb_tensor *x, int sign);

static void fft_backward(cb_backward_pass *pass)
{
    pass->dx[0] = sums(pass->dy[0], -*(const int *)pass->args);
}

const cb_op cb_op_fft = {.name = "fft", .twice = true, .backward = fft_backward};

static cb_tensor *sums(cb_tensor *x, int sign)
{
    if (x && cb_dtype_is_half(x->dtype))
        return cb_cast(sums(cb_cast(x, CB_F32), sign), x->dtype);
    x = cb_contiguous(x);
    cb_tensor *y = cb_empty_like(x);
    int64_t n = y ? x->shape[x->ndim - 2] : 0;
    if (!y || (y->count && !cbk_fft(x->dtype, y->data, x->data, x->count / (2 * n), n, sign)))
        return NULL;
    return cb_recorded(&cb_op_fft, y, x, &sign, sizeof sign);
}

static bool check_complex(const char *op, const cb_tensor *x, int dims)
{
    bool fits = (dims == 1 || dims == 2) && x->ndim > dims && cb_dtype_is_float(x->dtype) && x->shape[x->ndim - 1] == 2;
    for (int d = 0; fits && d < dims; d++)
        fits = x->shape[x->ndim - 2 - d] >= 1;
    return fits || cb_fail(CB_ERR_SHAPE, "%s: %s over %d dimensions, expected floating-point (..., n, 2) over 1 or (..., m, n, 2) over 2",
                           op, cb_shape_text(x), dims) == CB_OK;
}

/* Over the dimension before the last complex one. */
static cb_tensor *sums_before(cb_tensor *x, int sign)
{
    return cb_transpose(sums(cb_transpose(x, -3, -2), sign), -3, -2);
}

cb_tensor *cb_fft(cb_tensor *x, int dims, bool inverse)
{
    if (!x || !check_complex("fft", x, dims))
        return NULL;
    int64_t count = x->shape[x->ndim - 2] * (dims == 2 ? x->shape[x->ndim - 3] : 1);
    cb_tensor *y = sums(x, inverse ? 1 : -1);
    y = dims == 2 ? sums_before(y, inverse ? 1 : -1) : y;
    return inverse ? cb_scale(y, 1 / (double)count) : y;
}

cb_tensor *cb_rfft(cb_tensor *x, int dims)
{
    if (!x)
        return NULL;
    if ((dims != 1 && dims != 2) || x->ndim < dims || !cb_dtype_is_float(x->dtype) || x->shape[x->ndim - 1] < 1 || x->ndim >= CB_MAX_DIMS) {
        cb_fail(CB_ERR_SHAPE, "rfft: %s over %d dimensions, expected floating-point (..., n) over 1 or (..., m, n) over 2",
                cb_shape_text(x), dims);
        return NULL;
    }
    cb_tensor *pair[] = {x, cb_zeros_like(x)};
    cb_tensor *y = cb_fft(cb_stack(2, pair, -1), 1, false);
    y = cb_slice(y, -2, 0, x->shape[x->ndim - 1] / 2 + 1, 1);
    return dims == 2 ? sums_before(y, -1) : y;
}

/* The half that a real signal's symmetry leaves out: y[n - k] = conj(y[k]), k from n - n / 2 - 1 down to 1. */
static cb_tensor *mirrored(cb_tensor *x, int64_t n)
{
    cb_tensor *half = cb_flip(cb_slice(x, -2, 1, n - n / 2, 1), -2);
    cb_tensor *sign = x ? cb_from_nd(CB_F32, (float[]){1, -1}, 1, (int64_t[]){2}) : NULL;
    return half ? cb_mul(half, cb_cast(sign, x->dtype)) : NULL;
}

cb_tensor *cb_irfft(cb_tensor *x, int dims, int64_t n)
{
    if (!x || !check_complex("irfft", x, dims))
        return NULL;
    if (n < 1 || x->shape[x->ndim - 2] != n / 2 + 1) {
        cb_fail(CB_ERR_SHAPE, "irfft: %s to %lld numbers, expected (..., %lld, 2)", cb_shape_text(x), (long long)n, (long long)(n / 2 + 1));
        return NULL;
    }
    if (dims == 2)
        x = cb_scale(sums_before(x, 1), 1 / (double)x->shape[x->ndim - 3]);
    cb_tensor *both[] = {x, mirrored(x, n)};
    cb_tensor *y = cb_fft(cb_cat(2, both, -2), 1, true);
    return cb_squeeze(cb_slice(y, -1, 0, 1, 1), -1);
}
