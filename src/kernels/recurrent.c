/* recurrent.c: LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014, arXiv:1406.1078) in torch's order of gates: the element-wise
 * part of a step, and whole sequences, of which each step is one product with the state and that part. */
#include "kernels/recurrent.h"

#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/kernels.h"
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
    static void add_##T(T *y, const T *x, int64_t n)                                                                                       \
    {                                                                                                                                      \
        for (int64_t i = 0; x && i < n; i++)                                                                                               \
            y[i] += x[i];                                                                                                                  \
    }                                                                                                                                      \
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

/* ---- sequences ---- */

static bool counts(const cbk_recurrence *r, int64_t b, int64_t t)
{
    return !r->lengths || t < r->lengths[b];
}

/* The time before t on the way, or -1: the first state is before it. */
static int64_t time_before(const cbk_recurrence *r, int64_t b, int64_t t)
{
    int64_t before = r->backwards ? t + 1 : t - 1;
    return before >= 0 && before < r->t && counts(r, b, before) ? before : -1;
}

static char *elements(const cbk_recurrence *r, const void *p, int64_t first)
{
    return (char *)(uintptr_t)p + first * (int64_t)cb_dtype_size(r->dtype);
}

/* Row b of time t in an array of times. */
static void *row_at(const cbk_recurrence *r, const void *p, int64_t b, int64_t t, int64_t width)
{
    return p ? elements(r, p, (t * r->time + b * r->row) * width) : NULL;
}

/* Row b of a state (B, H). */
static void *state_at(const cbk_recurrence *r, const void *p, int64_t b)
{
    return p ? elements(r, p, b * r->h) : NULL;
}

static size_t state_bytes(const cbk_recurrence *r)
{
    return (size_t)r->h * cb_dtype_size(r->dtype);
}

static void begin_states(const cbk_recurrence *r, void *states, const void *first)
{
    if (cb_rehearsing())
        return;
    if (first)
        memcpy(states, first, (size_t)r->b * state_bytes(r));
    else
        memset(states, 0, (size_t)r->b * state_bytes(r));
}

/* W_hh (G H, H) as (H, G H): its rows are then read as they lie, step after step. */
static void *turned_weight(const cbk_recurrence *r, int64_t gates)
{
    void *turned = cb_alloc((size_t)(gates * r->h) * state_bytes(r) + 1);
    if (turned && !cb_rehearsing())
        cbk_copy(turned, r->dtype, (int64_t[]){gates * r->h, 1}, r->w_hh, r->dtype, (int64_t[]){1, r->h}, 2,
                 (int64_t[]){r->h, gates * r->h});
    return turned;
}

/* products (B, G H), the rows of which are `row` apart, = states W_hh^T + b_hh */
static bool step_product(const cbk_recurrence *r, const void *states, const void *turned, void *products, int64_t row, int64_t gates)
{
    int64_t n = gates * r->h;
    return cbk_gemm(&(cbk_gemm_args){.m = r->b,
                                     .n = n,
                                     .k = r->h,
                                     .a = states,
                                     .lda = r->h,
                                     .b = turned,
                                     .ldb = n,
                                     .c = products,
                                     .ldc = row * n,
                                     .a_dtype = r->dtype,
                                     .b_dtype = r->dtype,
                                     .c_dtype = r->dtype,
                                     .alpha = 1,
                                     .bias = r->b_hh,
                                     .bias_dtype = r->dtype});
}

/* dstates (B, H) = dproducts of time t (B, G H) W_hh */
static bool step_product_back(const cbk_recurrence *r, const void *dproducts, void *dstates, int64_t t, int64_t gates)
{
    int64_t n = gates * r->h;
    return cbk_gemm(&(cbk_gemm_args){.m = r->b,
                                     .n = r->h,
                                     .k = n,
                                     .a = row_at(r, dproducts, 0, t, n),
                                     .lda = r->row * n,
                                     .b = r->w_hh,
                                     .ldb = r->h,
                                     .c = dstates,
                                     .ldc = r->h,
                                     .a_dtype = r->dtype,
                                     .b_dtype = r->dtype,
                                     .c_dtype = r->dtype,
                                     .alpha = 1});
}

/* Time number i of the way. */
static int64_t time_of(const cbk_recurrence *r, int64_t i)
{
    return r->backwards ? r->t - 1 - i : i;
}

typedef void row_function(const cbk_recurrence *r, const void *arrays, int64_t b, int64_t t);

static void each_row(const cbk_recurrence *r, int64_t cost, int64_t t, row_function *run, const void *arrays)
{
    int64_t rows = cb_rehearsing() ? 0 : r->b;
    int threads = cbk_threads(rows * r->h * cost);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t b = 0; b < rows; b++)
        run(r, arrays, b, t);
}

