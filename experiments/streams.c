/* streams.c: methods that learn while they are used, each on every kind of stream, with and without the guard.  Of no published system: it is the
 * table by which `cambium adapt` is judged.
 *
 * Photographs of CIFAR-10 come as they are and under four corruptions of severity 5, as `cambium adapt --corruptions` makes them: one corruption after
 * another (twice over), gradually, mixed, with labels in runs, or as single images.  The network has learned from clean photographs.
 * Rates are chosen by the rule of all experiments, the least error with seed 0, without a guard, on the first kind of stream, of other photographs under
 * corruptions that are not judged; with the guard the rate is the same.  Orders are by the seed, one for all methods.
 *
 * "worst loss": the largest difference of errors to doing nothing, on any of the streams. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "experiments/cifar.h"

enum { EACH = 20, SOURCE = 100 /* of each class */, BATCH = 50, MOST = 1 << 14 /* images of a stream */ };
static const char *const judged[] = {"gaussian_noise", "defocus_blur", "fog", "jpeg_compression", "none", NULL},
                         *const others[] = {"speckle_noise", "gaussian_blur", "saturate", "impulse_noise", "none", NULL};

typedef struct kind {
    const char *name;
    cb_stream_order order;
    int64_t batch, rounds;
} kind;

#define CONTINUAL "continual"
static const kind kinds[] = {{CONTINUAL, CB_ORDER_CONTINUAL, BATCH, 2},
                             {"gradual", CB_ORDER_GRADUAL, BATCH, 1},
                             {"mixed", CB_ORDER_MIXED, BATCH, 1},
                             {"correlated", CB_ORDER_CORRELATED, BATCH, 1},
                             {"single images", CB_ORDER_CONTINUAL, 1, 1}};
enum { KINDS = sizeof kinds / sizeof *kinds };

typedef struct plan {
    const char *method;
    const char *options[3]; /* of the method */
    bool guard;
} plan;

#define TEN_LABELS "similarity_margin=0.4"
static const plan source = {.method = "source"};
static const plan bn[] = {{.method = "bn"}, {.method = "bn", .guard = true}};
static const plan tent[] = {{.method = "tent"}, {.method = "tent", .guard = true}};
static const plan eata[] = {{.method = "eata", .options = {TEN_LABELS, "fisher_alpha=1"}},
                            {.method = "eata", .options = {TEN_LABELS, "fisher_alpha=1"}, .guard = true}};
static const plan sar[] = {{.method = "sar"}, {.method = "sar", .guard = true}};
static const plan cotta[] = {{.method = "cotta", .options = {"views=2"}}, {.method = "cotta", .options = {"views=2"}, .guard = true}};
static const plan rotta[] = {{.method = "rotta"}, {.method = "rotta", .guard = true}};
static const plan roid[] = {{.method = "roid"}, {.method = "roid", .guard = true}};
static const plan rdumb[] = {{.method = "rdumb", .options = {TEN_LABELS}}, {.method = "rdumb", .options = {TEN_LABELS}, .guard = true}};
static const plan lame[] = {{.method = "lame"}, {.method = "lame", .guard = true}};
static const plan memo[] = {{.method = "memo", .options = {"views=2"}}, {.method = "memo", .options = {"views=2"}, .guard = true}};

static const double by_adam[] = {3e-4, 1e-3, 3e-3, 0}, by_sgd[] = {1e-3, 5e-3, 2.5e-2, 0}, of_all[] = {1e-4, 3e-4, 1e-3, 0};
#define ERROR(name)                                                                                                                        \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1, .lower = true                                                                                \
    }
#define WORST "worst loss"
static const cb_measure measures[] = {ERROR(CONTINUAL),
                                      ERROR("gradual"),
                                      ERROR("mixed"),
                                      ERROR("correlated"),
                                      ERROR("single images"),
                                      ERROR(WORST),
                                      {"by the source", "%", .scale = 100, .digits = 0, .aside = true},
                                      {0}};
#define NOTHING "nothing"
#define BOTH(name, grid, plans)                                                                                                            \
    {name, NOTHING, grid, &(plans)[0]},                                                                                                    \
    {                                                                                                                                      \
        name ", guarded", name, NULL, &(plans)[1]                                                                                          \
    }
