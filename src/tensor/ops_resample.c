/* ops_resample.c: average pooling and interpolation.
 *
 * Each is linear and separable: along every spatial dimension an output is a weighted sum of a few inputs.  So there is one operation, a
 * sparse matrix for each dimension applied one after the other, and its adjoint, which applies their transposes: each other's gradients.
 * Computed in f32 (f64) and rounded once. */
#include <math.h>

#include "kernels/kernels.h"
#include "kernels/resample.h"
#include "tensor/op.h"

typedef enum resample_kind { WINDOWS, PARTS, NEAREST, LINEAR, CUBIC } resample_kind;

typedef struct resample {
    resample_kind kind;
    bool adjoint, align_corners, antialias, exclude_padding;
    int dims;
    int64_t in[3], out[3];                    /* of the operation whose adjoint this may be */
    int64_t kernel[3], stride[3], padding[3]; /* WINDOWS */
} resample;

/* ---- the matrix of one dimension ---- */

/* Equal weights for begin..end-1, which sum to one when there are `divisor` of them. */
static bool add_mean(cbk_taps *t, int64_t j, int64_t begin, int64_t end, int64_t divisor)
{
    for (int64_t i = begin; i < end; i++)
        if (!cbk_taps_add(t, j, i, 1 / (double)divisor))
            return false;
    return true;
}

static bool add_window(cbk_taps *t, const resample *r, int d, int64_t j)
{
    int64_t begin = j * r->stride[d] - r->padding[d], end = begin + r->kernel[d];
    end = end < t->in + r->padding[d] ? end : t->in + r->padding[d];
    int64_t whole = end - begin;
    begin = begin > 0 ? begin : 0;
    end = end < t->in ? end : t->in;
    return add_mean(t, j, begin, end, r->exclude_padding ? end - begin : whole);
}

/* The part of 0..in-1 that place j of `out` stands for. */
static bool add_part(cbk_taps *t, int64_t j)
{
    int64_t begin = j * t->in / t->out, end = ((j + 1) * t->in + t->out - 1) / t->out;
    return add_mean(t, j, begin, end, end - begin);
}

static int64_t clamped(int64_t i, int64_t size)
{
    return i < 0 ? 0 : i < size ? i : size - 1;
}

/* Where in the input place j lies. */
static double source(const cbk_taps *t, const resample *r, int64_t j)
{
    if (r->align_corners)
        return t->out > 1 ? (double)j * (double)(t->in - 1) / (double)(t->out - 1) : 0;
    return ((double)j + 0.5) * (double)t->in / (double)t->out - 0.5;
}

/* Keys 1981's kernel. */
static double cubic(double x, double a)
{
    x = fabs(x);
    return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static double triangular(double x)
{
    return fabs(x) < 1 ? 1 - fabs(x) : 0;
}

static bool add_cubic(cbk_taps *t, const resample *r, int64_t j)
{
    const double a = -0.75; /* torch's */
    double at = source(t, r, j), whole = floor(at);
    for (int k = -1; k <= 2; k++)
        if (!cbk_taps_add(t, j, clamped((int64_t)whole + k, t->in), cubic(at - whole - k, a)))
            return false;
    return true;
}

static bool add_linear(cbk_taps *t, const resample *r, int64_t j)
{
    double at = source(t, r, j);
    at = at > 0 ? at : 0;
    int64_t whole = clamped((int64_t)at, t->in);
    double part = at - (double)whole;
    return cbk_taps_add(t, j, whole, 1 - part) && cbk_taps_add(t, j, clamped(whole + 1, t->in), part);
}

/* The kernel made as wide as a shrunken place is, as PIL and torch's antialias. */
static bool add_wide(cbk_taps *t, const resample *r, int64_t j)
{
    const double a = -0.5; /* PIL's */
    double scale = (double)t->in / (double)t->out, width = scale > 1 ? scale : 1, centre = scale * ((double)j + 0.5);
    double support = (r->kind == CUBIC ? 2 : 1) * width, sum = 0;
    int64_t begin = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
    begin = centre - support + 0.5 > 0 ? begin : 0;
    end = end < t->in ? end : t->in;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = begin; i < end; i++) {
            double x = ((double)i - centre + 0.5) / width, w = r->kind == CUBIC ? cubic(x, a) : triangular(x);
            if (pass == 0)
                sum += w;
            else if (!cbk_taps_add(t, j, i, w / sum))
                return false;
        }
    return true;
}

static bool add_row(cbk_taps *t, const resample *r, int d, int64_t j)
{
    switch (r->kind) {
    case WINDOWS:
        return add_window(t, r, d, j);
    case PARTS:
        return add_part(t, j);
    case NEAREST: /* in f32, as torch, so that the same element is chosen */
        return cbk_taps_add(t, j, clamped((int64_t)floorf((float)j * ((float)t->in / (float)t->out)), t->in), 1);
    default:
        return r->antialias ? add_wide(t, r, j) : r->kind == CUBIC ? add_cubic(t, r, j) : add_linear(t, r, j);
    }
}

static bool make_taps(cbk_taps *t, const resample *r, int d)
{
    cbk_taps forward, back;
    bool ok = cbk_taps_begin(&forward, r->out[d], r->in[d]);
    for (int64_t j = 0; ok && j < r->out[d]; j++)
        ok = add_row(&forward, r, d, j);
    *t = forward;
    if (!ok || !r->adjoint)
        return ok;
    ok = cbk_taps_transpose(&forward, &back);
    cbk_taps_free(&forward);
    *t = back;
    return ok;
}

