/* resample.c: weighted sums along one dimension, and maxima of windows. */
#include "kernels/resample.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

/* ---- sparse matrices ---- */

bool cbk_taps_begin(cbk_taps *t, int64_t out, int64_t in)
{
    *t = (cbk_taps){.out = out, .in = in};
    if (!cb_grow(&t->start, &t->starts, (size_t)out + 1, sizeof *t->start))
        return false;
    memset(t->start, 0, ((size_t)out + 1) * sizeof *t->start);
    return true;
}

bool cbk_taps_add(cbk_taps *t, int64_t row, int64_t index, double weight)
{
    if (t->start[row + 1] < t->start[row]) /* the row's first */
        t->start[row + 1] = t->start[row];
    int64_t at = t->start[row + 1]++;
    if (!cb_grow(&t->index, &t->indices, (size_t)at + 1, sizeof *t->index) ||
        !cb_grow(&t->weight, &t->weights, (size_t)at + 1, sizeof *t->weight))
        return false;
    t->index[at] = index;
    t->weight[at] = weight;
    return true;
}

bool cbk_taps_transpose(const cbk_taps *t, cbk_taps *to)
{
    int64_t count = t->start[t->out];
    if (!cbk_taps_begin(to, t->in, t->out) || !cb_grow(&to->index, &to->indices, (size_t)count + 1, sizeof *to->index) ||
        !cb_grow(&to->weight, &to->weights, (size_t)count + 1, sizeof *to->weight))
        return false;
    for (int64_t k = 0; k < count; k++)
        to->start[t->index[k] + 1]++;
    for (int64_t i = 0; i < t->in; i++)
        to->start[i + 1] += to->start[i];
    for (int64_t j = 0; j < t->out; j++)
        for (int64_t k = t->start[j]; k < t->start[j + 1]; k++) {
            int64_t at = to->start[t->index[k]]++; /* moved on, and back below */
            to->index[at] = j;
            to->weight[at] = t->weight[k];
        }
    memmove(to->start + 1, to->start, (size_t)t->in * sizeof *to->start);
    to->start[0] = 0;
    return true;
}

void cbk_taps_free(cbk_taps *t)
{
    cb_free(t->start);
    cb_free(t->index);
    cb_free(t->weight);
    *t = (cbk_taps){0};
}

/* ---- weighted sums ---- */

static void row_f32(float *y, const float *x, int64_t inner, const cbk_taps *t, int64_t j)
{
    const cbk_vector_table *vector = cbk_vector();
    memset(y, 0, (size_t)inner * sizeof *y);
    for (int64_t k = t->start[j]; k < t->start[j + 1]; k++)
        vector->axpby(CB_F32, y, (float)t->weight[k], x + t->index[k] * inner, 1, inner);
}

static void row_f64(double *y, const double *x, int64_t inner, const cbk_taps *t, int64_t j)
{
    memset(y, 0, (size_t)inner * sizeof *y);
    for (int64_t k = t->start[j]; k < t->start[j + 1]; k++)
        for (int64_t i = 0; i < inner; i++)
            y[i] += t->weight[k] * x[t->index[k] * inner + i];
}

void cbk_resample(cb_dtype dtype, void *y, const void *x, int64_t outer, int64_t inner, const cbk_taps *t)
{
    if (cb_rehearsing())
        return;
    int threads = cbk_threads(outer * inner * (t->out + t->start[t->out]));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < outer * t->out; row++) {
        int64_t from = row / t->out * t->in * inner, j = row % t->out;
        if (dtype == CB_F64)
            row_f64((double *)y + row * inner, (const double *)x + from, inner, t, j);
        else
            row_f32((float *)y + row * inner, (const float *)x + from, inner, t, j);
    }
}

/* ---- maxima ---- */

enum { TAPS = 256 }; /* places or windows that are listed at once */

static int64_t product(const int64_t *size, int64_t dims)
{
    int64_t p = 1;
    for (int64_t d = 0; d < dims; d++)
        p *= size[d];
    return p;
}

/* The place that window `at` has at tap `k`, or -1 outside. */
static int64_t place(const cbk_windows *s, int64_t at, int64_t k)
{
    int64_t p = 0, size = 1;
    for (int d = (int)s->dims - 1; d >= 0; d--) {
        int64_t i = at % s->out[d] * s->stride[d] + k % s->kernel[d] * s->dilation[d] - s->padding[d];
        if (i < 0 || i >= s->in[d])
            return -1;
        p += i * size;
        size *= s->in[d];
        at /= s->out[d];
        k /= s->kernel[d];
    }
    return p;
}

