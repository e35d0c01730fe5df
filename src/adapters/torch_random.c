/* torch_random.c: see torch_random.h.  Matsumoto and Nishimura 1998; ATen/core/MT19937RNGEngine.h, TransformationHelper.h and
 * native/TensorFactories.cpp of PyTorch. */
#include "adapters/torch_random.h"

#include <math.h>
#include <string.h>

enum { LENGTH = 624, MIDDLE = 397 };

cb_torch_rng cb_torch_seed(uint64_t seed)
{
    cb_torch_rng rng = {.next = LENGTH};
    rng.state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < LENGTH; i++)
        rng.state[i] = 1812433253u * (rng.state[i - 1] ^ (rng.state[i - 1] >> 30)) + i;
    return rng;
}

static void next_state(cb_torch_rng *rng)
{
    uint32_t *s = rng->state;
    for (int i = 0; i < LENGTH; i++) {
        uint32_t mixed = (s[i] & 0x80000000u) | (s[(i + 1) % LENGTH] & 0x7fffffffu);
        s[i] = s[(i + MIDDLE) % LENGTH] ^ (mixed >> 1) ^ (mixed & 1 ? 0x9908b0dfu : 0);
    }
    rng->next = 0;
}

uint32_t cb_torch_u32(cb_torch_rng *rng)
{
    if (rng->next == LENGTH)
        next_state(rng);
    uint32_t y = rng->state[rng->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

void cb_torch_uniform(cb_tensor *t, cb_torch_rng *rng, double low, double high)
{
    float *x = t->data, from = (float)low, width = (float)high - from;
    const uint32_t mantissa = (1u << 24) - 1;
    for (int64_t i = 0; i < t->count; i++)
        x[i] = fmaf((float)(cb_torch_u32(rng) & mantissa) * 0x1p-24f, width, from);
}

/* ---- permutations ---- */

/* The elements of 0, 1, ..., n - 1 that a shuffle has moved: a table from places to what is there now. */
typedef struct moved {
    int64_t *places, *values; /* -1: free */
    size_t size;              /* a power of two */
} moved;

static size_t slot_of(const moved *m, int64_t place)
{
    size_t i = (size_t)((uint64_t)place * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (m->size - 1);
    while (m->places[i] >= 0 && m->places[i] != place)
        i = (i + 1) & (m->size - 1);
    return i;
}

static int64_t value_at(const moved *m, int64_t place)
{
    size_t i = slot_of(m, place);
    return m->places[i] < 0 ? place : m->values[i];
}

/* Fisher and Yates's shuffle from the front: step i swaps element i with one that is not before it, so the first `count` are settled after as
 * many steps. */
bool cb_torch_permutation(cb_torch_rng *rng, int64_t n, int64_t count, int64_t *out)
{
    if (n >= UINT32_MAX / 20)
        return cb_fail(CB_ERR_UNSUPPORTED, "random places: found %lld to choose from, expected less than %u", (long long)n,
                       UINT32_MAX / 20) == CB_OK;
    moved m = {.size = 16};
    while (m.size < 2 * (size_t)count)
        m.size *= 2;
    m.places = cb_alloc(m.size * sizeof *m.places);
    m.values = cb_alloc(m.size * sizeof *m.values);
    bool ok = m.places && m.values;
    if (ok)
        memset(m.places, 0xff, m.size * sizeof *m.places);
    for (int64_t i = 0; ok && i < count; i++) {
        int64_t other = i + 1 < n ? i + (int64_t)(cb_torch_u32(rng) % (uint64_t)(n - i)) : i, here = value_at(&m, i);
        out[i] = value_at(&m, other);
        size_t slot = slot_of(&m, other);
        m.places[slot] = other;
        m.values[slot] = here;
    }
    cb_free(m.places);
    cb_free(m.values);
    return ok;
}
