/* adami.c: AdaMI (60) and AdaEnt.  Bateson et al. 2022, arXiv:2108.03152; 2020, arXiv:2005.03697.
 *
 * White blood cells of two hospitals, in two stains: ground, cytoplasm and nucleus of each place.  A U-Net learns one set and is adapted to the other, whose
 * images have no labels, in both directions; what is known of them is a share of each label, the same for all images.
 *
 * A seed says how a set is divided: five images whose label maps give the prior (and which `labels of the target` learns from), and the others; of the
 * small set these are adapted to and judged as well, of the large one some are adapted to and others judged.  Rates are chosen with seed 0 without any
 * image of the other set: the first set's held-out images in other colours take its place.  What is judged is the last step's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/experiments.h"

enum { SETS = 2, LABELS = 3, KNOWN = 5, MOST_IMAGES = 400, JUDGED = 25, HELD = 15, SEVERITY = 4 };
static const char corruption[] = "saturate"; /* of the held-out images by which rates are chosen */

typedef enum prior_kind { PRIOR_NONE, PRIOR_MASKS, PRIOR_SOURCE, PRIOR_WRONG, PRIOR_TRUE } prior_kind;
typedef struct plan {
    const char *method, *terms, *ratio; /* method NULL: no adaptation */
    prior_kind prior;
    bool labels; /* learns from them instead */
} plan;
static const plan source = {0}, labelled = {.labels = true}, statistics = {.method = "adabn"}, entropy = {.method = "entropy"};
static const plan weighed = {.method = "adami", .terms = "ratio=0", .prior = PRIOR_MASKS};
static const plan adaent = {.method = "adaent", .prior = PRIOR_MASKS}, adami = {.method = "adami", .prior = PRIOR_MASKS};
static const plan prior_only = {.method = "adami", .terms = "place_entropy=0", .prior = PRIOR_MASKS};
static const plan of_source = {.method = "adami", .prior = PRIOR_SOURCE}, wrong = {.method = "adami", .prior = PRIOR_WRONG},
                  true_sizes = {.method = "adami", .prior = PRIOR_TRUE};
static const plan largest = {.method = "adami", .ratio = "largest", .prior = PRIOR_MASKS};

#define SOURCE     "no adaptation"
#define STATISTICS "batch statistics"
#define ENTROPY    "entropy"
#define WEIGHED    "weighted entropy"
#define ADAENT     "AdaEnt"
#define PRIOR      "prior only"
#define ADAMI      "AdaMI"
#define LABELLED   "labels of the target"
static const double rates[] = {3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0};
static const cb_arm arms[] = {{SOURCE, NULL, NULL, &source},
                              {STATISTICS, SOURCE, NULL, &statistics},
                              {ENTROPY, SOURCE, rates, &entropy},
                              {WEIGHED, SOURCE, rates, &weighed},
                              {ADAENT, SOURCE, rates, &adaent},
                              {PRIOR, SOURCE, rates, &prior_only},
                              {ADAMI, SOURCE, rates, &adami},
                              {"AdaMI, ratio by the largest", ADAMI, NULL, &largest},
                              {"AdaMI, the source's prior", ADAMI, NULL, &of_source},
                              {"AdaMI, a wrong prior", ADAMI, NULL, &wrong},
                              {"AdaMI, true sizes", ADAMI, NULL, &true_sizes},
                              {LABELLED, SOURCE, NULL, &labelled},
                              {0}};
#define DICE(name, ...)                                                                                                                    \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1, __VA_ARGS__                                                                                  \
    }
static const cb_measure measures[] = {DICE("Dice", ),
                                      DICE("1 to 2", ),
                                      DICE("2 to 1", ),
                                      DICE("cytoplasm", ),
                                      DICE("nucleus", ),
                                      DICE("error of shares", .lower = true),
                                      {0}};
