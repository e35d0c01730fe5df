/* ops_low_rank.c: low-rank updates of which each row of a batch takes its own.
 *
 * Shape letters: P pairs, R rank.  The gradient of x is such an update again, with the factors turned round; those of a pair's factors are
 * products over its rows. */
#include <string.h>

#include "tensor/fused.h"

/* What the rule knows: this, then the scales of the pairs, then the segments. */
typedef struct low_rank_call {
    int pairs, segments;
} low_rank_call;

static const double *scales_of(const low_rank_call *call)
{
    return (const double *)(const void *)(call + 1);
}

static const cb_low_rank_rows *segments_of(const low_rank_call *call)
{
    return (const cb_low_rank_rows *)(const void *)(scales_of(call) + call->pairs);
}

/* How many rows x has as a matrix, of any width. */
static int64_t matrix_rows(const cb_tensor *x)
{
    int64_t rows = 1;
    for (int i = 0; i < x->ndim - 1; i++)
        rows *= x->shape[i];
    return rows;
}

/* ---- gradients ---- */

/* The rows of a pair from a matrix, one segment after another; NULL without an error: it has none. */
static cb_tensor *rows_of_pair(const low_rank_call *call, int pair, cb_tensor *x)
{
    const cb_low_rank_rows *s = segments_of(call);
    cb_tensor **pieces = cb_alloc((size_t)call->segments * sizeof(cb_tensor *)), *rows = NULL;
    int count = 0;
    bool ok = pieces;
    for (int i = 0; ok && i < call->segments; i++)
        if (s[i].pair == pair) {
            pieces[count++] = cb_slice(x, 0, s[i].begin, s[i].end, 1);
            ok = pieces[count - 1];
        }
    if (ok && count)
        rows = count == 1 ? pieces[0] : cb_cat(count, pieces, 0);
    cb_free(pieces);
    return rows;
}

static cb_tensor *matrix_of(cb_tensor *x)
{
    return x ? cb_reshape(x, matrix_rows(x), x->shape[x->ndim - 1]) : NULL;
}

static cb_tensor *input_gradient(const cb_backward_pass *pass, const low_rank_call *call)
{
    cb_low_rank *turned = cb_alloc((size_t)call->pairs * sizeof *turned);
    cb_tensor *dx = turned ? cb_full_nd(pass->input[1].dtype, 0, pass->input[1].ndim, pass->input[1].shape) : NULL;
    for (int p = 0; dx && p < call->pairs; p++) {
        cb_tensor *a = cb_transpose(pass->saved[1 + 2 * p], 0, 1), *b = cb_transpose(pass->saved[2 + 2 * p], 0, 1);
        turned[p] = (cb_low_rank){b, a, scales_of(call)[p]};
    }
    if (dx)
        dx = cb_low_rank_add(dx, pass->dy[0], call->pairs, turned, call->segments, segments_of(call));
    cb_free(turned);
    return dx;
}

static void factor_gradients(const cb_backward_pass *pass, const low_rank_call *call, int p, cb_tensor *x, cb_tensor *dy)
{
    int ia = 2 + 2 * p, ib = ia + 1;
    cb_tensor *a = pass->saved[1 + 2 * p], *b = pass->saved[2 + 2 * p];
    cb_tensor *xs = rows_of_pair(call, p, x), *dys = rows_of_pair(call, p, dy);
    if (!xs || !dys) /* none: its gradients are zero */
        return;
    if (pass->need[ia])
        pass->dx[ia] =
            cb_weight_gradient(cb_linear(dys, cb_transpose(b, 0, 1), NULL), xs, &pass->input[ia], pass->into[ia], scales_of(call)[p]);
    if (pass->need[ib])
        pass->dx[ib] = cb_weight_gradient(dys, cb_linear(xs, a, NULL), &pass->input[ib], pass->into[ib], scales_of(call)[p]);
}

