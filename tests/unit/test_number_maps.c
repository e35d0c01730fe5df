/* test_number_maps.c: images with maps of depths, normals and saliency as rows of a dataset: what files mean, that a map goes where its image goes, that
 * what is mirrored looks the other way, and files that are written. */
#include <math.h>

#include "cambium/data.h"
#include "cambium/formats.h"
#include "format_fixtures.h"

enum { WIDTH = 9, HEIGHT = 7, PLACES = WIDTH * HEIGHT, LEVELS = 40 };

static int level_at(int image, int place)
{
    return 1 + (image * 5 + place * 7 + place / WIDTH * 3) % LEVELS;
}

static const double vectors[3][3] = {{0.6, 0, 0.8}, {0, -0.8, 0.6}, {-2.0 / 3, 1.0 / 3, 2.0 / 3}};

/* What a map says of a place whose image has this level. */
static double meant(cb_objective objective, int level, int number)
{
    if (objective == CB_OBJECTIVE_SURFACE_NORMALS)
        return vectors[level % 3][number];
    return objective == CB_OBJECTIVE_SALIENCY ? level / 64.0 : level * 0.125;
}

/* A map as a file: an array, or a PNG with 1000 for 1, or colours. */
static void put_map(cb_objective objective, const char *stem, int image, bool array)
{
    int numbers = objective == CB_OBJECTIVE_SURFACE_NORMALS ? 3 : 1;
    char path[160];
    float values[3 * PLACES];
    cb_image map = {0};
    assert_true(cb_image_make(&map, WIDTH, HEIGHT, numbers, 16));
    for (int i = 0; i < PLACES; i++)
        for (int k = 0; k < numbers; k++) {
            double value = meant(objective, level_at(image, i), k);
            values[i * numbers + k] = (float)value;
            ((uint16_t *)(void *)map.pixels)[i * numbers + k] = (uint16_t)lrint(numbers == 3 ? (value + 1) / 2 * 65535
                                                                                : objective == CB_OBJECTIVE_SALIENCY ? value * 65535
                                                                                                                     : value * 1000);
        }
    snprintf(path, sizeof path, "%s.%s", stem, array ? "npy" : "png");
    assert_true(array ? cb_npy_write(path, values, numbers == 3 ? 3 : 2, (const int64_t[]){HEIGHT, WIDTH, 3})
                      : cb_image_write_png(path, &map));
    cb_image_free(&map);
}

static void put_set(const char *directory, cb_objective objective, const char *maps, bool array)
{
    char path[128];
    static uint8_t bytes[32 + PLACES];
    const char *const parts[] = {"", "/images", maps};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", directory, parts[i]);
        assert_true(cb_directory_make(path));
    }
    for (int image = 0; image < 4; image++) {
        int n = snprintf((char *)bytes, 32, "P5 %d %d 255\n", WIDTH, HEIGHT);
        for (int i = 0; i < PLACES; i++)
            bytes[n + i] = (uint8_t)level_at(image, i);
        snprintf(path, sizeof path, "%s/images/%d.pgm", directory, image);
        put_bytes(path, bytes, (size_t)(n + PLACES));
        snprintf(path, sizeof path, "%s%s/%d", directory, maps, image);
        put_map(objective, path, image, array);
    }
}

static cb_image_processor processor;

typedef struct how {
    cb_objective objective;
    const cb_augment_options *augment;
    double scale, most;
    const char *invalid;
} how;

static cb_dataset *open_set(const char *directory, how h)
{
    cb_image_data_options o = {0};
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    cb_image_processor_init(&processor);
    processor.channels = 1;
    processor.height = HEIGHT;
    processor.width = WIDTH;
    processor.resample = CB_RESAMPLE_NEAREST; /* levels stay what they are */
    processor.rescale_factor = 1.0 / 16;
    processor.do_normalize = false;
    o.processor = &processor;
    o.objective = h.objective;
    o.augment = h.augment;
    o.map_scale = h.scale;
    o.max_depth = h.most;
    o.max_pixels = 0; /* the library's own */
    assert_true(cb_string_list_add(&o.data, directory) && (!h.invalid || cb_string_list_add(&o.invalid_values, h.invalid)));
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    return data;
}

