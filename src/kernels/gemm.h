/* gemm.h: between gemm.c and the primitives of oneDNN. */
#ifndef CB_KERNELS_GEMM_H
#define CB_KERNELS_GEMM_H

#include "kernels/kernels.h"

/* A product with m, n, k > 0, alpha != 0, A and B both f32 (C f32) or both bf16 (C bf16 or f32). */
bool cbk_gemm_onednn(const cbk_gemm_args *args);
/* Whether our kernels and oneDNN both may use AVX-512 (CAMBIUM_ISA, ONEDNN_MAX_CPU_ISA): then it takes bf16, and all its loops sum in one
 * order. */
bool cbk_gemm_has_avx512(void);

/* The same, with bits that do not depend on the number of threads: what gemm.c calls. */
bool cbk_gemm_blocks(const cbk_gemm_args *args);

/* The same for products with one small dimension, by the kernels of cpu/thin.inc.h.  False: not such a product, or no
 * memory for its small operand; nothing has been written and no error recorded. */
bool cbk_gemm_thin(const cbk_gemm_args *args);

/* A few rows of A times a B of any dtype but f64 whose rows lie along the summed dimension (gemm_rows.c). */
bool cbk_gemm_takes_rows(const cbk_gemm_args *args);
bool cbk_gemm_rows(const cbk_gemm_args *args);

#endif
