/* stream.c: batches of a stream, whatever its source: items are listed, made into rows, and those that cannot be are set aside with the reason. */
#include "data/stream.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "data/dataset.h"

static const char *const orders[] = {"continual", "gradual", "mixed", "correlated", NULL};

#define OPT cb_stream_options
const cb_option cb_stream_option_table[] = {
    CB_OPT_LIST(OPT, corruptions, NULL, "NAME,...",
                "corruptions that images come under, each of which is a shift (cambium eval --help names them; none: as they are)"),
    CB_OPT_INT(OPT, severity, 5, 1, 5, "of the corruptions"),
    CB_OPT_ENUM(
        OPT, order, CB_ORDER_CONTINUAL, orders,
        "how images come: one shift after another, with severities that rise and fall, from all shifts at once, or with labels in runs"),
    CB_OPT_INT(OPT, rounds, 1, 1, 1000000, "how often all shifts come"),
    CB_OPT_BOOL(OPT, shuffle_shifts, 0, "in an order of shifts by the seed, which is the same in each round"),
    CB_OPT_FLOAT(OPT, concentration, 0.1, 1e-3, 1e6, "of runs of labels: the smaller, the longer they are"),
    CB_OPT_INT(OPT, batch_size, 64, 1, 65536, "images or texts that are answered and learned from at once"),
    CB_OPT_FLOAT(
        OPT, batch_wait, 0, 0, 1e9,
        "seconds without another item after which a live stream's batch goes out that is not full (0: of a pipe none does, a socket "
        "waits 0.05 and a watched directory 1)"),
    CB_OPT_INT(OPT, max_clients, 64, 1, 4096, "of a socket, at once"),
    CB_OPT_END};
#undef OPT

/* ---- opening ---- */

size_t cb_stream_values(const cb_stream *s)
{
    return (size_t)s->processor.channels * (size_t)s->height * (size_t)s->width;
}

static bool copy_list(cb_string_list *to, const cb_string_list *from)
{
    bool ok = true;
    *to = (cb_string_list){0};
    for (size_t i = 0; ok && from && i < from->count; i++)
        ok = cb_string_list_add(to, from->items[i]);
    return ok;
}

static bool copy_text(char **to, const char *from)
{
    *to = from ? cb_strdup(from) : NULL;
    return !from || *to;
}

static bool begin(cb_stream *s, const cb_string_list *data, const cb_string_list *labels, const cb_stream_options *options)
{
    s->options = *options;
    s->options.corruptions = (cb_string_list){0};
    s->count = s->batches = -1;
    if (!copy_list(&s->options.corruptions, &options->corruptions) || !copy_list(&s->data, data) || !copy_list(&s->labels, labels))
        return false;
    return s->labels.count || cb_fail(CB_ERR_ARGUMENT, "stream: there are no labels, expected those of the model") == CB_OK;
}

static cb_stream *begun(cb_stream *s, bool ok)
{
    if (ok)
        return s;
    cb_stream_free(s);
    return NULL;
}

static bool copy_images(cb_stream *s, const cb_image_data_options *images)
{
    s->images = *images;
    s->processor = *images->processor;
    s->images.processor = &s->processor;
    s->images.augment = NULL;
    s->images.corruption = NULL;
    s->images.labels = &s->labels;
    s->images.label_maps = s->images.label_values = s->images.data = (cb_string_list){0};
    s->images.image_column = s->images.label_column = s->images.data_split = NULL;
    return copy_text(&s->images.image_column, images->image_column) && copy_text(&s->images.label_column, images->label_column) &&
           copy_text(&s->images.data_split, images->data_split);
}

cb_stream *cb_stream_begin_images(cb_stream *s, const cb_image_data_options *images, const cb_stream_options *options)
{
    s->seed = images->seed;
    s->shuffle = images->shuffle_images;
    s->most = images->max_images;
    bool ok = copy_images(s, images) && begin(s, &images->data, images->labels, options);
    s->how = (cb_image_options){.mode = s->processor.channels == 1 ? CB_IMAGE_GREY : CB_IMAGE_RGB,
                                .exif_transpose = images->exif_transpose,
                                .max_pixels = images->max_pixels};
    if (ok && !cb_image_processor_size(&s->processor, &s->height, &s->width))
        ok = cb_fail(CB_ERR_ARGUMENT,
                     "stream: the image processor makes images of different sizes, expected height and width, or a crop") == CB_OK;
    return begun(s, ok);
}

