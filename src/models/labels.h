/* labels.h: how files name the labels of a model: config.json, and what adapters have beside them. */
#ifndef CB_MODELS_LABELS_H
#define CB_MODELS_LABELS_H

#include <jansson.h>

#include "cambium/models.h"

/* Sets id2label, label2id and problem_type. */
bool cb_labels_put(json_t *object, const cb_string_list *names, cb_problem problem);
/* id2label alone. */
bool cb_labels_name(json_t *object, const cb_string_list *names);

/* Whether these are the names of labels without names: LABEL_0, LABEL_1, ... */
bool cb_labels_generic(const cb_string_list *names);

/* Logits (B, K, h, w) at so many places, bilinearly, as transformers brings them there. */
cb_tensor *cb_labels_in_size(cb_tensor *logits, int64_t height, int64_t width);

/* architectures: ["BertForSequenceClassification"]. */
json_t *cb_model_architectures(const cb_model *model);
/* Whether loading made the weight of that whole name new and random. */
bool cb_model_is_new(const cb_model *model, const char *weight);

#endif
