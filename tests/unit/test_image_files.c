/* test_image_files.c: images out of files as Pillow reads them, sizes as it changes them, and what transformers' processors make of them;
 * the values are those of tests/oracle/images.py. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/images.h"
#include "format_fixtures.h"

static cb_safetensors *reference(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/images/%s.safetensors", CB_TEST_DATA, name);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_non_null(file);
    return file;
}

static const cb_weight_entry *entry(const cb_safetensors *file, const char *kind, const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "%s:%s", kind, name);
    return cb_safetensors_find(file, full);
}

static const char *after(const char *name, const char *kind)
{
    size_t n = strlen(kind);
    return strncmp(name, kind, n) == 0 ? name + n : NULL;
}

static bool decode(const cb_safetensors *file, const char *name, const cb_image_options *options, cb_image *image)
{
    const cb_weight_entry *bytes = entry(file, "file", name);
    assert_non_null(bytes);
    return cb_image_decode(name, bytes->data, bytes->size, options, image);
}

static void expect_pixels(const char *name, const cb_image *image, const cb_weight_entry *expected, int bits)
{
    if (image->height != expected->shape[0] || image->width != expected->shape[1] || image->bits != bits ||
        image->channels != (expected->ndim == 3 ? 3 : 1))
        fail_msg("%s: found %lld x %lld x %d of %d bits", name, (long long)image->height, (long long)image->width, image->channels,
                 image->bits);
    for (size_t i = 0; i < expected->size; i++)
        if (image->pixels[i] != ((const uint8_t *)expected->data)[i])
            fail_msg("%s: byte %zu: found %d, expected %d", name, i, image->pixels[i], ((const uint8_t *)expected->data)[i]);
}

static void files_hold_what_pillow_finds(void **state)
{
    (void)state;
    cb_safetensors *file = reference("files");
    int files = 0, deep = 0, labels = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        const char *rgb = after(e->name, "rgb:"), *wide = after(e->name, "deep:"), *numbers = after(e->name, "labels:");
        const char *name = rgb ? rgb : wide ? wide : numbers;
        cb_image image = {0};
        if (!name)
            continue;
        const cb_image_options options = {.mode = numbers ? CB_IMAGE_LABELS
                                                  : wide  ? CB_IMAGE_NATIVE
                                                          : CB_IMAGE_RGB,
                                          .deep = wide,
                                          .exif_transpose = true};
        if (!decode(file, name, &options, &image))
            fail_msg("%s", cb_error_message());
        expect_pixels(e->name, &image, e, wide ? 16 : 8);
        files += rgb != NULL, deep += wide != NULL, labels += numbers != NULL;
        cb_image_free(&image);
    }
    assert_true(files >= 60 && deep >= 3 && labels >= 4);
    cb_safetensors_close(file);
}

static void modes_give_grey_levels_or_what_the_file_has(void **state)
{
    (void)state;
    cb_safetensors *file = reference("files");
    cb_image rgb = {0}, grey = {0}, native = {0};
    assert_true(decode(file, "rgb.png", NULL, &rgb));
    assert_true(decode(file, "rgb.png", &(cb_image_options){.mode = CB_IMAGE_GREY}, &grey));
    assert_int_equal(grey.channels, 1);
    for (int64_t i = 0; i < rgb.width * rgb.height; i++) {
        double level = 0.299 * rgb.pixels[3 * i] + 0.587 * rgb.pixels[3 * i + 1] + 0.114 * rgb.pixels[3 * i + 2];
        assert_true(fabs(grey.pixels[i] - level) <= 0.51); /* rounded, with weights of 16 bits */
    }
    assert_true(decode(file, "grey.jpg", &(cb_image_options){.mode = CB_IMAGE_NATIVE}, &native));
    assert_int_equal(native.channels, 1);
    assert_true(decode(file, "bitmap.png", &(cb_image_options){.mode = CB_IMAGE_LABELS}, &native));
    for (int64_t i = 0; i < native.width * native.height; i++)
        assert_true(native.pixels[i] <= 1);
    assert_false(decode(file, "rgb.png", &(cb_image_options){.mode = CB_IMAGE_LABELS}, &native));
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    cb_error_clear();
    cb_image_free(&rgb);
    cb_image_free(&grey);
    cb_image_free(&native);
    cb_safetensors_close(file);
}

