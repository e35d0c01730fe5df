/* corda.c: LoRA's init_lora_weights corda: A and B start as singular triples of W C, C being the covariance of what the layer is given on
 * training data, times C^-1: those with the most to do with the data (ipm), or with the least (kpm).  Yang et al. 2024, arXiv:2406.05223;
 * with the numbers of PEFT's tuners/lora/corda.py.
 *
 *     C = mean over rows of data of x^T x, x being divided by |max x|     C' = C + damp mean(diag C) I
 *     U S V^T = W C'                                                      s B A = U_R S_R V_R^T C'^-1
 *
 * A row of the data is one sample; damp starts at 0.01 and is doubled until C' can be inverted well enough. */
#include <math.h>
#include <string.h>

#include "adapters/low_rank.h"
#include "adapters/study.h"
#include "cambium/formats.h"

typedef struct covariance {
    cb_tensor *sum; /* (in, in) */
    int64_t samples;
} covariance;

static void release(void *state)
{
    cb_release(((covariance *)state)->sum);
}

/* ---- looking on ---- */

static bool add_row(covariance *c, const cb_layer *layer, cb_tensor *x)
{
    double most = x ? cb_item(cb_max(x, CB_ALL, false)) : 0;
    if (!x || !cb_ok())
        return false;
    if ((most == 0 || !isfinite(most)) && !cb_rehearsing())
        return cb_fail(CB_ERR_NUMERIC, "init_lora_weights: corda: the largest value that layer %s is given is %g", layer->name, most) ==
               CB_OK;
    x = cb_scale(x, 1 / fabs(most));
    cb_tensor *sum = cb_add(c->sum, cb_matmul(cb_transpose(x, 0, 1), x));
    c->samples++;
    return sum && cb_copy_into(c->sum, sum);
}

