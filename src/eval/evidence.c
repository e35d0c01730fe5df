/* evidence.c: what the records of an experiment's runs say: means, intervals, verdicts. */
#include "cambium/evidence.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "cambium/statistics.h"
#include "core/json.h"

/* ---- records ---- */

/* A name says which run it should be: another's record, or one of a value that was tuned otherwise, would count for it. */
static bool check_record(const char *file, const json_t *record, const cb_arm *arm, uint64_t seed, double value, bool validation)
{
    const char *name = json_string_value(json_object_get(record, "arm"));
    if (!name || strcmp(name, arm->name) != 0 || json_integer_value(json_object_get(record, "seed")) != (json_int_t)seed ||
        json_number_value(json_object_get(record, "value")) != value || json_is_true(json_object_get(record, "validation")) != validation)
        return cb_fail(CB_ERR_STATE, "%s: is no record of %s with seed %llu and value %g; --fresh forgets the records", file, arm->name,
                       (unsigned long long)seed, value) == CB_OK;
    const char *measure;
    json_t *entry, *item;
    json_object_foreach(json_object_get(record, "measures"), measure, entry)
    {
        size_t i;
        bool numbers = json_is_number(json_object_get(entry, "value"));
        json_array_foreach(json_object_get(entry, "items"), i, item) numbers = numbers && json_is_number(item);
        if (!numbers)
            return cb_fail(CB_ERR_FORMAT, "%s: measures: %.100s: expected numbers", file, measure) == CB_OK;
    }
    return true;
}

static json_t *load_record(const cb_arm *arm, const char *records, uint64_t seed, double value, bool validation)
{
    char *name = cb_run_name(arm, seed, value, validation), *file = name ? cb_format("%s/%s.json", records, name) : NULL;
    json_t *record = file ? cb_json_load(file, 0) : NULL;
    if (record && !check_record(file, record, arm, seed, value, validation)) {
        json_decref(record);
        record = NULL;
    }
    cb_free(file);
    cb_free(name);
    return record;
}

/* The number that a run gives; NaN where it gives none. */
static double value_of(const json_t *record, const char *measure)
{
    const json_t *entry = json_object_get(json_object_get(record, "measures"), measure);
    return entry ? json_number_value(json_object_get(entry, "value")) : (double)NAN;
}

static const json_t *items_of(const json_t *record, const char *measure)
{
    return json_object_get(json_object_get(json_object_get(record, "measures"), measure), "items");
}

bool cb_evidence_tuned(const cb_experiment *experiment, const cb_arm *arm, const char *records, bool quick, double *value)
{
    const cb_measure *judge = experiment->measures;
    double best = NAN;
    *value = 0;
    for (const double *g = arm->grid; g && *g != 0 && cb_ok() && !(quick && g > arm->grid); g++) {
        json_t *record = load_record(arm, records, 0, *g, true);
        double score = record ? value_of(record, judge->name) : (double)NAN;
        if (isnan(best) || (judge->lower ? score < best : score > best)) {
            best = score;
            *value = *g;
        }
        json_decref(record);
    }
    return cb_ok();
}

/* ---- an arm ---- */

/* The records of an arm with seeds 1, 2, ... */
typedef struct arm_runs {
    const cb_arm *arm;
    json_t **runs;
    int seeds;
    double value;
} arm_runs;

static bool load_arm(arm_runs *a, const cb_experiment *experiment, const cb_arm *arm, const char *records, int seeds, bool quick)
{
    *a = (arm_runs){.arm = arm, .seeds = seeds, .runs = cb_calloc((size_t)seeds, sizeof *a->runs)};
    bool ok = a->runs && cb_evidence_tuned(experiment, arm, records, quick, &a->value);
    for (int i = 0; ok && i < seeds; i++) {
        a->runs[i] = load_record(arm, records, (uint64_t)i + 1, a->value, false);
        ok = a->runs[i];
        if (ok && json_is_true(json_object_get(a->runs[i], "quick")) != quick)
            ok = cb_fail(CB_ERR_STATE, "%s: %s, seed %d: found the record of a %s run, expected the other kind", records, arm->name, i + 1,
                         quick ? "whole" : "quick") == CB_OK;
    }
    return ok;
}

