/* judge.c: see judge.h. */
#include "experiments/judge.h"

static size_t mark(const cb_evaluation *e, const cb_dataset *data, size_t most, double *items)
{
    size_t count = (size_t)e->rows < most ? (size_t)e->rows : most;
    for (size_t i = 0; i < count; i++) {
        const float *scores = e->predictions.scores + (int64_t)i * e->predictions.labels;
        int64_t best = 0;
        size_t labels;
        for (int64_t k = 1; k < e->predictions.labels; k++)
            best = scores[k] > scores[best] ? k : best;
        items[i] = cb_dataset_row_labels(data, (int64_t)i, &labels)[0] == best;
    }
    return count;
}

bool judge_metrics(cb_model *model, cb_dataset *data, cb_metrics *metrics, size_t most, double *items, size_t *count)
{
    cb_evaluation e = {0};
    bool ok = data && cb_evaluate(model, data, 32, 0, &e);
    size_t marked = ok && items ? mark(&e, data, most, items) : 0;
    if (count)
        *count = marked;
    *metrics = e.metrics;
    cb_predictions_free(&e.predictions);
    return ok && cb_ok();
}

size_t judge_rows(cb_model *model, cb_dataset *data, size_t most, double *items)
{
    cb_metrics metrics;
    size_t count = 0;
    return judge_metrics(model, data, &metrics, most, items, &count) ? count : 0;
}
