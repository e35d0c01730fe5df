/* text_lines.h: pictures of lines of text with what is written in them, as rows of a dataset (text_lines.c). */
#ifndef CB_DATA_TEXT_LINES_H
#define CB_DATA_TEXT_LINES_H

#include "cambium/ctc.h"
#include "cambium/data.h"

typedef struct text_lines text_lines;
text_lines *cb_text_lines_open(const cb_image_data_options *options);
void cb_text_lines_free(text_lines *l); /* NULL is allowed */
text_lines *cb_text_lines_split(text_lines *l, double share, uint64_t seed);
bool cb_text_lines_batch(text_lines *l, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources);
bool cb_text_lines_sequential(text_lines *l, int64_t index, int64_t rows, cb_batch *batch);
int64_t cb_text_lines_count(const text_lines *l);
int64_t cb_text_lines_too_long(const text_lines *l);
uint64_t cb_text_lines_hash(const text_lines *l);
const char *cb_text_lines_text(const text_lines *l, int64_t row);
char *cb_text_lines_source(const text_lines *l, int64_t row);
const cb_ctc_vocabulary *cb_text_lines_vocabulary(const text_lines *l);

#endif