cb_stream *cb_stream_begin_texts(cb_stream *s, const cb_tokenizer *tokenizer, const cb_data_options *texts,
                                 const cb_stream_options *options)
{
    s->tokenizer = tokenizer;
    s->most_tokens = texts->sequence_length;
    s->seed = texts->seed;
    s->shuffle = texts->shuffle;
    s->most = texts->max_records;
    bool ok = begin(s, &texts->data, texts->labels, options);
    if (ok && s->options.corruptions.count)
        ok = cb_fail(CB_ERR_ARGUMENT, "stream: corruptions are of images, and these are texts") == CB_OK;
    if (ok && s->most_tokens < 1)
        ok = cb_fail(CB_ERR_ARGUMENT, "stream: sequence_length is %lld, expected 1 or more", (long long)s->most_tokens) == CB_OK;
    return begun(s, ok);
}

void cb_stream_free(cb_stream *s)
{
    if (!s)
        return;
    s->kind->free(s);
    cb_string_list_free(&s->options.corruptions);
    cb_string_list_free(&s->data);
    cb_string_list_free(&s->labels);
    cb_free(s->images.image_column);
    cb_free(s->images.label_column);
    cb_free(s->images.data_split);
    cb_string_list_free(&s->errors);
    for (size_t i = 0; i < s->encoding_count; i++)
        cb_encoding_free(&s->encodings[i]);
    cb_free(s->encodings);
    cb_free(s->items);
    cb_release(s->input);
    cb_free(s);
}

/* ---- items ---- */

bool cb_stream_add(cb_stream *s, cb_stream_item item)
{
    if (!cb_grow(&s->items, &s->item_capacity, s->item_count + 1, sizeof *s->items))
        return false;
    item.index = s->item + (int64_t)s->item_count;
    item.row = -1;
    s->items[s->item_count++] = item;
    return true;
}

int32_t cb_stream_label(const cb_stream *s, const char *name)
{
    for (size_t i = 0; i < s->labels.count; i++)
        if (strcmp(s->labels.items[i], name) == 0)
            return (int32_t)i;
    size_t digits = strspn(name, "0123456789");
    long number = digits && digits < 10 && !name[digits] ? strtol(name, NULL, 10) : -1;
    return number >= 0 && (size_t)number < s->labels.count ? (int32_t)number : -1;
}

/* As a dataset of labelled rows has it. */
bool cb_stream_encode(const cb_stream *s, const char *text, const char *pair, cb_encoding *tokens)
{
    size_t length = strlen(text);
    cb_encode_options options = {.add_special_tokens = true, .pair = pair, .pair_length = pair ? strlen(pair) : 0};
    if (!cb_tokenizer_encode_with(s->tokenizer, text, length, &options, tokens))
        return false;
    options.max_length = (size_t)s->most_tokens;
    if (tokens->count > options.max_length && !cb_tokenizer_encode_with(s->tokenizer, text, length, &options, tokens))
        return false;
    return tokens->count || cb_fail(CB_ERR_FORMAT, "text: found no tokens in it, expected something to judge") == CB_OK;
}

bool cb_stream_fit(const cb_stream *s, const cb_image *image, const char *corruption, int severity, uint64_t item, float *pixels)
{
    cb_image fitted = {0}, corrupted = {0};
    cb_rng rng = cb_image_rng(s->seed, INT16_MAX, (int64_t)item); /* no epoch's, as evaluation under a corruption has it */
    bool ok = cb_image_processor_fit(&s->processor, image, &fitted) &&
              (!corruption || cb_image_corrupt(&fitted, corruption, severity, &rng, &corrupted)) &&
              cb_image_processor_normalize(&s->processor, corruption ? &corrupted : &fitted, pixels);
    cb_image_free(&fitted);
    cb_image_free(&corrupted);
    return ok;
}

/* ---- batches ---- */

char *cb_stream_take_error(void)
{
    char message[1024];
    snprintf(message, sizeof message, "%s", cb_error_message());
    cb_error_clear(); /* before memory is asked for: of several failures the first one counts */
    return cb_strdup(message);
}

/* Notes why an item has no pixels; false where that is a failure of all. */
static bool set_aside(cb_stream *s, cb_stream_item *item)
{
    if (cb_error_status() == CB_ERR_MEMORY || cb_error_status() == CB_ERR_INTERRUPTED)
        return false;
    char *message = cb_stream_take_error();
    bool ok = message && cb_string_list_add(&s->errors, message);
    cb_free(message);
    item->row = -1;
    item->error = ok ? s->errors.items[s->errors.count - 1] : NULL;
    return ok;
}

