/* images.c: images with labels as rows of a dataset.
 *
 * A row is a function of (seed, epoch, item): the order of an epoch is a permutation that is computed and not stored, and augmentation draws from
 * counters.  So any row can be made at any time, in any thread. */
#include "data/images.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "data/dataset.h"
#include "data/text_lines.h"

#define OPT cb_image_data_options
const cb_option cb_image_data_option_table[] = {
    CB_OPT_STRING(OPT, image_column, "file", "NAME", "of a table: the column with the images' files, relative to the table's directory"),
    CB_OPT_STRING(OPT, label_column, "label", "NAME", "of a table: the column with their labels"),
    CB_OPT_STRING(OPT, data_split, "train", "NAME", "of an .npz file: which of its arrays, as in NAME_images and NAME_labels"),
    CB_OPT_LIST(OPT, label_maps, NULL, "DIR,...",
                "of places of images: for each directory of data that of its maps, of labels or numbers, which are called as the images; "
                "for a TIFF "
                "of several images one of as many maps"),
    CB_OPT_STRING(OPT, map_suffix, NULL, "TEXT",
                  "maps are called as their images with this in the place of the ending, as _mask.png, and may lie beside them"),
    CB_OPT_INT(OPT, mask_threshold, -1, -1, 255,
               "label maps are masks, in which grey levels above N are label 1 and others 0 (-1: numbers are labels)"),
    CB_OPT_INT(OPT, ignore_index, 255, -1, 65535, "of label maps: the number of places that do not count (-1: all do)"),
    CB_OPT_LIST(OPT, label_values, NULL, "N,...", "of label maps: the numbers that stand for labels 0, 1, ...; without, these themselves"),
    CB_OPT_FLOAT(OPT, map_scale, 0, 0, 1e12,
                 "of maps of numbers: what the numbers in files are divided by, as 1000 of millimetres (0: depths by 1, what images say of "
                 "normals and saliency by 255 or, of 16 bits, 65535)"),
    CB_OPT_LIST(
        OPT, invalid_values, NULL, "N,...",
        "of maps of numbers: those in files of places that do not count, beside NaN; without, 0 of depths and normals; none: all do"),
    CB_OPT_FLOAT(OPT, max_depth, 0, 0, 1e12, "of depths: places that are further do not count (0: all do)"),
    CB_OPT_STRING(OPT, text_column, "text", "NAME", "of text recognition: the column with what is written in the images"),
    CB_OPT_INT(OPT, max_width, 2048, 0, 1 << 20,
               "of text recognition: wider images, once they are as high as the model takes them, are squeezed to this width (0: none)"),
    CB_OPT_BOOL(OPT, ctc_zero_infinity, 0,
                "of text recognition: pass over texts that need more frames than their images give, with a warning, instead of an error"),
    CB_OPT_INT(OPT, max_images, 0, 0, 9e15, "images to use at most, spread over all of them (0: all)"),
    CB_OPT_BOOL(OPT, shuffle_images, 1, "another order in every epoch"),
    CB_OPT_BOOL(OPT, exif_transpose, 1, "turn photographs upright as their EXIF data say"),
    CB_OPT_INT(OPT, max_pixels, 64 << 20, 1, 1 << 30, "refuse images of more pixels"),
    CB_OPT_INT(OPT, loader_threads, 2, 0, 64, "threads that decode images ahead (0: none, when they are needed)"),
    CB_OPT_END};
#undef OPT

struct image_rows {
    image_store *store;
    int64_t *members, count; /* items of the store */
    cb_image_processor processor;
    cb_augment_options augment;
    bool augmented, shuffle;
    cb_objective objective;
    cb_image_options how;
    char *corruption;
    int severity, threads;
    uint64_t seed;
    uint64_t views; /* of how many others this is a view */
    int64_t height, width;
    int64_t last_first, stride; /* of unshuffled batches: where the last began, and how far the next one is */
    int64_t rows;               /* of a batch */
    image_loader *loader;
};

/* ---- which ---- */

int64_t cb_images_row_at(const image_rows *r, int64_t place)
{
    int64_t epoch = place / r->count, at = place % r->count;
    return r->shuffle ? cb_data_permuted(r->seed, epoch, r->count, at) : at;
}

/* The item at a place of the endless sequence, or of the unshuffled data. */
static int64_t item_at(const image_rows *r, int64_t place)
{
    return r->members[place < 0 ? -1 - place : cb_images_row_at(r, place)];
}

/* ---- one row ---- */

