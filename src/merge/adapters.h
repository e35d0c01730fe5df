/* adapters.h: adapters merged into one: what its files share.
 *
 * adapters.c runs it, adapter_files.c reads and writes the files, adapter_deltas.c makes one layer's change of several, adapter_types.c does so
 * in PEFT's way, adapter_labels.c looks at what they are for, lego.c by clusters of units; sparse.c adds up adapters of some elements of the weights. */
#ifndef CB_MERGE_ADAPTERS_H
#define CB_MERGE_ADAPTERS_H

#include "cambium/formats.h"
#include "cambium/training.h"
#include "core/json.h"
#include "merge/combine.h"

/* One of the adapters. */
typedef struct cb_adapter_source {
    const char *path;
    double weight;
    json_t *config;
    cb_weights *tensors;
} cb_adapter_source;

/* A layer that some of them change: in each its A and B (or, of (IA)^3, its factors as A, of a sparse one its values and places), NULL where
 * that adapter leaves it alone. */
typedef struct cb_source_layer {
    char *name;
    bool embedding;
    const cb_weight_entry *a[CB_MERGE_MOST_MODELS], *b[CB_MERGE_MOST_MODELS];
    double scales[CB_MERGE_MOST_MODELS]; /* the change is scale * B A */
    const cb_weight_entry *first_a, *first_b;
} cb_source_layer;

typedef struct cb_adapter_merge {
    const cb_adapter_merge_options *options;
    cb_adapter_source *sources;
    size_t count;
    double densities[CB_MERGE_MOST_MODELS];
    bool ia3, sparse;
    cb_adapter_labels labels; /* what those with labels were trained for; no names: all are for words */
    size_t labels_of;         /* the first of those */
    cb_source_layer *layers;  /* in the order of their names */
    size_t layer_count, layer_capacity;
    const cb_weight_entry **whole; /* layers that an adapter holds whole: their tensors */
    size_t whole_count, whole_capacity;
    cb_weight_entry *out; /* the result: names and data are owned */
    size_t out_count, out_capacity;
    int64_t *ranks; /* of the layers, in the result; sparse: numbers of places */
    cb_adapter_merge_report *report;
} cb_adapter_merge;

/* ---- adapter_files.c ---- */

/* Reads the sources' configs and tensors, and refuses by name what cannot be merged.  on_base: they are all tried on one base. */
bool cb_adapter_merge_read(cb_adapter_merge *m, bool on_base);
/* Takes values (f32, contiguous) as a tensor of the result; like: whose dtype (unless the options say another) it gets. */
bool cb_adapter_merge_put(cb_adapter_merge *m, const cb_source_layer *layer, const char *suffix, const cb_weight_entry *like, int ndim,
                          const int64_t *shape, cb_tensor *values);
/* The same for places: (2, count) rows and columns. */
bool cb_adapter_merge_put_places(cb_adapter_merge *m, const cb_source_layer *layer, const char *suffix, int64_t count,
                                 const int32_t *places);
/* The dtype of what becomes of a tensor. */
cb_dtype cb_adapter_merge_dtype(const cb_adapter_merge *m, const cb_weight_entry *like);
bool cb_adapter_merge_write(cb_adapter_merge *m, const char *directory, const char *base);
void cb_adapter_merge_free(cb_adapter_merge *m);

/* ---- adapter_labels.c ---- */

/* Finds out what the adapters are for; CB_ERR_ARGUMENT where their tasks or labels differ. */
bool cb_adapter_merge_labels(cb_adapter_merge *m);
/* The base, with a head for the labels, which the adapters bring where it has none. */
cb_model *cb_adapter_merge_base(const cb_adapter_merge *m, const char *base);

/* ---- one layer ---- */

/* A and B of an adapter that changes the layer. */
typedef struct cb_factors {
    cb_tensor *a, *b; /* (R, in), (out, R) f32 */
    double scale, weight;
    size_t source;
} cb_factors;

typedef struct cb_layer_factors {
    const char *layer;
    const cb_factors *list;
    size_t count;
    int64_t in, out;
} cb_layer_factors;

/* What a layer's change became: a matrix, or factors of one. */
typedef struct cb_merged_change {
    cb_tensor *whole; /* (out, in), or NULL */
    cb_tensor *a, *b; /* (R, in), (out, R) */
    int64_t rank;     /* that the result is to have */
    bool values_in_b; /* as PEFT's svd: singular vectors whatever the rank, their values in B; else half of each on either side */
} cb_merged_change;

/* All in the innermost scope.  By the methods for whole models, over changes instead of models (adapter_deltas.c). */
bool cb_change_by_method(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out);
/* As PEFT's add_weighted_adapter() (adapter_types.c). */
bool cb_change_by_type(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out);
/* lego.c */
bool cb_change_by_lego(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out);

/* sparse.c: puts the sum of the sources' values at each place that one of them has. */
bool cb_merge_sparse_layer(cb_adapter_merge *m, size_t index);

/* [f1 A1; f2 A2; ...] and [B1, B2, ...] with f = weight * scale * factor: the sum of the changes. */
bool cb_factors_concatenate(const cb_layer_factors *f, double factor, cb_tensor **a, cb_tensor **b);
/* One of the methods of combine.c over matrices of one shape (f32): zero is what changes are counted from when base is NULL. */
cb_tensor *cb_combine_tensors(const cb_model_merge_options *options, const char *name, cb_tensor *base, cb_tensor *const *others,
                              const double *weights, const double *densities, size_t count);
/* Factors of the change's rank, f32; the largest element of each row of A is positive where singular vectors are taken. */
bool cb_change_factors(const cb_merged_change *change, cb_rng rng, double clamp, cb_tensor **a, cb_tensor **b);
/* |change - B A| / |change|; 0 where both are none. */
double cb_change_error(const cb_merged_change *change, cb_tensor *a, cb_tensor *b);
/* |B A - B' A'|^2 and |B A|^2. */
void cb_factors_distance(cb_tensor *a, cb_tensor *b, cb_tensor *other_a, cb_tensor *other_b, double *lost, double *squares);
/* |X Y^T| / (|X| |Y|) of two changes X and Y: how much of what one adds reaches the other's inputs. */
double cb_factors_crosstalk(const cb_factors *x, const cb_factors *y);

#endif
