/* in_place.c: folding adapters into the weights in memory, and back.
 *
 * A changed weight becomes a new tensor of the same dtype; the one it replaces is kept aside, so that going back is exact.  A head that
 * is tied to the embedding gets a weight of its own, in the form that cb_layer_train_copy(..., false) takes back. */
#include "merge/internal.h"

typedef struct folded_weight {
    cb_tensor *original; /* kept; NULL: the weight was added to a tied layer */
    bool done;
} folded_weight;

struct cb_fold {
    cb_changes changes;
    folded_weight *weights; /* one per change */
};

static bool replace_weight(const cb_change *change, cb_tensor *value, folded_weight *folded)
{
    const cb_weight *own = cb_layer_own_weight(change->layer, change->name);
    if (own) {
        folded->original = cb_keep(own->tensor);
        folded->done = cb_layer_set_weight(change->layer, change->name, value);
        return folded->done;
    }
    cb_tensor *shared = cb_layer_weight(change->layer, change->name);
    if (!cb_layer_add_weight(change->layer, change->name, value))
        return false;
    change->layer->weights[change->layer->weight_count - 1].frozen = cb_keep(shared);
    return folded->done = true;
}

static bool fold_weight(const cb_change *change, folded_weight *folded)
{
    if (!change->module_count && cb_layer_own_weight(change->layer, change->name))
        return true; /* trained whole: the layer uses the copy already */
    cb_tensor *base = cb_layer_weight(change->layer, change->name);
    if (!change->module_count)
        return replace_weight(change, base, folded);
    if (!base)
        return cb_fail(CB_ERR_ARGUMENT, "layer %s has no %s to fold into", change->layer->name, change->name) == CB_OK;
    if (cb_dtype_is_quantized(base->dtype))
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "layer %s: its %s is %s, expected a plain dtype: what an adapter adds is too small for its steps",
                       change->layer->name, change->name, cb_dtype_name(base->dtype)) == CB_OK;
    cb_scope *scope = cb_scope_open();
    cb_tensor *value = scope ? cb_change_apply(change, base) : NULL;
    bool ok = false;
    if (value)
        cb_no_grad ok = replace_weight(change, cb_cast(value, base->dtype), folded);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

cb_fold *cb_fold_in_place(cb_adapter *const *adapters, size_t count)
{
    cb_fold *fold = cb_calloc(1, sizeof *fold);
    if (!fold)
        return NULL;
    bool ok = cb_changes_collect(&fold->changes, adapters, count);
    fold->weights = ok ? cb_calloc(fold->changes.count, sizeof *fold->weights) : NULL;
    ok = fold->weights != NULL;
    for (int modules = 0; modules < 2; modules++) /* what stops being shared first */
        for (size_t i = 0; ok && i < fold->changes.count; i++)
            if ((fold->changes.list[i].module_count > 0) == modules)
                ok = fold_weight(&fold->changes.list[i], &fold->weights[i]);
    if (!ok) {
        cb_unfold(fold);
        return NULL;
    }
    for (size_t i = 0; i < fold->changes.count; i++)
        for (size_t k = 0; k < fold->changes.list[i].module_count; k++)
            cb_layer_detach(fold->changes.list[i].layer, fold->changes.list[i].modules[k]);
    return fold;
}

void cb_unfold(cb_fold *fold)
{
    if (!fold)
        return;
    for (size_t i = 0; i < fold->changes.count; i++) {
        const cb_change *change = &fold->changes.list[i];
        folded_weight *folded = fold->weights ? &fold->weights[i] : NULL;
        if (folded && folded->done && folded->original)
            cb_layer_set_weight(change->layer, change->name, folded->original);
        else if (folded && folded->done)
            cb_layer_train_copy(change->layer, change->name, CB_F32, false);
        if (folded)
            cb_release(folded->original);
        for (size_t k = 0; k < change->module_count; k++)
            cb_layer_attach(change->layer, change->modules[k]);
    }
    cb_changes_free(&fold->changes);
    cb_free(fold->weights);
    cb_free(fold);
}