static const cb_comparison comparisons[] = {
    {"better than no adaptation by more than three points", "Dice", ADAMI, SOURCE, 3, "by far better"},
    {"better than batch norms' statistics alone", "Dice", ADAMI, STATISTICS, 0, "not in the paper"},
    {"better than entropy alone", "Dice", ADAMI, ENTROPY, 0, "entropy alone collapses"},
    {"better than weighted entropy alone", "Dice", ADAMI, WEIGHED, 0, "entropy alone collapses"},
    {"better than AdaEnt", "Dice", ADAMI, ADAENT, 0, "better"},
    {"better than the prior alone", "Dice", ADAMI, PRIOR, 0, "better"},
    {"the ratio of the authors' code is no worse by more than a point", "Dice", "AdaMI, ratio by the largest", ADAMI, -1, "it is theirs"},
    {"five label maps give no worse a prior than the source does, by more than a point", "Dice", ADAMI, "AdaMI, the source's prior", -1,
     "coarse priors suffice"},
    {"with a prior of half the nucleus and twice the cytoplasm it is better than no adaptation", "Dice", "AdaMI, a wrong prior", SOURCE, 0,
     "coarse priors suffice"},
    {"true sizes are better than one prior for all", "Dice", "AdaMI, true sizes", ADAMI, 0, "the upper bound"},
    {"within five points of labels of the target", "Dice", ADAMI, LABELLED, -5, "near the oracle"},
    {0}};

/* ---- pictures ---- */

typedef struct sizes {
    int64_t side;
    int source_steps, steps, batch;
} sizes;

static sizes sizes_of(const cb_run *run)
{
    return run->quick ? (sizes){16, 3, 2, 2} : (sizes){64, 250, 50, 8};
}

static char *picture_path(const cb_run *run, int set, const char *part, const char *name)
{
    return cb_format("%s/%d/%s/%s.png", run->shared, set + 1, part, name);
}

/* The image and its map, 0, 1, 2, at one size. */
static bool write_picture(const cb_run *run, int set, const char *name, const cb_image *image, const cb_image *map)
{
    int64_t side = sizes_of(run).side;
    cb_image small = {0}, labels = {0};
    char *to = picture_path(run, set, "images", name), *map_to = picture_path(run, set, "masks", name);
    bool ok = to && map_to && cb_image_resize(image, side, side, CB_RESAMPLE_BILINEAR, NULL, &small) &&
              cb_image_resize(map, side, side, CB_RESAMPLE_NEAREST, NULL, &labels) && cb_image_write_png(to, &small) &&
              cb_image_write_png(map_to, &labels);
    cb_image_free(&small);
    cb_image_free(&labels);
    cb_free(to);
    cb_free(map_to);
    return ok;
}

/* Maps have 0, 128 and 255, and some strays between. */
static bool convert(const cb_run *run, int set, const char *directory, const char *file)
{
    enum { CYTOPLASM = 64, NUCLEUS = 192 };
    cb_image image = {0}, map = {0};
    char *name = cb_strndup(file, strlen(file) - strlen(".bmp")), *from = cb_path_join(directory, file),
         *map_from = cb_format("%s/%s.png", directory, name ? name : "");
    bool ok = name && from && map_from && cb_image_read(from, &(cb_image_options){.mode = CB_IMAGE_RGB}, &image) &&
              cb_image_read(map_from, &(cb_image_options){.mode = CB_IMAGE_GREY}, &map);
    for (int64_t i = 0; ok && i < map.width * map.height; i++)
        map.pixels[i] = (uint8_t)((map.pixels[i] > CYTOPLASM) + (map.pixels[i] > NUCLEUS));
    ok = ok && write_picture(run, set, name, &image, &map);
    cb_image_free(&image);
    cb_image_free(&map);
    cb_free(name);
    cb_free(from);
    cb_free(map_from);
    return ok;
}

static bool prepare_real(const cb_run *run, int set)
{
    cb_string_list files = {0};
    char *directory = cb_format("%s/medical-img/wbc/dataset%d", run->data, set + 1);
    bool ok = directory && cb_directory_list(directory, false, &files);
    for (size_t i = 0; ok && i < files.count; i++)
        if (cb_ends_with(files.items[i], ".bmp"))
            ok = convert(run, set, directory, files.items[i]);
    cb_string_list_free(&files);
    cb_free(directory);
    return ok;
}

