/* test_augment.c: augmentation and corruptions: what is not random as Pillow, scipy, OpenCV and scikit-image have it (tests/oracle/images.py),
 * what is random by its statistics. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/formats.h"
#include "images/adjust.h"
#include "images/field.h"
#include "images/policy.h"

static cb_safetensors *reference(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/images/%s.safetensors", CB_TEST_DATA, name);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_non_null(file);
    return file;
}

static void wrap(const cb_weight_entry *e, cb_image *image)
{
    assert_true(cb_image_make(image, e->shape[1], e->shape[0], 3, 8));
    memcpy(image->pixels, e->data, e->size);
}

static void plain(cb_image *image, int64_t side, int level)
{
    assert_true(cb_image_make(image, side, side, 3, 8));
    memset(image->pixels, level, cb_image_bytes(image));
}

static double mean_of(const cb_image *image)
{
    double sum = 0;
    for (size_t i = 0; i < cb_image_bytes(image); i++)
        sum += image->pixels[i];
    return sum / (double)cb_image_bytes(image);
}

static double deviation_of(const cb_image *image)
{
    double mean = mean_of(image), sum = 0;
    for (size_t i = 0; i < cb_image_bytes(image); i++)
        sum += (image->pixels[i] - mean) * (image->pixels[i] - mean);
    return sqrt(sum / (double)cb_image_bytes(image));
}

/* NaN is close to nothing. */
static bool is_close(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance))
        print_error("found %.9g, expected %.9g within %g\n", found, expected, tolerance);
    return fabs(found - expected) <= tolerance;
}
#define assert_close(found, expected, tolerance) assert_true(is_close(found, expected, tolerance))

/* ---- colours and places ---- */

static bool adjust(const char *name, double x, cb_image *image)
{
    static const char *const policy[CB_POLICY_OPERATIONS] = {
        [CB_POLICY_SHEAR_X] = "shear_x",         [CB_POLICY_SHEAR_Y] = "shear_y",
        [CB_POLICY_TRANSLATE_X] = "translate_x", [CB_POLICY_TRANSLATE_Y] = "translate_y",
        [CB_POLICY_ROTATE] = "rotate",           [CB_POLICY_POSTERIZE] = "posterize",
        [CB_POLICY_SOLARIZE] = "solarize",       [CB_POLICY_AUTOCONTRAST] = "autocontrast",
        [CB_POLICY_EQUALIZE] = "equalize"};
    static const char *const factors[CB_POLICY_OPERATIONS] = {[CB_POLICY_BRIGHTNESS] = "brightness",
                                                              [CB_POLICY_CONTRAST] = "contrast",
                                                              [CB_POLICY_COLOR] = "saturation",
                                                              [CB_POLICY_SHARPNESS] = "sharpness"};
    for (int i = 0; i < CB_POLICY_OPERATIONS; i++) {
        if (policy[i] && strcmp(name, policy[i]) == 0)
            return cb_policy_apply((cb_policy_operation)i, x, image);
        if (factors[i] && strcmp(name, factors[i]) == 0)
            return cb_policy_apply((cb_policy_operation)i, x - 1, image);
    }
    if (strcmp(name, "hue") == 0)
        cb_adjust_hue(image, x);
    else
        cb_adjust_flip(image, strcmp(name, "across") == 0, strcmp(name, "down") == 0);
    return true;
}

static void adjustments_are_pillows(void **state)
{
    (void)state;
    cb_safetensors *file = reference("adjust");
    int cases = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        char name[32];
        double x;
        cb_image image = {0};
        if (sscanf(e->name, "%31[a-z_]:%lf", name, &x) != 2)
            continue;
        wrap(cb_safetensors_find(file, "in"), &image);
        assert_true(adjust(name, x, &image));
        for (size_t k = 0; k < e->size; k++)
            if (image.pixels[k] != ((const uint8_t *)e->data)[k])
                fail_msg("%s: byte %zu: found %d, expected %d", e->name, k, image.pixels[k], ((const uint8_t *)e->data)[k]);
        cb_image_free(&image);
        cases++;
    }
    assert_true(cases >= 34);
    cb_safetensors_close(file);
}

