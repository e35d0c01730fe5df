/* number_maps.c: maps of numbers: of each place how far it is, which way it faces, or whether it stands out; as PNGs and other images, or NumPy's arrays.
 *
 * What files hold is brought to one form, f32 with the numbers of a place side by side and NaN where one is not known:
 *
 *     depth      grey levels or an array, divided by map_scale: above 0, and no more than max_depth
 *     normals    colours, 2 level / 255 - 1 (of 16 bits 65535), or an array (height, width, 3) or (3, height, width); made to have length 1
 *     saliency   grey levels, divided by 255 or 65535, or an array: 0 to 1 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/formats.h"
#include "cambium/tensor.h"
#include "data/arrays.h"
#include "data/images.h"

static const double least_length = 0.1; /* of a normal: what is shorter has no direction */

/* ---- options ---- */

static bool add_invalid(image_store *s, const char *text)
{
    enum { MOST = sizeof s->invalid / sizeof *s->invalid };
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || s->invalid_count == MOST)
        return cb_fail(CB_ERR_ARGUMENT, "invalid_values: found \"%s\", expected none, or %d numbers at most", text, MOST) == CB_OK;
    s->invalid[s->invalid_count++] = value;
    return true;
}

bool cb_number_maps_open(image_store *s, const cb_image_data_options *o)
{
    static const char *const depth[3] = {"depth"}, *const normals[3] = {"x", "y", "z"}, *const saliency[3] = {"saliency"};
    const char *const *names = s->objective == CB_OBJECTIVE_DEPTH_ESTIMATION ? depth : s->numbers == 3 ? normals : saliency;
    const cb_string_list *given = &o->invalid_values;
    bool ok = true, none = given->count == 1 && strcmp(given->items[0], "none") == 0;
    s->map_scale = o->map_scale;
    s->max_depth = o->max_depth;
    if (o->max_depth > 0 && s->objective != CB_OBJECTIVE_DEPTH_ESTIMATION)
        return cb_fail(CB_ERR_ARGUMENT, "max_depth: is of depth estimation, found another task") == CB_OK;
    if (!given->count && s->objective != CB_OBJECTIVE_SALIENCY)
        s->invalid_count = 1; /* 0 */
    for (size_t i = 0; ok && !none && i < given->count; i++)
        ok = add_invalid(s, given->items[i]);
    for (int k = 0; ok && k < 3 && names[k]; k++)
        ok = cb_string_list_add(&s->labels, names[k]);
    return ok;
}

bool cb_number_map_is_name(const char *path)
{
    return cb_image_is_name(path) || cb_ends_with(path, ".npy");
}

/* ---- what files hold ---- */

/* Numbers as they stand in a file, `numbers` side by side, into f32. */
static bool read_image(const image_store *s, const image_item *item, cb_image *map, double *scale)
{
    cb_image image = {0};
    int64_t page = item->page ? item->page - 1 : 0;
    cb_image_mode mode = s->numbers == 3 ? CB_IMAGE_RGB : s->objective == CB_OBJECTIVE_DEPTH_ESTIMATION ? CB_IMAGE_LABELS : CB_IMAGE_GREY;
    bool ok =
        cb_image_read(item->map, &(cb_image_options){.mode = mode, .deep = true, .max_pixels = s->max_pixels, .page = page}, &image) &&
        cb_image_make(map, image.width, image.height, s->numbers, 32);
    float *to = ok ? (float *)(void *)map->pixels : NULL;
    for (int64_t i = 0; ok && i < image.width * image.height * s->numbers; i++)
        to[i] = image.bits == 16 ? ((const uint16_t *)(const void *)image.pixels)[i] : image.pixels[i];
    if (mode != CB_IMAGE_LABELS)
        *scale = image.bits == 16 ? UINT16_MAX : UINT8_MAX;
    cb_image_free(&image);
    return ok;
}

