/* internal.h: what folding into a directory and folding in memory share: the changes that adapters make to the weights of their base. */
#ifndef CB_MERGE_INTERNAL_H
#define CB_MERGE_INTERNAL_H

#include "cambium/merge.h"

/* One weight of the base that the adapters change: modules add to it, or it was trained whole, or both; or neither, where it only stops
 * being shared with another that changes. */
typedef struct cb_change {
    cb_layer *layer;
    const char *name;    /* "weight", "bias" */
    cb_module **modules; /* those that add to it, in the order in which the layer runs them */
    size_t module_count, module_capacity;
} cb_change;

typedef struct cb_changes {
    cb_change *list;
    size_t count, capacity;
} cb_changes;

/* Collects the changes of attached adapters of strength other than 0, in tree order of the first one that makes them.  Refuses a module that
 * is no change of weights, by name. */
bool cb_changes_collect(cb_changes *changes, cb_adapter *const *adapters, size_t count);
void cb_changes_free(cb_changes *changes);
/* The new value as f32, in the innermost scope: `base` (any float dtype, the shape of the weight) or, where it was trained, the trained
 * copy, plus what the modules add. */
cb_tensor *cb_change_apply(const cb_change *change, cb_tensor *base);

/* The mean KL divergence that is allowed: as asked, or where that is negative 0.01, and 0.2 when matrices were rounded coarsely. */
double cb_largest_kl(double asked, bool coarse);
/* Whether a result may be kept; else CB_ERR_NUMERIC. */
bool cb_difference_within(const cb_difference *difference, const char *output, double max_kl, double min_agreement);
/* cb_merge_fold() to a GGUF file. */
bool cb_merge_fold_gguf(cb_model *model, cb_adapter *const *adapters, size_t count, const char *output, const cb_merge_options *options,
                        cb_difference *difference);

#endif
