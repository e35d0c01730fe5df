/* factors.c: products of thin factors with the weights of layers, and truncated singular value decompositions. */
#include "adapters/low_rank.h"

/* Rows of a weight that are looked at in f32 at a time. */
#define SLICE_VALUES ((int64_t)1 << 20)

bool cb_stores_inputs_first(const cb_layer *layer)
{
    return layer->transposed || layer->kind == CB_LAYER_EMBEDDING;
}

/* Rows `first` to `end` of a weight as f32, however it is stored. */
static cb_tensor *rows_f32(cb_tensor *weight, int64_t first, int64_t end)
{
    if (cb_dtype_is_quantized(weight->dtype))
        return cb_embedding(weight, cb_arange(CB_I64, (double)first, 1, end - first));
    return cb_cast(cb_slice(weight, 0, first, end, 1), CB_F32);
}

static int64_t slice_rows(const cb_tensor *weight)
{
    return SLICE_VALUES / (weight->shape[1] ? weight->shape[1] : 1) + 1;
}

/* x (R, V) through a quantised table (V, C), which products take the other way round only. */
static cb_tensor *through_table(cb_tensor *table, cb_tensor *x)
{
    int64_t rows = table->shape[0], step = slice_rows(table);
    cb_tensor *y = x ? cb_zeros(CB_F32, x->shape[0], table->shape[1]) : NULL;
    for (int64_t i = 0; y && i < rows; i += step) {
        int64_t end = i + step < rows ? i + step : rows;
        cb_scope *scope = cb_scope_open();
        if (!scope)
            return NULL;
        cb_tensor *sum = cb_add(y, cb_matmul(cb_slice(x, 1, i, end, 1), rows_f32(table, i, end)));
        bool ok = sum && cb_copy_into(y, sum);
        cb_scope_close(scope);
        if (!ok)
            return NULL;
    }
    return y;
}

cb_tensor *cb_through_weight(const cb_layer *layer, cb_tensor *x)
{
    cb_tensor *weight = cb_layer_weight(layer, "weight");
    if (!cb_stores_inputs_first(layer))
        return cb_linear(x, weight, NULL);
    return weight && cb_dtype_is_quantized(weight->dtype) ? through_table(weight, x) : cb_linear_t(x, weight, NULL);
}

cb_tensor *cb_weight_f32(const cb_layer *layer)
{
    cb_tensor *weight = cb_cast(cb_layer_weight(layer, "weight"), CB_F32);
    return cb_stores_inputs_first(layer) ? cb_transpose(weight, 0, 1) : weight;
}

cb_tensor *cb_weight_squares(const cb_layer *layer, cb_squares_of what)
{
    cb_tensor *weight = cb_layer_weight(layer, "weight");
    bool turned = cb_stores_inputs_first(layer) == (what == CB_SQUARES_OF_OUTPUTS); /* what is asked for are the stored columns */
    if (!weight)
        return NULL;
    int64_t rows = weight->shape[0], step = slice_rows(weight);
    cb_tensor *squares = cb_zeros(CB_F32, what == CB_SQUARES_OF_OUTPUTS ? layer->out_features : layer->in_features);
    for (int64_t i = 0; squares && i < rows; i += step) {
        int64_t end = i + step < rows ? i + step : rows;
        cb_scope *scope = cb_scope_open();
        if (!scope)
            return NULL;
        cb_tensor *part = cb_sum(cb_square(rows_f32(weight, i, end)), turned ? 0 : 1, false);
        cb_tensor *here = turned ? squares : cb_slice(squares, 0, i, end, 1);
        bool ok = part && here && cb_copy_into(here, turned ? cb_add(squares, part) : part);
        cb_scope_close(scope);
        if (!ok)
            return NULL;
    }
    return squares;
}

cb_tensor *cb_factors_product(const cb_layer *layer, cb_tensor *a, cb_tensor *b)
{
    return cb_stores_inputs_first(layer) ? cb_matmul(cb_transpose(a, 0, 1), cb_transpose(b, 0, 1)) : cb_matmul(b, a);
}

/* ---- singular triples ---- */

/* An orthonormal basis of the columns of x. */
static cb_tensor *basis(cb_tensor *x)
{
    cb_tensor *q = NULL, *r = NULL;
    return x && cb_qr(x, &q, &r) ? q : NULL;
}

/* q (m, l): nearly the span of x's first l left singular vectors */
static cb_tensor *range_of(cb_tensor *x, int64_t l, int niter, cb_rng rng)
{
    cb_tensor *q = basis(cb_matmul(x, cb_randn(CB_F32, &rng, x->shape[1], l)));
    for (int i = 0; i < niter; i++)
        q = basis(cb_matmul(x, basis(cb_matmul(cb_transpose(x, 0, 1), q))));
    return q;
}

bool cb_svd_first(cb_tensor *x, int64_t rank, int64_t extra, int niter, cb_rng rng, cb_tensor **u, cb_tensor **s, cb_tensor **vt)
{
    *u = *s = *vt = NULL;
    if (!x)
        return false;
    int64_t most = x->shape[0] < x->shape[1] ? x->shape[0] : x->shape[1], l = rank + extra < most ? rank + extra : most;
    bool exact = niter < 0 || l == most;
    cb_tensor *q = exact ? NULL : range_of(x, l, niter, rng);
    if (!exact && !q)
        return false;
    if (!cb_svd(exact ? x : cb_matmul(cb_transpose(q, 0, 1), x), u, s, vt))
        return false;
    *u = cb_slice(exact ? *u : cb_matmul(q, *u), 1, 0, rank, 1);
    *s = cb_slice(*s, 0, 0, rank, 1);
    *vt = cb_slice(*vt, 0, 0, rank, 1);
    return *u && *s && *vt;
}
