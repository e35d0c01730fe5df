/* patches.c: images to patches and back, what a convolution is made of: with the patches of an image as columns it is a
 * matrix product.  Letters: N images, C channels, H height, W width; a kernel of KH by KW; OH by OW places for it. */
#include "kernels/patches.h"

#include <string.h>

#include "kernels/parallel.h"

/* The places ox with 0 <= ox * stride + shift < width, of `places`. */
static cbk_range inside(int64_t shift, int64_t stride, int64_t width, int64_t places)
{
    int64_t begin = shift >= 0 ? 0 : (-shift + stride - 1) / stride, end = shift >= width ? 0 : (width - shift + stride - 1) / stride;
    begin = begin < places ? begin : places;
    end = end < places ? end : places;
    return (cbk_range){begin, end > begin ? end : begin};
}

/* A row of patches: n elements, `stride` apart in the image. */
static void copy_row(char *to, const char *from, int64_t n, int64_t stride, size_t size)
{
    if (stride == 1)
        memcpy(to, from, (size_t)n * size);
    else if (size == 2)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)(void *)to)[i] = ((const uint16_t *)(const void *)from)[i * stride];
    else if (size == 4)
        for (int64_t i = 0; i < n; i++)
            ((uint32_t *)(void *)to)[i] = ((const uint32_t *)(const void *)from)[i * stride];
    else
        for (int64_t i = 0; i < n; i++)
            ((uint64_t *)(void *)to)[i] = ((const uint64_t *)(const void *)from)[i * stride];
}

void cbk_im2col(void *columns, const void *x, cb_dtype dtype, const cbk_patches *p)
{
    if (cb_rehearsing())
        return;
    size_t size = cb_dtype_size(dtype);
    int64_t kernel = p->kernel[0] * p->kernel[1], places = p->places[0] * p->places[1];
    int threads = cbk_threads(p->n * p->c * kernel * places);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < p->n * p->c * kernel; row++) {
        int64_t ky = row % kernel / p->kernel[1], kx = row % p->kernel[1];
        int64_t shift_y = ky * p->dilation[0] - p->padding[0], shift_x = kx * p->dilation[1] - p->padding[1];
        const char *image = (const char *)x + (size_t)(row / kernel * p->h * p->w) * size;
        char *to = (char *)columns + (size_t)(row * places) * size;
        cbk_range in = inside(shift_x, p->stride[1], p->w, p->places[1]);
        memset(to, 0, (size_t)places * size);
        for (int64_t oy = 0; oy < p->places[0] && in.begin < in.end; oy++, to += (size_t)p->places[1] * size) {
            int64_t y = oy * p->stride[0] + shift_y;
            if (y >= 0 && y < p->h)
                copy_row(to + (size_t)in.begin * size, image + (size_t)(y * p->w + in.begin * p->stride[1] + shift_x) * size,
                         in.end - in.begin, p->stride[1], size);
        }
    }
}

#define COL2IM(T)                                                                                                                          \
    static void col2im_##T(T *image, const T *columns, const cbk_patches *p)                                                               \
    {                                                                                                                                      \
        memset(image, 0, (size_t)(p->h * p->w) * sizeof *image);                                                                           \
        for (int64_t ky = 0; ky < p->kernel[0]; ky++)                                                                                      \
            for (int64_t kx = 0; kx < p->kernel[1]; kx++, columns += p->places[0] * p->places[1]) {                                        \
                int64_t shift_y = ky * p->dilation[0] - p->padding[0], shift_x = kx * p->dilation[1] - p->padding[1];                      \
                cbk_range in = inside(shift_x, p->stride[1], p->w, p->places[1]);                                                          \
                for (int64_t oy = 0; oy < p->places[0]; oy++) {                                                                            \
                    int64_t y = oy * p->stride[0] + shift_y;                                                                               \
                    for (int64_t ox = in.begin; y >= 0 && y < p->h && ox < in.end; ox++)                                                   \
                        image[y * p->w + ox * p->stride[1] + shift_x] += columns[oy * p->places[1] + ox];                                  \
                }                                                                                                                          \
            }                                                                                                                              \
    }
COL2IM(float)
COL2IM(double)

void cbk_col2im(void *x, const void *columns, cb_dtype dtype, const cbk_patches *p)
{
    if (cb_rehearsing())
        return;
    int64_t kernel = p->kernel[0] * p->kernel[1], places = p->places[0] * p->places[1];
    int threads = cbk_threads(p->n * p->c * kernel * places);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t plane = 0; plane < p->n * p->c; plane++) {
        int64_t to = plane * p->h * p->w, from = plane * kernel * places;
        if (dtype == CB_F64)
            col2im_double((double *)x + to, (const double *)columns + from, p);
        else
            col2im_float((float *)x + to, (const float *)columns + from, p);
    }
}
