/* plan.c: what --dry-run prints: the memory and disk that the work will take; of a training run also what it will do, and how long.
 *
 * The command runs as a rehearsal (core.h), so memory and files are those of the very code that will do the work. */
#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/cli.h"
#include "kernels/kernels.h"

/* ---- memory and disk ---- */

/* Bytes that the system could give to new work; 0 where it does not say. */
static uint64_t available_memory(void)
{
    unsigned long long kilobytes = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    if (f)
        fclose(f);
    return (uint64_t)kilobytes * 1024;
}

typedef struct disk {
    uint64_t written; /* the files together */
    uint64_t needed;  /* on the way, at most */
    uint64_t free;
} disk;

static bool measure_disk(const char *output, uint64_t needed, disk *d)
{
    uint64_t bytes;
    *d = (disk){.needed = needed};
    for (size_t i = 0; i < cb_rehearsal_outputs(); i++) {
        cb_rehearsal_output_at(i, &bytes);
        d->written += bytes;
    }
    char *above = cli_existing_above(output);
    struct statvfs s;
    bool ok = above && (statvfs(above, &s) == 0 || cb_fail(CB_ERR_IO, "%s: the file system does not say how much is free", above) == CB_OK);
    cb_free(above);
    if (!ok)
        return false;
    d->free = (uint64_t)s.f_bavail * s.f_frsize;
    if (d->needed <= d->free)
        return true;
    return cb_fail(CB_ERR_IO, "%s: %s are free there, expected %s for what will be written", output, cli_bytes(d->free),
                   cli_bytes(d->needed)) == CB_OK;
}

static json_t *memory_needs(const cb_rehearsal_sums *m)
{
    return json_pack("{s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "memory", "peak", (json_int_t)m->peak, "process", (json_int_t)m->resident,
                     "blocks", (json_int_t)m->blocks, "files", (json_int_t)m->files, "libraries", (json_int_t)m->libraries, "available",
                     (json_int_t)available_memory());
}

/* What the rehearsal that is on has found out: {"memory": ..., "disk": ...}, without an output only the former.  NULL on failure; too
 * little room at `output` is one. */
static json_t *needs_of(const char *output)
{
    cb_rehearsal_sums m = cb_rehearsal();
    disk d;
    json_t *needs = memory_needs(&m);
    if (!output || !needs)
        return needs;
    if (!measure_disk(output, m.disk, &d)) {
        json_decref(needs);
        return NULL;
    }
    json_t *files = json_array();
    for (size_t i = 0; i < cb_rehearsal_outputs(); i++) {
        uint64_t bytes;
        const char *path = cb_rehearsal_output_at(i, &bytes);
        json_array_append_new(files, json_pack("{s:s, s:I}", "path", path, "bytes", (json_int_t)bytes));
    }
    json_object_set_new(needs, "disk",
                        json_pack("{s:I, s:I, s:I, s:o}", "written", (json_int_t)d.written, "needed", (json_int_t)d.needed, "free",
                                  (json_int_t)d.free, "files", files));
    return needs;
}

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

void cli_print_needs(const json_t *needs)
{
    const json_t *memory = json_object_get(needs, "memory"), *disk_needs = json_object_get(needs, "disk"), *file;
    uint64_t peak = number(memory, "peak"), available = number(memory, "available");
    size_t i;
    cli_field("peak memory", "%s (this process now %s, blocks of memory %s, mapped files %s, libraries %s)", cli_bytes(peak),
              cli_bytes(number(memory, "process")), cli_bytes(number(memory, "blocks")), cli_bytes(number(memory, "files")),
              cli_bytes(number(memory, "libraries")));
    if (available)
        cli_field("memory available", "%s", cli_bytes(available));
    if (available && peak > available + number(memory, "process"))
        cb_log_message(CB_LOG_WARNING, "%s of memory are available, less than the predicted %s", cli_bytes(available), cli_bytes(peak));
    if (!disk_needs)
        return;
    cli_field("disk", "%s, at most %s on the way; %s are free", cli_bytes(number(disk_needs, "written")),
              cli_bytes(number(disk_needs, "needed")), cli_bytes(number(disk_needs, "free")));
    json_array_foreach(json_object_get(disk_needs, "files"), i, file)
    {
        cli_field(i ? "" : "to be written", "%s (%s)", json_string_value(json_object_get(file, "path")), cli_bytes(number(file, "bytes")));
    }
}

/* Removes the directories that a dry run made on the way to `output`; `kept` is the nearest one that was there before. */
static void remove_made(const char *output, const char *kept)
{
    char *at = cb_strdup(output);
    while (at && kept && strcmp(at, kept) != 0 && (rmdir(at) == 0 || errno == ENOENT)) {
        char *up = cb_path_parent(at);
        cb_free(at);
        at = up;
    }
    cb_free(at);
}

/* ---- any work ---- */

bool cli_rehearsal_begin(cli_rehearsal *r, const char *output)
{
    *r = (cli_rehearsal){.output = output, .above = output ? cli_existing_above(output) : NULL};
    if (output && !r->above)
        return false;
    if (!cb_rehearsing())
        cb_rehearsal_begin();
    return true;
}

