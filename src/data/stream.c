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
    CB_OPT_INT(OPT, batch_size, 64, 1, 65536, "images that are answered and learned from at once"),
    CB_OPT_FLOAT(OPT, batch_wait, 0, 0, 1e9,
                 "of a pipe: seconds without a line after which a batch goes out that is not full (0: none does)"),
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

static bool copy_options(cb_stream *s, const cb_image_data_options *images, const cb_stream_options *options)
{
    s->options = *options;
    s->images = *images;
    s->processor = *images->processor;
    s->images.processor = &s->processor;
    s->images.augment = NULL;
    s->images.corruption = NULL;
    s->images.labels = &s->labels;
    s->images.label_maps = s->images.label_values = s->images.data = s->options.corruptions = (cb_string_list){0};
    s->images.image_column = s->images.label_column = s->images.data_split = NULL;
    return copy_list(&s->options.corruptions, &options->corruptions) && copy_list(&s->images.data, &images->data) &&
           copy_list(&s->labels, images->labels) && copy_text(&s->images.image_column, images->image_column) &&
           copy_text(&s->images.label_column, images->label_column) && copy_text(&s->images.data_split, images->data_split);
}

cb_stream *cb_stream_begin(cb_stream *s, const cb_image_data_options *images, const cb_stream_options *options)
{
    bool ok = copy_options(s, images, options);
    s->count = s->batches = -1;
    s->how = (cb_image_options){.mode = s->processor.channels == 1 ? CB_IMAGE_GREY : CB_IMAGE_RGB,
                                .exif_transpose = images->exif_transpose,
                                .max_pixels = images->max_pixels};
    if (ok && !cb_image_processor_size(&s->processor, &s->height, &s->width))
        ok = cb_fail(CB_ERR_ARGUMENT,
                     "stream: the image processor makes images of different sizes, expected height and width, or a crop") == CB_OK;
    if (ok && !s->labels.count)
        ok = cb_fail(CB_ERR_ARGUMENT, "stream: there are no labels, expected those of the model") == CB_OK;
    if (ok)
        return s;
    cb_stream_free(s);
    return NULL;
}

void cb_stream_free(cb_stream *s)
{
    if (!s)
        return;
    s->kind->free(s);
    cb_string_list_free(&s->options.corruptions);
    cb_string_list_free(&s->images.data);
    cb_string_list_free(&s->labels);
    cb_free(s->images.image_column);
    cb_free(s->images.label_column);
    cb_free(s->images.data_split);
    cb_string_list_free(&s->errors);
    cb_free(s->items);
    cb_release(s->input);
    cb_free(s);
}

/* ---- items ---- */

bool cb_stream_add(cb_stream *s, const char *source, const char *shift, int32_t label)
{
    if (!cb_grow(&s->items, &s->item_capacity, s->item_count + 1, sizeof *s->items))
        return false;
    s->items[s->item_count] =
        (cb_stream_item){.index = s->item + (int64_t)s->item_count, .source = source, .shift = shift, .label = label, .row = -1};
    s->item_count++;
    return true;
}

int32_t cb_stream_label(const cb_stream *s, const char *name)
{
    for (size_t i = 0; i < s->labels.count; i++)
        if (strcmp(s->labels.items[i], name) == 0)
            return (int32_t)i;
    return -1;
}

bool cb_stream_fit(const cb_stream *s, const cb_image *image, const char *corruption, int severity, uint64_t item, float *pixels)
{
    cb_image fitted = {0}, corrupted = {0};
    cb_rng rng = cb_image_rng(s->images.seed, INT16_MAX, (int64_t)item); /* no epoch's, as evaluation under a corruption has it */
    bool ok = cb_image_processor_fit(&s->processor, image, &fitted) &&
              (!corruption || cb_image_corrupt(&fitted, corruption, severity, &rng, &corrupted)) &&
              cb_image_processor_normalize(&s->processor, corruption ? &corrupted : &fitted, pixels);
    cb_image_free(&fitted);
    cb_image_free(&corrupted);
    return ok;
}

/* ---- batches ---- */

/* Notes why an item has no pixels; false where that is a failure of all. */
static bool set_aside(cb_stream *s, cb_stream_item *item)
{
    if (cb_error_status() == CB_ERR_MEMORY || cb_error_status() == CB_ERR_INTERRUPTED)
        return false;
    char *message = cb_strdup(cb_error_message());
    cb_error_clear();
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

bool cb_stream_next(cb_stream *s, cb_stream_batch *batch)
{
    *batch = (cb_stream_batch){.index = s->batch};
    s->item_count = 0;
    cb_string_list_free(&s->errors);
    if (!s->kind->next(s, &batch->begins_shift) || !ready_input(s))
        return false;
    int64_t rows = make_rows(s, s->input->data);
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

static bool describe_all(const cb_stream *s, json_t *o)
{
    char *processor = cb_image_processor_describe(&s->processor);
    json_t *how = processor ? cb_json_parse("image processor", processor, strlen(processor)) : NULL;
    cb_free(processor);
    return cb_json_put(o, "preprocessing", how) && cb_json_put(o, "batch_size", json_integer(s->options.batch_size)) &&
           cb_json_put(o, "data", texts(&s->images.data)) && s->kind->describe(s, o);
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
