/* gdcan.c: GDCAN and DCAN (61).  Li et al. 2021, arXiv:2103.12339; Li et al. 2020, arXiv:2005.06717.
 *
 * A small residual network learns coloured letters, then MNIST's digits, and is adapted to unlabelled ones: to MNIST-M (digits set into photographs, a
 * large gap in what the first layers see), and to USPS (a small one).  The first arm trains the network from which all arms of a seed begin; its batch
 * norms stay as the letters have left them.  Attention and corrections begin as nothing, so all arms begin as the same function.
 *
 * Rates are chosen by the rule of all experiments, accuracy with seed 0, on validation digits of both targets, which are none of those that are judged. */
#include <stdlib.h>

#include "experiments/digits.h"
#include "experiments/judge.h"
#include "experiments/vision.h"

enum { PAIRS = 2, BLOCKS = 4, TRAIN = 3000, TEST = 1000, VALIDATION = 500, SIDE = PICTURE_SIDE, PIXELS = SIDE * SIDE };
static const char *const pair_names[PAIRS] = {"MNIST-M", "USPS"};

typedef struct plan {
    const char *method, *terms; /* terms: beside the method's own; NULL */
    const char *attention;      /* NULL: no adapter */
    bool corrects, through;
} plan;

static const plan source_only = {.method = "source-only"}, dan = {.method = "dan"};
static const plan gated = {.method = "gdcan", .attention = "gated", .corrects = true},
                  split = {.method = "gdcan", .attention = "split", .corrects = true},
                  shared = {.method = "gdcan", .attention = "shared", .corrects = true},
                  no_corrections = {.method = "gdcan", .terms = "correction=0", .attention = "gated"},
                  no_regulariser = {.method = "gdcan", .terms = "correction=0", .attention = "gated", .corrects = true},
                  through = {.method = "gdcan", .attention = "gated", .corrects = true, .through = true};

#define SOURCE "source only"
#define GDCAN  "GDCAN"
static const double rates[] = {1e-3, 3e-3, 0};
static const cb_arm arms[] = {{SOURCE, NULL, rates, &source_only},
                              {"DAN", SOURCE, rates, &dan},
                              {"shared attention", SOURCE, rates, &shared},
                              {"DCAN", SOURCE, rates, &split},
                              {GDCAN, SOURCE, rates, &gated},
                              {"without corrections", SOURCE, rates, &no_corrections},
                              {"without regularisation", SOURCE, rates, &no_regulariser},
                              {"regularised through features", SOURCE, rates, &through},
                              {0}};
#define PERCENT(name, ...)                                                                                                                 \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1, __VA_ARGS__                                                                                  \
    }
#define GAP(pair, block)                                                                                                                   \
    {                                                                                                                                      \
        "gap of block " #block ", " pair, "", .digits = 3, .aside = true                                                                   \
    }
static const cb_measure measures[] = {PERCENT("accuracy", ),
                                      PERCENT("MNIST-M", ),
                                      PERCENT("USPS", ),
                                      {"split blocks, MNIST-M", "", .digits = 2},
                                      {"split blocks, USPS", "", .digits = 2},
                                      GAP("MNIST-M", 1),
                                      GAP("MNIST-M", 2),
                                      GAP("MNIST-M", 3),
                                      GAP("MNIST-M", 4),
                                      GAP("USPS", 1),
                                      GAP("USPS", 2),
                                      GAP("USPS", 3),
                                      GAP("USPS", 4),
                                      {0}};
static const cb_comparison comparisons[] = {
    {"where the gap is large, paths of each domain's own are better than shared ones", "MNIST-M", GDCAN, "shared attention", 0, "better"},
    {"where it is small, GDCAN is no more than half a point worse than DCAN", "USPS", GDCAN, "DCAN", -0.5, "as good or better"},
    {"better than DCAN", "accuracy", GDCAN, "DCAN", 0, "better"},
    {"better than DAN", "accuracy", GDCAN, "DAN", 0, "better"},
    {"better than the source alone", "accuracy", GDCAN, SOURCE, 0, "better"},
    {"corrections help", "accuracy", GDCAN, "without corrections", 0, "help"},
    {"regularisation helps", "accuracy", GDCAN, "without regularisation", 0, "helps"},
    {"and more where it trains the corrections alone", "accuracy", GDCAN, "regularised through features", 0,
     "the paper has it through them"},
    {0}};

/* ---- pictures ---- */

static char *images_path(const cb_run *run, const char *part)
{
    return cb_format("%s/%s-images-ubyte", run->shared, part);
}

/* What a grey place becomes. */
typedef void colour_function(const uint8_t *grey, uint8_t *rgb, void *user);

