/* hydra.c: Hydra (30).  Kim et al. 2024, arXiv:2309.06922.
 *
 * Eight small image tasks, each learned from a few pictures of a class, by heads on the output projections of attention and MLP: both heads of
 * Hydra, the parallel one alone (which is LoRA) and the sequential one alone (SeqLoRA), of exactly as many parameters: of a layer of 128 outputs the
 * parallel one has R (in + 128), the sequential one 256 Q, so that a block's two layers have 896 R + 512 Q, which is 7168 for R = 8, Q = 14, and
 * R = 4 with Q = 7.
 *
 * Rates are chosen on half of the pictures to learn from while the other half is learned from; of digits and letters, of which there are more, on a
 * fifth and on fifty more of each class.  The runs that count learn from all.
 *
 * The paper says that the sequential change lies along what the weight does already and the parallel one does not: of both, and of the weight, the first
 * SHARED right singular directions are compared, as the mean squared cosine between the two subspaces. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/vision.h"

/* ---- tasks ---- */

enum { MOST_CLASSES = 10, MOST_JUDGED = 2400, EACH_LEARNED = 20, EACH_KEPT = 50, SHARED = 4 };

typedef struct task {
    const char *name;
    const char *path; /* in the data */
    int classes;
    const char *const *names; /* of directories; NULL: a file of digits or letters */
} task;

static const char *const pacs[] = {"dog", "elephant", "giraffe", "guitar", "horse", "house", "person"};
static const char *const office[] = {"backpack",        "bike",    "calculator", "headphones", "keyboard",
                                     "laptop_computer", "monitor", "mouse",      "mug",        "projector"};
static const task tasks[] = {{"art", "pacs/art_painting", 7, pacs},
                             {"cartoon", "pacs/cartoon", 7, pacs},
                             {"sketch", "pacs/sketch", 7, pacs},
                             {"Amazon", "office-caltech10/amazon", 10, office},
                             {"Caltech", "office-caltech10/Caltech", 10, office},
                             {"MNIST", "handwriting/mnist/t10k", 10, NULL},
                             {"notMNIST", "handwriting/notmnist/t10k", 10, NULL},
                             {"semeion", "handwriting/semeion/semeion.data.gz", 10, NULL}};
enum { TASKS = sizeof tasks / sizeof *tasks };

typedef enum way { HEAD, WHOLE, HEADS } way;
typedef struct plan {
    way way;
    const char *parallel, *sequential; /* ranks */
} plan;
static const plan head = {.way = HEAD, .parallel = NULL}, whole = {.way = WHOLE, .parallel = NULL};
static const plan lora = {HEADS, "8", "0"}, seqlora = {HEADS, "0", "14"}, hydra = {HEADS, "4", "7"};

static const double rates[] = {3e-3, 1e-2, 3e-2, 1e-1, 0}, head_rates[] = {1e-2, 3e-2, 1e-1, 3e-1, 0},
                    whole_rates[] = {3e-4, 1e-3, 3e-3, 0};
#define PERCENT(name)                                                                                                                      \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1                                                                                               \
    }
static const cb_measure measures[] = {PERCENT("accuracy"),
                                      PERCENT("art"),
                                      PERCENT("cartoon"),
                                      PERCENT("sketch"),
                                      PERCENT("Amazon"),
                                      PERCENT("Caltech"),
                                      PERCENT("MNIST"),
                                      PERCENT("notMNIST"),
                                      PERCENT("semeion"),
                                      {"parallel along the weight", "", .digits = 3},
                                      {"sequential along the weight", "", .digits = 3},
                                      {"layers where the sequential is", "%", .scale = 100, .digits = 1},
                                      {0}};
static const cb_arm arms[] = {{"linear probe", NULL, head_rates, &head},
                              {"full fine-tuning", NULL, whole_rates, &whole},
                              {"LoRA", NULL, rates, &lora},
                              {"SeqLoRA", NULL, rates, &seqlora},
                              {"Hydra", NULL, rates, &hydra},
                              {0}};
static const cb_comparison comparisons[] = {
    {"better than the parallel head alone", "accuracy", "Hydra", "LoRA", 0, "76.5 against 74.5 (VTAB-1k), 87.9 against 87.2 (GLUE)"},
    {"better than the sequential head alone", "accuracy", "Hydra", "SeqLoRA", 0, "76.5 against 76.1 of RepAdapter (VTAB-1k)"},
    {"better than full fine-tuning", "accuracy", "Hydra", "full fine-tuning", 0, "76.5 against 68.9 (VTAB-1k)"},
    {"better than a linear probe", "accuracy", "Hydra", "linear probe", 0, "70.95 against 66.32 (ELEVATER)"},
    {0}};

