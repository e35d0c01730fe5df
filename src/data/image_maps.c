/* image_maps.c: images with a map each, of labels or numbers (number_maps.c): in which files, and what labels' numbers stand for.
 *
 * A map of labels is read as what a label's number is, plus one: 0 is a place that does not count, and so is what lies outside of an image that is shifted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/formats.h"
#include "data/images.h"

enum { VALUES = 1 << 16, MOST_LABELS = 254, NOT_COUNTED = -1, NO_LABEL = -2 };

/* ---- pairs of files ---- */

static bool add_pair(image_store *s, char *image, char *map, int64_t page)
{
    if (!image || (!map && !s->unlabelled) || !cb_grow(&s->items, &s->capacity, s->count + 1, sizeof *s->items)) {
        cb_free(image);
        cb_free(map);
        return false;
    }
    s->items[s->count++] = (image_item){.name = image, .map = map, .array = -1, .page = page, .label = map ? 0 : IMAGE_LABEL_NOT_COUNTED};
    return true;
}

/* A file of images by what its map is called as well. */
typedef struct stem {
    const char *name;
    size_t length;
} stem;

static stem stem_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return (stem){name, dot && !strchr(dot, '/') ? (size_t)(dot - name) : strlen(name)};
}

static int by_stem(const void *a_, const void *b_)
{
    const stem *a = a_, *b = b_;
    size_t shorter = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->name, b->name, shorter);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

/* Maps are called as their images with another ending; those that have it are no images. */
static bool add_suffixed(image_store *s, const char *images, const char *maps, const char *suffix, const stem *image)
{
    if (cb_ends_with(image->name, suffix))
        return true;
    char *map = cb_format("%s/%.*s%s", maps, (int)image->length, image->name, suffix);
    if (map && !cb_is_file(map)) {
        cb_fail(CB_ERR_FORMAT, "%s: not found, expected a map of %s/%s (map_suffix)", map, images, image->name);
        cb_free(map);
        return false;
    }
    return add_pair(s, cb_path_join(images, image->name), map, 0);
}

/* The images, or maps, among the files below a directory, in the order of their stems; the names stay in `names`. */
static stem *list_stems(const char *directory, bool (*is_one)(const char *), cb_string_list *names, size_t *count)
{
    stem *list = cb_directory_list(directory, true, names) ? cb_calloc(names->count + 1, sizeof *list) : NULL;
    *count = 0;
    for (size_t i = 0; list && i < names->count; i++)
        if (is_one(names->items[i]))
            list[(*count)++] = stem_of(names->items[i]);
    if (list)
        qsort(list, *count, sizeof *list, by_stem);
    return list;
}

static bool read_suffixed(image_store *s, const char *images, const char *maps, const char *suffix)
{
    cb_string_list names = {0};
    size_t count, before = s->count;
    stem *list = list_stems(images, cb_image_is_name, &names, &count);
    bool ok = list;
    for (size_t i = 0; ok && i < count; i++)
        ok = add_suffixed(s, images, maps, suffix, &list[i]);
    if (ok && s->count == before)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it that do not end with %s (map_suffix)", images, suffix) == CB_OK;
    cb_free(list);
    cb_string_list_free(&names);
    return ok;
}

