/* cross_entropy.c: cross-entropy over logits that are given, or made a chunk of rows at a time from hidden states and
 * the output projection.
 *
 * Fused form: rows whose target is ignored are left out before the product.  For a chunk of the others: logits = X W^T
 * + bias in f32, loss and gradient of each row in place (in the products' dtype, trailing behind the logits it is made
 * of), dX = dlogits W, dW += dlogits^T X.  Nothing of size (N, V) exists.  N rows, C channels, V vocabulary. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

/* Of logits.  Every chunk reads W twice: with V = 32000, 16 MiB chunks (128 rows) cost 3 to 8 % of a whole step; larger ones than these
 * gain nothing. */
enum { CHUNK_BYTES = 24 << 20, MIN_CHUNK_ROWS = 16, MAX_CHUNK_ROWS = 512 };

static int64_t target_at(const void *targets, cb_dtype dtype, int64_t i)
{
    return dtype == CB_I32 ? ((const int32_t *)targets)[i] : ((const int64_t *)targets)[i];
}

static bool check_targets(const void *targets, cb_dtype dtype, int64_t n, int64_t v, int64_t ignore_index, int64_t *count)
{
    if (dtype != CB_I32 && dtype != CB_I64)
        return cb_fail(CB_ERR_SHAPE, "cross_entropy: targets are %s, expected i32 or i64", cb_dtype_name(dtype)) == CB_OK;
    *count = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = target_at(targets, dtype, i);
        if (t == ignore_index)
            continue;
        if ((t < 0 || t >= v) && !cb_rehearsing()) /* where targets that are computed are any numbers */
            return cb_fail(CB_ERR_ARGUMENT, "cross_entropy: target %lld of row %lld is outside 0..%lld and is not ignore_index %lld",
                           (long long)t, (long long)i, (long long)v - 1, (long long)ignore_index) == CB_OK;
        ++*count;
    }
    return true;
}

static double row_f64(const cbk_cross_entropy_row *row, double gradient_scale, double smoothing, const double *x, double *dx)
{
    double m = -INFINITY, s = 0, sum = 0, v = (double)row->v;
    for (int64_t i = 0; i < row->v; i++)
        m = x[i] > m ? x[i] : m;
    for (int64_t i = 0; i < row->v; i++) {
        s += exp(x[i] - m);
        sum += x[i];
    }
    double log_sum = m + log(s), loss = log_sum - (1 - smoothing) * x[row->target] - smoothing * sum / v;
    for (int64_t i = 0; dx && i < row->v; i++)
        dx[i] = (exp(x[i] - log_sum) - (i == row->target ? 1 - smoothing : 0) - smoothing / v) * gradient_scale;
    return loss;
}

/* ---- given logits ---- */

static double given_row(const cbk_cross_entropy_args *a, int64_t i, double scale)
{
    int64_t size = (int64_t)cb_dtype_size(a->dtype), target = target_at(a->targets, a->target_dtype, i);
    const char *x = (const char *)a->logits + i * a->v * size;
    char *dx = a->dlogits ? (char *)a->dlogits + i * a->v * size : NULL;
    if (target == a->ignore_index) {
        if (dx)
            memset(dx, 0, (size_t)(a->v * size));
        return 0;
    }
    cbk_cross_entropy_row row = {a->v, target, (float)a->label_smoothing, (float)scale};
    if (a->dtype == CB_F64)
        return row_f64(&row, scale, a->label_smoothing, (const void *)x, (void *)dx);
    return cbk_vector()->cross_entropy(&row, a->dtype, x, a->dtype, dx);
}

bool cbk_cross_entropy(cbk_cross_entropy_args *a)
{
    a->loss_sum = 0;
    if (a->dtype > CB_F64)
        return cb_fail(CB_ERR_UNSUPPORTED, "cross_entropy: logits are %s, expected a float dtype", cb_dtype_name(a->dtype)) == CB_OK;
    if (!check_targets(a->targets, a->target_dtype, a->n, a->v, a->ignore_index, &a->count))
        return false;
    double scale = a->gradient_scale / (a->mean && a->count ? (double)a->count : 1);
    double *losses = cb_alloc((size_t)a->n * sizeof *losses);
    if (!losses)
        return false;
    if (cbk_rehearsed(a->dtype, a->n * a->v)) {
        cb_free(losses);
        return true;
    }
    int threads = cbk_threads(a->n * a->v * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < a->n; i++)
        losses[i] = given_row(a, i, scale);
    for (int64_t i = 0; i < a->n; i++) {
        a->loss_sum += losses[i];
        if (a->row_loss)
            a->row_loss[i] = (float)losses[i];
    }
    cb_free(losses);
    return true;
}

/* ---- fused with the projection ---- */

