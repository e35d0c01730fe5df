/* domain_terms.c: the terms of adaptation to another domain, and the methods that are made of them.
 *
 * B rows of each domain, C width of features, K labels.  A term is a formula over one pass; what it needs beside the model (a discriminator, a
 * second head) it makes when it is opened. */
#include <math.h>

#include "training/domains.h"

/* ---- labels of the source ---- */

static cb_tensor *supervised(cb_domains *d, const domain_pass *p)
{
    return cb_cross_entropy_with(p->logits[PART_SOURCE], p->labels,
                                 (cb_linear_cross_entropy_options){.ignore_index = -100, .label_smoothing = d->options.label_smoothing});
}

/* ---- discriminators ---- */

static cb_tensor *reversed(const cb_domains *d, cb_tensor *x)
{
    return cb_reverse_gradient(x, cb_domains_reversal(d));
}

static bool open_adversary(cb_domains *d)
{
    return cb_domains_network(d, &d->adversary, "adversary", d->width, d->options.adversary_width, 1);
}

/* Ganin et al. 2016, arXiv:1505.07818. */
static cb_tensor *adversary(cb_domains *d, const domain_pass *p)
{
    cb_tensor *source = cb_network_run(&d->adversary, reversed(d, p->features[PART_SOURCE]));
    return cb_domain_loss(source, cb_network_run(&d->adversary, reversed(d, p->features[PART_TARGET])), NULL, NULL);
}

/* The multilinear map has K C columns; of more than these it is estimated, by as many as in the paper. */
enum { MOST_COLUMNS = 4096, ESTIMATED_COLUMNS = 1024 };

static bool open_conditional(cb_domains *d)
{
    int64_t columns = d->width * d->labels;
    bool estimated = columns > MOST_COLUMNS;
    cb_rng rng = cb_domains_rng(d, "multilinear_map");
    if (estimated) {
        d->of_features = cb_keep(cb_randn(CB_F32, &rng, d->width, ESTIMATED_COLUMNS));
        d->of_predictions = cb_keep(cb_randn(CB_F32, &rng, d->labels, ESTIMATED_COLUMNS));
    }
    return cb_ok() &&
           cb_domains_network(d, &d->conditional, "conditional", estimated ? ESTIMATED_COLUMNS : columns, d->options.adversary_width, 1);
}

static cb_tensor *conditional_logits(const cb_domains *d, const domain_pass *p, int part)
{
    cb_tensor *said = cb_softmax(cb_detach(p->logits[part]), 1);
    return cb_squeeze(
        cb_network_run(&d->conditional, reversed(d, cb_multilinear_map(p->features[part], said, d->of_features, d->of_predictions))), 1);
}

/* Long et al. 2018, arXiv:1705.10667, with entropy conditioning (CDAN+E); what the discriminator sees of the predictions carries no gradient. */
static cb_tensor *conditional_adversary(cb_domains *d, const domain_pass *p)
{
    return cb_domain_loss(conditional_logits(d, p, PART_SOURCE), conditional_logits(d, p, PART_TARGET),
                          cb_certainty_weights(p->logits[PART_SOURCE]), cb_certainty_weights(p->logits[PART_TARGET]));
}

/* ---- distances ---- */

static cb_tensor *coral(cb_domains *d, const domain_pass *p)
{
    (void)d;
    return cb_coral_loss(p->features[PART_SOURCE], p->features[PART_TARGET]);
}

static cb_tensor *mmd(cb_domains *d, const domain_pass *p)
{
    (void)d;
    return cb_mmd_loss(p->features[PART_SOURCE], p->features[PART_TARGET], .count = 0);
}

/* Of features and predictions; the bandwidth of the latter is that of the authors' code. */
static cb_tensor *joint_mmd(cb_domains *d, const domain_pass *p)
{
    (void)d;
    cb_tensor *source[] = {p->features[PART_SOURCE], cb_softmax(p->logits[PART_SOURCE], 1)};
    cb_tensor *target[] = {p->features[PART_TARGET], cb_softmax(p->logits[PART_TARGET], 1)};
    static const cb_mmd_kernel kernels[] = {{0, 0}, {1, 1.68}};
    return cb_mmd_loss_with(2, source, target, kernels, false);
}

/* ---- two classifiers ---- */

static bool open_second(cb_domains *d)
{
    return cb_domains_network(d, &d->second, "second_head", d->width, 0, d->labels);
}

/* Saito et al. 2018, arXiv:1712.02560, in one step: the second head learns the source's labels, both heads drive their predictions of the target
 * apart, and features, by a reversed gradient, together. */