static bool read_pairs(image_store *s, const char *images, const char *maps, const char *suffix)
{
    if (suffix)
        return read_suffixed(s, images, maps, suffix);
    cb_string_list image_names = {0}, map_names = {0};
    size_t image_count, map_count;
    stem *image_list = list_stems(images, cb_image_is_name, &image_names, &image_count),
         *map_list = image_list ? list_stems(maps, s->numbers ? cb_number_map_is_name : cb_image_is_name, &map_names, &map_count) : NULL;
    bool ok = map_list;
    if (ok && !image_count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it", images) == CB_OK;
    for (size_t i = 0; ok && i < image_count; i++) {
        const stem *found = bsearch(&image_list[i], map_list, map_count, sizeof *map_list, by_stem);
        ok = found ? add_pair(s, cb_path_join(images, image_list[i].name), cb_path_join(maps, found->name), 0)
                   : cb_fail(CB_ERR_FORMAT, "%s: found no %s %.*s.png or such for %s/%s", maps, s->numbers ? "map" : "label map",
                             (int)image_list[i].length, image_list[i].name, images, image_list[i].name) == CB_OK;
    }
    cb_free(image_list);
    cb_free(map_list);
    cb_string_list_free(&image_names);
    cb_string_list_free(&map_names);
    return ok;
}

/* The first of these names that is a directory there; NULL: none is, or (with an error) there is no memory. */
static char *find_directory(const char *path, const char *const *names)
{
    for (; *names; names++) {
        char *found = cb_path_join(path, *names);
        if (!found || cb_is_directory(found))
            return found;
        cb_free(found);
    }
    return NULL;
}

static const char *const images_names[] = {"images", "image", "imgs", "img", NULL};
static const char *const labels_names[] = {"annotations", "annotation", "labels", "label", "masks", "mask", NULL};

static bool read_directory(image_store *s, const char *path, const char *given, const char *suffix)
{
    static const char *const depth_names[] = {"depth", "depths", "depth_maps", NULL};
    static const char *const normals_names[] = {"normals", "normal", "normal_maps", NULL};
    static const char *const saliency_names[] = {"saliency", "masks", "mask", "gt", NULL};
    const char *const *names = s->objective == CB_OBJECTIVE_DEPTH_ESTIMATION  ? depth_names
                               : s->objective == CB_OBJECTIVE_SURFACE_NORMALS ? normals_names
                               : s->objective == CB_OBJECTIVE_SALIENCY        ? saliency_names
                                                                              : labels_names;
    if (given)
        return read_pairs(s, path, given, suffix);
    char *images = find_directory(path, images_names), *maps = images ? find_directory(path, names) : NULL;
    if (!images && suffix && cb_ok())
        return read_pairs(s, path, path, suffix);
    bool ok = images && maps ? read_pairs(s, images, maps, suffix)
                             : cb_ok() && cb_fail(CB_ERR_FORMAT,
                                                  "%s: found no directories images and %s%s in it, expected these, or "
                                                  "--label-maps with the directory of the maps, or --map-suffix where they lie beside them",
                                                  path, names[0], s->numbers ? "" : " (or labels, masks)") == CB_OK;
    cb_free(images);
    cb_free(maps);
    return ok;
}

static bool add_row(void *user, const char *image, const char *map)
{
    image_store *s = user;
    return add_pair(s, cb_strdup(image), s->unlabelled ? NULL : cb_strdup(map), 0);
}

/* A file of images and one of as many maps: TIFF stacks. */
static bool read_stacks(image_store *s, const char *images, const char *maps)
{
    int64_t count = cb_image_pages(images), others = count > 0 ? cb_image_pages(maps) : -1;
    bool ok = others > 0 && (count == others || cb_fail(CB_ERR_FORMAT, "%s: found %lld maps, expected %lld as images in %s", maps,
                                                        (long long)others, (long long)count, images) == CB_OK);
    for (int64_t page = 1; ok && page <= count; page++)
        ok = add_pair(s, cb_strdup(images), cb_strdup(maps), count > 1 ? page : 0);
    return ok;
}

/* Files of a directory, or of that of the images in it, but those that end as maps do. */
static bool read_images_alone(image_store *s, const char *path, const char *suffix)
{
    cb_string_list names = {0};
    size_t count = 0, before = s->count;
    char *inside = find_directory(path, images_names);
    const char *directory = inside ? inside : path;
    stem *list = cb_ok() ? list_stems(directory, cb_image_is_name, &names, &count) : NULL;
    bool ok = list;
    for (size_t i = 0; ok && i < count; i++)
        if (!suffix || !cb_ends_with(list[i].name, suffix))
            ok = add_pair(s, cb_path_join(directory, list[i].name), NULL, 0);
    if (ok && s->count == before)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it", path) == CB_OK;
    cb_free(inside);
    cb_free(list);
    cb_string_list_free(&names);
    return ok;
}

static bool read_stack_alone(image_store *s, const char *images)
{
    int64_t count = cb_image_pages(images);
    bool ok = count > 0;
    for (int64_t page = 1; ok && page <= count; page++)
        ok = add_pair(s, cb_strdup(images), NULL, count > 1 ? page : 0);
    return ok;
}

static bool read_alone(image_store *s, const cb_image_data_options *o, const char *path)
{
    const char *suffix = o->map_suffix && *o->map_suffix ? o->map_suffix : NULL;
    if (cb_is_directory(path))
        return read_images_alone(s, path, suffix);
    if (cb_image_is_name(path))
        return read_stack_alone(s, path);
    if (cb_image_is_table(path))
        return cb_image_table_read(path, o, true, add_row, s);
    return cb_fail(CB_ERR_FORMAT,
                   "%s: found another kind of file, expected a directory or a table (.csv, .tsv, .jsonl) of images, or an image",
                   path) == CB_OK;
}

static bool read_one(image_store *s, const cb_image_data_options *o, size_t i)
{
    const char *path = o->data.items[i];
    if (s->unlabelled)
        return read_alone(s, o, path);
    if (cb_is_directory(path))
        return read_directory(s, path, o->label_maps.count ? o->label_maps.items[i] : NULL,
                              o->map_suffix && *o->map_suffix ? o->map_suffix : NULL);
    if (cb_image_is_name(path) && o->label_maps.count)
        return read_stacks(s, path, o->label_maps.items[i]);
    if (cb_image_is_table(path))
        return cb_image_table_read(path, o, true, add_row, s);
    return cb_fail(CB_ERR_FORMAT,
                   "%s: found another kind of file, expected a directory, or a table (.csv, .tsv, .jsonl), of images and their maps, or an "
                   "image and --label-maps",
                   path) == CB_OK;
}

/* ---- what the numbers stand for ---- */

static bool read_map(const image_store *s, int64_t item, cb_image *map)
{
    bool mask = s->mask_threshold >= 0;
    const image_item *of = &s->items[item];
    const cb_image_options how = {
        .mode = mask ? CB_IMAGE_GREY : CB_IMAGE_LABELS, .deep = !mask, .max_pixels = s->max_pixels, .page = of->page ? of->page - 1 : 0};
    bool ok = cb_image_read(of->map, &how, map);
    for (int64_t i = 0; ok && mask && i < map->width * map->height; i++)
        map->pixels[i] = map->pixels[i] > s->mask_threshold;
    return ok;
}

static int value_at(const cb_image *map, int64_t i)
{
    return map->bits == 16 ? ((const uint16_t *)(const void *)map->pixels)[i] : map->pixels[i];
}

/* The highest number that counts, of all maps; -1: there is none, -2: failure. */
static int highest_value(const image_store *s, int64_t ignored)
{
    bool *seen = cb_calloc(VALUES, sizeof *seen);
    bool ok = seen;
    int highest = -1;
    for (size_t item = 0; ok && item < s->count; item++) {
        cb_image map = {0};
        ok = read_map(s, (int64_t)item, &map);
        for (int64_t i = 0; ok && i < map.width * map.height; i++)
            seen[value_at(&map, i)] = true;
        cb_image_free(&map);
    }
    for (int v = 0; ok && v < VALUES; v++)
        highest = seen[v] && v != ignored ? v : highest;
    cb_free(seen);
    return ok ? highest : -2;
}

/* --label-values, as numbers; false with an error. */
static bool read_values(const image_store *s, const cb_string_list *values)
{
    for (size_t i = 0; i < values->count; i++) {
        char *end;
        long value = strtol(values->items[i], &end, 10);
        if (end == values->items[i] || *end || value < 0 || value >= VALUES)
            return cb_fail(CB_ERR_ARGUMENT, "label_values: found \"%s\", expected numbers from 0 to %d", values->items[i], VALUES - 1) ==
                   CB_OK;
        s->label_of[value] = (int16_t)i;
        s->value_of[i] = (uint16_t)value;
    }
    return true;
}

static bool name_labels(image_store *s, int count)
{
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        char name[24];
        snprintf(name, sizeof name, "LABEL_%d", i);
        ok = cb_string_list_add(&s->labels, name);
    }
    return ok;
}

