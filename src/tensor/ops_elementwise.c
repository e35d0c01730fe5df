/* ops_elementwise.c: arithmetic and comparisons of two broadcast operands.
 *
 * Dtypes of two operands.  They must be equal, but for a 0-d operand, which is converted to the other's dtype; a 0-d floating-point number
 * beside an array of integers is refused, because converting it would drop its fraction silently.  Of two 0-d operands the later in
 * bool, u8, i32, i64, f16, bf16, f32, f64 decides.  Integers are computed on wherever the kernels can (a quotient truncates); they have no
 * gradient.  Booleans can be multiplied, compared and given to maximum and minimum.  Every rule can be differentiated again. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tensor/op.h"

/* ---- two operands ---- */

/* Where a 0-d operand meets another 0-d one, the later of the two decides. */
static int dtype_rank(cb_dtype dtype)
{
    static const int rank[CB_DTYPE_COUNT] = {
        [CB_BOOL] = 0, [CB_U8] = 1, [CB_I32] = 2, [CB_I64] = 3, [CB_F16] = 4, [CB_BF16] = 5, [CB_F32] = 6, [CB_F64] = 7};
    return rank[dtype];
}

static bool mismatch(const char *op, const cb_tensor *a, const cb_tensor *b)
{
    return cb_fail(CB_ERR_SHAPE, "%s: %s and %s: expected one dtype", op, cb_shape_text(a), cb_shape_text(b)) == CB_OK;
}

/* Converts a 0-d operand to the other's dtype. */
static bool match_dtypes(const char *op, cb_tensor **a, cb_tensor **b)
{
    cb_tensor *x = *a, *y = *b;
    if (x->dtype == y->dtype)
        return true;
    bool convert_a = x->ndim == 0 && (y->ndim > 0 || dtype_rank(x->dtype) < dtype_rank(y->dtype));
    cb_tensor **scalar = convert_a ? a : b, *other = convert_a ? y : x;
    if ((*scalar)->ndim > 0 || (cb_dtype_is_float((*scalar)->dtype) && !cb_dtype_is_float(other->dtype)))
        return mismatch(op, x, y);
    *scalar = cb_cast(*scalar, other->dtype);
    return *scalar;
}

/* Strides of t in a larger index space: 0 where it is repeated. */
static void broadcast_strides(const cb_tensor *t, int ndim, const int64_t *shape, int64_t *stride)
{
    for (int i = 0; i < ndim; i++) {
        int own = i - (ndim - t->ndim);
        stride[i] = own >= 0 && t->shape[own] == shape[i] ? t->stride[own] : 0;
    }
}

/* A result in the order of the operand that has its whole shape. */
static cb_tensor *empty_between(cb_dtype dtype, int ndim, const int64_t *shape, const cb_tensor *a, const cb_tensor *b)
{
    for (int i = 0; i < 2; i++) {
        const cb_tensor *x = i ? b : a;
        if (x->ndim == ndim && memcmp(x->shape, shape, (size_t)ndim * sizeof *shape) == 0 && cb_is_channels_last(x))
            return cb_empty_channels_last(dtype, ndim, shape);
    }
    return cb_empty_nd(dtype, ndim, shape);
}

static cb_tensor *combine(const char *op, cbk_binary_op kernel, const cb_tensor *a, const cb_tensor *b)
{
    int ndim;
    int64_t shape[CB_MAX_DIMS], sa[CB_MAX_DIMS], sb[CB_MAX_DIMS];
    if (!cb_broadcast_shape(op, a, b, &ndim, shape))
        return NULL;
    cb_tensor *y = empty_between(kernel >= CBK_EQ ? CB_BOOL : a->dtype, ndim, shape, a, b);
    if (!y)
        return NULL;
    broadcast_strides(a, ndim, shape, sa);
    broadcast_strides(b, ndim, shape, sb);
    return cbk_binary(kernel, a->dtype, y->data, y->stride, a->data, sa, b->data, sb, ndim, shape) ? y : NULL;
}

/* Sums and quotients of booleans would leave 0 and 1. */
static bool refuse_bool(const char *op, const cb_tensor *a)
{
    if (a->dtype != CB_BOOL)
        return true;
    return cb_fail(CB_ERR_SHAPE, "%s: %s: expected numbers", op, cb_shape_text(a)) == CB_OK;
}

