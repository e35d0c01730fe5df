/* transfer_score.c: Transfer Score (63).  Yang et al. 2024, arXiv:2305.18712.
 *
 * Handwritten digits of three origins; a small network learns one and is adapted to another, unlabelled, in ways of which some are known to fail (much too
 * large weights and rates).  Which of them did well on the other's held-out digits is to be told without their labels.  An arm is a criterion: the score, its
 * parts, and what is used instead.  The first arm trains all candidates and leaves a table of what every criterion says of every one of them, and
 * of its accuracy; the others read it, so that all judge the same networks.
 *
 * A choice among candidates looks at their last checkpoints, a choice of a checkpoint at those of one candidate.  Nothing is tuned. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/digits.h"
#include "experiments/judge.h"

enum { TASKS = 5, EPOCHS = 5, MOST_CANDIDATES = 16, MOST_JUDGED = 1000 };

static const struct {
    digit_origin source, target;
} tasks[TASKS] = {{DIGITS_MNIST, DIGITS_OPTDIGITS},
                  {DIGITS_OPTDIGITS, DIGITS_MNIST},
                  {DIGITS_MNIST, DIGITS_SEMEION},
                  {DIGITS_SEMEION, DIGITS_MNIST},
                  {DIGITS_OPTDIGITS, DIGITS_SEMEION}};

typedef struct candidate {
    const char *method, *terms; /* terms NULL: the method's */
    double rate;
} candidate;
static const candidate candidates[] = {{"source-only", NULL, 1e-3},
                                       {"source-only", NULL, 1e-2},
                                       {"dan", "mmd=0.1", 1e-3},
                                       {"dan", "mmd=1", 1e-3},
                                       {"dan", "mmd=10", 1e-3},
                                       {"dann", "adversary=0.1", 1e-3},
                                       {"dann", "adversary=1", 1e-3},
                                       {"dann", "adversary=10", 1e-2},
                                       {"mcc", "class_confusion=1", 1e-3},
                                       {"entropy", "entropy=0.1", 1e-3},
                                       {"entropy", "entropy=10", 1e-3},
                                       {"entropy", "entropy=100", 1e-2},
                                       {"pseudo-label", "pseudo_label=1", 1e-3},
                                       {"pseudo-label", "pseudo_label=100", 1e-2}};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

/* What is known of a checkpoint; all but the accuracy are criteria, higher is better. */
typedef enum field { SCORE, EVENNESS, HOPKINS, INFORMATION, BATCH_SCORE, CERTAINTY, SOURCE_ACCURACY, EPOCH, ACCURACY, FIELDS } field;
typedef struct table {
    double values[TASKS][CANDIDATES][EPOCHS][FIELDS];
} table;

static const field fields[] = {SCORE, EVENNESS, HOPKINS, INFORMATION, BATCH_SCORE, CERTAINTY, SOURCE_ACCURACY, EPOCH};
#define ARM "Transfer Score"
static const cb_arm arms[] = {{ARM, NULL, NULL, &fields[SCORE]},
                              {"evenness alone", ARM, NULL, &fields[EVENNESS]},
                              {"Hopkins alone", ARM, NULL, &fields[HOPKINS]},
                              {"information alone", ARM, NULL, &fields[INFORMATION]},
                              {"score of batches", ARM, NULL, &fields[BATCH_SCORE]},
                              {"entropy", ARM, NULL, &fields[CERTAINTY]},
                              {"source accuracy", ARM, NULL, &fields[SOURCE_ACCURACY]},
                              {"last checkpoint", ARM, NULL, &fields[EPOCH]},
                              {0}};
static const cb_measure measures[] = {{"rank correlation", "", .digits = 3},
                                      {"regret", "%", .scale = 100, .digits = 1, .lower = true},
                                      {"regret of checkpoints", "%", .scale = 100, .digits = 2, .lower = true},
                                      {0}};
static const cb_comparison comparisons[] = {
    {"follows the accuracy better than entropy does", "rank correlation", ARM, "entropy", 0, "better"},
    {"and than the source's accuracy", "rank correlation", ARM, "source accuracy", 0, "better"},
    {"than evenness alone", "rank correlation", ARM, "evenness alone", 0, "the sum is better than each part"},
    {"than the Hopkins statistic alone", "rank correlation", ARM, "Hopkins alone", 0, "the sum is better than each part"},
    {"than information alone", "rank correlation", ARM, "information alone", 0, "the sum is better than each part"},
    {"chooses better candidates than entropy", "regret", ARM, "entropy", 0, "better"},
    {"chooses better candidates than the source's accuracy", "regret", ARM, "source accuracy", 0, "better"},
    {"chooses better checkpoints than the last", "regret of checkpoints", ARM, "last checkpoint", 0, "better"},
    {0}};

static bool prepare(const cb_run *run)
{
    return digits_prepare(run, DIGITS_USPS, 1, run->quick ? 40 : 3000, run->quick ? 20 : MOST_JUDGED);
}

/* ---- the candidates ---- */

