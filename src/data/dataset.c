/* dataset.c: rows of token ids out of documents.
 *
 * A layout is the order of one epoch.  With packing, what is wrapped (plain texts, and examples as the strategy says) is laid end to end
 * in shuffled order and cut every T tokens, whole examples are put together as they fit (pack.c), and the rows of both are shuffled (a
 * single long book is mixed as well as a thousand notes); without, each document is cut into rows of its own.  Every row is a function of (seed, epoch, row number), so any row can be
 * made at any time: that is what makes resuming exact. */
#include "data/dataset.h"

#include <math.h>

/* The order of one epoch. */
typedef struct layout {
    int64_t epoch;      /* -1: not made yet; -2: the unshuffled order */
    int64_t *documents; /* shuffled numbers of the documents of the stream */
    int64_t *starts;    /* one more than those: where each begins in the stream */
    int64_t *rows;      /* shuffled row numbers */
} layout;

/* Fewer than one in so many positions are to be empty, else examples are cut (cb_packing_strategy). */
enum { EMPTY_SHARE = 50 };

struct cb_dataset {
    token_store *store;
    document_list documents;
    cb_data_options options; /* scalars only; its strings belong to the caller and are not read after opening */
    int64_t tokens, rows;
    document_part *row_starts;             /* without packing */
    int64_t stream_documents, stream_rows; /* with packing: of what is wrapped; their rows come first */
    document_rows packed;                  /* and those of whole examples */
    layout shuffled, sequential;
};

static void store_release(token_store *store)
{
    if (!store || --store->references > 0)
        return;
    cb_free(store->ids);
    cb_free(store->learned);
    cb_string_list_free(&store->files);
    cb_free(store);
}

static void layout_free(layout *l)
{
    cb_free(l->documents);
    cb_free(l->starts);
    cb_free(l->rows);
    *l = (layout){.epoch = -1};
}

/* Forgets which rows there are. */
static void rows_free(cb_dataset *data)
{
    cb_free(data->row_starts);
    cb_free(data->packed.parts);
    cb_free(data->packed.starts);
    data->row_starts = NULL;
    data->packed = (document_rows){0};
    layout_free(&data->shuffled);
    layout_free(&data->sequential);
}

void cb_dataset_free(cb_dataset *data)
{
    if (!data)
        return;
    store_release(data->store);
    cb_free(data->documents.items);
    rows_free(data);
    cb_free(data);
}

/* ---- opening and splitting ---- */

static int64_t rows_for(int64_t tokens, int64_t length)
{
    return (tokens + length - 1) / length;
}

static bool pack_whole(cb_dataset *data)
{
    int64_t length = data->options.sequence_length, stream_tokens = 0;
    cb_free(data->packed.parts);
    cb_free(data->packed.starts);
    data->stream_documents = 0;
    for (size_t i = 0; i < data->documents.count; i++)
        if (data->documents.items[i].wrapped) {
            data->stream_documents++;
            stream_tokens += data->documents.items[i].length;
        }
    data->stream_rows = rows_for(stream_tokens, length);
    if (!cb_data_pack(&data->documents, length, data->options.packing_strategy == CB_PACKING_BFD_SPLIT, &data->packed))
        return false;
    data->rows = data->stream_rows + data->packed.count;
    return true;
}

static int64_t part_length(const cb_dataset *data, document_part part)
{
    int64_t left = data->documents.items[part.document].length - part.offset;
    return left < data->options.sequence_length ? left : data->options.sequence_length;
}

static int64_t room_of(const cb_dataset *data, int64_t packed_row)
{
    const document_rows *p = &data->packed;
    int64_t room = data->options.sequence_length;
    for (int64_t i = p->starts[packed_row]; i < p->starts[packed_row + 1]; i++)
        room -= part_length(data, p->parts[i]);
    return room;
}

/* The least room whose rows, with all that have more, are to be wrapped, so that few positions are empty: 0 for none.  `with` counts the
 * packed rows by their room. */
static int64_t room_to_wrap(const cb_dataset *data, const int64_t *with)
{
    int64_t length = data->options.sequence_length, kept = data->packed.count, rows = data->rows, wrapped = data->tokens, room = length;
    for (int64_t r = 0; r <= length; r++)
        wrapped -= with[r] * (length - r);
    while (room > 1 && (rows * length - data->tokens) * EMPTY_SHARE >= rows * length) {
        room--;
        kept -= with[room];
        wrapped += with[room] * (length - room);
        rows = kept + rows_for(wrapped, length);
    }
    return rows < data->rows ? room : 0;
}

