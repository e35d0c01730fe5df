/* conv_unit.c: a convolution, a norm and an activation: what the blocks of ResNet, MobileNet and U-Net are made of. */
#include "models/internal.h"
#include "tensor/op.h"

bool cb_conv_unit_build(cb_model *model, cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out,
                        int64_t kernel, cb_conv_options options, cb_activation activation, cb_conv_unit *unit)
{
    cb_layer *group = parent ? cb_layer_new(parent, name, CB_LAYER_GROUP) : NULL;
    if (!group)
        return false;
    unit->activation = activation;
    unit->conv = cb_source_conv(source, group, "convolution", in, out, kernel, options, false, CB_INITIAL_KAIMING);
    unit->norm = unit->conv ? cb_source_batch_norm(source, group, "normalization", out, model->config.eps) : NULL;
    return unit->norm;
}

bool cb_conv_unit_build_folded(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, int64_t kernel,
                               cb_conv_options options, cb_activation activation, cb_conv_unit *unit)
{
    cb_layer *group = parent ? cb_layer_new(parent, name, CB_LAYER_GROUP) : NULL;
    unit->activation = activation;
    unit->conv = group ? cb_source_conv(source, group, "convolution", in, out, kernel, options, true, CB_INITIAL_KAIMING) : NULL;
    return unit->conv;
}

/* Zeros along one of (N, H, W, C), so that there is a result for every stride. */
static cb_tensor *padded_along(cb_tensor *x, int dim, int64_t kernel, int64_t stride)
{
    if (!x)
        return NULL;
    int64_t over = x->shape[dim] % stride, missing = kernel - (over ? over : stride);
    return missing > 0 ? cb_pad(x, dim, missing / 2, missing - missing / 2, 0) : x;
}

static cb_tensor *padded(const cb_layer *conv, cb_tensor *x)
{
    const int64_t *kernel = cb_layer_weight(conv, "weight")->shape + 2;
    x = padded_along(cb_pixels_channels_behind(x), 1, kernel[0], conv->conv.stride[0]);
    return cb_pixels_channels_in_front(padded_along(x, 2, kernel[1], conv->conv.stride[1]));
}

/* Maps are large, so each is gone as soon as what is made of it is there, where the tape does not hold it. */
cb_tensor *cb_conv_unit_run(const cb_conv_unit *unit, cb_tensor *x, const cb_context *ctx)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *y = cb_scope_renew(&scope, cb_conv2d_forward(unit->conv, unit->pads ? padded(unit->conv, x) : x, ctx));
    if (unit->norm && y)
        y = cb_scope_renew(&scope, (unit->norm->groups ? cb_group_norm_forward : cb_batch_norm_forward)(unit->norm, y, ctx));
    y = cb_activate(unit->activation, y);
    if (scope) {
        y = cb_scope_return(scope, y);
        cb_scope_close(scope);
    }
    return y;
}

cb_tensor *cb_conv_units_run(const cb_conv_unit *units, int count, cb_tensor *x, const cb_context *ctx)
{
    cb_scope *scope = cb_scope_open();
    for (int i = 0; i < count && scope; i++)
        x = cb_scope_renew(&scope, cb_conv_unit_run(&units[i], x, ctx));
    if (!scope)
        return NULL;
    x = cb_scope_return(scope, x);
    cb_scope_close(scope);
    return x;
}

cb_tensor *cb_conv_close(cb_activation activation, cb_tensor *x, cb_tensor *residual)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    x = cb_scope_return(scope, cb_activate(activation, cb_add(x, residual)));
    cb_scope_close(scope);
    return x;
}

cb_tensor *cb_conv_behind_norm(const cb_layer *norm, const cb_layer *conv, cb_activation activation, cb_tensor *x, const cb_context *ctx)
{
    return cb_conv2d_forward(conv, cb_activate(activation, cb_group_norm_forward(norm, x, ctx)), ctx);
}
