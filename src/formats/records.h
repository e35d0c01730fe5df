/* records.h: what the readers of training text share: the input they read from and the forms a record may have. */
#ifndef CB_FORMATS_RECORDS_H
#define CB_FORMATS_RECORDS_H

#include <jansson.h>

#include "cambium/formats.h"

/* A file in memory: mapped, or read whole where it cannot be mapped (standard input, a pipe). */
typedef struct cb_input {
    const char *path;  /* for messages */
    const char *bytes; /* without a byte-order mark */
    size_t size, at;
    int64_t line; /* the line `at` lies in, from 1 */
    cb_file_map map;
    char *owned;
} cb_input;

/* Moves `at` forward and keeps `line` right. */
void cb_input_move(cb_input *input, size_t to);
/* Whether bytes [at, end) are UTF-8; an error says where they are not. */
bool cb_input_check(const cb_input *input, size_t end);

typedef enum cb_record_step { CB_RECORD_NONE, CB_RECORD_FOUND, CB_RECORD_FAILED } cb_record_step;

typedef cb_record_step cb_record_reader(cb_records *records, cb_record_text *record);

/* The fields of a record: those that are one text each, the messages, the number of the task, and those of labelled and tagged records. */
enum {
    CB_FIELD_TEXT,
    CB_FIELD_PROMPT,
    CB_FIELD_COMPLETION,
    CB_FIELD_INSTRUCTION,
    CB_FIELD_INPUT,
    CB_FIELD_OUTPUT,
    CB_FIELD_TARGET,
    CB_FIELDS,
    CB_FIELD_MESSAGES = CB_FIELDS,
    CB_FIELD_TASK_IDS,
    CB_FIELD_TEXT_PAIR,
    CB_FIELD_LABEL,
    CB_FIELD_TOKENS,
    CB_FIELD_TAGS,
    CB_FIELD_CONDITIONS,
    CB_FIELD_SUBJECT,
    CB_FIELD_RELATION,
    CB_FIELD_OBJECT,
    CB_FIELD_LANGUAGE,
    CB_FIELD_NAMES
};

/* State of the CSV reader: columns of the header, and where each field of a row begins in `row`. */
typedef struct cb_csv {
    cb_string row;
    size_t *starts, count, capacity;
    size_t columns;             /* 0: the header is yet to be read */
    int column[CB_FIELD_NAMES]; /* -1: not there; not of messages */
} cb_csv;

struct cb_records {
    cb_string_list files;
    size_t next_file;
    cb_records_options options;
    char *separator;             /* options.separator */
    char *names[CB_FIELD_NAMES]; /* of the fields in these files */
    bool renamed[CB_FIELD_NAMES];
    int64_t given;
    bool open;   /* a file is */
    bool warned; /* of JSON that is read as text */
    cb_input input;
    cb_record_reader *read;
    /* what the last record's strings live in */
    json_t *value;
    cb_string prompt;
    cb_string_list words, labels;
    float *conditions;
    size_t condition_capacity;
    size_t columns; /* CoNLL: of each line; 0: none has been read */
    int64_t columns_line;
    bool array, begun; /* .json: the objects are in an array; the first has been read */
    cb_csv csv;
};

/* Fills a record from the texts of its fields (NULL: not there): of several forms the pairs go before `text`. */
cb_record_step cb_record_fill(cb_records *records, int64_t line, const char *const values[CB_FIELDS], cb_record_text *record);

/* Sets its task; CB_RECORD_FAILED when there can be none of that number. */
cb_record_step cb_record_set_task(const cb_records *records, int64_t task, cb_record_text *record);

/* Adds a number to its conditions; CB_RECORD_FAILED when it is none that f32 holds. */
cb_record_step cb_record_add_condition(cb_records *records, double value, cb_record_text *record);

/* The n-th name that a field may have, the usual one first; NULL: there are no more. */
const char *cb_record_field_name(const cb_records *records, int field, int n);

/* records_labelled.c: a record that is labelled or tagged, out of records->value or the row of a table. */
cb_record_step cb_record_fill_labelled_object(cb_records *records, int64_t line, cb_record_text *record);
cb_record_step cb_record_fill_labelled_row(cb_records *records, int64_t line, cb_record_text *record);
/* Whether a table has the columns; `line` is its header's. */
bool cb_record_check_labelled_header(const cb_records *records, int64_t line);

/* records_triples.c: the same of triples. */
cb_record_step cb_record_fill_triple_object(cb_records *records, int64_t line, cb_record_text *record);
cb_record_step cb_record_fill_triple_row(cb_records *records, int64_t line, cb_record_text *record);
bool cb_record_check_triple_header(const cb_records *records, int64_t line);
bool cb_records_are_conceptnet(const char *bytes, size_t size);
cb_record_reader cb_records_read_conceptnet;

cb_record_reader cb_records_read_conll;
cb_record_reader cb_records_read_lines; /* one JSON object a line */
cb_record_reader cb_records_read_json;  /* an array of objects, or objects one after another */
cb_record_reader cb_records_read_csv;
cb_record_reader cb_records_read_tsv;

#endif
