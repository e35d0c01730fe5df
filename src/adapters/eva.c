/* eva.c: LoRA's init_lora_weights eva: the rows of A are the first principal components of what the layer is given on training data, and ranks
 * go where they explain most.  Paischer et al. 2024, arXiv:2410.07170; with the numbers of PEFT's tuners/lora/eva.py.
 *
 * Components are kept batch by batch (incremental PCA, Ross et al. 2008): those of a batch together with the earlier ones, each times its
 * singular value, and a row for the difference of the means.  N tokens of the batch, C inputs, K components kept: rho times the rank.
 * A layer is through when the components that it has a rank for point as they did a batch before (cosine of at least tau). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/low_rank.h"
#include "adapters/study.h"
#include "core/json.h"

typedef struct pca {
    cb_tensor *components; /* (K, C); NULL before the first batch */
    cb_tensor *singular;   /* (K) */
    cb_tensor *mean;       /* (C) */
    double *explained;     /* (K) share of the scatter */
    bool *converged;       /* (K) */
    double scatter;        /* sum of squared distances from the mean */
    int64_t seen;          /* tokens */
} pca;

enum { POWER_ITERATIONS = 4, SEED = 42 }; /* PEFT's */

static void release(void *state)
{
    pca *p = state;
    cb_release(p->components);
    cb_release(p->singular);
    cb_release(p->mean);
    cb_free(p->explained);
    cb_free(p->converged);
}

/* ---- components ---- */

/* The largest element of a component is positive, so that two batches give the same sign. */
static void flip(cb_tensor *components)
{
    int64_t in = components->shape[1];
    for (int64_t k = 0; k < components->shape[0]; k++) {
        float *row = (float *)components->data + k * in, most = 0;
        for (int64_t i = 0; i < in; i++)
            most = fabsf(row[i]) > fabsf(most) ? row[i] : most;
        for (int64_t i = 0; most < 0 && i < in; i++)
            row[i] = -row[i];
    }
}

