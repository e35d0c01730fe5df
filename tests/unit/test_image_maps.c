/* test_image_maps.c: images with maps of labels as rows of a dataset: what numbers mean, that a map goes where its image goes, and PNGs that are written. */
#include "cambium/data.h"
#include "format_fixtures.h"

/* An image whose grey level is the number in its map, times ten, so that a batch shows whether both went to the same places. */
static void put_pair(const char *directory, int number, int width, int height, unsigned seed)
{
    char path[128];
    static uint8_t bytes[32 + 64 * 64];
    snprintf(path, sizeof path, "%s/images/%d.pgm", directory, number);
    int n = snprintf((char *)bytes, 32, "P5 %d %d 255\n", width, height);
    for (int i = 0; i < width * height; i++)
        bytes[n + i] = (uint8_t)((seed + (unsigned)i * 7 + (unsigned)(i / width) * 3) % 5 * 10);
    put_bytes(path, bytes, (size_t)(n + width * height));
    snprintf(path, sizeof path, "%s/labels/%d.pgm", directory, number);
    for (int i = 0; i < width * height; i++)
        bytes[n + i] /= 10;
    put_bytes(path, bytes, (size_t)(n + width * height));
}

static void put_set(const char *directory)
{
    char path[128];
    assert_true(cb_directory_make(directory));
    static const char *const parts[] = {"images", "labels"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, parts[i]);
        assert_true(cb_directory_make(path));
    }
    for (int i = 0; i < 6; i++)
        put_pair(directory, i, 8 + i, 7, (unsigned)i);
}

static cb_image_processor processor;
static cb_augment_options augment;

static cb_dataset *open_set(const char *directory, bool augmented, int64_t ignored, const char *values)
{
    cb_image_data_options o = {0};
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    cb_image_processor_init(&processor);
    processor.channels = 1;
    processor.height = 7;
    processor.width = 9;
    processor.resample = CB_RESAMPLE_NEAREST; /* levels stay what they are */
    processor.rescale_factor = 0.1;
    processor.do_normalize = false;
    o.processor = &processor;
    o.objective = CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    o.augment = augmented ? &augment : NULL;
    o.ignore_index = ignored;
    assert_true(cb_string_list_add(&o.data, directory) && (!values || cb_string_list_add(&o.label_values, values)));
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    return data;
}

/* Every place has the label that its level says, or does not count. */
static int64_t compare_places(const cb_batch *batch, int64_t ignored)
{
    int64_t outside = 0, counted = 0;
    for (int64_t i = 0; i < batch->targets->count; i++) {
        int label = (int)cb_get(batch->targets, i), level = (int)(cb_get(batch->ids, i) + 0.5);
        counted += label != -100;
        outside += label == -100 && level != ignored;
        if (label != -100)
            assert_int_equal(label, level);
        else
            assert_true(level == ignored || level == 0); /* black lies outside */
    }
    assert_int_equal(batch->predicted, counted);
    return outside;
}

static void maps_go_where_their_images_go(void **state)
{
    (void)state;
    put_set("set");
    augment = (cb_augment_options){.horizontal_flip = 0.5, .vertical_flip = 0.5, .crop_scale_min = 0.3, .crop_scale_max = 1};
    for (int how = 0; how < 3; how++) {
        augment.random_resized_crop = how == 1;
        augment.crop_padding = how == 2 ? 3 : 0;
        cb_dataset *data = open_set("set", true, 4, NULL);
        if (!data)
            fail_msg("%s", cb_error_message());
        assert_int_equal(cb_dataset_objective(data), CB_OBJECTIVE_SEMANTIC_SEGMENTATION);
        assert_int_equal(cb_dataset_labels(data)->count, 4); /* 0 to 3: 4 does not count */
        assert_string_equal(cb_dataset_labels(data)->items[3], "LABEL_3");
        cb_batch batch = {0};
        int64_t outside = 0;
        for (int i = 0; i < 5; i++) {
            assert_true(cb_dataset_batch(data, i, 4, &batch));
            assert_true(batch.targets->ndim == 3 && batch.targets->shape[1] == 7 && batch.targets->shape[2] == 9);
            outside += compare_places(&batch, 4);
        }
        assert_true((how == 2) == (outside > 0)); /* only what is shifted has an outside */
        assert_true(cb_dataset_sequential(data, 1, 4, &batch));
        assert_int_equal(batch.targets->shape[0], 2);
        assert_int_equal(compare_places(&batch, 4), 0);
        cb_batch_free(&batch);
        cb_dataset_free(data);
        assert_true(cb_ok());
    }
}

static void numbers_may_stand_for_labels(void **state)
{
    (void)state;
    put_set("set");
    cb_dataset *data = open_set("set", false, 3, NULL);
    assert_non_null(data);
    assert_int_equal(cb_dataset_labels(data)->count, 5); /* 3 does not count, 4 does */
    cb_dataset_free(data);
    assert_null(open_set("set", false, -1, "2"));
    assert_non_null(strstr(cb_error_message(), "/labels/"));
    assert_non_null(strstr(cb_error_message(), "expected a label's number below 1"));
    cb_error_clear();
    assert_null(open_set("set", false, -1, "70000"));
    assert_non_null(strstr(cb_error_message(), "label_values: found \"70000\""));
    cb_error_clear();
}

