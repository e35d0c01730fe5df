/* adapter_deltas.c: the change of one layer made of several adapters' changes X_i = s_i B_i A_i, A (R, in), B (out, R).
 *
 * A weighted sum of them is exact as factors: those of all side by side.  Other methods are carried out on the matrices, with zero in place of
 * the base (which is what merging the folded models comes to), and what they make is rounded to the rank by its first singular triples. */
#include <math.h>
#include <string.h>

#include "adapters/low_rank.h"
#include "core/rehearsal.h"
#include "merge/adapters.h"

bool cb_factors_concatenate(const cb_layer_factors *f, double factor, cb_tensor **a, cb_tensor **b)
{
    cb_tensor *as[CB_MERGE_MOST_MODELS], *bs[CB_MERGE_MOST_MODELS];
    for (size_t i = 0; i < f->count; i++) {
        as[i] = cb_scale(f->list[i].a, f->list[i].weight * f->list[i].scale * factor);
        bs[i] = f->list[i].b;
        if (!as[i])
            return false;
    }
    *a = cb_cat((int)f->count, as, 0);
    *b = cb_cat((int)f->count, bs, 1);
    return *a && *b;
}

static cb_weight_entry entry_of(const char *name, const cb_tensor *t)
{
    cb_weight_entry e = {.name = name, .dtype = CB_F32, .type_name = "F32", .ndim = 2, .data = t->data};
    e.shape[0] = t->shape[0];
    e.shape[1] = t->shape[1];
    e.size = (size_t)t->count * sizeof(float);
    return e;
}

static bool append(void *user, const void *data, size_t bytes)
{
    char **to = user;
    if (!cb_rehearsing())
        memcpy(*to, data, bytes);
    *to += bytes;
    return true;
}

cb_tensor *cb_combine_tensors(const cb_model_merge_options *options, const char *name, cb_tensor *base, cb_tensor *const *others,
                              const double *weights, const double *densities, size_t count)
{
    cb_weight_entry entries[CB_MERGE_MOST_MODELS + 1];
    const cb_weight_entry *list[CB_MERGE_MOST_MODELS];
    for (size_t i = 0; i < count; i++) {
        if (!others[i])
            return NULL;
        entries[i] = entry_of(name, others[i]);
        list[i] = &entries[i];
    }
    int64_t rows = others[0]->shape[0], columns = others[0]->shape[1];
    base = base ? base : cb_zeros(CB_F32, rows, columns);
    cb_tensor *out = cb_empty(CB_F32, rows, columns);
    if (!base || !out)
        return NULL;
    entries[count] = entry_of(name, base);
    cb_versions v = {.base = &entries[count],
                     .others = list,
                     .weights = weights,
                     .densities = densities,
                     .count = count,
                     .rows = rows,
                     .columns = columns};
    char *to = out->data;
    return cb_combine(options, &v, CB_F32, append, &to) ? out : NULL;
}

/* ---- by method ---- */

static bool is_sum(const cb_model_merge_options *o)
{
    return o->method == CB_MERGE_LINEAR || o->method == CB_MERGE_TASK_ARITHMETIC;
}

/* The changes of all sources as matrices; those that leave the layer alone have one of zeros between them. */
static bool make_changes(const cb_adapter_merge *m, const cb_layer_factors *f, cb_tensor **changes)
{
    cb_tensor *nothing = f->count < m->count ? cb_zeros(CB_F32, f->out, f->in) : NULL;
    for (size_t i = 0; i < m->count; i++)
        changes[i] = nothing;
    for (size_t i = 0; i < f->count; i++) {
        cb_tensor *product = cb_matmul(f->list[i].b, f->list[i].a);
        changes[f->list[i].source] = cb_contiguous(product ? cb_scale(product, f->list[i].scale) : NULL);
    }
    return cb_ok();
}

