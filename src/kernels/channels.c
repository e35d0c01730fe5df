/* channels.c: sums over, and scales of, the channels of images.
 *
 * The rows of an image are cut into blocks by a rule that does not look at the number of threads; each block sums into a row of its own and
 * the rows are added in order, so the result has the same bits for every number of threads. */
#include "kernels/channels.h"

#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { BLOCK = 256 }; /* rows of channels that are summed in f32 */

static int64_t blocks_of(const cbk_channels *s)
{
    return s->last ? (s->l + BLOCK - 1) / BLOCK : 1;
}

static int64_t rows_of(const cbk_channels *s)
{
    return s->each ? s->n : 1;
}

static const void *at(const void *p, int64_t i, cb_dtype dtype)
{
    return p ? (const char *)p + i * (int64_t)cb_dtype_size(dtype) : NULL;
}

/* ---- f64: plain loops ---- */

static int64_t channel_of(const cbk_channels *s, int64_t i)
{
    return s->last ? i % s->c : i / s->l % s->c;
}

static int64_t factor_of(const cbk_channels *s, int64_t i)
{
    return (s->each ? i / (s->c * s->l) * s->c : 0) + channel_of(s, i);
}

static void sums_f64(const cbk_channels *s, const double *x, const double *dy, const double *shift, double *first, double *second)
{
    for (int64_t i = 0; i < s->n * s->c * s->l; i++) {
        int64_t f = factor_of(s, i);
        double a = x[i] - shift[f], b = dy ? dy[i] : a;
        first[f] += b;
        second[f] += b * a;
    }
}

static void mix_f64(const cbk_channels *s, double *out, const double *x, const double *dy, const double *p, const double *q,
                    const double *r)
{
    for (int64_t i = 0; i < s->n * s->c * s->l; i++) {
        int64_t f = factor_of(s, i);
        out[i] = q[f] * x[i] + r[f] + (dy ? p[f] * dy[i] : 0);
    }
}

/* ---- sums ---- */

/* One block: its sums into first (c) and second (c), or of one channel of one sample when row-major. */
static void sum_block(const cbk_channels *s, const void *x, const void *dy, const float *shift, int64_t unit, int64_t blocks,
                      double *partial)
{
    const cbk_vector_table *vector = cbk_vector();
    if (!s->last) {
        int64_t from = unit * s->l;
        vector->run_sums(s->dtype, partial, partial + 1, at(x, from, s->dtype), at(dy, from, s->dtype), shift[s->each ? unit : unit % s->c],
                         s->l);
        return;
    }
    int64_t n = unit / blocks, begin = unit % blocks * BLOCK, end = begin + BLOCK < s->l ? begin + BLOCK : s->l;
    int64_t from = (n * s->l + begin) * s->c;
    vector->channel_sums(s->dtype, partial, partial + s->c, at(x, from, s->dtype), at(dy, from, s->dtype), shift + (s->each ? n * s->c : 0),
                         end - begin, s->c);
}

static void add_blocks(const cbk_channels *s, const double *partial, int64_t blocks, double *first, double *second)
{
    if (!s->last) {
        for (int64_t i = 0; i < s->n * s->c; i++) {
            int64_t f = s->each ? i : i % s->c;
            first[f] += partial[2 * i];
            second[f] += partial[2 * i + 1];
        }
        return;
    }
    for (int64_t unit = 0; unit < s->n * blocks; unit++) {
        int64_t row = s->each ? unit / blocks * s->c : 0;
        const double *from = partial + unit * 2 * s->c;
        for (int64_t j = 0; j < s->c; j++) {
            first[row + j] += from[j];
            second[row + j] += from[s->c + j];
        }
    }
}

bool cbk_channel_sums(const cbk_channels *s, const void *x, const void *dy, const double *shift, double *first, double *second)
{
    size_t count = (size_t)(rows_of(s) * s->c);
    memset(first, 0, count * sizeof *first);
    memset(second, 0, count * sizeof *second);
    if (s->dtype == CB_F64) {
        if (!cb_rehearsing())
            sums_f64(s, x, dy, shift, first, second);
        return true;
    }
    int64_t blocks = blocks_of(s), units = s->last ? s->n * blocks : s->n * s->c, width = s->last ? 2 * s->c : 2;
    double *partial = cb_calloc((size_t)(units * width) + 1, sizeof *partial);
    float *narrow = cb_alloc((count + 1) * sizeof *narrow);
    bool ok = partial && narrow;
    if (ok && !cb_rehearsing()) {
        cbk_convert(shift, CB_F64, narrow, CB_F32, (int64_t)count);
        int threads = cbk_threads(s->n * s->c * s->l * 2);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (int64_t unit = 0; unit < units; unit++)
            sum_block(s, x, dy, narrow, unit, blocks, partial + unit * width);
        add_blocks(s, partial, blocks, first, second);
    }
    cb_free(partial);
    cb_free(narrow);
    return ok;
}

/* ---- scales ---- */

static void mix_block(const cbk_channels *s, void *out, const void *x, const void *dy, const float *const f[3], int64_t unit,
                      int64_t blocks)
{
    const cbk_vector_table *vector = cbk_vector();
    int64_t n = s->last ? unit / blocks : 0, begin = s->last ? unit % blocks * BLOCK : 0;
    int64_t end = begin + BLOCK < s->l ? begin + BLOCK : s->l;
    int64_t from = s->last ? (n * s->l + begin) * s->c : unit * s->l;
    int64_t row = s->last ? (s->each ? n * s->c : 0) : s->each ? unit : unit % s->c;
    vector->channel_mix(s->dtype, (char *)out + from * (int64_t)cb_dtype_size(s->dtype), at(x, from, s->dtype), at(dy, from, s->dtype),
                        f[0] + row, f[1] + row, f[2] + row, s->last ? end - begin : 1, s->last ? s->c : s->l, s->last);
}

bool cbk_channel_mix(const cbk_channels *s, void *out, const void *x, const void *dy, const double *p, const double *q, const double *r)
{
    if (s->dtype == CB_F64) {
        if (!cb_rehearsing())
            mix_f64(s, out, x, dy, p, q, r);
        return true;
    }
    int64_t count = rows_of(s) * s->c, blocks = blocks_of(s), units = s->last ? s->n * blocks : s->n * s->c;
    float *narrow = cb_alloc((size_t)(3 * count + 1) * sizeof *narrow);
    if (!narrow)
        return false;
    const double *wide[] = {dy ? p : q, q, r};
    for (int i = 0; i < 3; i++)
        cbk_convert(wide[i], CB_F64, narrow + i * count, CB_F32, count);
    const float *f[] = {narrow, narrow + count, narrow + 2 * count};
    int threads = cbk_threads(s->n * s->c * s->l * 2);
    if (cb_rehearsing())
        units = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t unit = 0; unit < units; unit++)
        mix_block(s, out, x, dy, f, unit, blocks);
    cb_free(narrow);
    return true;
}
