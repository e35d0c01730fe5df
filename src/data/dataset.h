/* dataset.h: the token store that datasets share, and what fills it. */
#ifndef CB_DATA_DATASET_H
#define CB_DATA_DATASET_H

#include "cambium/data.h"
#include "cambium/formats.h"

/* All tokens of all documents, one after another.  A split shares the store of what it was split from. */
typedef struct token_store {
    int32_t *ids;
    uint8_t *learned; /* 1 where the token is one to be predicted */
    size_t count, capacity, learned_capacity;
    uint64_t bytes; /* of source text */
    int references;
} token_store;

typedef struct document {
    int64_t start, length; /* in the store */
    bool whole;            /* prompt and answer: never continued in another row, but cut where it is longer than one */
} document;

typedef struct document_list {
    document *items;
    size_t count, capacity;
} document_list;

/* tokenize.c: reads every record named by the options into the store. */
bool cb_data_tokenize(const cb_tokenizer *tokenizer, const cb_data_options *options, token_store *store, document_list *documents);

/* Rows that hold whole documents: those of row i are documents[starts[i]] to documents[starts[i + 1] - 1]. */
typedef struct document_rows {
    int64_t *documents, *starts;
    int64_t count;
} document_rows;

/* pack.c: puts the whole documents into as few rows of `row_length` as it can; the arrays are the caller's to free,
 * on failure too. */
bool cb_data_pack(const document_list *documents, int64_t row_length, document_rows *rows);

/* A stretch of rendered conversation that the model is to learn, in bytes [begin, end). */
typedef struct text_span {
    size_t begin, end;
} text_span;
typedef struct text_span_list {
    text_span *items;
    size_t count, capacity;
} text_span_list;

/* How conversations are written: one of the known formats, and what a tokenizer's template does on top of it. */
typedef struct chat_format chat_format;
typedef struct chat_style {
    const chat_format *format; /* NULL: not read yet */
    const char *start;         /* before everything; lives as long as the tokenizer */
    cb_string system;          /* before conversations without a system message; empty: nothing */
    bool trims;                /* white space at both ends of a message goes */
} chat_style;

/* chat.c: `template_index`: of cb_chat_template_names.  What it fills is freed by cb_string_free(&style->system). */
bool cb_chat_read_style(const cb_tokenizer *tokenizer, int template_index, chat_style *style);
/* Writes a conversation and notes the assistant's stretches. */
bool cb_chat_render(const chat_style *style, size_t count, const cb_message *messages, cb_string *text, text_span_list *learned);
/* Whether the format has marks of its own at both ends, so that bos and eos are not put around it. */
bool cb_chat_is_framed(const chat_style *style);

#endif