/* Has the examples of the emptiest rows wrapped, of as few rows as will do. */
static bool wrap_emptiest(cb_dataset *data)
{
    const document_rows *p = &data->packed;
    int64_t length = data->options.sequence_length;
    if (data->tokens <= length) /* one row, however short */
        return true;
    int64_t *with = cb_calloc((size_t)length + 1, sizeof *with);
    if (!with)
        return false;
    for (int64_t row = 0; row < p->count; row++)
        with[room_of(data, row)]++;
    int64_t least = room_to_wrap(data, with);
    cb_free(with);
    for (int64_t row = 0; least && row < p->count; row++)
        for (int64_t i = p->starts[row]; room_of(data, row) >= least && i < p->starts[row + 1]; i++)
            data->documents.items[p->parts[i].document].wrapped = true;
    return !least || pack_whole(data);
}

static bool pack_rows(cb_dataset *data)
{
    int strategy = data->options.packing_strategy;
    for (size_t i = 0; i < data->documents.count; i++) {
        document *d = &data->documents.items[i];
        d->wrapped = !d->example || strategy == CB_PACKING_WRAPPED ||
                     (strategy == CB_PACKING_AUTO && cb_data_parts(d, data->options.sequence_length) > 1);
    }
    return pack_whole(data) && (strategy != CB_PACKING_AUTO || wrap_emptiest(data));
}

static int64_t rows_of(const document *d, int64_t length)
{
    return d->example ? 1 : cb_data_parts(d, length);
}

static bool list_row_starts(cb_dataset *data)
{
    int64_t length = data->options.sequence_length, rows = 0, r = 0;
    for (size_t i = 0; i < data->documents.count; i++)
        rows += rows_of(&data->documents.items[i], length);
    data->row_starts = cb_alloc(((size_t)rows + 1) * sizeof *data->row_starts);
    if (!data->row_starts)
        return false;
    data->rows = rows;
    for (size_t i = 0; i < data->documents.count; i++)
        for (int64_t k = 0; k < rows_of(&data->documents.items[i], length); k++)
            data->row_starts[r++] = (document_part){(int64_t)i, k * length};
    return true;
}

/* Finds the rows once the documents are known. */
static bool make_rows(cb_dataset *data)
{
    rows_free(data);
    data->tokens = data->rows = 0;
    for (size_t i = 0; i < data->documents.count; i++)
        data->tokens += data->documents.items[i].length;
    return data->options.packing ? pack_rows(data) : list_row_starts(data);
}

/* Says which examples lose their end, and which have it in another row. */
static void tell_of_cuts(const cb_dataset *data)
{
    const cb_data_options *o = &data->options;
    long long longer = 0, wrapped = 0, examples = 0, length = (long long)o->sequence_length;
    for (size_t i = 0; i < data->documents.count; i++) {
        const document *d = &data->documents.items[i];
        examples += d->example;
        longer += d->example && cb_data_parts(d, o->sequence_length) > 1;
        wrapped += d->example && d->wrapped;
    }
    if (longer && (!o->packing || o->packing_strategy == CB_PACKING_BFD))
        cb_log_message(CB_LOG_WARNING, "data: %lld of %lld examples have more tokens than the %lld of a row and are cut", longer, examples,
                       length);
    else if (wrapped && o->packing_strategy == CB_PACKING_AUTO)
        cb_log_message(CB_LOG_WARNING,
                       "data: %lld of %lld examples are laid end to end and may go on in another row, since they are longer than one (%lld "
                       "of them) or would leave too many positions empty; --packing-strategy bfd keeps examples whole",
                       wrapped, examples, longer);
}

cb_dataset *cb_dataset_open(const cb_tokenizer *tokenizer, const cb_data_options *options)
{
    if (options->sequence_length < 1) {
        cb_fail(CB_ERR_ARGUMENT, "data: sequence length %lld, expected at least 1", (long long)options->sequence_length);
        return NULL;
    }
    cb_dataset *data = cb_calloc(1, sizeof *data);
    token_store *store = cb_calloc(1, sizeof *store);
    if (!data || !store) {
        cb_free(data);
        cb_free(store);
        return NULL;
    }
    store->references = 1;
    data->store = store;
    data->options = *options;
    if (!cb_data_tokenize(tokenizer, options, store, &data->documents) || !make_rows(data)) {
        cb_dataset_free(data);
        return NULL;
    }
    tell_of_cuts(data);
    return data;
}

static bool add_document(cb_dataset *data, document d)
{
    document_list *l = &data->documents;
    if (!cb_grow(&l->items, &l->capacity, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] = d;
    return true;
}

static void shuffle(int64_t *items, int64_t count, uint64_t seed, uint64_t stream)
{
    cb_rng rng = {.seed = seed, .stream = stream};
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)cb_rng_below(&rng, (uint64_t)i + 1), t = items[i];
        items[i] = items[j];
        items[j] = t;
    }
}

