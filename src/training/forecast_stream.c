/* forecast_stream.c: forecasting as time goes on, where what is learned from are targets that have come to be: a queue of delayed labels. */
#include <math.h>

#include "training/forecast_score.h"
#include "training/internal.h"

/* A window and what it came to. */
typedef struct entry {
    cb_tensor *window, *targets;
} entry;

/* Entry i is written where i - T was read. */
typedef struct queue {
    entry *entries; /* (capacity) */
    int64_t capacity, pushed;
} queue;

static void queue_free(queue *q)
{
    for (int64_t i = 0; q->entries && i < q->capacity; i++) {
        cb_release(q->entries[i].window);
        cb_release(q->entries[i].targets);
    }
    cb_free(q->entries);
}

static bool keep(cb_tensor **slot, const cb_tensor *from)
{
    cb_scope *scope = *slot ? NULL : cb_scope_open();
    if (scope) {
        *slot = cb_keep(cb_empty_like(from));
        cb_scope_close(scope);
    }
    return *slot && cb_copy_into(*slot, from);
}

static bool push(queue *q, const cb_batch *batch)
{
    entry *e = &q->entries[q->pushed++ % q->capacity];
    return keep(&e->window, batch->ids) && keep(&e->targets, batch->targets);
}

/* The oldest entry, once there are as many as the queue holds; it is gone when the next is pushed. */
static const entry *pop(const queue *q)
{
    return q->pushed < q->capacity ? NULL : &q->entries[q->pushed % q->capacity];
}

static bool step(const cb_forecast_training *t, const cb_forecast_policy *policy, const cb_batch *batch, queue *q, forecast_score *score)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_no_grad
    {
        cb_tensor *restored = cb_forecast_restore(t->processor, policy->forecast(policy->user, batch->ids));
        if (!cb_rehearsing())
            cb_forecast_score_add(score, restored, batch->targets);
    }
    cb_scope_close(scope);
    if (!cb_ok() || !policy->learn)
        return cb_ok();
    const entry *seen = push(q, batch) ? pop(q) : NULL;
    return cb_ok() && (!seen || policy->learn(policy->user, seen->window, seen->targets));
}

static bool check(const cb_forecast_result *r)
{
    return isfinite(r->all.mae) ||
           cb_fail(CB_ERR_NUMERIC, "forecasts: their mean error is %g, expected a finite number", r->all.mae) == CB_OK;
}

bool cb_forecast_stream(const cb_forecast_training *training, cb_dataset *stream, const cb_forecast_policy *policy, int64_t max_windows,
                        cb_forecast_result *result)
{
    double begin = cb_now();
    int64_t rows = cb_dataset_rows(stream), prediction = cb_model_series_format(training->model).prediction;
    rows = max_windows && max_windows < rows ? max_windows : rows;
    rows = cb_rehearsing() && prediction + 1 < rows ? prediction + 1 : rows; /* until it has learned */
    queue q = {.capacity = prediction, .entries = cb_calloc((size_t)prediction, sizeof *q.entries)};
    forecast_score score = {0};
    cb_batch batch = {0};
    *result = (cb_forecast_result){.loss = NAN};
    bool ok = q.entries && cb_forecast_score_open(&score, prediction, rows, training->options.mask_below);
    for (int64_t i = 0; ok && i < rows && cb_dataset_sequential(stream, i, 1, &batch); i++) {
        ok = step(training, policy, &batch, &q, &score);
        if (ok && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted after %lld windows", (long long)i + 1) == CB_OK;
    }
    cb_batch_free(&batch);
    queue_free(&q);
    if (ok && cb_ok() && !cb_rehearsing())
        ok = cb_forecast_score_finish(&score, result) && check(result);
    else
        cb_forecast_score_free(&score);
    result->seconds = cb_now() - begin;
    return ok && cb_ok();
}
