/* vision.h: what experiments with images share: small labelled pictures as files, the base, training, judging. */
#ifndef EXPERIMENTS_VISION_H
#define EXPERIMENTS_VISION_H

#include "experiments/experiments.h"

enum { PICTURE_SIDE = 32 };

/* ---- pictures ---- */

/* In memory: RGB, PICTURE_SIDE a side.  Zero-initialise. */
typedef struct picture_set {
    size_t count, pixel_capacity, label_capacity;
    uint8_t *pixels, *labels;
} picture_set;
void pictures_free(picture_set *set);
bool pictures_add(picture_set *set, const cb_image *image, int label); /* resized, its shape not kept; grey becomes RGB */
bool pictures_append(picture_set *set, const picture_set *more);
/* The images of a directory, by name, and so `part_of` their numbers: each goes into one of the parts, or nowhere (negative). */
bool pictures_add_directory(picture_set *parts, const char *directory, int label, int (*part_of)(int number));
/* As IDX files, `path` and the one of its labels: "train-images-ubyte", "train-labels-ubyte". */
bool pictures_write(const picture_set *set, const char *path);
/* Some of each class, in its own colour. */
bool pictures_made_up(const char *path, int classes, uint64_t seed);

/* Pictures of a bright patch each, in one directory, and where it is, in another, as 0 and 1. */
bool maps_made_up(const char *images, const char *maps, uint64_t seed);
void maps_remove(const char *directory); /* what it made there, and the directory */

/* ---- networks ---- */

/* The ViT of the zoo; of quick runs a tiny new one, made in shared/vit.  For `prepare`. */
bool vision_prepare(const cb_run *run);
char *vision_base(const cb_run *run); /* its directory; free with cb_free() */

/* The base with a new head for so many classes, random by seed; whole: all of it will be trained. */
cb_model *vision_open(const char *base, int classes, uint64_t seed, bool whole);

typedef struct vision_training {
    const char *images, *output;
    int64_t steps, batch_size;
    double learning_rate, weight_decay;
    uint64_t seed;
    bool flip;       /* pictures that mean the same mirrored */
    double crop_min; /* random resized crops of this share of the area or more */
} vision_training;
/* cb_train() with 10 % warm-up and a linear end of ... */
bool vision_train_adapter(cb_model *model, cb_adapter *adapter, const vision_training *t); /* an adapter that has the head */
bool vision_train_head(cb_model *model, const vision_training *t);
bool vision_train_whole(cb_model *model, const vision_training *t);
int64_t vision_head_parameters(const cb_model *model);
/* 1 for each picture that is labelled rightly, else 0; at most `most`; returns how many, 0 on failure. */
size_t vision_judge(cb_model *model, const char *images, size_t most, double *items);

#endif
