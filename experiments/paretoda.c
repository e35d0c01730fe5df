/* paretoda.c: Pareto domain adaptation (59).  Lv et al. 2021, arXiv:2112.04137.
 *
 * Handwritten digits: MNIST to MNIST on photographs, MNIST to USPS and back.  A small network learns the source, then adapts to the other domain's
 * pool without labels; accuracy is on other digits of it.  The first arm trains the networks of the sources and the rest goes on from those.  One rate is
 * for all arms: that at which the fixed sum, not Pareto's, did best with seed 0 on a pair that is not judged (optdigits to semeion).
 *
 * Steps in which gradients of the base conflict, and in which the sum that was taken hurts a term to first order, are counted in training. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/digits.h"
#include "experiments/judge.h"
#include "experiments/rate.h"

enum { PAIRS = 3, MOST_JUDGED = 1000, SOURCE_STEPS = 600, STEPS = 1000, QUICK_STEPS = 3 };

typedef struct pair {
    digit_origin source, target;
    const char *measure;
} pair;
static const pair judged[PAIRS] = {{DIGITS_MNIST, DIGITS_MNIST_M, "MNIST to MNIST-M"},
                                   {DIGITS_MNIST, DIGITS_USPS, "MNIST to USPS"},
                                   {DIGITS_USPS, DIGITS_MNIST, "USPS to MNIST"}},
                  validated = {DIGITS_OPTDIGITS, DIGITS_SEMEION, NULL};

typedef struct plan {
    const char *method, *terms, *balance; /* method NULL: the source's network as it is */
    bool unguided, watched;
} plan;
#define PLAIN "information=1,refined_information=0,class_domain=0"
static const plan linear = {.method = "paretoda", .balance = "fixed", .watched = true},
                  little = {.method = "paretoda", .balance = "fixed", .terms = "adversary=0.1"},
                  much = {.method = "paretoda", .balance = "fixed", .terms = "adversary=10"}, as_it_is = {0},
                  source_only = {.method = "source-only"}, dann = {.method = "dann"}, mgda = {.method = "paretoda", .balance = "mgda"},
                  pareto = {.method = "paretoda"}, unrefined = {.method = "paretoda", .terms = PLAIN},
                  unguided = {.method = "paretoda", .unguided = true};

static const double rates[] = {3e-4, 1e-3, 3e-3, 0};
#define PARETO "ParetoDA"
#define LINEAR "DANN + TCM"
static const cb_arm arms[] = {{LINEAR, NULL, rates, &linear},
                              {"the source's network", LINEAR, NULL, &as_it_is},
                              {"source only", LINEAR, NULL, &source_only},
                              {"DANN", LINEAR, NULL, &dann},
                              {"0.1 DANN + TCM", LINEAR, NULL, &little},
                              {"10 DANN + TCM", LINEAR, NULL, &much},
                              {"least norm (MGDA)", LINEAR, NULL, &mgda},
                              {PARETO, LINEAR, NULL, &pareto},
                              {"without refinement", LINEAR, NULL, &unrefined},
                              {"without guidance", LINEAR, NULL, &unguided},
                              {0}};
#define PERCENT(name, ...)                                                                                                                 \
    {                                                                                                                                      \
        name, "%", .scale = 100, .digits = 1, __VA_ARGS__                                                                                  \
    }
static const cb_measure measures[] = {PERCENT("accuracy", ),
                                      PERCENT("MNIST to MNIST-M", ),
                                      PERCENT("MNIST to USPS", ),
                                      PERCENT("USPS to MNIST", ),
                                      PERCENT("conflicting", .lower = true),
                                      PERCENT("hurting", .lower = true),
                                      {0}};
