/* denoiser.c: what networks that denoise images have in common: what they are told of each image beside its pixels.
 *
 * How noisy an image is, a timestep, becomes sines and cosines, and those go through two linear layers.  Its class is a row of a table; where
 * the table has more rows than there are classes, the last one stands for no class (Ho and Salimans 2022, arXiv:2207.12598). */
#include <math.h>

#include "models/internal.h"

/* ---- configuration ---- */

bool cb_denoiser_configure_classes(cb_model *model)
{
    const json_t *names = json_object_get(model->json, "id2label");
    int64_t rows = model->config.class_rows;
    if (names && !json_is_null(names) && !json_is_object(names))
        return cb_config_error(model, "id2label is no object, expected one of numbers and names");
    if (json_object_size(names))
        model->labels = (int64_t)json_object_size(names);
    if (model->labels > rows)
        return cb_config_error(model, "id2label has %lld names, expected no more than the table of classes has rows (%lld)",
                               (long long)model->labels, (long long)rows);
    return cb_labels_configure(model, model->labels);
}

bool cb_model_has_null_class(const cb_model *model)
{
    return model->config.class_rows > model->labels;
}

int64_t cb_model_output_channels(const cb_model *model)
{
    return model->config.output_channels;
}

/* ---- what a pass says ---- */

static bool check_rows(const char *what, const cb_tensor *t, cb_dtype dtype, int64_t rows)
{
    return (t->ndim == 1 && t->dtype == dtype && t->shape[0] == rows) ||
           cb_fail(CB_ERR_SHAPE, "model: %s are %s, expected %s(%lld)", what, cb_shape_text(t), cb_dtype_name(dtype), (long long)rows) ==
               CB_OK;
}

/* Classes (B) as rows of the table (B, 1). */
static cb_tensor *rows_of_classes(const cb_model *model, const cb_tensor *classes)
{
    cb_tensor *rows = cb_zeros(CB_I32, classes->shape[0], 1);
    for (int64_t i = 0; rows && !cb_rehearsing() && i < rows->count; i++) {
        int64_t class = (int64_t)cb_get(classes, i);
        if (class >= model->labels || (class < 0 && !cb_model_has_null_class(model))) {
            cb_fail(CB_ERR_ARGUMENT, "model: class %lld of row %lld, expected 0 to %lld%s", (long long)class, (long long)i,
                    (long long)model->labels - 1, cb_model_has_null_class(model) ? ", or less for none" : "");
            return NULL;
        }
        ((int32_t *)rows->data)[i] = (int32_t)(class < 0 ? model->config.class_rows - 1 : class);
    }
    return rows;
}

bool cb_denoiser_begin(const cb_model *model, const cb_tensor *pixels, cb_pass *pass)
{
    const cb_context *ctx = &pass->ctx;
    const char *type = model->architecture->model_type;
    int64_t rows = pixels->shape[0];
    if (!ctx->timesteps)
        return cb_fail(CB_ERR_ARGUMENT, "model: %s found no timesteps in the context, expected one for each image", type) == CB_OK;
    if (!check_rows("timesteps", ctx->timesteps, CB_F32, rows) || (ctx->classes && !check_rows("classes", ctx->classes, CB_I32, rows)))
        return false;
    if (!model->config.class_rows)
        return !ctx->classes || cb_fail(CB_ERR_ARGUMENT, "model: found classes, and this %s has no table of them", type) == CB_OK;
    if (!ctx->classes && !cb_model_has_null_class(model))
        return cb_fail(CB_ERR_ARGUMENT, "model: found no classes in the context, expected one of %lld for each image",
                       (long long)model->labels) == CB_OK;
    cb_tensor *classes = ctx->classes ? ctx->classes : cb_full(CB_I32, -1, rows);
    pass->classes = classes ? rows_of_classes(model, classes) : NULL;
    return pass->classes;
}

/* ---- timesteps ---- */

cb_tensor *cb_denoiser_waves(const cb_model *model, const cb_tensor *timesteps, int64_t width, bool flip, double shift)
{
    const double longest = 10000;
    int64_t half = width / 2;
    cb_tensor *waves = cb_zeros(CB_F32, timesteps->shape[0], 1, width);
    float *row = waves ? waves->data : NULL;
    for (int64_t b = 0; waves && !cb_rehearsing() && b < timesteps->shape[0]; b++, row += width)
        for (int64_t i = 0; i < half; i++) {
            double angle = cb_get(timesteps, b) * exp(-log(longest) * (double)i / ((double)half - shift));
            row[flip ? half + i : i] = (float)sin(angle);
            row[flip ? i : half + i] = (float)cos(angle);
        }
    return waves && model->dtype != CB_F32 ? cb_cast(waves, model->dtype) : waves;
}

bool cb_time_layers_build(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, cb_time_layers *layers)
{
    cb_layer *group = parent ? cb_layer_new(parent, name, CB_LAYER_GROUP) : NULL;
    layers->first = group ? cb_source_linear(source, group, "linear_1", in, out, false, true, CB_INITIAL_KAIMING) : NULL;
    layers->second = layers->first ? cb_source_linear(source, group, "linear_2", out, out, false, true, CB_INITIAL_KAIMING) : NULL;
    return layers->second;
}

cb_tensor *cb_time_layers_run(const cb_time_layers *layers, cb_tensor *waves, const cb_context *ctx)
{
    return cb_linear_forward(layers->second, cb_silu(cb_linear_forward(layers->first, waves, ctx)), ctx);
}
