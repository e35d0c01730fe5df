/* affine.c: y = x scale + shift along the last dimension of (N, C), and its gradients.
 *
 * bf16 and f16 rows are worked on in f32, a piece of a row at a time.  The gradients of scale and shift are sums over rows: threads share
 * the columns, not the rows, so every sum is taken in one order and has the same bits for every number of threads. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/parallel.h"

enum { PIECE = 256 };

static bool check(cb_dtype dtype)
{
    return cb_dtype_is_float(dtype) || cb_fail(CB_ERR_UNSUPPORTED, "affine: dtype %s is not supported", cb_dtype_name(dtype)) == CB_OK;
}

/* T is what sums are taken in: double for f64, float for all others; W its dtype. */
#define DEFINE_AFFINE(T, W)                                                                                                                \
    /* n elements of x where they lie, or converted into `room` */                                                                         \
    static const T *piece_##T(cb_dtype dtype, const void *x, int64_t at, int64_t n, T *room)                                               \
    {                                                                                                                                      \
        const char *from = (const char *)x + at * (int64_t)cb_dtype_size(dtype);                                                           \
        if (dtype == W)                                                                                                                    \
            return (const T *)(const void *)from;                                                                                          \
        cbk_convert(from, dtype, room, W, n);                                                                                              \
        return room;                                                                                                                       \
    }                                                                                                                                      \
    static void store_##T(cb_dtype dtype, void *y, int64_t at, int64_t n, const T *values)                                                 \
    {                                                                                                                                      \
        cbk_convert(values, W, (char *)y + at * (int64_t)cb_dtype_size(dtype), dtype, n);                                                  \
    }                                                                                                                                      \
    static void forward_##T(cb_dtype dtype, void *y, const void *x, const T *scale, const T *shift, int64_t first, int64_t last,           \
                            int64_t c)                                                                                                     \
    {                                                                                                                                      \
        T room[PIECE], out[PIECE];                                                                                                         \
        for (int64_t row = first; row < last; row++)                                                                                       \
            for (int64_t j = 0; j < c; j += PIECE) {                                                                                       \
                int64_t n = c - j < PIECE ? c - j : PIECE;                                                                                 \
                const T *v = piece_##T(dtype, x, row * c + j, n, room);                                                                    \
                for (int64_t i = 0; i < n; i++)                                                                                            \
                    out[i] = v[i] * scale[j + i] + (shift ? shift[j + i] : 0);                                                             \
                store_##T(dtype, y, row *c + j, n, out);                                                                                   \
            }                                                                                                                              \
    }                                                                                                                                      \
    static void backward_##T(cb_dtype dtype, void *dx, T *dscale, T *dshift, const void *dy, const void *x, const T *scale, int64_t rows,  \
                             int64_t c, int64_t first, int64_t last)                                                                       \
    {                                                                                                                                      \
        T room_x[PIECE], room_dy[PIECE], out[PIECE];                                                                                       \
        for (int64_t j = first; j < last; j += PIECE) {                                                                                    \
            int64_t n = last - j < PIECE ? last - j : PIECE;                                                                               \
            for (int64_t row = 0; row < rows; row++) {                                                                                     \
                const T *d = piece_##T(dtype, dy, row * c + j, n, room_dy);                                                                \
                const T *v = dscale ? piece_##T(dtype, x, row * c + j, n, room_x) : NULL;                                                  \
                for (int64_t i = 0; dscale && i < n; i++)                                                                                  \
                    dscale[j + i] += d[i] * v[i];                                                                                          \
                for (int64_t i = 0; dshift && i < n; i++)                                                                                  \
                    dshift[j + i] += d[i];                                                                                                 \
                if (!dx)                                                                                                                   \
                    continue;                                                                                                              \
                for (int64_t i = 0; i < n; i++)                                                                                            \
                    out[i] = d[i] * scale[j + i];                                                                                          \
                store_##T(dtype, dx, row *c + j, n, out);                                                                                  \
            }                                                                                                                              \
        }                                                                                                                                  \
    }

DEFINE_AFFINE(float, CB_F32)
DEFINE_AFFINE(double, CB_F64)

bool cbk_affine_forward(cb_dtype dtype, void *y, const void *x, const void *scale, const void *shift, int64_t n, int64_t c)
{
    if (!check(dtype))
        return false;
    if (cbk_rehearsed(dtype, n * c))
        return true;
    int threads = cbk_threads(n * c * 2);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(n, 1);
        if (dtype == CB_F64)
            forward_double(dtype, y, x, scale, shift, r.begin, r.end, c);
        else
            forward_float(dtype, y, x, scale, shift, r.begin, r.end, c);
    }
    return true;
}

bool cbk_affine_backward(cb_dtype dtype, void *dx, void *dscale, void *dshift, const void *dy, const void *x, const void *scale, int64_t n,
                         int64_t c)
{
    if (!check(dtype))
        return false;
    if (cbk_rehearsed(dtype, n * c))
        return true;
    int threads = cbk_threads(n * c * 4);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(c, 32);
        if (dtype == CB_F64)
            backward_double(dtype, dx, dscale, dshift, dy, x, scale, n, c, r.begin, r.end);
        else
            backward_float(dtype, dx, dscale, dshift, dy, x, scale, n, c, r.begin, r.end);
    }
    return true;
}
