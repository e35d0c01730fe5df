/* activation.h: the activations that adapters have inside, by the names of transformers (activations.py: ACT2FN). */
#ifndef CB_ADAPTERS_ACTIVATION_H
#define CB_ADAPTERS_ACTIVATION_H

#include "cambium/tensor.h"

/* The choices of an option; its value is what cb_adapter_activate() takes. */
extern const char *const cb_activation_names[];
enum { CB_ACTIVATION_LINEAR, CB_ACTIVATION_RELU }; /* two of its indices, for defaults */

cb_tensor *cb_adapter_activate(int which, cb_tensor *x);

#endif
