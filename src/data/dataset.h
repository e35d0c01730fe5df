/* dataset.h: the token store that datasets share, and what fills it. */
#ifndef CB_DATA_DATASET_H
#define CB_DATA_DATASET_H

#include "cambium/data.h"
#include "cambium/formats.h"

/* What masks the tokens of a row. */
typedef struct token_masking {
    int32_t mask, words; /* the mask token; one more than the largest id */
    uint8_t *continues;  /* by id: a token goes on with a word; NULL: each is masked for itself */
} token_masking;

/* The labels of all documents, by number; those of the data are known when all of it is read. */
typedef struct label_store {
    cb_string_list names; /* in the order of their numbers; while they are read, in the order in which they were found */
    int32_t *sorted;      /* numbers by name */
    size_t sorted_capacity;
    bool closed; /* there are no others */
    int32_t *ids;
    float *values; /* of regression, one a document */
    size_t count, capacity, value_count, value_capacity;
} label_store;

/* Groups of documents of one task and with the same conditions (conditions.c). */
typedef struct condition_store {
    int64_t width; /* 0: documents have none, and a group is a task */
    bool begun, several_tasks;
    int32_t *tasks; /* of each group */
    float *values;  /* (groups, width) */
    size_t count, task_capacity, value_capacity;
    int32_t *slots; /* a hash table of groups */
    size_t slot_count;
} condition_store;

/* All tokens of all documents, one after another.  A split shares the store of what it was split from. */
typedef struct token_store {
    int32_t *ids;
    uint8_t *learned; /* 1 where the token is one to be predicted */
    size_t count, capacity, learned_capacity;
    uint64_t bytes;       /* of source text */
    cb_string_list files; /* that documents came from */
    token_masking masking;
    condition_store conditions;
    /* labelled rows: */
    label_store labels;
    uint8_t *types; /* of tokens */
    int32_t *words; /* of tokens: the number of the word that it begins, else -1 */
    bool has_types; /* one is not 0 */
    size_t type_capacity, word_capacity;
    int references;
} token_store;

typedef struct document {
    int64_t start, length; /* in the store */
    bool example;          /* a prompt with its answer, a conversation: not plain text */
    bool wrapped;          /* with packing: laid end to end with others of its kind; set when rows are made */
    int32_t task;          /* which of several it is of, with conditions which group; a row has documents of one */
    int32_t file;          /* in the store's list */
    int64_t line;          /* where it begins there */
    int64_t label;         /* labelled: the first of its labels, or its value, in the label store */
    int32_t label_count;
} document;

typedef struct document_list {
    document *items;
    size_t count, capacity;
} document_list;

/* tokenize.c: reads every record named by the options into the store. */
bool cb_data_tokenize(const cb_tokenizer *tokenizer, const cb_data_options *options, token_store *store, document_list *documents);

/* A document from `offset` on, as far as a row goes. */
typedef struct document_part {
    int64_t document, offset;
} document_part;

/* Rows of several parts: those of row i are parts[starts[i]] to parts[starts[i + 1] - 1]. */
typedef struct document_rows {
    document_part *parts;
    int64_t *starts;
    int64_t count;
} document_rows;

/* pack.c: of how many rows' length a document is when it may go on in another row. */
int64_t cb_data_parts(const document *d, int64_t row_length);
/* The largest number of a task. */
int32_t cb_data_last_task(const document_list *documents);
/* Sorts numbers of documents, or (parts not NULL) of parts of documents, by task; those of one stay in their order. */
bool cb_data_sort_by_task(const document_list *documents, const document_part *parts, int64_t *items, int64_t count);
/* Puts the documents that are not wrapped into as few rows of `row_length` as it can, each of one task.  Of one that is longer there is the beginning
 * only, or, with `split`, a part for each row's length.  The arrays are the caller's to free, on failure too. */
bool cb_data_pack(const document_list *documents, int64_t row_length, bool split, document_rows *rows);

