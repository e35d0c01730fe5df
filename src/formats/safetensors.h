/* safetensors.h: what the reader and the writer of safetensors share. */
#ifndef CB_FORMATS_SAFETENSORS_H
#define CB_FORMATS_SAFETENSORS_H

#include "core/io.h"
#include "formats/entry_table.h"

#define CB_SAFETENSORS_LIMIT    100000000u /* bytes of the header, by the format's definition */
#define CB_SAFETENSORS_METADATA "__metadata__"

/* An element type of the format.  All are in one array, in the reference implementation's order: of two pointers the
 * higher one is the type that the writer puts first, the one with the larger alignment. */
typedef struct cb_safetensors_type {
    const char *name;
    unsigned bits;
    cb_dtype dtype; /* CB_DTYPE_COUNT: none of ours */
} cb_safetensors_type;

/* NULL, and no error, when the format has no such type. */
const cb_safetensors_type *cb_safetensors_type_named(const char *name);
const cb_safetensors_type *cb_safetensors_type_of(cb_dtype dtype);
/* Bytes of a tensor; false, and no error, when they overflow, end within a byte, or a dimension is negative. */
bool cb_safetensors_size(const cb_safetensors_type *type, int ndim, const int64_t *shape, size_t *size);

const cb_entry_table *cb_safetensors_table(const cb_safetensors *file);
/* Gives the file's map away, for as long as values are used where they lie; see cb_file_map_held(). */
bool cb_safetensors_hold(cb_safetensors *file, cb_held_map **held);
/* The same of a checkpoint; *held NULL when it is not one safetensors file. */
bool cb_weights_hold(cb_weights *weights, cb_held_map **held);

#endif