bool cb_change_by_method(const cb_adapter_merge *m, const cb_layer_factors *f, cb_merged_change *out)
{
    const cb_model_merge_options *o = m->options->combine;
    double weights[CB_MERGE_MOST_MODELS], sum = 0;
    int64_t together = 0, most = f->out < f->in ? f->out : f->in;
    for (size_t i = 0; i < m->count; i++)
        sum += weights[i] = m->sources[i].weight;
    for (size_t i = 0; i < f->count; i++)
        together += f->list[i].a->shape[0];
    out->rank = m->options->rank ? m->options->rank : together;
    if (is_sum(o) && o->normalize == 1 && fabs(sum) < 1e-12)
        return cb_fail(CB_ERR_ARGUMENT, "merge: the weights of the adapters add up to %g, by which they cannot be divided", sum) == CB_OK;
    if (is_sum(o)) {
        double factor = (o->method == CB_MERGE_TASK_ARITHMETIC ? o->lambda : 1) / (o->normalize == 1 ? sum : 1);
        return cb_factors_concatenate(f, factor, &out->a, &out->b);
    }
    out->rank = out->rank < most ? out->rank : most;
    cb_tensor *changes[CB_MERGE_MOST_MODELS] = {0};
    if (!make_changes(m, f, changes))
        return false;
    bool between = cb_combine_method_of(o)->most == 1; /* from the first to the second */
    out->whole = cb_combine_tensors(o, f->layer, between ? changes[0] : NULL, changes + between, weights + between, m->densities + between,
                                    m->count - between);
    return out->whole;
}

/* ---- rounding to a rank ---- */

/* Singular vectors are unique but for their sign. */
static bool fix_signs(cb_tensor *u, cb_tensor *vt)
{
    if (cb_rehearsing())
        return true;
    float *us = u->data, *vs = vt->data;
    for (int64_t r = 0; r < vt->shape[0]; r++) {
        float *row = vs + r * vt->shape[1], largest = 0;
        for (int64_t i = 0; i < vt->shape[1]; i++)
            largest = fabsf(row[i]) > fabsf(largest) ? row[i] : largest;
        for (int64_t i = 0; largest < 0 && i < vt->shape[1]; i++)
            row[i] = -row[i];
        for (int64_t i = 0; largest < 0 && i < u->shape[0]; i++)
            us[i * u->shape[1] + r] = -us[i * u->shape[1] + r];
    }
    return true;
}

/* B A by QR of both: the singular triples of R_b R_a^T are all there are. */
static bool product_triples(cb_tensor *a, cb_tensor *b, cb_tensor **u, cb_tensor **s, cb_tensor **vt)
{
    cb_tensor *qa, *ra, *qb, *rb, *inner_u, *inner_vt;
    if (!cb_qr(cb_contiguous(cb_transpose(a, 0, 1)), &qa, &ra) || !cb_qr(b, &qb, &rb) ||
        !cb_svd(cb_matmul(rb, cb_transpose(ra, 0, 1)), &inner_u, s, &inner_vt))
        return false;
    *u = cb_matmul(qb, inner_u);
    *vt = cb_matmul(inner_vt, cb_transpose(qa, 0, 1));
    return *u && *vt;
}

/* torch.quantile() of all values of both: linear between neighbours */
static bool quantile_of(cb_tensor *x, cb_tensor *y, double q, double *value)
{
    cb_tensor *all[] = {cb_reshape(x, x->count), cb_reshape(y, y->count)}, *sorted, *order;
    cb_tensor *joined = all[0] && all[1] ? cb_cat(2, all, 0) : NULL;
    if (!joined || !cb_sort(joined, 0, false, &sorted, &order))
        return false;
    double place = q * (double)(sorted->count - 1), low = floor(place);
    double a = cb_get(sorted, (int64_t)low), b = cb_get(sorted, (int64_t)ceil(place));
    *value = a + (place - low) * (b - a);
    return cb_ok();
}

