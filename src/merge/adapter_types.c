/* adapter_types.c: adapters merged as PEFT's add_weighted_adapter() does (peft/tuners/lora/model.py, utils/merge_utils.py, 0.21).
 *
 * linear, ties, dare_* and magnitude_prune combine A's with A's and B's with B's, each times the root of |weight * scale| (its sign goes to A):
 * cheap and of the same rank, but not what the adapters add up to.  cat is; the types that end in svd are those of the changes B A, in as much
 * as the rank holds. */
#include <math.h>
#include <string.h>

#include "core/rehearsal.h"
#include "merge/adapters.h"

typedef struct combination {
    int method; /* of combine.c: what is done to each tensor, or to all */
    bool ties;  /* then those of the sign that wins are averaged */
    bool svd;
} combination;

static const combination combinations[] = {
    [CB_COMBINATION_LINEAR] = {CB_MERGE_TASK_ARITHMETIC, false, false},
    [CB_COMBINATION_SVD] = {CB_MERGE_TASK_ARITHMETIC, false, true},
    [CB_COMBINATION_CAT] = {CB_MERGE_TASK_ARITHMETIC, false, false},
    [CB_COMBINATION_TIES] = {CB_MERGE_MAGNITUDE_PRUNE, true, false},
    [CB_COMBINATION_TIES_SVD] = {CB_MERGE_MAGNITUDE_PRUNE, true, true},
    [CB_COMBINATION_DARE_TIES] = {CB_MERGE_DARE_LINEAR, true, false},
    [CB_COMBINATION_DARE_LINEAR] = {CB_MERGE_DARE_LINEAR, false, false},
    [CB_COMBINATION_DARE_TIES_SVD] = {CB_MERGE_DARE_LINEAR, true, true},
    [CB_COMBINATION_DARE_LINEAR_SVD] = {CB_MERGE_DARE_LINEAR, false, true},
    [CB_COMBINATION_MAGNITUDE_PRUNE] = {CB_MERGE_MAGNITUDE_PRUNE, false, false},
    [CB_COMBINATION_MAGNITUDE_PRUNE_SVD] = {CB_MERGE_MAGNITUDE_PRUNE, false, true},
};

/* Of one adapter PEFT only scales the factors. */
static int type_of(const cb_adapter_merge *m)
{
    return m->count == 1 ? CB_COMBINATION_LINEAR : m->options->combination_type;
}

/* The mean of the weighted values of the sign that wins among the unweighted ones; mean over how many, not over weights as in the paper. */
static cb_tensor *agreeing_mean(cb_tensor *const *xs, const double *weights, size_t count, bool frequency)
{
    cb_tensor *out = cb_zeros(CB_F32, xs[0]->shape[0], xs[0]->shape[1]);
    float *values = out && !cb_rehearsing() ? out->data : NULL;
    for (int64_t i = 0; values && i < out->count; i++) {
        float sum = 0, total = 0;
        int agree = 0;
        for (size_t k = 0; k < count; k++) {
            float x = ((const float *)xs[k]->data)[i];
            sum += frequency ? (float)((x > 0) - (x < 0)) : x;
        }
        for (size_t k = 0; k < count; k++) {
            float x = ((const float *)xs[k]->data)[i];
            if (sum >= 0 ? x > 0 : x < 0) {
                total += x * (float)weights[k];
                agree++;
            }
        }
        values[i] = agree ? total / (float)agree : 0;
    }
    return out;
}

/* One tensor alone, thinned out. */
static cb_tensor *prune(const cb_model_merge_options *o, const char *name, cb_tensor *x, double density)
{
    double one = 1;
    if (density >= 1 || o->method == CB_MERGE_TASK_ARITHMETIC)
        return x;
    if (o->method == CB_MERGE_MAGNITUDE_PRUNE && density * (double)x->count < 1) /* where PEFT keeps none, and combine.c one */
        return cb_zeros(CB_F32, x->shape[0], x->shape[1]);
    return cb_combine_tensors(o, name, NULL, &x, &one, &density, 1);
}

