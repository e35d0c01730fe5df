/* language.h: what experiments with language models share: the base, and training. */
#ifndef EXPERIMENTS_LANGUAGE_H
#define EXPERIMENTS_LANGUAGE_H

#include "experiments/experiments.h"

/* The directory of models/sprig-5m: CAMBIUM_SPRIG, else where it was when this was built.  Free with cb_free(). */
char *experiment_base(void);

typedef struct experiment_training {
    const char *text; /* a file of label_data_write() or plain text */
    const char *output;
    int64_t steps, batch_size, sequence_length;
    double learning_rate;
    uint64_t seed;
    bool whole;                          /* all of the model, and the adapter where there is one; else the adapter alone */
    const cb_distillation *distillation; /* or NULL */
} experiment_training;
/* cb_train() with 10 % warm-up and cosine, of pairs the completions alone learned; what was trained is written to output. */
bool experiment_train(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const experiment_training *t);

/* Some of a novel, made up, for quick runs. */
bool experiment_made_up_text(const char *path, uint64_t seed);

/* The loss (nats a token) of each of the first rows of a text, at most `most`; returns how many.  first_round: of what a recursive model gives
 * after its first round, as if it ended there. */
size_t experiment_losses(cb_model *model, const cb_tokenizer *tokenizer, const char *text, int64_t sequence_length, bool first_round,
                         size_t most, double *losses);

#endif