bool cb_change_factors(const cb_merged_change *c, cb_rng rng, double clamp, cb_tensor **a, cb_tensor **b)
{
    enum { EXTRA = 16, POWER_ITERATIONS = 4 };
    if (!c->whole && !c->values_in_b && c->a->shape[0] <= c->rank) {
        *a = c->a;
        *b = c->b;
        return true;
    }
    cb_tensor *u, *s, *vt;
    bool ok = c->whole ? cb_svd_first(c->whole, c->rank, EXTRA, c->values_in_b ? -1 : POWER_ITERATIONS, rng, &u, &s, &vt)
                       : product_triples(c->a, c->b, &u, &s, &vt);
    if (!ok)
        return false;
    int64_t rank = c->rank < s->shape[0] ? c->rank : s->shape[0];
    u = cb_contiguous(cb_slice(u, 1, 0, rank, 1));
    vt = cb_contiguous(cb_slice(vt, 0, 0, rank, 1));
    s = cb_slice(s, 0, 0, rank, 1);
    if (!u || !s || !vt || !fix_signs(u, vt))
        return false;
    cb_tensor *root = cb_sqrt(s);
    *b = cb_mul(u, cb_reshape(c->values_in_b ? s : root, 1, rank));
    *a = c->values_in_b ? vt : cb_mul(vt, cb_reshape(root, rank, 1));
    double bound;
    if (!*a || !*b)
        return false;
    if (clamp < 1 && quantile_of(*b, *a, clamp, &bound)) {
        if (bound <= 0)
            return cb_fail(
                       CB_ERR_ARGUMENT,
                       "svd_clamp: found %g, where the quantile of the factors' values is %g; expected one above that of zero, which is "
                       "about 0.5",
                       clamp, bound) == CB_OK;
        *b = cb_clamp(*b, -bound, bound);
        *a = cb_clamp(*a, -bound, bound);
    }
    return *a && *b && cb_ok();
}

/* ---- measures ---- */

/* |B A|^2 = sum of (B^T B) * (A A^T), in f64: a difference of equals comes out as 1e-16 of their squares */
static double squares_of_product(cb_tensor *a, cb_tensor *b)
{
    cb_tensor *a64 = cb_cast(a, CB_F64), *b64 = cb_cast(b, CB_F64);
    cb_tensor *inner = a64 && b64 ? cb_mul(cb_matmul(a64, cb_transpose(a64, 0, 1)), cb_matmul(cb_transpose(b64, 0, 1), b64)) : NULL;
    double squares = inner ? cb_item(cb_sum(cb_reshape(inner, inner->count), 0, false)) : 0;
    return squares > 0 ? squares : 0;
}

static double squares_of(cb_tensor *x)
{
    cb_tensor *rows = x ? cb_cast(cb_sum(cb_square(x), 1, false), CB_F64) : NULL;
    return rows ? cb_item(cb_sum(rows, 0, false)) : 0;
}

static bool same_numbers(const cb_tensor *x, const cb_tensor *y)
{
    return cb_same_shape(x, y) && memcmp(x->data, y->data, (size_t)x->count * sizeof(float)) == 0;
}

void cb_factors_distance(cb_tensor *a, cb_tensor *b, cb_tensor *other_a, cb_tensor *other_b, double *lost, double *squares)
{
    bool same = same_numbers(a, other_a) && same_numbers(b, other_b);
    cb_tensor *as[] = {a, other_a}, *bs[] = {b, cb_neg(other_b)};
    cb_tensor *both_a = bs[1] ? cb_cat(2, as, 0) : NULL, *both_b = bs[1] ? cb_cat(2, bs, 1) : NULL;
    *lost = both_a && both_b && !same ? squares_of_product(both_a, both_b) : 0;
    *squares = squares_of_product(a, b);
}

double cb_change_error(const cb_merged_change *c, cb_tensor *a, cb_tensor *b)
{
    double lost, squares;
    if (c->whole) {
        squares = squares_of(c->whole);
        lost = squares_of(cb_sub(c->whole, cb_matmul(b, a)));
    } else {
        cb_factors_distance(c->a, c->b, a, b, &lost, &squares);
    }
    return lost <= 0 ? 0 : squares > 0 ? sqrt(lost / squares) : INFINITY;
}

/* |X Y^T|^2 = |B_x M B_y^T|^2 with M = A_x A_y^T */
double cb_factors_crosstalk(const cb_factors *x, const cb_factors *y)
{
    cb_tensor *between = cb_matmul(x->a, cb_transpose(y->a, 0, 1));
    double crossed = between ? squares_of_product(cb_matmul(between, cb_transpose(y->b, 0, 1)), x->b) : 0;
    double sizes = squares_of_product(x->a, x->b) * squares_of_product(y->a, y->b);
    return sizes > 0 ? sqrt(crossed / sizes) : 0;
}
