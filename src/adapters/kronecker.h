/* kronecker.h: what kinds share whose change is a Kronecker product, W1 (x) W2 with W1 (L, M) and W2 (K, N): out = L K, in = M N. */
#ifndef CB_ADAPTERS_KRONECKER_H
#define CB_ADAPTERS_KRONECKER_H

#include "cambium/adapters.h"

/* One of the two: whole, or a b of a smaller rank, whole being NULL. */
typedef struct cb_kronecker_factor {
    cb_tensor *whole, *a, *b;
} cb_kronecker_factor;

/* x (..., M N) -> (..., L K).  Row l K + k of the change times x is sum over m, n of W1_lm W2_kn x_mn: W2 along one axis of x and W1 along the
 * other, so that no (out, in) is made. */
cb_tensor *cb_kronecker_product(cb_tensor *x, cb_kronecker_factor w1, cb_kronecker_factor w2);
/* W1 (L, M) and W2 (K, N, ...) -> (L K, M N, ...), or (L K, M N) */
cb_tensor *cb_kronecker(cb_tensor *w1, cb_tensor *w2);

#endif