/* The windows that may have place p: of each dimension those from `first` on, `count` of them; returns how many in all. */
static int64_t windows_at(const cbk_windows *s, int64_t p, int64_t *first, int64_t *count)
{
    int64_t all = 1;
    for (int d = (int)s->dims - 1; d >= 0; d--) {
        int64_t i = p % s->in[d] + s->padding[d], reach = s->dilation[d] * (s->kernel[d] - 1);
        int64_t low = i > reach ? (i - reach + s->stride[d] - 1) / s->stride[d] : 0, high = i / s->stride[d];
        high = high < s->out[d] ? high : s->out[d] - 1;
        first[d] = low;
        count[d] = high >= low ? high - low + 1 : 0;
        all *= count[d];
        p /= s->in[d];
    }
    return all;
}

/* Window number w of those. */
static int64_t window_of(const cbk_windows *s, const int64_t *first, const int64_t *count, int64_t w)
{
    int64_t at = 0, size = 1;
    for (int d = (int)s->dims - 1; d >= 0; d--) {
        at += (first[d] + w % count[d]) * size;
        size *= s->out[d];
        w /= count[d];
    }
    return at;
}

/* ---- one row of channels, by vectors or, where a list is too short for it or in f64, one after another ---- */

#define MAX_POOL(T)                                                                                                                        \
    static void max_window_##T(T *y, int32_t *index, const T *x, const cbk_windows *s, int64_t at, int64_t kernel)                         \
    {                                                                                                                                      \
        bool first = true;                                                                                                                 \
        for (int64_t k = 0; k < kernel; k++) {                                                                                             \
            int64_t p = place(s, at, k);                                                                                                   \
            for (int64_t c = 0; p >= 0 && c < s->c; c++) {                                                                                 \
                T v = x[p * s->c + c];                                                                                                     \
                bool larger = first || v > y[c] || v != v;                                                                                 \
                y[c] = larger ? v : y[c];                                                                                                  \
                index[c] = larger ? (int32_t)p : index[c];                                                                                 \
            }                                                                                                                              \
            first = first && p < 0;                                                                                                        \
        }                                                                                                                                  \
    }                                                                                                                                      \
    static void max_gradient_##T(T *dx, const T *dy, const int32_t *index, int64_t c, int64_t p, int64_t at)                               \
    {                                                                                                                                      \
        for (int64_t j = 0; j < c; j++)                                                                                                    \
            dx[j] += index[at * c + j] == p ? dy[at * c + j] : 0;                                                                          \
    }
MAX_POOL(float)
MAX_POOL(double)

static void max_row(cb_dtype dtype, char *y, int32_t *index, const char *x, const cbk_windows *s, int64_t at, int64_t kernel)
{
    int32_t places[TAPS];
    int64_t count = 0;
    if (dtype == CB_F64) {
        max_window_double((double *)(void *)y, index, (const double *)(const void *)x, s, at, kernel);
        return;
    }
    if (kernel > TAPS) {
        max_window_float((float *)(void *)y, index, (const float *)(const void *)x, s, at, kernel);
        return;
    }
    for (int64_t k = 0; k < kernel; k++) {
        int64_t p = place(s, at, k);
        if (p >= 0)
            places[count++] = (int32_t)p;
    }
    cbk_vector()->max_window(dtype, y, index, x, places, count, s->c);
}

static void gradient_row(cb_dtype dtype, char *dx, const char *dy, const int32_t *index, const cbk_windows *s, int64_t p)
{
    int64_t first[3], count[3], all = windows_at(s, p, first, count);
    int32_t windows[TAPS];
    if (dtype != CB_F64 && all <= TAPS) {
        for (int64_t w = 0; w < all; w++)
            windows[w] = (int32_t)window_of(s, first, count, w);
        cbk_vector()->max_gradient(dtype, dx, dy, index, (int32_t)p, windows, all, s->c);
        return;
    }
    memset(dx, 0, (size_t)s->c * cb_dtype_size(dtype));
    for (int64_t w = 0; w < all; w++) {
        int64_t at = window_of(s, first, count, w);
        if (dtype == CB_F64)
            max_gradient_double((double *)(void *)dx, (const double *)(const void *)dy, index, s->c, p, at);
        else
            max_gradient_float((float *)(void *)dx, (const float *)(const void *)dy, index, s->c, p, at);
    }
}

