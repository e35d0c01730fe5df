/* active.h: what the files of active adaptation share. */
#ifndef CB_TRAINING_ACTIVE_H
#define CB_TRAINING_ACTIVE_H

#include "cambium/active.h"
#include "training/internal.h"

/* Of the rows that were asked, in the order of rounds. */
typedef struct active_question {
    int64_t row;
    int32_t label;    /* of those that were answered; -1: it cannot be told */
    uint64_t content; /* of the row when it was asked for */
} active_question;

typedef struct active_name {
    char *name; /* owned */
    int64_t row;
} active_name;

enum { ACTIVE_SUPERVISED, ACTIVE_INFORMATION, ACTIVE_PERSISTENCE, ACTIVE_MIXUP, ACTIVE_TERMS };

struct cb_active {
    cb_active_options options;
    double weights[ACTIVE_TERMS];
    char *work, *directory; /* directory: of the round at hand */
    int lock;               /* of work; -1: none */
    cb_dataset *pool;
    cb_string_list labels;
    int64_t rows;
    active_name *names;  /* where rows come from, sorted */
    const char **source; /* (rows) of these, by row */
    char *identity;      /* of the pool and the labels */
    int64_t round;
    cb_active_stage_kind stage;
    active_question *questions;
    size_t count, capacity, first; /* first: of the round at hand */
    bool *asked;                   /* (rows) */

    /* while a round is learned (active_train.c): */
    const cb_trainee *inner;
    cb_dataset *joined, *labelled; /* labelled: of the joined */
    int64_t *slots;                /* of each labelled row: its question */
    int64_t labelled_count;
    int32_t *targets;   /* of each labelled row */
    cb_tensor *memory;  /* (questions, width) f32, in the checkpoint */
    cb_tensor *anchors; /* (labelled) i64: slots */
    bool *seen;         /* (questions) */
    cb_named_tensor *state;
    double *rates;
    double sums[ACTIVE_TERMS];
    int64_t summed[ACTIVE_TERMS], step, pass; /* pass: steps of an epoch, without those of mixup */
    bool moves;                               /* some norms' running statistics follow */
};

/* active_query.c: with the draws (count), each from 0 to less than 1. */
bool cb_query_with(const cb_query_pool *pool, cb_query query, const cb_query_options *options, const double *draws, int64_t count,
                   int64_t *chosen);

/* How many tokens of a batch of one text are the text's. */
size_t cb_active_tokens(const cb_batch *batch);

/* active_files.c */
char *cb_active_path(const cb_active *a, int64_t round, const char *ending);
/* What the model said before: (rows, K) probabilities; NULL and no error: the round is not there.  Free with cb_free(). */
float *cb_active_probabilities(const cb_active *a, int64_t round);
/* Reads which rows a round asked: they become questions without answers. */
bool cb_active_read_rows(cb_active *a, int64_t round);
bool cb_active_write_rows(const cb_active *a, const int64_t *chosen, int64_t count, const float *probabilities);
/* Whether rows that were asked for are still what they were then: another image under the same name is not what was labelled. */
bool cb_active_check_contents(const cb_active *a);
/* questions: those of the round at hand.  fill: labels (rows) of what is not answered yet; NULL: that is an error. */
bool cb_active_read_answers(cb_active *a, int64_t round, size_t first, const int32_t *fill);
bool cb_active_write_csv(const cb_active *a, const active_question *questions, size_t count, const float *probabilities,
                         const cb_string_list *texts, bool answered);
bool cb_active_write_labels(const cb_active *a);

/* active_page.c: the HTML page, and the images it shows. */
bool cb_active_write_page(const cb_active *a, const active_question *questions, size_t count, const float *probabilities,
                          const cb_string_list *texts);

/* active_train.c */
void cb_active_forget(cb_active *a);

#endif