/* (height, width), or with 1 in front or behind; of three numbers (height, width, 3) or (3, height, width). */
static bool shape_of(const image_store *s, const char *path, const raw_array *a, int64_t *height, int64_t *width, bool *planes)
{
    *planes = a->ndim == 3 && a->shape[0] == s->numbers && (s->numbers == 1 || a->shape[2] != s->numbers);
    bool fits = (a->ndim == 2 && s->numbers == 1) || *planes || (a->ndim == 3 && a->shape[2] == s->numbers);
    int first = *planes;
    *height = fits ? a->shape[first] : 0;
    *width = fits ? a->shape[first + 1] : 0;
    if (*height < 1 || *width < 1 || *height > s->max_pixels / *width)
        return cb_fail(CB_ERR_FORMAT, "%s: found an array of %d dimensions, expected (height, width%s) of %lld places at most", path,
                       a->ndim, s->numbers == 1 ? "" : ", 3", (long long)s->max_pixels) == CB_OK;
    return true;
}

static bool read_array(const image_store *s, const char *path, cb_image *map)
{
    raw_array a;
    int64_t height, width;
    bool planes;
    if (!cb_array_read_npy(path, NULL, &a))
        return false;
    bool ok = shape_of(s, path, &a, &height, &width, &planes) && cb_image_make(map, width, height, s->numbers, 32);
    float *to = ok ? (float *)(void *)map->pixels : NULL;
    for (int64_t i = 0; ok && i < width * height; i++)
        for (int k = 0; k < s->numbers; k++)
            to[i * s->numbers + k] = (float)cb_array_number(&a, planes ? k * width * height + i : i * s->numbers + k);
    cb_free(a.block);
    return ok;
}

/* ---- what they mean ---- */

static bool is_invalid(const image_store *s, const float *numbers)
{
    bool all[sizeof s->invalid / sizeof *s->invalid];
    for (int v = 0; v < s->invalid_count; v++)
        all[v] = true;
    for (int k = 0; k < s->numbers; k++) {
        if (!isfinite(numbers[k]))
            return true;
        for (int v = 0; v < s->invalid_count; v++)
            all[v] = all[v] && (double)numbers[k] == s->invalid[v];
    }
    for (int v = 0; v < s->invalid_count; v++)
        if (all[v])
            return true;
    return false;
}

/* A vector of length 1; false: it has no direction. */
static bool turn(float *n, double scale)
{
    double v[3], length = 0;
    for (int k = 0; k < 3; k++) {
        v[k] = scale > 0 ? 2 * (double)n[k] / scale - 1 : (double)n[k];
        length += v[k] * v[k];
    }
    length = sqrt(length);
    for (int k = 0; k < 3; k++)
        n[k] = (float)(v[k] / length);
    return length >= least_length;
}

/* What numbers of a place mean, in place, NaN where they do not count; false: they are none of the kind. */
static bool read_place(const image_store *s, double scale, float *n)
{
    if (is_invalid(s, n) || (s->numbers == 3 && !turn(n, scale))) {
        for (int k = 0; k < s->numbers; k++)
            n[k] = NAN;
        return true;
    }
    if (s->numbers == 3)
        return true;
    double value = (double)*n / scale;
    if (fabs(value) > (double)FLT_MAX)
        return false;
    *n = (float)value;
    if (s->objective == CB_OBJECTIVE_SALIENCY)
        return *n >= 0 && *n <= 1;
    bool above = *n > 0;
    if (s->max_depth > 0 && (double)*n > s->max_depth)
        *n = NAN;
    return above;
}

static bool refuse(const image_store *s, const char *path, const cb_image *map, int64_t i, double found)
{
    bool saliency = s->objective == CB_OBJECTIVE_SALIENCY;
    return cb_fail(CB_ERR_FORMAT, "%s: found %g at column %lld of row %lld, expected %s, or --invalid-values that says what it is", path,
                   found, (long long)(i % map->width), (long long)(i / map->width),
                   saliency ? "0 to 1 after division by --map-scale"
                            : "a depth above 0, also after division by --map-scale and then finite") == CB_OK;
}

