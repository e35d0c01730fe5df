/* repro.c: `cambium repro`: runs an experiment and prints what it says.
 *
 * Every run is a process of its own, started by this program with --arm: so its memory is its own, a crash costs one run, and several run
 * at once.  What is done is found again in the work directory. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "experiments/experiments.h"

typedef struct settings {
    int64_t seeds, jobs;
    bool quick, fresh, list;
    char *work, *output, *from;
    char *arm; /* one run */
    int64_t seed;
    double value;
    bool validation;
} settings;

static const cb_option table[] = {
    CB_OPT_BOOL(settings, list, false, "list the experiments"),
    CB_OPT_INT(settings, seeds, 0, 0, 1000, "how many; 0: as many as the committed result has"),
    CB_OPT_BOOL(settings, quick, false, "a smoke run of seconds, with made-up data where there is none; its figures mean nothing"),
    CB_OPT_INT(settings, jobs, 1, 1, 1024, "runs at a time; each computes with its share of the threads"),
    CB_OPT_STRING(settings, work, NULL, "DIR", "where runs and their records are kept; without it cambium/repro in the user's cache"),
    CB_OPT_BOOL(settings, fresh, false, "forget the records of earlier runs"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "write the result here: NAME.json, NAME.md, pictures as PNG and SVG"),
    CB_OPT_STRING(settings, from, NULL, "FILE", "print a result that was written earlier; nothing is run"),
    CB_OPT_END};
static const cb_option run_table[] = {
    CB_OPT_STRING(settings, arm, NULL, "NAME", "only one run of this arm: its record is written, nothing else"),
    CB_OPT_INT(settings, seed, 1, 0, 1e9, "of that run"), CB_OPT_FLOAT(settings, value, 0, 0, 1e9, "of the arm's grid"),
    CB_OPT_BOOL(settings, validation, false, "judged by the validation part"), CB_OPT_END};
static const cli_group groups[] = {{"Experiment", table, 0}, {"A single run", run_table, 0}, {0}};

/* ---- where things lie ---- */

typedef struct place {
    const cb_experiment *experiment;
    const settings *settings;
    char *data;    /* NULL: made up */
    char *records; /* WORK/NAME or WORK/NAME-quick */
    char *shared;  /* in it */
} place;

static char *default_work(void)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    return cache && *cache ? cb_format("%s/cambium/repro", cache) : cb_format("%s/.cache/cambium/repro", home ? home : "");
}

static bool find_place(place *p, const cb_experiment *e, const settings *s)
{
    *p = (place){.experiment = e, .settings = s};
    char *work = s->work ? cb_strdup(s->work) : default_work();
    p->records = work ? cb_format("%s/%s%s", work, e->name, s->quick ? "-quick" : "") : NULL;
    p->shared = p->records ? cb_path_join(p->records, "shared") : NULL;
    cb_free(work);
    bool ok = p->shared && cb_directory_make(p->shared);
    p->data = ok ? cb_experiment_data(e->data) : NULL;
    if (ok && !p->data && s->quick)
        cb_error_clear();
    return ok && cb_ok();
}

static void free_place(place *p)
{
    cb_free(p->data);
    cb_free(p->records);
    cb_free(p->shared);
}

/* ---- one run ---- */

/* The run's directory below the records, made; free with cb_free(). */
static char *run_directory(const place *p, const cb_arm *arm, uint64_t seed, double value, bool validation)
{
    char *name = cb_run_name(arm, seed, value, validation), *path = name ? cb_path_join(p->records, name) : NULL;
    cb_free(name);
    if (path && cb_directory_make(path))
        return path;
    cb_free(path);
    return NULL;
}

static bool carry_out(const place *p, const cb_arm *arm)
{
    const settings *s = p->settings;
    cb_run run = {.experiment = p->experiment,
                  .arm = arm,
                  .seed = (uint64_t)s->seed,
                  .value = s->value,
                  .validation = s->validation,
                  .quick = s->quick,
                  .data = p->data,
                  .shared = p->shared};
    char *directory = run_directory(p, arm, run.seed, run.value, run.validation), *uses = NULL;
    const cb_arm *used = directory && arm->uses ? cb_experiment_arm(p->experiment, arm->uses) : NULL;
    if (used)
        uses = run_directory(p, used, run.seed, 0, false);
    run.directory = directory;
    run.uses = uses;
    char *record = directory && cb_ok() ? cb_format("%s.json", directory) : NULL;
    bool ok = record && cb_run_carry_out(&run, record);
    cb_free(record);
    cb_free(directory);
    cb_free(uses);
    return ok;
}

