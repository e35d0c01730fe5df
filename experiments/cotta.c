/* cotta.c: CoTTA (65).  Wang et al. 2022, arXiv:2203.13591.
 *
 * Photographs of CIFAR-10 under eight corruptions of severity 5, which come one after another, three times, in an order by the seed; nobody says when one
 * ends, and nothing begins anew.  The network has learned from clean ones.  Rates are chosen by the rule of all experiments, the least error with seed 0,
 * on a stream of other images under the corruptions that CIFAR-10-C calls extra: none of those is judged.  The ablations take CoTTA's rate.
 *
 * Errors are those of the answers as they were given.  Afterwards clean images are answered by what was trained, without learning, by the statistics
 * of their batches. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/cifar.h"
#include "experiments/rate.h"

enum { CLASSES = CIFAR_CLASSES, EACH = 100, ROUNDS = 3, BATCH = 50, CLEAN = 100, SOURCE = 100 /* of each class */ };
static const char *const judged[] = {"gaussian_noise", "shot_noise", "defocus_blur",     "motion_blur", "fog",
                                     "contrast",       "pixelate",   "jpeg_compression", NULL},
                         *const extra[] = {"speckle_noise", "gaussian_blur", "saturate", NULL};

typedef struct plan {
    const char *method;
    const char *options[5]; /* of the method */
    bool guard;
} plan;

#define VIEWS "views=8"
static const plan source = {.method = "source"}, bn = {.method = "bn"}, tent = {.method = "tent"},
                  guarded = {.method = "tent", .guard = true};
static const plan cotta = {.method = "cotta", .options = {VIEWS}};
static const plan no_views = {.method = "cotta", .options = {"views=0"}},
                  no_restore = {.method = "cotta", .options = {VIEWS, "restore_rate=0"}},
                  always = {.method = "cotta", .options = {VIEWS, "threshold=1"}}; /* the source is never that sure */
static const plan teacher_only = {.method = "cotta", .options = {"views=0", "restore_rate=0"}},
                  alone = {.method = "cotta", .options = {"views=0", "restore_rate=0", "teacher=false"}};

static const double tent_rates[] = {1e-4, 3e-4, 1e-3, 0}, cotta_rates[] = {3e-4, 1e-3, 3e-3, 0};
#define PERCENT(name, ...)                                                                                                                 \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1, .lower = true, __VA_ARGS__                                                                   \
    }
static const cb_measure measures[] = {PERCENT("error", ),
                                      PERCENT("round 1", ),
                                      PERCENT("round 3", ),
                                      PERCENT("rise", ),
                                      PERCENT("clean afterwards", ),
                                      {"batches by the source", "%", .scale = 100, .digits = 0, .aside = true},
                                      {0}};
#define COTTA      "CoTTA"
#define ALWAYS     "views of every batch"
#define TENT       "TENT"
#define STATISTICS "batch statistics"
static const cb_arm arms[] = {{"source", NULL, NULL, &source},
                              {STATISTICS, NULL, NULL, &bn},
                              {TENT, NULL, tent_rates, &tent},
                              {"TENT, guarded", TENT, NULL, &guarded},
                              {COTTA, NULL, cotta_rates, &cotta},
                              {ALWAYS, COTTA, NULL, &always},
                              {"without views", COTTA, NULL, &no_views},
                              {"without restoring", COTTA, NULL, &no_restore},
                              {"teacher only", COTTA, NULL, &teacher_only},
                              {"without a teacher", COTTA, NULL, &alone},
                              {0}};
