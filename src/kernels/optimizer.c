/* optimizer.c: optimiser updates of many tensors in one parallel region: the tensors are laid end to end in thought,
 * and each thread takes an equal stretch, whatever the tensors' sizes. */
#include <math.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

static int64_t total_of(int64_t count, const int64_t *size)
{
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++)
        total += size[i];
    return total;
}

/* The part of tensor i (which begins at `offset` of the whole) that falls into r. */
static cbk_range part_of(cbk_range r, int64_t offset, int64_t size)
{
    cbk_range part = {r.begin - offset, r.end - offset};
    part.begin = part.begin < 0 ? 0 : part.begin;
    part.end = part.end > size ? size : part.end;
    return part;
}

void cbk_adamw(int64_t count, float *const *parameter, float *const *exp_avg, float *const *exp_avg_sq, const float *const *gradient,
               const int64_t *size, const double *weight_decay, const cbk_adamw_args *a)
{
    int64_t total = total_of(count, size);
    if (cb_rehearsing())
        return;
    double correction1 = 1 - pow(a->beta1, (double)a->step), correction2 = 1 - pow(a->beta2, (double)a->step);
    cbk_adamw_constants k = {.beta1 = (float)a->beta1,
                             .beta2 = (float)a->beta2,
                             .one_minus_beta1 = (float)(1 - a->beta1),
                             .one_minus_beta2 = (float)(1 - a->beta2),
                             .step_size = (float)(a->learning_rate / correction1),
                             .root_correction = (float)(1 / sqrt(correction2)),
                             .eps = (float)a->eps,
                             .grad_scale = (float)a->grad_scale};
    int threads = cbk_threads(total * 4);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(total, 64);
        for (int64_t i = 0, offset = 0; i < count; offset += size[i++]) {
            cbk_range p = part_of(r, offset, size[i]);
            if (p.begin >= p.end)
                continue;
            cbk_adamw_constants own = k;
            own.decay = (float)(1 - a->learning_rate * (weight_decay ? weight_decay[i] : a->weight_decay));
            cbk_vector()->adamw(&own, parameter[i] + p.begin, exp_avg[i] + p.begin, exp_avg_sq[i] + p.begin, gradient[i] + p.begin,
                                p.end - p.begin);
        }
    }
}

void cbk_sgd(int64_t count, float *const *parameter, float *const *momentum_buffer, const float *const *gradient, const int64_t *size,
             const double *weight_decay, const cbk_sgd_args *a)
{
    int64_t total = total_of(count, size);
    if (cb_rehearsing())
        return;
    int threads = cbk_threads(total * 2);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(total, 64);
        for (int64_t i = 0, offset = 0; i < count; offset += size[i++]) {
            cbk_range p = part_of(r, offset, size[i]);
            if (p.begin >= p.end)
                continue;
            cbk_sgd_constants k = {.learning_rate = (float)a->learning_rate,
                                   .momentum = (float)a->momentum,
                                   .weight_decay = (float)(weight_decay ? weight_decay[i] : a->weight_decay),
                                   .grad_scale = (float)a->grad_scale,
                                   .nesterov = a->nesterov,
                                   .first = a->first};
            cbk_vector()->sgd(&k, parameter[i] + p.begin, momentum_buffer ? momentum_buffer[i] + p.begin : NULL, gradient[i] + p.begin,
                              p.end - p.begin);
        }
    }
}
