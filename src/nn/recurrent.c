/* recurrent.c: layers of LSTM or GRU whose matrices host modules.
 *
 * Each matrix is a linear layer of its own: that of the inputs makes the products of all times at once, with whatever modules it hosts.  That
 * of the states comes to one matrix where its modules change the weight or are low-rank updates, and the kernel then goes from step to step;
 * with any other module (dropout on its input, a share of the batch) the steps are gone here, each through the layer with its modules.
 * Letters: B rows, T times, I inputs, H hidden size, D directions. */
#include <stdio.h>

#include "core/rehearsal.h"
#include "nn/matrix.h"

/* ---- steps one by one ---- */

typedef struct walk {
    const cb_recurrent *r;
    const cb_layer *hh;
    const cb_context *ctx;
    cb_tensor *h, *c;
    bool backwards;
} walk;

/* 1 where time t of a row counts, (B, 1). */
static cb_tensor *counting(const cb_tensor *lengths, int64_t t, const cb_tensor *like)
{
    cb_tensor *on = cb_empty(CB_F32, like->shape[0], 1);
    for (int64_t b = 0; on && b < like->shape[0] && !cb_rehearsing(); b++)
        ((float *)on->data)[b] = (double)t < cb_get(lengths, b);
    return on ? cb_cast(on, like->dtype) : NULL;
}

/* The new state where the time counts, else the old one. */
static cb_tensor *kept(cb_tensor *next, cb_tensor *old, cb_tensor *on)
{
    return on ? cb_add(old, cb_mul(on, cb_sub(next, old))) : next;
}

/* products (B, G H) of time t; gives y (B, H). */
static cb_tensor *step(walk *w, cb_tensor *products, int64_t t, cb_tensor *lengths)
{
    cb_context own = *w->ctx;
    own.first_token += t;
    cb_tensor *hh = cb_squeeze(cb_linear_forward(w->hh, cb_unsqueeze(w->h, 1), &own), 1);
    cb_tensor *on = lengths ? counting(lengths, t, w->h) : NULL, *h = NULL, *c = NULL;
    hh = hh ? cb_cast(hh, products->dtype) : NULL;
    if (w->r->gru)
        h = cb_gru_cell(products, hh, w->h);
    else if (!cb_lstm_cell(cb_add(products, hh), w->c, &h, &c))
        return NULL;
    w->h = kept(h, w->h, on);
    w->c = c ? kept(c, w->c, on) : NULL;
    return on ? cb_mul(on, h) : h;
}

/* products (B, T, G H) -> y (B, T, H) */
static cb_tensor *walk_through(walk *w, cb_tensor *products, cb_tensor *lengths)
{
    int64_t times = products->shape[1];
    cb_tensor **y = cb_calloc((size_t)times, sizeof *y), *all = NULL;
    bool ok = y && w->h;
    for (int64_t i = 0; ok && i < times; i++) {
        int64_t t = w->backwards ? times - 1 - i : i;
        y[t] = step(w, cb_contiguous(cb_squeeze(cb_slice(products, 1, t, t + 1, 1), 1)), t, lengths);
        ok = y[t];
    }
    if (ok)
        all = cb_stack((int)times, y, 1);
    cb_free(y);
    return all;
}

/* ---- one direction ---- */

static cb_tensor *direction(const cb_recurrent *r, int i, cb_tensor *x, bool backwards, cb_tensor *lengths, const cb_context *ctx)
{
    cb_tensor *products = cb_linear_forward(r->ih[i], x, ctx), *weight, *bias, *y = NULL, *hn, *cn;
    if (!products)
        return NULL;
    cb_dtype dtype = products->dtype == CB_F64 ? CB_F64 : CB_F32; /* states of a recurrence are kept in f32 */
    products = cb_cast(products, dtype);
    int plain = cb_layer_matrix(r->hh[i], ctx, dtype, &weight, &bias);
    if (!products || plain < 0)
        return NULL;
    if (!plain) {
        cb_tensor *zeros = cb_zeros(dtype, x->shape[0], r->hidden);
        walk w = {.r = r, .hh = r->hh[i], .ctx = ctx, .h = zeros, .c = r->gru ? NULL : zeros, .backwards = backwards};
        return walk_through(&w, products, lengths);
    }
    cb_sequence_options o = {.lengths = lengths, .backwards = backwards, .batch_first = true};
    bool ok = r->gru ? cb_gru_sequence_with(products, weight, bias, NULL, &y, &hn, o)
                     : cb_lstm_sequence_with(products, weight, bias, NULL, NULL, &y, &hn, &cn, o);
    return ok ? y : NULL;
}

/* In a scope of its own: without a tape the products of all times are gone when it ends. */
static cb_tensor *scoped_direction(const cb_recurrent *r, int i, cb_tensor *x, bool backwards, cb_tensor *lengths, const cb_context *ctx)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *y = direction(r, i, x, backwards, lengths, ctx);
    y = cb_scope_return(scope, y && y->dtype != x->dtype ? cb_cast(y, x->dtype) : y);
    cb_scope_close(scope);
    return y;
}

/* ---- all layers ---- */

cb_tensor *cb_recurrent_forward(const cb_recurrent *r, cb_tensor *x, cb_tensor *lengths, const cb_context *ctx)
{
    int directions = r->bidirectional ? 2 : 1;
    for (int layer = 0; x && layer < r->layers; layer++) {
        cb_tensor *part[2] = {0};
        for (int d = 0; d < directions; d++)
            if (!(part[d] = scoped_direction(r, layer * directions + d, x, d == 1, lengths, ctx)))
                return NULL;
        x = directions == 2 ? cb_cat(2, part, -1) : part[0];
        bool drops = ctx->training && ctx->rng && r->dropout > 0 && layer + 1 < r->layers;
        x = drops ? cb_dropout(x, r->dropout, ctx->rng) : x;
    }
    return x;
}

void cb_recurrent_name(const cb_recurrent *r, int index, bool states, char *name, size_t size)
{
    int directions = r->bidirectional ? 2 : 1;
    snprintf(name, size, "weight_%s_l%d%s", states ? "hh" : "ih", index / directions, index % directions ? "_reverse" : "");
}
