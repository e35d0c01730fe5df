/* ops_recurrent.c: LSTM and GRU over sequences, in torch's conventions.
 *
 * The products with the inputs of all times are one; what is left of a direction is one operation, whose kernel goes from step to step.  The
 * cells are for those who go from step to step themselves.
 * Letters: T time, B batch, I inputs, H hidden size, L layers, D directions (1 or 2). */
#include "kernels/recurrent.h"
#include "tensor/fused.h"

enum { LSTM_GATES = 4, GRU_GATES = 3 };

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

/* ---- public cells ---- */

static bool check_cell(const char *op, const cb_tensor *gates, const cb_tensor *h, int64_t count)
{
    bool fits = gates->ndim == 2 && h->ndim == 2 && gates->shape[0] == h->shape[0] && gates->shape[1] == count * h->shape[1] &&
                gates->dtype == h->dtype && (h->dtype == CB_F32 || h->dtype == CB_F64);
    return fits || cb_fail(CB_ERR_SHAPE, "%s: gates %s for state %s, expected (B, %lld H) and (B, H), f32 or f64", op, cb_shape_text(gates),
                           cb_shape_text(h), (long long)count) == CB_OK;
}

bool cb_lstm_cell(cb_tensor *gates, cb_tensor *c, cb_tensor **h_next, cb_tensor **c_next)
{
    *h_next = *c_next = NULL;
    if (!gates || !c || !check_cell("lstm_cell", gates, c, LSTM_GATES))
        return false;
    state next = lstm_step(gates, c);
    *h_next = next.h;
    *c_next = next.c;
    return next.h;
}

cb_tensor *cb_gru_cell(cb_tensor *x, cb_tensor *hh, cb_tensor *h)
{
    if (!x || !hh || !h || !check_cell("gru_cell", x, h, GRU_GATES) || !check_cell("gru_cell", hh, h, GRU_GATES))
        return NULL;
    return gru_step(x, cb_contiguous(hh), h).h;
}

/* ---- a sequence in one direction ---- */

/* What the rules need beside tensors. */
typedef struct sequence_arguments {
    int64_t b, t, h, time, row;
    bool backwards;
} sequence_arguments;

/* Inputs of the ops: x, w_hh, b_hh, h, c (the last three may be NULL); lengths are saved. */
enum { IN_X, IN_W, IN_B, IN_H, IN_C, SEQUENCE_INPUTS };
enum { SAVED_W, SAVED_H, SAVED_C, SAVED_LENGTHS, SAVED_Y, SAVED_GATES, SAVED_CELLS, SAVED_SQUASHED, SAVED_COUNT, SAVED_HH = SAVED_CELLS };

static void *data_of(cb_tensor *t)
{
    return t ? t->data : NULL;
}

static cbk_recurrence recurrence_of(const sequence_arguments *a, cb_dtype dtype, cb_tensor *lengths, cb_tensor *w)
{
    return (cbk_recurrence){.dtype = dtype,
                            .b = a->b,
                            .t = a->t,
                            .h = a->h,
                            .time = a->time,
                            .row = a->row,
                            .backwards = a->backwards,
                            .lengths = data_of(lengths),
                            .w_hh = data_of(w)};
}

/* Gradients of W_hh and b_hh, of the products with the states d (times, gates H). */
static void weight_gradients(cb_backward_pass *pass, const cbk_recurrence *r, cb_tensor *d)
{
    cb_tensor *y = pass->saved[SAVED_Y], *rows = cb_reshape(d, r->t * r->b, -1);
    cb_tensor *before = pass->need[IN_W] ? cb_empty(r->dtype, r->t * r->b, r->h) : NULL;
    if (before) {
        cbk_states_before(r, y->data, before->data);
        pass->dx[IN_W] = cb_weight_gradient(rows, before, &pass->input[IN_W], NULL, 1);
    }
    if (pass->need[IN_B])
        pass->dx[IN_B] = cb_sum(rows, 0, false);
}

/* Gradients that came in, as kernels take them; false on failure. */
static bool take_gradients(cb_backward_pass *pass, int count, cb_tensor **dy)
{
    for (int i = 0; i < count; i++)
        if (pass->dy[i] && !(dy[i] = cb_contiguous(pass->dy[i])))
            return false;
    return true;
}

