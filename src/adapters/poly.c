/* poly.c: skills that tasks share, y = W x + A_t B_t x / R with A_t = sum_s w_ts A_s and B_t = sum_s w_ts B_s: each task t mixes S low-rank
 * skills by weights of its own, w_t = sigmoid(z_t) / sum_s sigmoid(z_ts).  Ponti et al. 2022, arXiv:2202.13914 (Polytropon).  With more than
 * one split every part of the input and of the output has weights of its own: multi-head routing, Caccia et al. 2022, arXiv:2211.03831.
 * While training sigmoid(z) is drawn from the relaxed Bernoulli distribution of temperature 1, sigmoid(z + log u - log(1 - u)).
 * R rank, S skills, P splits, N tasks, B rows; A (P, S, in / P, R), B (P, S, R, out / P), z (N, P S). */
#include <float.h>
#include <math.h>

#include "adapters/internal.h"
#include "adapters/tasks.h"

typedef struct poly_config {
    int64_t rank, n_tasks, n_skills, n_splits;
    int poly_type;
    bool init_weights;
} poly_config;

typedef struct poly_state {
    const poly_config *config;
    cb_tensor *a, *b, *logits;
} poly_state;

static const char *const poly_types[] = {"poly", NULL};

static const cb_option poly_options[] = {
    CB_OPT_INT(poly_config, rank, 8, 1, 65536, "inner dimension of a skill's update"),
    CB_OPT_ENUM(poly_config, poly_type, 0, poly_types, "how tasks choose skills"),
    CB_OPT_INT(poly_config, n_tasks, 1, 1, CB_MOST_TASKS, "tasks; which one a row is of is task_ids of the data"),
    CB_OPT_INT(poly_config, n_skills, 4, 1, 65536, "low-rank updates that the tasks of a layer mix"),
    CB_OPT_INT(poly_config, n_splits, 1, 1, 65536, "parts of input and output with weights of their own"),
    CB_OPT_BOOL(poly_config, init_weights, true, "start with a change of zero; false: random"),
    CB_OPT_END};

static const char *const poly_peft_names[] = {"rank", "r", NULL};

/* ---- making ---- */

static bool poly_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const poly_config *config = config_;
    ((poly_state *)m->state)->config = config;
    int64_t splits = config->n_splits;
    return (layer->in_features % splits == 0 && layer->out_features % splits == 0) ||
           cb_fail(CB_ERR_ARGUMENT, "n_splits: found %lld for layer %s of %lld inputs and %lld outputs, expected a divisor of both",
                   (long long)splits, layer->name, (long long)layer->in_features, (long long)layer->out_features) == CB_OK;
}

static int poly_parameters(cb_module *m, cb_adapter_parameter *list)
{
    poly_state *poly = m->state;
    int64_t p = poly->config->n_splits, s = poly->config->n_skills, r = poly->config->rank;
    int64_t in = m->layer->in_features / p, out = m->layer->out_features / p;
    list[0] = (cb_adapter_parameter){"poly_lora_A", &poly->a, 4, {p, s, in, r}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"poly_lora_B", &poly->b, 4, {p, s, r, out}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"poly_router.module_logits", &poly->logits, 2, {poly->config->n_tasks, p * s}, CB_ROLE_TRAINED};
    return 3;
}

/* Factors as torch's linear layers start, by their number of inputs. */
static bool poly_initialise(cb_module *m, const void *config, uint64_t seed)
{
    poly_state *poly = m->state;
    bool zero = ((const poly_config *)config)->init_weights;
    double in = (double)poly->a->shape[2], r = (double)poly->b->shape[2];
    return cb_init_uniform(poly->a, cb_adapter_rng(seed, m, "poly_lora_A"), 1 / sqrt(in)) &&
           (zero || cb_init_uniform(poly->b, cb_adapter_rng(seed, m, "poly_lora_B"), 1 / sqrt(r))) &&
           cb_init_uniform(poly->logits, cb_adapter_rng(seed, m, "poly_router.module_logits"), 1e-3);
}

/* ---- forward ---- */

/* log u - log(1 - u) of a u between 0 and 1, as torch clamps it */
static cb_tensor *logistic_noise(const cb_tensor *like, cb_rng *rng)
{
    cb_tensor *u = cb_clamp(cb_rand_nd(CB_F32, rng, like->ndim, like->shape), FLT_EPSILON, 1 - FLT_EPSILON);
    return cb_sub(cb_log(u), cb_log(cb_add_scalar(cb_neg(u), 1)));
}

/* Without a generator a training pass computes what evaluation does, and so does one that is frozen. */
static bool draws(const poly_state *poly, const cb_context *ctx)
{
    return ctx->training && ctx->rng && poly->logits->requires_grad;
}

