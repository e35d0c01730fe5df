/* cotta.c: CoTTA: a student learns from its own moving average, which looks at several views of what the source is not sure of, and numbers of the
 * student go back to the source's at random.  Wang et al. 2022, arXiv:2203.13591.
 *
 * The answer is the teacher's, from before the update.  Student, teacher and source go by the batch's statistics alike. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "training/policies/policies.h"

typedef struct cotta_config {
    double momentum, restore_rate, threshold;
    int64_t views;
    bool teacher, symmetric;
} cotta_config;

typedef struct cotta {
    float *teacher;
    double threshold; /* that holds */
    float *sureness;  /* of source images, until they are all there */
    size_t count, capacity;
} cotta;

#define OPT cotta_config
static const cb_option options[] = {
    CB_OPT_BOOL(OPT, teacher, true, "learn from a moving average; off: from the student itself"),
    CB_OPT_FLOAT(OPT, momentum, 0.999, 0, 1, "of the moving average"),
    CB_OPT_INT(OPT, views, 32, 0, 100000, "views that the teacher's logits are a mean over (0: none, whatever the source says)"),
    CB_OPT_FLOAT(
        OPT, threshold, 0.92, 0, 1,
        "views are looked at when the source is less sure of a batch (CIFAR-10 0.92, CIFAR-100 0.72, ImageNet 0.1); with --source-images "
        "it is 0.05 below what 95 % of those are surer than"),
    CB_OPT_FLOAT(OPT, restore_rate, 0.01, 0, 1, "probability with which a number goes back to the source's, each step (ImageNet 0.001)"),
    CB_OPT_BOOL(OPT, symmetric, false, "half of the cross-entropy the other way round, as for ImageNet"),
    CB_OPT_END};
#undef OPT

static void reset(cb_policy *p)
{
    cotta *s = p->state;
    memcpy(s->teacher, cb_learner_source(p->learner), cb_learner_values(p->learner) * sizeof *s->teacher);
}

static bool open(cb_policy *p)
{
    cotta *s = p->state;
    const cotta_config *c = p->config;
    s->threshold = c->threshold;
    s->teacher = cb_calloc(cb_learner_values(p->learner) + 1, sizeof *s->teacher);
    if (s->teacher)
        reset(p);
    return s->teacher;
}

static void close(cb_policy *p)
{
    cotta *s = p->state;
    cb_free(s->teacher);
    cb_free(s->sureness);
}

/* ---- how sure the source is ---- */

static double most(const float *p, int64_t n)
{
    double best = 0;
    for (int64_t k = 0; k < n; k++)
        best = fmax(best, (double)p[k]);
    return best;
}

/* The source's, by the statistics that student and teacher go by. */
static const float *anchor(cb_policy *p, cb_tensor *input)
{
    return cb_probabilities(cb_learner_source_logits(p->learner, CB_ADAPT_STATISTICS_OF_METHOD, input));
}

/* Mean over the batch of the largest probability. */
static double sureness(cb_policy *p, cb_tensor *input)
{
    const float *probability = anchor(p, input);
    double sum = 0;
    for (int64_t i = 0; probability && i < input->shape[0]; i++)
        sum += most(probability + i * p->classes, p->classes);
    return sum / (double)input->shape[0];
}

static bool study(cb_policy *p, cb_tensor *input)
{
    cotta *s = p->state;
    const float *probability = anchor(p, input);
    bool ok = probability && cb_grow(&s->sureness, &s->capacity, s->count + (size_t)input->shape[0], sizeof *s->sureness);
    for (int64_t i = 0; ok && i < input->shape[0]; i++)
        s->sureness[s->count++] = (float)most(probability + i * p->classes, p->classes);
    return ok;
}

static int by_value(const void *a_, const void *b_)
{
    const float *a = a_, *b = b_;
    return (*a > *b) - (*a < *b);
}

/* The fifth percentile, less 0.05: the authors' rule. */
static bool studied(cb_policy *p)
{
    cotta *s = p->state;
    if (s->count) {
        qsort(s->sureness, s->count, sizeof *s->sureness, by_value);
        s->threshold = fmax(0, (double)s->sureness[(s->count - 1) / 20] - 0.05);
    }
    cb_free(s->sureness);
    s->sureness = NULL;
    s->count = s->capacity = 0;
    return true;
}

/* ---- a step ---- */