/* A disc in a disc, of colours by the set. */
static bool prepare_made_up(const cb_run *run, int set)
{
    enum { COUNT = 40, SIDE = 16 };
    static const int colours[SETS][LABELS][3] = {{{200, 180, 90}, {160, 120, 90}, {70, 40, 90}},
                                                 {{230, 210, 220}, {180, 150, 200}, {90, 40, 130}}};
    bool ok = true;
    for (int n = 0; ok && n < (set ? COUNT / 3 : COUNT); n++) {
        cb_image image = {0}, map = {0};
        char name[16];
        snprintf(name, sizeof name, "%03d", n);
        ok = cb_image_make(&image, SIDE, SIDE, 3, 8) && cb_image_make(&map, SIDE, SIDE, 1, 8);
        for (int at = 0; ok && at < SIDE * SIDE; at++) {
            int x = at % SIDE - 7 - n % 3, y = at / SIDE - 7, r = x * x + y * y, k = (r < 30) + (r < 12);
            map.pixels[at] = (uint8_t)k;
            for (int c = 0; c < 3; c++)
                image.pixels[3 * at + c] = (uint8_t)(colours[set][k][c] + (at * 31 + n * 17 + c) % 20);
        }
        ok = ok && write_picture(run, set, name, &image, &map);
        cb_image_free(&image);
        cb_image_free(&map);
    }
    return ok;
}

static bool prepare_set(const cb_run *run, int set)
{
    bool ok = true;
    for (int part = 0; ok && part < 3; part++) {
        static const char *const parts[] = {"", "/images", "/masks"};
        char *directory = cb_format("%s/%d%s", run->shared, set + 1, parts[part]);
        ok = directory && cb_directory_make(directory);
        cb_free(directory);
    }
    return ok && (run->data ? prepare_real : prepare_made_up)(run, set);
}

static bool prepare(const cb_run *run)
{
    static const char config[] =
        "{\"model_type\": \"unet\", \"architectures\": [\"UNetForSemanticSegmentation\"], \"hidden_sizes\": [12, 24, 48], "
        "\"id2label\": {\"0\": \"ground\", \"1\": \"cytoplasm\", \"2\": \"nucleus\"}}",
                      tiny[] = "{\"model_type\": \"unet\", \"architectures\": [\"UNetForSemanticSegmentation\"], \"hidden_sizes\": [3, 4], "
                               "\"id2label\": {\"0\": \"ground\", \"1\": \"cytoplasm\", \"2\": \"nucleus\"}}";
    char *path = cb_path_join(run->shared, "config.json");
    const char *text = run->quick ? tiny : config;
    bool ok = path && cb_file_write(path, text, strlen(text));
    for (int set = 0; ok && set < SETS; set++)
        ok = prepare_set(run, set);
    cb_free(path);
    return ok;
}

/* ---- which images ---- */

/* Of a set, in an order by the seed. */
typedef struct images {
    int set, count;
    cb_string_list names;
} images;

static bool list_images(const cb_run *run, int set, images *list)
{
    char *directory = cb_format("%s/%d/images", run->shared, set + 1);
    cb_rng rng = {.seed = run->seed, .stream = (uint64_t)set};
    *list = (images){.set = set};
    bool ok = directory && cb_directory_list(directory, false, &list->names);
    list->count = ok ? (int)list->names.count : 0;
    for (int i = list->count - 1; i > 0; i--) {
        int other = (int)cb_rng_below(&rng, (uint64_t)i + 1);
        char *name = list->names.items[i];
        list->names.items[i] = list->names.items[other];
        list->names.items[other] = name;
    }
    cb_free(directory);
    return ok;
}

/* A table of images [first, end) with their maps; free with cb_free(). */
static char *write_table(const cb_run *run, const images *list, const char *name, int first, int end)
{
    cb_string text = {0};
    char *path = cb_format("%s/%s-%d.csv", run->directory, name, list->set + 1), *shared = realpath(run->shared, NULL);
    cb_string_printf(&text, "image,map\n");
    for (int i = first; shared && i < end; i++)
        cb_string_printf(&text, "%s/%d/images/%s,%s/%d/masks/%s\n", shared, list->set + 1, list->names.items[i], shared, list->set + 1,
                         list->names.items[i]);
    bool ok = path && shared && cb_ok() && cb_file_write(path, text.data, text.length);
    free(shared);
    cb_string_free(&text);
    if (ok)
        return path;
    cb_free(path);
    return NULL;
}

