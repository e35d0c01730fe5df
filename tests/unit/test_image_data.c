/* test_image_data.c: images as rows of a dataset: where they come from, which batch has which, threads, errors. */
#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>

#include "data/dataset.h"
#include "data/images.h"
#include "format_fixtures.h"

/* ---- made-up data ---- */

/* An image of one level a channel, so that a batch shows which images it has. */
static void put_image(const char *path, int width, int height, int red, int green)
{
    static uint8_t bytes[32 + 3 * 64 * 64];
    int n = snprintf((char *)bytes, 32, "P6 %d %d 255\n", width, height);
    for (int i = 0; i < width * height; i++) {
        bytes[n + 3 * i] = (uint8_t)red;
        bytes[n + 3 * i + 1] = (uint8_t)green;
        bytes[n + 3 * i + 2] = 0;
    }
    put_bytes(path, bytes, (size_t)(n + 3 * width * height));
}

enum { CLASSES = 3, EACH = 5, ALL = CLASSES * EACH };

/* Red is the class, green the image. */
static void put_classes(const char *directory)
{
    static const char *const names[CLASSES] = {"Zebra", "ant", "bee"}; /* as bytes are sorted */
    char path[256];
    assert_true(cb_directory_make(directory));
    for (int c = 0; c < CLASSES; c++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[c]);
        assert_true(cb_directory_make(path));
        for (int i = 0; i < EACH; i++) {
            snprintf(path, sizeof path, "%s/%s/%d.ppm", directory, names[c], i);
            put_image(path, 6 + i, 8, c, 10 * c + i);
        }
    }
    snprintf(path, sizeof path, "%s/notes.txt", directory);
    put(path, "no image");
}

static cb_image_processor processor;

static cb_image_data_options options_for(const char *path)
{
    cb_image_data_options o = {0};
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    cb_image_processor_init(&processor);
    processor.height = processor.width = 4;
    processor.rescale_factor = 1;
    processor.do_normalize = false; /* levels */
    o.processor = &processor;
    o.data = (cb_string_list){0};
    assert_true(cb_string_list_add(&o.data, path));
    return o;
}

static void options_done(cb_image_data_options *o)
{
    cb_string_list_free(&o->data);
    cb_options_free(cb_image_data_option_table, o);
}

static cb_dataset *open_path(const char *path)
{
    cb_image_data_options o = options_for(path);
    cb_dataset *data = cb_dataset_open_images(&o);
    if (!data)
        fail_msg("%s", cb_error_message());
    options_done(&o);
    return data;
}

static void refuse(const char *path, const char *text)
{
    cb_image_data_options o = options_for(path);
    assert_null(cb_dataset_open_images(&o));
    if (!strstr(cb_error_message(), text))
        fail_msg("the error is \"%s\", expected \"%s\" in it", cb_error_message(), text);
    cb_error_clear();
    options_done(&o);
}

/* The level of a channel in the middle of a row. */
static int level(const cb_batch *batch, int64_t row, int channel)
{
    const int64_t *shape = batch->ids->shape;
    return (int)lrintf(((const float *)batch->ids->data)[((row * shape[1] + channel) * shape[2] + 1) * shape[3] + 1]);
}

static int32_t label(const cb_batch *batch, int64_t row)
{
    return ((const int32_t *)batch->targets->data)[row];
}

