/* recurrent.c: the element-wise part of a step of LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014, arXiv:1406.1078), in
 * torch's order of gates. */
#include "kernels/recurrent.h"

#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

/* One serial run of a function of each element, in place. */
static void apply_float(cbk_unary_op op, float *x, int64_t n)
{
    cbk_vector()->unary(op, CB_F32, x, x, n, 0, 0);
}

static void apply_double(cbk_unary_op op, double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = cbk_unary_value(op, x[i], 0, 0);
}

#define CELLS(T)                                                                                                                           \
    static void lstm_row_##T(T *gate, T *y, T *c_next, T *t, const T *c, int64_t n)                                                        \
    {                                                                                                                                      \
        apply_##T(CBK_SIGMOID, gate, 2 * n);                                                                                               \
        apply_##T(CBK_TANH, gate + 2 * n, n);                                                                                              \
        apply_##T(CBK_SIGMOID, gate + 3 * n, n);                                                                                           \
        for (int64_t i = 0; i < n; i++)                                                                                                    \
            t[i] = c_next[i] = gate[n + i] * c[i] + gate[i] * gate[2 * n + i];                                                             \
        apply_##T(CBK_TANH, t, n);                                                                                                         \
        for (int64_t i = 0; i < n; i++)                                                                                                    \
            y[i] = gate[3 * n + i] * t[i];                                                                                                 \
    }                                                                                                                                      \
    static void lstm_row_backward_##T(T *d, T *dc, const T *dy, const T *dc_next, const T *a, const T *c, const T *t, int64_t n)           \
    {                                                                                                                                      \
        for (int64_t i = 0; i < n; i++) {                                                                                                  \
            T in = a[i], forget = a[n + i], cell = a[2 * n + i], out = a[3 * n + i], g = dy ? dy[i] : 0;                                   \
            T dcell = (dc_next ? dc_next[i] : 0) + g * out * (1 - t[i] * t[i]);                                                            \
            d[i] = dcell * cell * in * (1 - in);                                                                                           \
            d[n + i] = dcell * c[i] * forget * (1 - forget);                                                                               \
            d[2 * n + i] = dcell * in * (1 - cell * cell);                                                                                 \
            d[3 * n + i] = g * t[i] * out * (1 - out);                                                                                     \
            dc[i] = dcell * forget;                                                                                                        \
        }                                                                                                                                  \
    }                                                                                                                                      \
    static void gru_row_##T(T *y, T *a, const T *x, const T *hh, const T *h, int64_t n)                                                    \
    {                                                                                                                                      \
        for (int64_t i = 0; i < 2 * n; i++)                                                                                                \
            a[i] = x[i] + hh[i];                                                                                                           \
        apply_##T(CBK_SIGMOID, a, 2 * n);                                                                                                  \
        for (int64_t i = 2 * n; i < 3 * n; i++)                                                                                            \
            a[i] = x[i] + a[i - 2 * n] * hh[i];                                                                                            \
        apply_##T(CBK_TANH, a + 2 * n, n);                                                                                                 \
        for (int64_t i = 0; i < n; i++)                                                                                                    \
            y[i] = (1 - a[n + i]) * a[2 * n + i] + a[n + i] * h[i];                                                                        \
    }                                                                                                                                      \
    static void gru_row_backward_##T(T *dx, T *dhh, T *dh, const T *dy, const T *a, const T *hh, const T *h, int64_t n)                    \
    {                                                                                                                                      \
        for (int64_t i = 0; i < n; i++) {                                                                                                  \
            T reset = a[i], update = a[n + i], fresh = a[2 * n + i];                                                                       \
            T dfresh = dy[i] * (1 - update) * (1 - fresh * fresh);                                                                         \
            dx[i] = dhh[i] = dfresh * hh[2 * n + i] * reset * (1 - reset);                                                                 \
            dx[n + i] = dhh[n + i] = dy[i] * (h[i] - fresh) * update * (1 - update);                                                       \
            dx[2 * n + i] = dfresh;                                                                                                        \
            dhh[2 * n + i] = dfresh * reset;                                                                                               \
            dh[i] = dy[i] * update;                                                                                                        \
        }                                                                                                                                  \
    }
CELLS(float)
CELLS(double)

/* Row b of an array of `width` columns, or NULL. */
#define ROW(T, p, width) ((p) ? (T *)(uintptr_t)(p) + b * (width) : NULL)

/* Runs call_T for each row b of each dtype. */
#define EACH_ROW(s, cost, call_float, call_double)                                                                                         \
    do {                                                                                                                                   \
        int64_t rows = cb_rehearsing() ? 0 : (s)->b, n = (s)->h;                                                                           \
        int threads = cbk_threads(rows * n * (cost));                                                                                      \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1) schedule(static)") for (int64_t b = 0; b < rows; b++)              \
        {                                                                                                                                  \
            if ((s)->dtype == CB_F64)                                                                                                      \
                call_double;                                                                                                               \
            else                                                                                                                           \
                call_float;                                                                                                                \
        }                                                                                                                                  \
    } while (0)

#define LSTM(T) lstm_row_##T(ROW(T, gates, 4 * n), ROW(T, y, n), ROW(T, c_next, n), ROW(T, t, n), ROW(T, c, n), n)
void cbk_lstm_cell(const cbk_cell *s, void *gates, void *y, void *c_next, void *t, const void *c)
{
    EACH_ROW(s, 40, LSTM(float), LSTM(double));
}

#define LSTM_BACK(T)                                                                                                                       \
    lstm_row_backward_##T(ROW(T, dgates, 4 * n), ROW(T, dc, n), ROW(T, dy, n), ROW(T, dc_next, n), ROW(T, activations, 4 * n),             \
                          ROW(T, c, n), ROW(T, t, n), n)
void cbk_lstm_cell_backward(const cbk_cell *s, void *dgates, void *dc, const void *dy, const void *dc_next, const void *activations,
                            const void *c, const void *t)
{
    EACH_ROW(s, 20, LSTM_BACK(float), LSTM_BACK(double));
}

#define GRU(T) gru_row_##T(ROW(T, y, n), ROW(T, activations, 3 * n), ROW(T, x, 3 * n), ROW(T, hh, 3 * n), ROW(T, h, n), n)
void cbk_gru_cell(const cbk_cell *s, void *y, void *activations, const void *x, const void *hh, const void *h)
{
    EACH_ROW(s, 30, GRU(float), GRU(double));
}

#define GRU_BACK(T)                                                                                                                        \
    gru_row_backward_##T(ROW(T, dx, 3 * n), ROW(T, dhh, 3 * n), ROW(T, dh, n), ROW(T, dy, n), ROW(T, activations, 3 * n),                  \
                         ROW(T, hh, 3 * n), ROW(T, h, n), n)
void cbk_gru_cell_backward(const cbk_cell *s, void *dx, void *dhh, void *dh, const void *dy, const void *activations, const void *hh,
                           const void *h)
{
    EACH_ROW(s, 20, GRU_BACK(float), GRU_BACK(double));
}
