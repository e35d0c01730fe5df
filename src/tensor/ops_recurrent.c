/* ops_recurrent.c: LSTM and GRU over sequences, in torch's conventions.
 *
 * The products with the inputs of all times are one, those with the hidden state one a step; the rest of a step is one fused operation.
 * Letters: T time, B batch, I inputs, H hidden size, L layers, D directions (1 or 2). */
#include "kernels/recurrent.h"
#include "tensor/fused.h"

/* ---- one step ---- */

static void lstm_cell_backward(cb_backward_pass *pass)
{
    const cbk_cell *s = pass->args;
    cb_tensor *dy = cb_contiguous(pass->dy[0]), *dc_next = cb_contiguous(pass->dy[1]);
    cb_tensor *dgates = cb_empty(s->dtype, s->b, 4 * s->h), *dc = cb_empty(s->dtype, s->b, s->h);
    if (!dgates || !dc || (pass->dy[0] && !dy) || (pass->dy[1] && !dc_next))
        return;
    cbk_lstm_cell_backward(s, dgates->data, dc->data, dy ? dy->data : NULL, dc_next ? dc_next->data : NULL, pass->saved[0]->data,
                           pass->saved[1]->data, pass->saved[2]->data);
    pass->dx[0] = dgates;
    pass->dx[1] = dc;
}

static void gru_cell_backward(cb_backward_pass *pass)
{
    const cbk_cell *s = pass->args;
    cb_tensor *dy = cb_contiguous(pass->dy[0]), *dx = cb_empty(s->dtype, s->b, 3 * s->h), *dhh = cb_empty(s->dtype, s->b, 3 * s->h);
    cb_tensor *dh = cb_empty(s->dtype, s->b, s->h);
    if (!dy || !dx || !dhh || !dh)
        return;
    cbk_gru_cell_backward(s, dx->data, dhh->data, dh->data, dy->data, pass->saved[0]->data, pass->saved[1]->data, pass->saved[2]->data);
    pass->dx[0] = dx;
    pass->dx[1] = dhh;
    pass->dx[2] = dh;
}

const cb_op cb_op_lstm_cell = {.name = "lstm_cell", .backward = lstm_cell_backward};
const cb_op cb_op_gru_cell = {.name = "gru_cell", .backward = gru_cell_backward};

/* A state of the recurrence; c is NULL in a GRU. */
typedef struct state {
    cb_tensor *h, *c;
} state;

/* gates (B, 4 H), c (B, H) */
static state lstm_step(cb_tensor *gates, cb_tensor *c)
{
    state failed = {0};
    c = cb_contiguous(c);
    if (!gates || !c)
        return failed;
    cbk_cell s = {.dtype = c->dtype, .b = c->shape[0], .h = c->shape[1]};
    cb_tensor *active = cb_empty_like(gates), *t = cb_empty_like(c), *out[] = {cb_empty_like(c), cb_empty_like(c)};
    if (!active || !t || !out[0] || !out[1] || !cb_copy_into(active, gates))
        return failed;
    cbk_lstm_cell(&s, active->data, out[0]->data, out[1]->data, t->data, c->data);
    cb_tensor *ins[] = {gates, c}, *saves[] = {active, c, t};
    return cb_record(&cb_op_lstm_cell, 2, out, 2, ins, 3, saves, &s, sizeof s) ? (state){out[0], out[1]} : failed;
}

/* x and hh (B, 3 H), h (B, H) */
static state gru_step(cb_tensor *x, cb_tensor *hh, cb_tensor *h)
{
    state failed = {0};
    x = cb_contiguous(x);
    h = cb_contiguous(h);
    if (!x || !hh || !h)
        return failed;
    cbk_cell s = {.dtype = h->dtype, .b = h->shape[0], .h = h->shape[1]};
    cb_tensor *active = cb_empty_like(x), *y = cb_empty_like(h);
    if (!active || !y)
        return failed;
    cbk_gru_cell(&s, y->data, active->data, x->data, hh->data, h->data);
    cb_tensor *ins[] = {x, hh, h}, *saves[] = {active, hh, h};
    return CB_RECORD(&cb_op_gru_cell, y, ins, saves, &s, sizeof s) ? (state){y, NULL} : failed;
}