/* How many places do not count; those that do have what their image's level says, with these signs of x and y. */
static int64_t compare(const cb_batch *batch, cb_objective objective, double across, double down, double allowed)
{
    const int64_t *shape = batch->targets->shape;
    int64_t unknown = 0, places = shape[2] * shape[3];
    const double sign[3] = {across, down, 1};
    for (int64_t b = 0; b < shape[0]; b++)
        for (int64_t i = 0; i < places; i++) {
            int level = (int)lrint(cb_get(batch->ids, b * places + i) * 16);
            bool known = !isnan(cb_get(batch->targets, b * shape[1] * places + i));
            unknown += !known;
            for (int k = 0; known && k < shape[1]; k++) {
                double found = cb_get(batch->targets, (b * shape[1] + k) * places + i);
                double expected = meant(objective, level, k) * (shape[1] == 3 ? sign[k] : 1);
                if (!(fabs(found - expected) <= allowed))
                    fail_msg("place %d: %g, expected %g", (int)i, found, expected);
            }
        }
    assert_int_equal(batch->predicted, shape[0] * places - unknown);
    return unknown;
}

static void maps_go_where_their_images_go(void **state)
{
    (void)state;
    static const struct {
        cb_objective objective;
        const char *maps;
        double allowed; /* of 16 bits: thousandths, 65535ths */
    } sets[] = {{CB_OBJECTIVE_DEPTH_ESTIMATION, "/depth", 1e-6},
                {CB_OBJECTIVE_SURFACE_NORMALS, "/normals", 4e-5},
                {CB_OBJECTIVE_SALIENCY, "/saliency", 1e-5}};
    for (int kind = 0; kind < 6; kind++) {
        bool array = kind >= 3;
        cb_objective objective = sets[kind % 3].objective;
        char directory[32];
        snprintf(directory, sizeof directory, "set%d", kind);
        put_set(directory, objective, sets[kind % 3].maps, array);
        for (int turn = 0; turn < 4; turn++) {
            cb_augment_options augment = {
                .horizontal_flip = turn & 1, .vertical_flip = turn >> 1, .crop_scale_min = 0.3, .crop_scale_max = 1};
            augment.random_resized_crop = turn == 1;
            augment.crop_padding = turn == 2 ? 3 : 0;
            how h = {objective, &augment, objective == CB_OBJECTIVE_DEPTH_ESTIMATION && !array ? 1000 : 0, 0, NULL};
            cb_dataset *data = open_set(directory, h);
            if (!data)
                fail_msg("%s", cb_error_message());
            assert_int_equal(cb_dataset_objective(data), objective);
            assert_int_equal(cb_dataset_labels(data)->count, cb_objective_numbers(objective));
            cb_batch batch = {0};
            int64_t outside = 0;
            for (int i = 0; i < 3; i++) {
                assert_true(cb_dataset_batch(data, i, 4, &batch));
                assert_int_equal(batch.targets->ndim, 4);
                outside += compare(&batch, objective, turn & 1 ? -1 : 1, turn >> 1 ? -1 : 1, sets[kind % 3].allowed);
            }
            assert_true((turn == 2) == (outside > 0)); /* only what is shifted has an outside */
            assert_true(cb_dataset_sequential(data, 0, 4, &batch));
            assert_int_equal(compare(&batch, objective, 1, 1, sets[kind % 3].allowed), 0);
            cb_batch_free(&batch);
            cb_dataset_free(data);
            assert_true(cb_ok());
        }
    }
}

static int64_t unknown_of(const char *directory, how h)
{
    cb_dataset *data = open_set(directory, h);
    if (!data)
        fail_msg("%s", cb_error_message());
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 4, &batch));
    int64_t unknown = compare(&batch, h.objective, 1, 1, 1e-5);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    return unknown;
}

static int64_t images_with(int least, int most)
{
    int64_t n = 0;
    for (int image = 0; image < 4; image++)
        for (int i = 0; i < PLACES; i++)
            n += level_at(image, i) >= least && level_at(image, i) <= most;
    return n;
}