/* By what the learner holds now. */
static cb_tensor *logits_of(cb_policy *p, cb_tensor *input)
{
    return cb_learner_logits_with(p->learner, NULL, CB_ADAPT_STATISTICS_OF_METHOD, input);
}

/* Of one view, in a scope of its own. */
static cb_tensor *view_logits(cb_policy *p, cb_tensor *input)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *logits = cb_scope_return(scope, logits_of(p, cb_policy_view(p, input)));
    cb_scope_close(scope);
    return logits;
}

static cb_tensor *mean_over_views(cb_policy *p, cb_tensor *input, int64_t views)
{
    cb_tensor *sum = NULL;
    for (int64_t i = 0; cb_ok() && i < views; i++) {
        cb_tensor *logits = view_logits(p, input);
        sum = i ? cb_add(sum, logits) : logits;
    }
    return cb_scale(sum, 1 / (double)views);
}

/* Logits: eq. 3 where the source is not sure, else eq. 2.  The teacher takes the learner's place once for all views. */
static cb_tensor *target_logits(cb_policy *p, cb_tensor *input)
{
    const cotta_config *c = p->config;
    const cotta *s = p->state;
    bool views = c->views > 0 && s->threshold > 0 && sureness(p, input) < s->threshold;
    if (c->teacher)
        cb_learner_exchange(p->learner, s->teacher);
    cb_tensor *logits = views ? mean_over_views(p, input, c->views) : logits_of(p, input);
    if (c->teacher)
        cb_learner_exchange(p->learner, s->teacher);
    return logits;
}

static cb_tensor *consistency(cb_tensor *student, cb_tensor *target, bool symmetric)
{
    cb_tensor *loss = cb_soft_cross_entropy(student, cb_softmax(target, -1), 0, CB_REDUCE_MEAN); /* eq. 4 */
    if (!symmetric)
        return loss;
    cb_tensor *other = cb_soft_cross_entropy(target, cb_softmax(student, -1), 0, CB_REDUCE_MEAN);
    return cb_add(cb_scale(loss, 0.5), cb_scale(other, 0.5));
}

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    const cotta_config *c = p->config;
    cotta *s = p->state;
    cb_tensor *target = NULL;
    cb_no_grad target = target_logits(p, input);
    cb_learner_update(p->learner, consistency(cb_learner_logits(p->learner, input), target, c->symmetric));
    cb_learner_average(p->learner, s->teacher, c->momentum);  /* eq. 2 */
    cb_learner_restore(p->learner, c->restore_rate, &p->rng); /* eq. 7 and 8 */
    return target;
}

static bool blocks(cb_policy *p, cb_block_list *list)
{
    cotta *s = p->state;
    return cb_block_add(list, (cb_block){"cotta.teacher", s->teacher, cb_learner_values(p->learner) * sizeof *s->teacher, false}) &&
           cb_block_add(list, (cb_block){"cotta.threshold", &s->threshold, sizeof s->threshold, false});
}

static const char *of_images(const cb_policy *p)
{
    const cotta_config *c = p->config;
    return c->views ? "several views of an image (views=0 goes without)" : NULL;
}

static float *answering(cb_policy *p)
{
    const cotta_config *c = p->config;
    return c->teacher ? ((cotta *)p->state)->teacher : NULL;
}

static const char *goes_by(const cb_policy *p, double *number)
{
    *number = ((const cotta *)p->state)->threshold;
    return "threshold";
}

const cb_policy_kind cb_policy_cotta = {.name = "cotta",
                                        .summary = "learns from a moving average over several views, and goes back to the source at random",
                                        .paper = "Wang et al. 2022, arXiv:2203.13591",
                                        .options = options,
                                        .config_size = sizeof(cotta_config),
                                        .state_size = sizeof(cotta),
                                        .defaults = {.trained = CB_TRAINED_ALL,
                                                     .optimizer = CB_OPTIMIZER_ADAM,
                                                     .learning_rate = 1e-3,
                                                     .momentum = 0.9,
                                                     .statistics = CB_ADAPT_STATISTICS_BATCH},
                                        .wants = CB_POLICY_WANTS_MIXED,
                                        .open = open,
                                        .step = step,
                                        .study = study,
                                        .studied = studied,
                                        .reset = reset,
                                        .blocks = blocks,
                                        .close = close,
                                        .of_images = of_images,
                                        .answering = answering,
                                        .goes_by = goes_by};
