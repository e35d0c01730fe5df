/* ops_conv.c: convolutions of one to three dimensions.
 *
 * T(x, w, y) = <y, conv(x, w)> is linear in each of its three.  Its derivative by one of them is an operation of the other two: conv by y,
 * conv_data (the transposed convolution) by x, conv_weight by w.  Each one's gradients are the other two, so all can be differentiated again
 * and again.  x and y are channels-last (tensor.h), w row-major. */
#include "kernels/convolution.h"
#include "tensor/internal.h"

/* ---- the three derivatives ---- */

static cb_tensor *convolve(cb_tensor *x, cb_tensor *w, cb_tensor *bias, const cbk_convolution *s);
static cb_tensor *convolve_data(cb_tensor *y, cb_tensor *w, const cbk_convolution *s);
static cb_tensor *convolve_weight(cb_tensor *x, cb_tensor *y, const cbk_convolution *s);

/* The sum of dy (N, O, ...) over everything but O. */
static cb_tensor *bias_gradient(cb_tensor *dy)
{
    int order[CB_MAX_DIMS];
    for (int i = 0; dy && i < dy->ndim; i++)
        order[i] = i == 0 ? 0 : i + 1 < dy->ndim ? i + 1 : 1;
    cb_tensor *rows = dy ? cb_permute_nd(dy, dy->ndim, order) : NULL;
    int64_t channels = dy ? dy->shape[1] : 0, count = channels ? dy->count / channels : 0;
    return rows ? cb_sum(cb_reshape(rows, count, channels), 0, false) : NULL;
}

static void conv_backward(cb_backward_pass *pass)
{
    const cbk_convolution *s = pass->args;
    cb_tensor *x = pass->saved[0], *w = pass->saved[1], *dy = cb_channels_last(pass->dy[0]);
    if (pass->need[0])
        pass->dx[0] = convolve_data(dy, w, s);
    if (pass->need[1])
        pass->dx[1] = convolve_weight(x, dy, s);
    if (pass->need[2])
        pass->dx[2] = bias_gradient(dy);
}

static void conv_data_backward(cb_backward_pass *pass)
{
    const cbk_convolution *s = pass->args;
    cb_tensor *y = pass->saved[0], *w = pass->saved[1], *dx = cb_channels_last(pass->dy[0]);
    if (pass->need[0])
        pass->dx[0] = convolve(dx, w, NULL, s);
    if (pass->need[1])
        pass->dx[1] = convolve_weight(dx, y, s);
}

static void conv_weight_backward(cb_backward_pass *pass)
{
    const cbk_convolution *s = pass->args;
    cb_tensor *x = pass->saved[0], *y = pass->saved[1], *dw = cb_contiguous(pass->dy[0]);
    if (pass->need[0])
        pass->dx[0] = convolve_data(y, dw, s);
    if (pass->need[1])
        pass->dx[1] = convolve(x, dw, NULL, s);
}

const cb_op cb_op_conv = {.name = "conv", .twice = true, .backward = conv_backward};
const cb_op cb_op_conv_data = {.name = "conv_data", .twice = true, .backward = conv_data_backward};
const cb_op cb_op_conv_weight = {.name = "conv_weight", .twice = true, .backward = conv_weight_backward};

static cb_tensor *empty_image(cb_dtype dtype, const cbk_convolution *s, int64_t channels, const int64_t *size)
{
    int64_t shape[5] = {s->n, channels};
    for (int d = 0; d < s->dims; d++)
        shape[2 + d] = size[d];
    return cb_empty_channels_last(dtype, (int)s->dims + 2, shape);
}

/* Records op of two operands, each saved for the sake of the other. */
static cb_tensor *record(const cb_op *op, cb_tensor *result, cb_tensor *a, cb_tensor *b, cb_tensor *bias, const cbk_convolution *s)
{
    cb_tensor *ins[] = {a, b, bias}, *saves[] = {cb_will_record(1, &b) ? a : NULL, cb_will_record(1, &a) ? b : NULL};
    return CB_RECORD(op, result, ins, saves, s, sizeof *s) ? result : NULL;
}

