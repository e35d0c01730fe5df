/* phm.h: a matrix as a sum of Kronecker products, H (in, out) = sum over i < n of A_i (x) W_i with small rules A_i (n, n) and weights
 * W_i (in / n, out / n): a parameterised hypercomplex multiplication (Zhang et al. 2021, arXiv:2102.08597), as Compacter has it (Mahabadi et
 * al. 2021, arXiv:2106.04647).  W_i may be a product of rank R, A_i one of rank 1, and either may be one for all layers. */
#ifndef CB_ADAPTERS_PHM_H
#define CB_ADAPTERS_PHM_H

#include "cambium/adapters.h"

typedef struct cb_phm_config {
    int64_t phm_dim, phm_rank;
    double phm_init_range;
    bool phm_layer, factorized_phm_W, shared_W_phm, shared_phm_rule, factorized_phm_rule, learn_phm, phm_bias;
    int phm_c_init, hypercomplex_nonlinearity;
} cb_phm_config;

extern const char *const cb_phm_rule_starts[], *const cb_phm_weight_starts[]; /* choices of phm_c_init, hypercomplex_nonlinearity */

/* A matrix or, where it is factorised, its two factors; the other fields stay NULL. */
typedef struct cb_phm_tensor {
    cb_tensor *whole, *left, *right;
} cb_phm_tensor;

typedef struct cb_phm_layer {
    cb_phm_tensor weight, rule; /* those that are shared stay NULL */
    cb_tensor *bias;
} cb_phm_layer;

/* What all layers share. */
typedef struct cb_phm_shared {
    cb_phm_tensor down, up, rule;
} cb_phm_shared;

/* Names of the file: whole, left and right of the weight, then of the rule, and the bias. */
#define CB_PHM_NAMES(prefix)                                                                                                               \
    {                                                                                                                                      \
        prefix "W", prefix "W_left", prefix "W_right", prefix "phm_rule", prefix "phm_rule_left", prefix "phm_rule_right", prefix "b"      \
    }

/* Refuses sizes that phm_dim does not divide. */
bool cb_phm_check(const cb_phm_config *config, const cb_layer *layer, int64_t in, int64_t out);
/* Append to a list of parameters, and return its new length. */
int cb_phm_parameters(const cb_phm_config *config, cb_phm_layer *phm, const char *const names[7], int64_t in, int64_t out,
                      cb_adapter_parameter *list, int count);
int cb_phm_shared_parameters(const cb_phm_config *config, cb_phm_shared *shared, int64_t in, int64_t size, int64_t out,
                             cb_adapter_parameter *list);
/* Fresh values; zero: the layer's result is to be zero. */
bool cb_phm_initialise(const cb_phm_config *config, cb_phm_layer *phm, cb_rng rng, bool zero);
bool cb_phm_shared_initialise(const cb_phm_config *config, cb_phm_shared *shared, uint64_t seed, bool zero_up);
/* x (..., in) -> (..., out); the weight and rule are the layer's or, where those are shared, `weight` and `rule`. */
cb_tensor *cb_phm_forward(const cb_phm_config *config, const cb_phm_layer *phm, const cb_phm_tensor *weight, const cb_phm_tensor *rule,
                          cb_tensor *x);

#endif
