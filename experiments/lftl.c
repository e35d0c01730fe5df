/* lftl.c: LFTL (54).  Lyu et al. 2024, arXiv:2407.18899.
 *
 * A small network that has learned USPS is adapted to MNIST, of which it may ask for ten labels in each of five rounds.  An arm is a query, which says whose
 * labels, and what is learned from them and from the rest of the pool.  All arms of a seed begin with the network that the first arm has
 * trained, and see the pool in the same order. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/digits.h"
#include "experiments/judge.h"

enum { ROUNDS = 5, EACH = 10, POOL = 2000, MOST_JUDGED = 2000, SOURCE_STEPS = 300 };

typedef struct plan {
    const char *query, *method, *mixup; /* query NULL: the source alone; mixup NULL: as the method has it */
} plan;

#define PLANS(query)                                                                                                                       \
    {query, "supervised", NULL}, {query, "information", NULL},                                                                             \
    {                                                                                                                                      \
        query, "lftl", NULL                                                                                                                \
    }
static const plan plans[] = {{NULL, NULL, NULL}, PLANS("random"), PLANS("entropy"), PLANS("margin"),
                             PLANS("coreset"),   PLANS("badge"),  PLANS("cas"),     {"cas", "information", "1"}};

#define SOURCE "source alone"
#define ARMS(name, first)                                                                                                                  \
    {name ", labels", SOURCE, NULL, &plans[first]}, {name ", + information", SOURCE, NULL, &plans[(first) + 1]},                           \
    {                                                                                                                                      \
        name ", LFTL's training", SOURCE, NULL, &plans[(first) + 2]                                                                        \
    }
static const cb_arm arms[] = {{SOURCE, NULL, NULL, &plans[0]},
                              ARMS("random", 1),
                              ARMS("entropy", 4),
                              ARMS("margin", 7),
                              ARMS("CoreSet", 10),
                              ARMS("BADGE", 13),
                              ARMS("CAS", 16),
                              {"CAS, + information and mixup", SOURCE, NULL, &plans[19]},
                              {0}};
static const cb_measure measures[] = {{"area", "%", .scale = 100, .digits = 2},
                                      {"final accuracy", "%", .scale = 100, .digits = 2},
                                      {"rank correlation", "", .digits = 2, .aside = true},
                                      {"after 10", "%", .scale = 100, .digits = 1, .aside = true, .curve = "accuracy by labels", .x = 10},
                                      {"after 20", "%", .scale = 100, .digits = 1, .aside = true, .curve = "accuracy by labels", .x = 20},
                                      {"after 30", "%", .scale = 100, .digits = 1, .aside = true, .curve = "accuracy by labels", .x = 30},
                                      {"after 40", "%", .scale = 100, .digits = 1, .aside = true, .curve = "accuracy by labels", .x = 40},
                                      {"after 50", "%", .scale = 100, .digits = 1, .aside = true, .curve = "accuracy by labels", .x = 50},
                                      {0}};
#define FULL   "CAS, LFTL's training"
#define BETTER "better"
static const cb_comparison comparisons[] = {
    {"CAS is better than margins with the same training", "area", FULL, "margin, LFTL's training", 0, BETTER},
    {"than any rows", "area", FULL, "random, LFTL's training", 0, BETTER},
    {"than entropy", "area", FULL, "entropy, LFTL's training", 0, BETTER},
    {"than CoreSet", "area", FULL, "CoreSet, LFTL's training", 0, BETTER},
    {"than BADGE", "area", FULL, "BADGE, LFTL's training", 0, BETTER},
    {"than margins where labels alone are learned", "area", "CAS, labels", "margin, labels", 0, BETTER},
    {"its training is better than labels and information", "area", FULL, "CAS, + information", 0, BETTER},
    {"also with mixup beside these", "area", FULL, "CAS, + information and mixup", 0, "persistence alone"},
    {"information is better than labels alone", "area", "CAS, + information", "CAS, labels", 0, BETTER},
    {"the whole is better than random labels alone", "area", FULL, "random, labels", 0, BETTER},
    {"at the end CAS is better than margins", "final accuracy", FULL, "margin, LFTL's training", 0, BETTER},
    {"at the end its training is better than labels and information", "final accuracy", FULL, "CAS, + information", 0, BETTER},
    {0}};

static bool prepare(const cb_run *run)
{
    return digits_prepare(run, DIGITS_MNIST_M, 1, run->quick ? 60 : 3000, run->quick ? 20 : MOST_JUDGED);
}

/* ---- training ---- */

