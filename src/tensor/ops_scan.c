/* ops_scan.c: running sums and products, and the linear recurrence that their gradients are made of.
 *
 * Rules are made of public operations, so they can be differentiated again, and divide by no element: products are right where factors are
 * zero.  Half types are computed in f32 where it takes several steps. */
#include "kernels/kernels.h"
#include "tensor/span.h"

/* ---- running sums ---- */

typedef struct scan_args {
    int dim;
    bool reverse; /* from the end */
} scan_args;

static cb_tensor *cumsum_run(cb_tensor *x, scan_args a);

static void cumsum_backward(cb_backward_pass *pass)
{
    scan_args a = *(const scan_args *)pass->args;
    a.reverse = !a.reverse;
    pass->dx[0] = cumsum_run(pass->dy[0], a);
}

const cb_op cb_op_cumsum = {.name = "cumsum", .twice = true, .backward = cumsum_backward};

static cb_tensor *cumsum_run(cb_tensor *x, scan_args a)
{
    cb_span s;
    x = x ? cb_contiguous(x) : NULL;
    if (!x || !cb_span_of("cumsum", x, a.dim, &s))
        return NULL;
    cb_tensor *y = cb_empty_like(x), *ins[] = {x};
    if (!y || !cbk_cumulate(CBK_SUM, x->dtype, y->data, x->data, s.outer, s.reduce, s.inner, a.reverse))
        return NULL;
    return cb_record(&cb_op_cumsum, 1, &y, 1, ins, 0, NULL, &a, sizeof a) ? y : NULL;
}

cb_tensor *cb_cumsum(cb_tensor *x, int dim)
{
    int d = x ? cb_dim("cumsum", x, dim) : -1;
    return d >= 0 ? cumsum_run(x, (scan_args){.dim = d}) : NULL;
}

/* ---- linear recurrence and running products ---- */

/* y_t = a_t y_(t-1) + b_t.  The gradient of b obeys the same recurrence backwards: g_t = dy_t + a_(t+1) g_(t+1); that of a_t is g_t y_(t-1). */
static void linear_scan_backward(cb_backward_pass *pass)
{
    scan_args s = *(const scan_args *)pass->args;
    cb_tensor *a = pass->saved[0], *y = pass->saved[1];
    cb_tensor *g = cb_linear_scan(cb_neighbour(a, s.dim, !s.reverse, 0), pass->dy[0], s.dim, !s.reverse);
    if (pass->need[0])
        pass->dx[0] = cb_mul(g, cb_neighbour(y, s.dim, s.reverse, 0));
    if (pass->need[1])
        pass->dx[1] = g;
}

const cb_op cb_op_linear_scan = {.name = "linear_scan", .twice = true, .backward = linear_scan_backward};

#define DEFINE_SCAN(T, name)                                                                                                               \
    static void scan_##name(T *y, const T *a, const T *b, const cb_span *s, bool reverse)                                                  \
    {                                                                                                                                      \
        for (int64_t o = 0; o < s->outer; o++)                                                                                             \
            for (int64_t t = 0; t < s->reduce; t++) {                                                                                      \
                int64_t row = (o * s->reduce + (reverse ? s->reduce - 1 - t : t)) * s->inner;                                              \
                int64_t before = reverse ? row + s->inner : row - s->inner;                                                                \
                for (int64_t i = 0; i < s->inner; i++)                                                                                     \
                    y[row + i] = t ? b[row + i] + a[row + i] * y[before + i] : b[row + i];                                                 \
            }                                                                                                                              \
    }
DEFINE_SCAN(float, f32)
DEFINE_SCAN(double, f64)

cb_tensor *cb_linear_scan(cb_tensor *a, cb_tensor *b, int dim, bool reverse)
{
    if (!a || !b)
        return NULL;
    if (a->dtype != b->dtype || !cb_same_shape(a, b) || (a->dtype != CB_F32 && a->dtype != CB_F64)) {
        cb_fail(CB_ERR_SHAPE, "linear_scan: %s and %s, expected the same, f32 or f64", cb_shape_text(a), cb_shape_text(b));
        return NULL;
    }
    cb_span s;
    a = cb_contiguous(a);
    b = cb_contiguous(b);
    cb_tensor *y = cb_empty_like(b);
    if (!a || !y || !cb_span_of("linear_scan", a, dim, &s))
        return NULL;
    if (a->dtype == CB_F64)
        scan_f64(y->data, a->data, b->data, &s, reverse);
    else
        scan_f32(y->data, a->data, b->data, &s, reverse);
    scan_args args = {.dim = s.dim, .reverse = reverse};
    cb_tensor *ins[] = {a, b}, *saves[] = {a, a->requires_grad ? y : NULL};
    return CB_RECORD(&cb_op_linear_scan, y, ins, saves, &args, sizeof args) ? y : NULL;
}

/* dx_k = (x_0 ... x_(k-1)) s_k,  s_k = sum_(i >= k) dy_i x_(k+1) ... x_i = dy_k + x_(k+1) s_(k+1): no division, so zeros do no harm */
static void cumprod_backward(cb_backward_pass *pass)
{
    int dim = *(const int *)pass->args;
    cb_tensor *x = pass->saved[0], *y = pass->saved[1], *dy = pass->dy[0];
    if (x->count == 0) {
        pass->dx[0] = dy;
        return;
    }
    pass->dx[0] = cb_mul(cb_neighbour(y, dim, false, 1), cb_linear_scan(cb_neighbour(x, dim, true, 0), dy, dim, true));
}

const cb_op cb_op_cumprod = {.name = "cumprod", .twice = true, .backward = cumprod_backward};

cb_tensor *cb_cumprod(cb_tensor *x, int dim)
{
    cb_span s;
    if (!x)
        return NULL;
    if (cb_dtype_is_half(x->dtype))
        return cb_cast(cb_cumprod(cb_cast(x, CB_F32), dim), x->dtype);
    int d = cb_dim("cumprod", x, dim);
    x = cb_contiguous(x);
    if (d < 0 || !x || !cb_span_of("cumprod", x, d, &s))
        return NULL;
    cb_tensor *y = cb_empty_like(x), *ins[] = {x}, *saves[] = {x, y};
    if (!y || !cbk_cumulate(CBK_PROD, x->dtype, y->data, x->data, s.outer, s.reduce, s.inner, false))
        return NULL;
    return CB_RECORD(&cb_op_cumprod, y, ins, saves, &s.dim, sizeof s.dim) ? y : NULL;
}