static bool corrupt(const image_rows *r, int64_t item, cb_image *image)
{
    cb_image out = {0};
    cb_rng rng = cb_image_rng(r->seed, INT16_MAX, item); /* no epoch's */
    if (!cb_image_corrupt(image, r->corruption, r->severity, &rng, &out))
        return false;
    cb_image_free(image);
    *image = out;
    return true;
}

/* Of places, also where nobody knows their labels. */
static bool has_places(const image_rows *r)
{
    return cb_objective_is_of_places(r->objective);
}

static size_t values_of(const image_rows *r)
{
    return (size_t)r->processor.channels * (size_t)r->height * (size_t)r->width;
}

/* Labels or numbers behind an image's pixels. */
static size_t map_values_of(const image_rows *r)
{
    size_t each = r->store->numbers ? (size_t)r->store->numbers : 1;
    return r->store->maps_too ? each * (size_t)r->height * (size_t)r->width : 0;
}

/* Which place is which, from 1: what becomes of them says where each place of a made image comes from, for all maps of it. */
static bool number_places(const cb_image *image, cb_image *places)
{
    bool ok = cb_image_make(places, image->width, image->height, 1, 32);
    for (int64_t i = 0; ok && i < image->width * image->height; i++)
        ((int32_t *)(void *)places->pixels)[i] = (int32_t)(i + 1);
    return ok;
}

/* The image as the processor or augmentation makes it, and, where it has a map, what of that. */
static bool fit(const image_rows *r, bool augmented, cb_rng *rng, const cb_image *image, const cb_image *map, cb_image *out, float *targets)
{
    if (!r->store->maps_too)
        return augmented ? cb_image_augment(&r->augment, &r->processor, rng, image, out)
                         : cb_image_processor_fit(&r->processor, image, out);
    cb_image places = {0}, fitted = {0};
    cb_image_mirrored mirrored = {0};
    bool ok =
        number_places(image, &places) &&
        (augmented ? cb_image_augment_map(&r->augment, &r->processor, rng, image, &places, out, &fitted, &mirrored)
                   : cb_image_processor_fit(&r->processor, image, out) && cb_image_processor_fit_map(&r->processor, &places, &fitted));
    if (ok)
        cb_image_map_pick(r->store, map, &fitted, mirrored, targets);
    cb_image_free(&places);
    cb_image_free(&fitted);
    return ok;
}

/* Pixels, and the labels or numbers of a map behind them. */
static bool make_row(void *user, int64_t place, float *pixels)
{
    const image_rows *r = user;
    int64_t item = item_at(r, place);
    uint64_t again = r->views > 1 ? r->views << 32 : 0; /* a view of a view draws anew */
    cb_rng rng = cb_image_rng(r->seed ^ again, place < 0 ? 0 : place / r->count, item);
    cb_image image = {0}, fitted = {0}, map = {0};
    bool augmented = r->augmented && place >= 0;
    bool read =
        cb_image_item_read(r->store, item, &r->how, &image) && (!r->store->maps_too || cb_image_map_read(r->store, item, &image, &map));
    bool ok = read && fit(r, augmented, &rng, &image, &map, &fitted, pixels + values_of(r));
    ok = ok && (!r->corruption || corrupt(r, item, &fitted)) && cb_image_processor_normalize(&r->processor, &fitted, pixels);
    if (ok && augmented)
        cb_image_erase(&r->augment, &rng, r->processor.channels, r->height, r->width, pixels);
    if (read && !ok)
        cb_error_prefix("%s", r->store->items[item].name);
    cb_image_free(&image);
    cb_image_free(&fitted);
    cb_image_free(&map);
    return ok;
}

/* ---- opening ---- */

void cb_images_free(image_rows *r)
{
    if (!r)
        return;
    cb_image_loader_free(r->loader);
    cb_image_store_free(r->store);
    cb_free(r->members);
    cb_free(r->corruption);
    cb_free(r);
}

/* Puts rows in an order that is the same each time and mixes the classes. */
static bool spread(image_rows *r)
{
    int64_t *mixed = cb_calloc((size_t)r->count, sizeof *mixed);
    for (int64_t i = 0; mixed && i < r->count; i++)
        mixed[i] = r->members[cb_data_permuted(r->seed, -2, r->count, i)];
    if (!mixed)
        return false;
    cb_free(r->members);
    r->members = mixed;
    return true;
}

