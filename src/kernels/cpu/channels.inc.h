/* channels.inc.h: sums over, and scales of, the channels of images.  Included once per instruction set (isa_*.c).
 *
 * Channels-last memory is rows of c channels: a vector holds V of them.  Row-major memory is one run of elements for each channel: a vector
 * holds V elements of one. */

/* Over `rows` rows: s1[j] += b, s2[j] += b a, where a = x - shift[j] and b = dy, or a when there is no dy. */
INLINE void channel_sums_loop(cb_dtype dtype, double *s1, double *s2, const void *x, const void *dy, const float *shift, int64_t rows,
                              int64_t c)
{
    FOR_VECTORS(j, left, c) {
        vf k = load_f32(shift + j, left), first = {0}, second = {0};
        for (int64_t i = 0; i < rows; i++) {
            vf a = load(dtype, x, i * c + j, left) - k, b = dy ? load(dtype, dy, i * c + j, left) : a;
            first = first + b;
            second = fma_v(a, b, second);
        }
        for (int64_t t = 0; t < (left < V ? left : V); t++) {
            s1[j + t] += (double)first[t];
            s2[j + t] += (double)second[t];
        }
    }
}

/* The same over a run of n elements of one channel; lanes add up 64 numbers each in f32. */
INLINE void run_sums_loop(cb_dtype dtype, double *s1, double *s2, const void *x, const void *dy, float shift, int64_t n)
{
    vf k = splat(shift);
    for (int64_t begin = 0; begin < n; begin += 64 * V) {
        int64_t length = n - begin < 64 * V ? n - begin : 64 * V, whole = length / V * V;
        vf first = {0}, second = {0};
        for (int64_t i = begin; i < begin + whole; i += V) {
            vf a = load(dtype, x, i, V) - k, b = dy ? load(dtype, dy, i, V) : a;
            first = first + b;
            second = fma_v(a, b, second);
        }
        for (int t = 0; t < V; t++) {
            *s1 += (double)first[t];
            *s2 += (double)second[t];
        }
        vf a = load(dtype, x, begin + whole, length - whole) - k, b = dy ? load(dtype, dy, begin + whole, length - whole) : a;
        for (int64_t t = 0; t < length - whole; t++) {
            *s1 += (double)b[t];
            *s2 += (double)b[t] * (double)a[t];
        }
    }
}

static void channel_sums(cb_dtype dtype, double *s1, double *s2, const void *x, const void *dy, const float *shift, int64_t rows, int64_t c)
{
    if (dy)
        WITH_DTYPE(dtype, channel_sums_loop(DT, s1, s2, x, dy, shift, rows, c));
    else
        WITH_DTYPE(dtype, channel_sums_loop(DT, s1, s2, x, NULL, shift, rows, c));
}

static void run_sums(cb_dtype dtype, double *s1, double *s2, const void *x, const void *dy, float shift, int64_t n)
{
    if (dy)
        WITH_DTYPE(dtype, run_sums_loop(DT, s1, s2, x, dy, shift, n));
    else
        WITH_DTYPE(dtype, run_sums_loop(DT, s1, s2, x, NULL, shift, n));
}

/* out = q x + r, or p dy + q x + r; the factors for each of c channels, or (`step` 0) one for all of a run. */
INLINE void channel_mix_loop(cb_dtype dtype, void *out, const void *x, const void *dy, const float *p, const float *q, const float *r,
                             int64_t rows, int64_t c, int step)
{
    for (int64_t i = 0; i < rows; i++)
        FOR_VECTORS(j, left, c) {
            vf by = step ? load_f32(q + j, left) : splat(*q), add = step ? load_f32(r + j, left) : splat(*r);
            vf y = fma_v(load(dtype, x, i * c + j, left), by, add);
            if (dy)
                y = fma_v(load(dtype, dy, i * c + j, left), step ? load_f32(p + j, left) : splat(*p), y);
            store(dtype, out, i * c + j, y, left);
        }
}

static void channel_mix(cb_dtype dtype, void *out, const void *x, const void *dy, const float *p, const float *q, const float *r,
                        int64_t rows, int64_t c, int step)
{
    if (dy && step)
        WITH_DTYPE(dtype, channel_mix_loop(DT, out, x, dy, p, q, r, rows, c, 1));
    else if (dy)
        WITH_DTYPE(dtype, channel_mix_loop(DT, out, x, dy, p, q, r, rows, c, 0));
    else if (step)
        WITH_DTYPE(dtype, channel_mix_loop(DT, out, x, NULL, p, q, r, rows, c, 1));
    else
        WITH_DTYPE(dtype, channel_mix_loop(DT, out, x, NULL, p, q, r, rows, c, 0));
}