/* As in the paper: SGD anew in each round, Nesterov's momentum, a rate of a tenth below the head.  The rate is the best of 0.01, 0.03, 0.1, 0.3 and 1 by the
 * area of random queries and labels alone on another pair, optdigits to semeion (docs/methods/lftl.md). */
static bool options_of(const cb_run *run, const char *output, cb_train_options *t)
{
    static const char *const settings[][2] = {
        {"optimizer", "sgd"},     {"momentum", "0.9"},      {"nesterov", "true"}, {"lr_scheduler_type", "inverse"},
        {"weight_decay", "1e-3"}, {"learning_rate", "0.3"}, {"epochs", "2"},      {"logging_steps", "1000000"}};
    bool ok = cb_options_init(cb_train_option_table, t);
    for (size_t i = 0; ok && i < sizeof settings / sizeof *settings; i++)
        ok = cb_options_set(cb_train_option_table, t, settings[i][0], settings[i][1]);
    t->output = (char *)(uintptr_t)output;
    t->batch_size = run->quick ? 4 : 32;
    t->seed = run->seed;
    t->resume = true;
    return ok;
}

static bool train_source(const cb_run *run, const char *output)
{
    cb_train_options t;
    cb_trainee what = {0};
    cb_model *model = digits_network(run, run->seed);
    cb_dataset *data = model ? digits_open(run, DIGITS_USPS, false, false, true, run->seed) : NULL;
    bool ok = data && cb_options_init(cb_train_option_table, &t);
    if (ok) {
        t.output = (char *)(uintptr_t)output;
        t.steps = run->quick ? 5 : SOURCE_STEPS;
        t.batch_size = run->quick ? 4 : 32;
        t.learning_rate = 3e-3;
        t.seed = run->seed;
        t.overwrite = true;
    }
    ok = ok && cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) && cb_train(&what, data, NULL, &t, NULL, NULL, NULL);
    cb_train_whole_free(&what);
    cb_dataset_free(data);
    cb_model_free(model);
    return ok;
}

/* ---- rounds ---- */

typedef struct bench {
    const cb_run *run;
    char *source;
    cb_active *active;
    cb_dataset *test;
    int32_t *answers;
    double items[MOST_JUDGED], sums[MOST_JUDGED], accuracies[ROUNDS];
    size_t judged;
    int finished;
    int64_t trained; /* parameters */
} bench;

/* The pool, in its order, with what a person would say. */
static bool open_pool(bench *b, const plan *p)
{
    const cb_run *run = b->run;
    cb_active_options o = {0};
    cb_string_list names = {0};
    char *work = cb_path_join(run->directory, "work");
    cb_dataset *known = digits_open(run, DIGITS_MNIST, false, false, false, 0),
               *all = digits_open(run, DIGITS_MNIST, false, true, true, run->seed);
    int64_t rows = known && all ? cb_dataset_rows(known) : 0, pool = rows < POOL ? rows : POOL;
    int64_t *first = cb_calloc((size_t)pool + 1, sizeof *first);
    b->answers = cb_calloc((size_t)pool + 1, sizeof *b->answers);
    bool ok = work && rows && first && b->answers && cb_options_init(cb_active_option_table, &o);
    size_t count;
    for (int64_t i = 0; ok && i < pool; i++) {
        first[i] = i;
        b->answers[i] = cb_dataset_row_labels(known, i, &count)[0];
    }
    for (int i = 0; ok && i < DIGIT_CLASSES; i++)
        ok = cb_string_list_add(&names, (char[]){(char)('0' + i), 0});
    ok = ok && cb_options_set(cb_active_option_table, &o, "query", p->query) &&
         cb_options_set(cb_active_option_table, &o, "method", p->method) &&
         (!p->mixup || cb_options_set(cb_active_option_table, &o, "mixup_weight", p->mixup));
    o.budget = (int64_t)ROUNDS * (run->quick ? 2 : EACH);
    o.rounds = ROUNDS;
    o.base_rate = 0.1;
    o.batch_size = run->quick ? 4 : 32;
    o.seed = run->seed;
    cb_dataset *data = ok ? cb_dataset_pick(all, first, pool) : NULL;
    b->active = data ? cb_active_open(work, data, &names, &o) : NULL;
    cb_string_list_free(&names);
    cb_dataset_free(known);
    cb_dataset_free(all);
    cb_free(first);
    cb_free(work);
    return b->active;
}

static bool judge(bench *b, cb_model *model, double *accuracy)
{
    double right = 0;
    b->judged = judge_rows(model, b->test, MOST_JUDGED, b->items);
    for (size_t i = 0; i < b->judged; i++)
        right += b->items[i];
    *accuracy = b->judged ? right / (double)b->judged : NAN;
    return b->judged;
}