json_t *cli_rehearsal_end(cli_rehearsal *r, bool ok)
{
    json_t *needs = ok ? needs_of(r->output) : NULL;
    cb_rehearsal_end();
    if (r->output && r->above)
        remove_made(r->output, r->above);
    cb_free(r->above);
    return needs;
}

bool cli_plan(cli_call *call, cli_rehearsal *r, bool ok)
{
    json_t *needs = cli_rehearsal_end(r, ok);
    if (!needs)
        return false;
    if (call->common.json) {
        json_t *line = json_pack("{s:s, s:s*}", "event", "plan", "output", r->output);
        json_object_update(line, needs);
        json_decref(needs);
        return cli_json(line);
    }
    cli_print_needs(needs);
    json_decref(needs);
    return true;
}

/* ---- training ---- */

/* Goes through validation and training as cli_train_run() does. */
static bool rehearse(const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *o, cb_train_result *result)
{
    cb_evaluation before = {0};
    bool judged = !corpus->validation || cb_train_evaluate(what, corpus->validation, o->batch_size, o->eval_batches, &before);
    cb_predictions_free(&before.predictions);
    return judged && cb_train(what, corpus->train, corpus->validation, o, NULL, NULL, result);
}

uint64_t cli_train_predict(const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *o)
{
    cb_train_result result;
    cli_rehearsal r;
    json_t *needs = cli_rehearsal_end(&r, cli_rehearsal_begin(&r, o->output) && rehearse(what, corpus, o, &result));
    uint64_t peak = number(json_object_get(needs, "memory"), "peak");
    json_decref(needs);
    return peak;
}

typedef struct plan {
    int64_t rows, tokens, steps, step_tokens, parameters, model_parameters;
    double epochs, operations, rate, seconds; /* operations of a step; rate in GF/s; seconds of all steps' products, 0: not known */
} plan;

static void fill_plan(plan *p, const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *o, const cb_train_result *r)
{
    int64_t step_rows = o->batch_size * o->gradient_accumulation_steps, done = r->steps ? r->steps : 1;
    double rows = (double)cb_dataset_rows(corpus->train) * o->epochs;
    p->rows = cb_dataset_rows(corpus->train);
    p->tokens = cb_dataset_tokens(corpus->train);
    p->steps = o->steps ? o->steps : (int64_t)((rows + (double)step_rows - 1) / (double)step_rows);
    p->steps = p->steps < 1 ? 1 : p->steps;
    p->epochs = p->rows ? (double)p->steps * (double)step_rows / (double)p->rows : 0;
    p->step_tokens = r->tokens / done;
    p->parameters = r->parameters;
    p->model_parameters = cb_model_parameter_count(what->model);
    p->operations = r->step_operations;
}

/* How long the matrix products will take, by the rate of one of the model's width. */
static void fill_time(plan *p, const cb_model *model)
{
    enum { ROWS = 512 };
    const double measuring = 0.1;
    p->rate = cbk_gemm_rate(cb_model_dtype(model), false, true, ROWS, 2 * cb_model_width(model), cb_model_width(model), measuring);
    p->seconds = p->rate > 0 ? (double)p->steps * p->operations / (p->rate * 1e9) : 0;
}

static bool print_json(const plan *p, const cb_train_options *o, json_t *needs)
{
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:o, s:o, s:o}", "event", "plan", "output", o->output, "rows",
                             (json_int_t)p->rows, "tokens", (json_int_t)p->tokens, "steps", (json_int_t)p->steps, "epochs",
                             cli_real(p->epochs), "tokens_per_step", (json_int_t)p->step_tokens, "parameters", (json_int_t)p->parameters,
                             "model_parameters", (json_int_t)p->model_parameters, "operations_per_step", cli_real(p->operations),
                             "product_rate", cli_real(p->rate), "seconds_at_least", cli_real(p->seconds));
    if (line)
        json_object_update(line, needs);
    json_decref(needs);
    return cli_json(line);
}

static void print_plan(const plan *p)
{
    cli_field("parameters trained", "%s of the model's %s", cli_thousands(p->parameters), cli_thousands(p->model_parameters));
    cli_field("data", "%s rows, %s tokens", cli_thousands(p->rows), cli_thousands(p->tokens));
    cli_field("steps", "%s of %s tokens, %.4g epochs", cli_thousands(p->steps), cli_thousands(p->step_tokens), p->epochs);
    if (p->seconds > 0)
        cli_field("time", "%s at least: the matrix products alone, at the %.0f GF/s measured now", cli_seconds(p->seconds), p->rate);
}

bool cli_train_plan(cli_call *call, const cb_trainee *what, const cli_corpus *corpus, const cb_train_options *o)
{
    cb_train_result result = {0};
    plan p = {0};
    cli_rehearsal r;
    json_t *needs = cli_rehearsal_end(&r, cli_rehearsal_begin(&r, o->output) && rehearse(what, corpus, o, &result));
    if (!needs)
        return false;
    fill_plan(&p, what, corpus, o, &result);
    fill_time(&p, what->model);
    if (call->common.json)
        return print_json(&p, o, needs);
    print_plan(&p);
    cli_print_needs(needs);
    json_decref(needs);
    return true;
}
