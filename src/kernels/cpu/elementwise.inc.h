/* elementwise.inc.h: conversions and element-wise arithmetic on vectors.  Included once per instruction set
 * (isa_*.c). */

static void to_f32(cb_dtype dtype, float *to, const void *from, int64_t n)
{
    WITH_DTYPE(dtype, FOR_VECTORS(i, c, n) store_f32(to + i, load(DT, from, i, c), c));
}

static void from_f32(cb_dtype dtype, void *to, const float *from, int64_t n)
{
    if (dtype == CB_BF16) {
        FOR_VECTORS(i, c, n)
            store_half((uint16_t *)to + i, to_bf16_exact(load_f32(from + i, c)), c);
        return;
    }
    WITH_DTYPE(dtype, FOR_VECTORS(i, c, n) store(DT, to, i, load_f32(from + i, c), c));
}

/* ---- two operands ---- */

/* NaN if either is */
INLINE vf binary_v(cbk_binary_op op, vf a, vf b)
{
    switch (op) {
    case CBK_ADD:
        return a + b;
    case CBK_SUB:
        return a - b;
    case CBK_MUL:
        return a * b;
    case CBK_DIV:
        return a / b;
    case CBK_MAXIMUM:
        return choose((vi)(a != a), a, max2(a, b));
    case CBK_MINIMUM:
        return choose((vi)(a != a), a, min2(a, b));
    default:
        for (int i = 0; i < V; i++)
            a[i] = powf(a[i], b[i]);
        return a;
    }
}

INLINE void binary_loop(cbk_binary_op op, cb_dtype dtype, void *out, const void *a, int a_step, const void *b, int b_step, int64_t n)
{
    vf a0 = splat(load(dtype, a, 0, 1)[0]), b0 = splat(load(dtype, b, 0, 1)[0]);
    if (a_step && b_step) {
        FOR_VECTORS(i, c, n)
            store(dtype, out, i, binary_v(op, load(dtype, a, i, c), load(dtype, b, i, c)), c);
    } else if (a_step) {
        FOR_VECTORS(i, c, n)
            store(dtype, out, i, binary_v(op, load(dtype, a, i, c), b0), c);
    } else {
        FOR_VECTORS(i, c, n)
            store(dtype, out, i, binary_v(op, a0, b_step ? load(dtype, b, i, c) : b0), c);
    }
}

#define BINARY_CASE(name)                                                                                                                  \
    case name:                                                                                                                             \
        WITH_DTYPE(dtype, binary_loop(name, DT, out, a, a_step, b, b_step, n));                                                            \
        break

static void binary(cbk_binary_op op, cb_dtype dtype, void *out, const void *a, int a_step, const void *b, int b_step, int64_t n)
{
    switch (op) {
        BINARY_CASE(CBK_ADD);
        BINARY_CASE(CBK_SUB);
        BINARY_CASE(CBK_MUL);
        BINARY_CASE(CBK_DIV);
        BINARY_CASE(CBK_MAXIMUM);
        BINARY_CASE(CBK_MINIMUM);
    default:
        WITH_DTYPE(dtype, binary_loop(CBK_POW, DT, out, a, a_step, b, b_step, n));
    }
}

static void axpby(cb_dtype dtype, void *y, float alpha, const void *x, float beta, int64_t n)
{
    if (beta == 0)
        WITH_DTYPE(dtype, FOR_VECTORS(i, c, n) store(DT, y, i, alpha * load(DT, x, i, c), c));
    else
        WITH_DTYPE(dtype, FOR_VECTORS(i, c, n) store(DT, y, i, alpha * load(DT, x, i, c) + beta * load(DT, y, i, c), c));
}

/* ---- one operand ---- */

#define GELU_TANH_FACTOR 0.79788456080286536f /* sqrt(2 / pi) */
#define GELU_TANH_CUBE   0.044715f

INLINE vf unary_scalar(cbk_unary_op op, vf x, float p, float q)
{
    for (int i = 0; i < V; i++)
        x[i] = (float)cbk_unary_value(op, (double)x[i], (double)p, (double)q);
    return x;
}

/* Whether every lane is a normal positive number. */
INLINE bool all_normal_positive(vf x)
{
    vi bad = (vi)(x < 1.17549435e-38f) | (vi)(x > 3.40282347e38f) | (vi)(x != x);
    int any = 0;
    for (int i = 0; i < V; i++)
        any |= bad[i];
    return !any;
}

