/* index.c: reading and adding by index.  Indices are checked before anything is written.  Where several indices name
 * one place, each thread owns a part of the places' columns (or of the outer slices) and walks the indices in order:
 * the sums have the same bits for every number of threads. */
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

static inline int64_t index_at(const void *index, cb_dtype dtype, int64_t i)
{
    return dtype == CB_I32 ? ((const int32_t *)index)[i] : ((const int64_t *)index)[i];
}

static bool check(const char *what, const void *index, cb_dtype dtype, int64_t n, int64_t size)
{
    if (dtype != CB_I32 && dtype != CB_I64)
        return cb_fail(CB_ERR_SHAPE, "%s: indices are %s, expected i32 or i64", what, cb_dtype_name(dtype)) == CB_OK;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = index_at(index, dtype, i);
        if (at < 0 || at >= size)
            return cb_fail(CB_ERR_ARGUMENT, "%s: index %lld (number %lld) is outside 0..%lld", what, (long long)at, (long long)i,
                           (long long)size - 1) == CB_OK;
    }
    return true;
}

/* Row by row; each is a range of whole blocks. */
static bool select_quantized(void *out, cb_dtype out_dtype, const void *x, cb_dtype dtype, const void *index, cb_dtype index_dtype,
                             int64_t outer, int64_t size, int64_t n, int64_t inner)
{
    bool ok = true;
    for (int64_t u = 0; ok && u < outer * n; u++) {
        int64_t from = (u / n * size + index_at(index, index_dtype, u % n)) * inner;
        ok = cbk_dequantize(dtype, x, from, inner, out_dtype, (char *)out + u * inner * (int64_t)cb_dtype_size(out_dtype));
    }
    return ok;
}

bool cbk_index_select(void *out, cb_dtype out_dtype, const void *x, cb_dtype dtype, const void *index, cb_dtype index_dtype, int64_t outer,
                      int64_t size, int64_t n, int64_t inner)
{
    if (!check("index_select", index, index_dtype, n, size))
        return false;
    int64_t from_size = (int64_t)cb_dtype_size(dtype), to_size = (int64_t)cb_dtype_size(out_dtype);
    bool rehearsed = cbk_rehearsed(out_dtype, outer * n * inner) && !cb_dtype_is_quantized(dtype);
    for (int64_t u = 0; u < outer * n && rehearsed; u++)
        cb_rehearsal_read((const char *)x + (u / n * size + index_at(index, index_dtype, u % n)) * inner * from_size,
                          (size_t)(inner * from_size));
    if (rehearsed)
        return true;
    if (cb_dtype_is_quantized(dtype))
        return select_quantized(out, out_dtype, x, dtype, index, index_dtype, outer, size, n, inner);
    int threads = cbk_threads(outer * n * (inner + 16));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < outer * n; u++) {
        int64_t from = (u / n * size + index_at(index, index_dtype, u % n)) * inner;
        if (inner == 1 && dtype == out_dtype)
            memcpy((char *)out + u * to_size, (const char *)x + from * from_size, (size_t)from_size);
        else
            cbk_convert((const char *)x + from * from_size, dtype, (char *)out + u * inner * to_size, out_dtype, inner);
    }
    return true;
}

static bool can_add(cb_dtype dtype, cb_dtype source_dtype)
{
    return dtype <= CB_I64 && (dtype == source_dtype || (dtype == CB_F32 && cb_dtype_is_half(source_dtype)));
}

