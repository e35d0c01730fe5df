/* dense.h: what kinds share whose change of a weight is no product of thin factors: the whole change is made, a layer's at a time, for
 * its product with the input, and made again in the backward pass instead of being kept.  Beside the layer's own product, not added to
 * its weight: so a bf16 pass rounds the change alone, and the weight may be quantised. */
#ifndef CB_ADAPTERS_DENSE_H
#define CB_ADAPTERS_DENSE_H

#include "cambium/adapters.h"

/* The change as it stands now, f32: (out, in), or the shape of a convolution's weight. */
typedef cb_tensor *cb_dense_change(const cb_module *m);

/* What the change adds to the layer's result: x times it, in x's dtype.  Makes it again in the backward pass, so it may read nothing that
 * requires a gradient but the module's parameters. */
cb_tensor *cb_dense_product(const cb_module *m, cb_tensor *x, cb_dense_change *change);
/* y + scale times that. */
cb_tensor *cb_dense_add(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_dense_change *change, double scale);
/* scale times the change in the order in which the layer stores its weight: a kind's `delta`. */
cb_tensor *cb_dense_delta(const cb_module *m, cb_dense_change *change, double scale);

/* Kinds that need no whole change for it: what the module makes of x (R, in) f32, (R, out). */
typedef cb_tensor *cb_rows_product(const cb_module *m, cb_tensor *x);
/* y + that of the rows of x, in y's dtype. */
cb_tensor *cb_rows_add(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_rows_product *product);
/* The whole change (out, in): what it makes of the unit vectors. */
cb_tensor *cb_dense_of(const cb_module *m, cb_rows_product *product);
cb_tensor *cb_identity(int64_t n); /* (n, n) f32 */

#endif
