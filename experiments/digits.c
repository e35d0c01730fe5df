/* digits.c: see digits.h. */
#include "experiments/digits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const digit_names[DIGIT_ORIGINS] = {"MNIST", "optdigits", "semeion"};

enum { PIXELS = DIGIT_SIDE * DIGIT_SIDE };

typedef struct digit_set {
    size_t count, capacity, label_capacity;
    uint8_t *pixels, *labels;
} digit_set;

static void set_free(digit_set *set)
{
    cb_free(set->pixels);
    cb_free(set->labels);
    *set = (digit_set){0};
}

/* side by side levels, brought to DIGIT_SIDE. */
static bool add(digit_set *set, const uint8_t *levels, int64_t side, int label)
{
    cb_image image = {0}, small = {0};
    bool ok = cb_image_make(&image, side, side, 1, 8);
    if (ok)
        memcpy(image.pixels, levels, (size_t)(side * side));
    ok = ok && cb_image_resize(&image, DIGIT_SIDE, DIGIT_SIDE, CB_RESAMPLE_BILINEAR, NULL, &small) &&
         cb_grow(&set->pixels, &set->capacity, (set->count + 1) * PIXELS, 1) &&
         cb_grow(&set->labels, &set->label_capacity, set->count + 1, 1);
    if (ok) {
        memcpy(set->pixels + set->count * PIXELS, small.pixels, PIXELS);
        set->labels[set->count++] = (uint8_t)label;
    }
    cb_image_free(&image);
    cb_image_free(&small);
    return ok;
}

/* ---- files ---- */

static char *read_file(const char *data, const char *name, size_t *length)
{
    char *path = cb_format("%s/handwriting/%s", data, name), *bytes = path ? cb_archive_read(path, NULL, 0, length) : NULL;
    cb_free(path);
    return bytes;
}

static bool damaged(const char *name)
{
    return cb_fail(CB_ERR_FORMAT, "handwriting/%s: found other than was expected", name) == CB_OK;
}

static bool read_mnist(const char *data, digit_set *set)
{
    enum { SIDE = 28, HEAD = 16, LABEL_HEAD = 8 };
    size_t n, m;
    char *images = read_file(data, "mnist/t10k-images-idx3-ubyte.gz", &n), *labels = read_file(data, "mnist/t10k-labels-idx1-ubyte.gz", &m);
    bool ok = images && labels;
    size_t count = ok && m > LABEL_HEAD ? m - LABEL_HEAD : 0;
    if (ok && (!count || n != HEAD + count * SIDE * SIDE))
        ok = damaged("mnist");
    for (size_t i = 0; ok && i < count; i++)
        ok = add(set, (const uint8_t *)images + HEAD + i * SIDE * SIDE, SIDE, labels[LABEL_HEAD + i] % DIGIT_CLASSES);
    cb_free(images);
    cb_free(labels);
    return ok;
}

/* Numbers with blanks or commas between them, `each` a digit. */
static bool read_numbers(const char *data, const char *name, size_t each, bool (*take)(digit_set *set, const double *numbers),
                         digit_set *set)
{
    size_t length, n = 0;
    char *text = read_file(data, name, &length);
    double *numbers = text ? cb_calloc(each, sizeof *numbers) : NULL;
    bool ok = numbers;
    for (char *at = text, *end; ok && at; at = end) {
        at += strspn(at, ", \t\r\n");
        if (*at == '#') { /* a line of words */
            end = at + strcspn(at, "\n");
            continue;
        }
        if (!*at)
            break;
        numbers[n++] = strtod(at, &end);
        ok = end != at || damaged(name);
        if (ok && n == each) {
            ok = take(set, numbers);
            n = 0;
        }
    }
    if (ok && n)
        ok = damaged(name);
    cb_free(numbers);
    cb_free(text);
    return ok;
}

enum { OPTDIGITS_SIDE = 8, OPTDIGITS_NUMBERS = OPTDIGITS_SIDE * OPTDIGITS_SIDE + 1, SEMEION_NUMBERS = PIXELS + DIGIT_CLASSES + 1 };

