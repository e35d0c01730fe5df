/* stream_plan.h: a stream that is made of data: for every place in it which item comes, of which shift and how strongly corrupted. */
#ifndef CB_DATA_STREAM_PLAN_H
#define CB_DATA_STREAM_PLAN_H

#include "data/stream.h"

/* Items [first, first + count). */
typedef struct stream_part {
    int64_t first, count;
} stream_part;

typedef struct stream_shift {
    char *name;
    stream_part part;
    const char *corruption; /* NULL: none */
} stream_shift;

typedef struct stream_place {
    int32_t item;
    int16_t shift;
    int8_t severity;
} stream_place;

/* The first member of a stream's state; whoever makes it fills in what, items, parts, name and label. */
typedef struct stream_plan stream_plan;
struct stream_plan {
    const char *what;   /* items are: "image" */
    int64_t items;      /* there are, each of which comes in every round under every corruption */
    stream_part *parts; /* one for each of s->data */
    const char *(*name)(const stream_plan *p, int64_t item);
    int32_t (*label)(const stream_plan *p, int64_t item); /* -1: nobody knows */
    stream_shift *shifts;
    size_t shift_count;
    stream_place *places;
    size_t place_count, place_capacity;
    int64_t *starts; /* (batches + 1) the place that each begins with */
    size_t start_count, start_capacity;
};

bool cb_stream_plan_make(cb_stream *s, stream_plan *p);
/* How many places a batch has (0: there is none), and the first of them. */
int64_t cb_stream_plan_batch(const stream_plan *p, int64_t batch, int64_t *first);
void cb_stream_plan_free(stream_plan *p); /* what it points to */
/* Of stream_kind. */
bool cb_stream_plan_next(cb_stream *s, bool *begins_shift);
bool cb_stream_plan_seek(cb_stream *s, int64_t batch, int64_t item);
bool cb_stream_plan_describe(const cb_stream *s, json_t *o);

#endif
