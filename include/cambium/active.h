/* active.h: floor 5: active domain adaptation without the source: a person labels a few rows of the new domain in each of several rounds, a network says
 * which, and is adapted with them in between.
 *
 *     cb_active *a = cb_active_open("work", pool, &options);           pool: unlabelled; all that is known lies in the directory
 *     cb_active_stage(a) == CB_ACTIVE_ASK:    cb_active_ask(a, model, tokenizer);           writes work/round-1.csv, to be filled in
 *                           CB_ACTIVE_WAIT:   cb_active_read(a);                            takes the answers, or says which is missing or wrong
 *                           CB_ACTIVE_LEARN:  cb_train_active(&what, &inner, a), cb_train(&what, cb_active_rows(a), ...), cb_active_finish(a, ...);
 *                           CB_ACTIVE_END:    there are no more rounds
 *
 * Between stages everything is in files, each of which appears whole or not at all: a process may end anywhere, and the next one goes on.
 *
 * Which rows are worth a label is a function of arrays, cb_query_rows(). */
#ifndef CAMBIUM_ACTIVE_H
#define CAMBIUM_ACTIVE_H

#include "cambium/training.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- which rows ---- */

typedef enum cb_query {
    CB_QUERY_CAS, /* the least margin between the two likeliest labels, of predictions that are carried on in the direction in which they changed since
                       * the round before, classes that are easy already counting as surer.  Lyu et al. 2024 (LFTL), arXiv:2407.18899 */
    CB_QUERY_RANDOM,  /* any */
    CB_QUERY_ENTROPY, /* the largest entropy */
    CB_QUERY_MARGIN,  /* the least margin */
    CB_QUERY_CORESET, /* in turn the row whose features are furthest from those of all rows chosen so far: greedy k-centre.  Sener and Savarese 2018,
                       * arXiv:1708.00489 */
    CB_QUERY_BADGE, /* k-means++ over the gradients that the last layer would have, were the likeliest label right.  Ash et al. 2020, arXiv:1906.03671 */
    CB_QUERY_CLUE /* the nearest to the centres of k-means over features, weighed by entropy.  Prabhu et al. 2021, arXiv:2010.08666 */
} cb_query;
extern CB_API const char *const cb_query_names[]; /* NULL-terminated, in the order of the enum */

/* What a model says of N rows, K labels. */
typedef struct cb_query_pool {
    int64_t rows, width, labels;
    const float *features;      /* (N, width): of coreset, badge and clue */
    const float *probabilities; /* (N, K) */
    const float *before;        /* (N, K) of the round before; NULL: there was none */
    const bool *asked;          /* (N) rows that were chosen before, which are not chosen again, and are centres of coreset; NULL: none */
} cb_query_pool;

/* Of cas alone. */
typedef struct cb_query_options {
    double contrast;      /* how far predictions are carried on: q = p + contrast (p - before) */
    int64_t balance_rows; /* the surest rows, whose likeliest labels are counted */
    double
        balance_weight; /* margins (divided by the largest) grow by this times the count of the row's likeliest label (divided by the largest) */
} cb_query_options;

/* Chooses `count` rows that were not asked, best first; of rows that are equally good the first.  Draws come from `rng`.  Fewer rows than
 * that: CB_ERR_ARGUMENT. */
CB_API bool cb_query_rows(const cb_query_pool *pool, cb_query query, const cb_query_options *options, cb_rng *rng, int64_t count,
                          int64_t *chosen);
/* What cas chooses the smallest of: scores (N), NaN of rows that were asked. */
CB_API bool cb_query_margins(const cb_query_pool *pool, const cb_query_options *options, double *scores);

/* ---- rounds ---- */

typedef struct cb_active_options {
    int method; /* index into "lftl", "information", "supervised": which of the terms count */
    int query;  /* cb_query */
    int64_t budget, rounds;
    double contrast, balance_weight; /* cb_query_options */
    int64_t balance_rows;
    double information_weight, persistence_weight, mixup_weight; /* -1: as the method has it */
    double mixup_alpha, memory_momentum, base_rate;
    /* these are not in the table: */
    int64_t batch_size; /* as in cb_train_options */
    uint64_t seed;
} cb_active_options;
extern CB_API const cb_option cb_active_option_table[];

