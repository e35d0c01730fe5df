/* reduce.c: reductions and running sums over the middle of (outer, reduce, inner).
 *
 * Numbers are accumulated in f32 at least (f64 for f32 sums along contiguous rows, i64 for integers).  A long
 * contiguous row is cut into blocks of fixed length whose results are combined in order, so the bits do not depend on
 * how many threads took part. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

enum { BLOCK = 1 << 15 };

/* ---- whole arrays ---- */

static double sum_block(cb_dtype dtype, const void *x, int64_t begin, int64_t end, bool squares)
{
    if (dtype != CB_F64)
        return cbk_vector()->sum(dtype, (const char *)x + begin * (int64_t)cb_dtype_size(dtype), end - begin, squares);
    double s = 0;
    for (int64_t i = begin; i < end; i++) {
        double a = ((const double *)x)[i];
        s += squares ? a * a : a;
    }
    return s;
}

static double sum_all(cb_dtype dtype, const void *x, int64_t count, bool squares)
{
    enum { PARTS = 256 };
    double part[PARTS], total = 0;
    if (cbk_rehearsed(dtype, count))
        return 0;
    for (int64_t base = 0; base < count; base += (int64_t)PARTS * BLOCK) {
        int64_t left = count - base, blocks = left < (int64_t)PARTS * BLOCK ? (left + BLOCK - 1) / BLOCK : PARTS;
        int threads = cbk_threads(left);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t begin = base + b * BLOCK, end = begin + BLOCK < count ? begin + BLOCK : count;
            part[b] = sum_block(dtype, x, begin, end, squares);
        }
        for (int64_t b = 0; b < blocks; b++)
            total += part[b];
    }
    return total;
}

double cbk_sum_squares(cb_dtype dtype, const void *x, int64_t count)
{
    return sum_all(dtype, x, count, true);
}

double cbk_sum(cb_dtype dtype, const void *x, int64_t count)
{
    return sum_all(dtype, x, count, false);
}

static bool finite_range(cb_dtype dtype, const void *x, int64_t begin, int64_t end)
{
    if (dtype != CB_F64)
        return cbk_vector()->all_finite(dtype, (const char *)x + begin * (int64_t)cb_dtype_size(dtype), end - begin);
    for (int64_t i = begin; i < end; i++)
        if (!isfinite(((const double *)x)[i]))
            return false;
    return true;
}

bool cbk_all_finite(cb_dtype dtype, const void *x, int64_t count)
{
    if (dtype > CB_F64 || cb_rehearsing())
        return true;
    bool finite = true;
    int threads = cbk_threads(count);
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(&& : finite)
    {
        cbk_range r = cbk_share(count, 64);
        finite = finite_range(dtype, x, r.begin, r.end);
    }
    return finite;
}

/* ---- (outer, reduce, inner) ---- */

typedef struct job {
    cbk_reduce_op op;
    void *out;
    const void *x;
    cb_dtype dtype, out_dtype;
    int64_t reduce, inner;
} job;

/* A contiguous piece of x as doubles (floats) or 64-bit integers; wide enough to lose nothing. */
enum { PIECE = 128 };

static bool is_integer(cb_dtype dtype)
{
    return dtype == CB_I32 || dtype == CB_I64;
}

static void combine_f64(cbk_reduce_op op, double *total, double x)
{
    switch (op) {
    case CBK_MAX:
        *total = x != x || x > *total ? x : *total;
        return;
    case CBK_MIN:
        *total = x != x || x < *total ? x : *total;
        return;
    case CBK_PROD:
        *total *= x;
        return;
    default:
        *total += x;
    }
}

static void combine_i64(cbk_reduce_op op, int64_t *total, int64_t x)
{
    switch (op) {
    case CBK_MAX:
        *total = x > *total ? x : *total;
        return;
    case CBK_MIN:
        *total = x < *total ? x : *total;
        return;
    case CBK_PROD:
        *total = (int64_t)((uint64_t)*total * (uint64_t)x);
        return;
    default:
        *total = (int64_t)((uint64_t)*total + (uint64_t)x);
    }
}