cb_tensor *cb_gru_cell(cb_tensor *x, cb_tensor *hh, cb_tensor *h)
{
    if (!x || !hh || !h)
        return NULL;
    bool fits = x->ndim == 2 && h->ndim == 2 && cb_same_shape(x, hh) && x->shape[0] == h->shape[0] && x->shape[1] == 3 * h->shape[1] &&
                x->dtype == h->dtype && hh->dtype == h->dtype && (h->dtype == CB_F32 || h->dtype == CB_F64);
    if (!fits) {
        cb_fail(CB_ERR_SHAPE, "gru_cell: gates %s and %s for a state %s, expected (B, 3 H) twice and (B, H), all f32 or f64",
                cb_shape_text(x), cb_shape_text(hh), cb_shape_text(h));
        return NULL;
    }
    return gru_step(x, cb_contiguous(hh), h).h;
}

/* ---- one layer in one direction ---- */

/* What a step makes beside its state lives as long as the tape needs it. */
static bool run_step(cb_tensor *in, const cb_recurrent_weights *w, state *at)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    bool lstm = at->c;
    in = cb_squeeze(in, 0);
    cb_tensor *hh = cb_linear(at->h, w->w_hh, w->b_hh);
    *at = lstm ? lstm_step(cb_add(in, hh), at->c) : gru_step(in, hh, at->h);
    at->h = cb_scope_return(scope, at->h);
    at->c = cb_scope_return(scope, at->c);
    cb_scope_close(scope);
    return at->h && (!lstm || at->c);
}

/* steps[t] = h of time t; `state` moves from the first to the last. */
static bool run_direction(cb_tensor *x, const cb_recurrent_weights *w, bool backwards, state *at, cb_tensor **steps)
{
    int64_t length = x->shape[0], *sizes = cb_alloc((size_t)length * sizeof *sizes);
    cb_tensor *products = cb_linear(x, w->w_ih, w->b_ih);
    for (int64_t t = 0; sizes && t < length; t++)
        sizes[t] = 1;
    bool ok = sizes && products && cb_split(products, 0, (int)length, sizes, steps);
    for (int64_t i = 0; ok && i < length; i++) {
        int64_t t = backwards ? length - 1 - i : i;
        ok = run_step(steps[t], w, at);
        steps[t] = at->h;
    }
    cb_free(sizes);
    return ok;
}

static bool check_weights(const char *op, const cb_recurrent_weights *w, int64_t inputs, int64_t hidden, int64_t gates, cb_dtype dtype)
{
    const cb_tensor *const each[] = {w->w_ih, w->w_hh, w->b_ih, w->b_hh};
    const int64_t columns[] = {inputs, hidden};
    for (int i = 0; i < 4; i++) {
        bool matrix = i < 2;
        if (!each[i] && !matrix)
            continue;
        bool fits = each[i] && each[i]->ndim == (matrix ? 2 : 1) && each[i]->shape[0] == gates * hidden && each[i]->dtype == dtype &&
                    (!matrix || each[i]->shape[1] == columns[i]);
        if (!fits)
            return cb_fail(CB_ERR_SHAPE, "%s: %s %s, expected (%lld%s%.0lld) of x's dtype", op,
                           (const char *[]){"w_ih", "w_hh", "b_ih", "b_hh"}[i], cb_shape_text(each[i]), (long long)(gates * hidden),
                           matrix ? ", " : "", matrix ? (long long)columns[i] : 0LL) == CB_OK;
    }
    return true;
}

/* ---- all layers ---- */

typedef struct call {
    const char *op;
    int layers, directions;
    int64_t gates;
    const cb_recurrent_weights *weights;
    cb_recurrent_options options;
    cb_tensor *h, *c; /* (L D, B, H); c of an LSTM */
} call;

static cb_tensor *first_state(cb_tensor *all, int i)
{
    return cb_squeeze(cb_slice(all, 0, i, i + 1, 1), 0);
}

/* x (T, B, I) -> (T, B, D H); last[] gets the layer's final states. */
static cb_tensor *run_layer(const call *k, cb_tensor *x, int layer, cb_tensor **steps, state *last)
{
    cb_tensor *part[2] = {0};
    for (int d = 0; d < k->directions; d++) {
        int i = layer * k->directions + d;
        if (!check_weights(k->op, &k->weights[i], x->shape[2], k->h->shape[2], k->gates, x->dtype))
            return NULL;
        last[i] = (state){first_state(k->h, i), k->c ? first_state(k->c, i) : NULL};
        if (!last[i].h || (k->c && !last[i].c) || !run_direction(x, &k->weights[i], d == 1, &last[i], steps))
            return NULL;
        part[d] = cb_stack((int)x->shape[0], steps, 0);
    }
    cb_tensor *y = k->directions == 2 ? cb_cat(2, part, -1) : part[0];
    bool drops = k->options.rng && k->options.dropout > 0 && layer + 1 < k->layers;
    return drops ? cb_dropout(y, k->options.dropout, k->options.rng) : y;
}

