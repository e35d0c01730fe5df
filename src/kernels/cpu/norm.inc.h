/* norm.inc.h: kernels that work row by row: normalisation, softmax, rotary embedding, cross-entropy.  Included once
 * per instruction set (isa_*.c).  C channels of a row, K classes. */

INLINE vf weight_at(const float *weight, int64_t i, int64_t c)
{
    return weight ? load_f32(weight + i, c) : splat(1);
}

/* ---- RMS norm ---- */

INLINE void rms_norm_forward_rows(cb_dtype dtype, void *y, float *rstd, const void *x, const float *weight, int64_t first, int64_t last,
                                  int64_t c, float eps)
{
    for (int64_t row = first; row < last; row++) {
        vf s0 = {0}, s1 = {0};
        int64_t i = 0, base = row * c;
        for (; i + 2 * V <= c; i += 2 * V) {
            vf a = load(dtype, x, base + i, V), b = load(dtype, x, base + i + V, V);
            s0 = s0 + a * a;
            s1 = s1 + b * b;
        }
        FOR_VECTORS(j, left, c - i) {
            vf a = load(dtype, x, base + i + j, left);
            s0 = s0 + a * a;
        }
        float r = 1.0f / sqrtf(sum_of(s0 + s1) / (float)c + eps);
        if (rstd)
            rstd[row] = r;
        FOR_VECTORS(j, left, c)
            store(dtype, y, base + j, load(dtype, x, base + j, left) * r * weight_at(weight, j, left), left);
    }
}

static void rms_norm_forward(cb_dtype dtype, void *y, float *rstd, const void *x, const float *weight, int64_t first, int64_t last,
                             int64_t c, float eps)
{
    WITH_DTYPE(dtype, rms_norm_forward_rows(DT, y, rstd, x, weight, first, last, c, eps));
}

/* dx = r (w dy) - x r^3 / C sum(w dy x);  dw = sum over rows of dy x r */
INLINE void rms_norm_backward_rows(cb_dtype dtype, void *dx, bool accumulate, float *dweight, const void *dy, const void *x,
                                   const float *weight, const float *rstd, int64_t first, int64_t last, int64_t c)
{
    for (int64_t row = first; row < last; row++) {
        int64_t base = row * c;
        float r = rstd[row];
        if (dweight) {
            FOR_VECTORS(j, left, c) {
                vf g = load(dtype, dy, base + j, left) * load(dtype, x, base + j, left);
                store_f32(dweight + j, load_f32(dweight + j, left) + g * r, left);
            }
        }
        if (!dx)
            continue;
        vf s = {0};
        FOR_VECTORS(j, left, c)
            s = s + load(dtype, dy, base + j, left) * weight_at(weight, j, left) * load(dtype, x, base + j, left);
        float t = sum_of(s) * r * r * r / (float)c;
        FOR_VECTORS(j, left, c) {
            vf g = load(dtype, dy, base + j, left) * weight_at(weight, j, left) * r - load(dtype, x, base + j, left) * t;
            if (accumulate)
                g = g + load(dtype, dx, base + j, left);
            store(dtype, dx, base + j, g, left);
        }
    }
}

static void rms_norm_backward(cb_dtype dtype, void *dx, bool accumulate, float *dweight, const void *dy, const void *x, const float *weight,
                              const float *rstd, int64_t first, int64_t last, int64_t c)
{
    WITH_DTYPE(dtype, rms_norm_backward_rows(DT, dx, accumulate, dweight, dy, x, weight, rstd, first, last, c));
}

/* ---- Layer norm ---- */

INLINE void layer_norm_forward_rows(cb_dtype dtype, void *y, float *mean, float *rstd, const void *x, const float *weight,
                                    const float *bias, int64_t first, int64_t last, int64_t c, float eps)
{
    for (int64_t row = first; row < last; row++) {
        int64_t base = row * c;
        vf s = {0};
        FOR_VECTORS(j, left, c)
            s = s + load(dtype, x, base + j, left);
        float m = sum_of(s) / (float)c;
        vf v = {0};
        FOR_VECTORS(j, left, c) {
            vf d = keep_lanes(load(dtype, x, base + j, left) - m, left, 0);
            v = v + d * d;
        }
        float r = 1.0f / sqrtf(sum_of(v) / (float)c + eps);
        if (mean)
            mean[row] = m;
        if (rstd)
            rstd[row] = r;
        FOR_VECTORS(j, left, c) {
            vf n = (load(dtype, x, base + j, left) - m) * r * weight_at(weight, j, left);
            store(dtype, y, base + j, bias ? n + load_f32(bias + j, left) : n, left);
        }
    }
}

