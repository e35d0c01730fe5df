/* ops_matmul.c: products: matmul over batches, linear and the accumulating low-rank update.
 *
 * All of them are cbk_gemm() on the operands where they lie: a transposed or batch-strided view is a flag or a leading dimension, never a
 * copy.  A gradient that already exists is added to by the product itself.  Shape letters: M rows, N columns, K inner size. */
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/fused.h"

/* ---- matrices in tensors ---- */

/* The last two dimensions of a tensor as GEMM sees them. */
typedef struct matrix {
    const void *data;
    cb_dtype dtype;
    int64_t rows, columns, ld;
    bool transposed; /* stored column by column */
} matrix;

/* False when neither of the last two dimensions has unit stride. */
static bool as_matrix(const cb_tensor *t, matrix *m)
{
    int64_t r = t->shape[t->ndim - 2], c = t->shape[t->ndim - 1], sr = t->stride[t->ndim - 2], sc = t->stride[t->ndim - 1];
    *m = (matrix){.data = t->data, .dtype = t->dtype, .rows = r, .columns = c};
    if ((sc == 1 || c <= 1) && (sr >= c || r <= 1)) {
        m->ld = r <= 1 ? (c > 0 ? c : 1) : sr;
        return true;
    }
    if ((sr == 1 || r <= 1) && (sc >= r || c <= 1)) {
        m->ld = c <= 1 ? (r > 0 ? r : 1) : sc;
        m->transposed = true;
        return true;
    }
    return false;
}

/* x (..., K) as an (M, K) matrix without a copy, if its leading dimensions collapse. */
static bool flatten_rows(const cb_tensor *x, matrix *m)
{
    int64_t columns = x->shape[x->ndim - 1], rows = 1;
    for (int i = 0; i < x->ndim - 1; i++)
        rows *= x->shape[i];
    *m = (matrix){.data = x->data, .dtype = x->dtype, .rows = rows, .columns = columns, .ld = columns > 0 ? columns : 1};
    if (cb_is_contiguous(x))
        return true;
    if (x->ndim == 2)
        return as_matrix(x, m);
    return false;
}

static cb_tensor *dense_rows(cb_tensor *x, matrix *m)
{
    if (x && !flatten_rows(x, m)) {
        x = cb_contiguous(x);
        if (x)
            flatten_rows(x, m);
    }
    return x;
}

/* C (M, N) at `c` = alpha a b + beta C; b given as (K, N). */
static bool product(const matrix *a, const matrix *b, void *c, cb_dtype c_dtype, int64_t ldc, double alpha, double beta,
                    const cb_tensor *bias)
{
    cbk_gemm_args g = {.m = a->rows,
                       .n = b->columns,
                       .k = a->columns,
                       .a = a->data,
                       .lda = a->ld,
                       .transa = a->transposed,
                       .a_dtype = a->dtype,
                       .b = b->data,
                       .ldb = b->ld,
                       .transb = b->transposed,
                       .b_dtype = b->dtype,
                       .c = c,
                       .ldc = ldc,
                       .c_dtype = c_dtype,
                       .alpha = alpha,
                       .beta = beta,
                       .bias = bias ? bias->data : NULL,
                       .bias_dtype = bias ? bias->dtype : CB_F32,
                       .batch = 1};
    return cbk_gemm(&g);
}

static matrix turned(matrix m)
{
    int64_t rows = m.rows;
    m.rows = m.columns;
    m.columns = rows;
    m.transposed = !m.transposed;
    return m;
}

/* ---- linear ---- */

/* A frozen f32 weight of a bf16 pass, or the other way about, is converted for the call when it is small; the kernel itself takes mixed
 * operands block by block. */
static cb_tensor *in_dtype(cb_tensor *w, cb_dtype dtype)
{
    return w->dtype == dtype ? w : cb_detach(cb_cast(cb_detach(w), dtype));
}

static bool check_linear(const char *op, const cb_tensor *x, const cb_tensor *w, const cb_tensor *bias)
{
    if (x->ndim < 1 || w->ndim != 2 || x->shape[x->ndim - 1] != w->shape[1]) {
        cb_fail(CB_ERR_SHAPE, "%s: input %s and weight %s: expected (..., in) and (out, in)", op, cb_shape_text(x), cb_shape_text(w));
        return false;
    }
    if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0])) {
        cb_fail(CB_ERR_SHAPE, "%s: bias %s and weight %s: expected (out)", op, cb_shape_text(bias), cb_shape_text(w));
        return false;
    }
    bool quantized = cb_dtype_is_quantized(w->dtype);
    if (!cb_dtype_is_float(x->dtype) || (!quantized && (!cb_dtype_is_float(w->dtype) || (x->dtype == CB_F64) != (w->dtype == CB_F64)))) {
        cb_fail(CB_ERR_SHAPE, "%s: input %s and weight %s: expected floating-point types of one family", op, cb_shape_text(x),
                cb_shape_text(w));
        return false;
    }
    return true;
}

