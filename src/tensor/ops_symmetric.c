/* ops_symmetric.c: Cholesky factors and eigenvalues of symmetric matrices through LAPACK; f32 and f64.
 *
 * Both read the lower triangle, and give the symmetric half of the gradient.  To LAPACK a row-major lower triangle is an upper one. */
#include <lapacke.h>
#include <limits.h>
#include <string.h>

#include "tensor/linalg.h"

static bool check_square(const char *op, const cb_tensor *x)
{
    if (!need_matrix(op, x))
        return false;
    return x->shape[0] == x->shape[1] || cb_fail(CB_ERR_SHAPE, "%s: %s, expected a square matrix", op, cb_shape_text(x)) == CB_OK;
}

static cb_tensor *symmetric(cb_tensor *x)
{
    return cb_scale(cb_add(x, turned(x)), 0.5);
}

/* ---- Cholesky ---- */

/* dA = L^-T phi(L^T dL) L^-1, phi: the lower triangle with half of its diagonal.  Murray 2016, arXiv:1602.07527. */
static void cholesky_backward(cb_backward_pass *pass)
{
    cb_tensor *l = pass->saved[0], *r = turned(l);
    int64_t n = l->shape[0];
    if (n == 0)
        return;
    cb_tensor *phi = cb_mul(cb_matmul(r, pass->dy[0]), triangle(l->dtype, n, 1, 0.5, 0));
    cb_tensor *right = cb_solve_triangular(phi, r, true);
    pass->dx[0] = symmetric(cb_solve_triangular(turned(right), r, true));
}

const cb_op cb_op_cholesky = {.name = "cholesky", .twice = true, .backward = cholesky_backward};

cb_tensor *cb_cholesky(cb_tensor *x)
{
    if (!x || !check_square("cholesky", x))
        return NULL;
    cb_tensor *l = working_copy("cholesky", x);
    lapack_int n = (lapack_int)x->shape[0], info = 0;
    if (!l)
        return NULL;
    if (n && !cb_rehearsing())
        info = x->dtype == CB_F64 ? LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', n, l->data, n)
                                  : LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', n, l->data, n);
    if (info > 0) {
        cb_fail(CB_ERR_NUMERIC, "cholesky: %s is not positive definite (its leading minor of order %d)", cb_shape_text(x), (int)info);
        return NULL;
    }
    if (!report("cholesky", info))
        return NULL;
    size_t size = cb_dtype_size(x->dtype);
    for (size_t i = 0; i + 1 < (size_t)n; i++)
        memset((char *)l->data + (i * (size_t)n + i + 1) * size, 0, ((size_t)n - i - 1) * size);
    return cb_record(&cb_op_cholesky, 1, &l, 1, &x, 1, &l, NULL, 0) ? l : NULL;
}

/* ---- eigenvalues ---- */

/* dA = V (diag(dw) + F * (V^T dV)) V^T, F_ij = 1 / (w_j - w_i), 0 where they are equal to working precision: what a loss does not see of
 * how such vectors turn is all that is left out.  Giles 2008, section 3.1. */
static void eigh_backward(cb_backward_pass *pass)
{
    cb_tensor *w = pass->saved[0], *v = pass->saved[1], *dw = pass->dy[0], *dv = pass->dy[1];
    if (w->count == 0)
        return;
    cb_tensor *inner = NULL;
    if (dv) {
        cb_tensor *difference = cb_sub(w, cb_unsqueeze(w, 1));
        double largest = fabs(cb_get(w, 0)) > fabs(cb_get(w, w->count - 1)) ? fabs(cb_get(w, 0)) : fabs(cb_get(w, w->count - 1));
        inner = cb_matmul(cb_mul(cb_matmul(turned(v), dv), safe_reciprocal(difference, difference, rounding_of(w, largest))), turned(v));
    }
    if (dw)
        inner = sum_of(inner, cb_mul(cb_unsqueeze(dw, 1), turned(v)));
    pass->dx[0] = symmetric(cb_matmul(v, inner));
}

const cb_op cb_op_eigh = {.name = "eigh", .twice = true, .backward = eigh_backward};

static lapack_int syevd(cb_dtype dtype, lapack_int n, void *a, void *w, void *work, lapack_int length, lapack_int *integers,
                        lapack_int more)
{
    if (dtype == CB_F64)
        return LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'V', 'U', n, a, n, w, work, length, integers, more);
    return LAPACKE_ssyevd_work(LAPACK_COL_MAJOR, 'V', 'U', n, a, n, w, work, length, integers, more);
}

/* a (n, n) becomes its eigenvectors, as rows. */
static bool eigh_run(cb_tensor *a, cb_tensor *w)
{
    lapack_int n = (lapack_int)w->count, length = 0, more = 3 + 5 * n;
    double query = 0;
    lapack_int *integers = cb_calloc((size_t)more, sizeof *integers), wanted = 0;
    void *work = integers && report("eigh", syevd(a->dtype, n, a->data, w->data, &query, -1, &wanted, -1))
                     ? workspace("eigh", a->dtype, &query, &length)
                     : NULL;
    bool ok = work && (cb_rehearsing() || report("eigh", syevd(a->dtype, n, a->data, w->data, work, length, integers, more)));
    cb_free(work);
    cb_free(integers);
    return ok;
}

bool cb_eigh(cb_tensor *x, cb_tensor **w, cb_tensor **v)
{
    *w = *v = NULL;
    if (!x || !check_square("eigh", x))
        return false;
    int64_t n = x->shape[0];
    if (n > 1 << 14)
        return cb_fail(CB_ERR_UNSUPPORTED, "eigh: %s is too large for LAPACK's 32-bit sizes", cb_shape_text(x)) == CB_OK;
    cb_tensor *a = working_copy("eigh", x), *out[] = {cb_empty(x->dtype, n), cb_empty(x->dtype, n, n)};
    if (!a || !out[0] || !out[1] || (n && !eigh_run(a, out[0])) || !cb_copy_into(out[1], turned(a)))
        return false;
    if (!cb_record(&cb_op_eigh, 2, out, 1, &x, 2, out, NULL, 0))
        return false;
    *w = out[0];
    *v = out[1];
    return true;
}