static void ready(const cb_run *run, cb_image_processor *how)
{
    cb_image_processor_init(how);
    how->height = how->width = sizes_of(run).side;
    for (int c = 0; c < 3; c++) {
        how->image_mean[c] = 0.65;
        how->image_std[c] = 0.2;
    }
}

typedef struct view {
    const char *table;
    bool unlabelled, shuffled, flipped, corrupted;
} view;

static bool view_options(const cb_run *run, const cb_model *model, const view *v, cb_image_data_options *o)
{
    *o = (cb_image_data_options){0};
    bool ok = cb_options_init(cb_image_data_option_table, o) && cb_options_set(cb_image_data_option_table, o, "image_column", "image") &&
              cb_options_set(cb_image_data_option_table, o, "label_column", "map") && cb_string_list_add(&o->data, v->table);
    o->objective = CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    o->labels = cb_model_label_names(model);
    o->unlabelled = v->unlabelled;
    o->shuffle_images = v->shuffled;
    o->corruption = v->corrupted ? corruption : NULL;
    o->severity = SEVERITY;
    o->loader_threads = 0;
    o->seed = run->seed;
    return ok;
}

static void view_options_free(cb_image_data_options *o)
{
    cb_string_list_free(&o->data);
    cb_options_free(cb_image_data_option_table, o);
}

static cb_dataset *open_view(const cb_run *run, const cb_model *model, view v)
{
    cb_image_data_options o;
    cb_augment_options augment = {0};
    cb_image_processor how;
    ready(run, &how);
    bool ok = view_options(run, model, &v, &o) && cb_options_init(cb_augment_option_table, &augment);
    augment.horizontal_flip = augment.vertical_flip = 0.5;
    o.processor = &how;
    o.augment = v.flipped ? &augment : NULL;
    cb_dataset *data = ok ? cb_dataset_open_images(&o) : NULL;
    cb_options_free(cb_augment_option_table, &augment);
    view_options_free(&o);
    return data;
}

/* ---- training ---- */

static bool train_options(const cb_run *run, const char *output, int steps, int batch, double rate, cb_train_options *t)
{
    bool ok = cb_options_init(cb_train_option_table, t);
    t->output = (char *)(uintptr_t)output;
    t->steps = steps;
    t->batch_size = batch;
    t->learning_rate = rate;
    t->seed = run->seed;
    t->overwrite = true;
    t->logging_steps = steps;
    return ok;
}

static char *source_path(const char *directory, int set)
{
    return cb_format("%s/source-%d", directory, set + 1);
}

static int64_t size_of(const cb_trainee *what)
{
    int64_t size = 0;
    for (size_t i = 0; i < what->count; i++)
        size += what->parameters[i].tensor->count;
    return size;
}

static bool learn_labels(const cb_run *run, cb_model *model, const char *table, int steps, int batch, double rate, const char *output,
                         int64_t *trained)
{
    cb_train_options t;
    cb_trainee what = {0};
    cb_dataset *data = open_view(run, model, (view){.table = table, .shuffled = true, .flipped = true});
    bool ok = data && train_options(run, output, steps, batch, rate, &t) && cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) &&
              cb_train(&what, data, NULL, &t, NULL, NULL, NULL);
    *trained = size_of(&what);
    cb_train_whole_free(&what);
    cb_dataset_free(data);
    return ok && cb_ok();
}

/* Of the first set the last images are held out. */
static int learned_of(const images *list)
{
    return list->set ? list->count : list->count - HELD;
}

/* The least Dice of a label, of images with maps. */
static double least_dice(const cb_run *run, cb_model *model, const char *table)
{
    cb_evaluation e = {0};
    cb_dataset *data = open_view(run, model, (view){.table = table});
    double least = data && cb_evaluate(model, data, sizes_of(run).batch, 0, &e) ? 1 : NAN;
    for (int k = 0; k < LABELS && isfinite(least); k++) {
        double dice = cb_class_score_of(e.predictions.counts[k]).f1;
        least = isfinite(dice) ? fmin(least, dice) : 0;
    }
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    return least;
}