static const cb_comparison comparisons[] = {
    {"better than the fixed sum of the same losses", "accuracy", PARETO, LINEAR, 0, "better (VisDA-2017, Office-31, Office-Home)"},
    {"on MNIST-M", "MNIST to MNIST-M", PARETO, LINEAR, 0, "better"},
    {"better than DANN", "accuracy", PARETO, "DANN", 0, "better"},
    {"better than the source alone", "accuracy", PARETO, "source only", 0, "better"},
    {"better than the sum of least norm", "accuracy", PARETO, "least norm (MGDA)", 0, "better"},
    {"no more than a point worse than the fixed sum with less of DANN", "accuracy", PARETO, "0.1 DANN + TCM", -1, "no weights to tune"},
    {"and with more of it", "accuracy", PARETO, "10 DANN + TCM", -1, "no weights to tune"},
    {"refining predictions helps", "accuracy", PARETO, "without refinement", 0, "helps"},
    {"held-out data as a guide help", "accuracy", PARETO, "without guidance", 0, "helps"},
    {"the target surrogate helps DANN", "accuracy", LINEAR, "DANN", 0, "helps"},
    {"of conflicting steps fewer hurt a term than under the fixed sum", "hurting", PARETO, LINEAR, 0, "hurts none"},
    {"without guidance, too", "hurting", "without guidance", LINEAR, 0, "hurts none"},
    {0}};

static bool prepare(const cb_run *run)
{
    return digits_prepare(run, DIGIT_ORIGINS, 3, run->quick ? 40 : 3000, run->quick ? 20 : MOST_JUDGED);
}

/* ---- training ---- */

static bool train(const cb_run *run, const cb_trainee *what, cb_dataset *rows, int64_t steps, double rate, cb_train_callback *report,
                  void *user)
{
    cb_train_options t;
    char *output = cb_path_join(run->directory, "candidate");
    bool ok = output && cb_options_init(cb_train_option_table, &t);
    if (!ok)
        return false;
    t.output = output;
    t.steps = run->quick ? QUICK_STEPS : steps;
    t.batch_size = run->quick ? 4 : 32;
    t.learning_rate = rate;
    t.seed = run->seed;
    t.overwrite = true;
    t.logging_steps = t.steps;
    ok = cb_train(what, rows, NULL, &t, report, user, NULL);
    t.output = NULL;
    cb_options_free(cb_train_option_table, &t);
    cb_free(output);
    return ok;
}

static char *source_path(const char *directory, digit_origin origin)
{
    return cb_format("%s/source-%s", directory, digit_names[origin]);
}

static bool train_source(const cb_run *run, digit_origin origin)
{
    cb_trainee what = {0};
    char *path = source_path(run->directory, origin);
    cb_model *model = path ? digits_network(run, run->seed) : NULL;
    cb_dataset *data = model ? digits_open(run, origin, false, false, true, run->seed) : NULL;
    bool ok = data && cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) && train(run, &what, data, SOURCE_STEPS, 3e-3, NULL, NULL) &&
              cb_model_save(model, path, CB_F32);
    cb_train_whole_free(&what);
    cb_dataset_free(data);
    cb_model_free(model);
    cb_free(path);
    return ok;
}

/* What cb_train() says last of steps that conflict and hurt, added up over pairs. */
typedef struct conflicts {
    double conflicting, hurting;
    bool found;
    int64_t trained; /* weights */
} conflicts;

static void on_report(void *user, const cb_train_report *report)
{
    conflicts *c = user;
    for (int i = 0; i < report->parts.count; i++) {
        const cb_metric *m = &report->parts.items[i];
        c->conflicting += strcmp(m->name, "conflicting") == 0 ? m->value : 0;
        c->hurting += strcmp(m->name, "hurting") == 0 ? m->value : 0;
        c->found = c->found || strcmp(m->name, "hurting") == 0;
    }
}

static bool open_options(const cb_run *run, const plan *p, cb_domain_options *o)
{
    const cb_option *table = cb_domain_option_table;
    bool ok = cb_options_init(table, o) && cb_options_set(table, o, "method", p->method) &&
              (!p->terms || cb_options_set(table, o, "terms", p->terms)) &&
              (!p->balance || cb_options_set(table, o, "balance", p->balance));
    o->batch_size = run->quick ? 4 : 32;
    o->seed = run->seed;
    o->adversary_width = 128;
    o->watch_gradients = p->watched;
    o->held_out_share = p->unguided ? 0 : o->held_out_share;
    return ok;
}