/* The weight's matrix in a dtype that multiplies x: itself, or a converted copy held by the open scope.  Trained f32 weights of a bf16 pass are
 * rounded to bf16 here, as autocast does.  Quantised ones are left to the kernel, but for gradient checks. */
static bool weight_matrix(cb_tensor *w, cb_dtype x_dtype, matrix *m)
{
    bool quantized = cb_dtype_is_quantized(w->dtype);
    bool convert = w->dtype != x_dtype && (w->dtype == CB_F32 || (quantized ? x_dtype == CB_F64 : w->count <= 1 << 16));
    cb_tensor *t = convert ? in_dtype(w, x_dtype) : w;
    if (t && !as_matrix(t, m)) {
        t = cb_contiguous(t);
        if (t)
            as_matrix(t, m);
    }
    return t;
}

/* dx (+)= alpha dy w */
static cb_tensor *input_gradient(cb_tensor *dy, cb_tensor *w, const cb_edge *input, cb_tensor *into, double alpha)
{
    if (cb_grad_enabled())
        return cb_scale(cb_linear(dy, cb_transpose(cb_dtype_is_quantized(w->dtype) ? cb_cast(w, dy->dtype) : w, 0, 1), NULL), alpha);
    matrix g, m;
    dy = dense_rows(dy, &g);
    cb_tensor *dx = into ? into : cb_empty_nd(input->dtype, input->ndim, input->shape);
    if (!dy || !dx || !weight_matrix(w, dy->dtype, &m) || (into && !cb_will_write("linear", into)))
        return NULL;
    int64_t columns = input->shape[input->ndim - 1];
    return product(&g, &m, dx->data, dx->dtype, columns > 0 ? columns : 1, alpha, into ? 1 : 0, NULL) ? dx : NULL;
}

/* dw (+)= alpha dy^T x, in w's own dtype: f32 for trained weights, whatever the pass computes in */
cb_tensor *cb_weight_gradient(cb_tensor *dy, cb_tensor *x, const cb_edge *weight, cb_tensor *into, double alpha)
{
    int64_t out = weight->shape[0], in = weight->shape[1];
    if (cb_grad_enabled()) {
        cb_tensor *g = cb_reshape(dy, -1, out), *v = cb_reshape(x, -1, in);
        return cb_cast(cb_scale(cb_matmul(cb_transpose(g, 0, 1), v), alpha), weight->dtype);
    }
    matrix g, v;
    dy = dense_rows(dy, &g);
    x = dense_rows(x, &v);
    cb_tensor *dw = into ? into : cb_empty_nd(weight->dtype, 2, weight->shape);
    if (!dy || !x || !dw || (into && !cb_will_write("linear", into)))
        return NULL;
    g = turned(g);
    return product(&g, &v, dw->data, dw->dtype, in > 0 ? in : 1, alpha, into ? 1 : 0, NULL) ? dw : NULL;
}

static cb_tensor *bias_gradient(cb_tensor *dy, const cb_edge *bias)
{
    int64_t out = bias->shape[0];
    return cb_cast(cb_sum(cb_reshape(dy, out ? dy->count / out : 0, out), 0, false), bias->dtype);
}

static void linear_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0], *x = pass->saved[0], *w = pass->saved[1];
    if (pass->need[0])
        pass->dx[0] = input_gradient(dy, w, &pass->input[0], pass->into[0], 1);
    if (pass->need[1])
        pass->dx[1] = cb_weight_gradient(dy, x, &pass->input[1], pass->into[1], 1);
    if (pass->need[2])
        pass->dx[2] = bias_gradient(dy, &pass->input[2]);
}

const cb_op cb_op_linear = {.name = "linear", .twice = true, .backward = linear_backward};

/* Records y as cb_linear()'s result.  A frozen weight needs no x, a frozen x no w: saves only what the rule will read. */
static cb_tensor *record_linear(cb_tensor *y, cb_tensor *x, cb_tensor *w, cb_tensor *bias)
{
    cb_tensor *ins[] = {x, w, bias};
    cb_tensor *saves[] = {w->requires_grad ? x : NULL, x->requires_grad ? w : NULL};
    return y && CB_RECORD(&cb_op_linear, y, ins, saves, NULL, 0) ? y : NULL;
}