/* From one beginning; *least: how well it knows what it has learned. */
static bool train_once(const cb_run *run, const char *config, uint64_t seed, const char *table, const char *output, double *least)
{
    const double rate = 3e-3;
    int64_t trained;
    sizes s = sizes_of(run);
    cb_model *model = cb_model_create(config, seed, (cb_model_options){.keep_weights = true});
    bool ok = model && learn_labels(run, model, table, s.source_steps, s.batch, rate, output, &trained);
    *least = ok ? least_dice(run, model, table) : NAN;
    cb_model_free(model);
    return ok && isfinite(*least);
}

/* Some networks never find one of the labels, and begin anew: that is told by what they learn from, which they know then.  Nothing of the other set is
 * looked at. */
static bool train_source(const cb_run *run, int set)
{
    enum { TRIES = 5, APART = 1000 };
    const double enough = 0.5;
    double least = 0;
    images list = {0};
    char *config = cb_path_join(run->shared, "config.json"), *output = source_path(run->directory, set);
    char *table = config && output && list_images(run, set, &list) ? write_table(run, &list, "learned", 0, learned_of(&list)) : NULL;
    bool ok = table;
    for (uint64_t i = 0; ok && i < (run->quick ? 1 : TRIES) && least < enough; i++)
        ok = train_once(run, config, run->seed + 1 + i * APART, table, output, &least);
    cb_string_list_free(&list.names);
    cb_free(config);
    cb_free(output);
    cb_free(table);
    return ok;
}

/* ---- one direction ---- */

typedef struct direction {
    const cb_run *run;
    const plan *plan;
    int from, to;
    const char *sources; /* the directory of the networks that know a set */
    double rate;
    char *known, *adapted, *judged, *learned; /* tables; learned: what the network has learned from */
    cb_model *model;
    double dice[LABELS], error;
    int64_t trained;
} direction;

/* Of the small set all but the known are adapted to and judged; of the large one some are judged.  In validation the first set's held-out images are the
 * target, and five of those that were learned are known. */
static bool write_tables(direction *d)
{
    images target, learned;
    bool ok = list_images(d->run, d->to, &target) && list_images(d->run, d->from, &learned);
    int all = ok ? target.count : 0, judged = d->to ? KNOWN : all - JUDGED;
    if (ok && d->run->quick && judged < KNOWN)
        judged = KNOWN;
    if (ok && d->run->validation) {
        int first = learned_of(&learned);
        d->known = write_table(d->run, &learned, "known", 0, KNOWN);
        d->adapted = write_table(d->run, &learned, "adapted", first, learned.count);
        d->judged = write_table(d->run, &learned, "judged", first, learned.count);
    } else if (ok) {
        d->known = write_table(d->run, &target, "known", 0, KNOWN);
        d->adapted = write_table(d->run, &target, "adapted", KNOWN, d->to ? all : judged);
        d->judged = write_table(d->run, &target, "judged", judged, all);
    }
    d->learned = ok ? write_table(d->run, &learned, "learned", 0, learned_of(&learned)) : NULL;
    cb_string_list_free(&target.names);
    cb_string_list_free(&learned.names);
    return d->known && d->adapted && d->judged && d->learned;
}

/* Half the nucleus, twice the cytoplasm, of what the five maps say. */
static bool set_wrong(const cb_image_data_options *maps, const char *table, cb_prior_options *o)
{
    cb_label_shares shares = {0};
    cb_image_data_options of = *maps;
    double mean[LABELS] = {0};
    of.data = (cb_string_list){0};
    bool ok = cb_string_list_add(&of.data, table) && cb_label_shares_read(&of, &shares);
    for (size_t i = 0; ok && i < shares.maps; i++)
        for (int k = 0; k < LABELS; k++)
            mean[k] += shares.shares[i * LABELS + (size_t)k] / (double)shares.maps;
    mean[1] *= 2;
    mean[2] /= 2;
    mean[0] = 1 - mean[1] - mean[2];
    for (int k = 0; ok && k < LABELS; k++) {
        char text[24];
        snprintf(text, sizeof text, "%.6f", mean[k]);
        ok = cb_string_list_add(&o->prior, text);
    }
    cb_label_shares_free(&shares);
    cb_string_list_free(&of.data);
    return ok;
}