static bool adapt(const cb_run *run, const plan *p, const pair *between, double rate, cb_model *model, conflicts *c)
{
    cb_domain_options o = {0};
    cb_trainee inner = {0}, what = {0};
    bool ok = open_options(run, p, &o);
    cb_domains *d = ok ? cb_domains_open(model, digits_open(run, between->source, false, false, true, run->seed),
                                         digits_open(run, between->target, false, true, true, run->seed), &o)
                       : NULL;
    ok = d && cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32) && cb_train_domains(&what, &inner, d) &&
         train(run, &what, cb_domains_rows(d), STEPS, rate, on_report, c);
    c->trained = 0;
    for (size_t i = 0; i < inner.count; i++)
        c->trained += inner.parameters[i].tensor->count;
    cb_domains_free(d);
    cb_train_whole_free(&inner);
    cb_options_free(cb_domain_option_table, &o);
    return ok && cb_ok();
}

/* ---- an arm; the rate is the first one's ---- */

/* Accuracies of a pair's target into items (MOST_JUDGED); how many, 0 on failure. */
static size_t run_pair(const cb_run *run, const pair *between, double rate, conflicts *c, double *items)
{
    const plan *p = run->arm->settings;
    char *path = source_path(run->uses ? run->uses : run->directory, between->source);
    cb_model *model = path ? cb_model_load(path, .keep_weights = true) : NULL;
    bool ok = model && (!p->method || adapt(run, p, between, rate, model, c));
    cb_dataset *test = ok ? digits_open(run, between->target, true, false, false, 0) : NULL;
    size_t count = test ? judge_rows(model, test, MOST_JUDGED, items) : 0;
    cb_dataset_free(test);
    cb_model_free(model);
    cb_free(path);
    return count;
}

static bool report_conflicts(const conflicts *c, cb_outcome *outcome)
{
    return !c->found || (cb_outcome_value(outcome, "conflicting", c->conflicting / PAIRS) &&
                         cb_outcome_value(outcome, "hurting", c->conflicting > 0 ? c->hurting / c->conflicting : 0));
}

static bool run_judged(const cb_run *run, double rate, cb_outcome *outcome)
{
    double *items = cb_calloc((size_t)PAIRS * MOST_JUDGED, sizeof *items);
    conflicts c = {0};
    size_t total = 0;
    bool ok = items;
    if (ok && !run->uses)
        ok = train_source(run, DIGITS_MNIST) && train_source(run, DIGITS_USPS);
    for (int i = 0; ok && i < PAIRS; i++) {
        size_t count = run_pair(run, &judged[i], rate, &c, items + total);
        ok = count && cb_outcome_items(outcome, judged[i].measure, items + total, count);
        total += count;
    }
    ok = ok && cb_outcome_items(outcome, "accuracy", items, total) && report_conflicts(&c, outcome);
    cb_outcome_parameters(outcome, c.trained);
    cb_free(items);
    return ok;
}

/* By the pair that is not judged. */
static bool run_validated(const cb_run *run, double rate, cb_outcome *outcome)
{
    double items[MOST_JUDGED];
    conflicts c = {0};
    bool ok = run->uses || train_source(run, validated.source);
    size_t count = ok ? run_pair(run, &validated, rate, &c, items) : 0;
    return count && cb_outcome_items(outcome, "accuracy", items, count);
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    double rate;
    return rate_of(run, &rate) && (run->validation ? run_validated : run_judged)(run, rate, outcome) && cb_ok();
}

static const char *const data[] = {"handwriting", "pacs", NULL};

const cb_experiment experiment_paretoda = {
    .name = "paretoda",
    .system = 59,
    .title = "Pareto domain adaptation: weights of losses that pull apart, anew in each step",
    .claim =
        "Learning the source, aligning domains and a surrogate of the target's loss conflict; weights chosen in each step by a linear "
        "program, so that the common direction hurts none and follows the surrogate on held-out data of the target, do better than any "
        "fixed weights.",
    .setting =
        "Digits at 16 x 16 in colours: MNIST to MNIST-M (other digits of MNIST on places of PACS' photographs, |place - digit|), MNIST to "
        "USPS and back; 3,000 digits of each domain, those of the target without labels, accuracy on 1,000 others. A residual "
        "network of 79,000 weights learns the source in 600 steps of 32, and goes on for 1,000 steps of 32 of each domain. One rate for "
        "all "
        "arms, the fixed sum's best on optdigits to semeion. Conflicting: share of steps in which two gradients of the base have a "
        "negative "
        "product; hurting: share of these in which the weighed sum raises a term, to first order.",
    .data = data,
    .seeds = 5,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
