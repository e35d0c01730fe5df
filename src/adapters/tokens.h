/* tokens.h: rows of embeddings that an adapter trains, as its kind (TRAINABLE_TOKENS) or beside its modules (trainable_token_indices). */
#ifndef CB_ADAPTERS_TOKENS_H
#define CB_ADAPTERS_TOKENS_H

#include "adapters/internal.h"

/* Plans the modules that `indices` ask for: "7" is a row of the model's input embedding, "lm_head:7" one of the layers whose names end
 * with lm_head.  tied: a head that is tied to the embedding must have the same rows.  Part of cb_adapter_plan(). */
bool cb_tokens_plan(cb_adapter *adapter, cb_layer *root, const cb_string_list *indices, bool tied, bool fresh);
/* Lets heads that are tied to an embedding with such rows use them too. */
bool cb_tokens_plan_tied(cb_adapter *adapter, cb_layer *root, bool fresh);

extern const cb_adapter_kind cb_kind_trainable_tokens;

#endif