/* At most so many, spread evenly. */
static bool choose_members(image_rows *r, int64_t most)
{
    int64_t all = (int64_t)r->store->count;
    r->count = most && most < all ? most : all;
    r->members = cb_calloc((size_t)r->count, sizeof *r->members);
    for (int64_t i = 0; r->members && i < r->count; i++)
        r->members[i] = (int64_t)((double)i * (double)all / (double)r->count);
    return r->members;
}

/* A network begins with depths about 1. */
static void warn_of_depths(const image_rows *r, double sum, double count)
{
    const double near = 0.02, far = 200;
    double mean = count > 0 ? sum / count : 1;
    if (r->store->objective == CB_OBJECTIVE_DEPTH_ESTIMATION && (mean < near || mean > far))
        cb_log_message(
            CB_LOG_WARNING,
            "depths: their mean is %.4g, expected about 1 to 100, which is what networks begin with: --map-scale divides those of "
            "files, as 1000 of millimetres",
            mean);
}

/* Of some images, spread over all: networks are trained on numbers around 0 with deviations of about 1, and a wrong mean or a missing division shows
 * here. */
static bool check_statistics(const image_rows *r)
{
    enum { SAMPLE = 48 };
    static const double far = 0.75, narrow = 0.4, wide = 2.5;
    float *pixels = cb_alloc((values_of(r) + map_values_of(r)) * sizeof *pixels);
    double sum = 0, squares = 0, n = 0, depths = 0, counted = 0;
    bool ok = pixels;
    for (int64_t i = 0; ok && i < SAMPLE && i < r->count; i++) {
        ok = make_row((void *)r, -1 - (r->count <= SAMPLE ? i : i * r->count / SAMPLE), pixels);
        for (size_t k = 0; ok && k < values_of(r); k++) {
            sum += pixels[k];
            squares += (double)pixels[k] * pixels[k];
        }
        n += (double)values_of(r);
        for (size_t k = 0; ok && r->store->objective == CB_OBJECTIVE_DEPTH_ESTIMATION && k < map_values_of(r); k++) {
            double depth = (double)pixels[values_of(r) + k];
            depths += isnan(depth) ? 0 : depth;
            counted += !isnan(depth);
        }
    }
    cb_free(pixels);
    warn_of_depths(r, depths, counted);
    double mean = n > 0 ? sum / n : 0, deviation = n > 0 ? sqrt(fmax(squares / n - mean * mean, 0)) : 1;
    if (ok && (fabs(mean) > far || deviation < narrow || deviation > wide))
        cb_log_message(
            CB_LOG_WARNING,
            "images: after normalisation their mean is %.3g and their standard deviation %.3g, expected about 0 and 1: are image_mean "
            "(%.3g), image_std (%.3g) and rescale_factor (%.3g) those the model was trained with?",
            mean, deviation, r->processor.image_mean[0], r->processor.image_std[0], r->processor.rescale_factor);
    return ok;
}

static bool is_mixed(const image_rows *r)
{
    return r->augmented && (r->augment.mixup_alpha > 0 || r->augment.cutmix_alpha > 0);
}

/* Views of an image whose places are compared must show the same ones, as maps would have to. */
static bool check_views(const image_rows *r)
{
    const char *other = !r->augmented             ? NULL
                        : r->augment.auto_augment ? "auto_augment"
                        : is_mixed(r)             ? "mixup_alpha or cutmix_alpha"
                                                  : NULL;
    return !other || cb_fail(CB_ERR_UNSUPPORTED, "%s: is for images with one label each, found those of whose places there are labels",
                             other) == CB_OK;
}

static bool open_rows(image_rows *r, const cb_image_data_options *o)
{
    r->processor = *o->processor;
    r->how = (cb_image_options){.mode = r->processor.channels == 1 ? CB_IMAGE_GREY : CB_IMAGE_RGB,
                                .exif_transpose = o->exif_transpose,
                                .max_pixels = o->max_pixels};
    r->augmented = o->augment;
    if (o->augment)
        r->augment = *o->augment;
    r->shuffle = o->shuffle_images;
    r->seed = o->seed;
    r->severity = o->severity;
    r->threads = (int)o->loader_threads;
    r->last_first = -1;
    if (!cb_image_processor_size(&r->processor, &r->height, &r->width))
        return cb_fail(CB_ERR_ARGUMENT,
                       "images: the image processor makes images of different sizes, expected height and width, or a crop") == CB_OK;
    if (o->corruption && !(r->corruption = cb_strdup(o->corruption)))
        return false;
    r->store = cb_calloc(1, sizeof *r->store);
    if (!r->store)
        return false;
    r->store->references = 1;
    bool maps = cb_objective_is_of_places(o->objective), made = o->objective == CB_OBJECTIVE_IMAGE_GENERATION;
    r->objective = maps || made ? o->objective : CB_OBJECTIVE_IMAGE_CLASSIFICATION;
    if (maps && o->unlabelled && !check_views(r))
        return false;
    if (made && is_mixed(r))
        return cb_fail(CB_ERR_ARGUMENT, "images: found mixup or CutMix, expected none where images are to be made") == CB_OK;
    return (maps ? cb_image_maps_read : cb_image_store_read)(r->store, o) && choose_members(r, o->max_images) &&
           (!o->spread || spread(r)) && (made || cb_rehearsing() || check_statistics(r));
}

