/* rows.c: rows and batches of a dataset, in the order of an epoch. */
#include <string.h>

#include "data/dataset.h"
#include "data/images.h"
#include "data/series.h"
#include "data/text_lines.h"

void cb_layout_free(layout *l)
{
    cb_free(l->documents);
    cb_free(l->starts);
    cb_free(l->rows);
    *l = (layout){.epoch = -1};
}

void cb_data_shuffle(int64_t *items, int64_t count, uint64_t seed, uint64_t stream)
{
    cb_rng rng = {.seed = seed, .stream = stream};
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)cb_rng_below(&rng, (uint64_t)i + 1), t = items[i];
        items[i] = items[j];
        items[j] = t;
    }
}

int64_t cb_data_permuted(uint64_t seed, int64_t epoch, int64_t count, int64_t at)
{
    unsigned half = 1;
    while ((INT64_C(1) << (2 * half)) < count)
        half++;
    uint64_t mask = (UINT64_C(1) << half) - 1, x = (uint64_t)at;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint32_t draw[4];
            cb_philox(seed, (uint64_t)epoch, round << 48 ^ right, draw);
            uint64_t turned = left ^ (((uint64_t)draw[1] << 32 | draw[0]) & mask);
            left = right;
            right = turned;
        }
        x = left << half | right;
    } while (x >= (uint64_t)count);
    return (int64_t)x;
}

static bool layout_make(cb_dataset *data, layout *l, int64_t epoch, bool shuffled)
{
    int64_t documents = data->stream_documents, at = 0, n = 0;
    if (!l->documents) {
        l->documents = cb_alloc((size_t)(documents + 1) * sizeof *l->documents);
        l->starts = cb_alloc((size_t)(documents + 1) * sizeof *l->starts);
        l->rows = cb_alloc((size_t)(data->rows + 1) * sizeof *l->rows);
        if (!l->documents || !l->starts || !l->rows) {
            cb_layout_free(l);
            return false;
        }
    }
    for (size_t i = 0; data->options.packing && i < data->documents.count; i++)
        if (data->documents.items[i].wrapped)
            l->documents[n++] = (int64_t)i;
    for (int64_t i = 0; i < data->rows; i++)
        l->rows[i] = i;
    if (shuffled) {
        cb_data_shuffle(l->documents, documents, data->options.seed, 2 * (uint64_t)epoch + 16);
        cb_data_shuffle(l->rows, data->rows, data->options.seed, 2 * (uint64_t)epoch + 17);
    }
    if (!cb_data_sort_by_task(&data->documents, NULL, l->documents, documents))
        return false;
    for (int64_t i = 0; i < documents; i++) {
        const document *d = &data->documents.items[l->documents[i]];
        if (i && d->task != data->documents.items[l->documents[i - 1]].task)
            at = (at + data->options.sequence_length - 1) / data->options.sequence_length * data->options.sequence_length;
        l->starts[i] = at;
        at += d->length;
    }
    l->starts[documents] = at;
    l->epoch = epoch;
    return true;
}

