/* labelled.c: batches whose rows are one document each, as long as the longest of them. */
#include <string.h>

#include "data/dataset.h"

int64_t cb_labelled_round(const cb_dataset *data, int64_t longest, int64_t most)
{
    int64_t multiple = data->options.pad_to_multiple_of;
    if (multiple > 1)
        longest = (longest + multiple - 1) / multiple * multiple;
    return longest < most ? longest : most;
}

/* In a rehearsal, which sees a few batches only, as long as any can be. */
int64_t cb_labelled_length(const cb_dataset *data, const int64_t *documents, int64_t rows)
{
    int64_t longest = 1;
    bool all = cb_rehearsing();
    for (int64_t i = 0; i < (all ? (int64_t)data->documents.count : rows); i++) {
        int64_t length = data->documents.items[all ? i : documents[i]].length;
        longest = length > longest ? length : longest;
    }
    return cb_labelled_round(data, longest, data->options.sequence_length);
}

static bool target_ready(const cb_dataset *data, int64_t rows, int64_t length, cb_batch *batch)
{
    int64_t labels = (int64_t)data->store->labels.names.count;
    switch (data->options.objective) {
    case CB_OBJECTIVE_TOKEN_CLASSIFICATION:
        return cb_batch_tensor(&batch->targets, CB_I32, 2, (int64_t[]){rows, length}) &&
               cb_batch_tensor(&batch->words, CB_I32, 2, (int64_t[]){rows, length});
    case CB_OBJECTIVE_SEQUENCE_CLASSIFICATION:
        return cb_batch_tensor(&batch->targets, CB_I32, 1, (int64_t[]){rows});
    default:
        return cb_batch_tensor(&batch->targets, CB_F32, 2, (int64_t[]){rows, labels});
    }
}

bool cb_labelled_ready(const cb_dataset *data, int64_t rows, int64_t length, cb_batch *batch)
{
    const int64_t shape[] = {rows, length};
    if (batch->ids && batch->ids->shape[1] != length) /* blocks of one length wait in vain for requests of another */
        cb_memory_trim();
    batch->tokens = batch->predicted = 0;
    return cb_batch_tensor(&batch->ids, CB_I32, 2, shape) && cb_batch_tensor(&batch->segments, CB_I32, 2, shape) &&
           cb_batch_tensor(&batch->positions, CB_I32, 2, shape) &&
           (!data->store->has_types || cb_batch_tensor(&batch->types, CB_I32, 2, shape)) && cb_conditions_ready(data, rows, batch) &&
           target_ready(data, rows, length, batch);
}

static int32_t *row_of(const cb_tensor *t, int64_t at)
{
    return (int32_t *)t->data + at * t->shape[1];
}

static void fill_words(const token_store *s, const document *d, int64_t at, cb_batch *batch)
{
    int32_t *targets = row_of(batch->targets, at), *words = row_of(batch->words, at);
    for (int64_t i = 0; i < batch->ids->shape[1]; i++) {
        words[i] = i < d->length ? s->words[d->start + i] : -1;
        targets[i] = words[i] < 0 ? -100 : s->labels.ids[d->label + words[i]];
        batch->predicted += words[i] >= 0;
    }
}

static void fill_target(const cb_dataset *data, const document *d, int64_t at, cb_batch *batch)
{
    const label_store *labels = &data->store->labels;
    int64_t n = (int64_t)labels->names.count;
    float *values = batch->targets->data;
    switch (data->options.objective) {
    case CB_OBJECTIVE_TOKEN_CLASSIFICATION:
        fill_words(data->store, d, at, batch);
        return;
    case CB_OBJECTIVE_SEQUENCE_CLASSIFICATION:
        ((int32_t *)batch->targets->data)[at] = d->label_count ? labels->ids[d->label] : -100;
        batch->predicted++;
        return;
    case CB_OBJECTIVE_REGRESSION:
        values[at] = labels->values[d->label];
        batch->predicted++;
        return;
    default:
        memset(values + at * n, 0, (size_t)n * sizeof *values);
        for (int32_t i = 0; i < d->label_count; i++)
            values[at * n + labels->ids[d->label + i]] = 1;
        batch->predicted += n;
    }
}

void cb_labelled_fill(const cb_dataset *data, int64_t number, int64_t at, cb_batch *batch)
{
    const token_store *s = data->store;
    const document *d = &data->documents.items[number];
    int32_t *ids = row_of(batch->ids, at), *segments = row_of(batch->segments, at), *positions = row_of(batch->positions, at);
    int64_t length = batch->ids->shape[1];
    for (int64_t i = 0; i < length; i++) {
        bool text = i < d->length;
        ids[i] = text ? s->ids[d->start + i] : 0;
        segments[i] = text ? 0 : -1;
        positions[i] = text ? (int32_t)i : 0;
    }
    for (int64_t i = 0; batch->types && i < length; i++)
        row_of(batch->types, at)[i] = i < d->length ? s->types[d->start + i] : 0;
    cb_conditions_fill(data, d->task, at, batch);
    batch->tokens += d->length;
    fill_target(data, d, at, batch);
}
