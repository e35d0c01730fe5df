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
    double
        batch_wait; /* of a live stream: seconds without an item after which a batch that has begun goes out; 0: a pipe waits until it is full,
                        * a watched directory a second, a socket 0.05 seconds */
    int64_t max_clients; /* of a socket; 0: 64 */
} cb_stream_options;
extern CB_API const cb_option cb_stream_option_table[];

/* What was asked for, in its order. */
typedef struct cb_stream_item {
    int64_t index;      /* in the stream */
    const char *source; /* where it comes from: a file, a record of one, or how a text begins */
    const char *shift;  /* of which shift it is; "": nobody says */
    int32_t label;      /* the right one; -1: nobody knows */
    int64_t row;        /* of the input; -1: it could not be read */
    const char *error;  /* why not, or NULL */
    const char *id;     /* what the line called it, or NULL */
    int64_t modified;   /* of a file in a watched directory: when it was last written, in nanoseconds since 1970; else 0 */
} cb_stream_item;

/* Zero-initialise.  What it points to is the stream's, until the next batch. */
typedef struct cb_stream_batch {
    int64_t index;     /* of the batch in the stream */
    bool begins_shift; /* another shift than that of the batch before it, or the first; mixed ones never do */
    /* (rows, C, H, W) f32, normalised; of texts (rows, 3, T) i32: ids, segments (0, and -1 behind a text's end) and types, of which T is that of the
     * longest, rounded up to 8.  NULL where no item could be read */
    cb_tensor *input;
    int64_t rows, count; /* of the input, of items */
    const cb_stream_item *items;
} cb_stream_batch;

typedef struct cb_stream cb_stream;

/* Images of images->data: what cb_dataset_open_images() takes, and besides directories of images without labels, single images, and lists: text
 * files (.txt) of one image a line, relative to the list's directory.  images->labels must be the model's; corruption, severity, augment and
 * spread are not read, and max_images counts for each item of the data.  Images are drawn into an order by images->seed, another in each round,
 * unless shuffle_images is off; a corruption of an image is the same in each round.  Batches end where shifts do, but for mixed ones. */
CB_API cb_stream *cb_stream_open_images(const cb_image_data_options *images, const cb_stream_options *options);
/* The same of labelled texts (formats.h: CB_RECORDS_LABELLED; a text need not have a label) in texts->data, each file a shift; of texts columns, quoting,
 * sequence_length, shuffle, seed, labels (the model's) and max_records, which counts for each file, are read.  Corruptions: CB_ERR_ARGUMENT.  The
 * tokenizer must outlive it. */
CB_API cb_stream *cb_stream_open_texts(const cb_tokenizer *tokenizer, const cb_data_options *texts, const cb_stream_options *options);

/* ---- live streams: items as they come ----
 *
 * `from` is
 *     -  or a file or named pipe: a line for each item, until there are no more;
 *     unix:PATH, tcp:PORT, tcp:HOST:PORT: the same from up to max_clients at once (without a host, of this machine alone), each of which gets the
 *         records of its own items back; turns are taken line by line.  A client that reads no answers is dropped, one that sends too long a line is
 *         answered and dropped.  A socket that a killed process has left is taken over; one on which somebody listens, or of another kind, is CB_ERR_STATE; more
 *         clients than the process may open files, less 64, are CB_ERR_ARGUMENT;
 *     watch:DIR: files that are written or moved there, and those that are there already, in the order of their times; none whose name begins with a
 *         dot or ends with .tmp, .part or ~.  A file is taken when whoever writes it has closed it, and again only when it was written anew.
 *
 * A line is a path, relative to the working directory, or an object {"file", "label", "shift", "id"} of which file is needed; of texts a text, or an
 * object {"text", "text_pair", "label", "shift", "id"}.  An empty line ends a batch (but a client's), and so does another shift.  A line that is longer than 64 KiB,
 * or is no such object, is an item that cannot be read.  Of the options batch_size, batch_wait and max_clients are read.  In a rehearsal nothing is
 * waited for: there is one batch. */
CB_API bool cb_stream_is_live(const char *from); /* whether it is one of these, but a file */
CB_API cb_stream *cb_stream_open_lines(const char *from, const cb_image_data_options *images, const cb_stream_options *options);
CB_API cb_stream *cb_stream_open_text_lines(const char *from, const cb_tokenizer *tokenizer, const cb_data_options *texts,
                                            const cb_stream_options *options);
/* What a later run has to know beside where it goes on: the last shift, the files that are done; appended as bytes.  Behind a batch that was
 * given out, its items count as done. */
CB_API bool cb_stream_remember(const cb_stream *stream, cb_string *state);
/* Before the first batch: CB_ERR_FORMAT: these are no such bytes. */
CB_API bool cb_stream_recall(cb_stream *stream, const void *state, size_t length);
/* Before the first batch: this item (source and modified of cb_stream_item) was answered, and does not come again. */
CB_API bool cb_stream_seen(cb_stream *stream, const char *source, int64_t modified);
CB_API bool cb_stream_is_answered(const cb_stream *stream); /* somebody waits for answers */
/* Sends an item of the batch at hand, to whoever asked for it, a line (which ends with one). */
CB_API bool cb_stream_answer(cb_stream *stream, int64_t item, const char *line, size_t length);

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