static const cb_arm arms[] = {{NOTHING, NULL, NULL, &source}, BOTH("bn", NULL, bn),        BOTH("tent", by_adam, tent),
                              BOTH("eata", by_sgd, eata),     BOTH("sar", by_sgd, sar),    BOTH("cotta", of_all, cotta),
                              BOTH("rotta", by_adam, rotta),  BOTH("roid", by_adam, roid), BOTH("rdumb", by_sgd, rdumb),
                              BOTH("lame", NULL, lame),       BOTH("memo", of_all, memo),  {0}};
#define PROMISE(name, stream)                                                                                                              \
    {                                                                                                                                      \
        name ", guarded: no more than a point worse than nothing", stream, name ", guarded", NOTHING, -1, NULL                             \
    }
#define PROMISES(name)                                                                                                                     \
    PROMISE(name, CONTINUAL), PROMISE(name, "gradual"), PROMISE(name, "mixed"), PROMISE(name, "correlated"), PROMISE(name, "single images")
static const cb_comparison comparisons[] = {PROMISES("bn"),
                                            PROMISES("tent"),
                                            PROMISES("eata"),
                                            PROMISES("sar"),
                                            PROMISES("cotta"),
                                            PROMISES("rotta"),
                                            PROMISES("roid"),
                                            PROMISES("rdumb"),
                                            PROMISES("lame"),
                                            PROMISES("memo"),
                                            {0}};

/* ---- data ---- */

static char *images_path(const cb_run *run, const char *part)
{
    return cb_format("%s/%s-images-ubyte", run->shared, part);
}

/* Which part an image goes into: number `number` of its class.  The first 240 are for other experiments and for work on the guard. */
enum { JUDGED, VALIDATION, PARTS, FIRST = 240 };
static const char *const part_names[PARTS] = {"judged", "others"};
static int part_of_test(int number)
{
    return number < FIRST ? CIFAR_LEFT_OUT : number < FIRST + EACH ? JUDGED : number < FIRST + 2 * EACH ? VALIDATION : CIFAR_LEFT_OUT;
}

static int part_of_train(int number)
{
    return number < SOURCE ? 0 : CIFAR_LEFT_OUT;
}

static bool write_set(const cb_run *run, const char *name, const picture_set *set)
{
    char *path = images_path(run, name);
    bool ok = path && (run->data ? pictures_write(set, path) : pictures_made_up(path, CIFAR_CLASSES, 1));
    cb_free(path);
    return ok;
}

static bool read_archive(const cb_run *run, const char *name, int (*part_of)(int number), picture_set *parts)
{
    char *path = run->data ? cb_format("%s/cifar10/%s", run->data, name) : NULL;
    bool ok = !run->data || (path && cifar_read(path, part_of, parts));
    cb_free(path);
    return ok;
}

static bool prepare(const cb_run *run)
{
    picture_set parts[PARTS] = {0}, train = {0};
    char *base = cifar_resnet(run);
    bool ok = base && (!run->quick || cifar_resnet_tiny(base)) && read_archive(run, "test-300.zip", part_of_test, parts) &&
              read_archive(run, "train-600.zip", part_of_train, &train) && write_set(run, "source", &train);
    for (int i = 0; i < PARTS; i++) {
        ok = ok && write_set(run, part_names[i], &parts[i]);
        pictures_free(&parts[i]);
    }
    pictures_free(&train);
    cb_free(base);
    return ok;
}

/* ---- what runs leave for those that go on from them ---- */

typedef struct left {
    double rate, nothing[KINDS]; /* errors of doing nothing */
} left;

static bool leave(const cb_run *run, const left *l)
{
    cb_string text = {0};
    cb_string_printf(&text, "%.17g", l->rate);
    for (int i = 0; i < KINDS; i++)
        cb_string_printf(&text, " %.17g", l->nothing[i]);
    char *path = cb_ok() ? cb_path_join(run->directory, "left") : NULL;
    bool ok = path && cb_file_write(path, text.data, text.length);
    cb_free(path);
    cb_string_free(&text);
    return ok;
}

static bool find(const cb_run *run, left *l)
{
    size_t length;
    char *path = cb_path_join(run->uses, "left"), *text = path ? cb_file_read(path, 1024, &length) : NULL, *at = text;
    if (text) {
        l->rate = strtod(at, &at);
        for (int i = 0; i < KINDS; i++)
            l->nothing[i] = strtod(at, &at);
    }
    cb_free(path);
    cb_free(text);
    return text;
}

/* ---- a stream ---- */

