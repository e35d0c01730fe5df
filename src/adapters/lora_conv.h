/* lora_conv.h: the factors of LoRA on a convolution.  R rank, G groups, KH KW the kernel.
 * A (R, in, KH, KW) convolves as the layer does but sees all channels, B (out, R / G, 1, 1) mixes what A gives, group by group: PEFT's. */
#ifndef CB_ADAPTERS_LORA_CONV_H
#define CB_ADAPTERS_LORA_CONV_H

#include "cambium/adapters.h"

/* The shapes of A and B, as `parameters` of a kind lists them; two. */
int cb_lora_conv_parameters(const cb_layer *layer, int64_t rank, cb_tensor **a, cb_tensor **b, cb_adapter_parameter *list);
/* The groups must divide the rank; starts that look at the weight, and magnitudes, are known for linear layers alone. */
bool cb_lora_conv_check(const cb_layer *layer, int64_t rank, const char *start, bool magnitude);
/* A x: x (N, in, H, W) -> (N, R, OH, OW) */
cb_tensor *cb_lora_conv_in(const cb_layer *layer, cb_tensor *x, cb_tensor *a);
/* y + scale B z: y (N, out, OH, OW), of z as that gives */
cb_tensor *cb_lora_conv_add(const cb_layer *layer, cb_tensor *y, cb_tensor *z, cb_tensor *b, double scale);
/* B A as a kernel (out, in, KH, KW); with groups there is none of the weight's shape, and CB_ERR_UNSUPPORTED. */
cb_tensor *cb_lora_conv_product(const cb_layer *layer, cb_tensor *a, cb_tensor *b);

#endif
