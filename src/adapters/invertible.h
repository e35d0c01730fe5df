/* invertible.h: maps of vectors that can be undone, for the way into a model and out of it (MAD-X: Pfeiffer et al. 2020, arXiv:2005.00052).
 * Halves x1, x2 of the vector change in turn, each by what a small network makes of the other:
 *     nice   y1 = x1 + F(x2), y2 = x2 + G(y1)                                            (Dinh et al. 2015, arXiv:1410.8516)
 *     glow   y1 = e(s2) x1 + t2 with s2, t2 = S2(x2), y2 = e(s1) x2 + t1 with s1, t1 = S1(y1)    (Kingma and Dhariwal 2018, arXiv:1807.03039)
 * with e(s) = exp(c 0.636 atan(s / c)), c = 5, so that no number is scaled by more than e^c. */
#ifndef CB_ADAPTERS_INVERTIBLE_H
#define CB_ADAPTERS_INVERTIBLE_H

#include "cambium/adapters.h"

enum { CB_INVERTIBLE_NONE, CB_INVERTIBLE_NICE, CB_INVERTIBLE_GLOW };
extern const char *const cb_invertible_names[]; /* choices of an option */

typedef struct cb_invertible {
    int form, activation;
    int64_t width;
    double reduction;         /* the networks' inner width is their input's divided by that */
    cb_tensor *parameters[8]; /* of F and G, or of S1 and S2: weight and bias of both layers */
} cb_invertible;

int cb_invertible_parameters(cb_invertible *map, cb_adapter_parameter *list);
/* Fresh values, N(0, 0.02^2) and biases of zero. */
bool cb_invertible_initialise(cb_invertible *map, const cb_module *m, uint64_t seed);
/* x (..., width), or the other way; strength multiplies what the networks give. */
cb_tensor *cb_invertible_forward(const cb_invertible *map, cb_tensor *x, double strength);
cb_tensor *cb_invertible_inverse(const cb_invertible *map, cb_tensor *y, double strength);

#endif