static cb_stream *open_stream(const cb_run *run, const cb_model *model, const char *part, const kind *k)
{
    const char *const *corruptions = run->validation ? others : judged;
    cb_image_data_options images = {0};
    cb_stream_options order = {0};
    cb_image_processor how;
    char *path = images_path(run, part);
    bool ok = path && cb_image_processor_load(cb_model_directory(model), &how) && cb_options_init(cb_image_data_option_table, &images) &&
              cb_options_init(cb_stream_option_table, &order) && cb_string_list_add(&images.data, path);
    for (int i = 0; ok && k && corruptions[i] && !(run->quick && i == 1); i++)
        ok = cb_string_list_add(&order.corruptions, corruptions[i]);
    images.processor = &how;
    images.labels = cb_model_label_names(model);
    images.seed = run->seed;
    images.loader_threads = 0;
    order.severity = 5;
    order.order = k ? (int)k->order : CB_ORDER_CONTINUAL;
    order.rounds = k && !run->quick ? k->rounds : 1;
    order.shuffle_shifts = true;
    order.batch_size = k ? k->batch : BATCH;
    cb_stream *stream = ok ? cb_stream_open_images(&images, &order) : NULL;
    cb_options_free(cb_image_data_option_table, &images);
    cb_options_free(cb_stream_option_table, &order);
    cb_string_list_free(&images.data);
    cb_free(path);
    return stream;
}

/* Whether each image was answered wrongly: by round, corruption and number, in the same places whatever the order. */
typedef struct tally {
    const cb_run *run;
    double wrong[MOST];
    bool seen[MOST];
    int64_t items, round_items, shift_items;
} tally;

static int64_t place_of(const tally *t, const cb_stream_item *item)
{
    const char *const *corruptions = t->run->validation ? others : judged, *number = strrchr(item->source, ' ');
    int64_t shift = 0;
    while (corruptions[shift] && strcmp(corruptions[shift], item->shift) != 0)
        shift++;
    return item->index / t->round_items * t->round_items + shift * t->shift_items + (number ? strtoll(number, NULL, 10) : 0);
}

static bool count_batch(void *user, const cb_stream_batch *batch, const cb_adapt_outcome *outcome, const cb_adapt_result *so_far)
{
    tally *t = user;
    (void)so_far;
    for (int64_t i = 0; i < batch->count; i++) {
        const cb_stream_item *item = &batch->items[i];
        if (item->error)
            return cb_fail(CB_ERR_FORMAT, "%s", item->error) == CB_OK;
        int64_t place = place_of(t, item);
        if (place < 0 || place >= t->items || t->seen[place])
            return cb_fail(CB_ERR_STATE, "%s under %s: comes twice, or is none of %lld", item->source, item->shift, (long long)t->items) ==
                   CB_OK;
        t->seen[place] = true;
        t->wrong[place] = cifar_answer(outcome, item) != item->label;
    }
    return true;
}

static bool begin_tally(tally *t, const cb_run *run, const kind *k, const cb_stream *stream)
{
    const char *const *corruptions = run->validation ? others : judged;
    int64_t shifts = 0;
    while (corruptions[shifts])
        shifts++;
    t->run = run;
    t->items = cb_stream_count(stream);
    t->round_items = run->quick ? t->items : t->items / k->rounds;
    t->shift_items = run->quick ? t->items : t->round_items / shifts;
    return t->items <= MOST || cb_fail(CB_ERR_STATE, "streams: a stream of %lld images", (long long)t->items) == CB_OK;
}

static cb_adaptation *begin(const cb_run *run, const plan *p, cb_model *model, double rate)
{
    cb_adapt_options options = {0};
    cb_string_list config = {0};
    cb_image_processor how;
    bool ok = cb_image_processor_load(cb_model_directory(model), &how) && cb_options_init(cb_adapt_option_table, &options);
    options.processor = &how;
    options.learning_rate = rate;
    options.guard = p->guard;
    options.seed = run->seed;
    for (int i = 0; ok && i < 3 && p->options[i]; i++)
        ok = cb_string_list_add(&config, p->options[i]);
    cb_adaptation *a = ok ? cb_adaptation_open(model, NULL, p->method, &config, &options) : NULL;
    bool studies = a && cb_adaptation_policy(a)->kind->study && strcmp(p->method, "rdumb") != 0;
    cb_stream *known = studies ? open_stream(run, model, "source", NULL) : NULL;
    if (studies && !(known && cb_adaptation_study(a, known))) {
        cb_adaptation_free(a);
        a = NULL;
    }
    cb_stream_free(known);
    cb_options_free(cb_adapt_option_table, &options);
    cb_string_list_free(&config);
    return a;
}

