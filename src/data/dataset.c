/* dataset.c: rows of token ids out of documents.
 *
 * A layout is the order of one epoch.  With packing, what is wrapped (plain texts, and examples as the strategy says) is laid end to end
 * in shuffled order and cut every T tokens, whole examples are put together as they fit (pack.c), and the rows of both are shuffled (a
 * single long book is mixed as well as a thousand notes); without, each document is cut into rows of its own.  A row is of one task: each
 * has a stream of its own, which begins with a row.  Every row is a function of (seed, epoch, row number), so any row can be
 * made at any time: that is what makes resuming exact. */
#include "data/dataset.h"

#include <math.h>

#include "data/images.h"
#include "data/series.h"
#include "data/text_lines.h"

/* Fewer than one in so many positions are to be empty, else examples are cut (cb_packing_strategy). */
enum { EMPTY_SHARE = 50 };

static void store_release(token_store *store)
{
    if (!store || --store->references > 0)
        return;
    cb_free(store->ids);
    cb_free(store->learned);
    cb_free(store->masking.continues);
    cb_labels_free(&store->labels);
    cb_conditions_free(&store->conditions);
    cb_free(store->types);
    cb_free(store->words);
    cb_string_list_free(&store->files);
    cb_free(store);
}

/* Forgets which rows there are. */
static void rows_free(cb_dataset *data)
{
    cb_free(data->row_starts);
    cb_free(data->packed.parts);
    cb_free(data->packed.starts);
    data->row_starts = NULL;
    data->packed = (document_rows){0};
    cb_layout_free(&data->shuffled);
    cb_layout_free(&data->sequential);
}

void cb_dataset_free(cb_dataset *data)
{
    if (!data)
        return;
    store_release(data->store);
    cb_groups_free(data->groups);
    cb_images_free(data->images);
    cb_windows_free(data->series);
    cb_text_lines_free(data->lines);
    cb_joined_free(data->joined);
    cb_free(data->documents.items);
    rows_free(data);
    cb_free(data);
}

/* ---- opening and splitting ---- */

static int64_t rows_for(int64_t tokens, int64_t length)
{
    return (tokens + length - 1) / length;
}

/* Rows of the tokens that are laid end to end, of each task by itself; -1 on failure. */
static int64_t rows_of_streams(const cb_dataset *data)
{
    int32_t last = data->last_task;
    int64_t rows = 0, *tokens = cb_calloc((size_t)last + 1, sizeof *tokens);
    for (size_t i = 0; tokens && i < data->documents.count; i++)
        if (data->documents.items[i].wrapped)
            tokens[data->documents.items[i].task] += data->documents.items[i].length;
    for (int32_t t = 0; tokens && t <= last; t++)
        rows += rows_for(tokens[t], data->options.sequence_length);
    bool ok = tokens;
    cb_free(tokens);
    return ok ? rows : -1;
}

static bool pack_whole(cb_dataset *data)
{
    int64_t length = data->options.sequence_length;
    cb_free(data->packed.parts);
    cb_free(data->packed.starts);
    data->stream_documents = 0;
    for (size_t i = 0; i < data->documents.count; i++)
        data->stream_documents += data->documents.items[i].wrapped;
    data->stream_rows = rows_of_streams(data);
    if (data->stream_rows < 0 ||
        !cb_data_pack(&data->documents, length, data->options.packing_strategy == CB_PACKING_BFD_SPLIT, &data->packed))
        return false;
    data->rows = data->stream_rows + data->packed.count;
    return true;
}

int64_t cb_data_part_length(const cb_dataset *data, document_part part)
{
    int64_t left = data->documents.items[part.document].length - part.offset;
    return left < data->options.sequence_length ? left : data->options.sequence_length;
}

static int64_t room_of(const cb_dataset *data, int64_t packed_row)
{
    const document_rows *p = &data->packed;
    int64_t room = data->options.sequence_length;
    for (int64_t i = p->starts[packed_row]; i < p->starts[packed_row + 1]; i++)
        room -= cb_data_part_length(data, p->parts[i]);
    return room;
}

/* The least room whose rows, with all that have more, are to be wrapped, so that few positions are empty: 0 for none.  `with` counts the
 * packed rows by their room.  What is wrapped counts as one stream here, though each task has its own. */
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

