/* pego.c: PEGO (6).  Hu et al. 2024, arXiv:2407.15085.
 *
 * Four styles of pictures (PACS); each in turn is held out, and a classifier that learned from the other three is judged on it.  A fifth of these
 * three is kept from training: on it rates and the regulariser's weight are chosen.  The target is never looked at, and the last step counts.
 *
 * The group with no regulariser is a LoRA of rank members times rank with scale 1, which stands beside it all the same, as the paper's does, with the same
 * rate and other draws: how far the two are apart is chance.  PEGO takes the group's rate, and its weight is what is chosen.  The sources' validation
 * falls from the smallest weight on, so that the chosen one is nearly none; both penalties and each alone are judged with the paper's weight, too.
 *
 * How far it does what it is there for is measured on the trained updates, over all layers: |W D_i^T| / (|W| |D_i|) and |D_i D_j^T| / (|D_i| |D_j|)
 * of Frobenius's norms, as powers of ten. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/rate.h"
#include "experiments/vision.h"

enum { STYLES = 4, CLASSES = 7, MOST_JUDGED = 4 * 189, MEMBERS = 2, RANK = 4 };
static const char *const styles[STYLES] = {"photo", "art_painting", "cartoon", "sketch"};
static const char *const classes[CLASSES] = {"dog", "elephant", "giraffe", "guitar", "horse", "house", "person"};

typedef enum way { HEAD, WHOLE, LORA, GROUP } way;
typedef struct plan {
    way way;
    int rank; /* of LoRA */
    bool preserve, diversify;
    double weight; /* of the regulariser; 0: chosen, or none */
} plan;

static const plan head = {.way = HEAD, .rank = 0}, whole = {.way = WHOLE, .rank = 0};
static const plan lora = {.way = LORA, .rank = MEMBERS * RANK};
static const plan group = {.way = GROUP, .preserve = false}, pego = {.way = GROUP, .preserve = true, .diversify = true};
static const plan strong = {.way = GROUP, .preserve = true, .diversify = true, .weight = 1e-3};
static const plan preserve = {.way = GROUP, .preserve = true, .weight = 1e-3},
                  diversify = {.way = GROUP, .diversify = true, .weight = 1e-3};

static const double rates[] = {3e-3, 1e-2, 3e-2, 0}, whole_rates[] = {1e-4, 3e-4, 1e-3, 0};
static const double weights[] = {1e-6, 1e-5, 1e-4, 0};
#define PERCENT(name, ...)                                                                                                                 \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1, __VA_ARGS__                                                                                  \
    }
static const cb_measure measures[] = {PERCENT("accuracy", ),
                                      PERCENT("photo", ),
                                      PERCENT("art", ),
                                      PERCENT("cartoon", ),
                                      PERCENT("sketch", ),
                                      {"overlap with the weight", "log10", .digits = 2, .lower = true},
                                      {"overlap of members", "log10", .digits = 2, .lower = true},
                                      {0}};
#define LORA_ARM   "LoRA, rank 8"
#define STRONG_ARM "PEGO, weight 0.001"
static const cb_arm arms[] = {{"linear probe", NULL, rates, &head},
                              {"full fine-tuning", NULL, whole_rates, &whole},
                              {"group", NULL, rates, &group},
                              {LORA_ARM, "group", NULL, &lora},
                              {"PEGO", "group", weights, &pego},
                              {STRONG_ARM, "group", NULL, &strong},
                              {"preserve, weight 0.001", "group", NULL, &preserve},
                              {"diversify, weight 0.001", "group", NULL, &diversify},
                              {0}};
static const cb_comparison comparisons[] = {
    {"better than a LoRA of as many parameters", "accuracy", "PEGO", LORA_ARM, 0, "better on average over five sets"},
    {"better than full fine-tuning", "accuracy", "PEGO", "full fine-tuning", 0, "better on average over five sets"},
    {"better than a linear probe", "accuracy", "PEGO", "linear probe", 0, "better"},
    {"both penalties help", "accuracy", "PEGO", "group", 0, "each helps, both more"},
    {"preserving helps", "accuracy", "preserve, weight 0.001", "group", 0, "helps"},
    {"diversifying helps", "accuracy", "diversify, weight 0.001", "group", 0, "helps"},
    {"with the paper's weight of the penalties better than with none", "accuracy", STRONG_ARM, "group", 0, "better"},
    {"updates keep off the weight: less than half the overlap", "overlap with the weight", "PEGO", "group", 0.301, "orthogonal"},
    {"and off each other", "overlap of members", "PEGO", "group", 0.301, "orthogonal"},
    {"both, with the paper's weight of the penalties", "overlap with the weight", STRONG_ARM, "group", 0.301, "orthogonal"},
    {"both, with the paper's weight of the penalties", "overlap of members", STRONG_ARM, "group", 0.301, "orthogonal"},
    {0}};

