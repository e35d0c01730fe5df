/* gguf.h: floor 3: GGUF files (versions 2 and 3), the format of llama.cpp: metadata, then tensors.
 *
 *     cb_gguf *file = cb_gguf_open("model.gguf");
 *     const char *architecture = cb_gguf_string(file, "general.architecture", NULL);
 *     const cb_weight_entry *tensor = cb_gguf_find(file, "token_embd.weight");
 *     cb_gguf_close(file);
 *
 * This is the container.  A whole model in such a file is read by what reads model directories: cb_model_load(),
 * cb_weights_open() and cb_tokenizer_load() take its path. */
#ifndef CAMBIUM_GGUF_H
#define CAMBIUM_GGUF_H

#include "cambium/formats.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- read ---- */

typedef enum cb_gguf_type { /* of metadata, numbered as in the file */
                            CB_GGUF_U8,
                            CB_GGUF_I8,
                            CB_GGUF_U16,
                            CB_GGUF_I16,
                            CB_GGUF_U32,
                            CB_GGUF_I32,
                            CB_GGUF_F32,
                            CB_GGUF_BOOL,
                            CB_GGUF_STRING,
                            CB_GGUF_ARRAY,
                            CB_GGUF_U64,
                            CB_GGUF_I64,
                            CB_GGUF_F64,
                            CB_GGUF_TYPE_COUNT
} cb_gguf_type;

/* One value of the metadata.  An array is `count` items of `type`; a scalar is one that is no array. */
typedef struct cb_gguf_value {
    const char *key;
    cb_gguf_type type;
    bool is_array;
    uint64_t count;
    const uint8_t *data; /* as in the file: little-endian, packed, strings with a u64 length before each */
    size_t size;         /* bytes of it */
    const char *text;    /* of a scalar string, else NULL */
} cb_gguf_value;

typedef struct cb_gguf cb_gguf;
/* A mapped file; with the first part of a model that llama.cpp has split, "NAME-00001-of-00003.gguf", come the tensors of the others beside
 * it.  Everything it gives lives until it is closed. */
CB_API cb_gguf *cb_gguf_open(const char *path);
/* The same of bytes in memory, which must outlive it; `what` names them in messages. */
CB_API cb_gguf *cb_gguf_parse(const char *what, const void *bytes, size_t length);
CB_API void cb_gguf_close(cb_gguf *file); /* NULL is allowed */
/* Whether a file begins as GGUF files do; false, and no error, for anything else. */
CB_API bool cb_is_gguf(const char *path);
CB_API const char *cb_gguf_path(const cb_gguf *file);
CB_API uint32_t cb_gguf_version(const cb_gguf *file);

CB_API size_t cb_gguf_value_count(const cb_gguf *file);
CB_API const cb_gguf_value *cb_gguf_value_at(const cb_gguf *file, size_t index); /* in the file's order */
CB_API const cb_gguf_value *cb_gguf_value_find(const cb_gguf *file, const char *key);
/* Scalars.  Missing: the default; another type, or an integer beyond int64_t: CB_ERR_FORMAT and the default. */
CB_API int64_t cb_gguf_int(const cb_gguf *file, const char *key, int64_t otherwise);
CB_API double cb_gguf_float(const cb_gguf *file, const char *key, double otherwise);
CB_API bool cb_gguf_bool(const cb_gguf *file, const char *key, bool otherwise);
CB_API const char *cb_gguf_string(const cb_gguf *file, const char *key, const char *otherwise);
/* Items of an array by index; false where `index` is none or the item is no number. */
CB_API bool cb_gguf_number_at(const cb_gguf_value *value, uint64_t index, double *number);
/* Walks an array of strings: *offset starts at 0; false at its end.  The text has no NUL after it. */
CB_API bool cb_gguf_next_string(const cb_gguf_value *value, size_t *offset, const char **text, size_t *length);

/* Tensors in the file's order.  Shapes are row-major: the file's reversed.  dtype is CB_DTYPE_COUNT where no tensor of ours has
 * the type; type_name is GGUF's name of it: "Q4_K". */
CB_API size_t cb_gguf_count(const cb_gguf *file);
CB_API const cb_weight_entry *cb_gguf_at(const cb_gguf *file, size_t index);
CB_API const cb_weight_entry *cb_gguf_find(const cb_gguf *file, const char *name); /* NULL: none */

/* ---- write ---- */

/* Metadata to be written, in the order of the calls.  Zero-initialise; cb_gguf_write() does not free it. */
typedef struct cb_gguf_metadata {
    cb_string bytes;
    uint64_t count;
    uint32_t alignment; /* of the tensors' data; 0: 32; general.alignment of another file sets it */
} cb_gguf_metadata;
CB_API bool cb_gguf_put_u32(cb_gguf_metadata *m, const char *key, uint32_t value);
CB_API bool cb_gguf_put_f32(cb_gguf_metadata *m, const char *key, float value);
CB_API bool cb_gguf_put_bool(cb_gguf_metadata *m, const char *key, bool value);
CB_API bool cb_gguf_put_string(cb_gguf_metadata *m, const char *key, const char *text);
/* `count` items of a type that is no string, packed as in the file. */
CB_API bool cb_gguf_put_array(cb_gguf_metadata *m, const char *key, cb_gguf_type type, uint64_t count, const void *items);
CB_API bool cb_gguf_put_strings(cb_gguf_metadata *m, const char *key, uint64_t count, const char *const *texts);
/* A value of another file as it is. */
CB_API bool cb_gguf_put_value(cb_gguf_metadata *m, const char *key, const cb_gguf_value *value);
CB_API void cb_gguf_metadata_free(cb_gguf_metadata *m);

/* Bytes of a tensor of these sizes as `type_name` ("F16", "Q8_0", in any case); false, and an error, when the type is unknown, a row
 * is no multiple of its block, or the size overflows. */
CB_API bool cb_gguf_tensor_size(const char *type_name, int ndim, const int64_t *shape, size_t *size);
/* Writes a file of version 3 atomically, tensors in the order given.  Of an entry, name, type_name (NULL: that
 * of dtype), ndim and shape are read, and size is checked against them; the bytes come from entry->data or from `provide`. */
CB_API bool cb_gguf_write(const char *path, const cb_gguf_metadata *metadata, const cb_weight_entry *entries, size_t count,
                          cb_weight_provider *provide, void *user);

/* ---- whole models ---- */

/* How a written model's matrices are stored; NULL-terminated.  "keep", "f32", "bf16" and "f16" come first: directories hold these as
 * well.  The others are llama.cpp's file types, in which some matrices are of better types than most: "q4_k_m" (which "q4_k" is short
 * for).  Vectors are f32. */
CB_API extern const char *const cb_gguf_dtype_names[];
/* Writes a model (a directory or a GGUF file) as a GGUF file, with its tokenizer and chat template; of a GGUF file all metadata are kept
 * as they are.  dtype: one of cb_gguf_dtype_names.  What GGUF cannot hold is CB_ERR_UNSUPPORTED and named.  Nothing is compared:
 * cb_convert() does that. */
CB_API bool cb_gguf_export(const char *model, const char *output, const char *dtype);
/* Writes a model (a GGUF file or a directory) as a directory; dtype: "keep" (quantised tensors become f16), "f32", "bf16" or "f16". */
CB_API bool cb_model_unpack(const char *model, const char *directory, const char *dtype);

#ifdef __cplusplus
}
#endif
#endif
