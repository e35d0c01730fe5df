/* xlora.h: X-LoRA on disk: what PEFT and the authors' package write of its options, and their names for the classifier's tensors. */
#ifndef CB_ADAPTERS_XLORA_H
#define CB_ADAPTERS_XLORA_H

#include "adapters/internal.h"

/* Finds the classifier's tensor NAME ("layers.0.weight", as PEFT calls it) in a file; NULL and an error when it has none of this shape. */
typedef const cb_weight_entry *cb_xlora_find(void *user, const char *name, int ndim, const int64_t *shape);
/* As cb_xlora_new(), with values of a file. */
cb_xlora *cb_xlora_read(cb_adapter *const *adapters, size_t count, const cb_xlora_options *options, cb_xlora_find *find, void *user);
/* The options as JSON under PEFT's names, with the hidden_size. */
json_t *cb_xlora_json(const cb_xlora *xlora);

/* ---- xlora_file.c ---- */
#define CB_XLORA_FILE "xlora_config.json" /* of the authors' package */
bool cb_xlora_is(const char *directory);
bool cb_xlora_load(cb_composition *c, const char *directory, cb_layer *root, const char *model_type);
/* The parts are there already; adapter_config.json last. */
bool cb_xlora_save(const cb_composition *c, const char *directory, const char *base_model);

#endif