enum { LSTM_GATES = 4, GRU_GATES = 3 };

/* call(float) or call(double), as the dtype says. */
#define BY_DTYPE(r, call)                                                                                                                  \
    do {                                                                                                                                   \
        if ((r)->dtype == CB_F64) {                                                                                                        \
            call(double);                                                                                                                  \
        } else {                                                                                                                           \
            call(float);                                                                                                                   \
        }                                                                                                                                  \
    } while (0)

typedef struct lstm_step {
    const cbk_lstm_arrays *a;
    void *hh; /* (B, 4 H) products with the states; NULL: they are 0 */
} lstm_step;

static void lstm_row(const cbk_recurrence *r, const void *arrays, int64_t b, int64_t t)
{
    const lstm_step *step = arrays;
    const cbk_lstm_arrays *a = step->a;
    int64_t n = r->h;
    void *y = row_at(r, a->y, b, t, n), *c = state_at(r, a->c, b), *next = a->cells ? row_at(r, a->cells, b, t, n) : c;
    void *squashed = a->squashed ? row_at(r, a->squashed, b, t, n) : y, *gates = row_at(r, a->gates, b, t, LSTM_GATES * n);
    const void *hh = step->hh ? elements(r, step->hh, b * LSTM_GATES * n) : NULL;
    if (!counts(r, b, t)) {
        memset(y, 0, state_bytes(r));
        return;
    }
#define CALL(T)                                                                                                                            \
    add_##T(gates, hh, LSTM_GATES *n);                                                                                                     \
    lstm_row_##T(gates, y, next, squashed, c, n)
    BY_DTYPE(r, CALL);
#undef CALL
    memcpy(state_at(r, a->h, b), y, state_bytes(r));
    if (next != c)
        memcpy(c, next, state_bytes(r));
}

bool cbk_lstm_sequence(const cbk_recurrence *r, const cbk_lstm_arrays *a)
{
    void *turned = turned_weight(r, LSTM_GATES), *hh = cb_alloc((size_t)(r->b * LSTM_GATES) * state_bytes(r) + 1);
    bool ok = turned && hh;
    begin_states(r, a->h, r->h0);
    begin_states(r, a->c, r->c0);
    for (int64_t i = 0; ok && i < r->t; i++) {
        const lstm_step step = {a, i == 0 && !r->h0 && !r->b_hh ? NULL : hh};
        ok = !step.hh || step_product(r, a->h, turned, hh, 1, LSTM_GATES);
        if (ok)
            each_row(r, 40, time_of(r, i), lstm_row, &step);
    }
    cb_free(turned);
    cb_free(hh);
    return ok;
}

/* dh and dc hold what comes from later steps, and then what goes to earlier ones. */
static void lstm_row_back(const cbk_recurrence *r, const void *arrays, int64_t b, int64_t t)
{
    const cbk_lstm_gradients *g = arrays;
    int64_t n = r->h, before = time_before(r, b, t);
    void *d = row_at(r, g->dgates, b, t, LSTM_GATES * n), *dh = state_at(r, g->dh, b), *dc = state_at(r, g->dc, b);
    const void *dy = row_at(r, g->dy, b, t, n), *c = before >= 0 ? row_at(r, g->cells, b, before, n) : state_at(r, g->c0, b);
    const void *gates = row_at(r, g->gates, b, t, LSTM_GATES * n), *squashed = row_at(r, g->squashed, b, t, n);
    if (!counts(r, b, t)) {
        memset(d, 0, LSTM_GATES * state_bytes(r));
        return;
    }
#define CALL(T)                                                                                                                            \
    add_##T(dh, dy, n);                                                                                                                    \
    lstm_row_backward_##T(d, dc, dh, dc, gates, c, squashed, n)
    BY_DTYPE(r, CALL);
#undef CALL
}

/* Of rows that have a step here. */
static void take_back(const cbk_recurrence *r, void *dh, const void *found, int64_t t, bool adds)
{
    for (int64_t b = 0; b < r->b && !cb_rehearsing(); b++) {
        if (!counts(r, b, t))
            continue;
        if (!adds)
            memcpy(state_at(r, dh, b), state_at(r, found, b), state_bytes(r));
        else if (r->dtype == CB_F64)
            add_double(state_at(r, dh, b), state_at(r, found, b), r->h);
        else
            add_float(state_at(r, dh, b), state_at(r, found, b), r->h);
    }
}