INLINE vf unary_v(cbk_unary_op op, vf x, float p, float q)
{
    switch (op) {
    case CBK_NEG:
        return -x;
    case CBK_ABS:
        return (vf)((vi)x & 0x7fffffff);
    case CBK_RECIPROCAL:
        return 1.0f / x;
    case CBK_SQUARE:
        return x * x;
    case CBK_SQRT:
        return square_root(x);
    case CBK_RSQRT:
        return 1.0f / square_root(x);
    case CBK_EXP:
        return exp_v(x);
    case CBK_LOG:
        return all_normal_positive(x) ? log_positive(x) : unary_scalar(op, x, p, q);
    case CBK_ERF:
        return erf_v(x);
    case CBK_TANH:
        return tanh_v(x);
    case CBK_SIGMOID:
        return sigmoid_v(x);
    case CBK_RELU:
        return choose((vi)(x <= 0.0f), splat(0), x);
    case CBK_HARD_SWISH:
        return x * choose((vi)(x != x), x, min2(max2(x + 3.0f, splat(0)), splat(6))) * (1.0f / 6);
    case CBK_SILU:
        return x * sigmoid_v(x);
    case CBK_GELU:
        return 0.5f * x * (1.0f + erf_v(x * 0.70710678f));
    case CBK_GELU_TANH:
        return 0.5f * x * (1.0f + tanh_v(GELU_TANH_FACTOR * (x + GELU_TANH_CUBE * (x * x * x))));
    case CBK_SCALE:
        return p * x;
    case CBK_ADD_SCALAR:
        return x + p;
    case CBK_AFFINE:
        return p * x + q;
    case CBK_CLAMP:
        return choose((vi)(x != x), x, min2(max2(x, splat(p)), splat(q)));
    default:
        return unary_scalar(op, x, p, q);
    }
}

/* op'(x) */
INLINE vf slope_v(cbk_unary_op op, vf x, float p, float q)
{
    switch (op) {
    case CBK_NEG:
        return splat(-1);
    case CBK_SCALE:
    case CBK_AFFINE:
        return splat(p);
    case CBK_CLAMP:
        return (vf)((vi)(x >= p) & (vi)(x <= q) & (vi)splat(1));
    case CBK_SQUARE:
        return 2.0f * x;
    case CBK_EXP:
        return exp_v(x);
    case CBK_TANH: {
        vf t = tanh_v(x);
        return 1.0f - t * t;
    }
    case CBK_SIGMOID: {
        vf s = sigmoid_v(x);
        return s * (1.0f - s);
    }
    case CBK_RELU:
        return (vf)((vi)(x > 0.0f) & (vi)splat(1));
    case CBK_HARD_SWISH:
        return choose((vi)(x >= 3.0f), splat(1), choose((vi)(x <= -3.0f), splat(0), x * (1.0f / 3) + 0.5f));
    case CBK_SILU: {
        vf s = sigmoid_v(x);
        return s * (1.0f + x * (1.0f - s));
    }
    case CBK_GELU:
        return 0.5f * (1.0f + erf_v(x * 0.70710678f)) + x * 0.39894228f * exp_v(-0.5f * x * x);
    case CBK_GELU_TANH: {
        vf t = tanh_v(GELU_TANH_FACTOR * (x + GELU_TANH_CUBE * (x * x * x)));
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * GELU_TANH_FACTOR * (1.0f + 3 * GELU_TANH_CUBE * (x * x));
    }
    default:
        for (int i = 0; i < V; i++)
            x[i] = (float)cbk_unary_slope(op, (double)x[i], (double)p, (double)q);
        return x;
    }
}

INLINE void unary_loop(cbk_unary_op op, cb_dtype dtype, void *y, const void *x, int64_t n, float p, float q)
{
    FOR_VECTORS(i, c, n)
        store(dtype, y, i, unary_v(op, load(dtype, x, i, c), p, q), c);
}

INLINE void unary_backward_loop(cbk_unary_op op, cb_dtype dtype, void *dx, const void *dy, const void *x, int64_t n, float p, float q,
                                bool accumulate)
{
    FOR_VECTORS(i, c, n) {
        vf g = load(dtype, dy, i, c) * slope_v(op, load(dtype, x, i, c), p, q);
        if (accumulate)
            g = g + load(dtype, dx, i, c);
        store(dtype, dx, i, g, c);
    }
}

#define UNARY_CASE(name)                                                                                                                   \
    case name:                                                                                                                             \
        WITH_DTYPE(dtype, unary_loop(name, DT, y, x, n, p, q));                                                                            \
        break

static void unary(cbk_unary_op op, cb_dtype dtype, void *y, const void *x, int64_t n, float p, float q)
{
    switch (op) {
        UNARY_CASE(CBK_NEG);
        UNARY_CASE(CBK_ABS);
        UNARY_CASE(CBK_RECIPROCAL);
        UNARY_CASE(CBK_SQUARE);
        UNARY_CASE(CBK_SQRT);
        UNARY_CASE(CBK_RSQRT);
        UNARY_CASE(CBK_EXP);
        UNARY_CASE(CBK_LOG);
        UNARY_CASE(CBK_ERF);
        UNARY_CASE(CBK_TANH);
        UNARY_CASE(CBK_SIGMOID);
        UNARY_CASE(CBK_RELU);
        UNARY_CASE(CBK_HARD_SWISH);
        UNARY_CASE(CBK_SILU);
        UNARY_CASE(CBK_GELU);
        UNARY_CASE(CBK_GELU_TANH);
        UNARY_CASE(CBK_SCALE);
        UNARY_CASE(CBK_ADD_SCALAR);
        UNARY_CASE(CBK_AFFINE);
        UNARY_CASE(CBK_CLAMP);
    default:
        WITH_DTYPE(dtype, FOR_VECTORS(i, c, n) store(DT, y, i, unary_scalar(op, load(DT, x, i, c), p, q), c));
    }
}