static void low_rank_add_backward(cb_backward_pass *pass)
{
    const low_rank_call *call = pass->args;
    if (pass->need[0])
        pass->dx[0] = pass->dy[0];
    if (pass->need[1])
        pass->dx[1] = input_gradient(pass, call);
    cb_tensor *x = matrix_of(pass->saved[0]), *dy = matrix_of(pass->dy[0]);
    for (int p = 0; x && dy && p < call->pairs; p++)
        if (pass->need[2 + 2 * p] || pass->need[3 + 2 * p])
            factor_gradients(pass, call, p, x, dy);
}

const cb_op cb_op_low_rank_add = {.name = "low_rank_add", .twice = true, .backward = low_rank_add_backward};

/* ---- forward ---- */

static bool check_pair(const cb_tensor *y, const cb_tensor *x, const cb_low_rank *pair)
{
    const cb_tensor *a = pair->a, *b = pair->b;
    bool fits = a->ndim == 2 && b->ndim == 2 && a->shape[1] == x->shape[x->ndim - 1] && b->shape[0] == y->shape[y->ndim - 1] &&
                a->shape[0] == b->shape[1] && cb_dtype_is_float(a->dtype) && cb_dtype_is_float(b->dtype) &&
                (a->dtype == CB_F64) == (x->dtype == CB_F64) && (b->dtype == CB_F64) == (x->dtype == CB_F64);
    return fits ||
           cb_fail(CB_ERR_SHAPE, "low_rank_add: input %s, factors %s and %s, result %s: expected (..., in), (R, in), (out, R), (..., out)",
                   cb_shape_text(x), cb_shape_text(a), cb_shape_text(b), cb_shape_text(y)) == CB_OK;
}

static bool check_result(const cb_tensor *y, const cb_tensor *x)
{
    bool fits = x->ndim >= 1 && y->ndim == x->ndim && y->dtype == x->dtype && cb_dtype_is_float(x->dtype);
    for (int i = 0; fits && i < x->ndim - 1; i++)
        fits = y->shape[i] == x->shape[i];
    return fits || cb_fail(CB_ERR_SHAPE, "low_rank_add: input %s and result %s: expected (..., in) and (..., out) of one dtype",
                           cb_shape_text(x), cb_shape_text(y)) == CB_OK;
}

static bool check_segments(int64_t rows, int pairs, int segments, const cb_low_rank_rows *segment)
{
    for (int i = 0; i < segments; i++)
        if (segment[i].begin < 0 || segment[i].end <= segment[i].begin || segment[i].end > rows || segment[i].pair < 0 ||
            segment[i].pair >= pairs)
            return cb_fail(CB_ERR_ARGUMENT, "low_rank_add: pair %d for rows %lld to %lld, expected one of %d and some of %lld rows",
                           segment[i].pair, (long long)segment[i].begin, (long long)segment[i].end, pairs, (long long)rows) == CB_OK;
    return true;
}

/* Whether two segments have a row together; true as well when there is no memory to see (no error). */
static bool overlap(int64_t rows, int segments, const cb_low_rank_rows *segment)
{
    int64_t end = 0;
    int i = 0;
    for (; i < segments && segment[i].begin >= end; i++)
        end = segment[i].end;
    if (i == segments)
        return false;
    bool *seen = cb_calloc((size_t)rows, sizeof *seen), found = !seen;
    for (i = 0; !found && i < segments; i++)
        for (int64_t k = segment[i].begin; k < segment[i].end; k++) {
            found |= seen[k];
            seen[k] = true;
        }
    cb_free(seen);
    return found;
}

/* A factor as the kernel takes it; thin: in a dtype of its own. */
static cb_tensor *dense(cb_tensor *factor, cb_dtype dtype, bool thin)
{
    factor = cb_detach(factor);
    return cb_contiguous(thin ? factor : cb_cast(factor, dtype));
}

