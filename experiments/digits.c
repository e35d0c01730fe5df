/* digits.c: see digits.h. */
#include "experiments/digits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const digit_names[DIGIT_ORIGINS] = {"MNIST", "optdigits", "semeion", "USPS", "MNIST-M"};

enum { PIXELS = DIGIT_SIDE * DIGIT_SIDE, MNIST_SIDE = 28 };

void digits_free(digit_set *set)
{
    cb_free(set->pixels);
    cb_free(set->labels);
    *set = (digit_set){.side = set->side};
}

static size_t bytes_of(const digit_set *set)
{
    return (size_t)(set->side * set->side * set->channels);
}

/* A square, brought to the set's side. */
static bool add_image(digit_set *set, const cb_image *image, int label)
{
    cb_image small = {0};
    set->channels = image->channels;
    size_t bytes = bytes_of(set);
    bool ok = cb_image_resize(image, set->side, set->side, CB_RESAMPLE_BILINEAR, NULL, &small) &&
              cb_grow(&set->pixels, &set->capacity, (set->count + 1) * bytes, 1) &&
              cb_grow(&set->labels, &set->label_capacity, set->count + 1, 1);
    if (ok) {
        memcpy(set->pixels + set->count * bytes, small.pixels, bytes);
        set->labels[set->count++] = (uint8_t)label;
    }
    cb_image_free(&small);
    return ok;
}