/* What all runs share; a file says that it is whole. */
static bool prepare(const place *p)
{
    char *mark = cb_path_join(p->shared, "prepared");
    bool ok = mark;
    if (ok && !cb_is_file(mark)) {
        cb_run run = {
            .experiment = p->experiment, .quick = p->settings->quick, .data = p->data, .shared = p->shared, .directory = p->shared};
        ok = (!p->experiment->prepare || p->experiment->prepare(&run)) && cb_ok() && cb_file_write(mark, "", 0);
    }
    cb_free(mark);
    return ok;
}

/* ---- all of them ---- */

typedef enum job_state { JOB_WAITING, JOB_RUNNING, JOB_DONE } job_state;

typedef struct job {
    const cb_arm *arm;
    uint64_t seed;
    double value; /* while tuning; otherwise known when the arm is tuned */
    bool validation;
    job_state state;
    pid_t process;
    double begin;
} job;

typedef struct plan {
    place *place;
    job *jobs;
    size_t count, capacity, done, made;
    double begin;
} plan;

static bool add_job(plan *p, const cb_arm *arm, uint64_t seed, double value, bool validation)
{
    if (!cb_grow(&p->jobs, &p->capacity, p->count + 1, sizeof *p->jobs))
        return false;
    p->jobs[p->count++] = (job){.arm = arm, .seed = seed, .value = value, .validation = validation};
    return true;
}

/* Whether an arm's tuning needs this one with seed 0. */
static bool used_in_tuning(const cb_experiment *e, const cb_arm *arm)
{
    for (const cb_arm *a = e->arms; a->name; a++)
        if (a->uses && strcmp(a->uses, arm->name) == 0 && (a->grid || used_in_tuning(e, a)))
            return true;
    return false;
}

static bool make_plan(plan *p, int seeds)
{
    const cb_experiment *e = p->place->experiment;
    for (const cb_arm *a = e->arms; a->name; a++) {
        for (const double *g = a->grid; g && *g != 0; g++)
            if (!p->place->settings->quick || g == a->grid)
                add_job(p, a, 0, *g, true);
        for (int seed = used_in_tuning(e, a) ? 0 : 1; seed <= seeds; seed++)
            add_job(p, a, (uint64_t)seed, 0, false);
    }
    return cb_ok();
}

static bool arm_has(const plan *p, const cb_arm *arm, bool validation, uint64_t seed)
{
    for (size_t i = 0; i < p->count; i++) {
        const job *j = &p->jobs[i];
        if (j->arm == arm && j->validation == validation && (validation || j->seed == seed) && j->state != JOB_DONE)
            return false;
    }
    return true;
}

/* Whether all that the job builds on is there. */
static bool ready(const plan *p, const job *j)
{
    const cb_arm *used = j->arm->uses ? cb_experiment_arm(p->place->experiment, j->arm->uses) : NULL;
    return (j->validation || arm_has(p, j->arm, true, 0)) && (!used || arm_has(p, used, false, j->seed));
}

static char *record_path(const plan *p, const job *j)
{
    char *name = cb_run_name(j->arm, j->seed, j->value, j->validation),
         *path = name ? cb_format("%s/%s.json", p->place->records, name) : NULL;
    cb_free(name);
    return path;
}

/* In the child: this program with the run's options, its output in a log beside the record. */
static void become(const plan *p, const job *j, const char *log)
{
    const settings *s = p->place->settings;
    char seed[32], value[40], threads[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)j->seed);
    snprintf(value, sizeof value, "%.17g", j->value);
    snprintf(threads, sizeof threads, "%d", (int)(cb_threads() / s->jobs > 0 ? cb_threads() / s->jobs : 1));
    const char *words[20] = {
        CLI_PROGRAM, "repro",  p->place->experiment->name, "--arm", j->arm->name, "--seed", seed, "--value", value, "--threads",
        threads,     "--quiet"};
    int n = 12;
    if (j->validation)
        words[n++] = "--validation";
    if (s->quick)
        words[n++] = "--quick";
    if (s->work) {
        words[n++] = "--work";
        words[n++] = s->work;
    }
    int file = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    dup2(file, STDOUT_FILENO);
    dup2(file, STDERR_FILENO);
    execv("/proc/self/exe", (char *const *)(uintptr_t)words);
    _exit(127);
}