/* Where a frozen weight's ordered copy for one part is kept: with its memory, which nothing else is in. */
static cbk_ordered **kept(const cb_tensor *w, cbk_convolution_part part)
{
    cb_storage *m = w->storage;
    bool whole = m->frozen && w->data == m->bytes && (size_t)w->count * cb_dtype_size(w->dtype) == m->size;
    return whole ? &m->ordered[part] : NULL;
}

static cb_tensor *convolve(cb_tensor *x, cb_tensor *w, cb_tensor *bias, const cbk_convolution *s)
{
    cb_tensor *y = x && w ? empty_image(x->dtype, s, s->o, s->out) : NULL;
    if (!y || !cbk_convolve(CBK_CONVOLUTION, x->dtype, x->data, w->data, bias ? bias->data : NULL, y->data, s, kept(w, CBK_CONVOLUTION)))
        return NULL;
    return record(&cb_op_conv, y, x, w, bias, s);
}

static cb_tensor *convolve_data(cb_tensor *y, cb_tensor *w, const cbk_convolution *s)
{
    cb_tensor *x = y && w ? empty_image(y->dtype, s, s->c, s->in) : NULL;
    if (!x || !cbk_convolve(CBK_CONVOLUTION_DATA, y->dtype, x->data, w->data, NULL, y->data, s, kept(w, CBK_CONVOLUTION_DATA)))
        return NULL;
    return record(&cb_op_conv_data, x, y, w, NULL, s);
}

static cb_tensor *convolve_weight(cb_tensor *x, cb_tensor *y, const cbk_convolution *s)
{
    int64_t shape[5] = {s->o, s->c / s->groups};
    for (int d = 0; d < s->dims; d++)
        shape[2 + d] = s->kernel[d];
    cb_tensor *w = x && y ? cb_empty_nd(x->dtype, (int)s->dims + 2, shape) : NULL;
    if (!w || !cbk_convolve(CBK_CONVOLUTION_WEIGHT, x->dtype, x->data, w->data, NULL, y->data, s, NULL))
        return NULL;
    return record(&cb_op_conv_weight, w, x, y, NULL, s);
}

/* ---- shapes ---- */

static bool check_operands(const char *op, const cb_tensor *x, const cb_tensor *w, const cb_tensor *bias, int64_t groups, bool transposed)
{
    int64_t channels = x->ndim >= 3 ? x->shape[1] : 0;
    if (x->ndim < 3 || x->ndim > 5 || w->ndim != x->ndim || !cb_dtype_is_float(x->dtype) || !cb_dtype_is_float(w->dtype) || groups < 1 ||
        groups > INT32_MAX || w->shape[1] > INT32_MAX || w->shape[0] % groups || channels % groups ||
        (transposed ? w->shape[0] != channels : w->shape[1] != channels / groups))
        return cb_fail(CB_ERR_SHAPE,
                       "%s: input %s, weight %s, %lld groups: expected (N, C, ...) of 1 to 3 spatial dimensions and %s with as many", op,
                       cb_shape_text(x), cb_shape_text(w), (long long)groups,
                       transposed ? "(C, O / groups, ...)" : "(O, C / groups, ...)") == CB_OK;
    int64_t outputs = transposed ? w->shape[1] * groups : w->shape[0];
    if (bias && (bias->ndim != 1 || bias->shape[0] != outputs || !cb_dtype_is_float(bias->dtype)))
        return cb_fail(CB_ERR_SHAPE, "%s: bias %s, expected (%lld)", op, cb_shape_text(bias), (long long)outputs) == CB_OK;
    return true;
}

/* Options with their defaults; false with an error when they are no sizes. */
static bool take_options(const char *op, cbk_convolution *s, const cb_tensor *w, const cb_conv_options *o)
{
    const int64_t most = INT32_MAX;
    s->dims = w->ndim - 2;
    s->groups = o->groups ? o->groups : 1;
    bool sane = true;
    for (int d = 0; d < s->dims; d++) {
        s->kernel[d] = w->shape[2 + d];
        s->stride[d] = o->stride[d] ? o->stride[d] : 1;
        s->dilation[d] = o->dilation[d] ? o->dilation[d] : 1;
        s->padding[d] = o->padding[d];
        sane = sane && s->kernel[d] > 0 && s->stride[d] > 0 && s->dilation[d] > 0 && s->padding[d] >= 0 && s->kernel[d] <= most &&
               s->stride[d] <= most && s->dilation[d] <= most && s->padding[d] <= most && o->output_padding[d] >= 0 &&
               o->output_padding[d] < s->stride[d];
    }
    return sane || cb_fail(CB_ERR_SHAPE,
                           "%s: a kernel of %s: expected sizes, strides and dilations above 0 and paddings of 0 or more, "
                           "those of the output below the stride",
                           op, cb_shape_text_nd((int)s->dims, s->kernel)) == CB_OK;
}