/* A cut anywhere gives an error or, behind the last pixel, the image. */
static void files_that_end_early_are_refused(void **state)
{
    (void)state;
    cb_safetensors *file = reference("files");
    uint64_t before = cb_memory().live_bytes;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        const char *name = after(e->name, "file:");
        size_t refused = 0;
        for (size_t length = 0; name && length < e->size; length += 1 + length / 40) {
            cb_image image = {0};
            uint8_t *cut = malloc(length + 1); /* so that a sanitizer sees a read beyond it */
            memcpy(cut, e->data, length);
            if (!cb_image_decode(name, cut, length, NULL, &image)) {
                assert_null(image.pixels);
                assert_int_not_equal(cb_error_status(), CB_OK);
                assert_non_null(strstr(cb_error_message(), name));
                cb_error_clear();
                refused++;
            }
            assert_true(cb_ok());
            cb_image_free(&image);
            free(cut);
        }
        if (name && refused < 10)
            fail_msg("%s: %zu cuts were refused", name, refused);
    }
    assert_true(cb_memory().live_bytes == before);
    cb_safetensors_close(file);
}

static void sizes_are_bounded(void **state)
{
    (void)state;
    cb_safetensors *file = reference("files");
    static const char *const names[] = {"rgb.png", "rgb.jpg", "rgb_raw.tif", "rgb.bmp", "binary.ppm", "runs_8.bmp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cb_image image = {0};
        assert_false(decode(file, names[i], &(cb_image_options){.max_pixels = 20}, &image));
        assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
        assert_non_null(strstr(cb_error_message(), "expected 20 at most"));
        cb_error_clear();
    }
    cb_safetensors_close(file);
}

static void expect_refusal(const void *bytes, size_t length, const char *text)
{
    cb_image image = {0};
    assert_false(cb_image_decode("x", bytes, length, NULL, &image));
    if (!strstr(cb_error_message(), text))
        fail_msg("the error is \"%s\", expected \"%s\" in it", cb_error_message(), text);
    cb_error_clear();
}
#define REFUSED(text, expected) expect_refusal(text, sizeof text - 1, expected)

static void what_is_no_image_is_named(void **state)
{
    (void)state;
    REFUSED("", "found nothing in it");
    REFUSED("GIF89a", "expected a PNG, JPEG, TIFF, BMP or PNM image");
    REFUSED("P5 0 3 255\n", "0 x 3");
    REFUSED("P5 2 1 0\n..", "largest value: found 0");
    REFUSED("P2 2 1 9\n1 12", "value: found more than 9");
    REFUSED("P5 2 1 9\n1z", "found a value of");
    REFUSED("P6 99999999999 1 255\n", "width: found more than");
    REFUSED("P5 60000 60000 255\n", "expected 67108864 at most");
    REFUSED("P5 600 600 255\nabc", "found 3 bytes of pixels, expected 360000");
    REFUSED("P1 2 1\n12", "expected 0 or 1");
    REFUSED("BM00000000\x36\0\0\0\x0d\0\0\0xxxxxxxxxxxxxxx", "header of 13 bytes");
    cb_image image = {0};
    assert_false(cb_image_read("/nonexistent/image.png", NULL, &image));
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    cb_error_clear();
}

static void names_of_images_are_known(void **state)
{
    (void)state;
    assert_true(cb_image_is_name("a/b.JPG") && cb_image_is_name("x.jpeg") && cb_image_is_name("x.tif") && cb_image_is_name("x.pgm"));
    assert_false(cb_image_is_name(".png") || cb_image_is_name("x.txt") || cb_image_is_name("png"));
}

/* ---- sizes ---- */

static void wrap(const cb_weight_entry *e, cb_image *image)
{
    assert_true(cb_image_make(image, e->shape[1], e->shape[0], e->ndim == 3 ? 3 : 1, 8));
    memcpy(image->pixels, e->data, e->size);
}

