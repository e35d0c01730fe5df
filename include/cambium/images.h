/* images.h: floor 3: pictures as data: files to pixels, and pixels to what a model takes.
 *
 *     cb_image image = {0};
 *     cb_image_processor how;
 *     cb_image_read("cat.jpg", NULL, &image);                         RGB, 8 bits a channel
 *     cb_image_processor_load("MODEL_DIR", &how);                     preprocessor_config.json
 *     cb_image_process(&how, &image, pixels);                         resized, cropped, normalised: (channels, height, width) f32
 *     cb_image_free(&image);
 *
 * What is read and how sizes change is what Pillow makes of the same file, because that is what models were trained on. */
#ifndef CAMBIUM_IMAGES_H
#define CAMBIUM_IMAGES_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows from the top, without gaps, channels side by side (height, width, channels).  Zero-initialise; free with cb_image_free(). */
typedef struct cb_image {
    int64_t width, height;
    int channels; /* 1: grey, or labels; 3: red, green, blue */
    int bits; /* 8, or 16: pixels are uint16_t in this machine's order; 32, of maps: numbers of 4 bytes, f32 or int32_t as who made them knows,
                      * which are cut, mirrored and picked, not mixed */
    uint8_t *pixels; /* owned */
} cb_image;

/* Makes an image of uninitialised pixels in place of what `image` is; sizes are positive, channels 1 or 3. */
CB_API bool cb_image_make(cb_image *image, int64_t width, int64_t height, int channels, int bits);
CB_API bool cb_image_copy(const cb_image *image, cb_image *copy);
CB_API void cb_image_free(cb_image *image); /* leaves it empty */
CB_API size_t cb_image_bytes(const cb_image *image);

/* ---- Reading ---- */

typedef enum cb_image_mode {
    CB_IMAGE_RGB,
    CB_IMAGE_GREY,   /* of colours: 0.299 R + 0.587 G + 0.114 B, as Pillow's convert("L") */
    CB_IMAGE_NATIVE, /* as the file has it: one channel or three */
    CB_IMAGE_LABELS  /* masks: the numbers themselves, of a palette its indices, of few bits not spread to 255; files of colours are
                      * CB_ERR_UNSUPPORTED */
} cb_image_mode;

#define CB_IMAGE_MAX_PIXELS (INT64_C(64) << 20) /* where options name none */

typedef struct cb_image_options {
    cb_image_mode mode;
    bool deep;           /* 16 bits a channel where the file has more than 8; else those files give their 8 upper bits */
    bool exif_transpose; /* turn and mirror as the EXIF data of a JPEG or PNG say, as ImageOps.exif_transpose */
    int64_t max_pixels;  /* larger images are refused; 0: CB_IMAGE_MAX_PIXELS */
    int64_t page;        /* of a TIFF of several images, from 0 */
} cb_image_options;

/* Reads a PNG, JPEG, TIFF (one of its images), BMP or PBM/PGM/PPM (binary and ASCII) in memory, whose kind is told by its first bytes;
 * `name` is for messages; options may be NULL.  As Pillow's convert("RGB"): alpha is dropped, palettes become colours, CMYK JPEGs are
 * taken to be inverted as Adobe's are; colour profiles and gamma do not count.  TIFFs are turned as they say.  A file that is damaged or
 * was cut off is CB_ERR_FORMAT, one of a kind or form that is not read CB_ERR_UNSUPPORTED; `image` is then empty. */
CB_API bool cb_image_decode(const char *name, const void *bytes, size_t length, const cb_image_options *options, cb_image *image);
CB_API bool cb_image_read(const char *path, const cb_image_options *options, cb_image *image);
/* How many images a file holds: of a TIFF its pages, 1 of others; -1 on failure. */
CB_API int64_t cb_image_pages(const char *path);
/* Whether a file's name ends like those of images that are read: .jpg, .jpeg, .png, .ppm, .pgm, .pbm, .pnm, .bmp, .tif, .tiff. */
CB_API bool cb_image_is_name(const char *path);