/* An empty tensor for the result, (..., out). */
static cb_tensor *linear_result(const cb_tensor *x, const cb_tensor *w)
{
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = w->shape[0];
    return cb_empty_nd(x->dtype, x->ndim, shape);
}

cb_tensor *cb_linear_unread(cb_tensor *x, cb_tensor *w, cb_tensor *bias)
{
    if (!x || !w || !check_linear("linear_unread", x, w, bias))
        return NULL;
    cb_tensor *y = linear_result(x, w);
    if (!y)
        return NULL;
    memset(y->data, 0, (size_t)y->count * cb_dtype_size(y->dtype));
    return record_linear(y, x, w, bias);
}

cb_tensor *cb_linear(cb_tensor *x, cb_tensor *w, cb_tensor *bias)
{
    if (!x || !w || !check_linear("linear", x, w, bias))
        return NULL;
    cb_tensor *y = linear_result(x, w);
    matrix a, b;
    cb_tensor *rows = dense_rows(x, &a), *dense_bias = cb_contiguous(bias);
    if (!y || !rows || (bias && !dense_bias) || !weight_matrix(w, x->dtype, &b))
        return NULL;
    b = turned(b);
    if (!product(&a, &b, y->data, y->dtype, w->shape[0] > 0 ? w->shape[0] : 1, 1, 0, dense_bias))
        return NULL;
    return record_linear(y, x, w, bias);
}

cb_tensor *cb_linear_t(cb_tensor *x, cb_tensor *w, cb_tensor *bias)
{
    return x && w ? cb_linear(x, cb_transpose(w, 0, 1), bias) : NULL;
}

/* ---- linear_add ---- */

static void linear_add_backward(cb_backward_pass *pass)
{
    double scale = *(const double *)pass->args;
    cb_tensor *dy = pass->dy[0], *x = pass->saved[0], *w = pass->saved[1];
    if (pass->need[0])
        pass->dx[0] = dy;
    if (pass->need[1])
        pass->dx[1] = input_gradient(dy, w, &pass->input[1], pass->into[1], scale);
    if (pass->need[2])
        pass->dx[2] = cb_weight_gradient(dy, x, &pass->input[2], pass->into[2], scale);
}

const cb_op cb_op_linear_add = {.name = "linear_add", .twice = true, .backward = linear_add_backward};

cb_tensor *cb_linear_add(cb_tensor *y, cb_tensor *x, cb_tensor *w, double scale)
{
    if (!y || !x || !w || !check_linear("linear_add", x, w, NULL))
        return NULL;
    int64_t out = w->shape[0];
    bool fits = y->ndim == x->ndim && y->dtype == x->dtype && y->shape[y->ndim - 1] == out;
    for (int i = 0; fits && i < y->ndim - 1; i++)
        fits = y->shape[i] == x->shape[i];
    if (!fits) {
        cb_fail(CB_ERR_SHAPE, "linear_add: %s is not what input %s and weight %s give", cb_shape_text(y), cb_shape_text(x),
                cb_shape_text(w));
        return NULL;
    }
    cb_tensor *sum;
    if (y != x && y != w && cb_can_overwrite(y) && cb_is_contiguous(y)) {
        sum = cb_will_write("linear_add", y) ? cb_alias(y) : NULL;
    } else {
        sum = cb_empty_like(y);
        if (sum && !cb_copy_into(sum, y))
            return NULL;
    }
    matrix a, b;
    cb_tensor *rows = dense_rows(x, &a);
    if (!sum || !rows || !weight_matrix(w, x->dtype, &b))
        return NULL;
    b = turned(b);
    if (!product(&a, &b, sum->data, sum->dtype, out > 0 ? out : 1, scale, 1, NULL))
        return NULL;
    cb_tensor *ins[] = {y, x, w};
    cb_tensor *saves[] = {w->requires_grad ? x : NULL, x->requires_grad ? w : NULL};
    return CB_RECORD(&cb_op_linear_add, sum, ins, saves, &scale, sizeof scale) ? sum : NULL;
}

/* ---- matmul ---- */

static void matmul_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0], *a = pass->saved[0], *b = pass->saved[1];
    const cb_edge *ea = &pass->input[0], *eb = &pass->input[1];
    if (pass->need[0])
        pass->dx[0] = cb_sum_to_nd(cb_matmul(dy, cb_transpose(b, -1, -2)), ea->ndim, ea->shape);
    if (pass->need[1])
        pass->dx[1] = cb_sum_to_nd(cb_matmul(cb_transpose(a, -1, -2), dy), eb->ndim, eb->shape);
}

const cb_op cb_op_matmul = {.name = "matmul", .twice = true, .backward = matmul_backward};

