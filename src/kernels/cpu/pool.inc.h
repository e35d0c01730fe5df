/* pool.inc.h: maxima of windows over channels-last images, a vector of channels at a time.  Included once per instruction set (isa_*.c).
 *
 * Places are rows of c channels of one image; an index is the place that a maximum came from. */

INLINE vi load_index(const int32_t *p, int64_t c)
{
    return (vi)load_f32((const float *)(const void *)p, c);
}

INLINE void max_window_loop(cb_dtype dtype, void *y, int32_t *index, const void *x, const int32_t *place, int64_t places, int64_t c)
{
    FOR_VECTORS(j, left, c) {
        vf most = load(dtype, x, place[0] * c + j, left);
        vi from = splat_int(place[0]);
        for (int64_t k = 1; k < places; k++) {
            vf v = load(dtype, x, place[k] * c + j, left);
            vi larger = (vi)(v > most) | (vi)(v != v);
            most = choose(larger, v, most);
            from = (larger & splat_int(place[k])) | (~larger & from);
        }
        store(dtype, y, j, most, left);
        store_f32((float *)(void *)index + j, (vf)from, left);
    }
}

/* y (c), index (c) = the largest of the rows `place` of x, a NaN where there is one, the first among equals. */
static void max_window(cb_dtype dtype, void *y, int32_t *index, const void *x, const int32_t *place, int64_t places, int64_t c)
{
    WITH_DTYPE(dtype, max_window_loop(DT, y, index, x, place, places, c));
}

INLINE void max_gradient_loop(cb_dtype dtype, void *dx, const void *dy, const int32_t *index, int32_t place, const int32_t *window,
                              int64_t windows, int64_t c)
{
    FOR_VECTORS(j, left, c) {
        vf sum = {0};
        for (int64_t k = 0; k < windows; k++) {
            vi mine = (vi)(load_index(index + window[k] * c + j, left) == splat_int(place));
            sum = sum + (vf)(mine & (vi)load(dtype, dy, window[k] * c + j, left));
        }
        store(dtype, dx, j, sum, left);
    }
}

/* dx (c) = the sum over the rows `window` of dy, where their maximum came from `place`. */
static void max_gradient(cb_dtype dtype, void *dx, const void *dy, const int32_t *index, int32_t place, const int32_t *window,
                         int64_t windows, int64_t c)
{
    WITH_DTYPE(dtype, max_gradient_loop(DT, dx, dy, index, place, window, windows, c));
}
