/* ops_linalg.c: singular values, QR, inverses and linear systems through LAPACK; f32 and f64.
 *
 * LAPACK stores matrices column by column, so a row-major (m, n) array is to it the transposed matrix (n, m).  Nothing is transposed for
 * it: if A^T = V S U^T, the factors of A are the same with their roles exchanged, and A^T = L Q gives A = Q^T L^T, an upper triangle
 * behind orthonormal columns.  What LAPACK writes is row-major where it lies.
 *
 * Shape letters: m rows, n columns, k = min(m, n). */
#include <string.h>

#include "kernels/parallel.h"
#include "tensor/linalg.h"

/* ---- singular values ---- */

/* Differences of singular values, and singular values, up to this are rounding. */
static double resolution(const cb_tensor *s)
{
    return rounding_of(s, cb_get(s, 0));
}

/* (skew(U^T dU) F) S + S (skew(V^T dV) F), F_ij = 1 / (s_j^2 - s_i^2), from p = U^T dU and q = V^T dV (k, k); either may be NULL */
static cb_tensor *rotation(cb_tensor *s, cb_tensor *p, cb_tensor *q)
{
    cb_tensor *column = cb_unsqueeze(s, 1), *difference = cb_sub(s, column);
    cb_tensor *f = safe_reciprocal(cb_mul(difference, cb_add(s, column)), difference, resolution(s));
    cb_tensor *left = p ? cb_mul(cb_mul(cb_sub(p, turned(p)), f), s) : NULL;
    cb_tensor *right = q ? cb_mul(cb_mul(cb_sub(q, turned(q)), f), column) : NULL;
    return sum_of(left, right);
}

/* dA = U (diag(ds) + rotation) V^T + (I - U U^T) dU S^-1 V^T + U S^-1 dV^T (I - V V^T)
 * Wan and Zhang 2019, arXiv:1909.02659, and torch's svd_backward.  The singular vectors of equal singular values can turn among
 * themselves, so their gradient does not exist; what a loss does not see of that turn is all that is left out when pairs closer than
 * the resolution contribute nothing.  The same holds for s = 0 in S^-1 (needed when m != n). */
static void svd_backward(cb_backward_pass *pass)
{
    cb_tensor *u = pass->saved[0], *s = pass->saved[1], *vt = pass->saved[2];
    cb_tensor *du = pass->dy[0], *ds = pass->dy[1], *dvt = pass->dy[2];
    int64_t m = pass->input[0].shape[0], n = pass->input[0].shape[1], k = s->count;
    if (k == 0)
        return;
    cb_tensor *p = du ? cb_matmul(turned(u), du) : NULL, *q = dvt ? cb_matmul(vt, turned(dvt)) : NULL;
    cb_tensor *inverse = (du && m > k) || (dvt && n > k) ? safe_reciprocal(s, s, resolution(s)) : NULL;
    cb_tensor *left = ds ? cb_mul(u, ds) : NULL; /* (m, k), to stand before V^T */
    if (p || q)
        left = sum_of(left, cb_matmul(u, rotation(s, p, q)));
    if (du && m > k)
        left = sum_of(left, cb_mul(cb_sub(du, cb_matmul(u, p)), inverse));
    cb_tensor *dx = left ? cb_matmul(left, vt) : NULL;
    if (dvt && n > k)
        dx = sum_of(dx, cb_matmul(cb_mul(u, inverse), cb_sub(dvt, cb_matmul(turned(q), vt))));
    pass->dx[0] = dx;
}

const cb_op cb_op_svd = {.name = "svd", .twice = true, .backward = svd_backward};

typedef struct svd_call {
    cb_dtype dtype;
    lapack_int m, n;
    void *a, *u, *s, *vt;
    lapack_int *integers; /* 8 k */
} svd_call;