static bool start(plan *p, job *j)
{
    if (!j->validation && !cb_evidence_tuned(p->place->experiment, j->arm, p->place->records, p->place->settings->quick, &j->value))
        return false;
    char *record = record_path(p, j), *log = record ? cb_format("%.*s.log", (int)(strlen(record) - 5), record) : NULL;
    bool ok = log;
    if (ok && cb_is_file(record)) {
        j->state = JOB_DONE;
        p->done++;
    } else if (ok) {
        j->begin = cb_now();
        j->process = fork();
        if (j->process == 0)
            become(p, j, log);
        ok = j->process > 0 || cb_fail(CB_ERR_IO, "no process can be started: %s", strerror(errno)) == CB_OK;
        j->state = JOB_RUNNING;
    }
    cb_free(record);
    cb_free(log);
    return ok;
}

/* The failed run's last line. */
static bool blame(const plan *p, const job *j)
{
    char *record = record_path(p, j), *log = record ? cb_format("%.*s.log", (int)(strlen(record) - 5), record) : NULL;
    size_t length;
    char *text = log ? cb_file_read(log, 1 << 20, &length) : NULL;
    if (text) {
        while (length > 0 && text[length - 1] == '\n')
            text[--length] = '\0';
        char *line = strrchr(text, '\n');
        cb_fail(CB_ERR_STATE, "%s, seed %llu: the run failed: %s (%s)", j->arm->name, (unsigned long long)j->seed, line ? line + 1 : text,
                log);
    }
    cb_free(text);
    cb_free(log);
    cb_free(record);
    return false;
}

static bool collect(plan *p)
{
    int status;
    pid_t process = waitpid(-1, &status, 0);
    for (size_t i = 0; i < p->count; i++) {
        job *j = &p->jobs[i];
        if (j->state != JOB_RUNNING || j->process != process)
            continue;
        j->state = JOB_DONE;
        p->done++;
        p->made++;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            return !cb_interrupted() ? blame(p, j) : false;
    }
    return process > 0 || errno == EINTR;
}

static void report(const plan *p, const cli_call *call)
{
    if (call->common.quiet)
        return;
    double left = p->made ? (cb_now() - p->begin) / (double)p->made * (double)(p->count - p->done) : 0;
    const char *name = "";
    for (size_t i = 0; i < p->count; i++)
        name = p->jobs[i].state == JOB_RUNNING ? p->jobs[i].arm->name : name;
    cli_status("run %zu of %zu  %s%s%s", p->done + 1 < p->count ? p->done + 1 : p->count, p->count, name, p->made ? "  left " : "",
               p->made ? cli_seconds(left) : "");
}

static bool run_plan(plan *p, const cli_call *call)
{
    int64_t running = 0;
    bool ok = true;
    p->begin = cb_now();
    while (ok && p->done < p->count && !cb_interrupted()) {
        bool found = false;
        for (size_t i = 0; ok && i < p->count && running < p->place->settings->jobs; i++)
            if (p->jobs[i].state == JOB_WAITING && ready(p, &p->jobs[i])) {
                ok = start(p, &p->jobs[i]);
                running += p->jobs[i].state == JOB_RUNNING;
                found = true;
            }
        report(p, call);
        if (ok && running > 0) {
            ok = collect(p);
            running--;
        } else if (ok && !found && p->done < p->count) {
            ok = cb_fail(CB_ERR_STATE, "%s: runs wait for each other", p->place->experiment->name) == CB_OK;
        }
    }
    for (size_t i = 0; i < p->count && cb_interrupted(); i++) /* the terminal tells all, others this process alone */
        if (p->jobs[i].state == JOB_RUNNING)
            kill(p->jobs[i].process, SIGTERM);
    for (size_t i = 0; i < p->count; i++)
        if (p->jobs[i].state == JOB_RUNNING && waitpid(p->jobs[i].process, NULL, 0) < 0)
            break;
    cli_status_clear();
    if (cb_interrupted())
        cb_fail(CB_ERR_INTERRUPTED, "interrupted; the same command goes on from here");
    return ok && cb_ok();
}

/* ---- the result ---- */

static bool write_result(const settings *s, const char *name, const char *json, const char *table_text)
{
    char *file = cb_format("%s/%s.json", s->output, name), *page = file ? cb_format("%s/%s.md", s->output, name) : NULL;
    bool ok = page && cb_directory_make(s->output) && cb_file_write(file, json, strlen(json)) &&
              cb_file_write(page, table_text, strlen(table_text)) && cb_evidence_plots(file, json, s->output);
    cb_free(file);
    cb_free(page);
    return ok;
}

