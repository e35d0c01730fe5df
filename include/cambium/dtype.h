/* dtype.h: the element types of tensors, and their names. */
#ifndef CAMBIUM_DTYPE_H
#define CAMBIUM_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    /* quantised types: frozen matrices (rows, columns), whose columns are a multiple of the block */
    CB_Q8_0, /* those of GGUF, byte for byte: blocks of 32 elements */
    CB_Q5_1,
    CB_Q5_0,
    CB_Q4_1,
    CB_Q4_0,
    CB_IQ4_NL,
    CB_Q6_K, /* and of 256 */
    CB_Q5_K,
    CB_Q4_K,
    CB_IQ4_XS,
    CB_Q3_K,
    CB_Q2_K,
    CB_INT8, /* a byte an element, scales beside them: cb_scaled_codes */
    CB_NF4,  /* half a byte, QLoRA's 16 levels (Dettmers et al. 2023, arXiv:2305.14314, appendix E) */
    CB_DTYPE_COUNT
} cb_dtype;

/* Codes whose scales lie elsewhere in memory, as safetensors files hold them.  The `data` of a tensor of CB_INT8 or CB_NF4 points to
 * one of these.  An element is its code's level (int8: the code itself) times the scale of its block. */
typedef struct cb_scaled_codes {
    const void *codes; /* int8: int8_t; nf4: two elements a byte, the first in the upper half */
    int64_t block;     /* adjacent elements, in row-major order, that share a scale; they may run on into the next row (nf4) */
    /* One a block.  NULL: the scales are quantised themselves ("double quantisation"), scale i is
     * scale_levels[scale_codes[i]] * nested_scale[i / nested_block] + scale_offset. */
    const float *scale;
    const uint8_t *scale_codes;
    const float *scale_levels; /* (256) */
    const float *nested_scale;
    int64_t nested_block;
    float scale_offset;
} cb_scaled_codes;

/* Bytes of one element; 0 for a quantised type and for a value that is no dtype. */
CB_API size_t cb_dtype_size(cb_dtype dtype);
CB_API bool cb_dtype_is_quantized(cb_dtype dtype);
/* Elements that are stored together: 32 or 256 for GGUF's types, 2 for nf4, 1 for the others; 0 for a value that is no dtype. */
CB_API int64_t cb_dtype_block(cb_dtype dtype);
/* Bytes of `count` elements, a multiple of the block (int8 and nf4: of their codes, without the scales); 0 where that is no size_t. */
CB_API size_t cb_dtype_bytes(cb_dtype dtype, int64_t count);
CB_API bool cb_dtype_is_float(cb_dtype dtype); /* f32, bf16, f16, f64 */
CB_API bool cb_dtype_is_half(cb_dtype dtype);  /* bf16, f16 */
/* "f32", "bf16", "f16", "f64", "i32", "i64", "u8", "bool", GGUF's types as there but in lower case ("q4_k"), "int8", "nf4"; "?" for a
 * value that is no dtype. */
CB_API const char *cb_dtype_name(cb_dtype dtype);
/* The dtype of a name in any of the field's spellings: ours, safetensors' ("BF16"), PyTorch's ("bfloat16",
 * "torch.bfloat16", "half"); case does not matter.  False, and *dtype unchanged, when the name is none of them; no
 * error is recorded. */
CB_API bool cb_dtype_from_name(const char *name, cb_dtype *dtype);

/* Rows begin..end-1 of a matrix take the low-rank update with index `pair` (cb_low_rank_add(), tensor.h). */
typedef struct cb_low_rank_rows {
    int64_t begin, end;
    int pair;
} cb_low_rank_rows;

#ifdef __cplusplus
}
#endif
#endif
