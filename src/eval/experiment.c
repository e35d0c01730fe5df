/* experiment.c: the declaration of an experiment, and one run of it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/evidence.h"
#include "core/json.h"

/* ---- the declaration ---- */

const cb_measure *cb_experiment_measure(const cb_experiment *experiment, const char *name)
{
    for (const cb_measure *m = experiment->measures; m->name; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    cb_fail(CB_ERR_ARGUMENT, "%s: there is no measure named %s", experiment->name, name);
    return NULL;
}

const cb_arm *cb_experiment_arm(const cb_experiment *experiment, const char *name)
{
    for (const cb_arm *a = experiment->arms; a->name; a++)
        if (strcmp(a->name, name) == 0)
            return a;
    cb_fail(CB_ERR_ARGUMENT, "%s: there is no arm named %s", experiment->name, name);
    return NULL;
}

bool cb_experiment_check(const cb_experiment *experiment)
{
    const cb_experiment *e = experiment;
    if (!e->measures->name || !e->arms->name || e->seeds < 3)
        return cb_fail(CB_ERR_ARGUMENT, "%s: expected measures, arms and at least 3 seeds", e->name) == CB_OK;
    for (const cb_arm *a = e->arms; a->name; a++) {
        const cb_arm *used = a->uses ? cb_experiment_arm(e, a->uses) : NULL;
        if (used && used >= a)
            cb_fail(CB_ERR_ARGUMENT, "%s: %s goes on from %s, which comes after it", e->name, a->name, a->uses);
        if (cb_experiment_arm(e, a->name) != a)
            cb_fail(CB_ERR_ARGUMENT, "%s: two arms are named %s", e->name, a->name);
    }
    for (const cb_comparison *c = e->comparisons; c->text; c++)
        if (cb_experiment_measure(e, c->measure) && cb_experiment_arm(e, c->arm))
            cb_experiment_arm(e, c->against);
    return cb_ok();
}

/* ---- data ---- */

static char *data_directory(void)
{
    const char *given = getenv("CAMBIUM_DATA"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given && *given)
        return cb_strdup(given);
    return cache && *cache ? cb_format("%s/cambium/data", cache) : cb_format("%s/.cache/cambium/data", home ? home : "");
}

char *cb_experiment_data(const char *const *sets)
{
    char *directory = data_directory();
    for (const char *const *name = sets; directory && name && *name; name++) {
        char *path = cb_path_join(directory, *name);
        bool there = path && cb_is_directory(path);
        if (path && !there)
            cb_fail(CB_ERR_IO, "%s: not found: the data set %s; CAMBIUM_DATA names the directory of data sets", path, *name);
        cb_free(path);
        if (!there) {
            cb_free(directory);
            return NULL;
        }
    }
    return directory;
}

/* ---- one run ---- */

struct cb_outcome {
    const cb_experiment *experiment;
    json_t *measures; /* name: {"value": ..., "items": [...]} */
    int64_t parameters;
    json_t *note; /* NULL: none */
};

char *cb_run_name(const cb_arm *arm, uint64_t seed, double value, bool validation)
{
    cb_string text = {0};
    for (const char *c = arm->name; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '.' || *c == '+';
        if (plain || (text.length && text.data[text.length - 1] != '-'))
            cb_string_append(&text, plain ? c : "-", 1);
    }
    if (validation)
        cb_string_printf(&text, "@tune-%g", value);
    else
        cb_string_printf(&text, "@%llu", (unsigned long long)seed);
    if (cb_ok())
        return text.data;
    cb_string_free(&text);
    return NULL;
}

bool cb_outcome_items(cb_outcome *outcome, const char *measure, const double *items, size_t n)
{
    double sum = 0;
    json_t *list = json_array(), *entry = json_object();
    bool ok = n > 0 && cb_experiment_measure(outcome->experiment, measure);
    for (size_t i = 0; ok && i < n; i++) {
        sum += items[i];
        ok = isfinite(items[i]) && cb_json_add(list, json_real(items[i]));
    }
    ok = ok && cb_json_put(entry, "value", json_real(sum / (double)n)) && cb_json_put(entry, "items", json_incref(list)) &&
         cb_json_put(outcome->measures, measure, json_incref(entry));
    json_decref(list);
    json_decref(entry);
    return ok || cb_fail(CB_ERR_NUMERIC, "%s: %s: the items are none, or no finite numbers", outcome->experiment->name, measure) == CB_OK;
}

bool cb_outcome_value(cb_outcome *outcome, const char *measure, double value)
{
    if (!isfinite(value))
        return cb_fail(CB_ERR_NUMERIC, "%s: %s: found %g", outcome->experiment->name, measure, value) == CB_OK;
    json_t *entry = json_object();
    bool ok = cb_experiment_measure(outcome->experiment, measure) && cb_json_put(entry, "value", json_real(value)) &&
              cb_json_put(outcome->measures, measure, json_incref(entry));
    json_decref(entry);
    return ok;
}

void cb_outcome_parameters(cb_outcome *outcome, int64_t trained)
{
    outcome->parameters = trained;
}

bool cb_outcome_note(cb_outcome *outcome, const char *json)
{
    json_decref(outcome->note);
    return (outcome->note = cb_json_parse("the note of a run", json, strlen(json)));
}

static bool write_record(const cb_run *run, const cb_outcome *outcome, double seconds, const char *path)
{
    json_t *record = json_object();
    bool ok =
        cb_json_put(record, "experiment", json_string(run->experiment->name)) && cb_json_put(record, "arm", json_string(run->arm->name)) &&
        cb_json_put(record, "seed", json_integer((json_int_t)run->seed)) && cb_json_put(record, "value", json_real(run->value)) &&
        cb_json_put(record, "validation", json_boolean(run->validation)) && cb_json_put(record, "quick", json_boolean(run->quick)) &&
        cb_json_put(record, "program", json_string(CB_VERSION)) && cb_json_put(record, "parameters", json_integer(outcome->parameters)) &&
        cb_json_put(record, "seconds", json_real(seconds)) && cb_json_put(record, "peak_memory", json_integer((json_int_t)cb_peak_rss())) &&
        cb_json_put(record, "threads", json_integer(cb_threads())) && cb_json_put(record, "measures", json_incref(outcome->measures)) &&
        (!outcome->note || cb_json_put(record, "note", json_incref(outcome->note))) && cb_json_save(path, record, false);
    json_decref(record);
    return ok;
}

bool cb_run_carry_out(const cb_run *run, const char *record)
{
    cb_outcome outcome = {.experiment = run->experiment, .measures = json_object()};
    double begin = cb_now();
    bool ok = outcome.measures && run->experiment->run(run, &outcome);
    const char *first = run->experiment->measures->name;
    if (ok && !json_object_get(outcome.measures, first))
        ok = cb_fail(CB_ERR_STATE, "%s: %s: the run gives no %s", run->experiment->name, run->arm->name, first) == CB_OK;
    ok = ok && write_record(run, &outcome, cb_now() - begin, record);
    json_decref(outcome.measures);
    json_decref(outcome.note);
    return ok && cb_ok();
}
