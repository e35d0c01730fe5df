/* joined.c: rows of several datasets in one batch: those of the first before those of the second.
 *
 * Each dataset makes its own batch, and these are laid one after another; texts are made as long as the longest of them. */
#include <string.h>

#include "data/dataset.h"

struct joined {
    size_t count;
    cb_dataset **parts;
    cb_batch *batches;
};

void cb_joined_free(joined *j)
{
    if (!j)
        return;
    for (size_t i = 0; j->batches && i < j->count; i++)
        cb_batch_free(&j->batches[i]);
    for (size_t i = 0; j->parts && i < j->count; i++)
        cb_dataset_free(j->parts[i]);
    cb_free(j->batches);
    cb_free(j->parts);
    cb_free(j);
}

const cb_dataset *cb_joined_first(const joined *j)
{
    return j->parts[0];
}

int64_t cb_joined_sum(const joined *j, int64_t (*of)(const cb_dataset *part))
{
    int64_t sum = 0;
    for (size_t i = 0; i < j->count; i++)
        sum += of(j->parts[i]);
    return sum;
}

int64_t cb_joined_rows(const joined *j)
{
    return cb_dataset_rows(j->parts[j->count - 1]);
}

uint64_t cb_joined_hash(const joined *j)
{
    uint64_t hash = CB_HASH_START;
    for (size_t i = 0; i < j->count; i++)
        hash = (hash ^ cb_dataset_hash(j->parts[i])) * 0x100000001b3u;
    return hash;
}

/* ---- opening ---- */

static bool check_parts(size_t count, cb_dataset *const *parts)
{
    for (size_t i = 0; i < count; i++) {
        cb_objective objective = parts[i] ? cb_dataset_objective(parts[i]) : CB_OBJECTIVE_CAUSAL_LM;
        if (!parts[i])
            return false;
        if (parts[i]->joined || objective != cb_dataset_objective(parts[0]) ||
            (objective != CB_OBJECTIVE_IMAGE_CLASSIFICATION && objective != CB_OBJECTIVE_SEQUENCE_CLASSIFICATION &&
             objective != CB_OBJECTIVE_SEMANTIC_SEGMENTATION))
            return cb_fail(CB_ERR_ARGUMENT, "data: joined datasets must all be of images, or of texts, with one label each, or with one of "
                                            "each place") == CB_OK;
    }
    return count || cb_fail(CB_ERR_ARGUMENT, "data: found no datasets to join") == CB_OK;
}

cb_dataset *cb_dataset_join(size_t count, cb_dataset *const *parts)
{
    cb_dataset *data = cb_calloc(1, sizeof *data);
    joined *j = data ? cb_calloc(1, sizeof *j) : NULL;
    bool ok = j && (j->parts = cb_calloc(count + 1, sizeof(cb_dataset *)));
    for (size_t i = 0; ok && i < count; i++)
        j->parts[j->count++] = parts[i];
    ok = ok && (j->batches = cb_calloc(count + 1, sizeof *j->batches)) && check_parts(count, parts);
    if (ok) {
        data->joined = j;
        return data;
    }
    for (size_t i = 0; i < count && (!j || !j->parts); i++)
        cb_dataset_free(parts[i]);
    cb_joined_free(j);
    cb_free(data);
    return NULL;
}

/* ---- batches ---- */

static bool one_kind(const cb_tensor *found, const cb_tensor *expected)
{
    bool same = found->ndim == expected->ndim && found->dtype == expected->dtype;
    for (int i = 1; same && found->dtype == CB_F32 && i < found->ndim; i++) /* of texts the length differs */
        same = found->shape[i] == expected->shape[i];
    return same || cb_fail(CB_ERR_SHAPE, "data: joined datasets give batches of %s and %s, expected images of one size, or texts",
                           cb_shape_text(expected), cb_shape_text(found)) == CB_OK;
}

static bool make_parts(joined *j, int64_t index, int64_t rows)
{
    for (size_t i = 0; i < j->count; i++) {
        cb_batch *b = &j->batches[i];
        if (!cb_dataset_batch(j->parts[i], index, rows, b) || !one_kind(b->ids, j->batches[0].ids))
            return false;
        if (b->targets->dtype != CB_I32 || b->tasks || b->conditions)
            return cb_fail(CB_ERR_UNSUPPORTED, "data: joined datasets have one label a row, found %s",
                           b->tasks || b->conditions ? "tasks or conditions" : "shares of labels (mixup, CutMix)") == CB_OK;
    }
    return true;
}

