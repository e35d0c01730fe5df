/* ops_unary.c: functions of each element, some with a number.
 *
 * Integers are computed on wherever the kernels can (the result of scaling by a fraction truncates); they have no gradient.  Every rule can
 * be differentiated again.  It has two forms: one kernel call (which adds to a gradient that already exists, or reuses dy's memory) while
 * the backward pass is not recorded, public operations while it is. */
#include <math.h>

#include "kernels/kernels.h"
#include "tensor/op.h"

/* ---- one operand ---- */

/* The numbers of an op that has some: factor, value, exponent, or low and high. */
typedef struct numbers {
    double p, q;
} numbers;

typedef cb_tensor *slope_function(cb_tensor *x, numbers n);

/* `save`: the slope depends on x. */
static cb_tensor *unary(const cb_op *op, cbk_unary_op kernel, cb_tensor *x, numbers n, bool save)
{
    x = cb_dense(x);
    cb_tensor *y = x ? cb_empty_ordered(x->dtype, x) : NULL;
    if (!y)
        return NULL;
    if (!cbk_unary(kernel, x->dtype, y->data, x->data, x->count, n.p, n.q)) {
        cb_error_prefix("%s", op->name);
        return NULL;
    }
    cb_tensor *ins[] = {x}, *saves[] = {save ? x : NULL};
    return CB_RECORD(op, y, ins, saves, &n, sizeof n) ? y : NULL;
}

/* dx (+)= dy f'(x) by the kernel: into the gradient that is there, or over dy when nobody else holds it. */
static cb_tensor *slope_times(const cb_backward_pass *pass, cbk_unary_op kernel, cb_tensor *dy, const cb_tensor *x, numbers n)
{
    dy = x ? cb_ordered_as(dy, x) : cb_dense(dy);
    if (!dy)
        return NULL;
    cb_tensor *into = cb_is_channels_last(dy) ? NULL : pass->into[0], *dx = into ? into : cb_can_overwrite(dy) ? dy : NULL;
    if (dx && !cb_will_write(pass->op->name, dx))
        return NULL;
    dx = dx ? dx : cb_empty_ordered(dy->dtype, dy);
    const void *at = x ? x->data : dy->data; /* a constant slope looks at no x */
    return dx && cbk_unary_backward(kernel, dy->dtype, dx->data, dy->data, at, dy->count, n.p, n.q, into) ? dx : NULL;
}

static void unary_backward(cb_backward_pass *pass, cbk_unary_op kernel, slope_function *slope)
{
    numbers n = *(const numbers *)pass->args;
    cb_tensor *dy = pass->dy[0], *x = pass->saved[0];
    pass->dx[0] = cb_grad_enabled() ? cb_mul(dy, slope(x, n)) : slope_times(pass, kernel, dy, x, n);
}

static cb_tensor *scaled(const cb_backward_pass *pass, double factor)
{
    return cb_grad_enabled() ? cb_scale(pass->dy[0], factor) : slope_times(pass, CBK_SCALE, pass->dy[0], NULL, (numbers){factor, 0});
}

static void no_slope_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_zeros_like(pass->dy[0]);
}

static cb_tensor *unary_again(const cb_backward_pass *pass, cbk_unary_op kernel)
{
    const cb_tensor *x = pass->saved[0];
    const numbers *n = pass->args;
    cb_tensor *y = cb_empty_ordered(x->dtype, x);
    return y && cbk_unary(kernel, x->dtype, y->data, x->data, x->count, n->p, n->q) ? y : NULL;
}

