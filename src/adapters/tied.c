/* tied.c: see tied.h. */
#include "adapters/tied.h"

#include <string.h>
#include <strings.h>

#include "adapters/lora.h"

static bool find_head(void *user, cb_layer *layer)
{
    cb_layer **found = user;
    if (!*found && layer->tied && layer->tied->kind == CB_LAYER_EMBEDDING && !cb_layer_own_weight(layer, "weight"))
        *found = layer;
    return true;
}

bool cb_keeps_weights_tied(const cb_adapter *adapter)
{
    return adapter->kind == &cb_kind_lora && ((const lora_config *)adapter->config)->ensure_weight_tying;
}

/* The names by which PEFT knows embeddings (peft/utils/constants.py: EMBEDDING_LAYER_NAMES). */
static const char *const embedding_names[] = {"embed_tokens", "lm_head"};

static bool lists_embedding(const cb_string_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        const char *dot = strrchr(list->items[i], '.'), *last = dot ? dot + 1 : list->items[i];
        if (strcmp(last, embedding_names[0]) == 0 || strcmp(last, embedding_names[1]) == 0)
            return true;
    }
    return false;
}

static bool matches_embedding(const char *pattern)
{
    cb_name_pattern *compiled = strcasecmp(pattern, "all-linear") ? cb_name_pattern_new("target_modules", pattern) : NULL;
    bool found = compiled && (cb_name_pattern_test(compiled, embedding_names[0], true) == 1 ||
                              cb_name_pattern_test(compiled, embedding_names[1], true) == 1);
    cb_name_pattern_free(compiled);
    return found;
}

/* As in PEFT layers stay tied where options have one of these names: GPT-2's wte is not one, its lm_head is. */
static bool names_embedding(const cb_target *target)
{
    bool pattern = target->target_is_pattern && target->target_modules.count == 1;
    return lists_embedding(&target->modules_to_save) ||
           (pattern ? matches_embedding(target->target_modules.items[0]) : lists_embedding(&target->target_modules));
}

cb_layer *cb_tied_head(const cb_adapter *adapter, cb_layer *root)
{
    cb_layer *head = NULL;
    if (!cb_keeps_weights_tied(adapter) || !names_embedding(&adapter->target))
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
