/* labels.h: how files name the labels of a model: config.json, and what adapters have beside them. */
#ifndef CB_MODELS_LABELS_H
#define CB_MODELS_LABELS_H

#include <jansson.h>

#include "cambium/models.h"

/* Sets id2label, label2id and problem_type. */
bool cb_labels_put(json_t *object, const cb_string_list *names, cb_problem problem);

#endif
