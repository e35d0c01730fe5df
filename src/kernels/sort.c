/* sort.c: sorting rows and picking the k first of them.
 *
 * Every element becomes an unsigned key whose order is the order wanted (complemented when descending), so one comparison serves all
 * dtypes.  Sorting is a merge sort of (key, index) pairs over short runs sorted by insertion: stable, no worst case.  The first k
 * come from a heap of k pairs ordered by (key, index), which are all different, so its result is that of the stable sort.
 * Values are read again through the indices: a NaN keeps its payload and a zero its sign. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/parallel.h"

typedef struct pair {
    uint64_t key;
    int64_t index;
} pair;

enum { RUN = 16 };

/* ---- keys ---- */

/* bits of an IEEE number of `width` bits -> its rank; NaN above all, both zeros alike */
static uint64_t float_key(uint64_t bits, int width, uint64_t infinity)
{
    uint64_t sign = (uint64_t)1 << (width - 1), magnitude = bits & (sign - 1);
    if (magnitude > infinity)
        return UINT64_MAX;
    return bits & sign ? sign - magnitude : sign + magnitude;
}

static uint64_t key_of(cb_dtype dtype, const void *x, int64_t i)
{
    union {
        uint64_t u64;
        uint32_t u32;
    } bits;
    switch (dtype) {
    case CB_F32:
        memcpy(&bits.u32, (const float *)x + i, sizeof bits.u32);
        return float_key(bits.u32, 32, 0x7f800000);
    case CB_BF16:
        return float_key(((const uint16_t *)x)[i], 16, 0x7f80);
    case CB_F16:
        return float_key(((const uint16_t *)x)[i], 16, 0x7c00);
    case CB_F64:
        memcpy(&bits.u64, (const double *)x + i, sizeof bits.u64);
        return float_key(bits.u64, 64, (uint64_t)0x7ff << 52);
    case CB_I32:
        return (uint64_t)((const int32_t *)x)[i] ^ (uint64_t)1 << 63;
    case CB_I64:
        return (uint64_t)((const int64_t *)x)[i] ^ (uint64_t)1 << 63;
    default:
        return ((const uint8_t *)x)[i];
    }
}

static void keys_of(pair *out, cb_dtype dtype, const void *x, int64_t n, bool descending)
{
    for (int64_t i = 0; i < n; i++) {
        uint64_t key = key_of(dtype, x, i);
        out[i] = (pair){descending ? ~key : key, i};
    }
}

/* ---- merge sort ---- */

static void insertion_sort(pair *p, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        pair moving = p[i];
        int64_t j = i;
        for (; j > 0 && p[j - 1].key > moving.key; j--)
            p[j] = p[j - 1];
        p[j] = moving;
    }
}