/* Writes a PNG of one channel or three, of 8 or 16 bits, atomically. */
CB_API bool cb_image_write_png(const char *path, const cb_image *image);

/* ---- Sizes ---- */

/* Pillow's numbers. */
typedef enum cb_resample {
    CB_RESAMPLE_NEAREST,
    CB_RESAMPLE_LANCZOS,
    CB_RESAMPLE_BILINEAR,
    CB_RESAMPLE_BICUBIC,
    CB_RESAMPLE_BOX,
    CB_RESAMPLE_HAMMING,
    CB_RESAMPLES
} cb_resample;

/* Resizes the part (left, top, right, bottom) of an image, NULL: all of it, as Pillow's resize(): with antialiasing when it shrinks, in
 * fixed point, across before down.  8 bits only, but by CB_RESAMPLE_NEAREST.  `out` must not be `image`. */
CB_API bool cb_image_resize(const cb_image *image, int64_t width, int64_t height, cb_resample how, const double part[4], cb_image *out);
/* Cuts out a part; what of it lies outside the image is black. */
CB_API bool cb_image_crop(const cb_image *image, int64_t left, int64_t top, int64_t width, int64_t height, cb_image *out);
CB_API bool cb_image_convert(cb_image *image, int channels); /* grey to colours or colours to grey, in place */

/* ---- What a model takes ---- */

/* preprocessor_config.json, under its field names; sizes of 0 do not apply. */
typedef struct cb_image_processor {
    int channels; /* of what the model takes: 3, or 1: one number in image_mean */
    bool do_resize;
    int64_t height, width;               /* size as height and width; width 0: as wide as the shape of the image makes it */
    int64_t shortest_edge, longest_edge; /* or as that of the shorter side, and the most for the longer one */
    cb_resample resample;
    double crop_pct; /* ConvNeXt: resized to shortest_edge / crop_pct, then cut to shortest_edge; 0: not so */
    bool do_center_crop;
    int64_t crop_height, crop_width;
    bool round_crop; /* the middle is torchvision's (rounded) and not transformers' (rounded down) */
    bool do_rescale;
    double rescale_factor;
    bool do_normalize;
    double image_mean[3], image_std[3];
    bool do_flip_channel_order; /* blue first */
} cb_image_processor;

/* A ViTImageProcessor's: 224 x 224, bilinear, mean and standard deviation 0.5. */
CB_API void cb_image_processor_init(cb_image_processor *processor);
/* From preprocessor_config.json of a directory, or the file itself; without one from the pretrained_cfg of timm in config.json.  Known:
 * the classes of ViT, DeiT, BEiT, CLIP, SigLIP, ConvNeXt, BiT, MobileNet V1 and V2, MobileViT and their Fast and FeatureExtractor forms;
 * others are CB_ERR_UNSUPPORTED.  A directory that has neither file: CB_ERR_FORMAT. */
CB_API bool cb_image_processor_load(const char *path, cb_image_processor *processor);
CB_API bool cb_image_processor_parse(const char *name, const char *json, size_t length, cb_image_processor *processor);
/* Writes preprocessor_config.json into a directory: what transformers' AutoImageProcessor reads again as the same, but for round_crop,
 * which it has no field for: where the margin is odd its crop may begin a pixel earlier. */
CB_API bool cb_image_processor_save(const cb_image_processor *processor, const char *directory);
/* Every field as one line of JSON; free with cb_free(). */
CB_API char *cb_image_processor_describe(const cb_image_processor *processor);
/* The size of what it makes of every image; false without an error when that depends on the image. */
CB_API bool cb_image_processor_size(const cb_image_processor *processor, int64_t *height, int64_t *width);
/* Converts, resizes and cuts, but leaves levels as they are. */
CB_API bool cb_image_processor_fit(const cb_image_processor *processor, const cb_image *image, cb_image *out);
/* The same of a map: what is known of each place of an image (labels, depths).  Its numbers are picked, not mixed, whatever the processor's filter
 * and channels; of 8, 16 or 32 bits.  What lies outside is 0. */