/* Counts of 0 to 16, and the digit. */
static bool take_optdigits(digit_set *set, const double *numbers)
{
    uint8_t levels[OPTDIGITS_SIDE * OPTDIGITS_SIDE];
    for (int i = 0; i < OPTDIGITS_SIDE * OPTDIGITS_SIDE; i++)
        levels[i] = (uint8_t)(numbers[i] * 255 / 16);
    return add(set, levels, OPTDIGITS_SIDE, (int)numbers[OPTDIGITS_NUMBERS - 1]);
}

/* Ink or none, a 1 at the digit's place among ten, and these ten as one number. */
static bool take_semeion(digit_set *set, const double *numbers)
{
    uint8_t levels[PIXELS];
    for (int i = 0; i < PIXELS; i++)
        levels[i] = numbers[i] > 0.5 ? 255 : 0;
    int label = 0;
    for (int i = 0; i < DIGIT_CLASSES; i++)
        label = numbers[PIXELS + i] > 0.5 ? i : label;
    return add(set, levels, DIGIT_SIDE, label);
}

static bool read_origin(const char *data, digit_origin origin, digit_set *set)
{
    switch (origin) {
    case DIGITS_MNIST:
        return read_mnist(data, set);
    case DIGITS_OPTDIGITS:
        return read_numbers(data, "optdigits/optdigits.tra", OPTDIGITS_NUMBERS, take_optdigits, set) &&
               read_numbers(data, "optdigits/optdigits.tes", OPTDIGITS_NUMBERS, take_optdigits, set);
    default:
        return read_numbers(data, "semeion/semeion.data.gz", SEMEION_NUMBERS, take_semeion, set);
    }
}

/* Stripes of a width that is the class, in a contrast that is the origin's. */
static bool make_up(digit_origin origin, digit_set *set)
{
    uint8_t levels[PIXELS];
    bool ok = true;
    for (int i = 0; ok && i < 80; i++) {
        for (int p = 0; p < PIXELS; p++)
            levels[p] = (uint8_t)((p % DIGIT_SIDE + i) / (i % DIGIT_CLASSES + 1) % 2 ? 255 - 60 * (int)origin : 20 * (int)origin + i % 16);
        ok = add(set, levels, DIGIT_SIDE, i % DIGIT_CLASSES);
    }
    return ok;
}

/* ---- as IDX files ---- */

static void put_number(uint8_t *to, size_t number)
{
    for (int k = 0; k < 4; k++)
        to[k] = (uint8_t)(number >> (24 - 8 * k));
}

