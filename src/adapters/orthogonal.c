/* orthogonal.c: see orthogonal.h.  A product of reflections is I - V T V^T with V = (v_1 ... v_R) and
 * T^-1 = strictly upper part of V^T V + its diagonal / 2 (Schreiber and Van Loan 1989; Joffrain et al. 2006). */
#include "adapters/orthogonal.h"

#include <math.h>

bool cb_orthogonal_mask(cb_tensor *mask)
{
    float *x = mask->data;
    int64_t n = mask->shape[1];
    for (int64_t i = 0; i < mask->count; i++)
        x[i] = i % n > i / n;
    return true;
}

/* (R, n) with ones on the diagonal */
static cb_tensor *unit_rows(const cb_tensor *p)
{
    cb_tensor *unit = cb_zeros(CB_F32, p->shape[0], p->shape[1]);
    for (int64_t i = 0; unit && i < p->shape[0]; i++)
        ((float *)unit->data)[i * p->shape[1] + i] = 1;
    return unit;
}

/* The signs on the diagonal, (R, 1): settings, not parameters */
static cb_tensor *signs_of(const cb_tensor *p)
{
    cb_tensor *signs = cb_zeros(CB_F32, p->shape[0], 1);
    for (int64_t i = 0; signs && i < p->shape[0]; i++)
        ((float *)signs->data)[i] = ((const float *)p->data)[i * p->shape[1] + i] < 0 ? -1 : 1;
    return signs;
}

/* 1 above the diagonal, 1/2 on it */
static cb_tensor *half_triangle(int64_t r)
{
    cb_tensor *t = cb_zeros(CB_F32, r, r);
    for (int64_t i = 0; t && i < r * r; i++)
        ((float *)t->data)[i] = i % r > i / r ? 1 : i % r == i / r ? 0.5f : 0;
    return t;
}

cb_tensor *cb_orthogonal_rows(cb_tensor *p, cb_tensor *mask)
{
    if (!p || !mask)
        return NULL;
    int64_t r = p->shape[0];
    cb_tensor *unit = unit_rows(p), *v = cb_add(cb_mul(p, mask), unit); /* V^T, (R, n) */
    cb_tensor *t = cb_inverse(cb_mul(cb_matmul(v, v ? cb_transpose(v, 0, 1) : NULL), half_triangle(r)));
    cb_tensor *top = cb_slice(v, 1, 0, r, 1); /* the first R rows of V, transposed */
    cb_tensor *change = t && top ? cb_matmul(cb_matmul(cb_transpose(top, 0, 1), cb_transpose(t, 0, 1)), v) : NULL;
    return cb_mul(cb_sub(unit, change), signs_of(p));
}

/* One Householder step on rows x (R, n) in f64: row i becomes its reflector, and the rows below are reflected. */
static bool reflect(double *x, int64_t rows, int64_t n, int64_t i, double *sign)
{
    double *v = x + i * n, length = 0, norm = 0;
    for (int64_t k = i; k < n; k++)
        length += v[k] * v[k];
    length = sqrt(length);
    if (!(length > 0))
        return false;
    *sign = v[i] > 0 ? -1 : 1; /* of the triangular factor's diagonal */
    v[i] -= *sign * length;
    double head = v[i];
    for (int64_t k = i; k < n; k++) {
        v[k] /= head;
        norm += v[k] * v[k];
    }
    for (int64_t j = i + 1; j < rows; j++) {
        double dot = 0;
        for (int64_t k = i; k < n; k++)
            dot += v[k] * x[j * n + k];
        for (int64_t k = i; k < n; k++)
            x[j * n + k] -= 2 * dot / norm * v[k];
    }
    return true;
}

bool cb_orthogonal_set(cb_tensor *p, cb_tensor *rows)
{
    int64_t r = p->shape[0], n = p->shape[1];
    double *x = rows ? cb_calloc((size_t)(r * n), sizeof *x) : NULL;
    bool ok = x && cb_read(rows, CB_F64, x);
    for (int64_t i = 0; ok && i < r; i++) {
        double sign = 1;
        ok = reflect(x, r, n, i, &sign) ||
             cb_fail(CB_ERR_NUMERIC, "orthogonal rows: found row %lld dependent on those before it", (long long)i) == CB_OK;
        for (int64_t k = 0; ok && k < n; k++)
            ((float *)p->data)[i * n + k] = (float)(k > i ? x[i * n + k] : k == i ? sign : 0);
    }
    cb_free(x);
    return ok;
}

/* x (n, n) becomes H x, of the reflector v whose first i numbers are 0; `sums` has room for n. */
static void reflect_basis(float *x, const double *v, int64_t i, int64_t n, double *sums)
{
    double norm = 0;
    for (int64_t b = 0; b < n; b++)
        sums[b] = 0;
    for (int64_t a = i; a < n; a++) {
        norm += v[a] * v[a];
        for (int64_t b = 0; b < n; b++)
            sums[b] += v[a] * (double)x[a * n + b];
    }
    for (int64_t a = i; a < n; a++)
        for (int64_t b = 0; b < n; b++)
            x[a * n + b] -= (float)(2 / norm * v[a] * sums[b]);
}

cb_tensor *cb_orthogonal_basis(const cb_tensor *p)
{
    int64_t r = p->shape[0], n = p->shape[1];
    cb_tensor *basis = cb_zeros(CB_F32, n, n);
    double *v = basis ? cb_calloc((size_t)(2 * n), sizeof *v) : NULL;
    if (!v)
        return NULL;
    const float *from = p->data;
    float *x = basis->data;
    for (int64_t i = 0; i < n; i++)
        x[i * n + i] = i < r && from[i * n + i] < 0 ? -1 : 1;
    for (int64_t i = r; i-- > 0;) {
        for (int64_t k = i; k < n; k++)
            v[k] = k > i ? (double)from[i * n + k] : 1;
        reflect_basis(x, v, i, n, v + n);
    }
    cb_free(v);
    return basis;
}

bool cb_orthogonal_draw(cb_tensor *p, cb_rng rng)
{
    cb_tensor *rows = cb_empty_like(p);
    return rows && cb_init_normal(rows, rng, 1) && cb_orthogonal_set(p, rows);
}
