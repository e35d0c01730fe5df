/* series.h: series of numbers in time: how they are read (series_read.c), and windows of them as rows of a dataset (series.c). */
#ifndef CB_DATA_SERIES_H
#define CB_DATA_SERIES_H

#include "cambium/data.h"

struct cb_series {
    char *name; /* of the file */
    float *values;
    int64_t steps, nodes, channels; /* without the time of day */
    int64_t train_end, validation_end;
    cb_series_options options; /* scalars only */
    int references;
};

/* A matrix as it is in a file: rows of columns, in f32. */
typedef struct series_table {
    float *values;
    int64_t ndim, shape[3];
} series_table;
/* series_read.c: an array of numbers, or a table of text.  Free values with cb_free(). */
bool cb_series_table_read(const char *path, const char *array, bool header, series_table *table);

typedef struct series_rows series_rows;
void cb_windows_free(series_rows *r);
bool cb_windows_batch(series_rows *r, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources);
bool cb_windows_sequential(series_rows *r, int64_t index, int64_t rows, cb_batch *batch);
int64_t cb_windows_count(const series_rows *r);
uint64_t cb_windows_hash(const series_rows *r);
char *cb_windows_source(const series_rows *r, int64_t row);

#endif