static lapack_int gesdd(const svd_call *c, void *work, lapack_int length)
{
    lapack_int k = c->m < c->n ? c->m : c->n;
    if (c->dtype == CB_F64)
        return LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', c->n, c->m, c->a, c->n, c->s, c->vt, c->n, c->u, k, work, length, c->integers);
    return LAPACKE_sgesdd_work(LAPACK_COL_MAJOR, 'S', c->n, c->m, c->a, c->n, c->s, c->vt, c->n, c->u, k, work, length, c->integers);
}

static bool svd_run(cb_tensor *a, cb_tensor *u, cb_tensor *s, cb_tensor *vt)
{
    svd_call c = {.dtype = a->dtype,
                  .m = (lapack_int)a->shape[0],
                  .n = (lapack_int)a->shape[1],
                  .a = a->data,
                  .u = u->data,
                  .s = s->data,
                  .vt = vt->data};
    double query = 0;
    lapack_int length = 0;
    c.integers = cb_calloc((size_t)s->count * 8, sizeof *c.integers);
    bool ok = c.integers && report("svd", gesdd(&c, &query, -1));
    void *work = ok ? workspace("svd", a->dtype, &query, &length) : NULL;
    ok = work && (cb_rehearsing() || report("svd", gesdd(&c, work, length)));
    cb_free(work);
    cb_free(c.integers);
    return ok;
}

bool cb_svd(cb_tensor *x, cb_tensor **u, cb_tensor **s, cb_tensor **vt)
{
    *u = *s = *vt = NULL;
    if (!x || !need_matrix("svd", x))
        return false;
    int64_t m = x->shape[0], n = x->shape[1], k = m < n ? m : n;
    cb_tensor *a = working_copy("svd", x), *out[] = {cb_empty(x->dtype, m, k), cb_empty(x->dtype, k), cb_empty(x->dtype, k, n)};
    if (!a || !out[0] || !out[1] || !out[2] || (k && !svd_run(a, out[0], out[1], out[2])))
        return false;
    if (!cb_record(&cb_op_svd, 3, out, 1, &x, 3, out, NULL, 0))
        return false;
    *u = out[0];
    *s = out[1];
    *vt = out[2];
    return true;
}

/* ---- triangular systems ---- */

/* y = x op(R)^-1, so dx = dy op(R)^-T and d op(R) = -y^T dx, of which R's upper triangle exists */
static void solve_triangular_backward(cb_backward_pass *pass)
{
    bool transposed = *(const bool *)pass->args;
    cb_tensor *r = pass->saved[0], *y = pass->saved[1], *dx = cb_solve_triangular(pass->dy[0], r, !transposed);
    if (pass->need[0])
        pass->dx[0] = dx;
    if (pass->need[1]) {
        cb_tensor *dr = transposed ? cb_matmul(turned(dx), y) : cb_matmul(turned(y), dx);
        pass->dx[1] = cb_mul(dr, triangle(r->dtype, r->shape[0], 0, -1, -1));
    }
}

const cb_op cb_op_solve_triangular = {.name = "solve_triangular", .twice = true, .backward = solve_triangular_backward};

/* x (m, n) times the inverse of R (n, n), an upper triangle, or of R^T.  To LAPACK, which sees the transposed arrays, R is a lower triangle
 * and the system is op(R)^T y^T = x^T. */