static void as_it_is(const uint8_t *grey, uint8_t *rgb, void *user)
{
    (void)user;
    for (int i = 0; i < 3 * PIXELS; i++)
        rgb[i] = grey[i / 3];
}

/* Ink and ground of any colours. */
static void in_colours(const uint8_t *grey, uint8_t *rgb, void *user)
{
    cb_rng *rng = user;
    int ends[2][3];
    for (int i = 0; i < 6; i++)
        ends[i / 3][i % 3] = (int)cb_rng_below(rng, 256);
    for (int i = 0; i < 3 * PIXELS; i++)
        rgb[i] = (uint8_t)((ends[0][i % 3] * grey[i / 3] + ends[1][i % 3] * (255 - grey[i / 3])) / 255);
}

typedef struct photographs {
    cb_rng rng;
    cb_image *images;
    size_t count, capacity;
} photographs;

/* MNIST-M (Ganin et al. 2016): the distance of the digit from a patch of a photograph. */
static void in_a_photograph(const uint8_t *grey, uint8_t *rgb, void *user)
{
    photographs *p = user;
    const cb_image *image = &p->images[cb_rng_below(&p->rng, p->count)];
    int64_t left = (int64_t)cb_rng_below(&p->rng, (uint64_t)(image->width - SIDE + 1));
    int64_t top = (int64_t)cb_rng_below(&p->rng, (uint64_t)(image->height - SIDE + 1));
    for (int64_t i = 0; i < 3 * PIXELS; i++) {
        int64_t x = left + i / 3 % SIDE, y = top + i / 3 / SIDE;
        rgb[i] = (uint8_t)abs(image->pixels[3 * (y * image->width + x) + i % 3] - grey[i / 3]);
    }
}

static bool write_part(const cb_run *run, const char *part, const digit_set *set, size_t first, size_t count, colour_function *colour,
                       void *user)
{
    picture_set pictures = {0};
    cb_image image = {0};
    char *path = images_path(run, part);
    bool ok = path && cb_image_make(&image, SIDE, SIDE, 3, 8);
    for (size_t i = first; ok && i < first + count && i < set->count; i++) {
        colour(set->pixels + i * PIXELS, image.pixels, user);
        ok = pictures_add(&pictures, &image, set->labels[i]);
    }
    ok = ok && pictures_write(&pictures, path);
    cb_image_free(&image);
    pictures_free(&pictures);
    cb_free(path);
    return ok;
}

static bool add_photograph(photographs *p, const char *path)
{
    enum { SMALL = 128 };
    cb_image image = {0}, small = {0};
    bool ok = cb_image_read(path, NULL, &image) && cb_image_resize(&image, SMALL, SMALL, CB_RESAMPLE_BILINEAR, NULL, &small) &&
              cb_image_convert(&small, 3) && cb_grow(&p->images, &p->capacity, p->count + 1, sizeof *p->images);
    cb_image_free(&image);
    if (ok)
        p->images[p->count++] = small;
    else
        cb_image_free(&small);
    return ok;
}

static bool make_up_photograph(photographs *p)
{
    cb_image image = {0};
    bool ok = cb_image_make(&image, 2 * SIDE, 2 * SIDE, 3, 8) && cb_grow(&p->images, &p->capacity, 1, sizeof *p->images);
    for (size_t i = 0; ok && i < 12 * PIXELS; i++)
        image.pixels[i] = (uint8_t)cb_rng_below(&p->rng, 256);
    if (ok)
        p->images[p->count++] = image;
    else
        cb_image_free(&image);
    return ok;
}

/* Rooms and things, of two cameras and of the web. */
static bool read_photographs(const cb_run *run, photographs *p)
{
    static const char *const origins[] = {"webcam", "dslr", "Caltech"};
    bool ok = run->data || make_up_photograph(p);
    for (int i = 0; ok && run->data && i < 3; i++) {
        cb_string_list names = {0};
        char *root = cb_format("%s/office-caltech10/%s", run->data, origins[i]);
        ok = root && cb_directory_list(root, true, &names);
        for (size_t k = 0; ok && k < names.count; k++) {
            char *path = cb_path_join(root, names.items[k]);
            ok = path && (!cb_image_is_name(path) || add_photograph(p, path));
            cb_free(path);
        }
        cb_string_list_free(&names);
        cb_free(root);
    }
    return ok && (p->count || cb_fail(CB_ERR_IO, "office-caltech10: found no photographs") == CB_OK);
}

static void photographs_free(photographs *p)
{
    for (size_t i = 0; i < p->count; i++)
        cb_image_free(&p->images[i]);
    cb_free(p->images);
}