static bool show(cli_call *call, const settings *s, const char *what, const char *name, const char *json)
{
    char *text = cb_evidence_table(what, json);
    bool ok = text && (!s->output || write_result(s, name, json, text));
    if (ok && call->common.json)
        ok = cli_json(json_loads(json, 0, NULL));
    else if (ok)
        fputs(text, stdout);
    cb_free(text);
    return ok;
}

static void forget(const char *records)
{
    cb_string_list names = {0};
    if (cb_directory_list(records, false, &names))
        for (size_t i = 0; i < names.count; i++) {
            char *path = cb_ends_with(names.items[i], ".json") ? cb_path_join(records, names.items[i]) : NULL;
            if (path)
                cb_file_remove(path);
            cb_free(path);
        }
    char *mark = cb_format("%s/shared/prepared", records);
    if (mark)
        cb_file_remove(mark);
    cb_free(mark);
    cb_string_list_free(&names);
}

static bool reproduce(cli_call *call, const settings *s, place *where)
{
    const cb_experiment *e = where->experiment;
    int seeds = s->seeds ? (int)s->seeds : s->quick ? 1 : e->seeds;
    plan p = {.place = where};
    if (s->fresh)
        forget(where->records);
    bool ok = cb_experiment_check(e) && prepare(where) && make_plan(&p, seeds) && run_plan(&p, call);
    char *command = ok ? cb_format(CLI_PROGRAM " repro %s --seeds %d%s", e->name, seeds, s->quick ? " --quick" : "") : NULL;
    char *json = command ? cb_evidence_result(e, where->records, seeds, s->quick, command) : NULL;
    ok = json && show(call, s, e->name, e->name, json);
    cb_free(json);
    cb_free(command);
    cb_free(p.jobs);
    return ok;
}

static bool print_list(const cli_call *call)
{
    cli_table t = {.columns = 3, .right = "rll"};
    json_t *list = json_array();
    for (const cb_experiment *const *e = cb_experiments(); *e; e++) {
        json_array_append_new(list, json_pack("{s:s, s:i, s:s}", "name", (*e)->name, "system", (*e)->system, "title", (*e)->title));
        if ((*e)->system)
            cli_table_add(&t, "%d", (*e)->system);
        else
            cli_table_add(&t, "%s", "");
        cli_table_add(&t, "%s", (*e)->name);
        cli_table_add(&t, "%s", (*e)->title);
    }
    if (call->common.json) {
        cb_string_list_free(&t.cells);
        return cli_json(json_pack("{s:o}", "experiments", list));
    }
    json_decref(list);
    cli_table_print(&t);
    return cb_ok();
}

static bool print_from(cli_call *call, const settings *s)
{
    size_t length;
    char *json = cb_file_read(s->from, 1 << 26, &length), *name = json ? cb_strdup(cb_path_base(s->from)) : NULL;
    if (name && cb_ends_with(name, ".json"))
        name[strlen(name) - 5] = '\0';
    bool ok = name && show(call, s, s->from, name, json);
    cb_free(name);
    cb_free(json);
    return ok;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    if (s->list)
        return print_list(call);
    if (s->from)
        return print_from(call, s);
    if (!call->argument_count)
        return cli_usage(call, "NAME: expected an experiment; --list names them");
    const cb_experiment *e = cb_experiment_find(call->arguments[0]);
    place where = {0};
    bool ok = e && find_place(&where, e, s);
    if (ok && s->arm) {
        const cb_arm *arm = cb_experiment_arm(e, s->arm);
        ok = arm && prepare(&where) && carry_out(&where, arm);
    } else if (ok) {
        ok = reproduce(call, s, &where);
    }
    free_place(&where);
    return ok;
}

const cli_command cli_repro = {
    .name = "repro",
    .summary = "run a published system's experiment and print its table",
    .synopsis = "NAME [options]",
    .description =
        "Runs the arms of an experiment with several seeds (tuning them on the validation part first), and prints a table of them, with "
        "each "
        "claim's difference, its 95 % interval and a verdict beside the paper's own figure.  Runs that are done are not repeated: after an "
        "interruption the same command goes on.  CAMBIUM_DATA names the directory of data sets.  NAME: of an experiment, or a system's "
        "number.",
    .least = 0,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .examples =
        (const char *const[]){"cambium repro --list", "cambium repro dylora --quick", "cambium repro lora-lego --jobs 2 --output results",
                              "cambium repro --from experiments/results/dylora.json", NULL},
    .run = run};