static bool see(cb_study *s, cb_study_group *group, cb_tensor *x)
{
    covariance *c = group->state;
    int64_t in = group->leader->in_features;
    if (!c->sum && !(c->sum = cb_keep(cb_zeros(CB_F32, in, in))))
        return false;
    for (int64_t r = 0; r < s->rows; r++) {
        if (s->row_begins[r] == s->row_begins[r + 1])
            continue;
        cb_scope *scope = cb_scope_open();
        bool ok = scope && add_row(c, group->leader, cb_study_rows(s, x, r, r + 1));
        cb_scope_close(scope);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- triples ---- */

/* The sum of squares of a b - I */
static double inverse_error(cb_tensor *a, cb_tensor *b, cb_tensor *one)
{
    return cb_item(cb_sum(cb_square(cb_sub(cb_matmul(a, b), one)), CB_ALL, false));
}

/* C' and its inverse. */
static bool damped(cb_tensor *c, cb_tensor **fixed, cb_tensor **inverse)
{
    const double first = 0.01, allowed = 0.05;
    int64_t n = c ? c->shape[0] : 0;
    cb_tensor *one = c ? cb_zeros(CB_F32, n, n) : NULL;
    double mean = 0;
    for (int64_t i = 0; one && i < n; i++) {
        ((float *)one->data)[i * n + i] = 1;
        mean += cb_get(c, i * n + i) / (double)n;
    }
    for (double damp = first; one && cb_ok(); damp *= 2) {
        *fixed = cb_add(c, cb_scale(one, mean * damp));
        *inverse = cb_solve(one, *fixed);
        if (sqrt(inverse_error(*fixed, *inverse, one)) < allowed || cb_rehearsing())
            return cb_ok();
    }
    return false;
}

static bool give(cb_study *s, const cb_study_layer *l, cb_tensor *fixed, cb_tensor *inverse)
{
    cb_tensor *u, *values, *vt;
    if (!cb_svd(cb_matmul(cb_weight_f32(l->layer), fixed), &u, &values, &vt))
        return false;
    int64_t count = values->shape[0], first = s->config->corda_method == CB_CORDA_KPM ? count - l->rank : 0, end = first + l->rank;
    if (l->rank > count)
        return cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s, whose weight has %lld singular values", (long long)l->rank,
                       l->layer->name, (long long)count) == CB_OK;
    return cb_given_add(s->adapter, l->layer, cb_slice(u, 1, first, end, 1), cb_slice(values, 0, first, end, 1),
                        cb_matmul(cb_slice(vt, 0, first, end, 1), inverse));
}

/* For the layers of one group, C being the same. */
static bool give_group(cb_study *s, size_t group, cb_tensor *c)
{
    cb_scope *outer = cb_scope_open();
    cb_tensor *fixed, *inverse;
    bool ok = outer && damped(c, &fixed, &inverse);
    for (size_t i = 0; ok && i < s->layer_count; i++) {
        if (s->layers[i].group != group)
            continue;
        cb_scope *scope = cb_scope_open();
        ok = scope && give(s, &s->layers[i], fixed, inverse);
        cb_scope_close(scope);
    }
    cb_scope_close(outer);
    return ok;
}

/* ---- files: cache_file, covariance_file ---- */

/* PEFT's are of torch.save and are read by that ending; ours are safetensors. */
static bool check_name(const char *option, const char *path)
{
    return !path || cb_is_file(path) || cb_ends_with(path, ".safetensors") ||
           cb_fail(CB_ERR_ARGUMENT,
                   "%s: found %s, which is not there, expected a name that ends with .safetensors for what is to be written", option,
                   path) == CB_OK;
}

static bool make_parent(const char *path)
{
    char *parent = cb_path_parent(path);
    bool ok = parent && cb_directory_make(parent);
    cb_free(parent);
    return ok;
}

static bool write_covariances(const cb_study *s, const char *path)
{
    cb_weight_entry *entries = cb_calloc(s->layer_count, sizeof *entries);
    for (size_t i = 0; entries && i < s->layer_count; i++) {
        const covariance *c = s->groups[s->layers[i].group].state;
        entries[i] = (cb_weight_entry){.name = s->layers[i].layer->name, .dtype = CB_F32, .ndim = 2, .data = c->sum->data};
        memcpy(entries[i].shape, c->sum->shape, sizeof entries[i].shape);
        entries[i].size = (size_t)c->sum->count * sizeof(float);
    }
    bool ok = entries && make_parent(path) && cb_safetensors_write(path, entries, s->layer_count, NULL, NULL, NULL);
    cb_free(entries);
    return ok;
}

static bool give_from_file(cb_study *s, const char *path)
{
    cb_weights *file = cb_weights_open_file(path);
    bool ok = file;
    for (size_t i = 0; ok && i < s->layer_count; i++) {
        const cb_layer *layer = s->layers[i].layer;
        const cb_weight_entry *e = cb_weights_find(file, layer->name);
        if (!e || !cb_dtype_is_float(e->dtype) || !cb_weight_entry_fits(e, 2, (int64_t[]){layer->in_features, layer->in_features}))
            ok = cb_fail(CB_ERR_FORMAT, "%s: %s: found %s, expected the covariance (%lld, %lld) of the layer's input", path, layer->name,
                         e ? cb_shape_text_nd(e->ndim, e->shape) : "none", (long long)layer->in_features,
                         (long long)layer->in_features) == CB_OK;
        cb_scope *scope = ok ? cb_scope_open() : NULL;
        ok = scope && give_group(s, s->layers[i].group, cb_cast(cb_weight_entry_tensor(e), CB_F32));
        if (scope)
            cb_scope_close(scope);
    }
    cb_weights_close(file);
    return ok;
}

/* ---- the study ---- */

/* A start for every layer, of its rank, with none that is not finite. */
static bool check_starts(const cb_study *s, const char *from)
{
    for (size_t i = 0; i < s->layer_count; i++) {
        const cb_study_layer *l = &s->layers[i];
        const cb_given_start *given = cb_given_of(s->adapter, l->layer);
        if (!given || !given->s || given->vt->shape[0] != l->rank)
            return cb_fail(CB_ERR_FORMAT, "%s: %s: found %s%lld singular triples, expected %lld", from, l->layer->name,
                           given ? "" : "no start, ", given ? (long long)given->vt->shape[0] : 0, (long long)l->rank) == CB_OK;
    }
    return true;
}

static bool begin(cb_study *s)
{
    const lora_config *c = s->config;
    if (!check_name("corda_cache_file", c->corda_cache_file) || !check_name("corda_covariance_file", c->corda_covariance_file))
        return false;
    s->done =
        (c->corda_cache_file && cb_is_file(c->corda_cache_file)) || (c->corda_covariance_file && cb_is_file(c->corda_covariance_file));
    return true;
}

static bool work_out(cb_study *s)
{
    const char *path = s->config->corda_covariance_file;
    if (path && cb_is_file(path))
        return give_from_file(s, path);
    for (size_t g = 0; g < s->group_count; g++) {
        covariance *c = s->groups[g].state;
        if (!c || !c->samples)
            return cb_fail(CB_ERR_ARGUMENT, "init_lora_weights: corda: the data has no tokens to look at") == CB_OK;
        cb_scope *scope = cb_scope_open();
        cb_tensor *mean = scope ? cb_scale(c->sum, 1 / (double)c->samples) : NULL;
        bool ok = mean && cb_copy_into(c->sum, mean) && give_group(s, g, c->sum);
        cb_scope_close(scope);
        if (!ok)
            return false;
    }
    return !path || !s->writes || cb_rehearsing() || write_covariances(s, path);
}

static bool finish(cb_study *s)
{
    const char *path = s->config->corda_cache_file;
    if (path && cb_is_file(path))
        return cb_study_read(s, path) && check_starts(s, path);
    return work_out(s) && check_starts(s, "corda") &&
           (!path || !s->writes || cb_rehearsing() || (make_parent(path) && cb_given_write(s->adapter, path, NULL)));
}

const cb_study_method cb_study_corda = {.name = "corda",
                                        .from_data = true,
                                        .state_size = sizeof(covariance),
                                        .rows = 256,
                                        .begin = begin,
                                        .see = see,
                                        .finish = finish,
                                        .release = release};
