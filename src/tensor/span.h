/* span.h: one dimension of an array, or all of them, as kernels along it see the array: (outer, reduce, inner). */
#ifndef CB_TENSOR_SPAN_H
#define CB_TENSOR_SPAN_H

#include "tensor/op.h"

typedef struct cb_span {
    int dim; /* not negative, or CB_ALL */
    int64_t outer, reduce, inner;
} cb_span;

/* False with an error of `op` where x has no such dimension. */
bool cb_span_of(const char *op, const cb_tensor *x, int dim, cb_span *s);
/* t moved by one along dim: element i is that before it (`later`: after it), `fill` at the border. */
cb_tensor *cb_neighbour(cb_tensor *t, int dim, bool later, double fill);

#endif