static void layer_norm_forward(cb_dtype dtype, void *y, float *mean, float *rstd, const void *x, const float *weight, const float *bias,
                               int64_t first, int64_t last, int64_t c, float eps)
{
    WITH_DTYPE(dtype, layer_norm_forward_rows(DT, y, mean, rstd, x, weight, bias, first, last, c, eps));
}

/* n = (x - mean) r;  dx = r (w dy - mean(w dy) - n mean(w dy n));  dw = sum of dy n, db = sum of dy */
INLINE void layer_norm_backward_rows(cb_dtype dtype, void *dx, bool accumulate, float *dweight, float *dbias, const void *dy, const void *x,
                                     const float *weight, const float *mean, const float *rstd, int64_t first, int64_t last, int64_t c)
{
    for (int64_t row = first; row < last; row++) {
        int64_t base = row * c;
        float r = rstd[row], m = mean[row];
        vf s = {0}, t = {0};
        FOR_VECTORS(j, left, c) {
            vf g = load(dtype, dy, base + j, left), n = (load(dtype, x, base + j, left) - m) * r;
            if (dweight)
                store_f32(dweight + j, load_f32(dweight + j, left) + g * n, left);
            if (dbias)
                store_f32(dbias + j, load_f32(dbias + j, left) + g, left);
            g = g * weight_at(weight, j, left); /* zero behind the end, as dy is */
            s = s + g;
            t = t + g * n;
        }
        if (!dx)
            continue;
        float mean_g = sum_of(s) / (float)c, mean_gn = sum_of(t) / (float)c;
        FOR_VECTORS(j, left, c) {
            vf n = (load(dtype, x, base + j, left) - m) * r;
            vf g = (load(dtype, dy, base + j, left) * weight_at(weight, j, left) - mean_g - n * mean_gn) * r;
            if (accumulate)
                g = g + load(dtype, dx, base + j, left);
            store(dtype, dx, base + j, g, left);
        }
    }
}

static void layer_norm_backward(cb_dtype dtype, void *dx, bool accumulate, float *dweight, float *dbias, const void *dy, const void *x,
                                const float *weight, const float *mean, const float *rstd, int64_t first, int64_t last, int64_t c)
{
    WITH_DTYPE(dtype, layer_norm_backward_rows(DT, dx, accumulate, dweight, dbias, dy, x, weight, mean, rstd, first, last, c));
}

/* ---- Softmax ---- */

INLINE float row_max(cb_dtype dtype, const void *x, int64_t base, int64_t k)
{
    vf m = splat(-INFINITY);
    FOR_VECTORS(j, left, k)
        m = max2(m, keep_lanes(load(dtype, x, base + j, left), left, -INFINITY));
    return max_of(m);
}

/* Sum of e^(x - largest). */
INLINE float row_exp_sum(cb_dtype dtype, const void *x, int64_t base, int64_t k, float largest)
{
    vf s = {0};
    FOR_VECTORS(j, left, k)
        s = s + keep_lanes(exp_negative(load(dtype, x, base + j, left) - largest), left, 0);
    return sum_of(s);
}

INLINE void softmax_forward_rows(cb_dtype dtype, void *y, const void *x, int64_t first, int64_t last, int64_t k, bool log)
{
    for (int64_t row = first; row < last; row++) {
        int64_t base = row * k;
        float m = row_max(dtype, x, base, k);
        if (!(m > -INFINITY)) /* all of the row is -inf, or NaN: so is the result of exp(x - m) */
            m = 0;
        float s = row_exp_sum(dtype, x, base, k, m), log_sum = m + logf(s), inverse = 1.0f / s;
        bool special = !(s > 0 && s < INFINITY); /* NaN or infinity in the row: let it show */
        FOR_VECTORS(j, left, k) {
            vf a = load(dtype, x, base + j, left);
            vf r = log ? a - log_sum : exp_negative(a - m) * inverse;
            store(dtype, y, base + j, special ? splat(NAN) : r, left);
        }
    }
}

static void softmax_forward(cb_dtype dtype, void *y, const void *x, int64_t first, int64_t last, int64_t k, bool log)
{
    WITH_DTYPE(dtype, softmax_forward_rows(DT, y, x, first, last, k, log));
}

/* softmax: dx = y (dy - sum(dy y));  log-softmax: dx = dy - e^y sum(dy) */
INLINE void softmax_backward_rows(cb_dtype dtype, void *dx, const void *dy, const void *y, int64_t first, int64_t last, int64_t k, bool log)
{
    for (int64_t row = first; row < last; row++) {
        int64_t base = row * k;
        vf s = {0};
        FOR_VECTORS(j, left, k) {
            vf g = load(dtype, dy, base + j, left);
            s = log ? s + g : s + g * load(dtype, y, base + j, left);
        }
        float t = sum_of(s);
        FOR_VECTORS(j, left, k) {
            vf g = load(dtype, dy, base + j, left), p = load(dtype, y, base + j, left);
            store(dtype, dx, base + j, log ? g - exp_v(p) * t : p * (g - t), left);
        }
    }
}

