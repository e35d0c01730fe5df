/* model_parts.h: what a model consists of, whatever file or directory it lies in. */
#ifndef CB_FORMATS_MODEL_PARTS_H
#define CB_FORMATS_MODEL_PARTS_H

#include "cambium/formats.h"
#include "core/json.h"

typedef struct cb_model_parts {
    char *path;
    cb_weights *weights;
    json_t *config;
    json_t *generation_config, *tokenizer, *tokenizer_config; /* NULL: it has none */
    char *chat_template;                                      /* of a file of its own, or NULL */
} cb_model_parts;

/* Opens a model directory or a GGUF file. */
bool cb_model_parts_open(cb_model_parts *parts, const char *path);
void cb_model_parts_close(cb_model_parts *parts);
/* The values of a tensor as another float dtype, in `out`; a value that f16 cannot hold is CB_ERR_NUMERIC. */
bool cb_entry_read(const cb_weight_entry *entry, cb_dtype dtype, void *out);

#endif