cb_dataset *cb_dataset_open_images(const cb_image_data_options *options)
{
    cb_dataset *data = cb_calloc(1, sizeof *data);
    if (data && options->objective == CB_OBJECTIVE_TEXT_RECOGNITION) {
        data->options.objective = options->objective;
        data->lines = cb_text_lines_open(options);
        if (data->lines)
            return data;
        cb_free(data);
        return NULL;
    }
    image_rows *r = data ? cb_calloc(1, sizeof *r) : NULL;
    if (r && open_rows(r, options)) {
        data->images = r;
        return data;
    }
    cb_images_free(r);
    cb_free(data);
    return NULL;
}

image_rows *cb_images_split(image_rows *r, double share, uint64_t seed)
{
    int64_t held = llround((double)r->count * share), kept = 0;
    if (held < 1 || r->count - held < 1) {
        cb_fail(CB_ERR_ARGUMENT, "data: %lld images are too few to set aside a share of %g for validation", (long long)r->count, share);
        return NULL;
    }
    image_rows *part = cb_calloc(1, sizeof *part);
    int64_t *members = part ? cb_calloc((size_t)r->count, sizeof *members) : NULL;
    char *corruption = r->corruption && members ? cb_strdup(r->corruption) : NULL;
    if (!members || (r->corruption && !corruption)) {
        cb_free(members);
        cb_free(part);
        return NULL;
    }
    cb_image_loader_free(r->loader); /* what it made ahead is of other rows now */
    r->loader = NULL;
    *part = *r;
    part->store->references++;
    part->members = members;
    part->corruption = corruption;
    part->count = 0;
    int64_t all = r->count;
    for (int64_t i = 0; i < all; i++) /* in their order, which one is moved by a permutation */
        if (cb_data_permuted(seed ^ 0x5e11, -1, all, i) < held)
            members[part->count++] = r->members[i];
        else
            r->members[kept++] = r->members[i];
    r->count = kept;
    if (spread(part))
        return part;
    cb_images_free(part);
    return NULL;
}

image_rows *cb_images_pick(const image_rows *r, const int64_t *rows, int64_t count)
{
    image_rows *part = cb_calloc(1, sizeof *part);
    int64_t *members = part ? cb_calloc((size_t)count, sizeof *members) : NULL;
    char *corruption = r->corruption && members ? cb_strdup(r->corruption) : NULL;
    if (!members || (r->corruption && !corruption)) {
        cb_free(members);
        cb_free(part);
        return NULL;
    }
    *part = *r;
    part->store->references++;
    for (int64_t i = 0; i < count; i++)
        members[i] = r->members[rows ? rows[i] : i];
    part->members = members;
    part->count = count;
    part->corruption = corruption;
    part->loader = NULL;
    part->last_first = -1;
    return part;
}

image_rows *cb_images_view(const image_rows *r, const cb_augment_options *augment)
{
    image_rows *view = cb_images_pick(r, NULL, r->count);
    if (!view)
        return NULL;
    view->views = r->views + 1;
    view->augmented = augment;
    view->augment = augment ? *augment : (cb_augment_options){0};
    return view;
}

/* ---- batches ---- */

static image_batch_place next_place(void *user, image_batch_place place)
{
    const image_rows *r = user;
    if (!place.sequential)
        return (image_batch_place){.first = place.first + place.count, .count = place.count};
    int64_t first = place.first + r->stride, left = r->count - first;
    return (image_batch_place){.first = first, .count = left < r->rows ? left : r->rows, .sequential = true};
}

