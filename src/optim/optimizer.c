/* optimizer.c: AdamW and SGD over lists of f32 parameters, gradient norm and clipping.
 *
 * All parameters are updated in one pass over memory by one kernel call; clipping is a factor given to it, not a pass of its own. */
#include <math.h>
#include <string.h>

#include "cambium/optim.h"
#include "kernels/kernels.h"

typedef enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_SGD } optimizer_kind;
enum { SLOTS = 2 };

struct cb_optimizer {
    optimizer_kind kind;
    size_t count;
    cb_tensor **parameters;
    cb_tensor **slots[SLOTS]; /* moments, made at the first step or when restoring */
    int slot_count;
    int64_t steps;
    cb_adamw_options adamw;
    cb_sgd_options sgd;
    /* argument lists of the kernel, for the parameters that have a gradient */
    float **p, **s0, **s1;
    const float **g;
    int64_t *size;
    double *decay;
    double *rates; /* factors of the learning rate; NULL: 1 each */
};

static bool check_parameter(size_t i, const cb_tensor *p)
{
    if (p && p->dtype == CB_F32 && p->requires_grad && cb_is_contiguous(p))
        return true;
    cb_fail(CB_ERR_ARGUMENT, "optimizer: parameter %zu is %s, expected a contiguous f32 leaf that requires a gradient", i,
            cb_shape_text(p));
    return false;
}

static cb_optimizer *optimizer_new(optimizer_kind kind, int slots, size_t count, cb_tensor *const *parameters)
{
    for (size_t i = 0; i < count; i++)
        if (!check_parameter(i, parameters[i]))
            return NULL;
    cb_optimizer *o = cb_calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->kind = kind;
    o->slot_count = slots;
    bool ok = (o->parameters = cb_calloc(count, sizeof *o->parameters)) && (o->p = cb_calloc(count, sizeof *o->p)) &&
              (o->s0 = cb_calloc(count, sizeof *o->s0)) && (o->s1 = cb_calloc(count, sizeof *o->s1)) &&
              (o->g = cb_calloc(count, sizeof *o->g)) && (o->size = cb_calloc(count, sizeof *o->size)) &&
              (o->decay = cb_calloc(count, sizeof *o->decay));
    for (int s = 0; ok && s < slots; s++)
        ok = (o->slots[s] = cb_calloc(count, sizeof *o->slots[s]));
    if (!ok) {
        cb_optimizer_free(o);
        return NULL;
    }
    o->count = count;
    for (size_t i = 0; i < count; i++)
        o->parameters[i] = cb_keep(parameters[i]);
    return o;
}

/* `below`: the value itself is too much. */
static bool check_option(const char *optimizer, const char *option, double value, double below)
{
    if (value >= 0 && value < below)
        return true;
    cb_fail(CB_ERR_ARGUMENT, "%s: %s is %g, expected 0 or more and less than %g", optimizer, option, value, below);
    return false;
}

cb_optimizer *cb_adamw_with(size_t count, cb_tensor *const *parameters, cb_adamw_options options)
{
    if (!check_option("adamw", "beta1", options.beta1, 1) || !check_option("adamw", "beta2", options.beta2, 1) ||
        !check_option("adamw", "eps", options.eps, INFINITY) || !check_option("adamw", "weight_decay", options.weight_decay, INFINITY))
        return NULL;
    cb_optimizer *o = optimizer_new(OPTIMIZER_ADAMW, 2, count, parameters);
    if (!o)
        return NULL;
    o->adamw = options;
    if (o->adamw.beta1 == 0)
        o->adamw.beta1 = 0.9;
    if (o->adamw.beta2 == 0)
        o->adamw.beta2 = 0.999;
    if (o->adamw.eps == 0)
        o->adamw.eps = 1e-8;
    return o;
}

cb_optimizer *cb_sgd_with(size_t count, cb_tensor *const *parameters, cb_sgd_options options)
{
    if (!check_option("sgd", "momentum", options.momentum, INFINITY) ||
        !check_option("sgd", "weight_decay", options.weight_decay, INFINITY))
        return NULL;
    cb_optimizer *o = optimizer_new(OPTIMIZER_SGD, options.momentum != 0, count, parameters);
    if (o)
        o->sgd = options;
    return o;
}

void cb_optimizer_free(cb_optimizer *o)
{
    if (!o)
        return;
    for (size_t i = 0; i < o->count; i++) {
        cb_release(o->parameters[i]);
        for (int s = 0; s < o->slot_count; s++)
            cb_release(o->slots[s][i]);
    }
    for (int s = 0; s < SLOTS; s++)
        cb_free(o->slots[s]);
    cb_free(o->parameters);
    cb_free(o->p);
    cb_free(o->s0);
    cb_free(o->s1);
    cb_free(o->g);
    cb_free(o->size);
    cb_free(o->decay);
    cb_free(o->rates);
    cb_free(o);
}

void cb_optimizer_forget(cb_optimizer *o)
{
    for (size_t i = 0; i < o->count; i++)
        for (int s = 0; s < o->slot_count; s++)
            if (o->slots[s][i])
                memset(o->slots[s][i]->data, 0, (size_t)o->slots[s][i]->count * sizeof(float));
    o->steps = 0;
}

