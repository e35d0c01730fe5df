/* norm.c: RMS norm, layer norm and softmax over the rows of (N, C).
 *
 * Parameter gradients are sums over rows.  Rows are cut into at most 64 blocks, by a rule that looks at N alone; each
 * block sums into its own row of scratch memory and the rows are added in order, so the result has the same bits for
 * every number of threads. */
#include <math.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/norm_f64.h"
#include "kernels/parallel.h"

enum { MAX_BLOCKS = 64, MIN_BLOCK = 16 };

static bool check(const char *what, cb_dtype dtype, const void *weight, cb_dtype weight_dtype)
{
    if (cb_dtype_is_float(dtype) && (!weight || cb_dtype_is_float(weight_dtype)))
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: dtype %s with weights of %s is not supported", what, cb_dtype_name(dtype),
                   cb_dtype_name(weight_dtype)) == CB_OK;
}

/* A parameter of c elements as f32 (f64 beside f64 activations): itself, or a converted copy to be freed with
 * cb_free(*copy). */
static const void *parameter(const void *p, cb_dtype dtype, cb_dtype wanted, int64_t c, void **copy)
{
    *copy = NULL;
    if (!p || dtype == wanted)
        return p;
    *copy = cb_alloc((size_t)c * cb_dtype_size(wanted));
    if (*copy)
        cbk_convert(p, dtype, *copy, wanted, c);
    return *copy;
}

static cb_dtype statistics(cb_dtype dtype)
{
    return dtype == CB_F64 ? CB_F64 : CB_F32;
}

static int64_t block_rows(int64_t n)
{
    int64_t rows = (n + MAX_BLOCKS - 1) / MAX_BLOCKS;
    return rows < MIN_BLOCK ? MIN_BLOCK : rows;
}

/* total (c) += the rows of partial (blocks, c) */
static void add_partials(float *total, const float *partial, int64_t blocks, int64_t c)
{
    int threads = cbk_threads(blocks * c);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(c, 64);
        cbk_vector()->add_rows(CB_F32, total + r.begin, partial + r.begin, blocks, r.end - r.begin, c);
    }
}

/* ---- RMS norm ---- */

bool cbk_rms_norm_forward(cb_dtype dtype, void *y, void *rstd, const void *x, const void *weight, cb_dtype weight_dtype, int64_t n,
                          int64_t c, double eps)
{
    void *copy;
    if (!check("rms_norm", dtype, weight, weight_dtype))
        return false;
    const void *w = parameter(weight, weight_dtype, statistics(dtype), c, &copy);
    if (weight && !w)
        return false;
    if (cbk_rehearsed(dtype, n * c))
        n = 0;
    int threads = cbk_threads(n * c * 2);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(n, 1);
        if (dtype == CB_F64)
            cbk_rms_norm_forward_f64(y, rstd, x, w, r.begin, r.end, c, eps);
        else
            cbk_vector()->rms_norm_forward(dtype, y, rstd, x, w, r.begin, r.end, c, (float)eps);
    }
    cb_free(copy);
    return true;
}

bool cbk_rms_norm_backward(cb_dtype dtype, void *dx, bool accumulate, void *dweight, const void *dy, const void *x, const void *weight,
                           cb_dtype weight_dtype, const void *rstd, int64_t n, int64_t c)
{
    void *copy;
    if (!check("rms_norm", dtype, weight, weight_dtype))
        return false;
    const void *w = parameter(weight, weight_dtype, statistics(dtype), c, &copy);
    if (weight && !w)
        return false;
    if (dtype == CB_F64) {
        cbk_rms_norm_backward_f64(dx, accumulate, dweight, dy, x, w, rstd, n, c);
        cb_free(copy);
        return true;
    }
    int64_t rows = block_rows(n), blocks = (n + rows - 1) / rows;
    float *partial = dweight ? cb_calloc((size_t)blocks, (size_t)c * sizeof *partial) : NULL;
    if (dweight && !partial) {
        cb_free(copy);
        return false;
    }
    if (cbk_rehearsed(dtype, n * c))
        blocks = 0;
    int threads = cbk_threads(n * c * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t last = (b + 1) * rows < n ? (b + 1) * rows : n;
        cbk_vector()->rms_norm_backward(dtype, dx, accumulate, partial ? partial + b * c : NULL, dy, x, w, rstd, b * rows, last, c);
    }
    if (dweight && blocks)
        add_partials(dweight, partial, blocks, c);
    cb_free(partial);
    cb_free(copy);
    return true;
}