static void expect_labels(const cb_dataset *data, size_t count, const char *const *names)
{
    const cb_string_list *labels = cb_images_labels(data->images);
    assert_int_equal(labels->count, count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(labels->items[i], names[i]);
}

/* ---- sources ---- */

static void classes_are_directories_sorted_by_name(void **state)
{
    (void)state;
    put_classes("data");
    cb_dataset *data = open_path("data");
    expect_labels(data, 3, (const char *const[]){"Zebra", "ant", "bee"});
    assert_int_equal(cb_dataset_rows(data), ALL);
    cb_batch batch = {0};
    int64_t seen = 0;
    for (int64_t i = 0; cb_dataset_sequential(data, i, 4, &batch); i++)
        for (int64_t k = 0; k < batch.ids->shape[0]; k++, seen++) {
            assert_int_equal(label(&batch, k), seen / EACH);
            assert_int_equal(level(&batch, k, 0), seen / EACH);
            assert_int_equal(level(&batch, k, 1), 10 * (seen / EACH) + seen % EACH);
        }
    assert_true(cb_ok());
    assert_int_equal(seen, ALL);
    assert_string_equal(cb_images_source(data->images, 6), "data/ant/1.ppm");
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void archives_hold_the_same(void **state)
{
    (void)state;
    put_classes("data");
    assert_int_equal(system("tar cf stored.tar data && tar czf packed.tar.gz data"), 0);
    cb_dataset *data = open_path("data"), *stored = open_path("stored.tar"), *packed = open_path("packed.tar.gz");
    cb_batch a = {0}, b = {0}, c = {0};
    assert_true(cb_dataset_sequential(data, 0, ALL, &a) && cb_dataset_sequential(stored, 0, ALL, &b) &&
                cb_dataset_sequential(packed, 0, ALL, &c));
    size_t bytes = (size_t)a.ids->count * sizeof(float);
    assert_memory_equal(a.ids->data, b.ids->data, bytes);
    assert_memory_equal(a.ids->data, c.ids->data, bytes);
    assert_memory_equal(a.targets->data, c.targets->data, ALL * sizeof(int32_t));
    assert_string_equal(cb_images_source(stored->images, 0), "stored.tar: data/Zebra/0.ppm");
    cb_batch_free(&a);
    cb_batch_free(&b);
    cb_batch_free(&c);
    cb_dataset_free(data);
    cb_dataset_free(stored);
    cb_dataset_free(packed);
}

/* A deflated archive of the same tiny image under each name, which is UTF-8. */
static void put_zip(const char *path, const char *const *names, size_t count)
{
    static const char image[] = "P6 2 2 255\n............";
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), former = utf8 ? uselocale(utf8) : (locale_t)0;
    struct archive *a = archive_write_new();
    archive_write_set_format_zip(a);
    assert_int_equal(archive_write_set_options(a, "zip:compression=deflate"), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    for (size_t i = 0; i < count; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname_utf8(entry, names[i]);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_size(entry, sizeof image - 1);
        assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
        assert_int_equal(archive_write_data(a, image, sizeof image - 1), sizeof image - 1);
        archive_entry_free(entry);
    }
    assert_int_equal(archive_write_free(a), ARCHIVE_OK);
    if (utf8) {
        uselocale(former);
        freelocale(utf8);
    }
}

/* The tests' locale is C, which has no letter for these names. */
static void names_of_classes_are_utf8_in_any_locale(void **state)
{
    (void)state;
    assert_string_equal(setlocale(LC_CTYPE, NULL), "C");
    put_zip("colours.zip", (const char *const[]){"data/gr\303\274n/1.ppm", "data/rot/1.ppm"}, 2);
    cb_dataset *data = open_path("colours.zip");
    expect_labels(data, 2, (const char *const[]){"gr\303\274n", "rot"});
    assert_int_equal(cb_dataset_rows(data), 2);
    cb_dataset_free(data);
    assert_string_equal(setlocale(LC_CTYPE, NULL), "C");
    put_classes("data");
    assert_int_equal(system("mv data/ant data/gr\303\274n && tar --format=pax -czf pax.tar.gz data"), 0);
    data = open_path("pax.tar.gz");
    expect_labels(data, 3, (const char *const[]){"Zebra", "bee", "gr\303\274n"});
    cb_dataset_free(data);
}

static void archives_may_be_of_one_class_and_from_macos(void **state)
{
    (void)state;
    put_zip("one.zip", (const char *const[]){"data/cat/1.ppm", "data/cat/2.ppm"}, 2);
    cb_dataset *data = open_path("one.zip");
    expect_labels(data, 1, (const char *const[]){"cat"});
    cb_dataset_free(data);
    put_zip(
        "mac.zip",
        (const char *const[]){"data/cat/1.ppm", "data/cat/._1.ppm", "__MACOSX/data/cat/._1.ppm", "__MACOSX/data/1.ppm", "data/dog/1.ppm"},
        5);
    data = open_path("mac.zip");
    expect_labels(data, 2, (const char *const[]){"cat", "dog"});
    assert_int_equal(cb_dataset_rows(data), 2);
    cb_dataset_free(data);
    put_zip("stray.zip", (const char *const[]){"data/cat/1.ppm", "data/1.ppm"}, 2);
    refuse("stray.zip", "data/1.ppm: expected it in the directory of a class");
    put_zip("flat.zip", (const char *const[]){"1.ppm", "2.ppm"}, 2);
    refuse("flat.zip", "1.ppm: expected it in the directory of a class");
}

/* The header of a tar archive for a file of 2^40 bytes, as GNU tar writes sizes that have no room in octal. */
static void put_large_entry(const char *path, const char *name)
{
    char header[1024] = "";
    unsigned sum = 0;
    snprintf(header, 100, "%s", name);
    memcpy(header + 100, "0000644\0000000000\0000000000", 23);
    header[124] = (char)0x80;
    header[130] = 1;
    memcpy(header + 136, "00000000000", 11);
    memset(header + 148, ' ', 8);
    header[156] = '0';
    memcpy(header + 257, "ustar  ", 7);
    for (int i = 0; i < 512; i++)
        sum += (unsigned char)header[i];
    snprintf(header + 148, 8, "%06o", sum);
    put_bytes(path, header, sizeof header);
}

static void archives_are_bounded_and_start_no_programs(void **state)
{
    (void)state;
    put_large_entry("large.tar", "data/cat/notes.txt");
    refuse("large.tar", "found more than 68719476736 bytes of files that are no images");
    put("grzip", "#!/bin/sh\ntouch started\n"); /* libarchive has it unpack what begins so */
    put_bytes("packed.tar", "GRZipII\0\2\4:)........................................", 52);
    char *path = cb_format("%s:%s", root, getenv("PATH")), *former = cb_strdup(getenv("PATH"));
    assert_int_equal(system("chmod +x grzip"), 0);
    assert_int_equal(setenv("PATH", path, 1), 0);
    refuse("packed.tar", "packed.tar");
    assert_int_equal(setenv("PATH", former, 1), 0);
    assert_false(cb_is_file("started"));
    cb_free(path);
    cb_free(former);
}

static void tables_name_files_and_labels(void **state)
{
    (void)state;
    put_classes("data");
    put("data/table.csv", "label,file\n10,Zebra/0.ppm\n9,bee/1.ppm\n10,ant/2.ppm\n");
    put("data/table.jsonl", "{\"picture\": \"bee/4.ppm\", \"kind\": 12}\n{\"picture\": \"ant/4.ppm\", \"kind\": 2}\n");
    cb_dataset *data = open_path("data/table.csv");
    expect_labels(data, 2, (const char *const[]){"9", "10"}); /* whole numbers in their order */
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 3, &batch));
    assert_true(label(&batch, 0) == 1 && label(&batch, 1) == 0 && label(&batch, 2) == 1 && level(&batch, 1, 1) == 21 &&
                level(&batch, 2, 1) == 12);
    cb_dataset_free(data);
    cb_image_data_options o = options_for("data/table.jsonl");
    assert_true(cb_options_set(cb_image_data_option_table, &o, "image_column", "picture") &&
                cb_options_set(cb_image_data_option_table, &o, "label_column", "kind"));
    data = cb_dataset_open_images(&o);
    assert_non_null(data);
    assert_true(cb_dataset_sequential(data, 0, 3, &batch));
    assert_true(label(&batch, 0) == 1 && level(&batch, 0, 1) == 24 && level(&batch, 1, 1) == 14);
    options_done(&o);
    cb_dataset_free(data);
    cb_batch_free(&batch);
}