static cb_tensor *discrepancy(cb_domains *d, const domain_pass *p)
{
    cb_tensor *source = cb_network_run(&d->second, p->features[PART_SOURCE]);
    cb_tensor *learned = cb_cross_entropy_with(source, p->labels, (cb_linear_cross_entropy_options){.ignore_index = -100});
    cb_tensor *turned = reversed(d, p->features[PART_TARGET]);
    cb_tensor *own = cb_cast(cb_model_judge_features(d->model, turned, p->ctx), CB_F32);
    return cb_sub(learned, cb_classifier_discrepancy(own, cb_network_run(&d->second, turned)));
}

static bool open_margin(cb_domains *d)
{
    return cb_domains_network(d, &d->margin, "margin_head", d->width, d->options.adversary_width, d->labels);
}

/* Zhang et al. 2019, arXiv:1904.05801; gradients of features are a tenth, as in the authors' code. */
static cb_tensor *margin_disparity(cb_domains *d, const domain_pass *p)
{
    const double share = 0.1;
    cb_tensor *judged[PARTS];
    for (int i = PART_SOURCE; i <= PART_TARGET; i += PART_TARGET - PART_SOURCE)
        judged[i] = cb_network_run(&d->margin, cb_reverse_gradient(p->features[i], share * cb_domains_reversal(d)));
    return cb_margin_disparity_loss(p->logits[PART_SOURCE], judged[PART_SOURCE], p->logits[PART_TARGET], judged[PART_TARGET],
                                    d->options.margin);
}

/* ---- predictions of the target ---- */

static cb_tensor *class_confusion(cb_domains *d, const domain_pass *p)
{
    return cb_class_confusion_loss(p->logits[PART_TARGET], d->options.confusion_temperature);
}

static cb_tensor *entropy(cb_domains *d, const domain_pass *p)
{
    (void)d;
    return cb_entropy_loss(p->logits[PART_TARGET], CB_REDUCE_MEAN);
}

static cb_tensor *information(cb_domains *d, const domain_pass *p)
{
    (void)d;
    return cb_neg(cb_prediction_information(p->logits[PART_TARGET]));
}

static cb_tensor *pseudo_label(cb_domains *d, const domain_pass *p)
{
    return cb_pseudo_label_loss(p->logits[PART_TARGET], p->logits[PART_TARGET], d->options.confidence);
}

static cb_tensor *strong_label(cb_domains *d, const domain_pass *p)
{
    return cb_pseudo_label_loss(p->logits[PART_STRONG], p->logits[PART_TARGET], d->options.confidence);
}

/* ---- labels by centroids ---- */

static bool open_centroids(cb_domains *d)
{
    d->pseudo = cb_full(CB_F32, -100, cb_dataset_rows(d->target));
    return cb_domains_keep(&d->state, cb_strdup("domains.pseudo_labels"), d->pseudo);
}

/* Once in so many steps, an epoch without a number. */
static bool is_due(const cb_domains *d)
{
    int64_t epoch = (cb_dataset_rows(d->target) + d->options.batch_size - 1) / d->options.batch_size;
    return d->step % (d->options.relabel_steps ? d->options.relabel_steps : epoch) == 0;
}

static bool relabel(cb_domains *d)
{
    if (!is_due(d) || cb_rehearsing())
        return true;
    cb_judged judged;
    if (!cb_judge_rows(d->model, d->target, d->options.batch_size, 0, &judged))
        return false;
    int32_t *labels = cb_alloc((size_t)judged.rows * sizeof *labels);
    bool ok = labels && cb_centroid_labels(&judged, labels) && cb_write(d->pseudo, CB_I32, labels);
    cb_free(labels);
    cb_judged_free(&judged);
    return ok;
}

static cb_tensor *centroid_label(cb_domains *d, const domain_pass *p)
{
    cb_tensor *labels = cb_cast(cb_index_select(d->pseudo, 0, p->items), CB_I32);
    return cb_cross_entropy_with(p->logits[PART_TARGET], labels, (cb_linear_cross_entropy_options){.ignore_index = -100});
}

/* ---- statistics alone ---- */

static bool attach_statistics(cb_domains *d)
{
    return d->moves ||
           cb_fail(CB_ERR_ARGUMENT, "statistics: found no batch norm whose running statistics follow, expected a model with such, of which "
                                    "all or the base is trained") == CB_OK;
}

/* Nothing to learn: a pass over the target moves the running statistics of batch norms to it. */
static cb_tensor *statistics(cb_domains *d, const domain_pass *p)
{
    (void)d;
    return cb_scale(cb_mean(p->logits[PART_TARGET], CB_ALL, false), 0);
}

/* ---- refined predictions ---- */

