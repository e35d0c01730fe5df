/* forecasting.c: learning and judging forecasts: losses and errors are those of numbers as they are, not of normalised ones.
 *
 * Shape letters: B rows, T steps ahead, N nodes, C channels. */
#include <math.h>
#include <string.h>

#include "cambium/losses.h"
#include "training/forecast_score.h"
#include "training/internal.h"

static const char *const loss_names[] = {"huber", "mae", NULL};

#define OPT cb_forecast_options
const cb_option cb_forecast_option_table[] = {
    CB_OPT_ENUM(OPT, forecast_loss, CB_FORECAST_HUBER, loss_names, "what is minimised, of numbers that are not normalised"),
    CB_OPT_FLOAT(OPT, huber_delta, 2, 1e-6, 1e9, "huber: an error beyond it counts as a straight line"),
    CB_OPT_FLOAT(OPT, mask_below, -1e30, -1e30, 1e30, "metrics: targets below it do not count (10 is usual for counts of cells of a city)"),
    CB_OPT_END};
#undef OPT

/* ---- restoring ---- */

/* A list of the processor's for the first C channels, as a factor or an addend of forecasts: (C) or (N, C). */
static cb_tensor *list_of(const cb_series_processor *p, const double *values, const cb_tensor *forecast)
{
    int64_t nodes = forecast->shape[2], channels = forecast->shape[3];
    if (p->nodes && p->nodes != nodes) {
        cb_fail(CB_ERR_ARGUMENT, "forecasts: %lld nodes, expected the processor's %lld", (long long)nodes, (long long)p->nodes);
        return NULL;
    }
    cb_tensor *list = p->nodes ? cb_empty(CB_F32, nodes, channels) : cb_empty(CB_F32, channels);
    for (int64_t i = 0; list && i < list->count; i++)
        ((float *)list->data)[i] = (float)values[i / channels * p->channels + i % channels];
    return list;
}

cb_tensor *cb_forecast_restore(const cb_series_processor *processor, cb_tensor *forecast)
{
    if (!forecast)
        return NULL;
    if (forecast->ndim != 4 || forecast->shape[3] > processor->channels) {
        cb_fail(CB_ERR_SHAPE, "forecasts: found %s, expected (B, T, N, up to %lld channels)", cb_shape_text(forecast),
                (long long)processor->channels);
        return NULL;
    }
    cb_tensor *x = forecast->dtype == CB_F32 ? forecast : cb_cast(forecast, CB_F32);
    return cb_add(cb_mul(x, list_of(processor, processor->std, forecast)), list_of(processor, processor->mean, forecast));
}

/* ---- the loss ---- */

static int64_t count_known(const cb_tensor *targets)
{
    int64_t count = 0;
    for (int64_t i = 0; i < targets->count; i++)
        count += isfinite(((const float *)targets->data)[i]) != 0;
    return count;
}

cb_tensor *cb_forecast_loss(const cb_forecast_options *options, cb_tensor *restored, cb_tensor *targets, double normalizer)
{
    targets = cb_contiguous(targets);
    if (!restored || !targets)
        return NULL;
    if (restored->dtype != CB_F32 || targets->dtype != CB_F32 || !cb_same_shape(restored, targets)) {
        cb_fail(CB_ERR_SHAPE, "forecasts: found %s for targets %s, expected f32 of one shape", cb_shape_text(restored),
                cb_shape_text(targets));
        return NULL;
    }
    int64_t known = count_known(targets);
    if (known < targets->count) {
        cb_tensor *is_known = cb_eq(targets, targets), *none = cb_zeros_like(targets);
        restored = cb_where(is_known, restored, none);
        targets = cb_where(is_known, targets, none);
    }
    cb_tensor *sum = options->forecast_loss == CB_FORECAST_MAE
                         ? cb_l1_loss(restored, targets, CB_REDUCE_SUM)
                         : cb_huber_loss(restored, targets, options->huber_delta > 0 ? options->huber_delta : 2, CB_REDUCE_SUM);
    normalizer = normalizer > 0 ? normalizer : known ? (double)known : 1;
    return sum ? cb_scale(sum, 1 / normalizer) : NULL;
}

static cb_tensor *forecast_of(const cb_forecast_training *t, cb_tensor *windows, const cb_context *ctx)
{
    return cb_forecast_restore(t->processor, cb_model_logits(t->model, windows, ctx));
}

static cb_tensor *loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    const cb_forecast_training *t = what->objective;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *value = cb_scope_return(scope, cb_forecast_loss(&t->options, forecast_of(t, ids, ctx), targets, normalizer));
    cb_scope_close(scope);
    return value;
}

/* ---- judging ---- */

