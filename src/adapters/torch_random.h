/* torch_random.h: the numbers that torch.Generator("cpu") gives, bit for bit: MT19937 and what torch makes of it.  PEFT leaves random
 * projections and places out of its files and draws them again from a seed. */
#ifndef CB_ADAPTERS_TORCH_RANDOM_H
#define CB_ADAPTERS_TORCH_RANDOM_H

#include "cambium/tensor.h"

typedef struct cb_torch_rng {
    uint32_t state[624];
    int next; /* which of them comes next */
} cb_torch_rng;

cb_torch_rng cb_torch_seed(uint64_t seed); /* manual_seed() */
uint32_t cb_torch_u32(cb_torch_rng *rng);
/* t.uniform_(low, high) for f32; half types are these, rounded. */
void cb_torch_uniform(cb_tensor *t, cb_torch_rng *rng, double low, double high);
/* The first `count` of torch.randperm(n), in order.  n < 2^32 / 20, where torch draws otherwise: CB_ERR_UNSUPPORTED. */
bool cb_torch_permutation(cb_torch_rng *rng, int64_t n, int64_t count, int64_t *out);

#endif