static cb_tensor *combine(const cb_adapter_merge *m, const char *name, const cb_layer_factors *f, cb_tensor *const *xs,
                          const double *weights)
{
    const combination *c = &combinations[type_of(m)];
    cb_model_merge_options o = *m->options->combine;
    o.method = c->method;
    o.lambda = 1;
    o.normalize = 2;
    o.rescale = c->method == CB_MERGE_DARE_LINEAR ? CB_RESCALE_DENSITY : CB_RESCALE_NONE;
    cb_tensor *pruned[CB_MERGE_MOST_MODELS], *sum = NULL;
    for (size_t i = 0; i < f->count; i++) {
        char *own = cb_format("%s %s %zu", f->layer, name, f->list[i].source); /* a stream of draws for each */
        pruned[i] = own ? prune(&o, own, xs[i], m->densities[f->list[i].source]) : NULL;
        cb_free(own);
        if (!pruned[i])
            return NULL;
    }
    if (c->ties)
        return agreeing_mean(pruned, weights, f->count, o.majority_sign_method == 1);
    for (size_t i = 0; i < f->count; i++) {
        cb_tensor *weighted = cb_scale(pruned[i], weights[i]);
        sum = sum && weighted ? cb_add(sum, weighted) : weighted;
    }
    return sum;
}

static bool by_factors(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out)
{
    cb_tensor *as[CB_MERGE_MOST_MODELS], *bs[CB_MERGE_MOST_MODELS];
    double for_a[CB_MERGE_MOST_MODELS], for_b[CB_MERGE_MOST_MODELS];
    for (size_t i = 0; i < f->count; i++) {
        const cb_factors *x = &f->list[i];
        if (x->a->shape[0] != f->list[0].a->shape[0])
            return cb_fail(CB_ERR_SHAPE,
                           "layer %s: found adapters of ranks %lld and %lld, whose A cannot be combined with A and B with B; expected one "
                           "rank, "
                           "or --combination-type cat or one that ends in svd, or a --method",
                           f->layer, (long long)f->list[0].a->shape[0], (long long)x->a->shape[0]) == CB_OK;
        double weight = x->weight * x->scale;
        as[i] = x->a;
        bs[i] = x->b;
        for_b[i] = sqrt(fabs(weight));
        for_a[i] = weight < 0 ? -for_b[i] : for_b[i];
    }
    out->rank = f->list[0].a->shape[0];
    out->a = combine(m, "A", f, as, for_a);
    out->b = combine(m, "B", f, bs, for_b);
    return out->a && out->b;
}

static bool by_changes(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out)
{
    cb_tensor *changes[CB_MERGE_MOST_MODELS];
    double weights[CB_MERGE_MOST_MODELS];
    for (size_t i = 0; i < f->count; i++) {
        cb_tensor *product = cb_matmul(f->list[i].b, f->list[i].a);
        changes[i] = cb_contiguous(product ? cb_scale(product, f->list[i].scale) : NULL);
        weights[i] = f->list[i].weight;
        if (!changes[i])
            return false;
    }
    out->whole = combine(m, "change", f, changes, weights);
    return out->whole;
}

bool cb_change_by_type(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out)
{
    int type = type_of(m);
    const combination *c = &combinations[type];
    int64_t most = f->out < f->in ? f->out : f->in;
    if (!c->svd && type != CB_COMBINATION_CAT)
        return by_factors(m, f, out);
    for (size_t i = 0; i < m->layer_count; i++) /* the largest rank of any layer, as PEFT has it */
        for (size_t k = 0; k < m->count; k++)
            if (m->layers[i].a[k] && m->layers[i].a[k]->shape[0] > out->rank)
                out->rank = m->layers[i].a[k]->shape[0];
    out->rank = m->options->rank ? m->options->rank : out->rank;
    out->rank = out->rank < most ? out->rank : most;
    if (type == CB_COMBINATION_SVD || type == CB_COMBINATION_CAT) {
        bool ok = cb_factors_concatenate(f, 1, &out->a, &out->b);
        out->values_in_b = type == CB_COMBINATION_SVD;
        out->rank = ok && type == CB_COMBINATION_CAT ? out->a->shape[0] : out->rank;
        return ok;
    }
    out->values_in_b = true;
    return by_changes(m, f, out);
}