static void sizes_change_as_in_pillow(void **state)
{
    (void)state;
    cb_safetensors *file = reference("resize");
    cb_image rgb = {0}, grey = {0}, out = {0};
    wrap(entry(file, "in", "rgb"), &rgb);
    wrap(entry(file, "in", "grey"), &grey);
    static const double part[4] = {3.25, 2.5, 30, 21.75};
    int cases = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        char kind[16];
        int how, width, height;
        if (sscanf(e->name, "%15[a-z]:%d:%d:%d", kind, &how, &width, &height) != 4)
            continue;
        bool cut = strcmp(kind, "part") == 0;
        assert_true(cb_image_resize(strcmp(kind, "grey") == 0 ? &grey : &rgb, width, height, (cb_resample)how, cut ? part : NULL, &out));
        expect_pixels(e->name, &out, e, 8);
        cases++;
    }
    assert_true(cases >= 60);
    assert_true(cb_image_resize(&rgb, rgb.width, rgb.height, CB_RESAMPLE_LANCZOS, NULL, &out));
    assert_memory_equal(out.pixels, rgb.pixels, cb_image_bytes(&rgb));
    assert_false(cb_image_resize(&rgb, 0, 5, CB_RESAMPLE_BOX, NULL, &out));
    cb_error_clear();
    assert_false(cb_image_resize(&rgb, 5, 5, CB_RESAMPLE_BOX, (double[]){0, 0, 99, 5}, &out));
    cb_error_clear();
    cb_image_free(&rgb);
    cb_image_free(&grey);
    cb_image_free(&out);
    cb_safetensors_close(file);
}

static void what_lies_outside_a_cut_is_black(void **state)
{
    (void)state;
    cb_image image = {0}, out = {0};
    assert_true(cb_image_make(&image, 3, 2, 1, 8));
    memcpy(image.pixels, "abcdef", 6);
    assert_true(cb_image_crop(&image, -1, -1, 3, 4, &out));
    assert_memory_equal(out.pixels, "\0\0\0\0ab\0de\0\0\0", 12);
    assert_true(cb_image_crop(&image, 1, 0, 2, 2, &out));
    assert_memory_equal(out.pixels, "bcef", 4);
    assert_true(cb_image_crop(&image, 7, 9, 1, 1, &out));
    assert_int_equal(out.pixels[0], 0);
    cb_image_free(&image);
    cb_image_free(&out);
}

/* ---- processors ---- */

static void expect_numbers(const cb_image_processor *p, const cb_image *image, const cb_weight_entry *expected)
{
    int64_t height, width;
    assert_true(cb_image_processor_size(p, &height, &width));
    assert_int_equal(height, expected->shape[1]);
    assert_int_equal(width, expected->shape[2]);
    size_t count = (size_t)(3 * height * width);
    float *pixels = malloc(count * sizeof *pixels);
    if (!cb_image_process(p, image, pixels))
        fail_msg("%s: %s", expected->name, cb_error_message());
    /* levels are equal; numbers are f32 operations in the same order, but for a division that may be a product there */
    for (size_t i = 0; i < count; i++)
        if (fabsf(pixels[i] - ((const float *)expected->data)[i]) > 1e-6F)
            fail_msg("%s: %zu: found %g, expected %g", expected->name, i, (double)pixels[i], (double)((const float *)expected->data)[i]);
    free(pixels);
}

static void processors_make_what_transformers_make(void **state)
{
    (void)state;
    cb_safetensors *file = reference("processors");
    cb_image lying = {0}, upright = {0};
    wrap(cb_safetensors_find(file, "in"), &lying);
    wrap(cb_safetensors_find(file, "in_upright"), &upright);
    int cases = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        const char *name = after(e->name, "json:");
        cb_image_processor p, again;
        if (!name)
            continue;
        if (!cb_image_processor_parse(name, e->data, e->size, &p))
            fail_msg("%s", cb_error_message());
        expect_numbers(&p, &lying, entry(file, "in", name));
        expect_numbers(&p, &upright, entry(file, "in_upright", name));
        assert_true(cb_image_processor_save(&p, "."));
        assert_true(cb_image_processor_load(".", &again));
        char *one = cb_image_processor_describe(&p), *other = cb_image_processor_describe(&again);
        assert_string_equal(one, other);
        cb_free(one);
        cb_free(other);
        expect_numbers(&again, &lying, entry(file, "in", name));
        cases++;
    }
    assert_int_equal(cases, 10);
    cb_image_free(&lying);
    cb_image_free(&upright);
    cb_safetensors_close(file);
}

