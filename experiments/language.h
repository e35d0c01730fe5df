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
} experiment_training;
/* cb_train() with 10 % warm-up, cosine, and the answers alone learned; the adapter (or all of the model, NULL) is written to output. */
bool experiment_train(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const experiment_training *t);

#endif