/* The gradient of input i, which may have been repeated. */
static cb_tensor *unbroadcast(const cb_backward_pass *pass, int i, cb_tensor *dx)
{
    return cb_sum_to_nd(dx, pass->input[i].ndim, pass->input[i].shape);
}

static void add_backward(cb_backward_pass *pass)
{
    for (int i = 0; i < 2; i++)
        if (pass->need[i])
            pass->dx[i] = unbroadcast(pass, i, pass->dy[0]);
}

static void sub_backward(cb_backward_pass *pass)
{
    if (pass->need[0])
        pass->dx[0] = unbroadcast(pass, 0, pass->dy[0]);
    if (pass->need[1])
        pass->dx[1] = cb_neg(unbroadcast(pass, 1, pass->dy[0]));
}

static void mul_backward(cb_backward_pass *pass)
{
    for (int i = 0; i < 2; i++)
        if (pass->need[i])
            pass->dx[i] = unbroadcast(pass, i, cb_mul(pass->dy[0], pass->saved[1 - i]));
}

/* d(a/b) = da / b - a db / b^2; the divisions one after the other, for b^2 may overflow */
static void div_backward(cb_backward_pass *pass)
{
    cb_tensor *a = pass->saved[0], *b = pass->saved[1], *quotient = cb_div(pass->dy[0], b);
    if (pass->need[0])
        pass->dx[0] = unbroadcast(pass, 0, quotient);
    if (pass->need[1])
        pass->dx[1] = cb_neg(unbroadcast(pass, 1, cb_mul(quotient, cb_div(a, b))));
}

/* a, but 1 where it is zero and `replace` holds: keeps infinities out of products whose other factor is 0. */
static cb_tensor *without_zeros(cb_tensor *a, cb_tensor *replace)
{
    cb_tensor *one = cb_scalar(a->dtype, 1);
    return cb_where(cb_mul(cb_eq(a, cb_scalar(a->dtype, 0)), replace), one, a);
}

/* d(a^b) = b a^(b-1) da + a^b log(a) db.  0^0 has the slopes 0 and 0, and so has 0^b with b > 0 towards b. */
static void pow_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0], *a = pass->saved[0], *b = pass->saved[1], *y = pass->saved[2];
    cb_tensor *zero = cb_scalar(a->dtype, 0);
    if (pass->need[0]) {
        cb_tensor *base = without_zeros(a, cb_eq(b, zero));
        pass->dx[0] = unbroadcast(pass, 0, cb_mul(dy, cb_mul(b, cb_pow(base, cb_add_scalar(b, -1)))));
    }
    if (pass->need[1]) {
        cb_tensor *base = without_zeros(a, cb_ge(b, zero));
        pass->dx[1] = unbroadcast(pass, 1, cb_mul(dy, cb_mul(y, cb_log(base))));
    }
}

/* `loses` holds where an operand was not chosen; where both are equal each gets half. */
static void choice_backward(cb_backward_pass *pass, cb_tensor *(*loses)(cb_tensor *, cb_tensor *))
{
    cb_tensor *dy = pass->dy[0], *zero = cb_scalar(dy->dtype, 0);
    cb_tensor *shared = cb_where(cb_eq(pass->saved[0], pass->saved[1]), cb_scale(dy, 0.5), dy);
    for (int i = 0; i < 2; i++)
        if (pass->need[i])
            pass->dx[i] = unbroadcast(pass, i, cb_where(loses(pass->saved[i], pass->saved[1 - i]), zero, shared));
}

static void maximum_backward(cb_backward_pass *pass)
{
    choice_backward(pass, cb_lt);
}

static void minimum_backward(cb_backward_pass *pass)
{
    choice_backward(pass, cb_gt);
}