static void refuse_processor(const char *json, const char *text)
{
    cb_image_processor p;
    assert_false(cb_image_processor_parse("x.json", json, strlen(json), &p));
    if (!strstr(cb_error_message(), text))
        fail_msg("the error is \"%s\", expected \"%s\" in it", cb_error_message(), text);
    cb_error_clear();
}

static void processors_of_other_kinds_are_refused(void **state)
{
    (void)state;
    refuse_processor("[]", "expected an object");
    refuse_processor("{}", "image_processor_type: found none");
    refuse_processor("{\"image_processor_type\": \"DonutImageProcessor\"}", "found DonutImageProcessor");
#define VIT(fields) "{\"image_processor_type\": \"ViTImageProcessor\", " fields "}"
    refuse_processor(VIT("\"size\": 0"), "size: found 0, expected 1 to 8192");
    refuse_processor(VIT("\"size\": {\"height\": 3, \"width\": 99999}"), "width: found 99999");
    refuse_processor(VIT("\"resample\": 6"), "resample: found 6");
    refuse_processor(VIT("\"image_std\": [0, 1, 1]"), "image_std: expected a list of one or three numbers above 0");
    refuse_processor(VIT("\"image_std\": [1]"), "found 3 numbers in image_mean and 1 in image_std");
    refuse_processor(VIT("\"rescale_factor\": -1"), "rescale_factor: found -1");
    refuse_processor("{\"image_processor_type\": \"ConvNextImageProcessor\", \"crop_pct\": 0}", "crop_pct: found 0");
    cb_image_processor p;
    assert_false(cb_image_processor_load(".", &p));
    assert_non_null(strstr(cb_error_message(), "found no preprocessor_config.json"));
    cb_error_clear();
}

static void timm_and_grey_models_are_read(void **state)
{
    (void)state;
    cb_image_processor p;
    put("config.json",
        "{\"architecture\": \"resnet18\", \"pretrained_cfg\": {\"input_size\": [3, 224, 224], \"interpolation\": \"bicubic\", "
        "\"crop_pct\": 0.95, \"mean\": [0.5, 0.25, 0.125], \"std\": [1, 2, 4]}}");
    assert_true(cb_image_processor_load(".", &p));
    assert_int_equal(p.shortest_edge, 235); /* floor(224 / 0.95) */
    assert_true(p.do_center_crop && p.crop_height == 224 && p.resample == CB_RESAMPLE_BICUBIC && p.image_std[2] == 4);
    static const char grey[] = VIT("\"size\": 2, \"image_mean\": [0.25], \"image_std\": [0.5], \"do_resize\": false");
    assert_true(cb_image_processor_parse("x.json", grey, sizeof grey - 1, &p));
    assert_int_equal(p.channels, 1);
    cb_image image = {0};
    float pixels[2];
    assert_true(cb_image_make(&image, 2, 1, 3, 8));
    memset(image.pixels, 51, 6);
    assert_true(cb_image_process(&p, &image, pixels));
    assert_float_equal(pixels[0], -0.1, 1e-6); /* (51 / 255 - 0.25) / 0.5 */
    cb_image_free(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_hold_what_pillow_finds),     cmocka_unit_test(modes_give_grey_levels_or_what_the_file_has),
        cmocka_unit_test(files_that_end_early_are_refused), cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(what_is_no_image_is_named),        cmocka_unit_test(names_of_images_are_known),
        cmocka_unit_test(sizes_change_as_in_pillow),        cmocka_unit_test(what_lies_outside_a_cut_is_black),
        FILE_TEST(processors_make_what_transformers_make),  FILE_TEST(processors_of_other_kinds_are_refused),
        FILE_TEST(timm_and_grey_models_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
