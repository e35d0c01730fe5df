/* evaluate.c: perplexity: how well a model predicts a text. */
#include <math.h>

#include "training/parallel.h"

static CB_COLD void not_finite(cb_model *model, const cb_batch *batch, double loss)
{
    cb_context ctx = {.positions = batch->positions, .segments = batch->segments, .tasks = batch->tasks};
    cb_string where = {0};
    cb_no_grad cb_train_diagnose(&(cb_trainee){.model = model}, batch, (double)batch->predicted, &ctx, &where);
    cb_error_clear(); /* the first failure is this one */
    cb_fail(CB_ERR_NUMERIC, "evaluation: the mean loss of %lld tokens is %g: %s", (long long)batch->predicted, loss,
            where.length ? where.data : "where it began was not found");
    cb_string_free(&where);
}

/* Mean loss of one batch; NaN on failure. */
static double batch_loss(cb_model *model, const cb_batch *batch)
{
    cb_context ctx = {.positions = batch->positions, .segments = batch->segments, .tasks = batch->tasks};
    double loss = NAN;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NAN;
    cb_no_grad loss = cb_item(cb_model_loss(model, batch->ids, batch->targets, (double)batch->predicted, &ctx));
    cb_scope_close(scope);
    if (cb_ok() && cb_file_maps_check() && !isfinite(loss))
        not_finite(model, batch, loss);
    return loss;
}

bool cb_train_validate(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, bool interruptible,
                       cb_perplexity_result *result)
{
    *result = (cb_perplexity_result){0};
    double begin = cb_now(), sums[] = {0, 0}; /* of losses, of tokens */
    int64_t each = cb_parallel_size();        /* every so many-th batch is this process's */
    cb_batch batch = {0};
    bool ok = true;
    int64_t batches = (cb_dataset_rows(data) + batch_size - 1) / batch_size;
    batches = max_batches && max_batches < batches ? max_batches : batches;
    for (int64_t i = cb_parallel_rank(); ok && i < batches && cb_dataset_sequential(data, i, batch_size, &batch); i += each) {
        if (cb_rehearsing() && i >= each && i + each < batches) /* a rehearsal sees a whole batch and the last one */
            cb_train_rehearse_rows(model, &batch);
        else if (batch.predicted)
            sums[0] += batch_loss(model, &batch) * (double)batch.predicted;
        sums[1] += (double)batch.predicted;
        ok = cb_ok();
        if (ok && interruptible && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted after %lld batches of evaluation", (long long)i + 1) == CB_OK;
    }
    cb_batch_free(&batch);
    if (!cb_parallel_meet(CB_AT_VALIDATION, 0, 2, sums))
        return false;
    result->tokens = (int64_t)sums[1];
    if (!result->tokens)
        return cb_fail(CB_ERR_ARGUMENT, "evaluation: the data has no token to predict") == CB_OK;
    result->loss = sums[0] / (double)result->tokens;
    result->perplexity = exp(result->loss);
    result->bits_per_byte = result->loss / M_LN2 / cb_dataset_bytes_per_token(data);
    result->seconds = cb_now() - begin;
    return true;
}

bool cb_evaluate_perplexity(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_perplexity_result *result)
{
    return cb_train_validate(model, data, batch_size, max_batches, true, result);
}
