/* rotation.h: what kinds share that turn the inputs of a layer before its weight, W M x: orthogonal matrices out of skew ones, products with
 * block-diagonal matrices, and the weight of the turned inputs, W M. */
#ifndef CB_ADAPTERS_ROTATION_H
#define CB_ADAPTERS_ROTATION_H

#include "cambium/adapters.h"

/* ---- matrices ---- */

/* R - I with R = (I - Q) (I + Q)^-1, the Cayley map of skew-symmetric Q (..., b, b): orthogonal, and I for 0. */
cb_tensor *cb_cayley_change(cb_tensor *q);
/* x (R, n b) times the matrix with the blocks (n, b, b) on its diagonal, or n times the one block of (1, b, b) -> (R, n b) */
cb_tensor *cb_blocks_product(cb_tensor *x, cb_tensor *blocks);
/* PEFT's multiplicative dropout of blocks R - I (F, n, b, b): of one F, chosen at random, floor(p n) of the n blocks become 0.  ctx NULL or not
 * training: none do. */
cb_tensor *cb_blocks_dropout(cb_tensor *blocks, double p, const cb_context *ctx);

/* ---- inputs ---- */

/* Inputs that a row of the weight multiplies: in, or in KH KW of a convolution. */
int64_t cb_row_inputs(const cb_layer *layer);
/* What becomes of rows x (R, inputs) f32: x M - x, times the strength.  ctx NULL: merging. */
typedef cb_tensor *cb_row_change(const cb_module *m, cb_tensor *x, const cb_context *ctx);
/* W M - W, the change of the weight's rows, in the order in which the layer stores its weight, a convolution's included: a kind's `delta`. */
cb_tensor *cb_rows_delta(const cb_module *m, cb_tensor *weight, cb_row_change *change);
/* A convolution's inputs overlap, so its kernels are turned instead: a kind's `weight`.  Of other layers: as it is. */
cb_tensor *cb_rows_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx, cb_row_change *change);
/* x (..., inputs) of a linear layer, or y (..., outputs) of an embedding: x + change(x), f32 inside, in x's dtype. */
cb_tensor *cb_rows_turned(const cb_module *m, cb_tensor *x, const cb_context *ctx, cb_row_change *change);

#endif