/* Rows of those that can be read, one after another; returns how many, or -1. */
static int64_t make_rows(cb_stream *s, float *to)
{
    size_t values = cb_stream_values(s);
    const float *all = s->kind->make_all ? s->kind->make_all(s) : NULL;
    int64_t rows = 0;
    if (s->kind->make_all && !all)
        return -1;
    for (size_t i = 0; i < s->item_count; i++) {
        cb_stream_item *item = &s->items[i];
        const float *from = all ? all + i * (values + 1) : NULL;
        if (from && from[values] == 0) {
            memcpy(to + (size_t)rows * values, from, values * sizeof *to);
            item->row = rows++;
        } else if (s->kind->make(s, (int64_t)i, to + (size_t)rows * values)) {
            item->row = rows++;
        } else if (!set_aside(s, item)) {
            return -1;
        }
    }
    return rows;
}

/* The kept tensor, with memory for as many rows as a batch has at most. */
static bool ready_input(cb_stream *s)
{
    int64_t most = s->options.batch_size > (int64_t)s->item_count ? s->options.batch_size : (int64_t)s->item_count;
    const int64_t shape[] = {most, s->processor.channels, s->height, s->width};
    return cb_batch_tensor(&s->input, CB_F32, 4, shape);
}

/* ---- texts ---- */

/* Room for the tokens of each item. */
static bool ready_encodings(cb_stream *s)
{
    size_t before = s->encoding_count;
    if (s->item_count <= before)
        return true;
    if (!cb_grow(&s->encodings, &s->encoding_count, s->item_count, sizeof *s->encodings))
        return false;
    memset(s->encodings + before, 0, (s->encoding_count - before) * sizeof *s->encodings);
    return true;
}

/* The tokens of those that can be read; returns how many, or -1. */
static int64_t encode_rows(cb_stream *s, int64_t *longest)
{
    int64_t rows = 0;
    *longest = 1;
    for (size_t i = 0; i < s->item_count; i++) {
        cb_encoding *tokens = &s->encodings[rows];
        if (s->kind->encode(s, (int64_t)i, tokens)) {
            *longest = (int64_t)tokens->count > *longest ? (int64_t)tokens->count : *longest;
            s->items[i].row = rows++;
        } else if (!set_aside(s, &s->items[i])) {
            return -1;
        }
    }
    return rows;
}

