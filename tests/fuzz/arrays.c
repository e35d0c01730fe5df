/* arrays.c: files of arrays of images and labels.  The first byte of the input says which the rest is: images or labels, of IDX or NumPy; the other file
 * is a good one of two images.  Or it is a map of depths, normals or saliency beside a good image. */
#include "cambium/data.h"
#include "fuzz.h"

static const char idx_images[] = "\0\0\10\3\0\0\0\2\0\0\0\2\0\0\0\1abcd", idx_labels[] = "\0\0\10\1\0\0\0\2\1\2";
static const char npy_images[] = "\x93NUMPY\1\0\x3f\0{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 1), }\nabcd";
static const char npy_labels[] = "\x93NUMPY\1\0\x3a\0{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n\1\0\2\0";

static void read_images(const char *path)
{
    cb_image_data_options o = {0};
    cb_image_processor processor;
    cb_batch batch = {0};
    cb_image_processor_init(&processor);
    processor.height = processor.width = 2;
    o.processor = &processor;
    o.max_pixels = 1 << 18;
    bool ok = cb_string_list_add(&o.data, path);
    cb_dataset *data = ok ? cb_dataset_open_images(&o) : NULL;
    if (fuzz_expect(data != NULL)) {
        fuzz_expect(cb_dataset_sequential(data, 0, 2, &batch));
        fuzz_touch(batch.ids->data, (size_t)batch.ids->count * sizeof(float));
    }
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_string_list_free(&o.data);
}

static void read_map(const uint8_t *bytes, size_t size, cb_objective objective)
{
    static const char image[] = "P5 2 2 255\nabcd";
    cb_image_data_options o = {.objective = objective, .max_pixels = 1 << 18};
    cb_image_processor processor;
    cb_batch batch = {0};
    cb_image_processor_init(&processor);
    processor.height = processor.width = 2;
    o.processor = &processor;
    fuzz_file("x.pgm", image, sizeof image - 1);
    fuzz_file("x.npy", bytes, size);
    static const char row[] = "file,label\nx.pgm,x.npy\n";
    bool ok = cb_string_list_add(&o.data, fuzz_file("x.csv", row, sizeof row - 1));
    cb_dataset *data = ok ? cb_dataset_open_images(&o) : NULL;
    if (fuzz_expect(data != NULL)) {
        fuzz_expect(cb_dataset_sequential(data, 0, 1, &batch));
        fuzz_touch(batch.targets->data, (size_t)batch.targets->count * sizeof(float));
    }
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_string_list_free(&o.data);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    if (size && data[0] >= 'e' && data[0] <= 'g') {
        read_map(data + 1, size - 1, (cb_objective)(CB_OBJECTIVE_DEPTH_ESTIMATION + data[0] - 'e'));
        return;
    }
    if (!size || data[0] < 'a' || data[0] > 'd')
        return;
    bool idx = data[0] < 'c', labels = data[0] == 'b' || data[0] == 'd';
    const char *image_name = idx ? "t-images-idx3-ubyte" : "x_images.npy", *label_name = idx ? "t-labels-idx1-ubyte" : "x_labels.npy";
    const char *path = fuzz_file(image_name, labels ? (const void *)(idx ? idx_images : npy_images) : data + 1,
                                 labels ? (idx ? sizeof idx_images : sizeof npy_images) - 1 : size - 1);
    fuzz_file(label_name, labels ? data + 1 : (const void *)(idx ? idx_labels : npy_labels),
              labels ? size - 1 : (idx ? sizeof idx_labels : sizeof npy_labels) - 1);
    read_images(path);
}
