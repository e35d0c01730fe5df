/* thin.h: what kinds share that make two thin factors out of their parameters, W + s B A with A (R, in) and B (out, R): x goes through the
 * factors, and the (out, in) product is made for merging only. */
#ifndef CB_ADAPTERS_THIN_H
#define CB_ADAPTERS_THIN_H

#include "cambium/adapters.h"

/* y + strength s B A x; x after dropout while training. */
cb_tensor *cb_thin_add(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_tensor *a, cb_tensor *b, double scale, double dropout,
                       const cb_context *ctx);
/* The same as a pair: the kind's `low_rank`. */
bool cb_thin_pair(const cb_module *m, cb_tensor *a, cb_tensor *b, double scale, double dropout, const cb_context *ctx, cb_low_rank *pair);
/* strength s B A in the order in which the layer stores its weight: a kind's `delta`. */
cb_tensor *cb_thin_delta(const cb_module *m, cb_tensor *a, cb_tensor *b, double scale);

#endif
