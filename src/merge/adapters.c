/* adapters.c: several adapters merged into one, layer by layer; see adapters.h for the parts. */
#include "merge/adapters.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cambium/files.h"
#include "core/rehearsal.h"
#include "merge/internal.h"

/* In the order of CB_COMBINATION_*. */
static const char *const combination_types[] = {"none",
                                                "linear",
                                                "svd",
                                                "cat",
                                                "ties",
                                                "ties_svd",
                                                "dare_ties",
                                                "dare_linear",
                                                "dare_ties_svd",
                                                "dare_linear_svd",
                                                "magnitude_prune",
                                                "magnitude_prune_svd",
                                                NULL};
static const char *const unit_scales[] = {"mean", "max", "none", NULL};

#define OPT cb_adapter_merge_options
const cb_option cb_adapter_merge_option_table[] = {
    CB_OPT_ENUM(
        OPT, combination_type, CB_COMBINATION_NONE, combination_types,
        "merge as PEFT's add_weighted_adapter() does, instead of by --method; types without svd, but for cat, combine A with A and B "
        "with B"),
    CB_OPT_INT(
        OPT, rank, 0, 0, 65536,
        "rank of the result (PEFT's svd_rank; lego: the number of clusters); 0: that of all adapters together, so that a sum is exact; "
        "types that end in svd: the largest; lego: the mean"),
    CB_OPT_FLOAT(OPT, svd_clamp, 1, 0, 1, "types that end in svd: factors are cut off at this quantile of their values; 1: not"),
    CB_OPT_BOOL(OPT, lego_choose_rank, false, "lego: of each layer as many clusters as give the best silhouette, up to --rank"),
    CB_OPT_BOOL(OPT, lego_normalize, true, "lego: compare units with their halves at length one, not as they are"),
    CB_OPT_BOOL(OPT, lego_align_signs, false, "lego: turn units so that the largest number in A is positive; beyond the paper"),
    CB_OPT_ENUM(OPT, lego_unit_scale, CB_LEGO_SCALE_MEAN, unit_scales,
                "lego: a cluster's mean is made as long as its units on average, by length or by largest number, or left shorter"),
    CB_OPT_BOOL(OPT, lego_output_scale, true, "lego: multiply the result by the root of mean rank / clusters"),
    CB_OPT_INT(OPT, lego_restarts, 4, 1, 1000, "lego: starts of k-means, of which the best counts"),
    CB_OPT_INT(OPT, lego_max_iter, 100, 1, 100000, "lego: iterations of k-means at most"),
    CB_OPT_END};
#undef OPT

/* ---- what is looked at first ---- */

static bool check_options(cb_adapter_merge *m)
{
    const cb_adapter_merge_options *o = m->options;
    const cb_combine_method *method = cb_combine_method_of(o->combine);
    if (m->count < 1 || m->count > CB_MERGE_MOST_MODELS)
        return cb_fail(CB_ERR_ARGUMENT, "merge: found %zu adapters, expected 1 to %d", m->count, CB_MERGE_MOST_MODELS) == CB_OK;
    if (o->combine->dtype > CB_MERGE_F16)
        return cb_fail(CB_ERR_ARGUMENT, "dtype: an adapter is kept in keep, f32, bf16 or f16") == CB_OK;
    for (size_t i = 0; i < m->count; i++)
        if (!isfinite(m->sources[i].weight))
            return cb_fail(CB_ERR_ARGUMENT, "%s: weight: found %g, expected a number", m->sources[i].path, m->sources[i].weight) == CB_OK;
    if (o->combination_type == CB_COMBINATION_NONE) {
        size_t fewest = method->most == 1 ? 2 : method->fewest, most = method->most == 1 ? 2 : method->most;
        if (m->count < fewest || (most && m->count > most))
            return cb_fail(CB_ERR_ARGUMENT, "method: %s merges %s%zu adapter%s, found %zu", method->name, most ? "" : "at least ", fewest,
                           fewest == 1 ? "" : "s", m->count) == CB_OK;
    }
    return cb_combine_densities(o->combine, m->count, m->densities);
}