static bool no_room(const char *op, const cbk_convolution *s, const cb_tensor *x)
{
    return cb_fail(CB_ERR_SHAPE, "%s: a kernel of %s does not fit an input of %s", op, cb_shape_text_nd((int)s->dims, s->kernel),
                   cb_shape_text_nd((int)s->dims, x->shape + 2)) == CB_OK;
}

static cb_tensor *cast_to(cb_tensor *x, cb_dtype dtype)
{
    return x ? cb_contiguous(cb_cast(x, dtype)) : NULL;
}

/* ---- the public faces ---- */

cb_tensor *cb_conv_with(cb_tensor *x, cb_tensor *w, cb_tensor *bias, cb_conv_options options)
{
    cbk_convolution s = {0};
    if (!x || !w || !check_operands("conv", x, w, bias, options.groups ? options.groups : 1, false) ||
        !take_options("conv", &s, w, &options))
        return NULL;
    if (!cbk_convolve_takes(x->dtype))
        return cb_cast(cb_conv_with(cb_cast(x, CB_F32), cb_cast(w, CB_F32), bias ? cb_cast(bias, CB_F32) : NULL, options), x->dtype);
    s.n = x->shape[0];
    s.c = x->shape[1];
    s.o = w->shape[0];
    for (int d = 0; d < s.dims; d++) {
        s.in[d] = x->shape[2 + d];
        bool sane = s.in[d] >= 1 && s.in[d] <= INT32_MAX;
        int64_t room = sane ? s.in[d] + 2 * s.padding[d] - s.dilation[d] * (s.kernel[d] - 1) : 0;
        if (room < 1 && !no_room("conv", &s, x))
            return NULL;
        s.out[d] = (room - 1) / s.stride[d] + 1;
    }
    cb_tensor *b = cast_to(bias, x->dtype);
    return bias && !b ? NULL : convolve(cb_channels_last(x), cast_to(w, x->dtype), b, &s);
}

cb_tensor *cb_conv_transpose_with(cb_tensor *x, cb_tensor *w, cb_tensor *bias, cb_conv_options options)
{
    cbk_convolution s = {0};
    if (!x || !w || !check_operands("conv_transpose", x, w, bias, options.groups ? options.groups : 1, true) ||
        !take_options("conv_transpose", &s, w, &options))
        return NULL;
    if (!cbk_convolve_takes(x->dtype))
        return cb_cast(cb_conv_transpose_with(cb_cast(x, CB_F32), cb_cast(w, CB_F32), bias ? cb_cast(bias, CB_F32) : NULL, options),
                       x->dtype);
    s.n = x->shape[0];
    s.o = x->shape[1];
    s.c = w->shape[1] * s.groups;
    int64_t channels[5] = {s.c, 1, 1, 1, 1};
    for (int d = 0; d < s.dims; d++) {
        s.out[d] = x->shape[2 + d];
        if ((s.out[d] < 1 || s.out[d] > INT32_MAX) && !no_room("conv_transpose", &s, x))
            return NULL;
        s.in[d] = (s.out[d] - 1) * s.stride[d] - 2 * s.padding[d] + s.dilation[d] * (s.kernel[d] - 1) + options.output_padding[d] + 1;
        if ((s.in[d] < 1 || s.in[d] > INT32_MAX) && !no_room("conv_transpose", &s, x))
            return NULL;
    }
    cb_tensor *y = convolve_data(cb_channels_last(x), cast_to(w, x->dtype), &s);
    return bias ? cb_add(y, cb_reshape_nd(cast_to(bias, x->dtype), (int)s.dims + 1, channels)) : y;
}