static size_t npy(char *to, const char *header, const void *data, size_t bytes)
{
    size_t n = strlen(header);
    memcpy(to, "\x93NUMPY\1\0", 8);
    to[8] = (char)n;
    to[9] = 0;
    memcpy(to + 10, header, n);
    memcpy(to + 10 + n, data, bytes);
    return 10 + n + bytes;
}

static void arrays_are_images_with_labels_beside_them(void **state)
{
    (void)state;
    static const uint8_t images[3 * 4] = {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const int16_t numbers[3] = {7, -1, 7};
    char bytes[256] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2};
    memcpy(bytes + 16, images, sizeof images);
    put_bytes("t-images-idx3-ubyte", bytes, 28);
    put_bytes("t-labels-idx1-ubyte", "\0\0\10\1\0\0\0\3\5\4\5", 11);
    assert_int_equal(system("gzip -k t-images-idx3-ubyte t-labels-idx1-ubyte"), 0);
    size_t n = npy(bytes, "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 2), }\n", images, sizeof images);
    put_bytes("x_images.npy", bytes, n);
    n = npy(bytes, "{'descr': '<i2', 'fortran_order': False, 'shape': (3, 1), }\n", numbers, sizeof numbers);
    put_bytes("x_labels.npy", bytes, n);
    static const char *const paths[] = {"t-images-idx3-ubyte", "t-images-idx3-ubyte.gz", "x_images.npy"};
    for (int i = 0; i < 3; i++) {
        cb_dataset *data = open_path(paths[i]);
        cb_batch batch = {0};
        expect_labels(data, 2, i == 2 ? (const char *const[]){"-1", "7"} : (const char *const[]){"4", "5"});
        assert_true(cb_dataset_sequential(data, 0, 3, &batch));
        for (int k = 0; k < 3; k++)
            assert_true(level(&batch, k, 0) == k + 1 && level(&batch, k, 2) == k + 1 && label(&batch, k) == (k != 1));
        cb_batch_free(&batch);
        cb_dataset_free(data);
    }
    n = npy(bytes, "{'descr': '|u1', 'fortran_order': True, 'shape': (3, 2, 2), }\n", images, sizeof images);
    put_bytes("x_images.npy", bytes, n);
    refuse("x_images.npy", "Fortran's order");
    n = npy(bytes, "{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 99999999, 99999999, 9999999), }\n", images,
            sizeof images);
    put_bytes("x_images.npy", bytes, n);
    refuse("x_images.npy", "impossible size");
    n = npy(bytes, "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 2, 2), }\n", images, sizeof images);
    put_bytes("x_images.npy", bytes, n);
    refuse("x_images.npy", "expected 16 for the array");
    n = npy(bytes, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2), }\n", images, sizeof images);
    put_bytes("x_images.npy", bytes, n);
    refuse("x_images.npy", "found 3 labels");
    put("plain.npy", "x");
    refuse("plain.npy", "expected a name with \"images\" in it");
}

