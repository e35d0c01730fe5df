/* forward.c: what a layer computes, with the modules it hosts.
 *
 * Every layer goes the same way: modules may give it another input (`before`), another weight (`weight`) or bias, then comes
 * the layer's own product, then modules work on the result (`forward`), each kind of function in the order the modules
 * were attached.  A layer without modules pays one comparison.  Operations pass NULL through, so nothing is checked in
 * between. */
#include "nn/watch.h"

_Thread_local const cb_layer_watch *cb_layer_watching;

static cb_tensor *watched(const cb_layer *layer, const cb_module *module, cb_tensor *y)
{
    if (__builtin_expect(cb_layer_watching != NULL, 0) && y && cb_layer_watching->output)
        cb_layer_watching->output(cb_layer_watching->user, layer, module, y);
    return y;
}

static cb_tensor *given(const cb_layer *layer, cb_tensor *x)
{
    if (__builtin_expect(cb_layer_watching != NULL, 0) && x && cb_layer_watching->input)
        cb_layer_watching->input(cb_layer_watching->user, layer, x);
    return x;
}

cb_tensor *cb_layer_before(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    for (size_t i = 0; x && i < layer->module_count; i++) {
        const cb_module *m = layer->modules[i];
        if (m->kind->before)
            x = m->kind->before(m, x, ctx);
    }
    return x;
}

cb_tensor *cb_layer_after(const cb_layer *layer, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    for (size_t i = 0; y && i < layer->module_count; i++) {
        const cb_module *m = layer->modules[i];
        if (m->kind->forward)
            y = watched(layer, m, m->kind->forward(m, x, y, ctx));
    }
    return y;
}

static cb_tensor *effective_weight(const cb_layer *layer, const cb_context *ctx)
{
    cb_tensor *weight = cb_layer_weight(layer, "weight");
    for (size_t i = 0; weight && i < layer->module_count; i++) {
        const cb_module *m = layer->modules[i];
        if (m->kind->weight)
            weight = m->kind->weight(m, weight, ctx);
    }
    return weight;
}

static cb_tensor *effective_bias(const cb_layer *layer, const cb_context *ctx)
{
    cb_tensor *bias = cb_layer_weight(layer, "bias");
    for (size_t i = 0; cb_ok() && i < layer->module_count; i++) {
        const cb_module *m = layer->modules[i];
        if (m->kind->bias)
            bias = m->kind->bias(m, bias, ctx);
    }
    return bias;
}

typedef cb_tensor *linear_function(cb_tensor *x, cb_tensor *weight, cb_tensor *bias);

static cb_tensor *linear_with(linear_function *linear, const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = given(layer, cb_layer_before(layer, x, ctx));
    cb_tensor *weight = effective_weight(layer, ctx);
    if (weight && layer->transposed)
        weight = cb_transpose(weight, 0, 1);
    return cb_layer_after(layer, x, watched(layer, NULL, linear(x, weight, effective_bias(layer, ctx))), ctx);
}

cb_tensor *cb_linear_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    return linear_with(cb_linear, layer, x, ctx);
}

static bool modules_only_add(const cb_layer *layer)
{
    for (size_t i = 0; i < layer->module_count; i++) {
        const cb_module *m = layer->modules[i];
        if (m->kind->forward && !(m->kind->adds && m->kind->adds(m)))
            return false;
    }
    return true;
}

cb_tensor *cb_linear_forward_add(const cb_layer *layer, cb_tensor *residual, cb_tensor *x, const cb_context *ctx)
{
    if (ctx->unread && modules_only_add(layer))
        return cb_add(residual, linear_with(cb_linear_unread, layer, x, ctx));
    if (!layer->module_count && !layer->transposed && !cb_layer_weight(layer, "bias"))
        return watched(layer, NULL, cb_linear_add(residual, given(layer, x), cb_layer_weight(layer, "weight"), 1));
    return cb_add(residual, cb_linear_forward(layer, x, ctx));
}

cb_tensor *cb_conv2d_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    cb_tensor *y = cb_conv2d_with(x, effective_weight(layer, ctx), effective_bias(layer, ctx), layer->conv);
    return cb_layer_after(layer, x, y, ctx);
}

cb_tensor *cb_embedding_forward(const cb_layer *layer, cb_tensor *ids, cb_dtype dtype, const cb_context *ctx)
{
    ids = cb_layer_before(layer, ids, ctx);
    cb_tensor *y = cb_embedding(effective_weight(layer, ctx), ids);
    if (y && y->dtype != dtype)
        y = cb_cast(y, dtype);
    return cb_layer_after(layer, ids, watched(layer, NULL, y), ctx);
}

cb_tensor *cb_rms_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    return cb_layer_after(layer, x, watched(layer, NULL, cb_rms_norm(x, effective_weight(layer, ctx), layer->eps)), ctx);
}

cb_tensor *cb_layer_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx)
{
    x = cb_layer_before(layer, x, ctx);
    cb_tensor *weight = effective_weight(layer, ctx), *bias = effective_bias(layer, ctx);
    if (weight && bias && weight->dtype != bias->dtype) { /* one of them is trained */
        weight = cb_cast(weight, CB_F32);
        bias = cb_cast(bias, CB_F32);
    }
    cb_tensor *y = cb_layer_norm(x, weight, bias, layer->eps);
    return cb_layer_after(layer, x, watched(layer, NULL, y), ctx);
}

cb_tensor *cb_attention_forward(const cb_layer *layer, cb_tensor *q, cb_tensor *k, cb_tensor *v, cb_attention_options options,
                                const cb_context *ctx)
{
    for (size_t i = 0; i < layer->module_count; i++) {
        const cb_module *m = layer->modules[i];
        if (m->kind->attend && !m->kind->attend(m, &options, ctx))
            return NULL;
    }
    return watched(layer, NULL, cb_attention_with(q, k, v, options));
}