typedef struct bench {
    const cb_run *run;
    int task, candidate, epoch;
    cb_model *model;
    cb_dataset *pool, *source_test, *target_test;
    double items[MOST_JUDGED];
    table *table;
} bench;

static bool accuracy_of(bench *b, cb_dataset *data, double *accuracy)
{
    size_t n = judge_rows(b->model, data, MOST_JUDGED, b->items);
    double right = 0;
    for (size_t i = 0; i < n; i++)
        right += b->items[i];
    *accuracy = n ? right / (double)n : NAN;
    return n;
}

/* Weights that are no numbers any more are the worst there is. */
static bool measure(bench *b)
{
    enum { BATCH = 50, DRAWS = 5 };
    cb_transfer_score s;
    double *v = b->table->values[b->task][b->candidate][b->epoch];
    if (!accuracy_of(b, b->source_test, &v[SOURCE_ACCURACY]) || !accuracy_of(b, b->target_test, &v[ACCURACY]) ||
        !cb_evaluate_unlabelled(b->model, b->pool, BATCH, MOST_JUDGED / BATCH, DRAWS, 1, &s))
        return false;
    v[SCORE] = s.score;
    v[EVENNESS] = -s.unevenness;
    v[HOPKINS] = s.hopkins;
    v[INFORMATION] = s.information;
    v[BATCH_SCORE] = s.batch_score;
    v[CERTAINTY] = -s.entropy;
    v[EPOCH] = b->epoch++;
    return true;
}

static void on_report(void *user, const cb_train_report *report)
{
    (void)report;
    bench *b = user;
    if (b->epoch < EPOCHS)
        measure(b);
}

static bool train_options(const cb_run *run, const char *output, int64_t steps, double rate, cb_train_options *t)
{
    bool ok = cb_options_init(cb_train_option_table, t);
    t->output = (char *)(uintptr_t)output;
    t->steps = steps;
    t->batch_size = run->quick ? 4 : 32;
    t->learning_rate = rate;
    t->seed = run->seed;
    t->overwrite = true;
    t->logging_steps = steps / EPOCHS;
    return ok;
}

static bool train_source(const bench *b, const char *output)
{
    const cb_run *run = b->run;
    cb_train_options t;
    cb_trainee what = {0};
    cb_model *model = digits_network(run, run->seed);
    cb_dataset *data = model ? digits_open(run, tasks[b->task].source, false, false, true, run->seed) : NULL;
    bool ok = data && train_options(run, output, run->quick ? EPOCHS : 300, 3e-3, &t) &&
              cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) && cb_train(&what, data, NULL, &t, NULL, NULL, NULL);
    cb_train_whole_free(&what);
    cb_dataset_free(data);
    cb_model_free(model);
    return ok;
}

static bool open_options(const bench *b, cb_domain_options *o)
{
    const candidate *c = &candidates[b->candidate];
    *o = (cb_domain_options){0};
    return cb_options_init(cb_domain_option_table, o) && cb_options_set(cb_domain_option_table, o, "method", c->method) &&
           (!c->terms || cb_options_set(cb_domain_option_table, o, "terms", c->terms));
}

static bool train_candidate(bench *b, const char *source, const char *output)
{
    const cb_run *run = b->run;
    cb_train_options t;
    cb_domain_options o = {0};
    cb_trainee inner = {0}, what = {0};
    b->epoch = 0;
    b->model = cb_model_load(source, .keep_weights = true);
    bool ok = b->model && open_options(b, &o) && train_options(run, output, run->quick ? EPOCHS : 200, candidates[b->candidate].rate, &t);
    o.batch_size = ok ? t.batch_size : 1;
    o.seed = run->seed;
    o.adversary_width = 128;
    cb_domains *d = ok ? cb_domains_open(b->model, digits_open(run, tasks[b->task].source, false, false, true, run->seed),
                                         digits_open(run, tasks[b->task].target, false, true, true, run->seed), &o)
                       : NULL;
    ok = d && cb_train_part(&inner, b->model, CB_PART_ALL, NULL, NULL, CB_F32) && cb_train_domains(&what, &inner, d) &&
         cb_train(&what, cb_domains_rows(d), NULL, &t, on_report, b, NULL) && b->epoch == EPOCHS;
    cb_domains_free(d);
    cb_train_whole_free(&inner);
    cb_options_free(cb_domain_option_table, &o);
    cb_model_free(b->model);
    return ok && cb_ok();
}

static bool run_task(bench *b)
{
    const cb_run *run = b->run;
    char *source = cb_path_join(run->directory, "source"), *output = cb_path_join(run->directory, "candidate");
    b->pool = digits_open(run, tasks[b->task].target, false, true, false, 0);
    b->source_test = digits_open(run, tasks[b->task].source, true, false, false, 0);
    b->target_test = digits_open(run, tasks[b->task].target, true, false, false, 0);
    bool ok = source && output && cb_ok() && train_source(b, source);
    for (b->candidate = 0; ok && b->candidate < CANDIDATES; b->candidate++)
        ok = train_candidate(b, source, output);
    cb_dataset_free(b->pool);
    cb_dataset_free(b->source_test);
    cb_dataset_free(b->target_test);
    cb_free(source);
    cb_free(output);
    return ok;
}

