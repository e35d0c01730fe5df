/* orthogonal.h: matrices with orthonormal rows as parameters, in torch's form (torch.nn.utils.parametrizations.orthogonal, householder): a
 * matrix P (R, n), R <= n, holds in its strict upper triangle the reflectors v_i = (0, ..., 0, 1, P[i, i+1:]) and on its diagonal signs, and
 * stands for the first R columns of H_1 ... H_R, H_i = I - 2 v_i v_i^T / |v_i|^2, times these signs, as rows. */
#ifndef CB_ADAPTERS_ORTHOGONAL_H
#define CB_ADAPTERS_ORTHOGONAL_H

#include "cambium/adapters.h"

/* The mask that cb_orthogonal_rows() wants, for (R, n): 1 above the diagonal. */
bool cb_orthogonal_mask(cb_tensor *mask);
/* The orthonormal rows (R, n) that p stands for. */
cb_tensor *cb_orthogonal_rows(cb_tensor *p, cb_tensor *mask);
/* Makes p stand for the rows (R, n) orthonormalised from the first to the last (themselves if they are); false and an error where they are
 * linearly dependent. */
bool cb_orthogonal_set(cb_tensor *p, cb_tensor *rows);
/* An orthogonal basis (n, n) whose first R columns are the rows that p stands for. */
cb_tensor *cb_orthogonal_basis(const cb_tensor *p);
/* Uniformly random orthonormal rows. */
bool cb_orthogonal_draw(cb_tensor *p, cb_rng rng);

#endif