/* Rows of (rows, T) one after another, each filled up to `length` places. */
static void lay_rows(const joined *j, cb_tensor *(*of)(const cb_batch *b), int64_t length, int32_t filling, cb_tensor *to)
{
    int32_t *at = to->data;
    for (size_t i = 0; i < j->count; i++) {
        const cb_tensor *from = of(&j->batches[i]);
        int64_t rows = j->batches[i].ids->shape[0], own = from ? from->shape[1] : 0;
        for (int64_t r = 0; r < rows; r++, at += length) {
            if (from)
                memcpy(at, (const int32_t *)from->data + r * own, (size_t)own * sizeof *at);
            for (int64_t t = own; t < length; t++)
                at[t] = filling;
        }
    }
}

static cb_tensor *ids_of(const cb_batch *b)
{
    return b->ids;
}

static cb_tensor *segments_of(const cb_batch *b)
{
    return b->segments;
}

static cb_tensor *positions_of(const cb_batch *b)
{
    return b->positions;
}

static cb_tensor *types_of(const cb_batch *b)
{
    return b->types;
}

static bool lay_texts(const joined *j, int64_t rows, cb_batch *batch)
{
    int64_t length = 1;
    bool types = false;
    for (size_t i = 0; i < j->count; i++) {
        int64_t own = j->batches[i].ids->shape[1];
        length = own > length ? own : length;
        types = types || j->batches[i].types;
    }
    const int64_t shape[] = {rows, length};
    if (batch->ids && batch->ids->shape[1] != length)
        cb_memory_trim();
    if (!cb_batch_tensor(&batch->ids, CB_I32, 2, shape) || !cb_batch_tensor(&batch->segments, CB_I32, 2, shape) ||
        !cb_batch_tensor(&batch->positions, CB_I32, 2, shape) || (types && !cb_batch_tensor(&batch->types, CB_I32, 2, shape)))
        return false;
    lay_rows(j, ids_of, length, 0, batch->ids);
    lay_rows(j, segments_of, length, -1, batch->segments);
    lay_rows(j, positions_of, length, 0, batch->positions);
    if (types)
        lay_rows(j, types_of, length, 0, batch->types);
    return true;
}

static bool lay_images(const joined *j, int64_t rows, cb_batch *batch)
{
    const cb_tensor *first = j->batches[0].ids;
    const int64_t shape[] = {rows, first->shape[1], first->shape[2], first->shape[3]};
    if (!cb_batch_tensor(&batch->ids, CB_F32, 4, shape))
        return false;
    float *at = batch->ids->data;
    for (size_t i = 0; i < j->count && !cb_rehearsing(); i++) {
        const cb_tensor *from = j->batches[i].ids;
        memcpy(at, from->data, (size_t)from->count * sizeof *at);
        at += from->count;
    }
    return true;
}

/* Labels of rows, or of their places. */
static bool lay_targets(const joined *j, int64_t rows, cb_batch *batch)
{
    const cb_tensor *first = j->batches[0].targets;
    int64_t shape[CB_MAX_DIMS] = {rows};
    for (int i = 1; i < first->ndim; i++)
        shape[i] = first->shape[i];
    if (!cb_batch_tensor(&batch->targets, CB_I32, first->ndim, shape))
        return false;
    int32_t *at = batch->targets->data;
    for (size_t i = 0; i < j->count; i++) {
        const cb_tensor *from = j->batches[i].targets;
        memcpy(at, from->data, (size_t)from->count * sizeof *at);
        at += from->count;
    }
    return true;
}

bool cb_joined_batch(joined *j, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    for (size_t i = 0; sources && i < j->count; i++)
        if (!cb_dataset_sources(j->parts[i], index, rows, sources))
            return false;
    if (sources)
        return true;
    int64_t all = (int64_t)j->count * rows;
    if (!make_parts(j, index, rows) || !lay_targets(j, all, batch) || !cb_batch_tensor(&batch->items, CB_I64, 1, &all) ||
        !(j->batches[0].ids->ndim == 4 ? lay_images : lay_texts)(j, all, batch))
        return false;
    batch->tokens = 0;
    batch->predicted = all;
    for (size_t i = 0; i < j->count; i++) {
        batch->tokens += j->batches[i].tokens;
        for (int64_t r = 0; r < rows; r++) {
            int64_t item = cb_dataset_row_at(j->parts[i], index * rows + r);
            ((int64_t *)batch->items->data)[(int64_t)i * rows + r] = item;
            if (item < 0)
                return false;
        }
    }
    return true;
}