/* How many labels the data show; -1 on failure. */
static int count_labels(const image_store *s, const cb_image_data_options *o)
{
    if (o->label_values.count || s->mask_threshold >= 0)
        return s->mask_threshold >= 0 ? 2 : (int)o->label_values.count;
    int highest = highest_value(s, o->ignore_index);
    if (highest == -1)
        cb_fail(CB_ERR_FORMAT, "%s: found no place in %zu label maps that counts, all are %lld (ignore_index)", o->data.items[0], s->count,
                (long long)o->ignore_index);
    if (highest == 0 && o->ignore_index >= 0)
        cb_fail(CB_ERR_FORMAT,
                "%s: found no label but 0 in %zu label maps, beside %lld, which does not count (ignore_index); expected two at least: of "
                "masks of "
                "0 and 255 --label-values 0,255 or --mask-threshold says what they are",
                o->data.items[0], s->count, (long long)o->ignore_index);
    return highest < 0 || !cb_ok() ? -1 : highest + 1;
}

/* Names of labels: those that are known, where they are enough, else of as many as the data show. */
static bool choose_labels(image_store *s, const cb_image_data_options *o)
{
    size_t known = o->labels ? o->labels->count : 0;
    int shown = known && !o->labels_may_differ ? 0 : count_labels(s, o);
    if (shown < 0)
        return false;
    bool ok = true;
    for (size_t i = 0; ok && (size_t)shown <= known && i < known; i++)
        ok = cb_string_list_add(&s->labels, o->labels->items[i]);
    ok = ok && ((size_t)shown <= known || name_labels(s, shown));
    if (!ok || s->labels.count <= MOST_LABELS)
        return ok;
    return cb_fail(CB_ERR_FORMAT,
                   "%s: found %zu labels in label maps, expected %d at most; is one of the numbers the --ignore-index (%lld)?",
                   o->data.items[0], s->labels.count, MOST_LABELS, (long long)o->ignore_index) == CB_OK;
}