typedef enum cb_active_stage_kind { CB_ACTIVE_ASK, CB_ACTIVE_WAIT, CB_ACTIVE_LEARN, CB_ACTIVE_END } cb_active_stage_kind;

/* A directory of rounds: of round r
 *
 *     round-R.csv           file,label,guess,probability (texts: and text): questions, to be answered in the column label; ? says that it cannot be told
 *     round-R.html          the same as a page that shows the images, takes the answers and gives the finished CSV back
 *     round-R.safetensors   which rows were asked, a hash of what each holds, and what the model said of all rows before
 *     round-R-images/       the images that the page shows
 *     round-R/              what was learned from all answers so far: adapter or model, checkpoint, records (cb_train())
 *     round-R/labels.csv    these answers
 *     round-R/result.json   it is finished
 */
typedef struct cb_active cb_active;
/* Takes `pool`, also on failure; labels are those of the model, in its order.  The directory is made if missing.  A directory of another pool,
 * one that lacks a file that was there, or in which another cb_active is open: CB_ERR_STATE; answers of finished rounds that are not in order:
 * CB_ERR_FORMAT. */
CB_API cb_active *cb_active_open(const char *work, cb_dataset *pool, const cb_string_list *labels, const cb_active_options *options);
CB_API void cb_active_free(cb_active *a); /* NULL is allowed */

CB_API cb_active_stage_kind cb_active_stage(const cb_active *a);
CB_API int64_t cb_active_round(const cb_active *a);         /* at hand, from 1; at the end the last */
CB_API int64_t cb_active_asked(const cb_active *a);         /* rows, in all rounds so far */
CB_API int64_t cb_active_waiting(const cb_active *a);       /* of them those of the round at hand */
CB_API const char *cb_active_directory(const cb_active *a); /* of the round at hand, to be trained in: WORK/round-R */
CB_API char *cb_active_questions(const cb_active *a);       /* WORK/round-R.csv; free with cb_free() */
/* The directory that the last finished round left; NULL (no error): there is none.  Free with cb_free(). */
CB_API char *cb_active_learned(const cb_active *a);

/* Chooses the rows of the round at hand by what the model says of the pool, and writes them down.  The tokenizer, of texts, shows what they say. */
CB_API bool cb_active_ask(cb_active *a, cb_model *model, const cb_tokenizer *tokenizer);
/* Answers in place of a person: fills in what is empty in the CSV.  Labels (rows of the pool), less than 0: it cannot be told. */
CB_API bool cb_active_answer(cb_active *a, const int32_t *labels);
/* Takes the answers of the round at hand.  What is missing, twice there, of no row that was asked, or no label: CB_ERR_FORMAT (file, line, found,
 * expected); of a row that has other content than when it was asked for: CB_ERR_STATE. */
CB_API bool cb_active_read(cb_active *a);

/* *what: `inner` with this objective, of the answers so far and the rest of the pool; a step sees as many rows of each.  `inner` must outlive it.  In
 * the round's directory there is then labels.csv; what was half learned from other labels is removed from it. */
CB_API bool cb_train_active(cb_trainee *what, const cb_trainee *inner, cb_active *a);
CB_API cb_dataset *cb_active_rows(const cb_active *a);
/* How many steps `epochs` passes over the unlabelled rows take, with those of mixup. */
CB_API int64_t cb_active_steps(const cb_active *a, double epochs);
/* The round is finished, and the next one at hand; accuracy: for the record, NaN: not known. */
CB_API bool cb_active_finish(cb_active *a, double accuracy);
/* Accuracies as recorded, of finished rounds (at most `most`); returns how many rounds are finished.  NaN: not known. */
CB_API int64_t cb_active_accuracies(const cb_active *a, int64_t most, double *accuracies, int64_t *labels);

#ifdef __cplusplus
}
#endif
#endif
