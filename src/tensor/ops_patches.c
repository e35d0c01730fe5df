/* ops_patches.c: the patches of images that a kernel sees, as columns, and their sum (torch's unfold and fold): each other's gradients, so
 * both can be differentiated again.
 * Letters: N images, C channels, H height, W width, KH KW the kernel, L = OH OW its places. */
#include <string.h>

#include "kernels/patches.h"
#include "tensor/op.h"

/* Fills in what depends on the image's sizes; false with an error naming `op` when a kernel does not fit. */
static bool place_kernel(const char *op, cbk_patches *p, const cb_conv_options *o)
{
    const int64_t most = INT32_MAX, sizes[2] = {p->h, p->w};
    for (int i = 0; i < 2; i++) {
        p->stride[i] = o->stride[i] ? o->stride[i] : 1;
        p->dilation[i] = o->dilation[i] ? o->dilation[i] : 1;
        p->padding[i] = o->padding[i];
        bool sane = p->kernel[i] > 0 && p->stride[i] > 0 && p->dilation[i] > 0 && p->padding[i] >= 0 && p->kernel[i] <= most &&
                    p->stride[i] <= most && p->dilation[i] <= most && p->padding[i] <= most && sizes[i] <= most;
        int64_t room = sane ? sizes[i] + 2 * p->padding[i] - p->dilation[i] * (p->kernel[i] - 1) : 0;
        if (room < 1)
            return cb_fail(CB_ERR_SHAPE, "%s: a kernel of %lld by %lld does not fit images of %lld by %lld", op, (long long)p->kernel[0],
                           (long long)p->kernel[1], (long long)p->h, (long long)p->w) == CB_OK;
        p->places[i] = (room - 1) / p->stride[i] + 1;
    }
    int64_t product;
    if (__builtin_mul_overflow(p->places[0], p->places[1], &product) ||
        __builtin_mul_overflow(p->c, p->kernel[0] * p->kernel[1], &product)) /* of two below 2^31 */
        return cb_fail(CB_ERR_SHAPE, "%s: a kernel of %lld by %lld at %lld by %lld places: more than can be counted", op,
                       (long long)p->kernel[0], (long long)p->kernel[1], (long long)p->places[0], (long long)p->places[1]) == CB_OK;
    return true;
}

static cb_conv_options options_of(const cbk_patches *p)
{
    cb_conv_options o = {0};
    memcpy(o.stride, p->stride, sizeof p->stride);
    memcpy(o.padding, p->padding, sizeof p->padding);
    memcpy(o.dilation, p->dilation, sizeof p->dilation);
    return o;
}

static void im2col_backward(cb_backward_pass *pass)
{
    const cbk_patches *p = pass->args;
    pass->dx[0] = cb_col2im(pass->dy[0], p->h, p->w, p->kernel[0], p->kernel[1], options_of(p));
}

static void col2im_backward(cb_backward_pass *pass)
{
    const cbk_patches *p = pass->args;
    pass->dx[0] = cb_im2col(pass->dy[0], p->kernel[0], p->kernel[1], options_of(p));
}

const cb_op cb_op_im2col = {.name = "im2col", .twice = true, .backward = im2col_backward};
const cb_op cb_op_col2im = {.name = "col2im", .twice = true, .backward = col2im_backward};

cb_tensor *cb_im2col(cb_tensor *x, int64_t kh, int64_t kw, cb_conv_options options)
{
    if (!x)
        return NULL;
    if (x->ndim != 4 || !cb_dtype_is_float(x->dtype)) {
        cb_fail(CB_ERR_SHAPE, "im2col: %s, expected floating-point (N, C, H, W)", cb_shape_text(x));
        return NULL;
    }
    cbk_patches p = {.n = x->shape[0], .c = x->shape[1], .h = x->shape[2], .w = x->shape[3], .kernel = {kh, kw}};
    if (!place_kernel("im2col", &p, &options))
        return NULL;
    cb_tensor *image = cb_contiguous(cb_detach(x)), *y = cb_empty(x->dtype, p.n, p.c * kh * kw, p.places[0] * p.places[1]);
    if (!image || !y)
        return NULL;
    cbk_im2col(y->data, image->data, x->dtype, &p);
    return cb_record(&cb_op_im2col, 1, &y, 1, &x, 0, NULL, &p, sizeof p) ? y : NULL;
}

cb_tensor *cb_col2im(cb_tensor *columns, int64_t h, int64_t w, int64_t kh, int64_t kw, cb_conv_options options)
{
    if (!columns)
        return NULL;
    if (cb_dtype_is_half(columns->dtype))
        return cb_cast(cb_col2im(cb_cast(columns, CB_F32), h, w, kh, kw, options), columns->dtype);
    cbk_patches p = {.h = h, .w = w, .kernel = {kh, kw}};
    if (!place_kernel("col2im", &p, &options))
        return NULL;
    if (columns->ndim != 3 || !cb_dtype_is_float(columns->dtype) || columns->shape[1] % (kh * kw) ||
        columns->shape[2] != p.places[0] * p.places[1]) {
        cb_fail(CB_ERR_SHAPE, "col2im: %s, expected floating-point (N, C * %lld, %lld)", cb_shape_text(columns), (long long)(kh * kw),
                (long long)(p.places[0] * p.places[1]));
        return NULL;
    }
    p.n = columns->shape[0];
    p.c = columns->shape[1] / (kh * kw);
    cb_tensor *dense = cb_contiguous(cb_detach(columns)), *y = cb_empty(columns->dtype, p.n, p.c, h, w);
    if (!dense || !y)
        return NULL;
    cbk_col2im(y->data, dense->data, columns->dtype, &p);
    return cb_record(&cb_op_col2im, 1, &y, 1, &columns, 0, NULL, &p, sizeof p) ? y : NULL;
}