bool cbk_max_pool_takes(cb_dtype dtype, const cbk_windows *s)
{
    int64_t windows = 1;
    for (int64_t d = 0; d < s->dims && windows <= TAPS; d++)
        windows *= s->dilation[d] * (s->kernel[d] - 1) / s->stride[d] + 1;
    return dtype == CB_F32 || dtype == CB_F64 || (cb_dtype_is_half(dtype) && product(s->kernel, s->dims) <= TAPS && windows <= TAPS);
}

void cbk_max_pool(cb_dtype dtype, void *y, int32_t *index, const void *x, const cbk_windows *s)
{
    int64_t places = product(s->out, s->dims), kernel = product(s->kernel, s->dims), image = product(s->in, s->dims) * s->c;
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cb_rehearsing())
        places = 0;
    int threads = cbk_threads(s->n * places * s->c * kernel);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < s->n * places; row++)
        max_row(dtype, (char *)y + row * s->c * size, index + row * s->c, (const char *)x + row / places * image * size, s, row % places,
                kernel);
}

void cbk_max_pool_backward(cb_dtype dtype, void *dx, const void *dy, const int32_t *index, const cbk_windows *s)
{
    if (cb_rehearsing())
        return;
    int64_t places = product(s->out, s->dims), image = product(s->in, s->dims), size = (int64_t)cb_dtype_size(dtype);
    int threads = cbk_threads(s->n * image * s->c * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < s->n * image; row++) {
        int64_t from = row / image * places * s->c;
        gradient_row(dtype, (char *)dx + row * s->c * size, (const char *)dy + from * size, index + from, s, row % image);
    }
}

/* ---- which element of its window a maximum is ---- */

enum { MOST_ELEMENTS = 256, MOST_SPAN = 1 << 14 };

/* How far element k of a window is from its first, row by row through the image. */
static int64_t element_offset(const cbk_windows *s, int64_t k)
{
    int64_t offset = 0, row = 1;
    for (int64_t d = s->dims - 1; d >= 0; d--) {
        offset += k % s->kernel[d] * s->dilation[d] * row;
        k /= s->kernel[d];
        row *= s->in[d];
    }
    return offset;
}

/* Where a window begins, which may be before the image. */
static int64_t window_start(const cbk_windows *s, int64_t window)
{
    int64_t start = 0, row = 1;
    for (int64_t d = s->dims - 1; d >= 0; d--) {
        start += (window % s->out[d] * s->stride[d] - s->padding[d]) * row;
        window /= s->out[d];
        row *= s->in[d];
    }
    return start;
}

bool cbk_max_pool_packs(const cbk_windows *s)
{
    int64_t elements = product(s->kernel, s->dims);
    return elements <= MOST_ELEMENTS && element_offset(s, elements - 1) < MOST_SPAN;
}

void cbk_max_pool_pack(uint8_t *element, const int32_t *index, const cbk_windows *s)
{
    uint8_t number[MOST_SPAN];
    int64_t windows = product(s->out, s->dims), elements = product(s->kernel, s->dims);
    if (cb_rehearsing())
        return;
    for (int64_t k = 0; k < elements; k++)
        number[element_offset(s, k)] = (uint8_t)k;
    int threads = cbk_threads(s->n * windows * s->c * 2);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < s->n * windows; row++) {
        int64_t start = window_start(s, row % windows);
        for (int64_t c = 0; c < s->c; c++)
            element[row * s->c + c] = number[index[row * s->c + c] - start];
    }
}

void cbk_max_pool_unpack(int32_t *index, const uint8_t *element, const cbk_windows *s)
{
    int32_t offset[MOST_ELEMENTS];
    int64_t windows = product(s->out, s->dims), elements = product(s->kernel, s->dims);
    if (cb_rehearsing())
        return;
    for (int64_t k = 0; k < elements; k++)
        offset[k] = (int32_t)element_offset(s, k);
    int threads = cbk_threads(s->n * windows * s->c * 2);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < s->n * windows; row++) {
        int32_t start = (int32_t)window_start(s, row % windows);
        for (int64_t c = 0; c < s->c; c++)
            index[row * s->c + c] = start + offset[element[row * s->c + c]];
    }
}