static bool number_labels(image_store *s, const cb_image_data_options *o)
{
    s->label_of = cb_calloc(VALUES, sizeof *s->label_of);
    s->value_of = cb_calloc(VALUES, sizeof *s->value_of);
    if (!s->label_of || !s->value_of || !choose_labels(s, o))
        return false;
    int64_t labels = (int64_t)s->labels.count;
    if ((int64_t)o->label_values.count > labels)
        return cb_fail(CB_ERR_ARGUMENT, "label_values: found %zu numbers, expected as many as labels (%lld) at most", o->label_values.count,
                       (long long)labels) == CB_OK;
    if (s->mask_threshold >= 0 && (labels < 2 || o->label_values.count))
        return cb_fail(CB_ERR_ARGUMENT, "mask_threshold: makes two labels, found %s",
                       labels < 2 ? "a model of one" : "--label-values as well") == CB_OK;
    bool plain = !o->label_values.count;
    for (int v = 0; v < VALUES; v++) {
        s->label_of[v] = plain && v < labels ? (int16_t)v : NO_LABEL;
        s->value_of[v] = (uint16_t)v;
    }
    if (o->ignore_index >= 0 && s->mask_threshold < 0)
        s->label_of[o->ignore_index] = NOT_COUNTED;
    if (s->mask_threshold >= 0)
        s->value_of[1] = UINT8_MAX;
    return read_values(s, &o->label_values);
}

