/* source.c: nothing is learned: the network as it is, or with the statistics of what it sees.  The latter: Schneider et al. 2020, arXiv:2006.16971;
 * Nado et al. 2020, arXiv:2006.10963. */
#include "training/policies/policies.h"

static cb_tensor *answer(cb_policy *p, cb_tensor *input)
{
    return cb_learner_logits_with(p->learner, NULL, CB_ADAPT_STATISTICS_OF_METHOD, input);
}

const cb_policy_kind cb_policy_source = {.name = "source",
                                         .summary = "nothing: the model as it is",
                                         .paper = "",
                                         .defaults = {.trained = CB_TRAINED_NOTHING, .statistics = CB_ADAPT_STATISTICS_RUNNING},
                                         .step = answer};

const cb_policy_kind cb_policy_bn = {.name = "bn",
                                     .summary =
                                         "batch norms go by the batch's statistics, or by a mix (--statistics mixed --running-weight X)",
                                     .paper = "Schneider et al. 2020, arXiv:2006.16971",
                                     .defaults = {.trained = CB_TRAINED_NOTHING, .statistics = CB_ADAPT_STATISTICS_BATCH},
                                     .wants = CB_POLICY_WANTS_MIXED,
                                     .step = answer};
