/* lora.h: the options of LoRA, for the files that work out how its factors start. */
#ifndef CB_ADAPTERS_LORA_H
#define CB_ADAPTERS_LORA_H

#include "cambium/adapters.h"

typedef struct lora_config {
    int64_t rank;
    double alpha, dropout;
    bool use_rslora, use_dora, lora_bias, ensure_weight_tying;
    int bias;
    char *init_weights;
    cb_option_map rank_pattern, alpha_pattern;
    cb_string_list trainable_token_indices;
    /* eva */
    double eva_rho, eva_tau;
    bool eva_use_label_mask, eva_whiten, eva_adjust_scaling_factors;
    int64_t eva_label_mask_value;
    /* corda */
    int corda_method; /* index into ipm, kpm */
    char *corda_cache_file, *corda_covariance_file;
    /* loftq */
    int64_t loftq_bits, loftq_iter;
} lora_config;

enum { CB_CORDA_IPM, CB_CORDA_KPM };

/* The rank and alpha of one layer. */
bool cb_lora_sizes(const lora_config *config, const cb_layer *layer, int64_t *rank, double *alpha);

/* A module on `head`, which is tied to an embedding that has one, with that one's factors the other way round. */
bool cb_lora_plan_tied(cb_adapter *adapter, cb_layer *head, bool fresh);

extern const cb_adapter_kind cb_kind_lora;

#endif
