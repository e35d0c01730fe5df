/* forecast_score.c: mean absolute error, root of the mean square, and mean of the relative error of forecasts.
 *
 * Shape letters: B rows, T steps ahead, N nodes, C channels. */
#include "training/forecast_score.h"

#include <math.h>

bool cb_forecast_score_open(forecast_score *s, int64_t prediction, int64_t rows, double mask_below)
{
    *s = (forecast_score){.each = cb_calloc((size_t)prediction, sizeof *s->each),
                          .row_mae = cb_calloc((size_t)rows, sizeof *s->row_mae),
                          .prediction = prediction,
                          .capacity = rows,
                          .mask_below = mask_below};
    return s->each && s->row_mae;
}

void cb_forecast_score_free(forecast_score *s)
{
    cb_free(s->each);
    cb_free(s->row_mae);
    *s = (forecast_score){0};
}

static void add_entry(forecast_sums *sums, double found, double target)
{
    double error = fabs(found - target);
    sums->absolute += error;
    sums->squares += error * error;
    sums->count++;
    if (target == 0)
        return;
    sums->relative += error / fabs(target);
    sums->relative_count++;
}

static bool check(const forecast_score *s, const cb_tensor *restored, const cb_tensor *targets)
{
    if (!cb_same_shape(restored, targets) || restored->dtype != CB_F32 || targets->dtype != CB_F32)
        return cb_fail(CB_ERR_SHAPE, "forecasts: found %s for targets %s, expected f32 of one shape", cb_shape_text(restored),
                       cb_shape_text(targets)) == CB_OK;
    return (restored->ndim >= 2 && restored->shape[1] == s->prediction) ||
           cb_fail(CB_ERR_SHAPE, "forecasts: found %s, expected %lld steps ahead", cb_shape_text(restored), (long long)s->prediction) ==
               CB_OK;
}

bool cb_forecast_score_add(forecast_score *s, cb_tensor *restored, cb_tensor *targets)
{
    restored = cb_contiguous(restored);
    targets = cb_contiguous(targets);
    if (!restored || !targets || !check(s, restored, targets) || !restored->count)
        return cb_ok();
    const float *found = restored->data, *expected = targets->data;
    int64_t rows = restored->shape[0], step = restored->count / (rows * s->prediction);
    for (int64_t b = 0; b < rows && s->rows < s->capacity; b++, s->rows++) {
        double sum = 0, count = 0;
        for (int64_t i = 0; i < s->prediction * step; i++, found++, expected++) {
            if (!isfinite(*expected) || (double)*expected < s->mask_below)
                continue;
            add_entry(&s->each[i / step], (double)*found, (double)*expected);
            sum += fabs((double)*found - (double)*expected);
            count++;
        }
        s->row_mae[s->rows] = count > 0 ? sum / count : NAN;
    }
    return true;
}

static cb_forecast_errors errors_of(const forecast_sums *s)
{
    double n = (double)s->count, relative = (double)s->relative_count;
    return (cb_forecast_errors){.mae = n > 0 ? s->absolute / n : NAN,
                                .rmse = n > 0 ? sqrt(s->squares / n) : NAN,
                                .mape = relative > 0 ? s->relative / relative : NAN,
                                .count = s->count};
}

bool cb_forecast_score_finish(forecast_score *s, cb_forecast_result *result)
{
    forecast_sums all = {0};
    result->each = cb_calloc((size_t)s->prediction, sizeof *result->each);
    for (int64_t t = 0; result->each && t < s->prediction; t++) {
        const forecast_sums *e = &s->each[t];
        result->each[t] = errors_of(e);
        all.absolute += e->absolute;
        all.squares += e->squares;
        all.relative += e->relative;
        all.count += e->count;
        all.relative_count += e->relative_count;
    }
    result->all = errors_of(&all);
    result->prediction = s->prediction;
    result->rows = s->rows;
    result->row_mae = s->row_mae;
    s->row_mae = NULL;
    double below = s->mask_below;
    cb_forecast_score_free(s);
    return result->each && (all.count || cb_fail(CB_ERR_ARGUMENT, "forecasts: no target counts (mask_below %g)", below) == CB_OK);
}

void cb_forecast_result_free(cb_forecast_result *result)
{
    cb_free(result->each);
    cb_free(result->row_mae);
    *result = (cb_forecast_result){0};
}