/* ---- augmentation ---- */

static cb_augment_options defaults(void)
{
    cb_augment_options o;
    assert_true(cb_options_init(cb_augment_option_table, &o));
    return o;
}

static cb_image_processor squares(int64_t side)
{
    cb_image_processor p;
    cb_image_processor_init(&p);
    p.height = p.width = side;
    return p;
}

static void an_items_draws_depend_on_seed_epoch_and_item_alone(void **state)
{
    (void)state;
    cb_augment_options o = defaults();
    o.random_resized_crop = true;
    o.horizontal_flip = o.vertical_flip = 0.5;
    o.jitter_brightness = o.jitter_contrast = o.jitter_saturation = 0.4;
    o.jitter_hue = 0.1;
    o.auto_augment = CB_AUGMENT_RANDAUGMENT;
    cb_image_processor p = squares(16);
    cb_safetensors *file = reference("corruptions");
    cb_image image = {0}, one = {0}, again = {0}, other = {0};
    wrap(cb_safetensors_find(file, "in:32"), &image);
    static const int64_t places[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}; /* another seed, epoch, item */
    for (int i = 0; i < 3; i++) {
        cb_rng a = cb_image_rng(5, 2, 7), b = a, c = cb_image_rng(5 + (uint64_t)places[i][0], 2 + places[i][1], 7 + places[i][2]);
        assert_true(cb_image_augment(&o, &p, &a, &image, &one) && cb_image_augment(&o, &p, &b, &image, &again) &&
                    cb_image_augment(&o, &p, &c, &image, &other));
        assert_int_equal(one.width, 16);
        assert_memory_equal(one.pixels, again.pixels, cb_image_bytes(&one));
        assert_memory_not_equal(one.pixels, other.pixels, cb_image_bytes(&one));
    }
    o = defaults(); /* nothing is asked for: what the processor makes */
    cb_rng rng = cb_image_rng(1, 1, 1);
    assert_true(cb_image_augment(&o, &p, &rng, &image, &one) && cb_image_processor_fit(&p, &image, &again));
    assert_memory_equal(one.pixels, again.pixels, cb_image_bytes(&one));
    cb_options_free(cb_augment_option_table, &o);
    cb_image_free(&image);
    cb_image_free(&one);
    cb_image_free(&again);
    cb_image_free(&other);
    cb_safetensors_close(file);
}

/* Of an image whose levels are x and y, the part that was cut shows in the corners. */
static void parts_are_of_the_asked_share_and_shape(void **state)
{
    (void)state;
    enum { SIDE = 200, DRAWS = 400 };
    cb_image image = {0}, out = {0};
    assert_true(cb_image_make(&image, SIDE, SIDE, 3, 8));
    for (int64_t i = 0; i < SIDE * SIDE; i++) {
        image.pixels[3 * i] = (uint8_t)(i % SIDE);
        image.pixels[3 * i + 1] = image.pixels[3 * i + 2] = (uint8_t)(i / SIDE);
    }
    cb_augment_options o = defaults();
    o.random_resized_crop = true;
    o.crop_scale_min = 0.2;
    o.crop_scale_max = 0.5;
    cb_image_processor p = squares(64);
    p.resample = CB_RESAMPLE_NEAREST;
    double share = 0;
    for (int i = 0; i < DRAWS; i++) {
        cb_rng rng = cb_image_rng(3, 0, i);
        assert_true(cb_image_augment(&o, &p, &rng, &image, &out));
        const uint8_t *first = out.pixels, *last = out.pixels + 3 * (64 * 64 - 1);
        double w = (last[0] - first[0]) * 64 / 63.0, h = (last[1] - first[1]) * 64 / 63.0; /* from the middles of the outer pixels */
        assert_true(w / h > 0.7 && w / h < 1.43 && w * h > 0.19 * SIDE * SIDE && w * h < 0.52 * SIDE * SIDE);
        share += w * h / (SIDE * SIDE) / DRAWS;
    }
    assert_close(share, 0.35, 0.015); /* the mean of 0.2 to 0.5, with a deviation of 0.087 / sqrt(400) */
    cb_options_free(cb_augment_option_table, &o);
    cb_image_free(&image);
    cb_image_free(&out);
}