static void softmax_backward(cb_dtype dtype, void *dx, const void *dy, const void *y, int64_t first, int64_t last, int64_t k, bool log)
{
    WITH_DTYPE(dtype, softmax_backward_rows(DT, dx, dy, y, first, last, k, log));
}

/* ---- Rotary embedding ---- */

INLINE void rope_heads(cb_dtype dtype, void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t heads, int64_t size,
                       int64_t half, const float *cosines, const float *sines, bool inverse)
{
    for (int64_t head = 0; head < heads; head++) {
        int64_t xb = head * x_stride, yb = head * y_stride;
        FOR_VECTORS(j, left, half) {
            vf a = load(dtype, x, xb + j, left), b = load(dtype, x, xb + half + j, left);
            vf co = load_f32(cosines + j, left), si = load_f32(sines + j, left);
            if (inverse)
                si = -si;
            store(dtype, y, yb + j, a * co - b * si, left);
            store(dtype, y, yb + half + j, b * co + a * si, left);
        }
        if (x != y) {
            FOR_VECTORS(j, left, size - 2 * half)
                store(dtype, y, yb + 2 * half + j, load(dtype, x, xb + 2 * half + j, left), left);
        }
    }
}

static void rope(cb_dtype dtype, void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t heads, int64_t size, int64_t half,
                 const float *cosines, const float *sines, bool inverse)
{
    WITH_DTYPE(dtype, rope_heads(DT, y, y_stride, x, x_stride, heads, size, half, cosines, sines, inverse));
}

/* ---- Cross-entropy ---- */

/* Largest value and sum of exponentials in one walk: pieces that stay in the first cache are looked at twice. */
INLINE void row_statistics(cb_dtype dtype, const void *x, int64_t v, float *largest, float *exp_sum)
{
    float m = -INFINITY, s = 0;
    for (int64_t begin = 0; begin < v; begin += 2048) {
        int64_t length = v - begin < 2048 ? v - begin : 2048;
        float piece = row_max(dtype, x, begin, length);
        if (piece > m) {
            s = m > -INFINITY ? s * expf(m - piece) : 0;
            m = piece;
        }
        s += row_exp_sum(dtype, x, begin, length, m > -INFINITY ? m : 0);
    }
    *largest = m;
    *exp_sum = s;
}

INLINE float row_sum(cb_dtype dtype, const void *x, int64_t v)
{
    return (float)sum_loop(dtype, x, v, false);
}

/* loss = lse - (1 - s) x[target] - s mean(x);  dx = softmax - (1 - s) [v = target] - s / V */
INLINE double cross_entropy_of(const cbk_cross_entropy_row *row, cb_dtype dtype, const void *x, cb_dtype out_dtype, void *dx)
{
    float m, s, smoothing = row->label_smoothing;
    row_statistics(dtype, x, row->v, &m, &s);
    float log_sum = m + logf(s), at_target = load(dtype, x, row->target, 1)[0];
    double loss = (double)log_sum - (double)((1 - smoothing) * at_target);
    if (smoothing > 0)
        loss -= (double)(smoothing * (row_sum(dtype, x, row->v) / (float)row->v));
    if (!dx)
        return loss;
    float scale = row->gradient_scale, uniform_part = scale * smoothing / (float)row->v;
    FOR_VECTORS(j, left, row->v) /* narrower results trail behind the logits they are made of */
        store(out_dtype, dx, j, exp_negative(load(dtype, x, j, left) - log_sum) * scale - uniform_part, left);
    float target_probability = expf(at_target - log_sum);
    store(out_dtype, dx, row->target, splat((target_probability - (1 - smoothing)) * scale - uniform_part), 1);
    return isnan(m - m) ? NAN : loss;
}

static double cross_entropy(const cbk_cross_entropy_row *row, cb_dtype dtype, const void *logits, cb_dtype out_dtype, void *dlogits)
{
    double loss = 0;
    if (dtype == CB_F32 && out_dtype == CB_BF16)
        loss = cross_entropy_of(row, CB_F32, logits, CB_BF16, dlogits);
    else if (dtype == CB_F32 && out_dtype == CB_F16)
        loss = cross_entropy_of(row, CB_F32, logits, CB_F16, dlogits);
    else
        WITH_DTYPE(dtype, loss = cross_entropy_of(row, DT, logits, DT, dlogits));
    return loss;
}