/* Batch dimensions of an operand against the result's: element strides, 0 where broadcast. */
static void batch_strides(const cb_tensor *t, int batch, int64_t *stride)
{
    for (int i = 0; i < batch; i++) {
        int own = i - (batch - (t->ndim - 2));
        stride[i] = own >= 0 && t->shape[own] != 1 ? t->stride[own] : 0;
    }
}

static bool matmul_run(const cb_tensor *a, const cb_tensor *b, cb_tensor *y)
{
    matrix ma, mb;
    as_matrix(a, &ma);
    as_matrix(b, &mb);
    int batch = y->ndim - 2;
    int64_t sa[CB_MAX_DIMS] = {0}, sb[CB_MAX_DIMS] = {0}, index[CB_MAX_DIMS] = {0};
    batch_strides(a, batch, sa);
    batch_strides(b, batch, sb);
    /* the innermost batch dimension goes to the kernel, the others are walked here */
    int64_t inner = batch > 0 ? y->shape[batch - 1] : 1, outer = 1;
    for (int i = 0; i < batch - 1; i++)
        outer *= y->shape[i];
    int64_t area = ma.rows * mb.columns, size = (int64_t)cb_dtype_size(y->dtype), ia = 0, ib = 0;
    cbk_gemm_args g = {.m = ma.rows,
                       .n = mb.columns,
                       .k = ma.columns,
                       .lda = ma.ld,
                       .transa = ma.transposed,
                       .a_dtype = a->dtype,
                       .ldb = mb.ld,
                       .transb = mb.transposed,
                       .b_dtype = b->dtype,
                       .ldc = mb.columns > 0 ? mb.columns : 1,
                       .c_dtype = y->dtype,
                       .alpha = 1,
                       .batch = inner,
                       .stride_a = batch ? sa[batch - 1] : 0,
                       .stride_b = batch ? sb[batch - 1] : 0,
                       .stride_c = area};
    for (int64_t o = 0; o < outer && y->count; o++) {
        g.a = (const char *)a->data + ia * size;
        g.b = (const char *)b->data + ib * size;
        g.c = (char *)y->data + o * inner * area * size;
        if (!cbk_gemm(&g))
            return false;
        for (int i = batch - 2; i >= 0; i--) {
            ia += sa[i];
            ib += sb[i];
            if (++index[i] < y->shape[i])
                break;
            ia -= sa[i] * y->shape[i];
            ib -= sb[i] * y->shape[i];
            index[i] = 0;
        }
    }
    return true;
}

static cb_tensor *with_unit_stride(cb_tensor *t)
{
    matrix m;
    return t && !as_matrix(t, &m) ? cb_contiguous(t) : t;
}

cb_tensor *cb_matmul(cb_tensor *a, cb_tensor *b)
{
    if (!a || !b)
        return NULL;
    if (a->ndim == 1 && b->ndim >= 1)
        return cb_squeeze(cb_matmul(cb_unsqueeze(a, 0), b), b->ndim == 1 ? 0 : -2);
    if (b->ndim == 1 && a->ndim >= 2)
        return cb_squeeze(cb_matmul(a, cb_unsqueeze(b, 1)), -1);
    bool fits = a->ndim >= 2 && b->ndim >= 2 && a->dtype == b->dtype && cb_dtype_is_float(a->dtype) &&
                a->shape[a->ndim - 1] == b->shape[b->ndim - 2];
    int n = a->ndim > b->ndim ? a->ndim : b->ndim;
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0; fits && i < n - 2; i++) {
        int ia = i - (n - a->ndim), ib = i - (n - b->ndim);
        int64_t da = ia >= 0 ? a->shape[ia] : 1, db = ib >= 0 ? b->shape[ib] : 1;
        fits = da == db || da == 1 || db == 1;
        shape[i] = da == 1 ? db : da;
    }
    if (!fits) {
        cb_fail(CB_ERR_SHAPE, "matmul: %s and %s: expected (..., m, k) and (..., k, n) of one floating-point type", cb_shape_text(a),
                cb_shape_text(b));
        return NULL;
    }
    shape[n - 2] = a->shape[a->ndim - 2];
    shape[n - 1] = b->shape[b->ndim - 1];
    cb_tensor *y = cb_empty_nd(a->dtype, n, shape), *ra = with_unit_stride(a), *rb = with_unit_stride(b);
    if (!y || !ra || !rb || !matmul_run(ra, rb, y))
        return NULL;
    cb_tensor *ins[] = {a, b};
    cb_tensor *saves[] = {b->requires_grad ? a : NULL, a->requires_grad ? b : NULL};
    return CB_RECORD(&cb_op_matmul, y, ins, saves, NULL, 0) ? y : NULL;
}