static void free_arm(arm_runs *a)
{
    for (int i = 0; a->runs && i < a->seeds; i++)
        json_decref(a->runs[i]);
    cb_free(a->runs);
}

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static bool put_interval(json_t *object, cb_interval interval)
{
    return cb_json_put(object, "low", real(interval.low)) && cb_json_put(object, "high", real(interval.high));
}

static double shown(const cb_measure *m, double value)
{
    return value * (m->scale != 0 ? m->scale : 1);
}

/* A measure of an arm, in shown units; NULL without an error: the arm's runs do not give it. */
static json_t *measure_json(const arm_runs *a, const cb_measure *m)
{
    double *values = cb_alloc((size_t)a->seeds * sizeof *values);
    json_t *entry = values ? json_object() : NULL, *seeds = json_array();
    bool ok = entry, given = true;
    cb_summary s = {0};
    for (int i = 0; ok && i < a->seeds; i++) {
        values[i] = shown(m, value_of(a->runs[i], m->name));
        given = given && isfinite(values[i]);
        ok = !given || cb_json_add(seeds, json_real(values[i]));
    }
    if (ok && given)
        ok = cb_summarize(values, (size_t)a->seeds, &s) && cb_json_put(entry, "mean", json_real(s.mean)) &&
             put_interval(entry, cb_t_interval(values, (size_t)a->seeds, 0.95)) && cb_json_put(entry, "seeds", json_incref(seeds));
    json_decref(seeds);
    cb_free(values);
    if (ok && given)
        return entry;
    json_decref(entry);
    return NULL;
}

/* Whether the chosen value is the first or last of several: a better one may lie beyond. */
static bool at_end(const arm_runs *a)
{
    size_t n = 0;
    while (a->arm->grid[n] != 0)
        n++;
    return n > 1 && (a->value == a->arm->grid[0] || a->value == a->arm->grid[n - 1]);
}

/* Those of its runs, by seeds; nothing where they have none. */
static bool put_notes(json_t *object, const arm_runs *a)
{
    json_t *notes = json_array();
    bool ok = notes;
    for (int i = 0; ok && i < a->seeds; i++) {
        json_t *note = json_object_get(a->runs[i], "note");
        ok = !note || cb_json_add(notes, json_incref(note));
    }
    ok = ok && (!json_array_size(notes) || cb_json_put(object, "notes", json_incref(notes)));
    json_decref(notes);
    return ok;
}

static json_t *arm_json(const cb_experiment *experiment, const arm_runs *a)
{
    double seconds = 0, memory = 0;
    for (int i = 0; i < a->seeds; i++) {
        seconds += json_number_value(json_object_get(a->runs[i], "seconds")) / a->seeds;
        memory = fmax(memory, json_number_value(json_object_get(a->runs[i], "peak_memory")));
    }
    json_t *object = json_object(), *measures = json_object();
    bool ok = cb_json_put(object, "name", json_string(a->arm->name)) &&
              cb_json_put(object, "parameters", json_incref(json_object_get(a->runs[0], "parameters"))) &&
              cb_json_put(object, "seconds", json_real(seconds)) && cb_json_put(object, "peak_memory", json_integer((json_int_t)memory));
    if (ok && a->arm->grid)
        ok = cb_json_put(object, "value", json_real(a->value)) && cb_json_put(object, "at_end", json_boolean(at_end(a)));
    for (const cb_measure *m = experiment->measures; ok && m->name; m++) {
        json_t *entry = measure_json(a, m);
        ok = cb_ok() && (!entry || cb_json_put(measures, m->name, entry));
    }
    ok = ok && cb_json_put(object, "measures", json_incref(measures)) && put_notes(object, a);
    json_decref(measures);
    if (!ok)
        json_decref(object);
    return ok ? object : NULL;
}

/* ---- comparisons ---- */

typedef struct difference {
    double estimate;
    cb_interval interval;
    size_t items; /* 0: by seeds alone */
} difference;

/* How many items all runs of both arms have; 0: not all have the same number. */
static size_t common_items(const arm_runs *a, const arm_runs *b, const char *measure)
{
    size_t n = json_array_size(items_of(a->runs[0], measure));
    for (int i = 0; i < a->seeds; i++)
        if (json_array_size(items_of(a->runs[i], measure)) != n || json_array_size(items_of(b->runs[i], measure)) != n)
            return 0;
    return n;
}