static void data_of_the_shared_sets_are_found(void **state)
{
    (void)state;
    const char *shared = getenv("CAMBIUM_DATA");
    char path[512];
    if (!shared)
        skip();
    snprintf(path, sizeof path, "%s/cifar10/test-300.zip", shared);
    cb_dataset *data = open_path(path);
    assert_int_equal(cb_dataset_rows(data), 3000);
    assert_string_equal(cb_images_labels(data->images)->items[2], "bird");
    cb_dataset_free(data);
    snprintf(path, sizeof path, "%s/medical-img/pneumoniamnist.npz", shared);
    data = open_path(path);
    assert_int_equal(cb_dataset_rows(data), 2428);
    cb_dataset_free(data);
    snprintf(path, sizeof path, "%s/handwriting/mnist/t10k-images-idx3-ubyte.gz", shared);
    data = open_path(path);
    assert_int_equal(cb_dataset_rows(data), 10000);
    expect_labels(data, 10, (const char *const[]){"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"});
    cb_dataset_free(data);
}

/* ---- rows ---- */

static void epochs_have_every_image_once_in_orders_of_their_own(void **state)
{
    (void)state;
    put_classes("data");
    cb_dataset *data = open_path("data");
    cb_batch batch = {0};
    int orders[3][ALL];
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        int seen[100] = {0};
        assert_true(cb_dataset_batch(data, epoch, ALL, &batch));
        for (int64_t i = 0; i < ALL; i++) {
            orders[epoch][i] = level(&batch, i, 1);
            assert_int_equal(label(&batch, i), level(&batch, i, 0));
            assert_int_equal(seen[orders[epoch][i]]++, 0);
        }
    }
    assert_memory_not_equal(orders[0], orders[1], sizeof orders[0]);
    assert_memory_not_equal(orders[1], orders[2], sizeof orders[0]);
    for (int64_t i = 0; i < 9; i++) { /* batches go on from epoch to epoch, and any can be asked for */
        int64_t index = i * 7 % 9;
        assert_true(cb_dataset_batch(data, index, 5, &batch));
        for (int64_t k = 0; k < 5; k++)
            assert_int_equal(level(&batch, k, 1), orders[(index * 5 + k) / ALL][(index * 5 + k) % ALL]);
    }
    cb_string sources = {0};
    assert_true(cb_dataset_batch(data, 1, 2, &batch) && cb_dataset_sources(data, 1, 2, &sources));
    char expected[64];
    snprintf(expected, sizeof expected, "/%d.ppm, ", level(&batch, 0, 1) % 10);
    assert_non_null(strstr(sources.data, expected));
    cb_string_free(&sources);
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static cb_augment_options strong(void)
{
    cb_augment_options a;
    assert_true(cb_options_init(cb_augment_option_table, &a));
    a.random_resized_crop = true;
    a.horizontal_flip = 0.5;
    a.jitter_brightness = 0.5;
    a.auto_augment = CB_AUGMENT_TRIVIALAUGMENT;
    a.random_erasing = 0.5;
    return a;
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    put_classes("data");
    cb_augment_options augment = strong();
    enum { BATCHES = 20, ROWS = 6, VALUES = ROWS * 3 * 4 * 4 };
    static float first[BATCHES][VALUES];
    for (int threads = 0; threads <= 5; threads += threads ? 4 : 1) {
        cb_image_data_options o = options_for("data");
        o.augment = &augment;
        o.loader_threads = threads;
        o.seed = 3;
        cb_dataset *data = cb_dataset_open_images(&o);
        assert_non_null(data);
        cb_batch batch = {0};
        for (int i = 0; i < BATCHES; i++) {
            int index = i < 12 ? i : (i * 5) % BATCHES; /* in order, then here and there */
            assert_true(cb_dataset_batch(data, index, ROWS, &batch));
            if (threads == 0)
                memcpy(first[index], batch.ids->data, sizeof first[index]);
        }
        for (int i = 0; threads && i < 12; i++) {
            assert_true(cb_dataset_batch(data, i, ROWS, &batch));
            assert_memory_equal(first[i], batch.ids->data, sizeof first[i]);
            assert_true(cb_dataset_sequential(data, 0, ROWS, &batch)); /* which throws away what was made ahead */
        }
        options_done(&o);
        cb_batch_free(&batch);
        cb_dataset_free(data);
    }
    cb_options_free(cb_augment_option_table, &augment);
}