bool cb_image_maps_read(image_store *s, const cb_image_data_options *o)
{
    bool ok = true;
    s->unlabelled = o->unlabelled;
    s->maps_too = !o->unlabelled;
    s->objective = o->objective;
    s->numbers = cb_objective_numbers(o->objective);
    s->mask_threshold = o->objective == CB_OBJECTIVE_SEMANTIC_SEGMENTATION ? (int)o->mask_threshold : -1;
    s->max_pixels = o->max_pixels > 0 ? o->max_pixels : CB_IMAGE_MAX_PIXELS;
    if (!o->unlabelled && o->label_maps.count && o->label_maps.count != o->data.count)
        return cb_fail(CB_ERR_ARGUMENT, "label_maps: found %zu, expected one for each of the %zu of the data", o->label_maps.count,
                       o->data.count) == CB_OK;
    for (size_t i = 0; ok && i < o->data.count; i++)
        ok = read_one(s, o, i);
    if (ok && !s->count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it", o->data.count ? o->data.items[0] : "data") == CB_OK;
    return ok && (o->unlabelled || (s->numbers ? cb_number_maps_open : number_labels)(s, o));
}

/* The maps of a directory, with or without images in it. */
static bool read_maps_of(image_store *s, const cb_image_data_options *o, const char *path)
{
    const char *suffix = o->map_suffix && *o->map_suffix ? o->map_suffix : NULL;
    char *images = find_directory(path, images_names), *maps = cb_ok() ? find_directory(path, labels_names) : NULL;
    const char *directory = images && maps ? maps : path;
    cb_string_list names = {0};
    size_t count = 0;
    stem *list = cb_ok() ? list_stems(directory, cb_image_is_name, &names, &count) : NULL;
    bool ok = list;
    for (size_t i = 0; ok && i < count; i++)
        if (!suffix || cb_ends_with(list[i].name, suffix))
            ok = add_pair(s, cb_path_join(directory, list[i].name), cb_path_join(directory, list[i].name), 0);
    cb_free(images);
    cb_free(maps);
    cb_free(list);
    cb_string_list_free(&names);
    return ok;
}

bool cb_image_maps_alone(image_store *s, const cb_image_data_options *o)
{
    bool ok = true;
    s->maps_too = true;
    s->objective = CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    s->mask_threshold = (int)o->mask_threshold;
    s->max_pixels = o->max_pixels > 0 ? o->max_pixels : CB_IMAGE_MAX_PIXELS;
    for (size_t i = 0; ok && i < o->data.count; i++) {
        const char *path = o->data.items[i];
        ok = cb_is_directory(path)     ? read_maps_of(s, o, path)
             : cb_image_is_table(path) ? cb_image_table_read(path, o, true, add_row, s)
             : cb_image_is_name(path)  ? read_stacks(s, path, path)
                                       : cb_fail(CB_ERR_FORMAT,
                                                 "%s: found another kind of file, expected a directory or a table (.csv, .tsv, "
                                                  ".jsonl) of label maps, or a map",
                                                 path) == CB_OK;
    }
    if (ok && !s->count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no label maps in it", o->data.count ? o->data.items[0] : "data") == CB_OK;
    return ok && number_labels(s, o);
}

/* ---- one map ---- */

static bool refuse(const image_store *s, const cb_image *map, int64_t i)
{
    int value = value_at(map, i);
    return cb_fail(CB_ERR_FORMAT, "found %d at column %lld of row %lld, expected a label's number below %zu%s", value,
                   (long long)(i % map->width), (long long)(i / map->width), s->labels.count,
                   value == UINT8_MAX ? "" : ", or --ignore-index or --label-values that say what it is") == CB_OK;
}

static bool number_places(const image_store *s, const cb_image *map, cb_image *numbers)
{
    if (!cb_image_make(numbers, map->width, map->height, 1, 8))
        return false;
    for (int64_t i = 0; i < map->width * map->height; i++) {
        int label = s->label_of[value_at(map, i)];
        if (label == NO_LABEL)
            return refuse(s, map, i);
        numbers->pixels[i] = (uint8_t)(label + 1);
    }
    return true;
}

bool cb_image_map_labels(const image_store *s, int64_t item, cb_image *labels)
{
    cb_image map = {0};
    bool read = read_map(s, item, &map), ok = read && number_places(s, &map, labels);
    if (read && !ok)
        cb_error_prefix("%s", s->items[item].map);
    cb_image_free(&map);
    return ok;
}

bool cb_image_map_read(const image_store *s, int64_t item, const cb_image *image, cb_image *out)
{
    cb_image map = {0};
    bool read = s->numbers ? cb_number_map_read(s, &s->items[item], &map) : read_map(s, item, &map), ok = read;
    if (ok && (map.width != image->width || map.height != image->height))
        ok = cb_fail(CB_ERR_FORMAT, "is %lld x %lld, expected %lld x %lld as its image %s", (long long)map.width, (long long)map.height,
                     (long long)image->width, (long long)image->height, s->items[item].name) == CB_OK;
    ok = ok && (s->numbers || number_places(s, &map, out));
    if (read && !ok)
        cb_error_prefix("%s", s->items[item].map);
    if (ok && s->numbers)
        *out = map;
    else
        cb_image_free(&map);
    return ok;
}

void cb_image_map_pick(const image_store *s, const cb_image *map, const cb_image *places, cb_image_mirrored mirrored, float *targets)
{
    const int32_t *from = (const int32_t *)(const void *)places->pixels;
    if (s->numbers) {
        cb_number_map_pick(s, map, places, mirrored, targets);
        return;
    }
    for (int64_t i = 0; i < places->width * places->height; i++) {
        int number = from[i] ? map->pixels[from[i] - 1] : 0;
        targets[i] = (float)(number ? number - 1 : IMAGE_LABEL_NOT_COUNTED);
    }
}

/* ---- what was predicted ---- */

static bool write_labels(const image_store *s, const char *path, const cb_image *labels, int64_t height, int64_t width)
{
    cb_image numbers = {0}, sized = {0};
    bool deep = false, ok = true;
    for (size_t i = 0; i < s->labels.count; i++)
        deep = deep || s->value_of[i] > UINT8_MAX;
    ok = ok && cb_image_make(&numbers, labels->width, labels->height, 1, deep ? 16 : 8);
    for (int64_t i = 0; ok && i < labels->width * labels->height; i++) {
        uint16_t value = s->value_of[labels->pixels[i]];
        if (deep)
            ((uint16_t *)(void *)numbers.pixels)[i] = value;
        else
            numbers.pixels[i] = (uint8_t)value;
    }
    bool resize = ok && (width != numbers.width || height != numbers.height);
    ok = ok && (!resize || cb_image_resize(&numbers, width, height, CB_RESAMPLE_NEAREST, NULL, &sized)) &&
         cb_image_write_png(path, resize ? &sized : &numbers);
    cb_image_free(&numbers);
    cb_image_free(&sized);
    return ok;
}

bool cb_image_map_write(const image_store *s, int64_t item, const cb_image *map, bool whole, const char *directory)
{
    const image_item *of = &s->items[item];
    cb_image image = {0};
    stem own = stem_of(cb_path_base(of->name));
    bool as_array = s->numbers && cb_ends_with(of->map, ".npy");
    char page[24] = "";
    if (of->page)
        snprintf(page, sizeof page, "-%03lld", (long long)of->page - 1);
    char *path = cb_format("%s/%.*s%s.%s", directory, (int)own.length, own.name, page, as_array ? "npy" : "png");
    bool ok = path && (!whole || cb_image_item_read(s, item, &(cb_image_options){.max_pixels = s->max_pixels}, &image));
    if (ok && cb_is_file(path))
        ok = cb_fail(CB_ERR_ARGUMENT, "%s: is there already, from another image of that name; expected names that differ", path) == CB_OK;
    int64_t height = whole ? image.height : map->height, width = whole ? image.width : map->width;
    ok = ok && (s->numbers ? cb_number_map_write(s, path, as_array, map, height, width) : write_labels(s, path, map, height, width));
    cb_image_free(&image);
    cb_free(path);
    return ok;
}
