/* conv_unit.c: a convolution, a norm and an activation: what the blocks of ResNet, MobileNet and U-Net are made of. */
#include "models/internal.h"

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

cb_tensor *cb_conv_unit_run(const cb_conv_unit *unit, cb_tensor *x, const cb_context *ctx)
{
    x = cb_conv2d_forward(unit->conv, unit->pads ? padded(unit->conv, x) : x, ctx);
    if (unit->norm)
        x = (unit->norm->groups ? cb_group_norm_forward : cb_batch_norm_forward)(unit->norm, x, ctx);
    return cb_activate(unit->activation, x);
}

cb_tensor *cb_conv_behind_norm(const cb_layer *norm, const cb_layer *conv, cb_activation activation, cb_tensor *x, const cb_context *ctx)
{
    return cb_conv2d_forward(conv, cb_activate(activation, cb_group_norm_forward(norm, x, ctx)), ctx);
}
