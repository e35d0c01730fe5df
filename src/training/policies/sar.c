/* sar.c: SAR: entropy of sure answers falls where it is flat, not where it is sharp; and all begins anew when it has fallen too far.
 * Niu et al. 2023, arXiv:2302.12400. */
#include <math.h>

#include "training/policies/policies.h"

typedef struct sar_config {
    double entropy_margin, radius, recover_below;
} sar_config;

typedef struct sar {
    float *values;  /* where the step began */
    double entropy; /* moving average of what was learned from; less than 0: there is none */
} sar;

#define OPT sar_config
static const cb_option options[] = {
    CB_OPT_FLOAT(OPT, entropy_margin, 0.4, 0, 1e6, "answers are learned from whose entropy is below this share of ln K"),
    CB_OPT_FLOAT(OPT, radius, 0.05, 0, 1e6, "how far away the sharpest place is looked for"),
    CB_OPT_FLOAT(OPT, recover_below, 0.2, 0, 1e6, "all begins anew when the mean entropy is below this (0: never)"), CB_OPT_END};
#undef OPT

static void reset(cb_policy *p)
{
    sar *s = p->state;
    s->entropy = -1;
}

static bool open(cb_policy *p)
{
    sar *s = p->state;
    reset(p);
    return (s->values = cb_calloc(cb_learner_values(p->learner) + 1, sizeof *s->values));
}

static void close(cb_policy *p)
{
    sar *s = p->state;
    cb_free(s->values);
}

/* Which are sure, as ones, of those that are chosen (NULL: of all). */
static int64_t choose(const cb_policy *p, const float *entropy, const float *chosen, int64_t rows, float *sure)
{
    const sar_config *c = p->config;
    double margin = c->entropy_margin * log((double)p->classes);
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        sure[i] = (double)entropy[i] < margin && (!chosen || chosen[i] != 0);
        count += sure[i] != 0;
    }
    return count;
}

/* Parameters go up the gradient by `radius`; values keeps where they were. */
static void climb(cb_policy *p, float *values)
{
    const sar_config *c = p->config;
    const cb_named_tensor *list;
    size_t count = cb_learner_parameters(p->learner, &list);
    float scale = (float)(c->radius / (cb_learner_gradient_norm(p->learner) + 1e-12));
    cb_learner_get(p->learner, values);
    for (size_t i = 0; i < count; i++) {
        float *own = list[i].tensor->data;
        const float *g = list[i].tensor->grad ? cb_floats(list[i].tensor->grad) : NULL;
        for (int64_t k = 0; g && k < list[i].tensor->count; k++)
            own[k] += scale * g[k];
        cb_zero_grad(list[i].tensor);
    }
}

/* The gradient from where it is sharpest, at the answers that are sure there too; false where none is. */
static bool descend(cb_policy *p, cb_tensor *input, const float *sure)
{
    sar *s = p->state;
    cb_tensor *entropies = cb_entropies(cb_learner_logits(p->learner, input)), *still = cb_empty_like(entropies);
    const float *entropy = cb_floats(entropies);
    int64_t count = entropy && still ? choose(p, entropy, sure, entropies->count, still->data) : 0;
    cb_tensor *loss = count ? cb_weighted_sum(entropies, still->data, (double)count) : NULL;
    bool ok = loss && cb_learner_gradients(p->learner, loss);
    if (ok)
        s->entropy = s->entropy < 0 ? cb_item(loss) : 0.9 * s->entropy + 0.1 * cb_item(loss);
    return ok;
}

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    const sar_config *c = p->config;
    sar *s = p->state;
    cb_tensor *logits = cb_learner_logits(p->learner, input), *entropies = cb_entropies(logits), *sure = cb_empty_like(entropies);
    const float *entropy = cb_floats(entropies);
    int64_t count = entropy && sure ? choose(p, entropy, NULL, entropies->count, sure->data) : 0;
    if (!count || !cb_learner_size(p->learner) || !cb_learner_gradients(p->learner, cb_weighted_sum(entropies, sure->data, (double)count)))
        return logits;
    climb(p, s->values);
    bool learned = descend(p, input, sure->data);
    cb_learner_set(p->learner, s->values);
    if (learned)
        cb_learner_apply(p->learner);
    if (learned && s->entropy < c->recover_below) {
        cb_learner_reset(p->learner);
        reset(p);
        p->resets++;
    }
    return logits;
}

static bool blocks(cb_policy *p, cb_block_list *list)
{
    sar *s = p->state;
    return cb_block_add(list, (cb_block){"sar.entropy", &s->entropy, sizeof s->entropy, false});
}

const cb_policy_kind cb_policy_sar = {.name = "sar",
                                      .summary =
                                          "tent on sure answers, by steps that are good all around (SAM), and anew when it collapses",
                                      .paper = "Niu et al. 2023, arXiv:2302.12400",
                                      .options = options,
                                      .config_size = sizeof(sar_config),
                                      .state_size = sizeof(sar),
                                      .defaults = {.trained = CB_TRAINED_NORMS,
                                                   .optimizer = CB_OPTIMIZER_SGD,
                                                   .learning_rate = 2.5e-4,
                                                   .momentum = 0.9,
                                                   .skip_last = 0.25,
                                                   .statistics = CB_ADAPT_STATISTICS_BATCH},
                                      .wants = CB_POLICY_WANTS_MIXED,
                                      .open = open,
                                      .step = step,
                                      .reset = reset,
                                      .blocks = blocks,
                                      .close = close};
