/* adcsd.c: ADCSD (14).  Guo et al. 2024, arXiv:2401.04148.
 *
 * Three cities: a week of speeds on Los Angeles' roads, two months of taxis and of rented bicycles of New York's cells.  A forecaster is trained on the
 * first part and chosen by the next; then it foretells the rest, step by step, and learns from what has come to be by then, or does not.
 *
 * Rates are chosen for each arm, city and seed by the same stream over the validation part, with what learns begun anew: the one with the lower mean
 * absolute error of two.  The test part is gone through once.
 *
 * Items are means of stretches of the test part, six hours of Los Angeles and days of New York: resampling them is a block bootstrap over time. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/experiments.h"

enum { CITIES = 3, MOST_BLOCKS = 64 };

typedef struct city {
    const char *name; /* of the measure */
    const char *directory, *series, *graph;
    int64_t nodes, steps_per_day, channels, targets, context, prediction;
    double train_share, validation_share, mask_below;
    double epochs;
    int64_t block; /* windows of an item */
} city;

static const city cities[CITIES] = {{.name = "Los Angeles",
                                     .directory = "los",
                                     .series = "traffic/los/los_speed.csv.gz",
                                     .graph = "traffic/los/los_adj.csv",
                                     .nodes = 207,
                                     .steps_per_day = 288,
                                     .channels = 2,
                                     .targets = 1,
                                     .context = 12,
                                     .prediction = 12,
                                     .train_share = 0.5,
                                     .validation_share = 0.1,
                                     .mask_below = -1e30,
                                     .epochs = 6,
                                     .block = 72},
                                    {.name = "taxis",
                                     .directory = "taxi",
                                     .series = "traffic/nyc/NYCTaxi/NYCTaxi.npz",
                                     .graph = "traffic/nyc/NYCTaxi/adj_mx.npz",
                                     .nodes = 200,
                                     .channels = 3,
                                     .targets = 2,
                                     .context = 6,
                                     .prediction = 6,
                                     .train_share = 0.7,
                                     .validation_share = 0.1,
                                     .mask_below = 10,
                                     .epochs = 6,
                                     .block = 48},
                                    {.name = "bicycles",
                                     .directory = "bike",
                                     .series = "traffic/nyc/NYCBike2/NYCBike2.npz",
                                     .graph = "traffic/nyc/NYCBike2/adj_mx.npz",
                                     .nodes = 200,
                                     .channels = 3,
                                     .targets = 2,
                                     .context = 6,
                                     .prediction = 6,
                                     .train_share = 0.7,
                                     .validation_share = 0.1,
                                     .mask_below = 10,
                                     .epochs = 6,
                                     .block = 48}};

typedef struct plan {
    cb_online online;
    bool plain;   /* no decomposition */
    bool no_gate; /* no lambda */
    bool one;     /* head */
} plan;
static const plan frozen = {.online = CB_ONLINE_NONE}, whole = {.online = CB_ONLINE_FINETUNE}, adcsd = {.online = CB_ONLINE_ADCSD};
static const plan plain = {.online = CB_ONLINE_ADCSD, .plain = true}, no_gate = {.online = CB_ONLINE_ADCSD, .no_gate = true};
static const plan one = {.online = CB_ONLINE_ADCSD, .one = true};
static const double rates[] = {1e-4, 1e-3};
enum { RATES = sizeof rates / sizeof *rates };

static const cb_measure measures[] = {{"error", "% of frozen", .digits = 2, .lower = true},
                                      {"Los Angeles", "MAE, mph", .digits = 3, .lower = true},
                                      {"taxis", "MAE", .digits = 3, .lower = true},
                                      {"bicycles", "MAE", .digits = 3, .lower = true},
                                      {0}};
static const cb_arm arms[] = {{"frozen", NULL, NULL, &frozen},
                              {"all weights", "frozen", NULL, &whole},
                              {"ADCSD", "frozen", NULL, &adcsd},
                              {"no decomposition", "frozen", NULL, &plain},
                              {"no lambda", "frozen", NULL, &no_gate},
                              {"one head", "frozen", NULL, &one},
                              {0}};