/* Adapters whose changes are no products of factors. */
static bool check_other_kinds(const cb_adapter_merge *m)
{
    const cb_adapter_merge_options *o = m->options;
    if (m->sparse)
        return (o->combination_type == CB_COMBINATION_NONE && o->combine->method == CB_MERGE_LINEAR && !o->combine->normalize &&
                !o->rank) ||
               cb_fail(CB_ERR_UNSUPPORTED, "%s: changes some elements of the weights, which are added up (--method linear, without a rank)",
                       m->sources[0].path) == CB_OK;
    if (!m->ia3 || o->combination_type == CB_COMBINATION_LINEAR ||
        (o->combination_type == CB_COMBINATION_NONE && o->combine->method == CB_MERGE_LINEAR && !o->combine->normalize))
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED,
                   "%s: is of (IA)^3, whose factors are multiplied (--method linear), or added up as in PEFT (--combination-type linear)",
                   m->sources[0].path) == CB_OK;
}

/* ---- one layer ---- */

static cb_tensor *flat_f32(const cb_weight_entry *e)
{
    cb_tensor *t = cb_cast(cb_weight_entry_tensor(e), CB_F32);
    return t ? cb_contiguous(cb_reshape(t, e->shape[0], t->count / e->shape[0])) : NULL;
}

/* 0 x is 0, but for NaN and the infinities. */
static bool all_finite(const cb_tensor *x)
{
    float sum = 0;
    const float *values = x->data;
    for (int64_t i = 0; !cb_rehearsing() && i < x->count; i++)
        sum += 0 * values[i];
    return sum == 0;
}

static bool not_finite(const cb_adapter_merge *m, size_t source, const cb_source_layer *l)
{
    return cb_fail(CB_ERR_NUMERIC, "%s: layer %s: found NaN or an infinity, expected numbers", m->sources[source].path, l->name) == CB_OK;
}

static bool read_factors(const cb_adapter_merge *m, const cb_source_layer *l, cb_factors *list, cb_layer_factors *f)
{
    *f = (cb_layer_factors){.layer = l->name, .list = list, .out = l->first_b->shape[0]};
    for (size_t i = 0; i < m->count; i++) {
        if (!l->a[i])
            continue;
        cb_factors *x = &list[f->count++];
        *x = (cb_factors){
            .a = flat_f32(l->a[i]), .b = flat_f32(l->b[i]), .scale = l->scales[i], .weight = m->sources[i].weight, .source = i};
        if (!x->a || !x->b)
            return false;
        f->in = x->a->shape[1];
        if (!all_finite(x->a) || !all_finite(x->b))
            return not_finite(m, i, l);
    }
    return cb_ok();
}

static void note_largest(double value, const char *layer, double *largest, char *where, size_t room)
{
    if (*largest < value || !*where) {
        *largest = value;
        snprintf(where, room, "%s", layer);
    }
}

static bool measure(const cb_adapter_merge *m, const cb_layer_factors *f, const cb_merged_change *change, cb_tensor *a, cb_tensor *b,
                    double *lost, double *squares)
{
    cb_adapter_merge_report *r = m->report;
    cb_tensor *sum_a, *sum_b;
    double here, of_sum;
    if (cb_rehearsing())
        return true;
    note_largest(cb_change_error(change, a, b), f->layer, &r->error, r->error_layer, sizeof r->error_layer);
    for (size_t i = 0; i < f->count; i++)
        for (size_t k = 0; k < i; k++)
            note_largest(cb_factors_crosstalk(&f->list[i], &f->list[k]), f->layer, &r->crosstalk, r->crosstalk_layer,
                         sizeof r->crosstalk_layer);
    if (!cb_factors_concatenate(f, 1, &sum_a, &sum_b))
        return false;
    cb_factors_distance(sum_a, sum_b, a, b, &here, &of_sum);
    *lost += here;
    *squares += of_sum;
    return cb_ok();
}

