/* transfer.c: Transfer Score of a model on rows whose labels nobody knows. */
#include "cambium/domains.h"

/* (K, D) f32: what the last layer makes of each feature alone, with whatever modules it has; it must be linear, but for its bias. */
static bool read_weights(cb_model *model, int64_t width, float *weights)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_tensor *number = cb_arange(CB_I64, 0, 1, width), *seen = NULL;
    const cb_context ctx = {0};
    cb_no_grad
    {
        cb_tensor *one = cb_cast(cb_eq(cb_unsqueeze(number, 1), cb_unsqueeze(number, 0)), cb_model_dtype(model));
        cb_tensor *none = cb_zeros(cb_model_dtype(model), 1, width);
        cb_tensor *logits = cb_cast(cb_model_judge_features(model, one, &ctx), CB_F32); /* (D, K) */
        seen = cb_transpose(cb_sub(logits, cb_cast(cb_model_judge_features(model, none, &ctx), CB_F32)), 0, 1);
    }
    bool ok = seen && cb_read(seen, CB_F32, weights);
    cb_scope_close(scope);
    return ok;
}

bool cb_evaluate_unlabelled(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, int64_t draws, uint64_t seed,
                            cb_transfer_score *score)
{
    cb_judged j;
    *score = (cb_transfer_score){0};
    if (!model || !data || !cb_judge_rows(model, data, batch_size, max_batches, &j))
        return false;
    if (cb_rehearsing()) {
        cb_judged_free(&j);
        return true;
    }
    float *weights = cb_alloc((size_t)(j.labels * j.width) * sizeof *weights);
    bool ok = weights && read_weights(model, j.width, weights) &&
              cb_transfer_score_of(weights, j.features, j.logits, (size_t)j.rows, (size_t)j.width, (size_t)j.labels, (size_t)batch_size,
                                   (size_t)draws, seed, score);
    cb_free(weights);
    cb_judged_free(&j);
    return ok;
}