/* Columns begin..end-1 (at most PIECE) of outer slice o, all of their rows; `index` is used by argmax and argmin. */
static void reduce_columns(const job *j, int64_t o, int64_t begin, int64_t end)
{
    double total[PIECE], row[PIECE];
    int64_t itotal[PIECE], irow[PIECE], best[PIECE], n = end - begin;
    size_t size = cb_dtype_size(j->dtype), out_size = cb_dtype_size(j->out_dtype);
    bool integer = is_integer(j->dtype), arg = j->op >= CBK_ARGMAX;
    for (int64_t i = 0; i < n; i++) {
        total[i] = j->op == CBK_MAX ? -INFINITY : j->op == CBK_MIN ? INFINITY : j->op == CBK_PROD;
        itotal[i] = j->op == CBK_MAX ? INT64_MIN : j->op == CBK_MIN ? INT64_MAX : j->op == CBK_PROD;
        best[i] = 0;
    }
    for (int64_t r = 0; r < j->reduce; r++) {
        const char *source = (const char *)j->x + (size_t)((o * j->reduce + r) * j->inner + begin) * size;
        cbk_convert(source, j->dtype, integer ? (void *)irow : (void *)row, integer ? CB_I64 : CB_F64, n);
        for (int64_t i = 0; i < n; i++) {
            if (!arg && integer) {
                combine_i64(j->op, &itotal[i], irow[i]);
            } else if (!arg) {
                combine_f64(j->op, &total[i], row[i]);
            } else if (integer) {
                if (r == 0 || (j->op == CBK_ARGMAX ? irow[i] > itotal[i] : irow[i] < itotal[i])) {
                    itotal[i] = irow[i];
                    best[i] = r;
                }
            } else if (r == 0 ||
                       (total[i] == total[i] && (row[i] != row[i] || (j->op == CBK_ARGMAX ? row[i] > total[i] : row[i] < total[i])))) {
                total[i] = row[i];
                best[i] = r;
            }
        }
    }
    for (int64_t i = 0; i < n && j->op == CBK_MEAN; i++)
        total[i] /= (double)j->reduce;
    char *out = (char *)j->out + (size_t)(o * j->inner + begin) * out_size;
    if (arg)
        memcpy(out, best, (size_t)n * sizeof *best);
    else
        cbk_convert(integer ? (const void *)itotal : (const void *)total, integer ? CB_I64 : CB_F64, out, j->out_dtype, n);
}

/* Sum of columns begin..end-1 over the rows of one slice by whole vectors, f32 accumulation over runs of 64 rows,
 * f64 above. */
static void sum_columns(const job *j, int64_t o, int64_t begin, int64_t end)
{
    enum { RUN = 64 };
    float run[PIECE];
    double total[PIECE] = {0};
    int64_t n = end - begin;
    const char *x = (const char *)j->x + (o * j->reduce * j->inner + begin) * (int64_t)cb_dtype_size(j->dtype);
    for (int64_t r = 0; r < j->reduce; r += RUN) {
        memset(run, 0, sizeof run);
        cbk_vector()->add_rows(j->dtype, run, x + r * j->inner * (int64_t)cb_dtype_size(j->dtype),
                               j->reduce - r < RUN ? j->reduce - r : RUN, n, j->inner);
        for (int64_t i = 0; i < n; i++)
            total[i] += (double)run[i];
    }
    for (int64_t i = 0; i < n && j->op == CBK_MEAN; i++)
        total[i] /= (double)j->reduce;
    cbk_convert(total, CB_F64, (char *)j->out + (o * j->inner + begin) * (int64_t)cb_dtype_size(j->out_dtype), j->out_dtype, n);
}

static void arg_row(const job *j, int64_t o)
{
    double row[PIECE], best_value = 0;
    int64_t irow[PIECE], best_integer = 0, best = 0;
    bool integer = is_integer(j->dtype), largest = j->op == CBK_ARGMAX;
    const char *x = (const char *)j->x + o * j->reduce * (int64_t)cb_dtype_size(j->dtype);
    for (int64_t r = 0; r < j->reduce; r += PIECE) {
        int64_t n = j->reduce - r < PIECE ? j->reduce - r : PIECE;
        cbk_convert(x + r * (int64_t)cb_dtype_size(j->dtype), j->dtype, integer ? (void *)irow : (void *)row, integer ? CB_I64 : CB_F64, n);
        for (int64_t i = 0; i < n; i++) {
            bool better;
            if (integer)
                better = largest ? irow[i] > best_integer : irow[i] < best_integer;
            else
                better = best_value == best_value && (row[i] != row[i] || (largest ? row[i] > best_value : row[i] < best_value));
            if (better || r + i == 0) {
                best = r + i;
                best_integer = integer ? irow[i] : 0;
                best_value = integer ? 0 : row[i];
            }
        }
    }
    ((int64_t *)j->out)[o] = best;
}

/* One contiguous row (inner 1). */
static void reduce_row(const job *j, int64_t o)
{
    char *out = (char *)j->out + o * (int64_t)cb_dtype_size(j->out_dtype);
    const char *x = (const char *)j->x + o * j->reduce * (int64_t)cb_dtype_size(j->dtype);
    if (j->op >= CBK_ARGMAX) {
        arg_row(j, o);
        return;
    }
    double total = j->op == CBK_MAX ? -INFINITY : j->op == CBK_MIN ? INFINITY : j->op == CBK_PROD;
    int64_t itotal = j->op == CBK_MAX ? INT64_MIN : j->op == CBK_MIN ? INT64_MAX : j->op == CBK_PROD;
    if (!is_integer(j->dtype) && j->op <= CBK_MEAN) {
        total = sum_all(j->dtype, x, j->reduce, false);
        total = j->op == CBK_MEAN ? total / (double)j->reduce : total;
        cbk_convert(&total, CB_F64, out, j->out_dtype, 1);
        return;
    }
    double row[PIECE];
    int64_t irow[PIECE];
    for (int64_t r = 0; r < j->reduce; r += PIECE) {
        int64_t n = j->reduce - r < PIECE ? j->reduce - r : PIECE;
        const char *source = x + r * (int64_t)cb_dtype_size(j->dtype);
        if (is_integer(j->dtype)) {
            cbk_convert(source, j->dtype, irow, CB_I64, n);
            for (int64_t i = 0; i < n; i++)
                combine_i64(j->op, &itotal, irow[i]);
        } else {
            cbk_convert(source, j->dtype, row, CB_F64, n);
            for (int64_t i = 0; i < n; i++)
                combine_f64(j->op, &total, row[i]);
        }
    }
    if (is_integer(j->dtype))
        cbk_convert(&itotal, CB_I64, out, j->out_dtype, 1);
    else
        cbk_convert(&total, CB_F64, out, j->out_dtype, 1);
}