/* The last document that starts at or before `position` of the packed stream. */
static int64_t document_at(const layout *l, int64_t documents, int64_t position)
{
    int64_t low = 0, high = documents - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (l->starts[middle] <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* ---- rows ---- */

/* One row of a batch being filled. */
typedef struct row {
    int32_t *ids, *targets, *segments, *positions; /* segments and positions may be NULL */
    int64_t length, filled;
    int32_t segment, task;
    cb_string *sources; /* gets the names of its documents; may be NULL */
} row;

/* Adds "FILE:LINE"; there is no use in naming very many. */
static void name_source(const cb_dataset *data, const document *d, cb_string *sources)
{
    enum { LONG = 300 };
    if (sources->length < LONG)
        cb_string_printf(sources, "%s%s:%lld", sources->length ? ", " : "", data->store->files.items[d->file], (long long)d->line);
    else if (!cb_ends_with(sources->data, "..."))
        cb_string_puts(sources, ", ...");
}

/* Appends tokens [offset, offset + n) of a document as one segment. */
static void put(const cb_dataset *data, row *r, const document *d, int64_t offset, int64_t n, cb_batch *batch)
{
    const token_store *s = data->store;
    int64_t base = d->start + offset;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = r->filled + i, next = base + i + 1;
        bool masked = data->options.objective == CB_OBJECTIVE_MASKED_LM;
        bool learn = masked ? s->learned[base + i] : offset + i + 1 < d->length && s->learned[next];
        r->ids[at] = s->ids[base + i];
        r->targets[at] = learn ? s->ids[masked ? base + i : next] : -100;
        batch->predicted += learn && !masked;
        if (r->segments) {
            r->segments[at] = r->segment;
            r->positions[at] = (int32_t)i;
        }
    }
    r->filled += n;
    r->segment++;
    batch->tokens += n;
}

static void pad(row *r)
{
    for (int64_t at = r->filled; at < r->length; at++) {
        r->ids[at] = 0;
        r->targets[at] = -100;
        if (r->segments) {
            r->segments[at] = -1;
            r->positions[at] = 0;
        }
    }
}

/* Tokens [offset, ...) of a document, as many as there is room for. */
static void put_rest(const cb_dataset *data, row *r, int64_t document_number, int64_t offset, cb_batch *batch)
{
    const document *d = &data->documents.items[document_number];
    int64_t n = d->length - offset, room = r->length - r->filled;
    if (n <= 0 || room <= 0)
        return;
    r->task = d->task;
    put(data, r, d, offset, n < room ? n : room, batch);
    if (r->sources)
        name_source(data, d, r->sources);
}

static void fill_row(const cb_dataset *data, const layout *l, int64_t number, row *r, cb_batch *batch)
{
    if (!data->options.packing) {
        put_rest(data, r, data->row_starts[number].document, data->row_starts[number].offset, batch);
    } else if (number < data->stream_rows) {
        int64_t count = data->stream_documents, position = number * r->length;
        for (int64_t i = document_at(l, count, position); i < count && l->starts[i] <= position + r->filled; i++)
            put_rest(data, r, l->documents[i], position + r->filled - l->starts[i], batch);
    } else {
        const document_rows *p = &data->packed;
        for (int64_t i = p->starts[number - data->stream_rows]; i < p->starts[number - data->stream_rows + 1]; i++)
            put_rest(data, r, p->parts[i].document, p->parts[i].offset, batch);
    }
    pad(r);
}

bool cb_batch_tensor(cb_tensor **slot, cb_dtype dtype, int ndim, const int64_t *shape)
{
    if (*slot && (*slot)->dtype == dtype && (*slot)->ndim == ndim && memcmp((*slot)->shape, shape, (size_t)ndim * sizeof *shape) == 0)
        return true;
    cb_release(*slot);
    cb_scope *scope = cb_scope_open();
    *slot = scope ? cb_keep(cb_empty_nd(dtype, ndim, shape)) : NULL;
    if (scope)
        cb_scope_close(scope);
    return *slot;
}

static bool batch_ready(const cb_dataset *data, int64_t rows, cb_batch *batch)
{
    const int64_t shape[] = {rows, data->options.sequence_length};
    batch->tokens = batch->predicted = 0;
    /* segments and positions also mark padding, so a dataset of whole documents needs them too */
    return cb_batch_tensor(&batch->ids, CB_I32, 2, shape) && cb_batch_tensor(&batch->targets, CB_I32, 2, shape) &&
           cb_batch_tensor(&batch->segments, CB_I32, 2, shape) && cb_batch_tensor(&batch->positions, CB_I32, 2, shape) &&
           cb_conditions_ready(data, rows, batch);
}

/* The documents of labelled rows `numbers`, as one batch. */
static bool fill_labelled(const cb_dataset *data, int64_t *numbers, int64_t rows, cb_batch *batch, cb_string *sources)
{
    for (int64_t i = 0; i < rows; i++)
        numbers[i] = data->row_starts[numbers[i]].document;
    bool pairs = cb_seq2seq_is(data);
    if (!(pairs ? cb_seq2seq_ready(data, numbers, rows, batch)
                : cb_labelled_ready(data, rows, cb_labelled_length(data, numbers, rows), batch)))
        return false;
    for (int64_t i = 0; i < rows; i++) {
        (pairs ? cb_seq2seq_fill : cb_labelled_fill)(data, numbers[i], i, batch);
        if (sources)
            name_source(data, &data->documents.items[numbers[i]], sources);
    }
    return true;
}

/* `draw` is another for every row that is to be masked in another way. */
static void fill_at(const cb_dataset *data, const layout *l, int64_t number, int64_t at, uint64_t draw, cb_batch *batch, cb_string *sources)
{
    int64_t length = data->options.sequence_length, offset = at * length;
    row r = {.ids = (int32_t *)batch->ids->data + offset,
             .targets = (int32_t *)batch->targets->data + offset,
             .segments = (int32_t *)batch->segments->data + offset,
             .positions = (int32_t *)batch->positions->data + offset,
             .length = length,
             .sources = sources};
    fill_row(data, l, number, &r, batch);
    if (data->options.objective == CB_OBJECTIVE_MASKED_LM)
        batch->predicted += cb_data_mask(data, r.ids, r.targets, r.filled, draw);
    cb_conditions_fill(data, r.task, at, batch);
}

static bool fill_batch(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    if (data->groups)
        return cb_groups_batch(data->groups, index, rows, batch, sources);
    if (data->images)
        return cb_images_batch(data->images, index, rows, batch, sources);
    if (data->series)
        return cb_windows_batch(data->series, index, rows, batch, sources);
    if (data->lines)
        return cb_text_lines_batch(data->lines, index, rows, batch, sources);
    if (data->joined)
        return cb_joined_batch(data->joined, index, rows, batch, sources);
    if (!data->rows)
        return cb_fail(CB_ERR_STATE, "data: there are no rows (a split of it failed)") == CB_OK;
    bool labelled = cb_rows_are_documents(data);
    int64_t *numbers = labelled ? cb_alloc((size_t)rows * sizeof *numbers) : NULL;
    bool ok = labelled ? numbers != NULL : batch_ready(data, rows, batch);
    for (int64_t i = 0; ok && i < rows; i++) {
        int64_t at = index * rows + i, epoch = at / data->rows;
        layout *l = &data->shuffled;
        ok = l->epoch == epoch || layout_make(data, l, epoch, data->options.shuffle);
        if (ok && labelled)
            numbers[i] = l->rows[at % data->rows];
        else if (ok)
            fill_at(data, l, l->rows[at % data->rows], i, 2 * (uint64_t)at, batch, sources);
    }
    ok = ok && (!labelled || fill_labelled(data, numbers, rows, batch, sources));
    cb_free(numbers);
    return ok;
}

int64_t cb_dataset_row_at(cb_dataset *data, int64_t place)
{
    if (data->images)
        return cb_images_row_at(data->images, place);
    layout *l = &data->shuffled;
    if (data->groups || data->joined || !data->rows) {
        cb_fail(CB_ERR_UNSUPPORTED, "data: rows of groups and of joined datasets have no number");
        return -1;
    }
    bool ok = l->epoch == place / data->rows || layout_make(data, l, place / data->rows, data->options.shuffle);
    return ok ? l->rows[place % data->rows] : -1;
}

bool cb_dataset_batch(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch)
{
    return fill_batch(data, index, rows, batch, NULL);
}

bool cb_dataset_sources(cb_dataset *data, int64_t index, int64_t rows, cb_string *sources)
{
    cb_batch batch = {0};
    bool ok = fill_batch(data, index, rows, &batch, sources);
    cb_batch_free(&batch);
    return ok && cb_ok();
}

static bool sequential_labelled(const cb_dataset *data, int64_t first, int64_t rows, cb_batch *batch)
{
    int64_t *numbers = cb_alloc((size_t)rows * sizeof *numbers);
    for (int64_t i = 0; numbers && i < rows; i++)
        numbers[i] = first + i;
    bool ok = numbers && fill_labelled(data, numbers, rows, batch, NULL);
    cb_free(numbers);
    return ok;
}

bool cb_dataset_sequential(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch)
{
    if (data->groups)
        return cb_groups_sequential(data->groups, index, rows, batch);
    if (data->images)
        return cb_images_sequential(data->images, index, rows, batch);
    if (data->series)
        return cb_windows_sequential(data->series, index, rows, batch);
    if (data->lines)
        return cb_text_lines_sequential(data->lines, index, rows, batch);
    if (data->joined)
        return cb_fail(CB_ERR_UNSUPPORTED, "data: joined datasets have no order of their own, but each part has") == CB_OK;
    int64_t first = index * rows, n = data->rows - first < rows ? data->rows - first : rows;
    if (n <= 0)
        return false;
    if (cb_rows_are_documents(data))
        return sequential_labelled(data, first, n, batch);
    if (!batch_ready(data, n, batch))
        return false;
    if (data->sequential.epoch < 0 && !layout_make(data, &data->sequential, 0, false))
        return false;
    for (int64_t i = 0; i < n; i++)
        fill_at(data, &data->sequential, first + i, i, 2 * (uint64_t)(first + i) + 1, batch, NULL);
    return true;
}

void cb_batch_free(cb_batch *batch)
{
    cb_release(batch->ids);
    cb_release(batch->targets);
    cb_release(batch->segments);
    cb_release(batch->source);
    cb_release(batch->source_segments);
    cb_release(batch->positions);
    cb_release(batch->types);
    cb_release(batch->words);
    cb_release(batch->tasks);
    cb_release(batch->conditions);
    cb_release(batch->lengths);
    cb_release(batch->items);
    *batch = (cb_batch){0};
}
