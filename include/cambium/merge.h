/* merge.h: floor 5: adapters into the weights of their base, whole models into one, adapters into one.
 *
 *     cb_merge_fold(model, &adapter, 1, "merged", &options, &report);     a new model directory, checked against the adapted model
 *
 *     cb_fold *fold = cb_fold_in_place(&adapter, 1);                      no adapter cost while generating
 *     ...
 *     cb_unfold(fold);                                                    exactly as before
 *
 * Sums are taken in f32 and rounded once, to the dtype of the base or another.  Rounding is the usual reason why a merged model
 * answers otherwise than the adapted one, so the difference is measured and a merge beyond a bound is not kept. */
#ifndef CAMBIUM_MERGE_H
#define CAMBIUM_MERGE_H

#include "cambium/adapters.h"
#include "cambium/formats.h"
#include "cambium/models.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How far logits are from reference logits. */
typedef struct cb_difference {
    int64_t positions;   /* tokens compared */
    double max_absolute; /* largest difference of a logit */
    double max_logit;    /* largest absolute reference logit: what max_absolute is to be seen against */
    double mean_kl;      /* mean over positions of KL(reference || other), nats */
    double agreement;    /* share of positions with the same most likely token */
    double weight_error; /* largest relative root mean square error of a weight that was rounded to a quantised type; 0: none was */
} cb_difference;
/* reference, other: (..., V), same shape, any float dtypes; sums in f64.  A logit that is not finite: CB_ERR_NUMERIC. */
CB_API bool cb_logits_difference(const cb_tensor *reference, const cb_tensor *other, cb_difference *difference);
/* Runs both models on ids (B, T) i32, or pixels; or on a probe of random ones when NULL. */
CB_API bool cb_merge_difference(cb_model *reference, cb_model *other, cb_tensor *ids, uint64_t seed, cb_difference *difference);

enum { CB_MERGE_KEEP, CB_MERGE_F32, CB_MERGE_BF16, CB_MERGE_F16 }; /* and the others of cb_gguf_dtype_names, for GGUF files */
typedef struct cb_merge_options {
    int dtype;            /* CB_MERGE_KEEP: each tensor stays in the dtype it has in the base */
    bool verify;          /* load what was written and compare it with the adapted model */
    double max_kl;        /* refuse a larger mean KL divergence; negative: 0.01, and 0.2 where a GGUF file's matrices get 6 bits or fewer */
    double min_agreement; /* or a smaller share of equal most likely tokens */
    int64_t seed;         /* of the probe */
    cb_tensor *probe;     /* ids (B, T) i32, or pixels, to compare on, or NULL: random ones; not in the option table */
    /* in a table of their own: the result's linear layers are quantised, whatever the base's are */
    int quantize;                /* CB_QUANTIZE_* (formats.h) */
    bool double_quant;           /* nf4 */
    int64_t block_size;          /* 0: 128 (int8 blocks), 64 (nf4) */
    cb_string_list skip_modules; /* names or ends of names of layers that stay plain; the output head always does */
} cb_merge_options;
extern CB_API const cb_option cb_merge_option_table[], cb_quantize_option_table[];

/* Writes model + sum of the adapters' changes (each times its strength) as a new model directory `output`, or as a GGUF file where that ends
 * in ".gguf"; it must not exist or be empty.
 * model: loaded from a directory, with the adapters attached.  Tensors are streamed one by one, in the base's files and order; everything
 * else of the base's directory is carried over.  Layers saved whole and trained biases are included; a tied head that no longer equals the
 * embedding is written out and config.json says so.  Nothing is written before all is known to fit (names, kinds that can be merged, disk
 * space, output not inside the base); `output` appears under its name when it is whole and verified.
 *
 * Quantised weights of the base (bitsandbytes, compressed-tensors) that change are read, changed and quantised again the same way; with `dtype`
 * all of them become plain.  With `quantize` the linear layers of the result are quantised; count may be 0, which is how a model is quantised.
 *
 * Into a GGUF file: of a GGUF base all metadata and what does not change are copied as they are; matrices that change get the type they had, or
 * with `dtype` all get that one.  A GGUF base cannot become a directory here: cb_convert() does that.
 *
 * difference (may be NULL) gets what verifying found. */
CB_API bool cb_merge_fold(cb_model *model, cb_adapter *const *adapters, size_t count, const char *output, const cb_merge_options *options,
                          cb_difference *difference);

/* Adds the adapters' changes to the weights in memory (in the weights' dtype) and takes their modules off the layers.  Until cb_unfold()
 * the adapters must not be detached, freed or given another strength.  cb_unfold() puts back the very tensors that were there.  A quantised
 * weight is refused: rounding to its steps would lose much of the change, and a plain copy would take the memory that quantising saved. */
