/* reft.h: what AdapterHub's files (hub.c) know of representation fine-tuning. */
#ifndef CB_ADAPTERS_REFT_H
#define CB_ADAPTERS_REFT_H

#include "cambium/adapters.h"

#define CB_REFT_ORTHOGONAL "projection.parametrizations.weight.original"

typedef struct cb_reft_config {
    cb_string_list layers;
    int64_t prefix_positions, suffix_positions, rank;
    bool orthogonality, tied_weights, subtract_projection;
    double dropout;
    int non_linearity;
} cb_reft_config;

extern const cb_adapter_kind cb_kind_reft;

#endif