/* x[0..n-1] += alpha source[0..n-1] */
static void add_piece(void *x, cb_dtype dtype, const void *source, cb_dtype source_dtype, int64_t n, double alpha)
{
    enum { PIECE = 256, FEW = 8 };
    float piece[PIECE];
    if (n < FEW && dtype == CB_F32 && source_dtype == CB_F32) { /* a call for each would take longer than they do */
        for (int64_t i = 0; i < n; i++)
            ((float *)x)[i] += (float)alpha * ((const float *)source)[i];
        return;
    }
    if (dtype == source_dtype && dtype <= CB_F64) {
        cbk_axpby(dtype, x, alpha, source, 1, n);
        return;
    }
    if (dtype == CB_F32) {
        for (int64_t i = 0; i < n; i += PIECE) {
            int64_t c = n - i < PIECE ? n - i : PIECE;
            cbk_convert((const uint16_t *)source + i, source_dtype, piece, CB_F32, c);
            cbk_axpby(CB_F32, (float *)x + i, alpha, piece, 1, c);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++)
        if (dtype == CB_I32)
            ((int32_t *)x)[i] = (int32_t)((uint32_t)((int32_t *)x)[i] + (uint32_t)(int64_t)alpha * (uint32_t)((const int32_t *)source)[i]);
        else
            ((int64_t *)x)[i] = (int64_t)((uint64_t)((int64_t *)x)[i] + (uint64_t)(int64_t)alpha * (uint64_t)((const int64_t *)source)[i]);
}

bool cbk_index_add(void *x, cb_dtype dtype, const void *source, cb_dtype source_dtype, const void *index, cb_dtype index_dtype,
                   int64_t outer, int64_t size, int64_t n, int64_t inner, double alpha)
{
    if (!can_add(dtype, source_dtype))
        return cb_fail(CB_ERR_UNSUPPORTED, "index_add: %s into %s is not supported", cb_dtype_name(source_dtype), cb_dtype_name(dtype)) ==
               CB_OK;
    if (!check("index_add", index, index_dtype, n, size))
        return false;
    if (cbk_rehearsed(dtype, outer * n * inner))
        return true;
    int64_t to_size = (int64_t)cb_dtype_size(dtype), from_size = (int64_t)cb_dtype_size(source_dtype);
    int threads = cbk_threads(outer * n * (inner + 16));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range columns = cbk_share(inner, 64), slices = {0, outer};
        if (outer > 1) { /* whole slices instead of columns */
            slices = cbk_share(outer, 1);
            columns = (cbk_range){0, inner};
        }
        for (int64_t o = slices.begin; o < slices.end && columns.begin < columns.end; o++)
            for (int64_t i = 0; i < n; i++) {
                int64_t to = (o * size + index_at(index, index_dtype, i)) * inner + columns.begin;
                int64_t from = (o * n + i) * inner + columns.begin;
                add_piece((char *)x + to * to_size, dtype, (const char *)source + from * from_size, source_dtype,
                          columns.end - columns.begin, alpha);
            }
    }
    return true;
}

bool cbk_gather(void *out, const void *x, cb_dtype dtype, const void *index, cb_dtype index_dtype, int64_t outer, int64_t size, int64_t n,
                int64_t inner)
{
    if (!check("gather", index, index_dtype, outer * n * inner, size))
        return false;
    if (cbk_rehearsed(dtype, outer * n * inner))
        return true;
    size_t bytes = cb_dtype_size(dtype);
    int threads = cbk_threads(outer * n * inner * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < outer * n; u++)
        for (int64_t j = 0; j < inner; j++) {
            int64_t at = u * inner + j, from = (u / n * size + index_at(index, index_dtype, at)) * inner + j;
            memcpy((char *)out + (size_t)at * bytes, (const char *)x + (size_t)from * bytes, bytes);
        }
    return true;
}

bool cbk_scatter_add(void *x, cb_dtype dtype, const void *source, const void *index, cb_dtype index_dtype, int64_t outer, int64_t size,
                     int64_t n, int64_t inner)
{
    if (!can_add(dtype, dtype))
        return cb_fail(CB_ERR_UNSUPPORTED, "scatter_add: dtype %s is not supported", cb_dtype_name(dtype)) == CB_OK;
    if (!check("scatter_add", index, index_dtype, outer * n * inner, size))
        return false;
    if (cbk_rehearsed(dtype, outer * n * inner))
        return true;
    int64_t bytes = (int64_t)cb_dtype_size(dtype);
    int threads = cbk_threads(outer * n * inner * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t o = 0; o < outer; o++)
        for (int64_t at = o * n * inner; at < (o + 1) * n * inner; at++) {
            int64_t to = (o * size + index_at(index, index_dtype, at)) * inner + at % inner;
            add_piece((char *)x + to * bytes, dtype, (const char *)source + at * bytes, dtype, 1, 1);
        }
    return true;
}