/* ---- data ---- */

/* What is learned from is FIT and HELD; rates are judged on HELD and MORE, while FIT alone is learned from.  The last two are made of these. */
enum { FIT, HELD, TEST, MORE, WHOLE_TRAIN, JUDGED, PARTS };
static const char *const part_names[PARTS] = {"fit", "held", "test", "more", "train", "judged"};

static char *part_path(const cb_run *run, const task *t, int part)
{
    return cb_format("%s/%s-%s-images-ubyte", run->shared, t->name, part_names[part]);
}

static int of_directory(int number)
{
    return number % 2 ? TEST : number % 4 ? HELD : FIT;
}

static int of_file(int number)
{
    static const int next[] = {TEST, MORE, -1};
    int past = (number - EACH_LEARNED) / EACH_KEPT;
    return number < EACH_LEARNED ? (number % 5 == 4 ? HELD : FIT) : next[past < 2 ? past : 2];
}

static bool read_directories(const char *path, const task *t, picture_set *parts)
{
    bool ok = true;
    for (int k = 0; ok && k < t->classes; k++) {
        char *directory = cb_path_join(path, t->names[k]);
        ok = directory && pictures_add_directory(parts, directory, k, of_directory);
        cb_free(directory);
    }
    return ok;
}

/* The first pictures of each class, grey ones of side x side. */
static bool add_grey(const uint8_t *pixels, int side, int label, int counts[MOST_CLASSES], picture_set *parts)
{
    int part = of_file(counts[label]++);
    const cb_image image = {.width = side, .height = side, .channels = 1, .bits = 8, .pixels = (uint8_t *)(uintptr_t)pixels};
    return part < 0 || pictures_add(&parts[part], &image, label);
}

static bool read_idx(const char *path, picture_set *parts)
{
    enum { SIDE = 28, IMAGES_HEAD = 16, LABELS_HEAD = 8 };
    int counts[MOST_CLASSES] = {0};
    size_t pixels = 0, count = 0;
    char *images_path = cb_format("%s-images-idx3-ubyte.gz", path), *labels_path = cb_format("%s-labels-idx1-ubyte.gz", path);
    char *images = images_path ? cb_archive_read(images_path, NULL, 0, &pixels) : NULL;
    char *labels = images ? cb_archive_read(labels_path, NULL, 0, &count) : NULL;
    bool ok = labels && count > LABELS_HEAD && pixels == IMAGES_HEAD + (count - LABELS_HEAD) * SIDE * SIDE;
    if (labels && !ok)
        cb_fail(CB_ERR_FORMAT, "%s: expected images of %d x %d, a label for each", images_path, SIDE, SIDE);
    for (size_t i = 0; ok && i + LABELS_HEAD < count; i++)
        ok = (uint8_t)labels[LABELS_HEAD + i] >= MOST_CLASSES ||
             add_grey((const uint8_t *)images + IMAGES_HEAD + i * SIDE * SIDE, SIDE, labels[LABELS_HEAD + i], counts, parts);
    cb_free(images);
    cb_free(labels);
    cb_free(images_path);
    cb_free(labels_path);
    return ok;
}

/* 256 numbers, 0 or 1, ten of which the label's is 1, and a mark of the end, which is not looked at. */
static bool read_semeion(const char *path, picture_set *parts)
{
    enum { SIDE = 16 };
    int counts[MOST_CLASSES] = {0};
    size_t length = 0;
    char *text = cb_archive_read(path, NULL, 0, &length);
    bool ok = text;
    for (char *at = text, *end; ok && at + strspn(at, " \r\n") < text + length; at = end) {
        uint8_t pixels[SIDE * SIDE];
        int label = 0;
        end = at;
        for (int i = 0; i < SIDE * SIDE; i++)
            pixels[i] = strtod(end, &end) > 0.5 ? 255 : 0;
        for (int k = 0; k < MOST_CLASSES; k++)
            label = strtod(end, &end) > 0.5 ? k : label;
        strtod(end, &end);
        ok = end > at ? add_grey(pixels, SIDE, label, counts, parts) : cb_fail(CB_ERR_FORMAT, "%s: expected numbers", path) == CB_OK;
        end += strspn(end, " \r\n");
    }
    cb_free(text);
    return ok;
}