typedef struct sizes {
    size_t train, test, validation;
} sizes;

static sizes sizes_of(const cb_run *run)
{
    return run->quick ? (sizes){40, 20, 10} : (sizes){TRAIN, TEST, VALIDATION};
}

static bool write_target(const cb_run *run, int pair, const digit_set *set, size_t first, colour_function *colour, void *user)
{
    static const char *const parts[] = {"train", "test", "validation"};
    const sizes n = sizes_of(run);
    const size_t counts[] = {n.train, n.test, n.validation};
    bool ok = true;
    for (int i = 0; ok && i < 3; i++) {
        char *name = cb_format("%s-%s", pair_names[pair], parts[i]);
        ok = name && write_part(run, name, set, first, counts[i], colour, user);
        first += counts[i];
        cb_free(name);
    }
    return ok;
}

static bool write_letters(const cb_run *run)
{
    digit_set letters = {.side = SIDE};
    cb_rng rng = {.seed = 61};
    bool ok = digits_read(run, DIGITS_LETTERS, &letters) && write_part(run, "letters", &letters, 0, letters.count, in_colours, &rng);
    digits_free(&letters);
    return ok;
}

static bool write_digits(const cb_run *run)
{
    digit_set mnist = {.side = SIDE}, usps = {.side = SIDE};
    photographs p = {.rng = {.seed = 62}};
    size_t train = sizes_of(run).train;
    bool ok = digits_read(run, DIGITS_MNIST, &mnist) && digits_read(run, DIGITS_USPS, &usps) && read_photographs(run, &p) &&
              write_part(run, "source", &mnist, 0, run->quick ? train : train + TEST, as_it_is, NULL) &&
              write_target(run, 0, &mnist, run->quick ? 0 : train + TEST, in_a_photograph, &p) &&
              write_target(run, 1, &usps, 0, as_it_is, NULL);
    photographs_free(&p);
    digits_free(&mnist);
    digits_free(&usps);
    return ok;
}

/* ---- the network ---- */

static bool write_network(const cb_run *run)
{
    static const char config[] =
        "{\"architectures\": [\"ResNetForImageClassification\"], \"model_type\": \"resnet\", \"num_channels\": 3, "
        "\"embedding_size\": 16, \"hidden_sizes\": [16, 32, 64], \"depths\": [1, 1, 2], \"layer_type\": \"basic\", "
        "\"hidden_act\": \"relu\", \"downsample_in_first_stage\": false, \"id2label\": {\"0\": \"0\", \"1\": \"1\", "
        "\"2\": \"2\", \"3\": \"3\", \"4\": \"4\", \"5\": \"5\", \"6\": \"6\", \"7\": \"7\", \"8\": \"8\", \"9\": \"9\"}}";
    char *path = cb_path_join(run->shared, "config.json");
    cb_image_processor how;
    cb_image_processor_init(&how);
    how.height = how.width = SIDE;
    for (int c = 0; c < 3; c++) {
        how.image_mean[c] = 0.25;
        how.image_std[c] = 0.35;
    }
    bool ok = path && cb_file_write(path, config, sizeof config - 1) && cb_image_processor_save(&how, run->shared);
    cb_free(path);
    return ok;
}

static bool prepare(const cb_run *run)
{
    return write_network(run) && write_letters(run) && write_digits(run);
}

static cb_dataset *open_pictures(const cb_run *run, const char *part, bool unlabelled, bool shuffle)
{
    cb_image_data_options o = {0};
    cb_image_processor how;
    cb_string_list names = {0};
    char *path = images_path(run, part);
    bool ok = path && cb_image_processor_load(run->shared, &how) && cb_options_init(cb_image_data_option_table, &o) &&
              cb_string_list_add(&o.data, path);
    for (int i = 0; ok && i < DIGIT_CLASSES; i++)
        ok = cb_string_list_add(&names, (char[]){(char)('0' + i), 0});
    o.processor = &how;
    o.labels = &names;
    o.unlabelled = unlabelled;
    o.loader_threads = 0;
    o.shuffle_images = shuffle;
    o.seed = run->seed;
    cb_dataset *data = ok ? cb_dataset_open_images(&o) : NULL;
    cb_string_list_free(&names);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    cb_free(path);
    return data;
}

static bool train_options(const cb_run *run, const char *output, int64_t steps, double rate, cb_train_options *t)
{
    bool ok = cb_options_init(cb_train_option_table, t);
    t->output = (char *)(uintptr_t)output;
    t->steps = run->quick ? 3 : steps;
    t->batch_size = run->quick ? 8 : 36;
    t->learning_rate = rate;
    t->weight_decay = 5e-4;
    t->seed = run->seed;
    t->overwrite = true;
    t->logging_steps = 100;
    return ok;
}