typedef struct cb_fold cb_fold;
CB_API cb_fold *cb_fold_in_place(cb_adapter *const *adapters, size_t count);
CB_API void cb_unfold(cb_fold *fold); /* NULL is allowed */

/* ---- whole models ---- */

/* The names are mergekit's; the sources stand in src/merge/combine_*.c. */
enum {
    CB_MERGE_LINEAR,          /* sum of the models, each times its weight */
    CB_MERGE_TASK_ARITHMETIC, /* base + sum of the changes, each times its weight */
    CB_MERGE_TIES,            /* the largest changes, of the sign that wins */
    CB_MERGE_DARE_LINEAR,     /* random changes, made larger by what was left out */
    CB_MERGE_DARE_TIES,       /* of them those of the sign that wins */
    CB_MERGE_DELLA,           /* random, but the larger the likelier; of them those of the sign that wins */
    CB_MERGE_DELLA_LINEAR,
    CB_MERGE_BREADCRUMBS, /* neither the largest nor the smallest changes */
    CB_MERGE_BREADCRUMBS_TIES,
    CB_MERGE_MAGNITUDE_PRUNE, /* the largest changes */
    CB_MERGE_SLERP,           /* from the base to the model along a great circle */
    CB_MERGE_NUSLERP,         /* from one model to another */
    CB_MERGE_MULTISLERP,
    CB_MERGE_KARCHER,     /* the mean of directions on a sphere */
    CB_MERGE_MODEL_STOCK, /* between the mean of the models and the base, by the angles of the changes */
    CB_MERGE_SCE,         /* the elements that vary most between models, weighed by their size */
    CB_MERGE_NEARSWAP,    /* small differences are taken over, large ones in part */
    CB_MERGE_RAM,         /* changes that several models made are averaged over those, others kept */
    CB_MERGE_RAMPLUS,
    CB_MERGE_LEGO,        /* adapters only: their rank-one units, clustered */
    CB_MERGE_ARCEE_FUSION /* of one other model the changes that matter most */
};
enum { CB_RESCALE_AUTO, CB_RESCALE_NONE, CB_RESCALE_DENSITY, CB_RESCALE_NORM };
enum { CB_MERGE_MOST_MODELS = 64 };

typedef struct cb_model_merge_options { /* what each is: cb_model_merge_option_table */
    int method;
    cb_string_list density; /* numbers from 0 to 1: one, or one for each model */
    double lambda;
    int normalize; /* 0 auto, 1 true, 2 false */
    int rescale;   /* CB_RESCALE_* */
    int majority_sign_method;
    double epsilon, gamma, t, select_topk;
    bool filter_wise, changes;
    int64_t max_iter;
    double tol, ram_epsilon, ram_r, ram_alpha;
    bool ignore_tokenizers;
    /* not in the table, as cb_merge_options has them */
    int dtype;    /* CB_MERGE_KEEP to CB_MERGE_F16 */
    int64_t seed; /* of what dare and della leave out */
} cb_model_merge_options;
extern CB_API const cb_option cb_model_merge_option_table[];

/* Merges model directories of any architecture into a new one, `output`, which must not exist or be empty.  All must hold the same tensors (names
 * and shapes) and the same tokens.  weights: one for each of the `count` models.  The base is what changes are counted from; linear,
 * karcher and the slerps of several models do not count it in.  Files, config and tokenizer of the result are the base's.  Sums are taken
 * in f32 and rounded once; one tensor of each model is in memory at a time.  Everything is looked at before the first
 * byte is written, and `output` appears when it is whole.  The bits do not depend on the number of threads. */
CB_API bool cb_merge_models(const char *base, const char *const *models, const double *weights, size_t count, const char *output,
                            const cb_model_merge_options *options);

/* ---- adapters into one adapter ---- */

/* PEFT's add_weighted_adapter(), by its names; those that do not end in svd combine A with A and B with B, which is not what the adapters
 * add up to. */
enum {
    CB_COMBINATION_NONE, /* by method: of the changes B A */
    CB_COMBINATION_LINEAR,
    CB_COMBINATION_SVD,
    CB_COMBINATION_CAT,
    CB_COMBINATION_TIES,
    CB_COMBINATION_TIES_SVD,
    CB_COMBINATION_DARE_TIES,
    CB_COMBINATION_DARE_LINEAR,
    CB_COMBINATION_DARE_TIES_SVD,
    CB_COMBINATION_DARE_LINEAR_SVD,
    CB_COMBINATION_MAGNITUDE_PRUNE,
    CB_COMBINATION_MAGNITUDE_PRUNE_SVD
};
enum { CB_LEGO_SCALE_MEAN, CB_LEGO_SCALE_MAX, CB_LEGO_SCALE_NONE };

