/* watch.h: looking at what layers are given and give while a model runs: to find out where something went wrong, or what an adapter is to
 * start from. */
#ifndef CB_NN_WATCH_H
#define CB_NN_WATCH_H

#include "cambium/nn.h"

/* `input` is called with what a linear layer multiplies, `output` with every output on the way: the layer's own (module NULL), then that of
 * each of its modules.  Either may be NULL. */
typedef struct cb_layer_watch {
    void (*input)(void *user, const cb_layer *layer, cb_tensor *x);
    void (*output)(void *user, const cb_layer *layer, const cb_module *module, const cb_tensor *y);
    void *user;
} cb_layer_watch;

/* Who looks on, on this thread; NULL: nobody, which costs a comparison a layer. */
extern _Thread_local const cb_layer_watch *cb_layer_watching;

#endif
