/* tent.c: Tent: answers are made surer.  Wang et al. 2021, arXiv:2006.10726. */
#include "training/policies/policies.h"

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    cb_tensor *logits = cb_learner_logits(p->learner, input);
    cb_learner_update(p->learner, cb_mean(cb_entropies(logits), CB_ALL, false)); /* eq. 1 */
    return logits;
}

const cb_policy_kind cb_policy_tent = {.name = "tent",
                                       .summary = "makes answers surer: the entropy of each falls",
                                       .paper = "Wang et al. 2021, arXiv:2006.10726",
                                       .defaults = {.trained = CB_TRAINED_NORMS,
                                                    .optimizer = CB_OPTIMIZER_ADAM,
                                                    .learning_rate = 1e-3,
                                                    .momentum = 0.9,
                                                    .statistics = CB_ADAPT_STATISTICS_BATCH},
                                       .wants = CB_POLICY_WANTS_MIXED,
                                       .step = step};