static bool read_task(const char *data, const task *t, picture_set *parts)
{
    char *path = cb_path_join(data, t->path);
    bool ok = path && (t->names                    ? read_directories(path, t, parts)
                       : cb_ends_with(path, ".gz") ? read_semeion(path, parts)
                                                   : read_idx(path, parts));
    cb_free(path);
    return ok && pictures_append(&parts[WHOLE_TRAIN], &parts[FIT]) && pictures_append(&parts[WHOLE_TRAIN], &parts[HELD]) &&
           pictures_append(&parts[JUDGED], &parts[HELD]) && pictures_append(&parts[JUDGED], &parts[MORE]);
}

static bool prepare_task(const cb_run *run, const task *t)
{
    picture_set parts[PARTS] = {0};
    bool ok = !run->data || read_task(run->data, t, parts);
    static const int written[] = {FIT, TEST, WHOLE_TRAIN, JUDGED};
    for (size_t i = 0; ok && i < sizeof written / sizeof *written; i++) {
        char *path = part_path(run, t, written[i]);
        ok = path && (run->data ? pictures_write(&parts[written[i]], path) : pictures_made_up(path, t->classes, (uint64_t)i));
        cb_free(path);
    }
    for (int i = 0; i < PARTS; i++)
        pictures_free(&parts[i]);
    return ok;
}

static bool prepare(const cb_run *run)
{
    bool ok = vision_prepare(run);
    for (int i = 0; ok && i < TASKS; i++)
        ok = prepare_task(run, &tasks[i]);
    return ok;
}

/* ---- one task ---- */

typedef struct bench {
    const cb_run *run;
    const plan *plan;
    double items[MOST_JUDGED];
    size_t counts[TASKS];
    int64_t parameters;      /* of all tasks */
    double along[2], closer; /* of the parallel and the sequential change; sums over tasks and layers, of so many */
    int64_t layers;
} bench;

static cb_adapter *attach(const bench *b, cb_model *model)
{
    cb_adapter *adapter = cb_adapter_new("hydra", "default");
    if (adapter && cb_adapter_set(adapter, "rank", b->plan->parallel) && cb_adapter_set(adapter, "sequential_rank", b->plan->sequential) &&
        cb_adapter_set(adapter, "init_weights", "xavier") && cb_adapter_fit_labels(adapter, model) &&
        cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), b->run->seed + 1))
        return adapter;
    cb_adapter_free(adapter);
    return NULL;
}

static cb_tensor *factor(const cb_adapter *adapter, const cb_layer *layer, const char *suffix)
{
    cb_tensor *found = cb_adapter_parameter_of(adapter, layer, suffix);
    return found ? cb_detach(found) : NULL;
}

/* The first SHARED right singular directions, as rows; of a change (out, R) (R, in) too. */
static cb_tensor *directions(cb_tensor *matrix)
{
    cb_tensor *u, *s, *vt;
    return cb_svd(matrix, &u, &s, &vt) ? cb_slice(vt, 0, 0, SHARED, 1) : NULL;
}

/* The mean squared cosine between two subspaces with orthonormal rows. */
static double alike(cb_tensor *a, cb_tensor *b)
{
    cb_tensor *products = a && b ? cb_linear(a, b, NULL) : NULL;
    double sum = 0;
    for (int64_t i = 0; products && i < products->count; i++)
        sum += (double)((const float *)products->data)[i] * ((const float *)products->data)[i];
    return sum / SHARED;
}

static void compare_layer(bench *b, const cb_adapter *adapter, const cb_layer *layer)
{
    cb_tensor *weight = cb_cast(cb_layer_weight(layer, "weight"), CB_F32), *own = directions(weight);
    cb_tensor *parallel = cb_matmul(factor(adapter, layer, "hydra_parallel_B"), factor(adapter, layer, "hydra_parallel_A"));
    cb_tensor *sequential =
        cb_matmul(factor(adapter, layer, "hydra_sequential_B"), cb_matmul(factor(adapter, layer, "hydra_sequential_A"), weight));
    double p = alike(own, directions(parallel)), s = alike(own, directions(sequential));
    b->along[0] += p;
    b->along[1] += s;
    b->closer += s > p;
    b->layers++;
}

static bool compare_subspaces(bench *b, const cb_adapter *adapter)
{
    cb_module *const *modules;
    size_t count = cb_adapter_modules(adapter, &modules);
    for (size_t i = 0; i < count && cb_ok(); i++) {
        cb_scope *scope = cb_scope_open();
        cb_no_grad compare_layer(b, adapter, modules[i]->layer);
        cb_scope_close(scope);
    }
    return cb_ok();
}

