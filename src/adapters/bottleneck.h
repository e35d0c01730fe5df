/* bottleneck.h: the options of bottleneck adapters, which AdapterHub's files (hub.c) know too. */
#ifndef CB_ADAPTERS_BOTTLENECK_H
#define CB_ADAPTERS_BOTTLENECK_H

#include "adapters/activation.h"
#include "adapters/invertible.h"
#include "adapters/phm.h"

enum { CB_RESIDUAL_AFTER, CB_RESIDUAL_BEFORE, CB_RESIDUAL_POST_ADD }; /* values of residual_before_ln */

typedef struct cb_bottleneck_config {
    bool mh_adapter, output_adapter, cross_adapter;
    double reduction_factor;
    cb_option_map reduction_factor_pattern; /* block numbers to factors */
    int64_t bottleneck_size;
    int non_linearity, init_weights, residual_before_ln, inv_adapter, bias;
    bool original_ln_before, original_ln_after, ln_before, ln_after, adapter_residual_before_ln, is_parallel, use_gating, inverse_at_head;
    char *scaling;
    double inv_adapter_reduction_factor, dropout, stochastic_depth;
    cb_string_list leave_out;
    cb_phm_config phm;
} cb_bottleneck_config;

extern const cb_adapter_kind cb_kind_bottleneck;

/* The factor by which the width of block `number` is reduced. */
double cb_bottleneck_factor(const cb_bottleneck_config *config, int64_t number);

#endif
