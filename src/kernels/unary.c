/* unary.c: functions of one contiguous operand, their derivatives, and gated activations.  f32, bf16 and f16 go to the
 * vector kernels; f64 is computed here, one element at a time, from the definitions. */
#include <math.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double normal_cdf(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static double gelu_tanh_argument(double x)
{
    return sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
}

double cbk_unary_value(cbk_unary_op op, double x, double p, double q)
{
    switch (op) {
    case CBK_NEG:
        return -x;
    case CBK_ABS:
        return fabs(x);
    case CBK_SIGN:
        return x > 0 ? 1 : x < 0 ? -1 : x;
    case CBK_FLOOR:
        return floor(x);
    case CBK_CEIL:
        return ceil(x);
    case CBK_ROUND:
        return nearbyint(x);
    case CBK_RECIPROCAL:
        return 1 / x;
    case CBK_SQUARE:
        return x * x;
    case CBK_SQRT:
        return sqrt(x);
    case CBK_RSQRT:
        return 1 / sqrt(x);
    case CBK_EXP:
        return exp(x);
    case CBK_EXPM1:
        return expm1(x);
    case CBK_LOG:
        return log(x);
    case CBK_LOG1P:
        return log1p(x);
    case CBK_SIN:
        return sin(x);
    case CBK_COS:
        return cos(x);
    case CBK_ATAN:
        return atan(x);
    case CBK_ERF:
        return erf(x);
    case CBK_TANH:
        return tanh(x);
    case CBK_SIGMOID:
        return sigmoid(x);
    case CBK_SOFTPLUS:
        return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
    case CBK_RELU:
        return x <= 0 ? 0 : x;
    case CBK_HARD_SWISH:
        return x * (x <= -3 ? 0 : x >= 3 ? 1 : (x + 3) / 6);
    case CBK_SILU:
        return x * sigmoid(x);
    case CBK_GELU:
        return x * normal_cdf(x);
    case CBK_GELU_TANH:
        return 0.5 * x * (1 + tanh(gelu_tanh_argument(x)));
    case CBK_SCALE:
        return p * x;
    case CBK_ADD_SCALAR:
        return x + p;
    case CBK_AFFINE:
        return p * x + q;
    case CBK_POW_SCALAR:
        return pow(x, p);
    case CBK_CLAMP:
        return x < p ? p : x > q ? q : x;
    }
    return NAN;
}

double cbk_unary_slope(cbk_unary_op op, double x, double p, double q)
{
    switch (op) {
    case CBK_NEG:
        return -1;
    case CBK_ABS:
        return x > 0 ? 1 : x < 0 ? -1 : 0;
    case CBK_SIGN:
    case CBK_FLOOR:
    case CBK_CEIL:
    case CBK_ROUND:
        return 0;
    case CBK_RECIPROCAL:
        return -1 / (x * x);
    case CBK_SQUARE:
        return 2 * x;
    case CBK_SQRT:
        return 0.5 / sqrt(x);
    case CBK_RSQRT:
        return -0.5 / (x * sqrt(x));
    case CBK_EXP:
    case CBK_EXPM1:
        return exp(x);
    case CBK_LOG:
        return 1 / x;
    case CBK_LOG1P:
        return 1 / (1 + x);
    case CBK_SIN:
        return cos(x);
    case CBK_COS:
        return -sin(x);
    case CBK_ATAN:
        return 1 / (1 + x * x);
    case CBK_ERF:
        return M_2_SQRTPI * exp(-x * x);
    case CBK_TANH: {
        double t = tanh(x);
        return 1 - t * t;
    }
    case CBK_SIGMOID:
        return sigmoid(x) * sigmoid(-x);
    case CBK_SOFTPLUS:
        return sigmoid(x);
    case CBK_RELU:
        return x > 0;
    case CBK_HARD_SWISH:
        return x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5;
    case CBK_SILU: {
        double s = sigmoid(x);
        return s * (1 + x * (1 - s));
    }
    case CBK_GELU:
        return normal_cdf(x) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case CBK_GELU_TANH: {
        double t = tanh(gelu_tanh_argument(x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    }
    case CBK_SCALE:
    case CBK_AFFINE:
        return p;
    case CBK_ADD_SCALAR:
        return 1;
    case CBK_POW_SCALAR:
        return p == 0 ? 0 : p * pow(x, p - 1);
    case CBK_CLAMP:
        return x >= p && x <= q;
    }
    return NAN;
}

/* ---- dispatch ---- */

static bool refuse(const char *what, cb_dtype dtype)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: dtype %s is not supported", what, cb_dtype_name(dtype)) == CB_OK;
}

/* Rough cost of an element in simple operations, for the choice of threads. */
static int64_t cost_of(cbk_unary_op op, cb_dtype dtype)
{
    if (dtype == CB_F64)
        return 40;
    return op >= CBK_EXP && op <= CBK_GELU_TANH ? 8 : op == CBK_POW_SCALAR ? 100 : 1;
}

static int64_t integer_value(cbk_unary_op op, int64_t x, double p, double q)
{
    switch (op) {
    case CBK_NEG:
        return (int64_t)(0 - (uint64_t)x);
    case CBK_ABS:
        return x < 0 ? (int64_t)(0 - (uint64_t)x) : x;
    case CBK_SIGN:
        return (x > 0) - (x < 0);
    case CBK_SQUARE:
        return (int64_t)((uint64_t)x * (uint64_t)x);
    case CBK_RELU:
        return x > 0 ? x : 0;
    default: {
        double y = cbk_unary_value(op, (double)x, p, q);
        int64_t r;
        cbk_convert(&y, CB_F64, &r, CB_I64, 1);
        return r;
    }
    }
}

static void integer_range(cbk_unary_op op, cb_dtype dtype, void *y, const void *x, int64_t begin, int64_t end, double p, double q)
{
    for (int64_t i = begin; i < end; i++)
        if (dtype == CB_I32)
            ((int32_t *)y)[i] = (int32_t)integer_value(op, ((const int32_t *)x)[i], p, q);
        else
            ((int64_t *)y)[i] = integer_value(op, ((const int64_t *)x)[i], p, q);
}

bool cbk_unary(cbk_unary_op op, cb_dtype dtype, void *y, const void *x, int64_t count, double p, double q)
{
    bool integer = (dtype == CB_I32 || dtype == CB_I64) && (op <= CBK_SIGN || op == CBK_SQUARE || op == CBK_RELU || op == CBK_SCALE ||
                                                            op == CBK_ADD_SCALAR || op == CBK_AFFINE || op == CBK_CLAMP);
    if (!cbk_is_vector_dtype(dtype) && dtype != CB_F64 && !integer)
        return refuse("unary operation", dtype);
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cbk_rehearsed(dtype, count))
        return true;
    int threads = cbk_threads(count * cost_of(op, dtype));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, 64);
        if (cbk_is_vector_dtype(dtype))
            cbk_vector()->unary(op, dtype, (char *)y + r.begin * size, (const char *)x + r.begin * size, r.end - r.begin, (float)p,
                                (float)q);
        else if (integer)
            integer_range(op, dtype, y, x, r.begin, r.end, p, q);
        else
            for (int64_t i = r.begin; i < r.end; i++)
                ((double *)y)[i] = cbk_unary_value(op, ((const double *)x)[i], p, q);
    }
    return true;
}

