/* corrupt.c: the table of corruptions: Hendrycks and Dietterich 2019, Benchmarking neural network robustness to common corruptions and
 * perturbations. */
#include "images/corrupt.h"

#include <string.h>

static const struct {
    const char *name;
    cb_corruption_function *apply;
} corruptions[] = {
    {"gaussian_noise", cb_corrupt_gaussian_noise},
    {"shot_noise", cb_corrupt_shot_noise},
    {"impulse_noise", cb_corrupt_impulse_noise},
    {"defocus_blur", cb_corrupt_defocus_blur},
    {"glass_blur", cb_corrupt_glass_blur},
    {"motion_blur", cb_corrupt_motion_blur},
    {"zoom_blur", cb_corrupt_zoom_blur},
    {"snow", cb_corrupt_snow},
    {"frost", cb_corrupt_frost},
    {"fog", cb_corrupt_fog},
    {"brightness", cb_corrupt_brightness},
    {"contrast", cb_corrupt_contrast},
    {"elastic_transform", cb_corrupt_elastic},
    {"pixelate", cb_corrupt_pixelate},
    {"jpeg_compression", cb_corrupt_jpeg},
    {"speckle_noise", cb_corrupt_speckle_noise},
    {"gaussian_blur", cb_corrupt_gaussian_blur},
    {"saturate", cb_corrupt_saturate},
};
enum { COUNT = sizeof corruptions / sizeof *corruptions, SMALL_SIDE = 64 };

size_t cb_corruption_count(void)
{
    return COUNT;
}

const char *cb_corruption_name(size_t index)
{
    return index < COUNT ? corruptions[index].name : NULL;
}

static cb_corruption_function *find(const char *name)
{
    const char *names[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        names[i] = corruptions[i].name;
        if (strcmp(names[i], name) == 0)
            return corruptions[i].apply;
    }
    cb_string near = {0};
    cb_closest_names(name, names, COUNT, 3, &near);
    cb_fail(CB_ERR_ARGUMENT, "corruption: found %s, expected one like %s", name, near.data ? near.data : "gaussian_noise");
    cb_string_free(&near);
    return NULL;
}

bool cb_image_corrupt(const cb_image *image, const char *name, int severity, cb_rng *rng, cb_image *out)
{
    cb_corruption_function *apply = find(name);
    if (!apply)
        return false;
    if (severity < 1 || severity > 5 || image->bits != 8)
        return cb_fail(CB_ERR_ARGUMENT, "corruption %s: found severity %d of an image of %d bits, expected 1 to 5, 8 bits", name, severity,
                       image->bits) == CB_OK;
    const cb_corruption_call call = {
        .severity = severity - 1, .small = image->width < SMALL_SIDE || image->height < SMALL_SIDE, .rng = rng};
    cb_image colors = {0};
    cb_field f = {0};
    bool ok = cb_image_copy(image, &colors) && cb_image_convert(&colors, 3) && cb_field_from(&f, &colors) && apply(&call, &f) &&
              cb_field_to(&f, out) && cb_image_convert(out, image->channels);
    cb_image_free(&colors);
    cb_field_free(&f);
    return ok;
}
