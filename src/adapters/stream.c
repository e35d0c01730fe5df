/* stream.c: how wide the stream of a transformer is at one of its layers. */
#include "adapters/internal.h"

enum { MOST_DEPTH = 4 };

/* The first or the last layer of a kind so many steps below. */
static const cb_layer *below(const cb_layer *layer, cb_layer_kind kind, int depth, bool last)
{
    for (size_t i = 0; i < layer->child_count; i++) {
        const cb_layer *child = layer->children[last ? layer->child_count - 1 - i : i], *found = NULL;
        if (depth > 1)
            found = below(child, kind, depth - 1, last);
        else if (child->kind == kind)
            found = child;
        if (found)
            return found;
    }
    return NULL;
}

/* What a linear layer takes, what the last linear layer of an attention or MLP gives, or else what the first norm has; those higher up count for more, since a norm
 * further down may be one of heads. */
int64_t cb_stream_width(const cb_layer *layer)
{
    if (layer->kind == CB_LAYER_LINEAR)
        return layer->in_features;
    for (int depth = 1; layer->kind != CB_LAYER_BLOCK && depth <= MOST_DEPTH; depth++) {
        const cb_layer *linear = below(layer, CB_LAYER_LINEAR, depth, true);
        if (linear)
            return linear->out_features;
    }
    for (int depth = 1; depth <= MOST_DEPTH; depth++) {
        const cb_layer *norm = below(layer, CB_LAYER_NORM, depth, false);
        const cb_tensor *weight = norm ? cb_layer_weight(norm, "weight") : NULL;
        if (weight)
            return weight->count;
    }
    return layer->out_features;
}
