/* field.c: images of real numbers: blurring, enlarging, reading between pixels. */
#include "images/field.h"

#include <math.h>
#include <string.h>

bool cb_field_make(cb_field *f, int64_t width, int64_t height, int channels)
{
    *f = (cb_field){.width = width, .height = height, .channels = channels};
    f->values = cb_calloc((size_t)(width * height * channels), sizeof *f->values);
    return f->values;
}

void cb_field_free(cb_field *f)
{
    cb_free(f->values);
    *f = (cb_field){0};
}

bool cb_field_from(cb_field *f, const cb_image *image)
{
    if (!cb_field_make(f, image->width, image->height, image->channels))
        return false;
    for (size_t i = 0; i < cb_image_bytes(image); i++)
        f->values[i] = image->pixels[i] / 255.0;
    return true;
}

bool cb_field_to(const cb_field *f, cb_image *image)
{
    if (!cb_image_make(image, f->width, f->height, f->channels, 8))
        return false;
    for (size_t i = 0; i < cb_image_bytes(image); i++)
        image->pixels[i] = (uint8_t)(cb_field_unit(f->values[i]) * 255);
    return true;
}

int64_t cb_field_edge(int64_t at, int64_t size, cb_edge edge)
{
    if (at >= 0 && at < size)
        return at;
    if (edge == CB_EDGE_NEAREST || size == 1)
        return at < 0 ? 0 : size - 1;
    int64_t turn = edge == CB_EDGE_REFLECT ? 2 * size : 2 * size - 2;
    at = (at % turn + turn) % turn;
    if (at < size)
        return at;
    return turn - at - (edge == CB_EDGE_REFLECT);
}

/* ---- Gaussian blur ---- */

/* Along one axis: lines of `size` values `step` apart. */
static void blur_lines(const cb_field *f, const double *from, double *to, bool down, const double *weights, int64_t radius, cb_edge edge)
{
    int64_t size = down ? f->height : f->width, step = down ? f->width * f->channels : f->channels;
    int64_t count = f->width * f->height * f->channels;
    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / step % size, first = i - at * step;
        double sum = 0;
        for (int64_t k = -radius; k <= radius; k++)
            sum += weights[k + radius] * from[first + cb_field_edge(at + k, size, edge) * step];
        to[i] = sum;
    }
}

bool cb_field_gaussian(cb_field *f, double sigma, double truncate, cb_edge edge)
{
    int64_t radius = (int64_t)(truncate * sigma + 0.5);
    if (radius < 1)
        return true;
    double *weights = cb_calloc((size_t)(2 * radius + 1), sizeof *weights), sum = 0;
    double *half = cb_calloc((size_t)(f->width * f->height * f->channels), sizeof *half);
    bool ok = weights && half;
    for (int64_t k = -radius; ok && k <= radius; k++)
        sum += weights[k + radius] = exp(-0.5 * (double)(k * k) / (sigma * sigma));
    for (int64_t k = 0; ok && k <= 2 * radius; k++)
        weights[k] /= sum;
    if (ok) {
        blur_lines(f, f->values, half, true, weights, radius, edge);
        blur_lines(f, half, f->values, false, weights, radius, edge);
    }
    cb_free(weights);
    cb_free(half);
    return ok;
}

/* ---- other filters ---- */

static double filtered(const cb_field *f, const double *from, int64_t x, int64_t y, int c, const double *kernel, int side, cb_edge edge)
{
    double sum = 0;
    for (int j = 0; j < side; j++) {
        int64_t row = cb_field_edge(y + j - side / 2, f->height, edge) * f->width;
        for (int i = 0; i < side; i++)
            if (kernel[j * side + i] != 0)
                sum += kernel[j * side + i] * from[(row + cb_field_edge(x + i - side / 2, f->width, edge)) * f->channels + c];
    }
    return sum;
}

