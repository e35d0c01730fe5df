/* balance.c: terms whose gradients pull apart, weighed anew in each step: Pareto domain adaptation (Lv et al. 2021, arXiv:2112.04137), or the sum of least
 * norm; and how often they do.
 *
 * Weights are for what the terms share, the base model: its gradient becomes a weighed sum of theirs.  The head, discriminators and second heads get the
 * plain sum.  The result is a function with exactly these gradients and the terms' sum as its value, so that the training loop goes on as always. */
#include <math.h>

#include "cambium/optim.h"
#include "training/domains.h"

typedef struct gradients {
    size_t count; /* of parameters */
    cb_tensor **xs;
    bool *shared;
    cb_tensor **of[CB_MOST_OBJECTIVES + 1]; /* of each term, and of the guide */
    size_t terms;
} gradients;

static bool is_of_head(void *user, cb_layer *layer)
{
    const cb_tensor *tensor = user;
    for (int i = 0; layer->head && i < layer->weight_count; i++)
        if (layer->weights[i].tensor == tensor)
            return false;
    return true;
}

static void gradients_free(gradients *g)
{
    for (size_t i = 0; i < g->terms; i++)
        cb_free(g->of[i]);
    cb_free(g->xs);
    cb_free(g->shared);
}

static bool list_parameters(const cb_domains *d, gradients *g)
{
    g->count = d->inner->count + d->parameters.count;
    g->xs = cb_calloc(g->count, sizeof(cb_tensor *));
    g->shared = cb_calloc(g->count, sizeof *g->shared);
    for (size_t i = 0; g->xs && g->shared && i < g->count; i++) {
        g->xs[i] = d->all[i].tensor;
        g->shared[i] = i < d->inner->count && cb_layer_visit(cb_model_root(d->model), is_of_head, g->xs[i]);
    }
    return g->xs && g->shared;
}

/* f32, one after another. */
static cb_tensor *plain(cb_tensor *x)
{
    return x ? cb_contiguous(cb_cast(x, CB_F32)) : NULL;
}

static bool add_gradient(gradients *g, cb_tensor *value)
{
    cb_tensor **list = cb_calloc(g->count, sizeof(cb_tensor *));
    if (!list)
        return false;
    g->of[g->terms++] = list;
    bool ok = cb_grad_of(1, &value, NULL, (int)g->count, g->xs, list, (cb_grad_options){.retain_graph = true});
    for (size_t i = 0; ok && i < g->count; i++)
        list[i] = plain(list[i]);
    return ok && cb_ok();
}

static double shared_product(const gradients *g, size_t a, size_t b)
{
    double sum = 0;
    for (size_t p = 0; p < g->count; p++) {
        const cb_tensor *x = g->of[a][p], *y = g->of[b][p];
        for (int64_t i = 0; g->shared[p] && x && y && i < x->count; i++)
            sum += (double)((const float *)x->data)[i] * (double)((const float *)y->data)[i];
    }
    return sum;
}

/* A step counts as one of conflict if two gradients have a negative product, and as one that hurts if a term rises along the weighed sum, by more
 * than rounding makes of a bound that is met exactly. */
static void watch(cb_domains *d, const double *gram, const double *chosen, size_t n)
{
    const double rounding = 1e-6;
    double along[CB_MOST_OBJECTIVES], square = 0;
    bool conflict = false, hurt = false;
    for (size_t i = 0; i < n; i++) {
        along[i] = 0;
        for (size_t k = 0; k < n; k++) {
            along[i] += chosen[k] * gram[i * n + k];
            conflict = conflict || gram[i * n + k] < 0;
        }
        square += chosen[i] * along[i];
    }
    for (size_t i = 0; i < n; i++)
        hurt = hurt || along[i] < -rounding * sqrt(fmax(square, 0) * gram[i * n + i]);
    d->conflicts += conflict;
    d->hurts += hurt;
}

/* Terms with no gradient on what is shared have no say in it. */
static bool weigh(cb_domains *d, const gradients *g, size_t count, bool guided, double *weights)
{
    double gram[CB_MOST_OBJECTIVES * CB_MOST_OBJECTIVES], guide[CB_MOST_OBJECTIVES], chosen[CB_MOST_OBJECTIVES];
    size_t who[CB_MOST_OBJECTIVES], n = 0;
    for (size_t i = 0; i < count; i++) {
        weights[i] = 1;
        if (shared_product(g, i, i) > 0)
            who[n++] = i;
    }
    if (cb_rehearsing() || n < 2)
        return true;
    for (size_t i = 0; i < n; i++) {
        guide[i] = guided ? shared_product(g, who[i], count) : 0;
        for (size_t k = 0; k < n; k++)
            gram[i * n + k] = shared_product(g, who[i], who[k]);
    }
    for (size_t i = 0; i < n; i++)
        chosen[i] = 1 / (double)n;
    if ((d->balance == BALANCE_PARETO && !cb_pareto_weights(gram, guided ? guide : NULL, n, chosen)) ||
        (d->balance == BALANCE_MGDA && !cb_least_norm_weights(gram, n, chosen)))
        return false;
    watch(d, gram, chosen, n);
    for (size_t i = 0; d->balance != BALANCE_FIXED && i < n; i++)
        weights[who[i]] = (double)n * chosen[i];
    return true;
}

/* sum over parameters of <x, what its gradient is to be> */
static cb_tensor *function_with(const gradients *g, size_t count, const double *weights)
{
    cb_tensor *total = NULL;
    for (size_t p = 0; p < g->count && cb_ok(); p++) {
        cb_tensor *slope = NULL;
        for (size_t i = 0; i < count; i++) { /* the guide comes after them */
            cb_tensor *own = g->of[i][p] ? cb_scale(cb_detach(g->of[i][p]), g->shared[p] ? weights[i] : 1) : NULL;
            slope = slope && own ? cb_add(slope, own) : own ? own : slope;
        }
        if (!slope)
            continue;
        cb_tensor *part = cb_sum(cb_mul(g->xs[p], slope), CB_ALL, false);
        total = total ? cb_add(total, part) : part;
    }
    return total;
}

cb_tensor *cb_domains_balance(cb_domains *d, size_t count, cb_tensor *const *values, cb_tensor *guide, bool guided)
{
    gradients g = {0};
    double weights[CB_MOST_OBJECTIVES], sum = 0;
    bool ok = count <= CB_MOST_OBJECTIVES ||
              cb_fail(CB_ERR_ARGUMENT, "balance: found %zu terms, expected %d at most", count, CB_MOST_OBJECTIVES) == CB_OK;
    ok = ok && list_parameters(d, &g);
    for (size_t i = 0; ok && i < count; i++) {
        ok = add_gradient(&g, values[i]);
        sum += ok && !cb_rehearsing() ? cb_item(values[i]) : 0;
    }
    ok = ok && (!guide || add_gradient(&g, guide)) && weigh(d, &g, count, guide && guided, weights);
    cb_tensor *total = ok ? function_with(&g, count, weights) : NULL;
    gradients_free(&g);
    return total ? cb_add_scalar(total, sum - (cb_rehearsing() ? 0 : cb_item(total))) : NULL;
}