static const cb_comparison comparisons[] = {
    {"better than TENT", "error", COTTA, TENT, 0, "16.2 and 20.7 % (CIFAR-10-C, WRN-28-10)"},
    {"better than batch statistics", "error", COTTA, STATISTICS, 0, "16.2 and 20.4 %"},
    {"better than no adaptation", "error", COTTA, "source", 0, "16.2 and 43.5 %"},
    {"from the first round to the third its error rises less than TENT's", "rise", COTTA, TENT, 0, "the gain does not decay over rounds"},
    {"averaging over views helps", "error", COTTA, "without views", 0, "helps"},
    {"views of every batch help, whatever the source is sure of", "error", ALWAYS, "without views", 0, "helps"},
    {"restoring helps", "error", COTTA, "without restoring", 0, "helps"},
    {"a teacher helps", "error", "teacher only", "without a teacher", 0, "helps"},
    {"less is forgotten than by TENT", "clean afterwards", COTTA, TENT, 0, "restoring keeps the source's knowledge"},
    {"restoring keeps what the source knew", "clean afterwards", COTTA, "without restoring", 0, "it does"},
    {"with the guard TENT is no more than a point worse than no adaptation", "error", "TENT, guarded", "source", -1, "not in the paper"},
    {0}};

/* ---- data ---- */

static char *images_path(const cb_run *run, const char *part)
{
    return cb_format("%s/%s-images-ubyte", run->shared, part);
}

/* Which part an image goes into: number `number` of its class. */
enum { JUDGED, VALIDATION, AFTERWARDS, PARTS, LEFT_OUT = CIFAR_LEFT_OUT };
static int part_of_test(int number)
{
    if (number < EACH)
        return JUDGED;
    return number < 2 * EACH ? VALIDATION : number < 2 * EACH + CLEAN ? AFTERWARDS : LEFT_OUT;
}

static int part_of_train(int number)
{
    return number < SOURCE ? 0 : LEFT_OUT;
}

static bool write_set(const cb_run *run, const char *name, const picture_set *set)
{
    char *path = images_path(run, name);
    bool ok = path && pictures_write(set, path);
    cb_free(path);
    return ok;
}

/* The set under a corruption, of severity 5 by CIFAR's constants; what is drawn depends on the image and the corruption. */
static bool write_corrupted(const cb_run *run, const char *corruption, const picture_set *set)
{
    enum { SEVERITY = 5, BYTES = PICTURE_SIDE * PICTURE_SIDE * 3 };
    picture_set out = {0};
    cb_image image = {0}, bad = {0};
    bool ok = cb_image_make(&image, PICTURE_SIDE, PICTURE_SIDE, 3, 8);
    for (size_t i = 0; ok && i < set->count; i++) {
        cb_rng rng = cb_image_rng(cb_hash_text(CB_HASH_START, corruption), 0, (int64_t)i);
        memcpy(image.pixels, set->pixels + i * BYTES, BYTES);
        ok = cb_image_corrupt(&image, corruption, SEVERITY, &rng, &bad) && pictures_add(&out, &bad, set->labels[i]);
    }
    ok = ok && write_set(run, corruption, &out);
    cb_image_free(&image);
    cb_image_free(&bad);
    pictures_free(&out);
    return ok;
}

static bool write_all(const cb_run *run, const picture_set parts[PARTS], const picture_set *train)
{
    bool ok = write_set(run, "clean", &parts[AFTERWARDS]) && write_set(run, "source", train);
    for (int i = 0; ok && judged[i]; i++)
        ok = write_corrupted(run, judged[i], &parts[JUDGED]);
    for (int i = 0; ok && extra[i]; i++)
        ok = write_corrupted(run, extra[i], &parts[VALIDATION]);
    return ok;
}

static bool prepare_real(const cb_run *run)
{
    picture_set parts[PARTS] = {0}, train = {0};
    char *test = cb_path_join(run->data, "cifar10/test-300.zip"), *other = cb_path_join(run->data, "cifar10/train-600.zip");
    bool ok =
        test && other && cifar_read(test, part_of_test, parts) && cifar_read(other, part_of_train, &train) && write_all(run, parts, &train);
    for (int i = 0; i < PARTS; i++)
        pictures_free(&parts[i]);
    pictures_free(&train);
    cb_free(test);
    cb_free(other);
    return ok;
}

