/* rng.c: Philox4x32-10, counter-based.  Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC
 * 2011). */
#include <math.h>

#include "cambium/core.h"

void cb_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint32_t cb_rng_u32(cb_rng *rng)
{
    uint32_t out[4];
    cb_philox(rng->seed, rng->stream, rng->counter++, out);
    return out[0];
}

static uint64_t next64(cb_rng *rng)
{
    uint32_t out[4];
    cb_philox(rng->seed, rng->stream, rng->counter++, out);
    return (uint64_t)out[1] << 32 | out[0];
}

uint64_t cb_rng_below(cb_rng *rng, uint64_t bound)
{
    uint64_t limit = -bound % bound, draw; /* 2^64 mod bound: draws below it would favour small results */
    do
        draw = next64(rng);
    while (draw < limit);
    return draw % bound;
}

double cb_rng_uniform(cb_rng *rng)
{
    return (double)(next64(rng) >> 11) * 0x1p-53;
}

double cb_rng_normal(cb_rng *rng)
{
    uint32_t out[4];
    cb_philox(rng->seed, rng->stream, rng->counter++, out);
    double u = ((double)(((uint64_t)out[1] << 32 | out[0]) >> 11) + 1) * 0x1p-53; /* (0, 1] */
    double v = (double)(((uint64_t)out[3] << 32 | out[2]) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}