static void shifts_and_flips_are_as_likely_as_asked(void **state)
{
    (void)state;
    cb_image image = {0}, out = {0};
    plain(&image, 5, 0);
    image.pixels[3 * 12] = 255; /* the middle */
    image.pixels[3 * 12 + 1] = 255;
    cb_augment_options o = defaults();
    o.crop_padding = 2;
    cb_image_processor p = squares(5);
    p.do_resize = false;
    p.do_center_crop = true;
    p.crop_height = p.crop_width = 5;
    int counts[25] = {0};
    for (int i = 0; i < 2500; i++) {
        cb_rng rng = cb_image_rng(1, 0, i);
        assert_true(cb_image_augment(&o, &p, &rng, &image, &out));
        for (int k = 0; k < 25; k++)
            counts[k] += out.pixels[3 * k] == 255;
    }
    for (int k = 0; k < 25; k++)
        assert_true(counts[k] > 55 && counts[k] < 150); /* 100 with a deviation of 10 */
    image.pixels[0] = 255;
    o.crop_padding = 0;
    o.horizontal_flip = 0.25;
    int across = 0;
    for (int i = 0; i < 2000; i++) {
        cb_rng rng = cb_image_rng(2, 0, i);
        assert_true(cb_image_augment(&o, &p, &rng, &image, &out));
        across += out.pixels[3 * 4] == 255;
    }
    assert_true(across > 420 && across < 580); /* 500 with a deviation of 19 */
    cb_options_free(cb_augment_option_table, &o);
    cb_image_free(&image);
    cb_image_free(&out);
}

static void policies_change_images_and_the_weakest_do_not(void **state)
{
    (void)state;
    cb_safetensors *file = reference("corruptions");
    cb_image image = {0};
    int changed = 0;
    for (int i = 0; i < 60; i++) {
        cb_rng rng = cb_image_rng(4, 0, i);
        wrap(cb_safetensors_find(file, "in:32"), &image);
        assert_true(i % 2 ? cb_policy_randaugment(2, 9, &rng, &image) : cb_policy_trivialaugment(&rng, &image));
        changed += memcmp(image.pixels, cb_safetensors_find(file, "in:32")->data, cb_image_bytes(&image)) != 0;
    }
    assert_true(changed > 40);
    cb_image_free(&image);
    cb_safetensors_close(file);
}

static void erased_parts_are_of_the_published_share(void **state)
{
    (void)state;
    enum { SIDE = 40, DRAWS = 600 };
    cb_augment_options o = defaults();
    o.random_erasing = 0.5;
    int erased = 0;
    double share = 0;
    static float pixels[SIDE * SIDE];
    for (int i = 0; i < DRAWS; i++) {
        cb_rng rng = cb_image_rng(6, 1, i);
        for (int k = 0; k < SIDE * SIDE; k++)
            pixels[k] = 1;
        cb_image_erase(&o, &rng, 1, SIDE, SIDE, pixels);
        int blank = 0;
        for (int k = 0; k < SIDE * SIDE; k++)
            blank += pixels[k] == 0;
        erased += blank > 0;
        share += (double)blank / (SIDE * SIDE);
    }
    assert_true(erased > 240 && erased < 360);
    assert_close(share / erased, 0.17,
                 0.02); /* the mean of 0.02 to 0.33 is 0.175; wide ones of large area do not fit and are drawn again */
    cb_options_free(cb_augment_option_table, &o);
}