static bool batch_ready(const image_rows *r, int64_t rows, bool shares, cb_batch *batch)
{
    const int64_t pixels[] = {rows, r->processor.channels, r->height, r->width}, targets[] = {rows, (int64_t)r->store->labels.count},
                  places[] = {rows, r->height, r->width}, numbers[] = {rows, r->store->numbers, r->height, r->width};
    batch->tokens = rows;
    batch->predicted = has_places(r) ? rows * r->height * r->width : rows;
    if (has_places(r)) {
        bool ok =
            cb_batch_tensor(&batch->ids, CB_F32, 4, pixels) && (r->store->numbers ? cb_batch_tensor(&batch->targets, CB_F32, 4, numbers)
                                                                                  : cb_batch_tensor(&batch->targets, CB_I32, 3, places));
        if (ok && cb_rehearsing()) /* no map is read then */
            memset(batch->targets->data, 0, (size_t)batch->targets->count * sizeof(int32_t));
        for (int64_t i = 0; ok && r->store->unlabelled && i < batch->targets->count; i++)
            if (r->store->numbers)
                ((float *)batch->targets->data)[i] = NAN;
            else
                ((int32_t *)batch->targets->data)[i] = IMAGE_LABEL_NOT_COUNTED;
        return ok;
    }
    return cb_batch_tensor(&batch->ids, CB_F32, 4, pixels) &&
           cb_batch_tensor(&batch->targets, shares ? CB_F32 : CB_I32, shares ? 2 : 1, targets);
}

static int32_t label_at(const image_rows *r, int64_t place)
{
    return r->store->items[item_at(r, place)].label;
}

/* Each image with the one before it, the first with the last, as torchvision's MixUp and CutMix. */
static void mix(const image_rows *r, int64_t index, image_batch_place place, const float *pixels, cb_batch *batch)
{
    cb_rng rng = cb_image_rng(r->seed, INT16_MAX - 1, index);
    cb_image_mix how = cb_image_mix_draw(&r->augment, &rng, r->height, r->width);
    size_t values = values_of(r), labels = r->store->labels.count;
    float *to = batch->ids->data, *targets = batch->targets->data;
    memset(targets, 0, (size_t)place.count * labels * sizeof *targets);
    for (int64_t i = 0; i < place.count; i++, targets += labels) {
        int64_t other = (i + place.count - 1) % place.count;
        cb_image_mix_apply(&how, r->processor.channels, r->height, r->width, to + (size_t)i * values, pixels + (size_t)other * values);
        targets[label_at(r, place.first + i)] += (float)how.share;
        targets[label_at(r, place.first + other)] += (float)(1 - how.share);
    }
}

/* Of an image's targets, which are labels or planes of numbers: how many places count. */
static int64_t put_targets(const image_rows *r, const float *from, cb_batch *batch, int64_t row)
{
    size_t values = map_values_of(r), places = (size_t)r->height * (size_t)r->width;
    int64_t counted = 0;
    if (r->store->numbers) {
        memcpy((float *)batch->targets->data + (size_t)row * values, from, values * sizeof *from);
        for (size_t i = 0; i < places; i++)
            counted += !isnan(from[i]);
        return counted;
    }
    int32_t *labels = (int32_t *)batch->targets->data + (size_t)row * values;
    for (size_t i = 0; i < places; i++) {
        labels[i] = (int32_t)from[i];
        counted += labels[i] != IMAGE_LABEL_NOT_COUNTED;
    }
    return counted;
}

/* Rows of pixels with targets behind them. */
static void fill_maps(const image_rows *r, int64_t rows, const float *values, cb_batch *batch)
{
    size_t pixels = values_of(r);
    batch->predicted = 0;
    for (int64_t row = 0; row < rows; row++, values += pixels + map_values_of(r)) {
        memcpy((float *)batch->ids->data + (size_t)row * pixels, values, pixels * sizeof *values);
        batch->predicted += put_targets(r, values + pixels, batch, row);
    }
}

static bool fill(image_rows *r, image_batch_place place, cb_batch *batch, const float **pixels)
{
    if (!r->loader && !(r->loader = cb_image_loader_open(r->threads, values_of(r) + map_values_of(r), make_row, r)))
        return false;
    *pixels = cb_image_loader_get(r->loader, place, next_place, r);
    if (*pixels && r->store->maps_too)
        fill_maps(r, place.count, *pixels, batch);
    else if (*pixels)
        memcpy(batch->ids->data, *pixels, (size_t)place.count * values_of(r) * sizeof **pixels);
    return *pixels;
}