/* ---- layer norm ---- */

bool cbk_layer_norm_forward(cb_dtype dtype, void *y, void *mean, void *rstd, const void *x, const void *weight, const void *bias,
                            cb_dtype weight_dtype, int64_t n, int64_t c, double eps)
{
    void *copy, *bias_copy;
    if (!check("layer_norm", dtype, weight ? weight : bias, weight_dtype))
        return false;
    const void *w = parameter(weight, weight_dtype, statistics(dtype), c, &copy);
    const void *b = parameter(bias, weight_dtype, statistics(dtype), c, &bias_copy);
    bool ok = (!weight || w) && (!bias || b);
    if (cbk_rehearsed(dtype, n * c))
        n = 0;
    int threads = cbk_threads(n * c * 3);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(ok ? n : 0, 1);
        if (dtype == CB_F64)
            cbk_layer_norm_forward_f64(y, mean, rstd, x, w, b, r.begin, r.end, c, eps);
        else
            cbk_vector()->layer_norm_forward(dtype, y, mean, rstd, x, w, b, r.begin, r.end, c, (float)eps);
    }
    cb_free(copy);
    cb_free(bias_copy);
    return ok;
}

bool cbk_layer_norm_backward(cb_dtype dtype, void *dx, bool accumulate, void *dweight, void *dbias, const void *dy, const void *x,
                             const void *weight, cb_dtype weight_dtype, const void *mean, const void *rstd, int64_t n, int64_t c)
{
    void *copy;
    if (!check("layer_norm", dtype, weight, weight_dtype))
        return false;
    const void *w = parameter(weight, weight_dtype, statistics(dtype), c, &copy);
    if (weight && !w)
        return false;
    if (dtype == CB_F64) {
        cbk_layer_norm_backward_f64(dx, accumulate, dweight, dbias, dy, x, w, mean, rstd, n, c);
        cb_free(copy);
        return true;
    }
    int64_t rows = block_rows(n), blocks = (n + rows - 1) / rows;
    bool sums = dweight || dbias;
    float *partial = sums ? cb_calloc((size_t)blocks * 2, (size_t)c * sizeof *partial) : NULL;
    if (sums && !partial) {
        cb_free(copy);
        return false;
    }
    float *bias_partial = sums ? partial + blocks * c : NULL;
    if (cbk_rehearsed(dtype, n * c))
        blocks = 0;
    int threads = cbk_threads(n * c * 5);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t last = (b + 1) * rows < n ? (b + 1) * rows : n;
        cbk_vector()->layer_norm_backward(dtype, dx, accumulate, dweight ? partial + b * c : NULL, dbias ? bias_partial + b * c : NULL, dy,
                                          x, w, mean, rstd, b * rows, last, c);
    }
    if (dweight && blocks)
        add_partials(dweight, partial, blocks, c);
    if (dbias && blocks)
        add_partials(dbias, bias_partial, blocks, c);
    cb_free(partial);
    cb_free(copy);
    return true;
}

/* ---- softmax ---- */

bool cbk_softmax_forward(cb_dtype dtype, void *y, const void *x, int64_t n, int64_t k, bool log)
{
    if (!check("softmax", dtype, NULL, dtype))
        return false;
    if (cbk_rehearsed(dtype, n * k))
        return true;
    int threads = cbk_threads(n * k * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(k ? n : 0, 1);
        if (dtype == CB_F64)
            cbk_softmax_forward_f64(y, x, r.begin, r.end, k, log);
        else
            cbk_vector()->softmax_forward(dtype, y, x, r.begin, r.end, k, log);
    }
    return true;
}

bool cbk_softmax_backward(cb_dtype dtype, void *dx, const void *dy, const void *y, int64_t n, int64_t k, bool log)
{
    if (!check("softmax", dtype, NULL, dtype))
        return false;
    if (cbk_rehearsed(dtype, n * k))
        return true;
    int threads = cbk_threads(n * k * 4);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(k ? n : 0, 1);
        if (dtype == CB_F64)
            cbk_softmax_backward_f64(dx, dy, y, r.begin, r.end, k, log);
        else
            cbk_vector()->softmax_backward(dtype, dx, dy, y, r.begin, r.end, k, log);
    }
    return true;
}
