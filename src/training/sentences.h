/* sentences.h: vectors and loss of a batch of groups, for training and judging. */
#ifndef CB_TRAINING_SENTENCES_H
#define CB_TRAINING_SENTENCES_H

#include "cambium/retrieval.h"
#include "training/internal.h"

/* (N, G, D) of ids (N G, T) and targets (N, 1 + G). */
cb_tensor *cb_group_vectors(const cb_sentence_training *t, cb_tensor *ids, const cb_tensor *targets, const cb_context *ctx);
/* Mean over the groups, by their vectors. */
cb_tensor *cb_group_loss(const cb_sentence_training *t, cb_tensor *vectors, cb_tensor *targets);
/* cb_evaluate_sentences(), which cb_interrupt() stops only when `interruptible`. */
bool cb_train_validate_sentences(const cb_sentence_training *t, cb_dataset *data, const cb_validation *how, cb_evaluation *result);

#endif
