/* forecast_score.h: sums of the errors of forecasts, of each step ahead. */
#ifndef CB_TRAINING_FORECAST_SCORE_H
#define CB_TRAINING_FORECAST_SCORE_H

#include "cambium/training.h"

typedef struct forecast_sums {
    double absolute, squares, relative;
    int64_t count, relative_count;
} forecast_sums;

typedef struct forecast_score {
    forecast_sums *each; /* (prediction) */
    int64_t prediction, rows, capacity;
    double *row_mae; /* (capacity) */
    double mask_below;
} forecast_score;

/* For so many rows. */
bool cb_forecast_score_open(forecast_score *s, int64_t prediction, int64_t rows, double mask_below);
/* Restored forecasts and targets (B, T, N, C), rows in their order. */
bool cb_forecast_score_add(forecast_score *s, cb_tensor *restored, cb_tensor *targets);
/* Into the result, which takes row_mae; the score is freed. */
bool cb_forecast_score_finish(forecast_score *s, cb_forecast_result *result);
void cb_forecast_score_free(forecast_score *s);

#endif