const cb_op cb_op_add = {.name = "add", .twice = true, .backward = add_backward};
const cb_op cb_op_sub = {.name = "sub", .twice = true, .backward = sub_backward};
const cb_op cb_op_mul = {.name = "mul", .twice = true, .backward = mul_backward};
const cb_op cb_op_div = {.name = "div", .twice = true, .backward = div_backward};
const cb_op cb_op_pow = {.name = "pow", .twice = true, .backward = pow_backward};
const cb_op cb_op_maximum = {.name = "maximum", .twice = true, .backward = maximum_backward};
const cb_op cb_op_minimum = {.name = "minimum", .twice = true, .backward = minimum_backward};

cb_tensor *cb_add(cb_tensor *a, cb_tensor *b)
{
    if (!a || !b || !match_dtypes("add", &a, &b) || !refuse_bool("add", a))
        return NULL;
    cb_tensor *y = combine("add", CBK_ADD, a, b), *ins[] = {a, b};
    return y && cb_record(&cb_op_add, 1, &y, 2, ins, 0, NULL, NULL, 0) ? y : NULL;
}

cb_tensor *cb_sub(cb_tensor *a, cb_tensor *b)
{
    if (!a || !b || !match_dtypes("sub", &a, &b) || !refuse_bool("sub", a))
        return NULL;
    cb_tensor *y = combine("sub", CBK_SUB, a, b), *ins[] = {a, b};
    return y && cb_record(&cb_op_sub, 1, &y, 2, ins, 0, NULL, NULL, 0) ? y : NULL;
}

cb_tensor *cb_mul(cb_tensor *a, cb_tensor *b)
{
    if (!a || !b || !match_dtypes("mul", &a, &b))
        return NULL;
    cb_tensor *y = combine("mul", CBK_MUL, a, b), *ins[] = {a, b};
    cb_tensor *saves[] = {b->requires_grad ? a : NULL, a->requires_grad ? b : NULL};
    return y && CB_RECORD(&cb_op_mul, y, ins, saves, NULL, 0) ? y : NULL;
}

cb_tensor *cb_div(cb_tensor *a, cb_tensor *b)
{
    if (!a || !b || !match_dtypes("div", &a, &b) || !refuse_bool("div", a))
        return NULL;
    cb_tensor *y = combine("div", CBK_DIV, a, b), *ins[] = {a, b};
    cb_tensor *saves[] = {b->requires_grad ? a : NULL, b};
    return y && CB_RECORD(&cb_op_div, y, ins, saves, NULL, 0) ? y : NULL;
}

cb_tensor *cb_pow(cb_tensor *a, cb_tensor *b)
{
    if (!a || !b || !match_dtypes("pow", &a, &b) || !refuse_bool("pow", a))
        return NULL;
    cb_tensor *y = combine("pow", CBK_POW, a, b), *ins[] = {a, b};
    cb_tensor *saves[] = {a, b, b->requires_grad ? y : NULL};
    return y && CB_RECORD(&cb_op_pow, y, ins, saves, NULL, 0) ? y : NULL;
}

static cb_tensor *choose(const cb_op *op, cbk_binary_op kernel, cb_tensor *a, cb_tensor *b)
{
    if (!a || !b || !match_dtypes(op->name, &a, &b))
        return NULL;
    cb_tensor *y = combine(op->name, kernel, a, b), *ins[] = {a, b}, *saves[] = {a, b};
    return y && CB_RECORD(op, y, ins, saves, NULL, 0) ? y : NULL;
}

cb_tensor *cb_maximum(cb_tensor *a, cb_tensor *b)
{
    return choose(&cb_op_maximum, CBK_MAXIMUM, a, b);
}

cb_tensor *cb_minimum(cb_tensor *a, cb_tensor *b)
{
    return choose(&cb_op_minimum, CBK_MINIMUM, a, b);
}

static cb_tensor *compare(const char *op, cbk_binary_op kernel, cb_tensor *a, cb_tensor *b)
{
    return a && b && match_dtypes(op, &a, &b) ? combine(op, kernel, a, b) : NULL;
}

cb_tensor *cb_eq(cb_tensor *a, cb_tensor *b)
{
    return compare("eq", CBK_EQ, a, b);
}

cb_tensor *cb_ne(cb_tensor *a, cb_tensor *b)
{
    return compare("ne", CBK_NE, a, b);
}

cb_tensor *cb_lt(cb_tensor *a, cb_tensor *b)
{
    return compare("lt", CBK_LT, a, b);
}