static bool prepare_made_up(const cb_run *run)
{
    const char *names[16] = {"clean", "source"};
    size_t count = 2;
    for (int i = 0; judged[i]; i++)
        names[count++] = judged[i];
    for (int i = 0; extra[i]; i++)
        names[count++] = extra[i];
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        char *path = images_path(run, names[i]);
        ok = path && pictures_made_up(path, CLASSES, i);
        cb_free(path);
    }
    return ok;
}

/* ---- the network ---- */

static bool prepare(const cb_run *run)
{
    char *base = cifar_resnet(run);
    bool ok = base && (!run->quick || cifar_resnet_tiny(base)) && (run->data ? prepare_real(run) : prepare_made_up(run));
    cb_free(base);
    return ok;
}

/* ---- a stream ---- */

static cb_stream *open_stream(const cb_run *run, const cb_model *model, const char *const *parts, int64_t rounds)
{
    cb_image_data_options images = {0};
    cb_stream_options order = {0};
    cb_image_processor how;
    bool ok = cb_image_processor_load(cb_model_directory(model), &how) && cb_options_init(cb_image_data_option_table, &images) &&
              cb_options_init(cb_stream_option_table, &order);
    for (; ok && *parts; parts++) {
        char *path = images_path(run, *parts);
        ok = path && cb_string_list_add(&images.data, path);
        cb_free(path);
    }
    images.processor = &how;
    images.labels = cb_model_label_names(model);
    images.seed = run->seed;
    images.loader_threads = 0;
    images.max_images = run->quick ? 24 : 0;
    order.rounds = rounds;
    order.shuffle_shifts = true;
    order.batch_size = run->quick ? 24 : BATCH;
    cb_stream *stream = ok ? cb_stream_open_images(&images, &order) : NULL;
    cb_options_free(cb_image_data_option_table, &images);
    cb_options_free(cb_stream_option_table, &order);
    cb_string_list_free(&images.data);
    return stream;
}

typedef struct tally {
    int64_t round_size, wrong[ROUNDS], seen[ROUNDS];
} tally;

static bool count_batch(void *user, const cb_stream_batch *batch, const cb_adapt_outcome *outcome, const cb_adapt_result *so_far)
{
    tally *t = user;
    (void)so_far;
    for (int64_t i = 0; i < batch->count; i++) {
        const cb_stream_item *item = &batch->items[i];
        if (item->error)
            return cb_fail(CB_ERR_FORMAT, "%s", item->error) == CB_OK;
        int64_t round = item->index / t->round_size;
        t->seen[round]++;
        t->wrong[round] += cifar_answer(outcome, item) != item->label;
    }
    return true;
}

static cb_adaptation *begin(const cb_run *run, const plan *p, cb_model *model, double rate)
{
    static const char *const source_part[] = {"source", NULL};
    cb_adapt_options options = {0};
    cb_string_list config = {0};
    cb_image_processor how;
    bool ok = cb_image_processor_load(cb_model_directory(model), &how) && cb_options_init(cb_adapt_option_table, &options);
    options.processor = &how;
    options.learning_rate = rate;
    options.guard = p->guard;
    options.seed = run->seed;
    for (int i = 0; ok && i < 5 && p->options[i]; i++)
        ok = cb_string_list_add(&config, run->quick && strcmp(p->options[i], VIEWS) == 0 ? "views=2" : p->options[i]);
    cb_adaptation *a = ok ? cb_adaptation_open(model, NULL, p->method, &config, &options) : NULL;
    bool asks = strcmp(p->method, "cotta") == 0 && p != &always;
    cb_stream *known = a && asks ? open_stream(run, model, source_part, 1) : NULL;
    if (known && !cb_adaptation_study(a, known)) {
        cb_adaptation_free(a);
        a = NULL;
    }
    cb_stream_free(known);
    cb_options_free(cb_adapt_option_table, &options);
    cb_string_list_free(&config);
    return a;
}