typedef struct fused {
    cbk_linear_cross_entropy_args *a;
    cb_dtype logits_dtype, gradient_dtype;
    double scale;
    int64_t chunk_rows;
    const int64_t *row; /* the rows that count */
    void *logits;       /* (chunk_rows, V), or bytes of as many */
    void *x;            /* (chunk_rows, C) of the chunk, when rows had to be collected */
    void *dx;
    double *losses;
} fused;

static int64_t bytes_of(cb_dtype dtype, int64_t count)
{
    return count * (int64_t)cb_dtype_size(dtype);
}

/* The chunk's hidden states: where they lie when no ignored row is between them. */
static const void *chunk_input(const fused *f, int64_t first, int64_t n, bool *in_place)
{
    const cbk_linear_cross_entropy_args *a = f->a;
    *in_place = f->row[first + n - 1] - f->row[first] == n - 1;
    if (cb_rehearsing())
        return f->x ? f->x : a->x;
    if (*in_place)
        return (const char *)a->x + bytes_of(a->x_dtype, f->row[first] * a->c);
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)f->x + bytes_of(a->x_dtype, i * a->c), (const char *)a->x + bytes_of(a->x_dtype, f->row[first + i] * a->c),
               (size_t)bytes_of(a->x_dtype, a->c));
    return f->x;
}

static void chunk_losses(const fused *f, int64_t first, int64_t n, bool gradients)
{
    const cbk_linear_cross_entropy_args *a = f->a;
    if (cb_rehearsing())
        return;
    int threads = cbk_threads(n * a->v * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        char *logits = (char *)f->logits + bytes_of(f->logits_dtype, i * a->v);
        int64_t target = target_at(a->targets, a->target_dtype, f->row[first + i]);
        cbk_cross_entropy_row row = {a->v, target, (float)a->label_smoothing, (float)f->scale};
        if (f->logits_dtype == CB_F64)
            f->losses[first + i] = row_f64(&row, f->scale, a->label_smoothing, (void *)logits, gradients ? (void *)logits : NULL);
        else
            f->losses[first + i] = cbk_vector()->cross_entropy(&row, CB_F32, logits, f->gradient_dtype, gradients ? logits : NULL);
    }
}

static bool chunk_dx(const fused *f, int64_t first, int64_t n, int64_t ld, bool in_place)
{
    const cbk_linear_cross_entropy_args *a = f->a;
    char *to = in_place ? (char *)a->dx + bytes_of(a->x_dtype, f->row[first] * a->c) : f->dx;
    cbk_gemm_args g = {.m = n,
                       .n = a->c,
                       .k = a->v,
                       .a = f->logits,
                       .lda = ld,
                       .a_dtype = f->gradient_dtype,
                       .b = a->w,
                       .ldb = a->c,
                       .b_dtype = a->w_dtype,
                       .c = to,
                       .ldc = a->c,
                       .c_dtype = a->x_dtype,
                       .alpha = 1,
                       .batch = 1};
    if (!cbk_gemm(&g))
        return false;
    for (int64_t i = 0; !in_place && i < n && !cb_rehearsing(); i++)
        memcpy((char *)a->dx + bytes_of(a->x_dtype, f->row[first + i] * a->c), to + bytes_of(a->x_dtype, i * a->c),
               (size_t)bytes_of(a->x_dtype, a->c));
    return true;
}

static void chunk_dbias(const fused *f, int64_t n, int64_t ld)
{
    float *dbias = f->a->dbias;
    if (cb_rehearsing())
        return;
    if (f->gradient_dtype != CB_F64) {
        cbk_vector()->add_rows(f->gradient_dtype, dbias, f->logits, n, f->a->v, ld);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < f->a->v; j++)
            dbias[j] += (float)((const double *)f->logits)[i * ld + j];
}

static bool run_chunk(const fused *f, int64_t first, int64_t n)
{
    const cbk_linear_cross_entropy_args *a = f->a;
    bool in_place, gradients = a->dx || a->dw || a->dbias;
    const void *x = chunk_input(f, first, n, &in_place);
    cbk_gemm_args g = {.m = n,
                       .n = a->v,
                       .k = a->c,
                       .a = x,
                       .lda = a->c,
                       .a_dtype = a->x_dtype,
                       .b = a->w,
                       .ldb = a->c,
                       .b_dtype = a->w_dtype,
                       .transb = true,
                       .c = f->logits,
                       .ldc = a->v,
                       .c_dtype = f->logits_dtype,
                       .alpha = 1,
                       .bias = a->bias,
                       .bias_dtype = a->bias_dtype,
                       .batch = 1};
    if (!cbk_gemm(&g))
        return false;
    chunk_losses(f, first, n, gradients);
    /* the gradient of row i begins where its logits began */
    int64_t ld = a->v * (int64_t)(cb_dtype_size(f->logits_dtype) / cb_dtype_size(f->gradient_dtype));
    if (a->dx && !chunk_dx(f, first, n, ld, in_place))
        return false;
    if (a->dbias)
        chunk_dbias(f, n, ld);
    if (!a->dw)
        return true;
    cbk_gemm_args w = {.m = a->v,
                       .n = a->c,
                       .k = n,
                       .a = f->logits,
                       .lda = ld,
                       .transa = true,
                       .a_dtype = f->gradient_dtype,
                       .b = x,
                       .ldb = a->c,
                       .b_dtype = a->x_dtype,
                       .c = a->dw,
                       .ldc = a->c,
                       .c_dtype = a->dw_dtype,
                       .alpha = 1,
                       .beta = 1,
                       .batch = 1};
    return cbk_gemm(&w);
}

