/* dlinear.c: DLinear (Zeng et al. 2023, arXiv:2205.13504): the trend of a series and what is left of it go through a linear layer each, over
 * time, which all series share; the forecast is their sum.  Both are one layer here, of the two behind each other. */
#include "models/internal.h"

typedef struct dlinear {
    int64_t kernel;
} dlinear;

static bool configure(cb_model *model)
{
    dlinear *d = model->details = cb_calloc(1, sizeof *d);
    if (!d || !cb_series_configure(model, 0))
        return false;
    d->kernel = cb_json_int(model->config_path, model->json, "moving_average", 25);
    if (cb_ok() && (d->kernel < 1 || d->kernel > 1 << 16 || d->kernel % 2 == 0))
        return cb_config_error(model, "moving_average is %lld, expected an odd number of steps", (long long)d->kernel);
    model->config.width = 2 * model->config.context;
    return cb_ok();
}

static bool build(cb_model *model, cb_weight_source *source)
{
    (void)model;
    (void)source;
    return true; /* there is the head alone */
}

/* (B, T, N, C) -> what is left, and the trend, of each series to be foretold: (B, N, C, 2 T) */
static cb_tensor *embed(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    const dlinear *d = model->details;
    (void)pass;
    x = cb_slice(x, 3, 0, model->config.targets, 1);
    cb_tensor *trend = cb_series_trend(x, 1, d->kernel), *parts[] = {trend ? cb_sub(x, trend) : NULL, trend};
    cb_tensor *both = parts[0] && parts[1] ? cb_cat(2, parts, 1) : NULL;
    both = both ? cb_contiguous(cb_permute(both, 0, 2, 3, 1)) : NULL;
    return both && both->dtype != model->dtype ? cb_cast(both, model->dtype) : both;
}

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_FORECASTING, .class_end = "ForPrediction", .output = "head", .each_channel = true, .bias = true},
    {0},
};

const cb_architecture cb_dlinear_family[] = {
    {.model_type = "dlinear",
     .class_prefix = "DLinear",
     .prefix = "",
     .heads = heads,
     .bidirectional = true,
     .series = true,
     .configure = configure,
     .build = build,
     .embed = embed},
    {0},
};
