/* eata.c: EATA: only answers that are sure, and unlike those learned from so far, count; parameters that matter for the source's images are held.
 * Niu et al. 2022, arXiv:2204.02610.  RDumb: the same without that, and all begins anew every so often.  Press et al. 2023, arXiv:2306.05401. */
#include <math.h>
#include <string.h>

#include "training/policies/policies.h"

typedef struct eata_config {
    double entropy_margin, similarity_margin, fisher_alpha;
} eata_config;

typedef struct eata {
    float *mean;   /* (K) of the answers that were learned from */
    int64_t known; /* 0: of none yet */
    float *fisher; /* of each number that is trained; zeros: nothing is held */
    int64_t batches;
} eata;

#define OPT eata_config
static const cb_option options[] = {
    CB_OPT_FLOAT(OPT, entropy_margin, 0.4, 0, 1e6, "answers are learned from whose entropy is below this share of ln K"),
    CB_OPT_FLOAT(OPT, similarity_margin, 0.05, 0, 1, "and whose cosine with their mean so far is below this (0.4 for ten labels)"),
    CB_OPT_FLOAT(OPT, fisher_alpha, 2000, 0, 1e12, "how strongly parameters are held (needs --source-images; 1 for ten labels)"),
    CB_OPT_END};
#undef OPT

static bool open(cb_policy *p)
{
    eata *s = p->state;
    s->mean = cb_calloc((size_t)p->classes, sizeof *s->mean);
    s->fisher = cb_calloc(cb_learner_values(p->learner) + 1, sizeof *s->fisher);
    return s->mean && s->fisher;
}

static void close(cb_policy *p)
{
    eata *s = p->state;
    cb_free(s->mean);
    cb_free(s->fisher);
}

static double cosine(const float *a, const float *b, int64_t n)
{
    double dot = 0, aa = 0, bb = 0;
    for (int64_t k = 0; k < n; k++) {
        dot += (double)a[k] * (double)b[k];
        aa += (double)a[k] * (double)a[k];
        bb += (double)b[k] * (double)b[k];
    }
    return aa > 0 && bb > 0 ? dot / sqrt(aa * bb) : 0;
}

/* S(x) of eq. 4: 1 / exp(E - E0), or 0 of answers that are not sure, or like the others; returns how many are not 0. */
static int64_t weigh(const cb_policy *p, const float *entropy, const float *probability, int64_t rows, float *weight)
{
    const eata_config *c = p->config;
    const eata *s = p->state;
    double margin = c->entropy_margin * log((double)p->classes);
    int64_t chosen = 0;
    for (int64_t i = 0; i < rows; i++) {
        bool sure = (double)entropy[i] < margin;
        bool unlike = !s->known || fabs(cosine(probability + i * p->classes, s->mean, p->classes)) < c->similarity_margin;
        weight[i] = sure && unlike ? (float)exp(margin - (double)entropy[i]) : 0;
        chosen += sure && unlike;
    }
    return chosen;
}

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    const eata_config *c = p->config;
    eata *s = p->state;
    cb_tensor *logits = cb_learner_logits(p->learner, input), *entropies = cb_entropies(logits);
    const float *entropy = cb_floats(entropies), *probability = cb_probabilities(logits);
    cb_tensor *weights = logits ? cb_zeros(CB_F32, logits->shape[0]) : NULL;
    if (!entropy || !probability || !weights)
        return NULL;
    int64_t rows = logits->shape[0], chosen = weigh(p, entropy, probability, rows, weights->data);
    cb_average_probabilities(s->mean, &s->known, 0.9, probability, weights->data, rows, p->classes);
    if (!chosen)
        return logits;
    cb_tensor *loss = cb_weighted_sum(entropies, weights->data, (double)chosen);
    if (s->batches && c->fisher_alpha > 0)
        loss = cb_add(loss, cb_scale(cb_learner_tether(p->learner, s->fisher), c->fisher_alpha)); /* eq. 8 */
    cb_learner_update(p->learner, loss);
    return logits;
}

/* The squares of gradients of the cross-entropy with the model's own answers, a mean over batches (eq. 9). */
static bool study(cb_policy *p, cb_tensor *input)
{
    eata *s = p->state;
    const cb_named_tensor *list;
    size_t count = cb_learner_parameters(p->learner, &list), at = 0;
    cb_tensor *logits = cb_learner_logits(p->learner, input);
    cb_tensor *targets = logits ? cb_cast(cb_argmax(cb_detach(logits), 1, false), CB_I64) : NULL;
    cb_linear_cross_entropy_options how = {.ignore_index = -100};
    if (!targets || !cb_learner_gradients(p->learner, cb_cross_entropy_with(logits, targets, how)))
        return false;
    s->batches++;
    for (size_t i = 0; i < count; i++) {
        cb_tensor *g = list[i].tensor->grad;
        const float *values = g ? cb_floats(g) : NULL;
        for (int64_t k = 0; values && k < g->count; k++) {
            float *f = &s->fisher[at + (size_t)k];
            *f += (values[k] * values[k] - *f) / (float)s->batches;
        }
        at += (size_t)list[i].tensor->count;
        cb_zero_grad(list[i].tensor);
    }
    return cb_ok();
}

static void reset(cb_policy *p)
{
    eata *s = p->state;
    memset(s->mean, 0, (size_t)p->classes * sizeof *s->mean);
    s->known = 0;
}

static bool blocks(cb_policy *p, cb_block_list *list)
{
    eata *s = p->state;
    return cb_block_add(list, (cb_block){"eata.mean", s->mean, (size_t)p->classes * sizeof *s->mean, false}) &&
           cb_block_add(list, (cb_block){"eata.known", &s->known, sizeof s->known, false}) &&
           cb_block_add(list, (cb_block){"eata.fisher", s->fisher, cb_learner_values(p->learner) * sizeof *s->fisher, true}) &&
           cb_block_add(list, (cb_block){"eata.batches", &s->batches, sizeof s->batches, false});
}

#define OF_ENTROPY                                                                                                                         \
    .trained = CB_TRAINED_NORMS, .optimizer = CB_OPTIMIZER_SGD, .learning_rate = 2.5e-4, .momentum = 0.9,                                  \
    .statistics = CB_ADAPT_STATISTICS_BATCH

const cb_policy_kind cb_policy_eata = {.name = "eata",
                                       .summary = "tent on answers that are sure and new, with parameters held that source images need",
                                       .paper = "Niu et al. 2022, arXiv:2204.02610",
                                       .options = options,
                                       .config_size = sizeof(eata_config),
                                       .state_size = sizeof(eata),
                                       .defaults = {OF_ENTROPY},
                                       .wants = CB_POLICY_WANTS_MIXED,
                                       .open = open,
                                       .step = step,
                                       .study = study,
                                       .reset = reset,
                                       .blocks = blocks,
                                       .close = close};

const cb_policy_kind cb_policy_rdumb = {.name = "rdumb",
                                        .summary = "tent on answers that are sure and new, and all begins anew every 1000 batches",
                                        .paper = "Press et al. 2023, arXiv:2306.05401",
                                        .options = options,
                                        .config_size = sizeof(eata_config),
                                        .state_size = sizeof(eata),
                                        .defaults = {OF_ENTROPY, .reset_every = 1000},
                                        .wants = CB_POLICY_WANTS_MIXED,
                                        .open = open,
                                        .step = step,
                                        .reset = reset,
                                        .blocks = blocks,
                                        .close = close};