/* As the file will hold it: there, numbers beyond the dtype's largest are infinite. */
static cb_tensor *rounded(const cb_adapter_merge *m, cb_tensor *x, const cb_source_layer *l)
{
    cb_dtype dtype = cb_adapter_merge_dtype(m, l->first_a);
    cb_tensor *y = cb_cast(cb_cast(x, dtype), CB_F32);
    if (y && !all_finite(y)) {
        cb_fail(CB_ERR_NUMERIC, "merge: layer %s: the result is beyond the numbers of %s; nothing is kept", l->name, cb_dtype_name(dtype));
        return NULL;
    }
    return y;
}

static bool put_factors(cb_adapter_merge *m, const cb_source_layer *l, cb_tensor *a, cb_tensor *b)
{
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"};
    int64_t shape_a[CB_MAX_DIMS], shape_b[CB_MAX_DIMS];
    memcpy(shape_a, l->first_a->shape, sizeof shape_a);
    memcpy(shape_b, l->first_b->shape, sizeof shape_b);
    shape_a[0] = shape_b[1] = a->shape[0];
    const char *const *end = ends + 2 * l->embedding;
    return cb_adapter_merge_put(m, l, end[0], l->first_a, l->first_a->ndim, shape_a, a) &&
           cb_adapter_merge_put(m, l, end[1], l->first_b, l->first_b->ndim, shape_b, b);
}

static bool merge_layer(cb_adapter_merge *m, size_t index, double *lost, double *squares)
{
    const cb_source_layer *l = &m->layers[index];
    const cb_adapter_merge_options *o = m->options;
    cb_factors list[CB_MERGE_MOST_MODELS];
    cb_layer_factors f;
    cb_merged_change change = {0};
    if (!read_factors(m, l, list, &f))
        return false;
    bool ok = o->combination_type != CB_COMBINATION_NONE ? cb_change_by_type(m, &f, &change)
              : o->combine->method == CB_MERGE_LEGO      ? cb_change_by_lego(m, &f, &change)
                                                         : cb_change_by_method(m, &f, &change);
    cb_tensor *a, *b;
    cb_rng rng = {.seed = (uint64_t)o->combine->seed, .stream = cb_hash_text(CB_HASH_START, l->name)};
    if (!ok || !cb_change_factors(&change, rng, change.values_in_b ? o->svd_clamp : 1, &a, &b))
        return false;
    a = rounded(m, a, l);
    b = rounded(m, b, l);
    if (!a || !b || !measure(m, &f, &change, a, b, lost, squares))
        return false;
    m->ranks[index] = a->shape[0];
    m->report->rank = a->shape[0] > m->report->rank ? a->shape[0] : m->report->rank;
    return put_factors(m, l, a, b);
}

/* Attached together, factors multiply: the product of 1 + w (l - 1); PEFT adds w l up. */
static bool merge_ia3_layer(cb_adapter_merge *m, size_t index)
{
    const cb_source_layer *l = &m->layers[index];
    bool sum = m->options->combination_type == CB_COMBINATION_LINEAR;
    cb_tensor *total = NULL;
    for (size_t i = 0; i < m->count; i++) {
        if (!l->a[i])
            continue;
        cb_tensor *x = cb_contiguous(cb_cast(cb_weight_entry_tensor(l->a[i]), CB_F32));
        if (!x || !all_finite(x))
            return x ? not_finite(m, i, l) : false;
        x = cb_scale(x, m->sources[i].weight);
        if (!sum)
            x = cb_add_scalar(x, 1 - m->sources[i].weight);
        total = !total ? x : sum ? cb_add(total, x) : cb_mul(total, x);
    }
    total = cb_contiguous(total);
    if (total)
        total = rounded(m, total, l);
    return total && cb_adapter_merge_put(m, l, ".ia3_l", l->first_a, l->first_a->ndim, l->first_a->shape, total);
}