static int64_t rows_per_chunk(cb_dtype dtype, int64_t v, int64_t count)
{
    int64_t rows = CHUNK_BYTES / (v > 0 ? bytes_of(dtype, v) : 1) / 16 * 16;
    rows = rows < MIN_CHUNK_ROWS ? MIN_CHUNK_ROWS : rows > MAX_CHUNK_ROWS ? MAX_CHUNK_ROWS : rows;
    if (rows >= count)
        return count;
    int64_t chunks = (count + rows - 1) / rows; /* equal chunks need one primitive where a remainder would need two */
    return ((count + chunks - 1) / chunks + 15) / 16 * 16;
}

static bool collect_rows(const cbk_linear_cross_entropy_args *a, int64_t *row)
{
    int64_t n = 0;
    for (int64_t i = 0; i < a->n; i++)
        if (target_at(a->targets, a->target_dtype, i) != a->ignore_index)
            row[n++] = i;
        else if (a->dx && !cb_rehearsing())
            memset((char *)a->dx + bytes_of(a->x_dtype, i * a->c), 0, (size_t)bytes_of(a->x_dtype, a->c));
    return n == a->n; /* nothing ignored */
}

bool cbk_linear_cross_entropy(cbk_linear_cross_entropy_args *a)
{
    a->loss_sum = 0;
    bool quantized = cb_dtype_is_quantized(a->w_dtype);
    bool floats = a->x_dtype <= CB_F64 && (quantized || a->w_dtype <= CB_F64);
    if (!floats || (a->x_dtype == CB_F64) != (a->w_dtype == CB_F64))
        return cb_fail(CB_ERR_UNSUPPORTED, "cross_entropy: x %s with w %s is not supported", cb_dtype_name(a->x_dtype),
                       cb_dtype_name(a->w_dtype)) == CB_OK;
    if (!check_targets(a->targets, a->target_dtype, a->n, a->v, a->ignore_index, &a->count))
        return false;
    bool f64 = a->x_dtype == CB_F64, bf16 = a->x_dtype == CB_BF16;
    fused f = {.a = a,
               .logits_dtype = f64 ? CB_F64 : CB_F32,
               .gradient_dtype = f64    ? CB_F64
                                 : bf16 ? CB_BF16
                                        : CB_F32,
               .scale = a->gradient_scale / (a->mean && a->count ? (double)a->count : 1)};
    f.chunk_rows = rows_per_chunk(f.logits_dtype, a->v, a->count);
    int64_t *row = cb_alloc((size_t)a->n * sizeof *row);
    f.losses = cb_calloc((size_t)a->count + 1, sizeof *f.losses);
    f.logits = cb_alloc((size_t)bytes_of(f.logits_dtype, f.chunk_rows * a->v));
    bool ok = row && f.losses && f.logits;
    if (ok && !collect_rows(a, row)) {
        f.x = cb_alloc((size_t)bytes_of(a->x_dtype, f.chunk_rows * a->c));
        f.dx = cb_alloc((size_t)bytes_of(a->x_dtype, f.chunk_rows * a->c));
        ok = f.x && f.dx;
    }
    f.row = row;
    for (int64_t first = 0; ok && first < a->count; first += f.chunk_rows)
        ok = run_chunk(&f, first, a->count - first < f.chunk_rows ? a->count - first : f.chunk_rows);
    if (ok && a->row_loss && !cb_rehearsing())
        memset(a->row_loss, 0, (size_t)a->n * sizeof *a->row_loss);
    for (int64_t i = 0; ok && i < a->count; i++) {
        a->loss_sum += f.losses[i];
        if (a->row_loss && !cb_rehearsing())
            a->row_loss[row[i]] = (float)f.losses[i];
    }
    cb_free(row);
    cb_free(f.losses);
    cb_free(f.logits);
    cb_free(f.x);
    cb_free(f.dx);
    return ok;
}