static const cb_comparison comparisons[] = {
    {"lower than the frozen forecaster's, Los Angeles", "Los Angeles", "ADCSD", "frozen", 0, "lower on four sets"},
    {"lower than the frozen forecaster's, taxis", "taxis", "ADCSD", "frozen", 0, "lower on four sets"},
    {"lower than the frozen forecaster's, bicycles", "bicycles", "ADCSD", "frozen", 0, "lower on four sets"},
    {"lower than with all weights learning, Los Angeles", "Los Angeles", "ADCSD", "all weights", 0, "lower"},
    {"lower than with all weights learning, taxis", "taxis", "ADCSD", "all weights", 0, "lower"},
    {"lower than with all weights learning, bicycles", "bicycles", "ADCSD", "all weights", 0, "lower"},
    {"all weights learning: lower than the frozen forecaster's", "error", "all weights", "frozen", 0, "lower, less than ADCSD's"},
    {"the decomposition helps", "error", "ADCSD", "no decomposition", 0, "helps"},
    {"lambda helps", "error", "ADCSD", "no lambda", 0, "helps"},
    {"two heads help", "error", "ADCSD", "one head", 0, "help"},
    {0}};

/* ---- data ---- */

enum { MADE_UP_STEPS = 120 };

typedef struct town {
    const city *city;
    const cb_run *run;
    int64_t nodes;
    cb_series *series;
    cb_series_processor processor;
    float *graph; /* where a model is made */
} town;

static void town_close(town *t)
{
    cb_series_free(t->series);
    cb_series_processor_free(&t->processor);
    cb_free(t->graph);
}

/* For quick runs: waves of a few nodes. */
static cb_series *made_up(const city *c, int64_t nodes, const cb_series_options *o)
{
    int64_t channels = c->channels - (c->steps_per_day > 0), count = MADE_UP_STEPS * nodes * channels;
    float *values = cb_calloc((size_t)count, sizeof *values);
    for (int64_t i = 0; values && i < count; i++) {
        int64_t step = i / (nodes * channels);
        values[i] = (float)(30 + 9 * sin((double)step / 4 + (double)(i % nodes)));
    }
    cb_series *s = values ? cb_series_from(c->name, values, MADE_UP_STEPS, nodes, channels, o) : NULL;
    cb_free(values);
    return s;
}

static bool town_open(town *t, const cb_run *run, const city *c)
{
    enum { FEW = 4 };
    cb_series_options o;
    *t = (town){.city = c, .run = run, .nodes = run->quick ? FEW : c->nodes};
    if (!cb_options_init(cb_series_option_table, &o))
        return false;
    o.steps_per_day = c->steps_per_day;
    o.train_share = c->train_share;
    o.validation_share = run->quick ? 0.15 : c->validation_share;
    char *series = run->quick ? NULL : cb_path_join(run->data, c->series), *graph = run->quick ? NULL : cb_path_join(run->data, c->graph);
    t->series = run->quick ? made_up(c, t->nodes, &o) : series ? cb_series_open(series, &o) : NULL;
    if (t->series)
        t->graph = run->quick ? cb_calloc(FEW * FEW, sizeof *t->graph) : graph ? cb_adjacency_read(graph, "adj_mx", c->nodes) : NULL;
    cb_free(series);
    cb_free(graph);
    cb_options_free(cb_series_option_table, &o);
    return t->series && t->graph && cb_series_fit(t->series, &t->processor);
}

static cb_dataset *windows(const town *t, cb_series_part part)
{
    const city *c = t->city;
    const cb_window_options o = {.part = part,
                                 .context = c->context,
                                 .prediction = c->prediction,
                                 .targets = c->targets,
                                 .shuffle = part == CB_SERIES_TRAIN,
                                 .seed = t->run->seed};
    return cb_series_windows(t->series, &t->processor, &o);
}

static cb_forecast_training training_of(const town *t, cb_model *model)
{
    return (cb_forecast_training){.model = model,
                                  .processor = &t->processor,
                                  .options = {.huber_delta = 2, .mask_below = t->run->quick ? -1e30 : t->city->mask_below}};
}

/* ---- the forecaster ---- */

