/* internal.h: what the files of the training floor share. */
#ifndef CB_TRAINING_INTERNAL_H
#define CB_TRAINING_INTERNAL_H

#include "cambium/files.h"
#include "cambium/optim.h"
#include "cambium/training.h"

/* Where a run stands, besides parameters and optimiser state: all of it goes into the checkpoint. */
typedef struct train_state {
    int64_t step;      /* optimiser steps done */
    int64_t tokens;    /* trained on so far */
    double seconds;    /* spent so far */
    double first_loss; /* of step 1 */
    double last_loss;
    double best_loss; /* best validation loss so far; infinity before the first */
    int64_t best_step;
    int64_t bad_evaluations; /* since the best */
    double loss_sum;         /* of the steps since the last report */
    int64_t loss_steps;
    int64_t pending;    /* 1: the step's update is made, its validation and its line in the log are not */
    uint64_t log_bytes; /* length of log.jsonl at this step: a resumed run cuts what came after */
    cb_rng rng;
} train_state;

/* checkpoint.c: one safetensors file, replaced atomically; `left`: marked as one of a process that others have left. */
bool cb_train_state_write(const char *directory, const cb_trainee *what, cb_optimizer *optimizer, const train_state *state,
                          const char *fingerprint, bool left);
/* False with cb_ok(): there is none.  `fingerprint` must equal the one it was written with. */
bool cb_train_state_read(const char *directory, const cb_trainee *what, cb_optimizer *optimizer, train_state *state,
                         const char *fingerprint);

/* What differs between two fingerprints, as a failure that begins with `what`; false. */
bool cb_train_refuse_other(const char *what, const char *found, const char *expected);
/* The step of the checkpoint in this directory, if another process of this run wrote it after others had left; -1 otherwise. */
int64_t cb_train_state_left(const char *directory, const char *fingerprint);

/* log.c: log.jsonl, TensorBoard events, curves. */
typedef struct train_log train_log;
train_log *cb_train_log_open(const char *directory, uint64_t resume_bytes, bool resume);
bool cb_train_log_add(train_log *r, const cb_train_report *report);
uint64_t cb_train_log_bytes(const train_log *r);
bool cb_train_log_plot(train_log *r);
/* Waits a moment for the lock of the directory, under which a process that others have left writes the checkpoint: a file descriptor to
 * close, or -1. */
int cb_train_lock(const char *directory);
/* For a process that did not write log.jsonl: the length of its lines up to this step.  The one that did may have gone before it came to the
 * report of its last step, which is added then. */
uint64_t cb_train_log_mend(const char *directory, int64_t step, const cb_train_report *report);
/* Tells a rehearsal, in which nothing is written, how long the records of so many reports will be. */
void cb_train_log_rehearse(const train_log *r, uint64_t reports, uint64_t event_bytes);
void cb_train_log_close(train_log *r);

/* What a batch tells a pass. */
cb_context cb_train_context(const cb_batch *batch);
/* Some rows of a tensor (NULL: stays so), and of what a batch tells. */
cb_tensor *cb_train_rows(cb_tensor *t, int64_t first, int64_t rows);
cb_context cb_train_context_rows(const cb_context *ctx, int64_t first, int64_t rows);
/* What is minimised: what->loss, or the model's. */
cb_tensor *cb_train_loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx);
/* diagnose.c: runs a batch whose loss or gradient is not finite again and says in `out` where that began: a parameter, or (then true) the
 * layer that first gives such a value, forward or backward.  Gradients are left on the parameters. */
bool cb_train_diagnose(const cb_trainee *what, const cb_batch *batch, double targets, const cb_context *ctx, cb_string *out);
/* What there is to say when it was nowhere: gradients may be finite and their norm not. */
void cb_train_largest_gradient(const cb_trainee *what, cb_string *out);
/* rehearse.c: what a rehearsal of two steps does not see of a run of `steps`: the rows of the embedding that other batches read, and how
 * long the records grow. */
void cb_train_rehearse_rest(const cb_model *model, cb_dataset *train, const cb_train_options *options, int64_t steps, const train_log *log);
void cb_train_rehearse_rows(const cb_model *model, const cb_batch *batch); /* rows of the embedding that a batch would read */

/* labels.c: what --task calls it; of rows with labels. */
const char *cb_objective_name(cb_objective objective);

/* predictions.c: those of the rows of the batches that are evaluated, all empty; one batch's are put in; those of all processes become everyone's. */
bool cb_predictions_open(cb_predictions *p, const cb_dataset *data, int64_t rows);
bool cb_predictions_add(cb_predictions *p, int64_t first_row, const cb_batch *batch, cb_tensor *logits);
bool cb_predictions_share(cb_predictions *p);
/* numbers.c: the same of numbers of places of images; `said` is what cb_model_places() makes of logits. */
bool cb_numbers_open(cb_predictions *p);
bool cb_numbers_add(cb_predictions *p, int64_t first_row, const cb_batch *batch, cb_tensor *said);
bool cb_numbers_share(cb_predictions *p);
void cb_numbers_measure(const cb_predictions *p, cb_metrics *m);
/* recognition.c: the same of texts in images; what this process counted, and what all did, RECOGNITION_COUNTS numbers; and the metrics of that. */
enum { RECOGNITION_COUNTS = 6 };
bool cb_recognition_open(cb_predictions *p);
bool cb_recognition_add(cb_predictions *p, const cb_model *model, int64_t first_row, cb_tensor *logits, const cb_context *ctx);
void cb_recognition_measure(const cb_predictions *p, cb_metrics *m);
/* places.c: the same of labels of places; and their metrics. */
bool cb_places_open(cb_predictions *p);
bool cb_places_add(cb_predictions *p, int64_t first_row, const cb_batch *batch, cb_tensor *logits);
bool cb_places_share(cb_predictions *p);
/* The model's loss, and `dice_weight` times Dice's of the batch, by its share of the step's places. */
cb_tensor *cb_places_loss(cb_model *model, cb_tensor *ids, cb_tensor *targets, double normalizer, double dice_weight,
                          const cb_context *ctx);
void cb_places_measure(const cb_predictions *p, cb_metrics *m);

/* evaluate.c: cb_evaluate_maps(), which cb_interrupt() stops only when `interruptible`. */
typedef struct cb_validation {
    int64_t batch_size, max_batches;
    bool interruptible;
    cb_map_callback *see;
    void *user;
    int64_t beam_width; /* of text recognition; 0: 1 */
} cb_validation;
bool cb_train_validate(cb_model *model, cb_dataset *data, const cb_validation *how, cb_evaluation *result);
/* After a batch of an evaluation: false once it failed, or was interrupted and may be. */
bool cb_train_goes_on(const cb_validation *how, int64_t batches);

#endif
