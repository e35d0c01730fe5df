/* activation.c: see activation.h. */
#include "adapters/activation.h"

static cb_tensor *identity(cb_tensor *x)
{
    return x;
}

static cb_tensor *leaky_relu(cb_tensor *x)
{
    return cb_maximum(x, cb_scale(x, 0.01));
}

const char *const cb_activation_names[] = {"linear", "relu", "gelu",    "gelu_new",  "gelu_pytorch_tanh", "swish",
                                           "silu",   "tanh", "sigmoid", "leakyrelu", "leaky_relu",        NULL};

static cb_tensor *(*const functions[])(cb_tensor *x) = {identity, cb_relu, cb_gelu,    cb_gelu_tanh, cb_gelu_tanh, cb_silu,
                                                        cb_silu,  cb_tanh, cb_sigmoid, leaky_relu,   leaky_relu};

cb_tensor *cb_adapter_activate(int which, cb_tensor *x)
{
    return x ? functions[which](x) : NULL;
}