static void mixes_share_images_as_they_share_targets(void **state)
{
    (void)state;
    enum { SIDE = 32, DRAWS = 500 };
    cb_augment_options o = defaults();
    static float a[SIDE * SIDE], b[SIDE * SIDE];
    double sum = 0, squares_ = 0;
    for (int i = 0; i < 2 * DRAWS; i++) {
        o.mixup_alpha = i < DRAWS ? 0.4 : 0;
        o.cutmix_alpha = i < DRAWS ? 0 : 1;
        cb_rng rng = cb_image_rng(8, 0, i);
        cb_image_mix mix = cb_image_mix_draw(&o, &rng, SIDE, SIDE);
        assert_true(mix.share >= 0 && mix.share <= 1);
        double mean = 0;
        for (int k = 0; k < SIDE * SIDE; k++)
            a[k] = 1, b[k] = 0;
        cb_image_mix_apply(&mix, 1, SIDE, SIDE, a, b);
        for (int k = 0; k < SIDE * SIDE; k++)
            mean += a[k] / (double)(SIDE * SIDE);
        assert_close(mean, mix.share, 1e-5);
        if (i < DRAWS) {
            sum += mix.share / DRAWS;
            squares_ += (mix.share - 0.5) * (mix.share - 0.5) / DRAWS;
        }
    }
    assert_close(sum, 0.5, 0.06);        /* Beta(0.4, 0.4): variance 1 / (4 (2 x 0.4 + 1)) = 0.139 */
    assert_close(squares_, 0.139, 0.02); /* kurtosis is low: the deviation of this mean is below 0.005 */
    o.mixup_alpha = o.cutmix_alpha = 0;
    cb_rng rng = cb_image_rng(8, 0, 0);
    assert_true(cb_image_mix_draw(&o, &rng, SIDE, SIDE).share == 1);
    cb_options_free(cb_augment_option_table, &o);
}

/* ---- corruptions ---- */

static double psnr(const cb_image *a, const cb_image *b)
{
    double sum = 0;
    for (size_t i = 0; i < cb_image_bytes(a); i++)
        sum += pow((a->pixels[i] - b->pixels[i]) / 255.0, 2);
    return -10 * log10(sum / (double)cb_image_bytes(a));
}

static void corruptions_without_chance_are_the_published_ones(void **state)
{
    (void)state;
    cb_safetensors *file = reference("corruptions");
    int cases = 0;
    for (size_t i = 0; i < cb_safetensors_count(file); i++) {
        const cb_weight_entry *e = cb_safetensors_at(file, i);
        char name[32], key[64];
        int size, severity;
        cb_image image = {0}, out = {0};
        if (sscanf(e->name, "%31[a-z_]:%d:%d", name, &size, &severity) != 3)
            continue;
        snprintf(key, sizeof key, "in:%d", size);
        wrap(cb_safetensors_find(file, key), &image);
        cb_rng rng = {0};
        assert_true(cb_image_corrupt(&image, name, severity, &rng, &out));
        for (size_t k = 0; k < e->size; k++)
            if (abs(out.pixels[61 * k] - ((const uint8_t *)e->data)[k]) > 1) /* rounded down from what differs in its last bits */
                fail_msg("%s: value %zu: found %d, expected %d", e->name, 61 * k, out.pixels[61 * k], ((const uint8_t *)e->data)[k]);
        snprintf(key, sizeof key, "sums:%s", e->name);
        const double *sums = cb_safetensors_find(file, key)->data;
        assert_close(mean_of(&out), sums[0], 0.005); /* few values are off by one */
        assert_close(psnr(&out, &image), sums[1], 0.005);
        cb_image_free(&image);
        cb_image_free(&out);
        cases++;
    }
    assert_int_equal(cases, 8 * 2 * 5);
    cb_safetensors_close(file);
}

