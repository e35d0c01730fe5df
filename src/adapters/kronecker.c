/* kronecker.c: see kronecker.h. */
#include "adapters/kronecker.h"

/* x (..., columns) through one factor */
static cb_tensor *through(cb_tensor *x, const cb_kronecker_factor *w)
{
    return w->whole ? cb_linear(x, w->whole, NULL) : cb_linear(cb_linear(x, w->b, NULL), w->a, NULL);
}

cb_tensor *cb_kronecker_product(cb_tensor *x, cb_kronecker_factor w1, cb_kronecker_factor w2)
{
    if (!x || !cb_ok())
        return NULL;
    int64_t m = (w1.whole ? w1.whole : w1.b)->shape[1], n = (w2.whole ? w2.whole : w2.b)->shape[1];
    cb_tensor *z = through(cb_reshape(x, -1, m, n), &w2);                   /* (..., M, K) */
    z = cb_transpose(through(z ? cb_transpose(z, 1, 2) : NULL, &w1), 1, 2); /* (..., L, K) */
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0; z && i < x->ndim; i++)
        shape[i] = i + 1 < x->ndim ? x->shape[i] : z->shape[1] * z->shape[2];
    return z ? cb_reshape_nd(z, x->ndim, shape) : NULL;
}

cb_tensor *cb_kronecker(cb_tensor *w1, cb_tensor *w2)
{
    if (!w1 || !w2)
        return NULL;
    int64_t l = w1->shape[0], m = w1->shape[1], k = w2->shape[0], n = w2->shape[1], kh = 1, kw = 1;
    if (w2->ndim == 4) {
        kh = w2->shape[2];
        kw = w2->shape[3];
    }
    cb_tensor *product = cb_mul(cb_reshape(w1, l, 1, m, 1, 1, 1), cb_reshape(w2, 1, k, 1, n, kh, kw));
    return w2->ndim == 4 ? cb_reshape(product, l * k, m * n, kh, kw) : cb_reshape(product, l * k, m * n);
}
