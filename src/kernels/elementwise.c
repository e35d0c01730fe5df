/* elementwise.c: operations on two (and three) broadcast operands.  Rows whose operands are contiguous or repeat one
 * element go to the vector kernels (f32, bf16, f16); everything else is a plain strided loop. */
#include <math.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/nd.h"
#include "kernels/parallel.h"

typedef struct binary_context {
    cbk_binary_op op;
    cb_dtype dtype;
} binary_context;

/* ---- plain loops ---- */

#define ROW(expression, T)                                                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
        T x = a[i * sa], y = b[i * sb];                                                                                                    \
        out[i * so] = (expression);                                                                                                        \
    }                                                                                                                                      \
    break;

#define DEFINE_COMPARE(T, name)                                                                                                            \
    static void compare_##name(cbk_binary_op op, uint8_t *out, int64_t so, const T *a, int64_t sa, const T *b, int64_t sb, int64_t n)      \
    {                                                                                                                                      \
        switch (op) {                                                                                                                      \
        case CBK_EQ:                                                                                                                       \
            ROW(x == y, T)                                                                                                                 \
        case CBK_NE:                                                                                                                       \
            ROW(x != y, T)                                                                                                                 \
        case CBK_LT:                                                                                                                       \
            ROW(x < y, T)                                                                                                                  \
        case CBK_LE:                                                                                                                       \
            ROW(x <= y, T)                                                                                                                 \
        case CBK_GT:                                                                                                                       \
            ROW(x > y, T)                                                                                                                  \
        default:                                                                                                                           \
            ROW(x >= y, T)                                                                                                                 \
        }                                                                                                                                  \
    }
DEFINE_COMPARE(float, f32)
DEFINE_COMPARE(double, f64)
DEFINE_COMPARE(int32_t, i32)
DEFINE_COMPARE(int64_t, i64)
DEFINE_COMPARE(uint8_t, u8)

static void binary_f32(cbk_binary_op op, float *out, int64_t so, const float *a, int64_t sa, const float *b, int64_t sb, int64_t n)
{
    switch (op) {
    case CBK_ADD:
        ROW(x + y, float)
    case CBK_SUB:
        ROW(x - y, float)
    case CBK_MUL:
        ROW(x * y, float)
    case CBK_DIV:
        ROW(x / y, float)
    case CBK_MAXIMUM:
        ROW(x != x ? x : x > y ? x : y, float)
    case CBK_MINIMUM:
        ROW(x != x ? x : x < y ? x : y, float)
    default:
        ROW(powf(x, y), float)
    }
}

static void binary_f64(cbk_binary_op op, double *out, int64_t so, const double *a, int64_t sa, const double *b, int64_t sb, int64_t n)
{
    switch (op) {
    case CBK_ADD:
        ROW(x + y, double)
    case CBK_SUB:
        ROW(x - y, double)
    case CBK_MUL:
        ROW(x * y, double)
    case CBK_DIV:
        ROW(x / y, double)
    case CBK_MAXIMUM:
        ROW(x != x ? x : x > y ? x : y, double)
    case CBK_MINIMUM:
        ROW(x != x ? x : x < y ? x : y, double)
    default:
        ROW(pow(x, y), double)
    }
}

/* Integer arithmetic wraps around, as unsigned; a power with a negative exponent is 0 but for bases 1 and -1. */
static uint64_t integer_power(int64_t base, int64_t exponent)
{
    if (exponent < 0)
        return base == 1 || (base == -1 && exponent % 2 == 0) ? 1 : base == -1 ? (uint64_t)-1 : 0;
    uint64_t result = 1, b = (uint64_t)base;
    for (; exponent; exponent >>= 1, b *= b)
        if (exponent & 1)
            result *= b;
    return result;
}

static int64_t integer_quotient(int64_t x, int64_t y)
{
    return y == 0 ? 0 : y == -1 ? (int64_t)(0 - (uint64_t)x) : x / y;
}

#define DEFINE_INTEGER(T, U, name)                                                                                                         \
    static void binary_##name(cbk_binary_op op, T *out, int64_t so, const T *a, int64_t sa, const T *b, int64_t sb, int64_t n)             \
    {                                                                                                                                      \
        switch (op) {                                                                                                                      \
        case CBK_ADD:                                                                                                                      \
            ROW((T)((U)x + (U)y), T)                                                                                                       \
        case CBK_SUB:                                                                                                                      \
            ROW((T)((U)x - (U)y), T)                                                                                                       \
        case CBK_MUL:                                                                                                                      \
            ROW((T)((U)x * (U)y), T)                                                                                                       \
        case CBK_DIV:                                                                                                                      \
            ROW((T)integer_quotient(x, y), T)                                                                                              \
        case CBK_MAXIMUM:                                                                                                                  \
            ROW(x > y ? x : y, T)                                                                                                          \
        case CBK_MINIMUM:                                                                                                                  \
            ROW(x < y ? x : y, T)                                                                                                          \
        default:                                                                                                                           \
            ROW((T)integer_power(x, y), T)                                                                                                 \
        }                                                                                                                                  \
    }
DEFINE_INTEGER(int32_t, uint32_t, i32)
DEFINE_INTEGER(int64_t, uint64_t, i64)
DEFINE_INTEGER(uint8_t, uint32_t, u8)

/* ---- rows ---- */

