/* fourier.c: see fourier.h. */
#include "adapters/fourier.h"

#include <math.h>

void cb_fourier_plan(cb_fourier *plan, int64_t n)
{
    *plan = (cb_fourier){.n = n, .s = 1};
    for (int64_t d = 2; d * d <= n; d++)
        if (n % d == 0)
            plan->s = d;
    plan->f = plan->s; /* the smaller one: the second product is the larger one */
    plan->s = n / plan->f;
}

int64_t cb_fourier_size(const cb_fourier *plan)
{
    return 2 * plan->s * plan->s + 4 * plan->n * plan->f;
}

int cb_fourier_parameters(cb_fourier *plan, cb_adapter_parameter *list)
{
    list[0] = (cb_adapter_parameter){"fourier.first", &plan->first, 2, {2 * plan->s, plan->s}, CB_ROLE_PRIVATE};
    list[1] = (cb_adapter_parameter){"fourier.second", &plan->second, 3, {plan->s, 2 * plan->f, 2 * plan->f}, CB_ROLE_PRIVATE};
    return 2;
}

void cb_fourier_root(int64_t v, int64_t q, int64_t n, float *real, float *imaginary)
{
    double angle = 2 * M_PI * (double)(v * q % n) / (double)n;
    *real = (float)cos(angle);
    *imaginary = (float)sin(angle);
}

void cb_fourier_fill(cb_fourier *plan)
{
    int64_t s = plan->s, f = plan->f;
    float *first = plan->first->data, *second = plan->second->data, re, im;
    for (int64_t v = 0; v < s; v++)
        for (int64_t q = 0; q < s; q++)
            cb_fourier_root(v, q, s, first + 2 * v * s + q, first + (2 * v + 1) * s + q);
    for (int64_t v1 = 0; v1 < s; v1++)
        for (int64_t q = 0; q < f; q++)
            for (int64_t v2 = 0; v2 < f; v2++) {
                float *real = second + (v1 * 2 * f + q) * 2 * f + v2, *imaginary = real + f * 2 * f;
                cb_fourier_root(v1 + s * v2, q, plan->n, &re, &im);
                real[0] = imaginary[f] = re; /* what the real part of the input gives, and its imaginary part */
                real[f] = im;
                imaginary[0] = -im;
            }
}

/* In the middle (R, S, 2 F) or (S, R, 2 F), the second dimension of the products the rows. */
cb_tensor *cb_fourier_analyse(const cb_fourier *plan, cb_tensor *x)
{
    cb_tensor *z = cb_matmul(plan->first, cb_reshape(x, -1, plan->s, plan->f));
    z = cb_matmul(cb_permute(cb_reshape(z, -1, plan->s, 2 * plan->f), 1, 0, 2), plan->second);
    return cb_reshape(cb_permute(z, 1, 0, 2), -1, 2 * plan->n);
}

int64_t cb_fourier_place(const cb_fourier *plan, int64_t v, bool imaginary)
{
    return (v % plan->s * 2 + imaginary) * plan->f + v / plan->s;
}

cb_tensor *cb_fourier_adjoint(const cb_fourier *plan, cb_tensor *z)
{
    cb_tensor *x = cb_permute(cb_reshape(z, -1, plan->s, 2 * plan->f), 1, 0, 2);
    x = cb_permute(cb_matmul(x, cb_transpose(plan->second, 1, 2)), 1, 0, 2);
    x = cb_matmul(cb_transpose(plan->first, 0, 1), cb_reshape(x, -1, 2 * plan->s, plan->f));
    return cb_reshape(x, -1, plan->n);
}
