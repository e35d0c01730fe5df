/* shared.h: a layer whose modules act on shares of the batch. */
#ifndef CB_NN_SHARED_H
#define CB_NN_SHARED_H

#include "nn/blend.h"
#include "nn/watch.h"

/* Shows y to whoever looks on, and gives it. */
static inline cb_tensor *cb_watched(const cb_layer *layer, const cb_module *module, cb_tensor *y)
{
    if (__builtin_expect(cb_layer_watching != NULL, 0) && y && cb_layer_watching->output)
        cb_layer_watching->output(cb_layer_watching->user, layer, module, y);
    return y;
}

/* What a layer computes, where modules of a kind it is concerned with change how. */
typedef struct cb_shared {
    cb_parts parts;
    const cb_context *ctx;
    bool (*concerns)(const cb_module_kind *kind);
    /* The result for some rows with the modules that are on (NULL: all are). */
    cb_tensor *(*run)(const struct cb_shared *shared, const cb_region *rows, const bool *on);
} cb_shared;

/* The result for all rows, each with its own modules; x (B, ...) is the layer's input. */
cb_tensor *cb_shared_result(const cb_shared *shared, cb_tensor *x);

/* What cb_layer_before() and cb_layer_after() do in a blend. */
cb_tensor *cb_shared_before(const cb_parts *parts, cb_tensor *x, const cb_context *ctx);
cb_tensor *cb_shared_after(const cb_layer *layer, const cb_parts *parts, cb_tensor *x, cb_tensor *y, const cb_context *ctx);

#endif
