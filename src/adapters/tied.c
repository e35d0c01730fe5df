/* tied.c: see tied.h. */
#include "adapters/tied.h"

#include <string.h>

#include "adapters/lora.h"

static bool find_head(void *user, cb_layer *layer)
{
    cb_layer **found = user;
    if (!*found && layer->tied && layer->tied->kind == CB_LAYER_EMBEDDING && !cb_layer_own_weight(layer, "weight"))
        *found = layer;
    return true;
}

cb_layer *cb_tied_head(const cb_adapter *adapter, cb_layer *root)
{
    cb_layer *head = NULL;
    if (adapter->kind != &cb_kind_lora || !((const lora_config *)adapter->config)->ensure_weight_tying)
        return NULL;
    cb_layer_visit(root, find_head, &head);
    if (!head)
        cb_log_message(CB_LOG_WARNING, "ensure_weight_tying: no layer of the model is tied to another");
    return head;
}

bool cb_tied_replace(cb_layer *head, cb_layer **layers, size_t *count)
{
    size_t kept = 0;
    bool had = false, embedding = false;
    for (size_t i = 0; head && i < *count; i++) {
        had |= layers[i] == head || layers[i] == head->tied;
        embedding |= layers[i] == head->tied;
        if (layers[i] != head)
            layers[kept++] = layers[i];
    }
    if (had && !embedding) /* in the room that the head left */
        layers[kept++] = head->tied;
    *count = had ? kept : *count;
    return had;
}
