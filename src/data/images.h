/* images.h: images with labels as rows of a dataset: where they are (image_files.c, image_arrays.c), which of them a batch has (images.c), and
 * the threads that decode them (image_loader.c). */
#ifndef CB_DATA_IMAGES_H
#define CB_DATA_IMAGES_H

#include "cambium/data.h"

/* Pixels as they are in a file of arrays, (height, width, channels) of 8 bits each. */
typedef struct image_array {
    uint8_t *pixels; /* owned */
    int64_t count, height, width;
    int channels;
} image_array;

/* One image: a file on disk, one in memory, or a part of an array. */
typedef struct image_item {
    char *name;           /* for messages; of a file on disk its path */
    const uint8_t *bytes; /* an image file in memory; NULL: see above */
    size_t length;
    int32_t array; /* -1: none */
    int64_t at;    /* in it */
    int32_t label; /* -1: nobody knows, in streams */
    char *map;     /* the file of its map; NULL: it has one label */
    int64_t page;  /* of a file of several images, and of its maps, from 1; 0: it is the only one */
} image_item;

/* All images that were found; shared by a dataset and what is split from it. */
typedef struct image_store {
    image_item *items;
    size_t count, capacity;
    image_array *arrays;
    size_t array_count, array_capacity;
    char **blocks; /* memory that items point into */
    size_t block_count, block_capacity;
    cb_file_map *maps; /* and files */
    size_t map_count, map_capacity;
    cb_string_list labels; /* in the order of their numbers */
    cb_objective objective;
    bool unlabelled;    /* images have no labels */
    bool maps_too;      /* images have maps: of labels, or of so many numbers a place */
    int numbers;        /* 0: of labels */
    int16_t *label_of;  /* by the number in a map: the label, or less than 0 */
    uint16_t *value_of; /* and the other way round */
    double map_scale, max_depth;
    int mask_threshold; /* of masks: levels above are label 1, others 0; -1: numbers are labels */
    double invalid[8];  /* numbers in files of places that do not count */
    int invalid_count;
    int64_t max_pixels;
    int references;
} image_store;

/* image_files.c: finds the images of all of options->data and numbers their labels. */
bool cb_image_store_read(image_store *s, const cb_image_data_options *options);
void cb_image_store_free(image_store *s); /* when the last of those that share it does */
/* Adds an image with the label of this name, or, in a store that is unlabelled, without; takes the item's name, also on failure. */
bool cb_image_store_add(image_store *s, image_item item, const char *label, size_t label_length);
bool cb_image_store_keep(image_store *s, char *block); /* until it is freed; takes it, also on failure */

/* One of the files that classes are made of, in the order of their names. */
typedef struct image_file {
    char *name;
    const uint8_t *bytes; /* in memory; NULL: on disk */
    size_t length;
} image_file;
typedef struct image_class_source {
    const char *path;
    bool archive;
    const char *shared; /* begins with the directories that all images lie in, which tell no class */
    size_t shared_length;
} image_class_source;
/* Adds the images among files whose directories are their classes.  Others are left out with a warning; a class of none but such is an
 * error. */
bool cb_image_store_add_classes(image_store *s, const image_class_source *source, const image_file *files, size_t count);
bool cb_image_archive_read(image_store *s, const char *path); /* image_archives.c */
/* image_labels.c: once all are there, numbers labels: as options->labels has them, or in the order of whole numbers or names. */
bool cb_image_store_number_labels(image_store *s, const cb_image_data_options *options, bool as_numbers);

/* image_files.c: rows of a table, each an image's file and a label, or (is_map) another file. */
typedef bool image_row_visit(void *user, const char *image, const char *label);
bool cb_image_is_table(const char *path);
bool cb_image_table_read(const char *path, const cb_image_data_options *options, bool is_map, image_row_visit *visit, void *user);

enum { IMAGE_LABEL_NOT_COUNTED = -100 }; /* of a place */
/* image_maps.c: finds images and their maps. */
bool cb_image_maps_read(image_store *s, const cb_image_data_options *options);
/* Label maps without their images, whose names are then those of the maps: options->data are directories of maps, or of images and maps, tables, or
 * maps. */
