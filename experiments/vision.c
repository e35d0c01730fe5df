/* vision.c: see vision.h. */
#include "experiments/vision.h"

#include <stdio.h>
#include <string.h>

#include "experiments/judge.h"
#include "experiments/zoo.h"

enum { PICTURE_BYTES = PICTURE_SIDE * PICTURE_SIDE * 3 };

/* ---- pictures ---- */

void pictures_free(picture_set *set)
{
    cb_free(set->pixels);
    cb_free(set->labels);
    *set = (picture_set){0};
}

bool pictures_add(picture_set *set, const cb_image *image, int label)
{
    cb_image small = {0};
    bool ok = cb_image_resize(image, PICTURE_SIDE, PICTURE_SIDE, CB_RESAMPLE_BILINEAR, NULL, &small) && cb_image_convert(&small, 3) &&
              cb_grow(&set->pixels, &set->pixel_capacity, (set->count + 1) * PICTURE_BYTES, 1) &&
              cb_grow(&set->labels, &set->label_capacity, set->count + 1, 1);
    if (ok) {
        memcpy(set->pixels + set->count * PICTURE_BYTES, small.pixels, PICTURE_BYTES);
        set->labels[set->count++] = (uint8_t)label;
    }
    cb_image_free(&small);
    return ok;
}

bool pictures_append(picture_set *set, const picture_set *more)
{
    bool ok = cb_grow(&set->pixels, &set->pixel_capacity, (set->count + more->count) * PICTURE_BYTES, 1) &&
              cb_grow(&set->labels, &set->label_capacity, set->count + more->count, 1);
    if (ok && more->count) {
        memcpy(set->pixels + set->count * PICTURE_BYTES, more->pixels, more->count * PICTURE_BYTES);
        memcpy(set->labels + set->count, more->labels, more->count);
        set->count += more->count;
    }
    return ok;
}

static bool add_file(picture_set *set, const char *directory, const char *name, int label)
{
    cb_image image = {0};
    char *path = cb_path_join(directory, name);
    bool ok = path && cb_image_read(path, NULL, &image) && pictures_add(set, &image, label);
    cb_image_free(&image);
    cb_free(path);
    return ok;
}

bool pictures_add_directory(picture_set *parts, const char *directory, int label, int (*part_of)(int number))
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(directory, false, &names);
    int number = 0;
    for (size_t i = 0; ok && i < names.count; i++) {
        int part = cb_image_is_name(names.items[i]) ? part_of(number++) : -1;
        ok = part < 0 || add_file(&parts[part], directory, names.items[i], label);
    }
    ok = ok && (number > 0 || cb_fail(CB_ERR_IO, "%s: found no images", directory) == CB_OK);
    cb_string_list_free(&names);
    return ok;
}