static bool find_priors(const direction *d, const cb_dataset *target, cb_priors *priors)
{
    cb_image_data_options maps;
    cb_prior_options o = {0};
    bool ok = view_options(d->run, d->model, &(view){.table = d->known}, &maps) && cb_options_init(cb_prior_option_table, &o);
    prior_kind kind = d->plan->prior;
    if (ok && kind == PRIOR_WRONG)
        ok = set_wrong(&maps, d->known, &o);
    else if (ok && kind == PRIOR_TRUE)
        ok = cb_string_list_add(&o.true_size_maps, d->adapted);
    else if (ok && kind)
        ok = cb_string_list_add(&o.prior_maps, kind == PRIOR_SOURCE ? d->learned : d->known);
    ok = ok && cb_priors_make(target, cb_model_label_names(d->model), &o, &maps, priors);
    cb_options_free(cb_prior_option_table, &o);
    view_options_free(&maps);
    return ok;
}

static cb_domains *open_domains(const direction *d, int batch)
{
    cb_domain_options o = {0};
    cb_priors priors = {0};
    const plan *p = d->plan;
    cb_dataset *target =
        open_view(d->run, d->model, (view){.table = d->adapted, .unlabelled = true, .shuffled = true, .corrupted = d->run->validation});
    bool ok = target && cb_options_init(cb_domain_option_table, &o) && cb_options_set(cb_domain_option_table, &o, "method", p->method) &&
              (!p->terms || cb_options_set(cb_domain_option_table, &o, "terms", p->terms)) &&
              (!p->ratio || cb_options_set(cb_domain_option_table, &o, "class_ratio", p->ratio)) && find_priors(d, target, &priors);
    o.priors = priors.shares;
    o.batch_size = batch;
    o.seed = d->run->seed;
    if (!ok)
        cb_dataset_free(target);
    cb_domains *domains = ok ? cb_domains_open(d->model, NULL, target, &o) : NULL;
    cb_priors_free(&priors);
    cb_options_free(cb_domain_option_table, &o);
    return domains;
}

static bool adapt(direction *d, const char *output)
{
    sizes s = sizes_of(d->run);
    cb_train_options t;
    cb_trainee inner = {0}, what = {0};
    cb_domains *domains = open_domains(d, s.batch);
    bool ok = domains && train_options(d->run, output, s.steps, s.batch, d->rate, &t);
    t.lr_scheduler_type = CB_SCHEDULE_CONSTANT;
    ok = ok && cb_train_part(&inner, d->model, CB_PART_ALL, NULL, NULL, CB_F32) && cb_train_domains(&what, &inner, domains) &&
         cb_train(&what, cb_domains_rows(domains), NULL, &t, NULL, NULL, NULL);
    d->trained = strcmp(d->plan->method, "adabn") == 0 ? 0 : size_of(&inner);
    cb_train_whole_free(&inner);
    cb_domains_free(domains);
    return ok;
}

/* Of all images' places together, and how far the labels' shares of them are from the true ones, summed up. */
static bool judge(direction *d)
{
    cb_evaluation e = {0};
    cb_dataset *data = open_view(d->run, d->model, (view){.table = d->judged, .corrupted = d->run->validation});
    bool ok = data && cb_evaluate(d->model, data, sizes_of(d->run).batch, 0, &e);
    double places = 0;
    for (int k = 0; ok && k < LABELS; k++) {
        const cb_class_counts *c = &e.predictions.counts[k];
        double score = cb_class_score_of(*c).f1;
        d->dice[k] = isfinite(score) ? score : 0;
        d->error += fabs((double)(c->false_positives - c->false_negatives));
        places += (double)(c->true_positives + c->false_negatives);
    }
    d->error /= places > 0 ? places : 1;
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    return ok;
}

static bool learn(direction *d, const char *output)
{
    const double rate = 1e-3;
    sizes s = sizes_of(d->run);
    if (d->plan->labels) /* of all images that are not judged: the small set's five, and of the large one those that others adapt to */
        return learn_labels(d->run, d->model, d->to ? d->known : d->adapted, s.steps, d->to ? KNOWN : s.batch, rate, output, &d->trained);
    return !d->plan->method || adapt(d, output);
}

