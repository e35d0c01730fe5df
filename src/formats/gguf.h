/* gguf.h: what the reader and the writer of GGUF files share. */
#ifndef CB_FORMATS_GGUF_H
#define CB_FORMATS_GGUF_H

#include "cambium/gguf.h"

#define CB_GGUF_MAGIC 0x46554747u /* "GGUF" */
enum { CB_GGUF_ALIGNMENT = 32, CB_GGUF_DIMS = 4 };

/* A tensor type of the format. */
typedef struct cb_gguf_tensor_type {
    uint32_t id;
    const char *name;
    uint32_t block, bytes; /* elements and bytes of a block */
} cb_gguf_tensor_type;

/* NULL, and no error, when the format has no such type. */
const cb_gguf_tensor_type *cb_gguf_tensor_type_of(uint32_t id);
const cb_gguf_tensor_type *cb_gguf_tensor_type_named(const char *name); /* in any case */
/* Bytes; false, and no error, when they overflow, a dimension is not positive or rows are no whole blocks. */
bool cb_gguf_shape_size(const cb_gguf_tensor_type *type, int ndim, const int64_t *shape, size_t *size);
size_t cb_gguf_scalar_size(cb_gguf_type type); /* 0: string, array */

#endif