/* ---- the operation ---- */

static cb_tensor *resampled(cb_tensor *x, const resample *r);

static void resample_backward(cb_backward_pass *pass)
{
    resample r = *(const resample *)pass->args;
    r.adjoint = !r.adjoint;
    pass->dx[0] = resampled(pass->dy[0], &r);
}

const cb_op cb_op_resample = {.name = "resample", .twice = true, .backward = resample_backward};

/* One dimension of x (channels-last, sizes before its channels in size[]), which becomes that of the result. */
static cb_tensor *along(cb_tensor *x, const resample *r, int d)
{
    cbk_taps t = {0};
    int64_t shape[5], outer = x->shape[0], inner = x->shape[1];
    for (int i = 0; i < x->ndim; i++)
        shape[i] = x->shape[i];
    shape[2 + d] = r->adjoint ? r->in[d] : r->out[d];
    for (int i = 0; i < r->dims; i++)
        *(i < d ? &outer : &inner) *= i == d ? 1 : x->shape[2 + i];
    cb_tensor *y = cb_empty_channels_last(x->dtype, x->ndim, shape); /* first: sizes without memory for y have none for the matrix */
    bool ok = y && make_taps(&t, r, d);
    if (ok && inner)
        cbk_resample(x->dtype, y->data, x->data, outer, inner, &t);
    cbk_taps_free(&t);
    return ok ? y : NULL;
}

static cb_tensor *resampled(cb_tensor *x, const resample *r)
{
    if (x && cb_dtype_is_half(x->dtype))
        return cb_cast(resampled(cb_cast(x, CB_F32), r), x->dtype);
    cb_scope *scope = x ? cb_scope_open() : NULL;
    cb_tensor *y = scope ? cb_channels_last(cb_detach(x)) : NULL;
    for (int d = r->dims - 1; y && d >= 0; d--)
        y = along(y, r, d);
    y = scope ? cb_scope_return(scope, y) : NULL;
    if (scope)
        cb_scope_close(scope);
    return cb_recorded(&cb_op_resample, y, x, r, sizeof *r);
}

/* ---- the public faces ---- */

static bool check_image(const char *op, const cb_tensor *x, resample *r)
{
    if (x->ndim < 3 || x->ndim > 5 || !cb_dtype_is_float(x->dtype))
        return cb_fail(CB_ERR_SHAPE, "%s: %s, expected floating-point (N, C, ...) of 1 to 3 spatial dimensions", op, cb_shape_text(x)) ==
               CB_OK;
    r->dims = x->ndim - 2;
    for (int d = 0; d < r->dims; d++)
        r->in[d] = x->shape[2 + d];
    return true;
}

cb_tensor *cb_avg_pool_with(cb_tensor *x, cb_pool_options options)
{
    resample r = {.kind = WINDOWS, .exclude_padding = options.exclude_padding};
    if (!x || !check_image("avg_pool", x, &r))
        return NULL;
    for (int d = 0; d < r.dims; d++) {
        r.kernel[d] = options.kernel[d];
        r.stride[d] = options.stride[d] ? options.stride[d] : r.kernel[d];
        r.padding[d] = options.padding[d];
        if (options.dilation[d] > 1) {
            cb_fail(CB_ERR_ARGUMENT, "avg_pool: a dilation of %lld, expected none", (long long)options.dilation[d]);
            return NULL;
        }
        if (!cb_place_windows("avg_pool", r.in[d], r.kernel[d], r.stride[d], r.padding[d], 1, &r.out[d]))
            return NULL;
    }
    return resampled(x, &r);
}

static bool take_sizes(const char *op, resample *r, int ndim, const int64_t *size)
{
    bool fits = ndim == r->dims;
    for (int d = 0; fits && d < r->dims; d++) {
        r->out[d] = size[d];
        fits = size[d] >= 1 && size[d] <= INT32_MAX && r->in[d] >= 1;
    }
    return fits || cb_fail(CB_ERR_SHAPE, "%s: images of %s to %s, expected as many sizes, all above 0", op,
                           cb_shape_text_nd(r->dims, r->in), cb_shape_text_nd(ndim, size)) == CB_OK;
}

cb_tensor *cb_adaptive_avg_pool_nd(cb_tensor *x, int ndim, const int64_t *size)
{
    resample r = {.kind = PARTS};
    return x && check_image("adaptive_avg_pool", x, &r) && take_sizes("adaptive_avg_pool", &r, ndim, size) ? resampled(x, &r) : NULL;
}

cb_tensor *cb_interpolate_with(cb_tensor *x, cb_interpolate_options options)
{
    static const resample_kind kinds[] = {[CB_NEAREST] = NEAREST, [CB_LINEAR] = LINEAR, [CB_CUBIC] = CUBIC};
    bool known = options.mode >= CB_NEAREST && options.mode <= CB_CUBIC;
    resample r = {.align_corners = options.align_corners, .antialias = options.antialias};
    if (!x || !check_image("interpolate", x, &r) || !take_sizes("interpolate", &r, r.dims, options.size))
        return NULL;
    if (!known || (options.antialias && (options.align_corners || options.mode == CB_NEAREST)) ||
        (options.align_corners && options.mode == CB_NEAREST)) {
        cb_fail(CB_ERR_ARGUMENT,
                "interpolate: mode %d with align_corners %d and antialias %d: expected one of the two, and not with nearest",
                (int)options.mode, options.align_corners, options.antialias);
        return NULL;
    }
    r.kind = kinds[options.mode];
    return resampled(x, &r);
}