cb_tensor *cb_le(cb_tensor *a, cb_tensor *b)
{
    return compare("le", CBK_LE, a, b);
}

cb_tensor *cb_gt(cb_tensor *a, cb_tensor *b)
{
    return compare("gt", CBK_GT, a, b);
}

cb_tensor *cb_ge(cb_tensor *a, cb_tensor *b)
{
    return compare("ge", CBK_GE, a, b);
}

/* ---- where, lerp ---- */

static void where_backward(cb_backward_pass *pass)
{
    cb_tensor *dy = pass->dy[0], *condition = pass->saved[0], *zero = cb_scalar(dy->dtype, 0);
    if (pass->need[1])
        pass->dx[1] = unbroadcast(pass, 1, cb_where(condition, dy, zero));
    if (pass->need[2])
        pass->dx[2] = unbroadcast(pass, 2, cb_where(condition, zero, dy));
}

const cb_op cb_op_where = {.name = "where", .twice = true, .backward = where_backward};

cb_tensor *cb_where(cb_tensor *condition, cb_tensor *a, cb_tensor *b)
{
    if (!condition || !a || !b || !match_dtypes("where", &a, &b))
        return NULL;
    if (condition->dtype != CB_BOOL) {
        cb_fail(CB_ERR_SHAPE, "where: condition %s, expected bool", cb_shape_text(condition));
        return NULL;
    }
    int ndim;
    cb_tensor both = {.dtype = a->dtype};
    int64_t shape[CB_MAX_DIMS], sc[CB_MAX_DIMS], sa[CB_MAX_DIMS], sb[CB_MAX_DIMS];
    if (!cb_broadcast_shape("where", a, b, &both.ndim, both.shape) || !cb_broadcast_shape("where", condition, &both, &ndim, shape))
        return NULL;
    cb_tensor *y = cb_empty_nd(a->dtype, ndim, shape);
    if (!y)
        return NULL;
    broadcast_strides(condition, ndim, shape, sc);
    broadcast_strides(a, ndim, shape, sa);
    broadcast_strides(b, ndim, shape, sb);
    if (!cbk_where(a->dtype, y->data, y->stride, condition->data, sc, a->data, sa, b->data, sb, ndim, shape))
        return NULL;
    cb_tensor *ins[] = {NULL, a, b}, *saves[] = {condition};
    return CB_RECORD(&cb_op_where, y, ins, saves, NULL, 0) ? y : NULL;
}

static void lerp_backward(cb_backward_pass *pass)
{
    double weight = *(const double *)pass->args;
    if (pass->need[0])
        pass->dx[0] = cb_scale(unbroadcast(pass, 0, pass->dy[0]), 1 - weight);
    if (pass->need[1])
        pass->dx[1] = cb_scale(unbroadcast(pass, 1, pass->dy[0]), weight);
}

const cb_op cb_op_lerp = {.name = "lerp", .twice = true, .backward = lerp_backward};

cb_tensor *cb_lerp(cb_tensor *a, cb_tensor *b, double weight)
{
    int ndim;
    int64_t shape[CB_MAX_DIMS], stride[CB_MAX_DIMS];
    if (!a || !b || !match_dtypes("lerp", &a, &b))
        return NULL;
    if (!cb_dtype_is_float(a->dtype)) {
        cb_fail(CB_ERR_SHAPE, "lerp: %s: expected a floating-point type", cb_shape_text(a));
        return NULL;
    }
    if (!cb_broadcast_shape("lerp", a, b, &ndim, shape))
        return NULL;
    cb_tensor *y = cb_empty_nd(a->dtype, ndim, shape), *towards = cb_contiguous(cb_expand_nd(cb_detach(b), ndim, shape));
    if (!y || !towards)
        return NULL;
    broadcast_strides(a, ndim, shape, stride);
    cbk_copy(y->data, y->dtype, y->stride, a->data, a->dtype, stride, ndim, shape);
    cbk_axpby(y->dtype, y->data, weight, towards->data, 1 - weight, y->count);
    cb_tensor *ins[] = {a, b};
    return cb_record(&cb_op_lerp, 1, &y, 2, ins, 0, NULL, &weight, sizeof weight) ? y : NULL;
}