static bool write_idx(const char *path, const uint8_t *values, int ndim, const size_t *shape)
{
    uint8_t head[4 + 4 * 4] = {0, 0, 8, (uint8_t)ndim};
    size_t length = 1;
    for (int i = 0; i < ndim; i++) {
        for (int k = 0; k < 4; k++)
            head[4 + 4 * i + k] = (uint8_t)(shape[i] >> (24 - 8 * k));
        length *= shape[i];
    }
    cb_writer *w = cb_writer_open(path);
    if (w && cb_writer_write(w, head, 4 + 4 * (size_t)ndim) && cb_writer_write(w, values, length))
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

bool pictures_write(const picture_set *set, const char *path)
{
    const char *name = strstr(cb_path_base(path), "images");
    char *labels = name ? cb_format("%.*slabels%s", (int)(name - path), path, name + strlen("images")) : NULL;
    bool ok = labels && write_idx(labels, set->labels, 1, (size_t[]){set->count}) &&
              write_idx(path, set->pixels, 4, (size_t[]){set->count, PICTURE_SIDE, PICTURE_SIDE, 3});
    cb_free(labels);
    return ok;
}

bool pictures_made_up(const char *path, int classes, uint64_t seed)
{
    enum { EACH = 12 };
    cb_rng rng = {.seed = seed};
    picture_set set = {0};
    cb_image image = {0};
    bool ok = cb_image_make(&image, PICTURE_SIDE, PICTURE_SIDE, 3, 8);
    for (int i = 0; ok && i < EACH * classes; i++) {
        for (size_t k = 0; k < PICTURE_BYTES; k++)
            image.pixels[k] = (uint8_t)(cb_rng_below(&rng, 128) + (k % 3 == (size_t)(i % classes) % 3 ? 120 : 0));
        ok = pictures_add(&set, &image, i % classes);
    }
    ok = ok && pictures_write(&set, path);
    cb_image_free(&image);
    pictures_free(&set);
    return ok;
}

/* ---- places ---- */

enum { MADE_UP_MAPS = 6 };

static bool picture_of_patch(const char *image_path, const char *map_path, cb_rng *rng)
{
    cb_image image = {0}, map = {0};
    int64_t left = (int64_t)cb_rng_below(rng, PICTURE_SIDE / 2), top = (int64_t)cb_rng_below(rng, PICTURE_SIDE / 2);
    bool ok = cb_image_make(&image, PICTURE_SIDE, PICTURE_SIDE, 3, 8) && cb_image_make(&map, PICTURE_SIDE, PICTURE_SIDE, 1, 8);
    for (int64_t i = 0; ok && i < PICTURE_SIDE * PICTURE_SIDE; i++) {
        int64_t x = i % PICTURE_SIDE - left, y = i / PICTURE_SIDE - top;
        map.pixels[i] = x >= 0 && y >= 0 && x < PICTURE_SIDE / 2 && y < PICTURE_SIDE / 2;
        for (int k = 0; k < 3; k++)
            image.pixels[3 * i + k] = (uint8_t)(cb_rng_below(rng, 128) + (map.pixels[i] ? 120 : 0));
    }
    ok = ok && cb_image_write_png(image_path, &image) && cb_image_write_png(map_path, &map);
    cb_image_free(&image);
    cb_image_free(&map);
    return ok;
}

bool maps_made_up(const char *images, const char *maps, uint64_t seed)
{
    cb_rng rng = {.seed = seed};
    bool ok = cb_directory_make(images) && cb_directory_make(maps);
    for (int i = 0; ok && i < MADE_UP_MAPS; i++) {
        char *image = cb_format("%s/%d.png", images, i), *map = cb_format("%s/%d.png", maps, i);
        ok = image && map && picture_of_patch(image, map, &rng);
        cb_free(image);
        cb_free(map);
    }
    return ok;
}

void maps_remove(const char *directory)
{
    for (int i = 0; i < MADE_UP_MAPS; i++) {
        char *path = cb_format("%s/%d.png", directory, i);
        if (path && cb_is_file(path))
            cb_file_remove(path);
        cb_free(path);
    }
    remove(directory);
}

/* ---- the base ---- */

char *vision_base(const cb_run *run)
{
    return run->quick ? cb_path_join(run->shared, "vit") : zoo_need("vit-cifar10");
}

static bool make_tiny(const char *directory)
{
    static const char config[] = "{\"architectures\": [\"ViTForImageClassification\"], \"model_type\": \"vit\", \"image_size\": 32, "
                                 "\"patch_size\": 8, \"num_channels\": 3, \"hidden_size\": 16, \"num_hidden_layers\": 2, "
                                 "\"num_attention_heads\": 2, \"intermediate_size\": 32}";
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

bool vision_prepare(const cb_run *run)
{
    char *base = vision_base(run);
    bool ok = base && (!run->quick || make_tiny(base));
    cb_free(base);
    return ok;
}

/* Classes have the names that the labels of IDX files become: 0, 1, ... */
cb_model *vision_open(const char *base, int classes, uint64_t seed, bool whole)
{
    cb_model *model = cb_model_load(base, .dtype = CB_BF16, .keep_weights = whole, .head = CB_HEAD_IMAGE_CLASSIFICATION, .labels = classes,
                                    .head_seed = seed, .head_follows = true);
    cb_string_list names = {0};
    bool ok = model;
    for (int i = 0; ok && i < classes; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        ok = cb_string_list_add(&names, name);
    }
    ok = ok && cb_model_set_labels(model, &names, CB_PROBLEM_SINGLE_LABEL);
    cb_string_list_free(&names);
    if (ok)
        return model;
    cb_model_free(model);
    return NULL;
}

/* ---- training ---- */

static cb_dataset *open_pictures(const cb_model *model, const char *images, const vision_training *t)
{
    cb_image_data_options options = {0};
    cb_augment_options augment = {0};
    cb_image_processor how;
    bool ok = cb_image_processor_load(cb_model_directory(model), &how) && cb_options_init(cb_image_data_option_table, &options) &&
              cb_options_init(cb_augment_option_table, &augment) && cb_string_list_add(&options.data, images);
    options.processor = &how;
    options.labels = cb_model_label_names(model);
    options.loader_threads = 0;
    options.shuffle_images = t != NULL;
    if (t) {
        augment.horizontal_flip = t->flip ? 0.5 : 0;
        augment.random_resized_crop = t->crop_min > 0;
        augment.crop_scale_min = t->crop_min > 0 ? t->crop_min : 1;
        options.augment = &augment;
        options.seed = t->seed;
    }
    cb_dataset *data = ok ? cb_dataset_open_images(&options) : NULL;
    cb_options_free(cb_augment_option_table, &augment);
    cb_options_free(cb_image_data_option_table, &options);
    cb_string_list_free(&options.data);
    return data;
}

static bool train(const cb_trainee *what, const vision_training *t)
{
    cb_train_options options = {0};
    cb_dataset *data = open_pictures(what->model, t->images, t);
    bool ok = data && cb_options_init(cb_train_option_table, &options);
    options.output = (char *)(uintptr_t)t->output;
    options.steps = t->steps;
    options.batch_size = t->batch_size;
    options.learning_rate = t->learning_rate;
    options.weight_decay = t->weight_decay;
    options.lr_scheduler_type = CB_SCHEDULE_LINEAR;
    options.warmup_ratio = 0.1;
    options.seed = t->seed;
    options.overwrite = true;
    ok = ok && cb_train(what, data, NULL, &options, NULL, NULL, NULL);
    cb_dataset_free(data);
    options.output = NULL;
    cb_options_free(cb_train_option_table, &options);
    return ok && cb_ok();
}

bool vision_train_adapter(cb_model *model, cb_adapter *adapter, const vision_training *t)
{
    cb_trainee what = cb_train_adapter(model, adapter);
    return train(&what, t);
}

bool vision_train_whole(cb_model *model, const vision_training *t)
{
    cb_trainee what = {0};
    bool ok = cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) && train(&what, t);
    cb_train_whole_free(&what);
    return ok;
}

static bool save_nothing(const cb_trainee *what, const char *directory)
{
    (void)what;
    (void)directory;
    return true;
}

bool vision_train_head(cb_model *model, const vision_training *t)
{
    cb_layer *head = cb_layer_find(cb_model_root(model), "classifier");
    bool ok = head && cb_layer_train_copy(head, "weight", CB_F32, true) && cb_layer_train_copy(head, "bias", CB_F32, true);
    const cb_named_tensor list[] = {{"classifier.weight", ok ? cb_layer_weight(head, "weight") : NULL},
                                    {"classifier.bias", ok ? cb_layer_weight(head, "bias") : NULL}};
    const cb_trainee what = {.model = model, .count = 2, .parameters = list, .save = save_nothing};
    return ok && train(&what, t);
}

int64_t vision_head_parameters(const cb_model *model)
{
    const cb_layer *head = cb_layer_find(cb_model_root(model), "classifier");
    return head ? cb_layer_weight(head, "weight")->count + cb_layer_weight(head, "bias")->count : 0;
}

/* ---- judging ---- */

size_t vision_judge(cb_model *model, const char *images, size_t most, double *items)
{
    cb_dataset *data = open_pictures(model, images, NULL);
    size_t count = data ? judge_rows(model, data, most, items) : 0;
    cb_dataset_free(data);
    return count;
}