/* Rounded up, so that there are few lengths. */
static int64_t round_up(const cb_stream *s, int64_t longest)
{
    enum { MULTIPLE = 8 };
    int64_t rounded = (longest + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
    return rounded < s->most_tokens ? rounded : s->most_tokens;
}

static void fill_row(const cb_encoding *tokens, int64_t length, int32_t *row)
{
    int32_t *ids = row, *segments = row + length, *types = segments + length;
    for (int64_t i = 0; i < length; i++) {
        bool there = i < (int64_t)tokens->count;
        ids[i] = there ? tokens->ids[i] : 0;
        segments[i] = there ? 0 : -1;
        types[i] = there ? tokens->type_ids[i] : 0;
    }
}

static int64_t make_texts(cb_stream *s)
{
    int64_t longest, rows = ready_encodings(s) ? encode_rows(s, &longest) : -1;
    if (rows < 0)
        return -1;
    if (cb_rehearsing() && s->kind->longest) /* which sees a few of them only */
        longest = s->kind->longest(s);
    int64_t most = s->options.batch_size > rows ? s->options.batch_size : rows;
    const int64_t shape[] = {most, 3, round_up(s, longest)};
    if (s->input && s->input->shape[2] != shape[2]) /* blocks of one length wait in vain for requests of another */
        cb_memory_trim();
    if (!cb_ok() || !cb_batch_tensor(&s->input, CB_I32, 3, shape))
        return -1;
    for (int64_t i = 0; i < rows; i++)
        fill_row(&s->encodings[i], shape[2], (int32_t *)s->input->data + i * 3 * shape[2]);
    return rows;
}

/* ---- batches ---- */

/* In a rehearsal of a live stream: one batch of nothing, as large as any. */
static bool rehearse(cb_stream *s)
{
    const int64_t shape[] = {s->options.batch_size, 3, s->most_tokens};
    for (int64_t i = 0; i < s->options.batch_size && s->batch == 0; i++) {
        if (!cb_stream_add(s, (cb_stream_item){.source = "", .shift = "", .label = -1}))
            return false;
        s->items[i].row = i;
    }
    if (!s->item_count || !(s->tokenizer ? cb_batch_tensor(&s->input, CB_I32, 3, shape) : ready_input(s)))
        return false;
    if (s->tokenizer)
        memset(s->input->data, 0, (size_t)s->input->count * sizeof(int32_t));
    return true;
}

static int64_t make_batch(cb_stream *s)
{
    if (s->tokenizer)
        return make_texts(s);
    return ready_input(s) ? make_rows(s, s->input->data) : -1;
}

bool cb_stream_next(cb_stream *s, cb_stream_batch *batch)
{
    bool rehearsed = cb_rehearsing() && s->kind->remember;
    *batch = (cb_stream_batch){.index = s->batch};
    s->item_count = 0;
    cb_string_list_free(&s->errors);
    if (!(rehearsed ? rehearse(s) : s->kind->next(s, &batch->begins_shift)))
        return false;
    int64_t rows = rehearsed ? s->options.batch_size : make_batch(s);
    if (rows < 0)
        return false;
    batch->items = s->items;
    batch->count = (int64_t)s->item_count;
    batch->rows = rows;
    batch->input = rows ? cb_slice(s->input, 0, 0, rows, 1) : NULL;
    s->item += batch->count;
    s->batch++;
    return cb_ok();
}

bool cb_stream_seek(cb_stream *s, int64_t batch, int64_t item)
{
    if (batch < 0 || item < 0 || (s->batches >= 0 && batch > s->batches))
        return cb_fail(CB_ERR_ARGUMENT, "stream: found batch %lld, expected 0 to %lld", (long long)batch, (long long)s->batches) == CB_OK;
    if (!s->kind->seek(s, batch, item))
        return false;
    s->batch = batch;
    s->item = item;
    return true;
}

bool cb_stream_remember(const cb_stream *s, cb_string *state)
{
    return !s->kind->remember || s->kind->remember(s, state);
}

bool cb_stream_recall(cb_stream *s, const void *state, size_t length)
{
    return !s->kind->recall || s->kind->recall(s, state, length);
}

bool cb_stream_seen(cb_stream *s, const char *source, int64_t modified)
{
    return !s->kind->seen || s->kind->seen(s, source, modified);
}

bool cb_stream_is_answered(const cb_stream *s)
{
    return s->kind->is_answered && s->kind->is_answered(s);
}

bool cb_stream_answer(cb_stream *s, int64_t item, const char *line, size_t length)
{
    return !s->kind->answer || s->kind->answer(s, item, line, length);
}

int64_t cb_stream_count(const cb_stream *s)
{
    return s->count;
}

int64_t cb_stream_batches(const cb_stream *s)
{
    return s->batches;
}

const cb_string_list *cb_stream_labels(const cb_stream *s)
{
    return &s->labels;
}

/* ---- what it is ---- */

static json_t *texts(const cb_string_list *list)
{
    json_t *array = json_array();
    bool ok = array;
    for (size_t i = 0; ok && i < list->count; i++)
        ok = cb_json_add(array, json_string(list->items[i]));
    return array;
}

static json_t *preparation(const cb_stream *s)
{
    if (s->tokenizer)
        return json_pack("{s:I, s:I}", "sequence_length", (json_int_t)s->most_tokens, "vocab_size",
                         (json_int_t)cb_tokenizer_vocab_size(s->tokenizer));
    char *processor = cb_image_processor_describe(&s->processor);
    json_t *how = processor ? cb_json_parse("image processor", processor, strlen(processor)) : NULL;
    cb_free(processor);
    return how;
}

static bool describe_all(const cb_stream *s, json_t *o)
{
    return cb_json_put(o, "preprocessing", preparation(s)) && cb_json_put(o, "batch_size", json_integer(s->options.batch_size)) &&
           cb_json_put(o, "data", texts(&s->data)) && s->kind->describe(s, o);
}

char *cb_stream_describe(const cb_stream *s)
{
    json_t *o = cb_json_made(json_object());
    char *dumped = o && describe_all(s, o) ? json_dumps(o, JSON_COMPACT) : NULL, *text = dumped ? cb_strdup(dumped) : NULL;
    if (!dumped && cb_ok())
        cb_fail(CB_ERR_MEMORY, "stream: no memory for its description");
    free(dumped);
    json_decref(o);
    return text;
}