/* The network of letters, in the run's directory. */
static bool train_letters(const cb_run *run, const char *base)
{
    cb_train_options t;
    cb_trainee what = {0};
    char *config = cb_path_join(run->shared, "config.json");
    cb_model *model = config ? cb_model_create(config, run->seed, (cb_model_options){0}) : NULL;
    cb_dataset *data = model ? open_pictures(run, "letters", false, true) : NULL;
    bool ok = data && train_options(run, base, 600, 3e-3, &t) && cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) &&
              cb_train(&what, data, NULL, &t, NULL, NULL, NULL);
    cb_train_whole_free(&what);
    cb_dataset_free(data);
    cb_model_free(model);
    cb_free(config);
    return ok;
}

/* ---- what is trained: convolutions and the head, and attention and corrections where there are such ---- */

enum { MOST_WEIGHTS = 64 };
typedef struct weights {
    cb_named_tensor items[MOST_WEIGHTS];
    size_t count;
} weights;

static bool train_layer(void *user, cb_layer *layer)
{
    weights *w = user;
    for (int i = 0; i < layer->weight_count && (layer->kind == CB_LAYER_CONV || layer->classifies); i++) {
        const char *name = layer->weights[i].name;
        if (w->count == MOST_WEIGHTS || !cb_layer_train_copy(layer, name, CB_F32, true))
            return false;
        w->items[w->count].tensor = cb_layer_weight(layer, name);
        w->items[w->count++].name = cb_layer_weight_name(layer, name);
    }
    return true;
}

static bool save_nothing(const cb_trainee *what, const char *directory)
{
    (void)what;
    (void)directory;
    return true;
}

static void weights_free(weights *w)
{
    for (size_t i = 0; i < w->count; i++)
        cb_free((char *)(uintptr_t)w->items[i].name);
    w->count = 0;
}

/* The network of letters, with a new head, learns the source's digits: what all arms of a seed begin from. */
static bool train_digits(const cb_run *run, const char *letters, const char *base)
{
    cb_train_options t;
    weights w = {0};
    char *scratch = cb_path_join(run->directory, "digits-run");
    cb_model *model = cb_model_load(letters, .head = CB_HEAD_IMAGE_CLASSIFICATION, .labels = DIGIT_CLASSES, .head_seed = run->seed);
    cb_dataset *data = model ? open_pictures(run, "source", false, true) : NULL;
    bool ok = scratch && data && cb_layer_visit(cb_model_root(model), train_layer, &w) && train_options(run, scratch, 300, 1e-3, &t);
    const cb_trainee what = {.model = model, .count = w.count, .parameters = w.items, .save = save_nothing};
    ok = ok && cb_train(&what, data, NULL, &t, NULL, NULL, NULL) && cb_model_save(model, base, CB_F32);
    weights_free(&w);
    cb_dataset_free(data);
    cb_model_free(model);
    cb_free(scratch);
    return ok;
}

static cb_adapter *new_adapter(const cb_run *run, cb_model *model, const plan *p)
{
    cb_adapter *adapter = cb_adapter_new("gdcan", "default");
    bool ok = adapter && cb_adapter_set(adapter, "attention", p->attention) && cb_adapter_set(adapter, "reduction", "4") &&
              cb_adapter_set(adapter, "feature_width", p->corrects ? "16" : "0") &&
              cb_adapter_set(adapter, "logits", p->corrects ? "true" : "false") &&
              cb_adapter_set(adapter, "modules_to_save", "convolution") && cb_adapter_fit_labels(adapter, model) &&
              cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), run->seed);
    if (ok)
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

/* ---- a pair ---- */

static bool adapt(const cb_run *run, int pair, cb_model *model, const cb_trainee *inner, const plan *p)
{
    cb_train_options t;
    cb_domain_options o = {0};
    cb_trainee what = {0};
    char *target = cb_format("%s-train", pair_names[pair]), *output = cb_path_join(run->directory, pair_names[pair]);
    bool ok = target && output && train_options(run, output, 400, run->value, &t) && cb_options_init(cb_domain_option_table, &o) &&
              cb_options_set(cb_domain_option_table, &o, "method", p->method) &&
              (!p->terms || cb_options_set(cb_domain_option_table, &o, "terms", p->terms));
    o.batch_size = ok ? t.batch_size : 1;
    o.seed = run->seed;
    o.correction_through = p->through;
    cb_domains *d =
        ok ? cb_domains_open(model, open_pictures(run, "source", false, true), open_pictures(run, target, true, true), &o) : NULL;
    ok = d && cb_train_domains(&what, inner, d) && cb_train(&what, cb_domains_rows(d), NULL, &t, NULL, NULL, NULL);
    cb_domains_free(d);
    cb_options_free(cb_domain_option_table, &o);
    cb_free(target);
    cb_free(output);
    return ok;
}