static cb_model *new_model(const town *t)
{
    const city *c = t->city;
    char *path = cb_format("%s/%s.json", t->run->directory, c->directory);
    char *text =
        cb_format("{\"model_type\": \"gcgru\", \"architectures\": [\"GCGRUForPrediction\"], \"num_nodes\": %lld, \"num_input_channels\": "
                  "%lld, \"num_targets\": %lld, \"context_length\": %lld, \"prediction_length\": %lld, \"hidden_size\": 32, "
                  "\"initializer_range\": 0.15}",
                  (long long)t->nodes, (long long)c->channels, (long long)c->targets, (long long)c->context, (long long)c->prediction);
    cb_model *model =
        path && text && cb_file_write(path, text, strlen(text)) ? cb_model_create(path, t->run->seed, (cb_model_options){0}) : NULL;
    cb_free(path);
    cb_free(text);
    if (model && cb_model_set_graph(model, t->graph))
        return model;
    cb_model_free(model);
    return NULL;
}

static bool train(const town *t, cb_model *model, char *output)
{
    cb_train_options o;
    cb_trainee what = {0};
    cb_forecast_training training = training_of(t, model);
    cb_dataset *data = windows(t, CB_SERIES_TRAIN), *validation = data ? windows(t, CB_SERIES_VALIDATION) : NULL;
    bool ok = validation && cb_options_init(cb_train_option_table, &o) && cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) &&
              cb_train_forecasting(&what, &training);
    if (ok) {
        o.output = output;
        o.overwrite = true;
        o.batch_size = 16;
        o.learning_rate = 3e-3;
        o.epochs = t->city->epochs;
        o.steps = t->run->quick ? 2 : 0;
        o.eval_steps = (cb_dataset_rows(data) + o.batch_size - 1) / o.batch_size;
        o.logging_steps = o.eval_steps;
        o.seed = t->run->seed;
        ok = cb_train(&what, data, validation, &o, NULL, NULL, NULL);
    }
    cb_train_whole_free(&what);
    cb_dataset_free(data);
    cb_dataset_free(validation);
    return ok;
}

/* Where the forecaster of this seed is: it is trained by the run that nothing goes before. */
static char *forecaster(const town *t)
{
    char *path = cb_path_join(t->run->uses ? t->run->uses : t->run->directory, t->city->directory);
    if (t->run->uses || !path)
        return path;
    cb_model *model = new_model(t);
    bool ok = model && train(t, model, path);
    cb_model_free(model);
    if (ok)
        return path;
    cb_free(path);
    return NULL;
}

/* ---- a stream ---- */

/* A fresh forecaster goes through a part; *learned: how many numbers learn. */
static bool stream(const town *t, const char *path, cb_series_part part, double rate, cb_forecast_result *result, int64_t *learned)
{
    const plan *p = t->run->arm->settings;
    cb_online_options o = {.online = (int)p->online, .online_learning_rate = rate, .online_seed = (int64_t)t->run->seed};
    cb_model *model = cb_model_load(path);
    cb_dataset *data = model ? windows(t, part) : NULL;
    bool ok = data && cb_options_init(cb_adcsd_option_table, &o.adcsd);
    o.adcsd.adcsd_decompose = !p->plain;
    o.adcsd.adcsd_lambda = !p->no_gate;
    o.adcsd.adcsd_heads = p->one ? CB_ADCSD_ONE : CB_ADCSD_BOTH;
    if (t->run->quick)
        o.adcsd.adcsd_hidden_size = 4;
    const cb_forecast_training training = training_of(t, model);
    cb_online_forecaster *f = ok ? cb_online_forecaster_new(&training, &o, NULL, t->nodes) : NULL;
    if (f) {
        const cb_forecast_policy policy = cb_online_forecaster_policy(f);
        ok = cb_forecast_stream(&training, data, &policy, 0, result);
        *learned = cb_online_forecaster_size(f);
    }
    cb_online_forecaster_free(f);
    cb_dataset_free(data);
    cb_model_free(model);
    return ok && f;
}