/* ---- the table ---- */

static bool write_table(const cb_run *run, const table *t)
{
    cb_string text = {0};
    const double *v = &t->values[0][0][0][0];
    for (size_t i = 0; i < sizeof *t / sizeof *v; i++)
        cb_string_printf(&text, "%.17g%s", v[i], (i + 1) % FIELDS ? " " : "\n");
    char *path = cb_path_join(run->directory, "table.txt");
    bool ok = path && text.data && cb_file_write(path, text.data, text.length);
    cb_free(path);
    cb_string_free(&text);
    return ok;
}

static bool read_table(const cb_run *run, table *t)
{
    size_t length;
    char *path = cb_path_join(run->uses, "table.txt"), *text = path ? cb_file_read(path, 1 << 24, &length) : NULL, *at = text;
    double *v = &t->values[0][0][0][0];
    for (size_t i = 0; at && i < sizeof *t / sizeof *v; i++)
        v[i] = strtod(at, &at);
    cb_free(path);
    cb_free(text);
    return text;
}

static bool make_table(const cb_run *run, table *t)
{
    bench *b = cb_calloc(1, sizeof *b);
    bool ok = b;
    if (b)
        *b = (bench){.run = run, .table = t};
    for (int task = 0; ok && task < TASKS; task++) {
        b->task = task;
        ok = run_task(b);
    }
    cb_free(b);
    return ok && write_table(run, t);
}

/* ---- what a criterion is good for ---- */

/* The accuracy that is missed by going by `criterion`; rows are `stride` apart. */
static double regret(const double *rows, size_t count, size_t stride, field criterion)
{
    size_t chosen = 0;
    double best = 0;
    for (size_t i = 0; i < count; i++) {
        const double *row = rows + i * stride;
        best = fmax(best, row[ACCURACY]);
        chosen = row[criterion] > rows[chosen * stride + criterion] ? i : chosen;
    }
    return best - rows[chosen * stride + ACCURACY];
}

/* Spearman's; 0 where the criterion says the same of all. */
static double correlation(const double *rows, size_t count, size_t stride, field criterion)
{
    double x[CANDIDATES], y[CANDIDATES];
    for (size_t i = 0; i < count; i++) {
        x[i] = rows[i * stride + criterion];
        y[i] = rows[i * stride + ACCURACY];
    }
    double rho = cb_spearman(x, y, count);
    return isfinite(rho) ? rho : 0;
}

static bool judge(const table *t, field criterion, cb_outcome *outcome)
{
    double correlations[TASKS], regrets[TASKS], of_checkpoints[TASKS] = {0};
    for (int k = 0; k < TASKS; k++) {
        const double *last = t->values[k][0][EPOCHS - 1];
        correlations[k] = correlation(last, CANDIDATES, (size_t)EPOCHS * FIELDS, criterion);
        regrets[k] = regret(last, CANDIDATES, (size_t)EPOCHS * FIELDS, criterion);
        for (int c = 0; c < CANDIDATES; c++)
            of_checkpoints[k] += regret(t->values[k][c][0], EPOCHS, FIELDS, criterion) / CANDIDATES;
    }
    bool ok = cb_outcome_items(outcome, "rank correlation", correlations, TASKS) &&
              cb_outcome_items(outcome, "regret of checkpoints", of_checkpoints, TASKS);
    return ok && (criterion == EPOCH || cb_outcome_items(outcome, "regret", regrets, TASKS)); /* all last checkpoints are as late */
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    const field *criterion = run->arm->settings;
    table *t = cb_calloc(1, sizeof *t);
    bool ok = t && (run->uses ? read_table : make_table)(run, t) && judge(t, *criterion, outcome);
    cb_free(t);
    return ok;
}

static const char *const data[] = {"handwriting", NULL};

const cb_experiment experiment_transfer_score = {
    .name = "transfer-score",
    .system = 63,
    .title = "Transfer Score: which adapted network is best, without labels of the other domain",
    .claim = "How evenly a classifier's vectors are spread, how much its features cluster, and how much its predictions tell of their "
             "samples, added up, follow the accuracy on unlabelled data of another domain: enough to choose among methods, settings and "
             "checkpoints, better than entropy or the accuracy on the source.",
    .setting =
        "MNIST's test part, optdigits and semeion at 16 x 16 pixels; five pairs of a source and a target. A residual network of 79,000 "
        "weights learns the source in 300 steps of 32, then 14 candidates (six methods, weights from 0.1 to 100, rates of 1e-3 "
        "and 1e-2) go on for 200 steps of 32 of each domain, judged at five checkpoints. Correlation and regret are of the 14 last "
        "checkpoints of a "
        "pair, means over pairs; the regret of checkpoints is of the five of a candidate.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
