/* network_fixtures.h: the networks of PEFT's own regression tests (tests/oracle/peft_regression.py). */
#ifndef NETWORK_FIXTURES_H
#define NETWORK_FIXTURES_H

#include "adapter_fixtures.h"

#define BASES CB_TEST_DATA "/peft_regression/"

typedef struct network {
    cb_layer *root, *conv2d, *lin0, *lin1; /* those it has not are NULL */
} network;

static inline void take_weight(cb_layer *layer, const cb_weights *file, const char *name)
{
    char *full = cb_format("%s.%s", layer->name, name);
    const cb_weight_entry *entry = cb_weights_find(file, full);
    assert_non_null(entry);
    assert_true(cb_layer_add_weight(layer, name, cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape)));
    cb_free(full);
}

static inline cb_layer *make_layer(const network *net, const cb_weights *file, const char *name, cb_layer_kind kind)
{
    cb_layer *layer = cb_layer_new(net->root, name, kind);
    assert_non_null(layer);
    take_weight(layer, file, "weight");
    take_weight(layer, file, "bias");
    const cb_tensor *w = cb_layer_weight(layer, "weight");
    layer->out_features = w->shape[0];
    layer->in_features = w->shape[1];
    return layer;
}

static inline network make_network(bool convolution)
{
    network net = {.root = cb_layer_new(NULL, "", CB_LAYER_GROUP)};
    cb_weights *file = cb_weights_open_file(convolution ? BASES "conv2d.safetensors" : BASES "mlp.safetensors");
    assert_ok(file);
    if (convolution)
        net.conv2d = make_layer(&net, file, "conv2d", CB_LAYER_CONV);
    net.lin0 = make_layer(&net, file, "lin0", CB_LAYER_LINEAR);
    if (!convolution)
        net.lin1 = make_layer(&net, file, "lin1", CB_LAYER_LINEAR);
    cb_weights_close(file);
    return net;
}

/* What a network computes for 90 numbers. */
static inline cb_tensor *network_forward(const network *net, cb_tensor *x)
{
    const cb_context ctx = {.training = true};
    if (net->conv2d) {
        x = cb_relu(cb_conv2d_forward(net->conv2d, cb_reshape(x, 2, 5, 3, 3), &ctx));
        x = cb_linear_forward(net->lin0, cb_reshape(x, 2, -1), &ctx);
    } else {
        x = cb_relu(cb_linear_forward(net->lin0, cb_reshape(x, 9, 10), &ctx));
        x = cb_linear_forward(net->lin1, x, &ctx);
    }
    return cb_log_softmax(x, -1);
}

/* What PEFT's tests have: the output for 0, 1, ..., 89. */
static inline cb_tensor *output_of(const network *net)
{
    cb_tensor *y = NULL;
    cb_no_grad y = network_forward(net, cb_arange(CB_F32, 0, 1, 90));
    return y;
}

#endif