CB_API bool cb_image_processor_fit_map(const cb_image_processor *processor, const cb_image *map, cb_image *out);
/* Levels to numbers: (channels, height, width) f32, rescaled and normalised. */
CB_API bool cb_image_processor_normalize(const cb_image_processor *processor, const cb_image *image, float *pixels);
/* Both; `pixels` holds what cb_image_processor_size() says. */
CB_API bool cb_image_process(const cb_image_processor *processor, const cb_image *image, float *pixels);

/* ---- Augmentation ---- */

typedef enum cb_augment_policy { CB_AUGMENT_NONE, CB_AUGMENT_RANDAUGMENT, CB_AUGMENT_TRIVIALAUGMENT } cb_augment_policy;

typedef struct cb_augment_options {
    bool random_resized_crop;
    double crop_scale_min, crop_scale_max;
    int64_t crop_padding;
    double horizontal_flip, vertical_flip;
    double jitter_brightness, jitter_contrast, jitter_saturation, jitter_hue;
    int auto_augment; /* cb_augment_policy */
    int64_t randaugment_ops, randaugment_magnitude;
    double random_erasing;
    double mixup_alpha, cutmix_alpha;
} cb_augment_options;
extern CB_API const cb_option cb_augment_option_table[];

/* Where the draws for an item of a data set in an epoch come from: the same whatever else is drawn, and in whichever thread. */
CB_API cb_rng cb_image_rng(uint64_t seed, int64_t epoch, int64_t item);
/* An image of the size that the processor gives, cut, mirrored and recoloured as the options say with torchvision's meaning, its levels
 * not normalised yet. */
CB_API bool cb_image_augment(const cb_augment_options *options, const cb_image_processor *processor, cb_rng *rng, const cb_image *image,
                             cb_image *out);
/* The same draws for an image and a map of it, which has its size: both are cut and mirrored alike, and the map keeps its numbers; whether they were
 * mirrored (NULL: not asked) matters to directions.  Neither auto_augment nor mixing: CB_ERR_UNSUPPORTED. */
typedef struct cb_image_mirrored {
    bool across, down;
} cb_image_mirrored;
CB_API bool cb_image_augment_map(const cb_augment_options *options, const cb_image_processor *processor, cb_rng *rng, const cb_image *image,
                                 const cb_image *map, cb_image *out, cb_image *map_out, cb_image_mirrored *mirrored);
/* Of normalised pixels (channels, height, width): blanks a rectangle with the options' probability. */
CB_API void cb_image_erase(const cb_augment_options *options, cb_rng *rng, int channels, int64_t height, int64_t width, float *pixels);

/* How two images become one: of their levels (right is not above left), or a part of one inside the other.  `share` is that of the first
 * one's target. */
typedef struct cb_image_mix {
    double share;
    int64_t left, top, right, bottom;
} cb_image_mix;
/* Mixup or CutMix, by a coin where the options have both; without either share 1. */
CB_API cb_image_mix cb_image_mix_draw(const cb_augment_options *options, cb_rng *rng, int64_t height, int64_t width);
CB_API void cb_image_mix_apply(const cb_image_mix *mix, int channels, int64_t height, int64_t width, float *pixels, const float *other);

/* ---- Corruptions ---- */

/* The corruptions of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261), in their order: gaussian_noise, shot_noise,
 * impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog, brightness, contrast, elastic_transform, pixelate,
 * jpeg_compression, and the extra speckle_noise, gaussian_blur, saturate.  Frost is drawn here where theirs is photographed. */
CB_API size_t cb_corruption_count(void);
CB_API const char *cb_corruption_name(size_t index);
/* The image (8 bits) under a corruption of severity 1 to 5: with their constants for 224 pixels, and where a side is below 64 those for
 * CIFAR's 32.  Noise is drawn from rng.  An unknown name: CB_ERR_ARGUMENT with those nearest to it. */
CB_API bool cb_image_corrupt(const cb_image *image, const char *name, int severity, cb_rng *rng, cb_image *out);

#ifdef __cplusplus
}
#endif
#endif