/* A function whose slope depends on x; `slope_of_x` gives it in public operations of x and the numbers n. */
#define CURVE(function, kernel, slope_of_x, remake)                                                                                        \
    static cb_tensor *function##_slope(cb_tensor *x, numbers n)                                                                            \
    {                                                                                                                                      \
        (void)n;                                                                                                                           \
        return slope_of_x;                                                                                                                 \
    }                                                                                                                                      \
    static void function##_backward(cb_backward_pass *pass)                                                                                \
    {                                                                                                                                      \
        unary_backward(pass, kernel, function##_slope);                                                                                    \
    }                                                                                                                                      \
    const cb_op cb_op_##function = {.name = #function, .twice = true, .backward = function##_backward, .again = remake};

#define FUNCTION(function, kernel, slope_of_x)                                                                                             \
    CURVE(function, kernel, slope_of_x, NULL)                                                                                              \
    PUBLIC(function, kernel)

#define PUBLIC(function, kernel)                                                                                                           \
    cb_tensor *cb_##function(cb_tensor *x)                                                                                                 \
    {                                                                                                                                      \
        return unary(&cb_op_##function, kernel, x, (numbers){0, 0}, true);                                                                 \
    }

/* What stands between a network's products, where x is kept anyway and the product behind it would keep y as well. */
#define REMADE(function, kernel)                                                                                                           \
    static cb_tensor *function##_again(const cb_backward_pass *pass)                                                                       \
    {                                                                                                                                      \
        return unary_again(pass, kernel);                                                                                                  \
    }
#define ACTIVATION(function, kernel, slope_of_x)                                                                                           \
    REMADE(function, kernel)                                                                                                               \
    CURVE(function, kernel, slope_of_x, function##_again)                                                                                  \
    PUBLIC(function, kernel)

/* A function that is constant between its jumps. */
#define STEPS(function, kernel)                                                                                                            \
    const cb_op cb_op_##function = {.name = #function, .twice = true, .backward = no_slope_backward};                                      \
    cb_tensor *cb_##function(cb_tensor *x)                                                                                                 \
    {                                                                                                                                      \
        return unary(&cb_op_##function, kernel, x, (numbers){0, 0}, false);                                                                \
    }

/* 1 - x */
static cb_tensor *complement(cb_tensor *x)
{
    return cb_add_scalar(cb_neg(x), 1);
}

/* 1 where x > 0, else 0 */
static cb_tensor *positive(cb_tensor *x)
{
    return x ? cb_cast(cb_gt(x, cb_scalar(x->dtype, 0)), x->dtype) : NULL;
}

/* 0 up to -3, 1 from 3, x / 3 + 1/2 between */
static cb_tensor *hard_swish_derivative(cb_tensor *x)
{
    cb_tensor *zero = x ? cb_scalar(x->dtype, 0) : NULL, *one = x ? cb_scalar(x->dtype, 1) : NULL, *three = cb_scale(one, 3);
    cb_tensor *between = cb_add_scalar(cb_scale(x, 1.0 / 3), 0.5);
    return cb_where(cb_ge(x, three), one, cb_where(cb_le(x, cb_neg(three)), zero, between));
}

/* s (1 + x (1 - s)), s the sigmoid of x */
static cb_tensor *silu_derivative(cb_tensor *x)
{
    cb_tensor *s = cb_sigmoid(x);
    return cb_mul(s, cb_add_scalar(cb_mul(x, complement(s)), 1));
}

/* P(x) + x p(x), P and p the standard normal's distribution and density */
static cb_tensor *gelu_derivative(cb_tensor *x)
{
    cb_tensor *distribution = cb_scale(cb_add_scalar(cb_erf(cb_scale(x, M_SQRT1_2)), 1), 0.5);
    cb_tensor *density = cb_scale(cb_exp(cb_scale(cb_square(x), -0.5)), 0.5 * M_2_SQRTPI * M_SQRT1_2);
    return cb_add(distribution, cb_mul(x, density));
}

/* y = x (1 + t) / 2, t = tanh(u), u = sqrt(2 / pi) (x + c x^3):  y' = (1 + t) / 2 + x (1 - t^2) u' / 2 */
static cb_tensor *gelu_tanh_derivative(cb_tensor *x)
{
    const double c = 0.044715, k = M_2_SQRTPI * M_SQRT1_2;
    cb_tensor *square = cb_square(x);
    cb_tensor *t = cb_tanh(cb_mul(x, cb_add_scalar(cb_scale(square, k * c), k)));
    cb_tensor *inner = cb_add_scalar(cb_scale(square, 3 * k * c), k);
    cb_tensor *curve = cb_mul(cb_mul(x, complement(cb_square(t))), inner);
    return cb_scale(cb_add(cb_add_scalar(t, 1), curve), 0.5);
}

STEPS(sign, CBK_SIGN)
STEPS(floor, CBK_FLOOR)
STEPS(round, CBK_ROUND)
FUNCTION(abs, CBK_ABS, cb_sign(x))
FUNCTION(reciprocal, CBK_RECIPROCAL, cb_neg(cb_square(cb_reciprocal(x))))
FUNCTION(square, CBK_SQUARE, cb_scale(x, 2))
FUNCTION(sqrt, CBK_SQRT, cb_scale(cb_rsqrt(x), 0.5))
FUNCTION(rsqrt, CBK_RSQRT, cb_scale(cb_pow_scalar(x, -1.5), -0.5))
FUNCTION(exp, CBK_EXP, cb_exp(x))
FUNCTION(expm1, CBK_EXPM1, cb_exp(x))
FUNCTION(log, CBK_LOG, cb_reciprocal(x))
FUNCTION(log1p, CBK_LOG1P, cb_reciprocal(cb_add_scalar(x, 1)))
FUNCTION(sin, CBK_SIN, cb_cos(x))
FUNCTION(cos, CBK_COS, cb_neg(cb_sin(x)))
FUNCTION(atan, CBK_ATAN, cb_reciprocal(cb_add_scalar(cb_square(x), 1)))
FUNCTION(erf, CBK_ERF, cb_scale(cb_exp(cb_neg(cb_square(x))), M_2_SQRTPI))
FUNCTION(tanh, CBK_TANH, complement(cb_square(cb_tanh(x))))
FUNCTION(sigmoid, CBK_SIGMOID, cb_mul(cb_sigmoid(x), cb_sigmoid(cb_neg(x))))
FUNCTION(softplus, CBK_SOFTPLUS, cb_sigmoid(x))
REMADE(relu, CBK_RELU)
CURVE(relu, CBK_RELU, positive(x), relu_again)
ACTIVATION(hard_swish, CBK_HARD_SWISH, hard_swish_derivative(x))
ACTIVATION(silu, CBK_SILU, silu_derivative(x))
ACTIVATION(gelu, CBK_GELU, gelu_derivative(x))
ACTIVATION(gelu_tanh, CBK_GELU_TANH, gelu_tanh_derivative(x))

/* The slope is the same of y as of x: what is kept is the one that takes no memory, or y, which the next product keeps as well. */
cb_tensor *cb_relu(cb_tensor *x)
{
    x = cb_dense(x);
    cb_tensor *y = x ? cb_empty_ordered(x->dtype, x) : NULL;
    if (!y)
        return NULL;
    if (!cbk_unary(CBK_RELU, x->dtype, y->data, x->data, x->count, 0, 0)) {
        cb_error_prefix("relu");
        return NULL;
    }
    numbers n = {0};
    cb_tensor *ins[] = {x}, *saves[] = {cb_can_be_remade(x) ? x : y};
    return CB_RECORD(&cb_op_relu, y, ins, saves, &n, sizeof n) ? y : NULL;
}

static void neg_backward(cb_backward_pass *pass)
{
    pass->dx[0] = scaled(pass, -1);
}

const cb_op cb_op_neg = {.name = "neg", .twice = true, .backward = neg_backward};

cb_tensor *cb_neg(cb_tensor *x)
{
    return unary(&cb_op_neg, CBK_NEG, x, (numbers){0, 0}, false);
}

/* ---- with a number ---- */

static void scale_backward(cb_backward_pass *pass)
{
    pass->dx[0] = scaled(pass, ((const numbers *)pass->args)->p);
}

const cb_op cb_op_scale = {.name = "scale", .twice = true, .backward = scale_backward};

cb_tensor *cb_scale(cb_tensor *x, double factor)
{
    return unary(&cb_op_scale, CBK_SCALE, x, (numbers){factor, 0}, false);
}

static void add_scalar_backward(cb_backward_pass *pass)
{
    pass->dx[0] = pass->dy[0];
}

const cb_op cb_op_add_scalar = {.name = "add_scalar", .twice = true, .backward = add_scalar_backward};

cb_tensor *cb_add_scalar(cb_tensor *x, double value)
{
    return unary(&cb_op_add_scalar, CBK_ADD_SCALAR, x, (numbers){value, 0}, false);
}

static cb_tensor *power_derivative(cb_tensor *x, double exponent)
{
    return exponent == 0 ? cb_zeros_like(x) : cb_scale(cb_pow_scalar(x, exponent - 1), exponent);
}

CURVE(pow_scalar, CBK_POW_SCALAR, power_derivative(x, n.p), NULL)

cb_tensor *cb_pow_scalar(cb_tensor *x, double exponent)
{
    if (exponent == 2) /* exact, and many times faster than pow() */
        return cb_square(x);
    return unary(&cb_op_pow_scalar, CBK_POW_SCALAR, x, (numbers){exponent, 0}, true);
}

/* 1 within the bounds and on them, else 0 */
static cb_tensor *within(cb_tensor *x, double low, double high)
{
    return x ? cb_cast(cb_mul(cb_ge(x, cb_scalar(x->dtype, low)), cb_le(x, cb_scalar(x->dtype, high))), x->dtype) : NULL;
}

REMADE(clamp, CBK_CLAMP)
CURVE(clamp, CBK_CLAMP, within(x, n.p, n.q), clamp_again)

cb_tensor *cb_clamp(cb_tensor *x, double low, double high)
{
    if (!(low <= high)) {
        cb_fail(CB_ERR_ARGUMENT, "clamp: bounds %g and %g, expected low <= high", low, high);
        return NULL;
    }
    return unary(&cb_op_clamp, CBK_CLAMP, x, (numbers){low, high}, true);
}
