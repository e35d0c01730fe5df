/* tied.h: ensure_weight_tying: a head that is tied to the embedding stays so where an adapter trains one of them: whole, by factors, or some
 * rows. */
#ifndef CB_ADAPTERS_TIED_H
#define CB_ADAPTERS_TIED_H

#include "adapters/internal.h"

bool cb_keeps_weights_tied(const cb_adapter *adapter);
/* The layer below root whose weight is another's, if the adapter trains one of the two and is to keep it so; NULL: there is none
 * (with a warning), or it is not. */
cb_layer *cb_tied_head(const cb_adapter *adapter, cb_layer *root);
/* Whether `layers` has the head or its embedding; then it has the embedding alone afterwards. */
bool cb_tied_replace(cb_layer *head, cb_layer **layers, size_t *count);

#endif