static void lstm_sequence_backward(cb_backward_pass *pass)
{
    const sequence_arguments *a = pass->args;
    cb_tensor *const *saved = pass->saved, *dy[3] = {0}, *gates = saved[SAVED_GATES];
    cbk_recurrence r = recurrence_of(a, gates->dtype, saved[SAVED_LENGTHS], saved[SAVED_W]);
    cb_tensor *dgates = cb_empty_like(gates), *dh = cb_empty(r.dtype, a->b, a->h), *dc = cb_empty(r.dtype, a->b, a->h);
    if (!take_gradients(pass, 3, dy) || !dgates || !dh || !dc)
        return;
    r.h0 = data_of(saved[SAVED_H]);
    cbk_lstm_gradients g = {.dgates = dgates->data,
                            .dh = dh->data,
                            .dc = dc->data,
                            .dy = data_of(dy[0]),
                            .dhn = data_of(dy[1]),
                            .dcn = data_of(dy[2]),
                            .gates = gates->data,
                            .cells = saved[SAVED_CELLS]->data,
                            .squashed = saved[SAVED_SQUASHED]->data,
                            .c0 = data_of(saved[SAVED_C])};
    if (!cbk_lstm_sequence_backward(&r, &g))
        return;
    pass->dx[IN_X] = dgates;
    pass->dx[IN_H] = pass->need[IN_H] ? dh : NULL;
    pass->dx[IN_C] = pass->need[IN_C] ? dc : NULL;
    weight_gradients(pass, &r, dgates);
}

static void gru_sequence_backward(cb_backward_pass *pass)
{
    const sequence_arguments *a = pass->args;
    cb_tensor *const *saved = pass->saved, *dy[2] = {0}, *gates = saved[SAVED_GATES];
    cbk_recurrence r = recurrence_of(a, gates->dtype, saved[SAVED_LENGTHS], saved[SAVED_W]);
    cb_tensor *dx = cb_empty_like(gates), *dhh = cb_empty_like(gates), *dh = cb_empty(r.dtype, a->b, a->h);
    if (!take_gradients(pass, 2, dy) || !dx || !dhh || !dh)
        return;
    r.h0 = data_of(saved[SAVED_H]);
    cbk_gru_gradients g = {.dx = dx->data,
                           .dhh = dhh->data,
                           .dh = dh->data,
                           .dy = data_of(dy[0]),
                           .dhn = data_of(dy[1]),
                           .gates = gates->data,
                           .hh = saved[SAVED_HH]->data,
                           .y = saved[SAVED_Y]->data,
                           .h0 = r.h0};
    if (!cbk_gru_sequence_backward(&r, &g))
        return;
    pass->dx[IN_X] = dx;
    pass->dx[IN_H] = pass->need[IN_H] ? dh : NULL;
    weight_gradients(pass, &r, dhh);
}

const cb_op cb_op_lstm_sequence = {.name = "lstm_sequence", .backward = lstm_sequence_backward};
const cb_op cb_op_gru_sequence = {.name = "gru_sequence", .backward = gru_sequence_backward};

static bool is_state(const cb_tensor *t, const cb_tensor *x, int64_t rows, int64_t h)
{
    return !t || (t->ndim == 2 && t->shape[0] == rows && t->shape[1] == h && t->dtype == x->dtype);
}

static bool check_sequence(const char *op, cb_tensor *const *in, int64_t gates, const cb_sequence_options *o)
{
    const cb_tensor *x = in[IN_X], *w = in[IN_W], *b = in[IN_B], *lengths = o->lengths;
    int64_t h = w->ndim == 2 ? w->shape[1] : -1, rows = x->ndim == 3 ? x->shape[o->batch_first ? 0 : 1] : -1;
    bool fits = h >= 0 && rows >= 0 && (x->dtype == CB_F32 || x->dtype == CB_F64) && w->dtype == x->dtype && w->shape[0] == gates * h &&
                x->shape[2] == gates * h && (!b || (b->ndim == 1 && b->shape[0] == gates * h && b->dtype == x->dtype)) &&
                is_state(in[IN_H], x, rows, h) && is_state(in[IN_C], x, rows, h);
    if (!fits)
        return cb_fail(CB_ERR_SHAPE,
                       "%s: products %s, w_hh %s, b_hh %s, h %s, c %s, expected (T, B, %lld H), (%lld H, H), (%lld H) and (B, H), all f32 "
                       "or f64",
                       op, cb_shape_text(x), cb_shape_text(w), b ? cb_shape_text(b) : "none", in[IN_H] ? cb_shape_text(in[IN_H]) : "none",
                       in[IN_C] ? cb_shape_text(in[IN_C]) : "none", (long long)gates, (long long)gates, (long long)gates) == CB_OK;
    bool ints = !lengths || (lengths->ndim == 1 && lengths->shape[0] == rows && (lengths->dtype == CB_I32 || lengths->dtype == CB_I64));
    return ints || cb_fail(CB_ERR_SHAPE, "%s: lengths %s, expected integers (%lld)", op, cb_shape_text(lengths), (long long)rows) == CB_OK;
}