static double cosine(const float *a, const float *b, int64_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static void replace(cb_tensor **kept, cb_tensor *with)
{
    cb_keep(with);
    cb_release(*kept);
    *kept = with;
}

/* What the singular values and vectors of all tokens so far are those of; notes their mean and scatter. */
static cb_tensor *stacked(pca *p, cb_tensor *x)
{
    double n = (double)x->shape[0], before = (double)p->seen;
    cb_tensor *mean = cb_mean(x, 0, false), *centred = cb_sub(x, mean);
    double scatter = cb_item(cb_sum(cb_square(centred), CB_ALL, false));
    if (!centred || !cb_ok())
        return NULL;
    cb_tensor *all = centred, *total = mean;
    if (p->components) {
        cb_tensor *shift = cb_sub(p->mean, mean), *old = cb_mul(cb_unsqueeze(p->singular, 1), p->components);
        cb_tensor *row = cb_unsqueeze(cb_scale(shift, sqrt(before / (before + n) * n)), 0);
        all = cb_cat(3, (cb_tensor *[]){old, centred, row}, 0);
        scatter += p->scatter + before * n / (before + n) * cb_item(cb_sum(cb_square(shift), CB_ALL, false));
        total = cb_lerp(p->mean, mean, n / (before + n));
    }
    if (!all || !total)
        return NULL;
    replace(&p->mean, total);
    p->scatter = scatter;
    p->seen += x->shape[0];
    return all;
}

static bool see(cb_study *s, cb_study_group *group, cb_tensor *x)
{
    pca *p = group->state;
    int64_t most = group->components, in = group->leader->in_features;
    x = cb_study_rows(s, x, 0, s->rows);
    if (!x || x->shape[0] < most) /* PEFT passes such a batch over, too */
        return x;
    cb_rng rng = {.seed = SEED, .stream = cb_hash_text(CB_HASH_START, group->leader->name)};
    cb_tensor *u, *singular, *components;
    if (!cb_svd_first(stacked(p, x), most, most, POWER_ITERATIONS, rng, &u, &singular, &components))
        return false;
    components = cb_contiguous(components);
    singular = cb_contiguous(singular);
    if (!components || !singular)
        return false;
    flip(components);
    const float *now = components->data, *before = p->components ? p->components->data : NULL, *values = singular->data;
    for (int64_t k = 0; k < most; k++) {
        p->converged[k] = before && cosine(now + k * in, before + k * in, in) >= s->config->eva_tau;
        p->explained[k] = p->scatter > 0 ? (double)values[k] * values[k] / p->scatter : 0;
    }
    replace(&p->components, components);
    replace(&p->singular, singular);
    return true;
}

/* ---- ranks ---- */

/* How many components of the largest explained variance each layer has, of as many as there were ranks.  Of layers with the same input
 * the group's leader has most: it is the one that is looked at. */
typedef struct candidate {
    double explained;
    size_t layer, order;
} candidate;

static int by_explained(const void *a_, const void *b_)
{
    const candidate *a = a_, *b = b_;
    if (a->explained != b->explained)
        return a->explained < b->explained ? 1 : -1;
    return (a->order > b->order) - (a->order < b->order);
}

/* PEFT's order: leaders first, then the others, group by group. */
static void list_by_group(const cb_study *s, size_t *order)
{
    size_t n = 0;
    for (size_t i = 0; i < s->layer_count; i++)
        if (s->groups[s->layers[i].group].leader == s->layers[i].layer)
            order[n++] = i;
    for (size_t g = 0; g < s->group_count; g++)
        for (size_t i = 0; i < s->layer_count; i++)
            if (s->layers[i].group == g && s->groups[g].leader != s->layers[i].layer)
                order[n++] = i;
}

static size_t leader_of(const cb_study *s, size_t layer)
{
    size_t i = 0;
    while (s->layers[i].layer != s->groups[s->layers[layer].group].leader)
        i++;
    return i;
}

static bool distribute(const cb_study *s, int64_t *ranks)
{
    size_t budget = 0, room = 0, n = 0;
    for (size_t i = 0; i < s->layer_count; i++) {
        ranks[i] = 0;
        budget += (size_t)s->layers[i].rank;
        room += (size_t)s->groups[s->layers[i].group].components;
    }
    candidate *candidates = cb_calloc(room, sizeof *candidates);
    size_t *order = candidates ? cb_calloc(s->layer_count, sizeof *order) : NULL;
    if (order) {
        list_by_group(s, order);
        for (size_t o = 0; o < s->layer_count; o++) {
            const cb_study_group *group = &s->groups[s->layers[order[o]].group];
            for (int64_t k = 0; k < group->components; k++, n++)
                candidates[n] = (candidate){((const pca *)group->state)->explained[k], order[o], n};
        }
        qsort(candidates, n, sizeof *candidates, by_explained);
        for (size_t i = 0; i < n && i < budget; i++)
            ranks[candidates[i].layer]++;
        for (size_t o = 0; o < s->layer_count; o++) {
            size_t i = order[o], leader = leader_of(s, i);
            int64_t own = ranks[i];
            if (own > ranks[leader]) {
                ranks[i] = ranks[leader];
                ranks[leader] = own;
            }
        }
    }
    cb_free(candidates);
    cb_free(order);
    return order;
}

static bool all_seen(const cb_study *s)
{
    for (size_t g = 0; g < s->group_count; g++)
        if (!((const pca *)s->groups[g].state)->components)
            return false;
    return true;
}

/* ---- the study ---- */

/* Python's round(): halves to even. */
static int64_t most_components(const cb_study *s, int64_t rank)
{
    double rho = s->config->eva_rho, widest = 0;
    for (size_t i = 0; i < s->layer_count; i++) {
        widest = fmax(widest, (double)s->layers[i].layer->in_features);
        widest = fmax(widest, (double)s->layers[i].layer->out_features);
    }
    if (rho > 1000)
        rho = fmin(rho, floor(widest / (double)s->config->rank));
    return (int64_t)nearbyint((double)rank * rho);
}

static bool make_room(cb_study *s)
{
    for (size_t i = 0; i < s->layer_count; i++) {
        cb_study_group *group = &s->groups[s->layers[i].group];
        int64_t most = most_components(s, s->layers[i].rank);
        group->components = most > group->components ? most : group->components;
        if (most > group->leader->in_features)
            return cb_fail(CB_ERR_ARGUMENT, "eva_rho: found %g at rank %lld for layer %s of %lld inputs, expected rank * rho within them",
                           s->config->eva_rho, (long long)s->layers[i].rank, s->layers[i].layer->name,
                           (long long)group->leader->in_features) == CB_OK;
    }
    for (size_t g = 0; g < s->group_count; g++) {
        pca *p = s->groups[g].state;
        p->explained = cb_calloc((size_t)s->groups[g].components, sizeof *p->explained);
        p->converged = cb_calloc((size_t)s->groups[g].components, sizeof *p->converged);
        if (!p->explained || !p->converged)
            return false;
    }
    return true;
}

static bool after_batch(cb_study *s)
{
    if (cb_rehearsing())
        s->done = s->batches >= 2;
    if (cb_rehearsing() || !all_seen(s))
        return true;
    int64_t *ranks = cb_calloc(s->layer_count, sizeof *ranks);
    bool ok = ranks && distribute(s, ranks);
    s->done = ok;
    for (size_t i = 0; ok && i < s->layer_count; i++) {
        cb_study_group *group = &s->groups[s->layers[i].group];
        if (group->leader != s->layers[i].layer)
            continue;
        group->active = false;
        for (int64_t k = 0; k < ranks[i]; k++)
            group->active |= !((const pca *)group->state)->converged[k];
        s->done = s->done && !group->active;
    }
    cb_free(ranks);
    return ok;
}

static bool give(const cb_study *s, size_t layer, int64_t rank)
{
    const pca *p = s->groups[s->layers[layer].group].state;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_tensor *rows = cb_slice(p->components, 0, 0, rank, 1);
    if (s->config->eva_whiten)
        rows = cb_div(rows, cb_unsqueeze(cb_sqrt(cb_slice(p->singular, 0, 0, rank, 1)), 1));
    bool ok = rank == 0 || cb_given_add(s->adapter, s->layers[layer].layer, NULL, NULL, rows);
    cb_scope_close(scope);
    return ok;
}

static bool finish(cb_study *s)
{
    if (!s->grouped || !all_seen(s))
        return cb_fail(CB_ERR_ARGUMENT,
                       "init_lora_weights: eva: no batch had as many tokens to look at as components are wanted; expected a larger "
                       "--batch-size, a smaller --eva-rho, or --no-eva-use-label-mask") == CB_OK;
    if (!s->done)
        cb_log_message(CB_LOG_WARNING, "eva: after %lld batches some components still turn; they are used as they are",
                       (long long)s->batches);
    int64_t *ranks = cb_calloc(s->layer_count, sizeof *ranks);
    bool ok = ranks && distribute(s, ranks);
    for (size_t i = 0; ok && i < s->layer_count; i++)
        ok = give(s, i, cb_rehearsing() ? s->layers[i].rank : ranks[i]);
    cb_free(ranks);
    return ok;
}

/* ---- options that fit ---- */

/* Layers without a rank are no longer targets, so all others are named one by one. */
static bool name_targets(cb_study *s)
{
    cb_target *target = &s->adapter->target;
    cb_string_list names = {0};
    bool ok = true, all = true;
    for (size_t i = 0; ok && i < s->layer_count; i++) {
        bool there = cb_given_of(s->adapter, s->layers[i].layer);
        all = all && there;
        ok = !there || cb_string_list_add(&names, cb_study_name(s, s->layers[i].layer));
    }
    for (size_t i = 0; ok && i < s->others.count; i++)
        ok = cb_string_list_add(&names, s->others.items[i]);
    if (!ok || all) {
        cb_string_list_free(&names);
        return ok;
    }
    cb_string_list_free(&target->target_modules);
    target->target_modules = names;
    target->target_is_pattern = false;
    return true;
}

/* What PEFT writes as rank_pattern and alpha_pattern. */
static bool put_sizes(const cb_study *s, json_t *ranks, json_t *alphas)
{
    for (size_t i = 0; i < s->layer_count; i++) {
        const cb_study_layer *layer = &s->layers[i];
        const cb_given_start *given = cb_given_of(s->adapter, layer->layer);
        if (!given)
            continue;
        int64_t rank = given->vt->shape[0];
        double alpha = layer->alpha * (s->config->eva_adjust_scaling_factors ? (double)rank / (double)layer->rank : 1);
        if ((rank != s->config->rank && !cb_json_put(ranks, cb_study_name(s, layer->layer), json_integer((json_int_t)rank))) ||
            (alpha != s->config->alpha && !cb_json_put(alphas, cb_study_name(s, layer->layer), json_real(alpha))))
            return false;
    }
    return true;
}

static bool apply(cb_study *s)
{
    json_t *both = json_pack("{s:{}, s:{}}", "rank_pattern", "alpha_pattern");
    if (!both)
        return cb_fail(CB_ERR_MEMORY, "no memory for the ranks of eva") == CB_OK;
    bool ok = put_sizes(s, json_object_get(both, "rank_pattern"), json_object_get(both, "alpha_pattern")) &&
              cb_options_from_json(s->adapter->kind->options, s->config, "eva", both);
    json_decref(both);
    return ok && name_targets(s);
}

const cb_study_method cb_study_eva = {.name = "eva",
                                      .from_data = true,
                                      .state_size = sizeof(pca),
                                      .batches = 1000,
                                      .check = make_room,
                                      .see = see,
                                      .after_batch = after_batch,
                                      .finish = finish,
                                      .apply = apply,
                                      .release = release};
