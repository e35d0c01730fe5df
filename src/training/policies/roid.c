/* roid.c: ROID: how much likelier an answer is than all others rises, weighted by how sure and how unlike the others it is; another view is to say
 * the same; weights are pulled towards the source's; answers are corrected by what the batch answers.  Marsden et al. 2024, arXiv:2306.00650. */
#include <math.h>
#include <string.h>

#include "training/policies/policies.h"

typedef struct roid_config {
    double temperature, source_momentum, probability_momentum;
    bool weighting, consistency, augment, prior_correction;
} roid_config;

typedef struct roid {
    float *mean; /* (K) of the answers so far */
} roid;

#define OPT roid_config
static const cb_option options[] = {
    CB_OPT_FLOAT(OPT, temperature, 1.0 / 3, 1e-6, 1e6, "of the weights"),
    CB_OPT_FLOAT(OPT, source_momentum, 0.99, 0, 1, "what weights keep of themselves each step; the rest is the source's"),
    CB_OPT_FLOAT(OPT, probability_momentum, 0.9, 0, 1, "of the mean answer"),
    CB_OPT_BOOL(OPT, weighting, true, "weigh answers by how sure and how unlike the mean they are"),
    CB_OPT_BOOL(OPT, consistency, true, "another pass is to say the same"),
    CB_OPT_BOOL(OPT, augment, true, "which is one of another view"),
    CB_OPT_BOOL(OPT, prior_correction, true, "answers are multiplied by the mean answer of the batch"),
    CB_OPT_END};
#undef OPT

static void reset(cb_policy *p)
{
    roid *s = p->state;
    for (int64_t k = 0; k < p->classes; k++)
        s->mean[k] = 1 / (float)p->classes;
}

static bool open(cb_policy *p)
{
    roid *s = p->state;
    s->mean = cb_calloc((size_t)p->classes, sizeof *s->mean);
    if (s->mean)
        reset(p);
    return s->mean;
}

static void close(cb_policy *p)
{
    roid *s = p->state;
    cb_free(s->mean);
}

/* ---- losses ---- */

/* -sum_k p_k log(p_k / sum_{j != k} p_j), of probabilities that are cut at 0.99; eq. 3. */
static cb_tensor *likelihood_ratio(cb_tensor *logits)
{
    cb_tensor *p = cb_clamp(cb_softmax(logits, -1), 0, 0.99);
    cb_tensor *ratio = cb_add_scalar(cb_div(p, cb_add_scalar(cb_neg(p), 1)), 1e-5);
    return cb_neg(cb_sum(cb_mul(p, cb_log(ratio)), -1, false));
}

/* Half of each direction of the cross-entropy of a view and the image itself; eq. 7. */
static cb_tensor *symmetric(cb_tensor *view, cb_tensor *image)
{
    cb_tensor *one = cb_soft_cross_entropy(view, cb_softmax(image, -1), 0, CB_REDUCE_NONE);
    cb_tensor *other = cb_soft_cross_entropy(image, cb_softmax(view, -1), 0, CB_REDUCE_NONE);
    return cb_scale(cb_add(one, other), 0.5);
}

/* ---- weights ---- */

