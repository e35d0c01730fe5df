/* fourier.h: discrete Fourier transforms of rows of numbers, by two matrix products for n = S F:
 *
 *     v q / n = v1 q1 / S + v1 q2 / n + v2 q2 / F + (a whole number)      for q = F q1 + q2 and v = v1 + S v2,
 *
 * so X_v = sum over q of x_q e^(2 pi i v q / n) is a product over q1 with a (2 S, S), then one over q2 with a (2 F, 2 F) for each v1: some
 * 4 S + 8 F operations for each of the n numbers, at the speed of products and differentiable as they are.
 * R rows; real and imaginary parts are numbers of their own. */
#ifndef CB_ADAPTERS_FOURIER_H
#define CB_ADAPTERS_FOURIER_H

#include "cambium/adapters.h"

typedef struct cb_fourier {
    int64_t n, s, f;
    cb_tensor *first;  /* (2 S, S) */
    cb_tensor *second; /* (S, 2 F, 2 F) */
} cb_fourier;

void cb_fourier_plan(cb_fourier *plan, int64_t n);
int64_t cb_fourier_size(const cb_fourier *plan); /* numbers that it holds */
/* Lists what it holds as two private parameters of a module; returns how many. */
int cb_fourier_parameters(cb_fourier *plan, cb_adapter_parameter *list);
void cb_fourier_fill(cb_fourier *plan);
/* e^(2 pi i v q / n) */
void cb_fourier_root(int64_t v, int64_t q, int64_t n, float *real, float *imaginary);

/* x (R, n) -> (R, 2 n): the parts of X_v, in places of their own. */
cb_tensor *cb_fourier_analyse(const cb_fourier *plan, cb_tensor *x);
int64_t cb_fourier_place(const cb_fourier *plan, int64_t v, bool imaginary); /* where a part is */
/* Its adjoint: z (R, 2 n) -> (R, n), y_q = sum over v of re_v cos(2 pi v q / n) + im_v sin(2 pi v q / n). */
cb_tensor *cb_fourier_adjoint(const cb_fourier *plan, cb_tensor *z);

#endif
