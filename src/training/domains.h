/* domains.h: what the files of the two-domain protocol share. */
#ifndef CB_TRAINING_DOMAINS_H
#define CB_TRAINING_DOMAINS_H

#include "cambium/domains.h"
#include "cambium/losses.h"
#include "training/internal.h"

/* The parts of a batch, as many rows each, in this order; those that a run has not are left out. */
enum {
    PART_SOURCE,
    PART_HELD,
    PART_TARGET,
    PART_STRONG,
    PART_KEY,
    PARTS
}; /* held: of the target, to be guided by; key: a second strong view, for a teacher alone */

/* Linear layers with ReLU between them. */
enum { NETWORK_LAYERS = 3 };
typedef struct domain_network {
    cb_tensor *weight[NETWORK_LAYERS], *bias[NETWORK_LAYERS];
    int layers;
} domain_network;
cb_tensor *cb_network_run(const domain_network *n, cb_tensor *x);

/* How terms weigh where they meet: by their weights, or anew in each step. */
enum { BALANCE_OF_METHOD, BALANCE_FIXED, BALANCE_PARETO, BALANCE_MGDA };

typedef struct domain_term domain_term;
enum { MOST_TERMS = 32 };

/* Tensors with their names, which are the list's. */
typedef struct domain_tensors {
    cb_named_tensor *items;
    size_t count, capacity;
} domain_tensors;

/* Rows of the target as they were when they were last seen: the oldest make room. */
typedef struct domain_queue {
    cb_tensor *features; /* (M, C), of length 1 */
    cb_tensor *said;     /* (M, W): predictions, or a label */
    cb_tensor *place;    /* (2): the next row to be written, and how many there are */
} domain_queue;

struct cb_domains {
    cb_model *model;
    cb_domain_options options; /* strings are not kept */
    char *description;
    cb_augment_options strong;
    cb_dataset *rows, *target; /* target: that of the rows */
    bool has[PARTS];
    bool places;                /* the model judges the places of images, else rows */
    int64_t width, labels;      /* of features; K */
    double weights[MOST_TERMS]; /* of the terms in their order; 0: left out */
    double sums[MOST_TERMS];    /* of their values */
    int64_t summed;
    int64_t step, steps;
    const cb_trainee *inner;

    int balance;              /* of BALANCE_... */
    bool watched;             /* the terms' gradients are set against each other */
    int64_t conflicts, hurts; /* steps of those summed, in which some pull apart, and in which their sum hurts one */
    cb_tensor *class_weight[NETWORK_LAYERS], *class_bias[NETWORK_LAYERS]; /* discriminators of each label */
    domain_network adversary, conditional, second, margin;
    cb_tensor *of_features, *of_predictions; /* of the multilinear map, where it is an estimate; else NULL */
    cb_tensor *pseudo;                       /* (rows of the target) f32: labels; of the checkpoint's state */
    cb_tensor *feature_bank, *score_bank;    /* (rows of the target, C) and (rows, K): likewise */
    bool teacher;                            /* there is one */
    int64_t taught;                          /* the step it last followed, from 1 */
    size_t teacher_first;                    /* the teacher's weights in the state, in the order of the trainee's parameters */
    bool moves;                              /* some norms' running statistics follow */
    cb_tensor *prior;                        /* (rows of the target, K) f32: shares of images; NULL: nobody knows */
    cb_tensor *label_weights;                /* (K) f32: of the entropy of places; NULL: 1 each */

    domain_queue seen, keys; /* domain_contrast.c */
    cb_tensor *refined;      /* labels of the pass, (B) i32; NULL: not yet known */

    domain_tensors parameters, state; /* that the terms bring along */
    cb_named_tensor *all, *all_state; /* with the trainee's */
};

/* What one forward pass gave, f32; NULL: a part that the run has not.  Where places are judged, each is a row of logits (B H W, K), and there are no features. */
typedef struct domain_pass {
    cb_tensor *features[PARTS], *logits[PARTS];
    cb_tensor *maps[PARTS]; /* logits of places (B, K, H, W), in the size of the images */
    cb_tensor *labels;      /* (B) i32 of the source, or of its places (B H W) */
    cb_tensor *items;       /* (B) i64 of the target: rows of the pool */
    cb_tensor *target;      /* input of the target, and its context */
    cb_context target_ctx;
    cb_tensor *key; /* the same of the second strong view */
    cb_context key_ctx;
    const cb_context *ctx; /* without tasks: what is judged by it is of the target */
} domain_pass;

/* domain_terms.c: terms and methods. */
struct domain_term {
    cb_domain_term about;
    bool key;                       /* needs a second strong view, too */
    bool (*open)(cb_domains *d);    /* makes what it needs; NULL: nothing */
    bool (*attach)(cb_domains *d);  /* the same, once it is known what is trained (d->inner) */
    bool (*prepare)(cb_domains *d); /* before each step; NULL: nothing */
    bool (*stepped)(cb_domains *d); /* after each; NULL: nothing */
    cb_tensor *(*loss)(cb_domains *d, const domain_pass *p);
};
extern const domain_term cb_domain_terms[];
extern const size_t cb_domain_term_count;

