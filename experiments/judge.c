/* judge.c: see judge.h. */
#include "experiments/judge.h"

size_t judge_rows(cb_model *model, cb_dataset *data, size_t most, double *items)
{
    cb_evaluation e = {0};
    bool ok = data && cb_evaluate(model, data, 32, 0, &e);
    size_t count = ok && (size_t)e.rows < most ? (size_t)e.rows : ok ? most : 0;
    for (size_t i = 0; i < count; i++) {
        const float *scores = e.predictions.scores + (int64_t)i * e.predictions.labels;
        int64_t best = 0;
        size_t labels;
        for (int64_t k = 1; k < e.predictions.labels; k++)
            best = scores[k] > scores[best] ? k : best;
        items[i] = cb_dataset_row_labels(data, (int64_t)i, &labels)[0] == best;
    }
    cb_predictions_free(&e.predictions);
    return cb_ok() ? count : 0;
}