/* ---- what is told of it ---- */

/* A description without paths, which are this machine's. */
static json_t *parse_description(char *text)
{
    json_t *o = text ? cb_json_parse("description", text, strlen(text)) : NULL;
    json_object_del(o, "data");
    json_object_del(json_object_get(o, "source_images"), "data");
    cb_free(text);
    return o;
}

/* What is the same for all streams of a run (images made ready, method, rule of resets) once, what is not for each. */
static bool describe(json_t *note, const kind *k, const cb_stream *stream, const cb_adaptation *a)
{
    json_t *o = parse_description(cb_stream_describe(stream)), *ready = json_incref(json_object_get(o, "preprocessing"));
    json_object_del(o, "preprocessing");
    return cb_json_put(note, "preprocessing", ready) && cb_json_put(note, "adaptation", parse_description(cb_adaptation_describe(a))) &&
           cb_json_put(note, k->name, o);
}

/* ---- a run ---- */

typedef struct found {
    left left;
    double error[KINDS], batches, by_source;
    json_t *note;
    int64_t parameters;
} found;

static bool judge(const cb_run *run, const char *base, int which, found *f, cb_outcome *outcome)
{
    const kind *k = &kinds[which];
    const cb_adapt_run_options options = {0};
    tally *t = cb_calloc(1, sizeof *t);
    cb_model *model = t ? cb_model_load(base) : NULL;
    cb_stream *stream = model ? open_stream(run, model, part_names[run->validation ? VALIDATION : JUDGED], k) : NULL;
    cb_adaptation *a = stream && begin_tally(t, run, k, stream) ? begin(run, run->arm->settings, model, f->left.rate) : NULL;
    cb_adapt_result result = {0};
    bool ok = a && cb_adapt_run(a, stream, &options, count_batch, t, &result) && describe(f->note, k, stream, a);
    if (ok) {
        f->error[which] = 1 - (double)result.right / (double)result.labelled;
        f->batches += (double)result.batches;
        f->by_source += (double)(result.batches - result.alarms[CB_ALARM_NONE]);
        f->parameters = cb_learner_size(cb_adaptation_policy(a)->learner);
        ok = cb_outcome_items(outcome, k->name, t->wrong, (size_t)t->items);
    }
    cb_adapt_result_free(&result);
    cb_adaptation_free(a);
    cb_stream_free(stream);
    cb_model_free(model);
    cb_free(t);
    return ok;
}

static bool report(const cb_run *run, found *f, cb_outcome *outcome)
{
    double worst = -1;
    for (int i = 0; i < KINDS; i++) {
        if (!run->uses)
            f->left.nothing[i] = f->error[i];
        worst = fmax(worst, f->error[i] - f->left.nothing[i]);
    }
    char *note = cb_json_dump(f->note, false);
    bool ok = note && cb_outcome_note(outcome, note) && cb_outcome_value(outcome, WORST, worst) &&
              cb_outcome_value(outcome, "by the source", f->by_source / f->batches) && leave(run, &f->left);
    cb_outcome_parameters(outcome, f->parameters);
    cb_free(note);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    found f = {.note = json_object()};
    char *base = cifar_resnet(run);
    bool ok = base && f.note && (!run->uses || find(run, &f.left));
    if (run->arm->grid)
        f.left.rate = run->value;
    for (int i = 0; ok && i < (run->validation ? 1 : KINDS); i++)
        ok = judge(run, base, i, &f, outcome);
    ok = ok && (run->validation || report(run, &f, outcome));
    json_decref(f.note);
    cb_free(base);
    return ok;
}

static const char *const data[] = {"cifar10", NULL};

const cb_experiment experiment_streams = {
    .name = "streams",
    .title = "Every method of adaptation on every kind of stream, with and without the guard",
    .claim = "With the guard no method of adaptation is more than one point worse than doing nothing, on any kind of stream.",
    .setting =
        "The zoo's ResNet of CIFAR-10 (0.7 M parameters, batch norms), trained on 6,000 clean photographs. 200 others as they are and "
        "under 4 "
        "corruptions of severity 5: 1,000 images in batches of 50 (continual: each comes twice), or single ones; no reset but rdumb's. "
        "CoTTA and MEMO with 2 views. Rates by the error without the guard on a continual stream of 200 more photographs under 4 other "
        "corruptions. Errors in percent; worst loss: the largest difference to doing nothing on any of the streams. The result's notes "
        "have "
        "preprocessing, subset, order, seed and rule of resets of each run.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