/* Onto 0 to 1; all the same: 0. */
static void stretch(float *x, int64_t n)
{
    float least = x[0], most = x[0];
    for (int64_t i = 1; i < n; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    for (int64_t i = 0; i < n; i++)
        x[i] = most > least ? (x[i] - least) / (most - least) : 0;
}

/* 1 - cosine with the mean answer */
static float unlike(const float *row, const float *mean, int64_t n)
{
    double dot = 0, aa = 0, bb = 0;
    for (int64_t k = 0; k < n; k++) {
        dot += (double)row[k] * (double)mean[k];
        aa += (double)row[k] * (double)row[k];
        bb += (double)mean[k] * (double)mean[k];
    }
    return (float)(1 - dot / sqrt(fmax(aa * bb, 1e-24)));
}

/* exp(unlike sure / T), 0 of what is more like the mean answer than others are; eq. 4 to 6.  `sure` (rows) comes as entropies. */
static void weigh(const cb_policy *p, const float *probability, int64_t rows, float *sure, float *weight)
{
    const roid_config *c = p->config;
    const roid *s = p->state;
    double mean = 0;
    for (int64_t i = 0; i < rows; i++) {
        sure[i] = -sure[i];
        weight[i] = unlike(probability + i * p->classes, s->mean, p->classes);
    }
    stretch(sure, rows);
    stretch(weight, rows);
    for (int64_t i = 0; i < rows; i++)
        mean += (double)weight[i] / (double)rows;
    for (int64_t i = 0; i < rows; i++)
        weight[i] = (double)weight[i] < mean ? 0 : (float)exp((double)(weight[i] * sure[i]) / c->temperature);
}

/* The rows that count, as indices; *count of them. */
static cb_tensor *counting(const float *weight, int64_t rows, int64_t *count)
{
    cb_tensor *index = cb_empty(CB_I64, rows);
    *count = 0;
    for (int64_t i = 0; index && i < rows; i++)
        if (weight[i] != 0)
            ((int64_t *)index->data)[(*count)++] = i;
    return index ? cb_slice(index, 0, 0, *count, 1) : NULL;
}

static cb_tensor *weights_of(cb_policy *p, cb_tensor *logits)
{
    const roid_config *c = p->config;
    roid *s = p->state;
    int64_t rows = logits->shape[0];
    cb_tensor *weight = cb_ones(CB_F32, rows), *entropy = NULL;
    cb_no_grad entropy = cb_contiguous(cb_entropies(cb_detach(logits)));
    const float *probability = cb_probabilities(logits);
    int64_t known = 1;
    if (!weight || !entropy || !probability)
        return NULL;
    if (c->weighting)
        weigh(p, probability, rows, entropy->data, weight->data);
    cb_average_probabilities(s->mean, &known, c->probability_momentum, probability, NULL, rows, p->classes);
    return weight;
}

static cb_tensor *loss_of(cb_policy *p, cb_tensor *input, cb_tensor *logits)
{
    const roid_config *c = p->config;
    int64_t rows = input->shape[0], count = 0;
    cb_tensor *weight = weights_of(p, logits), *index = weight ? counting(weight->data, rows, &count) : NULL;
    if (!index)
        return NULL;
    cb_tensor *loss = cb_weighted_sum(likelihood_ratio(logits), weight->data, (double)rows);
    if (!c->consistency || !count)
        return loss;
    cb_tensor *counted = cb_index_select(input, 0, index), *view = c->augment ? cb_policy_view(p, counted) : counted;
    cb_tensor *same = symmetric(cb_learner_logits(p->learner, view), cb_index_select(logits, 0, index));
    return cb_add(loss, cb_scale(cb_sum(cb_mul(same, cb_index_select(weight, 0, index)), CB_ALL, false), 1 / (double)rows));
}

/* Logits times the batch's mean answer, smoothed the more the fewer images and labels there are; eq. 9. */
static cb_tensor *corrected(const cb_policy *p, cb_tensor *logits)
{
    const float *probability = cb_probabilities(logits);
    int64_t rows = logits->shape[0], n = p->classes;
    cb_tensor *prior = cb_zeros(CB_F32, n);
    if (!probability || !prior)
        return NULL;
    float *at = prior->data, most = 0;
    for (int64_t k = 0; k < n; k++) {
        for (int64_t i = 0; i < rows; i++)
            at[k] += probability[i * n + k] / (float)rows;
        most = fmaxf(most, at[k]);
    }
    float smooth = fmaxf(1 / (float)rows, 1 / (float)n) / most;
    for (int64_t k = 0; k < n; k++)
        at[k] = (at[k] + smooth) / (1 + smooth * (float)n);
    return cb_mul(cb_detach(logits), prior);
}

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    const roid_config *c = p->config;
    cb_tensor *logits = cb_learner_logits(p->learner, input);
    if (!logits || !cb_learner_update(p->learner, loss_of(p, input, logits)))
        return NULL;
    cb_learner_pull(p->learner, c->source_momentum); /* eq. 2 */
    return c->prior_correction ? corrected(p, logits) : logits;
}

static bool blocks(cb_policy *p, cb_block_list *list)
{
    roid *s = p->state;
    return cb_block_add(list, (cb_block){"roid.mean", s->mean, (size_t)p->classes * sizeof *s->mean, false});
}

static const char *of_images(const cb_policy *p)
{
    const roid_config *c = p->config;
    return c->consistency && c->augment ? "another view of an image (augment=false goes without)" : NULL;
}

const cb_policy_kind cb_policy_roid = {.name = "roid",
                                       .summary =
                                           "likelihood ratios of sure and unlike answers rise, weights are pulled towards the source",
                                       .paper = "Marsden et al. 2024, arXiv:2306.00650",
                                       .options = options,
                                       .config_size = sizeof(roid_config),
                                       .state_size = sizeof(roid),
                                       .defaults = {.trained = CB_TRAINED_NORMS,
                                                    .optimizer = CB_OPTIMIZER_ADAM,
                                                    .learning_rate = 1e-3,
                                                    .momentum = 0.9,
                                                    .statistics = CB_ADAPT_STATISTICS_BATCH},
                                       .wants = CB_POLICY_WANTS_MIXED,
                                       .open = open,
                                       .step = step,
                                       .reset = reset,
                                       .blocks = blocks,
                                       .close = close,
                                       .of_images = of_images};