typedef struct cb_adapter_merge_options { /* what each is: cb_adapter_merge_option_table */
    int combination_type;
    int64_t rank;
    double svd_clamp;
    bool lego_normalize, lego_align_signs, lego_output_scale, lego_choose_rank;
    int lego_unit_scale; /* CB_LEGO_SCALE_* */
    int64_t lego_restarts, lego_max_iter;
    /* not in the table: the method and its options; seed and dtype of it count */
    const cb_model_merge_options *combine;
    double max_kl, min_agreement; /* as in cb_merge_options; a negative max_kl: 0.01 where the sum of the adapters is meant, else none */
} cb_adapter_merge_options;
extern CB_API const cb_option cb_adapter_merge_option_table[];

typedef struct cb_adapter_merge_report {
    int64_t layers, rank;  /* how many layers; the largest rank of one */
    double error;          /* largest |X - B A| / |X| of a layer, X being what the method makes and B A what the file holds ... */
    char error_layer[128]; /* ... of this one */
    double distance;       /* |weighted sum of the changes - B A| / |weighted sum|, of all layers together */
    double crosstalk;      /* largest |X Y^T| / (|X| |Y|) of two adapters' changes X, Y of one layer: 0 where their inputs are orthogonal */
    char crosstalk_layer[128];
    cb_difference difference; /* base with all adapters, each times its weight, against base with the result; positions 0: not measured */
} cb_adapter_merge_report;

/* Merges adapters of one kind into one, written to the directory `output` as PEFT reads it; it must not exist or be empty.
 * adapters: `count` PEFT directories, one weight each; ranks, alphas and layers may differ.  LoRA: each layer's changes X = scale B A are
 * combined by the method (CB_MERGE_*; linear: the sum of weight X; those that go from MODEL to one other go from the first adapter to the
 * second), which is what merging the folded models would do; the sum is exact by concatenation, other results are rounded to the rank, by the
 * first singular triples.  Or by PEFT's combination types.  (IA)^3: the product of 1 + weight (l - 1), or by type linear PEFT's sum of
 * weight l.  Layers that adapters hold whole are carried over; where several hold one, they must be equal.  What is more (DoRA, biases,
 * trained tokens) is refused by name.
 * base: a model directory, whose layers all adapters must fit, and on which the result is compared with them; or NULL, then they must name the
 * same base.  Everything is looked at before the first byte is written.  report may be NULL. */
CB_API bool cb_merge_adapters(const char *base, const char *const *adapters, const double *weights, size_t count, const char *output,
                              const cb_adapter_merge_options *options, cb_adapter_merge_report *report);

/* Merges by a recipe of mergekit's, a YAML file: models or slices of their layers, merge_method (also passthrough), base_model, parameters with
 * filters and gradients, dtype.  Paths are relative to the current directory.  Sizes that config.json names must be those of all models;
 * config and other files are the base's or the first model's, with the new number of layers.  What is not supported is refused by name.  As
 * in mergekit, dare and della keep the sum of absolute values.  Everything but single parameters is looked at before the first byte is
 * written, and `output` appears when it is whole.  seed: of what dare and della leave out. */
CB_API bool cb_merge_recipe(const char *file, const char *output, uint64_t seed, bool ignore_tokenizers);

/* ---- back from a whole model to an adapter ---- */

typedef struct cb_extract_options { /* what each is: cb_extract_option_table */
    int64_t rank;
    cb_string_list target_modules, exclude_modules, modules_to_save;
    bool drop_others;
    int64_t seed;
} cb_extract_options;
extern CB_API const cb_option cb_extract_option_table[];

typedef struct cb_extraction {
    int64_t layers;
    double kept;              /* share of the sum of squares of the changes that the adapter has, of all its layers together */
    double least_kept;        /* of the layer that lost most ... */
    char least[128];          /* ... which is this one */
    cb_string_list dropped;   /* weights that changed and are not in the adapter; free with cb_string_list_free() */
    cb_difference difference; /* base with adapter against the tuned model */
} cb_extraction;

/* What tuning changed in `base`, as a LoRA adapter for it: of each target layer's change the nearest of rank R (the first singular triples, halves
 * of their values on either side), modules_to_save whole.  Both models are of one architecture, their weights of any float dtype.  Other
 * weights that changed are refused by name unless drop_others.  Written to the directory `output` as PEFT reads it. */
CB_API bool cb_merge_extract(cb_model *base, cb_model *tuned, const char *output, const cb_extract_options *options, cb_extraction *report);

#ifdef __cplusplus
}
#endif
#endif