/* domain_places.c: what predictions of places say of their images. */
bool cb_prior_open(cb_domains *d);
bool cb_place_entropy_open(cb_domains *d);
cb_tensor *cb_place_entropy_term(cb_domains *d, const domain_pass *p);
cb_tensor *cb_ratio_term(cb_domains *d, const domain_pass *p);
cb_tensor *cb_reverse_ratio_term(cb_domains *d, const domain_pass *p);
cb_tensor *cb_size_term(cb_domains *d, const domain_pass *p);

/* domain_teacher.c */
bool cb_teacher_attach(cb_domains *d);
bool cb_teacher_stepped(cb_domains *d);
cb_tensor *cb_teacher_loss(cb_domains *d, const domain_pass *p);
/* Logits f32 and features of rows by the teacher's weights, without gradients. */
cb_tensor *cb_teacher_judge(cb_domains *d, cb_tensor *rows, const cb_context *of_rows, cb_tensor **features);

/* domain_neighbours.c */
enum { MOST_NEIGHBOURS = 64 };
typedef struct domain_neighbours {
    int64_t rows[MOST_NEIGHBOURS];
    float nearness[MOST_NEIGHBOURS];
    int count;
} domain_neighbours;
/* At most `most` rows of features (n, width), of length 1, by their product with `own` (width); the nearest first, of equally near ones the first, and
 * not row `but`. */
domain_neighbours cb_nearest_rows(const float *features, int64_t n, int64_t width, const float *own, int64_t but, int most);
bool cb_neighbours_open(cb_domains *d);
bool cb_neighbours_prepare(cb_domains *d);
cb_tensor *cb_neighbours_loss(cb_domains *d, const domain_pass *p);
/* What the five nearest rows of `row`, and the five nearest of each of these, say of it: target (K) is the sum of their scores, mutual neighbours' as they
 * are, others' by 0.1.  features (N, C) of length 1, scores (N, K). */
void cb_neighbour_target(const float *features, const float *scores, int64_t n, int64_t width, int64_t labels, int64_t row, float *target);

/* domain_contrast.c */
bool cb_contrast_open(cb_domains *d);
bool cb_contrast_prepare(cb_domains *d);
cb_tensor *cb_refined_label_loss(cb_domains *d, const domain_pass *p);
cb_tensor *cb_contrast_term(cb_domains *d, const domain_pass *p);
cb_tensor *cb_diversity_loss(cb_domains *d, const domain_pass *p);
/* The label (of `labels`) that the `most` nearest rows of features (n, width), of length 1, find likeliest of `own` (width) by the mean of their scores. */
int32_t cb_label_by_neighbours(const float *features, const float *scores, int64_t n, int64_t width, int64_t labels, const float *own,
                               int most);

/* domain_refine.c */
bool cb_refine_open(cb_domains *d);
cb_tensor *cb_refined_information(const cb_domains *d, const domain_pass *p, int part); /* negative */
cb_tensor *cb_class_domain_loss(cb_domains *d, const domain_pass *p);

/* domain_correction.c */
bool cb_correction_attach(cb_domains *d);
cb_tensor *cb_linear_mmd_loss(cb_domains *d, const domain_pass *p);
cb_tensor *cb_correction_loss(cb_domains *d, const domain_pass *p);

/* balance.c: a function with the sum of the terms' values, and with gradients that are weighed where terms share parameters; guide: a loss of held-out
 * rows, or NULL, which counts if `guided`. */
cb_tensor *cb_domains_balance(cb_domains *d, size_t count, cb_tensor *const *values, cb_tensor *guide, bool guided);

/* domains.c, for terms. */
/* Logits, f32: (B, K), with features (B, C), or of places (B, K, H, W), in the size of the images, without. */
cb_tensor *cb_domains_judge(const cb_domains *d, cb_tensor *ids, const cb_context *ctx, cb_tensor **features);
/* Rows as they are, places (B, K, H, W) as rows (B H W, K). */
cb_tensor *cb_domains_as_rows(cb_tensor *logits);
/* Uniform up to 1 / sqrt(inputs), as torch.nn.Linear. */
cb_tensor *cb_domains_uniform(cb_rng *rng, int64_t inputs, int ndim, const int64_t *shape);
/* A new network from `in` numbers through `hidden` (0: none) to `out`, random by the run's seed and its name. */
bool cb_domains_network(cb_domains *d, domain_network *n, const char *name, int64_t in, int64_t hidden, int64_t out);
/* Kept by the list; takes the name. */
bool cb_domains_keep(domain_tensors *list, char *name, cb_tensor *tensor);
cb_rng cb_domains_rng(const cb_domains *d, const char *name);
/* How far gradient reversal has set in: 2 / (1 + exp(-gamma p)) - 1 at a share p of the steps. */
double cb_domains_reversal(const cb_domains *d);

#endif