static bool learn(bench *b, cb_model *model)
{
    cb_train_options t;
    cb_trainee inner = {0}, what = {0};
    double accuracy = NAN;
    bool ok = options_of(b->run, cb_active_directory(b->active), &t) && cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32) &&
              cb_train_active(&what, &inner, b->active);
    if (ok)
        t.steps = cb_active_steps(b->active, t.epochs);
    cb_train_result result = {0};
    ok = ok && cb_train(&what, cb_active_rows(b->active), NULL, &t, NULL, NULL, &result) && judge(b, model, &accuracy) &&
         cb_active_finish(b->active, accuracy);
    for (size_t i = 0; ok && i < b->judged; i++)
        b->sums[i] += b->items[i] / ROUNDS;
    if (ok)
        b->accuracies[b->finished++] = accuracy;
    b->trained = result.parameters;
    cb_train_whole_free(&inner);
    return ok;
}

static bool one_round(bench *b)
{
    char *learned = cb_active_learned(b->active);
    cb_model *model = cb_ok() ? cb_model_load(learned ? learned : b->source, .keep_weights = true) : NULL;
    bool ok = model && cb_active_ask(b->active, model, NULL) && cb_active_answer(b->active, b->answers) && cb_active_read(b->active) &&
              learn(b, model);
    cb_model_free(model);
    cb_free(learned);
    return ok;
}

static bool tell(const bench *b, cb_outcome *outcome)
{
    double rounds[ROUNDS];
    char name[32];
    bool ok = cb_outcome_items(outcome, "area", b->sums, b->judged) && cb_outcome_items(outcome, "final accuracy", b->items, b->judged);
    for (int i = 0; ok && i < ROUNDS; i++) {
        rounds[i] = i;
        snprintf(name, sizeof name, "after %d", (i + 1) * EACH);
        ok = cb_outcome_value(outcome, name, b->accuracies[i]);
    }
    cb_outcome_parameters(outcome, b->trained);
    double rho = cb_spearman(rounds, b->accuracies, ROUNDS);
    return ok && cb_outcome_value(outcome, "rank correlation", isfinite(rho) ? rho : 0);
}

static bool run_rounds(bench *b, const plan *p)
{
    bool ok = open_pool(b, p);
    while (ok && cb_active_stage(b->active) != CB_ACTIVE_END)
        ok = one_round(b);
    return ok && b->finished == ROUNDS;
}

/* The network as it is, which is what the others begin with. */
static bool run_source(bench *b)
{
    cb_model *model = train_source(b->run, b->source) ? cb_model_load(b->source) : NULL;
    double accuracy;
    bool ok = model && judge(b, model, &accuracy);
    memcpy(b->sums, b->items, sizeof b->sums);
    for (int i = 0; ok && i < ROUNDS; i++)
        b->accuracies[i] = accuracy;
    cb_model_free(model);
    return ok;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    const plan *p = run->arm->settings;
    bench *b = cb_calloc(1, sizeof *b);
    if (!b)
        return false;
    b->run = run;
    b->source = cb_path_join(run->uses ? run->uses : run->directory, "source");
    b->test = b->source ? digits_open(run, DIGITS_MNIST, true, false, false, 0) : NULL;
    bool ok = b->test && (p->query ? run_rounds(b, p) : run_source(b)) && tell(b, outcome);
    cb_active_free(b->active);
    cb_dataset_free(b->test);
    cb_free(b->source);
    cb_free(b->answers);
    cb_free(b);
    return ok && cb_ok();
}

static const char *const data[] = {"handwriting", NULL};

const cb_experiment experiment_lftl = {
    .name = "lftl",
    .system = 54,
    .title = "LFTL: source-free active domain adaptation by contrastive sampling and visual persistence",
    .claim = "With few labels of the new domain, asked for in rounds, and no data of the old one, rows whose predictions are close between "
             "two labels and "
             "got closer (CAS) are worth more than those of other queries, and learning with a memory of the labelled rows (VPA) is worth "
             "more than labels and mutual information; accuracy grows from round to round.",
    .setting =
        "USPS to MNIST at 16 x 16 pixels. A residual network of 79,000 weights learns 3,000 digits of USPS in 300 steps of 32; then five "
        "rounds of "
        "ten labels out of a pool of 2,000 digits of MNIST's test part, two epochs of the pool each (32 labelled and 32 unlabelled rows "
        "a step; LFTL's training has as many steps of mixup besides), SGD with Nesterov's momentum anew in each round, rate 0.3, a tenth "
        "of it "
        "below the head. Judged on 2,000 other digits of MNIST; area: mean accuracy of the five rounds.",
    .data = data,
    .seeds = 5,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