/* The order of one epoch. */
typedef struct layout {
    int64_t epoch;      /* -1: not made yet; -2: the unshuffled order */
    int64_t *documents; /* shuffled numbers of the documents of the stream */
    int64_t *starts;    /* one more than those: where each begins in the stream */
    int64_t *rows;      /* shuffled row numbers */
} layout;

typedef struct groups groups;

struct cb_dataset {
    token_store *store;
    document_list documents;
    cb_data_options options; /* scalars only; its strings belong to the caller and are not read after opening */
    int64_t tokens, rows;
    int32_t last_task;
    document_part *row_starts;             /* without packing */
    int64_t stream_documents, stream_rows; /* with packing: of what is wrapped; their rows come first */
    document_rows packed;                  /* and those of whole examples */
    layout shuffled, sequential;
    groups *groups;             /* in place of all of the above */
    struct image_rows *images;  /* likewise */
    struct series_rows *series; /* likewise */
    struct text_lines *lines;   /* likewise */
    struct joined *joined;      /* likewise */
};

/* ---- several datasets at once (joined.c) ---- */

typedef struct joined joined;
void cb_joined_free(joined *j);
bool cb_joined_batch(joined *j, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources);
const cb_dataset *cb_joined_first(const joined *j);
int64_t cb_joined_sum(const joined *j, int64_t (*of)(const cb_dataset *part)); /* over the parts */
int64_t cb_joined_rows(const joined *j);
uint64_t cb_joined_hash(const joined *j);

/* ---- groups of texts (groups.c, group_batches.c) ---- */

/* A text of a group, in the store's tokens. */
typedef struct group_text {
    size_t start;
    int32_t count, skipped;
    uint64_t hash;
} group_text;

/* What was read; shared by a dataset and what is split from it. */
typedef struct group_store {
    int32_t *ids;
    size_t id_count, id_capacity;
    group_text *texts; /* `size` of each group */
    size_t text_count, text_capacity;
    float *scores; /* of each group */
    int64_t *lines;
    int32_t *file_of;
    size_t score_capacity, line_capacity, file_capacity;
    uint8_t *types;    /* pairs: of tokens */
    uint64_t *queries; /* pairs: hashes, of each group */
    bool has_types;    /* one is not 0 */
    size_t type_capacity, query_capacity;
    cb_string_list files;
    int64_t size; /* G */
    int32_t longest;
    int references;
} group_store;

struct groups {
    group_store *store;
    int64_t *members, count; /* groups of the store */
    bool scored, pairs, duplicates, shuffle;
    uint64_t seed;
    /* batches of `rows` as far as they have been laid out: those of epoch e begin at starts[e] */
    int64_t rows, *starts;
    size_t epochs, start_capacity;
    int64_t *order; /* of the last of these epochs: groups, batch after batch, `width` in each */
    int64_t width;
};

void cb_groups_free(groups *g);
bool cb_groups_batch(groups *g, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources);
bool cb_groups_sequential(const groups *g, int64_t index, int64_t rows, cb_batch *batch);
groups *cb_groups_split(groups *g, double share, uint64_t seed);
int64_t cb_groups_tokens(const groups *g);
uint64_t cb_groups_hash(const groups *g);
/* A text of the store, whose tokens are `e`. */
bool cb_group_text_add(group_store *s, const cb_encoding *e, int32_t skipped, uint64_t hash);

/* pairs.c: the texts of groups, kept until all are there. */
typedef struct pair_texts {
    cb_string_list texts; /* of each group `size`, the query first */
    int64_t size;
} pair_texts;
/* Puts the documents of all groups into the store, each with its query, and random ones beside them. */
bool cb_pairs_encode(const pair_texts *kept, const cb_groups_options *options, bool scored, group_store *store);
/* Groups that are held out for a share of them, so that none has a query of those that stay: true at their places in `moved`. */
int64_t cb_pairs_hold_out(const groups *g, int64_t wanted, uint64_t seed, bool *moved);

