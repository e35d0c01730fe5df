/* stream.h: floor 4: what comes to a model that is in use: items in an order, in batches, with labels where somebody knows them.
 *
 *     cb_stream *stream = cb_stream_open_images(&images, &options);
 *     cb_stream_batch batch = {0};
 *     while (cb_stream_next(stream, &batch)) ...          false with cb_ok(): it has come to its end
 *
 * A shift is what stays the same for a while: a directory of images, or one kind of corruption.  A stream that is made of data is a function of
 * the data, the options and the seed; one that is read from a pipe is what comes. */
#ifndef CAMBIUM_STREAM_H
#define CAMBIUM_STREAM_H

#include "cambium/data.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cb_stream_order {
    CB_ORDER_CONTINUAL, /* one shift after another */
    CB_ORDER_GRADUAL,   /* the same, and each corruption begins at severity 1, rises to `severity` and falls to 1 again */
    CB_ORDER_MIXED,     /* the images of all shifts among each other */
    CB_ORDER_CORRELATED /* continual, and labels come in runs: of each label the images are spread over as many parts of the shift as there are
                         * labels, by shares of a Dirichlet distribution (Gong et al. 2022, arXiv:2208.05117) */
} cb_stream_order;

typedef struct cb_stream_options {
    cb_string_list
        corruptions; /* of cb_image_corrupt(), each of which is a shift of all of the data; "none": as they are.  Empty: each item
                                 * of the data is a shift of its own */
    int64_t severity;
    int order;            /* cb_stream_order */
    int64_t rounds;       /* how often the shifts come */
    bool shuffle_shifts;  /* they come in an order by the seed, else as they are given */
    double concentration; /* of CB_ORDER_CORRELATED: the smaller, the longer the runs */
    int64_t batch_size;
    double batch_wait; /* of a pipe: seconds without a line after which a batch that has begun goes out; 0: it waits until it is full */
} cb_stream_options;
extern CB_API const cb_option cb_stream_option_table[];

/* What was asked for, in its order. */
typedef struct cb_stream_item {
    int64_t index;      /* in the stream */
    const char *source; /* where it comes from: a file */
    const char *shift;  /* of which shift it is; "": nobody says */
    int32_t label;      /* the right one; -1: nobody knows */
    int64_t row;        /* of the input; -1: it could not be read */
    const char *error;  /* why not, or NULL */
} cb_stream_item;

/* Zero-initialise.  What it points to is the stream's, until the next batch. */
typedef struct cb_stream_batch {
    int64_t index;       /* of the batch in the stream */
    bool begins_shift;   /* another shift than that of the batch before it, or the first; mixed ones never do */
    cb_tensor *input;    /* (rows, C, H, W) f32, normalised; NULL where no item could be read */
    int64_t rows, count; /* of the input, of items */
    const cb_stream_item *items;
} cb_stream_batch;

typedef struct cb_stream cb_stream;

/* Images of images->data: what cb_dataset_open_images() takes, and besides directories of images without labels, single images, and lists: text
 * files (.txt) of one image a line, relative to the list's directory.  images->labels must be the model's; corruption, severity, augment and
 * spread are not read, and max_images counts for each item of the data.  Images are drawn into an order by images->seed, another in each round,
 * unless shuffle_images is off; a corruption of an image is the same in each round.  Batches end where shifts do, but for mixed ones. */
CB_API cb_stream *cb_stream_open_images(const cb_image_data_options *images, const cb_stream_options *options);
/* Images that are named by lines of a file, or of standard input ("-") as they come: a path, or an object {"file", "label", "shift"} of which file is
 * needed.  An empty line ends a batch, and so does another shift.  Relative to the working directory.  Of the options batch_size and batch_wait
 * are read.  A line that is longer than 64 KiB, or is no such object, is an item that cannot be read. */
CB_API cb_stream *cb_stream_open_lines(const char *path, const cb_image_data_options *images, const cb_stream_options *options);
CB_API void cb_stream_free(cb_stream *stream); /* NULL is allowed */

/* False with cb_ok(): that was all.  An item that cannot be read is no failure, but for memory.  Waiting for lines ends with CB_ERR_INTERRUPTED
 * when cb_interrupt() was called. */
CB_API bool cb_stream_next(cb_stream *stream, cb_stream_batch *batch);
/* Goes on with this batch.  Of a pipe, which does not go back, batches and items are counted on from there. */
CB_API bool cb_stream_seek(cb_stream *stream, int64_t batch, int64_t item);
CB_API int64_t cb_stream_count(const cb_stream *stream);   /* items in all; -1: who knows */
CB_API int64_t cb_stream_batches(const cb_stream *stream); /* -1: who knows */
CB_API const cb_string_list *cb_stream_labels(const cb_stream *stream);
/* How it came about: data, number of items, corruptions, order, seed, how images are made ready, as one line of JSON; free with cb_free().  Streams of
 * other descriptions are others. */
CB_API char *cb_stream_describe(const cb_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