cb_tensor *cb_solve_triangular(cb_tensor *x, cb_tensor *r, bool transposed)
{
    if (!x || !r || !need_matrix("solve_triangular", x) || !need_matrix("solve_triangular", r))
        return NULL;
    if (x->dtype != r->dtype || r->shape[0] != r->shape[1] || x->shape[1] != r->shape[0]) {
        cb_fail(CB_ERR_SHAPE, "solve_triangular: b is %s and r is %s, expected (m, n) and (n, n) of one dtype", cb_shape_text(x),
                cb_shape_text(r));
        return NULL;
    }
    cb_tensor *y = cb_empty_like(x), *dense = y ? cb_contiguous(r) : NULL;
    if (!dense || !cb_copy_into(y, x))
        return NULL;
    lapack_int m = (lapack_int)x->shape[0], n = (lapack_int)r->shape[0], info = 0;
    char trans = transposed ? 'T' : 'N';
    bool solves = y->count && !cb_rehearsing();
    if (solves && x->dtype == CB_F64)
        info = LAPACKE_dtrtrs_work(LAPACK_COL_MAJOR, 'L', trans, 'N', n, m, dense->data, n, y->data, n);
    else if (solves)
        info = LAPACKE_strtrs_work(LAPACK_COL_MAJOR, 'L', trans, 'N', n, m, dense->data, n, y->data, n);
    if (info > 0) {
        cb_fail(CB_ERR_NUMERIC, "solve_triangular: R is 0 at diagonal element %d", (int)info);
        return NULL;
    }
    if (!report("solve_triangular", info))
        return NULL;
    cb_tensor *ins[] = {x, r}, *saves[] = {r, y};
    return CB_RECORD(&cb_op_solve_triangular, y, ins, saves, &transposed, sizeof transposed) ? y : NULL;
}

/* ---- QR ---- */

/* dA = (dQ + Q copyltu(M)) R^-T, M = R dR^T - dQ^T Q, copyltu(M): its lower triangle, mirrored.
 * Walter and Lehmann 2010, arXiv:1001.1654; in this form Liao et al. 2019, arXiv:1903.09650. */
static void qr_backward(cb_backward_pass *pass)
{
    cb_tensor *q = pass->saved[0], *r = pass->saved[1], *dq = pass->dy[0], *dr = pass->dy[1];
    int64_t m = pass->input[0].shape[0], n = pass->input[0].shape[1];
    if (m == 0 || n == 0)
        return;
    if (m < n) {
        cb_fail(CB_ERR_UNSUPPORTED, "backward of qr: x is (%lld, %lld), expected at least as many rows as columns", (long long)m,
                (long long)n);
        return;
    }
    cb_tensor *mixed = sum_of(dr ? cb_matmul(r, turned(dr)) : NULL, dq ? cb_neg(cb_matmul(turned(dq), q)) : NULL);
    cb_tensor *half = cb_mul(mixed, triangle(r->dtype, n, 1, 0.5, 0));
    cb_tensor *lifted = cb_matmul(q, cb_add(half, turned(half)));
    pass->dx[0] = cb_solve_triangular(dq ? cb_add(dq, lifted) : lifted, r, true);
    if (!pass->dx[0] && cb_error_status() == CB_ERR_NUMERIC)
        cb_error_prefix("backward of qr: the columns of the matrix depend on each other");
}

const cb_op cb_op_qr = {.name = "qr", .twice = true, .backward = qr_backward};

typedef struct qr_call {
    cb_dtype dtype;
    lapack_int m, n, k;
    void *a, *q, *tau;
} qr_call;

static lapack_int gelqf(const qr_call *c, void *work, lapack_int length)
{
    if (c->dtype == CB_F64)
        return LAPACKE_dgelqf_work(LAPACK_COL_MAJOR, c->n, c->m, c->a, c->n, c->tau, work, length);
    return LAPACKE_sgelqf_work(LAPACK_COL_MAJOR, c->n, c->m, c->a, c->n, c->tau, work, length);
}

static lapack_int orglq(const qr_call *c, void *work, lapack_int length)
{
    if (c->dtype == CB_F64)
        return LAPACKE_dorglq_work(LAPACK_COL_MAJOR, c->k, c->m, c->k, c->q, c->k, c->tau, work, length);
    return LAPACKE_sorglq_work(LAPACK_COL_MAJOR, c->k, c->m, c->k, c->q, c->k, c->tau, work, length);
}

typedef lapack_int qr_step(const qr_call *call, void *work, lapack_int length);

static bool qr_do(qr_step *step, const qr_call *c)
{
    double query = 0;
    lapack_int length = 0;
    void *work = report("qr", step(c, &query, -1)) ? workspace("qr", c->dtype, &query, &length) : NULL;
    bool ok = work && (cb_rehearsing() || report("qr", step(c, work, length)));
    cb_free(work);
    return ok;
}