/* ---- data ---- */

enum { TRAIN, VALIDATION, TEST, PARTS };
static const char *const part_names[PARTS] = {"train", "validation", "test"};

static int of_source(int number)
{
    return number % 5 == 4 ? VALIDATION : TRAIN;
}

static int of_target(int number)
{
    (void)number;
    return TEST;
}

static char *part_path(const cb_run *run, int target, int part)
{
    return cb_format("%s/%s-%s-images-ubyte", run->shared, styles[target], part_names[part]);
}

static bool read_classes(const char *data, int style, picture_set *parts, int (*part_of)(int number))
{
    bool ok = true;
    for (int k = 0; ok && k < CLASSES; k++) {
        char *path = cb_format("%s/pacs/%s/%s", data, styles[style], classes[k]);
        ok = path && pictures_add_directory(parts, path, k, part_of);
        cb_free(path);
    }
    return ok;
}

static bool prepare_target(const cb_run *run, int target)
{
    picture_set parts[PARTS] = {0};
    bool ok = true;
    for (int s = 0; ok && run->data && s < STYLES; s++)
        ok = read_classes(run->data, s, parts, s == target ? of_target : of_source);
    for (int i = 0; ok && i < PARTS; i++) {
        char *path = part_path(run, target, i);
        ok = path && (run->data ? pictures_write(&parts[i], path) : pictures_made_up(path, CLASSES, (uint64_t)i));
        cb_free(path);
    }
    for (int i = 0; i < PARTS; i++)
        pictures_free(&parts[i]);
    return ok;
}

static bool prepare(const cb_run *run)
{
    bool ok = vision_prepare(run);
    for (int t = 0; ok && t < STYLES; t++)
        ok = prepare_target(run, t);
    return ok;
}

/* ---- one target ---- */

typedef struct bench {
    const cb_run *run;
    const plan *plan;
    double items[MOST_JUDGED];
    size_t count; /* of them */
    int64_t parameters;
    double rate;
    double overlaps[2]; /* with the weight, of members: sums of logarithms over targets */
} bench;

static bool set_number(cb_adapter *adapter, const char *option, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.9g", value);
    return cb_adapter_set(adapter, option, text);
}

static cb_adapter *attach(const bench *b, cb_model *model)
{
    const plan *p = b->plan;
    cb_adapter *adapter = cb_adapter_new(p->way == LORA ? "lora" : "pego", "default");
    bool ok = adapter && cb_adapter_fit_labels(adapter, model);
    if (ok && p->way == LORA)
        ok = set_number(adapter, "rank", p->rank) && set_number(adapter, "alpha", p->rank);
    else if (ok)
        ok = set_number(adapter, "rank", RANK) && set_number(adapter, "members", MEMBERS) &&
             cb_adapter_set(adapter, "preserve", p->preserve ? "true" : "false") &&
             cb_adapter_set(adapter, "diversify", p->diversify ? "true" : "false") &&
             set_number(adapter, "orthogonal_weight", b->run->arm->grid && b->run->uses ? b->run->value : p->weight);
    if (ok && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), b->run->seed + 1))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

static cb_tensor *factor(const cb_adapter *adapter, const cb_layer *layer, const char *suffix)
{
    cb_tensor *found = cb_adapter_parameter_of(adapter, layer, suffix);
    return found ? cb_detach(found) : NULL;
}

static double length_of(cb_tensor *matrix)
{
    double sum = 0;
    for (int64_t i = 0; matrix && i < matrix->count; i++)
        sum += (double)((const float *)matrix->data)[i] * ((const float *)matrix->data)[i];
    return sqrt(sum);
}

/* |X Y^T| / (|X| |Y|) */
static double overlap(cb_tensor *x, cb_tensor *y)
{
    return length_of(cb_linear(x, y, NULL)) / (length_of(x) * length_of(y));
}

/* Of two members of rank RANK. */
static void measure_layer(const cb_adapter *adapter, const cb_layer *layer, double sums[2])
{
    cb_tensor *a = factor(adapter, layer, "pego_A"), *b = factor(adapter, layer, "pego_B"), *change[MEMBERS];
    cb_tensor *weight = cb_cast(cb_layer_weight(layer, "weight"), CB_F32);
    for (int i = 0; i < MEMBERS; i++) {
        cb_tensor *down = cb_slice(a, 0, i * RANK, (i + 1) * RANK, 1), *up = cb_slice(b, 1, i * RANK, (i + 1) * RANK, 1);
        change[i] = cb_contiguous(cb_matmul(up, down));
        sums[0] += overlap(weight, change[i]) / MEMBERS;
    }
    sums[1] += overlap(change[0], change[1]);
}