static void places_may_not_count(void **state)
{
    (void)state;
    put_set("depths", CB_OBJECTIVE_DEPTH_ESTIMATION, "/depth", false);
    const cb_objective depth = CB_OBJECTIVE_DEPTH_ESTIMATION;
    assert_int_equal(unknown_of("depths", (how){depth, NULL, 1000, 0, NULL}), 0);
    assert_int_equal(unknown_of("depths", (how){depth, NULL, 1000, 0, "500"}), images_with(4, 4));
    assert_int_equal(unknown_of("depths", (how){depth, NULL, 1000, 2.5, NULL}), images_with(21, LEVELS));
    put_set("salient", CB_OBJECTIVE_SALIENCY, "/saliency", true);
    assert_int_equal(unknown_of("salient", (how){CB_OBJECTIVE_SALIENCY, NULL, 0, 0, "0.25"}), images_with(16, 16));
    float values[PLACES];
    for (int i = 0; i < PLACES; i++)
        values[i] = i % 4 ? (float)meant(depth, level_at(0, i), 0) : i % 8 ? NAN : 0;
    put_set("arrays", depth, "/depth", true);
    assert_true(cb_npy_write("arrays/depth/0.npy", values, 2, (const int64_t[]){HEIGHT, WIDTH}));
    assert_int_equal(unknown_of("arrays", (how){depth, NULL, 0, 0, NULL}), (PLACES + 3) / 4);
    assert_null(open_set("arrays", (how){depth, NULL, 0, 0, "none"})); /* then 0 is one */
    assert_non_null(strstr(cb_error_message(), "arrays/depth/0.npy: found 0 at column 0 of row 0, expected a depth above 0"));
    cb_error_clear();
}