/* adapter NULL: the head alone, or all of the model. */
static bool train(const bench *b, cb_model *model, cb_adapter *adapter, const task *t)
{
    const cb_run *run = b->run;
    char *images = part_path(run, t, run->validation ? FIT : WHOLE_TRAIN), *output = cb_path_join(run->directory, t->name);
    const vision_training training = {.images = images,
                                      .output = output,
                                      .steps = run->quick ? 2 : 50,
                                      .batch_size = run->quick ? 4 : 32,
                                      .learning_rate = run->value,
                                      .weight_decay = 1e-4,
                                      .seed = run->seed + 1,
                                      .flip = t->names != NULL,
                                      .crop_min = t->names ? 0.7 : 0};
    bool ok = images && output;
    if (ok)
        ok = adapter                ? vision_train_adapter(model, adapter, &training)
             : b->plan->way == HEAD ? vision_train_head(model, &training)
                                    : vision_train_whole(model, &training);
    cb_free(images);
    cb_free(output);
    return ok;
}

static size_t judged_before(const bench *b, int index)
{
    size_t count = 0;
    for (int i = 0; i < index; i++)
        count += b->counts[i];
    return count;
}

static bool judge(bench *b, cb_model *model, int index, cb_outcome *outcome)
{
    const cb_run *run = b->run;
    size_t before = judged_before(b, index);
    char *images = part_path(run, &tasks[index], run->validation ? JUDGED : TEST);
    b->counts[index] = images ? vision_judge(model, images, MOST_JUDGED - before, b->items + before) : 0;
    cb_free(images);
    return b->counts[index] && cb_outcome_items(outcome, measures[1 + index].name, b->items + before, b->counts[index]);
}

static bool run_task(bench *b, int index, cb_outcome *outcome)
{
    const plan *p = b->plan;
    char *base = vision_base(b->run);
    cb_model *model = base ? vision_open(base, tasks[index].classes, b->run->seed + 1, p->way == WHOLE) : NULL;
    cb_adapter *adapter = model && p->way == HEADS ? attach(b, model) : NULL;
    bool ok = cb_ok() && train(b, model, adapter, &tasks[index]) && judge(b, model, index, outcome) &&
              (p != &hydra || compare_subspaces(b, adapter));
    if (ok)
        b->parameters += adapter          ? cb_adapter_parameter_count(adapter)
                         : p->way == HEAD ? vision_head_parameters(model)
                                          : cb_model_parameter_count(model);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_free(base);
    return ok;
}

/* Every task counts the same, however many pictures it has. */
static bool give(bench *b, cb_outcome *outcome)
{
    size_t all = judged_before(b, TASKS), at = 0;
    for (int i = 0; i < TASKS; i++)
        for (size_t k = 0; k < b->counts[i]; k++)
            b->items[at++] *= (double)all / (TASKS * (double)b->counts[i]);
    bool ok = cb_outcome_items(outcome, "accuracy", b->items, all);
    if (ok && b->layers)
        ok = cb_outcome_value(outcome, "parallel along the weight", b->along[0] / (double)b->layers) &&
             cb_outcome_value(outcome, "sequential along the weight", b->along[1] / (double)b->layers) &&
             cb_outcome_value(outcome, "layers where the sequential is", b->closer / (double)b->layers);
    cb_outcome_parameters(outcome, b->parameters / TASKS);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    bench *b = cb_calloc(1, sizeof *b);
    bool ok = b;
    if (ok) {
        b->run = run;
        b->plan = run->arm->settings;
    }
    for (int i = 0; ok && i < TASKS; i++)
        ok = run_task(b, i, outcome);
    ok = ok && give(b, outcome);
    cb_free(b);
    return ok;
}

static const char *const data[] = {"pacs", "office-caltech10", "handwriting", "cifar10", NULL};

const cb_experiment experiment_hydra = {
    .name = "hydra",
    .system = 30,
    .title = "Hydra: a parallel and a sequential low-rank head",
    .claim = "A layer with a low-rank head of its input and one of its result is adapted better than with either of as many parameters, "
             "because the sequential head goes along what the layer has learned and the parallel one does not.",
    .setting =
        "The zoo's ViT of CIFAR-10 (6 blocks of width 128, 32x32 pixels); eight tasks: three styles of PACS, Office-Caltech's Amazon and "
        "Caltech, MNIST, notMNIST and semeion, 9 to 20 pictures of a class to learn from, 50 steps of 32; heads on the outputs of "
        "attention and MLP, all of 7168 numbers a block.",
    .data = data,
    .seeds = 5,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