static cb_tensor *refined_information(cb_domains *d, const domain_pass *p)
{
    if (d->class_weight[0])
        return cb_refined_information(d, p, PART_TARGET);
    cb_fail(CB_ERR_ARGUMENT, "refined_information: found no class_domain beside it, expected a weight of that");
    return NULL;
}

/* ---- the tables ---- */

#define SOURCE .source = true
#define ALONE  .source = false
#define EITHER .reach = CB_TERM_OF_EITHER
#define PLACES .reach = CB_TERM_OF_PLACES
const domain_term cb_domain_terms[] = {
    {.about = {"supervised", "cross-entropy of the source's labels", SOURCE, EITHER}, .loss = supervised},
    {.about = {"adversary", "a discriminator of features is not to tell the domains apart", SOURCE},
     .open = open_adversary,
     .loss = adversary},
    {.about = {"conditional_adversary", "the same of the products of features and predictions, sure ones counting more", SOURCE},
     .open = open_conditional,
     .loss = conditional_adversary},
    {.about = {"coral", "squared distance of the covariances of features", SOURCE}, .loss = coral},
    {.about = {"mmd", "maximum mean discrepancy of features, by five Gaussian kernels", SOURCE}, .loss = mmd},
    {.about = {"joint_mmd", "the same of features and predictions together", SOURCE}, .loss = joint_mmd},
    {.about = {"discrepancy", "two heads differ where features of the target are unlike the source's", SOURCE},
     .open = open_second,
     .loss = discrepancy},
    {.about = {"margin_disparity", "a head that agrees on the source and disagrees on the target, by a margin", SOURCE},
     .open = open_margin,
     .loss = margin_disparity},
    {.about = {"class_confusion", "share of the target's predictions that confuse labels", ALONE, EITHER}, .loss = class_confusion},
    {.about = {"entropy", "entropy of the target's predictions", ALONE, EITHER}, .loss = entropy},
    {.about = {"information", "mutual information of the target's rows and predictions, negative", ALONE, EITHER}, .loss = information},
    {.about = {"pseudo_label", "cross-entropy of the target's own sure predictions", ALONE, EITHER}, .loss = pseudo_label},
    {.about = {"centroid_label", "cross-entropy of labels by the nearest centroid of the target's features", ALONE},
     .open = open_centroids,
     .prepare = relabel,
     .loss = centroid_label},
    {.about = {"strong_label", "cross-entropy of sure predictions, of the same image strongly augmented", .strong = true, EITHER},
     .loss = strong_label},
    {.about = {"teacher", "squared distance from a teacher's predictions of another view, which is the mean of the weights over the steps",
               .strong = true, EITHER},
     .attach = cb_teacher_attach,
     .stepped = cb_teacher_stepped,
     .loss = cb_teacher_loss},
    {.about = {"statistics", "0: running statistics of batch norms become the target's", ALONE, EITHER},
     .attach = attach_statistics,
     .loss = statistics},
    {.about = {"neighbours", "predictions agree with those of the nearest rows of the target, and use all labels", ALONE},
     .open = cb_neighbours_open,
     .prepare = cb_neighbours_prepare,
     .loss = cb_neighbours_loss},
    {.about = {"refined_label", "cross-entropy, of the image strongly augmented, of the label that the nearest rows of the target give",
               .strong = true},
     .open = cb_contrast_open,
     .attach = cb_teacher_attach,
     .prepare = cb_contrast_prepare,
     .stepped = cb_teacher_stepped,
     .loss = cb_refined_label_loss},
    {.about = {"contrast", "two strong views of an image are alike, and unlike images of other labels", .strong = true},
     .key = true,
     .open = cb_contrast_open,
     .attach = cb_teacher_attach,
     .prepare = cb_contrast_prepare,
     .stepped = cb_teacher_stepped,
     .loss = cb_contrast_term},
    {.about = {"diversity", "predictions of strongly augmented images use all labels: their mean's entropy, negative", .strong = true},
     .loss = cb_diversity_loss},
    {.about = {"class_domain", "discriminators of each label tell the domains apart, and shape no features", SOURCE},
     .open = cb_refine_open,
     .loss = cb_class_domain_loss},
    {.about = {"refined_information", "information, of predictions refined by class_domain's discriminators", SOURCE},
     .loss = refined_information},
    {.about = {"place_entropy", "entropy of the target's places, labels weighed by how rare they are", PLACES},
     .open = cb_place_entropy_open,
     .loss = cb_place_entropy_term},
    {.about = {"ratio", "divergence of the shares that labels have of an image from the prior's", PLACES},
     .open = cb_prior_open,
     .loss = cb_ratio_term},
    {.about = {"reverse_ratio", "divergence of the prior's shares of labels from those of an image", PLACES},
     .open = cb_prior_open,
     .loss = cb_reverse_ratio_term},
    {.about = {"size", "squared distance of the shares of labels from those near the prior's", PLACES},
     .open = cb_prior_open,
     .loss = cb_size_term},
    {.about = {"linear_mmd", "maximum mean discrepancy of features as the head has them, and of predictions, in linear time", SOURCE},
     .loss = cb_linear_mmd_loss},
    {.about = {"correction", "an adapter's corrections of the target would leave the source as it is, label by label", SOURCE},
     .attach = cb_correction_attach,
     .loss = cb_correction_loss},
};
_Static_assert(sizeof cb_domain_terms / sizeof *cb_domain_terms <= MOST_TERMS, "MOST_TERMS is less than there are");
const size_t cb_domain_term_count = sizeof cb_domain_terms / sizeof *cb_domain_terms;

