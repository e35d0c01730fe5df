/* optim.h: floor 3: optimisers, learning-rate schedules and gradient clipping over plain lists of parameters. */
#ifndef CAMBIUM_OPTIM_H
#define CAMBIUM_OPTIM_H

#include "cambium/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_optimizer cb_optimizer;

/* AdamW: Adam with decoupled weight decay.  Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; bias-corrected as in PyTorch:
 * p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) after p *= 1 - lr weight_decay.  Zero fields take the defaults shown (for
 * 0 itself give DBL_MIN); betas below 1, or CB_ERR_ARGUMENT. */
typedef struct cb_adamw_options {
    double beta1;        /* 0.9 */
    double beta2;        /* 0.999 */
    double eps;          /* 1e-8 */
    double weight_decay; /* 0; not applied to parameters of fewer than two dimensions */
} cb_adamw_options;
/* Keeps the parameters (f32 leaves that require a gradient) until freed.  Moments are f32, made at the first step. */
CB_API cb_optimizer *cb_adamw_with(size_t count, cb_tensor *const *parameters, cb_adamw_options options);
#define cb_adamw(count, parameters, ...) cb_adamw_with(count, parameters, (cb_adamw_options){__VA_ARGS__})

/* Stochastic gradient descent, with momentum as in PyTorch (buf = momentum buf + g; p -= lr (g + momentum buf) if Nesterov). */
typedef struct cb_sgd_options {
    double momentum;
    bool nesterov;
    double weight_decay; /* added to the gradient */
} cb_sgd_options;
CB_API cb_optimizer *cb_sgd_with(size_t count, cb_tensor *const *parameters, cb_sgd_options options);
#define cb_sgd(count, parameters, ...) cb_sgd_with(count, parameters, (cb_sgd_options){__VA_ARGS__})

/* One update from ->grad (contiguous f32; a parameter without one is left alone); gradients are multiplied by `grad_scale` first (clipping:
 * no pass of its own).  Gradients stay; drop them with cb_optimizer_zero_grad(). */
CB_API bool cb_optimizer_step(cb_optimizer *optimizer, double learning_rate, double grad_scale);
/* Factors (one for each parameter) of the learning rate from here on, as of parameter groups; NULL: 1 each. */
CB_API bool cb_optimizer_set_rates(cb_optimizer *optimizer, const double *rates);
CB_API void cb_optimizer_zero_grad(cb_optimizer *optimizer);
CB_API void cb_optimizer_forget(cb_optimizer *optimizer); /* moments and steps are those of a new one */
CB_API void cb_optimizer_free(cb_optimizer *optimizer);

/* L2 norm of all gradients together (f64 accumulation, independent of the thread count); NaN or infinity is returned as such. */
CB_API double cb_grad_norm(size_t count, cb_tensor *const *parameters);
/* The factor that brings `norm` down to `max_norm` (1 when it is below, or max_norm is 0). */
CB_API double cb_clip_factor(double norm, double max_norm);

/* State for checkpoints: number of steps taken, and slot tensors (same shape as the parameter), made on demand when restoring. */
CB_API int64_t cb_optimizer_steps(const cb_optimizer *optimizer);
CB_API void cb_optimizer_set_steps(cb_optimizer *optimizer, int64_t steps);
CB_API int cb_optimizer_slots(const cb_optimizer *optimizer);                       /* AdamW 2, SGD 0 or 1 */
CB_API const char *cb_optimizer_slot_name(const cb_optimizer *optimizer, int slot); /* "exp_avg", "exp_avg_sq", "momentum_buffer" */
CB_API cb_tensor *cb_optimizer_slot(cb_optimizer *optimizer, size_t parameter, int slot);

/* Weights (n), 0 or more and 1 together, of n objectives whose gradients have these inner products: gram (n, n).  With a guide, the products (n) of each
 * gradient with another one: the weighed sum goes along that as far as it can without hurting those that the guide hurts more than it does, nor the one
 * that agrees with it most (others have no bound); without, it descends on all objectives as far as it can.  The first of equal solutions; equal weights where there is none, or no gradient.
 * Pareto domain adaptation (Lv et al. 2021, arXiv:2112.04137); EPO search (Mahapatra, Rajan 2020). */
#define CB_MOST_OBJECTIVES 8
CB_API bool cb_pareto_weights(const double *gram, const double *guide, size_t n, double *weights);
/* Those of the weighed sum of least norm, which descends on all objectives unless it is nothing: MGDA (Desideri 2012; Sener and Koltun 2018,
 * arXiv:1810.04650).  Exact; the first of equal solutions. */
CB_API bool cb_least_norm_weights(const double *gram, size_t n, double *weights);

/* ---- schedules ---- */

typedef enum cb_schedule_kind {
    CB_SCHEDULE_CONSTANT,
    CB_SCHEDULE_LINEAR, /* to min_ratio at the last step */
    CB_SCHEDULE_COSINE, /* half a cosine to min_ratio */
    CB_SCHEDULE_WSD,    /* warm-up, stable, then linear decay over the last `decay_ratio` of the steps */
    CB_SCHEDULE_INVERSE /* (1 + 10 p)^-0.75 at a share p of the steps, to 0.17: DANN's, and SHOT's after it.  Ganin et al. 2016 */
} cb_schedule_kind;
extern CB_API const char *const cb_schedule_names[]; /* NULL-terminated, in the order of the enum */
typedef struct cb_schedule {
    cb_schedule_kind kind;
    double learning_rate;
    int64_t warmup_steps, steps;
    double min_ratio;
    double decay_ratio;
} cb_schedule;
/* Learning rate of step `step` (0-based). Warm-up is linear: (step + 1) / warmup_steps. */
CB_API double cb_schedule_at(const cb_schedule *schedule, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
