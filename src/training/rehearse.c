/* rehearse.c: what a rehearsal of a training run adds to the two steps that it goes through. */
#include "core/rehearsal.h"
#include "training/internal.h"

/* Rows that are read where they lie. */
static void read_rows(const cb_tensor *table, const cb_tensor *tokens)
{
    const int32_t *ids = tokens->data;
    size_t row = (size_t)table->shape[1] * cb_dtype_size(table->dtype);
    for (int64_t i = 0; i < tokens->count; i++)
        if (ids[i] >= 0 && ids[i] < table->shape[0])
            cb_rehearsal_read((const char *)table->data + (size_t)ids[i] * row, row);
}

void cb_train_rehearse_rows(const cb_model *model, const cb_batch *batch)
{
    const cb_tensor *table = cb_layer_weight(cb_model_embedding_layer(model), "weight");
    if (!table || table->ndim != 2 || batch->ids->dtype != CB_I32)
        return;
    read_rows(table, batch->ids);
    if (batch->source)
        read_rows(table, batch->source);
}

/* An epoch at most: after it, all rows were there. */
static void read_embedding(const cb_model *model, cb_dataset *train, int64_t rows, int64_t batches)
{
    cb_batch batch = {0};
    int64_t epoch = (cb_dataset_rows(train) + rows - 1) / rows;
    for (int64_t i = 0; i < batches && i < epoch && cb_dataset_batch(train, i, rows, &batch); i++)
        cb_train_rehearse_rows(model, &batch);
    cb_batch_free(&batch);
}

void cb_train_rehearse_rest(const cb_model *model, cb_dataset *train, const cb_train_options *options, int64_t steps, const train_log *log)
{
    enum { EVENT = 4 * 64 }; /* bytes of the events of one report, about */
    read_embedding(model, train, options->batch_size, steps * options->gradient_accumulation_steps);
    if (!log)
        return;
    int64_t reports = steps / options->logging_steps + 1;
    cb_train_log_rehearse(log, (uint64_t)reports, EVENT);
}
