/* domains.h: floor 5: adaptation to a pool of data from another domain that has no labels, beside labelled data of the first domain or without.
 *
 *     cb_domains *domains = cb_domains_open(model, source, target, &options);      source NULL: there is none
 *     cb_trainee adapter = cb_train_adapter(model, a), what;
 *     cb_train_domains(&what, &adapter, domains);
 *     cb_train(&what, cb_domains_rows(domains), NULL, &training, progress, user, &result);
 *
 * A step sees as many rows of each.  What is minimised is a sum of terms, each with a name and a weight; a method is a name for some of them.
 * What is trained is the trainee's business: an adapter of any kind, the head, all of it. */
#ifndef CAMBIUM_DOMAINS_H
#define CAMBIUM_DOMAINS_H

#include "cambium/metrics.h"
#include "cambium/training.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a term says something of. */
typedef enum cb_term_reach {
    CB_TERM_OF_ROWS,   /* predictions or features of rows */
    CB_TERM_OF_EITHER, /* predictions of rows, or of the places of images */
    CB_TERM_OF_PLACES  /* of the places of images, for what they say of their image */
} cb_term_reach;

/* A part of what is minimised. */
typedef struct cb_domain_term {
    const char *name, *summary;
    bool source; /* needs labelled data of the first domain */
    bool strong; /* needs a second, strongly augmented view of the target's images */
    cb_term_reach reach;
} cb_domain_term;
CB_API const cb_domain_term *cb_domain_term_at(size_t index); /* NULL: there are no more */

enum { CB_METHOD_TERMS = 4 };
typedef struct cb_domain_method {
    const char *name, *summary;
    struct {
        const char *term; /* NULL: no more */
        double weight;
    } terms[CB_METHOD_TERMS]; /* beside these the cross-entropy of the source's labels, where there is a source */
    bool pareto;              /* terms are weighed anew in each step: cb_pareto_weights() */
    const char *kind;         /* of adapter that it is made for, NULL: any; with this option, NULL: as it is */
    const char *option, *value;
    bool domain_tasks; /* as in cb_domain_options */
} cb_domain_method;
CB_API const cb_domain_method *cb_domain_method_at(size_t index); /* NULL: there are no more */

typedef struct cb_domain_options {
    char *method;
    cb_string_list terms; /* "NAME=WEIGHT": instead of the method's weight, or of 0 */
    double label_smoothing;
    int64_t adversary_width;
    double adversary_gamma;
    double confidence, confusion_temperature, margin, teacher_momentum;
    int64_t relabel_steps;
    int64_t refining_neighbours, queue_rows;
    double contrast_temperature;
    int balance; /* as the method has it, fixed, pareto, mgda */
    bool watch_gradients;
    double held_out_share;
    int64_t class_width;
    bool separate_statistics;
    int class_ratio; /* cb_class_ratio_kind (losses.h) */
    cb_string_list
        class_weights; /* of labels in the entropy of places: a number each, or "even"; none: by how rare the prior says they are */
    double size_slack; /* by which share of the prior sizes may differ from it at no cost */
    bool domain_tasks; /* rows of the source do task 1, those of the target task 0, of an adapter with several (cb_context.tasks) */
    double correction_share;
    bool correction_through;
    /* these are not in the table: */
    const float *
        priors; /* (rows of the target, labels): shares of each image that labels are expected to have, sums 1 (priors.h); NULL: none; copied */
    int64_t batch_size; /* rows of each domain in a step, as in cb_train_options */
    const cb_augment_options
        *strong;   /* of the second view; copied.  Where places are judged it differs from the first in colours and random_erasing alone */
    uint64_t seed; /* of new layers */
} cb_domain_options;
extern CB_API const cb_option cb_domain_option_table[];

typedef struct cb_domains cb_domains;
/* Takes the datasets, also on failure.  The model classifies rows, or the places of images, one label each, and has the labels of `source`; both datasets are of what
 * it takes, the target opened as unlabelled: its labels are not looked at, whatever it has.  Errors: an unknown method or term, with those close to it; a
 * term that needs a source, or a prior, and finds none, or that says nothing of what the model judges; a prior that no term goes by; nothing to minimise. */
CB_API cb_domains *cb_domains_open(cb_model *model, cb_dataset *source, cb_dataset *target, const cb_domain_options *options);
CB_API void cb_domains_free(cb_domains *domains);              /* after the trainee's last use; NULL is allowed */
CB_API cb_dataset *cb_domains_rows(const cb_domains *domains); /* what cb_train() is to be given */
/* *what: `inner` with this objective, and with the parameters that its terms bring along (discriminators, second heads), which are in checkpoints
 * but not saved with the artefact.  `inner` must outlive it, and is given back as before.  One process: CB_ERR_UNSUPPORTED with others. */
CB_API bool cb_train_domains(cb_trainee *what, const cb_trainee *inner, cb_domains *domains);

/* ---- what a model says of all rows ---- */

/* Zero-initialise; free with cb_judged_free(). */
typedef struct cb_judged {
    int64_t rows, width, labels;
    float *features; /* (rows, width) */
    float *logits;   /* (rows, labels) */
} cb_judged;
/* Of the unshuffled data, in inference.  At most max_batches batches (0: all). */
CB_API bool cb_judge_rows(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_judged *out);
CB_API void cb_judged_free(cb_judged *judged);
/* Transfer Score (metrics.h) of the model by what it says of these rows, whose labels are not looked at; the weights are those of the last layer with its
 * modules, without its bias.  A head that reads more than features: CB_ERR_UNSUPPORTED. */
CB_API bool cb_evaluate_unlabelled(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, int64_t draws, uint64_t seed,
                                   cb_transfer_score *score);
/* Labels of rows by the nearest centroid: classes' centroids are means of features, with a 1 appended and brought to length 1, weighed by
 * probabilities; each row gets the label of the nearest by cosine; once more with centroids of these labels.  Classes that no row is likeliest of are
 * left out.  Liang et al. 2020 (SHOT), section 3.2. */
CB_API bool cb_centroid_labels(const cb_judged *judged, int32_t *labels);

#ifdef __cplusplus
}
#endif
#endif
