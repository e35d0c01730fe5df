/* rope.c: rotary position embedding in the "rotate half" layout: of a head's first R elements, pairs (i, i + R/2) turn
 * by the angle of the token's position.  Su et al. 2021, arXiv:2104.09864. */
#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

static void rope_token_f64(const cbk_rope_args *a, int64_t token, const float *cosines, const float *sines)
{
    int64_t half = a->rotary / 2;
    for (int64_t head = 0; head < a->heads; head++) {
        const double *x = (const double *)a->x + token * a->x_token_stride + head * a->x_head_stride;
        double *y = (double *)a->y + token * a->y_token_stride + head * a->y_head_stride;
        for (int64_t i = 0; i < half; i++) {
            double first = x[i], second = x[half + i], c = (double)cosines[i], s = a->inverse ? -(double)sines[i] : (double)sines[i];
            y[i] = first * c - second * s;
            y[half + i] = second * c + first * s;
        }
        for (int64_t i = a->rotary; i < a->head_size; i++)
            y[i] = x[i];
    }
}

static void rope_token(const cbk_rope_args *a, int64_t token)
{
    int64_t half = a->rotary / 2, size = (int64_t)cb_dtype_size(a->dtype);
    const float *cosines = a->cos + a->positions[token] * half, *sines = a->sin + a->positions[token] * half;
    if (a->dtype == CB_F64) {
        rope_token_f64(a, token, cosines, sines);
        return;
    }
    cbk_vector()->rope(a->dtype, (char *)a->y + token * a->y_token_stride * size, a->y_head_stride,
                       (const char *)a->x + token * a->x_token_stride * size, a->x_head_stride, a->heads, a->head_size, half, cosines,
                       sines, a->inverse);
}

bool cbk_rope(const cbk_rope_args *a)
{
    if (a->dtype > CB_F64 || a->rotary < 0 || a->rotary % 2 || a->rotary > a->head_size)
        return cb_fail(CB_ERR_ARGUMENT, "rope: dtype %s, %lld of %lld elements rotary: expected a float dtype and an even part of the head",
                       cb_dtype_name(a->dtype), (long long)a->rotary, (long long)a->head_size) == CB_OK;
    for (int64_t t = 0; t < a->tokens; t++)
        if (a->positions[t] < 0 || a->positions[t] >= a->table_rows)
            return cb_fail(CB_ERR_ARGUMENT, "rope: position %d of token %lld is outside the table of %lld", a->positions[t], (long long)t,
                           (long long)a->table_rows) == CB_OK;
    if (cbk_rehearsed(a->dtype, a->tokens * a->heads * a->head_size))
        return true;
    int threads = cbk_threads(a->tokens * a->heads * a->head_size * 2);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < a->tokens; t++)
        rope_token(a, t);
    return true;
}