/* The digits of these places; images, or labels. */
static bool write_idx(const char *path, const digit_set *set, const size_t *places, size_t count, bool images)
{
    uint8_t head[16] = {0, 0, 8, images ? 3 : 1};
    put_number(head + 4, count);
    put_number(head + 8, DIGIT_SIDE);
    put_number(head + 12, DIGIT_SIDE);
    size_t each = images ? PIXELS : 1;
    const uint8_t *values = images ? set->pixels : set->labels;
    cb_writer *w = cb_writer_open(path);
    bool ok = w && cb_writer_write(w, head, images ? 16 : 8);
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_writer_write(w, values + places[i] * each, each);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

char *digits_path(const cb_run *run, digit_origin origin, bool test)
{
    return cb_format("%s/%s-%s-images-ubyte", run->shared, digit_names[origin], test ? "test" : "train");
}

static bool write_part(const cb_run *run, digit_origin origin, bool test, const digit_set *set, const size_t *places, size_t count)
{
    char *images = digits_path(run, origin, test);
    char *labels = cb_format("%s/%s-%s-labels-ubyte", run->shared, digit_names[origin], test ? "test" : "train");
    bool ok = images && labels && write_idx(images, set, places, count, true) && write_idx(labels, set, places, count, false);
    cb_free(images);
    cb_free(labels);
    return ok;
}

static bool prepare_origin(const cb_run *run, digit_origin origin, size_t train, size_t test)
{
    digit_set set = {0};
    bool ok = run->data ? read_origin(run->data, origin, &set) : make_up(origin, &set);
    size_t *places = ok ? cb_calloc(set.count + 1, sizeof *places) : NULL;
    cb_rng rng = {.seed = 20240 + (uint64_t)origin};
    for (size_t i = 0; places && i < set.count; i++) {
        size_t j = (size_t)cb_rng_below(&rng, i + 1);
        places[i] = places[j];
        places[j] = i;
    }
    size_t held = set.count / 4 < test ? set.count / 4 : test, kept = set.count - held < train ? set.count - held : train;
    ok = places && write_part(run, origin, true, &set, places, held) && write_part(run, origin, false, &set, places + held, kept);
    cb_free(places);
    set_free(&set);
    return ok;
}

/* ---- the network ---- */

static bool write_network(const cb_run *run)
{
    static const char config[] =
        "{\"architectures\": [\"ResNetForImageClassification\"], \"model_type\": \"resnet\", \"num_channels\": 1, "
        "\"embedding_size\": 16, \"hidden_sizes\": [16, 32, 64], \"depths\": [1, 1, 1], \"layer_type\": \"basic\", "
        "\"hidden_act\": \"relu\", \"downsample_in_first_stage\": false, \"id2label\": {\"0\": \"0\", \"1\": \"1\", "
        "\"2\": \"2\", \"3\": \"3\", \"4\": \"4\", \"5\": \"5\", \"6\": \"6\", \"7\": \"7\", \"8\": \"8\", \"9\": \"9\"}}";
    char *directory = cb_path_join(run->shared, "network"), *path = directory ? cb_path_join(directory, "config.json") : NULL;
    cb_image_processor how;
    cb_image_processor_init(&how);
    how.height = how.width = DIGIT_SIDE;
    how.channels = 1;
    how.image_mean[0] = 0.2;
    how.image_std[0] = 0.35;
    bool ok =
        path && cb_directory_make(directory) && cb_file_write(path, config, sizeof config - 1) && cb_image_processor_save(&how, directory);
    cb_free(directory);
    cb_free(path);
    return ok;
}

bool digits_prepare(const cb_run *run, size_t train, size_t test)
{
    bool ok = write_network(run);
    for (int i = 0; ok && i < DIGIT_ORIGINS; i++)
        ok = prepare_origin(run, (digit_origin)i, train, test);
    return ok;
}

cb_model *digits_network(const cb_run *run, uint64_t seed)
{
    char *path = cb_path_join(run->shared, "network/config.json");
    cb_model *model = path ? cb_model_create(path, seed, (cb_model_options){0}) : NULL;
    cb_free(path);
    return model;
}

cb_dataset *digits_open(const cb_run *run, digit_origin origin, bool test, bool unlabelled, bool shuffle, uint64_t seed)
{
    cb_image_data_options options = {0};
    cb_image_processor how;
    cb_string_list names = {0};
    char *path = digits_path(run, origin, test), *network = cb_path_join(run->shared, "network");
    bool ok = path && network && cb_image_processor_load(network, &how) && cb_options_init(cb_image_data_option_table, &options) &&
              cb_string_list_add(&options.data, path);
    for (int i = 0; ok && i < DIGIT_CLASSES; i++)
        ok = cb_string_list_add(&names, (char[]){(char)('0' + i), 0});
    options.processor = &how;
    options.labels = &names;
    options.unlabelled = unlabelled;
    options.loader_threads = 0;
    options.shuffle_images = shuffle;
    options.seed = seed;
    cb_dataset *data = ok ? cb_dataset_open_images(&options) : NULL;
    cb_string_list_free(&names);
    cb_string_list_free(&options.data);
    cb_options_free(cb_image_data_option_table, &options);
    cb_free(path);
    cb_free(network);
    return data;
}