/* A few long texts: each is cut near its end.  Else whole documents are drawn until the share is reached. */
static bool split_documents(cb_dataset *data, cb_dataset *part, double share, uint64_t seed)
{
    enum { FEW = 20 };
    document_list *all = &data->documents;
    int64_t n = (int64_t)all->count, kept = 0, want = (int64_t)llround((double)data->tokens * share), have = 0;
    if (n < FEW && !all->items[0].example) {
        for (int64_t i = 0; i < n; i++) {
            document *d = &all->items[i];
            int64_t cut = (int64_t)llround((double)d->length * share);
            if (cut < 2 || d->length - cut < 2)
                continue;
            d->length -= cut;
            document end = *d;
            end.start += d->length;
            end.length = cut;
            if (!add_document(part, end))
                return false;
        }
        return true;
    }
    int64_t *order = cb_alloc((size_t)n * sizeof *order);
    bool *moved = cb_calloc((size_t)n, sizeof *moved);
    bool ok = order && moved;
    for (int64_t i = 0; ok && i < n; i++)
        order[i] = i;
    if (ok)
        shuffle(order, n, seed, 0x5e11);
    for (int64_t i = 0; ok && i < n - 1 && have < want; i++) {
        moved[order[i]] = true;
        have += all->items[order[i]].length;
    }
    for (int64_t i = 0; ok && i < n; i++) {
        if (moved[i])
            ok = add_document(part, all->items[i]);
        else
            all->items[kept++] = all->items[i];
    }
    if (ok)
        all->count = (size_t)kept;
    cb_free(order);
    cb_free(moved);
    return ok;
}

cb_dataset *cb_dataset_split(cb_dataset *data, double share, uint64_t seed)
{
    if (!(share > 0 && share < 1)) {
        cb_fail(CB_ERR_ARGUMENT, "data: a validation share of %g, expected between 0 and 1", share);
        return NULL;
    }
    cb_dataset *part = cb_calloc(1, sizeof *part);
    if (!part)
        return NULL;
    part->store = data->store;
    part->store->references++;
    part->options = data->options;
    if (part->options.packing_strategy == CB_PACKING_AUTO) /* what is measured is measured with all that was asked */
        part->options.packing_strategy = CB_PACKING_BFD;
    bool ok = split_documents(data, part, share, seed);
    if (ok && part->documents.count == 0)
        ok = cb_fail(CB_ERR_ARGUMENT, "data: %lld tokens are too few to set aside a share of %g for validation", (long long)data->tokens,
                     share) == CB_OK;
    if (!ok || !make_rows(data) || !make_rows(part)) {
        cb_dataset_free(part);
        return NULL;
    }
    return part;
}

/* ---- layouts ---- */

static bool layout_make(cb_dataset *data, layout *l, int64_t epoch, bool shuffled)
{
    int64_t documents = data->stream_documents, at = 0, n = 0;
    if (!l->documents) {
        l->documents = cb_alloc((size_t)(documents + 1) * sizeof *l->documents);
        l->starts = cb_alloc((size_t)(documents + 1) * sizeof *l->starts);
        l->rows = cb_alloc((size_t)(data->rows + 1) * sizeof *l->rows);
        if (!l->documents || !l->starts || !l->rows) {
            layout_free(l);
            return false;
        }
    }
    for (size_t i = 0; data->options.packing && i < data->documents.count; i++)
        if (data->documents.items[i].wrapped)
            l->documents[n++] = (int64_t)i;
    for (int64_t i = 0; i < data->rows; i++)
        l->rows[i] = i;
    if (shuffled) {
        shuffle(l->documents, documents, data->options.seed, 2 * (uint64_t)epoch + 16);
        shuffle(l->rows, data->rows, data->options.seed, 2 * (uint64_t)epoch + 17);
    }
    for (int64_t i = 0; i < documents; i++) {
        l->starts[i] = at;
        at += data->documents.items[l->documents[i]].length;
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
    int32_t segment;
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
        bool learn = offset + i + 1 < d->length && s->learned[next];
        r->ids[at] = s->ids[base + i];
        r->targets[at] = learn ? s->ids[next] : -100;
        batch->predicted += learn;
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
        for (int64_t i = document_at(l, count, position); i < count && r->filled < r->length; i++)
            put_rest(data, r, l->documents[i], position + r->filled - l->starts[i], batch);
    } else {
        const document_rows *p = &data->packed;
        for (int64_t i = p->starts[number - data->stream_rows]; i < p->starts[number - data->stream_rows + 1]; i++)
            put_rest(data, r, p->parts[i].document, p->parts[i].offset, batch);
    }
    pad(r);
}