static void corrupt(int64_t side, int level, const char *name, int severity, cb_image *out)
{
    cb_image image = {0};
    plain(&image, side, level);
    cb_rng rng = cb_image_rng(11, 0, severity);
    assert_true(cb_image_corrupt(&image, name, severity, &rng, out));
    cb_image_free(&image);
}

/* On a grey of 102 (0.4): 96 x 96 x 3 values, so that a deviation is known to 0.4 %, a mean to 0.6 % of the deviation. */
static void noise_has_the_published_strength(void **state)
{
    (void)state;
    static const double gaussian[2] = {.08, .12}, speckle[2] = {.15, .2}, photons[5] = {60, 25, 12, 5, 3},
                        impulse[5] = {.03, .06, .09, .17, .27};
    cb_image out = {0};
    for (int s = 1; s <= 2; s++) { /* stronger ones are cut off at black and white */
        corrupt(96, 102, "gaussian_noise", s, &out);
        assert_close(deviation_of(&out) / 255, gaussian[s - 1], 0.02 * gaussian[s - 1]);
        assert_close(mean_of(&out), 101.5, 0.6); /* rounded down */
        corrupt(96, 102, "speckle_noise", s, &out);
        assert_close(deviation_of(&out) / 255, 0.4 * speckle[s - 1], 0.02 * 0.4 * speckle[s - 1]);
    }
    for (int s = 1; s <= 3; s++) {
        corrupt(96, 102, "shot_noise", s, &out);
        assert_close(deviation_of(&out) / 255, sqrt(0.4 / photons[s - 1]), 0.03 * sqrt(0.4 / photons[s - 1]));
        assert_close(mean_of(&out), 101.7, 1);
    }
    for (int s = 1; s <= 5; s++) {
        corrupt(96, 102, "impulse_noise", s, &out);
        double black = 0, white = 0;
        for (size_t i = 0; i < cb_image_bytes(&out); i++) {
            black += out.pixels[i] == 0;
            white += out.pixels[i] == 255;
            assert_true(out.pixels[i] == 0 || out.pixels[i] == 255 || out.pixels[i] == 102);
        }
        assert_close((black + white) / (double)cb_image_bytes(&out), impulse[s - 1], 0.012);
        assert_close(black / (black + white), 0.5, 0.06);
    }
    corrupt(32, 102, "shot_noise", 1, &out); /* CIFAR's: 500 photons, by the other way of drawing */
    assert_close(deviation_of(&out) / 255, sqrt(0.4 / 500), 0.08 * sqrt(0.4 / 500));
    cb_image_free(&out);
}

static void weather_covers_and_leaves_order_of_severity(void **state)
{
    (void)state;
    static const char *const names[] = {"snow", "frost", "fog"};
    cb_safetensors *file = reference("corruptions");
    for (int n = 0; n < 3; n++)
        for (int size = 0; size < 2; size++) {
            cb_image image = {0}, out = {0}, again = {0};
            wrap(cb_safetensors_find(file, size ? "in:66" : "in:32"), &image);
            double quality[6] = {0};
            for (int s = 1; s <= 5; s += 2) {
                for (int draw = 0; draw < 8; draw++) {
                    cb_rng rng = cb_image_rng(21, s, draw), same = rng;
                    assert_true(cb_image_corrupt(&image, names[n], s, &rng, &out) && cb_image_corrupt(&image, names[n], s, &same, &again));
                    assert_memory_equal(out.pixels, again.pixels, cb_image_bytes(&out));
                    quality[s] += psnr(&out, &image) / 8;
                }
                assert_true(quality[s] > 3 && quality[s] < 30);
            }
            if (n != 1 && (quality[1] <= quality[3] || quality[3] + 0.5 < quality[5])) /* frost darkens what it does not cover */
                fail_msg("%s: PSNR %g, %g, %g", names[n], quality[1], quality[3], quality[5]);
            cb_image_free(&image);
            cb_image_free(&out);
            cb_image_free(&again);
        }
    cb_safetensors_close(file);
}