static bool measure(bench *b, const cb_adapter *adapter)
{
    cb_module *const *modules;
    size_t count = cb_adapter_modules(adapter, &modules);
    double sums[2] = {0};
    cb_scope *scope = cb_scope_open();
    cb_no_grad
    {
        for (size_t i = 0; scope && i < count; i++)
            measure_layer(adapter, modules[i]->layer, sums);
    }
    cb_scope_close(scope);
    for (int i = 0; i < 2; i++)
        b->overlaps[i] += log10(sums[i] / (double)count) / STYLES;
    return cb_ok();
}

/* adapter NULL: the head alone, or all of the model. */
static bool train(const bench *b, cb_model *model, cb_adapter *adapter, int target)
{
    const cb_run *run = b->run;
    char *images = part_path(run, target, TRAIN), *output = cb_path_join(run->directory, styles[target]);
    const vision_training t = {.images = images,
                               .output = output,
                               .steps = run->quick ? 2 : 60,
                               .batch_size = run->quick ? 4 : 32,
                               .learning_rate = b->rate,
                               .seed = 10 * run->seed + (uint64_t)target,
                               .flip = true,
                               .crop_min = 0.7};
    bool ok = images && output && cb_ok();
    if (ok)
        ok = adapter                ? vision_train_adapter(model, adapter, &t)
             : b->plan->way == HEAD ? vision_train_head(model, &t)
                                    : vision_train_whole(model, &t);
    cb_free(images);
    cb_free(output);
    return ok;
}

static bool judge(bench *b, cb_model *model, int target, cb_outcome *outcome)
{
    const cb_run *run = b->run;
    char *images = part_path(run, target, run->validation ? VALIDATION : TEST);
    double *items = b->items + b->count;
    size_t count = images ? vision_judge(model, images, MOST_JUDGED - b->count, items) : 0;
    cb_free(images);
    b->count += count;
    return count && cb_outcome_items(outcome, measures[1 + target].name, items, count);
}

static bool run_target(bench *b, int target, cb_outcome *outcome)
{
    const plan *p = b->plan;
    char *base = vision_base(b->run);
    cb_model *model = base ? vision_open(base, CLASSES, b->run->seed + 1, p->way == WHOLE) : NULL;
    cb_adapter *adapter = model && p->way >= LORA ? attach(b, model) : NULL;
    bool ok = cb_ok() && train(b, model, adapter, target) && judge(b, model, target, outcome) && (p->way != GROUP || measure(b, adapter));
    if (ok)
        b->parameters = adapter          ? cb_adapter_parameter_count(adapter)
                        : p->way == HEAD ? vision_head_parameters(model)
                                         : cb_model_parameter_count(model);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_free(base);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    bench *b = cb_calloc(1, sizeof *b);
    bool ok = b && rate_of(run, &b->rate);
    if (ok) {
        b->run = run;
        b->plan = run->arm->settings;
    }
    for (int t = 0; ok && t < STYLES; t++)
        ok = run_target(b, t, outcome);
    ok = ok && cb_outcome_items(outcome, "accuracy", b->items, b->count);
    if (ok && b->plan->way == GROUP)
        ok = cb_outcome_value(outcome, "overlap with the weight", b->overlaps[0]) &&
             cb_outcome_value(outcome, "overlap of members", b->overlaps[1]);
    if (ok)
        cb_outcome_parameters(outcome, b->parameters);
    cb_free(b);
    return ok;
}

static const char *const data[] = {"pacs", "cifar10", NULL};

const cb_experiment experiment_pego = {
    .name = "pego",
    .system = 6,
    .title = "PEGO: a group of updates kept orthogonal, for styles that were not seen",
    .claim = "Two or more low-rank updates of queries and values, kept orthogonal to the weight and to each other, do better on a style "
             "of pictures that was not trained on than full fine-tuning and than one update of as many parameters, and cost nothing once "
             "merged.",
    .setting =
        "The zoo's ViT of CIFAR-10 (6 blocks of width 128, 32x32 pixels); PACS, 27 pictures of each of 7 classes in 4 styles: three "
        "are learned from in 60 steps of 32, the fourth is judged, each in turn. Two updates of rank 4 for queries and values. Rates, "
        "and the weight of the regulariser, by a fifth of the pictures of the three.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
