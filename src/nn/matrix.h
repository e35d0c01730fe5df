/* matrix.h: a linear layer with its modules as one matrix. */
#ifndef CB_NN_MATRIX_H
#define CB_NN_MATRIX_H

#include "cambium/nn.h"

/* Weight (out, in) and bias (NULL: none) with which the layer's result is x weight^T + bias in this pass, of `dtype` (f32 or f64), with their
 * gradients: 1.  0: its modules do more than that comes to.  -1: an error. */
int cb_layer_matrix(const cb_layer *layer, const cb_context *ctx, cb_dtype dtype, cb_tensor **weight, cb_tensor **bias);

#endif