static bool judge_batch(const cb_forecast_training *t, const cb_batch *batch, forecast_score *score, double *sum)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    const cb_context ctx = cb_train_context(batch);
    cb_no_grad
    {
        cb_tensor *restored = forecast_of(t, batch->ids, &ctx);
        cb_tensor *value = restored ? cb_forecast_loss(&t->options, restored, batch->targets, 1) : NULL;
        if (value && !cb_rehearsing()) {
            *sum += cb_item(value);
            cb_forecast_score_add(score, restored, batch->targets);
        }
    }
    cb_scope_close(scope);
    return cb_ok() && cb_file_maps_check();
}

static bool judge(const cb_forecast_training *t, cb_dataset *data, const cb_validation *how, cb_forecast_result *result)
{
    double begin = cb_now(), sum = 0, known = 0;
    int64_t rows = cb_dataset_rows(data), size = how->batch_size, batches = (rows + size - 1) / size;
    batches = how->max_batches && how->max_batches < batches ? how->max_batches : batches;
    rows = batches * size < rows ? batches * size : rows;
    forecast_score score;
    cb_batch batch = {0};
    *result = (cb_forecast_result){0};
    bool ok = cb_forecast_score_open(&score, cb_model_series_format(t->model).prediction, rows, t->options.mask_below);
    for (int64_t i = 0; ok && i < (cb_rehearsing() ? 1 : batches) && cb_dataset_sequential(data, i, size, &batch); i++) {
        known += (double)batch.predicted;
        ok = judge_batch(t, &batch, &score, &sum) && cb_train_goes_on(how, i + 1);
    }
    cb_batch_free(&batch);
    ok = ok && cb_ok();
    if (!ok || cb_rehearsing())
        cb_forecast_score_free(&score);
    else
        ok = cb_forecast_score_finish(&score, result);
    result->loss = known > 0 ? sum / known : NAN;
    if (ok && !cb_rehearsing() && !isfinite(result->loss))
        ok = cb_fail(CB_ERR_NUMERIC, "evaluation: the mean loss of forecasts is %g", result->loss) == CB_OK;
    result->seconds = cb_now() - begin;
    return ok;
}

bool cb_evaluate_forecasting(const cb_forecast_training *t, cb_dataset *data, int64_t batch_size, int64_t max_batches,
                             cb_forecast_result *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches, .interruptible = true};
    return judge(t, data, &how, result);
}

static bool evaluate(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    cb_forecast_result r;
    bool ok = judge(what->objective, data, &(cb_validation){.batch_size = batch_size, .max_batches = max_batches}, &r);
    *result = (cb_evaluation){.loss = cb_rehearsing() ? 0 : r.loss, .rows = r.rows, .predicted = r.all.count, .seconds = r.seconds};
    result->metrics = (cb_metrics){.items = {{"mae", r.all.mae}, {"rmse", r.all.rmse}, {"mape", r.all.mape}}, .count = 3};
    cb_forecast_result_free(&r);
    return ok;
}

/* ---- as something to train ---- */

static bool save(const cb_trainee *what, const char *directory)
{
    const cb_forecast_training *t = what->objective;
    return t->save(what, directory) && cb_series_processor_save(t->processor, directory);
}

static char *describe(const cb_trainee *what)
{
    const cb_forecast_training *t = what->objective;
    char *inner = t->describe ? t->describe(what) : NULL;
    char *text = cb_ok() ? cb_format("%s, forecasts by %s, delta %.9g", inner ? inner : "", loss_names[t->options.forecast_loss],
                                     t->options.huber_delta)
                         : NULL;
    cb_free(inner);
    return text;
}

bool cb_series_processor_fits(const cb_series_processor *processor, const cb_model *model, const char *name)
{
    const cb_series_format f = cb_model_series_format(model);
    if (!f.context)
        return cb_fail(CB_ERR_UNSUPPORTED, "forecasting: a %s model takes no series, expected one of gcgru, dlinear",
                       cb_model_type(model)) == CB_OK;
    if (processor->channels != f.channels || (processor->nodes && f.nodes && processor->nodes != f.nodes))
        return cb_fail(CB_ERR_ARGUMENT,
                       "%s: %lld channels of %lld nodes, expected the model's %lld of %lld (num_input_channels, num_nodes)", name,
                       (long long)processor->channels, (long long)processor->nodes, (long long)f.channels, (long long)f.nodes) == CB_OK;
    return true;
}

bool cb_train_forecasting(cb_trainee *what, cb_forecast_training *training)
{
    if (!cb_series_processor_fits(training->processor, training->model, "processor"))
        return false;
    training->save = what->save;
    training->describe = what->describe;
    what->loss = loss;
    what->evaluate = evaluate;
    what->save = save;
    what->describe = describe;
    what->objective = training;
    return true;
}