/* a (m, n) is overwritten; q (m, k), r (k, n) */
static bool qr_run(cb_tensor *a, cb_tensor *q, cb_tensor *r)
{
    cb_tensor *tau = cb_empty(a->dtype, q->shape[1]);
    if (!tau)
        return false;
    qr_call c = {.dtype = a->dtype,
                 .m = (lapack_int)a->shape[0],
                 .n = (lapack_int)a->shape[1],
                 .k = (lapack_int)q->shape[1],
                 .a = a->data,
                 .q = q->data,
                 .tau = tau->data};
    if (!qr_do(gelqf, &c))
        return false;
    /* the upper triangle of a's first k rows is R; the reflectors stand below the diagonal of its first k columns */
    size_t size = cb_dtype_size(a->dtype), n = (size_t)c.n, k = (size_t)c.k;
    for (size_t i = 0; i < (size_t)c.m; i++)
        memcpy((char *)q->data + i * k * size, (char *)a->data + i * n * size, k * size);
    for (size_t i = 0; i < k; i++) {
        memset((char *)r->data + i * n * size, 0, i * size);
        memcpy((char *)r->data + (i * n + i) * size, (char *)a->data + (i * n + i) * size, (n - i) * size);
    }
    return qr_do(orglq, &c);
}

bool cb_qr(cb_tensor *x, cb_tensor **q, cb_tensor **r)
{
    *q = *r = NULL;
    if (!x || !need_matrix("qr", x))
        return false;
    int64_t m = x->shape[0], n = x->shape[1], k = m < n ? m : n;
    cb_tensor *a = working_copy("qr", x), *out[] = {cb_empty(x->dtype, m, k), cb_empty(x->dtype, k, n)};
    if (!a || !out[0] || !out[1] || (k && !qr_run(a, out[0], out[1])))
        return false;
    if (!cb_record(&cb_op_qr, 2, out, 1, &x, 2, out, NULL, 0))
        return false;
    *q = out[0];
    *r = out[1];
    return true;
}

/* ---- inverses ---- */

/* d(A^-1) = -A^-1 dA A^-1 */
static void inverse_backward(cb_backward_pass *pass)
{
    cb_tensor *y = cb_transpose(pass->saved[0], -1, -2);
    pass->dx[0] = cb_neg(cb_matmul(cb_matmul(y, pass->dy[0]), y));
}

const cb_op cb_op_inverse = {.name = "inverse", .twice = true, .backward = inverse_backward};

/* One matrix in place; `work` (n n), `pivots` (n).  What LAPACK reads as the transposed matrix it leaves as the transposed inverse. */
static lapack_int invert(cb_dtype dtype, void *a, lapack_int n, void *work, lapack_int *pivots)
{
    lapack_int info = dtype == CB_F64 ? LAPACKE_dgetrf_work(LAPACK_COL_MAJOR, n, n, a, n, pivots)
                                      : LAPACKE_sgetrf_work(LAPACK_COL_MAJOR, n, n, a, n, pivots);
    if (info)
        return info;
    return dtype == CB_F64 ? LAPACKE_dgetri_work(LAPACK_COL_MAJOR, n, a, n, pivots, work, n * n)
                           : LAPACKE_sgetri_work(LAPACK_COL_MAJOR, n, a, n, pivots, work, n * n);
}