/* Of masks in several encodings: a level above the threshold, and what lies beside the image. */
static void masks_have_two_labels(void **state)
{
    (void)state;
    static const uint8_t image[] = "P5 4 2 255\n\0\1\2\3\4\5\6\7", grey[] = "P5 4 2 255\n\0\177\200\377\0\0\0\377";
    assert_true(cb_directory_make("side"));
    put_bytes("side/a.pgm", image, sizeof image - 1);
    put_bytes("side/b.pgm", image, sizeof image - 1);
    put_bytes("side/a_mask.pgm", grey, sizeof grey - 1);
    put_bytes("side/b_mask.pgm", grey, sizeof grey - 1);
    cb_image_data_options o = {0};
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    cb_image_processor_init(&processor);
    processor.channels = 1;
    processor.height = 2;
    processor.width = 4;
    o.processor = &processor;
    o.objective = CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    o.mask_threshold = 127;
    o.map_suffix = cb_strdup("_mask.pgm");
    assert_true(cb_string_list_add(&o.data, "side"));
    cb_dataset *data = cb_dataset_open_images(&o);
    if (!data)
        fail_msg("%s", cb_error_message());
    assert_int_equal(cb_dataset_rows(data), 2); /* masks are no images */
    assert_int_equal(cb_dataset_labels(data)->count, 2);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 2, &batch));
    static const int expected[] = {0, 0, 1, 1, 0, 0, 0, 1};
    for (int i = 0; i < 16; i++)
        assert_int_equal((int)cb_get(batch.targets, i), expected[i % 8]);
    cb_image labels = {0}, read = {0};
    assert_true(cb_image_make(&labels, 4, 2, 1, 8) && cb_directory_make("said"));
    memset(labels.pixels, 1, 8);
    assert_true(cb_dataset_write_map(data, 0, &labels, "said"));
    assert_true(cb_image_read("said/a.png", &(cb_image_options){.mode = CB_IMAGE_LABELS}, &read));
    assert_int_equal(read.pixels[0], 255); /* as masks have it */
    cb_image_free(&labels);
    cb_image_free(&read);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    assert_int_equal(remove("side/b_mask.pgm"), 0);
    assert_null(cb_dataset_open_images(&o));
    assert_non_null(strstr(cb_error_message(), "side/b_mask.pgm: not found, expected a map of side/b.pgm"));
    cb_error_clear();
    put_bytes("side/b_mask.pgm", grey, sizeof grey - 1);
    assert_true(cb_string_list_add(&o.label_values, "3"));
    assert_null(cb_dataset_open_images(&o));
    assert_non_null(strstr(cb_error_message(), "mask_threshold: makes two labels"));
    cb_error_clear();
    cb_string_list_free(&o.label_values);
    o.mask_threshold = -1; /* then 255 does not count, and labels of 127 and 128 are many */
    data = cb_dataset_open_images(&o);
    assert_non_null(data);
    assert_int_equal(cb_dataset_labels(data)->count, 129);
    cb_dataset_free(data);
    for (int i = 0; i < 2; i++) /* 0 and 255 alone: one label, which cannot be meant */
        put_bytes(i ? "side/b_mask.pgm" : "side/a_mask.pgm", "P5 4 2 255\n\0\0\377\377\0\0\0\377", 19);
    assert_null(cb_dataset_open_images(&o));
    assert_non_null(strstr(cb_error_message(), "found no label but 0 in 2 label maps, beside 255"));
    cb_error_clear();
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
}

/* Images of one file and maps of another, by their numbers. */
static void stacks_are_images_and_maps(void **state)
{
    (void)state;
    cb_image_data_options o = {0};
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    cb_image_processor_init(&processor);
    processor.channels = 1;
    processor.height = 3;
    processor.width = 4;
    processor.resample = CB_RESAMPLE_NEAREST;
    processor.rescale_factor = 0.1;
    processor.do_normalize = false;
    o.processor = &processor;
    o.objective = CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    assert_true(cb_string_list_add(&o.data, CB_TEST_DATA "/dense/stack.tif") &&
                cb_string_list_add(&o.label_maps, CB_TEST_DATA "/dense/stack-labels.tif"));
    assert_int_equal(cb_image_pages(o.data.items[0]), 3);
    size_t length;
    char *bytes = cb_file_read(o.data.items[0], 1000, &length);
    for (size_t cut = 9; cut < length - 160; cut += 11) { /* the images' directories begin at 8, 152 and 296 */
        assert_true(cb_file_write("cut.tif", bytes, cut));
        assert_int_equal(cb_image_pages("cut.tif"), -1);
        assert_non_null(strstr(cb_error_message(), "cut.tif"));
        cb_error_clear();
    }
    cb_free(bytes);
    cb_dataset *data = cb_dataset_open_images(&o);
    if (!data)
        fail_msg("%s", cb_error_message());
    assert_int_equal(cb_dataset_rows(data), 3);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 3, &batch));
    for (int i = 0; i < 36; i++) /* Pillow wrote label l at level 10 l, and (i + image) % 4 there */
        assert_int_equal((int)cb_get(batch.targets, i), (i % 12 + i / 12) % 4);
    assert_int_equal(compare_places(&batch, -1), 0);
    cb_image labels = {0};
    assert_true(cb_image_make(&labels, 4, 3, 1, 8) && cb_directory_make("pages"));
    memset(labels.pixels, 2, 12);
    assert_true(cb_dataset_write_map(data, 2, &labels, "pages") && cb_is_file("pages/stack-002.png"));
    cb_image_free(&labels);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_string_list_free(&o.label_maps);
    assert_true(cb_string_list_add(&o.label_maps, CB_TEST_DATA "/dense/one.tif"));
    assert_null(cb_dataset_open_images(&o));
    assert_non_null(strstr(cb_error_message(), "one.tif: found 1 maps, expected 3 as images in"));
    cb_error_clear();
    cb_image image = {0};
    assert_false(cb_image_read(o.data.items[0], &(cb_image_options){.page = 3}, &image));
    assert_non_null(strstr(cb_error_message(), "found no image number 3"));
    cb_error_clear();
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
}