/* The error on clean images of what was trained. */
static double judge_clean(const cb_run *run, cb_model *model, cb_learner *learner)
{
    static const char *const clean[] = {"clean", NULL};
    cb_stream *stream = open_stream(run, model, clean, 1);
    cb_stream_batch batch;
    int64_t wrong = 0, seen = 0;
    bool more = stream;
    while (more) {
        cb_scope *scope = cb_scope_open();
        more = scope && cb_stream_next(stream, &batch);
        cb_tensor *said = more ? cb_learner_logits_with(learner, NULL, CB_ADAPT_STATISTICS_OF_METHOD, batch.input) : NULL;
        cb_tensor *labels = said ? cb_argmax(said, 1, false) : NULL;
        for (int64_t i = 0; labels && i < batch.count; i++) {
            wrong += (int64_t)cb_get(labels, batch.items[i].row) != batch.items[i].label;
            seen++;
        }
        if (scope)
            cb_scope_close(scope);
    }
    cb_stream_free(stream);
    return seen ? (double)wrong / (double)seen : NAN;
}

static bool report(const tally *t, const cb_adapt_result *r, double clean, cb_outcome *outcome)
{
    double first = (double)t->wrong[0] / (double)t->seen[0], last = (double)t->wrong[ROUNDS - 1] / (double)t->seen[ROUNDS - 1];
    return cb_outcome_value(outcome, "error", 1 - (double)r->right / (double)r->labelled) && cb_outcome_value(outcome, "round 1", first) &&
           cb_outcome_value(outcome, "round 3", last) && cb_outcome_value(outcome, "rise", last - first) &&
           cb_outcome_value(outcome, "clean afterwards", clean) &&
           cb_outcome_value(outcome, "batches by the source", 1 - (double)r->alarms[CB_ALARM_NONE] / (double)r->batches);
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    const plan *p = run->arm->settings;
    double rate = 0;
    char *base = rate_of(run, &rate) ? cifar_resnet(run) : NULL;
    cb_model *model = base ? cb_model_load(base) : NULL;
    cb_stream *stream = model ? open_stream(run, model, run->validation ? extra : judged, ROUNDS) : NULL;
    cb_adaptation *a = stream ? begin(run, p, model, rate) : NULL;
    tally t = {.round_size = stream ? cb_stream_count(stream) / ROUNDS : 1};
    cb_adapt_result result = {0};
    const cb_adapt_run_options options = {0};
    bool ok = a && cb_adapt_run(a, stream, &options, count_batch, &t, &result);
    if (ok) {
        cb_learner *learner = cb_adaptation_policy(a)->learner;
        cb_outcome_parameters(outcome, cb_learner_size(learner));
        ok = report(&t, &result, judge_clean(run, model, learner), outcome) && cb_ok();
    }
    cb_adapt_result_free(&result);
    cb_adaptation_free(a);
    cb_stream_free(stream);
    cb_model_free(model);
    cb_free(base);
    return ok;
}

static const char *const data[] = {"cifar10", NULL};

const cb_experiment experiment_cotta = {
    .name = "cotta",
    .system = 65,
    .title = "CoTTA: a network that learns from a stream which keeps changing, and is never told",
    .claim =
        "A student that learns from its own moving average, averaged over views of what the source is not sure of, and of which numbers go "
        "back to the source's at random, goes on gaining over rounds of corruptions, where falling entropy alone (TENT) loses, and forgets "
        "less.",
    .setting =
        "The zoo's ResNet of CIFAR-10 (0.7 M parameters, batch norms), trained on 6,000 clean photographs. 1,000 others under each of 8 "
        "corruptions of severity 5, in 3 rounds and an order by the seed, batches of 50, no reset. CoTTA with 8 views (the paper: 32), "
        "its threshold "
        "by its authors' rule from 1,000 source images. Rates by the error on a stream of 3 other corruptions and other images.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