/* (B) i64, checked; NULL where all of every row counts. */
static bool take_lengths(const char *op, cb_tensor *lengths, int64_t most, cb_tensor **out)
{
    *out = NULL;
    if (!lengths)
        return true;
    bool all = true;
    for (int64_t b = 0; b < lengths->count && !cb_rehearsing(); b++) {
        double n = cb_get(lengths, b);
        if (n < 0 || n > (double)most)
            return cb_fail(CB_ERR_ARGUMENT, "%s: length %.0f of row %lld, expected 0 to %lld", op, n, (long long)b, (long long)most) ==
                   CB_OK;
        all = all && n == (double)most;
    }
    return all || (*out = cb_contiguous(cb_cast(lengths, CB_I64)));
}

typedef struct sequence {
    cb_tensor *in[SEQUENCE_INPUTS], *lengths;
    sequence_arguments a;
    bool learns;
} sequence;

static bool sequence_begin(sequence *s, const char *op, int64_t gates, const cb_sequence_options *o)
{
    if (!check_sequence(op, s->in, gates, o))
        return false;
    const cb_tensor *x = s->in[IN_X];
    int64_t rows = x->shape[o->batch_first ? 0 : 1], times = x->shape[o->batch_first ? 1 : 0];
    s->a = (sequence_arguments){rows, times, s->in[IN_W]->shape[1], o->batch_first ? 1 : rows, o->batch_first ? times : 1, o->backwards};
    s->learns = cb_will_record(SEQUENCE_INPUTS, s->in);
    for (int i = 0; i < SEQUENCE_INPUTS; i++)
        if (s->in[i] && !(s->in[i] = cb_contiguous(s->in[i])))
            return false;
    return take_lengths(op, o->lengths, times, &s->lengths);
}

static cbk_recurrence sequence_kernel(const sequence *s)
{
    cbk_recurrence r = recurrence_of(&s->a, s->in[IN_X]->dtype, s->lengths, s->in[IN_W]);
    r.b_hh = data_of(s->in[IN_B]);
    r.h0 = data_of(s->in[IN_H]);
    r.c0 = data_of(s->in[IN_C]);
    return r;
}

/* (T, B, width) or (B, T, width), as x is. */
static cb_tensor *times_of(const sequence *s, int64_t width)
{
    const cb_tensor *x = s->in[IN_X];
    return cb_empty(x->dtype, x->shape[0], x->shape[1], width);
}

static bool sequence_end(const cb_op *op, const sequence *s, int outputs, cb_tensor *const *out, cb_tensor *const *saved)
{
    return cb_record(op, outputs, out, SEQUENCE_INPUTS, s->in, SAVED_COUNT, saved, &s->a, sizeof s->a);
}

static bool lstm_sequence(sequence *s, cb_tensor **out)
{
    cbk_recurrence r = sequence_kernel(s);
    cb_tensor *gates = cb_empty_like(s->in[IN_X]), *cells = s->learns ? times_of(s, r.h) : NULL,
              *squashed = s->learns ? times_of(s, r.h) : NULL;
    out[0] = times_of(s, r.h);
    out[1] = cb_empty(r.dtype, r.b, r.h);
    out[2] = cb_empty(r.dtype, r.b, r.h);
    if (!cb_ok() || !cb_copy_into(gates, s->in[IN_X]))
        return false;
    const cbk_lstm_arrays arrays = {gates->data, out[0]->data, data_of(cells), data_of(squashed), out[1]->data, out[2]->data};
    cb_tensor *saved[] = {s->in[IN_W], s->in[IN_H], s->in[IN_C], s->lengths, out[0], gates, cells, squashed};
    return cbk_lstm_sequence(&r, &arrays) && sequence_end(&cb_op_lstm_sequence, s, 3, out, saved);
}

static bool gru_sequence(sequence *s, cb_tensor **out)
{
    cbk_recurrence r = sequence_kernel(s);
    cb_tensor *gates = cb_empty_like(s->in[IN_X]), *hh = cb_empty_like(s->in[IN_X]);
    out[0] = times_of(s, r.h);
    out[1] = cb_empty(r.dtype, r.b, r.h);
    if (!cb_ok())
        return false;
    const cbk_gru_arrays arrays = {s->in[IN_X]->data, hh->data, gates->data, out[0]->data, out[1]->data};
    cb_tensor *saved[] = {s->in[IN_W], s->in[IN_H], NULL, s->lengths, out[0], gates, hh, NULL};
    return cbk_gru_sequence(&r, &arrays) && sequence_end(&cb_op_gru_sequence, s, 2, out, saved);
}