static void plain_row(cbk_binary_op op, cb_dtype dtype, void *out, int64_t so, const void *a, int64_t sa, const void *b, int64_t sb,
                      int64_t n)
{
    bool compare = op >= CBK_EQ;
    switch (dtype) {
    case CB_F32:
        compare ? compare_f32(op, out, so, a, sa, b, sb, n) : binary_f32(op, out, so, a, sa, b, sb, n);
        return;
    case CB_F64:
        compare ? compare_f64(op, out, so, a, sa, b, sb, n) : binary_f64(op, out, so, a, sa, b, sb, n);
        return;
    case CB_I32:
        compare ? compare_i32(op, out, so, a, sa, b, sb, n) : binary_i32(op, out, so, a, sa, b, sb, n);
        return;
    case CB_I64:
        compare ? compare_i64(op, out, so, a, sa, b, sb, n) : binary_i64(op, out, so, a, sa, b, sb, n);
        return;
    default:
        compare ? compare_u8(op, out, so, a, sa, b, sb, n) : binary_u8(op, out, so, a, sa, b, sb, n);
    }
}

/* Half types with awkward strides: a few elements at a time, by way of f32. */
static void half_row(const binary_context *c, char *const p[], const int64_t s[], int64_t n)
{
    enum { PIECE = 64 };
    uint16_t ga[PIECE], gb[PIECE], r[PIECE];
    float fa[PIECE], fb[PIECE], fr[PIECE];
    const cbk_vector_table *vector = cbk_vector();
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = n - i < PIECE ? n - i : PIECE;
        for (int64_t j = 0; j < m; j++) {
            ga[j] = ((const uint16_t *)(void *)p[1])[(i + j) * s[1]];
            gb[j] = ((const uint16_t *)(void *)p[2])[(i + j) * s[2]];
        }
        vector->to_f32(c->dtype, fa, ga, m);
        vector->to_f32(c->dtype, fb, gb, m);
        if (c->op >= CBK_EQ) {
            compare_f32(c->op, (uint8_t *)p[0] + i * s[0], s[0], fa, 1, fb, 1, m);
            continue;
        }
        binary_f32(c->op, fr, 1, fa, 1, fb, 1, m);
        vector->from_f32(c->dtype, r, fr, m);
        for (int64_t j = 0; j < m; j++)
            ((uint16_t *)(void *)p[0])[(i + j) * s[0]] = r[j];
    }
}

static void binary_row(const void *context, char *const p[], const int64_t s[], int64_t n)
{
    const binary_context *c = context;
    bool flat = (s[0] == 1 || n == 1) && (s[1] == 1 || s[1] == 0) && (s[2] == 1 || s[2] == 0);
    if (cbk_is_vector_dtype(c->dtype) && flat && c->op < CBK_EQ)
        cbk_vector()->binary(c->op, c->dtype, p[0], p[1], (int)s[1], p[2], (int)s[2], n);
    else if (cb_dtype_is_half(c->dtype))
        half_row(c, p, s, n);
    else
        plain_row(c->op, c->dtype, p[0], s[0], p[1], s[1], p[2], s[2], n);
}

bool cbk_binary(cbk_binary_op op, cb_dtype dtype, void *out, const int64_t *out_stride, const void *a, const int64_t *a_stride,
                const void *b, const int64_t *b_stride, int ndim, const int64_t *shape)
{
    if ((unsigned)op > CBK_GE || (unsigned)dtype >= CB_DTYPE_COUNT || cb_dtype_is_quantized(dtype))
        return cb_fail(CB_ERR_ARGUMENT, "binary operation %d on dtype %s does not exist", (int)op, cb_dtype_name(dtype)) == CB_OK;
    int64_t size = (int64_t)cb_dtype_size(dtype);
    cbk_nd nd;
    cbk_nd_init(&nd, ndim, shape);
    cbk_nd_add(&nd, out, op >= CBK_EQ ? 1 : size, out_stride);
    cbk_nd_add(&nd, a, size, a_stride);
    cbk_nd_add(&nd, b, size, b_stride);
    if (nd.count == 0 || cbk_rehearsed(dtype, nd.count))
        return true;
    cbk_nd_simplify(&nd);
    cbk_nd_run(&nd, op == CBK_POW ? 32 : 1, binary_row, &(binary_context){op, dtype});
    return true;
}

/* ---- where ---- */

#define WHERE(T)                                                                                                                           \
    {                                                                                                                                      \
        T *out = (T *)(void *)p[0];                                                                                                        \
        const T *a = (const T *)(void *)p[2], *b = (const T *)(void *)p[3];                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                                    \
            out[i * s[0]] = condition[i * s[1]] ? a[i * s[2]] : b[i * s[3]];                                                               \
        break;                                                                                                                             \
    }

static void where_row(const void *context, char *const p[], const int64_t s[], int64_t n)
{
    const uint8_t *condition = (const uint8_t *)p[1];
    switch (*(const int64_t *)context) {
    case 1:
        WHERE(uint8_t)
    case 2:
        WHERE(uint16_t)
    case 4:
        WHERE(uint32_t)
    default:
        WHERE(uint64_t)
    }
}

bool cbk_where(cb_dtype dtype, void *out, const int64_t *out_stride, const void *condition, const int64_t *condition_stride, const void *a,
               const int64_t *a_stride, const void *b, const int64_t *b_stride, int ndim, const int64_t *shape)
{
    int64_t size = (int64_t)cb_dtype_size(dtype);
    if (size == 0)
        return cb_fail(CB_ERR_ARGUMENT, "where: no such dtype (%d)", (int)dtype) == CB_OK;
    cbk_nd nd;
    cbk_nd_init(&nd, ndim, shape);
    cbk_nd_add(&nd, out, size, out_stride);
    cbk_nd_add(&nd, condition, 1, condition_stride);
    cbk_nd_add(&nd, a, size, a_stride);
    cbk_nd_add(&nd, b, size, b_stride);
    if (nd.count == 0 || cbk_rehearsed(dtype, nd.count))
        return true;
    cbk_nd_simplify(&nd);
    cbk_nd_run(&nd, 2, where_row, &size);
    return true;
}
