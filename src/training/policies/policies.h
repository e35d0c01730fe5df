/* policies.h: what policies share, beside what adapt.h says of them.  B rows of a batch, K labels. */
#ifndef CB_TRAINING_POLICIES_H
#define CB_TRAINING_POLICIES_H

#include "cambium/adapt.h"
#include "cambium/losses.h"

/* One line each. */
extern const cb_policy_kind cb_policy_source, cb_policy_bn, cb_policy_tent, cb_policy_eata, cb_policy_rdumb, cb_policy_sar, cb_policy_cotta,
    cb_policy_rotta, cb_policy_roid, cb_policy_lame, cb_policy_memo;

/* Entropies of the softmax of logits (B, K), (B), as a function of the logits. */
cb_tensor *cb_entropies(cb_tensor *logits);
/* sum_i weights[i] rows[i] / divisor, of rows (B). */
cb_tensor *cb_weighted_sum(cb_tensor *rows, const float *weights, double divisor);
/* The values of a tensor, which live as long as it, or its scope. */
const float *cb_floats(cb_tensor *t);
/* Probabilities of logits (B, K) without a gradient. */
const float *cb_probabilities(cb_tensor *logits);
/* average = momentum average + (1 - momentum) mean of the probabilities (rows, K) of chosen rows (chosen NULL: of all); without a chosen row it
 * stays, and *known 0: it becomes their mean. */
void cb_average_probabilities(float *average, int64_t *known, double momentum, const float *probabilities, const float *chosen,
                              int64_t rows, int64_t classes);
/* Another view of normalised images (B, C, H, W), one draw for all of them (images/views.h). */
cb_tensor *cb_policy_view(cb_policy *policy, cb_tensor *input);
/* sum_j weight_j (value_j - source_j)^2 over all parameters, as a function of them. */
cb_tensor *cb_learner_tether(cb_learner *learner, const float *weights);

#endif