static bool invert_all(cb_tensor *y, lapack_int n, int64_t count)
{
    size_t size = cb_dtype_size(y->dtype), area = (size_t)n * (size_t)n;
    int threads = cbk_threads(count * n * n * n);
    lapack_int worst = 0;
    void *work = cb_alloc((size_t)threads * area * size);
    lapack_int *pivots = cb_alloc((size_t)threads * (size_t)n * sizeof *pivots);
    bool ok = work && pivots;
    if (ok && !cb_rehearsing()) {
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(max : worst)
        {
            size_t self = (size_t)omp_get_thread_num();
            cbk_range r = cbk_share(count, 1);
            for (int64_t i = r.begin; i < r.end; i++) {
                lapack_int info = invert(y->dtype, (char *)y->data + (size_t)i * area * size, n, (char *)work + self * area * size,
                                         pivots + self * (size_t)n);
                worst = info > worst ? info : worst;
            }
        }
    }
    cb_free(work);
    cb_free(pivots);
    return ok && (!worst || cb_fail(CB_ERR_NUMERIC, "inverse: a matrix of %s is singular", cb_shape_text(y)) == CB_OK);
}

cb_tensor *cb_inverse(cb_tensor *x)
{
    if (!x)
        return NULL;
    int64_t n = x->ndim >= 2 ? x->shape[x->ndim - 1] : -1;
    if (n < 0 || x->shape[x->ndim - 2] != n || n > 1 << 15 || (x->dtype != CB_F32 && x->dtype != CB_F64)) {
        cb_fail(CB_ERR_SHAPE, "inverse: %s, expected f32 or f64 (..., n, n)", cb_shape_text(x));
        return NULL;
    }
    cb_tensor *y = working_copy("inverse", x);
    if (!y || (x->count && !invert_all(y, (lapack_int)n, x->count / (n * n))))
        return NULL;
    return cb_record(&cb_op_inverse, 1, &y, 1, &x, 1, &y, NULL, 0) ? y : NULL;
}

/* ---- linear systems ---- */

/* x = b A^-1, so db = dx A^-T and dA = -x^T db */
static void solve_backward(cb_backward_pass *pass)
{
    cb_tensor *a = pass->saved[0], *x = pass->saved[1], *db = cb_solve(pass->dy[0], turned(a));
    if (pass->need[0])
        pass->dx[0] = db;
    if (pass->need[1])
        pass->dx[1] = cb_neg(cb_matmul(turned(x), db));
}

const cb_op cb_op_solve = {.name = "solve", .twice = true, .backward = solve_backward};

/* To LAPACK, which sees the transposed arrays, x a = b is a^T x^T = b^T.  Overwrites both: a by its factors, x, which holds b, by x. */
static bool solve_run(cb_tensor *a, cb_tensor *x)
{
    lapack_int n = (lapack_int)a->shape[0], m = (lapack_int)x->shape[0], info = 0;
    lapack_int *pivots = cb_calloc((size_t)n, sizeof *pivots);
    if (pivots && !cb_rehearsing())
        info = a->dtype == CB_F64 ? LAPACKE_dgesv_work(LAPACK_COL_MAJOR, n, m, a->data, n, pivots, x->data, n)
                                  : LAPACKE_sgesv_work(LAPACK_COL_MAJOR, n, m, a->data, n, pivots, x->data, n);
    bool ok = pivots;
    cb_free(pivots);
    if (info > 0)
        return cb_fail(CB_ERR_NUMERIC, "solve: the matrix %s is singular", cb_shape_text(a)) == CB_OK;
    return ok && report("solve", info);
}

cb_tensor *cb_solve(cb_tensor *b, cb_tensor *a)
{
    if (!a || !b || !need_matrix("solve", a) || !need_matrix("solve", b))
        return NULL;
    if (a->dtype != b->dtype || a->shape[0] != a->shape[1] || b->shape[1] != a->shape[0]) {
        cb_fail(CB_ERR_SHAPE, "solve: b is %s and a is %s, expected (m, n) and (n, n) of one dtype", cb_shape_text(b), cb_shape_text(a));
        return NULL;
    }
    cb_tensor *factors = working_copy("solve", a), *x = working_copy("solve", b);
    if (!factors || !x || (b->count && !solve_run(factors, x)))
        return NULL;
    cb_tensor *ins[] = {b, a}, *saves[] = {a, x};
    return CB_RECORD(&cb_op_solve, x, ins, saves, NULL, 0) ? x : NULL;
}