#define SLOPE_CASE(name)                                                                                                                   \
    case name:                                                                                                                             \
        WITH_DTYPE(dtype, unary_backward_loop(name, DT, dx, dy, x, n, p, q, accumulate));                                                  \
        break

static void unary_backward(cbk_unary_op op, cb_dtype dtype, void *dx, const void *dy, const void *x, int64_t n, float p, float q,
                           bool accumulate)
{
    switch (op) {
        SLOPE_CASE(CBK_NEG);
        SLOPE_CASE(CBK_SCALE);
        SLOPE_CASE(CBK_AFFINE);
        SLOPE_CASE(CBK_CLAMP);
        SLOPE_CASE(CBK_SQUARE);
        SLOPE_CASE(CBK_EXP);
        SLOPE_CASE(CBK_TANH);
        SLOPE_CASE(CBK_SIGMOID);
        SLOPE_CASE(CBK_RELU);
        SLOPE_CASE(CBK_HARD_SWISH);
        SLOPE_CASE(CBK_SILU);
        SLOPE_CASE(CBK_GELU);
        SLOPE_CASE(CBK_GELU_TANH);
    default:
        WITH_DTYPE(dtype, unary_backward_loop(op, DT, dx, dy, x, n, p, q, accumulate));
    }
}

/* ---- gated activations ---- */

/* act(x) and act'(x) together: they share the expensive part. */
INLINE void value_and_slope(cbk_unary_op op, vf x, vf *value, vf *slope)
{
    vf s;
    switch (op) {
    case CBK_SILU:
        s = sigmoid_v(x);
        *value = x * s;
        *slope = s * (1.0f + x * (1.0f - s));
        return;
    case CBK_GELU:
        s = 0.5f * (1.0f + erf_v(x * 0.70710678f));
        *value = x * s;
        *slope = s + x * 0.39894228f * exp_v(-0.5f * x * x);
        return;
    case CBK_GELU_TANH:
        s = tanh_v(GELU_TANH_FACTOR * (x + GELU_TANH_CUBE * (x * x * x)));
        *value = 0.5f * x * (1.0f + s);
        *slope = 0.5f * (1.0f + s) + 0.5f * x * (1.0f - s * s) * GELU_TANH_FACTOR * (1.0f + 3 * GELU_TANH_CUBE * (x * x));
        return;
    default:
        *value = unary_v(op, x, 0, 0);
        *slope = slope_v(op, x, 0, 0);
    }
}

INLINE void gated_forward_loop(cbk_unary_op op, cb_dtype dtype, void *y, const void *gate, const void *up, int64_t n)
{
    FOR_VECTORS(i, c, n)
        store(dtype, y, i, unary_v(op, load(dtype, gate, i, c), 0, 0) * load(dtype, up, i, c), c);
}

INLINE void gated_backward_loop(cbk_unary_op op, cb_dtype dtype, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                                int64_t n)
{
    FOR_VECTORS(i, c, n) {
        vf g = load(dtype, dy, i, c), u = load(dtype, up, i, c), value, slope;
        value_and_slope(op, load(dtype, gate, i, c), &value, &slope);
        if (dgate)
            store(dtype, dgate, i, g * u * slope, c);
        if (dup)
            store(dtype, dup, i, g * value, c);
    }
}

#define GATED_CASE(name, loop, ...)                                                                                                        \
    case name:                                                                                                                             \
        WITH_DTYPE(dtype, loop(name, DT, __VA_ARGS__));                                                                                    \
        break

static void gated_forward(cbk_unary_op op, cb_dtype dtype, void *y, const void *gate, const void *up, int64_t n)
{
    switch (op) {
        GATED_CASE(CBK_SILU, gated_forward_loop, y, gate, up, n);
        GATED_CASE(CBK_GELU, gated_forward_loop, y, gate, up, n);
        GATED_CASE(CBK_GELU_TANH, gated_forward_loop, y, gate, up, n);
    default:
        WITH_DTYPE(dtype, gated_forward_loop(op, DT, y, gate, up, n));
    }
}

static void gated_backward(cbk_unary_op op, cb_dtype dtype, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                           int64_t n)
{
    switch (op) {
        GATED_CASE(CBK_SILU, gated_backward_loop, dgate, dup, dy, gate, up, n);
        GATED_CASE(CBK_GELU, gated_backward_loop, dgate, dup, dy, gate, up, n);
        GATED_CASE(CBK_GELU_TANH, gated_backward_loop, dgate, dup, dy, gate, up, n);
    default:
        WITH_DTYPE(dtype, gated_backward_loop(op, DT, dgate, dup, dy, gate, up, n));
    }
}