/* side by side levels. */
static bool add(digit_set *set, const uint8_t *levels, int64_t side, int label)
{
    const cb_image image = {.width = side, .height = side, .channels = 1, .bits = 8, .pixels = (uint8_t *)(uintptr_t)levels};
    return add_image(set, &image, label);
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

static bool add_grey(digit_set *set, void *user, const uint8_t *levels, int label)
{
    (void)user;
    return add(set, levels, MNIST_SIDE, label);
}

/* MNIST's files, or others of their form in a directory of their own. */
static bool read_mnist(const char *data, const char *name, digit_set *set,
                       bool (*take)(digit_set *set, void *user, const uint8_t *levels, int label), void *user)
{
    enum { SIDE = MNIST_SIDE, HEAD = 16, LABEL_HEAD = 8 };
    size_t n, m;
    char *image_file = cb_format("%s/t10k-images-idx3-ubyte.gz", name), *label_file = cb_format("%s/t10k-labels-idx1-ubyte.gz", name);
    char *images = image_file ? read_file(data, image_file, &n) : NULL, *labels = label_file ? read_file(data, label_file, &m) : NULL;
    bool ok = images && labels;
    size_t count = ok && m > LABEL_HEAD ? m - LABEL_HEAD : 0;
    if (ok && (!count || n != HEAD + count * SIDE * SIDE))
        ok = damaged(name);
    for (size_t i = 0; ok && i < count; i++)
        ok = take(set, user, (const uint8_t *)images + HEAD + i * SIDE * SIDE, labels[LABEL_HEAD + i] % DIGIT_CLASSES);
    cb_free(image_file);
    cb_free(label_file);
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

/* ---- USPS ---- */

/* What a variable of a MATLAB file holds, which is a zlib stream: its last `length` bytes.  What unpacks files knows gzip, so it becomes one. */
static char *read_variable(const cb_run *run, const uint8_t *stream, size_t packed, size_t length)
{
    enum { ZLIB_HEAD = 2, CHECK = 4, MOST_HEAD = 128 };
    static const uint8_t head[] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, tail[8] = {0};
    char *path = cb_path_join(run->shared, "usps.gz"), *text = NULL;
    size_t found = 0;
    cb_writer *w = path && packed > ZLIB_HEAD + CHECK ? cb_writer_open(path) : NULL;
    bool ok = w && cb_writer_write(w, head, sizeof head) && cb_writer_write(w, stream + ZLIB_HEAD, packed - ZLIB_HEAD - CHECK) &&
              cb_writer_write(w, tail, sizeof tail);
    if (ok)
        ok = cb_writer_commit(w);
    else
        cb_writer_abort(w);
    text = ok ? cb_archive_read(path, NULL, length + MOST_HEAD, &found) : NULL;
    if (ok)
        cb_file_remove(path);
    if (text && found >= length)
        memmove(text, text + found - length, length);
    else if (cb_ok())
        damaged("usps");
    cb_free(path);
    if (cb_ok())
        return text;
    cb_free(text);
    return NULL;
}

/* Three variables: settings, the labels, of which 10 is the digit 0, and images column by column. */
static bool read_usps(const cb_run *run, digit_set *set)
{
    enum { COUNT = 11000, HEAD = 128, TAG = 8, COMPRESSED = 15, SETTINGS = 0, LABELS, IMAGES, VARIABLES };
    size_t length = 0, at = HEAD;
    char *file = read_file(run->data, "usps/USPS-11000.mat", &length), *parts[VARIABLES] = {NULL};
    for (int i = 0; file && cb_ok() && i < VARIABLES; i++) {
        uint32_t tag[2] = {0};
        if (at + TAG <= length)
            memcpy(tag, file + at, sizeof tag);
        bool ok = (tag[0] == COMPRESSED && tag[1] <= length - at - TAG) || damaged("usps");
        if (ok && i != SETTINGS)
            parts[i] = read_variable(run, (const uint8_t *)file + at + TAG, tag[1], (size_t)COUNT * (i == IMAGES ? PIXELS : 1));
        at += TAG + tag[1];
    }
    for (int n = 0; parts[LABELS] && parts[IMAGES] && cb_ok() && n < COUNT; n++) {
        uint8_t levels[PIXELS];
        for (int i = 0; i < PIXELS; i++)
            levels[i] = (uint8_t)parts[IMAGES][n * PIXELS + i % DIGIT_SIDE * DIGIT_SIDE + i / DIGIT_SIDE];
        add(set, levels, DIGIT_SIDE, parts[LABELS][n] % DIGIT_CLASSES);
    }
    cb_free(file);
    cb_free(parts[LABELS]);
    cb_free(parts[IMAGES]);
    return cb_ok();
}

/* ---- MNIST-M ---- */

enum { MOST_PHOTOGRAPHS = 256 };
typedef struct photographs {
    cb_image images[MOST_PHOTOGRAPHS];
    size_t count;
    cb_rng rng;
} photographs;

static bool read_photographs(const char *data, photographs *p)
{
    cb_string_list names = {0};
    char *root = cb_path_join(data, "pacs/photo");
    bool ok = root && cb_directory_list(root, true, &names);
    for (size_t i = 0; ok && i < names.count && p->count < MOST_PHOTOGRAPHS; i++) {
        char *path = cb_path_join(root, names.items[i]);
        if (path && cb_image_is_name(path))
            ok = cb_image_read(path, NULL, &p->images[p->count++]);
        cb_free(path);
    }
    cb_string_list_free(&names);
    cb_free(root);
    return ok && (p->count || cb_fail(CB_ERR_IO, "pacs/photo: found no photographs") == CB_OK);
}

static bool add_on_photograph(digit_set *set, void *user, const uint8_t *levels, int label)
{
    photographs *p = user;
    cb_image place = {0};
    const cb_image *photograph = &p->images[cb_rng_below(&p->rng, p->count)];
    int64_t left = (int64_t)cb_rng_below(&p->rng, (uint64_t)(photograph->width - MNIST_SIDE + 1));
    int64_t top = (int64_t)cb_rng_below(&p->rng, (uint64_t)(photograph->height - MNIST_SIDE + 1));
    bool ok = cb_image_crop(photograph, left, top, MNIST_SIDE, MNIST_SIDE, &place);
    for (int i = 0; ok && i < 3 * MNIST_SIDE * MNIST_SIDE; i++)
        place.pixels[i] = (uint8_t)abs(place.pixels[i] - levels[i / 3]);
    ok = ok && add_image(set, &place, label);
    cb_image_free(&place);
    return ok;
}

static bool read_mnist_m(const char *data, digit_set *set)
{
    photographs *p = cb_calloc(1, sizeof *p);
    bool ok = p;
    if (p)
        p->rng.seed = 2024;
    ok = ok && read_photographs(data, p) && read_mnist(data, "mnist", set, add_on_photograph, p);
    for (size_t i = 0; p && i < p->count; i++)
        cb_image_free(&p->images[i]);
    cb_free(p);
    return ok;
}

static bool read_origin(const cb_run *run, digit_origin origin, digit_set *set)
{
    const char *data = run->data;
    switch (origin) {
    case DIGITS_MNIST:
        return read_mnist(data, "mnist", set, add_grey, NULL);
    case DIGITS_LETTERS:
        return read_mnist(data, "notmnist", set, add_grey, NULL);
    case DIGITS_MNIST_M:
        return read_mnist_m(data, set);
    case DIGITS_USPS:
        return read_usps(run, set);
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

static void swap(digit_set *set, size_t i, size_t j)
{
    size_t size = bytes_of(set);
    for (size_t p = 0; p < size && i != j; p++) {
        uint8_t level = set->pixels[i * size + p];
        set->pixels[i * size + p] = set->pixels[j * size + p];
        set->pixels[j * size + p] = level;
    }
    uint8_t label = set->labels[i];
    set->labels[i] = set->labels[j];
    set->labels[j] = label;
}

bool digits_read(const cb_run *run, digit_origin origin, digit_set *set)
{
    bool ok = run->data ? read_origin(run, origin, set) : make_up(origin, set);
    cb_rng rng = {.seed = 61000 + (uint64_t)origin};
    for (size_t i = 1; ok && i < set->count; i++)
        swap(set, i, (size_t)cb_rng_below(&rng, i + 1));
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
    uint8_t head[20] = {0, 0, 8, images ? set->channels > 1 ? 4 : 3 : 1};
    put_number(head + 4, count);
    put_number(head + 8, DIGIT_SIDE);
    put_number(head + 12, DIGIT_SIDE);
    put_number(head + 16, (size_t)set->channels);
    size_t each = images ? PIXELS * (size_t)set->channels : 1;
    const uint8_t *values = images ? set->pixels : set->labels;
    cb_writer *w = cb_writer_open(path);
    bool ok = w && cb_writer_write(w, head, 4 + 4 * (size_t)head[3]);
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

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool prepare_origin(const cb_run *run, digit_origin origin, size_t train, size_t test)
{
    digit_set set = {.side = DIGIT_SIDE};
    bool ok = run->data ? read_origin(run, origin, &set) : make_up(origin, &set), again = origin == DIGITS_MNIST_M;
    size_t *places = ok ? cb_calloc(set.count + 1, sizeof *places) : NULL;
    cb_rng rng = {.seed = 20240 + (uint64_t)(again ? DIGITS_MNIST : origin)}; /* the order of MNIST, whose first digits are taken */
    for (size_t i = 0; places && i < set.count; i++) {
        size_t j = (size_t)cb_rng_below(&rng, i + 1);
        places[i] = places[j];
        places[j] = i;
    }
    size_t first = again ? least(train + test, set.count / 2) : 0, count = set.count - first, held = least(count / 4, test);
    ok = places && write_part(run, origin, true, &set, places + first, held) &&
         write_part(run, origin, false, &set, places + first + held, least(count - held, train));
    cb_free(places);
    digits_free(&set);
    return ok;
}

/* ---- the network ---- */

static bool write_network(const cb_run *run, int channels)
{
    static const char format[] =
        "{\"architectures\": [\"ResNetForImageClassification\"], \"model_type\": \"resnet\", \"num_channels\": %d, "
        "\"embedding_size\": 16, \"hidden_sizes\": [16, 32, 64], \"depths\": [1, 1, 1], \"layer_type\": \"basic\", "
        "\"hidden_act\": \"relu\", \"downsample_in_first_stage\": false, \"id2label\": {\"0\": \"0\", \"1\": \"1\", "
        "\"2\": \"2\", \"3\": \"3\", \"4\": \"4\", \"5\": \"5\", \"6\": \"6\", \"7\": \"7\", \"8\": \"8\", \"9\": \"9\"}}";
    char *directory = cb_path_join(run->shared, "network"), *path = directory ? cb_path_join(directory, "config.json") : NULL;
    char *config = path ? cb_format(format, channels) : NULL;
    cb_image_processor how;
    cb_image_processor_init(&how);
    how.height = how.width = DIGIT_SIDE;
    how.channels = channels;
    for (int c = 0; c < channels; c++) {
        how.image_mean[c] = 0.2;
        how.image_std[c] = 0.35;
    }
    bool ok =
        config && cb_directory_make(directory) && cb_file_write(path, config, strlen(config)) && cb_image_processor_save(&how, directory);
    cb_free(directory);
    cb_free(path);
    cb_free(config);
    return ok;
}

bool digits_prepare(const cb_run *run, digit_origin end, int channels, size_t train, size_t test)
{
    bool ok = write_network(run, channels);
    for (int i = 0; ok && i < (int)end; i++)
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
