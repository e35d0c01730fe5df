/* seq2seq.c: batches for models with an encoder and a decoder: a source and a target in each row, each as long as the longest of the batch.
 *
 * The tokens of targets are kept with the labels, the end-of-sequence token the last.  The decoder reads them shifted to the right, behind the
 * token that the model begins with. */
#include <string.h>

#include "data/dataset.h"

bool cb_seq2seq_is(const cb_dataset *data)
{
    return data->options.objective == CB_OBJECTIVE_SEQ2SEQ_LM;
}

int64_t cb_target_most(const cb_data_options *options)
{
    return options->max_target_length ? options->max_target_length : options->sequence_length;
}

bool cb_target_add(label_store *labels, int32_t id)
{
    if (!cb_grow(&labels->ids, &labels->capacity, labels->count + 1, sizeof *labels->ids))
        return false;
    labels->ids[labels->count++] = id;
    return true;
}

/* In a rehearsal, which sees a few batches only, as long as any can be. */
static int64_t target_length(const cb_dataset *data, const int64_t *documents, int64_t rows)
{
    int64_t longest = 1;
    bool all = cb_rehearsing();
    for (int64_t i = 0; i < (all ? (int64_t)data->documents.count : rows); i++) {
        int64_t length = data->documents.items[all ? i : documents[i]].label_count;
        longest = length > longest ? length : longest;
    }
    return cb_labelled_round(data, longest, cb_target_most(&data->options));
}

bool cb_seq2seq_ready(const cb_dataset *data, const int64_t *documents, int64_t rows, cb_batch *batch)
{
    const int64_t source[] = {rows, cb_labelled_length(data, documents, rows)}, target[] = {rows, target_length(data, documents, rows)};
    if (batch->ids && (batch->ids->shape[1] != target[1] || batch->source->shape[1] != source[1]))
        cb_memory_trim();
    batch->tokens = batch->predicted = 0;
    return cb_batch_tensor(&batch->ids, CB_I32, 2, target) && cb_batch_tensor(&batch->targets, CB_I32, 2, target) &&
           cb_batch_tensor(&batch->segments, CB_I32, 2, target) && cb_batch_tensor(&batch->source, CB_I32, 2, source) &&
           cb_batch_tensor(&batch->source_segments, CB_I32, 2, source) && cb_conditions_ready(data, rows, batch);
}

static int32_t *row_of(const cb_tensor *t, int64_t at)
{
    return (int32_t *)t->data + at * t->shape[1];
}

void cb_seq2seq_fill(const cb_dataset *data, int64_t number, int64_t at, cb_batch *batch)
{
    const document *d = &data->documents.items[number];
    const int32_t *target = data->store->labels.ids + d->label;
    int32_t *ids = row_of(batch->ids, at), *targets = row_of(batch->targets, at), *segments = row_of(batch->segments, at);
    for (int64_t i = 0; i < batch->ids->shape[1]; i++) {
        bool inside = i < d->label_count;
        ids[i] = !inside ? 0 : i ? target[i - 1] : data->options.decoder_start;
        targets[i] = inside ? target[i] : -100;
        segments[i] = inside ? 0 : -1;
    }
    int32_t *source = row_of(batch->source, at), *source_segments = row_of(batch->source_segments, at);
    for (int64_t i = 0; i < batch->source->shape[1]; i++) {
        source[i] = i < d->length ? data->store->ids[d->start + i] : 0;
        source_segments[i] = i < d->length ? 0 : -1;
    }
    batch->tokens += d->length + d->label_count;
    batch->predicted += d->label_count;
    cb_conditions_fill(data, d->task, at, batch);
}