/* Seeds by items, in shown units. */
static double *items_table(const arm_runs *a, const cb_measure *m, size_t items)
{
    double *table = cb_alloc((size_t)a->seeds * items * sizeof *table);
    for (int i = 0; table && i < a->seeds; i++)
        for (size_t k = 0; k < items; k++)
            table[(size_t)i * items + k] = shown(m, json_number_value(json_array_get(items_of(a->runs[i], m->name), k)));
    return table;
}

static bool by_items(const arm_runs *a, const arm_runs *b, const cb_measure *m, difference *d)
{
    double *x = items_table(a, m, d->items), *y = items_table(b, m, d->items);
    cb_bootstrap_result r = {0};
    bool ok = x && y &&
              cb_bootstrap_difference(x, y, (size_t)a->seeds, d->items,
                                      &(cb_bootstrap_options){.how = a->seeds > 1 ? CB_RESAMPLE_BOTH : CB_RESAMPLE_ITEMS}, &r);
    d->estimate = r.estimate;
    d->interval = r.percentile;
    cb_free(x);
    cb_free(y);
    return ok;
}

static bool by_seeds(const arm_runs *a, const arm_runs *b, const cb_measure *m, difference *d)
{
    double *x = cb_alloc((size_t)a->seeds * sizeof *x);
    cb_summary s = {0};
    bool ok = x;
    for (int i = 0; ok && i < a->seeds; i++)
        x[i] = shown(m, value_of(a->runs[i], m->name)) - shown(m, value_of(b->runs[i], m->name));
    ok = ok && cb_summarize(x, (size_t)a->seeds, &s);
    d->estimate = s.mean;
    if (ok)
        d->interval = cb_t_interval(x, (size_t)a->seeds, 0.95);
    cb_free(x);
    return ok;
}

/* Turned so that more is better. */
static bool compare(const arm_runs *a, const arm_runs *b, const cb_measure *m, difference *d)
{
    d->items = common_items(a, b, m->name);
    if (!(d->items > 1 ? by_items(a, b, m, d) : by_seeds(a, b, m, d)))
        return false;
    if (m->lower)
        *d = (difference){-d->estimate, {-d->interval.high, -d->interval.low}, d->items};
    return true;
}

static const char *verdict(const difference *d, double margin, int seeds, bool quick)
{
    if (quick || seeds < 3)
        return quick ? "none: a quick run" : "none: fewer than 3 seeds";
    return d->interval.low > margin ? "shown" : d->interval.high < margin ? "opposite" : "not shown";
}

static json_t *comparison_json(const cb_experiment *e, const cb_comparison *c, const arm_runs *arms, bool quick)
{
    const cb_measure *m = cb_experiment_measure(e, c->measure);
    const cb_arm *arm = cb_experiment_arm(e, c->arm), *against = cb_experiment_arm(e, c->against);
    difference d = {0};
    if (!m || !arm || !against || !compare(&arms[arm - e->arms], &arms[against - e->arms], m, &d))
        return NULL;
    json_t *object = json_object();
    bool ok = cb_json_put(object, "claim", json_string(c->text)) && cb_json_put(object, "measure", json_string(m->name)) &&
              cb_json_put(object, "arm", json_string(c->arm)) && cb_json_put(object, "against", json_string(c->against)) &&
              cb_json_put(object, "difference", real(d.estimate)) && put_interval(object, d.interval) &&
              cb_json_put(object, "margin", json_real(c->margin)) && cb_json_put(object, "items", json_integer((json_int_t)d.items)) &&
              cb_json_put(object, "verdict", json_string(verdict(&d, c->margin, arms->seeds, quick))) &&
              cb_json_put(object, "paper", json_string(c->paper ? c->paper : ""));
    if (!ok)
        json_decref(object);
    return ok ? object : NULL;
}

/* ---- the result ---- */

/* The processor's name as the kernel has it. */
static char *processor(void)
{
    char line[512], name[256] = "unknown";
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %255[^\n]", name) == 1)
            break;
    if (f)
        fclose(f);
    return cb_utf8_valid(name, strlen(name), NULL) ? cb_strdup(name) : cb_strdup("unknown");
}

