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
    uint64_t bytes;       /* of source text */
    cb_string_list files; /* that documents came from */
    int references;
} token_store;

typedef struct document {
    int64_t start, length; /* in the store */
    bool whole;            /* prompt and answer: never continued in another row, but cut where it is longer than one */
    int32_t file;          /* in the store's list */
    int64_t line;          /* where it begins there */
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

/* A conversation as text, or a part of it up to one of the assistant's messages. */
typedef struct chat_text {
    cb_string text;
    text_span_list learned;
} chat_text;
typedef struct chat_texts {
    chat_text *items;
    size_t count, capacity; /* capacity: those that have been used, and are used again */
} chat_texts;
void cb_chat_texts_free(chat_texts *texts);

/* chat.c: the texts that a conversation is learned from: one where the template allows it, else one for each answer. */
bool cb_chat_learn(const cb_chat *chat, const struct json_t *conversation, bool completion_only, chat_texts *out);
/* chat_templates.c: the text of a template that comes with the program, or NULL. */
const char *cb_chat_builtin(const char *name);

#endif