/* With those of its target. */
static int64_t tokens_of(const cb_dataset *data, const document *d)
{
    return d->length + (cb_seq2seq_is(data) ? d->label_count : 0);
}

/* Finds the rows once the documents are known. */
static bool make_rows(cb_dataset *data)
{
    rows_free(data);
    data->tokens = data->rows = 0;
    data->last_task = cb_data_last_task(&data->documents);
    for (size_t i = 0; i < data->documents.count; i++)
        data->tokens += tokens_of(data, &data->documents.items[i]);
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

/* A word whose first token is cut off, or that the tokenizer has no token for, is not judged. */
static bool has_judged(const cb_dataset *data)
{
    bool any = data->options.objective != CB_OBJECTIVE_TOKEN_CLASSIFICATION;
    for (size_t i = 0; !any && i < data->store->count; i++)
        any = data->store->words[i] >= 0;
    return any || cb_fail(CB_ERR_FORMAT, "%s: found no word with a token in its row, so none is judged; --sequence-length is %lld",
                          data->store->files.items[0], (long long)data->options.sequence_length) == CB_OK;
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
    data->options.labels = NULL;
    data->options.source_prefix = NULL;
    if (options->unlabelled && options->objective != CB_OBJECTIVE_SEQUENCE_CLASSIFICATION) {
        cb_fail(CB_ERR_UNSUPPORTED, "data: unlabelled rows are of sequence classification, found another objective");
        cb_dataset_free(data);
        return NULL;
    }
    if (cb_rows_are_documents(data))
        data->options.packing = false;
    if (!cb_data_masking_open(tokenizer, options, &store->masking) || !cb_labels_open(&store->labels, options) ||
        !cb_data_tokenize(tokenizer, options, store, &data->documents) ||
        (!options->unlabelled && !cb_labels_close(&store->labels, options->objective)) || !make_rows(data) || !has_judged(data)) {
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
        cb_data_shuffle(order, n, seed, 0x5e11);
    for (int64_t i = 0; ok && i < n - 1 && have < want; i++) {
        moved[order[i]] = true;
        have += tokens_of(data, &all->items[order[i]]);
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
    if (data->series) {
        cb_fail(CB_ERR_UNSUPPORTED, "data: series are divided by time (--train-share, --validation-share), not by rows");
        return NULL;
    }
    if (data->joined) {
        cb_fail(CB_ERR_UNSUPPORTED, "data: joined datasets are split before they are joined");
        return NULL;
    }
    cb_dataset *part = cb_calloc(1, sizeof *part);
    if (!part)
        return NULL;
    if (data->groups || data->images || data->lines) {
        part->options.objective = data->options.objective;
        part->groups = data->groups ? cb_groups_split(data->groups, share, seed) : NULL;
        part->images = data->images ? cb_images_split(data->images, share, seed) : NULL;
        part->lines = data->lines ? cb_text_lines_split(data->lines, share, seed) : NULL;
        if (part->groups || part->images || part->lines)
            return part;
        cb_free(part);
        return NULL;
    }
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

cb_dataset *cb_dataset_view(const cb_dataset *data, const cb_augment_options *augment)
{
    cb_dataset *view = cb_calloc(1, sizeof *view);
    if (!view)
        return NULL;
    bool ok = false;
    if (data->images) {
        view->images = cb_images_view(data->images, augment);
        ok = view->images;
    } else if (data->store) {
        view->store = data->store;
        view->store->references++;
        view->options = data->options;
        ok = true;
        for (size_t i = 0; ok && i < data->documents.count; i++)
            ok = add_document(view, data->documents.items[i]);
        ok = ok && make_rows(view);
    } else {
        cb_fail(CB_ERR_UNSUPPORTED, "data: groups of texts and joined datasets have no views");
    }
    if (ok)
        return view;
    cb_dataset_free(view);
    return NULL;
}

cb_dataset *cb_dataset_pick(const cb_dataset *data, const int64_t *rows, int64_t count)
{
    bool documents = data->store && cb_rows_are_documents(data), ok = data->images || documents;
    cb_dataset *part = ok && count > 0 ? cb_calloc(1, sizeof *part) : NULL;
    if (!ok)
        cb_fail(CB_ERR_UNSUPPORTED, "data: rows are picked of images and of labelled texts");
    else if (count <= 0)
        cb_fail(CB_ERR_ARGUMENT, "data: found no rows to pick");
    if (!part)
        return NULL;
    part->options = data->options;
    if (data->images)
        ok = (part->images = cb_images_pick(data->images, rows, count));
    else {
        part->store = data->store;
        part->store->references++;
        for (int64_t i = 0; ok && i < count; i++)
            ok = add_document(part, data->documents.items[data->row_starts[rows[i]].document]);
        ok = ok && make_rows(part);
    }
    if (ok)
        return part;
    cb_dataset_free(part);
    return NULL;
}

/* ---- questions ---- */

bool cb_dataset_row_image(const cb_dataset *data, int64_t row, cb_image *image)
{
    return data->images ? cb_images_read(data->images, row, image) : cb_fail(CB_ERR_UNSUPPORTED, "data: found no images") == CB_OK;
}

bool cb_rows_are_documents(const cb_dataset *data)
{
    return cb_objective_is_labelled(data->options.objective) || cb_seq2seq_is(data);
}

bool cb_objective_is_labelled(cb_objective objective)
{
    return objective >= CB_OBJECTIVE_SEQUENCE_CLASSIFICATION && objective <= CB_OBJECTIVE_SALIENCY;
}

bool cb_objective_is_of_places(cb_objective objective)
{
    return objective >= CB_OBJECTIVE_SEMANTIC_SEGMENTATION && objective <= CB_OBJECTIVE_SALIENCY;
}

int cb_objective_numbers(cb_objective objective)
{
    if (objective == CB_OBJECTIVE_SURFACE_NORMALS)
        return 3;
    return objective == CB_OBJECTIVE_DEPTH_ESTIMATION || objective == CB_OBJECTIVE_SALIENCY;
}

const cb_string_list *cb_dataset_labels(const cb_dataset *data)
{
    static const cb_string_list none = {0};
    if (data->joined)
        return cb_dataset_labels(cb_joined_first(data->joined));
    if (data->images)
        return cb_images_labels(data->images);
    return data->store ? &data->store->labels.names : &none;
}

cb_objective cb_dataset_objective(const cb_dataset *data)
{
    if (data->series)
        return CB_OBJECTIVE_FORECASTING;
    if (data->joined)
        return cb_dataset_objective(cb_joined_first(data->joined));
    return data->images ? cb_images_objective(data->images) : data->options.objective;
}

static const document *document_of_row(const cb_dataset *data, int64_t row)
{
    return &data->documents.items[data->row_starts[row].document];
}

const int32_t *cb_dataset_row_labels(const cb_dataset *data, int64_t row, size_t *count)
{
    if (data->images) {
        *count = 1;
        return cb_images_label(data->images, row);
    }
    const document *d = document_of_row(data, row);
    *count = (size_t)d->label_count;
    return data->store->labels.ids + d->label;
}

bool cb_dataset_write_map(const cb_dataset *data, int64_t row, const cb_image *labels, const char *directory)
{
    return cb_images_write_map(data->images, row, labels, directory);
}

int64_t cb_dataset_row_number(const cb_dataset *data, int64_t row)
{
    return data->images ? cb_images_number(data->images, row) : row;
}

double cb_dataset_row_value(const cb_dataset *data, int64_t row)
{
    return (double)data->store->labels.values[document_of_row(data, row)->label];
}

const char *cb_dataset_row_text(const cb_dataset *data, int64_t row)
{
    return data->lines ? cb_text_lines_text(data->lines, row) : NULL;
}

const cb_ctc_vocabulary *cb_dataset_vocabulary(const cb_dataset *data)
{
    return data->lines ? cb_text_lines_vocabulary(data->lines) : NULL;
}

int64_t cb_dataset_too_long(const cb_dataset *data)
{
    return data->lines ? cb_text_lines_too_long(data->lines) : 0;
}

char *cb_dataset_row_source(const cb_dataset *data, int64_t row)
{
    if (data->lines)
        return cb_text_lines_source(data->lines, row);
    if (data->images)
        return cb_strdup(cb_images_source(data->images, row));
    if (data->series)
        return cb_windows_source(data->series, row);
    if (data->groups) {
        const group_store *s = data->groups->store;
        int64_t group = data->groups->members[row];
        return cb_format("%s:%lld", s->files.items[s->file_of[group]], (long long)s->lines[group]);
    }
    const document *d = document_of_row(data, row);
    return cb_format("%s:%lld", data->store->files.items[d->file], (long long)d->line);
}

/* Of images and series: each is a document, a row and a token; -1: of others. */
static int64_t whole_rows(const cb_dataset *data)
{
    if (data->images)
        return cb_images_count(data->images);
    if (data->lines)
        return cb_text_lines_count(data->lines);
    return data->series ? cb_windows_count(data->series) : -1;
}

int64_t cb_dataset_tokens(const cb_dataset *data)
{
    if (data->joined)
        return cb_joined_sum(data->joined, cb_dataset_tokens);
    if (whole_rows(data) >= 0)
        return whole_rows(data);
    return data->groups ? cb_groups_tokens(data->groups) : data->tokens;
}

uint64_t cb_dataset_hash(const cb_dataset *data)
{
    if (data->joined)
        return cb_joined_hash(data->joined);
    if (data->groups)
        return cb_groups_hash(data->groups);
    if (data->images)
        return cb_images_hash(data->images);
    if (data->series)
        return cb_windows_hash(data->series);
    if (data->lines)
        return cb_text_lines_hash(data->lines);
    uint64_t h = CB_HASH_START; /* as cb_hash_text(), over tokens instead of bytes */
    if (data->options.objective == CB_OBJECTIVE_MASKED_LM)
        h = (h ^ (uint64_t)(data->options.mlm_probability * 1e9) << 1 ^ data->options.whole_word_mask) * 0x100000001b3u;
    if (cb_rows_are_documents(data))
        h = (h ^ ((uint64_t)data->options.objective << 32 | (uint64_t)data->options.pad_to_multiple_of)) * 0x100000001b3u;
    for (size_t i = 0; i < data->documents.count; i++) {
        const document *d = &data->documents.items[i];
        h = (h ^ ((uint64_t)d->task << 40 | (uint64_t)d->length)) * 0x100000001b3u;
        h = cb_conditions_hash(&data->store->conditions, h, d->task);
        for (int64_t t = d->start; t < d->start + d->length; t++)
            h = (h ^ ((uint64_t)(uint32_t)data->store->ids[t] << 1 | data->store->learned[t])) * 0x100000001b3u;
        if (cb_rows_are_documents(data))
            h = cb_labels_hash(&data->store->labels, h, d, data->options.objective);
    }
    return h;
}

int64_t cb_dataset_documents(const cb_dataset *data)
{
    if (data->joined)
        return cb_joined_sum(data->joined, cb_dataset_documents);
    if (whole_rows(data) >= 0)
        return whole_rows(data);
    return data->groups ? data->groups->count : (int64_t)data->documents.count;
}

int64_t cb_dataset_rows(const cb_dataset *data)
{
    if (data->joined)
        return cb_joined_rows(data->joined);
    if (whole_rows(data) >= 0)
        return whole_rows(data);
    return data->groups ? data->groups->count : data->rows;
}

int64_t cb_dataset_row_length(const cb_dataset *data)
{
    if (data->joined)
        return cb_dataset_row_length(cb_joined_first(data->joined));
    if (whole_rows(data) >= 0)
        return 1;
    return data->groups ? data->groups->store->longest : data->options.sequence_length;
}

int64_t cb_dataset_padding(const cb_dataset *data)
{
    if (data->groups || whole_rows(data) >= 0 || data->joined || cb_rows_are_documents(data))
        return -1;
    int64_t held = 0;
    for (size_t i = 0; data->options.packing && i < data->documents.count; i++)
        held += data->documents.items[i].wrapped ? data->documents.items[i].length : 0;
    int64_t parts = data->options.packing ? data->packed.count ? data->packed.starts[data->packed.count] : 0 : data->rows;
    for (int64_t i = 0; i < parts; i++)
        held += cb_data_part_length(data, data->options.packing ? data->packed.parts[i] : data->row_starts[i]);
    return data->rows * data->options.sequence_length - held;
}

double cb_dataset_bytes_per_token(const cb_dataset *data)
{
    return data->store && data->store->count && data->options.objective == CB_OBJECTIVE_CAUSAL_LM
               ? (double)data->store->bytes / (double)data->store->count
               : 0;
}

int64_t cb_dataset_group(const cb_dataset *data)
{
    return data->groups ? data->groups->store->size : 1;
}