bool cbk_reduce(cbk_reduce_op op, void *out, cb_dtype out_dtype, const void *x, cb_dtype dtype, int64_t outer, int64_t reduce,
                int64_t inner)
{
    bool arg = op >= CBK_ARGMAX;
    bool fits = arg ? out_dtype == CB_I64 : out_dtype == dtype || (cb_dtype_is_half(dtype) && out_dtype == CB_F32);
    if (dtype > CB_I64 || !fits || (op == CBK_MEAN && is_integer(dtype)))
        return cb_fail(CB_ERR_UNSUPPORTED, "reduction %d of %s into %s is not supported", (int)op, cb_dtype_name(dtype),
                       cb_dtype_name(out_dtype)) == CB_OK;
    if (arg && reduce == 0 && outer * inner > 0)
        return cb_fail(CB_ERR_ARGUMENT, "argmax or argmin of no elements") == CB_OK;
    job j = {op, out, x, dtype, out_dtype, reduce, inner};
    if (!arg && cbk_rehearsed(dtype, outer * reduce * inner)) {
        if (outer * inner == 1)
            memset(out, 0, cb_dtype_size(out_dtype));
        return true;
    }
    bool sums = op <= CBK_MEAN && (dtype == CB_F32 || cb_dtype_is_half(dtype));
    int threads = cbk_threads(outer * reduce * inner * (sums ? 1 : 4));
    if (inner == 1 && outer == 1) { /* one row: shared inside */
        reduce_row(&j, 0);
        return true;
    }
    if (inner == 1) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (int64_t o = 0; o < outer; o++)
            reduce_row(&j, o);
        return true;
    }
    int64_t pieces = (inner + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < outer * pieces; u++) {
        int64_t begin = u % pieces * PIECE, end = begin + PIECE < inner ? begin + PIECE : inner;
        if (sums)
            sum_columns(&j, u / pieces, begin, end);
        else
            reduce_columns(&j, u / pieces, begin, end);
    }
    return true;
}

/* ---- running sums and products ---- */

static void cumulate_columns(cbk_reduce_op op, cb_dtype dtype, char *out, const char *x, int64_t n, int64_t inner, int64_t columns,
                             bool reverse)
{
    double total[PIECE], row[PIECE];
    int64_t itotal[PIECE], irow[PIECE], size = (int64_t)cb_dtype_size(dtype);
    bool integer = is_integer(dtype);
    for (int64_t i = 0; i < columns; i++) {
        total[i] = op == CBK_PROD;
        itotal[i] = op == CBK_PROD;
    }
    for (int64_t r = 0; r < n; r++) {
        int64_t at = (reverse ? n - 1 - r : r) * inner * size;
        cbk_convert(x + at, dtype, integer ? (void *)irow : (void *)row, integer ? CB_I64 : CB_F64, columns);
        for (int64_t i = 0; i < columns; i++) {
            if (integer)
                combine_i64(op, &itotal[i], irow[i]);
            else
                combine_f64(op, &total[i], row[i]);
        }
        cbk_convert(integer ? (const void *)itotal : (const void *)total, integer ? CB_I64 : CB_F64, out + at, dtype, columns);
    }
}

bool cbk_cumulate(cbk_reduce_op op, cb_dtype dtype, void *out, const void *x, int64_t outer, int64_t n, int64_t inner, bool reverse)
{
    if (dtype > CB_I64 || (op != CBK_SUM && op != CBK_PROD))
        return cb_fail(CB_ERR_UNSUPPORTED, "running reduction %d of %s is not supported", (int)op, cb_dtype_name(dtype)) == CB_OK;
    if (cbk_rehearsed(dtype, outer * n * inner))
        return true;
    int64_t pieces = (inner + PIECE - 1) / PIECE, size = (int64_t)cb_dtype_size(dtype);
    int threads = cbk_threads(outer * n * inner * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < outer * pieces; u++) {
        int64_t begin = u % pieces * PIECE, columns = inner - begin < PIECE ? inner - begin : PIECE;
        int64_t at = (u / pieces * n * inner + begin) * size;
        cumulate_columns(op, dtype, (char *)out + at, (const char *)x + at, n, inner, columns, reverse);
    }
    return true;
}
