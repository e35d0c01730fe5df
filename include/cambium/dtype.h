/* dtype.h: the element types of tensors, and their names. */
#ifndef CAMBIUM_DTYPE_H
#define CAMBIUM_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cb_dtype {
    CB_F32,
    CB_BF16, /* the upper half of an f32 */
    CB_F16,  /* IEEE 754 binary16 */
    CB_F64,
    CB_I32,
    CB_I64,
    CB_U8,
    CB_BOOL, /* one byte, 0 or 1 */
    CB_DTYPE_COUNT
} cb_dtype;

/* Bytes of one element; 0 for a value that is no dtype. */
CB_API size_t cb_dtype_size(cb_dtype dtype);
CB_API bool cb_dtype_is_float(cb_dtype dtype); /* f32, bf16, f16, f64 */
CB_API bool cb_dtype_is_half(cb_dtype dtype);  /* bf16, f16 */
/* "f32", "bf16", "f16", "f64", "i32", "i64", "u8", "bool"; "?" for a value that is no dtype. */
CB_API const char *cb_dtype_name(cb_dtype dtype);
/* The dtype of a name in any of the field's spellings: ours, safetensors' ("BF16"), PyTorch's ("bfloat16",
 * "torch.bfloat16", "half"); case does not matter.  False, and *dtype unchanged, when the name is none of them; no
 * error is recorded. */
CB_API bool cb_dtype_from_name(const char *name, cb_dtype *dtype);

#ifdef __cplusplus
}
#endif
#endif