/* Runs it in a scope of its own: without a tape nothing but the outputs is left. */
static bool run_sequence(const char *op, int64_t gates, sequence *s, const cb_sequence_options *o, cb_tensor **out)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    bool ok = sequence_begin(s, op, gates, o) && (gates == LSTM_GATES ? lstm_sequence : gru_sequence)(s, out);
    for (int i = 0; i < 3; i++)
        out[i] = ok && out[i] ? cb_scope_return(scope, out[i]) : NULL;
    cb_scope_close(scope);
    return out[0] && out[1] && (out[2] || gates != LSTM_GATES);
}

bool cb_lstm_sequence_with(cb_tensor *x, cb_tensor *w_hh, cb_tensor *b_hh, cb_tensor *h, cb_tensor *c, cb_tensor **y, cb_tensor **hn,
                           cb_tensor **cn, cb_sequence_options options)
{
    sequence s = {.in = {x, w_hh, b_hh, h, c}};
    cb_tensor *out[3] = {0};
    *y = *hn = *cn = NULL;
    if (!x || !w_hh || !run_sequence("lstm_sequence", LSTM_GATES, &s, &options, out))
        return false;
    *y = out[0];
    *hn = out[1];
    *cn = out[2];
    return true;
}

bool cb_gru_sequence_with(cb_tensor *x, cb_tensor *w_hh, cb_tensor *b_hh, cb_tensor *h, cb_tensor **y, cb_tensor **hn,
                          cb_sequence_options options)
{
    sequence s = {.in = {x, w_hh, b_hh, h, NULL}};
    cb_tensor *out[3] = {0};
    *y = *hn = NULL;
    if (!x || !w_hh || !run_sequence("gru_sequence", GRU_GATES, &s, &options, out))
        return false;
    *y = out[0];
    *hn = out[1];
    return true;
}

/* ---- one layer in one direction ---- */

/* y (T, B, H); `at` moves from the first state to the last.  The products of the inputs live as long as the tape needs them. */
static cb_tensor *run_direction(cb_tensor *x, const cb_recurrent_weights *w, const cb_sequence_options *o, state *at)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *y = NULL, *products = scope ? cb_linear(x, w->w_ih, w->b_ih) : NULL;
    bool ok = products && (at->c ? cb_lstm_sequence_with(products, w->w_hh, w->b_hh, at->h, at->c, &y, &at->h, &at->c, *o)
                                 : cb_gru_sequence_with(products, w->w_hh, w->b_hh, at->h, &y, &at->h, *o));
    if (!scope)
        return NULL;
    y = ok ? cb_scope_return(scope, y) : NULL;
    at->h = ok ? cb_scope_return(scope, at->h) : NULL;
    at->c = ok && at->c ? cb_scope_return(scope, at->c) : NULL;
    cb_scope_close(scope);
    return y;
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
static cb_tensor *run_layer(const call *k, cb_tensor *x, int layer, state *last)
{
    cb_tensor *part[2] = {0};
    for (int d = 0; d < k->directions; d++) {
        int i = layer * k->directions + d;
        if (!check_weights(k->op, &k->weights[i], x->shape[2], k->h->shape[2], k->gates, x->dtype))
            return NULL;
        last[i] = (state){first_state(k->h, i), k->c ? first_state(k->c, i) : NULL};
        cb_sequence_options o = {.backwards = d == 1, .lengths = k->options.lengths};
        bool given = last[i].h && (!k->c || last[i].c);
        if (!given || !(part[d] = run_direction(x, &k->weights[i], &o, &last[i])))
            return NULL;
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
    cb_tensor **each = cb_calloc((size_t)states, sizeof *each);
    cb_tensor *y = last && each ? x : NULL;
    for (int layer = 0; y && layer < k->layers; layer++)
        y = run_layer(k, y, layer, last);
    for (int part = 0; y && part < (k->c ? 2 : 1); part++) {
        for (int i = 0; i < states; i++)
            each[i] = part ? last[i].c : last[i].h;
        out[1 + part] = cb_stack(states, each, 0);
        y = out[1 + part] ? y : NULL;
    }
    out[0] = y;
    cb_free(last);
    cb_free(each);
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