static bool run(cb_tensor *sum, cb_tensor *x, int pairs, const cb_low_rank *pair, int segments, const cb_low_rank_rows *segment)
{
    cbk_low_rank *list = cb_alloc((size_t)pairs * sizeof *list);
    int64_t *rows = cb_calloc((size_t)pairs, sizeof *rows);
    bool ok = list && rows && (x = cb_contiguous(cb_detach(x)));
    for (int i = 0; ok && i < segments; i++)
        rows[segment[i].pair] += segment[i].end - segment[i].begin;
    for (int p = 0; ok && p < pairs; p++) {
        bool thin = cbk_low_rank_is_thin(x->dtype, rows[p], pair[p].a->shape[0]);
        cb_tensor *a = dense(pair[p].a, x->dtype, thin), *b = dense(pair[p].b, x->dtype, thin);
        ok = a && b;
        if (ok)
            list[p] = (cbk_low_rank){a->data, b->data, a->dtype, b->dtype, a->shape[0], pair[p].scale};
    }
    ok = ok && cbk_low_rank_add(&(cbk_low_rank_args){.dtype = x->dtype,
                                                     .y = sum->data,
                                                     .x = x->data,
                                                     .in = x->shape[x->ndim - 1],
                                                     .out = sum->shape[sum->ndim - 1],
                                                     .pair = list,
                                                     .segment = segment,
                                                     .pairs = pairs,
                                                     .segments = segments,
                                                     .overlap = overlap(matrix_rows(x), segments, segment)});
    cb_free(list);
    cb_free(rows);
    return ok;
}

/* Inputs are y, x, a0, b0, a1, ...; saved are x, a0, b0, ... */
static bool record(cb_tensor *sum, cb_tensor *y, cb_tensor *x, int pairs, const cb_low_rank *pair, int segments,
                   const cb_low_rank_rows *segment)
{
    size_t count = 2 + 2 * (size_t)pairs,
           bytes = sizeof(low_rank_call) + (size_t)pairs * sizeof(double) + (size_t)segments * sizeof *segment;
    cb_tensor **inputs = cb_alloc(2 * count * sizeof(cb_tensor *)), **saves = inputs + count;
    low_rank_call *call = cb_alloc(bytes);
    bool ok = inputs && call, factors = false;
    if (ok) {
        *call = (low_rank_call){pairs, segments};
        inputs[0] = y;
        inputs[1] = x;
        for (int p = 0; p < pairs; p++) {
            inputs[2 + 2 * p] = saves[1 + 2 * p] = pair[p].a;
            inputs[3 + 2 * p] = saves[2 + 2 * p] = pair[p].b;
            factors |= pair[p].a->requires_grad || pair[p].b->requires_grad;
            ((double *)(void *)(call + 1))[p] = pair[p].scale;
        }
        saves[0] = factors ? x : NULL;
        memcpy((char *)call + bytes - (size_t)segments * sizeof *segment, segment, (size_t)segments * sizeof *segment);
        ok = cb_record(&cb_op_low_rank_add, 1, &sum, (int)count, inputs, (int)count - 1, saves, call, bytes);
    }
    cb_free(inputs);
    cb_free(call);
    return ok;
}

cb_tensor *cb_low_rank_add(cb_tensor *y, cb_tensor *x, int pairs, const cb_low_rank *pair, int segments, const cb_low_rank_rows *segment)
{
    if (!y || !x || !check_result(y, x))
        return NULL;
    for (int p = 0; p < pairs; p++)
        if (!pair[p].a || !pair[p].b || !check_pair(y, x, &pair[p]))
            return NULL;
    if (!check_segments(matrix_rows(x), pairs, segments, segment))
        return NULL;
    cb_tensor *sum;
    if (y != x && cb_can_overwrite(y) && cb_is_contiguous(y)) {
        sum = cb_will_write("low_rank_add", y) ? cb_alias(y) : NULL;
    } else {
        sum = cb_empty_like(y);
        sum = sum && cb_copy_into(sum, y) ? sum : NULL;
    }
    if (!sum || (segments && !run(sum, x, pairs, pair, segments, segment)))
        return NULL;
    bool will = cb_grad_enabled();
    return !will || record(sum, y, x, pairs, pair, segments, segment) ? sum : NULL;
}