static void merge(pair *to, const pair *a, int64_t na, const pair *b, int64_t nb)
{
    while (na && nb) {
        if (b->key < a->key) {
            *to++ = *b++;
            nb--;
        } else {
            *to++ = *a++;
            na--;
        }
    }
    memcpy(to, na ? a : b, (size_t)(na + nb) * sizeof *to);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Sorts p with the help of n more pairs; the result is in whichever is returned. */
static pair *merge_sort(pair *p, pair *other, int64_t n)
{
    for (int64_t i = 0; i < n; i += RUN)
        insertion_sort(p + i, least(RUN, n - i));
    for (int64_t width = RUN; width < n; width *= 2) {
        for (int64_t i = 0; i < n; i += 2 * width) {
            int64_t na = least(width, n - i), nb = least(width, n - i - na);
            merge(other + i, p + i, na, p + i + na, nb);
        }
        pair *sorted = other;
        other = p;
        p = sorted;
    }
    return p;
}

/* ---- the first k ---- */

static bool before(const pair *a, const pair *b)
{
    return a->key != b->key ? a->key < b->key : a->index < b->index;
}

/* Puts p into place i of a heap of k pairs, the last in order on top, or below as far as it must sink. */
static void sink(pair *heap, int64_t k, int64_t i, pair p)
{
    for (int64_t child; (child = 2 * i + 1) < k; i = child) {
        if (child + 1 < k && before(&heap[child], &heap[child + 1]))
            child++;
        if (!before(&p, &heap[child]))
            break;
        heap[i] = heap[child];
    }
    heap[i] = p;
}

static void first_of(pair *heap, int64_t k, cb_dtype dtype, const void *x, int64_t n, bool descending)
{
    keys_of(heap, dtype, x, k, descending);
    for (int64_t i = k / 2 - 1; i >= 0; i--)
        sink(heap, k, i, heap[i]);
    for (int64_t i = k; i < n; i++) {
        uint64_t key = key_of(dtype, x, i);
        pair p = {descending ? ~key : key, i};
        if (p.key < heap[0].key) /* at a tie the earlier index stays */
            sink(heap, k, 0, p);
    }
}

/* The pairs of a heap in order, in place. */
static void heap_sort(pair *heap, int64_t k)
{
    for (int64_t left = k; left > 1; left--) {
        pair last = heap[0];
        sink(heap, left - 1, 0, heap[left - 1]);
        heap[left - 1] = last;
    }
}

/* ---- rows ---- */

typedef struct job {
    cb_dtype dtype;
    void *values;
    int64_t *indices;
    const void *x;
    int64_t rows, n, k;
    bool descending;
} job;

static void give(const job *j, int64_t row, const pair *sorted)
{
    size_t size = cb_dtype_size(j->dtype);
    const char *x = (const char *)j->x + (size_t)(row * j->n) * size;
    char *values = j->values ? (char *)j->values + (size_t)(row * j->k) * size : NULL;
    int64_t *indices = j->indices ? j->indices + row * j->k : NULL;
    for (int64_t i = 0; values && i < j->k; i++)
        memcpy(values + (size_t)i * size, x + (size_t)sorted[i].index * size, size);
    for (int64_t i = 0; indices && i < j->k; i++)
        indices[i] = sorted[i].index;
}

/* `work`: room for k pairs, twice that when all are wanted */
static void do_row(const job *j, int64_t row, pair *work)
{
    const char *x = (const char *)j->x + (size_t)(row * j->n) * cb_dtype_size(j->dtype);
    if (j->k < j->n) {
        first_of(work, j->k, j->dtype, x, j->n, j->descending);
        heap_sort(work, j->k);
        give(j, row, work);
        return;
    }
    keys_of(work, j->dtype, x, j->n, j->descending);
    give(j, row, merge_sort(work, work + j->n, j->n));
}

static bool run(const job *j)
{
    if (j->rows == 0 || j->k == 0)
        return true;
    int threads = j->rows > 1 ? cbk_threads(j->rows * j->n * 16) : 1;
    size_t room = (size_t)j->k * (j->k < j->n ? 1 : 2);
    pair *work = cb_alloc(room * (size_t)threads * sizeof *work);
    if (!work)
        return false;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(j->rows, 1);
        pair *own = work + room * (size_t)omp_get_thread_num();
        for (int64_t row = r.begin; row < r.end; row++)
            do_row(j, row, own);
    }
    cb_free(work);
    return true;
}

bool cbk_sort(cb_dtype dtype, void *values, int64_t *indices, const void *x, int64_t rows, int64_t n, bool descending)
{
    job j = {.dtype = dtype, .values = values, .indices = indices, .x = x, .rows = rows, .n = n, .k = n, .descending = descending};
    return run(&j);
}

bool cbk_topk(cb_dtype dtype, void *values, int64_t *indices, const void *x, int64_t rows, int64_t n, int64_t k, bool largest)
{
    job j = {.dtype = dtype, .values = values, .indices = indices, .x = x, .rows = rows, .n = n, .k = k, .descending = largest};
    return run(&j);
}
