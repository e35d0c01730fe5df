/* copy.c: strided n-d copies.  Dimensions that lie together are joined first; a plain block is one conversion, rows
 * that are contiguous on both sides are converted one by one, and a transposition goes in square tiles so that both
 * sides use whole cache lines. */
#include <string.h>

#include "kernels/nd.h"
#include "kernels/parallel.h"

enum { TILE = 32 };

typedef struct copy_types {
    cb_dtype to, from;
    int64_t to_size, from_size;
} copy_types;

#define STRIDED(T)                                                                                                                         \
    {                                                                                                                                      \
        T *t = (T *)(void *)to;                                                                                                            \
        const T *f = (const T *)(const void *)from;                                                                                        \
        for (int64_t i = 0; i < n; i++)                                                                                                    \
            t[i * to_stride] = f[i * from_stride];                                                                                         \
        break;                                                                                                                             \
    }

static void copy_strided(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t n, int64_t size)
{
    switch (size) {
    case 1:
        STRIDED(uint8_t)
    case 2:
        STRIDED(uint16_t)
    case 4:
        STRIDED(uint32_t)
    default:
        STRIDED(uint64_t)
    }
}

static void copy_row(const void *context, char *const p[], const int64_t stride[], int64_t n)
{
    const copy_types *t = context;
    if (stride[0] == 1 && stride[1] == 1) {
        if (t->to == t->from)
            memcpy(p[0], p[1], (size_t)(n * t->to_size));
        else
            cbk_convert(p[1], t->from, p[0], t->to, n);
        return;
    }
    if (t->to == t->from) {
        copy_strided(p[0], stride[0], p[1], stride[1], n, t->to_size);
        return;
    }
    char gathered[TILE * 8], converted[TILE * 8]; /* a few elements at a time: side by side, converted, put where they belong */
    for (int64_t i = 0; i < n; i += TILE) {
        int64_t c = n - i < TILE ? n - i : TILE;
        copy_strided(gathered, 1, p[1] + i * stride[1] * t->from_size, stride[1], c, t->from_size);
        cbk_convert(gathered, t->from, converted, t->to, c);
        copy_strided(p[0] + i * stride[0] * t->to_size, stride[0], converted, 1, c, t->to_size);
    }
}

#define TRANSPOSE(T)                                                                                                                       \
    {                                                                                                                                      \
        T *t = (T *)(void *)to;                                                                                                            \
        const T *f = (const T *)(const void *)from;                                                                                        \
        for (int64_t i = 0; i < rows; i++)                                                                                                 \
            for (int64_t j = 0; j < columns; j++)                                                                                          \
                t[i * to_stride + j] = f[j * from_stride + i];                                                                             \
        break;                                                                                                                             \
    }

/* to[i, j] = from[j, i]; adjacent j in `to`, adjacent i in `from` */
static void transpose_tile(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t rows, int64_t columns, int64_t size)
{
    switch (size) {
    case 1:
        TRANSPOSE(uint8_t)
    case 2:
        TRANSPOSE(uint16_t)
    case 4:
        TRANSPOSE(uint32_t)
    default:
        TRANSPOSE(uint64_t)
    }
}

/* The dimension along which `from` is adjacent while the last one is that of `to`; -1: not such a copy. */
static int transposed_dimension(const cbk_nd *nd)
{
    int last = nd->ndim - 1;
    if (nd->stride[0][last] != 1 || nd->stride[1][last] == 1)
        return -1;
    for (int d = 0; d < last; d++)
        if (nd->stride[1][d] == 1 && nd->shape[d] >= 4)
            return d;
    return -1;
}

/* One tile row: index `u` counts tiles of dimension d within every combination of the other dimensions but the last. */
static void transpose_strip(const cbk_nd *nd, int d, int64_t u, int64_t size)
{
    int last = nd->ndim - 1;
    int64_t tiles = (nd->shape[d] + TILE - 1) / TILE, i = u % tiles * TILE, rest = u / tiles;
    int64_t rows = nd->shape[d] - i < TILE ? nd->shape[d] - i : TILE, columns = nd->shape[last];
    char *to = nd->base[0] + i * nd->stride[0][d] * size;
    const char *from = nd->base[1] + i * size;
    for (int e = last - 1; e >= 0; e--) {
        if (e == d)
            continue;
        int64_t index = rest % nd->shape[e];
        rest /= nd->shape[e];
        to += index * nd->stride[0][e] * size;
        from += index * nd->stride[1][e] * size;
    }
    for (int64_t j = 0; j < columns; j += TILE)
        transpose_tile(to + j * size, nd->stride[0][d], from + j * nd->stride[1][last] * size, nd->stride[1][last], rows,
                       columns - j < TILE ? columns - j : TILE, size);
}

static void copy_transposed(const cbk_nd *nd, int d, int64_t size)
{
    int64_t units = nd->count / nd->shape[d] / nd->shape[nd->ndim - 1] * ((nd->shape[d] + TILE - 1) / TILE);
    int threads = cbk_threads(nd->count);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < units; u++)
        transpose_strip(nd, d, u, size);
}

void cbk_copy(void *to, cb_dtype to_dtype, const int64_t *to_stride, const void *from, cb_dtype from_dtype, const int64_t *from_stride,
              int ndim, const int64_t *shape)
{
    copy_types types = {to_dtype, from_dtype, (int64_t)cb_dtype_size(to_dtype), (int64_t)cb_dtype_size(from_dtype)};
    cbk_nd nd;
    cbk_nd_init(&nd, ndim, shape);
    cbk_nd_add(&nd, to, types.to_size, to_stride);
    cbk_nd_add(&nd, from, types.from_size, from_stride);
    if (nd.count == 0)
        return;
    if (cbk_rehearsed(from_dtype, nd.count) || cbk_rehearsed(to_dtype, nd.count)) {
        cb_rehearsal_read(from, (size_t)(nd.count * types.from_size)); /* whole, where it is a weight */
        return;
    }
    cbk_nd_simplify(&nd);
    if (nd.ndim == 1 && nd.stride[0][0] == 1 && nd.stride[1][0] == 1) {
        cbk_convert(from, from_dtype, to, to_dtype, nd.count);
        return;
    }
    int d = to_dtype == from_dtype ? transposed_dimension(&nd) : -1;
    if (d >= 0)
        copy_transposed(&nd, d, types.to_size);
    else
        cbk_nd_run(&nd, 1, copy_row, &types);
}