/* A vector without a direction, grey, and what option or default say. */
static void normals_without_a_direction_do_not_count(void **state)
{
    (void)state;
    put_set("grey", CB_OBJECTIVE_SURFACE_NORMALS, "/normals", false);
    cb_image map = {0};
    assert_true(cb_image_make(&map, WIDTH, HEIGHT, 3, 8));
    for (int i = 0; i < PLACES * 3; i++)
        map.pixels[i] = i < 30 ? 0 : 128;
    assert_true(cb_image_write_png("grey/normals/2.png", &map));
    cb_image_free(&map);
    cb_dataset *data = open_set("grey", (how){CB_OBJECTIVE_SURFACE_NORMALS, NULL, 0, 0, NULL});
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 4, &batch));
    assert_int_equal(batch.predicted, 3 * PLACES);
    assert_true(isnan(cb_get(batch.targets, 2 * 3 * PLACES)) && isnan(cb_get(batch.targets, 3 * 3 * PLACES - 1)));
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void refused(how h, const char *directory, const char *part)
{
    assert_null(open_set(directory, h));
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

static void other_maps_are_refused(void **state)
{
    (void)state;
    const cb_objective depth = CB_OBJECTIVE_DEPTH_ESTIMATION, saliency = CB_OBJECTIVE_SALIENCY;
    put_set("d", depth, "/depth", true);
    refused((how){depth, NULL, 0, 0, "far"}, "d", "invalid_values: found \"far\", expected none, or 8 numbers at most");
    refused((how){CB_OBJECTIVE_SURFACE_NORMALS, NULL, 0, 0, NULL}, "d", "d: found no directories images and normals in it");
    put_set("s", saliency, "/saliency", true);
    refused((how){saliency, NULL, 0, 3, NULL}, "s", "max_depth: is of depth estimation");
    refused((how){saliency, NULL, 0.01, 0, NULL}, "s", "expected 0 to 1 after division by --map-scale");
    float values[3 * PLACES];
    for (int i = 0; i < 3 * PLACES; i++)
        values[i] = 1;
    values[5] = -3;
    assert_true(cb_npy_write("d/depth/1.npy", values, 2, (const int64_t[]){HEIGHT, WIDTH}));
    refused((how){depth, NULL, 0, 0, NULL}, "d", "d/depth/1.npy: found -3 at column 5 of row 0, expected a depth above 0");
    values[5] = 1e30f; /* which is infinite after division, or nothing */
    assert_true(cb_npy_write("d/depth/1.npy", values, 2, (const int64_t[]){HEIGHT, WIDTH}));
    refused((how){depth, NULL, 1e-20, 0, NULL}, "d", "d/depth/1.npy: found 1e+30 at column 5 of row 0, expected a depth above 0");
    refused((how){depth, NULL, 1e-20, 5, NULL}, "d", "d/depth/1.npy: found 1e+30 at column 5 of row 0, expected a depth above 0");
    values[5] = -3;
    assert_true(cb_npy_write("d/depth/1.npy", values, 2, (const int64_t[]){WIDTH, HEIGHT}));
    refused((how){depth, NULL, 0, 0, "-3"}, "d", "d/depth/1.npy: is 7 x 9, expected 9 x 7 as its image");
    assert_true(cb_npy_write("d/depth/1.npy", values, 3, (const int64_t[]){HEIGHT, WIDTH, 3}));
    refused((how){depth, NULL, 0, 0, "-3"}, "d", "found an array of 3 dimensions, expected (height, width)");
    put_bytes("d/depth/1.npy", "\x93NUMPY\1\0\x10\0{'descr': '<f2'}", 27);
    refused((how){depth, NULL, 0, 0, NULL}, "d", "d/depth/1.npy: expected an array of numbers");
}

/* (3, height, width) is read as (height, width, 3) is. */
static void planes_are_vectors(void **state)
{
    (void)state;
    float values[3 * PLACES];
    put_set("planes", CB_OBJECTIVE_SURFACE_NORMALS, "/normals", true);
    for (int i = 0; i < PLACES; i++)
        for (int k = 0; k < 3; k++)
            values[k * PLACES + i] = 5 * (float)meant(CB_OBJECTIVE_SURFACE_NORMALS, level_at(1, i), k); /* of any length */
    assert_true(cb_npy_write("planes/normals/1.npy", values, 3, (const int64_t[]){3, HEIGHT, WIDTH}));
    assert_int_equal(unknown_of("planes", (how){CB_OBJECTIVE_SURFACE_NORMALS, NULL, 0, 0, NULL}), 0);
}

/* What is written of a row is read as that row's map. */
static void predicted_maps_are_read_again(void **state)
{
    (void)state;
    static const cb_objective objectives[] = {CB_OBJECTIVE_DEPTH_ESTIMATION, CB_OBJECTIVE_SURFACE_NORMALS, CB_OBJECTIVE_SALIENCY};
    static const char *const maps[] = {"/depth", "/normals", "/saliency"};
    for (int kind = 0; kind < 6; kind++) {
        bool array = kind >= 3;
        cb_objective objective = objectives[kind % 3];
        int numbers = cb_objective_numbers(objective);
        char directory[32], out[48];
        snprintf(directory, sizeof directory, "w%d", kind);
        snprintf(out, sizeof out, "w%d%s", kind, maps[kind % 3]);
        put_set(directory, objective, maps[kind % 3], array);
        how h = {objective, NULL, objective == CB_OBJECTIVE_DEPTH_ESTIMATION ? array ? 2 : 1000 : 0, 0, NULL};
        cb_dataset *data = open_set(directory, h);
        assert_non_null(data);
        cb_image map = {0};
        assert_true(cb_image_make(&map, WIDTH, HEIGHT, numbers, 32));
        for (int i = 0; i < PLACES * numbers; i++)
            ((float *)(void *)map.pixels)[i] = (float)meant(objective, level_at(3, i / numbers), i % numbers);
        assert_false(cb_dataset_write_map(data, 3, &map, out));
        assert_non_null(strstr(cb_error_message(), "is there already"));
        cb_error_clear();
        char path[64];
        snprintf(path, sizeof path, "%s/3.%s", out, array ? "npy" : "png");
        assert_int_equal(remove(path), 0);
        assert_true(cb_dataset_write_map(data, 3, &map, out));
        cb_dataset_free(data);
        data = open_set(directory, h);
        cb_batch batch = {0};
        assert_true(cb_dataset_sequential(data, 3, 1, &batch));
        compare(&batch, objective, 1, 1, array || kind == 0 ? 1e-6 : 0.005); /* 8 bits */
        assert_int_equal(batch.predicted, PLACES);
        cb_batch_free(&batch);
        cb_dataset_free(data);
        cb_image_free(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(maps_go_where_their_images_go), FILE_TEST(places_may_not_count), FILE_TEST(normals_without_a_direction_do_not_count),
        FILE_TEST(other_maps_are_refused),        FILE_TEST(planes_are_vectors),   FILE_TEST(predicted_maps_are_read_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
