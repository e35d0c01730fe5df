/* gguf.h: what the reader and the writer of GGUF files share. */
#ifndef CB_FORMATS_GGUF_H
#define CB_FORMATS_GGUF_H

#include "cambium/files.h"
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
uint64_t cb_gguf_little_endian(const uint8_t *bytes, size_t size);

typedef struct cb_gguf_offset {
    cb_weight_entry entry;
    uint64_t offset; /* of its data, from where the data begin */
} cb_gguf_offset;

struct cb_gguf {
    cb_file_map map; /* not mapped when the bytes are the caller's */
    char *what;
    const uint8_t *bytes;
    size_t size;
    uint32_t version;
    cb_gguf_value *values;
    size_t value_count, value_capacity;
    cb_gguf_offset *tensors; /* its own, then those of its parts */
    size_t count, capacity, own_count;
    const cb_gguf_value **by_key;
    const cb_weight_entry **by_name;
    cb_gguf **parts; /* the other files of a model that is split */
    size_t part_count;
};

#endif