static bool check_call(const call *k, const cb_tensor *x)
{
    int64_t states = (int64_t)k->layers * k->directions;
    if (x->ndim != 3 || x->shape[0] < 1 || x->shape[0] > INT32_MAX || !cb_dtype_is_float(x->dtype) || k->layers < 1 || k->layers > 1024)
        return cb_fail(CB_ERR_SHAPE, "%s: %s in %d layers, expected floating-point (T, B, I) with a time at least", k->op, cb_shape_text(x),
                       k->layers) == CB_OK;
    const cb_tensor *each[] = {k->h, k->gates == 4 ? k->c : k->h};
    for (int i = 0; i < 2; i++)
        if (!each[i] || each[i]->ndim != 3 || each[i]->shape[0] != states || each[i]->shape[1] != x->shape[1] ||
            each[i]->shape[2] != k->h->shape[2] || (each[i]->dtype != x->dtype && !cb_dtype_is_half(x->dtype)))
            return cb_fail(CB_ERR_SHAPE, "%s: state %s for %s, expected (%lld, %lld, H) of its dtype", k->op, cb_shape_text(each[i]),
                           cb_shape_text(x), (long long)states, (long long)x->shape[1]) == CB_OK;
    return true;
}

/* Outputs (T, B, D H), h (L D, B, H) and, of an LSTM, c. */
static bool run_all(const call *k, cb_tensor *x, cb_tensor **out)
{
    int states = k->layers * k->directions;
    state *last = cb_calloc((size_t)states, sizeof *last);
    cb_tensor **steps = cb_calloc((size_t)(x->shape[0] + states), sizeof *steps);
    cb_tensor *y = last && steps ? x : NULL;
    for (int layer = 0; y && layer < k->layers; layer++)
        y = run_layer(k, y, layer, steps, last);
    for (int part = 0; y && part < (k->c ? 2 : 1); part++) {
        for (int i = 0; i < states; i++)
            steps[i] = part ? last[i].c : last[i].h;
        out[1 + part] = cb_stack(states, steps, 0);
        y = out[1 + part] ? y : NULL;
    }
    out[0] = y;
    cb_free(last);
    cb_free(steps);
    return y;
}

/* Half types: the states of a recurrence are kept in f32. */
static bool run_wide(const call *k, cb_tensor *x, cb_tensor **out)
{
    call wide = *k;
    int count = k->layers * k->directions;
    cb_recurrent_weights *w = cb_calloc((size_t)count, sizeof *w);
    for (int i = 0; w && i < count; i++)
        w[i] = (cb_recurrent_weights){cb_cast(k->weights[i].w_ih, CB_F32), cb_cast(k->weights[i].w_hh, CB_F32),
                                      cb_cast(k->weights[i].b_ih, CB_F32), cb_cast(k->weights[i].b_hh, CB_F32)};
    wide.weights = w;
    wide.h = cb_cast(k->h, CB_F32);
    wide.c = cb_cast(k->c, CB_F32);
    cb_tensor *wide_x = cb_cast(x, CB_F32);
    bool ok = w && wide.h && (!k->c || wide.c) && wide_x && run_all(&wide, wide_x, out);
    for (int i = 0; ok && i < (k->c ? 3 : 2); i++)
        ok = (out[i] = cb_cast(out[i], x->dtype)) && ok;
    cb_free(w);
    return ok;
}

static bool run(const call *k, cb_tensor *x, cb_tensor **out)
{
    return check_call(k, x) && (cb_dtype_is_half(x->dtype) ? run_wide(k, x, out) : run_all(k, x, out));
}

bool cb_lstm_with(cb_tensor *x, int layers, const cb_recurrent_weights *weights, cb_tensor *h, cb_tensor *c, cb_tensor **y, cb_tensor **hn,
                  cb_tensor **cn, cb_recurrent_options options)
{
    cb_tensor *out[3] = {0};
    *y = *hn = *cn = NULL;
    call k = {"lstm", layers, options.bidirectional ? 2 : 1, 4, weights, options, h, c};
    if (!x || !h || !c || !run(&k, x, out))
        return false;
    *y = out[0];
    *hn = out[1];
    *cn = out[2];
    return true;
}

bool cb_gru_with(cb_tensor *x, int layers, const cb_recurrent_weights *weights, cb_tensor *h, cb_tensor **y, cb_tensor **hn,
                 cb_recurrent_options options)
{
    cb_tensor *out[3] = {0};
    *y = *hn = NULL;
    call k = {"gru", layers, options.bidirectional ? 2 : 1, 3, weights, options, h, NULL};
    if (!x || !h || !run(&k, x, out))
        return false;
    *y = out[0];
    *hn = out[1];
    return true;
}