static const cb_domain_method methods[] = {
    {"source-only", "labels of the source, and nothing of the target", .terms = {{NULL, 0}}},
    {"dann", "domain-adversarial training (Ganin et al. 2016)", .terms = {{"adversary", 1}}},
    {"cdan", "conditional adversarial adaptation with entropy conditioning (Long et al. 2018)", .terms = {{"conditional_adversary", 1}}},
    {"coral", "correlation alignment (Sun and Saenko 2016)", .terms = {{"coral", 1}}},
    {"dan", "deep adaptation by multi-kernel MMD (Long et al. 2015)", .terms = {{"mmd", 1}}},
    {"jan", "joint adaptation networks (Long et al. 2017)", .terms = {{"joint_mmd", 1}}},
    {"mcd", "maximum classifier discrepancy (Saito et al. 2018)", .terms = {{"discrepancy", 1}}},
    {"mdd", "margin disparity discrepancy (Zhang et al. 2019)", .terms = {{"margin_disparity", 1}}},
    {"mcc", "minimum class confusion (Jin et al. 2020)", .terms = {{"class_confusion", 1}}},
    {"entropy", "entropy minimisation (Grandvalet and Bengio 2004)", .terms = {{"entropy", 1}}},
    {"pseudo-label", "pseudo-labels (Lee 2013)", .terms = {{"pseudo_label", 1}}},
    {"shot", "information maximisation and centroids' labels (Liang et al. 2020)", .terms = {{"information", 1}, {"centroid_label", 0.3}}},
    {"nrc", "agreement with mutual neighbours (Yang et al. 2021)", .terms = {{"neighbours", 1}}},
    {"adacontrast", "labels by neighbours in a memory, and contrast of other labels (Chen et al. 2022)",
     .terms = {{"refined_label", 1}, {"contrast", 1}, {"diversity", 1}}},
    {"fixmatch", "labels of weakly for strongly augmented images (Sohn et al. 2020)", .terms = {{"strong_label", 1}}},
    {"mean-teacher", "consistency with the mean of the weights (French et al. 2018)", .terms = {{"teacher", 1}}},
    {"adabn", "batch norms' statistics of the target, and no learning (Li et al. 2016)", .terms = {{"statistics", 1}}},
    {"paretoda", "DANN and refined information, weighed anew in each step (Lv et al. 2021)",
     .terms = {{"adversary", 1}, {"refined_information", 1}, {"class_domain", 1}}, .pareto = true},
    {"adami", "sure places in shares near a prior's, each image's by itself (Bateson et al. 2022)",
     .terms = {{"place_entropy", 1}, {"ratio", 1}}},
    {"adaent", "the same by the divergence the other way round (Bateson et al. 2020)",
     .terms = {{"place_entropy", 1}, {"reverse_ratio", 1}}},
    {"size-constraint", "a penalty on shares far from a prior's (Bateson et al. 2019)", .terms = {{"size", 1}}},
    {"gdcan", "generalised domain conditioned channel attention and corrected features (Li et al. 2021)",
     .terms = {{"linear_mmd", 1.5}, {"correction", 1.5}, {"entropy", 0.1}}, .kind = "gdcan", .domain_tasks = true},
    {"dcan", "the same with channel attention of each domain's own everywhere (Li et al. 2020)",
     .terms = {{"linear_mmd", 1.5}, {"correction", 1.5}, {"entropy", 0.1}}, .kind = "gdcan", .option = "attention", .value = "split",
     .domain_tasks = true},
};

const cb_domain_term *cb_domain_term_at(size_t index)
{
    return index < cb_domain_term_count ? &cb_domain_terms[index].about : NULL;
}

const cb_domain_method *cb_domain_method_at(size_t index)
{
    return index < sizeof methods / sizeof *methods ? &methods[index] : NULL;
}