bool cb_number_map_read(const image_store *s, const image_item *item, cb_image *map)
{
    const char *path = item->map;
    bool array = cb_ends_with(path, ".npy");
    double scale = array && s->numbers == 3 ? 0 : 1;
    bool ok = array ? read_array(s, path, map) : read_image(s, item, map, &scale);
    scale = s->map_scale > 0 ? s->map_scale : scale;
    float *n = ok ? (float *)(void *)map->pixels : NULL;
    for (int64_t i = 0; ok && i < map->width * map->height; i++, n += s->numbers) {
        double found = (double)*n;
        ok = read_place(s, scale, n) || refuse(s, path, map, i, found);
    }
    if (!ok)
        cb_image_free(map);
    return ok;
}

/* What is mirrored looks the other way. */
void cb_number_map_pick(const image_store *s, const cb_image *map, const cb_image *places, cb_image_mirrored mirrored, float *targets)
{
    const int32_t *from = (const int32_t *)(const void *)places->pixels;
    const float *numbers = (const float *)(const void *)map->pixels;
    int64_t count = places->width * places->height;
    for (int k = 0; k < s->numbers; k++) {
        float sign = s->numbers == 3 && ((k == 0 && mirrored.across) || (k == 1 && mirrored.down)) ? -1 : 1;
        for (int64_t i = 0; i < count; i++)
            targets[k * count + i] = from[i] ? sign * numbers[(int64_t)(from[i] - 1) * s->numbers + k] : NAN;
    }
}

/* ---- what was predicted ---- */

/* (height, width, K) of another size, between places. */
static bool resize(const cb_image *map, int64_t height, int64_t width, cb_image *out)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope && cb_image_make(out, width, height, map->channels, 32);
    if (ok) {
        cb_tensor *x = cb_from(CB_F32, (const float *)(const void *)map->pixels, 1, map->height, map->width, map->channels), *y = NULL;
        cb_no_grad y = cb_interpolate(cb_permute(x, 0, 3, 1, 2), .size = {height, width}, .mode = CB_LINEAR);
        y = y ? cb_contiguous(cb_permute(y, 0, 2, 3, 1)) : NULL;
        ok = y && cb_read(y, CB_F32, out->pixels);
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

static double clamped(double value, double most)
{
    return fmin(fmax(value, 0), most);
}

/* As files have it: depth in 16 bits, other things in 8. */
static bool write_image(const image_store *s, const char *path, const cb_image *map)
{
    bool depth = s->objective == CB_OBJECTIVE_DEPTH_ESTIMATION;
    double scale = depth ? s->map_scale > 0 ? s->map_scale : 1 : UINT8_MAX;
    const float *from = (const float *)(const void *)map->pixels;
    cb_image image = {0};
    bool ok = cb_image_make(&image, map->width, map->height, s->numbers, depth ? 16 : 8);
    for (int64_t i = 0; ok && i < map->width * map->height * s->numbers; i++)
        if (depth)
            ((uint16_t *)(void *)image.pixels)[i] = (uint16_t)lrint(clamped((double)from[i] * scale, UINT16_MAX));
        else
            image.pixels[i] = (uint8_t)lrint(clamped((s->numbers == 3 ? ((double)from[i] + 1) / 2 : (double)from[i]) * scale, UINT8_MAX));
    ok = ok && cb_image_write_png(path, &image);
    cb_image_free(&image);
    return ok;
}

bool cb_number_map_write(const image_store *s, const char *path, bool as_array, const cb_image *map, int64_t height, int64_t width)
{
    const int64_t shape[] = {height, width, s->numbers};
    float scale = as_array && s->numbers == 1 && s->map_scale > 0 ? (float)s->map_scale : 1;
    cb_image sized = {0};
    bool ok = height == map->height && width == map->width ? cb_image_copy(map, &sized) : resize(map, height, width, &sized);
    float *n = ok ? (float *)(void *)sized.pixels : NULL;
    for (int64_t i = 0; ok && i < height * width; i++)
        if (s->numbers == 3)
            turn(n + 3 * i, 0);
        else
            n[i] *= scale;
    ok = ok && (as_array ? cb_npy_write(path, n, s->numbers == 3 ? 3 : 2, shape) : write_image(s, path, &sized));
    cb_image_free(&sized);
    return ok;
}
