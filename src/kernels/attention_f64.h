/* attention_f64.h: attention in f64, as the formulas stand; for gradient checks. */
#ifndef CB_KERNELS_ATTENTION_F64_H
#define CB_KERNELS_ATTENTION_F64_H

#include "kernels/kernels.h"

bool cbk_attention_forward_f64(const cbk_attention_args *args);
bool cbk_attention_backward_f64(const cbk_attention_args *args, const cbk_attention_gradients *gradients);

#endif
