/* extract.c: what tuning changed in a model, as a LoRA adapter: W' - W is nearly B A, by its first singular triples (Eckart and Young 1936). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "adapters/low_rank.h"
#include "cambium/merge.h"

#define OPT cb_extract_options
const cb_option cb_extract_option_table[] = {
    CB_OPT_INT(OPT, rank, 16, 1, 65536, "rank of the adapter"),
    CB_OPT_LIST(OPT, target_modules, "all-linear", "NAME,...", "layers whose changes become A and B, as for train"),
    CB_OPT_LIST(OPT, exclude_modules, NULL, "NAME,...", "of these layers, those that do not"),
    CB_OPT_LIST(OPT, modules_to_save, NULL, "NAME,...", "layers that the adapter holds whole: embeddings, norms, the head"),
    CB_OPT_BOOL(OPT, drop_others, false, "leave out what else changed instead of refusing it"),
    CB_OPT_INT(OPT, seed, 0, 0, 9e15, "of the random projections that find singular vectors, and of the tokens that are compared"),
    CB_OPT_END};
#undef OPT

typedef struct extraction {
    const cb_extract_options *options;
    cb_model *base, *tuned;
    cb_adapter *adapter;
    cb_extraction *report;
    double squares, lost;
} extraction;

/* ---- the adapter ---- */

static bool set_list(cb_adapter *adapter, const char *name, const cb_string_list *list)
{
    cb_string text = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < list->count; i++)
        ok = cb_string_printf(&text, "%s%s", i ? "," : "", list->items[i]);
    ok = ok && (!list->count || cb_adapter_set(adapter, name, text.data));
    cb_string_free(&text);
    return ok;
}

static bool attach(extraction *x)
{
    const cb_extract_options *o = x->options;
    char rank[24];
    snprintf(rank, sizeof rank, "%lld", (long long)o->rank);
    x->adapter = cb_adapter_new("lora", "default");
    return x->adapter && cb_adapter_set(x->adapter, "rank", rank) && cb_adapter_set(x->adapter, "alpha", rank) &&
           set_list(x->adapter, "target_modules", &o->target_modules) && set_list(x->adapter, "exclude_modules", &o->exclude_modules) &&
           set_list(x->adapter, "modules_to_save", &o->modules_to_save) &&
           cb_adapter_attach(x->adapter, cb_model_root(x->base), cb_model_type(x->base), (uint64_t)o->seed);
}

/* ---- one layer ---- */

static const cb_layer *twin(const extraction *x, const cb_layer *layer)
{
    const cb_layer *other = cb_layer_find(cb_model_root(x->tuned), layer->name);
    if (other && other->kind == layer->kind && other->in_features == layer->in_features && other->out_features == layer->out_features)
        return other;
    cb_fail(CB_ERR_SHAPE, "%s: layer %s: found %s, expected %lld inputs and %lld outputs as in %s", cb_model_directory(x->tuned),
            layer->name, other ? "other sizes" : "none", (long long)layer->in_features, (long long)layer->out_features,
            cb_model_directory(x->base));
    return NULL;
}

/* a <- sqrt(S) V', b <- U sqrt(S), as far as there are singular values; what is beyond stays zero */
static bool put_factors(cb_tensor *change, int64_t rank, cb_rng rng, cb_tensor *a, cb_tensor *b)
{
    enum { EXTRA = 16, POWER_ITERATIONS = 4 };
    int64_t most = change->shape[0] < change->shape[1] ? change->shape[0] : change->shape[1], k = rank < most ? rank : most;
    cb_tensor *u, *s, *vt;
    if (!cb_svd_first(change, k, EXTRA, POWER_ITERATIONS, rng, &u, &s, &vt))
        return false;
    cb_tensor *root = cb_sqrt(s);
    return cb_copy_into(a, cb_zeros(CB_F32, a->shape[0], a->shape[1])) && cb_copy_into(b, cb_zeros(CB_F32, b->shape[0], b->shape[1])) &&
           cb_copy_into(cb_slice(a, 0, 0, k, 1), cb_mul(cb_reshape(root, k, 1), vt)) &&
           cb_copy_into(cb_slice(b, 1, 0, k, 1), cb_mul(u, cb_reshape(root, 1, k)));
}

static double squares_of(cb_tensor *x)
{
    return x ? cb_item(cb_sum(cb_square(cb_reshape(x, x->count)), 0, false)) : 0;
}

