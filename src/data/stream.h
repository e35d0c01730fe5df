/* stream.h: what streams of images share: how an item becomes a row, and a batch of them. */
#ifndef CB_DATA_STREAM_H
#define CB_DATA_STREAM_H

#include <jansson.h>

#include "cambium/stream.h"
#include "data/images.h"

/* A source of items. */
typedef struct stream_kind {
    /* Lists the items of the next batch by cb_stream_add(); false with cb_ok(): there is none. */
    bool (*next)(cb_stream *s, bool *begins_shift);
    /* Pixels of an item of the batch at hand (C, H, W). */
    bool (*make)(cb_stream *s, int64_t item, float *pixels);
    /* The same of all of them at once, where that is quicker: behind each row's pixels is 0, or that it could not be read; may be NULL */
    const float *(*make_all)(cb_stream *s);
    bool (*seek)(cb_stream *s, int64_t batch, int64_t item);
    bool (*describe)(const cb_stream *s, json_t *object);
    void (*free)(cb_stream *s);
} stream_kind;

struct cb_stream {
    const stream_kind *kind;
    void *state; /* the kind's */
    cb_stream_options options;
    cb_image_data_options images; /* lists and texts are the stream's own */
    cb_image_processor processor;
    cb_image_options how;
    cb_string_list labels;
    int64_t height, width, count, batches; /* of all items and batches; -1: unknown */
    int64_t batch, item;                   /* that come next */
    cb_stream_item *items;                 /* of the batch */
    size_t item_count, item_capacity;
    cb_string_list errors; /* of the batch */
    cb_tensor *input;      /* kept */
};

size_t cb_stream_values(const cb_stream *s); /* of an image */
/* Fills in a stream whose kind and state are set; frees it when that fails. */
cb_stream *cb_stream_begin(cb_stream *s, const cb_image_data_options *images, const cb_stream_options *options);
bool cb_stream_add(cb_stream *s, const char *source, const char *shift, int32_t label);
/* Makes pixels of an image that was read. */
bool cb_stream_fit(const cb_stream *s, const cb_image *image, const char *corruption, int severity, uint64_t item, float *pixels);
/* The number of a label by its name; -1: the model has none of that name. */
int32_t cb_stream_label(const cb_stream *s, const char *name);

#endif