cb_tensor *cb_optimizer_slot(cb_optimizer *o, size_t parameter, int slot)
{
    if (slot < 0 || slot >= o->slot_count || parameter >= o->count) {
        cb_fail(CB_ERR_ARGUMENT, "optimizer: slot %d of parameter %zu does not exist", slot, parameter);
        return NULL;
    }
    cb_tensor **t = &o->slots[slot][parameter];
    if (!*t) {
        cb_scope *scope = cb_scope_open();
        if (!scope)
            return NULL;
        *t = cb_keep(cb_zeros_like(o->parameters[parameter]));
        cb_scope_close(scope);
    }
    return *t;
}

bool cb_optimizer_set_rates(cb_optimizer *o, const double *rates)
{
    cb_free(o->rates);
    o->rates = rates ? cb_alloc(o->count * sizeof *rates) : NULL;
    if (o->rates)
        memcpy(o->rates, rates, o->count * sizeof *rates);
    return !rates || o->rates;
}

static double rate_of(const cb_optimizer *o, size_t i)
{
    return o->rates ? o->rates[i] : 1;
}

/* Lists the parameters that have a gradient and this rate for the kernel; -1 on failure. */
static int64_t gather(cb_optimizer *o, double weight_decay, double rate)
{
    int64_t n = 0;
    for (size_t i = 0; i < o->count; i++) {
        cb_tensor *p = o->parameters[i];
        if (!p->grad || rate_of(o, i) != rate)
            continue;
        cb_tensor *s0 = o->slot_count > 0 ? cb_optimizer_slot(o, i, 0) : NULL, *s1 = o->slot_count > 1 ? cb_optimizer_slot(o, i, 1) : NULL;
        if ((o->slot_count > 0 && !s0) || (o->slot_count > 1 && !s1))
            return -1;
        o->p[n] = p->data;
        o->g[n] = p->grad->data;
        o->s0[n] = s0 ? s0->data : NULL;
        o->s1[n] = s1 ? s1->data : NULL;
        o->size[n] = p->count;
        o->decay[n] = p->ndim < 2 ? 0 : weight_decay;
        n++;
    }
    return n;
}

/* Those of one rate. */
static bool step_group(cb_optimizer *o, double rate, double learning_rate, double grad_scale)
{
    bool adamw = o->kind == OPTIMIZER_ADAMW;
    int64_t n = gather(o, adamw ? o->adamw.weight_decay : o->sgd.weight_decay, rate);
    if (n < 0)
        return false;
    if (adamw) {
        cbk_adamw_args a = {.learning_rate = rate * learning_rate,
                            .beta1 = o->adamw.beta1,
                            .beta2 = o->adamw.beta2,
                            .eps = o->adamw.eps,
                            .step = o->steps,
                            .grad_scale = grad_scale};
        cbk_adamw(n, o->p, o->s0, o->s1, o->g, o->size, o->decay, &a);
    } else {
        cbk_sgd_args a = {.learning_rate = rate * learning_rate,
                          .momentum = o->sgd.momentum,
                          .grad_scale = grad_scale,
                          .nesterov = o->sgd.nesterov,
                          .first = o->steps == 1};
        cbk_sgd(n, o->p, o->slot_count ? o->s0 : NULL, o->g, o->size, o->decay, &a);
    }
    return true;
}

/* The first parameter of a rate stands for all that have it. */
static bool is_first_of_rate(const cb_optimizer *o, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (rate_of(o, k) == rate_of(o, i))
            return false;
    return true;
}

bool cb_optimizer_step(cb_optimizer *o, double learning_rate, double grad_scale)
{
    if (!o || !cb_ok())
        return false;
    o->steps++;
    bool ok = true;
    for (size_t i = 0; ok && i < (o->rates ? o->count : 1); i++)
        if (is_first_of_rate(o, i))
            ok = step_group(o, rate_of(o, i), learning_rate, grad_scale);
    if (!ok)
        o->steps--;
    return ok;
}

void cb_optimizer_zero_grad(cb_optimizer *o)
{
    for (size_t i = 0; o && i < o->count; i++)
        cb_zero_grad(o->parameters[i]);
}

double cb_grad_norm(size_t count, cb_tensor *const *parameters)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        if (parameters[i] && parameters[i]->grad)
            sum += cbk_sum_squares(parameters[i]->grad->dtype, parameters[i]->grad->data, parameters[i]->grad->count);
    return sqrt(sum);
}

double cb_clip_factor(double norm, double max_norm)
{
    return max_norm > 0 && norm > max_norm ? max_norm / (norm + 1e-6) : 1;
}

int64_t cb_optimizer_steps(const cb_optimizer *o)
{
    return o->steps;
}

void cb_optimizer_set_steps(cb_optimizer *o, int64_t steps)
{
    o->steps = steps;
}

int cb_optimizer_slots(const cb_optimizer *o)
{
    return o->slot_count;
}

const char *cb_optimizer_slot_name(const cb_optimizer *o, int slot)
{
    if (o->kind == OPTIMIZER_SGD)
        return "momentum_buffer";
    return slot == 0 ? "exp_avg" : "exp_avg_sq";
}