/* What the gates of the blocks have seen last. */
static bool tell_gates(const cb_adapter *adapter, int pair, cb_outcome *outcome)
{
    cb_module *const *modules;
    size_t count = cb_adapter_modules(adapter, &modules);
    double apart = 0;
    int block = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        const cb_tensor *state = cb_adapter_parameter_of(adapter, modules[i]->layer, "gdcan_state");
        if (!state)
            continue;
        char *name = cb_format("gap of block %d, %s", ++block, pair_names[pair]);
        const float *s = state->data; /* shared, gap, ... */
        apart += s[0] < 0.5F;
        ok = name && cb_outcome_value(outcome, name, s[1]);
        cb_free(name);
    }
    char *name = cb_format("split blocks, %s", pair_names[pair]);
    ok = ok && name && (!block || cb_outcome_value(outcome, name, apart / block));
    cb_free(name);
    return ok;
}

static size_t judge_pair(const cb_run *run, int pair, cb_model *model, double *items)
{
    char *part = cb_format("%s-%s", pair_names[pair], run->validation ? "validation" : "test");
    cb_dataset *data = part ? open_pictures(run, part, false, false) : NULL;
    size_t n = data ? judge_rows(model, data, TEST, items) : 0;
    cb_dataset_free(data);
    cb_free(part);
    return n;
}

static bool run_pair(const cb_run *run, int pair, const char *base, double *items, size_t *n, cb_outcome *outcome)
{
    const plan *p = run->arm->settings;
    weights w = {0};
    cb_model *model = cb_model_load(base);
    cb_adapter *adapter = model && p->attention ? new_adapter(run, model, p) : NULL;
    bool ok = model && (adapter || (!p->attention && cb_layer_visit(cb_model_root(model), train_layer, &w)));
    const cb_trainee bare = {.model = model, .count = w.count, .parameters = w.items, .save = save_nothing};
    const cb_trainee inner = adapter ? cb_train_adapter(model, adapter) : bare;
    int64_t trained = 0;
    for (size_t i = 0; ok && i < inner.count; i++)
        trained += inner.parameters[i].tensor->count;
    ok = ok && adapt(run, pair, model, &inner, p) && (!adapter || tell_gates(adapter, pair, outcome));
    *n = ok ? judge_pair(run, pair, model, items) : 0;
    cb_outcome_parameters(outcome, trained);
    weights_free(&w);
    cb_adapter_free(adapter);
    cb_model_free(model);
    return *n && cb_ok();
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    char *letters = cb_path_join(run->directory, "letters"), *base = cb_path_join(run->uses ? run->uses : run->directory, "digits");
    double *items = cb_calloc(PAIRS * TEST, sizeof *items);
    size_t all = 0;
    bool ok = base && items && (run->uses || (train_letters(run, letters) && train_digits(run, letters, base)));
    for (int pair = 0; ok && pair < PAIRS; pair++) {
        size_t n;
        ok = run_pair(run, pair, base, items + all, &n, outcome) && cb_outcome_items(outcome, pair_names[pair], items + all, n);
        all += ok ? n : 0;
    }
    ok = ok && cb_outcome_items(outcome, "accuracy", items, all);
    cb_free(items);
    cb_free(letters);
    cb_free(base);
    return ok;
}

static const char *const data[] = {"handwriting", "office-caltech10", NULL};

const cb_experiment experiment_gdcan = {
    .name = "gdcan",
    .system = 61,
    .title = "GDCAN: channel attention with a path for each domain where they are apart",
    .claim = "Separate squeeze paths of channel attention for source and target, switched on layer by layer by a gap of statistics, with "
             "corrections of the "
             "target's features and logits, adapt better than sharing all of the network, and better than paths that are split everywhere.",
    .setting =
        "MNIST's digits (4,000 with labels) to 3,000 unlabelled ones of MNIST-M, made of other MNIST digits and photographs of "
        "Office-Caltech, and of "
        "USPS, 32 x 32 pixels. A residual network of four blocks (16, 32, 64, 64 channels) that has learned notMNIST's letters in random "
        "colours for 600 steps and then the digits for 300; then 400 steps of 36 rows of each domain, all convolutions and the head, batch "
        "norms as letters "
        "left them. "
        "AdamW, two rates, the better on 500 validation digits of each target, with their labels, seed 0.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
