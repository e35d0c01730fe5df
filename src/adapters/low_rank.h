/* low_rank.h: what kinds share that change a weight by two thin factors, W + s B A with A (R, in) and B (out, R): products with weights as
 * layers store them, the first singular triples of a matrix, and how the factors start. */
#ifndef CB_ADAPTERS_LOW_RANK_H
#define CB_ADAPTERS_LOW_RANK_H

#include "cambium/adapters.h"

/* ---- factors.c ---- */

/* Whether the weight is stored (in, out): GPT-2's Conv1D, and embeddings, whose inputs are their rows. */
bool cb_stores_inputs_first(const cb_layer *layer);
/* x (..., in) -> (..., out) through the layer's own weight alone, whatever its dtype and order. */
cb_tensor *cb_through_weight(const cb_layer *layer, cb_tensor *x);
/* The weight as (out, in) f32, in the innermost scope; it may be a view of the layer's. */
cb_tensor *cb_weight_f32(const cb_layer *layer);
/* Sums of squares of the weight's rows, (out), or columns, (in), f32, made of slices: no f32 copy of the whole. */
typedef enum cb_squares_of { CB_SQUARES_OF_OUTPUTS, CB_SQUARES_OF_INPUTS } cb_squares_of;
cb_tensor *cb_weight_squares(const cb_layer *layer, cb_squares_of what);
/* B A in the order in which the layer stores its weight. */
cb_tensor *cb_factors_product(const cb_layer *layer, cb_tensor *a, cb_tensor *b);
/* The first `rank` singular triples of x (m, n) f32, rank <= min(m, n): exactly, or for niter >= 0 from random projections to
 * min(rank + extra, m, n) dimensions and niter power iterations.  Halko et al. 2011, arXiv:0909.4061, algorithms 4.4 and 5.1. */
bool cb_svd_first(cb_tensor *x, int64_t rank, int64_t extra, int niter, cb_rng rng, cb_tensor **u, cb_tensor **s, cb_tensor **vt);

/* ---- initial.c ---- */

/* How two factors start. */
typedef struct cb_factors_start {
    const char *name; /* of PEFT's init_lora_weights: "true", "pissa", "pissa_niter_4", ... */
    int64_t rank;
    double scale; /* s */
    uint64_t seed;
} cb_factors_start;

/* Whether there is such a start; refuses another by name. */
bool cb_factors_start_check(const char *option, const char *name);
/* B A is not zero at first, and its first value is taken from the base: W - s B0 A0 + s B A. */
bool cb_factors_start_takes_from_base(const char *name);
/* Fills a (R, in) and b (out, R) of module m, one of an adapter, which are zero. */
bool cb_factors_begin(const cb_factors_start *start, const cb_module *m, cb_tensor *a, cb_tensor *b);

#endif