/* (P, N, S) of N tasks */
static cb_tensor *weights_of(const poly_state *poly, cb_tensor *tasks, const cb_context *ctx)
{
    const double eps = 1e-12; /* PEFT's */
    cb_tensor *z = cb_index_select(poly->logits, 0, tasks);
    if (draws(poly, ctx) && z)
        z = cb_add(z, logistic_noise(z, ctx->rng));
    cb_tensor *p = cb_sigmoid(z ? cb_reshape(z, -1, poly->config->n_splits, poly->config->n_skills) : NULL);
    p = cb_div(p, cb_add_scalar(cb_sum(p, -1, true), eps));
    return cb_permute(p, 1, 0, 2);
}

/* What the tasks make of factors (P, S, m, n): (N, m, P n), or, of A, whose splits are those of m, (N, P m, n) */
static cb_tensor *mix(cb_tensor *weights, cb_tensor *factors, bool is_a)
{
    if (!weights)
        return NULL;
    int64_t splits = factors->shape[0], skills = factors->shape[1], m = factors->shape[2], n = factors->shape[3], tasks = weights->shape[1];
    cb_tensor *mixed = cb_matmul(weights, cb_reshape(factors, splits, skills, m * n));
    mixed = mixed ? cb_reshape(mixed, splits, tasks, m, n) : NULL;
    mixed = is_a ? cb_permute(mixed, 1, 0, 2, 3) : cb_permute(mixed, 1, 2, 0, 3);
    return mixed ? cb_reshape(cb_contiguous(mixed), tasks, is_a ? splits * m : m, is_a ? n : splits * n) : NULL;
}

/* The factors of the one task that all rows are of, (R, in) and (out, R). */
static bool one_task(const cb_module *m, cb_tensor *tasks, const cb_context *ctx, cb_low_rank *pair)
{
    const poly_state *poly = m->state;
    cb_tensor *w = weights_of(poly, tasks, ctx);
    cb_tensor *a = cb_squeeze(mix(w, poly->a, true), 0), *b = cb_squeeze(mix(w, poly->b, false), 0);
    *pair =
        (cb_low_rank){cb_contiguous(cb_transpose(a, 0, 1)), cb_contiguous(cb_transpose(b, 0, 1)), m->strength / (double)poly->config->rank};
    return pair->a && pair->b;
}

/* Every row is drawn for by itself while training, so then even rows of one task have factors of their own. */
static cb_tensor *rows_of_tasks(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_tensor *tasks, const cb_context *ctx)
{
    const poly_state *poly = m->state;
    if (tasks->count != x->shape[0])
        return cb_fail(CB_ERR_SHAPE, "poly: layer %s is given %s for %lld tasks, expected a row for each", m->layer->name, cb_shape_text(x),
                       (long long)tasks->count),
               NULL;
    cb_tensor *w = weights_of(poly, tasks, ctx), *rows = cb_cast(cb_reshape(x, x->shape[0], -1, x->shape[x->ndim - 1]), CB_F32);
    cb_tensor *change = cb_matmul(cb_matmul(rows, mix(w, poly->a, true)), mix(w, poly->b, false));
    change = cb_scale(change ? cb_reshape_nd(change, y->ndim, y->shape) : NULL, m->strength / (double)poly->config->rank);
    return cb_add(y, cb_cast(change, y->dtype));
}

static cb_tensor *poly_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const poly_state *poly = m->state;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    cb_tensor *tasks = cb_tasks_of(ctx, poly->config->n_tasks, "n_tasks");
    if (!tasks)
        return NULL;
    if (tasks->count > 1)
        return rows_of_tasks(m, x, y, tasks, ctx);
    if (draws(poly, ctx) && x->shape[0] > 1)
        return rows_of_tasks(m, x, y, cb_contiguous(cb_expand(tasks, x->shape[0])), ctx);
    cb_low_rank pair;
    return one_task(m, tasks, ctx, &pair) ? cb_linear_add(y, cb_linear(x, pair.a, NULL), pair.b, pair.scale) : NULL;
}

static bool poly_low_rank(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    const poly_state *poly = m->state;
    if (draws(poly, ctx) || (ctx->tasks && ctx->tasks->count > 1))
        return false;
    cb_tensor *tasks = cb_tasks_of(ctx, poly->config->n_tasks, "n_tasks");
    return tasks && one_task(m, tasks, ctx, pair);
}

const cb_adapter_kind cb_kind_poly = {
    .name = "poly",
    .peft_type = "POLY",
    .summary = "low-rank skills that several tasks share and mix, each by weights of its own",
    .paper = "Ponti et al. 2022, arXiv:2202.13914",
    .options = poly_options,
    .config_size = sizeof(poly_config),
    .state_size = sizeof(poly_state),
    .module = {.name = "poly", .forward = poly_forward, .adds = cb_adds_always, .low_rank = poly_low_rank},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = poly_create,
    .parameters = poly_parameters,
    .initialise = poly_initialise,
    .peft_names = poly_peft_names,
    .peft_fixed = "{\"exclude_modules\": null, \"modules_to_save\": null}",
};