static bool choose_rate(const town *t, const char *path, double *rate)
{
    const plan *p = t->run->arm->settings;
    double best = INFINITY;
    *rate = rates[0];
    for (int i = 0; p->online != CB_ONLINE_NONE && i < (t->run->quick ? 1 : RATES); i++) {
        cb_forecast_result r = {0};
        int64_t learned;
        bool ok = stream(t, path, CB_SERIES_VALIDATION, rates[i], &r, &learned);
        if (ok && r.all.mae < best) {
            best = r.all.mae;
            *rate = rates[i];
        }
        cb_forecast_result_free(&r);
        if (ok)
            continue;
        if (cb_error_status() != CB_ERR_NUMERIC)
            return false;
        cb_error_clear(); /* a rate at which it diverges is not the best one */
    }
    return true;
}

/* Means of stretches of so many windows; what is left at the end goes with the last. */
static size_t blocks_of(const cb_forecast_result *r, int64_t block, double *items)
{
    size_t count = 0;
    for (int64_t at = 0; at < r->rows && count < MOST_BLOCKS;) {
        int64_t end = r->rows - at < 2 * block ? r->rows : at + block;
        double sum = 0, n = 0;
        for (; at < end; at++)
            if (isfinite(r->row_mae[at])) {
                sum += r->row_mae[at];
                n++;
            }
        items[count++] = n > 0 ? sum / n : 0;
    }
    return count;
}

/* What the frozen forecaster's error was, for those that come after it. */
static bool share_of_frozen(const town *t, double mae, double *share)
{
    char *path = cb_format("%s/%s.mae", t->run->uses ? t->run->uses : t->run->directory, t->city->directory), text[32];
    *share = 1;
    bool ok = path;
    if (ok && !t->run->uses) {
        snprintf(text, sizeof text, "%.9g", mae);
        ok = cb_file_write(path, text, strlen(text));
    } else if (ok) {
        size_t length;
        char *read = cb_file_read(path, sizeof text, &length);
        *share = read ? mae / strtod(read, NULL) : NAN;
        ok = read;
        cb_free(read);
    }
    cb_free(path);
    return ok;
}

static bool run_city(const cb_run *run, const city *c, cb_outcome *outcome, double *share, int64_t *learned)
{
    town t;
    double items[MOST_BLOCKS], rate = 0;
    cb_forecast_result r = {0};
    bool ok = town_open(&t, run, c);
    char *path = ok ? forecaster(&t) : NULL;
    ok = path && choose_rate(&t, path, &rate) &&
         stream(&t, path, run->validation ? CB_SERIES_VALIDATION : CB_SERIES_TEST, rate, &r, learned);
    if (ok) {
        size_t count = blocks_of(&r, c->block, items);
        ok = cb_outcome_items(outcome, c->name, items, count) && share_of_frozen(&t, r.all.mae, share);
    }
    cb_forecast_result_free(&r);
    cb_free(path);
    town_close(&t);
    return ok;
}

static bool prepare(const cb_run *run)
{
    (void)run;
    return true;
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    double sum = 0, share;
    int64_t learned = 0, most = 0;
    for (int i = 0; i < CITIES; i++) {
        if (!run_city(run, &cities[i], outcome, &share, &learned))
            return false;
        sum += share;
        most = learned > most ? learned : most;
    }
    cb_outcome_parameters(outcome, most);
    return cb_outcome_value(outcome, "error", 100 * sum / CITIES);
}

static const char *const data[] = {"traffic", NULL};

const cb_experiment experiment_adcsd = {
    .name = "adcsd",
    .system = 14,
    .title = "ADCSD: a correction that learns while a traffic forecaster is used",
    .claim = "A frozen traffic forecaster does worse as traffic drifts away from what it was trained on. A small network behind its "
             "output, with one "
             "step on each window whose targets have come to be, lowers its errors, by more than as many steps on all of its weights.",
    .setting = "A GRU with one graph convolution (hidden size 32, 12,500 numbers), trained with Huber's loss; Los Angeles: "
               "speeds of 207 sensors, 7 "
               "days in steps of 5 minutes, 12 steps from 12, trained on 50 %, the last 40 % foretold; New York: taxis and rented "
               "bicycles, 60 days in half "
               "hours, 200 cells, 6 from 6, the last 20 %. MAE over all steps ahead, of cells' counts those of 10 and more. Rates 1e-4 or "
               "1e-3, by the 10 % "
               "before the test part.",
    .data = data,
    .seeds = 5,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