static void predicted_maps_have_the_size_of_their_images(void **state)
{
    (void)state;
    put_set("set");
    assert_true(cb_directory_make("out"));
    cb_dataset *data = open_set("set", false, 4, NULL);
    cb_image labels = {0}, read = {0};
    assert_true(cb_image_make(&labels, 9, 7, 1, 8));
    for (int i = 0; i < 63; i++)
        labels.pixels[i] = (uint8_t)(i % 4);
    assert_true(cb_dataset_write_map(data, 3, &labels, "out"));
    assert_true(cb_image_read("out/3.png", &(cb_image_options){.mode = CB_IMAGE_LABELS}, &read));
    assert_true(read.width == 11 && read.height == 7 && read.bits == 8);
    assert_int_equal(read.pixels[0], 0);
    assert_int_equal(read.pixels[10], labels.pixels[8]);
    assert_false(cb_dataset_write_map(data, 3, &labels, "out"));
    assert_non_null(strstr(cb_error_message(), "out/3.png: is there already"));
    cb_error_clear();
    cb_image_free(&labels);
    cb_image_free(&read);
    cb_dataset_free(data);
}

static void pngs_are_read_as_they_were_written(void **state)
{
    (void)state;
    for (int channels = 1; channels <= 3; channels += 2)
        for (int bits = 8; bits <= 16; bits += 8) {
            cb_image image = {0}, read = {0};
            assert_true(cb_image_make(&image, 5, 3, channels, bits));
            for (size_t i = 0; i < cb_image_bytes(&image); i++)
                image.pixels[i] = (uint8_t)(i * 37 + 11);
            assert_true(cb_image_write_png("a.png", &image));
            assert_true(cb_image_read("a.png", &(cb_image_options){.mode = CB_IMAGE_NATIVE, .deep = true}, &read));
            assert_true(read.width == 5 && read.height == 3 && read.channels == channels && read.bits == bits);
            assert_memory_equal(read.pixels, image.pixels, cb_image_bytes(&image));
            cb_image_free(&image);
            cb_image_free(&read);
        }
    assert_false(
        cb_image_write_png("none/a.png", &(cb_image){.width = 1, .height = 1, .channels = 1, .bits = 8, .pixels = (uint8_t[]){1}}));
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    cb_error_clear();
}

/* The nearest of 16 bits is that of 8. */
static void deep_maps_are_picked_and_mirrored(void **state)
{
    (void)state;
    cb_image plain = {0}, deep = {0}, a = {0}, b = {0};
    assert_true(cb_image_make(&plain, 7, 5, 1, 8) && cb_image_make(&deep, 7, 5, 1, 16));
    for (int i = 0; i < 35; i++) {
        plain.pixels[i] = (uint8_t)i;
        ((uint16_t *)(void *)deep.pixels)[i] = (uint16_t)(i * 1000);
    }
    assert_true(cb_image_resize(&plain, 4, 9, CB_RESAMPLE_NEAREST, NULL, &a) &&
                cb_image_resize(&deep, 4, 9, CB_RESAMPLE_NEAREST, NULL, &b));
    for (int i = 0; i < 36; i++)
        assert_int_equal(((uint16_t *)(void *)b.pixels)[i], a.pixels[i] * 1000);
    assert_false(cb_image_resize(&deep, 4, 9, CB_RESAMPLE_BILINEAR, NULL, &b));
    cb_error_clear();
    cb_image_free(&plain);
    cb_image_free(&deep);
    cb_image_free(&a);
    cb_image_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(maps_go_where_their_images_go),
        FILE_TEST(numbers_may_stand_for_labels),
        FILE_TEST(predicted_maps_have_the_size_of_their_images),
        FILE_TEST(masks_have_two_labels),
        FILE_TEST(stacks_are_images_and_maps),
        FILE_TEST(pngs_are_read_as_they_were_written),
        FILE_TEST(deep_maps_are_picked_and_mirrored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
