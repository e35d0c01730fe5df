/* stream.h: what streams share: how an item becomes a row, and a batch of them. */
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
    /* Of texts, in the place of both: the tokens of one. */
    bool (*encode)(cb_stream *s, int64_t item, cb_encoding *tokens);
    /* Of texts: how many tokens the longest has; NULL: who knows */
    int64_t (*longest)(cb_stream *s);
    bool (*seek)(cb_stream *s, int64_t batch, int64_t item);
    bool (*describe)(const cb_stream *s, json_t *object);
    void (*free)(cb_stream *s);
    /* Of live streams; NULL: it is none. */
    bool (*remember)(const cb_stream *s, cb_string *state);
    bool (*recall)(cb_stream *s, const char *state, size_t length);
    bool (*seen)(cb_stream *s, const char *source, int64_t modified);
    bool (*is_answered)(const cb_stream *s);
    bool (*answer)(cb_stream *s, int64_t item, const char *line, size_t length);
} stream_kind;

struct cb_stream {
    const stream_kind *kind;
    void *state; /* the kind's */
    cb_stream_options options;
    cb_string_list data, labels;
    uint64_t seed;
    bool shuffle;
    int64_t most; /* items of each of the data; 0: all */
    /* of images */
    cb_image_data_options images; /* lists and texts are the stream's own */
    cb_image_processor processor;
    cb_image_options how;
    int64_t height, width;
    /* of texts */
    const cb_tokenizer *tokenizer; /* NULL: items are images */
    int64_t most_tokens;
    cb_encoding *encodings; /* of the rows */
    size_t encoding_count;
    int64_t count, batches; /* of all items and batches; -1: unknown */
    int64_t batch, item;    /* that come next */
    cb_stream_item *items;  /* of the batch */
    size_t item_count, item_capacity;
    cb_string_list errors; /* of the batch */
    cb_tensor *input;      /* kept */
};

size_t cb_stream_values(const cb_stream *s); /* of an image */
/* Fill in a stream whose kind and state are set; free it when that fails. */
cb_stream *cb_stream_begin_images(cb_stream *s, const cb_image_data_options *images, const cb_stream_options *options);
cb_stream *cb_stream_begin_texts(cb_stream *s, const cb_tokenizer *tokenizer, const cb_data_options *texts,
                                 const cb_stream_options *options);
bool cb_stream_add(cb_stream *s, cb_stream_item item); /* index and row are filled in */
/* Tokens of a text (or, pair not NULL, of two), cut to most_tokens. */
bool cb_stream_encode(const cb_stream *s, const char *text, const char *pair, cb_encoding *tokens);
/* The message of the error at hand, which is over with that; NULL: there is no memory. */
char *cb_stream_take_error(void);
/* Makes pixels of an image that was read. */
bool cb_stream_fit(const cb_stream *s, const cb_image *image, const char *corruption, int severity, uint64_t item, float *pixels);
/* The number of a label by its name, or by that number as text; -1: the model has none of that name. */
int32_t cb_stream_label(const cb_stream *s, const char *name);

#endif