bool cb_image_maps_alone(image_store *s, const cb_image_data_options *options);
/* What a map of labels has at its places: labels' numbers plus one, 0: does not count. */
bool cb_image_map_labels(const image_store *s, int64_t item, cb_image *labels);
/* The map of an item, which must have the size of its image: labels' numbers plus one, 0: does not count; or f32 numbers, NaN where it does not. */
bool cb_image_map_read(const image_store *s, int64_t item, const cb_image *image, cb_image *map);
/* The targets of places that are, from 1, those of a map; 0: outside of it.  Labels (height, width), or numbers (K, height, width). */
void cb_image_map_pick(const image_store *s, const cb_image *map, const cb_image *places, cb_image_mirrored mirrored, float *targets);
/* Writes labels (8 bits) or numbers (f32) of an item as the data's maps have them, into DIRECTORY/name.png or .npy; whole: they are of all of the image,
 * and get its size. */
bool cb_image_map_write(const image_store *s, int64_t item, const cb_image *map, bool whole, const char *directory);
/* number_maps.c: the same of numbers. */
bool cb_number_maps_open(image_store *s, const cb_image_data_options *options);
bool cb_number_map_is_name(const char *path); /* beside images */
bool cb_number_map_read(const image_store *s, const image_item *item, cb_image *map);
void cb_number_map_pick(const image_store *s, const cb_image *map, const cb_image *places, cb_image_mirrored mirrored, float *targets);
bool cb_number_map_write(const image_store *s, const char *path, bool as_array, const cb_image *map, int64_t height, int64_t width);

/* image_arrays.c: files of arrays by their names: IDX (.gz) with labels beside it, .npy with labels beside it, .npz.  `split` chooses among those
 * of an .npz. */
bool cb_image_arrays_is_name(const char *path);
bool cb_image_arrays_read(image_store *s, const char *path, const char *split);

/* The pixels of an item, turned upright where that is asked for. */
bool cb_image_item_read(const image_store *s, int64_t item, const cb_image_options *how, cb_image *image);

/* ---- decoding in the background ---- */

/* Makes the pixels of a row: `place` is its number in the endless sequence of epochs, or, of the unshuffled data, less than 0: -1 - row. */
typedef bool image_maker(void *user, int64_t place, float *pixels);

typedef struct image_loader image_loader;
/* `values` floats a row; 0 threads: rows are made when they are asked for. */
image_loader *cb_image_loader_open(int threads, size_t values, image_maker *make, void *user);
void cb_image_loader_free(image_loader *l);
/* Rows [first, first + count) of the sequence, or, of the unshuffled data, rows -1 - first and downwards; `next` is the same of the batch that is
 * likely to be asked for after it (count 0: none), and is begun.  Pixels hold until the next call; NULL on failure. */
typedef struct image_batch_place {
    int64_t first, count;
    bool sequential;
} image_batch_place;
const float *cb_image_loader_get(image_loader *l, image_batch_place batch, image_batch_place (*next)(void *user, image_batch_place),
                                 void *user);

/* ---- rows of a dataset ---- */

typedef struct image_rows image_rows;
void cb_images_free(image_rows *r);
image_rows *cb_images_view(const image_rows *r, const cb_augment_options *augment);  /* cb_dataset_view() */
image_rows *cb_images_pick(const image_rows *r, const int64_t *rows, int64_t count); /* cb_dataset_pick() */
bool cb_images_read(const image_rows *r, int64_t row, cb_image *image);              /* cb_dataset_row_image() */
int64_t cb_images_row_at(const image_rows *r, int64_t place);                        /* cb_dataset_row_at() */
bool cb_images_batch(image_rows *r, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources);
bool cb_images_sequential(image_rows *r, int64_t index, int64_t rows, cb_batch *batch);
image_rows *cb_images_split(image_rows *r, double share, uint64_t seed);
int64_t cb_images_count(const image_rows *r);
uint64_t cb_images_hash(const image_rows *r);
const cb_string_list *cb_images_labels(const image_rows *r);
const int32_t *cb_images_label(const image_rows *r, int64_t row);
const char *cb_images_source(const image_rows *r, int64_t row);
int64_t cb_images_number(const image_rows *r, int64_t row);
cb_objective cb_images_objective(const image_rows *r);
bool cb_images_write_map(const image_rows *r, int64_t row, const cb_image *map, const char *directory);

#endif
