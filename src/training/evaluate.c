/* evaluate.c: how well a model predicts a text, or the labels of texts. */
#include <math.h>

#include "training/parallel.h"

static CB_COLD void not_finite(cb_model *model, const cb_batch *batch, double loss)
{
    cb_context ctx = cb_train_context(batch);
    cb_string where = {0};
    cb_no_grad cb_train_diagnose(&(cb_trainee){.model = model}, batch, (double)batch->predicted, &ctx, &where);
    cb_error_clear(); /* the first failure is this one */
    cb_fail(CB_ERR_NUMERIC, "evaluation: the mean loss of %lld tokens is %g: %s", (long long)batch->predicted, loss,
            where.length ? where.data : "where it began was not found");
    cb_string_free(&where);
}

/* The loss of labelled rows, whose predictions are kept. */
static cb_tensor *label_loss(cb_model *model, const cb_batch *batch, int64_t first_row, cb_predictions *predictions, const cb_context *ctx)
{
    cb_tensor *logits = cb_model_logits(model, batch->ids, ctx), *said = logits;
    if (logits && predictions->exact) {
        bool read = cb_rehearsing() || cb_recognition_add(predictions, model, first_row, logits, ctx);
        return read ? cb_model_ctc_loss(model, logits, batch->targets, batch->predicted ? (double)batch->predicted : 1, ctx) : NULL;
    }
    if (logits && cb_objective_numbers(predictions->objective))
        said = cb_model_places(model, logits, batch->targets->shape[2], batch->targets->shape[3]);
    if (!said || (!cb_rehearsing() && !cb_predictions_add(predictions, first_row, batch, said)))
        return NULL;
    return cb_model_label_loss(model, logits, batch->targets, batch->predicted ? (double)batch->predicted : 1);
}

/* Mean loss of one batch; NaN on failure. */
static double batch_loss(cb_model *model, const cb_batch *batch, int64_t first_row, cb_predictions *predictions)
{
    cb_context ctx = cb_train_context(batch);
    double loss = NAN;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NAN;
    cb_no_grad loss = cb_item(predictions ? label_loss(model, batch, first_row, predictions, &ctx)
                                          : cb_model_loss(model, batch->ids, batch->targets, (double)batch->predicted, &ctx));
    cb_scope_close(scope);
    if (cb_ok() && cb_file_maps_check() && !isfinite(loss))
        not_finite(model, batch, loss);
    return loss;
}

static bool check_labels(const cb_model *model, const cb_dataset *data)
{
    int64_t found = (int64_t)cb_dataset_labels(data)->count, expected = cb_model_labels(model);
    return found == expected || cb_fail(CB_ERR_ARGUMENT, "evaluation: the data has %lld labels, expected the model's %lld",
                                        (long long)found, (long long)expected) == CB_OK;
}

bool cb_train_goes_on(const cb_validation *how, int64_t batches)
{
    if (cb_ok() && how->interruptible && cb_interrupted())
        cb_fail(CB_ERR_INTERRUPTED, "interrupted after %lld batches of evaluation", (long long)batches);
    return cb_ok();
}

bool cb_train_validate(cb_model *model, cb_dataset *data, const cb_validation *how, cb_evaluation *result)
{
    *result = (cb_evaluation){0};
    int64_t batch_size = how->batch_size, max_batches = how->max_batches;
    double begin = cb_now(), sums[2 + RECOGNITION_COUNTS] = {0}; /* of losses, of what is predicted */
    int64_t each = cb_parallel_size();                           /* every so many-th batch is this process's */
    cb_batch batch = {0};
    int64_t batches = (cb_dataset_rows(data) + batch_size - 1) / batch_size;
    batches = max_batches && max_batches < batches ? max_batches : batches;
    bool recognises = cb_dataset_objective(data) == CB_OBJECTIVE_TEXT_RECOGNITION;
    bool labelled = recognises || cb_objective_is_labelled(cb_dataset_objective(data));
    cb_predictions *predictions = labelled ? &result->predictions : NULL;
    result->rows = batches * batch_size < cb_dataset_rows(data) ? batches * batch_size : cb_dataset_rows(data);
    bool ok = !labelled || ((recognises || check_labels(model, data)) && cb_predictions_open(predictions, data, result->rows));
    result->predictions.see = how->see;
    result->predictions.user = how->user;
    result->predictions.beam_width = how->beam_width;
    for (int64_t i = cb_parallel_rank(); ok && i < batches && cb_dataset_sequential(data, i, batch_size, &batch); i += each) {
        if (cb_rehearsing() && i >= each && i + each < batches) /* a rehearsal sees a whole batch and the last one */
            cb_train_rehearse_rows(model, &batch);
        else if (batch.predicted || recognises) /* empty texts, and those that are too long, are judged */
            sums[0] += batch_loss(model, &batch, i * batch_size, predictions) * (double)batch.predicted;
        sums[1] += (double)batch.predicted;
        ok = cb_train_goes_on(how, i + 1);
    }
    cb_batch_free(&batch);
    for (int i = 0; result->predictions.exact && i < RECOGNITION_COUNTS; i++)
        sums[2 + i] = (double)result->predictions.exact[i];
    if (!cb_parallel_meet(CB_AT_VALIDATION, 0, recognises ? 2 + RECOGNITION_COUNTS : 2, sums))
        return false;
    for (int i = 0; result->predictions.exact && i < RECOGNITION_COUNTS; i++)
        result->predictions.exact[i] = (int64_t)sums[2 + i];
    result->predicted = (int64_t)sums[1];
    if (!result->predicted && !recognises)
        return cb_fail(CB_ERR_ARGUMENT, "evaluation: the data has no token to predict") == CB_OK;
    result->loss = result->predicted ? sums[0] / (double)result->predicted : 0;
    if (labelled && !cb_rehearsing() && (!cb_predictions_share(predictions) || !cb_metrics_of(predictions, data, &result->metrics)))
        return false;
    result->seconds = cb_now() - begin;
    return true;
}

bool cb_evaluate(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    return cb_evaluate_maps(model, data, batch_size, max_batches, NULL, NULL, result);
}

bool cb_evaluate_maps(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_map_callback *see, void *user,
                      cb_evaluation *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches, .interruptible = true, .see = see, .user = user};
    return cb_train_validate(model, data, &how, result);
}

bool cb_evaluate_recognition(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, int64_t beam_width,
                             cb_evaluation *result)
{
    const cb_validation how = {.batch_size = batch_size, .max_batches = max_batches, .interruptible = true, .beam_width = beam_width};
    return cb_train_validate(model, data, &how, result);
}

bool cb_evaluate_perplexity(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_perplexity_result *result)
{
    cb_evaluation e;
    *result = (cb_perplexity_result){0};
    bool ok = cb_evaluate(model, data, batch_size, max_batches, &e);
    cb_predictions_free(&e.predictions);
    if (ok)
        *result = (cb_perplexity_result){.loss = e.loss,
                                         .perplexity = exp(e.loss),
                                         .bits_per_byte = e.loss / M_LN2 / cb_dataset_bytes_per_token(data),
                                         .tokens = e.predicted,
                                         .seconds = e.seconds};
    return ok;
}

bool cb_train_evaluate(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    return what->evaluate ? what->evaluate(what, data, batch_size, max_batches, result)
                          : cb_evaluate(what->model, data, batch_size, max_batches, result);
}
