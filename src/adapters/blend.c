/* blend.c: adapters in a blend: modules with the strength they have there, on the rows they are for. */
#include <stdlib.h>
#include <string.h>

#include "adapters/internal.h"

/* ---- layers trained whole ---- */

/* A copy of a layer's weight in place of the weight, as a module, so that each row can have its own. */
static cb_tensor *own_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx)
{
    (void)weight;
    (void)ctx;
    return m->state;
}

static const cb_module_kind whole_weight = {.name = "modules_to_save", .weight = own_weight},
                            whole_bias = {.name = "bias", .bias = own_weight};

static bool put_whole(cb_blend *blend, const cb_layer *layer, const cb_trained_weight *trained, const cb_share *share)
{
    bool is_bias = strcmp(trained->name, "bias") == 0;
    if (!is_bias && strcmp(trained->name, "weight") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "blend: layer %s is trained whole with its %s, expected weight and bias alone", layer->name,
                       trained->name) == CB_OK;
    cb_module *m = cb_blend_own(blend, cb_calloc(1, sizeof *m));
    if (!m)
        return false;
    *m = (cb_module){.kind = is_bias ? &whole_bias : &whole_weight, .layer = trained->layer, .state = trained->hidden, .strength = 1};
    return cb_blend_put(blend, layer, m, share);
}

/* On, whatever the strength, as without a blend. */
static bool add_trained(cb_blend *blend, const cb_adapter *adapter, const cb_share *share)
{
    for (size_t i = 0; i < adapter->trained_count; i++) {
        const cb_trained_weight *trained = &adapter->trained[i];
        if (trained->pinned)
            continue; /* the original: so it is without the adapter */
        if (!trained->hidden)
            return cb_fail(CB_ERR_STATE, "blend: adapter %s is on and has trained layer %s whole; expected it off", adapter->name,
                           trained->layer->name) == CB_OK;
        const cb_layer *follower = adapter->follower && adapter->follower->tied == trained->layer ? adapter->follower : NULL;
        if (!put_whole(blend, trained->layer, trained, share) || (follower && !put_whole(blend, follower, trained, share)))
            return false;
    }
    return true;
}

/* ---- modules ---- */

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* NULL with an error; the blend owns it. */
static const cb_share *share_of(cb_blend *blend, const cb_blend_use *use)
{
    cb_share *share = cb_blend_own(blend, cb_calloc(1, sizeof *share));
    if (!share)
        return NULL;
    *share = (cb_share){.first_token = use->first_token, .end_token = use->end_token, .weighted = use->weighted, .column = use->column};
    if (!use->rows)
        return share;
    int64_t *rows = cb_blend_own(blend, cb_alloc((use->row_count + 1) * sizeof *rows));
    if (!rows)
        return NULL;
    memcpy(rows, use->rows, use->row_count * sizeof *rows);
    qsort(rows, use->row_count, sizeof *rows, ascending);
    share->rows = rows;
    share->row_count = use->row_count;
    return share;
}

bool cb_blend_add_with(cb_blend *blend, const cb_adapter *adapter, cb_blend_use use)
{
    if (!blend || !adapter)
        return false;
    if (!adapter->connected)
        return cb_fail(CB_ERR_STATE, "blend: adapter %s is not attached", adapter->name) == CB_OK;
    double weight = use.weight == 0 ? 1 : use.weight;
    if (adapter->kind->module.virtual_tokens)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "blend: adapter %s is of kind %s, whose virtual tokens would be all rows'; expected another kind", adapter->name,
                       adapter->kind->name) == CB_OK;
    const cb_share *share = share_of(blend, &use);
    cb_adapter_module *modules = share ? cb_blend_own(blend, cb_calloc(adapter->module_count, sizeof *modules)) : NULL;
    if (!modules)
        return false;
    for (size_t i = 0; i < adapter->module_count; i++) {
        modules[i] = *cb_adapter_module_of(adapter->modules[i]); /* the same state, at this blend's strength */
        modules[i].module.strength = weight;
        if (!cb_blend_put(blend, modules[i].module.layer, &modules[i].module, share))
            return false;
    }
    return add_trained(blend, adapter, share);
}

/* ---- an adapter a row ---- */

/* By the row at which an adapter comes first, so that the order does not hang on addresses. */
bool cb_blend_rows(cb_blend *blend, cb_adapter *const *adapters, size_t rows)
{
    int64_t *list = cb_alloc((rows + 1) * sizeof *list);
    bool *done = cb_calloc(rows, sizeof *done), ok = list && done;
    for (size_t i = 0; ok && i < rows; i++) {
        if (!adapters[i] || done[i])
            continue;
        size_t count = 0;
        for (size_t k = i; k < rows; k++)
            if (adapters[k] == adapters[i]) {
                list[count++] = (int64_t)k;
                done[k] = true;
            }
        ok = cb_blend_add(blend, adapters[i], .rows = list, .row_count = count);
    }
    cb_free(list);
    cb_free(done);
    return ok;
}