static json_t *machine_json(void)
{
    struct utsname system = {0};
    uname(&system);
    char *name = processor();
    json_t *object = json_object();
    bool ok = name && cb_json_put(object, "processor", json_string(name)) && cb_json_put(object, "threads", json_integer(cb_threads())) &&
              cb_json_put(object, "system", json_sprintf("%s %s", system.sysname, system.machine)) &&
              cb_json_put(object, "compiler", json_string(__VERSION__)) && cb_json_put(object, "cambium", json_string(CB_VERSION));
    cb_free(name);
    if (!ok)
        json_decref(object);
    return ok ? object : NULL;
}

static json_t *measures_json(const cb_experiment *e)
{
    json_t *list = json_array();
    bool ok = true;
    for (const cb_measure *m = e->measures; ok && m->name; m++) {
        json_t *entry = json_object();
        ok = cb_json_add(list, entry) && cb_json_put(entry, "name", json_string(m->name)) &&
             cb_json_put(entry, "unit", json_string(m->unit ? m->unit : "")) && cb_json_put(entry, "digits", json_integer(m->digits)) &&
             cb_json_put(entry, "better", json_string(m->lower ? "lower" : "higher")) &&
             cb_json_put(entry, "aside", json_boolean(m->aside)) &&
             (!m->curve || (cb_json_put(entry, "curve", json_string(m->curve)) && cb_json_put(entry, "x", json_real(m->x))));
    }
    if (!ok)
        json_decref(list);
    return ok ? list : NULL;
}

static bool put_head(json_t *result, const cb_experiment *e, int seeds, bool quick, const char *command)
{
    char date[16] = "";
    time_t now = time(NULL);
    struct tm calendar;
    if (gmtime_r(&now, &calendar))
        strftime(date, sizeof date, "%Y-%m-%d", &calendar);
    return cb_json_put(result, "experiment", json_string(e->name)) && cb_json_put(result, "system", json_integer(e->system)) &&
           cb_json_put(result, "title", json_string(e->title)) && cb_json_put(result, "claim", json_string(e->claim)) &&
           cb_json_put(result, "setting", json_string(e->setting)) && cb_json_put(result, "command", json_string(command)) &&
           cb_json_put(result, "date", json_string(date)) && cb_json_put(result, "quick", json_boolean(quick)) &&
           cb_json_put(result, "seeds", json_integer(seeds)) && cb_json_put(result, "machine", machine_json()) &&
           cb_json_put(result, "measures", measures_json(e));
}

static bool put_arms_and_comparisons(json_t *result, const cb_experiment *e, const arm_runs *runs, bool quick)
{
    json_t *arms = json_array(), *comparisons = json_array();
    bool ok = true;
    for (size_t i = 0; ok && e->arms[i].name; i++)
        ok = cb_json_add(arms, arm_json(e, &runs[i]));
    for (const cb_comparison *c = e->comparisons; ok && c->text; c++)
        ok = cb_json_add(comparisons, comparison_json(e, c, runs, quick));
    ok = ok && cb_json_put(result, "arms", json_incref(arms)) && cb_json_put(result, "comparisons", json_incref(comparisons));
    json_decref(arms);
    json_decref(comparisons);
    return ok;
}

char *cb_evidence_result(const cb_experiment *experiment, const char *records, int seeds, bool quick, const char *command)
{
    size_t count = 0;
    while (experiment->arms[count].name)
        count++;
    arm_runs *runs = cb_calloc(count, sizeof *runs);
    bool ok = runs && cb_experiment_check(experiment);
    for (size_t i = 0; ok && i < count; i++)
        ok = load_arm(&runs[i], experiment, &experiment->arms[i], records, seeds, quick);
    json_t *result = ok ? json_object() : NULL;
    ok = ok && put_head(result, experiment, seeds, quick, command) && put_arms_and_comparisons(result, experiment, runs, quick);
    char *text = ok ? cb_json_dump(result, false) : NULL;
    for (size_t i = 0; runs && i < count; i++)
        free_arm(&runs[i]);
    cb_free(runs);
    json_decref(result);
    return text;
}