static bool merge_layers(cb_adapter_merge *m)
{
    double lost = 0, squares = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < m->layer_count; i++) {
        cb_scope *scope = cb_scope_open();
        ok = scope != NULL;
        cb_no_grad ok = ok && (m->ia3      ? merge_ia3_layer(m, i)
                               : m->sparse ? cb_merge_sparse_layer(m, i)
                                           : merge_layer(m, i, &lost, &squares));
        if (scope)
            cb_scope_close(scope);
        if (ok && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted at layer %s; nothing is kept", m->layers[i].name) == CB_OK;
    }
    m->report->layers = (int64_t)m->layer_count;
    m->report->distance = lost <= 0 ? 0 : squares > 0 ? sqrt(lost / squares) : INFINITY;
    return ok && cb_ok();
}

/* ---- on a base ---- */

typedef struct trial {
    cb_model *model;
    cb_adapter *adapters[CB_MERGE_MOST_MODELS];
} trial;

/* The base with all adapters, which their tensors must fit. */
static bool trial_open(trial *t, const char *base, const cb_adapter_merge *m)
{
    t->model = cb_adapter_merge_base(m, base);
    for (size_t i = 0; t->model && i < m->count; i++) {
        t->adapters[i] = cb_adapter_load(m->sources[i].path, cb_model_root(t->model), cb_model_type(t->model));
        if (!t->adapters[i])
            return false;
        cb_adapter_set_strength(t->adapters[i], m->sources[i].weight);
    }
    return t->model;
}

static void trial_close(trial *t)
{
    for (size_t i = CB_MERGE_MOST_MODELS; i-- > 0;)
        cb_adapter_free(t->adapters[i]);
    cb_model_free(t->model);
}

/* Whether the result is meant to do what the adapters do together. */
static bool means_sum(const cb_adapter_merge *m)
{
    const cb_adapter_merge_options *o = m->options;
    return o->combination_type == CB_COMBINATION_CAT ||
           (o->combination_type == CB_COMBINATION_NONE && o->combine->method == CB_MERGE_LINEAR && !o->combine->normalize && !o->rank);
}

static bool compare(const trial *t, const char *base, const char *stage, const char *output, const cb_adapter_merge *m)
{
    cb_difference *d = &m->report->difference;
    cb_model *model = cb_adapter_merge_base(m, base);
    cb_adapter *merged = model ? cb_adapter_load(stage, cb_model_root(model), cb_model_type(model)) : NULL;
    bool ok = merged && cb_merge_difference(t->model, model, NULL, (uint64_t)m->options->combine->seed, d);
    cb_adapter_free(merged);
    cb_model_free(model);
    double most = m->options->max_kl >= 0 || means_sum(m) ? cb_largest_kl(m->options->max_kl, false) : INFINITY;
    return ok && cb_difference_within(d, output, most, m->options->min_agreement);
}

static bool write(cb_adapter_merge *m, const trial *t, const char *base, const char *output)
{
    char *parent = cb_path_parent(output), *stage = parent && cb_directory_make(parent) ? cb_directory_stage(output) : NULL;
    cb_free(parent);
    if (!stage)
        return false;
    if (cb_adapter_merge_write(m, stage, base) && (!base || compare(t, base, stage, output, m)))
        return cb_stage_publish(stage, output);
    cb_stage_discard(stage);
    return false;
}

bool cb_merge_adapters(const char *base, const char *const *adapters, const double *weights, size_t count, const char *output,
                       const cb_adapter_merge_options *options, cb_adapter_merge_report *report)
{
    cb_adapter_merge_report own;
    cb_adapter_merge m = {.options = options, .count = count, .report = report ? report : &own};
    trial t = {0};
    if (!cb_ok())
        return false;
    *m.report = (cb_adapter_merge_report){0};
    m.sources = cb_calloc(count + 1, sizeof *m.sources);
    for (size_t i = 0; m.sources && i < count; i++)
        m.sources[i] = (cb_adapter_source){.path = adapters[i], .weight = weights[i]};
    bool ok = m.sources && check_options(&m) && cb_directory_vacant(output) && cb_adapter_merge_read(&m, base != NULL) &&
              check_other_kinds(&m) && (!base || trial_open(&t, base, &m)) && merge_layers(&m) && write(&m, &t, base, output);
    trial_close(&t);
    cb_adapter_merge_free(&m);
    return ok;
}
