/* encoders.h: what experiments with encoders share: labelled texts as files, training, judging. */
#ifndef EXPERIMENTS_ENCODERS_H
#define EXPERIMENTS_ENCODERS_H

#include "experiments/experiments.h"

/* The encoder of the zoo; of quick runs a tiny new one, made in shared/encoder.  For `prepare`. */
bool encoder_prepare(const cb_run *run);
char *encoder_base(const cb_run *run); /* its directory; free with cb_free() */

typedef struct encoder_task {
    cb_objective objective;
    const cb_string_list *labels; /* their names */
    int64_t sequence_length;
} encoder_task;
/* A base with a head for the task, which is new and random by seed. */
cb_model *encoder_open(const char *base, const encoder_task *task, uint64_t seed);

typedef struct encoder_training {
    const char *text, *output;
    int64_t steps, batch_size;
    double learning_rate;
    uint64_t seed;
} encoder_training;
/* cb_train() with 10 % warm-up and a linear end, of the adapter and the head; adapter NULL: of all of the model. */
bool encoder_train(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const encoder_task *task,
                   const encoder_training *t);

/* The same of what is in c after its first `frozen` adapters, which stay as they are; the model goes through c from here on. */
bool encoder_train_over(cb_model *model, const cb_composition *c, size_t frozen, const cb_tokenizer *tokenizer, const encoder_task *task,
                        const encoder_training *t);

/* ---- words ---- */

cb_model *encoder_open_words(const char *base); /* the base as it is, a masked language model */
/* encoder_train() by masked language modelling on the lines of t->text (line_list_write()): a language's adapter, or, adapter NULL, all of the
 * model.  Rows hold 128 tokens of as many lines as fit. */
bool encoder_adapt(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const encoder_training *t);

/* ---- labels ---- */

/* Classification of texts: 1 for each row that is labelled rightly, else 0, into items (at most `most`); returns how many, 0 on failure. */
size_t encoder_judge(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, size_t most,
                     double *items);
/* What cb_evaluate() says of any task; items (at most `most`) as above, NULL for tags. */
bool encoder_metrics(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, cb_metrics *metrics,
                     size_t most, double *items, size_t *count);
/* Classification of words, of the first `rows` texts: the same for each word, in the order of the texts. */
size_t encoder_judge_words(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, int64_t rows,
                           size_t most, double *items);

#endif