static bool extract_layer(extraction *x, const cb_module *m)
{
    const cb_layer *layer = m->layer, *other = twin(x, layer);
    cb_tensor *a = cb_adapter_parameter_of(x->adapter, layer, "lora_A.weight"),
              *b = cb_adapter_parameter_of(x->adapter, layer, "lora_B.weight");
    if (!other)
        return false;
    if (!a || !b || layer->kind != CB_LAYER_LINEAR)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "layer %s: is no linear layer, whose change could become A and B; expected it in modules_to_save",
                       layer->name) == CB_OK;
    cb_tensor *change = cb_contiguous(cb_sub(cb_weight_f32(other), cb_weight_f32(layer)));
    if (!change || !put_factors(change, x->options->rank, cb_adapter_rng((uint64_t)x->options->seed, m, "extract"), a, b))
        return false;
    double whole = squares_of(change), lost = squares_of(cb_sub(change, cb_matmul(b, a))), kept = whole > 0 ? 1 - lost / whole : 1;
    x->squares += whole;
    x->lost += lost;
    if (!x->report->layers++ || kept < x->report->least_kept) {
        x->report->least_kept = kept;
        snprintf(x->report->least, sizeof x->report->least, "%s", layer->name);
    }
    return cb_ok();
}

/* ---- everything else ---- */

static bool is_ours(const extraction *x, const cb_layer *layer, const char *weight, bool *whole)
{
    cb_module *const *modules;
    cb_layer *const *saved;
    size_t count = cb_adapter_modules(x->adapter, &modules), saved_count = cb_adapter_saved_layers(x->adapter, &saved);
    *whole = false;
    for (size_t i = 0; i < saved_count; i++)
        *whole |= saved[i] == layer;
    for (size_t i = 0; i < count; i++)
        if (modules[i]->layer == layer && strcmp(weight, "weight") == 0)
            return true;
    return *whole;
}

static bool differs(cb_tensor *a, cb_tensor *b)
{
    return squares_of(cb_sub(cb_cast(a, CB_F32), cb_cast(b, CB_F32))) != 0;
}

static bool take_weight(extraction *x, cb_layer *layer, const cb_layer *other, const cb_weight *weight)
{
    bool whole;
    cb_tensor *tuned = cb_layer_weight(other, weight->name);
    if (!tuned || tuned->count != weight->tensor->count)
        return cb_fail(CB_ERR_SHAPE, "%s: layer %s: its %s does not fit", cb_model_directory(x->tuned), layer->name, weight->name) == CB_OK;
    if (is_ours(x, layer, weight->name, &whole))
        return !whole || cb_copy_into(weight->tensor, tuned); /* the adapter's trainable copy */
    if (cb_dtype_is_quantized(weight->tensor->dtype) || cb_dtype_is_quantized(tuned->dtype))
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: is quantised, expected plain weights: convert the model with --dtype bf16 first",
                       layer->name) == CB_OK;
    if (!differs(weight->tensor, tuned))
        return cb_ok();
    char *name = cb_layer_weight_name(layer, weight->name);
    bool ok = name && cb_string_list_add(&x->report->dropped, name);
    cb_free(name);
    return ok;
}

static bool take_weights(void *user, cb_layer *layer)
{
    extraction *x = user;
    const cb_layer *other = layer->weight_count ? twin(x, layer) : NULL;
    for (int i = 0; i < layer->weight_count; i++) {
        cb_scope *scope = other ? cb_scope_open() : NULL;
        bool ok = scope && take_weight(x, layer, other, &layer->weights[i]);
        if (scope)
            cb_scope_close(scope);
        if (!ok)
            return false;
    }
    return true;
}

static bool check_others(const extraction *x)
{
    const cb_string_list *d = &x->report->dropped;
    if (!d->count || x->options->drop_others)
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED,
                   "%s: %s%s%s changed too, and %s not in the adapter: --modules-to-save holds layers whole, --drop-others leaves them out",
                   cb_model_directory(x->tuned), d->items[0], d->count > 1 ? " and others: " : "", d->count > 1 ? d->items[1] : "",
                   d->count > 1 ? "are" : "is") == CB_OK;
}

static bool extract(extraction *x)
{
    cb_module *const *modules;
    if (!attach(x) || !cb_layer_visit(cb_model_root(x->base), take_weights, x) || !check_others(x))
        return false;
    size_t count = cb_adapter_modules(x->adapter, &modules);
    for (size_t i = 0; i < count; i++) {
        cb_scope *scope = cb_scope_open();
        bool ok = scope && extract_layer(x, modules[i]);
        if (scope)
            cb_scope_close(scope);
        if (cb_interrupted())
            cb_fail(CB_ERR_INTERRUPTED, "interrupted at layer %s", modules[i]->layer->name);
        if (!ok || !cb_ok())
            return false;
    }
    x->report->kept = x->squares > 0 ? 1 - x->lost / x->squares : 1;
    return true;
}

bool cb_merge_extract(cb_model *base, cb_model *tuned, const char *output, const cb_extract_options *options, cb_extraction *report)
{
    extraction x = {.options = options, .base = base, .tuned = tuned, .report = report};
    *report = (cb_extraction){0};
    if (!base || !tuned || !cb_ok())
        return false;
    bool ok = true;
    cb_no_grad ok = extract(&x);
    ok = ok && cb_merge_difference(tuned, base, NULL, (uint64_t)options->seed, &report->difference) &&
         cb_adapter_save(x.adapter, output, cb_model_directory(base));
    cb_adapter_free(x.adapter);
    return ok;
}