static bool run_direction(direction *d)
{
    char *from = source_path(d->sources, d->from), *output = cb_format("%s/adapted-%d", d->run->directory, d->to + 1);
    bool ok = from && output && write_tables(d);
    d->model = ok ? cb_model_load(from, .keep_weights = true) : NULL;
    ok = d->model && learn(d, output) && judge(d);
    cb_model_free(d->model);
    cb_free(d->known);
    cb_free(d->adapted);
    cb_free(d->judged);
    cb_free(d->learned);
    cb_free(from);
    cb_free(output);
    return ok;
}

/* ---- the rate of AdaMI, and where the source's networks are ---- */

static bool leave(const cb_run *run)
{
    char *text = cb_format("%.9g\n%s", run->value, run->uses), *path = cb_path_join(run->directory, "went");
    bool ok = text && path && cb_file_write(path, text, strlen(text));
    cb_free(text);
    cb_free(path);
    return ok;
}

/* *sources is to be freed. */
static bool find(const cb_run *run, double *rate, char **sources)
{
    size_t length;
    char *path = run->uses ? cb_path_join(run->uses, "went") : NULL;
    *rate = run->value;
    if (!run->uses || !path || !cb_is_file(path)) {
        *sources = cb_strdup(run->uses ? run->uses : run->directory);
        cb_free(path);
        return *sources && (!run->arm->grid || leave(run));
    }
    char *text = cb_file_read(path, 4096, &length), *end = text;
    if (text)
        *rate = strtod(text, &end);
    *sources = text ? cb_strdup(end + 1) : NULL;
    cb_free(text);
    cb_free(path);
    return *sources;
}

static bool report(const direction *one, const direction *two, bool both, cb_outcome *outcome)
{
    double mean[SETS], label[LABELS];
    const direction *all[SETS] = {one, both ? two : one};
    for (int i = 0; i < SETS; i++)
        mean[i] = (all[i]->dice[1] + all[i]->dice[2]) / 2;
    for (int k = 0; k < LABELS; k++)
        label[k] = (all[0]->dice[k] + all[1]->dice[k]) / 2;
    return cb_outcome_value(outcome, "Dice", (mean[0] + mean[1]) / 2) && cb_outcome_value(outcome, "1 to 2", mean[0]) &&
           cb_outcome_value(outcome, "2 to 1", mean[1]) && cb_outcome_value(outcome, "cytoplasm", label[1]) &&
           cb_outcome_value(outcome, "nucleus", label[2]) &&
           cb_outcome_value(outcome, "error of shares", (all[0]->error + all[1]->error) / 2);
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    const plan *p = run->arm->settings;
    double rate;
    char *sources = NULL;
    bool ok = find(run, &rate, &sources);
    for (int set = 0; ok && set < SETS && !run->uses; set++)
        ok = train_source(run, set);
    direction one = {.run = run, .plan = p, .from = 0, .to = 1, .sources = sources, .rate = rate},
              two = {.run = run, .plan = p, .from = 1, .to = 0, .sources = sources, .rate = rate};
    ok = ok && run_direction(&one) && (run->validation || run_direction(&two)) && report(&one, &two, !run->validation, outcome);
    cb_outcome_parameters(outcome, one.trained);
    cb_free(sources);
    return ok;
}

static const char *const data[] = {"medical-img", NULL};

const cb_experiment experiment_adami = {
    .name = "adami",
    .system = 60,
    .title = "AdaMI: segmentation of another domain's images without labels, from a prior of how large things are",
    .claim = "Minimising the entropy of places, labels weighed by their rarity, together with the divergence of each image's shares of "
             "labels from a coarse "
             "prior adapts a segmenter to another domain without source images and without labels, where entropy alone collapses, and "
             "comes near what labels "
             "give.",
    .setting = "White blood cells in two stains (75 and 12 images, brought to 64 x 64): ground, cytoplasm, nucleus. A U-Net of 12, 24 and "
               "48 channels learns one "
               "set in 250 steps of 8 (from another beginning, where it never finds a label of what it learns from) and is adapted to the "
               "other in 50 steps of 8, all weights, a constant rate; both directions. The "
               "prior is the mean of five "
               "of the other set's label maps; of the small set the seven other images are adapted to and judged, of the large one 45 are "
               "adapted to and 25 "
               "judged. Dice of cytoplasm and nucleus, of all places together. Rates: of six, by the first set's 15 held-out images in "
               "other colours, with "
               "seed 0.",
    .data = data,
    .seeds = 5,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
