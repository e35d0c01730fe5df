/* random.c: arrays of random numbers.  Element i takes its words from a Philox counter that depends on i alone, so the
 * result does not depend on threads or on how the array is cut.  Words are made a piece at a time and used while they
 * are in the first cache. */
#include <math.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { PIECE = 1024 }; /* elements; a multiple of 4 */

typedef struct draw {
    cb_dtype dtype;
    bool normal;
    uint64_t seed, stream, counter;
} draw;

static double uniform_f64(const uint32_t *w)
{
    return (double)(((uint64_t)w[1] << 32 | w[0]) >> 11) * 0x1p-53;
}

static void draw_f64(const draw *d, double *out, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += 2) { /* begin is even */
        uint32_t w[4];
        cb_philox(d->seed, d->stream, d->counter + (uint64_t)i / 2, w);
        double u = uniform_f64(w), v = uniform_f64(w + 2), first = u, second = v;
        if (d->normal) {
            double radius = sqrt(-2 * log(u + 0x1p-53));
            first = radius * cos(2 * M_PI * v);
            second = radius * sin(2 * M_PI * v);
        }
        out[i] = first;
        if (i + 1 < end)
            out[i + 1] = second;
    }
}

static void draw_piece(const draw *d, void *out, int64_t begin, int64_t n)
{
    const cbk_vector_table *vector = cbk_vector();
    uint32_t words[PIECE];
    float values[PIECE];
    vector->philox(words, (n + 3) / 4, d->seed, d->stream, d->counter + (uint64_t)begin / 4);
    if (d->normal)
        vector->normal(values, words, (n + 1) / 2 * 2);
    else
        vector->uniform(values, words, n);
    cbk_convert(values, CB_F32, (char *)out + begin * (int64_t)cb_dtype_size(d->dtype), d->dtype, n);
}

static uint64_t draw_all(const draw *d, void *out, int64_t count)
{
    uint64_t counters = d->dtype == CB_F64 ? (uint64_t)(count + 1) / 2 : (uint64_t)(count + 3) / 4;
    if (cb_rehearsing())
        return counters;
    int threads = cbk_threads(count * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, PIECE);
        if (d->dtype == CB_F64)
            draw_f64(d, out, r.begin, r.end);
        else
            for (int64_t i = r.begin; i < r.end; i += PIECE)
                draw_piece(d, out, i, r.end - i < PIECE ? r.end - i : PIECE);
    }
    return counters;
}

uint64_t cbk_uniform(cb_dtype dtype, void *out, int64_t count, uint64_t seed, uint64_t stream, uint64_t counter)
{
    return draw_all(&(draw){dtype, false, seed, stream, counter}, out, count);
}

uint64_t cbk_normal(cb_dtype dtype, void *out, int64_t count, uint64_t seed, uint64_t stream, uint64_t counter)
{
    return draw_all(&(draw){dtype, true, seed, stream, counter}, out, count);
}

typedef struct dropout {
    cb_dtype dtype;
    void *y;
    const void *x;
    uint8_t *mask;
    uint32_t threshold; /* words below are dropped */
    bool all;           /* p is 1: nothing is kept */
    double scale;
} dropout;

static void dropout_piece(const dropout *d, const uint32_t *words, int64_t begin, int64_t n)
{
    float values[PIECE];
    int64_t size = (int64_t)cb_dtype_size(d->dtype);
    if (d->mask)
        for (int64_t i = 0; i < n; i++)
            d->mask[begin + i] = !d->all && words[i] >= d->threshold;
    if (d->dtype == CB_F64) {
        for (int64_t i = 0; i < n; i++)
            ((double *)d->y)[begin + i] =
                words[i] >= d->threshold ? ((const double *)d->x)[begin + i] * d->scale : 0; /* scale 0 when all are dropped */
        return;
    }
    float scale = (float)d->scale;
    cbk_convert((const char *)d->x + begin * size, d->dtype, values, CB_F32, n);
    for (int64_t i = 0; i < n; i++)
        values[i] = words[i] >= d->threshold ? values[i] * scale : 0;
    cbk_convert(values, CB_F32, (char *)d->y + begin * size, d->dtype, n);
}

uint64_t cbk_dropout(cb_dtype dtype, void *y, const void *x, uint8_t *mask, int64_t count, double p, uint64_t seed, uint64_t stream,
                     uint64_t counter)
{
    dropout d = {dtype, y, x, mask, p < 1 ? (uint32_t)fmin(ceil(p * 0x1p32), UINT32_MAX) : 0, !(p < 1), p < 1 ? 1 / (1 - p) : 0};
    if (cb_rehearsing())
        return (uint64_t)(count + 3) / 4;
    int threads = cbk_threads(count * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, PIECE);
        uint32_t words[PIECE];
        for (int64_t i = r.begin; i < r.end; i += PIECE) {
            int64_t n = r.end - i < PIECE ? r.end - i : PIECE;
            cbk_vector()->philox(words, (n + 3) / 4, seed, stream, counter + (uint64_t)i / 4);
            dropout_piece(&d, words, i, n);
        }
    }
    return (uint64_t)(count + 3) / 4;
}
