/* pixels.c: images as what a model takes: which it takes, their patches as tokens, and learned positions at another size.
 *
 * Shape letters here: B batch, C channels, H and W the image's places, h and w those of its patches. */
#include "models/internal.h"

/* ---- configuration ---- */

bool cb_pixels_configure_channels(cb_model *model)
{
    static const cb_config_field fields[] = {{"num_channels", offsetof(cb_model_config, channels), 3, 1, 1 << 16}, {0}};
    return cb_config_integers(model, fields);
}

bool cb_pixels_configure_patches(cb_model *model, int64_t image_size, int64_t patch_size)
{
    cb_model_config *c = &model->config;
    if (!cb_pixels_configure_channels(model) || !cb_config_size(model, "image_size", image_size, 1 << 16, c->image_size) ||
        !cb_config_size(model, "patch_size", patch_size, 1 << 16, c->patch_size))
        return false;
    for (int i = 0; i < 2; i++)
        if (c->image_size[i] % c->patch_size[i])
            return cb_config_error(model, "image_size is %lld, expected a multiple of patch_size (%lld)", (long long)c->image_size[i],
                                   (long long)c->patch_size[i]);
    return true;
}

cb_image_format cb_model_image_format(const cb_model *model)
{
    const cb_model_config *c = &model->config;
    if (model->architecture->series)
        return (cb_image_format){0};
    return (cb_image_format){.channels = c->channels, .height = c->image_size[0], .width = c->image_size[1]};
}

/* ---- a pass begins ---- */

/* Virtual tokens before a text would be passed over. */
static bool check_prompt(const cb_model *model, const cb_context *ctx)
{
    const cb_module *found = NULL;
    if (model->position_embedding && !cb_layer_prompt(model->position_embedding, ctx, &found))
        return false;
    return !found || cb_fail(CB_ERR_UNSUPPORTED, "virtual tokens: found %s on %s, a model of images; expected a model of text",
                             found->kind->name, model->architecture->model_type) == CB_OK;
}

bool cb_pixels_begin(cb_pass *pass, cb_model *model, const cb_tensor *pixels)
{
    const cb_context *ctx = &pass->ctx;
    const char *type = model->architecture->model_type;
    if (pixels->ndim != 4 || !pixels->count || !cb_dtype_is_float(pixels->dtype))
        return cb_fail(CB_ERR_SHAPE, "model: %s takes images, found %s, expected floating-point pixels (batch, %lld, height, width)", type,
                       cb_shape_text(pixels), (long long)model->config.channels) == CB_OK;
    if (pixels->shape[1] != model->config.channels)
        return cb_fail(CB_ERR_SHAPE, "model: images of %lld channels, expected %lld", (long long)pixels->shape[1],
                       (long long)model->config.channels) == CB_OK;
    if (ctx->cache || ctx->positions || ctx->segments || ctx->types)
        return cb_fail(CB_ERR_UNSUPPORTED, "model: %s takes images, found %s in the context, expected none", type,
                       ctx->cache       ? "a cache"
                       : ctx->positions ? "positions"
                       : ctx->segments  ? "segments"
                                        : "token types") == CB_OK;
    return check_prompt(model, ctx);
}

/* ---- patches ---- */

cb_tensor *cb_pixels_conv(const cb_model *model, const cb_layer *conv, cb_tensor *pixels, const cb_context *ctx)
{
    cb_tensor *x = pixels && pixels->dtype != model->dtype ? cb_cast(pixels, model->dtype) : pixels;
    return x ? cb_conv2d_forward(conv, x, ctx) : NULL;
}

cb_tensor *cb_pixels_channels_behind(cb_tensor *x)
{
    return x ? cb_permute(x, 0, 2, 3, 1) : NULL;
}

cb_tensor *cb_pixels_channels_in_front(cb_tensor *x)
{
    return x ? cb_permute(x, 0, 3, 1, 2) : NULL;
}

cb_tensor *cb_pixels_patches(const cb_model *model, const cb_layer *conv, cb_tensor *pixels, const cb_context *ctx)
{
    cb_tensor *x = cb_pixels_channels_behind(cb_pixels_conv(model, conv, pixels, ctx));
    return x ? cb_reshape(x, x->shape[0], x->shape[1] * x->shape[2], x->shape[3]) : NULL;
}

/* ---- positions ---- */

static bool check_size(const cb_model *model, const cb_tensor *pixels, const cb_context *ctx)
{
    const int64_t *size = model->config.image_size;
    if (ctx->interpolate_positions || (pixels->shape[2] == size[0] && pixels->shape[3] == size[1]))
        return true;
    return cb_fail(CB_ERR_SHAPE, "model: images of %lld by %lld, expected %lld by %lld, or interpolated positions",
                   (long long)pixels->shape[2], (long long)pixels->shape[3], (long long)size[0], (long long)size[1]) == CB_OK;
}

/* (1, extra + places, width) for as many patches as the pixels have. */
static cb_tensor *positions_for(const cb_model *model, cb_tensor *positions, int64_t extra, const cb_tensor *pixels)
{
    const cb_model_config *c = &model->config;
    int64_t h = pixels->shape[2] / c->patch_size[0], w = pixels->shape[3] / c->patch_size[1];
    int64_t rows = c->image_size[0] / c->patch_size[0], columns = c->image_size[1] / c->patch_size[1];
    if (!positions || (h == rows && w == columns))
        return positions;
    cb_tensor *places = cb_slice(positions, 1, extra, positions->shape[1], 1);
    places = cb_pixels_channels_in_front(cb_reshape(places, 1, rows, columns, -1));
    places = cb_pixels_channels_behind(cb_interpolate(places, .size = {h, w}, .mode = CB_CUBIC));
    cb_tensor *parts[] = {cb_slice(positions, 1, 0, extra, 1), cb_reshape(places, 1, h * w, -1)};
    return extra ? cb_cat(2, parts, 1) : parts[1];
}

cb_tensor *cb_pixels_add_positions(const cb_model *model, cb_tensor *x, cb_tensor *positions, int64_t extra, const cb_tensor *pixels,
                                   const cb_context *ctx)
{
    if (!x || !check_size(model, pixels, ctx))
        return NULL;
    positions = positions_for(model, positions, extra, pixels);
    return cb_add(x, positions && positions->dtype != x->dtype ? cb_cast(positions, x->dtype) : positions);
}