bool cbk_lstm_sequence_backward(const cbk_recurrence *r, const cbk_lstm_gradients *g)
{
    size_t bytes = (size_t)r->b * state_bytes(r);
    void *found = cb_alloc(bytes + 1), *zeros = g->c0 ? NULL : cb_calloc(bytes + 1, 1);
    cbk_lstm_gradients own = *g;
    bool ok = found && (own.c0 || zeros);
    own.c0 = g->c0 ? g->c0 : zeros;
    begin_states(r, g->dh, g->dhn);
    begin_states(r, g->dc, g->dcn);
    for (int64_t i = r->t - 1; ok && i >= 0; i--) {
        int64_t t = time_of(r, i);
        each_row(r, 20, t, lstm_row_back, &own);
        ok = step_product_back(r, g->dgates, found, t, LSTM_GATES);
        if (ok)
            take_back(r, g->dh, found, t, false);
    }
    cb_free(found);
    cb_free(zeros);
    return ok;
}

static void gru_row(const cbk_recurrence *r, const void *arrays, int64_t b, int64_t t)
{
    const cbk_gru_arrays *a = arrays;
    int64_t n = r->h;
    void *y = row_at(r, a->y, b, t, n), *h = state_at(r, a->h, b), *gates = row_at(r, a->gates, b, t, GRU_GATES * n);
    const void *x = row_at(r, a->x, b, t, GRU_GATES * n), *hh = row_at(r, a->hh, b, t, GRU_GATES * n);
    if (!counts(r, b, t)) {
        memset(y, 0, state_bytes(r));
        return;
    }
#define CALL(T) gru_row_##T(y, gates, x, hh, h, n)
    BY_DTYPE(r, CALL);
#undef CALL
    memcpy(h, y, state_bytes(r));
}

bool cbk_gru_sequence(const cbk_recurrence *r, const cbk_gru_arrays *a)
{
    void *turned = turned_weight(r, GRU_GATES);
    bool ok = turned;
    begin_states(r, a->h, r->h0);
    for (int64_t i = 0; ok && i < r->t; i++) {
        int64_t t = time_of(r, i);
        ok = step_product(r, a->h, turned, row_at(r, a->hh, 0, t, GRU_GATES * r->h), r->row, GRU_GATES);
        if (ok)
            each_row(r, 30, t, gru_row, a);
    }
    cb_free(turned);
    return ok;
}

/* dh then holds what goes around the product with the state. */
static void gru_row_back(const cbk_recurrence *r, const void *arrays, int64_t b, int64_t t)
{
    const cbk_gru_gradients *g = arrays;
    int64_t n = r->h, wide = GRU_GATES * n, before = time_before(r, b, t);
    void *dx = row_at(r, g->dx, b, t, wide), *dhh = row_at(r, g->dhh, b, t, wide), *dh = state_at(r, g->dh, b);
    const void *dy = row_at(r, g->dy, b, t, n), *h = before >= 0 ? row_at(r, g->y, b, before, n) : state_at(r, g->h0, b);
    const void *gates = row_at(r, g->gates, b, t, wide), *hh = row_at(r, g->hh, b, t, wide);
    if (!counts(r, b, t)) {
        memset(dx, 0, GRU_GATES * state_bytes(r));
        memset(dhh, 0, GRU_GATES * state_bytes(r));
        return;
    }
#define CALL(T)                                                                                                                            \
    add_##T(dh, dy, n);                                                                                                                    \
    gru_row_backward_##T(dx, dhh, dh, dh, gates, hh, h, n)
    BY_DTYPE(r, CALL);
#undef CALL
}

bool cbk_gru_sequence_backward(const cbk_recurrence *r, const cbk_gru_gradients *g)
{
    size_t bytes = (size_t)r->b * state_bytes(r);
    void *found = cb_alloc(bytes + 1), *zeros = g->h0 ? NULL : cb_calloc(bytes + 1, 1);
    cbk_gru_gradients own = *g;
    bool ok = found && (own.h0 || zeros);
    own.h0 = g->h0 ? g->h0 : zeros;
    begin_states(r, g->dh, g->dhn);
    for (int64_t i = r->t - 1; ok && i >= 0; i--) {
        int64_t t = time_of(r, i);
        each_row(r, 20, t, gru_row_back, &own);
        ok = step_product_back(r, g->dhh, found, t, GRU_GATES);
        if (ok)
            take_back(r, g->dh, found, t, true);
    }
    cb_free(found);
    cb_free(zeros);
    return ok;
}

void cbk_states_before(const cbk_recurrence *r, const void *y, void *before)
{
    for (int64_t b = 0; b < r->b && !cb_rehearsing(); b++)
        for (int64_t t = 0; t < r->t; t++) {
            int64_t from = time_before(r, b, t);
            const void *h = from >= 0 ? row_at(r, y, b, from, r->h) : state_at(r, r->h0, b);
            void *to = row_at(r, before, b, t, r->h);
            if (h)
                memcpy(to, h, state_bytes(r));
            else
                memset(to, 0, state_bytes(r));
        }
}