static double *copy_of(const cb_field *f)
{
    size_t bytes = (size_t)(f->width * f->height * f->channels) * sizeof *f->values;
    double *copy = cb_alloc(bytes);
    if (copy)
        memcpy(copy, f->values, bytes);
    return copy;
}

bool cb_field_filter(cb_field *f, const double *kernel, int side, cb_edge edge)
{
    double *from = copy_of(f);
    for (int64_t y = 0; from && y < f->height; y++)
        for (int64_t x = 0; x < f->width; x++)
            for (int c = 0; c < f->channels; c++)
                f->values[(y * f->width + x) * f->channels + c] = filtered(f, from, x, y, c, kernel, side, edge);
    bool ok = from;
    cb_free(from);
    return ok;
}

enum { MOST_LINE = 64 };

bool cb_field_motion(cb_field *f, double radius, double sigma, double degrees)
{
    int length = 2 * (int)ceil(radius) + 1;
    double weights[MOST_LINE], sum = 0, angle = degrees * M_PI / 180;
    int64_t dx[MOST_LINE], dy[MOST_LINE];
    length = length < MOST_LINE ? length : MOST_LINE;
    for (int i = 0; i < length; i++) {
        sum += weights[i] = exp(-(i * i) / (2 * sigma * sigma));
        dx[i] = (int64_t)ceil(i * cos(angle) - 0.5);
        dy[i] = (int64_t)ceil(i * sin(angle) - 0.5);
    }
    double *from = copy_of(f);
    for (int64_t y = 0; from && y < f->height; y++)
        for (int64_t x = 0; x < f->width; x++)
            for (int c = 0; c < f->channels; c++) {
                double value = 0;
                for (int i = 0; i < length; i++)
                    value += weights[i] / sum *
                             from[(cb_field_edge(y + dy[i], f->height, CB_EDGE_NEAREST) * f->width +
                                   cb_field_edge(x + dx[i], f->width, CB_EDGE_NEAREST)) *
                                      f->channels +
                                  c];
                f->values[(y * f->width + x) * f->channels + c] = round(value * 255) / 255;
            }
    bool ok = from;
    cb_free(from);
    return ok;
}

/* ---- between pixels ---- */

double cb_field_at(const cb_field *f, double x, double y, int channel, cb_edge edge)
{
    double left = floor(x), top = floor(y), u = x - left, v = y - top, sum = 0;
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            double weight = (i ? u : 1 - u) * (j ? v : 1 - v);
            int64_t column = cb_field_edge((int64_t)left + i, f->width, edge), row = cb_field_edge((int64_t)top + j, f->height, edge);
            if (weight != 0)
                sum += weight * f->values[(row * f->width + column) * f->channels + channel];
        }
    return sum;
}

bool cb_field_zoom(const cb_field *f, double factor, cb_field *out)
{
    if (!cb_field_make(out, f->width, f->height, f->channels))
        return false;
    int64_t part_w = (int64_t)ceil((double)f->width / factor), part_h = (int64_t)ceil((double)f->height / factor);
    int64_t left = (f->width - part_w) / 2, top = (f->height - part_h) / 2;
    /* the part becomes this large, the first and last pixel staying where they are; what is more than the image is trimmed */
    int64_t large_w = llrint((double)part_w * factor), large_h = llrint((double)part_h * factor);
    double step_x = large_w > 1 ? (double)(part_w - 1) / (double)(large_w - 1) : 0,
           step_y = large_h > 1 ? (double)(part_h - 1) / (double)(large_h - 1) : 0;
    int64_t trim_x = (large_w - f->width) / 2, trim_y = (large_h - f->height) / 2;
    for (int64_t y = 0; y < f->height; y++)
        for (int64_t x = 0; x < f->width; x++)
            for (int c = 0; c < f->channels; c++)
                out->values[(y * f->width + x) * f->channels + c] = cb_field_at(
                    f, (double)left + (double)(x + trim_x) * step_x, (double)top + (double)(y + trim_y) * step_y, c, CB_EDGE_NEAREST);
    return true;
}