static void name_sources(const image_rows *r, image_batch_place place, cb_string *sources)
{
    enum { LONG = 300 };
    for (int64_t i = 0; i < place.count && sources->length < LONG; i++)
        cb_string_printf(sources, "%s%s", sources->length ? ", " : "", r->store->items[item_at(r, place.first + i)].name);
}

bool cb_images_batch(image_rows *r, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    image_batch_place place = {.first = index * rows, .count = rows};
    const float *pixels;
    if (sources) {
        name_sources(r, place, sources);
        return cb_ok();
    }
    r->rows = rows;
    if (!batch_ready(r, rows, is_mixed(r), batch))
        return false;
    for (int64_t i = 0; !is_mixed(r) && !has_places(r) && i < rows; i++)
        ((int32_t *)batch->targets->data)[i] = label_at(r, place.first + i);
    if (cb_rehearsing())
        return true;
    if (!fill(r, place, batch, &pixels))
        return false;
    if (is_mixed(r))
        mix(r, index, place, pixels, batch);
    return true;
}

bool cb_images_sequential(image_rows *r, int64_t index, int64_t rows, cb_batch *batch)
{
    int64_t first = index * rows, left = r->count - first;
    image_batch_place place = {.first = first, .count = left < rows ? left : rows, .sequential = true};
    const float *pixels;
    if (left <= 0 || !batch_ready(r, place.count, false, batch))
        return false;
    r->stride = r->last_first >= 0 && first > r->last_first ? first - r->last_first : rows;
    r->last_first = first;
    r->rows = rows;
    for (int64_t i = 0; !has_places(r) && i < place.count; i++)
        ((int32_t *)batch->targets->data)[i] = label_at(r, -1 - (first + i));
    return cb_rehearsing() || fill(r, place, batch, &pixels);
}

/* ---- questions ---- */

int64_t cb_images_count(const image_rows *r)
{
    return r->count;
}

const cb_string_list *cb_images_labels(const image_rows *r)
{
    return &r->store->labels;
}

const int32_t *cb_images_label(const image_rows *r, int64_t row)
{
    return &r->store->items[r->members[row]].label;
}

const char *cb_images_source(const image_rows *r, int64_t row)
{
    return r->store->items[r->members[row]].name;
}

int64_t cb_images_number(const image_rows *r, int64_t row)
{
    return r->members[row];
}

bool cb_images_read(const image_rows *r, int64_t row, cb_image *image)
{
    return cb_image_item_read(r->store, r->members[row], &r->how, image);
}

cb_objective cb_images_objective(const image_rows *r)
{
    return r->objective;
}

bool cb_images_write_map(const image_rows *r, int64_t row, const cb_image *map, const char *directory)
{
    const cb_image_processor *p = &r->processor;
    return cb_image_map_write(r->store, r->members[row], map, !p->do_center_crop && p->crop_pct <= 0, directory);
}

static uint64_t hash_number(uint64_t h, double number)
{
    char text[40];
    snprintf(text, sizeof text, "%.17g", number);
    return cb_hash_text(h, text);
}

/* Of names, labels, how images are made ready and what is drawn for them; not of the files' bytes. */
uint64_t cb_images_hash(const image_rows *r)
{
    const uint64_t prime = 0x100000001b3u;
    uint64_t h = CB_HASH_START;
    for (int64_t i = 0; i < r->count; i++) {
        const image_item *item = &r->store->items[r->members[i]];
        h = item->map ? cb_hash_text(h, cb_path_base(item->map)) : h;
        h = (cb_hash_text(h, cb_path_base(item->name)) ^ (uint64_t)(uint32_t)item->label << 32 ^ item->length) * prime;
    }
    if (r->store->mask_threshold >= 0)
        h = hash_number(h, r->store->mask_threshold);
    for (int v = 0; v < r->store->invalid_count; v++)
        h = hash_number(h, r->store->invalid[v]);
    if (r->store->numbers)
        h = hash_number(hash_number(h, r->store->map_scale), r->store->max_depth);
    char *processor = cb_image_processor_describe(&r->processor),
         *augment = r->augmented ? cb_options_to_json(cb_augment_option_table, &r->augment) : NULL;
    h = cb_hash_text(cb_hash_text(h, processor ? processor : ""), augment ? augment : "");
    h = (cb_hash_text(h, r->corruption ? r->corruption : "") ^ (uint64_t)r->severity ^ (uint64_t)r->shuffle << 8 ^ r->seed << 16 ^
         (r->views > 1 ? r->views << 40 : 0)) *
        prime;
    cb_free(processor);
    cb_free(augment);
    return h;
}