static void slope_f64(cbk_unary_op op, double *dx, const double *dy, const double *x, cbk_range r, double p, double q, bool accumulate)
{
    for (int64_t i = r.begin; i < r.end; i++) {
        double g = dy[i] * cbk_unary_slope(op, x[i], p, q);
        dx[i] = accumulate ? dx[i] + g : g;
    }
}

bool cbk_unary_backward(cbk_unary_op op, cb_dtype dtype, void *dx, const void *dy, const void *x, int64_t count, double p, double q,
                        bool accumulate)
{
    if (!cbk_is_vector_dtype(dtype) && dtype != CB_F64)
        return refuse("unary derivative", dtype);
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cbk_rehearsed(dtype, count))
        return true;
    int threads = cbk_threads(count * cost_of(op, dtype));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, 64);
        if (cbk_is_vector_dtype(dtype))
            cbk_vector()->unary_backward(op, dtype, (char *)dx + r.begin * size, (const char *)dy + r.begin * size,
                                         (const char *)x + r.begin * size, r.end - r.begin, (float)p, (float)q, accumulate);
        else
            slope_f64(op, dx, dy, x, r, p, q, accumulate);
    }
    return true;
}

void cbk_axpby(cb_dtype dtype, void *y, double alpha, const void *x, double beta, int64_t count)
{
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cbk_rehearsed(dtype, count))
        return;
    int threads = cbk_threads(count);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, 64);
        if (dtype == CB_F64)
            for (int64_t i = r.begin; i < r.end; i++) {
                double scaled = alpha * ((const double *)x)[i];
                ((double *)y)[i] = beta == 0 ? scaled : scaled + beta * ((double *)y)[i];
            }
        else
            cbk_vector()->axpby(dtype, (char *)y + r.begin * size, (float)alpha, (const char *)x + r.begin * size, (float)beta,
                                r.end - r.begin);
    }
}

/* ---- gated activations ---- */

bool cbk_gated_forward(cbk_unary_op op, cb_dtype dtype, void *y, const void *gate, const void *up, int64_t count)
{
    if (!cbk_is_vector_dtype(dtype) && dtype != CB_F64)
        return refuse("gated activation", dtype);
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cbk_rehearsed(dtype, count))
        return true;
    int threads = cbk_threads(count * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, 64);
        int64_t at = r.begin * size;
        if (dtype == CB_F64)
            for (int64_t i = r.begin; i < r.end; i++)
                ((double *)y)[i] = cbk_unary_value(op, ((const double *)gate)[i], 0, 0) * ((const double *)up)[i];
        else
            cbk_vector()->gated_forward(op, dtype, (char *)y + at, (const char *)gate + at, (const char *)up + at, r.end - r.begin);
    }
    return true;
}

static void gated_backward_f64(cbk_unary_op op, double *dgate, double *dup, const double *dy, const double *gate, const double *up,
                               cbk_range r)
{
    for (int64_t i = r.begin; i < r.end; i++) {
        double g = dy[i], x = gate[i], u = up[i];
        if (dgate)
            dgate[i] = g * u * cbk_unary_slope(op, x, 0, 0);
        if (dup)
            dup[i] = g * cbk_unary_value(op, x, 0, 0);
    }
}

bool cbk_gated_backward(cbk_unary_op op, cb_dtype dtype, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                        int64_t count)
{
    if (!cbk_is_vector_dtype(dtype) && dtype != CB_F64)
        return refuse("gated activation", dtype);
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (cbk_rehearsed(dtype, count))
        return true;
    int threads = cbk_threads(count * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        cbk_range r = cbk_share(count, 64);
        int64_t at = r.begin * size;
        if (dtype == CB_F64)
            gated_backward_f64(op, dgate, dup, dy, gate, up, r);
        else
            cbk_vector()->gated_backward(op, dtype, dgate ? (char *)dgate + at : NULL, dup ? (char *)dup + at : NULL, (const char *)dy + at,
                                         (const char *)gate + at, (const char *)up + at, r.end - r.begin);
    }
    return true;
}
