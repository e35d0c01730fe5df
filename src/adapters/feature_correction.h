/* feature_correction.h: residual blocks before and behind a linear layer that act on one domain alone: GDCAN (Li et al. 2021, arXiv:2103.12339),
 * section 3.3. */
#ifndef CB_ADAPTERS_FEATURE_CORRECTION_H
#define CB_ADAPTERS_FEATURE_CORRECTION_H

#include "cambium/adapters.h"

typedef struct cb_residual_block {
    cb_tensor *into, *into_bias, *out, *out_bias; /* into NULL: there is no such block */
} cb_residual_block;
/* x of the target becomes x + block(x) before the layer, its result y y + block(y). */
typedef struct cb_feature_correction {
    cb_residual_block before, behind;
} cb_feature_correction;

/* Of a layer from `in` to `out`; the inner width of the block before it (0: none), and whether there is one behind it, which is as wide as the result. */
int cb_feature_correction_parameters(cb_feature_correction *c, int64_t in, int64_t out, int64_t width, bool behind,
                                     cb_adapter_parameter *list);
/* identity: they add 0; else as the authors' code has it, weights normal with deviation 0.005 and biases 0.1. */
bool cb_feature_correction_initialise(cb_feature_correction *c, const cb_module *m, uint64_t seed, bool identity);
/* x (B, ..., C) + strength block(x), of the rows that the context says are the target's (task 0). */
cb_tensor *cb_residual_block_add(const cb_residual_block *b, cb_tensor *x, double strength, const cb_context *ctx);

#endif
