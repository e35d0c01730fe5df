/* quantized.h: quantised weights in safetensors checkpoints (see quantized.c for the layouts). */
#ifndef CB_FORMATS_QUANTIZED_H
#define CB_FORMATS_QUANTIZED_H

#include "cambium/formats.h"

typedef struct cb_quantized_format {
    int kind;          /* one of the above */
    bool double_quant; /* nf4: its scales are quantised too */
    int64_t block;     /* elements that share a scale (nf4, int8 blocks) */
    cb_dtype plain;    /* of the weight that was quantised; of the scales of int8 blocks */
} cb_quantized_format;

/* How the weight is quantised, by the tensors beside it; false, and no error: it is not.  block is not read for nf4. */
bool cb_quantized_format_of(const cb_weights *weights, const cb_weight_entry *entry, cb_quantized_format *format);
/* The quantised weight that a tensor of this name belongs to; NULL, and no error: to none. */
const cb_weight_entry *cb_quantized_owner(const cb_weights *weights, const char *name);
/* The weight as a quantised tensor, in place; its shape must be (rows, columns).  A format that is not known: refused by name. */
cb_tensor *cb_quantized_tensor(const cb_weights *weights, const cb_weight_entry *entry, int64_t rows, int64_t columns);

/* The tensors that a weight "NAME.weight" becomes: names (free with cb_free), types, shapes, sizes; gives their number. */
enum { CB_QUANTIZED_PARTS = 6 };
int cb_quantized_parts(const cb_quantized_format *format, const char *name, int64_t rows, int64_t columns, cb_weight_entry *parts);
/* Whether the format holds such a weight; says why not. */
bool cb_quantized_can(const cb_quantized_format *format, const char *name, int64_t rows, int64_t columns);
/* x (rows, columns) quantised: the bytes of all parts.  NULL: CB_ERR_NUMERIC (not finite), memory. */
typedef struct cb_quantized_weight cb_quantized_weight;
cb_quantized_weight *cb_quantized_make(const cb_quantized_format *format, const float *x, int64_t rows, int64_t columns);
const void *cb_quantized_part(const cb_quantized_weight *weight, int index);
double cb_quantized_error(const cb_quantized_weight *weight); /* root mean square of what rounding changed, relative to the weight's */
void cb_quantized_free(cb_quantized_weight *weight);

/* Whether weights of a model directory are quantised; false: it cannot be read. */
bool cb_holds_quantized(const char *directory, bool *quantized);

#endif