static void moved_pixels_keep_what_is_even(void **state)
{
    (void)state;
    static const char *const names[] = {"glass_blur", "motion_blur", "elastic_transform"};
    cb_safetensors *file = reference("corruptions");
    for (int n = 0; n < 3; n++)
        for (int s = 1; s <= 5; s++) {
            cb_image image = {0}, out = {0};
            corrupt(66, 77, names[n], s, &out);
            for (size_t i = 0; i < cb_image_bytes(&out); i++)
                assert_true(out.pixels[i] == 77 || out.pixels[i] == 76); /* rounded down */
            wrap(cb_safetensors_find(file, "in:66"), &image);
            cb_rng rng = cb_image_rng(31, 0, s);
            assert_true(cb_image_corrupt(&image, names[n], s, &rng, &out));
            assert_true(fabs(mean_of(&out) - mean_of(&image)) < 14 && psnr(&out, &image) < 40);
            cb_image_free(&image);
            cb_image_free(&out);
        }
    cb_safetensors_close(file);
}

/* A point becomes half a Gaussian along the line. */
static void motion_draws_lines(void **state)
{
    (void)state;
    cb_field f;
    assert_true(cb_field_make(&f, 32, 5, 1));
    f.values[2 * 32 + 20] = 1;
    assert_true(cb_field_motion(&f, 3, 2, 0));
    double sum = 0;
    for (int i = 0; i < 7; i++)
        sum += exp(-i * i / 8.0);
    for (int i = 0; i < 7; i++)
        assert_close(f.values[2 * 32 + 20 - i], exp(-i * i / 8.0) / sum, 0.51 / 255);
    assert_true(f.values[2 * 32 + 21] == 0 && f.values[2 * 32 + 13] == 0 && f.values[32 + 20] == 0);
    cb_field_free(&f);
}

static void names_and_severities_are_checked(void **state)
{
    (void)state;
    cb_image image = {0}, out = {0};
    plain(&image, 8, 3);
    cb_rng rng = {0};
    assert_false(cb_image_corrupt(&image, "gausian_noise", 1, &rng, &out));
    assert_non_null(strstr(cb_error_message(), "gaussian_noise"));
    cb_error_clear();
    assert_false(cb_image_corrupt(&image, "fog", 6, &rng, &out));
    assert_non_null(strstr(cb_error_message(), "severity 6"));
    cb_error_clear();
    assert_int_equal(cb_corruption_count(), 18);
    image.channels = 1; /* grey images stay grey; the smallest one is no trouble */
    for (size_t i = 0; i < cb_corruption_count(); i++) {
        image.width = image.height = i % 2 ? 8 : 1;
        for (int s = 1; s <= 5; s++)
            assert_true(cb_image_corrupt(&image, cb_corruption_name(i), s, &rng, &out) && out.channels == 1);
    }
    cb_image_free(&image);
    cb_image_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adjustments_are_pillows),
        cmocka_unit_test(an_items_draws_depend_on_seed_epoch_and_item_alone),
        cmocka_unit_test(parts_are_of_the_asked_share_and_shape),
        cmocka_unit_test(shifts_and_flips_are_as_likely_as_asked),
        cmocka_unit_test(policies_change_images_and_the_weakest_do_not),
        cmocka_unit_test(erased_parts_are_of_the_published_share),
        cmocka_unit_test(mixes_share_images_as_they_share_targets),
        cmocka_unit_test(corruptions_without_chance_are_the_published_ones),
        cmocka_unit_test(noise_has_the_published_strength),
        cmocka_unit_test(weather_covers_and_leaves_order_of_severity),
        cmocka_unit_test(moved_pixels_keep_what_is_even),
        cmocka_unit_test(motion_draws_lines),
        cmocka_unit_test(names_and_severities_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