static bool ensure(cb_tensor **slot, int64_t rows, int64_t length)
{
    if (*slot && (*slot)->shape[0] == rows && (*slot)->shape[1] == length)
        return true;
    cb_release(*slot);
    cb_scope *scope = cb_scope_open();
    *slot = scope ? cb_keep(cb_empty(CB_I32, rows, length)) : NULL;
    if (scope)
        cb_scope_close(scope);
    return *slot;
}

static bool batch_ready(const cb_dataset *data, int64_t rows, cb_batch *batch)
{
    int64_t length = data->options.sequence_length;
    batch->tokens = batch->predicted = 0;
    /* segments and positions also mark padding, so a dataset of whole documents needs them too */
    return ensure(&batch->ids, rows, length) && ensure(&batch->targets, rows, length) && ensure(&batch->segments, rows, length) &&
           ensure(&batch->positions, rows, length);
}

static void fill_at(const cb_dataset *data, const layout *l, int64_t number, int64_t at, cb_batch *batch, cb_string *sources)
{
    int64_t length = data->options.sequence_length, offset = at * length;
    row r = {.ids = (int32_t *)batch->ids->data + offset,
             .targets = (int32_t *)batch->targets->data + offset,
             .segments = (int32_t *)batch->segments->data + offset,
             .positions = (int32_t *)batch->positions->data + offset,
             .length = length,
             .sources = sources};
    fill_row(data, l, number, &r, batch);
}

static bool fill_batch(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    if (!data->rows)
        return cb_fail(CB_ERR_STATE, "data: there are no rows (a split of it failed)") == CB_OK;
    if (!batch_ready(data, rows, batch))
        return false;
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = index * rows + i, epoch = at / data->rows;
        layout *l = &data->shuffled;
        if (l->epoch != epoch && !layout_make(data, l, epoch, data->options.shuffle))
            return false;
        fill_at(data, l, l->rows[at % data->rows], i, batch, sources);
    }
    return true;
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

bool cb_dataset_sequential(cb_dataset *data, int64_t index, int64_t rows, cb_batch *batch)
{
    int64_t first = index * rows, n = data->rows - first < rows ? data->rows - first : rows;
    if (n <= 0 || !batch_ready(data, n, batch))
        return false;
    if (data->sequential.epoch < 0 && !layout_make(data, &data->sequential, 0, false))
        return false;
    for (int64_t i = 0; i < n; i++)
        fill_at(data, &data->sequential, first + i, i, batch, NULL);
    return true;
}

void cb_batch_free(cb_batch *batch)
{
    cb_release(batch->ids);
    cb_release(batch->targets);
    cb_release(batch->segments);
    cb_release(batch->positions);
    *batch = (cb_batch){0};
}

/* ---- questions ---- */

int64_t cb_dataset_tokens(const cb_dataset *data)
{
    return data->tokens;
}

uint64_t cb_dataset_hash(const cb_dataset *data)
{
    uint64_t h = CB_HASH_START; /* as cb_hash_text(), over tokens instead of bytes */
    for (size_t i = 0; i < data->documents.count; i++) {
        const document *d = &data->documents.items[i];
        h = (h ^ (uint64_t)d->length) * 0x100000001b3u;
        for (int64_t t = d->start; t < d->start + d->length; t++)
            h = (h ^ ((uint64_t)(uint32_t)data->store->ids[t] << 1 | data->store->learned[t])) * 0x100000001b3u;
    }
    return h;
}

int64_t cb_dataset_documents(const cb_dataset *data)
{
    return (int64_t)data->documents.count;
}

int64_t cb_dataset_rows(const cb_dataset *data)
{
    return data->rows;
}

int64_t cb_dataset_row_length(const cb_dataset *data)
{
    return data->options.sequence_length;
}

int64_t cb_dataset_padding(const cb_dataset *data)
{
    int64_t held = 0;
    for (size_t i = 0; data->options.packing && i < data->documents.count; i++)
        held += data->documents.items[i].wrapped ? data->documents.items[i].length : 0;
    int64_t parts = data->options.packing ? data->packed.count ? data->packed.starts[data->packed.count] : 0 : data->rows;
    for (int64_t i = 0; i < parts; i++)
        held += part_length(data, data->options.packing ? data->packed.parts[i] : data->row_starts[i]);
    return data->rows * data->options.sequence_length - held;
}

double cb_dataset_bytes_per_token(const cb_dataset *data)
{
    return data->store->count ? (double)data->store->bytes / (double)data->store->count : 0;
}
