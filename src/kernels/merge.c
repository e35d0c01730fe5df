/* merge.c: what merging does with each number of several models; threads and pieces are the caller's (src/merge/combine.c). */
#include "kernels/cpu/vector_table.h"

void cbk_split_magnitudes(const float *x, int64_t n, int32_t low, int32_t high, cbk_split *s, uint32_t *between)
{
    cbk_vector()->split(x, n, low, high, s, between);
}

void cbk_add_agreeing(float *out, const float *const *x, const float *weights, size_t count, int64_t n, bool frequency, bool normalize)
{
    cbk_vector()->add_agreeing(out, x, weights, count, n, frequency, normalize);
}

const uint32_t *cbk_random_words(uint32_t *words, uint64_t seed, uint64_t stream, int64_t first, int64_t n)
{
    int64_t skip = first % 4;
    cbk_vector()->philox(words, (skip + n + 3) / 4, seed, stream, (uint64_t)(first / 4));
    return words + skip;
}
