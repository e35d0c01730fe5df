/* pickle.h: what torch.save writes, read as data.  A pickle is a program; here a machine that knows the few instructions
 * and the few names that tensors need follows it, and refuses every other by name.  Nothing is imported and nothing runs. */
#ifndef CB_FORMATS_PICKLE_H
#define CB_FORMATS_PICKLE_H

#include "formats/safetensors.h"

typedef enum cb_pickle_kind {
    CB_PICKLE_NONE, /* and what has no bearing on tensors: a device, a number with a point, a very long one */
    CB_PICKLE_BOOL,
    CB_PICKLE_INT,
    CB_PICKLE_STRING,
    CB_PICKLE_TUPLE,
    CB_PICKLE_LIST,
    CB_PICKLE_DICT,
    CB_PICKLE_NAME,
    CB_PICKLE_STORAGE,
    CB_PICKLE_TENSOR,
    CB_PICKLE_MARK /* only on the machine's stack */
} cb_pickle_kind;

typedef struct cb_pickle_value {
    cb_pickle_kind kind;
    uint32_t index; /* of the list, storage or tensor; of the known name */
    union {
        int64_t integer;
        const char *text; /* in the file, without a NUL after its `length` bytes */
    };
    size_t length;
} cb_pickle_value;

/* Items of a tuple or list; keys and values of a dict in turn. */
typedef struct cb_pickle_list {
    cb_pickle_value *items;
    size_t count, capacity;
} cb_pickle_list;

/* A block of elements that tensors lie in; the archive says where `key` lies. */
typedef struct cb_pickle_storage {
    const cb_safetensors_type *type;
    cb_pickle_value key;
    size_t size; /* in bytes */
    const uint8_t *data;
} cb_pickle_storage;

/* A tensor, checked to lie within its storage. */
typedef struct cb_pickle_tensor {
    const cb_safetensors_type *type;
    uint32_t storage;
    int ndim;
    int64_t shape[CB_MAX_DIMS], strides[CB_MAX_DIMS], offset; /* in elements */
} cb_pickle_tensor;

typedef struct cb_pickle {
    cb_pickle_value result;
    cb_pickle_list *lists;
    cb_pickle_storage *storages;
    cb_pickle_tensor *tensors;
    size_t list_count, list_capacity, storage_count, storage_capacity, tensor_count, tensor_capacity;
} cb_pickle;

/* Reads the pickle that begins at `bytes`; *used gets its length.  `path` is for messages.  Texts point into bytes. */
bool cb_pickle_read(cb_pickle *pickle, const char *path, const uint8_t *bytes, size_t size, size_t *used);
void cb_pickle_free(cb_pickle *pickle); /* also after a failure */

/* ---- known names (pickle_names.c) ---- */

typedef enum cb_pickle_role {
    CB_ROLE_ORDERED_DICT,
    CB_ROLE_SIZE,
    CB_ROLE_IGNORED, /* called, it gives nothing that matters here: a device */
    CB_ROLE_CLASS,   /* named, never called */
    CB_ROLE_STORAGE,
    CB_ROLE_DTYPE,
    CB_ROLE_TENSOR,    /* (storage, offset, size, stride, ...) */
    CB_ROLE_TENSOR_V3, /* the same, and a dtype as its seventh */
    CB_ROLE_PARAMETER, /* (tensor, ...) */
    CB_ROLE_FROM_TYPE  /* (function, class, its arguments, state) */
} cb_pickle_role;

typedef struct cb_pickle_name {
    const char *module, *name;
    cb_pickle_role role;
    const char *type; /* of a storage or dtype: as in safetensors; NULL: bytes, the tensor says of what */
} cb_pickle_name;
extern const cb_pickle_name cb_pickle_names[];
/* The index of a name; -1: it is not known. */
int cb_pickle_name_find(const char *module, size_t module_length, const char *name, size_t name_length);

#endif
