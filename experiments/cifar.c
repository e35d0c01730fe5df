/* cifar.c: see cifar.h. */
#include "experiments/cifar.h"

#include <math.h>

#include "experiments/zoo.h"

/* ---- photographs ---- */

/* All images of an archive, at PICTURE_SIDE, as they are. */
static cb_dataset *open_archive(const char *path)
{
    cb_image_data_options o = {0};
    cb_image_processor how;
    cb_image_processor_init(&how);
    how.height = how.width = PICTURE_SIDE;
    for (int c = 0; c < 3; c++) { /* about what images are, so that nobody is warned */
        how.image_mean[c] = 0.5;
        how.image_std[c] = 0.25;
    }
    bool ok = cb_options_init(cb_image_data_option_table, &o) && cb_string_list_add(&o.data, path);
    o.processor = &how;
    o.loader_threads = 0;
    cb_dataset *data = ok ? cb_dataset_open_images(&o) : NULL;
    cb_options_free(cb_image_data_option_table, &o);
    cb_string_list_free(&o.data);
    return data;
}

/* Row `row` of a batch as levels again. */
static void levels_of(const cb_tensor *batch, int64_t row, cb_image *image)
{
    int64_t size = PICTURE_SIDE * PICTURE_SIDE;
    const float *from = (const float *)batch->data + row * 3 * size;
    for (int64_t i = 0; i < size; i++)
        for (int64_t c = 0; c < 3; c++)
            image->pixels[3 * i + c] = (uint8_t)llround(((double)from[c * size + i] * 0.25 + 0.5) * 255);
}

enum { CIFAR_BATCH = 100 };

bool cifar_read(const char *path, int (*part_of)(int number), picture_set *parts)
{
    cb_dataset *data = open_archive(path);
    cb_batch batch = {0};
    cb_image image = {0};
    int seen[CIFAR_CLASSES] = {0};
    bool ok = data && cb_image_make(&image, PICTURE_SIDE, PICTURE_SIDE, 3, 8);
    for (int64_t i = 0; ok && cb_dataset_sequential(data, i, CIFAR_BATCH, &batch); i++)
        for (int64_t row = 0; ok && row < batch.ids->shape[0]; row++) {
            int label = ((const int32_t *)batch.targets->data)[row];
            int part = label < CIFAR_CLASSES ? part_of(seen[label]++) : CIFAR_LEFT_OUT;
            if (part == CIFAR_LEFT_OUT)
                continue;
            levels_of(batch.ids, row, &image);
            ok = pictures_add(&parts[part], &image, label);
        }
    cb_image_free(&image);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    return ok && cb_ok();
}

/* ---- the network ---- */

char *cifar_resnet(const cb_run *run)
{
    return run->quick ? cb_path_join(run->shared, "resnet") : zoo_need("resnet-cifar10");
}

bool cifar_resnet_tiny(const char *directory)
{
    static const char config[] = "{\"architectures\": [\"ResNetForImageClassification\"], \"model_type\": \"resnet\", \"num_channels\": 3, "
                                 "\"embedding_size\": 4, \"hidden_sizes\": [4, 8], \"depths\": [1, 1], \"layer_type\": \"basic\", "
                                 "\"hidden_act\": \"relu\", \"num_labels\": 10}";
    char *path = cb_path_join(directory, "config.json");
    cb_image_processor how;
    cb_image_processor_init(&how);
    how.height = how.width = PICTURE_SIDE;
    bool ok =
        path && cb_directory_make(directory) && cb_file_write(path, config, sizeof config - 1) && cb_image_processor_save(&how, directory);
    cb_model *model = ok ? cb_model_create(path, 1, (cb_model_options){0}) : NULL;
    ok = model && cb_model_save(model, directory, CB_F32);
    cb_model_free(model);
    cb_free(path);
    return ok;
}

int64_t cifar_answer(const cb_adapt_outcome *outcome, const cb_stream_item *item)
{
    const float *p = outcome->probabilities + item->row * CIFAR_CLASSES;
    int64_t best = 0;
    for (int64_t k = 1; k < CIFAR_CLASSES; k++)
        best = p[k] > p[best] ? k : best;
    return best;
}