/* conditions.c: the group of a document of such a task with such conditions, all of one width; -1 with an error that says where it is. */
int32_t cb_conditions_group(condition_store *s, int32_t task, const float *values, int64_t width, const char *path, int64_t line);
void cb_conditions_free(condition_store *s);
uint64_t cb_conditions_hash(const condition_store *s, uint64_t hash, int32_t group);
/* Makes a batch's tasks and conditions, where documents have some, and sets row `at` of them. */
bool cb_conditions_ready(const cb_dataset *data, int64_t rows, cb_batch *batch);
void cb_conditions_fill(const cb_dataset *data, int32_t group, int64_t at, cb_batch *batch);

/* labels.c */
bool cb_labels_open(label_store *labels, const cb_data_options *options);
void cb_labels_free(label_store *labels);
/* Adds the labels of a record; *first and *count say where they are. */
bool cb_labels_add(label_store *labels, cb_objective objective, const cb_record_text *record, int64_t *first, int32_t *count);
/* When all are there: those of the data get the order of their names, or, where they are all whole numbers, of these. */
bool cb_labels_close(label_store *labels, cb_objective objective);
uint64_t cb_labels_hash(const label_store *labels, uint64_t hash, const document *d, cb_objective objective);

/* seq2seq.c: rows of a source, the document, and a target, the labels' ids. */
bool cb_seq2seq_is(const cb_dataset *data);
int64_t cb_target_most(const cb_data_options *options); /* tokens of a target */
bool cb_target_add(label_store *labels, int32_t id);
bool cb_seq2seq_ready(const cb_dataset *data, const int64_t *documents, int64_t rows, cb_batch *batch);
void cb_seq2seq_fill(const cb_dataset *data, int64_t document, int64_t at, cb_batch *batch);
/* Whether a row is a whole document, and a batch as long as the longest of them. */
bool cb_rows_are_documents(const cb_dataset *data);

/* labelled.c: makes the tensors of `rows` documents, and fills row `at` of them. */
int64_t cb_labelled_length(const cb_dataset *data, const int64_t *documents, int64_t rows);
int64_t cb_labelled_round(const cb_dataset *data, int64_t longest, int64_t most); /* to what a batch's length is a multiple of */
bool cb_labelled_ready(const cb_dataset *data, int64_t rows, int64_t length, cb_batch *batch);
void cb_labelled_fill(const cb_dataset *data, int64_t document, int64_t at, cb_batch *batch);
/* rows.c: a tensor of this shape at *slot, kept from call to call. */
bool cb_batch_tensor(cb_tensor **slot, cb_dtype dtype, int ndim, const int64_t *shape);

/* mask.c: what masked rows need of the tokenizer. */
bool cb_data_masking_open(const cb_tokenizer *tokenizer, const cb_data_options *options, token_masking *masking);
/* Of `count` tokens those whose target is not -100 may be chosen; the others' targets become -100.  Returns how many are. */
int64_t cb_data_mask(const cb_dataset *data, int32_t *ids, int32_t *targets, int64_t count, uint64_t draw);

/* rows.c: forgets an order. */
void cb_layout_free(layout *l);
void cb_data_shuffle(int64_t *items, int64_t count, uint64_t seed, uint64_t stream);
/* The place of `at` among `count` in an order of its own for each epoch: a Feistel network of six rounds over as many bits as are needed (Luby and
 * Rackoff 1988), gone through again while it leads beyond the count. */
int64_t cb_data_permuted(uint64_t seed, int64_t epoch, int64_t count, int64_t at);
/* dataset.c: how many tokens of its document a part has. */
int64_t cb_data_part_length(const cb_dataset *data, document_part part);

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

/* chat.c: the texts that a conversation is learned from: one where the template allows it, else one for each answer.  The first `asked`
 * messages are not learned. */
bool cb_chat_learn(const cb_chat *chat, const struct json_t *conversation, size_t asked, bool completion_only, chat_texts *out);
/* chat_templates.c: the text of a template that comes with the program, or NULL. */
const char *cb_chat_builtin(const char *name);

#endif