static void mixed_targets_are_shares_of_two_labels(void **state)
{
    (void)state;
    put_classes("data");
    cb_augment_options augment;
    assert_true(cb_options_init(cb_augment_option_table, &augment));
    augment.mixup_alpha = 1;
    cb_image_data_options o = options_for("data");
    o.augment = &augment;
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_batch batch = {0};
    for (int64_t i = 0; i < 10; i++) {
        assert_true(cb_dataset_batch(data, i, 4, &batch));
        assert_true(batch.targets->dtype == CB_F32 && batch.targets->shape[1] == CLASSES);
        for (int64_t k = 0; k < 4; k++) {
            const float *t = (const float *)batch.targets->data + k * CLASSES, *x = (const float *)batch.ids->data + k * 3 * 16;
            assert_true(fabsf(t[0] + t[1] + t[2] - 1) < 1e-6F);
            assert_true(fabsf(x[0] - (t[1] + 2 * t[2])) < 1e-5F); /* red is the class */
        }
    }
    assert_true(cb_dataset_sequential(data, 0, 4, &batch));
    assert_int_equal(batch.targets->dtype, CB_I32);
    options_done(&o);
    cb_options_free(cb_augment_option_table, &augment);
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void a_split_moves_images_by_seed(void **state)
{
    (void)state;
    put_classes("data");
    int moved[2][ALL];
    for (int seed = 0; seed < 2; seed++) {
        cb_dataset *data = open_path("data");
        cb_batch batch = {0};
        assert_true(cb_dataset_batch(data, 0, 2, &batch)); /* rows of before the split are being made */
        cb_dataset *part = cb_dataset_split(data, 0.4, (uint64_t)seed);
        assert_non_null(part);
        assert_true(cb_dataset_rows(part) == 6 && cb_dataset_rows(data) == 9);
        int seen[100] = {0}, n = 0;
        assert_true(cb_dataset_sequential(part, 0, 6, &batch));
        for (int64_t i = 0; i < 6; i++)
            seen[moved[seed][n++] = level(&batch, i, 1)]++;
        assert_true(cb_dataset_batch(data, 0, 9, &batch));
        for (int64_t i = 0; i < 9; i++)
            assert_int_equal(seen[level(&batch, i, 1)]++, 0);
        assert_int_not_equal(cb_dataset_hash(data), cb_dataset_hash(part));
        cb_batch_free(&batch);
        cb_dataset_free(data);
        cb_dataset_free(part);
    }
    assert_memory_not_equal(moved[0], moved[1], 6 * sizeof(int));
}

static void spread_rows_mix_the_classes_the_same_way_each_time(void **state)
{
    (void)state;
    put_classes("data");
    cb_image_data_options o = options_for("data");
    o.spread = true;
    int order[2][ALL], classes = 0;
    for (int k = 0; k < 2; k++) {
        cb_dataset *data = cb_dataset_open_images(&o);
        cb_batch batch = {0};
        assert_true(cb_dataset_sequential(data, 0, ALL, &batch));
        int seen[100] = {0};
        for (int64_t i = 0; i < ALL; i++) {
            order[k][i] = level(&batch, i, 1);
            assert_int_equal(seen[order[k][i]]++, 0);
            assert_int_equal(*cb_images_label(data->images, i), level(&batch, i, 0));
            classes |= i < EACH ? 1 << level(&batch, i, 0) : 0;
        }
        cb_batch_free(&batch);
        cb_dataset_free(data);
    }
    assert_memory_equal(order[0], order[1], sizeof order[0]);
    assert_int_not_equal(classes, 1); /* in order the first five would be of one class */
    options_done(&o);
}

/* ---- what is wrong ---- */

static void labels_of_the_model_are_held_to(void **state)
{
    (void)state;
    put_classes("data");
    cb_string_list labels = {0};
    static const char *const names[] = {"bee", "wasp", "ant", "Zebra"};
    for (int i = 0; i < 4; i++)
        assert_true(cb_string_list_add(&labels, names[i]));
    cb_image_data_options o = options_for("data");
    o.labels = &labels;
    cb_dataset *data = cb_dataset_open_images(&o);
    assert_non_null(data);
    assert_int_equal(*cb_images_label(data->images, 0), 3);
    assert_int_equal(*cb_images_label(data->images, ALL - 1), 0);
    cb_dataset_free(data);
    labels.count = 3;
    assert_null(cb_dataset_open_images(&o));
    assert_non_null(strstr(cb_error_message(), "data/Zebra/0.ppm: label: found Zebra, expected one of the 3 of the model"));
    cb_error_clear();
    labels.count = 4;
    cb_string_list_free(&labels);
    options_done(&o);
}

/* Labels of the model, separated by commas; whether it is held to them; what of it the labels of numbers.csv, 0 and 1, become: NULL: an error. */
static void expect_numbers(const char *model, bool may_differ, const char *const *names, size_t count)
{
    cb_string_list labels = {0};
    char names_of_model[64];
    snprintf(names_of_model, sizeof names_of_model, "%s", model);
    for (char *rest, *name = strtok_r(names_of_model, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
        assert_true(cb_string_list_add(&labels, name));
    cb_image_data_options o = options_for("data/numbers.csv");
    o.labels = &labels;
    o.labels_may_differ = may_differ;
    cb_dataset *data = cb_dataset_open_images(&o);
    if (!names) {
        assert_null(data);
        assert_non_null(strstr(cb_error_message(), "found 1, expected one of the"));
        cb_error_clear();
    } else {
        assert_non_null(data);
        expect_labels(data, count, names);
        assert_int_equal(*cb_images_label(data->images, 1), 1);
        cb_dataset_free(data);
    }
    cb_string_list_free(&labels);
    options_done(&o);
}

static void numbers_are_places_where_labels_have_no_numbers(void **state)
{
    (void)state;
    static const char *const own[] = {"0", "1"};
    put_classes("data");
    put("data/numbers.csv", "file,label\nZebra/0.ppm,0\nant/0.ppm,1\n");
    expect_numbers("cat,dog,emu", false, (const char *const[]){"cat", "dog", "emu"}, 3);
    expect_numbers("LABEL_0,LABEL_1,LABEL_2", false, (const char *const[]){"LABEL_0", "LABEL_1", "LABEL_2"}, 3);
    expect_numbers("2,5,0", false, NULL, 0);     /* 1 is not the label of place 1 */
    expect_numbers("cat,dog,emu", true, own, 2); /* no digits, whatever their number */
    expect_numbers("cat,dog", true, own, 2);
    expect_numbers("LABEL_0,LABEL_1,LABEL_2", true, own, 2);
    expect_numbers("LABEL_0,LABEL_1", true, (const char *const[]){"LABEL_0", "LABEL_1"}, 2);
    expect_numbers("0,1,2", true, (const char *const[]){"0", "1", "2"}, 3);
}

static void damaged_files_are_named(void **state)
{
    (void)state;
    put_classes("data");
    cb_dataset *data = open_path("data");
    put("data/ant/2.ppm", "P6 6 8 255\nshort");
    cb_batch batch = {0};
    assert_false(cb_dataset_sequential(data, 0, ALL, &batch));
    assert_non_null(strstr(cb_error_message(), "data/ant/2.ppm: PNM: found 5 bytes"));
    cb_error_clear();
    assert_true(cb_dataset_sequential(data, 0, 5, &batch)); /* others can still be had */
    cb_batch_free(&batch);
    cb_dataset_free(data);
    refuse("data", "data/ant/2.ppm");
    assert_true(cb_directory_make("empty"));
    refuse("empty", "expected one directory for each class");
    put("what.xyz", "?");
    refuse("what.xyz", "expected a directory of classes");
    put("broken.zip", "PK");
    refuse("broken.zip", "broken.zip");
    put("table.csv", "file,kind\na,b\n");
    refuse("table.csv", "table.csv");
    put("table.csv", "file,label\nnothing.png,b\n");
    refuse("table.csv", "nothing.png");
}

static int warnings;
static char warning[400];
static void count_warnings(void *user, cb_log_level level_, const char *message)
{
    (void)user;
    if (level_ != CB_LOG_WARNING)
        return;
    warnings++;
    snprintf(warning, sizeof warning, "%s", message);
}

static void count_left_out(void *user, cb_log_level level_, const char *message)
{
    if (strstr(message, "left out"))
        count_warnings(user, level_, message);
}

static void files_that_are_no_images_are_told(void **state)
{
    (void)state;
    put_classes("data");
    put("data/ant/5.webp", "?");
    put("data/ant/6.heic", "?");
    put("data/ant/.hidden", "?");
    warnings = 0;
    cb_log_set(count_left_out, NULL);
    cb_dataset_free(open_path("data"));
    assert_int_equal(warnings, 1);
    assert_string_equal(warning, "data: 2 of 17 files are left out: they are no images that are read by their names, as ant/5.webp");
    assert_int_equal(system("tar cf data.tar data"), 0);
    cb_dataset_free(open_path("data.tar"));
    assert_int_equal(warnings, 2);
    assert_non_null(strstr(warning, "data.tar: 2 of 17 files"));
    cb_log_set(NULL, NULL);
    assert_int_equal(system("mkdir data/cow && touch data/cow/1.webp data/cow/2.webp && tar cf cows.tar data"), 0);
    refuse("data", "data: class cow: found none of its 2 files to be an image that is read, as cow/1.webp");
    refuse("cows.tar", "cows.tar: class cow: found none of its 2 files");
}

/* As when the pages of a file are lost while it is unmapped. */
static bool make_and_fail(void *user, int64_t place, float *pixels)
{
    (void)user;
    pixels[0] = (float)place;
    if (place == 2)
        cb_fail(CB_ERR_IO, "lost");
    return true;
}

static image_batch_place no_next(void *user, image_batch_place place)
{
    (void)user;
    return (image_batch_place){.first = place.first};
}

static void an_error_of_a_row_fails_its_batch(void **state)
{
    (void)state;
    for (int threads = 0; threads < 2; threads++) {
        image_loader *l = cb_image_loader_open(threads, 1, make_and_fail, NULL);
        assert_non_null(cb_image_loader_get(l, (image_batch_place){.first = 0, .count = 2}, no_next, NULL));
        assert_null(cb_image_loader_get(l, (image_batch_place){.first = 2, .count = 2}, no_next, NULL));
        assert_int_equal(cb_error_status(), CB_ERR_IO);
        cb_error_clear();
        cb_image_loader_free(l);
    }
}

/* Levels of 0 to 24 are far from what 0.5 and 0.5 are for. */
static void a_wrong_mean_is_warned_of(void **state)
{
    (void)state;
    put_classes("data");
    cb_image_data_options o = options_for("data");
    processor.do_normalize = true;
    processor.rescale_factor = 1.0 / 255;
    warnings = 0;
    cb_log_set(count_warnings, NULL);
    cb_dataset_free(cb_dataset_open_images(&o));
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(warning, "their mean is -0.96"));
    processor.image_mean[0] = processor.image_mean[1] = processor.image_mean[2] = 0.02;
    processor.image_std[0] = processor.image_std[1] = processor.image_std[2] = 0.03;
    warnings = 0;
    cb_dataset_free(cb_dataset_open_images(&o));
    assert_int_equal(warnings, 0);
    cb_log_set(NULL, NULL);
    options_done(&o);
}

static void corruptions_are_of_what_the_model_sees(void **state)
{
    (void)state;
    put_classes("data");
    cb_image_data_options o = options_for("data");
    o.corruption = "brightness";
    o.severity = 5;
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 1, &batch));
    assert_int_equal(level(&batch, 0, 0), 76); /* black and 0.3 of 255, of CIFAR's constants */
    cb_batch_free(&batch);
    cb_dataset_free(data);
    o.corruption = "smoke";
    assert_null(cb_dataset_open_images(&o));
    assert_non_null(strstr(cb_error_message(), "corruption: found smoke"));
    cb_error_clear();
    options_done(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(classes_are_directories_sorted_by_name),
        FILE_TEST(archives_hold_the_same),
        FILE_TEST(names_of_classes_are_utf8_in_any_locale),
        FILE_TEST(archives_may_be_of_one_class_and_from_macos),
        FILE_TEST(archives_are_bounded_and_start_no_programs),
        FILE_TEST(tables_name_files_and_labels),
        FILE_TEST(arrays_are_images_with_labels_beside_them),
        FILE_TEST(data_of_the_shared_sets_are_found),
        FILE_TEST(epochs_have_every_image_once_in_orders_of_their_own),
        FILE_TEST(threads_change_no_bit),
        FILE_TEST(mixed_targets_are_shares_of_two_labels),
        FILE_TEST(a_split_moves_images_by_seed),
        FILE_TEST(spread_rows_mix_the_classes_the_same_way_each_time),
        FILE_TEST(labels_of_the_model_are_held_to),
        FILE_TEST(numbers_are_places_where_labels_have_no_numbers),
        FILE_TEST(damaged_files_are_named),
        FILE_TEST(files_that_are_no_images_are_told),
        FILE_TEST(an_error_of_a_row_fails_its_batch),
        FILE_TEST(a_wrong_mean_is_warned_of),
        FILE_TEST(corruptions_are_of_what_the_model_sees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
